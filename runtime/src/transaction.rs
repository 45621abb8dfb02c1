//! Transactions that are run again, from their start, when the database asks for it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::{Acquire, AssertSqlSafe, Pool, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;

use crate::backend::Backend;
use crate::backoff::full_jitter;
use crate::error::{Attempt, DatabaseError, KeyText};
use crate::fault::Fault;

/// How often a transaction is run unless [`TransactionBuilder::attempts`] says otherwise.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Starts a transaction on a pool; [`run`](TransactionBuilder::run) runs it.
///
/// It takes a pool and nothing else, so that a transaction that retries can never stand inside another one, whose
/// earlier statements it could not run again.
pub fn transaction<DB: Backend>(pool: &Pool<DB>) -> TransactionBuilder<DB> {
    TransactionBuilder {
        pool: pool.clone(),
        isolation: None,
        read_only: false,
        attempts: ATTEMPTS,
        deadline: None,
        first_wait: FIRST_WAIT,
        longest_wait: LONGEST_WAIT,
        lock_timeout: None,
        statement_timeout: None,
    }
}

/// How a transaction is to be run.
///
/// Limits mean what they say: `attempts(0)` and a deadline of zero run nothing. Without a call there is no deadline and no
/// timeout, and there are five attempts.
#[derive(Debug, Clone)]
#[must_use = "a transaction does nothing until it is run"]
pub struct TransactionBuilder<DB: Backend> {
    pool: Pool<DB>,
    isolation: Option<Isolation>,
    read_only: bool,
    attempts: u32,
    deadline: Option<Duration>,
    first_wait: Duration,
    longest_wait: Duration,
    lock_timeout: Option<Duration>,
    statement_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl<DB: Backend> TransactionBuilder<DB> {
    /// READ COMMITTED. SQLite gives SERIALIZABLE whatever is asked for.
    pub fn read_committed(mut self) -> Self {
        self.isolation = Some(Isolation::ReadCommitted);
        self
    }

    /// REPEATABLE READ: on PostgreSQL, snapshot isolation.
    pub fn repeatable_read(mut self) -> Self {
        self.isolation = Some(Isolation::RepeatableRead);
        self
    }

    /// SERIALIZABLE. Protects an invariant only if all transactions that can break it use it.
    pub fn serializable(mut self) -> Self {
        self.isolation = Some(Isolation::Serializable);
        self
    }

    /// READ ONLY; on SQLite a deferred transaction, which does not take the write lock.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// How often the closure is run at most. 0 runs nothing.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// How long all attempts and the waits between them may take together. Zero runs nothing.
    ///
    /// On PostgreSQL what is left of it is also given to the server, as the limit of each statement: dropping a future
    /// does not stop a statement.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The ceiling of the first random wait between two attempts, and the highest it can get; it doubles in between.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first_wait = first;
        self.longest_wait = longest;
        self
    }
}

#[cfg(feature = "postgres")]
impl TransactionBuilder<sqlx::Postgres> {
    /// How long a statement waits for a lock: `SET LOCAL lock_timeout`, in the round trip of BEGIN. A lock that is not free
    /// by then is [`Fault::LockTimeout`], which is not retried.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = Some(timeout);
        self
    }

    /// How long a statement runs: `SET LOCAL statement_timeout`, in the round trip of BEGIN. After that it is
    /// [`Fault::Canceled`], which is not retried.
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = Some(timeout);
        self
    }
}
