//! What the workers do. Compiled for both types of pool.

use std::collections::HashMap;
use std::num::NonZero;
use std::time::Duration;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use rowlock::fan_out::{Call, CallError};
use rowlock::idempotent::{AttemptError, Running, Started};
use rowlock::{Idempotent, fan_out, transaction};

use super::Pool;
use crate::provider::{self, ChargeError, ChargeId, Client};
use crate::{Order, Outcome, Way};

/// How many calls the provider gets from a worker at a time.
const AT_ONCE: NonZero<usize> = NonZero::new(4).unwrap();
/// The provider is on this machine: what has no answer by then gets none.
const CALL_TIMEOUT: Duration = Duration::from_millis(500);
/// Longer than a round can take. After that another worker takes over.
const LEASE: Duration = Duration::from_secs(3);
const ROUNDS: u32 = 100;
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// The ledger: what became of the payment of each order.
#[derive(Idempotent)]
#[rowlock(table = "payments")]
pub struct Payment {
    #[rowlock(key)]
    order_id: i64,
    #[rowlock(fingerprint)]
    fingerprint: String,
    /// `Outcome`, as JSON.
    #[rowlock(outcome)]
    outcome: Option<String>,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    leased_until: DateTime<Utc>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

/// Runs two workers on the same orders, and returns how often each order was booked.
pub async fn both(
    pool: &Pool,
    client: &Client,
    way: Way,
    orders: &[Order],
) -> Result<HashMap<u64, usize>> {
    rowlock::verify(pool, rowlock::models![Payment]).await?;
    let (dying, living) = tokio::join!(
        work(
            pool,
            client,
            way,
            orders,
            Worker {
                name: "a",
                dies: true
            }
        ),
        work(
            pool,
            client,
            way,
            orders,
            Worker {
                name: "b",
                dies: false
            }
        ),
    );
    dying?;
    if living?.len() < orders.len() {
        bail!("some orders have no outcome after {ROUNDS} rounds");
    }
    let booked: Vec<i64> = sqlx::query_scalar("SELECT order_id FROM bookings")
        .fetch_all(pool)
        .await?;
    sqlx::query("DELETE FROM bookings").execute(pool).await?;
    let mut count = HashMap::new();
    for order in booked {
        *count.entry(u64::try_from(order)?).or_default() += 1;
    }
    Ok(count)
}

struct Worker {
    name: &'static str,
    /// In its first round, after it has charged.
    dies: bool,
}

/// Goes on until each order has an outcome, or until it dies.
async fn work(
    pool: &Pool,
    client: &Client,
    way: Way,
    orders: &[Order],
    worker: Worker,
) -> Result<HashMap<u64, Outcome>> {
    let mut outcomes = HashMap::new();
    for round in 1..=ROUNDS {
        let open: Vec<&Order> = orders
            .iter()
            .filter(|order| !outcomes.contains_key(&order.id))
            .collect();
        if open.is_empty() {
            break;
        }
        match way {
            Way::ByHand => {
                let keys = |order: &Order| format!("order-{}-{}-{round}", order.id, worker.name);
                let calls =
                    charge(client, open.iter().map(|order| (keys(order), order.amount))).await;
                if worker.dies {
                    break;
                }
                for (order, call) in open.into_iter().zip(calls) {
                    let Some(outcome) = answer(call) else {
                        continue;
                    };
                    if let Outcome::Paid(id) = outcome {
                        book(order.id, id, pool).await?;
                    }
                    outcomes.insert(order.id, outcome);
                }
            }
            Way::Ledger => {
                let mine = start(pool, &open, &mut outcomes).await?;
                let keys = |order: &Order| format!("order-{}", order.id);
                let calls = charge(
                    client,
                    mine.iter().map(|(order, _)| (keys(order), order.amount)),
                )
                .await;
                if worker.dies {
                    break;
                }
                for ((order, running), call) in mine.into_iter().zip(calls) {
                    match answer(call) {
                        None => released(running.release(pool).await)?,
                        Some(outcome) => {
                            if finish(pool, order, &running, &outcome).await? {
                                outcomes.insert(order.id, outcome);
                            }
                        }
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(outcomes)
}

/// Claims what nobody has paid or is paying, and learns what was paid already.
async fn start<'o>(
    pool: &Pool,
    open: &[&'o Order],
    outcomes: &mut HashMap<u64, Outcome>,
) -> Result<Vec<(&'o Order, Running<'static, Payment>)>> {
    let mut mine = Vec::new();
    for order in open {
        match Payment::start(pool, i64::try_from(order.id)?, order, LEASE).await? {
            Started::Running(running) => mine.push((*order, running)),
            Started::Replayed(outcome) => {
                outcomes.insert(order.id, serde_json::from_str(&outcome)?);
            }
            Started::Busy => {}
        }
    }
    Ok(mine)
}

/// Calls the provider, a few at a time. The answers are in the order of the requests.
async fn charge(
    client: &Client,
    requests: impl Iterator<Item = (String, u64)> + Send,
) -> Vec<Call<ChargeId, ChargeError>> {
    fan_out(AT_ONCE)
        .call_timeout(CALL_TIMEOUT)
        .collect(requests.map(async |(key, amount)| provider::charge(client, &key, amount).await))
        .await
}

/// `None` if nobody knows whether it was charged.
fn answer(call: Call<ChargeId, ChargeError>) -> Option<Outcome> {
    match call.outcome {
        Ok(id) => Some(Outcome::Paid(id)),
        Err(CallError::Failed(ChargeError::Declined(_))) => Some(Outcome::Declined),
        // Failed, timed out, or stopped.
        Err(_) => None,
    }
}

/// The booking and the outcome, or neither. `false` if another worker has taken the order over.
async fn finish(
    pool: &Pool,
    order: &Order,
    running: &Running<'_, Payment>,
    outcome: &Outcome,
) -> Result<bool> {
    let stored = serde_json::to_string(outcome)?;
    let done = transaction(pool).run(async |tx| {
        if let Outcome::Paid(id) = outcome {
            book(order.id, *id, &mut *tx).await?;
        }
        running.finish(&mut *tx, &stored).await?;
        Ok::<_, FinishError>(())
    });
    match done.await {
        Ok(()) => Ok(true),
        Err(rowlock::tx::TransactionError::Failed(FinishError::Ledger(
            AttemptError::TakenOver(_),
        ))) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Its sources tell `transaction` whether to run it again.
#[derive(Debug, thiserror::Error)]
enum FinishError {
    #[error("cannot book the payment")]
    Booking(#[from] sqlx::Error),
    #[error("cannot finish the payment")]
    Ledger(#[from] AttemptError),
}

/// Another worker that has taken the order over will see to it.
fn released(result: Result<(), AttemptError>) -> Result<()> {
    match result {
        Ok(()) | Err(AttemptError::TakenOver(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn book<'c>(
    order: u64,
    charge: ChargeId,
    db: impl sqlx::Executor<'c, Database = super::Db>,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO bookings (order_id, charge) VALUES ($1, $2)")
        .bind(order as i64)
        .bind(charge.0 as i64)
        .execute(db)
        .await?;
    Ok(())
}
