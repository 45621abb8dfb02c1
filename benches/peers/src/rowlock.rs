//! rowlock, on a pool and on `Lanes`.

use rowlock::{Counter, FindOrCreate, Lanes, Versioned};
use sqlx::{Pool, Postgres, Sqlite};

use crate::harness::Peer;

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
pub(crate) struct Document {
    #[rowlock(key)]
    id: i64,
    author_id: i64,
    reviewer_id: Option<i64>,
    title: String,
    body: String,
    language: String,
    published: bool,
    words: i32,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags")]
struct Tag {
    #[rowlock(generated)]
    id: i64,
    #[rowlock(unique)]
    name: String,
}

macro_rules! peer {
    ($($source:ty),+) => {$(
        impl Peer for $source {
            type Document = Document;

            async fn add(&self, page: i64) -> i64 {
                PageViews::add_views(self, page, 1).await.unwrap()
            }

            async fn load(&self, id: i64) -> Document {
                Document::load(self, id).await.unwrap()
            }

            fn id(document: &Document) -> i64 {
                document.id
            }

            async fn update(&self, document: &mut Document) {
                document.words += 1;
                *document = document.update(self).await.unwrap();
            }

            async fn find(&self, name: String) -> i64 {
                Tag::find_or_create(self, NewTag { name }).await.unwrap().into_inner().id
            }
        }
    )+};
}

peer!(Pool<Postgres>, Lanes<Postgres>, Pool<Sqlite>, Lanes<Sqlite>);
