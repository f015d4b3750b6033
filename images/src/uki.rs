//! A Unified Kernel Image: systemd's EFI stub with kernel, initramfs, command line and names as PE
//! sections (UAPI group, Unified Kernel Image; Microsoft PE format).
//!
//! What bites: the section table must fit before the first section's data, virtual addresses follow
//! the section alignment, `.sbat` exists in the stub and is merged in place, and a signature of the
//! stub would not survive.

mod pe;

use pe::{Executable, NewSection};
use thiserror::Error;

/// Readable code and readable initialised data.
const SECTION_CODE: u32 = 0x4000_0020;
const SECTION_DATA: u32 = 0x4000_0040;
/// First line of every SBAT table.
const SBAT_HEAD: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";
/// Our own line: the name by which shim would revoke UKIs of this make.
const SBAT_UKI: &str = "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n";

#[derive(Debug, Error, PartialEq, Eq)]
pub enum UkiError {
    #[error("{what} is no PE32+ program for EFI: {reason}")]
    NotAProgram { what: &'static str, reason: String },
    #[error("the stub is signed; wanted an unsigned linuxx64.efi.stub, since adding sections breaks a signature")]
    Signed,
    #[error("the stub has no room for {wanted} more section headers: {room} fit before its first section")]
    NoHeaderRoom { wanted: usize, room: usize },
    #[error("the stub has a section {0} already")]
    SectionExists(&'static str),
    #[error("{section}: {size} bytes; at most {room} fit")]
    TooLarge { section: &'static str, size: usize, room: usize },
}

/// What goes into a UKI.
#[derive(Debug, Clone, Copy)]
pub struct Uki<'a> {
    /// systemd's linuxx64.efi.stub.
    pub stub: &'a [u8],
    /// bzImage with EFI stub.
    pub kernel: &'a [u8],
    pub initramfs: &'a [u8],
    pub command_line: &'a str,
    /// os-release(5): systemd-boot shows PRETTY_NAME and sorts by VERSION_ID, then by the file's name.
    pub os_release: &'a str,
    /// Kernel release, for example `6.12.117+deb13-amd64`.
    pub uname: &'a str,
}

/// The bytes of the EFI program.
///
/// # Errors
/// A stub or kernel that is no PE program, a signed stub, no room for a header or for `.sbat`.
pub fn build(uki: &Uki<'_>) -> Result<Vec<u8>, UkiError> {
    let mut image = Executable::parse("the stub", uki.stub)?;
    let kernel = Executable::parse("the kernel", uki.kernel)?;
    if image.is_signed() {
        return Err(UkiError::Signed);
    }
    // Old firmware rules: what is not marked NX inside must not be marked outside.
    if !kernel.is_nx_compatible() {
        image.clear_nx_compatible();
    }
    let sbat = merged_sbat(&image, &kernel);
    image.replace_section(".sbat", sbat.as_bytes())?;
    let plain = |name, content: &[u8]| NewSection {
        name,
        content: content.to_vec(),
        virtual_size: content.len() as u32,
        characteristics: SECTION_DATA,
    };
    let sections = [
        plain(".osrel", uki.os_release.as_bytes()),
        plain(".cmdline", uki.command_line.as_bytes()),
        plain(".uname", uki.uname.as_bytes()),
        NewSection {
            name: ".linux",
            content: uki.kernel.to_vec(),
            // Room for the kernel to be run where it lies.
            virtual_size: kernel.size_of_image().max(uki.kernel.len() as u32),
            characteristics: SECTION_CODE,
        },
        plain(".initrd", uki.initramfs),
    ];
    image.add_sections(&sections)?;
    Ok(image.into_bytes())
}

/// Name, virtual size and content of each section, in order: to look into a UKI.
///
/// # Errors
/// Bytes that are no PE program.
pub fn sections(bytes: &[u8]) -> Result<Vec<(String, u32, Vec<u8>)>, UkiError> {
    let image = Executable::parse("the image", bytes)?;
    Ok(image.sections().map(|section| (section.name, section.virtual_size, section.content)).collect())
}

/// Name, offset in the file and length of each section's content.
///
/// # Errors
/// Bytes that are no PE program.
pub fn places(bytes: &[u8]) -> Result<Vec<(String, u64, u64)>, UkiError> {
    let image = Executable::parse("the image", bytes)?;
    let place = |section: pe::Section| (section.name, u64::from(section.raw_offset), section.content.len() as u64);
    Ok(image.sections().map(place).collect())
}

/// One head line, then the lines of stub and kernel, then ours.
fn merged_sbat(stub: &Executable, kernel: &Executable) -> String {
    let mut table = SBAT_HEAD.to_owned();
    for program in [stub, kernel] {
        let Some(section) = program.sections().find(|section| section.name == ".sbat") else { continue };
        let text = String::from_utf8_lossy(&section.content).into_owned();
        for line in text.trim_end_matches('\0').lines().filter(|line| !line.is_empty() && !line.starts_with("sbat,")) {
            table.push_str(line);
            table.push('\n');
        }
    }
    table.push_str(SBAT_UKI);
    table.push('\0');
    table
}

#[cfg(test)]
mod tests;
