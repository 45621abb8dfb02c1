//! What is left behind by a database that fails, and by a caller that stops waiting.

use std::error::Error;
use std::time::{Duration, Instant};

use rowlock::row::{DeleteError, FindOrCreateError, LoadError, UpdateError, UpsertError};
use rowlock::{DatabaseError, Fault, FindOrCreate, Versioned};
use rowlock_tests::cancel::polled;
use sqlx::Executor;

use super::{Database, NAME, Pool, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "notes", unique(slug))]
struct Note {
    #[rowlock(key, generated)]
    id: i64,
    slug: String,
    text: String,
    /// Always the text in capitals: a half-written row would show.
    loud: String,
    #[rowlock(version)]
    version: i64,
}

const NOTES: &str = "CREATE TABLE notes (id {id}, slug text NOT NULL UNIQUE, text text NOT NULL, loud text NOT NULL,
    version bigint NOT NULL)";

fn new_note(slug: &str, text: &str) -> NewNote {
    NewNote {
        slug: slug.to_owned(),
        text: text.to_owned(),
        loud: text.to_uppercase(),
    }
}

fn set_text(note: &mut Note, text: &str) {
    note.text = text.to_owned();
    note.loud = text.to_uppercase();
}

async fn notes() -> (Database, Note) {
    let database = database(NOTES).await;
    let note = Note::find_or_create(&database.pool, new_note("a", "old"))
        .await
        .unwrap()
        .into_inner();
    (database, note)
}

/// The pool gives a connection, nobody is inside a transaction, and every row is whole.
async fn all_is_well(database: &Database, pool: &Pool) {
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT text, loud FROM notes")
        .fetch_all(pool)
        .await
        .unwrap();
    for (text, loud) in rows {
        assert_eq!(text.to_uppercase(), loud);
    }
    // The pool rolls back in a task of its own.
    let deadline = Instant::now() + Duration::from_secs(5);
    while database.open_transactions().await > 0 {
        assert!(Instant::now() < deadline, "a transaction was left open");
        tokio::task::yield_now().await;
    }
}

/// The fault of an error that is about the database, whichever operation met it.
fn fault(error: &DatabaseError) -> Fault {
    // The chain leads to sqlx.
    assert!(error.source().unwrap().is::<sqlx::Error>());
    error.fault()
}

macro_rules! database_error {
    ($outcome:expr, $error:ident) => {
        match $outcome.unwrap_err() {
            $error::Database(error) => fault(&error),
            other => panic!("{other:?}"),
        }
    };
}

/// What each operation makes of a database that cannot be used at all.
async fn faults(pool: &Pool, note: &Note) -> Vec<Fault> {
    let mut edit = note.edit();
    edit.text.push('!');
    vec![
        database_error!(Note::load(pool, 1).await, LoadError),
        database_error!(note.reload(pool).await, LoadError),
        database_error!(note.update(pool).await, UpdateError),
        database_error!(note.touch(pool).await, UpdateError),
        database_error!(edit.save(pool).await, UpdateError),
        database_error!(
            Note::update_with(pool, 1, |note| set_text(note, "x")).await,
            UpdateError
        ),
        database_error!(note.delete(pool).await, DeleteError),
        database_error!(
            Note::find_or_create(pool, new_note("b", "b")).await,
            FindOrCreateError
        ),
        database_error!(Note::upsert(pool, new_note("b", "b")).await, UpsertError),
    ]
}

#[tokio::test]
async fn a_missing_table_is_named() {
    let (database, note) = notes().await;
    database.pool.execute("DROP TABLE notes").await.unwrap();
    assert_eq!(faults(&database.pool, &note).await, [Fault::Schema; 9]);
    let text = note.update(&database.pool).await.unwrap_err().to_string();
    let expected = if NAME == "SQLite" {
        "update of notes (id = 1): the statement does not fit the schema (SQLite code 1)"
    } else {
        "update of notes (id = 1): the statement does not fit the schema (SQLSTATE 42P01: no such table)"
    };
    assert_eq!(text, expected);
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn a_closed_pool_is_an_error_and_not_a_panic() {
    let (database, note) = notes().await;
    database.pool.close().await;
    assert_eq!(faults(&database.pool, &note).await, [Fault::PoolClosed; 9]);
}

#[tokio::test]
async fn an_exhausted_pool_is_an_error_within_its_timeout() {
    let (database, note) = notes().await;
    let options = PoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_millis(20));
    let pool = database.pool_with(options).await;
    let only = pool.acquire().await.unwrap();
    assert_eq!(faults(&pool, &note).await, [Fault::PoolTimedOut; 9]);
    drop(only);
    all_is_well(&database, &pool).await;
    note.update(&pool).await.unwrap();
}

#[tokio::test]
async fn a_column_that_does_not_fit_its_field_is_a_decode_fault() {
    let (database, note) = notes().await;
    let other = if NAME == "SQLite" {
        "UPDATE notes SET text = x'ff'"
    } else {
        "ALTER TABLE notes ALTER text TYPE int USING 5"
    };
    database.pool.execute(other).await.unwrap();
    let error = Note::load(&database.pool, note.id).await.unwrap_err();
    assert!(
        matches!(&error, LoadError::Database(error) if fault(error) == Fault::Decode),
        "{error:?}"
    );
    assert!(error.to_string().contains("\"text\""), "{error}");
}

#[tokio::test]
async fn a_read_only_transaction_refuses_writes() {
    let (database, note) = notes().await;
    let mut connection = database.connection().await;
    let read_only = if NAME == "SQLite" {
        "PRAGMA query_only = 1"
    } else {
        "SET default_transaction_read_only = on"
    };
    connection.execute(read_only).await.unwrap();
    let refused = note.update(&mut connection).await.unwrap_err();
    assert!(
        matches!(&refused, UpdateError::Database(error) if fault(error) == Fault::ReadOnly),
        "{refused:?}"
    );
    let refused = Note::upsert(&mut connection, new_note("b", "b"))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, UpsertError::Database(error) if fault(error) == Fault::ReadOnly),
        "{refused:?}"
    );
    Note::load(&mut connection, note.id).await.unwrap();
}

/// A lock that somebody holds: the wait ends at the server's own limit.
#[tokio::test]
async fn a_wait_for_a_held_row_ends_at_the_limit_that_the_connection_has() {
    let limits: &[(&str, Fault)] = if NAME == "SQLite" {
        &[("PRAGMA busy_timeout = 20", Fault::Busy)]
    } else {
        &[
            ("SET lock_timeout = '20ms'", Fault::LockTimeout),
            ("SET statement_timeout = '20ms'", Fault::Canceled),
        ]
    };
    for (limit, expected) in limits {
        let (database, note) = notes().await;
        let mut holder = database.pool.begin().await.unwrap();
        note.touch(&mut *holder).await.unwrap();

        let mut connection = database.connection().await;
        connection
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(*limit)))
            .await
            .unwrap();
        let refused = note.update(&mut connection).await.unwrap_err();
        assert!(
            matches!(&refused, UpdateError::Database(error) if fault(error) == *expected),
            "{refused:?}"
        );
        let refused = note.delete(&mut connection).await.unwrap_err();
        assert!(
            matches!(&refused, DeleteError::Database(error) if fault(error) == *expected),
            "{refused:?}"
        );
        let refused = Note::upsert(&mut connection, new_note("a", "new"))
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, UpsertError::Database(error) if fault(error) == *expected),
            "{refused:?}"
        );

        holder.rollback().await.unwrap();
        all_is_well(&database, &database.pool).await;
        note.update(&mut connection).await.unwrap();
    }
}

/// A snapshot that is older than a competing commit: a new transaction is needed, and `Stale` would be wrong.
#[tokio::test]
async fn v_31_a_competing_commit_is_a_serialization_failure_in_a_snapshot() {
    let snapshots: &[&str] = if NAME == "SQLite" {
        &["SELECT count(*) FROM notes"]
    } else {
        &[
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM notes",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM notes",
        ]
    };
    for snapshot in snapshots {
        for operation in 0..5 {
            let (database, note) = notes().await;
            let mut transaction = database.pool.begin().await.unwrap();
            transaction
                .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(*snapshot)))
                .await
                .unwrap();
            note.touch(&database.pool).await.unwrap();

            let refused = match operation {
                0 => note.update(&mut *transaction).await.map(drop),
                1 => note.touch(&mut *transaction).await.map(drop),
                2 => {
                    let mut edit = note.edit();
                    set_text(&mut edit, "edited");
                    edit.save(&mut *transaction).await.map(drop)
                }
                3 => Note::update_with(&mut *transaction, note.id, |note| set_text(note, "with"))
                    .await
                    .map(drop),
                _ => match note.delete(&mut *transaction).await {
                    Err(DeleteError::Serialization(error)) => {
                        Err(UpdateError::Serialization(error))
                    }
                    other => panic!("{other:?}"),
                },
            };
            assert!(
                matches!(refused, Err(UpdateError::Serialization(_))),
                "{snapshot} {operation}: {refused:?}"
            );
            transaction.rollback().await.unwrap();
            all_is_well(&database, &database.pool).await;
        }
    }
}

/// Drops `operation` at each of its await points in turn, on a pool of one connection, and looks around every time.
macro_rules! cancel_everywhere {
    ($database:expr, $pool:ident, $operation:expr) => {{
        let ($pool, _slow) = $database.one_connection_that_waits().await;
        let mut cuts = 0;
        for limit in 1.. {
            let finished = polled(limit, $operation).await.is_some();
            all_is_well(&$database, &$pool).await;
            if finished {
                break;
            }
            cuts += 1;
        }
        // An operation that never waits was not tested; SQLite's answer can be there at once.
        assert!(cuts > 0 || NAME == "SQLite");
    }};
}

#[tokio::test]
async fn cancelled_reads_and_updates_leave_no_transaction_and_no_half_row() {
    let (database, note) = notes().await;
    let id = note.id;
    cancel_everywhere!(database, pool, async {
        Note::load(&pool, id).await.unwrap()
    });
    cancel_everywhere!(database, pool, async {
        let mut note = Note::load(&pool, id).await.unwrap();
        set_text(&mut note, "updated");
        note.update(&pool).await.unwrap()
    });
    cancel_everywhere!(database, pool, async {
        note.reload(&pool)
            .await
            .unwrap()
            .touch(&pool)
            .await
            .unwrap()
    });
    cancel_everywhere!(database, pool, async {
        let mut edit = Note::load(&pool, id).await.unwrap().edit();
        let longer = format!("{}.", edit.text);
        set_text(&mut edit, &longer);
        edit.save(&pool).await.unwrap()
    });
    cancel_everywhere!(database, pool, async {
        Note::update_with(&pool, id, |note| set_text(note, "with"))
            .await
            .unwrap()
    });
    // The update that loses, and reads the row to tell why.
    cancel_everywhere!(database, pool, async {
        note.update(&pool).await.unwrap_err()
    });
}

#[tokio::test]
async fn a_cancelled_delete_happens_or_does_not() {
    let (database, _) = notes().await;
    cancel_everywhere!(database, pool, async {
        let note = Note::find_or_create(&pool, new_note("a", "again"))
            .await
            .unwrap()
            .into_inner();
        note.delete(&pool).await.unwrap();
    });
}

#[tokio::test]
async fn cancelled_creations_leave_no_transaction_and_no_half_row() {
    let (database, _) = notes().await;
    let mut serial = 0;
    cancel_everywhere!(database, pool, async {
        Note::find_or_create(&pool, new_note("a", "found"))
            .await
            .unwrap()
    });
    cancel_everywhere!(database, pool, {
        serial += 1;
        let new = new_note(&format!("created {serial}"), "created");
        async { Note::find_or_create(&pool, new).await.unwrap() }
    });
    cancel_everywhere!(database, pool, async {
        Note::upsert(&pool, new_note("a", "upserted"))
            .await
            .unwrap()
    });
}

/// Inside the caller's transaction, which the caller then rolls back: nothing of it is left, savepoints included.
#[tokio::test]
async fn a_cancelled_creation_in_a_transaction_goes_with_the_transaction() {
    let (database, _) = notes().await;
    cancel_everywhere!(database, pool, {
        // Not inside the future: sqlx's own `begin` is not safe to cancel.
        let mut transaction = pool.begin().await.unwrap();
        async move {
            let created =
                Note::find_or_create(&mut *transaction, new_note("tx", "in a transaction"))
                    .await
                    .unwrap();
            assert!(created.is_created());
            transaction.rollback().await.unwrap();
        }
    });
    let left = Note::find_by_slug(&database.pool, "tx").await.unwrap();
    assert_eq!(left, None);
}

/// The same, but the caller goes on with the transaction after giving up on the call.
#[tokio::test]
async fn a_transaction_can_go_on_after_a_cancelled_call() {
    let (database, note) = notes().await;
    let pool = database.one_connection_pool().await;
    for limit in 1.. {
        let mut transaction = pool.begin().await.unwrap();
        let slug = format!("abandoned {limit}");
        let call = Note::find_or_create(&mut *transaction, new_note(&slug, "abandoned"));
        let finished = polled(limit, call).await.is_some();
        let later = format!("later {limit}");
        let created = Note::find_or_create(&mut *transaction, new_note(&later, "later"))
            .await
            .unwrap();
        assert!(created.is_created());
        transaction.commit().await.unwrap();
        all_is_well(&database, &pool).await;
        if finished {
            break;
        }
    }
    Note::load(&pool, note.id).await.unwrap();
}
