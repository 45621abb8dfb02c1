//! On SQLite a lane is one kept connection: nothing waits for others, all else is the same.

use rowlock::{Counter, Lanes, Versioned};
use rowlock_tests::sqlite::database;

use super::at_once;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
struct Document {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(version)]
    version: i64,
}

#[tokio::test]
async fn calls_run_one_after_the_other() {
    let database = database(
        "CREATE TABLE page_views (page integer PRIMARY KEY, views integer NOT NULL);
         CREATE TABLE documents (id integer PRIMARY KEY, title text NOT NULL, version integer NOT NULL);
         INSERT INTO documents VALUES (1, 'title', 0)",
    )
    .await;
    let lanes = Lanes::new(&database.pool, 1).await.unwrap();
    let mut totals = at_once((0..64).map(|_| {
        let lanes = lanes.clone();
        async move { PageViews::add_views(&lanes, 1, 1).await.unwrap() }
    }))
    .await;
    totals.sort_unstable();
    assert_eq!(totals, (1..=64).collect::<Vec<_>>());
    let document = Document::load(&lanes, 1).await.unwrap();
    let outcomes = at_once((0..16).map(|_| {
        let (lanes, document) = (lanes.clone(), document.clone());
        async move { document.update(&lanes).await }
    }));
    assert_eq!(
        outcomes
            .await
            .iter()
            .filter(|outcome| outcome.is_ok())
            .count(),
        1
    );
    lanes.close().await;
}
