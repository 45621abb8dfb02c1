#![doc = include_str!("../README.md")]

mod actor;
mod admin;
mod anomaly;
mod connection;
mod database;
mod error;
mod explorer;
mod footprint;
mod relay;
mod run;
mod schedule;
mod search;
mod session;
mod story;
mod trace;
mod url;
mod verdict;
mod wire;

pub use actor::Actor;
pub use database::Database;
pub use error::Error;
pub use explorer::{Ended, Explorer};
pub use rowlock_explore_macros::test;
pub use run::Outcome;
pub use trace::Fault;
pub use verdict::{Coverage, Failure, Verdict};

#[doc(hidden)]
pub mod __private {
    pub use crate::database::{Ends, IsDatabase, is_database, test, test_on};
}
