//! `Lanes`: two of them and a plain caller on one row. Of the calls that wait for each other the first has the lane, and the others are one statement.

mod counter;
mod find_or_create;
mod versioned;

use std::fmt::Debug;
use std::sync::mpsc;
use std::time::Duration;

use rowlock::Lanes;
use rowlock_explore::{Actor, Ended, Explorer, Fault, Outcome};
use rowlock_tests::postgres;
use sqlx::{PgPool, Postgres, Row};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::{Known, LEFT_BEHIND, pool};

/// After each of these only the server knows.
const UNANSWERED: [Fault; 3] = [Fault::CutAfter, Fault::Terminated, Fault::DroppedAfter];

/// What each call of an actor knows.
type Calls<T> = Vec<Known<T>>;

async fn on_lanes<T: Debug + Send + Sync + 'static>(table: &str, rows: &str) -> Explorer<Calls<T>> {
    Explorer::new(postgres::fresh_url().await)
        .schema(table)
        .setup(rows)
        .never(LEFT_BEHIND)
        // On a busy machine too.
        .max_time(Duration::from_secs(600))
}

/// Adds actors of several calls.
trait Calling<T>: Sized {
    /// Three calls at once on one lane. The caller of the first two may go.
    fn three<E, F>(
        self,
        name: &str,
        call: impl Fn(Lanes<Postgres>, usize) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static;

    /// One call on a pool.
    fn one<E, F>(
        self,
        name: &str,
        call: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send;

    /// Three calls as a program by hand makes them, and nothing else.
    fn by_hand<F>(
        self,
        name: &str,
        calls: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Calls<T>> + Send;
}

impl<T: Debug + Send + Sync + 'static> Calling<T> for Explorer<Calls<T>> {
    fn three<E, F>(
        self,
        name: &str,
        call: impl Fn(Lanes<Postgres>, usize) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.actor(name, move |actor| {
            let call = call.clone();
            while_the_clock_stands(move || three_calls(actor, call))
        })
    }

    fn one<E, F>(
        self,
        name: &str,
        call: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send,
    {
        self.actor(name, move |actor| {
            let call = call.clone();
            async move { vec![super::in_a_pool(actor, call).await] }
        })
    }

    fn by_hand<F>(
        self,
        name: &str,
        calls: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Calls<T>> + Send,
    {
        self.actor(name, move |actor| {
            let calls = calls.clone();
            async move {
                let pool = pool(&actor);
                let known = calls(pool.clone()).await;
                pool.close().await;
                known
            }
        })
    }
}

/// How long a request is held decides nothing: lanes have patience for 20 milliseconds, and here for ever.
async fn while_the_clock_stands<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> T {
    let (mut value, returned) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        let done = runtime.expect("a runtime").block_on(async {
            // While a thread is busy; else the clock goes on to the next timer when all wait.
            let (busy, over) = mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || over.recv());
            let done = tokio::select! {
                done = work() => Some(done),
                // The explorer has left the schedule.
                () = value.closed() => None,
            };
            drop(busy);
            done
        });
        if let Some(done) = done {
            let _ = value.send(done);
        }
    });
    if let Ok(done) = returned.await {
        return done;
    }
    let panic = thread.join().expect_err("what was done is sent");
    std::panic::resume_unwind(panic)
}

async fn three_calls<T, E, F>(actor: Actor, call: impl Fn(Lanes<Postgres>, usize) -> F) -> Calls<T>
where
    E: Into<rowlock::Error>,
    F: Future<Output = Result<T, E>>,
{
    let pool = pool(&actor);
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    let (first, second, third) = tokio::join!(
        biased;
        actor.may_drop(call(lanes.clone(), 0)),
        actor.may_drop(call(lanes.clone(), 1)),
        call(lanes.clone(), 2),
    );
    let goes_on = match is_outside(&lanes).await {
        Err(_) => is_outside(&lanes).await,
        goes_on => goes_on,
    };
    assert!(
        matches!(goes_on, Ok(true)),
        "the lane goes on outside a transaction: {goes_on:?}"
    );
    lanes.close().await;
    pool.close().await;
    vec![Known::of(first), Known::of(second), Known::of(Some(third))]
}

async fn is_outside(lanes: &Lanes<Postgres>) -> sqlx::Result<bool> {
    let sql = sqlx::raw_sql("SELECT transaction_timestamp() = statement_timestamp()");
    let mut lane = lanes.acquire().await?;
    sqlx::Executor::fetch_one(&mut *lane, sql).await?.try_get(0)
}

/// All calls, in the order of the actors. A statement serves two of them at most, and two callers go.
fn calls<T: Debug>(ended: &Ended<Calls<T>>) -> Result<Vec<&Known<T>>, String> {
    let mut calls = Vec::new();
    for outcome in ended.outcomes.iter() {
        match outcome {
            Outcome::Returned(known) => calls.extend(known),
            other => return Err(format!("{other:?}")),
        }
    }
    let unknown = calls.iter().filter(|known| matches!(known, Known::Unknown));
    match unknown.count() {
        unknown if unknown > 2 * ended.faults.len() => Err(format!("{unknown} do not know")),
        _ => Ok(calls),
    }
}

/// How often what each call does is in the database.
fn as_known<T: Debug>(calls: &[&Known<T>], found: &[u64]) -> Result<(), String> {
    for (number, (known, found)) in calls.iter().zip(found).enumerate() {
        let fits = match known {
            Known::Done(_) => *found == 1,
            Known::Not { .. } => *found == 0,
            Known::Unknown => *found <= 1,
        };
        if !fits {
            return Err(format!(
                "call {number}: {found} times in the database: {known:?}"
            ));
        }
    }
    Ok(())
}

/// Nobody is turned away by a neighbour's trouble: without a fault all are done, and with one all but those whom it met.
fn not_without_reason<T: Debug>(ended: &Ended<Calls<T>>) -> Result<(), String> {
    let calls = calls(ended)?;
    let done = calls.iter().filter(|known| known.done().is_some()).count();
    match done + 2 * ended.faults.len() >= calls.len() {
        true => Ok(()),
        false => Err(format!("{done} are done: {calls:?}")),
    }
}

/// Counts the statements that write, and has the server cancel the one of this number.
fn counted(table: &str, cancelled: usize) -> String {
    format!(
        "CREATE SEQUENCE statements;
         CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('statements') = {cancelled} THEN RAISE EXCEPTION USING ERRCODE = 'query_canceled'; END IF;
             RETURN NULL; END $$;
         CREATE TRIGGER count_statement BEFORE UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION count_statement()"
    )
}

const COUNT: &str = "SELECT setval('statements', 1, false)";

/// One call at most, and it knows.
fn all_but_cancelled<T: Debug>(ended: &Ended<Calls<T>>) -> Result<(), String> {
    let calls = calls(ended)?;
    let others = calls.iter().filter(|known| known.done().is_none());
    let others: Vec<_> = others.collect();
    match &others[..] {
        [] => Ok(()),
        [Known::Not { why, .. }] if why.contains("57014") => Ok(()),
        _ => Err(format!("{others:?}")),
    }
}
