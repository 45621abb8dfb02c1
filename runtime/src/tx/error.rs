//! Why a transaction has no result.

use std::error::Error;
use std::fmt;

use crate::db::error::DatabaseError;

/// Why a transaction has no result.
///
/// Nothing of the transaction is in the database, except perhaps after [`CommitUnknown`](Self::CommitUnknown). `source()`
/// leads to the closure's error or to the `sqlx::Error`, and [`Fault::in_chain`](crate::Fault::in_chain) classifies it.
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
    /// The closure returned `Ok`, but a statement in it had failed and the server had given up the transaction, or the future of a
    /// statement was dropped before its answer, or a savepoint was left open, or the transaction was ended inside of the closure:
    /// nothing of it was committed. What ran on the connection itself after a `COMMIT` or a `ROLLBACK` by hand, or after a `begin` of sqlx's that failed, stood alone.
    #[error("{0}; the closure returned Ok all the same, and nothing was committed")]
    Aborted(#[source] DatabaseError),
    /// No connection, or BEGIN failed. The closure was not run.
    #[error(transparent)]
    Begin(DatabaseError),
    /// COMMIT failed: a deferred constraint, or a conflict that only the end of the transaction shows. Rolled back. A conflict
    /// is run again instead.
    #[error(transparent)]
    Commit(DatabaseError),
    /// The connection was lost during COMMIT, or the deadline passed. The transaction was committed or it was not, and running it again could make it
    /// happen twice: so it is not run again. Look for what it writes (an idempotency key, say), or let `ask_after_lost_commit`
    /// ask.
    #[error("{0}; it is unknown whether the transaction was committed")]
    CommitUnknown(#[source] DatabaseError),
    /// All attempts failed in a way that another one could have mended. Rolled back.
    #[error("gave up after {attempts} attempts: {last}")]
    Exhausted {
        /// How often the closure was run, or would have been if there had been a connection.
        attempts: u32,
        /// Why the last attempt failed.
        #[source]
        last: LastFailure<E>,
    },
    /// The deadline passed. Rolled back. (If it passes while COMMIT is under way, that is `CommitUnknown`.)
    #[error("the deadline passed in attempt {attempts}")]
    DeadlineExceeded {
        /// How many attempts were begun.
        attempts: u32,
    },
    /// The transaction was to begin inside of a [`Tx`](crate::Tx), which is of a weaker isolation level than was asked for, or not READ ONLY. Nothing
    /// was run. Ask for it where the outer transaction begins.
    #[error(
        "the transaction around it is {found}, and {asked} was asked for; ask for it where the outer transaction begins"
    )]
    TooWeak {
        /// What was asked for, as in SQL.
        asked: &'static str,
        /// What the transaction is instead.
        found: &'static str,
    },
    /// `attempts(0)`: nothing was run.
    #[error("no attempt is allowed")]
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

    /// The same with another error of the closure, or what that error comes to by itself.
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
