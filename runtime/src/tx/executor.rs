//! What runs on a transaction through sqlx, seen.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::TryFutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use sqlx::error::BoxDynError;
use sqlx::{Database, Either, Execute, Executor, SqlStr, Statement};
use sqlx_core::describe::Describe;

use super::Tx;
use super::text::Effect;
use crate::db::notes::{Call, Notes, Torn};
use crate::db::{Backend, Results};

/// `query.execute(&mut *tx)`, as on a connection.
///
/// It notes how each statement ended, as for the generated methods, and whether its future was dropped.
///
/// - A stream of `fetch` or `fetch_many` can be dropped after its first item, as `fetch_one` and `fetch_optional` do on SQLite. A write has written
///   all rows by then. PostgreSQL runs the statement to its end all the same, and an error in the rest surfaces in the next statement, or in COMMIT.
///   SQLite stops it: the rest of a text of several statements does not run, so this counts as dropped there; `fetch_one` and `fetch_optional` run such
///   a text to its end.
/// - `COMMIT`, `END`, `ABORT`, `PREPARE TRANSACTION` and `ROLLBACK` (without `TO`) are not sent. They are an error, and so is every later statement:
///   `run` ends as [`Aborted`](crate::tx::TransactionError::Aborted) and nothing is committed. A text of several statements is sent, and so is
///   `EXECUTE`; if it contains one of these words, the next statement asks whether it ended the transaction.
///
/// Needs the cargo feature `executor`, which is on by default.
#[cfg_attr(docsrs, doc(cfg(feature = "executor")))]
impl<'c, DB: Backend> Executor<'c> for &'c mut Tx<DB> {
    type Database = DB;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<DB::QueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(async move {
            let mut all = DB::QueryResult::default();
            self.run_seen(query, |result| {
                if let Either::Left(result) = result {
                    all.extend([result]);
                }
            })
            .await?;
            Ok(all)
        })
    }

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<DB::QueryResult, DB::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let open = async move {
            let query = Seen::of(query);
            let effect = query.effect();
            self.admit(effect).await?;
            if !DB::EMBEDDED {
                // When it is dropped there is no room for it.
                self.mark();
            }
            Ok::<_, sqlx::Error>(Seeing::<DB> {
                results: DB::run(&mut self.inner, query),
                notes: &mut self.notes,
                state: State::Unsent,
                may_stop: !DB::EMBEDDED || effect == Effect::Single,
            })
        };
        open.try_flatten_stream().boxed()
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<DB::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(async move {
            let mut rows = Vec::new();
            self.run_seen(query, |result| rows.extend(result.right()))
                .await?;
            Ok(rows)
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<DB::Row>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(async move {
            let query = Seen::of(query);
            let effect = query.effect();
            self.admit(effect).await?;
            if DB::EMBEDDED && effect != Effect::Single {
                // It would be stopped after the first row, and what follows in the text not be run.
                let mut first = None;
                let mut link = self.link();
                link.send(query, |result| first = first.take().or(result.right()))
                    .await?;
                return Ok(first);
            }
            let sent = self.notes.sent();
            let first = DB::run_for_one(&mut self.inner, query).await;
            let first = sent.ended(DB::ERROR_ABORTS_TRANSACTION, first);
            self.link().after(first).await
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [DB::TypeInfo],
    ) -> BoxFuture<'e, Result<DB::Statement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            self.link().check(Call::Statement).await?;
            let sent = self.notes.sent();
            let prepared = DB::prepare(&mut self.inner, sql, parameters).await;
            let prepared = sent.ended(DB::ERROR_ABORTS_TRANSACTION, prepared);
            self.link().after(prepared).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<DB>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            self.link().check(Call::Statement).await?;
            let sent = self.notes.sent();
            let described = DB::describe(&mut self.inner, sql).await;
            let described = sent.ended(DB::ERROR_ABORTS_TRANSACTION, described);
            self.link().after(described).await
        })
    }
}

impl<DB: Backend> Tx<DB> {
    async fn run_seen<'q>(
        &mut self,
        query: impl Execute<'q, DB> + 'q,
        each: impl FnMut(Either<DB::QueryResult, DB::Row>) + Send,
    ) -> Result<(), sqlx::Error> {
        let query = Seen::of(query);
        self.admit(query.effect()).await?;
        self.link().send(query, each).await
    }

    /// Refuses what would end the transaction.
    async fn admit(&mut self, effect: Effect) -> Result<(), Torn> {
        if effect == Effect::Ends {
            self.notes.tear();
            return Err(Torn::Ended);
        }
        self.link().check(Call::Statement).await?;
        if effect == Effect::MayEnd {
            self.lend();
        }
        Ok(())
    }
}

/// A query whose text was looked at.
enum Seen<DB: Database, E> {
    Text {
        sql: SqlStr,
        arguments: Result<Option<DB::Arguments>, BoxDynError>,
        persistent: bool,
    },
    /// With a statement that was prepared by hand.
    Prepared(E),
}

impl<'q, DB: Backend, E: Execute<'q, DB>> Seen<DB, E> {
    fn of(mut query: E) -> Self {
        if query.statement().is_some() {
            return Self::Prepared(query);
        }
        Self::Text {
            arguments: query.take_arguments(),
            persistent: query.persistent(),
            sql: query.sql(),
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::Text { sql, .. } => Effect::of(sql.as_str()),
            Self::Prepared(query) => query.statement().map_or(Effect::Other, |statement| {
                Effect::of(statement.sql().as_str())
            }),
        }
    }
}

impl<'q, DB: Backend, E: Execute<'q, DB>> Execute<'q, DB> for Seen<DB, E> {
    fn sql(self) -> SqlStr {
        match self {
            Self::Text { sql, .. } => sql,
            Self::Prepared(query) => query.sql(),
        }
    }

    fn statement(&self) -> Option<&DB::Statement> {
        match self {
            Self::Text { .. } => None,
            Self::Prepared(query) => query.statement(),
        }
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, BoxDynError> {
        match self {
            Self::Text { arguments, .. } => std::mem::replace(arguments, Ok(None)),
            Self::Prepared(query) => query.take_arguments(),
        }
    }

    fn persistent(&self) -> bool {
        match self {
            Self::Text { persistent, .. } => *persistent,
            Self::Prepared(query) => query.persistent(),
        }
    }
}

/// A statement whose answer is read piece by piece.
struct Seeing<'e, DB: Backend> {
    results: Results<'e, DB>,
    notes: &'e mut Notes,
    state: State,
    /// Whether the statement comes to the same end when its answer is not read to the end.
    may_stop: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unsent,
    Sent,
    /// A part of the answer has come.
    Answered,
    Ended,
}

impl<DB: Backend> Stream for Seeing<'_, DB> {
    type Item = Result<Either<DB::QueryResult, DB::Row>, sqlx::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.state == State::Unsent {
            this.state = State::Sent;
        }
        let aborts = DB::ERROR_ABORTS_TRANSACTION;
        this.results.poll_next_unpin(context).map(|next| {
            this.state = match next {
                Some(Ok(_)) => State::Answered,
                _ => State::Ended,
            };
            match next {
                Some(Err(error)) => {
                    // It can be the end of the transaction, which the next statement asks.
                    this.notes.leave_unread();
                    Some(this.notes.ended(aborts, Err(error)))
                }
                Some(item) => Some(item),
                None => this.notes.ended(aborts, Ok(None)).ok().flatten(),
            }
        })
    }
}

impl<DB: Backend> Drop for Seeing<'_, DB> {
    fn drop(&mut self) {
        match self.state {
            State::Answered if self.may_stop => self.notes.leave_unread(),
            State::Sent | State::Answered => drop(self.notes.sent()),
            State::Unsent | State::Ended => {}
        }
    }
}
