//! ON CONFLICT IGNORE of a table, and `RAISE(IGNORE)`: SQLite drops the write and reports success.

use std::time::Duration;

use rowlock::idempotent::{Once, OnceError, StartError};
use rowlock::queue::{FinishError, QueueState};
use rowlock::row::{
    CounterError, DeleteError, FindOrCreateError, LockError, UpdateError, UpsertError,
};
use rowlock::{Counter, Fault, Fence, FindOrCreate, Idempotent, Lockable, Queue, Versioned};
use sqlx::Executor;

use super::{BEGIN_WRITE, Database, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, FindOrCreate, Counter)]
#[rowlock(table = "things", unique(name), existing_rows)]
struct Thing {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    slot: i64,
    #[rowlock(counter)]
    units: i64,
    #[rowlock(version)]
    version: i64,
}

/// Writes that would take the slot of another row are dropped, and those that go beyond 5.
async fn things() -> Database {
    database(
        "CREATE TABLE things (id {id}, name text NOT NULL UNIQUE, slot bigint NOT NULL UNIQUE ON CONFLICT IGNORE,
            units bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0);
         INSERT INTO things (name, slot) VALUES ('a', 1), ('b', 2);
         CREATE TRIGGER full BEFORE UPDATE ON things WHEN NEW.units > 5 OR NEW.slot > 5 BEGIN SELECT RAISE(IGNORE); END;
         CREATE TRIGGER fixed BEFORE DELETE ON things BEGIN SELECT RAISE(IGNORE); END",
    )
    .await
}

fn thing(name: &str, slot: i64) -> NewThing {
    NewThing {
        name: name.to_owned(),
        slot,
    }
}

async fn unchanged(pool: &Pool) {
    let rows: Vec<(String, i64, i64, i64)> =
        sqlx::query_as("SELECT name, slot, units, version FROM things ORDER BY id")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(rows, [("a".to_owned(), 1, 0, 0), ("b".to_owned(), 2, 0, 0)]);
}

#[tokio::test]
async fn naive_twin_of_a_write_that_was_dropped() {
    let database = things().await;
    let update = "UPDATE things SET slot = 2 WHERE id = 1";
    let done = database.pool.execute(update).await.unwrap();
    assert_eq!(done.rows_affected(), 0);
    unchanged(&database.pool).await;
}

#[tokio::test]
async fn a_checked_write_that_was_dropped_is_ignored() {
    let database = things().await;
    let pool = &database.pool;
    let row = Thing::load(pool, 1).await.unwrap();
    let taken = Thing {
        slot: 2,
        ..row.clone()
    };
    let mut edit = row.clone().edit();
    edit.slot = 2;
    for (what, outcome) in [
        ("update", taken.update(pool).await),
        ("save", edit.save(pool).await),
        (
            "update_with",
            Thing::update_with(pool, 1, |row| row.slot = 6).await,
        ),
    ] {
        let error = outcome.unwrap_err();
        assert!(matches!(error, UpdateError::Ignored(_)), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!(
                "{what} of things (id = 1): the version matches, but a trigger, a row security policy or ON CONFLICT IGNORE dropped the write"
            )
        );
    }
    let error = row.delete(pool).await.unwrap_err();
    assert!(matches!(error, DeleteError::Ignored(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "delete of things (id = 1): the version matches, but a trigger or a row security policy dropped the delete"
    );
    unchanged(pool).await;
}

#[tokio::test]
async fn a_locked_save_that_was_dropped_is_ignored() {
    let database = things().await;
    let pool = &database.pool;
    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    let mut locked = Thing::lock(&mut tx, 1).await.unwrap();
    locked.slot = 2;
    let error = locked.save(&mut tx).await.unwrap_err();
    assert!(matches!(error, LockError::Ignored(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "save of things (id = 1): a trigger, a row security policy or ON CONFLICT IGNORE dropped the write"
    );
    tx.commit().await.unwrap();
    unchanged(pool).await;
}

#[tokio::test]
async fn a_find_or_create_that_was_dropped_is_no_row() {
    let database = things().await;
    let pool = &database.pool;
    let error = Thing::find_or_create(pool, thing("c", 2))
        .await
        .unwrap_err();
    assert!(matches!(error, FindOrCreateError::KeyTaken(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "find_or_create of things (name = …): the key is taken by a row that a lookup of this key does not find, \
         or the insert was dropped (by row security, a trigger, or ON CONFLICT IGNORE)"
    );
    // The update of an upsert is one OR ABORT, whatever the constraint says; a trigger drops that too.
    let error = Thing::upsert(pool, thing("a", 2)).await.unwrap_err();
    assert!(
        matches!(&error, UpsertError::Database(error) if error.fault() == Fault::UniqueViolation),
        "{error:?}"
    );
    for new in [thing("a", 6), thing("c", 2)] {
        let error = Thing::upsert(pool, new).await.unwrap_err();
        assert!(matches!(error, UpsertError::Ignored(_)), "{error:?}");
        assert_eq!(
            error.to_string(),
            "upsert of things (name = …): nothing was written: a trigger or ON CONFLICT IGNORE dropped it, or concurrent writers changed the row in between"
        );
    }
    unchanged(pool).await;
}

#[tokio::test]
async fn an_addition_that_was_dropped_is_contended() {
    let database = things().await;
    let pool = &database.pool;
    let error = Thing::add_units(pool, 1, 6).await.unwrap_err();
    assert!(matches!(error, CounterError::Contended(_)), "{error:?}");
    let text = "nothing was changed, although there is room by now; call again";
    assert!(error.to_string().ends_with(text), "{error}");
    let error = Thing::add_units_many(pool, [(1, 1), (2, 6)])
        .await
        .unwrap_err();
    assert!(matches!(error, CounterError::Contended(_)), "{error:?}");
    assert!(error.to_string().ends_with(text), "{error}");
    unchanged(pool).await;
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "tasks", backend(Sqlite))]
struct Task {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 3))]
    attempts: i64,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
}

/// One row only may be done.
#[tokio::test]
async fn an_end_of_a_claim_that_was_dropped_is_ignored() {
    let database = database(
        "CREATE TABLE tasks (id {id}, run_at {timestamp} NOT NULL DEFAULT ({now}), state text NOT NULL DEFAULT 'ready',
            attempts bigint NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, lease {timestamp},
            done bigint AS (iif(state = 'done', 1, NULL)) UNIQUE ON CONFLICT IGNORE);
         INSERT INTO tasks DEFAULT VALUES; INSERT INTO tasks DEFAULT VALUES",
    )
    .await;
    let pool = &database.pool;
    let [first, second] = <[_; 2]>::try_from(Task::claim(pool, 2).await.unwrap()).unwrap();
    first.complete(pool).await.unwrap();
    let error = second.complete(pool).await.unwrap_err();
    assert!(matches!(error, FinishError::Ignored(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "complete of tasks (id = 2): the claim still holds, but a trigger, a row security policy or ON CONFLICT IGNORE dropped the write"
    );
}

#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "nights", backend(Sqlite))]
struct Night {
    #[rowlock(key)]
    night: i64,
    #[rowlock(fingerprint)]
    fingerprint: String,
    #[rowlock(outcome)]
    rows: Option<i64>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Timestamp,
    #[rowlock(finished)]
    finished: Option<Timestamp>,
}

/// The ledger takes no second row of the same fingerprint.
#[tokio::test]
async fn a_request_that_was_dropped_is_not_run() {
    let database = database(
        "CREATE TABLE nights (night bigint PRIMARY KEY, fingerprint text NOT NULL UNIQUE ON CONFLICT IGNORE, rows bigint,
            fence bigint NOT NULL, lease timestamp NOT NULL, finished timestamp)",
    )
    .await;
    let pool = &database.pool;
    let run = async |_: &mut _| Ok::<i64, sqlx::Error>(3);
    assert_eq!(Night::once(pool, 1, &5, run).await.unwrap(), Once::Ran(3));
    let why = "the row is not stored under the key that was given (a trigger or the column's type changes it), or cannot be seen or written";
    let error = Night::once(pool, 2, &5, run).await.unwrap_err();
    assert!(matches!(error, OnceError::KeyTaken(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("once of nights (night = 2): {why}")
    );
    let lease = Duration::from_secs(60);
    let error = Night::start(pool, 2, &5, lease).await.unwrap_err();
    assert!(matches!(error, StartError::KeyTaken(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("start of nights (night = 2): {why}")
    );
}
