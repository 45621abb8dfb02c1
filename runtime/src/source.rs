//! What a method runs on: a pool, a connection, a transaction.

use std::future::Future;
use std::ops::{Deref, DerefMut};

use sqlx::Acquire;

use crate::backend::Backend;
use crate::transaction::Tx;

/// What every generated method runs on: a `&Pool`, a `&mut` connection, the `&mut *tx` of a transaction of sqlx, or a
/// `&mut rowlock::Tx`.
///
/// Whatever is [`sqlx::Acquire`] is a `Source`, so a function of yours that is generic over `Acquire` can hand its argument on.
/// [`Tx`] is a `Source` and not `Acquire`, because it has to know what runs on it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that a statement for `{DB}` can run on",
    label = "expected a pool, a connection or a transaction",
    note = "pass `&pool`, `&mut connection`, the `&mut *tx` of a sqlx transaction, or a `&mut rowlock::Tx`"
)]
pub trait Source<'c, DB: Backend>: Send {
    /// What holds the connection until the method is done.
    #[doc(hidden)]
    type Opened: Opened<DB>;

    /// Takes the connection.
    #[doc(hidden)]
    fn open(self) -> impl Future<Output = Result<Self::Opened, sqlx::Error>> + Send;
}

/// A connection as a [`Source`] yields it.
#[doc(hidden)]
pub trait Opened<DB: Backend>: Send {
    fn link(&mut self) -> Link<'_, DB>;
}

impl<'c, DB, A> Source<'c, DB> for A
where
    DB: Backend,
    A: Acquire<'c, Database = DB> + Send,
{
    type Opened = Acquired<A::Connection>;

    async fn open(self) -> Result<Self::Opened, sqlx::Error> {
        self.acquire().await.map(Acquired)
    }
}

impl<'c, DB: Backend> Source<'c, DB> for &'c mut Tx<DB> {
    type Opened = Self;

    async fn open(self) -> Result<Self, sqlx::Error> {
        Ok(self)
    }
}

/// What sqlx holds a connection with.
#[doc(hidden)]
#[derive(Debug)]
pub struct Acquired<C>(C);

impl<DB: Backend, C: DerefMut<Target = DB::Connection> + Send> Opened<DB> for Acquired<C> {
    fn link(&mut self) -> Link<'_, DB> {
        Link::new(&mut *self.0)
    }
}

impl<DB: Backend> Opened<DB> for &mut Tx<DB> {
    fn link(&mut self) -> Link<'_, DB> {
        Tx::link(self)
    }
}

/// A connection on which the statements of a method run.
#[doc(hidden)]
#[derive(Debug)]
pub struct Link<'c, DB: Backend> {
    connection: &'c mut DB::Connection,
}

impl<'c, DB: Backend> Link<'c, DB> {
    pub(crate) fn new(connection: &'c mut DB::Connection) -> Self {
        Self { connection }
    }

    pub(crate) fn reborrow(&mut self) -> Link<'_, DB> {
        Link {
            connection: self.connection,
        }
    }
}

impl<DB: Backend> Deref for Link<'_, DB> {
    type Target = DB::Connection;
    fn deref(&self) -> &DB::Connection {
        self.connection
    }
}

impl<DB: Backend> DerefMut for Link<'_, DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection
    }
}
