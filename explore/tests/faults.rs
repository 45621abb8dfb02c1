//! What is broken is broken where it is said to be, and nowhere else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock_explore::{Actor, Ended, Explorer, Fault};
use rowlock_tests::postgres::{self, Server};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

type Result<T> = std::result::Result<T, sqlx::Error>;

const SCHEMA: &str = "CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL)";
const SETUP: &str = "DELETE FROM accounts; INSERT INTO accounts VALUES (1, 0)";

async fn pool(actor: &Actor) -> PgPool {
    let options = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(2));
    options.connect(actor.url()).await.unwrap()
}

async fn add(pool: &PgPool) -> Result<()> {
    sqlx::query("UPDATE accounts SET n = n + 1")
        .execute(pool)
        .await
        .map(drop)
}

/// What an actor has seen, and what is stored after it, for each fault.
async fn ends<T, F>(
    play: fn(Actor) -> F,
    faults: impl IntoIterator<Item = Fault>,
) -> BTreeSet<String>
where
    T: std::fmt::Debug + Send + Sync + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let ends = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&ends);
    let explorer = Explorer::new(postgres::fresh_url().await)
        .schema(SCHEMA)
        .setup(SETUP)
        .faults(faults);
    let explorer = explorer
        .actor("ann", play)
        .invariant(move |ended: Ended<T>| {
            let seen = Arc::clone(&seen);
            async move {
                let stored = ended.value("SELECT n FROM accounts").await?;
                let returned: Vec<&T> = ended.returned().collect();
                seen.lock()
                    .unwrap()
                    .insert(format!("{:?}: {returned:?}, {stored} stored", ended.faults));
                Ok::<_, String>(())
            }
        });
    explorer.explore().await.unwrap().assert_passed();
    ends.lock().unwrap().clone()
}

fn list<const N: usize>(items: [&str; N]) -> BTreeSet<String> {
    items.map(str::to_owned).into()
}

#[tokio::test]
async fn a_cut_is_before_or_after_the_server() {
    let play = |actor: Actor| async move {
        let pool = pool(&actor).await;
        let acknowledged = add(&pool).await.is_ok();
        pool.close().await;
        acknowledged
    };
    let faults = [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::CutInAnswer,
        Fault::Terminated,
    ];
    let expected = list([
        "[]: [true], 1 stored",
        "[CutAfter]: [false], 1 stored",
        "[CutBefore]: [false], 0 stored",
        "[CutInAnswer]: [false], 1 stored",
        "[Terminated]: [false], 0 stored",
    ]);
    assert_eq!(ends(play, faults).await, expected);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_given_up_by_the_program() {
    let play = |actor: Actor| async move {
        let pool = pool(&actor).await;
        let added = tokio::time::timeout(Duration::from_millis(100), add(&pool)).await;
        added.is_ok_and(|added| added.is_ok())
    };
    let expected = list(["[]: [true], 1 stored", "[Stalled]: [false], 1 stored"]);
    assert_eq!(ends(play, [Fault::Stalled]).await, expected);
}

#[tokio::test]
async fn a_transaction_is_cut_at_each_of_its_requests() {
    let play = |actor: Actor| async move {
        let mut connection = PgConnection::connect(actor.url()).await.unwrap();
        let mut failed_at = "nothing";
        if sqlx::raw_sql("BEGIN")
            .execute(&mut connection)
            .await
            .is_err()
        {
            failed_at = "BEGIN";
        } else if sqlx::query("UPDATE accounts SET n = n + 1")
            .execute(&mut connection)
            .await
            .is_err()
        {
            failed_at = "UPDATE";
        } else if sqlx::raw_sql("COMMIT")
            .execute(&mut connection)
            .await
            .is_err()
        {
            failed_at = "COMMIT";
        }
        let _ = connection.close().await;
        failed_at
    };
    let expected = list([
        r#"[]: ["nothing"], 1 stored"#,
        r#"[CutAfter]: ["BEGIN"], 0 stored"#,
        r#"[CutAfter]: ["COMMIT"], 1 stored"#,
        r#"[CutAfter]: ["UPDATE"], 0 stored"#,
        r#"[CutBefore]: ["BEGIN"], 0 stored"#,
        r#"[CutBefore]: ["COMMIT"], 0 stored"#,
        r#"[CutBefore]: ["UPDATE"], 0 stored"#,
    ]);
    assert_eq!(
        ends(play, [Fault::CutBefore, Fault::CutAfter]).await,
        expected
    );
}

#[tokio::test]
async fn a_retry_of_what_is_not_known_is_found() {
    let explorer = Explorer::new(postgres::fresh_url().await)
        .schema(SCHEMA)
        .setup(SETUP);
    let verdict = explorer
        .actor("ann", |actor| async move {
            let pool = pool(&actor).await;
            for _ in 0..2 {
                if add(&pool).await.is_ok() {
                    break;
                }
            }
            pool.close().await;
        })
        .faults([Fault::CutBefore, Fault::CutAfter])
        .never("SELECT n FROM accounts WHERE n <> 1")
        .explore()
        .await
        .unwrap();
    let failure = verdict.assert_failed();
    assert!(failure.schedule.contains("!cut-after"), "{failure}");
    let again = Explorer::new(postgres::fresh_url().await)
        .schema(SCHEMA)
        .setup(SETUP);
    let again = again.actor("ann", |actor| async move {
        let pool = pool(&actor).await;
        while add(&pool).await.is_err() {}
        pool.close().await;
    });
    let again = again
        .never("SELECT n FROM accounts WHERE n <> 1")
        .replay(&failure.schedule);
    assert_eq!(
        again.explore().await.unwrap().assert_failed().why,
        failure.why
    );
}

#[tokio::test]
async fn a_future_is_dropped_before_or_after_the_server() {
    let play = |actor: Actor| async move {
        let pool = pool(&actor).await;
        let first = actor.may_drop(add(&pool)).await.map(|added| added.is_ok());
        // The pool is as good as new.
        let second = actor.may_drop(add(&pool)).await.map(|added| added.is_ok());
        pool.close().await;
        (first, second)
    };
    let expected = list([
        "[]: [(Some(true), Some(true))], 2 stored",
        "[DroppedAfter]: [(None, Some(true))], 2 stored",
        "[DroppedAfter]: [(Some(true), None)], 2 stored",
        "[DroppedBefore]: [(None, Some(true))], 2 stored",
        "[DroppedBefore]: [(Some(true), None)], 2 stored",
    ]);
    assert_eq!(
        ends(play, [Fault::DroppedBefore, Fault::DroppedAfter]).await,
        expected
    );
}

#[tokio::test]
async fn a_lease_runs_out_when_the_clock_is_stepped() {
    let play = |actor: Actor| async move {
        let pool = pool(&actor).await;
        let lease: (f64, f64) = sqlx::query_as(
            "SELECT extract(epoch FROM clock_timestamp() - pg_catalog.clock_timestamp())::float8,
                    extract(epoch FROM now() - pg_catalog.now())::float8",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        pool.close().await;
        (lease.0.round() as i32, lease.1.round() as i32)
    };
    let expected = list([
        "[]: [(0, 0)], 0 stored",
        "[Clock(60s)]: [(60, 60)], 0 stored",
    ]);
    assert_eq!(
        ends(play, [Fault::Clock(Duration::from_secs(60))]).await,
        expected
    );
}

#[tokio::test]
async fn a_server_is_restarted_between_two_requests() {
    let server = Arc::new(Mutex::new(Server::start()));
    // What the test server does without would lose acknowledged writes in a crash.
    let url = server.lock().unwrap().url() + "&options=-c%20synchronous_commit%3Don";
    let verdict = Explorer::new(url)
        .schema(SCHEMA)
        .setup(SETUP)
        .actor("ann", |actor| async move {
            let pool = pool(&actor).await;
            let acknowledged = [add(&pool).await.is_ok(), add(&pool).await.is_ok()];
            pool.close().await;
            acknowledged
                .into_iter()
                .filter(|acknowledged| *acknowledged)
                .count()
        })
        .restart(move || {
            let server = Arc::clone(&server);
            async move {
                let mut server = server.lock().unwrap();
                server.crash();
                server.restart();
                Ok::<_, String>(())
            }
        })
        .faults([Fault::Restarted])
        .invariant(|ended| async move {
            let acknowledged = ended.returned().sum::<usize>().to_string();
            let stored = ended.value("SELECT n FROM accounts").await?;
            let expected = if ended.faults.is_empty() { "2" } else { "1" };
            match (acknowledged == stored, stored == expected) {
                (true, true) => Ok(()),
                _ => Err(format!(
                    "{acknowledged} acknowledged, {stored} stored with {:?}",
                    ended.faults
                )),
            }
        })
        .explore()
        .await
        .unwrap();
    assert_eq!(verdict.assert_passed().schedules, 3);
}

#[tokio::test]
async fn an_exploration_that_is_dropped_leaves_nobody() {
    let url = postgres::fresh_url().await;
    let (begun, mut begins) =
        tokio::sync::mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<()>>();
    let explorer = Explorer::new(&url).schema(SCHEMA).setup(SETUP);
    let explorer = explorer.actor("ann", move |actor| {
        let begun = begun.clone();
        async move {
            let mut connection = PgConnection::connect(actor.url()).await.unwrap();
            sqlx::raw_sql("BEGIN; UPDATE accounts SET n = 1")
                .execute(&mut connection)
                .await
                .unwrap();
            // Dropped with the actor.
            let (lives, dies) = tokio::sync::oneshot::channel();
            begun.send(lives).unwrap();
            let _ = dies.await;
        }
    });
    let exploration = tokio::spawn(explorer.explore());
    let lives = begins.recv().await.unwrap();
    exploration.abort();
    let mut lives = lives;
    lives.closed().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    // Waits for the session of the actor to end.
    sqlx::query("UPDATE accounts SET n = 2")
        .execute(&mut connection)
        .await
        .unwrap();
}
