//! The files of a machine's seed.

use super::{Definition, manifests, no_machine, secrets, zones};
use crate::error::{Error, Problem, Result};
use pki::{AuthorityName, JOIN_LIFE, Leaf, LeafRequest, Secrets};
use spec::agent::organization;
use spec::cluster::Role;
use spec::seed::{Machine, files};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Version of `machine.toml`.
const VERSION: u32 = 1;
/// More names than this are counted, not listed, in a message.
const LISTED: usize = 10;

/// Names and contents of the seed's files for an image of `role`; `machine` binds it to one machine of
/// the definition, as [`bound_machine`] says. A master's seed carries the authorities' keys and may form
/// the cluster as long as the definition knows of none. A node's, and that of a master that joins a cluster
/// which is there, carries the certificates that it must trust and a credential of its own to join with.
///
/// # Errors
/// As [`bound_machine`]; a failure when the secrets cannot be read.
pub fn seed_files(
    definition: &Definition,
    machine: Option<&str>,
    role: Role,
    now: OffsetDateTime,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let name = bound_machine(definition, machine, role)?;
    files_of(definition, name, role, joins(definition, role), now)
}

/// The same of a master with the authorities' keys, even where the cluster is there: for the case that no
/// master is left that could hand them over.
pub(super) fn seed_files_with_keys(
    definition: &Definition,
    machine: &str,
    now: OffsetDateTime,
) -> Result<BTreeMap<String, Vec<u8>>> {
    require_machine(definition, machine, Role::Master)?;
    files_of(definition, Some(machine), Role::Master, false, now)
}

fn files_of(
    definition: &Definition,
    name: Option<&str>,
    role: Role,
    joins: bool,
    now: OffsetDateTime,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let about = Machine {
        version: VERSION,
        name: name.map(str::to_owned),
        created: u64::try_from(now.unix_timestamp()).unwrap_or(0),
        may_form: role == Role::Master && definition.cluster_id.is_none(),
        cluster_id: definition.cluster_id.clone(),
    };
    let about = toml::to_string(&about).map_err(|error| Error::because("machine.toml cannot be written", error))?;
    let mut contents: BTreeMap<String, Vec<u8>> = secrets
        .files()
        .iter()
        .filter(|(name, _)| !joins || is_trusted(name, role))
        .map(|(name, content)| (name.clone(), content.clone()))
        .collect();
    contents.insert(files::CLUSTER.to_owned(), definition.source.text.clone().into_bytes());
    contents.insert(files::MACHINE.to_owned(), about.into_bytes());
    if role == Role::Master {
        contents.extend(manifests::read(definition)?);
        contents.extend(zones::read(definition)?);
    }
    let any_node = definition.cluster.any_node.as_ref().map(|any| (any.prefix.as_str(), organization::PENDING));
    let bound = name.map(|name| (name, organization::JOIN));
    if let (true, Some((name, organization))) = (joins, bound.or(any_node)) {
        let leaf = join_credential(&secrets, name, organization, now)?;
        contents.insert(files::JOIN_CERTIFICATE.to_owned(), leaf.certificate.into_bytes());
        contents.insert(files::JOIN_KEY.to_owned(), leaf.key.into_bytes());
    }
    Ok(contents)
}

/// Whether such a machine asks those that are there for what it needs. The only master has nobody to ask.
fn joins(definition: &Definition, role: Role) -> bool {
    role == Role::Node || (definition.cluster_id.is_some() && definition.cluster.masters().count() > 1)
}

/// The machine of the definition that a seed for `role` is bound to. A master's that may form the cluster is
/// bound to none: it is found by MAC address or serial at boot. One that joins is always bound, if need be
/// to the only node there is: what it joins with is good for one name. Where the definition has `any-node`, a
/// node's seed without a name is for any number of nodes, each of which waits for an operator.
///
/// # Errors
/// Bad input when the definition has no such machine, the machine has another role, or nothing says
/// which machine it is.
pub fn bound_machine<'a>(definition: &'a Definition, machine: Option<&'a str>, role: Role) -> Result<Option<&'a str>> {
    if let Some(name) = machine {
        require_machine(definition, name, role)?;
        return Ok(Some(name));
    }
    if !joins(definition, role) || definition.cluster.takes_any(role) {
        return Ok(None);
    }
    let machines: Vec<&str> = definition
        .cluster
        .machines
        .iter()
        .filter(|machine| machine.role == role)
        .map(|machine| machine.name.as_str())
        .collect();
    match machines.as_slice() {
        [] => Err(no_machine(definition, role)),
        [name] => Ok(Some(name)),
        several => {
            let role = role.name();
            let message = format!("which {role} of the {} in {}?", several.len(), definition.source.name);
            let help = format!(
                "a {role} joins with a credential of its own, which a seed without a name cannot have: --machine NAME; it has {}",
                list(several)
            );
            Err(Problem::new(message).help(help).into())
        }
    }
}

/// The machine's client certificate towards the masters' agents, with which it asks for its real ones.
fn join_credential(secrets: &Secrets, name: &str, organization: &str, now: OffsetDateTime) -> Result<Leaf> {
    let authority = secrets.authority(AuthorityName::Machine).map_err(Error::from_failure)?;
    let request = LeafRequest::client(name, Some(organization), JOIN_LIFE);
    authority.issue(&request, now).map_err(Error::from_failure)
}

pub(super) fn require_machine(definition: &Definition, name: &str, role: Role) -> Result<()> {
    let machine = find_machine(definition, name)?;
    if machine.role == role {
        return Ok(());
    }
    Err(Error::bad_input(format!(
        "the machine {name} is a {}, but the profile makes a {}",
        machine.role.name(),
        role.name()
    )))
}

/// The machine of this name.
///
/// # Errors
/// Bad input that says which there are.
pub(crate) fn find_machine<'a>(definition: &'a Definition, name: &str) -> Result<&'a spec::cluster::Machine> {
    let machines = &definition.cluster.machines;
    machines.iter().find(|machine| machine.name == name).ok_or_else(|| {
        let names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
        let message = format!("no machine {name:?} in {}", definition.source.name);
        Problem::new(message).help(format!("it has {}", list(&names))).into()
    })
}

fn list(names: &[&str]) -> String {
    match names.len().checked_sub(LISTED) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..LISTED].join(", ")),
    }
}

/// Whether a file of the secrets is the certificate of an authority that a machine of this role trusts.
fn is_trusted(name: &str, role: Role) -> bool {
    AuthorityName::known_to(role).iter().any(|authority| authority.certificate_file() == name)
}

#[cfg(test)]
mod tests {
    use super::super::{CLUSTER_ID_FILE, DEFINITION_FILE, NewCluster, create};
    use super::*;
    use crate::project::Project;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 00:00 UTC);

    fn definition(work: &std::path::Path) -> Definition {
        let project = Project { root: work.to_owned(), work: work.to_owned(), cache: work.join("cache") };
        create(&project, &NewCluster::single("lab"), NOW).unwrap();
        Definition::of_name(&project, "lab").unwrap()
    }

    /// The same with nodes `node-1` and so on.
    fn with_nodes(work: &std::path::Path, count: usize) -> Definition {
        let folder = definition(work).folder;
        let path = folder.join(DEFINITION_FILE);
        let mut text = std::fs::read_to_string(&path).unwrap();
        for number in 1..=count {
            text.push_str(&format!("[[machine]]\nname = \"node-{number}\"\nrole = \"node\"\n"));
        }
        std::fs::write(&path, text).unwrap();
        Definition::read(&folder, "clusters/lab").unwrap()
    }

    fn machine(contents: &BTreeMap<String, Vec<u8>>) -> Machine {
        toml::from_str(std::str::from_utf8(&contents[files::MACHINE]).unwrap()).unwrap()
    }

    #[test]
    fn a_masters_seed_may_form_and_is_whole() {
        let work = tempfile::tempdir().unwrap();
        let contents = seed_files(&definition(work.path()), None, Role::Master, NOW).unwrap();
        let machine = machine(&contents);
        assert!(machine.may_form && machine.name.is_none() && machine.created == NOW.unix_timestamp() as u64);
        assert_eq!(machine.cluster_id, None);
        let secrets = pki::Secrets::from_files("lab", contents);
        secrets.check(NOW).unwrap();
    }

    #[test]
    fn a_nodes_seed_has_a_credential_of_its_own_and_no_other_key() {
        let work = tempfile::tempdir().unwrap();
        let definition = with_nodes(work.path(), 2);
        let contents = seed_files(&definition, Some("node-2"), Role::Node, NOW).unwrap();
        let names: Vec<&str> = contents.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["cluster.toml", "machine.toml", "pki/join.crt", "pki/join.key", "pki/kubernetes.crt", "pki/machine.crt"]
        );
        let with_keys: Vec<&String> = contents
            .iter()
            .filter(|(_, content)| String::from_utf8_lossy(content).contains("PRIVATE KEY"))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(with_keys, [files::JOIN_KEY]);
        assert!(!machine(&contents).may_form);
    }

    #[test]
    fn a_join_credential_is_the_machine_authoritys_for_one_name_and_thirty_days() {
        let work = tempfile::tempdir().unwrap();
        let contents = seed_files(&with_nodes(work.path(), 2), Some("node-2"), Role::Node, NOW).unwrap();
        let text = |name: &str| std::str::from_utf8(&contents[name]).unwrap();
        let certificate = text(files::JOIN_CERTIFICATE);
        let read = pki::inspect("join", certificate).unwrap();
        assert_eq!((read.common_name.as_str(), read.organizations), ("node-2", vec![organization::JOIN.to_owned()]));
        assert_eq!((read.names.len(), read.addresses.len()), (0, 0));
        assert_eq!(read.not_after, NOW + time::Duration::days(30));
        assert!(pki::matches_key("join", certificate, text(files::JOIN_KEY)).unwrap());
        pki::check_chain("join", certificate, text("pki/machine.crt"), NOW).unwrap();
    }

    #[test]
    fn the_only_node_needs_no_name_and_one_of_several_does() {
        let work = tempfile::tempdir().unwrap();
        let contents = seed_files(&with_nodes(work.path(), 1), None, Role::Node, NOW).unwrap();
        assert_eq!(machine(&contents).name.as_deref(), Some("node-1"));
        assert!(contents.contains_key(files::JOIN_KEY));
        let work = tempfile::tempdir().unwrap();
        let error = seed_files(&with_nodes(work.path(), 12), None, Role::Node, NOW).unwrap_err();
        let help = error.problem().help.clone().unwrap();
        assert_eq!(
            (error.status(), error.to_string().as_str()),
            (2, "which node of the 12 in clusters/lab/cluster.toml?")
        );
        assert!(help.contains("--machine NAME; it has node-1, ") && help.ends_with("node-10 and 2 more"), "{help}");
        let work = tempfile::tempdir().unwrap();
        let error = seed_files(&definition(work.path()), None, Role::Node, NOW).unwrap_err();
        assert!(error.status() == 2 && error.to_string().contains("no machine with the role node"), "{error}");
    }

    #[test]
    fn one_seed_is_for_any_number_of_nodes_that_are_not_listed() {
        let work = tempfile::tempdir().unwrap();
        let folder = with_nodes(work.path(), 2).folder;
        let path = folder.join(DEFINITION_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}[any-node]\nprefix = \"rack7-\"\n")).unwrap();
        let definition = Definition::read(&folder, "clusters/lab").unwrap();
        let organizations = |machine: Option<&str>| {
            let contents = seed_files(&definition, machine, Role::Node, NOW).unwrap();
            let certificate = std::str::from_utf8(&contents[files::JOIN_CERTIFICATE]).unwrap();
            (self::machine(&contents).name, pki::inspect("join", certificate).unwrap().organizations)
        };
        assert_eq!(organizations(None), (None, vec![organization::PENDING.to_owned()]));
        assert_eq!(organizations(Some("node-2")), (Some("node-2".into()), vec![organization::JOIN.to_owned()]));
        seed_files(&definition, Some("rack7-525400000001"), Role::Node, NOW).unwrap_err();
    }

    #[test]
    fn a_master_that_joins_a_cluster_carries_no_key_of_it() {
        let work = tempfile::tempdir().unwrap();
        let found = definition(work.path());
        let more = [2, 3].map(|number| {
            format!("[[machine]]\nname = \"master-{number}\"\nrole = \"master\"\nmac = \"52:54:00:00:00:0{number}\"\n")
        });
        std::fs::write(found.folder.join(DEFINITION_FILE), format!("{}{}", found.source.text, more.concat())).unwrap();
        std::fs::write(found.folder.join(CLUSTER_ID_FILE), "6f1c-0a\n").unwrap();
        let definition = Definition::read(&found.folder, "clusters/lab").unwrap();
        let contents = seed_files(&definition, Some("master-2"), Role::Master, NOW).unwrap();
        let keys: Vec<&String> = contents.keys().filter(|name| name.ends_with(".key")).collect();
        assert_eq!(keys, [files::JOIN_KEY]);
        for authority in AuthorityName::ALL {
            assert!(contents.contains_key(&authority.certificate_file()), "{}", authority.certificate_file());
        }
        let error = seed_files(&definition, None, Role::Master, NOW).unwrap_err();
        assert!(error.status() == 2 && error.to_string().starts_with("which master of the 3"), "{error}");
    }

    #[test]
    fn a_seed_of_a_cluster_that_exists_knows_it_and_may_not_form() {
        let work = tempfile::tempdir().unwrap();
        let folder = with_nodes(work.path(), 1).folder;
        std::fs::write(folder.join(CLUSTER_ID_FILE), "6f1c-0a\n").unwrap();
        let definition = Definition::read(&folder, "clusters/lab").unwrap();
        for role in [Role::Master, Role::Node] {
            let machine = machine(&seed_files(&definition, None, role, NOW).unwrap());
            assert_eq!((machine.cluster_id.as_deref(), machine.may_form), (Some("6f1c-0a"), false));
        }
        for text in ["", "\n", "two words", "../x"] {
            std::fs::write(folder.join(CLUSTER_ID_FILE), text).unwrap();
            let error = Definition::read(&folder, "clusters/lab").unwrap_err();
            assert!(error.status() == 2 && error.to_string().contains("clusters/lab/cluster-id"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_machine_must_be_in_the_definition_with_the_role() {
        let work = tempfile::tempdir().unwrap();
        let definition = definition(work.path());
        let wrong = seed_files(&definition, Some("master-9"), Role::Master, NOW).unwrap_err();
        assert_eq!((wrong.status(), wrong.problem().help.as_deref()), (2, Some("it has master-1")));
        assert!(
            seed_files(&definition, Some("master-1"), Role::Node, NOW).unwrap_err().to_string().contains("is a master")
        );
    }
}
