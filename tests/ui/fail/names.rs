//! Names of tables and columns.

use rowlock::Versioned;

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "a.b.c")]
struct TwoDots {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "main.")]
struct EmptyPart {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "a_table_name_that_is_longer_than_the_sixty_three_bytes_of_postgresql")]
struct LongTable {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "with\0nul")]
struct Control {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "columns")]
struct Columns {
    #[rowlock(key)]
    id: i64,
    a_column_name_that_is_longer_than_the_sixty_three_bytes_of_postgresql: i64,
    #[sqlx(rename = "another_column_name_that_is_longer_than_the_sixty_three_bytes")]
    renamed: i64,
    #[sqlx(rename = "")]
    empty: i64,
    #[sqlx(rename = "id")]
    other_id: i64,
    #[rowlock(version)]
    version: i64,
}

fn main() {}
