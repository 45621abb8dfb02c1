//! Whose turn it is, in a queue that limits the running jobs of each value of a column.

use std::sync::{Mutex, PoisonError};

use crate::db::Backend;
use crate::db::statement::Statement;

/// The column by whose values running jobs are limited.
#[derive(Debug, Clone, Copy)]
pub struct Per {
    /// ` AND "customer_id" > `
    pub after: &'static str,
    /// The place of the column among those that a claim returns.
    pub place: usize,
    /// The unique index that lets no two jobs of one value run.
    pub index: &'static str,
}

impl Per {
    /// Whether this is the index's error: a concurrent claim took another job of the same value.
    pub(super) fn is_taken(&self, error: &sqlx::Error) -> bool {
        let constraint = error
            .as_database_error()
            .and_then(|error| error.constraint());
        constraint == Some(self.index)
    }
}

/// The value after which the next of several claims begins, if it has to go from value to value. Only a hint: it makes no claim wrong.
pub(super) struct Turn<DB: Backend>(Mutex<Option<DB::Raw>>);

impl<DB: Backend> Default for Turn<DB> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<DB: Backend> Turn<DB> {
    pub(super) fn last(&self) -> Option<DB::Raw> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// A claim that asked for so many came to these rows. Fewer: it has seen all values after the last one.
    ///
    /// The next begins after the greatest of its values. What is greatest by the bytes may not be by the collation of a text; all of them
    /// are after the last one, so that each claim comes further.
    pub(super) fn go_on(&self, per: &Per, asked: usize, rows: &[DB::Row]) {
        let value = |row| match DB::holds_null(row, per.place) {
            Ok(false) => DB::get_raw(row, per.place).ok(),
            _ => None,
        };
        let rows = if rows.len() < asked { &[] } else { rows };
        let last = rows.iter().filter_map(value).max_by(|one, other| {
            let (number, bytes) = (DB::raw_integer, DB::raw_bytes);
            let order = number(one).cmp(&number(other));
            order.then_with(|| bytes(one).cmp(bytes(other)))
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

pub(super) fn push_turn<DB: Backend>(per: &Per, last: Option<&DB::Raw>, to: &mut Statement<DB>) {
    if let Some(last) = last {
        to.push(per.after);
        to.push_parameter();
        to.bind_raw(last);
    }
}
