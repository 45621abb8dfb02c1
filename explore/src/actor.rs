//! What an actor gets from the explorer.

use std::sync::Arc;

use tokio::sync::Notify;

/// One of those who run at the same time: where its database is, and how its futures are dropped.
///
/// ```no_run
/// use rowlock_explore::Actor;
/// use sqlx::postgres::PgPoolOptions;
///
/// async fn rename(actor: Actor) -> sqlx::Result<u64> {
///     let pool = PgPoolOptions::new().max_connections(1).connect(actor.url()).await?;
///     let update = sqlx::query("UPDATE pages SET title = $1 WHERE id = 7").bind(actor.name().to_owned());
///     // A handler whose client may hang up: with `Fault::DroppedBefore` and `DroppedAfter`.
///     let updated = actor.may_drop(update.execute(&pool)).await;
///     pool.close().await;
///     updated.map_or(Ok(0), |updated| Ok(updated?.rows_affected()))
/// }
/// ```
///
/// Another process is an actor when it is given the URL:
///
/// ```no_run
/// # use rowlock_explore::Actor;
/// async fn job(actor: Actor) -> std::io::Result<bool> {
///     let mut command = tokio::process::Command::new("psql");
///     command.arg(actor.url()).args(["-c", "UPDATE jobs SET state = 'done' WHERE id = 7"]);
///     Ok(command.kill_on_drop(true).status().await?.success())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Actor {
    name: String,
    url: String,
    dropper: Dropper,
}

impl Actor {
    pub(crate) fn new(name: String, url: String, dropper: Dropper) -> Self {
        Self { name, url, dropper }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of its database, for any driver, in this process or another one. Connections that are made with it belong to
    /// this actor.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Awaits `future`, which the explorer may drop at a request of its, where [`Explorer::faults`] has
    /// `DroppedBefore` or `DroppedAfter`: `None` then. What the future has borrowed, such as a pool, is used on after it.
    ///
    /// [`Explorer::faults`]: crate::Explorer::faults
    pub async fn may_drop<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.dropper.0.notified() => None,
            value = future => Some(value),
        }
    }
}

/// Drops what an actor waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dropper(Arc<Notify>);

impl Dropper {
    pub(crate) fn fire(&self) {
        self.0.notify_waiters();
    }
}

/// What became of an actor.
///
/// ```
/// use rowlock_explore::Outcome;
///
/// let outcome: Outcome<u32> = Outcome::Panicked("no such page".to_owned());
/// assert!(!matches!(outcome, Outcome::Returned(_)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It returned this.
    Returned(T),
    /// It panicked, with this message.
    Panicked(String),
    /// The run was ended before it returned.
    Unfinished,
}

pub(crate) fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else {
        return "it was cancelled".to_owned();
    };
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
