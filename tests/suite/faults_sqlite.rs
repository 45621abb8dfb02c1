//! Each `Fault` that takes an SQLite.

use rowlock::row::UpdateError;
use rowlock::{Fault, Versioned};
use sqlx::sqlite::SqliteJournalMode;
use sqlx::{Connection as _, Executor};

use super::{Connection, Database, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "versions")]
struct Row {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

const ROWS: &str = "CREATE TABLE rows (id INTEGER PRIMARY KEY, name text);
    CREATE TABLE versions (id INTEGER PRIMARY KEY, version bigint NOT NULL);
    INSERT INTO versions VALUES (1, 0);
    CREATE TABLE keyed (id text PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE parts (row_id integer REFERENCES rows (id) ON DELETE RESTRICT);
    CREATE TABLE strict (id integer) STRICT;
    CREATE TRIGGER refuse BEFORE UPDATE ON keyed BEGIN SELECT RAISE(ABORT, 'no'); END;
    INSERT INTO rows VALUES (1, 'one'); INSERT INTO keyed VALUES ('a'); INSERT INTO parts VALUES (1)";

/// The fault of the statement, which has to fail, and the extended code.
async fn fault(connection: &mut Connection, statement: &'static str) -> (Fault, String) {
    let error = connection.execute(statement).await.unwrap_err();
    let code = error.as_database_error().and_then(|error| error.code());
    (Fault::of(&error), code.unwrap_or_default().into_owned())
}

/// Two connections which do not wait for each other.
async fn two() -> (Database, Connection, Connection) {
    let database = database(ROWS).await;
    let mut pair = (database.connection().await, database.connection().await);
    for connection in [&mut pair.0, &mut pair.1] {
        let impatient = "PRAGMA busy_timeout = 0";
        connection.execute(impatient).await.unwrap();
    }
    (database, pair.0, pair.1)
}

#[tokio::test]
async fn statements() {
    let (_database, mut connection, _) = two().await;
    for (statement, expected) in [
        (
            "INSERT INTO rows VALUES (1, 'two')",
            (Fault::UniqueViolation, "1555"),
        ),
        (
            "INSERT INTO keyed VALUES ('a')",
            (Fault::UniqueViolation, "1555"),
        ),
        ("SELECT * FROM nowhere", (Fault::Schema, "1")),
        ("UPDATE keyed SET id = 'b'", (Fault::Raised, "1811")),
        // A foreign key that restricts is a trigger of SQLite's own, and has its code.
        ("DELETE FROM rows", (Fault::Raised, "1811")),
        (
            "INSERT INTO strict VALUES ('one')",
            (Fault::InvalidValue, "3091"),
        ),
        (
            "INSERT INTO rows VALUES ('a', 'two')",
            (Fault::InvalidValue, "20"),
        ),
    ] {
        let (fault, code) = fault(&mut connection, statement).await;
        assert_eq!((fault, &*code), expected, "{statement}");
        assert!(!fault.is_transient());
    }
}

#[tokio::test]
async fn busy() {
    let (_database, mut holder, mut other) = two().await;
    let mut tx = holder.begin_with("BEGIN IMMEDIATE").await.unwrap();
    tx.execute("DELETE FROM keyed").await.unwrap();
    for statement in ["BEGIN IMMEDIATE", "DELETE FROM keyed"] {
        let (fault, code) = fault(&mut other, statement).await;
        assert_eq!((fault, &*code), (Fault::Busy, "5"), "{statement}");
        assert!(fault.is_transient());
    }
}

/// T-29: a deferred transaction has read, somebody has written since, and no waiting helps.
#[tokio::test]
async fn t_29_busy_snapshot() {
    let (_database, mut writer, mut reader) = two().await;
    reader.execute("PRAGMA busy_timeout = 20000").await.unwrap();
    let mut tx = reader.begin().await.unwrap();
    tx.execute("SELECT * FROM rows").await.unwrap();
    writer.execute("DELETE FROM keyed").await.unwrap();
    let (fault, code) = fault(&mut tx, "DELETE FROM keyed").await;
    assert_eq!((fault, &*code), (Fault::Serialization, "517"));
    assert!(fault.is_transient());
}

#[tokio::test]
async fn read_only_files() {
    let database = database(ROWS).await;
    let options = database.options().read_only(true);
    let mut connection = Connection::connect_with(&options).await.unwrap();
    let (fault, code) = fault(&mut connection, "DELETE FROM keyed").await;
    assert_eq!((fault, &*code), (Fault::ReadOnly, "8"));
}

/// What `Versioned` makes of it: in WAL mode a transaction that has read loses to one that has committed, in the others it
/// meets one that has not, as there no writer commits while somebody reads.
#[tokio::test]
async fn t_29_a_reader_that_wants_to_write_is_serialization_in_wal_mode_and_busy_else() {
    for (mode, commits) in [
        (SqliteJournalMode::Wal, true),
        (SqliteJournalMode::Delete, false),
        (SqliteJournalMode::Truncate, false),
        (SqliteJournalMode::Persist, false),
    ] {
        let database = database(ROWS).await;
        database.pool.close().await;
        let options = database.options().journal_mode(mode);
        let mut writer = Connection::connect_with(&options).await.unwrap();
        let mut reader = Connection::connect_with(&options).await.unwrap();
        writer.execute("PRAGMA busy_timeout = 0").await.unwrap();
        reader.execute("PRAGMA busy_timeout = 20000").await.unwrap();

        // Another one is writing: no waiting would help, and there is none.
        let row = Row::load(&mut writer, 1).await.unwrap();
        let mut reading = reader.begin().await.unwrap();
        Row::load(&mut *reading, 1).await.unwrap();
        let mut writing = writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
        row.update(&mut *writing).await.unwrap();
        let begun = std::time::Instant::now();
        let error = row.update(&mut *reading).await.unwrap_err();
        assert!(begun.elapsed().as_secs() < 10, "waited in vain");
        assert!(
            matches!(&error, UpdateError::Database(error) if error.fault() == Fault::Busy),
            "{error}"
        );

        // And wants to commit.
        let committed = writing.execute("COMMIT").await;
        assert_eq!(committed.is_ok(), commits, "{mode:?}");
        if let Err(error) = committed {
            assert_eq!(Fault::of(&error), Fault::Busy);
        }
        if commits {
            let error = row.update(&mut *reading).await.unwrap_err();
            assert!(matches!(error, UpdateError::Serialization(_)), "{error}");
        }
        reading.rollback().await.unwrap();
        if commits {
            // sqlx does not know that it is committed.
            writing.execute("BEGIN").await.unwrap();
        }
        writing.rollback().await.unwrap();
    }
}
