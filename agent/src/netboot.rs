//! What init has the agent say to `imgbuild serve` when a machine starts from the network (`spec::netboot`). The server
//! is known by its certificate's SHA-256, which came with the kernel; the machine by a key that is drawn here, whose
//! beginning an operator compares.

use crate::files;
use crate::http::{Connection, HTTP2, HttpError};
use crate::machine::say;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use pki::{Authority, Leaf, LeafRequest, Pinned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use spec::agent::{KEY_DIGITS, Refusal};
use spec::netboot::path;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio_rustls::rustls::{ClientConfig, crypto::ring};

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);
/// Of a server that does not answer; init starts the machine again then, and so takes another server's files.
const PATIENCE: u32 = 60;
/// Drawn once a boot: certificate and key in one file.
const IDENTITY: &str = "/run/imgbuild/netboot.pem";

/// `agent netboot-seed SERVER PIN`: the introduction on standard input, the seed's payload on standard output.
///
/// # Errors
/// Why this machine gets none, in words.
pub async fn seed(server: &str, pin: &str) -> Result<(), String> {
    let question = question()?;
    let (tls, key) = identity(pin)?;
    let server: SocketAddr = server.parse().map_err(|error| format!("{server}: {error}"))?;
    let mut said = String::new();
    let mut silent = 0;
    loop {
        let waits = match ask(server, tls.clone(), path::SEED, &question).await {
            Ok((200, seed)) => return answer(&seed),
            Ok((202, refusal)) => {
                silent = 0;
                format!("this machine's key is {key}: {}", reason(&refusal))
            }
            Ok((_, refusal)) => return Err(reason(&refusal)),
            Err(error) => {
                silent += 1;
                if silent >= PATIENCE {
                    return Err(error.to_string());
                }
                error.to_string()
            }
        };
        if waits != said {
            say(&waits);
            said = waits;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// `agent netboot-report SERVER PIN`: the report on standard input.
///
/// # Errors
/// Why it was not taken, in words.
pub async fn report(server: &str, pin: &str) -> Result<(), String> {
    let question = question()?;
    let (tls, _) = identity(pin)?;
    let server: SocketAddr = server.parse().map_err(|error| format!("{server}: {error}"))?;
    match ask(server, tls, path::REPORT, &question).await {
        Ok((200, _)) => answer(b"told\n"),
        Ok((_, refusal)) => Err(reason(&refusal)),
        Err(error) => Err(error.to_string()),
    }
}

fn question() -> Result<Bytes, String> {
    let mut question = Vec::new();
    std::io::stdin().read_to_end(&mut question).map_err(|error| error.to_string())?;
    Ok(question.into())
}

fn answer(bytes: &[u8]) -> Result<(), String> {
    let mut output = std::io::stdout();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(|error| error.to_string())
}

async fn ask(
    server: SocketAddr,
    tls: Arc<ClientConfig>,
    path: &str,
    question: &Bytes,
) -> Result<(u16, Bytes), HttpError> {
    let connection = Connection::tls(server, &server.ip().to_string(), tls).await?;
    let request = Request::builder().method(Method::POST).uri(format!("https://{server}{path}"));
    let request = request.body(Full::new(question.clone())).map_err(|error| HttpError::Tls(error.to_string()))?;
    connection.exchange(request, LIMIT).await
}

fn reason(body: &[u8]) -> String {
    serde_json::from_slice::<Refusal>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |refusal| refusal.reason)
}

/// TLS with this boot's own key, and what an operator sees of that key.
fn identity(pin: &str) -> Result<(Arc<ClientConfig>, String), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let text = match files::read_if_there(Path::new(IDENTITY)).map_err(|error| words(&error))? {
        Some(text) => text,
        None => {
            let leaf = draw().map_err(|error| words(&error))?;
            let text = format!("{}{}", leaf.certificate, leaf.key);
            files::write(Path::new(IDENTITY), text.as_str(), 0o600, false).map_err(|error| words(&error))?;
            text
        }
    };
    let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| words(&error))?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| words(&error))?;
    let public = pki::inspect_der("this machine", &certificate).map_err(|error| words(&error))?.public_key;
    let shown = pki::fingerprint_der(&public)[..KEY_DIGITS].to_owned();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| words(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(pin)))
        .with_client_auth_cert(vec![certificate], key)
        .map_err(|error| words(&error))?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok((Arc::new(config), shown))
}

/// A certificate that nobody needs to trust: its key counts.
fn draw() -> pki::Result<Leaf> {
    let now = OffsetDateTime::now_utc();
    let request = LeafRequest::client("netboot", None, pki::JOIN_LIFE);
    Authority::new("netboot", now)?.issue(&request, now)
}
