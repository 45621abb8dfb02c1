//! Counters on PostgreSQL while another session holds the row: who waits for what, and what a lost race looks like.

use std::time::Duration;

use rowlock::row::CounterError;
use rowlock::{Counter, Fault};
use sqlx::{Acquire, AssertSqlSafe, Connection as _, Executor};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{Connection, Database, Pool, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "counts")]
struct Count {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
    #[rowlock(counter(min = 0, max = 100))]
    bounded: i64,
}

const COUNTS: &str =
    "CREATE TABLE counts (id bigint PRIMARY KEY, free bigint NOT NULL, bounded bigint NOT NULL)";

/// The same table, whose rows have to exist.
#[derive(Debug, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "counts", existing_rows)]
struct Existing {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    free: i64,
}

async fn counts(rows: &str) -> Database {
    let database = database(COUNTS).await;
    let insert =
        format!("INSERT INTO counts SELECT i, 0, 0 FROM unnest(ARRAY[{rows}]::bigint[]) AS i");
    sqlx::raw_sql(AssertSqlSafe(insert))
        .execute(&database.pool)
        .await
        .unwrap();
    database
}

async fn count(database: &Database, id: i64) -> Count {
    Count::get(&database.pool, id).await.unwrap().unwrap()
}

async fn free(database: &Database) -> i64 {
    sqlx::query_scalar("SELECT CAST(coalesce(sum(free), 0) AS bigint) FROM counts")
        .fetch_one(&database.pool)
        .await
        .unwrap()
}

/// Waits until this many sessions of the pools wait for a lock, and returns their process ids.
async fn blocked(database: &Database, number: usize) -> Vec<i32> {
    let options = database.options();
    let name = options.get_application_name();
    let mut aside = database.connection().await;
    let all_blocked = async {
        loop {
            let pids: Vec<i32> = sqlx::query_scalar(
                "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND cardinality(pg_blocking_pids(pid)) > 0",
            )
            .bind(name)
            .fetch_all(&mut aside)
            .await
            .unwrap();
            if pids.len() == number {
                return pids;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), all_blocked)
        .await
        .expect("the sessions never waited")
}

/// The rows that nobody has locked.
async fn unlocked(database: &Database) -> Vec<i64> {
    let mut aside = database.connection().await;
    sqlx::query_scalar("SELECT id FROM counts ORDER BY id FOR UPDATE SKIP LOCKED")
        .fetch_all(&mut aside)
        .await
        .unwrap()
}

/// Kills sessions as an administrator would.
async fn kill(database: &Database, pids: Vec<i32>) {
    for pid in pids {
        sqlx::query("SELECT pg_terminate_backend($1)")
            .bind(pid)
            .execute(&mut database.connection().await)
            .await
            .unwrap();
    }
}

/// After a failure: the pool works, and nothing stays open.
async fn still_usable(database: &Database, pool: &Pool) {
    let mut connection = pool.acquire().await.unwrap();
    connection.execute("SELECT 1").await.unwrap();
    assert_eq!(database.open_transactions().await, 0);
}

/// Holds the row in an open transaction, on a session of its own.
async fn hold(database: &Database, id: i64) -> Connection {
    let mut holder = database.connection().await;
    holder.execute("BEGIN").await.unwrap();
    sqlx::query("UPDATE counts SET free = free + 1000 WHERE id = $1")
        .bind(id)
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

fn fault<T: std::fmt::Debug>(result: Result<T, CounterError>) -> Fault {
    match result {
        Err(CounterError::Database(error)) => error.fault(),
        other => panic!("{other:?}"),
    }
}

fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(future)
}

/// Everybody finds no row. The naive twin inserts what it did not find; ours adds to what somebody else inserted.
#[tokio::test]
async fn c_04_the_race_for_the_first_row_is_exact() {
    for end in ["COMMIT", "ROLLBACK"] {
        let database = counts("").await;
        let mut holder = database.connection().await;
        holder.execute("BEGIN").await.unwrap();
        holder
            .execute("INSERT INTO counts VALUES (1, 1000, 0)")
            .await
            .unwrap();

        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let pool = database.pool.clone();
            tasks.spawn(async move { Count::add_free(&pool, 1, 1).await.unwrap() });
        }
        let pool = database.pool.clone();
        let naive = spawn(async move {
            sqlx::query("INSERT INTO counts VALUES (1, 1, 0)")
                .execute(&pool)
                .await
        });
        blocked(&database, 9).await;
        holder.execute(end).await.unwrap();

        let mut totals = tasks.join_all().await;
        let naive = naive.await.unwrap();
        totals.sort_unstable();
        let first = match (end, &naive) {
            ("COMMIT", naive) => {
                assert!(naive.is_err(), "the naive insert lost");
                1001
            }
            // It may have been the first after the rollback.
            (_, Ok(_)) => 2,
            (_, Err(_)) => 1,
        };
        assert_eq!(totals, (first..first + 8).collect::<Vec<i64>>());
        assert_eq!(count(&database, 1).await.free, first + 7);
    }
}

/// The addition waits for the row, and adds to what it then finds. The naive twin wrote what it had read.
#[tokio::test]
async fn c_01_an_addition_that_waited_counts_on_the_newest_value() {
    let database = counts("1").await;
    let mut holder = hold(&database, 1).await;
    let pool = database.pool.clone();
    let naive = spawn(async move {
        let read: i64 = sqlx::query_scalar("SELECT free FROM counts")
            .fetch_one(&pool)
            .await
            .unwrap();
        sqlx::query("UPDATE counts SET free = $1")
            .bind(read + 1)
            .execute(&pool)
            .await
            .unwrap();
    });
    blocked(&database, 1).await;
    holder.execute("COMMIT").await.unwrap();
    naive.await.unwrap();
    assert_eq!(count(&database, 1).await.free, 1, "1000 are lost");

    let mut holder = hold(&database, 1).await;
    let pool = database.pool.clone();
    let add = spawn(async move { Count::add_free(&pool, 1, 1).await });
    blocked(&database, 1).await;
    holder.execute("COMMIT").await.unwrap();
    assert_eq!(add.await.unwrap().unwrap(), 1002);
}

/// The bound is checked against the value after the wait, not against the one before.
#[tokio::test]
async fn c_09_bounds_are_checked_after_the_wait() {
    let database = counts("1").await;
    for (held, delta, accepted) in [(100, 1, false), (99, 1, true), (5, -6, false)] {
        let mut holder = database.connection().await;
        let set = format!("BEGIN; UPDATE counts SET bounded = {held}");
        sqlx::raw_sql(AssertSqlSafe(set))
            .execute(&mut holder)
            .await
            .unwrap();
        let (one, other) = (database.pool.clone(), database.pool.clone());
        let add = spawn(async move { Count::add_bounded(&one, 1, delta).await });
        blocked(&database, 1).await;
        let batch =
            spawn(async move { Count::add_bounded_many(&other, [(1, delta), (2, 0)]).await });
        blocked(&database, 2).await;
        holder.execute("COMMIT").await.unwrap();
        let results = [add.await.unwrap().is_ok(), batch.await.unwrap().is_ok()];
        let (accepts, expected) = if accepted { (1, 100) } else { (0, held) };
        let accepted = results.iter().filter(|accepted| **accepted).count();
        assert_eq!(accepted, accepts);
        assert_eq!(count(&database, 1).await.bounded, expected);
    }
}

/// The naive twin of a batch: two transactions update the same rows in opposite orders.
#[tokio::test]
async fn u_13_naive_twin_unsorted_batches_deadlock() {
    let database = counts("1, 2").await;
    let mut one = hold(&database, 1).await;
    let pool = database.pool.clone();
    let other = spawn(async move {
        let mut other = pool.begin().await.unwrap();
        for id in [2, 1] {
            sqlx::query("UPDATE counts SET free = free + 1 WHERE id = $1")
                .bind(id)
                .execute(&mut *other)
                .await?;
        }
        other.commit().await
    });
    blocked(&database, 1).await;
    let mine = one
        .execute("UPDATE counts SET free = free + 1 WHERE id = 2")
        .await;
    one.close().await.unwrap();
    let theirs = other.await.unwrap();
    let deadlocked = [mine.err(), theirs.err()]
        .into_iter()
        .flatten()
        .map(|error| Fault::of(&error))
        .collect::<Vec<_>>();
    assert_eq!(deadlocked, [Fault::Deadlock]);
}

/// Both batches are under way at the same time, in opposite orders, again and again.
#[tokio::test]
async fn u_13_generated_batches_never_deadlock() {
    let database = counts("1, 2, 3, 4, 5").await;
    for round in 1..=10 {
        let mut holder = hold(&database, 3).await;
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let pool = database.pool.clone();
            let mut ids = vec![1, 2, 3, 4, 5];
            if task % 2 == 0 {
                ids.reverse();
            }
            tasks.spawn(async move {
                let deltas = ids.into_iter().map(|id| (id, 1));
                match task % 4 {
                    0 | 1 => Count::add_free_many(&pool, deltas).await.map(drop),
                    _ => Existing::add_free_many(&pool, deltas).await.map(drop),
                }
            });
        }
        blocked(&database, 8).await;
        holder.execute("ROLLBACK").await.unwrap();
        for result in tasks.join_all().await {
            result.unwrap();
        }
        assert_eq!(free(&database).await, round * 8 * 5);
    }
}

#[tokio::test]
async fn u_13_rows_that_exist_are_locked_in_key_order() {
    let database = counts("4, 1, 3, 2, 5").await;
    let mut holder = hold(&database, 3).await;
    // A plan that would take the rows as they lie in the table.
    let plan = [("enable_nestloop", "off"), ("enable_mergejoin", "off")];
    let options = database.options().options(plan);
    let pool = PoolOptions::new().connect_with(options).await.unwrap();
    let batch = spawn(async move {
        let deltas = [5, 3, 1, 4, 2].map(|id| (id, 1));
        Existing::add_free_many(&pool, deltas).await
    });
    blocked(&database, 1).await;
    assert_eq!(unlocked(&database).await, [4, 5]);
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(
        batch.await.unwrap().unwrap(),
        [1, 2, 3, 4, 5].map(|id| (id, 1))
    );
}

/// A row that was deleted while the batch waited for it is not found, and the others stay as they were.
#[tokio::test]
async fn a_row_deleted_during_the_wait_is_not_found() {
    let database = counts("1, 2").await;
    let mut holder = database.connection().await;
    holder
        .execute("BEGIN; DELETE FROM counts WHERE id = 2")
        .await
        .unwrap();
    let pool = database.pool.clone();
    let batch = spawn(async move { Existing::add_free_many(&pool, [(1, 1), (2, 1)]).await });
    blocked(&database, 1).await;
    holder.execute("COMMIT").await.unwrap();
    let error = batch.await.unwrap();
    assert!(matches!(error, Err(CounterError::NotFound(_))), "{error:?}");
    assert_eq!(free(&database).await, 0);
}

#[tokio::test]
async fn u_16_a_lost_snapshot_is_a_serialization_failure() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let database = counts("1").await;
        type Attempt = for<'a> fn(
            &'a mut Connection,
        ) -> std::pin::Pin<
            Box<dyn Future<Output = Result<(), CounterError>> + Send + 'a>,
        >;
        let attempts: [Attempt; 4] = [
            |tx| Box::pin(async { Count::add_free(tx, 1, 1).await.map(drop) }),
            |tx| Box::pin(async { Count::add_free(tx, 2, 1).await.map(drop) }),
            |tx| {
                Box::pin(async {
                    Count::add_bounded_many(tx, [(1, 1), (2, 1)])
                        .await
                        .map(drop)
                })
            },
            |tx| Box::pin(async { Existing::add_free_many(tx, [(1, 1)]).await.map(drop) }),
        ];
        for attempt in attempts {
            let mut tx = database.pool.begin().await.unwrap();
            let begin = format!("SET TRANSACTION ISOLATION LEVEL {level}; SELECT * FROM counts");
            sqlx::raw_sql(AssertSqlSafe(begin))
                .execute(&mut *tx)
                .await
                .unwrap();
            // The other adds to a row of our snapshot, and creates one that is not in it.
            Count::add_free_many(&database.pool, [(1, 10), (2, 10)])
                .await
                .unwrap();

            let lost = attempt(&mut tx).await;
            assert!(
                matches!(lost, Err(CounterError::Serialization(_))),
                "{level}: {lost:?}"
            );
            tx.rollback().await.unwrap();
            sqlx::raw_sql("DELETE FROM counts WHERE id = 2")
                .execute(&database.pool)
                .await
                .unwrap();
        }
        assert_eq!(count(&database, 1).await.free, 40, "the four winners");
        still_usable(&database, &database.pool).await;
    }
}

#[tokio::test]
async fn read_committed_adds_to_what_others_committed_meanwhile() {
    let database = counts("1").await;
    let mut tx = database.pool.begin().await.unwrap();
    Count::get(&mut *tx, 1).await.unwrap();
    Count::add_free(&database.pool, 1, 10).await.unwrap();
    assert_eq!(Count::add_free(&mut *tx, 1, 1).await.unwrap(), 11);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn the_server_s_timeouts_are_told_apart() {
    let database = counts("1").await;
    let mut holder = hold(&database, 1).await;
    for (setting, expected) in [
        ("statement_timeout", Fault::Canceled),
        ("lock_timeout", Fault::LockTimeout),
    ] {
        let options = database.options().options([(setting, "50ms")]);
        let pool = PoolOptions::new().connect_with(options).await.unwrap();
        assert_eq!(fault(Count::add_free(&pool, 1, 1).await), expected);
        let batch = Count::add_bounded_many(&pool, [(1, 1), (2, 1)]).await;
        assert_eq!(fault(batch), expected);
        still_usable(&database, &pool).await;
    }
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(unlocked(&database).await, [1], "row 2 was not created");
}

#[tokio::test]
async fn a_read_only_transaction_is_said() {
    let database = counts("1").await;
    let mut tx = database.pool.begin().await.unwrap();
    tx.execute("SET TRANSACTION READ ONLY").await.unwrap();
    assert_eq!(
        fault(Count::add_free(&mut *tx, 1, 1).await),
        Fault::ReadOnly
    );
    tx.rollback().await.unwrap();
    still_usable(&database, &database.pool).await;
}

/// The connection dies while the statement waits for the row. Alone, nobody knows what became of it; before a COMMIT,
/// it was rolled back.
#[tokio::test]
async fn c_18_a_killed_connection_is_unknown_only_where_it_is() {
    let database = counts("1, 2, 3").await;
    let mut holder = hold(&database, 2).await;
    for case in 0..4 {
        let pool = database.one_connection_pool().await;
        let of_task = pool.clone();
        let killed = spawn(async move {
            let pool = of_task;
            let deltas = [(1, 1), (2, 1), (3, 1)];
            match case {
                0 => Count::add_free(&pool, 2, 1).await.map(drop),
                1 => Count::add_free_many(&pool, deltas).await.map(drop),
                // In a transaction of its own, and in the caller's.
                2 => Count::add_bounded_many(&pool, deltas).await.map(drop),
                _ => {
                    let mut tx = pool.begin().await.unwrap();
                    Count::add_free(&mut *tx, 1, 1).await.unwrap();
                    Count::add_free(&mut *tx, 2, 1).await.map(drop)
                }
            }
        });
        kill(&database, blocked(&database, 1).await).await;
        let error = killed.await.unwrap();
        if case < 2 {
            assert!(matches!(error, Err(CounterError::Unknown(_))), "{error:?}");
        } else {
            assert_eq!(fault(error), Fault::ConnectionLost);
        }
        still_usable(&database, &pool).await;
    }
    holder.execute("ROLLBACK").await.unwrap();
    let sum: i64 = sqlx::query_scalar("SELECT CAST(sum(free + bounded) AS bigint) FROM counts")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(sum, 0);
}

/// All rows but the last are written when the connection dies.
#[tokio::test]
async fn a_batch_killed_at_its_last_row_wrote_nothing() {
    const KEYS: i64 = 40_000;
    let database = counts("39999").await;
    let mut holder = hold(&database, KEYS - 1).await;
    let pool = database.one_connection_pool().await;
    let of_task = pool.clone();
    let batch = spawn(async move {
        let deltas = (0..KEYS).map(|id| (id, 1));
        Count::add_bounded_many(&of_task, deltas).await
    });
    kill(&database, blocked(&database, 1).await).await;
    assert_eq!(fault(batch.await.unwrap()), Fault::ConnectionLost);
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(count(&database, KEYS - 1).await.bounded, 0);
    assert_eq!(unlocked(&database).await, [KEYS - 1]);
    still_usable(&database, &pool).await;
}

/// The aborted transaction refuses the batch, and stays what it is: nothing that follows in it is committed.
#[tokio::test]
async fn an_aborted_transaction_stays_aborted() {
    let database = counts("1").await;
    let mut tx = database.pool.begin().await.unwrap();
    Count::add_free(&mut *tx, 1, 1).await.unwrap();
    tx.execute("SELECT 1 / 0").await.unwrap_err();

    // The naive twin is what sqlx does with a nested transaction: it forgets the outer one.
    let mut naive = database.pool.begin().await.unwrap();
    naive.execute("SELECT 1 / 0").await.unwrap_err();
    assert!(naive.begin().await.is_err());
    Count::add_free(&mut *naive, 1, 100).await.unwrap();
    drop(naive);
    assert_eq!(count(&database, 1).await.free, 100, "committed by nobody");

    for _ in 0..2 {
        let batch = Count::add_bounded_many(&mut *tx, [(1, 1), (2, 1)]).await;
        assert_eq!(fault(batch), Fault::TransactionAborted);
        let add = Count::add_free(&mut *tx, 1, 1).await;
        assert_eq!(fault(add), Fault::TransactionAborted);
    }
    drop(tx);
    assert_eq!(count(&database, 1).await.free, 100);
    still_usable(&database, &database.pool).await;
}
