//! `rowlock::transaction`: section T of the conformance list.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rowlock::{Fault, TransactionError, Tx, Versioned, transaction};
use sqlx::Executor;

use super::{Database, Db, NAME, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "accounts")]
struct Account {
    #[rowlock(key)]
    id: i64,
    balance: i64,
    #[rowlock(version)]
    version: i64,
}

const ACCOUNTS: &str = "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL, version bigint NOT NULL);
    INSERT INTO accounts VALUES (1, 100, 0), (2, 100, 0)";

async fn balance(database: &Database, id: i64) -> i64 {
    Account::load(&database.pool, id).await.unwrap().balance
}

async fn add(tx: &mut Tx<Db>, id: i64, amount: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE accounts SET balance = balance + $1 WHERE id = $2")
        .bind(amount)
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[tokio::test]
async fn t_03_success_runs_once_and_commits() {
    let database = database(ACCOUNTS).await;
    let pool = database.pool.clone();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let moved = tokio::spawn(async move {
        let amount = 30;
        transaction(&pool)
            .serializable()
            .run(async |tx| {
                counted.fetch_add(1, Ordering::SeqCst);
                let from = Account::load(&mut *tx, 1).await.unwrap();
                Account {
                    balance: from.balance - amount,
                    ..from
                }
                .update(&mut *tx)
                .await
                .unwrap();
                add(tx, 2, amount).await?;
                Ok::<_, sqlx::Error>(amount)
            })
            .await
    });
    assert_eq!(moved.await.unwrap().unwrap(), 30);
    assert_eq!(
        (balance(&database, 1).await, balance(&database, 2).await),
        (70, 130)
    );
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn t_03_an_error_that_is_not_transient_is_returned_as_it_is() {
    let database = database(ACCOUNTS).await;
    let runs = AtomicU32::new(0);
    let refused = transaction(&database.pool)
        .run(async |tx| {
            runs.fetch_add(1, Ordering::SeqCst);
            add(tx, 1, 5).await?;
            tx.execute("INSERT INTO accounts VALUES (1, 0, 0)").await?;
            Ok::<(), sqlx::Error>(())
        })
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, TransactionError::Failed(error) if Fault::of(error) == Fault::UniqueViolation),
        "{refused:?}"
    );
    assert_eq!(
        (runs.load(Ordering::SeqCst), balance(&database, 1).await),
        (1, 100)
    );
}

/// `COMMIT` of an aborted transaction is a rollback that reports success.
#[tokio::test]
async fn an_error_that_the_closure_swallowed_is_not_a_commit() {
    let database = database(ACCOUNTS).await;
    let outcome = transaction(&database.pool)
        .run(async |tx| {
            add(tx, 1, 5).await?;
            let _ = tx.execute("INSERT INTO accounts VALUES (1, 0, 0)").await;
            Ok::<(), sqlx::Error>(())
        })
        .await;
    if NAME == "SQLite" {
        // A constraint fails its statement only, and the rest commits.
        outcome.unwrap();
        assert_eq!(balance(&database, 1).await, 105);
    } else {
        assert!(
            matches!(outcome, Err(TransactionError::Aborted(_))),
            "{outcome:?}"
        );
        assert_eq!(balance(&database, 1).await, 100);
    }
}

/// The database's error is found in boxed errors too.
#[tokio::test]
async fn t_17_boxed_errors() {
    let database = database(ACCOUNTS).await;
    let refused = transaction(&database.pool)
        .run(async |tx| {
            tx.execute("SELECT nonsense").await?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        })
        .await
        .unwrap_err();
    assert!(
        matches!(refused, TransactionError::Failed(_)),
        "{refused:?}"
    );
}
