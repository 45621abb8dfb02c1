//! New jobs.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::QueueSql;
use crate::db::error::{DatabaseError, Operation};
use crate::db::model::{Model, acquire};
use crate::db::source::{Opened, Source};
use crate::db::statement::{Bind, Statement};
use crate::db::{Array, Backend};
use crate::row::find_or_create::{
    self as unique, FindOrCreate, Insert, UniqueKeySql, find_or_insert,
};
use crate::row::versioned::{write_many, write_new};
use crate::row::{FindOrCreateError, FoundOrCreated, InsertError};

/// How often a unique job is inserted and looked for: what meets it can be claimed and done in between, time after time.
const ROUNDS: u32 = 50;

/// How a new job gets into the table, for one database.
pub trait Enqueued<DB: Backend>: QueueSql<DB> {
    /// What is said to `at`.
    type Time: Send + Sync + 'static;
    /// Inserts one: what is given, the time or NULL, seconds.
    const ENQUEUE: &'static str;
    /// Whether what is given has the time, which negative seconds leave as it is.
    const RUN_AT_IS_GIVEN: bool;

    /// Binds the time.
    fn bind_at(at: &Option<Self::Time>, to: &mut impl Bind<DB>);
}

/// The same of a queue without a unique key.
pub trait EnqueueSql<DB: Backend>: Enqueued<DB> {
    /// The generated struct with what the caller gives.
    type New: Send + Sync;
    /// How many columns that is.
    const GIVEN: usize;
    /// Inserts many, in two parts if the rows stand in between: what is given for each and its number, then time and seconds.
    const ENQUEUE_MANY: [&'static str; 2];

    /// Binds what the caller gave as `$1…`.
    fn bind_new(new: &Self::New, to: &mut impl Bind<DB>);
    /// Binds what was given for many rows as an array per column, where statements take those.
    fn bind_many(_: &[&Self::New], _: &mut impl Bind<DB>) {}
}

/// A queue with a unique key, of which `FindOrCreate` knows the rest.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has a unique key, and does not derive `FindOrCreate`",
    label = "a job with a unique key is enqueued through `FindOrCreate`",
    note = "add it: `#[derive(FindOrCreate, ...)]`; it makes the struct of a new row, and finds the row that has the key"
)]
pub trait Keyed<DB: Backend, const N: usize> {
    /// The generated struct with what the caller gives.
    type New;
}

#[diagnostic::do_not_recommend]
impl<DB: Backend, const N: usize, T: UniqueKeySql<DB, N>> Keyed<DB, N> for T {
    type New = <T as FindOrCreate>::New;
}

/// When a new job is due.
struct When<T> {
    at: Option<T>,
    delay: Option<Duration>,
}

impl<T> Default for When<T> {
    fn default() -> Self {
        Self {
            at: None,
            delay: None,
        }
    }
}

impl<T> When<T> {
    fn bind<DB: Backend, Q: Enqueued<DB, Time = T>>(&self, to: &mut Statement<DB>) {
        Q::bind_at(&self.at, to);
        match self.delay {
            None if Q::RUN_AT_IS_GIVEN => to.bind_no_seconds(),
            delay => to.bind_seconds(delay.unwrap_or_default()),
        }
    }
}

macro_rules! when {
    () => {
        /// Due so long after now, by the clock of the database.
        pub fn delay(mut self, delay: Duration) -> Self {
            self.when = When {
                at: None,
                delay: Some(delay),
            };
            self
        }

        /// Due at this time.
        pub fn at(mut self, time: impl Into<T::Time>) -> Self {
            self.when = When {
                at: Some(time.into()),
                delay: None,
            };
            self
        }
    };
}

macro_rules! debug {
    ($name:ident, $bound:ident) => {
        impl<DB: Backend, T: $bound<DB>, A> std::fmt::Debug for $name<'_, DB, T, A> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

debug!(Enqueue, EnqueueSql);
debug!(EnqueueMany, EnqueueSql);

/// A job that is about to be enqueued; `.await` does it.
#[must_use = "nothing is enqueued until this is awaited"]
pub struct Enqueue<'c, DB: Backend, T: EnqueueSql<DB>, A> {
    db: A,
    new: T::New,
    when: When<T::Time>,
    lifetime: PhantomData<&'c ()>,
}

/// A job that is about to be enqueued.
pub fn enqueue<'c, DB, T, A>(db: A, new: T::New) -> Enqueue<'c, DB, T, A>
where
    DB: Backend,
    T: EnqueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    Enqueue {
        db,
        new,
        when: When::default(),
        lifetime: PhantomData,
    }
}

impl<DB: Backend, T: EnqueueSql<DB>, A> Enqueue<'_, DB, T, A> {
    when!();
}

impl<'c, DB, T, A> IntoFuture for Enqueue<'c, DB, T, A>
where
    DB: Backend,
    T: EnqueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    type Output = Result<T, InsertError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(T::observed::<DB, _>("enqueue", async move {
            let operation = || T::operation_on_many("enqueue");
            let make = || {
                let mut statement = Statement::literal(T::ENQUEUE);
                T::bind_new(&self.new, &mut statement);
                self.when.bind::<DB, T>(&mut statement);
                statement
            };
            let mut opened = acquire(self.db, &operation)
                .await
                .map_err(InsertError::Database)?;
            let row = write_new::<DB>(&make, &operation, &mut opened.link()).await?;
            read::<DB, T>(&row, &operation)
        }))
    }
}

fn read<DB: Backend, T: QueueSql<DB>>(
    row: &DB::Row,
    operation: &(dyn Fn() -> Operation + Sync),
) -> Result<T, InsertError> {
    (T::ROW)(row).map_err(|error| InsertError::Written(DatabaseError::new(operation(), error)))
}

/// Jobs that are about to be enqueued; `.await` does it.
#[must_use = "nothing is enqueued until this is awaited"]
pub struct EnqueueMany<'c, DB: Backend, T: EnqueueSql<DB>, A> {
    db: A,
    new: Vec<T::New>,
    when: When<T::Time>,
    lifetime: PhantomData<&'c ()>,
}

/// Jobs that are about to be enqueued.
pub fn enqueue_many<'c, DB, T, A>(
    db: A,
    new: impl IntoIterator<Item = T::New>,
) -> EnqueueMany<'c, DB, T, A>
where
    DB: Backend,
    T: EnqueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    EnqueueMany {
        db,
        new: new.into_iter().collect(),
        when: When::default(),
        lifetime: PhantomData,
    }
}

impl<DB: Backend, T: EnqueueSql<DB>, A> EnqueueMany<'_, DB, T, A> {
    when!();
}

/// Where statements take no arrays, their text has a place for each value: for up to twice as many rows, so that there are few texts.
fn insert_many<DB: Backend, T: EnqueueSql<DB>>(
    new: &[T::New],
    when: &When<T::Time>,
) -> Statement<DB> {
    let [head, tail] = T::ENQUEUE_MANY;
    if tail.is_empty() {
        let mut statement = Statement::literal(head);
        let rows: Vec<&T::New> = new.iter().collect();
        T::bind_many(&rows, &mut statement);
        let numbers = (0..).take(new.len()).collect();
        statement.bind_rows(new.len(), &[Array::Integers(numbers)]);
        when.bind::<DB, T>(&mut statement);
        return statement;
    }
    let mut statement = Statement::composed(head);
    let (rows, columns) = (new.len().next_power_of_two(), T::GIVEN + 1);
    statement.push_rows(rows, columns);
    statement.push(tail);
    for (number, new) in (0..).zip(new) {
        T::bind_new(new, &mut statement);
        statement.bind_i64(number);
    }
    for _ in new.len() * columns..rows * columns {
        statement.bind_null();
    }
    when.bind::<DB, T>(&mut statement);
    statement
}

impl<'c, DB, T, A> IntoFuture for EnqueueMany<'c, DB, T, A>
where
    DB: Backend,
    T: EnqueueSql<DB>,
    A: Source<'c, DB> + 'c,
{
    type Output = Result<Vec<T>, InsertError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(T::observed::<DB, _>("enqueue_many", async move {
            let Self { db, new, when, .. } = self;
            if new.is_empty() {
                return Ok(Vec::new());
            }
            let operation = || T::operation_on_many("enqueue_many");
            let make = || insert_many::<DB, T>(&new, &when);
            let mut opened = acquire(db, &operation)
                .await
                .map_err(InsertError::Database)?;
            let rows = write_many::<DB>(&make, &operation, &mut opened.link()).await?;
            rows.iter()
                .map(|row| read::<DB, T>(row, &operation))
                .collect()
        }))
    }
}

/// A job with a unique key that is about to be enqueued; `.await` does it.
#[must_use = "nothing is enqueued until this is awaited"]
pub struct EnqueueUnique<'c, DB: Backend, T: Enqueued<DB> + Keyed<DB, N>, A, const N: usize> {
    db: A,
    new: <T as Keyed<DB, N>>::New,
    when: When<T::Time>,
    lifetime: PhantomData<&'c ()>,
}

/// A job with a unique key that is about to be enqueued.
pub fn enqueue_unique<'c, DB, T, A, const N: usize>(
    db: A,
    new: <T as Keyed<DB, N>>::New,
) -> EnqueueUnique<'c, DB, T, A, N>
where
    DB: Backend,
    T: Enqueued<DB> + Keyed<DB, N>,
    A: Source<'c, DB> + 'c,
{
    EnqueueUnique {
        db,
        new,
        when: When::default(),
        lifetime: PhantomData,
    }
}

impl<DB: Backend, T: Enqueued<DB> + Keyed<DB, N>, A, const N: usize>
    EnqueueUnique<'_, DB, T, A, N>
{
    when!();
}

impl<DB: Backend, T: Enqueued<DB> + Keyed<DB, N>, A, const N: usize> std::fmt::Debug
    for EnqueueUnique<'_, DB, T, A, N>
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnqueueUnique").finish_non_exhaustive()
    }
}

impl<'c, DB, T, A, const N: usize> IntoFuture for EnqueueUnique<'c, DB, T, A, N>
where
    DB: Backend,
    T: Enqueued<DB> + UniqueKeySql<DB, N>,
    A: Source<'c, DB> + 'c,
{
    type Output = Result<FoundOrCreated<T>, FindOrCreateError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(<T as Model<unique::Derive<N>>>::observed::<DB, _>(
            "enqueue",
            async move {
                let make = || {
                    let mut statement = Statement::literal(T::ENQUEUE);
                    T::bind_new(&self.new, &mut statement);
                    self.when.bind::<DB, T>(&mut statement);
                    statement
                };
                let operation =
                    || <T as Model<unique::Derive<N>>>::operation("enqueue", &T::key_of(&self.new));
                let mut opened = acquire(self.db, &operation)
                    .await
                    .map_err(FindOrCreateError::Database)?;
                let plan = Insert {
                    method: "enqueue",
                    make: &make,
                    rounds: ROUNDS,
                    looks_first: false,
                };
                find_or_insert::<DB, N, T>(&self.new, plan, &mut opened.link()).await
            },
        ))
    }
}
