//! `imgbuild run IMAGE`: a virtual machine.

use crate::error::{Error, Result};
use crate::request::{Context, RunRequest};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct RunArguments {
    /// Disk image, as built: out/NAME/disk.img
    image: PathBuf,
    /// Memory in MiB
    #[arg(short, long, value_name = "MIB", default_value_t = 3072, value_parser = clap::value_parser!(u32).range(512..))]
    memory: u32,
    /// Processors; more than one under emulation has crashed guests
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Show the serial console instead of the progress view
    #[arg(long)]
    console: bool,
    /// Size of the machine's disk, such as 16G
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = parse_size)]
    disk_size: u64,
    /// Keep the machine's disk in this folder, and go on from it the next time
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Cluster that the image was built for [default: default]
    #[arg(short, long, value_name = "NAME")]
    cluster: Option<String>,
}

pub(super) fn execute(context: Context, arguments: &RunArguments) -> Result<()> {
    if !arguments.image.is_file() {
        return Err(Error::bad_input(format!("no disk image {}", arguments.image.display()))
            .help("build one: imgbuild --profile master"));
    }
    crate::run::run(&RunRequest {
        context,
        image: arguments.image.clone(),
        memory: arguments.memory,
        cpus: arguments.cpus,
        console: arguments.console,
        disk_size: arguments.disk_size,
        keep: arguments.keep.clone(),
        cluster: super::cluster::name_or_default(arguments.cluster.as_deref())?,
    })
}

/// Bytes of `512M`, `16G`, `1T` or a plain number; the letters are powers of 1024.
fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'M') => (&text[..text.len() - 1], 1u64 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        Some(b'T') => (&text[..text.len() - 1], 1 << 40),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "a number of bytes is wanted, or with M, G or T behind it, such as 16G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(parse_size("16G"), Ok(16 << 30));
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        for text in ["", "G", "0", "-1G", "16g", "1.5G", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }
}
