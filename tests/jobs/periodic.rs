//! `Periodic`: each tick of a schedule is made once, with what is written for it, however many processes there are.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rowlock::queue::{
    Missed, Periodic, PeriodicError, Schedule, Tick, TickCounts, TickError, Ticked, Zone,
};
use rowlock::tx::TransactionError;
use rowlock::{Fault, Tx};
use rowlock_tests::cancel::polled;
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::{Barrier, Notify, mpsc, oneshot};

use super::{BEGIN_WRITE, Database, Db, NAME, Pool, database};

/// What the ticks write.
const JOBS: &str = "CREATE TABLE jobs (id {id}, tick bigint NOT NULL, missed bigint NOT NULL)";
const INSERT: &str = "INSERT INTO jobs (tick, missed) VALUES ($1, $2)";

pub(super) async fn run(pool: &Pool, sql: &str) {
    pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

pub(super) async fn tables() -> Database {
    let database = database(JOBS).await;
    // Running it again changes nothing.
    for _ in 0..2 {
        run(&database.pool, Schedule::ddl::<Db>()).await;
    }
    database
}

pub(super) fn hourly() -> Schedule {
    Schedule::cron("0 * * * *").unwrap()
}

pub(super) fn job(pool: &Pool) -> Periodic<Db> {
    Periodic::new(pool, "job", hourly())
}

pub(super) async fn enqueue(tx: &mut Tx<Db>, tick: Tick) -> Result<(), sqlx::Error> {
    sqlx::query(INSERT)
        .bind(tick.time().timestamp())
        .bind(tick.missed() as i64)
        .execute(&mut *tx)
        .await
        .map(drop)
}

pub(super) async fn tick(job: &mut Periodic<Db>) -> Ticked {
    job.tick(async |tx, tick| enqueue(tx, tick).await)
        .await
        .unwrap()
}

/// The ticks that were made, and how many were missed before each.
pub(super) async fn made(pool: &Pool) -> Vec<(i64, i64)> {
    let jobs = sqlx::query_as("SELECT tick, missed FROM jobs ORDER BY id");
    jobs.fetch_all(pool).await.unwrap()
}

/// A tick that writes nothing.
async fn nothing<Tz: Zone>(_: &mut Tx<Db>, _: Tick<Tz>) -> Result<(), Infallible> {
    Ok(())
}

/// Sets the next tick by hand.
pub(super) async fn set(pool: &Pool, next: DateTime<Utc>) {
    let next = next.format("%Y-%m-%d %H:%M:%S+00:00");
    run(
        pool,
        &format!("UPDATE rowlock_schedules SET next_tick = '{next}'"),
    )
    .await;
}

/// The next tick, in seconds.
pub(super) async fn next(pool: &Pool) -> i64 {
    let seconds = match NAME {
        "PostgreSQL" => "extract(epoch FROM next_tick)::bigint",
        _ => "CAST(strftime('%s', next_tick) AS integer)",
    };
    let sql = format!("SELECT {seconds} FROM rowlock_schedules WHERE name = 'job'");
    sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(pool)
        .await
        .unwrap()
}

/// A full hour that lies so many hours back.
pub(super) fn hours_ago(hours: i64) -> DateTime<Utc> {
    let now = Utc::now().timestamp();
    DateTime::from_timestamp(now - now.rem_euclid(3600) - hours * 3600, 0).unwrap()
}

/// A tick is due, the first of so many hours ago.
pub(super) async fn due(hours: i64) -> (Database, DateTime<Utc>) {
    let database = tables().await;
    tick(&mut job(&database.pool)).await;
    let first = hours_ago(hours);
    set(&database.pool, first).await;
    (database, first)
}

#[tokio::test]
async fn the_first_tick_is_the_first_one_after_the_start() {
    let database = tables().await;
    let pool = &database.pool;
    let before = Utc::now();
    let ticked = tick(&mut job(pool)).await;
    let first = ticked.next.unwrap();
    assert_eq!(ticked.made, 0);
    assert!(before < first && first - before <= TimeDelta::hours(1));
    assert_eq!(first.timestamp() % 3600, 0);
    assert_eq!(next(pool).await, first.timestamp());
    // Another process finds it.
    assert_eq!(tick(&mut job(pool)).await.next, Some(first));
    assert!(made(pool).await.is_empty());
    let text: String = sqlx::query_scalar("SELECT schedule FROM rowlock_schedules")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(text, "0 * * * * UTC");
}

#[tokio::test]
async fn one_of_many_processes_makes_a_tick() {
    let (database, first) = due(0).await;
    let pool = &database.pool;
    let barrier = Barrier::new(8);
    let process = async || {
        let mut job = job(pool);
        barrier.wait().await;
        tick(&mut job).await.made
    };
    let ticked = futures_util::future::join_all((0..8).map(|_| process())).await;
    assert_eq!(ticked.iter().sum::<u64>(), 1);
    let made = made(pool).await;
    assert_eq!(made.len(), 1);
    assert!(made[0].0 >= first.timestamp());
    assert!(next(pool).await > made[0].0);
}

/// Its look has seen that the tick is due.
#[tokio::test]
async fn a_tick_that_was_made_since_the_look() {
    let (database, _) = due(0).await;
    let pool = &database.pool;
    let slow = database.one_connection_pool().await;
    let held = slow.acquire().await.unwrap();
    let mut second = job(&slow);
    let ticking = tick(&mut second);
    let first = async {
        // The connection goes to the look, then here, and to the transaction after that.
        let (next, ()) = tokio::join!(slow.acquire(), async { drop(held) });
        assert_eq!(tick(&mut job(pool)).await.made, 1);
        drop(next);
    };
    let (ticked, ()) = tokio::join!(ticking, first);
    assert_eq!((ticked.made, ticked.next), (0, None));
    assert_eq!(made(pool).await.len(), 1);
}

/// By hand: both read that a tick is due before one has moved it on.
#[tokio::test]
async fn naive_twin_two_processes_make_a_tick_twice() {
    let (database, _) = due(0).await;
    let pool = &database.pool;
    let barrier = Barrier::new(2);
    let process = async || {
        let at = next(pool).await;
        barrier.wait().await;
        if at <= Utc::now().timestamp() {
            let mut connection = database.connection().await;
            connection.execute(BEGIN_WRITE).await.unwrap();
            let insert = sqlx::query(INSERT).bind(at).bind(0_i64);
            insert.execute(&mut connection).await.unwrap();
            let sql = "UPDATE rowlock_schedules SET next_tick = '2199-01-01 00:00:00+00:00'";
            connection.execute(sql).await.unwrap();
            connection.execute("COMMIT").await.unwrap();
        }
    };
    tokio::join!(process(), process());
    assert_eq!(made(pool).await.len(), 2);
}

#[tokio::test]
async fn the_latest_missed_tick_is_made_once() {
    let (database, first) = due(5).await;
    let pool = &database.pool;
    assert_eq!(tick(&mut job(pool)).await.made, 1);
    assert_eq!(tick(&mut job(pool)).await.made, 0);
    let made = made(pool).await;
    assert_eq!(made.len(), 1);
    let (at, missed) = made[0];
    assert_eq!(at, first.timestamp() + missed * 3600);
    assert!(Utc::now().timestamp() - at < 3600 + 60);
    assert_eq!(next(pool).await, at + 3600);
}

#[tokio::test]
async fn each_missed_tick_is_made() {
    let (database, first) = due(5).await;
    let pool = &database.pool;
    let missed = Missed::Each { most: 9 };
    assert!(tick(&mut job(pool).missed(missed)).await.made >= 6);
    for (number, (at, missed)) in (0..).zip(made(pool).await) {
        assert_eq!((at, missed), (first.timestamp() + number * 3600, 0));
    }
    // The latest three.
    run(pool, "DELETE FROM jobs").await;
    set(pool, hours_ago(5)).await;
    let missed = Missed::Each { most: 3 };
    let ticked = tick(&mut job(pool).missed(missed)).await;
    let made = made(pool).await;
    assert_eq!(made.len() as u64, ticked.made);
    assert!(ticked.made >= 3);
    assert!(made[0].1 >= 3);
    assert!(made[1..].iter().all(|(_, missed)| *missed == 0));
    assert_eq!(
        ticked.next.unwrap().timestamp(),
        made[made.len() - 1].0 + 3600
    );
}

#[tokio::test]
async fn what_is_too_old_is_passed_over() {
    let database = tables().await;
    let pool = &database.pool;
    // Not at all today.
    let yearly = || Schedule::cron("0 0 1 1 *").unwrap();
    let job = || Periodic::new(pool, "job", yearly());
    tick(&mut job()).await;
    let ago = |seconds| Utc::now() - TimeDelta::seconds(seconds);
    let within = Missed::Within(Duration::from_secs(3600));
    set(pool, ago(3700)).await;
    let ticked = tick(&mut job().missed(within)).await;
    assert_eq!(ticked.made, 0);
    assert_eq!(next(pool).await, ticked.next.unwrap().timestamp());
    assert!(made(pool).await.is_empty());
    set(pool, ago(1800)).await;
    assert_eq!(tick(&mut job().missed(within)).await.made, 1);
}

#[tokio::test]
async fn a_tick_that_fails_is_not_used_up() {
    let (database, first) = due(0).await;
    let pool = &database.pool;
    let failed = job(pool)
        .tick(async |tx, tick| {
            enqueue(tx, tick).await.map_err(|error| error.to_string())?;
            Err::<(), _>("no paper".to_owned())
        })
        .await;
    let Err(TickError::Transaction(TransactionError::Failed(error))) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(error, "no paper");
    assert!(made(pool).await.is_empty());
    assert_eq!(next(pool).await, first.timestamp());
    assert_eq!(tick(&mut job(pool)).await.made, 1);
}

/// Nothing of the tick is there, and it is tried again until it succeeds.
#[tokio::test]
async fn a_closure_that_fails_panics_or_hangs() {
    let (database, _) = due(0).await;
    let pool = &database.pool;
    let stop = Notify::new();
    let attempts = AtomicUsize::new(0);
    let (said, has_said) = oneshot::channel();
    let said = std::sync::Mutex::new(Some(said));
    let periodic = job(pool)
        .tick_timeout(Duration::from_millis(200))
        .shutdown(async move { has_said.await.unwrap() });
    let counts = periodic.run(async |tx, tick| {
        enqueue(tx, tick).await?;
        match attempts.fetch_add(1, Ordering::SeqCst) {
            0 => Err(sqlx::Error::RowNotFound),
            1 => panic!("on purpose"),
            2 => {
                stop.notified().await;
                Ok(())
            }
            _ => {
                let said = said.lock().unwrap().take();
                said.unwrap().send(()).unwrap();
                Ok(())
            }
        }
    });
    let counts = counts.await.unwrap();
    assert_eq!((counts.made, counts.failed), (1, 3));
    assert_eq!(made(pool).await.len(), 1);
    assert_eq!(database.open_transactions().await, 0);
}

/// Only its own schedule: another one in the same task goes on.
#[tokio::test]
async fn a_closure_that_fails_for_ever() {
    let (database, _) = due(0).await;
    let pool = &database.pool;
    let stop = Notify::new();
    let seconds = Schedule::cron("* * * * * *").unwrap();
    let (say, mut said) = mpsc::unbounded_channel();
    let other = Periodic::new(pool, "other", seconds);
    let fails = job(pool).run(async |_, _| -> Result<(), String> { panic!("on purpose") });
    let goes_on = other.run(async |_, tick| {
        say.send(tick.time()).unwrap();
        Ok::<_, Infallible>(())
    });
    let two = async {
        let first = said.recv().await.unwrap();
        assert!(said.recv().await.unwrap() > first);
        stop.notify_one();
    };
    tokio::select! {
        counts = fails => panic!("{counts:?}"),
        counts = goes_on => panic!("{counts:?}"),
        () = two => {}
    }
    assert!(made(pool).await.is_empty());
}

#[tokio::test]
async fn processes_that_run_make_each_tick_once() {
    let database = tables().await;
    let pool = &database.pool;
    let (say, mut said) = mpsc::unbounded_channel();
    let stop: Vec<_> = (0..3).map(|_| std::sync::Arc::new(Notify::new())).collect();
    let processes = stop.iter().map(|stop| {
        let (stop, say) = (stop.clone(), say.clone());
        let seconds = Schedule::cron("* * * * * *").unwrap();
        let job = Periodic::new(pool, "job", seconds)
            .missed(Missed::Each { most: 100 })
            .shutdown(async move { stop.notified().await });
        tokio::spawn(async move {
            job.run(async |tx, tick| {
                enqueue(tx, tick).await?;
                let say = say.clone();
                tx.on_commit(move || async move { say.send(()).unwrap() });
                Ok::<_, sqlx::Error>(())
            })
            .await
        })
    });
    let processes: Vec<_> = processes.collect();
    for _ in 0..3 {
        said.recv().await.unwrap();
    }
    stop.iter().for_each(|stop| stop.notify_one());
    let mut count = TickCounts::default();
    for process in processes {
        let counts = process.await.unwrap().unwrap();
        count.made += counts.made;
        count.failed += counts.failed;
    }
    let ticks: Vec<i64> = made(pool).await.iter().map(|(tick, _)| *tick).collect();
    assert_eq!(ticks.len() as u64, count.made);
    assert_eq!(count.failed, 0);
    assert!(
        ticks.windows(2).all(|two| two[1] == two[0] + 1),
        "{ticks:?}"
    );
}

#[tokio::test]
async fn the_latest_start_wins() {
    let (database, _) = due(3).await;
    let pool = &database.pool;
    let mut older = job(pool);
    let mut unused = job(pool);
    assert_eq!(tick(&mut older).await.made, 1);
    let daily = || {
        Schedule::cron("30 4 * * *")
            .unwrap()
            .zone(chrono_tz::Europe::Berlin)
    };
    // What the old schedule has missed is forgotten.
    set(pool, hours_ago(3)).await;
    let mut newer = Periodic::new(pool, "job", daily());
    let ticked = newer.tick(nothing).await.unwrap();
    assert_eq!(ticked.made, 0);
    let first = ticked.next.unwrap();
    assert_eq!(first, daily().after(Utc::now()).unwrap());
    // The older one makes none, though its schedule may be due; and leaves the row alone.
    set(pool, hours_ago(0)).await;
    for _ in 0..2 {
        let ticked = tick(&mut older).await;
        assert_eq!((ticked.made, ticked.next), (0, None));
    }
    assert_eq!(made(pool).await.len(), 1);
    assert_eq!(newer.tick(nothing).await.unwrap().made, 1);
    // The schedule is put back.
    assert_eq!(tick(&mut unused).await.made, 0);
    set(pool, hours_ago(0)).await;
    assert_eq!(newer.tick(nothing).await.unwrap().next, None);
    assert_eq!(tick(&mut older).await.made, 1);
}

/// The same expression in another zone is another schedule, and each name is a schedule of its own.
#[tokio::test]
async fn names_and_zones() {
    let database = tables().await;
    let pool = &database.pool;
    let noon = || Schedule::cron("0 12 * * *").unwrap();
    let mut one = Periodic::new(pool, "one", noon());
    let mut two = Periodic::new(pool, "two", noon().zone(chrono_tz::Australia::Lord_Howe));
    let times =
        [one.tick(nothing).await, two.tick(nothing).await].map(|ticked| ticked.unwrap().next);
    assert_ne!(times[0], times[1]);
    let zone = chrono_tz::Europe::Berlin;
    let mut other = Periodic::new(pool, "one", noon().zone(zone));
    assert!(other.tick(nothing).await.unwrap().next.is_some());
    assert_eq!(one.tick(nothing).await.unwrap().next, None);
    assert_eq!(two.tick(nothing).await.unwrap().next, times[1]);
    // The closure gets the time by the clock of the zone.
    set(pool, "2026-07-01T10:00:00Z".parse().unwrap()).await;
    let hours = std::sync::Mutex::new(Vec::new());
    let mut each = other.missed(Missed::Each { most: 1000 });
    each.tick(async |_, tick| {
        hours
            .lock()
            .unwrap()
            .push(tick.local().format("%H:%M").to_string());
        Ok::<_, Infallible>(())
    })
    .await
    .unwrap();
    let hours = hours.into_inner().unwrap();
    assert!(
        !hours.is_empty() && hours.iter().all(|hour| hour == "12:00"),
        "{hours:?}"
    );
}

#[tokio::test]
async fn a_row_that_is_changed_by_hand() {
    let database = tables().await;
    let pool = &database.pool;
    let mut job = job(pool);
    let first = tick(&mut job).await.next;
    // Now.
    run(
        pool,
        "UPDATE rowlock_schedules SET next_tick = CURRENT_TIMESTAMP",
    )
    .await;
    let ticked = tick(&mut job).await;
    assert_eq!((ticked.made, ticked.next), (1, first));
    // With a fraction of a second.
    let now = match NAME {
        "PostgreSQL" => "timestamptz '2026-01-01 12:30:00.123456Z'",
        _ => "'2026-01-01T12:30:00.123Z'",
    };
    run(
        pool,
        &format!("UPDATE rowlock_schedules SET next_tick = {now}"),
    )
    .await;
    assert_eq!(tick(&mut job).await.made, 1);
    // Not for a long time, which is no time on PostgreSQL.
    let far = match NAME {
        "PostgreSQL" => "infinity",
        _ => "9999-12-31 00:00:00",
    };
    run(
        pool,
        &format!("UPDATE rowlock_schedules SET next_tick = '{far}'"),
    )
    .await;
    assert_eq!(tick(&mut job).await.made, 0);
    assert_eq!(made(pool).await.len(), 2);
    // Gone.
    run(pool, "DELETE FROM rowlock_schedules").await;
    assert_eq!(tick(&mut job).await.next, first);
    assert_eq!(next(pool).await, first.unwrap().timestamp());
}

#[tokio::test]
async fn a_table_that_is_missing_or_another_one() {
    let database = tables().await;
    let pool = &database.pool;
    let time = match NAME {
        "PostgreSQL" => "timestamptz",
        _ => "text",
    };
    let tables = [
        "",
        "CREATE TABLE rowlock_schedules (name text PRIMARY KEY, schedule text NOT NULL)",
        "CREATE TABLE rowlock_schedules (name text PRIMARY KEY, schedule text NOT NULL, next_tick bigint NOT NULL);
         INSERT INTO rowlock_schedules VALUES ('job', '0 * * * * UTC', 1767225600)",
        "CREATE TABLE rowlock_schedules (name text PRIMARY KEY, schedule text NOT NULL, next_tick {time});
         INSERT INTO rowlock_schedules VALUES ('job', '0 * * * * UTC', NULL)",
        "CREATE TABLE rowlock_schedules (name text, schedule text NOT NULL, next_tick {time} NOT NULL)",
        "CREATE TABLE rowlock_schedules (name text, schedule text NOT NULL, next_tick {time} NOT NULL);
         INSERT INTO rowlock_schedules VALUES ('job', 'a', CURRENT_TIMESTAMP), ('job', 'b', CURRENT_TIMESTAMP)",
    ];
    for table in tables {
        run(pool, "DROP TABLE IF EXISTS rowlock_schedules").await;
        sqlx::raw_sql(AssertSqlSafe(table.replace("{time}", time)))
            .execute(pool)
            .await
            .unwrap();
        let ran = job(pool)
            .run(async |tx, tick| enqueue(tx, tick).await)
            .await;
        is_of_the_table(table, &ran.unwrap_err());
        let ticked = job(pool)
            .tick(async |tx, tick| enqueue(tx, tick).await)
            .await;
        let Err(TickError::Periodic(error)) = ticked else {
            panic!("{table}: {ticked:?}");
        };
        is_of_the_table(table, &error);
        let error = error.to_string();
        assert!(error.contains("rowlock_schedules (name = job)"), "{error}");
    }
}

/// Nobody is told that a tick was made, or that another process makes it.
#[tokio::test]
async fn a_trigger_that_drops_the_writes() {
    let database = tables().await;
    let pool = &database.pool;
    run(pool, Schedule::ddl::<Db>()).await;
    // A name each: SQLite finds that a trigger is there already in a connection's own copy of the schema, which may be an old one.
    let drop_writes = |event: &str| {
        match NAME {
        "PostgreSQL" => format!(
            "CREATE OR REPLACE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER drop_{event} BEFORE {event} ON rowlock_schedules FOR EACH ROW EXECUTE FUNCTION drop_it()"
        ),
        _ => format!(
            "CREATE TRIGGER drop_{event} BEFORE {event} ON rowlock_schedules BEGIN SELECT RAISE(IGNORE); END"
        ),
    }
    };
    let refused = async || {
        let ticked = job(pool)
            .tick(async |tx, tick| enqueue(tx, tick).await)
            .await;
        let Err(TickError::Periodic(PeriodicError::Database(error))) = ticked else {
            panic!("{ticked:?}");
        };
        assert_eq!(error.fault(), Fault::Raised, "{error}");
    };
    run(pool, &drop_writes("INSERT")).await;
    refused().await;
    let undo = match NAME {
        "PostgreSQL" => "DROP TRIGGER drop_INSERT ON rowlock_schedules",
        _ => "DROP TRIGGER drop_INSERT",
    };
    run(pool, undo).await;
    let late = "INSERT INTO rowlock_schedules (name, schedule, next_tick) VALUES ('job', '0 * * * * UTC', '2026-01-01 00:00:00+00')";
    let late = match NAME {
        "PostgreSQL" => late.to_owned(),
        _ => late.replace("+00", ""),
    };
    run(pool, &late).await;
    run(pool, &drop_writes("UPDATE")).await;
    refused().await;
}

pub(super) fn is_of_the_table(table: &str, error: &PeriodicError) {
    match error {
        PeriodicError::Table(_) => {}
        PeriodicError::Database(error) => assert_eq!(error.fault(), Fault::Schema, "{table}"),
        _ => panic!("{table}: {error:?}"),
    }
}

#[tokio::test]
async fn a_pool_that_is_closed() {
    let database = tables().await;
    let pool = database.one_connection_pool().await;
    pool.close().await;
    let ran = job(&pool)
        .run(async |tx, tick| enqueue(tx, tick).await)
        .await;
    let Err(PeriodicError::Database(error)) = ran else {
        panic!("{ran:?}");
    };
    assert_eq!(error.fault(), Fault::PoolClosed);
}

/// Each tick was made completely or not at all, wherever the future was dropped, and the pool goes on.
#[tokio::test]
async fn dropped_at_each_await_point() {
    let (database, _) = due(0).await;
    let pool = &database.one_connection_that_waits().await;
    let pool = &pool.0;
    for limit in 1.. {
        run(pool, "DELETE FROM jobs").await;
        set(pool, hours_ago(0)).await;
        let mut job = job(pool);
        let dropped = polled(limit, job.tick(async |tx, tick| enqueue(tx, tick).await)).await;
        let made = made(pool).await;
        let moved = next(pool).await > Utc::now().timestamp();
        assert_eq!(made.len(), usize::from(moved), "{limit}");
        assert_eq!(database.open_transactions().await, 0);
        if dropped.is_some() {
            assert!(moved);
            break;
        }
    }
}

/// A tick that is being made is finished before `run` returns.
#[tokio::test]
async fn shutdown_in_the_middle_of_a_tick() {
    let (database, _) = due(0).await;
    let pool = &database.pool;
    let (stop, stopped) = oneshot::channel();
    let (go_on, is_over) = (Notify::new(), AtomicBool::new(false));
    let (begun, has_begun) = (Notify::new(), AtomicBool::new(false));
    let periodic = job(pool).shutdown(async move { stopped.await.unwrap() });
    let running = async {
        let counts = periodic.run(async |tx, tick| {
            has_begun.store(true, Ordering::SeqCst);
            begun.notify_one();
            go_on.notified().await;
            enqueue(tx, tick).await
        });
        let counts = counts.await.unwrap();
        is_over.store(true, Ordering::SeqCst);
        counts
    };
    let stopping = async {
        begun.notified().await;
        stop.send(()).unwrap();
        tokio::task::yield_now().await;
        assert!(!is_over.load(Ordering::SeqCst));
        go_on.notify_one();
    };
    let (counts, ()) = tokio::join!(running, stopping);
    assert_eq!((counts.made, counts.failed), (1, 0));
    assert_eq!(made(pool).await.len(), 1);
    // While it waits for a tick, at once.
    let counts = job(pool)
        .shutdown(async {})
        .run(async |tx, tick| enqueue(tx, tick).await);
    assert_eq!(counts.await.unwrap(), TickCounts::default());
}

#[tokio::test]
async fn each_function_can_be_spawned() {
    let database = tables().await;
    let pool = database.pool.clone();
    let ran = tokio::spawn(async move {
        let mut job = Periodic::new(&pool, "job", hourly().zone(chrono_tz::Europe::Berlin));
        let name = "report".to_owned();
        let body = async |tx: &mut Tx<Db>, tick: Tick<chrono_tz::Tz>| {
            sqlx::query(INSERT)
                .bind(tick.time().timestamp())
                .bind(name.len() as i64)
                .execute(&mut *tx)
                .await
        };
        job.tick(body).await.unwrap();
        job.shutdown(async {}).run(body).await
    });
    assert_eq!(ran.await.unwrap().unwrap(), TickCounts::default());
}
