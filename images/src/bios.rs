//! Boot by BIOS: GRUB's boot.img in the first sector, its core image in the BIOS boot partition, and its
//! configuration on the ESP, from where it loads kernel and initramfs as files: GRUB cannot boot a UKI.

use crate::esp;
use crate::grub::{CONSOLES, Core};
use crate::tools::{ToolsError, ToolsRoot};
use crate::tree::Content;
use spec::boot::{GRUB_ENVIRONMENT, GRUB_FOLDER, GrubEnvironment, grub_command_line, grub_files};
use spec::layout::{Partition, SECTOR_SIZE, Slot};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use thiserror::Error;

const BOOT_IMAGE: &str = "/usr/lib/grub/i386-pc/boot.img";
/// What the core image holds beside every configuration's words: the disk by BIOS calls, the table, the ESP, and more words.
const MODULES: [&str; 7] = ["biosdisk", "part_gpt", "fat", "loadenv", "probe", "halt", "gfxterm"];
const SECTOR: usize = SECTOR_SIZE as usize;

/// Bytes of the first sector that are code; behind them the disk's signature and the protective MBR's table.
pub const CODE: usize = 440;
/// Where boot.img has the core image's first sector, 64 bits (GRUB 2.12, include/grub/i386/pc/boot.h,
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const CORE_SECTOR: usize = 0x5c;
/// A jump over the workaround for firmware that does not say which disk it boots; taken out for hard disks
/// (same file, `GRUB_BOOT_MACHINE_DRIVE_CHECK`; util/setup.c).
const DRIVE_CHECK: usize = 0x66;
const NO_OPERATION: u8 = 0x90;
/// The list of what the core image's first sector loads stands at its end (same file, `GRUB_BOOT_MACHINE_LIST_SIZE`):
/// first sector, 64 bits; number of sectors, 16 bits; segment.
const LIST_ENTRY: usize = SECTOR - 12;

#[derive(Debug, Error)]
pub enum BiosError {
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error("GRUB: {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("GRUB: {what} has {size} bytes; wanted {wanted}")]
    Size { what: &'static str, size: usize, wanted: String },
}

/// The two pieces of GRUB that lie outside of a file system, with the places that they know of each other by.
#[derive(Debug, Clone)]
pub struct Loader {
    boot: Vec<u8>,
    core: Vec<u8>,
}

impl Loader {
    /// Makes the core image with the programs of the tools root.
    ///
    /// # Errors
    /// grub-mkimage is missing or fails, a piece does not have the size that it must have.
    pub fn make(tools: &ToolsRoot) -> Result<Loader, BiosError> {
        let failed = |what: &Path| {
            let what = what.display().to_string();
            move |source| BiosError::Io { what, source }
        };
        let folder = tempfile::tempdir().map_err(failed(Path::new("a temporary folder")))?;
        let core = folder.path().join("core.img");
        // Without a disk's name: the one that the BIOS has booted.
        let prefix = format!("(,gpt{})/{GRUB_FOLDER}", Partition::Esp.number());
        Core { format: "i386-pc", prefix: &prefix, begin: None, modules: &MODULES }.make(tools, &core)?;
        let boot = tools.file(BOOT_IMAGE);
        let boot = std::fs::read(&boot).map_err(failed(&boot))?;
        let core = std::fs::read(&core).map_err(failed(&core))?;
        Loader::of_images(&boot, &core)
    }

    fn of_images(boot: &[u8], core: &[u8]) -> Result<Loader, BiosError> {
        if boot.len() != SECTOR {
            return Err(BiosError::Size { what: "boot.img", size: boot.len(), wanted: SECTOR.to_string() });
        }
        let room = Partition::Bios.size().unwrap_or(0) as usize;
        let sectors = core.len().div_ceil(SECTOR);
        if sectors < 2 || core.len() > room {
            let wanted = format!("more than one sector and at most {room}, the partition's size");
            return Err(BiosError::Size { what: "core.img", size: core.len(), wanted });
        }
        let first = Partition::Bios.offset() / SECTOR_SIZE;
        let mut boot = boot[..CODE].to_vec();
        boot[CORE_SECTOR..][..8].copy_from_slice(&first.to_le_bytes());
        boot[DRIVE_CHECK..][..2].fill(NO_OPERATION);
        let mut core = core.to_vec();
        core.resize(sectors * SECTOR, 0);
        // The first sector is there already when it reads the list.
        core[LIST_ENTRY..][..8].copy_from_slice(&(first + 1).to_le_bytes());
        core[LIST_ENTRY + 8..][..2].copy_from_slice(&((sectors - 1) as u16).to_le_bytes());
        Ok(Loader { boot, core })
    }

    /// Writes both to a disk whose partition table is there.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, disk: &File) -> io::Result<()> {
        disk.write_all_at(&self.boot, 0)?;
        disk.write_all_at(&self.core, Partition::Bios.offset())
    }
}

/// Screen and serial port, then the slots in the order that the environment block says (`spec::boot`), a slot on trial
/// with one try less. `$root` is the ESP, whose GUID tells init the disk.
const CONFIGURATION: &str = r#"# Written by imgbuild: GRUB's part of a machine that starts by BIOS.
CONSOLES
set environment=/ENVIRONMENT
set order="a b"
set fallback="b a"
load_env --file "$environment" order fallback trial next
if [ "$trial" = "0" ]; then
    set order="$fallback"
    set trial=
elif [ "$trial" = "1" ]; then
    set trial=0
elif [ "$trial" = "2" ]; then
    set trial=1
elif [ -n "$trial" ]; then
    set trial=2
fi
set slots="$order"
if [ -n "$next" ]; then
    set slots="$next $order"
    set next=
fi
save_env --file "$environment" order trial next
probe --set=partition --part-uuid "$root"
for slot in $slots; do
    if [ -f "/GRUB_FOLDER/command-line-$slot" ]; then
        echo "slot $slot"
        source "/GRUB_FOLDER/command-line-$slot"
        linux "/GRUB_FOLDER/vmlinuz-$slot" $command_line BOOT_PARTITION="$partition"
        initrd "/GRUB_FOLDER/initramfs-$slot"
        boot
    fi
done
echo "No slot of this disk could be started. The machine tries again in a minute."
sleep 60
reboot
"#;

/// GRUB's files of an ESP on which `slot` is filled.
pub fn files(slot: Slot, kernel: Content, initramfs: Content, command_line: &str) -> esp::Files {
    let configuration = CONFIGURATION
        .replace("CONSOLES\n", CONSOLES)
        .replace("ENVIRONMENT", GRUB_ENVIRONMENT)
        .replace("GRUB_FOLDER", GRUB_FOLDER)
        .replace("BOOT_PARTITION", spec::cmdline::BOOT_PARTITION);
    let [kernel_file, initramfs_file, command_line_file] = grub_files(slot);
    let environment = GrubEnvironment { first: slot, ..GrubEnvironment::FIRST };
    esp::Files::from([
        (format!("{GRUB_FOLDER}/grub.cfg"), Content::from(configuration)),
        (GRUB_ENVIRONMENT.to_owned(), Content::from(environment.encode())),
        (kernel_file, kernel),
        (initramfs_file, initramfs),
        (command_line_file, Content::from(grub_command_line(command_line))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    #[test]
    fn the_pieces_know_each_others_places() {
        let loader = Loader::of_images(&[1; SECTOR], &vec![2; 40_001]).unwrap();
        assert_eq!(loader.boot.len(), CODE);
        assert_eq!(number(&loader.boot[CORE_SECTOR..][..8]), 2048);
        assert_eq!(loader.core.len(), 79 * SECTOR);
        assert_eq!(number(&loader.core[LIST_ENTRY..][..8]), 2049);
        assert_eq!(number(&loader.core[LIST_ENTRY + 8..][..2]), 78);
        assert_eq!(loader.core[LIST_ENTRY + 10], 2, "the segment stays");
    }

    #[test]
    fn what_cannot_be_grub_is_refused() {
        let text =
            |boot: usize, core: usize| Loader::of_images(&vec![0; boot], &vec![0; core]).unwrap_err().to_string();
        assert!(text(440, 40_000).contains("boot.img has 440 bytes; wanted 512"));
        assert!(text(512, 512).contains("core.img has 512 bytes"));
        assert!(text(512, 2 << 20).contains("core.img has 2097152 bytes"));
    }

    #[test]
    fn the_configuration_names_the_files() {
        let files = files(Slot::A, Content::from(vec![1]), Content::from(vec![2]), "quiet");
        let configuration = String::from_utf8(files["grub/grub.cfg"].read().unwrap().to_vec()).unwrap();
        for name in files.keys().filter(|name| *name != "grub/grub.cfg") {
            assert!(configuration.contains(&name.replace("-a", "-$slot")), "{name}");
        }
        let environment = GrubEnvironment::decode(&files[GRUB_ENVIRONMENT].read().unwrap());
        assert_eq!(environment, GrubEnvironment::FIRST);
    }
}
