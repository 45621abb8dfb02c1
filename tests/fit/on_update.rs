//! `on_update`: what every update sets, and `on_insert`: what every new row gets.

use rowlock::row::UpdateError;
use rowlock::{FindOrCreate, Guarded, Lockable, Versioned};

use super::{NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Lockable, Guarded, FindOrCreate)]
#[rowlock(table = "articles", unique(slug))]
struct Article {
    #[rowlock(key)]
    id: i64,
    slug: String,
    title: String,
    #[rowlock(on_insert = "abs(-42)")]
    token: i64,
    #[rowlock(on_update = "\"articles\".\"writes\" + 1")]
    writes: i64,
    #[rowlock(on_update = "CURRENT_TIMESTAMP")]
    updated_at: Option<chrono::DateTime<chrono::Utc>>,
    #[rowlock(version)]
    version: i32,
}

const ARTICLES: &str = "CREATE TABLE articles (id bigint PRIMARY KEY, slug text NOT NULL UNIQUE, title text NOT NULL, token bigint NOT NULL,
    writes bigint NOT NULL DEFAULT 100, updated_at {timestamp}, version integer NOT NULL)";

fn article(title: &str) -> Article {
    Article {
        id: 1,
        slug: "a".to_owned(),
        title: title.to_owned(),
        token: 0,
        writes: -1,
        updated_at: None,
        version: 9,
    }
}

async fn stored(pool: &Pool) -> Article {
    Article::load(pool, 1).await.unwrap()
}

#[tokio::test]
async fn an_insert_leaves_it_to_the_column_or_to_the_expression_for_new_rows() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let inserted = article("new").insert(pool).await.unwrap();
    assert_eq!((inserted.token, inserted.writes), (42, 100));
    assert_eq!((inserted.updated_at, inserted.version), (None, 0));
    assert_eq!(inserted, stored(pool).await);
}

/// Whatever is in the field; and the row that is returned has it.
#[tokio::test]
async fn each_update_sets_it_and_returns_it() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let mut row = article("new").insert(pool).await.unwrap();
    row.title = "update".to_owned();
    row.writes = -7;
    row.updated_at = None;
    let row = row.update(pool).await.unwrap();
    assert_eq!((row.writes, row.version), (101, 1));
    assert!(row.updated_at.is_some());
    assert_eq!(row, stored(pool).await);

    let row = row.touch(pool).await.unwrap();
    assert_eq!((row.writes, row.version), (102, 2));
    assert_eq!(row, stored(pool).await);

    let mut edit = row.edit();
    edit.title = "save".to_owned();
    let row = edit.save(pool).await.unwrap();
    assert_eq!((row.writes, row.version), (103, 3));
    assert_eq!(row, stored(pool).await);

    let mut edit = row.edit();
    edit.title = "only_if".to_owned();
    let row = edit.only_if(Article::WRITES.eq(103)).save(pool).await;
    assert_eq!(row.unwrap().writes, 104);

    let row = Article::update_with(pool, 1, |row| row.title = "update_with".to_owned()).await;
    assert_eq!(row.unwrap().writes, 105);

    let row = Article::edit_at(1, 5).set(Article::TITLE, "edit_at");
    assert_eq!(row.save(pool).await.unwrap().writes, 106);

    let row = Article::patch(pool, 1, |row| row.set(Article::TITLE, "patch")).await;
    assert_eq!(row.unwrap().writes, 107);
    let row = Article::update_if(pool, 1, Article::WRITES.eq(107), |row| {
        row.set(Article::TITLE, "update_if");
    });
    assert_eq!(row.await.unwrap().writes, 108);

    let new = NewArticle {
        id: 1,
        slug: "a".to_owned(),
        title: "upsert".to_owned(),
    };
    assert_eq!(Article::upsert(pool, new).await.unwrap().writes, 109);
    let row = stored(pool).await;
    assert_eq!((row.writes, row.title.as_str()), (109, "upsert"));
}

#[tokio::test]
async fn who_changes_nothing_writes_nothing() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let row = article("new").insert(pool).await.unwrap();
    let mut edit = row.edit();
    edit.writes = 5;
    assert!(edit.changed_fields().is_empty());
    assert_eq!(edit.save(pool).await.unwrap(), row);
    assert_eq!(Article::patch(pool, 1, |_| {}).await.unwrap(), row);
    assert_eq!(stored(pool).await, row);
}

#[tokio::test]
async fn the_save_of_a_locked_row_sets_it() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    article("new").insert(pool).await.unwrap();
    let saved = rowlock::transaction(pool)
        .run(async |tx| -> Result<_, rowlock::Error> {
            let mut row = Article::lock(&mut *tx, 1).await?;
            row.title = "locked".to_owned();
            row.save(&mut *tx).await?;
            assert_eq!(row.writes, 101);
            row.save(&mut *tx).await?;
            Ok(row.into_inner())
        })
        .await
        .unwrap();
    assert_eq!((saved.writes, saved.version), (102, 2));
    assert_eq!(saved, stored(pool).await);
}

/// A conflict has what the other one's update set.
#[tokio::test]
async fn a_merge_keeps_it() {
    let database = database(ARTICLES).await;
    let pool = &database.pool;
    let row = article("new").insert(pool).await.unwrap();
    let (mut mine, mut theirs) = (row.edit(), row.edit());
    mine.title = "mine".to_owned();
    theirs.slug = "theirs".to_owned();
    theirs.save(pool).await.unwrap();
    let Err(UpdateError::Stale(conflict)) = mine.save(pool).await else {
        panic!("it is stale");
    };
    assert_eq!(conflict.changed_fields(), ["slug"]);
    assert_eq!(conflict.current.writes, 101);
    let merged = conflict.merge().unwrap().save(pool).await.unwrap();
    assert_eq!(
        (merged.slug.as_str(), merged.title.as_str()),
        ("theirs", "mine")
    );
    assert_eq!(merged.writes, 102);
}

/// Named like its table, whose row a `save` without a version compares with the old one.
#[tokio::test]
async fn a_locked_row_without_a_version_sets_it() {
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
    #[rowlock(table = "hits")]
    struct Hit {
        #[rowlock(key)]
        id: i64,
        #[rowlock(on_update = "\"hits\".\"hits\" + 1")]
        hits: i64,
        page: String,
    }
    let database = database(
        "CREATE TABLE hits (id bigint PRIMARY KEY, hits bigint NOT NULL, page text NOT NULL); INSERT INTO hits VALUES (1, 0, 'a')",
    )
    .await;
    let mut tx = database.pool.begin().await.unwrap();
    let mut row = Hit::lock(&mut tx, 1).await.unwrap();
    row.save(&mut tx).await.unwrap();
    assert_eq!(row.hits, 1);
    row.save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(row.hits, 2);
    if NAME == "PostgreSQL" {
        let old =
            "CREATE FUNCTION old() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
            CREATE TRIGGER old BEFORE UPDATE ON hits FOR EACH ROW EXECUTE FUNCTION old()";
        sqlx::raw_sql(old).execute(&database.pool).await.unwrap();
        let mut tx = database.pool.begin().await.unwrap();
        let mut row = Hit::lock(&mut tx, 1).await.unwrap();
        row.page = "b".to_owned();
        let ignored = row.save(&mut tx).await.unwrap_err();
        assert!(
            matches!(ignored, rowlock::row::LockError::Ignored(_)),
            "{ignored:?}"
        );
    }
}
