//! A profile, `profiles/NAME.toml`: what goes into an image. Profiles inherit and combine; in a merge
//! later tables win key by key, lists append without repeating, and every value keeps its origin
//! (that bookkeeping is the builder's).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A profile, as one file or merged. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Profile {
    pub description: String,
    /// Names of the project's profiles, or paths relative to this file; merged before it, in order.
    pub extends: Vec<String>,
    /// `master` or `node`; needed in the merged profile of an image.
    pub role: Option<crate::cluster::Role>,
    /// IANA name.
    pub timezone: Option<String>,
    pub debian: Debian,
    pub kernel: Kernel,
    pub root: Root,
    /// Folders of overlays/ (or paths relative to this file), laid over the root in order.
    pub overlays: Vec<String>,
    /// Go components: folder name in components/ -> choice of outputs.
    pub components: BTreeMap<String, ComponentChoice>,
    /// Our own Rust programs: package name -> install path.
    pub programs: BTreeMap<String, String>,
    /// Files by URL: install path -> source.
    pub urls: BTreeMap<String, Url>,
    /// Files of the operator: install path -> source.
    pub files: BTreeMap<String, File>,
    pub users: BTreeMap<String, User>,
    /// Symbolic links: path -> target (what maintainer scripts and alternatives would have made).
    pub links: BTreeMap<String, String>,
    pub trim: Trim,
    /// Key -> value with the reason of the override.
    pub sysctl: BTreeMap<String, SysctlOverride>,
    pub ports: BTreeMap<String, Port>,
    /// OCI images baked in: reference -> source.
    pub images: BTreeMap<String, OciImage>,
    /// Manifest files (paths relative to this file), applied in this order.
    pub manifests: Vec<String>,
    pub network: Network,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Debian {
    /// `trixie`, `trixie-updates`, `trixie-security` (the last from the security archive).
    pub suites: Vec<String>,
    /// `main`, `non-free-firmware`
    pub components: Vec<String>,
    /// Fingerprints (40 hexadecimal digits) of the primary keys that may sign the archive.
    pub keys: Vec<String>,
    pub packages: Vec<String>,
    /// Never installed although something depends on them or they are essential.
    pub exclude: Vec<String>,
    /// With `true`, non-free-firmware is added to the components and `firmware-packages` to the packages.
    pub firmware: Option<bool>,
    pub firmware_packages: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Kernel {
    /// Debian package, `linux-image-amd64`: a meta package is followed to the real one.
    pub package: Option<String>,
    pub command_line: Vec<String>,
    /// Globs over module paths below `kernel/` that are kept, with their dependencies.
    pub keep: Vec<String>,
    /// Globs taken out again from `keep` (not from dependencies).
    pub drop: Vec<String>,
    /// Module names that must be in the image (or built in): an error by name when one is missing.
    pub required: Vec<String>,
    /// Names that this kernel is known to lack: taken out of `required` and `initramfs`. An error by
    /// name when the kernel has one after all, so that the list cannot go stale.
    pub absent: Vec<String>,
    /// Names of modules for the initramfs (with dependencies): what is needed to find the root.
    pub initramfs: Vec<String>,
    /// Names of modules that init loads at boot.
    pub load: Vec<String>,
    /// Names that the machine must never load.
    pub blacklist: Vec<String>,
    /// Microseconds that a program keeps a processor while others want it (the scheduler's base slice).
    /// `None`: the kernel's own.
    pub slice_us: Option<u32>,
    /// Microseconds by which a program that sleeps may be woken late, so that its next wake comes with another (the timer
    /// slack of prctl(2)). `None`: the kernel's own 50.
    pub timer_slack_us: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Root {
    /// `zstd` or `lz4hc`
    pub compression: Option<String>,
    pub level: Option<u32>,
    /// Bytes.
    pub cluster_size: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ComponentChoice {
    /// Optional outputs wanted besides the standard ones.
    pub with: Vec<String>,
    /// Outputs left out.
    pub without: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Url {
    pub url: String,
    /// 64 hexadecimal digits.
    pub sha256: String,
    /// Path within the archive, when the URL is a .tar.gz, .tar.xz or .tar.zst.
    #[serde(default)]
    pub member: Option<String>,
    #[serde(default = "default_mode")]
    pub mode: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// Path relative to the profile.
    pub source: String,
    #[serde(default = "default_mode")]
    pub mode: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct User {
    pub uid: u32,
    #[serde(default)]
    pub gid: Option<u32>,
    #[serde(default)]
    pub home: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Trim {
    /// Globs over paths of the root that are removed.
    pub remove: Vec<String>,
    /// Globs that stay although `remove` matches.
    pub keep: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SysctlOverride {
    pub value: String,
    pub reason: String,
}

/// A port of the machine that the firewall opens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Port {
    /// `6443`, `2379-2380`
    pub port: String,
    /// `tcp` or `udp`
    #[serde(default = "default_protocol")]
    pub protocol: String,
    /// CIDRs that may connect; empty: everyone. `private` stands for the RFC 1918 ranges.
    #[serde(default)]
    pub from: Vec<String>,
    pub description: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OciImage {
    /// An OCI layout (folder), relative to the profile.
    #[serde(default)]
    pub layout: Option<String>,
    /// Made by us: outputs of Go components put into an empty file system: path in the image -> `COMPONENT/BINARY`.
    #[serde(default)]
    pub binaries: BTreeMap<String, String>,
    /// Files of the machine's root, with the libraries that they need: path in the image -> path in the root.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Symbolic links: path in the image -> target.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The entrypoint's arguments where a pod gives none.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// `UID:GID`
    #[serde(default)]
    pub user: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Network {
    /// Bytes; with 9000, net.ipv4.tcp_mtu_probing becomes 1.
    pub mtu: Option<u32>,
}

fn default_mode() -> String {
    "0644".into()
}
fn default_protocol() -> String {
    "tcp".into()
}
