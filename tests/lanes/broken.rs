//! Connections and callers that break while calls are under way: what was confirmed is there, and nothing twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rowlock::row::CounterError;
use rowlock_tests::postgres::address;
use rowlock_tests::proxy::Proxy;
use rowlock_tests::random::Random;

use super::*;

/// Of one page.
#[derive(Default)]
struct Added {
    confirmed: AtomicI64,
    unknown: AtomicI64,
}

/// 64 callers while something breaks; each total that was told is of one call alone.
async fn storm<B, F>(database: &Database, lanes: &Lanes<Postgres>, time: Duration, mut breaks: B)
where
    B: FnMut() -> F,
    F: Future<Output = ()>,
{
    let pages: Arc<Vec<Added>> = Arc::new((0..8).map(|_| Added::default()).collect());
    let before: Vec<(i64, i64)> =
        sqlx::query_as("SELECT page, views FROM page_views WHERE page <= 8 ORDER BY page")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    let mut callers = JoinSet::new();
    let until = tokio::time::Instant::now() + time;
    for caller in 0..64_u64 {
        let (lanes, pages) = (lanes.clone(), Arc::clone(&pages));
        callers.spawn(async move {
            let mut random = Random::seeded(caller + 1);
            while tokio::time::Instant::now() < until {
                let page = random.below(8);
                let key = i64::try_from(page).unwrap() + 1;
                let call = PageViews::add_views(&lanes, key, 1);
                let outcome = match random.below(10) {
                    // The caller goes.
                    0 => rowlock_tests::cancel::polled(1 + random.below(3), call).await,
                    _ => Some(call.await),
                };
                match outcome {
                    Some(Ok(_)) => pages[page].confirmed.fetch_add(1, Ordering::Relaxed),
                    None | Some(Err(CounterError::Unknown(_))) => {
                        pages[page].unknown.fetch_add(1, Ordering::Relaxed)
                    }
                    // Nothing was sent, or the server said no.
                    Some(Err(CounterError::Database(_))) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        0
                    }
                    Some(Err(error)) => panic!("{error:?}"),
                };
            }
        });
    }
    while tokio::time::Instant::now() < until {
        breaks().await;
    }
    callers.join_all().await;
    let mut all = 0;
    for (page, views) in before {
        let added = &pages[usize::try_from(page - 1).unwrap()];
        let (confirmed, unknown) = (
            added.confirmed.load(Ordering::Relaxed),
            added.unknown.load(Ordering::Relaxed),
        );
        let now: i64 = sqlx::query_scalar("SELECT views FROM page_views WHERE page = $1")
            .bind(page)
            .fetch_one(&database.pool)
            .await
            .unwrap();
        assert!(
            (confirmed..=confirmed + unknown).contains(&(now - views)),
            "page {page}: {} added, {confirmed} confirmed, {unknown} unknown",
            now - views
        );
        all += confirmed;
    }
    assert!(all > 100, "{all} calls");
    // And it goes on.
    at_once((0..64).map(|_| {
        let lanes = lanes.clone();
        async move {
            // The last of those that were ended may be met yet.
            while PageViews::add_views(&lanes, 9, 1).await.is_err() {}
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut() {
    let database = database(TABLES).await;
    let proxy = Proxy::start(&address()).await;
    let pool = database
        .pool_through(&proxy, PoolOptions::new().max_connections(12))
        .await;
    let lanes = Lanes::new(&pool, 3).await.unwrap();
    let mut random = Random::seeded(7);
    storm(&database, &lanes, Duration::from_secs(3), || {
        let wait = Duration::from_micros(500 + random.below(20_000) as u64);
        let proxy = &proxy;
        async move {
            tokio::time::sleep(wait).await;
            proxy.cut().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_are_terminated() {
    let database = database(TABLES).await;
    let lanes = lanes_of(&database, 3).await;
    let aside = database
        .pool_with(PoolOptions::new().max_connections(1))
        .await;
    let mut random = Random::seeded(11);
    storm(&database, &lanes, Duration::from_secs(3), || {
        let wait = Duration::from_micros(500 + random.below(20_000) as u64);
        let aside = aside.clone();
        async move {
            tokio::time::sleep(wait).await;
            let end = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
                WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid() ORDER BY random() LIMIT 2) AS some";
            let _ = sqlx::query_scalar::<_, i64>(end).fetch_one(&aside).await;
        }
    })
    .await;
}

/// A statement that many waited for ends its session: what became of it nobody knows, and it is run again for none of them.
#[tokio::test]
async fn a_lost_statement_is_unknown_to_all() {
    let database = database(TABLES).await;
    sqlx::raw_sql(
        "CREATE FUNCTION end_session() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT count(*) FROM new_rows) > 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
             RETURN NULL; END $$;
         CREATE TRIGGER end_session AFTER UPDATE ON page_views REFERENCING NEW TABLE AS new_rows
             FOR EACH STATEMENT EXECUTE FUNCTION end_session()",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    let lanes = lanes_of(&database, 1).await;
    let calls = (1..=40).map(|page| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, page, 1).await }
    });
    let outcomes = behind(lanes.acquire().await.unwrap(), calls).await;
    let mut confirmed = 0;
    for (outcome, page) in outcomes.into_iter().zip(1..) {
        match outcome {
            Ok(total) => {
                assert_eq!(total, 1);
                confirmed += 1;
            }
            Err(CounterError::Unknown(error)) => {
                assert_eq!(error.operation().key(), format!("page = {page}"));
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(confirmed < 4, "{confirmed} were served alone");
    let sum = "SELECT sum(views)::bigint FROM page_views";
    assert_eq!(number(&database.pool, sum).await, confirmed);
}

/// The server is gone: each call says so, as of a pool, and none hangs.
#[tokio::test]
async fn nobody_answers() {
    let database = database(TABLES).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(1));
    let pool = database.pool_through(&proxy, options).await;
    let lanes = Lanes::new(&pool, 2).await.unwrap();
    PageViews::add_views(&lanes, 1, 1).await.unwrap();
    drop(proxy);
    let outcomes = at_once((0..32).map(|_| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, 1, 1).await.unwrap_err() }
    }));
    for error in outcomes.await {
        assert!(
            matches!(error, CounterError::Unknown(_) | CounterError::Database(_)),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .starts_with("add_views of page_views (page = 1)"),
            "{error}"
        );
    }
    assert_eq!(
        number(
            &database.pool,
            "SELECT views FROM page_views WHERE page = 1"
        )
        .await,
        1
    );
}
