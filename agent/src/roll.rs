//! What an operator's roll through the cluster asks a master for: nobody new on a node, its pods elsewhere, and nobody
//! else rolling meanwhile. Each question stands for itself, so that a roll whose operator's machine dies goes on from
//! another.

use crate::api::{Api, ApiError, MICRO_TIME};
use serde_json::{Value, json};
use spec::agent::{Drained, LockRequest, RemainingPod};
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const LEASE: &str = "imgbuild-roll";
/// On a node that a roll has cordoned.
const CORDONED: &str = "imgbuild.local/cordoned";

/// Why not, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum RollError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("{holder} rolls through this cluster, or did until less than {seconds} seconds ago: one at a time")]
    Held { holder: String, seconds: i64 },
}

/// Lets the scheduler pass over a node, or not any more. A node that somebody else has cordoned stays as it is.
pub async fn cordon(api: &Api, node: &str, unschedulable: bool) -> Result<(), RollError> {
    let path = format!("/api/v1/nodes/{node}");
    let found = api.get(&path).await?;
    let is_cordoned = found["spec"]["unschedulable"] == true;
    let is_ours = found["metadata"]["annotations"].get(CORDONED).is_some();
    if is_cordoned == unschedulable || is_cordoned && !is_ours {
        return Ok(());
    }
    let (mark, value) = if unschedulable { (json!("roll"), json!(true)) } else { (Value::Null, Value::Null) };
    let patch = json!({"metadata": {"annotations": {CORDONED: mark}}, "spec": {"unschedulable": value}});
    api.merge(&path, &patch).await?;
    Ok(())
}

/// What a drain does with a pod (kubectl-drain(1)).
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// A DaemonSet's, a static one, one that has ended.
    Stays,
    Ends,
    Evicted,
}

fn fate(pod: &Value) -> Fate {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let of_daemon_set =
        owners.into_iter().flatten().any(|owner| owner["controller"] == true && owner["kind"] == "DaemonSet");
    let is_static = pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
    match text("/status/phase") {
        Some("Succeeded" | "Failed") => Fate::Stays,
        _ if of_daemon_set || is_static => Fate::Stays,
        _ if text("/metadata/deletionTimestamp").is_some() => Fate::Ends,
        _ => Fate::Evicted,
    }
}

/// Evicts what may go, by the eviction API, which keeps PodDisruptionBudgets; what is still on the node. To be asked
/// again until nothing is.
pub async fn drain(api: &Api, node: &str) -> Result<Drained, RollError> {
    let pods = api.get(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")).await?;
    let mut remaining = Vec::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let why = match fate(pod) {
            Fate::Stays => continue,
            Fate::Ends => "it ends".to_owned(),
            Fate::Evicted => match evict(api, &namespace, &name).await {
                Ok(()) => "it ends".to_owned(),
                Err(error) if error.code() == Some(404) => continue,
                Err(error) if matches!(error.code(), Some(429 | 500)) => error.to_string(),
                Err(error) => return Err(error.into()),
            },
        };
        remaining.push(RemainingPod { namespace, name, why });
    }
    Ok(Drained { remaining })
}

async fn evict(api: &Api, namespace: &str, name: &str) -> Result<(), ApiError> {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace},
    });
    api.post(&format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"), &eviction).await.map(drop)
}

/// Takes, keeps or gives back the lock of rolls, a Lease: its holder must ask again within the seconds that it names.
pub async fn lock(api: &Api, request: &LockRequest, now: OffsetDateTime) -> Result<(), RollError> {
    let found = api.find(&format!("{LEASES}/{LEASE}")).await?;
    if let Some((holder, left)) = found.as_ref().and_then(|lease| held_by(lease, now))
        && holder != request.holder
    {
        return Err(RollError::Held { holder, seconds: left.whole_seconds() + 1 });
    }
    let holder = if request.release { Value::Null } else { json!(request.holder) };
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": LEASE, "namespace": "kube-system"},
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": request.seconds,
            "renewTime": now.format(MICRO_TIME).unwrap_or_default(),
        },
    });
    // With the version, the API refuses when another took it meanwhile.
    match found {
        Some(found) => {
            lease["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
            api.put(&format!("{LEASES}/{LEASE}"), &lease).await?;
        }
        None => drop(api.post(LEASES, &lease).await?),
    }
    Ok(())
}

/// Who holds it, and for how long if nothing more is heard of it.
fn held_by(lease: &Value, now: OffsetDateTime) -> Option<(String, Duration)> {
    let spec = lease.get("spec")?;
    let renewed = PrimitiveDateTime::parse(spec.get("renewTime")?.as_str()?, MICRO_TIME).ok()?.assume_utc();
    let end = renewed + Duration::seconds(spec.get("leaseDurationSeconds")?.as_i64()?);
    let holder = spec.get("holderIdentity")?.as_str().filter(|holder| !holder.is_empty())?;
    (end > now).then(|| (holder.to_owned(), end - now))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{self, TestTls};
    use http_body_util::BodyExt;
    use std::sync::{Arc, Mutex};

    fn pod(name: &str, more: &Value) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "default"}, "status": {"phase": "Running"}});
        for (key, value) in more.as_object().unwrap() {
            for (inner, value) in value.as_object().unwrap() {
                pod[key][inner] = value.clone();
            }
        }
        pod
    }

    #[test]
    fn the_fate_of_pods() {
        let owner = |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}});
        for (more, wanted) in [
            (json!({}), Fate::Evicted),
            (owner("ReplicaSet"), Fate::Evicted),
            (owner("DaemonSet"), Fate::Stays),
            (json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}), Fate::Stays),
            (json!({"status": {"phase": "Succeeded"}}), Fate::Stays),
            (json!({"metadata": {"deletionTimestamp": "2026-11-28T00:00:00Z"}}), Fate::Ends),
        ] {
            assert_eq!(fate(&pod("a", &more)), wanted, "{more}");
        }
    }

    #[test]
    fn a_lock_is_held_until_its_time_is_over() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap();
        let lease = |holder: Value, seconds_ago: i64| {
            let renewed = (now - Duration::seconds(seconds_ago)).format(MICRO_TIME).unwrap();
            json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 60, "renewTime": renewed}})
        };
        let held = |lease: &Value| held_by(lease, now).map(|(holder, left)| (holder, left.whole_seconds()));
        assert_eq!(held(&lease(json!("ann"), 10)), Some(("ann".into(), 50)));
        assert_eq!(held(&lease(json!("ann"), 60)), None);
        assert_eq!(held(&lease(Value::Null, 10)), None);
        assert_eq!(held(&json!({})), None);
    }

    /// An API server with three pods, of which one's budget does not let it go, and with a lease.
    async fn api() -> (Api, Arc<Mutex<Vec<String>>>) {
        let (tls, asked) = (TestTls::new(), Arc::new(Mutex::new(Vec::new())));
        let (log, lease) = (asked.clone(), Arc::new(Mutex::new(None::<Value>)));
        let address = tls
            .serve(move |request| {
                let (log, lease) = (log.clone(), lease.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let line = format!("{} {}", parts.method, parts.uri.path());
                    log.lock().unwrap().push(line.clone());
                    let mut lease = lease.lock().unwrap();
                    match line.as_str() {
                        "GET /api/v1/pods" => (
                            200,
                            json!({"items": [
                                pod("free", &json!({})), pod("kept", &json!({})), pod("gone", &json!({})),
                                pod("over", &json!({"status": {"phase": "Failed"}})),
                            ]}),
                        ),
                        line if line.ends_with("/free/eviction") => (201, json!({})),
                        line if line.ends_with("/kept/eviction") => (429, json!({"message": "the budget"})),
                        line if line.ends_with("/gone/eviction") => (404, json!({})),
                        "GET /api/v1/nodes/n1" => (200, json!({"metadata": {"annotations": {}}, "spec": {}})),
                        "GET /api/v1/nodes/n2" => (200, json!({"metadata": {}, "spec": {"unschedulable": true}})),
                        line if line.starts_with("PATCH /api/v1/nodes/") => (200, json!({})),
                        line if line.contains("/leases") && line.starts_with("GET") => match &*lease {
                            Some(lease) => (200, lease.clone()),
                            None => (404, json!({})),
                        },
                        line if line.contains("/leases") => {
                            *lease = serde_json::from_slice(&body).unwrap();
                            (200, json!({}))
                        }
                        _ => (500, json!({})),
                    }
                }
            })
            .await;
        (Api::new(address, testing::NAME, tls.client()), asked)
    }

    #[test]
    fn pods_go_as_their_budgets_let_them_and_one_operator_rolls_at_a_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (api, asked) = api().await;
            cordon(&api, "n1", true).await.unwrap();
            // Somebody else's.
            cordon(&api, "n2", false).await.unwrap();
            let patched = |line: &&String| line.starts_with("PATCH");
            assert_eq!(asked.lock().unwrap().iter().filter(patched).collect::<Vec<_>>(), ["PATCH /api/v1/nodes/n1"]);
            let drained = drain(&api, "n1").await.unwrap();
            let names: Vec<&str> = drained.remaining.iter().map(|pod| pod.name.as_str()).collect();
            assert_eq!(names, ["free", "kept"]);
            assert!(drained.remaining[1].why.contains("the budget"), "{}", drained.remaining[1].why);
            assert!(!asked.lock().unwrap().iter().any(|line| line.contains("over")));

            let now = OffsetDateTime::now_utc();
            let request = |holder: &str, release| LockRequest { holder: holder.into(), seconds: 60, release };
            lock(&api, &request("ann", false), now).await.unwrap();
            let refused = lock(&api, &request("bob", false), now).await.unwrap_err().to_string();
            assert!(refused.contains("ann rolls"), "{refused}");
            lock(&api, &request("ann", false), now + Duration::seconds(30)).await.unwrap();
            assert!(lock(&api, &request("bob", false), now + Duration::seconds(80)).await.is_err());
            lock(&api, &request("bob", false), now + Duration::seconds(91)).await.unwrap();
            lock(&api, &request("bob", true), now + Duration::seconds(92)).await.unwrap();
            lock(&api, &request("ann", false), now + Duration::seconds(93)).await.unwrap();
        });
    }
}
