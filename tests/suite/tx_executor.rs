//! Statements of sqlx on a `&mut Tx`, which sees them.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::TryStreamExt;
use rowlock::tx::TransactionError;
use rowlock::{Fault, Tx, transaction};
use rowlock_tests::cancel::polled;
use sqlx::{Executor, Row, SqlSafeStr, Statement};

use super::tx::{DDL, Views, aborted, all};
use super::{Db, NAME, database};

const ADD: &str = "UPDATE views SET n = n + $2 WHERE id = $1";

async fn add(tx: &mut Tx<Db>, id: i64, delta: i64) -> Result<(), sqlx::Error> {
    let query = sqlx::query(ADD).bind(id).bind(delta);
    query.execute(&mut *tx).await.map(drop)
}

#[tokio::test]
async fn every_way_to_run_a_statement() {
    let database = database(DDL).await;
    let pool = database.pool.clone();
    let run = tokio::spawn(async move {
        transaction(&pool)
            .run(async |tx| {
                let done = sqlx::query("UPDATE views SET n = 1").execute(&mut *tx);
                assert_eq!(done.await?.rows_affected(), 3);
                let sql = "UPDATE views SET n = n + 1 WHERE id = 1; UPDATE views SET n = n + 1";
                let done = sqlx::raw_sql(sql).execute(&mut *tx).await?;
                assert_eq!(done.rows_affected(), 4);
                let select = "SELECT n FROM views ORDER BY id";
                let rows: Vec<i64> = sqlx::query_scalar(select).fetch_all(&mut *tx).await?;
                assert_eq!(rows, [3, 2, 2]);
                let first: i64 = sqlx::query_scalar(select).fetch_one(&mut *tx).await?;
                let none = sqlx::query("SELECT n FROM views WHERE id = 9");
                let none = none.fetch_optional(&mut *tx).await?;
                assert_eq!((first, none.is_none()), (3, true));
                let missing = sqlx::query("SELECT n FROM views WHERE id = 9");
                let missing = missing.fetch_one(&mut *tx).await;
                assert!(matches!(missing, Err(sqlx::Error::RowNotFound)));
                let mut stream = sqlx::query(select).fetch(&mut *tx);
                let mut sum = 0;
                while let Some(row) = stream.try_next().await? {
                    sum += row.get::<i64, _>(0);
                }
                drop(stream);
                let statement = (&mut *tx).prepare(select.into_sql_str()).await?;
                let prepared = statement.query().fetch_all(&mut *tx).await?.len();
                Views::add_n(&mut *tx, 1, 1).await.unwrap();
                Ok::<_, sqlx::Error>((sum, prepared))
            })
            .await
    });
    assert_eq!(run.await.unwrap().unwrap(), (7, 3));
    assert_eq!(all(&database).await, [4, 2, 2]);
}

/// Through `&mut **tx` it is not seen, and a string says nothing.
#[tokio::test]
async fn a_conflict_that_became_a_string_is_run_again_and_naive_twin_is_not() {
    if NAME != "PostgreSQL" {
        return;
    }
    let database = database(DDL).await;
    for seen in [true, false] {
        let runs = AtomicU32::new(0);
        let run = transaction(&database.pool)
            .repeatable_read()
            .run(async |tx| {
                Views::get(&mut *tx, 1).await.unwrap();
                if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                    Views::add_n(&database.pool, 1, 1).await.unwrap();
                }
                let query = sqlx::query(ADD).bind(1).bind(10);
                let done = match seen {
                    true => query.execute(&mut *tx).await,
                    false => query.execute(&mut **tx).await,
                };
                done.map(drop).map_err(|error| error.to_string())
            });
        let outcome = run.await;
        if seen {
            outcome.unwrap();
        } else {
            assert!(
                matches!(outcome, Err(TransactionError::Failed(_))),
                "{outcome:?}"
            );
        }
        assert_eq!(runs.into_inner(), if seen { 2 } else { 1 });
    }
    assert_eq!(all(&database).await, [12, 0, 0]);
}

/// Also from a stream, whose error comes piece by piece.
#[tokio::test]
async fn the_first_error_is_the_one_to_know() {
    if NAME != "PostgreSQL" {
        return;
    }
    let database = database(DDL).await;
    for streamed in [false, true] {
        let run = transaction(&database.pool).run(async |tx| {
            if streamed {
                let sql = "UPDATE views SET n = 1000 * (id - 1) RETURNING n";
                let rows: Result<Vec<_>, _> = sqlx::query(sql).fetch(&mut *tx).try_collect().await;
                rows.unwrap_err();
            } else {
                add(tx, 1, 1000).await.unwrap_err();
            }
            let after = add(tx, 2, 1).await.unwrap_err();
            assert_eq!(Fault::of(&after), Fault::CheckViolation);
            Ok::<_, String>(())
        });
        let error = aborted(run.await);
        assert_eq!(error.constraint(), Some("views_n_check"));
    }
    assert_eq!(all(&database).await, [0, 0, 0]);
}

/// Whether it took effect, the closure cannot know. One that was never polled was never sent.
#[tokio::test]
async fn a_statement_that_was_dropped_is_no_ok() {
    let database = database(DDL).await;
    for of_ours in [false, true] {
        let outcome = transaction(&database.pool)
            .run(async |tx| {
                let dropped = async |tx: &mut Tx<Db>| match of_ours {
                    true => polled(1, Views::add_n(tx, 2, 1)).await.is_none(),
                    false => polled(1, add(tx, 2, 1)).await.is_none(),
                };
                add(tx, 1, 1).await.unwrap();
                // SQLite's thread can be faster than one poll.
                while !dropped(tx).await {}
                add(tx, 3, 1).await.unwrap();
                Ok::<_, String>(())
            })
            .await;
        aborted(outcome);
        assert_eq!(all(&database).await, [0, 0, 0]);
        assert_eq!(database.open_transactions().await, 0);
    }
    let outcome = transaction(&database.pool)
        .run(async |tx| {
            let dropped = polled(1, async {
                let mut stream = sqlx::query("UPDATE views SET n = 1").fetch(&mut *tx);
                stream.try_next().await
            });
            if dropped.await.is_some() {
                return Err("SQLite's thread was faster");
            }
            Ok::<_, &str>(())
        })
        .await;
    assert!(!matches!(outcome, Ok(())), "{outcome:?}");
    assert_eq!(all(&database).await, [0, 0, 0]);
    assert_eq!(database.open_transactions().await, 0);
    let run = transaction(&database.pool).run(async |tx| {
        drop(sqlx::query("UPDATE views SET n = 7").fetch(&mut *tx));
        drop((&mut *tx).execute("UPDATE views SET n = 7"));
        add(tx, 3, 1).await
    });
    run.await.unwrap();
    assert_eq!(all(&database).await, [0, 0, 1]);
}

/// It has written all rows by then. What was not run of several statements, nobody was told.
#[tokio::test]
async fn a_stream_can_be_dropped_after_its_first_row() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    for sql in [
        "SELECT id FROM views ORDER BY id",
        "UPDATE views SET n = n + 1 RETURNING id",
        "SELECT id FROM views; UPDATE views SET n = n + 1",
    ] {
        let outcome = transaction(&pool)
            .run(async |tx| {
                let mut stream = sqlx::raw_sql(sql).fetch(&mut *tx);
                assert!(stream.try_next().await.unwrap().is_some());
                drop(stream);
                add(tx, 1, 10).await
            })
            .await;
        match outcome {
            Ok(()) => {}
            outcome => {
                assert!(NAME == "SQLite" && sql.contains(';'), "{outcome:?}");
                aborted(outcome);
            }
        }
    }
    let expected = match NAME {
        "SQLite" => [21, 1, 1],
        _ => [32, 2, 2],
    };
    assert_eq!(all(&database).await, expected);
}

/// What is wrong with the rest is the error of what comes next, of COMMIT at the latest.
#[tokio::test]
async fn an_error_in_the_rest_of_a_stream_is_not_lost() {
    if NAME != "PostgreSQL" {
        return;
    }
    let database = database(DDL).await;
    for more in [true, false] {
        let outcome = transaction(&database.pool)
            .run(async |tx| {
                add(tx, 1, 1).await?;
                let sql = "SELECT 1 / (20000 - i) FROM generate_series(1, 20000) AS i";
                let mut stream = sqlx::query(sql).fetch(&mut *tx);
                assert!(stream.try_next().await?.is_some());
                drop(stream);
                match more {
                    true => add(tx, 1, 1).await,
                    false => Ok(()),
                }
            })
            .await;
        match outcome {
            Err(TransactionError::Failed(error)) if more => {
                assert_eq!(Fault::of(&error), Fault::InvalidValue);
            }
            Err(TransactionError::Commit(error)) if !more => {
                assert_eq!(error.fault(), Fault::InvalidValue);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(all(&database).await, [0, 0, 0]);
}

/// They are not sent, and what follows is not either.
#[tokio::test]
async fn a_transaction_is_not_ended_by_hand() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    for sql in [
        "COMMIT",
        " rollback ;",
        "END TRANSACTION",
        "-- done\nCOMMIT AND CHAIN",
        "ROLLBACK; BEGIN",
        "PREPARE TRANSACTION 'a'",
    ] {
        let outcome = transaction(&pool)
            .run(async |tx| {
                add(tx, 1, 1).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut *tx).await.unwrap_err();
                add(tx, 2, 1).await.unwrap_err();
                Views::add_n(&mut *tx, 3, 1).await.unwrap_err();
                let mut stream = sqlx::query(ADD).bind(1).bind(1).fetch(&mut *tx);
                stream.try_next().await.unwrap_err();
                Ok::<_, String>(())
            })
            .await;
        aborted(outcome);
        assert_eq!(all(&database).await, [0, 0, 0], "{sql}");
    }
    let run = transaction(&pool).run(async |tx| {
        for sql in ["SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"] {
            (&mut *tx).execute(sql).await?;
            add(tx, 1, 1).await?;
        }
        Ok::<_, sqlx::Error>(())
    });
    run.await.unwrap();
    assert_eq!(all(&database).await, [2, 0, 0]);
}

/// A later one of several statements is not looked for in strings and bodies of functions, but asked about.
#[tokio::test]
async fn a_transaction_that_one_of_several_statements_ended_is_no_ok() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    for (sql, kept) in [
        ("SELECT 1; ROLLBACK", 0),
        ("SELECT 1; ROLLBACK; BEGIN", 0),
        ("SELECT 1; COMMIT", 1),
        ("SELECT 1; COMMIT; BEGIN", 1),
        // Where comments have semicolons.
        ("SELECT 1; -- a; b\nROLLBACK", 0),
        ("SELECT 1;;/*;*/ROLLBACK;BEGIN", 0),
        ("SELECT 1; /* ; */ COMMIT", 1),
    ] {
        for more in [false, true] {
            let before = all(&database).await[0];
            let outcome = transaction(&pool)
                .run(async |tx| {
                    add(tx, 1, 1).await.unwrap();
                    sqlx::raw_sql(sql).execute(&mut *tx).await.unwrap();
                    if more {
                        let _ = add(tx, 2, 1).await;
                        let _ = Views::add_n(&mut *tx, 3, 1).await;
                    }
                    Ok::<_, String>(())
                })
                .await;
            aborted(outcome);
            // What COMMIT committed nobody can take back.
            assert_eq!(all(&database).await, [before + kept, 0, 0], "{sql}");
        }
    }
    let run = transaction(&pool).run(async |tx| {
        let sql = "INSERT INTO views VALUES (9, length('; COMMIT'))";
        sqlx::raw_sql(sql).execute(&mut *tx).await?;
        add(tx, 9, 1).await
    });
    run.await.unwrap();
    assert_eq!(all(&database).await, [2 * 3, 0, 0, 9]);
}

/// A text of several statements is run to its end, also by what wants the first row only.
#[tokio::test]
async fn the_first_row_of_several_statements_is_not_the_last_that_is_run() {
    let database = database(DDL).await;
    let run = transaction(&database.pool).run(async |tx| {
        let sql = "SELECT 1; UPDATE views SET n = n + 1 WHERE id = 1";
        sqlx::raw_sql(sql).fetch_one(&mut *tx).await?;
        sqlx::raw_sql(sql).fetch_optional(&mut *tx).await
    });
    run.await.unwrap();
    assert_eq!(all(&database).await, [2, 0, 0]);
}
