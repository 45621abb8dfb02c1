//! The mutex in Redis, each test on a server of its own, and the fence on both databases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use redis::Commands;
use rowlock::redis::{FenceError, Guard, Mutex, MutexError, ReleaseError};
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
        let mutex = mutex(&redis).timeout(LONG);
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
    let (scripts, other) = (calls(&redis, "evalsha"), mutex(&redis).timeout(ms(300)));

    assert!(other.try_acquire().await.unwrap().is_none());
    assert_eq!(calls(&redis, "evalsha") - scripts, 1, "exactly one try");

    let started = Instant::now();
    let error = within(ms(300), other.acquire()).await.unwrap_err();
    assert!(matches!(error, MutexError::Held(_)), "{error:?}");
    assert!(started.elapsed() >= ms(300));
    assert_eq!(
        error.to_string(),
        "acquire (lock = backfill): somebody else held it until the timeout"
    );
    let tries = calls(&redis, "evalsha") - scripts;
    assert!((3..100).contains(&tries), "{tries} tries");

    // Waiting ends when the lock is free.
    let waiting = tokio::spawn(async move { other.timeout(LONG).acquire().await });
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
        .timeout(Duration::ZERO)
        .acquire()
        .await
        .unwrap_err();
    assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    mutex(&redis)
        .timeout(Duration::MAX)
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
    let mutex = mutex(&redis).ttl(ms(600)).timeout(LONG);
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
    let error = within(ms(100), mutex(&redis).timeout(LONG).acquire())
        .await
        .unwrap_err();
    assert!(matches!(error, MutexError::Refused(..)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_down_is_an_error_in_time() {
    let mut redis = Redis::start();
    redis.stop();
    let mutex = mutex(&redis).timeout(ms(300));
    for _ in 0..2 {
        let error = within(ms(300), mutex.acquire()).await.unwrap_err();
        assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
        let error = within(ms(300), mutex.try_acquire()).await.unwrap_err();
        assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    }
    // The same mutex works when it is back, also while somebody waits.
    let waiting = tokio::spawn({
        let mutex = mutex.clone().timeout(LONG);
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
        .timeout(ms(300))
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
    let mutex = mutex(&redis).ttl(ttl).timeout(ms(300));
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
        .timeout(LONG)
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
    let mutex = mutex(&redis).timeout(ms(300));
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
    let impatient = mutex.clone().timeout(ms(50));
    for _ in 0..3 {
        let error = impatient.try_acquire().await.unwrap_err();
        assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    }
    // Its handshake and its try take longer together than its lock is valid.
    let guard = within(ms(1000), mutex.clone().ttl(ms(400)).acquire()).await;
    guard.unwrap().release().await.unwrap();
    let mut tasks = JoinSet::new();
    for name in 0..20 {
        let mutex = mutex.named(name.to_string()).timeout(LONG);
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
        let fake = Fake::start(Duration::ZERO, move |_, _| refusal);
        let error = fake.mutex().timeout(ms(300)).acquire().await.unwrap_err();
        assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
        let scripts = fake.scripts.load(SeqCst);
        assert!(scripts > 1, "{refusal}");
        // Nothing to wait for but the time in which a deletion would have come.
        tokio::time::sleep(ms(100)).await;
        assert_eq!(fake.scripts.load(SeqCst), scripts, "{refusal}");
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
    let error = mutex.clone().timeout(ms(300)).acquire().await.unwrap_err();
    assert!(matches!(error, MutexError::Unavailable(..)), "{error:?}");
    drop(only);
    let guard = within(ms(500), mutex.timeout(LONG).acquire()).await;
    guard.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn names_of_one_mutex_share_a_connection_and_no_lock() {
    let redis = Redis::start();
    let mutex = mutex(&redis);
    let other = mutex.named("other");
    assert_eq!(
        format!("{other:?}"),
        r#"Mutex { name: "other", ttl: 60s, timeout: 5s, .. }"#
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
        "run (lock = backfill): the lock was lost"
    );
    // Nothing is begun under a lost lock.
    guard.run(async { unreachable!() }).await.unwrap_err();
}

#[tokio::test]
async fn every_method_can_be_spawned() {
    let redis = Redis::start();
    let database = rowlock_tests::sqlite::database(rowlock::Fence::TABLE).await;
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

/// What both databases show.
macro_rules! fences_on {
    ($backend:ident) => {
        mod $backend {
            use rowlock::Fence;
            use rowlock_tests::$backend::{Db, database};
            use sqlx::Connection;

            use super::*;

            #[tokio::test]
            async fn fences_grow_over_release_expiry_and_restart() {
                let mut redis = Redis::start();
                let database = database(Fence::TABLE).await;
                let pool = &database.pool;
                let mut fences = Vec::new();

                // Two clients in turn, released.
                let (one, other) = (mutex(&redis), mutex(&redis));
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
                assert_eq!(fences[0].get(), 1);
                assert_eq!(format!("{} {:?}", fences[0], fences[0]), "1 Fence(1)");
                // Each name counts on its own.
                let elsewhere = Mutex::new(&redis.client(), "elsewhere");
                let guard = elsewhere.acquire().await.unwrap();
                assert_eq!(guard.fence(pool).await.unwrap().get(), 1);
            }

            #[tokio::test]
            async fn a_fence_is_a_column() {
                let redis = Redis::start();
                let tables = format!(
                    "{}; CREATE TABLE jobs (fence bigint NOT NULL)",
                    Fence::TABLE
                );
                let database = database(&tables).await;
                let guard = mutex(&redis).acquire().await.unwrap();
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
                let database = database(Fence::TABLE).await;
                let guard = mutex(&redis).acquire().await.unwrap();
                let first = guard.fence(&database.pool).await.unwrap();
                redis.flush();
                // It has not noticed yet, and the number is wasted.
                assert!(!guard.is_lost());
                let error = guard.fence(&database.pool).await.unwrap_err();
                assert!(matches!(error, FenceError::Lost(_)), "{error:?}");
                assert_eq!(
                    error.to_string(),
                    "fence (lock = backfill): the lock was lost"
                );
                let successor = mutex(&redis).acquire().await.unwrap();
                assert!(successor.fence(&database.pool).await.unwrap() > first);
            }

            #[tokio::test]
            async fn a_fence_needs_its_table_and_no_transaction() {
                let redis = Redis::start();
                let database = database("").await;
                let guard = mutex(&redis).acquire().await.unwrap();
                let error = guard.fence(&database.pool).await.unwrap_err();
                assert!(matches!(error, FenceError::Table(_)), "{error:?}");
                assert!(error.to_string().contains(Fence::TABLE), "{error}");

                sqlx::raw_sql(Fence::TABLE)
                    .execute(&database.pool)
                    .await
                    .unwrap();
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
                let database = database(Fence::TABLE).await;
                let guard = mutex(&redis).acquire().await.unwrap();
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
                let database = database(Fence::TABLE).await;
                let guard = mutex(&redis).ttl(ms(400)).acquire().await.unwrap();
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
fences_on!(postgres);
fences_on!(sqlite);

/// A holder that is paused between its lock and its number would get a greater number than its successor.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_is_not_given_to_who_lost_the_lock_while_it_was_made() {
    let redis = Redis::start();
    let database = rowlock_tests::postgres::database(rowlock::Fence::TABLE).await;
    let guard = mutex(&redis).acquire().await.unwrap();
    guard.fence(&database.pool).await.unwrap();

    // The number cannot be made as long as this transaction is open.
    let mut holder = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM rowlock_fences FOR UPDATE")
        .execute(&mut holder)
        .await
        .unwrap();
    let pool = database.pool.clone();
    let late = tokio::spawn(async move { (guard.fence(&pool).await, guard) });
    database.until_blocked().await;
    redis.flush();
    let successor = mutex(&redis).acquire().await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();

    let (late, _guard) = late.await.unwrap();
    assert!(matches!(late, Err(FenceError::Lost(_))), "{late:?}");
    assert_eq!(successor.fence(&database.pool).await.unwrap().get(), 3);
}

#[tokio::test]
async fn a_fence_waits_for_a_blocked_database_no_longer_than_the_lock_lasts() {
    let redis = Redis::start();
    let database = rowlock_tests::postgres::database(rowlock::Fence::TABLE).await;
    let guard = mutex(&redis).ttl(ms(600)).acquire().await.unwrap();
    guard.fence(&database.pool).await.unwrap();
    let mut holder = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM rowlock_fences FOR UPDATE")
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

    use rowlock::{Fence, UpdateError, Versioned};
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
        let tables = format!("{}; {REPORTS}", Fence::TABLE);
        let database = postgres::database(&tables).await;
        let schema: String = sqlx::query_scalar("SELECT current_schema()::text")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        let argument = format!("{} {schema} {}", redis.port(), postgres::url());
        let mut process = Process::start("redis::stopped::process", &argument);
        assert_eq!(process.says(), "fence 1");

        process.stop();
        let guard = mutex(&redis).timeout(LONG).acquire().await.unwrap();
        let fence = guard.fence(&database.pool).await.unwrap();
        assert_eq!(fence.get(), 2);
        write(&database.pool, "second", fence).await.unwrap();

        process.resume();
        process.tell("go on");
        let said = process.says();
        assert!(
            said.starts_with("lost true, refused by 2, Err(NotHeld("),
            "{said}"
        );
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
