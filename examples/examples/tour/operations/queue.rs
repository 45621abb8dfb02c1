//! Mails that are to be sent, each by one task.

use anyhow::Result;
use rowlock::queue::Claimed;
use rowlock_examples::race::race;

use super::{CALLS, Pool, ROUNDS, TASKS};
use crate::models::Mail;
use crate::table::Row;

/// How many a task takes at a time. There are as many mails as all tasks can take in all rounds.
const BATCH: usize = 5;
const MAILS: usize = BATCH * CALLS;
const SEND: &str = "INSERT INTO sent_mails (mail_id) VALUES ($1)";

/// Puts the mails in, which are ready and due.
async fn enqueue(pool: &Pool) -> Result<()> {
    sqlx::query("DELETE FROM sent_mails").execute(pool).await?;
    sqlx::query("DELETE FROM mails").execute(pool).await?;
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
                   INSERT INTO mails (id) SELECT i FROM n";
    let mails = i64::try_from(MAILS)?;
    sqlx::query(numbers).bind(mails).execute(pool).await?;
    Ok(())
}

/// How many calls' worth of mails were sent in vain.
async fn sent_again(pool: &Pool) -> Result<usize> {
    let sql = "SELECT count(*) - count(DISTINCT mail_id) FROM sent_mails";
    let again: i64 = sqlx::query_scalar(sql).fetch_one(pool).await?;
    Ok(usize::try_from(again)?.div_ceil(BATCH))
}

/// Everybody takes the next mails, marks them, and sends them.
pub async fn send_mails(pool: &Pool) -> Result<Row> {
    enqueue(pool).await?;
    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let ready = "SELECT id FROM mails WHERE state = 'ready' ORDER BY id LIMIT $1";
        let batch: Vec<i64> = sqlx::query_scalar(ready)
            .bind(BATCH as i64)
            .fetch_all(&pool)
            .await?;
        turn.everybody_has_read().await;
        for mail in batch {
            sqlx::query("UPDATE mails SET state = 'done' WHERE id = $1")
                .bind(mail)
                .execute(&pool)
                .await?;
            sqlx::query(SEND).bind(mail).execute(&pool).await?;
        }
        Ok(0)
    })
    .await?;
    let lost_by_hand = sent_again(pool).await?;

    enqueue(pool).await?;
    let leases_lost = race(TASKS, ROUNDS, pool, |pool, _| async move {
        let batch = Mail::claim(&pool, BATCH).await?;
        for mail in &batch {
            sqlx::query(SEND).bind(mail.id).execute(&pool).await?;
        }
        let lost = Claimed::complete_many(&pool, batch).await?;
        Ok(lost.len())
    })
    .await?;
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM mails WHERE state = 'done'")
        .fetch_one(pool)
        .await?;
    let not_done = MAILS - usize::try_from(done)?;

    Ok(Row {
        derive: "Queue",
        operation: "claim, complete",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand,
        unit: "repeated",
        lost_by_rowlock: sent_again(pool).await? + not_done,
        met: format!("{leases_lost} leases lost"),
    })
}
