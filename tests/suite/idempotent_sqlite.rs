//! `#[derive(Idempotent)]` beside another writer of the file.

use std::time::Duration;

use rowlock::Idempotent;
use rowlock::idempotent::{Once, Started};

use super::{BEGIN_WRITE, PoolOptions, database};

#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "jobs", backend(Sqlite))]
struct Job {
    #[rowlock(key)]
    night: i64,
    #[rowlock(fingerprint)]
    fingerprint: String,
    #[rowlock(outcome)]
    rows: Option<i64>,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    lease: chrono::DateTime<chrono::Utc>,
    #[rowlock(finished)]
    finished: Option<chrono::DateTime<chrono::Utc>>,
}

const JOBS: &str =
    "CREATE TABLE jobs (night bigint PRIMARY KEY, fingerprint text NOT NULL, rows bigint,
    fence bigint NOT NULL, lease timestamp NOT NULL, finished timestamp)";

/// There is one writer. Who is not it is told `Busy`, whatever the other one writes, and can wait.
#[tokio::test]
async fn another_writer_makes_it_busy() {
    let database = database(JOBS).await;
    let impatient = database.options().busy_timeout(Duration::ZERO);
    let pool = PoolOptions::new().connect_with(impatient).await.unwrap();
    let mut writer = database.connection().await;
    sqlx::query(BEGIN_WRITE).execute(&mut writer).await.unwrap();

    let busy = Job::once(&pool, 1, &5, async |_| Ok::<i64, sqlx::Error>(3));
    assert_eq!(busy.await.unwrap(), Once::Busy);
    let started = Job::start(&pool, 1, &5, Duration::ZERO).await.unwrap();
    assert!(matches!(started, Started::Busy), "{started:?}");

    let waiting = tokio::spawn(async move {
        let call = Job::once(&pool, 1, &5, async |_| Ok::<i64, sqlx::Error>(3));
        call.wait(Duration::from_secs(60)).await
    });
    tokio::task::yield_now().await;
    sqlx::query("COMMIT").execute(&mut writer).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Once::Ran(3));
}
