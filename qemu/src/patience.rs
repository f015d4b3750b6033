//! How long to wait: every deadline in the project is written for the slow case, an emulated
//! machine with one virtual CPU, and scaled here and nowhere else.

use crate::Accelerator;
use std::time::Duration;

/// Multiplies every deadline: set it above 1 on a slow or busy host. Decimal, default 1.
pub const TIME_SCALE_VARIABLE: &str = "IMGBUILD_TIME_SCALE";

/// A machine on KVM gets this share of what an emulated one gets (measured: 16 times faster; the
/// rest is room for timers that do not scale, such as DHCP and leader election).
const KVM_SHARE: f64 = 0.25;

/// The factor between a written deadline and the real one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    factor: f64,
}

impl Patience {
    /// For a machine on this accelerator, with the environment's time scale.
    pub fn new(accelerator: Accelerator) -> Patience {
        Patience::with_scale(accelerator, std::env::var(TIME_SCALE_VARIABLE).ok().as_deref())
    }

    fn with_scale(accelerator: Accelerator, scale: Option<&str>) -> Patience {
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
        Patience { factor: scale * share }
    }

    /// The real duration of a deadline written as this many seconds.
    pub fn seconds(self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).mul_f64(self.factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_scale_with_accelerator_and_environment() {
        let seconds = |accelerator, scale| Patience::with_scale(accelerator, scale).seconds(100).as_secs();
        assert_eq!(seconds(Accelerator::Tcg, None), 100);
        assert_eq!(seconds(Accelerator::Tcg, Some("2.5")), 250);
        assert_eq!(seconds(Accelerator::Kvm, None), 25);
        assert_eq!(seconds(Accelerator::Kvm, Some("4")), 100);
    }

    #[test]
    fn a_scale_that_is_no_number_above_zero_counts_as_one() {
        for scale in ["", "fast", "0", "-1", "inf", "NaN"] {
            assert_eq!(Patience::with_scale(Accelerator::Tcg, Some(scale)).seconds(7).as_secs(), 7, "{scale}");
        }
    }
}
