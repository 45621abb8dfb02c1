//! `#[derive(Lockable)]` where SQLite differs: the busy timeout belongs to the connection, not to the transaction.

use rowlock::{Lockable, transaction};
use rowlock_tests::cancel::polled;

use super::database;

#[derive(Debug, sqlx::FromRow, Lockable)]
#[rowlock(table = "stock")]
struct Sku {
    #[rowlock(key)]
    id: i64,
    units: i64,
}

/// L-18. A lock that is dropped on the way hands no changed timeout to the next user of the connection.
#[tokio::test]
async fn l_18_a_dropped_lock_does_not_leak_its_timeout() {
    let database = database(
        "CREATE TABLE stock (id bigint PRIMARY KEY, units bigint NOT NULL);
        INSERT INTO stock VALUES (1, 10)",
    )
    .await;
    let pool = database.one_connection_pool().await;
    let timeout = async || {
        sqlx::query_scalar::<_, i64>("PRAGMA busy_timeout")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    let before = timeout().await;
    for many in [false, true] {
        for limit in 1.. {
            let run = transaction(&pool).run(async |tx| {
                if many {
                    Sku::lock_many(&mut *tx, [1]).nowait().await.map(drop)
                } else {
                    Sku::lock(&mut *tx, 1).nowait().await.map(drop)
                }
            });
            let finished = polled(limit, run).await.is_some();
            assert_eq!(timeout().await, before, "dropped after {limit} polls");
            if finished {
                break;
            }
        }
    }
}
