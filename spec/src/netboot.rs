//! What `imgbuild serve` and a machine that starts from the network say to each other; and what a machine finds beside its
//! initramfs that starts from there, or from a CD image (`imgbuild iso`).

use crate::cluster::Role;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// `Start` as TOML. Nothing that `serve` puts into the folder is secret.
pub const START_FILE: &str = "/netboot/start.toml";
/// On a CD image, instead of [`START_FILE`]: the seed as its partition begins (`crate::seed`). It is secret.
pub const SEED_FILE: &str = "/netboot/seed.img";
/// The root image with its hash tree.
pub const ROOT_FILE: &str = "/netboot/root.img";
/// For a machine that puts itself on a disk: what an image has besides the root. Files of the ESP lie below
/// [`ESP_FOLDER`], the BIOS boot partition is one file, the boot code of the first sector another.
pub const ESP_FOLDER: &str = "/netboot/esp";
pub const BIOS_FILE: &str = "/netboot/bios.img";
pub const BOOT_CODE_FILE: &str = "/netboot/boot-code.img";

/// Bytes of boot code at the beginning of a disk (UEFI 2.10 table 5.3).
pub const BOOT_CODE: usize = 440;

/// Where a machine gets its seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Start {
    /// HTTPS, mutual TLS.
    pub server: SocketAddr,
    /// SHA-256 of the server's certificate (DER), hexadecimal: it alone is trusted.
    pub pin: String,
}

/// Paths below `https://server`.
pub mod path {
    /// POST an [`super::Introduction`]: 200 with the seed's payload (`crate::seed`), 202 with a `agent::Refusal` that says what is
    /// waited for, 403 with one that says why never.
    pub const SEED: &str = "/v1/seed";
    /// POST a [`super::Report`].
    pub const REPORT: &str = "/v1/report";

    /// By plain HTTP, GET with ranges: a file of an upgrade's payload by its SHA-256 in hexadecimal.
    pub fn payload(sha256: &str) -> String {
        format!("{PAYLOAD}{sha256}")
    }
    pub const PAYLOAD: &str = "/payload/";
}

/// Who a machine says it is. Nothing of this is proof; the key of its TLS certificate is what an operator compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Introduction {
    /// `52:54:00:12:34:56`, lower case.
    pub macs: Vec<String>,
    /// DMI product serial number.
    pub serial: Option<String>,
    pub role: Role,
    /// Version of its image.
    pub image: String,
}

/// What became of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "report")]
pub enum Report {
    /// It is on its own disk and starts from there from now on.
    Installed { disk: String },
}
