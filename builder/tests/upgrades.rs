//! Bundles, and machines that take them: stand-ins for their agents that do as the real ones say they do.

#![allow(clippy::unwrap_used)]

mod support;

use bundle::{Manifest, PAYLOAD, ROOT, Range, ReleaseKey, UKI, chunks_of};
use serde_json::json;
use spec::image::Image;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use support::agents::Agent;
use support::{Project, says};

/// What the machines did, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// What is wrong with a cluster that is rolled.
#[derive(Clone, Default)]
struct Faults {
    /// Machine whose new slot does not come up.
    falls_back: &'static str,
    /// Machine with a pod that never goes.
    keeps_a_pod: &'static str,
    another_rolls: bool,
    /// Machine that has no status to tell.
    is_away: &'static str,
    /// Nobody serves what machines are told to fetch.
    serves_nothing: bool,
    /// Machine whose new slot is not called good yet.
    on_trial: Arc<Mutex<&'static str>>,
}

/// A machine that runs slot A.
struct Machine {
    name: &'static str,
    role: &'static str,
    faults: Faults,
    in_slot_b: bool,
    trial_looks: u32,
    phase: &'static str,
    missing: Vec<u32>,
    reason: Option<&'static str>,
}

const OLD: &str = "0.1.0-old";
const NEW: &str = "0.1.0-new";
/// The one that leads etcd.
const LEADER: &str = "m1";

impl Machine {
    fn new(name: &'static str, faults: Faults) -> Machine {
        let role = if name.starts_with('m') { "master" } else { "node" };
        Machine {
            name,
            role,
            faults,
            in_slot_b: false,
            trial_looks: 0,
            phase: "none",
            missing: Vec::new(),
            reason: None,
        }
    }

    fn status(&mut self) -> String {
        self.trial_looks = self.trial_looks.saturating_sub(1);
        let slot = |slot: &str, generation: u32, state: &str, running: bool| json!({"slot": slot, "generation": generation, "state": state, "running": running});
        let is_held = *self.faults.on_trial.lock().unwrap() == self.name;
        let state = if self.trial_looks > 0 || is_held { "trial" } else { "good" };
        let slots = match (self.phase, self.in_slot_b) {
            (_, true) => json!([slot("b", 2, state, true), slot("a", 1, "good", false)]),
            ("gone", false) => json!([slot("a", 1, "good", true), slot("b", 2, "bad", false)]),
            (_, false) => json!([slot("a", 1, "good", true)]),
        };
        json!({
            "version": 1, "image": if self.in_slot_b { NEW } else { OLD }, "cluster-id": "c1",
            "node": {"name": self.name, "role": self.role, "ready": true, "phase": "Ready",
                     "etcd": (self.role == "master").then_some("healthy")},
            "init": {"services": []}, "certificates": {"machine/agent": 4_000_000_000u64}, "slots": slots,
        })
        .to_string()
    }

    fn answer(&mut self, request: &str, log: &Log) -> (u16, String) {
        let accepted = (200, json!({"message": "as you wish"}).to_string());
        let say = |what: &str| log.lock().unwrap().push(format!("{} {what}", self.name));
        let (path, query) = request.split_once('?').unwrap_or((request, ""));
        match path {
            "GET /v1/status" if self.faults.is_away == self.name => (503, json!({"reason": "it starts"}).to_string()),
            "GET /v1/status" => (200, self.status()),
            "GET /v1/etcd/members" => (200, members()),
            "GET /v1/upgrade" => {
                let (phase, missing) = (self.phase, json!({ROOT: self.missing}));
                // What it does by itself takes one look.
                match self.phase {
                    "copying" => (self.phase, self.missing) = ("receiving", vec![0, 2]),
                    "checking" => self.phase = "written",
                    "fetching" if self.faults.serves_nothing => {
                        (self.phase, self.reason) = ("receiving", Some("192.0.2.9:8080: connection refused"));
                    }
                    "fetching" => (self.phase, self.missing) = ("receiving", Vec::new()),
                    _ => {}
                }
                let mut document =
                    json!({"phase": phase, "digest": "d1", "size": 1000, "present": 900, "missing": missing});
                document["reason"] = json!(self.reason);
                (200, document.to_string())
            }
            "POST /v1/upgrade" => {
                assert_eq!(query.len(), "signature=".len() + 128);
                self.phase = "copying";
                accepted
            }
            "POST /v1/upgrade/d1" if query == "last=1" => {
                assert!(self.missing.is_empty(), "everything was sent");
                self.phase = "checking";
                accepted
            }
            "POST /v1/upgrade/d1" if query == "from=192.0.2.9:8080" => {
                say("fetches");
                self.phase = "fetching";
                accepted
            }
            "POST /v1/upgrade/d1" => {
                say("is sent a chunk");
                let number: u32 = query.strip_prefix("file=root.img&chunk=").unwrap().parse().unwrap();
                self.missing.retain(|missing| *missing != number);
                accepted
            }
            "POST /v1/reboot" => {
                say("reboots");
                assert_eq!(self.phase, "written");
                (self.phase, self.in_slot_b, self.trial_looks) = ("gone", self.faults.falls_back != self.name, 2);
                accepted
            }
            "POST /v1/lock" if self.faults.another_rolls => {
                (409, json!({"reason": "sue@desk rolls through this cluster"}).to_string())
            }
            "POST /v1/lock" => accepted,
            path => {
                let Some((node, what)) = path.strip_prefix("POST /v1/nodes/").and_then(|rest| rest.split_once('/'))
                else {
                    return (404, json!({"reason": format!("there is no {request}")}).to_string());
                };
                log.lock().unwrap().push(format!("{node} {what}"));
                match what {
                    "drain" if self.faults.keeps_a_pod == node => {
                        let pod =
                            json!({"namespace": "default", "name": "db-0", "why": "its budget allows no disruption"});
                        (200, json!({"remaining": [pod]}).to_string())
                    }
                    "drain" => (200, json!({"remaining": []}).to_string()),
                    _ => accepted,
                }
            }
        }
    }
}

fn members() -> String {
    let member = |name: &str| {
        json!({
            "id": name, "name": name, "peer-urls": [], "client-urls": [], "learner": false,
            "health": {"leader": name == LEADER, "has-leader": true, "database-size": 1024, "errors": []},
        })
    };
    json!([member("m1"), member("m2"), member("m3")]).to_string()
}

/// The cluster `lab` with its machines on, and a bundle for each role.
struct Fleet {
    project: Project,
    log: Log,
    addresses: Vec<String>,
}

const NAMES: [&str; 4] = ["m1", "m2", "m3", "n1"];

impl Fleet {
    fn new(faults: &Faults) -> Fleet {
        let project = Project::with_a_cluster();
        let log = Log::default();
        let addresses = NAMES.map(|name| {
            let (machine, log) = (Mutex::new(Machine::new(name, faults.clone())), log.clone());
            let agent = Agent::start(&project, name, move |request| machine.lock().unwrap().answer(request, &log));
            agent.named(name)
        });
        for role in ["master", "node"] {
            bundle_of(role, &project.path(&format!("{role}.bundle")));
        }
        Fleet { project, log, addresses: addresses.into() }
    }

    /// The arguments of a roll.
    fn roll<'a>(&'a self, more: &[&'a str], bundles: &'a [String]) -> Vec<&'a str> {
        let mut arguments = vec!["upgrade", "--cluster", "lab"];
        arguments.extend(bundles.iter().map(String::as_str));
        self.addresses.iter().for_each(|address| arguments.extend(["--address", address.as_str()]));
        arguments.extend(more);
        arguments
    }

    fn bundles(&self) -> Vec<String> {
        ["master", "node"].map(|role| self.project.path(&format!("{role}.bundle")).display().to_string()).into()
    }

    fn reboots(&self) -> Vec<String> {
        self.done().into_iter().filter(|line| line.ends_with("reboots")).collect()
    }

    /// What the machines did to be another than before.
    fn done(&self) -> Vec<String> {
        self.log().into_iter().filter(|line| !line.ends_with("is sent a chunk")).collect()
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

/// A bundle whose payload nobody will boot.
fn bundle_of(role: &str, path: &std::path::Path) {
    let text: String =
        (0..200_000u64).map(|number| format!("{:x}", number.wrapping_mul(number ^ 0x9e37_79b9))).collect();
    let payload = chunks_of("test", text.as_bytes()).unwrap();
    assert!(payload.chunks.len() > 3);
    let manifest = Manifest {
        format: Manifest::FORMAT,
        image: Image {
            profile: role.into(),
            role: role.into(),
            version: NEW.into(),
            epoch: 0,
            kubernetes_version: "v1.37.2".into(),
            etcd_version: None,
            kernel_release: "6.12".into(),
            timezone: "UTC".into(),
            pause_image: "pause".into(),
            mtu: None,
            slice_us: None,
            timer_slack_us: None,
        },
        state_format: 1,
        kernel: Range { offset: 0, length: 1 },
        initramfs: Range { offset: 0, length: 1 },
        command_line: "quiet".into(),
        files: PAYLOAD.map(|name| (name.to_owned(), payload.clone())).into(),
    };
    let bytes = manifest.encode().unwrap();
    let (key, _) = ReleaseKey::generate().unwrap();
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    let signature = key.sign(&bytes);
    for (name, content) in [
        (bundle::MANIFEST_FILE, &bytes[..]),
        (bundle::SIGNATURE_FILE, &signature[..]),
        (UKI, text.as_bytes()),
        (ROOT, text.as_bytes()),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn a_release_key_is_made_once_and_a_bundle_wants_a_build() {
    let project = Project::new();
    says(&project.done(&["key", "new"]), &["keys/release.key signs bundles", "keys/release.pub goes into every image"]);
    says(&project.refused(&["key", "new"]), &["is there already"]);
    says(&project.refused(&["bundle", "out/none"]), &["no build is there", "imgbuild --profile master"]);
    let other = Project::new();
    says(&other.refused(&["bundle", "out/none"]), &["no release key", "imgbuild key new"]);
}

#[test]
fn one_machine_takes_what_it_lacks_and_reboots_into_it() {
    let fleet = Fleet::new(&Faults { falls_back: "m2", ..Faults::default() });
    let (bundles, upgrade) = (fleet.bundles(), |name: &str| {
        let place = NAMES.iter().position(|other| *other == name).unwrap();
        let address = fleet.addresses[place].split_once('=').unwrap().1.to_owned();
        ["node", name, "--cluster", "lab", "--address", &address, "upgrade"].map(str::to_owned).to_vec()
    });
    let arguments = |name: &str| [upgrade(name), vec![bundles[0].clone()]].concat();
    let words = |all: &[String]| -> Vec<&'static str> { all.iter().map(|word| &*word.clone().leak()).collect() };
    fleet.project.done(&words(&arguments("m1")));
    let (_, said) = fleet.project.failed(&words(&arguments("m2")));
    says(&said, &["m2: it fell back: slot b did not come up"]);
    assert_eq!(fleet.done(), ["m1 reboots", "m2 reboots"]);
    let cut = fleet.project.path("cut.bundle");
    let whole = std::fs::read(&bundles[0]).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 300_000]).unwrap();
    let cut = [upgrade("m3"), vec![cut.display().to_string()]].concat();
    says(&fleet.project.refused(&words(&cut)), &["root.img is cut short"]);
}

#[test]
fn machines_fetch_what_they_lack_and_are_sent_what_they_could_not() {
    for (serves_nothing, wanted) in [(false, vec!["m1 fetches"]), (true, vec!["m1 fetches", "m1 is sent a chunk"])] {
        let fleet = Fleet::new(&Faults { serves_nothing, ..Faults::default() });
        let (bundle, address) = (&fleet.bundles()[0], fleet.addresses[0].split_once('=').unwrap().1);
        let machine = ["node", "m1", "--cluster", "lab", "--address", address];
        let arguments = [&machine[..], &["upgrade", bundle, "--from", "192.0.2.9:8080", "--no-reboot"]].concat();
        fleet.project.done(&arguments);
        let mut log = fleet.log();
        log.dedup();
        assert_eq!(log, wanted);
    }
}

#[test]
fn a_cluster_goes_machine_by_machine_the_leader_last_of_the_masters() {
    let fleet = Fleet::new(&Faults::default());
    let bundles = fleet.bundles();
    let plan = fleet.project.done(&fleet.roll(&["--plan"], &bundles));
    says(&plan, &["1. m2 (master): 0.1.0-old -> 0.1.0-new", "3. m1 (master)", "4. n1 (node)"]);
    assert!(fleet.done().is_empty());
    fleet.project.done(&fleet.roll(&["--canary", "m2"], &bundles));
    fleet.project.done(&fleet.roll(&[], &bundles));
    let way = |name: &str| ["cordon", "drain", "reboots", "cordon"].map(|what| format!("{name} {what}"));
    // The second roll lets m2 be used again, in case the first one was interrupted.
    let wanted = [&way("m2")[..], &["m2 cordon".to_owned()], &way("m3"), &way("m1"), &way("n1")].concat();
    assert_eq!(fleet.done(), wanted);
    says(&fleet.project.done(&fleet.roll(&[], &bundles)), &["m2, m3, m1, n1: run it already"]);
}

#[test]
fn a_roll_stops_at_the_first_machine_that_falls_back() {
    let fleet = Fleet::new(&Faults { falls_back: "m3", ..Faults::default() });
    let bundles = fleet.bundles();
    let (_, said) = fleet.project.failed(&fleet.roll(&[], &bundles));
    says(&said, &["m3: it fell back"]);
    assert_eq!(fleet.reboots(), ["m2 reboots", "m3 reboots"]);
}

#[test]
fn a_machine_whose_pods_never_go_is_not_rebooted() {
    let fleet = Fleet::new(&Faults { keeps_a_pod: "m3", ..Faults::default() });
    let bundles = fleet.bundles();
    let (_, said) = fleet.project.failed(&fleet.roll(&["--drain", "0m"], &bundles));
    says(&said, &["m3: 1 pods are left; default/db-0: its budget allows no disruption", "stays cordoned"]);
    assert_eq!(fleet.reboots(), ["m2 reboots"]);
}

#[test]
fn one_operator_rolls_at_a_time() {
    // Between two machines of the other roll, and while one of them is away for it.
    for is_away in ["", "m2"] {
        let fleet = Fleet::new(&Faults { another_rolls: true, is_away, ..Faults::default() });
        let bundles = fleet.bundles();
        let (_, said) = fleet.project.failed(&fleet.roll(&[], &bundles));
        says(&said, &["sue@desk rolls through this cluster"]);
        assert!(fleet.done().is_empty(), "{:?}", fleet.done());
    }
}

#[test]
fn no_roll_begins_while_a_machine_is_missing() {
    let fleet = Fleet::new(&Faults { is_away: "m2", ..Faults::default() });
    let bundles = fleet.bundles();
    let (_, said) = fleet.project.failed(&fleet.roll(&[], &bundles));
    says(&said, &["cluster lab is not well: m2", "it begins when nothing else is missing"]);
    assert!(fleet.done().is_empty(), "{:?}", fleet.done());
    // Beside another's roll the plan alone leaves the lock alone.
    let fleet = Fleet::new(&Faults { another_rolls: true, is_away: "m2", ..Faults::default() });
    let (_, said) = fleet.project.failed(&fleet.roll(&["--plan"], &bundles));
    says(&said, &["cluster lab is not well: m2"]);
    assert!(fleet.done().is_empty(), "{:?}", fleet.done());
}

#[test]
fn a_roll_goes_on_after_its_operators_machine_has_died() {
    let faults = Faults { on_trial: Arc::new(Mutex::new("m3")), ..Faults::default() };
    let fleet = Fleet::new(&faults);
    let bundles = fleet.bundles();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_imgbuild"));
    command.current_dir(fleet.project.path("")).env("HOME", fleet.project.path("home"));
    let mut operator =
        command.args(fleet.roll(&[], &bundles)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while fleet.reboots() != ["m2 reboots", "m3 reboots"] {
        assert!(operator.try_wait().unwrap().is_none(), "it ended: {:?}", fleet.done());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // SIGKILL: nothing is put in order.
    operator.kill().unwrap();
    operator.wait().unwrap();
    *faults.on_trial.lock().unwrap() = "";
    let before = fleet.done().len();
    fleet.project.done(&fleet.roll(&[], &bundles));
    let after = fleet.done().split_off(before);
    assert_eq!(after[..2], ["m2 cordon", "m3 cordon"], "both may be used again");
    assert_eq!(fleet.reboots(), ["m2 reboots", "m3 reboots", "m1 reboots", "n1 reboots"]);
}
