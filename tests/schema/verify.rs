//! What `verify` sees and a file cannot: the connection, the server, and all models of the program.

use rowlock::schema::{Describes, Level, Place, Rule, VerifyError, verify};
use rowlock_tests::{postgres, sqlite};
use sqlx::Connection;

use super::{SQLITE, TABLES, errors, lookalikes, of_its_own};

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
    // Of each derive.
    let expected = (Rule::Privilege, Place::Table);
    assert_eq!(errors(&report), [expected.clone(), expected.clone()]);
    set(
        &mut connection,
        format!("RESET ROLE; GRANT SELECT (id) ON swapped TO {role}; SET ROLE {role}"),
    )
    .await;
    let Err(VerifyError::Mismatch(report)) = verify(&mut *connection, models).await else {
        panic!("it may read one column alone");
    };
    assert_eq!(errors(&report), [expected.clone(), expected]);
    for told in [
        "may not UPDATE on `swapped`",
        "may not SELECT `slug`, `tenant_id` and `lock_version` of `swapped`",
        &format!(
            "GRANT SELECT (\"slug\", \"tenant_id\", \"lock_version\") ON \"swapped\" TO {role};"
        ),
    ] {
        assert!(report.to_string().contains(told), "{told}: {report}");
    }
    set(
        &mut connection,
        format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
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

/// What tasks of their own can wait for.
#[tokio::test]
async fn all_of_it_can_be_spawned() {
    use rowlock::schema::{check_file, snapshot};

    async fn spawned<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> T {
        tokio::spawn(task).await.unwrap()
    }
    const TABLES: &str = "CREATE TABLE claims (id bigint PRIMARY KEY)";
    let models = rowlock::models![Claims];
    let file = "schema/no such file.json";

    let sqlite = sqlite::database(TABLES).await;
    let postgres = of_its_own(TABLES).await;
    let one = sqlite.pool.clone();
    spawned(async move {
        assert!(verify(&one, models).await.is_err() && rowlock::verify_all(&one).await.is_err());
        assert!(snapshot(&one).await.is_ok() && check_file(&one, file).await.is_err());
    })
    .await;
    spawned(async move {
        assert!(verify(&postgres, models).await.is_err());
        assert!(rowlock::verify_all(&postgres).await.is_err());
        assert!(snapshot(&postgres).await.is_ok() && check_file(&postgres, file).await.is_err());
        let mut connection = postgres.acquire().await.unwrap();
        assert!(verify(&mut *connection, models).await.is_err());
    })
    .await;
    // Within a transaction, which goes on.
    let found = rowlock::transaction(&sqlite.pool).run(async |tx| {
        Ok::<_, rowlock::Error>(verify(&mut *tx, rowlock::models![Claims]).await.is_err())
    });
    assert!(found.await.unwrap());
}

/// A view has no `xmax`, by which `update_or_create` tells what it did.
#[derive(Clone, sqlx::FromRow, rowlock::FindOrCreate)]
#[rowlock(table = "seen_notes", unique(slug), backend(Postgres))]
struct SeenNote {
    slug: String,
    words: i64,
}

#[tokio::test]
async fn a_view_is_read_by_a_program_that_does_not_call_everything() {
    let pool = of_its_own(&format!(
        "{NOTES}; CREATE VIEW seen_notes AS SELECT slug, words FROM notes"
    ))
    .await;
    let report = verify(&pool, rowlock::models![SeenNote]).await.unwrap();
    let notes: Vec<&str> = report
        .findings()
        .filter(|(_, finding)| finding.rule == Rule::Statement)
        .map(|(_, finding)| finding.message.as_str())
        .collect();
    assert!(notes.iter().any(|note| note.contains("xmax")), "{report}");
}

#[derive(Clone, sqlx::FromRow, rowlock::FindOrCreate)]
#[rowlock(table = "domains", unique(slug), backend(Postgres))]
struct OfDomains {
    slug: String,
    words: i64,
    at: i64,
}

#[tokio::test]
async fn a_domain_says_not_null_for_those_that_are_made_of_it() {
    let pool = of_its_own(
        "CREATE DOMAIN word AS text NOT NULL; CREATE DOMAIN slug AS word CHECK (VALUE <> '');
         CREATE DOMAIN counted AS bigint CHECK (VALUE IS NOT NULL AND VALUE >= 0);
         CREATE DOMAIN moment AS bigint CHECK (VALUE IS NOT NULL OR VALUE > 0);
         CREATE TABLE domains (slug slug UNIQUE, words counted, at moment);",
    )
    .await;
    let Err(VerifyError::Mismatch(report)) = verify(&pool, rowlock::models![OfDomains]).await
    else {
        panic!("one of the three can be NULL");
    };
    assert_eq!(
        errors(&report),
        [(Rule::Null, Place::Field("at".into()))],
        "{report}"
    );
    let catalogue = rowlock::schema::snapshot(&pool).await.unwrap();
    assert!(catalogue.to_json().contains(r#""domain_of": "text""#));
}

/// A CHECK that is not of all the rows that are read.
#[derive(Clone, sqlx::FromRow, rowlock::FindOrCreate)]
#[rowlock(table = "partly", unique(slug), backend(Postgres))]
struct PartlyChecked {
    slug: String,
    words: i64,
    at: i64,
    of: i64,
}

#[tokio::test]
async fn a_check_that_is_not_valid_or_not_inherited_does_not_say_not_null() {
    let pool = of_its_own(
        "CREATE DOMAIN counted AS bigint;
         CREATE TABLE partly (slug text NOT NULL UNIQUE, words bigint, at bigint CHECK (at IS NOT NULL) NO INHERIT, of counted);
         INSERT INTO partly VALUES ('a', NULL, 0, NULL);
         ALTER TABLE partly ADD CONSTRAINT said CHECK (words IS NOT NULL) NOT VALID;
         ALTER DOMAIN counted ADD CONSTRAINT said CHECK (VALUE IS NOT NULL) NOT VALID;",
    )
    .await;
    let Err(VerifyError::Mismatch(report)) = verify(&pool, rowlock::models![PartlyChecked]).await
    else {
        panic!("there is a row with NULL");
    };
    let null = |field: &str| (Rule::Null, Place::Field(field.to_owned()));
    assert_eq!(
        errors(&report),
        [null("words"), null("at"), null("of")],
        "{report}"
    );
    assert!(PartlyChecked::find_by_slug(&pool, "a").await.is_err());
    let json = rowlock::schema::snapshot(&pool).await.unwrap().to_json();
    assert!(
        json.contains(r#""(words IS NOT NULL)", "not_valid": true}"#),
        "{json}"
    );
    assert!(
        json.contains(r#""(at IS NOT NULL)", "no_inherit": true}"#),
        "{json}"
    );

    let validated = "UPDATE partly SET words = 1, of = 1; ALTER TABLE partly VALIDATE CONSTRAINT said; ALTER DOMAIN counted VALIDATE CONSTRAINT said";
    sqlx::raw_sql(validated).execute(&pool).await.unwrap();
    let Err(VerifyError::Mismatch(report)) = verify(&pool, rowlock::models![PartlyChecked]).await
    else {
        panic!("a table that inherits can have NULL there");
    };
    assert_eq!(errors(&report), [null("at")], "{report}");
}

/// What the findings about the queue say to write, in their order.
async fn all_that_is_missing_is_pasted<DB: Describes>(pool: &sqlx::Pool<DB>)
where
    for<'c> &'c sqlx::Pool<DB>: rowlock::Source<'c, DB>,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    let Err(VerifyError::Mismatch(report)) = verify(pool, rowlock::models![Claims]).await else {
        panic!("there is no state");
    };
    let mut connection = pool.acquire().await.unwrap();
    for (_, finding) in report
        .findings()
        .filter(|(_, finding)| finding.place != Place::Server)
    {
        let help = sqlx::AssertSqlSafe(finding.help.clone().unwrap());
        let done = sqlx::raw_sql(help).execute(&mut *connection).await;
        done.unwrap_or_else(|error| panic!("{error}\n{report}"));
    }
    drop(connection);
    let report = verify(pool, rowlock::models![Claims]).await.unwrap();
    assert_eq!(
        super::about_models(&report),
        [] as [&rowlock::schema::Finding; 0],
        "{report}"
    );
}

/// The indexes are on jobs of a state.
#[tokio::test]
async fn the_columns_of_a_queue_come_before_its_indexes() {
    const QUEUE: &str = "CREATE TABLE claims (id bigint PRIMARY KEY, priority bigint NOT NULL, run_at {timestamp} NOT NULL, leased_until {timestamp})";
    let database = sqlite::database(QUEUE).await;
    all_that_is_missing_is_pasted(&database.pool).await;
    all_that_is_missing_is_pasted(&of_its_own(QUEUE).await).await;
}

#[tokio::test]
async fn a_lock_that_is_not_free_is_no_mistake_of_a_model() {
    // The catalogue is read beside it, and no UPDATE is prepared.
    let pool = of_its_own(NOTES).await;
    let mut holder = pool.begin().await.unwrap();
    let lock = "LOCK TABLE notes IN SHARE MODE";
    sqlx::raw_sql(lock).execute(&mut *holder).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let set = "SET lock_timeout = '50ms'";
    sqlx::raw_sql(set).execute(&mut *connection).await.unwrap();
    let error = verify(&mut *connection, rowlock::models![Note]).await;
    let Err(VerifyError::Database(error)) = error else {
        panic!("the lock is held: {error:?}");
    };
    assert_eq!(error.fault(), rowlock::Fault::LockTimeout, "{error}");
}

/// The functions of PostgreSQL that write definitions see what the query's snapshot does not.
#[tokio::test]
async fn other_tables_come_and_go_meanwhile() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let pool = of_its_own("CREATE TABLE notes (id bigint PRIMARY KEY)").await;
    let is_over = AtomicBool::new(false);
    let churn = async {
        let sql = "CREATE TABLE passing (id bigint PRIMARY KEY, n bigint DEFAULT 7 CHECK (n > 0), slug text);
             CREATE UNIQUE INDEX ON passing (lower(slug)) WHERE n > 1; CREATE INDEX ON passing (lower(slug)) WHERE n > 2;
             DROP TABLE passing";
        while !is_over.load(Relaxed) {
            for sql in sql.split(';') {
                sqlx::raw_sql(sql).execute(&pool).await.unwrap();
            }
        }
    };
    let looks = async {
        let mut failed = Vec::new();
        for _ in 0..300 {
            failed.extend(rowlock::schema::snapshot(&pool).await.err());
        }
        is_over.store(true, Relaxed);
        failed
    };
    let (_, failed) = tokio::join!(churn, looks);
    assert!(failed.is_empty(), "{failed:?}");
}
