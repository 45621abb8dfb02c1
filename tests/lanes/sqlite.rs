//! Every file of tests that SQLite can show.

use rowlock::Lanes;
use rowlock_tests::sqlite::*;

use super::*;

#[path = "busy_sqlite.rs"]
mod busy_sqlite;
#[path = "folds_sqlite.rs"]
mod folds_sqlite;
#[path = "model.rs"]
mod model;
#[path = "outcomes.rs"]
mod outcomes;

/// `written` counts the rows that are updated.
const TABLES: &str = "CREATE TABLE stock (sku text PRIMARY KEY, units int NOT NULL);
    CREATE TABLE page_views (page integer PRIMARY KEY, views bigint NOT NULL);
    CREATE TABLE documents (id integer PRIMARY KEY, title text NOT NULL CHECK (title <> 'refused'), body text, tags text NOT NULL DEFAULT '[]',
        version int NOT NULL DEFAULT 0);
    CREATE TABLE labels (id integer PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE TABLE written (rows int NOT NULL);
    INSERT INTO written VALUES (0);
    CREATE TRIGGER stock_written AFTER UPDATE ON stock BEGIN UPDATE written SET rows = rows + 1; END;
    CREATE TRIGGER page_views_written AFTER UPDATE ON page_views BEGIN UPDATE written SET rows = rows + 1; END;
    CREATE TRIGGER documents_written AFTER UPDATE ON documents BEGIN UPDATE written SET rows = rows + 1; END;
    CREATE TABLE numbers (n integer PRIMARY KEY);
    INSERT INTO numbers WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < 100) SELECT n FROM series;
    INSERT INTO stock VALUES ('ink', 0), ('pen', 0);
    INSERT INTO page_views SELECT n, 0 FROM numbers;
    INSERT INTO documents (id, title) SELECT n, 'title ' || n FROM numbers";

async fn lanes_of(database: &Database, count: usize) -> Lanes<Db> {
    Lanes::new(&database.pool, count).await.unwrap()
}

/// How many rows were updated: additions to one row are one.
async fn statements(pool: &Pool) -> i64 {
    number(pool, "SELECT rows FROM written").await
}

async fn number(pool: &Pool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}
