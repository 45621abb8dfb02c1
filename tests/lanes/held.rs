//! A row that somebody has locked.

use std::time::Duration;

use rowlock::Fault;
use rowlock::row::CounterError;
use sqlx::{Connection as _, Executor as _};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(30);

/// Calls for other rows go on, whether they wait with those of the locked row or come later; also that of the one who holds it, who would else
/// wait for himself without the database seeing it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_for_other_rows_go_on() {
    for count in [1, 2, 4] {
        let database = database(TABLES).await;
        // No more than these are left for those who wait, and they take them all.
        let pool = PoolOptions::new().max_connections(u32::try_from(count).unwrap() + 2);
        let pool = database.pool_with(pool).await;
        let lanes = Lanes::new(&pool, count).await.unwrap();
        let mut holder = database.connection().await;
        let mut holding = holder.begin().await.unwrap();
        let hold = "UPDATE page_views SET views = views WHERE page = 7";
        sqlx::raw_sql(hold).execute(&mut *holding).await.unwrap();

        let mut blocked = JoinSet::new();
        for _ in 0..12 {
            let lanes = lanes.clone();
            blocked.spawn(async move { PageViews::add_views(&lanes, 7, 1).await.unwrap() });
        }
        database.until_blocked().await;
        // The same statement has both, again and again.
        let others = at_once((0..200).map(|n| {
            let lanes = lanes.clone();
            async move {
                let page = 8 + n % 50;
                PageViews::add_views(&lanes, page, 1).await.unwrap();
            }
        }));
        timeout(SOON, others)
            .await
            .expect("they wait for the row that is locked");
        let mine = PageViews::add_views(&lanes, 8, 0);
        assert_eq!(timeout(SOON, mine).await.unwrap().unwrap(), 4);
        assert_eq!(blocked.try_join_next().map(Result::unwrap), None);

        holding.commit().await.unwrap();
        let mut totals = blocked.join_all().await;
        totals.sort_unstable();
        assert_eq!(totals, (1..=12).collect::<Vec<_>>());
    }
}

/// Many rows that are locked are found by one question. Halves would end with a statement for each run of rows between two of them, and a timeout for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_locked_rows_stop_nobody() {
    let database = database(TABLES).await;
    sqlx::raw_sql("INSERT INTO page_views SELECT n, 0 FROM generate_series(101, 2000) AS n; INSERT INTO documents (id, title) SELECT n, '' FROM generate_series(101, 2000) AS n")
        .execute(&database.pool)
        .await
        .unwrap();
    let pool = database
        .pool_with(PoolOptions::new().max_connections(4))
        .await;
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    let hold = "SELECT FROM page_views WHERE page % 5 = 0 FOR NO KEY UPDATE; SELECT FROM documents WHERE id % 5 = 0 FOR UPDATE";
    sqlx::raw_sql(hold).execute(&mut *holding).await.unwrap();
    let (mut blocked, mut free) = (JoinSet::new(), JoinSet::new());
    for key in 1..=1500 {
        let lanes = lanes.clone();
        let tasks = if key % 5 == 0 {
            &mut blocked
        } else {
            &mut free
        };
        tasks.spawn(async move {
            PageViews::add_views(&lanes, key, 1).await.unwrap();
            let document = Document::load(&lanes, key).await.unwrap();
            document.update(&lanes).await.unwrap();
        });
    }
    timeout(SOON, free.join_all())
        .await
        .expect("they wait for the rows that are locked");
    let statements = statements(&database.pool).await;
    assert!(statements < 200, "{statements} statements");
    assert!(blocked.try_join_next().is_none());
    holding.commit().await.unwrap();
    blocked.join_all().await;
    let sum = "SELECT sum(views)::bigint FROM page_views";
    assert_eq!(number(&database.pool, sum).await, 1500);
}

/// A call that has a lane to itself, and waits for a lock, keeps no other from being served: the pool has more connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_all_wait_stop_nobody() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    let hold = "UPDATE page_views SET views = views WHERE page = 7; UPDATE documents SET title = title WHERE id = 7;
        UPDATE stock SET units = units";
    sqlx::raw_sql(hold).execute(&mut *holding).await.unwrap();
    let mut blocked = JoinSet::new();
    {
        let lanes = lanes.clone();
        blocked.spawn(async move { PageViews::add_views(&lanes, 7, 1).await.unwrap() });
    }
    {
        let lanes = lanes.clone();
        blocked.spawn(async move { i64::from(Stock::add_units(&lanes, "ink", 1).await.unwrap()) });
    }
    {
        let lanes = lanes.clone();
        blocked.spawn(async move {
            let document = Document::load(&lanes, 7).await.unwrap();
            i64::from(document.update(&lanes).await.unwrap().version)
        });
    }
    database.until_blocked().await;
    let document = timeout(SOON, Document::load(&lanes, 8))
        .await
        .expect("the lanes wait")
        .unwrap();
    timeout(SOON, document.update(&lanes))
        .await
        .expect("the lanes wait")
        .unwrap();
    timeout(SOON, PageViews::add_views(&lanes, 8, 1))
        .await
        .expect("the lanes wait")
        .unwrap();
    holding.commit().await.unwrap();
    assert_eq!(blocked.join_all().await, [1, 1, 1]);
}

/// One call waits for the row on a connection, and so does each that had a lane to itself before it was known to be locked: one of them, or one per lane
/// where a round trip takes long. The others wait in memory, and are one statement later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_row_takes_one_connection_more_than_its_lanes_at_most() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let mut holder = database.connection().await;
    for round in 0..3 {
        let before = statements(&database.pool).await;
        let mut holding = holder.begin().await.unwrap();
        let hold = "SELECT FROM page_views WHERE page = 7 FOR UPDATE";
        sqlx::raw_sql(hold).execute(&mut *holding).await.unwrap();
        let mut blocked = JoinSet::new();
        for _ in 0..100 {
            let lanes = lanes.clone();
            blocked.spawn(async move { PageViews::add_views(&lanes, 7, 1).await.unwrap() });
        }
        database.until_blocked().await;
        // Each of these is served after some of those: in the end all of them have been sent.
        for _ in 0..100 {
            let other = PageViews::add_views(&lanes, 8, 1);
            timeout(SOON, other).await.expect("it waits").unwrap();
        }
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = current_setting('application_name') AND wait_event_type = 'Lock'";
        let waiting = number(&database.pool, waiting).await;
        assert!((1..=3).contains(&waiting), "{waiting} connections wait");
        holding.commit().await.unwrap();
        let mut totals = blocked.join_all().await;
        totals.sort_unstable();
        let first = round * 100;
        assert_eq!(totals, (first + 1..=first + 100).collect::<Vec<_>>());
        // Those for the other row are among them.
        let statements = statements(&database.pool).await - before;
        assert!(statements < 120, "{statements} statements");
    }
}

/// A counter at its bound, that overflows or is NULL refuses without its lock. Those calls that had a lane to themselves wait for it, as an upsert does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_locked_row_refuses_waits_for_no_lock() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let full = "INSERT INTO stock VALUES ('full', 1000), ('other', 0)";
    sqlx::raw_sql(full).execute(&database.pool).await.unwrap();
    let mut holder = database.connection().await;
    let mut holding = holder.begin().await.unwrap();
    let hold = "SELECT FROM stock WHERE sku = 'full' FOR UPDATE";
    sqlx::raw_sql(hold).execute(&mut *holding).await.unwrap();
    let mut refused = JoinSet::new();
    for _ in 0..40 {
        let lanes = lanes.clone();
        refused.spawn(async move { Stock::add_units(&lanes, "full", 1).await.unwrap_err() });
    }
    for _ in 0..37 {
        let error = timeout(SOON, refused.join_next()).await.expect("it waits");
        let error = error.unwrap().unwrap();
        assert!(matches!(error, CounterError::OutOfBounds(_)), "{error:?}");
    }
    let other = timeout(SOON, Stock::add_units(&lanes, "other", 1)).await;
    assert_eq!(other.expect("it waits").unwrap(), 1);
    holding.commit().await.unwrap();
    refused.join_all().await;
}

/// Whoever waits for the lock can be dropped: the others are served, and what was not confirmed is done once or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_of_a_locked_row_that_goes_away_hurts_no_other() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 2).await;
    let mut holder = database.connection().await;
    let mut dropped = 0;
    let mut served = 0;
    for kept in 0..12 {
        let mut holding = holder.begin().await.unwrap();
        let hold = "SELECT FROM page_views WHERE page = 7 FOR UPDATE";
        sqlx::raw_sql(hold).execute(&mut *holding).await.unwrap();
        let call = || {
            let lanes = lanes.clone();
            tokio::spawn(async move { PageViews::add_views(&lanes, 7, 1).await.unwrap() })
        };
        let mut calls: Vec<_> = (0..12).map(|_| call()).collect();
        database.until_blocked().await;
        let last = calls.remove(kept);
        for call in calls {
            call.abort();
            match call.await {
                Ok(_) => served += 1,
                Err(error) => {
                    assert!(error.is_cancelled());
                    dropped += 1;
                }
            }
        }
        holding.commit().await.unwrap();
        timeout(SOON, last)
            .await
            .expect("nobody serves it")
            .unwrap();
        served += 1;
    }
    let others = (8..60).map(|page| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, page, 1).await.unwrap() }
    });
    assert_eq!(at_once(others).await, [1; 52]);
    let total = number(
        &database.pool,
        "SELECT views FROM page_views WHERE page = 7",
    )
    .await;
    assert!(
        (served..=served + dropped).contains(&total),
        "{total} of {served} and {dropped} that were dropped"
    );
}

/// When the call that waits for the lock has waited as long as the session lets it, so have those that came before it began to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_locked_row_time_out_together() {
    for (setting, fault) in [
        ("SET lock_timeout = 300", Fault::LockTimeout),
        ("SET statement_timeout = 300", Fault::Canceled),
    ] {
        let database = database(TABLES).await;
        sqlx::raw_sql("CREATE TRIGGER count_attempt BEFORE UPDATE ON page_views FOR EACH STATEMENT EXECUTE FUNCTION count_statement()")
            .execute(&database.pool)
            .await
            .unwrap();
        let options = PoolOptions::new().max_connections(4);
        let options = options.after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(setting).await.map(drop) })
        });
        let pool = database.pool_with(options).await;
        let lanes = Lanes::new(&pool, 1).await.unwrap();
        let mut holder = database.connection().await;
        let mut holding = holder.begin().await.unwrap();
        let hold = "SELECT FROM page_views WHERE page = 7 FOR UPDATE";
        sqlx::raw_sql(hold).execute(&mut *holding).await.unwrap();
        let calls = (0..64).map(|_| {
            let lanes = lanes.clone();
            async move { PageViews::add_views(&lanes, 7, 1).await.unwrap_err() }
        });
        for error in at_once(calls).await {
            let CounterError::Database(error) = error else {
                panic!("{error:?}");
            };
            assert_eq!(error.fault(), fault);
        }
        let attempts = statements(&database.pool).await;
        assert!(attempts < 16, "{attempts} attempts");
        holding.rollback().await.unwrap();
        assert_eq!(PageViews::add_views(&lanes, 7, 1).await.unwrap(), 1);
    }
}

/// `lock_timeout` is that of one statement: what follows on the lane has the session's own.
#[tokio::test]
async fn the_session_keeps_its_settings() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 1).await;
    at_once((0..64).map(|n| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, n % 9 + 1, 1).await.unwrap() }
    }))
    .await;
    let mut lane = lanes.acquire().await.unwrap();
    let show: String = sqlx::query_scalar("SHOW lock_timeout")
        .fetch_one(&mut *lane)
        .await
        .unwrap();
    assert_eq!(show, "0");
}
