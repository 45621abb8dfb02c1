//! Payments at a provider that fails, hangs, and sometimes charges without saying so.
//!
//! ```text
//! cargo run --example payments                               SQLite, in a temporary file
//! DATABASE_URL=postgres://… cargo run --example payments     PostgreSQL, in a schema of its own, dropped at the end
//! ```
//!
//! Two workers are told to charge the same orders. One of them dies in the middle of it: the provider has charged, and the worker has not
//! written that down. Once by hand, where each try is a new request to the provider; and once with a ledger, by
//! `#[derive(Idempotent)]`.
//!
//! # The three steps of a round
//!
//! 1. **start**: claim the orders that nobody has paid or is paying, for as long as a lease. One statement each.
//! 2. **charge**: call the provider for each of them, a few at a time and each with a timeout, by `rowlock::fan_out`. No transaction is
//!    open and no connection is held: the calls take as long as they take. Each order has one key, whoever sends it.
//! 3. **finish**: book the payment and store the outcome, together in one transaction. What had no usable answer is released, for the
//!    next round.
//!
//! `worker.rs` has the rounds, `provider.rs` the provider and its client.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod postgres;
mod provider;
mod sqlite;
mod table;

use std::process::ExitCode;

use anyhow::Context;
use rowlock_examples::Pool;

use crate::provider::{ChargeId, Provider};
use crate::table::Table;

/// What goes wrong at the provider follows from it.
const SEED: u64 = 7;
const ORDERS: u64 = 12;

const TABLES: &str = "
    CREATE TABLE payments (
        order_id bigint PRIMARY KEY, fingerprint text NOT NULL, outcome text,
        fence bigint NOT NULL, leased_until {timestamp} NOT NULL, finished_at {timestamp}
    );
    CREATE TABLE bookings (id {id}, order_id bigint NOT NULL, charge bigint NOT NULL);
";

/// How the workers keep from charging twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They do not.
    ByHand,
    /// By a row for each order, in `payments`.
    Ledger,
}

/// Something that is to be paid once.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Order {
    /// From 1.
    pub id: u64,
    /// In cents.
    pub amount: u64,
}

/// How an order ended for a worker.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Outcome {
    /// By this charge.
    Paid(ChargeId),
    /// As final as a payment.
    Declined,
}

#[tokio::main]
async fn main() -> ExitCode {
    rowlock_examples::run("payments", TABLES, async |database, pool| {
        println!("{ORDERS} orders, two workers, one of which dies on the way. The books are on {database}.\n");
        let mut right = true;
        for way in [Way::ByHand, Way::Ledger] {
            let provider = Provider::start(SEED).await.context("no free port")?;
            let client = provider.client();
            let bookings = match pool {
                Pool::Postgres(pool) => postgres::worker::both(pool, &client, way, &orders()).await?,
                Pool::Sqlite(pool) => sqlite::worker::both(pool, &client, way, &orders()).await?,
            };
            let charges = provider::charges(&client).await;
            let charges = charges.map_err(|error| anyhow::anyhow!(error))?;
            let table = Table::print(way, &orders(), &charges, &bookings);
            right &= table.is_right() == (way == Way::Ledger);
        }
        Ok(right)
    })
    .await
}

/// The last one is too expensive.
fn orders() -> Vec<Order> {
    let amount = |id| {
        if id == ORDERS {
            99_900
        } else {
            1_000 + 50 * id
        }
    };
    (1..=ORDERS)
        .map(|id| Order {
            id,
            amount: amount(id),
        })
        .collect()
}
