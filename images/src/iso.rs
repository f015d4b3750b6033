//! A CD image, as BMCs lend to a machine: ISO 9660 with El Torito's two boot entries, GRUB for BIOS and GRUB for UEFI,
//! which load kernel, initramfs and one archive more. Nothing reads the medium once the kernel runs.

use crate::esp;
use crate::grub::{CONSOLES, Core};
use crate::sparse::SparseDisk;
use crate::tools::{ToolsError, ToolsRoot};
use crate::tree::Content;
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;
use thiserror::Error;

const XORRISO: &str = "/usr/bin/xorriso";
const VOLUME: &str = "IMGBUILD";
/// What both core images find their medium with.
const MODULES: [&str; 2] = ["iso9660", "search"];
/// Bytes of the volume from which UEFI starts GRUB: twice of what GRUB takes.
const EFI_VOLUME: u64 = 4 << 20;

/// Where GRUB looks on the medium for its configuration.
const GRUB_FOLDER: &str = "/boot/grub";
/// Paths on the medium.
const KERNEL: &str = "/vmlinuz";
const INITRAMFS: &str = "/initramfs.img";
const ARCHIVE: &str = "/medium.img";
const GRUB_CONFIGURATION: &str = "/boot/grub/grub.cfg";
const BIOS_IMAGE: &str = "/boot/grub/bios.img";
const EFI_IMAGE: &str = "/boot/grub/efi.img";

#[derive(Debug, Error)]
pub enum IsoError {
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error(transparent)]
    Volume(#[from] esp::EspError),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

/// What a medium is made of.
#[derive(Debug, Clone, Copy)]
pub struct Medium<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    /// An initramfs more (cpio), which the kernel unpacks after the first.
    pub archive: &'a Path,
    pub command_line: &'a str,
    /// Sixteen digits, date and time to the hundredth of a second (ECMA-119, 8.4.26.1): GRUB finds its own medium by it.
    pub identity: &'a str,
}

impl Medium<'_> {
    /// Writes the image to `target`; `scratch` is a folder for its parts.
    ///
    /// # Errors
    /// A program of the tools root is missing or fails; the disk's failures.
    pub fn write(&self, tools: &ToolsRoot, scratch: &Path, target: &Path) -> Result<(), IsoError> {
        let place = |name: &str| scratch.join(name);
        let (bios, efi_program, efi) = (place("bios.img"), place("grub.efi"), place("efi.img"));
        let modules = |more: &[&'static str]| [&MODULES, more].concat();
        let by_bios = modules(&["biosdisk"]);
        let core = Core { format: "i386-pc-eltorito", prefix: GRUB_FOLDER, begin: None, modules: &by_bios };
        core.make(tools, &bios)?;
        // UEFI has started it from a volume of its own, which is not the medium.
        let begin = place("begin.cfg");
        let text = format!("search --set=root --fs-uuid {}\nset prefix=($root){GRUB_FOLDER}\n", self.volume_id());
        std::fs::write(&begin, text).map_err(failed(&begin))?;
        let by_uefi = modules(&["fat", "part_gpt"]);
        let core = Core { format: "x86_64-efi", prefix: GRUB_FOLDER, begin: Some(&begin), modules: &by_uefi };
        core.make(tools, &efi_program)?;
        let program = Content::of_file(&efi_program).map_err(failed(&efi_program))?;
        efi_volume(&program, &efi)?;
        let configuration_file = place("grub.cfg");
        std::fs::write(&configuration_file, configuration(self.command_line)).map_err(failed(&configuration_file))?;

        let mut command = tools.command(XORRISO);
        command.args(["-report_about", "WARNING", "-as", "mkisofs", "-rational-rock", "-volid", VOLUME]);
        command.arg(format!("--modification-date={}", self.identity)).arg("-output").arg(target);
        command.args(["-eltorito-boot", &BIOS_IMAGE[1..], "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]);
        command.args(["--grub2-boot-info", "-eltorito-alt-boot", "-e", &EFI_IMAGE[1..], "-no-emul-boot"]);
        command.arg("-graft-points");
        for (on_medium, path) in [
            (GRUB_CONFIGURATION, configuration_file.as_path()),
            (BIOS_IMAGE, &bios),
            (EFI_IMAGE, &efi),
            (KERNEL, self.kernel),
            (INITRAMFS, self.initramfs),
            (ARCHIVE, self.archive),
        ] {
            let mut graft = OsString::from(format!("{on_medium}="));
            graft.push(path);
            command.arg(graft);
        }
        tools.run(command)?;
        File::open(target).and_then(|file| file.sync_all()).map_err(failed(target))
    }

    /// As GRUB writes it: `2026-11-30-20-27-26-00`.
    fn volume_id(&self) -> String {
        let (year, rest) = self.identity.split_at(4.min(self.identity.len()));
        let pairs = rest.as_bytes().chunks(2).map(String::from_utf8_lossy);
        pairs.fold(year.to_owned(), |text, pair| format!("{text}-{pair}"))
    }
}

fn failed(what: &Path) -> impl FnOnce(io::Error) -> IsoError {
    let what = what.display().to_string();
    move |source| IsoError::Io { what, source }
}

/// The volume that El Torito's entry for UEFI names (UEFI 2.10, 13.3.2.1).
fn efi_volume(program: &Content, target: &Path) -> Result<(), IsoError> {
    let mut disk = SparseDisk::new(EFI_VOLUME);
    let fill = |disk: &mut SparseDisk| -> Result<(), esp::EspError> {
        fatfs::format_volume(&mut *disk, FormatVolumeOptions::new().volume_label(*b"IMGBUILD   "))?;
        disk.rewind()?;
        let volume = FileSystem::new(&mut *disk, FsOptions::new().update_accessed_date(false))?;
        esp::place(&volume, esp::LOADER_PATHS[0], program)?;
        Ok(volume.unmount()?)
    };
    fill(&mut disk)?;
    let copied = disk.rewind().and_then(|()| io::copy(&mut disk, &mut File::create(target)?));
    copied.map(drop).map_err(failed(target))
}

/// Screen and serial port, then the only thing there is to start.
fn configuration(command_line: &str) -> String {
    format!(
        r#"# Written by imgbuild: GRUB's part of a machine that starts from a CD image.
{CONSOLES}{}echo "imgbuild: the image is read from the medium"
linux {KERNEL} $command_line
initrd {INITRAMFS} {ARCHIVE}
boot
echo "The image on this medium could not be started. The machine tries again in a minute."
sleep 60
reboot
"#,
        spec::boot::grub_command_line(command_line)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_looks_for_the_date_as_it_writes_it() {
        let medium = Medium {
            kernel: Path::new(""),
            initramfs: Path::new(""),
            archive: Path::new(""),
            command_line: "",
            identity: "2026113020272600",
        };
        assert_eq!(medium.volume_id(), "2026-11-30-20-27-26-00");
    }

    #[test]
    fn the_configuration_starts_what_lies_on_the_medium() {
        let text = configuration("console=tty0 imgbuild.roothash=ab");
        assert!(text.contains("set command_line='console=tty0 imgbuild.roothash=ab'\n"), "{text}");
        assert!(text.contains("linux /vmlinuz $command_line\ninitrd /initramfs.img /medium.img\nboot\n"), "{text}");
    }
}
