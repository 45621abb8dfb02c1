//! What the generated methods allocate, beside the hand-written sqlx that they replace.
//!
//! The methods and their twins are those of the benchmark; only what is measured differs. Allocations are counted on the
//! calling thread, while it polls the call. On PostgreSQL that is everything the client allocates. On SQLite the worker
//! thread has its share, and what is left for the caller depends on who was faster: shown, but not asserted.
//!
//! What the methods cost by design, and what pays for it:
//!
//! - One box of `sqlx::Acquire`, on a pool, a connection or a transaction of sqlx's; none on a `Tx`.
//! - Two allocations of sqlx's `fetch_many`, which is how to see a second row; `fetch_one` looks at the first only.
//! - Two for the values, which are kept outside a transaction until the statement was successful: PostgreSQL can ask for it to
//!   be prepared anew.
//! - One for each column of both copies of an edit, and one for each copy: what is saved is what the database would store
//!   differently, so both copies are encoded and compared.
//! - One for the labels of its duration, with the feature `metrics`, which these tests have on.
//! - Binding allocates once per statement, where sqlx's `bind` lets two vectors grow.
//!
//! A binary of its own, because the counting allocator is for the whole process.

#![allow(missing_docs, clippy::duplicate_mod)]

#[path = "../benches/backends.rs"]
mod backends;
#[path = "../benches/models.rs"]
mod models;

use self::backends::{postgres, sqlite};
use self::pair::Bench;

mod pair {
    use std::future::poll_fn;
    use std::pin::pin;

    use allocation_counter::measure;

    /// Counts where the benchmark takes the time.
    #[derive(Default)]
    pub(crate) struct Bench {
        group: String,
        pub(crate) too_many: Vec<String>,
    }

    impl Bench {
        pub(crate) fn group(&mut self, title: &str) {
            title.clone_into(&mut self.group);
        }

        pub(crate) async fn pair<H, A, B>(
            &mut self,
            name: &str,
            handle: &mut H,
            mut prepare: impl AsyncFnMut(&mut H),
            mut rowlock: impl AsyncFnMut(&mut H) -> A,
            mut hand: impl AsyncFnMut(&mut H) -> B,
        ) {
            let rowlock = allocations(handle, &mut prepare, &mut rowlock).await;
            let hand = allocations(handle, &mut prepare, &mut hand).await;
            let line = format!("{}, {name}: {rowlock}, by hand {hand}", self.group);
            println!("{line}");
            let more = more_by_design(name, self.group.ends_with("to the end"));
            if self.group.starts_with("PostgreSQL") && rowlock > hand + more + LABELS {
                self.too_many.push(line);
            }
        }
    }

    /// Of the feature `metrics`.
    const LABELS: u64 = 1;

    /// How many allocations more than its twin a method may have.
    fn more_by_design(name: &str, to_the_end: bool) -> u64 {
        // Two copies of three columns.
        const COMPARED: u64 = 2 * (3 + 1);
        match (name, to_the_end) {
            // The nodes of the map that sums and sorts.
            ("add_many of 100", _) => 20,
            // A twin whose statement is prepared already does less.
            ("add_many of 100, hand keeps it prepared", _) => 40,
            // The edit remembers how the row was, two strings here, and its statement is put together; and the comparison.
            ("edit and save one column", true) => 4 + COMPARED,
            (_, true) => 2,
            ("edit and save one column", false) => 9 + COMPARED,
            // Two statements; and a conflict would want to know how the row was.
            ("update_with", false) => 8,
            (_, false) => 4,
        }
    }

    /// The median of some calls: now and then a buffer grows.
    async fn allocations<H, T>(
        handle: &mut H,
        prepare: &mut impl AsyncFnMut(&mut H),
        f: &mut impl AsyncFnMut(&mut H) -> T,
    ) -> u64 {
        let mut counts = Vec::new();
        for _ in 0..31 {
            prepare(handle).await;
            let mut call = pin!(f(handle));
            let mut count = 0;
            poll_fn(|context| {
                let mut polled = None;
                let allocated = measure(|| polled = Some(call.as_mut().poll(context)));
                count += allocated.count_total;
                polled.expect("measured once")
            })
            .await;
            counts.push(count);
        }
        counts.sort_unstable();
        counts[counts.len() / 2]
    }
}

#[test]
fn no_method_allocates_more_than_its_hand_written_twin_and_what_is_listed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut bench = Bench::default();
    runtime.block_on(async {
        postgres::operations::on_connection(&mut bench, false).await;
        postgres::operations::on_connection(&mut bench, true).await;
        postgres::operations::through_pool(&mut bench, false).await;
        sqlite::operations::on_connection(&mut bench, true).await;
        sqlite::operations::through_pool(&mut bench, true).await;
    });
    assert!(bench.too_many.is_empty(), "{:#?}", bench.too_many);
}
