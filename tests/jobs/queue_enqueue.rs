//! New jobs: one and many, typed, in the caller's transaction; and jobs with a unique key.

use std::sync::Arc;
use std::time::Duration;

use rowlock::queue::{Claimed, FinishError, QueueState, Retried};
use rowlock::row::{FindOrCreateError, FoundOrCreated, InsertError};
use rowlock::{Fault, Fence, FindOrCreate, Queue};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::Barrier;

use super::{Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Letter {
    subject: String,
}

/// A type that is only read, beside which the model is a queue all the same.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Email {
    #[rowlock(key)]
    id: i64,
    recipient: String,
    copy: Option<String>,
    #[sqlx(json)]
    letter: Letter,
    #[sqlx(json(nullable))]
    footer: Option<Letter>,
    attachment: Vec<u8>,
    #[rowlock(priority)]
    priority: i16,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    last_error: Option<String>,
}

fn email(id: i64) -> NewEmail {
    NewEmail {
        id,
        recipient: format!("{id}@example.org"),
        copy: (id % 2 == 0).then(|| "it's me".to_owned()),
        letter: Letter {
            subject: format!("letter {id}"),
        },
        footer: (id % 3 == 0).then(|| Letter {
            subject: "\"quoted\"".to_owned(),
        }),
        attachment: vec![0, 255, id as u8],
        priority: 0,
    }
}

fn types() -> [&'static str; 4] {
    match NAME {
        "PostgreSQL" => [
            "timestamptz",
            "jsonb",
            "bytea",
            "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        ],
        _ => ["text", "text", "blob", "integer PRIMARY KEY"],
    }
}

/// No column has a default.
async fn emails() -> super::Database {
    let [time, json, bytes, _] = types();
    database(&format!(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, recipient text NOT NULL, copy text, letter {json} NOT NULL, footer {json}, attachment {bytes} NOT NULL,
             priority smallint NOT NULL, run_at {time} NOT NULL, state text NOT NULL, attempts int NOT NULL, fence bigint NOT NULL,
             leased_until {time}, last_error text, CONSTRAINT one_each UNIQUE (recipient))"
    ))
    .await
}

async fn run(pool: &Pool, sql: &str) {
    pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

async fn count(pool: &Pool, sql: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM jobs WHERE {sql}");
    sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_job_is_enqueued_and_claimed() {
    let database = emails().await;
    let pool = &database.pool;
    let row = Email::enqueue(pool, email(6)).await.unwrap();
    let given = email(6);
    assert_eq!(
        (
            row.id,
            &row.recipient,
            &row.copy,
            &row.letter,
            &row.footer,
            &row.attachment,
            row.priority
        ),
        (
            given.id,
            &given.recipient,
            &given.copy,
            &given.letter,
            &given.footer,
            &given.attachment,
            given.priority
        )
    );
    assert_eq!(
        (row.state, row.attempts, row.leased_until, &row.last_error),
        (QueueState::Ready, 0, None, &None)
    );
    let claimed = Email::claim(pool, 5).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].letter, row.letter);
    assert!(claimed[0].waited() < Duration::from_secs(5), "{NAME}");
}

/// By the clock of the database, or at a time of the caller's.
#[tokio::test]
async fn a_job_is_due_later() {
    let database = emails().await;
    let pool = &database.pool;
    let hour = Duration::from_secs(3600);
    let row = Email::enqueue(pool, email(1)).delay(hour).await.unwrap();
    let now = Email::enqueue(pool, email(2)).await.unwrap();
    let late = row.run_at - now.run_at - chrono::TimeDelta::hours(1);
    assert!(late.abs() < chrono::TimeDelta::minutes(1), "{late}");
    let time = "2020-02-29T12:34:56.789Z".parse::<Timestamp>().unwrap();
    let row = Email::enqueue(pool, email(3))
        .delay(hour)
        .at(time)
        .await
        .unwrap();
    assert_eq!(row.run_at, time);
    let rows = Email::enqueue_many(pool, [email(4), email(5)])
        .delay(hour)
        .await
        .unwrap();
    assert!(rows.iter().all(|row| row.run_at > now.run_at));
    let rows = Email::enqueue_many(pool, [email(6)])
        .at(time)
        .await
        .unwrap();
    assert_eq!(rows[0].run_at, time);
    let claimed = Email::claim(pool, 50).await.unwrap();
    let ids: Vec<i64> = claimed.iter().map(|row| row.id).collect();
    assert_eq!(ids, [3, 6, 2], "{NAME}");
    // As far as the clock of a database goes.
    Email::enqueue(pool, email(7))
        .delay(Duration::MAX)
        .await
        .unwrap();
}

/// With the effect that it belongs to, or not at all.
#[tokio::test]
async fn a_job_belongs_to_the_transaction_of_its_caller() {
    let database = emails().await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    Email::enqueue(&mut *tx, email(1)).await.unwrap();
    Email::enqueue_many(&mut *tx, [email(2), email(3)])
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(count(pool, "true").await, 0);
    rowlock::transaction(pool)
        .run(async |tx| {
            Email::enqueue(&mut *tx, email(4)).await?;
            Ok::<_, InsertError>(())
        })
        .await
        .unwrap();
    let mut connection = pool.acquire().await.unwrap();
    Email::enqueue(&mut *connection, email(5)).await.unwrap();
    drop(connection);
    assert_eq!(count(pool, "state = 'ready'").await, 2, "{NAME}");
}

/// Whatever the keys and the number: SQLite's texts have places for the next power of two.
#[tokio::test]
async fn many_jobs_are_answered_in_the_order_given() {
    let database = emails().await;
    let pool = &database.pool;
    assert_eq!(Email::enqueue_many(pool, []).await.unwrap(), []);
    let mut first = 0;
    for count in [1, 2, 3, 5, 8, 100] {
        // Each third from behind, so that neither the keys nor the heap are in that order.
        let ids: Vec<i64> = (0..count)
            .map(|at| first + (at * 67 + 13) % count)
            .collect();
        let new: Vec<NewEmail> = ids.iter().map(|id| email(*id)).collect();
        let rows = Email::enqueue_many(pool, new.clone()).await.unwrap();
        assert_eq!(rows.len(), new.len());
        for (row, new) in rows.iter().zip(&new) {
            assert_eq!(
                (
                    row.id,
                    &row.recipient,
                    &row.copy,
                    &row.letter,
                    &row.footer,
                    &row.attachment
                ),
                (
                    new.id,
                    &new.recipient,
                    &new.copy,
                    &new.letter,
                    &new.footer,
                    &new.attachment
                )
            );
        }
        first += count;
    }
    assert_eq!(count(pool, "attempts = 0 AND fence = 0").await, first);
}

#[tokio::test]
async fn one_bad_row_keeps_all_others() {
    let database = emails().await;
    let pool = &database.pool;
    Email::enqueue(pool, email(3)).await.unwrap();
    let refused = Email::enqueue_many(pool, (1..=5).map(email)).await;
    assert!(
        matches!(refused, Err(InsertError::AlreadyExists(_))),
        "{refused:?}"
    );
    assert_eq!(count(pool, "true").await, 1);
    let same = NewEmail { id: 4, ..email(3) };
    match Email::enqueue(pool, same).await {
        Err(InsertError::AlreadyExists(error)) => {
            assert_eq!(error.fault(), Fault::UniqueViolation);
            let name = (NAME == "PostgreSQL").then_some("one_each");
            assert_eq!(error.constraint(), name);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dropped_row_is_told() {
    let database = emails().await;
    let pool = &database.pool;
    match NAME {
        "PostgreSQL" => {
            run(
                pool,
                "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.id = 2 THEN RETURN NULL; END IF; RETURN new; END $$;
                 CREATE TRIGGER no BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION no()",
            )
            .await;
        }
        _ => run(pool, "CREATE TRIGGER no BEFORE INSERT ON jobs WHEN new.id = 2 BEGIN SELECT raise(IGNORE); END").await,
    }
    let ignored = Email::enqueue(pool, email(2)).await;
    assert!(
        matches!(ignored, Err(InsertError::Ignored(_))),
        "{ignored:?}"
    );
    let rows = Email::enqueue_many(pool, [email(1), email(2), email(3)])
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|row| row.id).collect::<Vec<_>>(),
        [1, 3],
        "{NAME}"
    );
}

/// Types that cannot be written, nor cloned: nobody asks that of a queue whose rows others insert.
mod read_only {
    use super::*;

    #[derive(Debug, Deserialize)]
    pub(super) struct Seen {
        #[allow(dead_code)]
        subject: String,
    }

    #[derive(Debug, sqlx::FromRow, Queue)]
    #[rowlock(table = "jobs")]
    pub(super) struct Watched {
        #[rowlock(key)]
        pub(super) id: i64,
        #[sqlx(json)]
        #[allow(dead_code)]
        letter: Seen,
        #[rowlock(run_at)]
        run_at: Timestamp,
        #[rowlock(state)]
        state: QueueState,
        #[rowlock(attempts(max = 3))]
        attempts: i32,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(lease)]
        leased_until: Option<Timestamp>,
    }
}

#[tokio::test]
async fn a_field_that_is_only_read_is_no_mistake() {
    let database = emails().await;
    let pool = &database.pool;
    Email::enqueue(pool, email(1)).await.unwrap();
    let claimed = read_only::Watched::claim(pool, 1).await.unwrap();
    assert_eq!(claimed[0].id, 1);
}

/// Nothing is given.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", new = "AnotherTick")]
struct Tick {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Option<Timestamp>,
    #[rowlock(state(ready = "it's new", running = "b"))]
    state: String,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(counter)]
    seen: i64,
    #[rowlock(on_insert = "'me'")]
    maker: String,
}

#[tokio::test]
async fn a_job_of_nothing() {
    let [time, _, _, id] = types();
    let database = database(&format!(
        "CREATE TABLE jobs (id {id}, run_at {time}, state text NOT NULL, attempts int NOT NULL, fence bigint NOT NULL, leased_until {time},
             seen bigint NOT NULL, maker text NOT NULL)"
    ))
    .await;
    let pool = &database.pool;
    let tick = Tick::enqueue(pool, AnotherTick {}).await.unwrap();
    assert!(tick.run_at.is_some());
    assert_eq!(
        (tick.state.as_str(), tick.seen, tick.maker.as_str()),
        ("it's new", 0, "me")
    );
    let many = Tick::enqueue_many(pool, (0..3).map(|_| AnotherTick {}))
        .await
        .unwrap();
    assert!(many.is_sorted_by_key(|tick| tick.id));
    assert_eq!(Tick::claim(pool, 50).await.unwrap().len(), 4, "{NAME}");
}

/// One that waits for each customer and kind.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue, FindOrCreate)]
#[rowlock(table = "jobs", unique(customer_id, kind, while(ready)))]
struct Waiting {
    #[rowlock(key, generated)]
    id: i64,
    customer_id: i64,
    kind: String,
    note: Option<String>,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    last_error: Option<String>,
}

/// One that waits or runs.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue, FindOrCreate)]
#[rowlock(table = "jobs", unique(customer_id, kind, while(running, ready)))]
struct Live {
    #[rowlock(key, generated)]
    id: i64,
    customer_id: i64,
    kind: String,
    #[rowlock(run_at, default)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// The same of a queue whose states are times.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue, FindOrCreate)]
#[rowlock(
    table = "jobs",
    unique(customer_id, where = "kind <> 'free'", while(ready, running))
)]
struct Timed {
    #[rowlock(key, generated)]
    id: i64,
    customer_id: i64,
    kind: String,
    #[rowlock(run_at, default)]
    run_at: Timestamp,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
    #[rowlock(dead)]
    dead_at: Option<Timestamp>,
    #[rowlock(attempts(max = 3))]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// The index is that of `ddl`.
async fn unique_jobs(ddl: &str) -> super::Database {
    let [time, _, _, id] = types();
    let database = database(&format!(
        "CREATE TABLE jobs (id {id}, customer_id bigint NOT NULL, kind text NOT NULL, note text, run_at {time} NOT NULL, state text,
             attempts int NOT NULL, fence bigint NOT NULL, leased_until {time}, last_error text, finished_at {time}, dead_at {time})"
    ))
    .await;
    // Twice: it changes nothing then.
    run(&database.pool, ddl).await;
    run(&database.pool, ddl).await;
    database
}

fn job(kind: &str) -> NewWaiting {
    NewWaiting {
        customer_id: 7,
        kind: kind.to_owned(),
        note: None,
        run_at: "2020-01-01T00:00:00Z".parse().unwrap(),
    }
}

fn live() -> NewLive {
    NewLive {
        customer_id: 7,
        kind: "mail".to_owned(),
    }
}

const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn a_job_is_enqueued_once_while_it_waits() {
    let database = unique_jobs(Waiting::ddl::<Db>()).await;
    let pool = &database.pool;
    let first = Waiting::enqueue(pool, job("mail")).await.unwrap();
    assert!(first.is_created(), "{NAME}");
    assert_eq!(first.run_at, job("mail").run_at);
    let again = NewWaiting {
        note: Some("again".to_owned()),
        ..job("mail")
    };
    let again = Waiting::enqueue(pool, again)
        .delay(Duration::from_secs(9))
        .await
        .unwrap();
    assert_eq!(again, FoundOrCreated::Found(first.clone().into_inner()));
    assert!(
        Waiting::enqueue(pool, job("push"))
            .await
            .unwrap()
            .is_created()
    );
    let mut claimed = Waiting::claim(pool, 1).await.unwrap();
    // It runs, so it is to be done once more.
    let second = Waiting::enqueue(pool, job("mail"))
        .delay(NOW)
        .await
        .unwrap();
    assert!(second.is_created());
    assert!(second.run_at > first.run_at);
    claimed.remove(0).complete(pool).await.unwrap();
    assert!(
        !Waiting::enqueue(pool, job("mail"))
            .await
            .unwrap()
            .is_created()
    );
}

#[tokio::test]
async fn a_job_is_enqueued_once_while_it_waits_or_runs() {
    let database = unique_jobs(Live::ddl::<Db>()).await;
    let pool = &database.pool;
    let first = Live::enqueue(pool, live()).await.unwrap();
    assert!(first.is_created(), "{NAME}");
    let claimed = Live::claim(pool, 1).await.unwrap().remove(0);
    let found = Live::enqueue(pool, live()).await.unwrap();
    assert!(!found.is_created());
    assert_eq!((found.id, found.state), (first.id, QueueState::Running));
    // Ready again, and claimed again.
    assert!(matches!(
        claimed.retry_after(pool, "no", NOW).await.unwrap(),
        Retried::Later(_)
    ));
    let claimed = Live::claim(pool, 1).await.unwrap().remove(0);
    claimed.complete(pool).await.unwrap();
    assert!(Live::enqueue(pool, live()).await.unwrap().is_created());
    let claimed = Live::claim(pool, 1).await.unwrap().remove(0);
    claimed.fail(pool, "never").await.unwrap();
    let third = Live::enqueue(pool, live())
        .delay(Duration::from_secs(60))
        .await
        .unwrap();
    assert!(third.is_created());
    assert!(Live::claim(pool, 1).await.unwrap().is_empty());
    assert_eq!(count(pool, "true").await, 3);
}

#[tokio::test]
async fn a_key_of_a_queue_whose_states_are_times() {
    let database = unique_jobs(Timed::ddl::<Db>()).await;
    let pool = &database.pool;
    let job = |kind: &str| NewTimed {
        customer_id: 7,
        kind: kind.to_owned(),
    };
    let first = Timed::enqueue(pool, job("mail")).await.unwrap();
    assert!(
        !Timed::enqueue(pool, job("push"))
            .await
            .unwrap()
            .is_created(),
        "{NAME}"
    );
    let claimed = Timed::claim(pool, 1).await.unwrap().remove(0);
    assert_eq!(
        Timed::enqueue(pool, job("mail")).await.unwrap().id,
        first.id
    );
    // What the index does not have.
    for _ in 0..2 {
        assert!(matches!(
            Timed::enqueue(pool, job("free")).await,
            Ok(FoundOrCreated::Created(_))
        ));
    }
    claimed.complete(pool).await.unwrap();
    assert!(
        Timed::enqueue(pool, job("mail"))
            .await
            .unwrap()
            .is_created()
    );
}

/// All at the same moment: one creates it, the others find it.
#[tokio::test]
async fn concurrent_callers_enqueue_one() {
    const CALLERS: usize = 4;
    let database = unique_jobs(Live::ddl::<Db>()).await;
    let pool = &database.pool;
    for round in 0..10 {
        let barrier = Arc::new(Barrier::new(CALLERS));
        let calls = (0..CALLERS).map(|_| {
            let (pool, barrier) = (pool.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                let new = NewLive {
                    customer_id: round,
                    ..live()
                };
                Live::enqueue(&pool, new).await.unwrap()
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut outcomes = Vec::new();
        for call in calls {
            outcomes.push(call.await.unwrap());
        }
        let created = outcomes.iter().filter(|outcome| outcome.is_created());
        assert_eq!(created.count(), 1, "{NAME}");
        assert!(outcomes.windows(2).all(|pair| pair[0].id == pair[1].id));
    }
}

/// The naive twin: two callers who look first and then insert, each before the other has inserted, on a table without the index.
#[tokio::test]
async fn callers_who_look_before_they_insert_enqueue_two() {
    let database = unique_jobs("SELECT 1").await;
    let pool = &database.pool;
    let mut free = 0;
    for _ in 0..2 {
        free += i64::from(count(pool, "customer_id = 7 AND state = 'ready'").await == 0);
    }
    let [now, _] = match NAME {
        "PostgreSQL" => ["now()", ""],
        _ => ["CURRENT_TIMESTAMP", ""],
    };
    for _ in 0..free {
        run(
            pool,
            &format!("INSERT INTO jobs (customer_id, kind, run_at, state, attempts, fence) VALUES (7, 'mail', {now}, 'ready', 0, 0)"),
        )
        .await;
    }
    assert_eq!(count(pool, "state = 'ready'").await, 2);
    // And that the index is not there is told.
    let missing = Waiting::enqueue(pool, job("mail")).await;
    assert!(
        matches!(missing, Err(FindOrCreateError::MissingUniqueIndex(..))),
        "{missing:?}"
    );
}

/// A newer row waits for the same, so the one that failed cannot be ready beside it.
#[tokio::test]
async fn a_retry_beside_a_newer_job_is_dead() {
    let database = unique_jobs(Waiting::ddl::<Db>()).await;
    let pool = &database.pool;
    let old = Waiting::enqueue(pool, job("mail")).await.unwrap();
    let claimed = Waiting::claim(pool, 1).await.unwrap().remove(0);
    let newer = Waiting::enqueue(pool, job("mail")).await.unwrap();
    assert!(newer.is_created());
    let retried = claimed.retry_after(pool, "no such server", NOW).await;
    assert!(matches!(retried, Ok(Retried::Dead)), "{NAME} {retried:?}");
    assert_eq!(
        count(pool, &format!("state = 'dead' AND id = {}", old.id)).await,
        1
    );
    // Of many, and after a lease that ended.
    let claimed = Waiting::claim(pool, 1).await.unwrap();
    Waiting::enqueue(pool, job("mail")).await.unwrap();
    let refused = rowlock::queue::Claimed::snooze_many(pool, claimed, NOW)
        .await
        .unwrap();
    assert!(
        matches!(refused[0].error, FinishError::NotReady(_)),
        "{refused:?}"
    );
    let claimed = Waiting::claim(pool, 1).lease(NOW).await.unwrap();
    assert_eq!(claimed.len(), 1);
    Waiting::enqueue(pool, job("mail")).await.unwrap();
    let rescued = Waiting::rescue(pool).await.unwrap();
    assert_eq!((rescued.ready, rescued.dead), (0, 1));
    assert_eq!(count(pool, "state = 'ready'").await, 1);
    assert_eq!(count(pool, "state = 'dead'").await, 3);
    // Nor can it be while that one waits.
    let redriven = Waiting::redrive(pool).await.unwrap();
    assert_eq!((redriven.ready, redriven.refused), (0, 3));
}

/// The one that failed is gone by the time that it is to be dead: a concurrent cancel, say. Here a trigger is first.
#[tokio::test]
async fn a_job_that_is_lost_before_it_is_dead_is_lost() {
    let database = unique_jobs(Waiting::ddl::<Db>()).await;
    let pool = &database.pool;
    let trigger = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.state = 'dead' THEN DELETE FROM jobs WHERE id = OLD.id; RETURN NULL; END IF; RETURN NEW; END $$;
             CREATE TRIGGER first BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION first()"
        }
        _ => {
            "CREATE TRIGGER first BEFORE UPDATE ON jobs WHEN NEW.state = 'dead' BEGIN
                 DELETE FROM jobs WHERE id = OLD.id; SELECT RAISE(IGNORE); END"
        }
    };
    run(pool, trigger).await;
    for how in 0..5 {
        run(pool, "DELETE FROM jobs").await;
        Waiting::enqueue(pool, job("mail")).await.unwrap();
        let mut claimed = Waiting::claim(pool, 1).await.unwrap();
        Waiting::enqueue(pool, job("mail")).await.unwrap();
        let mut one = || claimed.remove(0);
        let error = match how {
            0 => one().retry(pool, "no").await.unwrap_err(),
            1 => one().snooze(pool, NOW).await.unwrap_err(),
            2 => one().release(pool).await.unwrap_err(),
            3 => {
                let lost = Claimed::retry_many(pool, [(one(), "no")]).await;
                lost.unwrap().remove(0).error
            }
            _ => {
                let lost = Claimed::release_many(pool, claimed).await;
                lost.unwrap().remove(0).error
            }
        };
        assert!(
            matches!(error, FinishError::LeaseLost(_)),
            "{NAME} {how} {error:?}"
        );
        assert_eq!(count(pool, "true").await, 1);
    }
}

/// What holds the key is part of the caller's transaction, or was deleted in it.
#[tokio::test]
async fn unique_jobs_in_a_transaction() {
    let database = unique_jobs(Live::ddl::<Db>()).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    let first = Live::enqueue(&mut *tx, live()).await.unwrap();
    let found = Live::enqueue(&mut *tx, live()).await.unwrap();
    assert!(first.is_created() && !found.is_created());
    tx.execute("DELETE FROM jobs").await.unwrap();
    assert!(Live::enqueue(&mut *tx, live()).await.unwrap().is_created());
    tx.commit().await.unwrap();
    assert_eq!(count(pool, "true").await, 1, "{NAME}");
}
