//! `Fault`: each one provoked on the database, for the codes that it really gives, and found behind the user's errors.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use rowlock::tx::TransactionError;
use rowlock::{Fault, Tx, transaction};
use sqlx::{AssertSqlSafe, Executor};

use super::{Db, NAME, PoolOptions, database};

const TABLES: &str = "CREATE TABLE parents (id bigint PRIMARY KEY);
    CREATE TABLE rows (id bigint PRIMARY KEY, name text NOT NULL, small smallint CHECK (small <> 7),
        parent bigint REFERENCES parents (id), CONSTRAINT one_name UNIQUE (name));
    INSERT INTO parents VALUES (1);
    INSERT INTO rows VALUES (1, 'one', 1, 1)";

/// What a statement alone can provoke, on both.
#[tokio::test]
async fn statements() {
    let database = database(TABLES).await;
    let mut seen = BTreeSet::new();
    for (statement, fault, constraint) in [
        (
            "INSERT INTO rows VALUES (2, 'one', 1, 1)",
            Fault::UniqueViolation,
            Some("one_name"),
        ),
        (
            "INSERT INTO rows VALUES (1, 'two', 1, 1)",
            Fault::UniqueViolation,
            Some("rows_pkey"),
        ),
        (
            "INSERT INTO rows VALUES (2, 'two', 1, 9)",
            Fault::ForeignKeyViolation,
            Some("rows_parent_fkey"),
        ),
        (
            "DELETE FROM parents",
            Fault::ForeignKeyViolation,
            Some("rows_parent_fkey"),
        ),
        (
            "INSERT INTO rows VALUES (2, NULL, 1, 1)",
            Fault::NotNullViolation,
            None,
        ),
        (
            "INSERT INTO rows VALUES (2, 'two', 7, 1)",
            Fault::CheckViolation,
            Some("rows_small_check"),
        ),
        ("SELECT * FROM nowhere", Fault::Schema, None),
        ("SELECT nothing FROM rows", Fault::Schema, None),
        ("SELEC", Fault::Schema, None),
    ] {
        let error = database.pool.execute(statement).await.unwrap_err();
        assert_eq!(Fault::of(&error), fault, "{statement}: {error}");
        assert!(!fault.is_transient());
        seen.insert(fault.to_string());
        if NAME == "PostgreSQL" {
            let named = error.as_database_error().unwrap().constraint();
            assert_eq!(named, constraint, "{statement}");
        }
    }
    assert_eq!(seen.len(), 5);
}

#[tokio::test]
async fn read_only() {
    let database = database(TABLES).await;
    // SQLite takes no lock here, and refuses nothing: it is the connection that can be read-only.
    let pragma = match NAME {
        "SQLite" => "PRAGMA query_only = 1",
        _ => "SELECT 1",
    };
    let refused = transaction(&database.one_connection_pool().await)
        .read_only()
        .run(async |tx| {
            tx.execute(AssertSqlSafe(pragma)).await?;
            tx.execute("DELETE FROM rows").await?;
            Ok::<_, sqlx::Error>(())
        })
        .await
        .unwrap_err();
    assert!(matches!(refused, TransactionError::Failed(_)));
    assert_eq!(Fault::in_chain(&refused), Some(Fault::ReadOnly));
}

#[tokio::test]
async fn pools() {
    let database = database(TABLES).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(1));
    let pool = database.pool_with(options).await;
    let held = pool.acquire().await.unwrap();
    let error = pool.acquire().await.unwrap_err();
    assert_eq!(Fault::of(&error), Fault::PoolTimedOut);
    drop(held);
    pool.close().await;
    let error = pool.acquire().await.unwrap_err();
    assert_eq!(Fault::of(&error), Fault::PoolClosed);
}

#[tokio::test]
async fn values() {
    let database = database(TABLES).await;
    let error = sqlx::query_scalar::<_, i64>("SELECT name FROM rows")
        .fetch_one(&database.pool)
        .await
        .unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Decode, "{error:?}");
}

#[derive(Debug, thiserror::Error)]
enum ShopError {
    #[error("the shop is closed")]
    Database(#[from] sqlx::Error),
    #[error("no payment")]
    Payment(#[source] Box<ShopError>),
    #[error("{0}")]
    Text(String),
}

/// T-17. An error that has become text is lost.
#[tokio::test]
async fn t_17_in_chain() {
    let database = database(TABLES).await;
    let refused = async || {
        let refused = "INSERT INTO rows VALUES (1, 'two', 1, 1)";
        database.pool.execute(refused).await.unwrap_err()
    };
    let found = Some(Fault::UniqueViolation);
    let plain = ShopError::from(refused().await);
    assert_eq!(Fault::in_chain(&plain), found);
    let nested = ShopError::Payment(Box::new(ShopError::Payment(Box::new(plain))));
    assert_eq!(Fault::in_chain(&nested), found);
    let boxed: Box<dyn Error + Send + Sync> = Box::new(nested);
    assert_eq!(Fault::in_chain(boxed.as_ref()), found);
    let any = anyhow::Error::new(refused().await)
        .context("no payment")
        .context("the shop is closed");
    assert_eq!(Fault::in_chain(any.as_ref()), found);
    let any = anyhow::Error::from_boxed(boxed).context("around a box");
    assert_eq!(Fault::in_chain(any.as_ref()), found);
    let text = ShopError::Text(refused().await.to_string());
    assert_eq!(Fault::in_chain(&text), None);
}

/// The same error types through `run`, of a statement that ran on the connection itself: each is seen to be transient, and run again.
#[tokio::test]
async fn t_17_wrapped_errors_are_run_again() {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    // SQLite has no statement that fails like this.
    if NAME == "SQLite" {
        return;
    }

    /// In the first run only, a conflict.
    async fn once(tx: &mut Tx<Db>, runs: &AtomicU32) -> Result<(), sqlx::Error> {
        let sql = match runs.fetch_add(1, SeqCst) {
            0 => "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$",
            _ => "SELECT 1",
        };
        (**tx).execute(sql).await.map(drop)
    }
    let database = database(TABLES).await;
    let runs = AtomicU32::new(0);
    let builder = transaction(&database.pool).backoff(Duration::ZERO, Duration::ZERO);
    builder
        .clone()
        .run(async |tx| {
            let error = |error| ShopError::Payment(Box::new(ShopError::Database(error)));
            once(tx, &runs).await.map_err(error)
        })
        .await
        .unwrap();
    assert_eq!(runs.swap(0, SeqCst), 2);
    builder
        .clone()
        .run(async |tx| Ok::<_, Box<dyn Error + Send + Sync>>(once(tx, &runs).await?))
        .await
        .unwrap();
    assert_eq!(runs.swap(0, SeqCst), 2);
    builder
        .run(async |tx| {
            let error = |error| anyhow::Error::new(error).context("around it");
            once(tx, &runs).await.map_err(error)
        })
        .await
        .unwrap();
    assert_eq!(runs.swap(0, SeqCst), 2);
}
