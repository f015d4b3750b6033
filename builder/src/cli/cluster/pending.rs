//! `imgbuild cluster pending` and `approve`: nodes that the definition does not list.

use super::masters::{MachineAddresses, masters, show_accepted};
use crate::cli::node::print_document;
use crate::cli::print;
use crate::cluster::{DEFAULT, Definition};
use crate::error::Result;
use crate::node::{Client, text};
use crate::request::Context;
use clap::Args;
use spec::agent::{Accepted, ApproveRequest, PendingMachine, organization, path};

#[derive(Args)]
pub(in crate::cli) struct PendingArguments {
    #[arg(default_value = DEFAULT)]
    pub(super) name: String,
    #[command(flatten)]
    addresses: MachineAddresses,
}

#[derive(Args)]
pub(in crate::cli) struct ApproveArguments {
    /// Cluster
    pub(super) name: String,
    /// As the machine calls itself
    machine: String,
    /// Its key, as it stands on the machine's console
    key: String,
    #[command(flatten)]
    addresses: MachineAddresses,
}

pub(super) fn list(context: &Context, definition: &Definition, arguments: &PendingArguments) -> Result<()> {
    let ask = |client: &Client| client.get::<Vec<PendingMachine>>(path::PENDING);
    let (_, machines) = arguments.addresses.ask_first(definition, &masters(definition), organization::READER, ask)?;
    match context.json {
        true => print_document(&machines),
        false => print(&text::pending(&machines)),
    }
}

pub(super) fn approve(context: &Context, definition: &Definition, arguments: &ApproveArguments) -> Result<()> {
    let request = ApproveRequest { name: arguments.machine.clone(), key: arguments.key.clone() };
    let ask = |client: &Client| client.post::<_, Accepted>(path::APPROVE, &request);
    let accepted = arguments.addresses.ask_first(definition, &masters(definition), organization::OPERATOR, ask)?;
    show_accepted(context, accepted)
}
