//! Seeds over TLS (`spec::netboot`). The server's certificate is drawn at each start and its SHA-256 travels with the
//! kernel; a machine shows a key of its own, which an operator lets in.

use super::follow::follow;
use super::http::Site;
use super::machines::{Known, Signs, Verdict, find};
use crate::cluster::{Definition, seed_files};
use crate::error::{Error, Result};
use crate::project::Project;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{Authority, LeafRequest};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use spec::agent::Refusal;
use spec::netboot::{Introduction, Report, path};
use spec::ports;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig, SignatureScheme,
};

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const BODY_LIMIT: usize = 64 * 1024;

/// Certificate and key of this run.
pub struct Identity {
    config: Arc<ServerConfig>,
    /// SHA-256 of the certificate, hexadecimal.
    pub pin: String,
}

impl Identity {
    /// Draws a key.
    ///
    /// # Errors
    /// The machine gives no random bytes.
    pub fn draw(address: IpAddr, now: OffsetDateTime) -> Result<Identity> {
        let authority = Authority::new("imgbuild serve", now).map_err(Error::from_failure)?;
        let request = LeafRequest::server("imgbuild serve", Vec::new(), vec![address], pki::LEAF_LIFE);
        let leaf = authority.issue(&request, now).map_err(Error::from_failure)?;
        let broken = |error: &dyn std::fmt::Display| Error::failure(format!("the certificate of this run: {error}"));
        let certificate =
            CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).map_err(|error| broken(&error))?;
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(|error| broken(&error))?;
        let pin = pki::fingerprint_der(&certificate);
        let provider = ring::default_provider();
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_safe_default_protocol_versions()
            .map_err(|error| broken(&error))?
            .with_client_cert_verifier(Arc::new(AnyKey(provider)))
            .with_single_cert(vec![certificate], key)
            .map_err(|error| broken(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Identity { config: Arc::new(config), pin })
    }
}

/// Any certificate, as long as its key signs the handshake: an operator judges the key.
#[derive(Debug)]
struct AnyKey(CryptoProvider);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What seeds are made of.
pub struct Seeds {
    pub project: Project,
    /// The cluster's name. Its definition is read for each seed: whether it has formed counts.
    pub cluster: String,
    pub site: Arc<Site>,
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, identity: Identity, seeds: Arc<Seeds>) {
    let acceptor = TlsAcceptor::from(identity.config);
    loop {
        if let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(answer_all(acceptor.clone(), stream, peer.ip(), seeds.clone()));
        }
    }
}

async fn answer_all(acceptor: TlsAcceptor, stream: TcpStream, peer: IpAddr, seeds: Arc<Seeds>) {
    // Who speaks no TLS, or too slowly, hears nothing.
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|certificates| certificates.first());
    let public = certificate.and_then(|certificate| pki::inspect_der("machine", certificate).ok());
    let Some(public) = public else { return };
    let key: Arc<str> = pki::fingerprint_der(&public.public_key).into();
    let service = service_fn(move |request| {
        let (seeds, key) = (seeds.clone(), key.clone());
        async move { Ok::<_, Infallible>(seeds.answer(&key, peer, request).await) }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

impl Seeds {
    async fn answer(&self, key: &str, peer: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let is_post = request.method() == Method::POST;
        let Ok(body) = Limited::new(request.into_body(), BODY_LIMIT).collect().await else {
            return refusal(StatusCode::BAD_REQUEST, "the question is too long");
        };
        let body = body.to_bytes();
        match path.as_str() {
            path::SEED if is_post => match serde_json::from_slice(&body) {
                Ok(introduction) => self.seed(key, peer, &introduction),
                Err(error) => refusal(StatusCode::BAD_REQUEST, format!("no introduction: {error}")),
            },
            path::REPORT if is_post => match serde_json::from_slice(&body) {
                Ok(Report::Installed { disk }) if self.site.machines.installed(key, &disk) => {
                    Response::new(Full::default())
                }
                Ok(_) => refusal(StatusCode::FORBIDDEN, "this key has had no seed"),
                Err(error) => refusal(StatusCode::BAD_REQUEST, format!("no report: {error}")),
            },
            _ => refusal(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    fn seed(&self, key: &str, peer: IpAddr, introduction: &Introduction) -> Response<Full<Bytes>> {
        let definition = match Definition::of_name(&self.project, &self.cluster) {
            Ok(definition) => definition,
            Err(error) => return refusal(StatusCode::FORBIDDEN, error.to_string()),
        };
        let signs = Signs { macs: introduction.macs.clone(), serial: introduction.serial.clone() };
        let known = match find(&definition.cluster, &signs, Some(introduction.role)) {
            Ok(known) => known,
            Err(reason) => return refusal(StatusCode::FORBIDDEN, reason),
        };
        if let Some(reason) = forgets_everything(&definition, &known) {
            return refusal(StatusCode::FORBIDDEN, reason);
        }
        let mac = introduction.macs.first().map_or("", String::as_str);
        let name = known.name(mac);
        if let Verdict::Waits(what) = self.site.machines.asks(introduction, &known, key) {
            return refusal(StatusCode::ACCEPTED, what);
        }
        let machine = matches!(known, Known::Listed(..)).then_some(name);
        let files = seed_files(&definition, machine, introduction.role, OffsetDateTime::now_utc());
        let payload = files.and_then(|files| seed::archive::encode(&files).map_err(Error::from_failure));
        match payload {
            Ok(payload) => {
                let follower = self.site.machines.given(mac);
                let (name, address) = agent_of(&definition, &known, introduction, peer);
                if let Err(error) = follow(&definition, &name, address, follower, &self.site.machines) {
                    self.site.machines.warn(&format!("{name} cannot be asked how it goes on: {error}"));
                }
                Response::new(Full::new(payload.into()))
            }
            Err(error) => {
                self.site.machines.warn(&format!("{name}: {error}"));
                refusal(StatusCode::FORBIDDEN, error.to_string())
            }
        }
    }
}

/// The machine's name in its agent's certificate, and where that agent will be: without an address in the definition,
/// where it asks from.
fn agent_of(definition: &Definition, known: &Known, introduction: &Introduction, peer: IpAddr) -> (String, SocketAddr) {
    let name = match (known, &definition.cluster.any_node, introduction.macs.iter().min()) {
        (Known::Any, Some(any), Some(mac)) => any.name(mac),
        _ => known.name("").to_owned(),
    };
    let address = definition.agent_address(&name, None);
    (name, address.unwrap_or(SocketAddr::new(peer, ports::AGENT)))
}

/// Why a machine must not run from memory.
fn forgets_everything(definition: &Definition, known: &Known) -> Option<String> {
    let Known::Listed(name, _) = known else { return None };
    definition.cluster.machine(name)?.forgets_without_a_disk().then(|| {
        format!(
            "{name} is a master and would keep its state in memory: give it a state-disk or an install in cluster.toml"
        )
    })
}

fn refusal(code: StatusCode, reason: impl Into<String>) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(&Refusal { reason: reason.into() }).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    response
}
