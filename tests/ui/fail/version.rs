//! What a version field cannot be.

use rowlock::Versioned;


#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "two")]
struct Two {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    a: i64,
    #[rowlock(version)]
    b: i32,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "wrong_type")]
struct WrongType {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: u8,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "text")]
struct Text {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: String,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "nullable")]
struct Nullable {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: Option<i64>,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "also_key")]
struct AlsoKey {
    #[rowlock(key, version)]
    id: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "generated")]
struct Generated {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version, generated)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "with_default")]
struct Default {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version, default)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "converted")]
struct Converted {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    #[sqlx(try_from = "i32")]
    version: i64,
}

fn main() {}
