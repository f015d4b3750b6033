//! The machine's time: asked by SNTP, set by init. A short, bounded wait at the start, because
//! certificates are judged by the clock; after that in the background for ever.

use crate::facts::Facts;
use crate::machine::{Status, ask_init, say};
use crate::{dns, files, sntp};
use spec::status::Request;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Longest wait for a server before the machine goes on with the clock as init set it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Between two questions while the clock is right, and while no server answers.
const CALM: Duration = Duration::from_secs(600);
const ANXIOUS: Duration = Duration::from_secs(20);
/// Seconds of difference that are left alone: a step is worse than a small error.
const TOLERANCE: f64 = 0.1;
/// Seconds after which certificates must be judged anew.
const LARGE_STEP: f64 = 60.0;

/// What a round of questions gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Round {
    /// No server is known.
    NoServers,
    /// None gave a usable answer.
    Silence,
    /// The clock is right, after a step of so many seconds (0: none was needed).
    Right(f64),
}

impl Round {
    /// Whether certificates should be judged anew.
    pub fn is_large_step(self) -> bool {
        matches!(self, Round::Right(step) if step.abs() > LARGE_STEP)
    }

    fn describe(self) -> &'static str {
        match self {
            Round::NoServers => "no time server is known",
            Round::Silence => "no server answers",
            Round::Right(_) => "synchronised",
        }
    }
}

/// Names or addresses of the servers: the machine's in the definition, else the cluster's, else DHCP's.
fn servers(facts: &Facts) -> Vec<String> {
    let own = facts.machine().map(|machine| machine.network.ntp.clone());
    let mut given = own.into_iter().chain([facts.cluster.ntp.clone()]);
    given.find(|servers| !servers.is_empty()).unwrap_or_else(|| facts.identity.ntp.clone())
}

/// One round, cut off after a second. Used once, before certificates are judged.
pub async fn first(facts: &Facts, status: &Status) -> Round {
    let round = match tokio::time::timeout(FIRST_WAIT, round(facts)).await {
        Ok(round) => round,
        Err(_) => Round::Silence,
    };
    note(status, round);
    round
}

/// Keeps the clock right; calls `stepped` after a large step.
pub async fn keep(facts: &Facts, status: &Status, mut last: Round, stepped: impl Fn()) {
    if last == Round::NoServers {
        return;
    }
    loop {
        let wait = if matches!(last, Round::Right(_)) { CALM } else { ANXIOUS };
        tokio::time::sleep(wait).await;
        last = round(facts).await;
        note(status, last);
        if last.is_large_step() {
            stepped();
        }
    }
}

fn note(status: &Status, round: Round) {
    if status.current().clock.as_deref() != Some(round.describe()) {
        say(format!("clock: {}", round.describe()));
    }
    status.update(|status| status.clock = Some(round.describe().into()));
}

/// Asks the servers in turn until one answers, and has init set the clock.
async fn round(facts: &Facts) -> Round {
    let names = servers(facts);
    if names.is_empty() {
        return Round::NoServers;
    }
    let resolvers = files::read(Path::new("/etc/resolv.conf")).map(|text| dns::servers(&text)).unwrap_or_default();
    for name in names {
        let addresses = match dns::resolve(&name, &resolvers, ANSWER_WAIT).await {
            Ok(addresses) => addresses,
            Err(error) => {
                say(format!("clock: {name}: {error}"));
                continue;
            }
        };
        for address in addresses {
            match sntp::ask(SocketAddr::new(address, sntp::PORT), ANSWER_WAIT).await {
                Ok(reading) => return set(reading).await,
                Err(error) => say(format!("clock: {name} ({address}): {error}")),
            }
        }
    }
    Round::Silence
}

async fn set(reading: sntp::Reading) -> Round {
    if reading.offset_seconds.abs() < TOLERANCE {
        return Round::Right(0.0);
    }
    let request = Request::SetClock { seconds: reading.time.as_secs(), nanoseconds: reading.time.subsec_nanos() };
    match ask_init(&request).await {
        Ok(_) => {
            say(format!("clock: set by {:+.3} s", reading.offset_seconds));
            Round::Right(reading.offset_seconds)
        }
        // init refuses a time before the image or the seed was made: such a server is wrong.
        Err(error) => {
            say(format!("clock: init does not set it: {error}"));
            Round::Silence
        }
    }
}
