//! Rows that one call of a handler works on together.

use std::fmt::Display;
use std::future::{Future, pending};
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::held::Job;
use super::hooks::{Handle, Work};
use super::outcome::{HandlerOutcome, JobOutcome};
use crate::fan_out::{Cut, contained};
use crate::job::queue::{Queue, stored};

/// What a handler of batches can return: one outcome for all, or one for each, in the order of the jobs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what becomes of the jobs",
    label = "the handler returns this",
    note = "return `()`, a `rowlock::queue::JobOutcome`, a `Vec` of either, or a `Result` of these whose error can be displayed"
)]
pub trait BatchOutcome: Send + 'static {
    /// What becomes of each of so many jobs.
    fn into_outcomes(self, jobs: usize) -> Vec<JobOutcome>;
}

impl<O: HandlerOutcome> BatchOutcome for O {
    fn into_outcomes(self, jobs: usize) -> Vec<JobOutcome> {
        vec![self.into_outcome(); jobs]
    }
}

impl<O: HandlerOutcome> BatchOutcome for Vec<O> {
    fn into_outcomes(self, jobs: usize) -> Vec<JobOutcome> {
        if self.len() == jobs {
            return self.into_iter().map(O::into_outcome).collect();
        }
        let error = format!(
            "the handler returned {} outcomes for {jobs} jobs",
            self.len()
        );
        JobOutcome::Retry { error, after: None }.into_outcomes(jobs)
    }
}

impl<O: HandlerOutcome, E: Display + Send + 'static> BatchOutcome for Result<Vec<O>, E> {
    fn into_outcomes(self, jobs: usize) -> Vec<JobOutcome> {
        match self {
            Ok(outcomes) => outcomes.into_outcomes(jobs),
            Err(error) => JobOutcome::Retry {
                error: stored(&error),
                after: None,
            }
            .into_outcomes(jobs),
        }
    }
}

/// A handler of up to `size` rows.
pub(super) struct Together<F> {
    pub(super) size: usize,
    pub(super) handler: F,
}

/// The place of a row in a batch. The task of the row sits down when its hooks have called `next`, and waits there for its outcome;
/// dropped, the batch does without the row.
pub(super) struct Seat<T>(oneshot::Sender<Seated<T>>);

/// A row, and where its outcome, or the text of a panic, is told.
type Seated<T> = (Job<T>, oneshot::Sender<Result<JobOutcome, String>>);

impl<T: Queue> Seat<T> {
    async fn sit(self, job: Job<T>) -> JobOutcome {
        let (tell, told) = oneshot::channel();
        // If nobody is there, nobody tells.
        let _ = self.0.send((job, tell));
        match told.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(text)) => std::panic::resume_unwind(Box::new(text)),
            // A batch is dropped only with all of its rows.
            Err(_) => pending().await,
        }
    }
}

impl<T, F, R> Handle<T> for Together<F>
where
    T: Queue,
    F: Fn(Vec<Job<T>>) -> R + Send + Sync + 'static,
    R: Future<Output: BatchOutcome> + Send + 'static,
{
    type Seat = Seat<T>;

    fn size(&self) -> usize {
        self.size
    }

    fn seats(
        work: &Arc<Work<T, Self>>,
        rows: usize,
    ) -> (
        impl Iterator<Item = Seat<T>>,
        Option<BoxFuture<'static, ()>>,
    ) {
        let channels = (0..rows).map(|_| oneshot::channel());
        let (seats, rows): (Vec<_>, Vec<_>) = channels.unzip();
        let batch = run_batch(work.clone(), rows);
        (seats.into_iter().map(Seat), Some(Box::pin(batch)))
    }

    async fn handle(&self, job: Job<T>, seat: Seat<T>) -> JobOutcome {
        seat.sit(job).await
    }
}

/// Handles the rows that sit down. It is over as soon as all of them have left: each leaves by itself, at its deadline, or because its
/// claim is lost.
async fn run_batch<T, F, R>(
    work: Arc<Work<T, Together<F>>>,
    rows: Vec<oneshot::Receiver<Seated<T>>>,
) where
    T: Queue,
    F: Fn(Vec<Job<T>>) -> R + Send + Sync + 'static,
    R: Future<Output: BatchOutcome> + Send + 'static,
{
    let seated = join_all(rows).await.into_iter().flatten();
    // A hook may have kept the others from beginning until their time was up.
    let now = Instant::now();
    let here =
        seated.filter(|(job, tell)| !tell.is_closed() && !job.is_stopped() && job.deadline() > now);
    let (jobs, mut tells): (Vec<_>, Vec<_>) = here.unzip();
    let Some(first) = jobs.first().map(|job| job.held.clone()) else {
        return;
    };
    let count = jobs.len();
    let span = tracing::debug_span!(
        "rowlock.batch",
        otel.kind = "consumer",
        messaging.system = "rowlock",
        messaging.destination.name = T::TABLE,
        messaging.operation.name = "process",
        messaging.batch.message_count = count,
    );
    let outcomes = async { (work.handler.handler)(jobs).await.into_outcomes(count) };
    let outcomes = work.watch().over(&first, outcomes).instrument(span);
    let left = join_all(tells.iter_mut().map(oneshot::Sender::closed));
    let outcomes = tokio::select! {
        biased;
        _ = left => return,
        outcomes = contained(outcomes, None) => outcomes,
    };
    let outcomes: Vec<_> = match outcomes {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        Err(Cut::Panicked(text)) => vec![Err(text); count],
        Err(Cut::TimedOut) => return,
    };
    for (tell, outcome) in tells.into_iter().zip(outcomes) {
        // It may have left meanwhile.
        let _ = tell.send(outcome);
    }
}
