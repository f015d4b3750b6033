//! What an image says about itself, inside the root: `paths::IMAGE_FILE`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// Profiles joined by `-`, for example `master-vm`.
    pub profile: String,
    /// Role of a machine that runs this image: `master` or `node`.
    pub role: String,
    /// Version of the image: the project's version and 12 digits of a digest of what it is made of.
    pub version: String,
    /// Seconds since the epoch: no clock is set before it.
    pub epoch: u64,
    pub kubernetes_version: String,
    /// `v3.6.16`; none on a node's.
    #[serde(default)]
    pub etcd_version: Option<String>,
    pub kernel_release: String,
    /// IANA time zone, for the console.
    pub timezone: String,
    /// Reference of the sandbox (pause) image, as imported.
    pub pause_image: String,
    /// Bytes; for a machine whose definition names none. `None`: what DHCP or the card says.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Microseconds, for the scheduler's base slice. `None`: the kernel's own.
    #[serde(default)]
    pub slice_us: Option<u32>,
    /// Microseconds, for the timer slack of every program. `None`: the kernel's own.
    #[serde(default)]
    pub timer_slack_us: Option<u32>,
}
