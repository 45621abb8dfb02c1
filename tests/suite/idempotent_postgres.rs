//! `#[derive(Idempotent)]` where connections die, and where poolers and other isolation levels are in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rowlock::idempotent::{Once, OnceError, StartError, Started};
use rowlock::tx::TransactionError;
use rowlock::{Idempotent, Tx};
use rowlock_tests::gate::Gate;
use rowlock_tests::proxy::Proxy;
use sqlx::{Executor, Postgres};
use tokio::sync::Notify;

use super::idempotent::soon;
use super::{Database, PoolOptions, address, database};

#[derive(sqlx::FromRow, Idempotent)]
#[rowlock(table = "payments", backend(Postgres))]
struct Payment {
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    request: Vec<u8>,
    #[rowlock(outcome)]
    charged: Option<i64>,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    leased_until: chrono::DateTime<chrono::Utc>,
    #[rowlock(finished)]
    finished_at: Option<chrono::DateTime<chrono::Utc>>,
}

const PAYMENTS: &str =
    "CREATE TABLE payments (key text PRIMARY KEY, request bytea NOT NULL, charged bigint,
        fence bigint NOT NULL, leased_until timestamptz NOT NULL, finished_at timestamptz);
    CREATE TABLE charges (cents bigint NOT NULL)";

const MINUTE: Duration = Duration::from_secs(60);

async fn book(tx: &mut Tx<Postgres>) -> Result<i64, sqlx::Error> {
    sqlx::query("INSERT INTO charges VALUES (5)")
        .execute(&mut **tx)
        .await?;
    Ok(5)
}

async fn charges(database: &Database) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM charges")
        .fetch_one(&mut database.connection().await)
        .await
        .unwrap()
}

/// The server kills the connection in the middle: nothing of the attempt is left, and it is run again.
#[tokio::test]
async fn a_killed_connection_is_a_failed_attempt() {
    let database = database(PAYMENTS).await;
    let runs = AtomicU32::new(0);
    let outcome = Payment::once(&database.pool, "k", &5, async |tx| {
        let charged = book(tx).await?;
        if runs.fetch_add(1, Ordering::SeqCst) == 0 {
            sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())")
                .execute(&mut **tx)
                .await?;
        }
        Ok::<_, sqlx::Error>(charged)
    });
    assert_eq!(outcome.await.unwrap(), Once::Ran(5));
    assert_eq!(
        (runs.load(Ordering::SeqCst), charges(&database).await),
        (2, 1)
    );
}

/// The connection is lost during COMMIT. Nobody knows, and the next call with the key finds out.
#[tokio::test]
async fn after_a_lost_commit_the_next_call_finds_out() {
    for committed in [false, true] {
        let database = database(PAYMENTS).await;
        let proxy = Proxy::start(&address()).await;
        let pool = database.pool_through(&proxy, PoolOptions::new()).await;
        let mut gate = Gate::before_commit(&database, "INSERT", "charges").await;
        gate.close().await;
        let run =
            tokio::spawn(
                async move { Payment::once(&pool, "k", &5, async |tx| book(tx).await).await },
            );
        gate.lose_commit(&proxy, committed).await;
        let outcome = run.await.unwrap();
        assert!(
            matches!(
                outcome,
                Err(OnceError::Transaction(TransactionError::CommitUnknown(_)))
            ),
            "{outcome:?}"
        );
        let again = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await).wait(MINUTE);
        let expected = if committed {
            Once::Replayed(5)
        } else {
            Once::Ran(5)
        };
        assert_eq!(again.await.unwrap(), expected);
        assert_eq!(charges(&database).await, 1);
    }
}

/// The holder's process vanishes with its transaction open: as soon as the server knows, the next caller runs.
#[tokio::test]
async fn the_death_of_the_holder_frees_the_key() {
    let database = Arc::new(database(PAYMENTS).await);
    let inside = Arc::new(Notify::new());
    let holder = tokio::spawn({
        let (pool, inside) = (database.pool.clone(), inside.clone());
        async move {
            Payment::once(&pool, "k", &5, async |tx| {
                book(tx).await?;
                inside.notify_one();
                std::future::pending::<()>().await;
                Ok::<_, sqlx::Error>(5)
            })
            .await
        }
    });
    inside.notified().await;
    let busy = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await);
    assert_eq!(soon(busy).await.unwrap(), Once::Busy);
    holder.abort();
    let next = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await).wait(MINUTE);
    assert_eq!(next.await.unwrap(), Once::Ran(5));
    assert_eq!(charges(&database).await, 1);
}

/// With the strictest default isolation each claim still sees what was committed before it.
#[tokio::test]
async fn a_strict_default_isolation_does_not_matter() {
    let database = database(PAYMENTS).await;
    let strict = database
        .options()
        .options([("default_transaction_isolation", "serializable")]);
    let pool = PoolOptions::new()
        .max_connections(8)
        .connect_with(strict)
        .await
        .unwrap();
    let calls =
        (0..8).map(|_| Payment::once(&pool, "k", &5, async |tx| book(tx).await).wait(MINUTE));
    let outcomes = futures_util::future::join_all(calls.map(IntoFuture::into_future)).await;
    let ran = outcomes
        .into_iter()
        .map(Result::unwrap)
        .filter(|outcome| matches!(outcome, Once::Ran(5)));
    assert_eq!((ran.count(), charges(&database).await), (1, 1));
    let started = Payment::start(&pool, "k2", &5, MINUTE).await.unwrap();
    assert!(matches!(started, Started::Running(_)));
}

/// No advisory lock is left behind, whatever happened.
#[tokio::test]
async fn no_lock_is_left() {
    let database = database(PAYMENTS).await;
    let pool = &database.pool;
    let calls = (0..64).map(|index| async move {
        let key = if index % 2 == 0 { "a" } else { "b" };
        let call = Payment::once(pool, key, &5, async |tx| {
            let charged = book(tx).await?;
            if index % 3 == 0 {
                return Err(sqlx::Error::RowNotFound);
            }
            Ok(charged)
        });
        call.await
    });
    futures_util::future::join_all(calls).await;
    assert!(charges(&database).await <= 2);
    let locks: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
         WHERE locktype = 'advisory' AND application_name = current_setting('application_name')",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!(locks, 0);
}

/// BEGIN, the claim, the outcome, COMMIT, and what the closure does in between.
#[tokio::test]
async fn four_round_trips_and_a_replay_takes_as_many() {
    let database = database(PAYMENTS).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let pool = database.pool_through(&proxy, options).await;
    let trips = async |key: &str, expected: Once<i64>| {
        // The pool pings a connection that comes back, before it is idle.
        while pool.num_idle() == 0 {
            tokio::task::yield_now().await;
        }
        proxy.reset();
        let outcome = Payment::once(&pool, key, &5, async |_| Ok::<_, sqlx::Error>(5));
        assert_eq!(outcome.await.unwrap(), expected);
        let trips = proxy.round_trips();
        let statements = proxy.statements();
        (trips, statements)
    };
    // Prepared once.
    trips("a", Once::Ran(5)).await;
    trips("a", Once::Replayed(5)).await;
    assert_eq!(trips("b", Once::Ran(5)).await, (4, 0));
    // BEGIN, the claim that claims nothing, the look at the row, ROLLBACK.
    assert_eq!(trips("b", Once::Replayed(5)).await, (4, 0));
}

/// PostgreSQL gives the transaction up, and the closure does not notice.
#[tokio::test]
async fn an_error_that_the_closure_swallowed_is_not_an_outcome() {
    let database = database(PAYMENTS).await;
    let outcome = Payment::once(&database.pool, "k", &5, async |tx| {
        book(tx).await?;
        let _ = tx.execute("SELECT nonsense").await;
        Ok::<_, sqlx::Error>(5)
    });
    let outcome = outcome.await;
    assert!(
        matches!(
            outcome,
            Err(OnceError::Transaction(TransactionError::Aborted(_)))
        ),
        "{outcome:?}"
    );
    let next = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await);
    assert_eq!(next.await.unwrap(), Once::Ran(5));
    assert_eq!(charges(&database).await, 1);
}

/// Whoever asks does not wait for a transaction that finishes.
#[tokio::test]
async fn start_does_not_wait_for_finish() {
    let database = database(PAYMENTS).await;
    let pool = &database.pool;
    for (key, lease) in [("leased", MINUTE), ("over", Duration::ZERO)] {
        let Started::Running(running) = Payment::start(pool, key, &5, lease).await.unwrap() else {
            panic!("nobody else has the key");
        };
        let mut tx = pool.begin().await.unwrap();
        running.finish(&mut *tx, &5).await.unwrap();
        let started = soon(Payment::start(pool, key, &5, MINUTE)).await.unwrap();
        assert!(matches!(started, Started::Busy), "{key}: {started:?}");
        let busy = Payment::once(pool, key, &5, async |tx| book(tx).await);
        assert_eq!(soon(busy).await.unwrap(), Once::Busy);
        tx.commit().await.unwrap();
        let started = Payment::start(pool, key, &5, MINUTE).await.unwrap();
        assert!(
            matches!(started, Started::Replayed(5)),
            "{key}: {started:?}"
        );
    }
}

/// A trigger, or the column's type, changes the key on its way in.
#[tokio::test]
async fn a_key_that_is_stored_as_another_one_is_an_error() {
    let lower = "CREATE FUNCTION lower_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.key := lower(NEW.key); RETURN NEW; END $$;
        CREATE TRIGGER lower_key BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION lower_key()";
    let dropped = "CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER drop_row BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION drop_row()";
    let padded = "ALTER TABLE payments ALTER key TYPE char(10)";
    for (what, ddl) in [("lower", lower), ("dropped", dropped), ("padded", padded)] {
        let database = database(&format!("{PAYMENTS}; {ddl}")).await;
        let key = if what == "padded" { "k " } else { "K" };
        let started = Payment::start(&database.pool, key, &5, MINUTE).await;
        assert!(
            matches!(started, Err(StartError::KeyTaken(_))),
            "{what}: {started:?}"
        );
        for _ in 0..2 {
            let outcome = Payment::once(&database.pool, key, &5, async |tx| book(tx).await).await;
            assert!(
                matches!(outcome, Err(OnceError::KeyTaken(_))),
                "{what}: {outcome:?}"
            );
        }
        assert_eq!(charges(&database).await, 0, "{what}");
    }
}

/// It is padded, and compared without the padding.
#[tokio::test]
async fn a_key_in_a_column_of_fixed_length_is_itself() {
    let padded = "ALTER TABLE payments ALTER key TYPE char(10)";
    let database = database(&format!("{PAYMENTS}; {padded}")).await;
    for expected in [Once::Ran(5), Once::Replayed(5)] {
        let outcome = Payment::once(&database.pool, "q", &5, async |tx| book(tx).await).await;
        assert_eq!(outcome.unwrap(), expected);
    }
}

/// The loser of a race in a strict isolation learns what the winner did, and not only that it lost.
#[tokio::test]
async fn start_in_a_strict_default_isolation() {
    let database = database(PAYMENTS).await;
    let strict = database
        .options()
        .options([("default_transaction_isolation", "serializable")]);
    let pool = PoolOptions::new()
        .max_connections(8)
        .connect_with(strict)
        .await
        .unwrap();
    for round in 0..40 {
        let key = format!("k{round}");
        let starts = (0..8).map(|_| Payment::start(&pool, &key, &5, MINUTE));
        let started = futures_util::future::join_all(starts).await;
        let running = started
            .into_iter()
            .map(Result::unwrap)
            .filter(|started| matches!(started, Started::Running(_)));
        assert_eq!(running.count(), 1);
    }
}

mod processes {
    //! Holders that die or stop as processes.

    use rowlock::idempotent::AttemptError;
    use rowlock::transaction;
    use rowlock_tests::postgres::url;
    use rowlock_tests::process::{self, Process};
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    async fn schema(database: &Database) -> String {
        sqlx::query_scalar("SELECT current_schema()::text")
            .fetch_one(&database.pool)
            .await
            .unwrap()
    }

    fn start(what: &str, lease: Duration, schema: &str) -> Process {
        let argument = format!("{what} {} {schema} {}", lease.as_millis(), url());
        Process::start(
            "postgres::idempotent_postgres::processes::holder",
            &argument,
        )
    }

    /// The process: begins the work, and waits.
    #[tokio::test]
    async fn holder() {
        let Some(argument) = process::argument() else {
            return;
        };
        let [what, lease, schema, url] = argument.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{argument}");
        };
        let options: PgConnectOptions = url.parse().unwrap();
        let options = options.options([("search_path", schema)]);
        let pool = PoolOptions::new().connect_with(options).await.unwrap();
        if what == "once" {
            let outcome = Payment::once(&pool, "k", &5, async |tx| {
                let charged = book(tx).await?;
                process::say("charged");
                process::listen().await;
                Ok::<_, sqlx::Error>(charged)
            });
            let _ = outcome.await.unwrap();
            return;
        }
        let lease = Duration::from_millis(lease.parse().unwrap());
        let Started::Running(running) = Payment::start(&pool, "k", &5, lease).await.unwrap() else {
            panic!("nobody else has the key");
        };
        process::say("started");
        process::listen().await;
        let done = transaction(&pool)
            .run(async |tx| {
                book(tx).await.unwrap();
                running.finish(&mut *tx, &5).await
            })
            .await;
        let taken_over = matches!(
            done,
            Err(TransactionError::Failed(AttemptError::TakenOver(_)))
        );
        process::say(if taken_over { "refused" } else { "finished" });
    }

    /// kill -9 inside the transaction of `once`: nothing is left of it, and nobody waits for a lease.
    #[tokio::test]
    async fn a_process_killed_in_once() {
        let database = database(PAYMENTS).await;
        let mut holder = start("once", MINUTE, &schema(&database).await);
        assert_eq!(holder.says(), "charged");
        let busy = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await);
        assert_eq!(soon(busy).await.unwrap(), Once::Busy);
        holder.kill();
        let next = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await).wait(MINUTE);
        assert_eq!(next.await.unwrap(), Once::Ran(5));
        assert_eq!(charges(&database).await, 1);
    }

    /// kill -9 between `start` and `finish`: the key is free when the lease ends, and not before.
    #[tokio::test]
    async fn a_process_killed_with_a_lease() {
        let database = database(PAYMENTS).await;
        let mut holder = start("start", MINUTE, &schema(&database).await);
        assert_eq!(holder.says(), "started");
        holder.kill();
        let busy = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await);
        assert_eq!(soon(busy).await.unwrap(), Once::Busy);
        // The minute passes.
        database
            .pool
            .execute("UPDATE payments SET leased_until = clock_timestamp()")
            .await
            .unwrap();
        let next = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await).wait(MINUTE);
        assert_eq!(next.await.unwrap(), Once::Ran(5));
        assert_eq!(charges(&database).await, 1);
    }

    /// SIGSTOP beyond the lease: it wakes up, books, and is refused with all that it wrote.
    #[tokio::test]
    async fn a_process_stopped_beyond_its_lease() {
        let database = database(PAYMENTS).await;
        let mut holder = start(
            "start",
            Duration::from_millis(300),
            &schema(&database).await,
        );
        assert_eq!(holder.says(), "started");
        holder.stop();
        let next = Payment::once(&database.pool, "k", &5, async |tx| book(tx).await).wait(MINUTE);
        assert_eq!(next.await.unwrap(), Once::Ran(5));
        holder.resume();
        holder.tell("go on");
        assert_eq!(holder.says(), "refused");
        assert!(holder.ends_well());
        assert_eq!(charges(&database).await, 1);
    }
}
