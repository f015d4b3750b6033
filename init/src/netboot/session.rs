//! The seed by way of the network: a child leases an address, the agent speaks TLS, and both are gone before the
//! machine's own network begins.

use crate::cmdline;
use crate::console::{self, say};
use crate::devices::Watch;
use crate::events::{self, Event};
use crate::files;
use crate::net::link::{self, Netlink};
use crate::net::plan::format_mac;
use crate::net::{NetworkState, run as network};
use crate::stage::Failure;
use seed::Files;
use spec::cluster::{Machine, Role};
use spec::netboot::{Introduction, Report, Start};
use spec::paths;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// What init is called with to lease an address and nothing more.
pub const LEASE: &str = "lease";
/// The agent's subcommands.
const SEED: &str = "netboot-seed";
const REPORT: &str = "netboot-report";
/// How long a driver of a network card may take after coldplug.
const CARD_PATIENCE: Duration = Duration::from_secs(30);

/// A machine's time with `serve`. Dropped, the address goes back.
pub struct Session {
    start: Start,
    lease: Child,
    network: NetworkState,
}

impl Session {
    /// Leases an address on the card that firmware has used, else on any with a cable.
    ///
    /// # Errors
    /// In words; another boot may have an answer.
    pub fn open(start: Start, watch: &Watch) -> Result<Session, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::retry("an address for the network boot", error, "look at the cable and the site's DHCP server")
        };
        let end = console::uptime() + CARD_PATIENCE;
        while !watch.coldplugged() || link::cards().is_empty() {
            let generation = watch.generation();
            let left = end.saturating_sub(console::uptime());
            if left.is_zero() {
                return Err(failed(&"no network card has a driver in this image"));
            }
            watch.wait_past(generation, left);
        }
        let mut lease = Command::new(paths::INIT)
            .arg(LEASE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        let line = lease.stdout.take().map(|output| BufReader::new(output).lines().next());
        let network = line.flatten().transpose().map_err(|error| failed(&error))?.unwrap_or_default();
        match serde_json::from_str::<NetworkState>(&network) {
            Ok(network) => Ok(Session { start, lease, network }),
            Err(error) => {
                let _ = lease.kill().and_then(|()| lease.wait());
                Err(failed(&format!("init {LEASE} said {network:?}: {error}")))
            }
        }
    }

    /// Asks until `serve` gives this machine its seed.
    ///
    /// # Errors
    /// In words.
    pub fn seed(&self, role: Role, image: &str) -> Result<Files, Failure> {
        let introduction = Introduction {
            macs: link::cards().iter().map(|card| format_mac(&card.mac)).collect(),
            serial: files::trimmed("/sys/class/dmi/id/product_serial").filter(|serial| !serial.is_empty()),
            role,
            image: image.to_owned(),
        };
        let failed = |error: &dyn std::fmt::Display| {
            let hint = "look at what `imgbuild serve` says of this machine; it asks again after a reboot";
            Failure::retry(format!("the seed from {}", self.start.server), error, hint)
        };
        let question = serde_json::to_vec(&introduction).map_err(|error| failed(&error))?;
        let answer = self.agent(SEED, &question).map_err(|error| failed(&error))?;
        seed::archive::decode(&answer).map_err(|error| failed(&error))
    }

    /// Says what became of this machine; what cannot be said is left unsaid.
    pub fn report(&self, report: &Report) {
        let told = serde_json::to_vec(report).map_err(io::Error::other).and_then(|text| self.agent(REPORT, &text));
        if let Err(error) = told {
            say(format!("`imgbuild serve` was not told: {error}"));
        }
    }

    /// Runs the agent, which knows TLS: the question on its standard input, the answer on its standard output, and what
    /// it waits for on the consoles.
    fn agent(&self, command: &str, question: &[u8]) -> io::Result<Vec<u8>> {
        let Start { server, pin } = &self.start;
        let mut agent = Command::new(paths::AGENT)
            .args([command, &server.to_string(), pin])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(files::at(paths::AGENT))?;
        let said = agent.stderr.take();
        let listener = std::thread::spawn(move || {
            said.into_iter().flat_map(|said| BufReader::new(said).lines().map_while(Result::ok)).for_each(say);
        });
        if let Some(mut input) = agent.stdin.take() {
            input.write_all(question)?;
        }
        let mut answer = Vec::new();
        if let Some(mut output) = agent.stdout.take() {
            output.read_to_end(&mut answer)?;
        }
        // Its status may have been reaped with others'; without an answer it has said why.
        drop((agent.wait(), listener.join()));
        if answer.is_empty() { Err(io::Error::other("no answer")) } else { Ok(answer) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.lease.kill().and_then(|()| self.lease.wait());
        let index = link::index(&self.network.interface);
        if let (Some(index), Some((address, prefix))) = (index, self.network.address)
            && let Err(error) = Netlink::open().and_then(|mut link| link.remove_address(index, address, prefix))
        {
            say(format!("{address} stays on {}: {error}", self.network.interface));
        }
    }
}

/// `init lease`: leases an address, prints it once as a line of JSON, and keeps it until it is killed.
///
/// # Errors
/// As the kernel answers.
pub fn lease() -> io::Result<()> {
    console::open();
    let (mailbox, inbox) = events::mailbox()?;
    let watch = Arc::new(Watch::default());
    // The parent has waited for the cards.
    watch.set_coldplugged();
    let mut anyone: Machine = toml::from_str("name = \"netboot\"\nrole = \"node\"\n").map_err(io::Error::other)?;
    anyone.mac = cmdline::parse(&std::fs::read_to_string("/proc/cmdline")?).boot_interface;
    network::start(anyone, watch, mailbox);
    let mut told = false;
    loop {
        crate::wait_readable(&inbox.bell, None)?;
        for event in inbox.take() {
            match event {
                Event::Network(state) if state.address.is_some() && !told => {
                    told = true;
                    say(format!("network      {} for the network boot", shown(&state)));
                    println!("{}", serde_json::to_string(&state)?);
                }
                Event::NetworkTrouble(trouble) => say(format!("network      {trouble}")),
                _ => {}
            }
        }
    }
}

fn shown(state: &NetworkState) -> String {
    let address = state.address.map(|(address, prefix)| format!("{address}/{prefix}")).unwrap_or_default();
    format!("{} {address}", state.interface)
}
