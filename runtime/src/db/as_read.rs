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

/// Writes ` AND "column" IS NOT DISTINCT FROM $n`, or what the database has for that, for each value that is bound.
pub(crate) struct AsRead<'s, DB: Backend> {
    pub(crate) statement: &'s mut Statement<DB>,
    /// By the index of the values.
    pub(crate) columns: &'static [&'static str],
}

impl<DB: Backend> Bind<DB> for AsRead<'_, DB> {
    fn bind<T: Column<DB>>(&mut self, index: usize, value: &T) {
        self.statement.push(" AND ");
        for piece in DB::as_read(&T::type_info()) {
            match piece {
                Piece::Sql(sql) => self.statement.push(sql),
                Piece::Column => self.statement.push(self.columns[index]),
                Piece::Value => self.statement.push_parameter(),
            }
        }
        Compared(self.statement).bind(index, value);
    }
}
