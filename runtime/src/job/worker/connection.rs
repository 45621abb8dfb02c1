//! A connection whose statements end in time.

use crate::db::Backend;
use crate::db::source::Link;
use sqlx::Pool;
use sqlx::pool::PoolConnection;
use std::future::Future;
use std::time::Duration;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// A statement, for as long as there is hope for an answer.
pub(in crate::job) async fn in_time<DB: Backend, R>(
    limit: Duration,
    statement: impl Future<Output = Result<R, sqlx::Error>>,
) -> Result<Result<R, sqlx::Error>, Elapsed> {
    if DB::EMBEDDED {
        // Given up, it would be executed all the same, and claim rows for nobody.
        return Ok(statement.await);
    }
    timeout(limit, statement).await
}

/// Why a statement of the worker yielded nothing.
pub(in crate::job) enum Failure {
    Database(sqlx::Error),
    /// The server said nothing in time. It may have executed the statement, or may do so yet.
    NoAnswer,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// A connection of the pool, which is closed if no statement on it was [`answered`](Self::answered).
pub(in crate::job) struct Attended<DB: Backend> {
    connection: PoolConnection<DB>,
    answered: bool,
}

impl<DB: Backend> Attended<DB> {
    pub(in crate::job) async fn acquire(
        pool: &Pool<DB>,
        limit: Duration,
    ) -> Result<Self, sqlx::Error> {
        let connection = timeout(limit, pool.acquire()).await;
        Ok(Self {
            connection: connection.unwrap_or(Err(sqlx::Error::PoolTimedOut))?,
            answered: false,
        })
    }

    pub(in crate::job) fn link(&mut self) -> Link<'_, DB> {
        Link::new(&mut *self.connection)
    }

    pub(in crate::job) fn answered<R>(
        mut self,
        result: Result<Result<R, sqlx::Error>, Elapsed>,
    ) -> Result<R, Failure> {
        self.answered = result.is_ok();
        match result {
            Ok(result) => result.map_err(Failure::Database),
            Err(Elapsed { .. }) => Err(Failure::NoAnswer),
        }
    }
}

impl<DB: Backend> Drop for Attended<DB> {
    fn drop(&mut self) {
        if !self.answered {
            DB::abandon_statement(&mut self.connection);
        }
    }
}
