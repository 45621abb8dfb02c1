//! `Queue` with a unique key: of one job at most one waits, and who enqueues it knows which.

use chrono::{DateTime, Utc};
use rowlock::queue::QueueState;
use rowlock::row::FoundOrCreated;
use rowlock::{Fence, FindOrCreate, Queue};
use rowlock_explore::{Actor, Ended};
use sqlx::Row;

use super::{explorer, failed, passed, pool};

#[derive(Debug, sqlx::FromRow, Queue, FindOrCreate)]
#[rowlock(table = "jobs", backend(Postgres), unique(customer, while(ready)))]
struct Job {
    #[rowlock(key, generated)]
    id: i64,
    customer: i64,
    #[rowlock(run_at, default)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 2))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

const TABLE: &str = "
    CREATE TABLE jobs (
        id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, customer bigint NOT NULL, run_at timestamptz NOT NULL, state text NOT NULL,
        attempts int NOT NULL, fence bigint NOT NULL, leased_until timestamptz);";
const SETUP: &str = "DELETE FROM jobs; INSERT INTO jobs (customer, run_at, state, attempts, fence) VALUES (7, '2000-01-01', 'ready', 0, 0)";
/// Two that wait for one customer.
const TWICE: &str =
    "SELECT customer FROM jobs WHERE state = 'ready' GROUP BY customer HAVING count(*) > 1";

/// What an actor did.
#[derive(Debug)]
enum Did {
    /// The job that it enqueued, or found; and whether that waited.
    Enqueued(i64, bool),
    Finished,
    Failed(String),
}

async fn enqueues(actor: Actor) -> Did {
    let pool = pool(&actor);
    let outcome = Job::enqueue(&pool, NewJob { customer: 7 }).await;
    pool.close().await;
    match outcome {
        Ok(FoundOrCreated::Created(job) | FoundOrCreated::Found(job)) => {
            Did::Enqueued(job.id, job.state == QueueState::Ready)
        }
        Err(error) => Did::Failed(error.to_string()),
    }
}

async fn works(actor: Actor) -> Did {
    let pool = pool(&actor);
    let claimed = Job::claim(&pool, 5).await;
    for job in claimed.into_iter().flatten() {
        if let Err(error) = job.complete(&pool).await {
            return Did::Failed(error.to_string());
        }
    }
    pool.close().await;
    Did::Finished
}

/// Nobody fails, and what each caller was told of waited: it is done after he asked for it, or waits still.
async fn all_know(ended: Ended<Did>) -> Result<(), String> {
    let rows = ended.rows("SELECT id, state FROM jobs").await?;
    let is_there = |id: i64| {
        let id = id.to_string();
        rows.iter()
            .any(|row| row[0].as_deref() == Some(id.as_str()))
    };
    for did in ended.returned() {
        match did {
            Did::Enqueued(id, true) if is_there(*id) => {}
            Did::Finished => {}
            Did::Failed(error) => return Err(format!("{error}, {rows:?}")),
            Did::Enqueued(..) => return Err(format!("{did:?}, {rows:?}")),
        }
    }
    Ok(())
}

#[tokio::test]
async fn enqueue_against_claim_and_finish() {
    let schema = format!("{TABLE} {}", Job::ddl::<sqlx::Postgres>());
    for (enqueuers, workers) in [(1, 1), (2, 0), (2, 1)] {
        let mut explorer = explorer(&schema, SETUP).await;
        for name in ["ann", "bob"].into_iter().take(enqueuers) {
            explorer = explorer.actor(name, enqueues);
        }
        if workers == 1 {
            explorer = explorer.actor("cal", works);
        }
        // All orders of three take minutes.
        if enqueuers + workers == 3 {
            explorer = explorer.preemptions(1);
        }
        let verdict = explorer.invariant(all_know).never(TWICE).explore().await;
        let subject = format!("queue: unique enqueue, {enqueuers} against {workers} workers");
        passed(&subject, verdict.unwrap());
    }
    let nothing = "DELETE FROM jobs";
    let verdict = explorer(&schema, nothing)
        .await
        .actor("ann", enqueues)
        .actor("bob", enqueues)
        .actor("cal", works)
        .invariant(all_know)
        .never(TWICE)
        .explore()
        .await;
    passed(
        "queue: unique enqueue of a new job, 2 against 1 worker",
        verdict.unwrap(),
    );
}

/// Looks, and inserts if there is none.
async fn looks_and_inserts(actor: Actor) -> Did {
    let pool = pool(&actor);
    let waiting = "SELECT id FROM jobs WHERE customer = 7 AND state = 'ready'";
    let insert = "INSERT INTO jobs (customer, run_at, state, attempts, fence) VALUES (7, now(), 'ready', 0, 0) RETURNING id";
    let outcome = async {
        if let Some(found) = sqlx::query(waiting).fetch_optional(&pool).await? {
            return found.try_get::<i64, _>(0);
        }
        sqlx::query(insert).fetch_one(&pool).await?.try_get(0)
    };
    let outcome = outcome.await;
    pool.close().await;
    match outcome {
        Ok(id) => Did::Enqueued(id, true),
        Err(error) => Did::Failed(error.to_string()),
    }
}

#[tokio::test]
async fn who_looks_first_enqueues_twice() {
    let verdict = explorer(TABLE, "DELETE FROM jobs")
        .await
        .actor("ann", looks_and_inserts)
        .actor("bob", looks_and_inserts)
        .never(TWICE)
        .explore()
        .await;
    failed("queue: unique enqueue", verdict.unwrap());
}

/// With the index, and an insert that does nothing if a row is there; the row that it met is looked for once, and can be claimed by then.
async fn inserts_and_looks(actor: Actor) -> Did {
    let pool = pool(&actor);
    let waiting = "SELECT id FROM jobs WHERE customer = 7 AND state = 'ready'";
    let insert = "INSERT INTO jobs (customer, run_at, state, attempts, fence) VALUES (7, now(), 'ready', 0, 0)
        ON CONFLICT (customer) WHERE state = 'ready' DO NOTHING RETURNING id";
    let outcome = async {
        if let Some(new) = sqlx::query(insert).fetch_optional(&pool).await? {
            return new.try_get::<i64, _>(0);
        }
        sqlx::query(waiting).fetch_one(&pool).await?.try_get(0)
    };
    let outcome = outcome.await;
    pool.close().await;
    match outcome {
        Ok(id) => Did::Enqueued(id, true),
        Err(error) => Did::Failed(error.to_string()),
    }
}

#[tokio::test]
async fn who_looks_once_finds_no_row() {
    let schema = format!("{TABLE} {}", Job::ddl::<sqlx::Postgres>());
    let verdict = explorer(&schema, SETUP)
        .await
        .actor("ann", inserts_and_looks)
        .actor("cal", works)
        .invariant(all_know)
        .explore()
        .await;
    failed("queue: unique enqueue, one look", verdict.unwrap());
}
