//! The throughput of each generated method, as a ratio to the hand-written sqlx that it replaces.
//!
//! ```text
//! cargo bench -p rowlock-benches                              everything, about five minutes
//! cargo bench -p rowlock-benches -- --quick                   the same with fewer rounds, a minute
//! cargo bench -p rowlock-benches -- 'PostgreSQL, held' update only the pairs whose title has these words
//! ```
//!
//! Why a harness of our own: what is wanted is the ratio of two calls that differ by less than the machine's speed
//! does from one second to the next. Criterion and divan measure one function after the other and compare their
//! averages, so that all drift in between ends up in the ratio. `pair.rs` alternates short blocks of both instead,
//! and takes one ratio per round of four blocks.
//!
//! What the hand-written twin is (`operations.rs`):
//!
//! - It runs on the same connection, or through the same pool, with the same SQL text, so both use the same prepared
//!   statement. Exception: an `add` without bounds is compared with the upsert that people write, without a guard.
//! - It does the same work: RETURNING, decoding through `FromRow`, a clone where the method returns a new struct,
//!   sorting where a batch is sorted.
//! - It reads one row as people do, with `fetch_one` or `fetch_optional`. On SQLite that stops before the statement is
//!   finished, so that an error of its COMMIT is lost, which is why rowlock does not do it; there each method is also
//!   compared with a twin that reads to the end, as rowlock does (`to the end` in the title).
//!
//! On a held connection rowlock has one allocation that the twin does not have: sqlx's `Acquire` boxes a future even
//! for `&mut connection`. `tests/allocations.rs` counts what comes out in sum.
//!
//! One task on one thread, so that the client's own time is seen undiluted. Neither database waits for the disk.

#![allow(clippy::duplicate_mod)]

// By its path, so that the paths in it are the same in `tests/allocations.rs`.
#[path = "backends.rs"]
mod backends;
mod models;
mod pair;

use self::backends::{postgres, sqlite};
use self::pair::Bench;

fn main() {
    let mut bench = Bench::from_arguments();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        // `fetch_one` on PostgreSQL reads to the end anyway.
        postgres::operations::on_connection(&mut bench, false).await;
        postgres::operations::through_pool(&mut bench, false).await;
        for to_the_end in [false, true] {
            sqlite::operations::on_connection(&mut bench, to_the_end).await;
            sqlite::operations::through_pool(&mut bench, to_the_end).await;
        }
    });
}
