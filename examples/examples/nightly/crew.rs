//! Starts the workers and tells them when to go on.

use std::env;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use rowlock_examples::Pool;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::WORKERS;
use crate::worker::WHERE;

/// What became of the workers of a night.
#[derive(Debug, Default)]
pub struct Outcome {
    pub workers: usize,
    pub wrote: usize,
    pub somebody_else: usize,
    pub done: usize,
    pub killed: usize,
}

impl Outcome {
    pub fn is_right(&self, way: &str) -> bool {
        let found = (self.wrote, self.somebody_else, self.done, self.killed);
        found
            == match way {
                "try_run" => (1, self.workers - 1, 0, 0),
                "later" => (0, 0, self.workers, 0),
                _ => (1, self.workers - 2, 0, 1),
            }
    }

    fn count(&mut self, word: &str) -> anyhow::Result<()> {
        match word {
            "wrote" => self.wrote += 1,
            "somebody else" => self.somebody_else += 1,
            "done" => self.done += 1,
            _ => anyhow::bail!("a worker said {word:?}"),
        }
        Ok(())
    }
}

/// Where the workers find the database.
pub struct Crew {
    whereabouts: String,
}

/// A process of ours, which is killed if it is dropped before its end.
struct Worker {
    child: Child,
    orders: ChildStdin,
    words: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    async fn word(&mut self) -> anyhow::Result<String> {
        self.words
            .next_line()
            .await?
            .context("a worker ended without a word")
    }

    async fn go_on(&mut self) -> anyhow::Result<()> {
        Ok(self.orders.write_all(b"\n").await?)
    }
}

impl Crew {
    pub async fn new(pool: &Pool) -> anyhow::Result<Self> {
        let whereabouts = match pool {
            Pool::Postgres(pool) => {
                sqlx::query_scalar("SELECT current_schema()::text")
                    .fetch_one(pool)
                    .await?
            }
            Pool::Sqlite(pool) => {
                sqlx::query_scalar("SELECT file FROM pragma_database_list")
                    .fetch_one(pool)
                    .await?
            }
        };
        Ok(Self { whereabouts })
    }

    /// Starts workers, which are connected and wait when this returns.
    async fn start(&self, way: &str, night: &str, workers: usize) -> anyhow::Result<Vec<Worker>> {
        let mut all = Vec::new();
        for number in 1..=workers {
            let mut child = Command::new(env::current_exe()?)
                .args(["worker", way, night, &number.to_string()])
                .env(WHERE, &self.whereabouts)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let orders = child.stdin.take().context("stdin is piped")?;
            let words = child.stdout.take().context("stdout is piped")?;
            let words = BufReader::new(words).lines();
            all.push(Worker {
                child,
                orders,
                words,
            });
        }
        for worker in &mut all {
            ensure!(worker.word().await? == "ready", "a worker is not ready");
        }
        Ok(all)
    }

    /// All look, and then all that found nothing write.
    pub async fn by_hand(&self, night: &str) -> anyhow::Result<Outcome> {
        let mut workers = self.start("hand", night, WORKERS).await?;
        let mut outcome = Outcome {
            workers: WORKERS,
            ..Outcome::default()
        };
        for worker in &mut workers {
            worker.go_on().await?;
        }
        for worker in &mut workers {
            ensure!(worker.word().await? == "looked", "a worker did not look");
        }
        for worker in &mut workers {
            worker.go_on().await?;
            outcome.count(&worker.word().await?)?;
        }
        Ok(outcome)
    }

    /// All try at the same time. The one that has the lock is held up until the others have been told.
    async fn one_works(&self, night: &str, outcome: &mut Outcome) -> anyhow::Result<Vec<Worker>> {
        let mut workers = self.start("try", night, WORKERS).await?;
        outcome.workers += WORKERS;
        for worker in &mut workers {
            worker.go_on().await?;
        }
        let mut working = Vec::new();
        for mut worker in workers {
            match worker.word().await?.as_str() {
                "working" => working.push(worker),
                word => outcome.count(word)?,
            }
        }
        Ok(working)
    }

    pub async fn tries(&self, night: &str) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        for mut worker in self.one_works(night, &mut outcome).await? {
            worker.go_on().await?;
            outcome.count(&worker.word().await?)?;
        }
        Ok(outcome)
    }

    /// Workers that come one after the other when all is over.
    pub async fn later(&self, night: &str) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome {
            workers: 2,
            ..Outcome::default()
        };
        for _ in 0..outcome.workers {
            for mut worker in self.start("wait", night, 1).await? {
                worker.go_on().await?;
                outcome.count(&worker.word().await?)?;
            }
        }
        Ok(outcome)
    }

    /// Another one waits for the lock, and the one that has it is killed.
    pub async fn killed(&self, night: &str) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let working = self.one_works(night, &mut outcome).await?;
        let mut next = self.start("wait", night, 1).await?;
        outcome.workers += 1;
        for worker in &mut next {
            worker.go_on().await?;
            // `next_line` loses nothing when it is dropped.
            let early = timeout(Duration::from_millis(200), worker.word()).await;
            ensure!(early.is_err(), "two had the lock");
        }
        for mut worker in working {
            worker.child.kill().await?;
            outcome.killed += 1;
        }
        for worker in &mut next {
            ensure!(
                worker.word().await? == "working",
                "the next one has no lock"
            );
            worker.go_on().await?;
            outcome.count(&worker.word().await?)?;
        }
        Ok(outcome)
    }
}
