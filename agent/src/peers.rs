//! The other machines' agents: mutual TLS with certificates of the `machine` authority, verified by
//! the machine's name. One connection to each, made anew when it broke.

use crate::facts::Facts;
use crate::http::{Connection, HttpError};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spec::agent::Refusal;
use spec::cluster::Machine;
use spec::ports;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::ClientConfig;

/// A machine that needs longer is silent.
const LIMIT: Duration = Duration::from_secs(3);

/// Why a machine's agent gave no answer that is of use.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the cluster definition has no other master")]
    Alone,
    #[error("no address of {0} is in the cluster definition")]
    NoAddress(String),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{name}: {reason}")]
    Refused { name: String, reason: String },
    #[error("{name}: {reason}")]
    Content { name: String, reason: String },
}

/// The masters' agents.
pub struct Peers {
    tls: Arc<ClientConfig>,
    masters: BTreeMap<String, Option<SocketAddr>>,
    connections: RefCell<BTreeMap<String, Connection>>,
}

impl Peers {
    /// All but this machine's own.
    pub fn new(facts: &Facts, tls: Arc<ClientConfig>) -> Peers {
        let mut peers = Peers::with_own(facts, tls);
        peers.masters.remove(&facts.identity.name);
        peers
    }

    pub fn with_own(facts: &Facts, tls: Arc<ClientConfig>) -> Peers {
        let socket = |machine: &Machine| Some(SocketAddr::new(machine.static_address()?, ports::AGENT));
        let masters = facts.cluster.masters().map(|machine| (machine.name.clone(), socket(machine))).collect();
        Peers { tls, masters, connections: RefCell::default() }
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.masters.keys()
    }

    /// GET of a JSON document.
    pub async fn get<A: DeserializeOwned>(&self, name: &str, path: &str) -> Result<A, PeerError> {
        self.ask(name, Request::get(url(path)), Bytes::new()).await
    }

    /// POST of one JSON document, answered by another; a refusal's reason becomes the error.
    pub async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        name: &str,
        path: &str,
        question: &Q,
    ) -> Result<A, PeerError> {
        let body = serde_json::to_vec(question).map_err(|error| content(name, &error))?;
        self.ask(name, Request::post(url(path)).header("content-type", "application/json"), body.into()).await
    }

    /// The same of whichever master answers first, in the order of their names.
    ///
    /// # Errors
    /// The last one's refusal, else why the last one did not answer.
    pub async fn ask_any<Q: Serialize, A: DeserializeOwned>(&self, path: &str, question: &Q) -> Result<A, PeerError> {
        let mut last = PeerError::Alone;
        for name in self.names() {
            match self.post(name, path, question).await {
                Ok(answer) => return Ok(answer),
                // What one has to say is worth more than another's silence.
                Err(error) if !matches!(last, PeerError::Refused { .. }) => last = error,
                Err(error @ PeerError::Refused { .. }) => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        name: &str,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<A, PeerError> {
        let request = request.body(Full::new(body)).map_err(|error| content(name, &error))?;
        let exchange = async { self.connection(name).await?.exchange(request, LIMIT).await.map_err(PeerError::from) };
        let late = || HttpError::Late { peer: name.into(), seconds: LIMIT.as_secs() };
        let outcome = tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(|_| Err(late().into()));
        if outcome.is_err() {
            self.connections.borrow_mut().remove(name);
        }
        match outcome? {
            (200, bytes) => serde_json::from_slice(&bytes).map_err(|error| content(name, &error)),
            (code, bytes) => {
                let refusal = serde_json::from_slice::<Refusal>(&bytes);
                let reason = refusal.map_or_else(|_| format!("HTTP {code}"), |refusal| refusal.reason);
                Err(PeerError::Refused { name: name.into(), reason })
            }
        }
    }

    async fn connection(&self, name: &str) -> Result<Connection, PeerError> {
        let known = self.connections.borrow().get(name).filter(|connection| !connection.is_closed()).cloned();
        if let Some(connection) = known {
            return Ok(connection);
        }
        let address = self.masters.get(name).copied().flatten().ok_or_else(|| PeerError::NoAddress(name.into()))?;
        let connection = Connection::tls(address, name, self.tls.clone()).await?;
        self.connections.borrow_mut().insert(name.into(), connection.clone());
        Ok(connection)
    }
}

fn url(path: &str) -> String {
    format!("https://agent{path}")
}

fn content(name: &str, error: &dyn std::fmt::Display) -> PeerError {
    PeerError::Content { name: name.into(), reason: error.to_string() }
}
