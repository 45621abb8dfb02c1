//! `#[derive(Lockable)]`: section L of `docs/behaviours.md`, on every database.

use rowlock::row::{LockCheckedError, LockError};
use rowlock::tx::TransactionError;
use rowlock::{Lockable, Versioned, transaction};
use rowlock_tests::cancel::polled;
use sqlx::Executor;

use super::{Database, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable, Versioned)]
#[rowlock(table = "stock")]
struct Sku {
    #[rowlock(key)]
    id: i64,
    name: String,
    left: i64,
    #[rowlock(version)]
    version: i64,
}

const STOCK: &str = r#"CREATE TABLE stock (id bigint PRIMARY KEY, name text NOT NULL, "left" bigint NOT NULL,
    version bigint NOT NULL);
    INSERT INTO stock VALUES (1, 'one', 10, 0), (2, 'two', 20, 0), (3, 'three', 30, 0)"#;

async fn stock() -> Database {
    database(STOCK).await
}

/// L-05, the reason for all of this: read, wait, write without a lock loses one of two decrements.
#[tokio::test]
async fn l_05_naive_twin_loses_a_decrement() {
    let database = stock().await;
    let both_read = std::sync::Arc::new(tokio::sync::Barrier::new(2));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (pool, both_read) = (database.pool.clone(), both_read.clone());
        tasks.spawn(async move {
            let left: i64 = sqlx::query_scalar(r#"SELECT "left" FROM stock WHERE id = 1"#)
                .fetch_one(&pool)
                .await
                .unwrap();
            both_read.wait().await;
            sqlx::query(r#"UPDATE stock SET "left" = $1 WHERE id = 1"#)
                .bind(left - 1)
                .execute(&pool)
                .await
                .unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(Sku::load(&database.pool, 1).await.unwrap().left, 9);
}

#[tokio::test]
async fn l_02_l_05_the_second_locker_waits_and_sees_what_the_first_wrote() {
    let database = stock().await;
    let mut first = database.pool.begin_with(super::BEGIN_WRITE).await.unwrap();
    let mut sku = Sku::lock(&mut first, 1).await.unwrap();

    let pool = database.pool.clone();
    let second = tokio::spawn(async move {
        transaction(&pool)
            .run(async |tx| {
                let mut sku = Sku::lock(&mut *tx, 1).await?;
                sku.left -= 1;
                sku.save(&mut *tx).await?;
                Ok::<_, LockError>(sku.into_inner())
            })
            .await
    });
    database.until_blocked().await;
    sku.left -= 1;
    sku.save(&mut first).await.unwrap();
    first.commit().await.unwrap();

    let last = second.await.unwrap().unwrap();
    assert_eq!((last.left, last.version), (8, 2));
}

#[tokio::test]
async fn l_02_an_error_in_the_closure_rolls_back_and_releases() {
    let database = stock().await;
    let refused = transaction(&database.pool)
        .run(async |tx| {
            let mut sku = Sku::lock(&mut *tx, 1).await.unwrap();
            sku.left = 0;
            sku.save(&mut *tx).await.unwrap();
            Err::<(), _>(sqlx::Error::RowNotFound)
        })
        .await;
    assert!(matches!(refused, Err(TransactionError::Failed(_))));
    let sku = transaction(&database.pool)
        .run(async |tx| Sku::lock(&mut *tx, 1).nowait().await)
        .await
        .unwrap();
    assert_eq!(sku.left, 10);
}

#[tokio::test]
async fn l_04_a_copy_that_somebody_changed_is_stale() {
    let database = stock().await;
    let old = Sku::load(&database.pool, 1).await.unwrap();
    transaction(&database.pool)
        .run(async |tx| {
            let locked = old.lock_checked(&mut *tx).await.unwrap();
            assert_eq!(*locked, old);
            Ok::<_, sqlx::Error>(())
        })
        .await
        .unwrap();
    let newer = old.touch(&database.pool).await.unwrap();
    let mut connection = database.connection().await;
    let mut transaction = sqlx::Connection::begin(&mut connection).await.unwrap();
    let refused = old.lock_checked(&mut transaction).await.unwrap_err();
    let LockCheckedError::Stale(conflict) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(conflict.current, newer);
    assert_eq!(
        conflict.to_string(),
        "lock_checked of stock (id = 1): the row was changed since it was read: its version is 1, expected 0 (by a concurrent writer, or by your own earlier write: use the row that it returned)"
    );
}

#[tokio::test]
async fn l_06_a_plain_read_is_not_blocked_and_sees_the_old_value() {
    let database = stock().await;
    let mut holder = database.pool.begin_with(super::BEGIN_WRITE).await.unwrap();
    let mut sku = Sku::lock(&mut holder, 1).await.unwrap();
    sku.left = 0;
    sku.save(&mut holder).await.unwrap();
    assert_eq!(Sku::load(&database.pool, 1).await.unwrap().left, 10);
    holder.rollback().await.unwrap();
}

#[tokio::test]
async fn l_07_l_18_nowait_and_a_timeout_end_a_wait_with_a_typed_error() {
    let database = stock().await;
    let mut holder = database.pool.begin_with(super::BEGIN_WRITE).await.unwrap();
    Sku::lock(&mut holder, 1).await.unwrap();
    let mut connection = database.connection().await;
    for nowait in [true, false] {
        let mut waiter = sqlx::Connection::begin(&mut connection).await.unwrap();
        let refused = if nowait {
            Sku::lock(&mut waiter, 1).nowait().await
        } else {
            Sku::lock(&mut waiter, 1)
                .lock_timeout(std::time::Duration::from_millis(20))
                .await
        };
        assert!(
            matches!(refused, Err(LockError::NotAvailable(_))),
            "{refused:?}"
        );
        waiter.rollback().await.unwrap();
    }
    holder.commit().await.unwrap();
    let mut waiter = sqlx::Connection::begin(&mut connection).await.unwrap();
    Sku::lock(&mut waiter, 1).nowait().await.unwrap();
    Sku::lock(&mut waiter, 2)
        .lock_timeout(std::time::Duration::from_millis(20))
        .await
        .unwrap();
    waiter.commit().await.unwrap();
}

/// T-22: whoever asks not to wait does not want to be run again until there is nothing to wait for.
#[tokio::test]
async fn t_22_a_lock_that_was_not_to_wait_is_not_retried() {
    let database = stock().await;
    let mut holder = database.pool.begin_with(super::BEGIN_WRITE).await.unwrap();
    Sku::lock(&mut holder, 1).await.unwrap();
    let runs = std::sync::atomic::AtomicU32::new(0);
    // On SQLite a transaction that is going to write would wait before its closure runs.
    let builder = transaction(&database.pool);
    let builder = if super::NAME == "SQLite" {
        builder.read_only()
    } else {
        builder
    };
    let refused = builder
        .run(async |tx| {
            runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Sku::lock(&mut *tx, 1).nowait().await.map(drop)
        })
        .await
        .unwrap_err();
    assert!(
        matches!(
            &refused,
            TransactionError::Failed(LockError::NotAvailable(_))
        ),
        "{refused:?}"
    );
    assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_missing_row_is_not_found() {
    let database = stock().await;
    let mut transaction = database.pool.begin().await.unwrap();
    let missing = Sku::lock(&mut transaction, 9).await;
    assert!(
        matches!(missing, Err(LockError::NotFound(_))),
        "{missing:?}"
    );
    let missing = Sku::lock_many(&mut transaction, [1, 9, 2])
        .await
        .unwrap_err();
    assert_eq!(
        missing.to_string(),
        "lock_many of stock (id = 9): no row has this key"
    );
}

#[tokio::test]
async fn l_17_many_rows_are_locked_and_returned_in_key_order() {
    let database = stock().await;
    let mut transaction = database.pool.begin().await.unwrap();
    let locked = Sku::lock_many(&mut transaction, [3, 1, 2, 3])
        .await
        .unwrap();
    assert_eq!(
        locked.iter().map(|sku| sku.id).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(Sku::lock_many(&mut transaction, []).await.unwrap(), []);
}

/// Crossed orders: each task names the rows the other way round, many times, and nobody deadlocks.
#[tokio::test]
async fn l_17_crossed_orders_do_not_deadlock() {
    let database = stock().await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let pool = database.pool.clone();
        tasks.spawn(async move {
            for _ in 0..25 {
                let keys = if task % 2 == 0 { [1, 2, 3] } else { [3, 2, 1] };
                transaction(&pool)
                    .attempts(1)
                    .run(async |tx| {
                        for mut sku in Sku::lock_many(&mut *tx, keys).await? {
                            sku.left += 1;
                            sku.save(&mut *tx).await?;
                        }
                        Ok::<_, LockError>(())
                    })
                    .await
                    .unwrap();
            }
        });
    }
    tasks.join_all().await;
    for (id, start) in [(1, 10), (2, 20), (3, 30)] {
        let sku = Sku::load(&database.pool, id).await.unwrap();
        assert_eq!((sku.left, sku.version), (start + 100, 100));
    }
}

/// What was locked before a savepoint is locked in it, and after it; what was locked in it is locked until it is undone.
#[tokio::test]
async fn a_lock_is_of_its_savepoint_and_of_those_in_it() {
    let database = stock().await;
    let run = transaction(&database.pool).run(async |tx| {
        let mut before = Sku::lock(&mut *tx, 1).await?;
        let mut savepoint = tx.begin().await.unwrap();
        before.left -= 1;
        before.save(&mut *savepoint).await?;
        let mut inside = Sku::lock(&mut *savepoint, 2).await?;
        savepoint.commit().await.unwrap();
        inside.left -= 1;
        inside.save(&mut *tx).await?;
        let mut savepoint = tx.begin().await.unwrap();
        let mut undone = Sku::lock(&mut *savepoint, 3).await?;
        savepoint.rollback().await.unwrap();
        let refused = undone.save(&mut *tx).await;
        assert!(matches!(refused, Err(LockError::OtherTransaction(_))));
        Ok::<_, LockError>(())
    });
    run.await.unwrap();
    for (id, left) in [(1, 9), (2, 19), (3, 30)] {
        assert_eq!(Sku::load(&database.pool, id).await.unwrap().left, left);
    }
}

/// Only a row that is locked in this transaction can be written without a version check.
#[tokio::test]
async fn a_lock_of_another_transaction_proves_nothing() {
    let database = stock().await;
    let kept = transaction(&database.pool)
        .run(async |tx| Sku::lock(&mut *tx, 1).await)
        .await
        .unwrap();
    let refused = transaction(&database.pool)
        .run(async |tx| kept.clone().save(&mut *tx).await)
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            TransactionError::Failed(LockError::OtherTransaction(_))
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_dropped_lock_call_leaves_nothing_locked() {
    let database = stock().await;
    let pool = database.one_connection_pool().await;
    for limit in 1.. {
        let run = transaction(&pool).run(async |tx| {
            let mut sku = Sku::lock(&mut *tx, 1).await?;
            sku.left += 1;
            sku.save(&mut *tx).await
        });
        let finished = polled(limit, run).await.is_some();
        // The pool's next user waits for the rollback; then nobody holds the row.
        pool.execute("UPDATE stock SET name = 'free' WHERE id = 1")
            .await
            .unwrap();
        if finished {
            break;
        }
    }
    assert_eq!(database.open_transactions().await, 0);
}

/// A changed key is the key of a row that nobody locked.
#[tokio::test]
async fn a_locked_row_keeps_its_key() {
    let database = stock().await;
    let mut tx = database.pool.begin().await.unwrap();
    let mut sku = Sku::lock(&mut tx, 1).await.unwrap();
    sku.id = 2;
    let refused = sku.save(&mut tx).await;
    assert!(
        matches!(refused, Err(LockError::KeyChanged(_))),
        "{refused:?}"
    );
    sku.id = 1;
    sku.left = 9;
    sku.save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    for (id, left) in [(1, 9), (2, 20)] {
        assert_eq!(Sku::load(&database.pool, id).await.unwrap().left, left);
    }
}

/// The naive twin writes what it read first over what was saved in between.
#[tokio::test]
async fn a_row_that_is_locked_twice_does_not_lose_the_first_save() {
    let database = stock().await;
    for naive in [true, false] {
        let mut tx = database.pool.begin().await.unwrap();
        let mut first = Sku::lock(&mut tx, 1).await.unwrap();
        let mut second = Sku::lock(&mut tx, 1).await.unwrap();
        first.left -= 3;
        first.save(&mut tx).await.unwrap();
        second.left -= 4;
        if naive {
            sqlx::query(r#"UPDATE stock SET "left" = $1 WHERE id = 1"#)
                .bind(second.left)
                .execute(&mut *tx)
                .await
                .unwrap();
        } else {
            let refused = second.save(&mut tx).await;
            assert!(matches!(refused, Err(LockError::Stale(_))), "{refused:?}");
            // Nothing is aborted, and a new lock has what was saved.
            let mut third = Sku::lock(&mut tx, 1).await.unwrap();
            third.left -= 4;
            third.save(&mut tx).await.unwrap();
        }
        let left = Sku::lock(&mut tx, 1).await.unwrap().left;
        assert_eq!(left, if naive { 6 } else { 3 });
        tx.rollback().await.unwrap();
    }
}

/// The version that a rolled-back save left in memory is not the row's, and is not written over it.
#[tokio::test]
async fn a_save_that_was_rolled_back_with_its_savepoint_is_stale() {
    let database = stock().await;
    let mut tx = database.pool.begin_with(super::BEGIN_WRITE).await.unwrap();
    let mut sku = Sku::lock(&mut tx, 1).await.unwrap();
    sku.left = 0;
    let mut savepoint = sqlx::Acquire::begin(&mut tx).await.unwrap();
    sku.save(&mut savepoint).await.unwrap();
    savepoint.rollback().await.unwrap();
    let refused = sku.save(&mut tx).await;
    assert!(matches!(refused, Err(LockError::Stale(_))), "{refused:?}");
    let mut again = Sku::lock(&mut tx, 1).await.unwrap();
    assert_eq!((again.left, again.version), (10, 0));
    again.left = 5;
    again.save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(Sku::load(&database.pool, 1).await.unwrap().left, 5);
}

/// A save that was rolled back left a raised version in memory, and a concurrent writer's row has the same now. Transactions of
/// rowlock are told apart on each database, those of sqlx on PostgreSQL.
#[tokio::test]
async fn a_save_that_was_rolled_back_does_not_overwrite_the_next_writer() {
    for (of_rowlock, safe) in [(true, true), (false, super::NAME == "PostgreSQL")] {
        let database = stock().await;
        let pool = &database.pool;
        let mut kept = if of_rowlock {
            let kept = std::sync::Mutex::new(None);
            let run = transaction(pool).run(async |tx| {
                let mut sku = Sku::lock(&mut *tx, 1).await?;
                sku.left = 0;
                sku.save(&mut *tx).await?;
                *kept.lock().unwrap() = Some(sku);
                Err::<(), _>(Sku::lock(&mut *tx, 9).await.unwrap_err())
            });
            run.await.unwrap_err();
            kept.into_inner().unwrap().unwrap()
        } else {
            let mut tx = pool.begin_with(super::BEGIN_WRITE).await.unwrap();
            let mut sku = Sku::lock(&mut tx, 1).await.unwrap();
            sku.left = 0;
            sku.save(&mut tx).await.unwrap();
            tx.rollback().await.unwrap();
            sku
        };
        // What it has was never stored, nor is it what `into_inner` says.
        assert_eq!((kept.left, kept.clone().into_inner().version), (0, 1));
        let mut other = Sku::load(pool, 1).await.unwrap();
        other.left = 7;
        assert_eq!(other.update(pool).await.unwrap().version, kept.version);
        let mut tx = pool.begin_with(super::BEGIN_WRITE).await.unwrap();
        let saved = kept.save(&mut tx).await;
        tx.commit().await.unwrap();
        if safe {
            let refused = matches!(saved, Err(LockError::OtherTransaction(_)));
            assert!(refused, "{saved:?}");
        } else {
            saved.unwrap();
        }
        let left = Sku::load(pool, 1).await.unwrap().left;
        assert_eq!(left, if safe { 7 } else { 0 });
    }
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "stock")]
struct Unversioned {
    #[rowlock(key)]
    id: i64,
    left: i64,
}

/// Nothing shows that the row was saved in between.
#[tokio::test]
async fn without_a_version_the_last_save_of_a_transaction_wins() {
    let database = stock().await;
    let mut tx = database.pool.begin_with(super::BEGIN_WRITE).await.unwrap();
    let mut first = Unversioned::lock(&mut tx, 1).await.unwrap();
    let mut second = Unversioned::lock(&mut tx, 1).await.unwrap();
    first.left -= 3;
    first.save(&mut tx).await.unwrap();
    second.left -= 4;
    second.save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(Sku::load(&database.pool, 1).await.unwrap().left, 6);
}
