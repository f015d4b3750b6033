//! Nodes that the cluster definition does not list: they ask with a credential that is the same on every
//! stick, so that only an operator can say which of them are the cluster's. A name is a machine's once an
//! operator has approved the key that it asks with, which the machine shows on its console.

use crate::api::{Api, ApiError};
use crate::claim::{self, unknown};
use crate::facts::Facts;
use crate::hex;
use crate::machine::say;
use crate::server::{Answer, Caller};
use hyper::StatusCode;
use serde_json::{Value, json};
use spec::agent::{Accepted, ApproveRequest, KEY_DIGITS, PendingMachine, organization};
use spec::cluster::Role;
use time::OffsetDateTime;

/// Marks the records.
const LABEL: &str = "imgbuild.local/pending";
/// Records at once: more machines than anybody approves by hand in a day.
const MOST: usize = 500;

/// Who asks: with a credential that is bound to no name, the name in the question counts.
///
/// # Errors
/// Why nobody has that name in this way, in words.
pub fn caller(facts: &Facts, caller: &Caller, name: &str) -> Result<Caller, String> {
    if caller.organization != organization::PENDING {
        return Ok(caller.clone());
    }
    match facts.cluster.machine(name) {
        Some(machine) if machine.role == Role::Node => Ok(Caller { name: name.into(), ..caller.clone() }),
        Some(_) => Err(format!("{name} is a master: its seed is written with --machine {name}")),
        None => Err(format!("the cluster definition has no room for a node {name:?}")),
    }
}

/// Gives the caller its name when an operator has approved this key, and else makes it known to operators.
///
/// # Errors
/// What the machine waits for, in words.
pub async fn take(api: &Api, cluster: &str, caller: &Caller, key: &[u8]) -> Result<(), String> {
    claim::in_force(api, caller).await?;
    let (key, name) = (hex::sha256(key), caller.name.as_str());
    if claim::holder(api, name).await.map_err(unknown)?.as_deref() == Some(&key) {
        return Ok(());
    }
    remember(api, name, &key).await?;
    Err(format!("an operator's word is wanted: imgbuild cluster approve {cluster} {name} {}", shown(&key)))
}

/// What people compare.
fn shown(key: &str) -> &str {
    key.get(..KEY_DIGITS).unwrap_or(key)
}

fn path(name: &str) -> String {
    format!("{}/imgbuild-pending-{name}", claim::COLLECTION)
}

async fn remember(api: &Api, name: &str, key: &str) -> Result<(), String> {
    let found = api.find(&path(name)).await.map_err(unknown)?;
    let mut record = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": format!("imgbuild-pending-{name}"), "namespace": "kube-system", "labels": {LABEL: "true"},
        },
        "data": {"name": name, "key": key, "since": OffsetDateTime::now_utc().unix_timestamp().to_string()},
    });
    let outcome = match found {
        Some(found) if found["data"]["key"] == key => return Ok(()),
        Some(found) => {
            record["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
            api.put(&path(name), &record).await
        }
        None if records(api).await.map_err(unknown)?.len() >= MOST => {
            return Err(format!("{MOST} machines wait for an operator already: imgbuild cluster pending lists them"));
        }
        None => api.post(claim::COLLECTION, &record).await,
    };
    outcome.map_err(unknown)?;
    say(format!("{name} wants to join with the key {}", shown(key)));
    Ok(())
}

async fn records(api: &Api) -> Result<Vec<PendingMachine>, ApiError> {
    let list = api.get(&format!("{}?labelSelector={LABEL}", claim::COLLECTION)).await?;
    let mut machines: Vec<_> =
        list["items"].as_array().into_iter().flatten().filter_map(|record| read(&record["data"])).collect();
    machines.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(machines)
}

fn read(data: &Value) -> Option<PendingMachine> {
    let text = |field: &str| data.get(field)?.as_str();
    let since = text("since")?.parse().ok()?;
    Some(PendingMachine { name: text("name")?.into(), key: shown(text("key")?).into(), since })
}

/// Who waits.
pub async fn list(api: &Api) -> Answer {
    match records(api).await {
        Ok(machines) => Answer::of(&machines),
        Err(error) => Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, unknown(error)),
    }
}

/// An operator's word for a machine that waits.
pub async fn approve(api: &Api, operator: &Caller, request: &ApproveRequest) -> Answer {
    match approved(api, request).await {
        Ok(()) => {
            let message = format!("{} joins with the key {}", request.name, request.key);
            say(format!("{message}; approved by {} ({})", operator.name, operator.organization));
            Answer::of(&Accepted { message })
        }
        Err(answer) => answer,
    }
}

async fn approved(api: &Api, request: &ApproveRequest) -> Result<(), Answer> {
    let name = &request.name;
    let unknown = |error| Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, unknown(error));
    let refuse = |code, reason: String| Err(Answer::refusal(code, reason));
    let Some(record) = api.find(&path(name)).await.map_err(unknown)? else {
        return refuse(StatusCode::NOT_FOUND, format!("no machine {name} waits: imgbuild cluster pending lists them"));
    };
    let key = record["data"]["key"].as_str().unwrap_or_default();
    if shown(key) != request.key {
        let reason = format!("{name} asks with the key {}, not {}: look at its console", shown(key), request.key);
        return refuse(StatusCode::CONFLICT, reason);
    }
    if api.find(&format!("/api/v1/nodes/{name}")).await.map_err(unknown)?.is_some() {
        let reason =
            format!("there is a node {name}: if this machine takes its place, `kubectl delete node {name}` first");
        return refuse(StatusCode::CONFLICT, reason);
    }
    claim::give(api, name, key).await.map_err(unknown)?;
    api.delete(&path(name)).await.map_err(unknown)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;
    use spec::cluster::AnyNode;

    #[test]
    fn a_credential_without_a_name_is_good_for_nodes_alone() {
        let mut facts = example(OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap());
        let asks = |organization: &str| Caller { name: "x".into(), organization: organization.into(), issued: 0 };
        let pending = asks(organization::PENDING);
        caller(&facts, &pending, "rack7-52540000000c").unwrap_err();
        facts.cluster.any_node =
            Some(AnyNode { prefix: "rack7-".into(), labels: Default::default(), taints: Vec::new(), install: None });
        assert_eq!(caller(&facts, &pending, "rack7-52540000000c").unwrap().name, "rack7-52540000000c");
        for name in ["m1", "rack7-", "rack7-52540000000C", "rack8-52540000000c", "../x", ""] {
            caller(&facts, &pending, name).unwrap_err();
        }
        // Whoever has a name does not choose one.
        assert_eq!(caller(&facts, &asks(organization::JOIN), "rack7-52540000000c").unwrap().name, "x");
    }

    #[test]
    fn people_compare_the_beginning_of_a_key() {
        let key = hex::sha256("key");
        let data = json!({"name": "n", "key": key, "since": "7"});
        assert_eq!(read(&data), Some(PendingMachine { name: "n".into(), key: key[..16].into(), since: 7 }));
        assert_eq!(read(&json!({"name": "n"})), None);
    }
}
