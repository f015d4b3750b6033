//! `imgbuild cluster status` and `health`: how the cluster is, now or until it is well.

use super::masters::MachineAddresses;
use crate::cli::node::print_document;
use crate::cli::print;
use crate::cluster::{DEFAULT, Definition};
use crate::error::{Error, Result};
use crate::node::{Caller, Survey, learn_cluster_id, screen, survey};
use crate::request::Context;
use clap::Args;
use spec::agent::organization;
use std::time::Instant;
use time::{Duration, OffsetDateTime};

/// Between two looks.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(2);
/// Troubles that an error names.
const NAMED: usize = 5;

#[derive(Args)]
pub(in crate::cli) struct StatusArguments {
    #[arg(default_value = DEFAULT)]
    pub(super) name: String,
    #[command(flatten)]
    addresses: MachineAddresses,
}

#[derive(Args)]
pub(in crate::cli) struct HealthArguments {
    #[arg(default_value = DEFAULT)]
    pub(super) name: String,
    /// How long to wait until all is well: minutes, hours or days
    #[arg(long, value_name = "10m|2h", value_parser = super::life)]
    wait: Option<Duration>,
    #[command(flatten)]
    addresses: MachineAddresses,
}

/// One screen; a failure when something on it is not well.
pub(super) fn status(context: &Context, definition: &Definition, arguments: &StatusArguments) -> Result<()> {
    let survey = look(context, definition, &arguments.addresses)?;
    match context.json {
        true => print_document(&survey)?,
        false => print(&screen(&survey))?,
    }
    match survey.troubles.len() {
        0 => Ok(()),
        1 => Err(Error::failure(format!("cluster {}: one thing is not well", survey.cluster))),
        count => Err(Error::failure(format!("cluster {}: {count} things are not well", survey.cluster))),
    }
}

/// Waits until all is well.
pub(super) fn health(context: &Context, definition: &Definition, arguments: &HealthArguments) -> Result<()> {
    let wait = arguments.wait.unwrap_or(Duration::ZERO).unsigned_abs();
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let survey = look(context, definition, &arguments.addresses)?;
        let Some(first) = survey.troubles.first() else { return tell(context, &survey) };
        if begun.elapsed() >= wait {
            return Err(unwell(&survey, wait));
        }
        if told != *first {
            told.clone_from(first);
            let more = survey.troubles.len() - 1;
            let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            context.progress.note(&format!("{first}{more}"));
        }
        std::thread::sleep(PAUSE);
    }
}

fn look(context: &Context, definition: &Definition, addresses: &MachineAddresses) -> Result<Survey> {
    // A certificate lives for an hour, a wait perhaps longer.
    let now = OffsetDateTime::now_utc();
    let caller = Caller::of(definition, organization::READER, now)?;
    let mut survey = survey(definition, &addresses.address, &caller, now)?;
    if let Some(learnt) = learn_cluster_id(definition, &mut survey)? {
        context.progress.note(&learnt);
    }
    Ok(survey)
}

fn tell(context: &Context, survey: &Survey) -> Result<()> {
    if context.json {
        return print_document(survey);
    }
    let count = |number: usize, word: &str| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    let (machines, members) = (count(survey.machines.len(), "machine"), count(survey.etcd.len(), "member"));
    print(&format!("cluster {} is well: {machines} Ready, etcd of {members} healthy\n", survey.cluster))
}

fn unwell(survey: &Survey, waited: std::time::Duration) -> Error {
    let named: Vec<&str> = survey.troubles.iter().take(NAMED).map(String::as_str).collect();
    let after = if waited.is_zero() { String::new() } else { format!(" after {} s", waited.as_secs()) };
    Error::failure(format!("cluster {} is not well{after}: {}", survey.cluster, named.join("; ")))
        .help(format!("all of it: imgbuild cluster status {}", survey.cluster))
}
