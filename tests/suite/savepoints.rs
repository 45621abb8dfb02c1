//! Savepoints of a `Tx` whose futures are dropped, at every point.

use std::time::{Duration, Instant};

use rowlock::row::CounterError;
use rowlock::{Counter, Tx, transaction};
use rowlock_tests::cancel::polled;
use sqlx::Acquire;

use super::{Database, Db, NAME, Pool, database};

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "views")]
#[allow(dead_code)]
struct Views {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    n: i64,
}

pub(super) const DDL: &str = "CREATE TABLE views (id bigint PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO views VALUES (1, 0), (2, 0), (3, 0)";

async fn all(database: &Database) -> Vec<i64> {
    sqlx::query_scalar("SELECT n FROM views ORDER BY id")
        .fetch_all(&database.pool)
        .await
        .unwrap()
}

/// How the part ends that is dropped.
#[derive(Debug, Clone, Copy)]
enum Part {
    Ok,
    Err,
    Commit,
    Rollback,
    Dropped,
    Nested,
}

const PARTS: [Part; 6] = [
    Part::Ok,
    Part::Err,
    Part::Commit,
    Part::Rollback,
    Part::Dropped,
    Part::Nested,
];

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("on purpose")]
    OnPurpose,
    #[error(transparent)]
    Counter(#[from] CounterError),
    #[error(transparent)]
    Sqlx(#[from] sqlx::Error),
}

/// Each part, cut at each of its polls, with each pause.
const STEPS: usize = PARTS.len() * 12 * 20;

/// Adds 1 to row 1.
async fn part(tx: &mut Tx<Db>, part: Part) -> Result<(), Failure> {
    match part {
        Part::Ok => {
            let add = async |sp: &mut Tx<Db>| {
                Views::add_n(sp, 1, 1).await?;
                Ok(())
            };
            tx.savepoint(add).await
        }
        Part::Err => {
            let add = async |sp: &mut Tx<Db>| {
                Views::add_n(sp, 1, 1).await?;
                Err(Failure::OnPurpose)
            };
            tx.savepoint(add).await
        }
        Part::Commit => {
            let mut sp = tx.begin().await?;
            Views::add_n(&mut *sp, 1, 1).await?;
            Ok(sp.commit().await?)
        }
        Part::Rollback => {
            let mut sp = tx.begin().await?;
            Views::add_n(&mut *sp, 1, 1).await?;
            Ok(sp.rollback().await?)
        }
        Part::Dropped => {
            let mut sp = tx.begin().await?;
            Views::add_n(&mut *sp, 1, 1).await?;
            Ok(())
        }
        Part::Nested => {
            let mut outer = tx.begin().await?;
            let mut inner = outer.begin().await?;
            Views::add_n(&mut *inner, 1, 1).await?;
            inner.commit().await?;
            Ok(outer.commit().await?)
        }
    }
}

/// Drops the future after so many polls, and a moment later: SQLite works in a thread of its own, and how far it has come by then differs
/// by microseconds.
async fn cut<F: Future>(polls: usize, micros: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let ended = polled(polls, future.as_mut()).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_micros(micros as u64) {
        std::hint::spin_loop();
    }
    drop(future);
    ended
}

/// A run that is dropped leaves no transaction open, in which what is written next on the connection would be lost.
#[tokio::test]
async fn a_dropped_run_loses_no_later_write() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    let mut acknowledged = 0;
    for step in 0..STEPS {
        let how = PARTS[step % PARTS.len()];
        let run = transaction(&pool).run(async |tx| part(tx, how).await);
        cut(1 + step / 6 % 12, step / 72 % 20 * 2, run).await;
        Views::add_n(&pool, 2, 1).await.unwrap();
        acknowledged += 1;
    }
    pool.close().await;
    assert_eq!(all(&database).await[1], acknowledged);
}

/// The same with savepoints of sqlx's, and a COMMIT or ROLLBACK of them under way, of which sqlx counts in another thread on SQLite.
#[tokio::test]
async fn a_dropped_run_with_savepoints_of_sqlx_loses_no_later_write() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    for step in 0..400 {
        let run = transaction(&pool).run(async |tx| {
            Views::add_n(&mut *tx, 1, 1).await?;
            for _ in 0..10 {
                let savepoint = tx.as_sqlx().begin().await?;
                match step % 3 {
                    0 => savepoint.commit().await?,
                    1 => savepoint.rollback().await?,
                    _ => drop(savepoint),
                }
            }
            Err::<(), _>(Failure::OnPurpose)
        });
        cut(1 + step / 3 % 40, step % 7, run).await;
        Views::add_n(&pool, 2, 1).await.unwrap();
        let run = transaction(&pool).run(async |tx| Views::add_n(tx, 3, 1).await);
        run.await.unwrap();
        let acknowledged = 1 + step as i64;
        assert_eq!(all(&database).await, [0, acknowledged, acknowledged]);
    }
}

/// Dropping the future of a savepoint undoes what was written in it and leaves the transaction as it was.
#[tokio::test]
async fn a_dropped_savepoint_leaves_the_transaction_as_it_was() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    leave_it_as_it_was(&database, &pool).await;
}

pub(super) async fn leave_it_as_it_was(database: &Database, pool: &Pool) {
    let mut expected = [0, 0, 0];
    for how in PARTS {
        for step in 0..STEPS / PARTS.len() {
            let run = transaction(pool).run(async |tx| {
                // What was kept before is released with the next one.
                let add = async |sp: &mut Tx<Db>| Ok::<_, Failure>(Views::add_n(sp, 2, 1).await?);
                match step % 3 {
                    0 => add(&mut *tx).await?,
                    _ => tx.savepoint(add).await?,
                };
                let ended = cut(1 + step % 12, step / 12 % 20 * 2, part(tx, how)).await;
                let kept = matches!(
                    (&ended, how),
                    (Some(Ok(())), Part::Ok | Part::Commit | Part::Nested)
                );
                let add = async |sp: &mut Tx<Db>| Ok::<_, Failure>(Views::add_n(sp, 3, 1).await?);
                match step % 2 {
                    0 => add(&mut *tx).await?,
                    _ => tx.savepoint(add).await?,
                };
                Ok::<_, Failure>(kept)
            });
            let kept = run
                .await
                .unwrap_or_else(|error| panic!("{how:?}, {step}: {error:?}"));
            expected = [
                expected[0] + i64::from(kept),
                expected[1] + 1,
                expected[2] + 1,
            ];
            assert_eq!(all(database).await, expected, "{how:?}, {step}");
        }
    }
}

/// `RAISE(ROLLBACK)` in a batch ends the transaction that the batch began; the connection can begin another one.
#[tokio::test]
async fn a_batch_whose_transaction_was_ended_leaves_the_connection_well() {
    if NAME != "SQLite" {
        return;
    }
    let database = database(&format!(
        "{DDL}; CREATE TRIGGER ends BEFORE UPDATE ON views WHEN new.id = 2 BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    ))
    .await;
    let pool = database.one_connection_pool().await;
    for _ in 0..3 {
        Views::add_n_many(&pool, [(1, 1), (2, 1)])
            .await
            .unwrap_err();
        let run = transaction(&pool).run(async |tx| Views::add_n(tx, 3, 1).await);
        run.await.unwrap();
    }
    assert_eq!(all(&database).await, [0, 0, 3]);
}

/// A connection that is lost in a savepoint is lost before COMMIT, also for a closure that makes nothing of it: run again, and nothing
/// unknown.
#[tokio::test]
async fn a_connection_that_a_savepoint_lost_is_no_unknown_commit() {
    if NAME != "PostgreSQL" {
        return;
    }
    let database = database(DDL).await;
    let runs = std::sync::atomic::AtomicU32::new(0);
    let run = transaction(&database.pool).run(async |tx| {
        let first = runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        Views::add_n(&mut *tx, 2, 1).await?;
        let mut sp = tx.begin().await?;
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut **sp)
            .await?;
        if first {
            sqlx::query("SELECT pg_terminate_backend($1, 10000)")
                .bind(pid)
                .execute(&database.pool)
                .await?;
            assert!(sp.rollback().await.is_err());
        }
        Ok::<_, Failure>(())
    });
    run.await.unwrap();
    assert_eq!(runs.into_inner(), 2);
    assert_eq!(all(&database).await, [0, 1, 0]);
}
