//! 64 tasks at once on a few rows: the totals are exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use rowlock::row::{FoundOrCreated, UpdateError};
use rowlock::{Counter, FindOrCreate, Versioned};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Pool, PoolOptions, database};

const TASKS: i64 = 64;
const OPERATIONS: i64 = 10_000;

/// Runs `operation(pool, n)` for each n below `OPERATIONS`, on all tasks at once.
async fn storm<F>(pool: &Pool, operation: impl Fn(Pool, i64) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let start = Arc::new(Barrier::new(TASKS as usize));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let start = Arc::clone(&start);
        let share: Vec<F> = (task..OPERATIONS)
            .step_by(TASKS as usize)
            .map(|n| operation(pool.clone(), n))
            .collect();
        tasks.spawn(async move {
            start.wait().await;
            for operation in share {
                operation.await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// All tasks wait their turn here, however long that takes.
fn eight() -> PoolOptions {
    PoolOptions::new()
        .max_connections(8)
        .acquire_timeout(std::time::Duration::from_secs(120))
}

#[derive(Debug, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "hits")]
struct Hits {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    hits: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn c_04_every_addition_counts() {
    const PAGES: i64 = 4;
    let database =
        database("CREATE TABLE hits (page bigint PRIMARY KEY, hits bigint NOT NULL)").await;
    let pool = database.pool_with(eight()).await;
    storm(&pool, |pool, n| async move {
        Hits::add_hits(&pool, n % PAGES, 1).await.unwrap();
    })
    .await;
    for page in 0..PAGES {
        let row = Hits::get(&pool, page).await.unwrap().unwrap();
        assert_eq!(row.hits, OPERATIONS / PAGES);
    }
    assert_eq!(database.open_transactions().await, 0);
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
struct Document {
    #[rowlock(key)]
    id: i64,
    edits: i64,
    #[rowlock(version)]
    lock_version: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn v_01_every_update_that_succeeds_is_there() {
    const DOCUMENTS: i64 = 4;
    let database = database(
        "CREATE TABLE documents (id bigint PRIMARY KEY, edits bigint NOT NULL, lock_version bigint NOT NULL)",
    )
    .await;
    for id in 0..DOCUMENTS {
        sqlx::query("INSERT INTO documents VALUES ($1, 0, 0)")
            .bind(id)
            .execute(&database.pool)
            .await
            .unwrap();
    }
    let pool = database.pool_with(eight()).await;
    let gave_up = Arc::new(AtomicI64::new(0));
    storm(&pool, |pool, n| {
        let gave_up = Arc::clone(&gave_up);
        async move {
            let id = n % DOCUMENTS;
            while let Err(error) =
                Document::update_with(&pool, id, |document| document.edits += 1).await
            {
                assert!(matches!(error, UpdateError::Stale(_)), "{error:?}");
                gave_up.fetch_add(1, Relaxed);
            }
        }
    })
    .await;
    println!(
        "{} of {OPERATIONS} ran out of attempts once",
        gave_up.load(Relaxed)
    );
    for id in 0..DOCUMENTS {
        let document = Document::load(&pool, id).await.unwrap();
        let expected = OPERATIONS / DOCUMENTS;
        assert_eq!(
            (document.edits, document.lock_version),
            (expected, expected)
        );
    }
    assert_eq!(database.open_transactions().await, 0);
}

#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(slug))]
struct Tag {
    #[rowlock(key, generated)]
    id: i64,
    slug: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn f_04_each_row_is_created_once() {
    const TAGS: i64 = 100;
    let database = database("CREATE TABLE tags (id {id}, slug text NOT NULL UNIQUE)").await;
    let pool = database.pool_with(eight()).await;
    let created = Arc::new(AtomicI64::new(0));
    storm(&pool, |pool, n| {
        let created = Arc::clone(&created);
        async move {
            let slug = format!("tag {}", n % TAGS);
            let new = NewTag { slug: slug.clone() };
            let tag = match Tag::find_or_create(&pool, new).await.unwrap() {
                FoundOrCreated::Created(tag) => {
                    created.fetch_add(1, Relaxed);
                    tag
                }
                FoundOrCreated::Found(tag) => tag,
            };
            assert_eq!(tag.slug, slug);
            assert!(tag.id > 0);
        }
    })
    .await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM tags")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((rows, created.load(Relaxed)), (TAGS, TAGS));
    assert_eq!(database.open_transactions().await, 0);
}
