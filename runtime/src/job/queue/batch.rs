//! Statements about many claimed rows.

use std::time::Duration;

use super::{Change, QueueSql, QueueState};
use crate::db::atomic::in_transaction;
use crate::db::fault::Fault;
use crate::db::source::Link;
use crate::db::statement::{Listed, Statement, seconds};
use crate::db::{Array, Backend};

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
        let mut result = self.send::<DB, T>(rows, locks, connection).await;
        if let Err(error) = &result
            && locks == Locks::WaitBriefly
            && Fault::of(error) == Fault::LockTimeout
        {
            locks = Locks::PassOver;
            result = self.send::<DB, T>(rows, locks, connection).await;
        }
        let error = match result {
            Err(error) if Fault::of(&error).is_of_a_row() && !in_transaction::<DB>(connection) => {
                error
            }
            other => return other,
        };
        if rows.len() == 1 {
            return Ok(vec![Fate::Refused(error)]);
        }
        if locks != Locks::Wait {
            locks = Locks::PassOver;
        }
        let mut fates = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            let alone = self.alone(index);
            match alone.send::<DB, T>(&[row], locks, connection).await {
                Ok(fate) => fates.extend(fate),
                // Who called by hand is told of each.
                Err(error) if locks == Locks::Wait || Fault::of(&error).is_of_a_row() => {
                    fates.push(Fate::Refused(error));
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

    /// One statement; where the database takes no arrays, one per some thousands of rows, each of which holds for itself.
    async fn send<DB: Backend, T: QueueSql<DB>>(
        self,
        rows: &[&T],
        locks: Locks,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<Fate>, sqlx::Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let [complete, settle, start, extend] = T::IN_ORDER;
        let ([head, tail], in_order) = match self {
            Self::Complete => (T::COMPLETE_MANY, complete),
            Self::Settle(_) => (T::SETTLE, settle),
            Self::Start => (T::START, start),
            Self::Extend(_) => (T::EXTEND, extend),
        };
        if DB::HAS_ARRAYS {
            // Whoever waits with some rows locked deadlocks with whoever locks in another order. One row has no order.
            let [head, between, tail] = match locks {
                Locks::PassOver => [in_order[0], " SKIP LOCKED", in_order[1]],
                Locks::Wait if rows.len() > 1 => [in_order[0], "", in_order[1]],
                Locks::Wait => [head, "", tail],
                // It gives up before the server looks for deadlocks, after a second, and costs two thirds of the other.
                Locks::WaitBriefly => [head, DB::WAITING_BRIEFLY, tail],
            };
            let mut statement = Statement::<DB>::composed(head);
            statement.push(between);
            statement.push(tail);
            T::bind_keys(rows, &mut statement);
            let fences = rows.iter().map(|row| row.fence().get()).collect();
            statement.bind_array(Array::Integers(fences));
            self.bind_arrays(rows, &mut statement);
            // Those that were not written.
            let mut fates: Vec<Fate> = Vec::new();
            fates.resize_with(rows.len(), || Fate::Written);
            let returned = statement.fetch_all(connection).await?;
            each_returned::<DB, T>(rows, &returned, |place, row| {
                let locked = locks == Locks::PassOver
                    && DB::get_i64(row, sqlx::Row::len(row).saturating_sub(1))? == Some(1);
                if let Some(fate) = fates.get_mut(place) {
                    *fate = if locked { Fate::Later } else { Fate::Lost };
                }
                Ok(())
            })?;
            return Ok(fates);
        }
        // The key has no more columns than this leaves room for.
        let most = DB::MAX_PARAMETERS / 16;
        let mut fates = Vec::with_capacity(rows.len());
        for (index, rows) in rows.chunks(most).enumerate() {
            let mut statement = if rows.len() == 1 {
                Statement::<DB>::composed(head)
            } else {
                Statement::<DB>::one_off(head)
            };
            for (place, row) in rows.iter().enumerate() {
                statement.push(if place == 0 { "(" } else { ", (" });
                row.bind_key(&mut Listed(&mut statement));
                statement.push(", ");
                statement.push_next_parameter();
                statement.bind_i64(row.fence().get());
                self.bind_row(*row, index * most + place, &mut statement);
                statement.push(")");
            }
            statement.push(tail);
            let returned = statement.fetch_all(connection).await?;
            let first = fates.len();
            fates.resize_with(first + rows.len(), || Fate::Lost);
            each_returned::<DB, T>(rows, &returned, |place, _| {
                if let Some(fate) = fates.get_mut(first + place) {
                    *fate = Fate::Written;
                }
                Ok(())
            })?;
        }
        Ok(fates)
    }

    fn bind_arrays<DB: Backend, T: QueueSql<DB>>(self, rows: &[&T], statement: &mut Statement<DB>) {
        match self {
            Self::Complete => {}
            Self::Extend(lease) => statement.bind_seconds(lease),
            Self::Start => {
                let attempts = rows.iter().map(|row| row.attempts());
                statement.bind_array(Array::Integers(attempts.collect()));
            }
            Self::Settle(changes) => {
                let states = changes.iter().map(|change| Some(change.state.to_string()));
                statement.bind_array(Array::Texts(states.collect()));
                let delays = changes.iter().map(|change| change.delay.map(seconds));
                statement.bind_array(Array::Floats(delays.collect()));
                let attempts = changes.iter().zip(rows);
                let attempts = attempts.map(|(change, row)| change.attempts(row.attempts()));
                statement.bind_array(Array::Integers(attempts.collect()));
                let errors = changes.iter().map(|change| change.error.clone());
                statement.bind_array(Array::Texts(errors.collect()));
            }
        }
    }

    fn bind_row<DB: Backend, T: QueueSql<DB>>(
        self,
        row: &T,
        index: usize,
        statement: &mut Statement<DB>,
    ) {
        match self {
            Self::Complete => {}
            Self::Extend(lease) => {
                statement.push(", ");
                statement.push_next_parameter();
                statement.bind_seconds(lease);
            }
            Self::Start => {
                statement.push(", ");
                statement.push_next_parameter();
                statement.bind_i64(row.attempts());
            }
            Self::Settle(changes) => {
                let Some(change) = changes.get(index) else {
                    return;
                };
                statement.push(", ");
                statement.push_next_parameter();
                statement.bind_text(change.state.as_str());
                match change.delay {
                    Some(delay) => {
                        statement.push(", ");
                        statement.push_next_parameter();
                        statement.bind_seconds(delay);
                    }
                    None => statement.push(", NULL"),
                }
                statement.push(", ");
                statement.push_next_parameter();
                statement.bind_i64(change.attempts(row.attempts()));
                match &change.error {
                    Some(error) => {
                        statement.push(", ");
                        statement.push_next_parameter();
                        statement.bind_text(error);
                    }
                    None => statement.push(", NULL"),
                }
            }
        }
    }
}

/// What became of a row that was not written.
pub(super) async fn look<DB: Backend, T: QueueSql<DB>>(
    row: &T,
    connection: &mut Link<'_, DB>,
) -> Result<Fate, sqlx::Error> {
    let mut statement = Statement::<DB>::literal(T::LOOK);
    row.bind_key(&mut statement);
    statement.bind_i64(row.fence().get());
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
pub(super) fn dropped() -> sqlx::Error {
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
    for row in returned {
        let (key, fence) = T::read_claim(row)?;
        let mut places = (next..rows.len()).chain(0..next);
        let place = places.find(|place| {
            let row = rows.get(*place);
            row.is_some_and(|row| row.fence() == fence && row.has_key(&key))
        });
        if let Some(place) = place {
            found(place, row)?;
            next = place + 1;
        }
    }
    Ok(())
}
