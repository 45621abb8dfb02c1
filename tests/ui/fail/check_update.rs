use rowlock::Versioned;

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "a", backend(Sqlite))]
struct Row {
    #[rowlock(key)]
    id: i64,
    #[rowlock(check)]
    name: String,
}

fn not_without_a_version(row: &Row, pool: &sqlx::SqlitePool) {
    let edit = row.edit();
    let _ = edit.update(pool);
    let _ = edit.touch(pool);
    let _ = Row::edit_at(1, 2);
}

fn main() {}
