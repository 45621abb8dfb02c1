//! A registration token lets so many users in.

use rowlock::Guarded;
use rowlock::row::GuardError;
use rowlock_explore::{Actor, Explorer};
use rowlock_tests::postgres;
use std::time::Duration;

use crate::{Known, Result, compare, pool};

#[derive(sqlx::FromRow, Guarded)]
#[rowlock(table = "registration_tokens")]
struct RegistrationToken {
    #[rowlock(key)]
    id: i64,
    usage_limit: Option<i32>,
    #[rowlock(counter(min = 0))]
    times_used: i32,
    last_used_at: Option<i64>,
}

fn registrations(url: &str) -> Explorer<Result> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema(
            "CREATE TABLE IF NOT EXISTS registration_tokens (
                 id bigint PRIMARY KEY, usage_limit int, times_used int NOT NULL, last_used_at bigint)",
        )
        .setup("DELETE FROM registration_tokens; INSERT INTO registration_tokens VALUES (1, 3, 2, NULL)")
        .never("SELECT times_used, usage_limit FROM registration_tokens WHERE times_used <> usage_limit")
}

/// The number is counted by the database, and the limit is looked at by the service.
async fn use_by_hand(actor: Actor) -> Result {
    let pool = pool(&actor).await?;
    let mut tx = pool.begin().await?;
    let select = "SELECT usage_limit, times_used FROM registration_tokens WHERE id = $1";
    let (limit, used): (Option<i32>, i32) = sqlx::query_as(select)
        .bind(1_i64)
        .fetch_one(&mut *tx)
        .await?;
    let free = limit.is_none_or(|limit| used < limit);
    if free {
        let update = "UPDATE registration_tokens SET times_used = times_used + 1, last_used_at = $2 WHERE id = $1";
        sqlx::query(update)
            .bind(1_i64)
            .bind(1_760_000_000_i64)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    pool.close().await;
    Ok(free)
}

async fn use_token(actor: Actor) -> Result {
    let pool = pool(&actor).await?;
    let unlimited = RegistrationToken::USAGE_LIMIT.is_null();
    let free = RegistrationToken::TIMES_USED.lt(RegistrationToken::USAGE_LIMIT);
    let used = RegistrationToken::update_if(&pool, 1, unlimited.or(free), |row| {
        row.add(RegistrationToken::TIMES_USED, 1);
        row.set(RegistrationToken::LAST_USED_AT, 1_760_000_000);
    });
    let used = match used.await {
        Ok(_) => true,
        Err(GuardError::Refused(_)) => false,
        Err(error) => return Err(error.into()),
    };
    pool.close().await;
    Ok(used)
}

#[tokio::test]
async fn a_token_is_used_up_to_its_limit() {
    let url = postgres::fresh_url().await;
    let known = Known {
        name: "limit not in the UPDATE",
        anomaly: "lost update",
        bad: Some((40, 50)),
    };
    let by_hand = || {
        registrations(&url)
            .actor("ann", use_by_hand)
            .actor("bob", use_by_hand)
    };
    let rowlock = || {
        registrations(&url)
            .actor("ann", use_token)
            .actor("bob", use_token)
    };
    compare(known, by_hand, rowlock).await;
}
