//! Optimistic locking: updates and deletes that check the version they were based on.

mod checked;
mod conflict;
mod edit;
mod edit_at;
mod error;
mod insert;
mod many;
mod only_if;

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use self::checked::{Checked, Failure, Met, Unfit, Unread, Unwritten, Versions, Write};
pub use self::conflict::{Conflict, MergeError};
pub use self::edit::Edit;
use self::edit::Save;
#[cfg(feature = "schema")]
pub(crate) use self::edit::save_of_all;
pub use self::edit_at::{EditAt, EditAtError, Outdated, edit_at};
pub use self::error::{DeleteError, LoadError, UpdateError};
pub use self::insert::{InsertError, insert, insert_many};
pub(crate) use self::insert::{write_many, write_new};
pub(crate) use self::many::rows_of_a_statement;
#[cfg(feature = "schema")]
pub(crate) use self::many::save_many_of_all;
pub use self::many::{delete_many, load_many, save_many, update_many};
pub use self::only_if::OnlyIf;
use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::as_read::{AsRead, Stored};
use crate::db::column::{Changes, Read};
use crate::db::error::Operation;
use crate::db::lanes::{Call, Fold, Values};
use crate::db::model::{Model, acquire};
use crate::db::shell::Shell;
use crate::db::source::{Opened, Source};
use crate::db::statement::{Bind, Compared, Statement};
use crate::db::stored;
use crate::observe;

/// How often `update_with` loads and applies before it gives up.
const ATTEMPTS: u32 = 32;
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

/// The derive, for [`Model`].
#[derive(Debug)]
pub struct Derive;

/// What `#[derive(Versioned)]` knows about a model beyond that, the same for every database.
pub trait Versioned: for<'k> Model<Derive, Key<'k>: PartialEq> {
    /// The highest version that the field's type can hold.
    const MAX_VERSION: i64;
    /// Where the version stands among all columns. Where there is none, behind them: there a look says 0 if what is checked is as it was
    /// read, else 1.
    const VERSION_INDEX: usize;
    /// Whether a write compares columns instead of a version.
    const CHECKS: bool = false;
    /// Whether a write sets the next version. Else the database does, once for all writes of a transaction.
    const RISES: bool = true;
    /// Whether the key of a new row is that of the struct, and not made up by the database.
    const KEY_IS_GIVEN: bool = true;
    /// The fields that an update writes.
    const COLUMNS: &'static [&'static str];

    /// `Clone`, which is not a supertrait because the compiler would complain about a missing one five times.
    const COPY: fn(&Self) -> Self;

    /// The key of this row.
    fn key(&self) -> Self::Key<'_>;
    /// The columns whose values differ in any of the model's databases.
    fn changes(&self, other: &Self) -> Changes;
    /// Takes over the given columns, and the fence.
    fn adopt(&mut self, from: &Self, columns: &Changes);
}

/// A model whose rows have a version.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no version",
    label = "this is for models with a version",
    note = "`save` writes the changed columns, and compares the `check` fields with the row as it was read"
)]
pub trait HasVersion: Versioned {}

/// The statements of a model for one database.
pub trait VersionedSql<DB: Backend>: Versioned {
    /// Reads all columns.
    const ROW: Read<DB, Self>;
    /// Reads all columns.
    const LOAD: &'static str;
    /// Reads all columns of many rows, and the number of each.
    const LOAD_MANY: &'static str;
    /// The same with the key of each instead, where that says whose row it is.
    const LOAD_ANY: Option<&'static str> = None;
    /// Inserts the row and reads all columns.
    const INSERT: &'static str;
    /// The same of many rows, with the number of each, where a statement takes those.
    const INSERT_MANY: Option<&'static str> = None;
    /// Writes all columns and the next version.
    const UPDATE: &'static str = "";
    /// Writes the next version.
    const TOUCH: &'static str = "";
    /// Deletes the row.
    const DELETE: &'static str;
    /// The same of many rows, where a statement takes those: at once, with the key of each that was written, and in the order of their keys, with its
    /// number.
    const UPDATE_MANY: Option<[&'static str; 2]> = None;
    /// The same of a deletion.
    const DELETE_MANY: Option<[&'static str; 2]> = None;
    /// Whether calls that wait for [`Lanes`](crate::Lanes) read together.
    const FOLDS: bool = true;
    /// `UPDATE_MANY` where each row is another caller's: see [`Lanes`](crate::Lanes).
    const UPDATE_FOLD: Option<&'static str> = None;
    /// Says which of many rows another session has locked, for [`Lanes`](crate::Lanes).
    const HELD: Option<&'static str> = None;
    /// Writes some columns and the next version: what stands before the changed columns, between them and a condition, and behind it.
    const SAVE: [&'static str; 3];
    /// The same of many rows, in both ways: what stands before the names of the changed columns, a NULL for each in the second way, their arrays, and what
    /// they are set to; and what stands after that.
    const SAVE_MANY: Option<([&'static str; 4], [&'static str; 5])> = None;
    /// `"name" = ` for each of `Versioned::COLUMNS`.
    const SET: &'static [&'static str];

    /// The columns that are compared with what was read, instead of a version: where each stands among all columns, and its name.
    const CHECKED: &'static [(usize, &'static str)] = &[];
    /// Reads all columns, whether those are as they were read, and whether a condition is met.
    const LOOK: [&'static str; 3] = [""; 3];

    /// Binds the key as `$1…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds many keys, before [`Backend::bind_rows`]: one after the other, or an array per column.
    fn bind_keys(keys: &[&Self::Key<'_>], to: &mut impl Bind<DB>) {
        for key in keys {
            Self::bind_key(key, to);
        }
    }
    /// Binds `CHECKED`.
    fn bind_checked(&self, _: &mut impl Bind<DB>) {}
    /// Binds `Versioned::COLUMNS`.
    fn bind_columns(&self, to: &mut impl Bind<DB>);
    /// Binds what an insert is given.
    fn bind_new(&self, to: &mut impl Bind<DB>);
    /// Takes over what the database changed, from a row of a RETURNING clause. Where columns are checked, all are read instead.
    fn read_back(&mut self, _: &DB::Row) -> Result<(), sqlx::Error> {
        Ok(())
    }

    /// The columns whose values differ in this database.
    fn stored_changes(&self, other: &Self) -> Changes {
        // One closure for both: each is compiled for each model.
        let values = |row| move |to: &mut _| Self::bind_columns(row, to);
        stored::changes::<DB>(&values(self), &values(other))
    }
}

impl<DB: Backend, T: VersionedSql<DB>> Checked<DB> for T {
    fn operation(&self, method: &'static str) -> Operation {
        T::operation(method, &self.key())
    }

    fn versions(&self) -> Versions {
        Versions {
            expected: Model::version(self).unwrap_or_default(),
            highest: T::MAX_VERSION,
            index: T::VERSION_INDEX,
            holds: None,
        }
    }

    fn statement(&self, write: Write, stored: &Stored<DB>) -> Statement<DB> {
        let text = match write {
            Write::Update => T::UPDATE,
            Write::Touch => T::TOUCH,
            Write::Delete => return deletion(self, self, stored),
        };
        let mut statement = Statement::literal(text);
        if matches!(write, Write::Update) {
            self.bind_columns(&mut statement);
        }
        bind_unchanged(self, &mut statement);
        statement
    }

    fn look(&self, stored: &Stored<DB>) -> Statement<DB> {
        look(self, stored)
    }

    fn fold(&self, write: Write) -> Option<Fold> {
        let sql = T::UPDATE_FOLD.filter(|_| matches!(write, Write::Update))?;
        Some(Fold::write(sql, T::HELD))
    }

    fn call(&self) -> Option<Call<DB>> {
        Call::of(|to| bind_row(self, to))
    }

    fn reads_the_same(&self, row: &DB::Row) -> Option<Stored<DB>> {
        reads_the_same(self, row)
    }
}

/// Binds what one of many rows is, and is to be.
fn bind_row<DB: Backend, T: VersionedSql<DB>>(row: &T, to: &mut Values<DB>) {
    T::bind_key(&row.key(), to);
    to.end_key();
    row.bind_columns(to);
    to.number(row.version().unwrap_or_default());
    if let Some(fence) = row.fence() {
        to.number(fence.get());
    }
}

/// Reads the row as it now is, and whether what is checked is as it was in `base`.
fn look<DB: Backend, T: VersionedSql<DB>>(base: &T, stored: &Stored<DB>) -> Statement<DB> {
    if !T::CHECKS {
        return select::<DB, T>(&base.key());
    }
    look_if(base, stored, |statement| statement.push("TRUE"))
}

/// The same, and whether the row meets a condition.
fn look_if<DB: Backend, T: VersionedSql<DB>>(
    base: &T,
    stored: &Stored<DB>,
    condition: impl FnOnce(&mut Statement<DB>),
) -> Statement<DB> {
    let [head, middle, tail] = T::LOOK;
    let mut statement = Statement::composed(head);
    T::bind_key(&base.key(), &mut Compared(&mut statement));
    check(base, stored, &mut statement);
    statement.push(middle);
    condition(&mut statement);
    statement.push(tail);
    statement
}

/// Deletes the row if it is as it was in `base`.
fn deletion<DB: Backend, T: VersionedSql<DB>>(
    base: &T,
    mine: &T,
    stored: &Stored<DB>,
) -> Statement<DB> {
    if !T::CHECKS {
        let mut statement = Statement::literal(T::DELETE);
        bind_unchanged(mine, &mut statement);
        return statement;
    }
    let mut statement = Statement::composed(T::DELETE);
    bind_unchanged(mine, &mut statement);
    check(base, stored, &mut statement);
    statement
}

/// ` AND "column" IS NOT DISTINCT FROM $n` for each column that is checked, with what was read from it, or with what it holds.
fn check<DB: Backend, T: VersionedSql<DB>>(
    base: &T,
    stored: &Stored<DB>,
    statement: &mut Statement<DB>,
) {
    base.bind_checked(&mut AsRead {
        statement,
        columns: T::CHECKED,
        stored,
    });
}

/// What the checked columns of a row hold, if they read as they did in `base`.
fn reads_the_same<DB: Backend, T: VersionedSql<DB>>(base: &T, row: &DB::Row) -> Option<Stored<DB>> {
    if !T::CHECKS {
        return None;
    }
    let now = (T::ROW)(row).ok()?;
    let values = |row| move |to: &mut _| T::bind_checked(row, to);
    if !stored::changes::<DB>(&values(base), &values(&now)).is_empty() {
        return None;
    }
    let stored = |(index, _): &(usize, _)| match DB::holds_null(row, *index) {
        Ok(true) => Ok(None),
        Ok(false) => DB::get_raw(row, *index).map(Some),
        Err(error) => Err(error),
    };
    T::CHECKED.iter().map(stored).collect::<Result<_, _>>().ok()
}

fn operation<T: Versioned>(row: &T, method: &'static str) -> Operation {
    <T as Model<Derive>>::operation(method, &row.key())
}

/// The key and the version that the row must still have, and the fence that it must not have seen pass.
fn bind_unchanged<DB: Backend, T: VersionedSql<DB>>(row: &T, statement: &mut Statement<DB>) {
    T::bind_key(&row.key(), &mut Compared(statement));
    if !T::CHECKS {
        statement.bind_i64(row.version().unwrap_or_default());
    }
    if let Some(fence) = row.fence() {
        statement.bind_i64(fence.get());
    }
}

fn select<DB: Backend, T: VersionedSql<DB>>(key: &T::Key<'_>) -> Statement<DB> {
    let mut statement = Statement::literal(T::LOAD);
    T::bind_key(key, &mut Compared(&mut statement));
    statement
}

/// Starts an edit of a copy.
pub fn edit<T: Versioned>(row: &T) -> Edit<T> {
    Edit::new((T::COPY)(row))
}

/// Reads the row with this key.
pub fn load<'c, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<T, LoadError>> + Send {
    read("load", db, key)
}

/// Reads the row again.
pub fn reload<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<T, LoadError>> + Send {
    read("reload", db, row.key())
}

fn read<'c, DB: Backend, T: VersionedSql<DB>>(
    method: &'static str,
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
) -> impl Future<Output = Result<T, LoadError>> + Send {
    let fold = db.lanes().filter(|_| T::FOLDS).and_then(|_| {
        let call = Call::of(|to| {
            T::bind_key(&key, to);
            to.end_key();
        });
        Some((Fold::read(T::LOAD_MANY), call?))
    });
    let work = checked::read(select::<DB, T>(&key), read_version::<T>(), fold, db);
    let work = T::observed::<DB, _>(method, work);
    Shell::new(work, (method, key), loaded::<DB, T>)
}

/// Which column of a row that is read is the version, if there is one.
fn read_version<T: Versioned>() -> Option<usize> {
    (!T::CHECKS).then_some(T::VERSION_INDEX)
}

fn loaded<DB: Backend, T: VersionedSql<DB>>(
    (method, key): &(&'static str, T::Key<'_>),
    found: Result<DB::Row, Unread>,
) -> Result<T, LoadError> {
    read_or::<DB, T>(method, key, found)
}

fn read_or<DB: Backend, T: VersionedSql<DB>>(
    method: &'static str,
    key: &T::Key<'_>,
    found: Result<DB::Row, Unread>,
) -> Result<T, LoadError> {
    let unread = match found {
        Ok(row) => match (T::ROW)(&row) {
            Ok(row) => return Ok(row),
            Err(error) => Unread::Failed(error),
        },
        Err(unread) => unread,
    };
    Err(unread.of(T::operation(method, key)))
}

/// Writes all columns if the row still has the version of this copy.
pub fn update<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    let work = checked::write::<DB>("update", row, Write::Update, db);
    let work = T::observed::<DB, _>("update", work);
    Shell::new(work, ("update", row), updated_copy::<DB, T>)
}

/// Bumps the version, and lets the database renew what it generates.
pub fn touch<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    let work = checked::write::<DB>("touch", row, Write::Touch, db);
    let work = T::observed::<DB, _>("touch", work);
    Shell::new(work, ("touch", row), updated_copy::<DB, T>)
}

fn updated_copy<DB: Backend, T: VersionedSql<DB>>(
    (method, mine): &(&'static str, &T),
    written: Result<DB::Row, Unwritten<DB::Row>>,
) -> Result<T, UpdateError<T>> {
    updated::<DB, T>(method, mine, None, written)
}

/// The current row.
fn updated<DB: Backend, T: VersionedSql<DB>>(
    method: &'static str,
    mine: &T,
    base: Option<&T>,
    written: Result<DB::Row, Unwritten<DB::Row>>,
) -> Result<T, UpdateError<T>> {
    let failure = match written {
        // Columns that are not checked can be another writer's.
        Ok(row) if T::CHECKS => match (T::ROW)(&row) {
            Ok(updated) => return Ok(updated),
            Err(error) => Unfit::Undecoded(error).of(Checked::<DB>::operation(mine, method)),
        },
        Ok(row) => {
            let mut updated = (T::COPY)(mine);
            let unfit = match updated.read_back(&row) {
                // What a trigger returned instead of the new row is what RETURNING shows: here the old one.
                Ok(()) if T::RISES && updated.version() == mine.version() => Unfit::Old,
                Ok(()) => return Ok(updated),
                Err(error) => Unfit::Undecoded(error),
            };
            unfit.of(Checked::<DB>::operation(mine, method))
        }
        Err(Unwritten::Met(met)) => match conflict::<DB, T, _>(mine, base, &met) {
            Ok(conflict) => return Err(UpdateError::Stale(conflict)),
            Err(failure) => failure,
        },
        Err(Unwritten::Failed(failure)) => failure,
    };
    Err(failure.into())
}

/// What is there, beside what should have been written.
fn conflict<DB: Backend, T: VersionedSql<DB>, O>(
    mine: &T,
    base: Option<&T>,
    met: &Met<DB::Row>,
) -> Result<Box<Conflict<T>>, Failure<O>> {
    let current = match (T::ROW)(&met.row) {
        Ok(current) => current,
        Err(error) => return Err(met.undecoded(error)),
    };
    match met.clash(T::VERSION, current.fence(), mine.fence()) {
        Ok(clash) => Ok(Box::new(Conflict {
            current,
            mine: (T::COPY)(mine),
            base: base.map(T::COPY),
            changes: T::stored_changes,
            clash,
        })),
        Err(failure) => Err(failure),
    }
}

/// Deletes the row if it still has the version of this copy.
pub fn delete<'c, DB: Backend, T: VersionedSql<DB>>(
    row: &T,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<(), DeleteError<T>>> + Send {
    let work = T::observed::<DB, _>("delete", checked::delete::<DB>(row, db));
    Shell::new(work, row, deleted::<DB, T>)
}

fn deleted<DB: Backend, T: VersionedSql<DB>>(
    row: &&T,
    deleted: Result<(), Unwritten<DB::Row, Infallible>>,
) -> Result<(), DeleteError<T>> {
    match deleted {
        Ok(()) => Ok(()),
        Err(Unwritten::Met(met)) => match conflict::<DB, T, _>(row, None, &met) {
            Ok(conflict) => Err(DeleteError::Stale(conflict)),
            Err(failure) => Err(failure.into()),
        },
        Err(Unwritten::Failed(failure)) => Err(failure.into()),
    }
}

/// Loads, applies and updates until no other writer comes between.
pub fn update_with<'c, DB: Backend, T: VersionedSql<DB>>(
    db: impl Source<'c, DB>,
    key: T::Key<'_>,
    mut change: impl FnMut(&mut T) + Send,
) -> impl Future<Output = Result<T, UpdateError<T>>> + Send {
    T::observed::<DB, _>("update_with", async move {
        const METHOD: &str = "update_with";
        let operation = || <T as Model<Derive>>::operation(METHOD, &key);
        let mut opened = acquire(db, &operation)
            .await
            .map_err(UpdateError::Database)?;
        let mut connection = opened.link();
        let mut tried = 0;
        loop {
            tried += 1;
            let select = select::<DB, T>(&key);
            let found = checked::read_on(select, read_version::<T>(), &mut connection).await;
            let base = found.and_then(|row| (T::ROW)(&row).map_err(Unread::Failed));
            let base = base.map_err(|unread| unread.without_a_write(operation()))?;
            let mut mine = (T::COPY)(&base);
            change(&mut mine);
            if mine.key() != base.key() {
                return Err(UpdateError::KeyChanged(operation()));
            }
            let written = if T::CHECKS {
                let changes = base.stored_changes(&mine);
                if changes.is_empty() && base.fence() == mine.fence() {
                    return Ok(base);
                }
                let save = Save {
                    base: &base,
                    mine: &mine,
                    changes: &changes,
                };
                checked::write_on::<DB>(METHOD, &save, Write::Update, &mut connection).await
            } else {
                checked::write_on::<DB>(METHOD, &mine, Write::Update, &mut connection).await
            };
            match updated::<DB, T>(METHOD, &mine, Some(&base), written) {
                Err(UpdateError::Stale(_)) if tried < ATTEMPTS => {
                    let wait = full_jitter(tried, FIRST_WAIT, LONGEST_WAIT);
                    observe::runs_again(METHOD, &"Stale", tried, wait);
                    tokio::time::sleep(wait).await;
                }
                outcome => return outcome,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::conflict::Clash;
    use super::*;
    use crate::db::error::KeyText;

    /// A model as the derive would make it, of three columns.
    #[derive(Debug, Clone, PartialEq)]
    struct Row([i8; 3]);

    impl Model<Derive> for Row {
        type Key<'k> = ();
        const TABLE: &'static str = "rows";
        fn describe((): &(), _: &mut KeyText) {}
    }

    impl Versioned for Row {
        const MAX_VERSION: i64 = i64::MAX;
        const VERSION_INDEX: usize = 0;
        const COLUMNS: &'static [&'static str] = &["a", "b", "c"];
        const COPY: fn(&Self) -> Self = Self::clone;
        fn key(&self) {}
        fn changes(&self, other: &Self) -> Changes {
            Changes::from(Vec::from(
                [0, 1, 2].map(|column| self.0[column] != other.0[column]),
            ))
        }
        fn adopt(&mut self, from: &Self, columns: &Changes) {
            for column in 0..3 {
                columns.copy(column, &from.0[column], &mut self.0[column]);
            }
        }
    }

    fn row() -> impl Strategy<Value = Row> {
        // Few values, so that equal ones are frequent.
        prop::array::uniform3(0..3i8).prop_map(Row)
    }

    proptest! {
        #[test]
        fn a_merge_has_both_changes_or_names_the_overlap(base in row(), mine in row(), theirs in row()) {
            let conflict = Conflict {
                current: theirs.clone(),
                mine: mine.clone(),
                base: Some(base.clone()),
                changes: Row::changes,
                clash: Clash {
                    operation: operation(&base, "save"),
                    version: "version",
                    expected: 0,
                    found: 1,
                },
            };
            let (base, mine, theirs) = (base.0, mine.0, theirs.0);
            let overlap: Vec<&str> = (0..3)
                .filter(|&i| mine[i] != base[i] && theirs[i] != base[i] && mine[i] != theirs[i])
                .map(|i| Row::COLUMNS[i])
                .collect();
            match conflict.merge() {
                Err(MergeError::Overlap(fields)) => prop_assert_eq!(fields, overlap),
                Err(MergeError::NoBase) => prop_assert!(false, "there is a base"),
                Ok(merged) => {
                    prop_assert!(overlap.is_empty());
                    for i in 0..3 {
                        let expected = if mine[i] == base[i] { theirs[i] } else { mine[i] };
                        prop_assert_eq!(merged.0[i], expected);
                    }
                }
            }
        }
    }
}
