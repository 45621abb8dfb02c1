//! What is broken is broken where it is said to be, and nowhere else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock_explore::{Actor, Ended, Error, Explorer, Fault, Verdict};
use rowlock_tests::postgres::{self, Server};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
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
            "SELECT extract(epoch FROM clock_timestamp() - CURRENT_TIMESTAMP)::float8,
                    extract(epoch FROM now() - CURRENT_TIMESTAMP)::float8",
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

/// A lease of a minute, and an actor that takes it when it has run out by this clock; before that, it sends `first`.
async fn thief(
    parameters: &str,
    path: Option<&'static str>,
    first: &'static str,
    clock: &'static str,
) -> Verdict {
    let url = postgres::fresh_url().await + parameters;
    let explorer = Explorer::new(url)
        .schema("CREATE TABLE leases (ends timestamptz, owner text)")
        .setup("DELETE FROM leases; INSERT INTO leases VALUES (now() + interval '1 minute', 'ann')")
        .faults([Fault::Clock(Duration::from_secs(61))])
        .never("SELECT owner FROM leases WHERE owner = 'bob'");
    let explorer = explorer.actor("bob", move |actor| async move {
        let mut options: PgConnectOptions = actor.url().parse().unwrap();
        if let Some(path) = path {
            options = options.options([("search_path", path)]);
        }
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        let update = format!("UPDATE leases SET owner = 'bob' WHERE ends < {clock}(); COMMIT");
        for sql in [first, &update] {
            let sql = sqlx::AssertSqlSafe(sql.to_owned());
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
    });
    explorer.explore().await.unwrap()
}

#[tokio::test]
async fn a_session_that_reads_another_clock_is_inconclusive() {
    let path = "search_path, so the clock that was stepped is not the one it reads";
    let name = "calls a clock by its full name, which is not the one that was stepped";
    for (first, clock, why) in [
        ("SET search_path = public", "now", path),
        ("BEGIN; SET LOCAL search_path = public", "now", path),
        (
            "SELECT set_config('search_path', 'public', false)",
            "now",
            path,
        ),
        ("SET SCHEMA 'public'", "now", path),
        ("SELECT 1", "pg_catalog.now", name),
        ("SELECT 1", "pg_catalog.clock_timestamp", name),
        ("SELECT 1", "\"pg_catalog\" . statement_timestamp", name),
    ] {
        let verdict = thief("", None, first, clock).await;
        let Verdict::Inconclusive { why: text, .. } = &verdict else {
            panic!("{first}, {clock}: {verdict}");
        };
        assert!(text.ends_with(why), "{first}, {clock}: {text}");
    }
    let verdict = thief("", Some("public"), "SELECT 1", "now").await;
    let verdict = verdict.to_string();
    assert!(
        verdict.starts_with("inconclusive: ") && verdict.contains(path),
        "{verdict}"
    );
}

#[tokio::test]
async fn a_session_that_keeps_its_search_path_reads_the_clock() {
    for (parameters, first) in [
        ("", "SELECT 1"),
        ("", "SHOW search_path"),
        ("", "SELECT set_config('shop.tenant', '7', false)"),
        ("?options=-csearch_path%3Dpublic,pg_catalog", "SELECT 1"),
    ] {
        let verdict = thief(parameters, None, first, "now").await;
        verdict.assert_failed();
    }
}

#[tokio::test]
async fn a_restart_without_a_way_to_do_it_is_an_error() {
    let explorer =
        || Explorer::new("postgres://nobody@127.0.0.1:1/nowhere").actor("ann", |_| async {});
    for explorer in [
        explorer().faults([Fault::CutAfter, Fault::Restarted]),
        explorer().replay("a!restarted"),
    ] {
        let error = explorer.explore().await.unwrap_err();
        assert!(matches!(error, Error::NoRestart), "{error}");
        assert!(error.to_string().contains(".restart"), "{error}");
    }
}

#[tokio::test]
async fn a_step_of_the_clock_is_replayed_without_the_list_of_faults() {
    let explorer = Explorer::new(postgres::fresh_url().await)
        .schema(SCHEMA)
        .setup(SETUP)
        .actor("ann", |actor| async move {
            let pool = pool(&actor).await;
            let update = "UPDATE accounts SET n = extract(epoch FROM now() - CURRENT_TIMESTAMP)";
            sqlx::query(update).execute(&pool).await.unwrap();
            pool.close().await;
        })
        .never("SELECT n FROM accounts WHERE n = 61")
        .replay("a!clock=61s");
    explorer.explore().await.unwrap().assert_failed();
}

#[tokio::test]
async fn a_restart_that_never_returns_is_an_error() {
    let explorer = Explorer::new(postgres::fresh_url().await)
        .schema(SCHEMA)
        .setup(SETUP)
        .actor("ann", |actor| async move {
            let pool = pool(&actor).await;
            let _ = add(&pool).await;
            pool.close().await;
        })
        .restart(std::future::pending::<std::result::Result<(), String>>)
        .faults([Fault::Restarted])
        .max_time(Duration::from_secs(1));
    let explored = tokio::time::timeout(Duration::from_secs(60), explorer.explore()).await;
    let error = explored.expect("it ends").unwrap_err();
    assert!(
        matches!(&error, Error::Restart(why) if why == "it has not returned after 10s"),
        "{error}"
    );
}
