//! Whose a machine's name is, in the cluster's own store, where every master sees it: one name, one key. A
//! second machine with the same join credential waits for an operator; a credential that was issued after
//! the name was taken is an operator's word for a new machine of that name.

use crate::api::{Api, ApiError};
use crate::hex;
use crate::server::Caller;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub const COLLECTION: &str = "/api/v1/namespaces/kube-system/configmaps";
/// Until when join credentials are void.
const VOID: &str = "imgbuild-joining";
/// A claim to a name whose machine never registered a node is given up after this many seconds.
const CLAIM_SECONDS: i64 = 900;

/// Claims the caller's name for this key, which the record keeps as its SHA-256.
///
/// # Errors
/// Why it is not the caller's, or not yet, in words.
pub async fn take(api: &Api, caller: &Caller, key: &[u8]) -> Result<(), String> {
    in_force(api, caller).await?;
    let key = hex::sha256(key);
    let name = &caller.name;
    let path = path(name);
    let found = api.find(&path).await.map_err(unknown)?;
    let node = api.find(&format!("/api/v1/nodes/{name}")).await.map_err(unknown)?;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let judged = judge(caller, &key, found.as_ref(), node.as_ref(), now);
    if let (Ok(Claim::Ours) | Err(_), Some(record), true) = (&judged, &found, node.is_some())
        && !has_joined(record)
    {
        remember_joined(api, name, record.clone()).await?;
    }
    let version = match judged? {
        Claim::Ours => return Ok(()),
        Claim::New => Value::Null,
        Claim::Replace(version) => version,
    };
    match write(api, name, &key, version).await {
        Ok(()) => Ok(()),
        Err(error) if error.code() == Some(409) => Err(format!("another machine asks as {name} at the same time")),
        Err(error) => Err(unknown(error)),
    }
}

/// In words: why nobody knows yet.
pub fn unknown(error: ApiError) -> String {
    format!("the cluster's API does not answer yet: {error}")
}

/// Says for the whole cluster that the join credentials which were issued until now are void.
pub async fn void(api: &Api) -> Result<(), ApiError> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let record = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": VOID, "namespace": "kube-system"},
        "data": {"until": now.to_string()},
    });
    api.apply(&record).await
}

/// Whether a join credential is one that [`void`] has left.
///
/// # Errors
/// Why it is not, or nobody knows yet, in words.
pub async fn in_force(api: &Api, caller: &Caller) -> Result<(), String> {
    let record = api.find(&format!("{COLLECTION}/{VOID}")).await.map_err(unknown)?;
    if is_void(caller, record.as_ref()) {
        return Err("its join credential is void, as all that were issued then: write this machine a new seed".into());
    }
    Ok(())
}

fn is_void(caller: &Caller, record: Option<&Value>) -> bool {
    let until = record.and_then(|record| record["data"]["until"].as_str()?.parse::<i64>().ok());
    until.is_some_and(|until| caller.issued < until)
}

fn path(name: &str) -> String {
    format!("{COLLECTION}/imgbuild-joined-{name}")
}

/// The SHA-256 of the key that a name belongs to.
pub async fn holder(api: &Api, name: &str) -> Result<Option<String>, ApiError> {
    let record = api.find(&path(name)).await?;
    Ok(record.and_then(|record| record["data"]["key"].as_str().map(str::to_owned)))
}

/// Gives a name to the key of this SHA-256, whoever had it before.
pub async fn give(api: &Api, name: &str, key: &str) -> Result<(), ApiError> {
    let record = api.find(&path(name)).await?;
    let version = record.map_or(Value::Null, |record| record["metadata"]["resourceVersion"].clone());
    write(api, name, key, version).await
}

/// `version`: of the record that is replaced.
async fn write(api: &Api, name: &str, key: &str, version: Value) -> Result<(), ApiError> {
    let mut record = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("imgbuild-joined-{name}"), "namespace": "kube-system"},
        "data": {"key": key, "at": OffsetDateTime::now_utc().unix_timestamp().to_string()},
    });
    let outcome = if version.is_null() {
        api.post(COLLECTION, &record).await
    } else {
        record["metadata"]["resourceVersion"] = version;
        api.put(&path(name), &record).await
    };
    outcome.map(drop)
}

/// Whether the machine with this claim was seen to have registered its node.
fn has_joined(record: &Value) -> bool {
    record["data"]["joined"] == "true"
}

/// Whoever deletes the node from here on gives its name away.
async fn remember_joined(api: &Api, name: &str, mut record: Value) -> Result<(), String> {
    record["data"]["joined"] = "true".into();
    match api.put(&path(name), &record).await {
        Err(error) if error.code() != Some(409) => Err(unknown(error)),
        _ => Ok(()),
    }
}

#[derive(Debug, PartialEq)]
enum Claim {
    Ours,
    New,
    /// With the version of the record that is replaced.
    Replace(Value),
}

fn judge(caller: &Caller, key: &str, record: Option<&Value>, node: Option<&Value>, now: i64) -> Result<Claim, String> {
    let name = &caller.name;
    let text = |field: &str| record.and_then(|record| record.pointer(field)).and_then(Value::as_str);
    if text("/data/key") == Some(key) {
        return Ok(Claim::Ours);
    }
    let claimed = text("/data/at").and_then(|seconds| seconds.parse().ok());
    let taken = claimed.or_else(|| node.map(born));
    let version = record.map(|record| record["metadata"]["resourceVersion"].clone());
    let claim = version.map_or(Claim::New, Claim::Replace);
    match taken {
        None => Ok(claim),
        Some(taken) if caller.issued > taken => Ok(claim),
        Some(_) if node.is_some() => Err(format!(
            "{name} has joined with another key: if this machine takes its place, write it a new seed, or `kubectl delete node {name}`"
        )),
        Some(_) if record.is_some_and(has_joined) => Ok(claim),
        Some(taken) if (0..CLAIM_SECONDS).contains(&(now - taken)) => {
            Err(format!("another machine asked to join as {name} {} s ago: only one may have that name", now - taken))
        }
        Some(_) => Ok(claim),
    }
}

/// When a node object was made, in seconds; one that does not say is younger than every credential.
fn born(node: &Value) -> i64 {
    let text = node.pointer("/metadata/creationTimestamp").and_then(Value::as_str).unwrap_or_default();
    OffsetDateTime::parse(text, &Rfc3339).map_or(i64::MAX, OffsetDateTime::unix_timestamp)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use spec::agent::organization;

    #[test]
    fn credentials_are_void_that_were_issued_before_then() {
        let record = json!({"data": {"until": "1000"}});
        let void = |issued, record| {
            is_void(&Caller { name: "n1".into(), organization: organization::JOIN.into(), issued }, record)
        };
        assert!(void(999, Some(&record)) && !void(1000, Some(&record)));
        assert!(!void(0, None) && !void(0, Some(&json!({}))));
    }

    #[test]
    fn a_name_belongs_to_one_key_until_its_node_is_deleted_or_a_newer_credential_comes() {
        let record = json!({"metadata": {"resourceVersion": "7"}, "data": {"key": "a", "at": "1000"}});
        let node = json!({"metadata": {"creationTimestamp": "1970-01-01T00:16:40Z"}});
        let judge = |issued, key, record: Option<&Value>, node: Option<&Value>, now| {
            judge(
                &Caller { name: "n1".into(), organization: organization::JOIN.into(), issued },
                key,
                record,
                node,
                now,
            )
        };
        assert_eq!(judge(0, "a", None, None, 0), Ok(Claim::New));
        assert_eq!(judge(0, "a", Some(&record), Some(&node), 1001), Ok(Claim::Ours));
        assert_eq!(judge(0, "b", Some(&record), None, 5000), Ok(Claim::Replace(json!("7"))));
        assert!(judge(999, "b", Some(&record), Some(&node), 5000).unwrap_err().contains("kubectl delete node n1"));
        assert!(judge(0, "b", Some(&record), None, 1010).unwrap_err().contains("10 s ago"));
        let joined =
            json!({"metadata": {"resourceVersion": "7"}, "data": {"key": "a", "at": "1000", "joined": "true"}});
        assert!(judge(999, "b", Some(&joined), Some(&node), 1010).is_err());
        assert_eq!(judge(999, "b", Some(&joined), None, 1010), Ok(Claim::Replace(json!("7"))));
        assert!(judge(1000, "b", None, Some(&node), 0).is_err());
        assert_eq!(judge(1001, "b", Some(&record), Some(&node), 5000), Ok(Claim::Replace(json!("7"))));
        assert_eq!(judge(1001, "b", None, Some(&node), 5000), Ok(Claim::New));
        assert!(judge(5000, "b", None, Some(&json!({})), 5000).is_err());
    }
}
