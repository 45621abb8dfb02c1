//! The one order in which rows of a table are locked, by `lock_many` and by batches of a counter.

use std::time::Duration;

use rowlock::{Counter, CounterError, LockError, Lockable};
use sqlx::{AssertSqlSafe, Connection as _, Executor};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Connection, Database, Pool, database};

#[derive(Debug, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "numbers")]
struct Number {
    #[rowlock(key)]
    id: i64,
}

/// The collation says a, B, c, D; bytes say B, D, a, c.
#[derive(Debug, PartialEq, sqlx::FromRow, Lockable, Counter)]
#[rowlock(table = "words")]
struct Word {
    #[rowlock(key)]
    word: String,
    #[rowlock(counter)]
    seen: i64,
    #[rowlock(counter(min = 0))]
    left: i64,
}

#[derive(Debug, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "words", existing_rows)]
struct Existing {
    #[rowlock(key)]
    word: String,
    #[rowlock(counter)]
    seen: i64,
}

const WORDS: &str = r#"CREATE TABLE words (word text COLLATE "en-x-icu" PRIMARY KEY, seen bigint NOT NULL, "left" bigint NOT NULL);
    INSERT INTO words VALUES ('D', 0, 9), ('c', 0, 9), ('B', 0, 9), ('a', 0, 9)"#;

/// Waits until this many sessions wait for a lock.
async fn blocked(database: &Database, number: i64) {
    let options = database.options();
    let name = options.get_application_name();
    let mut aside = database.connection().await;
    let all_blocked = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'",
            )
            .bind(name)
            .fetch_one(&mut aside)
            .await
            .unwrap();
            if waiting == number {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), all_blocked)
        .await
        .expect("the sessions never waited");
}

/// An open transaction that has the row.
async fn hold(database: &Database, word: &str) -> Connection {
    let mut holder = database.connection().await;
    holder.execute("BEGIN").await.unwrap();
    sqlx::query("SELECT FROM words WHERE word = $1 FOR UPDATE")
        .bind(word)
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

/// The naive twin is the same statement without its order: the executor locks the rows as they come out of the table.
#[tokio::test]
async fn l_17_a_thousand_rows_are_locked_in_key_order_whatever_the_plan() {
    let database = database(
        "CREATE TABLE numbers (id bigint PRIMARY KEY);
        INSERT INTO numbers SELECT id FROM generate_series(1000, 1, -1) AS id;
        ANALYZE numbers",
    )
    .await;
    let unlocked = async || -> Vec<i64> {
        sqlx::query_scalar("SELECT id FROM numbers ORDER BY id FOR UPDATE SKIP LOCKED")
            .fetch_all(&mut database.connection().await)
            .await
            .unwrap()
    };
    for naive in [true, false] {
        let mut holder = database.connection().await;
        let mut holding = sqlx::Connection::begin(&mut holder).await.unwrap();
        Number::lock(&mut holding, 700).await.unwrap();
        let pool = database.pool.clone();
        let waiting: JoinHandle<usize> = tokio::spawn(async move {
            let mut tx = pool.begin().await.unwrap();
            if naive {
                let sql = "SELECT id FROM numbers WHERE id = ANY ($1) FOR UPDATE";
                let ids: Vec<i64> = (1..=1000).collect();
                let rows = sqlx::query(sql).bind(ids).fetch_all(&mut *tx).await;
                return rows.unwrap().len();
            }
            let locked = Number::lock_many(&mut tx, 1..=1000).await.unwrap();
            assert!(locked.is_sorted_by_key(|row| row.id));
            locked.len()
        });
        database.until_blocked().await;
        let free = unlocked().await;
        assert_eq!(free == (701..=1000).collect::<Vec<_>>(), !naive);
        holding.rollback().await.unwrap();
        assert_eq!(waiting.await.unwrap(), 1000);
    }
}

/// What locks several rows of the table.
#[derive(Debug, Clone, Copy)]
enum Way {
    Lock,
    /// Creates what is missing.
    Upsert,
    /// The same with bounds.
    Bounded,
    /// Some of its changes cannot create a row, which takes several statements.
    Mixed,
    Existing,
    /// By hand, sorted as Rust sorts.
    Naive,
}

impl Way {
    fn run(self, pool: &Pool) -> JoinHandle<Result<(), String>> {
        let pool = pool.clone();
        // Given in neither order.
        const GIVEN: [&str; 4] = ["c", "B", "D", "a"];
        tokio::spawn(async move {
            let said = |error: CounterError| error.to_string();
            let ones = GIVEN.map(|word| (word, 1));
            match self {
                Self::Lock => {
                    let mut tx = pool.begin().await.unwrap();
                    let locked = Word::lock_many(&mut tx, GIVEN).await;
                    let locked = locked.map_err(|error: LockError| error.to_string())?;
                    let words: Vec<_> = locked.iter().map(|row| row.word.as_str()).collect();
                    assert_eq!(words, ["a", "B", "c", "D"]);
                    tx.commit().await.unwrap();
                }
                Self::Upsert => drop(Word::add_seen_batch(&pool, ones).await.map_err(said)?),
                Self::Bounded => drop(Word::add_left_batch(&pool, ones).await.map_err(said)?),
                Self::Mixed => {
                    let deltas = [("c", 1), ("B", -1), ("D", 1), ("a", -1)];
                    drop(Word::add_left_batch(&pool, deltas).await.map_err(said)?);
                }
                Self::Existing => drop(Existing::add_seen_batch(&pool, ones).await.map_err(said)?),
                Self::Naive => {
                    let mut tx = pool.begin().await.unwrap();
                    let mut sorted = GIVEN;
                    sorted.sort_unstable();
                    for word in sorted {
                        sqlx::query("UPDATE words SET seen = seen + 1 WHERE word = $1")
                            .bind(word)
                            .execute(&mut *tx)
                            .await
                            .map_err(|error| error.to_string())?;
                    }
                    tx.commit().await.unwrap();
                }
            }
            Ok(())
        })
    }
}

/// Two ways at a time, both behind a row that is held, the first one first. Whoever locks in another order than the other has
/// rows that the other needs when the held one becomes free.
async fn deadlocks(first: Way, second: Way) -> bool {
    let database = database(WORDS).await;
    for held in ["a", "B", "c", "D"] {
        let mut holder = hold(&database, held).await;
        let one = first.run(&database.pool);
        blocked(&database, 1).await;
        let other = second.run(&database.pool);
        blocked(&database, 2).await;
        holder.execute("ROLLBACK").await.unwrap();
        holder.close().await.unwrap();
        let outcomes = [one.await.unwrap(), other.await.unwrap()];
        if let Some(error) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
            assert!(error.to_lowercase().contains("deadlock"), "{error}");
            return true;
        }
    }
    false
}

#[tokio::test]
async fn u_13_l_17_locks_and_batches_share_one_order_whatever_the_collation() {
    const WAYS: [Way; 5] = [
        Way::Lock,
        Way::Upsert,
        Way::Bounded,
        Way::Mixed,
        Way::Existing,
    ];
    for first in WAYS {
        for second in WAYS {
            assert!(!deadlocks(first, second).await, "{first:?} {second:?}");
        }
    }
}

#[tokio::test]
async fn u_13_l_17_naive_twin_sorts_by_bytes_and_deadlocks() {
    assert!(deadlocks(Way::Lock, Way::Naive).await);
}

/// New rows are created in the same order: two batches that create each other's rows meet at the first.
#[tokio::test]
async fn u_13_rows_that_are_created_are_locked_in_the_order_of_the_collation() {
    let database = database(WORDS).await;
    sqlx::raw_sql("DELETE FROM words")
        .execute(&database.pool)
        .await
        .unwrap();
    let mut holder = database.connection().await;
    holder
        .execute("BEGIN; INSERT INTO words VALUES ('c', 0, 0)")
        .await
        .unwrap();
    let batch = Way::Upsert.run(&database.pool);
    blocked(&database, 1).await;
    // What the batch has created by now, it is waited for.
    let mut aside = database.connection().await;
    for (word, taken) in [("a", true), ("B", true), ("D", false)] {
        let insert = format!(
            "SET lock_timeout = '50ms'; BEGIN; INSERT INTO words VALUES ('{word}', 0, 0); ROLLBACK"
        );
        let inserted = sqlx::raw_sql(AssertSqlSafe(insert))
            .execute(&mut aside)
            .await;
        assert_eq!(inserted.is_err(), taken, "{word}");
        aside.execute("ROLLBACK").await.unwrap();
    }
    holder.execute("ROLLBACK").await.unwrap();
    batch.await.unwrap().unwrap();
}
