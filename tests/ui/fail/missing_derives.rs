//! Derives that the struct or its fields need besides ours.

use rowlock::{Counter, Versioned};

#[derive(Clone, Versioned, Counter)]
#[rowlock(table = "no_from_row", existing_rows)]
struct NoFromRow {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    count: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(sqlx::FromRow, Versioned)]
#[rowlock(table = "no_clone")]
struct NoClone {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

async fn calls(pool: sqlx::SqlitePool, a: NoFromRow, b: NoClone) {
    let _ = a.update(&pool).await;
    let _ = b.update(&pool).await;
}

fn main() {}
