//! A limit on retries that many transactions share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one retry costs.
const RETRY: u64 = 100;

/// Keeps retries in proportion to the work. If a database is down or overloaded, every transaction fails with a retryable fault, and the retries
/// alone would keep it overloaded.
///
/// Every transaction deposits a fraction of a retry when it starts; every retry withdraws a whole one, and does not happen if there is none. The idea
/// is that of the retry budgets of Finagle and tower. Clones share one budget.
///
/// ```
/// use rowlock::tx::RetryBudget;
///
/// // At most one retry for five transactions in the long run, and ten at once.
/// let budget = RetryBudget::new(10, 20);
/// # let _ = budget;
/// ```
#[derive(Debug, Clone)]
pub struct RetryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In hundredths of a retry.
    left: AtomicU64,
    most: u64,
    percent: u64,
}

impl RetryBudget {
    /// Starts with `reserve` retries, which is also the maximum; each transaction adds `percent` hundredths of one.
    pub fn new(reserve: u32, percent: u32) -> Self {
        let most = u64::from(reserve) * RETRY;
        Self(Arc::new(Inner {
            left: AtomicU64::new(most),
            most,
            percent: percent.into(),
        }))
    }

    pub(crate) fn deposit(&self) {
        let Inner {
            left,
            most,
            percent,
        } = &*self.0;
        let add = |left: u64| Some(left.saturating_add(*percent).min(*most));
        let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Whether there was a retry left.
    pub(crate) fn withdraw(&self) -> bool {
        let take = |left: u64| left.checked_sub(RETRY);
        self.0
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::RetryBudget;

    #[test]
    fn retries_stay_in_proportion_to_the_transactions() {
        let budget = RetryBudget::new(2, 25);
        assert!(budget.withdraw() && budget.clone().withdraw());
        assert!(!budget.withdraw());
        for _ in 0..4 {
            assert!(!budget.withdraw());
            budget.deposit();
        }
        assert!(budget.withdraw() && !budget.withdraw());
        // The reserve is not exceeded, however long nothing fails.
        for _ in 0..1000 {
            budget.deposit();
        }
        assert!(budget.withdraw() && budget.withdraw() && !budget.withdraw());
    }
}
