//! The machine's own balancer: listens on loopback and passes TCP through to the masters' API servers,
//! so that no machine depends on one master or on a balancer outside. It does not end TLS: the client
//! verifies the API server itself.
//!
//! Architecture invariant: a healthy connection is never cut. New connections go to API servers that
//! say they are ready; one that stops being ready keeps those it has and ends them itself. Only when a
//! machine is silent, to probes and to its clients, while another is ready, its connections are closed,
//! since a dead machine closes none.

mod backend;
#[cfg(test)]
mod tests;

use crate::machine::say;
use backend::{Backend, Health, Heard, Prober, judge_connect};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::net::sockopt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

/// After a failed accept: descriptors may be free again then.
const PAUSE: Duration = Duration::from_millis(100);
/// A backend's kernel that acknowledges nothing for this long is gone, whatever the probes say.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long a probe begins anew, with a new connection.
const PATIENCE: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(3);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between a probe's answer and the next probe; longer where an answer takes longer or says no.
    pub interval: Duration,
    /// For a probe's answer, before the backend counts as silent.
    pub probe_limit: Duration,
    /// For a connect, before the next backend is tried.
    pub connect_limit: Duration,
    /// Of silence, before connections are closed; more than a probe and the pause before it.
    pub silence_limit: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            interval: Duration::from_millis(500),
            probe_limit: Duration::from_secs(1),
            connect_limit: Duration::from_secs(1),
            // Clients are to notice a dead machine within 2 s.
            silence_limit: Duration::from_millis(1800),
        }
    }
}

/// The balancer; clones are the same one.
#[derive(Clone)]
pub struct Balancer(Arc<Shared>);

struct Shared {
    backends: watch::Sender<Vec<Arc<Backend>>>,
    server_name: String,
    tls: Arc<ClientConfig>,
    timing: Timing,
    /// Whether any backend is.
    ready: watch::Sender<bool>,
    /// Counts connections, for round robin.
    turn: AtomicUsize,
}

impl Balancer {
    /// `server_name`: what the API servers' certificates must say. `tls`: trusts the Kubernetes
    /// authority; see `http::tls_anonymous`.
    pub fn new(backends: Vec<SocketAddr>, server_name: &str, tls: Arc<ClientConfig>) -> Balancer {
        Self::with_timing(backends, server_name, tls, Timing::default())
    }

    pub fn with_timing(
        backends: Vec<SocketAddr>,
        server_name: &str,
        tls: Arc<ClientConfig>,
        timing: Timing,
    ) -> Balancer {
        let balancer = Balancer(Arc::new(Shared {
            backends: watch::Sender::new(Vec::new()),
            server_name: server_name.into(),
            tls,
            timing,
            ready: watch::Sender::new(false),
            turn: AtomicUsize::new(random()),
        }));
        balancer.set_backends(backends);
        balancer
    }

    /// Other API servers from now on. One that stays keeps its state; one that leaves keeps its
    /// connections until they end.
    pub fn set_backends(&self, addresses: Vec<SocketAddr>) {
        self.0.backends.send_if_modified(|backends| {
            if backends.iter().map(|backend| backend.address).eq(addresses.iter().copied()) {
                return false;
            }
            let known = |address| backends.iter().find(|backend| backend.address == address).cloned();
            *backends = addresses
                .into_iter()
                .map(|address| known(address).unwrap_or_else(|| Arc::new(Backend::new(address))))
                .collect();
            true
        });
    }

    /// Ends when an API server is ready; it is [`Balancer::serve`] that asks.
    pub async fn until_ready(&self) {
        // The sender lives as long as this balancer.
        drop(self.0.ready.subscribe().wait_for(|ready| *ready).await);
    }

    /// Probes and passes connections on, for ever; all of it ends when the future is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let mut tasks = JoinSet::new();
        let mut watched: Vec<Arc<Backend>> = Vec::new();
        let mut changes = self.0.backends.subscribe();
        changes.mark_changed();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => {
                        tasks.spawn(pass(self.0.clone(), client));
                    }
                    Err(error) => {
                        say(format!("balancer: accepting a connection: {error}"));
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
                Ok(()) = changes.changed() => {
                    let now = changes.borrow_and_update().clone();
                    for backend in now.iter().filter(|backend| !contains(&watched, backend)) {
                        tasks.spawn(watch(self.0.clone(), backend.clone()));
                    }
                    watched = now;
                }
            }
        }
    }
}

impl Shared {
    /// The ready ones, a different one first each time; behind them the others, for when none is.
    fn candidates(&self) -> Vec<Arc<Backend>> {
        let (mut ready, others): (Vec<_>, Vec<_>) =
            self.backends.borrow().iter().cloned().partition(|backend| backend.is_ready());
        if !ready.is_empty() {
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % ready.len();
            ready.rotate_left(first);
        }
        ready.extend(others);
        ready
    }

    fn another_is_ready(&self, than: &Backend) -> bool {
        self.backends.borrow().iter().any(|backend| backend.address != than.address && backend.is_ready())
    }
}

fn contains(backends: &[Arc<Backend>], wanted: &Arc<Backend>) -> bool {
    backends.iter().any(|backend| Arc::ptr_eq(backend, wanted))
}

/// Somewhere to start, so that the nodes' first connections spread over the masters.
fn random() -> usize {
    let mut bytes = [0u8; 2];
    // Without randomness they start at the first, which works too.
    let _ = SystemRandom::new().fill(&mut bytes);
    usize::from(u16::from_ne_bytes(bytes))
}

/// Probes a backend for as long as it is listed, and cuts its connections when it is dead.
async fn watch(shared: Arc<Shared>, backend: Arc<Backend>) {
    let timing = shared.timing;
    let listed = || contains(&shared.backends.borrow(), &backend);
    let mut prober = Prober {
        address: backend.address,
        server_name: shared.server_name.clone(),
        tls: shared.tls.clone(),
        limit: PATIENCE,
        kept: None,
    };
    loop {
        let asked = Instant::now();
        let mut probe = pin!(prober.probe());
        let health = match tokio::time::timeout(timing.probe_limit, &mut probe).await {
            Ok(health) => health,
            // One that is only slow answers this question; a new connection would make it slower still.
            Err(_) if listed() => {
                backend.note(Health::Silent(format!("no answer within {} ms", timing.probe_limit.as_millis())));
                cutting(&shared, &backend, probe).await
            }
            Err(_) => return,
        };
        if !listed() {
            return;
        }
        // What starts or is dead is asked less often.
        let pause = if health == Health::Ready { timing.interval.max(asked.elapsed()) } else { 2 * timing.interval };
        backend.note(health);
        shared.ready.send_replace(shared.backends.borrow().iter().any(|backend| backend.is_ready()));
        cutting(&shared, &backend, tokio::time::sleep(pause)).await;
    }
}

/// Waits for something, and meanwhile closes the backend's connections once it has been silent for too long.
async fn cutting<T>(shared: &Shared, backend: &Backend, wait: impl Future<Output = T>) -> T {
    let mut wait = pin!(wait);
    tokio::select! {
        done = &mut wait => return done,
        () = backend.silence(shared.timing.silence_limit), if backend.is_silent() => {}
    }
    // Where no other is ready, its clients have nowhere better to go.
    if shared.another_is_ready(backend) {
        backend.cut();
    }
    wait.await
}

/// Connects a client to the first backend that lets it, and copies until one side ends.
async fn pass(shared: Arc<Shared>, mut client: TcpStream) {
    // Only delays where it fails.
    let _ = client.set_nodelay(true);
    for backend in shared.candidates() {
        let cut = backend.is_cut();
        match connect(backend.address, shared.timing.connect_limit).await {
            Ok(stream) => {
                let mut stream = Heard { stream, backend: &backend };
                tokio::select! {
                    // Either side's error ends the connection for the other; there is nobody to tell.
                    _ = tokio::io::copy_bidirectional(&mut client, &mut stream) => {}
                    () = cut => {}
                }
                return;
            }
            // The next probe says otherwise when it was a moment's fault.
            Err(error) => backend.note(judge_connect(&error)),
        }
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(address)).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} ms", limit.as_millis()))
    })??;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT.as_millis() as u32)?;
    Ok(stream)
}
