//! `#[derive(Queue)]`: every row is somebody's, for as long as the lease says.

use std::time::Duration;

use rowlock::{Claimed, Fence, FinishError, Queue, QueueState, Retried};

use super::{Database, Db, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, Clone, sqlx::FromRow, Queue)]
#[rowlock(table = "emails")]
struct Email {
    #[rowlock(key, generated)]
    id: i64,
    recipient: String,
    #[rowlock(filter)]
    tenant: i64,
    #[rowlock(priority)]
    priority: i16,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    last_error: Option<String>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

const EMAILS: &str = "CREATE TABLE emails (
        id {id},
        recipient text NOT NULL DEFAULT 'ann',
        tenant bigint NOT NULL DEFAULT 1,
        priority smallint NOT NULL DEFAULT 0,
        run_at {timestamp} NOT NULL DEFAULT ({now}),
        state text NOT NULL DEFAULT 'ready',
        attempts integer NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        leased_until {timestamp},
        last_error text,
        finished_at {timestamp}
    )";

/// The table with its indexes, and `rows` rows.
async fn emails(rows: i64) -> Database {
    let database = database(EMAILS).await;
    sqlx::raw_sql(Email::ddl::<Db>())
        .execute(&database.pool)
        .await
        .unwrap();
    add(&database.pool, rows).await;
    database
}

async fn add(pool: &Pool, rows: i64) {
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
               INSERT INTO emails (tenant) SELECT 1 FROM n WHERE i <= $1";
    sqlx::query(sql).bind(rows).execute(pool).await.unwrap();
}

async fn all(pool: &Pool) -> Vec<Email> {
    sqlx::query_as("SELECT * FROM emails ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn q_06_a_claim_stamps_the_row_in_the_same_statement() {
    let database = emails(3).await;
    let pool = &database.pool;
    let batch = Email::claim(pool, 2).await.unwrap();
    assert_eq!(
        batch.iter().map(|email| email.id).collect::<Vec<_>>(),
        [1, 2]
    );
    let rows = all(pool).await;
    for (claimed, row) in batch.iter().zip(&rows) {
        assert_eq!(row.state, QueueState::Running);
        assert_eq!(row.attempts, 1);
        assert_eq!(row.fence, claimed.fence);
        assert_eq!(row.leased_until, claimed.leased_until);
    }
    assert_eq!(rows[2].state, QueueState::Ready);
    let lost = Claimed::complete_many(pool, batch).await.unwrap();
    assert!(lost.is_empty());
    assert_eq!(all(pool).await[0].state, QueueState::Done);
}

#[tokio::test]
async fn every_way_to_end_a_claim() {
    let database = emails(6).await;
    let pool = &database.pool;
    let batch = Email::claim(pool, 6).await.unwrap();
    let mut batch = batch.into_iter();
    let mut next = || batch.next().unwrap();
    next().complete(pool).await.unwrap();
    let minute = Duration::from_secs(60);
    let retried = next().retry_after(pool, "no", minute).await.unwrap();
    assert_eq!(retried, Retried::Later(minute));
    next().fail(pool, "never").await.unwrap();
    next().snooze(pool, Duration::from_secs(60)).await.unwrap();
    next().release(pool).await.unwrap();
    let last = next();
    last.extend(pool, Duration::from_secs(600)).await.unwrap();
    let again = Email::claim(pool, 6).await.unwrap();
    assert_eq!(again.len(), 1);
    let states: Vec<_> = all(pool)
        .await
        .into_iter()
        .map(|row| (row.state, row.attempts, row.last_error))
        .collect();
    let error = |text: &str| Some(text.to_owned());
    assert_eq!(
        states,
        [
            (QueueState::Done, 1, None),
            (QueueState::Ready, 1, error("no")),
            (QueueState::Dead, 1, error("never")),
            (QueueState::Ready, 0, None),
            (QueueState::Running, 1, None),
            (QueueState::Running, 1, None),
        ]
    );
}

#[tokio::test]
async fn q_07_a_lost_lease_is_told_and_nothing_is_written() {
    let database = emails(1).await;
    let pool = &database.pool;
    let mut first = Email::claim(pool, 1).lease(Duration::ZERO).await.unwrap();
    let mut second = Email::claim(pool, 1).await.unwrap();
    let (first, second) = (first.remove(0), second.remove(0));
    assert!(second.fence > first.fence);
    let before = all(pool).await[0].fence;
    let lost = first.complete(pool).await.unwrap_err();
    assert!(matches!(lost, FinishError::LeaseLost(_)), "{lost:?}");
    assert_eq!(
        lost.to_string(),
        "complete of emails (id = 1): the lease was lost, the row is no longer this claim's"
    );
    assert_eq!(all(pool).await[0].fence, before);
    second.complete(pool).await.unwrap();
}
