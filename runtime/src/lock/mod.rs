//! Locks that belong to no row.

pub(crate) mod advisory;
pub(crate) mod key;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub mod redis;
#[cfg(feature = "postgres")]
pub(crate) mod session;

pub use self::advisory::{AcquireError, AdvisoryLock, AdvisoryLockError};
#[doc(hidden)]
pub use self::advisory::{AdvisoryLocks, AdvisoryMode};
pub use self::key::{LockKeyPart, LockKeyParts};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::session::{ReleaseError, SessionLock};
