//! `imgbuild bundle OUT`: a signed upgrade bundle of a build.

use super::{print, print_json};
use crate::error::Result;
use crate::release::{release_key, write};
use crate::request::Context;
use bundle::EXTENSION;
use clap::Args;
use indicatif::HumanBytes;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct BundleArguments {
    /// Folder of a build, such as out/master
    build: PathBuf,
    /// File to write [default: PROFILE.bundle in the build's folder]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Key to sign with, Ed25519 in PEM [default: keys/release.key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub(super) fn execute(context: &Context, arguments: &BundleArguments) -> Result<()> {
    let key = release_key(&context.project, arguments.key.as_deref())?;
    let name = arguments.build.file_name().unwrap_or_default().to_string_lossy();
    let target = arguments.out.clone().unwrap_or_else(|| arguments.build.join(format!("{name}.{EXTENSION}")));
    let manifest = write(&arguments.build, &key, &target)?;
    let size = manifest.size();
    let chunks: usize = manifest.files.values().map(|payload| payload.chunks.len()).sum();
    if context.json {
        return print_json(&serde_json::json!({
            "bundle": target, "profile": manifest.image.profile, "version": manifest.image.version,
            "size": size, "chunks": chunks,
        }));
    }
    print(&format!(
        "{}: {} {}, {} in {chunks} chunks\n",
        context.project.display(&target),
        manifest.image.profile,
        manifest.image.version,
        HumanBytes(size)
    ))
}
