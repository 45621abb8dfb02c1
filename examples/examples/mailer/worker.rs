//! What a worker process does. Compiled for both types of pool.

use std::time::Duration;

use anyhow::{Result, bail};
use rowlock::queue::{Job, JobOutcome};
use tokio::io::{AsyncReadExt, stdin};

use super::{Db, Pool, awake};
use crate::Way;
use crate::crew::Report;
use crate::model::{COME_AGAIN, Email, FULL};

/// Short, so that the rescue of a killed worker's rows can be watched. The default is a minute.
const LEASE: Duration = Duration::from_secs(2);
/// How many mails a worker takes at a time when it works by hand.
const BATCH: i64 = 50;

/// Works until the crew closes the pipe, and says what there was to do.
pub async fn work(pool: &Pool, way: Way, process: i64) -> Result<()> {
    let report = match way {
        Way::ByHand => by_hand(pool, process).await?,
        Way::Queue => with_queue(pool, process).await?,
    };
    println!("{report}");
    Ok(())
}

/// When the crew has closed the pipe, or is gone.
async fn told_to_stop() {
    let _ = stdin().read_to_end(&mut Vec::new()).await;
}

// -------------------------------------------------------------------- Queue

async fn with_queue(pool: &Pool, process: i64) -> Result<Report> {
    let counts = awake(Email::worker(pool))
        // The jobs are short: with rows in advance, one claim is for many of them, and one completion as well.
        .prefetch(100)
        .lease(LEASE)
        .backoff(Duration::from_millis(50), Duration::from_millis(400))
        .shutdown(told_to_stop())
        .run({
            let pool = pool.clone();
            move |email| deliver(pool.clone(), process, email)
        })
        .await?;
    Ok(Report {
        rescued: counts.rescued,
        leases_lost: counts.lease_lost,
    })
}

/// The handler. `Ok` completes the mail; an error is one attempt gone, and the next one is a little later, if there is one left.
async fn deliver(pool: Pool, process: i64, email: Job<Email>) -> Result<JobOutcome> {
    let attempt = email.attempts;
    let refusal = match email.recipient.split_once('@') {
        Some((_, COME_AGAIN)) if attempt == 1 => Some("451 come again"),
        Some((_, FULL)) => Some("452 the mailbox is full"),
        Some(_) => None,
        // No further attempt would do better.
        None => return Ok(JobOutcome::fail("not an address")),
    };
    hand_over(&pool, email.id, attempt, process, refusal.is_none()).await?;
    match refusal {
        Some(answer) => bail!(answer),
        None => Ok(JobOutcome::Complete),
    }
}

/// The mail server, which notes down what it is handed, at once: not in a transaction with the queue, as no mail server is.
async fn hand_over(
    pool: &Pool,
    email: i64,
    attempt: i32,
    process: i64,
    accepted: bool,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO outbox (email_id, attempt, process, accepted) VALUES ($1, $2, $3, $4)",
    )
    .bind(email)
    .bind(attempt)
    .bind(process)
    .bind(accepted)
    .execute(pool)
    .await?;
    Ok(())
}

// ------------------------------------------------------------------ by hand

async fn by_hand(pool: &Pool, process: i64) -> Result<Report> {
    let mut stop = std::pin::pin!(told_to_stop());
    loop {
        if !a_batch_by_hand(pool, process).await? {
            // Nothing to do for the moment.
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }
    Ok(Report::default())
}

/// Whether there was one.
async fn a_batch_by_hand(pool: &Pool, process: i64) -> Result<bool> {
    let ready = "SELECT id FROM emails WHERE state = 'ready' ORDER BY id LIMIT $1";
    let batch: Vec<i64> = sqlx::query_scalar(ready)
        .bind(BATCH)
        .fetch_all(pool)
        .await?;
    // Here another worker reads the same rows.
    let mut tx = pool.begin().await?;
    for email in &batch {
        set_state(*email, "running", &mut *tx).await?;
    }
    tx.commit().await?;
    for email in &batch {
        hand_over(pool, *email, 1, process, true).await?;
        set_state(*email, "done", pool).await?;
    }
    Ok(!batch.is_empty())
}

async fn set_state<'c>(
    email: i64,
    state: &str,
    db: impl sqlx::Executor<'c, Database = Db>,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE emails SET state = $1 WHERE id = $2")
        .bind(state)
        .bind(email)
        .execute(db)
        .await?;
    Ok(())
}
