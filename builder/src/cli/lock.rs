//! `imgbuild lock`: resolves packages and versions.

use super::ProfileArguments;
use crate::error::Result;
use crate::request::Context;
use clap::Args;

#[derive(Args)]
pub(super) struct LockArguments {
    #[command(flatten)]
    profile: ProfileArguments,
    /// Resolve anew although the lock fits the profile
    #[arg(short, long)]
    update: bool,
}

pub(super) fn execute(context: &Context, arguments: &LockArguments) -> Result<()> {
    crate::pipeline::lock(context, &arguments.profile.load(context)?, arguments.update)
}
