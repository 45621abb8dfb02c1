//! Options of sqlx's derive that a model cannot have.

use rowlock::Versioned;

#[derive(Clone, sqlx::FromRow)]
struct Address {
    street: String,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "people")]
struct Person {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    address: Address,
    #[rowlock(version)]
    #[sqlx(try_from = "i32")]
    version: i64,
    #[rowlock(generated)]
    #[sqlx(json(nullable))]
    tags: Option<Vec<String>>,
    #[sqlx(skip)]
    #[rowlock(generated)]
    cached: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "people", unique(tags))]
struct Json {
    #[rowlock(key)]
    #[sqlx(json)]
    id: i64,
    #[sqlx(json)]
    tags: Vec<String>,
    #[rowlock(version)]
    #[sqlx(json)]
    version: i64,
}

fn main() {}
