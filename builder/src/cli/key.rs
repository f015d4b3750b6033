//! `imgbuild key`: the key that bundles are signed with.

use super::print;
use crate::error::Result;
use crate::release::new_key;
use crate::request::Context;
use clap::Subcommand;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make keys/release.key and keys/release.pub: images built from now on take bundles signed with it
    New,
}

pub(super) fn execute(context: &Context, command: &KeyCommand) -> Result<()> {
    match command {
        KeyCommand::New => {
            let paths = new_key(&context.project)?;
            let display = |path| context.project.display(path);
            print(&format!(
                "{} signs bundles: keep it safe. {} goes into every image that is built from now on.\n",
                display(&paths.private),
                display(&paths.public)
            ))
        }
    }
}
