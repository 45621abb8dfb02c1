//! What a derive cannot do without.

use rowlock::{Counter, FindOrCreate, Versioned};

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "invoices")]
struct Invoice {
    #[rowlock(key)]
    id: i64,
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "orders")]
struct Order {
    #[rowlock(key)]
    id: i64,
    total: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "letters")]
struct Letter {
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "visits")]
struct Visit {
    page: i64,
    #[rowlock(counter)]
    count: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
struct Category {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "seats")]
struct Seat {
    #[rowlock(key)]
    id: i64,
    free: i64,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users")]
struct User {
    #[rowlock(key, generated)]
    id: i64,
    email: String,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "points")]
struct Point {
    #[rowlock(key)]
    id: i64,
    x: i64,
}

fn main() {}
