//! A type of the user's that sqlx does not know.

use rowlock::Versioned;

#[derive(Clone, PartialEq)]
struct Status;

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "orders")]
struct Order {
    #[rowlock(key)]
    id: i64,
    status: Status,
    #[rowlock(version)]
    version: i64,
}

async fn calls(pool: sqlx::SqlitePool, order: Order) {
    let _ = order.update(&pool).await;
}

fn main() {}
