//! Queues that are paused, as a whole or by conditions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rowlock::queue::{Job, PauseError, QueueState};
use rowlock::{Fault, Fence, Guarded, Queue};
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::{Notify, mpsc};

use super::{Db, NAME, Pool, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", pauses = "job_pauses")]
pub(super) struct Email {
    #[rowlock(key)]
    pub(super) id: i64,
    #[rowlock(filter)]
    tenant: i32,
    #[rowlock(filter)]
    kind: Option<String>,
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

/// Nothing to filter by: it is paused as a whole.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs", pauses = "all_pauses", done = delete)]
struct Plain {
    #[rowlock(key)]
    id: i64,
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

/// Other types to filter by.
#[derive(Debug, sqlx::FromRow, Guarded, Queue)]
#[rowlock(table = "renders", pauses = "render_pauses")]
struct Render {
    #[rowlock(key)]
    id: i64,
    #[rowlock(filter)]
    owner: Uuid,
    #[rowlock(filter)]
    urgent: bool,
    #[rowlock(filter)]
    label: String,
    #[rowlock(run_at)]
    run_at: Option<Timestamp>,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<Timestamp>,
}

pub(super) async fn run(pool: &Pool, sql: &str) {
    pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}

/// Jobs of these tenants and kinds, from 1 on.
pub(super) async fn jobs(values: &[&str]) -> super::Database {
    let time = match NAME {
        "PostgreSQL" => "timestamptz",
        _ => "text",
    };
    let schema = format!(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, tenant int NOT NULL DEFAULT 1, kind varchar(9), run_at {time} NOT NULL DEFAULT CURRENT_TIMESTAMP,
             state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until {time})"
    );
    let database = database(&schema).await;
    let pool = &database.pool;
    // Running it again changes nothing.
    for ddl in [Email::ddl::<Db>(), Plain::ddl::<Db>(), Email::ddl::<Db>()] {
        run(pool, ddl).await;
    }
    for (id, values) in (1..).zip(values) {
        run(
            pool,
            &format!("INSERT INTO jobs (id, tenant, kind) VALUES ({id}, {values})"),
        )
        .await;
    }
    database
}

/// What a claim gives out, which is put back.
pub(super) async fn given_out(pool: &Pool) -> Vec<i64> {
    let jobs = Email::claim(pool, 9).await.unwrap();
    let mut ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
    let back = rowlock::queue::Claimed::release_many(pool, jobs).await;
    assert!(back.unwrap().is_empty());
    ids.sort_unstable();
    ids
}

const JOBS: &[&str] = &["1, 'mail'", "1, 'push'", "2, 'mail'", "2, NULL"];

#[tokio::test]
async fn jobs_are_paused_by_what_they_have() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    assert_eq!(given_out(pool).await, [1, 2, 3, 4]);
    assert!(Email::pause(pool).only(Email::TENANT, 1).await.unwrap());
    assert_eq!(given_out(pool).await, [3, 4]);
    assert!(
        Email::pause(pool)
            .only(Email::KIND, "mail".to_owned())
            .await
            .unwrap()
    );
    assert_eq!(given_out(pool).await, [4]);
    assert!(Email::resume(pool).only(Email::TENANT, 1).await.unwrap());
    assert_eq!(given_out(pool).await, [2, 4]);
    assert!(
        Email::resume(pool)
            .only(Email::KIND, "mail".to_owned())
            .await
            .unwrap()
    );
    // Of both at once.
    let both = || {
        Email::pause(pool)
            .only(Email::KIND, "mail".to_owned())
            .only(Email::TENANT, 2)
    };
    assert!(both().await.unwrap());
    assert_eq!(given_out(pool).await, [1, 2, 4]);
    // All of them.
    assert!(Email::pause(pool).await.unwrap());
    assert!(given_out(pool).await.is_empty());
    assert!(Email::resume(pool).await.unwrap());
    assert_eq!(given_out(pool).await, [1, 2, 4]);
    // In another order it is the same.
    let resume = Email::resume(pool)
        .only(Email::TENANT, 2)
        .only(Email::KIND, "mail".to_owned());
    assert!(resume.await.unwrap());
    assert_eq!(given_out(pool).await, [1, 2, 3, 4]);
}

/// Once more changes nothing, and ends only itself.
#[tokio::test]
async fn a_pause_is_there_once() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    let of_one = || Email::pause(pool).only(Email::TENANT, 1);
    assert!(of_one().await.unwrap());
    assert!(!of_one().await.unwrap());
    assert!(Email::pause(pool).await.unwrap());
    assert!(!Email::pause(pool).await.unwrap());
    assert!(Email::pause(pool).only(Email::TENANT, 2).await.unwrap());
    let pauses = Email::pauses(pool).await.unwrap();
    let mut said: Vec<_> = pauses.iter().map(|pause| pause.only.clone()).collect();
    said.sort();
    let tenant = |number: &str| vec![("tenant", number.to_owned())];
    assert_eq!(said, [vec![], tenant("1"), tenant("2")]);
    assert!(
        pauses
            .iter()
            .all(|pause| pause.since < Duration::from_secs(600))
    );
    assert!(Email::resume(pool).await.unwrap());
    assert!(!Email::resume(pool).await.unwrap());
    assert_eq!(given_out(pool).await, Vec::<i64>::new());
    assert!(!Email::resume(pool).only(Email::TENANT, 3).await.unwrap());
    assert!(Email::resume(pool).only(Email::TENANT, 1).await.unwrap());
    assert_eq!(given_out(pool).await, [1, 2]);
    assert_eq!(Email::pauses(pool).await.unwrap().len(), 1);
}

/// Two at the same time are one row.
#[tokio::test]
async fn pauses_at_once_are_one() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    let pause = || async { Email::pause(pool).only(Email::TENANT, 1).await.unwrap() };
    let paused = futures_util::future::join_all((0..9).map(|_| pause())).await;
    assert_eq!(paused.iter().filter(|paused| **paused).count(), 1);
    assert_eq!(Email::pauses(pool).await.unwrap().len(), 1);
}

/// Rows that are claimed go on, and come back as paused ones.
#[tokio::test]
async fn what_is_claimed_goes_on() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    let mut jobs = Email::claim(pool, 2).await.unwrap();
    assert!(Email::pause(pool).await.unwrap());
    jobs.remove(0).complete(pool).await.unwrap();
    jobs.remove(0).extend(pool, Duration::ZERO).await.unwrap();
    assert_eq!(Email::rescue(pool).await.unwrap().ready, 1);
    assert!(given_out(pool).await.is_empty());
    // They wait as before.
    let stats = Email::stats(pool).await.unwrap();
    assert_eq!((stats.ready, stats.due, stats.running), (3, 3, 0));
    assert!(Email::resume(pool).await.unwrap());
    assert_eq!(given_out(pool).await.len(), 3);
}

#[tokio::test]
async fn a_queue_without_filters() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    assert!(Plain::pause(pool).await.unwrap());
    assert!(!Plain::pause(pool).await.unwrap());
    assert!(Plain::claim(pool, 9).await.unwrap().is_empty());
    // The pauses of another model are its own.
    assert_eq!(given_out(pool).await.len(), 4);
    assert_eq!(Plain::pauses(pool).await.unwrap()[0].only, []);
    assert!(Plain::resume(pool).await.unwrap());
    assert_eq!(Plain::claim(pool, 9).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_value_that_is_null() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    for refused in [
        Email::pause(pool)
            .only(Email::TENANT, 1)
            .only(Email::KIND, None)
            .await,
        Email::resume(pool).only(Email::KIND, None).await,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, PauseError::Null(_, "kind")), "{error:?}");
        assert!(error.to_string().contains("jobs"), "{error}");
    }
    let twice = Email::pause(pool)
        .only(Email::TENANT, 1)
        .only(Email::TENANT, 2)
        .await;
    assert!(
        matches!(twice, Err(PauseError::GivenTwice(_, "tenant"))),
        "{twice:?}"
    );
    assert!(Email::pauses(pool).await.unwrap().is_empty());
    // A job with NULL there is paused by its other values.
    assert!(Email::pause(pool).only(Email::TENANT, 2).await.unwrap());
    assert_eq!(given_out(pool).await, [1, 2]);
}

#[tokio::test]
async fn a_table_that_is_missing() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    run(pool, "DROP TABLE job_pauses").await;
    let error = Email::pause(pool).await.unwrap_err();
    let PauseError::Database(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.fault(), Fault::Schema);
    assert_eq!(
        Email::pauses(pool).await.unwrap_err().fault(),
        Fault::Schema
    );
    assert!(Email::claim(pool, 1).await.is_err());
    // A worker says so, and does not go on for ever.
    let worker = Email::worker(pool).run(async |_: Job<Email>| {}).await;
    assert!(worker.is_err());
}

/// The columns have the types of those of the queue.
#[tokio::test]
async fn columns_of_other_types() {
    let (time, uuid, cited) = match NAME {
        "PostgreSQL" => ("timestamptz", "uuid", "text"),
        _ => ("text", "blob", "text COLLATE NOCASE"),
    };
    let schema = format!(
        "CREATE TABLE renders (id bigint PRIMARY KEY, owner {uuid} NOT NULL, urgent boolean NOT NULL, label {cited} NOT NULL, run_at {time},
             state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, leased_until {time})"
    );
    let database = database(&schema).await;
    let pool = &database.pool;
    run(pool, Render::ddl::<Db>()).await;
    let [ann, ben] = [Uuid::from_u128(1), Uuid::from_u128(2)];
    for (id, owner) in [(1_i64, ann), (2, ben)] {
        let insert = sqlx::query(
            "INSERT INTO renders (id, owner, urgent, label) VALUES ($1, $2, $3, 'Film')",
        );
        let insert = insert.bind(id).bind(owner).bind(id == 1);
        insert.execute(pool).await.unwrap();
    }
    let due = || async {
        let jobs = Render::claim(pool, 9).await.unwrap();
        let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
        rowlock::queue::Claimed::release_many(pool, jobs)
            .await
            .unwrap();
        ids
    };
    let other = Render::pause(pool).only(Render::ATTEMPTS, 0).await;
    assert!(matches!(other, Err(PauseError::NotAFilter(_))), "{other:?}");
    assert!(Render::pause(pool).only(Render::OWNER, ann).await.unwrap());
    assert_eq!(due().await, [2]);
    assert!(!Render::pause(pool).only(Render::OWNER, ann).await.unwrap());
    assert_eq!(Render::pauses(pool).await.unwrap()[0].only[0].0, "owner");
    assert!(Render::resume(pool).only(Render::OWNER, ann).await.unwrap());
    assert!(
        Render::pause(pool)
            .only(Render::URGENT, false)
            .await
            .unwrap()
    );
    assert_eq!(due().await, [1]);
    assert!(
        Render::resume(pool)
            .only(Render::URGENT, false)
            .await
            .unwrap()
    );
    // Texts are compared as the queue's column compares them.
    let label = if NAME == "PostgreSQL" { "Film" } else { "FILM" };
    assert!(
        Render::pause(pool)
            .only(Render::LABEL, label.to_owned())
            .await
            .unwrap()
    );
    assert!(due().await.is_empty());
}

/// A worker gives its handlers none of them, and goes on by itself when they are resumed.
#[tokio::test]
async fn a_worker_is_paused() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    assert!(Email::pause(pool).only(Email::TENANT, 1).await.unwrap());
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let (say, mut said) = mpsc::unbounded_channel();
    let is_paused = Arc::new(AtomicBool::new(true));
    let paused = is_paused.clone();
    let worker = Email::worker(pool)
        .poll(Duration::from_millis(10))
        .shutdown(async move { stopped.notified().await });
    let running = tokio::spawn(worker.run(move |job: Job<Email>| {
        let (say, paused) = (say.clone(), paused.clone());
        async move {
            assert!(job.tenant == 2 || !paused.load(Ordering::SeqCst));
            say.send(job.id).unwrap();
        }
    }));
    let mut first = [said.recv().await.unwrap(), said.recv().await.unwrap()];
    first.sort_unstable();
    assert_eq!(first, [3, 4]);
    is_paused.store(false, Ordering::SeqCst);
    assert!(Email::resume(pool).only(Email::TENANT, 1).await.unwrap());
    let mut rest = [said.recv().await.unwrap(), said.recv().await.unwrap()];
    rest.sort_unstable();
    assert_eq!(rest, [1, 2]);
    stop.notify_one();
    let counts = running.await.unwrap().unwrap();
    assert_eq!((counts.completed, counts.panicked), (4, 0));
}

/// A claim with conditions of its own, and one of many that are paused.
#[tokio::test]
async fn a_claim_with_conditions() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    assert!(
        Email::pause(pool)
            .only(Email::KIND, "mail".to_owned())
            .await
            .unwrap()
    );
    let claim = Email::claim(pool, 9).only(Email::TENANT, 1).await.unwrap();
    assert_eq!(claim.iter().map(|job| job.id).collect::<Vec<_>>(), [2]);
    assert!(
        Email::claim(pool, 9)
            .only(Email::TENANT, 1)
            .await
            .unwrap()
            .is_empty()
    );
}

/// With what else the transaction writes, or not at all.
#[tokio::test]
async fn in_a_transaction() {
    let database = jobs(JOBS).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    assert!(Email::pause(&mut *tx).await.unwrap());
    assert_eq!(Email::pauses(&mut *tx).await.unwrap().len(), 1);
    assert!(Email::claim(&mut *tx, 9).await.unwrap().is_empty());
    tx.rollback().await.unwrap();
    assert_eq!(given_out(pool).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn each_function_can_be_spawned() {
    let database = jobs(JOBS).await;
    let pool = database.pool.clone();
    tokio::spawn(async move {
        Email::pause(&pool).only(Email::TENANT, 1).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        Email::pauses(&mut *connection).await.unwrap();
        Email::resume(&mut *connection)
            .only(Email::TENANT, 1)
            .await
            .unwrap();
        let run = rowlock::transaction(&pool);
        drop(connection);
        let run = run.run(async |tx| {
            Email::pause(&mut *tx).await?;
            Email::pauses(&mut *tx).await?;
            Email::resume(&mut *tx).await?;
            Ok::<_, rowlock::Error>(())
        });
        run.await.unwrap();
    })
    .await
    .unwrap();
}
