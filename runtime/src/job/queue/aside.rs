//! Rows that cannot be claimed or taken back like the others: they do not fit the model, or the database refuses to write them. Each
//! is put off or given up with its reason, by a statement of its own, so that it hurts no other.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::batch::dropped;
use super::claim::{Claims, Rescued, waited_for};
use super::claimed::{Backoff, Claimed, Retried, stored};
use super::turns::push_turn;
use super::{QueueSql, QueueState};
use crate::db::Backend;
use crate::db::atomic::in_transaction;
use crate::db::error::{DatabaseError, KeyText, Operation};
use crate::db::fault::Fault;
use crate::db::source::Link;
use crate::db::statement::Statement;

/// How long the database is not asked again about a row that it refuses to write.
const FORGET: Duration = Duration::from_secs(60);
/// So often a claim is sent again because a concurrent one was faster. Each time that one has taken a job.
const MOST_TAKEN: usize = 5;
/// With more conditions than this a statement costs more than one for each row.
pub(super) const MOST_CONDITIONS: usize = 32;

/// A row that a claim could not give out: it does not fit the model, or the database refuses to write it.
#[derive(Debug)]
#[non_exhaustive]
pub struct BadRow {
    /// Which row it is, if its key is an integer, and why.
    pub error: DatabaseError,
    /// What it became. `None` if that could not be written: the next claim finds it again, or the next one after its lease if it has been claimed.
    pub became: Option<Retried>,
}

impl BadRow {
    pub(crate) fn log(&self) {
        tracing::warn!(error = %self.error, became = ?self.became, "a row is put aside");
    }
}

/// What a claim came to.
pub(crate) struct Found<T> {
    pub(crate) claimed: Vec<Claimed<T>>,
    pub(crate) bad: Vec<BadRow>,
    /// How many rows had no attempts left, and are dead now.
    pub(crate) exhausted: u64,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self {
            claimed: Vec::new(),
            bad: Vec::new(),
            exhausted: 0,
        }
    }
}

/// The keys of rows that the database refused to write, whatever was to be written.
pub(crate) struct Refused<DB: Backend> {
    pub(super) keys: Vec<Vec<DB::Raw>>,
    since: Instant,
}

impl<DB: Backend> Default for Refused<DB> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            since: Instant::now(),
        }
    }
}

impl<DB: Backend> Refused<DB> {
    fn forget_the_old(&mut self) {
        if self.since.elapsed() > FORGET {
            *self = Self::default();
        }
    }

    fn has(&self, row: &Bare<DB>) -> bool {
        self.keys.contains(&row.key)
    }

    /// Unless the error is none of the row: a database that is busy may write it the next time.
    fn remember(&mut self, row: &Bare<DB>, error: &sqlx::Error) {
        if Fault::refuses_a_row(error) {
            self.keys.push(row.key.clone());
        }
    }

    pub(super) fn push_conditions<T: QueueSql<DB>>(&self, to: &mut Statement<DB>) {
        for key in &self.keys {
            to.push(" AND NOT (TRUE");
            push_key::<DB, T>(key, to);
            to.push(")");
        }
    }
}

pub(super) fn push_key<DB: Backend, T: QueueSql<DB>>(key: &[DB::Raw], to: &mut Statement<DB>) {
    for ((_, condition, _), value) in T::KEY.iter().zip(key) {
        to.push(condition);
        to.push_parameter();
        to.bind_raw(value);
    }
}

/// What can be known of every row, as the key is not decoded.
pub(super) struct Bare<DB: Backend> {
    pub(super) key: Vec<DB::Raw>,
    fence: i64,
    attempts: i64,
}

impl<DB: Backend> Bare<DB> {
    fn claimed<T: QueueSql<DB>>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let [fence, attempts] = T::PLACES;
        let key = T::KEY.iter().map(|(.., place)| *place);
        Self::read(row, key, fence, attempts)
    }

    fn listed<T: QueueSql<DB>>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let keys = T::KEY.len();
        Self::read(row, 0..keys, keys, keys + 1)
    }

    fn read(
        row: &DB::Row,
        key: impl Iterator<Item = usize>,
        fence: usize,
        attempts: usize,
    ) -> Result<Self, sqlx::Error> {
        Ok(Self {
            key: key
                .map(|index| DB::get_raw(row, index))
                .collect::<Result<_, _>>()?,
            fence: DB::get_i64(row, fence)?.unwrap_or_default(),
            attempts: DB::get_i64(row, attempts)?.unwrap_or_default(),
        })
    }

    /// Those that are not refused.
    pub(super) fn all<T: QueueSql<DB>>(
        listed: &[DB::Row],
        refused: &Refused<DB>,
    ) -> Result<Vec<Self>, sqlx::Error> {
        let mut rows: Vec<Self> = listed
            .iter()
            .map(Self::listed::<T>)
            .collect::<Result<_, _>>()?;
        rows.retain(|row| !refused.has(row));
        Ok(rows)
    }

    /// Whether the row is there as it was: another program that puts it off leaves its fence alone, and counts an attempt.
    pub(super) fn is_among(&self, rows: &[Self]) -> bool {
        let same = |row: &Self| {
            row.key == self.key && row.fence == self.fence && row.attempts == self.attempts
        };
        rows.iter().any(same)
    }

    /// One attempt more, as far as the column can hold it.
    fn one_more<T: QueueSql<DB>>(&self) -> i64 {
        self.attempts + i64::from(self.attempts < T::MAX_ATTEMPTS)
    }

    pub(super) fn dropped<T: QueueSql<DB>>(&self, method: &'static str) -> DatabaseError {
        self.error::<T>(method, dropped()).with_fault(Fault::Raised)
    }

    pub(super) fn error<T: QueueSql<DB>>(
        &self,
        method: &'static str,
        error: sqlx::Error,
    ) -> DatabaseError {
        let mut text = KeyText::default();
        for ((name, ..), value) in T::KEY.iter().zip(&self.key) {
            match DB::raw_integer(value) {
                Some(number) => text.shown(name, &number),
                None => text.hidden(name),
            }
        }
        DatabaseError::new(Operation::new(method, T::TABLE, text), error)
    }

    /// Puts the row off after so many attempts, or gives it up. `None` if it is a concurrent writer's by now.
    async fn put_off<T: QueueSql<DB>>(
        &self,
        attempts: i64,
        backoff: Backoff,
        reason: &str,
        connection: &mut Link<'_, DB>,
    ) -> Result<Option<Retried>, sqlx::Error> {
        let [later, for_ever] = T::SET_ASIDE;
        let delay = (attempts < T::MAX_ATTEMPTS).then(|| backoff.after(attempts));
        let sql = if delay.is_some() { later } else { for_ever };
        let mut statement = self.statement::<T>(sql, attempts, reason);
        if let Some(delay) = delay {
            statement.bind_seconds(delay);
        }
        push_key::<DB, T>(&self.key, &mut statement);
        let became = delay.map_or(Retried::Dead, Retried::Later);
        let written = statement.execute(connection).await?;
        Ok((written > 0).then_some(became))
    }

    /// Gives the row up, if its lease still is over.
    async fn bury<T: QueueSql<DB>>(
        &self,
        reason: &str,
        connection: &mut Link<'_, DB>,
    ) -> Result<u64, sqlx::Error> {
        let [_, for_ever] = T::SET_ASIDE;
        let mut statement = self.statement::<T>(for_ever, self.attempts, reason);
        statement.push(T::HAS_ENDED);
        push_key::<DB, T>(&self.key, &mut statement);
        statement.execute(connection).await
    }

    fn statement<T: QueueSql<DB>>(
        &self,
        sql: &'static str,
        attempts: i64,
        reason: &str,
    ) -> Statement<DB> {
        let mut statement = Statement::composed(sql);
        statement.bind_i64(self.fence);
        statement.bind_i64(attempts);
        if T::HAS_LAST_ERROR {
            statement.bind_text(reason);
        }
        statement
    }
}

fn decoded<DB: Backend, T: QueueSql<DB>>(row: &DB::Row) -> Result<(T, Duration), sqlx::Error> {
    let waited = sqlx::Row::len(row).saturating_sub(1);
    let waited = waited_for(DB::get_f64(row, waited)?);
    Ok(((T::ROW)(row)?, waited))
}

impl<DB: Backend> Claims<DB> {
    /// One claim: one statement, as long as each row can be claimed. `counted`: whether the attempts begin now.
    ///
    /// If the database refuses one of the rows, they are claimed one by one, and that one is put off. In a transaction of
    /// the caller that is not possible: the error has aborted it. They are claimed one by one also if it claims none, and yet some
    /// are due: a trigger drops the writes of those in front.
    ///
    /// `short`: the claim before this one found fewer rows than it asked for, so that there can be no more, or only such.
    pub(crate) async fn run<T: QueueSql<DB>>(
        &self,
        limit: usize,
        counted: bool,
        short: bool,
        refused: &mut Refused<DB>,
        connection: &mut Link<'_, DB>,
    ) -> Result<Found<T>, sqlx::Error> {
        refused.forget_the_old();
        let mut found = Found::<T>::default();
        let mut one_by_one = refused.keys.len() > MOST_CONDITIONS;
        if short && !one_by_one && self.due::<T>(limit, refused, connection).await?.is_empty() {
            return Ok(found);
        }
        if !one_by_one {
            match self.first::<T>(limit, counted, refused, connection).await {
                Ok(rows) => {
                    one_by_one = rows.is_empty();
                    self.take(rows, counted, &mut found, connection).await;
                }
                Err(error) if may_be_another::<DB>(&error, connection) => one_by_one = true,
                Err(error) => return Err(error),
            }
        }
        if one_by_one {
            self.one_by_one(limit, counted, refused, &mut found, connection)
                .await?;
        }
        // The rows of an UPDATE come in any order.
        found
            .claimed
            .sort_by(|one, other| one.row.order(&other.row));
        Ok(found)
    }

    /// One statement; more only if the running jobs of each value of a column are limited, and it came to none or a concurrent claim to
    /// another job of the same value.
    async fn first<T: QueueSql<DB>>(
        &self,
        limit: usize,
        counted: bool,
        refused: &Refused<DB>,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<DB::Row>, sqlx::Error> {
        let others = |statement: &mut Statement<DB>| refused.push_conditions::<T>(statement);
        let Some(per) = T::PER else {
            return self
                .send::<T>(limit, counted, None, others, connection)
                .await;
        };
        let (mut last, mut taken) = (self.turn.last(), 0);
        loop {
            let sent = self.send::<T>(limit, counted, last.as_ref(), others, connection);
            match sent.await {
                Ok(rows) => {
                    self.turn.go_on(&per, limit, &rows);
                    // It began after the last value, and those before it have not been looked at.
                    if !rows.is_empty() || last.take().is_none() {
                        return Ok(rows);
                    }
                }
                Err(error) if !is_anothers_turn::<DB, T>(&error, connection) => {
                    return Err(error);
                }
                // What it saw when it began is no more: it chose by that, and the next one sees what is.
                Err(error) if taken < MOST_TAKEN && Fault::of(&error) != Fault::LockTimeout => {
                    taken += 1;
                }
                // One by one.
                Err(_) => return Ok(Vec::new()),
            }
        }
    }

    async fn send<T: QueueSql<DB>>(
        &self,
        limit: usize,
        counted: bool,
        last: Option<&DB::Raw>,
        more: impl Fn(&mut Statement<DB>),
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<DB::Row>, sqlx::Error> {
        let mut statement = Statement::<DB>::composed("");
        statement.bind_i64(i64::try_from(limit).unwrap_or(i64::MAX));
        statement.bind_seconds(self.lease);
        statement.bind_i64(counted.into());
        // An earlier job of a value of which a transaction that is open has another one waits in the unique index until that ends, and
        // with it the jobs of all other values.
        // Not in a transaction, which the timeout would abort.
        let briefly = T::PER.is_some()
            && !in_transaction::<DB>(connection)
            && !connection.is_begun_by_hand().await?;
        let last_condition = if briefly { DB::WAITING_BRIEFLY } else { "" };
        self.push_parts::<T>(T::CLAIM, last, more, last_condition, &mut statement);
        statement.fetch_all(connection).await
    }

    /// The parts of a statement, and what comes between them.
    fn push_parts<T: QueueSql<DB>>(
        &self,
        parts: &[&'static str],
        last: Option<&DB::Raw>,
        more: impl Fn(&mut Statement<DB>),
        last_condition: &'static str,
        to: &mut Statement<DB>,
    ) {
        for (index, part) in parts.iter().enumerate() {
            match (index, T::PER) {
                (0, _) => {}
                (2, Some(per)) => push_turn(&per, last, to),
                _ => {
                    self.push_conditions(to);
                    more(to);
                }
            }
            // Not before: a volatile function would make a list of all that can be claimed.
            if index + 1 == parts.len() {
                to.push(last_condition);
            }
            to.push(part);
        }
    }

    /// Takes what was claimed. A row that does not fit the model has had an attempt, and failed.
    async fn take<T: QueueSql<DB>>(
        &self,
        rows: Vec<DB::Row>,
        counted: bool,
        found: &mut Found<T>,
        connection: &mut Link<'_, DB>,
    ) {
        for raw in rows {
            let error = match decoded::<DB, T>(&raw) {
                Ok((mut row, waited)) => {
                    if !counted {
                        // What the database is going to have when the attempt begins.
                        row.count();
                    }
                    if row.attempts() > T::MAX_ATTEMPTS {
                        self.give_up::<T>(&raw, counted, found, connection).await;
                        continue;
                    }
                    found.claimed.push(Claimed {
                        row,
                        backoff: self.backoff,
                        waited,
                        completed: AtomicBool::new(false),
                    });
                    continue;
                }
                Err(error) => error,
            };
            let bad = match Bare::claimed::<T>(&raw) {
                Ok(bare) => {
                    let reason = stored(&format_args!("the row does not fit the model: {error}"));
                    let attempts = match counted {
                        true => bare.attempts,
                        false => bare.one_more::<T>(),
                    };
                    let put_off = bare.put_off::<T>(attempts, self.backoff, &reason, connection);
                    BadRow {
                        became: put_off.await.unwrap_or_default(),
                        error: bare.error::<T>("claim", error),
                    }
                }
                // Not even the key: it comes back when its lease has ended.
                Err(_) => BadRow {
                    error: DatabaseError::new(T::operation_on_many("claim"), error),
                    became: None,
                },
            };
            found.bad.push(bad);
        }
    }

    /// A row was ready without attempts left: there may be fewer now than when it was put back, or it was made ready by hand. If it
    /// cannot be written, it is taken back when its lease has ended.
    async fn give_up<T: QueueSql<DB>>(
        &self,
        row: &DB::Row,
        counted: bool,
        found: &mut Found<T>,
        connection: &mut Link<'_, DB>,
    ) {
        let Ok(bare) = Bare::claimed::<T>(row) else {
            return;
        };
        let attempts = bare.attempts.saturating_sub(i64::from(counted));
        let dead = bare.put_off::<T>(attempts, self.backoff, "no attempts left", connection);
        found.exhausted += u64::from(matches!(dead.await, Ok(Some(_))));
    }

    async fn one_by_one<T: QueueSql<DB>>(
        &self,
        limit: usize,
        counted: bool,
        refused: &mut Refused<DB>,
        found: &mut Found<T>,
        connection: &mut Link<'_, DB>,
    ) -> Result<(), sqlx::Error> {
        let due = self.due::<T>(limit, refused, connection).await?;
        // The leases of the first ones are running.
        let begun = Instant::now();
        let enough = self.lease.max(Duration::from_secs(1)) / 4;
        let mut untouched = Vec::new();
        for bare in due {
            if found.claimed.len() == limit || begun.elapsed() > enough {
                break;
            }
            let this = |statement: &mut Statement<DB>| push_key::<DB, T>(&bare.key, statement);
            let error = match self.send::<T>(1, counted, None, this, connection).await {
                Ok(rows) if rows.is_empty() => {
                    untouched.push(bare);
                    continue;
                }
                Ok(rows) => {
                    self.take(rows, counted, found, connection).await;
                    continue;
                }
                Err(error) if is_anothers_turn::<DB, T>(&error, connection) => continue,
                Err(error) if Fault::refuses_a_row(&error) => error,
                // What is claimed must not be lost to the caller.
                Err(_) if !found.claimed.is_empty() => break,
                Err(error) => return Err(error),
            };
            let reason = stored(&format_args!("the row could not be claimed: {error}"));
            let put_off =
                bare.put_off::<T>(bare.one_more::<T>(), self.backoff, &reason, connection);
            let became = match put_off.await {
                // A concurrent writer has it.
                Ok(None) => continue,
                Ok(became) => became,
                Err(error) => {
                    refused.remember(&bare, &error);
                    None
                }
            };
            let error = bare.error::<T>("claim", error);
            found.bad.push(BadRow { error, became });
        }
        if untouched.is_empty() {
            return Ok(());
        }
        // A concurrent claim may have them. Those that are still due, and free, are left as they are: nobody says what is wrong.
        let Ok(mut due) = self.due::<T>(limit, refused, connection).await else {
            return Ok(());
        };
        // One that was not touched can have been kept by another one of its value, which has ended: it is as it was, and due.
        for _ in 0..if T::PER.is_some() { MOST_TAKEN } else { 0 } {
            untouched.retain(|bare| bare.is_among(&due));
            let mut again = Vec::new();
            for bare in std::mem::take(&mut untouched) {
                let this = |statement: &mut Statement<DB>| push_key::<DB, T>(&bare.key, statement);
                match self.send::<T>(1, counted, None, this, connection).await {
                    Ok(rows) if rows.is_empty() => again.push(bare),
                    Ok(rows) => self.take(rows, counted, found, connection).await,
                    // The next claim finds out.
                    Err(_) => {}
                }
            }
            if again.is_empty() {
                return Ok(());
            }
            untouched = again;
            match self.due::<T>(limit, refused, connection).await {
                Ok(still) => due = still,
                Err(_) => return Ok(()),
            }
        }
        for bare in untouched.into_iter().filter(|bare| bare.is_among(&due)) {
            let error = bare.dropped::<T>("claim");
            refused.keys.push(bare.key);
            let became = None;
            found.bad.push(BadRow { error, became });
        }
        Ok(())
    }

    /// Looks which rows a claim would take.
    async fn due<T: QueueSql<DB>>(
        &self,
        limit: usize,
        refused: &Refused<DB>,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<Bare<DB>>, sqlx::Error> {
        let mut list = Statement::<DB>::composed("");
        let most = limit.saturating_add(refused.keys.len());
        list.bind_i64(i64::try_from(most).unwrap_or(i64::MAX));
        self.push_parts::<T>(T::LIST_DUE, None, |_| (), "", &mut list);
        let listed = list.fetch_all(connection).await?;
        Bare::all::<T>(&listed, refused)
    }
}

/// Whether a claim failed because a concurrent one has a job of the same value, or is about to.
fn is_anothers_turn<DB: Backend, T: QueueSql<DB>>(
    error: &sqlx::Error,
    connection: &DB::Connection,
) -> bool {
    let Some(per) = T::PER else {
        return false;
    };
    let waited = matches!(Fault::of(error), Fault::LockTimeout | Fault::Deadlock);
    (waited || per.is_taken(error)) && !in_transaction::<DB>(connection)
}

/// Whether a statement about many rows failed because of one of them, and the others can be tried.
pub(super) fn may_be_another<DB: Backend>(
    error: &sqlx::Error,
    connection: &DB::Connection,
) -> bool {
    Fault::refuses_a_row(error) && !in_transaction::<DB>(connection)
}

/// When a rescue looks for rows that it did not take back, as a trigger drops their writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Never,
    /// The rows that it did take back are waiting.
    IfNone,
    Always,
}

/// Takes back the rows whose leases have ended: one statement, as long as the database refuses none of them.
///
/// One that it does not let be ready again is dead. That is what `UNIQUE (…) WHERE state = 'ready'` says about a row
/// beside which the same job was added while it ran: the newer one stands for both.
///
pub(crate) async fn rescue_on<DB: Backend, T: QueueSql<DB>>(
    refused: &mut Refused<DB>,
    look: Look,
    connection: &mut Link<'_, DB>,
) -> Result<Rescued, sqlx::Error> {
    refused.forget_the_old();
    let mut rescued = Rescued::default();
    if refused.keys.len() <= MOST_CONDITIONS {
        let others = |statement: &mut Statement<DB>| refused.push_conditions::<T>(statement);
        match send_rescue::<DB, T>(others, &mut rescued, connection).await {
            Err(error) if may_be_another::<DB>(&error, connection) => {}
            Ok(rows) if look == Look::Always || look == Look::IfNone && rows == 0 => {}
            result => return result.map(|_| rescued),
        }
    }
    let mut untouched = Vec::new();
    for bare in ended::<DB, T>(refused, connection).await? {
        let this = |statement: &mut Statement<DB>| push_key::<DB, T>(&bare.key, statement);
        let error = match send_rescue::<DB, T>(this, &mut rescued, connection).await {
            Ok(0) => {
                untouched.push(bare);
                continue;
            }
            Ok(_) => continue,
            Err(error) if Fault::refuses_a_row(&error) => error,
            Err(error) => return Err(error),
        };
        let reason = stored(&format_args!(
            "the lease ended, and the row could not be ready again: {error}"
        ));
        match bare.bury::<T>(&reason, connection).await {
            Ok(dead) => rescued.dead += dead,
            Err(error) => {
                rescued.refused += 1;
                refused.remember(&bare, &error);
            }
        }
        let error = bare.error::<T>("rescue", error);
        tracing::warn!(%error, "a row could not be ready again");
    }
    if untouched.is_empty() {
        return Ok(rescued);
    }
    let Ok(ended) = ended::<DB, T>(refused, connection).await else {
        return Ok(rescued);
    };
    for bare in untouched.into_iter().filter(|bare| bare.is_among(&ended)) {
        let error = bare.dropped::<T>("rescue");
        tracing::warn!(%error, "a row could not be ready again");
        rescued.refused += 1;
        refused.keys.push(bare.key);
    }
    Ok(rescued)
}

/// Looks which rows a rescue would take back.
async fn ended<DB: Backend, T: QueueSql<DB>>(
    refused: &Refused<DB>,
    connection: &mut Link<'_, DB>,
) -> Result<Vec<Bare<DB>>, sqlx::Error> {
    let list = Statement::<DB>::literal(T::LIST_ENDED);
    Bare::all::<T>(&list.fetch_all(connection).await?, refused)
}

async fn send_rescue<DB: Backend, T: QueueSql<DB>>(
    more: impl FnOnce(&mut Statement<DB>),
    rescued: &mut Rescued,
    connection: &mut Link<'_, DB>,
) -> Result<usize, sqlx::Error> {
    let [head, tail] = T::RESCUE;
    let mut statement = Statement::<DB>::composed(head);
    more(&mut statement);
    statement.push(tail);
    let rows = statement.fetch_all(connection).await?;
    for row in &rows {
        if DB::get_text(row, 0)? == QueueState::Dead.as_str() {
            rescued.dead += 1;
        } else {
            rescued.ready += 1;
        }
    }
    Ok(rows.len())
}
