//! A proxyDHCP server (PXE specification 2.1): the DHCP server of the site gives machines their
//! addresses, and this one only says which program they boot. It never gives an address, a mask or a lease.
//!
//! A machine passes twice: its firmware gets the boot program, which is iPXE, and iPXE gets its script.

use dhcproto::Encodable;
use dhcproto::v4::{
    Architecture, CLIENT_PORT, DhcpOption, HType, MAGIC, MIN_PACKET_SIZE, Message, MessageType, Opcode, OptionCode,
    SERVER_PORT, UnknownOption,
};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use tokio::net::UdpSocket;

/// UDP port of DHCP servers.
pub const DHCP_PORT: u16 = SERVER_PORT;
/// UDP port of PXE boot servers (PXE 2.1 calls what is said there the boot server protocol).
pub const PXE_PORT: u16 = 4011;

/// What machines are told. A machine for which the name is empty is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Our address as machines see it.
    pub server: Ipv4Addr,
    /// TFTP name of the program for BIOS, such as `undionly.kpxe`.
    pub bios: String,
    /// TFTP name of the program for x64 UEFI, such as `snponly.efi`.
    pub uefi: String,
    /// Base URL under which UEFI's HTTP boot finds `uefi`, such as `http://192.0.2.1:8080`.
    pub http: String,
    /// URL of the script for iPXE.
    pub script: String,
}

/// The port at which a message arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// 67: machines look for anyone who answers.
    Dhcp,
    /// 4011: a machine that has an address asks us by name.
    Pxe,
}

/// What loads the boot program: option 93 (RFC 4578 section 2.1, numbers as in IANA's registry of
/// processor architecture types) and the beginning of option 60.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// Architecture 0.
    Bios,
    /// Architectures 7 and 9, which the RFC and the registry name the other way round; x64 both.
    Uefi,
    /// Architecture 16, or one of UEFI's where the class is `HTTPClient` (UEFI 2.10 section 24.7).
    UefiHttp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    pub mac: [u8; 6],
    pub firmware: Firmware,
    /// The boot program is already there, and asks for its script.
    pub ipxe: bool,
}

/// An answer and where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub message: Message,
    pub to: SocketAddrV4,
    pub client: Client,
    /// The file name or URL that the message gives.
    pub program: String,
}

/// What [`serve`] tells its caller.
#[derive(Debug)]
pub enum Event {
    Answered {
        client: Client,
        port: Port,
        program: String,
    },
    /// The answer could not be sent; the machine will ask again.
    SendFailed {
        client: Client,
        to: SocketAddrV4,
        error: io::Error,
    },
    ReceiveFailed {
        port: Port,
        error: io::Error,
    },
}

const PXE_CLIENT: &[u8] = b"PXEClient";
const HTTP_CLIENT: &[u8] = b"HTTPClient";
const IPXE: &[u8] = b"iPXE";

/// PXE's own options in option 43 (PXE 2.1 table 2-1): discovery control (6) with bit 3, boot the file
/// that this message names, no menu and no search for boot servers; 255 ends them.
const BOOT_THIS_FILE: [u8; 4] = [6, 1, 8, 255];

/// iPXE's own options (ipxe.org/howto/dhcpd): priority (1) of what this message says, over 0, which what the
/// site's DHCP server says has; without it iPXE takes a boot file of that server's.
const IPXE_OPTIONS: OptionCode = OptionCode::Unknown(175);
const BEFORE_OTHERS: [u8; 3] = [1, 1, 1];

/// Longest text that the field `file` holds with the NUL that ends it.
const FILE_FIELD: usize = 127;

/// Options that are read: message type, vendor class, user class, relay agent information, architecture,
/// machine identifier.
const READ: [u8; 6] = [53, 60, 77, 82, 93, 97];
/// Where the magic cookie lies (RFC 2131 section 3).
const COOKIE: std::ops::Range<usize> = 236..240;

/// A message as it came from the network. `None` for anything that is no DHCP message.
pub fn read_message(bytes: &[u8]) -> Option<Message> {
    if bytes.get(COOKIE) != Some(&MAGIC[..]) {
        return None;
    }
    ::dhcp::read_message(bytes, &READ)
}

/// The answer to a message that came from `source`: an OFFER to a DISCOVER at port 67, where the REQUEST
/// is the site's DHCP server's business, and an ACK to a REQUEST or INFORM at port 4011. `None` for
/// machines that do not boot from the network and for those that `boot` has nothing for.
pub fn answer(message: &Message, arrived: Port, source: SocketAddrV4, boot: &Boot) -> Option<Reply> {
    let client = Client::of(message)?;
    let kind = match (arrived, message.opts().msg_type()?) {
        (Port::Dhcp, MessageType::Discover) => MessageType::Offer,
        (Port::Pxe, MessageType::Request | MessageType::Inform) => MessageType::Ack,
        _ => return None,
    };
    let program = client.program(boot).filter(|program| !program.is_empty())?;
    // An OFFER has no client address, an ACK repeats it (RFC 2131 table 3).
    let ciaddr = if kind == MessageType::Ack { message.ciaddr() } else { Ipv4Addr::UNSPECIFIED };
    let mut reply =
        Message::new_with_id(message.xid(), ciaddr, Ipv4Addr::UNSPECIFIED, boot.server, message.giaddr(), &client.mac);
    reply.set_opcode(Opcode::BootReply).set_flags(message.flags());
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(boot.server));
    let class = if client.firmware == Firmware::UefiHttp { HTTP_CLIENT } else { PXE_CLIENT };
    options.insert(DhcpOption::ClassIdentifier(class.to_vec()));
    // Some UEFI firmware drops an offer that has option 43; without it, all of them ask at port 4011.
    if client.firmware == Firmware::Bios {
        options.insert(DhcpOption::VendorExtensions(BOOT_THIS_FILE.to_vec()));
    }
    if client.ipxe {
        options.insert(DhcpOption::Unknown(UnknownOption::new(IPXE_OPTIONS, BEFORE_OTHERS.to_vec())));
    }
    // The machine's identifier (RFC 4578 section 2.3) and the relay's notes (RFC 3046 section 2.2) go back.
    for code in [OptionCode::ClientMachineIdentifier, OptionCode::RelayAgentInformation] {
        if let Some(option) = message.opts().get(code) {
            options.insert(option.clone());
        }
    }
    name_program(&mut reply, client.firmware, &program);
    Some(Reply { message: reply, to: destination(message, arrived, source), client, program })
}

/// HTTP boot looks for its URL in option 67, and what is too long for the field `file` fits nowhere else;
/// all else reads `file`.
fn name_program(reply: &mut Message, firmware: Firmware, program: &str) {
    let fits = program.len() <= FILE_FIELD;
    if fits {
        reply.set_fname_str(program);
    }
    if firmware == Firmware::UefiHttp || !fits {
        // EDK2 wants the text to end with NUL, and writes one over the next option's code where there is none.
        let value = program.bytes().chain([0]).collect();
        reply.opts_mut().insert(DhcpOption::BootfileName(value));
    }
}

/// RFC 2131 section 4.1: the relay, or the client's address, or everyone, with or without the broadcast
/// flag, since a proxy has no new address to send to. PXE 2.1: at port 4011, where the message came from.
fn destination(message: &Message, arrived: Port, source: SocketAddrV4) -> SocketAddrV4 {
    let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
    match arrived {
        Port::Pxe if source.ip().is_unspecified() => everyone,
        Port::Pxe => source,
        Port::Dhcp if ::dhcp::usable(message.giaddr()) => SocketAddrV4::new(message.giaddr(), SERVER_PORT),
        Port::Dhcp if ::dhcp::usable(message.ciaddr()) => SocketAddrV4::new(message.ciaddr(), CLIENT_PORT),
        Port::Dhcp => everyone,
    }
}

impl Client {
    /// `None` for who does not boot from the network, or on hardware for which there is no program.
    fn of(message: &Message) -> Option<Client> {
        if message.opcode() != Opcode::BootRequest || message.htype() != HType::Eth || message.hlen() != 6 {
            return None;
        }
        let mac = message.chaddr().try_into().ok()?;
        let options = message.opts();
        let Some(DhcpOption::ClassIdentifier(class)) = options.get(OptionCode::ClassIdentifier) else { return None };
        let Some(DhcpOption::ClientSystemArchitecture(architecture)) =
            options.get(OptionCode::ClientSystemArchitecture)
        else {
            return None;
        };
        let (pxe, http) = (class.starts_with(PXE_CLIENT), class.starts_with(HTTP_CLIENT));
        let firmware = match *architecture {
            Architecture::X86_Bios if pxe => Firmware::Bios,
            Architecture::X64 | Architecture::BC if pxe => Firmware::Uefi,
            Architecture::X64 | Architecture::BC | Architecture::X64_Http if http => Firmware::UefiHttp,
            _ => return None,
        };
        let ipxe = match options.get(OptionCode::UserClass) {
            Some(DhcpOption::UserClass(classes)) => is_ipxe(classes),
            _ => false,
        };
        Some(Client { mac, firmware, ipxe })
    }

    fn program(&self, boot: &Boot) -> Option<String> {
        match self.firmware {
            _ if self.ipxe => Some(boot.script.clone()),
            Firmware::Bios => Some(boot.bios.clone()),
            Firmware::Uefi => Some(boot.uefi.clone()),
            Firmware::UefiHttp if boot.http.is_empty() || boot.uefi.is_empty() => None,
            Firmware::UefiHttp => Some(format!("{}/{}", boot.http.trim_end_matches('/'), boot.uefi)),
        }
    }
}

/// RFC 3004 puts its length before each class; iPXE sends its name bare.
fn is_ipxe(classes: &[u8]) -> bool {
    let mut rest = classes;
    while let Some((length, tail)) = rest.split_first() {
        let Some((class, tail)) = tail.split_at_checked(usize::from(*length)) else { break };
        if class == IPXE {
            return true;
        }
        rest = tail;
    }
    classes == IPXE
}

impl Reply {
    /// The message as it goes into a datagram: at least 300 bytes, as BOOTP's were (RFC 951 section 3).
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = self.message.to_vec().map_err(io::Error::other)?;
        bytes.resize(bytes.len().max(MIN_PACKET_SIZE), 0);
        Ok(bytes)
    }
}

/// Answers machines until the future is dropped. `dhcp` is bound to port 67 and `pxe` to port 4011, both of
/// 0.0.0.0, where alone broadcasts arrive, and to one device on a host that has several: the system sends
/// broadcasts to one network only.
///
/// Malformed messages are ignored, failures of the network are events. An error: the system refuses to let
/// the sockets broadcast.
pub async fn serve(dhcp: UdpSocket, pxe: UdpSocket, boot: Boot, on_event: impl Fn(Event)) -> io::Result<Infallible> {
    dhcp.set_broadcast(true)?;
    pxe.set_broadcast(true)?;
    let (mut at_dhcp, mut at_pxe) = ([0; 2048], [0; 2048]);
    loop {
        let (port, received) = tokio::select! {
            received = dhcp.recv_from(&mut at_dhcp) => (Port::Dhcp, received),
            received = pxe.recv_from(&mut at_pxe) => (Port::Pxe, received),
        };
        let (socket, buffer) = match port {
            Port::Dhcp => (&dhcp, &at_dhcp),
            Port::Pxe => (&pxe, &at_pxe),
        };
        match received {
            Ok((length, SocketAddr::V4(source))) => {
                let reply = read_message(&buffer[..length]).and_then(|message| answer(&message, port, source, &boot));
                if let Some(reply) = reply {
                    let event = send(socket, port, reply).await;
                    on_event(event);
                }
            }
            Ok((_, SocketAddr::V6(_))) => {}
            Err(error) => {
                on_event(Event::ReceiveFailed { port, error });
                tokio::time::sleep(crate::PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

async fn send(socket: &UdpSocket, port: Port, reply: Reply) -> Event {
    let sent = match reply.to_bytes() {
        Ok(bytes) => socket.send_to(&bytes, reply.to).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(_) => Event::Answered { client: reply.client, port, program: reply.program },
        Err(error) => Event::SendFailed { client: reply.client, to: reply.to, error },
    }
}

#[cfg(test)]
#[path = "dhcp_tests.rs"]
mod tests;
