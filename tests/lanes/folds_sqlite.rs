//! What one statement makes of many calls on SQLite: values, keys, conflicts.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rowlock::row::{CounterError, UpdateError};
use rowlock::{Counter, Fault, FindOrCreate, Versioned};
use rowlock_tests::random::Random;
use sqlx::AssertSqlSafe;

use super::*;

/// Lanes, and how many transactions have written on their connections.
async fn counted(database: &Database) -> (Lanes<Db>, Arc<AtomicI64>) {
    let commits = Arc::new(AtomicI64::new(0));
    let counter = Arc::clone(&commits);
    let pool = PoolOptions::new().after_connect(move |connection, _| {
        let commits = Arc::clone(&counter);
        Box::pin(async move {
            connection.lock_handle().await?.set_commit_hook(move || {
                commits.fetch_add(1, Ordering::Relaxed);
                true
            });
            Ok(())
        })
    });
    let lanes = Lanes::new(&database.pool_with(pool).await, 1)
        .await
        .unwrap();
    (lanes, commits)
}

/// Each row for itself: updates of 64 rows are a few transactions, and additions to 64 rows.
#[tokio::test]
async fn many_rows_are_few_transactions() {
    let database = database(TABLES).await;
    let (lanes, commits) = counted(&database).await;
    let adds = (1..=64).map(|page| {
        let lanes = lanes.clone();
        async move { assert_eq!(PageViews::add_views(&lanes, page, 2).await.unwrap(), 2) }
    });
    behind(lanes.acquire().await.unwrap(), adds).await;
    let adding = commits.swap(0, Ordering::Relaxed);
    assert!(adding < 10, "{adding} transactions");
    let documents = Document::load_many(&lanes, 1..=64).await;
    let updates = documents.into_iter().map(|document| {
        let (lanes, document) = (lanes.clone(), document.unwrap());
        async move { assert_eq!(document.update(&lanes).await.unwrap().version, 1) }
    });
    behind(lanes.acquire().await.unwrap(), updates).await;
    let updating = commits.swap(0, Ordering::Relaxed);
    assert!(updating < 10, "{updating} transactions");
    assert_eq!(statements(&database.pool).await, 128);
}

/// The statement that met the row is taken back, and halves of it follow on the same connection.
#[tokio::test]
async fn a_refused_row_costs_the_others_few_transactions() {
    let database = database(TABLES).await;
    let (lanes, commits) = counted(&database).await;
    let documents = Document::load_many(&lanes, 1..=64).await;
    let updates = documents.into_iter().map(|document| {
        let (lanes, mut document) = (lanes.clone(), document.unwrap());
        if document.id == 40 {
            "refused".clone_into(&mut document.title);
        }
        async move { document.update(&lanes).await }
    });
    let outcomes = behind(lanes.acquire().await.unwrap(), updates).await;
    for (outcome, id) in outcomes.into_iter().zip(1..) {
        assert_eq!(outcome.is_ok(), id != 40, "{id}");
    }
    let commits = commits.load(Ordering::Relaxed);
    assert!(commits < 20, "{commits} transactions");
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "readings", backend(Sqlite), unique(id))]
struct Reading {
    #[rowlock(key)]
    id: i64,
    read_by: i64,
    #[rowlock(version)]
    version: i64,
}

/// Each read says which statement it was a part of.
#[tokio::test]
async fn reads_are_few_statements() {
    let database = database(TABLES).await;
    sqlx::raw_sql("CREATE VIEW readings AS SELECT n AS id, (SELECT abs(random() / 4)) AS read_by, n AS version FROM numbers")
        .execute(&database.pool)
        .await
        .unwrap();
    let lanes = lanes_of(&database, 1).await;
    let loads = (1..=64).map(|id| {
        let lanes = lanes.clone();
        async move { Reading::load(&lanes, id).await.unwrap() }
    });
    let finds = (1..=64).map(|id| {
        let lanes = lanes.clone();
        async move { Reading::find_by_id(&lanes, id).await.unwrap().unwrap() }
    });
    let loaded = behind(lanes.acquire().await.unwrap(), loads).await;
    let found = behind(lanes.acquire().await.unwrap(), finds).await;
    for read in [loaded, found] {
        let rows: Vec<_> = read.iter().map(|row| (row.id, row.version)).collect();
        assert_eq!(rows, (1..=64).map(|id| (id, id)).collect::<Vec<_>>());
        let by: std::collections::BTreeSet<_> = read.iter().map(|row| row.read_by).collect();
        assert!(by.len() < 10, "{} statements", by.len());
    }
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "words", backend(Sqlite))]
struct Word {
    #[rowlock(key)]
    word: String,
    #[rowlock(counter)]
    times: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "words", backend(Sqlite))]
struct Place {
    #[rowlock(key)]
    word: i64,
    #[rowlock(counter)]
    times: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "measures", backend(Sqlite))]
struct Measure {
    #[rowlock(key)]
    at: f64,
    #[rowlock(version)]
    version: i64,
}

/// Keys that are equal to the database and not to Rust: a collation, and types that a column turns into its own.
#[tokio::test]
async fn keys_that_only_the_database_calls_equal_are_one_row() {
    for (ty, words) in [
        ("text COLLATE NOCASE", ["a", "A", "b", "B"]),
        ("text COLLATE RTRIM", ["a", "a ", "b", "b  "]),
        ("integer", ["1", "01", "2", "+2"]),
        ("numeric", ["1", "1.0", "2", "2e0"]),
        ("real", ["1", "1.0", "2", "2e0"]),
    ] {
        for constraint in ["PRIMARY KEY", "NOT NULL PRIMARY KEY) WITHOUT ROWID --"] {
            // The comment ends the line, and with it the table.
            let table =
                format!("CREATE TABLE words (times bigint NOT NULL, word {ty} {constraint}\n);");
            let table = match constraint.contains("--") {
                true => table.replace("\n);", ";"),
                false => table,
            };
            let table = table.replace(" --", "");
            let database = database(&table).await;
            sqlx::raw_sql(AssertSqlSafe(format!(
                "INSERT INTO words (word, times) VALUES ('{}', 0), ('{}', 0)",
                words[0], words[2]
            )))
            .execute(&database.pool)
            .await
            .unwrap();
            let lanes = lanes_of(&database, 1).await;
            let mut totals = at_once((0..40).map(|n| {
                let (lanes, word) = (lanes.clone(), words[n % 4]);
                async move { Word::add_times(&lanes, word, 1).await.unwrap() }
            }))
            .await;
            totals.sort_unstable();
            let expected: Vec<_> = (1..=20).flat_map(|total| [total; 2]).collect();
            assert_eq!(totals, expected, "{ty} {constraint}");
            // No call has the key as the row has it: whose row that is, nobody could say.
            let others = (0..20).map(|n| {
                let (lanes, word) = (lanes.clone(), words[n % 2 * 2 + 1]);
                async move { Word::add_times(&lanes, word, 1).await.unwrap() }
            });
            let mut totals = behind(lanes.acquire().await.unwrap(), others).await;
            totals.sort_unstable();
            let expected: Vec<_> = (21..=30).flat_map(|total| [total; 2]).collect();
            assert_eq!(totals, expected, "{ty} {constraint}");
        }
    }
}

/// A number in a column of texts, and 0.0, which is -0.0.
#[tokio::test]
async fn numbers_are_the_keys_that_the_column_makes_of_them() {
    for ty in ["text", "integer", "real", "blob"] {
        let database = database(&format!(
            "CREATE TABLE words (word {ty} PRIMARY KEY, times bigint NOT NULL)"
        ))
        .await;
        let lanes = lanes_of(&database, 1).await;
        let mut totals = at_once((0..40).map(|n| {
            let lanes = lanes.clone();
            async move { Place::add_times(&lanes, n % 2, 1).await.unwrap() }
        }))
        .await;
        totals.sort_unstable();
        let expected: Vec<_> = (1..=20).flat_map(|total| [total; 2]).collect();
        assert_eq!(totals, expected, "{ty}");
    }
    let database = database(
        "CREATE TABLE measures (at real PRIMARY KEY, version int NOT NULL); INSERT INTO measures VALUES (0, 0)",
    )
    .await;
    let lanes = lanes_of(&database, 1).await;
    let outcomes = at_once((0..40).map(|n| {
        let lanes = lanes.clone();
        let at = if n % 2 == 0 { 0.0 } else { -0.0 };
        async move { Measure { at, version: 0 }.update(&lanes).await }
    }));
    let updated = outcomes.await.into_iter().filter(Result::is_ok).count();
    assert_eq!(updated, 1);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter)]
#[rowlock(table = "things", backend(Sqlite), existing_rows)]
struct Thing {
    #[rowlock(key)]
    id: Vec<u8>,
    #[rowlock(key)]
    part: String,
    number: i64,
    real: Option<f64>,
    small: f32,
    text: String,
    note: Option<String>,
    bytes: Vec<u8>,
    uuid: sqlx::types::Uuid,
    flag: bool,
    at: Option<sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc>>,
    #[sqlx(json)]
    tags: Vec<String>,
    #[rowlock(generated)]
    length: i64,
    #[rowlock(counter)]
    times: i64,
    #[rowlock(version)]
    version: i64,
}

fn text(random: &mut Random) -> String {
    const PARTS: [&str; 14] = [
        "a", "A", "\0", "\"", "\\", "\n", "\u{7f}", "\u{1}", "é", "e\u{301}", "🦀", "']", "), (",
        "\u{2028}",
    ];
    (0..random.below(9))
        .map(|_| PARTS[random.below(PARTS.len())])
        .collect()
}

fn thing(random: &mut Random, id: u8) -> Thing {
    let reals = [
        Some(0.1 + 0.2),
        Some(-0.0),
        Some(f64::MAX),
        Some(5e-324),
        // Which SQLite reads as their neighbours.
        Some(4.386_362_656_530_058e120),
        Some(-2.8e-90),
        Some(f64::INFINITY),
        Some(9_007_199_254_740_993.0),
        Some(f64::from_bits(0x3ff5_5555_5555_5555)),
        None,
    ];
    let numbers = [i64::MIN, i64::MAX, (1 << 53) + 1, -1, 0];
    Thing {
        // Equal as text, or but for a blob; and no UTF-8.
        id: vec![id, 0, 255],
        part: text(random),
        number: numbers[random.below(numbers.len())],
        real: reals[random.below(reals.len())],
        small: 0.1,
        text: text(random),
        note: (random.below(3) > 0).then(|| text(random)),
        bytes: (0..random.below(5))
            .map(|_| u8::try_from(random.below(256)).unwrap())
            .collect(),
        uuid: sqlx::types::Uuid::from_u128(random.below(1 << 30) as u128),
        flag: random.below(2) > 0,
        at: (random.below(2) > 0).then(|| {
            sqlx::types::chrono::DateTime::from_timestamp_nanos(1_790_000_000_123_456_789)
        }),
        tags: vec![text(random), text(random)],
        length: 0,
        times: 0,
        version: 0,
    }
}

/// Byte by byte what a call by itself writes, in a column of any type.
#[tokio::test]
async fn values_are_written_as_they_are() {
    for (seed, strict) in [(1, ""), (2, ""), (3, "WITHOUT ROWID"), (4, "")] {
        println!("seed {seed}");
        let mut random = Random::seeded(seed);
        let of = |ty: &str| match seed {
            4 => String::new(),
            _ => ty.to_owned(),
        };
        let database = database(&format!(
            "CREATE TABLE things (id {}, part {}, number {}, real {}, small {}, text {}, note {}, bytes {}, uuid {}, flag {}, at {}, tags {},
                length int GENERATED ALWAYS AS (length(text)), times int NOT NULL DEFAULT 0, version int NOT NULL, PRIMARY KEY (id, part)) {strict}",
            of("blob"), of("text"), of("int"), of("real"), of("real"), of("text"), of("text"), of("blob"), of("blob"), of("boolean"), of("datetime"), of("text")
        ))
        .await;
        let lanes = lanes_of(&database, 1).await;
        let all = "SELECT group_concat(quote(id) || hex(part) || quote(number) || typeof(real) || coalesce(hex(format('%!.20g', real)), '') || quote(small)
            || hex(text) || typeof(note) || coalesce(hex(note), '') || quote(bytes) || quote(uuid) || quote(flag) || coalesce(at, '') || hex(tags) || length || version, '\n')
            FROM (SELECT * FROM things ORDER BY id)";
        let mut written = Vec::new();
        let mut rows = Vec::new();
        for id in 0..48 {
            let new = thing(&mut random, id);
            rows.push(new.insert(&database.pool).await.unwrap());
        }
        let changed: Vec<_> = rows
            .iter()
            .zip(0..)
            .map(|(row, id)| Thing {
                id: row.id.clone(),
                part: row.part.clone(),
                ..thing(&mut random, id)
            })
            .collect();
        for folds in [true, false] {
            let reset = "UPDATE things SET version = 0, times = 0, text = '', note = 1";
            sqlx::raw_sql(reset).execute(&database.pool).await.unwrap();
            let calls = changed.iter().cloned().map(|row| {
                let (lanes, pool) = (lanes.clone(), database.pool.clone());
                async move {
                    let key = (row.id.clone(), &*row.part);
                    match folds {
                        true => {
                            let updated = row.update(&lanes).await;
                            assert_eq!(Thing::add_times(&lanes, key, 1).await.unwrap(), 1);
                            updated
                        }
                        false => row.update(&pool).await,
                    }
                }
            });
            let lane = lanes.acquire().await.unwrap();
            for outcome in behind(lane, calls).await {
                let outcome = outcome.unwrap();
                assert_eq!(outcome.version, 1);
                assert_eq!(
                    outcome.length as usize,
                    outcome.text.split('\0').next().unwrap().chars().count()
                );
            }
            let there: String = sqlx::query_scalar(all)
                .fetch_one(&database.pool)
                .await
                .unwrap();
            written.push(there);
        }
        assert_eq!(written[0], written[1], "seed {seed}");
        // And each is read as it is.
        let read = at_once(changed.iter().cloned().map(|row| {
            let (lanes, pool) = (lanes.clone(), database.pool.clone());
            async move {
                let key = || (row.id.clone(), &*row.part);
                let folded = Thing::load(&lanes, key()).await.unwrap();
                (folded, Thing::load(&pool, key()).await.unwrap())
            }
        }));
        for (folded, alone) in read.await {
            assert_eq!(folded, alone);
        }
    }
}

/// What a table or its triggers do instead of failing is done for each row, once: the sum is what was confirmed.
#[tokio::test]
async fn other_conflict_clauses_write_nothing_twice() {
    for (check, trigger) in [
        ("CHECK (views < 5)", ""),
        ("UNIQUE ON CONFLICT FAIL", ""),
        ("UNIQUE ON CONFLICT ROLLBACK", ""),
        ("UNIQUE ON CONFLICT IGNORE", ""),
        ("", "SELECT RAISE(FAIL, 'no') WHERE NEW.page % 8 = 3"),
        ("", "SELECT RAISE(ROLLBACK, 'no') WHERE NEW.page % 8 = 3"),
        ("", "SELECT RAISE(IGNORE) WHERE NEW.page % 8 = 3"),
        ("", "INSERT OR FAIL INTO seen VALUES (NEW.page % 40)"),
        ("", "INSERT OR IGNORE INTO seen VALUES (NEW.page % 40)"),
        ("", "INSERT OR REPLACE INTO seen VALUES (NEW.page % 40)"),
    ] {
        let database = database(&format!(
            "CREATE TABLE page_views (page integer PRIMARY KEY, views bigint NOT NULL {check});
             CREATE TABLE seen (page integer PRIMARY KEY);
             CREATE TRIGGER see BEFORE UPDATE ON page_views BEGIN SELECT 1; {trigger}{} END;
             INSERT INTO page_views WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < 64) SELECT n, {} FROM series",
            if trigger.is_empty() { "" } else { ";" },
            // Unique, and some of the new values are taken.
            if check.starts_with("UNIQUE") { "n * n" } else { "0" },
        ))
        .await;
        let before = number(&database.pool, "SELECT sum(views) FROM page_views").await;
        let lanes = lanes_of(&database, 1).await;
        let outcomes = at_once((1..=64).map(|page| {
            let lanes = lanes.clone();
            async move {
                let delta = if page % 8 == 3 { 7 } else { 3 };
                (delta, PageViews::add_views(&lanes, page, delta).await)
            }
        }));
        let mut sum = 0;
        for (delta, outcome) in outcomes.await {
            match outcome {
                Ok(_) | Err(CounterError::Written(_)) => sum += delta,
                Err(CounterError::Database(error)) => assert!(
                    matches!(
                        error.fault(),
                        Fault::Raised | Fault::UniqueViolation | Fault::CheckViolation
                    ),
                    "{error:?}"
                ),
                // RAISE(IGNORE) and ON CONFLICT IGNORE: no row is written, and the look at it finds nothing wrong.
                Err(CounterError::Contended(_)) => {}
                Err(error) => panic!("{check} {trigger}: {error:?}"),
            }
        }
        let after = number(&database.pool, "SELECT sum(views) FROM page_views").await;
        assert_eq!(after - before, sum, "{check} {trigger}");
        assert!(sum > 64, "{check} {trigger}: {sum}");
    }
}

/// What the naive fold would do without a transaction around: the rows before the one that is refused stay, and their calls are run again.
#[tokio::test]
async fn naive_twin_of_a_fold_that_fails() {
    let database = database(
        "CREATE TABLE page_views (page integer PRIMARY KEY, views bigint NOT NULL);
         INSERT INTO page_views VALUES (1, 0), (2, 0), (3, 0);
         CREATE TRIGGER no BEFORE UPDATE ON page_views BEGIN SELECT RAISE(FAIL, 'no') WHERE NEW.page = 2; END",
    )
    .await;
    let all = "UPDATE page_views SET views = views + 1";
    sqlx::raw_sql(all)
        .execute(&database.pool)
        .await
        .unwrap_err();
    assert_eq!(
        number(
            &database.pool,
            "SELECT views FROM page_views WHERE page = 1"
        )
        .await,
        1
    );
}

/// A database in memory has one connection, which is the lane.
#[tokio::test]
async fn a_pool_of_one_connection() {
    let pool = PoolOptions::new()
        .max_connections(1)
        .connect("sqlite::memory:")
        .await
        .unwrap();
    sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    let mut totals = at_once((0..200).map(|n| {
        let lanes = lanes.clone();
        async move {
            let document = Document::load(&lanes, n % 100 + 1).await.unwrap();
            match document.update(&lanes).await {
                Ok(_) | Err(UpdateError::Stale(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
            // Nothing folds these.
            PageViews::get(&lanes, 1).await.unwrap();
            PageViews::add_views(&lanes, 7, 1).await.unwrap()
        }
    }))
    .await;
    totals.sort_unstable();
    assert_eq!(totals, (1..=200).collect::<Vec<_>>());
    lanes.close().await;
}
