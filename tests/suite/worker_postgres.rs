//! The worker of `#[derive(Queue)]` where only PostgreSQL can show it: locks, notifications, processes that die, and a server that
//! goes away.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rowlock::queue::{Claimed, Job, JobOutcome, QueueState};
use rowlock_tests::postgres::{Server, ddl};
use rowlock_tests::proxy::Proxy;
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{AssertSqlSafe, Executor};
use tokio::time::{sleep, timeout};

use super::worker::{
    Background, Gate, HOUR, JOBS, SECOND, SHORT, Task, add, all, execute, in_state, jobs, log,
    runs, start, until, until_in_state, worker,
};
use super::{Database, Db, Pool, PoolOptions};

async fn number(pool: &Pool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// In how many transactions the rows were last written.
async fn transactions(pool: &Pool) -> i64 {
    number(pool, "SELECT count(DISTINCT xmin::text) FROM jobs").await
}

/// Each row has a version of the database that says which transaction wrote it.
#[tokio::test]
async fn many_rows_are_finished_in_one_statement() {
    let database = jobs(2000).await;
    let pool = &database.pool;
    let worker = worker(pool).concurrency(32).prefetch(500);
    let background = start(worker, async |_| {});
    until_in_state(pool, QueueState::Done, 2000).await;
    assert_eq!(background.stop().await.completed, 2000);
    let transactions = transactions(pool).await;
    assert!(transactions <= 100, "{transactions}");
}

/// A row is held until the database has said that it is finished: more are not claimed meanwhile.
#[tokio::test]
async fn rows_that_are_locked_are_held() {
    let database = jobs(30).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let worker = worker(pool).concurrency(3).prefetch(3);
    let background = start(worker, gate.handler());
    until_in_state(pool, QueueState::Running, 6).await;
    let mut holder = database.connection().await;
    holder
        .execute("BEGIN; SELECT FROM jobs WHERE id <= 3 FOR UPDATE")
        .await
        .unwrap();
    gate.open(30);
    // The others are finished, and those that come after them: three more at a time.
    until_in_state(pool, QueueState::Done, 27).await;
    // The worker hears of that a moment later.
    until("it counts them", async || {
        background.counts().completed == 27
    })
    .await;
    let counts = background.counts();
    assert_eq!((counts.claimed, counts.started), (30, 30));
    assert_eq!((counts.completed, counts.lease_lost), (27, 0));
    assert_eq!(in_state(pool, QueueState::Running).await, 3);
    holder.execute("COMMIT").await.unwrap();
    until_in_state(pool, QueueState::Done, 30).await;
    let counts = background.stop().await;
    assert_eq!((counts.completed, counts.lease_lost), (30, 0));
}

/// Six handlers end while a concurrent transaction has one of the rows locked.
#[tokio::test]
async fn a_locked_row_keeps_no_other() {
    let database = jobs(6).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let lease = 2 * SECOND;
    let background = start(worker(pool).lease(lease).flush_after(HOUR), gate.handler());
    gate.until_running(6).await;
    let other = start(worker(pool).lease(lease), async |_| {});
    let mut holder = database.connection().await;
    let lock = "BEGIN; SELECT FROM jobs WHERE id = 3 FOR UPDATE";
    holder.execute(lock).await.unwrap();
    gate.open(6);
    until_in_state(pool, QueueState::Done, 5).await;
    // Longer than a lease, after which it is not the worker's any more.
    until("the lease of the locked one is over", async || {
        background.counts().lease_lost == 1
    })
    .await;
    holder.execute("COMMIT").await.unwrap();
    gate.open(1);
    until_in_state(pool, QueueState::Done, 6).await;
    let (counts, other) = (background.stop().await, other.stop().await);
    assert_eq!(counts.completed + other.completed, 6);
    assert_eq!((counts.lease_lost, other.rescued + counts.rescued), (1, 1));
    for job in all(pool).await {
        assert_eq!(job.attempts, if job.id == 3 { 2 } else { 1 });
    }
}

/// What a batch does that waits: no row is finished while one is locked.
#[tokio::test]
async fn the_naive_twin_waits() {
    let database = jobs(6).await;
    let batch = Task::claim(&database.pool, 6).await.unwrap();
    let mut holder = database.connection().await;
    let lock = "BEGIN; SELECT FROM jobs WHERE id = 1 FOR UPDATE";
    holder.execute(lock).await.unwrap();
    let pool = database.pool.clone();
    let twin = tokio::spawn(async move { Claimed::complete_many(&pool, batch).await });
    database.until_blocked().await;
    assert_eq!(in_state(&database.pool, QueueState::Done).await, 0);
    holder.execute("ROLLBACK").await.unwrap();
    assert!(twin.await.unwrap().unwrap().is_empty());
}

/// A row that waits for a handler is locked: it is given back, and its attempt does not count.
#[tokio::test]
async fn a_locked_row_is_not_started() {
    let database = jobs(3).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let worker = worker(pool).concurrency(1).prefetch(2);
    let background = start(worker, gate.handler());
    until_in_state(pool, QueueState::Running, 3).await;
    gate.until_running(1).await;
    let mut holder = database.connection().await;
    let lock = "BEGIN; SELECT FROM jobs WHERE id = 2 FOR UPDATE";
    holder.execute(lock).await.unwrap();
    gate.open(2);
    until_in_state(pool, QueueState::Done, 2).await;
    let row = &all(pool).await[1];
    assert_eq!((row.state, row.attempts), (QueueState::Running, 0));
    holder.execute("COMMIT").await.unwrap();
    gate.open(1);
    until_in_state(pool, QueueState::Done, 3).await;
    let counts = background.stop().await;
    assert_eq!(
        (counts.completed, counts.released, counts.lease_lost),
        (3, 1, 0)
    );
    assert!(all(pool).await.iter().all(|job| job.attempts == 1));
}

/// A job holds its own row locked for longer than the lease. The heartbeats of the others do not wait for it.
#[tokio::test]
async fn a_heartbeat_waits_for_no_lock() {
    let database = jobs(3).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let background = start(worker(pool).lease(SECOND), gate.handler());
    gate.until_running(3).await;
    let other = start(worker(pool).lease(SECOND), async |_| {});
    let mut holder = database.connection().await;
    holder
        .execute("BEGIN; SELECT FROM jobs WHERE id = 1 FOR UPDATE")
        .await
        .unwrap();
    let first = all(pool).await;
    until("the leases of the others go on", async || {
        let rows = all(pool).await;
        assert_eq!(rows[0].leased_until, first[0].leased_until);
        let later =
            |index: usize| rows[index].leased_until.unwrap() - first[index].leased_until.unwrap();
        later(1).min(later(2)) > chrono::TimeDelta::milliseconds(2500)
    })
    .await;
    // Its lease has ended, and still nobody could take it.
    holder.execute("COMMIT").await.unwrap();
    gate.open(9);
    until_in_state(pool, QueueState::Done, 3).await;
    let (counts, other) = (background.stop().await, other.stop().await);
    assert!(counts.completed >= 2, "{counts:?}");
    assert_eq!(counts.completed + other.completed, 3);
    assert!(all(pool).await[1..].iter().all(|job| job.attempts == 1));

    // The naive twin: a statement that waits.
    execute(pool, "UPDATE jobs SET state = 'ready', attempts = 0").await;
    let mut batch = Task::claim(pool, 3).await.unwrap();
    holder
        .execute("BEGIN; SELECT FROM jobs WHERE id = 1 FOR UPDATE")
        .await
        .unwrap();
    let first = all(pool).await;
    let twin = {
        let pool = pool.clone();
        tokio::spawn(async move { Claimed::extend_many(&pool, &mut batch, HOUR).await })
    };
    database.until_blocked().await;
    for (row, first) in all(pool).await.iter().zip(&first) {
        assert_eq!(row.leased_until, first.leased_until);
    }
    holder.execute("ROLLBACK").await.unwrap();
    assert!(twin.await.unwrap().unwrap().is_empty());
}

/// Rows of different claims.
#[tokio::test]
async fn a_heartbeat_is_one_statement() {
    let database = jobs(2).await;
    let pool = &database.pool;
    let gate = Gate::new();
    let worker = worker(pool).concurrency(3).prefetch(2).lease(2 * SECOND);
    let background = start(worker, gate.handler());
    gate.until_running(2).await;
    add(pool, 3, "").await;
    until_in_state(pool, QueueState::Running, 5).await;
    // The claims were three: a row for the handler that is free, and then those for later.
    assert_eq!(transactions(pool).await, 3);
    let first = all(pool).await;
    until("all leases go on", async || {
        let rows = all(pool).await;
        let mut pairs = rows.iter().zip(&first);
        pairs.all(|(row, first)| row.leased_until > first.leased_until)
    })
    .await;
    assert_eq!(transactions(pool).await, 1);
    gate.open(5);
    until_in_state(pool, QueueState::Done, 5).await;
    background.stop().await;
}

/// A claim is under way when the signal comes: it must not get the rows that the same worker gives back.
#[tokio::test]
async fn a_shutdown_does_not_claim_what_it_gives_back() {
    let database = jobs(6).await;
    let proxy = Proxy::start(&super::address()).await;
    let options = PoolOptions::new()
        .max_connections(4)
        .test_before_acquire(false);
    let pool = database.pool_through(&proxy, options).await;
    let gate = Gate::new();
    // For the first rescue, which must be over: the next request is to be a claim.
    let ended = "UPDATE jobs SET state = 'running', leased_until = '2000-01-01' WHERE id = 1";
    execute(&database.pool, ended).await;
    let worker = worker(&pool).concurrency(2).prefetch(20).lease(HOUR);
    let background = start(worker, gate.handler());
    until("all rows are held", async || {
        let rows = all(&database.pool).await;
        rows.iter()
            .all(|row| row.state == QueueState::Running && row.leased_until > Some(row.run_at))
    })
    .await;
    gate.until_running(2).await;
    proxy.hold_next_request().await;
    let (stats, run) = (background.stats.clone(), background.signal());
    // Time enough for it to give them back.
    for _ in 0..100 {
        assert_eq!(in_state(&database.pool, QueueState::Ready).await, 0);
    }
    proxy.release_request();
    until_in_state(&database.pool, QueueState::Ready, 4).await;
    gate.open(2);
    run.await.unwrap().unwrap();
    let counts = stats.counts();
    assert_eq!((counts.claimed, counts.released), (6, 4));
    assert_eq!((counts.completed, counts.lease_lost), (2, 0));
}

/// The database says nothing any more: the worker ends all the same, and says what it does not know.
#[tokio::test]
async fn a_shutdown_ends_although_the_database_hangs() {
    let database = jobs(6).await;
    let proxy = Proxy::start(&super::address()).await;
    let options = PoolOptions::new().max_connections(4);
    let pool = database.pool_through(&proxy, options).await;
    let gate = Gate::new();
    let worker = worker(&pool).concurrency(3).shutdown_timeout(SECOND);
    let background = start(worker, gate.handler());
    gate.until_running(3).await;
    proxy.hold_replies(true);
    gate.open(1);
    gate.until_running(2).await;
    let begun = Instant::now();
    let counts = timeout(HOUR / 60, background.stop()).await.unwrap();
    let took = begun.elapsed();
    assert!(took >= SECOND && took < 7 * SECOND, "{took:?}");
    assert_eq!(gate.running(), 0);
    assert_eq!((counts.started, counts.lease_lost), (3, 3));
    assert_eq!(counts.completed + counts.released, 0);
}

/// The same for all processes of a server that are stopped.
#[tokio::test]
async fn a_shutdown_ends_although_the_server_is_stopped() {
    let server = Server::start();
    let pool = PoolOptions::new().connect(&server.url()).await.unwrap();
    let tables = sqlx::raw_sql(AssertSqlSafe(ddl(JOBS)));
    tables.execute(&pool).await.unwrap();
    add(&pool, 3, "").await;
    let gate = Gate::new();
    let background = start(worker(&pool).shutdown_timeout(SECOND), gate.handler());
    gate.until_running(3).await;
    let stopped = server.stop();
    let begun = Instant::now();
    let counts = timeout(HOUR / 60, background.stop()).await.unwrap();
    let took = begun.elapsed();
    drop(stopped);
    assert!(took < 7 * SECOND, "{took:?}");
    assert_eq!((counts.started, counts.lease_lost), (3, 3));
}

/// The only connection of the pool falls silent in the middle of a claim, and is replaced.
#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let database = jobs(0).await;
    let proxy = Proxy::start(&super::address()).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let pool = database.pool_through(&proxy, options).await;
    let background = start(worker(&pool).lease(SECOND), async |_| {});
    proxy.hold_next_request().await;
    add(&database.pool, 3, "").await;
    until_in_state(&database.pool, QueueState::Done, 3).await;
    proxy.release_request();
    background.stop().await;
}

/// The database refuses one row of a batch: the others are finished, and soon.
#[tokio::test]
async fn a_row_that_is_refused_does_not_keep_the_others() {
    const TRIGGER: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = 3 AND NEW.state IN ('done', 'dead') THEN RAISE EXCEPTION 'not this one'; END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()";
    const CHECK: &str = "ALTER TABLE jobs ADD CHECK (id <> 3 OR state IN ('ready', 'running'))";
    for refuse in [TRIGGER, CHECK] {
        for state in [QueueState::Done, QueueState::Dead] {
            let database = jobs(8).await;
            let pool = &database.pool;
            execute(pool, refuse).await;
            let gate = Gate::new();
            let ends = gate.clone();
            let background = start(worker(pool).flush_after(HOUR), move |_| {
                let gate = ends.clone();
                async move {
                    gate.pass().await;
                    match state {
                        QueueState::Done => JobOutcome::Complete,
                        _ => JobOutcome::fail("never"),
                    }
                }
            });
            gate.until_running(8).await;
            gate.open(8);
            until_in_state(pool, state, 7).await;
            until("it is known that one is not", async || {
                background.counts().lease_lost == 1
            })
            .await;
            let counts = background.stop().await;
            assert_eq!(counts.completed + counts.dead, 7);
            assert_eq!(all(pool).await[2].state, QueueState::Running);
        }
    }
}

/// The answer to the statement that finished the rows is lost with its connection: they are not done again.
#[tokio::test]
async fn a_lost_answer_is_found_out() {
    let database = jobs(8).await;
    let proxy = Proxy::start(&super::address()).await;
    // The first answer to come is the one that is lost: nothing is looked at, and nothing prepared any more.
    let options = PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let pool = database.pool_through(&proxy, options).await;
    let gate = Gate::new();
    let quiet = Task::worker(&pool).poll(HOUR).lease(HOUR);
    let background = start(quiet.concurrency(4), gate.handler());
    gate.until_running(4).await;
    gate.open(4);
    until("the next four run", async || {
        background.counts().completed == 4 && gate.running() == 4 && pool.num_idle() == 1
    })
    .await;
    proxy.hold_replies(true);
    gate.open(4);
    proxy.reply_held().await;
    proxy.cut().await;
    proxy.hold_replies(false);
    until_in_state(&database.pool, QueueState::Done, 8).await;
    until("the worker knows it", async || {
        background.counts().completed == 8
    })
    .await;
    let counts = background.stop().await;
    assert_eq!((counts.started, counts.lease_lost), (8, 0));
}

/// No answer comes any more, so nobody knows who has the rows: when the leases end the handlers do not run any longer.
#[tokio::test]
async fn handlers_end_with_their_leases() {
    let database = jobs(2).await;
    let proxy = Proxy::start(&super::address()).await;
    let options = PoolOptions::new().max_connections(4);
    let pool = database.pool_through(&proxy, options).await;
    let gate = Gate::new();
    let background = start(worker(&pool).lease(SECOND), gate.handler());
    gate.until_running(2).await;
    proxy.hold_replies(true);
    gate.until_running(0).await;
    assert_eq!(background.counts().lease_lost, 2);
    let other = start(worker(&database.pool).lease(SECOND), async |_| {});
    until_in_state(&database.pool, QueueState::Done, 2).await;
    proxy.hold_replies(false);
    assert_eq!(background.stop().await.completed, 0);
    assert_eq!(other.stop().await.completed, 2);
}

/// With a poll of an hour.
#[tokio::test]
async fn new_rows_wake_the_worker() {
    let database = jobs(3).await;
    let pool = &database.pool;
    execute(pool, Task::notify_ddl()).await;
    let background = start(Task::worker(pool).poll(HOUR).listen(), async |_| {});
    until_in_state(pool, QueueState::Done, 3).await;
    for rows in [4, 5] {
        add(pool, 1, "").await;
        until_in_state(pool, QueueState::Done, rows).await;
    }
    // The connection that listens is killed: what came meanwhile is found, and what comes later as well.
    for rows in [6, 8] {
        let killed = number(
            pool,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = current_schema() AND query LIKE 'LISTEN%'",
        );
        assert_eq!(killed.await, 1);
        add(pool, 1, "").await;
        until_in_state(pool, QueueState::Done, rows).await;
        add(pool, 1, "").await;
        until_in_state(pool, QueueState::Done, rows + 1).await;
        until("somebody listens again", async || {
            let listening = "SELECT count(*) FROM pg_stat_activity
                WHERE application_name = current_schema() AND query LIKE 'LISTEN%'";
            number(pool, listening).await == 1
        })
        .await;
    }
    assert_eq!(background.stop().await.completed, 9);
}

#[tokio::test]
async fn a_statement_is_one_notification() {
    let database = jobs(0).await;
    let pool = &database.pool;
    execute(pool, Task::notify_ddl()).await;
    let mut listener = PgListener::connect_with(pool).await.unwrap();
    listener.listen("jobs_rowlock_queue").await.unwrap();
    add(pool, 1000, "").await;
    execute(pool, "NOTIFY jobs_rowlock_queue, 'end'").await;
    let mut payloads = Vec::new();
    while payloads.last().is_none_or(|last| last != "end") {
        let notification = listener.recv().await.unwrap();
        payloads.push(notification.payload().to_owned());
    }
    assert_eq!(payloads, ["", "end"]);
    // The server drops equal notifications of a transaction; those of a trigger per row cost all the same.
    let per_row = "SELECT count(*) FROM pg_trigger
        WHERE tgrelid = 'jobs'::regclass AND NOT tgisinternal AND tgtype & 1 = 1";
    assert_eq!(number(pool, per_row).await, 0);
}

/// Whoever sends the notifications: the claims are few, and no row is missed. Each claim is one UPDATE, also one that finds nothing.
#[tokio::test]
async fn a_storm_of_notifications_is_few_claims() {
    let database = jobs(0).await;
    let pool = &database.pool;
    execute(pool, Task::notify_ddl()).await;
    execute(
        pool,
        "CREATE SEQUENCE claims; CREATE FUNCTION counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM nextval('claims'); RETURN NULL; END $$;
         CREATE TRIGGER counts BEFORE UPDATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION counts()",
    )
    .await;
    let claims = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM claims";
    let background = start(Task::worker(pool).poll(HOUR).listen(), async |_| {});
    add(pool, 1, "").await;
    until_in_state(pool, QueueState::Done, 1).await;
    let before = number(pool, claims).await;
    let begun = std::time::Instant::now();
    let mut storm = database.connection().await;
    for _ in 0..2000 {
        let notify = sqlx::raw_sql("NOTIFY jobs_rowlock_queue");
        storm.execute(notify).await.unwrap();
    }
    // One in 3 ms, and the heartbeats and rescues of that time.
    let most = begun.elapsed().as_millis() / 3 + 10;
    let made = number(pool, claims).await - before;
    assert!((1..=most as i64).contains(&made), "{made} of {most}");
    // Each of these comes while the worker waits to look again.
    for rows in 2..30 {
        storm
            .execute(sqlx::raw_sql("NOTIFY jobs_rowlock_queue"))
            .await
            .unwrap();
        add(pool, 1, "").await;
        until_in_state(pool, QueueState::Done, rows).await;
    }
    background.stop().await;
}

/// What is due within a second is told, and an upsert may have made a row due.
#[tokio::test]
async fn rows_of_the_future_are_not_notified() {
    let database = jobs(0).await;
    let pool = &database.pool;
    execute(pool, Task::notify_ddl()).await;
    let mut listener = PgListener::connect_with(pool).await.unwrap();
    listener.listen("jobs_rowlock_queue").await.unwrap();
    for (rows, told) in [
        (
            "SELECT now() + interval '1 hour' FROM generate_series(1, 3)",
            false,
        ),
        (
            "VALUES (now() + interval '1 hour'), (clock_timestamp() + interval '500 ms')",
            true,
        ),
        ("SELECT now() WHERE false", true),
        ("VALUES ('infinity'::timestamptz)", false),
    ] {
        let insert = AssertSqlSafe(format!("INSERT INTO jobs (run_at) {rows}"));
        pool.execute(sqlx::raw_sql(insert)).await.unwrap();
        execute(pool, "NOTIFY jobs_rowlock_queue, 'end'").await;
        let mut payloads = Vec::new();
        while payloads.last().is_none_or(|last| last != "end") {
            let notification = listener.recv().await.unwrap();
            payloads.push(notification.payload().to_owned());
        }
        assert_eq!(payloads.len() == 2, told, "{rows}");
    }
    execute(pool, "INSERT INTO jobs (state) VALUES ('done')").await;
    execute(pool, "NOTIFY jobs_rowlock_queue, 'end'").await;
    assert_eq!(listener.recv().await.unwrap().payload(), "end");
}

/// A row is added after the claim under way has looked, and the worker is told while it waits for the answer.
#[tokio::test]
async fn a_wake_up_during_a_claim_is_not_lost() {
    let database = jobs(1).await;
    let pool = &database.pool;
    execute(pool, Task::notify_ddl()).await;
    execute(
        pool,
        "CREATE TABLE gate (); CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            LOCK TABLE gate IN SHARE MODE; RETURN NEW; END $$;
         CREATE TRIGGER wait BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.state = 'running') EXECUTE FUNCTION wait()",
    )
    .await;
    let mut holder = database.connection().await;
    let close = "BEGIN; LOCK TABLE gate";
    holder.execute(sqlx::raw_sql(close)).await.unwrap();
    let background = start(Task::worker(pool).poll(HOUR).listen(), async |_| {});
    database.until_blocked().await;
    let listening = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = current_schema() AND query LIKE 'LISTEN%' AND state = 'idle'";
    until("the worker listens", async || {
        number(pool, listening).await == 1
    })
    .await;
    let mut listener = PgListener::connect_with(pool).await.unwrap();
    listener.listen("jobs_rowlock_queue").await.unwrap();
    add(pool, 1, "").await;
    listener.recv().await.unwrap();
    // The worker has it as well by now, or the test shows nothing.
    sleep(10 * SHORT).await;
    holder.execute("COMMIT").await.unwrap();
    until_in_state(pool, QueueState::Done, 2).await;
    background.stop().await;
}

/// Handlers that say in memory what they did.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<HashMap<(i64, i32), u32>>>);

impl Ledger {
    fn handler(&self) -> impl Fn(Job<Task>) -> std::future::Ready<()> + 'static {
        let ledger = self.clone();
        move |job| {
            let mut runs = ledger.0.lock().unwrap();
            *runs.entry((job.id, job.attempts)).or_default() += 1;
            std::future::ready(())
        }
    }

    /// Every attempt was run once at most; how many there were.
    fn attempts(&self) -> usize {
        let runs = self.0.lock().unwrap();
        assert!(runs.values().all(|times| *times == 1));
        runs.len()
    }

    fn rows(&self) -> usize {
        let runs = self.0.lock().unwrap();
        let rows: HashSet<_> = runs.keys().map(|(id, _)| *id).collect();
        rows.len()
    }
}

/// 32 workers, 100,000 rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_rows_once_each() {
    let database = jobs(100_000).await;
    let pool = &database.pool;
    execute(pool, "ANALYZE jobs").await;
    let ledger = Ledger::default();
    let workers: Vec<_> = (0..32)
        .map(|_| {
            start(
                worker(pool).concurrency(250).prefetch(250),
                ledger.handler(),
            )
        })
        .collect();
    until("all rows are handled", async || {
        let completed = workers.iter().map(|worker| worker.counts().completed);
        completed.sum::<u64>() == 100_000
    })
    .await;
    for worker in workers {
        let counts = worker.stop().await;
        assert_eq!((counts.lease_lost, counts.rescued), (0, 0));
    }
    assert_eq!((ledger.attempts(), ledger.rows()), (100_000, 100_000));
    assert_eq!(in_state(pool, QueueState::Done).await, 100_000);
    let claimed_once = "SELECT count(*) FROM jobs WHERE attempts = 1";
    assert_eq!(number(pool, claimed_once).await, 100_000);
}

/// Waits for rows on a server that comes and goes.
async fn until_done(pool: &Pool, rows: i64) {
    until("all rows are done", async || {
        let sql = "SELECT count(*) FROM jobs WHERE state = 'done'";
        let done: Result<i64, _> = sqlx::query_scalar(sql).fetch_one(pool).await;
        done.is_ok_and(|done| done == rows)
    })
    .await;
}

/// The server is down at the start, crashes in the middle, and its connections are killed ten times a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_and_goes() {
    let Some(mut server) = Server::start_another() else {
        return;
    };
    // What was committed must be there after a crash.
    let options: PgConnectOptions = server.url().parse().unwrap();
    let options = options.options([("synchronous_commit", "on")]);
    let small = PoolOptions::new()
        .max_connections(8)
        .acquire_timeout(2 * SECOND);
    let of_workers = options.clone().application_name("workers");
    let pool = small.connect_with(of_workers).await.unwrap();
    let aside = PoolOptions::new().connect_with(options).await.unwrap();
    let tables = sqlx::raw_sql(AssertSqlSafe(ddl(JOBS)));
    tables.execute(&pool).await.unwrap();
    execute(&pool, Task::ddl::<Db>()).await;
    execute(&pool, Task::notify_ddl()).await;
    add(&pool, 1000, "").await;
    server.crash();

    let ledger = Ledger::default();
    let start_one = || {
        let slow = ledger.handler();
        let worker = worker(&pool).concurrency(4).prefetch(4).lease(SECOND);
        start(worker.listen(), move |job| {
            let done = slow(job);
            async move {
                sleep(Duration::from_millis(2)).await;
                done.await
            }
        })
    };
    let workers = [start_one(), start_one()];
    let completed = |workers: &[Background]| {
        let completed = workers.iter().map(|worker| worker.counts().completed);
        completed.sum::<u64>()
    };
    server.restart();
    until("it works", async || completed(&workers) >= 200).await;
    server.crash();
    server.restart();
    let before = completed(&workers);
    until("it works again", async || {
        completed(&workers) >= before + 100
    })
    .await;
    until_done(&aside, 1000).await;

    let killing = Arc::new(AtomicBool::new(true));
    let killer = tokio::spawn({
        let (killing, aside) = (killing.clone(), aside.clone());
        async move {
            let mut kills = 0;
            while killing.load(Ordering::SeqCst) || kills < 10 {
                let kill = sqlx::query_scalar::<_, i64>(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE backend_type = 'client backend' AND application_name = 'workers'",
                );
                kills += i32::from(kill.fetch_one(&aside).await.is_ok_and(|killed| killed > 0));
                sleep(Duration::from_millis(100)).await;
            }
        }
    });
    add(&aside, 1000, "").await;
    until_done(&aside, 2000).await;
    killing.store(false, Ordering::SeqCst);
    // It ends when it has killed ten times.
    add(&aside, 1000, "").await;
    killer.await.unwrap();
    until_done(&aside, 3000).await;
    // Nobody disturbs any more.
    add(&aside, 1000, "").await;
    until_done(&aside, 4000).await;

    for worker in workers {
        assert_eq!(worker.stop().await.dead, 0);
    }
    assert_eq!(ledger.rows(), 4000);
    assert_eq!(in_state(&aside, QueueState::Done).await, 4000);
    // Each claim beyond the first of a row follows a lease that ended.
    let again = number(&aside, "SELECT sum(attempts - 1)::bigint FROM jobs").await;
    let again = usize::try_from(again).unwrap();
    assert!(ledger.attempts() <= 4000 + again);
    assert!(again < 1000, "{again} leases ended");
}

mod processes {
    //! Workers that die or stop as processes.

    use std::future::pending;

    use super::*;
    use rowlock_tests::postgres::url;
    use rowlock_tests::process::{self, Process};

    async fn child_of(database: &Database, what: &str) -> Process {
        let schema: String = sqlx::query_scalar("SELECT current_schema()::text")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        let argument = format!("{what} {schema} {}", url());
        Process::start("postgres::worker_postgres::processes::child", &argument)
    }

    /// What the handler of the process does with a row, at the point that the test is about.
    async fn work(what: &str, pool: Pool, job: Job<Task>) {
        if what == "claimed" {
            process::say("there");
            pending::<()>().await;
        }
        log(&pool, &job, "child").await;
        match what {
            "abort" => std::process::abort(),
            "one" if job.what == "abort" => {
                // Those before it are done.
                let open = "SELECT count(*) FROM jobs JOIN runs USING (id) WHERE state <> 'done' AND what <> 'abort'";
                while number(&pool, open).await > 0 {
                    sleep(SHORT).await;
                }
                std::process::abort()
            }
            "one" => {}
            "stopped" => {
                process::say("there");
                process::listen().await;
            }
            "working" => {
                process::say("there");
                pending().await
            }
            // Three are handled and wait to be written.
            "handled" if job.id <= 3 => process::say("there"),
            // Eight are finished in the database.
            "finished" if job.id <= 8 => {}
            _ => pending().await,
        }
    }

    /// The process.
    #[tokio::test]
    async fn child() {
        let Some(argument) = process::argument() else {
            return;
        };
        let [what, schema, url] = argument.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{argument}");
        };
        let options: PgConnectOptions = url.parse().unwrap();
        let options = options
            .options([("search_path", schema)])
            .application_name(&format!("{schema}_child"));
        let pool = PoolOptions::new().connect_with(options).await.unwrap();
        let mut worker = worker(&pool).concurrency(4).prefetch(4).lease(SECOND);
        if what == "handled" {
            worker = worker.flush_after(HOUR);
        }
        if what == "one" {
            worker = worker.concurrency(1).prefetch(300).lease(HOUR);
        }
        let (doing, captured) = (what.to_owned(), pool.clone());
        let background = start(worker, move |job| {
            let (what, pool) = (doing.clone(), captured.clone());
            async move { work(&what, pool, job).await }
        });
        match what {
            "abort" => {
                until_in_state(&pool, QueueState::Dead, 1).await;
                process::say("dead");
            }
            "stopped" => {
                until("the end of it is known", async || {
                    let counts = background.counts();
                    counts.completed + counts.lease_lost == 1
                })
                .await;
                let counts = background.stop().await;
                process::say(&format!("{} {}", counts.completed, counts.lease_lost));
            }
            "finished" => {
                until("eight are finished, and others claimed", async || {
                    let counts = background.counts();
                    counts.completed == 8 && counts.claimed > 8
                })
                .await;
                process::say("there");
                pending().await
            }
            _ => pending().await,
        }
    }

    /// The child's connections are: the server goes on with the statements that it has.
    async fn until_gone(pool: &Pool) {
        until("its connections are gone", async || {
            let others = "SELECT count(*) FROM pg_stat_activity
                WHERE application_name = current_schema() || '_child'";
            number(pool, others).await == 0
        })
        .await;
    }

    /// kill -9 at this point: no row is lost, and none is handled again but those whose leases ended.
    async fn killed(what: &str, says: usize) {
        let database = jobs(20).await;
        let pool = &database.pool;
        let mut child = child_of(&database, what).await;
        for _ in 0..says {
            assert_eq!(child.says(), "there");
        }
        child.kill();
        until_gone(pool).await;
        let held: HashMap<i64, i32> = all(pool)
            .await
            .iter()
            .filter(|job| job.state == QueueState::Running)
            .map(|job| (job.id, job.attempts))
            .collect();
        assert!((1..=8).contains(&held.len()), "{held:?}");
        let logged = pool.clone();
        let background = start(worker(pool).lease(SECOND), move |job| {
            let pool = logged.clone();
            async move { log(&pool, &job, "parent").await }
        });
        until_in_state(pool, QueueState::Done, 20).await;
        let counts = background.stop().await;
        assert_eq!(counts.rescued, held.len() as u64);
        let runs = runs(pool).await;
        assert_eq!(runs.len(), 20);
        for job in all(pool).await {
            let attempts = held.get(&job.id).map_or(1, |attempts| attempts + 1);
            assert_eq!(job.attempts, attempts, "{job:?}");
            let runs = &runs[&job.id];
            assert_eq!(runs.last(), Some(&i64::from(attempts)), "{job:?}");
            assert!(runs.is_sorted_by(|one, next| one < next), "{runs:?}");
            match what {
                "claimed" => assert_eq!(runs.len(), 1),
                // One that had been counted may have been killed before it could say so.
                _ => assert!(runs.len() <= usize::try_from(attempts).unwrap()),
            }
        }
    }

    #[tokio::test]
    async fn killed_after_the_claim() {
        killed("claimed", 4).await;
    }

    #[tokio::test]
    async fn killed_in_the_middle_of_the_work() {
        killed("working", 4).await;
    }

    #[tokio::test]
    async fn killed_before_the_rows_are_finished() {
        killed("handled", 3).await;
    }

    #[tokio::test]
    async fn killed_after_rows_are_finished() {
        killed("finished", 1).await;
    }

    /// 300 rows are held by a process of one handler, and one of them aborts it. An attempt counts when its handler starts: so no
    /// other row loses one.
    #[tokio::test]
    async fn a_job_that_kills_its_process_costs_no_other_an_attempt() {
        let database = jobs(300).await;
        let pool = &database.pool;
        execute(pool, "UPDATE jobs SET what = 'abort' WHERE id = 150").await;
        for attempt in 1..=3 {
            let child = child_of(&database, "one").await;
            assert!(!child.ends_well());
            until_gone(pool).await;
            let started = runs(pool).await;
            for job in all(pool).await {
                let runs = started.get(&job.id).map_or(&[][..], Vec::as_slice);
                let attempts: Vec<i64> = (1..=job.attempts.into()).collect();
                assert_eq!(runs, attempts, "{job:?}");
                let most = if job.id == 150 { attempt } else { 1 };
                assert!(job.attempts <= most, "{job:?}");
            }
            assert_eq!(all(pool).await[149].attempts, attempt);
            execute(
                pool,
                "UPDATE jobs SET leased_until = now() WHERE state = 'running'",
            )
            .await;
            assert_eq!(
                Task::rescue(pool).await.unwrap().dead,
                u64::from(attempt == 3)
            );
        }
        let background = start(worker(pool), async |_| {});
        until_in_state(pool, QueueState::Done, 299).await;
        background.stop().await;
        let job = all(pool).await.remove(149);
        assert_eq!((job.state, job.attempts), (QueueState::Dead, 3));
    }

    /// The naive twin counts when it claims: a row that never started is dead.
    #[tokio::test]
    async fn the_naive_twin_kills_rows_unseen() {
        let database = jobs(300).await;
        let pool = &database.pool;
        for _ in 1..=3 {
            let _gone = Task::claim(pool, 300).lease(Duration::ZERO).await.unwrap();
            Task::rescue(pool).await.unwrap();
        }
        assert_eq!(in_state(pool, QueueState::Dead).await, 300);
    }

    /// A job that kills its process does so as often as it may, and then it is dead.
    #[tokio::test]
    async fn a_job_that_kills_its_process_is_dead_in_the_end() {
        let database = jobs(1).await;
        let pool = &database.pool;
        for attempt in 1..=3 {
            let child = child_of(&database, "abort").await;
            assert!(!child.ends_well());
            assert_eq!(all(pool).await[0].attempts, attempt);
        }
        let mut child = child_of(&database, "abort").await;
        assert_eq!(child.says(), "dead");
        assert!(child.ends_well());
        let job = all(pool).await.remove(0);
        assert_eq!((job.state, job.attempts), (QueueState::Dead, 3));
        assert_eq!(job.last_error.as_deref(), Some("the lease ended"));
        assert_eq!(runs(pool).await[&1], [1, 2, 3]);
    }

    /// SIGSTOP beyond the lease: somebody else has the row by then, and what the process says is refused.
    #[tokio::test]
    async fn stopped_beyond_the_lease() {
        let database = jobs(1).await;
        let pool = &database.pool;
        let mut child = child_of(&database, "stopped").await;
        assert_eq!(child.says(), "there");
        child.stop();
        let gate = Gate::new();
        let background = start(worker(pool).lease(2 * SECOND), gate.handler());
        gate.until_running(1).await;
        assert_eq!(background.counts().rescued, 1);
        let ours = all(pool).await.remove(0);
        child.resume();
        child.tell("go on");
        assert_eq!(child.says(), "0 1");
        assert!(child.ends_well());
        let row = all(pool).await.remove(0);
        assert_eq!((row.state, row.fence), (ours.state, ours.fence));
        assert_eq!((row.attempts, row.finished_at), (2, None));
        gate.open(1);
        until_in_state(pool, QueueState::Done, 1).await;
        assert_eq!(background.stop().await.completed, 1);
    }
}

/// It is told to stop while a statement of its takes rows back: what that writes is counted.
#[tokio::test]
async fn a_rescue_under_way_at_the_end_is_counted() {
    let database = jobs(0).await;
    let pool = &database.pool;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE UPDATE ON jobs FOR EACH ROW WHEN (NEW.state = 'dead') EXECUTE FUNCTION slow();
        INSERT INTO jobs (state, attempts, leased_until) VALUES ('running', 3, now() - interval '1 hour')";
    sqlx::raw_sql(slow).execute(pool).await.unwrap();
    let mut holder = database.connection().await;
    holder.execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let background = start(worker(pool).lease(SECOND), async |_: Job<Task>| {});
    database.until_blocked().await;
    let stopped = tokio::spawn(background.stop());
    // The worker is told before the statement goes on.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let unlock = "SELECT pg_advisory_unlock(7)";
    holder.execute(unlock).await.unwrap();
    let counts = stopped.await.unwrap();
    assert_eq!((counts.rescued, counts.dead), (1, 1));
}

/// A claim for a free handler counts the attempt, and whoever never hears of the claim starts no handler: it has counted.
#[tokio::test]
async fn a_claim_whose_answer_is_lost_has_counted() {
    let database = jobs(0).await;
    let proxy = Proxy::start(&super::address()).await;
    let options = PoolOptions::new().max_connections(2);
    let pool = database.pool_through(&proxy, options).await;
    let background = start(worker(&pool).lease(SECOND), async |_: Job<Task>| {});
    let rows = "INSERT INTO jobs (attempts) VALUES (2)";
    let running = loop {
        // It may be another one than the claim; then the row is handled.
        proxy.hold_next_request().await;
        execute(&database.pool, rows).await;
        proxy.hold_replies(true);
        proxy.release_request();
        proxy.reply_held().await;
        let running = in_state(&database.pool, QueueState::Running).await;
        if running == 1 {
            proxy.cut().await;
        }
        proxy.hold_replies(false);
        if running == 1 {
            break all(&database.pool).await.pop().unwrap();
        }
        until_in_state(&database.pool, QueueState::Ready, 0).await;
        until_in_state(&database.pool, QueueState::Running, 0).await;
    };
    assert_eq!(running.attempts, 3);
    until_in_state(&database.pool, QueueState::Dead, 1).await;
    let row = all(&database.pool).await.pop().unwrap();
    assert_eq!((row.id, row.state), (running.id, QueueState::Dead));
    assert_eq!(row.last_error.as_deref(), Some("the lease ended"));
    let done = in_state(&database.pool, QueueState::Done).await;
    let counts = background.stop().await;
    assert_eq!(
        (counts.started, counts.dead),
        (u64::try_from(done).unwrap(), 1)
    );
}
