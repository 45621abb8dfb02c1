//! What is explored: the database, the actors, and what has to hold.

use std::fmt::{Debug, Display};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::actor::{Actor, Outcome, panic_text};
use crate::admin::{Admin, doing};
use crate::connection::SeenElsewhere;
use crate::error::Error;
use crate::run::{Play, Restart, Stage};
use crate::schedule;
use crate::search::{Failed, Judge, Plan, Seen, replay, search};
use crate::session::Sessions;
use crate::trace::Fault;
use crate::url::Url;
use crate::verdict::{Coverage, Failure, Verdict};

type Invariant<T> =
    Arc<dyn Fn(Ended<T>) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// What is explored: a database, the actors that run on it at the same time, and what has to hold after every schedule.
///
/// ```no_run
/// use std::time::Duration;
///
/// use rowlock_explore::{Actor, Ended, Explorer, Fault};
/// use sqlx::{Connection, PgConnection};
///
/// async fn withdraw(actor: Actor) -> sqlx::Result<bool> {
///     let mut connection = PgConnection::connect(actor.url()).await?;
///     let update = "UPDATE accounts SET balance = balance - 60 WHERE id = 1 AND balance >= 60";
///     let done = sqlx::query(update).execute(&mut connection).await?;
///     connection.close().await?;
///     Ok(done.rows_affected() == 1)
/// }
///
/// # async fn example() -> Result<(), rowlock_explore::Error> {
/// let verdict = Explorer::new("postgres://postgres@localhost/scratch")
///     .schema("CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)")
///     .setup("DELETE FROM accounts; INSERT INTO accounts VALUES (1, 100)")
///     .actor("ann", withdraw)
///     .actor("bob", withdraw)
///     .never("SELECT balance FROM accounts WHERE balance < 0")
///     .invariant(|ended: Ended<sqlx::Result<bool>>| async move {
///         let paid = ended.returned().filter(|paid| matches!(paid, Ok(true))).count();
///         let balance = ended.value("SELECT balance FROM accounts").await?;
///         match (paid, balance.as_str(), ended.faults.is_empty()) {
///             (1, "40", true) | (0..=1, "40", false) => Ok(()),
///             // Both were cut off before.
///             (0, "100", false) => Ok(()),
///             _ => Err(format!("paid {paid} times, and {balance} are left")),
///         }
///     })
///     .faults([Fault::CutBefore, Fault::CutAfter])
///     .max_time(Duration::from_secs(20))
///     .explore()
///     .await?;
/// println!("{}", verdict.assert_passed());
/// # Ok(())
/// # }
/// ```
///
/// Where nothing else is said, schedules are reduced, there are no faults, the budget is 20,000 schedules and 60 seconds, and
/// the first failure ends it.
pub struct Explorer<T> {
    url: String,
    schema: Vec<String>,
    setup: Vec<String>,
    actors: Vec<(String, Play<T>)>,
    invariants: Vec<Invariant<T>>,
    never: Vec<String>,
    restart: Option<Restart>,
    plan: Plan,
    replay: Option<String>,
}

/// A complete schedule, as an invariant sees it.
///
/// ```no_run
/// # use rowlock_explore::{Ended, Explorer, Outcome};
/// # let explorer: Explorer<Result<u32, String>> = Explorer::new("postgres://localhost/scratch");
/// explorer.invariant(|ended: Ended<Result<u32, String>>| async move {
///     if let [Outcome::Panicked(text), ..] = &*ended.outcomes {
///         return Err(format!("ann panicked: {text}"));
///     }
///     let orders = ended.rows("SELECT id, buyer FROM orders ORDER BY id").await?;
///     let bought = ended.returned().filter(|result| result.is_ok()).count();
///     if orders.len() == bought { Ok(()) } else { Err(format!("{bought} bought, and there are {orders:?}")) }
/// });
/// ```
#[derive(Debug)]
pub struct Ended<T> {
    /// What each actor has returned, in the order in which they were added.
    pub outcomes: Arc<[Outcome<T>]>,
    /// The faults of the schedule.
    pub faults: Vec<Fault>,
    url: String,
    admin: Arc<Admin>,
}

impl<T> Ended<T> {
    /// The URL of the database, for whatever the invariant asks by itself.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the actors have returned, in their order; without those that did not return.
    pub fn returned(&self) -> impl Iterator<Item = &T> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Returned(value) => Some(value),
            _ => None,
        })
    }

    /// The rows of a query as text, on the explorer's own connection, which costs no new one.
    ///
    /// # Errors
    ///
    /// What the database says, as text: an invariant can return it.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        self.admin
            .rows(sql, "ask for an invariant")
            .await
            .map_err(|error| error.in_full())
    }

    /// The one value of a query with one row and one column, as text.
    ///
    /// # Errors
    ///
    /// What the database says, or that it is not one value that is not NULL.
    pub async fn value(&self, sql: &str) -> Result<String, String> {
        let rows = self.rows(sql).await?;
        match rows.as_slice() {
            [row] if row.len() == 1 => row[0].clone().ok_or_else(|| format!("{sql} is NULL")),
            _ => Err(format!("{sql} has {} rows", rows.len())),
        }
    }
}

impl<T: Debug + Send + Sync + 'static> Explorer<T> {
    /// Explores on the database at this URL. Its tables are the explorer's to change; nobody else may write there meanwhile.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            schema: Vec::new(),
            setup: Vec::new(),
            actors: Vec::new(),
            invariants: Vec::new(),
            never: Vec::new(),
            restart: None,
            plan: Plan {
                reduce: true,
                preemptions: None,
                faults: Vec::new(),
                faults_per_run: 1,
                max_schedules: 20_000,
                max_time: Duration::from_secs(60),
                count_failures: false,
            },
            replay: None,
        }
    }

    /// Runs these statements once, before everything: tables, functions, indexes.
    #[must_use]
    pub fn schema(mut self, sql: impl Into<String>) -> Self {
        self.schema.push(sql.into());
        self
    }

    /// Runs these statements before every schedule: rows as they are at the beginning. `DELETE` is many times as fast as
    /// `TRUNCATE` or `CREATE TABLE`.
    #[must_use]
    pub fn setup(mut self, sql: impl Into<String>) -> Self {
        self.setup.push(sql.into());
        self
    }

    /// Adds one of those who run at the same time. `play` is called once for each schedule, and its future runs as a task of
    /// tokio. All of its connections are made with [`Actor::url`], by itself, and closed at its end. The name is for the table
    /// and for [`Actor::name`], and others may have it too; replay strings call the actors `a`, `b` and so on, in the order in which
    /// they were added.
    ///
    /// One that does nothing for 10 seconds which the explorer can see is taken to wait for another actor, whatever
    /// [`max_time`](Self::max_time) says: others go on, and if none can, the schedule fails.
    #[must_use]
    pub fn actor<F>(
        mut self,
        name: impl Into<String>,
        play: impl Fn(Actor) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.actors
            .push((name.into(), Arc::new(move |actor| Box::pin(play(actor)))));
        self
    }

    /// Has to hold after every schedule; `Err` says what does not. Asked after all [`never`](Self::never). One that has not
    /// returned after [`max_time`](Self::max_time), or 10 seconds if that is longer, does not hold.
    #[must_use]
    pub fn invariant<F, E>(mut self, check: impl Fn(Ended<T>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.invariants.push(Arc::new(move |ended| {
            let holds = check(ended);
            Box::pin(async { holds.await.map_err(|error| error.to_string()) })
        }));
        self
    }

    /// A query that has no row after any schedule.
    #[must_use]
    pub fn never(mut self, sql: impl Into<String>) -> Self {
        self.never.push(sql.into());
        self
    }

    /// Breaks one of these at every point, one in each schedule. Defaults to none.
    #[must_use]
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.plan.faults = faults.into_iter().collect();
        self
    }

    /// At most so many faults in one schedule. Defaults to 1.
    #[must_use]
    pub fn faults_per_schedule(mut self, most: usize) -> Self {
        self.plan.faults_per_run = most;
        self
    }

    /// How the server is restarted, for [`Fault::Restarted`], which is an error without it. It returns when the server accepts
    /// connections again; [`Error::Restart`] if it has not after [`max_time`](Self::max_time), or 10 seconds if that is longer.
    #[must_use]
    pub fn restart<F, E>(mut self, restart: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.restart = Some(Arc::new(move || {
            let restarted = restart();
            Box::pin(async { restarted.await.map_err(|error| error.to_string()) })
        }));
        self
    }

    /// Runs every order of requests, also those that differ only where nobody can see it.
    #[must_use]
    pub fn exhaustive(mut self) -> Self {
        self.plan.reduce = false;
        self
    }

    /// Runs the schedules only in which at most so many times another actor goes first although one could go on. Most
    /// races need one or two. Implies [`exhaustive`](Self::exhaustive) within the bound.
    #[must_use]
    pub fn preemptions(mut self, most: usize) -> Self {
        (self.plan.preemptions, self.plan.reduce) = (Some(most), false);
        self
    }

    /// Goes on after a schedule that fails, to count them.
    #[must_use]
    pub fn count_failures(mut self) -> Self {
        self.plan.count_failures = true;
        self
    }

    /// Runs at most so many schedules. Defaults to 20,000.
    #[must_use]
    pub fn max_schedules(mut self, most: u64) -> Self {
        self.plan.max_schedules = most;
        self
    }

    /// Takes at most so long, and the schedule that it is in; one that has no end, as when an actor asks again and again, is
    /// broken off. In a schedule are the 10 seconds for an [`actor`](Self::actor) that does nothing, and what a statement takes.
    /// Defaults to 60 seconds.
    #[must_use]
    pub fn max_time(mut self, most: Duration) -> Self {
        self.plan.max_time = most;
        self
    }

    /// Runs one schedule only: that of the replay string which a failure has shown. After its last step the requests go in the
    /// order of the actors.
    #[must_use]
    pub fn replay(mut self, schedule: impl Into<String>) -> Self {
        self.replay = Some(schedule.into());
        self
    }

    /// Explores.
    ///
    /// # Errors
    ///
    /// See [`Error`]: nothing is known of the program then.
    pub async fn explore(self) -> Result<Verdict, Error> {
        let url = Url::parse(&self.url).ok_or(Error::Url)?;
        let replayed = match &self.replay {
            Some(text) => Some(schedule::read(text)?),
            None => None,
        };
        let given = replayed
            .iter()
            .flatten()
            .filter_map(|step| step.choice.fault);
        let faults: Vec<Fault> = self.plan.faults.iter().copied().chain(given).collect();
        let restarted = faults.contains(&Fault::Restarted);
        if restarted && self.restart.is_none() {
            return Err(Error::NoRestart);
        }
        let admin = Arc::new(Admin::connect(&self.url).await?);
        for sql in &self.schema {
            admin.execute(sql, "make the schema").await?;
        }
        let mut settings = Vec::new();
        let quick_deadlocks = one(&admin, CAN_SET_DEADLOCK_TIMEOUT).await? == "t";
        if quick_deadlocks {
            settings.push("deadlock_timeout=1ms".to_owned());
        }
        let clock = faults.iter().any(|fault| matches!(fault, Fault::Clock(_)));
        let mut setup = self.setup;
        if clock {
            admin
                .execute(CLOCK, "make a clock that can be stepped")
                .await?;
            let path = one(&admin, "SHOW search_path").await?.replace(", ", ",");
            settings.push(format!("search_path=rowlock_explore,{path},pg_catalog"));
            setup.push("UPDATE rowlock_explore.clock SET ahead = '0'".to_owned());
        }
        for sql in &setup {
            admin.execute(sql, "set up").await?;
        }
        let patience = self.plan.max_time.max(PATIENCE);
        let stage = Stage {
            sessions: Sessions::new(url.address()),
            url,
            settings,
            setup,
            actors: self.actors,
            catalogue: admin.catalogue().await?,
            restart: self.restart,
            patience,
            seen: SeenElsewhere::default(),
            global_faults: clock || restarted,
            clock,
            quick_deadlocks,
            admin: Arc::clone(&admin),
        };
        let judge = Invariants {
            url: self.url,
            admin,
            invariants: self.invariants,
            never: self.never,
            patience,
        };
        let plan = self.plan;
        let seen = match &replayed {
            Some(given) => replay(&stage, given, &judge).await?,
            None => {
                let mut seen = search(&stage, &plan, &judge).await?;
                if let Some(failure) = seen.failure.take() {
                    seen.failure = Some(simplest(&stage, &plan, &judge, failure).await?);
                }
                seen
            }
        };
        Ok(verdict(&plan, replayed.is_some(), seen))
    }
}

/// How long an invariant or a restart may take in any case.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the user may set it: else deadlocks take as long as the server is told.
const CAN_SET_DEADLOCK_TIMEOUT: &str = "SELECT CASE WHEN rolsuper THEN true \
     WHEN current_setting('server_version_num')::int < 150000 THEN false \
     ELSE has_parameter_privilege('deadlock_timeout', 'SET') END FROM pg_roles WHERE rolname = current_user";

/// Functions before those of the server, which a search path finds first.
const CLOCK: &str = "
    CREATE SCHEMA IF NOT EXISTS rowlock_explore;
    CREATE TABLE IF NOT EXISTS rowlock_explore.clock (ahead interval NOT NULL);
    DELETE FROM rowlock_explore.clock;
    INSERT INTO rowlock_explore.clock VALUES ('0');
    CREATE OR REPLACE FUNCTION rowlock_explore.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM rowlock_explore.clock';
    CREATE OR REPLACE FUNCTION rowlock_explore.now() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT pg_catalog.now() + ahead FROM rowlock_explore.clock';
    CREATE OR REPLACE FUNCTION rowlock_explore.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
        AS 'SELECT pg_catalog.statement_timestamp() + ahead FROM rowlock_explore.clock';
    GRANT USAGE ON SCHEMA rowlock_explore TO PUBLIC; GRANT SELECT ON rowlock_explore.clock TO PUBLIC";

async fn one(admin: &Admin, sql: &str) -> Result<String, Error> {
    let rows = admin.rows(sql, "look at the settings").await?;
    Ok(rows
        .into_iter()
        .flatten()
        .flatten()
        .next()
        .unwrap_or_default())
}

struct Invariants<T> {
    url: String,
    admin: Arc<Admin>,
    invariants: Vec<Invariant<T>>,
    never: Vec<String>,
    patience: Duration,
}

impl<T: Debug + Send + Sync + 'static> Judge<T> for Invariants<T> {
    async fn judge(
        &self,
        outcomes: Vec<Outcome<T>>,
        faults: Vec<Fault>,
    ) -> Result<Result<(), String>, Error> {
        for sql in &self.never {
            let rows = self.admin.rows(sql, "ask what must never be").await?;
            if let Some(row) = rows.first() {
                let values: Vec<&str> = row
                    .iter()
                    .map(|value| value.as_deref().unwrap_or("NULL"))
                    .collect();
                return Ok(Err(format!(
                    "there is a row of {sql}: {}",
                    values.join(", ")
                )));
            }
        }
        let outcomes: Arc<[Outcome<T>]> = outcomes.into();
        for invariant in &self.invariants {
            let (outcomes, faults) = (Arc::clone(&outcomes), faults.clone());
            let ended = Ended {
                outcomes,
                faults,
                url: self.url.clone(),
                admin: Arc::clone(&self.admin),
            };
            let mut asked = tokio::spawn(invariant(ended));
            let holds = match timeout(self.patience, &mut asked).await {
                Ok(holds) => holds.unwrap_or_else(|error| {
                    Err(format!("an invariant panicked: {}", panic_text(error)))
                }),
                Err(_) => {
                    asked.abort();
                    // Its query may still be under way on the other connection.
                    let reconnected = self.admin.reconnect().await;
                    reconnected.map_err(doing("connect again"))?;
                    Err(format!(
                        "an invariant has not returned after {:?}",
                        self.patience
                    ))
                }
            };
            if let Err(why) = holds {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    fn results(&self, outcomes: &[Outcome<T>]) -> Vec<Option<String>> {
        let show = |outcome: &Outcome<T>| match outcome {
            Outcome::Returned(value) => Some(at_most(format!("{value:?}"))),
            Outcome::Panicked(text) => Some(at_most(format!("panicked: {text}"))),
            Outcome::Unfinished => None,
        };
        outcomes.iter().map(show).collect()
    }
}

/// As much of a result as fits into a column: some errors have a backtrace.
fn at_most(mut text: String) -> String {
    const CHARACTERS: usize = 400;
    if let Some((end, _)) = text.char_indices().nth(CHARACTERS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The same failure with as few preemptions as possible: what a person follows best.
async fn simplest<T: Debug + Send + Sync + 'static>(
    stage: &Stage<T>,
    plan: &Plan,
    judge: &Invariants<T>,
    found: Failed,
) -> Result<Failed, Error> {
    for most in 0..found.preemptions {
        let bounded = Plan {
            reduce: false,
            preemptions: Some(most),
            max_schedules: 300,
            max_time: Duration::from_secs(5),
            count_failures: false,
            ..plan.clone()
        };
        if let Some(simpler) = search(stage, &bounded, judge).await?.failure {
            return Ok(simpler);
        }
    }
    Ok(found)
}

fn verdict(plan: &Plan, replayed: bool, seen: Seen) -> Verdict {
    let coverage = Coverage {
        schedules: seen.schedules,
        pruned: seen.pruned,
        failing: seen.failing,
        steps: seen.steps,
        elapsed: seen.elapsed,
        reduced: plan.reduce,
        preemptions: plan.preemptions,
        faults: plan.faults.clone(),
        replayed,
    };
    match (seen.failure, seen.stopped) {
        (Some(failed), _) => {
            let schedule = schedule::write(&failed.choices);
            Verdict::Failed(Box::new(Failure {
                why: failed.why,
                schedule,
                trace: failed.trace,
                coverage,
            }))
        }
        (None, Some(why)) => Verdict::Inconclusive { why, coverage },
        // As when all of them connect to the URL of the database itself.
        (None, None) if coverage.steps == 0 => Verdict::Inconclusive {
            why: "no actor sent a request: each connects with the URL that it is given".to_owned(),
            coverage,
        },
        (None, None) => Verdict::Passed(coverage),
    }
}
