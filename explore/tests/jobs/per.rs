//! `Queue` with `per` and `sequence`: one running job of each customer, in order.

use chrono::{DateTime, Utc};
use rowlock::queue::{ClaimError, QueueState};
use rowlock::tx::TransactionError;
use rowlock::{Fence, Queue, transaction};
use rowlock_explore::{Actor, Ended};
use sqlx::{Connection, Executor, PgConnection};

use super::{explorer, failed, passed, pool};

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", backend(Postgres))]
struct Job {
    #[rowlock(key, sequence)]
    id: i64,
    #[rowlock(per)]
    customer: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

const SCHEMA: &str = "
    CREATE TABLE jobs (
        id bigint PRIMARY KEY, customer bigint NOT NULL, run_at timestamptz NOT NULL DEFAULT '2000-01-01', state text NOT NULL DEFAULT 'ready',
        attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamptz);
    CREATE TABLE log (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, job bigint NOT NULL, customer bigint NOT NULL)";
const SETUP: &str = "DELETE FROM log; DELETE FROM jobs; INSERT INTO jobs (id, customer) VALUES (2, 7), (3, 7), (4, 8)";
const TWO_RUN: &str = "SELECT customer, count(*) AS running FROM jobs WHERE state = 'running' GROUP BY customer HAVING count(*) > 1";
const OUT_OF_ORDER: &str = "SELECT one.job AS done, other.job AS after FROM log AS one, log AS other \
    WHERE one.customer = other.customer AND one.id < other.id AND one.job > other.job";

fn schema() -> String {
    format!("{SCHEMA}; {}", Job::ddl::<sqlx::Postgres>())
}

/// Claims, writes down what it has, and completes it; twice.
async fn works(actor: Actor) -> Result<Vec<i64>, rowlock::Error> {
    let pool = pool(&actor);
    let mut had = Vec::new();
    for _ in 0..2 {
        for job in Job::claim(&pool, 1).await? {
            sqlx::query("INSERT INTO log (job, customer) VALUES ($1, $2)")
                .bind(job.id)
                .bind(job.customer)
                .execute(&pool)
                .await?;
            had.push(job.id);
            job.complete(&pool).await?;
        }
    }
    pool.close().await;
    Ok(had)
}

async fn claims_in_a_transaction(actor: Actor) -> Result<Vec<i64>, TransactionError<ClaimError>> {
    let pool = pool(&actor);
    let claimed = transaction(&pool).run(async |tx| Job::claim(&mut *tx, 2).await);
    let claimed = claimed.await?.iter().map(|job| job.id).collect();
    pool.close().await;
    Ok(claimed)
}

/// A job that comes before the others.
async fn adds_an_earlier_one(actor: Actor) -> Result<Vec<i64>, TransactionError<ClaimError>> {
    let pool = pool(&actor);
    let added = pool
        .execute("INSERT INTO jobs (id, customer) VALUES (1, 7)")
        .await;
    assert!(added.is_ok(), "{added:?}");
    let claimed = Job::claim(&pool, 1).await;
    pool.close().await;
    Ok(claimed.iter().flatten().map(|job| job.id).collect())
}

#[tokio::test]
async fn claim_and_complete_against_the_same() {
    for actors in [2, 3] {
        let mut explorer = explorer(&schema(), SETUP).await;
        for name in ["ann", "bob", "cal"].into_iter().take(actors) {
            explorer = explorer.actor(name, works);
        }
        let verdict = explorer
            .preemptions(if actors > 2 { 1 } else { 2 })
            .invariant(
                |ended: Ended<Result<Vec<i64>, rowlock::Error>>| async move {
                    if let Some(error) = ended.returned().find_map(|result| result.as_ref().err()) {
                        return Err(error.to_string());
                    }
                    let wrong = ended.rows(OUT_OF_ORDER).await?;
                    let rest = ended
                        .rows("SELECT id FROM jobs WHERE state = 'running'")
                        .await?;
                    match (wrong.is_empty(), rest.is_empty()) {
                        (true, true) => Ok(()),
                        _ => Err(format!(
                            "out of order: {wrong:?}; running for ever: {rest:?}"
                        )),
                    }
                },
            )
            .explore()
            .await
            .unwrap();
        passed(
            &format!("queue: claim and complete in a sequence, {actors} actors"),
            verdict,
        );
    }
}

/// What is claimed stays claimed: nothing but the order of two claims and of an insert decides.
#[tokio::test]
async fn claims_against_a_claim_of_an_earlier_job() {
    for two in [false, true] {
        let mut explorer = explorer(&schema(), SETUP)
            .await
            .actor("ann", claims_in_a_transaction)
            .actor("cal", adds_an_earlier_one);
        if two {
            explorer = explorer
                .actor("bob", claims_in_a_transaction)
                .preemptions(1);
        }
        let verdict = explorer.never(TWO_RUN).explore().await.unwrap();
        let actors = if two { 3 } else { 2 };
        passed(
            &format!("queue: claims in transactions against an earlier job, {actors} actors"),
            verdict,
        );
    }
}

/// It looks whether one of the customer is running, and sees none of what others have claimed and not committed.
#[tokio::test]
async fn by_hand_two_of_a_customer_run() {
    const CLAIM: &str = "UPDATE jobs SET state = 'running' WHERE id = (SELECT id FROM jobs WHERE state = 'ready' AND NOT EXISTS \
        (SELECT 1 FROM jobs AS other WHERE other.customer = jobs.customer AND other.state = 'running') ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id";
    async fn claims(actor: Actor) -> Result<Vec<i64>, sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let mut tx = connection.begin().await?;
        let claimed = sqlx::query_scalar(CLAIM).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        connection.close().await?;
        Ok(claimed)
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", claims)
        .actor("bob", claims)
        .never(TWO_RUN)
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("queue: NOT EXISTS a running one … SKIP LOCKED", verdict);
}
