//! What of many rows only PostgreSQL has: locks of rows, arrays, types.

use std::time::{Duration, Instant};

use rowlock::row::{DeleteError, InsertError, UpdateError};
use rowlock::{Fault, Versioned, Xmin};
use rowlock_tests::proxy::Proxy;
use sqlx::{Connection as _, Executor};

use super::{Connection, Pool, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "numbers", backend(Postgres))]
struct Number {
    #[rowlock(key)]
    id: i64,
    value: i64,
    #[rowlock(version)]
    version: i64,
}

const NUMBERS: &str =
    "CREATE TABLE numbers (id bigint PRIMARY KEY, value bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0);
     INSERT INTO numbers (id) SELECT n FROM generate_series(1000, 1, -1) AS n;
     ANALYZE numbers";

async fn numbers(pool: &Pool, ids: impl IntoIterator<Item = i64>) -> Vec<Number> {
    let loaded = Number::load_many(pool, ids).await.into_iter();
    loaded.collect::<Result<_, _>>().unwrap()
}

/// The rows are there, and their keys are read as nothing else than `load` reads them.
#[tokio::test]
async fn a_key_column_of_another_width() {
    let database = database(
        "CREATE TABLE numbers (id integer PRIMARY KEY, value bigint NOT NULL, version bigint NOT NULL);
         INSERT INTO numbers VALUES (1, 1, 0), (2, 2, 0)",
    )
    .await;
    let pool = &database.pool;
    let one = Number::load(pool, 1).await.unwrap_err().to_string();
    let many = Number::load_many(pool, [1, 2]).await.remove(0).unwrap_err();
    assert_eq!(many.to_string().replace("_many", ""), one);
    let rows = [1, 2].map(|id| Number {
        id,
        value: 7,
        version: 0,
    });
    let updated = Number::update_many(pool, &rows).await;
    assert!(updated.iter().all(Result::is_ok), "{updated:?}");
}

/// Two batches that give the same rows in different orders would deadlock, whatever the plan. The naive twin writes them as they are given.
#[tokio::test]
async fn rows_are_locked_in_the_order_of_their_keys() {
    const ANY: &str = "SET enable_nestloop = on";
    // It reads the table as it lies there, and looks each row up among those given.
    const HASH: &str = "SET enable_nestloop = off; SET enable_mergejoin = off";
    for (naive, plan) in [(true, ANY), (true, HASH), (false, ANY), (false, HASH)] {
        for deletes in [false, true] {
            let database = database(NUMBERS).await;
            let rows = numbers(&database.pool, (1..=1000).rev()).await;
            let mut holder = database.connection().await;
            let mut holding = holder.begin().await.unwrap();
            // As a new row that refers to it has it. An update waits for nobody with that.
            let held = match deletes {
                true => "SELECT FROM numbers WHERE id = 700 FOR KEY SHARE",
                false => "SELECT FROM numbers WHERE id = 700 FOR NO KEY UPDATE",
            };
            holding.execute(held).await.unwrap();
            let mut batch = database.pool.acquire().await.unwrap();
            batch.execute(plan).await.unwrap();
            let waiting = tokio::spawn(async move {
                if naive {
                    let sql = match deletes {
                        true => {
                            "DELETE FROM numbers USING unnest($1) AS given (id) WHERE numbers.id = given.id"
                        }
                        false => {
                            "UPDATE numbers SET value = 1 FROM unnest($1) AS given (id) WHERE numbers.id = given.id"
                        }
                    };
                    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
                    let written = sqlx::query(sql).bind(ids).execute(&mut *batch).await;
                    return written.unwrap().rows_affected();
                }
                let written = match deletes {
                    true => Number::delete_many(&mut *batch, &rows)
                        .await
                        .iter()
                        .filter(|row| row.is_ok())
                        .count(),
                    false => Number::update_many(&mut *batch, &rows)
                        .await
                        .iter()
                        .filter(|row| row.is_ok())
                        .count(),
                };
                written as u64
            });
            database.until_blocked().await;
            let mut other = database.connection().await;
            let free: Vec<i64> =
                sqlx::query_scalar("SELECT id FROM numbers ORDER BY id FOR UPDATE SKIP LOCKED")
                    .fetch_all(&mut other)
                    .await
                    .unwrap();
            assert_eq!(
                free == (701..=1000).collect::<Vec<_>>(),
                !naive,
                "{deletes} {plan}"
            );
            holding.rollback().await.unwrap();
            assert_eq!(waiting.await.unwrap(), 1000);
        }
    }
}

/// Two inserts that give the same keys in different orders would deadlock: whoever waits for one key has written those before it, and none after it.
#[tokio::test]
async fn rows_are_inserted_in_the_order_of_their_keys() {
    let database = database(NUMBERS).await;
    let pool = database.pool.clone();
    pool.execute("DELETE FROM numbers").await.unwrap();
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    let held = "INSERT INTO numbers (id) VALUES (50)";
    holding.execute(held).await.unwrap();
    let waiting = tokio::spawn(async move {
        let rows: Vec<Number> = (1..=100)
            .rev()
            .map(|id| Number {
                id,
                value: 0,
                version: 0,
            })
            .collect();
        let inserted = Number::insert_many(&pool, &rows).await;
        let inserted: Vec<i64> = inserted.into_iter().map(|row| row.unwrap().id).collect();
        inserted.into_iter().eq((1..=100).rev())
    });
    database.until_blocked().await;
    let mut other = database.connection().await;
    for (id, is_free) in [(20, false), (80, true)] {
        let mut tx = other.begin().await.unwrap();
        tx.execute("SET LOCAL lock_timeout = '50ms'").await.unwrap();
        let sql = "INSERT INTO numbers (id) VALUES ($1)";
        let inserted = sqlx::query(sql).bind(id).execute(&mut *tx).await;
        assert_eq!(inserted.is_ok(), is_free, "{id}");
        tx.rollback().await.unwrap();
    }
    holding.rollback().await.unwrap();
    assert!(waiting.await.unwrap());
}

/// A trigger drops some of the rows. Which, the statement about all of them does not know.
#[tokio::test]
async fn a_row_whose_insert_is_dropped_hurts_no_other() {
    let database = database(
        "CREATE TABLE numbers (id bigint PRIMARY KEY, value bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0);
         CREATE FUNCTION dropped() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.id % 3 = 0 THEN RETURN NULL; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER drops BEFORE INSERT ON numbers FOR EACH ROW EXECUTE FUNCTION dropped()",
    )
    .await;
    let row = |id| Number {
        id,
        value: id,
        version: 0,
    };
    let rows: Vec<Number> = (1..=8).map(row).collect();
    let inserted = Number::insert_many(&database.pool, &rows).await;
    for (row, inserted) in rows.iter().zip(inserted) {
        match inserted {
            Ok(inserted) => assert_eq!(&inserted, row),
            Err(InsertError::Ignored(_)) => assert_eq!(row.id % 3, 0),
            Err(error) => panic!("{error:?}"),
        }
    }
    let there = numbers(&database.pool, [1, 2, 4, 5, 7, 8]).await;
    assert_eq!(there.len(), 6);
}

/// A transaction that locks the same rows in the other order: the server ends the batch, which runs again, and no row has an error.
#[tokio::test]
async fn a_deadlock_with_another_order_is_run_again() {
    let database = database(NUMBERS).await;
    let rows = numbers(&database.pool, [1, 2, 3]).await;
    let blocked = async |number: i64| {
        let options = database.options();
        let sql = "SELECT count(*) = $2 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
        while !sqlx::query_scalar::<_, bool>(sql)
            .bind(options.get_application_name())
            .bind(number)
            .fetch_one(&database.pool)
            .await
            .unwrap()
        {}
    };
    // The server looks for a deadlock once in each wait: the batch is to be the last that waits.
    let mut gate = database.connection().await;
    let mut gate = gate.begin().await.unwrap();
    gate.execute("UPDATE numbers SET value = 4 WHERE id = 2")
        .await
        .unwrap();
    let mut holding = database.pool.begin().await.unwrap();
    let first = "SET LOCAL deadlock_timeout = '20s'; UPDATE numbers SET value = 5 WHERE id = 3";
    holding.execute(first).await.unwrap();
    let mut batch = database.pool.acquire().await.unwrap();
    batch
        .execute("SET deadlock_timeout = '20ms'")
        .await
        .unwrap();
    let updating = tokio::spawn(async move { Number::update_many(&mut *batch, &rows).await });
    blocked(1).await;
    let held = tokio::spawn(async move {
        let other = "UPDATE numbers SET value = 6 WHERE id = 1";
        holding.execute(other).await.unwrap();
        holding.commit().await.unwrap();
    });
    blocked(2).await;
    gate.commit().await.unwrap();
    held.await.unwrap();
    for outcome in updating.await.unwrap() {
        assert_eq!(outcome.unwrap().version, 1);
    }
}

/// A row that a concurrent writer changes while the batch waits for it is stale, and the others are written.
#[tokio::test]
async fn a_row_that_changes_while_the_batch_waits() {
    let database = database(NUMBERS).await;
    let rows = numbers(&database.pool, 1..=20).await;
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    let held = "UPDATE numbers SET version = 1, value = 9 WHERE id IN (5, 6); DELETE FROM numbers WHERE id = 7; UPDATE numbers SET value = 9 WHERE id = 8";
    holding.execute(held).await.unwrap();
    let pool = database.pool.clone();
    let waiting = tokio::spawn(async move { Number::update_many(&pool, &rows).await });
    database.until_blocked().await;
    holding.commit().await.unwrap();
    for (id, outcome) in (1..).zip(waiting.await.unwrap()) {
        match (id, outcome) {
            (5 | 6, Err(UpdateError::Stale(conflict))) => assert_eq!(conflict.current.value, 9),
            (7, Err(UpdateError::Gone(_))) => {}
            (5..=7, outcome) => panic!("{id}: {outcome:?}"),
            // Also 8, which changed and kept its version.
            (_, outcome) => {
                let written = outcome.unwrap();
                assert_eq!((written.version, written.value), (1, 0));
            }
        }
    }
}

/// What first writes the rows as it meets them waits for a held one only for a moment, and then in the order of the keys with those locked that come before.
#[tokio::test]
async fn a_row_that_is_held_is_waited_for_in_order() {
    for (method, in_order) in [
        ("update", "FOR NO KEY UPDATE"),
        ("save", "FOR NO KEY UPDATE"),
        ("delete", "FOR UPDATE"),
    ] {
        let database = database(NUMBERS).await;
        // The table is read as it lies there.
        let options = PoolOptions::new().after_connect(|connection, _| {
            Box::pin(async move {
                let plan = "SET enable_nestloop = off; SET enable_mergejoin = off";
                connection.execute(plan).await.map(|_| ())
            })
        });
        let pool = database.pool_with(options).await;
        let rows = numbers(&pool, (1..=1000).rev()).await;
        let mut holder = database.connection().await;
        let mut holding = holder.begin().await.unwrap();
        let held = "SELECT FROM numbers WHERE id = 700 FOR NO KEY UPDATE";
        holding.execute(held).await.unwrap();
        let writing = pool.clone();
        let waiting = tokio::spawn(async move {
            let pool = writing;
            match method {
                "update" => all(Number::update_many(&pool, &rows).await),
                "save" => {
                    let mut edits: Vec<_> = rows.iter().map(|row| row.clone().edit()).collect();
                    edits.iter_mut().for_each(|edit| edit.value += 1);
                    all(Number::save_many(&pool, &edits).await)
                }
                _ => all(Number::delete_many(&pool, &rows).await),
            }
        });
        let mut other = database.connection().await;
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0
            AND application_name = current_schema()";
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let waits = sqlx::query_scalar(waits).bind(in_order);
            let count: i64 = waits.fetch_one(&mut other).await.unwrap();
            if count == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "{method} does not wait in order");
        }
        let free = "SELECT id FROM numbers ORDER BY id FOR UPDATE SKIP LOCKED";
        let free: Vec<i64> = sqlx::query_scalar(free)
            .fetch_all(&mut other)
            .await
            .unwrap();
        assert_eq!(free, (701..=1000).collect::<Vec<_>>(), "{method}");
        holding.commit().await.unwrap();
        assert_eq!(waiting.await.unwrap(), 1000, "{method}");
        let timeout = sqlx::query_scalar("SELECT current_setting('lock_timeout')");
        let timeout: String = timeout.fetch_one(&pool).await.unwrap();
        assert_eq!(timeout, "0", "{method}");
    }
}

/// A trigger waits for locks as long as the session does, also one that goes on without what it should have done: that of the table, and that of a table
/// whose rows go with those that are deleted.
#[tokio::test]
async fn a_trigger_that_catches_a_timeout() {
    const NOTE: &str = "CREATE TABLE notes (count bigint NOT NULL); INSERT INTO notes VALUES (0);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            BEGIN UPDATE notes SET count = count + 1; EXCEPTION WHEN OTHERS THEN RAISE WARNING 'not noted'; END;
            RETURN NULL;
        END $$";
    let own = "CREATE TRIGGER note AFTER UPDATE ON numbers FOR EACH ROW EXECUTE FUNCTION note()";
    let child = "CREATE TABLE parts (number bigint REFERENCES numbers ON DELETE CASCADE); INSERT INTO parts VALUES (1), (2), (3);
        CREATE TRIGGER note AFTER DELETE ON parts FOR EACH ROW EXECUTE FUNCTION note()";
    for (deletes, trigger) in [(false, own), (true, child)] {
        let database = database(&format!("{NUMBERS}; {NOTE}; {trigger}")).await;
        let rows = numbers(&database.pool, 1..=3).await;
        let mut holder = database.connection().await;
        let mut holding = holder.begin().await.unwrap();
        let held = "SELECT FROM notes FOR UPDATE";
        holding.execute(held).await.unwrap();
        let pool = database.pool.clone();
        let mut writing = tokio::spawn(async move {
            match deletes {
                true => all(Number::delete_many(&pool, &rows).await),
                false => all(Number::update_many(&pool, &rows).await),
            }
        });
        database.until_blocked().await;
        let limit = Duration::from_millis(200);
        let early = tokio::time::timeout(limit, &mut writing).await;
        assert!(early.is_err(), "the trigger gave up");
        holding.commit().await.unwrap();
        assert_eq!(writing.await.unwrap(), 3);
        let noted = sqlx::query_scalar("SELECT count FROM notes");
        let noted: i64 = noted.fetch_one(&database.pool).await.unwrap();
        assert_eq!(noted, 3);
    }
}

/// Rows that are refused are deleted one after the other, as they were given.
#[tokio::test]
async fn rows_that_are_refused_go_in_the_order_given() {
    let table = "CREATE TABLE numbers (id bigint PRIMARY KEY, value bigint NOT NULL, version bigint NOT NULL DEFAULT 0,
            above bigint REFERENCES numbers);
        INSERT INTO numbers VALUES (1, 0, 0, NULL), (2, 0, 0, 1), (3, 0, 0, NULL);
        CREATE TABLE parts (number bigint REFERENCES numbers); INSERT INTO parts VALUES (3)";
    let database = database(table).await;
    let rows = numbers(&database.pool, [2, 1, 3]).await;
    let deleted = Number::delete_many(&database.pool, &rows).await;
    assert!(
        matches!(deleted[..], [Ok(()), Ok(()), Err(DeleteError::Database(_))]),
        "{deleted:?}"
    );
}

fn all<T, E: std::fmt::Debug>(outcomes: Vec<Result<T, E>>) -> usize {
    outcomes.into_iter().map(Result::unwrap).count()
}

/// A row that is stale is not locked: whoever has it keeps nobody waiting.
#[tokio::test]
async fn a_row_that_is_stale_is_not_waited_for() {
    let database = database(NUMBERS).await;
    let pool = &database.pool;
    let rows = numbers(pool, 1..=3).await;
    let stale = "UPDATE numbers SET version = 1 WHERE id = 2";
    pool.execute(stale).await.unwrap();
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    let held = "SELECT FROM numbers WHERE id = 2 FOR UPDATE";
    holding.execute(held).await.unwrap();
    let updated = Number::update_many(pool, &rows);
    let updated = tokio::time::timeout(Duration::from_secs(20), updated).await;
    let updated = updated.expect("it waits for the row");
    assert!(
        matches!(updated[..], [Ok(_), Err(UpdateError::Stale(_)), Ok(_)]),
        "{updated:?}"
    );
}

/// A row that others refer to at the moment is updated, and not waited for.
#[tokio::test]
async fn a_row_whose_key_is_locked_is_not_waited_for() {
    let database = database(NUMBERS).await;
    let rows = numbers(&database.pool, 1..=3).await;
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    let held = "SELECT FROM numbers WHERE id = 2 FOR KEY SHARE";
    holding.execute(held).await.unwrap();
    let updated = Number::update_many(&database.pool, &rows);
    let updated = tokio::time::timeout(Duration::from_secs(20), updated).await;
    let updated = updated.expect("it waits for the row");
    assert!(updated.iter().all(Result::is_ok), "{updated:?}");
}

/// In a transaction one statement is about all rows: two that follow each other would lock them in no order.
#[tokio::test]
async fn in_a_transaction_all_rows_are_one_statement() {
    let database = database(NUMBERS).await;
    let pool = &database.pool;
    pool.execute("INSERT INTO numbers (id) SELECT n FROM generate_series(1001, 2500) AS n")
        .await
        .unwrap();
    let rows = numbers(pool, 1..=2500).await;
    let proxy = Proxy::start(&super::address()).await;
    let through = database
        .pool_through(&proxy, PoolOptions::new().max_connections(1))
        .await;
    let mut tx = through.begin().await.unwrap();
    Number::update_many(&mut *tx, &rows[..2]).await;
    proxy.reset();
    let updated = Number::update_many(&mut *tx, &rows[2..]).await;
    assert_eq!(updated.iter().filter(|row| row.is_ok()).count(), 2498);
    assert_eq!(proxy.round_trips(), 1);
    tx.rollback().await.unwrap();
}

/// Whatever a trigger says of a row, it is said of that row alone.
#[tokio::test]
async fn any_error_of_one_row() {
    let database = database(NUMBERS).await;
    let pool = &database.pool;
    for code in ["42501", "54000", "21000", "XX000", "P0001", "23514"] {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.id = 3 THEN RAISE 'no' USING ERRCODE = '{code}'; END IF;
                 RETURN NEW;
             END $$;
             CREATE OR REPLACE TRIGGER refuses BEFORE UPDATE ON numbers FOR EACH ROW EXECUTE FUNCTION refuses()"
        );
        pool.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        let rows = numbers(pool, 1..=5).await;
        let updated = Number::update_many(pool, &rows).await;
        let updated: Vec<bool> = updated.iter().map(Result::is_ok).collect();
        assert_eq!(updated, [true, true, false, true, true], "{code}");
    }
}

/// Whatever the statistics say, a batch reads its own rows by their keys, and the plan is made once.
#[tokio::test]
async fn more_than_one_statement_has_room_for() {
    let database = database(NUMBERS).await;
    let pool = &database.pool;
    pool.execute("INSERT INTO numbers (id) SELECT n FROM generate_series(1001, 2500) AS n")
        .await
        .unwrap();
    let rows = numbers(pool, 1..=2500).await;
    let updated = Number::update_many(pool, &rows).await;
    assert_eq!(updated.iter().filter(|row| row.is_ok()).count(), 2500);
    assert!(
        updated
            .iter()
            .zip(&rows)
            .all(|(new, old)| new.as_ref().unwrap().id == old.id)
    );
    let stale = Number::delete_many(pool, &rows).await;
    assert!(
        stale
            .iter()
            .all(|row| matches!(row, Err(DeleteError::Stale(_))))
    );
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "labelled", backend(Postgres))]
struct Labelled {
    #[rowlock(key)]
    id: i64,
    /// PostgreSQL has no arrays of arrays.
    labels: Vec<String>,
    #[rowlock(version)]
    version: i64,
}

#[tokio::test]
async fn a_column_that_is_an_array() {
    let database = database(
        "CREATE TABLE labelled (id bigint PRIMARY KEY, labels text[] NOT NULL, version bigint NOT NULL);
         INSERT INTO labelled VALUES (1, '{a}', 0), (2, '{b}', 0)",
    )
    .await;
    let pool = &database.pool;
    let loaded = Labelled::load_many(pool, [1, 2]).await.into_iter();
    let mut rows: Vec<Labelled> = loaded.collect::<Result<_, _>>().unwrap();
    for row in &mut rows {
        row.labels.push("c".to_owned());
    }
    let updated = Labelled::update_many(pool, &rows).await;
    assert_eq!(updated[1].as_ref().unwrap().labels, ["b", "c"]);
    assert!(
        Labelled::delete_many(pool, &rows)
            .await
            .iter()
            .all(|row| matches!(row, Err(DeleteError::Stale(_))))
    );
}

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(type_name = "point_of_many")]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "mood_of_many", rename_all = "lowercase")]
enum Mood {
    Calm,
    Angry,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "pins", backend(Postgres))]
struct Pin {
    #[rowlock(key)]
    id: i64,
    place: Point,
    #[rowlock(version)]
    version: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "moods", backend(Postgres))]
struct Felt {
    #[rowlock(key)]
    id: i64,
    mood: Mood,
    earlier: Option<Mood>,
    bytes: Vec<u8>,
    #[rowlock(version)]
    version: i64,
}

/// `unnest` makes a column of each part of a composite type; enums and bytes are like any other.
#[tokio::test]
async fn types_of_the_user() {
    let database = database(
        "CREATE TYPE point_of_many AS (x integer, y integer);
         CREATE TYPE mood_of_many AS ENUM ('calm', 'angry');
         CREATE TABLE pins (id bigint PRIMARY KEY, place point_of_many NOT NULL, version bigint NOT NULL);
         CREATE TABLE moods (id bigint PRIMARY KEY, mood mood_of_many NOT NULL, earlier mood_of_many, bytes bytea NOT NULL, version bigint NOT NULL);
         INSERT INTO pins VALUES (1, '(1,2)', 0), (2, '(3,4)', 0);
         INSERT INTO moods VALUES (1, 'calm', NULL, '', 0), (2, 'calm', 'angry', '', 0)",
    )
    .await;
    let pool = &database.pool;
    let loaded = Pin::load_many(pool, [1, 2]).await.into_iter();
    let mut pins: Vec<Pin> = loaded.collect::<Result<_, _>>().unwrap();
    pins[1].place.y = 5;
    let updated = Pin::update_many(pool, &pins).await;
    assert_eq!(updated[1].as_ref().unwrap().place, Point { x: 3, y: 5 });
    assert_eq!(
        updated[0].as_ref().unwrap(),
        &Pin::load(pool, 1).await.unwrap()
    );

    let loaded = Felt::load_many(pool, [1, 2]).await.into_iter();
    let mut felt: Vec<Felt> = loaded.collect::<Result<_, _>>().unwrap();
    felt[0].earlier = Some(felt[0].mood);
    felt[1].earlier = None;
    felt[1].bytes = vec![0, 255];
    for (row, mine) in Felt::update_many(pool, &felt).await.iter().zip(&felt) {
        let row = row.as_ref().unwrap();
        assert_eq!((row.earlier, &row.bytes), (mine.earlier, &mine.bytes));
        assert_eq!(row, &Felt::load(pool, row.id).await.unwrap());
    }
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "plain", backend(Postgres))]
struct Plain {
    #[rowlock(key)]
    id: String,
    value: Option<f64>,
    #[rowlock(version)]
    xmin: Xmin,
}

/// The version that PostgreSQL keeps, and a key that is compared as its column compares it.
#[tokio::test]
async fn xmin_and_a_key_with_blanks() {
    let database = database(
        "CREATE TABLE plain (id char(3) PRIMARY KEY, value double precision);
         INSERT INTO plain VALUES ('a', 1), ('bb', NULL)",
    )
    .await;
    let pool = &database.pool;
    let loaded = Plain::load_many(pool, ["a", "bb ", "c"]).await;
    assert!(matches!(loaded[..], [Ok(_), Ok(_), Err(_)]), "{loaded:?}");
    let mut rows: Vec<Plain> = loaded.into_iter().filter_map(Result::ok).collect();
    rows[0].value = None;
    rows[1].value = Some(f64::NAN);
    let updated = Plain::update_many(pool, &rows).await;
    let [Ok(first), Ok(second)] = updated.as_slice() else {
        panic!("{updated:?}");
    };
    assert_ne!(first.xmin, rows[0].xmin);
    assert_eq!(first, &Plain::load(pool, "a").await.unwrap());
    assert!(second.value.unwrap().is_nan());
    let stale = Plain::update_many(pool, &rows).await;
    assert!(
        stale
            .iter()
            .all(|row| matches!(row, Err(UpdateError::Stale(_)))),
        "{stale:?}"
    );
    assert!(
        Plain::delete_many(pool, [first, second])
            .await
            .iter()
            .all(Result::is_ok)
    );
}

/// What waited for that looks as if a trigger had dropped it: the row has the version of the copy. It is written after all.
#[tokio::test]
async fn a_row_that_is_deleted_and_inserted_while_its_write_waits() {
    for method in ["update", "delete", "update_many", "delete_many"] {
        let database = database(NUMBERS).await;
        let row = numbers(&database.pool, [7]).await.remove(0);
        let mut holder = database.connection().await;
        let mut holding = holder.begin().await.unwrap();
        let anew = "DELETE FROM numbers WHERE id = 7; INSERT INTO numbers (id) VALUES (7)";
        holding.execute(anew).await.unwrap();
        let pool = database.pool.clone();
        let write = tokio::spawn(async move {
            let row = &row;
            match method {
                "update" => row.update(&pool).await.is_ok(),
                "delete" => row.delete(&pool).await.is_ok(),
                "update_many" => Number::update_many(&pool, [row]).await[0].is_ok(),
                _ => Number::delete_many(&pool, [row]).await[0].is_ok(),
            }
        });
        database.until_blocked().await;
        holding.commit().await.unwrap();
        assert!(write.await.unwrap(), "{method}");
    }
}

/// A key that is not unique in the database: nothing is written to either row.
#[tokio::test]
async fn a_key_that_is_there_twice() {
    let database = database(
        "CREATE TABLE numbers (id bigint, value bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0);
         INSERT INTO numbers VALUES (1), (2), (2)",
    )
    .await;
    let pool = &database.pool;
    let row = |id| Number {
        id,
        value: 5,
        version: 0,
    };
    let outcomes = Number::update_many(pool, [&row(1), &row(2)]).await;
    assert!(
        matches!(outcomes[..], [Ok(_), Err(UpdateError::NotUnique(_))]),
        "{outcomes:?}"
    );
    let outcomes = Number::delete_many(pool, [&row(3), &row(2)]).await;
    assert!(
        matches!(
            outcomes[..],
            [Err(DeleteError::Gone(_)), Err(DeleteError::NotUnique(_))]
        ),
        "{outcomes:?}"
    );
    let written: i64 = sqlx::query_scalar("SELECT sum(value)::bigint FROM numbers WHERE id = 2")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(written, 0);
}

/// An index that does not make the key unique, or not in all the rows that a statement about the table reads.
#[tokio::test]
async fn a_key_that_is_not_unique_in_spite_of_an_index() {
    const TWICE: &str = "INSERT INTO numbers (id, value) VALUES (1, 0), (2, 0), (2, 1)";
    let broken = "CREATE UNIQUE INDEX CONCURRENTLY numbers_id ON numbers (id)";
    for (index, twice, invalid) in [
        (
            "CREATE UNIQUE INDEX ON numbers (id) WHERE value = 0",
            TWICE,
            None,
        ),
        ("CREATE UNIQUE INDEX ON numbers (id, value)", TWICE, None),
        (
            "CREATE UNIQUE INDEX ON numbers (value, (id % 2))",
            TWICE,
            None,
        ),
        ("CREATE UNIQUE INDEX ON numbers ((id + value))", TWICE, None),
        (
            "CREATE UNIQUE INDEX ON numbers (version, value, id)",
            TWICE,
            None,
        ),
        ("CREATE INDEX ON numbers (id)", TWICE, None),
        (
            "CREATE UNIQUE INDEX ON numbers (code) INCLUDE (id)",
            TWICE,
            None,
        ),
        ("SELECT", TWICE, Some(broken)),
        (
            "ALTER TABLE numbers ADD PRIMARY KEY (id); CREATE TABLE more () INHERITS (numbers)",
            "INSERT INTO numbers (id, value) VALUES (1, 0), (2, 0); INSERT INTO more (id, value) VALUES (2, 1)",
            None,
        ),
    ] {
        let table = "CREATE TABLE numbers (id bigint, value bigint NOT NULL, version bigint NOT NULL DEFAULT 0,
            code uuid NOT NULL DEFAULT gen_random_uuid())";
        let database = database(&format!("{table}; {index}; {twice}")).await;
        let pool = &database.pool;
        if let Some(invalid) = invalid {
            pool.execute(invalid).await.unwrap_err();
        }
        let row = |id| Number {
            id,
            value: 5,
            version: 0,
        };
        let outcomes = Number::update_many(pool, [&row(1), &row(2)]).await;
        assert!(
            matches!(outcomes[..], [Ok(_), Err(UpdateError::NotUnique(_))]),
            "{index}: {outcomes:?}"
        );
        let outcomes = Number::delete_many(pool, [&row(3), &row(2)]).await;
        assert!(
            matches!(
                outcomes[..],
                [Err(DeleteError::Gone(_)), Err(DeleteError::NotUnique(_))]
            ),
            "{index}: {outcomes:?}"
        );
        let left = "SELECT count(*) FROM numbers WHERE id = 2 AND value < 5";
        let left: i64 = sqlx::query_scalar(left).fetch_one(pool).await.unwrap();
        assert_eq!(left, 2, "{index}");
    }
}

/// A connection that breaks before the answer: each row says that it is unknown.
#[tokio::test]
async fn an_answer_that_is_lost() {
    let database = database(NUMBERS).await;
    let rows = numbers(&database.pool, 1..=3).await;
    let mut holder: Connection = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    holding
        .execute("SELECT FROM numbers WHERE id = 2 FOR UPDATE")
        .await
        .unwrap();
    let proxy = Proxy::start(&super::address()).await;
    let pool = database
        .pool_through(&proxy, PoolOptions::new().max_connections(1))
        .await;
    let through = pool.clone();
    let waiting = tokio::spawn(async move { Number::update_many(&through, &rows).await });
    database.until_blocked().await;
    proxy.cut().await;
    let outcomes = tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap();
    for (id, outcome) in (1..).zip(&outcomes) {
        let Err(UpdateError::Unknown(error)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.fault(), Fault::ConnectionLost);
        assert_eq!(error.operation().key(), format!("id = {id}"));
    }
    assert_eq!(outcomes.len(), 3);
}
