//! `imgbuild iso FOLDER --to FILE`: a CD image for a BMC's virtual media.

use super::cluster::name_or_default;
use super::{print, print_json};
use crate::cluster::{DEFAULT, Definition};
use crate::error::{Error, Result};
use crate::iso::{IsoRequest, write};
use crate::request::Context;
use clap::Args;
use indicatif::HumanBytes;
use std::path::PathBuf;
use time::OffsetDateTime;

#[derive(Args)]
pub(super) struct IsoArguments {
    /// Folder of a build, such as out/master
    build: PathBuf,
    /// File to write; it will hold the machine's secrets
    #[arg(long = "to", value_name = "FILE")]
    to: PathBuf,
    /// Cluster that the machine is of
    // clap hands an option of the same name to `build` otherwise.
    #[arg(id = "iso-cluster", short = 'c', long = "cluster", value_name = "NAME", default_value = DEFAULT)]
    cluster: String,
    /// Machine that it is for [default: whichever it fits]
    #[arg(id = "iso-machine", short = 'm', long = "machine", value_name = "NAME")]
    machine: Option<String>,
}

pub(super) fn execute(context: &Context, arguments: &IsoArguments) -> Result<()> {
    let request = IsoRequest {
        context,
        build: arguments.build.clone(),
        definition: Definition::of_name(&context.project, &name_or_default(Some(&arguments.cluster))?)?,
        machine: arguments.machine.clone(),
        target: arguments.to.clone(),
    };
    write(&request, OffsetDateTime::now_utc())?;
    let size = std::fs::metadata(&arguments.to).map_err(|error| Error::io("look at", &arguments.to, error))?.len();
    if context.json {
        return print_json(&serde_json::json!({ "iso": arguments.to, "size": size }));
    }
    print(&format!("{}: {}, with the machine's secrets\n", arguments.to.display(), HumanBytes(size)))
}
