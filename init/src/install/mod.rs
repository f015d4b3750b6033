//! From the stick, the network or a CD image to the machine's own disk, where the definition has an `[install]`: the disk is
//! chosen, looked at, written and entered into the firmware's order; a stick for one
//! machine keeps nothing but a note of where that went.

mod choose;
mod write;

use crate::boot::{self, Handover};
use crate::cmdline;
use crate::console::{self, say};
use crate::devices::Watch;
use crate::disk::block::Disk;
use crate::disk::{probe, table, verity};
use crate::files;
use crate::netboot::{Origin, Session};
use crate::stage::Failure;
use choose::{Candidate, Choice};
use seed::Files;
use spec::cluster::Install;
use spec::layout::{BACKUP_GPT_RESERVE, Partition, STATE_MINIMUM, Slot};
use spec::netboot::Report;
use spec::seed::{self as contract, Installed};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a disk may take to appear after coldplug.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
/// Whether the stick is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For a person to read what comes next.
const READING: Duration = Duration::from_secs(5);

/// Puts the machine on its disk and starts from there; returns only when that did not come about.
///
/// # Errors
/// In words; nothing that the definition does not name was written to.
pub fn run(
    rule: &Install,
    handover: &Handover,
    session: Option<Arc<Session>>,
    machine: &str,
    stick_is_for_one: bool,
    watch: &Watch,
) -> Result<(), Failure> {
    let target = find(rule, &handover.disk, watch)?;
    let own =
        |error: seed::Error| Failure::retry("the stick's seed", error, "write the stick again with `imgbuild burn`");
    let seed = seed::read_path(&handover.disk.partition_device(Partition::Seed.number()), 0).map_err(own)?.files;
    let from = From { handover: handover.clone(), session, name: machine.to_owned(), seed, stick_is_for_one };
    let found = look(&target.disk, &from.seed).map_err(|error| unreadable(&target, &error))?;
    match found {
        Holds::Nothing | Holds::Half => {}
        // UEFI is told to start from there; a BIOS goes on to start from what comes first.
        Holds::This(_) if handover.netboot == Some(Origin::Medium) && !firmware::is_there() => {
            return Err(Failure::hold(
                "this CD image has installed its machine",
                format!("it is on {target}"),
                "eject the medium and restart the machine",
            ));
        }
        Holds::This(esp) => from.leave(&target, esp),
        Holds::Data(_) if rule.wipe.as_ref().is_some_and(|wipe| *wipe == target.serial) => {}
        Holds::Data(what) => {
            let reason = format!("{target} holds {what}");
            let hint = format!(
                "if nothing on it is wanted, type its serial number here, or write `wipe = {:?}` into this machine's \
                 install in cluster.toml and make the stick again",
                target.serial
            );
            ask(target, from);
            return Err(Failure::hold("the disk to install to is not empty", reason, hint));
        }
    }
    from.bring(&target)
}

/// What a machine brings to its disk.
struct From {
    handover: Handover,
    /// With `serve`, of a machine that was started from the network.
    session: Option<Arc<Session>>,
    name: String,
    seed: Files,
    /// Not a seed that makes a node of any machine.
    stick_is_for_one: bool,
}

fn unreadable(target: &Candidate, error: &dyn std::fmt::Display) -> Failure {
    Failure::retry(format!("the disk to install to, {target}"), error, "look at the disk's health, or replace it")
}

fn find(rule: &Install, boot: &Disk, watch: &Watch) -> Result<Candidate, Failure> {
    let least = Partition::State.offset() + STATE_MINIMUM + BACKUP_GPT_RESERVE;
    let mut end: Option<Duration> = None;
    loop {
        let generation = watch.generation();
        if end.is_none() && watch.coldplugged() {
            end = Some(console::uptime() + DISK_PATIENCE);
        }
        let left = end.map_or(DISK_PATIENCE, |end| end.saturating_sub(console::uptime()));
        let candidates = choose::candidates(boot);
        match choose::choose(rule, &candidates, least) {
            // Another that fits may still come until coldplug is through.
            Choice::One(candidate) if end.is_some() => return Ok(candidate.clone()),
            Choice::Several(reason) if end.is_some() => {
                return Err(Failure::hold(
                    "which disk to install to",
                    reason,
                    "name one by its id, model or size in this machine's install in cluster.toml",
                ));
            }
            Choice::None(reason) if left.is_zero() => {
                return Err(Failure::retry(
                    "no disk to install to has all that cluster.toml says",
                    reason,
                    "check the disks, or correct this machine's install in cluster.toml",
                ));
            }
            _ => {
                watch.wait_past(generation, left);
            }
        }
    }
}

/// What the chosen disk holds.
#[derive(Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    /// An installation that was cut off.
    Half,
    /// This machine from this very seed: all was written. With the ESP's partition GUID.
    This(Uuid),
    /// In words.
    Data(String),
}

fn look(disk: &Disk, seed: &Files) -> io::Result<Holds> {
    let mut device = disk.open(false)?;
    let Ok(table) = table::read(&mut device, disk.sector_size()) else {
        return look_without_table(&mut device);
    };
    if table::is_being_installed(&table) {
        return Ok(Holds::Half);
    }
    let esp = table.partitions.get(&Partition::Esp.number()).map(|esp| esp.part_guid).unwrap_or_default();
    let named = |kind: Partition| table.partitions.get(&kind.number()).is_some_and(|found| found.name == kind.label());
    if named(Partition::Seed) && named(Partition::RootA) {
        let there = seed::read_path(&disk.partition_device(Partition::Seed.number()), 0).map(|seed| seed.files);
        return Ok(
            there.map_or_else(|_| Holds::Data("an appliance without a seed".into()), |there| whose(&there, seed, esp))
        );
    }
    let names: Vec<&str> = table.partitions.values().map(|partition| partition.name.as_str()).collect();
    Ok(Holds::Data(format!("{} partitions ({})", names.len(), names.join(", "))))
}

fn look_without_table(device: &mut File) -> io::Result<Holds> {
    if write::is_marked(device)? {
        return Ok(Holds::Half);
    }
    if let Some(found) = probe::probe(device) {
        return Ok(Holds::Data(format!("a {} file system `{}`", found.kind, found.label)));
    }
    if !probe::blank(device) {
        return Ok(Holds::Data("data that init does not know".into()));
    }
    // What mirrors and backup tables keep at the end.
    const TAIL: u64 = 128 * 1024;
    let mut tail = Vec::new();
    let length = device.seek(SeekFrom::End(0))?;
    device.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    device.read_to_end(&mut tail)?;
    let blank = tail.iter().all(|byte| *byte == 0);
    Ok(if blank { Holds::Nothing } else { Holds::Data("data at its end".into()) })
}

/// A seed's machine file: the same one, or the one that a cluster has sealed since, was made at the same second.
fn whose(there: &Files, own: &Files, esp: Uuid) -> Holds {
    let machine = |files: &Files| -> Option<contract::Machine> {
        toml::from_str(std::str::from_utf8(files.get(contract::files::MACHINE)?).ok()?).ok()
    };
    let cluster = |files: &Files| -> Option<String> {
        let text = std::str::from_utf8(files.get(contract::files::CLUSTER)?).ok()?;
        toml::from_str::<toml::Table>(text).ok()?.get("name")?.as_str().map(str::to_owned)
    };
    let (of_disk, of_stick) = (machine(there), machine(own));
    let same = of_disk.as_ref().zip(of_stick.as_ref()).is_some_and(|(disk, stick)| {
        (disk.created, &disk.name) == (stick.created, &stick.name) && cluster(there) == cluster(own)
    });
    if same && there.contains_key(contract::files::INSTALLED) {
        return Holds::This(esp);
    }
    let name = of_disk.and_then(|machine| machine.name).unwrap_or_else(|| "a machine".into());
    Holds::Data(format!("{name} of cluster {}", cluster(there).unwrap_or_else(|| "unknown".into())))
}

impl From {
    fn bring(&self, target: &Candidate) -> Result<(), Failure> {
        let failed = |error: io::Error| unreadable(target, &error);
        let disk = &self.handover.disk;
        if self.handover.slot != Slot::A {
            return Err(Failure::hold(
                "this stick runs its second slot",
                "an upgrade was written to it",
                "burn it anew: only what was burned is installed",
            ));
        }
        say(format!("install      {} goes to {target}", self.name));
        let root = root_bytes(disk).map_err(failed)?;
        let source = write::Source { disk, root, seed: &self.seed };
        let esp = write::write(&source, target, |esp| note(target, esp)).map_err(failed)?;
        self.leave(target, esp)
    }

    /// The stick loses its seed unless it has other machines to make, or `serve` hears of it, and the machine starts from
    /// its disk.
    fn leave(&self, target: &Candidate, esp: Uuid) -> ! {
        if self.handover.netboot.is_some() {
            if let Some(session) = &self.session {
                session.report(&Report::Installed { disk: target.to_string() });
            }
            say(format!("install      done: this machine is on {target}"));
            start_from(&target.disk, esp, None)
        }
        let disk = &self.handover.disk;
        if !self.stick_is_for_one {
            say(format!("install      done: this machine is on {target}, and the stick is ready for the next"));
            start_from(&target.disk, esp, Some(disk))
        }
        let stick = disk.partition_device(Partition::Seed.number());
        let forgotten = note(target, esp).and_then(|note| {
            write::zero(&stick, Partition::Seed.size().unwrap_or(0))?;
            seed::write_path(&stick, 0, &note).map(drop).map_err(io::Error::other)
        });
        match forgotten {
            Ok(()) => {
                say(format!("install      done: this machine is on {target}, and the stick holds no secret any more"))
            }
            Err(error) => say(format!("install      done; the stick keeps its seed: {error}")),
        }
        start_from(&target.disk, esp, Some(disk))
    }
}

fn root_bytes(disk: &Disk) -> io::Result<u64> {
    let line = cmdline::parse(&std::fs::read_to_string("/proc/cmdline")?);
    let (Some(root_hash), Some(hash_offset)) = (line.root_hash, line.hash_offset) else {
        return Err(io::Error::other("the kernel's command line names no root"));
    };
    let path = disk.partition_device(Partition::RootA.number());
    let mut device = File::open(&path).map_err(files::at(&path))?;
    let superblock = verity::check(&mut device, hash_offset, &root_hash).map_err(io::Error::other)?;
    Ok(verity::reach(&superblock, hash_offset))
}

fn note(target: &Candidate, esp: Uuid) -> io::Result<Files> {
    let text = toml::to_string(&Installed { esp: esp.to_string(), disk: target.to_string() });
    Ok(Files::from([(contract::files::INSTALLED.to_owned(), text.map_err(io::Error::other)?.into_bytes())]))
}

/// A stick that has installed its machine was started. Never returns.
pub fn start_from_there(note: &str, stick: &Disk, watch: &Watch) -> ! {
    let esp = toml::from_str::<Installed>(note).ok().and_then(|note| note.esp.parse::<Uuid>().ok()).unwrap_or_default();
    let end = console::uptime() + DISK_PATIENCE;
    loop {
        let generation = watch.generation();
        if let Some(disk) = disk_with(esp) {
            say(format!("install      this stick has put its machine on {}", disk.name));
            start_from(&disk, esp, Some(stick));
        }
        let left = end.saturating_sub(console::uptime());
        if left.is_zero() || !watch.wait_past(generation, left) {
            let failure = Failure::hold(
                "this stick has installed its machine, and that disk is not here",
                toml::from_str::<Installed>(note).map_or_else(|error| error.to_string(), |note| note.disk),
                "pull the stick; to use it again, write it with `imgbuild burn`",
            );
            boot::end("install", &failure, None);
        }
    }
}

fn disk_with(esp: Uuid) -> Option<Disk> {
    crate::disk::block::disks().into_iter().find(|disk| {
        let table = disk.open(false).ok().and_then(|mut device| table::read(&mut device, disk.sector_size()).ok());
        table.is_some_and(|table| {
            table.partitions.get(&Partition::Esp.number()).is_some_and(|found| found.part_guid == esp)
        })
    })
}

/// UEFI is told which disk comes next; BIOS takes whichever it finds, so a stick has to go first.
fn start_from(disk: &Disk, esp: Uuid, stick: Option<&Disk>) -> ! {
    if firmware::is_there() {
        match firmware::turn_to(&disk.partition_device(Partition::Esp.number()), esp) {
            Ok(()) => {
                let pull = if stick.is_some() { "pull the stick; " } else { "" };
                say(format!("install      {pull}the next start is from {}", disk.name));
                crate::signals::wait_for_reboot_request(Some(READING));
                boot::reboot_now(false)
            }
            Err(error) => say(format!("install      the firmware does not take an entry: {error}")),
        }
    }
    if let Some(stick) = stick {
        say("install      pull the stick: this machine reboots as soon as it is gone");
        wait_until_gone(stick);
    }
    boot::reboot_now(false)
}

fn wait_until_gone(stick: &Disk) {
    while stick.device().exists() {
        let asked = console::uptime();
        crate::signals::wait_for_reboot_request(Some(LOOK_EVERY));
        if console::uptime().saturating_sub(asked) < LOOK_EVERY {
            break;
        }
    }
}

/// Listens for the serial number on the console, while the machine waits.
fn ask(target: Candidate, from: From) {
    let listen = move || {
        let console = File::open("/dev/console").map(BufReader::new)?;
        for line in console.lines() {
            let line = line?;
            if line.trim() == target.serial && !target.serial.is_empty() {
                if let Err(failure) = from.bring(&target) {
                    boot::announce("install", &failure);
                }
            } else if !line.trim().is_empty() {
                say(format!("{:?} is not {:?}: nothing was written", line.trim(), target.serial));
            }
        }
        io::Result::Ok(())
    };
    // Without a console nobody can answer.
    drop(std::thread::Builder::new().name("question".into()).spawn(listen));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(machine: &str, installed: bool) -> Files {
        let mut files = Files::from([
            (contract::files::CLUSTER.to_owned(), b"name = \"lab\"\n".to_vec()),
            (contract::files::MACHINE.to_owned(), machine.as_bytes().to_vec()),
        ]);
        if installed {
            files.insert(contract::files::INSTALLED.to_owned(), Vec::new());
        }
        files
    }

    #[test]
    fn an_installation_of_this_very_seed_is_told_from_all_others() {
        let stick = files("version = 1\nname = \"m1\"\ncreated = 7\nmay-form = true\n", false);
        let esp = Uuid::from_u128(5);
        let of = |machine: &str, installed| whose(&files(machine, installed), &stick, esp);
        let sealed = "version = 1\nname = \"m1\"\ncreated = 7\ncluster-id = \"c1\"\n";
        assert_eq!(of(sealed, true), Holds::This(esp));
        assert_eq!(of(sealed, false), Holds::Data("m1 of cluster lab".into()));
        for other in ["version = 1\nname = \"m2\"\ncreated = 7\n", "version = 1\nname = \"m1\"\ncreated = 6\n"] {
            assert!(matches!(of(other, true), Holds::Data(_)), "{other}");
        }
    }

    #[test]
    fn a_disk_without_a_table_is_empty_when_both_its_ends_are() {
        let mut disk = tempfile::tempfile().unwrap();
        disk.set_len(8 << 20).unwrap();
        assert_eq!(look_without_table(&mut disk).unwrap(), Holds::Nothing);
        std::os::unix::fs::FileExt::write_all_at(&disk, b"end", (8 << 20) - 512).unwrap();
        assert_eq!(look_without_table(&mut disk).unwrap(), Holds::Data("data at its end".into()));
        std::os::unix::fs::FileExt::write_all_at(&disk, b"hsqs", 0).unwrap();
        assert_eq!(look_without_table(&mut disk).unwrap(), Holds::Data("a squashfs file system ``".into()));
    }
}
