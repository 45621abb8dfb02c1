//! A future that is dropped at any of its await points: all of it took effect or none, and nothing stays open.

use std::time::Duration;

use rowlock::Counter;
use rowlock_tests::cancel::polled;
use tokio::time::{sleep, timeout};

use super::{Database, Pool, database};

#[derive(Debug, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "counts")]
struct Count {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
    #[rowlock(counter(min = 0, max = 1_000_000))]
    bounded: i64,
}

const COUNTS: &str =
    "CREATE TABLE counts (id bigint PRIMARY KEY, free bigint NOT NULL, bounded bigint NOT NULL)";

/// The pool cleans up in a task of its own, so this may take a moment.
async fn nothing_stays_open(database: &Database) {
    let closed = async {
        while database.open_transactions().await > 0 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(5), closed)
        .await
        .expect("a transaction was left open");
}

/// The sums over both rows; on a pool of one connection this waits for whatever still runs there.
async fn sums(pool: &Pool) -> (i64, i64) {
    let sums = "SELECT CAST(coalesce(sum(free), 0) AS bigint), CAST(coalesce(sum(bounded), 0) AS bigint) FROM counts";
    sqlx::query_as(sums).fetch_one(pool).await.unwrap()
}

/// Cuts the operation at each of its await points, each time on a new connection, where statements are not prepared
/// yet, and on one that has done it before.
macro_rules! cut_everywhere {
    (|$pool:ident| $operation:expr, adds $added:expr) => {{
        let database = database(COUNTS).await;
        for warm in [false, true] {
            for limit in 1.. {
                let pool = database.one_connection_pool().await;
                let $pool = &pool;
                if warm {
                    $operation.await.unwrap();
                }
                let before = sums(&pool).await;
                let finished = polled(limit, $operation).await;
                nothing_stays_open(&database).await;
                let after = sums(&pool).await;
                let added = (after.0 - before.0, after.1 - before.1);
                assert!(added == (0, 0) || added == $added, "{limit}: {added:?}");
                pool.close().await;
                if let Some(result) = finished {
                    result.unwrap();
                    assert_eq!(added, $added);
                    break;
                }
            }
        }
    }};
}

#[tokio::test]
async fn t_16_add_is_cut_everywhere() {
    cut_everywhere!(|pool| Count::add_free(pool, 1, 1), adds(1, 0));
}

#[tokio::test]
async fn t_16_a_bounded_add_is_cut_everywhere() {
    cut_everywhere!(|pool| Count::add_bounded(pool, 1, 1), adds(0, 1));
}

#[tokio::test]
async fn t_16_a_batch_is_cut_everywhere() {
    cut_everywhere!(
        |pool| Count::add_free_many(pool, [(1, 1), (2, 2), (3, 4)]),
        adds(7, 0)
    );
}

#[tokio::test]
async fn t_16_a_bounded_batch_is_cut_everywhere() {
    cut_everywhere!(
        |pool| Count::add_bounded_many(pool, [(1, 1), (2, 2), (3, 4)]),
        adds(0, 7)
    );
}

/// The caller goes on after the cut. What it wrote before is committed, or COMMIT says that it is not.
#[tokio::test]
async fn t_16_a_cut_batch_never_ends_the_caller_s_transaction_silently() {
    let database = database(COUNTS).await;
    for limit in 1.. {
        let pool = database.one_connection_pool().await;
        let before = sums(&pool).await;
        let mut tx = pool.begin().await.unwrap();
        Count::add_free(&mut *tx, 9, 1).await.unwrap();
        let deltas = [(1, 1), (2, 2), (3, 4)];
        let batch = polled(limit, Count::add_bounded_many(&mut *tx, deltas)).await;
        let committed = tx.commit().await.is_ok();
        nothing_stays_open(&database).await;

        let after = sums(&pool).await;
        let added = (after.0 - before.0, after.1 - before.1);
        if committed {
            assert!(added == (1, 0) || added == (1, 7), "{limit}: {added:?}");
        } else {
            assert_eq!(added, (0, 0), "{limit}");
        }
        pool.close().await;
        if let Some(result) = batch {
            result.unwrap();
            assert!(committed);
            assert_eq!(added, (1, 7));
            break;
        }
    }
}
