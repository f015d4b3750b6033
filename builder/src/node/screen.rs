//! `imgbuild cluster status`: the whole cluster on one screen.

use super::survey::{Seen, Survey, first_end};
use super::table::table;
use indicatif::HumanBytes;
use spec::agent::EtcdMember;
use spec::cluster::Role;
use spec::status::{ETCD_HEALTHY, ETCD_WAITING, ServiceStatus};

const NONE: &str = "-";
/// Names of services that have room in a line.
const SERVICES: usize = 2;

/// A line for each machine, etcd's members below, and what is not well.
pub fn screen(survey: &Survey) -> String {
    let head = ["MACHINE", "ROLE", "ADDRESS", "IMAGE", "ETCD", "SERVICES", "CERTIFICATES", "STATE"];
    let rows: Vec<_> = survey.machines.iter().map(|seen| machine(seen, survey.at)).collect();
    let mut text = format!("cluster {}\n\n{}\n", survey.cluster, table(head, &rows));
    text.push_str(&members(&survey.etcd));
    text.push('\n');
    if survey.troubles.is_empty() {
        text.push_str("All is well.\n");
    } else {
        text.push_str("Not well:\n");
        for trouble in &survey.troubles {
            text.push_str(&format!("  {trouble}\n"));
        }
    }
    text
}

fn machine(seen: &Seen, now: i64) -> [String; 8] {
    let address = seen.address.map_or_else(|| "DHCP".to_owned(), |address| address.ip().to_string());
    let (name, role) = (seen.name.clone(), seen.role.name().to_owned());
    let none = || NONE.to_owned();
    let Some(status) = &seen.status else {
        let state = seen.trouble.clone().unwrap_or_default();
        return [name, role, address, none(), none(), none(), none(), state];
    };
    let etcd = match (seen.role, status.node.etcd.as_deref()) {
        (Role::Master, Some(ETCD_HEALTHY)) => ETCD_HEALTHY.to_owned(),
        (Role::Master, _) => ETCD_WAITING.to_owned(),
        (Role::Node, _) => none(),
    };
    let certificates = first_end(status, now).map_or_else(none, |(_, days)| life(days));
    let state = if status.init.shutting_down { "goes down".to_owned() } else { status.node.phase.clone() };
    [name, role, address, status.image.clone(), etcd, services(&status.init.services), certificates, state]
}

fn life(days: i64) -> String {
    if days < 0 { "ended".to_owned() } else { format!("{days} d") }
}

/// Those that are not up.
fn services(services: &[ServiceStatus]) -> String {
    let down: Vec<&str> = services.iter().filter(|one| !one.state.is_well()).map(|one| one.name.as_str()).collect();
    match down.len() {
        0 => "ready".to_owned(),
        count if count <= SERVICES => format!("not {}", down.join(", ")),
        count => format!("not {} +{}", down[..SERVICES].join(", "), count - SERVICES),
    }
}

/// etcd's members with their leader.
pub(super) fn members(members: &[EtcdMember]) -> String {
    if members.is_empty() {
        return "No master's etcd answers.\n".to_owned();
    }
    let row = |member: &EtcdMember| {
        let role = match (&member.health, member.learner) {
            (None, _) => "does not answer",
            (Some(_), true) => "learner",
            (Some(health), false) if health.leader => "leader",
            (Some(health), false) if health.has_leader => "follower",
            (Some(_), false) => "no leader",
        };
        let size = member.health.as_ref().map(|health| HumanBytes(health.database_size.unsigned_abs()).to_string());
        let name = if member.name.is_empty() { "(not started)" } else { &member.name };
        [
            name.to_owned(),
            member.id.clone(),
            role.to_owned(),
            size.unwrap_or_else(|| NONE.to_owned()),
            member.peer_urls.join(", "),
        ]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    table(["ETCD", "MEMBER", "IS", "DATABASE", "PEER URL"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::agent::{AgentStatus, EtcdHealth, VERSION};
    use spec::status::{InitStatus, NodeStatus, ServiceState};

    const NOW: i64 = 1_795_000_000;
    const DAY: i64 = 24 * 3600;

    fn service(name: &str, state: ServiceState, detail: Option<&str>) -> ServiceStatus {
        ServiceStatus {
            name: name.into(),
            state,
            pid: None,
            restarts: 0,
            since_ms: 0,
            detail: detail.map(str::to_owned),
        }
    }

    fn seen(name: &str, role: Role, last: u8, phase: &str, etcd: Option<&str>) -> Seen {
        let status = AgentStatus {
            version: VERSION,
            image: "0.1.0-4f2a".into(),
            cluster_id: Some("c1".into()),
            node: NodeStatus {
                ready: phase == "Ready",
                phase: phase.into(),
                etcd: etcd.map(str::to_owned),
                ..NodeStatus::default()
            },
            init: InitStatus {
                services: vec![
                    service("agent", ServiceState::Ready, None),
                    service("import-images", ServiceState::Done, None),
                ],
                ..InitStatus::default()
            },
            certificates: [
                ("kubernetes/kubelet".to_owned(), NOW + 364 * DAY + 5),
                ("machine/agent".to_owned(), NOW + 243 * DAY),
            ]
            .into(),
            slots: Vec::new(),
        };
        let address = Some(([192, 0, 2, last], 7443).into());
        Seen { name: name.into(), role, address, status: Some(status), trouble: None }
    }

    fn silent(name: &str, role: Role, last: Option<u8>, trouble: &str) -> Seen {
        let address = last.map(|last| ([192, 0, 2, last], 7443).into());
        Seen { name: name.into(), role, address, status: None, trouble: Some(trouble.into()) }
    }

    fn member(name: &str, number: u64, leader: bool, up: bool) -> EtcdMember {
        let health = EtcdHealth { leader, has_leader: true, database_size: 25 << 20, errors: Vec::new() };
        EtcdMember {
            id: format!("8e9e05c5216469{number:02x}"),
            name: name.into(),
            peer_urls: vec![format!("https://192.0.2.{number}:2380")],
            client_urls: Vec::new(),
            learner: false,
            health: up.then_some(health),
        }
    }

    #[test]
    fn a_cluster_that_is_well() {
        let machines = vec![
            seen("m1", Role::Master, 11, "Ready", Some("healthy")),
            seen("m2", Role::Master, 12, "Ready", Some("healthy")),
            seen("node-17", Role::Node, 117, "Ready", None),
        ];
        let etcd = vec![member("m1", 11, false, true), member("m2", 12, true, true)];
        let survey = Survey::of("lab", NOW, machines, etcd);
        assert!(survey.troubles.is_empty());
        insta::assert_snapshot!(screen(&survey));
    }

    #[test]
    fn a_cluster_with_troubles() {
        let waits = "cluster c1 has no quorum (only m1 of its members answered), and no other is formed beside it: switch on m3";
        let mut first = seen("m1", Role::Master, 11, "waiting for the API server", Some(waits));
        if let Some(status) = &mut first.status {
            status.init.services.extend([
                service("kube-apiserver", ServiceState::Failed, Some("ended with status 1")),
                service("kubelet", ServiceState::Waiting, None),
                service("kube-scheduler", ServiceState::Waiting, None),
            ]);
            status.certificates.insert("etcd/peer".into(), NOW - 5);
        }
        let mut second = seen("m2", Role::Master, 12, "Ready", Some("healthy"));
        if let Some(status) = &mut second.status {
            status.init.shutting_down = true;
        }
        let machines = vec![
            first,
            second,
            silent("m3", Role::Master, Some(13), "does not answer: connection refused"),
            silent("n1", Role::Node, None, "has no address in the definition (DHCP): --address n1=IP"),
        ];
        let mut learner = member("", 13, false, true);
        learner.learner = true;
        let etcd = vec![learner, member("m1", 11, true, true), member("m2", 12, false, false)];
        insta::assert_snapshot!(screen(&Survey::of("lab", NOW, machines, etcd)));
    }

    #[test]
    fn masters_that_wait_say_so_once() {
        let waits = "forming the cluster waits for m3 (no answer): switch on or repair m3";
        let machines = vec![seen("m1", Role::Master, 11, waits, Some("waiting"))];
        let survey = Survey::of("lab", NOW, machines, Vec::new());
        insta::assert_snapshot!(screen(&survey));
    }
}
