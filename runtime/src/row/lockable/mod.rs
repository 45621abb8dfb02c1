//! Row locks: rows that nobody else can change until the transaction ends.

mod error;
mod locked;
mod strength;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::Row;

pub use self::error::{LockCheckedError, LockError};
use self::locked::Transaction;
pub use self::locked::{Locked, Shared};
pub use self::strength::{Exclusive, NoWait, Share, SkipLocked, Wait};
use self::strength::{NotDecided, NotShared, Patience, Strength};
use crate::db::Backend;
use crate::db::column::Read;
use crate::db::condition::{Condition, Expression, Names};
use crate::db::lock_timeout::LockTimeout;
use crate::db::model::Model;
use crate::db::source::Link;
use crate::db::statement::{Bind, Compared, Fetched, Statement};
use crate::db::stored;
use crate::row::versioned::Conflict;
use crate::tx::InTransaction;

/// The derive, for [`Model`].
#[derive(Debug)]
pub struct Derive;

/// What `#[derive(Lockable)]` knows about a model beyond that, the same for every database.
pub trait Lockable: for<'k> Model<Derive, Key<'k>: PartialEq> {
    /// The key columns as the row has them.
    type OwnedKey: Send + Sync + 'static;

    /// The key of this row.
    fn key(&self) -> Self::Key<'_>;
    /// A copy of it.
    fn owned_key(&self) -> Self::OwnedKey;
    /// Whether this is the key of this row.
    fn has_key(&self, key: &Self::OwnedKey) -> bool;
}

/// The statements of a model for one database.
pub trait LockableSql<DB: Backend>: Lockable {
    /// Reads all columns.
    const ROW: Read<DB, Self>;
    /// Reads one row by its key; the lock clause is put behind it. Where there are row locks, a number follows the columns: when the
    /// transaction began, negative if it reads from a snapshot.
    const SELECT: &'static str;
    /// Reads many rows in key order; the lock clause is put behind it. After each row, and the same number, comes that of its key, from 1.
    const SELECT_MANY: &'static str;
    /// Reads the rows that meet a condition in key order, with the same number; the condition stands in between.
    const SELECT_WHERE: [&'static str; 2];
    /// Takes the database's write lock, where there are no row locks.
    const WRITE_LOCK: Option<&'static str>;
    /// Writes all columns of a row that is locked: the columns, the key, the version, the fence, and where there are row locks, when
    /// the transaction began. There, and without a version, it returns behind the columns 1 if the row is as it was before.
    const UPDATE: &'static str;

    /// Binds the key as `$n…`.
    fn bind_key(key: &Self::Key<'_>, to: &mut impl Bind<DB>);
    /// Binds many keys, before [`Backend::bind_rows`]: one after the other, or an array per column.
    fn bind_keys(keys: &[&Self::Key<'_>], to: &mut impl Bind<DB>) {
        for key in keys {
            Self::bind_key(key, to);
        }
    }
    /// Binds the columns that `UPDATE` writes.
    fn bind_columns(&self, to: &mut impl Bind<DB>);
    /// Takes over what the database changed.
    fn read_back(&mut self, row: &DB::Row) -> Result<(), sqlx::Error>;
}

/// A database with locks per row.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no row locks: rows can be neither shared nor skipped",
    label = "needs a database that locks rows",
    note = "a write transaction of SQLite locks the whole database; use `lock` without this option"
)]
pub trait RowLocks: Backend {}
#[cfg(feature = "postgres")]
impl RowLocks for sqlx::Postgres {}

/// Says what a lock is of without holding it.
type Kind<T, G, W> = PhantomData<fn() -> (T, G, W)>;

/// The lock that was asked for; `.await` takes it.
#[must_use = "a lock is taken when it is awaited"]
pub struct Lock<'t, DB: Backend, T, Q, G = Exclusive, W = Wait> {
    link: Link<'t, DB>,
    scope: Option<u64>,
    which: Q,
    no_key: bool,
    only_itself: bool,
    timeout: Option<Duration>,
    kind: Kind<T, G, W>,
}

impl<DB: Backend, T, Q, G, W> fmt::Debug for Lock<'_, DB, T, Q, G, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

/// One row, for [`Lock`].
pub struct One<'k, T: Lockable>(T::Key<'k>);
/// Many rows, for [`Lock`].
pub struct Many<'k, T: Lockable>(Vec<T::Key<'k>>);

/// The rows that meet a condition, for [`Lock`].
pub struct Matching<DB: Backend>(Statement<DB>);

/// Locks one row. Called by the generated `lock`.
pub fn lock<'t, DB: Backend, T: Lockable>(
    tx: impl InTransaction<'t, Database = DB>,
    key: T::Key<'_>,
) -> Lock<'t, DB, T, One<'_, T>> {
    start(tx, One(key))
}

/// Locks many rows. Called by the generated `lock_many`.
pub fn lock_many<'t, 'k, DB: Backend, T: Lockable>(
    tx: impl InTransaction<'t, Database = DB>,
    keys: impl IntoIterator<Item = T::Key<'k>>,
) -> Lock<'t, DB, T, Many<'k, T>> {
    start(tx, Many(keys.into_iter().collect()))
}

/// Locks the rows that meet a condition. Called by the generated `lock_where`.
pub fn lock_where<'t, DB: Backend, T: LockableSql<DB> + Names<DB>>(
    tx: impl InTransaction<'t, Database = DB>,
    condition: Condition<T, impl Expression<DB>>,
) -> Lock<'t, DB, T, Matching<DB>> {
    let [head, tail] = T::SELECT_WHERE;
    let mut statement = Statement::composed(head);
    condition.write(&mut statement);
    statement.push(tail);
    start(tx, Matching(statement))
}

fn start<'t, DB: Backend, T, Q>(
    tx: impl InTransaction<'t, Database = DB>,
    which: Q,
) -> Lock<'t, DB, T, Q> {
    let scope = tx.scope();
    Lock {
        link: tx.link(),
        scope,
        which,
        no_key: false,
        only_itself: false,
        timeout: None,
        kind: PhantomData,
    }
}

impl<'t, DB: Backend, T, Q, G, W> Lock<'t, DB, T, Q, G, W> {
    fn into_kind<G2, W2>(self) -> Lock<'t, DB, T, Q, G2, W2> {
        Lock {
            link: self.link,
            scope: self.scope,
            which: self.which,
            no_key: self.no_key,
            only_itself: self.only_itself,
            timeout: self.timeout,
            kind: PhantomData,
        }
    }

    /// How long to wait for a lock that somebody holds, in whole milliseconds, at least one. After that it is
    /// [`LockError::NotAvailable`].
    ///
    /// Two more round trips on PostgreSQL, which set `lock_timeout` for the one statement; a timeout for the whole
    /// transaction costs none (`TransactionBuilder::lock_timeout`). On SQLite, the busy timeout.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The lock is to guard the locked row and nothing else, so it may be taken in REPEATABLE READ and SERIALIZABLE, too.
    ///
    /// There the transaction reads all other rows as they were before its first statement, hence before the lock: a sum over the rows that
    /// refer to the locked one, say, can be old. Without this option that is [`LockError::FixedSnapshot`]. The locked row itself is the
    /// newest one at every level, or the lock is [`LockError::Serialization`]. A row that was created since, or that has come to meet the
    /// condition of `lock_where`, is none: `NotFound`, or not among the locked ones.
    pub fn only_itself(mut self) -> Self {
        self.only_itself = true;
        self
    }

    /// FOR NO KEY UPDATE: others can still insert rows that refer to this one. For changes that leave the key alone.
    pub fn no_key(mut self) -> Self
    where
        G: NotShared,
    {
        self.no_key = true;
        self
    }

    /// FOR SHARE: others can share the lock, nobody can change the row.
    pub fn share(self) -> Lock<'t, DB, T, Q, Share, W>
    where
        DB: RowLocks,
        G: NotShared,
    {
        self.into_kind()
    }

    /// NOWAIT: a row that somebody holds is [`LockError::NotAvailable`] at once.
    ///
    /// On PostgreSQL the transaction is then aborted like after any error; to go on with it, take the lock inside a savepoint.
    pub fn nowait(self) -> Lock<'t, DB, T, Q, G, NoWait>
    where
        W: NotDecided,
    {
        self.into_kind()
    }

    /// SKIP LOCKED: a row that somebody holds is left out. `lock` yields `None` for it, and still an error for a row that
    /// does not exist.
    pub fn skip_locked(self) -> Lock<'t, DB, T, Q, G, SkipLocked>
    where
        DB: RowLocks,
        W: NotDecided,
    {
        self.into_kind()
    }
}

impl<'t, 'k: 't, DB, T, G, W> IntoFuture for Lock<'t, DB, T, One<'k, T>, G, W>
where
    DB: Backend,
    T: LockableSql<DB>,
    G: Strength,
    W: Patience,
{
    type Output = Result<W::Outcome<G::Guard<T>>, LockError>;
    type IntoFuture = BoxFuture<'t, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(T::observed::<DB, _>("lock", async move {
            let Lock {
                mut link,
                scope,
                which: One(key),
                no_key,
                only_itself,
                timeout,
                ..
            } = self;
            let operation = || T::operation("lock", &key);
            let limited = timeout.is_some() || !W::CLAUSE.is_empty();
            let failed = |error| LockError::new(operation(), error, limited);
            if !link.is_in_transaction().await.map_err(failed)? {
                return Err(LockError::NotInTransaction(operation()));
            }
            let mut waiting = LockTimeout::<DB>::set(link, timeout, W::CLAUSE)
                .await
                .map_err(failed)?;
            let fetched = select::<DB, T, G, W>(&mut waiting.link, &key, no_key).await;
            waiting.restore(fetched.is_ok()).await.map_err(failed)?;
            match fetched.map_err(failed)? {
                Fetched::One(row) => {
                    let (began, snapshot) = began::<DB, T>(&row, 0).map_err(failed)?;
                    if snapshot && !only_itself {
                        return Err(LockError::FixedSnapshot(operation()));
                    }
                    let transaction = Transaction { scope, began };
                    let row = (T::ROW)(&row).map_err(failed)?;
                    return Ok(W::locked(G::guard(row, transaction)));
                }
                Fetched::Several => return Err(LockError::NotUnique(operation())),
                Fetched::None => {}
            }
            if !only_itself && reads_snapshot(&mut waiting.link).await.map_err(failed)? {
                return Err(LockError::FixedSnapshot(operation()));
            }
            // Skipped, or not there at all? A plain read tells.
            if let Some(skipped) = W::skipped() {
                let mut statement = Statement::literal(T::SELECT);
                T::bind_key(&key, &mut Compared(&mut statement));
                let there = statement
                    .fetch_all(&mut waiting.link)
                    .await
                    .map_err(failed)?;
                if !there.is_empty() {
                    return Ok(skipped);
                }
            }
            Err(LockError::NotFound(operation()))
        }))
    }
}

/// When the transaction began, and whether it reads other rows from a snapshot; `behind` columns follow the one that says so.
fn began<DB: Backend, T: LockableSql<DB>>(
    row: &DB::Row,
    behind: usize,
) -> Result<(Option<i64>, bool), sqlx::Error> {
    // Without row locks, who has the lock reads the newest.
    if T::WRITE_LOCK.is_some() {
        return Ok((None, false));
    }
    let began = DB::get_i64(row, row.len().saturating_sub(1 + behind))?;
    Ok((began.map(i64::abs), began < Some(0)))
}

/// Whether the transaction reads from a snapshot. Asked where no row says so, which the snapshot may be too old for.
async fn reads_snapshot<DB: Backend>(connection: &mut Link<'_, DB>) -> Result<bool, sqlx::Error> {
    let Some(sql) = DB::READS_SNAPSHOT else {
        return Ok(false);
    };
    let rows = Statement::<DB>::literal(sql).fetch_all(connection).await?;
    Ok(!rows.is_empty())
}

async fn select<DB: Backend, T: LockableSql<DB>, G: Strength, W: Patience>(
    connection: &mut Link<'_, DB>,
    key: &T::Key<'_>,
    no_key: bool,
) -> Result<Fetched<DB::Row>, sqlx::Error> {
    let mut statement = Statement::composed(T::SELECT);
    T::bind_key(key, &mut Compared(&mut statement));
    if let Some(write_lock) = T::WRITE_LOCK {
        connection.plain(write_lock).await?;
    } else {
        statement.push(G::clause(no_key));
        statement.push(W::CLAUSE);
    }
    statement.fetch_one(connection).await
}

impl<'t, 'k: 't, DB, T, G, W> IntoFuture for Lock<'t, DB, T, Many<'k, T>, G, W>
where
    DB: Backend,
    T: LockableSql<DB>,
    G: Strength,
    W: Patience,
{
    type Output = Result<Vec<G::Guard<T>>, LockError>;
    type IntoFuture = BoxFuture<'t, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(T::observed::<DB, _>("lock_many", async move {
            let Lock {
                mut link,
                scope,
                which: Many(keys),
                no_key,
                only_itself,
                timeout,
                ..
            } = self;
            let limited = timeout.is_some() || !W::CLAUSE.is_empty();
            let failed = |error| LockError::new(T::operation_on_many("lock_many"), error, limited);
            if !link.is_in_transaction().await.map_err(failed)? {
                return Err(LockError::NotInTransaction(T::operation_on_many(
                    "lock_many",
                )));
            }
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let mut waiting = LockTimeout::<DB>::set(link, timeout, W::CLAUSE)
                .await
                .map_err(failed)?;
            let rows = select_many::<DB, T, G, W>(&mut waiting.link, &keys, no_key).await;
            waiting.restore(rows.is_ok()).await.map_err(failed)?;
            let rows = rows.map_err(failed)?;
            if rows.is_empty()
                && !only_itself
                && reads_snapshot(&mut waiting.link).await.map_err(failed)?
            {
                return Err(LockError::FixedSnapshot(T::operation_on_many("lock_many")));
            }
            let operation = |key| T::operation("lock_many", key);
            let mut found = vec![false; keys.len()];
            let mut transaction = Transaction { scope, began: None };
            let mut locked: Vec<T> = Vec::with_capacity(keys.len());
            for row in &rows {
                let (began, snapshot) = began::<DB, T>(row, 1).map_err(failed)?;
                transaction.began = began;
                if snapshot && !only_itself {
                    return Err(LockError::FixedSnapshot(T::operation_on_many("lock_many")));
                }
                // A number from 1 for each row, or the database is not one that rowlock knows.
                let number = DB::get_i64(row, row.len().saturating_sub(1)).map_err(failed)?;
                let place = number.and_then(|number| usize::try_from(number - 1).ok());
                if let Some(place) = place.filter(|place| *place < keys.len()) {
                    if found[place] {
                        return Err(LockError::NotUnique(operation(&keys[place])));
                    }
                    found[place] = true;
                }
                let row = (T::ROW)(row).map_err(failed)?;
                // The same row again: it was given twice, or in two ways that the database considers equal.
                if locked.last().is_none_or(|last| last.key() != row.key()) {
                    locked.push(row);
                }
            }
            let missing = found.iter().zip(&keys).find(|(found, _)| !**found);
            if let Some((_, key)) = missing.filter(|_| !W::SKIPS) {
                return Err(LockError::NotFound(operation(key)));
            }
            let guard = |row| G::guard(row, transaction);
            Ok(locked.into_iter().map(guard).collect())
        }))
    }
}

impl<'t, DB, T, G, W> IntoFuture for Lock<'t, DB, T, Matching<DB>, G, W>
where
    DB: Backend,
    T: LockableSql<DB>,
    G: Strength,
    W: Patience,
{
    type Output = Result<Vec<G::Guard<T>>, LockError>;
    type IntoFuture = BoxFuture<'t, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(T::observed::<DB, _>("lock_where", async move {
            let Lock {
                mut link,
                scope,
                which: Matching(mut statement),
                no_key,
                only_itself,
                timeout,
                ..
            } = self;
            let operation = || T::operation_on_many("lock_where");
            let limited = timeout.is_some() || !W::CLAUSE.is_empty();
            let failed = |error| LockError::new(operation(), error, limited);
            if !link.is_in_transaction().await.map_err(failed)? {
                return Err(LockError::NotInTransaction(operation()));
            }
            let mut waiting = LockTimeout::<DB>::set(link, timeout, W::CLAUSE)
                .await
                .map_err(failed)?;
            let rows = match T::WRITE_LOCK {
                Some(write_lock) => match waiting.link.plain(write_lock).await {
                    Ok(_) => statement.fetch_all(&mut waiting.link).await,
                    Err(error) => Err(error),
                },
                None => {
                    statement.push(G::clause(no_key));
                    statement.push(W::CLAUSE);
                    statement.fetch_all(&mut waiting.link).await
                }
            };
            waiting.restore(rows.is_ok()).await.map_err(failed)?;
            let rows = rows.map_err(failed)?;
            if rows.is_empty()
                && !only_itself
                && reads_snapshot(&mut waiting.link).await.map_err(failed)?
            {
                return Err(LockError::FixedSnapshot(operation()));
            }
            let mut locked = Vec::new();
            for row in rows {
                let (began, snapshot) = began::<DB, T>(&row, 0).map_err(failed)?;
                if snapshot && !only_itself {
                    return Err(LockError::FixedSnapshot(operation()));
                }
                let transaction = Transaction { scope, began };
                locked.push(G::guard((T::ROW)(&row).map_err(failed)?, transaction));
            }
            Ok(locked)
        }))
    }
}

async fn select_many<DB: Backend, T: LockableSql<DB>, G: Strength, W: Patience>(
    connection: &mut Link<'_, DB>,
    keys: &[T::Key<'_>],
    no_key: bool,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    let mut statement = Statement::composed(T::SELECT_MANY);
    let keys: Vec<_> = keys.iter().collect();
    T::bind_keys(&keys, &mut statement);
    statement.bind_rows(keys.len(), &[]);
    if let Some(write_lock) = T::WRITE_LOCK {
        connection.plain(write_lock).await?;
    } else {
        statement.push(G::clause(no_key));
        statement.push(W::CLAUSE);
    }
    statement.fetch_all(connection).await
}

/// Locks the row of a copy that was loaded before, if the copy is still current. `copy`: `Clone`, which only this asks for.
pub fn lock_checked<'t, DB: Backend, T: LockableSql<DB>>(
    row: &T,
    copy: fn(&T) -> T,
    tx: impl InTransaction<'t, Database = DB>,
) -> impl Future<Output = Result<Locked<T>, LockCheckedError<T>>> + Send {
    let scope = tx.scope();
    let mut connection = tx.link();
    T::observed::<DB, _>("lock_checked", async move {
        let operation = || T::operation("lock_checked", &row.key());
        let failed = |error| LockCheckedError::Lock(LockError::new(operation(), error, false));
        if !connection.is_in_transaction().await.map_err(failed)? {
            let error = LockError::NotInTransaction(operation());
            return Err(LockCheckedError::Lock(error));
        }
        let key = row.key();
        let fetched = select::<DB, T, Exclusive, Wait>(&mut connection, &key, false).await;
        let (current, began) = match fetched.map_err(failed)? {
            Fetched::One(row) => {
                let (began, snapshot) = began::<DB, T>(&row, 0).map_err(failed)?;
                if snapshot {
                    return Err(LockCheckedError::Lock(
                        LockError::FixedSnapshot(operation()),
                    ));
                }
                ((T::ROW)(&row).map_err(failed)?, began)
            }
            Fetched::None => {
                let snapshot = reads_snapshot(&mut connection).await.map_err(failed)?;
                return Err(LockCheckedError::Lock(if snapshot {
                    LockError::FixedSnapshot(operation())
                } else {
                    LockError::NotFound(operation())
                }));
            }
            Fetched::Several => {
                return Err(LockCheckedError::Lock(LockError::NotUnique(operation())));
            }
        };
        let [expected, found] = [row, &current].map(|row| row.version().unwrap_or_default());
        if expected == found {
            return Ok(Exclusive::guard(current, Transaction { scope, began }));
        }
        let versions = (T::VERSION, expected, found);
        let changes = |a: &T, b: &T| {
            stored::changes::<DB>(&|to| a.bind_columns(to), &|to| b.bind_columns(to))
        };
        let conflict = Conflict::new(current, copy(row), changes, operation(), versions);
        Err(LockCheckedError::Stale(Box::new(conflict)))
    })
}
