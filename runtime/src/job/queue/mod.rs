//! Rows that one worker at a time works on.

mod aside;
mod batch;
mod cancel;
mod claim;
mod claimed;
mod column;
mod enqueue;
mod error;
mod pause;
mod purge;
mod redrive;
mod state;
mod stats;
mod sweep;
mod turns;

use std::cmp::Ordering;
use std::time::Duration;

use crate::db::Backend;
use crate::db::column::Read;
use crate::db::error::{Operation, WriteFailure, from_write_failure};
use crate::db::fence::Fence;
use crate::db::model::Model;
use crate::db::source::Link;
use crate::db::statement::Bind;

pub use self::cancel::{CancelSql, Cancelled, Given, cancel};
pub(crate) use self::claim::Claims;
pub use self::claim::{Claim, Rescued, claim, rescue};
pub(crate) use self::claimed::{Backoff, Change, at, stored};
pub use self::claimed::{Claimed, Retried, each};
pub use self::enqueue::{
    Enqueue, EnqueueMany, EnqueueSql, EnqueueUnique, Enqueued, Keyed, enqueue, enqueue_many,
    enqueue_unique,
};
pub use self::error::{ClaimError, FinishError, Unfinished};
pub use self::pause::{Pause, PauseError, PauseSql, Paused, pause, pauses, resume};
pub use self::purge::{Purge, PurgeSql, purge};
pub use self::redrive::{Redrive, Redriven, redrive};
pub use self::state::QueueState;
pub use self::stats::{QueueStats, ReadStats, stats};
pub use self::turns::Per;
pub use aside::BadRow;
pub(crate) use aside::{Found, Look, Refused, rescue_on};
#[cfg(feature = "periodic")]
pub(crate) use batch::dropped;
use batch::look;
pub(crate) use batch::{Batch, Fate, Locks};

/// How long a claim holds by default.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// The ceilings of the random waits before the second attempt and before the last.
const FIRST_BACKOFF: Duration = Duration::from_secs(4);
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);
/// So much of an error's text is stored.
const LONGEST_ERROR: usize = 8 * 1024;

/// The derive, for [`Model`], whose key is here the one that is read from a row.
#[derive(Debug)]
pub struct Derive;

/// What `#[derive(Queue)]` knows about a table beyond that, the same for every database.
pub trait Queue: for<'k> Model<Derive, Key<'k>: PartialEq> {
    /// A row that was claimed so often is not claimed again.
    const MAX_ATTEMPTS: i64;
    /// What a worker listens to.
    const CHANNEL: &'static str;
    /// The columns of the key: how a condition about each begins, and its place among the columns that a claim returns.
    const KEY: &'static [(&'static str, &'static str, usize)];
    /// The places of the fence and of the attempts.
    const PLACES: [usize; 2];
    /// Whether there is a column for the text of an error.
    const HAS_LAST_ERROR: bool;
    /// The column by whose values running jobs are limited.
    const PER: Option<Per> = None;

    /// Which attempt this is.
    fn attempts(&self) -> i64;
    /// One attempt more.
    fn count(&mut self);
    /// The key of this row.
    fn key(&self) -> Self::Key<'_>;

    /// The fence of the claim that read the row.
    fn claimed_as(&self) -> Fence {
        self.fence().unwrap_or_default()
    }
}

/// The statements on a queue for one database. Those in two parts have conditions, or how they lock, between them.
pub trait QueueSql<DB: Backend>: Queue {
    /// Reads all columns.
    const ROW: Read<DB, Self>;
    /// The names of all columns, by the index of a field.
    const COLUMNS: &'static [&'static str];
    /// Claims: how many, seconds, whether their attempts begin now; then the values of the conditions between the two parts. With
    /// [`Queue::PER`] there are four: the conditions, the turn, and the conditions once more.
    const CLAIM: &'static [&'static str];
    /// What a claim would take: how many; and the same between the parts. Returns key, fence, attempts.
    const LIST_DUE: &'static [&'static str];
    /// Counts the index of [`Queue::PER`].
    const HAS_INDEX: Option<&'static str> = None;
    /// Key, fence.
    const COMPLETE: &'static str;
    /// The state of a row, as long as the fence is its: key, fence.
    const LOOK: &'static str;
    /// Per row: key, fence.
    const COMPLETE_MANY: [&'static str; 2];
    /// Per row: key, fence, state, seconds or NULL, attempts, error or NULL.
    const SETTLE: [&'static str; 2];
    /// Per row: key, fence, attempts.
    const START: [&'static str; 2];
    /// Per row: key, fence. Then the seconds.
    const EXTEND: [&'static str; 2];
    /// These four, where the database locks rows, which lock them first, in the order of their keys. SKIP LOCKED after the first part.
    const IN_ORDER: Option<[[&'static str; 3]; 4]> = None;
    /// ` AND` the key is one of those given: before the last part of `SETTLE` and `START`, for a batch of few rows.
    const BY_KEY: &'static str = "";
    /// Returns the new state of each row. Conditions between the two parts.
    const RESCUE: [&'static str; 2];
    /// What a rescue would take back: key, fence, attempts.
    const LIST_ENDED: &'static str;
    /// The condition that a lease is over.
    const HAS_ENDED: &'static str;
    /// Puts a row off, or gives it up: fence, attempts, the error if there is a column, in the first seconds; then conditions
    /// about the key.
    const SET_ASIDE: [&'static str; 2];
    /// Makes dead rows ready: how many; then the values of the conditions between the two parts.
    const REDRIVE: [&'static str; 2];
    /// What a redrive would make ready, in the same way. Returns key, fence, attempts.
    const LIST_DEAD: [&'static str; 2];
    /// One row of counts: ready, due, seconds; running, overdue; dead. The same conditions between all parts.
    const STATS: [&'static str; 4];
    /// Indexes and settings.
    const DDL: &'static str;

    /// Binds the key of this row.
    fn bind_key(&self, to: &mut impl Bind<DB>);
    /// Binds the keys of many rows, before [`Backend::bind_rows`]: one after the other, or an array per column.
    fn bind_keys(rows: &[&Self], to: &mut impl Bind<DB>) {
        for row in rows {
            row.bind_key(to);
        }
    }
    /// Reads the key and the fence out of what a batch returned.
    fn read_claim(row: &DB::Row) -> Result<(Self::Key<'_>, Fence), sqlx::Error>;
    /// The order of claims. Only a row and itself are equal.
    fn order(&self, other: &Self) -> Ordering;
}

from_write_failure!(ClaimError, FinishError);

/// Looks at a row that was not written, although nothing was refused. A read: whatever happens to it, nothing was written.
async fn unwritten<DB: Backend, T: QueueSql<DB>>(
    at: Operation,
    row: &T,
    connection: &mut Link<'_, DB>,
) -> FinishError {
    match look(row, connection).await {
        Ok(Fate::Refused(_)) => FinishError::Ignored(at),
        Ok(_) => FinishError::LeaseLost(at),
        Err(error) => WriteFailure::new(at, error, true).into(),
    }
}
