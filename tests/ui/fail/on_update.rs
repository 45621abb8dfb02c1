use rowlock::{FindOrCreate, Guarded, Lockable, Versioned};

// What only an upsert has: said once.
#[derive(Clone, sqlx::FromRow, FindOrCreate, Guarded, Lockable)]
#[rowlock(table = "a", unique(name))]
struct OfAnUpsert {
    #[rowlock(key, generated)]
    id: i64,
    name: String,
    #[rowlock(on_update = "a.hits + excluded.hits")]
    hits: i64,
}

// Read back after a write.
#[derive(Clone, sqlx::FromRow, Versioned, Lockable)]
#[rowlock(table = "a")]
struct ReadBack {
    #[rowlock(key)]
    id: i64,
    #[rowlock(on_update = "hits + 1")]
    #[sqlx(try_from = "i64")]
    hits: Hits,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::Type)]
#[sqlx(transparent)]
struct Hits(i64);

impl From<i64> for Hits {
    fn from(hits: i64) -> Self {
        Self(hits)
    }
}

fn main() {}
