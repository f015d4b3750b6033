//! A router of the site, BIRD (Debian's bird2), on the host: the gateway's address, as machines see it. It speaks BGP
//! (RFC 4271) with one machine: it knows neighbours by their addresses, and here all have the gateway's, whose QEMU takes
//! their connections.

use crate::native::end;
use crate::patience::until_it_works;
use crate::{Failure, Lab, Result, run};
use qemu::gateway;
use spec::cluster::Bgp;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Its autonomous system, of those that nobody else uses (RFC 6996).
const ASN: u32 = 64600;

const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(20);

/// A router that runs. Dropping it ends it.
#[derive(Debug)]
pub struct SiteRouter<'lab> {
    lab: &'lab Lab,
    port: u16,
    process: Child,
    /// Holds the control socket: a socket's path has at most 107 bytes.
    folder: tempfile::TempDir,
}

impl<'lab> SiteRouter<'lab> {
    /// Starts it on a free port of 127.0.0.1; its log is the story's `bird.log`.
    pub fn start(lab: &'lab Lab) -> Result<SiteRouter<'lab>> {
        let folder = tempfile::Builder::new().prefix("bird-").tempdir();
        let folder = folder.map_err(Failure::file(&std::env::temp_dir(), "make a folder in"))?;
        let port = free_port()?;
        let configuration = folder.path().join("bird.conf");
        std::fs::write(&configuration, configuration_for(port)).map_err(Failure::file(&configuration, "write"))?;
        let log = lab.folder().join("bird.log");
        let output = std::fs::File::create(&log).map_err(Failure::file(&log, "make"))?;
        let mut command = lab.program("bird");
        command.arg("-f").arg("-c").arg(&configuration).arg("-s").arg(folder.path().join("control"));
        command.arg("-P").arg(folder.path().join("pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let process = command.spawn().map_err(Failure::file("bird", "start"))?;
        let router = SiteRouter { lab, port, process, folder };
        until_it_works("BIRD", START, || router.ask("show status"))?;
        Ok(router)
    }

    /// What a cluster's definition says of it below `[bgp]`.
    pub fn peer(&self) -> String {
        format!("[[bgp.peer]]\naddress = \"{}\"\nasn = {ASN}\nport = {}\n", gateway::ADDRESS, self.port)
    }

    /// Every route that it knows, with its attributes, as birdc prints them.
    pub fn routes(&self) -> Result<String> {
        self.ask("show route all")
    }

    fn ask(&self, question: &str) -> Result<String> {
        let mut command = self.lab.program("birdc");
        command.arg("-s").arg(self.folder.path().join("control")).args(question.split(' '));
        run(command, "", ANSWER)?.ok()
    }
}

impl Drop for SiteRouter<'_> {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(Failure::file("127.0.0.1", "listen on"))
}

fn configuration_for(port: u16) -> String {
    let (router, loopback) = (gateway::ADDRESS, Ipv4Addr::LOCALHOST);
    let machines = Bgp::default().asn;
    format!(
        "log stderr all;
debug protocols {{ states, events }};
router id {router};
protocol device {{ }}
protocol bgp {{
    local {loopback} port {port} as {ASN};
    strict bind;
    neighbor range 127.0.0.0/8 as {machines};
    dynamic name \"machine\";
    multihop;
    passive;
    ipv4 {{ import all; export none; }};
}}
"
    )
}
