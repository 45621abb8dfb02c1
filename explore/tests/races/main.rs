//! Eight races that public services and queues really had, on tables like theirs: each is found by hand, and the rowlock form
//! holds under all schedules.
//!
//! `cargo test -p rowlock-explore --test races -- --nocapture` prints the table.

#![allow(missing_docs)]

mod batch;
mod device_code;
mod idempotency;
mod keywords;
mod queue;
mod refresh_token;
mod token_limit;
mod unfollow;

use std::fmt::Debug;
use std::time::Duration;

use rowlock_explore::{Actor, Ended, Explorer, Failure};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// Any error of a service.
type Error = Box<dyn std::error::Error + Send + Sync>;
/// What an actor of a service returns: whether it was let through.
type Result<T = bool, E = Error> = std::result::Result<T, E>;

/// The pool of a service, of one connection; a second one at once would be another story, that of `idempotency`.
async fn pool(actor: &Actor) -> Result<PgPool> {
    pool_of(actor, 1).await
}

async fn pool_of(actor: &Actor, connections: u32) -> Result<PgPool> {
    let options = PgPoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(2));
    Ok(options.connect(actor.url()).await?)
}

/// For an invariant: the first error that one of them returned.
fn nobody_fails<T>(ended: &Ended<Result<T>>) -> Result<(), String> {
    match ended.returned().find_map(|result| result.as_ref().err()) {
        None => Ok(()),
        Some(error) => Err(format!("somebody fails: {error}")),
    }
}

/// What is known of the form by hand.
struct Known {
    name: &'static str,
    anomaly: &'static str,
    /// Of all orders of its requests, how many are bad; `None` if that depends on a clock.
    bad: Option<(u64, u64)>,
}

/// Finds the race in the form by hand, as a user does; counts in how many schedules it is; and looks at all of the form of
/// rowlock.
async fn compare<A, B>(
    known: Known,
    by_hand: impl Fn() -> Explorer<A>,
    rowlock: impl Fn() -> Explorer<B>,
) -> Failure
where
    A: Debug + Send + Sync + 'static,
    B: Debug + Send + Sync + 'static,
{
    let Known { name, anomaly, bad } = known;
    let found = by_hand().explore().await.unwrap().assert_failed();
    let mut of_all = String::new();
    if let Some(bad) = bad {
        let all = by_hand().exhaustive().count_failures().explore().await;
        let all = all.unwrap().assert_failed().coverage;
        assert_eq!((all.failing, all.schedules), bad, "{found}");
        let seconds = all.elapsed.as_secs_f64();
        of_all = format!("{} of {} bad ({seconds:.2} s)", all.failing, all.schedules);
    }
    let holds = rowlock().explore().await.unwrap().assert_passed();
    println!(
        "{name:<29} found in schedule {} after {:.2} s; by hand {of_all:<24}; rowlock holds in {:>2} ({:.2} s); {}",
        found.coverage.schedules,
        found.coverage.elapsed.as_secs_f64(),
        holds.schedules,
        holds.elapsed.as_secs_f64(),
        found.anomaly(),
    );
    assert_eq!(found.anomaly(), anomaly, "{found}");
    found
}
