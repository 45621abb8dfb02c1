//! What only PostgreSQL can show of transactions inside of others, and of connections in a transaction.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rowlock::idempotent::Once;
use rowlock::lock::{AcquireError, AdvisoryLock};
use rowlock::tx::{LastFailure, TransactionError};
use rowlock::{Fault, Tx, transaction};
use rowlock_tests::proxy::Proxy;
use sqlx::Connection as _;

use super::signatures::{MINUTE, Sku, order, shop, sku};
use super::{Database, Db, PoolOptions, address};

type Failed = Result<(), sqlx::Error>;

async fn setting(tx: &mut Tx<Db>, name: &str) -> String {
    sqlx::query_scalar("SELECT current_setting($1)")
        .bind(name)
        .fetch_one(tx)
        .await
        .unwrap()
}

async fn begun(database: &Database, level: &'static str) -> Tx<Db> {
    Tx::from(database.pool.begin_with(level).await.unwrap())
}

#[tokio::test]
async fn an_advisory_lock_on_a_connection_needs_a_transaction() {
    let database = shop(0).await;
    let lock = AdvisoryLock::new("signatures");
    let mut connection = database.connection().await;
    let outside = [
        lock.lock(&mut connection).await,
        lock.try_lock(&mut connection).await.map(drop),
    ];
    for error in outside.map(Result::unwrap_err) {
        assert!(
            matches!(error, AcquireError::NotInTransaction(_)),
            "{error:?}"
        );
    }
    assert!(!lock.is_held(&database.pool).await.unwrap());

    let mut tx = connection.begin().await.unwrap();
    lock.lock(&mut *tx).await.unwrap();
    assert!(lock.is_held(&database.pool).await.unwrap());
    tx.rollback().await.unwrap();
    assert!(!lock.is_held(&database.pool).await.unwrap());

    sqlx::raw_sql("BEGIN")
        .execute(&mut connection)
        .await
        .unwrap();
    assert!(lock.try_lock(&mut connection).await.unwrap());
    assert!(lock.is_held(&database.pool).await.unwrap());
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut connection)
        .await
        .unwrap();
}

/// That it is in a transaction costs no round trip where sqlx knows it.
#[tokio::test]
async fn a_lock_on_the_connection_of_a_transaction_is_one_round_trip() {
    let database = shop(0).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new().max_connections(1);
    let pool = database.pool_through(&proxy, options).await;
    let mut connection = pool.acquire().await.unwrap();
    for _ in 0..3 {
        let mut tx = connection.begin().await.unwrap();
        proxy.reset();
        Sku::lock(&mut *tx, 1).await.unwrap();
    }
    assert_eq!(proxy.round_trips(), 1);
    sqlx::raw_sql("ROLLBACK; BEGIN")
        .execute(&mut *connection)
        .await
        .unwrap();
    proxy.reset();
    Sku::lock(&mut *connection, 1).await.unwrap();
    assert_eq!(proxy.round_trips(), 2);
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut *connection)
        .await
        .unwrap();
}

/// `commit` of sqlx says `Ok` where the server rolled back.
#[tokio::test]
async fn naive_twin_the_commit_of_sqlx_hides_a_rollback() {
    let database = shop(0).await;
    let mut tx = database.pool.begin().await.unwrap();
    Sku::add_views(&mut *tx, 1, 1).await.unwrap();
    sqlx::query("SELECT 1 / 0")
        .execute(&mut *tx)
        .await
        .unwrap_err();
    tx.commit().await.unwrap();
    assert_eq!(sku(&database).await, (0, 0));
}

#[tokio::test]
async fn the_commit_of_a_tx_says_that_a_statement_had_failed() {
    let database = shop(0).await;
    for before in [true, false] {
        let mut transaction = database.pool.begin().await.unwrap();
        let fails = sqlx::query("SELECT 1 / 0");
        let mut tx = if before {
            fails.execute(&mut *transaction).await.unwrap_err();
            Tx::from(transaction)
        } else {
            let mut tx = Tx::from(transaction);
            Sku::add_views(&mut tx, 1, 1).await.unwrap();
            fails.execute(&mut tx).await.unwrap_err();
            tx
        };
        let ran = std::sync::Arc::new(AtomicU32::new(0));
        let hook = ran.clone();
        tx.on_commit(async move || {
            hook.fetch_add(1, Ordering::Relaxed);
        });
        let ended = tx.commit().await;
        assert!(
            matches!(ended, Err(TransactionError::Aborted(_))),
            "{ended:?}"
        );
        assert_eq!(
            (sku(&database).await, ran.load(Ordering::Relaxed)),
            ((0, 0), 0)
        );
    }
}

#[tokio::test]
async fn an_isolation_level_that_the_outer_transaction_does_not_have_is_refused() {
    let database = shop(0).await;
    let levels = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
    for (outer, begin) in [
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
    ]
    .into_iter()
    .enumerate()
    {
        let mut tx = begun(&database, begin).await;
        for asked in 0..3 {
            let inside = transaction(&mut tx);
            let inside = match asked {
                0 => inside.read_committed(),
                1 => inside.repeatable_read(),
                _ => inside.serializable(),
            };
            let ran = AtomicU32::new(0);
            let ended = inside
                .run(async |tx| {
                    ran.fetch_add(1, Ordering::Relaxed);
                    Sku::add_views(tx, 1, 1).await.map(drop)
                })
                .await;
            if asked <= outer {
                ended.unwrap();
                continue;
            }
            let names = (levels[asked], levels[outer]);
            assert!(
                matches!(ended, Err(TransactionError::TooWeak { asked, found }) if (asked, found) == names),
                "{ended:?}"
            );
            assert_eq!(ran.load(Ordering::Relaxed), 0);
        }
        let read_only = transaction(&mut tx).read_only();
        let ended = read_only.run(async |_| Failed::Ok(())).await;
        let names = ("READ ONLY", "READ WRITE");
        assert!(
            matches!(ended, Err(TransactionError::TooWeak { asked, found }) if (asked, found) == names),
            "{ended:?}"
        );
        tx.commit().await.unwrap();
    }
    // One view of each level that was there.
    assert_eq!(sku(&database).await.1, 6);
    let mut tx = begun(&database, "BEGIN READ ONLY").await;
    let read_only = transaction(&mut tx).read_only();
    read_only.run(async |_| Failed::Ok(())).await.unwrap();
}

/// They hold for the part, and are set back after it; a stricter one around it stays.
#[tokio::test]
async fn limits_hold_inside_of_a_tx_and_no_longer() {
    let database = shop(0).await;
    let mut holder = database.pool.begin().await.unwrap();
    Sku::lock(&mut holder, 2).await.unwrap();
    let mut tx = begun(
        &database,
        "BEGIN; SET LOCAL lock_timeout = '7s'; SET LOCAL statement_timeout = 0",
    )
    .await;
    let ms = Duration::from_millis;
    for (fails, lock, statement, expected) in [
        (false, 50, 60_000, ("50ms", "1min")),
        (true, 50, 60_000, ("50ms", "1min")),
        (false, 9_000, 9_000, ("7s", "9s")),
    ] {
        let inside = transaction(&mut tx)
            .lock_timeout(ms(lock))
            .statement_timeout(ms(statement));
        let ended = inside.run(async |tx| -> Result<(), rowlock::Error> {
            let limits = (
                setting(tx, "lock_timeout").await,
                setting(tx, "statement_timeout").await,
            );
            assert_eq!((limits.0.as_str(), limits.1.as_str()), expected);
            if fails {
                Sku::lock(&mut *tx, 2).await?;
            }
            Ok(Sku::add_views(tx, 1, 1).await.map(drop)?)
        });
        match ended.await {
            Ok(()) => assert!(!fails),
            Err(TransactionError::Failed(error)) => {
                assert_eq!((fails, error.fault()), (true, Some(Fault::LockTimeout)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(setting(&mut tx, "lock_timeout").await, "7s");
        assert_eq!(setting(&mut tx, "statement_timeout").await, "0");
    }
    // The deadline is the server's, too: the statement ends, and the transaction goes on.
    let late = transaction(&mut tx).deadline(ms(300)).run(async |tx| {
        assert_ne!(setting(tx, "statement_timeout").await, "0");
        sqlx::query("SELECT pg_sleep(600)").execute(tx).await
    });
    let late = late.await.map(drop);
    let is_late = match &late {
        Err(TransactionError::Failed(error)) => Fault::of(error) == Fault::Canceled,
        late => matches!(
            late,
            Err(TransactionError::DeadlineExceeded { attempts: 1 })
        ),
    };
    assert!(is_late, "{late:?}");
    assert_eq!(setting(&mut tx, "statement_timeout").await, "0");
    tx.commit().await.unwrap();
    assert_eq!(sku(&database).await.1, 2);
}

/// What would be run again on a pool is not run again in a savepoint: the outer transaction is.
#[tokio::test]
async fn a_serialization_failure_inside_of_a_tx_is_for_the_outer_transaction() {
    let database = shop(0).await;
    let fail = "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$";
    let (outer, inner) = (AtomicU32::new(0), AtomicU32::new(0));
    let run = transaction(&database.pool).run(async |tx| {
        let first = outer.fetch_add(1, Ordering::Relaxed) == 0;
        Sku::add_views(&mut *tx, 1, 1).await.unwrap();
        transaction(&mut *tx)
            .run(async |tx| {
                inner.fetch_add(1, Ordering::Relaxed);
                if first {
                    sqlx::raw_sql(fail).execute(&mut *tx).await?;
                }
                Failed::Ok(())
            })
            .await
    });
    run.await.unwrap();
    assert_eq!((outer.into_inner(), inner.into_inner()), (2, 2));
    assert_eq!(sku(&database).await.1, 1);

    let mut tx = begun(&database, "BEGIN").await;
    let lost = transaction(&mut tx).run(async |tx| sqlx::raw_sql(fail).execute(tx).await);
    let lost = lost.await.map(drop);
    assert!(
        matches!(
            &lost,
            Err(TransactionError::Exhausted {
                attempts: 1,
                last: LastFailure::Closure(_)
            })
        ),
        "{lost:?}"
    );
}

/// An error that the closure swallows is not kept.
#[tokio::test]
async fn a_transaction_inside_of_a_tx_over_an_error_is_aborted() {
    let database = shop(0).await;
    let mut tx = begun(&database, "BEGIN").await;
    for limited in [false, true] {
        let inside = transaction(&mut tx);
        let inside = match limited {
            true => inside.lock_timeout(MINUTE),
            false => inside,
        };
        let swallowed = inside.run(async |tx| {
            Sku::add_views(&mut *tx, 1, 10).await.unwrap();
            sqlx::query("SELECT 1 / 0").execute(tx).await.unwrap_err();
            Failed::Ok(())
        });
        let swallowed = swallowed.await;
        assert!(
            matches!(&swallowed, Err(TransactionError::Aborted(error)) if error.to_string().contains("22012")),
            "{swallowed:?}"
        );
    }
    Sku::add_views(&mut tx, 1, 1).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(sku(&database).await.1, 1);
}

#[tokio::test]
async fn a_key_that_a_running_transaction_holds_is_busy_inside_of_a_tx() {
    let database = shop(0).await;
    let mut first = begun(&database, "BEGIN").await;
    assert_eq!(order(&mut first, "a").await.unwrap(), Once::Ran(-1));
    let mut second = begun(&database, "BEGIN").await;
    assert_eq!(order(&mut second, "a").await.unwrap(), Once::Busy);
    first.commit().await.unwrap();
    assert_eq!(order(&mut second, "a").await.unwrap(), Once::Replayed(-1));
    second.commit().await.unwrap();
    assert_eq!(sku(&database).await.0, -1);
}
