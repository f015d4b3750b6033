//! `imgbuild serve FOLDER...`: PXE.

use super::cluster::name_or_default;
use crate::cluster::{DEFAULT, Definition};
use crate::error::Result;
use crate::request::Context;
use crate::serve::{ServeRequest, serve};
use clap::Args;
use std::io::{BufReader, stdin};
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct ServeArguments {
    /// Folder of a build, such as out/node; one for each role
    #[arg(required = true, value_name = "FOLDER")]
    folder: Vec<PathBuf>,
    /// Cluster whose machines they are
    // clap hands an option of the same name to `build` otherwise.
    #[arg(id = "serve-cluster", short = 'c', long = "cluster", value_name = "NAME", default_value = DEFAULT)]
    cluster: String,
    /// Address or interface of this host that the machines are on [default: the only one]
    #[arg(long, value_name = "ADDRESS|INTERFACE")]
    on: Option<String>,
    /// Port of scripts and images
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// Port of seeds
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    seed_port: u16,
    /// Give a machine its seed by its MAC address or serial number alone, without an operator who types its key: on a
    /// network that nothing else is on
    #[arg(long)]
    trust_macs: bool,
    /// Install this machine once more, although it starts from its disk; give it once for each
    #[arg(long, value_name = "MACHINE")]
    install_again: Vec<String>,
}

pub(super) fn execute(context: &Context, arguments: &ServeArguments) -> Result<()> {
    let definition = Definition::of_name(&context.project, &name_or_default(Some(&arguments.cluster))?)?;
    let request = ServeRequest {
        context,
        definition,
        folders: arguments.folder.clone(),
        on: arguments.on.clone(),
        http_port: arguments.http_port,
        seed_port: arguments.seed_port,
        trust_macs: arguments.trust_macs,
        again: arguments.install_again.clone(),
    };
    serve(&request, Box::new(BufReader::new(stdin())), std::future::pending())
}
