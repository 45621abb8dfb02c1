//! `check`: optimistic locking without a version, by columns that are compared with what was read.

use std::sync::Arc;

use proptest::prelude::*;
use rowlock::row::{DeleteError, MergeError, UpdateError};
use rowlock::{Guarded, Versioned};
use rowlock_tests::cancel::polled;
use sqlx::Executor;
use tokio::sync::Barrier;

use super::{Database, Db, NAME, Pool, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Guarded)]
#[rowlock(table = "bookings")]
struct Booking {
    #[rowlock(key)]
    id: i64,
    room: String,
    #[rowlock(check)]
    state: String,
    #[rowlock(check)]
    guest: Option<String>,
    note: Option<String>,
    #[rowlock(check)]
    nights: i32,
}

const BOOKINGS: &str = "CREATE TABLE bookings (
        id bigint PRIMARY KEY, room text NOT NULL, state text NOT NULL, guest text, note text, nights integer NOT NULL
    );
    INSERT INTO bookings VALUES (1, 'blue', 'open', NULL, NULL, 0)";

async fn booking(pool: &Pool) -> Booking {
    Booking::load(pool, 1).await.unwrap()
}

async fn run(pool: &Pool, sql: &'static str) {
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

fn stale<T>(outcome: Result<T, UpdateError<Booking>>) -> Box<rowlock::row::Conflict<Booking>> {
    match outcome {
        Err(UpdateError::Stale(conflict)) => conflict,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it was written"),
    }
}

#[tokio::test]
async fn a_save_writes_the_changed_columns_and_returns_the_row_as_it_is() {
    let database = database(BOOKINGS).await;
    let pool = &database.pool;
    let mut edit = booking(pool).await.edit();
    edit.guest = Some("ann".to_owned());
    edit.nights = 2;
    // What is not checked can be another writer's.
    run(pool, "UPDATE bookings SET note = 'late', room = 'red'").await;
    let saved = edit.save(pool).await.unwrap();
    assert_eq!((saved.guest.as_deref(), saved.nights), (Some("ann"), 2));
    assert_eq!(
        (saved.note.as_deref(), saved.room.as_str()),
        (Some("late"), "red")
    );
    assert_eq!(saved, booking(pool).await);
    // From there on.
    let mut edit = saved.edit();
    edit.guest = None;
    assert_eq!(edit.save(pool).await.unwrap().guest, None);
    let edit = booking(pool).await.edit();
    assert_eq!(edit.save(pool).await.unwrap(), booking(pool).await);
}

#[tokio::test]
async fn a_checked_column_that_has_changed_is_a_conflict() {
    for theirs in [
        "state = 'taken'",
        "guest = 'ben'",
        "guest = ''",
        "nights = 1",
        "state = 'OPEN'",
        "state = 'open '",
    ] {
        let database = database(BOOKINGS).await;
        let pool = &database.pool;
        let mut edit = booking(pool).await.edit();
        edit.room = "red".to_owned();
        let update = sqlx::AssertSqlSafe(format!("UPDATE bookings SET {theirs}"));
        sqlx::query(update).execute(pool).await.unwrap();
        let conflict = stale(edit.save(pool).await);
        assert_eq!(conflict.current, booking(pool).await, "{theirs}");
        assert_eq!(conflict.base(), Some(edit.base()));
        let field = theirs.split(' ').next().unwrap();
        assert_eq!(conflict.changed_fields(), [field]);
        assert_eq!(
            conflict.to_string(),
            "save of bookings (id = 1): the row was changed since it was read (by a concurrent writer, or by your own earlier write: use the row that it returned)"
        );
        // And from the row as it is now it goes through.
        let merged = conflict.merge().unwrap().save(pool).await.unwrap();
        assert_eq!(
            (merged.room.as_str(), &merged.state),
            ("red", &conflict.current.state)
        );
    }
}

#[tokio::test]
async fn null_is_a_value_like_others() {
    let database = database(BOOKINGS).await;
    let pool = &database.pool;
    let mut of_null = booking(pool).await.edit();
    of_null.note = Some("a".to_owned());
    of_null.save(pool).await.unwrap();
    run(pool, "UPDATE bookings SET guest = 'ann'").await;
    let mut of_ann = booking(pool).await.edit();
    of_ann.guest = Some("eve".to_owned());
    of_null.note = Some("b".to_owned());
    stale(of_null.save(pool).await);
    run(pool, "UPDATE bookings SET guest = NULL").await;
    let conflict = stale(of_ann.save(pool).await);
    assert!(matches!(conflict.merge(), Err(MergeError::Overlap(fields)) if fields == ["guest"]));
    let mine = conflict.keep_mine().save(pool).await.unwrap();
    assert_eq!(mine.guest.as_deref(), Some("eve"));
}

#[tokio::test]
async fn a_deletion_compares_too() {
    let database = database(BOOKINGS).await;
    let pool = &database.pool;
    let seen = booking(pool).await;
    run(pool, "UPDATE bookings SET nights = 3").await;
    let refused = seen.delete(pool).await;
    assert!(matches!(refused, Err(DeleteError::Stale(_))), "{refused:?}");
    let refused = seen.edit().delete(pool).await;
    assert!(matches!(refused, Err(DeleteError::Stale(_))), "{refused:?}");
    // What counts is what was read, not what was edited.
    let mut edit = booking(pool).await.edit();
    edit.nights = 9;
    edit.delete(pool).await.unwrap();
    let gone = edit.delete(pool).await;
    assert!(matches!(gone, Err(DeleteError::Gone(_))), "{gone:?}");
    let gone = edit.save(pool).await;
    assert!(matches!(gone, Err(UpdateError::Gone(_))), "{gone:?}");
}

#[tokio::test]
async fn a_row_is_inserted_and_read_without_a_version() {
    let database = database(BOOKINGS).await;
    let pool = &database.pool;
    let new = Booking {
        id: 2,
        guest: Some("ann".to_owned()),
        ..booking(pool).await
    };
    assert_eq!(new.insert(pool).await.unwrap(), new);
    assert_eq!(Booking::load(pool, 2).await.unwrap(), new);
    run(pool, "UPDATE bookings SET nights = 4 WHERE id = 2").await;
    assert_eq!(new.reload(pool).await.unwrap().nights, 4);
    assert_eq!(new.edit().reload(pool).await.unwrap().nights, 4);
}

#[tokio::test]
async fn a_condition_stands_beside_it_and_stale_comes_first() {
    let database = database(BOOKINGS).await;
    let pool = &database.pool;
    let mut edit = booking(pool).await.edit();
    edit.note = Some("x".to_owned());
    let blue = || Booking::ROOM.eq("blue");
    let saved = edit.only_if(blue()).save(pool).await.unwrap();
    assert_eq!(saved.note.as_deref(), Some("x"));

    run(pool, "UPDATE bookings SET room = 'red'").await;
    let refused = edit.only_if(blue()).save(pool).await;
    let Err(UpdateError::Refused(refusal)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.current.room, "red");
    let refused = edit.only_if(blue()).delete(pool).await;
    assert!(
        matches!(refused, Err(DeleteError::Refused(_))),
        "{refused:?}"
    );
    // Also where nothing is to be written.
    let unchanged = booking(pool).await.edit();
    let refused = unchanged.only_if(blue()).save(pool).await;
    assert!(
        matches!(refused, Err(UpdateError::Refused(_))),
        "{refused:?}"
    );

    run(pool, "UPDATE bookings SET nights = 1").await;
    stale(edit.only_if(blue()).save(pool).await);
    stale(unchanged.only_if(blue()).save(pool).await);
    let refused = edit.only_if(blue()).delete(pool).await;
    assert!(matches!(refused, Err(DeleteError::Stale(_))), "{refused:?}");
    let red = booking(pool).await.edit();
    red.only_if(Booking::ROOM.eq("red"))
        .delete(pool)
        .await
        .unwrap();
}

async fn drop_writes(database: &Database) {
    let sql = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER skip BEFORE UPDATE OR DELETE ON bookings FOR EACH ROW EXECUTE FUNCTION skip()"
        }
        _ => {
            "CREATE TRIGGER skip_update BEFORE UPDATE ON bookings BEGIN SELECT RAISE(IGNORE); END;
             CREATE TRIGGER skip_delete BEFORE DELETE ON bookings BEGIN SELECT RAISE(IGNORE); END"
        }
    };
    sqlx::raw_sql(sql).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn a_write_that_a_trigger_drops_is_ignored() {
    let database = database(BOOKINGS).await;
    drop_writes(&database).await;
    let pool = &database.pool;
    let mut edit = booking(pool).await.edit();
    edit.nights = 1;
    let ignored = edit.save(pool).await;
    assert!(
        matches!(ignored, Err(UpdateError::Ignored(_))),
        "{ignored:?}"
    );
    let ignored = edit.delete(pool).await;
    assert!(
        matches!(ignored, Err(DeleteError::Ignored(_))),
        "{ignored:?}"
    );
}

#[tokio::test]
async fn a_key_of_two_rows_is_not_unique_and_neither_is_written() {
    let database = database(
        "CREATE TABLE bookings (id bigint, room text, state text, guest text, note text, nights integer);
         INSERT INTO bookings VALUES (1, 'a', 'open', NULL, NULL, 0)",
    )
    .await;
    let pool = &database.pool;
    let mut edit = booking(pool).await.edit();
    edit.nights = 1;
    run(pool, "INSERT INTO bookings SELECT * FROM bookings").await;
    let error = edit.save(pool).await;
    assert!(matches!(error, Err(UpdateError::NotUnique(_))), "{error:?}");
    let error = edit.delete(pool).await;
    assert!(matches!(error, Err(DeleteError::NotUnique(_))), "{error:?}");
}

/// A holder writes a checked column, and the save waits for him.
#[tokio::test]
async fn it_waits_for_who_writes_the_row_and_compares_what_he_wrote() {
    for (commits, column) in [(true, "nights"), (false, "nights"), (true, "note")] {
        let database = database(BOOKINGS).await;
        let pool = database.pool.clone();
        let mut edit = booking(&pool).await.edit();
        edit.state = "taken".to_owned();
        let mut holder = pool.begin().await.unwrap();
        let write = sqlx::AssertSqlSafe(format!("UPDATE bookings SET {column} = 5"));
        holder.execute(write).await.unwrap();
        let task = tokio::spawn(async move { edit.save(&pool).await });
        database.until_blocked().await;
        if commits {
            holder.commit().await.unwrap();
        } else {
            holder.rollback().await.unwrap();
        }
        let saved = task.await.unwrap();
        if commits && column == "nights" {
            assert_eq!(stale(saved).current.nights, 5);
            assert_eq!(booking(&database.pool).await.state, "open");
        } else {
            assert_eq!(saved.unwrap(), booking(&database.pool).await);
            assert_eq!(booking(&database.pool).await.state, "taken");
        }
    }
}

const TASKS: usize = 8;

#[tokio::test]
async fn of_eight_edits_of_one_row_one_is_saved() {
    let database = database(BOOKINGS).await;
    let seen = booking(&database.pool).await;
    let barrier = Arc::new(Barrier::new(TASKS));
    let edits: Vec<_> = (0..TASKS)
        .map(|number| {
            let (pool, barrier) = (database.pool.clone(), barrier.clone());
            let mut edit = seen.edit();
            edit.guest = Some(number.to_string());
            tokio::spawn(async move {
                barrier.wait().await;
                edit.save(&pool).await
            })
        })
        .collect();
    let mut saved = Vec::new();
    for edit in edits {
        match edit.await.unwrap() {
            Ok(row) => saved.push(row),
            lost => drop(stale::<Booking>(lost)),
        }
    }
    assert_eq!(saved, [booking(&database.pool).await]);
}

#[tokio::test]
async fn update_with_loses_no_addition() {
    let database = database(BOOKINGS).await;
    let barrier = Arc::new(Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (pool, barrier) = (database.pool.clone(), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                Booking::update_with(&pool, 1, |row| row.nights += 1).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(booking(&database.pool).await.nights, TASKS as i32);
    let same = Booking::update_with(&database.pool, 1, |_| {}).await;
    assert_eq!(same.unwrap(), booking(&database.pool).await);
}

/// The naive twin reads, adds and writes.
#[tokio::test]
async fn naive_twin_loses_all_additions_but_one() {
    let database = database(BOOKINGS).await;
    let read = Arc::new(Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (pool, read) = (database.pool.clone(), read.clone());
            tokio::spawn(async move {
                let nights = booking(&pool).await.nights;
                read.wait().await;
                let write = "UPDATE bookings SET nights = $1 WHERE id = 1";
                let write = sqlx::query::<Db>(write).bind(nights + 1);
                write.execute(&pool).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(booking(&database.pool).await.nights, 1);
}

/// Dropped at each of its await points: it was saved or it was not, and the connection can be used.
#[tokio::test]
async fn a_save_that_is_dropped_was_executed_completely_or_not_at_all() {
    let database = database(BOOKINGS).await;
    let (pool, _waits) = database.one_connection_that_waits().await;
    for limit in 1.. {
        let seen = booking(&database.pool).await;
        let mut edit = seen.edit();
        edit.nights += 1;
        edit.note = Some(format!("{}", edit.nights));
        let saved = polled(limit, edit.save(&pool)).await;
        // Whatever still runs is at its end before this gets the connection.
        let now = Booking::load(&pool, 1).await.unwrap();
        assert!(now == seen || now == *edit, "{now:?}");
        if let Some(saved) = saved {
            assert_eq!(saved.unwrap(), now);
            break;
        }
    }
}

#[tokio::test]
async fn it_is_part_of_the_callers_transaction_and_can_be_spawned() {
    let database = database(BOOKINGS).await;
    let pool = database.pool.clone();
    let task = tokio::spawn(async move {
        let mut tx = pool.begin().await.unwrap();
        let mut edit = Booking::load(&mut *tx, 1).await.unwrap().edit();
        edit.nights = 1;
        let saved = edit.save(&mut *tx).await.unwrap();
        saved.delete(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        booking(&pool).await
    });
    assert_eq!(task.await.unwrap().nights, 0);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "events")]
struct Event {
    #[rowlock(key)]
    id: i64,
    name: String,
    #[rowlock(check, on_update = "'2026-01-01 00:00:09'")]
    updated_at: chrono::DateTime<chrono::Utc>,
}

/// By the database's clock and by sqlx: the same time, whatever its text, and each digit of it counts.
#[tokio::test]
async fn times_are_compared_as_times() {
    let database = database(
        "CREATE TABLE events (id bigint PRIMARY KEY, name text NOT NULL, updated_at {timestamp} NOT NULL DEFAULT ({now}));
         INSERT INTO events (id, name) VALUES (1, 'a')",
    )
    .await;
    let pool = &database.pool;
    let mut edit = Event::load(pool, 1).await.unwrap().edit();
    edit.name = "b".to_owned();
    // Stored by the database's clock, and then by the expression.
    let saved = edit.save(pool).await.unwrap();
    let second = "2026-01-01T00:00:09Z".parse::<chrono::DateTime<chrono::Utc>>();
    assert_eq!(saved.updated_at, second.unwrap());
    let lost = edit.save(pool).await;
    assert!(matches!(lost, Err(UpdateError::Stale(_))), "{lost:?}");

    let write = async |time: &str| {
        let time: chrono::DateTime<chrono::Utc> = time.parse().unwrap();
        let write = sqlx::query::<Db>("UPDATE events SET updated_at = $1").bind(time);
        write.execute(pool).await.unwrap();
    };
    for (read, stored, same) in [
        ("2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z", true),
        ("2026-01-01T00:00:01.5Z", "2026-01-01T00:00:01.500Z", true),
        (
            "2026-01-01T00:00:01.123456Z",
            "2026-01-01T00:00:01.123456Z",
            true,
        ),
        (
            "2026-01-01T00:00:01.123456Z",
            "2026-01-01T00:00:01.123457Z",
            false,
        ),
        (
            "2026-01-01T00:00:01.123Z",
            "2026-01-01T00:00:01.123001Z",
            false,
        ),
        (
            "2026-01-01T00:00:01.123001Z",
            "2026-01-01T00:00:01.123Z",
            false,
        ),
        (
            "2026-01-01T00:00:01.123Z",
            "2026-01-01T00:00:01.124Z",
            false,
        ),
    ] {
        write(read).await;
        let mut edit = Event::load(pool, 1).await.unwrap().edit();
        edit.name = format!("{read} {stored}");
        write(stored).await;
        let saved = edit.save(pool).await;
        assert_eq!(saved.is_ok(), same, "{read} {stored}");
        if let Err(error) = saved {
            assert!(matches!(error, UpdateError::Stale(_)), "{error:?}");
        }
    }
}

/// A column whose type or collation takes `Ada` for `ADA`: the change is one all the same.
#[tokio::test]
async fn a_change_of_case_counts_whatever_the_column_compares() {
    let columns: &[&'static str] = match NAME {
        "PostgreSQL" => &[
            "text",
            "varchar(20)",
            "char(20)",
            "text COLLATE folded",
            "public.citext",
        ],
        _ => &["text", "text COLLATE NOCASE", "text COLLATE RTRIM"],
    };
    for column in columns {
        let database = database("").await;
        if NAME == "PostgreSQL" {
            let folded = "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
            run(&database.pool, folded).await;
            // Two tests that create it at once would violate the catalog's unique index.
            let citext = "BEGIN; SELECT pg_advisory_xact_lock(20260901); CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; COMMIT";
            run(&database.pool, citext).await;
        }
        // One that sees the operators of the extension.
        let pool = PoolOptions::new().max_connections(1).after_connect(|connection, _| {
            Box::pin(async move {
                if NAME == "PostgreSQL" {
                    let path = "SELECT set_config('search_path', current_schema() || ', public', false)";
                    connection.execute(path).await?;
                }
                Ok(())
            })
        });
        let pool = &database.pool_with(pool).await;
        let table = BOOKINGS.replace("state text", &format!("state {column}"));
        let table = table.replace("guest text", &format!("guest {column}"));
        sqlx::raw_sql(sqlx::AssertSqlSafe(table))
            .execute(pool)
            .await
            .unwrap();
        run(pool, "UPDATE bookings SET state = 'Ada'").await;
        let mut edit = booking(pool).await.edit();
        edit.note = Some("x".to_owned());
        let saved = edit.save(pool).await;
        assert!(saved.is_ok(), "{column}: {saved:?}");
        run(pool, "UPDATE bookings SET state = 'ADA'").await;
        let lost = edit.save(pool).await;
        assert!(
            matches!(lost, Err(UpdateError::Stale(_))),
            "{column}: {lost:?}"
        );
        let mut edit = booking(pool).await.edit();
        edit.state = "x".to_owned();
        edit.save(pool).await.unwrap();
    }
}

/// A column that a trigger renews.
#[tokio::test]
async fn what_the_database_generates_can_be_checked() {
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
    #[rowlock(table = "parts")]
    struct Part {
        #[rowlock(key)]
        id: i64,
        name: String,
        #[rowlock(generated, check)]
        length: i32,
    }
    let database = database(
        "CREATE TABLE parts (id bigint PRIMARY KEY, name text NOT NULL, length integer GENERATED ALWAYS AS (length(name)) STORED);
         INSERT INTO parts (id, name) VALUES (1, 'a')",
    )
    .await;
    let pool = &database.pool;
    let row = Part::load(pool, 1).await.unwrap();
    let (mut first, mut second) = (row.edit(), row.edit());
    first.name = "first".to_owned();
    second.name = "second".to_owned();
    assert_eq!(first.save(pool).await.unwrap().length, 5);
    let lost = second.save(pool).await;
    assert!(matches!(lost, Err(UpdateError::Stale(_))), "{lost:?}");
}

/// Random values before and after: it is saved where the checked columns are as they were.
#[test]
fn it_is_saved_where_nothing_that_is_checked_has_changed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(database(BOOKINGS));
    let pool = &database.pool;
    let row = || {
        (
            "[aAb ]{0,2}",
            prop::option::of("[aA ]{0,1}"),
            0..2_i32,
            0..2_i32,
        )
    };
    proptest!(ProptestConfig::with_cases(200), |(read in row(), stored in row())| {
        runtime.block_on(async {
            let write = async |(state, guest, nights, room): &(String, Option<String>, i32, i32)| {
                let write = "UPDATE bookings SET state = $1, guest = $2, nights = $3, room = $4, note = NULL";
                let write = sqlx::query::<Db>(write).bind(state).bind(guest).bind(nights);
                write.bind(room.to_string()).execute(pool).await.unwrap();
            };
            write(&read).await;
            let mut edit = booking(pool).await.edit();
            edit.note = Some("saved".to_owned());
            write(&stored).await;
            let same = (&read.0, &read.1, read.2) == (&stored.0, &stored.1, stored.2);
            let saved = edit.save(pool).await;
            prop_assert_eq!(saved.is_ok(), same);
            prop_assert_eq!(booking(pool).await.note.is_some(), same);
            if let Err(error) = saved {
                prop_assert!(matches!(error, UpdateError::Stale(_)), "{:?}", error);
            }
            Ok(())
        })?;
    });
}
