//! A client that writes through a machine's balancer at a steady pace, whether or not what it asked for before was
//! answered, and remembers what was acknowledged. Its connections are client-go's (`kubectl proxy`): kept, HTTP/2, as
//! kubelets' are.

use crate::native::Native;
use crate::{Failure, Result, StoryCluster, expect, http};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
/// For one request, however long the API stands still, and for writes to come about.
const PATIENCE: Duration = Duration::from_secs(90);

/// What an API server that goes down says to a request that it has not looked at: client-go sends it again, after the
/// second that the header Retry-After asks for. Its proxy, which does not keep a request's body, leaves that to its
/// own client.
const NOT_LOOKED_AT: [&str; 2] =
    ["cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY]", "apiserver is shutting down"];
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// From one write to the next.
const PACE: Duration = Duration::from_millis(25);

fn is_to_be_sent_again(failure: &str) -> bool {
    NOT_LOOKED_AT.iter().any(|text| failure.contains(text))
}

/// One attempt to write: when, and the object's name or why there is none.
#[derive(Debug)]
struct Write {
    number: usize,
    begun: Instant,
    ended: Instant,
    outcome: std::result::Result<String, String>,
}

impl Write {
    fn is_acknowledged(&self) -> bool {
        self.outcome.is_ok()
    }
}

/// The load, for whoever causes trouble meanwhile.
#[derive(Debug)]
pub struct Load<'a> {
    machine: &'a Native,
    proxy: u16,
    writes: Mutex<Vec<Write>>,
    another: Condvar,
    begun: AtomicUsize,
    over: AtomicBool,
}

/// What the load was like since a moment.
#[derive(Debug)]
pub struct Stretch {
    pub written: usize,
    /// What the failed ones got.
    pub failed: Vec<String>,
    /// The longest time from one acknowledged write to the next: for so long the API was away.
    pub longest_gap: Duration,
    /// The longest time that a write took.
    pub slowest: Duration,
}

/// Writes from this machine for as long as the story lasts.
///
/// # Errors
/// Those of the story; kubectl does not start.
pub fn under_load(machine: &Native, cluster: &StoryCluster, tell: impl FnOnce(&Load<'_>) -> Result) -> Result {
    let mut proxy = start_proxy(machine, cluster)?;
    let told = port_of(&mut proxy).and_then(|port| {
        let load = Load {
            machine,
            proxy: port,
            writes: Mutex::default(),
            another: Condvar::new(),
            begun: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| machine.on_its_network(|| load.write()));
            let told = tell(&load);
            load.over.store(true, Ordering::SeqCst);
            let wrote = writer.join().unwrap_or_else(|_| Err(Failure::Unexpected("the writer panicked".into())));
            told.and(wrote)
        })
    });
    // What has ended already needs no end.
    drop(proxy.kill());
    drop(proxy.wait());
    told
}

fn start_proxy(machine: &Native, cluster: &StoryCluster) -> Result<Child> {
    let access = machine.by_its_balancer(cluster)?;
    let mut command = machine.command(&format!("/usr/bin/kubectl {access} proxy --port=0"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(Failure::file("kubectl", "start"))
}

/// `Starting to serve on 127.0.0.1:41213`.
fn port_of(proxy: &mut Child) -> Result<u16> {
    let mut line = String::new();
    if let Some(stdout) = proxy.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(Failure::file("kubectl", "read from"))?;
    }
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
    port.ok_or_else(|| Failure::Unexpected(format!("kubectl proxy said {line:?}")))
}

impl Load<'_> {
    fn write(&self) {
        std::thread::scope(|scope| {
            for number in 0.. {
                if self.over.load(Ordering::SeqCst) {
                    return;
                }
                self.begun.store(number + 1, Ordering::SeqCst);
                scope.spawn(move || self.write_one(number));
                std::thread::sleep(PACE);
            }
        });
    }

    fn write_one(&self, number: usize) {
        let (name, begun) = (format!("load-{number}"), Instant::now());
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let mut answer = http::post(self.proxy, COLLECTION, &object.to_string(), PATIENCE);
        while answer.as_ref().is_err_and(|failure| is_to_be_sent_again(&failure.to_string())) {
            std::thread::sleep(RETRY_AFTER);
            answer = http::post(self.proxy, COLLECTION, &object.to_string(), PATIENCE);
        }
        let outcome = answer.map(|_| name).map_err(|failure| failure.to_string());
        let mut writes = self.writes();
        writes.push(Write { number, begun, ended: Instant::now(), outcome });
        self.another.notify_all();
    }

    fn writes(&self) -> MutexGuard<'_, Vec<Write>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this many more acknowledged writes.
    ///
    /// # Errors
    /// They do not come about.
    pub fn until_written(&self, more: usize) -> Result {
        let written = |writes: &[Write]| writes.iter().filter(|write| write.is_acknowledged()).count();
        let writes = self.writes();
        let wanted = written(&writes) + more;
        let outcome = self.another.wait_timeout_while(writes, PATIENCE, |writes| written(writes) < wanted);
        let (writes, _) = outcome.unwrap_or_else(PoisonError::into_inner);
        let last = writes.last().map_or_else(|| "none".into(), |write| format!("{:?}", write.outcome));
        expect(written(&writes) >= wanted, &format!("{wanted} writes"), format!("{}, last {last}", written(&writes)))
    }

    /// Waits until every write that has begun by now has its answer.
    ///
    /// # Errors
    /// One gets none.
    pub fn until_answered(&self) -> Result {
        let begun = self.begun.load(Ordering::SeqCst);
        let missing = |writes: &[Write]| begun - writes.iter().filter(|write| write.number < begun).count();
        let outcome = self.another.wait_timeout_while(self.writes(), PATIENCE, |writes| missing(writes) > 0);
        let (writes, _) = outcome.unwrap_or_else(PoisonError::into_inner);
        expect(missing(&writes) == 0, "an answer to every write", format!("{} without one", missing(&writes)))
    }

    /// The load from the last acknowledged write before this moment on.
    pub fn since(&self, moment: Instant) -> Stretch {
        let writes = self.writes();
        let before = writes.iter().rposition(|write| write.is_acknowledged() && write.ended <= moment);
        let stretch = &writes[before.unwrap_or(0)..];
        let ends: Vec<Instant> =
            stretch.iter().filter(|write| write.is_acknowledged()).map(|write| write.ended).collect();
        Stretch {
            written: ends.len(),
            failed: stretch.iter().filter_map(|write| write.outcome.as_ref().err().cloned()).collect(),
            longest_gap: ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
            slowest: stretch.iter().map(|write| write.ended - write.begun).max().unwrap_or_default(),
        }
    }

    /// Every write that was acknowledged can be read.
    ///
    /// # Errors
    /// One cannot.
    pub fn nothing_is_lost(&self) -> Result {
        let acknowledged: Vec<String> =
            self.writes().iter().filter_map(|write| write.outcome.as_ref().ok().cloned()).collect();
        let list = self.machine.on_its_network(|| http::get(self.proxy, COLLECTION, PATIENCE))??;
        let list: Value = serde_json::from_str(&list).map_err(|error| Failure::Unexpected(error.to_string()))?;
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let held: HashSet<&str> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
        let lost: Vec<&String> = acknowledged.iter().filter(|name| !held.contains(name.as_str())).collect();
        expect(lost.is_empty(), "every write that was acknowledged", format!("without {lost:?}"))
    }
}
