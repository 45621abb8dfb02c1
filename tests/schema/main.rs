//! Models and the catalogue of their database: what does not fit is found, by `verify` and by the derive, and what fits is not.

#![allow(missing_docs, dead_code, unreachable_pub)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

mod create_table;
mod lookalikes;
mod mistakes;

use mistakes::*;
use rowlock::schema::{
    Describes, Finding, Level, Models, Place, Report, Rule, VerifyError, check_file, verify,
};
use rowlock_tests::{postgres, sqlite};
use sqlx::Connection;

/// The tables of the mistakes, on both databases.
const TABLES: &str = "
    CREATE TABLE documents (id bigint PRIMARY KEY, subtitle text NOT NULL, lock_version bigint NOT NULL);
    CREATE TABLE no_index (tenant_id bigint NOT NULL, slug text NOT NULL UNIQUE);
    CREATE TABLE partial_index (tenant_id bigint NOT NULL, slug text NOT NULL, deleted_at bigint);
    CREATE UNIQUE INDEX partial_index_key ON partial_index (tenant_id, slug) WHERE deleted_at IS NULL;
    CREATE UNIQUE INDEX partial_index_slug ON partial_index (slug) WHERE tenant_id > 7;
    CREATE TABLE other_rows (slug text NOT NULL, deleted_at bigint, archived_at bigint);
    CREATE UNIQUE INDEX other_rows_key ON other_rows (slug) WHERE deleted_at IS NULL;
    CREATE TABLE wider_index (tenant_id bigint NOT NULL, slug text NOT NULL, locale text NOT NULL, UNIQUE (slug, tenant_id, locale));
    CREATE TABLE index_on_lower (email text NOT NULL);
    CREATE UNIQUE INDEX index_on_lower_key ON index_on_lower (lower(email));
    CREATE TABLE index_on_upper (email text NOT NULL);
    CREATE UNIQUE INDEX index_on_upper_key ON index_on_upper (upper(email));
    CREATE TABLE counter_without_key (page bigint NOT NULL, views bigint NOT NULL);
    CREATE TABLE requests_without_key (tenant bigint NOT NULL, name text NOT NULL PRIMARY KEY, fingerprint {bytes} NOT NULL, outcome text,
        fence bigint NOT NULL, leased_until {timestamp} NOT NULL, finished_at {timestamp});
    CREATE TABLE key_not_unique (id bigint NOT NULL, lock_version bigint NOT NULL);
    CREATE TABLE key_of_some (id bigint NOT NULL, lock_version bigint NOT NULL);
    CREATE UNIQUE INDEX key_of_some_key ON key_of_some (id) WHERE lock_version > 0;
    CREATE TABLE nullable (id bigint PRIMARY KEY, title varchar(200), lock_version bigint NOT NULL);
    CREATE TABLE nullable_version (id bigint PRIMARY KEY, lock_version bigint DEFAULT 0);
    CREATE TABLE nullable_counter (id bigint PRIMARY KEY, views bigint);
    CREATE TABLE nullable_fence (id bigint PRIMARY KEY, lock_version bigint NOT NULL, fence bigint);
    CREATE TABLE nullable_state (id bigint PRIMARY KEY, run_at {timestamp} NOT NULL, state text, attempts integer NOT NULL, fence bigint NOT NULL, leased_until {timestamp});
    CREATE TABLE never_free (id bigint PRIMARY KEY, run_at {timestamp} NOT NULL, state text NOT NULL, attempts integer NOT NULL, fence bigint NOT NULL, leased_until {timestamp} NOT NULL);
    CREATE TABLE none_at_a_time (id bigint PRIMARY KEY, customer bigint NOT NULL, run_at {timestamp} NOT NULL, state text NOT NULL, attempts integer NOT NULL, fence bigint NOT NULL, leased_until {timestamp});
    CREATE TABLE other_type (id bigint PRIMARY KEY, amount text NOT NULL, lock_version bigint NOT NULL);
    CREATE TABLE left_out (slug text NOT NULL UNIQUE, created_by bigint NOT NULL);
    CREATE TABLE no_default (slug text NOT NULL UNIQUE, color bigint NOT NULL);
    CREATE TABLE not_generated (id varchar(20) NOT NULL PRIMARY KEY, slug text NOT NULL UNIQUE);
    CREATE TABLE always_generated (slug text NOT NULL UNIQUE, title text GENERATED ALWAYS AS (upper(slug)) STORED);
    CREATE TABLE counter_left_out (id bigint PRIMARY KEY, views bigint NOT NULL, owner bigint NOT NULL);
    CREATE TABLE refused_start (id bigint PRIMARY KEY, level bigint NOT NULL CHECK (level >= 1));
";

const POSTGRES: &str = "
    CREATE TABLE narrow_version (id bigint PRIMARY KEY, lock_version integer NOT NULL);
    CREATE TABLE no_time_zone (id bigint PRIMARY KEY, at timestamp NOT NULL, lock_version bigint NOT NULL);
    CREATE TABLE later_checked (slug text NOT NULL UNIQUE DEFERRABLE);
    CREATE TABLE not_valid (slug text NOT NULL);
    CREATE UNIQUE INDEX not_valid_slug ON not_valid (slug);
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'not_valid_slug'::regclass;
    CREATE TABLE nulls_distinct (parent_id bigint, slug text NOT NULL, UNIQUE (parent_id, slug));
    CREATE TYPE job_state AS ENUM ('waiting', 'running', 'done', 'dead');
    CREATE TABLE other_states (id bigint PRIMARY KEY, run_at timestamptz NOT NULL, state job_state NOT NULL, attempts integer NOT NULL, fence bigint NOT NULL,
        leased_until timestamptz);
";

const SQLITE: &str = "
    CREATE TABLE other_collation (email text NOT NULL);
    CREATE UNIQUE INDEX other_collation_key ON other_collation (email COLLATE NOCASE);
";

fn field(name: &str) -> Place {
    Place::Field(name.to_owned())
}

/// A mistake: the model, and where which rule finds it.
type Mistake = (Models, &'static str, Rule, Place);

fn mistakes() -> Vec<Mistake> {
    use rowlock::models;
    vec![
        (models![NoTable], "no_table", Rule::Table, Place::Table),
        (
            models![NoColumn],
            "no_column",
            Rule::Column,
            field("sub_title"),
        ),
        (models![NoIndex], "no_index", Rule::Unique, Place::Key(0)),
        (
            models![PartialIndex],
            "partial_index",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![OtherRows],
            "other_rows",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![WiderIndex],
            "wider_index",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![IndexOnLower],
            "index_on_lower",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![IndexOnUpper],
            "index_on_upper",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![CounterWithoutKey],
            "counter_without_key",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![RequestsWithoutKey],
            "requests_without_key",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![KeyNotUnique],
            "key_not_unique",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![KeyOfSome],
            "key_of_some",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![NullableTitle],
            "nullable",
            Rule::Null,
            field("title"),
        ),
        (
            models![NullableVersion],
            "nullable_version",
            Rule::NotNull,
            field("lock_version"),
        ),
        (
            models![NullableCounter],
            "nullable_counter",
            Rule::NotNull,
            field("views"),
        ),
        (
            models![NullableFence],
            "nullable_fence",
            Rule::NotNull,
            field("fence"),
        ),
        (
            models![NullableState],
            "nullable_state",
            Rule::NotNull,
            field("state"),
        ),
        (
            models![NeverFree],
            "never_free",
            Rule::Null,
            field("leased_until"),
        ),
        (
            models![NoneAtATime],
            "none_at_a_time",
            Rule::Index,
            Place::Table,
        ),
        (
            models![OtherType],
            "other_type",
            Rule::Type,
            field("amount"),
        ),
        (models![LeftOut], "left_out", Rule::Default, Place::Struct),
        (
            models![NoDefault],
            "no_default",
            Rule::Default,
            field("color"),
        ),
        (
            models![NotGenerated],
            "not_generated",
            Rule::Generated,
            field("id"),
        ),
        (
            models![AlwaysGenerated],
            "always_generated",
            Rule::Generated,
            field("title"),
        ),
        (
            models![CounterLeftOut],
            "counter_left_out",
            Rule::Default,
            Place::Struct,
        ),
        (
            models![RefusedStart],
            "refused_start",
            Rule::Check,
            field("level"),
        ),
    ]
}

fn mistakes_of_postgres() -> Vec<Mistake> {
    use mistakes::postgres::*;
    use rowlock::models;
    vec![
        (
            models![NarrowVersion],
            "narrow_version",
            Rule::Width,
            field("lock_version"),
        ),
        (models![NoTimeZone], "no_time_zone", Rule::Type, field("at")),
        (
            models![Deferrable],
            "deferrable",
            Rule::Unique,
            Place::Key(0),
        ),
        (models![NotValid], "not_valid", Rule::Unique, Place::Key(0)),
        (
            models![NullsDistinct],
            "nulls_distinct",
            Rule::Unique,
            Place::Key(0),
        ),
        (
            models![OtherStates],
            "other_states",
            Rule::States,
            field("state"),
        ),
    ]
}

fn mistakes_of_sqlite() -> Vec<Mistake> {
    use mistakes::sqlite::*;
    use rowlock::models;
    vec![(
        models![OtherCollation],
        "other_collation",
        Rule::Collation,
        Place::Key(0),
    )]
}

/// All that is about the models.
fn about_models(report: &Report) -> Vec<&Finding> {
    let findings = report.findings().map(|(_, finding)| finding);
    findings
        .filter(|finding| finding.place != Place::Server)
        .collect()
}

fn errors(report: &Report) -> Vec<(Rule, Place)> {
    let findings = report.findings().map(|(_, finding)| finding);
    let errors = findings.filter(|finding| finding.level == Level::Error);
    errors
        .map(|finding| (finding.rule, finding.place.clone()))
        .collect()
}

/// A database with these tables and no others: the file has all that are there.
async fn of_its_own(tables: &str) -> postgres::Pool {
    let url = postgres::fresh_url().await;
    let pool = postgres::Pool::connect(&url).await.unwrap();
    let tables = sqlx::AssertSqlSafe(postgres::ddl(tables));
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();
    pool
}

/// Each mistake is found, at its place, and nothing else is.
async fn each_is_found<DB: Describes>(pool: &sqlx::Pool<DB>, mistakes: Vec<Mistake>)
where
    for<'c> &'c sqlx::Pool<DB>: rowlock::Source<'c, DB>,
{
    let mut wrong = Vec::new();
    for (models, name, rule, place) in mistakes {
        match verify(pool, models).await {
            Err(VerifyError::Mismatch(report)) if errors(&report) == [(rule, place)] => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test]
async fn each_mistake_is_found_on_postgres() {
    let pool = of_its_own(&format!("{TABLES}{POSTGRES}")).await;
    let mut all = mistakes();
    all.extend(mistakes_of_postgres());
    each_is_found(&pool, all).await;
    check_file(&pool, "schema/mistakes.postgres.json")
        .await
        .unwrap();
}

#[tokio::test]
async fn each_mistake_is_found_on_sqlite() {
    let database = sqlite::database(&format!("{TABLES}{SQLITE}")).await;
    let mut all = mistakes();
    all.extend(mistakes_of_sqlite());
    each_is_found(&database.pool, all).await;
    check_file(&database.pool, "schema/mistakes.sqlite.json")
        .await
        .unwrap();
}

/// What is no mistake is at most a note.
async fn nothing_is_found<DB: Describes>(pool: &sqlx::Pool<DB>, models: &[Models]) -> Vec<Rule>
where
    for<'c> &'c sqlx::Pool<DB>: rowlock::Source<'c, DB>,
{
    let mut notes = Vec::new();
    for models in models {
        let report = verify(pool, *models).await.unwrap();
        notes.extend(report.findings().map(|(_, finding)| finding.rule));
    }
    notes.sort();
    notes
}

fn all_lookalikes() -> Models {
    use lookalikes::*;
    rowlock::models![
        Swapped,
        Quoted,
        Expressions,
        Defaults,
        Checked,
        Narrow,
        Request,
        Job,
        Alias
    ]
}

#[tokio::test]
async fn what_only_looks_like_a_mistake_is_none_on_postgres() {
    use lookalikes::postgres::*;
    let pool = of_its_own(&format!("{}{TABLES}", lookalikes::TABLES)).await;
    let own = rowlock::models![Domains, Including, Partitioned, Seen, Triggered];
    let notes = nothing_is_found(&pool, &[all_lookalikes(), own]).await;
    // The key of the partitioned table, columns that `insert` leaves out, what a trigger and policies do.
    assert!(notes.contains(&Rule::Unique) && notes.contains(&Rule::Trigger));
    assert!(notes.contains(&Rule::Default) && notes.contains(&Rule::RowSecurity));
    check_file(&pool, "schema/lookalikes.postgres.json")
        .await
        .unwrap();
}

#[tokio::test]
async fn what_only_looks_like_a_mistake_is_none_on_sqlite() {
    use lookalikes::sqlite::*;
    let database = sqlite::database(&format!("{}{TABLES}", lookalikes::TABLES)).await;
    let own = rowlock::models![Person, Word];
    nothing_is_found(&database.pool, &[all_lookalikes(), own]).await;
    // Of a view of a table that is gone the catalogue says nothing, and the compiler neither.
    let Err(VerifyError::Mismatch(report)) = verify(&database.pool, rowlock::models![Stale]).await
    else {
        panic!("the table is gone");
    };
    let rules = errors(&report);
    assert!(
        rules.iter().all(|(rule, _)| *rule == Rule::Statement),
        "{report}"
    );
    check_file(&database.pool, "schema/lookalikes.sqlite.json")
        .await
        .unwrap();
}

/// The table of a model in a schema of its own.
#[tokio::test]
async fn verify_looks_with_the_search_path_and_the_user_of_the_connection() {
    let pool = of_its_own(
        "CREATE SCHEMA app; CREATE TABLE app.counters (id bigint PRIMARY KEY, views bigint NOT NULL); SET search_path = app;
         CREATE TABLE swapped (id {id}, slug text NOT NULL, tenant_id bigint NOT NULL, lock_version bigint NOT NULL, UNIQUE (slug, tenant_id));",
    )
    .await;
    let mut connection = pool.acquire().await.unwrap();
    let models = rowlock::models![lookalikes::Swapped];
    let set = async |connection: &mut postgres::Connection, sql: String| {
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::raw_sql(sql).execute(connection).await.unwrap();
    };
    set(&mut connection, "SET search_path = app".into()).await;
    verify(&mut *connection, models).await.unwrap();

    set(&mut connection, "SET search_path = public".into()).await;
    let error = verify(&mut *connection, models).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("write `table = \"app.swapped\"`"),
        "{error}"
    );

    let role = postgres::unique_name();
    let sql = format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA app TO {role}; SET search_path = app; SET ROLE {role}"
    );
    set(&mut connection, sql).await;
    let Err(VerifyError::Mismatch(report)) = verify(&mut *connection, models).await else {
        panic!("it may not read the table");
    };
    assert_eq!(errors(&report), [(Rule::Privilege, Place::Table)]);
    set(
        &mut connection,
        format!("RESET ROLE; GRANT SELECT (id) ON swapped TO {role}; SET ROLE {role}"),
    )
    .await;
    let report = verify(&mut *connection, models).await.unwrap();
    assert!(
        report.to_string().contains("may not UPDATE on `swapped`"),
        "{report}"
    );
    set(
        &mut connection,
        format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

/// Runs in a process of its own: the environment is the process's.
#[tokio::test]
async fn the_file_of_the_next_test() {
    let Ok(path) = std::env::var("SCHEMA_FILE") else {
        return;
    };
    let database = sqlite::database(&std::env::var("SCHEMA_TABLES").unwrap()).await;
    if let Err(error) = check_file(&database.pool, path).await {
        panic!("{error}");
    }
}

#[tokio::test]
async fn a_file_that_differs_fails_and_is_written_on_demand() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rowlock.schema.json");
    let run = |tables: &str, write: bool| {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "the_file_of_the_next_test", "--nocapture"])
            .env("SCHEMA_FILE", &path)
            .env("SCHEMA_TABLES", tables)
            .env("ROWLOCK_SCHEMA", if write { "write" } else { "" });
        let output = test.output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let one = "CREATE TABLE tags (id {id}, slug text NOT NULL UNIQUE)";
    let other = "CREATE TABLE tags (id {id}, slug text UNIQUE, title text)";

    let (passed, said) = run(one, false);
    assert!(!passed && said.contains("ROWLOCK_SCHEMA=write"), "{said}");
    assert!(run(one, true).0 && run(one, false).0);

    let (passed, said) = run(other, false);
    assert!(!passed);
    for line in [
        "main.tags",
        "- column {\"name\": \"slug\", \"type\": \"TEXT\"}",
        "+ column {\"name\": \"slug\", \"type\": \"TEXT\", \"null\": true}",
        "+ column {\"name\": \"title\"",
    ] {
        assert!(said.contains(line), "{line} is not in:\n{said}");
    }
    assert!(run(other, true).0 && run(other, false).0 && !run(one, false).0);
}

/// A model's own SQL, of which the catalogue knows nothing.
#[derive(Clone, sqlx::FromRow, rowlock::Versioned, rowlock::FindOrCreate)]
#[rowlock(table = "notes", unique(slug))]
struct Note {
    #[rowlock(key)]
    id: i64,
    slug: String,
    #[rowlock(on_update = "no_such_function(1)")]
    words: i64,
    #[rowlock(version)]
    lock_version: i64,
}

/// Its `insert` is not taken, and a program need not call it.
#[derive(Clone, sqlx::FromRow, rowlock::Versioned)]
#[rowlock(table = "notes")]
struct InsertedNote {
    #[rowlock(key)]
    id: i64,
    #[rowlock(on_insert = "no_such_function(1)")]
    words: i64,
    #[rowlock(version)]
    lock_version: i64,
}

const NOTES: &str = "CREATE TABLE notes (id bigint PRIMARY KEY, slug text NOT NULL UNIQUE, words bigint NOT NULL DEFAULT 0, lock_version bigint NOT NULL)";

async fn what_is_not_prepared_is_found<'c, DB: Describes>(db: impl rowlock::Source<'c, DB>) {
    let models = rowlock::models![Note, InsertedNote];
    let Err(VerifyError::Mismatch(report)) = verify(db, models).await else {
        panic!("an update has a function that is not there");
    };
    let of_statements = report
        .findings()
        .filter(|(_, finding)| finding.rule == Rule::Statement);
    let found: Vec<(&str, Level, &str)> = of_statements
        .map(|(model, finding)| {
            assert_eq!(finding.place, Place::Struct);
            assert!(finding.message.contains("no_such_function"), "{report}");
            let method = finding.message.split(' ').next().unwrap();
            (model, finding.level, method)
        })
        .collect();
    let note = "Note (table `notes`)";
    let inserted = "InsertedNote (table `notes`)";
    assert!(
        found.contains(&(note, Level::Error, "`update`")),
        "{report}"
    );
    assert!(
        found.contains(&(note, Level::Error, "`upsert`")),
        "{report}"
    );
    assert!(
        found.contains(&(inserted, Level::Note, "`insert`")),
        "{report}"
    );
    assert!(!report.to_string().contains("`load`") && !report.to_string().contains("`delete`"));
}

#[tokio::test]
async fn statements_that_the_server_does_not_take_are_found() {
    let database = sqlite::database(NOTES).await;
    what_is_not_prepared_is_found(&database.pool).await;

    let pool = of_its_own(NOTES).await;
    what_is_not_prepared_is_found(&pool).await;
    // In a transaction, which goes on.
    let mut transaction = pool.begin().await.unwrap();
    what_is_not_prepared_is_found(&mut *transaction).await;
    // What was prepared without the types of a call is not used for one.
    assert_eq!(transaction.cached_statements_size(), 0);
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM notes");
    assert_eq!(count.fetch_one(&mut *transaction).await.unwrap(), 0);
}

#[tokio::test]
async fn what_a_connection_is_set_to_is_a_note() {
    let settings = async |db: &mut postgres::Connection| {
        let report = verify(db, rowlock::models![lookalikes::Swapped])
            .await
            .unwrap();
        let findings = report
            .findings()
            .filter(|(_, finding)| finding.place == Place::Server);
        let texts = findings.map(|(_, finding)| finding.message.clone());
        texts.collect::<Vec<_>>()
    };
    let tables = "CREATE TABLE swapped (id {id}, slug text NOT NULL, tenant_id bigint NOT NULL, lock_version bigint NOT NULL, UNIQUE (slug, tenant_id))";
    let pool = of_its_own(tables).await;
    let mut connection = pool.acquire().await.unwrap();
    let sql = "SET synchronous_commit = on";
    sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
    assert_eq!(settings(&mut connection).await, [] as [&str; 0]);
    let sql = "SET default_transaction_isolation = 'serializable'; SET synchronous_commit = off; SET default_transaction_read_only = on";
    sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
    assert_eq!(
        settings(&mut connection).await,
        [
            "this connection may not write: `default_transaction_read_only` is on",
            "`default_transaction_isolation` is `serializable`",
            "`synchronous_commit` is `off`",
        ]
    );

    let database = sqlite::database(tables).await;
    let mut connection = database.pool.acquire().await.unwrap();
    sqlx::raw_sql("PRAGMA query_only = on")
        .execute(&mut *connection)
        .await
        .unwrap();
    let report = verify(&mut *connection, rowlock::models![lookalikes::Swapped])
        .await
        .unwrap();
    assert!(
        report.to_string().contains("`query_only` is on"),
        "{report}"
    );
}

/// Every model of this program, those of the mistakes too.
#[tokio::test]
async fn all_models_of_the_program_are_looked_at() {
    let database = sqlite::database(&format!("{}{TABLES}{SQLITE}", lookalikes::TABLES)).await;
    let Err(VerifyError::Mismatch(report)) = rowlock::verify_all(&database.pool).await else {
        panic!("there are mistakes");
    };
    let report = report.to_string();
    for model in ["NoTable", "NullableTitle", "OtherCollation"] {
        assert!(
            report.contains(&format!("\n{model} (table")),
            "{model}: {report}"
        );
    }
    // Without a mistake; and of another database.
    for model in ["Swapped", "Deferrable"] {
        assert!(
            !report.contains(&format!("\n{model} (table")),
            "{model}: {report}"
        );
    }
}

/// A queue whose indexes are in another order, half of what is needed, or of its own `ddl()`.
#[derive(Clone, sqlx::FromRow, rowlock::Queue)]
#[rowlock(table = "claims")]
struct Claims {
    #[rowlock(key)]
    id: i64,
    #[rowlock(priority(desc))]
    priority: i64,
    #[rowlock(run_at)]
    run_at: chrono::DateTime<chrono::Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: rowlock::Fence,
    #[rowlock(lease)]
    leased_until: Option<chrono::DateTime<chrono::Utc>>,
}

async fn the_order_of_the_claim_index<DB: Describes>(pool: &sqlx::Pool<DB>, due: &str, ddl: &str)
where
    for<'c> &'c sqlx::Pool<DB>: rowlock::Source<'c, DB>,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    let missing = async |sql: &str| {
        let mut connection = pool.acquire().await.unwrap();
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
        drop(connection);
        let report = verify(pool, rowlock::models![Claims]).await.unwrap();
        let indexes = report
            .findings()
            .filter(|(_, finding)| finding.rule == Rule::Index);
        let claims = indexes.filter(|(_, finding)| finding.message.contains("priority"));
        let claims: Vec<String> = claims.map(|(_, finding)| finding.to_string()).collect();
        claims
    };
    let index = |on: &str, predicate: &str| {
        format!("DROP INDEX IF EXISTS claims_1; CREATE INDEX claims_1 ON claims ({on}) {predicate}")
    };
    assert_eq!(missing("SELECT 1").await.len(), 1);
    for (on, predicate) in [
        (format!("{due}, priority DESC, id"), "WHERE state = 'ready'"),
        (format!("priority, {due}, id"), "WHERE state = 'ready'"),
        ("priority DESC".to_owned(), "WHERE state = 'ready'"),
    ] {
        let found = missing(&index(&on, predicate)).await;
        assert!(
            found.len() == 1 && found[0].contains("CREATE INDEX IF NOT EXISTS"),
            "{on}"
        );
    }
    for (on, predicate) in [
        (format!("priority DESC, {due}, id"), "WHERE state = 'ready'"),
        (format!("priority DESC, {due}"), "WHERE 'ready' = state"),
        (format!("state, priority DESC, {due}, id"), ""),
    ] {
        assert_eq!(
            missing(&index(&on, predicate)).await,
            [] as [&str; 0],
            "{on}"
        );
    }
    assert_eq!(
        missing(&format!("DROP INDEX claims_1; {ddl}")).await,
        [] as [&str; 0]
    );
}

const CLAIMS: &str = "CREATE TABLE claims (id bigint PRIMARY KEY, priority bigint NOT NULL, run_at {timestamp} NOT NULL, state text NOT NULL, \
    attempts integer NOT NULL, fence bigint NOT NULL, leased_until {timestamp})";

#[tokio::test]
async fn the_claim_index_of_a_queue_is_in_the_order_of_claims() {
    let database = sqlite::database(CLAIMS).await;
    let ddl = Claims::ddl::<sqlx::Sqlite>();
    the_order_of_the_claim_index(&database.pool, "julianday(run_at)", ddl).await;

    let pool = of_its_own(CLAIMS).await;
    let ddl = Claims::ddl::<sqlx::Postgres>();
    the_order_of_the_claim_index(&pool, "run_at", ddl).await;
    // A build that failed.
    let sql = "UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text LIKE 'claims_rowlock_claim%'";
    sqlx::query(sql).execute(&pool).await.unwrap();
    let report = verify(&pool, rowlock::models![Claims])
        .await
        .unwrap()
        .to_string();
    assert!(
        report.contains("is not valid") && report.contains("in this order"),
        "{report}"
    );
}
