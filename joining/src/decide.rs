//! The decision: what one master does next.

use crate::forming::{Forming, Founder, Order};
use crate::reason::{Obstacle, Reason};
use crate::types::*;
use crate::write::Write;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What a master does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Stop etcd if it runs, make the note `Standing::after` this write, durably, and decide again.
    /// Nothing is told to anyone before the write is through.
    Write(Write),
    /// etcd runs, or is started.
    Run(Run),
    /// Ask one of `via` to be added as a learner; the answer comes back in `Own::admission`.
    AskToJoin { via: BTreeSet<Name>, request: JoinRequest },
    /// etcd does not run. `Reason::needs_operator` says whether that ends without a person's word.
    Wait(Reason),
}

/// How etcd runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub start: Start,
    /// Put this cluster's id into the seed and take the permit out. etcd does not wait for it.
    pub seal: Option<ClusterId>,
    /// For the console: what the running member waits for.
    pub notice: Option<Reason>,
}

/// etcd's initial flags; etcd ignores them once its data folder has a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// `--initial-cluster-state new`, `--initial-cluster-token` the forming's id.
    Form(Forming),
    /// `--initial-cluster-state existing`.
    Join(Admission),
    Resume(Membership),
}

/// What a machine without data asks a running cluster for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct JoinRequest {
    pub version: u32,
    /// The name in the certificate that it asks with; the caller has compared them.
    pub name: Name,
    /// The cluster that it means to join.
    pub cluster: ClusterId,
    pub state: StateId,
}

/// What this master does next: a function of its arguments alone.
pub fn decide(own: &Own, definition: &Definition, reports: &Reports, orders: &Orders) -> Decision {
    if !definition.masters.contains_key(&own.name) {
        return Decision::Wait(Reason::NotListed { name: own.name.clone() });
    }
    let note = match &own.standing.state {
        State::Mounted(note) => note,
        State::Unavailable { why } => return Decision::Wait(Reason::StateUnavailable { why: why.clone() }),
    };
    let counts = |name: &Name, report: &Report| {
        report.version == VERSION && report.name == *name && *name != own.name && definition.masters.contains_key(name)
    };
    let mut heard: BTreeMap<&Name, &Report> = reports.iter().filter(|(name, report)| counts(name, report)).collect();
    let mine = own.report();
    heard.insert(&own.name, &mine);
    let mut case = Case { own, definition, heard, note, local: orders.latest.as_ref(), order: None };
    case.order = case.order_in_force();
    case.decide()
}

struct Case<'a> {
    own: &'a Own,
    definition: &'a Definition,
    /// The reports that count, our own included.
    heard: BTreeMap<&'a Name, &'a Report>,
    note: &'a Note,
    /// The order given to this machine.
    local: Option<&'a Order>,
    /// The order in force.
    order: Option<&'a Order>,
}

impl<'a> Case<'a> {
    fn decide(&self) -> Decision {
        if self.own.etcd == Etcd::Removed {
            return Decision::Write(self.removed());
        }
        if let Some(order) = self.order.filter(|order| self.serving().keys().any(|id| order.abandons(id))) {
            return Decision::Write(Write::Refuse(order.number));
        }
        match &self.note.holds {
            Holds::Nothing => self.without_data(None),
            Holds::Recorded(forming) => self.without_data(Some(forming)),
            holds => self.give_up(holds).unwrap_or_else(|| match holds {
                Holds::Started(forming) => self.started(forming),
                Holds::Joining(admission) => self.member(&admission.cluster, Start::Join(admission.clone())),
                Holds::Data(membership) => self.member(&membership.cluster, Start::Resume(membership.clone())),
                Holds::Partial { why, .. } => self.partial(why),
                Holds::Nothing => self.without_data(None),
                Holds::Recorded(forming) => self.without_data(Some(forming)),
            }),
        }
    }

    /// The cluster has removed us: it is known to exist, and what is here is of no use to it.
    fn removed(&self) -> Write {
        match &self.note.holds {
            Holds::Started(forming) if !self.note.knows.contains(&forming.id) => Write::Learn(forming.id.clone()),
            _ => Write::SetAside,
        }
    }

    fn others(&self) -> impl Iterator<Item = &'a Report> + '_ {
        self.heard.values().copied().filter(|report| report.name != self.own.name)
    }

    fn note_of(&self, name: &Name) -> Option<&'a Note> {
        self.heard.get(name)?.standing.note()
    }

    /// The highest order among the one given here and those in the formings that name us, of those
    /// that speak of the masters and disks of now and are not used up.
    fn order_in_force(&self) -> Option<&'a Order> {
        let recorded = self.heard.values().filter_map(|report| report.standing.holds()?.recorded());
        let recorded = recorded.filter(|forming| forming.is_founder(&self.own.name, &self.note.id));
        let orders = recorded.filter_map(|forming| forming.order.as_ref()).chain(self.local);
        let orders = orders.filter(|order| order.number > self.note.used_orders);
        let same_disk = |(name, state): (&Name, &StateId)| self.note_of(name).is_none_or(|note| note.id == *state);
        let stands = |order: &&Order| order.fits(self.definition) && order.members.iter().all(same_disk);
        let orders = orders.filter(stands).filter(|order| order.members.contains_key(&self.own.name));
        orders.max_by_key(|order| (order.number, Reverse(&order.id)))
    }

    /// No etcd data is here, and none ever was under the identity of `recorded`.
    fn without_data(&self, recorded: Option<&'a Forming>) -> Decision {
        if let Some(started) = recorded.and_then(|forming| self.started_elsewhere(forming)) {
            return Decision::Write(Write::Start(started.clone()));
        }
        let mut known = self.own.standing.knows();
        known.retain(|id| !self.order.is_some_and(|order| order.abandons(id)));
        if !known.is_empty() {
            return self.rejoin(known);
        }
        if let Some(cluster) = self.unlearnt(recorded) {
            return Decision::Write(Write::Learn(cluster));
        }
        match recorded.filter(|forming| self.unacknowledged(forming).is_empty()) {
            Some(forming) => Decision::Write(Write::Start(forming.clone())),
            None => self.form(),
        }
    }

    /// The forming that another founder has started, and that we have recorded before it did: the
    /// recorded one, or an older one whose starter is a founder of the recorded one, which by that
    /// can never start.
    fn started_elsewhere(&self, recorded: &Forming) -> Option<&'a Forming> {
        let knows = self.own.standing.knows();
        let counts = |report: &Report, started: &Forming| {
            let bound = report.standing.note().is_some_and(|note| recorded.is_founder(&report.name, &note.id));
            let allowed = !knows.contains(&started.id) && !recorded.abandons().contains(&started.id);
            started.is_founder(&self.own.name, &self.note.id) && (started.id == recorded.id || bound && allowed)
        };
        let started = self.others().filter_map(|report| Some((report, report.standing.holds()?.started()?)));
        started.into_iter().find(|(report, started)| counts(report, started)).map(|(_, started)| started)
    }

    /// A cluster that another master is a member of; not one that another or an order has replaced,
    /// nor the one we are about to found.
    fn unlearnt(&self, recorded: Option<&Forming>) -> Option<ClusterId> {
        let clusters: Vec<_> = self.others().filter_map(|report| report.standing.holds()?.cluster()).collect();
        let replaced = |id: &ClusterId| {
            clusters.iter().any(|(_, abandons)| abandons.contains(id))
                || recorded.is_some_and(|forming| forming.id == *id)
                || self.order.is_some_and(|order| order.abandons(id))
        };
        clusters.iter().map(|(id, _)| *id).find(|id| !replaced(id)).cloned()
    }

    /// The founders that are not known to have recorded the forming.
    fn unacknowledged(&self, forming: &Forming) -> BTreeSet<Name> {
        let recorded = |name: &Name, founder: &Founder| {
            self.note_of(name).is_some_and(|note| {
                note.id == founder.state && note.holds.recorded().is_some_and(|recorded| recorded.id == forming.id)
            })
        };
        forming
            .members
            .iter()
            .filter(|(name, founder)| !recorded(name, founder))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn required(&self) -> Vec<&'a Name> {
        match self.order {
            Some(order) => order.members.keys().collect(),
            None => self.definition.masters.keys().collect(),
        }
    }

    /// Records the forming that all can take part in, or says what is missing.
    fn form(&self) -> Decision {
        let required = self.required();
        let mut obstacles = self.obstacles(&required);
        let Some(founders) = self.founders(&required).filter(|_| obstacles.is_empty()) else {
            return Decision::Wait(Reason::Forming { obstacles });
        };
        let records = required.iter().filter_map(|name| self.note_of(name)?.holds.recorded());
        let highest = records.reduce(|best, forming| if forming.outranks(best) { forming } else { best });
        let fitting = highest.filter(|forming| forming.order.as_ref() == self.order && forming.members == founders);
        let next = fitting.cloned().unwrap_or_else(|| self.proposal(founders));
        for name in &required {
            let formings = self.note_of(name).into_iter().flat_map(Note::formings);
            let bound = formings.filter_map(|forming| Some((forming.id.clone(), forming.may_run_beside(&next)?)));
            let bound = bound.map(|(forming, gone)| ((*name).clone(), Obstacle::MayHaveRun { forming, gone }));
            obstacles.extend(bound);
        }
        if !obstacles.is_empty() {
            return Decision::Wait(Reason::Forming { obstacles });
        }
        if self.note.holds.recorded().is_some_and(|recorded| recorded.id == next.id) {
            return Decision::Wait(Reason::Acknowledgement { missing: self.unacknowledged(&next), forming: next.id });
        }
        let proposes = required.first() == Some(&&self.own.name) || self.order.is_some() && self.order == self.local;
        match required.first() {
            Some(first) if fitting.is_none() && !proposes => {
                Decision::Wait(Reason::Proposer { name: (*first).clone() })
            }
            _ => Decision::Write(Write::Record(next)),
        }
    }

    fn founders(&self, required: &[&Name]) -> Option<BTreeMap<Name, Founder>> {
        let founder = |name: &Name| {
            let peer_url = self.definition.masters.get(name)?.clone();
            Some((name.clone(), Founder { state: self.note_of(name)?.id.clone(), peer_url }))
        };
        required.iter().map(|name| founder(name)).collect()
    }

    fn proposal(&self, members: BTreeMap<Name, Founder>) -> Forming {
        let notes = self.heard.values().filter_map(|report| report.standing.note());
        let round = 1 + notes.flat_map(Note::formings).map(|forming| forming.round).max().unwrap_or(0);
        Forming { id: self.own.candidate.clone(), round, members, order: self.order.cloned() }
    }

    /// What keeps the listed masters from forming: whatever ails a required one, and what one that
    /// an order leaves out knows although it was said to know nothing.
    fn obstacles(&self, required: &[&Name]) -> BTreeMap<Name, Obstacle> {
        let mut obstacles = BTreeMap::new();
        for name in self.definition.masters.keys() {
            let obstacle = match self.heard.get(name) {
                None => Some(Obstacle::Silent),
                Some(report) => self.obstacle(report),
            };
            let counts = |obstacle: &Obstacle| required.contains(&name) || obstacle.is_evidence();
            obstacles.extend(obstacle.filter(counts).map(|obstacle| (name.clone(), obstacle)));
        }
        obstacles
    }

    fn obstacle(&self, report: &Report) -> Option<Obstacle> {
        let note = match &report.standing.state {
            State::Unavailable { why } => return Some(Obstacle::StateUnavailable { why: why.clone() }),
            State::Mounted(note) => note,
        };
        let given_up = |id: &ClusterId| self.order.is_some_and(|order| order.abandons(id));
        let new = self.order.and_then(|order| order.new.as_ref());
        match &note.holds {
            Holds::Nothing | Holds::Recorded(_) => {}
            Holds::Started(forming) if !given_up(&forming.id) => {
                return Some(Obstacle::Started { forming: forming.id.clone() });
            }
            Holds::Partial { why, forming } => {
                let named = forming.as_ref().is_some_and(|forming| given_up(&forming.id));
                let unknown = forming.is_none() && new.is_some_and(|new| new.unknown);
                if !named && !unknown {
                    return Some(Obstacle::Partial { why: why.clone() });
                }
            }
            holds => match holds.cluster() {
                Some((cluster, _)) if report.serving || !given_up(cluster) => {
                    return Some(Obstacle::Data { cluster: cluster.clone() });
                }
                _ => {}
            },
        }
        let knows: BTreeSet<_> = report.standing.knows().into_iter().filter(|id| !given_up(id)).collect();
        if !knows.is_empty() {
            return Some(Obstacle::Lost { clusters: knows });
        }
        (!report.standing.permit && new.is_none()).then_some(Obstacle::NoPermit)
    }

    /// Data that an order gives up makes place for the order's forming, once all else is ready for it.
    fn give_up(&self, holds: &Holds) -> Option<Decision> {
        self.order?.new.as_ref()?;
        match self.form() {
            Decision::Write(write) => Some(Decision::Write(write)),
            wait if matches!(holds, Holds::Partial { .. }) => Some(wait),
            _ => None,
        }
    }

    /// The clusters that serve now: what each replaced, and where.
    fn serving(&self) -> BTreeMap<&'a ClusterId, (&'a BTreeSet<ClusterId>, BTreeSet<Name>)> {
        let mut serving = BTreeMap::new();
        for report in self.others().filter(|report| report.serving) {
            if let Some((cluster, abandons)) = report.standing.holds().and_then(Holds::cluster) {
                serving.entry(cluster).or_insert_with(|| (abandons, BTreeSet::new())).1.insert(report.name.clone());
            }
        }
        serving
    }

    /// The cluster that could take in a machine that knows `known`: the only one that serves.
    fn joinable(&self, known: &BTreeSet<ClusterId>) -> Option<(&'a ClusterId, BTreeSet<Name>)> {
        let mut serving = self.serving().into_iter();
        let (cluster, (abandons, via)) = serving.next().filter(|_| serving.next().is_none())?;
        known.iter().all(|id| id == cluster || abandons.contains(id)).then_some((cluster, via))
    }

    /// A cluster is known and there is no data: only that cluster, with a quorum, can take us in.
    fn rejoin(&self, known: BTreeSet<ClusterId>) -> Decision {
        let Some((cluster, via)) = self.joinable(&known) else {
            let running: BTreeSet<ClusterId> = self.serving().into_keys().cloned().collect();
            if running.is_empty() {
                return Decision::Wait(self.no_quorum(known));
            }
            return Decision::Wait(Reason::OtherCluster { known, running });
        };
        let ours = |admission: &&Admission| admission.cluster == *cluster && admission.state == self.note.id;
        if let Some(admission) = self.own.admission.as_ref().filter(ours) {
            return Decision::Write(Write::Join(admission.clone()));
        }
        let (name, state) = (self.own.name.clone(), self.note.id.clone());
        Decision::AskToJoin { via, request: JoinRequest { version: VERSION, name, cluster: cluster.clone(), state } }
    }

    fn silent(&self) -> BTreeSet<Name> {
        self.definition.masters.keys().filter(|name| !self.heard.contains_key(*name)).cloned().collect()
    }

    fn no_quorum(&self, clusters: BTreeSet<ClusterId>) -> Reason {
        let holds = |report: &Report| {
            let cluster = report.standing.holds().and_then(Holds::cluster);
            cluster.is_some_and(|(cluster, _)| clusters.contains(cluster))
        };
        let holders = self.heard.values().filter(|report| holds(report)).map(|report| report.name.clone()).collect();
        Reason::NoQuorum { holders, silent: self.silent(), clusters, listed: self.definition.masters.len() }
    }

    /// etcd has been started for a forming; is there a first commit?
    fn started(&self, forming: &Forming) -> Decision {
        if matches!(self.own.etcd, Etcd::Committed | Etcd::Serving) {
            return Decision::Write(Write::Commit);
        }
        if self.is_void(forming) {
            return Decision::Write(Write::SetAside);
        }
        if let Some(reason) = self.replaced(&forming.id) {
            return Decision::Wait(reason);
        }
        let still = |note: &Note| {
            note.holds.recorded().or(note.holds.started()).is_some_and(|theirs| theirs.id == forming.id)
                && !matches!(note.holds, Holds::Partial { .. })
        };
        let gone = |(name, founder): &(&Name, &Founder)| {
            self.note_of(name).is_some_and(|note| note.id != founder.state || !still(note))
        };
        let gone: BTreeSet<Name> = forming.members.iter().filter(gone).map(|(name, _)| name.clone()).collect();
        let hopeless = forming.members.len() - gone.len() < forming.quorum();
        let silent = self.silent().into_iter().filter(|name| forming.members.contains_key(name)).collect();
        let notice = Some(Reason::FirstCommit { forming: forming.id.clone(), silent, gone, hopeless });
        Decision::Run(Run { start: Start::Form(forming.clone()), seal: None, notice })
    }

    /// So many founders have started another forming, with the disk that had recorded this one and
    /// without ever starting it, that the rest never was and never will be a quorum. A wiped founder
    /// does not count: it may have voted before.
    fn is_void(&self, forming: &Forming) -> bool {
        let elsewhere = |(name, founder): &(&Name, &Founder)| {
            let note = self.note_of(name).filter(|note| note.id == founder.state);
            let other = note.and_then(|note| note.holds.started());
            other.is_some_and(|other| other.id != forming.id && !other.abandons().contains(&forming.id))
        };
        forming.members.len() - forming.members.iter().filter(elsewhere).count() < forming.quorum()
    }

    /// etcd has been added to a cluster, or holds its data.
    fn member(&self, cluster: &ClusterId, start: Start) -> Decision {
        if matches!(self.own.etcd, Etcd::Committed | Etcd::Serving) && matches!(start, Start::Join(_)) {
            return Decision::Write(Write::Commit);
        }
        let serving = self.own.etcd == Etcd::Serving;
        let replaced = self.replaced(cluster);
        if let Some(reason) = replaced.clone().filter(|_| !serving) {
            return Decision::Wait(reason);
        }
        let standing = &self.own.standing;
        let sealed = standing.seed_cluster.as_ref() == Some(cluster) && !standing.permit;
        let seal = (!sealed && matches!(start, Start::Resume(_))).then(|| cluster.clone());
        let notice = if serving { replaced } else { Some(self.no_quorum([cluster.clone()].into())) };
        Decision::Run(Run { start, seal, notice })
    }

    /// Another master belongs to a cluster that an order put in the place of this one.
    fn replaced(&self, cluster: &ClusterId) -> Option<Reason> {
        let mut by = self.others().filter_map(|report| report.standing.holds()?.cluster());
        let (by, _) = by.find(|(_, abandons)| abandons.contains(cluster))?;
        Some(Reason::Abandoned { cluster: cluster.clone(), by: by.clone() })
    }

    /// A damaged folder is given up only for the cluster that runs without it, and not before that one is
    /// known here: whoever set the folder aside and then never met the cluster again might form anew.
    fn partial(&self, why: &str) -> Decision {
        match self.joinable(&self.own.standing.knows()) {
            Some((cluster, _)) if !self.note.knows.contains(cluster) => Decision::Write(Write::Learn(cluster.clone())),
            Some(_) => Decision::Write(Write::SetAside),
            None => Decision::Wait(Reason::Partial { why: why.to_owned() }),
        }
    }
}
