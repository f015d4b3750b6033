//! Disks as lsblk(8) shows them, and whether one may become a stick.

use crate::error::{Error, Problem, Result};
use serde::Deserialize;
use spec::layout::SECTOR_SIZE;
use std::path::{Path, PathBuf};
use std::process::Command;

const COLUMNS: &str =
    "NAME,PATH,TYPE,SIZE,RM,HOTPLUG,RO,MODEL,SERIAL,TRAN,LOG-SEC,MOUNTPOINTS,FSTYPE,LABEL,PARTLABEL,PTTYPE";

#[derive(Deserialize)]
struct Listing {
    blockdevices: Vec<Device>,
}

/// A disk or a part of one, with what stands on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Device {
    /// The kernel's name, `sdb`.
    pub name: String,
    pub path: PathBuf,
    /// `disk`, `loop`, `part`, `crypt`, ...
    #[serde(rename = "type")]
    kind: String,
    /// Bytes.
    pub size: u64,
    rm: bool,
    hotplug: bool,
    ro: bool,
    model: Option<String>,
    serial: Option<String>,
    tran: Option<String>,
    /// Bytes of a logical sector.
    log_sec: u64,
    mountpoints: Vec<Option<String>>,
    fstype: Option<String>,
    label: Option<String>,
    partlabel: Option<String>,
    pttype: Option<String>,
    /// Partitions, and what device mapper and md put above.
    children: Vec<Device>,
}

/// The disks of this machine that are made to be pulled out.
///
/// # Errors
/// A failure when lsblk (util-linux) does not answer.
pub fn removable() -> Result<Vec<Device>> {
    let mut found = list(&[])?;
    found.retain(|device| device.kind == "disk" && device.size > 0 && device.is_removable());
    found.iter_mut().for_each(Device::probe);
    Ok(found)
}

impl Device {
    /// The disk at `path`, links followed.
    ///
    /// # Errors
    /// Bad input when it is no disk.
    pub fn at(path: &Path) -> Result<Device> {
        use std::os::unix::fs::FileTypeExt;
        let real = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => no_disk(path, "it does not exist"),
            _ => Error::io("read", path, error),
        })?;
        let is_block = real.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
        if !is_block {
            return Err(no_disk(path, "it is no block device"));
        }
        let mut found = list(&[&real])?.into_iter().next().ok_or_else(|| no_disk(path, "lsblk does not know it"))?;
        found.probe();
        match found.kind.as_str() {
            "disk" | "loop" => Ok(found),
            kind => Err(no_disk(path, &format!("it is a {kind}: the whole disk is wanted"))),
        }
    }

    /// Looks at the disk itself where udev has told lsblk nothing.
    fn probe(&mut self) {
        if self.fstype.is_none() && (self.pttype.is_none() || self.kind == "part") {
            // Who may not read it, or has no blkid, sees less.
            let output = Command::new("blkid").args(["--probe", "--output", "export"]).arg(&self.path).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            let value = |key: &str| {
                let mut pairs = text.lines().filter_map(|line| line.split_once('='));
                pairs.find(|(found, _)| *found == key).map(|(_, value)| value.to_owned())
            };
            self.fstype = value("TYPE");
            self.label = self.label.take().or_else(|| value("LABEL"));
            self.pttype = self.pttype.take().or_else(|| value("PTTYPE"));
        }
        self.children.iter_mut().for_each(Device::probe);
    }

    /// Whether it is made to be pulled out.
    pub fn is_removable(&self) -> bool {
        self.rm || self.hotplug || self.tran.as_deref() == Some("usb")
    }

    /// What names this disk and no other: its serial number, else the kernel's name.
    pub fn serial(&self) -> &str {
        self.serial.as_deref().map(str::trim).filter(|serial| !serial.is_empty()).unwrap_or(&self.name)
    }

    /// `/dev/sdb, Kingston DataTraveler, 15.6 GB, serial 0123`
    pub fn title(&self) -> String {
        let model = self.model.as_deref().map_or("no model", str::trim);
        format!("{}, {model}, {}, serial {}", self.path.display(), gigabytes(self.size), self.serial())
    }

    /// For scripts.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "path": self.path, "model": self.model.as_deref().map(str::trim), "size": self.size,
            "serial": self.serial(), "contents": self.contents(),
        })
    }

    /// What a person would miss, one line each.
    pub fn contents(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let label = [&self.partlabel, &self.label].into_iter().flatten().next();
        let what = match (&self.fstype, &self.pttype) {
            (Some(kind), _) => Some(kind.clone()),
            (None, _) if self.kind == "part" => Some("a partition".to_owned()),
            (None, Some(table)) if self.children.is_empty() => Some(format!("an empty partition table ({table})")),
            _ => None,
        };
        if let Some(what) = what {
            let label = label.map(|label| format!(" `{label}`")).unwrap_or_default();
            lines.push(format!("{}: {what}{label}, {}", self.name, gigabytes(self.size)));
        }
        lines.extend(self.children.iter().flat_map(Device::contents));
        lines
    }

    /// Where it or a part of it is in use: mount points, `[SWAP]`, and names of what stands on it.
    fn uses(&self) -> Vec<String> {
        let mounted = self.mountpoints.iter().flatten().map(|point| format!("{} is at {point}", self.name));
        let mut uses: Vec<String> = mounted.collect();
        for child in &self.children {
            uses.extend(child.uses());
            if child.kind != "part" {
                uses.push(format!("{} ({}) stands on it", child.name, child.kind));
            }
        }
        uses
    }

    /// Why it cannot take an image of `size` bytes. `named`: serial numbers of disks that the operator has named
    /// although nobody pulls them out.
    ///
    /// # Errors
    /// Bad input, with what to do.
    pub fn require_usable(&self, size: u64, named: &[String]) -> Result<()> {
        let refused = |reason: String, help: String| {
            Err(Error::from(Problem::new(format!("{}: {reason}", self.title())).help(help)))
        };
        let uses = self.uses();
        if !uses.is_empty() {
            return refused(
                format!("it is in use: {}", uses.join(", ")),
                "unmount it, if it is the right one; a disk that this machine runs from is never written to".to_owned(),
            );
        }
        if self.ro {
            return refused("it is write-protected".into(), "move its switch, or take another".into());
        }
        if self.log_sec != SECTOR_SIZE {
            return refused(
                format!("it has sectors of {} bytes, {SECTOR_SIZE} are wanted", self.log_sec),
                "take another stick: an image fits disks with sectors of 512 bytes".to_owned(),
            );
        }
        if self.size < size {
            return refused(
                format!("it has {} bytes, the image has {size}", self.size),
                format!("a stick of at least {} is wanted", gigabytes(size)),
            );
        }
        if !self.is_removable() && !named.iter().any(|serial| serial == self.serial()) {
            return refused(
                "it is no removable disk".into(),
                format!("if it is the right one: --yes-this-disk {}", self.serial()),
            );
        }
        Ok(())
    }
}

fn no_disk(path: &Path, reason: &str) -> Error {
    Error::bad_input(format!("{}: {reason}", path.display()))
        .help("a whole disk is wanted, such as /dev/sdb; imgbuild burn lists those that can be pulled out")
}

/// `15.6 GB`
fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

fn list(paths: &[&Path]) -> Result<Vec<Device>> {
    let mut command = Command::new("lsblk");
    command.args(["--json", "--bytes", "--output", COLUMNS]).args(paths);
    let output =
        command.output().map_err(|error| Error::because("cannot run lsblk", error).help("it comes with util-linux"))?;
    if !output.status.success() {
        return Err(Error::failure(format!("lsblk: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    parse(&output.stdout)
}

fn parse(json: &[u8]) -> Result<Vec<Device>> {
    let listing: Listing =
        serde_json::from_slice(json).map_err(|error| Error::because("lsblk's answer cannot be read", error))?;
    Ok(listing.blockdevices)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As lsblk 2.38 shows a stick with a file system that is mounted, and a system disk.
    const EXAMPLE: &str = r#"{"blockdevices": [
        {"name":"sdb", "path":"/dev/sdb", "type":"disk", "size":15600000000, "rm":true, "hotplug":true, "ro":false,
         "model":"DataTraveler 3.0 ", "serial":"60A44C3F", "tran":"usb", "log-sec":512, "mountpoints":[null],
         "fstype":null, "label":null, "partlabel":null, "pttype":"gpt", "children": [
            {"name":"sdb1", "path":"/dev/sdb1", "type":"part", "size":15000000000, "rm":true, "hotplug":true, "ro":false,
             "model":null, "serial":null, "tran":null, "log-sec":512, "mountpoints":["/media/photos"],
             "fstype":"vfat", "label":"PHOTOS", "partlabel":null, "pttype":"gpt"}]},
        {"name":"nvme0n1", "path":"/dev/nvme0n1", "type":"disk", "size":500000000000, "rm":false, "hotplug":false,
         "ro":false, "model":"SSD", "serial":"S1", "tran":"nvme", "log-sec":512, "mountpoints":[null], "fstype":null,
         "label":null, "partlabel":null, "pttype":"gpt", "children": [
            {"name":"nvme0n1p2", "path":"/dev/nvme0n1p2", "type":"part", "size":1, "rm":false, "hotplug":false,
             "ro":false, "model":null, "serial":null, "tran":"nvme", "log-sec":512, "mountpoints":[null],
             "fstype":"crypto_LUKS", "label":null, "partlabel":null, "pttype":"gpt", "children": [
                {"name":"root", "path":"/dev/mapper/root", "type":"crypt", "size":1, "rm":false, "hotplug":false,
                 "ro":false, "model":null, "serial":null, "tran":null, "log-sec":512, "mountpoints":["/"],
                 "fstype":"ext4", "label":null, "partlabel":null, "pttype":null}]}]}]}"#;

    fn example() -> (Device, Device) {
        let mut devices = parse(EXAMPLE.as_bytes()).unwrap();
        let system = devices.pop().unwrap();
        (devices.pop().unwrap(), system)
    }

    fn refusal(device: &Device, size: u64, named: &[&str]) -> String {
        let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
        let error = device.require_usable(size, &named).unwrap_err();
        assert_eq!(error.status(), 2);
        crate::error::render(&error, false).replace('\n', " ")
    }

    #[test]
    fn a_stick_is_told_by_model_size_and_serial_and_by_what_is_on_it() {
        let (stick, _) = example();
        assert_eq!(stick.title(), "/dev/sdb, DataTraveler 3.0, 15.6 GB, serial 60A44C3F");
        assert_eq!(stick.contents(), ["sdb1: vfat `PHOTOS`, 15.0 GB"]);
    }

    #[test]
    fn what_is_in_use_too_small_protected_or_built_in_is_refused() {
        let (mut stick, mut system) = example();
        assert!(refusal(&stick, 1, &[]).contains("sdb1 is at /media/photos"));
        assert!(refusal(&system, 1, &["S1"]).contains("root is at /"));
        stick.children.clear();
        stick.require_usable(15_600_000_000, &[]).unwrap();
        assert!(refusal(&stick, 15_600_000_001, &[]).contains("15600000001"));
        assert!(refusal(&Device { ro: true, ..stick.clone() }, 1, &[]).contains("write-protected"));
        assert!(refusal(&Device { log_sec: 4096, ..stick }, 1, &[]).contains("sectors of 4096 bytes"));
        system.children.clear();
        assert!(refusal(&system, 1, &["S2"]).contains("--yes-this-disk S1"));
        system.require_usable(1, &["S1".to_owned()]).unwrap();
    }
}
