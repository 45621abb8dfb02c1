//! Rows: what the methods of [`Versioned`](derive@crate::Versioned), [`Counter`](derive@crate::Counter),
//! [`FindOrCreate`](derive@crate::FindOrCreate), [`Guarded`](derive@crate::Guarded) and [`Lockable`](derive@crate::Lockable) return.

pub(crate) mod counter;
pub(crate) mod find_or_create;
pub(crate) mod guarded;
pub(crate) mod lockable;
pub(crate) mod versioned;

pub use self::counter::{CounterError, OutOfBounds};
pub use self::find_or_create::{
    CreateError, FindError, FindOrCreateError, FoundOrCreated, UpdatedOrCreated, UpsertError,
    Upserted,
};
pub use self::guarded::{GuardError, Refusal, Set};
pub use self::lockable::{Exclusive, Lock, LockCheckedError, LockError, Locked, Share, Shared};
#[doc(hidden)]
pub use self::lockable::{Many, Matching, NoWait, One, RowLocks, SkipLocked, Wait};
pub use self::versioned::{
    Conflict, DeleteError, Edit, EditAt, EditAtError, InsertError, LoadError, MergeError, OnlyIf,
    Outdated, UpdateError,
};
pub use crate::db::condition::{Condition, Counted, Field, Operand, ReadOnly, Settable};
