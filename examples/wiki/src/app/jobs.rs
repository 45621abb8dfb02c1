//! What happens without a request: notices, the report of the night, the chart. And what calls others: the check of links.

use std::num::NonZero;
use std::time::Duration;

use chrono::Utc;
use rowlock::fan_out::{CallError, fan_out};
use rowlock::lock::AdvisoryLock;
use rowlock::queue::{Job, WorkerSet, WorkerSetError};
use tokio::time::{MissedTickBehavior, interval};

use super::{App, Pool};
use crate::model::Notice;

/// Runs all of it until `stop`, and gives back the notices that are not delivered then.
pub async fn run(
    app: App,
    report_every: Duration,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), WorkerSetError> {
    let (inbox, pool, numbers) = (app.pool.clone(), app.pool.clone(), app.numbers.clone());
    let worker = Notice::worker(&app.pool)
        .poll(Duration::from_millis(200))
        // What a killed process had claimed is delivered by another one soon after that.
        .lease(Duration::from_secs(5));
    WorkerSet::new()
        .add(worker, move |notice| deliver(inbox.clone(), notice))
        .add_task("report", move |stop| {
            every(report_every, stop, move || report(pool.clone()))
        })
        .add_task("chart", move |stop| {
            every(Duration::from_secs(1), stop, move || {
                numbers.sample();
                async { Ok::<_, rowlock::Error>(()) }
            })
        })
        .shutdown(stop)
        .run()
        .await?;
    Ok(())
}

/// At least once: a worker that dies after it is not known to have delivered, so the next one does it again.
async fn deliver(pool: Pool, notice: Job<Notice>) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO inbox (watcher, slug, version, text) VALUES ($1, $2, $3, $4)")
        .bind(&notice.watcher)
        .bind(&notice.slug)
        .bind(notice.version)
        .bind(&notice.text)
        .execute(&pool)
        .await?;
    Ok(())
}

/// The pages that were edited most in the last 24 hours, once a day however many processes serve the wiki.
async fn report(pool: Pool) -> Result<(), rowlock::Error> {
    let now = Utc::now();
    let day = now.format("%Y-%m-%d").to_string();
    AdvisoryLock::new("wiki-most-edited")
        // Waits for its turn. `try_run` would leave it to whoever has the lock, which on SQLite is any writer.
        .run(&pool, async |tx| {
            let done: i64 = sqlx::query_scalar("SELECT count(*) FROM reports WHERE day = $1")
                .bind(&day)
                .fetch_one(&mut *tx)
                .await?;
            if done > 0 {
                return Ok(());
            }
            sqlx::query(
                "INSERT INTO reports (day, slug, edits)
                 SELECT $1, pages.slug, count(*) FROM revisions JOIN pages ON pages.id = page_id
                 WHERE saved_at > $2 GROUP BY pages.slug ORDER BY count(*) DESC, pages.slug LIMIT 10",
            )
            .bind(&day)
            .bind(now - Duration::from_secs(24 * 3600))
            .execute(&mut *tx)
            .await?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// Does something at once, and again and again. What fails is logged, and is tried again the next time.
async fn every<F: Future<Output = Result<(), rowlock::Error>>>(
    period: Duration,
    mut stop: impl Future<Output = ()> + Unpin,
    work: impl Fn() -> F,
) -> Result<(), rowlock::Error> {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            _ = ticks.tick() => {}
        }
        if let Err(error) = work().await {
            tracing::warn!(%error, "will be tried again");
        }
    }
}

/// Asks for every link of a text, eight at a time. No database connection waits for that.
pub async fn check_links(http: &reqwest::Client, text: &str) -> Vec<(String, Result<u16, String>)> {
    let links: Vec<String> = text
        .split_whitespace()
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
        .map(|word| word.trim_end_matches(['.', ',', ')']).to_owned())
        .collect();
    let ask = |link: &String| http.head(link).send();
    let calls = fan_out(const { NonZero::new(8).unwrap() })
        .call_timeout(Duration::from_secs(2))
        .deadline(Duration::from_secs(5))
        .collect(links.iter().map(ask))
        .await;
    let outcomes = calls.into_iter().map(|call| match call.outcome {
        Ok(answer) => Ok(answer.status().as_u16()),
        Err(CallError::Failed(error)) if error.is_builder() => Err("not an address".to_owned()),
        Err(CallError::Failed(_)) => Err("no answer".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    links.iter().cloned().zip(outcomes).collect()
}
