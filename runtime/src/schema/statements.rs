//! The statements of a model, to be prepared: whether a server takes them is for the server to say.
//!
//! Of those that a call puts together there is one text, with all columns, which the code of the call makes.

#![allow(missing_docs)]

use std::fmt;
use std::marker::PhantomData;

use rowlock_schema::{Finding, Kind, Level, Model, Place, Rule, Table};
use sqlx::{AssertSqlSafe, Connection, Database, SqlSafeStr, Type, TypeInfo};

use super::{Describes, by};
use crate::Fault;
use crate::db::atomic::{Atomic, in_transaction};
use crate::db::fault::lacks_types;
use crate::db::source::Link;
use crate::db::statement::{Statement, Way};
use crate::job::queue::{CancelSql, EnqueueSql, Enqueued, PurgeSql, QueueSql};
use crate::row::counter::{BatchSql, CounterRowSql, CounterSql};
use crate::row::find_or_create::{FindOrCreateSql, UniqueKeySql};
use crate::row::guarded::{GuardedSql, update_of_all};
use crate::row::lockable::LockableSql;
use crate::row::versioned::{VersionedSql, save_many_of_all, save_of_all};

/// A statement.
pub struct Text<DB: Database> {
    /// The method that sends it.
    method: &'static str,
    sent: Sent,
    sql: Sql,
    /// What it binds first, where the server cannot say of what type it is.
    binds: Bound<DB>,
}

enum Bound<DB: Database> {
    /// A value of each type.
    Values(Elements<DB>),
    /// An array of each.
    Arrays([Elements<DB>; 3]),
}

impl<DB: Database> Copy for Bound<DB> {}

impl<DB: Database> Clone for Bound<DB> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<DB: Describes> Bound<DB> {
    /// `None` if a value cannot be an element of an array: whoever has such a column writes row by row.
    fn types(&self) -> Option<Vec<DB::TypeInfo>> {
        let known = |types: &[Known<DB>]| -> Option<Vec<DB::TypeInfo>> {
            types.iter().map(|ty| Some(ty.as_ref()?())).collect()
        };
        match self {
            Self::Values(types) => known(types),
            Self::Arrays(types) => DB::arrays(&known(&types.concat())?),
        }
    }
}

/// When a method sends a statement.
#[derive(Clone, Copy)]
enum Sent {
    Always,
    /// About many rows. Where the server does not take it, each row is by itself.
    OfMany,
    /// For calls that wait for `Lanes`.
    OnLanes,
    /// About the jobs that a worker has.
    ByWorker,
}

#[derive(Clone, Copy)]
enum Sql {
    /// These, with that between them.
    Parts(&'static [&'static str], &'static str),
    /// What this makes.
    Made(fn() -> String),
}

impl<DB: Database> Copy for Text<DB> {}

impl<DB: Database> Clone for Text<DB> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<DB: Database> fmt::Debug for Text<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method)
    }
}

impl<DB: Database> fmt::Display for Text<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.method)?;
        f.write_str(match self.sent {
            Sent::Always | Sent::OfMany => "",
            Sent::OnLanes => " on `Lanes`",
            Sent::ByWorker => " of a worker",
        })
    }
}

impl<DB: Database> Text<DB> {
    fn sql(&self) -> Option<String> {
        match self.sql {
            Sql::Parts(parts, _) if parts.iter().all(|part| part.is_empty()) => None,
            Sql::Parts(parts, between) => Some(parts.join(between)),
            Sql::Made(make) => Some(make()).filter(|sql| !sql.is_empty()),
        }
    }

    const fn gaps(
        method: &'static str,
        parts: &'static [&'static str],
        between: &'static str,
    ) -> Self {
        Self {
            method,
            sent: Sent::Always,
            sql: Sql::Parts(parts, between),
            binds: Bound::Values(&[]),
        }
    }

    const fn whole(method: &'static str, text: &'static [&'static str]) -> Self {
        Self::gaps(method, text, "")
    }

    const fn made(method: &'static str, make: fn() -> String) -> Self {
        let whole = Self::whole(method, &[]);
        Self {
            sql: Sql::Made(make),
            ..whole
        }
    }

    const fn binds(self, arrays: [Elements<DB>; 3]) -> Self {
        Self {
            binds: Bound::Arrays(arrays),
            ..self
        }
    }

    #[cfg(feature = "idempotent")]
    const fn binds_values(self, types: Elements<DB>) -> Self {
        Self {
            binds: Bound::Values(types),
            ..self
        }
    }

    const fn sent(self, sent: Sent) -> Self {
        Self { sent, ..self }
    }
}

/// Lists of them.
pub type Texts<DB> = &'static [&'static [Text<DB>]];

/// The types of columns, or of the elements of arrays of them.
pub type Elements<DB> = &'static [Known<DB>];

/// The types of fields, each with the place of its field among all.
pub type Named<DB> = &'static [(usize, Known<DB>)];

/// A type, if it is one of the database's.
type Known<DB> = Option<fn() -> <DB as Database>::TypeInfo>;

/// Finds the type of a column: the inherent constant wins over the trait's.
#[derive(Debug)]
pub struct Element<DB, T>(PhantomData<(DB, T)>);

/// The other half of [`Element`]: what is no column the compiler reports where it is bound.
pub trait NoElement {
    type Info;
    const INFO: Option<fn() -> Self::Info> = None;
}

impl<DB: Database, T: Type<DB>> Element<DB, T> {
    pub const INFO: Known<DB> = Some(T::type_info);
}

impl<DB: Database, T> NoElement for Element<DB, T> {
    type Info = DB::TypeInfo;
}

/// The types of what the derive `D` of a model binds; of one unique key by its number.
pub trait Binds<DB: Database, D, const N: usize = 0> {
    /// The columns of the key; of a request the fingerprint as well.
    const FOUND_BY: Elements<DB> = &[];
    /// A version and a fence.
    const NUMBERS: Elements<DB> = &[];
    /// The columns that are written.
    const WRITTEN: Elements<DB> = &[];
    /// Where those that are written stand among all.
    const PLACES: &'static [usize] = &[];
    /// The columns that a new row is given.
    const NEW: Elements<DB> = &[];
}

/// A condition that is always met.
const MET: &str = "true";

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

impl<DB: Describes, T: VersionedSql<DB> + Binds<DB, by::Versioned>> Of<DB, T> {
    pub const VERSIONED: &'static [Text<DB>] = &[
        Text::whole("load", &[T::LOAD]),
        Text::whole("insert", &[T::INSERT]),
        Text::whole("update", &[T::UPDATE]),
        Text::whole("touch", &[T::TOUCH]),
        Text::whole("delete", &[T::DELETE]),
        Text::made("save", || save_of_all::<DB, T>(Self::told_by())),
        Text::made("save", Self::look),
        Text::whole("load_many", &[T::LOAD_MANY]).binds([T::FOUND_BY, &[], &[]]),
        Text::whole("load_many", &[if_any(T::LOAD_ANY)]).binds([T::FOUND_BY, &[], &[]]),
        Text::whole("insert_many", &[if_any(T::INSERT_MANY)])
            .sent(Sent::OfMany)
            .binds([T::NEW, &[], &[]]),
        Text::whole("update_many", &[Way::AtOnce.of(T::UPDATE_MANY)])
            .sent(Sent::OfMany)
            .binds([T::FOUND_BY, T::WRITTEN, T::NUMBERS]),
        Text::whole("update_many", &[Way::InOrder.of(T::UPDATE_MANY)])
            .sent(Sent::OfMany)
            .binds([T::FOUND_BY, T::WRITTEN, T::NUMBERS]),
        Text::made("save_many", || {
            save_many_of_all::<DB, T>(Self::told_by(), Way::AtOnce)
        })
        .sent(Sent::OfMany)
        .binds([T::FOUND_BY, T::NUMBERS, T::WRITTEN]),
        Text::made("save_many", || {
            save_many_of_all::<DB, T>(Self::told_by(), Way::InOrder)
        })
        .sent(Sent::OfMany)
        .binds([T::FOUND_BY, T::NUMBERS, T::WRITTEN]),
        Text::whole("delete_many", &[Way::AtOnce.of(T::DELETE_MANY)])
            .sent(Sent::OfMany)
            .binds([T::FOUND_BY, T::NUMBERS, &[]]),
        Text::whole("delete_many", &[Way::InOrder.of(T::DELETE_MANY)])
            .sent(Sent::OfMany)
            .binds([T::FOUND_BY, T::NUMBERS, &[]]),
        Text::whole("update", &[if_any(T::UPDATE_FOLD)])
            .sent(Sent::OnLanes)
            .binds([T::FOUND_BY, T::WRITTEN, T::NUMBERS]),
        Text::whole("update", &[if_any(T::HELD)])
            .sent(Sent::OnLanes)
            .binds([T::FOUND_BY, &[], &[]]),
    ];

    /// Without a comparison of checked columns: the operator is the database's own for each type.
    fn look() -> String {
        match T::LOOK {
            ["", ..] => String::new(),
            [head, middle, tail] => [head, middle, MET, tail].concat(),
        }
    }

    /// How many values tell a row from others, and from what it was.
    fn told_by() -> usize {
        T::FOUND_BY.len() + T::NUMBERS.len()
    }
}

impl<DB: Describes, T: CounterRowSql<DB>> Of<DB, T> {
    pub const COUNTERS: &'static [Text<DB>] = &[Text::whole("get", &[T::GET])];
}

impl<DB, T, const N: usize> Of<DB, T, N>
where
    DB: Describes,
    T: CounterSql<DB, N> + Binds<DB, by::Counter>,
{
    pub const COUNTER: &'static [Text<DB>] = &[
        Text::whole(T::METHODS.0, &[if_any(T::ADD)]),
        Text::whole(T::METHODS.0, &[T::ADD_EXISTING]),
        Text::whole(T::METHODS.0, &[T::READ]),
        Text::whole(T::METHODS.1, &[if_any(T::LOCK_BATCH)]).binds([T::FOUND_BY, &[], &[]]),
        Text::made(T::METHODS.1, || {
            T::BATCH.map(Self::batch).unwrap_or_default()
        })
        .binds([T::FOUND_BY, &[], &[]]),
        Text::made(T::METHODS.1, || Self::batch(T::EXISTING_BATCH)).binds([T::FOUND_BY, &[], &[]]),
        Text::whole(T::METHODS.0, &[if_any(T::FOLD)])
            .sent(Sent::OnLanes)
            .binds([T::FOUND_BY, &[], &[]]),
        Text::whole(T::METHODS.0, &[if_any(T::FOLD_ONE)]).sent(Sent::OnLanes),
        Text::whole(T::METHODS.0, &[if_any(T::HELD)])
            .sent(Sent::OnLanes)
            .binds([T::FOUND_BY, &[], &[]]),
    ];

    fn batch(batch: BatchSql) -> String {
        with_a_row::<DB>(batch.sql, T::FOUND_BY.len() + 1)
    }
}

impl<DB: Describes, T: FindOrCreateSql<DB>> Of<DB, T> {
    pub const NEW: &'static [Text<DB>] = &[Text::whole("create", &[T::CREATE])];
}

impl<DB, T, const N: usize> Of<DB, T, N>
where
    DB: Describes,
    T: UniqueKeySql<DB, N> + Binds<DB, by::FindOrCreate, N>,
{
    pub const UNIQUE: &'static [Text<DB>] = &[
        Text::whole(T::METHODS[0], &[T::FIND]),
        Text::whole(T::METHODS[1], &[T::INSERT]),
        Text::whole(T::METHODS[2], &[if_any(T::UPSERT)]),
        Text::whole(T::METHODS[4], &[if_any(T::UPDATE_OR_CREATE)]),
        Text::gaps(T::METHODS[5], &T::UPSERT_IF, MET),
        Text::gaps(T::METHODS[5], &T::LOOK, MET),
        Text::whole(T::METHODS[6], &[if_any(T::FIND_MANY)])
            .sent(Sent::OfMany)
            .binds([T::FOUND_BY, &[], &[]]),
        Text::whole(T::METHODS[6], &[if_any(T::FIND_ANY)])
            .sent(Sent::OfMany)
            .binds([T::FOUND_BY, &[], &[]]),
        Text::whole(T::METHODS[6], &[Way::AtOnce.of(T::INSERT_MANY)])
            .sent(Sent::OfMany)
            .binds([T::NEW, &[], &[]]),
        Text::whole(T::METHODS[6], &[Way::InOrder.of(T::INSERT_MANY)])
            .sent(Sent::OfMany)
            .binds([T::NEW, &[], &[]]),
        Text::whole(T::METHODS[7], &[Way::AtOnce.of(T::UPSERT_MANY)])
            .sent(Sent::OfMany)
            .binds([T::NEW, &[], &[]]),
        Text::whole(T::METHODS[7], &[Way::InOrder.of(T::UPSERT_MANY)])
            .sent(Sent::OfMany)
            .binds([T::NEW, &[], &[]]),
    ];
}

impl<DB: Describes, T: GuardedSql<DB> + Binds<DB, by::Guarded>> Of<DB, T> {
    pub const GUARDED: &'static [Text<DB>] = &[
        Text::gaps("delete_if", &T::DELETE, MET),
        Text::made("update_if", || {
            update_of_all::<DB, T>(T::FOUND_BY.len(), T::PLACES)
        }),
        Text::gaps("update_if", &T::LOOK, MET),
        Text::whole("exists", &[T::EXISTS]),
    ];
}

impl<DB: Describes, T: LockableSql<DB> + Binds<DB, by::Lockable>> Of<DB, T> {
    pub const LOCKABLE: &'static [Text<DB>] = &[
        Text::whole("lock", &[T::SELECT, DB::FOR_UPDATE]),
        Text::whole("lock", &[if_any(T::WRITE_LOCK)]),
        Text::gaps("lock_where", &T::SELECT_WHERE, MET),
        Text::whole("lock_many", &[T::SELECT_MANY, DB::FOR_UPDATE]).binds([T::FOUND_BY, &[], &[]]),
        Text::whole("save", &[T::UPDATE]),
    ];
}

#[cfg(feature = "idempotent")]
impl<DB, T> Of<DB, T>
where
    DB: Describes,
    T: crate::job::idempotent::IdempotentSql<DB> + Binds<DB, by::Idempotent>,
{
    pub const IDEMPOTENT: &'static [Text<DB>] = &[
        Text::whole("once", &[T::CLAIM]),
        Text::whole("once", &[T::READ]).binds_values(T::FOUND_BY),
        Text::whole("once", &[T::FINISH]),
        Text::whole("once", &[T::RELEASE]),
        Text::whole("extend", &[T::EXTEND]),
        Text::whole("purge", &[T::PURGE]),
    ];
}

impl<DB: Describes, T> Of<DB, T>
where
    T: QueueSql<DB> + Enqueued<DB> + CancelSql<DB> + Binds<DB, by::Queue>,
{
    pub const QUEUE: &'static [Text<DB>] = &[
        Text::whole("enqueue", &[T::ENQUEUE]),
        Text::whole("claim", T::CLAIM),
        Text::whole("claim", T::LIST_DUE),
        Text::whole("complete", &[T::COMPLETE]),
        Text::whole("complete", &[T::LOOK]),
        Text::whole("rescue", &T::RESCUE),
        Text::whole("rescue", &[T::LIST_ENDED]),
        Text::whole("rescue", &[T::SET_ASIDE[0]]),
        Text::whole("rescue", &[T::SET_ASIDE[1]]),
        Text::whole("redrive", &T::REDRIVE),
        Text::whole("redrive", &T::LIST_DEAD),
        Text::whole("cancel", &[T::CANCEL]),
        Text::whole("cancel", &[T::STATE_OF]),
        Text::whole("stats", &T::STATS),
        Self::of_worker("complete", &T::COMPLETE_MANY),
        Self::of_worker("complete", &Self::IN_ORDER[0]),
        Self::of_worker("settle", &Self::of_few(T::SETTLE)),
        Self::of_worker("settle", &Self::of_few_in_order(1)),
        Self::of_worker("start", &Self::of_few(T::START)),
        Self::of_worker("start", &Self::of_few_in_order(2)),
        Self::of_worker("extend", &T::EXTEND),
        Self::of_worker("extend", &Self::IN_ORDER[3]),
    ];

    const IN_ORDER: [[&'static str; 3]; 4] = match T::IN_ORDER {
        Some(in_order) => in_order,
        None => [[""; 3]; 4],
    };

    const fn of_few([head, tail]: [&'static str; 2]) -> [&'static str; 3] {
        [head, T::BY_KEY, tail]
    }

    const fn of_few_in_order(place: usize) -> [&'static str; 4] {
        let [head, written, tail] = Self::IN_ORDER[place];
        [head, written, T::BY_KEY, tail]
    }

    const fn of_worker(method: &'static str, parts: &'static [&'static str]) -> Text<DB> {
        let text = Text::whole(method, parts).sent(Sent::ByWorker);
        text.binds([T::FOUND_BY, &[], &[]])
    }
}

impl<DB: Describes, T: EnqueueSql<DB> + Binds<DB, by::Queue>> Of<DB, T> {
    /// Of a queue without a unique key.
    pub const ENQUEUE_MANY: &'static [Text<DB>] = &[Text::made("enqueue_many", || {
        with_a_row::<DB>(T::ENQUEUE_MANY, T::GIVEN + 1)
    })
    .binds([T::NEW, &[], &[]])];
}

impl<DB: Describes, T: PurgeSql<DB>> Of<DB, T> {
    /// Of a queue that keeps when a job was done.
    pub const PURGE: &'static [Text<DB>] = &[
        Text::whole("purge", &T::PURGE[0]),
        Text::whole("purge", &T::PURGE[1]),
        Text::whole("purge", &T::LIST_OLD[0]),
        Text::whole("purge", &T::LIST_OLD[1]),
    ];
}

/// The other half of lists that not every queue has: the inherent constants win over the trait's.
pub trait NoList {
    type Database: Database;
    const ENQUEUE_MANY: &'static [Text<Self::Database>] = &[];
    const PURGE: &'static [Text<Self::Database>] = &[];
}

impl<DB: Database, T, const N: usize> NoList for Of<DB, T, N> {
    type Database = DB;
}

/// A statement with one row of so many values, where they are not arrays.
fn with_a_row<DB: Describes>([head, tail]: [&'static str; 2], values: usize) -> String {
    if tail.is_empty() {
        return head.to_owned();
    }
    let mut statement = Statement::<DB>::composed(head);
    statement.push_rows(1, values);
    statement.push(tail);
    statement.into_text()
}

/// What the server does not take.
pub(super) async fn prepare<DB: Describes>(
    link: &mut Link<'_, DB>,
    model: &Model,
    kind: Kind,
    texts: Texts<DB>,
) -> Result<Vec<Finding>, sqlx::Error> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut reported: Vec<String> = Vec::new();
    let mut of_one_row: Vec<String> = Vec::new();
    for text in texts.concat() {
        let name = text.to_string();
        let Some(sql) = text.sql().filter(|_| !reported.contains(&name)) else {
            continue;
        };
        let Some(types) = text.binds.types() else {
            continue;
        };
        let Err(error) = prepare_one(link, sql, &types).await? else {
            continue;
        };
        match text.binds {
            // What is wrong with one row is wrong with many.
            Bound::Arrays(_) if of_one_row.contains(&error) => continue,
            Bound::Arrays(_) => {}
            Bound::Values(_) => of_one_row.push(error.clone()),
        }
        let alone = match text.sent {
            Sent::OfMany => Some("each row is then by itself; in a transaction the call fails"),
            Sent::OnLanes => Some("each call is then by itself"),
            Sent::Always | Sent::ByWorker => None,
        };
        let level = match alone.is_some() || may_be_unused(model, kind, text.method) {
            true => Level::Note,
            false => Level::Error,
        };
        let message = format!("{name} is not taken by the server: {error}");
        let mut finding = Finding::new(Rule::Statement, level, Place::Struct, message);
        finding.note = alone.map(str::to_owned);
        findings.push(finding);
        reported.push(name);
    }
    Ok(findings)
}

/// The fields whose types the server does not know. A statement about one row is prepared without types, and a call sends them by these names.
pub(super) async fn unknown_types<DB: Describes>(
    link: &mut Link<'_, DB>,
    table: &Table,
    model: &Model,
    types: Vec<(usize, DB::TypeInfo)>,
) -> Result<Vec<Finding>, sqlx::Error> {
    let mut findings = Vec::new();
    for (number, ty) in types {
        let Some(field) = model.fields.get(number) else {
            continue;
        };
        let mut columns = table.columns.iter();
        // What is missing is reported as that.
        let Some(column) = columns.find(|column| column.name == field.column()) else {
            continue;
        };
        let name = ty.name().to_owned();
        if prepare_one(link, "SELECT $1".to_owned(), &[ty])
            .await?
            .is_ok()
        {
            continue;
        }
        let place = Place::Field(field.field.clone());
        let message = format!("the database has no type `{name}`, which this field is sent as");
        let mut finding = Finding::new(Rule::Type, Level::Error, place, message);
        finding.note = Some(format!("column `{}` is `{}`", column.name, column.ty));
        // The name as sqlx takes it, with its quotes and its schema.
        let of_enum = || format!("`#[sqlx(type_name = {:?})]` at `{}`", column.ty, field.ty);
        finding.help = (!column.values.is_empty()).then(of_enum);
        findings.push(finding);
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
    types: &[DB::TypeInfo],
) -> Result<Result<(), String>, sqlx::Error> {
    let sql = AssertSqlSafe(sql + MARK).into_sql_str();
    let prepared = if DB::ERROR_ABORTS_TRANSACTION && in_transaction::<DB>(link) {
        let mut savepoint = Atomic::begin(link.reborrow()).await?;
        let prepared = DB::prepare(savepoint.link(), sql, types).await;
        savepoint.rollback().await?;
        prepared
    } else {
        DB::prepare(link, sql, types).await
    };
    match prepared {
        Err(error) if lacks_types(&error) => Ok(Ok(())),
        // The type of an array is asked for by its name.
        Err(error @ sqlx::Error::TypeNotFound { .. }) => Ok(Err(error.to_string())),
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
