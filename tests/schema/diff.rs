//! What `diff` prints makes one schema of the other, where a database can do that at all.

use rowlock::schema::{Catalogue, Describes, diff, snapshot};
use rowlock_tests::sqlite;

use super::of_its_own;

const BEFORE: &str = "
    CREATE TABLE tags (id bigint PRIMARY KEY, slug text NOT NULL, kind text, old bigint);
    CREATE UNIQUE INDEX tags_slug ON tags (slug);
    CREATE INDEX tags_kind ON tags (kind);
    CREATE TABLE gone (id bigint PRIMARY KEY);
";

const AFTER: &str = "
    CREATE TABLE tags (id bigint PRIMARY KEY, slug text NOT NULL, kind text, tenant_id bigint NOT NULL DEFAULT 7, parent_id bigint);
    CREATE UNIQUE INDEX tags_slug ON tags (tenant_id, lower(slug)) WHERE kind IS NOT NULL;
    CREATE INDEX tags_kind ON tags (kind, slug DESC) WHERE parent_id IS NULL;
    CREATE TABLE \"Labels of tags\" (tag_id bigint NOT NULL, label varchar(20) NOT NULL, at {timestamp} DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (tag_id, label));
    CREATE INDEX labels_at ON \"Labels of tags\" (at DESC);
";

const BEFORE_POSTGRES: &str = "
    CREATE SCHEMA app;
    CREATE TYPE mood AS ENUM ('glad');
    CREATE TABLE app.notes (id bigint PRIMARY KEY, text varchar(20), mood mood, words bigint NOT NULL DEFAULT 1, CONSTRAINT few CHECK (words < 9),
        UNIQUE (text) DEFERRABLE) WITH (fillfactor = 70);
";

const AFTER_POSTGRES: &str = "
    CREATE SCHEMA app;
    CREATE TYPE mood AS ENUM ('glad', 'it''s');
    CREATE TABLE app.notes (id bigint, text text NOT NULL DEFAULT '', mood mood, words bigint, number bigint GENERATED ALWAYS AS IDENTITY,
        twice bigint GENERATED ALWAYS AS (words * 2) STORED, CONSTRAINT more CHECK (words > 9), CONSTRAINT notes_tag FOREIGN KEY (id) REFERENCES tags (id))
        WITH (autovacuum_enabled = false);
    ALTER TABLE app.notes ENABLE ROW LEVEL SECURITY;
    ALTER TABLE app.notes ALTER id SET NOT NULL;
    CREATE INDEX notes_words ON app.notes USING hash (words);
";

async fn is_made<DB: Describes>(pool: &sqlx::Pool<DB>, after: &Catalogue)
where
    for<'c> &'c sqlx::Pool<DB>: rowlock::Source<'c, DB>,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    let before = snapshot(pool).await.unwrap();
    let statements = diff(&before, after);
    let mut connection = pool.acquire().await.unwrap();
    // An enum's new value cannot be used in the transaction that adds it, and several statements in one text are one.
    for statement in statements.split_inclusive(";\n") {
        let sql = sqlx::AssertSqlSafe(statement.to_owned());
        let done = sqlx::raw_sql(sql).execute(&mut *connection).await;
        done.unwrap_or_else(|error| panic!("{error}: {statement}\n{statements}"));
    }
    drop(connection);
    let made = snapshot(pool).await.unwrap();
    assert_eq!(made.to_json(), after.to_json(), "{statements}");
    assert_eq!(diff(&made, after), "");
}

#[tokio::test]
async fn one_schema_becomes_the_other_on_postgres() {
    let after = of_its_own(&format!("{AFTER}{AFTER_POSTGRES}")).await;
    let after = snapshot(&after).await.unwrap();
    let pool = of_its_own(&format!("{BEFORE}{BEFORE_POSTGRES}")).await;
    is_made(&pool, &after).await;
    // From nothing, but for types.
    let pool = of_its_own("CREATE SCHEMA app; CREATE TYPE mood AS ENUM ('glad', 'it''s')").await;
    is_made(&pool, &after).await;
}

#[tokio::test]
async fn one_schema_becomes_the_other_on_sqlite() {
    let after = sqlite::database(AFTER).await;
    let after = snapshot(&after.pool).await.unwrap();
    is_made(&sqlite::database(BEFORE).await.pool, &after).await;
    is_made(&sqlite::database("SELECT 1").await.pool, &after).await;

    // What SQLite cannot change is said, and no statement.
    let one = sqlite::database("CREATE TABLE notes (id integer PRIMARY KEY, text text)").await;
    let other =
        "CREATE TABLE notes (id integer PRIMARY KEY, text text NOT NULL UNIQUE CHECK (text <> ''))";
    let other = sqlite::database(other).await;
    let (one, other) = (
        snapshot(&one.pool).await.unwrap(),
        snapshot(&other.pool).await.unwrap(),
    );
    let said = diff(&one, &other);
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("-- make \"notes\" anew"))
            .count(),
        3,
        "{said}"
    );
    assert!(said.lines().all(|line| line.starts_with("--")), "{said}");
}
