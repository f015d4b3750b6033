//! What boot loaders read on the ESP, as names and as GRUB's environment block: shared by whoever writes an image,
//! a slot, or the word that a slot is good.

use crate::layout::Slot;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Folder of the UKIs (UAPI group, Boot Loader Specification, "Type #2").
pub const UKI_FOLDER: &str = "EFI/Linux";
/// Folder of all that is for BIOS.
pub const GRUB_FOLDER: &str = "grub";
/// GRUB's environment block.
pub const GRUB_ENVIRONMENT: &str = "grub/grubenv";
/// How often a slot that nobody has called good is started.
pub const TRIES: u32 = 3;
/// Generation of an image as built.
pub const FIRST_GENERATION: u32 = 1;

/// Kernel, initramfs and command line of a slot as files: GRUB cannot boot a UKI.
pub fn grub_files(slot: Slot) -> [String; 3] {
    let letter = slot.letter();
    ["vmlinuz", "initramfs", "command-line"].map(|name| format!("{GRUB_FOLDER}/{name}-{letter}"))
}

/// Content of the file with a slot's command line: a variable of GRUB's script (GRUB manual, "Quoting").
pub fn grub_command_line(command_line: &str) -> String {
    format!("set command_line='{}'\n", command_line.replace('\'', r"'\''"))
}

/// A UKI's file name: `imgbuild-00000002-b+3.efi`. systemd-boot starts the highest name first, whatever the images'
/// versions are: so the generation, which every write of a slot counts up on its machine, is the order of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub generation: u32,
    pub slot: Slot,
    /// A slot on trial has them (systemd's Automatic Boot Assessment).
    pub tries: Option<Tries>,
}

/// How often the loader will still start a slot on trial, and how often it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    pub left: u32,
    pub done: u32,
}

impl Entry {
    /// The loader's name for it: without the counter.
    pub fn id(&self) -> String {
        Entry { tries: None, ..*self }.to_string()
    }

    /// Neither good nor bad yet.
    pub fn on_trial(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left > 0)
    }

    /// The loader starts it only when there is nothing else.
    pub fn is_bad(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left == 0)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "imgbuild-{:08}-{}", self.generation, self.slot.letter())?;
        match self.tries {
            Some(Tries { left, done: 0 }) => write!(formatter, "+{left}")?,
            Some(Tries { left, done }) => write!(formatter, "+{left}-{done}")?,
            None => {}
        }
        formatter.write_str(".efi")
    }
}

/// No name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign;

impl FromStr for Entry {
    type Err = Foreign;

    /// A file's name or the loader's name for it; firmware may have changed its case.
    fn from_str(name: &str) -> Result<Entry, Foreign> {
        let name = name.to_ascii_lowercase();
        let stem = name.strip_suffix(".efi").unwrap_or(&name);
        let (stem, tries) = match stem.split_once('+') {
            Some((stem, counter)) => (stem, Some(counter.parse()?)),
            None => (stem, None),
        };
        let (generation, letter) =
            stem.strip_prefix("imgbuild-").and_then(|rest| rest.split_once('-')).ok_or(Foreign)?;
        let slot = [Slot::A, Slot::B].into_iter().find(|slot| letter == slot.letter().to_string()).ok_or(Foreign)?;
        Ok(Entry { generation: number(generation)?, slot, tries })
    }
}

impl FromStr for Tries {
    type Err = Foreign;

    fn from_str(text: &str) -> Result<Tries, Foreign> {
        let (left, done) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Tries { left: number(left)?, done: number(done)? })
    }
}

fn number(text: &str) -> Result<u32, Foreign> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or(Foreign)
}

/// GRUB's environment block (GRUB manual, "Environment block"): which slots a BIOS machine starts, in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrubEnvironment {
    /// The slot to start, and the other one.
    pub first: Slot,
    /// The first slot is on trial: how often it may still be started. At 0 GRUB turns to the other.
    pub trial: Option<u32>,
    /// For the next boot alone.
    pub next: Option<Slot>,
}

/// GRUB asks for this size.
pub const GRUB_ENVIRONMENT_SIZE: usize = 1024;
const GRUB_SIGNATURE: &str = "# GRUB Environment Block\n";

impl GrubEnvironment {
    /// Of an image as built.
    pub const FIRST: GrubEnvironment = GrubEnvironment { first: Slot::A, trial: None, next: None };

    /// The block; what changes lies within its first 512 bytes, which a disk writes whole or not at all.
    pub fn encode(&self) -> Vec<u8> {
        let trial = self.trial.map(|left| left.to_string()).unwrap_or_default();
        let next = self.next.map(|slot| slot.letter().to_string()).unwrap_or_default();
        let (first, other) = (self.first.letter(), self.first.other().letter());
        let text =
            format!("{GRUB_SIGNATURE}order={first} {other}\nfallback={other} {first}\ntrial={trial}\nnext={next}\n");
        let mut block = text.into_bytes();
        block.resize(GRUB_ENVIRONMENT_SIZE, b'#');
        block
    }

    /// What GRUB or we have written; a block that is none is that of an image as built, as GRUB takes it.
    pub fn decode(block: &[u8]) -> GrubEnvironment {
        let text = String::from_utf8_lossy(block);
        let values: BTreeMap<&str, &str> =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
        let slot = |name: &str| {
            let letter = values.get(name)?.chars().next()?;
            [Slot::A, Slot::B].into_iter().find(|slot| slot.letter() == letter)
        };
        GrubEnvironment {
            first: slot("order").unwrap_or(Slot::A),
            trial: values.get("trial").and_then(|left| left.parse().ok()),
            next: slot("next"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for name in ["imgbuild-00000001-a.efi", "imgbuild-00000012-b+3.efi", "imgbuild-00000012-b+0-3.efi"] {
            assert_eq!(name.parse::<Entry>().map(|entry| entry.to_string()), Ok(name.to_owned()));
        }
        let entry: Entry = "IMGBUILD-00000012-B+2-1.EFI".parse().unwrap();
        assert_eq!(entry.tries, Some(Tries { left: 2, done: 1 }));
        assert_eq!((entry.id().as_str(), entry.on_trial(), entry.is_bad()), ("imgbuild-00000012-b.efi", true, false));
        assert_eq!(entry.id().trim_end_matches(".efi").parse::<Entry>().unwrap().slot, Slot::B);
        for foreign in ["", "imgbuild-a.efi", "imgbuild-1-c.efi", "imgbuild--a.efi", "imgbuild-1-a+.efi", "x-1-a.efi"] {
            assert_eq!(foreign.parse::<Entry>(), Err(Foreign), "{foreign}");
        }
    }

    #[test]
    fn the_command_line_is_one_word() {
        assert_eq!(grub_command_line("tty0 key='a b' $x"), "set command_line='tty0 key='\\''a b'\\'' $x'\n");
    }

    #[test]
    fn the_environment_comes_back_and_changes_one_sector() {
        let first = GrubEnvironment::FIRST;
        let trial = GrubEnvironment { first: Slot::B, trial: Some(3), next: Some(Slot::A) };
        for environment in [&first, &trial] {
            let block = environment.encode();
            assert_eq!(block.len(), GRUB_ENVIRONMENT_SIZE);
            assert_eq!(block[512..], first.encode()[512..]);
            assert_eq!(GrubEnvironment::decode(&block), *environment);
        }
        // As GRUB writes it back: lines in its own order.
        let grubs = format!("{GRUB_SIGNATURE}trial=2\norder=b a\nnext=\nfallback=a b\n###");
        assert_eq!(GrubEnvironment::decode(grubs.as_bytes()), GrubEnvironment { next: None, trial: Some(2), ..trial });
        assert_eq!(GrubEnvironment::decode(b"nothing"), first);
    }
}
