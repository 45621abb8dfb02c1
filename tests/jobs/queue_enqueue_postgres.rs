//! New jobs, with what only PostgreSQL has.

use rowlock::queue::QueueState;
use rowlock::row::{FindOrCreateError, InsertError};
use rowlock::{Fault, Fence, FindOrCreate, Queue, Versioned};

use super::database;

type Timestamp = chrono::DateTime<chrono::Utc>;

/// chrono's decoder panics when it reads `infinity`.
const FOR_EVER: &str = "id bigserial PRIMARY KEY, k bigint NOT NULL, valid_until timestamptz NOT NULL DEFAULT 'infinity',
     run_at timestamptz NOT NULL, state text NOT NULL, attempts int NOT NULL, fence bigint NOT NULL, leased_until timestamptz";

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", backend(Postgres))]
struct Plain {
    #[rowlock(key, generated)]
    id: i64,
    k: i64,
    #[rowlock(default)]
    valid_until: Timestamp,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

#[derive(Debug, sqlx::FromRow, Queue, FindOrCreate)]
#[rowlock(table = "jobs", unique(k, while(ready)), backend(Postgres))]
struct Unique {
    #[rowlock(key, generated)]
    id: i64,
    k: i64,
    #[rowlock(default)]
    valid_until: Timestamp,
    #[rowlock(run_at, default)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "passes", backend(Postgres))]
struct Pass {
    #[rowlock(key)]
    id: i64,
    #[rowlock(default)]
    valid_until: Timestamp,
    #[rowlock(version)]
    version: i64,
}

/// The row is there, and the caller is told so.
#[tokio::test]
async fn a_decoder_that_panics_is_an_error() {
    let jobs = database(&format!("CREATE TABLE jobs ({FOR_EVER})")).await;
    let pool = &jobs.pool;
    let one = Plain::enqueue(pool, NewPlain { k: 1 }).await;
    assert!(matches!(one, Err(InsertError::Written(_))), "{one:?}");
    assert_eq!(Fault::in_chain(&one.unwrap_err()), Some(Fault::Decode));
    let many = Plain::enqueue_many(pool, [NewPlain { k: 2 }, NewPlain { k: 3 }]).await;
    assert!(matches!(many, Err(InsertError::Written(_))), "{many:?}");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(rows, 3);
}

#[tokio::test]
async fn a_decoder_that_panics_is_an_error_of_a_unique_job() {
    let jobs = database(&format!("CREATE TABLE jobs ({FOR_EVER})")).await;
    let pool = &jobs.pool;
    sqlx::raw_sql(Unique::ddl::<sqlx::Postgres>())
        .execute(pool)
        .await
        .unwrap();
    let created = Unique::enqueue(pool, NewUnique { k: 1 }).await;
    assert!(
        matches!(created, Err(FindOrCreateError::Written(_))),
        "{created:?}"
    );
    let found = Unique::enqueue(pool, NewUnique { k: 1 }).await;
    assert!(
        matches!(&found, Err(FindOrCreateError::Database(_))),
        "{found:?}"
    );
    assert_eq!(Fault::in_chain(&found.unwrap_err()), Some(Fault::Decode));
}

#[tokio::test]
async fn a_decoder_that_panics_is_an_error_of_a_versioned_row() {
    let passes = database(
        "CREATE TABLE passes (id bigint PRIMARY KEY, valid_until timestamptz NOT NULL DEFAULT 'infinity', version bigint NOT NULL);
         INSERT INTO passes VALUES (1, DEFAULT, 0)",
    )
    .await;
    let loaded = Pass::load(&passes.pool, 1).await.unwrap_err();
    assert_eq!(Fault::in_chain(&loaded), Some(Fault::Decode), "{loaded:?}");
}
