//! A process whose callers share lanes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rowlock::row::{CounterError, FoundOrCreated, LoadError, UpdateError};
use rowlock::{Fault, Lanes};
use rowlock_tests::cancel;
use rowlock_tests::random::Random;
use sqlx::Postgres;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::history::{Call, Counter, Log, Told};
use crate::naive::Naive;
use crate::rows::{Document, KEYS, Label, NewLabel, Seats, Views, key_of, label_of};
use crate::{Break, Client};

/// At once.
const CALLERS: usize = 64;
/// By which its connections are known.
pub(crate) const NAME: &str = "kills-client";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the callers share.
struct Process {
    round: i64,
    lanes: Lanes<Postgres>,
    naive: Option<Naive>,
    log: Log,
    stopped: AtomicBool,
}

/// Says "up" when its lanes are there, begins at the line "go", and ends with standard input, or when each caller has made as many calls as it was told.
pub(crate) async fn run(client: Client, breaks: Option<Break>) -> Result<(), Error> {
    let mut connect: PgConnectOptions = client.url.parse()?;
    if breaks == Some(Break::Lazy) {
        connect = connect.options([("synchronous_commit", "off")]);
    }
    let lanes = 1 + u32::try_from(client.round % 3)?;
    let pool = PgPoolOptions::new()
        .max_connections(lanes + 4)
        .connect_with(connect.application_name(NAME))
        .await?;
    let process = Arc::new(Process {
        round: client.round,
        lanes: Lanes::new(&pool, lanes as usize).await?,
        naive: breaks.and_then(|breaks| Naive::new(&pool, breaks)),
        log: Log::at(Path::new(&client.log))?,
        stopped: AtomicBool::new(false),
    });
    println!("up");
    let mut lines = lines();
    lines.recv().await;
    let mut random = Random::seeded(client.seed);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (process, random) = (process.clone(), random.fork());
        callers.spawn(process.calls(random, client.calls));
    }
    let stop = async {
        while lines.recv().await.is_some() {}
        process.stopped.store(true, Ordering::Relaxed);
        std::future::pending().await
    };
    tokio::select! {
        () = stop => {}
        ended = async {
            while let Some(ended) = callers.join_next().await {
                ended??;
            }
            Ok::<_, Error>(())
        } => ended?,
    }
    process.lanes.close().await;
    pool.close().await;
    Ok(())
}

/// Of standard input, which a runtime that ends does not wait for.
fn lines() -> mpsc::UnboundedReceiver<()> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || sender.send(()).is_err() {
                return;
            }
        }
    });
    lines
}

impl Process {
    async fn calls(self: Arc<Self>, mut random: Random, calls: Option<usize>) -> Result<(), Error> {
        let mut made = 0;
        while !self.stopped.load(Ordering::Relaxed) && calls.is_none_or(|calls| made < calls) {
            made += 1;
            let key = random.below(KEYS as usize) as i64;
            let delta = 1 + random.below(3) as i64;
            let label = random.below(KEYS as usize + made) as i64;
            let operation = match self.naive {
                // All that it can.
                Some(_) => 0,
                None => random.below(10),
            };
            match operation {
                0..3 => self.add(&mut random, Counter::Views, key, delta).await?,
                3 => self.add(&mut random, Counter::Taken, key, delta).await?,
                4 => self.add(&mut random, Counter::Left, key, -delta).await?,
                5 | 6 => self.update(&mut random, key).await?,
                7 => _ = self.load(&mut random, key).await?,
                8 => self.find_or_create(&mut random, label).await?,
                _ => self.find(&mut random, label).await?,
            }
        }
        Ok(())
    }

    /// Writes down what is asked for, and what is told. Some callers go before they are told.
    async fn call<F: Future<Output = Result<Told, Error>>>(
        &self,
        random: &mut Random,
        call: Call,
        told: impl FnOnce(i64) -> F,
    ) -> Result<Told, Error> {
        let id = self.log.begins(call)?;
        let told = told(id);
        let told = match random.below(16) {
            0 => cancel::polled(1 + random.below(4), told).await,
            1 => {
                let patience = Duration::from_micros(random.below(3_000) as u64);
                timeout(patience, told).await.ok()
            }
            _ => Some(told.await),
        };
        let told = told.unwrap_or(Ok(Told::Unknown))?;
        self.log.ends(id, told)?;
        if told == Told::Nothing {
            // The server is away.
            sleep(Duration::from_millis(1)).await;
        }
        Ok(told)
    }

    async fn add(
        &self,
        random: &mut Random,
        to: Counter,
        key: i64,
        delta: i64,
    ) -> Result<(), Error> {
        let row = key_of(self.round, key);
        let call = Call::Add { to, key, delta };
        let told = self.call(random, call, async |_| {
            let total = match (to, &self.naive) {
                (Counter::Views, Some(naive)) => return Ok(naive.add(row, delta).await),
                (Counter::Views, None) => Views::add_times(&self.lanes, row, delta).await,
                (Counter::Taken, _) => {
                    let total = Seats::add_taken(&self.lanes, row, delta).await;
                    total.map(i64::from)
                }
                (Counter::Left, _) => {
                    let total = Seats::add_seats_left(&self.lanes, row, delta).await;
                    total.map(i64::from)
                }
            };
            match total {
                Ok(total) => Ok(Told::Total(total)),
                Err(CounterError::OutOfBounds(met)) => {
                    Ok(met.current.map_or(Told::Missing, Told::Refused))
                }
                Err(CounterError::NotFound(_)) => Ok(Told::Missing),
                Err(error) => failed(error),
            }
        });
        told.await.map(drop)
    }

    /// Returns the document, if it was read.
    async fn load(&self, random: &mut Random, document: i64) -> Result<Option<Document>, Error> {
        let mut read = None;
        let told = self.call(
            random,
            Call::Load { document },
            async |_| match Document::load(&self.lanes, key_of(self.round, document)).await {
                Ok(document) => {
                    let last = document.calls.last().copied().unwrap_or_default();
                    let length = i64::try_from(document.calls.len())?;
                    if i64::from(document.version) != length {
                        return Err("a version without its update".into());
                    }
                    read = Some(document);
                    Ok(Told::Loaded(length, last))
                }
                Err(LoadError::NotFound(_)) => Ok(Told::Missing),
                Err(error) => failed(error),
            },
        );
        told.await?;
        Ok(read)
    }

    async fn update(&self, random: &mut Random, document: i64) -> Result<(), Error> {
        let Some(mut row) = self.load(random, document).await? else {
            return Ok(());
        };
        let from = row.version.into();
        let call = Call::Update { document, from };
        let told = self.call(random, call, async |id| {
            row.calls.push(id);
            match row.update(&self.lanes).await {
                Ok(row) => Ok(Told::Version(row.version.into())),
                Err(UpdateError::Stale(conflict)) => {
                    Ok(Told::Stale(conflict.current.version.into()))
                }
                Err(UpdateError::Gone(_)) => Ok(Told::Missing),
                Err(error) => failed(error),
            }
        });
        told.await.map(drop)
    }

    async fn find_or_create(&self, random: &mut Random, label: i64) -> Result<(), Error> {
        let told = self.call(random, Call::FindOrCreate { label }, async |_| {
            let name = label_of(self.round, label);
            match Label::find_or_create(&self.lanes, NewLabel { name }).await {
                Ok(FoundOrCreated::Created(label)) => Ok(Told::Created(label.id)),
                Ok(FoundOrCreated::Found(label)) => Ok(Told::Found(label.id)),
                Err(error) => failed(error),
            }
        });
        told.await.map(drop)
    }

    async fn find(&self, random: &mut Random, label: i64) -> Result<(), Error> {
        let told = self.call(
            random,
            Call::Find { label },
            async |_| match Label::find_by_name(&self.lanes, &label_of(self.round, label)).await {
                Ok(found) => Ok(found.map_or(Told::Missing, |label| Told::Found(label.id))),
                Err(error) => failed(error),
            },
        );
        told.await.map(drop)
    }
}

/// What an error says of the write: it may have been done, or it was not, as no connection could be had.
fn failed(error: impl Into<rowlock::Error>) -> Result<Told, Error> {
    let error = error.into();
    match error.fault() {
        _ if error.is_unknown() => Ok(Told::Unknown),
        Some(Fault::ConnectionLost | Fault::PoolTimedOut) => Ok(Told::Nothing),
        _ => Err(error.into()),
    }
}
