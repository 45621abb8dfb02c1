//! A write of any rows that meet a condition, of which one that the database refuses keeps no other.

use super::QueueSql;
use super::aside::{Bare, MOST_CONDITIONS, Refused, may_be_another, push_key};
use crate::db::Backend;
use crate::db::error::DatabaseError;
use crate::db::source::Link;
use crate::db::statement::Statement;

/// What writes up to so many rows, and what lists them. Both have conditions between their two parts.
pub(super) struct Sweep<'s, DB: Backend> {
    pub(super) method: &'static str,
    pub(super) write: [&'static str; 2],
    /// Returns key, fence, attempts.
    pub(super) list: [&'static str; 2],
    /// Binds how many, and what else both ask for, and writes the caller's conditions.
    pub(super) bind: &'s (dyn Fn(&mut Statement<DB>, i64) + Send + Sync),
}

/// What became of up to so many rows.
#[derive(Default)]
pub(super) struct Page {
    pub(super) written: u64,
    /// There were as many as were asked for, so that there can be others.
    pub(super) full: bool,
    /// One for each row that the database did not let be written.
    pub(super) errors: Vec<DatabaseError>,
}

impl<DB: Backend> Sweep<'_, DB> {
    /// One statement, as long as the database refuses none of the rows; then one for each.
    ///
    /// `look`: whether it also looks, if there were fewer than so many, for rows of which a trigger dropped the write.
    pub(super) async fn page<T: QueueSql<DB>>(
        &self,
        limit: u64,
        look: bool,
        refused: &mut Refused<DB>,
        connection: &mut Link<'_, DB>,
    ) -> Result<Page, sqlx::Error> {
        let mut page = Page::default();
        if refused.keys.len() <= MOST_CONDITIONS {
            let others = |statement: &mut Statement<DB>| refused.push_conditions::<T>(statement);
            match self.send(limit, others, connection).await {
                Ok(written) => {
                    page.written = written;
                    page.full = written >= limit;
                    if page.full || !look {
                        return Ok(page);
                    }
                }
                Err(error) if may_be_another::<DB>(&error, connection) => {}
                Err(error) => return Err(error),
            }
        }
        let rows = self.rows::<T>(limit, refused, connection).await?;
        page.full = rows.len() as u64 >= limit;
        let mut untouched = Vec::new();
        for bare in rows {
            let this = |statement: &mut Statement<DB>| push_key::<DB, T>(&bare.key, statement);
            match self.send(1, this, connection).await {
                Ok(0) => untouched.push(bare),
                Ok(written) => page.written += written,
                Err(error) if may_be_another::<DB>(&error, connection) => {
                    page.errors.push(bare.error::<T>(self.method, error));
                    refused.keys.push(bare.key);
                }
                Err(error) => return Err(error),
            }
        }
        if untouched.is_empty() {
            return Ok(page);
        }
        // A concurrent writer may have had them. Those that are there as they were are not let go by a trigger.
        let rows = self.rows::<T>(limit, refused, connection).await?;
        for bare in untouched.into_iter().filter(|bare| bare.is_among(&rows)) {
            page.errors.push(bare.dropped::<T>(self.method));
            refused.keys.push(bare.key);
        }
        Ok(page)
    }

    async fn send(
        &self,
        limit: u64,
        more: impl FnOnce(&mut Statement<DB>),
        connection: &mut Link<'_, DB>,
    ) -> Result<u64, sqlx::Error> {
        let statement = self.statement(self.write, limit, more);
        statement.execute(connection).await
    }

    /// Those of the rows that nobody refused yet.
    async fn rows<T: QueueSql<DB>>(
        &self,
        limit: u64,
        refused: &Refused<DB>,
        connection: &mut Link<'_, DB>,
    ) -> Result<Vec<Bare<DB>>, sqlx::Error> {
        let most = limit.saturating_add(refused.keys.len() as u64);
        let list = self.statement(self.list, most, |_| ());
        Bare::all::<T>(&list.fetch_all(connection).await?, refused)
    }

    fn statement(
        &self,
        [head, tail]: [&'static str; 2],
        limit: u64,
        more: impl FnOnce(&mut Statement<DB>),
    ) -> Statement<DB> {
        let mut statement = Statement::composed(head);
        (self.bind)(&mut statement, i64::try_from(limit).unwrap_or(i64::MAX));
        more(&mut statement);
        statement.push(tail);
        statement
    }
}
