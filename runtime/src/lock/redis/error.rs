//! How the mutex fails.

use crate::db::error::{DatabaseError, Operation};
use ::redis::RedisError;
use std::time::Duration;

/// Why the lock was not taken, or was lost.
///
/// `Display` shows the mutex's name and the kind of Redis's error; [`source`](std::error::Error::source) is that error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MutexError {
    /// Another holder kept the lock until the timeout.
    #[error("{0}: another holder kept it until the timeout; try again later, or wait longer")]
    Held(Operation),
    /// The lock was lost while the work ran: it expired, or the key was deleted.
    #[error("{0}: the lock was lost; another process may hold it: stop this work")]
    Lost(Operation),
    /// Redis did not answer in time, or only with temporary errors: it is starting, busy with a script, has too many clients, is no master, has too
    /// few replicas, cannot write its disk. If a command was in flight, a task deletes the key.
    #[error("{0}: Redis did not answer in time ({kind})", kind = .1.category())]
    Unavailable(Operation, #[source] RedisError),
    /// Redis answered with a permanent error: no permission, wrong password, a key of another type, no memory. Temporary errors are
    /// [`Unavailable`](Self::Unavailable), at the end of the time.
    #[error("{0}: Redis refused ({kind})", kind = .1.category())]
    Refused(Operation, #[source] RedisError),
    /// The ttl is not between 100 milliseconds and 30 days.
    #[error("{0}: a ttl of {1:?} is not between 100 milliseconds and 30 days")]
    Ttl(Operation, Duration),
    /// The operating system gave no random numbers.
    #[error("{0}: the system has no random numbers")]
    Random(Operation, #[source] std::io::Error),
}

/// What became of a release. In every case the guard is gone and renews nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The key was lost before: it expired, or it was deleted. Others may have held the lock meanwhile.
    #[error("{0}: the lock was lost before")]
    NotHeld(Operation),
    /// The key is gone, but the answer to an earlier try was lost: either that try released the lock, or it was lost
    /// before.
    #[error("{0}: the lock is gone, it is unknown whether it was lost before ({kind})", kind = .1.category())]
    Unknown(Operation, #[source] RedisError),
    /// Redis did not answer in time. A task goes on trying; the key stays for its ttl at worst.
    #[error("{0}: Redis did not answer in time ({kind})", kind = .1.category())]
    Unavailable(Operation, #[source] RedisError),
    /// Redis answered with a permanent error. The key stays for its ttl.
    #[error("{0}: Redis refused ({kind})", kind = .1.category())]
    Refused(Operation, #[source] RedisError),
}

/// Why there is no fence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The lock is lost: another holder may have it by now.
    #[error("{0}: the lock was lost; another process may hold it: stop this work")]
    Lost(Operation),
    /// The connection is inside a transaction. If that were rolled back, the next holder would get the same number.
    #[error("{0}: a fence is made outside of transactions; make it before the transaction begins")]
    InTransaction(Operation),
    /// The table of the fences is missing, or is another one.
    #[error("{0}; create the table of the fences with the SQL of `Fence::ddl`")]
    Table(#[source] DatabaseError),
    /// The database or the connection failed.
    #[error(transparent)]
    Database(DatabaseError),
    /// Redis could not be asked, for as long as the lock lasted, whether this guard still has the lock.
    #[error("{0}: Redis did not answer in time ({kind})", kind = .1.category())]
    Unavailable(Operation, #[source] RedisError),
    /// Redis answered with a permanent error.
    #[error("{0}: Redis refused ({kind})", kind = .1.category())]
    Refused(Operation, #[source] RedisError),
}
