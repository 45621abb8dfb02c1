//! An `Option` that hides behind an alias.

use rowlock::{Counter, FindOrCreate, Versioned};

type Maybe<T> = Option<T>;

#[derive(Clone, sqlx::FromRow, Versioned, Counter)]
#[rowlock(table = "keys", existing_rows)]
struct Key {
    #[rowlock(key)]
    id: Maybe<i64>,
    #[rowlock(counter)]
    count: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "people", unique(tenant, email))]
struct Person {
    tenant: i64,
    email: Maybe<String>,
}

fn main() {}
