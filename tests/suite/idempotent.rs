//! `#[derive(Idempotent)]`: the effect happens once, and everybody learns its outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rowlock::idempotent::{AttemptError, Keyed, Once, OnceError, StartError, Started};
use rowlock::tx::TransactionError;
use rowlock::{Fence, Idempotent, Tx, transaction};
use rowlock_tests::cancel::polled;
use rowlock_tests::random::Random;
use serde::{Deserialize, Serialize};
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;

use super::{Database, Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, sqlx::FromRow, Idempotent)]
#[rowlock(table = "payments")]
struct Payment {
    #[rowlock(key)]
    tenant: i64,
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    request: Vec<u8>,
    #[rowlock(outcome)]
    #[sqlx(json(nullable))]
    receipt: Option<Receipt>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Timestamp,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
    #[rowlock(default)]
    created_at: Timestamp,
}

/// A final failure is an outcome.
type Receipt = Result<i64, String>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Charge {
    to: String,
    cents: i64,
}

const PAYMENTS: &str = "CREATE TABLE payments (
        tenant bigint NOT NULL,
        key text NOT NULL,
        request {bytes} NOT NULL,
        receipt {json},
        fence bigint NOT NULL,
        leased_until {timestamp} NOT NULL,
        finished_at {timestamp},
        created_at {timestamp} NOT NULL DEFAULT ({now}),
        PRIMARY KEY (tenant, key)
    );
    CREATE TABLE charges (cents bigint NOT NULL)";

const MINUTE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

fn charge(cents: i64) -> Charge {
    let to = "Ann".to_owned();
    Charge { to, cents }
}

/// The effect.
async fn book(tx: &mut Tx<Db>, cents: i64) -> Result<Receipt, sqlx::Error> {
    sqlx::query("INSERT INTO charges VALUES ($1)")
        .bind(cents)
        .execute(&mut **tx)
        .await?;
    Ok(Ok(cents))
}

async fn charges(database: &Database) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM charges")
        .fetch_one(&database.pool)
        .await
        .unwrap()
}

async fn ledger(database: &Database) -> Vec<Payment> {
    sqlx::query_as("SELECT * FROM payments ORDER BY tenant, key")
        .fetch_all(&database.pool)
        .await
        .unwrap()
}

fn running<'k>(started: Started<'k, Payment>) -> rowlock::idempotent::Running<'k, Payment> {
    match started {
        Started::Running(running) => running,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn i_01_the_first_call_runs_and_the_next_ones_replay() {
    let database = database(PAYMENTS).await;
    let pool = database.pool.clone();
    let ran = tokio::spawn(async move {
        let outcome = Payment::once(&pool, (1, "k"), &charge(5), async |tx| book(tx, 5).await);
        outcome.await
    });
    assert_eq!(ran.await.unwrap().unwrap(), Once::Ran(Ok(5)));

    for _ in 0..2 {
        let again = Payment::once(&database.pool, (1, "k"), &charge(5), async |_| {
            panic!("it was done");
            #[allow(unreachable_code)]
            Ok::<Receipt, sqlx::Error>(Ok(0))
        });
        assert_eq!(again.await.unwrap(), Once::Replayed(Ok(5)));
    }
    // Other keys are other requests.
    for key in [(2, "k"), (1, "k2")] {
        let other = Payment::once(&database.pool, key, &charge(5), async |tx| {
            book(tx, 5).await
        });
        assert_eq!(other.await.unwrap(), Once::Ran(Ok(5)));
    }
    assert_eq!(charges(&database).await, 3);

    let rows = ledger(&database).await;
    let row = &rows[0];
    assert_eq!((row.tenant, row.key.as_str()), (1, "k"));
    assert_eq!(row.receipt, Some(Ok(5)));
    assert_eq!(row.request.len(), 32);
    let finished = row.finished_at.expect("it is finished");
    assert!(row.leased_until <= finished && row.created_at <= finished);
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn i_02_another_request_under_the_same_key_is_a_mismatch() {
    let database = database(PAYMENTS).await;
    let first = Payment::once(&database.pool, (1, "k"), &charge(5), async |tx| {
        book(tx, 5).await
    });
    let _ = first.await.unwrap();

    let other = Payment::once(&database.pool, (1, "k"), &charge(6), async |tx| {
        book(tx, 6).await
    });
    let error = other.await.unwrap_err();
    assert!(matches!(error, OnceError::Mismatch(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "once of payments (tenant = 1, key = …): this key was used with another request; a new request needs a new key"
    );
    let started = Payment::start(&database.pool, (1, "k"), &charge(6), MINUTE).await;
    assert!(
        matches!(started, Err(StartError::Mismatch(_))),
        "{started:?}"
    );

    // Also while the first request is under way.
    let first = Payment::start(&database.pool, (1, "k2"), &charge(5), MINUTE)
        .await
        .unwrap();
    let other = Payment::start(&database.pool, (1, "k2"), &charge(6), MINUTE).await;
    assert!(matches!(other, Err(StartError::Mismatch(_))), "{other:?}");
    // And when nobody is at work on it any more.
    running(first).release(&database.pool).await.unwrap();
    let other = Payment::once(&database.pool, (1, "k2"), &charge(6), async |tx| {
        book(tx, 6).await
    });
    assert!(matches!(other.await, Err(OnceError::Mismatch(_))));
    assert_eq!(charges(&database).await, 1);
}

/// What most hand-written versions do.
async fn naive(pool: &Pool, looked: &Barrier) -> bool {
    let done: Option<i64> =
        sqlx::query_scalar("SELECT tenant FROM payments WHERE tenant = 1 AND key = 'k'")
            .fetch_optional(pool)
            .await
            .unwrap();
    looked.wait().await;
    if done.is_some() {
        return false;
    }
    sqlx::query("INSERT INTO charges VALUES (5)")
        .execute(pool)
        .await
        .unwrap();
    true
}

#[tokio::test]
async fn i_03_of_64_concurrent_calls_one_has_the_effect() {
    let database = Arc::new(database(PAYMENTS).await);
    let started = Arc::new(Barrier::new(64));
    let mut calls = JoinSet::new();
    for _ in 0..64 {
        let (pool, started) = (database.pool.clone(), started.clone());
        calls.spawn(async move {
            started.wait().await;
            Payment::once(&pool, (1, "k"), &charge(5), async |tx| book(tx, 5).await)
                .wait(MINUTE)
                .await
        });
    }
    let mut ran = 0;
    for outcome in calls.join_all().await {
        match outcome.unwrap() {
            Once::Ran(Ok(5)) => ran += 1,
            Once::Replayed(Ok(5)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ran, charges(&database).await), (1, 1));

    // The twin: everybody looks before anybody writes.
    sqlx::query("DELETE FROM payments")
        .execute(&database.pool)
        .await
        .unwrap();
    let looked = Barrier::new(8);
    let twins = futures_util::future::join_all((0..8).map(|_| naive(&database.pool, &looked)));
    assert_eq!(twins.await.into_iter().filter(|ran| *ran).count(), 8);
}

#[tokio::test]
async fn i_04_a_failed_attempt_leaves_nothing_and_the_next_call_runs() {
    let database = database(PAYMENTS).await;
    let failed = Payment::once(&database.pool, (1, "k"), &charge(5), async |tx| {
        let _ = book(tx, 5).await?;
        Err::<Receipt, _>(sqlx::Error::RowNotFound)
    });
    let error = failed.await.unwrap_err();
    assert!(
        matches!(
            error,
            OnceError::Transaction(TransactionError::Failed(sqlx::Error::RowNotFound))
        ),
        "{error:?}"
    );
    assert_eq!(
        (charges(&database).await, ledger(&database).await.len()),
        (0, 0)
    );

    let next = Payment::once(&database.pool, (1, "k"), &charge(5), async |tx| {
        book(tx, 5).await
    });
    assert_eq!(next.await.unwrap(), Once::Ran(Ok(5)));
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn i_05_a_final_failure_is_an_outcome() {
    let database = database(PAYMENTS).await;
    let runs = AtomicU32::new(0);
    for expected in [
        Once::Ran(Err("declined".to_owned())),
        Once::Replayed(Err("declined".to_owned())),
    ] {
        let outcome = Payment::once(&database.pool, (1, "k"), &charge(5), async |_| {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<Receipt, sqlx::Error>(Err("declined".to_owned()))
        });
        assert_eq!(outcome.await.unwrap(), expected);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

/// What may not wait for anybody.
pub(super) async fn soon<F: IntoFuture>(future: F) -> F::Output {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, future.into_future())
        .await
        .expect("it does not wait")
}

/// While the transaction of `once` is open, PostgreSQL tells the others at once; SQLite lets them wait.
#[tokio::test]
async fn i_06_a_call_under_way_is_busy_and_can_be_waited_for() {
    let database = Arc::new(database(PAYMENTS).await);
    let (inside, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let first = tokio::spawn({
        let (pool, inside, go_on) = (database.pool.clone(), inside.clone(), go_on.clone());
        async move {
            Payment::once(&pool, (1, "k"), &charge(5), async |tx| {
                inside.notify_one();
                go_on.notified().await;
                book(tx, 5).await
            })
            .await
        }
    });
    inside.notified().await;
    if NAME == "PostgreSQL" {
        let other = Payment::once(&database.pool, (1, "k"), &charge(5), async |tx| {
            book(tx, 5).await
        });
        assert_eq!(soon(other).await.unwrap(), Once::Busy);
        let started = Payment::start(&database.pool, (1, "k"), &charge(5), MINUTE)
            .await
            .unwrap();
        assert!(matches!(started, Started::Busy), "{started:?}");
        // Somebody else's key is not in the way.
        let other = Payment::once(&database.pool, (2, "k"), &charge(5), async |tx| {
            book(tx, 5).await
        });
        assert_eq!(other.await.unwrap(), Once::Ran(Ok(5)));
    }
    let waiting = tokio::spawn({
        let pool = database.pool.clone();
        async move {
            Payment::once(&pool, (1, "k"), &charge(5), async |tx| book(tx, 5).await)
                .wait(MINUTE)
                .await
        }
    });
    go_on.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), Once::Ran(Ok(5)));
    assert_eq!(waiting.await.unwrap().unwrap(), Once::Replayed(Ok(5)));
}

#[tokio::test]
async fn i_07_a_dead_attempt_is_taken_over_and_its_result_is_refused() {
    let database = database(PAYMENTS).await;
    let pool = &database.pool;
    let first = running(
        Payment::start(pool, (1, "k"), &charge(5), MINUTE)
            .await
            .unwrap(),
    );
    let other = Payment::start(pool, (1, "k"), &charge(5), MINUTE)
        .await
        .unwrap();
    assert!(matches!(other, Started::Busy), "{other:?}");
    let other = Payment::once(pool, (1, "k"), &charge(5), async |tx| book(tx, 5).await);
    assert_eq!(other.await.unwrap(), Once::Busy);

    // It dies: its lease ends.
    first.extend(pool, NOW).await.unwrap();
    let second = running(
        Payment::start(pool, (1, "k"), &charge(5), MINUTE)
            .await
            .unwrap(),
    );
    assert!(second.fence() > first.fence());

    // It was only slow, and comes back with an effect and an outcome.
    let late = transaction(pool)
        .run(async |tx| {
            let _ = book(tx, 5).await.unwrap();
            first.finish(&mut *tx, &Ok(5)).await
        })
        .await;
    assert!(
        matches!(
            &late,
            Err(TransactionError::Failed(AttemptError::TakenOver(_)))
        ),
        "{late:?}"
    );
    assert!(matches!(
        first.extend(pool, MINUTE).await,
        Err(AttemptError::TakenOver(_))
    ));
    assert!(matches!(
        first.release(pool).await,
        Err(AttemptError::TakenOver(_))
    ));
    assert_eq!(charges(&database).await, 0);

    let done = transaction(pool).run(async |tx| {
        let _ = book(tx, 6).await.unwrap();
        second.finish(&mut *tx, &Ok(6)).await
    });
    done.await.unwrap();
    // Finished rows do not change.
    assert!(matches!(
        second.finish(pool, &Ok(7)).await,
        Err(AttemptError::TakenOver(_))
    ));
    assert!(matches!(
        second.release(pool).await,
        Err(AttemptError::TakenOver(_))
    ));
    let replayed = Payment::start(pool, (1, "k"), &charge(5), MINUTE)
        .await
        .unwrap();
    assert!(matches!(replayed, Started::Replayed(Ok(6))), "{replayed:?}");
    assert_eq!(charges(&database).await, 1);
}

/// `once` takes over as well, and counts on.
#[tokio::test]
async fn i_08_a_released_attempt_is_free_at_once() {
    let database = database(PAYMENTS).await;
    let pool = &database.pool;
    let first = running(
        Payment::start(pool, (1, "k"), &charge(5), MINUTE)
            .await
            .unwrap(),
    );
    first.release(pool).await.unwrap();
    let ran = Payment::once(pool, (1, "k"), &charge(5), async |tx| book(tx, 5).await);
    assert_eq!(ran.await.unwrap(), Once::Ran(Ok(5)));
    assert_eq!(ledger(&database).await[0].receipt, Some(Ok(5)));
}

/// Two take over the same dead attempt: one of them gets it.
#[tokio::test]
async fn i_09_a_dead_attempt_is_taken_over_once() {
    let database = database(PAYMENTS).await;
    let dead = running(
        Payment::start(&database.pool, (1, "k"), &charge(5), NOW)
            .await
            .unwrap(),
    );
    let ready = Arc::new(Barrier::new(8));
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let (pool, ready) = (database.pool.clone(), ready.clone());
        calls.spawn(async move {
            ready.wait().await;
            let started = Payment::start(&pool, (1, "k"), &charge(5), MINUTE)
                .await
                .unwrap();
            matches!(started, Started::Running(_))
        });
    }
    let got = calls.join_all().await;
    assert_eq!(got.into_iter().filter(|got| *got).count(), 1);
    assert!(ledger(&database).await[0].fence > dead.fence());
}

/// Dropped at each of its await points, `once` has happened completely or not at all, and the next call finds out.
#[tokio::test]
async fn i_10_a_cancelled_call_can_be_repeated() {
    let database = database(PAYMENTS).await;
    let (pool, _slow) = database.one_connection_that_waits().await;
    let body = async |tx: &mut Tx<Db>| book(tx, 5).await;
    let (mut keys, mut cuts) = (0, 0);
    // An answer that is there already is no await point, and SQLite's can be: so until there were enough of them.
    for pass in 0.. {
        assert!(pass < 1000, "only {cuts} cuts");
        for limit in 1.. {
            keys += 1;
            let key = format!("k{keys}");
            let call = Payment::once(&pool, (1, &key), &charge(5), body).into_future();
            let finished = polled(limit, call).await.is_some();
            let again = Payment::once(&pool, (1, &key), &charge(5), body)
                .wait(MINUTE)
                .await
                .unwrap();
            assert!(
                matches!(again, Once::Ran(Ok(5)) | Once::Replayed(Ok(5))),
                "{again:?}"
            );
            assert_eq!(charges(&database).await, keys);
            if finished {
                assert_eq!(again, Once::Replayed(Ok(5)));
                break;
            }
            cuts += 1;
        }
        if cuts >= 20 {
            break;
        }
    }
    assert_eq!(database.open_transactions().await, 0);
}

#[tokio::test]
async fn i_11_a_cancelled_start_is_at_worst_a_lease() {
    let database = database(PAYMENTS).await;
    let pool = database.one_connection_pool().await;
    for limit in 1.. {
        let key = format!("k{limit}");
        let started = polled(limit, Payment::start(&pool, (1, &key), &charge(5), NOW)).await;
        // The lease was none, so the next attempt starts whatever became of this one.
        let second = running(
            Payment::start(&pool, (1, &key), &charge(5), MINUTE)
                .await
                .unwrap(),
        );
        for limit in 1.. {
            let call = second.finish(&pool, &Ok(5));
            if let Some(done) = polled(limit, call).await {
                // An earlier one of these may have done it.
                assert!(
                    matches!(done, Ok(()) | Err(AttemptError::TakenOver(_))),
                    "{done:?}"
                );
                break;
            }
        }
        let replayed = Payment::start(&pool, (1, &key), &charge(5), MINUTE)
            .await
            .unwrap();
        assert!(matches!(replayed, Started::Replayed(Ok(5))), "{replayed:?}");
        if started.is_some() {
            break;
        }
    }
}

#[tokio::test]
async fn i_12_purge_deletes_what_was_finished_long_ago() {
    let database = database(PAYMENTS).await;
    let pool = &database.pool;
    for key in ["a", "b"] {
        let done = Payment::once(pool, (1, key), &charge(5), async |tx| book(tx, 5).await);
        let _ = done.await.unwrap();
    }
    let _unfinished = running(
        Payment::start(pool, (1, "c"), &charge(5), NOW)
            .await
            .unwrap(),
    );
    assert_eq!(Payment::purge(pool, MINUTE).await.unwrap(), 0);
    // By the clock of the database, which may not have moved on by a millisecond.
    while Payment::purge(pool, NOW).await.unwrap() == 0 {}
    while ledger(&database).await.len() > 1 {
        Payment::purge(pool, NOW).await.unwrap();
    }
    assert_eq!(ledger(&database).await[0].key, "c");
    // Forgotten is forgotten.
    let again = Payment::once(pool, (1, "a"), &charge(6), async |tx| book(tx, 6).await);
    assert_eq!(again.await.unwrap(), Once::Ran(Ok(6)));
}

#[tokio::test]
async fn i_13_without_the_unique_index_nothing_is_run() {
    let without = PAYMENTS.replace(",\n        PRIMARY KEY (tenant, key)", "");
    let database = database(&without).await;
    let error = Payment::once(&database.pool, (1, "k"), &charge(5), async |tx| {
        book(tx, 5).await
    })
    .await
    .unwrap_err();
    assert!(
        matches!(error, OnceError::MissingUniqueIndex(_, "key,tenant")),
        "{error:?}"
    );
    let error = Payment::start(&database.pool, (1, "k"), &charge(5), MINUTE)
        .await
        .unwrap_err();
    assert!(
        matches!(error, StartError::MissingUniqueIndex(_, "key,tenant")),
        "{error:?}"
    );
    assert_eq!(charges(&database).await, 0);
}

/// Whatever the order of events, an outcome never changes and no attempt but the last one finishes.
#[tokio::test]
async fn i_14_any_order_of_events_leaves_one_outcome() {
    let database = database(PAYMENTS).await;
    let pool = database.one_connection_pool().await;
    let mut random = Random::new(14);
    for round in 0..60 {
        let key = format!("k{round}");
        let key = (1, key.as_str());
        let request = charge(5);
        let mut attempts: Vec<rowlock::idempotent::Running<'_, Payment>> = Vec::new();
        let mut outcome: Option<i64> = None;
        // Whether the lease of the last attempt runs.
        let mut leased = false;
        let mut number = 0;
        for step in 0..12 {
            let value = i64::from(round * 100 + step);
            match random.below(5) {
                0 => match Payment::start(&pool, key, &request, MINUTE).await.unwrap() {
                    Started::Running(attempt) => {
                        assert!(outcome.is_none() && !leased);
                        assert!(attempt.fence().get() > number);
                        number = attempt.fence().get();
                        attempts.push(attempt);
                        leased = true;
                    }
                    Started::Replayed(found) => assert_eq!(found.ok(), outcome),
                    Started::Busy => assert!(outcome.is_none() && leased),
                },
                1 if !attempts.is_empty() => {
                    let attempt = &attempts[random.below(attempts.len())];
                    let done = attempt.finish(&pool, &Ok(value)).await;
                    let may = outcome.is_none() && attempt.fence().get() == number;
                    assert_eq!(done.is_ok(), may, "{done:?}");
                    if may {
                        outcome = Some(value);
                    }
                }
                2 if !attempts.is_empty() => {
                    let attempt = &attempts[random.below(attempts.len())];
                    let ended = attempt.extend(&pool, NOW).await;
                    let may = outcome.is_none() && attempt.fence().get() == number;
                    assert_eq!(ended.is_ok(), may, "{ended:?}");
                    if may {
                        leased = false;
                    }
                }
                3 if attempts.len() > 1 => {
                    let attempt = attempts.remove(0);
                    let may = outcome.is_none() && attempt.fence().get() == number;
                    assert_eq!(attempt.release(&pool).await.is_ok(), may);
                }
                _ => {
                    let once =
                        Payment::once(&pool, key, &request, async |tx| book(tx, value).await);
                    match once.await.unwrap() {
                        Once::Ran(found) => {
                            assert!(outcome.is_none() && !leased);
                            outcome = found.ok();
                        }
                        Once::Replayed(found) => assert_eq!(found.ok(), outcome),
                        Once::Busy => assert!(outcome.is_none() && leased),
                    }
                }
            }
        }
        if let Some(outcome) = outcome {
            let found = Payment::start(&pool, key, &request, MINUTE).await.unwrap();
            assert!(
                matches!(found, Started::Replayed(Ok(found)) if found == outcome),
                "{found:?}"
            );
        }
    }
}

#[tokio::test]
async fn i_15_a_request_that_cannot_be_serialized_is_an_error() {
    struct Refuses;
    impl Serialize for Refuses {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no"))
        }
    }
    let database = database(PAYMENTS).await;
    let request = (1, Refuses);
    let error = Payment::once(&database.pool, (1, "k"), &request, async |tx| {
        book(tx, 5).await
    })
    .await
    .unwrap_err();
    assert!(matches!(error, OnceError::Request(..)), "{error:?}");
    let error = Payment::start(&database.pool, (1, "k"), &request, MINUTE)
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Request(..)), "{error:?}");
}

/// In this program serde_json keeps the digits of numbers (`arbitrary_precision`), as in any where some crate asks for that.
#[tokio::test]
async fn amounts_that_differ_in_their_last_digit_are_other_requests() {
    let database = database(PAYMENTS).await;
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (one, other) = (r#"{"sum": 0.10}"#, r#"{"sum": 0.1000000000000000055}"#);
    let naive = |text: &str| json(text)["sum"].as_f64();
    assert_eq!(naive(one), naive(other));
    let call = async |request: &serde_json::Value| {
        Payment::once(&database.pool, (1, "k"), request, async |tx| {
            book(tx, 5).await
        })
        .await
    };
    assert_eq!(call(&json(one)).await.unwrap(), Once::Ran(Ok(5)));
    let mismatch = call(&json(other)).await;
    assert!(
        matches!(mismatch, Err(OnceError::Mismatch(_))),
        "{mismatch:?}"
    );
    // The same number in another way, and without the feature.
    for same in [json(r#"{"sum": 1e-1}"#), serde_json::json!({ "sum": 0.1 })] {
        assert_eq!(call(&same).await.unwrap(), Once::Replayed(Ok(5)));
    }
    #[derive(Serialize)]
    struct Typed {
        sum: f64,
    }
    let typed = Payment::once(&database.pool, (1, "k"), &Typed { sum: 0.1 }, async |tx| {
        book(tx, 5).await
    });
    assert_eq!(typed.await.unwrap(), Once::Replayed(Ok(5)));
    assert_eq!(charges(&database).await, 1);
}

/// Nobody who does not know the secret can try which request a fingerprint is of.
#[tokio::test]
async fn a_secret_is_part_of_the_request() {
    let database = database(PAYMENTS).await;
    let request = charge(5);
    let call = async |secret: &[u8]| {
        let request = Keyed::new(secret, &request);
        Payment::once(&database.pool, (1, "k"), &request, async |tx| {
            book(tx, 5).await
        })
        .await
    };
    assert_eq!(call(b"secret").await.unwrap(), Once::Ran(Ok(5)));
    assert_eq!(call(b"secret").await.unwrap(), Once::Replayed(Ok(5)));
    let other = call(b"another secret").await;
    assert!(matches!(other, Err(OnceError::Mismatch(_))), "{other:?}");
    let plain = Payment::start(&database.pool, (1, "k"), &request, MINUTE).await;
    assert!(matches!(plain, Err(StartError::Mismatch(_))), "{plain:?}");
    assert!(!format!("{:?}", Keyed::new(b"secret", &request)).contains("Ann"));
}

/// A ledger that was written by a release with other fingerprints: neither replayed nor run again, and not called another request.
#[tokio::test]
async fn a_fingerprint_of_another_version_is_told_apart() {
    let database = database(PAYMENTS).await;
    let pool = &database.pool;
    let once =
        async |key| Payment::once(pool, (1, key), &charge(5), async |tx| book(tx, 5).await).await;
    let started = Payment::start(pool, (1, "leased"), &charge(5), MINUTE).await;
    drop(running(started.unwrap()));
    let started = Payment::start(pool, (1, "given up"), &charge(5), NOW).await;
    drop(running(started.unwrap()));
    assert_eq!(once("finished").await.unwrap(), Once::Ran(Ok(5)));
    // SHA-256, as version 1 stored it.
    sqlx::query("UPDATE payments SET request = $1")
        .bind(vec![0xc5_u8; 32])
        .execute(pool)
        .await
        .unwrap();
    for key in ["leased", "given up", "finished"] {
        let refused = once(key).await.unwrap_err();
        assert!(matches!(refused, OnceError::OtherFingerprint(_)), "{key}");
        let refused = Payment::start(pool, (1, key), &charge(5), MINUTE).await;
        assert!(
            matches!(refused, Err(StartError::OtherFingerprint(_))),
            "{key}: {refused:?}"
        );
    }
    assert_eq!(charges(&database).await, 1);
    // Those that nobody works on go as they always went: by age, or by hand.
    assert_eq!(Payment::purge(pool, NOW).await.unwrap(), 1);
    assert_eq!(once("finished").await.unwrap(), Once::Ran(Ok(5)));
}

/// Other types of columns, a schema in the table's name, and an outcome that is not JSON.
#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    night: i32,
    #[rowlock(fingerprint)]
    fingerprint: String,
    #[rowlock(outcome)]
    rows: Option<i64>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<Timestamp>,
    #[rowlock(finished)]
    #[sqlx(rename = "done at")]
    finished: Option<Timestamp>,
    note: Option<String>,
}

#[tokio::test]
async fn i_16_plain_columns() {
    let database = database(
        "CREATE TABLE jobs (night int PRIMARY KEY, fingerprint text NOT NULL, rows bigint, fence bigint NOT NULL,
            lease {timestamp}, \"done at\" {timestamp}, note text)",
    )
    .await;
    for expected in [Once::Ran(3), Once::Replayed(3)] {
        let done = Job::once(&database.pool, 7, "nightly", async |_| {
            Ok::<i64, sqlx::Error>(3)
        });
        assert_eq!(done.await.unwrap(), expected);
    }
    let fingerprint: String = sqlx::query_scalar("SELECT fingerprint FROM jobs")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    // printf 'rowlock:request:3\njobs\ns\0\0\0\0\0\0\0\7nightly' | sha256sum | cut -c-62: the name of the table is part of it.
    let expected = "r3a356ce461e9fd18414940a8fdb601764847920edfe42feaca1e3dce06deb58";
    assert_eq!(fingerprint, expected);
    // A row that somebody else made, without a lease.
    sqlx::query("INSERT INTO jobs (night, fingerprint, fence) VALUES (8, $1, 4)")
        .bind(&fingerprint)
        .execute(&database.pool)
        .await
        .unwrap();
    let started = Job::start(&database.pool, 8, "nightly", MINUTE)
        .await
        .unwrap();
    assert!(matches!(started, Started::Running(job) if job.fence().get() > 4));
}

#[tokio::test]
async fn i_17_a_dead_database_is_a_typed_error() {
    let database = database(PAYMENTS).await;
    let pool = database.one_connection_pool().await;
    pool.close().await;
    let error = Payment::once(&pool, (1, "k"), &charge(5), async |tx| book(tx, 5).await)
        .await
        .unwrap_err();
    assert!(
        matches!(error, OnceError::Transaction(TransactionError::Begin(_))),
        "{error:?}"
    );
    let error = Payment::start(&pool, (1, "k"), &charge(5), MINUTE)
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Database(_)), "{error:?}");
}

/// Every method in a task of its own, from a pool, a connection and a transaction.
#[tokio::test]
async fn i_18_every_method_can_be_spawned() {
    macro_rules! all_methods {
        ($pool:expr, $db:expr, $key:expr) => {{
            let key = String::from($key);
            let first = running(
                Payment::start($pool, (1, &key), &charge(5), MINUTE)
                    .await
                    .unwrap(),
            );
            first.extend($db, MINUTE).await.unwrap();
            first.release($db).await.unwrap();
            let key = String::from($key) + "2";
            let second = running(
                Payment::start($pool, (1, &key), &charge(5), MINUTE)
                    .await
                    .unwrap(),
            );
            second.finish($db, &Ok(5)).await.unwrap();
            assert_eq!(Payment::purge($db, MINUTE).await.unwrap(), 0);
        }};
    }
    let database = database(PAYMENTS).await;
    let pool = database.pool.clone();
    tokio::spawn(async move { all_methods!(&pool, &pool, "pool") })
        .await
        .unwrap();
    let pool = database.pool.clone();
    let mut connection = database.pool.acquire().await.unwrap();
    tokio::spawn(async move { all_methods!(&pool, &mut *connection, "connection") })
        .await
        .unwrap();
    let pool = database.pool.clone();
    let in_transaction = tokio::spawn(async move {
        let key = String::from("transaction");
        let running = running(
            Payment::start(&pool, (1, &key), &charge(5), MINUTE)
                .await
                .unwrap(),
        );
        transaction(&pool)
            .run(async |tx| {
                running.extend(&mut *tx, MINUTE).await?;
                running.finish(&mut *tx, &Ok(5)).await
            })
            .await
    });
    in_transaction.await.unwrap().unwrap();
    assert_eq!(ledger(&database).await.len(), 5);
}

/// A row that was purged and made anew is not that of an attempt from before.
#[tokio::test]
async fn i_19_a_fence_is_never_used_again() {
    let database = database(PAYMENTS).await;
    let pool = &database.pool;
    let mut stale = Vec::new();
    for _ in 0..20 {
        let first = Payment::start(pool, (1, "k"), &charge(5), NOW)
            .await
            .unwrap();
        stale.push(running(first));
        let ran = Payment::once(pool, (1, "k"), &charge(5), async |tx| book(tx, 5).await);
        assert_eq!(ran.await.unwrap(), Once::Ran(Ok(5)));
        while Payment::purge(pool, NOW).await.unwrap() == 0 {}
    }
    let rightful = running(
        Payment::start(pool, (1, "k"), &charge(5), MINUTE)
            .await
            .unwrap(),
    );
    for stale in stale {
        let late = stale.finish(pool, &Ok(666)).await;
        assert!(matches!(late, Err(AttemptError::TakenOver(_))), "{late:?}");
    }
    rightful.finish(pool, &Ok(5)).await.unwrap();
}
