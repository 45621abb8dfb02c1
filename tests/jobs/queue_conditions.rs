//! Typed conditions of claims, workers, redrives and stats.

use std::sync::{Arc, Mutex};

use rowlock::queue::{Claimed, Job, JobOutcome, QueueState};
use rowlock::{Fence, Guarded, Queue};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::Notify;

use super::{NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

/// `Queue` alone makes the constants of its filters.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Email {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    kind: Option<String>,
    #[rowlock(filter)]
    weight: Option<i64>,
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

/// `Guarded` beside it makes those of all other columns.
#[derive(Debug, sqlx::FromRow, Queue, Guarded)]
#[rowlock(table = "jobs")]
struct Parcel {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    kind: Option<String>,
    weight: Option<i64>,
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

/// `Guarded` alone makes those of a filter too, where there is no queue.
#[derive(Debug, sqlx::FromRow, Guarded)]
#[rowlock(table = "jobs")]
struct Label {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    kind: Option<String>,
}

const KINDS: [Option<&str>; 3] = [None, Some("mail"), Some("push")];
const WEIGHTS: [Option<i64>; 3] = [None, Some(1), Some(2)];

type Row = (Option<&'static str>, Option<i64>);

/// Every pair of a kind and a weight, by its id.
fn rows() -> impl Iterator<Item = (i64, Row)> {
    let pairs = KINDS
        .into_iter()
        .flat_map(|kind| WEIGHTS.map(|weight| (kind, weight)));
    (1..).zip(pairs)
}

fn ids(condition: impl Fn(Row) -> bool) -> Vec<i64> {
    rows()
        .filter(|(_, row)| condition(*row))
        .map(|(id, _)| id)
        .collect()
}

async fn run(pool: &Pool, sql: &str) {
    pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

async fn jobs(state: &str) -> super::Database {
    let time = match NAME {
        "PostgreSQL" => "timestamptz",
        _ => "text",
    };
    let database = database(&format!(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, kind text, weight bigint, run_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP,
             state text NOT NULL DEFAULT '{state}', attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until {time})"
    ))
    .await;
    for (id, (kind, weight)) in rows() {
        sqlx::query("INSERT INTO jobs (id, kind, weight) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(kind)
            .bind(weight)
            .execute(&database.pool)
            .await
            .unwrap();
    }
    database
}

fn claimed(rows: &[Claimed<Email>]) -> Vec<i64> {
    rows.iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn not_equal_is_met_by_null() {
    let database = jobs("ready").await;
    let pool = &database.pool;
    let batch = Email::claim(pool, 50).when(Email::KIND.ne("push"));
    let batch = batch.await.unwrap();
    assert_eq!(
        claimed(&batch),
        ids(|(kind, _)| kind != Some("push")),
        "{NAME}"
    );
    // The naive text, which a NULL does not meet.
    let naive = "SELECT count(*) FROM jobs WHERE kind <> 'push'";
    let naive: i64 = sqlx::query_scalar(naive).fetch_one(pool).await.unwrap();
    assert_eq!(naive, 3);
}

/// Each comparison of two columns with each value, joined both ways, as Rust has it.
#[tokio::test]
async fn every_comparison_is_that_of_rust() {
    type Holds = fn(Option<i64>, Option<i64>) -> bool;
    type Ordered = fn(&i64, &i64) -> bool;
    let both = |holds: Ordered, one: Option<i64>, other: Option<i64>| {
        one.zip(other)
            .is_some_and(|(one, other)| holds(&one, &other))
    };
    let database = jobs("ready").await;
    let pool = &database.pool;
    let mut checked = 0;
    for value in WEIGHTS {
        let comparisons = [
            (Email::WEIGHT.eq(value), (|a, b| a == b) as Holds),
            (Email::WEIGHT.ne(value), |a, b| a != b),
            (Email::WEIGHT.lt(value), |_, _| false),
            (Email::WEIGHT.le(value), |_, _| false),
            (Email::WEIGHT.gt(value), |_, _| false),
            (Email::WEIGHT.ge(value), |_, _| false),
        ];
        let ordered: [Option<Ordered>; 6] = [
            None,
            None,
            Some(i64::lt),
            Some(i64::le),
            Some(i64::gt),
            Some(i64::ge),
        ];
        for ((condition, holds), ordered) in comparisons.into_iter().zip(ordered) {
            let meets = |weight| match ordered {
                Some(ordered) => both(ordered, weight, value),
                None => holds(weight, value),
            };
            let mut tx = pool.begin().await.unwrap();
            let batch = Email::claim(&mut *tx, 50).when(condition).await.unwrap();
            tx.rollback().await.unwrap();
            let expected = ids(|(_, weight)| meets(weight));
            assert_eq!(claimed(&batch), expected, "{NAME} {value:?}");
            checked += 1;
        }
        for kind in KINDS {
            let own = kind.map(str::to_owned);
            let (is, weight) = (Email::KIND.eq(own.clone()), Email::WEIGHT.ge(value));
            let told = Email::stats(pool).when(is.and(weight)).await.unwrap();
            let expected =
                ids(|(other, weight)| other == kind && both(i64::ge, weight, value)).len();
            assert_eq!(told.ready, expected as u64, "{kind:?} and {value:?}");
            assert_eq!(told.due, told.ready);
            let (is_not, weight) = (Email::KIND.ne(own), Email::WEIGHT.lt(value));
            let told = Email::stats(pool).when(is_not.or(weight)).await.unwrap();
            let expected =
                ids(|(other, weight)| other != kind || both(i64::lt, weight, value)).len();
            assert_eq!(told.ready, expected as u64, "not {kind:?} or {value:?}");
        }
    }
    assert_eq!(checked, 18);
}

/// The values of each are bound after the parameters of the claim itself, in the order in which they were said.
#[tokio::test]
async fn conditions_and_values_together_must_all_be_met() {
    let database = jobs("ready").await;
    let pool = &database.pool;
    let batch = Email::claim(pool, 50)
        .when(Email::KIND.one_of(["mail", "push"]))
        .only(Email::WEIGHT, 2)
        .when(
            Email::KIND
                .ne("push")
                .and(Email::WEIGHT.gt(1).or(Email::KIND.is_null())),
        )
        .await
        .unwrap();
    assert_eq!(
        claimed(&batch),
        ids(|row| row == (Some("mail"), Some(2))),
        "{NAME}"
    );
    let none = Email::claim(pool, 50).when(Email::KIND.one_of([None::<String>; 0]));
    assert!(none.await.unwrap().is_empty());
    let none = Email::claim(pool, 50)
        .only(Email::WEIGHT, None)
        .when(Email::WEIGHT.is_not_null());
    assert!(none.await.unwrap().is_empty());
}

/// Also where the rows are claimed one by one, because the database refuses one of them.
#[tokio::test]
async fn a_bad_row_keeps_the_condition() {
    let database = jobs("ready").await;
    let pool = &database.pool;
    run(pool, "UPDATE jobs SET attempts = 2 WHERE id = 2").await;
    match NAME {
        "PostgreSQL" => {
            run(
                pool,
                "ALTER TABLE jobs ADD CHECK (state <> 'running' OR id <> 1)",
            )
            .await;
        }
        _ => run(pool, "CREATE TRIGGER no BEFORE UPDATE ON jobs WHEN new.state = 'running' AND old.id = 1 BEGIN SELECT raise(ABORT, 'no'); END").await,
    }
    let mut bad = 0;
    let batch = Email::claim(pool, 50)
        .when(Email::KIND.is_null())
        .on_bad_row(|_| bad += 1)
        .await
        .unwrap();
    assert_eq!((claimed(&batch), bad), (vec![2, 3], 1), "{NAME}");
}

#[tokio::test]
async fn a_redrive_under_a_condition() {
    let database = jobs("dead").await;
    let pool = &database.pool;
    let redriven = Email::redrive(pool)
        .when(Email::KIND.ne("push"))
        .limit(4)
        .await;
    assert_eq!(redriven.unwrap().ready, 4);
    let stats = Email::stats(pool).when(Email::KIND.ne("push")).await;
    let stats = stats.unwrap();
    assert_eq!((stats.ready, stats.dead), (4, 2), "{NAME}");
    let stats = Email::stats(pool).when(Email::KIND.eq("push")).await;
    assert_eq!(stats.unwrap().dead, 3);
}

#[tokio::test]
async fn a_worker_under_a_condition() {
    let database = jobs("ready").await;
    let pool = &database.pool;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let done = Arc::new(Notify::new());
    let (mine, stop) = (Arc::clone(&seen), Arc::clone(&done));
    let expected = ids(|(kind, _)| kind != Some("push"));
    let all = expected.len();
    let handler = move |email: Job<Email>| {
        let mut seen = mine.lock().unwrap();
        seen.push(email.id);
        if seen.len() == all {
            done.notify_one();
        }
        async { JobOutcome::Complete }
    };
    let worker = Email::worker(pool)
        .when(Email::KIND.ne("push"))
        .shutdown(async move { stop.notified().await });
    worker.run(handler).await.unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, expected, "{NAME}");
    assert_eq!(
        Email::stats(pool).await.unwrap().ready,
        3,
        "the others stay"
    );
}

/// One type of constants, whichever of the two derives makes them.
#[tokio::test]
async fn a_queue_that_is_guarded_has_constants_for_all_columns() {
    let database = jobs("ready").await;
    let pool = &database.pool;
    let heavy = Parcel::WEIGHT
        .eq(2)
        .and(Parcel::STATE.eq(QueueState::Ready));
    let batch = Parcel::claim(pool, 50)
        .only(Parcel::KIND, "mail".to_owned())
        .when(heavy);
    let batch: Vec<i64> = batch.await.unwrap().iter().map(|row| row.id).collect();
    assert_eq!(batch, ids(|row| row == (Some("mail"), Some(2))), "{NAME}");
    // What is no filter of `Queue` is one of `Guarded`, and the other way round.
    let parcel = Parcel::update_if(pool, 1, Parcel::KIND.is_null(), |row| {
        row.set(Parcel::KIND, "mail");
        row.set(Parcel::WEIGHT, 2);
    });
    let parcel = parcel.await.unwrap();
    assert_eq!(
        (parcel.kind.as_deref(), parcel.weight),
        (Some("mail"), Some(2))
    );
    let again = Parcel::claim(pool, 50)
        .only(Parcel::KIND, "mail".to_owned())
        .only(Parcel::WEIGHT, 2);
    assert_eq!(again.await.unwrap().len(), 1);
    let label = Label::patch(pool, 2, |row| {
        row.set(Label::KIND, None);
    });
    assert_eq!(label.await.unwrap().kind, None);
}

/// The text of a condition has no value in it, so that a claim is one prepared statement.
#[tokio::test]
async fn a_value_is_never_part_of_the_text() {
    let database = jobs("ready").await;
    let pool = &database.pool;
    let quoted = "x' OR 'a' = 'a";
    let batch = Email::claim(pool, 50).when(Email::KIND.eq(quoted));
    assert!(batch.await.unwrap().is_empty());
}
