//! Text keys in columns of other types than text: rows are found as the column compares them, by every derive.

use chrono::{DateTime, Utc};
use rowlock::queue::{Claimed, QueueState};
use rowlock::row::{LockError, UpdateError};
use rowlock::{Counter, Fence, FindOrCreate, Lockable, Queue, Versioned};
use sqlx::{AssertSqlSafe, Executor};

use super::{Database, PoolOptions, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, FindOrCreate, Counter)]
#[rowlock(table = "things", unique(id))]
struct Thing {
    #[rowlock(key)]
    id: String,
    #[rowlock(default)]
    name: String,
    #[rowlock(counter)]
    units: i64,
    #[rowlock(version)]
    version: i64,
}

async fn things(ty: &str) -> Database {
    let database = database("").await;
    fill(&database, ty).await;
    database
}

async fn fill(database: &Database, ty: &str) {
    let sql = format!(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN code AS char(5);
         CREATE TABLE things (id {ty} PRIMARY KEY, name text NOT NULL DEFAULT '', units bigint NOT NULL, version bigint NOT NULL);
         INSERT INTO things VALUES ('ok', 'a', 0, 0), ('sad', 'b', 0, 0)"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&database.pool)
        .await
        .unwrap();
}

/// What PostgreSQL pads, it gives back padded; `id = $1` with a text strips the column's blanks and not the parameter's.
#[tokio::test]
async fn padded_keys_are_found_by_every_method() {
    for ty in ["char(5)", "code", "text", "varchar(5)", "name"] {
        let database = things(ty).await;
        let pool = &database.pool;
        let padded = ["char(5)", "code"].contains(&ty);
        for given in ["ok", "ok   "].into_iter().take(1 + usize::from(padded)) {
            let row = Thing::load(pool, given).await.unwrap();
            assert_eq!(row.id, if padded { "ok   " } else { "ok" }, "{ty}");
            let row = row.reload(pool).await.unwrap();
            let row = row.touch(pool).await.unwrap();
            let mut edit = row.edit();
            edit.name = format!("{given} edited");
            let mut row = edit.save(pool).await.unwrap();
            row.name = "updated".into();
            let old = row.clone();
            let row = row.update(pool).await.unwrap();
            let stale = old.update(pool).await;
            assert!(matches!(stale, Err(UpdateError::Stale(_))), "{stale:?}");
            Thing::update_with(pool, &row.id, |row| row.name.push('!'))
                .await
                .unwrap();
            Thing::add_units(pool, &row.id, 1).await.unwrap();
            Thing::add_units_many(pool, [(row.id.as_str(), 1), ("sad", 1)])
                .await
                .unwrap();
            assert!(Thing::get(pool, &row.id).await.unwrap().is_some());
            assert!(Thing::find_by_id(pool, &row.id).await.unwrap().is_some());

            let mut tx = pool.begin().await.unwrap();
            let mut locked = Thing::lock(&mut tx, given).await.unwrap();
            locked.name = "locked".into();
            locked.save(&mut tx).await.unwrap();
            let row = locked.into_inner();
            row.lock_checked(&mut tx).await.unwrap();
            Thing::lock(&mut tx, &row.id).skip_locked().await.unwrap();
            let sad = Thing::load(&mut *tx, "sad").await.unwrap();
            for keys in [
                [given, "sad"],
                [&row.id, &sad.id],
                [&sad.id, &row.id],
                [given, &row.id],
            ] {
                let locked = Thing::lock_many(&mut tx, keys).await.unwrap();
                let both = usize::from(keys.contains(&"sad") || keys.contains(&sad.id.as_str()));
                assert_eq!(locked.len(), 1 + both, "{ty}: {keys:?}");
            }
            tx.commit().await.unwrap();
            let stored = Thing::load(pool, given).await.unwrap();
            assert_eq!(
                (&*stored.name, stored.units),
                ("locked", if given == "ok" { 2 } else { 4 })
            );
        }
        let row = Thing::load(pool, "ok").await.unwrap();
        row.delete(pool).await.unwrap();
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM things")
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(left, 1, "{ty}");
    }
}

/// The naive twin of the above: sqlx binds a string as text.
#[tokio::test]
async fn naive_twin_of_a_padded_key_finds_no_row() {
    let database = things("char(5)").await;
    let sql = "SELECT id FROM things WHERE id = $1";
    let read = async |key: String| {
        let query = sqlx::query_scalar::<_, String>(sql).bind(key);
        query.fetch_optional(&database.pool).await.unwrap()
    };
    let stored = read("ok".into()).await.unwrap();
    assert_eq!(read(stored).await, None);
}

/// The same in a column that ignores case.
#[tokio::test]
async fn keys_in_another_case_are_found_in_a_citext_column() {
    let database = database("").await;
    // Two tests that create it at once would violate the catalog's unique index.
    let citext = "BEGIN; SELECT pg_advisory_xact_lock(20260901); CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; COMMIT";
    database.pool.execute(sqlx::raw_sql(citext)).await.unwrap();
    fill(&database, "public.citext").await;
    // One that sees the operators of the extension.
    let pool = PoolOptions::new()
        .max_connections(1)
        .after_connect(|connection, _| {
            Box::pin(async move {
                let path =
                    "SELECT set_config('search_path', current_schema() || ', public', false)";
                connection.execute(path).await.map(drop)
            })
        });
    let pool = &database.pool_with(pool).await;
    let row = Thing::load(pool, "OK").await.unwrap();
    assert_eq!(row.id, "ok");
    let mut other = row.clone();
    other.id = "Ok".into();
    let other = other.update(pool).await.unwrap();
    Thing::add_units(pool, "oK", 1).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    Thing::lock(&mut tx, "OK").await.unwrap();
    other.lock_checked(&mut tx).await.unwrap();
    // Many are compared as text, to which PostgreSQL turns an array of citext and one of text.
    let locked = Thing::lock_many(&mut tx, ["sad", "ok"]).await.unwrap();
    assert_eq!(locked.len(), 2);
    let other = Thing::lock_many(&mut tx, ["SAD"]).await;
    assert!(matches!(other, Err(LockError::NotFound(_))), "{other:?}");
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    id: String,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 2))]
    attempts: i16,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<DateTime<Utc>>,
}

/// A claimed row has the padded key.
#[tokio::test]
async fn rows_of_a_queue_with_padded_keys_can_be_finished() {
    let database = database(
        "CREATE TABLE jobs (id char(5) PRIMARY KEY, run_at timestamptz NOT NULL DEFAULT '2020-01-01',
            state text NOT NULL DEFAULT 'ready', attempts smallint NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0,
            lease timestamptz);
         INSERT INTO jobs SELECT 'k' || n FROM generate_series(1, 6) AS n",
    )
    .await;
    let pool = &database.pool;
    let mut claimed = Job::claim(pool, 6).await.unwrap().into_iter();
    let mut next = || claimed.next().unwrap();
    next().complete(pool).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    next().complete_in(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    next().release(pool).await.unwrap();
    next().fail(pool, "no").await.unwrap();
    Claimed::complete_many(pool, [next(), next()])
        .await
        .unwrap();
    let states: Vec<String> = sqlx::query_scalar("SELECT state FROM jobs ORDER BY state")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(states, ["dead", "done", "done", "done", "done", "ready"]);
    pool.execute("SELECT 1").await.unwrap();
}
