//! What `Guarded` asks of a struct, and what its fields refuse.

use rowlock::{Fence, Guarded, Versioned};

#[derive(sqlx::FromRow, Guarded)]
#[rowlock(table = "letters")]
struct Letter {
    id: i64,
    text: String,
}

#[derive(Clone, sqlx::FromRow, Versioned, Guarded)]
#[rowlock(table = "reports")]
struct Report {
    #[rowlock(key)]
    id: i64,
    text: String,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned, Guarded)]
#[rowlock(table = "pages")]
struct Page {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(generated)]
    words: i32,
    #[rowlock(version)]
    version: i64,
}

async fn calls(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
    // The calls of a struct with mistakes do not fail as well.
    let open = Letter::TEXT.eq("open");
    let letter = Letter::update_if(&pool, 1, open, |row| row.set(Letter::TEXT, "sent")).await?;
    drop(letter.text);
    drop(Letter::patch(&pool, 1, |row| row.set(Letter::ID, 2)).await?.id);
    // What is not the caller's to write.
    Page::patch(&pool, 1, |row| row.set(Page::ID, 2)).await?;
    Page::patch(&pool, 1, |row| row.set(Page::VERSION, 2)).await?;
    Page::patch(&pool, 1, |row| row.set(Page::WORDS, 2)).await?;
    Page::patch(&pool, 1, |row| row.set(Page::VIEWS, 2)).await?;
    Page::patch(&pool, 1, |row| row.add(Page::WORDS, 2)).await?;
    // Other types, other models.
    Page::patch(&pool, 1, |row| row.set(Page::TITLE, 2)).await?;
    Page::delete_if(&pool, 1, Page::TITLE.eq(2)).await?;
    Page::delete_if(&pool, 1, Page::TITLE.is_null()).await?;
    Page::delete_if(&pool, 1, Other::NAME.eq("a")).await?;
    Page::delete_if(&pool, 1, "title = 'a'").await?;
    Ok(())
}

#[derive(sqlx::FromRow, Guarded)]
#[rowlock(table = "twins")]
#[allow(non_snake_case)]
struct Twins {
    #[rowlock(key)]
    id: i64,
    b: i64,
    B: i64,
}

#[derive(sqlx::FromRow, Guarded)]
#[rowlock(table = "others")]
struct Other {
    #[rowlock(key)]
    id: i64,
    name: String,
}

fn main() {}
