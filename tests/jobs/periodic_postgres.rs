//! `Periodic` where others hold the row, connections break, and sessions are stricter than READ COMMITTED.

use std::sync::atomic::{AtomicUsize, Ordering};

use rowlock::Fault;
use rowlock::queue::{Schedule, TickError};
use rowlock::tx::TransactionError;
use rowlock_tests::gate::Gate;
use rowlock_tests::proxy::Proxy;
use tokio::sync::{Barrier, Notify};

use super::periodic::{due, enqueue, is_of_the_table, job, made, next, run, set, tables, tick};
use super::{PoolOptions, address};

/// Who comes second waits for nobody, holds no connection, and nothing failed.
#[tokio::test]
async fn another_process_is_making_the_tick() {
    let (database, first) = due(0).await;
    let pool = &database.pool;
    let (begun, go_on) = (Notify::new(), Notify::new());
    let mut maker = job(pool);
    let making = maker.tick(async |tx, tick| {
        begun.notify_one();
        go_on.notified().await;
        enqueue(tx, tick).await
    });
    let second = async {
        begun.notified().await;
        let ticked = tick(&mut job(pool)).await;
        assert_eq!((ticked.made, ticked.next), (0, None));
        assert_eq!(next(pool).await, first.timestamp());
        go_on.notify_one();
    };
    let (ticked, ()) = tokio::join!(making, second);
    assert_eq!(ticked.unwrap().made, 1);
    assert_eq!(made(pool).await.len(), 1);
}

#[tokio::test]
async fn sessions_that_are_stricter() {
    for level in ["repeatable read", "serializable"] {
        let (database, _) = due(0).await;
        let pool = database
            .options()
            .options([("default_transaction_isolation", level)]);
        let pool = PoolOptions::new()
            .max_connections(9)
            .connect_with(pool)
            .await
            .unwrap();
        let barrier = Barrier::new(8);
        let process = async || {
            let mut job = job(&pool);
            barrier.wait().await;
            tick(&mut job).await.made
        };
        let ticked = futures_util::future::join_all((0..8).map(|_| process())).await;
        assert_eq!(ticked.iter().sum::<u64>(), 1, "{level}");
        assert_eq!(made(&pool).await.len(), 1, "{level}");
    }
}

/// What became of the tick is not known, and the next look tells.
#[tokio::test]
async fn a_commit_whose_answer_is_lost() {
    for committed in [true, false] {
        let (database, _) = due(0).await;
        let pool = &database.pool;
        let proxy = Proxy::start(&address()).await;
        let through = database
            .pool_through(&proxy, PoolOptions::new().max_connections(1))
            .await;
        let mut gate = Gate::before_commit(&database, "INSERT", "jobs").await;
        gate.close().await;
        let mut periodic = job(&through);
        let ticking = periodic.tick(async |tx, tick| enqueue(tx, tick).await);
        let (ticked, ()) = tokio::join!(ticking, gate.lose_commit(&proxy, committed));
        let Err(TickError::Transaction(TransactionError::CommitUnknown(error))) = ticked else {
            panic!("{ticked:?}");
        };
        assert_eq!(error.fault(), Fault::ConnectionLost);
        assert_eq!(made(pool).await.len(), usize::from(committed));
        assert_eq!(tick(&mut job(pool)).await.made, u64::from(!committed));
        assert_eq!(made(pool).await.len(), 1);
    }
}

/// The session ends in the middle of a tick, which is made in another one.
#[tokio::test]
async fn a_connection_that_is_killed() {
    let (database, _) = due(0).await;
    let pool = &database.pool;
    let attempts = AtomicUsize::new(0);
    let ticked = job(pool)
        .tick(async |tx, tick| {
            enqueue(tx, tick).await?;
            if attempts.fetch_add(1, Ordering::SeqCst) == 0 {
                let kill = "SELECT pg_terminate_backend(pg_backend_pid())";
                sqlx::query(kill).execute(&mut *tx).await?;
            }
            Ok::<_, sqlx::Error>(())
        })
        .await;
    assert_eq!(ticked.unwrap().made, 1);
    assert_eq!(attempts.into_inner(), 2);
    assert_eq!(made(pool).await.len(), 1);
}

/// A statement failed, and the closure says that all is well.
#[tokio::test]
async fn an_error_that_is_passed_over() {
    let (database, first) = due(0).await;
    let pool = &database.pool;
    let ticked = job(pool)
        .tick(async |tx, tick| {
            enqueue(tx, tick).await?;
            let _ = sqlx::query("SELECT 1 / 0").execute(&mut *tx).await;
            Ok::<_, sqlx::Error>(())
        })
        .await;
    assert!(
        matches!(
            ticked,
            Err(TickError::Transaction(TransactionError::Aborted(_)))
        ),
        "{ticked:?}"
    );
    assert!(made(pool).await.is_empty());
    assert_eq!(next(pool).await, first.timestamp());
}

/// A time without a zone means another one in each session.
#[tokio::test]
async fn a_tick_without_a_time_zone() {
    let database = tables().await;
    let pool = &database.pool;
    let other = "ALTER TABLE rowlock_schedules ALTER next_tick TYPE timestamp";
    run(pool, other).await;
    let ran = job(pool)
        .run(async |tx, tick| enqueue(tx, tick).await)
        .await;
    is_of_the_table(other, &ran.unwrap_err());
    run(pool, "DROP TABLE rowlock_schedules").await;
    run(pool, Schedule::ddl::<super::Db>()).await;
    // Nor do the settings of a session change anything.
    let options = database
        .options()
        .options([("timezone", "Asia/Kathmandu"), ("datestyle", "SQL, DMY")]);
    let far = PoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap();
    let first = tick(&mut job(&far)).await.next;
    assert_eq!(tick(&mut job(pool)).await.next, first);
    set(&far, super::periodic::hours_ago(0)).await;
    assert_eq!(tick(&mut job(&far)).await.made, 1);
    assert_eq!(tick(&mut job(pool)).await.made, 0);
}
