//! Payments at a provider that fails, hangs, and sometimes charges without saying so.
//!
//! ```text
//! cargo run --example payments
//! ```
//!
//! Orders are charged several at a time with `rowlock::fan_out`, each call with a timeout; what has no answer is tried
//! again. Once with a new key for each try, which charges some orders twice, and once with one key per order.
//! `provider.rs` is the provider and its client.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod provider;
mod table;

use std::num::NonZero;
use std::time::Duration;

use anyhow::Context;
use rowlock::{Call, CallError, fan_out};

use crate::provider::{Charge, ChargeError, ChargeId, Client, Provider};
use crate::table::Table;

const SEED: u64 = 7;
const ORDERS: u64 = 12;
/// How many calls the provider gets at a time.
const AT_ONCE: NonZero<usize> = NonZero::new(4).unwrap();
/// The provider is on this machine: what has no answer by then gets none.
const CALL_TIMEOUT: Duration = Duration::from_millis(500);
const TRIES: u32 = 4;

/// Something that is to be paid once.
struct Order {
    id: u64,
    /// In cents.
    amount: u64,
    /// What came of each try.
    tries: Vec<Try>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Try {
    Paid(ChargeId),
    Declined,
    /// Nobody knows whether it was charged.
    NoAnswer(&'static str),
}

/// What the provider is told, so that it can tell one payment from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    PerTry,
    PerOrder,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for keys in [Keys::PerTry, Keys::PerOrder] {
        let provider = Provider::start(SEED).await.context("no free port")?;
        let mut orders = orders();
        for number in 1..=TRIES {
            try_open_orders(&provider.client(), &mut orders, keys, number).await;
        }
        let charges = provider::charges(&provider.client()).await;
        let charges = charges.map_err(|error| anyhow::anyhow!(error))?;
        let table = Table::print(keys, &orders, &charges);
        anyhow::ensure!(
            keys == Keys::PerTry || table.is_right(),
            "what was charged is not what was ordered, which is a bug"
        );
    }
    Ok(())
}

/// The last one is too expensive.
fn orders() -> Vec<Order> {
    let order = |id| Order {
        id,
        amount: if id == ORDERS {
            99_900
        } else {
            1_000 + 50 * id
        },
        tries: Vec::new(),
    };
    (1..=ORDERS).map(order).collect()
}

/// Charges each order that is neither paid nor declined, several at a time.
async fn try_open_orders(client: &Client, orders: &mut [Order], keys: Keys, number: u32) {
    let mut open: Vec<_> = orders.iter_mut().filter(|order| order.is_open()).collect();
    let calls = open.iter().map(|order| {
        let (key, amount) = (order.key(keys, number), order.amount);
        async move { provider::charge(client, &key, amount).await }
    });
    let calls = fan_out(AT_ONCE)
        .call_timeout(CALL_TIMEOUT)
        .collect(calls)
        .await;
    for (order, call) in open.iter_mut().zip(calls) {
        order.tries.push(Try::of(call));
    }
}

impl Order {
    fn is_open(&self) -> bool {
        matches!(self.tries.last(), None | Some(Try::NoAnswer(_)))
    }

    fn key(&self, keys: Keys, number: u32) -> String {
        match keys {
            Keys::PerTry => format!("order-{}-{number}", self.id),
            Keys::PerOrder => format!("order-{}", self.id),
        }
    }

    /// How often the provider charged it.
    fn times_charged(&self, charges: &[Charge]) -> usize {
        let name = format!("order-{}", self.id);
        let is_ours = |charge: &&Charge| {
            let rest = charge.key.strip_prefix(&name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        charges.iter().filter(is_ours).count()
    }
}

impl Try {
    fn of(call: Call<ChargeId, ChargeError>) -> Self {
        match call.outcome {
            Ok(id) => Self::Paid(id),
            Err(CallError::Failed(ChargeError::Declined(_))) => Self::Declined,
            Err(CallError::Failed(ChargeError::Transient(_))) => Self::NoAnswer("failed"),
            Err(CallError::TimedOut) => Self::NoAnswer("timed out"),
            // Without a deadline and with `collect`, only a panic is left.
            Err(_) => Self::NoAnswer("stopped"),
        }
    }
}
