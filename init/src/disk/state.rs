//! The state partition: made on the first boot, checked, grown and mounted on every one, and never
//! adopted or wiped when it holds something else.
//!
//! Until its file system is complete, the partition's GPT entry carries [`STATE_BEING_MADE`]: a format that
//! a power cut interrupted is told from foreign data by that bit alone.

use super::block::{self, Disk};
use super::probe;
use super::table::{self, Table, TableError};
use crate::console::say;
use crate::devices::Watch;
use crate::random;
use crate::stage::Failure;
use crate::sys::{self, PartitionChange};
use rustix::mount::{MountFlags, mount};
use spec::layout::{
    ALIGNMENT, BACKUP_GPT_RESERVE, Partition, STATE_BEING_MADE, STATE_FILE_SYSTEM_LABEL, STATE_FORMAT, STATE_MINIMUM,
};
use spec::paths;
use spec::seed::StateIdentity;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Bytes of a block of the state's file system.
const BLOCK: u64 = 4096;
const MAKE: &str = "/usr/sbin/mke2fs";
const CHECK: &str = "/usr/sbin/e2fsck";
const GROW: &str = "/usr/sbin/resize2fs";
/// How long a disk that the cluster definition names may take to appear.
const DISK_PATIENCE: Duration = Duration::from_secs(30);

/// Whose state this machine wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub cluster: String,
    pub cluster_id: Option<String>,
    pub machine: String,
    pub image_version: String,
}

/// Bytes that must be free on a large disk; on a small one it is a hundredth.
const FULL_BELOW: u64 = 256 << 20;

/// What was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub fresh: bool,
    pub machine_id: String,
}

/// Brings the state partition to /var. `named` is a disk below /dev/disk/by-id; without it the boot
/// disk is meant.
///
/// # Errors
/// In words for the console; nothing foreign was written to.
pub fn bring_up(boot: &Disk, named: Option<&str>, owner: &Owner, watch: &Watch) -> Result<Mounted, Failure> {
    let disk = match named {
        Some(name) => named_disk(name, watch)?,
        None => boot.clone(),
    };
    let being_made = if disk == *boot {
        lay_out(&disk, Holds::SlotsAndState)?
    } else {
        lay_out(boot, Holds::Slots)?;
        lay_out(&disk, Holds::State)?
    };
    let device = disk.partition_device(Partition::State.number());
    if being_made {
        make(&device)?;
        clear_mark(&disk)?;
    } else {
        refuse_foreign(&device)?;
        check(&device)?;
    }
    mount_state(&device)?;
    if !being_made {
        grow(&disk, &device);
    }
    warn_when_full(&device);
    // Its label is new where it was just made, and no event tells of that.
    crate::devices::links::update(&disk.name, false);
    adopt(&device, owner)
}

fn named_disk(name: &str, watch: &Watch) -> Result<Disk, Failure> {
    let link = Path::new("/dev/disk/by-id").join(name);
    let end = crate::console::uptime() + DISK_PATIENCE;
    loop {
        let generation = watch.generation();
        if let Some(target) = std::fs::canonicalize(&link)
            .ok()
            .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        {
            return Ok(Disk { name: target });
        }
        let left = end.saturating_sub(crate::console::uptime());
        if left.is_zero() || !watch.wait_past(generation, left) {
            let there: Vec<String> = std::fs::read_dir("/dev/disk/by-id")
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(Failure::retry(
                format!("the state disk {} is not there", link.display()),
                format!("disks by id: {there}"),
                "check the disk, or correct this machine's state-disk in cluster.toml",
            ));
        }
    }
}

/// What of the machine a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    SlotsAndState,
    Slots,
    State,
}

/// Completes the disk's table; returns whether the state partition still has to be made.
fn lay_out(disk: &Disk, holds: Holds) -> Result<bool, Failure> {
    let trouble = |error: TableError| {
        Failure::hold(
            format!("the partition table of {}", disk.name),
            error,
            "check the disk with `sgdisk -v`; nothing was changed",
        )
    };
    let mut device = disk.open(true).map_err(|error| trouble(error.into()))?;
    let length = device.seek(SeekFrom::End(0)).map_err(|error| trouble(error.into()))?;
    let found = match table::read(&mut device, disk.sector_size()) {
        Ok(found) => found,
        Err(_) if holds == Holds::State && probe::blank(&mut device) => new_table(disk),
        Err(error) if holds == Holds::State => return Err(foreign_disk(disk, &mut device, &error)),
        Err(error) => return Err(trouble(error)),
    };
    let mut wanted = match holds {
        Holds::SlotsAndState => table::complete(&found, length, random::uuid),
        Holds::Slots => table::complete_slots(&found, length, random::uuid),
        Holds::State => table::complete_state_disk(&found, length, random::uuid),
    }
    .map_err(trouble)?;
    let being_made = holds != Holds::Slots && mark_new_state(disk, length, &found, &mut wanted)?;
    if found.primary_broken {
        say(format!("the first partition table of {} was damaged and is restored from the second", disk.name));
    }
    if wanted != found {
        let epochs = table::plan_write(&mut device, &wanted).map_err(trouble)?;
        table::execute(&mut device, &epochs).map_err(|error| trouble(error.into()))?;
    }
    tell_kernel(disk, &device, &wanted).map_err(|error| trouble(error.into()))?;
    Ok(being_made)
}

fn new_table(disk: &Disk) -> Table {
    Table {
        disk_guid: random::uuid(),
        partitions: Default::default(),
        sector: disk.sector_size(),
        primary_broken: false,
        backup_in_place: false,
    }
}

/// Marks a state partition that was not there before; returns whether it carries the mark.
fn mark_new_state(disk: &Disk, length: u64, found: &Table, wanted: &mut Table) -> Result<bool, Failure> {
    let number = Partition::State.number();
    let before = if found.partitions.is_empty() { ALIGNMENT } else { Partition::State.offset() };
    let least = before + STATE_MINIMUM + BACKUP_GPT_RESERVE;
    let Some(state) = wanted.partitions.get_mut(&number) else {
        return Err(Failure::hold(
            format!("no state disk: {} has no room for the state partition", disk.name),
            format!("the disk has {} MiB, at least {} MiB are wanted", length >> 20, least >> 20),
            "use a larger disk, or name another in this machine's state-disk in cluster.toml",
        ));
    };
    if !found.partitions.contains_key(&number) {
        state.flags |= STATE_BEING_MADE;
    }
    Ok(state.flags & STATE_BEING_MADE != 0)
}

fn foreign_disk(disk: &Disk, device: &mut File, error: &TableError) -> Failure {
    let content = probe::probe(device).map_or("data that init does not know".to_owned(), |found| {
        format!("a {} file system `{}`", found.kind, found.label)
    });
    Failure::hold(
        format!("the state disk {} holds {content}", disk.name),
        error,
        "name another disk, or wipe this one by hand if nothing on it is wanted",
    )
}

/// Makes the kernel see partitions that were added or grew, without touching those in use.
fn tell_kernel(disk: &Disk, device: &File, table: &Table) -> std::io::Result<()> {
    let sector = table.sector.as_u64();
    for (number, partition) in &table.partitions {
        let (start, length) = (partition.first_lba * sector, (partition.last_lba + 1 - partition.first_lba) * sector);
        let change = match block::size(&disk.partition_name(*number)) {
            None => PartitionChange::Add,
            Some(size) if size != length => PartitionChange::Resize,
            Some(_) => continue,
        };
        sys::change_partition(device, change, *number, start, length)?;
    }
    Ok(())
}

fn make(device: &Path) -> Result<(), Failure> {
    say("making the state file system");
    // What an interrupted attempt left must not be looked at by mke2fs; the mark says it is ours.
    let guid = random::uuid().to_string();
    let options = extended_options(device_size(device));
    run(
        MAKE,
        &[
            "-q",
            "-U",
            &guid,
            "-F",
            "-t",
            "ext4",
            "-b",
            &BLOCK.to_string(),
            "-L",
            STATE_FILE_SYSTEM_LABEL,
            "-m",
            "1",
            "-E",
            &options,
        ],
        device,
    )
    .and_then(
        |(status, output)| {
            if status == 0 { Ok(()) } else { Err(format!("{MAKE} ended with status {status}: {output}")) }
        },
    )
    .and_then(|()| File::open(device).and_then(|file| file.sync_all()).map_err(|error| error.to_string()))
    .map_err(|why| {
        Failure::retry(
            format!("making a file system on {}", device.display()),
            why,
            "the disk may be failing: look at its health, or replace it",
        )
    })
}

fn device_size(device: &Path) -> u64 {
    device.file_name().and_then(|name| block::size(&name.to_string_lossy())).unwrap_or(0)
}

/// mke2fs(8)'s `-E` for a device of so many bytes. Room in the descriptor table to grow sixteenfold: without a
/// word it reserves for a thousandfold, a thousand scattered writes that take seconds of a first boot.
/// (resize2fs goes on beyond it, by meta_bg.)
fn extended_options(device: u64) -> String {
    const GROWTH: u64 = 16;
    let blocks = device / BLOCK;
    let most = (blocks * GROWTH).min(u64::from(u32::MAX));
    let lazy = "lazy_itable_init=1,lazy_journal_init=1";
    if most > blocks { format!("{lazy},resize={most}") } else { lazy.into() }
}

/// Changes the attributes of the disk's state partition.
fn change_flags(disk: &Disk, change: impl FnOnce(u64) -> u64) -> Result<(), TableError> {
    let mut device = disk.open(true)?;
    let mut table = table::read(&mut device, disk.sector_size())?;
    let state = table.partitions.get_mut(&Partition::State.number());
    let state = state.ok_or_else(|| std::io::Error::other(format!("{} has no state partition", disk.name)))?;
    state.flags = change(state.flags);
    let epochs = table::plan_write(&mut device, &table)?;
    Ok(table::execute(&mut device, &epochs)?)
}

/// Has the next boot make the state's file system anew. `boot` and `named` as for [`bring_up`].
///
/// # Errors
/// In words; then the state stays.
pub fn mark_for_making(boot: &Disk, named: Option<&str>) -> Result<(), String> {
    let disk = match named {
        Some(name) => {
            let link = Path::new("/dev/disk/by-id").join(name);
            let target = std::fs::canonicalize(&link).map_err(|error| format!("{}: {error}", link.display()))?;
            let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
            Disk { name: name.ok_or_else(|| format!("{} leads to no disk", link.display()))? }
        }
        None => boot.clone(),
    };
    change_flags(&disk, |flags| flags | STATE_BEING_MADE).map_err(|error| format!("{}: {error}", disk.name))
}

fn clear_mark(disk: &Disk) -> Result<(), Failure> {
    change_flags(disk, |flags| flags & !STATE_BEING_MADE).map_err(|error| {
        Failure::retry(
            format!("the partition table of {}", disk.name),
            error,
            "the disk may be failing: look at its health, or replace it",
        )
    })
}

fn refuse_foreign(device: &Path) -> Result<(), Failure> {
    let found = File::open(device).ok().and_then(|mut file| probe::probe(&mut file));
    let content = match found {
        Some(found) if found.kind == "ext4" && found.label == STATE_FILE_SYSTEM_LABEL => return Ok(()),
        Some(found) => format!("a {} file system labelled `{}`", found.kind, found.label),
        None => "no file system that init knows, or a damaged one".to_owned(),
    };
    Err(Failure::hold(
        format!("the state partition {} holds {content}", device.display()),
        format!("wanted ext4 labelled `{STATE_FILE_SYSTEM_LABEL}`; nothing was changed"),
        "if its data matters, repair it on another machine with `e2fsck`; if not, delete partition 6 and boot again",
    ))
}

fn check(device: &Path) -> Result<(), Failure> {
    let failed = |why: String| {
        Failure::hold(
            format!("the state file system on {} is damaged and could not be repaired automatically", device.display()),
            why,
            "boot another system and run `e2fsck` on the partition by hand; if the data is lost, delete partition 6: the machine then joins afresh",
        )
    };
    match run(CHECK, &["-p"], device).map_err(failed)? {
        (0, _) => Ok(()),
        // 1: errors corrected; 2: the same, and a reboot wanted for a mounted root, which this is not.
        (1..=3, output) => {
            say(format!("the state file system was repaired: {output}"));
            Ok(())
        }
        (status, output) => Err(failed(format!("{CHECK} -p ended with status {status}: {output}"))),
    }
}

fn mount_state(device: &Path) -> Result<(), Failure> {
    // No nodev: raw block volumes are device nodes below /var/lib/kubelet.
    mount(device, paths::STATE_DIR, "ext4", MountFlags::NOATIME, c"errors=remount-ro").map_err(|error| {
        Failure::hold(
            format!("mounting {} at {}", device.display(), paths::STATE_DIR),
            error,
            "the kernel's last messages say more; is the module ext4 in the image?",
        )
    })
}

/// Says so where next to nothing can be written: the machine stays up, so that somebody can make room.
fn warn_when_full(device: &Path) {
    let Ok(system) = rustix::fs::statvfs(paths::STATE_DIR) else { return };
    let (free, size) = (system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize);
    if free < FULL_BELOW.min(size / 100) {
        say(format!(
            "the state disk is full: {} MiB of {} MiB are free on {}; services will fail until there is room",
            free >> 20,
            size >> 20,
            device.display()
        ));
    }
}

/// Lets the mounted file system take the whole partition. A failure is no reason not to boot.
fn grow(disk: &Disk, device: &Path) {
    let partition = block::size(&disk.partition_name(Partition::State.number())).unwrap_or(0);
    let system = File::open(device).ok().and_then(|mut file| ext4_size(&mut file)).unwrap_or(u64::MAX);
    // A last group that is too small stays unused: less than a MiB's difference is nothing to grow.
    if partition < system.saturating_add(16 << 20) {
        return;
    }
    say(format!("the state grows from {} to {} MiB", system >> 20, partition >> 20));
    match run(GROW, &[], device) {
        Ok((0, _)) => {}
        Ok((status, output)) => say(format!("{GROW} ended with status {status}: {output}")),
        Err(error) => say(error),
    }
}

fn ext4_size(device: &mut (impl Read + Seek)) -> Option<u64> {
    let mut superblock = [0u8; 1024];
    device.seek(SeekFrom::Start(1024)).ok()?;
    device.read_exact(&mut superblock).ok()?;
    let word =
        |at: usize| u32::from_le_bytes([superblock[at], superblock[at + 1], superblock[at + 2], superblock[at + 3]]);
    let blocks = u64::from(word(4)) | u64::from(word(0x150)) << 32;
    blocks.checked_mul(1024u64.checked_shl(word(24))?)
}

/// Runs a file-system tool on a device. Status and the output's lines joined.
/// Runs a program on a device: its exit status and what it said, in one line.
pub(super) fn run(program: &str, arguments: &[&str], device: &Path) -> Result<(i32, String), String> {
    let output =
        Command::new(program).args(arguments).arg(device).env_clear().env("PATH", "/usr/sbin:/usr/bin").output();
    let output = output.map_err(|error| format!("{program} cannot be started: {error}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text)
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    Ok((output.status.code().unwrap_or(128), text))
}

/// Reads whose state it is, or writes that it is ours now.
fn adopt(device: &Path, owner: &Owner) -> Result<Mounted, Failure> {
    let refused = |why: String| {
        Failure::hold(
            format!("the state on {} does not belong to this machine", device.display()),
            why,
            "boot the image and seed that it belongs to, or delete partition 6 if its data is not wanted; nothing was changed",
        )
    };
    let found = match std::fs::read(paths::STATE_IDENTITY_FILE) {
        Ok(bytes) => Some(
            serde_json::from_slice::<StateIdentity>(&bytes)
                .map_err(|error| refused(format!("{}: {error}", paths::STATE_IDENTITY_FILE)))?,
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(refused(format!("{}: {error}", paths::STATE_IDENTITY_FILE))),
    };
    let (identity, fresh) = match found {
        Some(found) => (judge(found.clone(), owner).map_err(refused)?, false),
        None => {
            let strangers = strangers();
            if !strangers.is_empty() {
                return Err(refused(format!(
                    "it has no {} but holds {}",
                    paths::STATE_IDENTITY_FILE,
                    strangers.join(", ")
                )));
            }
            (new_identity(owner), true)
        }
    };
    write_skeleton();
    let json = serde_json::to_vec_pretty(&identity).unwrap_or_default();
    let unchanged = std::fs::read(paths::STATE_IDENTITY_FILE).is_ok_and(|old| old == json);
    if !unchanged && let Err(error) = crate::files::replace(paths::STATE_IDENTITY_FILE, &json, 0o644) {
        // A full disk must not keep a machine that has its state from booting.
        if fresh {
            return Err(Failure::retry(
                "writing to the new state partition",
                error,
                "the disk may be failing: look at its health, or replace it",
            ));
        }
        say(format!("{error}; the machine goes on"));
    }
    Ok(Mounted { fresh, machine_id: identity.machine_id })
}

fn new_identity(owner: &Owner) -> StateIdentity {
    StateIdentity {
        format: STATE_FORMAT,
        cluster: owner.cluster.clone(),
        cluster_id: owner.cluster_id.clone(),
        machine: owner.machine.clone(),
        machine_id: random::uuid().simple().to_string(),
        image_version: owner.image_version.clone(),
    }
}

/// The identity to keep, or why this state is not ours.
fn judge(found: StateIdentity, owner: &Owner) -> Result<StateIdentity, String> {
    if found.format > STATE_FORMAT {
        return Err(format!(
            "its format is {}, written by image {}; this image knows {STATE_FORMAT} and would damage it",
            found.format, found.image_version
        ));
    }
    if found.cluster != owner.cluster {
        return Err(format!("it belongs to cluster `{}`, the seed to `{}`", found.cluster, owner.cluster));
    }
    if found.machine != owner.machine {
        return Err(format!("it belongs to machine `{}`, this is `{}`", found.machine, owner.machine));
    }
    if let (Some(state), Some(seed)) = (&found.cluster_id, &owner.cluster_id)
        && state != seed
    {
        return Err(format!(
            "it belongs to the cluster with id {state}, the seed to {seed}, both named `{}`",
            owner.cluster
        ));
    }
    Ok(StateIdentity { image_version: owner.image_version.clone(), ..found })
}

/// What lies in the root of a state that has no identity. Our own folders count only when they have content.
fn strangers() -> Vec<String> {
    let entries = std::fs::read_dir(paths::STATE_DIR).into_iter().flatten().flatten();
    let foreign = entries.filter(|entry| {
        let ours = SKELETON
            .iter()
            .any(|(path, _)| Path::new(path) == entry.path() || Path::new(path).starts_with(entry.path()));
        entry.file_name() != "lost+found" && !(ours && only_folders(&entry.path()))
    });
    foreign.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn only_folders(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|found| {
        found.is_symlink()
            || found.is_dir()
                && std::fs::read_dir(folder).into_iter().flatten().flatten().all(|entry| {
                    // `state.json.new` is what a power cut leaves of the first write of all.
                    only_folders(&entry.path())
                        || entry.path() == Path::new(&format!("{}.new", paths::STATE_IDENTITY_FILE))
                })
    })
}

/// Folders of a machine's /var.
const SKELETON: [(&str, u32); 8] = [
    ("/var/lib", 0o755),
    ("/var/lib/imgbuild", 0o755),
    ("/var/log", 0o755),
    ("/var/cache", 0o755),
    ("/var/tmp", 0o1777),
    ("/var/opt/cni/bin", 0o755),
    ("/var/spool", 0o755),
    ("/var/lib/kubelet", 0o750),
];

fn write_skeleton() {
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in SKELETON {
        if !Path::new(path).exists() {
            let _ = std::fs::create_dir_all(path);
            let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
        }
    }
    let _ = std::os::unix::fs::symlink("/run", "/var/run");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            cluster: "default".into(),
            cluster_id: Some("c1".into()),
            machine: "m1".into(),
            image_version: "2".into(),
        }
    }

    #[test]
    fn own_state_is_kept_and_foreign_or_newer_is_refused_by_name() {
        let ours = StateIdentity { image_version: "1".into(), ..new_identity(&owner()) };
        let kept = judge(ours.clone(), &owner()).unwrap();
        assert_eq!((kept.machine_id.as_str(), kept.image_version.as_str()), (ours.machine_id.as_str(), "2"));
        for (changed, wanted) in [
            (StateIdentity { format: STATE_FORMAT + 1, ..ours.clone() }, "format is 2, written by image 1"),
            (StateIdentity { cluster: "other".into(), ..ours.clone() }, "cluster `other`"),
            (StateIdentity { machine: "m2".into(), ..ours.clone() }, "machine `m2`"),
            (StateIdentity { cluster_id: Some("c2".into()), ..ours.clone() }, "id c2"),
        ] {
            let reason = judge(changed, &owner()).unwrap_err();
            assert!(reason.contains(wanted), "{reason}");
        }
        assert!(judge(StateIdentity { cluster_id: None, ..ours }, &owner()).is_ok());
    }

    #[test]
    fn room_to_grow_is_reserved_where_mke2fs_can() {
        let lazy = "lazy_itable_init=1,lazy_journal_init=1";
        assert_eq!(extended_options(1 << 30), format!("{lazy},resize={}", 16 << 18));
        assert_eq!(extended_options(2 << 40), format!("{lazy},resize={}", u32::MAX));
        assert_eq!(extended_options(20 << 40), lazy);
    }

    #[test]
    fn the_size_of_an_ext4_file_system() {
        let mut image = vec![0u8; 2048];
        image[1024 + 4..1024 + 8].copy_from_slice(&1000u32.to_le_bytes());
        image[1024 + 24] = 2;
        assert_eq!(ext4_size(&mut std::io::Cursor::new(image)), Some(1000 * 4096));
    }
}
