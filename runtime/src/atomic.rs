//! Several statements that take effect together: a transaction, or a savepoint inside the caller's.

use sqlx::SqlSafeStr;
use sqlx_core::transaction::TransactionManager;

use crate::backend::Backend;

/// Like `sqlx::Transaction`, but safe to drop while it begins: see [`Backend::abandon_begin`] and
/// [`Backend::savepoint`].
pub(crate) struct Atomic<'c, DB: Backend> {
    connection: &'c mut DB::Connection,
    state: State,
}

enum State {
    Beginning,
    Open,
    Ended,
}

impl<'c, DB: Backend> Atomic<'c, DB> {
    pub(crate) async fn begin(connection: &'c mut DB::Connection) -> Result<Self, sqlx::Error> {
        if in_transaction::<DB>(connection) {
            DB::savepoint(connection).await?;
            let state = State::Open;
            return Ok(Self { connection, state });
        }
        let mut atomic = Self {
            connection,
            state: State::Beginning,
        };
        let begin = Some(DB::BEGIN.into_sql_str());
        DB::TransactionManager::begin(atomic.connection, begin).await?;
        atomic.state = State::Open;
        Ok(atomic)
    }

    pub(crate) fn connection(&mut self) -> &mut DB::Connection {
        self.connection
    }

    pub(crate) async fn commit(mut self) -> Result<(), sqlx::Error> {
        DB::TransactionManager::commit(self.connection).await?;
        self.state = State::Ended;
        Ok(())
    }

    pub(crate) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        DB::TransactionManager::rollback(self.connection).await?;
        self.state = State::Ended;
        Ok(())
    }
}

impl<DB: Backend> Drop for Atomic<'_, DB> {
    fn drop(&mut self) {
        match self.state {
            State::Ended => {}
            State::Open => DB::TransactionManager::start_rollback(self.connection),
            State::Beginning => DB::abandon_begin(self.connection),
        }
    }
}

/// Whether sqlx knows of an open transaction on this connection.
pub(crate) fn in_transaction<DB: Backend>(connection: &DB::Connection) -> bool {
    DB::TransactionManager::get_transaction_depth(connection) > 0
}
