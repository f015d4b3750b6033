//! `agent run`: the phases of a machine's way to Ready, in order. What must be quick (certificates,
//! configurations) comes before anything that waits for others.

use crate::api::Api;
use crate::clock::{self, Round};
use crate::facts::Facts;
use crate::machine::{Status, ask_init, notify_ready, say};
use crate::{approval, certificates, etcd, http, link_address, manifests, node, render};
use rustix::fs::inotify;
use spec::status::{NodeStatus, Request, Response};
use spec::{paths, ports};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Notify;

/// Between two tries of something that another program must first make possible.
const RETRY: Duration = Duration::from_millis(250);
/// After a failed round of the API's work.
const PAUSE: Duration = Duration::from_secs(3);
const DAY: Duration = Duration::from_secs(24 * 3600);
const OBSERVE: Duration = Duration::from_secs(20);

/// Why the machine cannot go on; shown on the console.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    #[error(transparent)]
    Certificate(#[from] certificates::CertificateError),
    #[error(transparent)]
    Render(#[from] render::RenderError),
    #[error(transparent)]
    Http(#[from] http::HttpError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error(
        "this machine's seed holds no authorities, so it must join a cluster: joining by a credential is not part of this image"
    )]
    NoAuthorities,
}

/// Runs until it is killed.
pub async fn run(root: &Path) -> Result<(), RunError> {
    let facts = Rc::new(Facts::read(root)?);
    let status = Rc::new(Status::new(first_status(&facts)));
    let result = go(root, facts, status.clone()).await;
    if let Err(error) = &result {
        status.phase(&format!("stopped: {error}"));
    }
    result
}

fn first_status(facts: &Facts) -> NodeStatus {
    NodeStatus {
        name: facts.identity.name.clone(),
        role: facts.identity.role.name().into(),
        cluster: facts.cluster.name.clone(),
        addresses: facts.identity.addresses.clone(),
        phase: "reading the clock".into(),
        ..NodeStatus::default()
    }
}

async fn go(root: &Path, facts: Rc<Facts>, status: Rc<Status>) -> Result<(), RunError> {
    let clock = clock::first(&facts, &status).await;
    if !facts.is_master() || !has_authorities(&facts) {
        return Err(RunError::NoAuthorities);
    }
    status.phase("issuing certificates");
    let issued = certificates::ensure(&facts, root, OffsetDateTime::now_utc())?;
    for (name, reason) in &issued.certificates {
        say(format!("issued {name}: the old one {reason}"));
    }
    status.phase("writing configurations");
    let start = etcd::decide(&facts, etcd::look(root));
    let rendered = render::render(&facts, root, &start)?;
    let outdated = render::outdated(&rendered, root);
    render::write(&rendered)?;
    link_address::add_to_loopback(ports::NODE_DNS_ADDRESS)
        .map_err(|source| RunError::System { what: "adding the DNS cache's address to lo", source })?;
    notify_ready().map_err(|source| RunError::System { what: "telling init that the agent is ready", source })?;
    restart(outdated.into_iter().chain(issued.restart)).await;
    if let etcd::Start::Refuse(reason) = &start {
        status.phase(&format!("etcd does not start: {reason}"));
    }
    serve(root, facts, status, clock, start).await
}

fn has_authorities(facts: &Facts) -> bool {
    pki::AuthorityName::ALL.iter().all(|name| facts.secrets.files().contains_key(&name.key_file()))
}

/// Everything that goes on side by side from now on.
async fn serve(
    root: &Path,
    facts: Rc<Facts>,
    status: Rc<Status>,
    clock: Round,
    start: etcd::Start,
) -> Result<(), RunError> {
    let judge = Rc::new(Notify::new());
    let api = Rc::new(local_api(root)?);
    let renewal = renew(root, &facts, &judge);
    let clock = clock::keep(&facts, &status, clock, || judge.notify_one());
    let observed = observe(&facts, &api, &status);
    let control = async {
        if matches!(start, etcd::Start::Refuse(_)) {
            return std::future::pending().await;
        }
        control(root, &facts, &api, &status).await
    };
    let for_ever = async { tokio::join!(renewal, clock, observed, control) };
    // With other addresses everything is to be issued and written anew: init starts the agent again.
    tokio::select! {
        moved = other_addresses(root, &facts) => moved,
        _ = for_ever => Ok(()),
    }
}

/// The API server of this machine, as the agent.
pub fn local_api(root: &Path) -> Result<Api, RunError> {
    let folder = crate::facts::under(root, paths::PKI_DIR).join("kubernetes");
    let read = |name: &str| crate::files::read(&folder.join(name));
    let tls = http::tls(&read("ca.crt")?, &read("agent.crt")?, &read("agent.key")?)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::KUBE_APISERVER));
    Ok(Api::new(address, "localhost", tls))
}

/// Judges the certificates daily and after a step of the clock; restarts what does not reread them.
async fn renew(root: &Path, facts: &Facts, judge: &Notify) {
    loop {
        let _ = tokio::time::timeout(DAY, judge.notified()).await;
        let issued = match certificates::ensure(facts, root, OffsetDateTime::now_utc()) {
            Ok(issued) => issued,
            Err(error) => {
                say(format!("renewing certificates: {error}"));
                continue;
            }
        };
        for (name, reason) in &issued.certificates {
            say(format!("issued {name}: the old one {reason}"));
        }
        restart(issued.restart.into_iter()).await;
    }
}

/// Has init restart those of the services that run.
async fn restart(services: impl Iterator<Item = &'static str>) {
    let wanted: std::collections::BTreeSet<_> = services.collect();
    if wanted.is_empty() {
        return;
    }
    let running = match ask_init(&Request::Status).await {
        Ok(Response::Status { status }) => status.services,
        Ok(_) => return,
        Err(error) => return say(format!("asking init which services run: {error}")),
    };
    for service in running.iter().filter(|service| service.pid.is_some() && wanted.contains(service.name.as_str())) {
        say(format!("restarting {}", service.name));
        if let Err(error) = ask_init(&Request::RestartService { name: service.name.clone() }).await {
            say(format!("restarting {}: {error}", service.name));
        }
    }
}

/// Ends when init has written other addresses than the ones that the agent works with. A thread of
/// its own waits for the folder's events, since tokio offers no safe way to wait for inotify.
async fn other_addresses(root: &Path, facts: &Facts) -> Result<(), RunError> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let (root, known) = (root.to_path_buf(), facts.identity.addresses.clone());
    let watch = move || send.send(wait_for_other_addresses(&root, &known));
    std::thread::Builder::new()
        .name("identity".into())
        .stack_size(256 * 1024)
        .spawn(watch)
        .map_err(|source| RunError::System { what: "starting a thread", source })?;
    match receive.await {
        Ok(result) => result,
        Err(_) => Err(RunError::System {
            what: "watching this machine's identity",
            source: std::io::ErrorKind::BrokenPipe.into(),
        }),
    }
}

fn wait_for_other_addresses(root: &Path, known: &[String]) -> Result<(), RunError> {
    let failed =
        |error: rustix::io::Errno| RunError::System { what: "watching this machine's identity", source: error.into() };
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(failed)?;
    let folder = crate::facts::under(root, paths::RUN_DIR);
    inotify::add_watch(&watch, &folder, inotify::WatchFlags::MOVED_TO).map_err(failed)?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    loop {
        // Looked at after the watch began, so that no change falls between.
        let now = crate::facts::identity(root)?.addresses;
        if now != known {
            say(format!("the machine's addresses are now {}", now.join(", ")));
            return Ok(());
        }
        events.next().map_err(failed)?;
    }
}

/// Pods, etcd's health, for the console.
async fn observe(facts: &Facts, api: &Api, status: &Status) {
    loop {
        let etcd = etcd_health().await;
        let pods = if status.current().ready { count_pods(api, &facts.identity.name).await } else { None };
        status.update(|status| {
            status.etcd = etcd;
            status.pods = pods.or(status.pods);
        });
        let wait = if status.current().ready { OBSERVE } else { PAUSE };
        tokio::time::sleep(wait).await;
    }
}

async fn etcd_health() -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ETCD_METRICS));
    match http::get_plain(address, "/health", PAUSE).await {
        Ok((200, _)) => Some("healthy".into()),
        Ok((code, _)) => Some(format!("unhealthy (HTTP {code})")),
        Err(_) => Some("not serving".into()),
    }
}

async fn count_pods(api: &Api, node: &str) -> Option<u32> {
    let list = api
        .get(&format!("/api/v1/pods?limit=500&fieldSelector=spec.nodeName%3D{node}%2Cstatus.phase%3DRunning"))
        .await
        .ok()?;
    u32::try_from(list.get("items")?.as_array()?.len()).ok()
}

/// The work with the API: wait for it, apply, then follow node and requests for ever.
async fn control(root: &Path, facts: &Facts, api: &Api, status: &Status) {
    wait_for_api(root, api, status).await;
    status.phase("applying manifests");
    let applying = async {
        loop {
            match manifests::apply_all(api, root).await {
                Ok(names) => {
                    if !names.is_empty() {
                        say(format!("applied {}", names.join(", ")));
                    }
                    break;
                }
                Err(error) => say(format!("applying manifests: {error}")),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let own_node = again("node", || node::watch(api, facts, root, status));
    let requests = again("certificate requests", || approval::watch(api, &facts.cluster));
    tokio::join!(applying, own_node, requests);
}

/// The API server tells init that it serves long before its own bootstrapping (RBAC among it) is
/// done; who starts then is refused and backs off for seconds. So init waits for this file.
async fn wait_for_api(root: &Path, api: &Api, status: &Status) {
    status.phase("waiting for the API server");
    while api.health("/readyz").await.is_err() {
        tokio::time::sleep(RETRY).await;
    }
    let mark = crate::facts::under(root, paths::API_READY_FILE);
    if let Err(error) = crate::files::write(&mark, "", 0o644, false) {
        say(format!("telling init that the API server is ready: {error}"));
    }
}

/// Calls it for ever; pauses after an error.
async fn again<F: Future<Output = Result<(), crate::api::ApiError>>>(what: &str, work: impl Fn() -> F) {
    loop {
        if let Err(error) = work().await {
            say(format!("{what}: {error}"));
            tokio::time::sleep(PAUSE).await;
        }
    }
}
