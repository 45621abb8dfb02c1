//! A unique index that is missing, while others change the schema.

use rowlock::FindOrCreate;
use rowlock::row::CreateError;
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::database;

#[derive(Debug, Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(name))]
struct Tag {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
}

/// SQLite reads freed memory when a prepared EXPLAIN is run after its connection has read another schema, which ends the process on some
/// days: so none may stay prepared.
#[tokio::test]
async fn it_is_told_after_any_migration() {
    let database = database("CREATE TABLE tags (id INTEGER PRIMARY KEY, name text NOT NULL, other text NOT NULL DEFAULT 0 UNIQUE)").await;
    let mut app = database.pool.acquire().await.unwrap();
    let mut migration = database.pool.acquire().await.unwrap();
    for number in 0..50 {
        let table = format!("CREATE TABLE t{number} (a int, b text UNIQUE)");
        migration.execute(AssertSqlSafe(table)).await.unwrap();
        app.execute(sqlx::query("SELECT count(*) FROM tags"))
            .await
            .unwrap();
        let new = NewTag {
            name: "rust".to_owned(),
        };
        let created = Tag::create(&mut *app, new).await;
        let Err(CreateError::MissingUniqueIndex(..)) = created else {
            panic!("{number}: {created:?}");
        };
    }
    // The SELECT, and two that ask which indexes there are.
    assert_eq!(app.cached_statements_size(), 3);
}
