//! init's socket: one JSON request a line, one JSON response a line. Root alone may connect.

use crate::files::at;
use spec::status::{Request, Response};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// Longest request in bytes, and most connections at once.
const LINE_LIMIT: usize = 4096;
const CLIENT_LIMIT: usize = 32;

pub struct Control {
    pub listener: UnixListener,
    pub clients: Vec<Client>,
}

pub struct Client {
    pub stream: UnixStream,
    line: Vec<u8>,
    over: bool,
}

impl Control {
    /// # Errors
    /// With the path in the text.
    pub fn open() -> io::Result<Control> {
        use std::os::unix::fs::PermissionsExt;
        let path = spec::paths::INIT_SOCKET;
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(at(path))?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(at(path))?;
        Ok(Control { listener, clients: Vec::new() })
    }

    pub fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENT_LIMIT && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, line: Vec::new(), over: false });
            }
        }
    }

    /// Requests that are complete, with the client's place in the list.
    pub fn requests(&mut self) -> Vec<(usize, Result<Request, String>)> {
        let mut all = Vec::new();
        for (place, client) in self.clients.iter_mut().enumerate() {
            all.extend(client.requests().into_iter().map(|request| (place, request)));
        }
        all
    }

    pub fn answer(&mut self, place: usize, response: &Response) {
        if let (Some(client), Ok(mut line)) = (self.clients.get_mut(place), serde_json::to_vec(response)) {
            line.push(b'\n');
            // A client that does not read loses its answer and its connection; init does not wait.
            client.over |= client.stream.write_all(&line).is_err();
        }
    }

    pub fn forget_gone(&mut self) {
        self.clients.retain(|client| !client.over);
    }
}

impl Client {
    fn requests(&mut self) -> Vec<Result<Request, String>> {
        let mut buffer = [0u8; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.over = true,
                Ok(count) if self.line.len() + count <= LINE_LIMIT => {
                    self.line.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                _ => self.over = true,
            }
            break;
        }
        let mut requests = Vec::new();
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            requests.push(serde_json::from_slice(&line).map_err(|error| format!("request: {error}")));
        }
        requests
    }
}

/// The other side, for a person on the debug shell: `init status|reboot|poweroff|restart NAME`.
/// Returns the exit status.
pub fn ask(arguments: &[String]) -> i32 {
    let request = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "status"] => Request::Status,
        [_, "reboot"] => Request::Reboot,
        [_, "poweroff"] => Request::PowerOff,
        [_, "restart", name] => Request::RestartService { name: (*name).to_owned() },
        _ => {
            eprintln!("usage: init status | reboot | poweroff | restart NAME");
            return 2;
        }
    };
    match exchange(&request) {
        Ok(text) => {
            println!("{text}");
            0
        }
        Err(error) => {
            eprintln!("init: {}: {error}", spec::paths::INIT_SOCKET);
            1
        }
    }
}

fn exchange(request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(spec::paths::INIT_SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut text = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(stream), &mut text)?;
    let response: Response = serde_json::from_str(&text)?;
    match response {
        Response::Error { message } => Err(io::Error::other(message)),
        other => Ok(serde_json::to_string_pretty(&other)?),
    }
}
