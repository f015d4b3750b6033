//! A file as a stick that `imgbuild burn` writes. Needs root: a loop device stands for the USB port.

use crate::run::run;
use crate::{Failure, Result};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// A file as a disk, as long as this lives.
#[derive(Debug)]
pub struct LoopDevice(String);

impl LoopDevice {
    /// # Errors
    /// losetup's.
    pub fn new(file: &Path) -> Result<LoopDevice> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(file);
        Ok(LoopDevice(run(command, "", LIMIT)?.ok()?.trim().to_owned()))
    }

    /// /dev/loopN
    pub fn path(&self) -> &str {
        &self.0
    }

    /// By which it is named where another disk has a serial number.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // What is not there any more needs no unplugging.
        drop(Command::new("losetup").args(["--detach", &self.0]).status());
    }
}

/// Makes `stick`, a file of this size in bytes, a stick with the image, by the operator's command.
///
/// # Errors
/// As the command says.
pub fn burn(image: &Path, stick: &Path, size: u64) -> Result {
    let file = std::fs::File::create(stick).and_then(|file| file.set_len(size));
    file.map_err(Failure::file(stick, "make"))?;
    let port = LoopDevice::new(stick)?;
    let image = image.display().to_string();
    imgbuild::cli::run(["imgbuild", "--quiet", "burn", &image, "--to", port.path(), "--yes-this-disk", port.name()])
        .map_err(Failure::builder)
}
