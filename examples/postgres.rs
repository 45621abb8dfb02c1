//! PostgreSQL: a schema of its own for each run of a program, dropped at the end. No other schema is touched.

use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);

/// A schema, and a pool whose connections see nothing else.
#[derive(Debug)]
pub struct Database {
    /// What it is called in the output, with its version.
    pub name: String,
    /// At most eight connections.
    pub pool: PgPool,
    schema: String,
}

impl Database {
    /// Creates the schema and the tables in it.
    pub async fn open(url: &str, program: &str, tables: &str) -> anyhow::Result<Self> {
        let options: PgConnectOptions = url
            .parse()
            .context("DATABASE_URL is not a valid URL of PostgreSQL")?;
        let schema = unique_name(program);
        create_schema(&options, &schema).await?;
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(options.options([("search_path", &schema)]));
        let database = Self {
            name: String::new(),
            pool,
            schema,
        };
        match database.set_up(tables).await {
            Ok(name) => Ok(Self { name, ..database }),
            Err(error) => {
                database.drop_schema().await?;
                Err(error)
            }
        }
    }

    async fn set_up(&self, tables: &str) -> anyhow::Result<String> {
        let version: String = sqlx::query_scalar("SHOW server_version")
            .fetch_one(&self.pool)
            .await?;
        let tables = tables
            .replace("{id}", "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
            .replace("{timestamp}", "timestamptz");
        sqlx::raw_sql(AssertSqlSafe(tables))
            .execute(&self.pool)
            .await
            .context("cannot create the tables")?;
        // Debian's servers add the package: "15.13 (Debian 15.13-0+deb12u1)".
        let number = version.split(' ').next().unwrap_or(&version);
        Ok(format!("PostgreSQL {number}"))
    }

    /// Drops the schema with all that is in it, and closes the pool.
    pub async fn drop_schema(&self) -> anyhow::Result<()> {
        let drop = format!("DROP SCHEMA {} CASCADE", self.schema);
        sqlx::raw_sql(AssertSqlSafe(drop))
            .execute(&self.pool)
            .await
            .with_context(|| format!("cannot drop the schema {} again", self.schema))?;
        self.pool.close().await;
        Ok(())
    }
}

/// On a connection without a pool: a pool would try again and again to reach a server that is not there.
async fn create_schema(options: &PgConnectOptions, schema: &str) -> anyhow::Result<()> {
    let whereabouts = format!("{}:{}", options.get_host(), options.get_port());
    let mut connection = timeout(PATIENCE, options.connect())
        .await
        .with_context(|| format!("no answer from PostgreSQL at {whereabouts}"))?
        .with_context(|| format!("cannot connect to PostgreSQL at {whereabouts}"))?;
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}")))
        .execute(&mut connection)
        .await
        .context("cannot create a schema")?;
    Ok(())
}

fn unique_name(program: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("rowlock_{program}_{}_{:x}", process::id(), now.as_micros())
}
