//! What a write says when the database wrote, and the model cannot read what came back; and when a trigger wrote nothing.

use rowlock::row::{CounterError, FindOrCreateError, LockError, UpdateError, UpsertError};
use rowlock::{Counter, FindOrCreate, Lockable, Versioned};
use sqlx::Executor;

use super::{Database, NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
enum Mood {
    Good,
}

/// The database computes a mood, and for a sad text it is one that the model does not know.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate, Versioned, Lockable)]
#[rowlock(table = "notes", unique(name))]
struct Note {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    body: String,
    #[rowlock(generated)]
    mood: Mood,
    #[rowlock(version)]
    version: i64,
}

const NOTES: &str = "CREATE TABLE notes (id {id}, name text NOT NULL UNIQUE, body text NOT NULL,
    mood text GENERATED ALWAYS AS (CASE WHEN body = 'sad' THEN 'bad' ELSE 'good' END) STORED,
    version bigint NOT NULL DEFAULT 0)";

fn note(body: &str) -> NewNote {
    NewNote {
        name: "a".to_owned(),
        body: body.to_owned(),
    }
}

async fn run(pool: &Pool, sql: &'static str) {
    pool.execute(sqlx::raw_sql(sql)).await.unwrap();
}

/// The body and the version of the only row.
async fn stored(pool: &Pool) -> (String, i64) {
    sqlx::query_as("SELECT body, version FROM notes")
        .fetch_one(pool)
        .await
        .unwrap()
}

fn says_that_it_was_written(error: &dyn std::error::Error) {
    let text = error.to_string();
    assert!(text.contains("the row was"), "{text}");
    assert!(!text.contains("sad"), "{text}");
}

#[tokio::test]
async fn a_row_that_was_created_and_cannot_be_read_is_written() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let error = Note::find_or_create(pool, note("sad")).await.unwrap_err();
    says_that_it_was_written(&error);
    assert!(matches!(error, FindOrCreateError::Written(_)), "{error:?}");
    assert_eq!(stored(pool).await, ("sad".to_owned(), 0));

    // The next call only reads, and wrote nothing.
    let error = Note::find_or_create(pool, note("sad")).await.unwrap_err();
    assert!(matches!(error, FindOrCreateError::Database(_)), "{error:?}");
}

#[tokio::test]
async fn a_row_that_was_overwritten_and_cannot_be_read_is_written() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    Note::upsert(pool, note("glad")).await.unwrap();
    let error = Note::upsert(pool, note("sad")).await.unwrap_err();
    says_that_it_was_written(&error);
    assert!(matches!(error, UpsertError::Written(_)), "{error:?}");
    assert_eq!(stored(pool).await, ("sad".to_owned(), 1));
}

#[tokio::test]
async fn an_update_whose_outcome_cannot_be_read_is_written() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let created = Note::upsert(pool, note("glad")).await.unwrap();

    let mut edit = created.edit();
    edit.body = "sad".to_owned();
    let error = edit.save(pool).await.unwrap_err();
    says_that_it_was_written(&error);
    assert!(matches!(error, UpdateError::Written(_)), "{error:?}");
    assert_eq!(stored(pool).await, ("sad".to_owned(), 1));

    run(pool, "UPDATE notes SET body = 'glad', version = 0").await;
    let change = |note: &mut Note| note.body = "sad".to_owned();
    let error = Note::update_with(pool, created.id, change)
        .await
        .unwrap_err();
    assert!(matches!(error, UpdateError::Written(_)), "{error:?}");
    assert_eq!(stored(pool).await, ("sad".to_owned(), 1));
}

/// The write is part of the transaction, and counts as far as that does.
#[tokio::test]
async fn in_a_transaction_written_means_as_far_as_it_is_committed() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let created = Note::upsert(pool, note("glad")).await.unwrap();
    for commit in [false, true] {
        let mut tx = pool.begin().await.unwrap();
        let mut locked = Note::lock(&mut tx, created.id).await.unwrap();
        locked.body = "sad".to_owned();
        let error = locked.save(&mut tx).await.unwrap_err();
        says_that_it_was_written(&error);
        assert!(matches!(error, LockError::Written(_)), "{error:?}");
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let now = if commit { ("sad", 1) } else { ("glad", 0) };
        assert_eq!(stored(pool).await, (now.0.to_owned(), now.1));
    }
}

/// A field that is narrower than its column.
#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "hits")]
#[allow(dead_code)]
struct Hits {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    hits: i32,
}

#[tokio::test]
async fn a_total_that_the_field_cannot_hold_was_added_or_was_not_as_the_error_says() {
    let database =
        database("CREATE TABLE hits (id bigint PRIMARY KEY, hits bigint NOT NULL)").await;
    let pool = &database.pool;
    const BEFORE: i64 = 3_000_000_000;
    run(pool, "INSERT INTO hits VALUES (1, 3000000000)").await;
    let single = Hits::add_hits(pool, 1, 1).await.unwrap_err();
    let many = Hits::add_hits_many(pool, [(1, 1)]).await.unwrap_err();
    let written = [single, many]
        .iter()
        .filter(|error| matches!(error, CounterError::Written(_)))
        .count();
    let total: i64 = sqlx::query_scalar("SELECT hits FROM hits")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(total - BEFORE, written as i64);
}

async fn drops_writes(database: &Database) {
    let trigger = if NAME == "SQLite" {
        "CREATE TRIGGER no BEFORE UPDATE ON notes BEGIN SELECT RAISE(IGNORE); END"
    } else {
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER no BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION no()"
    };
    run(&database.pool, trigger).await;
}

#[tokio::test]
async fn an_upsert_that_a_trigger_drops_is_ignored_also_with_a_version() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    Note::upsert(pool, note("glad")).await.unwrap();
    drops_writes(&database).await;
    let error = Note::upsert(pool, note("new")).await.unwrap_err();
    assert!(matches!(error, UpsertError::Ignored(_)), "{error:?}");
    assert_eq!(stored(pool).await, ("glad".to_owned(), 0));
}

#[tokio::test]
async fn a_locked_save_that_a_trigger_drops_is_ignored_and_not_a_missing_row() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let created = Note::upsert(pool, note("glad")).await.unwrap();
    drops_writes(&database).await;
    let mut tx = pool.begin().await.unwrap();
    let mut locked = Note::lock(&mut tx, created.id).await.unwrap();
    locked.body = "new".to_owned();
    let error = locked.save(&mut tx).await.unwrap_err();
    assert!(matches!(error, LockError::Ignored(_)), "{error:?}");
}

/// With the row deleted behind the lock's back, in its own transaction, it is missing indeed.
#[tokio::test]
async fn a_locked_save_without_a_row_is_not_found() {
    let database = database(NOTES).await;
    let pool = &database.pool;
    let created = Note::upsert(pool, note("glad")).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let mut locked = Note::lock(&mut tx, created.id).await.unwrap();
    tx.execute("DELETE FROM notes").await.unwrap();
    let error = locked.save(&mut tx).await.unwrap_err();
    assert!(matches!(error, LockError::NotFound(_)), "{error:?}");
}
