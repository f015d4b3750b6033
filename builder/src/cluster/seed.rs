//! The files of a machine's seed.

use super::{Definition, secrets};
use crate::error::{Error, Problem, Result};
use pki::AuthorityName;
use spec::cluster::Role;
use spec::seed::{Machine, files};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Version of `machine.toml`.
const VERSION: u32 = 1;

/// Names and contents of the seed's files for an image of `role`. `machine` binds the image to one
/// machine of the definition. A master's seed may form the cluster and carries the authorities'
/// keys; a node's carries only the certificates that it must trust.
///
/// # Errors
/// Bad input when the definition has no such machine or the machine another role; a failure when the
/// secrets cannot be read.
pub fn seed_files(
    definition: &Definition,
    machine: Option<&str>,
    role: Role,
    now: OffsetDateTime,
) -> Result<BTreeMap<String, Vec<u8>>> {
    if let Some(name) = machine {
        require_machine(definition, name, role)?;
    }
    let about = Machine {
        version: VERSION,
        name: machine.map(str::to_owned),
        created: u64::try_from(now.unix_timestamp()).unwrap_or(0),
        may_form: role == Role::Master,
        cluster_id: None,
    };
    let about = toml::to_string(&about).map_err(|error| Error::because("machine.toml cannot be written", error))?;
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let mut contents: BTreeMap<String, Vec<u8>> = secrets
        .files()
        .iter()
        .filter(|(name, _)| belongs(name, role))
        .map(|(name, content)| (name.clone(), content.clone()))
        .collect();
    contents.insert(files::CLUSTER.to_owned(), definition.source.text.clone().into_bytes());
    contents.insert(files::MACHINE.to_owned(), about.into_bytes());
    Ok(contents)
}

fn require_machine(definition: &Definition, name: &str, role: Role) -> Result<()> {
    let machines = &definition.cluster.machines;
    match machines.iter().find(|machine| machine.name == name) {
        Some(machine) if machine.role == role => Ok(()),
        Some(machine) => Err(Error::bad_input(format!(
            "the machine {name} is a {}, but the profile makes a {}",
            machine.role.name(),
            role.name()
        ))),
        None => {
            let names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
            let message = format!("no machine {name:?} in {}", definition.source.name);
            Err(Problem::new(message).help(format!("it has {}", names.join(", "))).into())
        }
    }
}

/// Whether a file of the secrets goes to a machine of this role.
fn belongs(name: &str, role: Role) -> bool {
    let trusted = [AuthorityName::Kubernetes, AuthorityName::Machine];
    match role {
        Role::Master => true,
        Role::Node => trusted.iter().any(|authority| authority.certificate_file() == name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NewCluster, create};
    use super::*;
    use crate::project::Project;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 00:00 UTC);

    fn definition(work: &std::path::Path) -> Definition {
        let project = Project { root: work.to_owned(), work: work.to_owned(), cache: work.join("cache") };
        create(&project, &NewCluster::single("lab"), NOW).unwrap();
        Definition::of_name(&project, "lab").unwrap()
    }

    #[test]
    fn a_masters_seed_may_form_and_is_whole() {
        let work = tempfile::tempdir().unwrap();
        let contents = seed_files(&definition(work.path()), None, Role::Master, NOW).unwrap();
        let machine: Machine = toml::from_str(std::str::from_utf8(&contents[files::MACHINE]).unwrap()).unwrap();
        assert!(machine.may_form && machine.name.is_none() && machine.created == NOW.unix_timestamp() as u64);
        let secrets = pki::Secrets::from_files("lab", contents);
        secrets.check(NOW).unwrap();
    }

    #[test]
    fn a_nodes_seed_has_no_key() {
        let work = tempfile::tempdir().unwrap();
        let contents = seed_files(&definition(work.path()), None, Role::Node, NOW).unwrap();
        let names: Vec<&str> = contents.keys().map(String::as_str).collect();
        assert_eq!(names, ["cluster.toml", "machine.toml", "pki/kubernetes.crt", "pki/machine.crt"]);
        for content in contents.values() {
            assert!(!String::from_utf8_lossy(content).contains("PRIVATE KEY"));
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
