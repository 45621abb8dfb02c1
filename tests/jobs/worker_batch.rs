//! Handlers of a worker that get several rows at a time.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rowlock::queue::{Cancelled, Job, JobOutcome, Worker, WorkerCounts};
use tokio::sync::{Notify, Semaphore, mpsc};

use super::worker_hooks::{
    Background, Dropped, HOUR, Mail, background, errors, ids, mails, run, until, worker,
};
use super::{Db, Pool};

type Batch = Vec<Job<Mail>>;

macro_rules! start {
    ($worker:expr, $size:expr, $handler:expr) => {
        background($worker, |worker| worker.run_batch($size, $handler))
    };
}

#[tokio::test]
async fn a_batch_has_up_to_so_many_of_the_rows_that_are_there() {
    for prefetch in [0, 30] {
        let database = mails(25).await;
        let pool = &database.pool;
        let (say, mut said) = mpsc::unbounded_channel();
        let worker = worker(pool).concurrency(1).prefetch(prefetch);
        let background = start!(worker, 10, move |jobs: Batch| {
            say.send(jobs.len()).unwrap();
            async {}
        });
        background.until(|counts| counts.completed == 25).await;
        let counts = background.stop().await;
        assert_eq!((counts.started, counts.claimed), (25, 25));
        let sizes: Vec<_> = std::iter::from_fn(|| said.try_recv().ok()).collect();
        assert_eq!(sizes, [10, 10, 5]);
        assert_eq!(ids(pool, "state = 'done' AND attempts = 1").await.len(), 25);
    }
}

#[tokio::test]
async fn so_many_batches_run_at_once() {
    let database = mails(40).await;
    let pool = &database.pool;
    let gate = Arc::new(Semaphore::new(0));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate_, most_) = (gate.clone(), most.clone());
    let worker = worker(pool).concurrency(3).prefetch(20);
    let background = start!(worker, 4, move |jobs: Batch| {
        let (gate, running, most) = (gate_.clone(), running.clone(), most_.clone());
        async move {
            assert_eq!(jobs.len(), 4);
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
            running.fetch_sub(1, Ordering::SeqCst);
        }
    });
    background.until(|counts| counts.started == 12).await;
    gate.add_permits(10);
    background.until(|counts| counts.completed == 40).await;
    assert_eq!(background.stop().await.panicked, 0);
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn each_row_gets_its_own_outcome() {
    let database = mails(6).await;
    let pool = &database.pool;
    let background = start!(worker(pool), 6, async |jobs: Batch| {
        let outcome = |job: &Job<Mail>| match job.id {
            1 => JobOutcome::Complete,
            2 => JobOutcome::retry_after("of 2", HOUR),
            3 => JobOutcome::fail("of 3"),
            4 => JobOutcome::Snooze(HOUR),
            5 => JobOutcome::fail("of 5"),
            _ => JobOutcome::Complete,
        };
        jobs.iter().map(outcome).collect::<Vec<_>>()
    });
    let ended = |counts: WorkerCounts| counts.completed + counts.dead + counts.retried == 5;
    background.until(ended).await;
    let counts = background.stop().await;
    assert_eq!((counts.snoozed, counts.started), (1, 6));
    assert_eq!(ids(pool, "state = 'done'").await, [1, 6]);
    assert_eq!(ids(pool, "state = 'dead'").await, [3, 5]);
    assert_eq!(ids(pool, "state = 'ready' AND attempts = 1").await, [2]);
    assert_eq!(ids(pool, "state = 'ready' AND attempts = 0").await, [4]);
    let expected = [None, Some("of 2"), Some("of 3"), None, Some("of 5"), None];
    assert_eq!(
        errors(pool).await,
        expected.map(|error| error.map(str::to_owned))
    );
}

/// What is said of all of them is an attempt of each, also of those that did no harm.
#[tokio::test]
async fn naive_twin_one_outcome_for_all_costs_the_good_rows_an_attempt() {
    let database = mails(3).await;
    let pool = &database.pool;
    let background = start!(worker(pool), 3, async |jobs: Batch| {
        match jobs.iter().find(|job| job.id == 2) {
            Some(_) => Err("2 has no address"),
            None => Ok(()),
        }
    });
    background.until(|counts| counts.retried == 3).await;
    background.stop().await;
    assert_eq!(
        ids(pool, "state = 'ready' AND attempts = 1").await,
        [1, 2, 3]
    );
    assert_eq!(
        errors(pool).await,
        [const { Some("2 has no address") }; 3].map(|e| e.map(str::to_owned))
    );
}

#[tokio::test]
async fn too_few_outcomes_are_a_failed_attempt_of_all() {
    let database = mails(3).await;
    let pool = &database.pool;
    let background = start!(worker(pool), 3, async |_: Batch| {
        Ok::<_, String>(vec![JobOutcome::Complete; 2])
    });
    background.until(|counts| counts.retried == 3).await;
    background.stop().await;
    let error = "the handler returned 2 outcomes for 3 jobs".to_owned();
    assert_eq!(errors(pool).await, vec![Some(error); 3]);
}

#[tokio::test]
async fn a_batch_that_panics_or_takes_too_long() {
    for (panics, error) in [
        (true, "the handler panicked: no 3"),
        (false, "the handler took longer than 30ms"),
    ] {
        let database = mails(3).await;
        let pool = &database.pool;
        let (say, mut said) = mpsc::unbounded_channel();
        let worker = worker(pool).handler_timeout(Duration::from_millis(30));
        let background = start!(worker, 3, move |jobs: Batch| {
            let dropped = Dropped(say.clone(), "dropped".to_owned());
            async move {
                let _dropped = dropped;
                assert!(!panics, "no {}", jobs.len());
                pending::<()>().await;
            }
        });
        background.until(|counts| counts.retried == 3).await;
        let counts = background.stop().await;
        assert_eq!(said.recv().await.as_deref(), Some("dropped"));
        let times = if panics { (3, 0) } else { (0, 3) };
        assert_eq!((counts.panicked, counts.timed_out), times);
        assert_eq!(errors(pool).await, vec![Some(error.to_owned()); 3]);
    }
}

#[tokio::test]
async fn a_job_that_is_cancelled_does_not_end_its_batch() {
    let database = mails(3).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let background = start!(worker(pool), 3, move |jobs: Batch| {
        say.send(jobs.len()).unwrap();
        async move {
            let cancelled = jobs.iter().find(|job| job.id == 2).unwrap();
            cancelled.stopped().await;
            assert_eq!(jobs.iter().filter(|job| job.is_stopped()).count(), 1);
            vec![JobOutcome::Complete; 3]
        }
    });
    assert_eq!(said.recv().await, Some(3));
    assert_eq!(Mail::cancel(pool, 2).await.unwrap(), Cancelled::Now);
    background.until(|counts| counts.completed == 2).await;
    let counts = background.stop().await;
    assert_eq!((counts.lease_lost, counts.panicked), (1, 0));
    assert_eq!(ids(pool, "state = 'done'").await, [1, 3]);
    assert_eq!(errors(pool).await[1].as_deref(), Some("cancelled"));
}

/// A batch that says when it begins, and when it is dropped.
async fn hanging(worker: Worker<Db, Mail>) -> (Background, mpsc::UnboundedReceiver<String>) {
    let (say, mut said) = mpsc::unbounded_channel();
    let background = start!(worker, 3, move |jobs: Batch| {
        let dropped = Dropped(say.clone(), "dropped".to_owned());
        async move {
            dropped.0.send(format!("{} begun", jobs.len())).unwrap();
            let _dropped = dropped;
            pending::<()>().await;
        }
    });
    assert_eq!(said.recv().await.as_deref(), Some("3 begun"));
    (background, said)
}

async fn cancel(pool: &Pool) {
    for id in 1..=3 {
        assert_eq!(Mail::cancel(pool, id).await.unwrap(), Cancelled::Now);
    }
}

#[tokio::test]
async fn a_batch_whose_jobs_are_all_cancelled_or_lost_is_dropped() {
    for are_cancelled in [true, false] {
        let database = mails(3).await;
        let pool = &database.pool;
        let (background, mut said) = hanging(worker(pool)).await;
        match are_cancelled {
            true => cancel(pool).await,
            false => run(pool, "UPDATE mails SET fence = fence + 1").await,
        }
        assert_eq!(said.recv().await.as_deref(), Some("dropped"));
        let counts = background.stop().await;
        assert_eq!((counts.lease_lost, counts.retried), (3, 0));
    }
}

#[tokio::test]
async fn the_batch_of_a_worker_that_stops_is_waited_for_and_then_dropped() {
    let database = mails(3).await;
    let pool = &database.pool;
    let worker_ = worker(pool).shutdown_timeout(Duration::ZERO);
    let (background, mut said) = hanging(worker_).await;
    let counts = background.stop().await;
    // Before `run` has returned.
    assert_eq!(said.try_recv().as_deref(), Ok("dropped"));
    assert_eq!((counts.released, counts.completed), (3, 0));
    assert_eq!(
        ids(pool, "state = 'ready' AND attempts = 0").await,
        [1, 2, 3]
    );

    let (begun, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, ends) = (begun.clone(), may_end.clone());
    let background = start!(worker(pool), 3, move |_: Batch| {
        begins.notify_one();
        let ends = ends.clone();
        async move { ends.notified().await }
    });
    begun.notified().await;
    background.signal();
    may_end.notify_one();
    let counts = background.task.await.unwrap().unwrap();
    assert_eq!((counts.released, counts.completed), (0, 3));
}

#[tokio::test]
async fn the_batch_of_a_worker_that_is_dropped_is_dropped() {
    let database = mails(3).await;
    let (background, mut said) = hanging(worker(&database.pool)).await;
    background.task.abort();
    assert_eq!(said.recv().await.as_deref(), Some("dropped"));
}

/// Whose hook ends or panics before the handler is not in the batch; the others see what the handler came to.
/// The others have no time left, and the handler does not begin.
#[tokio::test]
async fn a_hook_that_hangs_is_a_failed_attempt_of_its_batch() {
    let database = mails(6).await;
    let pool = &database.pool;
    let worker = worker(pool)
        .handler_timeout(Duration::from_millis(50))
        .around(|job, next| async move {
            if job.id == 3 {
                pending::<()>().await;
            }
            next.run().await
        });
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let background = start!(worker, 10, move |_: Batch| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    background.until(|counts| counts.retried == 6).await;
    assert_eq!(background.stop().await.timed_out, 6);
    assert_eq!(begun.load(Ordering::SeqCst), 0);
}

/// Places of a batch that has begun are for nobody: a row that waited there for the next batch could be handled by another worker.
#[tokio::test]
async fn a_batch_that_has_begun_keeps_no_other_rows() {
    let database = mails(2).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let worker = worker(pool)
        .concurrency(1)
        .poll(Duration::from_millis(1))
        .shutdown_timeout(Duration::ZERO);
    let background = start!(worker, 10, move |jobs: Batch| {
        say.send(jobs.len()).unwrap();
        pending::<()>()
    });
    assert_eq!(said.recv().await, Some(2));
    run(pool, "INSERT INTO mails (id) VALUES (7), (8), (9)").await;
    // A claim that was under way when the batch began gives them back.
    let mut others = 0;
    while others < 3 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        others += Mail::claim(pool, 10).await.unwrap().len();
    }
    background.stop().await;
}

#[tokio::test]
async fn hooks_run_around_each_job_of_a_batch() {
    let database = mails(4).await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let worker = worker(pool).around(|job, next| async move {
        match job.id {
            1 => JobOutcome::fail("unwanted"),
            2 => panic!("no hook"),
            _ => match next.run().await {
                JobOutcome::Retry { error, .. } => JobOutcome::fail(error),
                outcome => outcome,
            },
        }
    });
    let background = start!(worker, 4, move |jobs: Batch| {
        let mut ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        ids.sort_unstable();
        say.send(ids).unwrap();
        async move { assert!(jobs.is_empty(), "no handler") }
    });
    background
        .until(|counts| counts.dead + counts.retried == 4)
        .await;
    let counts = background.stop().await;
    assert_eq!(said.try_recv(), Ok(vec![3, 4]));
    assert_eq!((counts.panicked, counts.dead), (3, 3));
    let panic = |what: &str| Some(format!("the handler panicked: no {what}"));
    let handler = panic("handler");
    let expected = [
        Some("unwanted".to_owned()),
        panic("hook"),
        handler.clone(),
        handler,
    ];
    assert_eq!(errors(pool).await, expected);
    until(async || ids(pool, "state = 'dead'").await == [1, 3, 4]).await;
}
