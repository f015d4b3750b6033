//! The agent's own API (`spec::agent`): HTTP/1.1 and HTTP/2 over mutual TLS. Who has no certificate
//! of the `machine` authority does not get as far as a request.

use crate::machine::say;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::server::conn;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use spec::agent::Refusal;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto::ring};

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Of one request with its answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// A bundle's manifest is the longest.
const BODY_LIMIT: usize = bundle::MANIFEST_LIMIT;
/// A caller that is silent for this long is asked by TCP whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const CONNECTION_LIMIT: usize = 256;

/// Who asks, by the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    /// `spec::agent::organization`; empty where the certificate has none or several.
    pub organization: String,
    /// When its certificate was issued, seconds since the epoch.
    pub issued: i64,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    /// What stands behind the path's `?`; empty without one.
    pub query: &'a str,
    pub body: &'a [u8],
}

/// An answer: 200 and a document or a text, or a refusal with its reason.
#[derive(Debug)]
pub struct Answer {
    pub code: StatusCode,
    pub content_type: &'static str,
    pub content: Content,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Content {
    /// Taken when it has been sent.
    Whole(Option<Bytes>),
    /// As it comes, until the sender is dropped; a caller that hangs up closes the channel.
    Chunks(mpsc::Receiver<Bytes>),
}

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

impl Answer {
    pub fn of<T: Serialize>(document: &T) -> Answer {
        match serde_json::to_vec(document) {
            Ok(body) => Answer::json(StatusCode::OK, body),
            Err(error) => Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    pub fn refusal(code: StatusCode, reason: impl Into<String>) -> Answer {
        Answer::json(code, serde_json::to_vec(&Refusal { reason: reason.into() }).unwrap_or_default())
    }

    /// Text that is sent as it comes.
    pub fn text(chunks: mpsc::Receiver<Bytes>) -> Answer {
        Answer { code: StatusCode::OK, content_type: TEXT, content: Content::Chunks(chunks) }
    }

    /// Bytes that are sent as they come.
    pub fn bytes(chunks: mpsc::Receiver<Bytes>) -> Answer {
        Answer { code: StatusCode::OK, content_type: BYTES, content: Content::Chunks(chunks) }
    }

    fn json(code: StatusCode, body: Vec<u8>) -> Answer {
        Answer { code, content_type: JSON, content: Content::Whole(Some(body.into())) }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Content::Whole(body) => Poll::Ready(body.take()),
            Content::Chunks(chunks) => chunks.poll_recv(context),
        };
        data.map(|data| data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Content::Chunks(_) => SizeHint::default(),
        }
    }
}

/// What answers the requests.
pub trait Handler: 'static {
    async fn answer(&self, caller: &Caller, question: &Question<'_>) -> Answer;
}

/// TLS with this certificate and key (PEM) that lets in whom `authority` (PEM) has signed.
///
/// # Errors
/// What is no TLS material, in words.
pub fn tls(authority: &str, certificate: &str, key: &str) -> Result<Arc<ServerConfig>, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| words(&error));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.map_err(|error| words(&error))?).map_err(|error| words(&error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| words(&error))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| words(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| words(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![pem(certificate)?], key)
        .map_err(|error| words(&error))?;
    config.alpn_protocols = vec![crate::http::HTTP2.to_vec(), crate::http::HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// Opens the port.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves for ever; needs a `LocalSet`.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, handler: Rc<impl Handler>) {
    let acceptor = TlsAcceptor::from(tls);
    let room = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, handler) = (acceptor.clone(), handler.clone());
                tokio::task::spawn_local(async move {
                    connection(acceptor, stream, handler).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others end and give theirs back.
                say(format!("the agent's port: {error}"));
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// What goes wrong with one caller's connection is the caller's to see.
async fn connection(acceptor: TlsAcceptor, stream: TcpStream, handler: Rc<impl Handler>) {
    drop(stream.set_nodelay(true));
    // Who follows a log from a machine that was switched off would hold its place for ever.
    let kept = sockopt::set_socket_keepalive(&stream, true);
    let _ = kept.and_then(|()| sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await else { return };
    let session = stream.get_ref().1;
    let Some(caller) = session.peer_certificates().and_then(|chain| caller(chain.first()?)) else { return };
    let second_version = session.alpn_protocol() == Some(crate::http::HTTP2);
    let service = service_fn(|request: Request<Incoming>| {
        let (caller, handler) = (caller.clone(), handler.clone());
        async move { Ok::<_, Infallible>(respond(&caller, request, &*handler).await) }
    });
    let io = TokioIo::new(stream);
    if second_version {
        drop(conn::http2::Builder::new(Local).timer(TokioTimer::new()).serve_connection(io, service).await);
    } else {
        let mut builder = conn::http1::Builder::new();
        drop(builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_LIMIT).serve_connection(io, service).await);
    }
}

fn caller(certificate: &CertificateDer<'_>) -> Option<Caller> {
    let found = pki::inspect_der("the caller's certificate", certificate).ok()?;
    let organization = match found.organizations.as_slice() {
        [only] => only.clone(),
        _ => String::new(),
    };
    let issued = (found.not_before + pki::LEAF_BACKDATE).unix_timestamp();
    Some(Caller { name: found.common_name, organization, issued })
}

async fn respond(caller: &Caller, request: Request<Incoming>, handler: &impl Handler) -> Response<Content> {
    let (parts, body) = request.into_parts();
    let work = async {
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Answer::refusal(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        handler.answer(caller, &Question { method: &parts.method, path, query, body: &body }).await
    };
    let late = || Answer::refusal(StatusCode::SERVICE_UNAVAILABLE, "no answer in time");
    let answer = tokio::time::timeout(REQUEST_LIMIT, work).await.unwrap_or_else(|_| late());
    let mut response = Response::new(answer.content);
    *response.status_mut() = answer.code;
    response.headers_mut().insert("content-type", HeaderValue::from_static(answer.content_type));
    response
}

/// hyper's tasks on this thread: the agent's state is not shared between threads.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The whole body of an answer.
    pub async fn body(answer: Answer) -> Vec<u8> {
        answer.content.collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_body_is_sent_whole_or_as_it_comes() {
        assert_eq!(body(Answer::of(&[1, 2])).await, b"[1,2]");
        let refusal = Answer::refusal(StatusCode::CONFLICT, "not now");
        assert_eq!(refusal.content.size_hint().exact(), Some(20));
        assert_eq!(body(refusal).await, b"{\"reason\":\"not now\"}");
        let (sender, receiver) = mpsc::channel(1);
        let send = async move {
            for part in ["one ", "two"] {
                sender.send(Bytes::from_static(part.as_bytes())).await.unwrap();
            }
        };
        let (text, ()) = tokio::join!(body(Answer::text(receiver)), send);
        assert_eq!(text, b"one two");
    }
}
