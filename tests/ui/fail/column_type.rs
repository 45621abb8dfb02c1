//! Types that a database cannot store.

use rowlock::{FindOrCreate, Versioned};

#[derive(Clone, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "orders", unique(number))]
struct Order {
    #[rowlock(key, generated)]
    id: i64,
    number: i64,
    total: u64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "lists", backend(Sqlite))]
struct List {
    #[rowlock(key)]
    id: i64,
    tags: Vec<String>,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "sizes", backend(Postgres))]
struct Size {
    #[rowlock(key)]
    id: i64,
    width: u16,
    unit: char,
    #[rowlock(version)]
    version: i64,
}

fn main() {}
