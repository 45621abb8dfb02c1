//! Columns whose definition nobody knows.

use rowlock::{CreateTable, Versioned};

#[derive(Clone, sqlx::Type)]
#[sqlx(transparent)]
struct Title(String);

#[derive(Clone, sqlx::FromRow, CreateTable, Versioned)]
#[rowlock(table = "documents")]
struct Document {
    #[rowlock(key, generated)]
    id: String,
    title: Title,
    labels: Vec<String>,
    #[rowlock(default)]
    color: i64,
    #[rowlock(generated)]
    at: chrono::NaiveDateTime,
    #[rowlock(definition = "text NOT NULL; DROP TABLE documents")]
    note: String,
    #[rowlock(definition)]
    other: String,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, sqlx::FromRow, CreateTable)]
#[rowlock(table = "labels", backend(Postgres))]
struct Label {
    #[rowlock(key)]
    name: String,
    color: i64,
}

fn main() {
    let _ = Document::create_table::<sqlx::Postgres>();
    let _ = Label::create_table::<sqlx::Sqlite>();
}
