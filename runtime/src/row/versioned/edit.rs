//! A copy of a row that is changed and saved: only the changed columns are written.

use super::checked::{self, Checked, Versions, Write};
use super::error::{DeleteError, LoadError, UpdateError};
use super::only_if::OnlyIf;
use super::{
    HasVersion, Versioned, VersionedSql, bind_unchanged, check, deleted, deletion, look, operation,
    reads_the_same, reload, touch, update, updated,
};
use crate::db::Backend;
use crate::db::as_read::Stored;
use crate::db::column::{Changes, Column};
use crate::db::condition::Condition;
use crate::db::error::Operation;
use crate::db::source::Source;
use crate::db::statement::{Bind, Statement};
use std::future::Future;
use std::ops::{Deref, DerefMut};

/// A copy of a row to change, which remembers the original.
///
/// Made by the generated method `edit`. It dereferences to the model. Do not change the key: every method then returns `KeyChanged` and sends
/// nothing.
#[derive(Debug, Clone)]
#[must_use = "an edit does nothing until it is saved"]
pub struct Edit<T> {
    pub(super) base: T,
    pub(super) mine: T,
}

impl<T> Deref for Edit<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.mine
    }
}

impl<T> DerefMut for Edit<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.mine
    }
}

impl<T: Versioned> Edit<T> {
    /// Starts from a row as it was read.
    pub fn new(base: T) -> Self {
        Self {
            mine: (T::COPY)(&base),
            base,
        }
    }

    /// The row as it was read.
    pub fn base(&self) -> &T {
        &self.base
    }

    /// The fields changed so far: those of which a database of the model would store something else.
    pub fn changed_fields(&self) -> Vec<&'static str> {
        self.base.changes(&self.mine).names(T::COLUMNS)
    }

    /// Writes the changed columns if the row still has the version it was read with, and returns the new row.
    ///
    /// Without changes it sends nothing and returns the row as it was read. Two edits of different columns still conflict:
    /// [`Conflict::merge`](crate::row::Conflict::merge) combines them.
    ///
    /// # SQL
    ///
    /// `UPDATE t SET "changed" = $3, "version" = "version" + 1 WHERE "key" = $1 AND "version" = $2 RETURNING …`, the
    /// same on PostgreSQL and SQLite; after a conflict, one SELECT of the current row.
    ///
    /// # Errors
    ///
    /// Those of `update`, and [`UpdateError::KeyChanged`] if the key was edited.
    ///
    /// # Cancel safety
    ///
    /// One statement: if you drop the future, it takes effect completely or not at all.
    pub fn save<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, UpdateError<T>>> + Send
    where
        T: VersionedSql<DB>,
    {
        T::observed::<DB, _>("save", async move {
            self.unchanged_key("save")
                .map_err(UpdateError::KeyChanged)?;
            let changes = self.base.stored_changes(&self.mine);
            if self.changes_nothing(&changes) {
                return Ok((T::COPY)(&self.base));
            }
            let (mine, base) = (&self.mine, Some(&self.base));
            let save = Save {
                base: &self.base,
                mine,
                changes: &changes,
            };
            let written = checked::write::<DB>("save", &save, Write::Update, db).await;
            updated::<DB, T>("save", mine, base, written)
        })
    }

    /// The model's `update`, with the edited values: writes all columns, changed or not. Not on a model with `check` fields.
    ///
    /// # Errors
    ///
    /// Those of `update`, and [`UpdateError::KeyChanged`] if the key was edited.
    pub fn update<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, UpdateError<T>>> + Send
    where
        T: VersionedSql<DB> + HasVersion,
    {
        async move {
            self.unchanged_key("update")
                .map_err(UpdateError::KeyChanged)?;
            update(&self.mine, db).await
        }
    }

    /// The model's `touch`: raises the version and writes nothing else. Not on a model with `check` fields.
    ///
    /// # Errors
    ///
    /// Those of `touch`, and [`UpdateError::KeyChanged`] if the key was edited.
    pub fn touch<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, UpdateError<T>>> + Send
    where
        T: VersionedSql<DB> + HasVersion,
    {
        async move {
            self.unchanged_key("touch")
                .map_err(UpdateError::KeyChanged)?;
            touch(&self.mine, db).await
        }
    }

    /// The model's `reload`: reads the current row.
    ///
    /// # Errors
    ///
    /// Those of `reload`, and [`LoadError::KeyChanged`] if the key was edited.
    pub fn reload<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, LoadError>> + Send
    where
        T: VersionedSql<DB>,
    {
        async move {
            self.unchanged_key("reload")
                .map_err(LoadError::KeyChanged)?;
            reload(&self.mine, db).await
        }
    }

    /// The model's `delete`: deletes the row if it still has the version it was read with.
    ///
    /// # Errors
    ///
    /// Those of `delete`, and [`DeleteError::KeyChanged`] if the key was edited.
    pub fn delete<'c, DB: Backend>(
        &self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<(), DeleteError<T>>> + Send
    where
        T: VersionedSql<DB>,
    {
        T::observed::<DB, _>("delete", async move {
            self.unchanged_key("delete")
                .map_err(DeleteError::KeyChanged)?;
            let deletion = Deletion {
                base: &self.base,
                mine: &self.mine,
            };
            deleted::<DB, T>(&&self.mine, checked::delete::<DB>(&deletion, db).await)
        })
    }

    /// Adds a condition to the version check of the next `save` or `delete`: `edit.only_if(Row::CONSUMED_AT.is_null()).save(db)`. The model also
    /// derives [`Guarded`](derive@crate::Guarded), which generates the constants.
    pub fn only_if<E>(&self, condition: Condition<T, E>) -> OnlyIf<'_, T, E> {
        OnlyIf::new(self, condition)
    }

    /// Another edit of the same row, with the changes so far.
    pub fn edit(&self) -> Self {
        Self {
            base: (T::COPY)(&self.base),
            mine: (T::COPY)(&self.mine),
        }
    }

    /// A new holder marks the row with its fence, if with nothing else.
    pub(super) fn changes_nothing(&self, changes: &Changes) -> bool {
        changes.is_empty() && self.base.fence() == self.mine.fence()
    }

    /// A row is found by its key: a changed one would be another row, which this edit has never seen.
    pub(super) fn unchanged_key(&self, method: &'static str) -> Result<(), Operation> {
        if self.base.key() == self.mine.key() {
            return Ok(());
        }
        Err(operation(&self.base, method))
    }
}

/// An edit whose row is to be deleted.
struct Deletion<'e, T> {
    base: &'e T,
    mine: &'e T,
}

impl<DB: Backend, T: VersionedSql<DB>> Checked<DB> for Deletion<'_, T> {
    fn operation(&self, method: &'static str) -> Operation {
        operation(self.mine, method)
    }

    fn versions(&self) -> Versions {
        Checked::<DB>::versions(self.mine)
    }

    fn statement(&self, _: Write, stored: &Stored<DB>) -> Statement<DB> {
        deletion(self.base, self.mine, stored)
    }

    fn look(&self, stored: &Stored<DB>) -> Statement<DB> {
        look(self.base, stored)
    }

    fn reads_the_same(&self, row: &DB::Row) -> Option<Stored<DB>> {
        reads_the_same(self.base, row)
    }
}

/// The columns of an edit that are to be written.
pub(super) struct Save<'e, T> {
    /// The row as it was read.
    pub(super) base: &'e T,
    pub(super) mine: &'e T,
    pub(super) changes: &'e Changes,
}

impl<T> Save<'_, T> {
    /// Binds the changed columns.
    pub(super) fn bind_changed<DB: Backend>(&self, to: &mut impl Bind<DB>)
    where
        T: VersionedSql<DB>,
    {
        let changes = self.changes;
        self.mine.bind_columns(&mut Only { to, changes });
    }

    /// What stands before a condition.
    pub(super) fn begun<DB: Backend>(&self, stored: &Stored<DB>) -> Statement<DB>
    where
        T: VersionedSql<DB>,
    {
        let mut statement = Statement::composed(T::SAVE[0]);
        bind_unchanged(self.mine, &mut statement);
        self.mine.bind_columns(&mut Changed {
            statement: &mut statement,
            columns: T::SET,
            changes: self.changes,
            separator: "",
        });
        end_changes::<DB, T>(self.changes, &mut statement);
        check(self.base, stored, &mut statement);
        statement
    }
}

/// Writes what stands after the changed columns.
fn end_changes<DB: Backend, T: VersionedSql<DB>>(changes: &Changes, statement: &mut Statement<DB>) {
    // The version, the fence or an expression comes next, if there is one.
    let more = !T::SAVE[1].starts_with(" WHERE ");
    if more && !changes.is_empty() {
        statement.push(", ");
    }
    statement.push(T::SAVE[1]);
}

/// The text of a save that changes every column, if there are any; so many values tell the row from others.
#[cfg(feature = "schema")]
pub(crate) fn save_of_all<DB: Backend, T: VersionedSql<DB>>(told_by: usize) -> String {
    if T::SET.is_empty() {
        return String::new();
    }
    let mut statement = Statement::<DB>::composed(T::SAVE[0]);
    statement.bind_nulls(told_by);
    let changes = Changes::all(T::SET.len());
    let mut changed = Changed {
        statement: &mut statement,
        columns: T::SET,
        changes: &changes,
        separator: "",
    };
    for column in changes.columns() {
        changed.assign(column);
        changed.statement.bind_null();
    }
    end_changes::<DB, T>(&changes, &mut statement);
    statement.push(T::SAVE[2]);
    statement.into_text()
}

impl<DB: Backend, T: VersionedSql<DB>> Checked<DB> for Save<'_, T> {
    fn operation(&self, method: &'static str) -> Operation {
        operation(self.mine, method)
    }

    fn versions(&self) -> Versions {
        Checked::<DB>::versions(self.mine)
    }

    fn statement(&self, _: Write, stored: &Stored<DB>) -> Statement<DB> {
        let mut statement = self.begun(stored);
        statement.push(T::SAVE[2]);
        statement
    }

    fn look(&self, stored: &Stored<DB>) -> Statement<DB> {
        look(self.base, stored)
    }

    fn reads_the_same(&self, row: &DB::Row) -> Option<Stored<DB>> {
        reads_the_same(self.base, row)
    }
}

/// Binds the changed columns only, with their names.
struct Changed<'s, DB: Backend> {
    statement: &'s mut Statement<DB>,
    columns: &'static [&'static str],
    changes: &'s Changes,
    separator: &'static str,
}

impl<DB: Backend> Changed<'_, DB> {
    /// Writes the name of the column, and the place of the value that is bound next.
    fn assign(&mut self, index: usize) {
        self.statement.push(self.separator);
        self.separator = ", ";
        self.statement.push(self.columns[index]);
        self.statement.push_parameter();
    }
}

impl<DB: Backend> Bind<DB> for Changed<'_, DB> {
    fn bind<T: Column<DB>>(&mut self, index: usize, value: &T) {
        if self.changes.contains(index) {
            self.assign(index);
            self.statement.bind(index, value);
        }
    }
}

/// Binds the changed columns only.
struct Only<'s, B> {
    to: &'s mut B,
    changes: &'s Changes,
}

impl<DB: Backend, B: Bind<DB>> Bind<DB> for Only<'_, B> {
    fn bind<T: Column<DB>>(&mut self, index: usize, value: &T) {
        if self.changes.contains(index) {
            self.to.bind(index, value);
        }
    }
}
