//! The one order in which rows of a table are locked, by `lock_many` and by batches of a counter and of a queue.

use std::time::Duration;

use rowlock::queue::{Claimed, FinishError, QueueState, Unfinished};
use rowlock::row::{CounterError, LockError};
use rowlock::{Counter, Fence, FindOrCreate, Lockable, Queue, Versioned, Xmin};
use sqlx::{AssertSqlSafe, Connection as _, Executor};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::queue::{MINUTE, Timestamp};
use super::worker::{Gate, until};
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

/// A word that is written as a whole.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "words", backend(Postgres))]
struct Written {
    #[rowlock(key)]
    word: String,
    seen: i64,
    left: i64,
    #[rowlock(version)]
    xmin: Xmin,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "words", unique(word))]
struct Unique {
    word: String,
    seen: i64,
    left: i64,
}

/// A word to work on.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "words")]
struct Task {
    #[rowlock(key)]
    word: String,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

const WORDS: &str = r#"CREATE TABLE words (word text COLLATE "en-x-icu" PRIMARY KEY, seen bigint NOT NULL, "left" bigint NOT NULL,
        run_at timestamptz NOT NULL DEFAULT now(), state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0, leased_until timestamptz);
    INSERT INTO words VALUES ('D', 0, 9), ('c', 0, 9), ('B', 0, 9), ('a', 0, 9)"#;

/// Waits until this many sessions wait for a lock, and not with a statement that gives it up after 20 milliseconds.
async fn blocked(database: &Database, number: i64) {
    let options = database.options();
    let name = options.get_application_name();
    let mut aside = database.connection().await;
    let all_blocked = async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'
                 AND strpos(query, '''lock_timeout''') = 0",
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
    /// Of whole rows.
    Update,
    Delete,
    Insert,
    Create,
    Overwrite,
    Complete,
    Retry,
    Extend,
    /// By hand, sorted as Rust sorts.
    Naive,
    /// By hand, in one statement.
    NaiveComplete,
}

// Given in neither order.
const GIVEN: [&str; 4] = ["c", "B", "D", "a"];

/// All the words, claimed.
async fn claimed(pool: &Pool) -> Vec<Claimed<Task>> {
    let again = "UPDATE words SET state = 'ready', attempts = 0, run_at = now()";
    pool.execute(again).await.unwrap();
    let mut claimed = Task::claim(pool, 4).await.unwrap();
    claimed.sort_by_key(|task| GIVEN.iter().position(|word| *word == task.word));
    assert_eq!(claimed.len(), 4);
    claimed
}

fn unique(word: &str) -> NewUnique {
    NewUnique {
        word: word.to_owned(),
        seen: 0,
        left: 0,
    }
}

fn all<T, E: std::fmt::Display>(outcomes: Vec<Result<T, E>>) -> Result<(), String> {
    let mut outcomes = outcomes.into_iter();
    outcomes.try_for_each(|one| one.map(drop).map_err(|error| error.to_string()))
}

impl Way {
    fn is_of_a_queue(self) -> bool {
        matches!(self, Self::Complete | Self::Retry | Self::Extend)
    }

    fn run(self, pool: &Pool, mut tasks: Vec<Claimed<Task>>) -> JoinHandle<Result<(), String>> {
        let pool = pool.clone();
        tokio::spawn(async move {
            let said = |error: CounterError| error.to_string();
            let finished = |lost: Result<Vec<Unfinished<Task>>, FinishError>| match lost {
                Ok(lost) if lost.is_empty() => Ok(()),
                Ok(lost) => Err(format!("lost: {lost:?}")),
                Err(error) => Err(error.to_string()),
            };
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
                Self::Upsert => drop(Word::add_seen_many(&pool, ones).await.map_err(said)?),
                Self::Bounded => drop(Word::add_left_many(&pool, ones).await.map_err(said)?),
                Self::Mixed => {
                    let deltas = [("c", 1), ("B", -1), ("D", 1), ("a", -1)];
                    drop(Word::add_left_many(&pool, deltas).await.map_err(said)?);
                }
                Self::Existing => drop(Existing::add_seen_many(&pool, ones).await.map_err(said)?),
                Self::Update | Self::Delete => {
                    let rows = Written::load_many(&pool, GIVEN).await.into_iter();
                    let rows: Vec<_> = rows.map(Result::unwrap).collect();
                    match self {
                        Self::Update => all(Written::update_many(&pool, &rows).await)?,
                        _ => all(Written::delete_many(&pool, &rows).await)?,
                    }
                }
                Self::Insert => {
                    let new = |word: &str| Written {
                        word: word.to_owned(),
                        seen: 0,
                        left: 0,
                        xmin: Xmin::default(),
                    };
                    all(Written::insert_many(&pool, &GIVEN.map(new)).await)?;
                }
                Self::Create => all(Unique::create_many(&pool, GIVEN.map(unique)).await)?,
                Self::Overwrite => all(Unique::upsert_many(&pool, GIVEN.map(unique)).await)?,
                Self::Complete => finished(Claimed::complete_many(&pool, tasks).await)?,
                Self::Retry => {
                    let tasks = tasks.into_iter().map(|task| (task, "no"));
                    finished(Claimed::retry_many(&pool, tasks).await)?;
                }
                Self::Extend => {
                    finished(Claimed::extend_many(&pool, &mut tasks, MINUTE).await)?;
                }
                Self::NaiveComplete => {
                    let sql = "UPDATE words SET state = 'done' WHERE word = ANY ($1)";
                    let done = sqlx::query(sql).bind(&GIVEN[..]).execute(&pool).await;
                    done.map_err(|error| error.to_string())?;
                }
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
        let mut tasks = [Vec::new(), Vec::new()];
        for (way, tasks) in [first, second].into_iter().zip(&mut tasks) {
            if way.is_of_a_queue() {
                *tasks = claimed(&database.pool).await;
            }
        }
        let [ones, others] = tasks;
        let mut holder = hold(&database, held).await;
        let one = first.run(&database.pool, ones);
        blocked(&database, 1).await;
        let other = second.run(&database.pool, others);
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
    for batch in [Way::Complete, Way::Retry, Way::Extend] {
        for other in WAYS {
            assert!(!deadlocks(batch, other).await, "{batch:?} {other:?}");
            assert!(!deadlocks(other, batch).await, "{other:?} {batch:?}");
        }
    }
}

#[tokio::test]
async fn u_13_l_17_naive_twin_sorts_by_bytes_and_deadlocks() {
    assert!(deadlocks(Way::Lock, Way::Naive).await);
}

#[tokio::test]
async fn u_13_l_17_naive_twin_of_a_batch_of_a_queue_deadlocks() {
    assert!(deadlocks(Way::Lock, Way::NaiveComplete).await);
}

/// A worker finishes its rows as they come out of the table: it has D when it meets the locked c. It gives that up before the
/// server looks for deadlocks, and finishes what is free.
#[tokio::test]
async fn l_17_a_worker_that_finishes_rows_deadlocks_with_nobody() {
    let database = database(WORDS).await;
    let pool = &database.pool;
    pool.execute(Task::ddl::<sqlx::Postgres>()).await.unwrap();
    let (gate, (stop, stopped)) = (Gate::new(), tokio::sync::oneshot::channel::<()>());
    let at_the_gate = gate.clone();
    let worker = Task::worker(pool).concurrency(4).shutdown(async {
        let _ = stopped.await;
    });
    let running = tokio::spawn(worker.run(move |_| at_the_gate.clone().pass()));
    gate.until_running(4).await;
    let mut holder = hold(&database, "c").await;
    let lock = Way::Lock.run(pool, Vec::new());
    blocked(&database, 1).await;
    gate.open(4);
    until("D is done", async || {
        let done = "SELECT state FROM words WHERE word = 'D'";
        let state: String = sqlx::query_scalar(done).fetch_one(pool).await.unwrap();
        state == "done"
    })
    .await;
    holder.execute("ROLLBACK").await.unwrap();
    lock.await.unwrap().unwrap();
    stop.send(()).unwrap();
    let counts = running.await.unwrap().unwrap();
    assert_eq!((counts.completed, counts.lease_lost), (4, 0));
}

/// So are rows that are written as a whole. A deadlock would show nothing: they are written again after it.
#[tokio::test]
async fn u_13_whole_rows_are_locked_in_the_order_of_the_collation() {
    for way in [Way::Update, Way::Delete] {
        let database = database(WORDS).await;
        let mut holder = hold(&database, "c").await;
        let batch = way.run(&database.pool, Vec::new());
        blocked(&database, 1).await;
        let free: Vec<String> = sqlx::query_scalar("SELECT word FROM words FOR UPDATE SKIP LOCKED")
            .fetch_all(&mut database.connection().await)
            .await
            .unwrap();
        assert_eq!(free, ["D"], "{way:?}");
        holder.execute("ROLLBACK").await.unwrap();
        batch.await.unwrap().unwrap();
    }
}

/// New rows are created in the same order: two batches that create each other's rows meet at the first.
#[tokio::test]
async fn u_13_rows_that_are_created_are_locked_in_the_order_of_the_collation() {
    for way in [Way::Upsert, Way::Insert, Way::Create, Way::Overwrite] {
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
        let batch = way.run(&database.pool, Vec::new());
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
            assert_eq!(inserted.is_err(), taken, "{way:?} {word}");
            aside.execute("ROLLBACK").await.unwrap();
        }
        holder.execute("ROLLBACK").await.unwrap();
        batch.await.unwrap().unwrap();
    }
}
