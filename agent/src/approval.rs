//! Which certificate signing requests of kubelets are approved: a pure judgement over the request,
//! the cluster definition and the node's object, and the loop that carries it out.

use crate::api::{Api, ApiError};
use crate::machine::say;
use futures_util::stream::{FuturesUnordered, StreamExt};
use pki::Inspected;
use serde_json::{Value, json};
use spec::cluster::{Cluster, Role};
use std::net::IpAddr;

const SERVING: &str = "kubernetes.io/kubelet-serving";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const NODE_PREFIX: &str = "system:node:";
const BOOTSTRAP_GROUP: &str = "system:bootstrappers";

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Approve,
    /// With the reason, which the requester sees.
    Deny(String),
    /// Not ours, decided already, or a person must decide.
    Leave(String),
}

/// A CertificateSigningRequest as far as the judgement needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub signer: String,
    /// Who asks, as the API server authenticated it.
    pub username: String,
    pub groups: Vec<String>,
    pub usages: Vec<String>,
    pub decided: bool,
    /// The PKCS#10 request, whose own signature is good; or why it cannot be read.
    pub request: Result<Inspected, String>,
}

impl Asked {
    fn is_for_agents(&self) -> bool {
        !self.decided && [SERVING, CLIENT].contains(&self.signer.as_str())
    }
}

/// Reads the fields of the object.
pub fn read(object: &Value) -> Asked {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let list = |pointer: &str| {
        let items = object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(|item| item.as_str().map(Into::into)).collect::<Vec<String>>()
    };
    let request = STANDARD
        .decode(text("/spec/request"))
        .map_err(|error| error.to_string())
        .and_then(|pem| pki::inspect_request(&text("/metadata/name"), &pem).map_err(|error| error.to_string()));
    Asked {
        signer: text("/spec/signerName"),
        username: text("/spec/username"),
        groups: list("/spec/groups"),
        usages: list("/spec/usages"),
        decided: object.pointer("/status/conditions").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
        request,
    }
}

/// Judges a request. `node`: the Node object of the name that the request is for, when there is one.
pub fn judge(asked: &Asked, cluster: &Cluster, node: Option<&Value>) -> Verdict {
    if !asked.is_for_agents() {
        return Verdict::Leave("not for this agent".into());
    }
    let request = match &asked.request {
        Ok(request) => request,
        Err(reason) => return Verdict::Deny(format!("the request cannot be read: {reason}")),
    };
    let Some(name) = request.common_name.strip_prefix(NODE_PREFIX) else {
        return Verdict::Deny(format!("CN {:?}: {NODE_PREFIX}NAME is wanted", request.common_name));
    };
    if request.organizations != ["system:nodes"] {
        return Verdict::Deny(format!("O {:?}: system:nodes alone is wanted", request.organizations));
    }
    if request.is_authority || request.other_names {
        return Verdict::Deny("it asks for more than names and addresses".into());
    }
    let Some(machine) = cluster.machine(name) else {
        return Verdict::Leave(format!("the cluster definition lists no machine {name}"));
    };
    if asked.signer == SERVING {
        judge_serving(asked, request, name, &machine, node)
    } else {
        judge_client(asked, request, name, &machine, node)
    }
}

fn judge_serving(
    asked: &Asked,
    request: &Inspected,
    name: &str,
    machine: &spec::cluster::Machine,
    node: Option<&Value>,
) -> Verdict {
    if asked.username != request.common_name {
        return Verdict::Deny(format!("{} asks for the certificate of {name}", asked.username));
    }
    if let Some(other) = other_usage(asked, "server auth") {
        return Verdict::Deny(format!("usage {other:?} is not for a server"));
    }
    if request.names.is_empty() && request.addresses.is_empty() {
        return Verdict::Deny("it names no name and no address".into());
    }
    let Some(node) = node else { return Verdict::Leave(format!("the node {name} does not exist yet")) };
    let (names, mut addresses) = node_addresses(node);
    addresses.extend(machine.static_address());
    if let Some(found) = request.names.iter().find(|found| *found != name && !names.contains(found)) {
        return Verdict::Deny(format!("the name {found:?} is not the node's"));
    }
    match request.addresses.iter().find(|found| !addresses.contains(found)) {
        // A node that moved tells its new address a moment later.
        Some(found) => Verdict::Leave(format!("the address {found} is not the node's")),
        None => Verdict::Approve,
    }
}

fn judge_client(
    asked: &Asked,
    request: &Inspected,
    name: &str,
    machine: &spec::cluster::Machine,
    node: Option<&Value>,
) -> Verdict {
    if !request.names.is_empty() || !request.addresses.is_empty() {
        return Verdict::Deny("a client's request names no names or addresses".into());
    }
    if let Some(other) = other_usage(asked, "client auth") {
        return Verdict::Deny(format!("usage {other:?} is not for a client"));
    }
    if asked.username == request.common_name {
        return Verdict::Approve;
    }
    // A join credential is bound to one name.
    let joins = asked.groups.iter().any(|group| group == BOOTSTRAP_GROUP);
    if !joins || asked.username != spec::agent::bootstrap_user(name) {
        return Verdict::Deny(format!("{} asks for the certificate of {name}", asked.username));
    }
    if machine.role == Role::Master {
        return Verdict::Deny(format!("{name} is a master: masters sign their own"));
    }
    match node {
        // Someone with a join credential must not become a machine that is already there.
        Some(_) => Verdict::Leave(format!("the node {name} exists: an operator must approve a second joining")),
        None => Verdict::Approve,
    }
}

/// A usage that is neither this one nor one that every TLS certificate has.
fn other_usage<'a>(asked: &'a Asked, wanted: &str) -> Option<&'a String> {
    asked.usages.iter().find(|usage| ![wanted, "digital signature", "key encipherment"].contains(&usage.as_str()))
}

fn node_addresses(node: &Value) -> (Vec<String>, Vec<IpAddr>) {
    let list = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    let texts: Vec<&str> = list.filter_map(|entry| entry.get("address")?.as_str()).collect();
    let addresses = texts.iter().filter_map(|text| text.parse().ok()).collect();
    (texts.iter().map(|text| (*text).to_string()).collect(), addresses)
}

/// Requests that are decided at the same time: each waits for answers of the API most of its time.
const AT_ONCE: usize = 16;

/// Approves and denies as requests come; returns when the watch ends.
pub async fn watch(api: &Api, cluster: &Cluster) -> Result<(), ApiError> {
    let list = api.get(COLLECTION).await?;
    let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    let mut watch = api.watch(COLLECTION, version).await?;
    let mut waiting = list.get("items").and_then(Value::as_array).into_iter().flatten().cloned();
    let mut deciding = FuturesUnordered::new();
    let mut over = false;
    loop {
        let free = deciding.len() < AT_ONCE;
        if free && let Some(object) = waiting.next() {
            deciding.push(decide(api, cluster, object));
            continue;
        }
        tokio::select! {
            Some(done) = deciding.next() => done?,
            event = watch.next(), if free && !over => match event? {
                Some(mut event) => match event.get("type").and_then(Value::as_str) {
                    Some("ADDED" | "MODIFIED") => deciding.push(decide(api, cluster, event["object"].take())),
                    Some("ERROR") => over = true,
                    _ => {}
                },
                None => over = true,
            },
            else => return Ok(()),
        }
    }
}

async fn decide(api: &Api, cluster: &Cluster, object: Value) -> Result<(), ApiError> {
    let asked = read(&object);
    if !asked.is_for_agents() {
        return Ok(());
    }
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let node_name = asked.request.as_ref().ok().and_then(|request| request.common_name.strip_prefix(NODE_PREFIX));
    let node = match node_name {
        Some(node) if valid_name(node) => api.find(&format!("/api/v1/nodes/{node}")).await?,
        _ => None,
    };
    let verdict = judge(&asked, cluster, node.as_ref());
    let (kind, reason) = match &verdict {
        Verdict::Approve => ("Approved", "verified against the cluster definition and the node".to_string()),
        Verdict::Deny(reason) => ("Denied", reason.clone()),
        Verdict::Leave(reason) => {
            say(format!("certificate request {name} of {}: left pending: {reason}", asked.username));
            return Ok(());
        }
    };
    say(format!("certificate request {name} of {}: {kind}: {reason}", asked.username));
    let mut decided = object;
    decided["status"]["conditions"] =
        json!([{"type": kind, "status": "True", "reason": "imgbuild", "message": reason}]);
    match api.put(&format!("{COLLECTION}/{name}/approval"), &decided).await {
        // Another master was quicker, or the request is gone.
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether a text can be a path segment of a node.
fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cluster() -> Cluster {
        toml::from_str(
            "name = \"demo\"\n[[machine]]\nname = \"m1\"\nrole = \"master\"\n[[machine]]\nname = \"n1\"\nrole = \"node\"\n",
        )
        .unwrap()
    }

    fn node() -> Value {
        json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n1"}]}})
    }

    fn request(common_name: &str, names: &[&str], addresses: &[&str]) -> Result<Inspected, String> {
        Ok(Inspected {
            common_name: common_name.into(),
            organizations: vec!["system:nodes".into()],
            names: names.iter().map(|name| (*name).into()).collect(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            other_names: false,
            not_before: time::OffsetDateTime::UNIX_EPOCH,
            not_after: time::OffsetDateTime::UNIX_EPOCH,
            is_authority: false,
            public_key: Vec::new(),
            serial: Vec::new(),
        })
    }

    fn serving() -> Asked {
        Asked {
            signer: SERVING.into(),
            username: "system:node:n1".into(),
            groups: vec!["system:nodes".into()],
            usages: vec!["digital signature".into(), "server auth".into()],
            decided: false,
            request: request("system:node:n1", &["n1"], &["192.0.2.7"]),
        }
    }

    fn joining() -> Asked {
        Asked {
            signer: CLIENT.into(),
            username: spec::agent::bootstrap_user("n1"),
            groups: vec![BOOTSTRAP_GROUP.into()],
            usages: vec!["digital signature".into(), "client auth".into()],
            decided: false,
            request: request("system:node:n1", &[], &[]),
        }
    }

    fn with(mut asked: Asked, change: impl FnOnce(&mut Asked)) -> Asked {
        change(&mut asked);
        asked
    }

    #[test]
    fn a_node_gets_a_serving_certificate_for_its_own_names_and_addresses() {
        assert_eq!(judge(&serving(), &cluster(), Some(&node())), Verdict::Approve);
        let cases = [
            with(serving(), |asked| asked.request = request("system:node:n1", &["m1"], &[])),
            with(serving(), |asked| asked.request = request("system:node:n1", &[], &[])),
            with(serving(), |asked| asked.username = "system:node:n2".into()),
            with(serving(), |asked| asked.usages.push("client auth".into())),
            with(serving(), |asked| asked.request = request("admin", &["n1"], &[])),
            with(serving(), |asked| asked.request.as_mut().unwrap().organizations = vec!["system:masters".into()]),
            with(serving(), |asked| asked.request.as_mut().unwrap().is_authority = true),
            with(serving(), |asked| asked.request = Err("no".into())),
        ];
        for asked in cases {
            assert!(matches!(judge(&asked, &cluster(), Some(&node())), Verdict::Deny(_)), "{asked:?}");
        }
    }

    #[test]
    fn an_address_or_node_that_is_not_known_yet_stays_pending() {
        let moved = with(serving(), |asked| asked.request = request("system:node:n1", &["n1"], &["192.0.2.8"]));
        assert!(matches!(judge(&moved, &cluster(), Some(&node())), Verdict::Leave(_)));
        assert!(matches!(judge(&serving(), &cluster(), None), Verdict::Leave(_)));
    }

    #[test]
    fn a_joining_node_must_be_listed_new_and_no_master() {
        assert_eq!(judge(&joining(), &cluster(), None), Verdict::Approve);
        assert!(matches!(judge(&joining(), &cluster(), Some(&node())), Verdict::Leave(_)));
        let other = with(joining(), |asked| asked.username = spec::agent::bootstrap_user("n2"));
        assert!(matches!(judge(&other, &cluster(), None), Verdict::Deny(_)));
        let unknown = with(joining(), |asked| {
            asked.username = spec::agent::bootstrap_user("n9");
            asked.request = request("system:node:n9", &[], &[]);
        });
        assert!(matches!(judge(&unknown, &cluster(), None), Verdict::Leave(_)));
        let master = with(joining(), |asked| {
            asked.username = spec::agent::bootstrap_user("m1");
            asked.request = request("system:node:m1", &[], &[]);
        });
        assert!(matches!(judge(&master, &cluster(), None), Verdict::Deny(_)));
        let stranger = with(joining(), |asked| asked.groups.clear());
        assert!(matches!(judge(&stranger, &cluster(), None), Verdict::Deny(_)));
    }

    #[test]
    fn a_node_renews_its_own_client_certificate() {
        let renewal = with(joining(), |asked| {
            asked.username = "system:node:n1".into();
            asked.groups = vec!["system:nodes".into()];
        });
        assert_eq!(judge(&renewal, &cluster(), Some(&node())), Verdict::Approve);
    }

    #[test]
    fn decided_requests_and_other_signers_are_left() {
        let decided = with(serving(), |asked| asked.decided = true);
        assert!(matches!(judge(&decided, &cluster(), Some(&node())), Verdict::Leave(_)));
        let other = with(serving(), |asked| asked.signer = "example.com/x".into());
        assert!(matches!(judge(&other, &cluster(), Some(&node())), Verdict::Leave(_)));
    }

    /// The figure: `cargo test --release -p agent five_thousand -- --nocapture`.
    #[tokio::test]
    async fn five_thousand_requests_are_decided_each_once() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        const COUNT: usize = 5000;
        let mut text = String::from("name = \"big\"\n");
        let mut items = Vec::new();
        for number in 0..COUNT {
            let name = format!("n{number}");
            text += &format!("[[machine]]\nname = \"{name}\"\nrole = \"node\"\n");
            let subject = format!("{NODE_PREFIX}{name}");
            let request = pki::signing_request(&subject, Some("system:nodes"), &[], &[]).unwrap().0;
            items.push(json!({"metadata": {"name": format!("csr-{number}")}, "spec": {
                "request": STANDARD.encode(request), "signerName": CLIENT, "groups": [BOOTSTRAP_GROUP],
                "username": spec::agent::bootstrap_user(&name), "usages": ["digital signature", "client auth"],
            }}));
        }
        let cluster: Cluster = toml::from_str(&text).unwrap();
        let list = Arc::new(json!({"metadata": {"resourceVersion": "1"}, "items": items}));
        let approved = Arc::new(AtomicUsize::new(0));
        let counted = approved.clone();
        let tls = crate::testing::TestTls::new();
        let address = tls
            .serve(move |request| {
                let (list, counted) = (list.clone(), counted.clone());
                async move {
                    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
                    if path.ends_with("/approval") && method == hyper::Method::PUT {
                        counted.fetch_add(1, Ordering::SeqCst);
                        return (200, json!({}));
                    }
                    match (path == COLLECTION, request.uri().query().unwrap_or_default().contains("watch=1")) {
                        (true, false) => (200, (*list).clone()),
                        (true, true) => (200, json!({"type": "BOOKMARK"})),
                        _ => (404, json!({"message": "no such node"})),
                    }
                }
            })
            .await;
        let api = Api::new(address, crate::testing::NAME, tls.client());
        let begin = std::time::Instant::now();
        watch(&api, &cluster).await.unwrap();
        let rate = COUNT as f64 / begin.elapsed().as_secs_f64();
        println!("{rate:.0} certificate requests decided in a second, the API simulated on the same core");
        assert_eq!(approved.load(Ordering::SeqCst), COUNT);
    }
}
