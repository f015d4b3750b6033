//! How this machine's etcd starts: one decision over typed states. It never starts a second cluster
//! over a definition that had one, and says in words what a person must do instead.

use crate::facts::Facts;
use spec::cluster::Role;
use std::path::Path;

/// etcd's data folder.
pub const DATA_DIR: &str = "/var/lib/etcd";

/// What is known about etcd's data before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// No write-ahead log: etcd never ran here, or its data is gone.
    None,
    /// There is a write-ahead log.
    Present,
}

/// What etcd is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Go on with the data that is there; the initial flags are ignored by etcd.
    Resume,
    /// Form a cluster of this member alone.
    FormSingle,
    /// Do not start; the reason, with what to do.
    Refuse(String),
}

/// Looks whether etcd has data below `root`.
pub fn look(root: &Path) -> Data {
    let log = crate::facts::under(root, DATA_DIR).join("member/wal");
    let any = std::fs::read_dir(log).is_ok_and(|mut entries| entries.next().is_some());
    if any { Data::Present } else { Data::None }
}

/// Decides how etcd starts.
pub fn decide(facts: &Facts, data: Data) -> Start {
    let masters = facts.cluster.machines.iter().filter(|machine| machine.role == Role::Master).count();
    match (data, masters, facts.seed.may_form, &facts.seed.cluster_id) {
        (Data::Present, ..) => Start::Resume,
        (Data::None, _, _, Some(id)) => Start::Refuse(format!(
            "etcd has no data, but the cluster {} has formed before (id {id}): restore a snapshot, or give this machine a new seed",
            facts.cluster.name
        )),
        (Data::None, _, false, None) => Start::Refuse(format!(
            "etcd has no data and this seed has no permit to form the cluster {}: make a forming seed with `imgbuild cluster new`, or restore a snapshot",
            facts.cluster.name
        )),
        (Data::None, 0 | 1, true, None) => Start::FormSingle,
        (Data::None, count, true, None) => Start::Refuse(format!(
            "the cluster {} lists {count} masters; this image forms clusters of one master",
            facts.cluster.name
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;

    #[test]
    fn data_is_never_abandoned_and_a_cluster_forms_once() {
        let mut facts = example(time::OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap());
        assert_eq!(decide(&facts, Data::None), Start::FormSingle);
        assert_eq!(decide(&facts, Data::Present), Start::Resume);
        facts.seed.cluster_id = Some("abc".into());
        assert!(matches!(decide(&facts, Data::None), Start::Refuse(text) if text.contains("abc")));
        assert_eq!(decide(&facts, Data::Present), Start::Resume);
        facts.seed.cluster_id = None;
        facts.seed.may_form = false;
        assert!(matches!(decide(&facts, Data::None), Start::Refuse(text) if text.contains("permit")));
        facts.seed.may_form = true;
        let mut second = facts.cluster.machines[0].clone();
        second.name = "m2".into();
        facts.cluster.machines.push(second);
        assert!(matches!(decide(&facts, Data::None), Start::Refuse(text) if text.contains("2 masters")));
    }

    #[test]
    fn data_is_a_write_ahead_log_with_something_in_it() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(look(root.path()), Data::None);
        let log = root.path().join("var/lib/etcd/member/wal");
        std::fs::create_dir_all(&log).unwrap();
        assert_eq!(look(root.path()), Data::None);
        std::fs::write(log.join("0.wal"), "x").unwrap();
        assert_eq!(look(root.path()), Data::Present);
    }
}
