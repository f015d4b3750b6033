//! Which machine of the cluster definition this one is. A MAC address or a serial number identifies;
//! it proves nothing, and nothing is granted on its word.

use spec::cluster::{Cluster, Machine, Role};
use std::borrow::Cow;
use std::fmt::Write;

/// What the hardware and the seed say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signs {
    /// The name that the seed gives.
    pub name: Option<String>,
    /// Lower case.
    pub macs: Vec<String>,
    /// DMI serial number.
    pub serial: Option<String>,
}

/// Finds the machine: by name, by MAC address, by serial, as the only one of its role that asks for
/// neither, or as one of the nodes that need not be listed.
///
/// # Errors
/// Why none fits: what this machine has, and what the definition wants.
pub fn find<'a>(cluster: &'a Cluster, role: Role, signs: &Signs) -> Result<Cow<'a, Machine>, String> {
    if let Some(name) = &signs.name {
        let found = cluster.machine(name);
        let found = found.ok_or_else(|| {
            format!("the seed says `{name}`, and cluster `{}` has no machine of that name", cluster.name)
        })?;
        return fitting(found, role);
    }
    let by_mac = |machine: &&Machine| machine.mac.as_ref().is_some_and(|mac| signs.macs.contains(&mac.to_lowercase()));
    let by_serial = |machine: &&Machine| machine.serial.is_some() && machine.serial == signs.serial;
    let matched: Vec<&Machine> =
        cluster.machines.iter().filter(|machine| by_mac(machine) || by_serial(machine)).collect();
    match matched.as_slice() {
        [machine] => return fitting(Cow::Borrowed(*machine), role),
        [] => {}
        several => {
            let names: Vec<&str> = several.iter().map(|machine| machine.name.as_str()).collect();
            return Err(format!("this machine fits {} alike", names.join(" and ")));
        }
    }
    let open: Vec<&Machine> = cluster
        .machines
        .iter()
        .filter(|machine| machine.role == role && machine.mac.is_none() && machine.serial.is_none())
        .collect();
    match open.as_slice() {
        [machine] => Ok(Cow::Borrowed(machine)),
        _ if cluster.takes_any(role) => any_node(cluster, signs),
        _ => Err(explain(cluster, role, signs)),
    }
}

/// Waiting for another network card could help: nothing else decides.
pub fn may_need_cards(cluster: &Cluster, signs: &Signs) -> bool {
    signs.name.is_none() && (cluster.any_node.is_some() || cluster.machines.iter().any(|machine| machine.mac.is_some()))
}

fn any_node<'a>(cluster: &'a Cluster, signs: &Signs) -> Result<Cow<'a, Machine>, String> {
    let mac = signs.macs.iter().min().ok_or("a node that the cluster definition does not list needs a network card")?;
    let name = cluster.any_node.as_ref().map(|any| any.name(mac)).unwrap_or_default();
    cluster.machine(&name).ok_or_else(|| format!("{name:?} is no name of a node"))
}

fn fitting(machine: Cow<'_, Machine>, role: Role) -> Result<Cow<'_, Machine>, String> {
    if machine.role == role {
        Ok(machine)
    } else {
        Err(format!(
            "machine `{}` is a {} in the cluster definition, and this image is for a {}",
            machine.name,
            machine.role.name(),
            role.name()
        ))
    }
}

fn explain(cluster: &Cluster, role: Role, signs: &Signs) -> String {
    let list = |texts: &[String]| if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
    let mut text = format!(
        "no {} of cluster `{}` fits: this machine has MAC {}, serial {}; the definition has",
        role.name(),
        cluster.name,
        list(&signs.macs),
        signs.serial.as_deref().unwrap_or("none")
    );
    for machine in cluster.machines.iter().filter(|machine| machine.role == role) {
        let _ = write!(
            text,
            " {} (mac {}, serial {})",
            machine.name,
            machine.mac.as_deref().unwrap_or("-"),
            machine.serial.as_deref().unwrap_or("-")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(machines: &str) -> Cluster {
        toml::from_str(&format!("name = \"test\"\n{machines}")).unwrap()
    }

    const THREE: &str = r#"
        [[machine]]
        name = "m1"
        role = "master"
        mac = "52:54:00:00:00:0A"
        [[machine]]
        name = "m2"
        role = "master"
        serial = "S2"
        [[machine]]
        name = "n1"
        role = "node"
    "#;

    fn found(signs: Signs, role: Role) -> Result<String, String> {
        find(&cluster(THREE), role, &signs).map(|machine| machine.name.clone())
    }

    #[test]
    fn by_name_mac_serial_or_as_the_only_one() {
        let signs = Signs::default;
        assert_eq!(found(Signs { name: Some("m2".into()), ..signs() }, Role::Master).as_deref(), Ok("m2"));
        assert_eq!(
            found(Signs { macs: vec!["52:54:00:00:00:0a".into()], ..signs() }, Role::Master).as_deref(),
            Ok("m1")
        );
        assert_eq!(found(Signs { serial: Some("S2".into()), ..signs() }, Role::Master).as_deref(), Ok("m2"));
        assert_eq!(found(signs(), Role::Node).as_deref(), Ok("n1"));
    }

    #[test]
    fn a_node_need_not_be_listed() {
        let cluster = cluster(
            &format!("{THREE}[any-node]\nprefix = \"rack7-\"\nlabels = {{ room = \"2\" }}\n")
                .replace("role = \"node\"", "role = \"node\"\nserial = \"S9\""),
        );
        let macs = vec!["52:54:00:00:00:0d".into(), "52:54:00:00:00:0c".into()];
        let signs = Signs { macs, ..Signs::default() };
        let found = find(&cluster, Role::Node, &signs).unwrap();
        assert_eq!((found.name.as_str(), found.labels["room"].as_str()), ("rack7-52540000000c", "2"));
        assert!(may_need_cards(&cluster, &signs));
        let listed = Signs { serial: Some("S9".into()), ..signs.clone() };
        assert_eq!(find(&cluster, Role::Node, &listed).unwrap().name, "n1");
        find(&cluster, Role::Master, &signs).unwrap_err();
        find(&cluster, Role::Node, &Signs::default()).unwrap_err();
    }

    #[test]
    fn what_does_not_fit_is_explained() {
        let reason =
            found(Signs { macs: vec!["52:54:00:00:00:0b".into()], ..Signs::default() }, Role::Master).unwrap_err();
        assert!(reason.contains("52:54:00:00:00:0b") && reason.contains("m1 (mac 52:54:00:00:00:0A"), "{reason}");
        let reason =
            found(Signs { macs: vec!["52:54:00:00:00:0a".into()], ..Signs::default() }, Role::Node).unwrap_err();
        assert!(reason.contains("`m1` is a master") && reason.contains("for a node"), "{reason}");
        let reason = found(
            Signs { macs: vec!["52:54:00:00:00:0a".into()], serial: Some("S2".into()), name: None },
            Role::Master,
        )
        .unwrap_err();
        assert!(reason.contains("m1 and m2"), "{reason}");
        assert!(found(Signs { name: Some("x".into()), ..Signs::default() }, Role::Master).unwrap_err().contains("`x`"));
    }
}
