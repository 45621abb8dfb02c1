//! What a key cannot be.

use rowlock::{Counter, Versioned};

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "nullable")]
struct Nullable {
    #[rowlock(key)]
    id: Option<i64>,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "with_default")]
struct Default {
    #[rowlock(key, default)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "generated_and_default")]
struct Both {
    #[rowlock(key)]
    id: i64,
    #[rowlock(generated, default)]
    at: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "generated")]
struct Generated {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(counter)]
    count: i64,
}

#[derive(sqlx::FromRow, Counter)]
#[rowlock(table = "places")]
struct Place {
    #[rowlock(key)]
    latitude: f64,
    #[rowlock(counter)]
    count: i64,
}

fn main() {}
