//! The one place where a database error is classified: by code, never by message text.

use std::error::Error;
use std::fmt;

use crate::db::copied::CopiedError;
use crate::db::error::DatabaseError;

/// What the codes of PostgreSQL mean here: whole classes, and the codes that stand apart from their class. The
/// documentation of [`Fault`] shows it.
macro_rules! sqlstates {
    ($show:ident) => {
        $show! {
            "03" Other "statement not complete"
            "08" ConnectionLost "the connection broke or was not made"
            "08007" CompletionUnknown "transaction resolution unknown"
            "09" Raised "an error in a triggered action"
            "0A" Schema "not supported on such an object"
            "0B" Other "invalid begin of a transaction"
            "0F" Other "locators"
            "0L" PermissionDenied "invalid grantor"
            "0P" Other "invalid role"
            "0Z" Other "diagnostics"
            "10" InvalidValue "XQuery"
            "20" Raised "`CASE` of PL/pgSQL without a case"
            "21" Other "more rows than one"
            "22" InvalidValue "data exceptions"
            "22003" NumericOutOfRange "number out of range"
            "23" CheckViolation "integrity constraints"
            "23001" ForeignKeyViolation "ON DELETE or ON UPDATE RESTRICT, from PostgreSQL 18 on"
            "23502" NotNullViolation "NOT NULL"
            "23503" ForeignKeyViolation "FOREIGN KEY"
            "23505" UniqueViolation "UNIQUE, PRIMARY KEY"
            "23P01" ExclusionViolation "EXCLUDE"
            "24" Other "cursors"
            "25" Other "state of the transaction"
            "25006" ReadOnly "read-only transaction"
            "25P01" NoTransaction "no transaction"
            "25P02" TransactionAborted "an earlier statement failed"
            "25P03" TransactionTimeout "`idle_in_transaction_session_timeout`; ends the session"
            "25P04" TransactionTimeout "`transaction_timeout`; ends the session"
            "26" Other "no such prepared statement"
            "27" Raised "a trigger had changed the row already"
            "28" PermissionDenied "login refused"
            "2B" Other "dependent objects"
            "2D" Other "invalid end of a transaction"
            "2F" Raised "an error in a routine"
            "34" Other "no such cursor"
            "38" Raised "an error in an external routine"
            "39" Raised "an error in calling an external routine"
            "3B" NoTransaction "no such savepoint"
            "3D" Schema "no such database"
            "3F" Schema "no such schema"
            "40" Serialization "rolled back by the server"
            "40002" CheckViolation "a constraint, at the end of the transaction"
            "40003" CompletionUnknown "statement completion unknown"
            "40P01" Deadlock "deadlock"
            "42" Schema "syntax, names, types"
            "42501" PermissionDenied "insufficient privilege"
            "44" CheckViolation "WITH CHECK OPTION of a view"
            "53" OutOfResources "disk or memory full"
            "53300" LimitReached "too many connections"
            "53400" LimitReached "a limit of the configuration"
            "54" Other "too complex or too large for the server"
            "54011" Schema "too many columns"
            "54023" Schema "too many arguments"
            "55" Other "object in use or in the wrong state"
            "55000" Schema "the object is not in the state that this takes"
            "55P03" LockTimeout "`lock_timeout`, NOWAIT"
            "55P04" Schema "an enum's new label, before its transaction has ended"
            "57" ConnectionLost "shutdown, crash, restart, idle session; ends the session"
            "57000" Canceled "operator intervention"
            "57014" Canceled "`statement_timeout`, or cancelled on request"
            "58" Other "files of the server"
            "72" Serialization "snapshot too old"
            "F0" Other "configuration file"
            "HV" Other "foreign data wrappers"
            "P0" Raised "RAISE and other errors of PL/pgSQL"
            "XX" Other "internal errors"
        }
    };
}

/// The same for the codes of SQLite.
macro_rules! sqlite_codes {
    ($show:ident) => {
        $show! {
            1 Schema "ERROR: syntax, names"
            769 Serialization "ERROR_SNAPSHOT"
            2 Other "INTERNAL"
            3 PermissionDenied "PERM"
            4 Canceled "ABORT"
            516 TransactionAborted "ABORT_ROLLBACK"
            5 Busy "BUSY, after the busy timeout or because no waiting would help"
            517 Serialization "BUSY_SNAPSHOT: a transaction that has read cannot write any more (WAL mode only)"
            6 Busy "LOCKED"
            7 OutOfResources "NOMEM"
            8 ReadOnly "READONLY"
            9 Canceled "INTERRUPT"
            10 Other "IOERR"
            3082 OutOfResources "IOERR_NOMEM"
            11 Other "CORRUPT"
            12 Other "NOTFOUND"
            13 OutOfResources "FULL"
            14 Other "CANTOPEN"
            15 Busy "PROTOCOL: a race for the locks of the write-ahead log"
            16 Other "EMPTY"
            17 Schema "SCHEMA: it changed all the time"
            18 InvalidValue "TOOBIG"
            19 CheckViolation "CONSTRAINT"
            531 Raised "CONSTRAINT_COMMITHOOK"
            787 ForeignKeyViolation "CONSTRAINT_FOREIGNKEY"
            1043 Raised "CONSTRAINT_FUNCTION"
            1299 NotNullViolation "CONSTRAINT_NOTNULL"
            1555 UniqueViolation "CONSTRAINT_PRIMARYKEY"
            1811 Raised "CONSTRAINT_TRIGGER: RAISE, and ON DELETE or ON UPDATE RESTRICT"
            2067 UniqueViolation "CONSTRAINT_UNIQUE"
            2579 UniqueViolation "CONSTRAINT_ROWID"
            2835 Raised "CONSTRAINT_PINNED: a trigger deletes the row that is updated"
            3091 InvalidValue "CONSTRAINT_DATATYPE of a STRICT table"
            20 InvalidValue "MISMATCH: the value is no integer, the key is"
            21 Other "MISUSE"
            22 Other "NOLFS"
            23 PermissionDenied "AUTH"
            24 Other "FORMAT"
            25 Other "RANGE"
            26 Other "NOTADB"
        }
    };
}

macro_rules! as_markdown {
    ($($code:literal $fault:ident $meaning:literal)*) => {
        concat!(
            "| | | |\n|---|---|---|\n",
            $("| `", $code, "` | [`", stringify!($fault), "`](Self::", stringify!($fault), ") | ", $meaning, " |\n",)*
        )
    };
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
macro_rules! as_table {
    ($($code:literal $fault:ident $meaning:literal)*) => { &[$(($code, Fault::$fault)),*] };
}

#[cfg(feature = "postgres")]
const SQLSTATES: &[(&str, Fault)] = sqlstates!(as_table);

#[cfg(feature = "sqlite")]
const SQLITE_CODES: &[(i32, Fault)] = sqlite_codes!(as_table);

/// What went wrong, the same for every database.
///
/// [`Fault::of`] reads the SQLSTATE of PostgreSQL or the extended result code of SQLite. It never looks at message texts: they are translated,
/// reworded and can contain the user's own data.
///
/// ```
/// use rowlock::Fault;
///
/// let error = sqlx::Error::PoolTimedOut;
/// assert_eq!(Fault::of(&error), Fault::PoolTimedOut);
/// ```
///
/// # PostgreSQL
///
/// An unlisted code belongs to its class, its first two characters. An unlisted class is [`Other`](Self::Other).
///
#[doc = sqlstates!(as_markdown)]
///
/// # SQLite
///
/// An unlisted extended code belongs to its primary code, its low byte.
///
#[doc = sqlite_codes!(as_markdown)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The transaction lost against a concurrent one and must run again from its start.
    Serialization,
    /// Two transactions waited for each other and this one was chosen to fail.
    Deadlock,
    /// Another connection holds the database, after the busy timeout of SQLite; at once for a transaction that has read and wants to write while
    /// another one is writing, because neither could go on. COMMIT waits for readers, unless the database is in WAL mode.
    Busy,
    /// A row or table lock was not free in time, or not free at once under NOWAIT.
    LockTimeout,
    /// The server cancelled the statement, after `statement_timeout` or on request.
    Canceled,
    /// The server ended the session, because its transaction took too long (`transaction_timeout`) or was idle for too long
    /// (`idle_in_transaction_session_timeout`). The next statement of an idle session can also find its connection closed,
    /// which is [`ConnectionLost`](Self::ConnectionLost).
    TransactionTimeout,
    /// A unique index already holds the key.
    UniqueViolation,
    /// The row refers to one that does not exist, or is referred to. SQLite reports ON DELETE RESTRICT, and no other foreign
    /// key, like a trigger: as [`Raised`](Self::Raised).
    ForeignKeyViolation,
    /// A NOT NULL column was given NULL.
    NotNullViolation,
    /// A CHECK constraint, or another rule of the table for its rows, refused.
    CheckViolation,
    /// An EXCLUDE constraint refused: a booking that overlaps another one, for example.
    ExclusionViolation,
    /// A trigger or a function of the database refused: RAISE and the like.
    Raised,
    /// A number does not fit its column.
    NumericOutOfRange,
    /// The column or the expression cannot take the value: too long, malformed, a division by zero.
    InvalidValue,
    /// The statement does not fit the schema: a table, a column or a unique index is missing, or a type differs.
    Schema,
    /// The statement was prepared before a column of its table changed its type (ALTER COLUMN TYPE): SQLSTATE 0A000, raised when PostgreSQL checks
    /// its cached plans again.
    ///
    /// The generated methods make the connection forget what it has prepared, and outside a transaction run the statement once more. So you see this
    /// fault only for a statement in a transaction, which must run again from its start.
    StaleStatement,
    /// The role may not do this, or may not log in.
    PermissionDenied,
    /// An earlier statement of this transaction failed, and the server accepts nothing but its end.
    TransactionAborted,
    /// The statement's transaction or savepoint has already ended.
    NoTransaction,
    /// The transaction or the database is read-only.
    ReadOnly,
    /// The server has as many connections as it may have, or another limit of its configuration was reached.
    LimitReached,
    /// The disk or the memory of the server is full.
    OutOfResources,
    /// No connection became free within the pool's acquire timeout.
    PoolTimedOut,
    /// The pool was closed.
    PoolClosed,
    /// The connection broke, or the server is going away.
    ConnectionLost,
    /// The server itself does not know whether the statement or the COMMIT took effect.
    CompletionUnknown,
    /// A value that was read does not fit the field's type.
    Decode,
    /// A value could not be encoded.
    Encode,
    /// Anything else.
    Other,
}

impl Fault {
    /// Classifies an error of sqlx.
    pub fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self::of_database(error.as_ref()),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => Self::ConnectionLost,
            sqlx::Error::PoolTimedOut => Self::PoolTimedOut,
            sqlx::Error::PoolClosed => Self::PoolClosed,
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => Self::Decode,
            sqlx::Error::Encode(_) => Self::Encode,
            _ => Self::Other,
        }
    }

    /// Finds the sqlx error inside the user's own error type, by following `source()`.
    ///
    /// It cannot see an error that was formatted into a string. Nor can it see a lost connection (not an error that the server sent) inside
    /// thiserror's `#[error(transparent)]`, which hides the `sqlx::Error`: give the variant its own text.
    pub fn in_chain(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<sqlx::Error>() {
                return Some(Self::of(error));
            }
            if let Some(error) = error.downcast_ref::<DatabaseError>() {
                return Some(error.fault());
            }
            // A variant that is transparent to sqlx::Error hides it, and shows only what is inside it.
            if let Some(error) = error.downcast_ref::<Box<dyn sqlx::error::DatabaseError>>() {
                return Some(Self::of_database(error.as_ref()));
            }
            next = error.source();
        }
        None
    }

    /// Whether the same transaction, run again from its start, can succeed unchanged.
    ///
    /// Not for a failed COMMIT, or a write outside a transaction, that [may have committed](Self::may_have_committed).
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Serialization
                | Self::Deadlock
                | Self::Busy
                | Self::StaleStatement
                | Self::ConnectionLost
        )
    }

    /// The same for what failed before the transaction had begun.
    pub(crate) fn is_transient_at_begin(self) -> bool {
        self.is_transient() || self == Self::LimitReached
    }

    /// Whether a COMMIT that failed like this, or a write outside a transaction, may have taken effect nonetheless.
    ///
    /// A failed statement of an open transaction, other than COMMIT, was rolled back with it.
    pub fn may_have_committed(self) -> bool {
        // The server ends a session that was too slow between COMMIT and its answer, too.
        matches!(
            self,
            Self::ConnectionLost | Self::CompletionUnknown | Self::TransactionTimeout
        )
    }

    /// Whether the database refused what was to be written, by a constraint, a trigger or the type of a column, so that a statement
    /// without that row may succeed.
    pub(crate) fn is_of_a_row(self) -> bool {
        matches!(
            self,
            Self::UniqueViolation
                | Self::ForeignKeyViolation
                | Self::NotNullViolation
                | Self::CheckViolation
                | Self::ExclusionViolation
                | Self::Raised
                | Self::NumericOutOfRange
                | Self::InvalidValue
        )
    }

    /// Whether the error is one of those, or another one of what runs for a row: a policy, a trigger with a mistake on a way that few rows take, an index
    /// whose entry would be too large. Not the missing table or privilege of which each row would say the same.
    pub(crate) fn refuses_a_row(error: &sqlx::Error) -> bool {
        match Self::of(error) {
            fault if fault.is_of_a_row() => true,
            Self::PermissionDenied => !lacks_a_privilege(error) || is_of_a_function(error),
            Self::Schema | Self::Other => is_too_large(error) || is_of_a_function(error),
            _ => false,
        }
    }

    /// Whether it can be one: also where a policy refuses a row, a key is too long for its index, a trigger's own statement fails.
    pub(crate) fn may_be_of_a_row(self) -> bool {
        self.is_of_a_row() || matches!(self, Self::PermissionDenied | Self::Other)
    }

    /// Like [`in_chain`](Self::in_chain), but says so if the outcome is unknown, whatever the reason.
    pub(crate) fn of_outcome(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<DatabaseError>()
                && error.is_of_unknown_outcome()
            {
                return Some(Self::CompletionUnknown);
            }
            next = error.source();
        }
        Self::in_chain(error)
    }

    fn of_database(error: &dyn sqlx::error::DatabaseError) -> Self {
        if let Some(first) = error.try_downcast_ref::<CopiedError>() {
            return first.fault;
        }
        #[cfg(feature = "postgres")]
        if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
            // The code alone can also be a feature that no server has, and that no second run brings.
            if (error.code(), error.routine()) == ("0A000", Some("RevalidateCachedQuery")) {
                return Self::StaleStatement;
            }
            return Self::of_sqlstate(error.code());
        }
        #[cfg(feature = "sqlite")]
        if error
            .try_downcast_ref::<sqlx::sqlite::SqliteError>()
            .is_some()
        {
            let code = error.code().and_then(|code| code.parse().ok());
            return code.map_or(Self::Other, Self::of_sqlite);
        }
        let _ = error;
        Self::Other
    }

    #[cfg(feature = "postgres")]
    fn of_sqlstate(code: &str) -> Self {
        let place = |key: &str| SQLSTATES.iter().find(|(code, _)| *code == key);
        place(code)
            .or_else(|| place(code.get(..2)?))
            .map_or(Self::Other, |(_, fault)| *fault)
    }

    #[cfg(feature = "sqlite")]
    fn of_sqlite(code: i32) -> Self {
        let place = |key: i32| SQLITE_CODES.iter().find(|(code, _)| *code == key);
        place(code)
            .or_else(|| place(code & 0xff))
            .map_or(Self::Other, |(_, fault)| *fault)
    }
}

/// Whether the role may not do this at all.
#[cfg(feature = "postgres")]
fn lacks_a_privilege(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>());
    let routine = error.and_then(|error| error.routine());
    routine.is_none_or(|routine| routine.starts_with("aclcheck_error"))
}

/// No other database has policies.
#[cfg(not(feature = "postgres"))]
fn lacks_a_privilege(_: &sqlx::Error) -> bool {
    true
}

/// Whether the server was in a function when it met the error: a trigger's, or one of a policy, a CHECK, an index. Of its own statements it says no
/// context.
#[cfg(feature = "postgres")]
fn is_of_a_function(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>());
    error.is_some_and(|error| error.r#where().is_some())
}

/// SQLite compiles a trigger together with the statement.
#[cfg(not(feature = "postgres"))]
fn is_of_a_function(_: &sqlx::Error) -> bool {
    false
}

/// A value too large for an index, or for the server.
fn is_too_large(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| error.code().as_deref() == Some("54000"))
}

/// What a SQLSTATE means of which its [`Fault`] says too little: most are met by who connects for the first time.
pub(crate) fn sqlstate_in_words(code: &str) -> Option<&'static str> {
    Some(match code {
        "28000" => "the server does not let this user in, see its pg_hba.conf",
        "28P01" => "wrong password",
        "3D000" => "no such database",
        "3F000" => "no such schema",
        "42501" => "a privilege is missing, or a policy refuses the row",
        "42601" => "syntax error",
        "42703" => "no such column",
        "42804" => "a value of another type than its column",
        "42883" => "no such function or operator",
        "42P01" => "no such table",
        "42P10" => "no unique index on these columns",
        "53300" => "the server has no connections left",
        "57P01" => "the server shut down or ended this session",
        "57P03" => "the server is starting up or shutting down",
        _ => return None,
    })
}

/// The same of a code of SQLite.
pub(crate) fn sqlite_code_in_words(code: &str) -> Option<&'static str> {
    Some(match code {
        "8" | "1032" => "the file or its directory cannot be written",
        "11" => "the file is damaged",
        "14" => "the file cannot be opened",
        "26" => "the file is not a database",
        _ => return None,
    })
}

/// Whether PostgreSQL found no unique index for an ON CONFLICT: none on these columns, or a deferrable one, which cannot
/// decide about a conflict.
#[cfg(feature = "postgres")]
pub(crate) fn lacks_arbiter(error: &sqlx::Error) -> bool {
    has_code(error, &["42P10", "55000"])
}

/// Whether the setting that marks a transaction is gone: empty, which is no boolean, or unknown.
#[cfg(feature = "postgres")]
pub(crate) fn lacks_mark(error: &sqlx::Error) -> bool {
    has_code(error, &["22P02", "42704"])
}

/// Whether this, as the first answer to a COMMIT, says that the server ended the session and rolled back: `pg_terminate_backend`, a
/// shutdown, `idle_in_transaction_session_timeout`.
///
/// Once it has committed, PostgreSQL raises no such error in place of the answer, as the client would take the transaction for aborted:
/// a session that is ended while it waits for a standby then (`SyncRepWaitForLSN`) warns and says no more.
#[cfg(feature = "postgres")]
pub(crate) fn ended_before_commit(error: &sqlx::Error) -> bool {
    has_code(error, &["57P01", "25P03"])
}

/// Whether a statement divided by zero.
pub(crate) fn divided_by_zero(error: &sqlx::Error) -> bool {
    has_code(error, &["22012"])
}

/// Whether an ON CONFLICT met two of its rows in one: a citext column takes `Ada` for `ada`.
pub(crate) fn met_twice(error: &sqlx::Error) -> bool {
    has_code(error, &["21000"])
}

/// Whether a batch of additions wrote fewer rows than it was given: it takes the root of a negative number then.
pub(crate) fn wrote_too_few(error: &sqlx::Error) -> bool {
    has_code(error, &["2201F"])
}

/// Whether a statement was prepared whose values have no types: a call gives them.
#[cfg(feature = "schema")]
pub(crate) fn lacks_types(error: &sqlx::Error) -> bool {
    has_code(error, &["42P08", "42P18", "42725"])
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| codes.contains(&&*code))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serialization => {
                "serialization failure, run the transaction again from its start"
            }
            Self::Deadlock => "deadlock",
            Self::Busy => "the database is busy",
            Self::LockTimeout => "a lock was not free in time",
            Self::Canceled => "the server cancelled the statement",
            Self::TransactionTimeout => "the server ended a transaction that took too long",
            Self::UniqueViolation => "unique violation",
            Self::ForeignKeyViolation => "foreign key violation",
            Self::NotNullViolation => "NULL in a NOT NULL column",
            Self::CheckViolation => "check violation",
            Self::ExclusionViolation => "exclusion violation",
            Self::Raised => "refused by a trigger or a function of the database",
            Self::NumericOutOfRange => "number out of the column's range",
            Self::InvalidValue => "a value that its column or expression cannot take",
            Self::Schema => "the statement does not fit the schema",
            Self::StaleStatement => "a prepared statement whose table has changed",
            Self::PermissionDenied => "permission denied",
            Self::TransactionAborted => "an earlier statement of the transaction failed",
            Self::NoTransaction => "the transaction has ended already",
            Self::ReadOnly => "read-only",
            Self::LimitReached => "a limit of the server was reached",
            Self::OutOfResources => "disk or memory of the server is full",
            Self::PoolTimedOut => {
                "no connection in time: the server cannot be reached or has none left, or all connections of the pool are in use"
            }
            Self::PoolClosed => "the pool is closed",
            Self::ConnectionLost => "the connection was lost, or could not be made",
            Self::CompletionUnknown => "the server does not know whether it took effect",
            Self::Decode => "a column does not fit its field",
            Self::Encode => "a value could not be encoded",
            Self::Other => "database error",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;
    #[cfg(feature = "sqlite")]
    use super::SQLITE_CODES;
    #[cfg(feature = "postgres")]
    use super::SQLSTATES;

    /// All errors in `errcodes.txt` of PostgreSQL 18, by class. Classes 00 to 02 are none.
    #[cfg(feature = "postgres")]
    const ERRCODES: &str = "
        03: 000
        08: 000 001 003 004 006 007 P01
        09: 000
        0A: 000
        0B: 000
        0F: 000 001
        0L: 000 P01
        0P: 000
        0Z: 000 002
        10: 608
        20: 000
        21: 000
        22: 000 001 002 003 004 005 007 008 009 00B 00C 00D 00F 00G 00H 00L 00M 00N 00S 00T 010 011 012 013 014 015
            016 018 019 01B 01E 01F 01G 01W 01X 021 022 023 024 025 026 027 02E 02G 02H 030 031 032 033 034 035 036
            037 038 039 03A 03B 03C 03D 03E 03F 03G P01 P02 P03 P04 P05 P06
        23: 000 001 502 503 505 514 P01
        24: 000
        25: 000 001 002 003 004 005 006 007 008 P01 P02 P03 P04
        26: 000
        27: 000
        28: 000 P01
        2B: 000 P01
        2D: 000
        2F: 000 002 003 004 005
        34: 000
        38: 000 001 002 003 004
        39: 000 001 004 P01 P02 P03
        3B: 000 001
        3D: 000
        3F: 000
        40: 000 001 002 003 P01
        42: 000 501 601 602 611 622 701 702 703 704 710 712 723 725 803 804 809 830 846 883 8C9 939 P01 P02 P03 P04
            P05 P06 P07 P08 P09 P10 P11 P12 P13 P14 P15 P16 P17 P18 P19 P20 P21 P22
        44: 000
        53: 000 100 200 300 400
        54: 000 001 011 023
        55: 000 006 P02 P03 P04
        57: 000 014 P01 P02 P03 P04 P05
        58: 000 030 P01 P02 P03
        72: 000
        F0: 000 001
        HV: 000 001 002 004 005 006 007 008 009 00A 00B 00C 00D 00J 00K 00L 00M 00N 00P 00Q 00R 010 014 021 024 090
            091
        P0: 000 001 002 003 004
        XX: 000 001 002";

    /// The codes of [`ERRCODES`].
    #[cfg(feature = "postgres")]
    fn errcodes() -> Vec<String> {
        let mut class = "";
        let mut codes = Vec::new();
        for word in ERRCODES.split_whitespace() {
            match word.strip_suffix(':') {
                Some(next) => class = next,
                None => codes.push(format!("{class}{word}")),
            }
        }
        codes
    }

    #[test]
    #[cfg(feature = "postgres")]
    fn every_class_of_postgres_has_its_place() {
        let codes = errcodes();
        assert_eq!(codes.len(), 252);
        for code in &codes {
            let placed = SQLSTATES.iter().any(|(place, _)| code.starts_with(place));
            assert!(placed, "{code}");
        }
        for (index, (place, fault)) in SQLSTATES.iter().enumerate() {
            assert!(codes.iter().any(|code| code.starts_with(place)), "{place}");
            let class = &place[..2];
            let before = &SQLSTATES[..index];
            assert!(
                before.iter().all(|(other, _)| other < place),
                "{place}: sorted, once"
            );
            if *place != class {
                let same =
                    |(other, other_fault): &(&str, Fault)| *other == class && other_fault == fault;
                assert!(!before.iter().any(same), "{place}: its class says the same");
            }
        }
    }

    #[test]
    #[cfg(feature = "postgres")]
    fn sqlstates() {
        for (code, fault) in [
            ("40001", Fault::Serialization),
            ("40003", Fault::CompletionUnknown),
            ("40P01", Fault::Deadlock),
            ("42P01", Fault::Schema),
            ("42P10", Fault::Schema),
            ("42501", Fault::PermissionDenied),
            ("08006", Fault::ConnectionLost),
            ("57P01", Fault::ConnectionLost),
            ("57P99", Fault::ConnectionLost),
            ("25P04", Fault::TransactionTimeout),
            ("25001", Fault::Other),
            ("XX000", Fault::Other),
            // Of an extension, of nobody, and no code at all.
            ("VV123", Fault::Other),
            ("4", Fault::Other),
            ("", Fault::Other),
        ] {
            assert_eq!(Fault::of_sqlstate(code), fault, "{code}");
        }
    }

    #[test]
    #[cfg(feature = "sqlite")]
    fn every_code_of_sqlite_has_its_place() {
        for primary in 1..=26 {
            let placed = SQLITE_CODES.iter().any(|(code, _)| *code == primary);
            assert!(placed, "{primary}");
        }
        for (code, _) in SQLITE_CODES {
            let same = SQLITE_CODES.iter().filter(|(other, _)| other == code);
            assert_eq!(same.count(), 1, "{code}");
        }
    }

    #[test]
    #[cfg(feature = "sqlite")]
    fn sqlite_extended_codes() {
        for (code, fault) in [
            (5, Fault::Busy),
            (261, Fault::Busy),
            (517, Fault::Serialization),
            (2067, Fault::UniqueViolation),
            (1555, Fault::UniqueViolation),
            (1811, Fault::Raised),
            (1, Fault::Schema),
            (8 | 5 << 8, Fault::ReadOnly),
            (0, Fault::Other),
            (-1, Fault::Other),
        ] {
            assert_eq!(Fault::of_sqlite(code), fault, "{code}");
        }
    }
}
