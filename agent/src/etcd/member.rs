//! The loop that carries out `joining`'s decisions on this master, answers the other masters, and,
//! beside etcd's leader, changes the members.

mod lead;
mod operator;

pub use lead::hand_over as hand_over_lead;

use super::client::{self, Client, Etcd as Connection};
use super::{Flags, note, restore, snapshot};
use crate::facts::{Facts, under};
use crate::grpc::GrpcError;
use crate::machine::{Status, ask_init, say};
use crate::peers::{PeerError, Peers};
use crate::{files, hex, render};
use joining::{
    Admission, Decision, Definition, Etcd, Forming, Health, Holds, JoinRequest, MemberAction, MemberId, Orders, Own,
    Plan, Reason, Report, Reports, Run, Standing, Start, Write, decide, membership,
};
use spec::agent::{EtcdMember, path};
use spec::cluster::{Cluster, Machine};
use spec::status::{ETCD_HEALTHY, ETCD_WAITING, InitStatus, Request, Response};
use spec::{paths, ports};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// init's name of the service, and the file that it waits for.
const SERVICE: &str = "etcd";
const CONFIGURATION: &str = "/etc/etcd/etcd.yaml";
/// Between two rounds: while something is under way, and while all is well.
const BUSY: Duration = Duration::from_millis(500);
const CALM: Duration = Duration::from_secs(5);
/// A member out of contact for longer than a machine needs to boot.
const GONE: Duration = Duration::from_secs(600);
/// A master that was just added may be missing for a moment from what another has seen.
const REMOVED_AFTER: Duration = Duration::from_secs(15);
/// How far a learner's log may be behind the leader's.
const CLOSE_ENOUGH: u64 = 1000;
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// This master as a member of etcd.
pub struct Member {
    root: PathBuf,
    facts: Rc<Facts>,
    status: Rc<Status>,
    peers: Rc<Peers>,
    client: Client,
    definition: Definition,
    standing: RefCell<Standing>,
    etcd: Cell<Etcd>,
    reports: RefCell<Reports>,
    orders: RefCell<Orders>,
    admission: RefCell<Option<Admission>>,
    /// When each member last answered this agent while it stood beside the leader.
    contacts: RefCell<BTreeMap<MemberId, Instant>>,
    /// Since when the cluster lists no such member.
    absent_since: Cell<Option<Instant>>,
    /// When the last snapshot that stays was taken; the first comes a period after the start.
    kept: Cell<Instant>,
    /// One change of the members at a time.
    changing: tokio::sync::Mutex<()>,
    /// This agent has started etcd as a founder, and has not led the cluster since.
    founded: Cell<bool>,
    /// Somebody asked this machine to go down, and it asks the others or goes.
    going: Cell<bool>,
}

impl Member {
    pub fn new(root: PathBuf, facts: Rc<Facts>, status: Rc<Status>, peers: Rc<Peers>, client: Client) -> Member {
        let standing = Standing {
            permit: facts.seed.may_form,
            seed_cluster: facts.seed.cluster_id.clone(),
            state: note::read(&root, &facts.identity.machine_id),
        };
        let own = facts.addresses().first().map(|address| peer_url(&address.to_string()));
        let orders = operator::read_orders(&root);
        Member {
            definition: definition(&facts.cluster, &facts.identity.name, own),
            root,
            facts,
            status,
            peers,
            client,
            standing: RefCell::new(standing),
            etcd: Cell::new(Etcd::Stopped),
            reports: RefCell::default(),
            orders: RefCell::new(orders),
            admission: RefCell::default(),
            contacts: RefCell::default(),
            absent_since: Cell::default(),
            kept: Cell::new(Instant::now()),
            changing: tokio::sync::Mutex::default(),
            founded: Cell::default(),
            going: Cell::default(),
        }
    }

    /// What to answer another master.
    pub fn report(&self) -> Report {
        self.own(String::new()).report()
    }

    /// The cluster that this machine is a member of.
    pub fn cluster(&self) -> Option<String> {
        self.standing.borrow().holds().and_then(|holds| holds.cluster()).map(|(cluster, _)| cluster.clone())
    }

    /// Whether a quorum answered this member's last read.
    pub fn is_serving(&self) -> bool {
        self.etcd.get() == Etcd::Serving
    }

    /// Whether the master of this name answers and is a member of the same cluster, or a founder of it.
    pub fn is_beside(&self, name: &str) -> bool {
        let standing = self.standing.borrow();
        let reports = self.reports.borrow();
        let theirs = reports.get(name).and_then(|report| cluster_or_forming(&report.standing));
        theirs.is_some() && theirs == cluster_or_forming(&standing)
    }

    fn own(&self, candidate: String) -> Own {
        Own {
            name: self.facts.identity.name.clone(),
            standing: self.standing.borrow().clone(),
            etcd: self.etcd.get(),
            admission: self.admission.borrow().clone(),
            candidate,
        }
    }

    /// Decides and acts for ever.
    pub async fn run(&self) {
        loop {
            self.look().await;
            self.hear().await;
            let pause = self.act().await;
            if self.etcd.get() == Etcd::Serving {
                self.manage().await;
                self.keep_snapshot().await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Sees how etcd is.
    async fn look(&self) {
        let seen = match self.client.own().await {
            Ok(etcd) => self.look_into(&etcd).await,
            Err(_) if self.process(SERVICE).is_some() => Etcd::Running,
            Err(_) => Etcd::Stopped,
        };
        let absent = !matches!(seen, Etcd::Serving | Etcd::Committed) && self.is_absent().await;
        let since = absent.then(|| self.absent_since.get().unwrap_or_else(Instant::now));
        self.absent_since.set(since);
        let removed = since.is_some_and(|since| since.elapsed() > REMOVED_AFTER);
        self.etcd.set(if removed { Etcd::Removed } else { seen });
    }

    /// Whether the cluster that this machine is a member of runs and does not list it any more.
    async fn is_absent(&self) -> bool {
        let own = self.standing.borrow().holds().and_then(|holds| own_member(holds, &self.facts.identity.name));
        let (Some(own), Some(cluster)) = (own, self.cluster()) else { return false };
        let serves = |report: &&Report| {
            report.serving
                && report.standing.holds().and_then(|holds| holds.cluster()).is_some_and(|(id, _)| *id == cluster)
        };
        let name = self.reports.borrow().values().find(serves).map(|report| report.name.clone());
        let Some(name) = name else { return false };
        let members: Result<Vec<EtcdMember>, _> = self.peers.get(&name, path::ETCD_MEMBERS).await;
        members.is_ok_and(|members| !members.is_empty() && members.iter().all(|member| member.id != format!("{own:x}")))
    }

    /// Now and then a snapshot stays on this machine's disk.
    async fn keep_snapshot(&self) {
        if self.kept.get().elapsed() < snapshot::PERIOD {
            return;
        }
        self.kept.set(Instant::now());
        if let Err(error) = snapshot::keep(&self.root, OffsetDateTime::now_utc()).await {
            say(format!("etcd: the snapshot that stays: {error}"));
        }
    }

    async fn look_into(&self, etcd: &Connection) -> Etcd {
        if etcd.read().await.is_ok() {
            return Etcd::Serving;
        }
        match etcd.status().await {
            // Who knows a leader has been in a cluster with a quorum.
            Ok(status) if status.leader != 0 && status.applied_index > 0 => Etcd::Committed,
            _ => Etcd::Running,
        }
    }

    /// A service's process, by init's word.
    fn process(&self, service: &str) -> Option<u32> {
        let text = std::fs::read(under(&self.root, paths::INIT_STATUS_FILE)).ok()?;
        let status: InitStatus = serde_json::from_slice(&text).ok()?;
        status.services.iter().find(|one| one.name == service)?.pid
    }

    /// Asks the other masters; an answer of one that falls silent is forgotten.
    async fn hear(&self) {
        let ask = |name: String| async move {
            let report = self.peers.get::<Report>(&name, path::REPORT).await;
            (name, report)
        };
        let mut asked: Vec<_> = self.peers.names().map(|name| Box::pin(ask(name.clone()))).collect();
        let mut heard = Reports::new();
        for one in all(&mut asked).await {
            if let (name, Ok(report)) = one {
                heard.insert(name, report);
            }
        }
        *self.reports.borrow_mut() = heard;
    }

    /// Carries out decisions until one of them takes time; the pause until the next round.
    async fn act(&self) -> Duration {
        loop {
            let Some(candidate) = hex::random::<8>() else {
                self.tell("the system gives no random bytes");
                return BUSY;
            };
            let own = self.own(candidate);
            let decision = decide(&own, &self.definition, &self.reports.borrow(), &self.orders.borrow());
            match decision {
                Decision::Write(write) => match self.write(&write).await {
                    Ok(()) => {}
                    Err(error) => {
                        self.tell(&error);
                        return BUSY;
                    }
                },
                Decision::Run(run) => return self.keep_running(&run).await,
                Decision::AskToJoin { via, request } => match self.ask_to_join(&via, &request).await {
                    Ok(admission) => *self.admission.borrow_mut() = Some(admission),
                    Err(reason) => {
                        self.tell(&reason);
                        return BUSY;
                    }
                },
                Decision::Wait(reason) => {
                    self.stop().await;
                    self.tell(&reason.to_string());
                    return BUSY;
                }
            }
        }
    }

    /// Shows on the console what etcd waits for.
    fn tell(&self, line: &str) {
        self.status.etcd_phase(Some(line));
        self.status.update(|status| status.etcd = Some(ETCD_WAITING.into()));
    }

    async fn write(&self, write: &Write) -> Result<(), String> {
        let replaces = !matches!(write, Write::Learn(_) | Write::Refuse(_) | Write::Commit);
        if replaces && self.etcd.get() != Etcd::Stopped {
            self.stop().await;
            self.etcd.set(Etcd::Stopped);
        }
        let next = self.standing.borrow().clone().after(write);
        if let Some(written) = next.note() {
            note::write(&self.root, written).map_err(|error| error.to_string())?;
        }
        say(format!("etcd: {}", describe(write)));
        if matches!(write, Write::Start(_)) {
            self.founded.set(true);
        }
        *self.standing.borrow_mut() = next;
        Ok(())
    }

    async fn keep_running(&self, run: &Run) -> Duration {
        if let Err(error) = self.configure(run).await {
            self.tell(&error);
            return BUSY;
        }
        if let Some(cluster) = &run.seal {
            self.seal(cluster).await;
        }
        let serving = self.etcd.get() == Etcd::Serving;
        let notice = run.notice.as_ref().map(ToString::to_string);
        self.status.etcd_phase(notice.as_deref().filter(|_| !serving));
        self.status.update(|status| status.etcd = Some(notice.unwrap_or_else(|| ETCD_HEALTHY.into())));
        if serving && run.notice.is_none() { CALM } else { BUSY }
    }

    /// Writes etcd's configuration, for which its service waits; a running etcd is started again when
    /// more has changed than what it reads only once.
    async fn configure(&self, run: &Run) -> Result<(), String> {
        let url = self.definition.masters.get(&self.facts.identity.name).cloned().unwrap_or_default();
        let flags = Flags::of(run, &self.facts.identity.name, &url);
        if let Start::Form(forming) = &run.start
            && let Some(digest) = forming.restores()
        {
            let made = restore::make_folder(&self.facts, &self.root, digest, &flags, &url).await;
            made.map_err(|error| error.to_string())?;
        }
        let rendered = render::render_etcd(&self.facts, &self.root, &flags).map_err(|error| error.to_string())?;
        let differs = |file: &files::NewFile| match std::fs::read(&file.path) {
            Ok(found) => lasting(&found) != lasting(&file.content),
            Err(_) => true,
        };
        if !rendered.iter().any(differs) {
            return Ok(());
        }
        let there = under(&self.root, CONFIGURATION).exists();
        render::write(&rendered).map_err(|error| error.to_string())?;
        if there && self.process(SERVICE).is_some() {
            say("restarting etcd: its configuration has changed");
            self.restart().await;
        }
        Ok(())
    }

    /// Takes away what the service waits for, and ends it.
    async fn stop(&self) {
        let path = under(&self.root, CONFIGURATION);
        let there = std::fs::remove_file(&path).is_ok();
        if !there && self.process(SERVICE).is_none() {
            return;
        }
        self.restart().await;
        let end = Instant::now() + STOP_LIMIT;
        while self.process(SERVICE).is_some() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn restart(&self) {
        if let Err(error) = ask_init(&Request::RestartService { name: SERVICE.into() }).await {
            say(format!("restarting etcd: {error}"));
        }
    }

    async fn seal(&self, cluster: &str) {
        match ask_init(&Request::SealSeed { cluster_id: cluster.into() }).await {
            Ok(Response::Ok) => {
                let sealed = self.standing.borrow().clone().sealed(&cluster.to_owned());
                *self.standing.borrow_mut() = sealed;
                say(format!("the seed now belongs to cluster {cluster}"));
            }
            Ok(_) => say("sealing the seed: init gave another answer"),
            Err(error) => say(format!("sealing the seed: {error}")),
        }
    }

    async fn ask_to_join(&self, via: &BTreeSet<String>, request: &JoinRequest) -> Result<Admission, String> {
        let mut last = "no master that serves the cluster answers".to_owned();
        for name in via {
            match self.peers.post(name, path::LEARNER, request).await {
                Ok(admission) => return Ok(admission),
                Err(PeerError::Refused { reason, .. }) => last = reason,
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// Gives the free space of this member's database back; says what came of it.
    pub async fn defragment(&self) -> Result<String, String> {
        let work = async {
            let etcd = self.client.own().await?;
            let before = etcd.status().await?.database_size;
            etcd.defragment().await?;
            Ok::<_, crate::grpc::GrpcError>((before, etcd.status().await?.database_size))
        };
        let (before, after) = work.await.map_err(|error| error.to_string())?;
        let megabytes = |bytes: i64| bytes as f64 / 1e6;
        let line = format!("the database has {:.1} MB, before {:.1}", megabytes(after), megabytes(before));
        say(format!("etcd: defragmented, {line}"));
        Ok(line)
    }

    /// Answers a machine without data that asks to join; only beside the leader.
    ///
    /// # Errors
    /// Why not, or why not yet.
    pub async fn admit(&self, caller: &str, request: &JoinRequest) -> Result<Admission, String> {
        if request.name != caller {
            return Err(format!("{caller} asks in the name of {}", request.name));
        }
        let _changing = self.changing.lock().await;
        let cluster = self.cluster().ok_or("this master is a member of no cluster")?;
        let etcd = self.client.own().await.map_err(|error| error.to_string())?;
        let view = self.view(&etcd, &cluster).await.map_err(|error| error.to_string())?;
        let Some(view) = view else { return Err("etcd's leader is another master".into()) };
        let plan = membership(&view, &self.definition, &[(request.name.clone(), request.clone())].into());
        match plan.action {
            Some(MemberAction::AddLearner { name, peer_url }) if name == request.name => {
                let added = etcd.add_learner(&peer_url).await.map_err(|error| error.to_string())?;
                say(format!("etcd: {name} is added as a learner"));
                admission(&added, request, &name, &self.abandons())
            }
            Some(action) => {
                self.change(&etcd, &action).await.map_err(|error| error.to_string())?;
                Err(format!("{} goes first", describe_action(&action)))
            }
            None => Err(plan.waits.get(&request.name).map_or_else(|| "not yet".to_owned(), Reason::to_string)),
        }
    }

    fn abandons(&self) -> BTreeSet<String> {
        self.standing
            .borrow()
            .holds()
            .and_then(|holds| holds.cluster())
            .map(|(_, abandons)| abandons.clone())
            .unwrap_or_default()
    }

    /// Promotes, moves and clears members, one a round.
    async fn manage(&self) {
        let _changing = self.changing.lock().await;
        let Some(cluster) = self.cluster() else { return };
        let outcome = async {
            let etcd = self.client.own().await?;
            let Some(view) = self.view(&etcd, &cluster).await? else { return Ok(()) };
            let Plan { action, waits } = membership(&view, &self.definition, &BTreeMap::new());
            for (name, reason) in &waits {
                say(format!("etcd: {name}: {reason}"));
            }
            match action {
                Some(action) => self.change(&etcd, &action).await,
                None => self.hand_over_lead(&etcd, &view).await,
            }
        };
        let outcome: Result<(), GrpcError> = outcome.await;
        if let Err(error) = outcome {
            say(format!("etcd's members: {error}"));
        }
    }

    /// On a cluster's first boot the first master's API server starts before the others (`turn`) and writes hundreds of
    /// objects one after the other: beside the leader each takes half of the time.
    async fn hand_over_lead(&self, etcd: &Connection, view: &joining::Cluster) -> Result<(), GrpcError> {
        if !self.founded.take() {
            return Ok(());
        }
        let first = self.definition.masters.keys().next().filter(|first| **first != self.facts.identity.name);
        let target = view.members.iter().find(|member| {
            Some(&member.name) == first && !member.learner && matches!(member.health, Health::Up { .. })
        });
        let Some(target) = target else { return Ok(()) };
        say(format!("etcd: {} leads from now on", target.name));
        etcd.move_leader(target.id).await
    }

    async fn change(&self, etcd: &Connection, action: &MemberAction) -> Result<(), GrpcError> {
        say(format!("etcd: {}", describe_action(action)));
        match action {
            MemberAction::Remove(id) => etcd.remove(*id).await,
            MemberAction::Promote(id) => etcd.promote(*id).await,
            MemberAction::UpdatePeerUrls { member, peer_urls } => etcd.update(*member, peer_urls.clone()).await,
            // Only in answer to a request, which says whose it is.
            MemberAction::AddLearner { .. } => Ok(()),
        }
    }

    /// The cluster as its leader sees it; `None` when the leader is another.
    async fn view(&self, etcd: &Connection, cluster: &str) -> Result<Option<joining::Cluster>, GrpcError> {
        let own = etcd.status().await?;
        if !own.is_leader() {
            self.contacts.borrow_mut().clear();
            return Ok(None);
        }
        let mut members = Vec::new();
        for member in etcd.members().await? {
            let status = self.client.status_of(&member).await;
            let health = self.health(member.id, status.as_ref().map(|status| status.applied_index), own.applied_index);
            members.push(joining::Member {
                id: member.id,
                name: member.name,
                peer_urls: member.peer_urls,
                learner: member.learner,
                health,
            });
        }
        Ok(Some(joining::Cluster { id: cluster.into(), members }))
    }

    fn health(&self, id: MemberId, applied: Option<u64>, leaders: u64) -> Health {
        let mut contacts = self.contacts.borrow_mut();
        let last = *contacts.entry(id).or_insert_with(Instant::now);
        match applied {
            Some(applied) => {
                contacts.insert(id, Instant::now());
                Health::Up { caught_up: applied + CLOSE_ENOUGH >= leaders }
            }
            None if last.elapsed() > GONE => Health::Gone,
            None => Health::Down,
        }
    }
}

/// A founder has its forming's id before the cluster has its first commit.
fn cluster_or_forming(standing: &Standing) -> Option<&String> {
    let holds = standing.holds()?;
    let forming = || holds.recorded().or(holds.started()).map(|forming| &forming.id);
    holds.cluster().map(|(cluster, _)| cluster).or_else(forming)
}

/// The number by which etcd knows this machine: what it was added with, or a founder's, which etcd
/// computes from peer URL and token (etcd 3.6, server/etcdserver/api/membership, `computeMemberID`).
fn own_member(holds: &Holds, name: &str) -> Option<MemberId> {
    let founder = |forming: &Forming| Some(founder_id(&forming.members.get(name)?.peer_url, &forming.id));
    match holds {
        Holds::Joining(admission) => Some(admission.member),
        Holds::Data(membership) => membership.member.or_else(|| founder(membership.forming.as_ref()?)),
        _ => None,
    }
}

fn founder_id(peer_url: &str, token: &str) -> MemberId {
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{peer_url}{token}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_ref()[..8]);
    u64::from_be_bytes(first)
}

/// The masters and their peer URLs. One master alone may have its address by DHCP.
fn definition(cluster: &Cluster, own_name: &str, own_url: Option<String>) -> Definition {
    let url = |machine: &Machine| {
        let defined = machine.static_address().map(|address| peer_url(&address.to_string()));
        // What the machine really has is what etcd can listen on.
        let own = (machine.name == own_name).then(|| own_url.clone()).flatten();
        own.or(defined).unwrap_or_default()
    };
    Definition { masters: cluster.masters().map(|machine| (machine.name.clone(), url(machine))).collect() }
}

fn peer_url(address: &str) -> String {
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    format!("https://{address}:{}", ports::ETCD_PEER)
}

/// etcd's answer to the addition as what the new member starts with.
fn admission(
    added: &client::Added,
    request: &JoinRequest,
    name: &str,
    abandons: &BTreeSet<String>,
) -> Result<Admission, String> {
    let member = added.member.as_ref().ok_or("etcd added a member and does not say which")?;
    let of = |one: &client::Member| {
        let name = if one.id == member.id { name.to_owned() } else { one.name.clone() };
        (name, one.peer_urls.first().cloned().unwrap_or_default())
    };
    Ok(Admission {
        cluster: request.cluster.clone(),
        abandons: abandons.clone(),
        state: request.state.clone(),
        member: member.id,
        members: added.members.iter().map(of).collect(),
    })
}

/// A configuration without the lines that etcd reads only while it has no data.
fn lasting(text: &[u8]) -> Vec<&[u8]> {
    let lines = text.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.starts_with(b"initial-cluster")).collect()
}

fn describe(write: &Write) -> String {
    match write {
        Write::Learn(cluster) => format!("a cluster {cluster} exists"),
        Write::Refuse(number) => format!("order {number} is not carried out: what it gives up runs"),
        Write::Record(forming) => format!("recorded forming {} of {}", forming.id, names(forming.members.keys())),
        Write::Start(forming) => format!("starting forming {}", forming.id),
        Write::Join(admission) => format!("joining cluster {} as member {:x}", admission.cluster, admission.member),
        Write::Commit => "the cluster has committed".into(),
        Write::SetAside => "what is here belongs to no cluster any more and is set aside".into(),
    }
}

fn describe_action(action: &MemberAction) -> String {
    match action {
        MemberAction::Remove(id) => format!("removing member {id:x}, whose data is gone"),
        MemberAction::AddLearner { name, .. } => format!("adding {name} as a learner"),
        MemberAction::Promote(id) => format!("promoting learner {id:x}"),
        MemberAction::UpdatePeerUrls { member, peer_urls } => {
            format!("member {member:x} is now at {}", peer_urls.join(", "))
        }
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Waits for all of them at once.
async fn all<F: Future + Unpin>(futures: &mut [F]) -> Vec<F::Output> {
    let mut outcomes: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, outcome) in futures.iter_mut().zip(&mut outcomes) {
            if outcome.is_none()
                && let std::task::Poll::Ready(value) = std::pin::Pin::new(future).poll(context)
            {
                *outcome = Some(value);
            }
        }
        if outcomes.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_founders_number_is_the_one_that_etcd_gives() {
        // As `etcdctl member list` showed it for a founder with this peer URL and token.
        assert_eq!(format!("{:x}", founder_id("http://127.0.0.1:23800", "c1")), "f6202f174c770188");
    }
}
