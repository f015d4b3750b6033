//! The notify socket (sd_notify(3)): who sent it is what the kernel says, not what the sender says.

use crate::files::at;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;

/// A message and its sender's process id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub process: u32,
    pub ready: bool,
    pub status: Option<String>,
}

/// Opens `paths::NOTIFY_SOCKET`. Any service may write to it; root or not.
///
/// # Errors
/// With the path in the text.
pub fn open() -> io::Result<UnixDatagram> {
    use std::os::unix::fs::PermissionsExt;
    let path = spec::paths::NOTIFY_SOCKET;
    let _ = std::fs::remove_file(path);
    let socket = UnixDatagram::bind(path).map_err(at(path))?;
    socket.set_nonblocking(true)?;
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(at(path))?;
    Ok(socket)
}

/// Everything that has arrived.
pub fn receive(socket: &UnixDatagram) -> Vec<Notification> {
    let mut all = Vec::new();
    loop {
        let mut bytes = [0u8; 4096];
        // Room for credentials, and for descriptors that somebody sends along: they are closed.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        );
        let Ok(received) = received else { return all };
        let sender = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
            }
            _ => None,
        });
        if let Some(process) = sender {
            all.push(parse(process, &String::from_utf8_lossy(&bytes[..received.bytes])));
        }
    }
}

fn parse(process: u32, text: &str) -> Notification {
    let status = text
        .lines()
        .find_map(|line| line.strip_prefix("STATUS="))
        .map(|status| status.chars().filter(|character| !character.is_control()).take(200).collect());
    Notification { process, ready: text.lines().any(|line| line == "READY=1"), status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_notification() {
        let found = parse(7, "STATUS=almost\u{1b}[2J\nREADY=1\nMAINPID=1\n");
        assert_eq!(found, Notification { process: 7, ready: true, status: Some("almost[2J".into()) });
        assert!(!parse(7, "READY=11").ready);
    }
}
