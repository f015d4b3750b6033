//! `imgbuild power NAME`: a machine's BMC.

use super::cluster::name_or_default;
use super::{print, print_json};
use crate::bmc::{Boot, Order, System};
use crate::cluster::{DEFAULT, Definition};
use crate::error::{Error, Result};
use crate::request::Context;
use clap::{Args, ValueEnum};

#[derive(Args)]
pub(super) struct PowerArguments {
    /// Machines of the definition
    #[arg(required = true, value_name = "MACHINE")]
    machine: Vec<String>,
    /// Cluster of the machines
    // clap hands an option of the same name to `build` otherwise.
    #[arg(id = "power-cluster", short = 'c', long = "cluster", value_name = "NAME", default_value = DEFAULT)]
    cluster: String,
    /// Switch them [default: say how they are]
    #[arg(long, value_name = "HOW")]
    turn: Option<Turn>,
    /// Start from the network the next time, and only then
    #[arg(long)]
    boot_network: bool,
    /// Start the next time from this image, which the BMC fetches and shows as a CD
    #[arg(long, value_name = "URL", conflicts_with = "boot_network")]
    boot_media: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Turn {
    On,
    /// As by the power button
    Off,
    /// At once
    ForceOff,
    /// Off at once, and on
    Cycle,
}

impl Turn {
    fn order(self) -> Order {
        match self {
            Turn::On => Order::On,
            Turn::Off => Order::Off,
            Turn::ForceOff => Order::ForceOff,
            Turn::Cycle => Order::Cycle,
        }
    }
}

pub(super) fn execute(context: &Context, arguments: &PowerArguments) -> Result<()> {
    let definition = Definition::of_name(&context.project, &name_or_default(Some(&arguments.cluster))?)?;
    let boot = match (&arguments.boot_media, arguments.boot_network) {
        (Some(url), _) => Some(Boot::Media(url.clone())),
        (None, true) => Some(Boot::Network),
        (None, false) => None,
    };
    // All together: a rack's machines come up at once. None waits for another.
    let one = |name: &String| -> Result<String> {
        let mut system = System::find(&definition, name)?;
        if let Some(boot) = &boot {
            system.boot_once(boot)?;
        }
        if let Some(turn) = arguments.turn {
            system.order(turn.order())?;
        }
        Ok(system.power().to_owned())
    };
    let outcomes: Vec<Result<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = arguments.machine.iter().map(|name| scope.spawn(move || one(name))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<String>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let mut first = None;
    let mut shown = serde_json::Map::new();
    for (name, outcome) in arguments.machine.iter().zip(outcomes) {
        match outcome {
            Ok(power) if context.json => drop(shown.insert(name.clone(), power.into())),
            Ok(power) => print(&format!("{name}: {power}\n"))?,
            Err(error) if first.is_none() => first = Some(error),
            Err(error) => context.progress.warn(&format!("{name}: {error}")),
        }
    }
    if context.json {
        print_json(&shown.into())?;
    }
    first.map_or(Ok(()), |error: Error| Err(error))
}
