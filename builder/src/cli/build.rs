//! `imgbuild --profile NAME`, `imgbuild build`.

use super::burn::Consent;
use crate::burn::{BurnRequest, Image};
use crate::error::{Error, Result};
use crate::profile::Profile;
use crate::request::{BuildRequest, Context};
use clap::Args;
use std::path::PathBuf;
use time::OffsetDateTime;

#[derive(Args)]
#[command(next_help_heading = "Options of build")]
pub(super) struct BuildArguments {
    /// Profile of the project, or path of a TOML file of your own; several combine, later ones win
    #[arg(short, long = "profile", value_name = "NAME|FILE")]
    pub(super) profile: Vec<String>,
    /// Folder of the artifacts [default: out/ and the profiles' names joined by -]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Cluster definition below clusters/ [default: default]
    #[arg(short, long, value_name = "NAME")]
    cluster: Option<String>,
    /// Machine of the cluster definition that the image is for [default: a master is found by MAC or serial at boot, a node is the only one]
    #[arg(short, long, value_name = "NAME")]
    machine: Option<String>,
    /// Then write the image to this stick; several are written at the same time
    #[arg(long, value_name = "DEVICE")]
    burn: Vec<PathBuf>,
    #[command(flatten)]
    consent: Consent,
}

impl BuildArguments {
    pub(super) fn is_empty(&self) -> bool {
        let unnamed = self.profile.is_empty() && self.out.is_none() && self.cluster.is_none() && self.machine.is_none();
        unnamed && self.burn.is_empty() && !self.consent.is_given()
    }
}

pub(super) fn execute(context: Context, arguments: &BuildArguments) -> Result<()> {
    let profile = Profile::load(&context.project, &arguments.profile)?;
    let role = profile.role()?;
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => context.project.out(&profile.name),
    };
    let cluster = super::cluster::name_or_default(arguments.cluster.as_deref())?;
    crate::cluster::check_machine(&context, &cluster, arguments.machine.as_deref(), role)?;
    if arguments.burn.is_empty() {
        if arguments.consent.is_given() {
            return Err(Error::bad_input("which stick?").help("--burn /dev/NAME; imgbuild burn lists them"));
        }
        return build(&BuildRequest { context, profile, out, cluster, machine: arguments.machine.clone() });
    }
    // Before minutes of building, and again before anything is written.
    arguments.consent.choose(&context, &arguments.burn)?;
    let request = BuildRequest { context, profile, out, cluster, machine: arguments.machine.clone() };
    build(&request)?;
    let devices = arguments.consent.again(&request.context, &arguments.burn)?;
    let burning = BurnRequest { image: Image::find(&request.out)?, devices, seed: None };
    super::burn::write(&request.context, &burning, OffsetDateTime::now_utc())
}

fn build(request: &BuildRequest) -> Result<()> {
    tell(request);
    crate::pipeline::build(request)
}

/// With `-v` the folders and files of the build, with `-vv` every value too.
fn tell(request: &BuildRequest) {
    let BuildRequest { context, profile, out, cluster, .. } = request;
    if context.verbosity >= 1 {
        let files: Vec<&str> = profile.sources.iter().map(|source| source.name.as_str()).collect();
        context.progress.note(&format!(
            "project {}, cache {}",
            context.project.root.display(),
            context.project.cache.display()
        ));
        context.progress.note(&format!("profile {}: {}", profile.name, files.join(", ")));
        context.progress.note(&format!("cluster {cluster}, output {}", out.display()));
    }
    if context.verbosity >= 2 {
        for value in profile.values() {
            context.progress.note(&format!("{} = {}    # {}", value.path, value.value, value.origin));
        }
    }
}
