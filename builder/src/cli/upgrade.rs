//! `imgbuild upgrade`: a new image for a whole cluster.

use super::cluster::{MachineAddresses, life, name_or_default};
use super::{print, print_json};
use crate::cluster::{DEFAULT, Definition};
use crate::error::{Error, Result};
use crate::release::Bundle;
use crate::request::Context;
use crate::roll::{Roll, plan};
use clap::Args;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use time::Duration;

#[derive(Args)]
pub(super) struct UpgradeArguments {
    /// Made by `imgbuild bundle`; one for each role
    #[arg(required = true)]
    bundle: Vec<PathBuf>,
    // clap hands an option of the same name to `build` otherwise.
    /// Cluster to roll through
    #[arg(id = "upgrade-cluster", short = 'c', long = "cluster", value_name = "NAME", default_value = DEFAULT)]
    cluster: String,
    /// Machines fetch what they lack from the `imgbuild serve` there, not from here
    #[arg(long, value_name = "IP:PORT")]
    from: Option<SocketAddrV4>,
    /// Show the plan and do nothing
    #[arg(long)]
    plan: bool,
    /// These machines alone, and the rest another time; give it once for each
    #[arg(long, value_name = "MACHINE")]
    canary: Vec<String>,
    /// Wait so long between two machines
    #[arg(long, value_name = "5m|1h", value_parser = life)]
    pause: Option<Duration>,
    /// For the pods of a machine to go elsewhere
    #[arg(long, value_name = "10m|1h", value_parser = life, default_value = "10m")]
    drain: Duration,
    /// Nodes that go at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    nodes_at_once: u16,
    #[command(flatten)]
    addresses: MachineAddresses,
}

pub(super) fn execute(context: &Context, arguments: &UpgradeArguments) -> Result<()> {
    let bundles: Vec<Bundle> = arguments.bundle.iter().map(|path| Bundle::open(path)).collect::<Result<_>>()?;
    let definition = Definition::of_name(&context.project, &name_or_default(Some(&arguments.cluster))?)?;
    let roll = Roll {
        definition: &definition,
        addresses: &arguments.addresses.address,
        bundles: &bundles,
        from: arguments.from,
        progress: &context.progress,
        holder: holder(),
        drain_limit: arguments.drain.unsigned_abs(),
        pause: arguments.pause.unwrap_or(Duration::ZERO).unsigned_abs(),
        nodes_at_once: usize::from(arguments.nodes_at_once),
    };
    let manifests: Vec<_> = bundles.iter().map(|bundle| &bundle.manifest).collect();
    let survey = roll.look()?;
    // It asks for the lock, and a plan alone writes nothing.
    if !arguments.plan && !survey.troubles.is_empty() {
        roll.beside_no_other()?;
    }
    let plan = plan(&survey, &manifests, &arguments.canary)?;
    if context.json {
        let value = serde_json::to_value(&plan).map_err(|error| Error::because("the plan cannot be shown", error))?;
        print_json(&value)?;
    } else {
        print(&plan.text())?;
    }
    if arguments.plan || plan.steps.is_empty() {
        return Ok(());
    }
    roll.run(&plan)
}

/// This command, among all that may run.
fn holder() -> String {
    let host = rustix::system::uname();
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    format!("{user}@{}-{}", host.nodename().to_string_lossy(), std::process::id())
}
