//! What the explorer is known to find, in numbers that were counted before.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock_explore::{Actor, Ended, Error, Explorer, Verdict};
use rowlock_tests::postgres;
use sqlx::{Connection, PgConnection};

type Result<T> = std::result::Result<T, sqlx::Error>;

fn stock(url: &str) -> Explorer<Result<()>> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL)")
        .setup("DELETE FROM products; INSERT INTO products VALUES (1, 5)")
}

async fn read_modify_write(actor: Actor) -> Result<()> {
    let mut connection = PgConnection::connect(actor.url()).await?;
    let mut tx = connection.begin().await?;
    let stock: i32 = sqlx::query_scalar("SELECT stock FROM products WHERE id = $1")
        .bind(1)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query("UPDATE products SET stock = $1 WHERE id = $2")
        .bind(stock - 1)
        .bind(1)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    connection.close().await
}

#[tokio::test]
async fn read_modify_write_loses_in_40_of_50_schedules() {
    let url = postgres::fresh_url().await;
    let verdict = stock(&url)
        .actor("ann", read_modify_write)
        .actor("bob", read_modify_write)
        .never("SELECT stock FROM products WHERE stock <> 3")
        .exhaustive()
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = verdict.assert_failed();
    assert_eq!(
        (failure.coverage.schedules, failure.coverage.failing),
        (50, 40)
    );
}

#[tokio::test]
async fn the_same_is_found_with_fewer_schedules() {
    let verdict = stock(&postgres::fresh_url().await)
        .actor("ann", read_modify_write)
        .actor("bob", read_modify_write)
        .never("SELECT stock FROM products WHERE stock <> 3")
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = verdict.assert_failed();
    assert_eq!(failure.anomaly(), "lost update");
    println!("{}", failure.coverage);
}

#[tokio::test]
async fn three_actors_with_four_requests_each() {
    let verdict = stock(&postgres::fresh_url().await)
        .actor("ann", read_modify_write)
        .actor("bob", read_modify_write)
        .actor("cal", read_modify_write)
        .never("SELECT stock FROM products WHERE stock <> 2")
        .count_failures()
        .explore()
        .await
        .unwrap();
    let failure = verdict.assert_failed();
    println!("{}", failure.coverage);
}

/// Adds 1 to both rows, in this order.
async fn transfer(actor: Actor, order: [i32; 2]) -> String {
    let mut connection = PgConnection::connect(actor.url()).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let mut code = "done".to_owned();
    for id in order {
        let update = sqlx::query("UPDATE products SET stock = stock + 1 WHERE id = $1").bind(id);
        if let Err(error) = update.execute(&mut *tx).await {
            code = error
                .into_database_error()
                .unwrap()
                .code()
                .unwrap()
                .into_owned();
            break;
        }
    }
    match code.as_str() {
        "done" => tx.commit().await.unwrap(),
        _ => tx.rollback().await.unwrap(),
    }
    connection.close().await.unwrap();
    code
}

#[tokio::test]
async fn deadlocks_are_left_to_the_server_and_are_the_same_each_time() {
    let ends = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&ends);
    let verdict = Explorer::new(postgres::fresh_url().await)
        .max_time(Duration::from_secs(600))
        .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL)")
        .setup("DELETE FROM products; INSERT INTO products VALUES (1, 0), (2, 0)")
        .actor("ann", |actor| transfer(actor, [1, 2]))
        .actor("bob", |actor| transfer(actor, [2, 1]))
        .invariant(move |ended: Ended<String>| {
            let seen = Arc::clone(&seen);
            async move {
                let stock = ended
                    .value("SELECT string_agg(stock::text, ' ') FROM products")
                    .await?;
                let returned: Vec<&String> = ended.returned().collect();
                seen.lock()
                    .unwrap()
                    .insert(format!("{returned:?}: {stock}"));
                Ok::<_, String>(())
            }
        })
        .exhaustive()
        .explore()
        .await
        .unwrap();
    println!("{}", verdict.assert_passed());
    let expected = [
        r#"["40P01", "done"]: 1 1"#,
        r#"["done", "40P01"]: 1 1"#,
        r#"["done", "done"]: 2 2"#,
    ];
    assert_eq!(*ends.lock().unwrap(), expected.map(str::to_owned).into());
}

#[tokio::test]
async fn two_connections_of_one_actor_come_in_any_order() {
    let ends = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&ends);
    let verdict = Explorer::new(postgres::fresh_url().await)
        .max_time(Duration::from_secs(600))
        .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL)")
        .setup("DELETE FROM products; INSERT INTO products VALUES (1, 1)")
        .actor("ann", |actor| async move {
            let change = async |sql: &'static str| {
                let mut connection = PgConnection::connect(actor.url()).await.unwrap();
                sqlx::query(sql).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            };
            tokio::join!(
                change("UPDATE products SET stock = stock * 2"),
                change("UPDATE products SET stock = stock + 3"),
            );
        })
        .invariant(move |ended: Ended<()>| {
            let seen = Arc::clone(&seen);
            async move {
                let stock = ended.value("SELECT stock FROM products").await?;
                seen.lock().unwrap().insert(stock);
                Ok::<_, String>(())
            }
        })
        .explore()
        .await
        .unwrap();
    assert_eq!(verdict.assert_passed().schedules, 2);
    assert_eq!(*ends.lock().unwrap(), ["5", "8"].map(str::to_owned).into());
}

async fn one_read(actor: Actor, id: usize) {
    let mut connection = PgConnection::connect(actor.url()).await.unwrap();
    let sql = sqlx::AssertSqlSafe(format!("SELECT stock FROM products WHERE id = {id}"));
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn reads(url: String) -> Explorer<()> {
    Explorer::new(url)
        .max_time(Duration::from_secs(600))
        .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL)")
}

#[tokio::test]
async fn a_program_that_is_not_the_same_each_time_is_inconclusive() {
    let calls = Arc::new(AtomicUsize::new(0));
    let explorer = reads(postgres::fresh_url().await);
    let verdict = explorer
        .actor("ann", move |actor| {
            one_read(actor, calls.fetch_add(1, Relaxed))
        })
        .actor("bob", |actor| one_read(actor, 0))
        .exhaustive()
        .explore()
        .await
        .unwrap();
    let text = verdict.to_string();
    assert!(matches!(verdict, Verdict::Inconclusive { .. }), "{text}");
    assert!(
        text.starts_with("inconclusive: the program is not the same each time"),
        "{text}"
    );
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_inconclusive() {
    let explorer = reads(postgres::fresh_url().await).max_schedules(2);
    let explorer = explorer.actor("ann", |actor| async move {
        one_read(actor.clone(), 1).await;
        one_read(actor, 2).await;
    });
    let explorer = explorer
        .actor("bob", |actor| one_read(actor, 1))
        .exhaustive();
    let verdict = explorer.explore().await.unwrap();
    let text = verdict.to_string();
    assert!(
        text.starts_with("inconclusive: the budget of 2 schedules is used up"),
        "{text}"
    );
}

#[tokio::test]
async fn requests_that_touch_nothing_in_common_need_one_schedule() {
    let explorer = reads(postgres::fresh_url().await);
    let explorer = explorer
        .actor("ann", |actor| one_read(actor, 1))
        .actor("bob", |actor| one_read(actor, 2));
    assert_eq!(
        explorer.explore().await.unwrap().assert_passed().schedules,
        1
    );
}

#[tokio::test]
async fn a_panic_of_an_actor_fails_the_schedule() {
    let explorer = reads(postgres::fresh_url().await);
    let explorer = explorer.actor("ann", |actor| async move {
        one_read(actor, 1).await;
        panic!("on purpose");
    });
    assert_eq!(
        explorer.explore().await.unwrap().assert_failed().why,
        "ann panicked: on purpose"
    );
}

#[tokio::test]
async fn a_bound_on_preemptions_is_kept() {
    let schedules = async |most: Option<usize>| {
        let explorer = stock(&postgres::fresh_url().await);
        let explorer = explorer
            .actor("ann", read_modify_write)
            .actor("bob", read_modify_write);
        let explorer = match most {
            Some(most) => explorer.preemptions(most),
            None => explorer.exhaustive(),
        };
        explorer.explore().await.unwrap().assert_passed().schedules
    };
    // One after the other; then once in between, after each of the first three or two requests of the first.
    assert_eq!(schedules(Some(0)).await, 2);
    let one = schedules(Some(1)).await;
    assert!((3..50).contains(&one), "{one}");
    assert_eq!(schedules(Some(8)).await, schedules(None).await);
}

/// What is found with the reduction and without it.
async fn both(explorer: impl Fn(String) -> Explorer<String>) -> [Verdict; 2] {
    let reduced = explorer(postgres::fresh_url().await).explore().await;
    let every = explorer(postgres::fresh_url().await)
        .exhaustive()
        .explore()
        .await;
    [reduced.unwrap(), every.unwrap()]
}

#[tokio::test]
async fn either_can_be_the_victim_of_a_deadlock() {
    for victim in ["ann", "bob"] {
        let verdicts = both(|url| {
            Explorer::new(url)
                .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL)")
                .setup("DELETE FROM products; INSERT INTO products VALUES (1, 0), (2, 0)")
                .actor("ann", |actor| transfer(actor, [1, 2]))
                .actor("bob", |actor| transfer(actor, [2, 1]))
                .invariant(move |ended: Ended<String>| async move {
                    let actors = ["ann", "bob"].into_iter().zip(ended.returned());
                    let victims: Vec<_> = actors.filter(|(_, code)| *code != "done").collect();
                    match victims.as_slice() {
                        [(name, _)] if *name == victim => Err(format!("{name} is the victim")),
                        _ => Ok(()),
                    }
                })
        });
        for verdict in verdicts.await {
            verdict.assert_failed();
        }
    }
}

/// One statement after the other, as text: what each returned.
async fn script(actor: Actor, options: &[(&str, &str)], statements: &[&'static str]) -> String {
    let url: sqlx::postgres::PgConnectOptions = actor.url().parse().unwrap();
    let mut connection = PgConnection::connect_with(&url.options(options.iter().copied()))
        .await
        .unwrap();
    let mut results = Vec::new();
    for statement in statements {
        let rows = sqlx::raw_sql(*statement).fetch_all(&mut connection).await;
        results.push(match rows {
            Ok(rows) => {
                let values = rows
                    .iter()
                    .map(|row| sqlx::Row::try_get::<i32, _>(row, 0).map_or(-1, |value| value));
                format!("{:?}", values.collect::<Vec<_>>())
            }
            Err(error) => error
                .into_database_error()
                .unwrap()
                .code()
                .unwrap()
                .into_owned(),
        });
    }
    connection.close().await.unwrap();
    results.join(" ")
}

/// The UPDATE of bob is refused in one order of requests that touch different tables.
async fn is_refused_at_serializable(
    schema: &str,
    settings: &'static [(&'static str, &'static str)],
) {
    let verdicts = both(|url| {
        let explorer = Explorer::new(url)
            .schema(schema)
            .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL); CREATE TABLE orders (id int PRIMARY KEY, n int)")
            .setup("DELETE FROM products; DELETE FROM orders; INSERT INTO products VALUES (1, 0); INSERT INTO orders VALUES (1, 0)");
        explorer
            .actor("ann", move |actor| async move {
                let statements = [
                    "BEGIN",
                    "SELECT stock FROM products WHERE id = 1",
                    "UPDATE orders SET n = 1 WHERE id = 1",
                    "COMMIT",
                ];
                script(actor, settings, &statements).await
            })
            .actor("bob", move |actor| async move {
                let statements = [
                    "BEGIN",
                    "SELECT n FROM orders WHERE id = 1",
                    "UPDATE products SET stock = 1 WHERE id = 1",
                    "COMMIT",
                ];
                script(actor, settings, &statements).await
            })
            .invariant(|ended: Ended<String>| async move {
                let bob = ended.returned().nth(1).unwrap();
                if bob.starts_with("[] [0] 40001") {
                    Err("the UPDATE of bob is refused")
                } else {
                    Ok(())
                }
            })
    });
    for verdict in verdicts.await {
        verdict.assert_failed();
    }
}

#[tokio::test]
async fn a_level_that_the_driver_sets_is_known() {
    is_refused_at_serializable("", &[("default_transaction_isolation", "serializable")]).await;
}

const SERIALIZABLE: &str = "DO $$ BEGIN EXECUTE format(
    'ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database()); END $$";

#[tokio::test]
async fn a_level_that_the_schema_sets_is_known() {
    is_refused_at_serializable(SERIALIZABLE, &[]).await;
}

#[tokio::test]
async fn a_write_skew_passes_at_the_level_that_the_schema_sets() {
    // Each takes a doctor off call who sees that the other one is on.
    let leaves = |one: &'static str, other: &'static str| {
        move |actor: Actor| async move { script(actor, &[], &["BEGIN", other, one, "COMMIT"]).await }
    };
    for level in ["", SERIALIZABLE] {
        let verdicts = both(|url| {
            Explorer::new(url)
                .schema("CREATE TABLE doctors (id int PRIMARY KEY, calls int NOT NULL)")
                .schema(level)
                .setup("DELETE FROM doctors; INSERT INTO doctors VALUES (1, 1), (2, 1)")
                .actor(
                    "ann",
                    leaves(
                        "UPDATE doctors SET calls = 0 WHERE id = 1",
                        "SELECT calls FROM doctors WHERE id = 2",
                    ),
                )
                .actor(
                    "bob",
                    leaves(
                        "UPDATE doctors SET calls = 0 WHERE id = 2",
                        "SELECT calls FROM doctors WHERE id = 1",
                    ),
                )
                .invariant(|ended: Ended<String>| async move {
                    if ended.returned().all(|results| results == "[] [1] [] []") {
                        Err("each has left because the other one was on call")
                    } else {
                        Ok(())
                    }
                })
        });
        for verdict in verdicts.await {
            if level.is_empty() {
                assert_eq!(verdict.assert_failed().anomaly(), "write skew");
            } else {
                verdict.assert_passed();
            }
        }
    }
}

#[tokio::test]
async fn a_transaction_that_is_chained_keeps_its_level() {
    let verdicts = both(|url| {
        Explorer::new(url)
            .schema("CREATE TABLE products (id int PRIMARY KEY, stock int NOT NULL)")
            .setup("DELETE FROM products; INSERT INTO products VALUES (1, 0), (2, 0)")
            .actor("ann", |actor| async move {
                let one = "SELECT stock FROM products WHERE id = 1";
                let two = "SELECT stock FROM products WHERE id = 2";
                let statements = [
                    "BEGIN ISOLATION LEVEL REPEATABLE READ",
                    "COMMIT AND CHAIN",
                    one,
                    two,
                    "COMMIT",
                ];
                script(actor, &[], &statements).await
            })
            .actor("bob", |actor| {
                script(actor, &[], &["UPDATE products SET stock = 1 WHERE id = 2"])
            })
            .invariant(|ended: Ended<String>| async move {
                let ann = ended.returned().next().unwrap();
                if ann.contains("[1]") {
                    Err("ann has seen what bob wrote")
                } else {
                    Ok(())
                }
            })
    });
    for verdict in verdicts.await {
        verdict.assert_failed();
    }
}

#[tokio::test]
async fn a_session_knows_no_setting_of_another_one() {
    let verdict = reads(postgres::fresh_url().await)
        .actor("ann", |actor| async move {
            let mut connection = PgConnection::connect(actor.url()).await.unwrap();
            let set = "SELECT set_config('shop.tenant', '7', false)";
            sqlx::query(set).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        })
        .actor("bob", |actor| async move {
            let mut connection = PgConnection::connect(actor.url()).await.unwrap();
            let unknown = "SELECT current_setting('shop.tenant', true) IS NULL";
            assert!(
                sqlx::query_scalar::<_, bool>(unknown)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap()
            );
            connection.close().await.unwrap();
        })
        .exhaustive()
        .explore()
        .await
        .unwrap();
    assert_eq!(verdict.assert_passed().schedules, 2);
}

#[tokio::test]
async fn a_replay_of_another_program_is_an_error() {
    for (schedule, why) in [
        ("a.a.a", "all actors have returned before it"),
        ("b", "this actor has no request there"),
    ] {
        let explorer = reads(postgres::fresh_url().await).actor("ann", |actor| one_read(actor, 1));
        let error = explorer.replay(schedule).explore().await.unwrap_err();
        assert!(error.to_string().ends_with(why), "{error}");
    }
}

#[tokio::test]
async fn a_failure_without_a_request_is_replayed() {
    let explorer = async || {
        let explorer = reads(postgres::fresh_url().await).actor("ann", |_| async {});
        explorer.invariant(|_: Ended<()>| async { Err::<(), _>("on purpose") })
    };
    let failure = explorer().await.explore().await.unwrap().assert_failed();
    let again = explorer()
        .await
        .replay(&failure.schedule)
        .explore()
        .await
        .unwrap();
    assert_eq!(again.assert_failed().why, "on purpose");
}

#[tokio::test]
async fn an_actor_that_asks_for_ever_is_inconclusive() {
    let explorer = stock(&postgres::fresh_url().await).max_time(Duration::from_millis(300));
    let explorer = explorer
        .actor("ann", |actor| async move {
            let mut connection = PgConnection::connect(actor.url()).await?;
            while sqlx::query_scalar::<_, i32>("SELECT stock FROM products")
                .fetch_one(&mut connection)
                .await?
                == 5
            {}
            connection.close().await
        })
        .actor("bob", read_modify_write);
    let text = explorer.explore().await.unwrap().to_string();
    assert!(text.contains("requests and no end"), "{text}");
}

#[tokio::test]
async fn an_invariant_that_panics_shows_the_schedule() {
    let explorer = reads(postgres::fresh_url().await).actor("ann", |actor| one_read(actor, 1));
    let explorer = explorer.invariant(|_: Ended<()>| async move {
        assert_eq!(1, 2, "on purpose");
        Ok::<_, String>(())
    });
    let failure = explorer.explore().await.unwrap().assert_failed();
    assert!(
        failure.why.starts_with("an invariant panicked: ") && failure.why.contains("on purpose"),
        "{failure}"
    );
}

#[tokio::test]
async fn an_invariant_that_never_returns_shows_the_schedule() {
    let explorer = stock(&postgres::fresh_url().await)
        .actor("ann", read_modify_write)
        .actor("bob", read_modify_write)
        // For a minute, and on the connection on which the explorer then looks for a simpler failure.
        .invariant(|ended: Ended<Result<()>>| async move {
            let sleep = "SELECT pg_sleep(60) FROM products WHERE stock <> 3";
            ended.rows(sleep).await.map(drop)
        })
        .max_time(Duration::from_secs(1));
    let explored = tokio::time::timeout(Duration::from_secs(40), explorer.explore()).await;
    let failure = explored.expect("it ends").unwrap().assert_failed();
    assert_eq!(failure.why, "an invariant has not returned after 10s");
    assert_eq!(failure.anomaly(), "lost update");
}

#[tokio::test]
async fn an_error_of_a_replay_has_the_step_as_it_was_written() {
    for (schedule, wrong) in [
        ("z", "z"),
        ("a1", "a1"),
        ("a09.a", "a09"),
        ("b!cut-after", "b!cut-after"),
        ("a.a2.a", "a2"),
        ("a.x!", "x!"),
    ] {
        let explorer = reads(postgres::fresh_url().await).actor("ann", |actor| one_read(actor, 1));
        let error = explorer.replay(schedule).explore().await.unwrap_err();
        assert!(
            matches!(&error, Error::Replay { step, .. } if step == wrong),
            "{schedule}: {error}"
        );
    }
}

#[tokio::test]
async fn nothing_is_known_where_no_actor_sends_a_request() {
    let own = postgres::fresh_url().await;
    let url = own.clone();
    for explorer in [
        reads(postgres::fresh_url().await),
        reads(postgres::fresh_url().await).actor("ann", |_| async {}),
        reads(postgres::fresh_url().await).actor("ann", |actor| async move {
            let connection = PgConnection::connect(actor.url()).await.unwrap();
            connection.close().await.unwrap();
        }),
        // The URL of the database, by mistake.
        reads(url).actor("ann", move |_| {
            let url = own.clone();
            async move {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                let update = "UPDATE products SET stock = stock + 1";
                sqlx::query(update).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }),
        reads(postgres::fresh_url().await).replay(""),
    ] {
        let verdict = explorer.explore().await.unwrap().to_string();
        assert!(
            verdict.starts_with("inconclusive: no actor sent a request"),
            "{verdict}"
        );
    }
}
