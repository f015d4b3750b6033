//! `imgbuild cluster form`: what an operator may decide about forming and no machine may.

use super::masters::{MachineAddresses, masters};
use crate::cli::node::print_document;
use crate::cli::print;
use crate::cluster::{DEFAULT, Definition, is_cluster_id};
use crate::error::{Error, Result};
use crate::request::Context;
use clap::Args;
use spec::agent::{NewCluster, OrderAnswer, OrderRequest, organization, path};
use std::collections::BTreeSet;

/// Stands among the ids for damaged data of which nobody knows whose it is.
const UNKNOWN: &str = "unknown";

#[derive(Args)]
pub(in crate::cli) struct FormArguments {
    #[arg(default_value = DEFAULT)]
    pub(super) name: String,
    /// Master that is off or lost, to go on without; give it once for each
    #[arg(long, value_name = "MACHINE", required_unless_present = "new")]
    without: Vec<String>,
    /// Clusters or formings whose data is given up, as the masters name them; `unknown`: damaged data
    #[arg(long, value_name = "ID", num_args = 1.., requires = "lost")]
    new: Vec<String>,
    /// Nothing of the clusters that --new names can be had back
    #[arg(long = "i-lost-everything", requires = "new")]
    lost: bool,
    /// Master that takes the order [default: the first that answers]
    #[arg(long, value_name = "MACHINE")]
    via: Option<String>,
    #[command(flatten)]
    addresses: MachineAddresses,
}

pub(super) fn execute(context: &Context, definition: &Definition, arguments: &FormArguments) -> Result<()> {
    let request = request(definition, arguments)?;
    let via = via(definition, arguments)?;
    let order = |client: &crate::node::Client| client.post(path::ETCD_ORDER, &request);
    let (master, order): (String, OrderAnswer) =
        arguments.addresses.ask_first(definition, &via, organization::ADMIN, order)?;
    if let Some(note) = crate::node::forget_cluster_id(definition, arguments.new.iter())? {
        context.progress.note(&note);
    }
    if context.json {
        return print_document(&order);
    }
    let names = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let without = if order.without.is_empty() { String::new() } else { format!(" without {}", names(&order.without)) };
    let name = &definition.cluster.name;
    print(&format!(
        "{master} has the order: {} form{without}. Follow it: imgbuild cluster status {name}\n",
        names(&order.members)
    ))
}

fn request(definition: &Definition, arguments: &FormArguments) -> Result<OrderRequest> {
    for name in &arguments.without {
        require_master(definition, name)?;
    }
    if let Some(id) = arguments.new.iter().find(|id| !is_cluster_id(id)) {
        return Err(Error::bad_input(format!("--new {id:?} is no cluster's id"))
            .help("imgbuild cluster status shows what the masters wait for, with the ids that they know"));
    }
    let new = (!arguments.new.is_empty()).then(|| NewCluster {
        abandons: arguments.new.iter().filter(|id| *id != UNKNOWN).cloned().collect(),
        unknown: arguments.new.iter().any(|id| id == UNKNOWN),
        restore: None,
    });
    Ok(OrderRequest { without: arguments.without.iter().cloned().collect(), new })
}

/// The masters to ask, in this order.
fn via<'a>(definition: &'a Definition, arguments: &'a FormArguments) -> Result<Vec<&'a str>> {
    let without = |name: &str| arguments.without.iter().any(|without| without == name);
    match arguments.via.as_deref() {
        Some(via) if without(via) => {
            Err(Error::bad_input(format!("--via {via} is to take the order and to be left out of it"))
                .help("name a master that runs"))
        }
        Some(via) => require_master(definition, via).map(|()| vec![via]),
        None => Ok(masters(definition).into_iter().filter(|name| !without(name)).collect()),
    }
}

fn require_master(definition: &Definition, name: &str) -> Result<()> {
    let masters = masters(definition);
    match masters.contains(&name) {
        true => Ok(()),
        false => Err(Error::bad_input(format!("{name} is no master of the cluster {}", definition.cluster.name))
            .help(format!("its masters are {}", masters.join(", ")))),
    }
}
