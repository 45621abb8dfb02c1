//! The five paths, each as it is written by hand and with rowlock. Compiled for both types of pool.

use anyhow::Result;
use rowlock::idempotent::Once;
use rowlock::row::GuardError;
use rowlock::{Fence, FindOrCreate, Guarded, Idempotent, transaction};
use rowlock_examples::race::{Turn, race};

use super::Pool;
use crate::{ROUNDS, Report, TASKS};

type Timestamp = chrono::DateTime<chrono::Utc>;

/// Any clock of the service's own.
const NOW: i64 = 1_760_000_000;

pub async fn all(pool: &Pool) -> Result<Vec<Report>> {
    let models = rowlock::models![
        DeviceCode,
        RefreshToken,
        RegistrationToken,
        Keyword,
        Request
    ];
    rowlock::verify(pool, models).await?;
    Ok(vec![
        device_code(pool).await?,
        refresh_token(pool).await?,
        limited_token(pool).await?,
        keywords(pool).await?,
        request(pool).await?,
    ])
}

async fn run(pool: &Pool, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(sql).execute(pool).await?;
    Ok(())
}

async fn count(pool: &Pool, sql: &'static str) -> Result<usize> {
    let count: i64 = sqlx::query_scalar(sql).fetch_one(pool).await?;
    Ok(count.try_into()?)
}

// A device polls with its code until the user has agreed; then the code is exchanged for one session.

#[derive(sqlx::FromRow, Guarded)]
#[rowlock(table = "device_codes")]
struct DeviceCode {
    #[rowlock(key)]
    id: i64,
    status: String,
    exchanged_at: Option<i64>,
}

async fn exchange_by_hand(pool: Pool, turn: Turn) -> Result<usize> {
    let id = turn.round as i64;
    let select = "SELECT status FROM device_codes WHERE id = $1";
    let status: String = sqlx::query_scalar(select).bind(id).fetch_one(&pool).await?;
    turn.everybody_has_read().await;
    if status != "fulfilled" {
        return Ok(0);
    }
    sqlx::query("UPDATE device_codes SET status = 'exchanged', exchanged_at = $1 WHERE id = $2")
        .bind(NOW)
        .bind(id)
        .execute(&pool)
        .await?;
    sqlx::query("INSERT INTO sessions (device_code) VALUES ($1)")
        .bind(id)
        .execute(&pool)
        .await?;
    Ok(1)
}

/// The condition is in the UPDATE: of all that poll at once, one meets it.
async fn exchange(pool: Pool, turn: Turn) -> Result<usize> {
    let id = turn.round as i64;
    let sessions = transaction(&pool)
        .run(async |tx| -> Result<usize, rowlock::Error> {
            let ready = DeviceCode::STATUS
                .eq("fulfilled")
                .and(DeviceCode::EXCHANGED_AT.is_null());
            let exchanged = DeviceCode::update_if(&mut *tx, id, ready, |row| {
                row.set(DeviceCode::STATUS, "exchanged");
                row.set(DeviceCode::EXCHANGED_AT, NOW);
            });
            match exchanged.await {
                Ok(_) => {}
                Err(GuardError::Refused(_)) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
            sqlx::query("INSERT INTO sessions (device_code) VALUES ($1)")
                .bind(id)
                .execute(&mut *tx)
                .await?;
            Ok(1)
        })
        .await?;
    Ok(sessions)
}

async fn device_code(pool: &Pool) -> Result<Report> {
    let fresh = "DELETE FROM sessions; DELETE FROM device_codes";
    let codes = async || -> Result<()> {
        run(pool, fresh).await?;
        for id in 0..ROUNDS {
            let insert = sqlx::query("INSERT INTO device_codes VALUES ($1, 'fulfilled', NULL)");
            insert.bind(id as i64).execute(pool).await?;
        }
        Ok(())
    };
    codes().await?;
    race(TASKS, ROUNDS, pool, exchange_by_hand).await?;
    let by_hand = count(pool, "SELECT count(*) FROM sessions").await?;
    codes().await?;
    race(TASKS, ROUNDS, pool, exchange).await?;
    let rowlock = count(pool, "SELECT count(*) FROM sessions").await?;
    Ok(Report {
        path: "device-code exchange",
        what: "sessions",
        right: ROUNDS,
        by_hand,
        rowlock,
    })
}

// A refresh token is consumed once, for the next one; whoever brings it again is a thief.

#[derive(sqlx::FromRow, Guarded)]
#[rowlock(table = "refresh_tokens")]
struct RefreshToken {
    #[rowlock(key)]
    id: i64,
    consumed_at: Option<i64>,
}

async fn consume_by_hand(pool: Pool, turn: Turn) -> Result<usize> {
    let id = turn.round as i64;
    let select = "SELECT consumed_at FROM refresh_tokens WHERE id = $1";
    let consumed: Option<i64> = sqlx::query_scalar(select).bind(id).fetch_one(&pool).await?;
    turn.everybody_has_read().await;
    if consumed.is_some() {
        return Ok(0);
    }
    sqlx::query("INSERT INTO branches (consumed) VALUES ($1)")
        .bind(id)
        .execute(&pool)
        .await?;
    let update = "UPDATE refresh_tokens SET consumed_at = $1 WHERE id = $2";
    sqlx::query(update)
        .bind(NOW)
        .bind(id)
        .execute(&pool)
        .await?;
    Ok(1)
}

async fn consume(pool: Pool, turn: Turn) -> Result<usize> {
    let id = turn.round as i64;
    let branches = transaction(&pool)
        .run(async |tx| -> Result<usize, rowlock::Error> {
            let unused = RefreshToken::CONSUMED_AT.is_null();
            let consumed = RefreshToken::update_if(&mut *tx, id, unused, |row| {
                row.set(RefreshToken::CONSUMED_AT, NOW);
            });
            match consumed.await {
                Ok(_) => {}
                Err(GuardError::Refused(_)) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
            sqlx::query("INSERT INTO branches (consumed) VALUES ($1)")
                .bind(id)
                .execute(&mut *tx)
                .await?;
            Ok(1)
        })
        .await?;
    Ok(branches)
}

async fn refresh_token(pool: &Pool) -> Result<Report> {
    let tokens = async || -> Result<()> {
        run(pool, "DELETE FROM branches; DELETE FROM refresh_tokens").await?;
        for id in 0..ROUNDS {
            let insert = sqlx::query("INSERT INTO refresh_tokens VALUES ($1, NULL)");
            insert.bind(id as i64).execute(pool).await?;
        }
        Ok(())
    };
    tokens().await?;
    race(TASKS, ROUNDS, pool, consume_by_hand).await?;
    let by_hand = count(pool, "SELECT count(*) FROM branches").await?;
    tokens().await?;
    race(TASKS, ROUNDS, pool, consume).await?;
    let rowlock = count(pool, "SELECT count(*) FROM branches").await?;
    Ok(Report {
        path: "refresh-token consume",
        what: "live branches",
        right: ROUNDS,
        by_hand,
        rowlock,
    })
}

// A token lets so many users register.

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

const LIMIT: usize = 50;

async fn use_token_by_hand(pool: Pool, turn: Turn) -> Result<usize> {
    let select = "SELECT times_used < usage_limit FROM registration_tokens WHERE id = 1";
    let free: bool = sqlx::query_scalar(select).fetch_one(&pool).await?;
    turn.everybody_has_read().await;
    if !free {
        return Ok(0);
    }
    let update = "UPDATE registration_tokens SET times_used = times_used + 1, last_used_at = $1 WHERE id = 1";
    sqlx::query(update).bind(NOW).execute(&pool).await?;
    Ok(1)
}

/// The bound is a column, and another column is written along.
async fn use_token(pool: Pool, _: Turn) -> Result<usize> {
    let unlimited = RegistrationToken::USAGE_LIMIT.is_null();
    let free = RegistrationToken::TIMES_USED.lt(RegistrationToken::USAGE_LIMIT);
    let used = RegistrationToken::update_if(&pool, 1, unlimited.or(free), |row| {
        row.add(RegistrationToken::TIMES_USED, 1);
        row.set(RegistrationToken::LAST_USED_AT, NOW);
    });
    match used.await {
        Ok(_) => Ok(1),
        Err(GuardError::Refused(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

async fn limited_token(pool: &Pool) -> Result<Report> {
    let fresh =
        "DELETE FROM registration_tokens; INSERT INTO registration_tokens VALUES (1, 50, 0, NULL)";
    run(pool, fresh).await?;
    let by_hand = race(TASKS, ROUNDS, pool, use_token_by_hand).await?;
    run(pool, fresh).await?;
    let rowlock = race(TASKS, ROUNDS, pool, use_token).await?;
    Ok(Report {
        path: "limited token",
        what: "registrations",
        right: LIMIT,
        by_hand,
        rowlock,
    })
}

// Builds of many releases file them under the same keywords.

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "keywords")]
struct Keyword {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(unique)]
    slug: String,
    name: String,
}

async fn keyword_by_hand(pool: Pool, turn: Turn) -> Result<usize> {
    let slug = format!("keyword-{}", turn.round);
    let select = "SELECT id FROM keywords WHERE slug = $1";
    let found: Option<i64> = sqlx::query_scalar(select)
        .bind(&slug)
        .fetch_optional(&pool)
        .await?;
    turn.everybody_has_read().await;
    if found.is_some() {
        return Ok(0);
    }
    let insert = sqlx::query("INSERT INTO keywords (slug, name) VALUES ($1, $1)").bind(&slug);
    match insert.execute(&pool).await {
        Ok(_) => Ok(0),
        // A build that fails because of another one.
        Err(error)
            if error
                .as_database_error()
                .is_some_and(|error| error.is_unique_violation()) =>
        {
            Ok(1)
        }
        Err(error) => Err(error.into()),
    }
}

async fn keyword(pool: Pool, turn: Turn) -> Result<usize> {
    let slug = format!("keyword-{}", turn.round);
    let new = NewKeyword {
        name: slug.clone(),
        slug,
    };
    let keyword = Keyword::find_or_create(&pool, new).await?;
    assert!(keyword.id > 0 && keyword.slug == keyword.name);
    Ok(0)
}

async fn keywords(pool: &Pool) -> Result<Report> {
    let by_hand = race(TASKS, ROUNDS, pool, keyword_by_hand).await?;
    run(pool, "DELETE FROM keywords").await?;
    let rowlock = race(TASKS, ROUNDS, pool, keyword).await?;
    Ok(Report {
        path: "keywords of a release",
        what: "builds that failed",
        right: 0,
        by_hand,
        rowlock,
    })
}

// A form that is sent twice: the newsletter goes out once, and both get the same answer.

#[derive(Idempotent)]
#[rowlock(table = "requests")]
#[allow(dead_code)]
struct Request {
    #[rowlock(key)]
    user_id: i64,
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    fingerprint: String,
    #[rowlock(outcome)]
    response: Option<String>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

async fn publish_by_hand(pool: Pool, turn: Turn) -> Result<usize> {
    let key = format!("form-{}", turn.round);
    let select = "SELECT response FROM requests WHERE user_id = 1 AND key = $1";
    let saved: Option<Option<String>> = sqlx::query_scalar(select)
        .bind(&key)
        .fetch_optional(&pool)
        .await?;
    turn.everybody_has_read().await;
    if saved.is_some() {
        return Ok(0);
    }
    sqlx::query("INSERT INTO mails (issue) VALUES ($1)")
        .bind(&key)
        .execute(&pool)
        .await?;
    let insert = "INSERT INTO requests VALUES (1, $1, '', 'published', 0, NULL, NULL) ON CONFLICT DO NOTHING";
    sqlx::query(insert).bind(&key).execute(&pool).await?;
    Ok(1)
}

/// The mail and the record are one transaction; who comes second waits, and gets the recorded answer.
async fn publish(pool: Pool, turn: Turn) -> Result<usize> {
    let issue = format!("form-{}", turn.round);
    let once = Request::once(&pool, (1, &*issue), &issue, async |tx| {
        let mail = sqlx::query("INSERT INTO mails (issue) VALUES ($1)").bind(&issue);
        mail.execute(&mut *tx).await?;
        Ok::<_, rowlock::Error>("published".to_owned())
    });
    match once.wait(std::time::Duration::from_secs(10)).await? {
        Once::Ran(_) => Ok(1),
        Once::Replayed(_) => Ok(0),
        Once::Busy => anyhow::bail!("busy for ten seconds"),
    }
}

async fn request(pool: &Pool) -> Result<Report> {
    race(TASKS, ROUNDS, pool, publish_by_hand).await?;
    let by_hand = count(pool, "SELECT count(*) FROM mails").await?;
    run(pool, "DELETE FROM mails; DELETE FROM requests").await?;
    race(TASKS, ROUNDS, pool, publish).await?;
    let rowlock = count(pool, "SELECT count(*) FROM mails").await?;
    Ok(Report {
        path: "idempotent request",
        what: "newsletters sent",
        right: ROUNDS,
        by_hand,
        rowlock,
    })
}
