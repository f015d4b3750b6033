//! `imgbuild man [DIR]`.

use super::{Cli, print};
use crate::error::{Error, Result};
use crate::scratch::write_file;
use clap::{Args, CommandFactory};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct ManArguments {
    /// Folder for a page of every command: imgbuild.1, imgbuild-build.1 and so on
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn execute(arguments: &ManArguments) -> Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &arguments.folder {
        None => print(&String::from_utf8_lossy(&page(command)?)),
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, error))?;
            write_pages(&command, "imgbuild", folder)
        }
    }
}

fn write_pages(command: &clap::Command, name: &str, folder: &Path) -> Result<()> {
    let path = folder.join(format!("{name}.1"));
    let content = page(command.clone())?;
    write_file(&path, &content, 0o644).map_err(|error| Error::io("write", &path, error))?;
    for child in command.get_subcommands() {
        write_pages(child, &format!("{name}-{}", child.get_name()), folder)?;
    }
    Ok(())
}

fn page(command: clap::Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut page);
    rendered.map(|()| page).map_err(|error| Error::because("the manual page cannot be made", error))
}
