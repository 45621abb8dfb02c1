//! What is repeated of a flattened struct, and what can be said of it.

use rowlock::{Counter, FindOrCreate, Guarded, Lockable, Versioned};

#[derive(Clone, sqlx::FromRow)]
struct Address {
    street: String,
    city: Option<String>,
}

#[derive(Clone, sqlx::FromRow, Versioned, Guarded, Lockable)]
#[rowlock(table = "people")]
struct NotRepeated {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    address: Address,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned, Guarded, Lockable, FindOrCreate)]
#[rowlock(table = "people", unique(street))]
struct WrongName {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(stret: String, city: Option<String>))]
    address: Address,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned, Guarded, Lockable, FindOrCreate)]
#[rowlock(table = "people", unique(id))]
struct OtherName {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(stret: String, city: Option<String>))]
    address: Address,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned, Guarded, Lockable)]
#[rowlock(table = "people")]
struct OtherType {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(street: i64, city: Option<String>))]
    address: Address,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "people")]
struct Options {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(unique, columns(street: String, city: Option<String>))]
    address: Address,
    #[sqlx(flatten)]
    #[rowlock(on_update = "now()", version, columns(changed: i64))]
    changed: Changed,
    #[sqlx(flatten)]
    #[rowlock(columns(#[rowlock(counter)] seen: i64))]
    seen: Seen,
    #[rowlock(columns(street: String))]
    plain: String,
    #[sqlx(flatten)]
    #[rowlock(columns(String))]
    malformed: Address,
    #[sqlx(flatten)]
    #[rowlock(columns())]
    empty: Address,
    #[sqlx(flatten)]
    #[rowlock(columns)]
    nothing: Address,
    #[sqlx(flatten)]
    #[rowlock(collumns(street: String))]
    misspelt: Address,
}

#[derive(Clone, sqlx::FromRow, Counter)]
#[rowlock(table = "people")]
struct Counted {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(street: String, city: Option<String>))]
    address: Address,
    #[rowlock(counter)]
    visits: i64,
}

#[derive(Clone, sqlx::FromRow, Guarded)]
#[rowlock(table = "people")]
struct Twice {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(street: String, city: Option<String>))]
    address: Address,
    city: Option<String>,
    #[sqlx(rename = "home_street")]
    street: String,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "people")]
struct Nested {
    #[rowlock(key)]
    id: i64,
    #[sqlx(flatten)]
    #[rowlock(columns(name: String, #[sqlx(flatten)] address: Address))]
    home: Home,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow)]
struct Home {
    name: String,
    #[sqlx(flatten)]
    address: Address,
}

#[derive(Clone, sqlx::FromRow)]
struct Changed {
    changed: i64,
}

#[derive(Clone, sqlx::FromRow)]
struct Seen {
    seen: i64,
}

async fn calls(pool: &sqlx::SqlitePool) {
    let _ = Twice::delete_if(pool, 1, Twice::STREET.eq("Elm")).await;
}

fn main() {}
