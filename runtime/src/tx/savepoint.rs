//! A part of a transaction that can fail alone.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};

use sqlx_core::transaction::TransactionManager;

use super::notes::{Before, Torn};
use super::{Tx, next_id};
use crate::backend::Backend;

/// A closure that is run once with a savepoint: `async |sp| { … }`. It can change its surroundings.
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
    /// Runs `body` in a savepoint: its `Err` undoes what it wrote, and the transaction goes on; its `Ok` stands if the transaction
    /// is committed.
    ///
    /// The closure gets the transaction itself. It is run once: a serialization failure or a deadlock is for the transaction
    /// around it, which runs again if its own closure returns the error. `E` is any error with a `From<sqlx::Error>`, for when the
    /// savepoint itself fails.
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
    /// # SQL
    ///
    /// `SAVEPOINT …`, and `RELEASE SAVEPOINT …` or `ROLLBACK TO SAVEPOINT …`: two round trips.
    ///
    /// # Errors
    ///
    /// The closure's, or what the database said to one of these statements. An `Ok` of the closure is an error, and undone, if a
    /// statement in it had failed and PostgreSQL had given the savepoint up (the error is that of the first statement that
    /// failed), if the future of a statement was dropped before its answer, or if a savepoint was left open in it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future undoes what was written in it and leaves the transaction as it was.
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

    /// Sets a savepoint that lasts until its [`commit`](Savepoint::commit), its [`rollback`](Savepoint::rollback) or its drop. For
    /// where a closure does not fit; [`savepoint`](Self::savepoint) says the rest.
    ///
    /// It stands before sqlx's `begin`, whose future, dropped before the answer, rolls back all of the transaction, so that later
    /// statements commit by themselves.
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
/// It dereferences to the [`Tx`]: give `&mut *savepoint` to the generated methods. Dropped without
/// [`commit`](Self::commit), it is undone.
pub struct Savepoint<'t, DB: Backend> {
    tx: &'t mut Tx<DB>,
    before: Before,
    /// How deep sqlx was, how many savepoints were open, how many scopes and hooks there were.
    depth: usize,
    open: usize,
    scopes: usize,
    hooks: usize,
    is_open: bool,
    /// RELEASE was sent, and its answer not read.
    is_releasing: bool,
}

impl<DB: Backend> fmt::Debug for Savepoint<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint").finish_non_exhaustive()
    }
}

impl<'t, DB: Backend> Savepoint<'t, DB> {
    async fn set(tx: &'t mut Tx<DB>) -> Result<Self, sqlx::Error> {
        if !DB::EMBEDDED {
            // A mark from before outlives it, and after one that was dropped there is no room for another.
            tx.mark();
        }
        tx.link().savepoint().await?;
        let depth = tx.depth().saturating_sub(1);
        let (before, scopes, hooks) = (tx.notes.before(), tx.scopes.len(), tx.hooks.len());
        tx.scopes.push(next_id());
        let open = tx.open;
        tx.open += 1;
        Ok(Self {
            tx,
            before,
            depth,
            open,
            scopes,
            hooks,
            is_open: true,
            is_releasing: false,
        })
    }

    /// `RELEASE SAVEPOINT`: what was written in it stands if the transaction is committed. An error has undone it; see
    /// [`Tx::savepoint`].
    pub fn commit(mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        async move {
            self.settle().await;
            let torn = if self.tx.notes.dropped() && !self.before.dropped() {
                Some(Torn::Dropped)
            } else if self.tx.depth() != self.depth + 1 || self.tx.open != self.open + 1 {
                Some(Torn::Savepoint)
            } else {
                None
            };
            let released = match torn {
                Some(torn) => Err(torn.into()),
                None => {
                    self.is_releasing = true;
                    let released = self.tx.link().release().await;
                    self.is_releasing = false;
                    if released.is_ok() {
                        self.tx.notes.has_ended_savepoint(self.before);
                    }
                    released
                }
            };
            match released {
                Ok(()) => self.keep(),
                // If this fails too, the first error is the one to know.
                Err(_) => drop(self.rollback().await),
            }
            released
        }
    }

    /// `ROLLBACK TO SAVEPOINT`: undoes what was written in it, and the transaction goes on.
    pub fn rollback(mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        async move {
            self.settle().await;
            if self.tx.depth() <= self.depth {
                self.tx.notes.tear();
            }
            // One that sqlx knows of and that was left open in it ends with it. Dropped after an error, it tries again.
            while self.tx.depth() > self.depth {
                self.tx.link().roll_back().await?;
            }
            self.tx.notes.has_ended_savepoint(self.before);
            self.forget();
            Ok(())
        }
    }

    /// Until then sqlx may count savepoints that are being undone.
    async fn settle(&mut self) {
        if DB::EMBEDDED && self.tx.notes.must_ask(true) {
            self.tx.link().probe().await;
        }
    }

    fn keep(&mut self) {
        self.is_open = false;
        self.tx.open = self.open;
    }

    /// What is known of the savepoint's time is gone with what was written in it.
    fn forget(&mut self) {
        self.is_open = false;
        self.tx.open = self.open;
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
        let levels = match self.tx.notes.is_undoing() {
            true => 1,
            false => self.tx.depth().saturating_sub(self.depth),
        };
        // One that was leaked or torn down in it, or that may have been released: what is undone cannot be told.
        if self.is_releasing || levels != 1 || self.tx.open != self.open + 1 {
            self.tx.notes.tear();
        }
        for _ in 0..levels {
            DB::TransactionManager::start_rollback(&mut self.tx.inner);
        }
        match DB::EMBEDDED {
            true => self.tx.notes.undoing(),
            false => self.tx.notes.leave_undone(),
        }
        self.forget();
    }
}
