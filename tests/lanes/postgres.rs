//! Every file of tests that PostgreSQL can show.

use rowlock::Lanes;
use rowlock_tests::postgres::*;
use sqlx::Postgres;
use tokio::task::JoinSet;

use super::*;

#[path = "broken.rs"]
mod broken;
#[path = "folds.rs"]
mod folds;
#[path = "held.rs"]
mod held;
#[path = "model.rs"]
mod model;
#[path = "outcomes.rs"]
mod outcomes;
#[path = "taken.rs"]
mod taken;

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
    CREATE TABLE numbers (n bigint PRIMARY KEY);
    INSERT INTO numbers SELECT generate_series(1, 100);
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
