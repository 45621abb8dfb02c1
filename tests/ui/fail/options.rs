//! Options that do not exist, are misplaced, repeated or malformed.

use rowlock::Versioned;

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "unknown", colour = "red", backends(Postgres))]
struct Unknown {
    #[rowlock(key, rename = "no")]
    id: i64,
    #[rowlock(versoin)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(version, key)]
struct Misplaced {
    #[rowlock(table = "misplaced")]
    id: i64,
    #[rowlock(existing_rows, backend(Sqlite), new = "A", crate = ::rowlock)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "repeated", table = "again", existing_rows, existing_rows, new = "A", new = "B")]
#[rowlock(backend(Sqlite), backend(Sqlite), crate = ::rowlock, crate = ::rowlock)]
struct Repeated {
    #[rowlock(key, key)]
    id: i64,
    #[rowlock(version)]
    #[rowlock(version)]
    version: i64,
    #[rowlock(generated, generated)]
    at: i64,
    #[rowlock(default, default)]
    by: i64,
    #[rowlock(counter, counter(min = 0))]
    count: i64,
    #[rowlock(unique, unique)]
    slug: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table, existing_rows = true, backend = Postgres, backend(), backend("Postgres"), backend(Postgress))]
struct Malformed {
    #[rowlock(key = 1)]
    id: i64,
    #[rowlock(version(yes))]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = malformed, new = "not ident", crate = "rowlock")]
struct MoreMalformed {
    #[rowlock]
    #[rowlock()]
    #[rowlock = "key"]
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "relative", crate = rowlock)]
struct Relative {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "half_typed", )]
struct HalfTyped {
    #[rowlock(key generated)]
    id: i64,
    #[rowlock(, version)]
    version: i64,
    #[rowlock("count")]
    count: i64,
    #[rowlock(default ; generated)]
    at: i64,
    #[rowlock(counter(min =))]
    seats: i64,
}

fn main() {}
