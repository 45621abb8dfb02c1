//! One statement and its parameters, and how it is run.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use sqlx::error::BoxDynError;
use sqlx::query::Query;
use sqlx::{
    Arguments, AssertSqlSafe, Connection, Decode, Either, Row, SqlSafeStr, SqlStr, Type, ValueRef,
};

use crate::db::atomic::{Reruns, in_transaction};
use crate::db::column::Column;
use crate::db::fault::Fault;
use crate::db::lanes::{Call, Cells as _, Sorted};
use crate::db::source::Link;
use crate::db::{Array, Backend};

/// A hundred years are for ever, and no database's clock overflows with them.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().min(3_155_760_000.0)
}

/// Where generated code puts the values of a statement.
pub trait Bind<DB: Backend> {
    /// Binds the value of the column at `index`; what the index counts is the caller's business.
    fn bind<T: Column<DB>>(&mut self, index: usize, value: &T);

    /// The same of JSON.
    fn bind_json<T: Column<DB> + Serialize>(&mut self, index: usize, value: &T) {
        self.bind(index, value);
    }
}

/// Which of those given the row is about: its last column says so, from 1.
pub(crate) fn number<DB: Backend>(row: &DB::Row) -> Result<usize, sqlx::Error> {
    let number = DB::get_i64(row, row.len().saturating_sub(1))?;
    let place = number.and_then(|number| usize::try_from(number).ok());
    Ok(place.unwrap_or_default().wrapping_sub(1))
}

/// Reads one column of a row that a write returned.
pub fn get<'r, R: Row, T>(row: &'r R, index: usize) -> Result<T, sqlx::Error>
where
    T: Decode<'r, R::Database> + Type<R::Database>,
    usize: sqlx::ColumnIndex<R>,
{
    row.try_get(index)
}

/// The same of a column that is not NULL: sqlx reads NULL as `0.0` and `""` on SQLite, which stores NaN as NULL.
pub fn get_some<'r, R: Row, T>(row: &'r R, index: usize) -> Result<T, sqlx::Error>
where
    T: Decode<'r, R::Database> + Type<R::Database>,
    usize: sqlx::ColumnIndex<R>,
{
    if row.try_get_raw(index)?.is_null() {
        return Err(sqlx::Error::ColumnDecode {
            index: index.to_string(),
            source: Box::new(sqlx::error::UnexpectedNullError),
        });
    }
    get(row, index)
}

/// How a statement writes many rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// They are locked as the database meets them. It waits for a lock for 20 milliseconds, before the server looks for deadlocks, and fails then.
    AtOnce,
    /// All of them are locked in the order of their keys.
    InOrder,
}

impl Way {
    /// The one to begin with. In a transaction a timeout would abort it, and the setting last; on a connection of the caller, he may have begun one
    /// by hand.
    pub(crate) fn first<DB: Backend>(link: &Link<'_, DB>) -> Self {
        match in_transaction::<DB>(link) || link.is_borrowed() {
            true => Self::InOrder,
            false => Self::AtOnce,
        }
    }

    /// Whether it failed because another transaction holds a lock, for which the other way waits.
    pub(crate) fn has_waited(self, error: &sqlx::Error) -> bool {
        self == Self::AtOnce && Fault::of(error) == Fault::LockTimeout
    }

    /// Its text, of those of both; nothing, where the database has none.
    pub(crate) const fn of(self, texts: Option<[&'static str; 2]>) -> &'static str {
        match (self, texts) {
            (Self::AtOnce, Some([at_once, _])) => at_once,
            (Self::InOrder, Some([_, in_order])) => in_order,
            (_, None) => "",
        }
    }
}

/// The rows of a statement that is about one row.
pub(crate) enum Fetched<R> {
    None,
    One(R),
    /// What the model calls a key is not unique in the database.
    Several,
}

impl<R> Fetched<R> {
    fn take(&mut self, row: R) {
        *self = match self {
            Self::None => Self::One(row),
            Self::One(_) | Self::Several => Self::Several,
        };
    }
}

/// Whether a statement that failed before it was run can be run again: in a transaction that is aborted.
fn can_run_again<DB: Backend>(connection: &DB::Connection) -> bool {
    DB::STATEMENTS_GO_STALE && !in_transaction::<DB>(connection)
}

/// A statement with its values.
///
/// Its text is made of `&'static str` pieces, of `$n`, of `?` and of `"rowlock_cN"`, nothing else: this is the one place where SQL is put
/// together at run time, and what makes it safe is that no other string gets in. (`sqlx::QueryBuilder` would do the
/// same, but panics when a value cannot be encoded.)
pub(crate) struct Statement<DB: Backend> {
    text: Text,
    is_prepared: bool,
    arguments: DB::Arguments,
    error: Option<BoxDynError>,
}

#[derive(Clone)]
enum Text {
    Literal(&'static str),
    Composed(String),
}

impl Text {
    fn composed(head: &'static str) -> Self {
        let mut text = String::with_capacity(512);
        text.push_str(head);
        Self::Composed(text)
    }
}

impl<DB: Backend> Statement<DB> {
    /// A literal, prepared once per connection.
    pub(crate) fn literal(sql: &'static str) -> Self {
        Self::new(Text::Literal(sql))
    }

    /// A statement whose text depends on the call, and which is prepared once per connection all the same.
    pub(crate) fn composed(head: &'static str) -> Self {
        Self::new(Text::composed(head))
    }

    /// Is prepared anew each time.
    pub(crate) fn unprepared(mut self) -> Self {
        self.is_prepared = false;
        self
    }

    fn new(text: Text) -> Self {
        let mut arguments = DB::Arguments::default();
        // Room for the values of most statements: one allocation instead of one for each time that a vector grows.
        arguments.reserve(8, 128);
        Self {
            text,
            is_prepared: true,
            arguments,
            error: None,
        }
    }

    pub(crate) fn push(&mut self, sql: &'static str) {
        if let Text::Composed(text) = &mut self.text {
            text.push_str(sql);
        }
    }

    /// Writes `$n` for the value that is bound next.
    pub(crate) fn push_parameter(&mut self) {
        let next = self.arguments.len() + 1;
        if let Text::Composed(text) = &mut self.text {
            // Writing to a string cannot fail.
            let _ = write!(text, "${next}");
        }
    }

    /// Writes `$n` for the value that was bound last, or so many before it.
    pub(crate) fn push_bound(&mut self, after: usize) {
        let number = self.arguments.len().saturating_sub(after);
        if let Text::Composed(text) = &mut self.text {
            let _ = write!(text, "${number}");
        }
    }

    /// Writes the name that a column has beside the keys of many rows.
    pub(crate) fn push_column(&mut self, column: usize) {
        if let Text::Composed(text) = &mut self.text {
            let _ = write!(text, "\"rowlock_c{column}\"");
        }
    }

    /// Writes `(?, ?), (?, ?)` for the values of so many rows, which are bound before all others.
    pub(crate) fn push_rows(&mut self, rows: usize, columns: usize) {
        self.arguments.reserve(rows * columns, 0);
        if let Text::Composed(text) = &mut self.text {
            let row = format!("({})", ["?"].repeat(columns).join(", "));
            text.reserve(rows * (row.len() + 2));
            for number in 0..rows {
                text.push_str(if number == 0 { "" } else { ", " });
                text.push_str(&row);
            }
        }
    }

    pub(crate) fn bind_null(&mut self) {
        let bound = DB::bind_null(&mut self.arguments);
        self.note(bound);
    }

    pub(crate) fn bind_i64(&mut self, value: i64) {
        let bound = DB::bind_i64(&mut self.arguments, value);
        self.note(bound);
    }

    /// A number of seconds, as the databases add it to their clock.
    pub(crate) fn bind_seconds(&mut self, duration: Duration) {
        let bound = DB::bind_f64(&mut self.arguments, seconds(duration));
        self.note(bound);
    }

    /// In the place of a number of seconds: that there is none.
    pub(crate) fn bind_no_seconds(&mut self) {
        let bound = DB::bind_f64(&mut self.arguments, -1.0);
        self.note(bound);
    }

    /// Binds so many rows, after their keys and before anything else, with what is in these columns beside them.
    pub(crate) fn bind_rows(&mut self, count: usize, columns: &[Array]) {
        let bound = DB::bind_rows(&mut self.arguments, count, columns);
        self.note(bound);
    }

    /// Binds these calls, each with what is in these columns beside it; or of each the key alone.
    pub(crate) fn bind_cells(&mut self, calls: &[&DB::Cells], keys_only: bool, beside: &[Array]) {
        let bound = DB::Cells::bind(calls, keys_only, beside, &mut self.arguments);
        self.note(bound);
    }

    /// Binds the rows at these places, of so many.
    pub(crate) fn bind_places(&mut self, cells: &DB::Cells, rows: usize, places: &[usize]) {
        let bound = cells.bind_places(rows, places, &mut self.arguments);
        self.note(bound);
    }

    /// Binds the key of a call.
    pub(crate) fn bind_key(&mut self, call: &DB::Cells) {
        let bound = call.bind_key(&mut self.arguments);
        self.note(bound);
    }

    /// The same of calls.
    pub(crate) fn bind_calls(&mut self, calls: &[&Call<DB>]) {
        let cells: Vec<_> = calls.iter().map(|call| call.cells()).collect();
        self.bind_cells(&cells, false, &[]);
    }

    pub(crate) fn bind_text(&mut self, value: &str) {
        let bound = DB::bind_text(&mut self.arguments, value);
        self.note(bound);
    }

    pub(crate) fn bind_raw(&mut self, value: &DB::Raw) {
        let bound = DB::bind_raw(&mut self.arguments, value);
        self.note(bound);
    }

    /// Stands for so many values, where the text alone counts.
    #[cfg(feature = "schema")]
    pub(crate) fn bind_nulls(&mut self, count: usize) {
        for _ in 0..count {
            self.bind_null();
        }
    }

    /// The text alone.
    #[cfg(feature = "schema")]
    pub(crate) fn into_text(self) -> String {
        match self.text {
            Text::Literal(sql) => sql.to_owned(),
            Text::Composed(sql) => sql,
        }
    }

    fn note(&mut self, bound: Result<(), BoxDynError>) {
        if let Err(error) = bound
            && self.error.is_none()
        {
            self.error = Some(error);
        }
    }

    fn into_query<'q>(self) -> Result<Query<'q, DB, DB::Arguments>, sqlx::Error> {
        if let Some(error) = self.error {
            return Err(sqlx::Error::Encode(error));
        }
        // sqlx would say so with an error that can as well come from a connection that broke.
        if self.arguments.len() > DB::MAX_PARAMETERS {
            return Err(sqlx::Error::Encode("too many parameters".into()));
        }
        let sql: SqlStr = match self.text {
            Text::Literal(sql) => sql.into_sql_str(),
            Text::Composed(sql) => AssertSqlSafe(sql).into_sql_str(),
        };
        Ok(sqlx::query_with(sql, self.arguments).persistent(self.is_prepared))
    }

    /// Runs to the end.
    ///
    /// To the end, because an error can follow the first row: a deferred constraint, or SQLITE_BUSY when SQLite
    /// commits. sqlx's `fetch_one` stops reading before and would return a row that was never committed.
    ///
    /// After ALTER COLUMN TYPE, PostgreSQL refuses what was prepared before for as long as it is prepared. So it is
    /// forgotten, and outside a transaction the statement, which has written nothing, is run once more. Inside one the
    /// transaction is aborted: whoever began it can run it again.
    async fn run(
        self,
        connection: &mut Link<'_, DB>,
        each: impl FnMut(Either<DB::QueryResult, DB::Row>) + Send,
    ) -> Result<(), sqlx::Error> {
        let again = can_run_again::<DB>(connection).then(|| self.copy());
        self.run_or(|| again, connection, each).await
    }

    /// The same; `again` makes it anew.
    async fn run_or(
        self,
        again: impl FnOnce() -> Option<Self> + Send,
        connection: &mut Link<'_, DB>,
        mut each: impl FnMut(Either<DB::QueryResult, DB::Row>) + Send,
    ) -> Result<(), sqlx::Error> {
        let can_run_again = can_run_again::<DB>(connection);
        let stale = match self.run_once(connection, &mut each).await {
            Err(error) if DB::STATEMENTS_GO_STALE && Fault::of(&error) == Fault::StaleStatement => {
                error
            }
            outcome => return outcome,
        };
        if connection.clear_cached_statements().await.is_err() || !can_run_again {
            return Err(stale);
        }
        match again() {
            None => Err(stale),
            Some(again) => match again.run_once(connection, &mut each).await {
                // A transaction that sqlx did not begin.
                Err(error) if Fault::of(&error) == Fault::TransactionAborted => Err(stale),
                outcome => outcome,
            },
        }
    }

    async fn run_once(
        self,
        connection: &mut Link<'_, DB>,
        each: &mut (impl FnMut(Either<DB::QueryResult, DB::Row>) + Send),
    ) -> Result<(), sqlx::Error> {
        connection.run(self.into_query()?, each).await
    }

    pub(crate) fn copy(&self) -> Self {
        Self {
            text: self.text.clone(),
            is_prepared: self.is_prepared,
            arguments: self.arguments.clone(),
            error: self.error.as_ref().map(|error| error.to_string().into()),
        }
    }

    /// Returns the row, if there is exactly one.
    pub(crate) async fn fetch_one(
        self,
        connection: &mut Link<'_, DB>,
    ) -> Result<Fetched<DB::Row>, sqlx::Error> {
        let mut fetched = Fetched::None;
        self.fetch_each(connection, |row| fetched.take(row)).await?;
        Ok(fetched)
    }

    pub(crate) async fn fetch_all(
        self,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<DB::Row>, sqlx::Error> {
        let mut rows = Vec::new();
        self.fetch_each(connection, |row| rows.push(row)).await?;
        Ok(rows)
    }

    /// Yields each row as it arrives, while the server makes the next one.
    async fn fetch_each(
        self,
        connection: &mut Link<'_, DB>,
        mut each: impl FnMut(DB::Row) + Send,
    ) -> Result<(), sqlx::Error> {
        let each = |result: Either<_, DB::Row>| result.right().into_iter().for_each(&mut each);
        self.run(connection, each).await
    }

    /// Returns what `read` makes of each row, in the place of the one of `count` given that it is about: see [`number`].
    pub(crate) async fn fetch_numbered<R: Send>(
        self,
        count: usize,
        connection: &mut Link<'_, DB>,
        read: impl Fn(DB::Row) -> R + Send + Sync,
    ) -> Result<Vec<Fetched<R>>, sqlx::Error> {
        let mut unnumbered = Ok(());
        let place = |row: &DB::Row| {
            let number = number::<DB>(row).map_err(|error| unnumbered = Err(error));
            number.ok()
        };
        let fetched = self.fetch_placed(count, place, connection, read).await?;
        unnumbered.map(|()| fetched)
    }

    /// The same of rows that come with their keys; nothing, if one has none of those given: the type or the collation of a column makes other
    /// keys equal.
    pub(crate) async fn fetch_told<R: Send>(
        self,
        given: &Sorted<'_, DB>,
        connection: &mut Link<'_, DB>,
        read: impl Fn(DB::Row) -> R + Send + Sync,
    ) -> Result<Option<Vec<Fetched<R>>>, sqlx::Error> {
        let (mut next, mut all_are_told) = (0.., true);
        let place = |row: &DB::Row| {
            let place = given.place_of(row, next.next()?);
            all_are_told &= place.is_some();
            place
        };
        let fetched = self
            .fetch_placed(given.len(), place, connection, read)
            .await?;
        Ok(all_are_told.then_some(fetched))
    }

    /// The same, if `place` knows which one each is about.
    async fn fetch_placed<R: Send>(
        self,
        count: usize,
        mut place: impl FnMut(&DB::Row) -> Option<usize> + Send,
        connection: &mut Link<'_, DB>,
        read: impl Fn(DB::Row) -> R + Send + Sync,
    ) -> Result<Vec<Fetched<R>>, sqlx::Error> {
        let mut fetched = Vec::new();
        fetched.resize_with(count, || Fetched::None);
        let each = |row| {
            if let Some(place) = place(&row).and_then(|place| fetched.get_mut(place)) {
                place.take(read(row));
            }
        };
        self.fetch_each(connection, each).await?;
        Ok(fetched)
    }

    /// Returns the number of affected rows.
    pub(crate) async fn execute(self, connection: &mut Link<'_, DB>) -> Result<u64, sqlx::Error> {
        let mut affected = 0;
        let each = |result| {
            if let Either::Left(done) = result {
                affected += DB::rows_affected(&done);
            }
        };
        self.run(connection, each).await?;
        Ok(affected)
    }
}

/// Runs a write that returns a row, which `make` makes anew for each of its [`Reruns`].
pub(crate) async fn write_one<DB: Backend>(
    make: &(dyn Fn() -> Statement<DB> + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<Fetched<DB::Row>, sqlx::Error> {
    let mut reruns = Reruns::new(in_transaction::<DB>(connection));
    let mut schema_is_new = false;
    loop {
        let mut fetched = Fetched::None;
        let each = |result: Either<_, DB::Row>| {
            result.right().into_iter().for_each(|row| fetched.take(row))
        };
        let ran = make().run_or(|| Some(make()), connection, each).await;
        let outcome = ran.map(|()| fetched);
        let Err(error) = &outcome else { return outcome };
        if !schema_is_new && knew_an_old_schema(error, connection).await {
            schema_is_new = true;
        } else if !reruns.after(Fault::of(error), connection).await {
            return outcome;
        }
    }
}

/// Whether a statement failed before it was run, and can be another one now: an upsert whose index another connection has made since this
/// one last looked.
pub(crate) async fn knew_an_old_schema<DB: Backend>(
    error: &sqlx::Error,
    connection: &mut Link<'_, DB>,
) -> bool {
    Fault::of(error) == Fault::Schema && DB::read_schema(connection).await
}

/// The same of a write that returns many rows.
pub(crate) async fn write_all<DB: Backend>(
    make: &(dyn Fn() -> Statement<DB> + Sync),
    connection: &mut Link<'_, DB>,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    let mut reruns = Reruns::new(in_transaction::<DB>(connection));
    loop {
        let mut rows = Vec::new();
        let each = |result: Either<_, DB::Row>| rows.extend(result.right());
        let ran = make().run_or(|| Some(make()), connection, each).await;
        let outcome = ran.map(|()| rows);
        let fault = outcome.as_ref().err().map(Fault::of);
        match fault {
            Some(fault) if reruns.after(fault, connection).await => {}
            _ => return outcome,
        }
    }
}

impl<DB: Backend> Bind<DB> for Statement<DB> {
    fn bind<T: Column<DB>>(&mut self, _index: usize, value: &T) {
        let bound = self.arguments.add(value);
        self.note(bound);
    }
}

/// Binds values that columns are compared with, as the type of each column compares them.
pub(crate) struct Compared<'s, DB: Backend>(pub(crate) &'s mut Statement<DB>);

impl<DB: Backend> Bind<DB> for Compared<'_, DB> {
    fn bind<T: Column<DB>>(&mut self, _index: usize, value: &T) {
        let bound = DB::bind_compared(&mut self.0.arguments, value);
        self.0.note(bound);
    }
}
