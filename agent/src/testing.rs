//! For tests: a certificate authority and HTTP servers with TLS on loopback.
#![allow(clippy::unwrap_used)]

use crate::http;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{Authority, LeafRequest};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ClientConfig, ServerConfig, crypto};

/// What the servers' certificates say.
pub const NAME: &str = "localhost";

pub struct TestTls {
    authority: Authority,
    acceptor: TlsAcceptor,
}

impl TestTls {
    pub fn new() -> TestTls {
        let now = OffsetDateTime::now_utc();
        let authority = Authority::new("test", now).unwrap();
        let request = LeafRequest::server("kube-apiserver", vec![NAME.into()], vec![], time::Duration::days(1));
        let leaf = authority.issue(&request, now).unwrap();
        let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![http::HTTP2.to_vec(), http::HTTP1.to_vec()];
        TestTls { authority, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// For clients that trust these servers.
    pub fn client(&self) -> Arc<ClientConfig> {
        http::tls_anonymous(self.authority.certificate()).unwrap()
    }

    /// A server for as long as the test runs; status and JSON are `answer`'s.
    pub async fn serve<F>(&self, answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> SocketAddr
    where
        F: Future<Output = (u16, Value)> + Send + 'static,
    {
        let listener = listen(0).await;
        let address = listener.local_addr().unwrap();
        let acceptor = self.acceptor();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                let answer = move |request| {
                    let answer = answer(request);
                    async move {
                        let (code, body) = answer.await;
                        (code, body.to_string())
                    }
                };
                tokio::spawn(serve_connection(acceptor, stream, answer));
            }
        });
        address
    }
}

pub async fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap()
}

/// Serves one connection until it ends; status and text are `answer`'s.
pub async fn serve_connection<F>(acceptor: TlsAcceptor, stream: TcpStream, answer: impl Fn(Request<Incoming>) -> F)
where
    F: Future<Output = (u16, String)> + Send + 'static,
{
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = hyper::service::service_fn(|request| {
        let answer = answer(request);
        async move {
            let (code, text) = answer.await;
            Ok::<_, Infallible>(Response::builder().status(code).body(Full::<Bytes>::from(text)).unwrap())
        }
    });
    let second_version = stream.get_ref().1.alpn_protocol() == Some(http::HTTP2);
    let io = TokioIo::new(stream);
    let _ = if second_version {
        conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        conn::http1::Builder::new().serve_connection(io, service).await
    };
}
