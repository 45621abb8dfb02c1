//! `edit_at`: an edit at a version that the caller knows, without a load.

use std::sync::Arc;

use rowlock::row::EditAtError;
use rowlock::{Guarded, Versioned};
use sqlx::types::Json;
use tokio::sync::Barrier;

use super::{NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Guarded)]
#[rowlock(table = "articles")]
struct Article {
    #[rowlock(key)]
    site: String,
    #[rowlock(key)]
    slug: String,
    title: String,
    body: Option<String>,
    #[sqlx(json)]
    tags: Vec<String>,
    #[rowlock(version)]
    version: i16,
}

const ARTICLES: &str = "CREATE TABLE articles (
        site text, slug text, title text NOT NULL, body text, tags {json} NOT NULL, version smallint NOT NULL, PRIMARY KEY (site, slug)
    );
    INSERT INTO articles VALUES ('a', 'one', 'One', 'text', '[]', 4)";

const ONE: (&str, &str) = ("a", "one");

async fn article(pool: &Pool) -> Article {
    Article::load(pool, ONE).await.unwrap()
}

#[tokio::test]
async fn what_is_set_is_written_if_the_version_matches() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let saved = Article::edit_at(ONE, 4)
        .set(Article::TITLE, "Uno")
        .set(Article::BODY, None)
        .set(Article::TAGS, Json(vec!["x".to_owned()]))
        .save(pool)
        .await
        .unwrap();
    assert_eq!(
        (saved.title.as_str(), saved.body.as_deref(), saved.version),
        ("Uno", None, 5)
    );
    assert_eq!(saved.tags, ["x"]);
    assert_eq!(saved, article(pool).await);
    let body = Article::edit_at(ONE, 5)
        .set(Article::BODY, Article::TITLE)
        .save(pool);
    assert_eq!(body.await.unwrap().body.as_deref(), Some("Uno"));
}

#[tokio::test]
async fn another_version_is_stale_and_has_the_row() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let error = Article::edit_at(ONE, 3)
        .set(Article::TITLE, "Uno")
        .save(pool)
        .await;
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "edit_at of articles (site = …, slug = …): the row was changed since it was read: its version is 4, expected 3"
    );
    assert!(!format!("{error:?}").contains("text"), "{error:?}");
    let EditAtError::Stale(outdated) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (outdated.expected_version, outdated.current_version),
        (3, 4)
    );
    assert_eq!(outdated.current, article(pool).await);
    assert_eq!(outdated.current.title, "One");
    let error = Article::edit_at(("a", "two"), 3)
        .set(Article::TITLE, "Uno")
        .save(pool)
        .await;
    assert!(matches!(error, Err(EditAtError::Gone(_))), "{error:?}");
    assert!(
        rowlock::Error::from(Article::edit_at(ONE, 3).save(pool).await.unwrap_err()).is_conflict()
    );
}

#[tokio::test]
async fn without_a_value_the_version_is_checked_and_nothing_is_written() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let title: Option<&str> = None;
    let same = Article::edit_at(ONE, 4)
        .set_if_some(Article::TITLE, title)
        .save(pool);
    assert_eq!(same.await.unwrap(), article(pool).await);
    let stale = Article::edit_at(ONE, 5)
        .set_if_some(Article::TITLE, title)
        .save(pool);
    assert!(matches!(stale.await, Err(EditAtError::Stale(_))));
    let saved = Article::edit_at(ONE, 4)
        .set_if_some(Article::TITLE, title)
        .set_if_some(Article::BODY, Some(None))
        .save(pool);
    let saved = saved.await.unwrap();
    assert_eq!(
        (saved.title.as_str(), saved.body, saved.version),
        ("One", None, 5)
    );
}

#[tokio::test]
async fn mistakes_and_limits_are_errors() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let twice = Article::edit_at(ONE, 4)
        .set(Article::TITLE, "a")
        .set(Article::TITLE, "b")
        .save(pool);
    let error = twice.await.unwrap_err();
    assert!(
        matches!(&error, EditAtError::SetTwice(_, column) if column.contains("title")),
        "{error:?}"
    );
    // An ETag that nobody was given.
    let highest = async || {
        let edit = Article::edit_at(ONE, i16::MAX);
        edit.set(Article::TITLE, "a").save(pool).await
    };
    let made_up = highest().await;
    assert!(matches!(made_up, Err(EditAtError::Stale(_))), "{made_up:?}");
    sqlx::query("UPDATE articles SET version = 32767")
        .execute(pool)
        .await
        .unwrap();
    let overflow = highest().await;
    assert!(
        matches!(overflow, Err(EditAtError::VersionOverflow(_))),
        "{overflow:?}"
    );
    sqlx::query("UPDATE articles SET version = 4")
        .execute(pool)
        .await
        .unwrap();
    let skip = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER skip BEFORE UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION skip()"
        }
        _ => "CREATE TRIGGER skip BEFORE UPDATE ON articles BEGIN SELECT RAISE(IGNORE); END",
    };
    sqlx::raw_sql(skip).execute(pool).await.unwrap();
    let ignored = Article::edit_at(ONE, 4)
        .set(Article::TITLE, "a")
        .save(pool)
        .await;
    assert!(
        matches!(ignored, Err(EditAtError::Ignored(_))),
        "{ignored:?}"
    );
    assert_eq!(article(pool).await.title, "One");
}

/// Eight requests with the same ETag. How many of them were told that theirs was written.
async fn requests<F>(answer: impl Fn(Pool, i16) -> F) -> usize
where
    F: Future<Output = bool> + Send + 'static,
{
    let database = database(ARTICLES).await;
    let barrier = Arc::new(Barrier::new(8));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (barrier, answer) = (barrier.clone(), answer(database.pool.clone(), 4));
            tokio::spawn(async move {
                barrier.wait().await;
                answer.await
            })
        })
        .collect();
    let mut written = 0;
    for task in tasks {
        written += usize::from(task.await.unwrap());
    }
    written
}

#[tokio::test]
async fn of_many_requests_with_one_etag_one_is_answered_with_yes() {
    let answer = |pool: Pool, version| async move {
        match Article::edit_at(ONE, version)
            .set(Article::TITLE, "Uno")
            .save(&pool)
            .await
        {
            Ok(_) => true,
            Err(EditAtError::Stale(outdated)) => {
                assert_eq!(outdated.current.version, 5);
                false
            }
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(requests(answer).await, 1);
}

/// The usual handler compares the ETag with what it reads, then writes.
#[tokio::test]
async fn the_naive_twin_answers_all_of_them_with_yes() {
    let compared = Arc::new(Barrier::new(8));
    let answer = |pool: Pool, version| {
        let compared = compared.clone();
        async move {
            let matches = article(&pool).await.version == version;
            compared.wait().await;
            let update = "UPDATE articles SET title = 'Uno', version = version + 1";
            matches
                && sqlx::query(update)
                    .execute(&pool)
                    .await
                    .unwrap()
                    .rows_affected()
                    == 1
        }
    };
    assert_eq!(requests(answer).await, 8);
}

#[tokio::test]
async fn it_is_part_of_the_callers_transaction() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    let save = Article::edit_at(ONE, 4)
        .set(Article::TITLE, "Uno")
        .save(&mut *tx);
    save.await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(article(pool).await.version, 4);
    let slug = "one".to_owned();
    let saved = rowlock::transaction(pool).run(async |tx| -> Result<_, rowlock::Error> {
        let edit = Article::edit_at(("a", &slug), 4).set(Article::TITLE, "Uno");
        Ok(edit.save(tx).await?)
    });
    assert_eq!(saved.await.unwrap().version, 5);
}
