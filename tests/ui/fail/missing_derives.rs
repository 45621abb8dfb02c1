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

#[derive(Clone, sqlx::Type)]
#[sqlx(type_name = "text")]
enum Color {
    Red,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "no_partial_eq")]
struct NoPartialEq {
    #[rowlock(key)]
    id: i64,
    color: Color,
    #[rowlock(version)]
    version: i64,
}

async fn calls(pool: sqlx::SqlitePool, a: NoFromRow, b: NoClone, c: NoPartialEq) {
    let _ = a.update(&pool).await;
    let _ = b.update(&pool).await;
    let _ = c.update(&pool).await;
}

fn main() {}
