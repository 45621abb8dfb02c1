//! `RAISE(FAIL)` after a row of a queue was written: SQLite keeps the write, and the error says so.

use rowlock::queue::{Claimed, FinishError, QueueState};
use rowlock::{Fault, Fence, Queue};
use sqlx::{AssertSqlSafe, Executor};

use super::{Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    id: i64,
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
}

const JOBS: &str = "CREATE TABLE jobs (id bigint PRIMARY KEY, run_at text NOT NULL DEFAULT CURRENT_TIMESTAMP, state text NOT NULL DEFAULT 'ready',
        attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until text);
    INSERT INTO jobs (id) VALUES (1), (2)";

const SOON: std::time::Duration = std::time::Duration::from_secs(9);

/// The jobs 1 and 2, and then a trigger that fails like this after each update.
async fn claimed(pool: &Pool, how: &str) -> Vec<Claimed<Job>> {
    let again = "DROP TRIGGER IF EXISTS fails; UPDATE jobs SET state = 'ready', run_at = CURRENT_TIMESTAMP, attempts = 0";
    // On the one connection: another would decide IF EXISTS by the schema that it knows.
    sqlx::raw_sql(again).execute(pool).await.unwrap();
    let mut jobs = Job::claim(pool, 2).await.unwrap();
    jobs.sort_by_key(|job| job.id);
    let fails =
        format!("CREATE TRIGGER fails AFTER UPDATE ON jobs BEGIN SELECT RAISE({how}, 'no'); END");
    pool.execute(AssertSqlSafe(fails)).await.unwrap();
    jobs
}

/// How many of the jobs a method has written.
async fn written(pool: &Pool, method: &str) -> i64 {
    let sql = match method {
        "extend" => "SELECT count(*) FROM jobs WHERE leased_until < datetime('now', '+20 seconds')",
        _ => "SELECT count(*) FROM jobs WHERE state <> 'running'",
    };
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

const METHODS: [&str; 7] = [
    "complete",
    "complete_in",
    "retry",
    "fail",
    "snooze",
    "release",
    "extend",
];

#[tokio::test]
async fn naive_twin_of_an_error_after_which_the_row_is_written() {
    let database = database(JOBS).await;
    claimed(&database.pool, "FAIL").await;
    let done = "UPDATE jobs SET state = 'done' WHERE id = 1";
    let error = database.pool.execute(done).await.unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Raised);
    assert_eq!(written(&database.pool, "complete").await, 1);
}

#[tokio::test]
async fn an_end_of_a_claim_that_failed_says_whether_it_wrote() {
    let database = database(JOBS).await;
    let pool = &database.one_connection_pool().await;
    for (how, kept) in [("FAIL", true), ("ABORT", false)] {
        for method in METHODS {
            let job = claimed(pool, how).await.swap_remove(0);
            let outcome = match method {
                "complete" => job.complete(pool).await,
                "complete_in" => {
                    let mut tx = pool.begin().await.unwrap();
                    let outcome = job.complete_in(&mut *tx).await;
                    tx.commit().await.unwrap();
                    outcome
                }
                "retry" => job.retry(pool, "why").await.map(drop),
                "fail" => job.fail(pool, "why").await,
                "snooze" => job.snooze(pool, SOON).await,
                "release" => job.release(pool).await,
                _ => job.extend(pool, SOON).await,
            };
            let says = matches!(outcome, Err(FinishError::Written(_)));
            assert_eq!(says, kept, "{method} after {how}: {outcome:?}");
            let wrote = written(pool, method).await == 1;
            assert_eq!(wrote, kept, "{method} after {how}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_that_failed_says_what_it_wrote() {
    let database = database(JOBS).await;
    let pool = &database.one_connection_pool().await;
    // One row says it itself.
    let mut jobs = claimed(pool, "FAIL").await;
    jobs.truncate(1);
    let unfinished = Claimed::complete_many(pool, jobs).await.unwrap();
    let error = &unfinished[0].error;
    assert!(matches!(error, FinishError::Written(_)), "{error:?}");
    // Of several, one was written by the statement of all.
    let jobs = claimed(pool, "FAIL").await;
    let unfinished = Claimed::complete_many(pool, jobs).await.unwrap();
    let errors: Vec<_> = unfinished.iter().map(|row| &row.error).collect();
    assert!(
        matches!(
            errors[..],
            [FinishError::LeaseLost(_), FinishError::Written(_)]
                | [FinishError::Written(_), FinishError::LeaseLost(_)]
        ),
        "{errors:?}"
    );
    assert_eq!(written(pool, "complete").await, 2);
    // In a transaction there is no second try.
    let jobs = claimed(pool, "FAIL").await;
    let mut tx = pool.begin().await.unwrap();
    let error = Claimed::complete_many(&mut *tx, jobs).await.unwrap_err();
    assert!(matches!(error, FinishError::Written(_)), "{error:?}");
    tx.commit().await.unwrap();
    assert_eq!(written(pool, "complete").await, 1);
}
