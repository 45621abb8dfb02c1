//! What is written wrong on the first day.

use rowlock::{Counter, Tx, Versioned, transaction};

#[derive(Clone, sqlx::FromRow, Versioned, Counter)]
#[rowlock(table = "pages", existing_rows)]
struct Page {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(version)]
    version: i64,
}

async fn any_pool(pool: sqlx::AnyPool) {
    let _ = Page::load(&pool, 7).await;
}

async fn a_transaction_of_any(pool: sqlx::AnyPool) {
    let _ = transaction(&pool);
}

async fn async_block(pool: sqlx::PgPool) {
    let _ = transaction(&pool)
        .run(|_| async move { Ok::<_, rowlock::Error>(()) })
        .await;
}

async fn async_block_that_borrows(pool: sqlx::PgPool) {
    let _ = transaction(&pool)
        .run(|tx: &mut Tx<sqlx::Postgres>| async move {
            Page::load(&mut *tx, 7).await?;
            Ok::<_, rowlock::Error>(())
        })
        .await;
}

async fn used_twice(pool: sqlx::PgPool) {
    let _ = transaction(&pool)
        .run(async |tx| {
            let page = Page::load(tx, 7).await?;
            page.update(tx).await?;
            Ok::<_, rowlock::Error>(())
        })
        .await;
}

async fn counter_is_no_method(pool: sqlx::PgPool, page: Page) {
    let _ = page.add_views(&pool, 1).await;
}

fn main() {}
