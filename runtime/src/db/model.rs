//! What every derive knows about a struct.

use crate::db::Backend;
use std::future::Future;

use crate::db::error::{DatabaseError, KeyText, Operation};
use crate::db::fence::Fence;
use crate::db::source::Source;
use crate::observe::{Observed, observed};

/// What the derive `D` knows about a struct, the same for every database. Each derive sees the struct in its own way, and stands
/// alone, so each has an impl of its own.
pub trait Model<D>: Sized + Send + Sync + 'static {
    /// The columns by which a row is found, as the caller gives them; text is borrowed.
    type Key<'k>: Send + Sync;
    /// As written by the user.
    const TABLE: &'static str;
    /// The version's field, if the derive looks at one.
    const VERSION: &'static str = "";

    /// Writes a key into an error.
    fn describe(key: &Self::Key<'_>, to: &mut KeyText);
    /// The version of this copy, if the derive looks at one.
    fn version(&self) -> Option<i64> {
        None
    }
    /// The fence that this copy shows to the row, if the derive looks at one.
    fn fence(&self) -> Option<Fence> {
        None
    }

    /// What is attempted on the row with this key, for an error.
    fn operation(method: &'static str, key: &Self::Key<'_>) -> Operation {
        let mut text = KeyText::default();
        Self::describe(key, &mut text);
        Operation::new(method, Self::TABLE, text)
    }
    /// What is attempted on many rows.
    fn operation_on_many(method: &'static str) -> Operation {
        Operation::new(method, Self::TABLE, KeyText::default())
    }
    /// The work of a method, in its span and timed.
    fn observed<DB: Backend, W: Future>(method: &'static str, work: W) -> Observed<W> {
        observed(DB::SYSTEM, method, Self::TABLE, work)
    }
}

/// Takes the connection that a method runs on. It knows no model, so that it is compiled once for each kind of connection.
pub(crate) fn acquire<'c, DB: Backend, A: Source<'c, DB>>(
    db: A,
    operation: &(dyn Fn() -> Operation + Sync),
) -> impl Future<Output = Result<A::Opened, DatabaseError>> + Send {
    async move {
        db.open()
            .await
            .map_err(|error| DatabaseError::new(operation(), error))
    }
}
