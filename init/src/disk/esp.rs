//! The ESP, checked at each boot before anything of ours writes to it: firmware and loader rename on it, without a
//! journal.

use super::block::Disk;
use super::state::run;
use crate::console::say;
use spec::layout::Partition;

const CHECK: &str = "/usr/sbin/fsck.fat";

/// Repairs what a power cut has left. A failure is no reason not to boot: the loader has read what it needed.
pub fn check(disk: &Disk) {
    match run(CHECK, &["-a"], &disk.partition_device(Partition::Esp.number())) {
        Ok((0, _)) => {}
        // fsck.fat(8): recoverable errors, which were mended.
        Ok((1, said)) => say(format!("the ESP was repaired: {said}")),
        Ok((status, said)) => say(format!("the ESP: {CHECK} ended with status {status}: {said}")),
        Err(reason) => say(format!("the ESP is not checked: {reason}")),
    }
}
