//! The contenders on SQLite, in WAL mode.

mod rusqlite;

use std::sync::Arc;

use rowlock::Lanes;
use rowlock_tests::sqlite::{Database, database};
use sqlx::sqlite::SqlitePoolOptions;

use self::rusqlite::{Commit, Rusqlite};
use crate::by_hand::ByHand;
use crate::harness::{CONNECTIONS, Contender, Peer, Totals, tables};

pub(crate) const NAME: &str = "SQLite";

/// The first is what the others are compared with.
pub(crate) async fn contenders() -> Vec<Contender> {
    vec![
        contender("sqlx pool", async |database| {
            let pool = database.pool_with(connections(CONNECTIONS)).await;
            ByHand {
                writer: pool.clone(),
                readers: pool,
            }
        })
        .await,
        contender("sqlx, one writer", async |database| ByHand {
            writer: database.pool_with(connections(1)).await,
            readers: database.pool_with(connections(CONNECTIONS - 1)).await,
        })
        .await,
        contender("rowlock, pool", async |database| {
            database.pool_with(connections(CONNECTIONS)).await
        })
        .await,
        contender("rowlock, Lanes", async |database| {
            Lanes::new(&database.pool_with(connections(CONNECTIONS)).await, 1)
                .await
                .unwrap()
        })
        .await,
        contender("rusqlite", async |database| {
            Rusqlite::new(database.options().get_filename(), Commit::Each)
        })
        .await,
        contender("rusqlite, group commit", async |database| {
            Rusqlite::new(database.options().get_filename(), Commit::Waiting)
        })
        .await,
    ]
}

async fn contender<P: Peer>(
    name: &'static str,
    peer: impl AsyncFnOnce(&Database) -> P,
) -> Contender {
    let database = database(&tables("INTEGER PRIMARY KEY", "")).await;
    let peer = peer(&database).await;
    let database = Arc::new(database);
    Contender::new(name, peer, move || {
        let database = Arc::clone(&database);
        async move {
            sqlx::query_as::<_, Totals>(Totals::QUERY)
                .fetch_one(&database.pool)
                .await
                .unwrap()
        }
    })
}

/// No ping, which is a message to the thread of the connection and its answer.
fn connections(count: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .min_connections(count)
        .max_connections(count)
        .test_before_acquire(false)
}
