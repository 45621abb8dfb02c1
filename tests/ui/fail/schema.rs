//! What the database has not. The tables, and the test that finds the same in them, are in `tests/schema`.

#[path = "../../schema/mistakes.rs"]
mod mistakes;

use rowlock::Lockable;

/// What is no catalogue.
#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "documents", schema = "tests/schema/bad/unmerged.json")]
struct Unmerged {
    #[rowlock(key)]
    id: i64,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "documents", schema = "tests/schema/bad/newer.json")]
struct Newer {
    #[rowlock(key)]
    id: i64,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "documents", schema = "tests/schema/bad/cut.json")]
struct Cut {
    #[rowlock(key)]
    id: i64,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "documents", schema = "tests/schema/bad/missing.json")]
struct Missing {
    #[rowlock(key)]
    id: i64,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "documents", schema = "tests/schema/bad/text.json")]
struct Text {
    #[rowlock(key)]
    id: i64,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(
    table = "documents",
    schema = "tests/schema/bad/sqlite.json",
    backend(Postgres)
)]
struct OtherDatabase {
    #[rowlock(key)]
    id: i64,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "documents", schema = on)]
struct Malformed {
    #[rowlock(key)]
    id: i64,
}

/// Nothing is looked at.
#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "documents", schema = off)]
struct Off {
    #[rowlock(key)]
    id: i64,
    nowhere: String,
}

struct NoModel;

const _: rowlock::schema::Models = rowlock::models![NoModel, Off];

fn main() {}
