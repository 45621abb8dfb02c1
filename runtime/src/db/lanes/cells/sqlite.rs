//! On SQLite they are rows of one JSON text.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteArgumentsBuffer, SqliteRow};
use sqlx::{Arguments as _, Row as _, Sqlite};

use crate::db::column::Column;
use crate::db::json_rows::JsonRow;
use crate::db::lanes::Cells;
use crate::db::{Array, Backend, SqliteRaw};

/// See [`Backend::Cells`](crate::db::Backend::Cells).
#[derive(Default)]
pub struct SqliteCells {
    row: JsonRow,
    /// The values of the key, as JSON.
    key: Vec<u8>,
    key_values: usize,
    is_odd: bool,
}

const UNBOUND: &str = "the keys by themselves are bound nowhere";

impl Cells<Sqlite> for SqliteCells {
    const TELLS_KEYS: bool = true;

    fn add<T: Column<Sqlite>>(&mut self, value: &T) {
        let mut buffer = SqliteArgumentsBuffer::default();
        self.is_odd |= match value.encode_by_ref(&mut buffer) {
            Ok(IsNull::Yes) => {
                self.row.null();
                false
            }
            Ok(IsNull::No) => self.row.shown(&buffer).is_err(),
            // The call by itself says why.
            Err(_) => true,
        };
    }

    fn add_number(&mut self, value: i64) {
        self.row.integer(value);
    }

    fn end_key(&mut self) {
        self.key = self.row.to_bytes();
        self.key_values = self.row.len();
        // 0.0 is -0.0 to the database, and one and the same number can be an integer there.
        self.is_odd |= self.row.has_floats();
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn can_fold(&self) -> bool {
        !self.is_odd
    }

    fn bind(
        calls: &[&Self],
        keys_only: bool,
        beside: &[Array],
        arguments: &mut SqliteArguments,
    ) -> Result<(), BoxDynError> {
        if keys_only {
            // Which of its rows are locked, a database that has no such locks is not asked.
            return Err(UNBOUND.into());
        }
        let rows: Vec<_> = calls.iter().map(|call| &call.row).collect();
        arguments.add(JsonRow::join(&rows, beside)?)
    }

    fn bind_key(&self, _: &mut SqliteArguments) -> Result<(), BoxDynError> {
        Err(UNBOUND.into())
    }

    fn key_in(&self, row: &SqliteRow, _rows: usize) -> Option<Vec<u8>> {
        let first = row.len().checked_sub(self.key_values)?;
        let mut key = JsonRow::default();
        for index in first..row.len() {
            match Sqlite::get_raw(row, index).ok()? {
                SqliteRaw::Integer(value) => key.integer(value),
                SqliteRaw::Text(value) => key.text(&value),
                SqliteRaw::Blob(value) => key.blob(&value),
                SqliteRaw::Real(_) => return None,
            }
        }
        Some(key.to_bytes())
    }
}
