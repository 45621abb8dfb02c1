//! Models that fit the tables that are there, written once and run on each database, as in `suite`.
//!
//! A binary of its own, because both are compiled at the same time then.

#![allow(missing_docs, clippy::duplicate_mod)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

mod postgres;
mod sqlite;
