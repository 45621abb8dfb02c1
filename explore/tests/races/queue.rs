//! Workers claim one job each, with the claim of most tutorials. The planner takes the table for as small as it was when it was
//! last looked at, and runs the subquery once for each row: its `LIMIT` counts for nothing.

use chrono::{DateTime, Utc};
use rowlock::queue::QueueState;
use rowlock::{Fence, Queue};
use rowlock_explore::{Actor, Ended, Explorer};
use rowlock_tests::postgres;
use std::time::Duration;

use crate::{Known, Result, compare, pool};

#[derive(sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
#[allow(dead_code)]
struct Job {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 5))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
    #[rowlock(last_error)]
    last_error: Option<String>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

/// How many jobs each has got.
fn workers(url: &str) -> Explorer<Result<usize>> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema(
            "CREATE TABLE IF NOT EXISTS jobs (
                 id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 run_at timestamptz NOT NULL DEFAULT clock_timestamp(), state text NOT NULL DEFAULT 'ready',
                 attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamptz, last_error text,
                 finished_at timestamptz) WITH (autovacuum_enabled = off);
             DELETE FROM jobs; INSERT INTO jobs DEFAULT VALUES; ANALYZE jobs",
        )
        .setup("DELETE FROM jobs; INSERT INTO jobs DEFAULT VALUES")
        .actor("mail", enqueue)
        .invariant(|ended: Ended<Result<usize>>| async move {
            match ended.returned().find(|claimed| !matches!(claimed, Ok(0 | 1))) {
                None => Ok(()),
                Some(claimed) => Err(format!("a claim of one job got {claimed:?}")),
            }
        })
}

/// A burst.
async fn enqueue(actor: Actor) -> Result<usize> {
    let pool = pool(&actor).await?;
    sqlx::query("INSERT INTO jobs (attempts) SELECT 0 FROM generate_series(1, 5)")
        .execute(&pool)
        .await?;
    pool.close().await;
    Ok(0)
}

async fn claim_by_hand(actor: Actor) -> Result<usize> {
    let pool = pool(&actor).await?;
    let claim = "UPDATE jobs SET state = 'running' WHERE id IN \
                 (SELECT id FROM jobs WHERE state = 'ready' ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id";
    let claimed: Vec<i64> = sqlx::query_scalar(claim)
        .bind(1_i64)
        .fetch_all(&pool)
        .await?;
    pool.close().await;
    Ok(claimed.len())
}

async fn claim(actor: Actor) -> Result<usize> {
    let pool = pool(&actor).await?;
    let claimed = Job::claim(&pool, 1).await?.len();
    pool.close().await;
    Ok(claimed)
}

#[tokio::test]
async fn a_claim_of_one_job_gets_one() {
    let url = postgres::fresh_url().await;
    let known = Known {
        name: "IN (… LIMIT … SKIP LOCKED)",
        anomaly: "none in the dependency graph",
        bad: Some((4, 6)),
    };
    let by_hand = || {
        workers(&url)
            .actor("worker 1", claim_by_hand)
            .actor("worker 2", claim_by_hand)
    };
    let rowlock = || {
        workers(&url)
            .actor("worker 1", claim)
            .actor("worker 2", claim)
    };
    compare(known, by_hand, rowlock).await;
}
