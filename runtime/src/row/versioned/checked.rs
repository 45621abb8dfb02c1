//! Statements that check a version, in functions that know no model: they are compiled once, and not for each model.

use std::convert::Infallible;
use std::future::Future;

use super::conflict::Clash;
use crate::db::Backend;
use crate::db::as_read::Stored;
use crate::db::atomic::{Reruns, in_transaction};
use crate::db::error::{DatabaseError, Operation, WriteFailure, from_write_failure};
use crate::db::fault::Fault;
use crate::db::fence::Fence;
use crate::db::lanes::{Call, Fold, Turn, take};
use crate::db::source::{Link, Opened, Source};
use crate::db::statement::{Fetched, Statement, write_one};
use crate::observe;

/// A copy of a row, or an edit of one, that is to be written.
pub(super) trait Checked<DB: Backend>: Sync {
    fn operation(&self, method: &'static str) -> Operation;
    fn versions(&self) -> Versions;
    /// `stored`: what the checked columns must hold, where it is not just the values that were read.
    fn statement(&self, write: Write, stored: &Stored<DB>) -> Statement<DB>;
    /// Reads the row as it now is.
    fn look(&self, stored: &Stored<DB>) -> Statement<DB>;
    /// What can write many rows of many callers.
    fn fold(&self, _write: Write) -> Option<Fold> {
        None
    }
    /// What that binds for this row, if it can.
    fn call(&self) -> Option<Call<DB>> {
        None
    }
    /// What the checked columns of a row hold, if they read as those of this one did.
    fn reads_the_same(&self, _row: &DB::Row) -> Option<Stored<DB>> {
        None
    }
}

#[derive(Clone, Copy)]
pub(super) enum Write {
    Update,
    Touch,
    Delete,
}

#[derive(Clone, Copy)]
pub(super) struct Versions {
    /// That the row must still have.
    pub(super) expected: i64,
    /// The highest that there is.
    pub(super) highest: i64,
    /// Where it stands among all columns.
    pub(super) index: usize,
    /// Which column of the look says whether the row meets the condition, if there is one.
    pub(super) holds: Option<usize>,
}

/// What a read found instead of a row with a version.
pub(super) enum Unread {
    NullVersion,
    Missing,
    Several,
    Failed(sqlx::Error),
}

/// Why a write did not happen, or not as it should have.
pub(super) enum Unwritten<R, O = Operation> {
    /// It met no row, and this one is there.
    Met(Met<R>),
    Failed(Failure<O>),
}

/// A row that should have met the write.
pub(super) struct Met<R> {
    pub(super) row: R,
    pub(super) operation: Operation,
    pub(super) expected: i64,
    pub(super) found: i64,
    /// Whether it meets the condition of the write.
    pub(super) holds: bool,
}

/// What the errors of all writes have in common. A deletion raises no version, and its `O` is `Infallible`.
pub(super) enum Failure<O = Operation> {
    Gone(Operation),
    Fenced(Operation, Fence),
    NullVersion(Operation),
    VersionOverflow(O),
    Ignored(Operation),
    NotUnique(Operation),
    Written(DatabaseError),
    Serialization(DatabaseError),
    Unknown(DatabaseError),
    Database(DatabaseError),
}

from_write_failure!(Failure<O>);

impl<R, O> From<Failure<O>> for Unwritten<R, O> {
    fn from(failure: Failure<O>) -> Self {
        Self::Failed(failure)
    }
}

impl<R> Met<R> {
    /// That was a read: nothing was written.
    pub(super) fn undecoded<O>(&self, error: sqlx::Error) -> Failure<O> {
        WriteFailure::new(self.operation.clone(), error, true).into()
    }

    /// Whether it is the row that was expected, and does not meet the condition.
    pub(super) fn is_refused(&self) -> bool {
        !self.holds && self.found == self.expected
    }

    /// Fails if the row has seen a later fence.
    pub(super) fn not_fenced<O>(
        &self,
        current: Option<Fence>,
        mine: Option<Fence>,
    ) -> Result<(), Failure<O>> {
        if current > mine {
            return Err(Failure::Fenced(
                self.operation.clone(),
                current.unwrap_or_default(),
            ));
        }
        Ok(())
    }

    /// The conflict with that row, if its version is another one. `version`: the name of its field.
    pub(super) fn clash<O>(
        &self,
        version: &'static str,
        current: Option<Fence>,
        mine: Option<Fence>,
    ) -> Result<Clash, Failure<O>> {
        // First, because who lost the lock has nothing to merge.
        self.not_fenced(current, mine)?;
        let operation = self.operation.clone();
        let (expected, found) = (self.expected, self.found);
        if found == expected {
            return Err(Failure::Ignored(operation));
        }
        observe::conflict(&operation);
        Ok(Clash {
            operation,
            version,
            expected,
            found,
        })
    }
}

/// Why what the database returned is not the row as it now is.
pub(super) enum Unfit {
    /// It is the row as it was.
    Old,
    Undecoded(sqlx::Error),
}

impl Unfit {
    pub(super) fn of(self, operation: Operation) -> Failure {
        match self {
            Self::Old => Failure::Ignored(operation),
            Self::Undecoded(error) => Failure::Written(DatabaseError::new(operation, error)),
        }
    }
}

/// The row, if there is exactly one.
pub(super) fn found<DB: Backend>(
    selected: Result<Fetched<DB::Row>, sqlx::Error>,
    version: Option<usize>,
) -> Result<(DB::Row, i64), Unread> {
    let row = match selected.map_err(Unread::Failed)? {
        Fetched::One(row) => row,
        Fetched::None => return Err(Unread::Missing),
        Fetched::Several => return Err(Unread::Several),
    };
    let Some(version) = version else {
        return Ok((row, 0));
    };
    match DB::get_i64(&row, version).map_err(Unread::Failed)? {
        Some(version) => Ok((row, version)),
        None => Err(Unread::NullVersion),
    }
}

/// Reads a row whose version, if it has one, stands at this index.
pub(super) async fn read_on<DB: Backend>(
    select: Statement<DB>,
    version: Option<usize>,
    connection: &mut Link<'_, DB>,
) -> Result<DB::Row, Unread> {
    let selected = select.fetch_one(connection).await;
    found::<DB>(selected, version).map(|(row, _)| row)
}

/// The same on what a method runs on.
pub(super) fn read<'c, DB: Backend>(
    select: Statement<DB>,
    version: Option<usize>,
    fold: Option<(Fold, Call<DB>)>,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<DB::Row, Unread>> + Send {
    async move {
        let (fold, call) = fold.unzip();
        match take(db, fold, || call).await.map_err(Unread::Failed)? {
            Turn::Alone(mut opened) | Turn::PassedOver(mut opened) => {
                read_on(select, version, &mut opened.link()).await
            }
            Turn::Answered(found_row) => {
                found::<DB>(found_row.map(Fetched::One), version).map(|(row, _)| row)
            }
        }
    }
}

/// Runs an UPDATE that checks the version and returns what the database changed.
pub(super) async fn write_on<DB: Backend>(
    method: &'static str,
    row: &dyn Checked<DB>,
    write: Write,
    connection: &mut Link<'_, DB>,
) -> Result<DB::Row, Unwritten<DB::Row>> {
    let Versions {
        expected, highest, ..
    } = row.versions();
    // In SQL an overflow is an error on one database and a floating-point number on another; here it is neither.
    if expected == highest {
        // Nobody has raised it so far; but a client's ETag can say so.
        return Err(match met(method, row, &Vec::new(), connection).await {
            Unwritten::Met(met) if met.found == expected => {
                Failure::VersionOverflow(met.operation).into()
            }
            unwritten => unwritten,
        });
    }
    let in_transaction = in_transaction::<DB>(connection);
    let mut tries = Tries::of(row);
    loop {
        return match write_one(&|| row.statement(write, &tries.stored), connection).await {
            Ok(Fetched::One(row)) => Ok(row),
            Ok(Fetched::Several) => Err(Failure::NotUnique(row.operation(method)).into()),
            Ok(Fetched::None) => {
                let mut unwritten = met(method, row, &tries.stored, connection).await;
                if tries.after(row, &mut unwritten) {
                    continue;
                }
                Err(unwritten)
            }
            Err(error) => {
                let has_written = DB::has_written(connection, &error).await;
                Err(failed(row.operation(method), error, has_written, in_transaction).into())
            }
        };
    }
}

/// How often a write is tried that met no row although all holds when the row is looked at.
///
/// Once more in any case: it may have waited for a transaction that deleted the row and inserted it anew, or gave its key to another row. Under a condition, because what it is about can be written without the version, as a counter is. And where columns are checked: by then
/// they can have what was read again, or they hold it in another form than sqlx writes, such as a time without its seconds. So what they
/// hold is what is compared next.
struct Tries<DB: Backend> {
    left: u32,
    stored: Stored<DB>,
}

impl<DB: Backend> Tries<DB> {
    const UNTIL_IGNORED: u32 = 3;

    fn of(row: &dyn Checked<DB>) -> Self {
        let conditional = row.versions().holds.is_some();
        Self {
            left: if conditional { Self::UNTIL_IGNORED } else { 2 },
            stored: Vec::new(),
        }
    }

    /// Whether the write is run again.
    fn after<O>(&mut self, row: &dyn Checked<DB>, unwritten: &mut Unwritten<DB::Row, O>) -> bool {
        let Unwritten::Met(met) = unwritten else {
            return false;
        };
        if let Some(stored) = row.reads_the_same(&met.row) {
            met.found = met.expected;
            if self.stored.is_empty() {
                self.left = Self::UNTIL_IGNORED;
            }
            self.stored = stored;
        }
        self.left -= 1;
        self.left > 0 && met.holds && met.found == met.expected
    }
}

/// The same on what a method runs on.
pub(super) fn write<'c, DB: Backend>(
    method: &'static str,
    row: &dyn Checked<DB>,
    write: Write,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<DB::Row, Unwritten<DB::Row>>> + Send {
    async move {
        let versions = row.versions();
        let can_rise = versions.expected != versions.highest;
        let fold = row.fold(write).filter(|_| can_rise);
        match take(db, fold, || row.call()).await {
            Ok(Turn::Alone(mut opened) | Turn::PassedOver(mut opened)) => {
                write_on(method, row, write, &mut opened.link()).await
            }
            Ok(Turn::Answered(Ok(row))) => Ok(row),
            Ok(Turn::Answered(Err(error))) => {
                Err(failed(row.operation(method), error, false, false).into())
            }
            Err(error) => Err(unopened(row.operation(method), error).into()),
        }
    }
}

/// Reads the row if it has the version and meets the condition, and writes nothing.
pub(super) fn look<'c, DB: Backend>(
    method: &'static str,
    row: &dyn Checked<DB>,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<DB::Row, Unwritten<DB::Row>>> + Send {
    async move {
        let mut opened = match db.open().await {
            Ok(opened) => opened,
            Err(error) => return Err(unopened(row.operation(method), error).into()),
        };
        let mut tries = Tries::of(row);
        let mut unwritten = met(method, row, &tries.stored, &mut opened.link()).await;
        tries.after(row, &mut unwritten);
        match unwritten {
            Unwritten::Met(met) if met.holds && met.found == met.expected => Ok(met.row),
            unwritten => Err(unwritten),
        }
    }
}

/// Runs a DELETE that checks the version.
pub(super) async fn delete_on<DB: Backend>(
    method: &'static str,
    row: &dyn Checked<DB>,
    connection: &mut Link<'_, DB>,
) -> Result<(), Unwritten<DB::Row, Infallible>> {
    let in_transaction = in_transaction::<DB>(connection);
    let mut reruns = Reruns::new(in_transaction);
    let mut tries = Tries::of(row);
    loop {
        let statement = row.statement(Write::Delete, &tries.stored);
        return match statement.execute(connection).await {
            Ok(0) => {
                let mut unwritten = met(method, row, &tries.stored, connection).await;
                if tries.after(row, &mut unwritten) {
                    continue;
                }
                Err(unwritten)
            }
            Ok(1) => Ok(()),
            Ok(_) => Err(Failure::NotUnique(row.operation(method)).into()),
            Err(error) if reruns.after(Fault::of(&error), connection).await => continue,
            Err(error) => {
                let has_written = DB::has_written(connection, &error).await;
                Err(failed(row.operation(method), error, has_written, in_transaction).into())
            }
        };
    }
}

/// The same on what a method runs on.
pub(super) fn delete<'c, DB: Backend>(
    row: &dyn Checked<DB>,
    db: impl Source<'c, DB>,
) -> impl Future<Output = Result<(), Unwritten<DB::Row, Infallible>>> + Send {
    async move {
        const METHOD: &str = "delete";
        let mut opened = match db.open().await {
            Ok(opened) => opened,
            Err(error) => return Err(unopened(row.operation(METHOD), error).into()),
        };
        delete_on(METHOD, row, &mut opened.link()).await
    }
}

/// Nothing was sent.
fn unopened<O>(operation: Operation, error: sqlx::Error) -> Failure<O> {
    Failure::Database(DatabaseError::new(operation, error))
}

fn failed<O>(
    operation: Operation,
    error: sqlx::Error,
    has_written: bool,
    in_transaction: bool,
) -> Failure<O> {
    if has_written {
        return Failure::Written(DatabaseError::new(operation, error));
    }
    WriteFailure::new(operation, error, in_transaction).into()
}

/// Looks at what is there after a write that met no row. That is a read: if it fails, nothing was written.
async fn met<DB: Backend, O>(
    method: &'static str,
    row: &dyn Checked<DB>,
    stored: &Stored<DB>,
    connection: &mut Link<'_, DB>,
) -> Unwritten<DB::Row, O> {
    let Versions {
        expected,
        index,
        holds,
        ..
    } = row.versions();
    let selected = row.look(stored).fetch_one(connection).await;
    let operation = row.operation(method);
    let found = found::<DB>(selected, Some(index)).and_then(|(row, found)| {
        let holds = holds.map_or(Ok(Some(1)), |index| DB::get_i64(&row, index));
        let holds = holds.map_err(Unread::Failed)? == Some(1);
        Ok((row, found, holds))
    });
    match found {
        Ok((row, found, holds)) => Unwritten::Met(Met {
            row,
            operation,
            expected,
            found,
            holds,
        }),
        Err(unread) => unread.without_a_write(operation).into(),
    }
}

impl Unread {
    /// As the error of a load.
    pub(super) fn of(self, operation: Operation) -> super::LoadError {
        use super::LoadError;
        match self {
            Self::NullVersion => LoadError::NullVersion(operation),
            Self::Missing => LoadError::NotFound(operation),
            Self::Several => LoadError::NotUnique(operation),
            Self::Failed(error) => LoadError::Database(DatabaseError::new(operation, error)),
        }
    }

    /// As the failure of a write: nothing was written.
    pub(super) fn without_a_write<O>(self, operation: Operation) -> Failure<O> {
        match self {
            Self::NullVersion => Failure::NullVersion(operation),
            Self::Missing => Failure::Gone(operation),
            Self::Several => Failure::NotUnique(operation),
            Self::Failed(error) => WriteFailure::new(operation, error, true).into(),
        }
    }
}
