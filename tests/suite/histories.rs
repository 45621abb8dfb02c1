//! Histories of transactions, judged from outside by `adya`, which looks for the anomalies that each isolation level
//! forbids (Adya's G0 to G2, as Jepsen's Elle does).
//!
//! Lists of numbers are read and appended to. What a list holds tells in which order its writers came, and what a reader
//! has seen of it; a value of a transaction that failed must never be seen.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adya::{History, Opts, Report, Valid, Workload};
use rowlock::tx::{TransactionBuilder, TransactionError};
use rowlock::{Tx, transaction};
use rowlock_tests::cancel::polled;
use rowlock_tests::random::Random;
use tokio::sync::Barrier;

use super::{Db, NAME, Pool, database};

pub(super) const LISTS: &str =
    "CREATE TABLE lists (key bigint PRIMARY KEY, elements text NOT NULL);
    INSERT INTO lists VALUES (0, ''), (1, ''), (2, ''), (3, ''), (4, '')";
const KEYS: usize = 5;
const PAIRS: usize = 4;
/// How many transactions each pair runs at least, two at a time.
const ROUNDS: usize = 50;
/// One of so many transactions is dropped on the way.
const CANCELLED: usize = 20;

/// What one transaction is to do: read all of `reads`, then append, then read what it appended to.
struct Plan {
    reads: Vec<usize>,
    appends: Vec<usize>,
    /// After how many polls it is dropped.
    cancel: Option<usize>,
}

impl Plan {
    fn random(random: &mut Random) -> Self {
        let mut keys: Vec<usize> = (0..KEYS).collect();
        for at in (1..KEYS).rev() {
            keys.swap(at, random.below(at + 1));
        }
        keys.truncate(1 + random.below(4));
        let mut appends = keys.clone();
        appends.truncate(1 + random.below(keys.len()));
        Self {
            reads: keys,
            appends,
            cancel: (random.below(CANCELLED) == 0).then(|| 1 + random.below(24)),
        }
    }

    /// The operations as the history has them; `None` where a value is not known.
    fn operations(&self, value: usize, read: Option<&Reads>) -> String {
        let list = |key: &usize, at: usize| match read {
            Some(read) => format!("[\"r\",{key},[{}]]", read[at]),
            None => format!("[\"r\",{key},null]"),
        };
        let before = self.reads.iter().enumerate();
        let mut operations: Vec<_> = before.map(|(at, key)| list(key, at)).collect();
        for (at, key) in self.appends.iter().enumerate() {
            operations.push(format!("[\"append\",{key},{value}]"));
            operations.push(list(key, self.reads.len() + at));
        }
        operations.join(",")
    }
}

/// The lists that a transaction has read, without their brackets.
type Reads = Vec<String>;

async fn read(tx: &mut Tx<Db>, key: usize) -> Result<String, sqlx::Error> {
    let elements: String = sqlx::query_scalar("SELECT elements FROM lists WHERE key = $1")
        .bind(key as i64)
        .fetch_one(&mut **tx)
        .await?;
    Ok(elements.trim_start_matches(',').to_owned())
}

/// What is going on, and what went on.
pub(super) struct Run {
    builder: Box<dyn Fn() -> TransactionBuilder<Db> + Send + Sync>,
    /// The two of a pair wait for each other between their reads and their appends.
    meet: bool,
    history: Mutex<String>,
    next_value: AtomicUsize,
    next_process: AtomicUsize,
    retries: Arc<AtomicU32>,
    committed: AtomicU32,
    unknown: Mutex<Vec<usize>>,
    pub(super) enough: AtomicBool,
}

impl Run {
    pub(super) fn new(
        pool: &Pool,
        options: impl Fn(TransactionBuilder<Db>) -> TransactionBuilder<Db> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let retries = Arc::new(AtomicU32::new(0));
        let (pool, counted) = (pool.clone(), retries.clone());
        let builder = move || {
            let counted = counted.clone();
            options(transaction(&pool))
                .attempts(100)
                .backoff(Duration::from_millis(1), Duration::from_millis(20))
                .on_retry(move |_| {
                    counted.fetch_add(1, SeqCst);
                })
        };
        Arc::new(Self {
            builder: Box::new(builder),
            // SQLite has one writer: the second would wait for the first to end.
            meet: NAME == "PostgreSQL",
            history: Mutex::default(),
            next_value: AtomicUsize::new(1),
            next_process: AtomicUsize::new(0),
            retries,
            committed: AtomicU32::new(0),
            unknown: Mutex::default(),
            enough: AtomicBool::new(true),
        })
    }

    fn process(&self) -> usize {
        self.next_process.fetch_add(1, SeqCst)
    }

    fn record(&self, kind: &str, process: usize, operations: &str) {
        let mut history = self.history.lock().unwrap();
        writeln!(
            history,
            "{{\"type\":\"{kind}\",\"process\":{process},\"value\":[{operations}]}}"
        )
        .unwrap();
    }

    /// Runs one transaction, writes down how it ended, and gives the process that runs the next one.
    async fn one(&self, process: usize, plan: Plan, pair: &Barrier) -> usize {
        let value = self.next_value.fetch_add(1, SeqCst);
        let asked = plan.operations(value, None);
        self.record("invoke", process, &asked);
        let met = AtomicBool::new(!self.meet);
        let run = (self.builder)().run(async |tx| {
            let mut reads = Reads::new();
            for &key in &plan.reads {
                reads.push(read(tx, key).await?);
            }
            // Nobody holds a lock yet, so the other one gets here, too.
            if !met.swap(true, SeqCst) {
                pair.wait().await;
            }
            for &key in &plan.appends {
                sqlx::query("UPDATE lists SET elements = elements || $1 WHERE key = $2")
                    .bind(format!(",{value}"))
                    .bind(key as i64)
                    .execute(&mut **tx)
                    .await?;
                reads.push(read(tx, key).await?);
            }
            Ok::<_, sqlx::Error>(reads)
        });
        let ended = polled(plan.cancel.unwrap_or(usize::MAX), run).await;
        let next = match ended {
            Some(Ok(reads)) => {
                self.committed.fetch_add(1, SeqCst);
                self.record("ok", process, &plan.operations(value, Some(&reads)));
                process
            }
            // Dropped: the COMMIT may be on its way.
            None | Some(Err(TransactionError::CommitUnknown(_))) => {
                if ended.is_some() {
                    self.unknown.lock().unwrap().push(value);
                }
                self.record("info", process, &asked);
                self.process()
            }
            Some(Err(TransactionError::Exhausted { .. })) => {
                self.record("fail", process, &asked);
                process
            }
            Some(Err(error)) => panic!("{error:?}"),
        };
        if !met.load(SeqCst) {
            pair.wait().await;
        }
        next
    }

    /// Two transactions at a time, until there are enough of them.
    async fn pair(&self, mut random: Random) {
        let mut processes = (self.process(), self.process());
        for round in 0.. {
            if round >= ROUNDS && self.enough.load(SeqCst) {
                break;
            }
            let plans = (Plan::random(&mut random), Plan::random(&mut random));
            let barrier = Barrier::new(2);
            processes = tokio::join!(
                self.one(processes.0, plans.0, &barrier),
                self.one(processes.1, plans.1, &barrier),
            );
        }
    }

    /// Write skew for certain, where the level lets it happen; then all pairs at random; then all lists as they are.
    pub(super) async fn contend(self: &Arc<Self>, mut random: Random) -> Judge {
        let skewed = |appends| Plan {
            reads: vec![0, 1],
            appends: vec![appends],
            cancel: None,
        };
        let barrier = Barrier::new(2);
        tokio::join!(
            self.one(self.process(), skewed(0), &barrier),
            self.one(self.process(), skewed(1), &barrier),
        );
        let mut pairs = tokio::task::JoinSet::new();
        for _ in 0..PAIRS {
            let (run, random) = (self.clone(), random.fork());
            pairs.spawn(async move { run.pair(random).await });
        }
        pairs.join_all().await;
        self.judge().await
    }

    /// Reads all lists once more, and has the history judged.
    async fn judge(&self) -> Judge {
        let last = Plan {
            reads: (0..KEYS).collect(),
            appends: Vec::new(),
            cancel: None,
        };
        let process = self.process();
        self.record("invoke", process, &last.operations(0, None));
        let lists = (self.builder)()
            .read_only()
            .run(async |tx| {
                let mut reads = Reads::new();
                for key in 0..KEYS {
                    reads.push(read(tx, key).await?);
                }
                Ok::<_, sqlx::Error>(reads)
            })
            .await
            .unwrap();
        self.record("ok", process, &last.operations(0, Some(&lists)));
        let history = self.history.lock().unwrap();
        let judge = Judge {
            history: History::from_json(&history).unwrap(),
            lists,
            retries: self.retries.load(SeqCst),
            committed: self.committed.load(SeqCst),
            unknown: self.unknown.lock().unwrap().clone(),
        };
        println!(
            "{NAME}: {} committed, {} retries, {} unknown after COMMIT",
            judge.committed,
            judge.retries,
            judge.unknown.len()
        );
        judge
    }
}

/// Says what a history shows.
pub(super) struct Judge {
    history: History,
    lists: Reads,
    pub(super) retries: u32,
    pub(super) committed: u32,
    /// The values of transactions that ended as `CommitUnknown`.
    pub(super) unknown: Vec<usize>,
}

impl Judge {
    fn report(&self, model: &str) -> Report {
        let options = Opts {
            models: vec![model.to_owned()],
            timeout: Duration::from_secs(20),
            ..Opts::default()
        };
        adya::check(&self.history, Workload::ListAppend, &options)
    }

    /// No anomaly that the level forbids, among enough transactions.
    pub(super) fn shows(&self, model: &str) {
        let report = self.report(model);
        assert_eq!(report.valid, Valid::True, "{:#?}", report.anomalies);
        assert!(self.committed > 200, "{} committed", self.committed);
    }

    /// At least one.
    pub(super) fn refutes(&self, model: &str) {
        let report = self.report(model);
        assert_eq!(report.valid, Valid::False);
        println!("not {model}: {}", report.anomaly_types.join(", "));
    }

    /// Whether a transaction's value is in the database.
    pub(super) fn holds(&self, value: usize) -> bool {
        let value = value.to_string();
        let mut elements = self.lists.iter().flat_map(|list| list.split(','));
        elements.any(|element| element == value)
    }
}

/// The judge can say no: read, then write what was read and one more, each on its own.
#[tokio::test]
async fn naive_twin_without_a_transaction_is_found_out() {
    let database = database(LISTS).await;
    let run = Run::new(&database.pool, TransactionBuilder::serializable);
    let both_read = Barrier::new(2);
    let append = async |value: usize| {
        let (list, append) = ("[\"r\",0,", format!("[\"append\",0,{value}]"));
        run.record("invoke", value, &format!("{list}null],{append}"));
        let elements: String = sqlx::query_scalar("SELECT elements FROM lists WHERE key = 0")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        both_read.wait().await;
        sqlx::query("UPDATE lists SET elements = $1 WHERE key = 0")
            .bind(format!("{elements},{value}"))
            .execute(&database.pool)
            .await
            .unwrap();
        run.record("ok", value, &format!("{list}[{elements}]],{append}"));
    };
    tokio::join!(append(1), append(2));
    let judge = run.judge().await;
    assert!(judge.holds(1) != judge.holds(2));
    judge.refutes("serializable");
}

#[tokio::test]
async fn serializable_histories_have_no_anomaly() {
    let random = Random::new(20);
    let database = database(LISTS).await;
    let run = Run::new(&database.pool, TransactionBuilder::serializable);
    let judge = run.contend(random).await;
    judge.shows("serializable");
    assert!(NAME == "SQLite" || judge.retries >= 1);
    assert_eq!(database.open_transactions().await, 0);
}
