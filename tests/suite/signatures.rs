//! Functions that are there: one of each signature that services have, called as their callers call them. What their bodies do, what a
//! connection outside of a transaction is told, and services that begin transactions in tests that roll back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rowlock::idempotent::{Once, OnceError};
use rowlock::queue::{Claimed, FinishError, QueueState};
use rowlock::row::{LockCheckedError, LockError, Locked};
use rowlock::tx::{Begins, TransactionError};
use rowlock::{Counter, Fence, Idempotent, Lockable, Queue, Source, Tx, Versioned, transaction};
use rowlock_tests::cancel::polled;
use sqlx::Acquire;
use tokio::sync::Barrier;

use super::{BEGIN_WRITE, Connection, Database, Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable, Versioned, Counter)]
#[rowlock(table = "stock", existing_rows)]
pub(super) struct Sku {
    #[rowlock(key)]
    pub(super) id: i64,
    pub(super) units: i64,
    #[rowlock(counter)]
    pub(super) views: i64,
    #[rowlock(version)]
    pub(super) version: i64,
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

#[derive(Debug, sqlx::FromRow, Idempotent)]
#[rowlock(table = "orders")]
struct Order {
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    request: Vec<u8>,
    #[rowlock(outcome)]
    left: Option<i64>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Timestamp,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

pub(super) const DDL: &str = "CREATE TABLE stock (id bigint PRIMARY KEY, units bigint NOT NULL, views bigint NOT NULL, version bigint NOT NULL);
    INSERT INTO stock VALUES (1, 0, 0, 0), (2, 0, 0, 0);
    CREATE TABLE jobs (id {id}, run_at {timestamp} NOT NULL, state text NOT NULL, attempts int NOT NULL, fence bigint NOT NULL,
        leased_until {timestamp});
    CREATE TABLE orders (key text PRIMARY KEY, request {bytes} NOT NULL, \"left\" bigint, fence bigint NOT NULL,
        leased_until {timestamp} NOT NULL, finished_at {timestamp})";

pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) async fn shop(jobs: u32) -> Database {
    let database = database(DDL).await;
    for _ in 0..jobs {
        sqlx::query("INSERT INTO jobs (run_at, state, attempts, fence) VALUES ($1, 'ready', 0, 0)")
            .bind(chrono::DateTime::UNIX_EPOCH)
            .execute(&database.pool)
            .await
            .unwrap();
    }
    database
}

pub(super) async fn sku(database: &Database) -> (i64, i64) {
    let sku = Sku::load(&database.pool, 1).await.unwrap();
    (sku.units, sku.views)
}

async fn done(database: &Database) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = 'done'")
        .fetch_one(&database.pool)
        .await
        .unwrap()
}

/// What each signature can do: a load and a versioned update, an addition, and a claim that is completed.
macro_rules! one_by_one {
    ($db:expr) => {{
        let sku = Sku::load($db, 1).await?;
        Sku::update_with($db, sku.id, |sku| sku.units += 1).await?;
        Sku::add_views($db, sku.id, 1).await?;
        for job in Job::claim($db, 1).lease(MINUTE).await? {
            job.complete($db).await?;
        }
    }};
}

/// What needs a transaction: a lock and its save, an addition, and a claim that is completed with it.
macro_rules! under_a_lock {
    ($tx:expr) => {{
        let mut sku = Sku::lock($tx, 1).await?;
        sku.units += 1;
        sku.save($tx).await?;
        assert_eq!(Sku::lock_many($tx, [1, 2]).await?.len(), 2);
        Sku::add_views($tx, 1, 1).await?;
        for job in Job::claim($tx, 1).lease(MINUTE).await? {
            job.complete_in($tx).await?;
        }
    }};
}

type Answer = Result<(), rowlock::Error>;

async fn takes_a_pool(pool: &Pool) -> Answer {
    one_by_one!(pool);
    transaction(pool)
        .run(async |tx| -> Answer {
            under_a_lock!(&mut *tx);
            Ok(())
        })
        .await?;
    Ok(())
}

async fn takes_a_connection(connection: &mut Connection) -> Answer {
    one_by_one!(&mut *connection);
    under_a_lock!(&mut *connection);
    Ok(())
}

async fn takes_a_transaction(tx: &mut sqlx::Transaction<'_, Db>) -> Answer {
    one_by_one!(&mut *tx);
    under_a_lock!(&mut *tx);
    under_a_lock!(&mut **tx);
    Ok(())
}

async fn takes_acquire<'c>(db: impl Acquire<'c, Database = Db> + Send) -> Answer {
    let mut tx = db.begin().await?;
    one_by_one!(&mut *tx);
    under_a_lock!(&mut *tx);
    tx.commit().await?;
    Ok(())
}

async fn takes_a_tx(tx: &mut Tx<Db>) -> Answer {
    one_by_one!(&mut *tx);
    under_a_lock!(&mut *tx);
    Ok(())
}

async fn takes_a_source<'c>(db: impl Source<'c, Db>) -> Answer {
    Sku::update_with(db, 1, |sku| sku.units += 1).await?;
    Ok(())
}

async fn takes_what_begins(db: impl Begins<Database = Db>) -> Answer {
    transaction(db)
        .run(async |tx| -> Answer {
            one_by_one!(&mut *tx);
            under_a_lock!(&mut *tx);
            Ok(())
        })
        .await?;
    Ok(())
}

/// One statement of its own: no method of rowlock runs on this bound.
async fn takes_an_executor<'c>(db: impl sqlx::Executor<'c, Database = Db>) -> Answer {
    let add = "UPDATE stock SET views = views + 1 WHERE id = 1";
    sqlx::query(add).execute(db).await?;
    Ok(())
}

/// The same function with another bound, so that its callers stay as they are.
async fn took_an_executor<'c>(db: impl Source<'c, Db>) -> Answer {
    Sku::add_views(db, 1, 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_function_of_every_signature_does_its_work() {
    let database = shop(40).await;
    let pool = &database.pool;
    takes_a_pool(pool).await.unwrap();
    takes_acquire(pool).await.unwrap();
    takes_a_source(pool).await.unwrap();
    // What was coerced to a pool when it had to be one.
    let shared = Arc::new(pool.clone());
    takes_what_begins(pool).await.unwrap();
    takes_what_begins(&shared).await.unwrap();
    takes_an_executor(pool).await.unwrap();
    took_an_executor(pool).await.unwrap();
    // units, views and jobs: 2 of the pool, 2 of Acquire, 1 of the source, 2 of what begins, twice, and a view of each executor.
    assert_eq!(sku(&database).await, (9, 10));
    assert_eq!(done(&database).await, 8);

    let mut connection = pool.acquire().await.unwrap();
    takes_acquire(&mut *connection).await.unwrap();
    takes_a_source(&mut *connection).await.unwrap();
    took_an_executor(&mut *connection).await.unwrap();
    drop(connection);
    assert_eq!(sku(&database).await, (12, 13));

    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    takes_a_connection(&mut tx).await.unwrap();
    takes_a_transaction(&mut tx).await.unwrap();
    takes_acquire(&mut *tx).await.unwrap();
    takes_a_source(&mut *tx).await.unwrap();
    takes_an_executor(&mut *tx).await.unwrap();
    took_an_executor(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(sku(&database).await, (20, 22));
    assert_eq!(done(&database).await, 17);

    let run = transaction(pool).run(async |tx| -> Answer {
        takes_a_connection(tx).await?;
        takes_a_transaction(tx.as_sqlx()).await?;
        takes_acquire(&mut **tx).await?;
        takes_a_tx(tx).await?;
        takes_a_source(&mut *tx).await?;
        takes_what_begins(&mut *tx).await?;
        takes_an_executor(&mut *tx).await?;
        took_an_executor(tx).await?;
        Ok(())
    });
    run.await.unwrap();
    assert_eq!(sku(&database).await, (32, 35));
    assert_eq!(done(&database).await, 28);
    // That of COMMIT AND CHAIN ends with the ping of the pool.
    while database.open_transactions().await > 0 {
        tokio::task::yield_now().await;
    }
}

fn refused(error: &LockError) {
    assert!(matches!(error, LockError::NotInTransaction(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("begin one"), "{text}");
}

#[tokio::test]
async fn each_method_says_that_a_connection_is_not_in_a_transaction() {
    let database = shop(1).await;
    let copy = Sku::load(&database.pool, 1).await.unwrap();
    let mut connection = database.connection().await;
    let job = Job::claim(&mut connection, 1).await.unwrap().remove(0);
    let mut locked = {
        let mut tx = connection.begin().await.unwrap();
        let locked = Sku::lock(&mut *tx, 1).await.unwrap();
        tx.rollback().await.unwrap();
        locked
    };
    locked.units = 7;
    refused(&Sku::lock(&mut connection, 1).await.unwrap_err());
    refused(&Sku::lock(&mut connection, 1).nowait().await.unwrap_err());
    refused(&Sku::lock_many(&mut connection, [1, 2]).await.unwrap_err());
    refused(&Sku::lock_many(&mut connection, []).await.unwrap_err());
    refused(&locked.save(&mut connection).await.unwrap_err());
    match copy.lock_checked(&mut connection).await {
        Err(LockCheckedError::Lock(error)) => refused(&error),
        other => panic!("{other:?}"),
    }
    let error = job.complete_in(&mut connection).await.unwrap_err();
    assert!(
        matches!(error, FinishError::NotInTransaction(_)),
        "{error:?}"
    );
    assert_eq!(
        (sku(&database).await, done(&database).await),
        ((0, 0), 0),
        "written all the same"
    );
    // And nothing was left open.
    Sku::add_views(&mut connection, 1, 1).await.unwrap();
    assert_eq!(sku(&database).await, (0, 1));
    assert_eq!(database.open_transactions().await, 0);
}

/// sqlx counts none, so the database is asked.
#[tokio::test]
async fn a_transaction_that_was_begun_by_hand_is_one() {
    let database = shop(1).await;
    let mut connection = database.connection().await;
    for end in ["COMMIT", "ROLLBACK"] {
        let job = Job::claim(&mut connection, 1).await.unwrap();
        sqlx::raw_sql(BEGIN_WRITE)
            .execute(&mut connection)
            .await
            .unwrap();
        let mut sku = Sku::lock(&mut connection, 1).await.unwrap();
        sku.units += 1;
        sku.save(&mut connection).await.unwrap();
        for job in &job {
            job.complete_in(&mut connection).await.unwrap();
        }
        sqlx::raw_sql(end).execute(&mut connection).await.unwrap();
        refused(&Sku::lock(&mut connection, 1).await.unwrap_err());
    }
    assert_eq!((sku(&database).await, done(&database).await), ((1, 0), 1));
}

/// Dropped at each of its polls, the question whether there is one leaves none open.
#[tokio::test]
async fn a_dropped_question_opens_no_transaction() {
    let database = shop(0).await;
    let pool = database.one_connection_pool().await;
    for polls in 1..40 {
        let mut connection = pool.acquire().await.unwrap();
        let lock = Box::pin(async { Sku::lock(&mut *connection, 1).await });
        if let Some(answered) = polled(polls, lock).await {
            refused(&answered.unwrap_err());
        }
        // On the same connection, in the next moment.
        Sku::add_views(&mut *connection, 1, 1).await.unwrap();
        drop(connection);
        assert_eq!(sku(&database).await, (0, polls as i64));
    }
    pool.close().await;
    assert_eq!(database.open_transactions().await, 0);
}

/// A function that takes a connection, and decrements what it reads.
async fn take(connection: &mut Connection, read: &Barrier) -> Result<(), LockError> {
    let mut sku: Locked<Sku> = Sku::lock(&mut *connection, 1).await?;
    // Nobody else can get here, so nobody is waited for.
    let _ = tokio::time::timeout(Duration::ZERO, read.wait()).await;
    sku.units -= 1;
    sku.save(connection).await
}

/// The same by hand.
async fn take_by_hand(connection: &mut Connection, read: &Barrier) {
    let lock = if NAME == "SQLite" { "" } else { " FOR UPDATE" };
    let sql = sqlx::AssertSqlSafe(format!("SELECT units FROM stock WHERE id = 1{lock}"));
    let units: i64 = sqlx::query_scalar(sql)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    read.wait().await;
    sqlx::query("UPDATE stock SET units = $1 WHERE id = 1")
        .bind(units - 1)
        .execute(connection)
        .await
        .unwrap();
}

/// A lock that is taken in autocommit is gone when the statement is: two readers, one decrement.
#[tokio::test]
async fn naive_twin_a_lock_outside_of_a_transaction_protects_nothing() {
    let database = shop(0).await;
    let read = Arc::new(Barrier::new(2));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (mut connection, read) = (database.connection().await, read.clone());
        tasks.spawn(async move { take_by_hand(&mut connection, &read).await });
    }
    tasks.join_all().await;
    assert_eq!(sku(&database).await.0, -1);
}

#[tokio::test]
async fn a_lock_on_a_connection_protects_in_a_transaction_and_is_refused_outside() {
    let database = shop(0).await;
    let read = Arc::new(Barrier::new(2));
    let mut tasks = tokio::task::JoinSet::new();
    for in_transaction in [true, true, false] {
        let (pool, read) = (database.pool.clone(), read.clone());
        tasks.spawn(async move {
            let mut connection = pool.acquire().await.unwrap();
            if !in_transaction {
                return refused(&take(&mut connection, &read).await.unwrap_err());
            }
            let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
            take(&mut tx, &read).await.unwrap();
            tx.commit().await.unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(sku(&database).await.0, -2);
}

/// Of a transaction of rowlock, the connection proves no more than one of sqlx would: the lock is saved on what it was taken on.
#[tokio::test]
async fn a_lock_on_the_connection_of_a_tx_is_saved_on_the_connection() {
    let database = shop(0).await;
    let run = transaction(&database.pool).run(async |tx| {
        let mut on_connection = Sku::lock(&mut **tx, 1).await?;
        on_connection.units += 1;
        let error = on_connection.save(&mut *tx).await.unwrap_err();
        assert!(matches!(error, LockError::OtherTransaction(_)), "{error:?}");
        on_connection.save(tx.as_sqlx()).await?;
        on_connection.save(&mut **tx).await?;
        let mut on_tx = Sku::lock(&mut *tx, 1).await?;
        let error = on_tx.save(&mut **tx).await.unwrap_err();
        assert!(matches!(error, LockError::OtherTransaction(_)), "{error:?}");
        on_tx.units += 1;
        on_tx.save(tx).await
    });
    run.await.unwrap();
    assert_eq!(sku(&database).await.0, 2);
}

/// `Tx::from`, and how it ends.
#[tokio::test]
async fn a_transaction_of_sqlx_becomes_a_tx() {
    let database = shop(0).await;
    let hooks = Arc::new(AtomicU32::new(0));
    for end in ["commit", "rollback", "drop"] {
        let mut tx = Tx::from(database.pool.begin().await.unwrap());
        let ran = hooks.clone();
        tx.on_commit(async move || {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        takes_a_tx(&mut tx).await.unwrap();
        match end {
            "commit" => tx.commit().await.unwrap(),
            "rollback" => tx.rollback().await.unwrap(),
            _ => drop(tx),
        }
    }
    assert_eq!(sku(&database).await, (2, 2));
    assert_eq!(hooks.load(Ordering::Relaxed), 1);
    let mut connections = Vec::new();
    for _ in 0..16 {
        connections.push(database.pool.acquire().await.unwrap());
    }
    drop(connections);
    assert_eq!(database.open_transactions().await, 0);
}

/// Dropped at each of its polls, `commit` and `rollback` leave nothing open.
#[tokio::test]
async fn a_dropped_end_of_a_tx_leaves_nothing_open() {
    let database = shop(0).await;
    let pool = database.one_connection_pool().await;
    for polls in 0..12 {
        for commits in [true, false] {
            let mut tx = Tx::from(pool.begin().await.unwrap());
            Sku::add_views(&mut tx, 1, 1).await.unwrap();
            match commits {
                true => drop(polled(polls, Box::pin(tx.commit())).await),
                false => drop(polled(polls, Box::pin(tx.rollback())).await),
            }
            let before = Sku::load(&pool, 1).await.unwrap().views;
            Sku::add_views(&pool, 1, 1).await.unwrap();
            assert_eq!(sku(&database).await.1, before + 1, "{polls} {commits}");
        }
    }
    pool.close().await;
    assert_eq!(database.open_transactions().await, 0);
}

/// What ended the transaction before it became a `Tx`, or by hand after it, is not said to be committed.
#[tokio::test]
async fn the_commit_of_a_tx_that_was_ended_by_hand_is_no_success() {
    let database = shop(0).await;
    for before in [true, false] {
        let mut transaction = database.pool.begin().await.unwrap();
        let rollback = sqlx::raw_sql("ROLLBACK");
        let mut tx = if before {
            rollback.execute(&mut *transaction).await.unwrap();
            Tx::from(transaction)
        } else {
            let mut tx = Tx::from(transaction);
            rollback.execute(&mut *tx).await.unwrap();
            tx
        };
        Sku::add_views(&mut tx, 1, 1).await.unwrap_err();
        let ended = tx.commit().await;
        assert!(
            matches!(ended, Err(TransactionError::Aborted(_))),
            "{before} {ended:?}"
        );
    }
    assert_eq!(sku(&database).await, (0, 0));
}

/// A service that begins a transaction, and one with an idempotency key.
pub(super) async fn order(
    db: impl Begins<Database = Db>,
    key: &str,
) -> Result<Once<i64>, OnceError<rowlock::Error>> {
    Order::once(db, key, &("order", 1), async |tx| {
        let mut sku = Sku::lock(&mut *tx, 1).await?;
        sku.units -= 1;
        sku.save(&mut *tx).await?;
        Ok(sku.units)
    })
    .await
}

#[tokio::test]
async fn a_test_that_rolls_back_can_use_services_that_begin_transactions() {
    let database = shop(4).await;
    let mut tx = Tx::from(database.pool.begin_with(BEGIN_WRITE).await.unwrap());
    takes_what_begins(&mut tx).await.unwrap();
    assert_eq!(order(&mut tx, "a").await.unwrap(), Once::Ran(1));
    assert_eq!(order(&mut tx, "a").await.unwrap(), Once::Replayed(1));
    assert_eq!(order(&mut tx, "b").await.unwrap(), Once::Ran(0));
    let error = Order::once(&mut tx, "a", &("order", 2), async |_| {
        Ok::<_, rowlock::Error>(0)
    });
    let error = error.await.unwrap_err();
    assert!(matches!(error, OnceError::Mismatch(_)), "{error:?}");
    tx.rollback().await.unwrap();
    assert_eq!((sku(&database).await, done(&database).await), ((0, 0), 0));

    // Nothing of it is left, and on the pool the same functions commit.
    assert_eq!(order(&database.pool, "a").await.unwrap(), Once::Ran(-1));
    takes_what_begins(&database.pool).await.unwrap();
    assert_eq!(
        order(&database.pool, "a").await.unwrap(),
        Once::Replayed(-1)
    );
    assert_eq!(sku(&database).await, (1, 2));
}

#[tokio::test]
async fn the_record_of_once_in_a_tx_and_its_effect_are_committed_or_undone_together() {
    let database = shop(0).await;
    // The closure fails: neither, and the transaction goes on.
    let run = transaction(&database.pool).run(async |tx| -> Answer {
        Sku::add_views(&mut *tx, 1, 1).await?;
        let failed = Order::once(&mut *tx, "a", &(), async |tx| {
            Sku::add_views(tx, 1, 10).await?;
            Err::<i64, _>(rowlock::Error::from(sqlx::Error::RowNotFound))
        });
        let failed = failed.await.unwrap_err();
        assert!(
            matches!(failed, OnceError::Transaction(TransactionError::Failed(_))),
            "{failed:?}"
        );
        assert_eq!(order(&mut *tx, "a").await.unwrap(), Once::Ran(-1));
        Ok(())
    });
    run.await.unwrap();
    assert_eq!(sku(&database).await, (-1, 1));
    assert_eq!(
        order(&database.pool, "a").await.unwrap(),
        Once::Replayed(-1)
    );
}

/// What was run in it alone is undone, and its hooks with it; those of what is kept wait for the outer COMMIT.
#[tokio::test]
async fn a_transaction_inside_of_a_tx_is_a_part_of_it() {
    let database = shop(0).await;
    let hooks = Arc::new(AtomicU32::new(0));
    let add = |tx: &mut Tx<Db>, n| {
        let hooks = hooks.clone();
        tx.on_commit(async move || {
            hooks.fetch_add(n, Ordering::Relaxed);
        });
    };
    let mut tx = Tx::from(database.pool.begin_with(BEGIN_WRITE).await.unwrap());
    let kept = transaction(&mut tx).run(async |tx| {
        add(tx, 1);
        Sku::add_views(&mut *tx, 1, 1).await?;
        let undone = transaction(&mut *tx)
            .run(async |tx| {
                add(tx, 10);
                Sku::add_views(tx, 1, 10).await?;
                Err::<(), _>(rowlock::Error::from(sqlx::Error::RowNotFound))
            })
            .await;
        assert!(
            matches!(undone, Err(TransactionError::Failed(_))),
            "{undone:?}"
        );
        transaction(&mut *tx)
            .run(async |tx| Sku::add_views(tx, 1, 100).await)
            .await
            .map_err(|error| rowlock::Error::from(sqlx::Error::AnyDriverError(error.into())))
    });
    assert_eq!(kept.await.unwrap(), 101);
    assert_eq!(hooks.load(Ordering::Relaxed), 0);
    tx.commit().await.unwrap();
    assert_eq!(hooks.load(Ordering::Relaxed), 1);
    assert_eq!(sku(&database).await.1, 101);
}

#[tokio::test]
async fn a_transaction_inside_of_a_tx_honours_what_it_was_asked_for() {
    let database = shop(0).await;
    let mut tx = Tx::from(database.pool.begin_with(BEGIN_WRITE).await.unwrap());
    let body = async |tx: &mut Tx<Db>| Sku::add_views(tx, 1, 1).await;
    let not_run = transaction(&mut tx).attempts(0).run(body).await;
    assert!(
        matches!(not_run, Err(TransactionError::NotRun)),
        "{not_run:?}"
    );
    let late = transaction(&mut tx)
        .deadline(Duration::ZERO)
        .run(body)
        .await;
    let is_late = |late| {
        matches!(
            late,
            Err(TransactionError::DeadlineExceeded { attempts: 1 })
        )
    };
    assert!(is_late(late));
    // It passes in the closure: what it did is undone, and the outer one goes on.
    let soon = Duration::from_millis(200);
    let slow = transaction(&mut tx).deadline(soon).run(async |tx| {
        Sku::add_views(&mut *tx, 1, 10).await?;
        std::future::pending().await
    });
    assert!(is_late(slow.await));
    let in_time = transaction(&mut tx)
        .attempts(1)
        .deadline(MINUTE)
        .read_committed()
        .run(body);
    assert_eq!(in_time.await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(sku(&database).await.1, 1);
}

/// Dropped at each of its polls: all of it or nothing, and the outer one goes on.
#[tokio::test]
async fn a_dropped_transaction_inside_of_a_tx_is_undone() {
    let database = shop(0).await;
    let mut expected = 0;
    for polls in 0..30 {
        let mut tx = Tx::from(database.pool.begin_with(BEGIN_WRITE).await.unwrap());
        Sku::add_views(&mut tx, 1, 1).await.unwrap();
        let inside = transaction(&mut tx).deadline(MINUTE).run(async |tx| {
            Sku::add_views(&mut *tx, 1, 100).await?;
            Sku::add_views(tx, 1, 100).await
        });
        let ended = polled(polls, Box::pin(inside)).await;
        expected += if ended.is_some() { 201 } else { 1 };
        Sku::add_views(&mut tx, 1, 1).await.unwrap();
        tx.commit().await.unwrap();
        expected += 1;
        assert_eq!(sku(&database).await.1, expected, "{polls}");
    }
}

#[tokio::test]
async fn services_that_begin_can_be_spawned() {
    let database = shop(8).await;
    let pool = database.pool.clone();
    let spawned = tokio::spawn(async move {
        let mut tx = Tx::from(pool.begin_with(BEGIN_WRITE).await.unwrap());
        let inside = transaction(&mut tx).run(async |tx| {
            under_a_lock!(&mut **tx);
            let once = Order::once(&mut *tx, "a", &(), async |tx| {
                Sku::add_views(tx, 1, 1).await
            });
            Ok::<_, rowlock::Error>(once.wait(MINUTE).await.unwrap())
        });
        assert_eq!(inside.await.unwrap(), Once::Ran(2));
        tx.commit().await.unwrap();
        let mut tx = Tx::from(pool.begin().await.unwrap());
        let mut jobs: Vec<Claimed<Job>> = Job::claim(&mut tx, 1).await.unwrap();
        jobs.remove(0).complete_in(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        transaction(&pool)
            .run(async |tx| takes_a_connection(tx).await)
            .await
    });
    spawned.await.unwrap().unwrap();
    assert_eq!(sku(&database).await, (3, 4));
}
