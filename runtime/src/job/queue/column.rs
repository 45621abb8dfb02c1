//! Columns that a claim can be narrowed by.

use std::marker::PhantomData;

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
