//! What a command line asks for, as values: the syntax is in `cli`, the meaning here.

use crate::profile::Profile;
use crate::progress::Progress;
use crate::project::Project;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What every command knows.
#[derive(Clone)]
pub struct Context {
    pub project: Project,
    pub progress: Progress,
    /// Build from the cache alone.
    pub offline: bool,
    /// The lock must exist and fit the profile; it is never written.
    pub locked: bool,
    /// Address of the Debian archive, or a folder that `vendor` wrote; `None`: the machine's apt sources.
    pub mirror: Option<String>,
    /// Threads and parallel downloads.
    pub jobs: NonZeroUsize,
    /// Number of `-v`.
    pub verbosity: u8,
    /// Output for scripts.
    pub json: bool,
}

/// A build.
#[derive(Clone)]
pub struct BuildRequest {
    pub context: Context,
    pub profile: Profile,
    /// Folder that gets the artifacts.
    pub out: PathBuf,
    /// Name of the cluster definition below clusters/.
    pub cluster: String,
    /// The machine of the definition that this image is for; `None`: whichever machine boots it is
    /// found by its MAC address or serial.
    pub machine: Option<String>,
}

/// A virtual machine to run.
#[derive(Clone)]
pub struct RunRequest {
    pub context: Context,
    /// Disk image (raw); it is not changed unless `keep` says so.
    pub image: PathBuf,
    /// MiB.
    pub memory: u32,
    pub cpus: u32,
    /// Show the machine's serial console instead of the progress view.
    pub console: bool,
    /// Bytes of the machine's disk.
    pub disk_size: u64,
    /// Folder of the machine's disk and console log; a machine run from it again goes on where it was.
    /// `None`: a temporary one.
    pub keep: Option<PathBuf>,
    /// Cluster whose admin.kubeconfig reaches the machine.
    pub cluster: String,
}
