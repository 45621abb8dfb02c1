//! tokio, whose `#[tokio::test]` ends a test that hangs.
//!
//! `extern crate limited_tokio as tokio` at the root of a crate is all that its tests need.

use std::env;
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

pub use limited_tokio_macros::test;
pub use tokio::*;

use self::runtime::{Builder, Runtime};

/// In seconds, for a machine that is busy: thousands of dropped transactions then take minutes. `ROWLOCK_TEST_LIMIT` sets
/// another one.
const LIMIT: u64 = 600;

/// What `#[tokio::test]` can be given.
#[derive(Debug, Default)]
pub struct Options {
    /// `current_thread`, or `multi_thread`.
    pub flavor: &'static str,
    /// Of a runtime with several threads; unless it is 0.
    pub worker_threads: usize,
    /// The clock of the runtime stands still.
    pub start_paused: bool,
}

impl Options {
    fn runtime(&self) -> Runtime {
        let mut builder = match self.flavor {
            "multi_thread" => Builder::new_multi_thread(),
            _ => Builder::new_current_thread(),
        };
        if self.worker_threads > 0 {
            builder.worker_threads(self.worker_threads);
        }
        let builder = builder.enable_all().start_paused(self.start_paused);
        builder.build().expect("a runtime")
    }
}

/// Runs a test within the limit.
pub fn run(options: Options, test: Test) {
    let limit = env::var("ROWLOCK_TEST_LIMIT").ok();
    let limit = limit.map_or(LIMIT, |limit| limit.parse().expect("seconds"));
    run_within(Duration::from_secs(limit), options, test);
}

/// The body of a test.
pub type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs a test, which fails if it has not ended by the limit. It has a thread of its own, which is left behind then: whatever
/// the test waits for, a future, a lock or a pipe, and whichever clock it has, this thread sees that it takes too long.
pub fn run_within(limit: Duration, options: Options, test: Test) {
    // The harness names threads by their tests.
    let name = thread::current().name().unwrap_or_default().to_owned();
    let (running, ended) = channel::<()>();
    let body = move || {
        let _running = running;
        options.runtime().block_on(test());
    };
    let thread = thread::Builder::new().name(name.clone()).spawn(body);
    let thread = thread.expect("a thread");
    if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        panic!("{name} has not ended after {limit:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What `#[tokio::test]` makes of a test.
#[macro_export]
macro_rules! limited {
    ([$($option:ident = $value:expr),*] $(#[$attribute:meta])* async fn $name:ident() $body:block) => {
        #[::core::prelude::v1::test]
        $(#[$attribute])*
        fn $name() {
            let options = $crate::Options { $($option: $value,)* ..::core::default::Default::default() };
            $crate::run(options, || ::std::boxed::Box::pin(async $body));
        }
    };
}
