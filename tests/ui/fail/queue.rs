//! What `Queue` asks of a struct; the calls of its methods do not fail as well.

use rowlock::{Fence, Queue};
use rowlock::queue::{Claimed, QueueState};

type Timestamp = chrono::DateTime<chrono::Utc>;

/// Nothing is marked.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "emails")]
struct Email {
    id: i64,
    status: String,
    attempts: i32,
    due_at: Timestamp,
}

/// Every type is wrong.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    id: Option<i64>,
    #[rowlock(state)]
    state: i32,
    #[rowlock(run_at)]
    run_at: i64,
    #[rowlock(attempts)]
    attempts: String,
    #[rowlock(priority)]
    priority: Option<i16>,
    #[rowlock(fence)]
    fence: i64,
    #[rowlock(lease)]
    lease: Timestamp,
    #[rowlock(finished)]
    finished: Timestamp,
}

/// Every option is wrong.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "tasks")]
struct Task {
    #[rowlock(key)]
    id: i64,
    #[rowlock(state, default)]
    state: QueueState,
    #[rowlock(run_at, default)]
    run_at: Timestamp,
    #[rowlock(run_at)]
    later: Timestamp,
    #[rowlock(attempts(max = 0))]
    attempts: i32,
    #[rowlock(priority(highest))]
    priority: i16,
    #[rowlock(filter)]
    #[sqlx(json)]
    queue: String,
    #[rowlock(fence, lease)]
    fence: Fence,
    #[rowlock(last_eror)]
    last_error: Option<String>,
}

/// Half of what is missing was misspelt.
#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "calls", filter)]
struct Call {
    #[rowlock(key)]
    id: i64,
    #[rowlock(stat)]
    state: QueueState,
    #[rowlock(runat)]
    run_at: Timestamp,
    #[rowlock(attempts(most = 5))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

async fn calls(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    for email in Email::claim(&pool, 10)
        .lease(std::time::Duration::from_secs(5))
        .await?
    {
        println!("{}", email.status);
        email.complete(&pool).await?;
    }
    let batch = Job::claim(&pool, 10).await?;
    Claimed::complete_many(&pool, batch).await?;
    Task::worker(&pool)
        .concurrency(4)
        .run(async |task| println!("{}", task.id))
        .await?;
    Ok(())
}

fn main() {}
