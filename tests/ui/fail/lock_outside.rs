//! A row lock without a transaction would be gone before the call returned; and a transaction that retries does not
//! stand inside one of sqlx, which it could not run again. Whether a connection is in a transaction is seen when it runs.

use rowlock::{Lockable, transaction};

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "stock")]
struct Sku {
    #[rowlock(key)]
    id: i64,
    left: i64,
    #[rowlock(version)]
    version: i64,
}

async fn on_a_pool(pool: sqlx::PgPool) {
    let _ = Sku::lock(&pool, 1).await;
}

async fn on_a_connection_of_a_pool(pool: sqlx::PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    let _ = Sku::lock(&mut connection, 1).nowait().await;
}

async fn many_on_a_pool(pool: sqlx::PgPool) {
    let _ = Sku::lock_many(&pool, [1, 2]).await;
}

async fn a_copy_on_a_pool(pool: sqlx::PgPool, sku: Sku) {
    let _ = sku.lock_checked(&pool).await;
}

async fn saved_on_a_pool(pool: sqlx::PgPool, mut sku: rowlock::row::Locked<Sku>) {
    let _ = sku.save(&pool).await;
}

async fn retried_inside_of_a_transaction(mut tx: sqlx::PgTransaction<'_>) {
    let _ = transaction(&mut tx);
}

async fn retried_on_a_connection(mut connection: sqlx::PgConnection) {
    let _ = transaction(&mut connection);
}

fn main() {}
