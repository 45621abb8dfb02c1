//! The tables, as structs. Both databases use the same ones; `migrations/` makes the tables.

use chrono::{DateTime, Utc};
use rowlock::queue::QueueState;
use rowlock::schema::Models;
use rowlock::{Counter, Fence, FindOrCreate, Guarded, Idempotent, Queue, Versioned};
use serde::{Deserialize, Serialize};

/// What is compared with the database when the program starts.
pub const MODELS: Models = rowlock::models![
    Page,
    Revision,
    Tag,
    PageTag,
    Watcher,
    PageViews,
    Quota,
    Notice,
    CreateRequest
];

/// A page that several people edit. The version says whether somebody else was faster.
#[derive(Debug, Clone, Serialize, sqlx::FromRow, Versioned, FindOrCreate, Guarded)]
#[rowlock(table = "pages")]
pub struct Page {
    #[rowlock(key, generated)]
    pub id: i64,
    #[rowlock(unique)]
    pub slug: String,
    pub title: String,
    /// With commas between them.
    pub tags: String,
    pub body: String,
    #[rowlock(version)]
    pub lock_version: i64,
}

/// How a page was after a save.
#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "revisions", unique(page_id, version))]
pub struct Revision {
    pub page_id: i64,
    pub version: i64,
    pub slug: String,
    pub title: String,
    pub tags: String,
    pub body: String,
    pub author: String,
    pub saved_at: DateTime<Utc>,
}

#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags")]
pub struct Tag {
    #[rowlock(key, generated)]
    pub id: i64,
    #[rowlock(unique)]
    pub name: String,
}

#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "page_tags", unique(page_id, tag_id))]
pub struct PageTag {
    pub page_id: i64,
    pub tag_id: i64,
}

/// Somebody who wants to know of every change of a page.
#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "watchers", unique(page_id, name))]
pub struct Watcher {
    pub page_id: i64,
    pub name: String,
}

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
pub struct PageViews {
    #[rowlock(key)]
    pub page_id: i64,
    #[rowlock(counter)]
    pub views: i64,
}

/// How much an author has written in an hour: no more than a hundred edits.
#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "quotas")]
pub struct Quota {
    #[rowlock(key)]
    pub author: String,
    #[rowlock(key)]
    pub hour: String,
    #[rowlock(counter(min = 0, max = 100))]
    pub edits: i64,
}

/// A job: tell a watcher of a change.
#[derive(Debug, sqlx::FromRow, Queue)]
#[rowlock(table = "notices")]
pub struct Notice {
    #[rowlock(key, generated)]
    pub id: i64,
    pub watcher: String,
    pub slug: String,
    pub version: i64,
    pub text: String,
    #[rowlock(run_at)]
    pub run_at: DateTime<Utc>,
    #[rowlock(state)]
    pub state: QueueState,
    #[rowlock(attempts(max = 5))]
    pub attempts: i32,
    #[rowlock(fence)]
    pub fence: Fence,
    #[rowlock(lease)]
    pub leased_until: Option<DateTime<Utc>>,
    #[rowlock(last_error)]
    pub last_error: Option<String>,
}

/// A request to create a page, by the key that its sender gave it.
#[derive(Debug, sqlx::FromRow, Idempotent)]
#[rowlock(table = "create_requests")]
pub struct CreateRequest {
    #[rowlock(key)]
    pub author: String,
    #[rowlock(key)]
    pub key: String,
    #[rowlock(fingerprint)]
    pub fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    #[sqlx(json(nullable))]
    pub outcome: Option<Created>,
    #[rowlock(fence)]
    pub fence: Fence,
    #[rowlock(lease)]
    pub leased_until: DateTime<Utc>,
    #[rowlock(finished)]
    pub finished_at: Option<DateTime<Utc>>,
}

/// How such a request ended, which is as final if the slug is taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Created {
    Page { id: i64 },
    SlugTaken,
}
