//! `Idempotent`: a ledger of requests. The key is bound first, except in `finish`.

use super::clock::{first_fence, next_fence, now, now_and};
use super::*;

/// The columns by their roles, which the derive has checked to be there.
pub(crate) struct Ledger<'m> {
    pub model: &'m Model,
    pub keys: Vec<&'m Column>,
    pub fingerprint: &'m Column,
    pub outcome: &'m Column,
    pub fence: &'m Column,
    pub lease: &'m Column,
    pub finished: &'m Column,
}

impl Ledger<'_> {
    /// Creates the row, or takes it over if nobody is at work on it. Yields the fence, or NULL; and 0 if another call is
    /// about to claim the key, 1 if all is well, 2 if the row is not under the key that was given.
    ///
    /// On PostgreSQL it waits for nobody. An insert would wait for a transaction that has inserted the same key: so
    /// whoever is going to insert holds an advisory lock for the rest of its transaction, and who does not get it
    /// inserts nothing. Its key is made of the table and of the row's key; if two keys should meet in one lock, one of
    /// the callers is told `Busy`. And an update would wait for whoever is finishing: so the row is locked first,
    /// unless another call has it.
    pub(crate) fn claim(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let rows = table(self.model);
        let (keys, key_values) = (names(&self.keys), sql.keys(&self.keys));
        let same_key = sql.equal(&self.keys);
        let fingerprint = sql.slot(Slot::Fingerprint);
        let until = now_and('+', &sql.slot(Slot::Seconds), dialect);
        let first = first_fence(dialect);
        let columns = names(
            self.keys
                .iter()
                .chain(&[self.fingerprint, self.fence, self.lease]),
        );
        let values = format!("{key_values}, {fingerprint}, {first}, {until}");
        let (fence, lease) = (quote(&self.fence.name), quote(&self.lease.name));
        let old = |column: &Column| existing(self.model, column);
        let next = next_fence(&old(self.fence), dialect);
        let old_is_free = self.free(&old, &fingerprint, dialect);
        match dialect {
            Dialect::Postgres => {
                let name = text(&rows);
                let is_free = self.free(&|column| quote(&column.name), &fingerprint, dialect);
                sql.statement(format!(
                    "WITH \"rowlock_lock\" AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtextextended(jsonb_build_array({key_values})::text, {name}::regclass::oid::bigint)) AS \"rowlock_taken\"), \
                     \"rowlock_free\" AS MATERIALIZED (SELECT 1 FROM {rows} WHERE {same_key} AND {is_free} FOR NO KEY UPDATE SKIP LOCKED), \
                     \"rowlock_claimed\" (\"rowlock_fence\", \"rowlock_same\") AS (\
                     INSERT INTO {rows} ({columns}) SELECT {values} FROM \"rowlock_lock\" \
                     WHERE \"rowlock_taken\" AND (NOT EXISTS (SELECT FROM {rows} WHERE {same_key}) OR EXISTS (SELECT FROM \"rowlock_free\")) \
                     ON CONFLICT ({keys}) DO UPDATE SET {fence} = {next}, {lease} = {until} WHERE {old_is_free} \
                     RETURNING {fence}, {same_key}) \
                     SELECT \"rowlock_fence\", CASE WHEN NOT \"rowlock_taken\" THEN 0 WHEN \"rowlock_same\" THEN 1 ELSE 2 END FROM \"rowlock_lock\" LEFT JOIN \"rowlock_claimed\" ON true"
                ))
            }
            Dialect::Sqlite => {
                let same = format!("CASE WHEN {same_key} THEN 1 ELSE 2 END");
                sql.statement(format!(
                    "INSERT INTO {rows} ({columns}) VALUES ({values}) \
                     ON CONFLICT ({keys}) DO UPDATE SET {fence} = {next}, {lease} = {until} WHERE {old_is_free}"
                ))
                .returning(vec![fence, same])
            }
        }
    }

    /// Nobody is at work on the row, and nobody has done it.
    fn free(
        &self,
        name: &dyn Fn(&Column) -> String,
        fingerprint: &str,
        dialect: Dialect,
    ) -> String {
        format!(
            "{} IS NULL AND ({} > {}) IS NOT TRUE AND {} = {fingerprint}",
            name(self.finished),
            name(self.lease),
            now(dialect),
            name(self.fingerprint),
        )
    }

    /// 1: another request, 2: finished, 3: leased, 4: free, 5: a fingerprint of another version, which says nothing about the
    /// request; and the outcome.
    pub(crate) fn read(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let same_key = sql.equal(&self.keys);
        let text = format!(
            "SELECT CASE WHEN substr({fingerprint}, 1, 2) <> substr({value}, 1, 2) THEN 5 WHEN {fingerprint} <> {value} THEN 1 \
             WHEN {} IS NOT NULL THEN 2 WHEN {} > {} THEN 3 ELSE 4 END, {} FROM {} WHERE {same_key}",
            quote(&self.finished.name),
            quote(&self.lease.name),
            now(dialect),
            quote(&self.outcome.name),
            table(self.model),
            fingerprint = quote(&self.fingerprint.name),
            value = sql.slot(Slot::Fingerprint),
        );
        sql.statement(text)
    }

    /// `WHERE` the row is still this attempt's: the key, then the fence.
    fn still_mine(&self, sql: &mut Sql) -> String {
        format!(
            "WHERE {} AND {} = {} AND {} IS NULL",
            sql.equal(&self.keys),
            quote(&self.fence.name),
            sql.slot(Slot::Fence),
            quote(&self.finished.name),
        )
    }

    pub(crate) fn finish(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let text = format!(
            "UPDATE {} SET {} = {}, {} = {} {}",
            table(self.model),
            quote(&self.outcome.name),
            sql.slot(Slot::Outcome),
            quote(&self.finished.name),
            now(dialect),
            self.still_mine(&mut sql),
        );
        sql.statement(text)
    }

    pub(crate) fn release(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let mine = self.still_mine(&mut sql);
        sql.statement(self.set_lease(now(dialect), &mine))
    }

    pub(crate) fn extend(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let mine = self.still_mine(&mut sql);
        let until = now_and('+', &sql.slot(Slot::Seconds), dialect);
        sql.statement(self.set_lease(&until, &mine))
    }

    fn set_lease(&self, until: &str, mine: &str) -> String {
        let lease = quote(&self.lease.name);
        format!("UPDATE {} SET {lease} = {until} {mine}", table(self.model))
    }

    pub(crate) fn purge(&self, dialect: Dialect) -> Statement {
        let mut sql = Sql::new(dialect);
        let text = format!(
            "DELETE FROM {} WHERE {} < {}",
            table(self.model),
            quote(&self.finished.name),
            now_and('-', &sql.slot(Slot::Seconds), dialect),
        );
        sql.statement(text)
    }
}
