//! A site's network, 10.9.0.0/24, in namespaces of its own: a bridge, the site's DHCP server (dnsmasq), and `imgbuild
//! serve` beside it. Machines are plugged into the bridge and start from it.
//!
//! Needs root, util-linux and iproute2.

use crate::lab::context;
use crate::native::{end, hold, in_namespace, network_of, nsenter};
use crate::patience::until_it_works;
use crate::{Computer, Failure, Lab, Result, StoryCluster};
use imgbuild::progress::{Mode, Progress};
use imgbuild::request::Context;
use imgbuild::serve::{ServeRequest, serve};
use qemu::{Nic, NicLink};
use std::fs::File;
use std::io::{BufReader, PipeWriter, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const BRIDGE: &str = "wires";
/// Of the bridge, and of the DHCP server on it.
const SITE_ADDRESS: &str = "10.9.0.1/24";
/// Where `imgbuild serve` is.
pub const SERVE_ADDRESS: &str = "10.9.0.2";
const LEASES: &str = "10.9.0.100,10.9.0.200,1h";
/// dnsmasq's, in the story's folder: a line for each lease, its MAC address second and its address third.
const LEASES_FILE: &str = "leases";
const START: Duration = Duration::from_secs(60);

/// The site. Dropped, all of it ends.
pub struct Site<'lab> {
    lab: &'lab Lab,
    /// Keeps the bridge's namespace, and `serve`'s.
    holders: [Child; 2],
    dhcp: Child,
    serve: Option<Serve>,
}

struct Serve {
    thread: std::thread::JoinHandle<Result>,
    stop: tokio::sync::oneshot::Sender<()>,
    keyboard: PipeWriter,
    log: PathBuf,
}

impl<'lab> Site<'lab> {
    /// The network with its DHCP server, which also offers a boot file that is nowhere.
    pub fn new(lab: &'lab Lab) -> Result<Site<'lab>> {
        let bridge = format!(
            "ip link set lo up && ip link add {BRIDGE} type bridge && ip address add {SITE_ADDRESS} dev {BRIDGE} && \
             ip link set {BRIDGE} up && echo ready && exec sleep 1000000"
        );
        let wires = hold(Command::new("unshare").args(["--net", "--", "sh", "-c", &bridge]))?;
        let desk = hold(Command::new("unshare").args([
            "--net",
            "--",
            "sh",
            "-c",
            "ip link set lo up && echo ready && exec sleep 1000000",
        ]))?;
        let cable = format!(
            "ip link add desk type veth peer name eth0 netns {} && ip link set desk master {BRIDGE} up",
            desk.id()
        );
        nsenter(&wires, &["--net"], &cable)?;
        nsenter(&desk, &["--net"], &format!("ip address add {SERVE_ADDRESS}/24 dev eth0 && ip link set eth0 up"))?;
        let log = lab.folder().join("dnsmasq.log");
        let output = File::create(&log).map_err(Failure::file(&log, "make"))?;
        let leases = lab.folder().join(LEASES_FILE);
        let dhcp = in_namespace(&network_of(&wires)?, || {
            let mut command = lab.program("dnsmasq");
            command.args([
                "--no-daemon",
                "--conf-file=/dev/null",
                "--user=root",
                "--pid-file=",
                "--port=0",
                "--log-dhcp",
            ]);
            command.arg(format!("--interface={BRIDGE}")).arg("--bind-interfaces");
            command.arg(format!("--dhcp-range={LEASES}")).arg(format!("--dhcp-leasefile={}", leases.display()));
            command.arg("--dhcp-boot=somebody-elses.0");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
            command.spawn().map_err(Failure::file("dnsmasq", "start"))
        })?;
        Ok(Site { lab, holders: [wires, desk], dhcp, serve: None })
    }

    /// Starts `imgbuild serve` with a build of an image for each role, in place of one that runs.
    pub fn serve(&mut self, cluster: &StoryCluster, images: &[&str]) -> Result {
        self.stop_serving();
        let folders = images.iter().map(|image| Ok(self.lab.image(image)?.beside(""))).collect::<Result<Vec<_>>>()?;
        let log = self.lab.folder().join("serve.log");
        let output = File::create(&log).map_err(Failure::file(&log, "make"))?;
        let progress = Progress::with_writer(Mode::Plain, Box::new(output));
        let mut context = Context { progress, ..context()? };
        context.project.work = self.lab.folder().to_owned();
        let definition = cluster.definition().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (reader, keyboard) = std::io::pipe().map_err(Failure::file("a pipe", "make"))?;
        let network = network_of(&self.holders[1])?;
        let work = move || {
            in_namespace(&network, move || {
                let request = ServeRequest {
                    context: &context,
                    definition,
                    folders,
                    on: None,
                    http_port: 8080,
                    seed_port: 8443,
                    trust_macs: false,
                    again: Vec::new(),
                };
                // The story's end is the sender's.
                let end = async { drop(stopped.await) };
                serve(&request, Box::new(BufReader::new(reader)), end).map_err(Failure::builder)
            })
        };
        let serve = Serve { thread: std::thread::spawn(work), stop, keyboard, log };
        self.serve = Some(serve);
        until_it_works("imgbuild serve", START, || self.served("start from").map(drop))
    }

    /// The first line of `serve`'s with this text.
    pub fn served(&self, text: &str) -> Result<String> {
        let Some(serve) = &self.serve else { return Err(Failure::Unexpected("nothing is served".into())) };
        let log = std::fs::read_to_string(&serve.log).map_err(Failure::file(&serve.log, "read"))?;
        let line = log.lines().find(|line| line.contains(text)).map(str::to_owned);
        if line.is_none() && serve.thread.is_finished() {
            return Err(Failure::Unexpected(format!("`imgbuild serve` has ended: {log}")));
        }
        line.ok_or_else(|| Failure::Unexpected(format!("no line with {text:?} yet: {log}")))
    }

    /// Types a line where `serve` runs.
    pub fn type_line(&mut self, line: &str) -> Result {
        let Some(serve) = &mut self.serve else { return Err(Failure::Unexpected("nothing is served".into())) };
        writeln!(serve.keyboard, "{line}").map_err(Failure::file("the keyboard", "type on"))
    }

    /// Work of a machine's place in the network.
    pub fn on_its_network<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_namespace(&network_of(&self.holders[0])?, work)
    }

    /// `imgbuild` by an operator on the machines' network.
    pub fn imgbuild(&self, cluster: &StoryCluster, arguments: &str) -> Result {
        self.on_its_network(|| cluster.imgbuild(arguments))
    }

    /// The address that the DHCP server has given to a card.
    pub fn address_of(&self, mac: &str) -> Result<String> {
        let path = self.lab.folder().join(LEASES_FILE);
        let leases = std::fs::read_to_string(&path).map_err(Failure::file(&path, "read"))?;
        let lease =
            leases.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|lease| lease.get(1) == Some(&mac));
        let address = lease.and_then(|lease| lease.get(2).map(|address| (*address).to_owned()));
        address.ok_or_else(|| Failure::Unexpected(format!("no lease of {mac}: {leases}")))
    }

    /// Plugs a machine's only card into the bridge; while it is off.
    pub fn plug_in(&self, machine: &mut Computer<'_>, name: &str, boot_rom: bool) -> Result {
        let script = format!("ip tuntap add {name} mode tap && ip link set {name} master {BRIDGE} up");
        nsenter(&self.holders[0], &["--net"], &script)?;
        let card = Nic { boot_rom, boot_index: Some(0), ..Nic::new(NicLink::Tap { name: name.to_owned() }) };
        machine.plug_into(card, Arc::new(network_of(&self.holders[0])?));
        Ok(())
    }

    fn stop_serving(&mut self) {
        if let Some(serve) = self.serve.take() {
            // It may have ended by itself.
            let _ = serve.stop.send(());
            drop(serve.thread.join());
        }
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        self.stop_serving();
        end(&mut self.dhcp);
        self.holders.iter_mut().for_each(end);
    }
}
