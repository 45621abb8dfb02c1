//! Enqueues the mails and waits until they are done. Compiled for both types of pool.

use std::time::Duration;

use anyhow::{Result, bail};
use sqlx::QueryBuilder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Db, Pool, set_up, whereabouts};
use crate::books::{Books, Mail, Run};
use crate::crew::Crew;
use crate::model::{Email, recipient};
use crate::view::View;
use crate::{PRODUCERS, WORKERS, Way};

/// Rows per INSERT.
const AT_ONCE: usize = 100;
/// So long without any progress means that there will be none.
const PATIENCE: Duration = Duration::from_secs(30);

/// Empties the tables, runs all that there is to run, and counts.
pub async fn run(pool: &Pool, way: Way) -> Result<Books> {
    set_up(pool).await?;
    rowlock::verify(pool, rowlock::models![Email]).await?;
    sqlx::query("DELETE FROM emails").execute(pool).await?;
    sqlx::query("DELETE FROM outbox").execute(pool).await?;

    // The workers are there first, so that they take mails out while others are put in.
    let mut crew = Crew::start(way, &whereabouts(pool).await?, WORKERS).await?;
    let begun = Instant::now();
    let mut producers = JoinSet::new();
    for producer in 0..PRODUCERS {
        producers.spawn(enqueue(pool.clone(), way, producer));
    }
    let waited = wait(pool, way, &mut producers, &mut crew).await;
    // In case of an error the processes end when `crew` is dropped.
    let killed = waited?;
    let report = crew.dismiss().await?;
    Ok(Books {
        way,
        took: begun.elapsed(),
        killed,
        report,
        mails: mails(pool).await?,
        runs: runs(pool).await?,
    })
}

/// Every fourth hundred of the mails, if there are four producers.
async fn enqueue(pool: Pool, way: Way, producer: usize) -> sqlx::Result<()> {
    let firsts = (0..way.mails()).step_by(AT_ONCE);
    for first in firsts.skip(producer).step_by(PRODUCERS) {
        // The database fills the other columns: the row is ready, and due at once.
        let mut insert = QueryBuilder::<Db>::new("INSERT INTO emails (recipient) ");
        let numbers = first..(first + AT_ONCE).min(way.mails());
        insert.push_values(numbers, |mut row, number| {
            row.push_bind(recipient(number));
        });
        insert.build().execute(&pool).await?;
    }
    Ok(())
}

/// Until there is nothing left to do. Kills a worker on the way, and says which.
async fn wait(
    pool: &Pool,
    way: Way,
    producers: &mut JoinSet<sqlx::Result<()>>,
    crew: &mut Crew,
) -> Result<i64> {
    let mut view = View::new(way, WORKERS);
    let (mut killed, mut last, mut since) = (None, 0, Instant::now());
    loop {
        sleep(Duration::from_millis(100)).await;
        while let Some(producer) = producers.try_join_next() {
            producer??;
        }
        let stats = Email::stats(pool).await?;
        let done = "SELECT count(*) FROM emails WHERE state = 'done'";
        let done: i64 = sqlx::query_scalar(done).fetch_one(pool).await?;
        let calls = "SELECT process, count(*) FROM outbox GROUP BY process";
        let calls: Vec<(i64, i64)> = sqlx::query_as(calls).fetch_all(pool).await?;
        let ended = done.unsigned_abs() + stats.dead;
        view.show(&stats, ended, &calls);
        if killed.is_none() && ended >= way.mails() as u64 / 3 {
            let number = crew.kill_one().await?;
            view.killed(number);
            killed = Some(number);
        }
        // By hand nobody brings back what the killed worker had marked.
        let open = match way {
            Way::ByHand => stats.ready,
            Way::Queue => stats.ready + stats.running,
        };
        if producers.is_empty() && open == 0 {
            return Ok(killed.unwrap_or_default());
        }
        if ended > last {
            (last, since) = (ended, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            bail!("{open} mails are left, and nothing happens");
        }
    }
}

async fn mails(pool: &Pool) -> sqlx::Result<Vec<Mail>> {
    let sql = "SELECT id, recipient, state, last_error FROM emails";
    sqlx::query_as(sql).fetch_all(pool).await
}

async fn runs(pool: &Pool) -> sqlx::Result<Vec<Run>> {
    let sql = "SELECT email_id, attempt, process, accepted FROM outbox";
    sqlx::query_as(sql).fetch_all(pool).await
}
