//! Bounded fan-out. No database takes part. Unless a test says otherwise the clock is tokio's paused one: it jumps to the
//! next timer when nothing else can run, so that times are exact and nothing depends on the machine.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending, ready};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use proptest::prelude::*;
use proptest::{collection, option};
use rowlock::fan_out;
use rowlock::fan_out::{Call, CallError, FanOut, TooFewSucceeded};
use tokio::sync::{Barrier, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

fn at_once(limit: usize) -> FanOut {
    fan_out(NonZero::new(limit).unwrap())
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A call that takes some time and then says what it was told to.
async fn after<T, E>(time: u64, outcome: Result<T, E>) -> Result<T, E> {
    sleep(ms(time)).await;
    outcome
}

fn outcomes<T, E>(calls: Vec<Call<T, E>>) -> Vec<Result<T, CallError<E>>> {
    calls.into_iter().map(|call| call.outcome).collect()
}

fn times<T, E>(calls: &[Call<T, E>]) -> Vec<(Duration, Duration)> {
    calls.iter().map(|call| (call.queued, call.ran)).collect()
}

/// How many of something there are, and were at most.
#[derive(Debug, Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
    ever: AtomicUsize,
}

/// One of them, until it is dropped.
struct Counted(Arc<Gauge>);

impl Gauge {
    fn enter(self: &Arc<Self>) -> Counted {
        self.ever.fetch_add(1, SeqCst);
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        Counted(Arc::clone(self))
    }

    /// (now, at most, ever)
    fn read(&self) -> (usize, usize, usize) {
        (
            self.now.load(SeqCst),
            self.most.load(SeqCst),
            self.ever.load(SeqCst),
        )
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

/// Calls that are counted as soon as their future is made, whether it is polled or not.
fn counted<T, E, F: Future<Output = Result<T, E>>>(
    gauge: &Arc<Gauge>,
    calls: impl IntoIterator<Item = F>,
) -> impl Iterator<Item = impl Future<Output = Result<T, E>>> {
    calls.into_iter().map(move |call| {
        let counted = gauge.enter();
        async move {
            let _counted = counted;
            call.await
        }
    })
}

// ---------------------------------------------------------------- the limit

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_exist_at_a_time_and_places_are_not_left_empty() {
    for limit in [1, 2, 7, 20, 50] {
        let gauge = Arc::default();
        let begun = Instant::now();
        let calls = (0..20).map(|n| after(100, Ok::<_, Infallible>(n)));
        let calls = at_once(limit).collect(counted(&gauge, calls)).await;
        assert_eq!(outcomes(calls), (0..20).map(Ok).collect::<Vec<_>>());
        // Not even as futures that nobody polled yet.
        assert_eq!(gauge.read(), (0, limit.min(20), 20));
        assert_eq!(begun.elapsed(), ms(100) * 20_usize.div_ceil(limit) as u32);
    }
}

#[tokio::test(start_paused = true)]
async fn the_naive_twin_runs_all_at_once() {
    let gauge = Arc::default();
    let calls = (0..20).map(|n| after(100, Ok::<_, Infallible>(n)));
    futures_util::future::join_all(counted(&gauge, calls)).await;
    assert_eq!(gauge.read(), (0, 20, 20));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_free_is_taken_at_once_and_not_after_a_batch() {
    let times_of = [300, 100, 100, 100].map(|time| after(time, Ok::<_, Infallible>(())));
    let calls = at_once(2).collect(times_of).await;
    let expected = [(0, 300), (0, 100), (100, 100), (200, 100)];
    assert_eq!(times(&calls), expected.map(|(q, r)| (ms(q), ms(r))));
}

// ---------------------------------------------------------------- order, borrowing, laziness

#[tokio::test(start_paused = true)]
async fn results_are_in_input_order_whoever_is_first() {
    let calls = (0..10_u64).map(|n| after(1000 - 100 * n, Ok::<_, Infallible>(n)));
    let values = at_once(10).try_collect(calls).await.unwrap();
    assert_eq!(values, (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn calls_can_borrow() {
    struct Client(String);
    impl Client {
        async fn fetch(&self, id: &u64) -> Result<String, Infallible> {
            sleep(ms(*id)).await;
            Ok(format!("{} {id}", self.0))
        }
    }
    let client = Client("answer".to_owned());
    let ids = [3, 1, 2];
    let calls = ids.iter().map(|id| client.fetch(id));
    let values = at_once(2).try_collect(calls).await.unwrap();
    assert_eq!(values, ["answer 3", "answer 1", "answer 2"]);
}

#[test]
fn all_futures_can_be_spawned_with_calls_that_borrow() {
    async fn fetch(base: &str, id: &u32) -> Result<String, String> {
        Ok(format!("{base}{id}"))
    }
    async fn everything() {
        let (base, ids) = (String::from("a"), vec![1, 2, 3]);
        let group = at_once(2).call_timeout(ms(1)).deadline(ms(1));
        let all = group.collect(ids.iter().map(|id| fetch(&base, id))).await;
        assert_eq!(all.len(), 3);
        let all = group.try_collect(ids.iter().map(|id| fetch(&base, id)));
        assert_eq!(all.await.unwrap().len(), 3);
        let one = group.first_ok(ids.iter().map(|id| fetch(&base, id)));
        assert_eq!(one.await.unwrap(), "a1");
        let two = group.quorum(2, ids.iter().map(|id| fetch(&base, id)));
        assert_eq!(two.await.unwrap().len(), 2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(everything()).await.unwrap() });
}

#[tokio::test(start_paused = true)]
async fn the_iterator_is_asked_only_when_there_is_a_place() {
    let log = Mutex::new(Vec::new());
    let calls = (0..3).map(|n| {
        log.lock().unwrap().push(("made", n));
        let log = &log;
        async move {
            log.lock().unwrap().push(("polled", n));
            sleep(ms(10)).await;
            log.lock().unwrap().push(("ended", n));
            Ok::<_, Infallible>(())
        }
    });
    let group = at_once(1).try_collect(calls);
    assert_eq!(*log.lock().unwrap(), []);
    group.await.unwrap();
    let one = |n| [("made", n), ("polled", n), ("ended", n)];
    assert_eq!(log.into_inner().unwrap(), [one(0), one(1), one(2)].concat());
}

// ---------------------------------------------------------------- time

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_call_does_not_count_its_time_in_the_queue() {
    let calls = (0..4).map(|n| after(90, Ok::<_, Infallible>(n)));
    let calls = at_once(1).call_timeout(ms(100)).collect(calls).await;
    let expected = [0, 90, 180, 270].map(|queued| (ms(queued), ms(90)));
    assert_eq!(times(&calls), expected);
    assert_eq!(outcomes(calls), [Ok(0), Ok(1), Ok(2), Ok(3)]);

    // The twin with the timeout outside: whoever queues is timed out without having been run.
    let places = Semaphore::new(1);
    let twin = (0..4).map(async |n| {
        let call = async {
            let _place = places.acquire().await.unwrap();
            after(90, Ok::<_, Infallible>(n)).await
        };
        timeout(ms(100), call).await.is_ok()
    });
    let ended = futures_util::future::join_all(twin).await;
    assert_eq!(ended, [true, false, false, false]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_is_dropped_and_gives_its_place_to_the_next() {
    let gauge = Arc::default();
    let calls = [500, 50, 50].map(|time| after(time, Ok::<_, Infallible>(time)));
    let group = at_once(1).call_timeout(ms(100));
    let calls = group.collect(counted(&gauge, calls)).await;
    let expected = [(0, 100), (100, 50), (150, 50)];
    assert_eq!(times(&calls), expected.map(|(q, r)| (ms(q), ms(r))));
    assert_eq!(outcomes(calls), [Err(CallError::TimedOut), Ok(50), Ok(50)]);
    assert_eq!(gauge.read(), (0, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_who_runs_and_starts_nobody() {
    let gauge = Arc::default();
    let begun = Instant::now();
    let calls = [100, 400, 400, 50].map(|time| after(time, Ok::<_, Infallible>(time)));
    let group = at_once(2).deadline(ms(250));
    let calls = group.collect(counted(&gauge, calls)).await;
    assert_eq!(begun.elapsed(), ms(250));
    let expected = [(0, 100), (0, 250), (100, 150), (250, 0)];
    assert_eq!(times(&calls), expected.map(|(q, r)| (ms(q), ms(r))));
    let exceeded = Err(CallError::DeadlineExceeded);
    let expected = [
        Ok(100),
        exceeded.clone(),
        exceeded,
        Err(CallError::NotStarted),
    ];
    assert_eq!(outcomes(calls), expected);
    assert_eq!(gauge.read().0, 0);
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_the_group_starts_with_its_first_poll() {
    let group = at_once(1).deadline(ms(100));
    let group = group.collect([after(50, Ok::<_, Infallible>(()))]);
    sleep(ms(1000)).await;
    let calls = group.await;
    assert_eq!(times(&calls), [(ms(0), ms(50))]);
    assert_eq!(outcomes(calls), [Ok(())]);
}

#[tokio::test(start_paused = true)]
async fn limits_of_zero_and_limits_without_end() {
    let gauge = Arc::default();
    let calls = || counted(&gauge, [0, 0].map(|_| ready(Ok::<_, Infallible>(()))));
    let not_started = || vec![Err(CallError::NotStarted); 2];

    let none = at_once(2).deadline(ms(0));
    assert_eq!(outcomes(none.collect(calls()).await), not_started());
    let error = none.try_collect(calls()).await.unwrap_err();
    assert_eq!((error.index, error.error), (0, CallError::NotStarted));
    let error = none.first_ok(calls()).await.unwrap_err();
    assert_eq!((error.needed, outcomes(error.calls)), (1, not_started()));
    let error = none.quorum(2, calls()).await.unwrap_err();
    assert_eq!((error.needed, outcomes(error.calls)), (2, not_started()));
    assert_eq!(none.quorum(0, calls()).await, Ok(vec![]));
    let empty: [std::future::Ready<Result<(), Infallible>>; 0] = [];
    assert_eq!(none.try_collect(empty).await, Ok(vec![]));

    // No time at all is enough for who is ready at once.
    let impatient = at_once(2).call_timeout(ms(0));
    assert_eq!(outcomes(impatient.collect(calls()).await), [Ok(()), Ok(())]);
    let waits = impatient.collect([after(1, Ok::<_, Infallible>(()))]).await;
    assert_eq!(outcomes(waits), [Err(CallError::TimedOut)]);

    let patient = at_once(2)
        .call_timeout(Duration::MAX)
        .deadline(Duration::MAX);
    assert_eq!(outcomes(patient.collect(calls()).await), [Ok(()), Ok(())]);
}

/// The class of futures-rs #2387: while the consumer is busy with one result, nobody polls the others.
#[tokio::test(start_paused = true)]
async fn all_calls_are_polled_while_one_is_slow() {
    // Each waits for all others to be running.
    let barrier = Barrier::new(8);
    let calls = (0..8).map(async |n| {
        let leader = barrier.wait().await.is_leader();
        sleep(ms(if leader { 10_000 } else { 10 })).await;
        barrier.wait().await;
        Ok::<_, Infallible>(n)
    });
    let values = at_once(8).deadline(ms(20_000)).try_collect(calls).await;
    assert_eq!(values.unwrap(), (0..8).collect::<Vec<_>>());

    // Two steps that are done in time, however long a neighbour takes.
    let steps = async |time| {
        sleep(ms(time)).await;
        after(10, Ok::<_, Infallible>(())).await
    };
    let calls = [10, 100, 5000].map(steps);
    let calls = at_once(3).call_timeout(ms(200)).collect(calls).await;
    assert_eq!(outcomes(calls), [Ok(()), Ok(()), Err(CallError::TimedOut)]);

    // The twin: the loop takes its time with the first result, and nobody takes the second call to its second step.
    let calls = [10, 100].map(|time| timeout(ms(200), steps(time)));
    let mut twin = futures_util::stream::iter(calls).buffer_unordered(3);
    let mut in_time = Vec::new();
    while let Some(ended) = twin.next().await {
        in_time.push(ended.is_ok());
        sleep(ms(1000)).await;
    }
    assert_eq!(in_time, [true, false]);
}

/// Real time: a task that is never idle does not let the paused clock move.
#[tokio::test]
async fn calls_that_never_wait_do_not_starve_the_others_or_the_limits() {
    // It always gets its permit: only tokio's budget makes it pause.
    async fn busy() -> Result<(), Infallible> {
        let semaphore = Semaphore::new(1);
        loop {
            drop(semaphore.acquire().await);
        }
    }
    enum Kind {
        Busy,
        Waits,
        Hangs,
    }
    let calls = [Kind::Busy, Kind::Waits, Kind::Hangs].map(async |kind| match kind {
        Kind::Busy => busy().await,
        Kind::Waits => after(10, Ok(())).await,
        Kind::Hangs => pending().await,
    });
    let begun = Instant::now();
    let group = at_once(3).call_timeout(ms(500)).collect(calls);
    let calls = timeout(ms(5000), group).await.expect("starved");
    let expected = [Err(CallError::TimedOut), Ok(()), Err(CallError::TimedOut)];
    assert_eq!(outcomes(calls), expected);

    let group = at_once(2).deadline(ms(50)).collect([busy(), busy()]);
    let calls = timeout(ms(5000), group).await.expect("starved");
    assert_eq!(
        outcomes(calls),
        [(); 2].map(|()| Err(CallError::DeadlineExceeded))
    );
    assert!(begun.elapsed() < ms(5000));
}

/// Real time, for the same reason.
#[tokio::test]
async fn calls_that_are_ready_at_once_leave_room_for_other_tasks_and_for_the_deadline() {
    let (stop, mut stopped) = oneshot::channel();
    // On the same thread: it gets a turn only if the group pauses.
    tokio::spawn(async move { stop.send(()) });
    let endless = (0..).map_while(move |n: u64| match stopped.try_recv() {
        Ok(()) => None,
        Err(_) => Some(ready(Ok::<_, Infallible>(n))),
    });
    let calls = at_once(4).collect(endless).await;
    assert!(!calls.is_empty());

    let until = Instant::now() + ms(500);
    let endless = (0..).map_while(move |n: u64| (Instant::now() < until).then_some(n));
    let calls = endless.map(|n| ready(Ok::<_, Infallible>(n)));
    let error = at_once(4).deadline(ms(20)).try_collect(calls).await;
    // Not one that was running: those were ready in time.
    assert_eq!(error.unwrap_err().error, CallError::NotStarted);
}

// ---------------------------------------------------------------- policies

#[tokio::test(start_paused = true)]
async fn the_first_error_drops_the_others_and_asks_for_no_more() {
    let gauge = Arc::default();
    let begun = Instant::now();
    let script = [
        (300, Ok(0)),
        (200, Err("late")),
        (100, Err("first")),
        (10, Ok(3)),
        (10, Ok(4)),
    ];
    let calls = script.map(|(time, outcome)| after(time, outcome));
    let error = at_once(3)
        .try_collect(counted(&gauge, calls))
        .await
        .unwrap_err();
    assert_eq!((error.index, error.error), (2, CallError::Failed("first")));
    assert_eq!(begun.elapsed(), ms(100));
    assert_eq!(gauge.read(), (0, 3, 3));

    // What takes too long, and what panics, is an error too.
    let calls = [after(10, Ok::<_, &str>(0)), after(1000, Ok(1))];
    let error = at_once(3)
        .call_timeout(ms(100))
        .try_collect(calls)
        .await
        .unwrap_err();
    assert_eq!((error.index, error.error), (1, CallError::TimedOut));
    let calls = [10, 1000, 1000].map(|time| after(time, Ok::<_, &str>(0)));
    let error = at_once(2)
        .deadline(ms(100))
        .try_collect(calls)
        .await
        .unwrap_err();
    assert_eq!((error.index, error.error), (1, CallError::DeadlineExceeded));
}

#[tokio::test(start_paused = true)]
async fn a_naive_join_leaves_the_others_running_after_the_first_error() {
    let gauge = Arc::<Gauge>::default();
    let tasks = [(100, Err("first")), (300, Ok(()))].map(|(time, outcome)| {
        let counted = gauge.enter();
        tokio::spawn(async move {
            let _counted = counted;
            after(time, outcome).await
        })
    });
    let tasks = tasks.map(async |task| task.await.unwrap());
    futures_util::future::try_join_all(tasks).await.unwrap_err();
    assert_eq!(gauge.read().0, 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_success_drops_the_others() {
    let gauge = Arc::default();
    let begun = Instant::now();
    let script = [
        (300, Ok(0)),
        (10, Err("down")),
        (100, Ok(2)),
        (500, Ok(3)),
        (1, Ok(4)),
    ];
    let calls = script.map(|(time, outcome)| after(time, outcome));
    let value = at_once(3).first_ok(counted(&gauge, calls)).await;
    assert_eq!(value, Ok(2));
    assert_eq!(begun.elapsed(), ms(100));
    assert_eq!(gauge.read(), (0, 3, 4));

    let calls = [after(10, Err::<(), _>("down")), after(1000, Err("late"))];
    let error = at_once(1)
        .call_timeout(ms(100))
        .first_ok(calls)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "0 of 2 calls succeeded, 1 needed");
    let expected = [Err(CallError::Failed("down")), Err(CallError::TimedOut)];
    assert_eq!(outcomes(error.calls), expected);

    let empty: [std::future::Ready<Result<(), Infallible>>; 0] = [];
    assert_eq!(at_once(1).first_ok(empty).await.unwrap_err().calls, []);
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_over_when_it_is_reached_or_out_of_reach() {
    let gauge = Arc::default();
    let begun = Instant::now();
    let script = [
        (300, Ok('a')),
        (100, Ok('b')),
        (10, Err("down")),
        (200, Ok('d')),
        (1, Ok('e')),
    ];
    let calls = || script.map(|(time, outcome)| after(time, outcome));
    let values = at_once(4).quorum(3, counted(&gauge, calls())).await;
    assert_eq!(values, Ok(vec![(1, 'b'), (3, 'd'), (4, 'e')]));
    assert_eq!(begun.elapsed(), ms(200));
    assert_eq!(gauge.read(), (0, 4, 5));

    // Of five, five cannot succeed once one has failed.
    let begun = Instant::now();
    let error = at_once(4).quorum(5, calls()).await.unwrap_err();
    assert_eq!(begun.elapsed(), ms(10));
    assert_eq!(times(&error.calls)[3..], [(ms(0), ms(10)), (ms(10), ms(0))]);
    let cancelled = || Err(CallError::Cancelled);
    let failed = Err(CallError::Failed("down"));
    let not_started = Err(CallError::NotStarted);
    let expected = [cancelled(), cancelled(), failed, cancelled(), not_started];
    assert_eq!(outcomes(error.calls), expected);
}

#[tokio::test(start_paused = true)]
async fn a_quorum_of_none_and_one_of_more_than_there_are() {
    let gauge = Arc::default();
    let calls = || [10, 20].map(|time| after(time, Ok::<_, &str>(time)));
    assert_eq!(
        at_once(1).quorum(0, counted(&gauge, calls())).await,
        Ok(vec![])
    );
    assert_eq!(gauge.read(), (0, 0, 0));

    // The length is known: nobody is started for nothing.
    let error = at_once(2).quorum(3, calls()).await.unwrap_err();
    let expected = [(); 2].map(|()| Err(CallError::NotStarted));
    assert_eq!(outcomes(error.calls), expected);

    // The length is not known before the end of the iterator.
    let begun = Instant::now();
    let unsized_calls = [10, 20, 30, 40]
        .into_iter()
        .map_while(|time| (time < 30).then_some(time));
    let unsized_calls = unsized_calls.map(|time| after(time, Ok::<_, &str>(time)));
    let error = at_once(1).quorum(3, unsized_calls).await.unwrap_err();
    assert_eq!(error.to_string(), "2 of 2 calls succeeded, 3 needed");
    assert_eq!(outcomes(error.calls), [Ok(10), Ok(20)]);
    assert_eq!(begun.elapsed(), ms(30));
}

// ---------------------------------------------------------------- against a model

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Succeeds,
    Fails,
    Panics,
}

/// Times are such that no two successes, no success and failure, and no call and deadline fall together: each call adds a bit
/// of its own to the time of its place, unless it is timed out.
#[derive(Debug)]
struct Script {
    limit: usize,
    call_timeout: Option<u64>,
    deadline: Option<u64>,
    calls: Vec<(u64, Ending)>,
    needed: usize,
}

fn script() -> impl Strategy<Value = Script> {
    let ending = prop_oneof![
        3 => Just(Ending::Succeeds),
        1 => Just(Ending::Fails),
        1 => Just(Ending::Panics),
    ];
    let calls = collection::vec((0_u64..4, ending), 0..9).prop_map(|calls| {
        let own = |(i, (time, ending))| (10_000 * time + (10_u64 << i), ending);
        calls.into_iter().enumerate().map(own).collect()
    });
    let call_timeout = option::of((0_u64..4).prop_map(|n| 10_000 * n + 5_000));
    let deadline = option::of((0_u64..60).prop_map(|n| 1_000 * n + 3));
    let rest = (1_usize..6, call_timeout, deadline, calls, 0_usize..6);
    rest.prop_map(|(limit, call_timeout, deadline, calls, needed)| Script {
        limit,
        call_timeout,
        deadline,
        calls,
        needed,
    })
}

type Outcome = Result<usize, CallError<usize>>;

/// What a call does if nothing stops it.
struct Planned {
    start: u64,
    end: u64,
    outcome: Outcome,
}

impl Script {
    fn group(&self) -> FanOut {
        let mut group = at_once(self.limit);
        if let Some(timeout) = self.call_timeout {
            group = group.call_timeout(ms(timeout));
        }
        if let Some(deadline) = self.deadline {
            group = group.deadline(ms(deadline));
        }
        group
    }

    fn calls(
        &self,
        gauge: &Arc<Gauge>,
    ) -> impl Iterator<Item = impl Future<Output = Result<usize, usize>>> {
        let calls = self.calls.clone().into_iter().enumerate();
        counted(
            gauge,
            calls.map(async |(n, (time, ending))| {
                sleep(ms(time)).await;
                match ending {
                    Ending::Succeeds => Ok(n),
                    Ending::Fails => Err(n),
                    // A panic that prints nothing.
                    Ending::Panics => std::panic::resume_unwind(Box::new("panics")),
                }
            }),
        )
    }

    /// Each call takes the place that is free first.
    fn plan(&self) -> Vec<Planned> {
        let mut free_at = vec![0; self.limit];
        let mut plan = Vec::new();
        for (n, &(time, ending)) in self.calls.iter().enumerate() {
            let place = free_at.iter_mut().min().unwrap();
            let start = *place;
            let (time, outcome) = match (self.call_timeout, ending) {
                (Some(timeout), _) if timeout < time => (timeout, Err(CallError::TimedOut)),
                (_, Ending::Succeeds) => (time, Ok(n)),
                (_, Ending::Fails) => (time, Err(CallError::Failed(n))),
                (_, Ending::Panics) => (time, Err(CallError::Panicked("panics".to_owned()))),
            };
            let end = start + time;
            *place = end;
            plan.push(Planned {
                start,
                end,
                outcome,
            });
        }
        plan
    }

    fn deadline(&self) -> u64 {
        self.deadline.unwrap_or(u64::MAX)
    }
}

/// What a group returns whose deadline is the only thing that stops it.
fn until_the_deadline(plan: &[Planned], deadline: u64) -> Vec<Outcome> {
    let stopped = |call: &Planned| match call {
        _ if call.end < deadline => call.outcome.clone(),
        _ if call.start < deadline => Err(CallError::DeadlineExceeded),
        _ => Err(CallError::NotStarted),
    };
    plan.iter().map(stopped).collect()
}

/// When the n-th of these calls ends; before anything if it is none.
fn nth_end<'p>(calls: impl Iterator<Item = &'p Planned>, n: usize) -> Option<u64> {
    let mut ends: Vec<_> = calls.map(|call| call.end).collect();
    ends.sort_unstable();
    match n.checked_sub(1) {
        None => Some(0),
        Some(last) => ends.get(last).copied(),
    }
}

async fn collect_is_as_planned(script: &Script) -> Result<(), TestCaseError> {
    let (plan, deadline, gauge) = (script.plan(), script.deadline(), Arc::default());
    let calls = script.group().collect(script.calls(&gauge)).await;
    let last = plan.iter().map(|call| call.end).max().unwrap_or(0);
    let expected = plan.iter().map(|call| {
        let queued = call.start.min(deadline);
        (ms(queued), ms(call.end.min(deadline) - queued))
    });
    prop_assert_eq!(times(&calls), expected.collect::<Vec<_>>());
    prop_assert_eq!(outcomes(calls), until_the_deadline(&plan, deadline));
    let (now, most, ever) = gauge.read();
    prop_assert!(now == 0 && most <= script.limit && ever == plan.len());
    prop_assert!(last > deadline || most == script.limit.min(plan.len()));
    Ok(())
}

async fn try_collect_is_as_planned(script: &Script) -> Result<(), TestCaseError> {
    let (plan, deadline, gauge) = (script.plan(), script.deadline(), Arc::default());
    let begun = Instant::now();
    let result = script.group().try_collect(script.calls(&gauge)).await;
    prop_assert_eq!(gauge.read().0, 0);
    let first = nth_end(plan.iter().filter(|call| call.outcome.is_err()), 1);
    let stopped = until_the_deadline(&plan, deadline);
    match first.filter(|first| *first < deadline) {
        Some(first) => {
            let error = result.unwrap_err();
            prop_assert_eq!(begun.elapsed(), ms(first));
            // Several can be timed out in the same millisecond.
            prop_assert_eq!(plan[error.index].end, first);
            prop_assert_eq!(&plan[error.index].outcome, &Err(error.error));
        }
        None => match stopped.iter().position(Result::is_err) {
            Some(index) => {
                let error = result.unwrap_err();
                prop_assert_eq!(error.index, index);
                prop_assert_eq!(&stopped[index], &Err(error.error));
            }
            None => prop_assert_eq!(result, Ok((0..plan.len()).collect::<Vec<_>>())),
        },
    }
    Ok(())
}

async fn quorum_is_as_planned(script: &Script) -> Result<(), TestCaseError> {
    let (plan, deadline, gauge) = (script.plan(), script.deadline(), Arc::default());
    let (needed, begun) = (script.needed, Instant::now());
    let result = script.group().quorum(needed, script.calls(&gauge)).await;
    let took = begun.elapsed();
    prop_assert_eq!(gauge.read().0, 0);
    let (successes, failures): (Vec<_>, Vec<_>) =
        plan.iter().partition(|call| call.outcome.is_ok());
    let reached = nth_end(successes.iter().copied(), needed);
    let hopeless = match plan.len().checked_sub(needed) {
        Some(spare) => nth_end(failures.into_iter(), spare + 1),
        None => Some(0),
    };
    let decided = reached
        .into_iter()
        .chain(hopeless)
        .min()
        .unwrap_or(u64::MAX);
    if reached.is_some_and(|reached| reached == decided && (reached < deadline || needed == 0)) {
        let in_time = successes
            .iter()
            .filter(|call| needed > 0 && call.end <= decided);
        let values = in_time.map(|call| *call.outcome.as_ref().unwrap());
        prop_assert_eq!(result, Ok(values.map(|n| (n, n)).collect::<Vec<_>>()));
        prop_assert_eq!(took, ms(decided));
        return Ok(());
    }
    let calls = outcomes(result.unwrap_err().calls);
    if deadline < decided {
        prop_assert_eq!(calls, until_the_deadline(&plan, deadline));
        prop_assert_eq!(took, ms(deadline));
        return Ok(());
    }
    prop_assert_eq!(took, ms(decided));
    prop_assert_eq!(calls.len(), plan.len());
    for (call, outcome) in plan.iter().zip(calls) {
        let as_planned = outcome == call.outcome;
        let cancelled = outcome == Err(CallError::Cancelled);
        let not_started = outcome == Err(CallError::NotStarted);
        // Of several that are timed out in the same millisecond, any can be the last that mattered.
        let allowed = match decided {
            _ if call.end < decided => as_planned,
            _ if call.end == decided => as_planned || cancelled,
            _ if call.start < decided => cancelled,
            _ if call.start == decided => cancelled || not_started,
            _ => not_started,
        };
        prop_assert!(allowed);
    }
    Ok(())
}

async fn first_ok_is_as_planned(script: &Script) -> Result<(), TestCaseError> {
    let (plan, deadline, gauge) = (script.plan(), script.deadline(), Arc::default());
    let result = script.group().first_ok(script.calls(&gauge)).await;
    prop_assert_eq!(gauge.read().0, 0);
    let successes = plan
        .iter()
        .filter(|call| call.outcome.is_ok() && call.end < deadline);
    match successes.min_by_key(|call| call.end) {
        Some(first) => prop_assert_eq!(Ok(result.unwrap()), first.outcome.clone()),
        None => {
            let calls = outcomes(result.unwrap_err().calls);
            prop_assert_eq!(calls.len(), plan.len());
            let stopped = until_the_deadline(&plan, deadline);
            prop_assert_eq!(calls, stopped);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    #[test]
    fn every_group_is_as_the_model_says(script in script()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            collect_is_as_planned(&script).await?;
            try_collect_is_as_planned(&script).await?;
            first_ok_is_as_planned(&script).await?;
            quorum_is_as_planned(&script).await
        })?;
    }
}

// ---------------------------------------------------------------- panics and drops

#[tokio::test(start_paused = true)]
async fn a_panic_is_the_error_of_its_call() {
    let gauge = Arc::default();
    let calls = (0..5).map(async |n| {
        sleep(ms(10)).await;
        match n {
            1 => panic!("a text"),
            2 => panic!("a {}", "String"),
            3 => std::panic::panic_any(n),
            n => Ok::<_, Infallible>(n),
        }
    });
    let calls = at_once(1).collect(counted(&gauge, calls)).await;
    let panicked = |message: &str| Err(CallError::Panicked(message.to_owned()));
    let expected = [
        Ok(0),
        panicked("a text"),
        panicked("a String"),
        panicked(""),
        Ok(4),
    ];
    assert_eq!(outcomes(calls), expected);
    assert_eq!(gauge.read(), (0, 1, 5));
}

/// Panics when it is dropped, and prints nothing.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

/// The payload of a panic whose destructor panics, with another such payload, and so on.
struct Payload(u32);

impl Drop for Payload {
    fn drop(&mut self) {
        if let Some(next) = self.0.checked_sub(1) {
            std::panic::resume_unwind(Box::new(Payload(next)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_whose_payload_panics_leaves_the_others_alone() {
    let calls = (0..4).map(async |n| {
        sleep(ms(10)).await;
        if n % 2 == 1 {
            std::panic::resume_unwind(Box::new(Payload(n)));
        }
        Ok::<_, Infallible>(n)
    });
    let calls = outcomes(at_once(2).collect(calls).await);
    let panicked = || Err(CallError::Panicked(String::new()));
    assert_eq!(calls, [Ok(0), panicked(), Ok(2), panicked()]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_destructor_leaves_the_others_alone() {
    type Outcomes = Vec<Result<u64, CallError<()>>>;
    let bomb = async |time: u64| {
        let _bomb = Bomb;
        after(time, Ok(time)).await
    };
    let panicked = || Err(CallError::Panicked("dropped".to_owned()));

    // Dropped because it has taken too long.
    let group = at_once(2).call_timeout(ms(50));
    let late: Outcomes = outcomes(group.collect([100].map(bomb)).await);
    assert_eq!(late, [panicked()]);
    let calls = (0..4).map(|n| async move {
        let _bomb = (n % 2 == 0).then(|| Bomb);
        after(if n % 2 == 0 { 100 } else { 40 }, Ok(n)).await
    });
    let late: Outcomes = outcomes(group.collect(calls).await);
    assert_eq!(late, [panicked(), Ok(1), panicked(), Ok(3)]);

    // Dropped by the deadline and before the first poll.
    let group = at_once(2).deadline(ms(50));
    let calls = [Bomb, Bomb, Bomb].map(|bomb| async move {
        let _bomb = bomb;
        after(100, Ok(0)).await
    });
    let late: Outcomes = outcomes(group.collect(calls).await);
    let running = || Err(CallError::DeadlineExceeded);
    assert_eq!(late, [running(), running(), Err(CallError::NotStarted)]);

    // Dropped because another one decided, and by the caller.
    let calls = (0..3).map(|n| async move {
        let _bomb = (n > 0).then(|| Bomb);
        after(10 + 100 * n, Ok::<_, ()>(n)).await
    });
    assert_eq!(at_once(3).first_ok(calls).await, Ok(0));
    let calls = [100, 100].map(bomb);
    let given_up = timeout(ms(50), at_once(2).collect::<_, _, _, ()>(calls)).await;
    assert!(given_up.is_err());
}

#[tokio::test(start_paused = true)]
async fn after_the_deadline_no_more_are_asked_for_unless_that_decides() {
    for (time, asked, index) in [(100, 2, 0), (40, 3, 2)] {
        let gauge = Arc::default();
        let calls = (0..9).map(|n| after(time, Ok::<_, Infallible>(n)));
        let group = at_once(2).deadline(ms(if asked == 2 { 50 } else { 40 }));
        let error = group.try_collect(counted(&gauge, calls)).await.unwrap_err();
        assert_eq!((error.index, gauge.read()), (index, (0, 2, asked)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_iterator_is_the_callers_and_leaves_nothing_running() {
    let gauge = Arc::<Gauge>::default();
    let calls = (0..5).map(|n| match n {
        2 => panic!("the iterator"),
        n => after(n, Ok::<_, Infallible>(n)),
    });
    let counted: Vec<_> = Vec::from_iter((0..2).map(|_| gauge.enter()));
    let mut counted = counted.into_iter();
    let calls = calls.map(move |call| {
        let counted = counted.next();
        async move {
            let _counted = counted;
            call.await
        }
    });
    let group = tokio::spawn(at_once(5).collect(calls));
    assert!(group.await.unwrap_err().is_panic());
    assert_eq!(gauge.read().0, 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_drops_all_calls_at_once() {
    let gauge = Arc::default();
    let calls = (0..10).map(|_| pending::<Result<(), Infallible>>());
    let mut group = Box::pin(at_once(3).collect(counted(&gauge, calls)));
    assert!(timeout(ms(100), &mut group).await.is_err());
    assert_eq!(gauge.read(), (3, 3, 3));
    drop(group);
    assert_eq!(gauge.read(), (0, 3, 3));

    // The twin with tasks: dropping their handles stops nobody.
    let gauge = Arc::<Gauge>::default();
    let tasks = [0; 3].map(|_| {
        let counted = gauge.enter();
        tokio::spawn(async move {
            let _counted = counted;
            pending::<()>().await;
        })
    });
    drop(futures_util::future::join_all(tasks));
    tokio::task::yield_now().await;
    assert_eq!(gauge.read().0, 3);
}

// ---------------------------------------------------------------- errors

#[tokio::test(start_paused = true)]
async fn errors_lead_to_their_source_and_show_no_values() {
    fn io(text: &str) -> std::io::Error {
        std::io::Error::other(text)
    }
    let calls = [after(10, Err::<i32, _>(io("no route"))), after(1, Ok(4242))];
    let error = at_once(1).try_collect(calls).await.unwrap_err();
    assert_eq!(error.to_string(), "call 0: no route");
    let source = error.source().and_then(Error::source).unwrap();
    assert!(source.is::<std::io::Error>());

    let calls = [
        after(50, Ok(4242)),
        after(10, Err(io("no route"))),
        after(1, Ok(4242)),
    ];
    let error: TooFewSucceeded<i32, _> = at_once(3).quorum(3, calls).await.unwrap_err();
    assert_eq!(error.to_string(), "1 of 3 calls succeeded, 3 needed");
    assert!(!format!("{error:?}").contains("4242"));
    let source = error.source().and_then(Error::source).unwrap();
    assert!(source.is::<std::io::Error>());

    let secret = CallError::<Infallible>::Panicked("secret".to_owned());
    assert_eq!(secret.to_string(), "the call panicked");
}
