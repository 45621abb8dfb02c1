//! Mistakes in the use of a queue.

use rowlock::{Fence, Queue};
use rowlock::queue::{Claimed, Job, QueueState};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "emails")]
struct Email {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(filter)]
    tenant: i64,
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

/// A claim is finished once.
async fn twice(pool: sqlx::PgPool, email: Claimed<Email>) -> Result<(), rowlock::queue::FinishError> {
    email.complete(&pool).await?;
    email.fail(&pool, "no").await
}

/// Nobody finishes what he has not claimed.
async fn unclaimed(pool: sqlx::PgPool, email: Email) -> Result<(), rowlock::queue::FinishError> {
    email.complete(&pool).await
}

/// The effect of the job is in a transaction, or it is not.
async fn outside(pool: sqlx::PgPool, email: Claimed<Email>) -> Result<(), rowlock::queue::FinishError> {
    email.complete_in(&pool).await
}

/// A filter has the type of its column.
async fn filter(pool: sqlx::PgPool) -> Result<(), rowlock::queue::ClaimError> {
    Email::claim(&pool, 1).only(Email::TENANT, "seven").await?;
    Ok(())
}

/// Handlers run at once, in tasks of their own.
async fn handler(pool: sqlx::PgPool) -> Result<(), rowlock::queue::WorkerError> {
    let mut sent = 0;
    Email::worker(&pool)
        .run(async |email: Job<Email>| {
            sent += 1;
            println!("{}", email.id);
        })
        .await?;
    Ok(())
}

/// A job is finished by what its handler returns.
async fn by_hand(pool: sqlx::PgPool) -> Result<(), rowlock::queue::WorkerError> {
    let db = pool.clone();
    Email::worker(&pool)
        .run(move |email: Job<Email>| {
            let db = db.clone();
            async move { email.complete(&db).await }
        })
        .await?;
    Ok(())
}

/// What a handler returns says what becomes of the job.
async fn outcome(pool: sqlx::PgPool) -> Result<(), rowlock::queue::WorkerError> {
    Email::worker(&pool)
        .run(async |email: Job<Email>| email.id)
        .await?;
    Ok(())
}

/// SQLite has nothing to listen to.
async fn listen(pool: sqlx::SqlitePool) -> Result<(), rowlock::queue::WorkerError> {
    Email::worker(&pool)
        .listen()
        .run(async |_: Job<Email>| ())
        .await?;
    Ok(())
}

/// Nobody knows how old a job is.
async fn purge(pool: sqlx::PgPool) -> Result<(), rowlock::Error> {
    Email::purge(&pool, std::time::Duration::from_secs(3600)).await?;
    Ok(())
}

/// There is no table of pauses.
async fn pause(pool: sqlx::PgPool) -> Result<(), rowlock::Error> {
    Email::pause(&pool).only(Email::TENANT, 7).await?;
    Ok(())
}

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "payouts", pauses = "payout_pauses")]
struct Payout {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    tenant: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(finished)]
    notified: bool,
    #[rowlock(dead)]
    failed: bool,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// A boolean does not tell how old it is.
async fn purge_of_booleans(pool: sqlx::PgPool) -> Result<(), rowlock::Error> {
    Payout::purge(&pool, std::time::Duration::from_secs(3600)).await?;
    Ok(())
}

/// A pause has the type of its column, and a cancel that of the key.
async fn other_types(pool: sqlx::PgPool) -> Result<(), rowlock::Error> {
    Payout::pause(&pool).only(Payout::TENANT, "seven").await?;
    let _ = Payout::cancel(&pool, "seven").await?;
    Ok(())
}

fn main() {}
