//! What became of a row that was asked for.

use std::ops::Deref;

/// Whether a row was there or is new. It dereferences to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FoundOrCreated<T> {
    /// The row was there. Nothing was written, and the given values other than the key were ignored.
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
    /// The row was there, and has the given values now.
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
