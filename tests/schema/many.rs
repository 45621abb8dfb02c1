//! Statements about many rows, and those that a call puts together: `verify` prepares them too.

use rowlock::row::LoadError;
use rowlock::schema::{Describes, Level, Models, Place, Report, Rule, VerifyError, verify};
use rowlock_tests::sqlite;

use super::of_its_own;

/// The statements that the server does not take, as the findings call them.
fn not_taken(report: &Report) -> Vec<(String, Level)> {
    let findings = report.findings().map(|(_, finding)| finding);
    let statements = findings.filter(|finding| finding.rule == Rule::Statement);
    let named = statements.map(|finding| {
        let (name, _) = finding.message.split_once(" is not taken").unwrap();
        (name.replace('`', ""), finding.level)
    });
    let mut named: Vec<_> = named.collect();
    named.sort();
    named
}

async fn report<'c, DB: Describes>(db: impl rowlock::Source<'c, DB>, models: Models) -> Report {
    match verify(db, models).await {
        Ok(report) | Err(VerifyError::Mismatch(report)) => report,
        Err(error) => panic!("{error}"),
    }
}

/// The database calls it otherwise. sqlx asks the server for the type of each value by this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Glad,
}

#[derive(Clone, sqlx::FromRow, rowlock::Versioned, rowlock::Counter, rowlock::Lockable)]
#[rowlock(table = "diary", backend(Postgres))]
struct Diary {
    #[rowlock(key)]
    mood: Mood,
    #[rowlock(default)]
    title: String,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, sqlx::FromRow, rowlock::FindOrCreate)]
#[rowlock(table = "diary", unique(mood), backend(Postgres))]
struct Entry {
    mood: Mood,
    title: String,
}

#[derive(Clone, sqlx::FromRow, rowlock::Queue)]
#[rowlock(table = "errands", backend(Postgres))]
struct Errand {
    #[rowlock(key)]
    mood: Mood,
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

const DIARY: &str = "CREATE TYPE humour AS ENUM ('glad');
    CREATE TABLE diary (mood humour PRIMARY KEY, title text NOT NULL DEFAULT '', views bigint NOT NULL DEFAULT 0, lock_version bigint NOT NULL DEFAULT 0);
    CREATE TABLE errands (mood humour PRIMARY KEY, run_at {timestamp} NOT NULL, state text NOT NULL, attempts integer NOT NULL, fence bigint NOT NULL,
        leased_until {timestamp});";

/// Names with quotes and with a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "\"Big Mood\"", rename_all = "lowercase")]
enum BigMood {
    Glad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "other.mood", rename_all = "lowercase")]
enum OtherMood {
    Glad,
}

/// sqlx asks for it without the quotes that the name needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "Big Mood", rename_all = "lowercase")]
enum Unquoted {
    Glad,
}

#[derive(Clone, sqlx::FromRow, rowlock::Versioned)]
#[rowlock(table = "moods", backend(Postgres))]
struct Moods {
    #[rowlock(key)]
    id: i64,
    big: BigMood,
    other: Option<OtherMood>,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, sqlx::FromRow, rowlock::Versioned)]
#[rowlock(table = "moods", backend(Postgres))]
struct UnquotedMoods {
    #[rowlock(key)]
    id: i64,
    big: Unquoted,
    #[rowlock(version)]
    lock_version: i64,
}

const MOODS: &str = "CREATE SCHEMA other; CREATE TYPE other.mood AS ENUM ('glad'); CREATE TYPE \"Big Mood\" AS ENUM ('glad');
    CREATE TABLE moods (id bigint PRIMARY KEY, big \"Big Mood\" NOT NULL, other other.mood, lock_version bigint NOT NULL);";

fn about_types(report: &Report) -> Vec<(Level, Place, String)> {
    let findings = report.findings().map(|(_, finding)| finding);
    let types = findings.filter(|finding| finding.rule == Rule::Type);
    let found = types.map(|finding| {
        let place = finding.place.clone();
        (finding.level, place, finding.to_string())
    });
    found.collect()
}

#[tokio::test]
async fn a_type_that_is_not_there_is_found() {
    let pool = of_its_own(&format!("{DIARY} {MOODS}")).await;
    for models in [
        rowlock::models![Diary],
        rowlock::models![Entry],
        rowlock::models![Errand],
    ] {
        let found = report(&pool, models).await;
        let [(Level::Error, place, text)] = &about_types(&found)[..] else {
            panic!("{found}");
        };
        assert_eq!(*place, Place::Field("mood".to_owned()));
        assert!(text.contains("no type `mood`"), "{text}");
        assert!(text.contains("`#[sqlx(type_name = \"humour\")]`"), "{text}");
        // What is wrong with the field is not said again of each statement.
        assert_eq!(not_taken(&found), []);
    }
    // So it is.
    let failed = Diary::load(&pool, Mood::Glad).await;
    assert!(matches!(failed, Err(LoadError::Database(_))));

    let found = report(&pool, rowlock::models![UnquotedMoods]).await;
    let [(Level::Error, place, text)] = &about_types(&found)[..] else {
        panic!("{found}");
    };
    assert_eq!(*place, Place::Field("big".to_owned()));
    let help = r#"`#[sqlx(type_name = "\"Big Mood\"")]`"#;
    assert!(
        text.contains("no type `Big Mood`") && text.contains(help),
        "{text}"
    );

    // And with its name nothing is found; nor in a transaction, which goes on.
    let mut transaction = pool.begin().await.unwrap();
    let found = report(&mut *transaction, rowlock::models![UnquotedMoods]).await;
    assert_eq!(about_types(&found).len(), 1, "{found}");
    let rename = "ALTER TYPE humour RENAME TO mood";
    sqlx::raw_sql(rename).execute(&pool).await.unwrap();
    for models in [
        rowlock::models![Diary],
        rowlock::models![Entry],
        rowlock::models![Errand],
        rowlock::models![Moods],
    ] {
        for found in [
            report(&pool, models).await,
            report(&mut *transaction, models).await,
        ] {
            assert_eq!((not_taken(&found), about_types(&found)), (vec![], vec![]));
        }
    }
    let loaded = Diary::load_many(&pool, [Mood::Glad]).await;
    assert!(matches!(&loaded[..], [Err(LoadError::NotFound(_))]));
    let moods = Moods {
        id: 1,
        big: BigMood::Glad,
        other: Some(OtherMood::Glad),
        lock_version: 0,
    };
    let moods = moods.insert(&pool).await.unwrap();
    assert_eq!(moods.big, BigMood::Glad);
}

/// Where calls of many callers are one statement, the table has another name.
#[derive(Clone, sqlx::FromRow, rowlock::Versioned)]
#[rowlock(table = "memos")]
struct Memo {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(on_update = "memos.words + 1")]
    words: i64,
    #[rowlock(version)]
    lock_version: i64,
}

const MEMOS: &str = "CREATE TABLE memos (id bigint PRIMARY KEY, title text NOT NULL, words bigint NOT NULL DEFAULT 0, lock_version bigint NOT NULL)";

#[tokio::test]
async fn an_expression_that_only_one_row_takes_is_a_note() {
    let expected = [("update on Lanes".to_owned(), Level::Note)];
    let database = sqlite::database(MEMOS).await;
    let found = report(&database.pool, rowlock::models![Memo]).await;
    assert_eq!(not_taken(&found), expected, "{found}");
    let pool = of_its_own(MEMOS).await;
    let found = report(&pool, rowlock::models![Memo]).await;
    assert_eq!(not_taken(&found), expected, "{found}");
}

/// What a partial save and a guarded update set beside the changed columns.
#[derive(Clone, sqlx::FromRow, rowlock::Versioned, rowlock::Guarded)]
#[rowlock(table = "memos")]
struct Stamped {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(on_update = "no_such_function(1)")]
    words: i64,
    #[rowlock(version)]
    lock_version: i64,
}

/// The same without a version: the title is compared with what was read.
#[derive(Clone, sqlx::FromRow, rowlock::Versioned)]
#[rowlock(table = "memos")]
struct Compared {
    #[rowlock(key)]
    id: i64,
    #[rowlock(check)]
    title: String,
    #[rowlock(on_update = "no_such_function(1)")]
    words: i64,
}

#[tokio::test]
async fn statements_that_a_call_puts_together_are_prepared() {
    let names = |report: &Report| {
        let found = not_taken(report).into_iter();
        found.map(|(name, _)| name).collect::<Vec<_>>()
    };
    let database = sqlite::database(MEMOS).await;
    let pool = of_its_own(MEMOS).await;
    // What is wrong with one row is said once: `update_many` and the others have the same error.
    let expected = ["save", "touch", "update", "update_if"];
    let models = rowlock::models![Stamped];
    assert_eq!(names(&report(&database.pool, models).await), expected);
    assert_eq!(names(&report(&pool, models).await), expected);
    let models = rowlock::models![Compared];
    assert_eq!(names(&report(&database.pool, models).await), ["save"]);
    assert_eq!(names(&report(&pool, models).await), ["save"]);
}

/// A column that is called as what stands beside the table where there are many rows.
#[derive(Clone, sqlx::FromRow, rowlock::Versioned, rowlock::Lockable, rowlock::FindOrCreate)]
#[rowlock(table = "numbered", unique(slug))]
struct Numbered {
    #[rowlock(key)]
    id: i64,
    slug: String,
    rowlock_n: i64,
    #[rowlock(version)]
    lock_version: i64,
}

const NUMBERED: &str = "CREATE TABLE numbered (id bigint PRIMARY KEY, slug text NOT NULL UNIQUE, rowlock_n bigint NOT NULL, lock_version bigint NOT NULL)";

#[tokio::test]
async fn a_name_that_only_many_rows_do_not_take_is_found() {
    let models = rowlock::models![Numbered];
    let database = sqlite::database(NUMBERED).await;
    let found = report(&database.pool, models).await;
    let (error, note) = (Level::Error, Level::Note);
    let named = |expected: &[(&str, Level)]| -> Vec<(String, Level)> {
        let named = expected
            .iter()
            .map(|(name, level)| ((*name).to_owned(), *level));
        named.collect()
    };
    let expected = [
        ("find_or_create_many", note),
        ("load_many", error),
        ("lock_many", error),
    ];
    assert_eq!(not_taken(&found), named(&expected), "{found}");
    // PostgreSQL writes many with one statement as well.
    let expected = [
        ("delete_many", note),
        ("find_or_create_many", note),
        ("insert_many", note),
        ("load_many", error),
        ("lock_many", error),
        ("save_many", note),
        ("update on Lanes", note),
        ("update_many", note),
        ("upsert_many", note),
    ];
    let pool = of_its_own(NUMBERED).await;
    let found = report(&pool, models).await;
    assert_eq!(not_taken(&found), named(&expected), "{found}");
}
