//! `imgbuild cluster`: definitions, and the clusters that came of them.

mod form;
mod masters;
mod pending;
mod rotate;
mod status;

use super::{print, print_json};
use crate::cluster::{
    Access, DEFAULT, Definition, NewCluster, SeedOf, create, is_label, schema, user_kubeconfig, write_kubeconfig,
    write_seed,
};
use crate::error::{Error, Result};
use crate::request::Context;
use crate::scratch::write_file;
use clap::{Args, Subcommand};
use spec::cluster::Role;
use std::fmt::Write;
use std::path::PathBuf;
use time::{Duration, OffsetDateTime};

pub(super) use masters::{MachineAddresses, masters};

#[derive(Subcommand)]
pub(super) enum ClusterCommand {
    /// Make a definition and its secrets: clusters/NAME
    New {
        /// A DNS label
        name: String,
        /// Number of masters, named master-1 and so on
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        masters: u8,
        /// A master with its static address; give it once for each
        #[arg(long, value_name = "NAME=ADDRESS/PREFIX", conflicts_with = "masters")]
        master: Vec<String>,
    },
    /// Check a definition and its secrets: every conflict at once
    Check {
        #[arg(default_value = DEFAULT)]
        name: String,
    },
    /// Show a definition: networks, machines, how long the certificates last
    Show {
        #[arg(default_value = DEFAULT)]
        name: String,
    },
    /// Print the JSON schema of cluster.toml
    Schema,
    /// Write the seed of one machine into an image that is built already
    Seed {
        #[arg(default_value = DEFAULT)]
        name: String,
        /// Machine of the definition that the image is for
        #[arg(long, value_name = "NAME")]
        machine: String,
        /// disk.img of a build with the machine's role, or a stick with it
        #[arg(long, value_name = "FILE")]
        image: PathBuf,
        /// A master's seed carries the authorities' keys although its cluster is there: for when no other
        /// master is left to hand them over
        #[arg(long)]
        with_keys: bool,
    },
    /// Issue the operator's certificate anew, into admin.kubeconfig, or one for another user
    Kubeconfig(KubeconfigArguments),
    /// Every machine and etcd on one screen; exit status 1 when something is not well
    Status(status::StatusArguments),
    /// Whether all is well, or wait until it is
    Health(status::HealthArguments),
    /// Nodes that the definition does not list, and that wait for an operator
    Pending(pending::PendingArguments),
    /// Let such a node join
    Approve(pending::ApproveArguments),
    /// Take back what lets machines join: seeds that were written until now let none in any more
    Rotate(rotate::RotateArguments),
    /// Let the masters form without some that are off or lost, or although there was a cluster
    Form(form::FormArguments),
}

#[derive(Args)]
pub(super) struct KubeconfigArguments {
    #[arg(default_value = DEFAULT)]
    name: String,
    /// URL of the API [default: from the definition]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Issue a certificate for this user, and leave admin.kubeconfig as it is
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Group of the user
    #[arg(long, value_name = "NAME", requires = "user")]
    group: Option<String>,
    /// How long it is valid: minutes, hours or days, at most 30d
    #[arg(long = "for", value_name = "30m|8h|7d", requires = "user", default_value = "8h", value_parser = life)]
    life: Duration,
    /// File to write, readable by nobody else [default: standard output]
    #[arg(long, value_name = "FILE", requires = "user")]
    out: Option<PathBuf>,
}

/// A number of minutes, hours or days.
pub(super) fn life(text: &str) -> std::result::Result<Duration, String> {
    let wanted = || "a number and m, h or d are wanted, such as 30m, 8h or 7d".to_owned();
    let unit = match text.chars().last() {
        Some('m') => Duration::MINUTE,
        Some('h') => Duration::HOUR,
        Some('d') => Duration::DAY,
        _ => return Err(wanted()),
    };
    let number = &text[..text.len() - 1];
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wanted());
    }
    number.parse::<u16>().map(|number| unit * number).map_err(|_| format!("{number} is too much"))
}

/// The name of a cluster, `default` when none is given.
pub(super) fn name_or_default(name: Option<&str>) -> Result<String> {
    match name {
        None => Ok(DEFAULT.to_owned()),
        Some(name) if is_label(name) => Ok(name.to_owned()),
        Some(name) => Err(Error::bad_input(format!("{name:?} is no name of a cluster"))
            .help("the name of a folder below clusters/ is wanted: lower-case letters, digits and -")),
    }
}

pub(super) fn execute(context: &Context, command: &ClusterCommand) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let read = |name: &str| name_or_default(Some(name)).and_then(|name| Definition::of_name(&context.project, &name));
    match command {
        ClusterCommand::New { name, masters, master } => {
            let new = match master.is_empty() {
                true => NewCluster::of_count(name, usize::from(*masters)),
                false => NewCluster::of_masters(name, master)?,
            };
            let folder = create(&context.project, &new, now)?;
            print(&created(context, &new, &context.project.display(&folder)))
        }
        ClusterCommand::Check { name } => check(context, &read(name)?, now),
        ClusterCommand::Show { name } => show(context, &read(name)?),
        ClusterCommand::Schema => print_json(&schema()),
        ClusterCommand::Seed { name, machine, image, with_keys } => {
            let definition = read(name)?;
            definition.require_sound(context, now)?;
            write_seed(&SeedOf { definition, machine: machine.clone(), with_keys: *with_keys }, image, now)?;
            print(&format!("{} is the image of {machine}\n", image.display()))
        }
        ClusterCommand::Kubeconfig(arguments) => kubeconfig(context, arguments, &read(&arguments.name)?, now),
        ClusterCommand::Status(arguments) => status::status(context, &read(&arguments.name)?, arguments),
        ClusterCommand::Health(arguments) => status::health(context, &read(&arguments.name)?, arguments),
        ClusterCommand::Pending(arguments) => pending::list(context, &read(&arguments.name)?, arguments),
        ClusterCommand::Approve(arguments) => pending::approve(context, &read(&arguments.name)?, arguments),
        ClusterCommand::Rotate(arguments) => rotate::execute(context, &read(&arguments.name)?, arguments),
        ClusterCommand::Form(arguments) => form::execute(context, &read(&arguments.name)?, arguments),
    }
}

fn created(context: &Context, new: &NewCluster, folder: &str) -> String {
    if context.json {
        return format!("{}\n", serde_json::json!({ "cluster": new.name, "folder": folder }));
    }
    let unfinished = new.masters.len() > 1 && new.masters.iter().all(|master| master.address.is_none());
    let next = match unfinished {
        true => format!(
            "The masters still need addresses: write them into {folder}/cluster.toml, then: imgbuild cluster check {}",
            new.name
        ),
        false => format!("Build an image for it: imgbuild --profile master --cluster {}", new.name),
    };
    format!("{folder} holds the definition and the cluster's secrets: keep a copy, show it to nobody.\n{next}\n")
}

fn kubeconfig(
    context: &Context,
    arguments: &KubeconfigArguments,
    definition: &Definition,
    now: OffsetDateTime,
) -> Result<()> {
    let KubeconfigArguments { server, user, group, life, out, .. } = arguments;
    let Some(user) = user else {
        let path = write_kubeconfig(definition, server.as_deref(), now)?;
        return print(&format!("{}\n", context.project.display(&path)));
    };
    let access = Access { user, group: group.as_deref(), life: *life, server: server.as_deref() };
    let text = user_kubeconfig(definition, &access, now)?;
    let Some(out) = out else { return print(&text) };
    write_file(out, text.as_bytes(), 0o600).map_err(|error| Error::io("write", out, error))?;
    print(&format!("{}\n", out.display()))
}

fn check(context: &Context, definition: &Definition, now: OffsetDateTime) -> Result<()> {
    definition.require_sound(context, now)?;
    let machines = definition.cluster.machines.len();
    let noun = if machines == 1 { "machine" } else { "machines" };
    match context.json {
        true => {
            print_json(&serde_json::json!({ "cluster": definition.cluster.name, "machines": machines, "sound": true }))
        }
        false => print(&format!("{} is sound: {machines} {noun}\n", definition.source.name)),
    }
}

fn show(context: &Context, definition: &Definition) -> Result<()> {
    let cluster = &definition.cluster;
    if context.json {
        let document =
            serde_json::to_value(cluster).map_err(|error| Error::because("the definition cannot be shown", error))?;
        return print_json(&document);
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "cluster   {}\npods      {}\nservices  {}\n",
        cluster.name, cluster.pod_cidr, cluster.service_cidr
    );
    let _ = writeln!(text, "{:<20} {:<7} {:<20} FOUND BY", "MACHINE", "ROLE", "ADDRESS");
    for machine in &cluster.machines {
        let found = match (&machine.mac, &machine.serial) {
            (Some(mac), _) => format!("MAC {mac}"),
            (None, Some(serial)) => format!("serial {serial}"),
            (None, None) => "role".to_owned(),
        };
        let address = machine.network.address.as_deref().unwrap_or("DHCP");
        let _ = writeln!(text, "{:<20} {:<7} {address:<20} {found}", machine.name, machine.role.name());
    }
    if let Some(any) = &cluster.any_node {
        let name = format!("{}*", any.prefix);
        let _ = writeln!(text, "{name:<20} {:<7} {:<20} an operator's word", Role::Node.name(), "DHCP");
    }
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_number_and_a_unit() {
        assert_eq!(life("30m"), Ok(Duration::minutes(30)));
        assert_eq!(life("8h"), Ok(Duration::hours(8)));
        assert_eq!(life("7d"), Ok(Duration::days(7)));
        for text in ["", "8", "h", "+8h", "-1h", "8 h", "1.5h", "8s", "8ä", "99999d"] {
            assert!(life(text).is_err(), "{text:?}");
        }
    }
}
