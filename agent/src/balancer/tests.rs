//! The balancer before API servers that these tests make: TLS and HTTP on loopback.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::http::{Connection, HttpError};
use crate::testing::{NAME, TestTls, listen, serve_connection};
use http_body_util::Full;
use hyper::Request;
use tokio_rustls::TlsAcceptor;

/// A test may be slow on a busy machine; it must not hang.
const PATIENCE: Duration = Duration::from_secs(30);

const QUICK: Timing = Timing {
    interval: Duration::from_millis(30),
    probe_limit: Duration::from_millis(1500),
    connect_limit: Duration::from_millis(1000),
    silence_limit: Duration::from_millis(1800),
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Ready,
    NotReady,
    /// Accepts and never answers.
    Hanging,
}

/// An API server: `/readyz` by its mood, anything else is answered by its name.
struct Server {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn stop(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, name: String, mood: watch::Receiver<Mood>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, name, mood) = (acceptor.clone(), name.clone(), mood.clone());
        connections.spawn(async move {
            still_there(&mood).await;
            let answer = |request: Request<_>| answer(request.uri().path() == "/readyz", name.clone(), mood.clone());
            serve_connection(acceptor, stream, answer).await;
        });
    }
}

async fn still_there(mood: &watch::Receiver<Mood>) {
    let _ = mood.clone().wait_for(|mood| *mood != Mood::Hanging).await;
}

async fn answer(health: bool, name: String, mood: watch::Receiver<Mood>) -> (u16, String) {
    still_there(&mood).await;
    (if health && *mood.borrow() == Mood::NotReady { 500 } else { 200 }, name)
}

struct World(TestTls);

fn world() -> World {
    World(TestTls::new())
}

impl World {
    async fn server(&self, name: &str) -> Server {
        self.server_at(name, 0).await
    }

    async fn server_at(&self, name: &str, port: u16) -> Server {
        let listener = listen(port).await;
        let address = listener.local_addr().unwrap();
        let mood = watch::Sender::new(Mood::Ready);
        let task = tokio::spawn(serve(listener, self.0.acceptor(), name.into(), mood.subscribe()));
        Server { address, mood, task }
    }

    /// A balancer before these, that has probed each of them once; and its address.
    async fn balancer(&self, backends: Vec<SocketAddr>) -> (Balancer, SocketAddr) {
        let balancer = Balancer::with_timing(backends, NAME, self.0.client(), QUICK);
        let listener = listen(0).await;
        let address = listener.local_addr().unwrap();
        tokio::spawn(balancer.clone().serve(listener));
        until(|| balancer.0.backends.borrow().iter().all(|backend| backend.is_probed())).await;
        (balancer, address)
    }

    async fn connect(&self, balancer: SocketAddr) -> Result<Connection, HttpError> {
        Connection::tls(balancer, NAME, self.0.client()).await
    }

    /// Who answers a new connection.
    async fn who(&self, balancer: SocketAddr) -> String {
        name(&self.connect(balancer).await.unwrap()).await.unwrap()
    }
}

async fn name(connection: &Connection) -> Result<String, HttpError> {
    let request = Request::get("https://localhost/name").body(Full::default()).unwrap();
    let (_, body) = connection.exchange(request, PATIENCE).await?;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

async fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_dead_machine_is_noticed_within_two_seconds() {
    let timing = Timing::default();
    assert!(timing.silence_limit < Duration::from_secs(2));
    assert!(timing.silence_limit > timing.interval + timing.probe_limit, "one probe must have failed by then");
}

fn healthy(balancer: &Balancer) -> Vec<bool> {
    balancer.0.backends.borrow().iter().map(|backend| backend.is_ready()).collect()
}

/// An API server hangs up on an anonymous client of HTTP/2 after each answer.
#[tokio::test]
async fn an_api_server_is_asked_again_and_again_over_one_connection_of_http1() {
    let world = world();
    let listener = listen(0).await;
    let address = listener.local_addr().unwrap();
    let (asked, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, acceptor, opened) = (asked.clone(), world.0.acceptor(), connections.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            opened.fetch_add(1, Ordering::Relaxed);
            let (acceptor, counted) = (acceptor.clone(), counted.clone());
            tokio::spawn(serve_connection(acceptor, stream, move |request: Request<_>| {
                let first_version = request.version() == hyper::Version::HTTP_11;
                counted.fetch_add(usize::from(first_version), Ordering::Relaxed);
                async { (200, "ok".to_owned()) }
            }));
        }
    });
    let (balancer, _) = world.balancer(vec![address]).await;
    until(|| asked.load(Ordering::Relaxed) >= 5).await;
    assert_eq!((healthy(&balancer), connections.load(Ordering::Relaxed)), (vec![true], 1));
}

#[tokio::test]
async fn connections_spread_over_the_ready_ones() {
    let world = world();
    let (a, b) = (world.server("a").await, world.server("b").await);
    let (_balancer, address) = world.balancer(vec![a.address, b.address]).await;
    let mut names = Vec::new();
    for _ in 0..6 {
        names.push(world.who(address).await);
    }
    assert_eq!(names.iter().filter(|name| *name == "a").count(), 3, "{names:?}");
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over_and_comes_back() {
    let world = world();
    let (mut a, b) = (world.server("a").await, world.server("b").await);
    let addresses = vec![a.address, b.address];
    a.stop().await;
    let (balancer, address) = world.balancer(addresses).await;
    assert_eq!(healthy(&balancer), [false, true]);
    for _ in 0..3 {
        assert_eq!(world.who(address).await, "b");
    }
    let _a = world.server_at("a", a.address.port()).await;
    until(|| healthy(&balancer) == [true, true]).await;
    let mut names = [world.who(address).await, world.who(address).await];
    names.sort();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn a_server_that_shuts_down_gets_no_new_connection_and_keeps_the_old_ones() {
    let world = world();
    let a = world.server("a").await;
    let (balancer, address) = world.balancer(vec![a.address]).await;
    let old = world.connect(address).await.unwrap();
    assert_eq!(name(&old).await.unwrap(), "a");
    let b = world.server("b").await;
    balancer.set_backends(vec![a.address, b.address]);
    a.mood.send_replace(Mood::NotReady);
    until(|| healthy(&balancer) == [false, true]).await;
    for _ in 0..3 {
        assert_eq!(world.who(address).await, "b");
    }
    tokio::time::sleep(QUICK.silence_limit * 3 / 2).await;
    assert_eq!(name(&old).await.unwrap(), "a", "a machine that answers is not dead");
    a.mood.send_replace(Mood::Ready);
    until(|| healthy(&balancer) == [true, true]).await;
}

#[tokio::test]
async fn a_silent_server_is_left_and_its_connections_are_closed() {
    let world = world();
    let a = world.server("a").await;
    let (balancer, address) = world.balancer(vec![a.address]).await;
    let old = world.connect(address).await.unwrap();
    assert_eq!(name(&old).await.unwrap(), "a");
    let b = world.server("b").await;
    balancer.set_backends(vec![a.address, b.address]);
    until(|| healthy(&balancer) == [true, true]).await;
    a.mood.send_replace(Mood::Hanging);
    let error = name(&old).await.unwrap_err();
    assert!(matches!(error, HttpError::Exchange { .. }), "{error}: it hung up");
    assert_eq!(healthy(&balancer), [false, true]);
    assert_eq!(world.who(address).await, "b");
    a.mood.send_replace(Mood::Ready);
    until(|| healthy(&balancer) == [true, true]).await;
}

#[tokio::test]
async fn without_another_that_is_ready_nothing_is_cut() {
    let world = world();
    let a = world.server("a").await;
    let (balancer, address) = world.balancer(vec![a.address]).await;
    let old = world.connect(address).await.unwrap();
    assert_eq!(name(&old).await.unwrap(), "a");
    a.mood.send_replace(Mood::Hanging);
    until(|| healthy(&balancer) == [false]).await;
    tokio::time::sleep(QUICK.silence_limit * 3 / 2).await;
    a.mood.send_replace(Mood::Ready);
    assert_eq!(name(&old).await.unwrap(), "a");
}

#[tokio::test]
async fn when_none_is_ready_they_are_tried_in_order() {
    let world = world();
    let (a, b) = (world.server("a").await, world.server("b").await);
    a.mood.send_replace(Mood::NotReady);
    b.mood.send_replace(Mood::NotReady);
    let gone = listen(0).await.local_addr().unwrap();
    let (balancer, address) = world.balancer(vec![gone, a.address, b.address]).await;
    assert_eq!(healthy(&balancer), [false, false, false]);
    assert_eq!(world.who(address).await, "a");
    assert_eq!(world.who(address).await, "a");
}

#[tokio::test]
async fn a_server_of_another_authority_is_never_ready() {
    let world = world();
    let impostor = self::world().server("impostor").await;
    let (balancer, _) = world.balancer(vec![impostor.address]).await;
    assert_eq!(healthy(&balancer), [false]);
}

#[tokio::test]
async fn a_server_that_leaves_the_list_keeps_its_connections() {
    let world = world();
    let (a, b) = (world.server("a").await, world.server("b").await);
    let (balancer, address) = world.balancer(vec![a.address]).await;
    let old = world.connect(address).await.unwrap();
    balancer.set_backends(vec![b.address]);
    until(|| healthy(&balancer) == [true]).await;
    assert_eq!(world.who(address).await, "b");
    assert_eq!(name(&old).await.unwrap(), "a");
}
