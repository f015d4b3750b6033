//! What the agent answers, to whom: one line an endpoint.

use crate::server::Caller;
use hyper::Method;
use spec::agent::{organization, path};

/// What is done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Report,
    Learner,
    Join,
    Pending,
    Approve,
    JoinVoid,
    Handover,
    Trust,
    TakeTrust,
    Status,
    Log,
    Dmesg,
    Processes,
    Network,
    Disks,
    Certificates,
    EtcdMembers,
    EtcdDefrag,
    EtcdHold,
    Reboot,
    Shutdown,
    Reset,
    EtcdOrder,
    EtcdSnapshot,
    EtcdRestore,
    Upgrade,
    TakeUpgrade,
    UpgradeChunk,
    Cordon,
    Drain,
    Lock,
}

#[derive(Debug)]
pub struct Endpoint {
    pub method: Method,
    /// `path::NAME` stands for one name in it.
    pub path: &'static str,
    /// `spec::agent::organization`
    pub callers: &'static [&'static str],
    pub call: Call,
}

const MASTERS: &[&str] = &[organization::MASTER];
const JOINERS: &[&str] = &[organization::JOIN, organization::PENDING, organization::NODE];
const ADMINS: &[&str] = &[organization::ADMIN];
const OPERATORS: &[&str] = &[organization::OPERATOR, organization::ADMIN];
const READERS: &[&str] = &[organization::READER, organization::OPERATOR, organization::ADMIN];
const MASTERS_AND_READERS: &[&str] =
    &[organization::MASTER, organization::READER, organization::OPERATOR, organization::ADMIN];
const MEMBERS_AND_READERS: &[&str] =
    &[organization::MASTER, organization::NODE, organization::READER, organization::OPERATOR, organization::ADMIN];

pub static TABLE: [Endpoint; 31] = [
    get(path::REPORT, MASTERS, Call::Report),
    post(path::LEARNER, MASTERS, Call::Learner),
    post(path::JOIN, JOINERS, Call::Join),
    get(path::PENDING, READERS, Call::Pending),
    post(path::APPROVE, OPERATORS, Call::Approve),
    post(path::JOIN_VOID, ADMINS, Call::JoinVoid),
    post(path::HANDOVER, &[organization::JOIN], Call::Handover),
    get(path::TRUST, READERS, Call::Trust),
    post(path::TRUST, ADMINS, Call::TakeTrust),
    get(path::STATUS, MEMBERS_AND_READERS, Call::Status),
    get(path::LOG, READERS, Call::Log),
    get(path::DMESG, READERS, Call::Dmesg),
    get(path::PROCESSES, READERS, Call::Processes),
    get(path::NETWORK, READERS, Call::Network),
    get(path::DISKS, READERS, Call::Disks),
    get(path::CERTIFICATES, READERS, Call::Certificates),
    get(path::ETCD_MEMBERS, MASTERS_AND_READERS, Call::EtcdMembers),
    post(path::ETCD_DEFRAG, OPERATORS, Call::EtcdDefrag),
    post(path::ETCD_HOLD, MASTERS, Call::EtcdHold),
    post(path::REBOOT, OPERATORS, Call::Reboot),
    post(path::SHUTDOWN, OPERATORS, Call::Shutdown),
    post(path::RESET, ADMINS, Call::Reset),
    post(path::ETCD_ORDER, ADMINS, Call::EtcdOrder),
    get(path::ETCD_SNAPSHOT, ADMINS, Call::EtcdSnapshot),
    post(path::ETCD_RESTORE, ADMINS, Call::EtcdRestore),
    get(path::UPGRADE, READERS, Call::Upgrade),
    post(path::UPGRADE, OPERATORS, Call::TakeUpgrade),
    post(path::UPGRADE_CHUNK, OPERATORS, Call::UpgradeChunk),
    post(path::CORDON, OPERATORS, Call::Cordon),
    post(path::DRAIN, OPERATORS, Call::Drain),
    post(path::LOCK, OPERATORS, Call::Lock),
];

const fn get(path: &'static str, callers: &'static [&'static str], call: Call) -> Endpoint {
    Endpoint { method: Method::GET, path, callers, call }
}

const fn post(path: &'static str, callers: &'static [&'static str], call: Call) -> Endpoint {
    Endpoint { method: Method::POST, path, callers, call }
}

impl Endpoint {
    pub fn admits(&self, caller: &Caller) -> bool {
        self.callers.contains(&caller.organization.as_str())
    }
}

/// The endpoint of a request, and the name in its path; empty where the path has none.
pub fn find<'a>(method: &Method, path: &'a str) -> Option<(&'static Endpoint, &'a str)> {
    TABLE.iter().filter(|endpoint| endpoint.method == *method).find_map(|endpoint| {
        let name = name_in(endpoint.path, path)?;
        Some((endpoint, name))
    })
}

fn name_in<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    match template.split_once(path::NAME) {
        None => (template == path).then_some(""),
        Some((before, behind)) => {
            let name = path.strip_prefix(before)?.strip_suffix(behind)?;
            (!name.is_empty() && !name.contains('/')).then_some(name)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const ORGANIZATIONS: [&str; 8] = [
        organization::MASTER,
        organization::NODE,
        organization::JOIN,
        organization::PENDING,
        organization::READER,
        organization::OPERATOR,
        organization::ADMIN,
        "",
    ];

    /// Initials of who may.
    fn may(endpoint: &Endpoint) -> String {
        let admits = |&&organization: &&&str| {
            endpoint.admits(&Caller { name: "x".into(), organization: organization.to_owned(), issued: 0 })
        };
        ORGANIZATIONS
            .iter()
            .filter(admits)
            .map(|name| name.rsplit(':').next().unwrap_or_default()[..1].to_owned())
            .collect()
    }

    #[test]
    fn who_may_what() {
        let table: Vec<_> = TABLE.iter().map(|one| format!("{} {} {}", one.method, one.path, may(one))).collect();
        assert_eq!(
            table,
            [
                "GET /v1/etcd/report m",
                "POST /v1/etcd/learner m",
                "POST /v1/join njp",
                "GET /v1/pending roa",
                "POST /v1/approve oa",
                "POST /v1/join/void a",
                "POST /v1/handover j",
                "GET /v1/trust roa",
                "POST /v1/trust a",
                "GET /v1/status mnroa",
                "GET /v1/logs/{name} roa",
                "GET /v1/dmesg roa",
                "GET /v1/processes roa",
                "GET /v1/network roa",
                "GET /v1/disks roa",
                "GET /v1/certificates roa",
                "GET /v1/etcd/members mroa",
                "POST /v1/etcd/defrag oa",
                "POST /v1/etcd/hold m",
                "POST /v1/reboot oa",
                "POST /v1/shutdown oa",
                "POST /v1/reset a",
                "POST /v1/etcd/order a",
                "GET /v1/etcd/snapshot a",
                "POST /v1/etcd/restore/{name} a",
                "GET /v1/upgrade roa",
                "POST /v1/upgrade oa",
                "POST /v1/upgrade/{name} oa",
                "POST /v1/nodes/{name}/cordon oa",
                "POST /v1/nodes/{name}/drain oa",
                "POST /v1/lock oa",
            ]
        );
    }

    #[test]
    fn a_path_is_found_whole_or_not_at_all() {
        fn found(method: Method, path: &str) -> Option<(Call, String)> {
            find(&method, path).map(|(endpoint, name)| (endpoint.call, name.to_owned()))
        }
        assert_eq!(found(Method::GET, "/v1/status"), Some((Call::Status, String::new())));
        assert_eq!(found(Method::GET, "/v1/logs/etcd"), Some((Call::Log, "etcd".into())));
        assert_eq!(found(Method::GET, &path::log("kubelet")), Some((Call::Log, "kubelet".into())));
        for path in ["/v1/logs/", "/v1/logs", "/v1/logs/a/b", "/v1/logs/../status", "/v1/status/", "/status", ""] {
            assert_eq!(found(Method::GET, path), None, "{path}");
        }
        assert_eq!(found(Method::POST, "/v1/status"), None);
        assert_eq!(found(Method::GET, "/v1/reboot"), None);
    }

    #[test]
    fn the_description_has_every_endpoint_and_no_other() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/node-api.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let document: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        let described: BTreeMap<&str, BTreeSet<String>> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, methods)| (path.as_str(), methods.as_object().unwrap().keys().cloned().collect()))
            .collect();
        let mut wanted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for endpoint in &TABLE {
            wanted.entry(endpoint.path).or_default().insert(endpoint.method.as_str().to_lowercase());
            let operation = &document["paths"][endpoint.path][endpoint.method.as_str().to_lowercase()];
            let callers: BTreeSet<&str> =
                operation["x-callers"].as_array().unwrap().iter().map(|caller| caller.as_str().unwrap()).collect();
            assert_eq!(callers, endpoint.callers.iter().copied().collect(), "{}", endpoint.path);
        }
        assert_eq!(described, wanted);
        for reference in references(&document) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    fn references(value: &serde_json::Value) -> Vec<String> {
        match value {
            serde_json::Value::Array(list) => list.iter().flat_map(references).collect(),
            serde_json::Value::Object(object) => {
                let own = object.get("$ref").and_then(|value| value.as_str()).map(str::to_owned);
                own.into_iter().chain(object.values().flat_map(references)).collect()
            }
            _ => Vec::new(),
        }
    }
}
