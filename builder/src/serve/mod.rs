//! `imgbuild serve`: machines start from the network. proxyDHCP and TFTP (the netboot crate) bring iPXE onto them, HTTP the
//! image that the cluster definition says, and TLS the seed, once an operator has let a machine's key in.
//!
//! Architecture invariant: nothing secret leaves but through seeds.rs.

mod follow;
mod http;
mod images;
mod machines;
mod net;
mod script;
mod seeds;

use crate::cluster::Definition;
use crate::error::{Error, Result};
use crate::request::Context;
use crate::tools::Tools;
use bytes::Bytes;
use http::Site;
use images::Image;
use machines::{Installed, Machines};
use netboot::{dhcp, tftp};
use seeds::{Identity, Seeds};
use spec::netboot::Start;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::net::{TcpListener, UdpSocket};

/// Beside the definition: which machines are on a disk of their own.
const INSTALLED_FILE: &str = "installed.toml";
/// iPXE's first script.
const FIRST_PATH: &str = "/boot.ipxe";
/// iPXE for BIOS and for UEFI, as their packages name them; both go on with the card's own driver in firmware.
const BIOS_PROGRAM: &str = "undionly.kpxe";
const UEFI_PROGRAM: &str = "snponly.efi";
const PROGRAM_FOLDER: &str = "/usr/lib/ipxe";

/// What to serve, and where.
pub struct ServeRequest<'a> {
    pub context: &'a Context,
    pub definition: Definition,
    /// Folders of builds, one for each role.
    pub folders: Vec<PathBuf>,
    /// Address or interface of this host.
    pub on: Option<String>,
    pub http_port: u16,
    pub seed_port: u16,
    pub trust_macs: bool,
    /// Machines to be installed although they are on a disk.
    pub again: Vec<String>,
}

/// Where keys come from, one a line.
pub type Operator = Box<dyn BufRead + Send>;

/// Serves until `end` comes.
///
/// # Errors
/// Bad input: a folder that holds no build, two of one role, a port that is taken or not allowed.
pub fn serve(request: &ServeRequest<'_>, operator: Operator, end: impl Future<Output = ()>) -> Result<()> {
    let interface = net::choose(request.on.as_deref())?;
    let address = IpAddr::V4(interface.address);
    let identity = Identity::draw(address, OffsetDateTime::now_utc())?;
    let start = Start { server: SocketAddr::new(address, request.seed_port), pin: identity.pin.clone() };
    let images: Vec<Image> = request.folders.iter().map(|folder| Image::open(folder, &start)).collect::<Result<_>>()?;
    one_of_each(&images)?;
    let installed = Installed::read(request.definition.folder.join(INSTALLED_FILE), &request.again)?;
    let programs = Arc::new(programs(request.context)?);
    let machines = Arc::new(Machines::new(request.context.progress.clone(), request.trust_macs, installed));
    let base = format!("http://{address}:{}", request.http_port);
    let boot = dhcp::Boot {
        server: interface.address,
        bios: BIOS_PROGRAM.to_owned(),
        uefi: UEFI_PROGRAM.to_owned(),
        http: base.clone(),
        script: format!("{base}{FIRST_PATH}"),
    };
    let site = Arc::new(Site {
        cluster: request.definition.cluster.clone(),
        images,
        machines: machines.clone(),
        base,
        programs: programs.clone(),
    });
    let seeds = Arc::new(Seeds {
        project: request.context.project.clone(),
        cluster: request.definition.cluster.name.clone(),
        site: site.clone(),
    });
    let dhcp_socket = net::broadcast_socket(&interface, dhcp::DHCP_PORT)?;
    let pxe_socket = net::broadcast_socket(&interface, dhcp::PXE_PORT)?;
    let tftp_socket = net::datagram_socket(&interface, tftp::PORT)?;
    let http = net::listener(&interface, request.http_port)?;
    let https = net::listener(&interface, request.seed_port)?;
    announce(request, &site, &interface);
    listen_to(operator, machines.clone());
    let failed = |error: std::io::Error| Error::because("the event loop cannot be started", error);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let socket = |socket| UdpSocket::from_std(socket).map_err(failed);
        let (dhcp_socket, pxe_socket, tftp_socket) = (socket(dhcp_socket)?, socket(pxe_socket)?, socket(tftp_socket)?);
        let (http, https) = (TcpListener::from_std(http).map_err(failed)?, TcpListener::from_std(https).map_err(failed)?);
        let seen = machines.clone();
        tokio::select! {
            refused = dhcp::serve(dhcp_socket, pxe_socket, boot, |event| machines.firmware(event)) => {
                refused.map(|never| match never {}).map_err(|error| Error::because("machines cannot be answered", error))
            }
            () = tftp::serve(tftp_socket, programs, move |event| seen.transfer(&event)) => Ok(()),
            () = http::serve(http, site) => Ok(()),
            () = seeds::serve(https, identity, seeds) => Ok(()),
            () = end => Ok(()),
        }
    })
}

fn one_of_each(images: &[Image]) -> Result<()> {
    let mut roles = BTreeSet::new();
    for image in images {
        let role = image.role.name();
        if !roles.insert(role) {
            return Err(Error::bad_input(format!("{} is a second image for a {role}", image.name))
                .help("give one folder for each role"));
        }
    }
    Ok(())
}

fn programs(context: &Context) -> Result<BTreeMap<String, Bytes>> {
    let tools = Tools::ensure(context)?;
    let read = |name: &str| {
        let path = tools.root.file(&format!("{PROGRAM_FOLDER}/{name}"));
        let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        Ok((name.to_owned(), Bytes::from(bytes)))
    };
    [BIOS_PROGRAM, UEFI_PROGRAM].into_iter().map(read).collect()
}

fn announce(request: &ServeRequest<'_>, site: &Site, interface: &net::Interface) {
    let progress = &request.context.progress;
    let images: Vec<String> = site.images.iter().map(|image| format!("{} {}", image.name, image.version)).collect();
    progress.stage(&format!(
        "Machines of cluster {} start from {} on {}: {}",
        site.cluster.name,
        interface.address,
        interface.name,
        images.join(", ")
    ));
    if request.trust_macs {
        progress.warn("whoever has a machine's MAC address gets its seed: --trust-macs is for a network of its own");
    }
}

fn listen_to(operator: Operator, machines: Arc<Machines>) {
    let listen = move || {
        for line in operator.lines().map_while(std::result::Result::ok) {
            if line.trim().is_empty() {
                continue;
            }
            match machines.approve(&line) {
                Some(name) => machines.say(&format!("{name} gets its seed")),
                None => machines.warn(&format!("no machine asks with the key {:?}", line.trim())),
            }
        }
    };
    // Without anybody to type nobody is let in, and everything else goes on.
    drop(std::thread::Builder::new().name("operator".into()).spawn(listen));
}
