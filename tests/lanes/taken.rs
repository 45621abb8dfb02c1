//! Lanes that are taken, given back, replaced and closed.

use std::time::Duration;

use rowlock_tests::postgres::address;
use rowlock_tests::proxy::Proxy;
use sqlx::Connection as _;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(30);

/// Where a pool asks first whether the connection is alive, and after whether it is clean.
#[tokio::test]
async fn a_call_is_one_round_trip() {
    let database = database(TABLES).await;
    let proxy = Proxy::start(&address()).await;
    let pool = database.pool_through(&proxy, PoolOptions::new()).await;
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    let calls = async |trips: usize| {
        proxy.reset();
        PageViews::add_views(&lanes, 1, 1).await.unwrap();
        let document = Document::load(&lanes, 1).await.unwrap();
        document.update(&lanes).await.unwrap();
        PageViews::get(&lanes, 1).await.unwrap();
        assert_eq!(proxy.round_trips(), trips);
    };
    // Prepared in a trip of its own.
    calls(8).await;
    calls(4).await;
}

/// A lane whose caller is gone answers nobody else: it is drained before.
#[tokio::test]
async fn a_dropped_call_leaves_a_clean_lane() {
    let database = database(TABLES).await;
    let proxy = Proxy::start(&address()).await;
    let pool = database
        .pool_through(&proxy, PoolOptions::new().max_connections(2))
        .await;
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    PageViews::add_views(&lanes, 1, 1).await.unwrap();
    for round in 1..=20 {
        proxy.hold_replies(true);
        {
            let call = PageViews::add_views(&lanes, 1, 1);
            tokio::select! {
                biased;
                _ = call => panic!("the reply is held"),
                () = proxy.reply_held() => {}
            }
        }
        proxy.hold_replies(false);
        // What the dropped call would have been told.
        let document = Document::load(&lanes, round).await.unwrap();
        assert_eq!(document.id, round);
        let total = PageViews::add_views(&lanes, 1, 0).await.unwrap();
        assert_eq!(total, 1 + round);
    }
}

/// Whoever no longer waits is left out; those with him are served.
#[tokio::test]
async fn a_call_that_waits_can_be_dropped() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 1).await;
    let mut sum = 0;
    for limit in 1..6 {
        let kept = at_once((0..40).map(|n| {
            let lanes = lanes.clone();
            async move {
                let call = PageViews::add_views(&lanes, 3, 1);
                if n % 2 == 0 {
                    call.await.unwrap();
                    return 1;
                }
                rowlock_tests::cancel::polled(limit, call)
                    .await
                    .map_or(0, |_| 1)
            }
        }));
        sum += kept.await.into_iter().sum::<i64>();
    }
    let total = PageViews::add_views(&lanes, 3, 0).await.unwrap();
    // The first of each round had a lane, or was in a statement that was sent.
    assert!(
        (sum..=sum + 100).contains(&total),
        "{total}, confirmed {sum}"
    );
}

#[tokio::test]
async fn statements_of_sqlx_run_on_a_lane() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 1).await;
    for _ in 0..3 {
        let mut lane = lanes.acquire().await.unwrap();
        let mut transaction = lane.begin().await.unwrap();
        PageViews::add_views(&mut *transaction, 1, 1).await.unwrap();
        // Rolled back by dropping it.
        drop(transaction);
        drop(lane);
        assert_eq!(PageViews::add_views(&lanes, 1, 0).await.unwrap(), 0);
    }
    // Left behind in a transaction, it serves nobody.
    let mut lane = lanes.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN; UPDATE page_views SET views = 1000 WHERE page = 2")
        .execute(&mut *lane)
        .await
        .unwrap();
    drop(lane);
    let total = timeout(SOON, PageViews::add_views(&lanes, 2, 1))
        .await
        .expect("the row is locked");
    assert_eq!(total.unwrap(), 1);
}

#[tokio::test]
async fn a_transaction_begins_on_lanes() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let total = rowlock::transaction(&lanes)
        .run(async |tx| {
            PageViews::add_views(&mut *tx, 1, 1).await?;
            PageViews::add_views(&mut *tx, 1, 1).await
        })
        .await
        .unwrap();
    assert_eq!(total, 2);
}

#[tokio::test]
async fn a_lane_that_has_ended_is_replaced() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    for round in 1..=5 {
        PageViews::add_views(&lanes, 1, 1).await.unwrap();
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = current_setting('application_name')
            AND pid <> pg_backend_pid()";
        number(&database.pool, end).await;
        // Idle for so long that they are asked before they serve.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(PageViews::add_views(&lanes, 1, 0).await.unwrap(), round);
    }
}

#[tokio::test]
async fn closing_waits_for_the_calls() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let calls = (0..64).map(|_| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, 1, 1).await }
    });
    let calls = at_once(calls);
    let (outcomes, ()) = tokio::join!(calls, async {
        tokio::task::yield_now().await;
        lanes.close().await;
    });
    let done = i64::try_from(outcomes.iter().filter(|outcome| outcome.is_ok()).count()).unwrap();
    let views = "SELECT views FROM page_views WHERE page = 1";
    assert_eq!(number(&database.pool, views).await, done);
    assert!(lanes.is_closed());
    let closed = PageViews::add_views(&lanes, 1, 1).await.unwrap_err();
    assert_eq!(
        closed.to_string(),
        "add_views of page_views (page = 1): the pool is closed"
    );
    lanes.close().await;
}

/// A pool waits for all its connections when it is closed.
#[tokio::test]
async fn closing_the_pool_closes_the_lanes() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 3).await;
    PageViews::add_views(&lanes, 1, 1).await.unwrap();
    timeout(SOON, lanes.pool().close())
        .await
        .expect("the lanes are closed");
    PageViews::add_views(&lanes, 1, 1).await.unwrap_err();
}

/// It does not wait for calls that come all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_comes_to_an_end_under_load() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        let lanes = lanes.clone();
        callers.spawn(async move {
            let mut calls = 0;
            while PageViews::add_views(&lanes, 1, 1).await.is_ok() {
                calls += 1;
            }
            calls
        });
    }
    while number(
        &database.pool,
        "SELECT views FROM page_views WHERE page = 1",
    )
    .await
        < 100
    {}
    timeout(SOON, lanes.close())
        .await
        .expect("it takes new calls");
    let calls: i64 = callers.join_all().await.into_iter().sum();
    let views = "SELECT views FROM page_views WHERE page = 1";
    assert_eq!(number(&database.pool, views).await, calls);
}

/// A pool that nobody has any more ends, with its connections.
#[tokio::test]
async fn a_pool_does_not_outlive_its_lanes() {
    let database = database(TABLES).await;
    let pool = database
        .pool_with(PoolOptions::new().max_connections(3))
        .await;
    let closed = pool.close_event();
    let lanes = Lanes::new(&pool, 2).await.unwrap();
    at_once((0..32).map(|_| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, 1, 1).await.unwrap() }
    }))
    .await;
    drop((lanes, pool));
    timeout(SOON, closed).await.expect("a task has the pool");
}

/// Nothing is kept of lanes that are gone.
#[tokio::test]
async fn lanes_that_are_dropped_give_their_connections_back() {
    let database = database(TABLES).await;
    let pool = database
        .pool_with(PoolOptions::new().max_connections(2))
        .await;
    for _ in 0..3 {
        let lanes = Lanes::new(&pool, 2).await.unwrap();
        PageViews::add_views(&lanes, 1, 1).await.unwrap();
    }
    drop(
        timeout(SOON, pool.acquire())
            .await
            .expect("they are back")
            .unwrap(),
    );
}

/// In a `main` after `block_on`: the pool would spawn a task for each connection, and panic.
#[test]
fn lanes_are_dropped_where_no_runtime_is() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (database, lanes) = runtime.block_on(async {
        let database = database(TABLES).await;
        let lanes = lanes_of(&database, 2).await;
        PageViews::add_views(&lanes, 1, 1).await.unwrap();
        (database, lanes)
    });
    drop(lanes);
    runtime.block_on(async move { drop(database) });
}
