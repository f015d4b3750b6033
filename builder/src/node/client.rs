//! A client of one machine's agent: HTTP/1.1 over mutual TLS. The machine is verified by its name,
//! whatever address it is reached at.

use crate::cluster::{Definition, machine_authority, operator_credential};
use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spec::agent::Refusal;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Duration;
use time::OffsetDateTime;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body, http};

/// Bytes of a document: more than any machine has to say.
const DOCUMENT_LIMIT: u64 = 64 << 20;

/// Who asks: a certificate made for this command, and the authorities that machines are verified by.
pub struct Caller {
    certificate: Certificate<'static>,
    key: PrivateKey<'static>,
    authorities: Vec<Certificate<'static>>,
}

impl Caller {
    /// One with this role (`spec::agent::organization`).
    ///
    /// # Errors
    /// A failure when the cluster's secrets cannot be read or do not serve.
    pub fn of(definition: &Definition, organization: &str, now: OffsetDateTime) -> Result<Caller> {
        let leaf = operator_credential(definition, organization, now)?;
        let authorities = pki::bundle("machine.crt", &machine_authority(definition)?).map_err(Error::from_failure)?;
        let failed = |error| Error::because("the operator's certificate cannot be used", error);
        Ok(Caller {
            certificate: Certificate::from_pem(leaf.certificate.as_bytes()).map_err(failed)?,
            key: PrivateKey::from_pem(leaf.key.as_bytes()).map_err(failed)?,
            authorities: authorities
                .iter()
                .map(|authority| Certificate::from_pem(authority.as_bytes()).map_err(failed))
                .collect::<Result<_>>()?,
        })
    }
}

/// Why there is no answer that is of use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("does not answer: {0}")]
    Silent(String),
    /// The machine's own words.
    #[error("{reason}")]
    Refused { code: u16, reason: String },
    #[error("gives an answer that is none: {0}")]
    Content(String),
}

/// One machine's agent.
pub struct Client {
    agent: Agent,
    name: String,
    address: SocketAddr,
    limit: Duration,
}

impl Client {
    /// For the machine `name` at `address`; each answer must be there within `limit`.
    pub fn new(caller: &Caller, name: &str, address: SocketAddr, limit: Duration) -> Client {
        let tls = TlsConfig::builder()
            .client_cert(Some(ClientCert::new_with_certs(
                std::slice::from_ref(&caller.certificate),
                caller.key.to_owned(),
            )))
            .root_certs(RootCerts::new_with_certs(&caller.authorities))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(limit))
            .timeout_recv_response(Some(limit))
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), At(address));
        Client { agent, name: name.to_owned(), address, limit }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// GET of a JSON document.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> std::result::Result<A, Trouble> {
        let request = self.agent.get(self.url(path)).config().timeout_global(Some(self.limit)).build();
        document(request.call().map_err(|error| self.silent(&error))?)
    }

    /// POST of one JSON document, answered by another.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, question: &Q) -> std::result::Result<A, Trouble> {
        let body = serde_json::to_vec(question).map_err(|error| Trouble::Content(error.to_string()))?;
        let request = self.agent.post(self.url(path)).config().timeout_global(Some(self.limit)).build();
        let answer = request.content_type("application/json").send(&body);
        document(answer.map_err(|error| self.silent(&error))?)
    }

    /// POST of bytes, answered by a JSON document.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn post_bytes<A: DeserializeOwned>(&self, path: &str, body: &[u8]) -> std::result::Result<A, Trouble> {
        let request = self.agent.post(self.url(path)).config().timeout_global(Some(self.limit)).build();
        let answer = request.content_type("application/octet-stream").send(body);
        document(answer.map_err(|error| self.silent(&error))?)
    }

    /// GET of a text that may go on for ever.
    ///
    /// # Errors
    /// [`Trouble`], as long as nothing was read.
    pub fn stream(&self, path: &str) -> std::result::Result<impl Read + use<>, Trouble> {
        let answer = self.agent.get(self.url(path)).call().map_err(|error| self.silent(&error))?;
        match answer.status().as_u16() {
            200 => Ok(answer.into_body().into_reader()),
            _ => Err(refusal(answer)),
        }
    }

    /// The trouble as the end of a command: bad input where the request was wrong.
    pub fn error(&self, trouble: &Trouble) -> Error {
        match trouble {
            Trouble::Silent(_) => Error::failure(format!("{} at {} {trouble}", self.name, self.address)).help(format!(
                "is it on, is {} its address, and does its firewall let this host in? Another address: --address IP[:PORT]",
                self.address.ip()
            )),
            Trouble::Refused { code: 400 | 404, reason } => Error::bad_input(format!("{}: {reason}", self.name)),
            _ => Error::failure(format!("{}: {trouble}", self.name)),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.name)
    }

    fn silent(&self, error: &ureq::Error) -> Trouble {
        let reason = match error {
            ureq::Error::Timeout(_) => format!("nothing within {} s", self.limit.as_secs()),
            ureq::Error::Io(error) => match error.kind() {
                kind @ (ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::ConnectionReset) => kind.to_string(),
                ErrorKind::TimedOut => format!("nothing within {} s", self.limit.as_secs()),
                _ => error.to_string(),
            },
            _ => error.to_string(),
        };
        Trouble::Silent(reason)
    }
}

/// Every name is at this address: certificates name machines, not addresses.
#[derive(Debug)]
struct At(SocketAddr);

impl Resolver for At {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(self.0);
        Ok(addresses)
    }
}

fn document<A: DeserializeOwned>(answer: http::Response<Body>) -> std::result::Result<A, Trouble> {
    if answer.status().as_u16() != 200 {
        return Err(refusal(answer));
    }
    let content = |error: &dyn std::fmt::Display| Trouble::Content(error.to_string());
    let body = answer.into_body().into_with_config().limit(DOCUMENT_LIMIT).read_to_vec();
    serde_json::from_slice(&body.map_err(|error| content(&error))?).map_err(|error| content(&error))
}

fn refusal(answer: http::Response<Body>) -> Trouble {
    let code = answer.status().as_u16();
    let body = answer.into_body().into_with_config().limit(DOCUMENT_LIMIT).read_to_vec().unwrap_or_default();
    let refusal = serde_json::from_slice::<Refusal>(&body);
    Trouble::Refused { code, reason: refusal.map_or_else(|_| format!("HTTP {code}"), |refusal| refusal.reason) }
}
