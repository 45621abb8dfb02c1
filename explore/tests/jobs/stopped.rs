//! `Queue`: jobs that are cancelled while they are worked on, and queues that are paused while they are claimed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rowlock::queue::{Cancelled, FinishError, QueueState};
use rowlock::{Fence, Queue, transaction};
use rowlock_explore::{Actor, Ended};
use sqlx::{Connection, PgConnection};

use super::{End, FAULTS, explorer, failed, goes_on, passed, pool, preemptions};

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", pauses = "job_pauses", backend(Postgres))]
struct Job {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    tenant: i64,
    #[rowlock(run_at)]
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

const SCHEMA: &str = "
    CREATE TABLE jobs (
        id bigint PRIMARY KEY, tenant bigint NOT NULL DEFAULT 1, run_at timestamptz NOT NULL DEFAULT '2000-01-01', state text NOT NULL DEFAULT 'ready',
        attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamptz);
    CREATE TABLE job_pauses AS SELECT tenant, now() AS paused_at FROM jobs WHERE false;
    CREATE UNIQUE INDEX ON job_pauses ((ARRAY[tenant]));
    CREATE TABLE effects (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, job bigint NOT NULL)";

const SETUP: &str = "DELETE FROM effects; DELETE FROM job_pauses; DELETE FROM jobs; INSERT INTO jobs (id) VALUES (1), (2)";

/// What an actor says of job 1.
#[derive(Debug)]
enum Said {
    Finished(End),
    Cancelled(Option<Cancelled>),
}

/// How a worker finishes the job.
#[derive(Clone, Copy)]
enum Finish {
    Complete,
    CompleteIn,
}

/// The error of the transaction.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("cannot write the effect")]
    Write(#[from] sqlx::Error),
    #[error("cannot finish the job")]
    Finish(#[from] FinishError),
}

async fn worker(actor: Actor, finish: Finish) -> (Said, bool) {
    let pool = pool(&actor);
    let claimed = actor.may_drop(async { Job::claim(&pool, 1).await }).await;
    let mut end = End::Not;
    for job in claimed.and_then(Result::ok).unwrap_or_default() {
        end = match finish {
            Finish::Complete => End::of(actor.may_drop(job.complete(&pool)).await),
            Finish::CompleteIn => {
                let run = transaction(&pool).backoff(Duration::ZERO, Duration::ZERO);
                let run = run.run(async |tx| {
                    sqlx::query("INSERT INTO effects (job) VALUES ($1)")
                        .bind(job.id)
                        .execute(&mut *tx)
                        .await?;
                    job.complete_in(&mut *tx).await?;
                    Ok::<_, Failed>(())
                });
                End::of(actor.may_drop(run).await)
            }
        };
    }
    let goes_on = goes_on(&pool).await;
    pool.close().await;
    (Said::Finished(end), goes_on)
}

async fn cancels(actor: Actor) -> (Said, bool) {
    let pool = pool(&actor);
    let cancelled = actor.may_drop(Job::cancel(&pool, 1)).await;
    let goes_on = goes_on(&pool).await;
    pool.close().await;
    (Said::Cancelled(cancelled.and_then(Result::ok)), goes_on)
}

/// One of the two wins: the job is done, with its effect, or cancelled, and each knows.
async fn one_wins(ended: Ended<(Said, bool)>, effects: bool) -> Result<(), String> {
    if ended.returned().any(|(_, goes_on)| !goes_on) {
        return Err("a pool does not go on".to_owned());
    }
    let row = ended
        .rows("SELECT state, (SELECT count(*) FROM effects WHERE job = 1) FROM jobs WHERE id = 1");
    let row: Vec<String> = row
        .await?
        .into_iter()
        .flatten()
        .map(Option::unwrap_or_default)
        .collect();
    let [state, written] = row.as_slice() else {
        return Err(format!("{row:?}"));
    };
    let done = state == "done";
    if effects && written.parse() != Ok(usize::from(done)) {
        return Err(format!("{state}, with {written} effects"));
    }
    for (said, _) in ended.returned() {
        let holds = match said {
            Said::Finished(End::Done) => done,
            // It may have had the other job.
            Said::Finished(End::Not) => true,
            Said::Finished(End::Unknown) => true,
            Said::Cancelled(Some(Cancelled::Now)) => state == "dead",
            Said::Cancelled(Some(Cancelled::Ended)) => done,
            Said::Cancelled(Some(Cancelled::NotFound)) => false,
            Said::Cancelled(None) => true,
        };
        if !holds {
            return Err(format!("{said:?}, and it is {state}"));
        }
    }
    Ok(())
}

/// The only job.
const ONE: &str = "DELETE FROM jobs WHERE id = 2";

#[tokio::test]
async fn cancel_against_finish() {
    for (finish, effects, name) in [
        (Finish::Complete, false, "complete"),
        (Finish::CompleteIn, true, "complete_in"),
    ] {
        for faults in [&[][..], &FAULTS[..]] {
            let mut explorer = explorer(SCHEMA, SETUP)
                .await
                .setup(ONE)
                .actor("ann", move |actor| worker(actor, finish))
                .actor("bob", cancels)
                .invariant(move |ended| one_wins(ended, effects));
            let mut with = "";
            if !faults.is_empty() {
                explorer = explorer
                    .faults(faults.iter().copied())
                    .preemptions(preemptions());
                with = ", faults";
            }
            let verdict = explorer.explore().await.unwrap();
            passed(
                &format!("queue: cancel against {name}, 2 actors{with}"),
                verdict,
            );
        }
    }
}

/// By hand: read the state, and then write it.
#[tokio::test]
async fn look_then_cancel_cancels_what_is_done() {
    async fn finishes(actor: Actor) -> Result<bool, sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let mut tx = connection.begin().await?;
        sqlx::query("INSERT INTO effects (job) VALUES (1)")
            .execute(&mut *tx)
            .await?;
        let finished = "UPDATE jobs SET state = 'done' WHERE id = 1 AND state <> 'dead'";
        let finished = sqlx::query(finished)
            .execute(&mut *tx)
            .await?
            .rows_affected()
            == 1;
        match finished {
            true => tx.commit().await?,
            false => tx.rollback().await?,
        }
        connection.close().await?;
        Ok(finished)
    }
    async fn cancels(actor: Actor) -> Result<bool, sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let state: String = sqlx::query_scalar("SELECT state FROM jobs WHERE id = 1")
            .fetch_one(&mut connection)
            .await?;
        let open = state == "ready";
        if open {
            sqlx::query("UPDATE jobs SET state = 'dead' WHERE id = 1")
                .execute(&mut connection)
                .await?;
        }
        connection.close().await?;
        Ok(open)
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", finishes)
        .actor("bob", cancels)
        .never("SELECT id FROM jobs WHERE state = 'dead' AND id IN (SELECT job FROM effects)")
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("queue: SELECT the state, then cancel", verdict);
}

/// What an actor has seen.
#[derive(Debug)]
struct Saw {
    /// Jobs that began after the pause was acknowledged.
    begun: i64,
    goes_on: bool,
}

/// Pauses, and counts the jobs that begin after that.
async fn pauses(actor: Actor) -> Saw {
    const RUNNING: &str = "SELECT count(*) FROM jobs WHERE state = 'running'";
    let pool = pool(&actor);
    let running = || async { sqlx::query_scalar::<_, i64>(RUNNING).fetch_one(&pool).await };
    let pause = async { Job::pause(&pool).only(Job::TENANT, 1).await };
    let mut begun = 0;
    if let Some(Ok(_)) = actor.may_drop(pause).await
        && let (Ok(before), Ok(after)) = (running().await, running().await)
    {
        begun = after - before;
    }
    let goes_on = goes_on(&pool).await;
    pool.close().await;
    Saw { begun, goes_on }
}

async fn none_begins(ended: Ended<Saw>) -> Result<(), String> {
    if ended.returned().any(|saw| !saw.goes_on) {
        return Err("a pool does not go on".to_owned());
    }
    match ended.returned().find(|saw| saw.begun != 0) {
        Some(saw) => Err(format!("{saw:?}: begun after the pause")),
        None => Ok(()),
    }
}

#[tokio::test]
async fn pause_against_claim() {
    async fn claims(actor: Actor) -> Saw {
        let pool = pool(&actor);
        let _ = actor.may_drop(async { Job::claim(&pool, 1).await }).await;
        let goes_on = goes_on(&pool).await;
        pool.close().await;
        Saw { begun: 0, goes_on }
    }
    for faults in [&[][..], &FAULTS[..]] {
        let mut explorer = explorer(SCHEMA, SETUP)
            .await
            .actor("ann", pauses)
            .actor("bob", claims)
            .invariant(none_begins);
        let mut with = "";
        if !faults.is_empty() {
            explorer = explorer
                .faults(faults.iter().copied())
                .preemptions(preemptions());
            with = ", faults";
        }
        let verdict = explorer.explore().await.unwrap();
        passed(
            &format!("queue: pause against claim, 2 actors{with}"),
            verdict,
        );
    }
}

/// Two who pause, and one who resumes: there is one pause or none, and each knows what it did.
#[tokio::test]
async fn pause_against_pause_and_resume() {
    async fn pauses(actor: Actor) -> Option<bool> {
        let pool = pool(&actor);
        let paused = Job::pause(&pool).only(Job::TENANT, 1).await.ok();
        pool.close().await;
        paused
    }
    async fn resumes(actor: Actor) -> Option<bool> {
        let pool = pool(&actor);
        let resumed = Job::resume(&pool).only(Job::TENANT, 1).await.ok();
        pool.close().await;
        resumed.map(|resumed| !resumed)
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", pauses)
        .actor("bob", pauses)
        .actor("cal", resumes)
        .invariant(|ended: Ended<Option<bool>>| async move {
            let rows = ended.rows("SELECT count(*) FROM job_pauses").await?;
            let count = rows.into_iter().flatten().flatten().next();
            match count.as_deref() {
                Some("0" | "1") if ended.returned().all(Option::is_some) => Ok(()),
                count => Err(format!("{count:?} pauses")),
            }
        })
        .explore()
        .await
        .unwrap();
    passed("queue: pause against pause and resume, 3 actors", verdict);
}

/// By hand: look whether the queue is paused, and then claim.
#[tokio::test]
async fn look_then_claim_gives_out_a_paused_job() {
    async fn claims(actor: Actor) -> Saw {
        let pool = pool(&actor);
        let look = sqlx::query_scalar("SELECT EXISTS (SELECT FROM job_pauses)");
        if let Ok(false) = look.fetch_one(&pool).await {
            let claim = "UPDATE jobs SET state = 'running' WHERE id = 1 AND state = 'ready'";
            let _ = sqlx::query(claim).execute(&pool).await;
        }
        let goes_on = goes_on(&pool).await;
        pool.close().await;
        Saw { begun: 0, goes_on }
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", pauses)
        .actor("bob", claims)
        .invariant(none_begins)
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("queue: SELECT the pauses, then claim", verdict);
}
