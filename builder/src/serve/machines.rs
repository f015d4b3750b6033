//! Which machine asks, what it gets, and what has become of it.

use crate::error::{Error, Result};
use crate::progress::{Progress, Task, Unit};
use crate::scratch::write_file;
use netboot::dhcp::{self, Firmware};
use netboot::tftp::{self, Outcome};
use spec::agent::KEY_DIGITS;
use spec::cluster::{Cluster, Machine, Role};
use spec::netboot::Introduction;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What firmware says of the machine that it runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signs {
    /// `52:54:00:12:34:56`, lower case.
    pub macs: Vec<String>,
    /// DMI product serial number.
    pub serial: Option<String>,
}

/// A machine that may start from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Of the definition, by name.
    Listed(String, Role),
    /// A node of `any-node`.
    Any,
}

impl Known {
    pub fn role(&self) -> Role {
        match self {
            Known::Listed(_, role) => *role,
            Known::Any => Role::Node,
        }
    }

    /// In the definition, or the MAC address of one that has no name there.
    pub fn name<'name>(&'name self, mac: &'name str) -> &'name str {
        match self {
            Known::Listed(name, _) => name,
            Known::Any => mac,
        }
    }
}

/// Finds who asks, as init does: by MAC address or serial number, else as the only machine that asks for neither.
/// `role` is the image's, where one runs already.
///
/// # Errors
/// Why it is nobody, in words.
pub fn find(cluster: &Cluster, signs: &Signs, role: Option<Role>) -> std::result::Result<Known, String> {
    let of_role = |machine: &&Machine| role.is_none_or(|role| machine.role == role);
    let has_mac = |mac: &str| signs.macs.iter().any(|found| found.eq_ignore_ascii_case(mac));
    let marked = |machine: &&Machine| {
        machine.mac.as_deref().is_some_and(has_mac)
            || machine.serial.is_some() && machine.mac.is_none() && machine.serial == signs.serial
    };
    let machines = || cluster.machines.iter().filter(of_role);
    if let Some(machine) = machines().find(marked) {
        return Ok(Known::Listed(machine.name.clone(), machine.role));
    }
    let unmarked: Vec<&Machine> =
        machines().filter(|machine| machine.mac.is_none() && machine.serial.is_none()).collect();
    match unmarked.as_slice() {
        [machine] => Ok(Known::Listed(machine.name.clone(), machine.role)),
        [] if role.is_none_or(|role| cluster.takes_any(role)) && cluster.any_node.is_some() => Ok(Known::Any),
        [] => Err("the cluster definition has no machine with this MAC address or serial number".to_owned()),
        several => {
            let names: Vec<&str> = several.iter().map(|machine| machine.name.as_str()).collect();
            Err(format!("{} have neither `mac` nor `serial`: which of them is it?", names.join(", ")))
        }
    }
}

/// What `serve` knows of one machine, by its first MAC address.
#[derive(Default)]
struct Seen {
    name: Option<String>,
    /// What it is remembered by once it is on a disk: its name, or each MAC address of a node that is not listed.
    remembered_by: Vec<String>,
    /// The key (SHA-256, hexadecimal) that asks for the seed.
    asks: Option<String>,
    /// The key that has been let in.
    approved: Option<String>,
    /// How many seeds it has had.
    seeds: u64,
    transfer: Option<(String, Task)>,
}

/// Who shows what becomes of a machine after one of its seeds.
#[derive(Debug)]
pub struct Follower {
    pub mac: String,
    seed: u64,
}

/// All machines that have been seen, and what is shown of them.
pub struct Machines {
    seen: Mutex<BTreeMap<String, Seen>>,
    /// Addresses that a machine's requests come from.
    addresses: Mutex<BTreeMap<IpAddr, String>>,
    installed: Mutex<Installed>,
    /// Who has begun to fetch what of an upgrade.
    fetching: Mutex<BTreeSet<(IpAddr, String)>>,
    progress: Progress,
    /// Whoever has a machine's MAC address is that machine.
    trust_macs: bool,
}

/// Machines that have put themselves on a disk: they start from there, and are not installed a second time.
#[derive(Debug, Default)]
pub struct Installed {
    path: PathBuf,
    /// Machine -> disk, in words.
    disks: BTreeMap<String, String>,
}

impl Installed {
    /// Reads what earlier runs have kept; `again`: machines to be installed once more.
    ///
    /// # Errors
    /// The file is none of ours, or cannot be written.
    pub fn read(path: PathBuf, again: &[String]) -> Result<Installed> {
        let disks = match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| Error::because(path.display().to_string(), error))?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let mut installed = Installed { path, disks };
        if !again.is_empty() {
            installed.disks.retain(|name, _| !again.contains(name));
            installed.write()?;
        }
        Ok(installed)
    }

    fn remember(&mut self, names: Vec<String>, disk: &str) -> Result<()> {
        self.disks.extend(names.into_iter().map(|name| (name, disk.to_owned())));
        self.write()
    }

    fn write(&self) -> Result<()> {
        let failed = |error| Error::io("write", &self.path, error);
        let text = toml::to_string(&self.disks).map_err(|error| failed(io::Error::other(error)))?;
        write_file(&self.path, text.as_bytes(), 0o644).map_err(failed)
    }
}

/// What a question for a seed is answered with.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Given,
    /// What is waited for.
    Waits(String),
}

impl Machines {
    pub fn new(progress: Progress, trust_macs: bool, installed: Installed) -> Machines {
        let installed = Mutex::new(installed);
        let (seen, addresses, fetching) = Default::default();
        Machines { seen, addresses, installed, fetching, progress, trust_macs }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<IpAddr, String>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line about a machine.
    pub fn note(&self, mac: &str, text: &str) {
        let name = self.seen().get(mac).and_then(|seen| seen.name.clone());
        self.progress.note(&format!("{} {mac}: {text}", name.as_deref().unwrap_or("?")));
    }

    pub fn say(&self, text: &str) {
        self.progress.note(text);
    }

    /// Firmware, or iPXE after it, has asked what to boot.
    pub fn firmware(&self, event: dhcp::Event) {
        match event {
            dhcp::Event::Answered { client, program, .. } => {
                let who = match (client.ipxe, client.firmware) {
                    (true, _) => "iPXE",
                    (false, Firmware::Bios) => "BIOS",
                    (false, Firmware::Uefi) => "UEFI",
                    (false, Firmware::UefiHttp) => "UEFI (HTTP)",
                };
                self.note(&format_mac(client.mac), &format!("{who} gets {program}"));
            }
            dhcp::Event::SendFailed { client, to, error } => {
                self.warn(&format!("{}: no answer to {to}: {error}", format_mac(client.mac)));
            }
            dhcp::Event::ReceiveFailed { port, error } => self.warn(&format!("{port:?}: {error}")),
        }
    }

    /// What became of a boot program; one that came whole is no news.
    pub fn transfer(&self, event: &tftp::Event) {
        match event {
            tftp::Event::Begun { .. } | tftp::Event::Ended { outcome: Outcome::Finished, .. } => {}
            // UEFI asks for a file's size and breaks off.
            tftp::Event::Ended { delivered: 0, .. } => {}
            other => self.say(&format!("TFTP: {other:?}")),
        }
    }

    pub fn warn(&self, text: &str) {
        self.progress.warn(text);
    }

    /// A machine of this address and name asks for what to start.
    pub fn starts(&self, mac: &str, address: IpAddr, known: Option<&Known>) {
        if let Some(Known::Listed(name, _)) = known {
            self.seen().entry(mac.to_owned()).or_default().name = Some(name.clone());
        }
        self.addresses().insert(address, mac.to_owned());
    }

    /// Whether the machine has put itself on a disk.
    pub fn is_installed(&self, name: &str) -> bool {
        self.installed.lock().unwrap_or_else(PoisonError::into_inner).disks.contains_key(name)
    }

    /// `count` more bytes of a file have gone to an address.
    pub fn sent(&self, address: IpAddr, file: &str, size: u64, count: u64) {
        let Some(mac) = self.addresses().get(&address).cloned() else { return };
        let mut all = self.seen();
        let seen = all.entry(mac.clone()).or_default();
        if seen.transfer.as_ref().is_none_or(|(under_way, _)| under_way != file) {
            let label = format!("{} {file}", seen.name.as_deref().unwrap_or(&mac));
            seen.transfer = Some((file.to_owned(), self.progress.task(&label, size, Unit::Bytes)));
        }
        if let Some((_, task)) = &seen.transfer {
            task.advance(count);
        }
    }

    /// A machine asks for a piece of an upgrade's payload.
    pub fn fetches(&self, address: IpAddr, file: &str, image: &str) {
        let what = format!("{file} of {image}");
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if fetching.insert((address, what.clone())) {
            self.say(&format!("{address} fetches {what}"));
        }
    }

    /// A file is through.
    pub fn through(&self, address: IpAddr, file: &str) {
        let Some(mac) = self.addresses().get(&address).cloned() else { return };
        let transfer =
            self.seen().get_mut(&mac).and_then(|seen| seen.transfer.take_if(|(under_way, _)| under_way == file));
        if let Some((_, task)) = transfer {
            task.done();
        }
    }

    /// A machine asks for its seed with a key (SHA-256, hexadecimal).
    pub fn asks(&self, introduction: &Introduction, known: &Known, key: &str) -> Verdict {
        let mac = introduction.macs.first().cloned().unwrap_or_default();
        let name = known.name(&mac).to_owned();
        let shown = shown(key);
        let mut all = self.seen();
        let seen = all.entry(mac.clone()).or_default();
        seen.name = Some(name.clone());
        seen.remembered_by = match known {
            Known::Listed(..) => vec![name.clone()],
            Known::Any => introduction.macs.clone(),
        };
        if self.trust_macs || seen.approved.as_deref() == Some(key) {
            seen.approved = Some(key.to_owned());
            return Verdict::Given;
        }
        let is_new = seen.asks.as_deref() != Some(key);
        seen.asks = Some(key.to_owned());
        drop(all);
        if is_new {
            self.note(&mac, &format!("asks for its seed with the key {shown}: type the key that its console shows"));
        }
        Verdict::Waits(format!("an operator types it where `imgbuild serve` runs, and {name} gets its seed"))
    }

    /// A machine has its seed.
    pub fn given(&self, mac: &str) -> Follower {
        let mut all = self.seen();
        let seen = all.entry(mac.to_owned()).or_default();
        seen.seeds += 1;
        let follower = Follower { mac: mac.to_owned(), seed: seen.seeds };
        drop(all);
        self.note(mac, "has its seed");
        follower
    }

    /// Whether the machine has had no other seed since.
    pub fn is_last(&self, follower: &Follower) -> bool {
        self.seen().get(&follower.mac).is_some_and(|seen| seen.seeds == follower.seed)
    }

    /// An operator has typed a key; the name of the machine that it belongs to.
    pub fn approve(&self, typed: &str) -> Option<String> {
        let typed = typed.trim().to_lowercase();
        let mut all = self.seen();
        let seen = all.values_mut().find(|seen| seen.asks.as_deref().is_some_and(|key| shown(key) == typed))?;
        seen.approved = seen.asks.take();
        seen.name.clone()
    }

    /// A machine says what has become of it; whether its key is one that was let in.
    pub fn installed(&self, key: &str, disk: &str) -> bool {
        let all = self.seen();
        let found = all.iter().find(|(_, seen)| seen.approved.as_deref() == Some(key));
        let found = found.map(|(mac, seen)| (mac.clone(), seen.remembered_by.clone()));
        drop(all);
        let Some((mac, names)) = found else { return false };
        self.note(&mac, &format!("is on its disk now: {disk}"));
        let mut installed = self.installed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = installed.remember(names, disk) {
            self.warn(&error.to_string());
        }
        true
    }
}

fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What an operator compares and types.
fn shown(key: &str) -> &str {
    key.get(..KEY_DIGITS).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> Cluster {
        toml::from_str(&format!("name = \"lab\"\n{text}")).unwrap()
    }

    fn signs(mac: &str, serial: Option<&str>) -> Signs {
        Signs { macs: vec![mac.to_owned()], serial: serial.map(str::to_owned) }
    }

    fn introduction(mac: &str) -> Introduction {
        Introduction { macs: vec![mac.into()], serial: None, role: Role::Node, image: "1".into() }
    }

    #[test]
    fn machines_are_found_by_mac_by_serial_or_as_the_only_one() {
        let lab = cluster(
            "[[machine]]\nname = \"m1\"\nrole = \"master\"\nmac = \"52:54:00:00:00:0A\"\n\
             [[machine]]\nname = \"n1\"\nrole = \"node\"\nserial = \"S1\"\n\
             [[machine]]\nname = \"n2\"\nrole = \"node\"\n",
        );
        let name = |signs: Signs, role| match find(&lab, &signs, role) {
            Ok(Known::Listed(name, _)) => name,
            other => format!("{other:?}"),
        };
        assert_eq!(name(signs("52:54:00:00:00:0a", None), None), "m1");
        assert_eq!(name(signs("52:54:00:00:00:0b", Some("S1")), None), "n1");
        assert_eq!(name(signs("52:54:00:00:00:0b", Some("S2")), Some(Role::Node)), "n2");
        assert!(name(signs("52:54:00:00:00:0b", None), Some(Role::Master)).contains("no machine with this MAC"));
        let two = cluster("[[machine]]\nname = \"n1\"\nrole = \"node\"\n[[machine]]\nname = \"n2\"\nrole = \"node\"\n");
        assert!(find(&two, &signs("x", None), None).unwrap_err().starts_with("n1, n2 have neither"));
        let any = cluster("[any-node]\nprefix = \"r-\"\n");
        assert_eq!(find(&any, &signs("x", None), None), Ok(Known::Any));
        assert!(find(&any, &signs("x", None), Some(Role::Master)).is_err());
    }

    #[test]
    fn a_seed_waits_for_the_key_that_the_console_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("installed.toml");
        let machines = Machines::new(Progress::quiet(), false, Installed::read(path.clone(), &[]).unwrap());
        let (key, other) = ("ab".repeat(32), "cd".repeat(32));
        let n1 = Known::Listed("n1".into(), Role::Node);
        assert!(matches!(machines.asks(&introduction("m"), &n1, &key), Verdict::Waits(_)));
        assert_eq!(machines.approve(&"cd".repeat(8)), None);
        assert_eq!(machines.approve("ab"), None);
        assert_eq!(machines.approve(&format!(" {}\n", "AB".repeat(8))), Some("n1".into()));
        assert!(matches!(machines.asks(&introduction("m"), &n1, &other), Verdict::Waits(_)), "another key");
        assert_eq!(machines.asks(&introduction("m"), &n1, &key), Verdict::Given);
        assert!(!machines.installed(&other, "sda") && !machines.is_installed("n1"));
        assert!(machines.installed(&key, "sda") && machines.is_installed("n1"));
        let read =
            |again: &[String]| Machines::new(Progress::quiet(), false, Installed::read(path.clone(), again).unwrap());
        assert!(read(&[]).is_installed("n1"));
        assert!(!read(&["n1".into()]).is_installed("n1"));
        assert!(!read(&[]).is_installed("n1"));
        let first = machines.given("m");
        assert!(machines.is_last(&first));
        let second = machines.given("m");
        assert!(!machines.is_last(&first) && machines.is_last(&second));

        // A node that is not listed may start by another of its cards the next time.
        let several = Introduction { macs: vec!["a".into(), "b".into()], ..introduction("a") };
        machines.asks(&several, &Known::Any, &other);
        assert!(
            machines.approve(&"cd".repeat(8)).is_some()
                && machines.asks(&several, &Known::Any, &other) == Verdict::Given
        );
        assert!(machines.installed(&other, "sda") && ["a", "b"].iter().all(|mac| machines.is_installed(mac)));
    }

    #[test]
    fn a_network_that_is_trusted_asks_nobody() {
        let machines = Machines::new(Progress::quiet(), true, Installed::default());
        assert_eq!(machines.asks(&introduction("m"), &Known::Any, "k"), Verdict::Given);
    }
}
