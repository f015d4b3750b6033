//! What one machine says, for a person.

use super::screen;
use super::survey::{first_end, state_word};
use super::table::table;
use indicatif::HumanBytes;
use spec::agent::{
    AgentStatus, Certificates, Disks, EtcdMember, KernelMessage, Network, PendingMachine, Process, SlotState,
    SlotStatus,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const DAY: i64 = 24 * 3600;
const NONE: &str = "-";

/// The machine and its services.
pub fn status(status: &AgentStatus, now: i64) -> String {
    let node = &status.node;
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
    let certificate = first_end(status, now);
    let lines = [
        ("machine", format!("{}, {} of {}", node.name, node.role, node.cluster)),
        ("state", node.phase.clone()),
        ("image", status.image.clone()),
        ("kubernetes", word(&node.kubernetes_version)),
        ("addresses", node.addresses.join(", ")),
        ("etcd", word(&node.etcd)),
        ("cluster id", word(&status.cluster_id)),
        ("pods", node.pods.map_or_else(|| NONE.to_owned(), |pods| pods.to_string())),
        ("clock", word(&node.clock)),
        (
            "certificates",
            certificate.map_or_else(|| NONE.to_owned(), |(name, days)| format!("{name} ends first, {}", in_days(days))),
        ),
    ];
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect();
    for stage in status.init.stages.iter().filter(|stage| stage.error.is_some()) {
        text.push_str(&format!("{:<13} {}: {}\n", "boot", stage.name, word(&stage.error)));
    }
    let slots: Vec<String> = status.slots.iter().map(slot).collect();
    if !slots.is_empty() {
        text.push_str(&format!("{:<13} {}\n", "slots", slots.join(", ")));
    }
    for (key, wanted, found) in &status.init.sysctl_failures {
        text.push_str(&format!("{:<13} {key} is {found}, wanted {wanted}\n", "sysctl"));
    }
    let rows: Vec<_> = status
        .init
        .services
        .iter()
        .map(|service| {
            [
                service.name.clone(),
                state_word(service.state).to_owned(),
                service.pid.map_or_else(|| NONE.to_owned(), |pid| pid.to_string()),
                service.restarts.to_string(),
                service.detail.clone().unwrap_or_default(),
            ]
        })
        .collect();
    format!("{text}\n{}", table(["SERVICE", "STATE", "PID", "RESTARTS", "DETAIL"], &rows))
}

/// `b (good, runs)`
fn slot(slot: &SlotStatus) -> String {
    let state = match slot.state {
        SlotState::Good => "good",
        SlotState::Trial => "on trial",
        SlotState::Bad => "bad",
    };
    format!("{} ({state}{})", slot.slot.letter(), if slot.running { ", runs" } else { "" })
}

/// Seconds since kernel start, and the message.
pub fn dmesg(messages: &[KernelMessage]) -> String {
    let line = |message: &KernelMessage| {
        let (seconds, rest) = (message.since_start_us / 1_000_000, message.since_start_us % 1_000_000);
        format!("[{seconds:>5}.{rest:06}] {}\n", message.text)
    };
    messages.iter().map(line).collect()
}

pub fn processes(processes: &[Process]) -> String {
    let row = |process: &Process| {
        [
            process.pid.to_string(),
            process.user_id.to_string(),
            HumanBytes(process.resident).to_string(),
            format!("{:.1} s", process.cpu_seconds),
            process.name.clone(),
        ]
    };
    table(["PID", "USER", "RESIDENT", "CPU", "NAME"], &processes.iter().map(row).collect::<Vec<_>>())
}

pub fn network(network: &Network) -> String {
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
    let interfaces: Vec<_> = network
        .interfaces
        .iter()
        .map(|interface| {
            [
                interface.name.clone(),
                interface.state.clone(),
                word(&interface.mac),
                interface.mtu.to_string(),
                interface.addresses.join(", "),
            ]
        })
        .collect();
    let routes: Vec<_> = network
        .routes
        .iter()
        .map(|route| {
            let metric = route.metric.map_or_else(|| NONE.to_owned(), |metric| metric.to_string());
            [route.destination.clone(), word(&route.gateway), word(&route.interface), metric]
        })
        .collect();
    format!(
        "{}\n{}",
        table(["INTERFACE", "STATE", "MAC", "MTU", "ADDRESSES"], &interfaces),
        table(["DESTINATION", "GATEWAY", "INTERFACE", "METRIC"], &routes)
    )
}

pub fn disks(disks: &Disks) -> String {
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
    let rows: Vec<_> = disks
        .disks
        .iter()
        .map(|disk| {
            let kind = if disk.removable { "removable" } else { "fixed" };
            let size = HumanBytes(disk.size).to_string();
            [disk.name.clone(), size, kind.to_owned(), word(&disk.serial), word(&disk.model)]
        })
        .collect();
    let mounts: Vec<_> = disks
        .mounts
        .iter()
        .map(|mount| {
            [
                mount.target.clone(),
                mount.source.clone(),
                mount.file_system.clone(),
                HumanBytes(mount.size).to_string(),
                HumanBytes(mount.free).to_string(),
            ]
        })
        .collect();
    format!(
        "{}\n{}",
        table(["DISK", "SIZE", "KIND", "SERIAL", "MODEL"], &rows),
        table(["MOUNTED AT", "FROM", "TYPE", "SIZE", "FREE"], &mounts)
    )
}

/// What ends first comes first.
pub fn certificates(certificates: &Certificates, now: i64) -> String {
    let mut ends: Vec<_> = certificates.iter().collect();
    ends.sort_by_key(|(name, end)| (**end, *name));
    let row = |(name, end): (&String, &i64)| {
        let date =
            OffsetDateTime::from_unix_timestamp(*end).map_or_else(|_| end.to_string(), |end| end.date().to_string());
        [name.clone(), date, in_days((end - now).div_euclid(DAY))]
    };
    table(["CERTIFICATE", "ENDS ON", "THAT IS"], &ends.into_iter().map(row).collect::<Vec<_>>())
}

pub fn etcd_members(members: &[EtcdMember]) -> String {
    screen::members(members)
}

/// Who waits for an operator.
pub fn pending(machines: &[PendingMachine]) -> String {
    if machines.is_empty() {
        return "no machine waits\n".to_owned();
    }
    let row = |machine: &PendingMachine| {
        let since = OffsetDateTime::from_unix_timestamp(machine.since).ok();
        let since = since.and_then(|since| since.format(&Rfc3339).ok());
        [machine.name.clone(), machine.key.clone(), since.unwrap_or_else(|| NONE.to_owned())]
    };
    table(["MACHINE", "KEY", "SINCE"], &machines.iter().map(row).collect::<Vec<_>>())
}

fn in_days(days: i64) -> String {
    if days < 0 { format!("{} days ago", -days) } else { format!("in {days} days") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::agent::{Disk, Interface, Mount, Route, VERSION};
    use spec::layout::Slot;
    use spec::status::{InitStatus, NodeStatus, ServiceState, ServiceStatus, StageStatus};

    const NOW: i64 = 1_795_000_000;

    #[test]
    fn a_machine_and_its_services() {
        let service = |name: &str, state, pid, detail: Option<&str>| ServiceStatus {
            name: name.into(),
            state,
            pid,
            restarts: 0,
            since_ms: 0,
            detail: detail.map(str::to_owned),
        };
        let slot = |slot, generation, state, running| SlotStatus { slot, generation, state, running };
        let found = AgentStatus {
            version: VERSION,
            image: "0.1.0-4f2a".into(),
            cluster_id: None,
            node: NodeStatus {
                name: "m1".into(),
                role: "master".into(),
                cluster: "lab".into(),
                addresses: vec!["192.0.2.11/24".into()],
                phase: "forming the cluster waits for m3 (no answer)".into(),
                etcd: Some("waiting".into()),
                ..NodeStatus::default()
            },
            init: InitStatus {
                stages: vec![StageStatus {
                    name: "modules".into(),
                    started_ms: 1,
                    ended_ms: Some(2),
                    error: Some("no module x".into()),
                }],
                services: vec![
                    service("agent", ServiceState::Ready, Some(77), None),
                    service("etcd", ServiceState::Waiting, None, Some("waits for /etc/etcd/etcd.yaml")),
                ],
                sysctl_failures: vec![("vm.swappiness".into(), "0".into(), "60".into())],
                ..InitStatus::default()
            },
            certificates: [("machine/agent".to_owned(), NOW + 100 * DAY)].into(),
            slots: vec![slot(Slot::B, 2, SlotState::Trial, true), slot(Slot::A, 1, SlotState::Good, false)],
        };
        insta::assert_snapshot!(status(&found, NOW));
    }

    #[test]
    fn what_a_machine_is_made_of() {
        let found = Network {
            interfaces: vec![
                Interface {
                    name: "lo".into(),
                    state: "unknown".into(),
                    mtu: 65536,
                    addresses: vec!["127.0.0.1/8".into()],
                    mac: None,
                },
                Interface {
                    name: "eth0".into(),
                    state: "up".into(),
                    mac: Some("52:54:00:00:00:01".into()),
                    mtu: 1500,
                    addresses: vec!["192.0.2.11/24".into(), "fd00::11/64".into()],
                },
            ],
            routes: vec![Route {
                destination: "default".into(),
                gateway: Some("192.0.2.1".into()),
                interface: Some("eth0".into()),
                metric: None,
            }],
        };
        let hardware = Disks {
            disks: vec![Disk {
                name: "vda".into(),
                size: 16 << 30,
                model: None,
                serial: Some("SN-1".into()),
                removable: false,
            }],
            mounts: vec![Mount {
                source: "/dev/vda6".into(),
                target: "/var".into(),
                file_system: "ext4".into(),
                size: 10 << 30,
                free: 9 << 30,
            }],
        };
        let running = [Process { pid: 1, name: "init".into(), user_id: 0, resident: 3 << 20, cpu_seconds: 1.25 }];
        let messages = [KernelMessage { level: 6, since_start_us: 5_140_900, text: "NET: Registered".into() }];
        let ends = [("a".to_owned(), NOW + 30 * DAY), ("b".to_owned(), NOW - 2 * DAY)].into();
        insta::assert_snapshot!(
            [network(&found), disks(&hardware), processes(&running), dmesg(&messages), certificates(&ends, NOW)]
                .join("\n")
        );
    }
}
