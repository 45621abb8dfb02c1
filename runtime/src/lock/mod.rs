//! Locks that are of no row.

pub(crate) mod advisory;
pub(crate) mod key;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "postgres")]
pub(crate) mod session;
