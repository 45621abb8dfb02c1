//! Transactions: what begins them, what runs in them, and how they end.

mod begin;
mod begins;
mod budget;
mod builder;
mod error;
#[cfg(feature = "executor")]
mod executor;
mod in_transaction;
mod inside;
mod run;
mod savepoint;
#[cfg(feature = "executor")]
mod text;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use sqlx_core::transaction::TransactionManager;

pub use self::begins::Begins;
#[doc(hidden)]
pub use self::begins::Place;
pub use self::budget::RetryBudget;
pub use self::builder::{Retry, TransactionBuilder, transaction};
pub use self::error::{Erased, LastFailure, TransactionError};
pub use self::in_transaction::InTransaction;
use self::run::Ended;
pub(crate) use self::run::Work;
pub use self::run::{Body, Carries, FailureOf};
#[doc(hidden)]
pub use self::run::{ByError, ByReference, ByText};
pub use self::savepoint::{Savepoint, SavepointBody};
use crate::db::Backend;
use crate::db::error::{DatabaseError, KeyText, Operation};
use crate::db::notes::{Call, Notes};
use crate::db::source::{Link, Opened, Source};

/// An open transaction, as the closure of [`TransactionBuilder::run`] receives it.
///
/// Pass `&mut *tx` to every generated method and to every query of sqlx, [`as_sqlx`](Self::as_sqlx) to functions that take an sqlx transaction, and
/// `&mut **tx` (it dereferences to the connection) to functions that take a connection. [`savepoint`](Self::savepoint) and [`begin`](Self::begin) are
/// for a part that may fail alone, [`on_commit`](Self::on_commit) for what comes after COMMIT. It ends with the closure: to roll back, return an
/// error. One made [from](Self::from) an sqlx transaction ends with [`commit`](Self::commit) or [`rollback`](Self::rollback).
///
/// It notes how each statement on `&mut *tx` ended, and whether its future was dropped early. It cannot see what runs on the connection itself (`&mut
/// **tx`, `as_sqlx`). The next statement on `&mut *tx` therefore first asks whether that ended the transaction, or ended it and began another one, at
/// the cost of a round trip on PostgreSQL; COMMIT asks at no cost. After a `COMMIT` or `ROLLBACK` by hand nothing more is written through `&mut *tx`,
/// except on SQLite into a transaction that you began by hand, which is rolled back; and `run` never returns `Ok`. Later statements on the connection
/// itself commit by themselves, and what a `COMMIT` by hand committed stays.
///
/// To recognise the transaction, rowlock marks it when you first use the connection itself: on PostgreSQL `SET LOCAL rowlock.tx = 1`, which leaves
/// with the next statement, on SQLite `SAVEPOINT rowlock`. That is a message to sqlx's worker thread whose delivery cannot be awaited: with
/// `command_buffer_size(0)` it can be lost, and `run` ends as [`Aborted`](crate::tx::TransactionError::Aborted).
///
/// ```
/// # async fn setup() -> Result<sqlx::SqlitePool, sqlx::Error> {
/// #     let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// #     sqlx::raw_sql(
/// #         "CREATE TABLE page_views (page_id bigint PRIMARY KEY, views bigint NOT NULL);
/// #          CREATE TABLE visits (page_id bigint NOT NULL)",
/// #     ).execute(&pool).await?;
/// #     Ok(pool)
/// # }
/// use rowlock::{Counter, Tx};
///
/// #[derive(sqlx::FromRow, Counter)]
/// #[rowlock(table = "page_views")]
/// struct PageViews {
///     #[rowlock(key)]
///     page_id: i64,
///     #[rowlock(counter)]
///     views: i64,
/// }
///
/// async fn visit(tx: &mut Tx<sqlx::Sqlite>, page: i64) -> Result<i64, rowlock::Error> {
///     sqlx::query("INSERT INTO visits VALUES ($1)").bind(page).execute(&mut *tx).await?;
///     Ok(PageViews::add_views(&mut *tx, page, 1).await?)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = setup().await?;
/// let views = rowlock::transaction(&pool).run(async |tx| visit(tx, 7).await).await?;
/// assert_eq!(views, 1);
/// # Ok(())
/// # }
/// ```
pub struct Tx<DB: Backend> {
    inner: sqlx::Transaction<'static, DB>,
    notes: Notes,
    /// The transaction and its savepoints that were not undone, each with a number of its own.
    scopes: Vec<u64>,
    /// How many savepoints are set: those that have ended are released with the next one.
    height: usize,
    /// The same when the transaction began, and for each savepoint that has not ended, when it was set. One that was leaked has not.
    floors: Vec<usize>,
    /// What runs after COMMIT.
    hooks: Hooks,
    end: End,
}

/// The COMMIT or the ROLLBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Ahead,
    Sent,
    /// It succeeded, and nothing is left to undo.
    Reached,
}

impl<DB: Backend> fmt::Debug for Tx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx")
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

type Hooks = Vec<BoxFuture<'static, ()>>;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl<DB: Backend> Deref for Tx<DB> {
    type Target = DB::Connection;
    fn deref(&self) -> &DB::Connection {
        &self.inner
    }
}

impl<DB: Backend> DerefMut for Tx<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.lend();
        &mut self.inner
    }
}

impl<DB: Backend> Drop for Tx<DB> {
    fn drop(&mut self) {
        if self.end == End::Reached {
            return;
        }
        // What was not seen may have ended the transaction. Not so if it is ending: it was asked before, and asking again could
        // open another one after the COMMIT.
        let may_be_gone = self.notes.must_ask(DB::EMBEDDED) && self.end == End::Ahead;
        // sqlx rolls back one level; the connection must not go back to the pool with another one open.
        DB::unwind_soon(&mut self.inner, may_be_gone);
    }
}

impl<DB: Backend> Tx<DB> {
    fn new(inner: sqlx::Transaction<'static, DB>) -> Self {
        Self {
            inner,
            notes: Notes::default(),
            scopes: vec![next_id()],
            height: 0,
            floors: vec![0],
            hooks: Vec::new(),
            end: End::Ahead,
        }
    }

    /// Commits a transaction made [from](Self::from) an sqlx one, and runs the hooks of [`on_commit`](Self::on_commit).
    ///
    /// `Ok` means that all of it is in the database, as it does for [`run`](TransactionBuilder::run), which says what is sent. sqlx's own `commit`
    /// also returns `Ok` if PostgreSQL answers with a rollback, because a statement had failed.
    ///
    /// # Errors
    ///
    /// | [`TransactionError`] | |
    /// |---|---|
    /// | `Aborted` | a statement had failed and PostgreSQL had given the transaction up, a statement's future was dropped, a savepoint was left open, or the transaction was ended by hand; nothing was committed |
    /// | `Commit` | COMMIT failed, of a deferred constraint for example; rolled back |
    /// | `CommitUnknown` | the connection was lost during COMMIT: committed or not |
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the transaction is committed or it is not.
    pub fn commit(self) -> impl Future<Output = Result<(), TransactionError<Infallible>>> + Send {
        async move {
            match run::commit(self, (), None, None).await {
                Ended::Committed(()) => Ok(()),
                Ended::Failed(error, _) => Err(error),
                // There is no deadline and nothing to wait for.
                Ended::TooLate | Ended::NotFree => Err(TransactionError::NotRun),
            }
        }
    }

    /// Rolls back a transaction made [from](Self::from) an sqlx one. Dropping it also rolls back, when its connection is used next.
    ///
    /// # Errors
    ///
    /// The connection's. It is then closed, which ends the transaction.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the transaction rolls back when the connection is used next.
    pub fn rollback(self) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        self.roll_back()
    }

    /// The sqlx transaction, for a function that takes a `&mut sqlx::Transaction`.
    ///
    /// rowlock does not see what runs on it: neither its errors nor a dropped future. COMMIT finds out if it aborted or ended the transaction.
    pub fn as_sqlx(&mut self) -> &mut sqlx::Transaction<'static, DB> {
        self.lend();
        &mut self.inner
    }

    /// Runs `hook` after COMMIT: for a message, a file, a cache, anything that a rollback could not undo.
    ///
    /// It runs when the commit is known, before `run` returns; hooks run one after the other in the order of these calls. It never runs after a
    /// rollback of the transaction or of its savepoint, nor after [`CommitUnknown`](TransactionError::CommitUnknown), and runs once, however often
    /// the closure ran. The process can die between COMMIT and the hook: what must happen belongs in a [`Queue`](derive@crate::Queue). If a hook
    /// panics, the others still run, and then `run` panics.
    ///
    /// # Cancel safety
    ///
    /// After the first hook has started, dropping the future of `run` does not stop them.
    pub fn on_commit<F, R>(&mut self, hook: F)
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.hooks.push(Box::pin(async move { hook().await }));
    }

    pub(crate) fn link(&mut self) -> Link<'_, DB> {
        Link::noting(&mut *self.inner, &mut self.notes)
    }

    /// Whether a statement failed after which the server accepts no other.
    #[cfg(feature = "idempotent")]
    pub(crate) fn is_given_up(&self) -> bool {
        self.notes.first().is_some()
    }

    /// The number of the transaction, or of the savepoint that is open in it. No other has it.
    pub(crate) fn scope(&self) -> u64 {
        self.scopes.last().copied().unwrap_or_default()
    }

    /// Whether what was done in this scope is part of the transaction: not if it is that of another one, or of a savepoint that was
    /// undone.
    pub(crate) fn has(&self, scope: u64) -> bool {
        self.scopes.contains(&scope)
    }

    /// What runs on the connection from now on is not seen.
    fn lend(&mut self) {
        // sqlx tore it down, for a `begin` of its own that failed or was dropped. The next one would open another transaction.
        if self.depth() == 0 {
            self.notes.tear();
        }
        if let Some(number) = self.notes.dropped_savepoint().take() {
            // What follows is not to be undone with it, so this is the last chance, and not waited for either.
            DB::undo_savepoint_soon(&mut self.inner, number);
        }
        self.mark();
        self.notes.lend();
    }

    /// Makes it known again, in case that it is ended and another one begun where this is not seen.
    fn mark(&mut self) {
        if self.depth() > 0 && self.notes.wants_mark(DB::EMBEDDED) {
            DB::mark(&mut self.inner);
            self.notes.mark();
        }
    }

    /// Whether a savepoint was left open, one of ours or of sqlx.
    fn has_leaked(&self, open: usize) -> bool {
        self.floors.len() != open + 1 || self.depth() != DB::depth_at(self.height)
    }

    fn depth(&self) -> usize {
        DB::TransactionManager::get_transaction_depth(&self.inner)
    }

    /// Rolls back. If the connection could not, it is lost.
    async fn roll_back(mut self) -> Result<(), sqlx::Error> {
        if DB::EMBEDDED && self.notes.must_ask(true) {
            self.link().probe(Call::Savepoint).await;
        }
        self.end = End::Sent;
        DB::unwind(&mut self.inner).await?;
        self.end = End::Reached;
        Ok(())
    }
}

/// For code that begins a transaction with sqlx, a test for example, and calls functions that take a `&mut Tx`.
///
/// It ends by [`commit`](Tx::commit), by [`rollback`](Tx::rollback), or by its drop, which rolls back. What ran on it before is not seen:
/// the first statement asks whether the transaction is open, at the cost of a round trip on PostgreSQL, and COMMIT whether it
/// was given up.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # sqlx::raw_sql("CREATE TABLE names (name text PRIMARY KEY)").execute(&pool).await?;
/// let mut tx = rowlock::Tx::from(pool.begin().await?);
/// sqlx::query("INSERT INTO names VALUES ('ann')").execute(&mut tx).await?;
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
impl<DB: Backend> From<sqlx::Transaction<'static, DB>> for Tx<DB> {
    fn from(transaction: sqlx::Transaction<'static, DB>) -> Self {
        let mut tx = Self::new(transaction);
        tx.notes.lend();
        tx
    }
}

impl<'c, DB: Backend> Source<'c, DB> for &'c mut Tx<DB> {
    type Opened = Self;

    async fn open(self) -> Result<Self, sqlx::Error> {
        Ok(self)
    }
}

impl<DB: Backend> Opened<DB> for &mut Tx<DB> {
    fn link(&mut self) -> Link<'_, DB> {
        Tx::link(self)
    }
}

pub(crate) fn describe(error: sqlx::Error) -> DatabaseError {
    DatabaseError::new(Operation::new("transaction", "", KeyText::default()), error)
}
