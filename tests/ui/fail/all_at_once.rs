//! Four derives, several mistakes: each is said once, and nothing that uses the struct fails as well.

use rowlock::{Counter, FindOrCreate, Lockable, Versioned};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter, FindOrCreate, Lockable)]
#[rowlock(tabel = "articles", unique(tenant, slugg), existing_rows)]
struct Article {
    id: i64,
    tenant: i64,
    slug: String,
    #[rowlock(unique)]
    number: Option<i32>,
    #[rowlock(counter(min = 5, max = 1))]
    likes: i32,
    #[rowlock(counter)]
    score: f64,
    #[rowlock(version)]
    lock_version: u8,
}

fn spawned<T: Send>(future: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
    future
}

async fn calls(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
    let article = Article::load(&pool, 7).await?;
    let article = article.reload(&pool).await?;
    let article = article.update(&pool).await?;
    let article = spawned(article.touch(&pool)).await?;
    let mut edit = article.edit();
    edit.slug.push('!');
    let article = edit.save(&pool).await?;
    match article.update(&pool).await {
        Err(rowlock::row::UpdateError::Stale(conflict)) => drop(conflict.merge()),
        other => drop(other?),
    }
    Article::update_with(&pool, 7, |article| article.slug.push('!')).await?;
    article.delete(&pool).await?;

    let likes: i32 = Article::add_likes(&pool, 7, 1).await?;
    Article::add_likes_many(&pool, [(7, likes.into()), (8, 2)]).await?;
    let row: Option<Article> = Article::get(&pool, 7).await?;

    let new = NewArticle {
        id: 1,
        tenant: 1,
        slug: "a".to_owned(),
        number: None,
    };
    let found = Article::find_or_create_by_number(&pool, new.clone()).await?;
    assert_eq!(row.as_ref(), Some(&*found));
    let found = Article::find_by_number(&pool, Some(3)).await?;
    assert_eq!(row, found);
    let mut tx = pool.begin().await?;
    let mut locked = Article::lock(&mut tx, 7).await?;
    locked.slug.push('!');
    locked.save(&mut tx).await?;
    drop(Article::lock_many(&mut tx, [7, 8]).await?.len());
    drop(spawned(locked.into_inner().lock_checked(&mut tx)).await?);
    Ok(())
}

fn main() {}
