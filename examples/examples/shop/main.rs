//! A hundred buyers, ten units: three ways to reserve inventory, beside the naive one.
//!
//! ```text
//! cargo run --example shop                               SQLite, in a temporary file
//! DATABASE_URL=postgres://… cargo run --example shop     PostgreSQL, in a schema of its own, dropped at the end
//! cargo run --example shop -- guarded 500 20             one way, 500 buyers, 20 units
//! ```
//!
//! A reservation is a new row in `reservations` and one unit less in `skus`: both or neither.
//!
//! - **naive**: read, insert, write what was read minus one. Buyers that read before the first one wrote all sell the
//!   same unit.
//! - **row lock**: lock the product, look, insert, save. Right for whatever is decided by looking at the row, and the
//!   others wait from the look to the end of COMMIT.
//! - **guarded**: insert the reservation first, then subtract with a bound. If nothing is left the bound says no, and the
//!   transaction takes its reservation back.
//! - **serializable**: read, insert, write, as if nobody else were there. The server finds out that somebody was, and
//!   `transaction` runs the loser again.
//!
//! # Why the order matters
//!
//! Everybody wants the same row of `skus`, so the shop sells as fast as this row becomes free. A lock is held until
//! COMMIT, so what counts is how many round trips come after it. With the lock first those are INSERT, UPDATE, and the
//! end of the transaction. The guarded UPDATE needs no look before it, so it can come last, and behind it is nothing but
//! the end; INSERT runs while others still hold the row. (The end is two trips here: before COMMIT, `transaction` asks
//! PostgreSQL whether the transaction is intact. So it is two trips instead of four; written by hand, one instead of
//! three.)
//!
//! Where many buyers want one product, and the server is a network away, that is most of the time that a sale takes.
//! Where they want different products it hardly matters, and the row lock is the easiest to get right. Serializable is
//! the slowest on a row that everybody wants, as the losers have worked in vain; it is the one for rules that span rows
//! which cannot be named beforehand.
//!
//! SQLite has one writer at a time, and `transaction` waits for its turn before it begins: there is nothing to lock and
//! nothing to retry, and the three ways differ in style only.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod postgres;
mod sqlite;
mod table;

use std::env;
use std::process::ExitCode;

use anyhow::{Context, bail};
use rowlock_examples::Pool;

use crate::table::Table;

/// A way to sell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By hand: read, then write.
    Naive,
    /// `transaction` and `lock`.
    RowLock,
    /// `transaction` and a bound of `Counter`, which comes last.
    Guarded,
    /// `transaction` at SERIALIZABLE.
    Serializable,
}

const WAYS: [(&str, Way); 4] = [
    ("naive", Way::Naive),
    ("row-lock", Way::RowLock),
    ("guarded", Way::Guarded),
    ("serializable", Way::Serializable),
];

const USAGE: &str =
    "usage: shop [all | naive | row-lock | guarded | serializable] [BUYERS] [UNITS]";

/// What the command line asks for.
struct Order {
    ways: Vec<(&'static str, Way)>,
    buyers: usize,
    units: usize,
}

impl Order {
    fn parse(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let arguments: Vec<String> = arguments.collect();
        let number = |index: usize, default: usize| match arguments.get(index) {
            Some(number) => number.parse().context(USAGE),
            None => Ok(default),
        };
        let ways = match arguments.first().map(String::as_str) {
            None | Some("all") => WAYS.to_vec(),
            Some(asked) => WAYS
                .into_iter()
                .filter(|(name, _)| *name == asked)
                .collect(),
        };
        if ways.is_empty() || arguments.len() > 3 {
            bail!(USAGE);
        }
        Ok(Self {
            ways,
            buyers: number(1, 100)?,
            units: number(2, 10)?,
        })
    }
}

const TABLES: &str = "
    CREATE TABLE skus (id bigint PRIMARY KEY, name text NOT NULL, units bigint NOT NULL);
    CREATE TABLE reservations (id {id}, sku_id bigint NOT NULL, buyer bigint NOT NULL);
";

#[tokio::main]
async fn main() -> ExitCode {
    let order = match Order::parse(env::args().skip(1)) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    rowlock_examples::run("shop", TABLES, async |database, pool| {
        let mut table = Table::begin(database);
        for (sku, (name, way)) in (1..).zip(&order.ways) {
            let (buyers, units) = (order.buyers, order.units);
            let sale = match pool {
                Pool::Postgres(pool) => postgres::ways::sell(pool, *way, sku, buyers, units).await,
                Pool::Sqlite(pool) => sqlite::ways::sell(pool, *way, sku, buyers, units).await,
            };
            table.add(name, *way, &sale?);
        }
        table.end();
        Ok(table.is_right())
    })
    .await
}
