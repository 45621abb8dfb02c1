//! Methods outside a transaction where `default_transaction_isolation` is stricter than READ COMMITTED: they do what is documented, for
//! the loser of a race too. A statement of one's own is refused with 40001.

use std::future::Future;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rowlock::queue::{Claimed, QueueState};
use rowlock::row::{CounterError, FoundOrCreated, UpdateError};
use rowlock::{Counter, Fault, Fence, FindOrCreate, Queue, Versioned};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::Barrier;

use super::{Database, Pool, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "notes", backend(Postgres))]
struct Note {
    #[rowlock(key)]
    id: i64,
    #[rowlock(unique)]
    slug: String,
    title: String,
    #[rowlock(version)]
    version: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "views", backend(Postgres))]
struct Views {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter(min = 0, max = 20))]
    views: i64,
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", backend(Postgres))]
struct Job {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

const NOTES: &str =
    "CREATE TABLE notes (id bigint PRIMARY KEY, slug text NOT NULL UNIQUE, title text NOT NULL,
        version bigint NOT NULL DEFAULT 0, seen bigint NOT NULL DEFAULT 0);
    INSERT INTO notes VALUES (1, 'one', 'first', 0, 0);
    CREATE TABLE views (page bigint PRIMARY KEY, views bigint NOT NULL);
    INSERT INTO views VALUES (1, 0);
    CREATE TABLE jobs (id bigint PRIMARY KEY, note text, run_at timestamptz NOT NULL DEFAULT now(), state text NOT NULL DEFAULT 'ready',
        attempts integer NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamptz);
    INSERT INTO jobs SELECT n FROM generate_series(1, 3) AS n";

/// A database, and a pool whose sessions begin like those of a role with this default.
async fn strict(level: &str) -> (Database, Pool) {
    let database = database(NOTES).await;
    let options = database
        .options()
        .options([("default_transaction_isolation", level)]);
    let pool = PoolOptions::new().max_connections(20);
    let pool = pool.connect_with(options).await.unwrap();
    (database, pool)
}

/// Commits `first` while `second` waits for it.
async fn after<T: Send + 'static>(
    database: &Database,
    first: &str,
    second: impl Future<Output = T> + Send + 'static,
) -> T {
    let mut holder = database.connection().await;
    let first = format!("BEGIN; {first}");
    holder
        .execute(sqlx::raw_sql(AssertSqlSafe(first)))
        .await
        .unwrap();
    let second = tokio::spawn(second);
    database.until_blocked().await;
    holder.execute("COMMIT").await.unwrap();
    second.await.unwrap()
}

const EDIT: &str = "UPDATE notes SET title = 'theirs', version = version + 1 WHERE id = 1";

/// What the methods are compared with.
async fn naive_twin(database: &Database, pool: &Pool) {
    let pool = pool.clone();
    let update = "UPDATE notes SET title = 'mine' WHERE id = 1";
    let refused = after(database, EDIT, async move { pool.execute(update).await }).await;
    assert_eq!(Fault::of(&refused.unwrap_err()), Fault::Serialization);
}

async fn the_loser_of_a_race_is_stale(level: &str) {
    let (database, pool) = strict(level).await;
    naive_twin(&database, &pool).await;

    let stale = |outcome: Result<Note, UpdateError<Note>>| match outcome {
        Err(UpdateError::Stale(conflict)) => assert_eq!(conflict.current.title, "theirs"),
        other => panic!("{other:?}"),
    };
    let load = async || Note::load(&pool, 1).await.unwrap();
    let (note, on) = (load().await, pool.clone());
    stale(after(&database, EDIT, async move { note.update(&on).await }).await);
    let (note, on) = (load().await, pool.clone());
    stale(after(&database, EDIT, async move { note.touch(&on).await }).await);
    let (mut edit, on) = (load().await.edit(), pool.clone());
    edit.title.push('!');
    stale(after(&database, EDIT, async move { edit.save(&on).await }).await);
    let (note, on) = (load().await, pool.clone());
    let deleted = after(&database, EDIT, async move { note.delete(&on).await }).await;
    assert!(
        matches!(deleted, Err(rowlock::row::DeleteError::Stale(_))),
        "{deleted:?}"
    );

    // Who changes nothing that the version guards is in nobody's way.
    let (note, on) = (load().await, pool.clone());
    let counted = "UPDATE notes SET seen = seen + 1 WHERE id = 1";
    let note = Note {
        title: "mine".to_owned(),
        ..note
    };
    let written = after(&database, counted, async move { note.update(&on).await }).await;
    assert_eq!(written.unwrap().title, "mine");

    // And with a change that can be made again.
    let on = pool.clone();
    let change = |note: &mut Note| note.title.push('!');
    let written = async move { Note::update_with(&on, 1, change).await };
    let written = after(&database, EDIT, written).await.unwrap();
    assert_eq!(written.title, "theirs!");
}

#[tokio::test]
async fn the_loser_of_a_race_is_stale_in_repeatable_read() {
    the_loser_of_a_race_is_stale("repeatable read").await;
}

#[tokio::test]
async fn the_loser_of_a_race_is_stale_in_serializable() {
    the_loser_of_a_race_is_stale("serializable").await;
}

async fn counters_add_up(level: &str) {
    let (database, pool) = strict(level).await;
    let count = "UPDATE views SET views = views + 5 WHERE page = 1";
    let on = pool.clone();
    let total = after(&database, count, async move {
        Views::add_views(&on, 1, 1).await
    })
    .await;
    assert_eq!(total.unwrap(), 6);
    let on = pool.clone();
    let refused = async move { Views::add_views(&on, 1, 10).await };
    let refused = after(&database, count, refused).await;
    assert!(
        matches!(refused, Err(CounterError::OutOfBounds(_))),
        "{refused:?}"
    );
    let on = pool.clone();
    let totals = async move { Views::add_views_many(&on, [(2, 1), (1, -2)]).await };
    let totals = after(&database, count, totals).await.unwrap();
    assert_eq!(totals, [(1, 14), (2, 1)]);

    // A row that was not there.
    let create = "INSERT INTO views VALUES (3, 5)";
    let on = pool.clone();
    let total = after(&database, create, async move {
        Views::add_views(&on, 3, 1).await
    })
    .await;
    assert_eq!(total.unwrap(), 6);

    // Everybody at once.
    let together = Arc::new(Barrier::new(6));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (on, together) = (pool.clone(), together.clone());
        tasks.spawn(async move {
            together.wait().await;
            Views::add_views(&on, 1, 1).await.unwrap();
        });
    }
    while let Some(added) = tasks.join_next().await {
        added.unwrap();
    }
    assert_eq!(Views::get(&pool, 1).await.unwrap().unwrap().views, 20);
}

#[tokio::test]
async fn counters_add_up_in_repeatable_read() {
    counters_add_up("repeatable read").await;
}

#[tokio::test]
async fn counters_add_up_in_serializable() {
    counters_add_up("serializable").await;
}

async fn a_key_is_found_or_overwritten(level: &str) {
    let (database, pool) = strict(level).await;
    let new = |id| NewNote {
        id,
        slug: "new".to_owned(),
        title: "mine".to_owned(),
    };
    let insert = "INSERT INTO notes VALUES (3, 'new', 'theirs', 0, 0)";
    let on = pool.clone();
    let found = async move { Note::find_or_create(&on, new(4)).await };
    match after(&database, insert, found).await.unwrap() {
        FoundOrCreated::Found(note) => assert_eq!((note.id, &*note.title), (3, "theirs")),
        created => panic!("{created:?}"),
    }
    let on = pool.clone();
    let edit = "UPDATE notes SET title = 'again', version = 7 WHERE id = 3";
    let written = after(
        &database,
        edit,
        async move { Note::upsert(&on, new(3)).await },
    )
    .await;
    let written = written.unwrap();
    assert_eq!((&*written.title, written.version), ("mine", 8));
}

#[tokio::test]
async fn a_key_is_found_or_overwritten_in_repeatable_read() {
    a_key_is_found_or_overwritten("repeatable read").await;
}

#[tokio::test]
async fn a_key_is_found_or_overwritten_in_serializable() {
    a_key_is_found_or_overwritten("serializable").await;
}

/// A concurrent writer who changes one row of a batch keeps no row from being finished.
#[tokio::test]
async fn claims_are_finished_in_repeatable_read_and_serializable() {
    for level in ["repeatable read", "serializable"] {
        let (database, pool) = strict(level).await;
        for (jobs, method) in [(3, "put back"), (3, "complete"), (1, "complete")] {
            let batch = Job::claim(&pool, jobs).await.unwrap();
            assert_eq!(batch.len(), jobs, "{level}, {method}");
            let note = format!("UPDATE jobs SET note = 'theirs' WHERE id = {}", batch[0].id);
            let on = pool.clone();
            let unfinished = after(&database, &note, async move {
                match method {
                    "complete" => Claimed::complete_many(&on, batch).await,
                    _ => Claimed::release_many(&on, batch).await,
                }
            });
            let unfinished = unfinished.await.unwrap();
            assert!(unfinished.is_empty(), "{level}, {method}: {unfinished:?}");
            pool.execute("UPDATE jobs SET state = 'ready' WHERE state = 'done' AND id = 1")
                .await
                .unwrap();
        }
    }
}

/// In a transaction of the caller's it is the caller who has to run all of it again.
#[tokio::test]
async fn in_a_transaction_nothing_is_run_again() {
    let (database, pool) = strict("repeatable read").await;
    let count = "UPDATE views SET views = 5 WHERE page = 1";
    let refused = after(&database, count, async move {
        let mut tx = pool.begin().await.unwrap();
        Views::add_views(&mut *tx, 1, 1).await
    })
    .await;
    assert!(
        matches!(refused, Err(CounterError::Serialization(_))),
        "{refused:?}"
    );
}
