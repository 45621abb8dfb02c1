//! The attribute `#[rowlock_explore::test]` on functions of another shape.

use rowlock_explore::Database;

#[rowlock_explore::test]
fn not_async(_database: Database) {}

#[rowlock_explore::test]
async fn without_a_database() {}

#[rowlock_explore::test]
async fn with_more(_database: Database, _pool: sqlx::PgPool) {}

#[rowlock_explore::test]
async fn generic<T>(_database: Database) {}

#[rowlock_explore::test(multi_thread)]
async fn with_arguments(_database: Database) {}

fn main() {}
