//! Models with one mistake each: not in the struct, but in the table. `../ui/fail/schema.rs` has what the compiler says of them.

// The compiler's turn is in `../ui/fail`: here they are compiled, and verified.
use chrono::{DateTime, Utc};
use rowlock::Fence;
use rowlock::{Counter, FindOrCreate, Idempotent, Queue, Versioned};

/// No such table.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "document")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NoTable {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    lock_version: i64,
}

/// A column of another name.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NoColumn {
    #[rowlock(key)]
    id: i64,
    sub_title: String,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "no_index", unique(tenant_id, slug))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NoIndex {
    tenant_id: i64,
    slug: String,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "partial_index", unique(tenant_id, slug))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct PartialIndex {
    tenant_id: i64,
    slug: String,
    deleted_at: Option<i64>,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "other_rows", unique(slug, where = "archived_at IS NULL"))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct OtherRows {
    slug: String,
    deleted_at: Option<i64>,
    archived_at: Option<i64>,
}

/// The index is on one column more.
#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "wider_index", unique(tenant_id, slug))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct WiderIndex {
    tenant_id: i64,
    slug: String,
    locale: String,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "index_on_lower", unique(email))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct IndexOnLower {
    email: String,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "index_on_upper", unique(lower(email)))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct IndexOnUpper {
    email: String,
}

#[derive(Clone, sqlx::FromRow, Counter)]
#[rowlock(table = "counter_without_key")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct CounterWithoutKey {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Clone, sqlx::FromRow, Idempotent)]
#[rowlock(table = "requests_without_key")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct RequestsWithoutKey {
    #[rowlock(key)]
    tenant: i64,
    #[rowlock(key)]
    name: String,
    #[rowlock(fingerprint)]
    fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    outcome: Option<String>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: DateTime<Utc>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "key_not_unique")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct KeyNotUnique {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    lock_version: i64,
}

/// Only among some of the rows.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "key_of_some")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct KeyOfSome {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "nullable")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NullableTitle {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "nullable_version")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NullableVersion {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, sqlx::FromRow, Counter)]
#[rowlock(table = "nullable_counter")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NullableCounter {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "nullable_fence")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NullableFence {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    lock_version: i64,
    #[rowlock(fence)]
    fence: Fence,
}

#[derive(Clone, sqlx::FromRow, Queue)]
#[rowlock(table = "nullable_state")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NullableState {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

/// The end of a lease is NULL where there is none.
#[derive(Clone, sqlx::FromRow, Queue)]
#[rowlock(table = "never_free")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NeverFree {
    #[rowlock(key)]
    id: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

/// Without its index, two jobs of one value can run.
#[derive(Clone, sqlx::FromRow, Queue)]
#[rowlock(table = "none_at_a_time")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NoneAtATime {
    #[rowlock(key)]
    id: i64,
    #[rowlock(per)]
    customer: i64,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
}

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "other_type")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct OtherType {
    #[rowlock(key)]
    id: i64,
    amount: i64,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "left_out", unique(slug))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct LeftOut {
    slug: String,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "no_default", unique(slug))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NoDefault {
    slug: String,
    #[rowlock(default)]
    color: i64,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "not_generated", unique(slug))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct NotGenerated {
    #[rowlock(key, generated)]
    id: String,
    slug: String,
}

#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "always_generated", unique(slug))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct AlwaysGenerated {
    slug: String,
    title: String,
}

#[derive(Clone, sqlx::FromRow, Counter)]
#[rowlock(table = "counter_left_out")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct CounterLeftOut {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Clone, sqlx::FromRow, Counter)]
#[rowlock(table = "refused_start")]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct RefusedStart {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    level: i64,
}

/// What the compiler alone knows to be no `Option`.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "nullable", backend(Sqlite))]
#[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
pub struct Alias {
    #[rowlock(key)]
    id: i64,
    title: Title,
    #[rowlock(version)]
    lock_version: i64,
}

pub type Title = String;

/// What only PostgreSQL has.
pub mod postgres {
    use super::{DateTime, FindOrCreate, Queue, Utc, Versioned};
    use rowlock::Fence;

    #[derive(Clone, sqlx::FromRow, Versioned)]
    #[rowlock(table = "narrow_version", backend(Postgres))]
    #[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
    pub struct NarrowVersion {
        #[rowlock(key)]
        id: i64,
        #[rowlock(version)]
        lock_version: i64,
    }

    #[derive(Clone, sqlx::FromRow, Versioned)]
    #[rowlock(table = "no_time_zone", backend(Postgres))]
    #[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
    pub struct NoTimeZone {
        #[rowlock(key)]
        id: i64,
        at: DateTime<Utc>,
        #[rowlock(version)]
        lock_version: i64,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "later_checked", unique(slug), backend(Postgres))]
    #[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
    pub struct Deferrable {
        slug: String,
    }

    /// Its build failed.
    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "not_valid", unique(slug), backend(Postgres))]
    #[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
    pub struct NotValid {
        slug: String,
    }

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(
        table = "nulls_distinct",
        unique(parent_id, slug, nulls_not_distinct),
        backend(Postgres)
    )]
    #[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
    pub struct NullsDistinct {
        parent_id: Option<i64>,
        slug: String,
    }

    #[derive(Clone, sqlx::FromRow, Queue)]
    #[rowlock(table = "other_states", backend(Postgres))]
    #[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
    pub struct OtherStates {
        #[rowlock(key)]
        id: i64,
        #[rowlock(run_at)]
        run_at: DateTime<Utc>,
        #[rowlock(state(ready = "queued"))]
        state: State,
        #[rowlock(attempts)]
        attempts: i32,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(lease)]
        leased_until: Option<DateTime<Utc>>,
    }

    #[derive(Clone, Copy, sqlx::Type)]
    #[sqlx(type_name = "job_state", rename_all = "snake_case")]
    pub enum State {
        Queued,
        Running,
        Done,
        Dead,
    }
}

/// What only SQLite has.
pub mod sqlite {
    use super::FindOrCreate;

    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "other_collation", unique(email), backend(Sqlite))]
    #[cfg_attr(not(test), rowlock(schema = "tests/schema/mistakes.json"))]
    pub struct OtherCollation {
        email: String,
    }
}
