//! Node objects. This machine's own: its pod CIDR becomes the CNI configuration, its Ready condition
//! the phase on the console. On masters everyone's: the definition's labels and taints are put on them.

use crate::api::{Api, ApiError, FIELD_MANAGER};
use crate::facts::Facts;
use crate::machine::{Status, say};
use crate::nodes::{network, networks};
use crate::render::taint;
use crate::{cni, masquerade};
use ipnet::IpNet;
use serde_json::{Value, json};
use spec::cluster::{Cluster, Machine, NetworkChoice, Role, node_prefix};
use std::path::Path;

const NODES: &str = "/api/v1/nodes";
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Follows this machine's Node object until the watch ends.
pub async fn watch(api: &Api, facts: &Facts, root: &Path, status: &Status) -> Result<(), ApiError> {
    let collection = format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", facts.identity.name);
    let list = api.get(&collection).await?;
    match list.pointer("/items/0") {
        Some(node) => follow(facts, root, status, node).await,
        None => status.phase("waiting for the kubelet to register the node"),
    }
    let mut watch = api.watch(&collection, version_of(&list)).await?;
    while let Some(event) = watch.next().await? {
        match (event.get("type").and_then(Value::as_str), event.get("object")) {
            (Some("ADDED" | "MODIFIED"), Some(node)) => follow(facts, root, status, node).await,
            (Some("DELETED"), _) => status.update(|status| status.ready = false),
            (Some("ERROR"), _) => break,
            _ => {}
        }
    }
    Ok(())
}

/// Puts the definition's labels and taints on every machine's Node object until the watch ends.
pub async fn define(api: &Api, cluster: &Cluster) -> Result<(), ApiError> {
    let list = api.get(NODES).await?;
    for node in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        define_one(api, cluster, node).await?;
    }
    let mut watch = api.watch(NODES, version_of(&list)).await?;
    while let Some(event) = watch.next().await? {
        match (event.get("type").and_then(Value::as_str), event.get("object")) {
            (Some("ADDED" | "MODIFIED"), Some(node)) => define_one(api, cluster, node).await?,
            (Some("ERROR"), _) => break,
            _ => {}
        }
    }
    Ok(())
}

async fn define_one(api: &Api, cluster: &Cluster, node: &Value) -> Result<(), ApiError> {
    let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let Some(machine) = cluster.machine(name) else { return Ok(()) };
    label(api, &machine, node).await?;
    add_taints(api, cluster, &machine, node).await
}

/// Gives the only master of a new cluster what the node and its first pods wait for, so that they need not
/// wait for the controller manager, which starts afterwards and takes note of what is there: the account of
/// pods that name none, then the first pods' networks. `false`: not yet.
pub async fn take_first_networks(api: &Api, facts: &Facts) -> Result<bool, ApiError> {
    let name = &facts.identity.name;
    let list = api.get(&format!("{NODES}?limit=2")).await?;
    let own = match list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
        [] => None,
        // Kubelet was quicker.
        [own] if own["metadata"]["name"] == **name && pod_cidrs(own).is_empty() => Some(own),
        _ => return Ok(true),
    };
    if !has_default_account(api).await? {
        return Ok(false);
    }
    let cidrs = first_networks(&facts.cluster.pod_cidr);
    let spec = json!({"podCIDR": cidrs.first(), "podCIDRs": cidrs});
    let result = match own {
        None => {
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec});
            api.post(NODES, &node).await
        }
        Some(own) => {
            let version = &own["metadata"]["resourceVersion"];
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": spec});
            api.merge(&format!("{NODES}/{name}"), &patch).await
        }
    };
    match result {
        Err(error) if error.code() == Some(409) => Ok(false),
        other => other.map(|_| true),
    }
}

/// Makes it where it is missing; `false`: its namespace is not there yet.
async fn has_default_account(api: &Api) -> Result<bool, ApiError> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    match api.post("/api/v1/namespaces/default/serviceaccounts", &account).await {
        Ok(_) => Ok(true),
        Err(error) => match error.code() {
            Some(409) => Ok(true),
            Some(404) => Ok(false),
            _ => Err(error),
        },
    }
}

/// The first node's networks of a cluster's (`10.244.0.0/16,fd01::/48`), one per family.
fn first_networks(pod_cidr: &str) -> Vec<String> {
    let first = networks(pod_cidr).filter_map(|pods| {
        let prefix = node_prefix(pods.addr().is_ipv4());
        IpNet::new(pods.network(), prefix.max(pods.prefix_len())).ok()
    });
    first.map(|network| network.to_string()).collect()
}

fn version_of(list: &Value) -> &str {
    list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default()
}

async fn follow(facts: &Facts, root: &Path, status: &Status, node: &Value) {
    let cidrs = pod_cidrs(node);
    if !cidrs.is_empty() && facts.cluster.network != NetworkChoice::None {
        match cni::write(root, facts, &cidrs) {
            Ok(true) => {
                say(format!("pod network: {}", cidrs.join(", ")));
                masquerade_pods(facts, &cidrs).await;
            }
            Ok(false) => {}
            Err(error) => say(format!("pod network: {error}")),
        }
    }
    show(status, node, &cidrs);
}

/// kube-router has rules of its own for it.
async fn masquerade_pods(facts: &Facts, cidrs: &[String]) {
    if facts.cluster.network != NetworkChoice::KubeProxy {
        return;
    }
    let own: Vec<IpNet> = cidrs.iter().filter_map(|cidr| network(cidr)).collect();
    let all: Vec<IpNet> = networks(&facts.cluster.pod_cidr).collect();
    if let Err(error) = masquerade::set(&own, &all).await {
        say(format!("pod network: masquerading: {error}"));
    }
}

fn show(status: &Status, node: &Value, cidrs: &[String]) {
    let condition = ready_condition(node);
    let ready = condition.as_ref().is_some_and(|(ready, _)| *ready);
    let version = node.pointer("/status/nodeInfo/kubeletVersion").and_then(Value::as_str).map(Into::into);
    status.update(|status| {
        status.ready = ready;
        status.kubernetes_version = version;
    });
    match condition {
        Some((true, _)) => status.phase("Ready"),
        _ if cidrs.is_empty() => status.phase("waiting for the node's pod CIDR"),
        Some((false, message)) => status.phase(&format!("waiting for the kubelet: {message}")),
        None => status.phase("waiting for the kubelet's first report"),
    }
}

/// Whether the node is ready, and the condition's first line.
pub fn ready_condition(node: &Value) -> Option<(bool, String)> {
    let conditions = node.pointer("/status/conditions")?.as_array()?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
    let message = ready.get("message").and_then(Value::as_str).unwrap_or_default();
    let line: String = message.lines().next().unwrap_or_default().chars().take(160).collect();
    Some((ready["status"] == "True", line))
}

pub fn pod_cidrs(node: &Value) -> Vec<String> {
    let list = node.pointer("/spec/podCIDRs").and_then(Value::as_array).into_iter().flatten();
    let cidrs: Vec<String> = list.filter_map(|cidr| cidr.as_str().map(Into::into)).collect();
    match node.pointer("/spec/podCIDR").and_then(Value::as_str) {
        Some(cidr) if cidrs.is_empty() => vec![cidr.into()],
        _ => cidrs,
    }
}

/// Labels that the node should have.
fn wanted_labels(machine: &Machine) -> serde_json::Map<String, Value> {
    let mut labels = serde_json::Map::new();
    if machine.role == Role::Master {
        labels.insert(CONTROL_PLANE.into(), json!(""));
    }
    for (key, value) in &machine.labels {
        labels.insert(key.clone(), json!(value));
    }
    labels
}

/// Server-side apply owns exactly these labels: one that leaves the definition leaves the node.
async fn label(api: &Api, machine: &Machine, node: &Value) -> Result<(), ApiError> {
    let wanted = wanted_labels(machine);
    let there = wanted
        .iter()
        .all(|(key, value)| node.pointer("/metadata/labels").and_then(|labels| labels.get(key)) == Some(value));
    if there && owned_labels(node) == wanted.len() {
        return Ok(());
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": machine.name, "labels": wanted},
    });
    api.apply(&object).await
}

fn owned_labels(node: &Value) -> usize {
    let managers = node.pointer("/metadata/managedFields").and_then(Value::as_array).into_iter().flatten();
    let own = managers.filter(|entry| entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply");
    own.filter_map(|entry| entry.pointer("/fieldsV1/f:metadata/f:labels")?.as_object())
        .map(|labels| labels.keys().filter(|key| key.starts_with("f:")).count())
        .sum()
}

/// Adds what is missing; others' taints stay.
async fn add_taints(api: &Api, cluster: &Cluster, machine: &Machine, node: &Value) -> Result<(), ApiError> {
    let mut taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut wanted: Vec<_> = machine.taints.iter().filter_map(|text| taint(text)).collect();
    if machine.role == Role::Master && !cluster.schedulable_masters {
        wanted.extend(taint(&format!("{CONTROL_PLANE}:NoSchedule")));
    }
    let missing: Vec<_> = wanted
        .into_iter()
        .filter(|wanted| {
            !taints.iter().any(|found| found["key"] == wanted["key"] && found["effect"] == wanted["effect"])
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    taints.extend(missing.iter().map(|taint| json!(taint)));
    // The version makes it fail, and be tried anew on the next event, when another wrote meanwhile.
    let patch =
        json!({"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]}, "spec": {"taints": taints}});
    match api.merge(&format!("{NODES}/{}", machine.name), &patch).await {
        Err(error) if error.code() == Some(409) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;
    use crate::testing::{NAME, TestTls};

    #[test]
    fn the_ready_condition_and_the_pod_cidrs_are_read() {
        let node = json!({"spec": {"podCIDR": "10.244.0.0/24"}, "status": {"conditions": [
            {"type": "MemoryPressure", "status": "True"},
            {"type": "Ready", "status": "False", "message": "no network\nmore"}]}});
        assert_eq!(ready_condition(&node), Some((false, "no network".into())));
        assert_eq!(pod_cidrs(&node), ["10.244.0.0/24"]);
        assert_eq!(ready_condition(&json!({})), None);
        assert!(pod_cidrs(&json!({})).is_empty());
    }

    #[test]
    fn the_first_networks_are_one_per_family() {
        assert_eq!(first_networks("10.244.0.0/16,fd01::/48"), ["10.244.0.0/24", "fd01::/64"]);
        assert_eq!(first_networks("10.244.0.0/25"), ["10.244.0.0/25"]);
    }

    #[tokio::test]
    async fn only_a_node_that_is_alone_and_has_no_network_gets_the_first() {
        let facts = example(time::OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap());
        let own =
            |spec: Value| json!({"metadata": {"name": facts.identity.name, "resourceVersion": "7"}, "spec": spec});
        let other = json!({"metadata": {"name": "other"}, "spec": {}});
        let cases = [
            (vec![], 201, Some("POST"), true),
            (vec![own(json!({}))], 200, Some("PATCH"), true),
            (vec![own(json!({}))], 409, Some("PATCH"), false),
            (vec![own(json!({"podCIDRs": ["10.244.0.0/24"]}))], 200, None, true),
            (vec![other.clone()], 200, None, true),
            (vec![own(json!({})), other], 200, None, true),
        ];
        let tls = TestTls::new();
        for (nodes, code, written, done) in cases {
            let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
            let address = tls
                .serve(move |request| {
                    let (nodes, send) = (nodes.clone(), send.clone());
                    async move {
                        if request.method() == "GET" {
                            return (200, json!({"items": nodes}));
                        }
                        if request.uri().path().ends_with("/serviceaccounts") {
                            return (409, json!({}));
                        }
                        send.send(request.method().to_string()).unwrap();
                        (code, json!({}))
                    }
                })
                .await;
            let api = Api::new(address, NAME, tls.client());
            assert_eq!(take_first_networks(&api, &facts).await.unwrap(), done);
            assert_eq!(receive.try_recv().ok().as_deref(), written);
        }
    }

    #[test]
    fn a_master_carries_its_role_and_the_definitions_labels() {
        let facts = example(time::OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap());
        let labels = wanted_labels(&facts.machine().unwrap());
        assert_eq!((&labels[CONTROL_PLANE], &labels["cpu"]), (&json!(""), &json!("high")));
    }

    #[test]
    fn labels_that_were_applied_are_counted() {
        let node = json!({"metadata": {"managedFields": [
            {"manager": "imgbuild", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:labels": {"f:cpu": {}, "f:old": {}}}}},
            {"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:x": {}}}}}]}});
        assert_eq!(owned_labels(&node), 2);
    }
}
