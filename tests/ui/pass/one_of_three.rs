//! A struct that derives one of them and carries the options of the others; and keys and types of all kinds.

#![deny(warnings)]
#![allow(dead_code)]

use chrono::NaiveDate;
use rowlock::{Counter, FindOrCreate, Lockable, Versioned};

macro_rules! with_all_options {
    ($name:ident, $derive:ident) => {
        #[derive(Clone, sqlx::FromRow, $derive)]
        #[rowlock(
            table = "articles",
            unique(tenant, slug),
            existing_rows,
            new = "Unused",
            backend(Sqlite, Postgres)
        )]
        struct $name {
            #[rowlock(key, generated)]
            id: i64,
            tenant: i64,
            slug: String,
            #[rowlock(default)]
            at: i64,
            #[rowlock(counter(min = -1, max = 100))]
            likes: i32,
            #[rowlock(version)]
            lock_version: i64,
        }
    };
}

with_all_options!(OnlyVersioned, Versioned);
with_all_options!(OnlyCounter, Counter);
with_all_options!(OnlyFindOrCreate, FindOrCreate);
with_all_options!(OnlyLockable, Lockable);

/// Only PostgreSQL has arrays.
#[derive(Clone, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "posts", backend(Postgres))]
struct Post {
    #[rowlock(key)]
    id: i64,
    #[rowlock(unique)]
    slug: String,
    tags: Vec<String>,
    #[rowlock(version)]
    version: i32,
}

/// A key of several columns, and nothing to write.
#[derive(Clone, sqlx::FromRow, Versioned, Counter, Lockable)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    site: String,
    #[rowlock(key)]
    day: NaiveDate,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(counter(min = -9223372036854775808, max = 5))]
    others: i16,
    #[rowlock(version)]
    version: i64,
}

/// Neither a version nor anything to write, and no derive besides.
#[derive(sqlx::FromRow, Lockable)]
#[rowlock(table = "turns")]
struct Turn {
    #[rowlock(key)]
    id: i64,
}

async fn calls(pool: sqlx::PgPool, day: NaiveDate) {
    drop(PageViews::add_views(&pool, ("a", day), 1).await);
    drop(PageViews::add_others_many(&pool, [(("a", day), 1)]).await);
    drop(PageViews::load(&pool, ("a", day)).await);
    drop(Post::find_by_slug(&pool, "a").await);
    let mut tx = pool.begin().await.unwrap();
    drop(PageViews::lock_many(&mut tx, [("a", day)]).await);
    drop(Turn::lock(&mut tx, 1).await.unwrap().save(&mut tx).await);
}
