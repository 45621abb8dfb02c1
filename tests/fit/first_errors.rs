//! What goes wrong on the first day, at run time: the error says what to do.

use rowlock::row::{CounterError, UpdateError};
use rowlock::tx::{Erased, TransactionError};
use rowlock::{Counter, Fault, Versioned, transaction};

use super::{Pool, database};

#[derive(Debug, Clone, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    site: i64,
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "notes")]
struct Note {
    #[rowlock(key)]
    id: i64,
    text: i64,
    #[rowlock(version)]
    version: i64,
}

const VIEWS: &str =
    "CREATE TABLE page_views (site bigint NOT NULL, page bigint NOT NULL, views bigint NOT NULL)";
const NOTES: &str =
    "CREATE TABLE notes (id bigint PRIMARY KEY, text text NOT NULL, version bigint NOT NULL);
    INSERT INTO notes VALUES (1, 'not a number', 0)";

#[tokio::test]
async fn a_counter_without_its_unique_index_says_so() {
    let database = database(VIEWS).await;
    let pool = &database.pool;
    let told = |error: CounterError| {
        assert!(
            matches!(error, CounterError::MissingUniqueIndex(_, "page,site")),
            "{error:?}"
        );
        error.to_string()
    };
    let error = PageViews::add_views(pool, (1, 2), 1).await.unwrap_err();
    assert_eq!(
        told(error),
        "add_views of page_views (site = 1, page = 2): the database has no unique index on (page,site); create one"
    );
    let many = PageViews::add_views_many(pool, [((1, 2), 1), ((1, 3), 1)]).await;
    told(many.unwrap_err());
    let in_transaction = transaction(pool)
        .run(async |tx| PageViews::add_views(tx, (1, 2), 1).await)
        .await;
    let Err(TransactionError::Failed(error)) = in_transaction else {
        panic!("{in_transaction:?}");
    };
    told(error);

    sqlx::raw_sql("CREATE UNIQUE INDEX page_views_key ON page_views (page, site)")
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(PageViews::add_views(pool, (1, 2), 1).await.unwrap(), 1);
}

/// `main` prints `Debug`.
#[tokio::test]
async fn the_debug_text_has_the_operation_the_table_and_the_column() {
    let database = database(NOTES).await;
    let error = Note::load(&database.pool, 1).await.unwrap_err();
    let text = format!("{error:?}");
    for part in ["load of notes (id = 1)", "column", "text"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("not a number"), "{text}");
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The outer `?` takes the error of a transaction whose closure returned one without a type.
async fn in_a_box(pool: &Pool) -> Result<i64, AnyError> {
    let kept = transaction(pool)
        .run(async |tx| -> Result<i64, AnyError> {
            let number: i64 = sqlx::query_scalar("SELECT CAST(7 AS bigint)")
                .fetch_one(&mut *tx)
                .await?;
            std::fs::metadata(".")?;
            Ok(number)
        })
        .await?;
    Ok(kept)
}

async fn with_anyhow(pool: &Pool) -> anyhow::Result<()> {
    transaction(pool)
        .run(async |tx| -> anyhow::Result<()> {
            sqlx::query("SELECT missing FROM page_views")
                .execute(&mut *tx)
                .await?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// Nothing here names the closure's error: the result does.
async fn told_by_the_result(pool: &Pool) -> Result<i64, TransactionError<rowlock::Error>> {
    transaction(pool)
        .run(async |tx| Ok(PageViews::add_views(tx, (1, 2), 1).await?))
        .await
}

#[tokio::test]
async fn errors_without_a_type_go_through_the_outer_question_mark() {
    let database = database(VIEWS).await;
    let pool = &database.pool;
    assert_eq!(in_a_box(pool).await.unwrap(), 7);

    let error = with_anyhow(pool).await.unwrap_err();
    let outer: &TransactionError<Erased<anyhow::Error>> = error.downcast_ref().unwrap();
    let TransactionError::Failed(inner) = outer else {
        panic!("{outer:?}");
    };
    assert!(inner.downcast_ref::<sqlx::Error>().is_some());
    assert_eq!(Fault::in_chain(error.as_ref()), Some(Fault::Schema));

    let error = told_by_the_result(pool).await.unwrap_err();
    assert!(matches!(error, TransactionError::Failed(_)), "{error:?}");
}

#[tokio::test]
async fn a_second_write_with_the_same_copy_is_told_what_to_use() {
    let database = database(
        "CREATE TABLE notes (id bigint PRIMARY KEY, text bigint NOT NULL, version bigint NOT NULL);
         INSERT INTO notes VALUES (1, 7, 0)",
    )
    .await;
    let note = Note::load(&database.pool, 1).await.unwrap();
    note.update(&database.pool).await.unwrap();
    let stale = note.update(&database.pool).await.unwrap_err();
    assert!(matches!(stale, UpdateError::Stale(_)));
    let text = stale.to_string();
    assert!(text.contains("use the row that it returned"), "{text}");
}
