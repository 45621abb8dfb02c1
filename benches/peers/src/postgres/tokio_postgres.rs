//! tokio-postgres: on a pool of deadpool, and with calls that share connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use crate::by_hand::{ADD, Document, FIND, LOAD, Tag, UPDATE};
use crate::harness::{CONNECTIONS, Peer};

/// A connection at a time for each call, its statements from the cache of the connection.
#[derive(Clone)]
pub(crate) struct Pooled(Pool);

impl Pooled {
    pub(crate) fn new(config: Config) -> Self {
        // Takes the connection as it is, and asks it nothing.
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
        let size = usize::try_from(CONNECTIONS).unwrap();
        Self(Pool::builder(manager).max_size(size).build().unwrap())
    }

    async fn one(&self, text: &str, values: &[&(dyn ToSql + Sync)]) -> Row {
        let client = self.0.get().await.unwrap();
        let statement = client.prepare_cached(text).await.unwrap();
        client.query_one(&statement, values).await.unwrap()
    }
}

/// Calls take the connections in turn, and send their statement without waiting for the answers to those before it.
#[derive(Clone)]
pub(crate) struct Pipelined {
    connections: Arc<[Connection]>,
    next: Arc<AtomicUsize>,
}

struct Connection {
    client: Client,
    add: Statement,
    load: Statement,
    update: Statement,
    find: Statement,
}

impl Pipelined {
    pub(crate) async fn new(config: Config) -> Self {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let (client, connection) = config.connect(NoTls).await.unwrap();
            tokio::spawn(async move { connection.await.unwrap() });
            connections.push(Connection {
                add: client.prepare(ADD).await.unwrap(),
                load: client.prepare(LOAD).await.unwrap(),
                update: client.prepare(UPDATE).await.unwrap(),
                find: client.prepare(FIND).await.unwrap(),
                client,
            });
        }
        Self {
            connections: connections.into(),
            next: Arc::default(),
        }
    }

    async fn one(
        &self,
        statement: impl Fn(&Connection) -> &Statement,
        values: &[&(dyn ToSql + Sync)],
    ) -> Row {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = &self.connections[next % self.connections.len()];
        connection
            .client
            .query_one(statement(connection), values)
            .await
            .unwrap()
    }
}

macro_rules! peer {
    ($peer:ty, $add:expr, $load:expr, $update:expr, $find:expr) => {
        impl Peer for $peer {
            type Document = Document;

            async fn add(&self, page: i64) -> i64 {
                self.one($add, &[&page, &1_i64]).await.get(0)
            }

            async fn load(&self, id: i64) -> Document {
                let row = self.one($load, &[&id]).await;
                Document {
                    id: row.get(0),
                    author_id: row.get(1),
                    reviewer_id: row.get(2),
                    title: row.get(3),
                    body: row.get(4),
                    language: row.get(5),
                    published: row.get(6),
                    words: row.get(7),
                    lock_version: row.get(8),
                }
            }

            fn id(document: &Document) -> i64 {
                document.id
            }

            async fn update(&self, document: &mut Document) {
                document.words += 1;
                let row = self
                    .one(
                        $update,
                        &[
                            &document.author_id,
                            &document.reviewer_id,
                            &document.title,
                            &document.body,
                            &document.language,
                            &document.published,
                            &document.words,
                            &document.id,
                            &document.lock_version,
                        ],
                    )
                    .await;
                document.lock_version = row.get(0);
            }

            async fn find(&self, name: String) -> i64 {
                let row = self.one($find, &[&name]).await;
                let tag = Tag {
                    id: row.get(0),
                    name: row.get(1),
                };
                assert_eq!(tag.name, name);
                tag.id
            }
        }
    };
}

peer!(Pooled, ADD, LOAD, UPDATE, FIND);
peer!(
    Pipelined,
    |on| &on.add,
    |on| &on.load,
    |on| &on.update,
    |on| &on.find
);
