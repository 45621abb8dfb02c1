//! A transaction that was begun with a BEGIN by hand on a connection of the caller's, of which sqlx knows nothing: no method ends it, and none hides what
//! its owner has to know.

use rowlock::row::{CounterError, FindOrCreateError, GuardError};
use rowlock::{Counter, Fault, FindOrCreate, Guarded, Versioned};
use sqlx::pool::PoolConnection;
use sqlx::{Executor, Postgres};

use super::{Database, Pool, database};

#[derive(Debug, Clone, sqlx::FromRow, Guarded, Counter)]
#[rowlock(table = "tokens", existing_rows)]
struct Token {
    #[rowlock(key)]
    id: i64,
    other: i64,
    #[rowlock(counter(min = 0))]
    uses: i64,
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "tokens")]
struct Edited {
    #[rowlock(key)]
    id: i64,
    other: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Debug, Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(slug))]
struct Tag {
    #[rowlock(key, generated)]
    id: i64,
    slug: String,
    title: String,
}

const SCHEMA: &str = "CREATE TABLE tokens (id bigint PRIMARY KEY, other bigint NOT NULL, uses bigint NOT NULL, version bigint NOT NULL DEFAULT 0);
    CREATE TABLE tags (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, slug text UNIQUE NOT NULL, title text UNIQUE NOT NULL);
    CREATE TABLE log (what text);
    INSERT INTO tokens VALUES (1, 0, 0), (2, 0, 0); INSERT INTO tags (slug, title) VALUES ('other', 'Rust');
    CREATE FUNCTION drops() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.other = 666 THEN RETURN NULL; END IF; RETURN NEW; END';
    CREATE TRIGGER drops BEFORE UPDATE ON tokens FOR EACH ROW EXECUTE FUNCTION drops()";

/// A transaction that has written something already, begun like this.
async fn begun(begin: &'static str) -> (Database, PoolConnection<Postgres>) {
    let database = database(SCHEMA).await;
    let mut connection = database.pool.acquire().await.unwrap();
    connection.execute(begin).await.unwrap();
    connection
        .execute("INSERT INTO log VALUES ('mine')")
        .await
        .unwrap();
    (database, connection)
}

async fn logged(pool: &Pool) -> i64 {
    let logged = sqlx::query_scalar("SELECT count(*) FROM log").fetch_one(pool);
    logged.await.unwrap()
}

/// Its end is the owner's, either way.
async fn is_open(database: &Database, mut connection: PoolConnection<Postgres>) {
    assert_eq!(logged(&database.pool).await, 0);
    connection.execute("COMMIT").await.unwrap();
    assert_eq!(logged(&database.pool).await, 1);
}

#[tokio::test]
async fn naive_twin_of_a_begin_in_a_begin() {
    let (database, mut connection) = begun("BEGIN").await;
    sqlx::raw_sql("BEGIN; UPDATE tokens SET uses = uses + 1; COMMIT")
        .execute(&mut *connection)
        .await
        .unwrap();
    connection.execute("ROLLBACK").await.unwrap();
    assert_eq!(logged(&database.pool).await, 1);
}

#[tokio::test]
async fn a_batch_does_not_end_it() {
    for deltas in [[(1, 1), (2, 1)], [(1, 1), (2, -1)]] {
        let (database, mut connection) = begun("BEGIN").await;
        let refused = Token::add_uses_many(&mut *connection, deltas).await;
        let Err(CounterError::Database(error)) = refused else {
            panic!("{refused:?}");
        };
        let cause = format!("{:?}", std::error::Error::source(&error));
        assert!(cause.contains("begun by hand"), "{cause}");
        is_open(&database, connection).await;
    }
}

#[tokio::test]
async fn a_write_that_is_dropped_does_not_end_it() {
    let (database, mut connection) = begun("BEGIN").await;
    let written = Token::update_if(&mut *connection, 1, Token::OTHER.eq(0), |token| {
        token.set(Token::OTHER, 666)
    });
    let written = written.await;
    assert!(
        matches!(written, Err(GuardError::Database(_))),
        "{written:?}"
    );
    is_open(&database, connection).await;
}

#[tokio::test]
async fn a_conflict_in_it_is_the_owners() {
    const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";
    for method in ["patch", "update", "delete", "add", "add_many"] {
        let (database, mut connection) = begun(BEGIN).await;
        let edited = Edited::load(&mut *connection, 1).await.unwrap();
        let elsewhere = "UPDATE tokens SET uses = uses + 1";
        database.pool.execute(elsewhere).await.unwrap();
        let connection = &mut *connection;
        let error: rowlock::Error = match method {
            "patch" => Token::patch(connection, 1, |token| token.set(Token::OTHER, 3))
                .await
                .map(drop)
                .unwrap_err()
                .into(),
            "update" => edited
                .update(connection)
                .await
                .map(drop)
                .unwrap_err()
                .into(),
            "delete" => edited.delete(connection).await.unwrap_err().into(),
            "add" => Token::add_uses(connection, 1, 1).await.unwrap_err().into(),
            _ => {
                let added = Token::add_uses_many(&mut *connection, [(1, 1)]).await;
                let error = added.unwrap_err();
                assert!(matches!(error, CounterError::Database(_)), "{error:?}");
                continue;
            }
        };
        assert!(error.is_conflict(), "{method}: {error:?}");
        assert_eq!(error.fault(), Some(Fault::Serialization), "{method}");
    }
}

/// There is no savepoint, so the transaction is aborted; the error is the one that did it.
#[tokio::test]
async fn a_violation_in_it_is_told() {
    let (_database, mut connection) = begun("BEGIN").await;
    let new = NewTag {
        slug: "rust".to_owned(),
        title: "Rust".to_owned(),
    };
    let made = Tag::find_or_create(&mut *connection, new).await;
    let Err(FindOrCreateError::Database(error)) = made else {
        panic!("{made:?}");
    };
    assert_eq!(error.fault(), Fault::UniqueViolation);
}
