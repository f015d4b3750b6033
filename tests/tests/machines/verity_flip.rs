//! One bit of the root image turns over: verity stops the machine, by name.

use regex::Regex;
use spec::layout::Partition;
use stories::{MASTER, story};

/// In the first block of the root: every mount reads it.
const EROFS_SUPERBLOCK: u64 = 1024;

#[test]
fn a_flipped_bit_in_the_root_stops_the_boot_by_name() {
    story("verity-flip", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        qemu::disk::flip_bit(master.disk(), Partition::RootA.offset() + EROFS_SUPERBLOCK + 40, 3)?;
        master.power_on()?;
        let corrupted = Regex::new("(?i)verity.*corrupt|corrupt.*verity")
            .map_err(|error| stories::Failure::Unexpected(error.to_string()))?;
        master.wait_for_console(corrupted, 180)?;
        // panic=10: it does not stay dead.
        master.wait_for_event("RESET", 120)
    });
}
