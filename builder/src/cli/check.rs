//! `imgbuild check`.

use super::ProfileArguments;
use crate::error::Result;
use crate::request::Context;
use clap::Args;

#[derive(Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    profiles: ProfileArguments,
    /// Cluster definition below clusters/ [default: default]
    #[arg(short, long, value_name = "NAME")]
    cluster: Option<String>,
    /// Machine of the definition that the image would be for [default: each of the profile's role]
    #[arg(short, long, value_name = "NAME")]
    machine: Option<String>,
}

pub(super) fn execute(context: &Context, arguments: &CheckArguments) -> Result<()> {
    let profile = arguments.profiles.load(context)?;
    let cluster = super::cluster::name_or_default(arguments.cluster.as_deref())?;
    crate::pipeline::check(context, &profile, &cluster, arguments.machine.as_deref())?;
    context.progress.note(&format!("{} for the cluster {cluster}: nothing is wrong", profile.name));
    Ok(())
}
