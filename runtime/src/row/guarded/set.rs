//! What a guarded update writes.

use std::fmt;
use std::marker::PhantomData;

use super::GuardedSql;
use crate::db::Backend;
use crate::db::column::{Column, CounterNumber};
use crate::db::condition::{
    Addition, Condition, Expression, Field, Operand, Side, TakesAdd, TakesSet,
};
use crate::db::statement::{Bind, Statement};

/// What an update writes: the argument of the closure of `update_if` and `patch`.
///
/// It cannot set the key, the version, or columns that the database or another derive writes. A version goes up by itself.
pub struct Set<DB: Backend, T> {
    statement: Statement<DB>,
    fields: Vec<usize>,
    twice: Option<&'static str>,
    additions: Vec<Addition>,
    of: PhantomData<fn() -> T>,
}

impl<DB: Backend, T> fmt::Debug for Set<DB, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl<DB: Backend, T: GuardedSql<DB>> Set<DB, T> {
    /// Goes on with a statement whose key is bound.
    pub(crate) fn new(mut statement: Statement<DB>) -> Self {
        if let Some((_, highest)) = T::VERSION_LIMIT {
            statement.bind_i64(highest);
        }
        Self {
            statement,
            fields: Vec::new(),
            twice: None,
            additions: Vec::new(),
            of: PhantomData,
        }
    }

    /// Sets a column to a value, or to another column.
    ///
    /// Setting a column twice is [`SetTwice`](crate::row::GuardError::SetTwice), and nothing is sent.
    pub fn set<V: Column<DB>, A: TakesSet>(
        &mut self,
        field: Field<T, V, A>,
        value: impl Operand<T, V>,
    ) {
        self.assign(field.index(), &value.into_side());
    }

    pub(crate) fn assign<V: Column<DB>>(&mut self, field: usize, value: &Side<V>) {
        self.begin(field);
        match value {
            Side::Field(other) => self.statement.push(T::NAMES[*other]),
            Side::Value(value) => {
                self.statement.push_parameter();
                self.statement.bind(0, value);
            }
        }
    }

    /// Writes what stands before the value of a column.
    fn begin(&mut self, field: usize) {
        self.next(field);
        self.statement.push(T::NAMES[field]);
        self.statement.push(" = ");
    }

    /// Sets each of these columns to a value that is not known.
    #[cfg(feature = "schema")]
    pub(super) fn assign_nulls(&mut self, fields: &[usize]) {
        for field in fields {
            self.begin(*field);
            self.statement.push_parameter();
            self.statement.bind_null();
        }
    }

    /// The statement so far.
    pub(crate) fn into_statement(self) -> Statement<DB> {
        self.statement
    }

    /// Sets the column if there is a value: `None` leaves it as it is. To write NULL, pass `Some(None)`.
    pub fn set_if_some<V: Column<DB>, A: TakesSet>(
        &mut self,
        field: Field<T, V, A>,
        value: Option<impl Operand<T, V>>,
    ) {
        if let Some(value) = value {
            self.set(field, value);
        }
    }

    /// Adds to a counter, within its bounds: if the sum would leave them, or the range of the type, the row is
    /// [`Refused`](crate::row::GuardError::Refused). A counter that is outside of its bounds can only come back.
    pub fn add<V: CounterNumber, A: TakesAdd>(&mut self, field: Field<T, V, A>, delta: i64) {
        self.next(field.index());
        let addition = Addition::new(field, delta);
        addition.assign(T::NAMES, &mut self.statement);
        self.additions.push(addition);
    }

    /// Separates the assignments.
    fn next(&mut self, field: usize) {
        if !self.fields.is_empty() {
            self.statement.push(", ");
        }
        if self.fields.contains(&field) {
            self.twice = self.twice.or(Some(T::NAMES[field]));
        }
        self.fields.push(field);
    }

    /// The column that is set twice, if one is.
    pub(super) fn twice(&self) -> Option<&'static str> {
        self.twice
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Writes what the row has to meet.
    pub(super) fn guard(
        &self,
        condition: &Condition<T, impl Expression<DB>>,
        to: &mut Statement<DB>,
    ) {
        condition.write(to);
        for addition in &self.additions {
            addition.write(T::NAMES, to);
        }
    }

    /// The whole statement, as often as it is run.
    pub(super) fn statement(&self, condition: &Condition<T, impl Expression<DB>>) -> Statement<DB> {
        let mut statement = self.statement.copy();
        statement.push(T::UPDATE[1]);
        self.guard(condition, &mut statement);
        statement.push(T::UPDATE[2]);
        statement
    }
}

/// What the closures get whose struct has mistakes: it takes anything.
#[doc(hidden)]
#[derive(Debug)]
pub struct Anything;

impl Anything {
    pub fn set<F, V>(&mut self, _: F, _: V) {}
    pub fn set_if_some<F, V>(&mut self, _: F, _: V) {}
    pub fn add<F>(&mut self, _: F, _: i64) {}
}
