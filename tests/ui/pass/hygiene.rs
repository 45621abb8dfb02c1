//! All derives without the prelude, with the crate under another name, and among names that the output uses itself.

#![no_implicit_prelude]
#![deny(warnings)]

/// Names that would shadow those of the output if they were not spelled out there.
mod shadowed {
    pub(crate) type DB = i64;
    #[allow(dead_code)]
    pub(crate) struct Option;
    #[allow(dead_code)]
    pub(crate) struct Result;
    #[allow(dead_code)]
    pub(crate) struct Backend;
    #[allow(dead_code)]
    pub(crate) struct Future;
    #[allow(dead_code)]
    pub(crate) struct Send;

    #[derive(::sqlx::FromRow, ::db::Queue)]
    #[rowlock(table = "shadowed", crate = ::db)]
    pub(crate) struct Job {
        #[rowlock(key)]
        id: i64,
        #[rowlock(key)]
        db: DB,
        #[rowlock(filter, priority)]
        limit: DB,
        #[rowlock(filter)]
        row: ::std::string::String,
        #[rowlock(priority(desc))]
        other: DB,
        #[rowlock(run_at)]
        now: ::chrono::DateTime<::chrono::Utc>,
        #[rowlock(state)]
        key: ::db::queue::QueueState,
        #[rowlock(attempts)]
        to: i16,
        #[rowlock(fence)]
        from: ::db::Fence,
        #[rowlock(lease)]
        until: ::std::option::Option<::chrono::DateTime<::chrono::Utc>>,
    }

    #[derive(
        ::std::clone::Clone,
        ::std::fmt::Debug,
        ::std::cmp::PartialEq,
        ::sqlx::FromRow,
        ::db::Versioned,
        ::db::Counter,
        ::db::FindOrCreate,
        ::db::Lockable,
        ::db::Guarded,
    )]
    #[rowlock(table = "shadowed", unique(db, key, new), unique(db), crate = ::db, existing_rows)]
    pub(crate) struct Model {
        #[rowlock(key)]
        id: i64,
        #[rowlock(key)]
        key: DB,
        db: i64,
        new: i64,
        to: DB,
        from: DB,
        row: DB,
        other: DB,
        columns: DB,
        change: DB,
        connection: DB,
        #[rowlock(counter)]
        delta: i64,
        #[rowlock(counter)]
        db_: i64,
        #[rowlock(version)]
        version: i64,
    }

    #[derive(
        ::std::clone::Clone,
        ::std::fmt::Debug,
        ::std::cmp::PartialEq,
        ::sqlx::FromRow,
        ::db::Versioned,
        ::db::FindOrCreate,
        ::db::Lockable,
    )]
    #[rowlock(table = "fenced", unique(db), crate = ::db)]
    pub(crate) struct Fenced {
        #[rowlock(key)]
        id: i64,
        db: i64,
        #[rowlock(fence)]
        from: ::db::Fence,
        #[rowlock(version)]
        version: i64,
    }

    #[derive(::sqlx::FromRow, ::db::Idempotent)]
    #[rowlock(table = "ledger", crate = ::db)]
    #[allow(dead_code)]
    pub(crate) struct Ledger {
        #[rowlock(key)]
        db: DB,
        #[rowlock(key)]
        pool: ::std::string::String,
        #[rowlock(fingerprint)]
        request: ::std::string::String,
        #[rowlock(outcome)]
        body: ::std::option::Option<DB>,
        #[rowlock(fence)]
        lease: ::db::Fence,
        #[rowlock(lease)]
        age: ::chrono::DateTime<::chrono::Utc>,
        #[rowlock(finished)]
        key: ::std::option::Option<::chrono::DateTime<::chrono::Utc>>,
    }
}

#[allow(dead_code)]
async fn calls(pool: ::sqlx::SqlitePool, model: shadowed::Model) {
    let _ = model.update(&pool).await;
    let _ = shadowed::Model::find_by_db(&pool, 1).await;
    let _ = ::db::transaction(&pool)
        .run(async |tx| {
            let mut locked = shadowed::Model::lock(&mut *tx, (1, 2)).nowait().await?;
            locked.save(&mut *tx).await?;
            shadowed::Model::lock_many(&mut *tx, [(1, 2)]).await
        })
        .await;
    let _ = shadowed::Ledger::once(&pool, (1, "k"), &1, async |_| {
        ::std::result::Result::Ok::<_, ::sqlx::Error>(1)
    })
    .await;
}
