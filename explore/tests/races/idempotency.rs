//! A form is sent again, twice at once. Its answer is saved: the service reads it with a second connection of its pool, while
//! it holds the first one.

use std::time::Duration;

use rowlock::idempotent::Once;
use rowlock::{Fence, Idempotent};
use rowlock_explore::{Actor, Ended, Explorer};
use rowlock_tests::postgres;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::{Known, Result, compare, nobody_fails};

type Timestamp = chrono::DateTime<chrono::Utc>;

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

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS users (id bigint PRIMARY KEY, session text NOT NULL);
    INSERT INTO users VALUES (1, 'cookie') ON CONFLICT DO NOTHING;
    CREATE TABLE IF NOT EXISTS mails (issue text NOT NULL);
    CREATE TABLE IF NOT EXISTS requests (
        user_id bigint, key text, fingerprint text NOT NULL, response text, fence bigint NOT NULL,
        leased_until timestamptz, finished_at timestamptz, PRIMARY KEY (user_id, key))";

fn service(url: &str) -> Explorer<Result<[String; 2]>> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema(TABLES)
        .invariant(|ended: Ended<Result<[String; 2]>>| async move { nobody_fails(&ended) })
}

/// A pool of two, as a busy service has one of ten.
async fn both<F: Future<Output = Result<String>>>(
    actor: Actor,
    request: impl Fn(PgPool) -> F,
) -> Result<[String; 2]> {
    let options = PgPoolOptions::new()
        .min_connections(2)
        .max_connections(2)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_millis(200));
    let pool = options.connect(actor.url()).await?;
    let (one, two) = tokio::join!(request(pool.clone()), request(pool.clone()));
    pool.close().await;
    Ok([one?, two?])
}

/// Before all: who is it?
async fn user(pool: &PgPool) -> Result<i64> {
    let select = "SELECT id FROM users WHERE session = $1";
    Ok(sqlx::query_scalar(select)
        .bind("cookie")
        .fetch_one(pool)
        .await?)
}

async fn publish_by_hand(pool: PgPool) -> Result<String> {
    let user = user(&pool).await?;
    let mut tx = pool.begin().await?;
    let insert = "INSERT INTO requests (user_id, key, fingerprint, fence) VALUES ($1, $2, '', 0) ON CONFLICT DO NOTHING";
    let first = sqlx::query(insert)
        .bind(user)
        .bind("form")
        .execute(&mut *tx)
        .await?;
    if first.rows_affected() == 0 {
        let select = "SELECT response FROM requests WHERE user_id = $1 AND key = $2";
        return Ok(sqlx::query_scalar(select)
            .bind(user)
            .bind("form")
            .fetch_one(&pool)
            .await?);
    }
    sqlx::query("INSERT INTO mails (issue) VALUES ($1)")
        .bind("form")
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE requests SET response = 'published' WHERE user_id = $1 AND key = $2")
        .bind(user)
        .bind("form")
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok("published".to_owned())
}

async fn publish(pool: PgPool) -> Result<String> {
    let user = user(&pool).await?;
    let once = Request::once(&pool, (user, "form"), "form", async |tx| {
        let mail = sqlx::query("INSERT INTO mails (issue) VALUES ($1)").bind("form");
        mail.execute(&mut *tx).await?;
        Ok::<_, rowlock::Error>("published".to_owned())
    });
    match once.await? {
        Once::Ran(answer) | Once::Replayed(answer) => Ok(answer),
        Once::Busy => Err("busy".into()),
    }
}

#[tokio::test]
async fn a_saved_answer_needs_one_connection() {
    let url = postgres::fresh_url().await;
    let pool = PgPool::connect(&url).await.unwrap();
    sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
    publish(pool).await.unwrap();
    let known = Known {
        name: "second connection of the pool",
        anomaly: "none in the dependency graph",
        // Who goes on first when both have waited too long for a connection?
        bad: None,
    };
    let by_hand = || service(&url).actor("service", |actor| both(actor, publish_by_hand));
    let rowlock = || service(&url).actor("service", |actor| both(actor, publish));
    compare(known, by_hand, rowlock).await;
}
