//! HTTP over one connection, by hyper: HTTP/2 with mutual TLS to API servers, etcd and other agents,
//! HTTP/2 without TLS on a Unix socket for gRPC, HTTP/1.1 where nobody asks for more. No pool and no name
//! lookup: the agent talks to few and fixed peers, and a broken connection is made anew by the caller.
//!
//! kube and tonic would do this too; they bring 250 crates and a build-time protoc, this file and
//! two small ones beside it do what the agent needs.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WantsClientCert;
use tokio_rustls::rustls::{ClientConfig, ConfigBuilder, RootCertStore, crypto::ring};

/// Why a request had no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{peer}: {source}")]
    Connect { peer: String, source: std::io::Error },
    #[error("{peer}: no answer within {seconds} s")]
    Late { peer: String, seconds: u64 },
    #[error("{peer}: {reason}")]
    Exchange { peer: String, reason: String },
    #[error("TLS material: {0}")]
    Tls(String),
}

/// A connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: Sender,
    peer: String,
}

/// Of the version that the peers agreed on.
#[derive(Clone)]
enum Sender {
    Second(conn::http2::SendRequest<Full<Bytes>>),
    /// One request after the other.
    First(Arc<Mutex<conn::http1::SendRequest<Full<Bytes>>>>),
}

/// Names of the versions in TLS' ALPN (RFC 9113 section 3.2, RFC 7301 section 6).
pub const HTTP2: &[u8] = b"h2";
pub const HTTP1: &[u8] = b"http/1.1";

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

impl Connection {
    /// TLS to `address`, whose certificate must be for `name`.
    pub async fn tls(address: SocketAddr, name: &str, tls: Arc<ClientConfig>) -> Result<Connection, HttpError> {
        let peer = address.to_string();
        let name = ServerName::try_from(name.to_owned()).map_err(|error| HttpError::Tls(error.to_string()))?;
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(tls).connect(name, stream).await
        };
        let stream = limited(&peer, connect).await?;
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            return Self::start(peer, TokioIo::new(stream)).await;
        }
        Self::start_first(peer, TokioIo::new(stream)).await
    }

    /// HTTP/1.1 without TLS: for what anybody may know, and is checked once it is here.
    pub async fn plain(address: SocketAddr) -> Result<Connection, HttpError> {
        let peer = address.to_string();
        let stream = limited(&peer, TcpStream::connect(address)).await?;
        Self::start_first(peer, TokioIo::new(stream)).await
    }

    async fn start_first<T>(peer: String, stream: T) -> Result<Connection, HttpError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, driver) = conn::http1::handshake(stream).await.map_err(failed(&peer))?;
        tokio::spawn(driver);
        Ok(Connection { sender: Sender::First(Arc::new(Mutex::new(sender))), peer })
    }

    /// HTTP/2 without TLS on a Unix stream socket.
    pub async fn unix(path: &str) -> Result<Connection, HttpError> {
        let stream = limited(path, UnixStream::connect(Path::new(path))).await?;
        Self::start(path.into(), TokioIo::new(stream)).await
    }

    async fn start<T>(peer: String, stream: T) -> Result<Connection, HttpError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, driver) =
            conn::http2::Builder::new(TokioExecutor::new()).handshake(stream).await.map_err(failed(&peer))?;
        tokio::spawn(driver);
        Ok(Connection { sender: Sender::Second(sender), peer })
    }

    /// Whether the peer has hung up.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Second(sender) => sender.is_closed(),
            // Who is asking now will hear of it.
            Sender::First(sender) => sender.try_lock().is_ok_and(|sender| sender.is_closed()),
        }
    }

    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Sends a request; the answer's body is read by the caller.
    pub async fn send(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Response<Incoming>, HttpError> {
        let exchange = async {
            match self.sender.clone() {
                Sender::Second(mut sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::First(sender) => {
                    let mut sender = sender.lock().await;
                    sender.ready().await?;
                    sender.send_request(in_origin_form(request)).await
                }
            }
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer.map_err(failed(&self.peer)),
            Err(_) => Err(HttpError::Late { peer: self.peer.clone(), seconds: limit.as_secs() }),
        }
    }

    /// Sends a request and reads the whole body: status and bytes.
    pub async fn exchange(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<(u16, Bytes), HttpError> {
        self.exchange_up_to(usize::MAX, request, limit).await
    }

    /// The same with a body of so many bytes at most.
    pub async fn exchange_up_to(
        &self,
        largest: usize,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<(u16, Bytes), HttpError> {
        let answer = self.send(request, limit).await?;
        let status = answer.status().as_u16();
        let body = tokio::time::timeout(limit, Limited::new(answer.into_body(), largest).collect())
            .await
            .map_err(|_| HttpError::Late { peer: self.peer.clone(), seconds: limit.as_secs() })?
            .map_err(|error| HttpError::Exchange { peer: self.peer.clone(), reason: chain(error.as_ref()) })?;
        Ok((status, body.to_bytes()))
    }
}

fn failed(peer: &str) -> impl Fn(hyper::Error) -> HttpError {
    move |error| HttpError::Exchange { peer: peer.to_owned(), reason: chain(&error) }
}

/// HTTP/1.1 names the host in a header, where HTTP/2 has a field for it (RFC 9112 section 3.2.1).
fn in_origin_form(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let uri = request.uri().clone();
    let host = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let path = uri.path_and_query().and_then(|path| path.as_str().parse().ok());
    if let (Some(host), Some(path)) = (host, path) {
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = path;
    }
    request
}

async fn limited<T>(peer: &str, future: impl Future<Output = std::io::Result<T>>) -> Result<T, HttpError> {
    match tokio::time::timeout(CONNECT_LIMIT, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(HttpError::Connect { peer: peer.into(), source }),
        Err(_) => Err(HttpError::Late { peer: peer.into(), seconds: CONNECT_LIMIT.as_secs() }),
    }
}

/// Client configuration from PEM texts: the authorities to trust, our certificate and key.
pub fn tls(authority: &str, certificate: &str, key: &str) -> Result<Arc<ClientConfig>, HttpError> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(refused)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(refused)?;
    let config = trusting(authority)?.with_client_auth_cert(vec![certificate], key).map_err(refused)?;
    Ok(speaking(HTTP2, config))
}

/// The same without a certificate of ours: for what a server answers to anyone. By HTTP/1.1, since API servers hang up
/// on an anonymous client of HTTP/2 after each answer (Kubernetes' UnauthenticatedHTTP2DOSMitigation), and a handshake
/// costs a hundred answers.
pub fn tls_anonymous(authority: &str) -> Result<Arc<ClientConfig>, HttpError> {
    Ok(speaking(HTTP1, trusting(authority)?.with_no_client_auth()))
}

fn trusting(authority: &str) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, HttpError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.map_err(refused)?).map_err(refused)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    Ok(builder.with_root_certificates(roots))
}

fn speaking(version: &[u8], mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![version.to_vec()];
    Arc::new(config)
}

fn refused(error: impl std::fmt::Display) -> HttpError {
    HttpError::Tls(error.to_string())
}

/// An error with the errors below it: hyper's own text leaves the cause out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        text.push_str(": ");
        text.push_str(&error.to_string());
        below = error.source();
    }
    text
}
