//! How a node becomes one: it asks a master's agent for certificates for keys of its own, by its
//! seed's join credential the first time, by its own certificate afterwards. The master's side
//! judges: one name, one key, and a name that is in use waits for an operator.

use crate::api::Api;
use crate::certificates::CertificateError;
use crate::facts::{Facts, under};
use crate::files::{self, FileError, NewFile};
use crate::http::{self, HttpError};
use crate::peers::{PeerError, Peers};
use crate::server::{Answer, Caller};
use crate::{claim, pending};
use hyper::StatusCode;
use pki::{AuthorityName, Credential, LEAF_LIFE, RequestPolicy, Usage};
use serde::{Deserialize, Serialize};
use spec::agent::{
    JoinAnswer, JoinQuestion, NODE_AGENTS, NodeCredential, VERSION, bootstrap_user, node_agent_user, organization, path,
};
use spec::cluster::{Machine, Role};
use spec::{paths, ports, seed};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::ClientConfig;

const ALL: [NodeCredential; 5] = [
    NodeCredential::Machine,
    NodeCredential::Bootstrap,
    NodeCredential::Agent,
    NodeCredential::Proxy,
    NodeCredential::Kubelet,
];
/// Keys and requests under way, so that asking again is asking with the same keys.
const PENDING_FILE: &str = "pending.json";
/// kubelet's own certificate and key, which it gets by TLS bootstrapping and rotates itself.
pub const KUBELET_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
/// The one that it serves with, which the cluster's masters sign for it.
pub const KUBELET_SERVING_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-server-current.pem";
const BOOTSTRAP_LIFE: Duration = Duration::days(1);

/// Why the node has no credentials yet.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Pki(#[from] pki::Error),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(
        "this machine's seed holds no join credential: write it with `imgbuild cluster seed CLUSTER --machine NAME`"
    )]
    NoCredential,
    #[error("joining: {0}")]
    Refused(#[from] PeerError),
    #[error("joining: the answer's file {0:?} is not what it should be")]
    HandedOver(String),
    #[error("the system gives no random bytes")]
    NoRandom,
    #[error("joining: the answer lacks the certificate of {0:?}")]
    Incomplete(NodeCredential),
}

#[derive(Serialize, Deserialize)]
struct Pending {
    /// PKCS#10 request and key, both PEM.
    requests: BTreeMap<NodeCredential, (String, String)>,
}

/// What a certificate of this credential says: the node asks for it, the master allows exactly it.
fn policy(credential: NodeCredential, name: &str) -> (AuthorityName, RequestPolicy) {
    let client = |common_name: String, organization: Option<&str>, life| RequestPolicy {
        common_name,
        organization: organization.map(Into::into),
        names: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Client,
        life,
    };
    match credential {
        NodeCredential::Machine => {
            let own = client(name.into(), Some(organization::NODE), LEAF_LIFE);
            (AuthorityName::Machine, RequestPolicy { names: vec![name.into()], usage: Usage::Peer, ..own })
        }
        NodeCredential::Bootstrap => {
            (AuthorityName::Kubernetes, client(bootstrap_user(name), Some("system:bootstrappers"), BOOTSTRAP_LIFE))
        }
        NodeCredential::Agent => {
            (AuthorityName::Kubernetes, client(node_agent_user(name), Some(NODE_AGENTS), LEAF_LIFE))
        }
        NodeCredential::Proxy => (AuthorityName::Kubernetes, client("system:kube-proxy".into(), None, LEAF_LIFE)),
        NodeCredential::Kubelet => {
            (AuthorityName::Kubernetes, client(format!("system:node:{name}"), Some("system:nodes"), LEAF_LIFE))
        }
    }
}

/// The credential that kubelet asks for its own with, below PKI_DIR. It lives a day, and nobody renews it.
pub const BOOTSTRAP: &str = "kubernetes/bootstrap";

/// Where certificate and key lie below PKI_DIR, without their endings.
fn place(credential: NodeCredential) -> &'static str {
    match credential {
        NodeCredential::Machine => "machine/agent",
        NodeCredential::Bootstrap => BOOTSTRAP,
        NodeCredential::Agent => "kubernetes/agent",
        NodeCredential::Proxy => "kubernetes/proxy",
        NodeCredential::Kubelet => "kubernetes/kubelet",
    }
}

fn pair(root: &Path, credential: NodeCredential) -> Result<Option<(String, String)>, FileError> {
    let folder = under(root, paths::PKI_DIR);
    let read = |end: &str| files::read_if_there(&folder.join(format!("{}.{end}", place(credential))));
    Ok(read("crt")?.zip(read("key")?))
}

/// TLS to other agents: this machine's own certificate, or until there is one the join credential.
pub fn tls(facts: &Facts, root: &Path, now: OffsetDateTime) -> Result<Arc<ClientConfig>, JoinError> {
    let authority = facts.secrets.text(&AuthorityName::Machine.certificate_file())?;
    let own = pair(root, NodeCredential::Machine)?;
    if let Some((certificate, key)) = own
        && pki::check_trusted("machine/agent", &certificate, authority, now).is_ok()
    {
        return Ok(http::tls(authority, &certificate, &key)?);
    }
    let text = |name: &str| facts.secrets.text(name).map_err(|_| JoinError::NoCredential);
    let (certificate, key) = (text(seed::files::JOIN_CERTIFICATE)?, text(seed::files::JOIN_KEY)?);
    Ok(http::tls(authority, certificate, key)?)
}

/// Whether a certificate of kubelet's is by an authority that is still trusted and signs no more.
fn is_by_former(facts: &Facts, root: &Path, path: &str, now: OffsetDateTime) -> Result<bool, JoinError> {
    let authorities = facts.secrets.text(&AuthorityName::Kubernetes.certificate_file())?;
    let found = files::read_if_there(&under(root, path))?;
    Ok(found.is_some_and(|certificate| {
        pki::check_chain("kubelet", &certificate, authorities, now).is_err()
            && pki::check_trusted("kubelet", &certificate, authorities, now).is_ok()
    }))
}

/// Takes away what kubelet serves with when it is by an authority that signs no more: it asks anew when it starts.
/// Whether kubelet must start anew for that, or for the certificate that [`ensure`] gets it.
pub fn retire_kubelets(facts: &Facts, root: &Path, now: OffsetDateTime) -> Result<bool, JoinError> {
    let serving = is_by_former(facts, root, KUBELET_SERVING_CERTIFICATE, now)?;
    if serving {
        let path = under(root, KUBELET_SERVING_CERTIFICATE);
        std::fs::remove_file(&path).map_err(|source| FileError::Io { path, source })?;
    }
    Ok(serving || is_by_former(facts, root, KUBELET_CERTIFICATE, now)?)
}

/// Certificate and key in one file that a link leads to, as kubelet's own store keeps them
/// (k8s.io/client-go/util/certificate, FileStore).
fn give_to_kubelet(root: &Path, certificate: &str, key: &str, now: OffsetDateTime) -> Result<(), JoinError> {
    let link = under(root, KUBELET_CERTIFICATE);
    let path = link.with_file_name(format!("kubelet-client-{}.pem", now.unix_timestamp()));
    files::write(&path, format!("{certificate}{key}"), 0o600, true)?;
    let new = link.with_extension("new");
    let failed = |source| FileError::Io { path: link.clone(), source };
    files::remove_if_there(&new)?;
    std::os::unix::fs::symlink(&path, &new).and_then(|()| std::fs::rename(&new, &link)).map_err(failed)?;
    Ok(())
}

/// The credentials that are missing or have lived two thirds of their life.
fn due(facts: &Facts, root: &Path, now: OffsetDateTime) -> Result<Vec<NodeCredential>, JoinError> {
    let mut due = Vec::new();
    for credential in ALL {
        let is_due = match credential {
            NodeCredential::Bootstrap if under(root, KUBELET_CERTIFICATE).exists() => Some(false),
            NodeCredential::Kubelet => Some(is_by_former(facts, root, KUBELET_CERTIFICATE, now)?),
            _ => None,
        };
        if let Some(is_due) = is_due {
            due.extend(is_due.then_some(credential));
            continue;
        }
        let (authority, _) = policy(credential, &facts.identity.name);
        let authority = facts.secrets.text(&authority.certificate_file())?;
        let good = pair(root, credential)?.is_some_and(|(certificate, key)| {
            let name = place(credential);
            pki::check_chain(name, &certificate, authority, now).is_ok()
                && pki::matches_key(name, &certificate, &key).unwrap_or(false)
                && pki::inspect(name, &certificate).is_ok_and(|found| now < found.renew_at())
        });
        if !good {
            due.push(credential);
        }
    }
    Ok(due)
}

/// Gets what is due; a master's answer when something was.
///
/// # Errors
/// Why not yet; to be tried again.
pub async fn ensure(facts: &Facts, root: &Path, now: OffsetDateTime) -> Result<Option<JoinAnswer>, JoinError> {
    let due = due(facts, root, now)?;
    if due.is_empty() {
        return Ok(None);
    }
    let name = &facts.identity.name;
    let pending_path = under(root, paths::PKI_DIR).join(PENDING_FILE);
    let known = files::read_if_there(&pending_path)?.and_then(|text| serde_json::from_str::<Pending>(&text).ok());
    let mut pending = known.unwrap_or(Pending { requests: BTreeMap::new() });
    pending.requests.retain(|credential, _| due.contains(credential));
    for credential in due {
        if let Entry::Vacant(place) = pending.requests.entry(credential) {
            let (_, wanted) = policy(credential, name);
            place.insert(pki::signing_request(
                &wanted.common_name,
                wanted.organization.as_deref(),
                &wanted.names,
                &[],
            )?);
        }
    }
    files::write(&pending_path, serde_json::to_string(&pending).unwrap_or_default(), 0o600, true)?;
    let requests = pending.requests.iter().map(|(credential, (request, _))| (*credential, request.clone())).collect();
    let question = JoinQuestion { version: VERSION, name: name.clone(), requests };
    let answer: JoinAnswer = Peers::new(facts, tls(facts, root, now)?).ask_any(path::JOIN, &question).await?;
    let mut new = Vec::new();
    for (credential, (_, key)) in &pending.requests {
        let certificate = answer.certificates.get(credential).ok_or(JoinError::Incomplete(*credential))?;
        if *credential == NodeCredential::Kubelet {
            give_to_kubelet(root, certificate, key, now)?;
            continue;
        }
        let path = |end: &str| under(root, paths::PKI_DIR).join(format!("{}.{end}", place(*credential)));
        let file = |path, text: &str| NewFile { path, content: text.as_bytes().to_vec(), mode: 0o600, owner: None };
        new.extend([file(path("key"), key), file(path("crt"), certificate)]);
    }
    files::write_all(&new, true)?;
    // Whoever asks again after this asks with new keys, as the holder of the old ones.
    drop(std::fs::remove_file(&pending_path));
    Ok(Some(answer))
}

/// kubeconfigs of a node's programs, made anew at each start; they go through the balancer.
pub fn write_kubeconfigs(facts: &Facts, root: &Path) -> Result<(), JoinError> {
    let authority = facts.secrets.text(&AuthorityName::Kubernetes.certificate_file())?;
    let server = format!("https://127.0.0.1:{}", ports::API_BALANCER);
    let folder = under(root, paths::KUBERNETES_DIR);
    files::make_directory(&folder, 0o755, None)?;
    let mut new = Vec::new();
    let mut add = |file: &str, user: &str, certificate: &str, key: &str| {
        let credential = Credential::Files { certificate, key };
        let text = pki::kubeconfig(&facts.cluster.name, &server, authority, user, credential);
        new.push(NewFile { path: folder.join(file), content: text.into_bytes(), mode: 0o600, owner: None });
    };
    let path = |credential, end: &str| format!("{}/{}.{end}", paths::PKI_DIR, place(credential));
    for (file, user, credential) in [
        ("bootstrap.kubeconfig", bootstrap_user(&facts.identity.name), NodeCredential::Bootstrap),
        ("proxy.kubeconfig", "system:kube-proxy".into(), NodeCredential::Proxy),
    ] {
        add(file, &user, &path(credential, "crt"), &path(credential, "key"));
    }
    if under(root, KUBELET_CERTIFICATE).exists() {
        let user = format!("system:node:{}", facts.identity.name);
        add("kubelet.kubeconfig", &user, KUBELET_CERTIFICATE, KUBELET_CERTIFICATE);
    }
    Ok(files::write_all(&new, false)?)
}

/// The master's answer to a node's question.
pub async fn answer(facts: &Facts, api: &Api, cluster: Option<String>, caller: &Caller, body: &[u8]) -> Answer {
    let refuse = |code, reason: String| Answer::refusal(code, reason);
    let question: JoinQuestion = match serde_json::from_slice(body) {
        Ok(question) => question,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("no question of a node: {error}")),
    };
    let caller = match pending::caller(facts, caller, &question.name) {
        Ok(caller) => caller,
        Err(reason) => return refuse(StatusCode::FORBIDDEN, reason),
    };
    if let Err(reason) = may_ask(facts, &caller, &question) {
        return refuse(StatusCode::FORBIDDEN, reason);
    }
    if caller.organization != organization::NODE
        && let Err(reason) = claim(api, &facts.cluster.name, &caller, &question).await
    {
        return refuse(StatusCode::CONFLICT, reason);
    }
    match sign(facts, &caller.name, &question, OffsetDateTime::now_utc()) {
        Ok(certificates) => Answer::of(&JoinAnswer { cluster, certificates }),
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

/// The name belongs to the key of the machine's own certificate.
async fn claim(api: &Api, cluster: &str, caller: &Caller, question: &JoinQuestion) -> Result<(), String> {
    let request =
        question.requests.get(&NodeCredential::Machine).ok_or("the request of the machine's certificate is missing")?;
    let asked = pki::inspect_request(&caller.name, request.as_bytes()).map_err(|error| error.to_string())?;
    match caller.organization.as_str() {
        organization::PENDING => pending::take(api, cluster, caller, &asked.public_key).await,
        _ => claim::take(api, caller, &asked.public_key).await,
    }
}

/// Whether the machine of this certificate may be given these credentials.
fn may_ask(facts: &Facts, caller: &Caller, question: &JoinQuestion) -> Result<(), String> {
    if ![organization::JOIN, organization::PENDING, organization::NODE].contains(&caller.organization.as_str()) {
        return Err(format!("{} ({}) is no node and has no join credential", caller.name, caller.organization));
    }
    // By a join credential kubelet's comes after a bootstrap, which is judged by what nodes there are.
    if question.requests.contains_key(&NodeCredential::Kubelet) && caller.organization != organization::NODE {
        return Err(format!("{} ({}) may not ask for kubelet's certificate", caller.name, caller.organization));
    }
    match asking(facts, caller, question.version)? {
        machine if machine.role == Role::Master => Err(format!("{} is a master: masters sign their own", machine.name)),
        _ => Ok(()),
    }
}

/// The caller in the cluster definition, who asks with this version of a question.
pub fn asking<'a>(facts: &'a Facts, caller: &Caller, version: u32) -> Result<Cow<'a, Machine>, String> {
    if version != VERSION {
        return Err(format!("version {version} of the question, {VERSION} is wanted"));
    }
    let listed = facts.cluster.machine(&caller.name);
    listed.ok_or_else(|| format!("the cluster definition lists no machine {}", caller.name))
}

fn sign(
    facts: &Facts,
    name: &str,
    question: &JoinQuestion,
    now: OffsetDateTime,
) -> Result<BTreeMap<NodeCredential, String>, pki::Error> {
    let sign = |(credential, request): (&NodeCredential, &String)| {
        let (authority, policy) = policy(*credential, name);
        let certificate = facts.secrets.authority(authority)?.sign_request(request.as_bytes(), &policy, now)?;
        Ok((*credential, certificate))
    };
    question.requests.iter().map(sign).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap()
    }

    fn facts() -> Facts {
        let mut facts = example(now());
        let mut node = facts.cluster.machines[0].clone();
        (node.name, node.role) = ("n1".into(), Role::Node);
        facts.cluster.machines.push(node);
        facts
    }

    fn caller(name: &str, organization: &str) -> Caller {
        Caller { name: name.into(), organization: organization.into(), issued: 0 }
    }

    fn question(name: &str) -> JoinQuestion {
        let request = |credential| {
            let (_, wanted) = policy(credential, name);
            pki::signing_request(&wanted.common_name, wanted.organization.as_deref(), &wanted.names, &[]).unwrap().0
        };
        JoinQuestion {
            version: VERSION,
            name: name.into(),
            requests: ALL.map(|credential| (credential, request(credential))).into(),
        }
    }

    #[test]
    fn only_listed_nodes_with_a_credential_may_ask() {
        let mut question = question("n1");
        may_ask(&facts(), &caller("n1", organization::NODE), &question).unwrap();
        may_ask(&facts(), &caller("n1", organization::JOIN), &question).unwrap_err();
        question.requests.remove(&NodeCredential::Kubelet);
        may_ask(&facts(), &caller("n1", organization::JOIN), &question).unwrap();
        for (name, organization) in [
            ("n1", organization::READER),
            ("n1", organization::MASTER),
            ("n1", ""),
            ("n9", organization::JOIN),
            ("m1", organization::JOIN),
        ] {
            may_ask(&facts(), &caller(name, organization), &question).unwrap_err();
        }
    }

    #[test]
    fn a_node_gets_its_own_names_and_no_others() {
        let certificates = sign(&facts(), "n1", &question("n1"), now()).unwrap();
        let found = |credential| pki::inspect("x", &certificates[&credential]).unwrap();
        let machine = found(NodeCredential::Machine);
        assert_eq!((machine.common_name.as_str(), machine.names.as_slice()), ("n1", ["n1".to_owned()].as_slice()));
        assert_eq!(machine.organizations, [organization::NODE]);
        assert_eq!(found(NodeCredential::Bootstrap).common_name, "imgbuild:bootstrap:n1");
        sign(&facts(), "n1", &question("n2"), now()).unwrap_err();
    }

    #[test]
    fn kubelet_gets_another_certificate_once_its_authority_signs_no_more() {
        let root = tempfile::tempdir().unwrap();
        let mut facts = facts();
        let old = facts.secrets.authority(AuthorityName::Kubernetes).unwrap();
        let leaf = old.issue(&pki::LeafRequest::client("x", None, Duration::days(1)), now()).unwrap();
        for path in [KUBELET_CERTIFICATE, KUBELET_SERVING_CERTIFICATE] {
            let path = under(root.path(), path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{}{}", leaf.certificate, leaf.key)).unwrap();
        }
        let is_due = |facts: &Facts| due(facts, root.path(), now()).unwrap().contains(&NodeCredential::Kubelet);
        assert!(!is_due(&facts) && !retire_kubelets(&facts, root.path(), now()).unwrap());

        let new = pki::Authority::new("new", now()).unwrap();
        let mut files = facts.secrets.files().clone();
        let bundle = format!("{}{}", new.certificate(), old.certificate());
        files.insert(AuthorityName::Kubernetes.certificate_file(), bundle.into_bytes());
        facts.secrets = pki::Secrets::from_files("demo", files);
        assert!(is_due(&facts) && retire_kubelets(&facts, root.path(), now()).unwrap());
        assert!(!under(root.path(), KUBELET_SERVING_CERTIFICATE).exists());

        let request = pki::LeafRequest::client("system:node:n1", Some("system:nodes"), Duration::days(1));
        let leaf = new.issue(&request, now()).unwrap();
        give_to_kubelet(root.path(), &leaf.certificate, &leaf.key, now()).unwrap();
        assert!(!is_due(&facts) && !retire_kubelets(&facts, root.path(), now()).unwrap());
        assert!(under(root.path(), KUBELET_CERTIFICATE).is_symlink());
    }

    #[test]
    fn a_new_node_lacks_everything_and_kubelets_own_certificate_makes_the_bootstrap_needless() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(due(&facts(), root.path(), now()).unwrap(), ALL[..4]);
        let kubelets = under(root.path(), KUBELET_CERTIFICATE);
        std::fs::create_dir_all(kubelets.parent().unwrap()).unwrap();
        std::fs::write(kubelets, "").unwrap();
        assert_eq!(due(&facts(), root.path(), now()).unwrap().len(), 3);
        // Nobody renews it any more, so nobody is told that it ends.
        let request = pki::LeafRequest::client("x", None, Duration::days(1));
        let leaf = pki::Authority::new("test", now()).unwrap().issue(&request, now()).unwrap();
        for name in [BOOTSTRAP, place(NodeCredential::Agent)] {
            let path = under(root.path(), paths::PKI_DIR).join(format!("{name}.crt"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &leaf.certificate).unwrap();
        }
        let ends = crate::certificates::ends(root.path());
        assert_eq!(ends.keys().collect::<Vec<_>>(), [place(NodeCredential::Agent)]);
    }
}
