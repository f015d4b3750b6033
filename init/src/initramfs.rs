//! The first life: find the disk that the loader came from, open the slot that matches the root hash,
//! and enter it. Nothing here writes to a disk.

use crate::boot::{self, HANDOVER_FILE, Handover, Recorder};
use crate::cmdline::{self, CommandLine, hex};
use crate::console::{self, say};
use crate::devices::uevent;
use crate::disk::block::{self, Disk};
use crate::disk::{mapper, table, verity};
use crate::files::at;
use crate::modules::{Index, Loader, modaliases_of_devices, names_in};
use crate::mounts::NO_PROGRAMS;
use crate::netboot::{self, Origin};
use crate::stage::{Failure, Mode, Stage, plan};
use rustix::mount::{MountFlags, mount};
use spec::layout::Slot;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const NEW_ROOT: &str = "/newroot";
/// How long a disk may take to appear.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
const MAPPED_NAME: &str = "root";

/// What the stages learn, one from the other.
#[derive(Default)]
struct Found {
    command_line: CommandLine,
    loader: Option<Arc<Loader>>,
    /// Loads what the root needs, beside the search for the disk.
    root_drivers: Option<JoinHandle<()>>,
    events: Option<uevent::Listener>,
    seen: BTreeSet<String>,
    disk: Option<Disk>,
    netboot: Option<Origin>,
    slot: Option<Slot>,
    root: Option<PathBuf>,
}

/// Runs the stages; returns only by way of `boot::end`.
pub fn run() -> ! {
    let mut recorder = Recorder::default();
    let mut found = Found::default();
    for stage in plan(Mode::Initramfs) {
        if stage == Stage::EnterRoot {
            enter(&mut recorder, &found);
        }
        if let Err(failure) = recorder.run(stage, || execute(stage, &mut found)) {
            // Where no slot matched, the loader still knows which one it meant.
            let slot = found.slot.or_else(crate::efi::booted_slot);
            boot::end(stage.name(), &failure, found.disk.as_ref().zip(slot));
        }
    }
    boot::reboot_now(false)
}

fn execute(stage: Stage, found: &mut Found) -> Result<(), Failure> {
    match stage {
        Stage::EarlyMounts => early_mounts(),
        Stage::CommandLine => read_command_line(found),
        Stage::Drivers => load_drivers(found),
        Stage::BootDevice => find_disk(found),
        Stage::Verity => open_root(found),
        _ => Ok(()),
    }
}

/// The kernel's own file systems. Also what the second life finds in place.
fn early_mounts() -> Result<(), Failure> {
    for (kind, target, flags, options) in [
        ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
        ("proc", "/proc", NO_PROGRAMS, c""),
        ("sysfs", "/sys", NO_PROGRAMS, c""),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=25%"),
    ] {
        let _ = std::fs::create_dir_all(target);
        match mount(kind, target, kind, flags, options) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => {
                return Err(Failure::of_slot(
                    format!("mounting {kind} at {target}"),
                    error,
                    "another kernel may have it",
                ));
            }
        }
    }
    console::open();
    crate::signals::take_over();
    if let Err(error) = crate::modules::install_helper("/init") {
        say(format!("the kernel's own module requests will fail: {error}"));
    }
    Ok(())
}

fn read_command_line(found: &mut Found) -> Result<(), Failure> {
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    found.command_line = cmdline::parse(&text);
    found.command_line.complaints.iter().for_each(say);
    Ok(())
}

/// The firmware's variables, which tell the disk, at once; the rest of the builder's list (verity, file system) in a
/// thread, beside what the devices ask for while the disk is looked for.
fn load_drivers(found: &mut Found) -> Result<(), Failure> {
    let listener = uevent::Listener::open();
    found.events = Some(
        listener
            .map_err(|error| Failure::of_slot("the kernel's device events", error, "another kernel may have them"))?,
    );
    let loader = Arc::new(Loader::new(Index::of_running_kernel()));
    let (named, shared) = (std::fs::read_to_string(spec::paths::MODULES_FILE).unwrap_or_default(), loader.clone());
    let load_named = move || {
        names_in(&named).iter().filter_map(|name| shared.load(name).err()).for_each(|error| say(error.to_string()));
    };
    found.root_drivers = Some(
        std::thread::Builder::new()
            .name("root-drivers".into())
            .spawn(load_named)
            .map_err(|error| Failure::retry("a thread for the root's drivers", error, "look for what uses memory"))?,
    );
    mount_efi_variables(&loader);
    found.loader = Some(loader);
    Ok(())
}

fn mount_efi_variables(loader: &Loader) {
    let path = "/sys/firmware/efi/efivars";
    if Path::new(path).exists() {
        if let Err(error) = loader.load("efivarfs") {
            say(error.to_string());
        }
        if let Err(error) = mount("efivarfs", path, "efivarfs", NO_PROGRAMS, c"") {
            say(format!("EFI variables: {error} (is the module efivarfs in the initramfs?)"));
        }
    }
}

/// Loads drivers, the quick ones first, and stops as soon as the disk with the boot partition is
/// there: a controller that is not needed (AHCI takes its time) is left to the second life.
fn coldplug(found: &mut Found, wanted: &str) -> Vec<Disk> {
    let mut known = 0;
    loop {
        let mut fresh: Vec<String> = modaliases_of_devices().difference(&found.seen).cloned().collect();
        if fresh.is_empty() {
            return holders(wanted);
        }
        fresh.sort_by_key(|modalias| patience(modalias));
        for modalias in fresh {
            if let Some(loader) = &found.loader {
                loader.load_for_device(&modalias).iter().for_each(|error| say(error.to_string()));
            }
            found.seen.insert(modalias);
            let disks = block::disks().len();
            if disks != known {
                known = disks;
                let holders = holders(wanted);
                if !holders.is_empty() {
                    return holders;
                }
            }
        }
    }
}

/// virtio, then NVMe, then everything else.
fn patience(modalias: &str) -> u8 {
    match modalias {
        virtio if virtio.starts_with("virtio:") || virtio.starts_with("pci:v00001AF4") => 0,
        nvme if nvme.contains("bc01sc08") => 1,
        _ => 2,
    }
}

fn holders(guid: &str) -> Vec<Disk> {
    block::disks().into_iter().filter(|disk| holds(disk, guid)).collect()
}

/// The disk of a machine that starts from the network or a CD image, where the files for it came with the kernel.
fn disk_in_memory(found: &mut Found) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let hint = "start this machine again; `imgbuild serve` or `imgbuild iso` and the image must be of one version";
        Failure::retry("the disk in memory of a machine that starts from the network or a CD image", error, hint)
    };
    found.netboot = netboot::origin().map_err(failed)?;
    if found.netboot.is_some() {
        if let Some(Err(error)) = found.loader.as_ref().map(|loader| loader.load("loop")) {
            say(error.to_string());
        }
        found.disk = Some(netboot::disk::make().map_err(failed)?);
    }
    Ok(())
}

fn find_disk(found: &mut Found) -> Result<(), Failure> {
    disk_in_memory(found)?;
    if found.disk.is_some() {
        return Ok(());
    }
    let wanted = crate::efi::loader_partition().or_else(|| found.command_line.boot_partition.clone());
    let Some(wanted) = wanted else {
        return Err(Failure::hold(
            "the boot partition is not known",
            format!(
                "there is no EFI variable LoaderDevicePartUUID, and no {}= on the kernel command line",
                spec::cmdline::BOOT_PARTITION
            ),
            "boot by systemd-boot or by the image's own GRUB, which both say it",
        ));
    };
    let end = console::uptime() + DISK_PATIENCE;
    loop {
        match coldplug(found, &wanted).as_slice() {
            [disk] => {
                found.disk = Some(disk.clone());
                return Ok(());
            }
            [] => wait_for_devices(found, end, &wanted)?,
            several => {
                let names: Vec<&str> = several.iter().map(|disk| disk.name.as_str()).collect();
                return Err(Failure::hold(
                    format!("partition {wanted} is on {}", names.join(" and on ")),
                    "two disks carry the same image with the same GUIDs",
                    "remove one of them, or write one anew with `imgbuild burn`, which draws new GUIDs",
                ));
            }
        }
    }
}

fn holds(disk: &Disk, guid: &str) -> bool {
    let Ok(mut device) = disk.open(false) else { return false };
    let table = table::read(&mut device, disk.sector_size());
    table.is_ok_and(|table| table.partitions.values().any(|partition| partition.part_guid.to_string() == guid))
}

/// Waits for an event of a device and loads its driver.
fn wait_for_devices(found: &mut Found, end: Duration, wanted: &str) -> Result<(), Failure> {
    let left = end.saturating_sub(console::uptime());
    let event = match &found.events {
        Some(events) if !left.is_zero() => events.next(Some(left)).unwrap_or_default(),
        _ => None,
    };
    if event.is_some() {
        return Ok(());
    }
    let names: Vec<String> = block::disks().into_iter().map(|disk| disk.name).collect();
    let seen = if names.is_empty() { "no disk at all".to_owned() } else { names.join(", ") };
    Err(Failure::retry(
        format!("no disk with partition {wanted} appeared within {} seconds", DISK_PATIENCE.as_secs()),
        format!("the kernel sees {seen}"),
        "check the disk's cable and controller; its driver must be in the profile's kernel.initramfs list",
    ))
}

fn open_root(found: &mut Found) -> Result<(), Failure> {
    if found.root_drivers.take().is_some_and(|thread| thread.join().is_err()) {
        say("the thread that loads the root's drivers broke");
    }
    let Some(disk) = &found.disk else { return Ok(()) };
    let (Some(root_hash), Some(hash_offset)) = (found.command_line.root_hash, found.command_line.hash_offset) else {
        let keys = format!("{} and {}", spec::cmdline::ROOT_HASH, spec::cmdline::HASH_OFFSET);
        return Err(Failure::of_slot(
            "the root image is not known",
            format!("the kernel command line lacks {keys}"),
            "boot the UKI as the builder made it",
        ));
    };
    let mut reasons = Vec::new();
    for slot in [Slot::A, Slot::B] {
        let device = disk.partition_device(slot.partition().number());
        let checked = File::open(&device)
            .map_err(|error| error.to_string())
            .and_then(|mut file| verity::check(&mut file, hash_offset, &root_hash).map_err(|error| error.to_string()));
        match checked {
            Ok(superblock) => {
                found.slot = Some(slot);
                let parameters = verity::target_parameters(&device, hash_offset, &root_hash, &superblock);
                let sectors = superblock.data_blocks * u64::from(spec::layout::VERITY_BLOCK_SIZE) / 512;
                let opened = mapper::create_read_only(MAPPED_NAME, "verity", sectors, &parameters);
                let node = opened.map_err(|error| {
                    Failure::of_slot(
                        format!("dm-verity on {}", device.display()),
                        error,
                        "is the module dm-verity in the initramfs?",
                    )
                })?;
                found.root = Some(node);
                return Ok(());
            }
            Err(reason) => reasons.push(format!("slot {}: {reason}", slot.letter())),
        }
    }
    Err(Failure::of_slot(
        format!("no slot of {} holds the root image {}", disk.name, hex(&root_hash)),
        reasons.join("; "),
        "the image was damaged or replaced behind its loader: boot the other entry of the loader's menu, or write the image again",
    ))
}

/// Mounts the root and becomes its init. The stage's time is recorded before the point of no return.
fn enter(recorder: &mut Recorder, found: &Found) {
    let place = found.disk.as_ref().zip(found.slot);
    let (Some((disk, slot)), Some(root)) = (place, &found.root) else { return };
    let mounted = recorder.run(Stage::EnterRoot, || {
        mount_root(root).map_err(|error| {
            Failure::of_slot(
                format!("the root file system on {}", root.display()),
                error,
                "is the module erofs in the initramfs?",
            )
        })
    });
    let failed = match mounted {
        Ok(()) => {
            let handover = Handover {
                disk: disk.clone(),
                slot,
                netboot: found.netboot.clone(),
                debug_shell: found.command_line.debug_shell,
                stages: recorder.stages.clone(),
            };
            let error = switch_root(&handover).err().unwrap_or_else(|| io::ErrorKind::Other.into());
            Failure::of_slot(
                format!("starting {} of the root", spec::paths::INIT),
                error,
                "the root image lacks a folder or its init",
            )
        }
        Err(failure) => failure,
    };
    boot::end(Stage::EnterRoot.name(), &failed, place);
}

fn mount_root(device: &Path) -> io::Result<()> {
    std::fs::create_dir_all(NEW_ROOT).map_err(at(NEW_ROOT))?;
    mount(device, NEW_ROOT, "erofs", MountFlags::RDONLY | MountFlags::NODEV, c"")?;
    Ok(())
}

fn must_be_program(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path).map_err(at(path))?;
    match metadata.is_file() && metadata.mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err(at(path)(io::Error::other("it is no program"))),
    }
}

/// Moves everything into the new root and executes its init. Returns only with an error.
fn switch_root(handover: &Handover) -> io::Result<()> {
    // The program that goes on is in memory already; a root without it would lack the kernel's helper, and more.
    must_be_program(Path::new(&format!("{NEW_ROOT}{}", spec::paths::INIT)))?;
    let json = serde_json::to_vec(handover).map_err(io::Error::other)?;
    crate::files::replace_volatile(HANDOVER_FILE, &json, 0o600)?;
    // The helper's path changes with the root.
    crate::modules::install_helper(spec::paths::INIT)?;
    let old_root = std::fs::metadata("/")?.dev();
    for folder in ["/dev", "/proc", "/sys", "/run"] {
        let target = format!("{NEW_ROOT}{folder}");
        rustix::mount::mount_move(folder, &target).map_err(|error| at(&target)(error.into()))?;
    }
    std::env::set_current_dir(NEW_ROOT)?;
    // The same program as the root's: to read it again through verity takes a while.
    let program = std::fs::File::open("/init").map_err(at("/init"))?;
    // The initramfs lives in memory: give it back.
    remove_below(Path::new("/"), old_root);
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    Err(at(spec::paths::INIT)(std::process::Command::new(path).arg0(spec::paths::INIT).env_clear().exec()))
}

/// Removes what lies on the device `device` and nothing that is mounted over it.
fn remove_below(folder: &Path, device: u64) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.dev() != device => {}
            Ok(found) if found.is_dir() => {
                remove_below(&path, device);
                let _ = std::fs::remove_dir(&path);
            }
            _ => {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}
