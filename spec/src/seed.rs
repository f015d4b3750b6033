//! The seed partition: what makes this machine this machine, and nothing of the root image.
//!
//! Two halves of the partition each hold one copy: a header of one 4096-byte block, then a tar
//! archive (ustar, regular files only, relative names). The valid copy with the higher generation
//! is the seed. A change is written to the other half, payload first, fsync, then the header,
//! fsync: a power cut at any moment leaves the old or the new seed.

use serde::{Deserialize, Serialize};

pub const MAGIC: [u8; 16] = *b"imgbuild-seed-01";
/// Bytes of the header block.
pub const HEADER_SIZE: usize = 4096;

/// Header: all integers little-endian.
/// 0..16 magic; 16..24 generation; 24..32 payload length in bytes; 32..64 SHA-256 of the payload;
/// 64..96 SHA-256 of bytes 0..64; the rest zero. An erased seed is all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub generation: u64,
    pub length: u64,
    pub payload_sha256: [u8; 32],
}

/// Start of copy 0 or 1 in the partition, in bytes.
pub const fn copy_offset(copy: u64) -> u64 {
    match crate::layout::Partition::Seed.size() {
        Some(size) => copy * (size / 2),
        None => 0,
    }
}

/// Largest payload in bytes.
pub const fn payload_maximum() -> u64 {
    copy_offset(1) - HEADER_SIZE as u64
}

/// Names of the files in the archive.
pub mod files {
    /// `cluster::Cluster` as TOML.
    pub const CLUSTER: &str = "cluster.toml";
    /// `seed::Machine` as TOML.
    pub const MACHINE: &str = "machine.toml";
    /// Certificates (`NAME.crt`) and, where this machine may have them, keys (`NAME.key`):
    /// the four CAs are `kubernetes`, `etcd`, `front-proxy`, `machine`.
    pub const PKI_DIR: &str = "pki";
    pub const SERVICE_ACCOUNT_KEY: &str = "pki/service-account.key";
    pub const SERVICE_ACCOUNT_PUBLIC: &str = "pki/service-account.pub";
    /// The join credential of a node, or of a master that joins a cluster which is there: a client certificate
    /// of the `machine` authority (`agent::organization::JOIN`).
    pub const JOIN_CERTIFICATE: &str = "pki/join.crt";
    pub const JOIN_KEY: &str = "pki/join.key";
    /// The definition's own manifests, on masters.
    pub const MANIFESTS_DIR: &str = "manifests";
    /// Zones of the masters' DNS by name, on masters.
    pub const ZONES_DIR: &str = "zones";
    /// `seed::Installed` as TOML: beside the others on a disk that a machine has put itself on, alone on the stick that
    /// it came from.
    pub const INSTALLED: &str = "installed.toml";
    /// Key for secrets at rest: 32 bytes, base64.
    pub const ENCRYPTION_KEY: &str = "pki/encryption.key";
}

/// What the seed says about this one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Machine {
    /// Format of the seed.
    pub version: u32,
    /// The machine's name in the cluster definition; absent: found by MAC or DMI serial.
    #[serde(default)]
    pub name: Option<String>,
    /// Seconds since the epoch when the seed was made: the clock is never set before it.
    pub created: u64,
    /// One-time permit to form a new cluster.
    #[serde(default)]
    pub may_form: bool,
    /// Known after forming.
    #[serde(default)]
    pub cluster_id: Option<String>,
}

/// Where a machine has put itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Installed {
    /// Partition GUID of that disk's ESP.
    pub esp: String,
    /// The disk, for people.
    pub disk: String,
}

/// Whose state a state partition holds. Foreign or newer state is refused by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StateIdentity {
    pub format: u32,
    /// Name of the cluster definition.
    pub cluster: String,
    /// `None` until the cluster has formed.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Machine name.
    pub machine: String,
    /// 32 hexadecimal digits, machine-id(5).
    pub machine_id: String,
    /// Version of the image that wrote last.
    pub image_version: String,
}
