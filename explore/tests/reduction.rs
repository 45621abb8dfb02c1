//! What the reduction leaves out changes nothing: random programs end in the same ways with it and without it.
//!
//! `ROWLOCK_PROGRAMS=200 cargo test -p rowlock-explore --test reduction` for more of them.

use std::collections::BTreeSet;
use std::env;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock_explore::{Actor, Ended, Explorer};
use rowlock_tests::postgres;
use rowlock_tests::random::Random;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

const SCHEMA: &str = "
    CREATE TABLE one (id int PRIMARY KEY, n int NOT NULL);
    CREATE TABLE two (id int PRIMARY KEY, n int NOT NULL, code text UNIQUE);
    CREATE TABLE child (id int PRIMARY KEY, one int REFERENCES one ON DELETE CASCADE);
    CREATE SEQUENCE numbers";
const SETUP: &str = "
    DELETE FROM child; DELETE FROM one; DELETE FROM two; ALTER SEQUENCE numbers RESTART;
    INSERT INTO one VALUES (1, 1), (2, 2);
    INSERT INTO two VALUES (1, 1, 'a'), (2, 2, 'b')";

/// A statement, and the numbers that are bound to it. `seen` stands for what was read last.
#[derive(Clone, Debug)]
struct Line {
    sql: String,
    key: Option<i32>,
}

/// What an actor does: lines, alone or in transactions.
fn program(random: &mut Random, actor: usize, length: usize, levels: &[&str]) -> Vec<Line> {
    let mut lines = Vec::new();
    let transaction = !levels.is_empty() && random.below(3) > 0;
    if transaction {
        let level = levels[random.below(levels.len())];
        lines.push(Line {
            sql: format!("BEGIN {level}"),
            key: None,
        });
    }
    for _ in 0..length {
        let table = ["one", "one", "two"][random.below(3)];
        let key = Some([1, 1, 2][random.below(3)]);
        let add = actor + 2;
        lines.push(match random.below(12) {
            0 | 1 => Line {
                sql: format!("SELECT n FROM {table} WHERE id = $1"),
                key,
            },
            2 => {
                let wait = ["", "SKIP LOCKED", "NOWAIT"][random.below(3)];
                let sql = format!("SELECT n FROM {table} WHERE id = $1 FOR UPDATE {wait}");
                Line { sql, key }
            }
            3 | 4 => Line {
                sql: format!("UPDATE {table} SET n = n * {add} + 1 WHERE id = $1"),
                key,
            },
            5 | 6 => Line {
                sql: format!("UPDATE {table} SET n = seen + {add} WHERE id = $1"),
                key,
            },
            7 => Line {
                sql: format!("SELECT sum(n)::int FROM {table}"),
                key: None,
            },
            8 => Line {
                sql: format!("DELETE FROM {table} WHERE id = $1"),
                key,
            },
            9 => Line {
                sql: format!(
                    "INSERT INTO {table} (id, n) VALUES ($1, {add}) ON CONFLICT DO NOTHING"
                ),
                key,
            },
            10 => Line {
                sql: format!(
                    "INSERT INTO child VALUES (nextval('numbers'), {})",
                    1 + random.below(2)
                ),
                key: None,
            },
            _ => Line {
                sql: format!(
                    "UPDATE two SET code = '{}' WHERE id = $1",
                    ["a", "c"][random.below(2)]
                ),
                key,
            },
        });
    }
    if transaction {
        let end = if random.below(5) == 0 {
            "ROLLBACK"
        } else {
            "COMMIT"
        };
        lines.push(Line {
            sql: end.to_owned(),
            key: None,
        });
    }
    lines
}

/// What each line has returned.
async fn play(actor: Actor, lines: Vec<Line>) -> Vec<String> {
    let mut connection = PgConnection::connect(actor.url()).await.unwrap();
    let (mut seen, mut results) = (0, Vec::new());
    for Line { sql, key } in lines {
        let sql = AssertSqlSafe(sql.replace("seen", &seen.to_string()));
        let query = sqlx::query(sql);
        let query = match key {
            Some(key) => query.bind(key),
            None => query,
        };
        let result = query.fetch_all(&mut connection).await;
        results.push(match result {
            Ok(rows) => {
                let numbers: Vec<Option<i32>> = rows.iter().map(|row| row.get(0)).collect();
                seen = numbers.last().copied().flatten().unwrap_or(seen);
                format!("{numbers:?}")
            }
            Err(sqlx::Error::Database(error)) => error.code().unwrap_or_default().into_owned(),
            Err(error) => error.to_string(),
        });
    }
    connection.close().await.unwrap();
    results
}

/// All the ways in which the programs can end, and in how many schedules that was seen.
async fn ends(url: &str, programs: &[Vec<Line>], exhaustive: bool) -> (BTreeSet<String>, u64) {
    let ends = Arc::new(Mutex::new(BTreeSet::new()));
    let mut explorer = Explorer::new(url)
        .setup(SETUP)
        .max_schedules(100_000)
        .max_time(Duration::from_secs(600));
    if exhaustive {
        explorer = explorer.exhaustive();
    }
    for (name, lines) in ["ann", "bob", "cal"].iter().zip(programs) {
        let lines = lines.clone();
        explorer = explorer.actor(*name, move |actor| play(actor, lines.clone()));
    }
    let seen = Arc::clone(&ends);
    let explorer = explorer.invariant(move |ended: Ended<Vec<String>>| {
        let seen = Arc::clone(&seen);
        async move {
            let state = ended.rows("SELECT (SELECT string_agg(one::text, ' ' ORDER BY id) FROM one), (SELECT string_agg(two::text, ' ' ORDER BY id) FROM two), (SELECT string_agg(child::text, ' ' ORDER BY id) FROM child)").await?;
            seen.lock().unwrap().insert(format!("{state:?} {:?}", ended.outcomes));
            Ok::<_, String>(())
        }
    });
    let coverage = explorer.explore().await.unwrap().assert_passed();
    let ends = ends.lock().unwrap().clone();
    (ends, coverage.schedules + coverage.pruned)
}

async fn compare(shape: &[usize], levels: &[&str], seed: u64) {
    let programs = env::var("ROWLOCK_PROGRAMS").map_or(4, |programs| programs.parse().unwrap());
    let url = postgres::fresh_url().await;
    sqlx::raw_sql(SCHEMA)
        .execute(&mut PgConnection::connect(&url).await.unwrap())
        .await
        .unwrap();
    let (mut all, mut few) = (0, 0);
    for seed in seed..seed + programs {
        let mut random = Random::seeded(seed);
        let lines = shape.iter().enumerate();
        let lines: Vec<Vec<Line>> = lines
            .map(|(actor, length)| program(&mut random, actor, *length, levels))
            .collect();
        let (every, schedules) = ends(&url, &lines, true).await;
        let (reduced, fewer) = ends(&url, &lines, false).await;
        println!(
            "seed {seed}: {} ends, {schedules} schedules, {fewer} after reduction",
            every.len()
        );
        assert_eq!(every, reduced, "seed {seed}: {lines:#?}");
        assert!(fewer <= schedules, "seed {seed}");
        (all, few) = (all + schedules, few + fewer);
    }
    println!("{all} schedules, {few} after reduction");
}

#[tokio::test]
async fn two_actors_end_in_the_same_ways() {
    compare(&[2, 2], &[""], 121).await;
}

#[tokio::test]
async fn three_actors_end_in_the_same_ways() {
    compare(&[2, 1, 2], &[], 200).await;
}

#[tokio::test]
async fn two_actors_at_other_levels_end_in_the_same_ways() {
    compare(
        &[2, 2],
        &[
            "",
            "ISOLATION LEVEL REPEATABLE READ",
            "ISOLATION LEVEL SERIALIZABLE",
        ],
        300,
    )
    .await;
}
