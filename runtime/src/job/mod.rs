//! Work that is done once: queues and their workers, and the ledger of calls.

#[cfg(feature = "idempotent")]
pub(crate) mod fingerprint;
#[cfg(feature = "idempotent")]
pub(crate) mod idempotent;
#[cfg(feature = "periodic")]
pub(crate) mod periodic;
pub(crate) mod queue;
pub(crate) mod worker;
