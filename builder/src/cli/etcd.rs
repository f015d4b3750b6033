//! `imgbuild etcd`: the cluster's etcd, by its masters.

use super::cluster::{MachineAddresses, name_or_default};
use super::node::print_document;
use super::print;
use crate::cluster::{DEFAULT, Definition};
use crate::error::Result;
use crate::node::text;
use crate::request::Context;
use clap::Subcommand;
use spec::agent::{EtcdMember, organization, path};

#[derive(Subcommand)]
pub(super) enum EtcdCommand {
    /// Members, their leader, who does not answer
    Members {
        #[arg(default_value = DEFAULT)]
        name: String,
        #[command(flatten)]
        addresses: MachineAddresses,
    },
}

pub(super) fn execute(context: &Context, command: &EtcdCommand) -> Result<()> {
    let EtcdCommand::Members { name, addresses } = command;
    let definition = Definition::of_name(&context.project, &name_or_default(Some(name))?)?;
    let masters = super::cluster::masters(&definition);
    let ask = |client: &crate::node::Client| client.get(path::ETCD_MEMBERS);
    let members: Vec<EtcdMember> = addresses.ask_first(&definition, &masters, organization::READER, ask)?.1;
    match context.json {
        true => print_document(&members),
        false => print(&text::etcd_members(&members)),
    }
}
