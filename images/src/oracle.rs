//! Judges that we did not write: their commands on our artifacts, for the stories. The programs come
//! from a tools root.

use crate::gpt::extent;
use crate::tools::{ToolsError, ToolsRoot};
use crate::verity::VerityInfo;
use spec::layout::Partition;
use std::path::Path;

/// `sgdisk -v`: the partition table of a disk image.
///
/// # Errors
/// The program is missing, fails, or reports a problem (it ends with status 0 even then).
pub fn partition_table(tools: &ToolsRoot, image: &Path) -> Result<String, ToolsError> {
    let mut command = tools.command("/usr/sbin/sgdisk");
    command.arg("-v").arg(image);
    let printed = String::from_utf8_lossy(&tools.run(command)?).into_owned();
    if printed.contains("No problems found") {
        return Ok(printed);
    }
    Err(ToolsError::Failed { program: "sgdisk -v".to_owned(), status: "problems".to_owned(), output: printed })
}

/// `fsck.fat -n`: the ESP of a disk image, copied to the file `scratch` first.
///
/// # Errors
/// The program is missing or finds something to mend; the image cannot be read.
pub fn esp(tools: &ToolsRoot, image: &Path, scratch: &Path) -> Result<String, ToolsError> {
    let (offset, length) = extent(Partition::Esp);
    copy_range(image, scratch, offset, length).map_err(|source| ToolsError::Open { root: image.to_owned(), source })?;
    let mut command = tools.command("/usr/sbin/fsck.fat");
    command.arg("-n").arg(scratch);
    Ok(String::from_utf8_lossy(&tools.run(command)?).into_owned())
}

/// `fsck.erofs --extract` without a target: every block of a root image is read and decompressed.
///
/// # Errors
/// The program is missing or finds damage.
pub fn root_file_system(tools: &ToolsRoot, image: &Path) -> Result<(), ToolsError> {
    let mut command = tools.command("/usr/bin/fsck.erofs");
    command.arg("--extract").arg(image);
    tools.run(command).map(|_| ())
}

/// `veritysetup verify` with the offset and root hash that the machine will get.
///
/// # Errors
/// The program is missing, or a hash does not match.
pub fn verity(tools: &ToolsRoot, image: &Path, info: &VerityInfo) -> Result<(), ToolsError> {
    let mut command = tools.command("/usr/sbin/veritysetup");
    command.arg("verify").arg(image).arg(image).arg(info.root_hash_hex());
    command.arg(format!("--hash-offset={}", info.hash_offset));
    tools.run(command).map(|_| ())
}

/// `objdump -h`: the sections of a UKI.
///
/// # Errors
/// The program is missing or does not understand the file.
pub fn uki_sections(tools: &ToolsRoot, uki: &Path) -> Result<String, ToolsError> {
    let mut command = tools.command("/usr/bin/objdump");
    command.arg("-h").arg(uki);
    Ok(String::from_utf8_lossy(&tools.run(command)?).into_owned())
}

fn copy_range(from: &Path, to: &Path, offset: u64, length: u64) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let mut source = std::fs::File::open(from)?;
    source.seek(SeekFrom::Start(offset))?;
    std::io::copy(&mut source.take(length), &mut std::fs::File::create(to)?).map(|_| ())
}
