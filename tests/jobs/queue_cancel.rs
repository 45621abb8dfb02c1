//! Jobs of a queue that are cancelled: those that wait, those that are worked on, and those that have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rowlock::Queue;
use rowlock::queue::{Cancelled, Claimed, FinishError, Job, QueueState};
use rowlock::{Fault, Fence};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::{Notify, mpsc};

use super::{Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
pub(super) struct Email {
    #[rowlock(key)]
    pub(super) id: i64,
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

/// Deleted when it is done, by a key of a number and a text.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", done = delete)]
pub(super) struct Issue {
    #[rowlock(key)]
    pub(super) id: i64,
    #[rowlock(key)]
    reader: String,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state(dead = "given up"))]
    state: String,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// Its state is in its times, and its key is a type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub(super) struct PayoutId(i64);

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
pub(super) struct Payout {
    #[rowlock(key)]
    id: PayoutId,
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
}

pub(super) async fn jobs(count: i64) -> super::Database {
    let time = match NAME {
        "PostgreSQL" => "timestamptz",
        _ => "text",
    };
    let ids: Vec<String> = (1..=count).map(|id| format!("({id})")).collect();
    let schema = format!(
        "CREATE TABLE jobs (id bigint NOT NULL, reader text NOT NULL DEFAULT 'ann', run_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP,
             state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until {time},
             finished_at {time}, failed_at {time}, last_error text, PRIMARY KEY (id, reader));
         INSERT INTO jobs (id) VALUES {}",
        ids.join(", ")
    );
    database(&schema).await
}

pub(super) async fn ids(pool: &Pool, condition: &str) -> Vec<i64> {
    let sql = format!("SELECT id FROM jobs WHERE {condition} ORDER BY id");
    let ids = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool);
    ids.await.unwrap()
}

async fn claim(pool: &Pool) -> Claimed<Email> {
    Email::claim(pool, 1).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_job_that_waits_is_cancelled() {
    let database = jobs(2).await;
    let pool = &database.pool;
    assert_eq!(Email::cancel(pool, 1).await.unwrap(), Cancelled::Now);
    let dead =
        "state = 'dead' AND finished_at IS NOT NULL AND last_error = 'cancelled' AND fence > 0";
    assert_eq!(ids(pool, dead).await, [1]);
    assert_eq!(claim(pool).await.id, 2);
    assert_eq!(Email::cancel(pool, 1).await.unwrap(), Cancelled::Ended);
    assert_eq!(Email::cancel(pool, 3).await.unwrap(), Cancelled::NotFound);
    // It is dead like others.
    assert_eq!(Email::redrive(pool).await.unwrap().ready, 1);
    claim(pool).await.complete(pool).await.unwrap();
    assert_eq!(Email::cancel(pool, 1).await.unwrap(), Cancelled::Ended);
    assert_eq!(ids(pool, "state = 'done'").await, [1]);
}

/// Whoever works on it has lost it, whatever is said about it.
#[tokio::test]
async fn a_claim_of_a_cancelled_job_holds_no_more() {
    let database = jobs(6).await;
    let pool = &database.pool;
    let mut jobs = Email::claim(pool, 6).await.unwrap();
    for id in 1..=5 {
        assert_eq!(Email::cancel(pool, id).await.unwrap(), Cancelled::Now);
    }
    let lost = |result: Result<(), FinishError>| {
        assert!(
            matches!(result, Err(FinishError::LeaseLost(_))),
            "{result:?}"
        )
    };
    let mut next = || jobs.remove(0);
    lost(next().complete(pool).await);
    lost(next().retry(pool, "no").await.map(drop));
    lost(next().extend(pool, Duration::from_secs(9)).await);
    let mut tx = pool.begin().await.unwrap();
    lost(next().complete_in(&mut *tx).await);
    drop(tx);
    let unfinished = Claimed::complete_many(pool, [next(), next()])
        .await
        .unwrap();
    assert_eq!(unfinished.iter().map(|job| job.id).collect::<Vec<_>>(), [5]);
    assert_eq!(
        ids(pool, "state = 'dead' AND last_error = 'cancelled'").await,
        [1, 2, 3, 4, 5]
    );
    assert_eq!(ids(pool, "state = 'done'").await, [6]);
}

/// By hand, as one is told to: the claim that holds it finishes it all the same.
#[tokio::test]
async fn naive_twin_a_job_that_only_is_dead_is_made_ready_and_finished_by_its_old_claim() {
    for (cancel, wins) in [("UPDATE jobs SET state = 'dead'", true), ("", false)] {
        let database = jobs(1).await;
        let pool = &database.pool;
        let job = claim(pool).await;
        match cancel {
            "" => assert_eq!(Email::cancel(pool, 1).await.unwrap(), Cancelled::Now),
            by_hand => drop(pool.execute(by_hand).await.unwrap()),
        }
        // Another one gets it, and the first one comes back.
        pool.execute("UPDATE jobs SET state = 'ready', attempts = 0")
            .await
            .unwrap();
        pool.execute("UPDATE jobs SET state = 'running'")
            .await
            .unwrap();
        assert_eq!(job.complete(pool).await.is_ok(), wins);
    }
}

#[tokio::test]
async fn keys_of_several_columns_and_of_types_of_their_own() {
    let database = jobs(3).await;
    let pool = &database.pool;
    let wrong = Issue::cancel(pool, (1, "ben")).await.unwrap();
    assert_eq!(wrong, Cancelled::NotFound);
    let mut jobs = Issue::claim(pool, 2).await.unwrap();
    assert_eq!(
        Issue::cancel(pool, (1, "ann")).await.unwrap(),
        Cancelled::Now
    );
    // Not deleted: it was not done.
    assert_eq!(ids(pool, "state = 'given up'").await, [1]);
    let first = jobs.remove(0);
    assert!(matches!(
        first.complete(pool).await,
        Err(FinishError::LeaseLost(_))
    ));
    jobs.remove(0).complete(pool).await.unwrap();
    assert_eq!(
        Issue::cancel(pool, (2, "ann")).await.unwrap(),
        Cancelled::NotFound
    );
    assert_eq!(
        Issue::cancel(pool, (1, "ann")).await.unwrap(),
        Cancelled::Ended
    );
}

#[tokio::test]
async fn a_job_whose_state_is_in_its_times() {
    let database = jobs(2).await;
    let pool = &database.pool;
    let mut jobs = Payout::claim(pool, 1).await.unwrap();
    for id in 1..=2 {
        let cancelled = Payout::cancel(pool, PayoutId(id)).await.unwrap();
        assert_eq!(cancelled, Cancelled::Now);
    }
    assert_eq!(
        ids(pool, "failed_at IS NOT NULL AND finished_at IS NULL").await,
        [1, 2]
    );
    let late = jobs.remove(0).complete(pool).await;
    assert!(matches!(late, Err(FinishError::LeaseLost(_))), "{late:?}");
    assert!(Payout::claim(pool, 2).await.unwrap().is_empty());
    assert_eq!(Payout::rescue(pool).await.unwrap().ready, 0);
    assert_eq!(
        Payout::cancel(pool, PayoutId(1)).await.unwrap(),
        Cancelled::Ended
    );
}

/// With what else the transaction writes, or not at all.
#[tokio::test]
async fn in_a_transaction() {
    let database = jobs(1).await;
    let pool = &database.pool;
    let job = claim(pool).await;
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(Email::cancel(&mut *tx, 1).await.unwrap(), Cancelled::Now);
    tx.rollback().await.unwrap();
    job.complete(pool).await.unwrap();
    let cancelled = rowlock::transaction(pool).run(async |tx| Email::cancel(&mut *tx, 1).await);
    assert_eq!(cancelled.await.unwrap(), Cancelled::Ended);
}

/// Nobody may be told that it is cancelled.
#[tokio::test]
async fn a_trigger_that_drops_the_write() {
    let database = jobs(1).await;
    let pool = &database.pool;
    let trigger = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER keep BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION keep()"
        }
        _ => "CREATE TRIGGER keep BEFORE UPDATE ON jobs BEGIN SELECT RAISE(IGNORE); END",
    };
    pool.execute(trigger).await.unwrap();
    let error = Email::cancel(pool, 1).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Raised, "{error}");
    assert!(error.to_string().contains("cancel"), "{error}");
}

/// The success path is one statement: nothing but the write is looked at.
#[tokio::test]
async fn it_finds_the_row_by_its_key() {
    let database = jobs(1).await;
    let mut connection = database.pool.acquire().await.unwrap();
    connection.execute(Email::ddl::<Db>()).await.unwrap();
    assert_eq!(
        Email::cancel(&mut *connection, 1).await.unwrap(),
        Cancelled::Now
    );
}

const LEASE: Duration = Duration::from_millis(600);

/// Sends when it is dropped.
struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

/// The next heartbeat tells the handler, what it has spawned, and the counts.
#[tokio::test]
async fn a_worker_drops_the_handler_of_a_cancelled_job() {
    let database = jobs(2).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let worker = Email::worker(pool)
        .lease(LEASE)
        .concurrency(1)
        .prefetch(1)
        .shutdown(async move { stopped.notified().await });
    let stats = worker.stats();
    let begun = Arc::new(AtomicUsize::new(0));
    let running = tokio::spawn(worker.run(move |job: Job<Email>| {
        let say = say.clone();
        let is_first = begun.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if !is_first {
                say.send("the other").unwrap();
                return;
            }
            let (spawned, other) = (job.clone(), say.clone());
            tokio::spawn(async move {
                spawned.stopped().await;
                assert!(spawned.is_stopped());
                other.send("told").unwrap();
            });
            let _dropped = Dropped(say.clone());
            assert!(!job.is_stopped());
            say.send("begun").unwrap();
            std::future::pending::<()>().await;
        }
    }));
    assert_eq!(said.recv().await, Some("begun"));
    let id = ids(pool, "attempts = 1").await[0];
    assert_eq!(Email::cancel(pool, id).await.unwrap(), Cancelled::Now);
    let mut both = [said.recv().await, said.recv().await];
    both.sort_unstable();
    assert_eq!(both, [Some("dropped"), Some("told")]);
    assert_eq!(said.recv().await, Some("the other"));
    stop.notify_one();
    let counts = running.await.unwrap().unwrap();
    assert_eq!(
        (counts.started, counts.completed, counts.lease_lost),
        (2, 1, 1)
    );
    assert_eq!((counts.retried, counts.dead, counts.rescued), (0, 0, 0));
    assert_eq!(stats.counts(), counts);
    assert_eq!(
        ids(pool, "state = 'dead' AND last_error = 'cancelled'").await,
        [id]
    );
}

/// A handler that ends before the heartbeat comes: what it says is not written.
#[tokio::test]
async fn a_handler_that_ends_after_the_cancel_has_not_done_the_job() {
    let database = jobs(1).await;
    let pool = database.pool.clone();
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let worker = Email::worker(&pool).shutdown(async move { stopped.notified().await });
    let counts = worker.run(move |job: Job<Email>| {
        let (pool, stop) = (database.pool.clone(), stop.clone());
        async move {
            assert_eq!(Email::cancel(&pool, job.id).await.unwrap(), Cancelled::Now);
            stop.notify_one();
        }
    });
    let counts = counts.await.unwrap();
    assert_eq!(
        (counts.started, counts.completed, counts.lease_lost),
        (1, 0, 1)
    );
    assert_eq!(ids(&pool, "state = 'dead'").await, [1]);
}

/// What a handler has spawned is told that it is over, however it ended.
#[tokio::test]
async fn what_a_handler_has_spawned_hears_of_its_end() {
    let database = jobs(3).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let worker = Email::worker(pool)
        .handler_timeout(Duration::from_millis(1))
        .shutdown(async move { stopped.notified().await });
    let running = tokio::spawn(worker.run(move |job: Job<Email>| {
        let (say, spawned) = (say.clone(), job.clone());
        tokio::spawn(async move {
            spawned.stopped().await;
            say.send(spawned.id).unwrap();
        });
        async move {
            match job.id {
                1 => {}
                2 => panic!("a handler that panics"),
                _ => std::future::pending().await,
            }
        }
    }));
    let mut over = [0; 3];
    for id in &mut over {
        *id = said.recv().await.unwrap();
    }
    over.sort_unstable();
    assert_eq!(over, [1, 2, 3]);
    stop.notify_one();
    running.await.unwrap().unwrap();
}
