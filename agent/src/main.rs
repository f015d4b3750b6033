//! The node agent: what makes a booted machine a member of its cluster, as a supervised service of
//! init, and init's helpers around pods. Subcommands are in `USAGE`.

mod announce;
mod api;
mod approval;
mod balancer;
mod certificates;
mod claim;
mod clock;
mod cni;
mod containerd;
mod dns;
mod etcd;
mod facts;
mod files;
mod grpc;
mod handover;
mod hex;
mod http;
mod images;
mod join;
mod link_address;
mod machine;
mod manifests;
mod masquerade;
mod members;
mod metrics;
mod netboot;
mod netlink;
mod nft;
mod node;
mod node_api;
mod nodes;
mod peers;
mod pending;
mod render;
mod roll;
mod routes;
mod run;
mod server;
mod sntp;
mod stop;
#[cfg(test)]
mod testing;
mod trust;
mod turn;
mod upgrade;
mod vip;
mod watch;

use machine::say;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str =
    "usage: agent run | import-images | stop-pods | hand-over-lead | render DIR | netboot-seed SERVER PIN | netboot-report SERVER PIN
  run            certificates, configurations, cluster work; until it is stopped
  import-images  the image's OCI layouts into containerd; ends when done
  stop-pods      at shutdown: pods within their grace periods; ends when done
  hand-over-lead before etcd stops: another member leads, where this one did; ends when done
  render DIR     for the builder: the configurations of the machine whose root DIR is, written there
  netboot-...    for init, where the machine starts from the network: its seed, and what became of it";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let words = (arguments.next(), arguments.next(), arguments.next(), arguments.next());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format!("no event loop: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let root = Path::new("/");
    let result = match (words.0.as_deref(), words.1.as_deref(), words.2.as_deref(), words.3) {
        (Some("run"), None, None, None) => {
            tokio::task::LocalSet::new().block_on(&runtime, run::run(root)).map_err(|error| error.to_string())
        }
        (Some("import-images"), None, None, None) => runtime.block_on(import(root)),
        (Some("stop-pods"), None, None, None) => {
            runtime.block_on(stop::run(shutdown_api(root)));
            Ok(())
        }
        (Some("hand-over-lead"), None, None, None) => runtime.block_on(run::hand_over_lead(root)),
        (Some("netboot-seed"), Some(server), Some(pin), None) => runtime.block_on(netboot::seed(server, pin)),
        (Some("netboot-report"), Some(server), Some(pin), None) => runtime.block_on(netboot::report(server, pin)),
        (Some("render"), Some(folder), None, None) => {
            render::rehearse(Path::new(folder)).map_err(|error| error.to_string())
        }
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say(message);
            ExitCode::FAILURE
        }
    }
}

async fn import(root: &Path) -> Result<(), String> {
    let facts = facts::Facts::read(root).map_err(|error| error.to_string())?;
    let names = images::import_all(root, &facts.image.pause_image).await.map_err(|error| error.to_string())?;
    for name in names {
        say(format!("imported {name}"));
    }
    Ok(())
}

/// The API, when this machine can reach one: the shutdown goes on without it.
fn shutdown_api(root: &Path) -> Option<(api::Api, String)> {
    let facts = facts::Facts::read(root).ok()?;
    let api = if facts.is_master() { run::local_api(root) } else { run::kubelets_api(root) };
    Some((api.ok()?, facts.identity.name))
}
