//! The states of a queue as a table has them already: texts of its own, an enum, rows that are deleted when they are done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rowlock::queue::{Claimed, FinishError, Job, JobOutcome, QueueState, Retried};
use rowlock::{Fence, Queue};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::Notify;

use super::{Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

/// The states as texts, in a column of texts.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Delivery {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state(
        ready = "queued",
        running = "in_progress",
        done = "successful",
        dead = "it's failed"
    ))]
    state: String,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

/// The states of a table's own enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "progress", rename_all = "UPPERCASE")]
enum Progress {
    Waiting,
    Working,
    Finished,
    Dead,
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Render {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state(
        ready = "WAITING",
        running = "WORKING",
        done = "FINISHED",
        dead = "DEAD"
    ))]
    state: Progress,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    last_error: Option<String>,
}

/// Nobody reads of a mail that was sent.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", done = delete)]
struct Mail {
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

/// Both, and a key of two columns.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", done = delete)]
struct Issue {
    #[rowlock(key)]
    id: i64,
    #[rowlock(key)]
    reader: String,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state(ready = "new"))]
    state: String,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// No column for the state: the times say it.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Payout {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(dead)]
    failed_at: Option<Timestamp>,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
    #[rowlock(last_error)]
    last_error: Option<String>,
}

/// And deleted when it is done.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", done = delete)]
struct Subscriber {
    #[rowlock(key)]
    id: i64,
    #[rowlock(key)]
    reader: String,
    #[rowlock(run_at)]
    run_at: Option<Timestamp>,
    #[rowlock(dead)]
    failed_at: Option<Timestamp>,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// What the state is where no column has it.
const BY_TIMES: &str = "CASE WHEN failed_at IS NOT NULL THEN 'dead' WHEN finished_at IS NOT NULL THEN 'done' WHEN leased_until IS NULL THEN 'ready' ELSE 'running' END";

/// A table whose states have this type and begin as this one, with so many jobs.
async fn jobs(ty: &str, ready: &str, count: i64) -> super::Database {
    let (time, enumeration) = match NAME {
        "PostgreSQL" => (
            "timestamptz NOT NULL DEFAULT now()",
            "CREATE TYPE progress AS ENUM ('WAITING', 'WORKING', 'FINISHED', 'DEAD');",
        ),
        _ => ("text NOT NULL DEFAULT CURRENT_TIMESTAMP", ""),
    };
    let nullable = time.split_whitespace().next().unwrap();
    let ids: Vec<String> = (1..=count).map(|id| format!("({id})")).collect();
    let schema = format!(
        "{enumeration} CREATE TABLE jobs (id bigint NOT NULL, reader text NOT NULL DEFAULT 'ann', run_at {time}, state {ty} NOT NULL DEFAULT '{ready}',
             attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until {nullable}, finished_at {nullable}, failed_at {nullable}, last_error text,
             PRIMARY KEY (id, reader));
         INSERT INTO jobs (id) VALUES {}",
        ids.join(", ")
    );
    database(&schema).await
}

/// What the table says of a job, in this expression.
async fn state_of(pool: &Pool, id: i64, state: &str) -> Option<String> {
    let sql = format!("SELECT {state} FROM jobs WHERE id = {id}");
    let state = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(pool);
    state.await.unwrap()
}

async fn count(pool: &Pool, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM jobs WHERE {condition}");
    let count = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool);
    count.await.unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);
const NOW: Duration = Duration::ZERO;

/// What the state is where a column has it.
const STATE: &str = "CAST(state AS text)";

/// The whole life of a job of this model, whose states are stored as these; `None` if it is deleted.
macro_rules! shape {
    ($name:ident, $model:ident, $state:expr, $ty:literal, $ready:literal, $running:literal, $done:expr, $dead:literal) => {
        mod $name {
            use super::*;

            const DONE: Option<&str> = $done;

            async fn state(pool: &Pool, id: i64) -> Option<String> {
                state_of(pool, id, $state).await
            }

            async fn count_in(pool: &Pool, state: &str) -> i64 {
                let state = state.replace('\'', "''");
                count(pool, &format!("{} = '{state}'", $state)).await
            }

            async fn table(count: i64) -> super::super::Database {
                jobs($ty, $ready, count).await
            }

            async fn claim(pool: &Pool) -> Claimed<$model> {
                $model::claim(pool, 1)
                    .await
                    .unwrap()
                    .pop()
                    .expect("one is due")
            }

            #[tokio::test]
            async fn each_end_of_a_claim_has_its_state() {
                let database = table(6).await;
                let pool = &database.pool;
                pool.execute($model::ddl::<Db>()).await.unwrap();
                let mut jobs = $model::claim(pool, 6).await.unwrap();
                jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
                let mut next = || jobs.pop().expect("six were claimed");
                assert_eq!(state(pool, 1).await.as_deref(), Some($running));
                next().complete(pool).await.unwrap();
                assert_eq!(state(pool, 1).await.as_deref(), DONE);
                next().fail(pool, "never").await.unwrap();
                assert_eq!(state(pool, 2).await.as_deref(), Some($dead));
                let later = next().retry_after(pool, "later", HOUR).await.unwrap();
                assert!(matches!(later, Retried::Later(_)), "{later:?}");
                next().snooze(pool, HOUR).await.unwrap();
                next().release(pool).await.unwrap();
                for id in 3..=5 {
                    assert_eq!(state(pool, id).await.as_deref(), Some($ready), "{id}");
                }
                let job = next();
                let mut tx = pool.begin().await.unwrap();
                job.complete_in(&mut *tx).await.unwrap();
                tx.rollback().await.unwrap();
                assert_eq!(state(pool, 6).await.as_deref(), Some($running));
                let mut tx = pool.begin().await.unwrap();
                job.complete_in(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
                assert_eq!(state(pool, 6).await.as_deref(), DONE);
            }

            #[tokio::test]
            async fn after_the_last_attempt_it_is_dead() {
                let database = table(1).await;
                let pool = &database.pool;
                for attempt in 1..=3 {
                    let job = claim(pool).await;
                    let retried = job.retry_after(pool, "no", NOW).await.unwrap();
                    assert_eq!(matches!(retried, Retried::Dead), attempt == 3);
                }
                assert_eq!(state(pool, 1).await.as_deref(), Some($dead));
                assert!($model::claim(pool, 1).await.unwrap().is_empty());
            }

            #[tokio::test]
            async fn a_claim_that_ended_is_rescued_and_its_old_holder_changes_nothing() {
                let database = table(2).await;
                let pool = &database.pool;
                pool.execute("UPDATE jobs SET attempts = 2 WHERE id = 2")
                    .await
                    .unwrap();
                let old = $model::claim(pool, 2).lease(NOW).await.unwrap();
                let rescued = $model::rescue(pool).await.unwrap();
                assert_eq!((rescued.ready, rescued.dead), (1, 1));
                assert_eq!(state(pool, 1).await.as_deref(), Some($ready));
                assert_eq!(state(pool, 2).await.as_deref(), Some($dead));
                let new = claim(pool).await;
                for job in old {
                    let refused = job.complete(pool).await;
                    assert!(
                        matches!(refused, Err(FinishError::LeaseLost(_))),
                        "{refused:?}"
                    );
                }
                assert_eq!(state(pool, 1).await.as_deref(), Some($running));
                new.complete(pool).await.unwrap();
                assert_eq!(state(pool, 1).await.as_deref(), DONE);
            }

            #[tokio::test]
            async fn batches() {
                for in_transaction in [false, true] {
                    let database = table(40).await;
                    let pool = &database.pool;
                    let lost = $model::claim(pool, 5).lease(NOW).await.unwrap();
                    $model::rescue(pool).await.unwrap();
                    let mut jobs = $model::claim(pool, 40).await.unwrap();
                    assert_eq!(jobs.len(), 40);
                    let rest = jobs.split_off(20);
                    jobs.extend(lost);
                    let unfinished = if in_transaction {
                        let mut tx = pool.begin().await.unwrap();
                        let unfinished = Claimed::complete_many(&mut *tx, jobs).await.unwrap();
                        tx.commit().await.unwrap();
                        unfinished
                    } else {
                        Claimed::complete_many(pool, jobs).await.unwrap()
                    };
                    assert_eq!(unfinished.len(), 5);
                    let done = match DONE {
                        Some(done) => count_in(pool, done).await,
                        None => 40 - count(pool, "true").await,
                    };
                    assert_eq!(done, 20);
                    let failed = rest.into_iter().map(|job| (job, "never"));
                    assert!(Claimed::fail_many(pool, failed).await.unwrap().is_empty());
                    assert_eq!(count_in(pool, $dead).await, 20);
                }
            }

            /// Claims that are lost, and of the same keys as those that hold: the keys alone do not tell.
            #[tokio::test]
            async fn a_batch_of_lost_claims_writes_nothing() {
                let database = table(3).await;
                let pool = &database.pool;
                let lost = $model::claim(pool, 3).lease(NOW).await.unwrap();
                let also_lost = $model::claim(pool, 3).lease(NOW).await.unwrap();
                let new = $model::claim(pool, 3).await.unwrap();
                let unfinished = Claimed::complete_many(pool, lost).await.unwrap();
                assert_eq!(unfinished.len(), 3);
                let failed = also_lost.into_iter().map(|job| (job, "never"));
                assert_eq!(Claimed::fail_many(pool, failed).await.unwrap().len(), 3);
                assert_eq!(count_in(pool, $running).await, 3);
                assert!(Claimed::complete_many(pool, new).await.unwrap().is_empty());
                assert_eq!(count_in(pool, $running).await, 0);
            }

            #[tokio::test]
            async fn a_worker() {
                let database = table(30).await;
                let pool = &database.pool;
                // Ten jobs once, ten once, and ten until they are dead; what has begun when it stops is finished.
                let (left, all_begun) = (AtomicUsize::new(50), Arc::new(Notify::new()));
                let stop = Arc::clone(&all_begun);
                let handler = move |job: Job<$model>| {
                    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        all_begun.notify_one();
                    }
                    async move {
                        match job.id % 3 {
                            0 => JobOutcome::Complete,
                            1 => JobOutcome::fail("never"),
                            _ => JobOutcome::retry_after("at once", NOW),
                        }
                    }
                };
                let worker = $model::worker(pool).shutdown(async move { stop.notified().await });
                let counts = worker.run(handler).await.unwrap();
                assert_eq!(
                    (counts.completed, counts.dead, counts.lease_lost),
                    (10, 20, 0),
                    "{counts:?}"
                );
                assert_eq!(count_in(pool, $dead).await, 20);
            }
        }
    };
}

shape!(
    texts,
    Delivery,
    STATE,
    "text",
    "queued",
    "in_progress",
    Some("successful"),
    "it's failed"
);
shape!(
    enumeration,
    Render,
    STATE,
    "progress",
    "WAITING",
    "WORKING",
    Some("FINISHED"),
    "DEAD"
);
shape!(
    deleted, Mail, STATE, "text", "ready", "running", None, "dead"
);
shape!(both, Issue, STATE, "text", "new", "running", None, "dead");

shape!(
    times,
    Payout,
    BY_TIMES,
    "text",
    "ready",
    "running",
    Some("done"),
    "dead"
);
shape!(
    times_and_deleted,
    Subscriber,
    BY_TIMES,
    "text",
    "ready",
    "running",
    None,
    "dead"
);

/// What was deleted is done, and not lost to another claim.
#[tokio::test]
async fn a_job_that_was_deleted_twice_is_lost_the_second_time() {
    let database = jobs("text", "ready", 1).await;
    let pool = &database.pool;
    let job = Mail::claim(pool, 1).await.unwrap().pop().unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
    job.complete_in(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let again = job.complete(&mut *connection).await;
    assert!(matches!(again, Err(FinishError::LeaseLost(_))), "{again:?}");
}

/// The row that `finished` belongs to is kept.
#[tokio::test]
async fn the_time_of_the_end_is_written() {
    let database = jobs("text", "queued", 1).await;
    let pool = &database.pool;
    let job = Delivery::claim(pool, 1).await.unwrap().pop().unwrap();
    assert_eq!((job.state.as_str(), job.finished_at), ("in_progress", None));
    job.complete(pool).await.unwrap();
    assert_eq!(count(pool, "finished_at IS NOT NULL").await, 1);
}

/// NULL is at once, before all that has a time.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "calls")]
struct Call {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    scheduled_at: Option<Timestamp>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

#[tokio::test]
async fn a_job_without_a_time_is_due_at_once() {
    let time = match NAME {
        "PostgreSQL" => "timestamptz",
        _ => "text",
    };
    let schema = format!(
        "CREATE TABLE calls (id bigint PRIMARY KEY, scheduled_at {time}, state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0,
             fence bigint NOT NULL DEFAULT 0, leased_until {time});
         INSERT INTO calls (id, scheduled_at) VALUES (1, '2020-01-01 00:00:00'), (2, NULL), (3, '9999-01-01 00:00:00')"
    );
    let database = database(&schema).await;
    let pool = &database.pool;
    pool.execute(Call::ddl::<Db>()).await.unwrap();
    let mut jobs = Call::claim(pool, 3).await.unwrap();
    let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(ids, [2, 1]);
    assert_eq!(jobs[0].waited(), NOW);
    assert!(jobs[1].waited() > HOUR);
    let first = jobs.swap_remove(0);
    first.retry_after(pool, "later", HOUR).await.unwrap();
    assert!(Call::claim(pool, 1).await.unwrap().is_empty());
    let later = "SELECT scheduled_at IS NOT NULL FROM calls WHERE id = 2";
    assert!(
        sqlx::query_scalar::<_, bool>(later)
            .fetch_one(pool)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_purge_knows_the_time_of_each_end() {
    let database = jobs("text", "ready", 2).await;
    let pool = &database.pool;
    let mut jobs = Payout::claim(pool, 2).await.unwrap();
    jobs.pop().unwrap().complete(pool).await.unwrap();
    jobs.pop().unwrap().fail(pool, "never").await.unwrap();
    assert_eq!(Payout::purge(pool, HOUR).dead().await.unwrap(), 0);
    for ended in [
        "UPDATE jobs SET finished_at = '2020-01-01 00:00:00' WHERE finished_at IS NOT NULL",
        "UPDATE jobs SET failed_at = '2020-01-01 00:00:00' WHERE failed_at IS NOT NULL",
    ] {
        pool.execute(ended).await.unwrap();
    }
    assert_eq!(Payout::purge(pool, HOUR).await.unwrap(), 1);
    assert_eq!(Payout::purge(pool, HOUR).dead().await.unwrap(), 1);
}

#[tokio::test]
async fn what_was_given_up_is_ready_again() {
    let database = jobs("text", "ready", 3).await;
    let pool = &database.pool;
    let mut jobs = Payout::claim(pool, 3).await.unwrap();
    jobs.pop().unwrap().fail(pool, "never").await.unwrap();
    jobs.pop().unwrap().complete(pool).await.unwrap();
    let stats = Payout::stats(pool).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.dead), (0, 1, 1));
    assert_eq!(Payout::redrive(pool).await.unwrap().ready, 1);
    let stats = Payout::stats(pool).await.unwrap();
    assert_eq!((stats.ready, stats.running, stats.dead), (1, 1, 0));
    let again = Payout::claim(pool, 3).await.unwrap();
    assert_eq!((again.len(), again[0].attempts), (1, 1));
}
