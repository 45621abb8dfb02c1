//! Why nothing could be explored.

/// Why an exploration did not begin, or broke off: it says nothing about the program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL is none of PostgreSQL with a host.
    #[error(
        "the URL of the database has to look like postgres://user@host:5432/database: the explorer stands between, on TCP"
    )]
    Url,
    /// The explorer's own connection failed, or the text of `schema`, `setup` or `never` did.
    #[error("the explorer's own connection: {doing}")]
    Database {
        /// What it was about to do.
        doing: &'static str,
        /// What the database said.
        source: tokio_postgres::Error,
    },
    /// There is no port, or another thing of the operating system.
    #[error("the explorer has no loopback port")]
    Io(#[from] std::io::Error),
    /// A replay string is not one of this program.
    #[error("the replay string stops at {step:?}: {why}")]
    Replay {
        /// The part that does not fit, as it is written there.
        step: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// [`Fault::Restarted`](crate::Fault::Restarted) is asked for without a way to restart the server.
    #[error("Fault::Restarted needs .restart(…), which says how the server is restarted")]
    NoRestart,
    /// The closure given to `restart` failed, or its future did not return.
    #[error("the server did not restart: {0}")]
    Restart(String),
}

impl Error {
    /// With its causes.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        text
    }
}
