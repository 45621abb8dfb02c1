//! Unique keys.

use rowlock::FindOrCreate;

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(emial), unique(tenant, zzz))]
struct Misspelt {
    email: String,
    tenant: i64,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(email), unique(tenant, email))]
struct Nullable {
    tenant: i64,
    email: Option<String>,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users")]
struct NullableField {
    #[rowlock(unique)]
    email: Option<String>,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(tenant, email), unique(email, tenant), unique(email, email))]
struct Twice {
    tenant: i64,
    #[rowlock(unique)]
    email: String,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(id), unique(given), unique(version), unique(count))]
struct Roles {
    #[rowlock(key, generated)]
    id: i64,
    #[rowlock(default)]
    given: i64,
    #[rowlock(version)]
    version: i64,
    #[rowlock(counter)]
    count: i64,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users")]
struct FieldRoles {
    #[rowlock(unique, generated)]
    id: i64,
    #[rowlock(unique, default)]
    given: i64,
    #[rowlock(unique, version)]
    version: i64,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique(a, b), unique(a_and_b))]
struct SameMethod {
    a: i64,
    b: i64,
    a_and_b: i64,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users", unique, unique(), unique = "a", unique("a"), unique(a b))]
struct Malformed {
    a: i64,
}

#[derive(sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "users")]
struct ListOnField {
    #[rowlock(unique(a, b))]
    a: i64,
    b: i64,
}

fn main() {}
