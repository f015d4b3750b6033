//! A file as a stick that `imgbuild burn` writes. Needs root: a loop device stands for the USB port.

use crate::run::run;
use crate::{Failure, Result};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// A loop device as long as it lives.
struct Port(String);

impl Port {
    fn plug_in(stick: &Path) -> Result<Port> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(stick);
        Ok(Port(run(command, "", LIMIT)?.ok()?.trim().to_owned()))
    }
}

impl Drop for Port {
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
    let port = Port::plug_in(stick)?;
    let name = port.0.rsplit('/').next().unwrap_or_default();
    let image = image.display().to_string();
    imgbuild::cli::run(["imgbuild", "--quiet", "burn", &image, "--to", &port.0, "--yes-this-disk", name])
        .map_err(Failure::builder)
}
