//! A model that the compiler compares with the tables.

use rowlock::FindOrCreate;

/// A tag of a tenant, made up by whoever uses it first.
#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(tenant_id, slug))]
#[rowlock(schema = "examples/checked/rowlock.schema.json")]
pub struct Tag {
    #[rowlock(generated)]
    pub id: i64,
    pub tenant_id: i64,
    pub slug: String,
}
