//! What became of a row that was asked for.

use std::ops::Deref;

/// Whether the row existed or is new. It dereferences to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FoundOrCreated<T> {
    /// The row existed. Nothing was written, and the other given values were ignored.
    Found(T),
    /// This call created the row.
    Created(T),
}

impl<T> FoundOrCreated<T> {
    /// The row, either way.
    pub fn into_inner(self) -> T {
        match self {
            Self::Found(row) | Self::Created(row) => row,
        }
    }

    /// Whether this call created the row.
    pub fn is_created(&self) -> bool {
        matches!(self, Self::Created(_))
    }
}

impl<T> Deref for FoundOrCreated<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Self::Found(row) | Self::Created(row) => row,
        }
    }
}

/// Whether an upsert overwrote a row or made a new one. It dereferences to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpdatedOrCreated<T> {
    /// The row existed, and now has the given values.
    Updated(T),
    /// This call created the row.
    Created(T),
}

impl<T> UpdatedOrCreated<T> {
    /// The row, either way.
    pub fn into_inner(self) -> T {
        match self {
            Self::Updated(row) | Self::Created(row) => row,
        }
    }

    /// Whether this call created the row.
    pub fn is_created(&self) -> bool {
        matches!(self, Self::Created(_))
    }
}

impl<T> Deref for UpdatedOrCreated<T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Self::Updated(row) | Self::Created(row) => row,
        }
    }
}

/// What an upsert under a condition did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "the condition may not have been met"]
pub enum Upserted<T> {
    /// There was no row with the key: this call created it.
    Created(T),
    /// The row existed and met the condition. It now has the given values.
    Updated(T),
    /// The row does not meet the condition. Nothing was written. This is the current row: a statement read it after the refusal and saw that it does
    /// not meet the condition.
    Refused(T),
}

impl<T> Upserted<T> {
    /// The current row, whether it was written or not.
    pub fn into_inner(self) -> T {
        match self {
            Self::Created(row) | Self::Updated(row) | Self::Refused(row) => row,
        }
    }

    /// The row if it was written, `None` if the condition refused that.
    pub fn written(self) -> Option<T> {
        match self {
            Self::Created(row) | Self::Updated(row) => Some(row),
            Self::Refused(_) => None,
        }
    }

    /// Whether this call created the row.
    pub fn is_created(&self) -> bool {
        matches!(self, Self::Created(_))
    }

    /// Whether the condition refused the write.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}
