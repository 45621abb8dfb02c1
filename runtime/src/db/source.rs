//! What a method runs on: a pool, a connection, a transaction.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{Acquire, Either, Execute};
use sqlx_core::transaction::TransactionManager;

use crate::db::Backend;
use crate::db::copied::copy;
use crate::db::fault::Fault;
use crate::db::lanes::Lanes;
use crate::db::notes::{Before, Call, Notes, Torn};

/// What every generated method runs on: a `&Pool`, a `&Lanes`, a `&mut` connection, the `&mut *tx` of a transaction of sqlx, or a
/// `&mut rowlock::Tx`.
///
/// Everything that is [`sqlx::Acquire`] is a `Source`, so your function that is generic over `Acquire` can pass its argument on. [`Tx`](crate::Tx) is
/// a `Source` and not `Acquire`, because it must see what runs on it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that a statement for `{DB}` can run on",
    label = "expected a pool, a connection or a transaction",
    note = "pass `&pool`, `&lanes`, `&mut connection`, the `&mut *tx` of a sqlx transaction, or a `&mut rowlock::Tx`"
)]
pub trait Source<'c, DB: Backend>: Send {
    /// What holds the connection until the method is done.
    #[doc(hidden)]
    type Opened: Opened<DB>;

    /// Takes the connection.
    #[doc(hidden)]
    fn open(self) -> impl Future<Output = Result<Self::Opened, sqlx::Error>> + Send;

    /// The lanes, if it is some: calls that wait for one of them can be one statement.
    #[doc(hidden)]
    fn lanes(&self) -> Option<&'c Lanes<DB>> {
        None
    }
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

/// What sqlx holds a connection with.
#[doc(hidden)]
#[derive(Debug)]
pub struct Acquired<C>(C);

impl<DB: Backend, C: DerefMut<Target = DB::Connection> + Send> Opened<DB> for Acquired<C> {
    fn link(&mut self) -> Link<'_, DB> {
        // A pool's has more to it than the reference, and comes without a transaction.
        let is_borrowed = size_of::<C>() == size_of::<&DB::Connection>();
        Link {
            is_borrowed,
            ..Link::new(&mut *self.0)
        }
    }
}

/// A connection on which the statements of a method run.
#[doc(hidden)]
#[derive(Debug)]
pub struct Link<'c, DB: Backend> {
    connection: &'c mut DB::Connection,
    /// Where it is told how the statements end: those of a `Tx`.
    notes: Option<&'c mut Notes>,
    /// It is the caller's, who may have sent BEGIN on it, of which sqlx knows nothing.
    is_borrowed: bool,
    /// Of a lane.
    health: Option<&'c mut Health>,
}

/// How the statements on a lane went.
#[derive(Debug)]
pub(crate) struct Health {
    /// No statement is under way.
    pub(crate) is_clean: bool,
    /// One was given up by the server, because it had waited for a lock or run for too long.
    pub(crate) timed_out: Option<sqlx::Error>,
}

impl<'c, DB: Backend> Link<'c, DB> {
    pub(crate) fn new(connection: &'c mut DB::Connection) -> Self {
        Self {
            connection,
            notes: None,
            is_borrowed: false,
            health: None,
        }
    }

    pub(crate) fn noting(connection: &'c mut DB::Connection, notes: &'c mut Notes) -> Self {
        Self {
            connection,
            notes: Some(notes),
            is_borrowed: false,
            health: None,
        }
    }

    pub(crate) fn on_lane(connection: &'c mut DB::Connection, health: &'c mut Health) -> Self {
        Self {
            health: Some(health),
            ..Self::new(connection)
        }
    }

    pub(crate) fn reborrow(&mut self) -> Link<'_, DB> {
        Link {
            connection: self.connection,
            notes: self.notes.as_deref_mut(),
            is_borrowed: self.is_borrowed,
            health: self.health.as_deref_mut(),
        }
    }

    /// Runs a statement to its end.
    pub(crate) async fn run<'q>(
        &mut self,
        query: impl Execute<'q, DB> + 'q,
        mut each: impl FnMut(Either<DB::QueryResult, DB::Row>) + Send,
    ) -> Result<(), sqlx::Error> {
        self.check(Call::Statement).await?;
        self.send(query, &mut each).await
    }

    /// The same where it was [checked](Self::check) that it is a part of the transaction.
    pub(crate) async fn send<'q>(
        &mut self,
        query: impl Execute<'q, DB> + 'q,
        mut each: impl FnMut(Either<DB::QueryResult, DB::Row>) + Send,
    ) -> Result<(), sqlx::Error> {
        let Some(notes) = self.notes.as_deref_mut() else {
            let was_clean = self.doubt();
            let result = to_the_end::<DB>(self.connection, query, &mut each).await;
            self.ended(was_clean, &result);
            return result;
        };
        let sent = notes.sent();
        let result = to_the_end::<DB>(self.connection, query, &mut each).await;
        let result = sent.ended(DB::ERROR_ABORTS_TRANSACTION, result);
        self.after(result).await
    }

    /// From here on a statement may be under way. Whether none was.
    fn doubt(&mut self) -> bool {
        let health = self.health.as_deref_mut();
        health.is_some_and(|health| std::mem::replace(&mut health.is_clean, false))
    }

    /// It came to its end.
    fn ended(&mut self, was_clean: bool, result: &Result<(), sqlx::Error>) {
        let Some(health) = self.health.as_deref_mut() else {
            return;
        };
        match result {
            Ok(()) => health.is_clean = was_clean,
            Err(error) if matches!(Fault::of(error), Fault::LockTimeout | Fault::Canceled) => {
                health.timed_out = Some(copy(error));
            }
            Err(_) => {}
        }
    }

    /// An error can be the end of the transaction, and what follows must not be written outside of it.
    pub(crate) async fn after<T>(
        &mut self,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        if DB::EMBEDDED && result.is_err() {
            self.probe(Call::Statement).await;
        }
        result
    }

    /// Whether what runs here is part of a transaction. The database is asked only if sqlx counts none: the caller may have sent BEGIN.
    pub(crate) async fn is_in_transaction(&mut self) -> Result<bool, sqlx::Error> {
        self.doubt();
        // A `Tx` is told apart from what came after it with each statement.
        if self.notes.is_some() || depth::<DB>(self.connection) > 0 {
            return Ok(true);
        }
        DB::is_in_transaction(self.connection).await
    }

    /// Whether it is the caller's, who may have begun a transaction on it by hand.
    pub(crate) fn is_borrowed(&self) -> bool {
        self.is_borrowed
    }

    /// Whether it is in a transaction that was begun by hand: what is sent here is a part of it, and a COMMIT would be its end. SQLite refuses
    /// the BEGIN by itself.
    pub(crate) async fn is_begun_by_hand(&mut self) -> Result<bool, sqlx::Error> {
        if DB::EMBEDDED || !self.is_borrowed || depth::<DB>(self.connection) > 0 {
            return Ok(false);
        }
        DB::is_in_transaction(self.connection).await
    }

    /// Fails if the transaction that the closure believes in is over: what follows would be written outside of it.
    pub(crate) async fn check(&mut self, call: Call) -> Result<(), Torn> {
        let Some(notes) = self.notes.as_deref_mut() else {
            return Ok(());
        };
        notes.check(depth::<DB>(self.connection))?;
        if notes.must_ask(DB::EMBEDDED) {
            self.probe(call).await;
        }
        match self.notes.as_deref() {
            Some(notes) => notes.check(depth::<DB>(self.connection)),
            None => Ok(()),
        }
    }

    /// Asks the database whether the transaction is still the same.
    pub(crate) async fn probe(&mut self, call: Call) {
        let Some(notes) = self.notes.as_deref_mut() else {
            return;
        };
        if let Some(number) = *notes.dropped_savepoint() {
            // Undone twice is undone once, if it arrived the first time.
            if let Err(error) = DB::undo_savepoint(self.connection, number).await {
                notes.told(&error);
                notes.tear();
            }
            *notes.dropped_savepoint() = None;
        }
        // An error can be that of a statement that was sent before: each reads what those before it left.
        for _ in 0..8 {
            let marked = notes.is_marked();
            let sent = notes.asked(call, DB::EMBEDDED);
            let is_ours = DB::is_ours(self.connection, marked).await;
            if sent.answered(DB::ERROR_ABORTS_TRANSACTION, is_ours) {
                break;
            }
        }
    }

    /// Runs statements without parameters, unprepared, in one round trip.
    pub(crate) async fn plain(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        self.check(Call::Statement).await?;
        let Some(notes) = self.notes.as_deref_mut() else {
            let was_clean = self.doubt();
            let result = DB::run_plain(self.connection, sql).await;
            self.ended(was_clean, &result);
            return result;
        };
        let sent = notes.sent();
        let result = DB::run_plain(self.connection, sql).await;
        sent.ended(DB::ERROR_ABORTS_TRANSACTION, result)
    }

    /// Sets sqlx's savepoint.
    pub(crate) async fn savepoint(&mut self) -> Result<(), sqlx::Error> {
        self.doubt();
        self.may_be_set().await?;
        let result = DB::savepoint(self.connection).await;
        match self.notes.as_deref_mut() {
            Some(notes) => notes.ended(DB::ERROR_ABORTS_TRANSACTION, result),
            None => result,
        }
    }

    /// Sets a savepoint of a `Tx`; see [`Backend::set_savepoint`].
    pub(crate) async fn set_savepoint(
        &mut self,
        floor: usize,
        height: usize,
        marks: bool,
    ) -> Result<usize, sqlx::Error> {
        self.may_be_set().await?;
        let mut result = DB::set_savepoint(self.connection, floor, height, marks).await;
        if DB::EMBEDDED && result.is_err() && floor < height {
            // What there was to release can be released: by one that was dropped before it was set.
            self.probe(Call::Savepoint).await;
            self.check(Call::Savepoint).await?;
            result = DB::set_savepoint(self.connection, floor, floor, marks).await;
        }
        match self.notes.as_deref_mut() {
            Some(notes) => notes.ended(DB::ERROR_ABORTS_TRANSACTION, result),
            None => result,
        }
    }

    /// If SAVEPOINT fails, sqlx rolls back what is around it, all of the transaction even, and what follows would be written
    /// outside of it. So where the transaction may be aborted, another statement finds that out.
    async fn may_be_set(&mut self) -> Result<(), sqlx::Error> {
        self.doubt();
        match self.notes {
            Some(_) => self.is_well().await,
            None if DB::ERROR_ABORTS_TRANSACTION => {
                DB::run_plain(self.connection, DB::NOTHING).await
            }
            None => Ok(()),
        }
    }

    /// Fails if the transaction is over, or the server has given it up.
    pub(crate) async fn is_well(&mut self) -> Result<(), sqlx::Error> {
        self.check(Call::Savepoint).await?;
        let Some(notes) = self.notes.as_deref_mut() else {
            return Ok(());
        };
        let aborts = DB::ERROR_ABORTS_TRANSACTION;
        if let Some((first, _)) = notes.first() {
            return Err(first);
        }
        if !aborts || !notes.may_be_aborted() {
            return Ok(());
        }
        let sent = notes.asked(Call::Savepoint, false);
        let result = DB::run_plain(self.connection, DB::NOTHING).await;
        sent.ended(aborts, result)
    }

    /// Releases sqlx's savepoint.
    pub(crate) async fn release(&mut self) -> Result<(), sqlx::Error> {
        self.doubt();
        let result = DB::TransactionManager::commit(self.connection).await;
        match self.notes.as_deref_mut() {
            Some(notes) => notes.ended(DB::ERROR_ABORTS_TRANSACTION, result),
            None => result,
        }
    }

    /// Undoes sqlx's savepoint. That is no news: how the last statement ended stays known.
    pub(crate) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.doubt();
        let result = DB::TransactionManager::rollback(self.connection).await;
        self.told(result)
    }

    /// Undoes a savepoint of a `Tx`; see [`Backend::undo_savepoint`].
    pub(crate) async fn undo_savepoint(&mut self, number: usize) -> Result<usize, sqlx::Error> {
        self.doubt();
        let result = DB::undo_savepoint(self.connection, number).await;
        self.told(result)
    }

    /// See [`Backend::set_lock_timeout`].
    pub(crate) async fn set_lock_timeout(
        &mut self,
        timeout: Option<Duration>,
        clause: &'static str,
    ) -> Result<Option<String>, sqlx::Error> {
        self.doubt();
        let before = DB::set_lock_timeout(self.connection, timeout, clause).await;
        if !matches!(before, Ok(None))
            && let Some(notes) = self.notes.as_deref_mut()
        {
            notes.doubt();
        }
        before
    }

    fn told<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if let (Some(notes), Err(error)) = (&mut self.notes, &result) {
            notes.told(error);
        }
        result
    }

    /// What is known before a savepoint, for [`undo`](Self::undo).
    pub(crate) fn before(&self) -> Option<Before> {
        self.notes.as_deref().map(Notes::before)
    }

    /// The savepoint was undone.
    pub(crate) fn undo(&mut self, before: Option<Before>) {
        if let (Some(notes), Some(before)) = (&mut self.notes, before) {
            notes.undo(before);
        }
    }
}

async fn to_the_end<'q, DB: Backend>(
    connection: &mut DB::Connection,
    query: impl Execute<'q, DB> + 'q,
    each: &mut (impl FnMut(Either<DB::QueryResult, DB::Row>) + Send),
) -> Result<(), sqlx::Error> {
    let mut results = DB::run(connection, query);
    while let Some(result) = results.try_next().await? {
        each(result);
    }
    Ok(())
}

fn depth<DB: Backend>(connection: &DB::Connection) -> usize {
    DB::TransactionManager::get_transaction_depth(connection)
}

impl<DB: Backend> Deref for Link<'_, DB> {
    type Target = DB::Connection;
    fn deref(&self) -> &DB::Connection {
        self.connection
    }
}

impl<DB: Backend> DerefMut for Link<'_, DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        if let Some(notes) = self.notes.as_deref_mut() {
            notes.doubt();
        }
        self.doubt();
        self.connection
    }
}
