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
    // From nothing.
    let pool = of_its_own("CREATE SCHEMA app").await;
    is_made(&pool, &after).await;
}

/// Each of these becomes each other: what one has is what another has not.
const SCHEMAS: &[&str] = &[
    "",
    "CREATE TABLE t (id bigint PRIMARY KEY, a text)",
    "CREATE TABLE t (id bigint PRIMARY KEY, a varchar(20) NOT NULL DEFAULT 'x''y\\\\')",
    "CREATE TABLE t (id bigint PRIMARY KEY, a int NOT NULL DEFAULT 5 CONSTRAINT \"we\"\"ird\" CHECK (a > 0 OR a = -3))",
    "CREATE TABLE t (id int, a int, PRIMARY KEY (a, id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE t (id bigint CONSTRAINT \"my pk\" PRIMARY KEY, a text CONSTRAINT \"my uq\" UNIQUE)",
    "CREATE TABLE t (id bigint, a text UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE t (id bigint PRIMARY KEY, a text COLLATE \"C\" DEFAULT '%s')",
    "CREATE TABLE t (id bigint PRIMARY KEY, a text, b text, EXCLUDE USING btree (a WITH =) WHERE (b <> '') DEFERRABLE)",
    "CREATE TABLE t (id bigint PRIMARY KEY, a text, CHECK (a <> '') NO INHERIT); ALTER TABLE t ADD CONSTRAINT nv CHECK (a <> 'x') NOT VALID",
    "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int GENERATED ALWAYS AS (1 + 2) STORED)",
    "CREATE TABLE t (id bigserial PRIMARY KEY, a int UNIQUE)",
    "CREATE SEQUENCE \"my 's\"; CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('\"my ''s\"'), a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
    "CREATE TABLE t (id bigint PRIMARY KEY, a bigint, b int GENERATED ALWAYS AS (a * 2) STORED)",
    "CREATE TYPE mood AS ENUM ('b', 'd'); CREATE TABLE t (id bigint PRIMARY KEY, a mood NOT NULL DEFAULT 'b', b mood)",
    "CREATE TYPE mood AS ENUM ('a', 'b', 'c''', 'd', 'e'); CREATE TABLE t (id bigint PRIMARY KEY, a mood NOT NULL DEFAULT 'b', b mood)",
    "CREATE DOMAIN d AS text NOT NULL CHECK (VALUE <> ''); CREATE TABLE t (id bigint PRIMARY KEY, a d)",
    "CREATE TABLE p (id bigint CONSTRAINT other PRIMARY KEY); CREATE TABLE t (id bigint PRIMARY KEY, a bigint REFERENCES p ON DELETE CASCADE DEFERRABLE)",
    "CREATE TABLE p (id bigint PRIMARY KEY, t bigint); CREATE TABLE t (id bigint PRIMARY KEY, a bigint REFERENCES p ON DELETE CASCADE DEFERRABLE); ALTER TABLE p ADD FOREIGN KEY (t) REFERENCES t",
    "CREATE TABLE t (id bigint PRIMARY KEY, a text) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (5)",
    "CREATE TABLE t (id bigint PRIMARY KEY, a text); CREATE VIEW v AS SELECT id, a FROM t",
    "CREATE TABLE t (id bigint PRIMARY KEY, a text); CREATE UNIQUE INDEX ON t (lower(a)) WHERE id > 5; CREATE INDEX ON t USING hash (id)",
];

const SCHEMAS_OF_SQLITE: &[&str] = &[
    "",
    "CREATE TABLE t (id integer PRIMARY KEY, a text)",
    "CREATE TABLE t (id integer PRIMARY KEY, a text NOT NULL DEFAULT 'x''y', \"q\"\"%\" blob)",
    "CREATE TABLE t (id integer PRIMARY KEY, a text COLLATE NOCASE UNIQUE)",
    "CREATE TABLE t (id text PRIMARY KEY, a text) WITHOUT ROWID",
    "CREATE TABLE t (id integer PRIMARY KEY, a text, b text AS (a || 'x'), c int AS (id) STORED)",
    "CREATE TABLE t (id integer PRIMARY KEY, a any) STRICT",
    "CREATE TABLE t (id integer PRIMARY KEY, a int DEFAULT (1+2), b text DEFAULT (strftime('%s', 'now')), c int DEFAULT (-(1)), d DEFAULT ('a' || 'b'))",
    "CREATE TABLE t (id integer PRIMARY KEY, a int NOT NULL DEFAULT -1, b real DEFAULT 1e-5, c text DEFAULT \"d\"\"q\", d DEFAULT x'00', e DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE \"p \"\"q\" (\"i \"\"d\" integer PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, \"a \"\"b\" int REFERENCES \"p \"\"q\" (\"i \"\"d\"))",
    "CREATE TABLE a (id integer PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, a int REFERENCES a)",
    "CREATE TABLE t (id integer PRIMARY KEY, a text); CREATE UNIQUE INDEX i ON t (a COLLATE NOCASE) WHERE id > 5; CREATE INDEX \"i \"\"2\" ON t (a COLLATE RTRIM DESC)",
    "CREATE TABLE t (id integer PRIMARY KEY, a text); CREATE VIEW v AS SELECT * FROM t",
    "CREATE VIRTUAL TABLE t USING fts5(a, b)",
];

/// Runs what `diff` prints from one schema to another: it is no error, and unless it has comments it makes that schema.
macro_rules! each_becomes_each {
    ($schemas:expr, $of:expr) => {{
        let mut wrong = Vec::new();
        let mut made = 0;
        for (number, before) in $schemas.iter().enumerate() {
            // All from and to nothing, and a fifth of the others.
            let others = $schemas.iter().enumerate();
            let is_tried = |other: usize| {
                number * other == 0 || (number + 2 * other) % 5 == 0 || other == number + 1
            };
            for (_, after) in others.filter(|(other, _)| is_tried(*other)) {
                let (pool, other) = ($of(before).await, $of(after).await);
                let statements = diff(
                    &snapshot(&pool).await.unwrap(),
                    &snapshot(&other).await.unwrap(),
                );
                let mut connection = pool.acquire().await.unwrap();
                // What they do not name has to be there.
                let named = statements.replace(
                    "-- make the domain d of text",
                    "CREATE DOMAIN d AS text NOT NULL CHECK (VALUE <> '');",
                );
                let says = format!("from {before}\nto {after}\n{statements}");
                let mut failed = None;
                for statement in named.split_inclusive(";\n") {
                    let sql = sqlx::AssertSqlSafe(statement.to_owned());
                    let done = sqlx::raw_sql(sql).execute(&mut *connection).await;
                    failed = failed.or(done.err());
                }
                drop(connection);
                if let Some(error) = failed {
                    wrong.push(format!("{error}\n{says}"));
                    continue;
                }
                let (is, meant) = (
                    snapshot(&pool).await.unwrap(),
                    snapshot(&other).await.unwrap(),
                );
                let is_all_said = named.lines().all(|line| !line.starts_with("--"));
                match is.to_json() == meant.to_json() {
                    true => made += 1,
                    false if is_all_said => {
                        wrong.push(format!("another schema\n{says}{}", diff(&is, &meant)))
                    }
                    false => {}
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
        made
    }};
}

#[tokio::test]
async fn each_schema_becomes_each_other_on_postgres() {
    let (one, other) = (of_its_own("").await, of_its_own("").await);
    let turn = std::cell::Cell::new(false);
    let of = async |tables: &str| {
        let pool = if turn.replace(!turn.get()) {
            &one
        } else {
            &other
        };
        let sql = format!("DROP SCHEMA public CASCADE; CREATE SCHEMA public; {tables}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(pool)
            .await
            .unwrap();
        pool.clone()
    };
    let made = each_becomes_each!(SCHEMAS, of);
    assert!(made > 100, "{made}");
}

#[tokio::test]
async fn each_schema_becomes_each_other_on_sqlite() {
    let of = async |tables: &str| {
        let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let pool = options.connect("sqlite::memory:").await.unwrap();
        let sql = sqlx::AssertSqlSafe(tables.to_owned());
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        pool
    };
    let made = each_becomes_each!(SCHEMAS_OF_SQLITE, of);
    assert!(made > 20, "{made}");
}

#[tokio::test]
async fn one_schema_becomes_the_other_on_sqlite() {
    let after = sqlite::database(AFTER).await;
    let after = snapshot(&after.pool).await.unwrap();
    is_made(&sqlite::database(BEFORE).await.pool, &after).await;
    is_made(&sqlite::database("SELECT 1").await.pool, &after).await;

    // A table that others refer to goes after them.
    let referring = "CREATE TABLE a (id integer PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, a int REFERENCES a); \
        INSERT INTO a VALUES (1); INSERT INTO t VALUES (1, 1)";
    let nothing = snapshot(&sqlite::database("SELECT 1").await.pool)
        .await
        .unwrap();
    is_made(&sqlite::database(referring).await.pool, &nothing).await;

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
