//! Random transactions: trees of savepoints, with statements that fail and are swallowed, futures that are dropped, savepoints that
//! are leaked, and COMMIT and ROLLBACK by hand.
//!
//! `Ok` if and only if all of it is in the database, and nothing of it otherwise. `ROWLOCK_SEED` runs one program again;
//! `ROWLOCK_PROGRAMS` says how many there are.

use futures_util::future::BoxFuture;
use rowlock::tx::{Savepoint, TransactionError};
use rowlock::{Counter, Tx, transaction};
use rowlock_tests::cancel::polled;
use rowlock_tests::random::Random;
use sqlx::{Acquire, AssertSqlSafe, Executor};

use super::{Database, Db, NAME, database};

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "rows")]
#[allow(dead_code)]
struct Row {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    n: i64,
}

const ROWS: usize = 3;
const DDL: &str =
    "CREATE TABLE rows (id bigint PRIMARY KEY, n bigint NOT NULL CHECK (n < 1000000));
    INSERT INTO rows VALUES (0, 0), (1, 0), (2, 0)";

#[derive(Debug, Clone)]
enum Step {
    /// A generated method.
    Add(usize),
    /// One that the table refuses, and whose error is swallowed.
    Refused,
    /// One whose future is dropped after so many polls.
    AddDropped(usize, usize),
    /// A statement of sqlx's, which `Tx` does not see.
    Raw(usize),
    RawRefused,
    /// The same on `&mut Tx`, which sees it.
    Seen(usize),
    SeenRefused,
    SeenDropped(usize, usize),
    SeenByHand(bool),
    /// A savepoint of `Tx`.
    Savepoint(Vec<Step>, End),
    /// Its `begin`, dropped after so many polls.
    BeginDropped(usize),
    /// A savepoint of sqlx's, in which only sqlx's statements can run.
    OfSqlx(Vec<usize>, End),
    OfSqlxBeginDropped(usize),
    /// Which of [`BY_HAND`].
    ByHand(usize),
}

/// The last two begin another transaction in place of the one that they end.
const BY_HAND: [&str; 4] = ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"];

#[derive(Debug, Clone, Copy)]
enum End {
    Commit,
    Rollback,
    Drop,
    Leak,
    /// Its `commit`, dropped after so many polls.
    CommitDropped(usize),
}

fn end(random: &mut Random) -> End {
    match random.below(12) {
        0..6 => End::Commit,
        6..8 => End::Rollback,
        8..10 => End::Drop,
        10 => End::CommitDropped(1 + random.below(3)),
        _ => End::Leak,
    }
}

fn steps(random: &mut Random, depth: usize) -> Vec<Step> {
    let row = |random: &mut Random| random.below(ROWS);
    let count = 1 + random.below(5);
    let step = |random: &mut Random| match random.below(44) {
        0..14 => Step::Add(row(random)),
        14..20 => Step::Raw(row(random)),
        20..23 => Step::Refused,
        23 => Step::RawRefused,
        24..26 => Step::AddDropped(row(random), 1 + random.below(3)),
        26 => Step::BeginDropped(1 + random.below(3)),
        27 => Step::OfSqlxBeginDropped(1 + random.below(3)),
        28..31 => {
            let rows = (0..random.below(3)).map(|_| row(random)).collect();
            Step::OfSqlx(rows, end(random))
        }
        31 => Step::ByHand(random.below(4)),
        32..35 => Step::Seen(row(random)),
        35 => match random.below(4) {
            0 => Step::SeenRefused,
            1 => Step::SeenByHand(random.below(2) == 0),
            _ => Step::SeenDropped(row(random), 1 + random.below(3)),
        },
        _ if depth < 3 => Step::Savepoint(steps(random, depth + 1), end(random)),
        _ => Step::Add(row(random)),
    };
    (0..count).map(|_| step(random)).collect()
}

/// What should be in the database, and what is known of the transaction.
#[derive(Debug, Clone, Default)]
struct Model {
    rows: [i64; ROWS],
    /// Something happened that may not end as `Ok`, unless it is rolled back to a savepoint from before.
    spoilt: bool,
    /// Something happened after which the transaction may refuse to commit, although it could.
    doubtful: bool,
    /// sqlx's own `begin` failed or was dropped, and may have torn down the transaction: what sqlx writes from then on, nobody
    /// sees. (`Tx::begin` is for that.)
    torn: bool,
    /// COMMIT or ROLLBACK by hand: what sqlx writes from then on, and what was committed, is nobody's to take back.
    ended: bool,
    /// After that a savepoint of sqlx's, which to SQLite is a transaction like the one before, or the question whether there is
    /// one, which opens one to be rolled back, without anybody to hear the answer.
    replaced: bool,
    /// COMMIT or ROLLBACK by hand was refused.
    refused: bool,
    /// A statement of sqlx ran that `Tx` does not see, so that it asks the server. If that is dropped, and another one runs, it cannot
    /// tell any more.
    raw: bool,
    /// A savepoint of sqlx was leaked.
    leaked: bool,
    /// After that sqlx's `begin` was dropped, which on SQLite undoes the leaked one: nobody sees either.
    hidden: bool,
}

impl Model {
    /// On SQLite it can be in another transaction, which is rolled back.
    fn written(&mut self, row: usize) {
        assert!(!self.refused, "after a refused COMMIT or ROLLBACK");
        assert!(
            !self.ended || self.replaced && NAME == "SQLite",
            "written outside of the transaction"
        );
        self.rows[row] += 1;
    }
}

/// What can be nested in a future that is boxed.
fn run<'a>(tx: &'a mut Tx<Db>, steps: &'a [Step], model: &'a mut Model) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        for step in steps {
            one(tx, step, model).await;
        }
    })
}

async fn one(tx: &mut Tx<Db>, step: &Step, model: &mut Model) {
    // A failed statement spoils a transaction of PostgreSQL, and nothing of SQLite's.
    let aborts = NAME == "PostgreSQL";
    model.raw |= matches!(
        step,
        Step::Raw(_)
            | Step::RawRefused
            | Step::OfSqlx(..)
            | Step::OfSqlxBeginDropped(_)
            | Step::ByHand(_)
    );
    match *step {
        Step::Add(row) => match Row::add_n(&mut *tx, row as i64, 1).await {
            Ok(_) => model.written(row),
            Err(_) => model.spoilt |= aborts,
        },
        Step::Refused => {
            Row::add_n(&mut *tx, 0, 1_000_000).await.unwrap_err();
            model.spoilt |= aborts;
        }
        Step::AddDropped(row, limit) => {
            match polled(limit, Row::add_n(&mut *tx, row as i64, 1)).await {
                Some(Ok(_)) => model.written(row),
                Some(Err(_)) => model.spoilt |= aborts,
                None => {
                    model.spoilt = true;
                    model.replaced |= model.ended;
                }
            }
        }
        Step::Raw(row) => {
            let sql = format!("UPDATE rows SET n = n + 1 WHERE id = {row}");
            match (**tx).execute(AssertSqlSafe(sql)).await {
                Ok(_) => model.rows[row] += 1,
                Err(_) => model.spoilt |= aborts,
            }
        }
        Step::RawRefused => {
            let sql = "UPDATE rows SET n = 1000000";
            (**tx).execute(sql).await.unwrap_err();
            model.spoilt |= aborts;
        }
        Step::Seen(row) => {
            let sql = format!("UPDATE rows SET n = n + 1 WHERE id = {row}");
            match (&mut *tx).execute(AssertSqlSafe(sql)).await {
                Ok(_) => model.written(row),
                Err(_) => model.spoilt |= aborts,
            }
        }
        Step::SeenRefused => {
            let sql = "UPDATE rows SET n = 1000000";
            (&mut *tx).execute(sql).await.unwrap_err();
            model.spoilt |= aborts;
        }
        Step::SeenDropped(row, limit) => {
            let sql = format!("UPDATE rows SET n = n + 1 WHERE id = {row}");
            match polled(limit, (&mut *tx).execute(AssertSqlSafe(sql))).await {
                Some(Ok(_)) => model.written(row),
                Some(Err(_)) => model.spoilt |= aborts,
                None => {
                    model.spoilt = true;
                    model.replaced |= model.ended;
                }
            }
        }
        Step::SeenByHand(commit) => {
            let sql = if commit { "COMMIT" } else { "ROLLBACK" };
            (&mut *tx).execute(sql).await.unwrap_err();
            model.refused = true;
        }
        Step::Savepoint(ref steps, end) => {
            let before = model.clone();
            match tx.begin().await {
                Ok(mut savepoint) => {
                    run(&mut savepoint, steps, model).await;
                    close(savepoint, end, model, before).await;
                }
                Err(_) => model.doubtful = true,
            }
        }
        Step::BeginDropped(limit) => match polled(limit, tx.begin()).await {
            Some(Ok(savepoint)) => drop(savepoint),
            Some(Err(_)) => model.doubtful = true,
            None => {
                model.replaced |= model.ended;
                model.doubtful |= model.raw;
            }
        },
        Step::OfSqlx(ref rows, end) => {
            model.replaced |= model.ended;
            let before = model.clone();
            let Ok(mut savepoint) = (&mut **tx).begin().await else {
                model.doubtful = true;
                model.torn = true;
                return;
            };
            for row in rows {
                let sql = format!("UPDATE rows SET n = n + 1 WHERE id = {row}");
                match (*savepoint).execute(AssertSqlSafe(sql)).await {
                    Ok(_) => model.rows[*row] += 1,
                    Err(_) => model.spoilt |= aborts,
                }
            }
            let committed = match end {
                End::Commit => savepoint.commit().await.is_ok(),
                End::Rollback => {
                    let _ = savepoint.rollback().await;
                    false
                }
                End::Drop => {
                    // SQLite's thread may not have come to it when the savepoint around it is dropped too.
                    model.doubtful |= !aborts;
                    false
                }
                // Nobody can tell whether a RELEASE that was dropped took place: only that half of it may not be `Ok`.
                End::CommitDropped(_) | End::Leak => {
                    std::mem::forget(savepoint);
                    model.spoilt = true;
                    model.doubtful = true;
                    model.leaked = true;
                    return;
                }
            };
            if !committed {
                *model = undone(before, model);
            }
        }
        Step::OfSqlxBeginDropped(limit) => {
            model.replaced |= model.ended;
            let begun = polled(limit, (&mut **tx).begin()).await;
            let is_torn = !matches!(begun, Some(Ok(_)));
            // Dropped at once, SQLite's thread may not have come to it when the savepoint around it is dropped too.
            model.doubtful |= is_torn || !aborts;
            model.torn |= is_torn;
            model.hidden |= model.leaked && !aborts;
        }
        Step::ByHand(which) => {
            // An error can be that of a statement which was dropped, in place of which this one was not sent.
            match (**tx).execute(BY_HAND[which]).await {
                Ok(_) => {
                    model.ended = true;
                    model.replaced |= which >= 2;
                }
                Err(_) => (model.doubtful, model.torn) = (true, true),
            }
        }
    }
}

async fn close(savepoint: Savepoint<'_, Db>, end: End, model: &mut Model, before: Model) {
    match end {
        End::Commit => {
            if savepoint.commit().await.is_err() {
                *model = undone(before, model);
            }
        }
        End::Rollback => {
            let rolled_back = savepoint.rollback().await;
            *model = undone(before, model);
            model.doubtful |= rolled_back.is_err();
        }
        End::Drop => {
            drop(savepoint);
            *model = undone(before, model);
        }
        End::CommitDropped(limit) => match polled(limit, savepoint.commit()).await {
            Some(Ok(())) => {}
            Some(Err(_)) => *model = undone(before, model),
            None => {
                *model = undone(before, model);
                model.replaced |= model.ended;
                model.doubtful |= model.raw;
            }
        },
        End::Leak => {
            std::mem::forget(savepoint);
            model.spoilt = true;
            model.doubtful = true;
        }
    }
}

/// What happened in a savepoint is gone with it, but for the end of the transaction.
fn undone(before: Model, model: &Model) -> Model {
    Model {
        ended: model.ended,
        torn: model.torn,
        replaced: model.replaced,
        refused: model.refused,
        raw: model.raw,
        leaked: model.leaked,
        hidden: model.hidden,
        doubtful: model.doubtful,
        ..before
    }
}

async fn stored(database: &Database) -> Vec<i64> {
    sqlx::query_scalar("SELECT n FROM rows ORDER BY id")
        .fetch_all(&database.pool)
        .await
        .unwrap()
}

fn programs() -> usize {
    let programs = std::env::var("ROWLOCK_PROGRAMS").ok();
    programs.and_then(|text| text.parse().ok()).unwrap_or(300)
}

#[tokio::test]
async fn ok_if_and_only_if_all_of_it_is_in_the_database() {
    let database = database(DDL).await;
    let pool = database.one_connection_pool().await;
    let first = std::env::var("ROWLOCK_SEED").ok();
    let first: u64 = first.and_then(|text| text.parse().ok()).unwrap_or(0);
    let (mut committed, mut refused) = (0, 0);
    for seed in first..first + programs() as u64 {
        let mut random = Random::seeded(seed);
        let steps = steps(&mut random, 0);
        let fails = random.below(8) == 0;
        println!("seed {seed}: {steps:?} {fails}");
        let model = tokio::sync::Mutex::new(Model::default());
        let before = stored(&database).await;
        let outcome = transaction(&pool)
            .attempts(1)
            .run(async |tx| {
                let mut model = model.lock().await;
                run(tx, &steps, &mut model).await;
                if fails { Err("asked to fail") } else { Ok(()) }
            })
            .await;
        let model = model.into_inner();
        let after = stored(&database).await;
        println!("{outcome:?}");
        let told =
            || format!("seed {seed}: {steps:?}\n{model:?}\n{outcome:?}\n{before:?} {after:?}");
        let changes: Vec<i64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        match &outcome {
            Ok(()) if model.hidden => {}
            Ok(()) => {
                let whole = !fails && !model.spoilt && !model.ended && !model.refused;
                assert!(whole, "{}", told());
                assert_eq!(changes, model.rows, "{}", told());
                committed += 1;
            }
            Err(error) => {
                if !model.ended && !model.torn {
                    assert_eq!(changes, [0; ROWS], "{}", told());
                }
                let sound =
                    !(fails || model.spoilt || model.doubtful || model.ended || model.refused);
                assert!(!sound, "{}", told());
                if fails && !model.ended {
                    assert!(matches!(error, TransactionError::Failed(_)), "{}", told());
                }
                refused += 1;
            }
        }
        // Once the pool has it back, nothing of what the transaction left to be sent is under way.
        let connection = pool.acquire().await.unwrap();
        assert_eq!(database.open_transactions().await, 0, "{}", told());
        drop(connection);
    }
    println!("{committed} committed, {refused} not");
    if programs() >= 100 {
        assert!(committed > 20 && refused > 20, "{committed} {refused}");
    }
}
