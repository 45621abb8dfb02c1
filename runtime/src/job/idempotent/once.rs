//! `once`: the closure and its record in one transaction.

use super::error::OnceError;
use super::{
    Asked, FIRST_WAIT, Idempotent, IdempotentSql, LONGEST_WAIT, ask, finish, lacks_unique_index,
};
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::error::{DatabaseError, Operation};
use crate::db::fault::Fault;
use crate::job::fingerprint::{Digest, RequestError};
use crate::tx::{
    Begins, Body, FailureOf, LastFailure, Place, TransactionBuilder, TransactionError, Tx, Work,
    transaction,
};
use futures_util::future::BoxFuture;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// What became of a call with an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "`Busy` means that nothing was done"]
pub enum Once<R> {
    /// This call did it. Its effects and this outcome are committed.
    Ran(R),
    /// An earlier call did it. Nothing was run; this is its outcome.
    Replayed(R),
    /// Another call is at work on it. Nothing was run; ask again later.
    Busy,
}

impl<R> Once<R> {
    /// The outcome, whoever did the work; `None` while another call is at it.
    pub fn into_inner(self) -> Option<R> {
        match self {
            Self::Ran(outcome) | Self::Replayed(outcome) => Some(outcome),
            Self::Busy => None,
        }
    }
}

/// A call of `once`; `.await` runs it.
#[must_use = "nothing is run until this is awaited"]
pub struct OnceCall<'r, R, E> {
    run: Runner<'r, R, E>,
    wait: Duration,
}

type Answer<R, E> = Result<Once<R>, OnceError<E>>;
type Runner<'r, R, E> = Box<dyn FnOnce(Duration) -> BoxFuture<'r, Answer<R, E>> + Send + 'r>;

impl<R, E> std::fmt::Debug for OnceCall<'_, R, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnceCall")
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

impl<R, E> OnceCall<'_, R, E> {
    /// How long to ask again while another call is at work on the key, before the answer is [`Once::Busy`]. Without it:
    /// not at all.
    ///
    /// Between two attempts it waits for a random time of up to 200 ms and holds no connection, but for that of the transaction if it
    /// was given one.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = at_most;
        self
    }
}

impl<'r, R: 'r, E: 'r> IntoFuture for OnceCall<'r, R, E> {
    type Output = Answer<R, E>;
    type IntoFuture = BoxFuture<'r, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        (self.run)(self.wait)
    }
}

/// Runs `body` unless an outcome is stored under the key.
pub fn once<'r, DB, T, E, By, F>(
    db: impl Begins<Database = DB, Place: 'r>,
    key: T::Key<'r>,
    digest: Result<Digest, RequestError>,
    body: F,
) -> OnceCall<'r, T::Outcome, E>
where
    DB: Backend,
    T: IdempotentSql<DB>,
    E: FailureOf<By> + Send + 'r,
    By: 'r,
    F: for<'t> Body<&'t mut Tx<DB>, Result<T::Outcome, E>> + Send + Sync + 'r,
{
    // Each statement has to see what was committed before it.
    let mut transaction = transaction(db).read_committed();
    let run = move |wait| -> BoxFuture<'r, Answer<T::Outcome, E>> {
        Box::pin(async move {
            let digest =
                digest.map_err(|error| OnceError::Request(T::operation("once", &key), error))?;
            let job = Job::<T, F, E, By> {
                key,
                digest,
                body,
                error: PhantomData,
            };
            let done = job.run_until_done(&mut transaction, wait);
            T::observed::<DB, _>("once", done).await
        })
    };
    OnceCall {
        run: Box::new(run),
        wait: Duration::ZERO,
    }
}

/// What `once` does in its transaction: claim, run, finish.
struct Job<'k, T: Idempotent, F, E, By> {
    key: T::Key<'k>,
    digest: Digest,
    body: F,
    error: PhantomData<fn() -> (E, By)>,
}

/// Why the transaction of `once` is rolled back.
enum Stop<R, E> {
    /// There is nothing to do.
    Answer(Once<R>),
    Mismatch,
    OtherFingerprint,
    KeyTaken,
    MissingUniqueIndex,
    Ledger(DatabaseError),
    /// The closure returned `Ok` over an error after which the database accepts nothing more.
    Swallowed(DatabaseError),
    Body(E),
}

impl<T: Idempotent, F: Send, E: Send, By> Job<'_, T, F, E, By> {
    fn operation(&self) -> Operation {
        T::operation("once", &self.key)
    }

    async fn run_until_done<DB: Backend, P: Place<DB>>(
        &self,
        transaction: &mut TransactionBuilder<DB, P>,
        wait: Duration,
    ) -> Answer<T::Outcome, E>
    where
        Self: Work<DB, Output = T::Outcome, Error = Stop<T::Outcome, E>>,
    {
        let ends = Instant::now().checked_add(wait);
        let mut asked = 0;
        loop {
            let result = P::run_work(transaction, self).await;
            let outcome = match result {
                Ok(outcome) => Once::Ran(outcome),
                Err(error) => self.answer(error)?,
            };
            let left = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
            if !matches!(outcome, Once::Busy) || left == Some(Duration::ZERO) {
                return Ok(outcome);
            }
            asked += 1;
            let pause = full_jitter(asked, FIRST_WAIT, LONGEST_WAIT);
            tokio::time::sleep(left.map_or(pause, |left| pause.min(left))).await;
        }
    }

    fn answer(&self, error: TransactionError<Stop<T::Outcome, E>>) -> Answer<T::Outcome, E> {
        use TransactionError as Tx;
        Err(OnceError::Transaction(match error {
            Tx::Failed(Stop::Answer(outcome)) => return Ok(outcome),
            Tx::Failed(Stop::Swallowed(error)) => Tx::Aborted(error),
            Tx::Exhausted {
                attempts,
                last: LastFailure::Closure(Stop::Swallowed(error)),
            } => Tx::Exhausted {
                attempts,
                last: LastFailure::Database(error),
            },
            Tx::Failed(stop) => return Err(self.stopped(stop, Tx::Failed)),
            Tx::Exhausted {
                attempts,
                last: LastFailure::Closure(stop),
            } => {
                let exhausted = |error| Tx::Exhausted {
                    attempts,
                    last: LastFailure::Closure(error),
                };
                return Err(self.stopped(stop, exhausted));
            }
            // SQLite's one writer is somebody else, and was for as long as its busy timeout, time after time.
            Tx::Exhausted {
                last: LastFailure::Database(error),
                ..
            } if error.fault() == Fault::Busy => return Ok(Once::Busy),
            Tx::Exhausted {
                attempts,
                last: LastFailure::Database(error),
            } => Tx::Exhausted {
                attempts,
                last: LastFailure::Database(error),
            },
            Tx::Aborted(error) => Tx::Aborted(error),
            Tx::Begin(error) => Tx::Begin(error),
            Tx::Commit(error) => Tx::Commit(error),
            Tx::CommitUnknown(error) => Tx::CommitUnknown(error),
            Tx::DeadlineExceeded { attempts } => Tx::DeadlineExceeded { attempts },
            Tx::TooWeak { asked, found } => Tx::TooWeak { asked, found },
            Tx::NotRun => Tx::NotRun,
        }))
    }

    fn stopped(
        &self,
        stop: Stop<T::Outcome, E>,
        body: impl FnOnce(E) -> TransactionError<E>,
    ) -> OnceError<E> {
        match stop {
            Stop::Body(error) => OnceError::Transaction(body(error)),
            Stop::Ledger(error) => OnceError::Ledger(error),
            Stop::Swallowed(error) => OnceError::Transaction(TransactionError::Aborted(error)),
            Stop::MissingUniqueIndex => {
                OnceError::MissingUniqueIndex(self.operation(), T::KEY_COLUMNS)
            }
            Stop::KeyTaken => OnceError::KeyTaken(self.operation()),
            Stop::OtherFingerprint => OnceError::OtherFingerprint(self.operation()),
            // An answer is no failure, and is returned before this.
            Stop::Mismatch | Stop::Answer(_) => OnceError::Mismatch(self.operation()),
        }
    }
}

impl<DB, T, F, E, By> Work<DB> for Job<'_, T, F, E, By>
where
    DB: Backend,
    T: IdempotentSql<DB>,
    E: FailureOf<By> + Send,
    F: for<'t> Body<&'t mut Tx<DB>, Result<T::Outcome, E>> + Send + Sync,
{
    type Output = T::Outcome;
    type Error = Stop<T::Outcome, E>;

    async fn run(&self, tx: &mut Tx<DB>) -> Result<T::Outcome, Self::Error> {
        let ledger = |error| Stop::Ledger(DatabaseError::new(self.operation(), error));
        // No lease: until the transaction ends nobody else can have the key, and afterwards it is finished.
        let asked =
            match ask::<DB, T>(&self.key, &self.digest, Duration::ZERO, &mut tx.link()).await {
                Ok(asked) => asked,
                Err(error) if lacks_unique_index::<DB, T>(&error, &mut tx.link()).await => {
                    return Err(Stop::MissingUniqueIndex);
                }
                Err(error) => return Err(ledger(error)),
            };
        let fence = match asked {
            Asked::Mine(fence) => fence,
            Asked::KeyTaken => return Err(Stop::KeyTaken),
            Asked::Finished(outcome) => return Err(Stop::Answer(Once::Replayed(outcome))),
            Asked::Busy => return Err(Stop::Answer(Once::Busy)),
            Asked::Mismatch => return Err(Stop::Mismatch),
            Asked::OtherFingerprint => return Err(Stop::OtherFingerprint),
        };
        let outcome = (self.body)(&mut *tx).await.map_err(Stop::Body)?;
        let given_up = tx.is_given_up();
        match finish::<DB, T>(&self.key, fence, &outcome, &mut tx.link()).await {
            Ok(true) => Ok(outcome),
            // Nobody else can have written the row since it was claimed.
            Ok(false) => Err(Stop::KeyTaken),
            // The error of the closure, if it was seen, and else only that there was one.
            Err(error) if given_up || Fault::of(&error) == Fault::TransactionAborted => {
                Err(Stop::Swallowed(DatabaseError::new(self.operation(), error)))
            }
            Err(error) => Err(ledger(error)),
        }
    }

    fn fault(error: &Self::Error) -> Option<Fault> {
        match error {
            Stop::Body(error) => error.fault(),
            Stop::Ledger(error) | Stop::Swallowed(error) => Some(error.fault()),
            _ => None,
        }
    }
}
