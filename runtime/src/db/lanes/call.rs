//! What a call binds, kept until one statement binds it for many.

use serde::Serialize;

use super::fold::Fold;
use crate::db::column::Column;
use crate::db::statement::{Bind, Statement};
use crate::db::{Array, Backend};

/// A call that can wait: its values, of which the first are the key.
pub(crate) struct Call<DB: Backend> {
    cells: DB::Cells,
    /// What is added, if it is an addition: calls with the same key become one row.
    addition: Option<Addition>,
}

/// An addition and the lowest and the highest old value that allow it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addition {
    pub(crate) delta: i64,
    pub(crate) low: i64,
    pub(crate) high: i64,
}

/// The values of a call, as they go to the database. [`Backend::Cells`].
pub trait Cells<DB: Backend>: Default + Send + Sync + 'static {
    /// Takes the next value. If it cannot be one of many, neither can the call.
    fn add<T: Column<DB>>(&mut self, value: &T);
    fn add_number(&mut self, value: i64);
    /// The values so far are the key.
    fn end_key(&mut self);
    /// The bytes of the key.
    fn key(&self) -> &[u8];
    /// Whether all values can be some of many.
    fn can_fold(&self) -> bool;
    /// Binds all these, or of each the key alone, with what is in these columns beside them.
    fn bind(
        calls: &[&Self],
        keys_only: bool,
        beside: &[Array],
        arguments: &mut DB::Arguments,
    ) -> Result<(), sqlx::error::BoxDynError>;
    /// Binds the key, as its columns are compared with it.
    fn bind_key(&self, arguments: &mut DB::Arguments) -> Result<(), sqlx::error::BoxDynError>;
    /// Whether a write returns the keys of its rows instead of their numbers. Of calls with the same key only one can be in it.
    const TELLS_KEYS: bool;
    /// The key in the last columns of a row, as [`key`](Self::key) has it. These are the values of so many rows.
    fn key_in(&self, row: &DB::Row, rows: usize) -> Option<Vec<u8>>;

    /// Takes room for so many rows like the first.
    fn reserve_as_many(&mut self, _times: usize) {}

    /// The bytes of the key of one of so many rows, whose values were added one after the other. No rows do that where the database takes no arrays.
    fn key_of_row(&self, _row: usize, _rows: usize) -> &[u8] {
        &[]
    }

    /// Whether two keys of them are the same to the database only if their bytes are.
    fn has_exact_keys(&self, _rows: usize) -> bool {
        false
    }

    /// Whether the database keeps them with the same bytes, in columns of their types.
    fn has_plain_keys(&self, _rows: usize) -> bool {
        false
    }

    /// Binds those of them at these places.
    fn bind_places(
        &self,
        _rows: usize,
        _places: &[usize],
        _arguments: &mut DB::Arguments,
    ) -> Result<(), sqlx::error::BoxDynError> {
        Err("the database takes no arrays".into())
    }
}

/// Takes the values of a call instead of a statement.
pub(crate) struct Values<DB: Backend>(DB::Cells);

impl<DB: Backend> Default for Values<DB> {
    fn default() -> Self {
        Self(DB::Cells::default())
    }
}

impl<DB: Backend> Values<DB> {
    pub(crate) fn end_key(&mut self) {
        self.0.end_key();
    }

    pub(crate) fn number(&mut self, value: i64) {
        self.0.add_number(value);
    }

    /// Takes room for so many times the values so far.
    pub(super) fn reserve_as_many(&mut self, times: usize) {
        self.0.reserve_as_many(times);
    }

    /// All of them, if they can be some of many.
    pub(super) fn into_cells(self) -> Option<DB::Cells> {
        self.0.can_fold().then_some(self.0)
    }
}

impl<DB: Backend> Bind<DB> for Values<DB> {
    fn bind<T: Column<DB>>(&mut self, _index: usize, value: &T) {
        self.0.add(value);
    }

    fn bind_json<T: Column<DB> + Serialize>(&mut self, _index: usize, value: &T) {
        self.0.add(value);
    }
}

impl<DB: Backend> Call<DB> {
    /// What `bind` binds, if that can wait.
    pub(crate) fn of(bind: impl FnOnce(&mut Values<DB>)) -> Option<Self> {
        let mut values = Values::default();
        bind(&mut values);
        Some(Self {
            cells: values.into_cells()?,
            addition: None,
        })
    }

    pub(crate) fn adding(mut self, addition: Addition) -> Self {
        self.addition = Some(addition);
        self
    }

    pub(crate) fn into_key(self) -> Vec<u8> {
        self.cells.key().to_vec()
    }

    pub(crate) fn cells(&self) -> &DB::Cells {
        &self.cells
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.cells.key()
    }

    /// The key of a row that was written, as [`key`](Self::key) has it.
    pub(super) fn key_of(&self, row: &DB::Row) -> Option<Vec<u8>> {
        self.cells.key_in(row, 1)
    }

    pub(super) fn addition(&self) -> Option<Addition> {
        self.addition
    }
}

/// A statement about the keys of these calls.
pub(super) fn of_keys<DB: Backend>(sql: &'static str, calls: &[&Call<DB>]) -> Statement<DB> {
    let mut statement = Statement::literal(sql);
    let cells: Vec<_> = calls.iter().map(|call| &call.cells).collect();
    statement.bind_cells(&cells, true, &[]);
    statement
}

/// A statement about the rows of these calls.
pub(crate) fn of_calls<DB: Backend>(sql: &'static str, calls: &[&Call<DB>]) -> Statement<DB> {
    let mut statement = Statement::literal(sql);
    statement.bind_calls(calls);
    statement
}

/// A statement that adds to the row of this call.
pub(super) fn of_one<DB: Backend>(
    sql: &'static str,
    call: &Call<DB>,
    sum: Addition,
) -> Statement<DB> {
    let mut statement = Statement::literal(sql);
    statement.bind_key(&call.cells);
    statement.bind_i64(sum.delta);
    statement.bind_i64(sum.low);
    statement.bind_i64(sum.high);
    statement
}

/// A statement about the rows of these calls, each with the additions to it, if it adds. All of it takes effect, or nothing.
pub(super) fn statement<DB: Backend>(
    fold: Fold,
    rows: &[(&Call<DB>, Option<Addition>)],
) -> Statement<DB> {
    let mut statement = match DB::AROUND_WRITES.filter(|_| fold.writes) {
        None => Statement::literal(fold.sql),
        Some([before, after]) => {
            let mut statement = Statement::composed(before);
            statement.push(fold.sql);
            statement.push(after);
            statement
        }
    };
    let cells: Vec<_> = rows.iter().map(|(call, _)| &call.cells).collect();
    let additions: Vec<_> = rows.iter().filter_map(|(_, addition)| *addition).collect();
    if additions.is_empty() {
        statement.bind_cells(&cells, false, &[]);
        return statement;
    }
    let column = |of: fn(&Addition) -> i64| Array::Integers(additions.iter().map(of).collect());
    let columns = [
        column(|addition| addition.delta),
        column(|addition| addition.low),
        column(|addition| addition.high),
    ];
    statement.bind_cells(&cells, false, &columns);
    statement
}
