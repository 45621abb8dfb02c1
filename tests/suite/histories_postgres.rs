//! Histories at the levels that only PostgreSQL has, and while connections are lost.

use std::sync::atomic::Ordering::SeqCst;

use rowlock::tx::TransactionBuilder;
use rowlock_tests::gate::Gate;
use rowlock_tests::proxy::Proxy;
use rowlock_tests::random::Random;
use sqlx::Executor;

use super::histories::{Judge, LISTS, Run};
use super::{Db, PoolOptions, address, database};

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

/// Loses connections in COMMIT, behind it, and anywhere, while all pairs go on.
async fn lose_connections(level: fn(TransactionBuilder<Db>) -> TransactionBuilder<Db>) -> Judge {
    let random = Random::new(22);
    let database = database(LISTS).await;
    let mut gate = Gate::before_commit(&database, "UPDATE", "lists").await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new().max_connections(8);
    let pool = database.pool_through(&proxy, options).await;
    let run = Run::new(&pool, level);
    run.enough.store(false, SeqCst);

    let faults = async {
        let mut aside = database.connection().await;
        for _ in 0..4 {
            // In COMMIT, once surely aborted and once committed: the client cannot know.
            for committed in [false, true] {
                gate.close().await;
                gate.lose_commit(&proxy, committed).await;
            }

            // Wherever it is.
            aside
                .execute(
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
