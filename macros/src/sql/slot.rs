//! What the parameters of statements are.

use crate::model::Column;

/// A value that is bound.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Slot {
    /// A column of the key by which rows are found.
    Key(String),
    /// A column's new value.
    Column(String),
    /// The version that the row has to have.
    Version,
    /// The highest version that can still go up.
    MaxVersion,
    /// The fence of a lock or of a claim.
    Fence,
    /// When the transaction began that locked the row.
    Began,
    /// What is added to a counter; with what it starts at, where rows are created by the same statement.
    Delta,
    /// The lowest value that allows the addition: of the counter before it, or in a batch after it.
    Lowest,
    /// The highest one.
    Highest,
    /// What a request is known by.
    Fingerprint,
    Outcome,
    /// How long, in seconds.
    Seconds,
    /// How many rows.
    Limit,
    /// 1 if the attempts of the rows that are claimed begin now, else 0.
    Counted,
    /// The attempts that a job has had.
    Attempts,
    /// Why an attempt failed.
    Error,
    /// An array of a column of the key, with a value per row.
    Keys(String),
    /// An array of a column's new values.
    Columns(String),
    /// An array of the versions that the rows have to have.
    Versions,
    /// An array of fences.
    Fences,
    /// An array of what is added.
    Deltas,
    /// An array of the lowest values that allow the additions, before those.
    Lows,
    /// An array of the highest ones.
    Highs,
    /// What a batch says about its rows under this name: an array of it, or a value of a row.
    Said(&'static str),
    /// Rows with these values: all as one JSON text, or each value by itself.
    Rows(Vec<Self>),
}

impl Slot {
    pub(super) fn key(column: &Column) -> Self {
        Self::Key(column.name.clone())
    }

    pub(super) fn keys(column: &Column) -> Self {
        Self::Keys(column.name.clone())
    }

    pub(super) fn column(column: &Column) -> Self {
        Self::Column(column.name.clone())
    }

    pub(super) fn columns(column: &Column) -> Self {
        Self::Columns(column.name.clone())
    }
}
