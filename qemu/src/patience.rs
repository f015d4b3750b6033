//! How long to wait: every deadline in the project is written for the slow case, an emulated
//! machine with one virtual CPU, and scaled here and nowhere else.

use crate::Accelerator;
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
        Patience::with(accelerator, std::env::var(TIME_SCALE_VARIABLE).ok().as_deref(), seconds_of_rounds())
    }

    fn with(accelerator: Accelerator, scale: Option<&str>, seconds_of_rounds: f64) -> Patience {
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
        let host = (seconds_of_rounds / ROUNDS_SECONDS).clamp(1.0, SLOWEST_HOST);
        Patience { factor: scale * share * host }
    }

    /// The real duration of a deadline written as this many seconds.
    pub fn seconds(self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).mul_f64(self.factor)
    }
}

/// How long this host takes now, whatever else it does.
fn seconds_of_rounds() -> f64 {
    static MEASURED: OnceLock<f64> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        let begun = Instant::now();
        let mut number = black_box(1_u64);
        for _ in 0..ROUNDS {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
        }
        black_box(number);
        begun.elapsed().as_secs_f64()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_scale_with_accelerator_environment_and_host() {
        let seconds = |accelerator, scale| Patience::with(accelerator, scale, ROUNDS_SECONDS).seconds(100).as_secs();
        assert_eq!(seconds(Accelerator::Tcg, None), 100);
        assert_eq!(seconds(Accelerator::Tcg, Some("2.5")), 250);
        assert_eq!(seconds(Accelerator::Kvm, None), 25);
        assert_eq!(seconds(Accelerator::Kvm, Some("4")), 100);
        let on = |host: f64| Patience::with(Accelerator::Tcg, None, host * ROUNDS_SECONDS).seconds(100).as_secs();
        assert_eq!([on(0.5), on(2.0), on(9.0)], [100, 200, 300]);
    }

    #[test]
    fn a_scale_that_is_no_number_above_zero_counts_as_one() {
        for scale in ["", "fast", "0", "-1", "inf", "NaN"] {
            assert_eq!(
                Patience::with(Accelerator::Tcg, Some(scale), ROUNDS_SECONDS).seconds(7).as_secs(),
                7,
                "{scale}"
            );
        }
    }
}
