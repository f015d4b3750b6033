//! `imgbuild burn IMAGE --to DEVICE`, and the options of `--burn`.

use super::print;
use crate::burn::{BurnRequest, Device, Image, Targets, burn, candidates, removable};
use crate::cluster::{Definition, SeedOf};
use crate::error::{Error, Result};
use crate::request::Context;
use clap::Args;
use std::path::PathBuf;
use time::OffsetDateTime;

#[derive(Args)]
pub(super) struct BurnArguments {
    /// Image as built: out/NAME, its disk.img or its disk.img.zst; without it the disks that can be pulled out are listed
    image: Option<PathBuf>,
    /// Disk to write to, such as /dev/sdb; several are written at the same time
    #[arg(long = "to", value_name = "DEVICE", requires = "image")]
    to: Vec<PathBuf>,
    #[command(flatten)]
    consent: Consent,
    /// Machine of the cluster definition that the stick is for [default: the image's]
    #[arg(short, long, value_name = "NAME", requires = "image")]
    machine: Option<String>,
    /// Cluster definition of that machine [default: default]
    #[arg(short, long, value_name = "NAME", requires = "machine")]
    cluster: Option<String>,
}

/// What may be overwritten.
#[derive(Args)]
pub(super) struct Consent {
    /// Write to a disk that is not removable, named by its serial number
    #[arg(long, value_name = "SERIAL")]
    yes_this_disk: Vec<String>,
    /// Overwrite what is on the disks without asking
    #[arg(short, long)]
    yes: bool,
}

impl Consent {
    pub(super) fn is_given(&self) -> bool {
        self.yes || !self.yes_this_disk.is_empty()
    }

    /// The disks at these paths, once whoever sits there has agreed.
    pub(super) fn choose(&self, context: &Context, devices: &[PathBuf]) -> Result<Vec<Device>> {
        self.targets(devices, self.yes).choose(&context.progress)
    }

    /// The same a while later, without asking a second time.
    pub(super) fn again(&self, context: &Context, devices: &[PathBuf]) -> Result<Vec<Device>> {
        self.targets(devices, true).choose(&context.progress)
    }

    fn targets(&self, devices: &[PathBuf], yes: bool) -> Targets {
        Targets { devices: devices.to_vec(), named: self.yes_this_disk.clone(), yes }
    }
}

pub(super) fn execute(context: &Context, arguments: &BurnArguments) -> Result<()> {
    let Some(path) = &arguments.image else {
        if arguments.consent.is_given() {
            return Err(Error::bad_input("which image?").help("imgbuild burn IMAGE --to DEVICE"));
        }
        return list(context);
    };
    let now = OffsetDateTime::now_utc();
    let image = Image::find(path)?;
    let seed = arguments.machine.as_ref().map(|machine| seed_of(context, arguments, machine, now)).transpose()?;
    let devices = arguments.consent.choose(context, &arguments.to)?;
    write(context, &BurnRequest { image, devices, seed }, now)
}

/// Writes, and says what to do with the sticks.
pub(super) fn write(context: &Context, request: &BurnRequest, now: OffsetDateTime) -> Result<()> {
    burn(context, request, now)?;
    if context.json {
        return Ok(());
    }
    let sticks = request.devices.iter().map(|device| device.path.display().to_string());
    print(&format!("{} can be pulled out and booted\n", sticks.collect::<Vec<_>>().join(", ")))
}

fn seed_of(context: &Context, arguments: &BurnArguments, machine: &str, now: OffsetDateTime) -> Result<SeedOf> {
    let cluster = super::cluster::name_or_default(arguments.cluster.as_deref())?;
    let definition = Definition::of_name(&context.project, &cluster)?;
    definition.require_sound(context, now)?;
    Ok(SeedOf { definition, machine: machine.to_owned(), with_keys: false })
}

fn list(context: &Context) -> Result<()> {
    if context.json {
        let found: Vec<_> = removable()?.iter().map(Device::to_json).collect();
        return super::print_json(&found.into());
    }
    print(&format!("{}\n", candidates()?))
}
