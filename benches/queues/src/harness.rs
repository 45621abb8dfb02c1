//! What a contender is, and how one drain of its queue is measured.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::sync::Notify;

/// How many tasks work, where a contender does not say otherwise.
pub(crate) const TASKS: usize = 8;

/// How many connections the pool of a contender may have: more than the tasks of any setting need at once.
pub(crate) const CONNECTIONS: u32 = 40;

/// How long a drain may take until it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The payload of every job: as small as one can be that is parsed.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Payload {
    pub(crate) n: i64,
}

/// A way to work off a queue, and the settings that are tried with it.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// How many jobs a drain has: about a second's worth.
    pub(crate) jobs: i64,
    pub(crate) schema: Schema,
    pub(crate) enqueue: Box<dyn Fn(i64) -> Boxed<()>>,
    pub(crate) settings: Vec<Setting>,
}

/// What the harness has to know of a contender's tables.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) pool: PgPool,
    pub(crate) tables: &'static str,
    /// Empties them.
    pub(crate) clear: &'static str,
    /// Whether there is a job that is not completed.
    pub(crate) left: &'static str,
}

/// One setting of a contender.
pub(crate) struct Setting {
    pub(crate) text: String,
    /// How many jobs it claims at once, at most.
    pub(crate) batch: usize,
    drain: Box<dyn Fn(Run) -> Boxed<Duration>>,
}

impl Setting {
    pub(crate) fn new<F, Fut>(text: impl Into<String>, batch: usize, drain: F) -> Self
    where
        F: Fn(Run) -> Fut + 'static,
        Fut: Future<Output = Duration> + Send + 'static,
    {
        Self {
            text: text.into(),
            batch,
            drain: Box::new(move |run| Box::pin(drain(run))),
        }
    }
}

impl Contender {
    /// Jobs per second from the start of the workers until the last job is completed in the database.
    pub(crate) async fn measure(&self, setting: &Setting) -> f64 {
        let Schema {
            pool,
            tables,
            clear,
            ..
        } = &self.schema;
        execute(pool, clear).await;
        (self.enqueue)(self.jobs).await;
        // Everybody starts with statistics that fit, and autovacuum has nothing to do meanwhile.
        sqlx::raw_sql(AssertSqlSafe(format!("VACUUM (ANALYZE) {tables}")))
            .execute(pool)
            .await
            .expect("the tables can be analyzed");
        let run = Run {
            jobs: self.jobs,
            handled: Arc::default(),
            all: Arc::default(),
            schema: self.schema.clone(),
        };
        let time = (setting.drain)(run.clone()).await;
        let handled = run.handled.load(Ordering::Relaxed);
        assert_eq!(
            handled, self.jobs,
            "{}, {}: jobs handled more than once",
            self.name, setting.text
        );
        self.jobs as f64 / time.as_secs_f64()
    }
}

/// A drain that is under way.
#[derive(Clone)]
pub(crate) struct Run {
    jobs: i64,
    handled: Arc<AtomicI64>,
    all: Arc<Notify>,
    schema: Schema,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

impl Run {
    /// That many more jobs are handled; in the database they may still be in progress.
    pub(crate) fn handled(&self, jobs: usize) {
        let jobs = i64::try_from(jobs).expect("a batch is small");
        if self.handled.fetch_add(jobs, Ordering::Relaxed) + jobs == self.jobs {
            self.all.notify_one();
        }
    }

    /// Waits until the database says that every job is completed, and returns how long after `start` that was.
    ///
    /// The database is not asked before all jobs are handled, so that asking costs no contender anything.
    pub(crate) async fn completed(&self, start: Instant) -> Duration {
        let done = async {
            self.all.notified().await;
            loop {
                let asked = start.elapsed();
                let left: bool = sqlx::query_scalar(self.schema.left)
                    .fetch_one(&self.schema.pool)
                    .await
                    .expect("the tables can be read");
                if !left {
                    return asked;
                }
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(time) => time,
            Err(_) => panic!(
                "{} of {} jobs handled after {PATIENCE:?}",
                self.handled.load(Ordering::Relaxed),
                self.jobs
            ),
        }
    }
}

/// The server under test.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    url: String,
}

impl Server {
    pub(crate) fn from_environment() -> Option<Self> {
        let url = ["ROWLOCK_POSTGRES_URL", "DATABASE_URL"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()))?;
        Some(Self { url })
    }

    fn options(&self) -> PgConnectOptions {
        self.url.parse().expect("a URL of PostgreSQL")
    }

    async fn admin(&self, statement: String) {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(self.options())
            .await
            .expect("the server accepts connections");
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&pool)
            .await
            .expect("the role may make and drop databases");
        pool.close().await;
    }

    /// Whether a commit waits for the disk. Where it does not, that is what `with-servers` has set.
    pub(crate) async fn set_fsync(&self, on: bool) {
        let setting = if on { "SET fsync = on" } else { "RESET fsync" };
        self.admin(format!("ALTER SYSTEM {setting}")).await;
        self.admin("SELECT pg_reload_conf()".to_owned()).await;
    }

    /// A new database of this name. A database each, because the crates migrate by tables of the same name.
    pub(crate) async fn database(&self, name: &str) -> Database {
        let name = format!("rowlock_bench_queues_{name}");
        self.admin(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .await;
        self.admin(format!("CREATE DATABASE {name}")).await;
        Database {
            server: self.clone(),
            name,
        }
    }
}

/// A database of one contender.
#[derive(Debug)]
pub(crate) struct Database {
    server: Server,
    name: String,
}

impl Database {
    /// Connections that are open from the start and not pinged before each use, as in every other pool here:
    /// a ping per statement would hide what the statements cost, most of all where a job takes several.
    pub(crate) async fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .min_connections(CONNECTIONS)
            .max_connections(CONNECTIONS)
            .test_before_acquire(false)
            .connect_with(self.server.options().database(&self.name))
            .await
            .expect("the database accepts connections")
    }

    /// The same with sqlx 0.8.
    pub(crate) async fn pool_08(&self) -> sqlx_08::PgPool {
        let options: sqlx_08::postgres::PgConnectOptions =
            self.server.url.parse().expect("a URL of PostgreSQL");
        sqlx_08::postgres::PgPoolOptions::new()
            .min_connections(CONNECTIONS)
            .max_connections(CONNECTIONS)
            .test_before_acquire(false)
            .connect_with(options.database(&self.name))
            .await
            .expect("the database accepts connections")
    }

    /// A URL, for drivers other than sqlx.
    pub(crate) fn url(&self) -> String {
        let options = self.server.options();
        format!(
            "postgres://{}@{}:{}/{}",
            options.get_username(),
            options.get_host(),
            options.get_port(),
            self.name
        )
    }

    /// A few connections for the harness.
    pub(crate) async fn harness_pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(2)
            .connect_with(self.server.options().database(&self.name))
            .await
            .expect("the database accepts connections")
    }

    pub(crate) async fn drop(self) {
        let Self { server, name } = self;
        server
            .admin(format!("DROP DATABASE {name} WITH (FORCE)"))
            .await;
    }
}

/// Runs statements that have no parameters.
pub(crate) async fn execute(pool: &PgPool, statements: &'static str) {
    sqlx::raw_sql(statements)
        .execute(pool)
        .await
        .expect("a statement of the harness is right");
}
