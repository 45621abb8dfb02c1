use rowlock::{Guarded, Versioned};

#[derive(Clone, sqlx::FromRow, Versioned, Guarded)]
#[rowlock(table = "documents", backend(Sqlite))]
struct Document {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "pages", backend(Sqlite))]
struct Page {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

async fn edits(pool: &sqlx::SqlitePool) {
    let _ = Document::edit_at(7, 0).set(Document::VERSION, 1);
    let _ = Document::edit_at(7, 0).set(Document::TITLE, 1);
    let _ = Page::edit_at(7, 0).save(pool).await;
}

fn main() {}
