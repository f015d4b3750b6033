//! The status page: pure text from what init and the agent know.

use spec::status::{NodeStatus, ServiceState, ServiceStatus};
use std::fmt::Write;

/// What the page shows.
pub struct View<'a> {
    pub name: &'a str,
    pub role: &'a str,
    pub cluster: &'a str,
    pub image: &'a str,
    pub version: &'a str,
    pub addresses: &'a [String],
    pub services: &'a [ServiceStatus],
    pub node: Option<&'a NodeStatus>,
    pub headline: &'a str,
    pub trouble: Option<&'a str>,
}

/// The page, without escape sequences, lines ended by `\n`.
pub fn render(view: &View<'_>) -> String {
    let mut text = String::new();
    let mut row = |label: &str, value: &str| {
        let _ = writeln!(text, "  {label:<10} {value}");
    };
    row("machine", &format!("{} ({})", view.name, view.role));
    row("cluster", view.cluster);
    row("address", &if view.addresses.is_empty() { "none yet".to_owned() } else { view.addresses.join(", ") });
    row("image", &format!("{} {}", view.image, view.version));
    row("state", view.headline);
    if let Some(node) = view.node {
        if let Some(version) = &node.kubernetes_version {
            row("kubernetes", version);
        }
        for (label, value) in [("etcd", &node.etcd), ("clock", &node.clock)] {
            if let Some(value) = value {
                row(label, value);
            }
        }
        if let Some(pods) = node.pods {
            row("pods", &pods.to_string());
        }
    }
    row("services", &services(view.services));
    for service in view.services.iter().filter(|service| !service.state.is_well()) {
        let detail = service.detail.as_deref().unwrap_or("");
        row("", format!("{} {} {detail}", service.name, word(service.state)).trim_end());
    }
    if let Some(trouble) = view.trouble {
        row("trouble", trouble);
    }
    format!("{line}\n{text}{line}\n", line = "-".repeat(72))
}

fn services(all: &[ServiceStatus]) -> String {
    let good = all.iter().filter(|service| service.state.is_well()).count();
    format!("{good} of {} ready", all.len())
}

const fn word(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Waiting => "waits",
        ServiceState::Starting => "starts",
        ServiceState::Ready => "ready",
        ServiceState::Done => "done",
        ServiceState::Failed => "failed",
        ServiceState::Stopping => "stops",
        ServiceState::Stopped => "stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page() {
        let service = |name: &str, state, detail: Option<&str>| ServiceStatus {
            name: name.into(),
            state,
            pid: None,
            restarts: 0,
            since_ms: 0,
            detail: detail.map(str::to_owned),
        };
        let services = [
            service("etcd", ServiceState::Ready, None),
            service("kubelet", ServiceState::Waiting, Some("for containerd")),
        ];
        let node = NodeStatus { kubernetes_version: Some("v1.37.2".into()), pods: Some(2), ..NodeStatus::default() };
        let text = render(&View {
            name: "m1",
            role: "master",
            cluster: "default",
            image: "master-vm",
            version: "0.1.0",
            addresses: &["10.0.2.15/24".to_owned()],
            services: &services,
            node: Some(&node),
            headline: "waiting for kubelet",
            trouble: None,
        });
        let line = "-".repeat(72);
        assert_eq!(
            text,
            format!(
                "{line}\n  machine    m1 (master)\n  cluster    default\n  address    10.0.2.15/24\n  image      master-vm 0.1.0\n  state      waiting for kubelet\n  kubernetes v1.37.2\n  pods       2\n  services   1 of 2 ready\n             kubelet waits for containerd\n{line}\n"
            )
        );
    }
}
