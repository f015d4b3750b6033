//! The kernel's messages out of /dev/kmsg (Documentation/ABI/testing/dev-kmsg).

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use spec::agent::KernelMessage;
use std::io;

/// The kernel gives one record a read, and EINVAL where it does not fit.
const RECORD: usize = 8192;

/// What the kernel's ring still holds.
pub fn read() -> io::Result<Vec<KernelMessage>> {
    let ring = rustix::fs::open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut messages = Vec::new();
    let mut record = [0; RECORD];
    loop {
        match rustix::io::read(&ring, &mut record) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(messages),
            Ok(length) => messages.extend(parse(&String::from_utf8_lossy(&record[..length]))),
            // What was next has been overwritten: the ring goes on with the oldest that is left.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`, then lines of keys and values.
fn parse(record: &str) -> Option<KernelMessage> {
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let since_start_us = fields.nth(1)?.parse().ok()?;
    let text = text.split('\n').next().unwrap_or_default().to_owned();
    // The lower three bits are the level, the others the facility.
    Some(KernelMessage { level: (priority & 7) as u8, since_start_us, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_level_a_time_and_a_text() {
        let record = "30,339,5140900,-;NET: Registered; family 10\n SUBSYSTEM=net\n DEVICE=n1\n";
        let wanted = KernelMessage { level: 6, since_start_us: 5_140_900, text: "NET: Registered; family 10".into() };
        assert_eq!(parse(record), Some(wanted));
        for record in ["", "6,1,2,-", "x,1,2,-;text", "6,1;text"] {
            assert_eq!(parse(record), None, "{record:?}");
        }
    }
}
