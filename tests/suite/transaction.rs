//! `rowlock::transaction`: section T of `docs/behaviours.md`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rowlock::tx::{TransactionBuilder, TransactionError};
use rowlock::{Fault, Tx, Versioned, transaction};
use rowlock_tests::cancel::polled;
use rowlock_tests::random::Random;
use sqlx::Executor;

use super::{Database, Db, NAME, Pool, database};

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
async fn t_03_t_21_a_unique_violation_is_returned_as_it_is_and_not_run_again() {
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
            tx.execute("INSERT INTO accounts VALUES (1, 0, 0)").await?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        })
        .await
        .unwrap_err();
    let TransactionError::Failed(error) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        Fault::in_chain(error.as_ref()),
        Some(Fault::UniqueViolation)
    );
}

#[derive(Debug, thiserror::Error)]
enum ShopError {
    #[error("no database")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Update(#[from] rowlock::row::UpdateError<Account>),
}

/// A stale copy is a decision for the caller, not a reason to run the same thing again.
#[tokio::test]
async fn t_23_a_stale_version_is_not_retried() {
    let database = database(ACCOUNTS).await;
    let old = Account::load(&database.pool, 1).await.unwrap();
    old.touch(&database.pool).await.unwrap();
    let runs = AtomicU32::new(0);
    let refused = transaction(&database.pool)
        .run(async |tx| {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, ShopError>(old.update(&mut *tx).await?)
        })
        .await
        .unwrap_err();
    assert!(matches!(
        refused,
        TransactionError::Failed(ShopError::Update(rowlock::row::UpdateError::Stale(_)))
    ));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn zero_runs_nothing() {
    let database = database(ACCOUNTS).await;
    let never = async |_: &mut Tx<Db>| -> Result<(), sqlx::Error> { panic!("it ran") };
    let none = transaction(&database.pool).attempts(0).run(never).await;
    assert!(matches!(none, Err(TransactionError::NotRun)), "{none:?}");
    let none = transaction(&database.pool)
        .deadline(std::time::Duration::ZERO)
        .run(never)
        .await;
    assert!(
        matches!(
            none,
            Err(TransactionError::DeadlineExceeded { attempts: 1 })
        ),
        "{none:?}"
    );
}

/// Neither a closure that never comes back nor one that never waits for the database holds anything afterwards.
#[tokio::test]
async fn t_15_the_deadline_ends_a_closure_that_hangs() {
    let database = database(ACCOUNTS).await;
    let pool = database.one_connection_pool().await;
    let hung = transaction(&pool)
        .deadline(std::time::Duration::from_millis(100))
        .run(async |tx| {
            add(tx, 1, 1).await?;
            std::future::pending::<()>().await;
            Ok::<_, sqlx::Error>(())
        })
        .await;
    assert!(
        matches!(
            hung,
            Err(TransactionError::DeadlineExceeded { attempts: 1 })
        ),
        "{hung:?}"
    );
    let instant = transaction(&pool)
        .run(async |_| Ok::<_, sqlx::Error>(5))
        .await;
    assert_eq!(instant.unwrap(), 5);
    assert_eq!(balance(&database, 1).await, 100);
}

/// A transaction that loses by [`lose`].
fn that_can_lose(pool: &Pool) -> TransactionBuilder<Db> {
    let builder = transaction(pool).repeatable_read();
    // On SQLite who locks before he reads never loses.
    if NAME == "SQLite" {
        builder.read_only()
    } else {
        builder
    }
}

/// Writes a row that somebody else has written since this transaction began to read.
async fn lose(tx: &mut Tx<Db>, pool: &Pool) -> Result<(), sqlx::Error> {
    tx.fetch_all("SELECT balance FROM accounts").await?;
    pool.execute("UPDATE accounts SET version = version + 1")
        .await?;
    add(tx, 1, 0).await
}

/// They double from wait to wait, up to the longest.
fn ceilings(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(first), move |wait| Some((*wait * 2).min(longest)))
}

#[tokio::test]
async fn t_14_the_waits_are_random_below_a_ceiling_that_doubles_up_to_the_longest() {
    let database = database(ACCOUNTS).await;
    let (micros, millis) = (Duration::from_micros, Duration::from_millis);
    // What was asked for, and what nobody asked for.
    for (asked, attempts, first, longest) in [
        (true, 9, micros(100), micros(1_500)),
        (false, 5, millis(5), millis(500)),
    ] {
        let mut waits = vec![Vec::new(); attempts - 1];
        for _ in 0..40 {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let hook = seen.clone();
            let mut builder = that_can_lose(&database.pool).on_retry(move |retry| {
                let mut seen = hook.lock().unwrap();
                seen.push(retry.wait);
                assert_eq!(
                    (retry.attempt as usize, retry.fault),
                    (seen.len(), Fault::Serialization)
                );
            });
            if asked {
                builder = builder.attempts(attempts as u32).backoff(first, longest);
            }
            let begun = Instant::now();
            let lost = builder.run(async |tx| lose(tx, &database.pool).await).await;
            let took = begun.elapsed();
            assert!(
                matches!(lost, Err(TransactionError::Exhausted { .. })),
                "{lost:?}"
            );
            let seen = seen.lock().unwrap();
            assert_eq!(seen.len(), waits.len());
            assert!(took >= seen.iter().sum(), "{took:?} for {seen:?}");
            for (waits, wait) in waits.iter_mut().zip(&*seen) {
                waits.push(*wait);
            }
        }
        for (waits, ceiling) in waits.iter().zip(ceilings(first, longest)) {
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            // All forty in the same half: once in 10^11.
            assert!(
                *least < ceiling / 2 && (ceiling / 2..=ceiling).contains(most),
                "{least:?} to {most:?}, below {ceiling:?}"
            );
        }
    }
}

const LOG: &str = "; CREATE TABLE log (attempt bigint NOT NULL)";

async fn log(tx: &mut Tx<Db>, attempt: u32) -> Result<(), sqlx::Error> {
    let sql = sqlx::query("INSERT INTO log VALUES ($1)").bind(i64::from(attempt));
    sql.execute(&mut **tx).await.map(drop)
}

/// Somebody else raises the version in each of the first two attempts: each begins with what is committed by then, and what
/// it wrote is gone.
#[tokio::test]
async fn t_20_nothing_of_an_attempt_is_kept() {
    let database = database(&(ACCOUNTS.to_owned() + LOG)).await;
    let attempts = AtomicU32::new(0);
    let written = that_can_lose(&database.pool)
        .run(async |tx| {
            let attempt = attempts.fetch_add(1, Ordering::SeqCst) + 1;
            let row = Account::load(&mut *tx, 1).await.unwrap();
            assert_eq!((row.balance, row.version + 1), (100, i64::from(attempt)));
            if attempt < 3 {
                row.touch(&database.pool).await?;
            }
            log(tx, attempt).await?;
            let balance = row.balance + 30;
            Ok::<_, ShopError>(Account { balance, ..row }.update(&mut *tx).await?)
        })
        .await
        .unwrap();
    assert_eq!((written.balance, written.version), (130, 3));
    assert_eq!(written, Account::load(&database.pool, 1).await.unwrap());
    let logged: Vec<i64> = sqlx::query_scalar("SELECT attempt FROM log")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    assert_eq!(logged, [3]);
}

/// What the caller takes from one attempt into the next is of a transaction that never was.
#[tokio::test]
async fn t_20_naive_twin_keeps_the_row_of_the_first_attempt() {
    let database = database(ACCOUNTS).await;
    let kept = std::sync::OnceLock::<Account>::new();
    let runs = AtomicU32::new(0);
    let refused = that_can_lose(&database.pool)
        .run(async |tx| {
            let row = Account::load(&mut *tx, 1).await.unwrap();
            let row = kept.get_or_init(|| row);
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                row.touch(&database.pool).await?;
            }
            Ok::<_, ShopError>(row.update(&mut *tx).await?)
        })
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            TransactionError::Failed(ShopError::Update(rowlock::row::UpdateError::Stale(_)))
        ),
        "{refused:?}"
    );
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

/// The wait between two attempts counts, too.
#[tokio::test]
async fn t_15_the_deadline_cuts_the_wait_for_the_next_attempt() {
    let database = database(ACCOUNTS).await;
    let day = std::time::Duration::from_secs(86_400);
    let late = that_can_lose(&database.pool)
        .attempts(u32::MAX)
        .backoff(day, day)
        .deadline(std::time::Duration::from_millis(500))
        .run(async |tx| lose(tx, &database.pool).await);
    let late = tokio::time::timeout(std::time::Duration::from_secs(30), late).await;
    assert!(
        matches!(late, Ok(Err(TransactionError::DeadlineExceeded { .. }))),
        "{late:?}"
    );
}

#[tokio::test]
async fn a_panic_rolls_back_and_goes_on() {
    let database = database(ACCOUNTS).await;
    let pool = database.one_connection_pool().await;
    let panicking = pool.clone();
    let panicked = tokio::spawn(async move {
        transaction(&panicking)
            .run(async |tx| {
                add(tx, 1, 1).await.unwrap();
                if true {
                    panic!("on purpose");
                }
                Ok::<_, sqlx::Error>(())
            })
            .await
    })
    .await;
    assert!(panicked.unwrap_err().is_panic());
    transaction(&pool)
        .run(async |tx| add(tx, 2, 1).await)
        .await
        .unwrap();
    assert_eq!(
        (balance(&database, 1).await, balance(&database, 2).await),
        (100, 101)
    );
}

/// A transaction inside a transaction is a second one, on a second connection: with one connection it ends at the pool's
/// timeout.
#[tokio::test]
async fn t_06_nested_use_is_a_transaction_of_its_own() {
    let database = database(ACCOUNTS).await;
    let options = super::PoolOptions::new()
        .max_connections(1)
        .acquire_timeout(std::time::Duration::from_secs(1));
    let pool = database.pool_with(options).await;
    let inner = transaction(&pool)
        .run(async |_| {
            Ok::<_, sqlx::Error>(
                transaction(&pool)
                    .run(async |_| Ok::<_, sqlx::Error>(()))
                    .await,
            )
        })
        .await
        .unwrap();
    assert!(
        matches!(&inner, Err(TransactionError::Begin(error)) if error.fault() == Fault::PoolTimedOut),
        "{inner:?}"
    );
}

/// Dropped at every await point, on a pool of one connection: nobody ever gets a connection inside a transaction.
#[tokio::test]
async fn t_16_dropping_a_transaction_anywhere_leaves_nothing_open() {
    let database = database(ACCOUNTS).await;
    let pool = database.one_connection_pool().await;
    for limit in 1.. {
        let run = transaction(&pool).run(async |tx| {
            add(tx, 1, 1).await?;
            add(tx, 2, -1).await
        });
        let finished = polled(limit, run).await;
        // Were it inside a transaction that nobody ends, this would be lost.
        sqlx::query("UPDATE accounts SET version = version + 1")
            .execute(&pool)
            .await
            .unwrap();
        let seen = Account::load(&database.pool, 1).await.unwrap();
        assert_eq!(seen.version, limit as i64);
        let total = seen.balance + balance(&database, 2).await;
        assert_eq!(total, 200);
        if finished.is_some() {
            break;
        }
    }
    assert_eq!(database.open_transactions().await, 0);
}

/// The same at random, in one transaction after another on the same connection.
#[tokio::test]
async fn t_16_thousands_of_dropped_transactions_leave_nothing_open() {
    let dropped = if NAME == "SQLite" { 2_000 } else { 10_000 };
    let mut random = Random::new(16);
    let database = database(ACCOUNTS).await;
    // Without a ping whoever comes next is the first to use the connection.
    let options = super::PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let pool = database.pool_with(options).await;
    let mut aside = database.connection().await;
    let run = async |limit| {
        let run = transaction(&pool).attempts(1).run(async |tx| {
            add(tx, 1, 1).await?;
            add(tx, 2, -1).await
        });
        polled(limit, run).await.transpose().unwrap().is_some()
    };
    // Once the statements are prepared, this many polls are enough, or almost always: it depends on who is faster.
    let mut enough = 1;
    for _ in 0..100 {
        let mut limit = 1;
        while !run(limit).await {
            limit += 1;
        }
        enough = enough.max(limit);
    }
    let (mut round, mut left) = (0, dropped);
    while left > 0 {
        round += 1;
        if !run(1 + random.below(enough)).await {
            left -= 1;
        }
        // Were the connection inside a transaction, nobody else would see this.
        sqlx::query("UPDATE accounts SET version = version + 1")
            .execute(&pool)
            .await
            .unwrap();
        if round % 20 == 0 {
            let (version, total): (i64, i64) =
                sqlx::query_as("SELECT min(version), CAST(sum(balance) AS bigint) FROM accounts")
                    .fetch_one(&mut aside)
                    .await
                    .unwrap();
            assert_eq!((version, total), (round, 200));
        }
    }
    println!("{NAME}: {dropped} of {round} were dropped, after up to {enough} polls");
    assert_eq!(database.open_transactions().await, 0);
}
