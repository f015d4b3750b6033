//! `imgbuild completions SHELL`.

use super::{Cli, print};
use crate::error::Result;
use clap::{Args, CommandFactory};

#[derive(Args)]
pub(super) struct CompletionsArguments {
    shell: clap_complete::Shell,
}

pub(super) fn execute(arguments: &CompletionsArguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "imgbuild", &mut script);
    print(&String::from_utf8_lossy(&script))
}
