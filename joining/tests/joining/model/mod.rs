//! A world of masters: their disks, what they last heard, and an abstract etcd that commits when a
//! quorum of one cluster's voters runs connected. Every event is one step between two crashes.

use joining::*;
use std::collections::{BTreeMap, BTreeSet};

/// The rule that the masters follow: the crate's, or one deliberately wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    Right,
    /// Forms when a majority of the listed masters answers.
    MajorityForms,
    /// Starts when a majority of the founders has recorded.
    MajorityStarts,
    /// A wiped machine keeps the identity of its disk.
    SameDiskAfterWipe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Hear {
        to: usize,
        from: usize,
    },
    Miss {
        to: usize,
        from: usize,
    },
    Act(usize),
    Tick(usize),
    Manage {
        at: usize,
        answer_lost: bool,
    },
    Off(usize),
    On(usize),
    Wipe {
        at: usize,
        new_seed: bool,
    },
    Damage(usize),
    Hide(usize),
    Unhide(usize),
    Cut(usize, usize),
    Heal(usize, usize),
    /// `--without` the machines that hold no etcd data and are off or unheard.
    Without(usize),
    /// `--new`, naming every cluster that there was, without the machines that are off.
    New(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    pub name: Name,
    pub up: bool,
    pub standing: Standing,
    hidden: Option<Note>,
    /// etcd's data folders; whether they hold committed data.
    folders: BTreeMap<String, bool>,
    pub etcd: Etcd,
    pub heard: Reports,
    orders: Orders,
    asked: Option<JoinRequest>,
    admission: Option<Admission>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Etcds {
    /// By number: name, learner, data folder.
    members: BTreeMap<MemberId, (Name, bool, String)>,
    abandons: BTreeSet<ClusterId>,
    founders: BTreeSet<StateId>,
    committed: bool,
    /// Formed by an order that gives data up.
    by_new: bool,
    /// Whom an order left out by name.
    without: BTreeSet<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub rule: Rule,
    pub definition: Definition,
    pub machines: Vec<Machine>,
    clusters: BTreeMap<ClusterId, Etcds>,
    /// Folders by machine that have ever been run on.
    ran: BTreeSet<(Name, String)>,
    cut: BTreeSet<(usize, usize)>,
    drawn: u64,
    /// Disks lost, damaged or left out by an order.
    pub losses: BTreeSet<usize>,
    pub loss_count: usize,
    pub new_orders: usize,
    pub violation: Option<String>,
}

impl World {
    pub fn new(masters: usize, rule: Rule) -> World {
        let name = |index: usize| format!("m{}", index + 1);
        let machine = |index: usize| Machine {
            name: name(index),
            up: true,
            standing: fresh(&format!("s{index}")),
            hidden: None,
            folders: BTreeMap::new(),
            etcd: Etcd::Stopped,
            heard: Reports::new(),
            orders: Orders::default(),
            asked: None,
            admission: None,
        };
        World {
            rule,
            definition: Definition {
                masters: (0..masters).map(|index| (name(index), format!("https://{}", name(index)))).collect(),
            },
            machines: (0..masters).map(machine).collect(),
            clusters: BTreeMap::new(),
            ran: BTreeSet::new(),
            cut: BTreeSet::new(),
            drawn: 0,
            losses: BTreeSet::new(),
            loss_count: 0,
            new_orders: 0,
            violation: None,
        }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    pub fn own(&self, at: usize) -> Own {
        let machine = &self.machines[at];
        Own {
            name: machine.name.clone(),
            standing: machine.standing.clone(),
            etcd: machine.etcd,
            admission: machine.admission.clone(),
            candidate: format!("c{}", self.drawn + 1),
        }
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        let both = self.machines[a].up && self.machines[b].up;
        both && (a == b || !self.cut.contains(&(a.min(b), a.max(b))))
    }

    pub fn decide(&self, at: usize) -> Decision {
        let (own, machine) = (self.own(at), &self.machines[at]);
        let right = decide(&own, &self.definition, &machine.heard, &machine.orders);
        let listed = self.definition.masters.len();
        match (self.rule, &right) {
            (Rule::MajorityForms, Decision::Wait(Reason::Forming { obstacles }))
                if obstacles.values().all(|obstacle| *obstacle == Obstacle::Silent)
                    && listed - obstacles.len() >= majority(listed) =>
            {
                let without = obstacles.keys().cloned().collect();
                let order = Order::issue(&own, &self.definition, &machine.heard, "wrong".into(), without, None);
                decide(&own, &self.definition, &machine.heard, &Orders { latest: order.ok() })
            }
            (Rule::MajorityStarts, Decision::Wait(Reason::Acknowledgement { missing, .. })) => {
                match own.standing.holds() {
                    Some(Holds::Recorded(forming)) if forming.members.len() - missing.len() >= forming.quorum() => {
                        Decision::Write(Write::Start(forming.clone()))
                    }
                    _ => right,
                }
            }
            _ => right,
        }
    }

    fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub fn run(&mut self, event: Event) {
        match event {
            Event::Hear { to, from } if to != from && self.connected(to, from) => {
                let report = self.own(from).report();
                self.machines[to].heard.insert(report.name.clone(), report);
            }
            Event::Miss { to, from } => {
                let name = self.machines[from].name.clone();
                self.machines[to].heard.remove(&name);
            }
            Event::Act(at) if self.machines[at].up => self.act(at),
            Event::Tick(at) if self.machines[at].up => self.tick(at),
            Event::Manage { at, answer_lost } if self.machines[at].up => self.manage(at, answer_lost),
            Event::Off(at) => {
                self.machines[at].up = false;
                self.reset(at);
            }
            Event::On(at) => self.machines[at].up = true,
            Event::Wipe { at, new_seed } => self.wipe(at, new_seed),
            Event::Damage(at) => self.damage(at),
            Event::Hide(at) => {
                self.reset(at);
                let gone = State::Unavailable { why: "no such disk".into() };
                if let State::Mounted(note) = std::mem::replace(&mut self.machines[at].standing.state, gone) {
                    self.machines[at].hidden = Some(note);
                }
            }
            Event::Unhide(at) => {
                if let Some(note) = self.machines[at].hidden.take() {
                    self.machines[at].standing.state = State::Mounted(note);
                }
            }
            Event::Cut(a, b) => drop(self.cut.insert((a.min(b), a.max(b)))),
            Event::Heal(a, b) => drop(self.cut.remove(&(a.min(b), a.max(b)))),
            Event::Without(at) if self.machines[at].up => self.without(at),
            Event::New(at) if self.machines[at].up => self.new_order(at),
            _ => {}
        }
    }

    /// What a reboot forgets.
    fn reset(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.etcd = Etcd::Stopped;
        machine.heard.clear();
        machine.orders = Orders::default();
        machine.asked = None;
        machine.admission = None;
    }

    fn lose(&mut self, at: usize) {
        self.losses.insert(at);
        self.loss_count += 1;
    }

    fn wipe(&mut self, at: usize, new_seed: bool) {
        self.reset(at);
        self.lose(at);
        let id = match self.rule {
            Rule::SameDiskAfterWipe => format!("s{at}"),
            _ => format!("s{at}w{}", self.draw()),
        };
        let machine = &mut self.machines[at];
        machine.folders.clear();
        machine.hidden = None;
        let seed = (machine.standing.permit, machine.standing.seed_cluster.clone());
        machine.standing = fresh(&id);
        if !new_seed {
            (machine.standing.permit, machine.standing.seed_cluster) = seed;
        }
    }

    fn damage(&mut self, at: usize) {
        let folder = self.machines[at].standing.holds().and_then(Holds::data_folder);
        let Some(folder) = folder.filter(|folder| self.machines[at].folders.contains_key(folder)) else { return };
        self.reset(at);
        self.lose(at);
        self.machines[at].folders.remove(&folder);
        if let State::Mounted(note) = &mut self.machines[at].standing.state {
            note.holds = note.holds.damaged("no snapshot matches the log");
        }
    }

    fn without(&mut self, at: usize) {
        let silent = |index: &usize| {
            let machine = &self.machines[*index];
            *index != at && !self.machines[at].heard.contains_key(&machine.name) && machine.folders.is_empty()
        };
        let silent: Vec<usize> = (0..self.machines.len()).filter(silent).collect();
        let names = silent.iter().map(|index| self.machines[*index].name.clone()).collect();
        if self.order(at, names, None) {
            silent.into_iter().for_each(|index| self.lose(index));
        }
    }

    fn new_order(&mut self, at: usize) {
        let off = |machine: &&Machine| !self.machines[at].heard.contains_key(&machine.name);
        let others = self.machines.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, machine)| machine);
        let names = others.filter(off).map(|machine| machine.name.clone()).collect();
        let abandons = self.clusters.keys().cloned().collect();
        if self.order(at, names, Some(New { abandons, unknown: true, restore: None })) {
            self.new_orders += 1;
        }
    }

    fn order(&mut self, at: usize, without: BTreeSet<Name>, new: Option<New>) -> bool {
        let id = format!("o{}", self.draw());
        let order = Order::issue(&self.own(at), &self.definition, &self.machines[at].heard, id, without, new);
        let given = order.is_ok();
        if let Ok(order) = order {
            self.machines[at].orders = Orders { latest: Some(order) };
        }
        given
    }

    fn act(&mut self, at: usize) {
        match self.decide(at) {
            Decision::Write(write) => self.write(at, &write),
            Decision::Run(run) => match (self.machines[at].etcd, run.seal) {
                (Etcd::Stopped, _) => self.start(at, &run.start),
                (_, Some(cluster)) => {
                    let standing = self.machines[at].standing.clone();
                    self.machines[at].standing = standing.sealed(&cluster);
                }
                _ => {}
            },
            Decision::AskToJoin { request, .. } => {
                self.machines[at].etcd = Etcd::Stopped;
                self.machines[at].asked = Some(request);
            }
            Decision::Wait(_) => self.machines[at].etcd = Etcd::Stopped,
        }
    }

    fn write(&mut self, at: usize, write: &Write) {
        let before = self.machines[at].standing.clone();
        if matches!(write, Write::SetAside | Write::Record(_)) {
            let folder = before.holds().and_then(Holds::data_folder).unwrap_or_default();
            let committed = self.machines[at].folders.get(&folder) == Some(&true);
            let member = self.clusters.values().any(|etcds| {
                etcds.members.values().any(|(name, _, used)| *name == self.machines[at].name && *used == folder)
            });
            let by_new = matches!(write, Write::Record(forming) if !forming.abandons().is_empty());
            if committed && member && !by_new {
                self.violated(format!("m{} gives up committed data in {folder}: {write:?}", at + 1));
            }
        }
        if matches!(write, Write::Record(forming) if forming.id == format!("c{}", self.drawn + 1)) {
            self.draw();
        }
        let machine = &mut self.machines[at];
        if !matches!(write, Write::Commit) {
            machine.etcd = Etcd::Stopped;
        }
        machine.admission = None;
        machine.asked = None;
        machine.standing = before.after(write);
    }

    fn start(&mut self, at: usize, start: &Start) {
        let Some(folder) = self.machines[at].standing.holds().and_then(Holds::data_folder) else { return };
        if let Start::Form(forming) = start {
            let member = |(index, name): (usize, &Name)| (index as u64 + 1, (name.clone(), false, folder.clone()));
            self.clusters.entry(forming.id.clone()).or_insert_with(|| Etcds {
                members: forming.members.keys().enumerate().map(member).collect(),
                abandons: forming.abandons(),
                founders: forming.members.values().map(|founder| founder.state.clone()).collect(),
                committed: false,
                by_new: forming.order.as_ref().is_some_and(|order| order.new.is_some()),
                without: forming.order.as_ref().map(|order| order.without.clone()).unwrap_or_default(),
            });
        }
        let name = self.machines[at].name.clone();
        let ran = !self.ran.insert((name, folder.clone()));
        if ran && !self.machines[at].folders.contains_key(&folder) {
            self.violated(format!("m{} starts {folder} anew on an empty folder", at + 1));
        }
        self.machines[at].folders.entry(folder).or_insert(false);
        self.machines[at].etcd = Etcd::Running;
    }

    /// Whether the member is on the disk of this machine, or its admission on the way there.
    fn is_coming(&self, at: usize, cluster: &ClusterId, member: MemberId) -> bool {
        let machine = &self.machines[at];
        let folder = machine.standing.holds().and_then(Holds::data_folder);
        let used = self.clusters[cluster].members.get(&member).map(|(_, _, used)| used.clone());
        folder == used || machine.admission.as_ref().is_some_and(|admission| admission.member == member)
    }

    /// The cluster whose member runs here, and the member's number.
    fn running(&self, at: usize) -> Option<(ClusterId, Option<MemberId>)> {
        let machine = &self.machines[at];
        let folder = machine.standing.holds()?.data_folder()?;
        let cluster = folder.split('-').next()?.to_owned();
        let members = &self.clusters.get(&cluster)?.members;
        let mine = |(_, (name, _, used)): &(&MemberId, &(Name, bool, String))| *name == machine.name && *used == folder;
        let member = members.iter().find(mine).map(|(member, _)| *member);
        (machine.up && machine.etcd != Etcd::Stopped).then_some((cluster, member))
    }

    /// The voters that run connected with `at`, if they are a quorum.
    fn quorum(&self, at: usize, cluster: &ClusterId) -> Option<Vec<usize>> {
        let members = &self.clusters.get(cluster)?.members;
        let voter = |index: &usize| match self.running(*index) {
            Some((running, Some(member))) => {
                running == *cluster && members.get(&member).is_some_and(|member| !member.1)
            }
            _ => false,
        };
        let voters: Vec<usize> =
            (0..self.machines.len()).filter(|index| self.connected(at, *index)).filter(voter).collect();
        let wanted = majority(members.values().filter(|(_, learner, _)| !learner).count());
        (voters.contains(&at) && voters.len() >= wanted).then_some(voters)
    }

    fn is_committed(&self, at: usize) -> bool {
        let machine = &self.machines[at];
        let folder = machine.standing.holds().and_then(Holds::data_folder);
        folder.is_some_and(|folder| machine.folders.get(&folder) == Some(&true))
    }

    /// What etcd does on this machine: commit, catch up, or learn that it was removed.
    fn tick(&mut self, at: usize) {
        let Some((cluster, member)) = self.running(at) else { return };
        let leader = (0..self.machines.len()).find(|leader| {
            let same = self.running(*leader).is_some_and(|(running, _)| running == cluster);
            same && self.connected(at, *leader) && self.quorum(*leader, &cluster).is_some()
        });
        let is_voter = member.is_some_and(|member| !self.clusters[&cluster].members[&member].1);
        match (leader, member) {
            (None, _) if self.is_committed(at) => self.machines[at].etcd = Etcd::Committed,
            (None, _) => self.machines[at].etcd = Etcd::Running,
            (Some(_), None) => self.machines[at].etcd = Etcd::Removed,
            (Some(leader), Some(_)) => {
                self.commit(leader, &cluster);
                let folder = self.machines[at].standing.holds().and_then(Holds::data_folder).unwrap_or_default();
                self.machines[at].folders.insert(folder, true);
                let serving = is_voter && self.quorum(at, &cluster).is_some();
                self.machines[at].etcd = if serving { Etcd::Serving } else { Etcd::Committed };
            }
        }
    }

    /// Whether the disk of a founder is left, or one that holds the cluster's data, or has heard of
    /// it: where all of them are wiped, seeds included, nobody can tell. Nor can those that an order
    /// leaves out, unless they hold its data.
    fn has_witness(&self, cluster: &ClusterId, without: &BTreeSet<Name>) -> bool {
        self.machines.iter().any(|machine| {
            let notes = machine.standing.note().into_iter().chain(machine.hidden.as_ref());
            let founder = notes.into_iter().any(|note| self.clusters[cluster].founders.contains(&note.id));
            let folder =
                |(folder, committed): (&String, &bool)| *committed && folder.split('-').next() == Some(cluster);
            let hidden = machine.hidden.as_ref().is_some_and(|note| note.knows.contains(cluster));
            let has_heard = machine.standing.knows().contains(cluster) || hidden || founder;
            machine.folders.iter().any(folder) || (has_heard && !without.contains(&machine.name))
        })
    }

    fn commit(&mut self, leader: usize, cluster: &ClusterId) {
        let voters = self.quorum(leader, cluster).unwrap_or_default();
        if self.clusters[cluster].committed && !voters.iter().any(|voter| self.is_committed(*voter)) {
            self.violated(format!("{cluster} goes on with a quorum that has none of its commits"));
        }
        let other = |(id, etcds): &(&ClusterId, &Etcds)| *id != cluster && etcds.committed && !etcds.by_new;
        let without = &self.clusters[cluster].without;
        let other = |entry: &(&ClusterId, &Etcds)| other(entry) && self.has_witness(entry.0, without);
        let second = self.clusters.iter().find(other).map(|(id, _)| id.clone());
        if let Some(first) = second.filter(|_| !self.clusters[cluster].committed && !self.clusters[cluster].by_new) {
            self.violated(format!("{cluster} commits beside {first} without an order to give it up"));
        }
        for voter in voters {
            let folder = self.machines[voter].standing.holds().and_then(Holds::data_folder).unwrap_or_default();
            self.machines[voter].folders.insert(folder, true);
        }
        if let Some(etcds) = self.clusters.get_mut(cluster) {
            etcds.committed = true;
        }
    }

    fn manage(&mut self, at: usize, answer_lost: bool) {
        let Some((cluster, _)) = self.running(at) else { return };
        if self.machines[at].etcd != Etcd::Serving || self.quorum(at, &cluster).is_none() {
            return;
        }
        let index = |name: &Name| self.machines.iter().position(|machine| machine.name == *name);
        let health = |member: MemberId, name: &Name| match index(name) {
            Some(index)
                if self.connected(at, index) && self.running(index) == Some((cluster.clone(), Some(member))) =>
            {
                Health::Up { caught_up: self.is_committed(index) }
            }
            // Long enough without contact: what is not on its disk, nor on the way to it, never comes.
            Some(index) if self.connected(at, index) && !self.is_coming(index, &cluster, member) => Health::Gone,
            _ => Health::Down,
        };
        let member = |(id, (name, learner, folder)): (&MemberId, &(Name, bool, String))| Member {
            id: *id,
            name: if self.ran.contains(&(name.clone(), folder.clone())) { name.clone() } else { String::new() },
            peer_urls: vec![format!("https://{name}")],
            learner: *learner,
            health: health(*id, name),
        };
        let seen =
            Cluster { id: cluster.clone(), members: self.clusters[&cluster].members.iter().map(member).collect() };
        let asking = (0..self.machines.len()).filter(|other| self.connected(at, *other));
        let requests = asking.filter_map(|other| {
            let machine = &self.machines[other];
            Some((machine.name.clone(), machine.asked.clone()?))
        });
        let requests: BTreeMap<Name, JoinRequest> = requests.collect();
        let action = membership(&seen, &self.definition, &requests).action;
        let next = 100 + self.drawn;
        let Some(etcds) = self.clusters.get_mut(&cluster) else { return };
        match action {
            Some(MemberAction::Remove(member)) => drop(etcds.members.remove(&member)),
            Some(MemberAction::Promote(member)) => {
                etcds.members.entry(member).and_modify(|(_, learner, _)| *learner = false);
            }
            Some(MemberAction::AddLearner { name, .. }) => {
                etcds.members.insert(next, (name.clone(), true, format!("{cluster}-{next:x}")));
                let members = etcds.members.values().map(|(name, ..)| (name.clone(), format!("https://{name}")));
                let admission = Admission {
                    cluster: cluster.clone(),
                    abandons: etcds.abandons.clone(),
                    state: requests[&name].state.clone(),
                    member: next,
                    members: members.collect(),
                };
                self.draw();
                // The request is answered, whether the answer arrives or not.
                if let Some(machine) = self.machines.iter_mut().find(|machine| machine.name == name) {
                    machine.asked = None;
                    machine.admission = Some(admission).filter(|_| !answer_lost);
                }
            }
            Some(MemberAction::UpdatePeerUrls { .. }) | None => {}
        }
    }

    /// All faults end: every machine is on and connected, every state disk that exists is back.
    pub fn calm(&mut self) {
        self.cut.clear();
        for at in 0..self.machines.len() {
            self.run(Event::Unhide(at));
            self.run(Event::On(at));
        }
    }

    /// One fair round.
    pub fn round(&mut self) {
        let count = self.machines.len();
        for at in 0..count {
            (0..count).for_each(|from| self.run(Event::Hear { to: at, from }));
            self.run(Event::Act(at));
            self.run(Event::Tick(at));
            self.run(Event::Manage { at, answer_lost: false });
        }
    }

    /// Fair rounds until nothing changes any more; the number of rounds, or none after `most`.
    pub fn settle(&mut self, most: usize) -> Option<usize> {
        let mut quiet = 0;
        for round in 0..most {
            let before = self.clone();
            self.round();
            quiet = if *self == before { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Some(round);
            }
        }
        None
    }

    /// Whether this master is a voter of the cluster, which serves.
    pub fn is_voter_of(&self, at: usize) -> Option<ClusterId> {
        let (cluster, member) = self.running(at)?;
        let voter = !self.clusters[&cluster].members.get(&member?)?.1;
        (voter && self.machines[at].etcd == Etcd::Serving).then_some(cluster)
    }

    /// The reason that this master shows.
    pub fn reason(&self, at: usize) -> Option<Reason> {
        match self.decide(at) {
            Decision::Wait(reason) => Some(reason),
            Decision::Run(run) => run.notice,
            Decision::Write(_) | Decision::AskToJoin { .. } => None,
        }
    }

    /// What is wrong with a world that has settled, if anything.
    pub fn complaint(&self) -> Option<String> {
        let count = self.machines.len();
        let voters: Vec<Option<ClusterId>> = (0..count).map(|at| self.is_voter_of(at)).collect();
        let clusters: BTreeSet<&ClusterId> = voters.iter().flatten().collect();
        if clusters.len() > 1 && self.new_orders == 0 {
            return Some(format!("two clusters: {voters:?}"));
        }
        let tolerable = self.loss_count <= count - majority(count) && self.new_orders == 0;
        for (at, voter) in voters.iter().enumerate().filter(|(_, voter)| voter.is_none()) {
            let reason = self.reason(at);
            // A machine may wait for others as long as one of them says what only an operator can do.
            let others = (0..count).filter_map(|other| self.reason(other)).any(|reason| reason.needs_operator());
            if tolerable || !others {
                let decision = self.decide(at);
                return Some(format!("m{} is no voter ({voter:?}) and says {reason:?}; it would {decision:?}", at + 1));
            }
        }
        None
    }
}

fn fresh(state: &str) -> Standing {
    Standing { permit: true, seed_cluster: None, state: State::Mounted(Note::new(state)) }
}
