//! How a transaction is asked to begin, and for which advisory lock.

use std::time::Duration;

use crate::db::lock_timeout::until_commit;

/// How PostgreSQL is told to begin. SQLite knows only whether the transaction is going to write.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
#[doc(hidden)]
pub struct Begin {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) read_only: bool,
    pub(crate) lock_timeout: Option<Duration>,
    pub(crate) statement_timeout: Option<Duration>,
    /// What is left until the deadline.
    pub(crate) left: Option<Duration>,
    pub(crate) advisory: Option<TakeLock>,
}

/// The stricter, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
impl Isolation {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

/// What the server is asked for. Its texts are of numbers and of nothing that a user could have written.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) struct TakeLock {
    pub(crate) key: i64,
    pub(crate) shared: bool,
    pub(crate) timeout: Option<Duration>,
    /// Now or not at all.
    pub(crate) tries: bool,
}

impl TakeLock {
    /// How long BEGIN waits, where it is BEGIN that waits.
    pub(crate) fn limit(&self) -> Option<Duration> {
        if self.tries {
            Some(Duration::ZERO)
        } else {
            self.timeout
        }
    }
}

/// Makes the server look every second whether the one who waits is still there, until the transaction ends: else it would wait
/// on for nobody, and hold one of its connections. PostgreSQL has this since 14, on Linux, and since 15 also on macOS and the
/// BSDs. Where the system cannot say that a peer is gone, it refuses the setting, and the lock with it: so a system that is not
/// named here goes without.
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
const LOOK_FOR_CLIENT: &str = "SELECT set_config('client_connection_check_interval', '1s', true) \
     WHERE current_setting('client_connection_check_interval', true) = '0' \
     AND (version() ~ 'linux' \
     OR current_setting('server_version_num')::int >= 150000 AND version() ~ 'darwin|bsd')";

#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
impl TakeLock {
    /// `scope`: `xact_` or nothing.
    fn call(&self, verb: &str, scope: &str) -> String {
        let shared = if self.shared { "_shared" } else { "" };
        format!("{verb}_advisory_{scope}lock{shared}({})", self.key)
    }

    /// Behind BEGIN: takes the lock if it is free.
    pub(crate) fn try_in_begin(&self) -> String {
        format!("SELECT {}", self.call("pg_try", "xact_"))
    }

    /// In the round trip of BEGIN: waits.
    pub(crate) fn wait_in_begin(&self) -> String {
        format!("{LOOK_FOR_CLIENT}; SELECT {}", self.wait())
    }

    /// An expression that waits, and is not NULL. The limit holds for it alone: each query sees to its WHERE before it
    /// yields anything to the one around it, from which OFFSET 0 keeps it apart.
    fn wait(&self) -> String {
        let lock = self.call("pg", "xact_");
        match self.timeout.map(until_commit) {
            None => lock,
            Some(limit) => format!(
                "(SELECT set_config('lock_timeout', limited.before, true) FROM (\
                 SELECT as_is.before FROM (SELECT current_setting('lock_timeout') AS before OFFSET 0) AS as_is \
                 WHERE {limit} IS NOT NULL OFFSET 0) AS limited \
                 WHERE {lock} IS NOT NULL)"
            ),
        }
    }

    /// In the caller's transaction: true, false, or NULL if a lock would be of no use there.
    pub(crate) fn in_transaction(&self) -> String {
        let taken = if self.tries {
            self.call("pg_try", "xact_")
        } else {
            format!("{} IS NOT NULL", self.wait())
        };
        format!(
            "SELECT CASE WHEN current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN NULL ELSE {taken} END"
        )
    }

    /// On a connection, until it is unlocked. The settings are for the statement, since there is no transaction.
    pub(crate) fn for_session(&self) -> String {
        if self.tries {
            return format!("SELECT {}", self.call("pg_try", ""));
        }
        let timeout = self
            .timeout
            .map(|timeout| format!("SELECT {}; ", until_commit(timeout)));
        format!(
            "{LOOK_FOR_CLIENT}; {}SELECT {} IS NOT NULL",
            timeout.unwrap_or_default(),
            self.call("pg", "")
        )
    }

    /// Unlocks, and says whether it was locked, no transaction is open, and no other advisory lock is left.
    pub(crate) fn unlock_session(&self) -> String {
        let shared = if self.shared { "_shared" } else { "" };
        format!(
            "SELECT pg_advisory_unlock{shared}({}); \
             SELECT now() = statement_timestamp(); \
             SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
            self.key
        )
    }
}

/// Whether anybody holds the lock, or only the session that asks.
pub(crate) fn look(key: i64, own: bool) -> String {
    let [high, low] = [key >> 32, key].map(|half| half as u32);
    let own = if own {
        " AND pid = pg_backend_pid()"
    } else {
        ""
    };
    format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
         AND classid = '{high}' AND objid = '{low}' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()){own})"
    )
}
