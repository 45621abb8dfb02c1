//! An open transaction, whoever began it.

use super::Tx;
use crate::db::Backend;
use crate::db::source::Link;

/// An open transaction: what a row lock lives in.
///
/// Implemented for `&mut rowlock::Tx` and `&mut sqlx::Transaction`. A pool or a plain connection is neither: outside a
/// transaction a lock would be gone before the call returned.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an open transaction",
    label = "this is done only inside a transaction",
    note = "outside a transaction a lock would be released, and a completion committed, without the rest of the work",
    note = "run this inside `rowlock::transaction(&pool).run(async |tx| ...)` and pass `&mut *tx`",
    note = "a transaction of sqlx is passed as `&mut tx`; `&mut *tx` is the connection in it"
)]
pub trait InTransaction<'t>: sealed::Sealed + Send {
    /// The database.
    type Database: Backend;
    #[doc(hidden)]
    fn link(self) -> Link<'t, Self::Database>;
    /// Which transaction or savepoint this is, if that can be told.
    #[doc(hidden)]
    fn scope(&self) -> Option<u64>;
    /// Whether what was locked in `scope` is still locked here.
    #[doc(hidden)]
    fn has(&self, scope: Option<u64>) -> bool;
}

#[diagnostic::do_not_recommend]
impl<'t, DB: Backend> InTransaction<'t> for &'t mut Tx<DB> {
    type Database = DB;
    fn link(self) -> Link<'t, DB> {
        Tx::link(self)
    }
    fn scope(&self) -> Option<u64> {
        Some(Tx::scope(self))
    }
    fn has(&self, scope: Option<u64>) -> bool {
        scope.is_some_and(|scope| Tx::has(self, scope))
    }
}

#[diagnostic::do_not_recommend]
impl<'t, DB: Backend> InTransaction<'t> for &'t mut sqlx::Transaction<'_, DB> {
    type Database = DB;
    fn link(self) -> Link<'t, DB> {
        Link::new(&mut **self)
    }
    fn scope(&self) -> Option<u64> {
        None
    }
    fn has(&self, scope: Option<u64>) -> bool {
        scope.is_none()
    }
}

mod sealed {
    pub trait Sealed {}
    impl<DB: super::Backend> Sealed for &mut super::Tx<DB> {}
    impl<DB: super::Backend> Sealed for &mut sqlx::Transaction<'_, DB> {}
}
