//! Times and fences by the clock of the database.

use super::Dialect;

/// The clock of the database: that of the moment, not of the transaction's start.
pub(super) fn now(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "clock_timestamp()",
        Dialect::Sqlite => "strftime('%Y-%m-%d %H:%M:%f', 'now')",
    }
}

/// So many seconds from now, or ago.
pub(super) fn now_and(sign: char, seconds: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => {
            format!("clock_timestamp() {sign} make_interval(secs => {seconds})")
        }
        Dialect::Sqlite => {
            format!("strftime('%Y-%m-%d %H:%M:%f', 'now', '{sign}' || {seconds} || ' seconds')")
        }
    }
}

/// What no claim of this key had before, and none will have: not after a purge either, when the row is new. So it is a
/// time, in microseconds. SQLite knows milliseconds; there the rest is random.
pub(super) fn first_fence(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
        Dialect::Sqlite => {
            "CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000 + abs(random() % 1000)"
        }
    }
}

/// Higher than the last one, also when the clock was put back.
pub(super) fn next_fence(last: &str, dialect: Dialect) -> String {
    let greatest = match dialect {
        Dialect::Postgres => "greatest",
        Dialect::Sqlite => "max",
    };
    format!("{greatest}({last} + 1, {})", first_fence(dialect))
}
