//! The models, each with its table.

use rowlock::{Counter, FindOrCreate, Versioned};

pub(crate) const DDL: &str = "
    CREATE TABLE documents (id {id}, author_id bigint NOT NULL, title text NOT NULL, body text NOT NULL,
        lock_version bigint NOT NULL);
    CREATE TABLE page_views (page_id bigint, day int, views bigint NOT NULL, seats bigint NOT NULL,
        PRIMARY KEY (page_id, day));
    CREATE TABLE tags (id {id}, tenant_id bigint NOT NULL, slug text NOT NULL, title text NOT NULL,
        UNIQUE (tenant_id, slug))";

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
pub(crate) struct Document {
    #[rowlock(key)]
    pub(crate) id: i64,
    pub(crate) author_id: i64,
    pub(crate) title: String,
    pub(crate) body: String,
    #[rowlock(version)]
    pub(crate) lock_version: i64,
}

/// The largest value that a bounded counter may reach here; no run gets there.
pub(crate) const SEATS: i64 = 1_000_000_000;

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
pub(crate) struct PageViews {
    #[rowlock(key)]
    pub(crate) page_id: i64,
    #[rowlock(key)]
    pub(crate) day: i32,
    #[rowlock(counter)]
    pub(crate) views: i64,
    #[rowlock(counter(min = 0, max = 1_000_000_000))]
    pub(crate) seats: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(tenant_id, slug))]
pub(crate) struct Tag {
    #[rowlock(key, generated)]
    pub(crate) id: i64,
    pub(crate) tenant_id: i64,
    pub(crate) slug: String,
    pub(crate) title: String,
}

pub(crate) fn new_tag(slug: String) -> NewTag {
    NewTag {
        tenant_id: 1,
        slug,
        title: "A tag with an ordinary title".to_owned(),
    }
}
