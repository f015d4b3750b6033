//! Device mapper, as much of it as one read-only verity device needs.

use crate::files::at;
use crate::sys::{self, DM_IOCTL_SIZE};
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;

const CONTROL: &str = "/dev/mapper/control";
const DEVICE_CREATE: u32 = 3;
const DEVICE_SUSPEND: u32 = 6;
const TABLE_LOAD: u32 = 9;
const READ_ONLY: u32 = 1;

/// Makes a read-only mapped device with one target over its whole length (512-byte sectors) and
/// returns its node.
///
/// # Errors
/// As the kernel answers, with the step that failed. A half-made device is left: the machine reboots.
pub fn create_read_only(name: &str, target: &str, sectors: u64, parameters: &str) -> io::Result<PathBuf> {
    let control = OpenOptions::new().read(true).write(true).open(CONTROL).map_err(at(CONTROL))?;
    let step = |what: &'static str| {
        move |error: io::Error| io::Error::new(error.kind(), format!("device mapper: {what}: {error}"))
    };

    let mut buffer = header(name, READ_ONLY, 0);
    sys::device_mapper(&control, DEVICE_CREATE, &mut buffer).map_err(step("create"))?;
    let mut buffer = header(name, READ_ONLY, 1);
    buffer.extend(target_specification(target, sectors, parameters));
    sys::device_mapper(&control, TABLE_LOAD, &mut buffer).map_err(step("load table"))?;
    // Without DM_SUSPEND_FLAG this resumes: the loaded table becomes the live one.
    let mut buffer = header(name, READ_ONLY, 0);
    sys::device_mapper(&control, DEVICE_SUSPEND, &mut buffer).map_err(step("resume"))?;
    let device = u64::from_ne_bytes(buffer[40..48].try_into().unwrap_or_default());
    Ok(PathBuf::from(format!("/dev/dm-{}", rustix::fs::minor(device))))
}

/// `struct dm_ioctl` of <linux/dm-ioctl.h>, version 4.
fn header(name: &str, flags: u32, targets: u32) -> Vec<u8> {
    let mut buffer = vec![0u8; DM_IOCTL_SIZE];
    buffer[0..4].copy_from_slice(&4u32.to_ne_bytes());
    buffer[16..20].copy_from_slice(&(DM_IOCTL_SIZE as u32).to_ne_bytes());
    buffer[20..24].copy_from_slice(&targets.to_ne_bytes());
    buffer[28..32].copy_from_slice(&flags.to_ne_bytes());
    let length = name.len().min(127);
    buffer[48..48 + length].copy_from_slice(&name.as_bytes()[..length]);
    buffer
}

/// `struct dm_target_spec` and the parameters behind it, padded to eight bytes.
fn target_specification(target: &str, sectors: u64, parameters: &str) -> Vec<u8> {
    let mut bytes = vec![0u8; 40];
    bytes[8..16].copy_from_slice(&sectors.to_ne_bytes());
    let length = target.len().min(15);
    bytes[24..24 + length].copy_from_slice(&target.as_bytes()[..length]);
    bytes.extend_from_slice(parameters.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}
