//! How long to wait: every deadline in the project is written for the slow case, an emulated
//! machine with one virtual CPU, and scaled here and nowhere else.

use crate::Accelerator;
use crate::random::SplitMix;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Multiplies every deadline: set it above 1 on a slow or busy host. Decimal, default 1.
pub const TIME_SCALE_VARIABLE: &str = "IMGBUILD_TIME_SCALE";

/// A machine on KVM gets this share of what an emulated one gets (measured: 16 times faster; the
/// rest is room for timers that do not scale, such as DHCP and leader election).
const KVM_SHARE: f64 = 0.25;

/// Rounds of a calculation whose steps wait for each other, and the seconds that they take on the machine for which the
/// deadlines were written, idle.
const ROUNDS: u32 = 20_000_000;
const ROUNDS_SECONDS: f64 = 0.035;
/// Steps from one place of so many bytes to the next, each known once the one before is read, and their seconds there: an
/// emulated machine waits for memory more than for anything else. (By other machines' use of the same memory they took 2.2
/// times as long on a day on which boots did so, too, and the rounds above did not.)
const WALK: u32 = 2_000_000;
const WALK_BYTES: usize = 8 << 20;
const WALK_SECONDS: f64 = 0.140;
/// A host that is slower still needs [`TIME_SCALE_VARIABLE`].
const SLOWEST_HOST: f64 = 3.0;

/// The factor between a written deadline and the real one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    factor: f64,
}

impl Patience {
    /// For a machine on this accelerator, with the environment's time scale, on this host as fast as it is today (measured
    /// once).
    pub fn new(accelerator: Accelerator) -> Patience {
        Patience::with(accelerator, std::env::var(TIME_SCALE_VARIABLE).ok().as_deref(), slowness())
    }

    fn with(accelerator: Accelerator, scale: Option<&str>, slowness: f64) -> Patience {
        let scale = match scale.map(|text| (text, text.trim().parse::<f64>())) {
            None => 1.0,
            Some((_, Ok(number))) if number.is_finite() && number > 0.0 => number,
            Some((text, _)) => {
                tracing::warn!("{TIME_SCALE_VARIABLE}={text:?} is not a number above 0: using 1");
                1.0
            }
        };
        let share = match accelerator {
            Accelerator::Tcg => 1.0,
            Accelerator::Kvm => KVM_SHARE,
        };
        Patience { factor: scale * share * slowness.clamp(1.0, SLOWEST_HOST) }
    }

    /// The real duration of a deadline written as this many seconds.
    pub fn seconds(self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).mul_f64(self.factor)
    }
}

/// How many times as long as there this host takes now, whatever else it does.
fn slowness() -> f64 {
    static MEASURED: OnceLock<f64> = OnceLock::new();
    *MEASURED.get_or_init(|| (seconds_of(calculate) / ROUNDS_SECONDS).max(walk() / WALK_SECONDS))
}

fn seconds_of(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

fn calculate() {
    let mut number = black_box(1_u64);
    for _ in 0..ROUNDS {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
    }
    black_box(number);
}

/// Seconds of the steps alone.
fn walk() -> f64 {
    /// A place is a processor's cache line.
    #[repr(align(64))]
    struct Place(u32);
    let mut places: Vec<Place> = (0..).map(Place).take(WALK_BYTES / size_of::<Place>()).collect();
    // S. Sattolo's shuffle: one way through all of them.
    let mut chance = SplitMix(1);
    for last in (1..places.len()).rev() {
        places.swap(last, usize::try_from(chance.next() % last as u64).unwrap_or(0));
    }
    seconds_of(|| {
        let mut at = 0_usize;
        for _ in 0..WALK {
            at = places[at].0 as usize;
        }
        black_box(at);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_scale_with_accelerator_environment_and_host() {
        let seconds = |accelerator, scale| Patience::with(accelerator, scale, 1.0).seconds(100).as_secs();
        assert_eq!(seconds(Accelerator::Tcg, None), 100);
        assert_eq!(seconds(Accelerator::Tcg, Some("2.5")), 250);
        assert_eq!(seconds(Accelerator::Kvm, None), 25);
        assert_eq!(seconds(Accelerator::Kvm, Some("4")), 100);
        let on = |host: f64| Patience::with(Accelerator::Tcg, None, host).seconds(100).as_secs();
        assert_eq!([on(0.5), on(2.0), on(9.0)], [100, 200, 300]);
    }

    #[test]
    fn a_scale_that_is_no_number_above_zero_counts_as_one() {
        for scale in ["", "fast", "0", "-1", "inf", "NaN"] {
            assert_eq!(Patience::with(Accelerator::Tcg, Some(scale), 1.0).seconds(7).as_secs(), 7, "{scale}");
        }
    }
}
