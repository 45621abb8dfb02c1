//! Histories at the levels that only PostgreSQL has, and while connections are lost.

use std::sync::atomic::Ordering::SeqCst;

use rowlock::TransactionBuilder;
use rowlock_tests::proxy::Proxy;
use rowlock_tests::random::Random;
use sqlx::Executor;

use super::histories::{Judge, LISTS, Run};
use super::{Connection, Db, PoolOptions, address, database};

/// The judge can say no: the same work at lower levels.
#[tokio::test]
async fn naive_twin_lower_levels_have_the_anomalies_that_they_allow() {
    let levels = [
        (
            TransactionBuilder::read_committed as fn(_) -> _,
            "read-committed",
            "snapshot-isolation",
        ),
        (
            TransactionBuilder::repeatable_read,
            "snapshot-isolation",
            "serializable",
        ),
    ];
    for (level, shown, refuted) in levels {
        let random = Random::new(21);
        let database = database(LISTS).await;
        let judge = Run::new(&database.pool, level).contend(random).await;
        judge.shows(shown);
        judge.refutes("serializable");
        judge.refutes(refuted);
    }
}

/// COMMIT of a transaction that wrote to a list waits until the lock on `gate` is free.
const GATE: &str =
    "CREATE TABLE gate (); CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        LOCK TABLE gate IN SHARE MODE; RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON lists DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION wait()";

const WAITS_AT_GATE: &str =
    "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted)";

/// Closes the gate and waits until somebody stands before it, in its COMMIT.
async fn stop_a_commit(gate: &mut Connection) {
    gate.execute(sqlx::raw_sql("BEGIN; LOCK TABLE gate"))
        .await
        .unwrap();
    while !sqlx::query_scalar::<_, bool>(WAITS_AT_GATE)
        .fetch_one(&mut *gate)
        .await
        .unwrap()
    {}
}

/// Loses connections in COMMIT, behind it, and anywhere, while all pairs go on.
async fn lose_connections(level: fn(TransactionBuilder<Db>) -> TransactionBuilder<Db>) -> Judge {
    let random = Random::new(22);
    let database = database(LISTS).await;
    database.pool.execute(sqlx::raw_sql(GATE)).await.unwrap();
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new().max_connections(8);
    let pool = database.pool_through(&proxy, options).await;
    let run = Run::new(&pool, level);
    run.enough.store(false, SeqCst);

    let faults = async {
        let mut gate = database.connection().await;
        for _ in 0..4 {
            // In COMMIT, and surely aborted: the client cannot know.
            stop_a_commit(&mut gate).await;
            gate.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted",
            )
            .await
            .unwrap();
            gate.execute("COMMIT").await.unwrap();

            // In COMMIT, which succeeds, and the client is not told.
            stop_a_commit(&mut gate).await;
            proxy.hold_replies(true);
            gate.execute("COMMIT").await.unwrap();
            proxy.reply_held().await;
            proxy.cut().await;
            proxy.hold_replies(false);

            // Wherever it is.
            gate.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name = current_schema() ORDER BY random() LIMIT 3",
            )
            .await
            .unwrap();
        }
        run.enough.store(true, SeqCst);
    };
    let (judge, ()) = tokio::join!(run.contend(random), faults);
    judge.shows("serializable");
    assert_eq!(database.open_transactions().await, 0);
    judge
}

#[tokio::test]
async fn t_10_t_13_serializable_histories_have_no_anomaly_while_connections_are_lost() {
    let judge = lose_connections(TransactionBuilder::serializable).await;
    let committed = judge.unknown.iter().filter(|value| judge.holds(**value));
    let committed = committed.count();
    println!("{committed} of them were committed");
    assert!((1..judge.unknown.len()).contains(&committed));
}

/// What was committed is not run again, or its value would be in a list twice.
#[tokio::test]
async fn t_11_nor_where_the_server_is_asked_what_became_of_them() {
    lose_connections(|builder| builder.serializable().ask_after_lost_commit()).await;
}
