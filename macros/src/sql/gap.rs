//! Places in a text that the runtime fills.

use std::fmt;

/// Around a gap in a text, with what it is between: nobody but readers of the snapshots looks at that. No name has it, as
/// control characters in names are refused.
const MARK: char = '\u{1}';

/// What the runtime writes between two parts of a text. Its values are bound after all others, but for those of rows.
pub(crate) enum Gap {
    /// `(?, ?), (?, ?)`: rows of which each value is bound by itself.
    Rows,
    /// `"name" = $n, ` for each column that was changed.
    Changes,
    /// ` AND "name" = $n`, any number of times.
    Conditions,
    /// ` AND "name" > $n`, or nothing: whose turn it is.
    Turn,
    /// `"name" = $n, "name" = $n`: what a guarded update sets, one at least.
    Assignments,
    /// What a guarded write asks of the row.
    Condition,
    /// ` FOR UPDATE`, or another strength and manner of locking.
    Lock,
    /// ` SKIP LOCKED`, or nothing.
    SkipLocked,
    /// ` AND "id" = ANY ($1)`, or nothing.
    ByKey,
    /// `, "name"` for each column of a row.
    Columns,
    /// `, $n` for each value of it.
    Values,
    /// `, NULL` for each value of it.
    Nulls,
}

impl fmt::Display for Gap {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{MARK}")?;
        match self {
            Self::Rows => write!(to, "rows")?,
            Self::Changes => write!(to, "changes")?,
            Self::Conditions => write!(to, "conditions")?,
            Self::Turn => write!(to, "turn")?,
            Self::Assignments => write!(to, "assignments")?,
            Self::Condition => write!(to, "condition")?,
            Self::Lock => write!(to, "lock")?,
            Self::Columns => write!(to, "columns")?,
            Self::Values => write!(to, "values")?,
            Self::Nulls => write!(to, "nulls")?,
            Self::SkipLocked => write!(to, "skip locked")?,
            Self::ByKey => write!(to, "by key")?,
        }
        write!(to, "{MARK}")
    }
}

/// What is between the gaps of a text.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARK).step_by(2)
}
