//! `imgbuild cluster rotate`: join credentials are taken back. Every seed gets one of its own when it is written,
//! so that there is nothing to make anew.

use super::masters::{MachineAddresses, masters, show_accepted};
use crate::cluster::{DEFAULT, Definition};
use crate::error::Result;
use crate::node::Client;
use crate::request::Context;
use clap::Args;
use spec::agent::{Accepted, organization, path};

#[derive(Args)]
pub(in crate::cli) struct RotateArguments {
    #[arg(default_value = DEFAULT)]
    pub(super) name: String,
    /// What to take back: machines that have joined already stay
    #[arg(long, required = true)]
    join_credentials: bool,
    #[command(flatten)]
    addresses: MachineAddresses,
}

pub(super) fn execute(context: &Context, definition: &Definition, arguments: &RotateArguments) -> Result<()> {
    let ask = |client: &Client| client.post::<_, Accepted>(path::JOIN_VOID, &serde_json::json!({}));
    let accepted = arguments.addresses.ask_first(definition, &masters(definition), organization::ADMIN, ask)?;
    show_accepted(context, accepted)
}
