//! `SessionLock`: one at a time over several transactions, and free after whatever happened.

use rowlock::lock::{AcquireError, AdvisoryLock, SessionLock};
use rowlock_explore::{Actor, Fault};
use sqlx::PgPool;

use super::advisory::{READ, SCHEMA, SETUP, STORE, Said, one_at_a_time};
use super::{End, FAULTS, Tells, explorer, failed, goes_on_unlocked, passed, pool, preemptions};

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no lock")]
    Acquire(#[from] AcquireError),
    #[error("no answer")]
    Write(#[from] sqlx::Error),
}

impl Tells for Failed {
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Write(error) if error.is_unknown())
    }
}

/// Raises the number under the lock, on the connection that holds it: `None` if another one has it.
async fn raise(pool: &PgPool, waits: bool) -> Result<Option<()>, Failed> {
    let lock = AdvisoryLock::new("numbers");
    let held = match waits {
        true => Some(SessionLock::acquire(pool, &lock).await?),
        false => SessionLock::try_acquire(pool, &lock).await?,
    };
    let Some(mut held) = held else {
        return Ok(None);
    };
    let n: i32 = sqlx::query_scalar(READ).fetch_one(&mut *held).await?;
    sqlx::query(STORE).bind(n + 1).execute(&mut *held).await?;
    // What was written is, whatever becomes of the lock.
    let _ = held.release().await;
    Ok(Some(()))
}

async fn holds(actor: Actor, waits: bool) -> Said {
    let pool = pool(&actor);
    let end = match actor.may_drop(raise(&pool, waits)).await {
        Some(Ok(None)) => End::Not,
        raised => End::of(raised),
    };
    let goes_on = goes_on_unlocked(&pool).await;
    pool.close().await;
    Said { end, goes_on }
}

#[tokio::test]
async fn acquire_against_acquire() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", |actor| holds(actor, true))
        .actor("bob", |actor| holds(actor, true))
        .invariant(one_at_a_time)
        .preemptions(2)
        .explore()
        .await
        .unwrap();
    passed("session lock: acquire against acquire, 2 actors", verdict);
}

#[tokio::test]
async fn acquire_against_try_acquire() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", |actor| holds(actor, true))
        .actor("bob", |actor| holds(actor, false))
        .invariant(one_at_a_time)
        .preemptions(2)
        .explore()
        .await
        .unwrap();
    passed(
        "session lock: acquire against try_acquire, 2 actors",
        verdict,
    );
}

#[tokio::test]
async fn acquire_with_faults() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", |actor| holds(actor, true))
        .actor("bob", |actor| holds(actor, true))
        .invariant(one_at_a_time)
        .faults(FAULTS)
        .preemptions(preemptions())
        .explore()
        .await
        .unwrap();
    passed(
        "session lock: acquire against acquire, 2 actors, faults",
        verdict,
    );
}

/// A call that is dropped between lock and unlock leaves the lock on a connection of the pool.
#[tokio::test]
async fn a_dropped_call_leaves_the_lock_in_the_pool() {
    async fn raises(pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut connection = pool.acquire().await?;
        sqlx::query("SELECT pg_advisory_lock(7)")
            .execute(&mut *connection)
            .await?;
        let n: i32 = sqlx::query_scalar(READ).fetch_one(&mut *connection).await?;
        sqlx::query(STORE)
            .bind(n + 1)
            .execute(&mut *connection)
            .await?;
        sqlx::query("SELECT pg_advisory_unlock(7)")
            .execute(&mut *connection)
            .await?;
        Ok(())
    }
    async fn holds(actor: Actor) -> Said {
        let pool = pool(&actor);
        let end = End::of(actor.may_drop(raises(&pool)).await);
        let goes_on = goes_on_unlocked(&pool).await;
        pool.close().await;
        Said { end, goes_on }
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", holds)
        .invariant(one_at_a_time)
        .faults([Fault::DroppedBefore, Fault::DroppedAfter])
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("session lock: locked and unlocked by hand, faults", verdict);
}
