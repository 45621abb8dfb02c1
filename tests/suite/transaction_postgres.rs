//! `rowlock::transaction` where only PostgreSQL can show it: SQLite has one writer, which waits before it begins, and no
//! connection to lose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rowlock::row::CounterError;
use rowlock::tx::TransactionError;
use rowlock::{Counter, Fault, Tx, transaction};
use rowlock_tests::gate::Gate;
use rowlock_tests::proxy::Proxy;
use sqlx::Executor;

use super::{Database, Db, PoolOptions, address, database};

const ACCOUNTS: &str = "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
    INSERT INTO accounts VALUES (1, 100), (2, 100)";

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "accounts", existing_rows)]
#[allow(dead_code)]
struct Account {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    balance: i64,
}

async fn balance(database: &Database, id: i64) -> i64 {
    sqlx::query_scalar("SELECT balance FROM accounts WHERE id = $1")
        .bind(id)
        .fetch_one(&database.pool)
        .await
        .unwrap()
}

async fn add(tx: &mut Tx<Db>, id: i64, amount: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE accounts SET balance = balance + $1 WHERE id = $2")
        .bind(amount)
        .bind(id)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Two transactions that each hold what the other one wants, in the first attempt only.
#[tokio::test]
async fn t_01_t_02_a_deadlock_is_run_again_from_its_start() {
    let database = database(ACCOUNTS).await;
    let both_hold = Arc::new(tokio::sync::Barrier::new(2));
    let retries = Arc::new(AtomicU32::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for (first, second) in [(1, 2), (2, 1)] {
        let (pool, both_hold, retries) =
            (database.pool.clone(), both_hold.clone(), retries.clone());
        tasks.spawn(async move {
            let attempts = AtomicU32::new(0);
            transaction(&pool)
                .on_retry(move |retry| {
                    assert_eq!((retry.attempt, retry.fault), (1, Fault::Deadlock));
                    retries.fetch_add(1, Ordering::SeqCst);
                })
                .run(async |tx| {
                    let attempt = attempts.fetch_add(1, Ordering::SeqCst);
                    add(tx, first, 1).await?;
                    if attempt == 0 {
                        both_hold.wait().await;
                    }
                    add(tx, second, 1).await
                })
                .await
                .unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(retries.load(Ordering::SeqCst), 1);
    assert_eq!(
        (balance(&database, 1).await, balance(&database, 2).await),
        (102, 102)
    );
}

/// Write skew: both read both balances before either writes. Serializable lets one of them win and runs the other again.
async fn write_skew(database: &Database, serializable: bool) -> (i64, u32) {
    let both_read = Arc::new(tokio::sync::Barrier::new(2));
    let retries = Arc::new(AtomicU32::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for id in [1, 2] {
        let (pool, both_read, retries) =
            (database.pool.clone(), both_read.clone(), retries.clone());
        tasks.spawn(async move {
            let attempts = AtomicU32::new(0);
            let builder = transaction(&pool).on_retry(move |_| {
                retries.fetch_add(1, Ordering::SeqCst);
            });
            let builder = if serializable {
                builder.serializable()
            } else {
                builder.repeatable_read()
            };
            builder
                .run(async |tx| {
                    let total: i64 =
                        sqlx::query_scalar("SELECT CAST(sum(balance) AS bigint) FROM accounts")
                            .fetch_one(&mut **tx)
                            .await?;
                    if attempts.fetch_add(1, Ordering::SeqCst) == 0 {
                        both_read.wait().await;
                    }
                    if total >= 150 {
                        add(tx, id, -150).await?;
                    }
                    Ok::<_, sqlx::Error>(())
                })
                .await
                .unwrap();
        });
    }
    tasks.join_all().await;
    (
        balance(database, 1).await + balance(database, 2).await,
        retries.load(Ordering::SeqCst),
    )
}

#[tokio::test]
async fn t_09_write_skew_needs_serializable_and_at_least_one_retry() {
    let (total, retries) = write_skew(&database(ACCOUNTS).await, true).await;
    assert_eq!(total, 50);
    assert!(retries >= 1);
    // The same at a lower level: the invariant is broken, so the test can fail.
    let (total, retries) = write_skew(&database(ACCOUNTS).await, false).await;
    assert_eq!((total, retries), (-100, 0));
}

/// The error that the server gives to transactions that lose, without another one.
const SERIALIZATION_FAILURE: &str = "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$";

#[tokio::test]
async fn t_04_the_last_error_is_inside_the_one_that_says_how_often() {
    let database = database(ACCOUNTS).await;
    let runs = AtomicU32::new(0);
    let gave_up = transaction(&database.pool)
        .attempts(3)
        .run(async |tx| {
            runs.fetch_add(1, Ordering::SeqCst);
            add(tx, 1, 1).await?;
            tx.execute(SERIALIZATION_FAILURE).await?;
            Ok::<(), sqlx::Error>(())
        })
        .await
        .unwrap_err();
    let TransactionError::Exhausted { attempts: 3, last } = &gave_up else {
        panic!("{gave_up:?}");
    };
    assert!(matches!(last, rowlock::tx::LastFailure::Closure(_)));
    assert_eq!(Fault::in_chain(&gave_up), Some(Fault::Serialization));
    assert_eq!(
        (runs.load(Ordering::SeqCst), balance(&database, 1).await),
        (3, 100)
    );
    assert_eq!(database.open_transactions().await, 0);
}

/// An error that was undone with its savepoint has aborted nothing: what the attempt wrote goes because it is rolled back. The naive
/// twin commits what is left of it.
#[tokio::test]
async fn t_20_an_attempt_that_could_be_committed_is_not_kept_either() {
    let database = database(ACCOUNTS).await;
    let lose = async |tx: &mut Tx<Db>| {
        add(tx, 1, 1).await?;
        let lost = tx.savepoint(async |sp| sp.execute(SERIALIZATION_FAILURE).await);
        let Err(error) = lost.await else {
            panic!("it was to be lost");
        };
        Ok::<_, sqlx::Error>(error)
    };
    let runs = AtomicU32::new(0);
    let run = transaction(&database.pool).run(async |tx| {
        if runs.fetch_add(1, Ordering::SeqCst) < 2 {
            return Err(lose(tx).await?);
        }
        add(tx, 1, 1).await
    });
    run.await.unwrap();
    assert_eq!(
        (runs.load(Ordering::SeqCst), balance(&database, 1).await),
        (3, 101)
    );

    let naive = transaction(&database.pool).run(async |tx| lose(tx).await.map(drop));
    naive.await.unwrap();
    assert_eq!(balance(&database, 1).await, 102);
}

/// The conflict was another transaction's, which has had its attempts: to run the outer one again would multiply them.
#[tokio::test]
async fn t_07_the_conflicts_of_a_nested_transaction_are_its_own() {
    let database = database(ACCOUNTS).await;
    let (outer, inner) = (AtomicU32::new(0), AtomicU32::new(0));
    let gave_up = transaction(&database.pool)
        .attempts(3)
        .run(async |tx| {
            outer.fetch_add(1, Ordering::SeqCst);
            Account::add_balance(&mut *tx, 1, 1).await.unwrap();
            transaction(&database.pool)
                .attempts(3)
                .run(async |tx| {
                    inner.fetch_add(1, Ordering::SeqCst);
                    tx.execute(SERIALIZATION_FAILURE).await.map(drop)
                })
                .await
        })
        .await;
    assert!(
        matches!(
            gave_up,
            Err(TransactionError::Failed(TransactionError::Exhausted {
                attempts: 3,
                ..
            }))
        ),
        "{gave_up:?}"
    );
    let runs = [outer, inner].map(AtomicU32::into_inner);
    assert_eq!((runs, balance(&database, 1).await), ([1, 3], 100));
}

#[derive(Debug, thiserror::Error)]
enum Transparent {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A transparent variant shows the source of the `sqlx::Error` and not the error itself.
#[tokio::test]
async fn t_17_a_transparent_error_is_retried_too() {
    let database = database(ACCOUNTS).await;
    let runs = AtomicU32::new(0);
    transaction(&database.pool)
        .run(async |tx| {
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                tx.execute(SERIALIZATION_FAILURE).await?;
            }
            Ok::<_, Transparent>(add(tx, 1, 1).await?)
        })
        .await
        .unwrap();
    assert_eq!(
        (runs.load(Ordering::SeqCst), balance(&database, 1).await),
        (2, 101)
    );
}

/// What became of a transaction whose connection was lost during COMMIT.
struct LostCommit {
    outcome: Result<i64, TransactionError<sqlx::Error>>,
    runs: u32,
    balance: i64,
}

/// Loses the connection while COMMIT is under way. `committed`: the server finishes it, and only its answer is lost.
async fn lose_commit(committed: bool, ask: bool) -> LostCommit {
    let database = database(ACCOUNTS).await;
    let proxy = Proxy::start(&address()).await;
    let pool = database.pool_through(&proxy, PoolOptions::new()).await;
    let mut gate = Gate::before_commit(&database, "UPDATE", "accounts").await;
    gate.close().await;

    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let run = tokio::spawn(async move {
        let builder = transaction(&pool);
        let builder = if ask {
            builder.ask_after_lost_commit()
        } else {
            builder
        };
        builder
            .run(async |tx| {
                counted.fetch_add(1, Ordering::SeqCst);
                add(tx, 1, 5).await?;
                Ok::<i64, sqlx::Error>(7)
            })
            .await
    });
    gate.lose_commit(&proxy, committed).await;
    let outcome = run.await.unwrap();
    LostCommit {
        outcome,
        runs: runs.load(Ordering::SeqCst),
        balance: balance(&database, 1).await,
    }
}

#[tokio::test]
async fn t_10_a_lost_commit_is_unknown_and_not_retried() {
    for committed in [false, true] {
        let lost = lose_commit(committed, false).await;
        assert!(
            matches!(lost.outcome, Err(TransactionError::CommitUnknown(_))),
            "{:?}",
            lost.outcome
        );
        assert_eq!(
            (lost.runs, lost.balance),
            (1, if committed { 105 } else { 100 })
        );
    }
}

#[tokio::test]
async fn t_11_t_12_the_server_can_be_asked_what_became_of_it() {
    // Committed: the result is returned and nothing runs twice.
    let lost = lose_commit(true, true).await;
    assert_eq!(
        (lost.outcome.unwrap(), lost.runs, lost.balance),
        (7, 1, 105)
    );
    // Rolled back: run again, and counted once.
    let lost = lose_commit(false, true).await;
    assert_eq!(
        (lost.outcome.unwrap(), lost.runs, lost.balance),
        (7, 2, 105)
    );
}

/// It can be in the database, and running it again would count twice.
#[tokio::test]
async fn t_10_an_addition_elsewhere_whose_answer_is_lost_is_counted_once() {
    let database = database(ACCOUNTS).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new().test_before_acquire(false);
    let elsewhere = database.pool_through(&proxy, options).await;
    Account::add_balance(&elsewhere, 2, 0).await.unwrap();
    // The pool's ping has an answer, too.
    while elsewhere.num_idle() == 0 {
        tokio::task::yield_now().await;
    }
    let runs = AtomicU32::new(0);
    let run = transaction(&database.pool).run(async |_| {
        runs.fetch_add(1, Ordering::SeqCst);
        Account::add_balance(&elsewhere, 1, 5).await
    });
    proxy.hold_replies(true);
    let lose = async {
        proxy.reply_held().await;
        proxy.cut().await;
        proxy.hold_replies(false);
    };
    let (outcome, ()) = tokio::join!(run, lose);
    assert!(
        matches!(
            outcome,
            Err(TransactionError::Failed(CounterError::Unknown(_)))
        ),
        "{outcome:?}"
    );
    assert_eq!(runs.into_inner(), 1);
    assert_eq!(balance(&database, 1).await, 105);
}

/// Whatever the closure makes of it: with `rowlock::Error` too.
#[tokio::test]
async fn t_10_a_lost_commit_of_an_inner_transaction_is_not_run_again() {
    let database = database(ACCOUNTS).await;
    let proxy = Proxy::start(&address()).await;
    let elsewhere = database.pool_through(&proxy, PoolOptions::new()).await;
    let mut gate = Gate::before_commit(&database, "UPDATE", "accounts").await;
    gate.close().await;
    let runs = AtomicU32::new(0);
    let run = transaction(&database.pool).run(async |tx| -> Result<(), rowlock::Error> {
        runs.fetch_add(1, Ordering::SeqCst);
        tx.execute("SELECT 1").await?;
        let inner = transaction(&elsewhere)
            .run(async |tx| -> Result<(), rowlock::Error> { Ok(add(tx, 1, 5).await?) });
        Ok(inner.await?)
    });
    let (outcome, ()) = tokio::join!(run, gate.lose_commit(&proxy, true));
    match outcome {
        Err(TransactionError::Failed(error)) => {
            assert!(error.is_unknown() && !error.is_conflict(), "{error:?}");
            assert_eq!(error.fault(), Some(Fault::ConnectionLost));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(runs.into_inner(), 1);
    assert_eq!(balance(&database, 1).await, 105);
}

/// It wrote nothing, so nothing can happen twice.
#[tokio::test]
async fn t_12_a_lost_commit_of_what_only_read_is_not_unknown() {
    let database = database(ACCOUNTS).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new().test_before_acquire(false);
    let pool = database.pool_through(&proxy, options).await;
    for asks in [true, false] {
        let runs = AtomicU32::new(0);
        let (read, mut has_read) = tokio::sync::mpsc::unbounded_channel();
        let builder = transaction(&pool).read_only();
        let builder = match asks {
            true => builder.ask_after_lost_commit(),
            false => builder,
        };
        let run = builder.run(async |tx| {
            runs.fetch_add(1, Ordering::SeqCst);
            let sql = "SELECT balance FROM accounts WHERE id = 1";
            let balance: i64 = sqlx::query_scalar(sql).fetch_one(&mut *tx).await?;
            read.send(()).unwrap();
            Ok::<_, sqlx::Error>(balance)
        });
        // What comes after the closure's statement: the question which transaction it is, if it is going to be asked about, and COMMIT.
        let lose = async {
            has_read.recv().await.unwrap();
            if asks {
                proxy.hold_next_request().await;
                let answers = proxy.round_trips();
                proxy.release_request();
                while proxy.round_trips() == answers {
                    tokio::task::yield_now().await;
                }
            }
            proxy.hold_next_request().await;
            proxy.cut().await;
            proxy.release_request();
        };
        let (outcome, ()) = tokio::join!(run, lose);
        if asks {
            assert_eq!(outcome.unwrap(), 100);
        } else {
            assert!(
                matches!(outcome, Err(TransactionError::CommitUnknown(_))),
                "{outcome:?}"
            );
        }
        assert_eq!(runs.into_inner(), if asks { 2 } else { 1 });
    }
}

#[tokio::test]
async fn t_13_a_connection_lost_before_commit_is_retried_on_another_one() {
    let database = database(ACCOUNTS).await;
    let runs = AtomicU32::new(0);
    transaction(&database.pool)
        .run(async |tx| {
            add(tx, 1, 5).await?;
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")
                    .await?;
            }
            Ok::<_, sqlx::Error>(())
        })
        .await
        .unwrap();
    assert_eq!(
        (runs.load(Ordering::SeqCst), balance(&database, 1).await),
        (2, 105)
    );
}

/// The server ends the session after the last statement, which only COMMIT finds out: run again, unless it was a limit.
#[tokio::test]
async fn t_13_a_session_that_ended_before_commit_is_not_unknown() {
    let database = database(ACCOUNTS).await;
    let run = async |limit: &str, runs: &AtomicU32| {
        transaction(&database.pool)
            .run(async |tx| {
                add(tx, 1, 5).await?;
                if runs.fetch_add(1, Ordering::SeqCst) > 0 {
                    return Ok(());
                }
                let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
                    .fetch_one(&mut *tx)
                    .await?;
                sqlx::query("SELECT set_config('idle_in_transaction_session_timeout', $1, true)")
                    .bind(limit)
                    .execute(&mut *tx)
                    .await?;
                if limit == "0" {
                    sqlx::query("SELECT pg_terminate_backend($1)")
                        .bind(pid)
                        .execute(&database.pool)
                        .await?;
                }
                gone(&database, pid).await;
                Ok::<_, sqlx::Error>(())
            })
            .await
    };
    let runs = AtomicU32::new(0);
    run("0", &runs).await.unwrap();
    assert_eq!((runs.into_inner(), balance(&database, 1).await), (2, 105));

    let runs = AtomicU32::new(0);
    let error = run("20", &runs).await.unwrap_err();
    assert!(
        matches!(&error, TransactionError::Commit(error) if error.fault() == Fault::TransactionTimeout),
        "{error:?}"
    );
    assert_eq!((runs.into_inner(), balance(&database, 1).await), (1, 105));
}

/// Waits until the server has no such session any more.
async fn gone(database: &Database, pid: i32) {
    loop {
        let sessions: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE pid = $1")
                .bind(pid)
                .fetch_one(&database.pool)
                .await
                .unwrap();
        if sessions == 0 {
            return;
        }
    }
}

/// T-19: a connection that cannot roll back is not handed on.
#[tokio::test]
async fn t_19_a_failed_rollback_takes_the_connection_out_of_the_pool() {
    let database = database(ACCOUNTS).await;
    let pool = database.one_connection_pool().await;
    let refused = transaction(&pool)
        .run(async |tx| {
            // The connection dies and the closure fails for a reason of its own.
            let _ = (**tx)
                .execute("SELECT pg_terminate_backend(pg_backend_pid())")
                .await;
            Err::<(), _>(sqlx::Error::RowNotFound)
        })
        .await;
    assert!(
        matches!(
            refused,
            Err(TransactionError::Failed(sqlx::Error::RowNotFound))
        ),
        "{refused:?}"
    );
    transaction(&pool)
        .run(async |tx| add(tx, 1, 1).await)
        .await
        .unwrap();
}

#[tokio::test]
async fn t_22_timeouts_that_were_asked_for_are_not_retried() {
    let database = database(ACCOUNTS).await;
    let mut holder = database.pool.begin().await.unwrap();
    holder
        .execute("UPDATE accounts SET balance = 0")
        .await
        .unwrap();
    let limit = std::time::Duration::from_millis(20);
    for (builder, expected) in [
        (
            transaction(&database.pool).lock_timeout(limit),
            Fault::LockTimeout,
        ),
        (
            transaction(&database.pool).statement_timeout(limit),
            Fault::Canceled,
        ),
    ] {
        let runs = AtomicU32::new(0);
        let refused = builder
            .run(async |tx| {
                runs.fetch_add(1, Ordering::SeqCst);
                add(tx, 1, 1).await
            })
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, TransactionError::Failed(error) if Fault::of(error) == expected),
            "{refused:?}"
        );
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
    // Set for the transaction only: the pooled connection forgets it.
    let left: String = sqlx::query_scalar("SHOW lock_timeout")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(left, "0");
}

/// The options and BEGIN are one message; then the closure's statement, the check, and COMMIT.
#[tokio::test]
async fn timeouts_cost_no_round_trip() {
    let database = database(ACCOUNTS).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let pool = database.pool_through(&proxy, options).await;
    let limit = std::time::Duration::from_secs(5);
    let trips = async |run: usize| {
        proxy.reset();
        let builder = transaction(&pool).serializable();
        let builder = if run.is_multiple_of(2) {
            builder
        } else {
            builder.lock_timeout(limit).statement_timeout(limit)
        };
        builder.run(async |tx| add(tx, 1, 1).await).await.unwrap();
        proxy.round_trips()
    };
    for run in 0..4 {
        trips(run).await;
    }
    // The pool's own ping on release comes in a task of its own, so it may or may not be counted.
    for run in 4..8 {
        let counted = trips(run).await;
        assert!((4..=5).contains(&counted), "{counted} round trips");
    }
}

/// A shared budget ends the retries of everybody before each has used up attempts of its own.
#[tokio::test]
async fn a_shared_budget_bounds_the_retries_of_all() {
    let database = database(ACCOUNTS).await;
    let budget = rowlock::tx::RetryBudget::new(3, 0);
    let runs = AtomicU32::new(0);
    for _ in 0..4 {
        let gave_up = transaction(&database.pool)
            .attempts(10)
            .budget(&budget)
            .run(async |tx| {
                runs.fetch_add(1, Ordering::SeqCst);
                tx.execute(SERIALIZATION_FAILURE).await.map(drop)
            })
            .await;
        assert!(
            matches!(gave_up, Err(TransactionError::Exhausted { .. })),
            "{gave_up:?}"
        );
    }
    // Four first attempts, and three retries between them.
    assert_eq!(runs.load(Ordering::SeqCst), 7);
}

/// What the role or the session has set is stricter, or it is not.
#[tokio::test]
async fn t_15_a_deadline_never_loosens_a_statement_timeout() {
    let database = database(ACCOUNTS).await;
    let shown = async |set: &'static str, deadline: u64| -> String {
        let options = PoolOptions::new().after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(set).await.map(drop) })
        });
        let pool = database.pool_with(options).await;
        let run = transaction(&pool)
            .deadline(std::time::Duration::from_secs(deadline))
            .run(async |tx| {
                let sql = "SELECT setting FROM pg_settings WHERE name = 'statement_timeout'";
                sqlx::query_scalar::<_, String>(sql).fetch_one(tx).await
            });
        run.await.unwrap()
    };
    for set in [
        "SET statement_timeout = 900",
        "SET statement_timeout = '0.9s'",
    ] {
        assert_eq!(shown(set, 600).await, "900");
    }
    for set in ["SET statement_timeout = '1h'", "SET statement_timeout = 0"] {
        let left: u32 = shown(set, 600).await.parse().unwrap();
        assert!((300_000..=600_000).contains(&left), "{set}: {left}");
    }
}

/// The deadline passes while COMMIT waits: nobody knows yet what becomes of it, so that is not "rolled back".
#[tokio::test]
async fn a_deadline_that_passes_during_commit_is_unknown() {
    let database = database(ACCOUNTS).await;
    let mut gate = Gate::before_commit(&database, "UPDATE", "accounts").await;
    gate.close().await;
    let outcome = transaction(&database.pool)
        .deadline(std::time::Duration::from_millis(300))
        .run(async |tx| {
            // The server's own limit would answer first.
            tx.execute("SET LOCAL statement_timeout = 0").await?;
            add(tx, 1, 5).await
        })
        .await;
    assert!(
        matches!(outcome, Err(TransactionError::CommitUnknown(_))),
        "{outcome:?}"
    );
    gate.open().await;
}

/// What T-16 is about: sqlx's own BEGIN, dropped before its answer came, leaves the connection inside a transaction that
/// the pool knows nothing of, and what the next user writes is lost.
#[tokio::test]
async fn t_16_naive_twin_a_dropped_begin_stays_open() {
    let database = database(ACCOUNTS).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let proxy = Proxy::start(&address()).await;
    let pool = database.pool_through(&proxy, options).await;
    let mut connection = pool.acquire().await.unwrap();
    proxy.hold_replies(true);
    tokio::select! {
        _ = sqlx::Connection::begin(&mut *connection) => panic!("the answer is held back"),
        () = proxy.reply_held() => {}
    }
    proxy.hold_replies(false);
    drop(connection);
    pool.execute("UPDATE accounts SET balance = 0")
        .await
        .unwrap();
    assert_eq!(balance(&database, 1).await, 100);
    assert_eq!(database.open_transactions().await, 1);
}

#[tokio::test]
async fn t_26_the_hook_is_called_before_each_retry_and_not_for_the_last_failure() {
    let database = database(ACCOUNTS).await;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let hook = seen.clone();
    let gave_up = transaction(&database.pool)
        .attempts(3)
        .on_retry(move |retry| hook.lock().unwrap().push((retry.attempt, retry.fault)))
        .run(async |tx| tx.execute(SERIALIZATION_FAILURE).await.map(drop))
        .await;
    assert!(
        matches!(
            gave_up,
            Err(TransactionError::Exhausted { attempts: 3, .. })
        ),
        "{gave_up:?}"
    );
    let expected = [(1, Fault::Serialization), (2, Fault::Serialization)];
    assert_eq!(*seen.lock().unwrap(), expected);
}
