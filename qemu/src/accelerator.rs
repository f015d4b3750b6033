//! Which accelerator a machine gets. /dev/kvm alone says little: there are hosts where it opens but
//! cannot boot a stock kernel. So a kernel is booted, once for each kernel and boot of the host.

use crate::{DirectKernel, Error, Machine, Programs, Result, StartOptions, start};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// Emulation.
    Tcg,
    Kvm,
}

impl Accelerator {
    /// Virtual CPUs that are safe: multi-threaded emulation has crashed a guest's kernel (measured).
    pub fn safe_cpus(self, wanted: u32) -> u32 {
        match self {
            Accelerator::Tcg => 1,
            Accelerator::Kvm => wanted,
        }
    }
}

const KVM_DEVICE: &str = "/dev/kvm";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A kernel on working KVM panics for want of a root within one or two seconds.
const PROBE_WITHIN: Duration = Duration::from_secs(20);

/// The answer and why, as kept in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Probed {
    pub accelerator: Accelerator,
    /// A sentence for a person.
    pub reason: String,
}

/// Finds out by booting `kernel` (a bzImage, without root) on KVM, and keeps the answer below
/// `cache` for this kernel and this boot of the host.
///
/// # Errors
/// Files that cannot be read or written. A KVM that does not work is an answer, not an error.
pub fn probe(kernel: &Path, programs: Programs, data_dir: Option<&Path>, cache: &Path) -> Result<Probed> {
    if let Err(error) = File::options().read(true).write(true).open(KVM_DEVICE) {
        return Ok(Probed { accelerator: Accelerator::Tcg, reason: format!("{KVM_DEVICE} cannot be opened: {error}") });
    }
    let entry = cache_entry(kernel, cache)?;
    if let Some(known) = std::fs::read(&entry).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(known);
    }
    let probed = boot(kernel, programs, data_dir)?;
    keep(&entry, &probed)?;
    Ok(probed)
}

fn cache_entry(kernel: &Path, cache: &Path) -> Result<PathBuf> {
    let bytes = std::fs::read(kernel).map_err(Error::file(kernel, "read"))?;
    let boot_id = std::fs::read_to_string(BOOT_ID).map_err(Error::file(BOOT_ID, "read"))?;
    let digest: String = Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(cache.join("kvm").join(format!("{digest}-{}.json", boot_id.trim())))
}

fn boot(kernel: &Path, programs: Programs, data_dir: Option<&Path>) -> Result<Probed> {
    let folder = tempfile::tempdir().map_err(Error::file(std::env::temp_dir(), "make a folder in"))?;
    let machine = Machine {
        accelerator: Accelerator::Kvm,
        memory_mib: 512,
        data_dir: data_dir.map(Path::to_owned),
        reboot_ends: true,
        kernel: Some(DirectKernel {
            kernel: kernel.into(),
            initramfs: None,
            command_line: "console=ttyS0 panic=-1".into(),
        }),
        ..Machine::new("kvm-probe")
    };
    let outcome =
        start(&machine, StartOptions { programs, folder: folder.path(), observer: None }).and_then(|running| {
            running.console().wait_for("Linux version", PROBE_WITHIN)?;
            running.console().wait_for("Unable to mount root fs", PROBE_WITHIN)
        });
    Ok(match outcome {
        Ok(_) => Probed { accelerator: Accelerator::Kvm, reason: "a kernel booted on KVM".into() },
        Err(error) => {
            let text = error.to_string();
            let said: Vec<&str> = text.lines().take(3).collect();
            Probed {
                accelerator: Accelerator::Tcg,
                reason: format!("{KVM_DEVICE} is there but does not boot a kernel: {}", said.join(" ")),
            }
        }
    })
}

/// Whole or not at all: a temporary file beside it, then a rename.
fn keep(entry: &Path, probed: &Probed) -> Result<()> {
    let folder = entry.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::file(folder, "make"))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::file(folder, "write in"))?;
    let bytes = serde_json::to_vec_pretty(probed).map_err(|error| Error::File {
        path: entry.into(),
        action: "write",
        source: error.into(),
    })?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::file(entry, "write"))?;
    file.persist(entry).map_err(|error| Error::File { path: entry.into(), action: "replace", source: error.error })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_for_this_kernel_and_this_boot() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        std::fs::write(&kernel, "one").unwrap();
        let first = cache_entry(&kernel, folder.path()).unwrap();
        let probed = Probed { accelerator: Accelerator::Tcg, reason: "because".into() };
        keep(&first, &probed).unwrap();
        let read: Probed = serde_json::from_slice(&std::fs::read(&first).unwrap()).unwrap();
        assert_eq!(read, probed);
        std::fs::write(&kernel, "two").unwrap();
        assert_ne!(cache_entry(&kernel, folder.path()).unwrap(), first);
    }
}
