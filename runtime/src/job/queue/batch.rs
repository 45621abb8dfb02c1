//! Statements about many claimed rows.

use std::collections::HashMap;
use std::time::Duration;

use super::{Change, QueueSql, QueueState};
use crate::db::atomic::{Reruns, in_transaction};
use crate::db::fault::Fault;
use crate::db::source::Link;
use crate::db::statement::{Compared, Statement, seconds};
use crate::db::{Array, Backend};

/// Of how many rows a batch is small: see [`QueueSql::BY_KEY`].
const FEW: usize = 100;

/// A statement about many rows.
#[derive(Clone, Copy)]
pub(crate) enum Batch<'b> {
    Complete,
    Settle(&'b [Change]),
    Start,
    Extend(Duration),
}

/// What it does about rows that a concurrent transaction has locked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locks {
    /// Waits for them.
    Wait,
    /// Waits for a moment, and fails then.
    WaitBriefly,
    PassOver,
}

/// What became of one row of a batch.
#[derive(Debug)]
pub(crate) enum Fate {
    Written,
    /// The claim holds no more.
    Lost,
    /// It is done already, by [`complete_in`](super::Claimed::complete_in) say.
    Done,
    /// A concurrent transaction has locked it, or it was not tried: later.
    Later,
    /// The database refuses to write this one.
    Refused(sqlx::Error),
    /// It was written, and an error came after that.
    Kept(sqlx::Error),
}

impl Batch<'_> {
    /// The same for a worker, which looks what became of those that were not written: it may be done, or a trigger drops the write.
    pub(crate) async fn run_and_look<DB: Backend, T: QueueSql<DB>>(
        self,
        rows: &[&T],
        locks: Locks,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<Fate>, sqlx::Error> {
        let mut fates = self.run_each::<DB, T>(rows, locks, connection).await?;
        for (row, fate) in rows.iter().zip(&mut fates) {
            if matches!(fate, Fate::Lost)
                && let Ok(found) = look::<DB, T>(row, connection).await
            {
                *fate = found;
            }
        }
        Ok(fates)
    }

    /// Runs it so that no row keeps the others: one that is locked is passed over, unless it is to be waited for, and if one is
    /// refused, each is written alone.
    ///
    /// An error means that none was written, or that it is unknown.
    pub(crate) async fn run_each<DB: Backend, T: QueueSql<DB>>(
        self,
        rows: &[&T],
        mut locks: Locks,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<Fate>, sqlx::Error> {
        // A concurrent transaction seldom holds one of the rows, and locking all of them in order first takes a fifth of the server's time for a job.
        // Not in a transaction, nor on a connection of the caller, who may have begun one by hand: a timeout would abort it, and the setting last.
        let may_fail = !in_transaction::<DB>(connection) && !connection.is_borrowed();
        let first = match locks {
            Locks::Wait if may_fail && rows.len() > 1 => Locks::WaitBriefly,
            _ => locks,
        };
        let mut result = self.send::<DB, T>(rows, first, connection).await;
        if let Err(error) = &result
            && first == Locks::WaitBriefly
            && Fault::of(error) == Fault::LockTimeout
        {
            if locks == Locks::WaitBriefly {
                locks = Locks::PassOver;
            }
            result = self.send::<DB, T>(rows, locks, connection).await;
        }
        let error = match result {
            Err(error) if Fault::refuses_a_row(&error) && !in_transaction::<DB>(connection) => {
                error
            }
            other => return other,
        };
        if rows.len() == 1 {
            return Ok(vec![failed_alone(error, connection).await]);
        }
        if locks != Locks::Wait {
            locks = Locks::PassOver;
        }
        let mut fates = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            let alone = self.alone(index);
            match alone.send::<DB, T>(&[row], locks, connection).await {
                Ok(fate) => fates.extend(fate),
                // It was begun by hand, and what the batch was refused for has aborted it.
                Err(later) if Fault::of(&later) == Fault::TransactionAborted => return Err(error),
                // Who called by hand is told of each.
                Err(error) if locks == Locks::Wait || Fault::refuses_a_row(&error) => {
                    let may_be_lost = Fault::of(&error).may_have_committed();
                    fates.push(failed_alone(error, connection).await);
                    // Those after it are not sent, and known not to be written.
                    if may_be_lost && look::<DB, T>(row, connection).await.is_err() {
                        break;
                    }
                }
                Err(error) if fates.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        fates.resize_with(rows.len(), || Fate::Later);
        Ok(fates)
    }

    /// What it says about this row, if it is no more than that it is done.
    pub(crate) fn change(&self, index: usize) -> Option<&Change> {
        match self {
            Self::Settle(changes) => changes.get(index),
            _ => None,
        }
    }

    fn alone(self, index: usize) -> Self {
        match self {
            Self::Settle(changes) => Self::Settle(changes.get(index..=index).unwrap_or_default()),
            other => other,
        }
    }

    async fn send<DB: Backend, T: QueueSql<DB>>(
        self,
        rows: &[&T],
        locks: Locks,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<Fate>, sqlx::Error> {
        let mut reruns = Reruns::new(in_transaction::<DB>(connection));
        loop {
            match self.send_once::<DB, T>(rows, locks, connection).await {
                Err(error) if reruns.after(Fault::of(&error), connection).await => {}
                sent => return sent,
            }
        }
    }

    async fn send_once<DB: Backend, T: QueueSql<DB>>(
        self,
        rows: &[&T],
        locks: Locks,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<Fate>, sqlx::Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        if let (Self::Complete, [row], Locks::Wait) = (self, rows, locks) {
            let fate = match complete::<DB, T>(row, connection).await? {
                0 => Fate::Lost,
                _ => Fate::Written,
            };
            return Ok(vec![fate]);
        }
        let ([head, tail], place) = match self {
            Self::Complete => (T::COMPLETE_MANY, 0),
            Self::Settle(_) => (T::SETTLE, 1),
            Self::Start => (T::START, 2),
            Self::Extend(_) => (T::EXTEND, 3),
        };
        let by_key = match self {
            Self::Settle(_) | Self::Start if rows.len() <= FEW => T::BY_KEY,
            _ => "",
        };
        let in_order = T::IN_ORDER.map(|in_order| in_order[place]);
        // Whoever waits with some rows locked deadlocks with whoever locks in another order. One row has no order.
        let (texts, returns_written) = match (in_order, locks) {
            (Some([head, written, tail]), Locks::PassOver) => {
                ([head, " SKIP LOCKED", written, by_key, tail], false)
            }
            (Some([head, written, tail]), Locks::Wait) if rows.len() > 1 => {
                ([head, "", written, by_key, tail], false)
            }
            // It gives up before the server looks for deadlocks, after a second, and costs two thirds of the other.
            (Some(_), Locks::WaitBriefly) => ([head, by_key, DB::WAITING_BRIEFLY, tail, ""], true),
            (None, _) | (Some(_), Locks::Wait) => ([head, by_key, tail, "", ""], true),
        };
        let [first, more @ ..] = texts;
        let mut statement = Statement::<DB>::composed(first);
        more.into_iter().for_each(|text| statement.push(text));
        T::bind_keys(rows, &mut statement);
        statement.bind_rows(rows.len(), &self.columns::<DB, T>(rows));
        if let Self::Extend(lease) = self {
            statement.bind_seconds(lease);
        }
        let returned = statement.fetch_all(connection).await?;
        let [found, others] = match returns_written {
            true => [|| Fate::Written, || Fate::Lost],
            false => [|| Fate::Lost, || Fate::Written],
        };
        let mut fates = Vec::new();
        fates.resize_with(rows.len(), others);
        each_returned::<DB, T>(rows, &returned, |place, row| {
            let is_locked = !returns_written
                && locks == Locks::PassOver
                && DB::get_i64(row, sqlx::Row::len(row).saturating_sub(1))? == Some(1);
            if let Some(fate) = fates.get_mut(place) {
                *fate = if is_locked { Fate::Later } else { found() };
            }
            Ok(())
        })?;
        Ok(fates)
    }

    /// The fences of these rows, and what it says about each.
    fn columns<DB: Backend, T: QueueSql<DB>>(self, rows: &[&T]) -> Vec<Array> {
        let fences = rows.iter().map(|row| row.claimed_as().get());
        let mut columns = vec![Array::Integers(fences.collect())];
        match self {
            Self::Complete | Self::Extend(_) => {}
            Self::Start => {
                let attempts = rows.iter().map(|row| row.attempts());
                columns.push(Array::Integers(attempts.collect()));
            }
            Self::Settle(changes) => {
                let states = changes.iter().map(|change| Some(change.state.to_string()));
                let delays = changes.iter().map(|change| change.delay.map(seconds));
                let attempts = changes.iter().zip(rows);
                let attempts = attempts.map(|(change, row)| change.attempts(row.attempts()));
                let errors = changes.iter().map(|change| change.error.clone());
                columns.extend([
                    Array::Texts(states.collect()),
                    Array::Floats(delays.collect()),
                    Array::Integers(attempts.collect()),
                    Array::Texts(errors.collect()),
                ]);
            }
        }
        columns
    }
}

/// Completes one row by the short statement, and says how many it wrote.
pub(super) async fn complete<DB: Backend, T: QueueSql<DB>>(
    row: &T,
    connection: &mut Link<'_, DB>,
) -> Result<u64, sqlx::Error> {
    let mut statement = Statement::<DB>::literal(T::COMPLETE);
    row.bind_key(&mut Compared(&mut statement));
    statement.bind_i64(row.claimed_as().get());
    statement.execute(connection).await
}

/// What became of a row whose own statement failed just now.
async fn failed_alone<DB: Backend>(error: sqlx::Error, connection: &mut Link<'_, DB>) -> Fate {
    match DB::has_written(connection, &error).await {
        true => Fate::Kept(error),
        false => Fate::Refused(error),
    }
}

/// What became of a row that was not written.
pub(super) async fn look<DB: Backend, T: QueueSql<DB>>(
    row: &T,
    connection: &mut Link<'_, DB>,
) -> Result<Fate, sqlx::Error> {
    let mut statement = Statement::<DB>::literal(T::LOOK);
    row.bind_key(&mut statement);
    statement.bind_i64(row.claimed_as().get());
    let Some(row) = statement.fetch_all(connection).await?.pop() else {
        return Ok(Fate::Lost);
    };
    let state = DB::get_text(&row, 0)?;
    Ok(if state == QueueState::Done.as_str() {
        Fate::Done
    } else if state == QueueState::Running.as_str() {
        // The statement has waited for whoever had locked it.
        Fate::Refused(dropped())
    } else {
        Fate::Lost
    })
}

/// Nothing was refused, and nothing was written.
pub(crate) fn dropped() -> sqlx::Error {
    sqlx::Error::InvalidArgument("a trigger or a policy of the table drops the write".to_owned())
}

/// Finds the rows that were returned, by key and fence: a batch can have an old claim of a row and the new one.
fn each_returned<DB: Backend, T: QueueSql<DB>>(
    rows: &[&T],
    returned: &[DB::Row],
    mut found: impl FnMut(usize, &DB::Row) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    // The database returns them mostly in the order in which they were given.
    let mut next = 0;
    let mut by_fence: Option<HashMap<i64, Vec<usize>>> = None;
    for row in returned {
        let (key, fence) = T::read_claim(row)?;
        let is_it = |place: &usize| {
            let row = rows.get(*place);
            row.is_some_and(|row| row.claimed_as() == fence && row.key() == key)
        };
        let place = Some(next).filter(is_it).or_else(|| {
            let by_fence = by_fence.get_or_insert_with(|| places_by_fence::<DB, T>(rows));
            let places = by_fence.get(&fence.get())?;
            places.iter().copied().find(is_it)
        });
        if let Some(place) = place {
            found(place, row)?;
            next = place + 1;
        }
    }
    Ok(())
}

fn places_by_fence<DB: Backend, T: QueueSql<DB>>(rows: &[&T]) -> HashMap<i64, Vec<usize>> {
    let mut places = HashMap::<_, Vec<_>>::with_capacity(rows.len());
    for (place, row) in rows.iter().enumerate() {
        places
            .entry(row.claimed_as().get())
            .or_default()
            .push(place);
    }
    places
}
