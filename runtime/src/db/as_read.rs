//! Whether columns still have the values that were read from them.

use crate::db::Backend;
use crate::db::column::Column;
use crate::db::statement::{Bind, Compared, Statement};

/// A piece of a comparison of a column with a value.
#[derive(Debug, Clone, Copy)]
pub enum Piece {
    Sql(&'static str),
    Column,
    Value,
}

/// What columns hold, as it is stored; `None` is NULL.
pub(crate) type Stored<DB> = Vec<Option<<DB as Backend>::Raw>>;

/// Writes ` AND "column" IS NOT DISTINCT FROM $n`, or what the database has for that, for each value that is bound.
pub(crate) struct AsRead<'s, DB: Backend> {
    pub(crate) statement: &'s mut Statement<DB>,
    /// Where each column stands in a row, and its name, by the index of the values.
    pub(crate) columns: &'static [(usize, &'static str)],
    /// What is compared instead of the values, if that is known.
    pub(crate) stored: &'s Stored<DB>,
}

impl<DB: Backend> Bind<DB> for AsRead<'_, DB> {
    fn bind<T: Column<DB>>(&mut self, index: usize, value: &T) {
        self.statement.push(" AND ");
        for piece in DB::as_read(&T::type_info()) {
            match piece {
                Piece::Sql(sql) => self.statement.push(sql),
                Piece::Column => self.statement.push(self.columns[index].1),
                Piece::Value => self.statement.push_parameter(),
            }
        }
        match self.stored.get(index) {
            Some(Some(stored)) => self.statement.bind_raw(stored),
            // A field that is no `Option`, and that sqlx has read on SQLite all the same.
            Some(None) if !DB::is_null(value) => self.statement.bind_null(),
            _ => Compared(self.statement).bind(index, value),
        }
    }
}
