//! A request that is sent several times.

use std::time::Duration;

use anyhow::Result;
use rowlock::idempotent::Once;
use rowlock_examples::race::race;

use super::{CALLS, Pool, ROUNDS, TASKS};
use crate::models::ChargeRequest;
use crate::table::Row;

/// One request per round, which an impatient client sends from all its tasks.
pub async fn charge(pool: &Pool) -> Result<Row> {
    const CENTS: i64 = 1250;
    const CHARGE: &str = "INSERT INTO charges (request) VALUES ($1)";

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let key = format!("by-hand-{}", turn.round);
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM charges WHERE request = $1")
            .bind(&key)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if done == 0 {
            sqlx::query(CHARGE).bind(&key).execute(&pool).await?;
        }
        Ok(0)
    })
    .await?;

    let replayed = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let key = format!("generated-{}", turn.round);
        let outcome = ChargeRequest::once(&pool, &key, &CENTS, async |tx| {
            sqlx::query(CHARGE).bind(&key).execute(&mut *tx).await?;
            Ok::<_, sqlx::Error>(CENTS)
        })
        .wait(Duration::from_secs(60));
        match outcome.await? {
            Once::Ran(CENTS) => Ok(0),
            Once::Replayed(CENTS) => Ok(1),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .await?;

    let charged = async |whose: &str| -> Result<usize> {
        let charges: i64 = sqlx::query_scalar("SELECT count(*) FROM charges WHERE request LIKE $1")
            .bind(format!("{whose}-%"))
            .fetch_one(pool)
            .await?;
        Ok(usize::try_from(charges)?.abs_diff(ROUNDS))
    };
    Ok(Row {
        derive: "Idempotent",
        operation: "once",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: charged("by-hand").await?,
        unit: "charged",
        lost_by_rowlock: charged("generated").await?,
        met: format!("{replayed} replayed"),
    })
}
