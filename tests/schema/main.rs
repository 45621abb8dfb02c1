//! Models and the catalogue of their database: what does not fit is found, by `verify` and by the derive, and what fits is not.

#![allow(missing_docs, dead_code, unreachable_pub)]
// Two keys can have a column in common.
#![allow(clippy::duplicated_attributes)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

mod create_table;
mod diff;
mod lookalikes;
mod many;
mod mistakes;
mod partitions;
mod privileges;
mod project;
mod services;
mod temporary;
mod verify;

use mistakes::*;
use rowlock::schema::{
    Describes, Finding, Level, Models, Place, Report, Rule, VerifyError, check_file, verify,
};
use rowlock_tests::{postgres, sqlite};

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
    // What is a mistake as the index of a key is a note as an index.
    let not_valid = rowlock::models![mistakes::postgres::NotValid];
    let error = verify(&pool, not_valid).await.unwrap_err().to_string();
    assert!(
        error.contains("`not_valid_slug` of `not_valid` is not valid"),
        "{error}"
    );
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
