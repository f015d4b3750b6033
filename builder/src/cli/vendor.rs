//! `imgbuild vendor DIR`: a folder that serves as mirror and module proxy.

use super::ProfileArguments;
use crate::error::Result;
use crate::request::Context;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct VendorArguments {
    #[command(flatten)]
    profile: ProfileArguments,
    /// Folder to write; what it holds already is kept
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn execute(context: &Context, arguments: &VendorArguments) -> Result<()> {
    crate::pipeline::vendor(context, &arguments.profile.load(context)?, &arguments.folder)
}
