//! A build and a machine's seed as a CD image, for a BMC's virtual media: the machine reads it once, into memory.

use crate::artifacts::Manifest;
use crate::cluster::{Definition, bound_machine, seed_files};
use crate::error::{Error, Result};
use crate::memory_disk::{add_loaders, epoch, place};
use crate::pipeline::{INITRAMFS_FILE, KERNEL_FILE, ROOT_FILE};
use crate::request::Context;
use crate::scratch;
use crate::tools::Tools;
use images::iso::Medium;
use images::tree::{Content, Tree};
use spec::cluster::{Machine, Role};
use spec::netboot::{self, SEED_FILE};
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// A medium to make.
pub struct IsoRequest<'a> {
    pub context: &'a Context,
    /// Folder of a build.
    pub build: PathBuf,
    pub definition: Definition,
    /// `None`: as `bound_machine` says.
    pub machine: Option<String>,
    pub target: PathBuf,
}

/// Writes it, whole or not at all.
///
/// # Errors
/// Bad input: a target that is no file, a folder that holds no build, a machine of another role, one that has no disk to
/// keep its state on; failures of the disk and of the tools.
pub fn write(request: &IsoRequest<'_>, now: OffsetDateTime) -> Result<()> {
    let target = &request.target;
    let manifest = Manifest::of_build(&request.build)?;
    let scratch = scratch::Scratch::beside(target)?;
    let role = manifest.role()?;
    request.definition.require_sound(request.context, now)?;
    let machine = bound_machine(&request.definition, request.machine.as_deref(), role)?;
    let installs = installs(&request.definition, machine, role)?;
    let seed = seed_files(&request.definition, machine, role, now)?;
    let tools = Tools::ensure(request.context)?;

    let failed = |error: std::io::Error| Error::io("write", target, error);
    let archive = scratch.path().join("medium.img");
    std::fs::write(&archive, archive_of(&request.build, &manifest, &seed, installs)?).map_err(failed)?;
    let date = now.to_offset(time::UtcOffset::UTC).format(IDENTITY);
    let medium = Medium {
        kernel: &request.build.join(KERNEL_FILE),
        initramfs: &request.build.join(INITRAMFS_FILE),
        archive: &archive,
        command_line: &manifest.command_line,
        identity: &date.map_err(|error| Error::because("the date cannot be written", error))?,
    };
    let image = scratch.path().join("iso");
    medium.write(&tools.root, scratch.path(), &image).map_err(Error::from_failure)?;
    // It holds the seed's keys.
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    scratch.place(&image, target)
}

/// As [`Medium::identity`] wants it.
const IDENTITY: &[time::format_description::BorrowedFormatItem<'_>] =
    time::macros::format_description!("[year][month][day][hour][minute][second][subsecond digits:2]");

/// Whether a machine of this seed may put itself on a disk.
///
/// # Errors
/// Bad input: a machine that must not run from memory alone.
fn installs(definition: &Definition, machine: Option<&str>, role: Role) -> Result<bool> {
    let cluster = &definition.cluster;
    let fits = |found: &&Machine| found.role == role && machine.is_none_or(|name| found.name == name);
    let machines: Vec<&Machine> = cluster.machines.iter().filter(fits).collect();
    if let Some(machine) = machines.iter().find(|machine| machine.forgets_without_a_disk()) {
        let message = format!("{} is a master and would keep its state in memory", machine.name);
        let help = format!("give it a state-disk or an install in {}", definition.source.name);
        return Err(Error::bad_input(message).help(help));
    }
    let any = cluster.any_node.as_ref().filter(|_| cluster.takes_any(role));
    Ok(machines.iter().any(|machine| machine.install.is_some()) || any.is_some_and(|any| any.install.is_some()))
}

/// What init makes its disk in memory of.
fn archive_of(build: &Path, manifest: &Manifest, seed: &seed::Files, installs: bool) -> Result<Vec<u8>> {
    let packed = |error| Error::because("the medium's archive cannot be made", error);
    let root = build.join(ROOT_FILE);
    let root = Content::of_file(&root).map_err(|error| Error::io("read", &root, error))?;
    let mut partition = Cursor::new(Vec::new());
    seed::write(&mut partition, 0, seed).map_err(Error::from_failure)?;
    let mut tree = Tree::new();
    place(&mut tree, netboot::ROOT_FILE, root)
        .and_then(|()| place(&mut tree, SEED_FILE, partition.into_inner()))
        .map_err(packed)?;
    if installs {
        add_loaders(build, &mut tree, |_, _, _| Ok(false))?;
    }
    images::cpio::encode(&tree, epoch(manifest)).map_err(Error::from_failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{DEFINITION_FILE, NewCluster, create};
    use crate::project::Project;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-30 20:27:26.25 UTC);

    #[test]
    fn a_master_needs_a_disk_and_a_node_may_do_without() {
        let work = tempfile::tempdir().unwrap();
        let project = Project { root: work.path().into(), work: work.path().into(), cache: work.path().join("cache") };
        let folder = create(&project, &NewCluster::single("lab"), NOW).unwrap();
        let error = installs(&Definition::of_name(&project, "lab").unwrap(), None, Role::Master).unwrap_err();
        assert!(error.status() == 2 && error.to_string().contains("would keep its state in memory"), "{error}");
        let machines = "name = \"lab\"\n[[machine]]\nname = \"m1\"\nrole = \"master\"\nstate-disk = \"virtio-a\"\n\
             [[machine]]\nname = \"n1\"\nrole = \"node\"\n\
             [[machine]]\nname = \"n2\"\nrole = \"node\"\ninstall = { transport = \"nvme\" }\n";
        std::fs::write(folder.join(DEFINITION_FILE), machines).unwrap();
        let definition = Definition::of_name(&project, "lab").unwrap();
        let puts_itself = |machine, role| installs(&definition, machine, role).unwrap();
        assert!(!puts_itself(None, Role::Master) && !puts_itself(Some("n1"), Role::Node));
        assert!(puts_itself(Some("n2"), Role::Node) && puts_itself(None, Role::Node));
    }

    #[test]
    fn a_folder_that_holds_no_build_is_bad_input() {
        let work = tempfile::tempdir().unwrap();
        let error = Manifest::of_build(work.path()).unwrap_err();
        assert!(error.status() == 2 && error.to_string().contains("no build is there"), "{error}");
    }

    #[test]
    fn the_medium_is_called_by_its_date() {
        assert_eq!(NOW.format(IDENTITY).unwrap(), "2026113020272625");
    }
}
