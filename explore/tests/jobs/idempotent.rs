//! `Idempotent`: the effect of a key happens once, and who asks again is told of it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rowlock::idempotent::{AttemptError, Once, OnceError, Started};
use rowlock::tx::TransactionError;
use rowlock::{Fence, Idempotent, transaction};
use rowlock_explore::{Actor, Ended};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};

use super::{
    End, FAULTS, LATER, LEASE, Tells, adds_up, explorer, failed, goes_on, passed, pool, preemptions,
};

#[derive(Idempotent)]
#[rowlock(table = "requests", backend(Postgres))]
struct Request {
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    receipt: Option<i64>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: DateTime<Utc>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

const SCHEMA: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, units bigint NOT NULL);
    CREATE TABLE requests (key text PRIMARY KEY, fingerprint bytea NOT NULL, receipt bigint, fence bigint NOT NULL,
        leased_until timestamptz NOT NULL, finished_at timestamptz)";
const SETUP: &str = "DELETE FROM orders; DELETE FROM requests";

type Answer = Option<Result<Once<i64>, OnceError<sqlx::Error>>>;

/// One call of `once` with this request.
async fn place(actor: &Actor, pool: &PgPool, units: i64) -> Answer {
    let call = Request::once(pool, "key", &units, async |tx| {
        sqlx::query_scalar("INSERT INTO orders (units) VALUES ($1) RETURNING id")
            .bind(units)
            .fetch_one(&mut *tx)
            .await
    });
    actor.may_drop(async { call.await }).await
}

#[derive(Debug)]
struct Said {
    answer: Answer,
    /// The answer of a second call, where the first one has not told what became of the request.
    again: Answer,
    goes_on: bool,
}

async fn orders(actor: Actor, units: i64) -> Said {
    orders_on(pool(&actor), actor, units).await
}

async fn orders_on(pool: PgPool, actor: Actor, units: i64) -> Said {
    let answer = place(&actor, &pool, units).await;
    let again = match &answer {
        Some(Err(error)) if error.is_unknown() => place(&actor, &pool, units).await,
        None => place(&actor, &pool, units).await,
        _ => None,
    };
    let goes_on = goes_on(&pool).await;
    pool.close().await;
    Said {
        answer,
        again,
        goes_on,
    }
}

/// One effect, and everybody who has got an outcome has got the same.
async fn once(ended: Ended<Said>) -> Result<(), String> {
    if ended.returned().any(|said| !said.goes_on) {
        return Err("a pool does not go on".to_owned());
    }
    let orders = ended.rows("SELECT id FROM orders").await?;
    let orders: Vec<i64> = orders
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|id| id.parse().ok())
        .collect();
    if orders.len() > 1 {
        return Err(format!("{} orders", orders.len()));
    }
    let mut ran = Vec::new();
    for said in ended.returned() {
        for answer in [&said.answer, &said.again] {
            match answer {
                Some(Ok(Once::Ran(id) | Once::Replayed(id))) if orders != [*id] => {
                    return Err(format!("{id} was answered, and there is {orders:?}"));
                }
                Some(Err(OnceError::Mismatch(_))) if orders.is_empty() => {
                    return Err("a mismatch with nothing".to_owned());
                }
                _ => {}
            }
            ran.push(match answer {
                Some(Ok(Once::Ran(_))) => End::Done,
                Some(Err(error)) if error.is_unknown() => End::Unknown,
                None => End::Unknown,
                _ => End::Not,
            });
        }
        // Nobody else has the key any more when the call that was told of an unknown end asks again, but another call.
        if ended.outcomes.len() == 1
            && said
                .again
                .as_ref()
                .is_some_and(|again| !matches!(again, Ok(Once::Ran(_) | Once::Replayed(_))))
        {
            return Err(format!("asked again, the answer is {:?}", said.again));
        }
    }
    adds_up(orders.len(), ran)
}

#[tokio::test]
async fn once_against_once() {
    for actors in [2, 3] {
        let mut explorer = explorer(SCHEMA, SETUP).await;
        for name in ["ann", "bob", "cal"].into_iter().take(actors) {
            explorer = explorer.actor(name, |actor| orders(actor, 2));
        }
        if actors == 3 {
            explorer = explorer.preemptions(1);
        }
        let verdict = explorer.invariant(once).explore().await.unwrap();
        passed(
            &format!("idempotent: once against once, {actors} actors"),
            verdict,
        );
    }
}

/// A call that had to wait for another one would fail after a millisecond.
#[tokio::test]
async fn once_waits_for_nobody() {
    async fn impatient(actor: Actor) -> Said {
        let options: PgConnectOptions = actor.url().parse().expect("the explorer's URL");
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(options.options([("lock_timeout", "1")]));
        orders_on(pool, actor, 2).await
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", impatient)
        .actor("bob", impatient)
        .invariant(once)
        .invariant(|ended: Ended<Said>| async move {
            let mut answers = ended.returned().map(|said| &said.answer);
            match answers.find(|answer| !matches!(answer, Some(Ok(_)))) {
                Some(answer) => Err(format!("{answer:?}")),
                None => Ok(()),
            }
        })
        .preemptions(1)
        .explore()
        .await
        .unwrap();
    passed("idempotent: once waits for nobody, 2 actors", verdict);
}

#[tokio::test]
async fn once_against_once_with_another_request() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", |actor| orders(actor, 2))
        .actor("bob", |actor| orders(actor, 3))
        .invariant(once)
        .invariant(|ended: Ended<Said>| async move {
            let replayed = |said: &Said| matches!(said.answer, Some(Ok(Once::Replayed(_))));
            match ended.returned().any(replayed) {
                true => Err("the outcome of another request is replayed"),
                false => Ok(()),
            }
        })
        .explore()
        .await
        .unwrap();
    passed(
        "idempotent: once against once with another request, 2 actors",
        verdict,
    );
}

#[tokio::test]
async fn once_with_faults() {
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", |actor| orders(actor, 2))
        .invariant(once)
        .faults(FAULTS)
        .explore()
        .await
        .unwrap();
    passed("idempotent: once and once again, 1 actor, faults", verdict);

    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", |actor| orders(actor, 2))
        .actor("bob", |actor| orders(actor, 2))
        .invariant(once)
        .faults(FAULTS)
        .preemptions(preemptions())
        .explore()
        .await
        .unwrap();
    passed("idempotent: once against once, 2 actors, faults", verdict);
}

/// Claims the key, and then writes the order and the outcome in one transaction. Says whether it got to that, too.
async fn attempts(actor: Actor) -> (bool, End) {
    let pool = pool(&actor);
    let said = match Request::start(&pool, "key", &2, LEASE).await {
        Ok(Started::Running(running)) => {
            let written = transaction(&pool)
                .run(async |tx| {
                    let id: i64 =
                        sqlx::query_scalar("INSERT INTO orders (units) VALUES (2) RETURNING id")
                            .fetch_one(&mut *tx)
                            .await?;
                    running.finish(&mut *tx, &id).await?;
                    Ok::<_, Attempt>(())
                })
                .await;
            (true, End::of(Some(written)))
        }
        _ => (false, End::Not),
    };
    pool.close().await;
    said
}

#[derive(Debug, thiserror::Error)]
enum Attempt {
    #[error("cannot write the order")]
    Write(#[from] sqlx::Error),
    #[error("cannot finish")]
    Finish(#[from] AttemptError),
}

/// While a lease goes on, nobody takes the key over: each attempt that was started is finished.
#[tokio::test]
async fn start_against_start() {
    async fn starts(actor: Actor) -> Result<bool, String> {
        let pool = pool(&actor);
        let started = match Request::start(&pool, "key", &2, LEASE).await {
            Ok(Started::Running(running)) => running
                .finish(&pool, &7)
                .await
                .map(|()| true)
                .map_err(|error| error.to_string()),
            Ok(_) => Ok(false),
            Err(error) => Err(error.to_string()),
        };
        pool.close().await;
        started
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", starts)
        .actor("bob", starts)
        .invariant(|ended: Ended<Result<bool, String>>| async move {
            if let Some(error) = ended.returned().find_map(|started| started.as_ref().err()) {
                return Err(error.clone());
            }
            match ended
                .returned()
                .flatten()
                .filter(|started| **started)
                .count()
            {
                1 => Ok(()),
                started => Err(format!("{started} attempts were finished")),
            }
        })
        .explore()
        .await
        .unwrap();
    passed("idempotent: start against start, 2 actors", verdict);
}

#[tokio::test]
async fn start_against_start_when_the_clock_steps() {
    let taken_over = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&taken_over);
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", attempts)
        .actor("bob", attempts)
        .invariant(move |ended: Ended<(bool, End)>| {
            let both = ended.returned().all(|(started, _)| *started);
            seen.fetch_add(usize::from(both), Relaxed);
            async move {
                let orders = ended.rows("SELECT id FROM orders").await?;
                if orders.len() > 1 {
                    return Err(format!("{} orders", orders.len()));
                }
                adds_up(orders.len(), ended.returned().map(|(_, end)| *end))
            }
        })
        .faults([LATER])
        .preemptions(1)
        .explore()
        .await
        .unwrap();
    passed(
        "idempotent: start against start, 2 actors, the lease ends",
        verdict,
    );
    assert_ne!(taken_over.load(Relaxed), 0, "in no schedule both began");
}

#[tokio::test]
async fn select_then_insert_has_two_effects() {
    async fn orders(actor: Actor) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(actor.url()).await?;
        let mut tx = connection.begin().await?;
        let known: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM requests WHERE key = 'key')")
                .fetch_one(&mut *tx)
                .await?;
        if !known {
            sqlx::query("INSERT INTO orders (units) VALUES (2)")
                .execute(&mut *tx)
                .await?;
            sqlx::query("INSERT INTO requests (key, fingerprint, fence, leased_until) VALUES ('key', '', 0, now()) ON CONFLICT DO NOTHING")
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        connection.close().await
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", orders)
        .actor("bob", orders)
        .never("SELECT count(*) AS orders FROM orders HAVING count(*) > 1")
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("idempotent: SELECT the key, then INSERT", verdict);
}

/// A request whose key is another one's waits in its transaction, and then asks the pool for the answer that is stored.
#[tokio::test]
async fn an_answer_from_the_pool_in_a_transaction_deadlocks_the_pool() {
    async fn orders(actor: Actor) -> Result<i64, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_millis(500))
            .connect_lazy(actor.url())?;
        let mut tx = pool.begin().await?;
        let first = sqlx::query("INSERT INTO requests (key, fingerprint, fence, leased_until) VALUES ('key', '', 0, now()) ON CONFLICT DO NOTHING")
            .execute(&mut *tx)
            .await?
            .rows_affected()
            == 1;
        let receipt = if first {
            let id = sqlx::query_scalar("WITH made AS (INSERT INTO orders (units) VALUES (2) RETURNING id) UPDATE requests SET receipt = made.id FROM made RETURNING made.id")
                .fetch_one(&mut *tx)
                .await?;
            tx.commit().await?;
            id
        } else {
            sqlx::query_scalar("SELECT receipt FROM requests WHERE key = 'key'")
                .fetch_one(&pool)
                .await?
        };
        pool.close().await;
        Ok(receipt)
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", orders)
        .actor("bob", orders)
        .invariant(|ended: Ended<Result<i64, sqlx::Error>>| async move {
            let mut outcomes = ended.returned();
            match outcomes.find_map(|outcome| outcome.as_ref().err()) {
                Some(error) => Err(error.to_string()),
                None => Ok(()),
            }
        })
        .explore()
        .await
        .unwrap();
    let failure = failed(
        "idempotent: the stored answer by a second connection",
        verdict,
    );
    assert!(failure.why.contains("pool timed out"), "{}", failure.why);
}

/// A call that is told nothing, and by hand asks again without a key.
#[tokio::test]
async fn asking_again_without_a_key_has_two_effects() {
    async fn orders(actor: Actor) -> Result<(), TransactionError<sqlx::Error>> {
        let pool = pool(&actor);
        for _ in 0..2 {
            let order = "INSERT INTO orders (units) VALUES (2)";
            if sqlx::query(order).execute(&pool).await.is_ok() {
                break;
            }
        }
        pool.close().await;
        Ok(())
    }
    let verdict = explorer(SCHEMA, SETUP)
        .await
        .actor("ann", orders)
        .never("SELECT count(*) AS orders FROM orders HAVING count(*) > 1")
        .faults(FAULTS)
        .count_failures()
        .explore()
        .await
        .unwrap();
    failed("idempotent: asking again without a key, faults", verdict);
}
