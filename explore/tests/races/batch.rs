//! Two servers write the downloads that they have counted, each in one statement, in the order of a `HashMap`.

use rowlock::Counter;
use rowlock_explore::{Actor, Ended, Explorer};
use rowlock_tests::postgres;
use std::time::Duration;

use crate::{Known, Result, compare, nobody_fails, pool};

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "versions")]
struct Version {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    downloads: i32,
}

/// As many rows as make the planner look each one up, in the order of the array.
fn downloads(url: &str) -> Explorer<Result<()>> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema(
            "CREATE TABLE IF NOT EXISTS versions (id bigint PRIMARY KEY, downloads int NOT NULL, name text) WITH (autovacuum_enabled = off);
             INSERT INTO versions SELECT id, 0, '' FROM generate_series(1, 10000) AS id ON CONFLICT DO NOTHING; ANALYZE versions",
        )
        .setup("UPDATE versions SET downloads = 0, name = '' WHERE id IN (1, 2, 3)")
        .actor("editor", rename)
        .invariant(|ended: Ended<Result<()>>| async move {
            nobody_fails(&ended)?;
            let counted = "SELECT string_agg(downloads::text, ' ' ORDER BY id) FROM versions WHERE id IN (1, 2, 3)";
            let counted = ended.value(counted).await?;
            (counted == "2 2 1").then_some(()).ok_or(counted)
        })
}

/// Somebody who holds the row at which a batch can be stopped halfway.
async fn rename(actor: Actor) -> Result<()> {
    let pool = pool(&actor).await?;
    let mut tx = pool.begin().await?;
    sqlx::query("UPDATE versions SET name = $1 WHERE id = $2")
        .bind("1.0.0")
        .bind(3_i64)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    pool.close().await;
    Ok(())
}

async fn write_by_hand(actor: Actor, versions: Vec<i64>) -> Result<()> {
    let pool = pool(&actor).await?;
    let update = "UPDATE versions SET downloads = downloads + batch.n FROM unnest($1::bigint[], $2::int[]) AS batch (id, n) \
                  WHERE versions.id = batch.id";
    let ones = vec![1_i32; versions.len()];
    sqlx::query(update)
        .bind(versions)
        .bind(ones)
        .execute(&pool)
        .await?;
    pool.close().await;
    Ok(())
}

async fn write(actor: Actor, versions: Vec<i64>) -> Result<()> {
    let pool = pool(&actor).await?;
    Version::add_downloads_many(&pool, versions.into_iter().map(|id| (id, 1))).await?;
    pool.close().await;
    Ok(())
}

#[tokio::test]
async fn batches_do_not_deadlock() {
    let url = postgres::fresh_url().await;
    let known = Known {
        name: "unsorted batch",
        anomaly: "none in the dependency graph",
        bad: Some((1, 20)),
    };
    let by_hand = || {
        downloads(&url)
            .actor("server 1", |actor| write_by_hand(actor, vec![1, 3, 2]))
            .actor("server 2", |actor| write_by_hand(actor, vec![2, 1]))
    };
    let rowlock = || {
        downloads(&url)
            .actor("server 1", |actor| write(actor, vec![1, 3, 2]))
            .actor("server 2", |actor| write(actor, vec![2, 1]))
    };
    compare(known, by_hand, rowlock).await;
}
