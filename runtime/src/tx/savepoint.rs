//! A part of a transaction that can fail alone.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};

use super::{Tx, next_id};
use crate::db::Backend;
use crate::db::notes::{Before, Call, Torn};

/// A closure that runs once with a savepoint: `async |sp| { … }`. It can change its surroundings.
pub trait SavepointBody<A, R>: AsyncFnOnce(A) -> R + FnOnce(A) -> Self::Future {
    /// What the closure returns.
    type Future: Future<Output = R> + Send;
}

impl<F, A, R, Fut> SavepointBody<A, R> for F
where
    F: AsyncFnOnce(A) -> R + FnOnce(A) -> Fut,
    Fut: Future<Output = R> + Send,
{
    type Future = Fut;
}

impl<DB: Backend> Tx<DB> {
    /// Runs `body` in a savepoint. Its `Err` undoes what it wrote, and the transaction goes on; its `Ok` takes effect if the transaction commits.
    ///
    /// The closure gets the transaction itself and runs once. A serialization failure or a deadlock concerns the surrounding transaction, which runs
    /// again if its own closure returns the error. `E` is any error with a `From<sqlx::Error>`, which is used if the savepoint itself fails.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    /// # sqlx::raw_sql("CREATE TABLE names (name text PRIMARY KEY); INSERT INTO names VALUES ('ann')").execute(&pool).await?;
    /// let added = rowlock::transaction(&pool)
    ///     .run(async |tx| {
    ///         let mut added = 0;
    ///         for name in ["ann", "ben"] {
    ///             let insert = tx.savepoint(async |sp| {
    ///                 sqlx::query("INSERT INTO names VALUES ($1)").bind(name).execute(&mut *sp).await
    ///             });
    ///             added += u32::from(insert.await.is_ok());
    ///         }
    ///         Ok::<_, sqlx::Error>(added)
    ///     })
    ///     .await?;
    /// assert_eq!(added, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Do not mix it with savepoints that you set by SQL on the same transaction: one that is kept is released late, and takes those set after it
    /// along.
    ///
    /// # SQL
    ///
    /// `SAVEPOINT …`, and if it fails `ROLLBACK TO SAVEPOINT …`. A kept one is released together with the next one, `RELEASE SAVEPOINT …; SAVEPOINT
    /// …`, or with the transaction: one round trip, or two.
    ///
    /// # Errors
    ///
    /// The closure's, or the database's answer to one of these statements. An `Ok` of the closure is an error, and undone, if a statement in it
    /// failed and PostgreSQL gave the savepoint up (the error is that of the first failed statement), if a statement's future was dropped before its
    /// answer, or if a savepoint stayed open in it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future undoes what was written in it and leaves the transaction as it was.
    ///
    /// On SQLite it is undone again before the next statement on `&mut *tx` or COMMIT, because the first attempt is a message to sqlx's worker thread
    /// whose delivery cannot be awaited. Only if you use the connection itself (`&mut **tx`, [`as_sqlx`](Self::as_sqlx)) before that, with
    /// `command_buffer_size(0)` or a full buffer of messages from other dropped futures, can what was written stay part of the transaction.
    pub fn savepoint<'a, T, E, F>(
        &'a mut self,
        body: F,
    ) -> impl Future<Output = Result<T, E>> + Send + 'a
    where
        T: Send + 'a,
        E: From<sqlx::Error> + Send + 'a,
        F: for<'t> SavepointBody<&'t mut Self, Result<T, E>> + Send + 'a,
    {
        async move {
            let savepoint = Savepoint::set(self).await?;
            match body(&mut *savepoint.tx).await {
                Ok(value) => {
                    savepoint.commit().await?;
                    Ok(value)
                }
                Err(error) => {
                    // If this fails too, the closure's error is the one to know.
                    let _ = savepoint.rollback().await;
                    Err(error)
                }
            }
        }
    }

    /// Sets a savepoint that lasts until its [`commit`](Savepoint::commit), its [`rollback`](Savepoint::rollback) or its drop. Use it if a closure
    /// does not fit; [`savepoint`](Self::savepoint) explains the rest.
    ///
    /// It hides sqlx's `begin`, whose future, dropped before the answer, rolls back the whole transaction, so that later statements commit by
    /// themselves.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the transaction as it was.
    pub fn begin(&mut self) -> impl Future<Output = Result<Savepoint<'_, DB>, sqlx::Error>> + Send {
        Savepoint::set(self)
    }
}

/// A savepoint, as [`Tx::begin`] sets it.
///
/// It dereferences to the [`Tx`]: pass `&mut *savepoint` to the generated methods. Dropping it without [`commit`](Self::commit) undoes it.
pub struct Savepoint<'t, DB: Backend> {
    tx: &'t mut Tx<DB>,
    before: Before,
    /// Among the savepoints that are set.
    number: usize,
    /// How many savepoints were open, how many scopes and hooks there were.
    open: usize,
    scopes: usize,
    hooks: usize,
    is_open: bool,
    /// It was looked for leaks, and what sqlx counts is on its way.
    is_undoing: bool,
}

impl<DB: Backend> fmt::Debug for Savepoint<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint").finish_non_exhaustive()
    }
}

impl<'t, DB: Backend> Savepoint<'t, DB> {
    pub(super) async fn set(tx: &'t mut Tx<DB>) -> Result<Self, sqlx::Error> {
        // A mark from before outlives it, and after one that was dropped there is no room for another. SQLite's is part of the
        // statement: a message of its own could get lost.
        let marks = DB::EMBEDDED && {
            tx.link().check(Call::Savepoint).await?;
            tx.notes.wants_mark(true)
        };
        if !DB::EMBEDDED {
            tx.mark();
        }
        let floor = tx.floors.last().copied().unwrap_or_default();
        let height = tx.height;
        tx.height = tx.link().set_savepoint(floor, height, marks).await?;
        if marks {
            tx.notes.mark();
        }
        let (before, scopes, hooks) = (tx.notes.before(), tx.scopes.len(), tx.hooks.len());
        tx.scopes.push(next_id());
        let open = tx.floors.len();
        tx.floors.push(tx.height);
        Ok(Self {
            number: tx.height.saturating_sub(1),
            tx,
            before,
            open,
            scopes,
            hooks,
            is_open: true,
            is_undoing: false,
        })
    }

    /// Keeps what was written in it, if the transaction commits. An error has undone it; see [`Tx::savepoint`].
    ///
    /// Sends nothing, unless it must ask whether an unseen statement failed: `RELEASE SAVEPOINT` leaves with the next savepoint. So there is no
    /// moment at which its fate is unknown.
    pub fn commit(mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        async move {
            let kept = self.can_be_kept().await;
            match kept {
                Ok(()) => self.keep(),
                // If this fails too, the first error is the one to know.
                Err(_) => drop(self.rollback().await),
            }
            kept
        }
    }

    async fn can_be_kept(&mut self) -> Result<(), sqlx::Error> {
        self.settle().await;
        if self.tx.notes.dropped() && !self.before.dropped() {
            return Err(Torn::Dropped.into());
        }
        if self.tx.has_leaked(self.open) {
            return Err(Torn::Savepoint.into());
        }
        self.tx.link().is_well().await
    }

    /// `ROLLBACK TO SAVEPOINT`: undoes what was written in it, and the transaction goes on.
    pub fn rollback(mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        async move {
            self.settle().await;
            self.look_for_leaks();
            // Dropped after an error, or before the answer, it tries again.
            self.tx.height = self.tx.link().undo_savepoint(self.number).await?;
            self.tx.notes.has_ended_savepoint(self.before);
            self.forget();
            Ok(())
        }
    }

    /// Until then sqlx may count savepoints that are being undone.
    async fn settle(&mut self) {
        if DB::EMBEDDED && self.tx.notes.must_ask(true) {
            self.tx.link().probe(Call::Savepoint).await;
        }
    }

    /// Of one that was leaked or torn down in it, what is undone cannot be told.
    fn look_for_leaks(&mut self) {
        if !self.is_undoing && self.tx.has_leaked(self.open) {
            self.tx.notes.tear();
        }
        self.is_undoing = true;
    }

    fn keep(&mut self) {
        self.is_open = false;
        self.tx.floors.truncate(self.open);
    }

    /// What is known of the savepoint's time is gone with what was written in it.
    fn forget(&mut self) {
        self.keep();
        self.tx.notes.undo(self.before);
        self.tx.scopes.truncate(self.scopes);
        self.tx.hooks.truncate(self.hooks);
    }
}

impl<DB: Backend> Deref for Savepoint<'_, DB> {
    type Target = Tx<DB>;
    fn deref(&self) -> &Tx<DB> {
        self.tx
    }
}

impl<DB: Backend> DerefMut for Savepoint<'_, DB> {
    fn deref_mut(&mut self) -> &mut Tx<DB> {
        self.tx
    }
}

impl<DB: Backend> Drop for Savepoint<'_, DB> {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        self.look_for_leaks();
        self.tx.height = DB::undo_savepoint_soon(&mut self.tx.inner, self.number);
        match DB::EMBEDDED {
            true => self.tx.notes.drop_savepoint(self.number),
            false => self.tx.notes.leave_undone(),
        }
        self.forget();
    }
}
