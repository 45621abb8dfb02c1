//! How a transaction is to be run.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;

use super::begins::Begins;
use super::budget::RetryBudget;
use crate::db::Backend;
use crate::db::begin::{Isolation, TakeLock};
use crate::db::fault::Fault;

/// The default of [`TransactionBuilder::attempts`].
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Starts a transaction on a pool, or inside a [`Tx`](crate::Tx). [`run`](TransactionBuilder::run) runs it, again from its start if the database asks
/// for that.
///
/// ```
/// # async fn setup() -> Result<sqlx::SqlitePool, sqlx::Error> {
/// #     let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// #     sqlx::raw_sql(
/// #         "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
/// #          INSERT INTO accounts VALUES (1, 100), (2, 0)",
/// #     ).execute(&pool).await?;
/// #     Ok(pool)
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = setup().await?;
/// let left = rowlock::transaction(&pool)
///     .serializable()
///     .run(async |tx| {
///         let sql = "UPDATE accounts SET balance = balance + $1 WHERE id = $2 RETURNING balance";
///         sqlx::query(sql).bind(30).bind(2).execute(&mut *tx).await?;
///         let left: i64 = sqlx::query_scalar(sql).bind(-30).bind(1).fetch_one(&mut *tx).await?;
///         Ok::<_, sqlx::Error>(left)
///     })
///     .await?;
/// assert_eq!(left, 70);
/// # Ok(())
/// # }
/// ```
///
/// # Nested use
///
/// Called with the pool inside a closure, it is a second transaction on a second connection. It commits even if the outer one rolls back, does not
/// see what the outer one wrote, and waits for the outer one's locks, which are not released while the outer one waits for it. On a pool of one
/// connection it ends as `Begin` with [`Fault::PoolTimedOut`].
///
/// If SQLite has rolled back a `sqlx::Transaction` by itself (RAISE(ROLLBACK)), sqlx keeps counting it, and nothing can begin on that connection. If
/// the pool hands it out here, it is closed and replaced. An in-memory database disappears with its connection.
///
/// Called with a `&mut` [`Tx`](crate::Tx) it is part of that transaction, in a savepoint. A service that begins transactions can thus be part of a
/// larger one, or of a test that rolls back: see [`Begins`].
///
/// | | inside a `Tx` |
/// |---|---|
/// | the closure | runs once, as with `attempts(1)`: what stands before it could not be run again. What would be run again on a pool is `Exhausted`; return it, and the outer transaction is run again |
/// | its `Err` | undoes what it wrote, and the outer transaction goes on |
/// | `on_commit` | after the outer COMMIT; never if the part or all of it is rolled back |
/// | `read_committed`, `repeatable_read`, `serializable` | the outer transaction must have that level or a stricter one: else [`TooWeak`](crate::tx::TransactionError::TooWeak), and nothing is run. SQLite always has it |
/// | `read_only` | the same: on PostgreSQL the outer one must be READ ONLY |
/// | `deadline`, `lock_timeout`, `statement_timeout` | hold for the part, are set back after it, and loosen no stricter limit around it. One that passes undoes the part |
/// | `ask_after_lost_commit` | is for the outer transaction to ask: there is no COMMIT here |
/// | `attempts`, `backoff`, `budget`, `on_retry` | have nothing to do; `attempts(0)` runs nothing |
///
/// SQL: `SAVEPOINT`, and if a level stricter than READ COMMITTED, `read_only` or a limit is asked for, one SELECT on PostgreSQL that reads the settings and sets the
/// limits, and one that sets them back.
#[doc(alias("retry", "atomic", "begin"))]
pub fn transaction<B: Begins>(db: B) -> TransactionBuilder<B::Database, B::Place> {
    TransactionBuilder {
        place: db.place(),
        database: PhantomData,
        isolation: None,
        read_only: false,
        attempts: ATTEMPTS,
        deadline: None,
        first_wait: FIRST_WAIT,
        longest_wait: LONGEST_WAIT,
        lock_limit: None,
        statement_limit: None,
        ask_after_commit: false,
        on_retry: None,
        budget: None,
        advisory: None,
    }
}

/// How to run a transaction.
///
/// Limits are exact: `attempts(0)` and a deadline of zero run nothing. The default is no deadline, no timeout, and five attempts with waits of at
/// most 5, 10, 20 and 40 ms between them.
///
/// PostgreSQL gets durations in whole milliseconds, minimum 1.
#[derive(Debug)]
#[must_use = "a transaction does nothing until it is run"]
pub struct TransactionBuilder<DB: Backend, P = Pool<DB>> {
    pub(super) place: P,
    database: PhantomData<fn() -> DB>,
    pub(super) isolation: Option<Isolation>,
    pub(super) read_only: bool,
    pub(super) attempts: u32,
    pub(super) deadline: Option<Duration>,
    pub(super) first_wait: Duration,
    pub(super) longest_wait: Duration,
    // Not named like the methods: rustc would tell users of another database about a private field.
    pub(super) lock_limit: Option<Duration>,
    pub(super) statement_limit: Option<Duration>,
    pub(super) ask_after_commit: bool,
    pub(super) on_retry: Option<Hook>,
    pub(super) budget: Option<RetryBudget>,
    pub(super) advisory: Option<TakeLock>,
}

// Not derived: that would ask for `DB: Clone`, which no database of sqlx is.
impl<DB: Backend, P: Clone> Clone for TransactionBuilder<DB, P> {
    fn clone(&self) -> Self {
        Self {
            place: self.place.clone(),
            on_retry: self.on_retry.clone(),
            budget: self.budget.clone(),
            ..*self
        }
    }
}

#[derive(Clone)]
pub(super) struct Hook(pub(super) Arc<dyn Fn(&Retry) + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// A failed attempt and the next one, for [`TransactionBuilder::on_retry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// The number of the attempt that failed, from 1.
    pub attempt: u32,
    /// Why it failed.
    pub fault: Fault,
    /// How long the next one waits.
    pub wait: Duration,
}

impl<DB: Backend, P> TransactionBuilder<DB, P> {
    /// READ COMMITTED: each statement sees what was committed before it. Defaults to the server's level, which is this one unless it was changed.
    /// SQLite is always SERIALIZABLE.
    pub fn read_committed(mut self) -> Self {
        self.isolation = Some(Isolation::ReadCommitted);
        self
    }

    /// REPEATABLE READ: on PostgreSQL, snapshot isolation. All statements see what was committed before the first one. A transaction that writes a
    /// row which has changed since runs again.
    pub fn repeatable_read(mut self) -> Self {
        self.isolation = Some(Isolation::RepeatableRead);
        self
    }

    /// SERIALIZABLE: the outcome is that of some serial order of the transactions. It protects an invariant only if all transactions that can break
    /// it use it. What you read counts only after the commit.
    pub fn serializable(mut self) -> Self {
        self.isolation = Some(Isolation::Serializable);
        self
    }

    /// READ ONLY; on SQLite a deferred transaction, which does not take the write lock.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// How often the closure runs at most. Defaults to 5; 0 runs nothing.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The time limit for all attempts and the waits between them. Defaults to none; zero runs nothing.
    ///
    /// On PostgreSQL the server gets the remaining time as the limit of each statement, because dropping a future does not stop a statement. A
    /// stricter `statement_timeout` of the role or the session stays in force. Only the query of `ask_after_lost_commit` can come after the deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Calls `hook` before the wait for each further attempt, and not after the last one. The deadline can still pass during that wait.
    pub fn on_retry(mut self, hook: impl Fn(&Retry) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(Hook(Arc::new(hook)));
        self
    }

    /// Shares a limit on retries with other transactions. If the budget refuses a retry, the transaction ends as if its attempts were used up.
    pub fn budget(mut self, budget: &RetryBudget) -> Self {
        self.budget = Some(budget.clone());
        self
    }

    /// The ceiling of the first random wait between two attempts, and the highest ceiling; it doubles in between.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first_wait = first;
        self.longest_wait = longest;
        self
    }
}

#[cfg(feature = "postgres")]
impl<P> TransactionBuilder<sqlx::Postgres, P> {
    /// How long a statement waits for a lock: `SET LOCAL lock_timeout`, in the round trip of BEGIN. After that it fails with [`Fault::LockTimeout`],
    /// which is not retried.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_limit = Some(timeout);
        self
    }

    /// How long a statement runs: `SET LOCAL statement_timeout`, in the round trip of BEGIN. After that it fails with [`Fault::Canceled`], which is
    /// not retried.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_limit = Some(timeout);
        self
    }

    /// If the connection is lost during COMMIT, asks the server on another connection what became of the transaction (`pg_xact_status`): committed is
    /// `Ok`, rolled back is retried, and only no answer is [`TransactionError::CommitUnknown`](crate::tx::TransactionError::CommitUnknown). See
    /// [`run`](Self::run) for its cost.
    ///
    /// The query, including the wait for a connection, takes at most five seconds, which are not part of the deadline: it also asks about a COMMIT
    /// that the deadline cut short.
    pub fn ask_after_lost_commit(mut self) -> Self {
        self.ask_after_commit = true;
        self
    }
}
