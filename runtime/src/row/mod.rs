//! Rows: what is read, changed and locked one by one, or many at once.

pub(crate) mod counter;
pub(crate) mod find_or_create;
pub(crate) mod lockable;
pub(crate) mod versioned;
