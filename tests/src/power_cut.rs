//! Power cuts that lose what was not flushed: one run of a machine is recorded, then its disk is made
//! as a cut at any moment of that run would have left it.

use crate::state::StatePartition;
use crate::{Computer, Failure, Lab, Result, expect};
use qemu::writelog::{Unflushed, Walk, WriteLog, replay};
use std::path::{Path, PathBuf};

/// A recording of one run of a computer.
#[derive(Debug)]
pub struct Recording<'lab> {
    lab: &'lab Lab,
    /// The disk before the run.
    base: PathBuf,
    log: PathBuf,
    /// Names of ConfigMaps and how many entries the log had when the API had acknowledged them.
    acknowledged: Vec<(String, usize)>,
}

/// A moment at which to cut the power, and what must be there after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub entries: usize,
    pub unflushed: Unflushed,
    /// Names of ConfigMaps.
    pub acknowledged: Vec<String>,
}

impl<'lab> Recording<'lab> {
    /// Records every write to one of its disks from the next power-on.
    pub fn start(lab: &'lab Lab, computer: &mut Computer, disk: usize) -> Result<Recording<'lab>> {
        let (base, log) = (lab.folder().join("before.img"), lab.folder().join("writes.log"));
        let disk = &mut computer.hardware().disks[disk];
        qemu::disk::copy_sparse(&disk.path, &base)?;
        disk.write_log = Some(log.clone());
        Ok(Recording { lab, base, log, acknowledged: Vec::new() })
    }

    /// Entries that the log has now.
    pub fn moment(&self) -> Result<usize> {
        Ok(WriteLog::open(&self.log)?.entries().len())
    }

    /// Writes a ConfigMap; once the API has acknowledged it, no power cut may lose it.
    pub fn acknowledge(&mut self, computer: &Computer, name: &str) -> Result {
        computer.kubectl(&["create", "configmap", name, &format!("--from-literal=name={name}")])?;
        self.acknowledged.push((name.into(), self.moment()?));
        Ok(())
    }

    /// Ends the run: the machine is off, and the recording whole.
    pub fn end(&self, computer: &mut Computer) -> Result {
        computer.end_recording()?;
        computer.hardware().disks.iter_mut().for_each(|disk| disk.write_log = None);
        Ok(())
    }

    /// Cuts the power at this many moments of the run, the first after `from` entries, dropping all that was not flushed:
    /// `check` gets each disk that this leaves, in their order.
    pub fn at_moments(&self, from: usize, cuts: usize, mut check: impl FnMut(&Path) -> Result) -> Result {
        let log = WriteLog::open(&self.log)?;
        let points = log.cut_points(from, cuts);
        expect(points.len() >= cuts, &format!("{cuts} moments to cut the power at"), points.len())?;
        let disk = self.lab.folder().join("walk.img");
        let mut walk = Walk::new(&self.base, &log, &disk)?;
        for entries in points {
            walk.advance(entries)?;
            check(&disk).map_err(|failure| Failure::Unexpected(format!("cut after {entries} writes: {failure}")))?;
        }
        std::fs::remove_file(&disk).map_err(Failure::file(&disk, "remove"))
    }

    /// As [`Recording::at_moments`]: wherever a state file system has been made, it must be whole, and it never vanishes
    /// again.
    pub fn check_state_at(&self, cuts: usize) -> Result {
        let mut made = false;
        self.at_moments(0, cuts, |disk| {
            let state = StatePartition::of(self.lab, disk);
            let is_made = state.is_made()?;
            expect(is_made || !made, "the state file system that was there", "none")?;
            made = is_made;
            if made { state.check() } else { Ok(()) }
        })?;
        expect(made, "a state file system at the end of the run", "none")
    }

    /// This many moments spread over the run from `from` entries on, the first and the last among them. Every second one
    /// lets some of the unflushed writes through, torn ones too.
    pub fn samples(&self, from: usize, count: usize) -> Result<Vec<Sample>> {
        let points = WriteLog::open(&self.log)?.cut_points(from, count);
        Ok(points.into_iter().enumerate().map(|(index, entries)| self.sample(index, entries)).collect())
    }

    fn sample(&self, index: usize, entries: usize) -> Sample {
        let unflushed = if index.is_multiple_of(2) { Unflushed::Drop } else { Unflushed::Some { seed: index as u64 } };
        let durable = self.acknowledged.iter().filter(|(_, written)| *written <= entries);
        Sample { entries, unflushed, acknowledged: durable.map(|(name, _)| name.clone()).collect() }
    }

    /// Makes the disk as this power cut leaves it.
    pub fn replay(&self, sample: &Sample) -> Result<PathBuf> {
        let disk: &Path = &self.lab.folder().join("replayed.img");
        replay(&self.base, &WriteLog::open(&self.log)?, sample.entries, sample.unflushed, disk)?;
        Ok(disk.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_asks_for_what_was_acknowledged_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::new(folder.path()).unwrap();
        let acknowledged = vec![("one".to_owned(), 10), ("two".to_owned(), 20)];
        let recording = Recording { lab: &lab, base: PathBuf::new(), log: PathBuf::new(), acknowledged };
        assert_eq!(recording.sample(0, 9).acknowledged, Vec::<String>::new());
        assert_eq!(recording.sample(1, 10).acknowledged, ["one"]);
        assert_eq!(recording.sample(2, 20).acknowledged, ["one", "two"]);
        assert_eq!(recording.sample(1, 0).unflushed, Unflushed::Some { seed: 1 });
    }
}
