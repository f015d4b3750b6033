//! `imgbuild explain`: values with their origins, and where the bytes are.

use super::{ProfileArguments, print, print_json};
use crate::error::{Error, Result};
use crate::explain::{explain, sizes, sizes_text};
use crate::request::Context;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct ExplainArguments {
    #[command(flatten)]
    profile: ProfileArguments,
    /// Show where the bytes of the last build are: by package, folder and component
    #[arg(long)]
    sizes: bool,
    /// Folder of that build [default: out/ and the profiles' names]
    #[arg(short, long, value_name = "DIR", requires = "sizes")]
    out: Option<PathBuf>,
}

pub(super) fn execute(context: &Context, arguments: &ExplainArguments) -> Result<()> {
    let profile = arguments.profile.load(context)?;
    if arguments.sizes {
        let out = arguments.out.clone().unwrap_or_else(|| context.project.out(&profile.name));
        let manifest = out.join("manifest.json");
        let sizes = sizes(&manifest, &context.project.display(&manifest))?;
        return match context.json {
            true => print_json(&serde_json::json!(sizes)),
            false => print(&sizes_text(&sizes)),
        };
    }
    let explanation = explain(&profile, &context.project)?;
    match context.json {
        true => {
            let document = serde_json::to_value(&explanation);
            print_json(&document.map_err(|error| Error::because("the profile cannot be shown", error))?)
        }
        false => print(&explanation.text()),
    }
}
