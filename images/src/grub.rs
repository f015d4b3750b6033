//! GRUB: its core images, and how its configurations begin. A disk's loader (`bios`) and a CD image's (`iso`) are made of
//! it.

use crate::tools::{ToolsError, ToolsRoot};
use std::path::Path;

const PROGRAM: &str = "/usr/bin/grub-mkimage";
/// Where the tools root has the modules, by platform.
const MODULES_FOLDER: &str = "/usr/lib/grub";
/// The words of every configuration.
const WORDS: [&str; 10] =
    ["normal", "configfile", "linux", "test", "echo", "sleep", "serial", "terminal", "reboot", "all_video"];

/// Both consoles: screen and serial port.
pub const CONSOLES: &str = "if serial --unit=0 --speed=115200; then
    terminal_input console serial
    terminal_output console serial
fi
";

/// A core image: GRUB's kernel with the modules that it needs to find the others, its configuration and the machine's disks.
#[derive(Debug, Clone, Copy)]
pub struct Core<'a> {
    /// grub-mkimage's name of the format.
    pub format: &'a str,
    /// Where the configuration lies, as GRUB names it.
    pub prefix: &'a str,
    /// A script that runs first.
    pub begin: Option<&'a Path>,
    /// Besides those of the configurations' words.
    pub modules: &'a [&'a str],
}

impl Core<'_> {
    /// # Errors
    /// grub-mkimage is missing or fails.
    pub fn make(&self, tools: &ToolsRoot, target: &Path) -> Result<(), ToolsError> {
        let mut command = tools.command(PROGRAM);
        let platform = self.format.trim_end_matches("-eltorito");
        command.arg(format!("--format={}", self.format)).arg(format!("--directory={MODULES_FOLDER}/{platform}"));
        command.arg(format!("--prefix={}", self.prefix)).arg("--output").arg(target);
        if let Some(begin) = self.begin {
            command.arg("--config").arg(begin);
        }
        command.args(self.modules).args(WORDS);
        tools.run(command).map(drop)
    }
}
