//! A build that knows the tables: without the second migration this program does not compile.
//!
//! ```text
//! cargo run --example checked                         compares the file with what the migrations make, and creates a tag
//! ROWLOCK_SCHEMA=write cargo run --example checked    writes the file
//! ```
//!
//! `rowlock.schema.json` has what SQLite says of the tables after all migrations, and the derive reads it. Take `2_key.sql` out of `MIGRATIONS`,
//! write the file, and build again: the compiler says which index is missing, and prints the statement that makes it.
//!
//! A program with one database has the file beside its `Cargo.toml`, and needs no `schema = "…"`. The comparison is usually a test.

// In a program, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

mod model;

use anyhow::Result;
use sqlx::sqlite::SqlitePoolOptions;

use crate::model::Tag;

const MIGRATIONS: [&str; 2] = [
    include_str!("migrations/1_tags.sql"),
    include_str!("migrations/2_key.sql"),
];

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/examples/checked/rowlock.schema.json"
);

#[tokio::main]
async fn main() -> Result<()> {
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect("sqlite::memory:")
        .await?;
    for migration in MIGRATIONS {
        sqlx::raw_sql(migration).execute(&pool).await?;
    }
    rowlock::schema::check_file(&pool, FILE).await?;
    rowlock::verify(&pool, rowlock::models![Tag]).await?;

    let new = model::NewTag {
        tenant_id: 7,
        slug: "rust".to_owned(),
    };
    let tag = Tag::find_or_create(&pool, new).await?.into_inner();
    println!("The tables are what the model needs: {tag:?}");
    Ok(())
}
