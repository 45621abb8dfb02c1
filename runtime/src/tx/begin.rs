//! How a transaction begins, so that nobody who stops waiting leaves one open.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Connection as _, Pool, SqlSafeStr};

use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::begin::{Begin, TakeLock};
use crate::db::lock_timeout::LockTimeout;
use crate::db::source::Link;

/// A future that is run to its end by the runtime if it is dropped before.
///
/// sqlx counts a transaction when the answer to BEGIN is there: dropping its `begin` before leaves the connection in a transaction
/// that nobody rolls back.
pub(crate) struct ToTheEnd<F: Future<Output: Send + 'static> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send + 'static> + Send + 'static> ToTheEnd<F> {
    pub(crate) fn new(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Future for ToTheEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out: one that panics must not be polled again.
        let Some(mut future) = self.0.take() else {
            return Poll::Pending;
        };
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(future);
        }
        polled
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Drop for ToTheEnd<F> {
    fn drop(&mut self) {
        if let Some(future) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(future);
        }
    }
}

/// A connection that is in no transaction.
///
/// When SQLite rolls back by itself, as after RAISE(ROLLBACK), the ROLLBACK of a `sqlx::Transaction` fails, and sqlx counts that
/// transaction for ever: no other can begin on the connection. So it is closed, and with it an in-memory database.
async fn acquire<DB: Backend>(pool: &Pool<DB>) -> Result<PoolConnection<DB>, sqlx::Error> {
    loop {
        let mut connection = pool.acquire().await?;
        if !in_transaction::<DB>(&connection) {
            return Ok(connection);
        }
        // A rollback may be under way still, in SQLite's own thread.
        connection.ping().await?;
        if !in_transaction::<DB>(&connection) {
            return Ok(connection);
        }
        connection.close().await?;
    }
}

/// `None` if the lock that the transaction should begin with is held by another session and is not to be waited for.
pub(super) async fn begin<DB: Backend>(
    pool: &Pool<DB>,
    begin: &Begin,
) -> Result<Option<sqlx::Transaction<'static, DB>>, sqlx::Error> {
    let connection = acquire(pool).await?;
    let sql = DB::begin_sql(begin);
    match begin.advisory {
        None => ToTheEnd::new(adopt(connection, sql)).await.map(Some),
        Some(lock) if DB::HAS_ADVISORY_LOCKS => {
            let Some(connection) = begin_under_lock(connection, sql, lock).await? else {
                return Ok(None);
            };
            ToTheEnd::new(adopt(connection, DB::NOTHING.to_owned()))
                .await
                .map(Some)
        }
        Some(lock) => ToTheEnd::new(begin_with_timeout(connection, sql, lock))
            .await
            .map(Some),
    }
}

async fn adopt<DB: Backend>(
    connection: PoolConnection<DB>,
    sql: String,
) -> Result<sqlx::Transaction<'static, DB>, sqlx::Error> {
    let sql = AssertSqlSafe(sql).into_sql_str();
    sqlx::Transaction::begin(connection, Some(sql)).await
}

/// Begins with a lock that another session may hold for long. Whoever stops waiting for it closes the connection: a ROLLBACK would stand
/// after the wait, and the pool would have no use of the connection until then.
async fn begin_under_lock<DB: Backend>(
    connection: PoolConnection<DB>,
    sql: String,
    lock: TakeLock,
) -> Result<Option<PoolConnection<DB>>, sqlx::Error> {
    let mut waiting = Waiting(Some(connection));
    let begun = waiting.ask(sql).await;
    match begun {
        Ok(taken) if taken || !lock.tries => Ok(waiting.0.take()),
        _ => {
            waiting.ask("ROLLBACK".to_owned()).await?;
            waiting.0 = None;
            begun.map(|_| None)
        }
    }
}

struct Waiting<DB: Backend>(Option<PoolConnection<DB>>);

impl<DB: Backend> Waiting<DB> {
    async fn ask(&mut self, sql: String) -> Result<bool, sqlx::Error> {
        match &mut self.0 {
            Some(connection) => DB::is_true(connection, sql).await,
            None => Ok(false),
        }
    }
}

impl<DB: Backend> Drop for Waiting<DB> {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

/// Begins where the lock is that of BEGIN, and the limit of the wait a setting of the connection.
async fn begin_with_timeout<DB: Backend>(
    mut connection: PoolConnection<DB>,
    sql: String,
    lock: TakeLock,
) -> Result<sqlx::Transaction<'static, DB>, sqlx::Error> {
    let link = Link::new(&mut *connection);
    let mut waiting = LockTimeout::<DB>::set(link, lock.limit(), "").await?;
    let begun = DB::is_true(&mut waiting.link, sql).await;
    let restored = waiting.restore(begun.is_ok()).await;
    drop(waiting);
    begun?;
    let transaction = adopt(connection, DB::NOTHING.to_owned()).await?;
    restored.map(|()| transaction)
}
