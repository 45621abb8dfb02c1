//! `Periodic`: a tick is made once, with what is written for it, whoever else makes it or starts another schedule.

use std::convert::Infallible;

use rowlock::Tx;
use rowlock::queue::{Periodic, Schedule, Tick, TickError, Ticked};
use rowlock::tx::TransactionError;
use rowlock_explore::{Actor, Ended};
use sqlx::{Connection, PgConnection, PgPool, Postgres};

use super::{End, FAULTS, adds_up, explorer, failed, goes_on, passed, pool, preemptions};

const OLD: &str = "0 0 1 1 *";
const NEW: &str = "0 12 1 * *";
/// A tick is due.
const SETUP: &str = "DELETE FROM jobs; DELETE FROM rowlock_schedules;
    INSERT INTO rowlock_schedules VALUES ('job', '0 0 1 1 * UTC', '2020-01-01 00:00:00Z')";
const INSERT: &str = "INSERT INTO jobs (tick) VALUES ($1)";
const TWICE: &str = "SELECT tick FROM jobs GROUP BY tick HAVING count(*) > 1";

fn schema() -> String {
    let table = Schedule::ddl::<Postgres>();
    format!(
        "CREATE TABLE jobs (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, tick bigint NOT NULL); {table}"
    )
}

fn job(pool: &PgPool, schedule: &str) -> Periodic<Postgres> {
    let schedule = Schedule::cron(schedule).expect("a schedule");
    Periodic::new(pool, "job", schedule)
}

async fn enqueue(tx: &mut Tx<Postgres>, tick: Tick) -> Result<(), sqlx::Error> {
    let insert = sqlx::query(INSERT).bind(tick.time().timestamp());
    insert.execute(&mut *tx).await.map(drop)
}

/// What became of a call.
#[derive(Debug)]
struct Said {
    end: End,
    error: Option<String>,
    goes_on: bool,
}

impl Said {
    fn of(ticked: Option<Result<Ticked, TickError<sqlx::Error>>>, goes_on: bool) -> Self {
        let end = match &ticked {
            Some(Ok(Ticked { made: 0, .. })) => End::Not,
            Some(Ok(_)) => End::Done,
            Some(Err(TickError::Transaction(TransactionError::CommitUnknown(_)))) | None => {
                End::Unknown
            }
            Some(Err(_)) => End::Not,
        };
        let error = ticked.and_then(Result::err).map(|error| error.to_string());
        Self {
            end,
            error,
            goes_on,
        }
    }
}

async fn ticks(actor: Actor) -> Said {
    let pool = pool(&actor);
    let mut job = job(&pool, OLD);
    let ticked = job.tick(async |tx, tick| enqueue(tx, tick).await);
    let ticked = actor.may_drop(ticked).await;
    let goes_on = goes_on(&pool).await;
    pool.close().await;
    Said::of(ticked, goes_on)
}

/// A deployment with another schedule.
async fn starts_another(actor: Actor) -> Said {
    let pool = pool(&actor);
    let mut job = job(&pool, NEW);
    let ticked = actor.may_drop(job.tick(async |tx, tick| enqueue(tx, tick).await));
    let ticked = ticked.await;
    let goes_on = goes_on(&pool).await;
    pool.close().await;
    Said::of(ticked, goes_on)
}

/// The job is there if and only if the row was moved on, and somebody was told so.
async fn once(ended: Ended<Said>) -> Result<(), String> {
    let jobs = ended.value("SELECT count(*) FROM jobs").await?;
    let moved = ended.value("SELECT count(*) FROM rowlock_schedules WHERE schedule = '0 0 1 1 * UTC' AND next_tick > now()").await?;
    if jobs != moved {
        return Err(format!("{jobs} jobs, {moved} moved"));
    }
    if ended.returned().any(|said| !said.goes_on) {
        return Err("a pool does not go on".to_owned());
    }
    let jobs = jobs.parse().unwrap_or_default();
    adds_up(jobs, ended.returned().map(|said| said.end))
}

/// Nobody fails, and the tick is made.
async fn all_is_well(ended: Ended<Said>) -> Result<(), String> {
    if let Some(said) = ended.returned().find(|said| said.error.is_some()) {
        return Err(format!("{said:?}"));
    }
    match ended.returned().any(|said| said.end == End::Done) {
        true => Ok(()),
        false => Err("nobody made the tick".to_owned()),
    }
}

#[tokio::test]
async fn tick_against_tick() {
    for actors in [2, 3] {
        let mut explorer = explorer(&schema(), SETUP).await;
        for name in ["ann", "bob", "cal"].into_iter().take(actors) {
            explorer = explorer.actor(name, ticks);
        }
        if actors > 2 {
            explorer = explorer.preemptions(1);
        }
        let verdict = explorer.invariant(once).invariant(all_is_well).never(TWICE);
        let subject = format!("periodic: tick against tick, {actors} actors");
        passed(&subject, verdict.explore().await.unwrap());
    }
}

#[tokio::test]
async fn tick_with_faults() {
    let verdict = explorer(&schema(), SETUP)
        .await
        .actor("ann", ticks)
        .actor("bob", ticks)
        .invariant(once)
        .faults(FAULTS)
        .preemptions(preemptions())
        .explore()
        .await
        .unwrap();
    passed("periodic: tick against tick, 2 actors, faults", verdict);
}

/// The row has the tick of its own schedule, and what one schedule has missed is not made by the other.
async fn one_schedule(ended: Ended<Said>) -> Result<(), String> {
    if let Some(said) = ended.returned().find(|said| said.error.is_some()) {
        return Err(format!("{said:?}"));
    }
    let row = "SELECT schedule, extract(hour FROM next_tick AT TIME ZONE 'UTC')::int, next_tick > now() FROM rowlock_schedules";
    let rows = ended.rows(row).await?;
    let row: Vec<_> = rows
        .iter()
        .flatten()
        .flatten()
        .map(String::as_str)
        .collect();
    if !matches!(
        row[..],
        ["0 0 1 1 * UTC", "0", "t"] | ["0 12 1 * * UTC", "12", "t"]
    ) {
        return Err(format!("{row:?}"));
    }
    let jobs = ended.value("SELECT count(*) FROM jobs").await?;
    let jobs = jobs.parse().unwrap_or_default();
    adds_up(jobs, ended.returned().map(|said| said.end))
}

#[tokio::test]
async fn tick_against_another_schedule() {
    let verdict = explorer(&schema(), SETUP)
        .await
        .actor("ann", ticks)
        .actor("bob", starts_another)
        .invariant(one_schedule)
        .never(TWICE)
        .explore()
        .await
        .unwrap();
    passed("periodic: tick against another schedule, 2 actors", verdict);
}

const NEXT: &str = "SELECT next_tick <= now() FROM rowlock_schedules WHERE name = 'job'";
const MOVE: &str =
    "UPDATE rowlock_schedules SET next_tick = '2999-01-01 00:00:00Z' WHERE name = 'job'";

/// Reads that a tick is due, then writes the job and moves the row, in one transaction.
async fn reads_then_writes(actor: Actor) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(actor.url()).await?;
    let is_due: bool = sqlx::query_scalar(NEXT).fetch_one(&mut connection).await?;
    if is_due {
        let mut tx = connection.begin().await?;
        sqlx::query(INSERT).bind(1_i64).execute(&mut *tx).await?;
        sqlx::query(MOVE).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    connection.close().await
}

#[tokio::test]
async fn who_reads_first_makes_a_tick_twice() {
    let verdict = explorer(&schema(), SETUP)
        .await
        .actor("ann", reads_then_writes)
        .actor("bob", reads_then_writes)
        .never(TWICE)
        .explore()
        .await
        .unwrap();
    failed("periodic: SELECT the tick, then make it", verdict);
}

async fn starts_by_hand(actor: Actor) -> Result<(), sqlx::Error> {
    let pool = pool(&actor);
    let nothing = async |_: &mut Tx<Postgres>, _| Ok::<_, Infallible>(());
    let started = job(&pool, NEW).tick(nothing).await;
    pool.close().await;
    started.map(drop).map_err(|_| sqlx::Error::WorkerCrashed)
}

#[tokio::test]
async fn who_looks_at_no_schedule_moves_that_of_another() {
    const MIXED: &str = "SELECT schedule, next_tick FROM rowlock_schedules WHERE schedule = '0 12 1 * * UTC' AND next_tick > '2900-01-01'";
    let verdict = explorer(&schema(), SETUP)
        .await
        .actor("ann", reads_then_writes)
        .actor("bob", starts_by_hand)
        .never(MIXED)
        .explore()
        .await
        .unwrap();
    failed("periodic: the row is moved by its name", verdict);
}
