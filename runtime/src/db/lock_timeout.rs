//! How long a lock is waited for: the one place that sets a limit and puts the one before back.

use std::time::Duration;

use crate::db::Backend;
use crate::db::source::Link;

/// A connection that waits for locks as long as one call wants, and then as long as before, even if the call is dropped.
pub(crate) struct LockTimeout<'c, DB: Backend> {
    pub(crate) link: Link<'c, DB>,
    before: Option<String>,
}

impl<'c, DB: Backend> LockTimeout<'c, DB> {
    /// `clause`: what the statement itself says of waiting.
    pub(crate) async fn set(
        mut link: Link<'c, DB>,
        timeout: Option<Duration>,
        clause: &'static str,
    ) -> Result<Self, sqlx::Error> {
        let before = link.set_lock_timeout(timeout, clause).await?;
        Ok(Self { link, before })
    }

    /// `taken`: whether the lock was.
    pub(crate) async fn restore(&mut self, taken: bool) -> Result<(), sqlx::Error> {
        let done = DB::restore_lock_timeout(&mut self.link, self.before.clone(), taken).await;
        self.before = None;
        done
    }
}

impl<DB: Backend> Drop for LockTimeout<'_, DB> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            DB::restore_lock_timeout_soon(&mut self.link, before);
        }
    }
}

/// An expression of PostgreSQL that sets the limit until the transaction ends.
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) fn until_commit(timeout: Duration) -> String {
    let milliseconds = milliseconds(timeout);
    format!("set_config('lock_timeout', '{milliseconds}', true)")
}

/// As PostgreSQL takes it: 0 would mean no limit, and more than `i32::MAX` is not possible.
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) fn milliseconds(limit: Duration) -> u128 {
    limit.as_millis().clamp(1, i32::MAX as u128)
}
