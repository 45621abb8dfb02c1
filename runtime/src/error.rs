//! One roof over the errors of the crate.

use std::error::Error as StdError;
use std::fmt;

use crate::DatabaseError;
use crate::db::error::{KeyText, Operation};
use crate::db::fault::Fault;
use crate::fan_out::{CallError, FirstError, TooFewSucceeded};
use crate::lock::{AcquireError, AdvisoryLockError};
use crate::queue::{ClaimError, FinishError, PauseError, WorkerError, WorkerSetError};
use crate::row::{
    CounterError, CreateError, DeleteError, EditAtError, FindError, FindOrCreateError, GuardError,
    InsertError, LoadError, LockCheckedError, LockError, MergeError, UpdateError, UpsertError,
};
use crate::tx::TransactionError;

/// Any error of this crate, or of sqlx.
///
/// For functions that call several methods, and above all for the closure of a [transaction](crate::transaction): `?` turns all their errors into
/// this one, which still knows what is worth a retry.
///
/// ```
/// # async fn setup() -> Result<sqlx::SqlitePool, sqlx::Error> {
/// #     let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// #     sqlx::raw_sql(
/// #         "CREATE TABLE stock (id bigint PRIMARY KEY, units bigint NOT NULL);
/// #          CREATE TABLE orders (sku bigint NOT NULL);
/// #          INSERT INTO stock VALUES (7, 0)",
/// #     ).execute(&pool).await?;
/// #     Ok(pool)
/// # }
/// use rowlock::{Counter, transaction};
/// use rowlock::row::CounterError;
///
/// #[derive(sqlx::FromRow, Counter)]
/// #[rowlock(table = "stock", existing_rows)]
/// struct Stock {
///     #[rowlock(key)]
///     id: i64,
///     #[rowlock(counter(min = 0))]
///     units: i64,
/// }
///
/// async fn order(pool: &sqlx::SqlitePool, sku: i64) -> Result<i64, rowlock::Error> {
///     let left = transaction(pool)
///         .run(async |tx| -> Result<_, rowlock::Error> {
///             sqlx::query("INSERT INTO orders VALUES ($1)").bind(sku).execute(&mut *tx).await?;
///             Ok(Stock::add_units(tx, sku, -1).await?)
///         })
///         .await?;
///     Ok(left)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = setup().await?;
/// let error = order(&pool, 7).await.unwrap_err();
/// assert!(matches!(error.downcast_ref(), Some(CounterError::OutOfBounds(_))));
/// assert!(!error.is_conflict() && !error.is_unknown());
/// # Ok(())
/// # }
/// ```
///
/// [`source`](StdError::source) is the original error, with its type. `Display` and `Debug` are those of that error, and show no value of a row; for
/// a `sqlx::Error` they show the [`Fault`], the code and the constraint, as [`DatabaseError`] does.
///
/// Errors that carry one of yours ([`TransactionError`], [`AdvisoryLockError`], `OnceError`, those of [`fan_out`](fn@crate::fan_out)) convert into
/// this one if yours is this one. The result is then the error that the closure of a transaction returned.
pub struct Error(Box<Inner>);

struct Inner {
    error: Box<dyn StdError + Send + Sync>,
    is_conflict: bool,
}

impl Error {
    fn new(error: impl StdError + Send + Sync + 'static, is_conflict: bool) -> Self {
        Self(Box::new(Inner {
            error: Box::new(error),
            is_conflict,
        }))
    }

    /// The fault of the database's error, if there is one. See [`Fault::in_chain`].
    pub fn fault(&self) -> Option<Fault> {
        Fault::in_chain(&*self.0.error)
    }

    /// Whether a concurrent writer was first: the copy is stale, a lease or an attempt was taken over, the row has a later fence, two changes cannot
    /// be merged, or the fault is [`Fault::Serialization`] or [`Fault::Deadlock`]. Nothing was written. Read again and decide again, or answer 409.
    ///
    /// A taken key ([`Fault::UniqueViolation`]) and a counter at its bounds are no conflicts: they would repeat.
    pub fn is_conflict(&self) -> bool {
        let lost = |fault| matches!(fault, Fault::Serialization | Fault::Deadlock);
        // It can also be inside of one that carries several.
        let inside = std::iter::successors(self.source(), |&error| error.source())
            .filter_map(|error| error.downcast_ref::<Self>())
            .any(|error| error.0.is_conflict);
        self.0.is_conflict || inside || self.fault().is_some_and(lost)
    }

    /// Whether it may have taken effect nonetheless: every `Unknown`, and [`CommitUnknown`](TransactionError::CommitUnknown). rowlock never runs
    /// these again.
    pub fn is_unknown(&self) -> bool {
        Fault::of_outcome(&*self.0.error) == Some(Fault::CompletionUnknown)
    }

    /// The original error, if it has this type: `error.downcast_ref::<CounterError>()`. For a `sqlx::Error` it is a [`DatabaseError`].
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.error.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Error").field(&self.0.error).finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0.error)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let operation = Operation::new("statement", "", KeyText::default());
        DatabaseError::new(operation, error).into()
    }
}

/// `From` for errors of the crate, each with its variants that say that a concurrent writer was first.
macro_rules! from {
    ($($error:ident $(<$t:ident>)? [$($conflict:ident),*];)*) => {
        $(impl $(<$t: Send + Sync + 'static>)? From<$error $(<$t>)?> for Error {
            fn from(error: $error $(<$t>)?) -> Self {
                let is_conflict = match &error {
                    $($error::$conflict { .. } => true,)*
                    _ => false,
                };
                Self::new(error, is_conflict)
            }
        })*

        #[cfg(all(test, feature = "postgres", feature = "idempotent", feature = "periodic", feature = "redis", feature = "schema"))]
        pub(super) const NAMES: &[&str] = &[$(stringify!($error)),*];
    };
}

mod of_rows {
    use super::*;
    from! {
        AcquireError [];
        ClaimError [];
        CounterError [Contended];
        CreateError [];
        DeleteError<T> [Fenced, Stale];
        EditAtError<T> [Stale];
        FindError [];
        FindOrCreateError [];
        FinishError [LeaseLost];
        GuardError<T> [];
        InsertError [];
        LoadError [];
        LockCheckedError<T> [Stale];
        LockError [Fenced, Stale];
        MergeError [Overlap];
        PauseError [];
        UpdateError<T> [Fenced, Stale];
        UpsertError [Fenced];
        WorkerError [];
        WorkerSetError [];
    }
}

#[cfg(feature = "postgres")]
mod of_session_locks {
    use super::Error;
    use crate::lock::ReleaseError;
    from! {
        ReleaseError [];
    }
}

#[cfg(feature = "idempotent")]
mod of_ledgers {
    use super::Error;
    use crate::idempotent::{AttemptError, OnceError, RequestError, StartError};
    from! {
        AttemptError [TakenOver];
        RequestError [];
        StartError [];
    }

    impl From<OnceError<Error>> for Error {
        fn from(error: OnceError<Error>) -> Self {
            match error {
                OnceError::Transaction(error) => error.into(),
                error => Self::new(error, false),
            }
        }
    }
}

#[cfg(feature = "periodic")]
mod of_schedules {
    use super::Error;
    use crate::queue::{PeriodicError, ScheduleError, TickError};
    from! {
        PeriodicError [];
        ScheduleError [];
    }

    impl From<TickError<Error>> for Error {
        fn from(error: TickError<Error>) -> Self {
            match error {
                TickError::Transaction(error) => error.into(),
                TickError::Periodic(error) => error.into(),
            }
        }
    }
}

#[cfg(feature = "schema")]
mod of_schema {
    use super::Error;
    use crate::schema::{FileError, VerifyError};
    from! {
        FileError [];
        VerifyError [];
    }
}

#[cfg(feature = "redis")]
mod of_redis {
    use super::Error;
    use crate::lock::redis::{FenceError, MutexError, ReleaseError};
    from! {
        FenceError [];
        MutexError [];
        ReleaseError [];
    }
}

impl From<DatabaseError> for Error {
    fn from(error: DatabaseError) -> Self {
        Self::new(error, false)
    }
}

impl From<TransactionError<Error>> for Error {
    fn from(error: TransactionError<Error>) -> Self {
        match error {
            TransactionError::Failed(error) => error,
            error => Self::new(error, false),
        }
    }
}

impl From<AdvisoryLockError<Error>> for Error {
    fn from(error: AdvisoryLockError<Error>) -> Self {
        match error {
            AdvisoryLockError::Transaction(error) => error.into(),
            error => Self::new(error, false),
        }
    }
}

impl From<CallError<Error>> for Error {
    fn from(error: CallError<Error>) -> Self {
        match error {
            CallError::Failed(error) => error,
            error => Self::new(error, false),
        }
    }
}

impl From<FirstError<Error>> for Error {
    fn from(error: FirstError<Error>) -> Self {
        Self::new(error, false)
    }
}

impl<T: Send + Sync + 'static> From<TooFewSucceeded<T, Error>> for Error {
    fn from(error: TooFewSucceeded<T, Error>) -> Self {
        Self::new(error, false)
    }
}

/// Which is known only with all of them.
#[cfg(all(
    test,
    feature = "postgres",
    feature = "idempotent",
    feature = "periodic",
    feature = "redis",
    feature = "schema"
))]
mod all_errors {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// All whose names end like those of errors, in a folder.
    fn find(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                find(&path, found);
                continue;
            }
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let name = line
                    .strip_prefix("pub enum ")
                    .or_else(|| line.strip_prefix("pub struct "));
                let name = name.and_then(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
                found.extend(
                    name.filter(|name| name.ends_with("Error"))
                        .map(str::to_owned),
                );
            }
        }
    }

    fn has_from<E>()
    where
        Error: From<E>,
    {
    }

    #[test]
    fn every_error_of_the_crate_has_its_place() {
        has_from::<TransactionError<Error>>();
        has_from::<AdvisoryLockError<Error>>();
        has_from::<crate::idempotent::OnceError<Error>>();
        has_from::<CallError<Error>>();
        has_from::<FirstError<Error>>();
        has_from::<TooFewSucceeded<(), Error>>();
        has_from::<crate::queue::TickError<Error>>();
        has_from::<crate::lock::redis::ReleaseError>();
        let around = [
            "AdvisoryLockError",
            "CallError",
            "DatabaseError",
            "FirstError",
            "OnceError",
            "TickError",
            "TransactionError",
        ];
        // It is this one; how an error is looked into.
        let others = ["Error", "ByError"];
        let known = [
            of_rows::NAMES,
            of_session_locks::NAMES,
            of_ledgers::NAMES,
            of_schedules::NAMES,
            of_redis::NAMES,
            of_schema::NAMES,
        ];
        let known = known.concat().into_iter().chain(around).chain(others);
        let mut found = BTreeSet::new();
        find(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut found,
        );
        let known: BTreeSet<String> = known.map(str::to_owned).collect();
        assert_eq!(found, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Operation {
        Operation::new("update", "rows", KeyText::default())
    }

    fn lost() -> DatabaseError {
        let error = std::io::ErrorKind::ConnectionReset;
        DatabaseError::new(operation(), sqlx::Error::Io(error.into()))
    }

    #[test]
    fn what_was_known_is_known() {
        let conflict = Error::from(FinishError::LeaseLost(operation()));
        assert!(conflict.is_conflict() && !conflict.is_unknown());
        assert_eq!(conflict.fault(), None);
        assert!(conflict.source().unwrap().is::<FinishError>());
        assert!(matches!(
            conflict.downcast_ref(),
            Some(FinishError::LeaseLost(_))
        ));
        let inside = FirstError {
            index: 0,
            error: CallError::Failed(conflict),
        };
        assert!(Error::from(inside).is_conflict());

        let unknown = Error::from(CounterError::Unknown(lost().of_unknown_outcome()));
        assert!(unknown.is_unknown() && !unknown.is_conflict());
        assert_eq!(unknown.fault(), Some(Fault::ConnectionLost));
        // As the closure of a transaction around it returns it.
        let around = TransactionError::Failed(unknown);
        let around = Error::from(AdvisoryLockError::Transaction(around));
        assert!(around.is_unknown());
        assert!(around.downcast_ref::<CounterError>().is_some());
        assert!(!Error::from(lost()).is_unknown());
        let commit = TransactionError::CommitUnknown(lost().of_unknown_outcome());
        assert!(Error::from(commit).is_unknown());
    }

    #[test]
    fn the_text_of_the_database_is_not_shown() {
        let secret = "secret@example.com";
        let error = Error::from(sqlx::Error::Decode(secret.into()));
        assert_eq!(
            error.to_string(),
            "statement: a column does not fit its field"
        );
        assert!(!format!("{error:?}").contains(secret));
        assert_eq!(error.fault(), Some(Fault::Decode));
        assert!(error.downcast_ref::<DatabaseError>().is_some());
    }
}
