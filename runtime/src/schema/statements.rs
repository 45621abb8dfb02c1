//! The statements of a model, to be prepared: whether a server takes them is for the server to say.
//!
//! Those with assignments in them are put together by a call, and those about many rows have from it the types of their values: they are not
//! here. What they have of the model is in the others.

#![allow(missing_docs)]

use std::fmt;
use std::marker::PhantomData;

use rowlock_schema::{Finding, Kind, Level, Model, Place, Rule};
use sqlx::{AssertSqlSafe, Connection, SqlSafeStr};

use super::Describes;
use crate::Fault;
use crate::db::atomic::{Atomic, in_transaction};
use crate::db::fault::lacks_types;
use crate::db::source::Link;
use crate::job::queue::{CancelSql, Enqueued, QueueSql};
use crate::row::counter::{CounterRowSql, CounterSql};
use crate::row::find_or_create::{FindOrCreateSql, UniqueKeySql};
use crate::row::guarded::GuardedSql;
use crate::row::lockable::LockableSql;
use crate::row::versioned::VersionedSql;

/// A statement: the method that sends it, its text, and what stands in the gaps.
#[derive(Clone, Copy)]
pub struct Text(&'static str, &'static [&'static str], &'static str);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Lists of them.
pub type Texts = &'static [&'static [Text]];

/// A condition that is always met.
const MET: &str = "true";

const fn whole(method: &'static str, text: &'static [&'static str]) -> Text {
    Text(method, text, "")
}

/// Nothing, where a model or a database has no such statement.
const fn if_any(text: Option<&'static str>) -> &'static str {
    match text {
        Some(text) => text,
        None => "",
    }
}

/// The statements of `T` on `DB`; those of one counter or one unique key by its number.
#[derive(Debug)]
pub struct Of<DB, T, const N: usize = 0>(PhantomData<(DB, T)>);

impl<DB: Describes, T: VersionedSql<DB>> Of<DB, T> {
    pub const VERSIONED: &'static [Text] = &[
        whole("load", &[T::LOAD]),
        whole("insert", &[T::INSERT]),
        whole("update", &[T::UPDATE]),
        whole("touch", &[T::TOUCH]),
        whole("delete", &[T::DELETE]),
    ];
}

impl<DB: Describes, T: CounterRowSql<DB>> Of<DB, T> {
    pub const COUNTERS: &'static [Text] = &[whole("get", &[T::GET])];
}

impl<DB: Describes, T: CounterSql<DB, N>, const N: usize> Of<DB, T, N> {
    pub const COUNTER: &'static [Text] = &[
        whole(T::METHODS.0, &[if_any(T::ADD)]),
        whole(T::METHODS.0, &[T::ADD_EXISTING]),
        whole(T::METHODS.0, &[T::READ]),
    ];
}

impl<DB: Describes, T: FindOrCreateSql<DB>> Of<DB, T> {
    pub const NEW: &'static [Text] = &[whole("create", &[T::CREATE])];
}

impl<DB: Describes, T: UniqueKeySql<DB, N>, const N: usize> Of<DB, T, N> {
    pub const UNIQUE: &'static [Text] = &[
        whole(T::METHODS[0], &[T::FIND]),
        whole(T::METHODS[1], &[T::INSERT]),
        whole(T::METHODS[2], &[if_any(T::UPSERT)]),
        whole(T::METHODS[4], &[if_any(T::UPDATE_OR_CREATE)]),
        Text(T::METHODS[5], &T::UPSERT_IF, MET),
        Text(T::METHODS[5], &T::LOOK, MET),
    ];
}

impl<DB: Describes, T: GuardedSql<DB>> Of<DB, T> {
    pub const GUARDED: &'static [Text] = &[
        Text("delete_if", &T::DELETE, MET),
        Text("update_if", &T::LOOK, MET),
        whole("exists", &[T::EXISTS]),
    ];
}

impl<DB: Describes, T: LockableSql<DB>> Of<DB, T> {
    pub const LOCKABLE: &'static [Text] = &[
        whole("lock", &[T::SELECT, DB::FOR_UPDATE]),
        whole("lock", &[if_any(T::WRITE_LOCK)]),
        Text("lock_where", &T::SELECT_WHERE, MET),
        whole("save", &[T::UPDATE]),
    ];
}

#[cfg(feature = "idempotent")]
impl<DB: Describes, T: crate::job::idempotent::IdempotentSql<DB>> Of<DB, T> {
    pub const IDEMPOTENT: &'static [Text] = &[
        whole("once", &[T::CLAIM]),
        whole("once", &[T::FINISH]),
        whole("once", &[T::RELEASE]),
        whole("extend", &[T::EXTEND]),
        whole("purge", &[T::PURGE]),
    ];
}

impl<DB: Describes, T: QueueSql<DB> + Enqueued<DB> + CancelSql<DB>> Of<DB, T> {
    pub const QUEUE: &'static [Text] = &[
        whole("enqueue", &[T::ENQUEUE]),
        whole("claim", T::CLAIM),
        whole("claim", T::LIST_DUE),
        whole("complete", &[T::COMPLETE]),
        whole("complete", &[T::LOOK]),
        whole("rescue", &T::RESCUE),
        whole("rescue", &[T::LIST_ENDED]),
        whole("rescue", &[T::SET_ASIDE[0]]),
        whole("rescue", &[T::SET_ASIDE[1]]),
        whole("redrive", &T::REDRIVE),
        whole("redrive", &T::LIST_DEAD),
        whole("cancel", &[T::CANCEL]),
        whole("cancel", &[T::STATE_OF]),
    ];
}

/// What the server does not take.
pub(super) async fn prepare<DB: Describes>(
    link: &mut Link<'_, DB>,
    model: &Model,
    kind: Kind,
    texts: Texts,
) -> Result<Vec<Finding>, sqlx::Error> {
    let mut findings: Vec<Finding> = Vec::new();
    for Text(method, parts, between) in texts.concat() {
        let is_there = parts.iter().any(|part| !part.is_empty());
        let is_reported = findings
            .iter()
            .any(|finding| finding.message.starts_with(&format!("`{method}` ")));
        if !is_there || is_reported {
            continue;
        }
        let Err(error) = prepare_one(link, parts.join(between)).await? else {
            continue;
        };
        findings.push(Finding::new(
            Rule::Statement,
            match may_be_unused(model, kind, method) {
                true => Level::Note,
                false => Level::Error,
            },
            Place::Struct,
            format!("`{method}` is not taken by the server: {error}"),
        ));
    }
    Ok(findings)
}

/// A program need not call it: see `Insert`.
fn may_be_unused(model: &Model, kind: Kind, method: &str) -> bool {
    const RARE: [&str; 9] = [
        "insert",
        "touch",
        "delete",
        "upsert",
        "update_or_create",
        "extend",
        "purge",
        "redrive",
        "cancel",
    ];
    let insert = model.insert.as_ref();
    let is_insert =
        insert.is_some_and(|insert| !insert.required && method.starts_with(&insert.method));
    // A view has no `xmax`, and what can be written there is for who made it to say.
    let is_rare = match kind {
        Kind::View | Kind::Foreign => RARE.iter().any(|rare| method.starts_with(rare)),
        Kind::Table | Kind::Partitioned | Kind::Partition => false,
    };
    is_insert || is_rare
}

/// Closes what was prepared. sqlx keeps a statement by its text, with the types of the first call: one that was prepared without any could not be
/// run again with those of a call, so that here the text is another, too.
pub(super) async fn forget<DB: Describes>(link: &mut Link<'_, DB>) -> Result<(), sqlx::Error> {
    link.clear_cached_statements().await
}

const MARK: &str = " /* rowlock::verify */";

/// Prepares a statement, and yields what the server says against it. In a transaction, which PostgreSQL would end with the first mistake, within a
/// savepoint.
async fn prepare_one<DB: Describes>(
    link: &mut Link<'_, DB>,
    sql: String,
) -> Result<Result<(), String>, sqlx::Error> {
    let sql = AssertSqlSafe(sql + MARK).into_sql_str();
    let prepared = if DB::ERROR_ABORTS_TRANSACTION && in_transaction::<DB>(link) {
        let mut savepoint = Atomic::begin(link.reborrow()).await?;
        let prepared = DB::prepare(savepoint.link(), sql, &[]).await;
        savepoint.rollback().await?;
        prepared
    } else {
        DB::prepare(link, sql, &[]).await
    };
    match prepared {
        Err(error) if lacks_types(&error) => Ok(Ok(())),
        Err(error) => match (Fault::of(&error), error) {
            // Any other is of this moment: a lock that was not free, a server that shut down.
            (
                Fault::Schema
                | Fault::InvalidValue
                | Fault::NumericOutOfRange
                | Fault::PermissionDenied,
                sqlx::Error::Database(error),
            ) => Ok(Err(error.message().to_owned())),
            (_, error) => Err(error),
        },
        Ok(_) => Ok(Ok(())),
    }
}
