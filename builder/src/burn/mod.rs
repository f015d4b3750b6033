//! `imgbuild burn`: an image onto sticks. Each is checked before anything is written to any, marked unusable while
//! it is written, read back, and given its partition table last.

mod device;
mod medium;
mod source;

pub use device::{Device, removable};
pub use source::Image;

use crate::cluster::SeedOf;
use crate::error::{Error, Problem, Result};
use crate::progress::{Progress, Unit};
use crate::request::Context;
use medium::Medium;
use spec::layout::image_size;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use time::OffsetDateTime;

/// What to burn, where.
pub struct BurnRequest {
    pub image: Image,
    pub devices: Vec<Device>,
    /// A machine's seed in place of the image's.
    pub seed: Option<SeedOf>,
}

/// The disks to burn to, by path, each once.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    pub devices: Vec<PathBuf>,
    /// Serial numbers of disks that are not removable and are meant nevertheless.
    pub named: Vec<String>,
    /// What is on them may go: nobody is asked.
    pub yes: bool,
}

impl Targets {
    /// Looks all of them up and asks for what holds something.
    ///
    /// # Errors
    /// Bad input: none is named, one cannot be used, or what it holds may not go.
    pub fn choose(&self, progress: &Progress) -> Result<Vec<Device>> {
        if self.devices.is_empty() {
            return Err(Error::bad_input("to which disk? --to /dev/NAME").help(candidates()?));
        }
        let mut chosen: Vec<Device> = Vec::new();
        for path in &self.devices {
            let device = Device::at(path)?;
            device.require_usable(image_size(), &self.named)?;
            if chosen.iter().all(|other| other.path != device.path) {
                chosen.push(device);
            }
        }
        if !self.yes {
            chosen.iter().try_for_each(|device| confirm(device, progress))?;
        }
        Ok(chosen)
    }
}

/// A line for each removable disk and each of the things on it.
///
/// # Errors
/// A failure when lsblk does not answer.
pub fn candidates() -> Result<String> {
    let removable = removable()?;
    if removable.is_empty() {
        return Ok("no removable disk is plugged in".to_owned());
    }
    let lines = removable.iter().flat_map(|device| {
        std::iter::once(device.title()).chain(device.contents().into_iter().map(|line| format!("    {line}")))
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn confirm(device: &Device, progress: &Progress) -> Result<()> {
    let contents = device.contents();
    if contents.is_empty() {
        return Ok(());
    }
    let held = contents.join("; ");
    if !std::io::stdin().is_terminal() {
        let problem = Problem::new(format!("{}: it holds {held}", device.title()));
        return Err(problem.help("if all of it may go: --yes").into());
    }
    let answer = progress.suspend(|| {
        let mut output = std::io::stderr();
        write!(output, "{}\n  holds {held}\nAll of it will be lost. Type {} to go on: ", device.title(), device.name)?;
        output.flush()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    match answer {
        Ok(line) if line.trim() == device.name => Ok(()),
        Ok(_) => Err(Error::bad_input(format!("{} is left as it is", device.path.display()))),
        Err(error) => Err(Error::because("cannot ask", error)),
    }
}

/// Burns all of them at the same time. One that fails does not keep the others.
///
/// # Errors
/// The first failure; the others are warned of.
pub fn burn(context: &Context, request: &BurnRequest, now: OffsetDateTime) -> Result<()> {
    let files = request.seed.as_ref().map(|seed| seed.files(now)).transpose()?;
    if let (Some(seed), false) = (&request.seed, request.image.is_compressed) {
        seed.require_image(&request.image.path)?;
    }
    let outcomes: Vec<Result<()>> = thread::scope(|scope| {
        let burning: Vec<_> = request
            .devices
            .iter()
            .map(|device| scope.spawn(|| burn_one(&context.progress, request, device, files.as_ref())))
            .collect();
        burning
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut failures = outcomes.into_iter().filter_map(Result::err);
    let Some(first) = failures.next() else { return Ok(()) };
    failures.for_each(|other| context.progress.warn(&other.to_string()));
    Err(first)
}

fn burn_one(progress: &Progress, request: &BurnRequest, device: &Device, seed: Option<&seed::Files>) -> Result<()> {
    let mut medium = Medium::open(&device.path, device.size)?;
    medium.mark_unusable()?;
    let task = progress.task(&format!("writing {}", device.path.display()), image_size(), Unit::Bytes);
    medium.write(&request.image, |offset| task.set(offset))?;
    task.done();
    let task = progress.task(&format!("reading {}", device.path.display()), image_size(), Unit::Bytes);
    medium.compare(&request.image, |offset| task.set(offset))?;
    task.done();
    if let (Some(of), Some(files)) = (&request.seed, seed) {
        of.put(medium.seed(), files, &device.path)?;
    }
    medium.finish(&request.image)
}
