//! How strong a row lock is, and how long it is waited for.

use super::Lockable;
use super::locked::{Locked, LockedKey, Shared, Transaction};
use std::sync::Arc;

/// FOR UPDATE or FOR NO KEY UPDATE: yields [`Locked`].
#[derive(Debug)]
pub struct Exclusive;
/// FOR SHARE: yields [`Shared`].
#[derive(Debug)]
pub struct Share;
/// Waits until the row is free.
#[derive(Debug)]
pub struct Wait;
/// NOWAIT.
#[derive(Debug)]
pub struct NoWait;
/// SKIP LOCKED.
#[derive(Debug)]
pub struct SkipLocked;

#[doc(hidden)]
pub trait Strength: Send + 'static {
    type Guard<T: Send>: Send;
    fn clause(no_key: bool) -> &'static str;
    fn guard<T: Lockable>(row: T, transaction: Transaction) -> Self::Guard<T>;
}

/// The strength of a lock that is not shared.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "this lock is shared already",
    label = "`share` was called before",
    note = "a lock is either FOR SHARE or for a change: remove one of the two options"
)]
pub trait NotShared: Strength {}
#[diagnostic::do_not_recommend]
impl NotShared for Exclusive {}

impl Strength for Exclusive {
    type Guard<T: Send> = Locked<T>;
    fn clause(no_key: bool) -> &'static str {
        if no_key {
            " FOR NO KEY UPDATE"
        } else {
            " FOR UPDATE"
        }
    }
    fn guard<T: Lockable>(row: T, transaction: Transaction) -> Locked<T> {
        Locked {
            key: LockedKey(Arc::new(row.owned_key())),
            row,
            transaction,
        }
    }
}

impl Strength for Share {
    type Guard<T: Send> = Shared<T>;
    fn clause(_: bool) -> &'static str {
        " FOR SHARE"
    }
    fn guard<T: Lockable>(row: T, _: Transaction) -> Shared<T> {
        Shared(row)
    }
}

#[doc(hidden)]
pub trait Patience: Send + 'static {
    /// What a single lock yields.
    type Outcome<G: Send>: Send;
    const CLAUSE: &'static str;
    /// Whether a row that another session has locked is left out.
    const SKIPS: bool;
    fn locked<G: Send>(guard: G) -> Self::Outcome<G>;
    /// `None` if a row cannot be skipped.
    fn skipped<G: Send>() -> Option<Self::Outcome<G>>;
}

/// What a lock does unless an option says otherwise.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`nowait` and `skip_locked` exclude each other",
    label = "one of them was called before",
    note = "for a row that is locked, `nowait` gives an error and `skip_locked` leaves it out: keep one of them"
)]
pub trait NotDecided: Patience {}
#[diagnostic::do_not_recommend]
impl NotDecided for Wait {}

macro_rules! all_or_nothing {
    ($($policy:ident $clause:literal),*) => {$(
        impl Patience for $policy {
            type Outcome<G: Send> = G;
            const CLAUSE: &'static str = $clause;
            const SKIPS: bool = false;
            fn locked<G: Send>(guard: G) -> G {
                guard
            }
            fn skipped<G: Send>() -> Option<G> {
                None
            }
        }
    )*};
}
all_or_nothing!(Wait "", NoWait " NOWAIT");

impl Patience for SkipLocked {
    type Outcome<G: Send> = Option<G>;
    const CLAUSE: &'static str = " SKIP LOCKED";
    const SKIPS: bool = true;
    fn locked<G: Send>(guard: G) -> Option<G> {
        Some(guard)
    }
    fn skipped<G: Send>() -> Option<Option<G>> {
        Some(None)
    }
}
