//! Many calls at once, but not too many: a limit, two time limits, four policies.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Instrument;

/// After how many calls that ended without a wait in between the caller's task yields to others.
const YIELD_AFTER: usize = 64;

/// Makes many calls at once, at most `limit` of them at a time, and waits for them.
///
/// A call is a future of a `Result`: a request to another service, say. Four methods run them and differ in when they end:
///
/// | method | ends | returns |
/// |---|---|---|
/// | [`collect`](FanOut::collect) | when all calls have ended | the outcome of each |
/// | [`try_collect`](FanOut::try_collect) | at the first error | all values, or that error |
/// | [`first_ok`](FanOut::first_ok) | at the first success | that value, or the outcome of each |
/// | [`quorum`](FanOut::quorum) | at the n-th success, or when it is out of reach | n values, or the outcome of each |
///
/// ```
/// use std::num::NonZero;
/// use std::time::Duration;
///
/// use rowlock::fan_out;
/// use rowlock::fan_out::CallError;
///
/// async fn price(shop: &str) -> Result<u32, String> {
///     match shop {
///         "corner" => Ok(12),
///         "mall" => std::future::pending().await,
///         _ => Err("closed".to_owned()),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let shops = ["corner", "mall", "kiosk"];
/// let calls = fan_out(NonZero::new(2).unwrap())
///     .call_timeout(Duration::from_millis(20))
///     .deadline(Duration::from_secs(1))
///     .collect(shops.iter().map(|shop| price(shop)))
///     .await;
///
/// // In the order of the shops, whoever answered first.
/// assert_eq!(calls[0].outcome, Ok(12));
/// assert_eq!(calls[1].outcome, Err(CallError::TimedOut));
/// assert_eq!(calls[2].outcome, Err(CallError::Failed("closed".to_owned())));
/// # }
/// ```
///
/// # One task
///
/// The calls run inside the future that the method returns: in the caller's task, not in tasks of their own. So they can borrow, dropping that future
/// drops them all at once, and none is left when it returns. The price: a call that blocks the thread holds up all others and their time limits. For
/// work that computes, spawn inside the call:
///
/// ```
/// # use std::num::NonZero;
/// # async fn digest(parts: Vec<Vec<u8>>) -> Result<Vec<u64>, rowlock::fan_out::FirstError<tokio::task::JoinError>> {
/// rowlock::fan_out(NonZero::new(4).unwrap())
///     .try_collect(parts.into_iter().map(|part| tokio::task::spawn_blocking(move || {
///         part.iter().map(|byte| u64::from(*byte)).sum::<u64>()
///     })))
///     .await
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() { assert_eq!(digest(vec![vec![1, 2], vec![3]]).await.unwrap(), [3, 3]); }
/// ```
///
/// What a call has spawned is not stopped with it; blocking work cannot be.
///
/// # Started late
///
/// The iterator is asked for the next call when there is a free place, so ten thousand calls with a limit of eight are never more than eight futures.
/// What the iterator itself does happens then, too: put work in the future. Methods that report on each call (`collect`, and the errors of `first_ok`
/// and `quorum`) still run the iterator to its end after the deadline or a decision, dropping the futures unpolled: it must end. A panic of the
/// iterator propagates to the caller.
///
/// # Dropping
///
/// The methods return a future that does nothing until it is polled. Dropping it drops all its calls at once, wherever they were. That does not take
/// back what a call has already sent: make calls repeatable under a key, so that one whose answer was lost does no harm.
///
/// # Not inside a transaction
///
/// Hold no connection and no lock during calls to other services. Read first, then fan out, then write in one transaction:
///
/// ```
/// # async fn setup() -> Result<sqlx::SqlitePool, sqlx::Error> {
/// #     let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// #     sqlx::raw_sql("CREATE TABLE parcels (id bigint PRIMARY KEY, place text); INSERT INTO parcels VALUES (1, NULL), (2, NULL)").execute(&pool).await?;
/// #     Ok(pool)
/// # }
/// # async fn locate(parcel: i64) -> Result<String, std::io::Error> { Ok(format!("hub {parcel}")) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = setup().await?;
/// use std::num::NonZero;
///
/// // Read: the connection is back in the pool after this line.
/// let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM parcels WHERE place IS NULL").fetch_all(&pool).await?;
///
/// // Fan out.
/// let places = rowlock::fan_out(NonZero::new(8).unwrap())
///     .collect(ids.iter().map(|id| locate(*id)))
///     .await;
///
/// // Write what is known, together.
/// rowlock::transaction(&pool)
///     .run(async |tx| {
///         for (id, call) in ids.iter().zip(&places) {
///             let Ok(place) = &call.outcome else { continue };
///             let sql = "UPDATE parcels SET place = $1 WHERE id = $2 AND place IS NULL";
///             sqlx::query(sql).bind(place).bind(id).execute(&mut *tx).await?;
///         }
///         Ok::<_, sqlx::Error>(())
///     })
///     .await?;
/// # let known: i64 = sqlx::query_scalar("SELECT count(place) FROM parcels").fetch_one(&pool).await?;
/// # assert_eq!(known, 2);
/// # Ok(())
/// # }
/// ```
///
/// The compiler helps: a [`Tx`](crate::Tx) is only useful as `&mut`, and no two calls can have that at a time, so calls that use the open transaction
/// do not compile. (A call can still take a connection from a pool; then the pool needs as many as the limit, or calls wait for each other.)
///
/// # Origin
///
/// The limit is Go's `errgroup.SetLimit`, without its limit of zero that admits nothing; the policies and the rule that nothing outlives the call are
/// those of Java's `StructuredTaskScope`. `buffer_unordered` of futures has the limit, but does not poll its calls while the consuming loop awaits
/// something else, so timeouts pass unnoticed and semaphores lock up ([futures-rs #2387](https://github.com/rust-lang/futures-rs/issues/2387)). Here
/// nothing is handed out before the end, and all running calls are polled until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing is called until one of `collect`, `try_collect`, `first_ok` and `quorum` is awaited"]
pub struct FanOut {
    limit: NonZero<usize>,
    call_timeout: Option<Duration>,
    deadline: Option<Duration>,
}

/// Starts a [`FanOut`] of at most `limit` calls at a time, without time limits.
pub fn fan_out(limit: NonZero<usize>) -> FanOut {
    FanOut {
        limit,
        call_timeout: None,
        deadline: None,
    }
}

/// The outcome of a call, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call<T, E> {
    /// Its value, or why there is none.
    pub outcome: Result<T, CallError<E>>,
    /// From the start of the group until the call had a place; until the end of the group if it never had one.
    pub queued: Duration,
    /// From then until the call ended or was stopped. Zero if it did not start.
    pub ran: Duration,
}

/// Why a call has no value. `Display` shows the error of the call itself, if there is one, and otherwise no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// The call itself failed.
    #[error("{0}")]
    Failed(#[source] E),
    /// It ran for longer than [`FanOut::call_timeout`] and was dropped.
    #[error("the call took too long")]
    TimedOut,
    /// It was running when [`FanOut::deadline`] passed, and was dropped.
    #[error("the deadline passed while the call was running")]
    DeadlineExceeded,
    /// The deadline passed, or the group was decided, before there was a place for it. It did not run at all.
    #[error("the call was not started")]
    NotStarted,
    /// It was running when other calls decided the group, and was dropped. It has not failed.
    #[error("the call was cancelled")]
    Cancelled,
    /// It panicked, possibly when it was dropped after its end or a timeout. Holds the panic's message, or an empty text.
    ///
    /// The panic hook has run. Under `panic = "abort"` this never happens. If a call is dropped because the group is over and panics then, only the
    /// hook knows: its outcome stays what it would have been.
    #[error("the call panicked")]
    Panicked(String),
}

/// The error that ended [`FanOut::try_collect`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("call {index}: {error}")]
#[non_exhaustive]
pub struct FirstError<E> {
    /// The place of the call in the input, from 0.
    pub index: usize,
    /// Why it has no value.
    #[source]
    pub error: CallError<E>,
}

/// [`FanOut::first_ok`] or [`FanOut::quorum`] got fewer successes than needed.
///
/// `Debug` shows no values, so `T` and `E` need not have it. As a `std::error::Error`, its source is the [`CallError`] of the first call in
/// input order that failed, took too long or panicked.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooFewSucceeded<T, E> {
    /// How many were needed.
    pub needed: usize,
    /// The outcome of each call, in input order.
    pub calls: Vec<Call<T, E>>,
}

impl<T, E> TooFewSucceeded<T, E> {
    fn succeeded(&self) -> usize {
        self.calls
            .iter()
            .filter(|call| call.outcome.is_ok())
            .count()
    }
}

impl<T, E> fmt::Display for TooFewSucceeded<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (succeeded, calls, needed) = (self.succeeded(), self.calls.len(), self.needed);
        write!(f, "{succeeded} of {calls} calls succeeded, {needed} needed")
    }
}

impl<T, E> fmt::Debug for TooFewSucceeded<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TooFewSucceeded")
            .field("needed", &self.needed)
            .field("succeeded", &self.succeeded())
            .field("calls", &self.calls.len())
            .finish()
    }
}

impl<T, E: Error + 'static> Error for TooFewSucceeded<T, E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.calls.iter().find_map(|call| match &call.outcome {
            Err(CallError::NotStarted | CallError::Cancelled) | Ok(_) => None,
            Err(error) => Some(error as &(dyn Error + 'static)),
        })
    }
}

impl FanOut {
    /// How long each call may run, from when it has a place: time in the queue does not count. After that it is dropped and its outcome is
    /// [`CallError::TimedOut`]. With zero, only calls that are ready at once succeed.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = Some(timeout);
        self
    }

    /// How long the group may take, from the first poll of the returned future. After that, running calls are dropped as
    /// [`CallError::DeadlineExceeded`] and the others are [`CallError::NotStarted`]. Zero runs nothing.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Waits for all calls, and returns the outcome of each, in input order.
    ///
    /// No call is ever [`Cancelled`](CallError::Cancelled) here.
    pub fn collect<I, F, T, E>(self, calls: I) -> impl Future<Output = Vec<Call<T, E>>> + Send
    where
        I: IntoIterator<Item = F, IntoIter: Send>,
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: Send,
    {
        let calls = calls.into_iter();
        async move {
            let (group, rest) = self.run(calls, Goal::All).await;
            group.into_calls(rest)
        }
        .instrument(self.span("collect"))
    }

    /// Returns the values in input order if all calls succeed, and otherwise the first error in time, of whatever kind; the other calls are dropped,
    /// and no more are started. No calls is `Ok`, even with a deadline of zero.
    ///
    /// If the deadline ends the group, the error is that of the first call in input order that had not ended. Only if all started calls had succeeded
    /// by then, it takes one more from the iterator and drops it unpolled: without one it is `Ok`.
    ///
    /// ```
    /// # use std::num::NonZero;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use rowlock::fan_out;
    /// use rowlock::fan_out::CallError;
    ///
    /// let texts = ["1", "2", "three", "4"];
    /// let numbers = fan_out(NonZero::new(2).unwrap()).try_collect(texts.iter().map(async |text| text.parse::<u8>()));
    /// let error = numbers.await.unwrap_err();
    /// assert_eq!(error.index, 2);
    /// assert!(matches!(error.error, CallError::Failed(_)));
    /// # }
    /// ```
    pub fn try_collect<I, F, T, E>(
        self,
        calls: I,
    ) -> impl Future<Output = Result<Vec<T>, FirstError<E>>> + Send
    where
        I: IntoIterator<Item = F, IntoIter: Send>,
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: Send,
    {
        let calls = calls.into_iter();
        async move {
            let (group, mut rest) = self.run(calls, Goal::NoError).await;
            let total = group.slots.len();
            let failed = group.failed.first().copied();
            let mut values = Vec::with_capacity(total);
            for (index, call) in group.into_calls(None::<F>).into_iter().enumerate() {
                match call.outcome {
                    Ok(value) => values.push(value),
                    Err(error) if failed.is_none_or(|failed| failed == index) => {
                        return Err(FirstError { index, error });
                    }
                    Err(_) => {}
                }
            }
            // All that were started have succeeded. The iterator alone knows whether the deadline came before the end.
            match rest.next() {
                Some(call) => {
                    drop(Contained::new(call));
                    Err(FirstError {
                        index: total,
                        error: CallError::NotStarted,
                    })
                }
                None => Ok(values),
            }
        }
        .instrument(self.span("try_collect"))
    }

    /// Returns the first value in time; the other calls are dropped, and no more are started. If no call succeeds, or there is none, the error has
    /// the outcome of each.
    ///
    /// With a limit of 1 it makes one call after the other until one succeeds.
    ///
    /// ```
    /// # use std::num::NonZero;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # async fn ask(mirror: &str) -> Result<&str, String> {
    /// #     if mirror == "near" { Err("busy".to_owned()) } else { Ok(mirror) }
    /// # }
    /// let mirrors = ["near", "far"];
    /// let answer = rowlock::fan_out(NonZero::new(1).unwrap()).first_ok(mirrors.iter().map(|mirror| ask(mirror))).await;
    /// assert_eq!(answer, Ok("far"));
    /// # }
    /// ```
    pub fn first_ok<I, F, T, E>(
        self,
        calls: I,
    ) -> impl Future<Output = Result<T, TooFewSucceeded<T, E>>> + Send
    where
        I: IntoIterator<Item = F, IntoIter: Send>,
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: Send,
    {
        let calls = calls.into_iter();
        async move {
            let (mut group, rest) = self.run(calls, Goal::Successes(1)).await;
            group.take_value().ok_or_else(|| TooFewSucceeded {
                needed: 1,
                calls: group.into_calls(rest),
            })
        }
        .instrument(self.span("first_ok"))
    }

    /// Returns the first `n` values in time, each with the place of its call in the input (from 0), in input order; the other calls are dropped, and
    /// no more are started.
    ///
    /// It is an error as soon as `n` is out of reach: the calls that still run are then
    /// [`Cancelled`](CallError::Cancelled), the others [`NotStarted`](CallError::NotStarted). How many are still to come is
    /// what the iterator's `size_hint` says: with a `Vec` or a range, an `n` above their number fails before anything is called.
    /// `quorum(0)` is `Ok` at once and calls nothing.
    ///
    /// ```
    /// # use std::num::NonZero;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # async fn store(replica: u8) -> Result<u8, String> {
    /// #     if replica == 1 { Err("no space".to_owned()) } else { Ok(replica) }
    /// # }
    /// let three = NonZero::new(3).unwrap();
    /// let stored = rowlock::fan_out(three).quorum(2, [1, 2, 3].map(store)).await;
    /// assert_eq!(stored, Ok(vec![(1, 2), (2, 3)]));
    ///
    /// let error = rowlock::fan_out(three).quorum(3, [1, 2, 3].map(store)).await.unwrap_err();
    /// assert_eq!(error.needed, 3);
    /// assert_eq!(error.calls.len(), 3);
    /// # }
    /// ```
    pub fn quorum<I, F, T, E>(
        self,
        n: usize,
        calls: I,
    ) -> impl Future<Output = Result<Vec<(usize, T)>, TooFewSucceeded<T, E>>> + Send
    where
        I: IntoIterator<Item = F, IntoIter: Send>,
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: Send,
    {
        let calls = calls.into_iter();
        async move {
            let (group, rest) = self.run(calls, Goal::Successes(n)).await;
            group.into_values(n, rest)
        }
        .instrument(self.span("quorum"))
    }

    fn span(&self, policy: &'static str) -> tracing::Span {
        tracing::debug_span!("rowlock.fan_out", policy, limit = self.limit)
    }

    /// Runs calls until the goal is decided. Nothing runs any more when this returns; what was not asked for is in the iterator.
    async fn run<I, F, T, E>(
        self,
        mut calls: I,
        goal: Goal,
    ) -> (Group<T, E>, impl Iterator<Item = F> + Send)
    where
        I: Iterator<Item = F> + Send,
        F: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: Send,
    {
        let begun = Instant::now();
        let mut deadline = Alarm::after(begun, self.deadline);
        let mut running = FuturesUnordered::new();
        let mut group = Group::begin(begun);
        let mut all_asked_for = false;
        let mut in_a_row = 0;
        let deadline_passed = loop {
            let decided = loop {
                let to_come = match all_asked_for {
                    true => Some(0),
                    false => calls.size_hint().1,
                };
                let possible = to_come.and_then(|n| n.checked_add(running.len()));
                let decided = goal.is_decided(&group, possible);
                if decided || all_asked_for || running.len() >= self.limit.get() {
                    break decided;
                }
                if deadline.as_ref().is_some_and(Alarm::has_rung) {
                    break false;
                }
                match calls.next() {
                    Some(call) => {
                        let started = group.start();
                        let index = group.slots.len() - 1;
                        let call = Contained::new(call);
                        running.push(watch(index, call, started, self.call_timeout));
                    }
                    None => all_asked_for = true,
                }
            };
            if decided || (all_asked_for && running.is_empty()) {
                break false;
            }
            let ended = poll_fn(|cx| next(cx, &mut running, &mut deadline, &mut in_a_row));
            match ended.await {
                Some(ended) => group.end(ended),
                None => break true,
            }
        };
        group.stop(match deadline_passed {
            true => Stopped::Deadline,
            false => Stopped::Decided,
        });
        let unfinished = running.len();
        // Before the iterator runs on, and before anything is returned.
        drop(running);
        let (succeeded, failed) = (group.succeeded, group.failed.len());
        tracing::debug!(succeeded, failed, unfinished, deadline_passed, "over");
        // An iterator that has ended need not stay so.
        let rest = (!all_asked_for).then_some(calls).into_iter().flatten();
        (group, rest)
    }
}

/// When a group is over before all its calls are.
#[derive(Debug, Clone, Copy)]
enum Goal {
    All,
    NoError,
    Successes(usize),
}

impl Goal {
    /// `possible`: how many calls can still succeed at most, if that is known.
    fn is_decided<T, E>(self, group: &Group<T, E>, possible: Option<usize>) -> bool {
        match self {
            Self::All => false,
            Self::NoError => !group.failed.is_empty(),
            Self::Successes(needed) => match needed.checked_sub(group.succeeded) {
                None | Some(0) => true,
                Some(missing) => possible.is_some_and(|possible| possible < missing),
            },
        }
    }
}

/// The calls that were asked for, in input order.
struct Group<T, E> {
    begun: Instant,
    slots: Vec<Slot<T, E>>,
    succeeded: usize,
    /// Places of those without a value, in the order in which they ended.
    failed: Vec<usize>,
    stopped: (Stopped, Instant),
}

struct Slot<T, E> {
    started: Instant,
    ended: Option<(Result<T, CallError<E>>, Instant)>,
}

#[derive(Debug, Clone, Copy)]
enum Stopped {
    Deadline,
    Decided,
}

impl<T, E> Group<T, E> {
    fn begin(begun: Instant) -> Self {
        Self {
            begun,
            slots: Vec::new(),
            succeeded: 0,
            failed: Vec::new(),
            stopped: (Stopped::Decided, begun),
        }
    }

    fn start(&mut self) -> Instant {
        let started = Instant::now();
        self.slots.push(Slot {
            started,
            ended: None,
        });
        started
    }

    fn end(&mut self, Ended { index, outcome }: Ended<T, E>) {
        match outcome {
            Ok(_) => self.succeeded += 1,
            Err(_) => self.failed.push(index),
        }
        if let Some(slot) = self.slots.get_mut(index) {
            slot.ended = Some((outcome, Instant::now()));
        }
    }

    fn stop(&mut self, why: Stopped) {
        self.stopped = (why, Instant::now());
    }

    /// What became of each call; `rest` are those that were not started.
    fn into_calls<C>(self, rest: impl IntoIterator<Item = C>) -> Vec<Call<T, E>> {
        let (why, stopped) = self.stopped;
        let begun = self.begun;
        let call = |slot: Slot<T, E>| {
            let (outcome, ended) = slot.ended.unwrap_or_else(|| {
                let error = match why {
                    Stopped::Deadline => CallError::DeadlineExceeded,
                    Stopped::Decided => CallError::Cancelled,
                };
                (Err(error), stopped)
            });
            Call {
                outcome,
                queued: slot.started - begun,
                ran: ended - slot.started,
            }
        };
        let not_started = |call| {
            drop(Contained::new(call));
            Call {
                outcome: Err(CallError::NotStarted),
                queued: stopped - begun,
                ran: Duration::ZERO,
            }
        };
        let rest = rest.into_iter().map(not_started);
        self.slots.into_iter().map(call).chain(rest).collect()
    }

    fn take_value(&mut self) -> Option<T> {
        let mut slots = self.slots.iter_mut();
        let ended = slots.find_map(|slot| slot.ended.take_if(|(outcome, _)| outcome.is_ok()));
        ended.and_then(|(outcome, _)| outcome.ok())
    }

    fn into_values<C>(
        self,
        needed: usize,
        rest: impl IntoIterator<Item = C>,
    ) -> Result<Vec<(usize, T)>, TooFewSucceeded<T, E>> {
        if self.succeeded < needed {
            let calls = self.into_calls(rest);
            return Err(TooFewSucceeded { needed, calls });
        }
        let value = |(index, slot): (usize, Slot<T, E>)| match slot.ended {
            Some((Ok(value), _)) => Some((index, value)),
            _ => None,
        };
        let slots = self.slots.into_iter().enumerate();
        Ok(slots.filter_map(value).collect())
    }
}

struct Ended<T, E> {
    index: usize,
    outcome: Result<T, CallError<E>>,
}

/// The next call to end; `None` if the deadline is first. A call that is ready when the deadline passes was in time.
fn next<C: Future>(
    cx: &mut Context<'_>,
    running: &mut FuturesUnordered<C>,
    deadline: &mut Option<Alarm>,
    in_a_row: &mut usize,
) -> Poll<Option<C::Output>> {
    if *in_a_row >= YIELD_AFTER {
        // The deadline has to wait too: the calls were not looked at.
        *in_a_row = 0;
        cx.waker().wake_by_ref();
        return Poll::Pending;
    }
    if let Poll::Ready(Some(ended)) = Pin::new(running).poll_next(cx) {
        *in_a_row += 1;
        return Poll::Ready(Some(ended));
    }
    *in_a_row = 0;
    ready!(Alarm::poll(deadline, cx));
    Poll::Ready(None)
}

/// Runs a call, and drops it when its time is up or it panics.
async fn watch<F, T, E>(
    index: usize,
    call: Contained<F>,
    started: Instant,
    timeout: Option<Duration>,
) -> Ended<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let outcome = match call.end_in_time(Alarm::after(started, timeout)).await {
        Ok(outcome) => outcome.map_err(CallError::Failed),
        Err(Cut::TimedOut) => Err(CallError::TimedOut),
        Err(Cut::Panicked(panic)) => Err(CallError::Panicked(panic)),
    };
    Ended { index, outcome }
}

/// Why a call has no value.
pub(crate) enum Cut {
    TimedOut,
    /// With the text.
    Panicked(String),
}

/// Runs a future, and drops it when its time is up or it panics.
pub(crate) async fn contained<F: Future>(
    future: F,
    deadline: Option<Instant>,
) -> Result<F::Output, Cut> {
    let alarm = deadline.map(Alarm::at);
    Contained::new(future).end_in_time(alarm).await
}

/// A call whose panics, also those of its destructor, do not reach the other calls. In a box, because a future that was
/// polled cannot be moved to where its panic is caught.
struct Contained<F>(Option<Pin<Box<F>>>);

impl<F> Contained<F> {
    fn new(call: F) -> Self {
        Self(Some(Box::pin(call)))
    }

    /// Drops the call now. Fails with the message of a panic.
    fn end(&mut self) -> Result<(), String> {
        let call = self.0.take();
        contain(|| drop(call))
    }
}

impl<F: Future> Contained<F> {
    async fn end_in_time(mut self, mut alarm: Option<Alarm>) -> Result<F::Output, Cut> {
        let outcome = poll_fn(|cx| match self.poll(cx) {
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Ok(Poll::Pending) => Alarm::poll(&mut alarm, cx).map(|()| Err(Cut::TimedOut)),
            Err(panic) => Poll::Ready(Err(Cut::Panicked(panic))),
        });
        let outcome = outcome.await;
        match self.end() {
            Ok(()) => outcome,
            Err(panic) => Err(Cut::Panicked(panic)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<Poll<F::Output>, String> {
        match &mut self.0 {
            Some(call) => contain(|| call.as_mut().poll(cx)),
            None => Ok(Poll::Pending),
        }
    }
}

impl<F> Drop for Contained<F> {
    fn drop(&mut self) {
        // The group is over, and has a reason for it already.
        let _ = self.end();
    }
}

/// What was in the middle of a panic is dropped and not used again.
fn contain<R>(run: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_text)
}

/// The text of a panic. Its payload can be anything, also something whose destructor panics.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or_default().to_owned();
    if let Err(next) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Its destructor could panic as well, and so on: better to leak it.
        std::mem::forget(next);
    }
    text
}

/// A time limit that looks at the clock whenever it is polled: tokio's own timers do not ring in a task that has used up its
/// budget, and with a busy call beside them that can be always.
struct Alarm {
    at: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    /// No alarm if there is no limit, or one that nobody will live to see.
    fn after(start: Instant, limit: Option<Duration>) -> Option<Self> {
        Some(Self::at(start.checked_add(limit?)?))
    }

    fn at(at: Instant) -> Self {
        let sleep = Box::pin(sleep_until(at));
        Self { at, sleep }
    }

    fn has_rung(&self) -> bool {
        self.at <= Instant::now()
    }

    fn poll(alarm: &mut Option<Self>, cx: &mut Context<'_>) -> Poll<()> {
        match alarm {
            None => Poll::Pending,
            Some(alarm) if alarm.has_rung() => Poll::Ready(()),
            Some(alarm) => alarm.sleep.as_mut().poll(cx),
        }
    }
}
