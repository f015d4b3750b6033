//! A plain HTTP request. Version 1.0, so that the answer ends with the connection and is never chunked.

use crate::{Failure, Result};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Gets `path` from a port of the host's loopback; an answer other than a success is a failure.
pub fn get(port: u16, path: &str, within: Duration) -> Result<String> {
    send("GET", port, path, "", within)
}

/// Posts a JSON document.
pub fn post(port: u16, path: &str, document: &str, within: Duration) -> Result<String> {
    send("POST", port, path, document, within)
}

fn send(method: &str, port: u16, path: &str, document: &str, within: Duration) -> Result<String> {
    let request = format!("{method} http://127.0.0.1:{port}{path}");
    let failed = |problem: String| Failure::Http { request: request.clone(), problem };
    let answer = exchange(method, port, path, document, within).map_err(|error| failed(error.to_string()))?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Err(failed(format!("{} bytes that are no HTTP answer", answer.len())));
    };
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1).is_some_and(|code| code.starts_with('2')) {
        Ok(body.to_owned())
    } else {
        Err(failed(format!("{status}: {body}")))
    }
}

fn exchange(method: &str, port: u16, path: &str, document: &str, within: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), within)?;
    stream.set_read_timeout(Some(within))?;
    let content = match document.len() {
        0 => String::new(),
        length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
    };
    stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n{content}\r\n{document}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answering(answer: &'static str) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let size = stream.read(&mut request).unwrap();
            assert!(request[..size].starts_with(b"GET /hostname HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        port
    }

    #[test]
    fn the_body_of_a_success_is_the_answer_and_anything_else_a_failure() {
        let get = |answer| get(answering(answer), "/hostname", Duration::from_secs(20));
        assert_eq!(get("HTTP/1.0 200 OK\r\nA: b\r\n\r\nweb\n").unwrap(), "web\n");
        assert!(get("HTTP/1.0 503 no\r\n\r\nlater").unwrap_err().to_string().ends_with("503 no: later"));
        assert!(get("").unwrap_err().to_string().contains("no HTTP answer"));
    }
}
