//! What a machine lacks of a bundle it fetches by itself from `imgbuild serve`: without TLS, since every chunk is judged by
//! the signed manifest before it is written.

use super::{Session, UpgradeError, lock, refused};
use crate::http::Connection;
use bundle::{PAYLOAD, Payload};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::RANGE;
use hyper::{Request, StatusCode};
use spec::agent::UpgradePhase;
use spec::netboot::path;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Largest piece that is asked for at once: it is held in memory.
const PIECE: u64 = 4 << 20;
/// For a piece.
const LIMIT: Duration = Duration::from_secs(60);

/// Neighbouring chunks that are missing.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    /// Number of the first.
    first: u32,
    /// Where it begins in the file.
    offset: u64,
    /// Bytes of each.
    sizes: Vec<u32>,
}

impl Run {
    fn length(&self) -> u64 {
        self.sizes.iter().copied().map(u64::from).sum()
    }
}

impl Session {
    /// Fetches what is missing; what did not come is waited for again.
    pub(super) async fn fetch(self: Arc<Session>, from: SocketAddr) {
        let outcome = self.clone().fetch_all(from).await;
        let mut state = lock(&self.state);
        state.phase = UpgradePhase::Receiving;
        state.reason = outcome.err().map(|error| error.to_string());
    }

    async fn fetch_all(self: Arc<Session>, from: SocketAddr) -> Result<(), UpgradeError> {
        let connection = Connection::plain(from).await.map_err(|error| refused(error.to_string()))?;
        for file in PAYLOAD {
            let payload = self.manifest.payload(file)?;
            let missing = lock(&self.state).missing.of(file).cloned().unwrap_or_default();
            for run in runs(payload, &missing) {
                let bytes = get(&connection, &path::payload(&payload.sha256), &run).await?;
                let session = self.clone();
                let written = tokio::task::spawn_blocking(move || session.put_run(file, &run, &bytes)).await;
                written.unwrap_or_else(|error| Err(refused(error.to_string())))?;
            }
        }
        Ok(())
    }

    fn put_run(&self, file: &str, run: &Run, mut bytes: &[u8]) -> Result<(), UpgradeError> {
        for (size, number) in run.sizes.iter().zip(run.first..) {
            let (chunk, rest) = bytes.split_at_checked(*size as usize).unwrap_or((bytes, &[]));
            self.chunk(file, number, chunk)?;
            bytes = rest;
        }
        Ok(())
    }
}

fn runs(payload: &Payload, missing: &BTreeSet<u32>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut offset = 0;
    for (chunk, number) in payload.chunks.iter().zip(0..) {
        let size = u64::from(chunk.size);
        if missing.contains(&number) {
            match runs.last_mut() {
                Some(run) if run.offset + run.length() == offset && run.length() + size <= PIECE => {
                    run.sizes.push(chunk.size);
                }
                _ => runs.push(Run { first: number, offset, sizes: vec![chunk.size] }),
            }
        }
        offset += size;
    }
    runs
}

/// One range (RFC 9110 section 14.2).
async fn get(connection: &Connection, path: &str, run: &Run) -> Result<Bytes, UpgradeError> {
    let (peer, length) = (connection.peer(), run.length());
    let range = format!("bytes={}-{}", run.offset, run.offset + length.saturating_sub(1));
    let request = Request::get(format!("http://{peer}{path}")).header(RANGE, range).body(Full::default());
    let request = request.map_err(|error| refused(error.to_string()))?;
    let largest = usize::try_from(length).unwrap_or(usize::MAX);
    let answer = connection.exchange_up_to(largest, request, LIMIT).await;
    let (status, bytes) = answer.map_err(|error| refused(error.to_string()))?;
    if status != StatusCode::PARTIAL_CONTENT.as_u16() || bytes.len() != largest {
        return Err(refused(format!(
            "{peer}{path}: status {status} and {} bytes; 206 and {length} are wanted",
            bytes.len()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bundle::Chunk;
    use std::io::{Read, Write};

    fn payload(sizes: &[u32]) -> Payload {
        let chunk = |size: &u32| Chunk { size: *size, ..Chunk::of(b"") };
        let size = sizes.iter().copied().map(u64::from).sum();
        Payload { size, sha256: String::new(), chunks: sizes.iter().map(chunk).collect() }
    }

    /// Answers one request with these bytes; what was asked.
    fn answering(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let answered = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            while !asked.ends_with("\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.push(byte[0].into());
            }
            stream.write_all(answer.as_bytes()).unwrap();
            asked
        });
        (address, answered)
    }

    fn got(answer: &'static str) -> (Result<Bytes, String>, String) {
        let (address, answered) = answering(answer);
        let run = Run { first: 0, offset: 10, sizes: vec![2, 3] };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bytes = runtime.block_on(async {
            let connection = Connection::plain(address).await.unwrap();
            get(&connection, "/payload/ab", &run).await.map_err(|error| error.to_string())
        });
        (bytes, answered.join().unwrap().to_lowercase())
    }

    #[test]
    fn a_range_is_asked_for_and_nothing_else_is_taken() {
        let (bytes, asked) = got("HTTP/1.1 206 Partial Content\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(bytes.unwrap(), "hello");
        assert!(
            asked.starts_with("get /payload/ab http/1.1\r\n") && asked.contains("range: bytes=10-14\r\n"),
            "{asked}"
        );
        let (whole, _) = got("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789");
        assert!(whole.is_err());
        let (none, _) = got("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno");
        assert!(none.unwrap_err().contains("status 404 and 2 bytes; 206 and 5 are wanted"));
    }

    #[test]
    fn neighbours_are_asked_for_together_up_to_a_piece() {
        let of = |sizes: &[u32], missing: &[u32]| runs(&payload(sizes), &missing.iter().copied().collect());
        assert_eq!(
            of(&[10, 20, 30, 40], &[0, 1, 3]),
            [Run { first: 0, offset: 0, sizes: vec![10, 20] }, Run { first: 3, offset: 60, sizes: vec![40] }]
        );
        let large = 3 << 20;
        assert_eq!(of(&[large, large], &[0, 1]).len(), 2);
        assert!(of(&[10], &[]).is_empty());
    }
}
