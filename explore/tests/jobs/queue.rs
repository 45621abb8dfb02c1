//! `Queue`: every row is one worker's at a time, and is finished once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rowlock::queue::{ClaimError, Claimed, FinishError, QueueState};
use rowlock::tx::TransactionError;
use rowlock::{Fence, Queue, transaction};
use rowlock_explore::{Actor, Ended};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};

use super::{
    End, FAULTS, LATER, LEASE, adds_up, explorer, failed, goes_on, passed, pool, preemptions,
};

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", backend(Postgres))]
struct Job {
    #[rowlock(key)]
    id: i64,
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
    #[rowlock(last_error)]
    last_error: Option<String>,
}

const SCHEMA: &str = "
    CREATE TABLE jobs (
        id bigint PRIMARY KEY, run_at timestamptz NOT NULL DEFAULT '2000-01-01', state text NOT NULL DEFAULT 'ready',
        attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until timestamptz, last_error text);
    CREATE TABLE effects (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, job bigint NOT NULL, worker text NOT NULL, fence bigint)";

fn setup(jobs: i64) -> String {
    format!(
        "DELETE FROM effects; DELETE FROM jobs; INSERT INTO jobs (id) SELECT generate_series(1, {jobs})"
    )
}

/// What a worker says: the jobs that it has had, and how each ended.
#[derive(Debug, Default)]
struct Said {
    jobs: Vec<(i64, End)>,
    /// What each of its claims had to tell it from others.
    fences: Vec<(i64, i64)>,
    goes_on: bool,
}

/// Done is done once, nothing is lost, and all of that is known.
async fn each_once(ended: Ended<Said>, writes: bool) -> Result<(), String> {
    let rows = ended
        .rows("SELECT id, state, attempts, (SELECT count(*) FROM effects WHERE job = jobs.id), leased_until IS NULL, EXISTS (SELECT FROM effects WHERE job = jobs.id AND effects.fence <> jobs.fence) FROM jobs ORDER BY id")
        .await?;
    if ended.returned().any(|said| !said.goes_on) {
        return Err("a pool does not go on".to_owned());
    }
    let fences: Vec<_> = ended.returned().flat_map(|said| &said.fences).collect();
    if fences.iter().collect::<BTreeSet<_>>().len() < fences.len() {
        return Err(format!("two claims have one fence: {fences:?}"));
    }
    for row in rows {
        let row: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
        let [id, state, attempts, effects, unleased, late] = row.as_slice() else {
            return Err(format!("{row:?}"));
        };
        let ends = ended
            .returned()
            .flat_map(|said| &said.jobs)
            .filter(|(job, _)| job.to_string() == *id)
            .map(|(_, end)| *end);
        let done = usize::from(state == "done");
        adds_up(done, ends).map_err(|why| format!("job {id}, {state}: {why}"))?;
        if writes && effects.parse() != Ok(done) {
            return Err(format!("job {id}, {state}, has {effects} effects"));
        }
        if late == "t" {
            return Err(format!("job {id} was finished by a claim that was over"));
        }
        if state == "running" && unleased == "t" {
            return Err(format!("job {id} is running for ever"));
        }
        if attempts.parse::<i32>().is_ok_and(|attempts| attempts > 2) {
            return Err(format!("job {id} has had {attempts} attempts"));
        }
    }
    Ok(())
}

/// The error of a worker's transaction.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("cannot write the effect")]
    Write(#[from] sqlx::Error),
    #[error("cannot finish the job")]
    Finish(#[from] FinishError),
}

/// The effect and its completion in one transaction.
async fn work(
    pool: &PgPool,
    worker: &str,
    job: &Claimed<Job>,
) -> Result<(), TransactionError<Failed>> {
    transaction(pool)
        .backoff(Duration::ZERO, Duration::ZERO)
        .run(async |tx| {
            sqlx::query("INSERT INTO effects (job, worker, fence) VALUES ($1, $2, $3)")
                .bind(job.id)
                .bind(worker)
                .bind(job.fence.get())
                .execute(&mut *tx)
                .await?;
            job.complete_in(&mut *tx).await?;
            Ok::<_, Failed>(())
        })
        .await
}

/// What a worker does.
#[derive(Clone, Copy)]
struct Plan {
    limit: usize,
    /// It takes back first what is over.
    rescues: bool,
    lease: Duration,
    /// It writes an effect, in one transaction with the completion.
    writes: bool,
}

const PLAN: Plan = Plan {
    limit: 1,
    rescues: false,
    lease: LEASE,
    writes: false,
};
/// Whoever claims after this one's lease, which has ended when it begins.
const RESCUES: Plan = Plan {
    rescues: true,
    ..PLAN
};

async fn worker(actor: Actor, plan: Plan) -> Said {
    let pool = pool(&actor);
    let mut said = Said::default();
    if plan.rescues {
        let _ = actor.may_drop(Job::rescue(&pool)).await;
    }
    let claim = async { Job::claim(&pool, plan.limit).lease(plan.lease).await };
    let claimed = actor.may_drop(claim).await;
    for job in claimed.and_then(Result::ok).unwrap_or_default() {
        let id = job.id;
        said.fences.push((id, job.fence.get()));
        let end = if plan.writes {
            End::of(actor.may_drop(work(&pool, actor.name(), &job)).await)
        } else {
            End::of(actor.may_drop(job.complete(&pool)).await)
        };
        said.jobs.push((id, end));
    }
    said.goes_on = goes_on(&pool).await;
    pool.close().await;
    said
}

#[tokio::test]
async fn claim_against_claim() {
    for (limit, jobs, actors) in [(1, 2, 2), (2, 3, 2), (1, 2, 3)] {
        let mut explorer = explorer(SCHEMA, &setup(jobs)).await;
        for name in ["ann", "bob", "cal"].into_iter().take(actors) {
            explorer = explorer.actor(name, move |actor| worker(actor, Plan { limit, ..PLAN }));
        }
        let all = move |ended: Ended<Said>| async move {
            let given = ended.returned().map(|said| said.jobs.len()).sum::<usize>();
            let due = usize::try_from(jobs)
                .unwrap_or_default()
                .min(limit * actors);
            match given == due {
                true => each_once(ended, false).await,
                false => Err(format!("{given} jobs were given out, and {due} were due")),
            }
        };
        let verdict = explorer.invariant(all).explore().await.unwrap();
        let subject = format!("queue: claim {limit} of {jobs} against claim, {actors} actors");
        passed(&subject, verdict);
    }
}

/// A claim passes over the rows of another transaction that is open: one that had to wait would fail after a millisecond.
#[tokio::test]
async fn claim_against_claim_in_transactions() {
    async fn claims(actor: Actor) -> Result<Vec<i64>, TransactionError<ClaimError>> {
        let options: PgConnectOptions = actor.url().parse().expect("the explorer's URL");
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(options.options([("lock_timeout", "1")]));
        let claimed = transaction(&pool)
            .run(async |tx| Job::claim(&mut *tx, 1).await)
            .await?;
        pool.close().await;
        Ok(claimed.iter().map(|job| job.id).collect())
    }
    for actors in [2, 3] {
        let mut explorer = explorer(SCHEMA, &setup(3)).await;
        for name in ["ann", "bob", "cal"].into_iter().take(actors) {
            explorer = explorer.actor(name, claims);
        }
        let verdict = explorer
            .invariant(
                |ended: Ended<Result<Vec<i64>, TransactionError<ClaimError>>>| async move {
                    let mut given: Vec<i64> =
                        ended.returned().flatten().flatten().copied().collect();
                    given.sort_unstable();
                    given.dedup();
                    match given.len() == ended.outcomes.len() {
                        true => Ok(()),
                        false => Err(format!("{given:?} were given to {}", ended.outcomes.len())),
                    }
                },
            )
            .explore()
            .await
            .unwrap();
        let subject = format!("queue: claim against claim in transactions, {actors} actors");
        passed(&subject, verdict);
    }
}

#[tokio::test]
async fn a_claim_and_its_completion_with_faults() {
    let verdict = explorer(SCHEMA, &setup(1))
        .await
        .actor("ann", |actor| worker(actor, PLAN))
        .actor("bob", |actor| worker(actor, PLAN))
        .invariant(|ended| each_once(ended, false))
        .faults(FAULTS)
        .explore()
        .await
        .unwrap();
    passed("queue: claim against claim, 2 actors, faults", verdict);
}

#[tokio::test]
async fn complete_against_rescue() {
    // Ann's lease has ended when it begins.
    let late = Plan {
        lease: Duration::ZERO,
        ..PLAN
    };
    let verdict = explorer(SCHEMA, &setup(1))
        .await
        .actor("ann", move |actor| {
            let writes = true;
            worker(actor, Plan { writes, ..late })
        })
        .actor("bob", |actor| {
            let writes = true;
            worker(actor, Plan { writes, ..RESCUES })
        })
        .invariant(|ended| each_once(ended, true))
        .explore()
        .await
        .unwrap();
    passed(
        "queue: complete_in against rescue and claim, 2 actors",
        verdict,
    );
}

#[tokio::test]
async fn complete_in_against_rescue_with_faults() {
    let late = Plan {
        lease: Duration::ZERO,
        writes: true,
        ..PLAN
    };
    let verdict = explorer(SCHEMA, &setup(1))
        .await
        .actor("ann", move |actor| worker(actor, late))
        .actor("bob", |actor: Actor| async move {
            let pool = pool(&actor);
            let _ = actor.may_drop(Job::rescue(&pool)).await;
            pool.close().await;
            Said {
                goes_on: true,
                ..Said::default()
            }
        })
        .invariant(|ended| each_once(ended, true))
        .faults(FAULTS)
        .preemptions(preemptions())
        .explore()
        .await
        .unwrap();
    passed(
        "queue: complete_in against rescue, 2 actors, faults",
        verdict,
    );
}

#[tokio::test]
async fn claim_against_rescue_when_the_clock_steps() {
    let taken_over = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&taken_over);
    let verdict = explorer(SCHEMA, &setup(1))
        .await
        .actor("ann", |actor| worker(actor, PLAN))
        .actor("bob", |actor| worker(actor, RESCUES))
        .invariant(move |ended: Ended<Said>| {
            let both = ended.returned().all(|said| !said.jobs.is_empty());
            seen.fetch_add(usize::from(both), Relaxed);
            each_once(ended, false)
        })
        .faults([LATER])
        .preemptions(1)
        .explore()
        .await
        .unwrap();
    passed(
        "queue: claim against rescue, 2 actors, the lease ends",
        verdict,
    );
    assert_ne!(
        taken_over.load(Relaxed),
        0,
        "in no schedule both had the job"
    );
}

/// A job without attempts left is not ready.
const TOO_MANY: &str = "SELECT id, attempts FROM jobs WHERE state = 'ready' AND attempts >= 2";

#[tokio::test]
async fn rescue_gives_no_attempt_that_is_not_left() {
    async fn rescues(actor: Actor) -> Said {
        let pool = pool(&actor);
        let _ = Job::rescue(&pool).await;
        pool.close().await;
        Said {
            goes_on: true,
            ..Said::default()
        }
    }
    let late = Plan {
        lease: Duration::ZERO,
        ..PLAN
    };
    let verdict = explorer(SCHEMA, &setup(1))
        .await
        .setup("UPDATE jobs SET attempts = 1")
        .actor("ann", move |actor| worker(actor, late))
        .actor("bob", rescues)
        .invariant(|ended| each_once(ended, false))
        .never(TOO_MANY)
        .explore()
        .await
        .unwrap();
    passed("queue: rescue after the last attempt, 2 actors", verdict);
}

/// Tries a job, and says that it has failed.
async fn fails(actor: Actor) -> Said {
    let pool = pool(&actor);
    let mut said = Said::default();
    let claimed = actor.may_drop(async { Job::claim(&pool, 1).await }).await;
    for job in claimed.and_then(Result::ok).unwrap_or_default() {
        let _ = actor
            .may_drop(job.retry_after(&pool, "no", Duration::ZERO))
            .await;
    }
    said.goes_on = goes_on(&pool).await;
    pool.close().await;
    said
}

#[tokio::test]
async fn retry_against_claim() {
    for (actors, faults, subject) in [
        (3, &[][..], "queue: retry against claim, 3 actors"),
        (
            2,
            &FAULTS[..],
            "queue: retry against claim, 2 actors, faults",
        ),
    ] {
        let mut explorer = explorer(SCHEMA, &setup(1))
            .await
            .actor("ann", fails)
            .actor("bob", |actor| worker(actor, PLAN));
        if actors == 3 {
            explorer = explorer.actor("cal", fails).preemptions(1);
        }
        let verdict = explorer
            .invariant(|ended| each_once(ended, false))
            .never(TOO_MANY)
            .faults(faults.iter().copied())
            .explore()
            .await
            .unwrap();
        passed(subject, verdict);
    }
}

#[tokio::test]
async fn extend_against_rescue_when_the_clock_steps() {
    /// Claims, asks for more time, and then finishes.
    async fn beats(actor: Actor) -> Said {
        let pool = pool(&actor);
        let mut said = Said {
            goes_on: true,
            ..Said::default()
        };
        for job in Job::claim(&pool, 1).lease(LEASE).await.unwrap_or_default() {
            let id = job.id;
            let end = match job.extend(&pool, LEASE).await {
                Ok(()) => End::of(Some(job.complete(&pool).await)),
                Err(_) => End::Not,
            };
            said.jobs.push((id, end));
        }
        pool.close().await;
        said
    }
    let verdict = explorer(SCHEMA, &setup(1))
        .await
        .actor("ann", beats)
        .actor("bob", |actor| worker(actor, RESCUES))
        .invariant(|ended| each_once(ended, false))
        .faults([LATER])
        .preemptions(1)
        .explore()
        .await
        .unwrap();
    passed(
        "queue: extend against rescue, 2 actors, the lease ends",
        verdict,
    );
}

/// A rescue takes no lease that goes on.
#[tokio::test]
async fn a_lease_that_goes_on_is_not_rescued() {
    async fn holds(actor: Actor) -> u64 {
        let pool = pool(&actor);
        let claimed = Job::claim(&pool, 1).lease(LEASE * 2).await;
        let lost = match claimed.ok().and_then(|mut claimed| claimed.pop()) {
            Some(job) => u64::from(job.complete(&pool).await.is_err()),
            None => 1,
        };
        pool.close().await;
        lost
    }
    async fn rescues(actor: Actor) -> u64 {
        let pool = pool(&actor);
        let rescued = Job::rescue(&pool)
            .await
            .map_or(1, |rescued| rescued.ready + rescued.dead);
        pool.close().await;
        rescued
    }
    let verdict = explorer(SCHEMA, &setup(1))
        .await
        .actor("ann", holds)
        .actor("bob", rescues)
        .invariant(|ended: Ended<u64>| async move {
            match ended.returned().sum() {
                0_u64 => Ok(()),
                _ => Err("a lease was taken away before its end"),
            }
        })
        .faults([LATER])
        .explore()
        .await
        .unwrap();
    passed(
        "queue: rescue against a lease that goes on, 2 actors, the clock steps",
        verdict,
    );
}

/// Runs `claim`, which returns a job, then writes the effect and runs `complete` in one transaction.
async fn by_hand(
    actor: Actor,
    claim: &'static str,
    complete: &'static str,
) -> Result<Said, sqlx::Error> {
    let mut connection = PgConnection::connect(actor.url()).await?;
    let mut said = Said {
        goes_on: true,
        ..Said::default()
    };
    let claimed: Vec<i64> = sqlx::query_scalar(claim).fetch_all(&mut connection).await?;
    for job in claimed {
        let mut tx = connection.begin().await?;
        sqlx::query("INSERT INTO effects (job, worker) VALUES ($1, $2)")
            .bind(job)
            .bind(actor.name())
            .execute(&mut *tx)
            .await?;
        sqlx::query(complete).bind(job).execute(&mut *tx).await?;
        tx.commit().await?;
        said.jobs.push((job, End::Done));
    }
    connection.close().await?;
    Ok(said)
}

const COMPLETE: &str = "UPDATE jobs SET state = 'done' WHERE id = $1";

/// What the workers by hand must never leave.
const DOUBLE: &str = "SELECT job, count(*) FROM effects GROUP BY job HAVING count(*) > 1";

#[tokio::test]
async fn select_then_update_gives_a_row_to_two() {
    async fn worker(actor: Actor) -> Result<Vec<i64>, sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let due: Vec<i64> =
            sqlx::query_scalar("SELECT id FROM jobs WHERE state = 'ready' ORDER BY id LIMIT 1")
                .fetch_all(&mut connection)
                .await?;
        for job in &due {
            sqlx::query("UPDATE jobs SET state = 'running' WHERE id = $1")
                .bind(job)
                .execute(&mut connection)
                .await?;
        }
        connection.close().await?;
        Ok(due)
    }
    let verdict = explorer(SCHEMA, &setup(2))
        .await
        .actor("ann", worker)
        .actor("bob", worker)
        .invariant(|ended: Ended<Result<Vec<i64>, sqlx::Error>>| async move {
            let mut given: Vec<i64> = ended.returned().flatten().flatten().copied().collect();
            given.sort_unstable();
            match given.windows(2).find(|pair| pair[0] == pair[1]) {
                Some(pair) => Err(format!("job {} was given to two", pair[0])),
                None => Ok(()),
            }
        })
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = failed("queue: SELECT, then UPDATE", verdict);
    assert_eq!(
        (failure.coverage.schedules, failure.coverage.failing),
        (6, 4)
    );
}

#[tokio::test]
async fn an_update_without_skip_locked_claims_a_row_twice() {
    const CLAIM: &str = "UPDATE jobs SET state = 'running', leased_until = now() + interval '1 minute', attempts = attempts + 1 \
        WHERE id = (SELECT id FROM jobs WHERE state = 'ready' ORDER BY id LIMIT 1) RETURNING id";
    async fn worker(actor: Actor) -> Result<Vec<i64>, sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let mut tx = connection.begin().await?;
        let claimed = sqlx::query_scalar(CLAIM).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        connection.close().await?;
        Ok(claimed)
    }
    let verdict = explorer(SCHEMA, &setup(2))
        .await
        .actor("ann", worker)
        .actor("bob", worker)
        .never("SELECT id, attempts FROM jobs WHERE attempts > 1")
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("queue: UPDATE WHERE id = (SELECT … LIMIT 1)", verdict);
}

/// A table of which the planner knows one row, as of a queue that was empty and then is not.
const BURST: &str = "
    ALTER TABLE jobs SET (autovacuum_enabled = off);
    INSERT INTO jobs (id) VALUES (1);
    ANALYZE jobs";

#[tokio::test]
async fn in_with_a_limit_claims_more_than_the_limit() {
    const CLAIM: &str = "UPDATE jobs SET state = 'running', leased_until = now() + interval '1 minute' \
        WHERE id IN (SELECT id FROM jobs WHERE state = 'ready' LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id";
    async fn worker(actor: Actor) -> Result<usize, sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let claimed = sqlx::query(CLAIM).fetch_all(&mut connection).await?;
        connection.close().await?;
        Ok(claimed.len())
    }
    let verdict = explorer(SCHEMA, &setup(5))
        .await
        .schema(BURST)
        .actor("ann", worker)
        .actor("bob", worker)
        .never("SELECT count(*) AS running FROM jobs WHERE state = 'running' HAVING count(*) > 2")
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed(
        "queue: IN (SELECT … LIMIT 1 FOR UPDATE SKIP LOCKED)",
        verdict,
    );

    let verdict = explorer(SCHEMA, &setup(5))
        .await
        .schema(BURST)
        .actor("ann", worker_once)
        .actor("bob", worker_once)
        .never("SELECT count(*) AS running FROM jobs WHERE state = 'running' HAVING count(*) <> 2")
        .exhaustive()
        .explore()
        .await
        .unwrap();
    passed(
        "queue: claim 1 of 5 of which the planner knows 1, 2 actors",
        verdict,
    );

    async fn worker_once(actor: Actor) -> Result<usize, sqlx::Error> {
        let pool = pool(&actor);
        let claimed = Job::claim(&pool, 1)
            .await
            .map_or(0, |claimed| claimed.len());
        pool.close().await;
        Ok(claimed)
    }
}

#[tokio::test]
async fn complete_without_a_fence_is_done_twice() {
    const CLAIM: &str = "UPDATE jobs SET state = 'running', leased_until = clock_timestamp() + interval '1 minute' WHERE id = \
        (SELECT id FROM jobs WHERE state = 'ready' OR (state = 'running' AND leased_until < clock_timestamp()) \
         ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id";
    let verdict = explorer(SCHEMA, &setup(1))
        .await
        .actor("ann", |actor| by_hand(actor, CLAIM, COMPLETE))
        .actor("bob", |actor| by_hand(actor, CLAIM, COMPLETE))
        .never(DOUBLE)
        .faults([LATER])
        .preemptions(1)
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("queue: complete without a fence, the lease ends", verdict);
}
