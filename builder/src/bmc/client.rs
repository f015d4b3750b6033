//! A Redfish client: JSON over HTTP/1.1, basic authentication (DSP0266 section "Authentication"), and TLS to the one
//! certificate that the definition names.

use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use pki::Pinned;
use rustls_pki_types::ServerName;
use serde_json::Value;
use spec::cluster::Bmc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, crypto::ring};

/// BMCs are slow computers.
const LIMIT: Duration = Duration::from_secs(30);
const BODY_LIMIT: usize = 4 << 20;

pub struct Access {
    pub user: String,
    pub password: String,
}

/// One BMC. Each request has a connection of its own: BMCs have few, and forget them.
pub struct Client {
    runtime: Runtime,
    url: String,
    /// Host and port.
    authority: String,
    tls: Option<TlsConnector>,
    basic: String,
}

impl Client {
    pub fn new(bmc: &Bmc, access: Access) -> Result<Client> {
        let (scheme, host) = bmc.url.split_once("://").unwrap_or(("https", &bmc.url));
        let port = if scheme == "http" { 80 } else { 443 };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        let tls =
            if scheme == "http" { None } else { Some(connector(bmc.certificate.as_deref().unwrap_or_default())?) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Client {
            runtime: runtime.map_err(|error| Error::because("no event loop", error))?,
            url: bmc.url.clone(),
            authority,
            tls,
            basic: format!("Basic {}", BASE64.encode(format!("{}:{}", access.user, access.password))),
        })
    }

    pub fn failed(&self, what: &str) -> Error {
        Error::failure(format!("the BMC at {}: {what}", self.url))
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<()> {
        self.ask(Method::POST, path, Some(body), None).map(drop)
    }

    /// `etag`: of the document that is changed, where it has one.
    pub fn patch(&self, path: &str, body: &Value, etag: Option<&str>) -> Result<()> {
        self.ask(Method::PATCH, path, Some(body), etag).map(drop)
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>, etag: Option<&str>) -> Result<Value> {
        let what = format!("{method} {path}");
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        request = request.header(AUTHORIZATION, &self.basic).header("OData-Version", "4.0");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(etag) = etag {
            request = request.header(IF_MATCH, etag);
        }
        let request = request.body(Full::new(body)).map_err(|error| self.failed(&format!("{what}: {error}")))?;
        let answer = self.runtime.block_on(async { tokio::time::timeout(LIMIT, self.exchange(request)).await });
        let (status, bytes) = match answer {
            Err(_) => return Err(self.failed(&format!("{what}: no answer within {} s", LIMIT.as_secs()))),
            Ok(Err(error)) => return Err(self.silent(&what, &error)),
            Ok(Ok(answer)) => answer,
        };
        let document = serde_json::from_slice::<Value>(&bytes);
        match status {
            200..=299 if bytes.is_empty() => Ok(Value::Null),
            200..=299 => document.map_err(|error| self.failed(&format!("{what}: no document: {error}"))),
            401 | 403 => Err(self
                .failed(&format!("{what}: it does not let this user in (status {status})"))
                .help("correct user and password in bmc.toml")),
            _ => Err(self.failed(&format!("{what}: {}", refusal(status, document.unwrap_or_default())))),
        }
    }

    /// One that is not trusted says which certificate it has.
    fn silent(&self, what: &str, error: &std::io::Error) -> Error {
        let failure = self.failed(&format!("{what}: {error}"));
        if error.to_string().contains("SHA-256") {
            return failure.help(
                "if its own page or sticker says the same, write it as `certificate` into its bmc in cluster.toml",
            );
        }
        failure
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> std::io::Result<(u16, Bytes)> {
        let stream = TcpStream::connect(&self.authority).await?;
        match &self.tls {
            None => send(TokioIo::new(stream), request).await,
            Some(tls) => {
                let address = stream.peer_addr()?.ip();
                send(TokioIo::new(tls.connect(ServerName::IpAddress(address.into()), stream).await?), request).await
            }
        }
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> std::io::Result<(u16, Bytes)>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let other = std::io::Error::other::<hyper::Error>;
    let (mut sender, connection) = http1::handshake(stream).await.map_err(other)?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(other)?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await.map_err(std::io::Error::other)?;
    Ok((status, body.to_bytes()))
}

fn connector(certificate: &str) -> Result<TlsConnector> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::because("TLS cannot be set up", error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(certificate)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The BMC's own words (DSP0266 section "Error responses").
fn refusal(status: u16, document: Value) -> String {
    let error = &document["error"];
    let extended = error["@Message.ExtendedInfo"][0]["Message"].as_str();
    let words = extended.or_else(|| error["message"].as_str()).unwrap_or("without a word");
    format!("refused with status {status}: {words}")
}
