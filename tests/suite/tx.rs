//! What a `Tx` sees of what runs on it: an `Ok` means that all of it is in the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rowlock::tx::{LastFailure, TransactionError};
use rowlock::{Counter, Fault, Tx, transaction};
use rowlock_tests::cancel::polled;
use sqlx::{Acquire, Executor};

use super::{Database, Db, NAME, database};

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "views")]
#[allow(dead_code)]
pub(super) struct Views {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    n: i64,
}

pub(super) const DDL: &str =
    "CREATE TABLE views (id bigint PRIMARY KEY, n bigint NOT NULL CHECK (n < 1000));
    INSERT INTO views VALUES (1, 0), (2, 0), (3, 0)";

pub(super) async fn all(database: &Database) -> Vec<i64> {
    sqlx::query_scalar("SELECT n FROM views ORDER BY id")
        .fetch_all(&database.pool)
        .await
        .unwrap()
}

async fn add(tx: &mut Tx<Db>, id: i64, delta: i64) -> Result<(), rowlock::row::CounterError> {
    Views::add_n(tx, id, delta).await.map(drop)
}

pub(super) fn aborted<T: std::fmt::Debug, E: std::fmt::Debug>(
    outcome: Result<T, TransactionError<E>>,
) -> rowlock::DatabaseError {
    match outcome {
        Err(TransactionError::Aborted(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// The first error is what the caller gets, from a later statement and from `run`, and not what the server says afterwards.
#[tokio::test]
async fn the_first_error_is_the_one_to_know() {
    let database = database(DDL).await;
    let outcome = transaction(&database.pool)
        .run(async |tx| {
            let refused = add(tx, 1, 1000).await.unwrap_err();
            assert_eq!(Fault::in_chain(&refused), Some(Fault::CheckViolation));
            let after = add(tx, 2, 1).await;
            if NAME == "PostgreSQL" {
                let after = after.unwrap_err();
                assert_eq!(Fault::in_chain(&after), Some(Fault::CheckViolation));
            }
            Ok::<_, String>(())
        })
        .await;
    if NAME == "PostgreSQL" {
        let error = aborted(outcome);
        assert_eq!(error.fault(), Fault::CheckViolation);
        assert_eq!(error.constraint(), Some("views_n_check"));
        assert_eq!(all(&database).await, [0, 0, 0]);
    } else {
        outcome.unwrap();
        assert_eq!(all(&database).await, [0, 1, 0]);
    }
}

/// sqlx rolls back all of it when the `begin` of a savepoint is dropped, and lets the statements that follow commit by themselves.
#[tokio::test]
async fn a_savepoint_whose_begin_was_dropped_tears_nothing_apart() {
    let database = database(DDL).await;
    let outcome = transaction(&database.pool)
        .run(async |tx| {
            add(tx, 1, 1).await.unwrap();
            drop(polled(1, (&mut **tx).begin()).await);
            let after = add(tx, 2, 1).await;
            Ok::<_, String>(after.is_ok())
        })
        .await;
    match outcome {
        Ok(after) => assert_eq!(all(&database).await, [1, after.into(), 0]),
        outcome => {
            aborted(outcome);
            assert_eq!(all(&database).await, [0, 0, 0]);
        }
    }
    assert_eq!(database.open_transactions().await, 0);
}

/// The `begin` of `Tx` leaves it whole, wherever it is dropped.
#[tokio::test]
async fn a_begin_of_tx_that_was_dropped_leaves_the_transaction_whole() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    let rounds = AtomicU32::new(0);
    for limit in 1.. {
        let run = transaction(&pool).run(async |tx| {
            add(tx, 1, 1).await.unwrap();
            let finished = polled(limit, tx.begin()).await.is_some();
            add(tx, 2, 1).await.unwrap();
            Ok::<_, String>(finished)
        });
        let finished = run.await.unwrap();
        let round = i64::from(rounds.fetch_add(1, Ordering::SeqCst) + 1);
        assert_eq!(all(&database).await, [round, round, 0]);
        if finished && round > 20 {
            break;
        }
    }
}

#[tokio::test]
async fn a_savepoint_that_is_begun_is_committed_or_undone() {
    let database = database(DDL).await;
    let run = transaction(&database.pool).run(async |tx| {
        let mut outer = tx.begin().await.unwrap();
        add(&mut outer, 1, 1).await.unwrap();
        let mut inner = outer.begin().await.unwrap();
        add(&mut inner, 1, 10).await.unwrap();
        inner.rollback().await.unwrap();
        outer.commit().await.unwrap();
        let mut dropped = tx.begin().await.unwrap();
        add(&mut dropped, 2, 1).await.unwrap();
        drop(dropped);
        add(tx, 3, 1).await.unwrap();
        Ok::<_, String>(())
    });
    run.await.unwrap();
    assert_eq!(all(&database).await, [1, 0, 1]);
    let leaked = transaction(&database.pool).run(async |tx| {
        std::mem::forget(tx.begin().await.unwrap());
        add(tx, 2, 1).await.unwrap();
        Ok::<_, String>(())
    });
    aborted(leaked.await);
    assert_eq!(all(&database).await, [1, 0, 1]);
}

/// And the connection goes back to the pool without it.
#[tokio::test]
async fn a_savepoint_that_was_leaked_is_no_ok() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    let outcome = transaction(&pool)
        .run(async |tx| {
            add(tx, 1, 1).await.unwrap();
            std::mem::forget((&mut **tx).begin().await.unwrap());
            add(tx, 2, 1).await.unwrap();
            Ok::<_, String>(())
        })
        .await;
    aborted(outcome);
    assert_eq!(all(&database).await, [0, 0, 0]);
    let run = transaction(&pool).run(async |tx| add(tx, 1, 1).await);
    run.await.unwrap();
    assert_eq!(all(&database).await, [1, 0, 0]);
}

#[tokio::test]
async fn a_transaction_that_was_ended_by_hand_is_no_ok() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    for end in ["ROLLBACK", "COMMIT"] {
        let outcome = transaction(&pool)
            .run(async |tx| {
                add(tx, 1, 1).await.unwrap();
                (**tx).execute(end).await.unwrap();
                Ok::<_, String>(())
            })
            .await;
        aborted(outcome);
        let run = transaction(&pool).run(async |tx| add(tx, 2, 1).await);
        run.await.unwrap();
    }
    // What COMMIT committed nobody can take back.
    assert_eq!(all(&database).await, [1, 2, 0]);
}

/// What is written after it is in no transaction, or in one that nobody is going to commit.
#[tokio::test]
async fn a_transaction_that_was_replaced_by_hand_is_no_ok() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    let mut kept = 0;
    for end in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"] {
        // What comes after it: nothing, a generated method, one whose connection was lent before, a savepoint.
        for after in 0..4 {
            let outcome = transaction(&pool)
                .run(async |tx| {
                    if after == 2 {
                        tx.as_sqlx().execute("SELECT 1").await.unwrap();
                    }
                    add(tx, 1, 1).await.unwrap();
                    tx.as_sqlx().execute(end).await.unwrap();
                    let next = match after {
                        0 => return Ok::<_, String>(()),
                        3 => match tx.begin().await {
                            Ok(mut savepoint) => {
                                let next = add(&mut savepoint, 2, 1).await;
                                let _ = savepoint.commit().await;
                                next.is_ok()
                            }
                            Err(_) => false,
                        },
                        _ => add(tx, 2, 1).await.is_ok(),
                    };
                    // SQLite looks at its mark at COMMIT: the other transaction is rolled back.
                    assert_eq!(next, NAME == "SQLite" && end.ends_with("BEGIN"), "{end}");
                    Ok(())
                })
                .await;
            aborted(outcome);
            // What COMMIT committed nobody can take back.
            kept += i64::from(end.starts_with("COMMIT"));
            assert_eq!(all(&database).await, [kept, 0, 0], "{end}");
        }
    }
}

/// The mark goes with a savepoint in which it was made, and a statement that was not waited for leaves no room for it.
#[tokio::test]
async fn statements_that_are_not_seen_are_as_good_as_others() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    let raw = async |tx: &mut Tx<Db>, id: i64| {
        let sql = "UPDATE views SET n = n + 1 WHERE id = $1";
        let query = sqlx::query(sql).bind(id);
        query.execute(&mut **tx).await.map(drop).unwrap();
    };
    let run = transaction(&pool).run(async |tx| {
        if NAME == "PostgreSQL" {
            let sql = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
            (**tx).execute(sql).await.unwrap();
        }
        add(tx, 1, 1).await.unwrap();
        for undone in [false, true] {
            let mut savepoint = tx.begin().await.unwrap();
            raw(&mut savepoint, 1).await;
            add(&mut savepoint, 1, 1).await.unwrap();
            match undone {
                true => drop(savepoint),
                false => savepoint.commit().await.unwrap(),
            }
            add(tx, 2, 1).await.unwrap();
            raw(tx, 2).await;
        }
        let mut of_sqlx = (&mut **tx).begin().await.unwrap();
        (*of_sqlx)
            .execute("UPDATE views SET n = n + 1 WHERE id = 3")
            .await
            .unwrap();
        of_sqlx.commit().await.unwrap();
        for sql in ["SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"] {
            (**tx).execute(sql).await.unwrap();
            add(tx, 3, 1).await.unwrap();
        }
        Ok::<_, String>(())
    });
    run.await.unwrap();
    assert_eq!(all(&database).await, [3, 4, 3]);
    // First lent with an answer that nobody has read.
    let run = transaction(&pool).run(async |tx| {
        let mut savepoint = tx.begin().await.unwrap();
        add(&mut savepoint, 1, 1).await.unwrap();
        drop(savepoint);
        raw(tx, 2).await;
        add(tx, 2, 1).await.unwrap();
        raw(tx, 2).await;
        Ok::<_, String>(())
    });
    run.await.unwrap();
    assert_eq!(all(&database).await, [3, 7, 3]);
}

/// An error that ends the transaction: what follows is refused, or else it would be written without it.
#[tokio::test]
async fn nothing_is_written_outside_of_a_transaction_that_an_error_ended() {
    if NAME != "SQLite" {
        return;
    }
    let database = database(&format!(
        "{DDL}; CREATE TRIGGER ends BEFORE UPDATE ON views WHEN new.id = 2 BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    ))
    .await;
    let pool = database.one_connection_pool().await;
    let outcome = transaction(&pool)
        .run(async |tx| {
            add(tx, 1, 1).await.unwrap();
            add(tx, 2, 1).await.unwrap_err();
            add(tx, 3, 1).await.unwrap_err();
            (**tx)
                .execute("UPDATE views SET n = 7 WHERE id = 3")
                .await
                .unwrap();
            Ok::<_, String>(())
        })
        .await;
    aborted(outcome);
    assert_eq!(all(&database).await, [0, 0, 0]);
    let run = transaction(&pool).run(async |tx| add(tx, 1, 1).await);
    run.await.unwrap();
    assert_eq!(all(&database).await, [1, 0, 0]);
}

/// A part that fails alone, and one that is not waited for.
#[tokio::test]
async fn a_savepoint_undoes_what_failed_in_it() {
    let database = database(DDL).await;
    let pool = database.pool.clone();
    let run = tokio::spawn(async move {
        transaction(&pool)
            .run(async |tx| {
                add(tx, 1, 1).await.unwrap();
                let mut runs = 0;
                let failed = tx.savepoint(async |sp| {
                    runs += 1;
                    add(sp, 2, 1).await.unwrap();
                    add(sp, 2, 1000).await.map_err(|_| Failure)
                });
                failed.await.unwrap_err();
                let kept = tx.savepoint(async |sp| {
                    add(sp, 3, 1).await.unwrap();
                    let inner = sp.savepoint(async |sp| {
                        add(sp, 3, 5).await.unwrap();
                        Err::<(), _>(Failure)
                    });
                    inner.await.unwrap_err();
                    Ok::<_, Failure>(())
                });
                kept.await.unwrap();
                let dropped = tx.savepoint(async |sp| {
                    add(sp, 1, 7).await.unwrap();
                    std::future::pending::<Result<(), Failure>>().await
                });
                tokio::time::timeout(Duration::from_millis(200), dropped)
                    .await
                    .unwrap_err();
                add(tx, 2, 1).await.unwrap();
                Ok::<_, String>(runs)
            })
            .await
    });
    assert_eq!(run.await.unwrap().unwrap(), 1);
    assert_eq!(all(&database).await, [1, 1, 1]);
}

#[derive(Debug, thiserror::Error)]
#[error("failed")]
struct Failure;

impl From<sqlx::Error> for Failure {
    fn from(_: sqlx::Error) -> Self {
        Self
    }
}

/// An `Ok` over an error that was swallowed, or over a statement that was dropped, is an error of the savepoint, and only of it.
#[tokio::test]
async fn a_savepoint_that_lies_is_undone() {
    let database = database(DDL).await;
    let run = transaction(&database.pool).run(async |tx| {
        add(tx, 1, 1).await.unwrap();
        let lied = tx.savepoint(async |sp| {
            add(sp, 2, 1).await.unwrap();
            add(sp, 2, 1000).await.unwrap_err();
            Ok::<_, sqlx::Error>(())
        });
        let lied = lied.await;
        if NAME == "PostgreSQL" {
            assert_eq!(Fault::of(&lied.unwrap_err()), Fault::CheckViolation);
        } else {
            lied.unwrap();
        }
        let dropped = tx.savepoint(async |sp| {
            add(sp, 3, 1).await.unwrap();
            while polled(1, add(sp, 3, 1)).await.is_some() {}
            Ok::<_, sqlx::Error>(())
        });
        dropped.await.unwrap_err();
        Ok::<_, String>(())
    });
    run.await.unwrap();
    let swallowed = i64::from(NAME == "SQLite");
    assert_eq!(all(&database).await, [1, swallowed, 0]);
}

#[tokio::test]
async fn hooks_run_after_commit_and_only_then() {
    let database = database(DDL).await;
    let ran = Arc::new(AtomicU32::new(0));
    let hook = |by: u32| {
        let ran = ran.clone();
        async move || {
            ran.fetch_add(by, Ordering::SeqCst);
        }
    };
    let runs = AtomicU32::new(0);
    let run = transaction(&database.pool).run(async |tx| {
        runs.fetch_add(1, Ordering::SeqCst);
        tx.on_commit(hook(1));
        let undone = tx.savepoint(async |sp| {
            sp.on_commit(hook(100));
            Err::<(), _>(Failure)
        });
        undone.await.unwrap_err();
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        Ok::<_, String>(())
    });
    run.await.unwrap();
    assert_eq!((ran.load(Ordering::SeqCst), runs.into_inner()), (1, 1));
    let run = transaction(&database.pool).run(async |tx| {
        tx.on_commit(hook(1000));
        Err::<(), _>("no")
    });
    run.await.unwrap_err();
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

/// A hook that panics keeps no other from running, and nothing else panics.
#[tokio::test]
async fn a_hook_that_panics_keeps_no_other() {
    let database = database(DDL).await;
    let ran = Arc::new(AtomicU32::new(0));
    let (pool, last) = (database.pool.clone(), ran.clone());
    let run = tokio::spawn(async move {
        let run = transaction(&pool).run(async |tx| {
            let last = last.clone();
            add(tx, 1, 1).await?;
            tx.on_commit(async || panic!("a hook"));
            tx.on_commit(async move || {
                last.fetch_add(1, Ordering::SeqCst);
            });
            Ok::<_, rowlock::row::CounterError>(())
        });
        run.await
    });
    let panic = run.await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref(), Some(&"a hook"));
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    assert_eq!(all(&database).await, [1, 0, 0]);
}

/// What is no word of the database about this transaction is no reason to run it again.
#[tokio::test]
async fn only_what_the_database_said_of_this_transaction_is_run_again() {
    let database = database(DDL).await;
    let runs = AtomicU32::new(0);
    let count = || runs.fetch_add(1, Ordering::SeqCst) + 1;
    // A file.
    let run = transaction(&database.pool).run(async |tx| {
        count();
        (**tx).execute("SELECT 1").await?;
        Err::<(), _>(sqlx::Error::Io(std::io::ErrorKind::NotFound.into()))
    });
    assert!(matches!(run.await, Err(TransactionError::Failed(_))));
    assert_eq!(runs.swap(0, Ordering::SeqCst), 1);
    // Nothing was sent.
    let run = transaction(&database.pool).run(async |tx| {
        count();
        let mut many = sqlx::query("SELECT 1");
        for _ in 0..70_000 {
            many = many.bind(1_i64);
        }
        many.execute(&mut **tx).await
    });
    // SQLite does not look at values that the statement has no place for.
    match run.await {
        Ok(_) => assert_eq!(NAME, "SQLite"),
        outcome => assert!(
            matches!(outcome, Err(TransactionError::Failed(_))),
            "{outcome:?}"
        ),
    }
    assert_eq!(runs.swap(0, Ordering::SeqCst), 1);
    // Another transaction, which knows of no outcome.
    let run = transaction(&database.pool).run(async |tx| {
        count();
        (**tx).execute("SELECT 1").await.unwrap();
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        Err::<(), _>(lost)
    });
    assert!(matches!(run.await, Err(TransactionError::Failed(_))));
    assert_eq!(runs.swap(0, Ordering::SeqCst), 1);
}

/// A conflict that the closure made a string of.
#[tokio::test]
async fn a_conflict_is_run_again_whatever_the_closure_makes_of_it() {
    if NAME != "PostgreSQL" {
        return;
    }
    let database = database(DDL).await;
    let runs = AtomicU32::new(0);
    let run = transaction(&database.pool)
        .repeatable_read()
        .run(async |tx| {
            Views::get(&mut *tx, 1).await.unwrap();
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                Views::add_n(&database.pool, 1, 1).await.unwrap();
            }
            add(tx, 1, 10).await.map_err(|error| error.to_string())
        });
    run.await.unwrap();
    assert_eq!(runs.swap(0, Ordering::SeqCst), 2);
    assert_eq!(all(&database).await, [11, 0, 0]);
    // Swallowed, it is known all the same.
    let run = transaction(&database.pool)
        .repeatable_read()
        .attempts(1)
        .run(async |tx| {
            Views::get(&mut *tx, 1).await.unwrap();
            Views::add_n(&database.pool, 1, 1).await.unwrap();
            let _ = add(tx, 1, 10).await;
            Ok::<_, String>(())
        });
    let outcome = run.await;
    assert!(
        matches!(
            &outcome,
            Err(TransactionError::Exhausted { last: LastFailure::Database(error), .. }) if error.fault() == Fault::Serialization
        ),
        "{outcome:?}"
    );
}

/// A COMMIT that is refused leaves the connection as good as new; a database in memory would be gone with it.
#[tokio::test]
async fn a_refused_commit_gives_the_connection_back() {
    let database = database(
        "CREATE TABLE owners (id bigint PRIMARY KEY);
         CREATE TABLE pets (owner bigint REFERENCES owners (id) DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let pool = database.one_connection_pool().await;
    sqlx::query("CREATE TEMPORARY TABLE mark (id bigint)")
        .execute(&pool)
        .await
        .unwrap();
    for _ in 0..3 {
        let outcome = transaction(&pool)
            .run(async |tx| (**tx).execute("INSERT INTO pets VALUES (7)").await)
            .await;
        assert!(
            matches!(&outcome, Err(TransactionError::Commit(error)) if error.fault() == Fault::ForeignKeyViolation),
            "{outcome:?}"
        );
        // It is of the connection.
        sqlx::query("INSERT INTO mark VALUES (1)")
            .execute(&pool)
            .await
            .unwrap();
    }
    let pets: i64 = sqlx::query_scalar("SELECT count(*) FROM pets")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(pets, 0);
}
