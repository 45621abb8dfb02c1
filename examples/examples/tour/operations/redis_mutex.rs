//! The same job, under a lock in Redis.

use std::time::Duration;

use anyhow::{Context, Result};
use rowlock::lock::redis::{Client, Mutex};
use rowlock_examples::race::race;

use super::advisory_lock::{DONE, RUN, repeated};
use super::{CALLS, Pool, ROUNDS, TASKS};
use crate::table::Row;

/// The same job, under a lock in Redis. By hand: look whether it is taken, take it.
pub async fn run_nightly_by_redis(pool: &Pool, url: &str) -> Result<Row> {
    const BY_HAND: usize = 1000;
    const GENERATED: usize = 2000;
    let client = Client::open(url)?;
    // Somebody else may use the same Redis.
    let tour = format!("tour-{}", std::process::id());
    let connection = client.get_multiplexed_async_connection().await;
    let connection = connection.context("cannot connect to the Redis of REDIS_URL")?;

    let mutex = Mutex::new(&client, tour.as_str()).lock_timeout(Duration::from_secs(60));
    race(TASKS, ROUNDS, pool, move |pool, turn| {
        let mut redis = connection.clone();
        let key = format!("{tour}-{}", turn.round);
        async move {
            let night = (BY_HAND + turn.round) as i64;
            let holder: Option<String> =
                redis::cmd("GET").arg(&key).query_async(&mut redis).await?;
            let done: i64 = sqlx::query_scalar(DONE)
                .bind(night)
                .fetch_one(&pool)
                .await?;
            turn.everybody_has_read().await;
            if holder.is_none() && done == 0 {
                let set = redis::cmd("SET")
                    .arg(&key)
                    .arg(turn.task)
                    .arg("EX")
                    .arg(60)
                    .to_owned();
                set.exec_async(&mut redis).await?;
                sqlx::query(RUN).bind(night).execute(&pool).await?;
                redis::cmd("DEL").arg(&key).exec_async(&mut redis).await?;
            }
            Ok(0)
        }
    })
    .await?;

    let came_second = race(TASKS, ROUNDS, pool, move |pool, turn| {
        let mutex = mutex.clone();
        async move {
            let night = (GENERATED + turn.round) as i64;
            let guard = mutex.acquire().await?;
            let done: i64 = sqlx::query_scalar(DONE)
                .bind(night)
                .fetch_one(&pool)
                .await?;
            if done == 0 {
                sqlx::query(RUN).bind(night).execute(&pool).await?;
            }
            guard.release().await?;
            Ok(usize::from(done > 0))
        }
    })
    .await?;

    Ok(Row {
        derive: "redis::Mutex",
        operation: "acquire, release",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: repeated(pool, BY_HAND).await?,
        unit: "repeated",
        lost_by_rowlock: repeated(pool, GENERATED).await?,
        met: format!("{came_second} came second"),
    })
}
