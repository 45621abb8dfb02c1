//! What the environment says, read once at the start.

use std::env;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

#[derive(Debug)]
pub struct Config {
    /// `WIKI_LISTEN`. Port 0 takes a free one; the program says which.
    pub listen: SocketAddr,
    /// `DATABASE_URL`.
    pub database: Database,
    /// `WIKI_REPORT_SECONDS`: how often to look whether the report of the day is there.
    pub report_every: Duration,
}

#[derive(Debug)]
pub enum Database {
    /// `postgres://…`
    Postgres(PgConnectOptions),
    /// `sqlite:…`, or nothing: a file in the directory for temporary files.
    Sqlite(SqliteConnectOptions),
}

impl Config {
    pub fn from_env() -> anyhow::Result<Self> {
        Ok(Self {
            listen: read("WIKI_LISTEN", "127.0.0.1:3000")?,
            database: read("DATABASE_URL", "")?,
            report_every: Duration::from_secs(read("WIKI_REPORT_SECONDS", "3600")?),
        })
    }
}

/// A variable, or what it is without one. The value is not in the error: it can contain a password.
fn read<T>(name: &str, default: &str) -> anyhow::Result<T>
where
    T: FromStr<Err: Into<anyhow::Error>>,
{
    let text = env::var(name).unwrap_or_else(|_| default.to_owned());
    text.parse()
        .map_err(Into::into)
        .with_context(|| format!("{name} is not valid"))
}

impl FromStr for Database {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> anyhow::Result<Self> {
        let options: SqliteConnectOptions = match url.split_once(':') {
            Some(("postgres" | "postgresql", _)) => return Ok(Self::Postgres(url.parse()?)),
            Some(("sqlite", _)) => url.parse()?,
            None if url.is_empty() => {
                SqliteConnectOptions::new().filename(env::temp_dir().join("rowlock-wiki.db"))
            }
            _ => bail!("it begins with neither sqlite: nor postgres:"),
        };
        let options = options
            .create_if_missing(true)
            // Readers do not wait for the writer, and writers wait for each other instead of failing.
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10));
        Ok(Self::Sqlite(options))
    }
}
