//! LISTEN: being woken by what is enqueued.

use super::Worker;
use super::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::backoff::full_jitter;
use crate::db::error::{DatabaseError, KeyText, Operation};
use crate::job::queue::QueueSql;
use sqlx::postgres::{PgListener, PgPoolOptions};
use std::sync::Arc;
use tokio::sync::Notify;

impl<T: QueueSql<sqlx::Postgres>> Worker<sqlx::Postgres, T> {
    /// Looks for rows when the trigger of `notify_ddl` reports new ones, over an additional connection of its own. Without it, and whenever that
    /// connection is lost, the worker finds rows at the next [`poll`](Self::poll).
    ///
    /// Does not work behind a pooler in transaction mode, which passes no notifications on.
    pub fn listen(mut self) -> Self {
        let pool = self.pool.clone();
        self.listener = Some(Box::new(move |wake| {
            Box::pin(listen(pool, T::CHANNEL, wake))
        }));
        self
    }
}

async fn listen(pool: sqlx::PgPool, channel: &'static str, wake: Arc<Notify>) {
    let own = || {
        PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with((*pool.connect_options()).clone())
    };
    let mut failures = 0;
    loop {
        let listened: Result<(), sqlx::Error> = async {
            let mut listener = PgListener::connect_with(&own()).await?;
            listener.listen(channel).await?;
            loop {
                // Also after a reconnect, during which notifications were missed.
                wake.notify_one();
                failures = 0;
                listener.try_recv().await?;
            }
        }
        .await;
        if let Err(error) = listened {
            let error =
                DatabaseError::new(Operation::new("listen", channel, KeyText::default()), error);
            tracing::warn!(%error, "not listening, rows are found by polling");
        }
        failures += 1;
        tokio::time::sleep(full_jitter(failures, FIRST_PAUSE, LONGEST_PAUSE)).await;
    }
}
