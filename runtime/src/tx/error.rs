//! Why a transaction has no result.

use std::error::Error;
use std::fmt;

use crate::db::error::DatabaseError;

/// Why a transaction has no result.
///
/// Nothing of the transaction is in the database, except perhaps after [`CommitUnknown`](Self::CommitUnknown). `source()` leads to the closure's
/// error or to the `sqlx::Error`, and [`Fault::in_chain`](crate::Fault::in_chain) classifies it.
///
/// ```
/// # async fn setup() -> Result<sqlx::SqlitePool, sqlx::Error> {
/// #     let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// #     sqlx::raw_sql("CREATE TABLE names (name text PRIMARY KEY)").execute(&pool).await?;
/// #     Ok(pool)
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = setup().await?;
/// use rowlock::{Fault, transaction};
/// use rowlock::tx::TransactionError;
///
/// let outcome = transaction(&pool)
///     .run(async |tx| {
///         for name in ["ann", "ben", "ann"] {
///             sqlx::query("INSERT INTO names VALUES ($1)").bind(name).execute(&mut *tx).await?;
///         }
///         Ok::<_, sqlx::Error>(())
///     })
///     .await;
/// match outcome {
///     Err(TransactionError::Failed(error)) => assert_eq!(Fault::of(&error), Fault::UniqueViolation),
///     other => panic!("{other:?}"),
/// }
/// let names: i64 = sqlx::query_scalar("SELECT count(*) FROM names").fetch_one(&pool).await?;
/// assert_eq!(names, 0);
/// # Ok(())
/// # }
/// ```
///
/// It is an `std::error::Error` if `E` is. `anyhow::Error` and `Box<dyn Error + Send + Sync>` are none, and come in [`Erased`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// The closure failed, and running it again would not help. Rolled back.
    #[error("{0}")]
    Failed(#[source] E),
    /// The closure returned `Ok`, but a statement in it failed and the server gave the transaction up, or a statement's future was dropped before its
    /// answer, or a savepoint stayed open, or the closure ended the transaction by hand: nothing of it was committed. Statements on the connection
    /// itself after a `COMMIT` or `ROLLBACK` by hand, or after a failed `begin` of sqlx, stood alone.
    #[error("{0}; the closure returned Ok all the same, and rowlock committed nothing")]
    Aborted(#[source] DatabaseError),
    /// No connection, or BEGIN failed. The closure did not run.
    #[error(transparent)]
    Begin(DatabaseError),
    /// COMMIT failed: a deferred constraint, or a conflict that shows only at the end. Rolled back. (A conflict runs again, while attempts are left.)
    #[error(transparent)]
    Commit(DatabaseError),
    /// The connection was lost during COMMIT, or the deadline passed. The transaction was committed or it was not, so it does not run again: it could
    /// take effect twice. Look for what it writes (an idempotency key, say), or let `ask_after_lost_commit` ask.
    #[error("{0}; it is unknown whether the transaction was committed")]
    CommitUnknown(#[source] DatabaseError),
    /// All attempts failed with a retryable fault. Rolled back.
    #[error("gave up after {attempts} attempts: {last}")]
    Exhausted {
        /// How often the closure ran, or would have run with a connection.
        attempts: u32,
        /// Why the last attempt failed.
        #[source]
        last: LastFailure<E>,
    },
    /// The deadline passed. Rolled back. (During COMMIT it is `CommitUnknown`.)
    #[error("the deadline passed in attempt {attempts}, and all of it was rolled back")]
    DeadlineExceeded {
        /// How many attempts had begun.
        attempts: u32,
    },
    /// The transaction was to begin inside a [`Tx`](crate::Tx) of a weaker isolation level than requested, or one that is not READ ONLY. Nothing ran.
    /// Request it on the outer transaction.
    #[error(
        "the transaction around it is {found}, and {asked} was asked for; ask for it where the outer transaction begins"
    )]
    TooWeak {
        /// The requested level, as in SQL.
        asked: &'static str,
        /// The level of the outer transaction.
        found: &'static str,
    },
    /// `attempts(0)`: nothing ran.
    #[error("nothing ran: `attempts(0)`")]
    NotRun,
}

impl<E> TransactionError<E> {
    /// The same with another error of the closure.
    pub(crate) fn map<T>(self, map: impl FnOnce(E) -> T) -> TransactionError<T> {
        match self.try_map(|error| Ok::<_, std::convert::Infallible>(map(error))) {
            Ok(error) => error,
            Err(never) => match never {},
        }
    }

    /// Converts the closure's error, or returns what it comes to by itself.
    pub(crate) fn try_map<T, O>(
        self,
        map: impl FnOnce(E) -> Result<T, O>,
    ) -> Result<TransactionError<T>, O> {
        Ok(match self {
            Self::Failed(error) => TransactionError::Failed(map(error)?),
            Self::Exhausted { attempts, last } => {
                let last = match last {
                    LastFailure::Closure(error) => LastFailure::Closure(map(error)?),
                    LastFailure::Database(error) => LastFailure::Database(error),
                };
                TransactionError::Exhausted { attempts, last }
            }
            Self::Aborted(error) => TransactionError::Aborted(error),
            Self::Begin(error) => TransactionError::Begin(error),
            Self::Commit(error) => TransactionError::Commit(error),
            Self::CommitUnknown(error) => TransactionError::CommitUnknown(error),
            Self::DeadlineExceeded { attempts } => TransactionError::DeadlineExceeded { attempts },
            Self::TooWeak { asked, found } => TransactionError::TooWeak { asked, found },
            Self::NotRun => TransactionError::NotRun,
        })
    }
}

/// Why the last of several attempts failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LastFailure<E> {
    /// The closure did.
    #[error("{0}")]
    Closure(#[source] E),
    /// BEGIN or COMMIT did.
    #[error(transparent)]
    Database(DatabaseError),
}

/// An error that is no [`std::error::Error`] itself, as `anyhow::Error` and `Box<dyn Error + Send + Sync>`: with this around it, the
/// [`TransactionError`] of a closure that returns such an error is one, and `?` takes it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// use rowlock::transaction;
///
/// type AnyError = Box<dyn std::error::Error + Send + Sync>;
///
/// async fn answer(pool: &sqlx::SqlitePool) -> Result<i64, AnyError> {
///     let answer = transaction(pool)
///         .run(async |tx| {
///             let answer: i64 = sqlx::query_scalar("SELECT 42").fetch_one(&mut *tx).await?;
///             std::fs::metadata(".")?;
///             Ok::<_, AnyError>(answer)
///         })
///         .await?;
///     Ok(answer)
/// }
/// assert_eq!(answer(&pool).await?, 42);
/// # Ok(())
/// # }
/// ```
pub struct Erased<E>(
    /// As the closure returned it.
    pub E,
);

impl<E> std::ops::Deref for Erased<E> {
    type Target = E;
    fn deref(&self) -> &E {
        &self.0
    }
}

impl<E: fmt::Display> fmt::Display for Erased<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: fmt::Debug> fmt::Debug for Erased<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E> Error for Erased<E>
where
    E: AsRef<dyn Error + Send + Sync> + fmt::Debug + fmt::Display,
{
    /// The error itself, with its type.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.as_ref())
    }
}
