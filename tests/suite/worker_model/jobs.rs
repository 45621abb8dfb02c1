//! The jobs: their table, and the models by which workers know it.

use rowlock::queue::{Job, QueueState, Worker};
use rowlock::{Fence, FindOrCreate, Queue};
use sqlx::AssertSqlSafe;

use super::program::Part;
use super::{Database, Db, NAME, Pool, Timestamp, database, execute};

/// What a worker knows a row by.
pub(super) trait Model: rowlock::__private::queue::QueueSql<Db> {
    /// A worker for this part of the rows.
    fn worker_for(pool: &Pool, part: Part) -> Worker<Db, Self>;
    fn given(job: &Job<Self>) -> Given;
}

/// A row and its fence, which tells its claims apart.
pub(super) type Claim = (i64, Fence);

/// What a handler is given, whichever model its worker has.
pub(super) struct Given {
    pub(super) claim: Claim,
    pub(super) what: String,
    pub(super) customer: Option<i64>,
    /// Whether the claim is known to hold no more.
    pub(super) is_stopped: Box<dyn Fn() -> bool + Send + Sync>,
}

macro_rules! step {
    ($(#[$doc:meta])* $name:ident, $attempts:literal) => {
        $(#[$doc])*
        #[derive(Debug, sqlx::FromRow, Queue, FindOrCreate)]
        #[rowlock(table = "jobs", pauses = "pauses", unique(tag, while(ready, running)))]
        pub(super) struct $name {
            #[rowlock(key, generated)]
            pub(super) id: i64,
            what: String,
            /// NULL, or not a text, in rows that cannot be read.
            payload: String,
            #[rowlock(per, filter)]
            pub(super) customer: Option<i64>,
            tag: String,
            #[rowlock(run_at, default)]
            run_at: Timestamp,
            #[rowlock(state)]
            state: QueueState,
            #[rowlock(attempts(max = $attempts))]
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

        impl Model for $name {
            fn worker_for(pool: &Pool, part: Part) -> Worker<Db, Self> {
                let worker = Self::worker(pool);
                match part {
                    Part::All => worker,
                    Part::First => worker.only(Self::CUSTOMER, 1),
                    Part::Others => worker.when(Self::CUSTOMER.ne(1)),
                }
            }

            fn given(job: &Job<Self>) -> Given {
                let handle = job.clone();
                Given {
                    claim: (job.id, job.fence),
                    what: job.what.clone(),
                    customer: job.customer,
                    is_stopped: Box::new(move || handle.is_stopped()),
                }
            }
        }
    };
}

step!(
    /// As the last worker knows it.
    Step,
    3
);
step!(
    /// The same with a lower limit.
    LowStep,
    2
);

pub(super) const MAX: i32 = 3;
pub(super) const LOWERED: i32 = 2;

const TABLE: &str = "CREATE TABLE jobs (
        id {id},
        what text NOT NULL,
        payload text,
        customer bigint,
        tag text NOT NULL,
        run_at {timestamp} NOT NULL DEFAULT ({now}),
        state text NOT NULL DEFAULT 'ready',
        attempts integer NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        leased_until {timestamp},
        last_error text,
        finished_at {timestamp}
    )";

/// Rows of these kinds refuse to be claimed, or to be done.
const REFUSED: &str = "(NEW.what = 'no claim' AND NEW.state = 'running') OR (NEW.what = 'no done' AND NEW.state = 'done')";

/// The table, with its indexes and its trigger.
pub(super) async fn table() -> Database {
    let database = database(TABLE).await;
    let trigger = if NAME == "SQLite" {
        format!(
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN {REFUSED} BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    } else {
        format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF {REFUSED} THEN RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    };
    sqlx::raw_sql(AssertSqlSafe(trigger))
        .execute(&database.pool)
        .await
        .unwrap();
    execute(&database.pool, Step::ddl::<Db>()).await;
    database
}

/// A job that a program enqueues, and does not insert by hand.
pub(super) fn good(tag: &str) -> NewStep {
    NewStep {
        what: "good".to_owned(),
        payload: String::new(),
        customer: Some(1),
        tag: tag.to_owned(),
    }
}

/// How a row ended.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) what: String,
    pub(super) state: String,
    pub(super) attempts: i32,
    pub(super) fence: Fence,
    pub(super) last_error: Option<String>,
}

impl Row {
    pub(super) fn has_ended(&self) -> bool {
        self.state == "done" || self.state == "dead"
    }
}

pub(super) async fn rows(pool: &Pool) -> Vec<Row> {
    sqlx::query_as("SELECT id, what, state, attempts, fence, last_error FROM jobs ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap()
}
