//! This machine's own Node object: its pod CIDR becomes the CNI configuration, the definition's
//! labels and taints are put on it, its Ready condition is the phase on the console.

use crate::api::{Api, ApiError, FIELD_MANAGER};
use crate::cni;
use crate::facts::Facts;
use crate::machine::{Status, say};
use crate::render::taint;
use serde_json::{Value, json};
use spec::cluster::NetworkChoice;
use std::path::Path;

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Follows the Node object until the watch ends.
pub async fn watch(api: &Api, facts: &Facts, root: &Path, status: &Status) -> Result<(), ApiError> {
    let collection = format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", facts.identity.name);
    let list = api.get(&collection).await?;
    match list.pointer("/items/0") {
        Some(node) => follow(api, facts, root, status, node).await?,
        None => status.phase("waiting for the kubelet to register the node"),
    }
    let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
    let mut watch = api.watch(&collection, version).await?;
    while let Some(event) = watch.next().await? {
        match (event.get("type").and_then(Value::as_str), event.get("object")) {
            (Some("ADDED" | "MODIFIED"), Some(node)) => follow(api, facts, root, status, node).await?,
            (Some("DELETED"), _) => status.update(|status| status.ready = false),
            (Some("ERROR"), _) => break,
            _ => {}
        }
    }
    Ok(())
}

async fn follow(api: &Api, facts: &Facts, root: &Path, status: &Status, node: &Value) -> Result<(), ApiError> {
    let cidrs = pod_cidrs(node);
    if !cidrs.is_empty() && facts.cluster.network == NetworkChoice::KubeProxy {
        match cni::write(root, &cidrs) {
            Ok(true) => say(format!("pod network: {}", cidrs.join(", "))),
            Ok(false) => {}
            Err(error) => say(format!("pod network: {error}")),
        }
    }
    show(status, node, &cidrs);
    label(api, facts, node).await?;
    add_taints(api, facts, node).await
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
fn wanted_labels(facts: &Facts) -> serde_json::Map<String, Value> {
    let mut labels = serde_json::Map::new();
    if facts.is_master() {
        labels.insert(CONTROL_PLANE.into(), json!(""));
    }
    for (key, value) in facts.machine().into_iter().flat_map(|machine| &machine.labels) {
        labels.insert(key.clone(), json!(value));
    }
    labels
}

/// Server-side apply owns exactly these labels: one that leaves the definition leaves the node.
async fn label(api: &Api, facts: &Facts, node: &Value) -> Result<(), ApiError> {
    let wanted = wanted_labels(facts);
    let there = wanted
        .iter()
        .all(|(key, value)| node.pointer("/metadata/labels").and_then(|labels| labels.get(key)) == Some(value));
    if there && owned_labels(node) == wanted.len() {
        return Ok(());
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": facts.identity.name, "labels": wanted},
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
async fn add_taints(api: &Api, facts: &Facts, node: &Value) -> Result<(), ApiError> {
    let mut taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut wanted: Vec<_> =
        facts.machine().into_iter().flat_map(|machine| &machine.taints).filter_map(|text| taint(text)).collect();
    if facts.is_master() && !facts.cluster.schedulable_masters {
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
    match api.merge(&format!("/api/v1/nodes/{}", facts.identity.name), &patch).await {
        Err(error) if error.code() == Some(409) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;

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
    fn a_master_carries_its_role_and_the_definitions_labels() {
        let facts = example(time::OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap());
        let labels = wanted_labels(&facts);
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
