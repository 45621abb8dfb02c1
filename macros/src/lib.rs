//! The derive macros of `rowlock`. Depend on that crate, which re-exports them.
//!
//! They declare sqlx's attribute too: a model with a hand-written `FromRow` renames its columns with it all the same.

#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

mod attr;
mod check;
mod derive;
mod diag;
mod lower;
mod model;
mod options;
#[cfg(feature = "schema")]
mod schema;
#[cfg(test)]
mod snapshots;
mod sql;

use proc_macro::TokenStream;

#[doc = include_str!("../docs/queue.md")]
#[doc(alias("enqueue", "claim", "job", "worker", "mark_processed"))]
#[proc_macro_derive(Queue, attributes(rowlock, sqlx))]
pub fn queue(input: TokenStream) -> TokenStream {
    derive::run::<derive::Queue>(input.into()).into()
}

#[doc = include_str!("../docs/versioned.md")]
#[doc(alias(
    "save",
    "insert",
    "update",
    "load",
    "edit",
    "lock_version",
    "optimistic"
))]
#[proc_macro_derive(Versioned, attributes(rowlock, sqlx))]
pub fn versioned(input: TokenStream) -> TokenStream {
    derive::run::<derive::Versioned>(input.into()).into()
}

#[doc = include_str!("../docs/counter.md")]
#[doc(alias("add", "increment"))]
#[proc_macro_derive(Counter, attributes(rowlock, sqlx))]
pub fn counter(input: TokenStream) -> TokenStream {
    derive::run::<derive::Counter>(input.into()).into()
}

#[cfg(feature = "schema")]
#[doc = include_str!("../docs/create_table.md")]
#[proc_macro_derive(CreateTable, attributes(rowlock, sqlx))]
pub fn create_table(input: TokenStream) -> TokenStream {
    derive::run::<derive::CreateTable>(input.into()).into()
}

#[doc = include_str!("../docs/find_or_create.md")]
#[doc(alias("upsert", "create", "find", "get_or_create"))]
#[proc_macro_derive(FindOrCreate, attributes(rowlock, sqlx))]
pub fn find_or_create(input: TokenStream) -> TokenStream {
    derive::run::<derive::FindOrCreate>(input.into()).into()
}

#[doc = include_str!("../docs/idempotent.md")]
#[doc(alias("once", "idempotency"))]
#[proc_macro_derive(Idempotent, attributes(rowlock, sqlx))]
pub fn idempotent(input: TokenStream) -> TokenStream {
    derive::run::<derive::Idempotent>(input.into()).into()
}

#[doc = include_str!("../docs/guarded.md")]
#[doc(alias("update_if", "patch", "delete_if"))]
#[proc_macro_derive(Guarded, attributes(rowlock, sqlx))]
pub fn guarded(input: TokenStream) -> TokenStream {
    derive::run::<derive::Guarded>(input.into()).into()
}

#[doc = include_str!("../docs/lockable.md")]
#[doc(alias("lock", "select_for_update"))]
#[proc_macro_derive(Lockable, attributes(rowlock, sqlx))]
pub fn lockable(input: TokenStream) -> TokenStream {
    derive::run::<derive::Lockable>(input.into()).into()
}
