//! Every schedule of unchanged async code on a real PostgreSQL.

mod actor;
mod admin;
mod anomaly;
mod connection;
mod error;
mod explorer;
mod footprint;
mod relay;
mod run;
mod schedule;
mod search;
mod story;
mod trace;
mod url;
mod verdict;
mod wire;

pub use actor::Actor;
pub use error::Error;
pub use explorer::{Ended, Explorer};
pub use run::Outcome;
pub use trace::Fault;
pub use verdict::{Coverage, Failure, Verdict};
