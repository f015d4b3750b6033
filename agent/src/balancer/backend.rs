//! One API server as the balancer sees it: whether new connections may go there, and when something
//! was last heard from it.

use crate::http::{Connection, HttpError};
use crate::machine::say;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use std::io::ErrorKind;
use std::mem::discriminant;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

/// What was last found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nobody asked yet.
    Unknown,
    Ready,
    /// The machine is there, and its API server wants no new connections: its own words, or its kernel
    /// refuses. Connections that it still serves are its own to end.
    NotReady(String),
    /// No answer at all: the machine may be dead, and then nobody ends its connections.
    Silent(String),
}

/// An API server; connections to it share this.
#[derive(Debug)]
pub struct Backend {
    pub address: SocketAddr,
    health: watch::Sender<Health>,
    born: Instant,
    /// Milliseconds after `born` when something last came from it, to a probe or to a client.
    heard: AtomicU64,
    cut: Notify,
}

impl Backend {
    pub fn new(address: SocketAddr) -> Backend {
        Backend {
            address,
            health: watch::Sender::new(Health::Unknown),
            born: Instant::now(),
            heard: AtomicU64::new(0),
            cut: Notify::new(),
        }
    }

    pub fn is_ready(&self) -> bool {
        *self.health.borrow() == Health::Ready
    }

    pub fn is_silent(&self) -> bool {
        matches!(*self.health.borrow(), Health::Silent(_))
    }

    #[cfg(test)]
    pub fn is_probed(&self) -> bool {
        *self.health.borrow() != Health::Unknown
    }

    /// Takes in what a probe or a connect found; logged when it is news.
    pub fn note(&self, health: Health) {
        if !matches!(health, Health::Silent(_)) {
            self.hear();
        }
        let before = self.health.send_replace(health.clone());
        if discriminant(&before) == discriminant(&health) {
            return;
        }
        match health {
            Health::Unknown => {}
            Health::Ready => say(format!("API server {}: ready", self.address)),
            Health::NotReady(reason) => say(format!("API server {}: not ready: {reason}", self.address)),
            Health::Silent(reason) => say(format!("API server {}: silent: {reason}", self.address)),
        }
    }

    fn hear(&self) {
        let milliseconds = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(milliseconds, Ordering::Relaxed);
    }

    /// Ends when nothing has come from it for `limit`.
    pub async fn silence(&self, limit: Duration) {
        loop {
            let end = self.born + Duration::from_millis(self.heard.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// Ends at the next [`Backend::cut`] after this call, however late it is waited for.
    pub fn is_cut(&self) -> Notified<'_> {
        self.cut.notified()
    }

    /// Closes the connections that it has now.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

/// Asks one API server for its health, over a connection that is kept: a handshake every time would
/// cost both sides a hundred times as much.
pub struct Prober {
    pub address: SocketAddr,
    /// What the server's certificate must say.
    pub server_name: String,
    pub tls: Arc<ClientConfig>,
    pub limit: Duration,
    pub kept: Option<Connection>,
}

impl Prober {
    /// `GET /readyz`, which the API server answers to anyone.
    pub async fn probe(&mut self) -> Health {
        match tokio::time::timeout(self.limit, self.ask()).await {
            Ok(Ok(200)) => Health::Ready,
            Ok(Ok(code)) => Health::NotReady(format!("HTTP {code}")),
            Ok(Err(error)) => judge(&error),
            Err(_) => Health::Silent(format!("no answer within {} ms", self.limit.as_millis())),
        }
    }

    async fn ask(&mut self) -> Result<u16, HttpError> {
        // A server may end an idle connection at any time; only a fresh one's failure counts.
        if let Some(connection) = self.kept.take().filter(|connection| !connection.is_closed())
            && let Ok(code) = self.readyz(&connection).await
        {
            self.kept = Some(connection);
            return Ok(code);
        }
        let connection = Connection::tls(self.address, &self.server_name, self.tls.clone()).await?;
        let code = self.readyz(&connection).await?;
        self.kept = Some(connection);
        Ok(code)
    }

    async fn readyz(&self, connection: &Connection) -> Result<u16, HttpError> {
        let request = Request::get(format!("https://{}/readyz", self.address))
            .header("user-agent", "imgbuild-agent")
            .body(Full::<Bytes>::default())
            .map_err(|error| HttpError::Exchange { peer: self.address.to_string(), reason: error.to_string() })?;
        Ok(connection.exchange(request, self.limit).await?.0)
    }
}

fn judge(error: &HttpError) -> Health {
    match error {
        HttpError::Late { .. } => Health::Silent(error.to_string()),
        HttpError::Connect { source, .. } => judge_connect(source),
        _ => Health::NotReady(error.to_string()),
    }
}

/// What a failed connect says about a machine: a refusal comes from a kernel that lives.
pub fn judge_connect(error: &std::io::Error) -> Health {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            Health::Silent(error.to_string())
        }
        _ => Health::NotReady(error.to_string()),
    }
}

/// A connection to a backend; what comes from it is a sign of the backend's life.
pub struct Heard<'a> {
    pub stream: TcpStream,
    pub backend: &'a Backend,
}

impl AsyncRead for Heard<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.backend.hear();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
