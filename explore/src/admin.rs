//! The explorer's own connection: sets up, asks who waits for whom, and looks at what is left.

use std::collections::BTreeMap;

use tokio::task::AbortHandle;

use crate::error::Error;
use crate::footprint::Catalogue;

/// The explorer's own connection.
#[derive(Debug)]
pub(crate) struct Admin {
    config: tokio_postgres::Config,
    client: tokio::sync::RwLock<Client>,
}

#[derive(Debug)]
struct Client {
    client: tokio_postgres::Client,
    blocking: tokio_postgres::Statement,
    driver: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Admin {
    pub(crate) async fn connect(url: &str) -> Result<Self, Error> {
        let config: tokio_postgres::Config = url.parse().map_err(|_| Error::Url)?;
        let client = Self::open(&config).await.map_err(doing("connect"))?;
        Ok(Self {
            config,
            client: client.into(),
        })
    }

    async fn open(config: &tokio_postgres::Config) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let blocking = client
            .prepare(
                "SELECT pid, pg_blocking_pids(pid) || pg_safe_snapshot_blocking_pids(pid) \
                 FROM unnest($1::int4[]) AS pid",
            )
            .await?;
        Ok(Client {
            client,
            blocking,
            driver,
        })
    }

    /// After a restart of the server.
    pub(crate) async fn reconnect(&self) -> Result<(), tokio_postgres::Error> {
        *self.client.write().await = Self::open(&self.config).await?;
        Ok(())
    }

    /// Runs statements.
    pub(crate) async fn execute(&self, sql: &str, what: &'static str) -> Result<(), Error> {
        self.client
            .read()
            .await
            .client
            .batch_execute(sql)
            .await
            .map_err(doing(what))
    }

    /// The rows of a query, as text.
    pub(crate) async fn rows(
        &self,
        sql: &str,
        what: &'static str,
    ) -> Result<Vec<Vec<Option<String>>>, Error> {
        let messages = self
            .client
            .read()
            .await
            .client
            .simple_query(sql)
            .await
            .map_err(doing(what))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|at| row.get(at).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        });
        Ok(rows.collect())
    }

    pub(crate) async fn catalogue(&self) -> Result<Catalogue, Error> {
        Catalogue::read(&self.client.read().await.client)
            .await
            .map_err(doing("read the catalogue"))
    }

    /// Who waits for whom.
    pub(crate) async fn blocking(&self, pids: &[i32]) -> Result<BTreeMap<i32, Vec<i32>>, Error> {
        let client = self.client.read().await;
        let rows = client
            .client
            .query(&client.blocking, &[&pids])
            .await
            .map_err(doing("ask who waits for whom"))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Whether one of these sessions is still there.
    pub(crate) async fn alive(&self, pids: &[i32]) -> Result<bool, Error> {
        let client = self.client.read().await;
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ANY($1))";
        let row = client
            .client
            .query_one(sql, &[&pids])
            .await
            .map_err(doing("ask which sessions there are"))?;
        Ok(row.get(0))
    }
}

pub(crate) fn doing(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
    move |source| Error::Database { doing, source }
}
