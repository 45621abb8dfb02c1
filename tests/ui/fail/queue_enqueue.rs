//! Mistakes about new jobs and their keys.

use rowlock::queue::QueueState;
use rowlock::{Fence, FindOrCreate, Queue};

type Timestamp = chrono::DateTime<chrono::Utc>;

/// With a key, and nobody who finds the row that has it.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "syncs", unique(customer, while(ready)))]
struct Sync {
    #[rowlock(key, generated)]
    id: i64,
    customer: i64,
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

struct New {
    customer: i64,
}

async fn without(pool: sqlx::PgPool) {
    let _ = Sync::enqueue(&pool, New { customer: 7 }).await;
}

/// States that are none, said twice, or gone.
#[derive(sqlx::FromRow, Queue, FindOrCreate)]
#[rowlock(table = "jobs", done = delete, unique(customer, while(redy, running, running, done)))]
struct Job {
    #[rowlock(key, generated)]
    id: i64,
    customer: i64,
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

/// No queue, and a key that says nothing.
#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(name, while(ready)), unique(name, while()))]
struct Tag {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
}

/// What cannot be written cannot be enqueued.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "events")]
struct Event {
    #[rowlock(key, generated)]
    id: i64,
    #[sqlx(json)]
    seen: Seen,
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

#[derive(serde::Deserialize)]
struct Seen {}

async fn unwritable(pool: sqlx::PgPool) {
    let _ = Event::enqueue(&pool, NewEvent { seen: Seen {} }).await;
}

fn main() {}
