//! What the rows of a claim have to be.

use std::sync::Arc;

use super::QueueSql;
use crate::db::Backend;
use crate::db::column::Column;
use crate::db::condition::{Condition, Expression, Field};
use crate::db::statement::{Bind, Statement};

/// Writes ` AND` something, and binds its values.
type Write<DB> = Arc<dyn Fn(&mut Statement<DB>) + Send + Sync>;

/// What all must be met.
pub(super) struct Conditions<DB: Backend>(Vec<Write<DB>>);

impl<DB: Backend> Default for Conditions<DB> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<DB: Backend> Clone for Conditions<DB> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<DB: Backend> Conditions<DB> {
    pub(super) fn only<T, V, W>(&mut self, field: Field<T, V, W>, value: V)
    where
        T: QueueSql<DB>,
        V: Column<DB> + Send + 'static,
    {
        // Nothing is equal to NULL, and no index finds what is not distinct from a parameter.
        let null = DB::is_null(&value);
        let column = T::COLUMNS[field.index()];
        self.0.push(Arc::new(move |statement| {
            statement.push(" AND ");
            statement.push(column);
            if null {
                statement.push(" IS NULL");
                return;
            }
            statement.push(" = ");
            statement.push_parameter();
            statement.bind(0, &value);
        }));
    }

    pub(super) fn when<T, E>(&mut self, condition: Condition<T, E>)
    where
        T: QueueSql<DB>,
        E: Expression<DB> + 'static,
    {
        self.0.push(Arc::new(move |statement| {
            statement.push(" AND ");
            condition.write_in(T::COLUMNS, "", statement);
        }));
    }

    pub(super) fn push(&self, to: &mut Statement<DB>) {
        for condition in &self.0 {
            condition(to);
        }
    }
}
