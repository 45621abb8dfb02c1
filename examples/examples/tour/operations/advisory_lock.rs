//! A job for one at a time.

use anyhow::Result;
use rowlock::lock::AdvisoryLock;
use rowlock_examples::race::race;

use super::{CALLS, Pool, ROUNDS, TASKS};
use crate::table::Row;

pub const DONE: &str = "SELECT count(*) FROM nightly_runs WHERE night = $1";
pub const RUN: &str = "INSERT INTO nightly_runs (night) VALUES ($1)";

/// How many jobs too many were done in the nights of all rounds.
pub async fn repeated(pool: &Pool, first: usize) -> Result<usize> {
    let runs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM nightly_runs WHERE night BETWEEN $1 AND $2")
            .bind(first as i64)
            .bind((first + ROUNDS - 1) as i64)
            .fetch_one(pool)
            .await?;
    Ok(usize::try_from(runs)?.abs_diff(ROUNDS))
}

/// One job per round, which everybody is told to do, and which should be done once. There is no row to lock before.
pub async fn run_nightly(pool: &Pool) -> Result<Row> {
    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let night = turn.round as i64;
        let done: i64 = sqlx::query_scalar(DONE)
            .bind(night)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if done == 0 {
            sqlx::query(RUN).bind(night).execute(&pool).await?;
        }
        Ok(0)
    })
    .await?;

    let came_second = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let night = (ROUNDS + turn.round) as i64;
        let lock = AdvisoryLock::of("tour: nightly", night);
        let run = lock.run(&pool, async |tx| {
            let done: i64 = sqlx::query_scalar(DONE)
                .bind(night)
                .fetch_one(&mut *tx)
                .await?;
            if done > 0 {
                return Ok(1);
            }
            sqlx::query(RUN).bind(night).execute(&mut *tx).await?;
            Ok::<_, sqlx::Error>(0)
        });
        Ok(run.await?)
    })
    .await?;

    Ok(Row {
        derive: "AdvisoryLock",
        operation: "run",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: repeated(pool, 0).await?,
        unit: "repeated",
        lost_by_rowlock: repeated(pool, ROUNDS).await?,
        met: format!("{came_second} came second"),
    })
}
