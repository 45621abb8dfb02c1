//! An open transaction, whoever began it.

use super::Tx;
use crate::db::Backend;
use crate::db::source::Link;

/// An open transaction: what a row lock lives in.
///
/// Implemented for `&mut rowlock::Tx`, `&mut sqlx::Transaction`, `&mut PgConnection` and `&mut SqliteConnection`. The method finds out at run time
/// whether a connection is in a transaction: a function that takes a connection and is called with its caller's `&mut *tx` can lock. A pool does not
/// qualify: outside a transaction a lock would be gone before the call returned.
///
/// # A connection
///
/// If sqlx counts a transaction on it (`begin`), that is known without a round trip. If it counts none, the database is asked, so that a `BEGIN` by
/// hand works too, at the cost of a round trip: `SELECT transaction_timestamp() <> statement_timestamp()` on PostgreSQL; on SQLite `BEGIN`, which
/// fails inside a transaction, and `ROLLBACK`. Without a transaction the method has no effect and returns `NotInTransaction`.
///
/// Methods that take any [`Source`](crate::Source) run in such a transaction too, and do not end it. One that needs several statements which take
/// effect together, such as a batch of additions within bounds, is refused with `Database` before anything is written. There are no savepoints in it:
/// on PostgreSQL an error of a statement aborts it.
///
/// rowlock does not see a `COMMIT` or `ROLLBACK` by hand in a transaction that sqlx counts: end it by its methods.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an open transaction",
    label = "this is done only inside a transaction",
    note = "outside a transaction a lock would be released, and a completion committed, without the rest of the work",
    note = "run this inside `rowlock::transaction(&pool).run(async |tx| ...)` and pass `&mut *tx`",
    note = "a transaction of sqlx is passed as `&mut tx` or `&mut *tx`, and a connection that is in one as `&mut *connection`"
)]
pub trait InTransaction<'t>: sealed::Sealed + Send {
    /// The database.
    type Database: Backend;
    #[doc(hidden)]
    fn link(self) -> Link<'t, Self::Database>;
    /// The transaction or savepoint, if it can be identified.
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

/// Which transaction it is in is not known, as of one of sqlx.
macro_rules! connection {
    ($($feature:literal $database:ident $connection:ident)*) => {$(
        #[cfg(feature = $feature)]
        #[diagnostic::do_not_recommend]
        impl<'t> InTransaction<'t> for &'t mut sqlx::$connection {
            type Database = sqlx::$database;
            fn link(self) -> Link<'t, sqlx::$database> {
                Link::new(self)
            }
            fn scope(&self) -> Option<u64> {
                None
            }
            fn has(&self, scope: Option<u64>) -> bool {
                scope.is_none()
            }
        }

        #[cfg(feature = $feature)]
        impl sealed::Sealed for &mut sqlx::$connection {}
    )*};
}
connection!("postgres" Postgres PgConnection "sqlite" Sqlite SqliteConnection);

mod sealed {
    pub trait Sealed {}
    impl<DB: super::Backend> Sealed for &mut super::Tx<DB> {}
    impl<DB: super::Backend> Sealed for &mut sqlx::Transaction<'_, DB> {}
}
