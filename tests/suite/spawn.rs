//! Every public method can be awaited inside `tokio::spawn`, from a pool, a connection and a transaction.

use rowlock::{Counter, FindOrCreate, Versioned};

use super::{Db, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "articles", unique(tenant, slug), existing_rows)]
struct Article {
    #[rowlock(key, generated)]
    id: i64,
    tenant: i64,
    slug: String,
    title: String,
    #[rowlock(counter(min = 0))]
    likes: i32,
    #[rowlock(version)]
    lock_version: i64,
}

const DDL: &str = "CREATE TABLE articles (id {id}, tenant bigint NOT NULL, slug text NOT NULL, title text NOT NULL,
    likes int NOT NULL, lock_version bigint NOT NULL, UNIQUE (tenant, slug))";

fn new(slug: &str) -> NewArticle {
    NewArticle {
        tenant: 1,
        slug: slug.to_owned(),
        title: "a title".to_owned(),
    }
}

/// All methods in one body; `$db` is evaluated anew for each call.
macro_rules! all_methods {
    ($db:expr) => {{
        let article = Article::find_or_create($db, new("a"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!((article.likes, article.lock_version), (0, 0));
        let found = Article::find_by_tenant_and_slug($db, 1, "a").await.unwrap();
        assert_eq!(found.as_ref(), Some(&article));
        let article = Article::upsert($db, new("a")).await.unwrap();
        assert_eq!(article.lock_version, 1);
        let article = Article::load($db, article.id).await.unwrap();
        let article = Article {
            title: "changed".to_owned(),
            ..article
        }
        .update($db)
        .await
        .unwrap();
        let article = article.touch($db).await.unwrap();
        let mut edit = article.edit();
        edit.title.push('!');
        let article = edit.save($db).await.unwrap();
        assert_eq!(
            (article.title.as_str(), article.lock_version),
            ("changed!", 4)
        );
        let article = Article::update_with($db, article.id, |article| article.title.push('?'))
            .await
            .unwrap();
        assert_eq!(Article::add_likes($db, article.id, 2).await.unwrap(), 2);
        let totals = Article::add_likes_batch($db, [(article.id, 3), (article.id, -1)])
            .await
            .unwrap();
        assert_eq!(totals, [(article.id, 4)]);
        assert_eq!(
            Article::get($db, article.id).await.unwrap().unwrap().likes,
            4
        );
        let article = article.reload($db).await.unwrap();
        assert_eq!((article.likes, article.lock_version), (4, 5));
        article.delete($db).await.unwrap();
    }};
}

#[tokio::test]
async fn every_method_can_be_spawned() {
    let database = database(DDL).await;
    let pool = database.pool.clone();
    tokio::spawn(async move { all_methods!(&pool) })
        .await
        .unwrap();

    let mut connection = database.pool.acquire().await.unwrap();
    tokio::spawn(async move { all_methods!(&mut *connection) })
        .await
        .unwrap();

    let mut transaction: sqlx::Transaction<'static, Db> = database.pool.begin().await.unwrap();
    tokio::spawn(async move {
        all_methods!(&mut *transaction);
        transaction.commit().await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!(database.open_transactions().await, 0);
}
