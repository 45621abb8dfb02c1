//! Methods of the user's that have the name of a generated one.

use rowlock::{Counter, FindOrCreate, Versioned};

#[derive(Clone, sqlx::FromRow, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "posts", unique(slug), existing_rows)]
struct Post {
    #[rowlock(key)]
    id: i64,
    slug: String,
    #[rowlock(counter)]
    likes: i64,
    #[rowlock(version)]
    version: i64,
}

impl Post {
    fn update(&self) {}
    fn add_likes() {}
    fn find_by_slug() {}
}

fn main() {}
