//! `Idempotent`: a ledger of requests. The key is bound first, as `$1…`, except in `finish`.

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
    /// unless somebody has it.
    pub(crate) fn claim(&self, dialect: Dialect) -> String {
        let keys = self.keys.len();
        let (fingerprint, lease) = (keys + 1, keys + 2);
        let key_values = comma(1..=keys, |index| format!("${index}"));
        let until = now_and('+', &format!("${lease}"), dialect);
        let values = format!(
            "{key_values}, ${fingerprint}, {}, {until}",
            first_fence(dialect)
        );
        let mut columns = self.keys.clone();
        columns.extend([self.fingerprint, self.fence, self.lease]);
        let rows = table(self.model);
        let old = |column: &Column| existing(self.model, column);
        let upsert = |source: &str| {
            format!(
                "INSERT INTO {rows} ({}) {source} ON CONFLICT ({}) DO UPDATE SET {fence} = {}, {} = {until} WHERE {} RETURNING {fence}",
                names(&columns),
                names(&self.keys),
                next_fence(&old(self.fence), dialect),
                quote(&self.lease.name),
                self.free(&old, fingerprint, dialect),
                fence = quote(&self.fence.name),
            )
        };
        let same = and(self.keys.iter().enumerate(), |(index, key)| {
            format!("{} = ${}", quote(&key.name), index + 1)
        });
        match dialect {
            Dialect::Postgres => format!(
                "WITH \"rowlock_lock\" AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtextextended(jsonb_build_array({key_values})::text, {}::regclass::oid::bigint)) AS \"rowlock_taken\"), \
                 \"rowlock_free\" AS MATERIALIZED (SELECT 1 FROM {rows} WHERE {} AND {} FOR NO KEY UPDATE SKIP LOCKED), \
                 \"rowlock_claimed\" (\"rowlock_fence\", \"rowlock_same\") AS ({}, {same}) \
                 SELECT \"rowlock_fence\", CASE WHEN NOT \"rowlock_taken\" THEN 0 WHEN \"rowlock_same\" THEN 1 ELSE 2 END FROM \"rowlock_lock\" LEFT JOIN \"rowlock_claimed\" ON true",
                text(&rows),
                equal(&self.keys, 1),
                self.free(&|column: &Column| quote(&column.name), fingerprint, dialect),
                upsert(&format!(
                    "SELECT {values} FROM \"rowlock_lock\" WHERE \"rowlock_taken\" AND (NOT EXISTS (SELECT FROM {rows} WHERE {}) OR EXISTS (SELECT FROM \"rowlock_free\"))",
                    equal(&self.keys, 1),
                )),
            ),
            Dialect::Sqlite => format!(
                "{}, CASE WHEN {same} THEN 1 ELSE 2 END",
                upsert(&format!("VALUES ({values})"))
            ),
        }
    }

    /// Nobody is at work on the row, and nobody has done it.
    fn free(
        &self,
        name: &dyn Fn(&Column) -> String,
        fingerprint: usize,
        dialect: Dialect,
    ) -> String {
        format!(
            "{} IS NULL AND ({} > {}) IS NOT TRUE AND {} = ${fingerprint}",
            name(self.finished),
            name(self.lease),
            now(dialect),
            name(self.fingerprint),
        )
    }

    /// 1: another request, 2: finished, 3: leased, 4: free, 5: a fingerprint of another version, which says nothing about the
    /// request; and the outcome.
    pub(crate) fn read(&self, dialect: Dialect) -> String {
        format!(
            "SELECT CASE WHEN substr({fingerprint}, 1, 2) <> substr(${value}, 1, 2) THEN 5 WHEN {fingerprint} <> ${value} THEN 1 \
             WHEN {} IS NOT NULL THEN 2 WHEN {} > {} THEN 3 ELSE 4 END, {} FROM {} WHERE {}",
            quote(&self.finished.name),
            quote(&self.lease.name),
            now(dialect),
            quote(&self.outcome.name),
            table(self.model),
            equal(&self.keys, 1),
            fingerprint = quote(&self.fingerprint.name),
            value = self.keys.len() + 1,
        )
    }

    /// `WHERE` the row is still this attempt's; the key is bound from `first` on, then the fence.
    fn still_mine(&self, first: usize) -> String {
        format!(
            "WHERE {} AND {} = ${} AND {} IS NULL",
            equal(&self.keys, first),
            quote(&self.fence.name),
            first + self.keys.len(),
            quote(&self.finished.name),
        )
    }

    pub(crate) fn finish(&self, dialect: Dialect) -> String {
        format!(
            "UPDATE {} SET {} = $1, {} = {} {}",
            table(self.model),
            quote(&self.outcome.name),
            quote(&self.finished.name),
            now(dialect),
            self.still_mine(2),
        )
    }

    pub(crate) fn release(&self, dialect: Dialect) -> String {
        self.set_lease(now(dialect))
    }

    pub(crate) fn extend(&self, dialect: Dialect) -> String {
        self.set_lease(&now_and('+', &format!("${}", self.keys.len() + 2), dialect))
    }

    fn set_lease(&self, until: &str) -> String {
        format!(
            "UPDATE {} SET {} = {until} {}",
            table(self.model),
            quote(&self.lease.name),
            self.still_mine(1),
        )
    }

    pub(crate) fn purge(&self, dialect: Dialect) -> String {
        format!(
            "DELETE FROM {} WHERE {} < {}",
            table(self.model),
            quote(&self.finished.name),
            now_and('-', "$1", dialect),
        )
    }
}
