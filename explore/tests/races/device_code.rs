//! A device polls with its code until the user has agreed; then the code is exchanged for a session, once.

use rowlock::row::GuardError;
use rowlock::{Guarded, transaction};
use rowlock_explore::{Actor, Explorer};
use rowlock_tests::postgres;
use std::time::Duration;

use crate::{Known, Result, compare, pool};

const NOW: i64 = 1_760_000_000;

#[derive(sqlx::FromRow, Guarded)]
#[rowlock(table = "device_grants")]
struct DeviceGrant {
    #[rowlock(key)]
    id: i64,
    fulfilled_at: Option<i64>,
    exchanged_at: Option<i64>,
}

fn polls(url: &str) -> Explorer<Result> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema(
            "CREATE TABLE IF NOT EXISTS device_grants (id bigint PRIMARY KEY, fulfilled_at bigint, exchanged_at bigint);
             CREATE TABLE IF NOT EXISTS sessions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, device_grant bigint NOT NULL)",
        )
        .setup("DELETE FROM sessions; DELETE FROM device_grants; INSERT INTO device_grants VALUES (7, 1, NULL)")
        .never("SELECT count(*) FROM sessions HAVING count(*) <> 1")
}

/// The grant is written by its id: whoever has read it before that may write it too.
async fn exchange_by_hand(actor: Actor) -> Result {
    let pool = pool(&actor).await?;
    let mut tx = pool.begin().await?;
    let select = "SELECT fulfilled_at, exchanged_at FROM device_grants WHERE id = $1";
    let (fulfilled, exchanged): (Option<i64>, Option<i64>) = sqlx::query_as(select)
        .bind(7_i64)
        .fetch_one(&mut *tx)
        .await?;
    let ready = fulfilled.is_some() && exchanged.is_none();
    if ready {
        sqlx::query("INSERT INTO sessions (device_grant) VALUES ($1)")
            .bind(7_i64)
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE device_grants SET exchanged_at = $1 WHERE id = $2")
            .bind(NOW)
            .bind(7_i64)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    pool.close().await;
    Ok(ready)
}

async fn exchange(actor: Actor) -> Result {
    let pool = pool(&actor).await?;
    let exchanged = transaction(&pool)
        .run(async |tx| -> Result<bool, rowlock::Error> {
            let ready = DeviceGrant::FULFILLED_AT
                .is_not_null()
                .and(DeviceGrant::EXCHANGED_AT.is_null());
            let exchanged = DeviceGrant::update_if(&mut *tx, 7, ready, |row| {
                row.set(DeviceGrant::EXCHANGED_AT, NOW);
            });
            match exchanged.await {
                Ok(_) => {}
                Err(GuardError::Refused(_)) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            sqlx::query("INSERT INTO sessions (device_grant) VALUES ($1)")
                .bind(7_i64)
                .execute(&mut *tx)
                .await?;
            Ok(true)
        })
        .await?;
    pool.close().await;
    Ok(exchanged)
}

#[tokio::test]
async fn a_device_code_is_exchanged_once() {
    let url = postgres::fresh_url().await;
    let known = Known {
        name: "device code, twice",
        anomaly: "lost update",
        bad: Some((170, 182)),
    };
    let by_hand = || {
        polls(&url)
            .actor("poll", exchange_by_hand)
            .actor("poll again", exchange_by_hand)
    };
    let rowlock = || {
        polls(&url)
            .actor("poll", exchange)
            .actor("poll again", exchange)
    };
    compare(known, by_hand, rowlock).await;
}
