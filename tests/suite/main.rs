//! The behaviour of rowlock, written once and run on each database.
//!
//! `postgres.rs` and `sqlite.rs` each include every file of tests; a file finds `Db`, `database()` and so on in
//! `super`. Names start with the ID of the behaviour that they show, which `docs/behaviours.md` explains. `behaviours.rs` and
//! `fan_out.rs` need no database.

#![allow(missing_docs, clippy::duplicate_mod)]

// Its `#[tokio::test]` ends a test that hangs.
extern crate limited_tokio as tokio;

mod behaviours;
mod fan_out;
mod postgres;
mod redis;
mod sqlite;
