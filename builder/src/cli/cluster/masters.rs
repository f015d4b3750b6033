//! Asking the masters of a cluster: the first that answers speaks for all.

use crate::cli::node::print_document;
use crate::cli::print;
use crate::cluster::Definition;
use crate::error::{Error, Result};
use crate::node::{Caller, Client, MachineAddress, Trouble, parse_machine_address};
use crate::request::Context;
use clap::Args;
use spec::agent::Accepted;
use std::time::Duration;
use time::OffsetDateTime;

/// For one master's answer: it may ask the others first.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(in crate::cli) struct MachineAddresses {
    /// Where a machine is reached, instead of what the definition says; give it once for each
    #[arg(long, value_name = "NAME=IP[:PORT]", value_parser = parse_machine_address)]
    pub(in crate::cli) address: Vec<MachineAddress>,
}

/// Shows what a master has accepted.
pub(in crate::cli) fn show_accepted(context: &Context, (master, done): (String, Accepted)) -> Result<()> {
    match context.json {
        true => print_document(&done),
        false => print(&format!("{master}: {}\n", done.message)),
    }
}

/// The names of the masters.
pub(in crate::cli) fn masters(definition: &Definition) -> Vec<&str> {
    definition.cluster.masters().map(|machine| machine.name.as_str()).collect()
}

impl MachineAddresses {
    /// Asks these masters one after the other until one answers, and gives its name with the answer. A
    /// refusal ends it: the next one would not know better.
    pub(in crate::cli) fn ask_first<A>(
        &self,
        definition: &Definition,
        masters: &[&str],
        organization: &str,
        ask: impl Fn(&Client) -> std::result::Result<A, Trouble>,
    ) -> Result<(String, A)> {
        for given in &self.address {
            definition.machine(&given.name)?;
        }
        let caller = Caller::of(definition, organization, OffsetDateTime::now_utc())?;
        let mut silent = Vec::new();
        for name in masters {
            let given = self.address.iter().find(|given| given.name == *name).map(|given| given.address);
            let client = match definition.agent_address(name, given) {
                Ok(address) => Client::new(&caller, name, address, LIMIT),
                Err(_) => {
                    silent.push(format!("{name} gets its address by DHCP (--address {name}=IP)"));
                    continue;
                }
            };
            match ask(&client) {
                Ok(answer) => return Ok((client.name().to_owned(), answer)),
                Err(trouble @ Trouble::Refused { code, .. }) if code != 503 => return Err(client.error(&trouble)),
                Err(trouble) => silent.push(format!("{name} {trouble}")),
            }
        }
        Err(Error::failure(format!("no master of {} answers", definition.cluster.name)).help(silent.join("\n")))
    }
}
