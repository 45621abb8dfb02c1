//! Another process has the write lock, and callers that go.

use std::time::Duration;

use rowlock::Fault;
use rowlock::row::{CounterError, UpdateError};
use rowlock_tests::random::Random;
use sqlx::Connection as _;

use super::*;

/// Lanes whose connections wait so long for the write lock.
async fn waiting(database: &Database, time: Duration) -> Lanes<Db> {
    let options = database.options().busy_timeout(time);
    let pool = PoolOptions::new().max_connections(8);
    Lanes::new(&pool.connect_with(options).await.unwrap(), 1)
        .await
        .unwrap()
}

/// The lock is held for longer than anybody waits: each is told so, nobody waits for the others' turns, and nothing is written. Reads go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_kept_is_told_to_each() {
    let database = database(TABLES).await;
    let lanes = waiting(&database, Duration::from_millis(300)).await;
    let document = Document::load(&lanes, 1).await.unwrap();
    let mut holder = database.connection().await;
    let holding = holder.begin_with(BEGIN_WRITE).await.unwrap();
    let reads = at_once((1..=64).map(|id| {
        let lanes = lanes.clone();
        async move { assert_eq!(Document::load(&lanes, id).await.unwrap().id, id) }
    }));
    let adds = at_once((0..64).map(|n| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, n % 9 + 1, 1).await }
    }));
    let updates = at_once((0..64).map(|_| {
        let (lanes, document) = (lanes.clone(), document.clone());
        async move { document.update(&lanes).await }
    }));
    let (adds, updates, _) = tokio::join!(adds, updates, reads);
    for outcome in adds {
        match outcome {
            Err(CounterError::Database(error)) => assert_eq!(error.fault(), Fault::Busy),
            outcome => panic!("{outcome:?}"),
        }
    }
    for outcome in updates {
        match outcome {
            Err(UpdateError::Database(error)) => assert_eq!(error.fault(), Fault::Busy),
            outcome => panic!("{outcome:?}"),
        }
    }
    holding.rollback().await.unwrap();
    assert_eq!(statements(&database.pool).await, 0);
    // And it goes on.
    assert_eq!(PageViews::add_views(&lanes, 1, 1).await.unwrap(), 1);
    assert_eq!(document.update(&lanes).await.unwrap().version, 1);
}

/// It is let go, and taken again: all are served, each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_comes_and_goes() {
    let database = database(TABLES).await;
    let lanes = waiting(&database, Duration::from_secs(20)).await;
    let mut holder = database.connection().await;
    let mut callers = JoinSet::new();
    for caller in 0..32 {
        let lanes = lanes.clone();
        callers.spawn(async move {
            for round in 0..20 {
                PageViews::add_views(&lanes, 7, 1).await.unwrap();
                PageViews::add_views(&lanes, (caller + round) % 50 + 10, 1)
                    .await
                    .unwrap();
            }
        });
    }
    let mut held = 0;
    while callers.try_join_next().is_none() {
        let holding = holder.begin_with(BEGIN_WRITE).await.unwrap();
        held += 1;
        tokio::task::yield_now().await;
        holding.rollback().await.unwrap();
    }
    callers.join_all().await;
    assert!(held > 0);
    let hot = "SELECT views FROM page_views WHERE page = 7";
    assert_eq!(number(&database.pool, hot).await, 640);
    let all = "SELECT sum(views) FROM page_views";
    assert_eq!(number(&database.pool, all).await, 1_280);
}

/// A caller that has sent its statement and does not look at the answer stops nobody.
#[tokio::test]
async fn a_call_that_nobody_polls_stops_nobody() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 1).await;
    let mut answered = 0;
    let call = loop {
        let mut call = Box::pin(PageViews::add_views(&lanes, 1, 1));
        match rowlock_tests::cancel::polled(1, call.as_mut()).await {
            // It has the lane.
            None => break call,
            Some(_) => answered += 1,
        }
    };
    at_once((0..64).map(|_| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, 2, 1).await.unwrap() }
    }))
    .await;
    assert_eq!(call.await.unwrap(), answered + 1);
}

/// Callers that go at any point: what was confirmed is there, and nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_go() {
    for seed in 1..=3 {
        println!("seed {seed}");
        let database = database(TABLES).await;
        let lanes = lanes_of(&database, 1).await;
        let added = at_once((0..64).map(|caller| {
            let lanes = lanes.clone();
            async move {
                let mut random = Random::seeded(seed * 100 + caller + 1);
                let (mut confirmed, mut unknown) = ([0; 4], [0; 4]);
                for _ in 0..40 {
                    let page = random.below(4);
                    let key = i64::try_from(page).unwrap() + 1;
                    let call = PageViews::add_views(&lanes, key, 1);
                    let outcome = match random.below(4) {
                        0 => rowlock_tests::cancel::polled(1 + random.below(4), call).await,
                        _ => Some(call.await),
                    };
                    match outcome {
                        Some(Ok(_)) => confirmed[page] += 1,
                        Some(Err(error)) => panic!("{error:?}"),
                        None => unknown[page] += 1,
                    }
                }
                (confirmed, unknown)
            }
        }))
        .await;
        // What was dropped may be under way.
        PageViews::add_views(&lanes, 9, 1).await.unwrap();
        for page in 0..4 {
            let confirmed: i64 = added.iter().map(|(confirmed, _)| confirmed[page]).sum();
            let unknown: i64 = added.iter().map(|(_, unknown)| unknown[page]).sum();
            let key = i64::try_from(page).unwrap() + 1;
            let views = PageViews::add_views(&lanes, key, 0).await.unwrap();
            assert!(confirmed > 0);
            assert!(
                (confirmed..=confirmed + unknown).contains(&views),
                "page {key}: {views}, {confirmed} confirmed, {unknown} unknown"
            );
        }
    }
}
