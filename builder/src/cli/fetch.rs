//! `imgbuild fetch`: fills the cache.

use super::ProfileArguments;
use crate::error::Result;
use crate::request::Context;
use clap::Args;

#[derive(Args)]
pub(super) struct FetchArguments {
    #[command(flatten)]
    profile: ProfileArguments,
}

pub(super) fn execute(context: &Context, arguments: &FetchArguments) -> Result<()> {
    crate::pipeline::fetch(context, &arguments.profile.load(context)?)
}
