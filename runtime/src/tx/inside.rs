//! A transaction inside another one.

use std::future::Future;
use std::time::Instant;

use sqlx::AssertSqlSafe;
use tracing::Instrument;

use super::run::{Work, exhausted, within, worth_a_retry};
use super::{Savepoint, TransactionBuilder, TransactionError, Tx, describe};
use crate::db::begin::Begin;
use crate::db::fault::Fault;
use crate::db::notes::Torn;
use crate::db::{Backend, Inside};

/// Runs `work` once, in a savepoint: what stands before it in the transaction could not be run again.
pub(super) fn run<DB: Backend, W: Work<DB>>(
    builder: &mut TransactionBuilder<DB, &mut Tx<DB>>,
    work: &W,
) -> impl Future<Output = Result<W::Output, TransactionError<W::Error>>> + Send {
    async move {
        if builder.attempts == 0 {
            return Err(TransactionError::NotRun);
        }
        let exceeded = TransactionError::DeadlineExceeded { attempts: 1 };
        let ends = builder.ends();
        if ends.is_some_and(|ends| ends <= Instant::now()) {
            return Err(exceeded);
        }
        let asked = builder.asked(ends);
        // Dropping what did not end in time undoes it.
        let Some(ended) = within(ends, in_savepoint(&mut *builder.place, &asked, work)).await
        else {
            return Err(exceeded);
        };
        ended.map_err(|(error, fault)| {
            let passes = match error {
                TransactionError::Begin(_) => Fault::is_transient_at_begin,
                _ => Fault::is_transient,
            };
            match fault.is_some_and(passes) {
                true => exhausted(1, error),
                false => error,
            }
        })
    }
    .instrument(tracing::debug_span!("rowlock.transaction"))
}

/// An error, and whether another run of all of it can help.
type Failed<E> = (TransactionError<E>, Option<Fault>);

async fn in_savepoint<DB: Backend, W: Work<DB>>(
    tx: &mut Tx<DB>,
    asked: &Begin,
    work: &W,
) -> Result<W::Output, Failed<W::Error>> {
    let mut savepoint = Savepoint::set(tx).await.map_err(not_begun)?;
    let entered = match DB::enter_sql(asked) {
        None => Ok(Inside::default()),
        Some(sql) => enter::<DB>(&mut savepoint, sql, asked).await,
    };
    let inside = match entered {
        Ok(inside) => inside,
        Err(error) => {
            // If this fails too, the first error is the one to know.
            let _ = savepoint.rollback().await;
            return Err(not_begun(error));
        }
    };
    if let Some((asked, found)) = inside.lacks {
        let _ = savepoint.rollback().await;
        return Err((TransactionError::TooWeak { asked, found }, None));
    }
    let value = match work.run(&mut savepoint).await {
        Ok(value) => value,
        Err(error) => {
            let (seen, lent) = (savepoint.notes.last(), savepoint.notes.lent());
            let undone = savepoint.rollback().await;
            let lost = undone.is_err_and(|error| Fault::of(&error) == Fault::ConnectionLost);
            let fault = worth_a_retry(seen, W::fault(&error), lent, lost);
            return Err((TransactionError::Failed(error), fault));
        }
    };
    let kept = match inside.restore {
        None => savepoint.commit().await,
        Some(sql) => {
            let sql = sqlx::raw_sql(AssertSqlSafe(sql));
            match savepoint.link().run(sql, |_| {}).await {
                Ok(()) => savepoint.commit().await,
                Err(error) => {
                    let _ = savepoint.rollback().await;
                    Err(error)
                }
            }
        }
    };
    kept.map(|()| value).map_err(|error| {
        let fault = (!Torn::is(&error)).then(|| Fault::of(&error));
        (TransactionError::Aborted(describe(error)), fault)
    })
}

async fn enter<DB: Backend>(
    tx: &mut Tx<DB>,
    sql: String,
    asked: &Begin,
) -> Result<Inside, sqlx::Error> {
    let mut first = None;
    let sql = sqlx::raw_sql(AssertSqlSafe(sql));
    tx.link()
        .run(sql, |result| first = first.take().or(result.right()))
        .await?;
    match first {
        Some(row) => DB::entered(&row, asked),
        None => Ok(Inside::default()),
    }
}

fn not_begun<E>(error: sqlx::Error) -> Failed<E> {
    let error = describe(error);
    let fault = error.fault();
    (TransactionError::Begin(error), Some(fault))
}
