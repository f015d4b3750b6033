//! `imgbuild etcd`: the cluster's etcd, by its masters.

use super::cluster::{MachineAddresses, masters, name_or_default};
use super::node::print_document;
use super::print;
use crate::cluster::{DEFAULT, Definition, is_cluster_id};
use crate::error::{Error, Result};
use crate::node::{Client, forget_cluster_id, text};
use crate::request::Context;
use clap::{Args, Subcommand};
use sha2::{Digest, Sha256};
use spec::agent::{Accepted, EtcdMember, NewCluster, OrderAnswer, OrderRequest, organization, path};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a snapshot that are sent at once.
const PIECE: usize = 128 * 1024;

#[derive(Subcommand)]
pub(super) enum EtcdCommand {
    /// Members, their leader, who does not answer
    Members {
        #[arg(default_value = DEFAULT)]
        name: String,
        #[command(flatten)]
        addresses: MachineAddresses,
    },
    /// Give free space of the databases back to the disks, one member after the other, the leader last
    Defrag {
        #[arg(default_value = DEFAULT)]
        name: String,
        #[command(flatten)]
        addresses: MachineAddresses,
    },
    /// Snapshots of all data
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Start the cluster anew from a snapshot, when its majority is lost
    Restore(RestoreArguments),
}

#[derive(Subcommand)]
pub(super) enum SnapshotCommand {
    /// Save one into a file, which must not exist
    Save {
        file: PathBuf,
        #[arg(long, value_name = "NAME", default_value = DEFAULT)]
        cluster: String,
        #[command(flatten)]
        addresses: MachineAddresses,
    },
}

#[derive(Args)]
pub(super) struct RestoreArguments {
    /// A snapshot, as `imgbuild etcd snapshot save` writes it
    file: PathBuf,
    #[arg(long, value_name = "NAME", default_value = DEFAULT)]
    cluster: String,
    /// Cluster whose data, as far as any is left on the masters, is given up for the snapshot's; give it
    /// once for each that `imgbuild cluster status` shows
    #[arg(long, value_name = "ID", required = true)]
    gives_up: Vec<String>,
    /// Master that is off or lost, to go on without; give it once for each
    #[arg(long, value_name = "MACHINE")]
    without: Vec<String>,
    #[command(flatten)]
    addresses: MachineAddresses,
}

pub(super) fn execute(context: &Context, command: &EtcdCommand) -> Result<()> {
    match command {
        EtcdCommand::Members { name, addresses } => members(context, name, addresses),
        EtcdCommand::Defrag { name, addresses } => defrag(context, name, addresses),
        EtcdCommand::Snapshot(SnapshotCommand::Save { file, cluster, addresses }) => {
            save(context, file, cluster, addresses)
        }
        EtcdCommand::Restore(arguments) => restore(context, arguments),
    }
}

fn definition_of(context: &Context, name: &str) -> Result<Definition> {
    Definition::of_name(&context.project, &name_or_default(Some(name))?)
}

/// The members as the first master that answers sees them.
fn ask_members(definition: &Definition, addresses: &MachineAddresses) -> Result<Vec<EtcdMember>> {
    let ask = |client: &Client| client.get(path::ETCD_MEMBERS);
    Ok(addresses.ask_first(definition, &masters(definition), organization::READER, ask)?.1)
}

/// A member that is at it serves nobody: the next one waits for it, and the first that fails ends it.
fn defrag(context: &Context, name: &str, addresses: &MachineAddresses) -> Result<()> {
    let definition = definition_of(context, name)?;
    let mut members = ask_members(&definition, addresses)?;
    if let Some(silent) = members.iter().find(|member| member.health.is_none()) {
        return Err(Error::failure(format!("etcd's member {} does not answer", silent.name))
            .help("while one is down, another that serves nobody could cost the quorum: bring it back first"));
    }
    members.sort_by_key(|member| member.health.as_ref().is_some_and(|health| health.leader));
    for member in &members {
        let ask = |client: &Client| client.post(path::ETCD_DEFRAG, &());
        let (master, done): (String, Accepted) =
            addresses.ask_first(&definition, &[member.name.as_str()], organization::OPERATOR, ask)?;
        print(&format!("{master}: {}\n", done.message))?;
    }
    Ok(())
}

fn members(context: &Context, name: &str, addresses: &MachineAddresses) -> Result<()> {
    let members = ask_members(&definition_of(context, name)?, addresses)?;
    match context.json {
        true => print_document(&members),
        false => print(&text::etcd_members(&members)),
    }
}

fn save(context: &Context, file: &Path, cluster: &str, addresses: &MachineAddresses) -> Result<()> {
    if file.exists() {
        return Err(Error::bad_input(format!("{} exists", file.display())).help("name a file that does not exist yet"));
    }
    let definition = definition_of(context, cluster)?;
    let ask = |client: &Client| client.stream(path::ETCD_SNAPSHOT);
    let (master, mut stream) = addresses.ask_first(&definition, &masters(&definition), organization::ADMIN, ask)?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .map_err(|error| Error::because(format!("{master}: the snapshot broke off"), error))?;
    check(file, &bytes)?;
    crate::scratch::write_file(file, &bytes, 0o600).map_err(|error| Error::io("write", file, error))?;
    print(&format!("{}: {:.1} MB from {master}\n", file.display(), bytes.len() as f64 / 1e6))
}

/// etcd puts the SHA-256 of all before it at a snapshot's end (etcd 3.6, server's `snapshotSender`),
/// behind a database whose size is a multiple of 512.
fn check(file: &Path, bytes: &[u8]) -> Result<()> {
    const DIGEST: usize = 32;
    let body = bytes.len().saturating_sub(DIGEST);
    let whole = body > 0 && body.is_multiple_of(512) && Sha256::digest(&bytes[..body])[..] == bytes[body..];
    match whole {
        true => Ok(()),
        false => {
            Err(Error::failure(format!("{} is no whole snapshot of etcd: its checksum does not fit", file.display()))
                .help("save it anew"))
        }
    }
}

fn restore(context: &Context, arguments: &RestoreArguments) -> Result<()> {
    if let Some(id) = arguments.gives_up.iter().find(|id| !is_cluster_id(id)) {
        return Err(Error::bad_input(format!("--gives-up {id:?} is no cluster's id"))
            .help("imgbuild cluster status shows what the masters wait for, with the ids that they know"));
    }
    let definition = definition_of(context, &arguments.cluster)?;
    let all = masters(&definition);
    if let Some(name) = arguments.without.iter().find(|name| !all.contains(&name.as_str())) {
        return Err(Error::bad_input(format!("--without {name} is no master of {}", arguments.cluster))
            .help(format!("its masters are {}", all.join(", "))));
    }
    let mut bytes = Vec::new();
    let read = File::open(&arguments.file).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|error| Error::io("read", &arguments.file, error))?;
    check(&arguments.file, &bytes)?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let founders: Vec<&str> =
        all.into_iter().filter(|name| !arguments.without.iter().any(|without| without == name)).collect();
    for founder in &founders {
        let send = |client: &Client| send(client, &digest, &bytes);
        arguments.addresses.ask_first(&definition, &[founder], organization::ADMIN, send)?;
        context.progress.note(&format!("{founder} has the snapshot"));
    }
    let new =
        NewCluster { abandons: arguments.gives_up.iter().cloned().collect(), unknown: false, restore: Some(digest) };
    let request = OrderRequest { without: arguments.without.iter().cloned().collect(), new: Some(new) };
    let ask = |client: &Client| client.post(path::ETCD_ORDER, &request);
    let (master, order): (String, OrderAnswer) =
        arguments.addresses.ask_first(&definition, &founders, organization::ADMIN, ask)?;
    if let Some(note) = forget_cluster_id(&definition, arguments.gives_up.iter())? {
        context.progress.note(&note);
    }
    if context.json {
        return print_document(&order);
    }
    print(&format!(
        "{master} has the order: {} start from the snapshot. Follow it: imgbuild cluster status {}\n",
        order.members.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        arguments.cluster
    ))
}

/// Sends a snapshot piece by piece to one master, which checks the whole.
fn send(client: &Client, digest: &str, bytes: &[u8]) -> std::result::Result<(), crate::node::Trouble> {
    let path = path::restore(digest);
    for (number, piece) in bytes.chunks(PIECE).enumerate() {
        client.post_bytes::<Accepted>(&format!("{path}?offset={}", number * PIECE), piece)?;
    }
    client.post_bytes::<Accepted>(&format!("{path}?last=1"), &[]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_carries_its_own_checksum() {
        let mut bytes = vec![7; 1024];
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        check(Path::new("good"), &bytes).unwrap();
        for bad in [&bytes[..1024], &bytes[1..], &[][..]] {
            assert_eq!(check(Path::new("bad"), bad).unwrap_err().status(), 1);
        }
    }
}
