//! Requests that take effect once, however often they are sent.

mod error;
mod once;
mod running;

use std::future::Future;
use std::time::Duration;

pub use self::error::{AttemptError, OnceError, StartError};
pub use self::once::{Once, OnceCall, once};
pub use self::running::{Running, Started, start};
use crate::db::error::{DatabaseError, from_write_failure};
use crate::db::fence::Fence;
use crate::db::model::{Model, acquire};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Bind, Fetched, Statement, knew_an_old_schema};
use crate::db::{Backend, IndexedColumns};
use crate::job::fingerprint::Digest;

/// How often a key is asked for before somebody else must be at work on it.
const ROUNDS: u32 = 3;
/// How often `start` is tried when the database wants it to be.
const ATTEMPTS: u32 = 5;
/// The ceilings of the random waits of [`OnceCall::wait`]: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The derive, for [`Model`].
#[derive(Debug)]
pub struct Derive;

/// What `#[derive(Idempotent)]` knows about a ledger beyond that, the same for every database.
pub trait Idempotent: Model<Derive> {
    /// What is stored and replayed.
    type Outcome: Send + Sync + 'static;
    /// The key's columns in alphabetical order, joined by commas.
    const KEY_COLUMNS: &'static str;
}

/// A ledger's statements for one database. The key is bound first, as `$1…`, except in `FINISH`.
pub trait IdempotentSql<DB: Backend>: Idempotent {
    /// Creates the row, or takes it over if nobody is at work on it: key, fingerprint, lease in seconds. Returns the
    /// fence, if it is claimed, and 0 if another call is about to claim it, 2 if the row is not under this key.
    const CLAIM: &'static str;
    /// Reads how things stand: key, fingerprint. Returns the `Standing` and the outcome.
    const READ: &'static str;
    /// Stores the outcome: outcome, key, fence.
    const FINISH: &'static str;
    /// Ends the lease now: key, fence.
    const RELEASE: &'static str;
    /// Begins a new lease now: key, fence, seconds.
    const EXTEND: &'static str;
    /// Deletes what was finished so many seconds ago.
    const PURGE: &'static str;

    /// Binds a key.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds a fingerprint.
    fn bind_fingerprint(digest: &Digest, to: &mut impl Bind<DB>);
    /// Binds an outcome.
    fn bind_outcome(outcome: &Self::Outcome, to: &mut impl Bind<DB>);
    /// Reads the outcome, which is the second column.
    fn outcome(row: &DB::Row) -> Result<Self::Outcome, sqlx::Error>;
}

from_write_failure!(AttemptError);

/// How a key stands, as `READ` says it.
enum Standing {
    /// Another request has the key.
    OtherRequest,
    /// Some request has the key, under a fingerprint of another version.
    OtherFingerprint,
    Finished,
    /// The lease of an attempt runs.
    Leased,
    /// An attempt was given up.
    Free,
}

impl Standing {
    fn of<DB: Backend>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(match DB::get_i64(row, 0)? {
            Some(1) => Self::OtherRequest,
            Some(2) => Self::Finished,
            Some(3) => Self::Leased,
            Some(5) => Self::OtherFingerprint,
            _ => Self::Free,
        })
    }
}

/// Who has the key now.
enum Asked<R> {
    /// The caller, with this fence.
    Mine(Fence),
    Finished(R),
    Mismatch,
    OtherFingerprint,
    Busy,
    KeyTaken,
}

/// Claims the key, or finds out why not.
async fn ask<DB: Backend, T: IdempotentSql<DB>>(
    key: &T::Key<'_>,
    digest: &Digest,
    lease: Duration,
    connection: &mut Link<'_, DB>,
) -> Result<Asked<T::Outcome>, sqlx::Error> {
    let claim = || {
        let mut claim = Statement::<DB>::literal(T::CLAIM);
        T::bind_key(key, &mut claim);
        T::bind_fingerprint(digest, &mut claim);
        claim.bind_seconds(lease);
        claim
    };
    let mut taken = false;
    for _ in 0..ROUNDS {
        let claimed = match claim().fetch_one(connection).await {
            Err(error) if knew_an_old_schema(&error, connection).await => {
                claim().fetch_one(connection).await
            }
            outcome => outcome,
        };
        let state = match claimed? {
            Fetched::One(row) => (DB::get_i64(&row, 0)?, DB::get_i64(&row, 1)?),
            // Nothing was claimed, on a database where nobody else can be about to.
            Fetched::None | Fetched::Several => (None, None),
        };
        taken = match state {
            (Some(_), Some(2)) => return Ok(Asked::KeyTaken),
            (Some(fence), _) => return Ok(Asked::Mine(Fence::claimed(fence))),
            (None, state) => state != Some(0),
        };
        // A new statement, so that it sees what made the claim fail.
        let mut read = Statement::<DB>::literal(T::READ);
        T::bind_key(key, &mut read);
        T::bind_fingerprint(digest, &mut read);
        match read.fetch_one(connection).await? {
            Fetched::One(row) => match Standing::of::<DB>(&row)? {
                Standing::OtherRequest => return Ok(Asked::Mismatch),
                Standing::OtherFingerprint => return Ok(Asked::OtherFingerprint),
                Standing::Finished => return Ok(Asked::Finished(T::outcome(&row)?)),
                Standing::Leased => return Ok(Asked::Busy),
                // It was let go between the two statements, or somebody is about to finish it or to take it over.
                Standing::Free => taken = false,
            },
            // Its row is not committed yet, or was purged.
            Fetched::None | Fetched::Several => {}
        }
        if !taken {
            return Ok(Asked::Busy);
        }
    }
    Ok(if taken { Asked::KeyTaken } else { Asked::Busy })
}

async fn finish<DB: Backend, T: IdempotentSql<DB>>(
    key: &T::Key<'_>,
    fence: Fence,
    outcome: &T::Outcome,
    connection: &mut Link<'_, DB>,
) -> Result<bool, sqlx::Error> {
    let mut statement = Statement::<DB>::literal(T::FINISH);
    T::bind_outcome(outcome, &mut statement);
    T::bind_key(key, &mut statement);
    statement.bind_i64(fence.get());
    Ok(statement.execute(connection).await? == 1)
}

async fn lacks_unique_index<DB: Backend, T: Idempotent>(
    error: &sqlx::Error,
    connection: &mut Link<'_, DB>,
) -> bool {
    let key = IndexedColumns::of(T::TABLE, T::KEY_COLUMNS);
    DB::lacks_unique_index(connection, error, key).await
}

/// Deletes the rows that were finished longer ago than `age`.
pub fn purge<'c, DB: Backend, T: IdempotentSql<DB>>(
    db: impl Source<'c, DB>,
    age: Duration,
) -> impl Future<Output = Result<u64, DatabaseError>> + Send {
    T::observed::<DB, _>("purge", async move {
        let operation = || T::operation_on_many("purge");
        let mut opened = acquire(db, &operation).await?;
        let mut statement = Statement::<DB>::literal(T::PURGE);
        statement.bind_seconds(age);
        let purged = statement.execute(&mut opened.link()).await;
        purged.map_err(|error| DatabaseError::new(operation(), error))
    })
}
