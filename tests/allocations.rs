//! No generated method allocates more than the hand-written sqlx that it replaces.
//!
//! The methods and their twins are those of the benchmark; only what is measured differs. Allocations are counted on the
//! calling thread, while it polls the call: what SQLite's worker thread allocates is the same for both sides, and is
//! not counted.
//!
//! A binary of its own, because the counting allocator is for the whole process.

#![allow(missing_docs)]

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

        pub(crate) async fn pair<H>(
            &mut self,
            name: &str,
            handle: &mut H,
            mut prepare: impl AsyncFnMut(&mut H),
            mut rowlock: impl AsyncFnMut(&mut H),
            mut hand: impl AsyncFnMut(&mut H),
        ) {
            let rowlock = allocations(handle, &mut prepare, &mut rowlock).await;
            let hand = allocations(handle, &mut prepare, &mut hand).await;
            let line = format!("{}, {name}: {rowlock}, by hand {hand}", self.group);
            println!("{line}");
            if rowlock > hand {
                self.too_many.push(line);
            }
        }
    }

    /// The median of some calls: now and then a buffer grows.
    async fn allocations<H>(
        handle: &mut H,
        prepare: &mut impl AsyncFnMut(&mut H),
        f: &mut impl AsyncFnMut(&mut H),
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
fn no_method_allocates_more_than_its_hand_written_twin() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut bench = Bench::default();
    runtime.block_on(async {
        postgres::operations::all(&mut bench).await;
        sqlite::operations::all(&mut bench).await;
    });
    assert!(bench.too_many.is_empty(), "{:#?}", bench.too_many);
}
