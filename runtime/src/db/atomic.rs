//! Several statements that take effect together: a transaction, or a savepoint inside the caller's.

use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx_core::transaction::TransactionManager;

use crate::backoff::full_jitter;
use crate::db::Backend;
use crate::db::fault::Fault;
use crate::db::notes::Before;
use crate::db::source::Link;
use crate::observe;

/// Like `sqlx::Transaction`, but safe to drop while it begins: see [`Backend::abandon_begin`] and
/// [`Backend::savepoint`].
pub(crate) struct Atomic<'c, DB: Backend> {
    link: Link<'c, DB>,
    state: State,
    before: Option<Before>,
}

/// With a BEGIN in it PostgreSQL goes on, and the COMMIT is that of the caller's transaction.
const BEGUN_BY_HAND: &str = "the connection is in a transaction that was begun by hand, and this takes several statements \
    that take effect together: begin it with `begin` of sqlx or with `rowlock::transaction`";

enum State {
    Beginning,
    Open,
    /// A savepoint in a transaction of the caller.
    Nested,
    Ended,
}

impl<'c, DB: Backend> Atomic<'c, DB> {
    pub(crate) async fn begin(mut link: Link<'c, DB>) -> Result<Self, sqlx::Error> {
        if in_transaction::<DB>(&link) {
            let before = link.before();
            link.savepoint().await?;
            let state = State::Nested;
            return Ok(Self {
                link,
                state,
                before,
            });
        }
        if link.is_begun_by_hand().await? {
            return Err(sqlx::Error::InvalidArgument(BEGUN_BY_HAND.to_owned()));
        }
        let mut atomic = Self {
            link,
            state: State::Beginning,
            before: None,
        };
        let begin = Some(DB::BEGIN.into_sql_str());
        DB::TransactionManager::begin(&mut atomic.link, begin).await?;
        atomic.state = State::Open;
        Ok(atomic)
    }

    pub(crate) fn link(&mut self) -> &mut Link<'c, DB> {
        &mut self.link
    }

    pub(crate) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.link.release().await?;
        self.state = State::Ended;
        Ok(())
    }

    pub(crate) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        if matches!(self.state, State::Nested) {
            self.link.roll_back().await?;
            self.link.undo(self.before);
        } else {
            DB::unwind(&mut self.link).await?;
        }
        self.state = State::Ended;
        Ok(())
    }
}

impl<DB: Backend> Drop for Atomic<'_, DB> {
    fn drop(&mut self) {
        match self.state {
            State::Ended => {}
            State::Open => {
                DB::unwind_soon(&mut self.link, true);
                DB::TransactionManager::start_rollback(&mut self.link);
            }
            State::Nested => {
                DB::TransactionManager::start_rollback(&mut self.link);
                self.link.undo(self.before);
            }
            State::Beginning => DB::abandon_begin(&mut self.link),
        }
    }
}

/// Whether sqlx knows of an open transaction on this connection.
pub(crate) fn in_transaction<DB: Backend>(connection: &DB::Connection) -> bool {
    DB::TransactionManager::get_transaction_depth(connection) > 0
}

/// How often a write outside a transaction is run at most.
const RUNS: u32 = 10;

/// Runs a write outside a transaction again that lost against a concurrent one.
///
/// In READ COMMITTED a write waits for the other one and looks again, but for a deadlock: with a transaction that locked the same rows in
/// another order, or by another key. The server's `default_transaction_isolation` may be stricter, and then such a write fails with
/// 40001 too. Either has to be run again by who began its transaction: us. Not at a lower level, because those who chose SERIALIZABLE rely
/// on everybody's having it.
pub(crate) struct Reruns {
    left: u32,
}

impl Reruns {
    /// In the caller's transaction there are none.
    pub(crate) fn new(in_transaction: bool) -> Self {
        Self {
            left: if in_transaction { 0 } else { RUNS - 1 },
        }
    }

    /// Whether what failed like this is to be run again, after a wait that is over by then.
    pub(crate) async fn after<DB: Backend>(
        &mut self,
        fault: Fault,
        link: &mut Link<'_, DB>,
    ) -> bool {
        if !matches!(fault, Fault::Serialization | Fault::Deadlock) || self.left == 0 {
            return false;
        }
        // In one that was begun by hand the question fails, as it is aborted; and who began it runs it again.
        if !matches!(link.is_begun_by_hand().await, Ok(false)) {
            return false;
        }
        let (first, longest) = (Duration::from_millis(1), Duration::from_millis(50));
        let run = RUNS - self.left;
        let wait = full_jitter(run, first, longest);
        observe::runs_again("statement", &fault, run, wait);
        tokio::time::sleep(wait).await;
        self.left -= 1;
        true
    }
}
