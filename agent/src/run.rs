//! `agent run`: the phases of a machine's way to Ready, in order. What must be quick (certificates,
//! configurations) comes before anything that waits for others.

use crate::api::Api;
use crate::balancer::Balancer;
use crate::clock::{self, Round};
use crate::facts::Facts;
use crate::machine::{Status, ask_init, notify_ready, say};
use crate::node_api::NodeApi;
use crate::peers::Peers;
use crate::server;
use crate::turn::{self, Turn};
use crate::upgrade::{self, Slots, Upgrades};
use crate::{
    approval, certificates, etcd, handover, http, join, link_address, manifests, members, metrics, node, render,
    routes, trust, vip, watch,
};
use spec::cluster::{Machine, NetworkChoice};
use spec::status::{NodeStatus, Request, Response};
use spec::{paths, ports, seed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

/// Between two tries of something that another program must first make possible.
const RETRY: Duration = Duration::from_millis(250);
/// After a failed round of the API's work.
const PAUSE: Duration = Duration::from_secs(3);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// For how long the API server is waited for with what can start without it.
const RUSH: Duration = Duration::from_secs(180);
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
    #[error(transparent)]
    Join(#[from] join::JoinError),
    #[error("etcd's client: {0}")]
    Etcd(etcd::ClientError),
    #[error("the agent's certificate: {0}")]
    Tls(String),
    #[error(
        "this master's seed holds neither authorities nor a join credential: build it with `imgbuild --profile master --cluster NAME`, or write its seed with `imgbuild cluster seed`"
    )]
    NoAuthorities,
}

/// Runs until it is killed.
pub async fn run(root: &Path) -> Result<(), RunError> {
    trust::put_back(root)?;
    let facts = Rc::new(Facts::read(root)?);
    let status = Rc::new(Status::new(first_status(&facts)));
    let result = go(root, facts, status.clone()).await;
    if let Err(error) = &result {
        status.etcd_phase(None);
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
    if !facts.is_master() {
        return node_machine(root, facts, status, clock).await;
    }
    let facts = if has_authorities(&facts) { facts } else { with_authorities(root, &facts, &status).await? };
    master(root, facts, status, clock).await
}

/// The facts of a master that joins a cluster, once another has handed over what its seed lacks.
async fn with_authorities(root: &Path, facts: &Facts, status: &Status) -> Result<Rc<Facts>, RunError> {
    loop {
        handover::put_back(root)?;
        let now_known = Facts::read(root)?;
        if has_authorities(&now_known) {
            return Ok(Rc::new(now_known));
        }
        if !facts.secrets.files().contains_key(seed::files::JOIN_KEY) {
            return Err(RunError::NoAuthorities);
        }
        status.phase("joining the cluster");
        let cluster = loop {
            match handover::receive(facts, root, OffsetDateTime::now_utc()).await {
                Ok(cluster) => break cluster,
                Err(error) => status.phase(&error.to_string()),
            }
            tokio::time::sleep(PAUSE).await;
        };
        seal(facts, cluster).await;
    }
}

fn has_authorities(facts: &Facts) -> bool {
    pki::AuthorityName::ALL.iter().all(|name| facts.secrets.files().contains_key(&name.key_file()))
}

/// What both kinds of machines do before their services start: configurations, in files.
async fn configure(root: &Path, facts: &Facts, outdated: impl Iterator<Item = &'static str>) -> Result<(), RunError> {
    let rendered = render::render(facts, root)?;
    let changed = render::outdated(&rendered, root);
    render::write(&rendered)?;
    link_address::add_to_loopback(ports::NODE_DNS_ADDRESS)
        .map_err(|source| RunError::System { what: "adding the DNS cache's address to lo", source })?;
    notify_ready().map_err(|source| RunError::System { what: "telling init that the agent is ready", source })?;
    restart(changed.into_iter().chain(outdated)).await;
    Ok(())
}

/// Makes a file that services wait for.
fn mark(root: &Path, file: &str) -> Result<(), RunError> {
    Ok(crate::files::write(&crate::facts::under(root, file), "", 0o644, false)?)
}

/// The same where the work goes on without it.
fn tell_init(root: &Path, file: &str, what: &str) {
    if let Err(error) = mark(root, file) {
        say(format!("telling init that {what}: {error}"));
    }
}

/// A master: everything that goes on side by side.
async fn master(root: &Path, facts: Rc<Facts>, status: Rc<Status>, clock: Round) -> Result<(), RunError> {
    status.phase("issuing certificates");
    let issued = certificates::ensure(&facts, root, OffsetDateTime::now_utc())?;
    for (name, reason) in &issued.certificates {
        say(format!("issued {name}: the old one {reason}"));
    }
    status.phase("writing configurations");
    // This process has read the new certificates of its own already.
    configure(root, &facts, issued.restart.into_iter().filter(|service| *service != "agent")).await?;

    let judge = Rc::new(Notify::new());
    let api = Rc::new(local_api(root)?);
    let material = Material::read(root)?;
    let peers = Rc::new(Peers::new(&facts, material.client()?));
    let client = etcd::Client::new(root).map_err(RunError::Etcd)?;
    let member = Rc::new(etcd::Member::new(root.to_path_buf(), facts.clone(), status.clone(), peers, client));
    member.let_go();
    let slots = Rc::new(Slots::default());
    let handler = Rc::new(NodeApi {
        root: root.to_path_buf(),
        facts: facts.clone(),
        status: status.clone(),
        member: Some(member.clone()),
        api: api.clone(),
        upgrades: Upgrades::new(root),
        slots: slots.clone(),
    });
    let trial = upgrade::watch(root, &facts, &status, &slots);
    let served = server::serve(listen(&facts).await?, material.server()?, handler);
    let renewal = renew(root, &facts, &judge);
    let clock = clock::keep(&facts, &status, clock, || judge.notify_one());
    let observed = observe(&facts, &api, &status);
    let turn = Turn::new(root, &facts)?;
    let (turn_came, ready) = (Notify::new(), Notify::new());
    let control = async {
        turn.wait(&member, &status).await;
        turn_came.notify_one();
        tell_init(root, paths::API_TURN_FILE, "the API server may start");
        tell_init(root, paths::JOINED_FILE, "kubelet may start");
        control(root, &facts, &api, &status, &ready).await;
    };
    let rush = async {
        // Who waits for others' API servers is in no rush of its own yet; who has no etcd may wait for an operator.
        if tokio::time::timeout(RUSH, turn::until_serving(&member)).await.is_ok() {
            turn_came.notified().await;
            end_of_rush(ready.notified()).await;
        }
        tell_init(root, paths::RUSH_OVER_FILE, "the rest may start");
    };
    let metrics = metrics::keep(root, &facts, &status);
    let virtual_address = hold_virtual_address(&facts, &api);
    let for_ever = async {
        tokio::join!(member.run(), served, renewal, clock, observed, control, rush, virtual_address, metrics, trial)
    };
    // With other addresses everything is to be issued and written anew: init starts the agent again.
    tokio::select! {
        moved = other_addresses(root, &facts) => moved,
        Err(error) = balance(balancer(root, &facts)?, &facts) => Err(error),
        _ = for_ever => Ok(()),
    }
}

/// A node: it joins, and goes on as what it has become.
async fn node_machine(root: &Path, facts: Rc<Facts>, status: Rc<Status>, clock: Round) -> Result<(), RunError> {
    let trust_changed = certificates::prepare_node(&facts, root)?;
    configure(root, &facts, std::iter::empty()).await?;
    let kubelet_asks_anew = join::retire_kubelets(&facts, root, OffsetDateTime::now_utc())?;
    status.phase("joining the cluster");
    while let Err(error) = joined(root, &facts).await {
        status.phase(&error.to_string());
        tokio::time::sleep(PAUSE).await;
    }
    join::write_kubeconfigs(&facts, root)?;
    let outdated = certificates::TRUSTING.into_iter().filter(|_| trust_changed);
    restart(outdated.chain(kubelet_asks_anew.then_some("kubelet"))).await;

    let judge = Rc::new(Notify::new());
    let api = Rc::new(balanced_api(root)?);
    let material = Material::read(root)?;
    let slots = Rc::new(Slots::default());
    let handler = Rc::new(NodeApi {
        root: root.to_path_buf(),
        facts: facts.clone(),
        status: status.clone(),
        member: None,
        api: api.clone(),
        upgrades: Upgrades::new(root),
        slots: slots.clone(),
    });
    let trial = upgrade::watch(root, &facts, &status, &slots);
    let served = server::serve(listen(&facts).await?, material.server()?, handler);
    let clock = clock::keep(&facts, &status, clock, || judge.notify_one());
    let renewal = async {
        loop {
            let _ = tokio::time::timeout(DAY, judge.notified()).await;
            match joined(root, &facts).await {
                // What is read once is read again by a new agent.
                Ok(true) => restart(["agent", "kube-proxy"].into_iter()).await,
                Ok(false) => {}
                Err(error) => say(format!("renewing certificates: {error}")),
            }
        }
    };
    let own_node = again("node", || node::watch(&api, &facts, root, &status));
    let balancer = balancer(root, &facts)?;
    let rush = async {
        // Before there is an API, kubelet only takes processors from those who bring it up.
        end_of_rush(balancer.until_ready()).await;
        tell_init(root, paths::JOINED_FILE, "kubelet may start");
        tell_init(root, paths::RUSH_OVER_FILE, "the rest may start");
    };
    let metrics = metrics::keep(root, &facts, &status);
    let for_ever =
        async { tokio::join!(served, clock, renewal, own_node, rush, keep_network(&facts, &api), metrics, trial) };
    tokio::select! {
        moved = other_addresses(root, &facts) => moved,
        Err(error) = balance(balancer.clone(), &facts) => Err(error),
        _ = for_ever => Ok(()),
    }
}

/// Whether new credentials came.
async fn joined(root: &Path, facts: &Facts) -> Result<bool, join::JoinError> {
    let Some(answer) = join::ensure(facts, root, OffsetDateTime::now_utc()).await? else { return Ok(false) };
    seal(facts, answer.cluster).await;
    Ok(true)
}

/// Has init write the cluster into the seed, unless it is there.
async fn seal(facts: &Facts, cluster: Option<String>) {
    if let Some(cluster_id) = cluster.filter(|id| facts.seed.cluster_id.as_ref() != Some(id)) {
        say(format!("this machine is now of cluster {cluster_id}"));
        if let Err(error) = ask_init(&Request::SealSeed { cluster_id }).await {
            say(format!("sealing the seed: {error}"));
        }
    }
}

async fn listen(facts: &Facts) -> Result<tokio::net::TcpListener, RunError> {
    let any: IpAddr = match facts.addresses().first() {
        Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let listener = server::listen(SocketAddr::new(any, ports::AGENT)).await;
    listener.map_err(|source| RunError::System { what: "opening the agent's port", source })
}

/// The machine's certificate towards other agents.
struct Material {
    authority: String,
    certificate: String,
    key: String,
}

impl Material {
    fn read(root: &Path) -> Result<Material, RunError> {
        let folder = crate::facts::under(root, paths::PKI_DIR).join("machine");
        let read = |name: &str| crate::files::read(&folder.join(name));
        Ok(Material { authority: read("ca.crt")?, certificate: read("agent.crt")?, key: read("agent.key")? })
    }

    fn client(&self) -> Result<Arc<ClientConfig>, RunError> {
        Ok(http::tls(&self.authority, &self.certificate, &self.key)?)
    }

    fn server(&self) -> Result<Arc<ServerConfig>, RunError> {
        server::tls(&self.authority, &self.certificate, &self.key).map_err(RunError::Tls)
    }
}

/// Another member of etcd leads, where this machine's did.
///
/// # Errors
/// Why this one leads on, in words.
pub async fn hand_over_lead(root: &Path) -> Result<(), String> {
    let tls = Material::read(root).and_then(|material| material.client()).map_err(|error| error.to_string())?;
    etcd::hand_over_lead(root, tls).await
}

/// The API server of this machine, as the agent.
pub fn local_api(root: &Path) -> Result<Api, RunError> {
    api_at(root, ports::KUBE_APISERVER)
}

/// The API servers through this machine's balancer, as the agent of a node.
pub fn balanced_api(root: &Path) -> Result<Api, RunError> {
    api_at(root, ports::API_BALANCER)
}

/// The same as this node's kubelet, which alone may write the node's status.
pub fn kubelets_api(root: &Path) -> Result<Api, RunError> {
    let authority = crate::files::read(&crate::facts::under(root, paths::PKI_DIR).join("kubernetes/ca.crt"))?;
    let pair = crate::files::read(&crate::facts::under(root, join::KUBELET_CERTIFICATE))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::API_BALANCER));
    Ok(Api::new(address, "localhost", http::tls(&authority, &pair, &pair)?))
}

fn api_at(root: &Path, port: u16) -> Result<Api, RunError> {
    api_of(root, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// An API server by its address; each has `localhost` in its certificate.
pub fn api_of(root: &Path, address: SocketAddr) -> Result<Api, RunError> {
    let folder = crate::facts::under(root, paths::PKI_DIR).join("kubernetes");
    let read = |name: &str| crate::files::read(&folder.join(name));
    let tls = http::tls(&read("ca.crt")?, &read("agent.crt")?, &read("agent.key")?)?;
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
pub async fn restart(services: impl Iterator<Item = &'static str>) {
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

/// Ends when init has written other addresses than the ones that the agent works with.
async fn other_addresses(root: &Path, facts: &Facts) -> Result<(), RunError> {
    let (of, known) = (root.to_path_buf(), facts.identity.addresses.clone());
    watch::until(root, run_folder_failed, move || {
        let now = crate::facts::identity(&of)?.addresses;
        if now != known {
            say(format!("the machine's addresses are now {}", now.join(", ")));
        }
        Ok(now != known)
    })
    .await
}

fn run_folder_failed(source: std::io::Error) -> RunError {
    RunError::System { what: "watching what init does", source }
}

/// Pods, for the console.
async fn observe(facts: &Facts, api: &Api, status: &Status) {
    loop {
        let pods = if status.current().ready { count_pods(api, &facts.identity.name).await } else { None };
        status.update(|status| status.pods = pods.or(status.pods));
        let wait = if status.current().ready { OBSERVE } else { PAUSE };
        tokio::time::sleep(wait).await;
    }
}

async fn count_pods(api: &Api, node: &str) -> Option<u32> {
    let list = api
        .get(&format!("/api/v1/pods?limit=500&fieldSelector=spec.nodeName%3D{node}%2Cstatus.phase%3DRunning"))
        .await
        .ok()?;
    u32::try_from(list.get("items")?.as_array()?.len()).ok()
}

/// The work with the API: as soon as it answers the own node, whose pods' network kubelet waits for; the rest,
/// and the programs that act for the whole cluster, once it is ready. For ever.
async fn control(root: &Path, facts: &Facts, api: &Api, status: &Status, ready: &Notify) {
    status.phase("waiting for the API server");
    match facts.cluster.masters().count() {
        1 => take_first_networks(api, facts).await,
        _ => {
            while api.get("/api/v1/nodes?limit=1").await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    let own_node = again("node", || node::watch(api, facts, root, status));
    tokio::join!(own_node, control_cluster(root, facts, api, ready));
}

async fn control_cluster(root: &Path, facts: &Facts, api: &Api, ready: &Notify) {
    wait_for_api(api).await;
    ready.notify_one();
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
    let nodes = again("nodes", || node::define(api, &facts.cluster));
    let requests = again("certificate requests", || approval::watch(api, &facts.cluster));
    tokio::join!(tell_api_ready(root, api), applying, nodes, requests, keep_network(facts, api));
}

/// Who starts before it is refused and backs off for seconds.
async fn wait_for_api(api: &Api) {
    while !api.is_ready().await {
        tokio::time::sleep(RETRY * 2).await;
    }
}

/// Tells init that the API server is ready, and again after each of its starts, before which init takes the file away.
async fn tell_api_ready(root: &Path, api: &Api) {
    again("the API server's readiness", || async {
        wait_for_api(api).await;
        mark(root, paths::API_READY_FILE)?;
        let file = crate::facts::under(root, paths::API_READY_FILE);
        watch::until(root, run_folder_failed, move || Ok(!file.exists())).await
    })
    .await;
}

/// Until the API server is ready, for what leaves a boot's processors to others; a cluster without one must not keep a
/// machine's metrics and DNS from it.
async fn end_of_rush(ready: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(RUSH, ready).await;
}

/// Before the file of [`tell_api_ready`] is there, so that no controller manager runs beside it.
async fn take_first_networks(api: &Api, facts: &Facts) {
    loop {
        match node::take_first_networks(api, facts).await {
            Ok(true) => return,
            // The controller manager will do it.
            Err(error) if error.code().is_some_and(|code| code < 500) => return say(format!("pod network: {error}")),
            // The API is not there yet, or another wrote to the node.
            Ok(false) | Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Calls it for ever; pauses after an error.
async fn again<E: std::fmt::Display, F: Future<Output = Result<(), E>>>(what: &str, work: impl Fn() -> F) {
    loop {
        if let Err(error) = work().await {
            say(format!("{what}: {error}"));
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What the machines need of each other's addresses: routes to the others' pods for the choice of
/// networks that has none of its own, and the firewall's list of members.
async fn keep_network(facts: &Facts, api: &Api) {
    let (name, cluster) = (&facts.identity.name, &facts.cluster);
    let routes = async {
        if cluster.network == NetworkChoice::KubeProxy && cluster.has_several() {
            again("routes", || routes::keep(api, name, &cluster.pod_cidr)).await;
        }
    };
    let firewall = async {
        if cluster.network == NetworkChoice::KubeRouter || cluster.has_several() {
            again("firewall", || members::keep(api, cluster)).await;
        }
    };
    tokio::join!(routes, firewall);
}

/// The machine's own way to any master's API server, for its programs.
fn balancer(root: &Path, facts: &Facts) -> Result<Balancer, RunError> {
    let addresses = facts.cluster.masters().filter_map(Machine::static_address);
    let backends: Vec<SocketAddr> = addresses.map(|address| SocketAddr::new(address, ports::KUBE_APISERVER)).collect();
    let authority = crate::files::read(&crate::facts::under(root, paths::PKI_DIR).join("kubernetes/ca.crt"))?;
    Ok(Balancer::new(backends, "kubernetes", http::tls_anonymous(&authority)?))
}

/// Passes connections on for ever; where no master has an address of its own there is no port.
async fn balance(balancer: Balancer, facts: &Facts) -> Result<(), RunError> {
    if !facts.cluster.masters().any(|master| master.static_address().is_some()) {
        return std::future::pending().await;
    }
    let listener = server::listen((Ipv4Addr::LOCALHOST, ports::API_BALANCER).into()).await;
    let listener = listener.map_err(|source| RunError::System { what: "opening the balancer's port", source })?;
    balancer.serve(listener).await;
    Ok(())
}

/// Takes part in holding the masters' virtual address, where there is one.
async fn hold_virtual_address(facts: &Facts, api: &Api) {
    let Some(address) = facts.cluster.virtual_address.as_deref().and_then(spec::cluster::address) else { return };
    loop {
        let Err(error) = vip::hold(api, &facts.identity.name, &facts.identity.interface, address).await;
        say(format!("virtual address {address}: {error}"));
        tokio::time::sleep(PAUSE).await;
    }
}
