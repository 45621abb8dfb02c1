//! How long a lock is waited for.

use std::time::Duration;

use crate::db::Backend;
use crate::db::source::Link;

/// A connection that waits for locks as long as one call wants, and then as long as before, even if the call is dropped.
pub(crate) struct Patient<'c, DB: Backend> {
    pub(crate) link: Link<'c, DB>,
    before: Option<String>,
}

impl<'c, DB: Backend> Patient<'c, DB> {
    /// `clause`: what the statement itself says of waiting.
    pub(crate) async fn new(
        mut link: Link<'c, DB>,
        timeout: Option<Duration>,
        clause: &'static str,
    ) -> Result<Self, sqlx::Error> {
        let before = link.be_patient(timeout, clause).await?;
        Ok(Self { link, before })
    }

    /// `taken`: whether the lock was.
    pub(crate) async fn be_as_before(&mut self, taken: bool) -> Result<(), sqlx::Error> {
        let done = DB::be_as_before(&mut self.link, self.before.clone(), taken).await;
        self.before = None;
        done
    }
}

impl<DB: Backend> Drop for Patient<'_, DB> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            DB::be_as_before_soon(&mut self.link, before);
        }
    }
}
