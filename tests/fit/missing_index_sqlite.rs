//! A unique index that is missing, while others change the schema.

use std::time::Duration;

use rowlock::idempotent::{Once, OnceError, StartError, Started};
use rowlock::row::CreateError;
use rowlock::{Counter, FindOrCreate, Idempotent, transaction};
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::database;

#[derive(Debug, Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(name))]
struct Tag {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
}

/// SQLite reads freed memory when a prepared EXPLAIN is run after its connection has read another schema, which ends the process on some
/// days: so none may stay prepared.
#[tokio::test]
async fn it_is_told_after_any_migration() {
    let database = database("CREATE TABLE tags (id INTEGER PRIMARY KEY, name text NOT NULL, other text NOT NULL DEFAULT 0 UNIQUE)").await;
    let mut app = database.pool.acquire().await.unwrap();
    let mut migration = database.pool.acquire().await.unwrap();
    for number in 0..50 {
        let table = format!("CREATE TABLE t{number} (a int, b text UNIQUE)");
        migration.execute(AssertSqlSafe(table)).await.unwrap();
        app.execute(sqlx::query("SELECT count(*) FROM tags"))
            .await
            .unwrap();
        let new = NewTag {
            name: "rust".to_owned(),
        };
        let created = Tag::create(&mut *app, new).await;
        let Err(CreateError::MissingUniqueIndex(..)) = created else {
            panic!("{number}: {created:?}");
        };
    }
    // The SELECT, and two that ask which indexes there are.
    assert_eq!(app.cached_statements_size(), 3);
}

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "counts")]
struct Count {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    count: i64,
}

/// SQLite looks whether it still knows the schema when it does not find a table, but not when it does not find the index of an ON CONFLICT.
#[tokio::test]
async fn one_that_another_connection_has_just_made_is_there() {
    const TABLES: &str = "CREATE TABLE tags (id INTEGER PRIMARY KEY, name text NOT NULL);
        CREATE TABLE counts (id bigint NOT NULL, count bigint NOT NULL)";
    const INDEXES: &str =
        "CREATE UNIQUE INDEX a ON tags (name); CREATE UNIQUE INDEX b ON counts (id)";
    let new = || NewTag {
        name: "rust".to_owned(),
    };
    for which in 0..5 {
        let database = database(TABLES).await;
        let mut app = database.pool.acquire().await.unwrap();
        app.execute("SELECT count(*) FROM tags").await.unwrap();
        let mut migration = database.pool.acquire().await.unwrap();
        migration.execute(INDEXES).await.unwrap();
        match which {
            0 => drop(Tag::create(&mut *app, new()).await.unwrap()),
            1 => drop(Tag::find_or_create(&mut *app, new()).await.unwrap()),
            2 => drop(Tag::upsert(&mut *app, new()).await.unwrap()),
            3 => drop(Count::add_count(&mut *app, 1, 1).await.unwrap()),
            _ => drop(Count::add_count_many(&mut *app, [(1, 1)]).await.unwrap()),
        }
    }
}

#[derive(Debug, sqlx::FromRow, Idempotent)]
#[rowlock(table = "requests", backend(Sqlite))]
struct Request {
    #[rowlock(key)]
    key: String,
    #[rowlock(fingerprint)]
    fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    outcome: Option<i64>,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    lease: chrono::DateTime<chrono::Utc>,
    #[rowlock(finished)]
    finished: Option<chrono::DateTime<chrono::Utc>>,
}

/// The claim of a key is an upsert too.
#[tokio::test]
async fn a_ledger_finds_the_index_that_another_connection_has_just_made() {
    const REQUESTS: &str =
        "CREATE TABLE requests (key text NOT NULL, fingerprint blob NOT NULL, outcome bigint,
        fence bigint NOT NULL, lease timestamp NOT NULL, finished timestamp)";
    const MINUTE: Duration = Duration::from_secs(60);
    let body = async |_: &mut rowlock::Tx<sqlx::Sqlite>| Ok::<i64, sqlx::Error>(3);
    for which in 0..3 {
        let database = database(REQUESTS).await;
        // The one connection has seen the table without its index.
        let app = super::PoolOptions::new().max_connections(1);
        let app = app.connect_with(database.options()).await.unwrap();
        let missing = Request::once(&app, "k", &5, body).await;
        let Err(OnceError::MissingUniqueIndex(..)) = missing else {
            panic!("{missing:?}");
        };
        let missing = Request::start(&app, "k", &5, MINUTE).await;
        let Err(StartError::MissingUniqueIndex(..)) = missing else {
            panic!("{missing:?}");
        };
        let mut migration = database.connection().await;
        let index = "CREATE UNIQUE INDEX a ON requests (key)";
        migration.execute(index).await.unwrap();
        match which {
            0 => {
                let ran = Request::once(&app, "k", &5, body).await.unwrap();
                assert_eq!(ran, Once::Ran(3));
            }
            1 => {
                let started = Request::start(&app, "k", &5, MINUTE).await.unwrap();
                assert!(matches!(started, Started::Running(_)), "{started:?}");
            }
            _ => {
                let ran = transaction(&app)
                    .run(async |tx| -> Result<_, OnceError<sqlx::Error>> {
                        Request::once(&mut *tx, "k", &5, body).await
                    })
                    .await
                    .unwrap();
                assert_eq!(ran, Once::Ran(3));
            }
        }
    }
}
