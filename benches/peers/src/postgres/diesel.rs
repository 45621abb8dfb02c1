//! diesel-async, on a pool of deadpool.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::harness::{CONNECTIONS, Peer};

diesel::table! {
    documents (id) {
        id -> BigInt,
        author_id -> BigInt,
        reviewer_id -> Nullable<BigInt>,
        title -> Text,
        body -> Text,
        language -> Text,
        published -> Bool,
        words -> Integer,
        lock_version -> BigInt,
    }
}

diesel::table! {
    tags (id) {
        id -> BigInt,
        name -> Text,
    }
}

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = documents, check_for_backend(Pg))]
pub(crate) struct Document {
    id: i64,
    author_id: i64,
    reviewer_id: Option<i64>,
    title: String,
    body: String,
    language: String,
    published: bool,
    words: i32,
    lock_version: i64,
}

/// Diesel prepares an `update` and an upsert of its builder anew for each call, in a round trip of its own: it says that it is unsafe to
/// keep them. A query of one's own it keeps.
#[derive(QueryId)]
struct Add {
    page: i64,
}

impl Query for Add {
    type SqlType = BigInt;
}

impl QueryFragment<Pg> for Add {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("INSERT INTO page_views (page, views) VALUES (");
        out.push_bind_param::<BigInt, _>(&self.page)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&1)?;
        out.push_sql(") ON CONFLICT (page) DO UPDATE SET views = page_views.views + excluded.views RETURNING views");
        Ok(())
    }
}

struct Update<'d> {
    document: &'d Document,
}

impl QueryId for Update<'_> {
    type QueryId = Update<'static>;

    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Update<'_> {
    type SqlType = BigInt;
}

impl QueryFragment<Pg> for Update<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("UPDATE documents SET author_id = ");
        out.push_bind_param::<BigInt, _>(&self.document.author_id)?;
        out.push_sql(", reviewer_id = ");
        out.push_bind_param::<Nullable<BigInt>, _>(&self.document.reviewer_id)?;
        out.push_sql(", title = ");
        out.push_bind_param::<Text, _>(&self.document.title)?;
        out.push_sql(", body = ");
        out.push_bind_param::<Text, _>(&self.document.body)?;
        out.push_sql(", language = ");
        out.push_bind_param::<Text, _>(&self.document.language)?;
        out.push_sql(", published = ");
        out.push_bind_param::<Bool, _>(&self.document.published)?;
        out.push_sql(", words = ");
        out.push_bind_param::<Integer, _>(&self.document.words)?;
        out.push_sql(", lock_version = lock_version + 1 WHERE id = ");
        out.push_bind_param::<BigInt, _>(&self.document.id)?;
        out.push_sql(" AND lock_version = ");
        out.push_bind_param::<BigInt, _>(&self.document.lock_version)?;
        out.push_sql(" RETURNING lock_version");
        Ok(())
    }
}

#[derive(Clone)]
pub(crate) struct Diesel(Pool<AsyncPgConnection>);

impl Diesel {
    pub(crate) fn new(url: &str) -> Self {
        let mut config = ManagerConfig::default();
        // Takes the connection as it is, and asks it nothing.
        config.recycling_method = RecyclingMethod::Fast;
        let manager = AsyncDieselConnectionManager::new_with_config(url, config);
        let size = usize::try_from(CONNECTIONS).unwrap();
        Self(Pool::builder(manager).max_size(size).build().unwrap())
    }

    async fn connection(&self) -> Object<AsyncPgConnection> {
        self.0.get().await.unwrap()
    }
}

impl Peer for Diesel {
    type Document = Document;

    async fn add(&self, page: i64) -> i64 {
        Add { page }
            .get_result(&mut self.connection().await)
            .await
            .unwrap()
    }

    async fn load(&self, id: i64) -> Document {
        documents::table
            .find(id)
            .select(Document::as_select())
            .get_result(&mut self.connection().await)
            .await
            .unwrap()
    }

    fn id(document: &Document) -> i64 {
        document.id
    }

    async fn update(&self, document: &mut Document) {
        document.words += 1;
        let update = Update { document };
        document.lock_version = update
            .get_result(&mut self.connection().await)
            .await
            .unwrap();
    }

    async fn find(&self, name: String) -> i64 {
        let (id, found): (i64, String) = tags::table
            .filter(tags::name.eq(&name))
            .get_result(&mut self.connection().await)
            .await
            .unwrap();
        assert_eq!(found, name);
        id
    }
}
