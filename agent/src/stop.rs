//! `agent stop-pods`, called by init when the machine goes down and the kubelet has stopped: the node
//! is marked NotReady, every pod's containers get SIGTERM and their own grace period, then the
//! sandboxes are stopped. Bounded as a whole.

use crate::api::Api;
use crate::containerd::*;
use crate::grpc::{self, GrpcError};
use crate::http::Connection;
use crate::machine::say;
use serde_json::json;
use std::time::Duration;

/// Longest grace that a pod gets at shutdown.
const LONGEST_GRACE: u64 = 45;
/// The whole of it, sandboxes included.
const TOTAL: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(5);
/// kubelet's annotation on a container: seconds.
const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";
const DEFAULT_GRACE: u64 = 30;

/// Stops everything; what is left after a minute is left for init to kill.
pub async fn run(api: Option<(Api, String)>) {
    let work = async {
        if let Some((api, node)) = api {
            mark_not_ready(&api, &node).await;
        }
        match stop_pods().await {
            Ok(count) => say(format!("stopped {count} containers")),
            Err(error) => say(format!("stopping pods: {error}")),
        }
    };
    if tokio::time::timeout(TOTAL, work).await.is_err() {
        say("stopping pods: not done after 60 s, the rest is killed");
    }
}

async fn mark_not_ready(api: &Api, node: &str) {
    let now =
        time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    let condition = json!({
        "type": "Ready", "status": "False", "reason": "Shutdown", "message": "the machine is shutting down",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    // Conditions merge by their type in a strategic patch; one entry changes one condition.
    let patch = json!({"status": {"conditions": [condition]}});
    match tokio::time::timeout(SHORT, api.patch_status(&format!("/api/v1/nodes/{node}/status"), &patch)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => say(format!("marking the node NotReady: {error}")),
        Err(_) => say("marking the node NotReady: the API does not answer"),
    }
}

async fn stop_pods() -> Result<usize, GrpcError> {
    let connection = Connection::unix(SOCKET).await?;
    let list: Containers = grpc::call(&connection, CRI_LIST_CONTAINERS, &[], &Empty {}, SHORT).await?;
    let running: Vec<_> = list.containers.into_iter().filter(|container| container.state == RUNNING).collect();
    let count = running.len();
    let mut stops = tokio::task::JoinSet::new();
    for container in running {
        let connection = connection.clone();
        stops.spawn(async move {
            let grace = grace(&container);
            let request = StopContainer { id: container.id.clone(), timeout: grace as i64 };
            let limit = Duration::from_secs(grace + 10);
            if let Err(error) = grpc::call::<_, Empty>(&connection, CRI_STOP_CONTAINER, &[], &request, limit).await {
                say(format!("container {}: {error}", container.id));
            }
        });
    }
    while stops.join_next().await.is_some() {}
    let list: Sandboxes = grpc::call(&connection, CRI_LIST_SANDBOXES, &[], &Empty {}, SHORT).await?;
    for sandbox in list.items.into_iter().filter(|sandbox| sandbox.state == 0) {
        let connection = connection.clone();
        stops.spawn(async move {
            let request = SandboxId { id: sandbox.id.clone() };
            if let Err(error) = grpc::call::<_, Empty>(&connection, CRI_STOP_SANDBOX, &[], &request, SHORT * 2).await {
                say(format!("sandbox {}: {error}", sandbox.id));
            }
        });
    }
    while stops.join_next().await.is_some() {}
    Ok(count)
}

/// Seconds that the container gets: its pod's wish, at most `LONGEST_GRACE`.
fn grace(container: &Container) -> u64 {
    let wish = container.annotations.get(GRACE_ANNOTATION).and_then(|text| text.parse().ok());
    wish.unwrap_or(DEFAULT_GRACE).min(LONGEST_GRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_own_grace_counts_up_to_a_bound() {
        let container = |text: &str| Container {
            annotations: [(GRACE_ANNOTATION.to_string(), text.to_string())].into(),
            ..Container::default()
        };
        assert_eq!(grace(&container("5")), 5);
        assert_eq!(grace(&container("3600")), LONGEST_GRACE);
        assert_eq!(grace(&container("x")), DEFAULT_GRACE);
        assert_eq!(grace(&Container::default()), DEFAULT_GRACE);
    }
}
