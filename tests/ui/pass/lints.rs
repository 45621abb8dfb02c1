//! Models under every lint that is common, most of their methods never called.

#![deny(
    warnings,
    missing_docs,
    unreachable_pub,
    unused,
    nonstandard_style,
    rust_2018_idioms
)]
#![deny(
    unused_qualifications,
    missing_debug_implementations,
    single_use_lifetimes
)]
#![deny(let_underscore, missing_copy_implementations, unused_lifetimes)]

/// Models that are part of an API.
pub mod public {
    use chrono::{DateTime, Utc};
    use rowlock::{Counter, Fence, FindOrCreate, Idempotent, Lockable, Versioned};

    /// A request and what became of it.
    #[derive(Debug, sqlx::FromRow, Idempotent)]
    #[rowlock(table = "requests")]
    pub struct Request {
        /// Of the client.
        #[rowlock(key)]
        pub key: String,
        #[rowlock(fingerprint)]
        fingerprint: Vec<u8>,
        #[rowlock(outcome)]
        outcome: Option<String>,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(lease)]
        lease: Option<DateTime<Utc>>,
        #[rowlock(finished)]
        finished: Option<DateTime<Utc>>,
    }

    /// A report.
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, FindOrCreate, Lockable)]
    #[rowlock(table = "reports")]
    pub struct Report {
        /// Its number.
        #[rowlock(key)]
        pub id: i64,
        #[rowlock(unique)]
        name: String,
        /// Of the lock.
        #[rowlock(fence)]
        pub fence: Fence,
        /// When it was changed.
        #[rowlock(version)]
        pub version: i64,
    }

    /// A page.
    #[derive(
        Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter, FindOrCreate, Lockable,
    )]
    #[rowlock(table = "cms.pages", unique(site, path), existing_rows)]
    pub struct Page {
        /// Its number.
        #[rowlock(key, generated)]
        pub id: i64,
        /// Its site.
        pub site: i64,
        /// Where it is.
        pub path: String,
        text: Option<String>,
        /// How often it was seen.
        #[rowlock(counter(min = 0))]
        pub views: i64,
        /// When it was changed.
        #[rowlock(version)]
        pub version: i64,
    }
}

mod private {
    use rowlock::{Counter, FindOrCreate, Lockable, Versioned};

    #[derive(Debug, Clone, Versioned, Counter, FindOrCreate, Lockable)]
    #[rowlock(table = "visits", existing_rows)]
    #[allow(deprecated, non_snake_case)]
    pub(crate) struct Visit {
        #[rowlock(key)]
        pub(crate) site: String,
        #[rowlock(key)]
        pub(crate) day: i32,
        #[rowlock(unique)]
        #[sqlx(rename = "user-name")]
        pub(crate) userName: Alias,
        #[deprecated]
        pub(crate) plain: i64,
        #[rowlock(generated)]
        #[deprecated]
        pub(crate) made: i64,
        #[rowlock(counter)]
        pub(crate) count: i16,
        #[rowlock(version)]
        pub(crate) version: i16,
    }

    pub(crate) type Alias = String;

    // By hand, because the one that sqlx derives has warnings of its own.
    impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for Visit {
        fn from_row(_: &'r R) -> sqlx::Result<Self> {
            Err(sqlx::Error::RowNotFound)
        }
    }
}

#[allow(dead_code)]
fn used(visit: private::Visit) -> (String, i32, i16, i16, private::NewVisit) {
    let new = private::NewVisit {
        site: String::new(),
        day: 1,
        userName: visit.userName,
        plain: 1,
    };
    (visit.site, visit.day, visit.count, visit.version, new)
}
