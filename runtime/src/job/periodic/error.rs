//! Why no ticks are made.

use super::ScheduleError;
use crate::db::error::{DatabaseError, Operation};
use crate::db::fault::Fault;
use crate::tx::TransactionError;

/// Why a schedule cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeriodicError {
    /// The schedule never comes in its time zone.
    #[error(transparent)]
    Schedule(ScheduleError),
    /// The table of schedules is not the one of [`Schedule::ddl`](super::Schedule::ddl): a name has several rows, or `next_tick` has another type or
    /// holds no time.
    #[error("{0}: the table is not the one that `Schedule::ddl` makes")]
    Table(Operation),
    /// A statement on the table of schedules failed, because the table is missing, for example. [`Fault::Raised`]: a trigger or a policy drops the
    /// write. No tick was made.
    #[error(transparent)]
    Database(DatabaseError),
}

impl PeriodicError {
    /// Whether it can be another time.
    pub(super) fn can_pass(&self) -> bool {
        match self {
            Self::Schedule(_) | Self::Table(_) => false,
            Self::Database(error) => !matches!(
                error.fault(),
                Fault::Schema | Fault::Decode | Fault::PoolClosed
            ),
        }
    }
}

/// Why [`Periodic::tick`](super::Periodic::tick) did not make all ticks that are due.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TickError<E> {
    /// The schedule or its table is not in order, or the database failed before the closure was run.
    #[error(transparent)]
    Periodic(PeriodicError),
    /// The closure or its transaction failed. The tick is not used up; after [`CommitUnknown`](TransactionError::CommitUnknown) it was made or it was
    /// not, and the next call finds out.
    #[error(transparent)]
    Transaction(TransactionError<E>),
}
