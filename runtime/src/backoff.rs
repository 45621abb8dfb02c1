//! How long to wait before the next attempt.

use std::time::Duration;

/// Full jitter: a random time between zero and a ceiling that doubles with every attempt, as in "Exponential Backoff
/// And Jitter" (AWS Architecture Blog, 2015).
///
/// Without the jitter, callers that collided once would come back together and collide again.
pub(crate) fn full_jitter(attempt: u32, base: Duration, cap: Duration) -> Duration {
    let ceiling = base
        .saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1)))
        .min(cap);
    ceiling.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_random_and_never_above_the_ceiling() {
        let base = Duration::from_millis(2);
        let cap = Duration::from_millis(50);
        for attempt in 1..100 {
            let ceiling = (base * 2u32.saturating_pow(attempt - 1).min(1000)).min(cap);
            assert!(full_jitter(attempt, base, cap) <= ceiling);
        }
        let waits: std::collections::BTreeSet<_> =
            (0..100).map(|_| full_jitter(9, base, cap)).collect();
        assert!(waits.len() > 90, "only {} different waits", waits.len());
    }
}
