//! `AdvisoryLock`: one at a time, and free after whatever happened.

use rowlock::lock::{AdvisoryLock, AdvisoryLockError};
use rowlock::{Tx, transaction};
use rowlock_explore::{Actor, Ended};
use sqlx::{Connection, PgConnection, Postgres};

use super::{End, FAULTS, adds_up, explorer, failed, goes_on_unlocked, passed, pool, preemptions};

pub(super) const SCHEMA: &str = "CREATE TABLE numbers (id int PRIMARY KEY, n int NOT NULL); CREATE TABLE locks (name text NOT NULL)";
pub(super) const SETUP: &str =
    "DELETE FROM numbers; DELETE FROM locks; INSERT INTO numbers VALUES (1, 0)";
pub(super) const READ: &str = "SELECT n FROM numbers WHERE id = 1";
pub(super) const STORE: &str = "UPDATE numbers SET n = $1 WHERE id = 1";

/// Whether the number was raised, and whether the pool goes on.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) end: End,
    pub(super) goes_on: bool,
}

/// Every reader has seen what the one before has stored: nobody was there at the same time.
pub(super) async fn one_at_a_time(ended: Ended<Said>) -> Result<(), String> {
    if ended.returned().any(|said| !said.goes_on) {
        return Err("a pool does not go on, or has a lock left".to_owned());
    }
    let held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let held = ended.rows(held).await?;
    if !held.is_empty() {
        return Err("a lock is left".to_owned());
    }
    let n = ended.value(READ).await?.parse().unwrap_or_default();
    adds_up(n, ended.returned().map(|said| said.end))
}

async fn raise(tx: &mut Tx<Postgres>) -> Result<(), sqlx::Error> {
    let n: i32 = sqlx::query_scalar(READ).fetch_one(&mut *tx).await?;
    sqlx::query(STORE).bind(n + 1).execute(&mut *tx).await?;
    Ok(())
}

async fn runs(actor: Actor) -> Said {
    let pool = pool(&actor);
    let raised = AdvisoryLock::new("numbers").run(&pool, async |tx| raise(tx).await);
    let end = End::of(actor.may_drop(raised).await);
    let goes_on = goes_on_unlocked(&pool).await;
    pool.close().await;
    Said { end, goes_on }
}

async fn tries(actor: Actor) -> Said {
    let pool = pool(&actor);
    let raised = AdvisoryLock::new("numbers").try_run(&pool, async |tx| raise(tx).await);
    let raised: Option<Result<Option<()>, AdvisoryLockError<sqlx::Error>>> =
        actor.may_drop(raised).await;
    let end = match raised {
        Some(Ok(None)) => End::Not,
        raised => End::of(raised),
    };
    let goes_on = goes_on_unlocked(&pool).await;
    pool.close().await;
    Said { end, goes_on }
}

/// The lock as the first thing of a transaction of the caller.
async fn locks(actor: Actor) -> Said {
    let pool = pool(&actor);
    let raised = transaction(&pool).attempts(1).run(async |tx| {
        AdvisoryLock::new("numbers").lock(&mut *tx).await?;
        raise(tx).await?;
        Ok::<_, rowlock::Error>(())
    });
    let end = End::of(actor.may_drop(raised).await);
    let goes_on = goes_on_unlocked(&pool).await;
    pool.close().await;
    Said { end, goes_on }
}

#[tokio::test]
async fn run_against_run() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", runs)
        .actor("bob", runs)
        .invariant(one_at_a_time)
        .invariant(|ended: Ended<Said>| async move {
            match ended.returned().all(|said| said.end == End::Done) {
                true => Ok(()),
                false => Err("not everybody had a turn"),
            }
        })
        .explore()
        .await
        .unwrap();
    passed("advisory lock: run against run, 2 actors", verdict);
}

#[tokio::test]
async fn three_run_one_at_a_time() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", runs)
        .actor("bob", runs)
        .actor("cal", tries)
        .invariant(one_at_a_time)
        .preemptions(1)
        .explore()
        .await
        .unwrap();
    passed("advisory lock: run, run and try_run, 3 actors", verdict);
}

#[tokio::test]
async fn run_with_faults() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", runs)
        .actor("bob", runs)
        .invariant(one_at_a_time)
        .faults(FAULTS)
        .preemptions(preemptions())
        .explore()
        .await
        .unwrap();
    passed("advisory lock: run against run, 2 actors, faults", verdict);
}

#[tokio::test]
async fn try_run_against_lock() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", tries)
        .actor("bob", locks)
        .invariant(one_at_a_time)
        .preemptions(2)
        .explore()
        .await
        .unwrap();
    passed(
        "advisory lock: try_run against lock in a transaction, 2 actors",
        verdict,
    );
}

#[tokio::test]
async fn a_lock_row_that_is_read_first_has_two_holders() {
    async fn holds(actor: Actor) -> Result<Said, sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let free: bool =
            sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM locks WHERE name = 'numbers')")
                .fetch_one(&mut connection)
                .await?;
        if free {
            sqlx::query("INSERT INTO locks VALUES ('numbers')")
                .execute(&mut connection)
                .await?;
            let n: i32 = sqlx::query_scalar(READ).fetch_one(&mut connection).await?;
            sqlx::query(STORE)
                .bind(n + 1)
                .execute(&mut connection)
                .await?;
            sqlx::query("DELETE FROM locks")
                .execute(&mut connection)
                .await?;
        }
        connection.close().await?;
        let end = if free { End::Done } else { End::Not };
        Ok(Said { end, goes_on: true })
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", holds)
        .actor("bob", holds)
        .invariant(|ended: Ended<Result<Said, sqlx::Error>>| async move {
            let n = ended.value(READ).await?.parse().unwrap_or_default();
            adds_up(n, ended.returned().flatten().map(|said| said.end))
        })
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("advisory lock: a row that is read, then inserted", verdict);
}

/// The lock is freed before COMMIT, and the next one reads what was there before.
#[tokio::test]
async fn unlocking_before_commit_loses_an_update() {
    async fn holds(actor: Actor) -> Result<Said, sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let mut tx = connection.begin().await?;
        sqlx::query("SELECT pg_advisory_lock(7)")
            .execute(&mut *tx)
            .await?;
        let n: i32 = sqlx::query_scalar(READ).fetch_one(&mut *tx).await?;
        sqlx::query(STORE).bind(n + 1).execute(&mut *tx).await?;
        sqlx::query("SELECT pg_advisory_unlock(7)")
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        connection.close().await?;
        Ok(Said {
            end: End::Done,
            goes_on: true,
        })
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", holds)
        .actor("bob", holds)
        .never("SELECT n FROM numbers WHERE n <> 2")
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = failed("advisory lock: unlocked before COMMIT", verdict);
    assert!(failure.anomaly().starts_with("lost update"), "{failure}");
}
