//! The mutex in Redis, each test on a server of its own, and the fence on both databases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use redis::Commands;
use rowlock::lock::redis::{FenceError, Guard, Mutex, MutexError, ReleaseError};
use rowlock_tests::cancel::polled;
use rowlock_tests::proxy::Proxy;
use rowlock_tests::redis::{self as server, Redis};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const KEY: &str = "rowlock:{backfill}";

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Long enough that nothing expires in a test.
const LONG: Duration = Duration::from_secs(60);

fn mutex(redis: &Redis) -> Mutex {
    Mutex::new(&redis.client(), "backfill").ttl(LONG)
}

fn holder(redis: &Redis) -> Option<String> {
    redis.connection().get(KEY).unwrap()
}

/// How often a command ran, in scripts too.
fn calls(redis: &Redis, command: &str) -> u64 {
    let text: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(&mut redis.connection())
        .unwrap();
    let prefix = format!("cmdstat_{command}:calls=");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

async fn yield_times(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// Looks again until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(ms(2)).await;
    }
}

/// Fails where an `await` takes longer than it may.
async fn within<F: Future>(limit: Duration, future: F) -> F::Output {
    let slack = ms(2000); // two cores may be busy
    let result = tokio::time::timeout(limit + slack, future).await;
    result.unwrap_or_else(|_| panic!("not within {limit:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_holder_at_a_time() {
    const TASKS: usize = 16;
    const ROUNDS: usize = 10;
    let redis = Redis::start();
    let inside = Arc::new(AtomicBool::new(false));
    let sum = Arc::new(AtomicUsize::new(0));
    let start = Arc::new(Barrier::new(TASKS));
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        // Half of the point: a client each.
        let mutex = mutex(&redis).lock_timeout(LONG);
        let (inside, sum, start) = (Arc::clone(&inside), Arc::clone(&sum), Arc::clone(&start));
        tasks.spawn(async move {
            start.wait().await;
            for _ in 0..ROUNDS {
                let guard = mutex.acquire().await.unwrap();
                assert!(!inside.swap(true, SeqCst), "two holders");
                // Not atomic: only the lock makes it right.
                let before = sum.load(SeqCst);
                tokio::task::yield_now().await;
                sum.store(before + 1, SeqCst);
                inside.store(false, SeqCst);
                guard.release().await.unwrap();
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    assert_eq!(sum.load(SeqCst), TASKS * ROUNDS);
    assert_eq!(holder(&redis), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_naive_twin_has_two_holders() {
    let redis = Redis::start();
    let both_have_looked = Arc::new(std::sync::Barrier::new(2));
    let twins: Vec<_> = (0..2)
        .map(|me| {
            let (mut connection, barrier) = (redis.connection(), Arc::clone(&both_have_looked));
            std::thread::spawn(move || {
                let free = connection.get::<_, Option<i64>>(KEY).unwrap().is_none();
                barrier.wait();
                if free {
                    let _: () = connection.set(KEY, me).unwrap();
                }
                free
            })
        })
        .collect();
    let holders = twins.into_iter().map(|twin| twin.join().unwrap());
    assert_eq!(holders.filter(|holds| *holds).count(), 2);
}

#[tokio::test]
async fn the_key_is_a_random_token_with_a_ttl() {
    let redis = Redis::start();
    let mut tokens = BTreeSet::new();
    for _ in 0..3 {
        let guard = mutex(&redis).acquire().await.unwrap();
        assert_eq!(guard.name(), "backfill");
        tokens.insert(holder(&redis).unwrap());
        let left: u64 = redis
            .connection()
            .pttl(KEY)
            .map(|left: i64| left as u64)
            .unwrap();
        assert!((50_000..=60_000).contains(&left), "{left}");
        guard.release().await.unwrap();
        assert_eq!(holder(&redis), None);
    }
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|token| token.len() == 32));
}

#[tokio::test]
async fn a_held_lock_is_none_or_an_error_in_time() {
    let redis = Redis::start();
    let guard = mutex(&redis).acquire().await.unwrap();
    let (scripts, other) = (
        calls(&redis, "evalsha"),
        mutex(&redis).lock_timeout(ms(300)),
    );

    assert!(other.try_acquire().await.unwrap().is_none());
    assert_eq!(calls(&redis, "evalsha") - scripts, 1, "exactly one try");

    let started = Instant::now();
    let error = within(ms(300), other.acquire()).await.unwrap_err();
    assert!(matches!(error, MutexError::Held(_)), "{error:?}");
    assert!(started.elapsed() >= ms(300));
    assert_eq!(
        error.to_string(),
        "acquire (lock = backfill): another holder kept it until the timeout; try again later, or wait longer"
    );
    let tries = calls(&redis, "evalsha") - scripts;
    assert!((3..100).contains(&tries), "{tries} tries");

    // Waiting ends when the lock is free.
    let waiting = tokio::spawn(async move { other.lock_timeout(LONG).acquire().await });
    until("somebody waits", || {
        calls(&redis, "evalsha") - scripts > tries
    })
    .await;
    guard.release().await.unwrap();
    waiting.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_ttl_must_make_sense() {
    // Nobody is asked: there is no server.
    let client = server::client(1);
    for ttl in [
        Duration::ZERO,
        ms(1),
        ms(99),
        LONG * 60 * 24 * 31,
        Duration::MAX,
    ] {
        let error = Mutex::new(&client, "a")
            .ttl(ttl)
            .acquire()
            .await
            .unwrap_err();
        assert!(
            matches!(error, MutexError::Ttl(_, given) if given == ttl),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn any_timeout_is_possible() {
    let redis = Redis::start();
    let error = mutex(&redis)
        .lock_timeout(Duration::ZERO)
        .acquire()
        .await
        .unwrap_err();
    assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    mutex(&redis)
        .lock_timeout(Duration::MAX)
        .acquire()
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_foreign_token_is_neither_released_nor_extended() {
    let redis = Redis::start();
    let guard = mutex(&redis).ttl(ms(900)).acquire().await.unwrap();
    let taken = Instant::now();
    let _: () = redis.connection().pset_ex(KEY, "foreign", 50_000).unwrap();

    within(ms(900), guard.lost()).await;
    // By the first renewal, not by the clock.
    assert!(taken.elapsed() < ms(700), "{:?}", taken.elapsed());
    assert!(guard.is_lost());
    assert_eq!(calls(&redis, "pexpire"), 0);
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, ReleaseError::NotHeld(_)), "{error:?}");

    // Nor by a guard that is dropped.
    let _: () = redis.connection().del(KEY).unwrap();
    let guard = mutex(&redis).acquire().await.unwrap();
    let _: () = redis.connection().pset_ex(KEY, "foreign", 50_000).unwrap();
    let scripts = calls(&redis, "evalsha");
    drop(guard);
    until("a release was tried", || calls(&redis, "evalsha") > scripts).await;
    assert_eq!(holder(&redis).as_deref(), Some("foreign"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_set_recognises_itself() {
    let redis = Redis::start();
    let proxy = Proxy::start(&format!("127.0.0.1:{}", redis.port())).await;
    let mutex = Mutex::new(&server::client(proxy.port()), "backfill").ttl(LONG);
    // The connection is open and the scripts are loaded.
    mutex.acquire().await.unwrap().release().await.unwrap();
    let sets = calls(&redis, "set");

    proxy.hold_replies(true);
    let acquiring = tokio::spawn(async move { mutex.try_acquire().await });
    proxy.reply_held().await;
    let token = holder(&redis).expect("the server has done it");
    proxy.cut().await;
    proxy.hold_replies(false);

    let guard = acquiring.await.unwrap().unwrap().expect("it is ours");
    assert_eq!(holder(&redis), Some(token));
    assert_eq!(calls(&redis, "set") - sets, 1);
    guard.release().await.unwrap();
    assert_eq!(holder(&redis), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_release_is_unknown() {
    let redis = Redis::start();
    let proxy = Proxy::start(&format!("127.0.0.1:{}", redis.port())).await;
    let mutex = Mutex::new(&server::client(proxy.port()), "backfill").ttl(LONG);
    mutex.acquire().await.unwrap().release().await.unwrap();
    let guard = mutex.acquire().await.unwrap();

    proxy.hold_replies(true);
    let releasing = tokio::spawn(guard.release());
    proxy.reply_held().await;
    proxy.cut().await;
    proxy.hold_replies(false);
    let error = releasing.await.unwrap().unwrap_err();
    assert!(matches!(error, ReleaseError::Unknown(..)), "{error:?}");
    assert_eq!(holder(&redis), None);
}

/// A holder whose process died: nothing renews, nothing releases.
fn forget(mutex: Mutex) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    std::mem::forget(runtime.block_on(mutex.acquire()).unwrap());
}

#[tokio::test]
async fn a_dead_holders_lock_expires() {
    let redis = Redis::start();
    let mutex = mutex(&redis).ttl(ms(300));
    let taken = Instant::now();
    tokio::task::spawn_blocking({
        let mutex = mutex.clone();
        move || forget(mutex)
    })
    .await
    .unwrap();
    assert!(holder(&redis).is_some());

    // The connection belonged to the runtime that ended, so this opens one as well.
    mutex.acquire().await.unwrap().release().await.unwrap();
    assert!(taken.elapsed() >= ms(300), "{:?}", taken.elapsed());
    assert_eq!(calls(&redis, "pexpire"), 0);
}

#[tokio::test]
async fn a_renewal_keeps_the_lock_beyond_its_ttl() {
    let redis = Redis::start();
    let ttl = ms(300);
    let (guard, taken) = (
        mutex(&redis).ttl(ttl).acquire().await.unwrap(),
        Instant::now(),
    );
    let token = holder(&redis);
    let others = mutex(&redis);
    until("twelve renewals", || calls(&redis, "pexpire") >= 12).await;
    assert!(taken.elapsed() > ttl * 3);
    assert!(others.try_acquire().await.unwrap().is_none());
    assert_eq!(holder(&redis), token);
    assert!(!guard.is_lost());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_dropped_guard_releases_and_ends_what_waits_for_its_loss() {
    let redis = Redis::start();
    let guard = mutex(&redis).acquire().await.unwrap();
    let lost = tokio::spawn(guard.lost());
    drop(guard);
    within(ms(100), lost).await.unwrap();
    until("the key is gone", || holder(&redis).is_none()).await;
}

#[tokio::test]
async fn no_key_and_no_renewal_is_left_after_ten_thousand_loops() {
    let redis = Redis::start();
    // Short, so that a renewal that is left shows soon.
    let mutex = mutex(&redis).ttl(ms(600)).lock_timeout(LONG);
    let (mut cancelled, mut released, mut dropped) = (0, 0, 0);
    for round in 0..10_000 {
        // Before the command is sent, while it is under way, and not at all.
        let yields = match round % 4 {
            0 => 1,
            1 => 4,
            _ => usize::MAX,
        };
        let acquired = tokio::select! {
            biased;
            acquired = mutex.acquire() => Some(acquired.unwrap()),
            () = yield_times(yields) => None,
        };
        match acquired {
            None => {
                cancelled += 1;
                // Else the next round would come before the deletion, and wait.
                yield_times(2).await;
            }
            Some(guard) if round % 4 == 2 => {
                guard.release().await.unwrap();
                released += 1;
            }
            Some(guard) => {
                drop(guard);
                dropped += 1;
                yield_times(2).await;
            }
        }
    }
    println!("cancelled {cancelled}, released {released}, dropped {dropped}");
    assert!(cancelled >= 2500 && released == 2500 && dropped >= 2500);
    assert!(
        calls(&redis, "set") > released + dropped,
        "some were cancelled behind their SET"
    );

    until("no key", || {
        redis::cmd("DBSIZE")
            .query::<u64>(&mut redis.connection())
            .unwrap()
            == 0
    })
    .await;
    // What deletes a key may have found that it is gone already.
    yield_times(200).await;
    // Nothing to wait for but the time in which a renewal would have come.
    let (renewals, scripts) = (calls(&redis, "pexpire"), calls(&redis, "evalsha"));
    tokio::time::sleep(ms(400)).await;
    assert_eq!(
        (calls(&redis, "pexpire"), calls(&redis, "evalsha")),
        (renewals, scripts)
    );
    assert_eq!(holder(&redis), None);
}

#[tokio::test]
async fn cancelled_at_every_await_point_no_key_is_left() {
    let redis = Redis::start();
    let mut cancelled = 0;
    for limit in 1.. {
        // Scripts that are not loaded yet are await points too, and so is connecting.
        redis::cmd("SCRIPT")
            .arg("FLUSH")
            .exec(&mut redis.connection())
            .unwrap();
        let mutex = mutex(&redis);
        match polled(limit, mutex.acquire()).await {
            Some(guard) => {
                guard.unwrap().release().await.unwrap();
                break;
            }
            None => {
                cancelled += 1;
                // A command that was under way may not have arrived yet, so look from behind it.
                until("no key", || holder(&redis).is_none()).await;
                mutex.acquire().await.unwrap().release().await.unwrap();
                assert_eq!(holder(&redis), None);
            }
        }
    }
    assert!(cancelled >= 4, "{cancelled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_behind_its_set_the_key_is_deleted() {
    let redis = Redis::start();
    let proxy = Proxy::start(&format!("127.0.0.1:{}", redis.port())).await;
    let mutex = Mutex::new(&server::client(proxy.port()), "backfill").ttl(LONG);
    mutex.acquire().await.unwrap().release().await.unwrap();

    proxy.hold_replies(true);
    tokio::select! {
        biased;
        _ = mutex.acquire() => panic!("the reply is held"),
        () = proxy.reply_held() => {}
    }
    assert!(holder(&redis).is_some());
    proxy.hold_replies(false);
    until("no key", || holder(&redis).is_none()).await;
}

#[tokio::test]
async fn a_cancelled_release_releases() {
    let redis = Redis::start();
    for limit in 1.. {
        let guard = mutex(&redis).acquire().await.unwrap();
        let released = polled(limit, guard.release()).await;
        until("no key", || holder(&redis).is_none()).await;
        if let Some(released) = released {
            released.unwrap();
            assert!(limit > 1);
            break;
        }
    }
}

#[tokio::test]
async fn a_key_of_another_type_is_refused_at_once() {
    let redis = Redis::start();
    let _: () = redis.connection().lpush(KEY, "x").unwrap();
    let error = within(ms(100), mutex(&redis).lock_timeout(LONG).acquire())
        .await
        .unwrap_err();
    assert!(matches!(error, MutexError::Refused(..)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_down_is_an_error_in_time() {
    let mut redis = Redis::start();
    redis.stop();
    let mutex = mutex(&redis).lock_timeout(ms(300));
    for _ in 0..2 {
        let error = within(ms(300), mutex.acquire()).await.unwrap_err();
        assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
        let error = within(ms(300), mutex.try_acquire()).await.unwrap_err();
        assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    }
    // The same mutex works when it is back, also while somebody waits.
    let waiting = tokio::spawn({
        let mutex = mutex.clone().lock_timeout(LONG);
        async move { mutex.acquire().await }
    });
    redis.restart();
    waiting.await.unwrap().unwrap().release().await.unwrap();
}

/// The guard is lost before its key could expire, whatever happens to the server.
async fn lost_in_time(guard: &Guard, ttl: Duration, since: Instant) {
    within(ttl, guard.lost()).await;
    assert!(guard.is_lost());
    let elapsed = since.elapsed();
    println!("lost after {elapsed:?} of {ttl:?}");
}

#[tokio::test]
async fn a_killed_server_loses_the_lock_in_time() {
    let mut redis = Redis::start();
    let ttl = ms(600);
    let before = Instant::now();
    let guard = mutex(&redis)
        .ttl(ttl)
        .lock_timeout(ms(300))
        .acquire()
        .await
        .unwrap();
    redis.kill();
    lost_in_time(&guard, ttl, before).await;
    assert!(
        before.elapsed() < ttl,
        "fired before the key could expire: {:?}",
        before.elapsed()
    );
    let error = within(ms(300), guard.release()).await.unwrap_err();
    assert!(matches!(error, ReleaseError::Unavailable(..)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_forgot_loses_the_lock_at_the_next_renewal() {
    for restart in [true, false] {
        let mut redis = Redis::start();
        let mutex = mutex(&redis).ttl(ms(900));
        let guard = mutex.acquire().await.unwrap();
        match restart {
            true => redis.restart(),
            false => redis.flush(),
        }
        let forgotten = Instant::now();
        lost_in_time(&guard, ms(900), forgotten).await;
        assert!(forgotten.elapsed() < ms(700), "{:?}", forgotten.elapsed());
        assert_eq!(calls(&redis, "pexpire"), 0);
        let error = guard.release().await.unwrap_err();
        assert!(matches!(error, ReleaseError::NotHeld(_)), "{error:?}");
        mutex.acquire().await.unwrap().release().await.unwrap();
    }
}

#[tokio::test]
async fn a_hung_server_loses_the_lock_in_time() {
    let redis = Redis::start();
    let ttl = ms(600);
    let mutex = mutex(&redis).ttl(ttl).lock_timeout(ms(300));
    let before = Instant::now();
    let guard = mutex.acquire().await.unwrap();
    redis.pause();
    lost_in_time(&guard, ttl, before).await;
    assert!(
        before.elapsed() < ttl,
        "fired before the key could expire: {:?}",
        before.elapsed()
    );

    let error = within(ms(300), mutex.try_acquire()).await.unwrap_err();
    assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    let error = within(ms(300), guard.release()).await.unwrap_err();
    assert!(matches!(error, ReleaseError::Unavailable(..)), "{error:?}");
    redis.resume();
    mutex
        .lock_timeout(LONG)
        .acquire()
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_hung_server_does_late_is_undone() {
    let redis = Redis::start();
    let mutex = mutex(&redis).lock_timeout(ms(300));
    // On an open connection, so that the command waits in the server's buffer.
    mutex.acquire().await.unwrap().release().await.unwrap();
    let sets = calls(&redis, "set");
    redis.pause();
    within(ms(300), mutex.acquire()).await.unwrap_err();
    redis.resume();
    until("the late SET", || calls(&redis, "set") > sets).await;
    // Long before the ttl of a minute.
    until("no key", || holder(&redis).is_none()).await;
}

/// A server that answers scripts as the test says, by the numbers of the connection and of the script, each reading of
/// bytes after a delay. It goes on until the process ends.
struct Fake {
    port: u16,
    connections: Arc<AtomicUsize>,
    scripts: Arc<AtomicUsize>,
}

const TAKEN: &str = "*2\r\n:1\r\n:0\r\n";

impl Fake {
    fn start(
        delay: Duration,
        answer: impl Fn(usize, usize) -> &'static str + Send + Sync + 'static,
    ) -> Self {
        use std::io::{Read, Write};

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            scripts: Arc::default(),
        };
        let (connections, scripts) = (Arc::clone(&fake.connections), Arc::clone(&fake.scripts));
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), Arc::clone(&answer));
                let (connection, scripts) =
                    (connections.fetch_add(1, SeqCst), Arc::clone(&scripts));
                std::thread::spawn(move || {
                    let mut bytes = [0; 8192];
                    while let Ok(length @ 1..) = stream.read(&mut bytes) {
                        std::thread::sleep(delay);
                        let text = String::from_utf8_lossy(&bytes[..length]);
                        for command in text.split('*').skip(1) {
                            let reply = match command.contains("EVALSHA") {
                                true => answer(connection, scripts.fetch_add(1, SeqCst)),
                                false => "+OK\r\n",
                            };
                            if stream.write_all(reply.as_bytes()).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        fake
    }

    fn mutex(&self) -> Mutex {
        Mutex::new(&server::client(self.port), "backfill").ttl(LONG)
    }
}

#[tokio::test]
async fn connecting_may_take_longer_than_its_callers_have() {
    let fake = Fake::start(ms(200), |_, script| match script {
        1 => ":1\r\n",
        _ => TAKEN,
    });
    let mutex = fake.mutex();
    let impatient = mutex.clone().lock_timeout(ms(50));
    for _ in 0..3 {
        let error = impatient.try_acquire().await.unwrap_err();
        assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    }
    // Its handshake and its try take longer together than its lock is valid.
    let guard = within(ms(1000), mutex.clone().ttl(ms(400)).acquire()).await;
    guard.unwrap().release().await.unwrap();
    let mut tasks = JoinSet::new();
    for name in 0..20 {
        let mutex = mutex.named(name.to_string()).lock_timeout(LONG);
        tasks.spawn(async move { mutex.acquire().await.unwrap() });
    }
    assert_eq!(within(ms(1000), tasks.join_all()).await.len(), 20);
    assert_eq!(fake.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn a_demoted_server_is_left() {
    for refusal in [
        "-READONLY You can't write against a read only replica.\r\n",
        "-MASTERDOWN Link with MASTER is down.\r\n",
        "-CLUSTERDOWN The cluster is down\r\n",
    ] {
        let fake = Fake::start(Duration::ZERO, move |connection, _| match connection {
            0 | 1 => refusal,
            _ => TAKEN,
        });
        std::mem::forget(within(ms(500), fake.mutex().acquire()).await.unwrap());
        assert_eq!(fake.connections.load(SeqCst), 3);
        assert_eq!(fake.scripts.load(SeqCst), 3);
    }
}

#[tokio::test]
async fn refusals_that_may_pass_are_tried_again_and_leave_nothing_to_undo() {
    for refusal in [
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
        "-BUSY Redis is busy running a script.\r\n",
        "-NOREPLICAS Not enough good replicas to write.\r\n",
        "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to\r\n",
    ] {
        // A try that a timeout of ours cut off would have to be undone.
        let fake = Fake::start(Duration::ZERO, move |_, script| match script {
            0..5 => refusal,
            _ => TAKEN,
        });
        std::mem::forget(fake.mutex().acquire().await.unwrap());
        assert_eq!(fake.scripts.load(SeqCst), 6, "{refusal}");
    }
}

#[tokio::test]
async fn a_release_that_was_refused_first_is_not_unknown() {
    let fake = Fake::start(Duration::ZERO, |_, script| match script {
        0 => TAKEN,
        1 => "-BUSY Redis is busy running a script.\r\n",
        _ => ":0\r\n",
    });
    let guard = fake.mutex().acquire().await.unwrap();
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, ReleaseError::NotHeld(_)), "{error:?}");
    assert_eq!(fake.scripts.load(SeqCst), 3);
}

#[tokio::test]
async fn too_many_clients_may_pass() {
    let redis = Redis::start();
    let mut only = redis.connection();
    redis::cmd("CONFIG")
        .arg(&["SET", "maxclients", "1"])
        .exec(&mut only)
        .unwrap();
    let mutex = mutex(&redis);
    let error = mutex
        .clone()
        .lock_timeout(ms(300))
        .acquire()
        .await
        .unwrap_err();
    assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    drop(only);
    let guard = within(ms(500), mutex.lock_timeout(LONG).acquire()).await;
    guard.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn names_of_one_mutex_share_a_connection_and_no_lock() {
    let redis = Redis::start();
    let mutex = mutex(&redis);
    let other = mutex.named("other");
    assert_eq!(
        format!("{other:?}"),
        r#"Mutex { name: "other", ttl: 60s, lock_timeout: 5s, .. }"#
    );
    let guard = mutex.acquire().await.unwrap();
    let other_guard = other.try_acquire().await.unwrap().expect("it is free");
    assert!(mutex.named("other").try_acquire().await.unwrap().is_none());
    let clients: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut redis.connection())
        .unwrap();
    // The other one is that of the question.
    assert_eq!(clients.lines().count(), 2, "{clients}");
    guard.release().await.unwrap();
    assert!(!other_guard.is_lost());
    other_guard.release().await.unwrap();
}

#[tokio::test]
async fn work_is_dropped_when_the_lock_is_lost() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let redis = Redis::start();
    let guard = mutex(&redis).ttl(ms(300)).acquire().await.unwrap();
    assert_eq!(guard.run(async { 7 }).await.unwrap(), 7);

    let dropped = Arc::new(AtomicBool::new(false));
    let work = Dropped(Arc::clone(&dropped));
    redis.flush();
    let result = guard.run(async move {
        let _work = work;
        std::future::pending::<()>().await
    });
    let error = within(ms(300), result).await.unwrap_err();
    assert!(matches!(error, MutexError::Lost(_)), "{error:?}");
    assert!(dropped.load(SeqCst));
    assert_eq!(
        error.to_string(),
        "run (lock = backfill): the lock was lost; another process may hold it: stop this work"
    );
    // Nothing is begun under a lost lock.
    guard.run(async { unreachable!() }).await.unwrap_err();
}

#[tokio::test]
async fn every_method_can_be_spawned() {
    let redis = Redis::start();
    let database = rowlock_tests::sqlite::database(rowlock::Fence::ddl::<sqlx::Sqlite>()).await;
    let mutex = mutex(&redis);
    let pool = database.pool.clone();
    tokio::spawn(async move {
        let guard = mutex.acquire().await.unwrap();
        guard.fence(&pool).await.unwrap();
        guard
            .fence(&mut *pool.acquire().await.unwrap())
            .await
            .unwrap();
        guard
            .run(async { tokio::task::yield_now().await })
            .await
            .unwrap();
        let lost = tokio::spawn(guard.lost());
        guard.release().await.unwrap();
        lost.await.unwrap();
        drop(mutex.try_acquire().await.unwrap());
    })
    .await
    .unwrap();
}

/// A mutex of a name of its own: on PostgreSQL all tests share the table of fences.
fn named(redis: &Redis, name: &str) -> Mutex {
    mutex(redis).named(name)
}

/// What both databases show.
macro_rules! fences_on {
    ($backend:ident: $table:literal) => {
        mod $backend {
            use rowlock::{Fault, Fence};
            use rowlock_tests::$backend::{Database, Db, database};
            use sqlx::Connection;

            use super::*;

            /// A fresh database, with these tables and that of the fences.
            pub(super) async fn with_fences(tables: &str) -> Database {
                let database = database(tables).await;
                let create = || sqlx::raw_sql(Fence::ddl::<Db>()).execute(&database.pool);
                // When two sessions create a schema at the same time, PostgreSQL tells one of them that the name is taken.
                while let Err(error) = create().await {
                    assert_eq!(Fault::of(&error), Fault::UniqueViolation, "{error}");
                }
                database
            }

            /// By hand, behind the crate's back.
            async fn move_fence(database: &Database, name: &str, microseconds: i64) {
                let moved = sqlx::query(MOVE)
                    .bind(microseconds)
                    .bind(name)
                    .execute(&database.pool)
                    .await
                    .unwrap();
                assert_eq!(moved.rows_affected(), 1);
            }

            const MOVE: &str =
                concat!("UPDATE ", $table, " SET fence = fence + $1 WHERE name = $2");
            const HOUR: i64 = 3_600_000_000;

            /// Deleted, counted from one again, the number of a naive twin would go back.
            #[tokio::test]
            async fn fences_grow_over_rows_that_were_purged() {
                let redis = Redis::start();
                let name = "purged";
                let database = with_fences("").await;
                let pool = &database.pool;
                let guard = named(&redis, name).acquire().await.unwrap();
                let first = guard.fence(pool).await.unwrap();
                // What is younger than an hour stays, whatever is asked for.
                Fence::purge(pool, Duration::ZERO).await.unwrap();
                move_fence(&database, name, 0).await;

                move_fence(&database, name, -2 * HOUR).await;
                Fence::purge(pool, ms(3 * 3_600_000)).await.unwrap();
                move_fence(&database, name, 0).await;
                let purged = Fence::purge(pool, ms(3_600_000)).await.unwrap();
                assert!(purged >= 1);
                let second = guard.fence(pool).await.unwrap();
                assert!(second > first, "{first} {second}");

                // A clock that was put back, or one that runs behind: never lower than the last one either.
                move_fence(&database, name, HOUR).await;
                let third = guard.fence(pool).await.unwrap();
                assert_eq!(third.get(), second.get() + HOUR + 1);
                Fence::purge(pool, ms(3_600_000)).await.unwrap();
                assert_eq!(guard.fence(pool).await.unwrap().get(), third.get() + 1);
                move_fence(&database, name, -HOUR).await;
            }

            /// Redis ends keys by the time of day, so when its clock is set forward, the key is over at once, and its holder does not know.
            #[tokio::test]
            async fn a_stepped_clock_gives_two_guards_and_the_fence_holds() {
                let redis = Redis::start();
                let name = "stepped";
                let database = with_fences(
                    "CREATE TABLE reports (author text NOT NULL, fence bigint NOT NULL);
                     INSERT INTO reports VALUES ('nobody', 0)",
                )
                .await;
                let pool = &database.pool;
                let write = async |author: &str, fence: Fence| {
                    sqlx::query("UPDATE reports SET author = $1, fence = $2 WHERE fence <= $2")
                        .bind(author)
                        .bind(fence)
                        .execute(pool)
                        .await
                        .unwrap()
                        .rows_affected()
                };
                let step = || {
                    let key = format!("rowlock:{{{name}}}");
                    let past: bool = redis.connection().expire_at(key, 1).unwrap();
                    assert!(past);
                };

                let old = named(&redis, name).acquire().await.unwrap();
                let lower = old.fence(pool).await.unwrap();
                assert_eq!(write("old", lower).await, 1);
                step();
                let new = named(&redis, name).try_acquire().await.unwrap().unwrap();
                assert!(!old.is_lost() && !new.is_lost(), "two guards");
                // The old one can still write as long as the new one has not.
                let higher = new.fence(pool).await.unwrap();
                assert!(higher > lower);
                assert_eq!(write("new", higher).await, 1);
                assert_eq!(write("old", lower).await, 0);
                // Nor does it get a higher number now.
                let refused = old.fence(pool).await.unwrap_err();
                assert!(matches!(refused, FenceError::Lost(_)), "{refused:?}");
                assert_eq!(write("new", higher).await, 1);
                new.release().await.unwrap();

                // It is told a third of the ttl later at most.
                let old = named(&redis, name).ttl(ms(900)).acquire().await.unwrap();
                step();
                within(ms(300), old.lost()).await;
            }

            #[tokio::test]
            async fn fences_grow_over_release_expiry_and_restart() {
                let mut redis = Redis::start();
                let database = with_fences("").await;
                let pool = &database.pool;
                let mut fences = Vec::new();

                // Two clients in turn, released.
                let (one, other) = (named(&redis, "grow"), named(&redis, "grow"));
                for mutex in [&one, &other, &one] {
                    let guard = mutex.acquire().await.unwrap();
                    fences.push(guard.fence(pool).await.unwrap());
                    guard.release().await.unwrap();
                }
                // A holder that died.
                let dying = one.clone().ttl(ms(200));
                tokio::task::spawn_blocking(move || forget(dying))
                    .await
                    .unwrap();
                let guard = other.acquire().await.unwrap();
                fences.push(guard.fence(pool).await.unwrap());
                // The same guard again.
                fences.push(guard.fence(pool).await.unwrap());
                // A server that forgot everything.
                redis.restart();
                let guard = one.acquire().await.unwrap();
                fences.push(guard.fence(pool).await.unwrap());

                assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
                let first = fences[0].get();
                assert_eq!(
                    format!("{} {:?}", fences[0], fences[0]),
                    format!("{first} Fence({first})")
                );
                // Microseconds since 1970.
                assert!(first > 1_700_000_000_000_000, "{first}");
            }

            #[tokio::test]
            async fn a_fence_is_a_column() {
                let redis = Redis::start();
                let database = with_fences("CREATE TABLE jobs (fence bigint NOT NULL)").await;
                let guard = named(&redis, "column").acquire().await.unwrap();
                let fence = guard.fence(&database.pool).await.unwrap();
                sqlx::query("INSERT INTO jobs (fence) VALUES ($1)")
                    .bind(fence)
                    .execute(&database.pool)
                    .await
                    .unwrap();
                let read: Fence =
                    sqlx::query_scalar::<Db, _>("SELECT fence FROM jobs WHERE fence <= $1")
                        .bind(fence)
                        .fetch_one(&database.pool)
                        .await
                        .unwrap();
                assert_eq!(read, fence);
            }

            #[tokio::test]
            async fn a_lost_lock_gets_no_fence() {
                let redis = Redis::start();
                let database = with_fences("").await;
                let guard = named(&redis, "no fence").acquire().await.unwrap();
                let first = guard.fence(&database.pool).await.unwrap();
                redis.flush();
                // It has not noticed yet, and the number is wasted.
                assert!(!guard.is_lost());
                let error = guard.fence(&database.pool).await.unwrap_err();
                assert!(matches!(error, FenceError::Lost(_)), "{error:?}");
                assert_eq!(
                    error.to_string(),
                    "fence (lock = no fence): the lock was lost; another process may hold it: stop this work"
                );
                let successor = named(&redis, "no fence").acquire().await.unwrap();
                assert!(successor.fence(&database.pool).await.unwrap() > first);
            }

            #[tokio::test]
            async fn a_fence_is_made_outside_of_transactions() {
                let redis = Redis::start();
                let database = with_fences("").await;
                let guard = named(&redis, "no table").acquire().await.unwrap();
                let mut connection = database.connection().await;
                let mut transaction = connection.begin().await.unwrap();
                let error = guard.fence(&mut *transaction).await.unwrap_err();
                assert!(matches!(error, FenceError::InTransaction(_)), "{error:?}");
                transaction.rollback().await.unwrap();
                guard.fence(&mut connection).await.unwrap();
            }

            #[tokio::test]
            async fn a_cancelled_fence_wastes_a_number_at_worst() {
                let redis = Redis::start();
                let database = with_fences("").await;
                let guard = named(&redis, "cancelled").acquire().await.unwrap();
                let mut last = guard.fence(&database.pool).await.unwrap();
                for limit in 1.. {
                    let cut = polled(limit, guard.fence(&database.pool)).await;
                    let next = guard.fence(&database.pool).await.unwrap();
                    assert!(next > last);
                    last = next;
                    if cut.is_some() {
                        break;
                    }
                }
            }

            #[tokio::test]
            async fn a_fence_waits_for_a_hung_redis_no_longer_than_the_lock_lasts() {
                let redis = Redis::start();
                let database = with_fences("").await;
                let guard = named(&redis, "hung").ttl(ms(400)).acquire().await.unwrap();
                redis.pause();
                let error = within(ms(400), guard.fence(&database.pool))
                    .await
                    .unwrap_err();
                assert!(
                    matches!(error, FenceError::Unavailable(..) | FenceError::Lost(_)),
                    "{error:?}"
                );
                redis.resume();
            }
        }
    };
}
fences_on!(postgres: "rowlock.fences");
fences_on!(sqlite: "main.rowlock_fences");

#[tokio::test]
async fn a_fence_needs_its_table() {
    let redis = Redis::start();
    let guard = mutex(&redis).acquire().await.unwrap();
    let sqlite = rowlock_tests::sqlite::database("").await;
    // Another database of the server, for the schema with the table is the same for all that use this one.
    let database = rowlock_tests::postgres::database("").await;
    let empty = rowlock_tests::postgres::unique_name();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {empty}"));
    sqlx::raw_sql(create).execute(&database.pool).await.unwrap();
    let options = database.options().database(&empty);
    let postgres = sqlx::PgPool::connect_with(options).await.unwrap();

    let error = guard.fence(&sqlite.pool).await.unwrap_err();
    assert!(matches!(error, FenceError::Table(_)), "{error:?}");
    let error = guard.fence(&postgres).await.unwrap_err();
    assert!(matches!(error, FenceError::Table(_)), "{error:?}");
    assert!(error.to_string().contains("Fence::ddl"), "{error}");

    let ddl = rowlock::Fence::ddl::<sqlx::Sqlite>();
    sqlx::raw_sql(ddl).execute(&sqlite.pool).await.unwrap();
    guard.fence(&sqlite.pool).await.unwrap();
    let ddl = rowlock::Fence::ddl::<sqlx::Postgres>();
    for _ in 0..2 {
        sqlx::raw_sql(ddl).execute(&postgres).await.unwrap();
    }
    guard.fence(&postgres).await.unwrap();
    postgres.close().await;
    let drop = sqlx::AssertSqlSafe(format!("DROP DATABASE {empty}"));
    sqlx::raw_sql(drop).execute(&database.pool).await.unwrap();
}

/// Two processes with another `search_path` each: a tenant's schema, a migration's role, a `SET` that was left behind.
#[tokio::test]
async fn fences_do_not_depend_on_the_search_path() {
    const NAIVE: &str = "CREATE TABLE fences (name text PRIMARY KEY, fence bigint NOT NULL)";
    let redis = Redis::start();
    let one = postgres::with_fences(NAIVE).await;
    let other = postgres::with_fences(NAIVE).await;
    let naive = async |pool: &sqlx::PgPool| {
        let mint = "INSERT INTO fences VALUES ('report', 1)
            ON CONFLICT (name) DO UPDATE SET fence = fences.fence + 1 RETURNING fence";
        let number = sqlx::query_scalar::<_, i64>(mint).fetch_one(pool).await;
        number.unwrap()
    };
    let guard = named(&redis, "search_path").acquire().await.unwrap();
    let (mut fences, mut numbers) = (Vec::new(), Vec::new());
    for pool in [&one.pool, &other.pool, &one.pool] {
        fences.push(guard.fence(pool).await.unwrap());
        numbers.push(naive(pool).await);
    }
    let mut connection = one.connection().await;
    let nowhere = "SET search_path = ''";
    sqlx::raw_sql(nowhere)
        .execute(&mut connection)
        .await
        .unwrap();
    fences.push(guard.fence(&mut connection).await.unwrap());
    assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
    assert_eq!(numbers, [1, 1, 2], "the naive twin went back");
}

#[tokio::test]
async fn names_with_braces_are_locks_of_their_own() {
    let redis = Redis::start();
    let mut guards = Vec::new();
    for name in ["", "a", "{a}", "a}b", "}", "{", "{}"] {
        let mutex = named(&redis, name);
        guards.push(mutex.try_acquire().await.unwrap().unwrap());
        assert!(mutex.try_acquire().await.unwrap().is_none(), "{name}");
        let there: bool = redis
            .connection()
            .exists(format!("rowlock:{{{name}}}"))
            .unwrap();
        assert!(there, "{name}");
    }
}

/// A holder that is paused between its lock and its number would get a greater number than its successor.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_is_not_given_to_who_lost_the_lock_while_it_was_made() {
    let redis = Redis::start();
    let database = postgres::with_fences("").await;
    let guard = named(&redis, "late").acquire().await.unwrap();
    let first = guard.fence(&database.pool).await.unwrap();

    // The number cannot be made as long as this transaction is open.
    let mut holder = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM rowlock.fences WHERE name = 'late' FOR UPDATE")
        .execute(&mut holder)
        .await
        .unwrap();
    let pool = database.pool.clone();
    let late = tokio::spawn(async move { (guard.fence(&pool).await, guard) });
    database.until_blocked().await;
    redis.flush();
    let successor = named(&redis, "late").acquire().await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();

    let (late, _guard) = late.await.unwrap();
    assert!(matches!(late, Err(FenceError::Lost(_))), "{late:?}");
    assert!(successor.fence(&database.pool).await.unwrap() > first);
}

#[tokio::test]
async fn a_fence_waits_for_a_blocked_database_no_longer_than_the_lock_lasts() {
    let redis = Redis::start();
    let database = postgres::with_fences("").await;
    let guard = named(&redis, "blocked")
        .ttl(ms(600))
        .acquire()
        .await
        .unwrap();
    guard.fence(&database.pool).await.unwrap();
    let mut holder = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM rowlock.fences WHERE name = 'blocked' FOR UPDATE")
        .execute(&mut holder)
        .await
        .unwrap();
    redis.flush();
    let error = within(ms(600), guard.fence(&database.pool)).await;
    assert!(matches!(error, Err(FenceError::Lost(_))), "{error:?}");
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
}

mod stopped {
    //! A holder whose whole process is stopped beyond its ttl.

    use rowlock::row::UpdateError;
    use rowlock::{Fence, Versioned};
    use rowlock_tests::postgres::{self, Pool, PoolOptions};
    use rowlock_tests::process::{self, Process};
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    #[derive(Debug, Clone, sqlx::FromRow, Versioned)]
    #[rowlock(table = "reports")]
    struct Report {
        #[rowlock(key)]
        id: i64,
        author: String,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(version)]
        version: i64,
    }

    const REPORTS: &str = "CREATE TABLE reports (id bigint PRIMARY KEY, author text NOT NULL, fence bigint NOT NULL, version bigint NOT NULL);
         INSERT INTO reports VALUES (1, 'nobody', 0, 0);
         CREATE TABLE naive (author text NOT NULL);
         INSERT INTO naive VALUES ('nobody')";

    /// By the generated method, with the row as it is now, so that no version is in the way; and by hand.
    async fn write(pool: &Pool, author: &str, fence: Fence) -> Result<Report, UpdateError<Report>> {
        sqlx::query("UPDATE naive SET author = $1")
            .bind(author)
            .execute(pool)
            .await
            .unwrap();
        let report = Report::load(pool, 1).await.unwrap();
        let author = author.to_owned();
        Report {
            author,
            fence,
            ..report
        }
        .update(pool)
        .await
    }

    /// The process.
    #[tokio::test]
    async fn process() {
        let Some(argument) = process::argument() else {
            return;
        };
        let [port, schema, url] = argument.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{argument}");
        };
        let options: PgConnectOptions = url.parse().unwrap();
        let options = options.options([("search_path", schema)]);
        let pool = PoolOptions::new().connect_with(options).await.unwrap();
        let mutex = Mutex::new(&server::client(port.parse().unwrap()), "backfill").ttl(ms(300));

        let guard = mutex.acquire().await.unwrap();
        let fence = guard.fence(&pool).await.unwrap();
        process::say(&format!("fence {fence}"));
        process::listen().await;
        let lost = guard.is_lost();
        let written = match write(&pool, "first", fence).await {
            Ok(_) => "written".to_owned(),
            Err(UpdateError::Fenced(_, by)) => format!("refused by {by}"),
            Err(error) => panic!("{error}"),
        };
        let released = guard.release().await;
        process::say(&format!("lost {lost}, {written}, {released:?}"));
    }

    #[tokio::test]
    async fn a_stopped_holder_cannot_write() {
        let redis = Redis::start();
        let database = super::postgres::with_fences(REPORTS).await;
        let schema: String = sqlx::query_scalar("SELECT current_schema()::text")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        let argument = format!("{} {schema} {}", redis.port(), postgres::url());
        let mut process = Process::start("redis::stopped::process", &argument);
        let said = process.says();
        let first: i64 = said.strip_prefix("fence ").unwrap().parse().unwrap();

        process.stop();
        let guard = mutex(&redis).lock_timeout(LONG).acquire().await.unwrap();
        let fence = guard.fence(&database.pool).await.unwrap();
        assert!(fence.get() > first);
        write(&database.pool, "second", fence).await.unwrap();

        process.resume();
        process.tell("go on");
        let said = process.says();
        let refused = format!("lost true, refused by {fence}, Err(NotHeld(");
        assert!(said.starts_with(&refused), "{said}");
        assert!(process.ends_well());

        let report = Report::load(&database.pool, 1).await.unwrap();
        assert_eq!((report.author.as_str(), report.fence), ("second", fence));
        // The naive table was overwritten by who does not hold the lock any more.
        let naive: String = sqlx::query_scalar("SELECT author FROM naive")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        assert_eq!(naive, "first");
        guard.release().await.unwrap();
    }
}
