//! Running a closure in a transaction, again where that can help.

use std::error::Error;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use sqlx::{Connection as _, Pool};
use tracing::Instrument;

use super::begin::{ToTheEnd, begin};
use super::begins::Place;
use super::budget::RetryBudget;
use super::builder::Hook;
use super::{
    End, Erased, Hooks, LastFailure, Retry, TransactionBuilder, TransactionError, Tx, describe,
};
use crate::backoff::full_jitter;
use crate::db::begin::{Begin, TakeLock};
use crate::db::fault::Fault;
use crate::db::notes::{Call, Torn};
use crate::db::{Backend, Commit};
use crate::observe;

/// How long the question what became of a lost COMMIT may take. Not the deadline, which may be what cut the COMMIT short.
const LONGEST_QUESTION: Duration = Duration::from_secs(5);

/// A closure that can run in one transaction after another: `async |tx| { … }`.
///
/// It runs with a fresh transaction each time. It can borrow from its surroundings but not change them: nothing of a failed attempt may reach the
/// next one.
pub trait Body<A, R>: AsyncFn(A) -> R + Fn(A) -> Self::Future {
    /// What the closure returns.
    type Future: Future<Output = R> + Send;
}

impl<F, A, R, Fut> Body<A, R> for F
where
    F: AsyncFn(A) -> R + Fn(A) -> Fut,
    Fut: Future<Output = R> + Send,
{
    type Future = Fut;
}

/// The error of a transaction's closure: any `std::error::Error`; `anyhow::Error` and `Box<dyn Error + Send + Sync>`, which do not implement it;
/// `String` and `&'static str`. `By` is inferred.
///
/// Whether the transaction runs again depends on the database's answers to its statements on `&mut *tx`. Only if some of them ran on the connection
/// itself (`&mut **tx`, [`Tx::as_sqlx`]), where rowlock does not see their errors, does it search this error for the database's.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a transaction",
    label = "the closure returns this error",
    note = "use a type that implements `std::error::Error`, `anyhow::Error`, `Box<dyn Error + Send + Sync>` or `String`"
)]
pub trait FailureOf<By>: Sized {
    /// What the transaction's error carries: this error itself, or in [`Erased`].
    type Carried;
    /// The fault of the first database error in the chain; [`Fault::CompletionUnknown`] if it is one of an unknown outcome.
    fn fault(&self) -> Option<Fault>;
    #[doc(hidden)]
    fn carried(self) -> Self::Carried;
}

/// The closure's error, told from what the transaction's error carries: so the type of `run`'s result is enough for the compiler.
pub trait Carries<E, By> {}

/// See [`FailureOf`].
#[derive(Debug)]
pub struct ByError;
/// See [`FailureOf`].
#[derive(Debug)]
pub struct ByReference;
/// See [`FailureOf`].
#[derive(Debug)]
pub struct ByText;

impl<E: Error + 'static> FailureOf<ByError> for E {
    type Carried = Self;
    fn fault(&self) -> Option<Fault> {
        Fault::of_outcome(self)
    }
    fn carried(self) -> Self {
        self
    }
}
impl<E: Error + 'static> Carries<E, ByError> for E {}

impl<E: AsRef<dyn Error + Send + Sync>> FailureOf<ByReference> for E {
    type Carried = Erased<E>;
    fn fault(&self) -> Option<Fault> {
        Fault::of_outcome(self.as_ref())
    }
    fn carried(self) -> Erased<E> {
        Erased(self)
    }
}
impl<E: AsRef<dyn Error + Send + Sync>> Carries<E, ByReference> for Erased<E> {}

impl FailureOf<ByText> for String {
    type Carried = Self;
    fn fault(&self) -> Option<Fault> {
        None
    }
    fn carried(self) -> Self {
        self
    }
}
impl Carries<Self, ByText> for String {}

impl FailureOf<ByText> for &'static str {
    type Carried = Self;
    fn fault(&self) -> Option<Fault> {
        None
    }
    fn carried(self) -> Self {
        self
    }
}
impl Carries<Self, ByText> for &'static str {}

/// What is done between BEGIN and COMMIT. A trait and not a closure, because the futures of a closure that wraps another
/// one cannot be shown to be `Send`.
pub trait Work<DB: Backend>: Send + Sync {
    type Output: Send;
    type Error: Send;
    fn run(
        &self,
        tx: &mut Tx<DB>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    fn fault(error: &Self::Error) -> Option<Fault>;
}

/// The user's closure, and how its error is looked into.
struct Closure<F, R, By>(F, PhantomData<fn() -> (R, By)>);

impl<DB, F, T, E, By> Work<DB> for Closure<F, Result<T, E>, By>
where
    DB: Backend,
    T: Send,
    E: FailureOf<By> + Send,
    F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Send + Sync,
{
    type Output = T;
    type Error = E;

    fn run(&self, tx: &mut Tx<DB>) -> impl Future<Output = Result<T, E>> + Send {
        self.0(tx)
    }

    fn fault(error: &E) -> Option<Fault> {
        error.fault()
    }
}

/// How one attempt ended.
pub(super) enum Ended<T, E> {
    Committed(T),
    /// The deadline passed before COMMIT was sent.
    TooLate,
    /// Another session has the lock that it should begin with.
    NotFree,
    /// Whether another attempt can help is the fault's to say.
    Failed(TransactionError<E>, Option<Fault>),
}

impl<DB: Backend, P: Place<DB>> TransactionBuilder<DB, P> {
    /// Runs `body` in a transaction and commits; runs all of it again, in a new transaction, if the database asks for that.
    ///
    /// `body` is an `async |tx| { … }` with `tx: &mut Tx`. Its `Ok` commits, its `Err` rolls back. `E` is any error type, `anyhow::Error`, `Box<dyn
    /// Error + Send + Sync>`, `String` or `&'static str`: rowlock knows the database's answers to statements on `&mut *tx` without it. For statements
    /// on the connection itself it searches the error's `source()` chain. [`rowlock::Error`](crate::Error) takes the errors of all methods of models.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    /// # sqlx::raw_sql("CREATE TABLE bookings (room bigint NOT NULL, guest text NOT NULL)").execute(&pool).await?;
    /// use std::time::Duration;
    ///
    /// let guest = "Ann";
    /// let booked = rowlock::transaction(&pool)
    ///     .serializable()
    ///     .attempts(10)
    ///     .deadline(Duration::from_secs(2))
    ///     .on_retry(|retry| eprintln!("attempt {} lost: {}", retry.attempt, retry.fault))
    ///     .run(async |tx| {
    ///         let taken: i64 = sqlx::query_scalar("SELECT count(*) FROM bookings WHERE room = 12")
    ///             .fetch_one(&mut *tx)
    ///             .await?;
    ///         if taken > 0 {
    ///             return Ok(false);
    ///         }
    ///         sqlx::query("INSERT INTO bookings VALUES (12, $1)").bind(guest).execute(&mut *tx).await?;
    ///         Ok::<_, sqlx::Error>(true)
    ///     })
    ///     .await?;
    /// assert!(booked);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # The closure must be safe to run again
    ///
    /// It starts from nothing each time: read everything that the decision depends on inside it. Its writes to the database are rolled back before it
    /// runs again; an e-mail, a message, a file or a counter in memory is not. Do those after `run` has returned `Ok`, or with
    /// [`on_commit`](crate::Tx::on_commit). The closure can borrow from its surroundings but not change them.
    ///
    /// # What is run again
    ///
    /// Faults after which the same transaction can succeed without any change ([`Fault::is_transient`]), wherever they occur: in BEGIN, in a
    /// statement of the closure, whatever the closure makes of its error, or in COMMIT.
    ///
    /// | run again | |
    /// |---|---|
    /// | [`Fault::Serialization`] | SQLSTATE 40001, SQLite `BUSY_SNAPSHOT` |
    /// | [`Fault::Deadlock`] | SQLSTATE 40P01 |
    /// | [`Fault::Busy`] | SQLite `BUSY` or `LOCKED` |
    /// | [`Fault::StaleStatement`] | a prepared statement whose table was altered |
    /// | [`Fault::ConnectionLost`] before COMMIT | on another connection |
    /// | [`Fault::LimitReached`] in BEGIN | too many connections: SQLSTATE 53300, 53400 |
    ///
    /// Nothing else runs again: not a connection lost during COMMIT, unless the server says that it rolled back; a violated constraint; `Stale` and
    /// `OutOfBounds` of the generated methods, which are your decision; lock and statement timeouts; a pool without a free connection; errors that
    /// are not the database's.
    ///
    /// Before each further attempt it waits for a random time between zero and a ceiling, which doubles from attempt to attempt up to a limit
    /// ([`backoff`](Self::backoff)). The connection goes back to the pool before the wait.
    ///
    /// # SQL
    ///
    /// On PostgreSQL, each line one round trip:
    ///
    /// ```sql
    /// BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL lock_timeout = 200; SET LOCAL statement_timeout = 2000
    /// -- the closure's statements
    /// COMMIT
    /// ```
    ///
    /// The first line has only the settings that you asked for. PostgreSQL answers COMMIT of an aborted transaction with a rollback and no error, and
    /// sqlx with `Ok`. So if a statement failed, or its answer was not read to the end, rowlock sends `SELECT; COMMIT AND CHAIN`, still one round
    /// trip: the empty SELECT fails in an aborted transaction, and AND CHAIN outside of one. A ROLLBACK of the transaction that CHAIN opens leaves
    /// with the ping of the pool. If you used the connection itself (see [`Tx`](crate::Tx)), `SELECT current_setting('rowlock.tx')::boolean` replaces
    /// the empty SELECT. `ask_after_lost_commit` first asks for the transaction's id, in a round trip of its own.
    ///
    /// On SQLite `BEGIN IMMEDIATE`, or with [`read_only`](Self::read_only) `BEGIN`, and `COMMIT`. `BEGIN IMMEDIATE` takes the write lock of the whole
    /// database, so there is one such transaction at a time, and it never loses: only BEGIN can be [`Fault::Busy`], and in journal modes other than
    /// WAL also COMMIT, which then waits for readers. `read_only` takes no lock there and refuses no write.
    ///
    /// # Isolation
    ///
    /// Below SERIALIZABLE a decision is safe only for rows that you locked first (see [`Lockable`](derive@crate::Lockable)), and for checks that are
    /// part of the writing statement. A SERIALIZABLE read can be refused at COMMIT: nothing you read is certain before `run` has returned `Ok`.
    ///
    /// # Errors
    ///
    /// | [`TransactionError`] | |
    /// |---|---|
    /// | `Failed(error)` | the closure's error, if running it again would not help |
    /// | `Aborted` | the closure returned `Ok`, but a statement in it had failed and PostgreSQL had given the transaction up (the error is that of the first statement that failed); a statement's future was dropped; a savepoint was left open; or the transaction was ended by hand |
    /// | `Begin` | no connection, or BEGIN failed; the closure did not run in this attempt |
    /// | `Commit` | COMMIT failed, of a deferred constraint for example |
    /// | `CommitUnknown` | the connection was lost during COMMIT: committed or not |
    /// | `Exhausted` | every attempt failed in a way that another one could have mended; has the last error |
    /// | `DeadlineExceeded` | the deadline passed |
    /// | `TooWeak` | inside a [`Tx`] of a weaker isolation level than was asked for; nothing was run |
    /// | `NotRun` | `attempts(0)` |
    ///
    /// A deadline that passes during COMMIT is `CommitUnknown`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or a panic in the closure, rolls back, even during BEGIN (which sqlx 0.9.0 alone would leave open). A statement that was
    /// sent runs until the rollback reaches the server. During COMMIT, the transaction is committed or it is not.
    ///
    /// # Origin
    ///
    /// `atomic` of Django and `transaction` of Ecto and Rails, with the loop that
    /// [PostgreSQL's manual](https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html) asks for, as
    /// CockroachDB's client libraries have it. The waits are the "full jitter" of
    /// [Exponential Backoff And Jitter](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    pub fn run<'r, T, E, C, By, F>(
        mut self,
        body: F,
    ) -> impl Future<Output = Result<T, TransactionError<C>>> + Send + 'r
    where
        T: Send + 'r,
        E: FailureOf<By, Carried = C> + Send + 'r,
        C: Carries<E, By> + 'r,
        By: 'r,
        F: for<'t> Body<&'t mut Tx<DB>, Result<T, E>> + Send + Sync + 'r,
        P: 'r,
    {
        async move {
            let done = P::run_work(&mut self, &Closure(body, PhantomData)).await;
            done.map_err(|error| error.map(E::carried))
        }
    }
}

impl<DB: Backend, P> TransactionBuilder<DB, P> {
    pub(super) fn ends(&self) -> Option<Instant> {
        self.deadline
            .and_then(|left| Instant::now().checked_add(left))
    }

    /// What is asked of a transaction that begins now.
    pub(super) fn asked(&self, ends: Option<Instant>) -> Begin {
        Begin {
            isolation: self.isolation,
            read_only: self.read_only,
            lock_timeout: self.lock_limit,
            statement_timeout: self.statement_limit,
            left: ends.map(|ends| ends.saturating_duration_since(Instant::now())),
            advisory: self.advisory,
        }
    }
}

impl<DB: Backend> TransactionBuilder<DB> {
    /// Runs `work`, again from its start where that can help.
    pub(crate) fn run_work<W: Work<DB>>(
        &self,
        work: &W,
    ) -> impl Future<Output = Result<W::Output, TransactionError<W::Error>>> + Send {
        async move {
            if self.attempts == 0 {
                return Err(TransactionError::NotRun);
            }
            if let Some(budget) = &self.budget {
                budget.deposit();
            }
            let ends = self.ends();
            let mut attempt = 0;
            let mut stale = false;
            loop {
                attempt += 1;
                let exceeded = TransactionError::DeadlineExceeded { attempts: attempt };
                if ends.is_some_and(|ends| ends <= Instant::now()) {
                    return Err(exceeded);
                }
                let (error, fault) = match self.run_once(work, ends, stale).await {
                    Ended::Committed(value) => return Ok(value),
                    Ended::TooLate => return Err(exceeded),
                    Ended::NotFree => return Err(TransactionError::NotRun),
                    Ended::Failed(error, fault) => (error, fault),
                };
                let passes = match error {
                    TransactionError::Begin(_) => Fault::is_transient_at_begin,
                    _ => Fault::is_transient,
                };
                let Some(fault) = fault.filter(|fault| passes(*fault)) else {
                    return Err(error);
                };
                stale |= fault == Fault::StaleStatement;
                let refused = || !self.budget.as_ref().is_none_or(RetryBudget::withdraw);
                if attempt == self.attempts || refused() {
                    observe::gave_up("transaction", &fault, attempt);
                    return Err(exhausted(attempt, error));
                }
                let wait = full_jitter(attempt, self.first_wait, self.longest_wait);
                if let Some(Hook(hook)) = &self.on_retry {
                    hook(&Retry {
                        attempt,
                        fault,
                        wait,
                    });
                }
                observe::runs_again("transaction", &fault, attempt, wait);
                if within(ends, tokio::time::sleep(wait)).await.is_none() {
                    return Err(exceeded);
                }
            }
        }
        .instrument(tracing::debug_span!("rowlock.transaction"))
    }

    /// Makes an advisory lock the first thing of the transaction.
    pub(crate) fn under(mut self, lock: TakeLock) -> Self {
        self.advisory = Some(lock);
        self
    }

    /// Runs `work` at most once. `None` if another session has the lock.
    pub(crate) async fn run_work_once<W: Work<DB>>(
        &self,
        work: &W,
    ) -> Result<Option<W::Output>, TransactionError<W::Error>> {
        match self.run_once(work, self.ends(), false).await {
            Ended::Committed(value) => Ok(Some(value)),
            Ended::TooLate => Err(TransactionError::DeadlineExceeded { attempts: 1 }),
            Ended::NotFree => Ok(None),
            Ended::Failed(error, _) => Err(error),
        }
    }

    async fn run_once<W: Work<DB>>(
        &self,
        work: &W,
        ends: Option<Instant>,
        stale: bool,
    ) -> Ended<W::Output, W::Error> {
        let asked = self.asked(ends);
        let started = Instant::now();
        let begun = within(ends, begin(&self.place, &asked)).await;
        if asked.advisory.is_some() {
            let is_taken = matches!(begun, Some(Ok(Some(_))));
            observe::waited_for_lock("advisory", started.elapsed(), is_taken);
        }
        let Some(begun) = begun else {
            return Ended::TooLate;
        };
        let mut tx = match begun {
            Ok(Some(inner)) => Tx::new(inner),
            Ok(None) => return Ended::NotFree,
            Err(error) => {
                let error = describe(error);
                let fault = error.fault();
                return Ended::Failed(TransactionError::Begin(error), Some(fault));
            }
        };
        if stale {
            // What one connection of the pool has prepared is stale on all of them, and each would cost an attempt. If this
            // fails, so does the work.
            within(ends, tx.inner.clear_cached_statements()).await;
        }
        // Dropping what did not end in time queues a ROLLBACK.
        match within(ends, work.run(&mut tx)).await {
            None => Ended::TooLate,
            Some(Ok(value)) => {
                let pool = self.ask_after_commit.then_some(&self.place);
                commit(tx, value, ends, pool).await
            }
            Some(Err(error)) => {
                let (seen, lent) = (tx.notes.last(), tx.notes.lent());
                // The server's limit for a statement is what was left at BEGIN, and it can be faster than our clock.
                if seen == Some(Fault::Canceled) && is_due(ends) {
                    return Ended::TooLate;
                }
                let undone = within(ends, tx.roll_back()).await;
                let fault =
                    worth_a_retry(seen, W::fault(&error), lent, matches!(undone, Some(Err(_))));
                Ended::Failed(TransactionError::Failed(error), fault)
            }
        }
    }
}

/// Whether the deadline is now, but for what a timer of milliseconds is off.
fn is_due(ends: Option<Instant>) -> bool {
    ends.is_some_and(|ends| ends <= Instant::now() + Duration::from_millis(5))
}

/// COMMIT. `pool`: where to ask what became of it if the connection is lost.
pub(super) async fn commit<DB: Backend, T, E>(
    mut tx: Tx<DB>,
    value: T,
    ends: Option<Instant>,
    pool: Option<&Pool<DB>>,
) -> Ended<T, E> {
    // A server can be asked by COMMIT itself.
    let asks = DB::EMBEDDED || !tx.notes.is_marked() || tx.notes.is_unread();
    if tx.notes.must_ask(DB::EMBEDDED)
        && asks
        && within(ends, tx.link().probe(Call::Savepoint))
            .await
            .is_none()
    {
        return Ended::TooLate;
    }
    let torn = if tx.notes.dropped() {
        Some(Torn::Dropped)
    } else if let Err(torn) = tx.notes.check(tx.depth()) {
        Some(torn)
    } else {
        tx.has_leaked(0).then_some(Torn::Savepoint)
    };
    if tx.notes.lost() {
        return lost_before(tx, ends).await;
    }
    if let Some(torn) = torn {
        within(ends, tx.roll_back()).await;
        return Ended::Failed(TransactionError::Aborted(describe(torn.into())), None);
    }
    let mut id = None;
    if pool.is_some() {
        match within(ends, DB::id(&mut tx.inner)).await {
            None => return Ended::TooLate,
            Some(Ok(found)) => id = Some(found),
            Some(Err(error)) => return not_committed(tx, error, ends).await,
        }
    }
    tx.end = End::Sent;
    let looks = tx.notes.looks_at_commit();
    let error = match within(ends, DB::commit(&mut tx.inner, looks, tx.height)).await {
        Some(Commit::Done) => {
            if tx.depth() == 0 {
                tx.end = End::Reached;
            }
            let hooks = std::mem::take(&mut tx.hooks);
            // The connection goes back to the pool, where a hook may want one.
            drop(tx);
            run_hooks(hooks).await;
            return Ended::Committed(value);
        }
        Some(Commit::Refused(error)) => return not_committed(tx, error, ends).await,
        Some(Commit::Unanswered(error)) => error,
        // A COMMIT without an answer is as good as a lost connection.
        None => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
    };
    let error = describe(error);
    let hooks = std::mem::take(&mut tx.hooks);
    drop(tx);
    match what_became_of(pool, id).await {
        Some(true) => {
            run_hooks(hooks).await;
            Ended::Committed(value)
        }
        Some(false) => {
            let fault = error.fault();
            Ended::Failed(TransactionError::Commit(error), Some(fault))
        }
        None => Ended::Failed(
            TransactionError::CommitUnknown(error.of_unknown_outcome()),
            None,
        ),
    }
}

/// A statement before COMMIT, or what undid a savepoint, met the end of the connection; the closure made nothing of it.
async fn lost_before<DB: Backend, T, E>(tx: Tx<DB>, ends: Option<Instant>) -> Ended<T, E> {
    let first = tx.notes.first().map(|(first, _)| first);
    let lost = matches!(within(ends, tx.roll_back()).await, Some(Err(_)));
    let error = first.unwrap_or(sqlx::Error::Io(
        std::io::ErrorKind::ConnectionAborted.into(),
    ));
    let fault = lost.then_some(Fault::ConnectionLost);
    Ended::Failed(TransactionError::Aborted(describe(error)), fault)
}

/// COMMIT said no, or an earlier statement had.
async fn not_committed<DB: Backend, T, E>(
    tx: Tx<DB>,
    error: sqlx::Error,
    ends: Option<Instant>,
) -> Ended<T, E> {
    let first = tx.notes.first();
    within(ends, tx.roll_back()).await;
    let torn = Torn::is(&error);
    let error = describe(error);
    if torn {
        return Ended::Failed(TransactionError::Aborted(error), None);
    }
    match error.fault() {
        Fault::TransactionAborted => match first {
            Some((first, fault)) => {
                Ended::Failed(TransactionError::Aborted(describe(first)), Some(fault))
            }
            // The statement that failed is not known, so neither is whether it was worth another attempt.
            None => Ended::Failed(TransactionError::Aborted(error), None),
        },
        Fault::NoTransaction => Ended::Failed(TransactionError::Aborted(error), None),
        fault => Ended::Failed(TransactionError::Commit(error), Some(fault)),
    }
}

/// Whether the transaction with this id was committed, if the caller wants to know and the server can tell.
async fn what_became_of<DB: Backend>(
    pool: Option<&Pool<DB>>,
    id: Option<Option<String>>,
) -> Option<bool> {
    let (pool, id) = (pool?, id?);
    let Some(id) = id else {
        // It wrote nothing, so it can as well have been rolled back.
        return Some(false);
    };
    let question = async {
        let mut connection = pool.acquire().await.ok()?;
        DB::was_committed(&mut connection, id).await
    };
    let answer = tokio::time::timeout(LONGEST_QUESTION, question).await;
    answer.ok().flatten()
}

/// Waits for `future` until the deadline, if there is one.
pub(super) async fn within<F: Future>(ends: Option<Instant>, future: F) -> Option<F::Output> {
    match ends {
        None => Some(future.await),
        Some(ends) => tokio::time::timeout_at(ends.into(), future).await.ok(),
    }
}

pub(super) fn exhausted<E>(attempts: u32, error: TransactionError<E>) -> TransactionError<E> {
    let last = match error {
        TransactionError::Failed(error) => LastFailure::Closure(error),
        TransactionError::Begin(error)
        | TransactionError::Commit(error)
        | TransactionError::Aborted(error) => LastFailure::Database(error),
        // The others are never transient.
        other => return other,
    };
    TransactionError::Exhausted { attempts, last }
}

/// Runs what was to come after COMMIT. A panic keeps none of the others from running.
async fn run_hooks(hooks: Hooks) {
    if hooks.is_empty() {
        return;
    }
    let all = async move {
        let mut first = Ok(());
        for hook in hooks {
            let ran = AssertUnwindSafe(hook).catch_unwind().await;
            first = first.and(ran);
        }
        first
    };
    if let Err(panic) = ToTheEnd::new(all).await {
        resume_unwind(panic);
    }
}

/// The fault that is a reason to run all of it again.
///
/// `seen`: how the last statement failed that was seen. `told`: what the closure's error says. `lent`: some statements were not seen.
/// `lost`: the connection could not even roll back.
pub(super) fn worth_a_retry(
    seen: Option<Fault>,
    told: Option<Fault>,
    lent: bool,
    lost: bool,
) -> Option<Fault> {
    // It may have happened, be it in this database or in another one: running it again could make it happen twice.
    if told == Some(Fault::CompletionUnknown) {
        return None;
    }
    // A lock that was not to be waited for: SQLite's code for it is that of any lock.
    if told == Some(Fault::LockTimeout) {
        return None;
    }
    // Files and other servers break as well, and sqlx says the same of a statement that it could not send.
    let is_reason =
        |fault: &Fault| fault.is_transient() && (*fault != Fault::ConnectionLost || lost);
    // What was seen can be of a savepoint that was undone, before what was not.
    let told = told.filter(|_| lent);
    seen.into_iter().chain(told).find(is_reason)
}
