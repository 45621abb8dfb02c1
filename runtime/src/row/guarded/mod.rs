//! Updates and deletes under a condition, in one statement and without a version.

mod error;
mod set;

use std::future::Future;
use std::sync::{Mutex, PoisonError};

pub use self::error::{GuardError, Refusal};
#[doc(hidden)]
pub use self::set::Anything;
pub use self::set::Set;
use crate::db::Backend;
use crate::db::atomic::{Atomic, Reruns, in_transaction};
use crate::db::column::Read;
use crate::db::condition::{Always, Condition, Expression, Names};
use crate::db::error::{DatabaseError, Operation, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::model::{Model, acquire};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Compared, Fetched, Statement, write_one};

/// The derive, for [`Model`].
#[derive(Debug)]
pub struct Derive;

/// The statements of a model for one database. Each is cut where the runtime writes something.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not derive `Guarded` for `{DB}`",
    label = "this needs the columns of `{Self}` as constants",
    note = "add it: `#[derive(Guarded, ...)]`"
)]
pub trait GuardedSql<DB: Backend>: Model<Derive> + Names<DB> {
    /// Reads all columns.
    const ROW: Read<DB, Self>;
    /// Where the version stands among all columns, and the highest that there is.
    const VERSION_LIMIT: Option<(usize, i64)>;
    /// Assignments, a condition.
    const UPDATE: [&'static str; 3];
    /// A condition.
    const DELETE: [&'static str; 2];
    /// All columns, and 1 if a condition is met, else 0.
    const LOOK: [&'static str; 2];
    /// 1 if there is a row, else 0.
    const EXISTS: &'static str;

    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
}

from_write_failure!(GuardError<T>);

/// Begins a statement about the row with this key.
fn about<DB: Backend, T: GuardedSql<DB>>(head: &'static str, key: &T::Key<'_>) -> Statement<DB> {
    let mut statement = Statement::composed(head);
    T::bind_key(key, &mut Compared(&mut statement));
    statement
}

/// Writes to the row with this key if it meets the condition.
pub fn update_if<'c, DB: Backend, T: GuardedSql<DB>, E: Expression<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    condition: Condition<T, E>,
    change: impl FnOnce(&mut Set<DB, T>),
) -> impl Future<Output = Result<T, GuardError<T>>> + Send {
    write("update_if", db, key, condition, change)
}

/// Writes to the row with this key.
pub fn patch<'c, DB: Backend, T: GuardedSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    change: impl FnOnce(&mut Set<DB, T>),
) -> impl Future<Output = Result<T, GuardError<T>>> + Send {
    write("patch", db, key, Condition::new(Always), change)
}

fn write<'c, DB: Backend, T: GuardedSql<DB>, E: Expression<DB>>(
    method: &'static str,
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    condition: Condition<T, E>,
    change: impl FnOnce(&mut Set<DB, T>),
) -> impl Future<Output = Result<T, GuardError<T>>> + Send {
    let mut set = Set::new(about::<DB, T>(T::UPDATE[0], &key));
    change(&mut set);
    let is_empty = set.is_empty();
    // The arguments of sqlx's databases are `Send` and not `Sync`.
    let set = Mutex::new(set);
    T::observed::<DB, _>(method, async move {
        let set = || set.lock().unwrap_or_else(PoisonError::into_inner);
        let operation = || T::operation(method, &key);
        if let Some(column) = set().twice() {
            return Err(GuardError::SetTwice(operation(), column));
        }
        let look = || {
            let mut statement = about::<DB, T>(T::LOOK[0], &key);
            set().guard(&condition, &mut statement);
            statement.push(T::LOOK[1]);
            statement
        };
        let write = || set().statement(&condition);
        let write: Option<Make<'_, DB>> = (!is_empty).then_some(&write);
        run::<DB, T>(&operation, db, write, &look, T::VERSION_LIMIT).await
    })
}

/// The text of a write without a condition that sets all these columns, if there are any, of a key of so many.
#[cfg(feature = "schema")]
pub(crate) fn update_of_all<DB: Backend, T: GuardedSql<DB>>(
    keys: usize,
    columns: &[usize],
) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let mut statement = Statement::composed(T::UPDATE[0]);
    statement.bind_nulls(keys);
    let mut set = Set::<DB, T>::new(statement);
    set.assign_nulls(columns);
    set.statement(&Condition::new(Always)).into_text()
}

/// Deletes the row with this key if it meets the condition.
pub fn delete_if<'c, DB: Backend, T: GuardedSql<DB>, E: Expression<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    condition: Condition<T, E>,
) -> impl Future<Output = Result<T, GuardError<T>>> + Send {
    delete("delete_if", db, key, condition)
}

/// Deletes the row with this key, if there is one.
pub fn delete_by_key<'c, DB: Backend, T: GuardedSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<Option<T>, GuardError<T>>> + Send {
    async move {
        match delete("delete_by_key", db, key, Condition::new(Always)).await {
            Ok(row) => Ok(Some(row)),
            Err(GuardError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

async fn delete<'c, DB: Backend, T: GuardedSql<DB>, E: Expression<DB>>(
    method: &'static str,
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    condition: Condition<T, E>,
) -> Result<T, GuardError<T>> {
    let about = |[head, tail]: [&'static str; 2]| {
        let mut statement = about::<DB, T>(head, &key);
        condition.write(&mut statement);
        statement.push(tail);
        statement
    };
    let (write, look) = (|| about(T::DELETE), || about(T::LOOK));
    let operation = || T::operation(method, &key);
    let work = run::<DB, T>(&operation, db, Some(&write), &look, None);
    T::observed::<DB, _>(method, work).await
}

type Make<'m, DB> = &'m (dyn Fn() -> Statement<DB> + Sync);

/// Runs a write that returns the row, or nothing but the look at it.
async fn run<'c, DB: Backend, T: GuardedSql<DB>>(
    operation: &(dyn Fn() -> Operation + Sync),
    db: impl Source<'c, DB>,
    write: Option<Make<'_, DB>>,
    look: Make<'_, DB>,
    version: Option<(usize, i64)>,
) -> Result<T, GuardError<T>> {
    let mut opened = acquire(db, operation).await.map_err(GuardError::Database)?;
    let look = Look {
        make: look,
        holds: T::NAMES.len(),
        version,
    };
    match attempt(write, &look, &mut opened.link()).await {
        Outcome::Row(row) => (T::ROW)(&row).map_err(|error| {
            let error = DatabaseError::new(operation(), error);
            match write {
                Some(_) => GuardError::Written(error),
                None => GuardError::Database(error),
            }
        }),
        Outcome::Refused(row) => Err(match (T::ROW)(&row) {
            Ok(current) => GuardError::Refused(Box::new(Refusal {
                operation: operation(),
                current,
            })),
            Err(error) => GuardError::Database(DatabaseError::new(operation(), error)),
        }),
        Outcome::Missing => Err(GuardError::NotFound(operation())),
        Outcome::Several => Err(GuardError::NotUnique(operation())),
        Outcome::NullVersion => Err(GuardError::NullVersion(operation())),
        Outcome::VersionOverflow => Err(GuardError::VersionOverflow(operation())),
        Outcome::Ignored => Err(GuardError::Ignored(operation())),
        Outcome::Failed {
            error,
            has_written: true,
            ..
        } => Err(GuardError::Written(DatabaseError::new(operation(), error))),
        Outcome::Failed {
            error,
            in_transaction,
            ..
        } => Err(WriteFailure::new(operation(), error, in_transaction).into()),
    }
}

/// What became of a write under a condition.
enum Outcome<R> {
    /// It was written, or if nothing was to be, meets the condition.
    Row(R),
    Refused(R),
    Missing,
    Several,
    NullVersion,
    VersionOverflow,
    Ignored,
    Failed {
        error: sqlx::Error,
        has_written: bool,
        in_transaction: bool,
    },
}

impl<R> Outcome<R> {
    /// Nothing was written.
    fn failed(error: sqlx::Error) -> Self {
        Self::Failed {
            error,
            has_written: false,
            in_transaction: true,
        }
    }
}

/// How the row is looked at that a write did not meet.
struct Look<'m, DB: Backend> {
    make: Make<'m, DB>,
    /// Which column says whether the condition is met.
    holds: usize,
    /// Which column is the version that has to go up, and how far it can.
    version: Option<(usize, i64)>,
}

impl<DB: Backend> Look<'_, DB> {
    /// `Ok` with the row if nothing is in the way of the write.
    async fn run(
        &self,
        lock: &'static str,
        link: &mut Link<'_, DB>,
    ) -> Result<DB::Row, Outcome<DB::Row>> {
        let mut statement = (self.make)();
        statement.push(lock);
        let row = match statement.fetch_one(link).await {
            Ok(Fetched::One(row)) => row,
            Ok(Fetched::None) => return Err(Outcome::Missing),
            Ok(Fetched::Several) => return Err(Outcome::Several),
            Err(error) => return Err(Outcome::failed(error)),
        };
        let number = |index| DB::get_i64(&row, index).map_err(Outcome::failed);
        if number(self.holds)? != Some(1) {
            return Err(Outcome::Refused(row));
        }
        if let Some((index, highest)) = self.version {
            match number(index)? {
                None => return Err(Outcome::NullVersion),
                Some(version) if version >= highest => return Err(Outcome::VersionOverflow),
                Some(_) => {}
            }
        }
        Ok(row)
    }
}

/// It knows no model, so that it is compiled once.
async fn attempt<DB: Backend>(
    write: Option<Make<'_, DB>>,
    look: &Look<'_, DB>,
    link: &mut Link<'_, DB>,
) -> Outcome<DB::Row> {
    let in_transaction = in_transaction::<DB>(link);
    let Some(write) = write else {
        let looked = look.run("", link).await;
        return looked.map_or_else(|outcome| outcome, Outcome::Row);
    };
    match write_one(write, link).await {
        Ok(Fetched::One(row)) => return Outcome::Row(row),
        Ok(Fetched::Several) => return Outcome::Several,
        Ok(Fetched::None) => {}
        Err(error) => {
            return Outcome::Failed {
                has_written: DB::has_written(link, &error).await,
                in_transaction,
                error,
            };
        }
    }
    if let Err(outcome) = look.run("", link).await {
        return outcome;
    }
    let mut reruns = Reruns::new(in_transaction);
    loop {
        match attempt_locked(write, look, link).await {
            Outcome::Failed { error, .. } if reruns.after(Fault::of(&error), link).await => {}
            outcome => return outcome,
        }
    }
}

/// The row meets the condition by now: a concurrent writer changed it in between, or something drops the write. Under a lock it is one
/// or the other.
async fn attempt_locked<DB: Backend>(
    write: Make<'_, DB>,
    look: &Look<'_, DB>,
    link: &mut Link<'_, DB>,
) -> Outcome<DB::Row> {
    let in_transaction = in_transaction::<DB>(link);
    let mut atomic = match Atomic::begin(link.reborrow()).await {
        Ok(atomic) => atomic,
        Err(error) => return Outcome::failed(error),
    };
    let outcome = match look.run(DB::FOR_UPDATE, atomic.link()).await {
        Err(outcome) => outcome,
        Ok(_) => match write().fetch_one(atomic.link()).await {
            Ok(Fetched::One(row)) => Outcome::Row(row),
            Ok(Fetched::Several) => Outcome::Several,
            Ok(Fetched::None) => Outcome::Ignored,
            Err(error) => Outcome::failed(error),
        },
    };
    if !matches!(outcome, Outcome::Row(_)) {
        let undone = atomic.rollback().await;
        return undone.map_or_else(Outcome::failed, |()| outcome);
    }
    match atomic.commit().await {
        Ok(()) => outcome,
        Err(error) => Outcome::Failed {
            error,
            has_written: false,
            in_transaction,
        },
    }
}

/// Whether there is a row with this key.
pub fn exists<'c, DB: Backend, T: GuardedSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<bool, DatabaseError>> + Send {
    T::observed::<DB, _>("exists", async move {
        let operation = || T::operation("exists", &key);
        let mut opened = acquire(db, &operation).await?;
        let mut statement = Statement::literal(T::EXISTS);
        T::bind_key(&key, &mut Compared(&mut statement));
        let found = statement.fetch_one(&mut opened.link()).await;
        let found = found.and_then(|fetched| match fetched {
            Fetched::One(row) => DB::get_i64(&row, 0),
            Fetched::None | Fetched::Several => Ok(None),
        });
        match found {
            Ok(found) => Ok(found == Some(1)),
            Err(error) => Err(DatabaseError::new(operation(), error)),
        }
    })
}
