//! The behaviour of rowlock, written once and run on each database.
//!
//! `postgres.rs` and `sqlite.rs` each include every file of tests; a file finds `Db`, `database()` and so on in
//! `super`. Names start with the line of the conformance list that they show. `fan_out.rs` needs no database.

#![allow(missing_docs, clippy::duplicate_mod)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

mod fan_out;
mod postgres;
mod redis;
mod sqlite;
