#![cfg_attr(docsrs, feature(doc_cfg))]
// The `+ Send` that an `async fn` cannot write is a promise to the user.
#![allow(clippy::manual_async_fn)]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]
#![doc = include_str!("../docs/crate.md")]

// Only documentation: a program does not compile it. `examples/lib.rs` compiles and runs its code, with dependencies that are not this crate's.
#[cfg(all(doc, not(doctest)))]
pub mod _guide;
// Nor that.
#[cfg(all(doc, not(doctest)))]
pub mod _generated;
mod backoff;
mod db;
mod error;
pub mod fan_out;
mod job;
pub mod lock;
mod observe;
#[cfg(test)]
mod rooms;
pub mod row;
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub mod schema;
pub mod tx;

#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use rowlock_macros::CreateTable;
#[cfg(feature = "idempotent")]
pub use rowlock_macros::Idempotent;
pub use rowlock_macros::{Counter, FindOrCreate, Guarded, Lockable, Queue, Versioned};

pub use crate::db::Backend;
pub use crate::db::error::{DatabaseError, Operation};
pub use crate::db::fault::Fault;
pub use crate::db::fence::Fence;
pub use crate::db::lanes::{Lane, Lanes};
pub use crate::db::source::Source;
pub use crate::db::xmin::Xmin;
pub use crate::error::Error;
pub use crate::fan_out::fan_out;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use crate::observe::describe_metrics;
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use crate::schema::verify;
#[cfg(feature = "registry")]
#[cfg_attr(docsrs, doc(cfg(feature = "registry")))]
pub use crate::schema::verify_all;
pub use crate::tx::{Tx, transaction};

/// Types of claims, workers and handlers: see [`Queue`](derive@crate::Queue). With the feature `periodic` also `Periodic`, which runs a closure at
/// the times of a `Schedule`.
pub mod queue {
    #[cfg(feature = "periodic")]
    #[cfg_attr(docsrs, doc(cfg(feature = "periodic")))]
    pub use crate::job::periodic::{
        Missed, Periodic, PeriodicError, Schedule, ScheduleError, Tick, TickBody, TickCounts,
        TickError, Ticked, Zone,
    };
    pub use crate::job::queue::{
        BadRow, Cancelled, Claim, ClaimError, Claimed, Enqueue, EnqueueMany, EnqueueUnique,
        FinishError, Pause, PauseError, Paused, Purge, QueueState, QueueStats, ReadStats, Redrive,
        Redriven, Rescued, Retried, Unfinished,
    };
    #[doc(hidden)]
    pub use crate::job::worker::{BatchOutcome, HandlerOutcome};
    pub use crate::job::worker::{
        Job, JobOutcome, Next, Worker, WorkerCounts, WorkerError, WorkerSet, WorkerSetError,
        WorkerStats,
    };
}

/// Types of `once` and `start`: see [`Idempotent`](derive@crate::Idempotent).
#[cfg(feature = "idempotent")]
#[cfg_attr(docsrs, doc(cfg(feature = "idempotent")))]
pub mod idempotent {
    pub use crate::job::fingerprint::{Keyed, Request, RequestError};
    pub use crate::job::idempotent::{
        AttemptError, Once, OnceCall, OnceError, Running, StartError, Started,
    };
}

/// The names that the derives' output uses. Not part of the public API: anything here may change in a patch release.
#[doc(hidden)]
pub mod __private {
    pub use core::clone::Clone;
    pub use core::cmp::{Eq, Ord, PartialEq, PartialOrd};
    pub use core::fmt;
    pub use core::future::Future;
    pub use core::iter::{Extend, IntoIterator, Iterator};
    pub use core::marker::{PhantomData, Send};
    pub use core::ops::FnMut;
    pub use core::option::Option::{self, None, Some};
    pub use core::result::Result::{self, Ok};
    pub use core::{assert, unreachable};
    pub use std::vec::Vec;

    pub use sqlx;
    #[cfg(feature = "postgres")]
    pub use sqlx::Postgres;
    #[cfg(feature = "sqlite")]
    pub use sqlx::Sqlite;

    /// A row of the database.
    pub type Row<DB> = <DB as sqlx::Database>::Row;
    /// What was read from a row.
    pub type Decoded<T> = Result<T, sqlx::Error>;

    pub use crate::db::Backend;
    pub use crate::db::column::{
        Changes, Column, CounterNumber, NotNullable, Nullable, OrNull, Read, VersionNumber,
        from_row,
    };
    pub use crate::db::error::KeyText;
    #[cfg(feature = "postgres")]
    pub use crate::db::key_array::{
        ArrayType, NoArrayType, array, bind_array, elements, json_array,
    };
    pub use crate::db::model::Model;
    pub use crate::db::source::Source;
    pub use crate::db::statement::{Bind, get, get_some};
    pub use crate::db::xmin::{NO_MAX, xmin};

    /// For `#[derive(Versioned)]`.
    pub mod versioned {
        pub use crate::row::versioned::{
            Derive, EditAt, HasVersion, InsertError, Versioned, VersionedSql, delete, delete_many,
            edit, edit_at, insert, insert_many, load, load_many, reload, save_many, touch, update,
            update_many, update_with,
        };
    }
    /// For `#[derive(Counter)]`.
    pub mod counter {
        pub use core::cmp::Ordering;

        pub use crate::row::counter::{
            BatchSql, Counter, CounterRow, CounterRowSql, CounterSql, Derive, add, add_many, get,
            with_keys,
        };
    }
    /// For `#[derive(Guarded)]`.
    pub mod guarded {
        pub use core::ops::FnOnce;

        pub use crate::db::condition::{
            Condition, Counted, Expression, Field, Names, ReadOnly, Settable,
        };
        pub use crate::row::guarded::{
            Anything, Derive, GuardError, GuardedSql, Set, delete_by_key, delete_if, exists, patch,
            update_if,
        };
    }
    /// For `#[derive(Lockable)]`.
    pub mod lockable {
        pub use crate::row::lockable::{
            Derive, Lockable, LockableSql, lock, lock_checked, lock_many, lock_where,
        };
    }
    /// For `#[derive(Idempotent)]`.
    #[cfg(feature = "idempotent")]
    pub mod idempotent {
        pub use sqlx::Pool;

        pub use crate::Tx;
        pub use crate::idempotent::{OnceCall, OnceError, StartError, Started};
        pub use crate::job::fingerprint::{Digest, Fingerprint, Request};
        pub use crate::job::idempotent::{Derive, Idempotent, IdempotentSql, once, purge, start};
        pub use crate::tx::{Begins, Body, FailureOf};
    }
    /// For `#[derive(Queue)]`.
    pub mod queue {
        pub use core::cmp::{Ord, Ordering};

        pub use serde::Serialize;
        pub use sqlx::Pool;

        pub use crate::job::queue::{
            CancelSql, Derive, EnqueueSql, Enqueued, Given, Keyed, PauseSql, Per, PurgeSql, Queue,
            QueueSql, cancel, claim, each, enqueue, enqueue_many, enqueue_unique, pause, pauses,
            purge, redrive, rescue, resume, stats,
        };
        pub use crate::job::worker::worker;
    }
    /// For `#[derive(FindOrCreate)]`.
    pub mod find_or_create {
        pub use crate::row::find_or_create::{
            Derive, FindOrCreate, FindOrCreateSql, UniqueKey, UniqueKeySql, create, create_many,
            create_unless_conflict, find, find_or_create, find_or_create_many, update_or_create,
            upsert, upsert_if, upsert_many,
        };
    }
    /// For all of them.
    #[cfg(feature = "schema")]
    pub mod schema {
        #[cfg(feature = "registry")]
        pub use inventory::submit;

        pub use crate::schema::{
            Binds, CreateTableSql, Described, Element, Elements, Named, Needed, Needs, NoElement,
            NoList, NoNeeds, Of, Texts, by, is_model,
        };
    }
    #[cfg(feature = "schema")]
    pub use crate::__registered as registered;
    pub use crate::queue::{
        Cancelled, Claim, Pause, Paused, Purge, ReadStats, Redrive, Rescued, Worker,
    };
    pub use crate::queue::{Enqueue, EnqueueMany, EnqueueUnique};
    pub use crate::row::InsertError;
    pub use crate::row::{
        CounterError, CreateError, DeleteError, Edit, FindError, FindOrCreateError, FoundOrCreated,
        LoadError, Lock, LockCheckedError, LockError, Locked, Many, Matching, One, UpdateError,
        UpdatedOrCreated, UpsertError, Upserted,
    };
    pub use crate::tx::InTransaction;
    pub use crate::{__changes as changes, __postgres as postgres, __sqlite as sqlite};
    pub use crate::{DatabaseError, Fence};
}

/// Keeps the generated code for PostgreSQL if this crate was built for it.
#[doc(hidden)]
#[macro_export]
#[cfg(feature = "postgres")]
macro_rules! __postgres { ($($code:tt)*) => { $($code)* }; }
/// Drops the generated code for PostgreSQL.
#[doc(hidden)]
#[macro_export]
#[cfg(not(feature = "postgres"))]
macro_rules! __postgres {
    ($($code:tt)*) => {};
}

/// Keeps the generated code for SQLite if this crate was built for it.
#[doc(hidden)]
#[macro_export]
#[cfg(feature = "sqlite")]
macro_rules! __sqlite { ($($code:tt)*) => { $($code)* }; }
/// Drops the generated code for SQLite.
#[doc(hidden)]
#[macro_export]
#[cfg(not(feature = "sqlite"))]
macro_rules! __sqlite {
    ($($code:tt)*) => {};
}

/// Lists a model for [`verify_all`].
#[doc(hidden)]
#[macro_export]
#[cfg(feature = "registry")]
macro_rules! __registered {
    ($model:ty, $derive:ty) => {
        $crate::__private::schema::submit! {
            $crate::__private::schema::Needed::by::<$model, $derive>()
        }
    };
}
/// Lists nothing: nobody asks.
#[doc(hidden)]
#[macro_export]
#[cfg(all(feature = "schema", not(feature = "registry")))]
macro_rules! __registered {
    ($model:ty, $derive:ty) => {};
}

/// The columns that differ in any of the databases that this crate was built for.
#[doc(hidden)]
#[macro_export]
macro_rules! __changes {
    ($this:expr, $other:expr, $($wrapper:ident $database:ident),*) => {{
        #[allow(unused_mut)]
        let mut changes = $crate::__private::Changes::none();
        $($crate::__private::$wrapper! {
            changes.add(&<Self as $crate::__private::versioned::VersionedSql<
                $crate::__private::$database,
            >>::stored_changes($this, $other));
        })*
        changes
    }};
}

/// Models to [`verify`](crate::verify): structs with any of the derives. It is a constant, and can be one of yours.
///
/// ```
/// use rowlock::schema::Models;
///
/// #[derive(sqlx::FromRow, rowlock::FindOrCreate)]
/// #[rowlock(table = "tags", unique(slug))]
/// struct Tag {
///     slug: String,
/// }
///
/// const MODELS: Models = rowlock::models![Tag];
/// ```
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
#[macro_export]
macro_rules! models {
    ($($model:ty),* $(,)?) => {
        const {
            #[allow(unused_imports)]
            use $crate::__private::schema::NoNeeds as _;
            $crate::schema::Models::of(&[$({
                const NEEDS: [::core::option::Option<$crate::__private::schema::Needed>; 7] = [
                    $crate::__private::schema::Needs::<$model, $crate::__private::schema::by::Counter>::NEEDS,
                    $crate::__private::schema::Needs::<$model, $crate::__private::schema::by::FindOrCreate>::NEEDS,
                    $crate::__private::schema::Needs::<$model, $crate::__private::schema::by::Guarded>::NEEDS,
                    $crate::__private::schema::Needs::<$model, $crate::__private::schema::by::Idempotent>::NEEDS,
                    $crate::__private::schema::Needs::<$model, $crate::__private::schema::by::Lockable>::NEEDS,
                    $crate::__private::schema::Needs::<$model, $crate::__private::schema::by::Queue>::NEEDS,
                    $crate::__private::schema::Needs::<$model, $crate::__private::schema::by::Versioned>::NEEDS,
                ];
                ::core::assert!(
                    $crate::__private::schema::is_model(&NEEDS),
                    ::core::concat!("`", ::core::stringify!($model), "` derives nothing of rowlock")
                );
                NEEDS
            }),*])
        }
    };
}
