//! The models of rowlock under every schedule and every single fault, and beside each the form that is written by hand.
//!
//! `cargo test -p rowlock-explore --test rows -- --nocapture` prints how many schedules each of them has.

mod check;
mod counter;
mod find_or_create;
mod guarded;
mod lanes;
mod lockable;
mod mixed;
mod upsert_if;
mod versioned;
mod xmin;

use std::fmt::Debug;
use std::time::Duration;

use rowlock_explore::{Actor, Coverage, Ended, Explorer, Failure, Fault, Outcome, Verdict};
use rowlock_tests::postgres;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool, Row};

/// What can break, one in each schedule.
const FAULTS: [Fault; 6] = [
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::CutInAnswer,
    Fault::Terminated,
    Fault::DroppedBefore,
    Fault::DroppedAfter,
];

/// No transaction and no lock is left of an actor that has returned.
const LEFT_BEHIND: &str = "SELECT state, query FROM pg_stat_activity \
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' \
    AND (xact_start IS NOT NULL OR pid IN (SELECT pid FROM pg_locks))";

/// What an actor knows of what it did.
#[derive(Clone, Debug, PartialEq)]
enum Known<T> {
    /// It is in the database.
    Done(T),
    /// It is not.
    Not {
        /// A concurrent writer was first.
        conflict: bool,
        why: String,
    },
    /// It is there, or it is not: the answer was lost, or not waited for.
    Unknown,
}

impl<T> Known<T> {
    fn of<E: Into<rowlock::Error>>(result: Option<Result<T, E>>) -> Self {
        match result.map(|result| result.map_err(Into::into)) {
            Some(Ok(value)) => Self::Done(value),
            Some(Err(error)) if error.is_unknown() => Self::Unknown,
            Some(Err(error)) => Self::Not {
                conflict: error.is_conflict(),
                why: error.to_string(),
            },
            None => Self::Unknown,
        }
    }

    fn done(&self) -> Option<&T> {
        match self {
            Self::Done(value) => Some(value),
            _ => None,
        }
    }
}

/// An exploration in an empty database, after which nothing may be left behind.
async fn explore<T: Debug + Send + Sync + 'static>(schema: &str, rows: &str) -> Explorer<Known<T>> {
    Explorer::new(postgres::fresh_url().await)
        .schema(schema)
        .setup(rows)
        .never(LEFT_BEHIND)
        // On a busy machine too.
        .max_time(Duration::from_secs(600))
}

/// Adds an actor with a pool of one connection.
trait Works<T>: Sized {
    /// The pool goes on after whatever happened to `work`.
    fn works<E, F>(
        self,
        name: &str,
        work: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send,
        F: Future<Output = Result<T, E>> + Send;

    /// `work` and nothing else: these are all of the statements.
    fn by_hand<F>(
        self,
        name: &str,
        work: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = sqlx::Result<T>> + Send;
}

impl<T: Debug + Send + Sync + 'static> Works<T> for Explorer<Known<T>> {
    fn works<E, F>(
        self,
        name: &str,
        work: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        self.actor(name, move |actor| {
            let work = work.clone();
            async move { in_a_pool(actor, work).await }
        })
    }

    fn by_hand<F>(
        self,
        name: &str,
        work: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = sqlx::Result<T>> + Send,
    {
        self.actor(name, move |actor| {
            let work = work.clone();
            async move {
                let pool = pool(&actor);
                let known = Known::of(Some(work(pool.clone()).await));
                pool.close().await;
                known
            }
        })
    }
}

fn pool(actor: &Actor) -> PgPool {
    let options = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(8));
    options.connect_lazy(actor.url()).unwrap()
}

async fn in_a_pool<T, E: Into<rowlock::Error>, F: Future<Output = Result<T, E>>>(
    actor: Actor,
    work: impl FnOnce(PgPool) -> F,
) -> Known<T> {
    let pool = pool(&actor);
    let known = Known::of(actor.may_drop(work(pool.clone())).await);
    // Whatever happened, the pool has a connection that is in no transaction. What breaks here can be this very statement.
    let goes_on = match is_outside(&pool).await {
        Err(_) => is_outside(&pool).await,
        goes_on => goes_on,
    };
    assert!(
        matches!(goes_on, Ok(true)),
        "the pool goes on outside a transaction: {goes_on:?}"
    );
    pool.close().await;
    known
}

async fn is_outside(pool: &PgPool) -> sqlx::Result<bool> {
    // One message: there the two times are the same, if it begins a transaction.
    let sql = sqlx::raw_sql("SELECT transaction_timestamp() = statement_timestamp()");
    pool.fetch_one(sql).await?.try_get(0)
}

/// How often what each actor does is in the database: once if it says so, not at all if it says that, and else at most once.
/// Without a fault everybody knows; with one, all but one.
fn as_known<T: Debug>(ended: &Ended<Known<T>>, found: &[u64]) -> Result<(), String> {
    for (outcome, found) in ended.outcomes.iter().zip(found) {
        let fits = match outcome {
            Outcome::Returned(Known::Done(_)) => *found == 1,
            Outcome::Returned(Known::Not { .. }) => *found == 0,
            _ => *found <= 1,
        };
        if !fits {
            return Err(format!("{found} times in the database: {outcome:?}"));
        }
    }
    let unknown = ended
        .returned()
        .filter(|known| matches!(known, Known::Unknown));
    match unknown.count() <= ended.faults.len() {
        true => Ok(()),
        false => Err("more of them do not know than were broken".to_owned()),
    }
}

/// All are done, but for the one at whom something broke.
fn all_but_broken<T>(ended: &Ended<Known<T>>) -> Result<(), String> {
    let done = ended.returned().filter_map(Known::done).count();
    match done + ended.faults.len() >= ended.outcomes.len() {
        true => Ok(()),
        false => Err(format!("{done} are done")),
    }
}

/// How often each of the letters is in a text.
fn letters<const N: usize>(text: &str, of: [char; N]) -> [u64; N] {
    of.map(|letter| text.chars().filter(|&there| there == letter).count() as u64)
}

/// The digits of a sum to which the first actor adds 1, the second one 10, the third one 100.
fn digits<const N: usize>(sum: u64) -> [u64; N] {
    std::array::from_fn(|at| sum / 10_u64.pow(at as u32) % 10)
}

/// Passed, in so many schedules.
#[track_caller]
fn passed(subject: &str, verdict: Verdict) -> Coverage {
    let coverage = verdict.assert_passed();
    println!("{subject}: {coverage}");
    coverage
}

/// By hand: wrong in so many of all schedules.
#[track_caller]
fn wrong(subject: &str, verdict: Verdict) -> Failure {
    let failure = verdict.assert_failed();
    let Coverage {
        schedules, failing, ..
    } = failure.coverage;
    let anomaly = failure.anomaly();
    println!("{subject}, by hand: {failing} of {schedules} schedules are wrong: {anomaly}");
    failure
}
