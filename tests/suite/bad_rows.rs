//! `#[derive(Queue)]` and rows that cannot be handled: each hurts only itself, and ends with its reason.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock::queue::{BadRow, Claimed, FinishError, Job, QueueState, Retried, Unfinished, Worker};
use rowlock::{Fault, Fence, Queue};
use sqlx::{AssertSqlSafe, FromRow as _};

use super::worker::{HOUR, SHORT, until};
use super::{BEGIN_WRITE, Database, Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

/// What newer programs write more kinds of.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
enum Kind {
    Mail,
    Call,
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "tasks")]
struct Task {
    #[rowlock(key, generated)]
    id: i64,
    kind: Kind,
    slug: String,
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
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

const TASKS: &str = "CREATE TABLE tasks (
        id {id},
        kind text NOT NULL DEFAULT 'mail',
        slug text NOT NULL DEFAULT '',
        run_at {timestamp} NOT NULL DEFAULT ({now}),
        state text NOT NULL DEFAULT 'ready',
        attempts integer NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        leased_until {timestamp},
        last_error text,
        finished_at {timestamp}
    )";

async fn run(pool: &Pool, sql: impl Into<String>) {
    let sql = AssertSqlSafe(sql.into());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

async fn tasks(rows: i64) -> Database {
    let database = database(TASKS).await;
    run(&database.pool, Task::ddl::<Db>()).await;
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
               INSERT INTO tasks (slug) SELECT CAST(i AS text) FROM n";
    let insert = sqlx::query(sql).bind(rows);
    insert.execute(&database.pool).await.unwrap();
    database
}

/// A row as it is, whether or not the model can read it.
#[derive(Debug, sqlx::FromRow)]
struct Plain {
    id: i64,
    state: QueueState,
    attempts: i32,
    last_error: Option<String>,
    is_finished: bool,
}

async fn plain(pool: &Pool) -> Vec<Plain> {
    let sql = "SELECT id, state, attempts, last_error, finished_at IS NOT NULL AS is_finished FROM tasks ORDER BY id";
    sqlx::query_as(sql).fetch_all(pool).await.unwrap()
}

async fn in_state(pool: &Pool, state: QueueState) -> BTreeSet<i64> {
    let rows = plain(pool).await.into_iter();
    let rows = rows.filter(|row| row.state == state);
    rows.map(|row| row.id).collect()
}

/// The database refuses every statement that makes a row what the condition says, and lets the rows that are so already be.
async fn refuse(pool: &Pool, condition: &str) {
    let sql = match NAME {
        "SQLite" => format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON tasks WHEN {condition} BEGIN SELECT RAISE(ABORT, 'refused'); END"
        ),
        _ => format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON tasks FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()"
        ),
    };
    run(pool, sql).await;
}

/// A trigger drops every write that makes a row what the condition says, and nobody is told.
async fn drop_writes(pool: &Pool, condition: &str) {
    let sql = match NAME {
        "SQLite" => format!(
            "CREATE TRIGGER dropping BEFORE UPDATE ON tasks WHEN {condition} BEGIN SELECT RAISE(IGNORE); END"
        ),
        _ => format!(
            "CREATE FUNCTION dropping() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER dropping BEFORE UPDATE ON tasks FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION dropping()"
        ),
    };
    run(pool, sql).await;
}

fn ids(batch: &[Claimed<Task>]) -> Vec<i64> {
    batch.iter().map(|task| task.id).collect()
}

/// Small steps, and no wait before the next attempt.
fn worker(pool: &Pool) -> Worker<Db, Task> {
    let none = Duration::from_millis(1);
    Task::worker(pool).poll(SHORT).backoff(none, none)
}

/// Ids that handlers have seen.
type Seen = Arc<Mutex<Vec<i64>>>;

/// Runs the worker until no row is left that can be handled; every handler ends well.
async fn work_off(
    worker: Worker<Db, Task>,
    pool: &Pool,
    left: &[i64],
) -> (Vec<i64>, rowlock::queue::WorkerCounts) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let seen = Seen::default();
    let seen_by_all = seen.clone();
    let worker = worker.shutdown(async {
        let _ = stopped.await;
    });
    let running = tokio::spawn(worker.run(move |task: Job<Task>| {
        seen_by_all.lock().unwrap().push(task.id);
        async {}
    }));
    let left = BTreeSet::from_iter(left.iter().copied());
    until("every row has ended", async || {
        // One look: a row that was running in a first one could be ready in a second one.
        let mut open = plain(pool).await;
        open.retain(|row| matches!(row.state, QueueState::Ready | QueueState::Running));
        left == BTreeSet::from_iter(open.iter().map(|row| row.id))
    })
    .await;
    stop.send(()).unwrap();
    let counts = running.await.unwrap().unwrap();
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort_unstable();
    (seen, counts)
}

/// Every fifth row is of a kind that this program does not know.
#[tokio::test]
async fn rows_that_do_not_fit_the_model_end_and_keep_no_other() {
    for prefetch in [0, 30] {
        let database = tasks(60).await;
        let pool = &database.pool;
        run(pool, "UPDATE tasks SET kind = 'fax' WHERE id % 5 = 0").await;
        let worker = worker(pool).concurrency(3).prefetch(prefetch);
        let (seen, counts) = work_off(worker, pool, &[]).await;
        let good: Vec<i64> = (1..=60).filter(|id| id % 5 != 0).collect();
        assert_eq!(seen, good);
        for row in plain(pool).await {
            assert!(row.is_finished, "{row:?}");
            if row.id % 5 != 0 {
                assert_eq!((row.state, row.attempts), (QueueState::Done, 1));
                assert_eq!(row.last_error, None);
                continue;
            }
            assert_eq!((row.state, row.attempts), (QueueState::Dead, 3), "{row:?}");
            let error = row.last_error.unwrap();
            assert!(
                error.starts_with("the row does not fit the model: "),
                "{error}"
            );
            assert!(error.contains("kind"), "{error}");
        }
        assert_eq!((counts.completed, counts.started), (48, 48));
        assert_eq!((counts.bad, counts.retried, counts.dead), (36, 24, 12));
        assert_eq!((counts.refused, counts.lease_lost), (0, 0));
    }
}

/// What a program does that decodes the rows of a claim as a whole.
#[tokio::test]
async fn the_naive_twin_gets_nothing() {
    let database = tasks(3).await;
    let pool = &database.pool;
    run(pool, "UPDATE tasks SET kind = 'fax' WHERE id = 2").await;
    // The rows first: a `query_as` that ends at the second one may be seen before its statement has committed.
    let claim = "UPDATE tasks SET state = 'running' WHERE state = 'ready' RETURNING *";
    let rows = sqlx::query(claim).fetch_all(pool).await.unwrap();
    let claimed: Result<Vec<Task>, sqlx::Error> = rows.iter().map(Task::from_row).collect();
    assert_eq!(Fault::of(&claimed.unwrap_err()), Fault::Decode);
    assert_eq!(in_state(pool, QueueState::Running).await.len(), 3);
}

/// The good rows come back, also those behind the bad ones, and the bad ones are reported.
#[tokio::test]
async fn a_claim_by_hand_returns_the_good_rows() {
    let database = tasks(6).await;
    let pool = &database.pool;
    run(
        pool,
        "UPDATE tasks SET kind = 'fax' WHERE id <= 3; UPDATE tasks SET attempts = 2 WHERE id = 2",
    )
    .await;
    let mut reported = Vec::new();
    let report =
        |row: &BadRow| reported.push((row.error.to_string(), row.error.fault(), row.became));
    let batch = Task::claim(pool, 2)
        .backoff(HOUR, HOUR)
        .on_bad_row(report)
        .await
        .unwrap();
    assert_eq!(ids(&batch), [4, 5]);
    assert_eq!(Claimed::complete_many(pool, batch).await.unwrap().len(), 0);
    assert_eq!(reported.len(), 3);
    for (index, (text, fault, became)) in reported.into_iter().enumerate() {
        let id = index + 1;
        assert_eq!(fault, Fault::Decode);
        assert!(
            text.starts_with(&format!("claim of tasks (id = {id}): ")),
            "{text}"
        );
        match became {
            Some(Retried::Later(delay)) => assert!(id != 2 && delay <= HOUR),
            became => assert_eq!((id, became), (2, Some(Retried::Dead))),
        }
    }
    let rows = plain(pool).await;
    let rows: Vec<_> = rows.iter().map(|row| (row.state, row.attempts)).collect();
    use QueueState::{Dead, Done, Ready};
    assert_eq!(
        rows,
        [
            (Ready, 1),
            (Dead, 3),
            (Ready, 1),
            (Done, 1),
            (Done, 1),
            (Ready, 0)
        ]
    );
    // In a transaction of the caller as well.
    run(pool, "UPDATE tasks SET kind = 'fax' WHERE id = 6").await;
    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    let claim = Task::claim(&mut *tx, 2).backoff(HOUR, HOUR);
    assert!(claim.await.unwrap().is_empty());
    tx.commit().await.unwrap();
    assert_eq!(plain(pool).await[5].attempts, 1);
}

/// A model whose key cannot be read either, and which panics.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "notes")]
struct Note {
    #[rowlock(key)]
    kind: Panics,
    #[rowlock(key)]
    number: i16,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 2))]
    attempts: i16,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

/// A decoder that was written for the values that there are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Panics(String);

impl<DB: sqlx::Database> sqlx::Type<DB> for Panics
where
    String: sqlx::Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        <String as sqlx::Type<DB>>::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        <String as sqlx::Type<DB>>::compatible(ty)
    }
}

impl sqlx::postgres::PgHasArrayType for Panics {
    fn array_type_info() -> sqlx::postgres::PgTypeInfo {
        <String as sqlx::postgres::PgHasArrayType>::array_type_info()
    }
}

impl<'q, DB: sqlx::Database> sqlx::Encode<'q, DB> for Panics
where
    String: sqlx::Encode<'q, DB>,
{
    fn encode_by_ref(
        &self,
        buffer: &mut DB::ArgumentBuffer,
    ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
        self.0.encode_by_ref(buffer)
    }
}

impl<'r, DB: sqlx::Database> sqlx::Decode<'r, DB> for Panics
where
    String: sqlx::Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
        let text = String::decode(value)?;
        assert_ne!(text, "new", "a kind that nobody knows");
        Ok(Self(text))
    }
}

#[tokio::test]
async fn a_decoder_may_panic_and_a_key_be_unreadable() {
    let database = database(
        "CREATE TABLE notes (kind text, number smallint, run_at {timestamp} NOT NULL DEFAULT ({now}), state text NOT NULL DEFAULT 'ready',
            attempts smallint NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until {timestamp}, PRIMARY KEY (kind, number));
         INSERT INTO notes (kind, number) VALUES ('a', 1), ('new', 1), ('b', 1), ('new', 2)",
    )
    .await;
    let pool = &database.pool;
    run(pool, Note::ddl::<Db>()).await;
    let mut reported = Vec::new();
    let none = Duration::ZERO;
    let batch = Note::claim(pool, 4)
        .backoff(none, none)
        .on_bad_row(|row| reported.push(row.error.to_string()))
        .await
        .unwrap();
    let kinds: BTreeSet<_> = batch.iter().map(|note| note.kind.0.as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["a", "b"]));
    assert_eq!(Claimed::complete_many(pool, batch).await.unwrap().len(), 0);
    reported.sort();
    // Each twice, as they are due again at once.
    let text = |number| {
        format!("claim of notes (kind = …, number = {number}): a column does not fit its field")
    };
    assert_eq!(reported, [text(1), text(1), text(2), text(2)]);
    let dead = "SELECT count(*) FROM notes WHERE kind = 'new' AND state = 'dead' AND attempts = 2";
    let dead: i64 = sqlx::query_scalar(dead).fetch_one(pool).await.unwrap();
    assert_eq!(dead, 2);
}

/// The database refuses that some rows are running: they are put off, and in the end dead.
#[tokio::test]
async fn rows_that_cannot_be_claimed_keep_no_other() {
    for prefetch in [0, 30] {
        let database = tasks(40).await;
        let pool = &database.pool;
        refuse(pool, "NEW.id % 10 = 1 AND NEW.state = 'running'").await;
        let worker = worker(pool).concurrency(3).prefetch(prefetch);
        let (seen, counts) = work_off(worker, pool, &[]).await;
        assert_eq!(
            seen,
            (1..=40).filter(|id| id % 10 != 1).collect::<Vec<i64>>()
        );
        for row in plain(pool).await {
            let (state, attempts) = match row.id % 10 {
                1 => (QueueState::Dead, 3),
                _ => (QueueState::Done, 1),
            };
            assert_eq!(
                (row.state, row.attempts, row.is_finished),
                (state, attempts, true)
            );
            if state == QueueState::Dead {
                let error = row.last_error.unwrap();
                assert!(
                    error.starts_with("the row could not be claimed: "),
                    "{error}"
                );
                assert!(error.contains("refused"), "{error}");
            }
        }
        assert_eq!((counts.completed, counts.bad, counts.dead), (36, 12, 4));
    }
}

/// Nothing at all may be written about some rows, like under a CHECK that was added NOT VALID. They stay as they are, even where
/// they are more than what is claimed at once.
#[tokio::test]
async fn rows_that_cannot_be_written_are_passed_over() {
    for bad in [5_i64, 40] {
        let database = tasks(bad + 20).await;
        let pool = &database.pool;
        refuse(pool, &format!("NEW.id <= {bad}")).await;
        let left: Vec<i64> = (1..=bad).collect();
        let (seen, counts) = work_off(worker(pool).concurrency(3), pool, &left).await;
        assert_eq!(seen, Vec::from_iter(bad + 1..=bad + 20));
        // Found once, and not at every claim.
        assert_eq!(counts.bad, u64::try_from(bad).unwrap());
        let rows = plain(pool).await;
        assert!(
            rows.iter()
                .all(|row| row.attempts == i32::from(row.id > bad))
        );

        run(pool, "INSERT INTO tasks (slug) VALUES ('a'), ('b')").await;
        let batch = Task::claim(pool, 2).await.unwrap();
        assert_eq!(ids(&batch), [bad + 21, bad + 22]);
    }
}

/// In a transaction the error of the claim has aborted it, or may have.
#[tokio::test]
async fn in_a_transaction_a_refused_row_is_an_error() {
    let database = tasks(2).await;
    let pool = &database.pool;
    refuse(pool, "NEW.id = 1 AND NEW.state = 'running'").await;
    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    assert!(Task::claim(&mut *tx, 2).await.is_err());
    tx.rollback().await.unwrap();
    assert!(plain(pool).await.iter().all(|row| row.attempts == 0));
}

/// A job is there once, as long as it waits: who rescues the old one finds that it has been added again.
#[tokio::test]
async fn a_rescue_beside_a_newer_row_of_the_same_job() {
    let database = tasks(4).await;
    let pool = &database.pool;
    run(
        pool,
        "CREATE UNIQUE INDEX once ON tasks (slug) WHERE state = 'ready'",
    )
    .await;
    let _gone = Task::claim(pool, 4).lease(Duration::ZERO).await.unwrap();
    run(pool, "INSERT INTO tasks (slug) VALUES ('2')").await;
    let rescued = Task::rescue(pool).await.unwrap();
    assert_eq!((rescued.ready, rescued.dead, rescued.refused), (3, 1, 0));
    let rows = plain(pool).await;
    assert_eq!(
        (rows[1].state, rows[1].attempts, rows[1].is_finished),
        (QueueState::Dead, 1, true)
    );
    let error = rows[1].last_error.as_deref().unwrap();
    assert!(
        error.starts_with("the lease ended, and the row could not be ready again: "),
        "{error}"
    );
    let (seen, counts) = work_off(worker(pool), pool, &[]).await;
    assert_eq!(seen, [1, 3, 4, 5]);
    assert_eq!((counts.completed, counts.bad), (4, 0));
}

/// The naive twin of the rescue: one statement, and none of the rows comes back.
#[tokio::test]
async fn the_naive_rescue_takes_nothing_back() {
    let database = tasks(4).await;
    let pool = &database.pool;
    run(
        pool,
        "CREATE UNIQUE INDEX once ON tasks (slug) WHERE state = 'ready'",
    )
    .await;
    let _gone = Task::claim(pool, 4).lease(Duration::ZERO).await.unwrap();
    run(pool, "INSERT INTO tasks (slug) VALUES ('2')").await;
    let rescue = "UPDATE tasks SET state = 'ready' WHERE state = 'running'";
    let error = sqlx::query(rescue).execute(pool).await.unwrap_err();
    assert_eq!(Fault::of(&error), Fault::UniqueViolation);
    assert_eq!(in_state(pool, QueueState::Running).await.len(), 4);
}

/// A row that is refused, and one whose write is dropped without a word.
#[tokio::test]
async fn a_rescue_passes_over_what_cannot_be_written() {
    for dropped in [false, true] {
        let database = tasks(4).await;
        let pool = &database.pool;
        let _gone = Task::claim(pool, 4).lease(Duration::ZERO).await.unwrap();
        if dropped {
            drop_writes(pool, "NEW.id = 2").await;
        } else {
            refuse(pool, "NEW.id = 2").await;
        }
        for (ready, refused) in [(3, 1), (0, 1)] {
            let rescued = Task::rescue(pool).await.unwrap();
            assert_eq!(
                (rescued.ready, rescued.dead, rescued.refused),
                (ready, 0, refused)
            );
        }
        let (seen, counts) = work_off(worker(pool), pool, &[2]).await;
        assert_eq!(seen, [1, 3, 4]);
        // Found once, if the worker had the time to look at all.
        assert!(counts.completed == 3 && counts.refused <= 1, "{counts:?}");
    }
}

/// A job that fails after it was added again: the older row is dead, with the error of the handler.
#[tokio::test]
async fn a_retry_beside_a_newer_row_of_the_same_job() {
    let database = tasks(2).await;
    let pool = database.pool.clone();
    run(
        &pool,
        "CREATE UNIQUE INDEX once ON tasks (slug) WHERE state = 'ready'",
    )
    .await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let again = pool.clone();
    let worker = Task::worker(&pool)
        .poll(SHORT)
        .backoff(HOUR, HOUR)
        .shutdown(async {
            let _ = stopped.await;
        });
    let running = tokio::spawn(worker.run(move |task: Job<Task>| {
        let pool = again.clone();
        async move {
            if task.id == 1 {
                // It waits until the end of the test.
                let sql =
                    "INSERT INTO tasks (slug, run_at) VALUES ('1', '2999-01-01 00:00:00+00:00')";
                run(&pool, sql).await;
                return Err("no answer");
            }
            Ok(())
        }
    }));
    until("both have ended", async || {
        in_state(&pool, QueueState::Done).await == BTreeSet::from([2])
            && in_state(&pool, QueueState::Dead).await == BTreeSet::from([1])
    })
    .await;
    stop.send(()).unwrap();
    let counts = running.await.unwrap().unwrap();
    assert_eq!(
        (counts.completed, counts.dead, counts.lease_lost),
        (1, 1, 0)
    );
    let error = plain(&pool).await.remove(0).last_error.unwrap();
    assert!(
        error.starts_with("no answer; the row could not be ready again: "),
        "{error}"
    );
}

/// The statement that was refused may not have given its lock back when the next one says that the row is dead: on a machine that has
/// much else to do, of a few of these.
#[tokio::test]
async fn rows_beside_newer_ones_are_dead_at_once() {
    let database = tasks(200).await;
    let pool = database.pool.clone();
    run(
        &pool,
        "CREATE UNIQUE INDEX once ON tasks (slug) WHERE state = 'ready'",
    )
    .await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let again = pool.clone();
    let worker = worker(&pool).concurrency(1).shutdown(async {
        let _ = stopped.await;
    });
    let running = tokio::spawn(worker.run(move |task: Job<Task>| {
        let pool = again.clone();
        async move {
            let sql = "INSERT INTO tasks (slug, run_at) VALUES ($1, '2999-01-01 00:00:00+00:00')";
            let insert = sqlx::query(sql).bind(&task.slug);
            insert.execute(&pool).await.unwrap();
            Err::<(), _>("no answer")
        }
    }));
    until("each has had its end", async || {
        in_state(&pool, QueueState::Ready).await == BTreeSet::from_iter(201..=400)
    })
    .await;
    stop.send(()).unwrap();
    let counts = running.await.unwrap().unwrap();
    assert_eq!((counts.dead, counts.lease_lost), (200, 0), "{counts:?}");
}

/// A heartbeat is one statement for all rows; one that may not be written loses its lease, and no other does.
#[tokio::test]
async fn a_refused_heartbeat_is_that_of_one_row() {
    let database = tasks(3).await;
    let pool = database.pool.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (go_on, may_end) = tokio::sync::watch::channel(false);
    let lease = Duration::from_secs(1);
    let worker = Task::worker(&pool)
        .poll(SHORT)
        .lease(lease)
        .shutdown(async {
            let _ = stopped.await;
        });
    let running = tokio::spawn(worker.run(move |_: Job<Task>| {
        let mut may_end = may_end.clone();
        async move {
            may_end.wait_for(|may| *may).await.unwrap();
        }
    }));
    until("all run", async || {
        in_state(&pool, QueueState::Running).await.len() == 3
    })
    .await;
    refuse(&pool, "NEW.id = 2").await;
    let lease_of = async |id: i64| {
        let sql = "SELECT leased_until FROM tasks WHERE id = $1";
        let lease: Timestamp = sqlx::query_scalar(sql)
            .bind(id)
            .fetch_one(&pool)
            .await
            .unwrap();
        lease
    };
    let first = lease_of(2).await;
    until("the leases of the others go on", async || {
        let later = chrono::TimeDelta::milliseconds(1500);
        lease_of(1).await - first > later && lease_of(3).await - first > later
    })
    .await;
    assert_eq!(lease_of(2).await, first);
    go_on.send(true).unwrap();
    until("the others are done", async || {
        in_state(&pool, QueueState::Done).await == BTreeSet::from([1, 3])
    })
    .await;
    stop.send(()).unwrap();
    let counts = running.await.unwrap().unwrap();
    assert_eq!((counts.completed, counts.lease_lost), (2, 1));
}

/// A trigger drops the claims of the rows in front: nothing is refused, and nothing claimed.
#[tokio::test]
async fn rows_whose_claim_is_dropped_keep_no_other() {
    for (frozen, when) in [
        (30_i64, "NEW.id <= 30"),
        (40, "NEW.id <= 40 AND NEW.state = 'running'"),
    ] {
        for prefetch in [0, 30] {
            let database = tasks(frozen + 20).await;
            let pool = &database.pool;
            drop_writes(pool, when).await;
            let left: Vec<i64> = (1..=frozen).collect();
            let worker = worker(pool).concurrency(4).prefetch(prefetch);
            let (seen, counts) = work_off(worker, pool, &left).await;
            assert_eq!(seen, Vec::from_iter(frozen + 1..=frozen + 20));
            assert_eq!(counts.bad, u64::try_from(frozen).unwrap());
            let rows = plain(pool).await;
            assert!(
                rows.iter()
                    .all(|row| row.attempts == i32::from(row.id > frozen))
            );
        }
    }
}

#[tokio::test]
async fn a_claim_by_hand_passes_over_rows_whose_claim_is_dropped() {
    let database = tasks(6).await;
    let pool = &database.pool;
    drop_writes(pool, "NEW.id IN (1, 2, 4)").await;
    for (limit, expected) in [(1, vec![3]), (4, vec![5, 6]), (4, vec![])] {
        let mut reported = Vec::new();
        let batch = Task::claim(pool, limit)
            .on_bad_row(|row| reported.push((row.error.to_string(), row.error.fault(), row.became)))
            .await
            .unwrap();
        assert_eq!(ids(&batch), expected);
        let text = "claim of tasks (id = 1): ";
        assert!(reported[0].0.starts_with(text), "{reported:?}");
        for (_, fault, became) in reported {
            assert_eq!((fault, became), (Fault::Raised, None));
        }
    }
    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    let claim = Task::claim(&mut *tx, 2);
    assert!(claim.await.unwrap().is_empty());
    tx.commit().await.unwrap();
}

/// What the worker's claims did: one statement, and nothing says that it has passed over a row.
#[tokio::test]
async fn the_naive_claim_starves_behind_a_row_that_is_dropped() {
    let database = tasks(3).await;
    let pool = &database.pool;
    drop_writes(pool, "NEW.id = 1").await;
    let claim = "UPDATE tasks SET state = 'running' WHERE id IN (SELECT id FROM tasks WHERE state = 'ready' ORDER BY id LIMIT 1)";
    for _ in 0..3 {
        let claimed = sqlx::query(claim).execute(pool).await.unwrap();
        assert_eq!(claimed.rows_affected(), 0);
    }
}

/// That the job is done cannot be written down: it is counted as such, once, and the others are done.
#[tokio::test]
async fn a_row_whose_end_is_dropped_is_refused() {
    let database = tasks(3).await;
    let pool = &database.pool;
    drop_writes(pool, "NEW.id = 2 AND NEW.state = 'done'").await;
    let (seen, counts) = work_off(worker(pool), pool, &[2]).await;
    assert_eq!(seen, [1, 2, 3]);
    assert_eq!((counts.completed, counts.refused), (2, 1));
    assert_eq!(counts.lease_lost, 1);
}

/// The claim is not lost, so nobody is told that it is.
#[tokio::test]
async fn an_end_by_hand_that_is_dropped_is_ignored() {
    let database = tasks(12).await;
    let pool = &database.pool;
    let mut batch = Task::claim(pool, 12).await.unwrap();
    drop_writes(pool, "NEW.fence = OLD.fence").await;
    let mut next = || batch.remove(0);
    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    let in_transaction = next().complete_in(&mut tx).await;
    tx.commit().await.unwrap();
    let ends = [
        ("complete_in", in_transaction),
        ("complete", next().complete(pool).await),
        ("retry", next().retry(pool, "no").await.map(drop)),
        (
            "retry_after",
            next().retry_after(pool, "no", HOUR).await.map(drop),
        ),
        ("fail", next().fail(pool, "no").await),
        ("snooze", next().snooze(pool, HOUR).await),
        ("release", next().release(pool).await),
        ("extend", next().extend(pool, HOUR).await),
    ];
    for (index, (what, ended)) in ends.into_iter().enumerate() {
        let error = ended.unwrap_err();
        assert!(matches!(error, FinishError::Ignored(_)), "{error:?}");
        let text = format!(
            "{what} of tasks (id = {}): the claim still holds, but a trigger, a row security policy or ON CONFLICT IGNORE dropped the write",
            index + 1
        );
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(in_state(pool, QueueState::Running).await.len(), 12);
}

/// Of a batch, those that a claim has lost are told from those whose writes were dropped.
#[tokio::test]
async fn a_batch_by_hand_with_dropped_rows() {
    let database = tasks(4).await;
    let pool = &database.pool;
    let mut batch = Task::claim(pool, 4).await.unwrap();
    run(pool, "UPDATE tasks SET fence = fence + 1 WHERE id = 3").await;
    drop_writes(pool, "NEW.id = 2").await;
    let check = |unfinished: &[Unfinished<Task>]| {
        for row in unfinished {
            match &row.error {
                FinishError::LeaseLost(_) => assert_eq!(row.id, 3),
                FinishError::Ignored(_) => assert_eq!(row.id, 2),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(unfinished.len(), 2);
    };
    let unfinished = Claimed::extend_many(pool, &mut batch, HOUR).await.unwrap();
    check(&unfinished);
    batch.extend(unfinished.into_iter().map(|row| row.claimed));
    check(&Claimed::complete_many(pool, batch).await.unwrap());
    let done = in_state(pool, QueueState::Done).await;
    assert_eq!(done, BTreeSet::from([1, 4]));
}

/// The attempts of some rows cannot be counted when their handlers are to start: they fail, and are counted by that.
#[tokio::test]
async fn a_row_whose_start_is_dropped_ends() {
    let database = tasks(40).await;
    let pool = &database.pool;
    let when = "NEW.id % 10 = 1 AND NEW.state = 'running' AND OLD.state = 'running'";
    drop_writes(pool, when).await;
    let worker = worker(pool).concurrency(1).prefetch(30);
    let (_, counts) = work_off(worker, pool, &[]).await;
    for row in plain(pool).await {
        if row.state == QueueState::Dead {
            assert_eq!(row.attempts, 3);
            let error = row.last_error.unwrap();
            assert!(
                error.starts_with("the attempt could not be counted: "),
                "{error}"
            );
        }
    }
    assert_eq!((counts.lease_lost, counts.completed + counts.dead), (0, 40));
    assert!(counts.retried > 0, "{counts:?}");
}

/// The jobs 1 to 4 were claimed, and 2 was added again.
async fn added_again() -> (Database, Vec<Claimed<Task>>) {
    let database = tasks(4).await;
    let pool = &database.pool;
    let once = "CREATE UNIQUE INDEX once ON tasks (slug) WHERE state = 'ready'";
    run(pool, once).await;
    let batch = Task::claim(pool, 4).await.unwrap();
    run(pool, "INSERT INTO tasks (slug) VALUES ('2')").await;
    (database, batch)
}

fn not_ready(unfinished: &[Unfinished<Task>]) {
    let [row] = unfinished else {
        panic!("{unfinished:?}");
    };
    assert_eq!(row.id, 2);
    match &row.error {
        FinishError::NotReady(error) => assert_eq!(error.fault(), Fault::UniqueViolation),
        other => panic!("{other:?}"),
    }
}

/// One row that may not be ready keeps none of the others from being given back, and is dead.
#[tokio::test]
async fn a_batch_by_hand_with_a_row_that_may_not_be_ready() {
    for what in ["release", "snooze", "retry"] {
        let (database, batch) = added_again().await;
        let pool = &database.pool;
        let unfinished = match what {
            "release" => Claimed::release_many(pool, batch).await,
            "snooze" => Claimed::snooze_many(pool, batch, HOUR).await,
            _ => {
                let failed = batch.into_iter().map(|task| (task, "no answer"));
                Claimed::retry_many(pool, failed).await
            }
        };
        not_ready(&unfinished.unwrap());
        let rows = plain(pool).await;
        let ready = BTreeSet::from([1, 3, 4, 5]);
        assert_eq!(in_state(pool, QueueState::Ready).await, ready, "{what}");
        assert_eq!((rows[1].state, rows[1].attempts), (QueueState::Dead, 1));
        let error = rows[1].last_error.as_deref().unwrap();
        let after = if what == "retry" {
            "no answer"
        } else {
            "unfinished"
        };
        let text = format!("{after}; the row could not be ready again: ");
        assert!(error.starts_with(&text), "{error}");
    }
}

#[tokio::test]
async fn a_row_by_hand_that_may_not_be_ready() {
    for what in ["release", "snooze", "retry", "retry_after"] {
        let (database, mut batch) = added_again().await;
        let pool = &database.pool;
        let task = batch.remove(1);
        match what {
            "retry" => assert_eq!(task.retry(pool, "no").await.unwrap(), Retried::Dead),
            "retry_after" => {
                assert_eq!(
                    task.retry_after(pool, "no", HOUR).await.unwrap(),
                    Retried::Dead
                );
            }
            _ => {
                let result = match what {
                    "release" => task.release(pool).await,
                    _ => task.snooze(pool, HOUR).await,
                };
                assert!(
                    matches!(result, Err(FinishError::NotReady(_))),
                    "{result:?}"
                );
            }
        }
        assert_eq!(in_state(pool, QueueState::Dead).await, BTreeSet::from([2]));
    }
}

/// The others are done, and this one can still be finished otherwise.
#[tokio::test]
async fn a_batch_by_hand_with_a_refused_row() {
    let database = tasks(4).await;
    let pool = &database.pool;
    let mut batch = Task::claim(pool, 4).await.unwrap();
    let lost = Task::claim(pool, 4).await.unwrap();
    assert!(lost.is_empty());
    refuse(pool, "NEW.id = 2 AND NEW.state IN ('done', 'running')").await;
    let unfinished = Claimed::extend_many(pool, &mut batch, HOUR).await.unwrap();
    assert_eq!((ids(&batch), unfinished.len()), (vec![1, 3, 4], 1));
    let refused = unfinished.into_iter().map(|row| row.claimed);
    batch.extend(refused);
    run(pool, "UPDATE tasks SET fence = fence + 1 WHERE id = 3").await;
    let unfinished = Claimed::complete_many(pool, batch).await.unwrap();
    assert_eq!(
        in_state(pool, QueueState::Done).await,
        BTreeSet::from([1, 4])
    );
    for row in unfinished {
        match &row.error {
            FinishError::LeaseLost(_) => assert_eq!(row.id, 3),
            FinishError::Database(error) => {
                assert_eq!((row.id, error.fault()), (2, Fault::Raised));
                row.claimed.fail(pool, "not done").await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(in_state(pool, QueueState::Dead).await, BTreeSet::from([2]));
}

/// In a transaction of the caller the error may have aborted it, so it is one of the whole batch.
#[tokio::test]
async fn a_batch_in_a_transaction_fails_as_a_whole() {
    let (database, batch) = added_again().await;
    let pool = &database.pool;
    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    let error = Claimed::release_many(&mut *tx, batch).await.unwrap_err();
    assert!(matches!(error, FinishError::Database(_)), "{error:?}");
    tx.rollback().await.unwrap();
    assert_eq!(in_state(pool, QueueState::Running).await.len(), 4);
}

/// The counter of a row is as high as it goes.
#[tokio::test]
async fn attempts_that_cannot_be_counted_any_more_are_none_left() {
    for worked_off in [false, true] {
        let database = tasks(3).await;
        let pool = &database.pool;
        run(pool, "UPDATE tasks SET attempts = 2147483647 WHERE id = 1").await;
        if worked_off {
            let worker = worker(pool).concurrency(1).prefetch(8);
            assert_eq!(work_off(worker, pool, &[]).await.0, [2, 3]);
        } else {
            assert_eq!(ids(&Task::claim(pool, 3).await.unwrap()), [2, 3]);
        }
        let row = plain(pool).await.remove(0);
        let error = row.last_error.as_deref();
        assert_eq!(
            (row.state, error),
            (QueueState::Dead, Some("no attempts left"))
        );
        assert!(row.attempts > 2_147_483_000);
    }
}

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "tasks")]
struct Small {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts(max = 32_766))]
    attempts: i16,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

#[tokio::test]
async fn a_small_counter_is_full() {
    let tasks = TASKS.replace("attempts integer", "attempts smallint");
    let database = database(&tasks).await;
    let pool = &database.pool;
    run(
        pool,
        "INSERT INTO tasks (attempts) VALUES (32765), (32766), (32767)",
    )
    .await;
    let batch = Small::claim(pool, 3).await.unwrap();
    assert_eq!(
        (batch.len(), batch[0].id, batch[0].attempts),
        (1, 1, 32_766)
    );
    let [last] = <[_; 1]>::try_from(batch).unwrap();
    assert_eq!(last.retry(pool, "no").await.unwrap(), Retried::Dead);
    let dead = "SELECT count(*) FROM tasks WHERE state = 'dead'";
    let dead: i64 = sqlx::query_scalar(dead).fetch_one(pool).await.unwrap();
    assert_eq!(dead, 3);
}
