//! Places in a text that the runtime fills.

use std::fmt;

use super::Slot;

/// Around a gap in a text, with what it is between: nobody but readers of the snapshots looks at that. No name has it, as
/// control characters in names are refused.
const MARK: char = '\u{1}';

/// What the runtime writes between two parts of a text. Its values are bound where the gap stands if they are `?`, and after
/// all others if they are `$n`.
pub(crate) enum Gap<'a> {
    /// `"name" = $n, ` for each column that was changed.
    Changes,
    /// ` AND "name" = $n`, any number of times.
    Conditions,
    /// ` FOR UPDATE`, or another strength and manner of locking.
    Lock,
    /// ` SKIP LOCKED`, or nothing.
    SkipLocked,
    /// `(?, ?, …), (?, ?, …)`: rows, each with these values; in `select_many` its number follows them.
    Rows(&'a [Slot]),
    /// `(?, ?, …`: a row with these values. The text ends it.
    Row(&'a [Slot]),
    /// More of those rows, each ended in the same way.
    MoreRows,
    /// `? AND ?`: the lowest and the highest.
    Bounds,
}

impl fmt::Display for Gap<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{MARK}")?;
        match self {
            Self::Changes => write!(to, "changes")?,
            Self::Conditions => write!(to, "conditions")?,
            Self::Lock => write!(to, "lock")?,
            Self::SkipLocked => write!(to, "skip locked")?,
            Self::Rows(row) => write!(to, "rows of {row:?}")?,
            Self::Row(row) => write!(to, "row of {row:?}")?,
            Self::MoreRows => write!(to, "more rows")?,
            Self::Bounds => write!(to, "bounds")?,
        }
        write!(to, "{MARK}")
    }
}

/// What is between the gaps of a text.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARK).step_by(2)
}
