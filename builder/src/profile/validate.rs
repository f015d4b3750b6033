//! Checks of a merged profile: every value that can be judged without the archive and the kernel.
//! All problems are found at once, each pointing at its line.

use super::{Profile, path};
use crate::error::Problem;
use crate::project::Project;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

/// A single port or a range, inclusive.
pub type PortRange = RangeInclusive<u16>;

/// What the scheduler's base slice and the timer slack may be, microseconds.
const SLICES_US: RangeInclusive<u32> = 100..=100_000;
const TIMER_SLACKS_US: RangeInclusive<u32> = 1..=20_000;

/// Reads `6443` or `2379-2380`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_port(text: &str) -> Result<PortRange, String> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err(format!("{text:?} is not a port: a number from 1 to 65535 is wanted")),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        return Err(format!("the range {text:?} ends before it starts"));
    }
    Ok(first..=last)
}

/// Every problem of the profile.
pub(super) fn problems(profile: &Profile, project: &Project) -> Vec<Problem> {
    let mut checker = Checker { profile, project, problems: Vec::new() };
    checker.general();
    checker.debian();
    checker.kernel();
    checker.root();
    checker.overlays();
    checker.components();
    checker.urls();
    checker.files();
    checker.users();
    checker.links();
    checker.ports();
    checker.images();
    checker.problems.extend(crate::sysctl::problems(profile));
    checker.problems
}

struct Checker<'a> {
    profile: &'a Profile,
    project: &'a Project,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    /// Notes a problem at the value of these keys.
    fn report(&mut self, keys: &[&str], message: impl Into<String>, help: impl Into<String>) {
        self.report_at(&path(keys), message, help);
    }

    fn report_at(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.profile.problem(path, format!("{path}: {}", message.into())).help(help);
        self.problems.push(problem);
    }

    /// Notes the elements of a list that are not sound.
    fn each(&mut self, keys: &[&str], list: &[String], sound: impl Fn(&str) -> bool, wanted: &str) {
        for (index, value) in list.iter().enumerate().filter(|(_, value)| !sound(value)) {
            self.report_at(
                &format!("{}[{index}]", path(keys)),
                format!("{value:?} is not valid"),
                format!("{wanted} is wanted"),
            );
        }
    }

    fn general(&mut self) {
        let profile = &self.profile.merged;
        if let Some(zone) = profile.timezone.as_deref().filter(|zone| !is_time_zone(zone)) {
            self.report(
                &["timezone"],
                format!("{zone:?} is no name of a time zone"),
                "an IANA name is wanted, such as Asia/Shanghai or UTC",
            );
        }
        if let Some(mtu) = profile.network.mtu.filter(|mtu| !(1280..=9216).contains(mtu)) {
            self.report(
                &["network", "mtu"],
                format!("{mtu} bytes"),
                "1280 to 9216 bytes are wanted; 1500 and 9000 are usual",
            );
        }
        for (index, manifest) in profile.manifests.iter().enumerate().filter(|(_, file)| !Path::new(file).is_file()) {
            self.report_at(
                &format!("manifests[{index}]"),
                format!("the file {manifest} does not exist"),
                "paths are relative to the profile's folder",
            );
        }
    }

    fn debian(&mut self) {
        let debian = &self.profile.merged.debian;
        let word = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-./".contains(&byte))
        };
        self.each(&["debian", "suites"], &debian.suites, word, "a suite such as trixie-updates");
        self.each(&["debian", "components"], &debian.components, word, "an archive component such as main");
        let fingerprint = |text: &str| is_hexadecimal(text, 40);
        self.each(&["debian", "keys"], &debian.keys, fingerprint, "a key's fingerprint of 40 hexadecimal digits");
        let wanted = "a package name: lower-case letters, digits and + - .";
        self.each(&["debian", "packages"], &debian.packages, is_package, wanted);
        self.each(&["debian", "firmware-packages"], &debian.firmware_packages, is_package, wanted);
        let without_qualifier = |text: &str| is_package(text.split_once(':').map_or(text, |(name, _)| name));
        self.each(&["debian", "exclude"], &debian.exclude, without_qualifier, wanted);
    }

    fn kernel(&mut self) {
        let kernel = &self.profile.merged.kernel;
        if let Some(package) = kernel.package.as_deref().filter(|name| !is_package(name)) {
            self.report(
                &["kernel", "package"],
                format!("{package:?} is not valid"),
                "a Debian package is wanted, such as linux-image-amd64",
            );
        }
        let argument = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
        self.each(&["kernel", "command-line"], &kernel.command_line, argument, "one argument without spaces");
        let own = |text: &str| ![spec::cmdline::ROOT_HASH, spec::cmdline::HASH_OFFSET].contains(&key_of(text));
        self.each(
            &["kernel", "command-line"],
            &kernel.command_line,
            own,
            "an argument that the builder does not set itself",
        );
        self.each(&["kernel", "keep"], &kernel.keep, is_glob, "a glob over module paths, such as drivers/nvme/**");
        self.each(&["kernel", "drop"], &kernel.drop, is_glob, "a glob over module paths");
        let lists = [
            ("required", &kernel.required),
            ("absent", &kernel.absent),
            ("initramfs", &kernel.initramfs),
            ("load", &kernel.load),
            ("blacklist", &kernel.blacklist),
        ];
        for (key, list) in lists {
            self.each(&["kernel", key], list, is_module, "a module's name, without folder and ending");
        }
        for name in kernel.load.iter().filter(|name| kernel.blacklist.contains(name)) {
            let index = kernel.blacklist.iter().position(|other| other == name).unwrap_or_default();
            self.report_at(
                &format!("kernel.blacklist[{index}]"),
                format!("{name} is in kernel.load as well"),
                "take it out of one of the two lists",
            );
        }
        for (key, value, wanted) in
            [("slice-us", kernel.slice_us, SLICES_US), ("timer-slack-us", kernel.timer_slack_us, TIMER_SLACKS_US)]
        {
            if let Some(value) = value.filter(|value| !wanted.contains(value)) {
                let wanted = format!("from {} to {} are wanted", wanted.start(), wanted.end());
                self.report(&["kernel", key], format!("{value} µs"), wanted);
            }
        }
    }

    fn root(&mut self) {
        let root = &self.profile.merged.root;
        let levels = match root.compression.as_deref() {
            None | Some("zstd") => 1..=22,
            Some("lz4hc") => 1..=12,
            // Neither has levels; the key is then without effect.
            Some("lz4" | "none") => 0..=u32::MAX,
            Some(other) => {
                return self.report(
                    &["root", "compression"],
                    format!("{other:?} is not known"),
                    "zstd, lz4hc, lz4 or none",
                );
            }
        };
        if let Some(level) = root.level.filter(|level| !levels.contains(level)) {
            self.report(
                &["root", "level"],
                level.to_string(),
                format!("{} to {} is wanted", levels.start(), levels.end()),
            );
        }
        let sizes = 4096..=1024 * 1024;
        if let Some(size) = root.cluster_size.filter(|size| !size.is_power_of_two() || !sizes.contains(size)) {
            self.report(
                &["root", "cluster-size"],
                format!("{size} bytes"),
                "a power of two from 4096 to 1048576 is wanted",
            );
        }
        let trim = &self.profile.merged.trim;
        self.each(&["trim", "remove"], &trim.remove, is_glob, "a glob over paths of the root");
        self.each(&["trim", "keep"], &trim.keep, is_glob, "a glob over paths of the root");
    }

    fn overlays(&mut self) {
        for (index, overlay) in self.profile.merged.overlays.iter().enumerate() {
            if Path::new(overlay).is_dir() {
                continue;
            }
            let shown = self.project.display(Path::new(overlay));
            let known = folders(&self.project.overlays()).join(", ");
            let help = format!(
                "the project's overlays are: {known}; one of your own is named by a path with a /, relative to the profile"
            );
            self.report_at(&format!("overlays[{index}]"), format!("the overlay {shown} does not exist"), help);
        }
    }

    fn components(&mut self) {
        for name in self.profile.merged.components.keys() {
            if !self.project.components().join(name).join("component.toml").is_file() {
                let known = folders(&self.project.components()).join(", ");
                self.report(
                    &["components", name],
                    format!("no component {name:?}"),
                    format!("the project has {known}"),
                );
            }
        }
        for (name, install) in &self.profile.merged.programs {
            if !is_root_path(install) {
                self.report(&["programs", name], format!("{install:?} is no path of the root"), ROOT_PATH);
            }
        }
    }

    fn urls(&mut self) {
        for (install, url) in &self.profile.merged.urls {
            self.root_path(&["urls", install], install);
            self.mode(&["urls", install, "mode"], &url.mode);
            if !is_hexadecimal(&url.sha256, 64) {
                self.report(
                    &["urls", install, "sha256"],
                    format!("{:?} is not a SHA-256", url.sha256),
                    "64 hexadecimal digits are wanted",
                );
            }
            if !url.url.starts_with("https://") && !url.url.starts_with("http://") {
                self.report(&["urls", install, "url"], format!("{:?} is no address", url.url), "https://... is wanted");
            }
        }
    }

    fn files(&mut self) {
        for (install, file) in &self.profile.merged.files {
            self.root_path(&["files", install], install);
            self.mode(&["files", install, "mode"], &file.mode);
            if !Path::new(&file.source).is_file() {
                self.report(
                    &["files", install, "source"],
                    format!("the file {} does not exist", file.source),
                    "paths are relative to the profile's folder",
                );
            }
        }
    }

    fn users(&mut self) {
        let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
        for (name, user) in &self.profile.merged.users {
            if !is_user(name) {
                self.report(
                    &["users", name],
                    format!("{name:?} is no user name"),
                    "a lower-case letter or _, then letters, digits, - and _, at most 32",
                );
            }
            if let Some(other) = owners.insert(user.uid, name) {
                self.report(
                    &["users", name, "uid"],
                    format!("{} is the uid of {other} too", user.uid),
                    "every user needs a number of its own",
                );
            }
            if user.uid == 0 {
                self.report(&["users", name, "uid"], "0 is root", "a number above 0 is wanted");
            }
            if let Some(home) = user.home.as_deref() {
                self.root_path(&["users", name, "home"], home);
            }
        }
    }

    fn links(&mut self) {
        for (link, target) in &self.profile.merged.links {
            self.root_path(&["links", link], link);
            if target.is_empty() || target.contains('\0') {
                self.report(&["links", link], "the link has no target", "a path is wanted");
            }
        }
    }

    fn ports(&mut self) {
        for (name, port) in &self.profile.merged.ports {
            if let Err(message) = parse_port(&port.port) {
                self.report(&["ports", name, "port"], message, "write a port (\"6443\") or a range (\"2379-2380\")");
            }
            if !["tcp", "udp"].contains(&port.protocol.as_str()) {
                self.report(&["ports", name, "protocol"], format!("{:?} is not known", port.protocol), "tcp or udp");
            }
            if port.description.contains(['"', '\n', '\\']) || port.description.len() > 120 {
                self.report(
                    &["ports", name, "description"],
                    "it goes into the firewall as a comment",
                    "at most 120 bytes on one line, without quotes and backslashes",
                );
            }
            for (index, from) in port.from.iter().enumerate() {
                if let Err(help) = check_source(from) {
                    self.report_at(
                        &format!("{}[{index}]", path(&["ports", name, "from"])),
                        format!("{from:?} is no network"),
                        help,
                    );
                }
            }
        }
    }

    fn images(&mut self) {
        for (reference, image) in &self.profile.merged.images {
            let is_made = [&image.binaries, &image.files, &image.links].iter().any(|paths| !paths.is_empty());
            match (&image.layout, !is_made) {
                (Some(layout), true) if !Path::new(layout).join("oci-layout").is_file() => {
                    self.report(
                        &["images", reference, "layout"],
                        format!("{layout} is no OCI layout: it has no file oci-layout"),
                        "a folder as `skopeo copy ... oci:FOLDER` writes it",
                    );
                }
                (Some(_), true) | (None, false) => {}
                _ => self.report(
                    &["images", reference],
                    "one of `layout` and `binaries` or `files` is wanted",
                    "`layout` names a folder on disk, `binaries` takes programs of components, `files` those of the root",
                ),
            }
            for (inside, binary) in &image.binaries {
                self.binary(reference, inside, binary);
            }
            for (table, paths) in [("binaries", &image.binaries), ("files", &image.files), ("links", &image.links)] {
                for inside in paths.keys() {
                    self.root_path(&["images", reference, table, inside], inside);
                }
            }
            if let Some(user) = image.user.as_deref().filter(|user| !is_user_and_group(user)) {
                self.report(
                    &["images", reference, "user"],
                    format!("{user:?} is not valid"),
                    "UID:GID is wanted, in numbers",
                );
            }
        }
    }

    fn binary(&mut self, reference: &str, inside: &str, binary: &str) {
        let component = binary.split_once('/').map(|(component, _)| component);
        if !component.is_some_and(|name| self.project.components().join(name).join("component.toml").is_file()) {
            self.report(
                &["images", reference, "binaries", inside],
                format!("{binary:?} names no program of a component"),
                "COMPONENT/BINARY is wanted, such as pause/pause",
            );
        }
    }

    fn root_path(&mut self, keys: &[&str], value: &str) {
        if !is_root_path(value) {
            self.report(keys, format!("{value:?} is no path of the root"), ROOT_PATH);
        }
    }

    fn mode(&mut self, keys: &[&str], mode: &str) {
        let sound = (3..=4).contains(&mode.len()) && mode.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        if !sound {
            self.report(keys, format!("{mode:?} is no mode"), "three or four octal digits are wanted, such as 0755");
        }
    }
}

const ROOT_PATH: &str = "an absolute path without . and .. is wanted, such as /usr/bin/tool";

fn check_source(from: &str) -> Result<(), String> {
    if from == "private" {
        return Ok(());
    }
    match from.parse::<ipnet::IpNet>() {
        Ok(network) if network.trunc() == network => Ok(()),
        Ok(network) => Err(format!("the address has bits beyond the prefix: write {}", network.trunc())),
        Err(_) => Err("a CIDR such as 192.0.2.0/24 is wanted, or `private` for the RFC 1918 ranges".into()),
    }
}

fn key_of(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(key, _)| key)
}

fn is_hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Debian Policy section 5.6.1.
fn is_package(name: &str) -> bool {
    name.len() >= 2
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
        && name.as_bytes()[0].is_ascii_alphanumeric()
}

fn is_module(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn is_glob(text: &str) -> bool {
    !text.is_empty() && globset::Glob::new(text).is_ok()
}

fn is_time_zone(zone: &str) -> bool {
    let sound = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    zone.split('/').all(sound)
}

fn is_user(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}

fn is_user_and_group(text: &str) -> bool {
    text.split_once(':').is_some_and(|(user, group)| user.parse::<u32>().is_ok() && group.parse::<u32>().is_ok())
}

fn is_root_path(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|rest| {
        !rest.contains('\0') && rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    })
}

fn folders(parent: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_or_ranges() {
        assert_eq!(parse_port("6443"), Ok(6443..=6443));
        assert_eq!(parse_port("2379-2380"), Ok(2379..=2380));
        for text in ["", "0", "65536", "80-", "-80", "90-80", "http", "+80", " 80"] {
            assert!(parse_port(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_source_with_host_bits_is_told_its_network() {
        assert_eq!(check_source("private"), Ok(()));
        assert_eq!(check_source("192.0.2.0/24"), Ok(()));
        assert!(check_source("192.0.2.7/24").unwrap_err().contains("192.0.2.0/24"));
        assert!(check_source("everyone").is_err());
    }

    #[test]
    fn root_paths_stay_in_the_root() {
        assert!(is_root_path("/usr/bin/x"));
        for text in ["", "/", "usr/bin", "/usr/../etc", "/usr//bin", "/./x"] {
            assert!(!is_root_path(text), "{text:?}");
        }
    }
}
