//! A model on a database that it is not for, and a key of the wrong type: the compiler's own texts, which lead to the
//! option that asked for the method.

use rowlock::Versioned;

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "posts", backend(Sqlite))]
struct Post {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

async fn wrong_database(pool: sqlx::PgPool, post: Post) {
    let _ = post.update(&pool).await;
}

async fn wrong_key(pool: sqlx::SqlitePool) {
    let _ = Post::load(&pool, "a").await;
}

fn main() {}
