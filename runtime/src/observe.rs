//! What can be watched from outside: the span of a method, and the numbers of the feature `metrics`. Never a value of a row.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tracing::Span;

use crate::db::error::Operation;

pin_project_lite::pin_project! {
    /// The future of a method, in its span and timed.
    #[must_use = "futures do nothing unless polled"]
    pub struct Observed<W> {
        #[pin]
        work: W,
        span: Span,
        timed: Timed,
    }
}

impl<W: Future> Future for Observed<W> {
    type Output = W::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<W::Output> {
        let this = self.project();
        this.timed.begin();
        let output = {
            let _in_span = this.span.enter();
            ready!(this.work.poll(context))
        };
        this.timed.end();
        Poll::Ready(output)
    }
}

/// The work of a method of a model. `system`: [`Backend::SYSTEM`](crate::Backend).
pub(crate) fn observed<W: Future>(
    system: &'static str,
    method: &'static str,
    table: &'static str,
    work: W,
) -> Observed<W> {
    let place = Place {
        system,
        method,
        table,
    };
    Observed {
        work,
        span: place.span(),
        timed: Timed::new(place),
    }
}

#[derive(Clone, Copy)]
struct Place {
    system: &'static str,
    method: &'static str,
    table: &'static str,
}

impl Place {
    fn span(self) -> Span {
        let Self {
            system,
            method,
            table,
        } = self;
        tracing::debug_span!(
            "rowlock",
            otel.name = %format_args!("{method} {table}"),
            otel.kind = "client",
            db.system.name = system,
            db.operation.name = method,
            db.collection.name = table,
        )
    }
}

/// How long a method takes, from the first time that it is polled. One that is dropped is not counted.
#[cfg(feature = "metrics")]
struct Timed {
    place: Place,
    begun: Option<std::time::Instant>,
}

#[cfg(feature = "metrics")]
impl Timed {
    fn new(place: Place) -> Self {
        Self { place, begun: None }
    }

    fn begin(&mut self) {
        self.begun.get_or_insert_with(std::time::Instant::now);
    }

    fn end(&self) {
        let Place {
            system,
            method,
            table,
        } = self.place;
        let took = self.begun.map(|begun| begun.elapsed()).unwrap_or_default();
        metrics::histogram!(
            "db.client.operation.duration",
            "db.system.name" => system,
            "db.collection.name" => table,
            "db.operation.name" => method,
        )
        .record(took);
    }
}

#[cfg(not(feature = "metrics"))]
struct Timed;

#[cfg(not(feature = "metrics"))]
impl Timed {
    fn new(_: Place) -> Self {
        Self
    }
    fn begin(&mut self) {}
    fn end(&self) {}
}

/// Adds to a counter, or records a time, where the feature is on.
macro_rules! metric {
    (counter $name:expr, $number:expr $(, $label:literal => $value:expr)*) => {
        #[cfg(feature = "metrics")]
        metrics::counter!($name $(, $label => $value)*).increment($number);
        #[cfg(not(feature = "metrics"))]
        let _ = ($number, $($value),*);
    };
    (histogram $name:expr, $time:expr $(, $label:literal => $value:expr)*) => {
        #[cfg(feature = "metrics")]
        metrics::histogram!($name $(, $label => $value)*).record($time);
        #[cfg(not(feature = "metrics"))]
        let _ = ($time, $($value),*);
    };
}

/// A write met another version of its row than it was based on.
pub(crate) fn conflict(operation: &Operation) {
    let (method, table) = (operation.method(), operation.table());
    tracing::debug!(
        db.operation.name = method,
        db.collection.name = table,
        "conflict"
    );
    metric!(counter "rowlock.conflicts", 1, "db.operation.name" => method, "db.collection.name" => table);
}

/// Two changes of a row were merged, or overlap.
pub(crate) fn merged(table: &'static str, is_clean: bool) {
    let outcome = if is_clean { "clean" } else { "overlap" };
    metric!(counter "rowlock.merges", 1, "outcome" => outcome, "db.collection.name" => table);
}

/// What lost against a concurrent writer runs again, after this wait. `error`: the `Fault`, or `Stale`.
pub(crate) fn runs_again(
    method: &'static str,
    error: &dyn fmt::Debug,
    attempt: u32,
    wait: Duration,
) {
    tracing::debug!(
        db.operation.name = method,
        error.type = ?error,
        attempt,
        ?wait,
        "runs again"
    );
    metric!(counter "rowlock.retries", 1, "db.operation.name" => method, "error.type" => format!("{error:?}"));
    metric!(histogram "rowlock.retry.wait", wait, "db.operation.name" => method);
}

/// It would have run again, if it had not been the last time.
pub(crate) fn gave_up(method: &'static str, error: &dyn fmt::Debug, attempt: u32) {
    tracing::debug!(
        db.operation.name = method,
        error.type = ?error,
        attempt,
        "gave up"
    );
    metric!(counter "rowlock.retries.exhausted", 1, "db.operation.name" => method, "error.type" => format!("{error:?}"));
}

/// Nobody knows whether a write happened.
pub(crate) fn unknown(operation: &Operation) {
    let (method, table) = (operation.method(), operation.table());
    tracing::warn!(
        db.operation.name = method,
        db.collection.name = table,
        "the outcome is unknown"
    );
    metric!(counter "rowlock.unknown", 1, "db.operation.name" => method, "db.collection.name" => table);
}

/// A lock was waited for; `lock` is `advisory`, `session` or `redis`.
pub(crate) fn waited_for_lock(lock: &'static str, wait: Duration, is_taken: bool) {
    let outcome = if is_taken { "taken" } else { "refused" };
    metric!(histogram "rowlock.lock.wait", wait, "rowlock.lock.kind" => lock, "outcome" => outcome);
}

/// So many calls of [`Lanes`](crate::Lanes) were sent as one statement.
pub(crate) fn folded(calls: usize) {
    metric!(counter "rowlock.lanes.calls", calls as u64);
    metric!(counter "rowlock.lanes.statements", 1);
}

/// What a worker counts: see [`WorkerCounts`](crate::queue::WorkerCounts).
pub(crate) fn jobs(table: &'static str, event: &'static str, number: u64) {
    metric!(counter "rowlock.jobs", number, "messaging.destination.name" => table, "event" => event);
}

/// How long a job had been due when its handler began.
pub(crate) fn job_waited(table: &'static str, waited: Duration) {
    metric!(histogram "rowlock.job.wait", waited, "messaging.destination.name" => table);
}

/// How long a handler ran.
pub(crate) fn job_ran(table: &'static str, ran: Duration) {
    metric!(histogram "messaging.process.duration", ran, "messaging.destination.name" => table);
}

/// A lock of Redis was lost while it was held.
#[cfg(feature = "redis")]
pub(crate) fn lease_lost(lock: &'static str) {
    metric!(counter "rowlock.leases.lost", 1, "rowlock.lock.kind" => lock);
}

/// Gives the recorder a text and a unit for each number of this crate. Call it after the recorder is installed; without a recorder it does nothing.
///
/// The numbers, with their labels, are in the guide: see `docs/observability.md`.
#[cfg(feature = "metrics")]
pub fn describe_metrics() {
    use metrics::Unit::{Count, Seconds};
    use metrics::{describe_counter as counter, describe_histogram as histogram};

    histogram!(
        "db.client.operation.duration",
        Seconds,
        "How long methods of models take"
    );
    counter!(
        "rowlock.conflicts",
        Count,
        "Writes that met another version of their row"
    );
    counter!(
        "rowlock.merges",
        Count,
        "Conflicts that were merged, or overlap"
    );
    counter!(
        "rowlock.unknown",
        Count,
        "Writes and commits of which nobody knows whether they happened"
    );
    counter!(
        "rowlock.retries",
        Count,
        "What lost against a concurrent writer and runs again"
    );
    counter!(
        "rowlock.retries.exhausted",
        Count,
        "What lost for the last time"
    );
    histogram!("rowlock.retry.wait", Seconds, "The waits between");
    histogram!(
        "rowlock.lock.wait",
        Seconds,
        "How long advisory locks, session locks and mutexes are waited for"
    );
    counter!(
        "rowlock.leases.lost",
        Count,
        "Mutexes that ended while they were held"
    );
    counter!("rowlock.lanes.calls", Count, "Calls on lanes");
    counter!(
        "rowlock.lanes.statements",
        Count,
        "Statements that served them"
    );
    counter!("rowlock.jobs", Count, "What workers count");
    histogram!(
        "rowlock.job.wait",
        Seconds,
        "How long jobs are due before their handlers begin"
    );
    histogram!(
        "messaging.process.duration",
        Seconds,
        "How long handlers run"
    );
}
