//! Queues, workers and what is done periodically, written once and run on each database, as in `suite`.
//!
//! A binary of its own, so that a change of a queue compiles no others.

#![allow(missing_docs, clippy::duplicate_mod)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

mod postgres;
mod soak;
mod sqlite;
