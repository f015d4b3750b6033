//! How long to wait before a service that ended is started again.

use spec::service::Restart;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Milliseconds to wait after a run of `ran_ms`. Doubles with each short run.
    pub fn next(&mut self, restart: &Restart, ran_ms: u64) -> u64 {
        if ran_ms >= u64::from(restart.reset_after) * 1000 {
            self.failures = 0;
        }
        let factor = 1u64.checked_shl(self.failures).unwrap_or(u64::MAX);
        self.failures = (self.failures + 1).min(63);
        restart.delay_ms.saturating_mul(factor).min(restart.maximum_delay_ms.max(restart.delay_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_runs_double_the_delay_and_a_long_one_resets_it() {
        let restart = Restart { delay_ms: 200, maximum_delay_ms: 1000, reset_after: 30, ..Restart::default() };
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..5).map(|_| backoff.next(&restart, 50)).collect();
        assert_eq!(delays, [200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(&restart, 30_000), 200);
        for _ in 0..100 {
            assert!(backoff.next(&restart, 0) <= 1000);
        }
    }
}
