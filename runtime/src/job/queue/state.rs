//! The states of a queue's row, as its column has them.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Database, Decode, Encode, Type};
use std::fmt::Display;
use std::str::FromStr;

/// The state of a row of a queue, in a `text` column: `ready`, `running`, `done` or `dead`.
///
/// ```sql
/// state text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'running', 'done', 'dead'))
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueueState {
    /// It can be claimed once it is due.
    #[default]
    Ready,
    /// A claim holds it until its lease ends.
    Running,
    /// The work was done.
    Done,
    /// It was given up: by `fail`, by `cancel`, or after its last attempt. The dead letters of the queue.
    Dead,
}

impl QueueState {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
}

impl Display for QueueState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is none of the four states.
#[derive(Debug, thiserror::Error)]
#[error("not a state of a queue: expected `ready`, `running`, `done` or `dead`")]
pub struct UnknownState;

impl FromStr for QueueState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        [Self::Ready, Self::Running, Self::Done, Self::Dead]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(UnknownState)
    }
}

impl<DB: Database> Type<DB> for QueueState
where
    str: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        <str as Type<DB>>::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        <str as Type<DB>>::compatible(ty)
    }
}

impl<'q, DB: Database> Encode<'q, DB> for QueueState
where
    &'static str: Encode<'q, DB>,
{
    fn encode_by_ref(&self, buf: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.as_str().encode_by_ref(buf)
    }
}

impl<'r, DB: Database> Decode<'r, DB> for QueueState
where
    &'r str: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(<&str>::decode(value)?.parse()?)
    }
}
