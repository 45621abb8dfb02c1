//! Columns that a claim can be narrowed by.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::db::Backend;
use crate::db::column::Column;
use crate::db::statement::{Bind, Statement};

/// A column marked `#[rowlock(filter)]`, by which claims can be limited. Generated: `Email::TENANT_ID`.
pub struct QueueColumn<T, V> {
    pub(super) condition: &'static str,
    types: PhantomData<fn() -> (T, V)>,
}

/// A column of the generated code.
pub const fn column<T, V>(condition: &'static str) -> QueueColumn<T, V> {
    let types = PhantomData;
    QueueColumn { condition, types }
}

impl<T, V> std::fmt::Debug for QueueColumn<T, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("QueueColumn").field(&self.condition).finish()
    }
}

impl<T, V> Clone for QueueColumn<T, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V> Copy for QueueColumn<T, V> {}

type Condition<DB> = Arc<dyn Fn(&mut Statement<DB>) + Send + Sync>;

/// Values that some columns have to have.
pub(super) struct Conditions<DB: Backend>(Vec<Condition<DB>>);

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
    pub(super) fn only<T, V>(&mut self, column: QueueColumn<T, V>, value: V)
    where
        V: Column<DB> + Send + 'static,
    {
        // Nothing is equal to NULL, and no index finds what is not distinct from a parameter.
        let null = DB::is_null(&value);
        self.0.push(Arc::new(move |statement| {
            statement.push(column.condition);
            if null {
                statement.push(" IS NULL");
                return;
            }
            statement.push(" = ");
            statement.push_parameter();
            statement.bind(0, &value);
        }));
    }

    pub(super) fn push(&self, to: &mut Statement<DB>) {
        for condition in &self.0 {
            condition(to);
        }
    }
}
