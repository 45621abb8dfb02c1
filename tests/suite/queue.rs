//! `#[derive(Queue)]`: who gets which rows. What becomes of them is in `queue_finish.rs`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use rowlock::queue::{BadRow, ClaimError, Claimed, FinishError, QueueState};
use rowlock::{Fault, Fence, FindOrCreate, Queue};
use rowlock_tests::random::Random;
use sqlx::AssertSqlSafe;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{BEGIN_WRITE, Database, Db, NAME, Pool, database};

pub(super) type Timestamp = chrono::DateTime<Utc>;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "emails")]
pub(super) struct Email {
    #[rowlock(key, generated)]
    pub(super) id: i64,
    #[rowlock(filter)]
    pub(super) recipient: String,
    #[rowlock(filter)]
    pub(super) tenant: i64,
    #[rowlock(priority)]
    pub(super) priority: i16,
    #[rowlock(run_at)]
    pub(super) run_at: Timestamp,
    #[rowlock(state)]
    pub(super) state: QueueState,
    #[rowlock(attempts(max = 3))]
    pub(super) attempts: i32,
    #[rowlock(fence)]
    pub(super) fence: Fence,
    #[rowlock(lease)]
    pub(super) leased_until: Option<Timestamp>,
    #[rowlock(last_error)]
    pub(super) last_error: Option<String>,
    #[rowlock(finished)]
    pub(super) finished_at: Option<Timestamp>,
}

pub(super) const EMAILS: &str = "CREATE TABLE emails (
        id {id},
        recipient text NOT NULL DEFAULT 'ann',
        tenant bigint NOT NULL DEFAULT 1,
        priority smallint NOT NULL DEFAULT 0,
        run_at {timestamp} NOT NULL DEFAULT ({now}),
        state text NOT NULL DEFAULT 'ready',
        attempts integer NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        leased_until {timestamp},
        last_error text,
        finished_at {timestamp}
    )";

pub(super) const PAST: &str = "'2020-01-01 00:00:00+00:00'";
pub(super) const NOW: Duration = Duration::ZERO;
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// The table with its indexes, and `rows` rows.
pub(super) async fn emails(rows: i64) -> Database {
    let database = database(EMAILS).await;
    run(&database.pool, Email::ddl::<Db>()).await;
    add(&database.pool, rows).await;
    database
}

pub(super) async fn add(pool: &Pool, rows: i64) {
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
               INSERT INTO emails (tenant) SELECT 1 FROM n WHERE i <= $1";
    sqlx::query(sql).bind(rows).execute(pool).await.unwrap();
}

/// One row.
async fn add_email(pool: &Pool, recipient: &str, tenant: i64, priority: i16, run_at: Timestamp) {
    let sql = "INSERT INTO emails (recipient, tenant, priority, run_at) VALUES ($1, $2, $3, $4)";
    sqlx::query(sql)
        .bind(recipient)
        .bind(tenant)
        .bind(priority)
        .bind(run_at)
        .execute(pool)
        .await
        .unwrap();
}

pub(super) async fn run(pool: &Pool, sql: impl Into<String>) {
    let sql = AssertSqlSafe(sql.into());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

pub(super) async fn all(pool: &Pool) -> Vec<Email> {
    sqlx::query_as("SELECT * FROM emails ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap()
}

pub(super) fn ids(batch: &[Claimed<Email>]) -> Vec<i64> {
    batch.iter().map(|email| email.id).collect()
}

pub(super) async fn claim_one(pool: &Pool, lease: Duration) -> Claimed<Email> {
    let mut batch = Email::claim(pool, 1).lease(lease).await.unwrap();
    assert_eq!(batch.len(), 1);
    batch.remove(0)
}

pub(super) async fn nothing_is_due(pool: &Pool) {
    assert!(Email::claim(pool, 5).await.unwrap().is_empty());
}

/// Before any claim.
async fn reset(pool: &Pool) {
    run(pool, "UPDATE emails SET state = 'ready', attempts = 0").await;
}

#[tokio::test]
async fn q_06_a_claim_stamps_the_row_in_the_same_statement() {
    let database = emails(3).await;
    let pool = &database.pool;
    let batch = Email::claim(pool, 2).await.unwrap();
    assert_eq!(
        batch.iter().map(|email| email.id).collect::<Vec<_>>(),
        [1, 2]
    );
    let rows = all(pool).await;
    for (claimed, row) in batch.iter().zip(&rows) {
        assert_eq!(row.state, QueueState::Running);
        assert_eq!(row.attempts, 1);
        assert_eq!(row.fence, claimed.fence);
        assert_eq!(row.leased_until, claimed.leased_until);
    }
    assert_eq!(rows[2].state, QueueState::Ready);
    let lost = Claimed::complete_many(pool, batch).await.unwrap();
    assert!(lost.is_empty());
    assert_eq!(all(pool).await[0].state, QueueState::Done);
}

#[tokio::test]
async fn q_01_a_claim_never_yields_more_than_asked() {
    let database = emails(10).await;
    let pool = &database.pool;
    for (limit, expected) in [(0, 0), (1, 1), (3, 3), (usize::MAX, 6), (1, 0)] {
        assert_eq!(
            Email::claim(pool, limit).await.unwrap().len(),
            expected,
            "{limit}"
        );
    }
}

#[tokio::test]
async fn q_02_two_claims_have_no_row_in_common() {
    let database = emails(300).await;
    let pool = &database.pool;
    let claims = (0..16).map(|_| Email::claim(pool, 7));
    let batches = futures_util::future::join_all(claims.map(IntoFuture::into_future)).await;
    let claimed: Vec<i64> = batches
        .into_iter()
        .flat_map(|batch| ids(&batch.unwrap()))
        .collect();
    let distinct: HashSet<&i64> = claimed.iter().collect();
    assert_eq!((claimed.len(), distinct.len()), (16 * 7, 16 * 7));
}

/// What most hand-written versions do.
async fn naive(pool: &Pool, looked: &Barrier) -> Vec<i64> {
    let due: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM emails WHERE state = 'ready' ORDER BY id LIMIT 7")
            .fetch_all(pool)
            .await
            .unwrap();
    looked.wait().await;
    for id in &due {
        sqlx::query("UPDATE emails SET state = 'running' WHERE id = $1")
            .bind(id)
            .execute(pool)
            .await
            .unwrap();
    }
    due
}

#[tokio::test]
async fn q_02_the_naive_twin_claims_twice() {
    let database = emails(300).await;
    let looked = Barrier::new(2);
    let (one, other) = tokio::join!(
        naive(&database.pool, &looked),
        naive(&database.pool, &looked)
    );
    assert_eq!(one, other);
}

/// Every row is claimed once and every claim is finished, whoever else claims.
#[tokio::test]
async fn q_02_32_claimers_share_all_rows() {
    let (rows, limit) = if NAME == "SQLite" {
        (10_000, 100)
    } else {
        (100_000, 500)
    };
    let database = Arc::new(emails(rows).await);
    let ready = Arc::new(Barrier::new(32));
    let mut claimers = JoinSet::new();
    for _ in 0..32 {
        let (database, ready) = (database.clone(), ready.clone());
        claimers.spawn(async move {
            ready.wait().await;
            let mut mine = Vec::new();
            loop {
                let batch = Email::claim(&database.pool, limit).await.unwrap();
                assert!(batch.len() <= limit);
                if batch.is_empty() {
                    return mine;
                }
                mine.extend(batch.iter().map(|email| (email.id, email.attempts)));
                let lost = Claimed::complete_many(&database.pool, batch).await.unwrap();
                assert!(lost.is_empty());
            }
        });
    }
    let claimed: Vec<(i64, i32)> = claimers.join_all().await.concat();
    assert!(claimed.iter().all(|(_, attempt)| *attempt == 1));
    let distinct: HashSet<_> = claimed.iter().collect();
    assert_eq!(
        (claimed.len(), distinct.len()),
        (rows as usize, rows as usize)
    );
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM emails WHERE state = 'done'")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(done, rows);
}

#[tokio::test]
async fn q_04_a_row_of_the_future_is_not_claimed() {
    let database = emails(0).await;
    let pool = &database.pool;
    let soon = Utc::now() + TimeDelta::seconds(30);
    add_email(pool, "ann", 1, 0, soon).await;
    nothing_is_due(pool).await;

    let due = Utc::now() - TimeDelta::seconds(30);
    add_email(pool, "bob", 1, 0, due).await;
    let bob = claim_one(pool, MINUTE).await;
    assert_eq!(bob.recipient, "bob");
    let waited = bob.waited().as_secs();
    assert!((29..300).contains(&waited), "{waited}");
    // The lease is counted from the claim.
    let lease = bob.leased_until.unwrap() - due;
    assert!((89..360).contains(&lease.num_seconds()), "{lease}");
}

pub(super) fn shuffle<T>(values: &mut [T], random: &mut Random) {
    for end in (1..values.len()).rev() {
        values.swap(end, random.below(end + 1));
    }
}

/// The same table with another order.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "emails")]
struct Urgent {
    #[rowlock(key)]
    id: i64,
    #[rowlock(priority(desc))]
    priority: i16,
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

#[tokio::test]
async fn q_05_priority_time_and_key_decide_who_is_first() {
    let database = emails(0).await;
    let pool = &database.pool;
    let start = Utc::now() - TimeDelta::hours(1);
    let mut rows: Vec<(i16, i64)> = (0..60).map(|row| (row % 3, i64::from(row % 4))).collect();
    shuffle(&mut rows, &mut Random::new(5));
    for (priority, minute) in rows {
        let run_at = start + TimeDelta::minutes(minute);
        add_email(pool, "ann", 1, priority, run_at).await;
    }
    let mut rows = all(pool).await;
    rows.sort_by_key(|row| (row.priority, row.run_at, row.id));
    let lowest: Vec<i64> = rows.iter().map(|row| row.id).collect();
    rows.sort_by_key(|row| (-row.priority, row.run_at, row.id));
    let highest: Vec<i64> = rows.iter().map(|row| row.id).collect();
    for limit in [1, 7, 60] {
        reset(pool).await;
        for expected in lowest.chunks(limit) {
            assert_eq!(ids(&Email::claim(pool, limit).await.unwrap()), expected);
        }
        reset(pool).await;
        for expected in highest.chunks(limit) {
            let batch = Urgent::claim(pool, limit).await.unwrap();
            let ids: Vec<i64> = batch.iter().map(|row| row.id).collect();
            assert_eq!(ids, expected);
        }
    }
}

#[tokio::test]
async fn q_05_rows_whose_leases_ended_keep_their_places() {
    let database = emails(4).await;
    let pool = &database.pool;
    let _gone = Email::claim(pool, 2).lease(NOW).await.unwrap();
    let batch = Email::claim(pool, 4).await.unwrap();
    assert_eq!(ids(&batch), [1, 2, 3, 4]);
}

/// Their leases end within the claim itself.
#[tokio::test]
async fn q_01_a_claim_yields_no_row_twice() {
    let database = emails(2).await;
    let pool = &database.pool;
    let batch = Email::claim(pool, 5).lease(NOW).await.unwrap();
    assert_eq!(ids(&batch), [1, 2]);
    let lost = Claimed::complete_many(pool, batch).await.unwrap();
    assert!(lost.is_empty());
}

#[tokio::test]
async fn q_06_a_row_without_attempts_left_is_dead() {
    let database = emails(6).await;
    let pool = &database.pool;
    // A limit that was lowered, or a re-drive that forgot the column.
    for (id, attempts) in [(1, 3), (2, 4), (3, 2), (4, 3)] {
        let sql = format!("UPDATE emails SET attempts = {attempts} WHERE id = {id}");
        run(pool, sql).await;
    }
    // They keep no place of the others.
    let batch = Email::claim(pool, 2).await.unwrap();
    assert_eq!(ids(&batch), [3, 5]);
    assert_eq!((batch[0].attempts, batch[1].attempts), (3, 1));
    assert_eq!(ids(&Email::claim(pool, 5).await.unwrap()), [6]);
    for (row, attempts) in all(pool).await.iter().zip([3, 4, 3, 3]) {
        let dead = row.id != 3;
        assert_eq!(row.attempts, attempts, "{row:?}");
        assert_eq!(row.state == QueueState::Dead, dead, "{row:?}");
        assert_eq!(row.finished_at.is_some(), dead, "{row:?}");
        let error = dead.then_some("no attempts left");
        assert_eq!(row.last_error.as_deref(), error, "{row:?}");
    }
}

/// A job that takes its process with it.
#[tokio::test]
async fn q_06_claims_that_are_never_finished_end_as_dead() {
    let database = emails(1).await;
    let pool = &database.pool;
    for attempt in 1..=3 {
        assert_eq!(claim_one(pool, NOW).await.attempts, attempt);
    }
    nothing_is_due(pool).await;
    let row = &all(pool).await[0];
    assert_eq!((row.state, row.attempts), (QueueState::Dead, 3));
    assert_eq!(row.last_error.as_deref(), Some("the lease ended"));
    assert!(row.finished_at.is_some());
}

#[tokio::test]
async fn q_06_rescue_counts_what_it_takes_back() {
    let database = emails(4).await;
    let pool = &database.pool;
    let _ended = Email::claim(pool, 3).lease(NOW).await.unwrap();
    let _held = Email::claim(pool, 1).await.unwrap();
    // A running row without a lease was claimed by nobody that counts.
    run(
        pool,
        "UPDATE emails SET attempts = 3 WHERE id = 1; UPDATE emails SET leased_until = NULL WHERE id = 2",
    )
    .await;
    for expected in [(2, 1), (0, 0)] {
        let rescued = Email::rescue(pool).await.unwrap();
        assert_eq!((rescued.ready, rescued.dead), expected);
    }
}

#[tokio::test]
async fn q_09_a_claim_in_a_transaction_ends_with_it() {
    let database = emails(3).await;
    let pool = &database.pool;
    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(ids(&Email::claim(&mut *connection, 1).await.unwrap()), [1]);
    drop(connection);

    let before = all(pool).await;
    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    assert_eq!(ids(&Email::claim(&mut *tx, 1).await.unwrap()), [2]);
    tx.rollback().await.unwrap();
    assert_eq!(all(pool).await, before);

    let mut tx = pool.begin_with(BEGIN_WRITE).await.unwrap();
    let mut batch = Email::claim(&mut *tx, 1).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(batch[0].attempts, 1);
    batch.remove(0).complete(pool).await.unwrap();
}

#[tokio::test]
async fn only_narrows_a_claim() {
    let database = emails(0).await;
    let pool = &database.pool;
    let due = Utc::now() - TimeDelta::hours(1);
    let odd = "o'hara\" $1 ?";
    for (recipient, tenant) in [("ann", 1), ("ann", 2), (odd, 2), ("bob", 2)] {
        add_email(pool, recipient, tenant, 0, due).await;
    }
    let none = Email::claim(pool, 5).only(Email::TENANT, 3).await.unwrap();
    assert!(none.is_empty());
    let both = Email::claim(pool, 5)
        .only(Email::TENANT, 2)
        .only(Email::RECIPIENT, "ann")
        .await
        .unwrap();
    assert_eq!(ids(&both), [2]);
    let text = Email::claim(pool, 5)
        .only(Email::RECIPIENT, odd)
        .await
        .unwrap();
    assert_eq!(ids(&text), [3]);
    let rest = Email::claim(pool, 1).only(Email::TENANT, 2).await.unwrap();
    assert_eq!(ids(&rest), [4]);
    assert_eq!(ids(&Email::claim(pool, 5).await.unwrap()), [1]);
}

/// No more than a queue needs, under a key of two columns.
#[derive(Debug, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "notices")]
struct Notice {
    #[rowlock(key)]
    tenant: i64,
    #[rowlock(key)]
    name: String,
    #[rowlock(run_at)]
    run_at: Timestamp,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i16,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

#[tokio::test]
async fn a_key_of_two_columns_and_no_column_too_many() {
    let database = database(
        "CREATE TABLE notices (tenant bigint, name text, run_at {timestamp} NOT NULL, state text NOT NULL,
            attempts smallint NOT NULL, fence bigint NOT NULL, leased_until {timestamp}, PRIMARY KEY (tenant, name))",
    )
    .await;
    let pool = &database.pool;
    run(pool, Notice::ddl::<Db>()).await;
    for (tenant, name) in [(2, "a"), (1, "b"), (1, "a"), (2, "b")] {
        sqlx::query("INSERT INTO notices VALUES ($1, $2, $3, 'ready', 0, 0, NULL)")
            .bind(tenant)
            .bind(name)
            .bind(Timestamp::UNIX_EPOCH)
            .execute(pool)
            .await
            .unwrap();
    }
    let key = |row: &Notice| (row.tenant, row.name.clone());
    let mut lost = Notice::claim(pool, 2).lease(NOW).await.unwrap();
    let mut batch = Notice::claim(pool, 5).await.unwrap();
    let keys: Vec<_> = batch.iter().map(|row| key(row)).collect();
    let of = |tenant: i64, name: &str| (tenant, name.to_owned());
    assert_eq!(keys, [of(1, "a"), of(1, "b"), of(2, "a"), of(2, "b")]);

    let error = lost.remove(0).complete(pool).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "complete of notices (tenant = 1, name = …): the lease was lost; another attempt may have the row: stop this work"
    );
    let (lost, held) = (lost.remove(0), batch.remove(2));
    let not = Claimed::release_many(pool, [held, lost]).await.unwrap();
    assert_eq!(
        not.iter().map(|row| key(row)).collect::<Vec<_>>(),
        [of(1, "b")]
    );
    batch.remove(2).retry(pool, "no").await.unwrap();
    batch.remove(1).complete(pool).await.unwrap();
    let not = Claimed::fail_many(pool, [(batch.remove(0), "no")]).await;
    assert!(not.unwrap().is_empty());
    let states: Vec<(String, i16)> =
        sqlx::query_as("SELECT state, attempts FROM notices ORDER BY tenant, name")
            .fetch_all(pool)
            .await
            .unwrap();
    let row = |state: &str, attempts| (state.to_owned(), attempts);
    assert_eq!(
        states,
        [
            row("dead", 2),
            row("done", 2),
            row("ready", 0),
            row("ready", 1)
        ]
    );
}

/// A job that is there once.
#[derive(Debug, PartialEq, sqlx::FromRow, Queue, FindOrCreate)]
#[rowlock(table = "reminders", unique(name))]
struct Reminder {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    note: String,
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
    #[rowlock(last_error)]
    last_error: Option<String>,
    #[rowlock(finished)]
    finished_at: Option<Timestamp>,
}

fn reminder(note: &str) -> NewReminder {
    NewReminder {
        name: "rent".to_owned(),
        note: note.to_owned(),
    }
}

/// `upsert` enqueues it again, whatever became of it, and `find_or_create` leaves it alone.
#[tokio::test]
async fn an_upsert_enqueues_again() {
    let table = EMAILS.replace("emails", "reminders").replace(
        "recipient text NOT NULL DEFAULT 'ann'",
        "name text NOT NULL UNIQUE, note text NOT NULL",
    );
    let database = database(&table).await;
    let pool = &database.pool;
    run(pool, Reminder::ddl::<Db>()).await;
    let first = Reminder::upsert(pool, reminder("a")).await.unwrap();
    assert_eq!((first.state, first.attempts), (QueueState::Ready, 0));
    for (round, end) in ["running", "done", "dead", "ready"].into_iter().enumerate() {
        let mut batch = Reminder::claim(pool, 1).await.unwrap();
        let claimed = batch.remove(0);
        assert_eq!((claimed.id, claimed.attempts), (first.id, 1), "{end}");
        let before = claimed.fence;
        let late = match end {
            "running" => Some(claimed),
            "done" => {
                claimed.complete(pool).await.unwrap();
                None
            }
            "dead" => {
                claimed.fail(pool, "never").await.unwrap();
                None
            }
            _ => {
                claimed.retry_after(pool, "later", MINUTE).await.unwrap();
                None
            }
        };
        let found = Reminder::find_or_create(pool, reminder("x")).await.unwrap();
        assert!(!found.is_created());
        assert_eq!(found.state.as_str(), end);
        let note = format!("round {round}");
        let again = Reminder::upsert(pool, reminder(&note)).await.unwrap();
        assert_eq!((again.id, &again.note), (first.id, &note));
        assert_eq!((again.state, again.attempts), (QueueState::Ready, 0));
        assert_eq!((again.leased_until, again.finished_at), (None, None));
        assert_eq!(again.last_error, None);
        assert!(again.fence > before);
        if let Some(late) = late {
            let error = late.complete(pool).await.unwrap_err();
            assert!(matches!(error, FinishError::LeaseLost(_)), "{error:?}");
        }
    }
    assert_eq!(Reminder::claim(pool, 5).await.unwrap().len(), 1);
}

fn fault(error: &ClaimError) -> Fault {
    match error {
        ClaimError::Database(error) => error.fault(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_claim_that_fails_says_where() {
    let database = emails(1).await;
    let pool = database.one_connection_pool().await;
    run(&pool, "ALTER TABLE emails RENAME fence TO token").await;
    let error = Email::claim(&pool, 1).await.unwrap_err();
    assert_eq!(fault(&error), Fault::Schema);
    run(&pool, "DROP TABLE emails").await;
    let error = Email::claim(&pool, 1).await.unwrap_err();
    assert_eq!(fault(&error), Fault::Schema);
    let text = error.to_string();
    assert!(text.starts_with("claim of emails: "), "{text}");
    let error = Email::rescue(&pool).await.unwrap_err();
    assert!(error.to_string().starts_with("rescue of emails: "));

    pool.close().await;
    let error = Email::claim(&pool, 1).await.unwrap_err();
    assert_eq!(fault(&error), Fault::PoolClosed);
    // What needs no database does not ask it.
    assert!(Email::claim(&pool, 0).await.unwrap().is_empty());
}

/// It is put off, and the others are not.
#[tokio::test]
async fn a_row_that_does_not_fit_the_model_is_a_decode_fault() {
    let database = emails(2).await;
    let pool = &database.pool;
    let spoil = if NAME == "SQLite" {
        "UPDATE emails SET recipient = x'ff' WHERE id = 2"
    } else {
        "ALTER TABLE emails ALTER recipient DROP NOT NULL; UPDATE emails SET recipient = NULL WHERE id = 2"
    };
    run(pool, spoil).await;
    let mut reported = Vec::new();
    let report = |row: &BadRow| reported.push((row.error.fault(), row.error.to_string()));
    let claim = Email::claim(pool, 2).backoff(2 * MINUTE, 2 * MINUTE);
    let batch = claim.on_bad_row(report).await.unwrap();
    assert_eq!(ids(&batch), [1]);
    let text = "claim of emails (id = 2): a column does not fit its field: column \"recipient\"";
    assert_eq!(reported, [(Fault::Decode, text.to_owned())]);
    let put_off =
        "UPDATE emails SET recipient = 'ann', run_at = {} WHERE attempts = 1 AND state = 'ready'";
    run(pool, put_off.replace("{}", PAST)).await;
    let batch = Email::claim(pool, 2).await.unwrap();
    assert_eq!(ids(&batch), [2]);
    assert_eq!(batch[0].attempts, 2);
}

/// `ddl` again: nothing is made anew, unless the definition is another one.
#[tokio::test]
async fn ddl_replaces_an_index_of_another_definition() {
    let database = emails(5).await;
    let pool = &database.pool;
    let indexes = async || -> Vec<(String, i64)> {
        let sql = if NAME == "SQLite" {
            "SELECT name, rootpage FROM sqlite_master WHERE type = 'index' AND name LIKE '%rowlock%' ORDER BY name"
        } else {
            "SELECT relname::text, oid::bigint FROM pg_class WHERE relnamespace = current_schema()::regnamespace
                AND relkind = 'i' AND relname LIKE '%rowlock%' ORDER BY relname"
        };
        sqlx::query_as(sql).fetch_all(pool).await.unwrap()
    };
    let first = indexes().await;
    assert_eq!(first.len(), 5, "{first:?}");
    run(pool, Email::ddl::<Db>()).await;
    assert_eq!(indexes().await, first);
    // Names that only look like one of these.
    const MINE: &str = "CREATE UNIQUE INDEX emails_rowlock_reference ON emails (id);
        CREATE INDEX emails_rowlock_claim_all ON emails (id)";
    run(pool, MINE).await;
    // Another order, and no filters.
    run(pool, Urgent::ddl::<Db>()).await;
    let mine = async || {
        let indexes = indexes().await.into_iter().map(|(name, _)| name);
        let mine = ["emails_rowlock_claim_all", "emails_rowlock_reference"];
        indexes.filter(|name| mine.contains(&name.as_str())).count()
    };
    assert_eq!(mine().await, 2);
    run(
        pool,
        "DROP INDEX emails_rowlock_reference; DROP INDEX emails_rowlock_claim_all",
    )
    .await;
    let second = indexes().await;
    let claim = |indexes: &[(String, i64)]| {
        let names = indexes.iter().map(|(name, _)| name.clone());
        names
            .filter(|name| name.starts_with("emails_rowlock_claim_"))
            .collect::<Vec<_>>()
    };
    let new: Vec<_> = claim(&second)
        .into_iter()
        .filter(|name| !claim(&first).contains(name))
        .collect();
    assert_eq!(new.len(), 1, "{second:?}");
    // SQLite drops nothing on a condition.
    let expected = if NAME == "SQLite" { 6 } else { 3 };
    assert_eq!(second.len(), expected, "{second:?}");
    let running = |indexes: &[(String, i64)]| indexes.last().cloned();
    assert_eq!(running(&second), running(&first));
}

/// A snapshot that is older than somebody else's claim.
#[tokio::test]
async fn a_claim_in_an_old_snapshot_is_a_serialization_failure() {
    let levels: &[&str] = if NAME == "SQLite" {
        &[""]
    } else {
        &[
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; ",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; ",
        ]
    };
    for level in levels {
        let database = emails(1).await;
        let mut tx = database.pool.begin().await.unwrap();
        let snapshot = format!("{level}SELECT count(*) FROM emails");
        sqlx::raw_sql(AssertSqlSafe(snapshot))
            .execute(&mut *tx)
            .await
            .unwrap();
        let other = claim_one(&database.pool, MINUTE).await;
        let error = Email::claim(&mut *tx, 1).await.unwrap_err();
        assert!(matches!(error, ClaimError::Serialization(_)), "{error:?}");
        tx.rollback().await.unwrap();
        other.complete(&database.pool).await.unwrap();
    }
}

/// The pool gives its only connection, and nobody is inside a transaction.
pub(super) async fn nothing_is_left_open(database: &Database, pool: &Pool) {
    run(pool, "SELECT 1").await;
    // The pool cleans up in a task of its own.
    let closed = async {
        while database.open_transactions().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(MINUTE, closed)
        .await
        .expect("a transaction was left open");
}

/// Drops `$call` at each of its await points, until there were enough of them: an answer that is there already is none, and
/// SQLite's can be. `$look` sees the output, if the call came to its end.
macro_rules! cut_everywhere {
    ($call:expr, $look:expr) => {{
        let (mut cuts, mut limit) = (0, 0);
        for pass in 0.. {
            assert!(pass < 5000, "only {cuts} cuts");
            limit += 1;
            let finished = rowlock_tests::cancel::polled(limit, $call).await;
            if finished.is_some() {
                limit = 0;
            } else {
                cuts += 1;
            }
            let ended = finished.is_some();
            $look(finished).await;
            if ended && cuts >= 10 {
                break;
            }
        }
    }};
}
pub(super) use cut_everywhere;

#[tokio::test]
async fn a_cut_claim_comes_back_after_its_lease() {
    let database = emails(2).await;
    let (pool, _slow) = database.one_connection_that_waits().await;
    // One that yields fewer than asked, and so takes back rows in between.
    cut_everywhere!(
        async { Email::claim(&pool, 5).lease(NOW).await.unwrap() },
        async |_cut| {
            nothing_is_left_open(&database, &pool).await;
            let again = Email::claim(&pool, 5).lease(NOW).await.unwrap();
            assert_eq!(ids(&again), [1, 2]);
            reset(&pool).await;
        }
    );
}
