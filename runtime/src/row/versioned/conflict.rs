//! What a writer that came too late meets: the row as it is now, and what of both can be merged.

use super::Versioned;
use super::edit::Edit;
use crate::db::column::Changes;
use crate::db::error::Operation;
use crate::observe;
use std::error::Error;
use std::fmt;

/// Two writers changed the same row, and the other one was first.
///
/// Resolve it in one of three ways: take theirs, which is [`current`](Self::current); write yours over it with
/// [`keep_mine`](Self::keep_mine); or [`merge`](Self::merge).
pub struct Conflict<T> {
    /// The row as it is now, by somebody else.
    pub current: T,
    /// The row as it should have been written.
    pub mine: T,
    pub(super) base: Option<T>,
    /// In the database that the conflict is from.
    pub(super) changes: fn(&T, &T) -> Changes,
    pub(super) clash: Clash,
}

/// What a conflict says of itself.
pub(super) struct Clash {
    pub(super) operation: Operation,
    pub(super) version: &'static str,
    pub(super) expected: i64,
    pub(super) found: i64,
}

impl<T> Conflict<T> {
    /// Of a copy whose origin is not known; `versions` are the version's field, the expected and the found one.
    pub(crate) fn new(
        current: T,
        mine: T,
        changes: fn(&T, &T) -> Changes,
        operation: Operation,
        (version, expected, found): (&'static str, i64, i64),
    ) -> Self {
        observe::conflict(&operation);
        Self {
            current,
            mine,
            base: None,
            changes,
            clash: Clash {
                operation,
                version,
                expected,
                found,
            },
        }
    }

    /// What was attempted, on which row.
    pub fn operation(&self) -> &Operation {
        &self.clash.operation
    }

    /// The version that the write was based on. 0 on a model with `check` fields, which has none.
    pub fn expected_version(&self) -> i64 {
        self.clash.expected
    }

    /// The version of the row as it is now. 1 on a model with `check` fields, which has none.
    pub fn current_version(&self) -> i64 {
        self.clash.found
    }

    /// The row that both writers started from. Known after [`Edit::save`] and `update_with`.
    pub fn base(&self) -> Option<&T> {
        self.base.as_ref()
    }
}

impl<T: Versioned> Conflict<T> {
    /// The fields that the other writer changed; without a [`base`](Self::base), the fields in which the row differs
    /// from [`mine`](Self::mine).
    pub fn changed_fields(&self) -> Vec<&'static str> {
        let since = self.base.as_ref().unwrap_or(&self.mine);
        (self.changes)(since, &self.current).names(T::COLUMNS)
    }

    /// Both writers' changes: the current row plus the fields that only this writer changed, ready to be
    /// [saved](Edit::save). If that meets a third writer, the next conflict can be merged again.
    ///
    /// # Errors
    ///
    /// [`MergeError::Overlap`] if both changed the same field to different values, [`MergeError::NoBase`] after
    /// `update`, which does not know what it started from; use `edit` and `save`.
    pub fn merge(&self) -> Result<Edit<T>, MergeError> {
        let base = self.base.as_ref().ok_or(MergeError::NoBase)?;
        let mine = (self.changes)(base, &self.mine);
        let theirs = (self.changes)(base, &self.current);
        let differing = (self.changes)(&self.mine, &self.current);
        let overlap: Vec<_> = mine
            .shared(&theirs, T::COLUMNS)
            .into_iter()
            // Both made the same change: that is agreement.
            .filter(|field| differing.names(T::COLUMNS).contains(field))
            .collect();
        observe::merged(T::TABLE, overlap.is_empty());
        if !overlap.is_empty() {
            return Err(MergeError::Overlap(overlap));
        }
        let mut merged = Edit::new((T::COPY)(&self.current));
        merged.adopt(&self.mine, &mine);
        Ok(merged)
    }

    /// This writer's row over the current one: whatever the other writer changed is overwritten when this is
    /// [saved](Edit::save).
    pub fn keep_mine(&self) -> Edit<T> {
        let mut mine = Edit::new((T::COPY)(&self.current));
        mine.adopt(&self.mine, &(self.changes)(&self.current, &self.mine));
        mine
    }
}

impl<T> fmt::Display for Conflict<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clash.fmt(f)
    }
}

/// Without the rows: they do not belong into a log.
impl<T> fmt::Debug for Conflict<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.clash, f)
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.version.is_empty() {
            return write!(
                f,
                "{}: the row was changed by somebody else",
                self.operation
            );
        }
        write!(
            f,
            "{}: the row was changed by somebody else: its {} is {}, expected {}",
            self.operation, self.version, self.found, self.expected
        )
    }
}

impl fmt::Debug for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conflict")
            .field("operation", &self.operation)
            .field("expected", &self.expected)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

/// Why two changes could not be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeError {
    /// Both writers changed these fields, to different values.
    Overlap(Vec<&'static str>),
    /// It is not known what the write was based on.
    NoBase,
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap(fields) => write!(f, "both changed {}", fields.join(", ")),
            Self::NoBase => {
                f.write_str("not known what the write was based on; use `edit` and `save`")
            }
        }
    }
}

impl Error for MergeError {}
