//! `Lanes`: connections that are kept, and calls that wait for each other.

#![allow(missing_docs)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

mod broken;
mod folds;
mod held;
mod model;
mod sqlite;
mod taken;

use std::future::Future;

use rowlock::{Counter, FindOrCreate, Lanes, Versioned};
use rowlock_tests::postgres::{Database, Pool, PoolOptions, database};
use sqlx::Postgres;
use tokio::task::JoinSet;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "stock", backend(Postgres))]
struct Stock {
    #[rowlock(key)]
    sku: String,
    #[rowlock(counter(min = 0, max = 1000))]
    units: i32,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views", backend(Postgres))]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents", backend(Postgres))]
struct Document {
    #[rowlock(key)]
    id: i64,
    title: String,
    body: Option<String>,
    #[sqlx(json)]
    tags: Vec<String>,
    #[rowlock(version)]
    version: i32,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "labels", backend(Postgres))]
struct Label {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(unique)]
    name: String,
}

/// `statements` counts those that write.
const TABLES: &str = "CREATE TABLE stock (sku text PRIMARY KEY, units int NOT NULL);
    CREATE TABLE page_views (page bigint PRIMARY KEY, views bigint NOT NULL);
    CREATE TABLE documents (id bigint PRIMARY KEY, title text NOT NULL CHECK (title <> 'refused'), body text, tags jsonb NOT NULL DEFAULT '[]',
        version int NOT NULL DEFAULT 0);
    CREATE TABLE labels (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE SEQUENCE statements;
    CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('statements'); RETURN NULL; END $$;
    CREATE TRIGGER count_statement AFTER UPDATE ON stock FOR EACH STATEMENT EXECUTE FUNCTION count_statement();
    CREATE TRIGGER count_statement AFTER UPDATE ON page_views FOR EACH STATEMENT EXECUTE FUNCTION count_statement();
    CREATE TRIGGER count_statement AFTER UPDATE ON documents FOR EACH STATEMENT EXECUTE FUNCTION count_statement();
    INSERT INTO stock VALUES ('ink', 0), ('pen', 0);
    INSERT INTO page_views SELECT n, 0 FROM generate_series(1, 100) AS n;
    INSERT INTO documents (id, title) SELECT n, 'title ' || n FROM generate_series(1, 100) AS n";

async fn lanes_of(database: &Database, count: usize) -> Lanes<Postgres> {
    let pool = database
        .pool_with(PoolOptions::new().max_connections(16))
        .await;
    Lanes::new(&pool, count).await.unwrap()
}

/// How many statements have written.
async fn statements(pool: &Pool) -> i64 {
    let statements = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM statements";
    sqlx::query_scalar(statements)
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn number(pool: &Pool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Runs them at once, and returns what each returned.
async fn at_once<F>(calls: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (call, number) in calls.into_iter().zip(0..) {
        tasks.spawn(async move { (number, call.await) });
    }
    let mut outputs = tasks.join_all().await;
    outputs.sort_by_key(|(number, _): &(i32, _)| *number);
    outputs.into_iter().map(|(_, output)| output).collect()
}
