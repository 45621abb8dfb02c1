//! `#[derive(Lockable)]` where only PostgreSQL can show it: SQLite has no locks per row.

use std::time::Duration;

use rowlock::row::LockError;
use rowlock::tx::{LastFailure, TransactionError};
use rowlock::{Fault, Lockable, Tx, transaction};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef};
use sqlx::{Acquire, Executor, PgExecutor};
use tokio::sync::Barrier;

use super::{Database, Db, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "stock")]
struct Sku {
    #[rowlock(key)]
    id: i64,
    units: i64,
}

const STOCK: &str = "CREATE TABLE stock (id bigint PRIMARY KEY, units bigint NOT NULL);
    CREATE TABLE orders (sku bigint NOT NULL REFERENCES stock (id));
    INSERT INTO stock VALUES (1, 10), (2, 20), (3, 30)";

const SHORT: Duration = Duration::from_millis(20);

async fn stock() -> Database {
    database(STOCK).await
}

async fn lock_timeout(connection: impl PgExecutor<'_>) -> String {
    sqlx::query_scalar("SHOW lock_timeout")
        .fetch_one(connection)
        .await
        .unwrap()
}

/// Whether another session could have the row at once.
async fn is_free(database: &Database, id: i64) -> bool {
    let mut tx = database.pool.begin().await.unwrap();
    match Sku::lock(&mut tx, id).nowait().await {
        Ok(_) => true,
        Err(LockError::NotAvailable(_)) => false,
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn l_09_a_locked_row_is_skipped_and_a_missing_one_is_not_found() {
    let database = stock().await;
    let mut holder = database.pool.begin().await.unwrap();
    Sku::lock(&mut holder, 1).await.unwrap();
    let mut tx = database.pool.begin().await.unwrap();
    let skipped = Sku::lock(&mut tx, 1).skip_locked().await.unwrap();
    assert_eq!(skipped, None);
    let free = Sku::lock(&mut tx, 2).skip_locked().await.unwrap();
    assert_eq!(free.unwrap().units, 20);
    let missing = Sku::lock(&mut tx, 9).skip_locked().await;
    assert!(
        matches!(missing, Err(LockError::NotFound(_))),
        "{missing:?}"
    );
    // The transaction is still of use.
    holder.commit().await.unwrap();
    let late = Sku::lock(&mut tx, 1).skip_locked().await.unwrap();
    assert_eq!(late.unwrap().units, 10);
}

#[tokio::test]
async fn l_09_many_are_only_the_free_ones() {
    let database = stock().await;
    let mut holder = database.pool.begin().await.unwrap();
    Sku::lock(&mut holder, 2).await.unwrap();
    let mut tx = database.pool.begin().await.unwrap();
    let free = Sku::lock_many(&mut tx, [3, 9, 2, 1])
        .skip_locked()
        .await
        .unwrap();
    let ids: Vec<_> = free.iter().map(|sku| sku.id).collect();
    assert_eq!(ids, [1, 3]);
    // These are held now, and the other one by somebody else.
    let mut third = database.pool.begin().await.unwrap();
    let rest = Sku::lock_many(&mut third, [1, 2, 3]).skip_locked().await;
    assert_eq!(rest.unwrap(), []);
}

#[tokio::test]
async fn a_share_lets_others_share_and_a_writer_wait() {
    let database = stock().await;
    let mut first = database.pool.begin().await.unwrap();
    let mut second = database.pool.begin().await.unwrap();
    let shared = Sku::lock(&mut first, 1).share().await.unwrap();
    let also = Sku::lock(&mut second, 1).share().nowait().await.unwrap();
    assert_eq!((shared.units, also.into_inner().units), (10, 10));

    let pool = database.pool.clone();
    let writer = tokio::spawn(async move {
        transaction(&pool)
            .run(async |tx| {
                let mut sku = Sku::lock(&mut *tx, 1).await?;
                sku.units -= 1;
                sku.save(&mut *tx).await
            })
            .await
    });
    database.until_blocked().await;
    first.commit().await.unwrap();
    // One of the two is enough to keep the writer out.
    database.until_blocked().await;
    assert!(!writer.is_finished());
    let again = Sku::lock(&mut second, 1).share().await.unwrap();
    assert_eq!(again.units, 10);
    second.commit().await.unwrap();
    writer.await.unwrap().unwrap();
}

/// A row that refers to the locked one takes FOR KEY SHARE on it.
#[tokio::test]
async fn l_12_no_key_lets_others_refer_to_the_row() {
    let database = stock().await;
    let mut other = database.connection().await;
    other.execute("SET lock_timeout = '20ms'").await.unwrap();
    for no_key in [true, false] {
        let mut holder = database.pool.begin().await.unwrap();
        let lock = Sku::lock(&mut holder, 1);
        let mut sku = if no_key { lock.no_key() } else { lock }.await.unwrap();
        let inserted = other.execute("INSERT INTO orders VALUES (1)").await;
        match inserted {
            Ok(_) => assert!(no_key),
            Err(error) => assert_eq!((Fault::of(&error), no_key), (Fault::LockTimeout, false)),
        }
        // Either keeps other writers out, and is enough to save.
        assert!(!is_free(&database, 1).await);
        sku.units -= 1;
        sku.save(&mut holder).await.unwrap();
        holder.commit().await.unwrap();
    }
}

#[tokio::test]
async fn l_19_crossed_locks_end_one_and_leave_both_connections_usable() {
    let database = stock().await;
    let pool = database
        .pool_with(PoolOptions::new().max_connections(2))
        .await;
    let both_hold = Barrier::new(2);
    let cross = async |first: i64, second: i64| {
        transaction(&pool)
            .attempts(1)
            .run(async |tx| {
                let mut sku = Sku::lock(&mut *tx, first).await?;
                both_hold.wait().await;
                Sku::lock(&mut *tx, second).await?;
                sku.units += 1;
                sku.save(&mut *tx).await
            })
            .await
    };
    let (one, two) = tokio::join!(cross(1, 2), cross(2, 1));
    let (failed, finished) = if one.is_err() { (one, two) } else { (two, one) };
    finished.unwrap();
    let failed = failed.unwrap_err();
    assert_eq!(Fault::in_chain(&failed), Some(Fault::Deadlock));
    assert!(matches!(
        failed,
        TransactionError::Exhausted {
            attempts: 1,
            last: LastFailure::Closure(LockError::Database(_))
        }
    ));
    // Both at once, so that neither connection is left out.
    let (mut one, mut two) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    Sku::lock(&mut one, 1).nowait().await.unwrap();
    Sku::lock(&mut two, 2).nowait().await.unwrap();
}

#[tokio::test]
async fn l_07_nowait_aborts_and_a_savepoint_keeps_the_transaction() {
    let database = stock().await;
    let mut holder = database.pool.begin().await.unwrap();
    Sku::lock(&mut holder, 1).await.unwrap();

    let aborted = transaction(&database.pool)
        .run(async |tx| {
            let refused = Sku::lock(&mut *tx, 1).nowait().await;
            assert!(matches!(refused, Err(LockError::NotAvailable(_))));
            let Err(LockError::NotAvailable(error)) = Sku::lock(&mut *tx, 2).await else {
                panic!("the transaction goes on");
            };
            // The first error, and not that of the aborted transaction.
            assert_eq!(error.fault(), Fault::LockTimeout);
            Ok::<_, LockError>(())
        })
        .await;
    assert!(matches!(aborted, Err(TransactionError::Aborted(_))));

    let left = transaction(&database.pool)
        .run(async |tx| {
            let mut savepoint = tx.begin().await.unwrap();
            let refused = Sku::lock(&mut *savepoint, 1).nowait().await;
            assert!(matches!(refused, Err(LockError::NotAvailable(_))));
            savepoint.rollback().await.unwrap();
            let mut sku = Sku::lock(&mut *tx, 2).await?;
            sku.units -= 1;
            sku.save(&mut *tx).await?;
            Ok::<_, LockError>(sku.units)
        })
        .await;
    assert_eq!(left.unwrap(), 19);
}

#[tokio::test]
async fn l_18_a_timeout_is_for_one_lock() {
    let database = stock().await;
    let mut holder = database.pool.begin().await.unwrap();
    Sku::lock(&mut holder, 1).await.unwrap();
    let pool = database.one_connection_pool().await;
    for whole in [None, Some("5s")] {
        let builder = transaction(&pool);
        let builder = match whole {
            None => builder,
            Some(_) => builder.lock_timeout(Duration::from_secs(5)),
        };
        let whole = whole.unwrap_or("0");
        builder
            .run(async |tx| {
                assert_eq!(lock_timeout(&mut **tx).await, whole);
                // Taken, skipped, missing, and not free.
                Sku::lock(&mut *tx, 2).lock_timeout(SHORT).await?;
                assert_eq!(lock_timeout(&mut **tx).await, whole);
                let skipped = Sku::lock(&mut *tx, 1).skip_locked().lock_timeout(SHORT);
                assert_eq!(skipped.await?, None);
                let missing = Sku::lock(&mut *tx, 9).lock_timeout(SHORT).await;
                assert!(matches!(missing, Err(LockError::NotFound(_))));
                Sku::lock_many(&mut *tx, [2, 3]).lock_timeout(SHORT).await?;
                assert_eq!(lock_timeout(&mut **tx).await, whole);
                let mut savepoint = tx.begin().await.unwrap();
                let refused = Sku::lock(&mut *savepoint, 1).lock_timeout(SHORT).await;
                assert!(matches!(refused, Err(LockError::NotAvailable(_))));
                savepoint.rollback().await.unwrap();
                assert_eq!(lock_timeout(&mut **tx).await, whole);
                Ok::<_, LockError>(())
            })
            .await
            .unwrap();
        assert_eq!(lock_timeout(&pool).await, "0");
    }
    let refused = transaction(&pool)
        .run(async |tx| Sku::lock(&mut *tx, 1).lock_timeout(SHORT).await)
        .await;
    assert!(matches!(
        refused,
        Err(TransactionError::Failed(LockError::NotAvailable(_)))
    ));
    assert_eq!(lock_timeout(&pool).await, "0");
}

#[tokio::test]
async fn l_18_a_lock_timeout_is_no_statement_timeout() {
    let database = stock().await;
    let mut holder = database.pool.begin().await.unwrap();
    Sku::lock(&mut holder, 1).await.unwrap();
    let refused = transaction(&database.pool)
        .statement_timeout(SHORT)
        .run(async |tx| Sku::lock(&mut *tx, 1).await)
        .await
        .unwrap_err();
    assert_eq!(Fault::in_chain(&refused), Some(Fault::Canceled));
    assert!(matches!(
        refused,
        TransactionError::Failed(LockError::Database(_))
    ));
}

#[tokio::test]
async fn l_23_a_read_only_transaction_locks_nothing() {
    let database = stock().await;
    for share in [false, true] {
        let refused = transaction(&database.pool)
            .read_only()
            .run(async |tx| {
                let lock = Sku::lock(&mut *tx, 1);
                if share {
                    lock.share().await.map(drop)
                } else {
                    lock.await.map(drop)
                }
            })
            .await
            .unwrap_err();
        assert_eq!(Fault::in_chain(&refused), Some(Fault::ReadOnly));
        assert!(matches!(refused, TransactionError::Failed(_)));
    }
}

/// At READ COMMITTED the lock reads the newest row; with a snapshot it cannot.
#[tokio::test]
async fn l_16_a_row_changed_since_the_snapshot_is_a_serialization_failure() {
    let database = stock().await;
    let changed_in_between = async |tx: &mut Tx<Db>| {
        tx.execute("SELECT * FROM stock").await.unwrap();
        let change = "UPDATE stock SET units = units - 1 WHERE id = 1";
        database.pool.execute(change).await.unwrap();
        Sku::lock(&mut *tx, 1).only_itself().await
    };
    let newest = transaction(&database.pool)
        .read_committed()
        .run(changed_in_between)
        .await
        .unwrap();
    assert_eq!(newest.units, 9);
    let lost = transaction(&database.pool)
        .repeatable_read()
        .attempts(2)
        .run(changed_in_between)
        .await
        .unwrap_err();
    assert!(
        matches!(
            lost,
            TransactionError::Exhausted {
                attempts: 2,
                last: LastFailure::Closure(LockError::Serialization(_))
            }
        ),
        "{lost:?}"
    );
}

#[tokio::test]
async fn l_24_a_lock_lasts_to_the_outermost_end() {
    let database = stock().await;
    let mut connection = database.connection().await;
    let mut tx = connection.begin().await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    Sku::lock(&mut savepoint, 1).await.unwrap();
    savepoint.commit().await.unwrap();
    assert!(!is_free(&database, 1).await);
    // A savepoint that is rolled back takes its locks with it.
    let mut savepoint = tx.begin().await.unwrap();
    Sku::lock(&mut savepoint, 2).await.unwrap();
    assert!(!is_free(&database, 2).await);
    savepoint.rollback().await.unwrap();
    assert!(is_free(&database, 2).await);
    assert!(!is_free(&database, 1).await);
    tx.commit().await.unwrap();
    assert!(is_free(&database, 1).await);
}

/// T-16. The server goes on waiting for the lock; then the rollback behind it is done.
#[tokio::test]
async fn t_16_a_wait_that_was_dropped_leaves_no_lock() {
    let database = stock().await;
    let pool = database.one_connection_pool().await;
    let mut aside = database.connection().await;
    // With a limit the wait ends while the row is still held.
    for limit in [None, Some(SHORT)] {
        let mut holder = aside.begin().await.unwrap();
        Sku::lock(&mut holder, 1).await.unwrap();
        let waiting = pool.clone();
        let wait = tokio::spawn(async move {
            let builder = transaction(&waiting);
            let builder = match limit {
                None => builder,
                Some(limit) => builder.lock_timeout(limit * 10),
            };
            builder
                .run(async |tx| Sku::lock(&mut *tx, 1).await.map(drop))
                .await
        });
        database.until_blocked().await;
        wait.abort();
        assert!(wait.await.unwrap_err().is_cancelled());
        if limit.is_none() {
            holder.commit().await.unwrap();
            pool.execute("SELECT 1").await.unwrap();
        } else {
            pool.execute("SELECT 1").await.unwrap();
            holder.commit().await.unwrap();
        }
        let locks: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
             WHERE application_name = current_schema() AND relation IN ('stock'::regclass, 'stock_pkey'::regclass)",
        )
        .fetch_one(&mut aside)
        .await
        .unwrap();
        assert_eq!(locks, 0);
        assert!(is_free(&database, 1).await);
    }
}

/// A key with nothing but what sqlx needs: neither `Ord` nor `Hash`, and an `sqlx::Type` that was written by hand.
#[derive(Debug, Clone, PartialEq)]
struct Code(String);

impl sqlx::Type<Db> for Code {
    fn type_info() -> PgTypeInfo {
        <String as sqlx::Type<Db>>::type_info()
    }
    fn compatible(ty: &PgTypeInfo) -> bool {
        <String as sqlx::Type<Db>>::compatible(ty)
    }
}

impl<'q> sqlx::Encode<'q, Db> for Code {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        sqlx::Encode::<Db>::encode(self.0.clone(), buffer)
    }
}

impl<'r> sqlx::Decode<'r, Db> for Code {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(<String as sqlx::Decode<Db>>::decode(value)?))
    }
}

#[derive(Debug, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "things", backend(Postgres))]
struct Coded {
    #[rowlock(key)]
    code: Code,
    units: i64,
}

#[tokio::test]
async fn a_key_needs_no_order_and_no_array_type_of_its_own() {
    let database = database(
        "CREATE TABLE things (code text PRIMARY KEY, units bigint NOT NULL);
        INSERT INTO things VALUES ('b', 2), ('a', 1)",
    )
    .await;
    let mut tx = database.pool.begin().await.unwrap();
    let codes = ["b", "a"].map(|code| Code(code.to_owned()));
    for _ in 0..2 {
        let locked = Coded::lock_many(&mut tx, codes.clone()).await.unwrap();
        let units: Vec<_> = locked.iter().map(|row| row.units).collect();
        assert_eq!(units, [1, 2]);
    }
}

/// Two callers lock the same row and count the rows that refer to it: at most one order per SKU. With a snapshot that is older than
/// the lock both count none. The naive twin says that only the locked row counts.
#[tokio::test]
async fn a_lock_with_a_fixed_snapshot_does_not_protect_other_rows_and_is_refused() {
    let order = async |tx: &mut Tx<Db>, naive: bool| {
        if naive {
            Sku::lock(&mut *tx, 1).only_itself().await?;
        } else {
            Sku::lock(&mut *tx, 1).await?;
        }
        let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE sku = 1")
            .fetch_one(&mut **tx)
            .await
            .unwrap();
        if orders == 0 {
            tx.execute("INSERT INTO orders VALUES (1)").await.unwrap();
        }
        Ok::<_, LockError>(())
    };
    for serializable in [false, true] {
        for naive in [true, false] {
            let database = stock().await;
            let mut holder = database.pool.begin().await.unwrap();
            Sku::lock(&mut holder, 1).await.unwrap();
            let pool = database.pool.clone();
            let builder = transaction(&pool);
            let builder = if serializable {
                builder.serializable()
            } else {
                builder.repeatable_read()
            };
            let second =
                tokio::spawn(async move { builder.run(async |tx| order(tx, naive).await).await });
            database.until_blocked().await;
            holder
                .execute("INSERT INTO orders VALUES (1)")
                .await
                .unwrap();
            holder.commit().await.unwrap();
            let second = second.await.unwrap();
            let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
                .fetch_one(&database.pool)
                .await
                .unwrap();
            if naive {
                second.unwrap();
                assert_eq!(orders, 2);
            } else {
                assert!(
                    matches!(
                        second,
                        Err(TransactionError::Failed(LockError::FixedSnapshot(_)))
                    ),
                    "{second:?}"
                );
                assert_eq!(orders, 1);
            }
        }
    }
}

#[tokio::test]
async fn every_lock_with_a_fixed_snapshot_is_refused_unless_it_is_for_itself() {
    let database = stock().await;
    let mut tx = database
        .pool
        .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
        .await
        .unwrap();
    let refused = [
        Sku::lock(&mut tx, 1).nowait().await.map(drop),
        Sku::lock(&mut tx, 1).share().await.map(drop),
        Sku::lock(&mut tx, 1).skip_locked().await.map(drop),
        Sku::lock_many(&mut tx, [1, 2]).await.map(drop),
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(LockError::FixedSnapshot(_))),
            "{refused:?}"
        );
    }
    let many = Sku::lock_many(&mut tx, [2, 1]).only_itself().await.unwrap();
    assert_eq!(many.len(), 2);
    let mut one = Sku::lock(&mut tx, 1).only_itself().await.unwrap();
    one.units = 1;
    one.save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "stock")]
struct Versioned {
    #[rowlock(key)]
    id: i64,
    units: i64,
    #[rowlock(version)]
    version: i64,
}

/// A JSON value and one that the column pads, which are no changes if they are written as they were read.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "stock")]
struct Odd {
    #[rowlock(key)]
    id: i64,
    units: i64,
    #[sqlx(json)]
    of: serde_json::Value,
    code: String,
    #[rowlock(generated)]
    seen: i64,
}

/// RETURNING shows what the trigger returned, which is the row as it was.
#[tokio::test]
async fn a_locked_save_whose_trigger_returns_the_old_row_is_ignored() {
    let database = database(
        "CREATE TABLE stock (id bigint PRIMARY KEY, units bigint NOT NULL, version bigint NOT NULL DEFAULT 0,
            of json NOT NULL DEFAULT '{\"b\":  1}', code char(5) NOT NULL DEFAULT 'abc', seen bigint NOT NULL DEFAULT 0);
         INSERT INTO stock VALUES (1, 10);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.units = 13 THEN RETURN OLD; END IF;
            IF NEW.units = 12 THEN NEW.units = 10; NEW.seen = NEW.seen + 1; END IF;
            RETURN NEW; END $$;
         CREATE TRIGGER keep BEFORE UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await;
    let mut tx = database.pool.begin().await.unwrap();
    let mut bare = Sku::lock(&mut tx, 1).await.unwrap();
    let mut versioned = Versioned::lock(&mut tx, 1).await.unwrap();
    let mut odd = Odd::lock(&mut tx, 1).await.unwrap();
    (bare.units, versioned.units, odd.units) = (13, 13, 13);
    for saved in [
        bare.save(&mut tx).await,
        versioned.save(&mut tx).await,
        odd.save(&mut tx).await,
    ] {
        assert!(matches!(saved, Err(LockError::Ignored(_))), "{saved:?}");
    }
    // To write what is there is no change, and no error; nor is it what else a trigger makes of a row.
    (bare.units, odd.units) = (10, 10);
    bare.save(&mut tx).await.unwrap();
    odd.save(&mut tx).await.unwrap();
    odd.units = 12;
    odd.save(&mut tx).await.unwrap();
    assert_eq!(odd.seen, 1);
    versioned.units = 11;
    let mut versioned = Versioned::lock(&mut tx, 1).await.unwrap();
    versioned.units = 11;
    versioned.save(&mut tx).await.unwrap();
    assert_eq!((versioned.units, versioned.version), (11, 1));
    tx.commit().await.unwrap();
}

/// Transactions of sqlx carry no identity, but each begins at a time of its own.
#[tokio::test]
async fn a_lock_of_another_transaction_of_sqlx_proves_nothing() {
    let database = stock().await;
    let mut first = database.pool.begin().await.unwrap();
    let mut locked = Sku::lock(&mut first, 1).await.unwrap();
    let mut many = Sku::lock_many(&mut first, [2, 3]).await.unwrap();
    first.rollback().await.unwrap();
    let mut second = database.pool.begin().await.unwrap();
    locked.units = 0;
    many[1].units = 0;
    for saved in [
        locked.save(&mut second).await,
        many[1].save(&mut second).await,
    ] {
        assert!(
            matches!(saved, Err(LockError::OtherTransaction(_))),
            "{saved:?}"
        );
    }
    // In a savepoint of its own it is saved, also of REPEATABLE READ.
    second.rollback().await.unwrap();
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        let begin = format!("BEGIN ISOLATION LEVEL {level}");
        let begin = sqlx::AssertSqlSafe(begin);
        let mut tx = database.pool.begin_with(begin).await.unwrap();
        let mut locked = Sku::lock(&mut tx, 1).only_itself().await.unwrap();
        locked.units += 1;
        let mut savepoint = tx.begin().await.unwrap();
        locked.save(&mut savepoint).await.unwrap();
        savepoint.commit().await.unwrap();
        tx.commit().await.unwrap();
    }
}
