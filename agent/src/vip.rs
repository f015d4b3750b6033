//! The masters' virtual address: one master at a time has it on its interface, the one that holds a
//! Lease, and only while its own API server is ready. Never given to etcd.
//!
//! Architecture invariant: two masters that follow their clocks never have the address at once. A
//! master counts its lease from before it asked for the renewal and leaves after `KEEP`; another counts
//! from when it saw that renewal and takes over after `DURATION`, which is longer. Clocks are monotonic
//! and never compared between machines. An agent that hangs or dies is covered by the kernel, which
//! keeps the address only for the seconds that are left.

use crate::announce::announce;
use crate::api::{Api, ApiError, MICRO_TIME};
use crate::link_address::{self, Link};
use crate::machine::say;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/imgbuild-vip";
const NAME: &str = "imgbuild-vip";
const NAMESPACE: &str = "kube-system";
/// A lease that has not changed for so long may be taken.
const DURATION: Duration = Duration::from_secs(5);
/// A holder without a renewal for so long has left.
const KEEP: Duration = Duration::from_secs(4);
/// Between two renewals, or two looks at another's lease.
const PERIOD: Duration = Duration::from_secs(1);
/// For one answer of the API server.
const LIMIT: Duration = Duration::from_secs(1);
/// A single announcement may be lost.
const ANNOUNCEMENTS: u32 = 3;

/// The Lease as this master knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// The API did not answer, or our write met another's.
    Unknown,
    Absent,
    Seen(Seen),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Empty: given up.
    pub holder: String,
    /// resourceVersion
    pub version: String,
    /// How often it changed hands.
    pub transitions: u64,
    /// When this version was first seen here.
    pub since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Wait,
    /// Write the lease in our name: the address is ours for `KEEP` from now if that succeeds.
    Take,
    /// The address goes at once.
    Leave,
    /// The address goes at once, and the lease is written in nobody's name.
    GiveUp,
}

/// What to do now. `held`: when the last write that succeeded was begun, while this master has the
/// address. `ready`: this machine's API server is.
pub fn decide(held: Option<Instant>, lease: &Lease, own: &str, ready: bool, now: Instant) -> Action {
    let others = matches!(lease, Lease::Seen(seen) if seen.holder != own);
    match (held, lease) {
        (Some(renewed), _) if others || now >= renewed + KEEP => Action::Leave,
        (Some(_), _) if !ready => Action::GiveUp,
        (None, _) if !ready => Action::Wait,
        (_, Lease::Unknown) => Action::Wait,
        (_, Lease::Seen(seen)) if others && !seen.holder.is_empty() && now < seen.since + DURATION => Action::Wait,
        _ => Action::Take,
    }
}

/// Takes part for ever; ends only when the interface refuses, with the lease given up. Whoever calls it
/// again pauses for longer than `PERIOD` before, so that another master can take over.
pub async fn hold(api: &Api, own_name: &str, interface: &str, address: IpAddr) -> io::Result<Infallible> {
    let place = Place { link: link_address::find(interface)?, address };
    // Of an agent before this one.
    place.hide()?;
    let mut keeper = Keeper { api, own: own_name, lease: Lease::Unknown, held: None };
    let mut announced = 0;
    loop {
        let next = Instant::now() + PERIOD;
        match keeper.turn(|| place.hide()).await? {
            Turn::Waiting => {}
            Turn::Holding => {
                if let Err(error) = place.show(keeper.seconds_left()) {
                    keeper.write("").await;
                    return Err(error);
                }
                if announced == 0 {
                    say(format!("virtual address {address}: held by this master"));
                }
                if announced < ANNOUNCEMENTS {
                    announced += 1;
                    place.announce();
                }
            }
            Turn::Left => {
                announced = 0;
                say(format!("virtual address {address}: left by this master"));
            }
        }
        tokio::time::sleep_until(keeper.deadline().map_or(next, |deadline| deadline.min(next))).await;
    }
}

/// Where the address goes.
struct Place {
    link: Link,
    address: IpAddr,
}

impl Place {
    /// Here for so many seconds, unless shown again.
    fn show(&self, seconds: u32) -> io::Result<()> {
        match seconds {
            // An answer that came, or was read, too late.
            0 => Ok(()),
            _ => link_address::add_for(self.link.index, self.address, seconds),
        }
    }

    fn hide(&self) -> io::Result<()> {
        link_address::remove(self.link.index, self.address)
    }

    fn announce(&self) {
        if let Err(error) = announce(&self.link, self.address) {
            say(format!("virtual address {}: announcing it: {error}", self.address));
        }
    }
}

enum Turn {
    Waiting,
    /// The lease was renewed just now.
    Holding,
    Left,
}

struct Keeper<'a> {
    api: &'a Api,
    own: &'a str,
    lease: Lease,
    held: Option<Instant>,
}

impl Keeper<'_> {
    /// When the address must be gone without another renewal.
    fn deadline(&self) -> Option<Instant> {
        Some(self.held? + KEEP)
    }

    /// Whole seconds until then: the kernel counts no others.
    fn seconds_left(&self) -> u32 {
        let left = self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(0, |left| left.as_secs() as u32)
    }

    /// Looks, decides and does. `hide` takes the address away, before anybody is told.
    async fn turn(&mut self, hide: impl Fn() -> io::Result<()>) -> io::Result<Turn> {
        let ready = match self.in_time(self.api.health("/readyz")).await {
            Some(answer) => answer.is_ok(),
            // Slow is no reason to leave; the renewals decide.
            None => self.held.is_some(),
        };
        // What our own write made of it is known without a look.
        if self.held.is_none() || self.lease == Lease::Unknown {
            self.look().await;
        }
        let action = decide(self.held, &self.lease, self.own, ready, Instant::now());
        match action {
            Action::Wait => Ok(Turn::Waiting),
            Action::Take => Ok(if self.take().await { Turn::Holding } else { Turn::Waiting }),
            Action::Leave | Action::GiveUp => {
                hide()?;
                self.held = None;
                if action == Action::GiveUp {
                    self.write("").await;
                }
                Ok(Turn::Left)
            }
        }
    }

    /// The answer, unless it takes too long for an address that must be gone in time.
    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, ApiError>>) -> Option<Result<T, ApiError>> {
        let limit = Instant::now() + LIMIT;
        let end = self.deadline().map_or(limit, |deadline| deadline.min(limit));
        tokio::time::timeout_at(end, answer).await.ok()
    }

    async fn look(&mut self) {
        let found = self.in_time(self.api.find(PATH)).await;
        let now = Instant::now();
        self.lease = match found {
            Some(Ok(Some(object))) => see(&object, &self.lease, now),
            Some(Ok(None)) => Lease::Absent,
            Some(Err(_)) | None => Lease::Unknown,
        };
    }

    /// Writes the lease in our name; whether it is ours now.
    async fn take(&mut self) -> bool {
        let begin = Instant::now();
        let written = self.write(self.own).await;
        if written {
            self.held = Some(begin);
        }
        written
    }

    /// The version in it makes the API refuse when another wrote meanwhile; an absent one is made.
    async fn write(&mut self, holder: &str) -> bool {
        let object = object(holder, &self.lease, OffsetDateTime::now_utc());
        let written = self.in_time(self.api.put(PATH, &object)).await;
        let now = Instant::now();
        self.lease = match &written {
            Some(Ok(object)) => see(object, &Lease::Unknown, now),
            _ => Lease::Unknown,
        };
        matches!(written, Some(Ok(_)))
    }
}

/// The Lease object as seen now; a version that was known keeps the time of its first sight.
fn see(object: &Value, before: &Lease, now: Instant) -> Lease {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let version = text("/metadata/resourceVersion");
    let since = match before {
        Lease::Seen(seen) if seen.version == version => seen.since,
        _ => now,
    };
    let transitions = object.pointer("/spec/leaseTransitions").and_then(Value::as_u64).unwrap_or(0);
    Lease::Seen(Seen { holder: text("/spec/holderIdentity"), version, transitions, since })
}

/// The Lease object to write over `lease`.
fn object(holder: &str, lease: &Lease, now: OffsetDateTime) -> Value {
    let now = now.format(MICRO_TIME).unwrap_or_default();
    let mut metadata = json!({"name": NAME, "namespace": NAMESPACE});
    let mut transitions = 0;
    if let Lease::Seen(seen) = lease {
        metadata["resourceVersion"] = json!(seen.version);
        transitions = seen.transitions + u64::from(seen.holder != holder && !holder.is_empty());
    }
    let mut spec = json!({
        "leaseDurationSeconds": DURATION.as_secs(), "renewTime": now, "leaseTransitions": transitions,
    });
    if !holder.is_empty() {
        spec["holderIdentity"] = json!(holder);
    }
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::tests::{in_a_namespace, ip};
    use crate::testing::{self, TestTls};
    use http_body_util::BodyExt;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::watch;

    fn seconds(number: f64) -> Duration {
        Duration::from_secs_f64(number)
    }

    #[test]
    fn the_decision() {
        let start = Instant::now();
        let at = |number: f64| start + seconds(number);
        let seen = |holder: &str| {
            Lease::Seen(Seen { holder: holder.into(), version: "7".into(), transitions: 0, since: start })
        };
        let (absent, unknown) = (Lease::Absent, Lease::Unknown);
        // held since, lease, ready, now
        let cases = [
            (None, &absent, true, 0.0, Action::Take),
            (None, &absent, false, 0.0, Action::Wait),
            (None, &unknown, true, 9.0, Action::Wait),
            (None, &seen("m2"), true, 4.9, Action::Wait),
            (None, &seen("m2"), true, 5.0, Action::Take),
            (None, &seen("m2"), false, 5.0, Action::Wait),
            (None, &seen(""), true, 0.0, Action::Take),
            (None, &seen("m1"), true, 0.0, Action::Take),
            (Some(0.0), &seen("m1"), true, 1.0, Action::Take),
            (Some(0.0), &unknown, true, 3.9, Action::Wait),
            (Some(0.0), &unknown, true, 4.0, Action::Leave),
            (Some(0.0), &seen("m1"), true, 4.0, Action::Leave),
            (Some(0.0), &seen("m2"), true, 0.1, Action::Leave),
            (Some(0.0), &seen(""), true, 0.1, Action::Leave),
            (Some(0.0), &seen("m1"), false, 1.0, Action::GiveUp),
            (Some(0.0), &unknown, false, 1.0, Action::GiveUp),
            (Some(0.0), &seen("m2"), false, 1.0, Action::Leave),
            (Some(0.0), &absent, true, 1.0, Action::Take),
        ];
        for (held, lease, ready, now, expected) in cases {
            let found = decide(held.map(at), lease, "m1", ready, at(now));
            assert_eq!(found, expected, "held {held:?}, {lease:?}, ready {ready}, at {now}");
        }
    }

    #[test]
    fn a_version_keeps_the_time_of_its_first_sight() {
        let start = Instant::now();
        let lease = |version: &str| json!({"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": "m2"}});
        let first = see(&lease("1"), &Lease::Unknown, start);
        assert_eq!(see(&lease("1"), &first, start + PERIOD), first);
        let Lease::Seen(second) = see(&lease("2"), &first, start + PERIOD) else { panic!() };
        assert_eq!((second.since, second.holder.as_str()), (start + PERIOD, "m2"));
    }

    #[test]
    fn the_object_names_the_version_that_it_replaces() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap();
        let seen =
            Lease::Seen(Seen { holder: "m2".into(), version: "7".into(), transitions: 3, since: Instant::now() });
        let taken = object("m1", &seen, now);
        assert_eq!(taken["metadata"]["resourceVersion"], "7");
        assert_eq!(taken["spec"]["holderIdentity"], "m1");
        assert_eq!(taken["spec"]["leaseTransitions"], 4);
        assert_eq!(taken["spec"]["renewTime"], "2026-11-18T11:06:40.000000Z");
        let given_up = object("", &seen, now);
        assert_eq!(given_up["spec"].get("holderIdentity"), None);
        assert_eq!(object("m1", &Lease::Absent, now)["metadata"].get("resourceVersion"), None);
    }

    /// A master of the simulation.
    struct Master {
        lease: Lease,
        held: Option<Instant>,
        turn_at: Instant,
        cut_off: Instant,
    }

    /// A write on its way to the API.
    #[derive(Clone)]
    struct Write {
        of: usize,
        lease: Lease,
        begun: Instant,
        lands: Instant,
        answered: Option<Instant>,
    }

    #[derive(Default)]
    struct World {
        masters: Vec<Master>,
        /// What the API has, with when it landed.
        server: Option<Seen>,
        writes: Vec<Write>,
        /// From when until when each has had the address.
        spans: Vec<(usize, Instant, Instant)>,
    }

    /// What a turn meets, times in milliseconds.
    #[derive(Debug, Clone, Copy)]
    struct Fate {
        ready: bool,
        /// The master reaches nothing from now on for so long.
        cut_off: u64,
        /// Until its write lands, and then until it is answered.
        lands: u64,
        answers: u64,
        answer_lost: bool,
    }

    const CALM: Fate = Fate { ready: true, cut_off: 0, lands: 10, answers: 10, answer_lost: false };

    fn fate() -> impl Strategy<Value = Fate> {
        let cut_off = prop_oneof![9 => Just(0), 1 => 0..9000u64];
        (prop::bool::weighted(0.95), cut_off, 0..1200u64, 0..600u64, prop::bool::weighted(0.1)).prop_map(
            |(ready, cut_off, lands, answers, answer_lost)| Fate { ready, cut_off, lands, answers, answer_lost },
        )
    }

    impl World {
        fn same(&self, known: &Lease) -> bool {
            match (&self.server, known) {
                (Some(there), Lease::Seen(known)) => there.version == known.version,
                (there, known) => there.is_none() && *known == Lease::Absent,
            }
        }

        /// The next master's turn, and all that lands before it.
        fn step(&mut self, fate: Fate) {
            let of = (0..self.masters.len()).min_by_key(|of| self.masters[*of].turn_at).unwrap();
            let now = self.masters[of].turn_at;
            self.land(now);
            let cut_off = now + Duration::from_millis(fate.cut_off);
            self.masters[of].cut_off = self.masters[of].cut_off.max(cut_off);
            let reaches = now >= self.masters[of].cut_off;
            let (held, mut lease) = (self.masters[of].held, self.masters[of].lease.clone());
            if held.is_none() || lease == Lease::Unknown {
                lease = match &self.server {
                    _ if !reaches => Lease::Unknown,
                    None => Lease::Absent,
                    Some(_) if self.same(&lease) => lease,
                    Some(there) => Lease::Seen(Seen { since: now, ..there.clone() }),
                };
            }
            let action = decide(held, &lease, &of.to_string(), fate.ready, now);
            self.masters[of].turn_at = now + PERIOD;
            match action {
                Action::Wait => self.masters[of].lease = lease,
                Action::Take => {
                    let lands = now + Duration::from_millis(fate.lands);
                    let answered = (!fate.answer_lost).then(|| lands + Duration::from_millis(fate.answers));
                    if reaches {
                        self.writes.push(Write { of, lease, begun: now, lands, answered });
                    }
                    // Until the answer: as if there were none.
                    self.masters[of].lease = Lease::Unknown;
                    self.masters[of].turn_at = now + LIMIT;
                }
                Action::Leave | Action::GiveUp => {
                    let span = self.spans.iter_mut().rev().find(|(other, ..)| *other == of).unwrap();
                    span.2 = span.2.min(now);
                    self.masters[of].lease = Lease::Unknown;
                    self.masters[of].held = None;
                }
            }
        }

        fn land(&mut self, until: Instant) {
            self.writes.sort_by_key(|write| std::cmp::Reverse(write.lands));
            while let Some(write) = self.writes.pop_if(|write| write.lands <= until) {
                if !self.same(&write.lease) {
                    continue;
                }
                let version = format!("{}-{:?}", write.of, write.lands);
                let seen = Seen { holder: write.of.to_string(), version, transitions: 0, since: write.lands };
                self.server = Some(seen.clone());
                if let Some(answered) = write.answered.filter(|answered| *answered < write.begun + LIMIT) {
                    self.masters[write.of].held = Some(write.begun);
                    self.masters[write.of].lease = Lease::Seen(seen);
                    self.spans.push((write.of, answered, write.begun + KEEP));
                }
            }
        }
    }

    proptest! {
        /// However long answers take and whichever are lost: the times for which masters have the
        /// address never overlap. That it is had at all is not a matter of luck.
        #[test]
        fn two_masters_never_have_it_at_once(fates in prop::collection::vec(fate(), 1..300)) {
            let start = Instant::now();
            let fresh = |late| Master {
                lease: Lease::Unknown,
                held: None,
                turn_at: start + Duration::from_millis(late),
                cut_off: start,
            };
            let mut world = World { masters: vec![fresh(0), fresh(300), fresh(650)], ..World::default() };
            fates.iter().for_each(|fate| world.step(*fate));
            for (one, from, until) in &world.spans {
                for (other, begin, end) in &world.spans {
                    prop_assert!(one == other || until <= begin || end <= from, "{one} and {other}");
                }
            }
            (0..60).for_each(|_| world.step(CALM));
            prop_assert!(world.masters.iter().any(|master| master.held.is_some()));
        }
    }

    /// The Leases of a cluster behind one API server for each master.
    #[derive(Default)]
    struct Leases {
        object: Mutex<Option<Value>>,
    }

    impl Leases {
        fn answer(&self, method: &str, body: &[u8]) -> (u16, Value) {
            let mut there = self.object.lock().unwrap();
            match (method, there.as_ref()) {
                ("GET", Some(object)) => (200, object.clone()),
                ("GET", None) => (404, json!({"message": "not found"})),
                (_, found) => {
                    let mut object: Value = serde_json::from_slice(body).unwrap();
                    let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
                    if version(&object) != found.and_then(version) {
                        return (409, json!({"message": "the object has been modified"}));
                    }
                    let next: u64 = version(&object).map_or(1, |old| old.as_str().unwrap().parse::<u64>().unwrap() + 1);
                    object["metadata"]["resourceVersion"] = json!(next.to_string());
                    *there = Some(object.clone());
                    (200, object)
                }
            }
        }
    }

    /// A master's API server: ready or not.
    async fn api_server(tls: &TestTls, leases: Arc<Leases>) -> (Api, watch::Sender<bool>) {
        let ready = watch::Sender::new(true);
        let is_ready = ready.subscribe();
        let address = tls
            .serve(move |request| {
                let (leases, is_ready) = (leases.clone(), is_ready.clone());
                async move {
                    let health = request.uri().path() == "/readyz";
                    let method = request.method().to_string();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    match health {
                        true => (if *is_ready.borrow() { 200 } else { 500 }, json!("")),
                        false => leases.answer(&method, &body),
                    }
                }
            })
            .await;
        (Api::new(address, testing::NAME, tls.client()), ready)
    }

    async fn until_only(has: &str, hasnt: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        let there = |interface: &str| ip(&format!("address show dev {interface}")).contains("192.0.2.100");
        while !there(has) {
            assert!(Instant::now() < end, "{has} does not get the address");
            assert!(!(there(has) && there(hasnt)), "both have it");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!there(hasnt), "{hasnt} still has it");
    }

    /// Two masters in one network namespace, with an interface each.
    #[tokio::test]
    async fn the_address_moves_with_the_readiness_of_the_api_servers() {
        if !in_a_namespace("vip::tests::the_address_moves_with_the_readiness_of_the_api_servers") {
            return;
        }
        let (tls, leases) = (TestTls::new(), Arc::new(Leases::default()));
        let (one, one_is_ready) = api_server(&tls, leases.clone()).await;
        let (two, two_is_ready) = api_server(&tls, leases.clone()).await;
        two_is_ready.send_replace(false);
        let address = "192.0.2.100".parse().unwrap();
        let story = async {
            until_only("up0", "up1").await;
            two_is_ready.send_replace(true);
            one_is_ready.send_replace(false);
            until_only("up1", "up0").await;
            one_is_ready.send_replace(true);
            tokio::time::sleep(DURATION + PERIOD).await;
            until_only("up1", "up0").await;
            assert_eq!(leases.object.lock().unwrap().as_ref().unwrap()["spec"]["holderIdentity"], "m2");
        };
        tokio::select! {
            ended = hold(&one, "m1", "up0", address) => panic!("{ended:?}"),
            ended = hold(&two, "m2", "up1", address) => panic!("{ended:?}"),
            () = story => {}
        }
    }
}
