//! sqlx, by hand.

use sqlx::{Database, Pool, Postgres, Sqlite};

use crate::harness::Peer;

pub(crate) const ADD: &str = "INSERT INTO page_views (page, views) VALUES ($1, $2)
    ON CONFLICT (page) DO UPDATE SET views = page_views.views + excluded.views RETURNING views";
pub(crate) const LOAD: &str = "SELECT id, author_id, reviewer_id, title, body, language, published, words, lock_version FROM documents WHERE id = $1";
pub(crate) const UPDATE: &str = "UPDATE documents SET author_id = $1, reviewer_id = $2, title = $3, body = $4, language = $5, published = $6, words = $7,
    lock_version = lock_version + 1 WHERE id = $8 AND lock_version = $9 RETURNING lock_version";
pub(crate) const FIND: &str = "SELECT id, name FROM tags WHERE name = $1";

/// The same pool twice, or one of a single connection that writes.
#[derive(Debug)]
pub(crate) struct ByHand<DB: Database> {
    pub(crate) writer: Pool<DB>,
    pub(crate) readers: Pool<DB>,
}

impl<DB: Database> Clone for ByHand<DB> {
    fn clone(&self) -> Self {
        let Self { writer, readers } = self;
        Self {
            writer: writer.clone(),
            readers: readers.clone(),
        }
    }
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Document {
    pub(crate) id: i64,
    pub(crate) author_id: i64,
    pub(crate) reviewer_id: Option<i64>,
    pub(crate) title: String,
    pub(crate) body: String,
    pub(crate) language: String,
    pub(crate) published: bool,
    pub(crate) words: i32,
    pub(crate) lock_version: i64,
}

#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Tag {
    pub(crate) id: i64,
    pub(crate) name: String,
}

macro_rules! peer {
    ($($database:ty),+) => {$(
        impl Peer for ByHand<$database> {
            type Document = Document;

            async fn add(&self, page: i64) -> i64 {
                sqlx::query_scalar(ADD).bind(page).bind(1_i64).fetch_one(&self.writer).await.unwrap()
            }

            async fn load(&self, id: i64) -> Document {
                sqlx::query_as(LOAD).bind(id).fetch_one(&self.readers).await.unwrap()
            }

            fn id(document: &Document) -> i64 {
                document.id
            }

            async fn update(&self, document: &mut Document) {
                document.words += 1;
                document.lock_version = sqlx::query_scalar(UPDATE)
                    .bind(document.author_id)
                    .bind(document.reviewer_id)
                    .bind(&document.title)
                    .bind(&document.body)
                    .bind(&document.language)
                    .bind(document.published)
                    .bind(document.words)
                    .bind(document.id)
                    .bind(document.lock_version)
                    .fetch_one(&self.writer)
                    .await
                    .unwrap();
            }

            async fn find(&self, name: String) -> i64 {
                let tag: Tag = sqlx::query_as(FIND).bind(&name).fetch_one(&self.readers).await.unwrap();
                assert_eq!(tag.name, name);
                tag.id
            }
        }
    )+};
}

peer!(Postgres, Sqlite);
