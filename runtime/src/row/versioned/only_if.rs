//! An edit that is saved under a condition, beside the version check.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;

use super::checked::{self, Checked, Failure, Met, Unwritten, Versions, Write};
use super::edit::Save;
use super::{
    DeleteError, Derive, Edit, UpdateError, Versioned, VersionedSql, bind_unchanged, check,
    deleted, look_if, operation, reads_the_same, updated,
};
use crate::db::Backend;
use crate::db::as_read::Stored;
use crate::db::column::Changes;
use crate::db::condition::{Condition, Expression};
use crate::db::error::Operation;
use crate::db::model::Model;
use crate::db::source::Source;
use crate::db::statement::{Compared, Statement};
use crate::row::guarded::{GuardedSql, Refusal};

/// An [`Edit`] under a condition: made by [`Edit::only_if`].
#[must_use = "an edit does nothing until it is saved"]
pub struct OnlyIf<'e, T, E> {
    edit: &'e Edit<T>,
    condition: Condition<T, E>,
}

/// Without the rows: they do not belong into a log.
impl<T, E> fmt::Debug for OnlyIf<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnlyIf").finish_non_exhaustive()
    }
}

impl<'e, T, E> OnlyIf<'e, T, E> {
    pub(super) fn new(edit: &'e Edit<T>, condition: Condition<T, E>) -> Self {
        Self { edit, condition }
    }
}

impl<T: Versioned, E> OnlyIf<'_, T, E> {
    /// Writes the changed columns if the row still has the version it was read with and meets the condition, and returns the row as it now
    /// is.
    ///
    /// If nothing was changed, nothing is written, and the row is returned as it was read if it still has that version and meets the
    /// condition.
    ///
    /// # SQL
    ///
    /// That of [`Edit::save`] with the condition at its end. If it meets no row, one SELECT reads the row and whether it meets the
    /// condition; if all holds by then, both are run again, three times at most.
    ///
    /// # Errors
    ///
    /// Those of [`Edit::save`], and [`UpdateError::Refused`] if the version is the expected one and the condition is not met. If neither
    /// holds it is `Stale`.
    ///
    /// # Cancel safety
    ///
    /// Each run is one statement: if the future is dropped, it was executed completely or not at all.
    pub fn save<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<T, UpdateError<T>>> + Send
    where
        T: VersionedSql<DB> + GuardedSql<DB>,
        E: Expression<DB>,
    {
        <T as Model<Derive>>::observed::<DB, _>("save", async move {
            const METHOD: &str = "save";
            let edit = self.edit;
            edit.unchanged_key(METHOD)
                .map_err(UpdateError::KeyChanged)?;
            let changes = edit.base.stored_changes(&edit.mine);
            let row = Conditional {
                base: &edit.base,
                mine: &edit.mine,
                changes: &changes,
                condition: &self.condition,
            };
            let mine = <T as Model<Derive>>::fence(&edit.mine);
            let written = if changes.is_empty() && <T as Model<Derive>>::fence(&edit.base) == mine {
                match checked::look::<DB>(METHOD, &row, db).await {
                    Ok(_) => return Ok((T::COPY)(&edit.base)),
                    Err(unwritten) => Err(unwritten),
                }
            } else {
                checked::write::<DB>(METHOD, &row, Write::Update, db).await
            };
            match written {
                Err(Unwritten::Met(met)) if met.is_refused() => {
                    Err(match refusal::<DB, T, _>(&edit.mine, met) {
                        Ok(refusal) => UpdateError::Refused(refusal),
                        Err(failure) => failure.into(),
                    })
                }
                written => updated::<DB, T>(METHOD, &edit.mine, Some(&edit.base), written),
            }
        })
    }

    /// Deletes the row if it still has the version it was read with and meets the condition.
    ///
    /// # Errors
    ///
    /// Those of [`Edit::delete`], and [`DeleteError::Refused`] if the version is the expected one and the condition is not met.
    pub fn delete<'c, DB: Backend>(
        self,
        db: impl Source<'c, DB>,
    ) -> impl Future<Output = Result<(), DeleteError<T>>> + Send
    where
        T: VersionedSql<DB> + GuardedSql<DB>,
        E: Expression<DB>,
    {
        <T as Model<Derive>>::observed::<DB, _>("delete", async move {
            let edit = self.edit;
            edit.unchanged_key("delete")
                .map_err(DeleteError::KeyChanged)?;
            let row = Conditional {
                base: &edit.base,
                mine: &edit.mine,
                changes: &Changes::none(),
                condition: &self.condition,
            };
            match checked::delete::<DB>(&row, db).await {
                Err(Unwritten::Met(met)) if met.is_refused() => {
                    Err(match refusal::<DB, T, Infallible>(&edit.mine, met) {
                        Ok(refusal) => DeleteError::Refused(refusal),
                        Err(failure) => failure.into(),
                    })
                }
                gone => deleted::<DB, T>(&&edit.mine, gone),
            }
        })
    }
}

/// The row that does not meet the condition.
fn refusal<DB: Backend, T: VersionedSql<DB>, O>(
    mine: &T,
    met: Met<DB::Row>,
) -> Result<Box<Refusal<T>>, Failure<O>> {
    let current = (T::ROW)(&met.row).map_err(|error| met.undecoded(error))?;
    met.not_fenced(current.fence(), mine.fence())?;
    Ok(Box::new(Refusal {
        operation: met.operation,
        current,
    }))
}

/// A row that is to be written under a condition.
struct Conditional<'e, T, E> {
    base: &'e T,
    mine: &'e T,
    changes: &'e Changes,
    condition: &'e Condition<T, E>,
}

impl<DB: Backend, T, E> Checked<DB> for Conditional<'_, T, E>
where
    T: VersionedSql<DB> + GuardedSql<DB>,
    E: Expression<DB>,
{
    fn operation(&self, method: &'static str) -> Operation {
        operation(self.mine, method)
    }

    fn versions(&self) -> Versions {
        Versions {
            holds: Some(T::NAMES.len() + usize::from(T::CHECKS)),
            ..Checked::<DB>::versions(self.mine)
        }
    }

    fn statement(&self, write: Write, stored: &Stored<DB>) -> Statement<DB> {
        let (mut statement, tail) = match write {
            Write::Update | Write::Touch => {
                let (base, mine, changes) = (self.base, self.mine, self.changes);
                let [_, _, tail] = <T as VersionedSql<DB>>::SAVE;
                let save = Save {
                    base,
                    mine,
                    changes,
                };
                (save.begun(stored), tail)
            }
            Write::Delete => {
                let mut statement = Statement::composed(<T as VersionedSql<DB>>::DELETE);
                bind_unchanged(self.mine, &mut statement);
                check(self.base, stored, &mut statement);
                (statement, "")
            }
        };
        statement.push(" AND ");
        self.condition.write(&mut statement);
        statement.push(tail);
        statement
    }

    fn look(&self, stored: &Stored<DB>) -> Statement<DB> {
        if T::CHECKS {
            let condition = |statement: &mut _| self.condition.write(statement);
            return look_if(self.base, stored, condition);
        }
        let [head, tail] = <T as GuardedSql<DB>>::LOOK;
        let mut statement = Statement::composed(head);
        let key = self.mine.key();
        <T as VersionedSql<DB>>::bind_key(&key, &mut Compared(&mut statement));
        self.condition.write(&mut statement);
        statement.push(tail);
        statement
    }

    fn reads_the_same(&self, row: &DB::Row) -> Option<Stored<DB>> {
        reads_the_same(self.base, row)
    }
}
