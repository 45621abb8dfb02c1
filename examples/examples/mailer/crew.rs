//! The worker processes: this program again, with other arguments.

use std::env;
use std::fmt::Display;
use std::process::Stdio;
use std::str::FromStr;

use anyhow::{Context, ensure};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::Way;

/// The environment variable with the file of SQLite, or the schema of PostgreSQL.
pub const WHERE: &str = "ROWLOCK_MAILER";

/// What a worker says when it goes home.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows that it took back because their leases had ended.
    pub rescued: u64,
    /// Leases that it lost itself.
    pub leases_lost: u64,
}

impl Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.rescued, self.leases_lost)
    }
}

impl FromStr for Report {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (rescued, lost) = text.trim().split_once(' ').context("two numbers")?;
        Ok(Self {
            rescued: rescued.parse()?,
            leases_lost: lost.parse()?,
        })
    }
}

/// The processes that are left, with their numbers. Those that are dropped are killed.
pub struct Crew(Vec<(i64, Child)>);

impl Crew {
    pub async fn start(way: Way, whereabouts: &str, workers: usize) -> anyhow::Result<Self> {
        let mut crew = Vec::new();
        for number in 1..=workers as i64 {
            let child = Command::new(env::current_exe()?)
                .args(["worker", way.name(), &number.to_string()])
                .env(WHERE, whereabouts)
                // Closed when it is to stop.
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            crew.push((number, child));
        }
        Ok(Self(crew))
    }

    /// `kill -9`: the process can do nothing about it, and says nothing more.
    pub async fn kill_one(&mut self) -> anyhow::Result<i64> {
        let (number, mut child) = self.0.pop().context("nobody is left")?;
        child.kill().await?;
        Ok(number)
    }

    /// Sends the others home.
    pub async fn dismiss(self) -> anyhow::Result<Report> {
        let mut all = Report::default();
        for (number, mut child) in self.0 {
            drop(child.stdin.take());
            let mut said = String::new();
            let mut stdout = child.stdout.take().context("stdout is piped")?;
            stdout.read_to_string(&mut said).await?;
            ensure!(child.wait().await?.success(), "worker {number} failed");
            let report: Report = said.parse()?;
            all.rescued += report.rescued;
            all.leases_lost += report.leases_lost;
        }
        Ok(all)
    }
}
