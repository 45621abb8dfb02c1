//! What a handler returns.

use crate::job::queue::stored;
use std::fmt::Display;
use std::time::Duration;

/// What a job becomes, as its handler says.
///
/// A handler may return `()`, this, or a `Result` of either: an error means `Retry`, with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobOutcome {
    /// The work is done.
    Complete,
    /// The handler has completed the row itself, with [`Claimed::complete_in`](crate::queue::Claimed::complete_in), as its last action: the next
    /// heartbeat, which finds that the claim no longer holds, can stop what it does after the commit.
    ///
    /// Without a `complete_in` that wrote the row, this is a failed attempt. The worker trusts that its transaction was committed: if it was rolled
    /// back, the row comes back after its lease.
    Completed,
    /// The attempt failed.
    Retry {
        /// What is stored as the last error.
        error: String,
        /// When it is due again; `None` uses the worker's backoff.
        after: Option<Duration>,
    },
    /// The job can never succeed.
    Fail {
        /// What is stored as the last error.
        error: String,
    },
    /// Not now. The attempt does not count.
    Snooze(Duration),
}

impl JobOutcome {
    /// The attempt failed; the next one is after this time.
    pub fn retry_after(error: impl Display, after: Duration) -> Self {
        Self::Retry {
            error: stored(&error),
            after: Some(after),
        }
    }

    /// The job can never succeed: its row becomes [`QueueState::Dead`](crate::queue::QueueState::Dead).
    pub fn fail(error: impl Display) -> Self {
        Self::Fail {
            error: stored(&error),
        }
    }
}

/// What a handler can return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what becomes of the job",
    label = "the handler returns this",
    note = "return `()`, a `rowlock::queue::JobOutcome`, or a `Result` of either whose error can be displayed"
)]
pub trait HandlerOutcome: Send + 'static {
    /// What becomes of the job.
    fn into_outcome(self) -> JobOutcome;
}

impl HandlerOutcome for () {
    fn into_outcome(self) -> JobOutcome {
        JobOutcome::Complete
    }
}

impl HandlerOutcome for JobOutcome {
    fn into_outcome(self) -> JobOutcome {
        self
    }
}

impl<T: HandlerOutcome, E: Display + Send + 'static> HandlerOutcome for Result<T, E> {
    fn into_outcome(self) -> JobOutcome {
        match self {
            Ok(outcome) => outcome.into_outcome(),
            Err(error) => JobOutcome::Retry {
                error: stored(&error),
                after: None,
            },
        }
    }
}
