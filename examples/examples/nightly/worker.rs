//! What one process does. It says a word when it has got somewhere, and goes on at a line from the crew.

use std::env;
use std::time::Duration;

use anyhow::{Context, bail};
use rowlock::lock::AdvisoryLock;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use tokio::sync::Mutex;

/// The environment variable with the file of SQLite, or the schema of PostgreSQL.
pub const WHERE: &str = "ROWLOCK_NIGHTLY";

const LOOK: &str = "SELECT count(*) FROM reports WHERE night = $1";
const WRITE: &str = "INSERT INTO reports VALUES ($1, $2)";

/// The crew's lines. The closure of a lock cannot change what it borrows, hence the mutex.
struct Crew(Mutex<Lines<BufReader<Stdin>>>);

impl Crew {
    /// Says where it is and waits for the sign to go on.
    async fn pause(&self, word: &str) -> anyhow::Result<()> {
        println!("{word}");
        let line = self.0.lock().await.next_line().await?;
        line.map(drop).context("the crew is gone")
    }
}

macro_rules! work {
    ($pool:expr, $way:expr, $night:expr, $number:expr) => {{
        let (pool, night, number) = (&$pool, $night, $number);
        let crew = Crew(Mutex::new(BufReader::new(stdin()).lines()));
        let report = async |tx: &mut rowlock::Tx<_>| {
            let found: i64 = sqlx::query_scalar(LOOK)
                .bind(night)
                .fetch_one(&mut *tx)
                .await?;
            if found > 0 {
                return Ok("done");
            }
            sqlx::query(WRITE)
                .bind(night)
                .bind(number)
                .execute(&mut *tx)
                .await?;
            crew.pause("working").await?;
            Ok::<_, anyhow::Error>("wrote")
        };
        // The schema keeps two runs of this program on one server apart.
        let lock = AdvisoryLock::of("nightly-report", env::var(WHERE)?);
        crew.pause("ready").await?;
        let word = match $way {
            "try" => match lock.try_run(pool, report).await {
                Ok(written) => written.unwrap_or("somebody else"),
                Err(error) => bail!("{error}"),
            },
            "wait" => match lock
                .lock_timeout(Duration::from_secs(20))
                .run(pool, report)
                .await
            {
                Ok(written) => written,
                Err(error) => bail!("{error}"),
            },
            _ => {
                let found: i64 = sqlx::query_scalar(LOOK).bind(night).fetch_one(pool).await?;
                crew.pause("looked").await?;
                if found == 0 {
                    sqlx::query(WRITE)
                        .bind(night)
                        .bind(number)
                        .execute(pool)
                        .await?;
                    "wrote"
                } else {
                    "done"
                }
            }
        };
        println!("{word}");
    }};
}

pub async fn run(way: &str, night: &str, number: &str) -> anyhow::Result<()> {
    let whereabouts = env::var(WHERE).context("the crew says where")?;
    let number: i64 = number.parse()?;
    match env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => {
            let options: PgConnectOptions = url.parse()?;
            let options = options.options([("search_path", &whereabouts)]);
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .connect_with(options)
                .await?;
            work!(pool, way, night, number);
        }
        _ => {
            let options = SqliteConnectOptions::new()
                .filename(whereabouts)
                .busy_timeout(Duration::from_secs(10));
            let pool = SqlitePoolOptions::new()
                .max_connections(1)
                .connect_with(options)
                .await?;
            work!(pool, way, night, number);
        }
    }
    Ok(())
}
