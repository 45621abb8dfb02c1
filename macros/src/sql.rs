//! The SQL of every statement: pure functions from a model to text.
//!
//! PostgreSQL and SQLite understand the same text for most statements (`$1`, double quotes, `RETURNING`,
//! `ON CONFLICT`); where they part, the function takes the [`Dialect`] into account.

use crate::model::{Column, Model, Role, UniqueKey};

/// A database's way of writing SQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    Postgres,
    Sqlite,
}

impl Dialect {
    /// The name of sqlx's type for the database, which is also what `backend(...)` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Sqlite => "Sqlite",
        }
    }
}

/// `"name"`, with quotes inside doubled, so that reserved words and odd names work.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `'text'`
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The table as it stands behind FROM, INTO and UPDATE.
fn table(model: &Model) -> String {
    match &model.table.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&model.table.name)),
        None => quote(&model.table.name),
    }
}

/// The table's existing row inside `ON CONFLICT DO UPDATE`, where a schema may not be named.
fn existing(model: &Model, column: &Column) -> String {
    format!("{}.{}", quote(&model.table.name), quote(&column.name))
}

fn comma<T>(items: impl IntoIterator<Item = T>, text: impl FnMut(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

fn and<T>(items: impl IntoIterator<Item = T>, text: impl FnMut(T) -> String) -> String {
    items
        .into_iter()
        .map(text)
        .collect::<Vec<_>>()
        .join(" AND ")
}

fn names(columns: &[&Column]) -> String {
    comma(columns, |column| quote(&column.name))
}

/// `"a" = $1 AND "b" = $2`, counting from `first`.
fn equal(columns: &[&Column], first: usize) -> String {
    and(columns.iter().enumerate(), |(index, column)| {
        format!("{} = ${}", quote(&column.name), first + index)
    })
}

/// `"version" = "version" + 1`
fn bump(version: &Column) -> String {
    format!("{0} = {0} + 1", quote(&version.name))
}

/// `, "fence" = $n`, if the model has a fence.
fn and_set_fence(model: &Model, parameter: usize) -> String {
    match model.fence() {
        Some(fence) => format!(", {} = ${parameter}", quote(&fence.name)),
        None => String::new(),
    }
}

/// ` AND "fence" <= $n`, if the model has a fence.
fn and_not_fenced(model: &Model, parameter: usize) -> String {
    match model.fence() {
        Some(fence) => format!(" AND {} <= ${parameter}", quote(&fence.name)),
        None => String::new(),
    }
}

/// Reads all columns of the row with this key.
pub(crate) fn select(model: &Model, by: &[&Column]) -> String {
    let all: Vec<&Column> = model.columns.iter().collect();
    format!(
        "SELECT {} FROM {} WHERE {}",
        names(&all),
        table(model),
        equal(by, 1)
    )
}

/// `Versioned`: what identifies the row is bound first as `$1…`.
pub(crate) mod versioned {
    use super::*;

    /// What the database changed in an update: the version, then everything that others write.
    pub(crate) fn returned(model: &Model) -> Vec<&Column> {
        let version = model.version().into_iter();
        let others = model.columns.iter().filter(|column| {
            !column.key && (column.is_counter() || (column.generated && column.is_plain()))
        });
        version.chain(others).collect()
    }

    /// The key is bound from `first` on, then the version, then the fence if there is one.
    fn where_unchanged(model: &Model, version: &Column, first: usize) -> String {
        let keys = model.keys();
        format!(
            "WHERE {} AND {} = ${}{}",
            equal(&keys, first),
            quote(&version.name),
            first + keys.len(),
            and_not_fenced(model, first + keys.len() + 1),
        )
    }

    /// The next version, and the fence.
    fn set_version(model: &Model, version: &Column, first: usize) -> String {
        let fence = first + model.keys().len() + 1;
        format!("{}{}", bump(version), and_set_fence(model, fence))
    }

    /// Writes all columns: `$1…` are the columns, then the key, then the version.
    pub(crate) fn update(model: &Model, version: &Column) -> String {
        let columns = model.writable();
        let mut set = comma(columns.iter().enumerate(), |(index, column)| {
            format!("{} = ${}", quote(&column.name), index + 1)
        });
        if !set.is_empty() {
            set.push_str(", ");
        }
        format!(
            "UPDATE {} SET {set}{} {} RETURNING {}",
            table(model),
            set_version(model, version, columns.len() + 1),
            where_unchanged(model, version, columns.len() + 1),
            names(&returned(model))
        )
    }

    /// Bumps the version and nothing else.
    pub(crate) fn touch(model: &Model, version: &Column) -> String {
        let (head, tail) = save(model, version);
        format!("{head}{tail}")
    }

    /// Writes the changed columns, which go between the two parts as `"name" = $n, `.
    pub(crate) fn save(model: &Model, version: &Column) -> (String, String) {
        (
            format!("UPDATE {} SET ", table(model)),
            format!(
                "{} {} RETURNING {}",
                set_version(model, version, 1),
                where_unchanged(model, version, 1),
                names(&returned(model))
            ),
        )
    }

    pub(crate) fn delete(model: &Model, version: &Column) -> String {
        format!(
            "DELETE FROM {} {}",
            table(model),
            where_unchanged(model, version, 1)
        )
    }
}

/// `Counter`: the key is bound first, then the change, then the lowest and highest old value that allow it.
pub(crate) mod counter {
    use super::*;

    /// The columns that a new counter row needs besides its key, with their values.
    fn others<'a>(model: &'a Model, counter: &Column) -> Vec<&'a Column> {
        model
            .columns
            .iter()
            .filter(|column| {
                !column.key
                    && column.ident != counter.ident
                    && (column.is_counter() || column.role == Role::Version)
            })
            .collect()
    }

    fn new_row_columns(model: &Model, counter: &Column) -> String {
        let mut columns = model.keys();
        columns.push(counter);
        columns.extend(others(model, counter));
        names(&columns)
    }

    /// `value`, moved by where the counter starts.
    fn from_start(counter: &Column, value: &str) -> String {
        match counter.initial() {
            0 => value.to_owned(),
            start => format!("{start} + {value}"),
        }
    }

    fn trailing_values(model: &Model, counter: &Column) -> String {
        others(model, counter)
            .iter()
            .map(|column| format!(", {}", column.initial()))
            .collect()
    }

    fn room(value: &str, first: usize) -> String {
        format!("{value} BETWEEN ${first} AND ${}", first + 1)
    }

    /// Adds to the row, which is created when it is missing.
    pub(crate) fn add(model: &Model, counter: &Column) -> String {
        let keys = model.keys();
        let change = keys.len() + 1;
        let old = existing(model, counter);
        format!(
            "INSERT INTO {} ({}) VALUES ({}, {}{}) ON CONFLICT ({}) DO UPDATE SET {} = {old} + ${change} WHERE {} RETURNING {}",
            table(model),
            new_row_columns(model, counter),
            comma(1..=keys.len(), |index| format!("${index}")),
            from_start(counter, &format!("${change}")),
            trailing_values(model, counter),
            names(&keys),
            quote(&counter.name),
            room(&old, change + 1),
            quote(&counter.name),
        )
    }

    /// Adds to the row if it exists.
    pub(crate) fn add_existing(model: &Model, counter: &Column) -> String {
        let keys = model.keys();
        let change = keys.len() + 1;
        let name = quote(&counter.name);
        format!(
            "UPDATE {} SET {name} = {name} + ${change} WHERE {} AND {} RETURNING {name}",
            table(model),
            equal(&keys, 1),
            room(&name, change + 1),
        )
    }

    /// Reads the counter alone, to explain why nothing was added.
    pub(crate) fn read(model: &Model, counter: &Column) -> String {
        format!(
            "SELECT {} FROM {} WHERE {}",
            quote(&counter.name),
            table(model),
            equal(&model.keys(), 1)
        )
    }

    /// A batch: `head`, one `($n, $n, $n` + `row_tail` per row, `tail`; and if there is a guard `$n AND $n`, the lowest
    /// and the highest total, and what is `behind_bounds`.
    ///
    /// The parameters stand in the order in which they are bound, so that SQLite can have `?` for each.
    pub(crate) struct Batch {
        pub head: String,
        pub row_tail: String,
        pub tail: String,
        /// Whether rows that are missing are created.
        pub creates: bool,
        /// What follows the guard's bounds, if there is one.
        pub behind_bounds: Option<String>,
    }

    pub(crate) fn add_batch(model: &Model, counter: &Column, dialect: Dialect) -> Batch {
        let keys = model.keys();
        let name = quote(&counter.name);
        let old = existing(model, counter);
        let change = match counter.initial() {
            0 => format!("\"excluded\".{name}"),
            start => format!("(\"excluded\".{name} - {start})"),
        };
        let guarded = guarded(counter, dialect);
        let mut total = format!("{old} + {change}");
        let mut guard = String::new();
        if guarded {
            guard = format!(" WHERE {}", total_between(&old, &change, dialect));
        } else {
            // Without a guard nothing tells a row that refused from one that changed, so NULL has to fail.
            total = format!("CASE WHEN {old} IS NULL THEN {change} / 0 ELSE {total} END");
        }
        let (tail, behind_bounds) = returning(
            format!(
                " ON CONFLICT ({}) DO UPDATE SET {name} = {total}{guard}",
                names(&keys),
            ),
            model,
            counter,
            guarded,
        );
        Batch {
            head: format!(
                "INSERT INTO {} ({}) VALUES ",
                table(model),
                new_row_columns(model, counter)
            ),
            row_tail: format!("{})", trailing_values(model, counter)),
            tail,
            creates: true,
            behind_bounds,
        }
    }

    /// A batch for rows that exist.
    ///
    /// PostgreSQL locks the rows in the order in which they are given before it changes the first, as an upsert does
    /// by itself; two batches that overlap would else deadlock. The order of the key in the database would not do: a
    /// collation sorts text in another way than we do. SQLite has one writer at a time.
    pub(crate) fn add_existing_batch(model: &Model, counter: &Column, dialect: Dialect) -> Batch {
        let keys = model.keys();
        let name = quote(&counter.name);
        let rows = table(model);
        let key_names = comma(1..=keys.len(), |index| format!("\"rowlock_k{index}\""));
        let join = |left: &dyn Fn(usize, &Column) -> String| {
            and(keys.iter().enumerate(), |(index, key)| {
                format!(
                    "{} = \"rowlock_delta\".\"rowlock_k{}\"",
                    left(index + 1, key),
                    index + 1
                )
            })
        };
        let own = |column: &Column| format!("\"rowlock_row\".{}", quote(&column.name));
        let own_keys = comma(&keys, |key| own(key));
        let own_join = join(&|_, key| own(key));
        let change = "\"rowlock_delta\".\"rowlock_by\"";
        let guarded = guarded(counter, dialect);
        let guard = if guarded {
            let total = total_between(&own(counter), change, dialect);
            format!(" AND {total}")
        } else {
            String::new()
        };
        let (held, from_held) = match dialect {
            Dialect::Postgres => {
                let held_names = comma(1..=keys.len(), |index| format!("\"rowlock_h{index}\""));
                let held_join = join(&|index, _| format!("\"rowlock_held\".\"rowlock_h{index}\""));
                (
                    format!(
                        ", \"rowlock_held\" ({held_names}) AS MATERIALIZED (SELECT {own_keys} FROM {rows} AS \"rowlock_row\" JOIN (SELECT *, row_number() OVER () AS \"rowlock_n\" FROM \"rowlock_delta\") AS \"rowlock_delta\" ON {own_join} ORDER BY \"rowlock_n\" FOR NO KEY UPDATE OF \"rowlock_row\")"
                    ),
                    format!(" JOIN \"rowlock_held\" ON {held_join}"),
                )
            }
            Dialect::Sqlite => (String::new(), String::new()),
        };
        let (tail, behind_bounds) = returning(
            format!(
                "){held} UPDATE {rows} AS \"rowlock_row\" SET {name} = {} + {change} FROM \"rowlock_delta\"{from_held} WHERE {own_join}{guard}",
                own(counter),
            ),
            model,
            counter,
            guarded,
        );
        Batch {
            head: format!("WITH \"rowlock_delta\" ({key_names}, \"rowlock_by\") AS (VALUES "),
            row_tail: ")".to_owned(),
            tail,
            creates: false,
            behind_bounds,
        }
    }

    /// `tail` with the RETURNING behind it, which the bounds of a guard keep apart.
    ///
    /// SQLite takes no alias there, and needs none: the names of the other columns in the statement are ours.
    fn returning(
        mut tail: String,
        model: &Model,
        counter: &Column,
        guarded: bool,
    ) -> (String, Option<String>) {
        let keys = names(&model.keys());
        let returning = format!(" RETURNING {keys}, {}", quote(&counter.name));
        if guarded {
            return (tail, Some(returning));
        }
        tail.push_str(&returning);
        (tail, None)
    }

    /// PostgreSQL refuses an overflow itself; SQLite would turn the total into a floating-point number.
    fn guarded(counter: &Column, dialect: Dialect) -> bool {
        let declared = matches!(
            counter.role,
            Role::Counter { min: Some(_), .. } | Role::Counter { max: Some(_), .. }
        );
        declared || dialect == Dialect::Sqlite
    }

    /// The guard, up to its bounds.
    fn total_between(old: &str, change: &str, dialect: Dialect) -> String {
        match dialect {
            // `numeric` has no largest value, so the guard itself cannot overflow.
            Dialect::Postgres => format!("{old}::numeric + {change} BETWEEN "),
            Dialect::Sqlite => {
                format!("typeof({old} + {change}) = 'integer' AND {old} + {change} BETWEEN ")
            }
        }
    }
}

/// `Lockable`: rows that nobody else can change until the transaction ends. The lock clause is put behind a SELECT.
pub(crate) mod lockable {
    use super::*;

    /// Reads many rows in key order: what stands around the list of keys.
    pub(crate) fn select_many(model: &Model) -> (String, String) {
        let keys = model.keys();
        let all: Vec<&Column> = model.columns.iter().collect();
        (
            format!(
                "SELECT {} FROM {} WHERE ({}) IN (VALUES ",
                names(&all),
                table(model),
                names(&keys)
            ),
            format!(") ORDER BY {}", names(&keys)),
        )
    }

    /// Takes the write lock of a database that has no row locks, without changing anything.
    pub(crate) fn write_lock(model: &Model, dialect: Dialect) -> Option<String> {
        let key = quote(&model.keys().first()?.name);
        match dialect {
            Dialect::Postgres => None,
            Dialect::Sqlite => Some(format!(
                "UPDATE {} SET {key} = {key} WHERE false",
                table(model)
            )),
        }
    }

    /// What the database changed: the version, then everything that others write.
    pub(crate) fn returned(model: &Model) -> Vec<&Column> {
        let returned = super::versioned::returned(model);
        // RETURNING cannot be empty.
        if returned.is_empty() {
            model.keys()
        } else {
            returned
        }
    }

    /// Writes all columns of a row that is locked: `$1…` are the columns, then the key, then the fence if there is one. A
    /// version goes up.
    pub(crate) fn update(model: &Model) -> String {
        let columns = model.writable();
        let fence = columns.len() + model.keys().len() + 1;
        let mut set: Vec<String> = columns
            .iter()
            .enumerate()
            .map(|(index, column)| format!("{} = ${}", quote(&column.name), index + 1))
            .collect();
        set.extend(model.version().map(bump));
        set.extend(
            model
                .fence()
                .map(|column| format!("{} = ${fence}", quote(&column.name))),
        );
        if set.is_empty() {
            set.extend(
                model
                    .keys()
                    .first()
                    .map(|key| format!("{0} = {0}", quote(&key.name))),
            );
        }
        format!(
            "UPDATE {} SET {} WHERE {}{} RETURNING {}",
            table(model),
            set.join(", "),
            equal(&model.keys(), columns.len() + 1),
            and_not_fenced(model, fence),
            names(&returned(model))
        )
    }
}

/// `FindOrCreate`: find by a unique key, create, or overwrite.
pub(crate) mod find_or_create {
    use super::*;

    fn insert_into(model: &Model) -> String {
        let given = model.given();
        let fixed: Vec<&Column> = model
            .columns
            .iter()
            .filter(|column| column.role == Role::Version || column.is_counter())
            .collect();
        let mut columns = given.clone();
        columns.extend(&fixed);
        let mut values: Vec<String> = (1..=given.len()).map(|index| format!("${index}")).collect();
        values.extend(fixed.iter().map(|column| column.initial().to_string()));
        format!(
            "INSERT INTO {} ({}) VALUES ({})",
            table(model),
            names(&columns),
            values.join(", ")
        )
    }

    fn returning(model: &Model) -> String {
        let all: Vec<&Column> = model.columns.iter().collect();
        format!("RETURNING {}", names(&all))
    }

    /// Creates the row unless another one holds the key.
    pub(crate) fn insert(model: &Model, key: &UniqueKey) -> String {
        format!(
            "{} ON CONFLICT ({}) DO NOTHING {}",
            insert_into(model),
            names(&model.unique_columns(key)),
            returning(model)
        )
    }

    /// The columns that an upsert overwrites when the row exists: what the caller gave, but neither the key that
    /// was looked for nor the primary key.
    pub(crate) fn overwritten<'a>(model: &'a Model, key: &UniqueKey) -> Vec<&'a Column> {
        let lookup = model.unique_columns(key);
        model
            .given()
            .into_iter()
            .filter(|column| !column.key && !lookup.iter().any(|other| other.ident == column.ident))
            .collect()
    }

    /// Creates the row or overwrites the one that holds the key. `None` if there is nothing to overwrite.
    ///
    /// On a versioned model the version goes up, bounded by one more parameter: SQLite would turn an overflow
    /// into a floating-point number.
    pub(crate) fn upsert(model: &Model, key: &UniqueKey) -> Option<String> {
        let columns = overwritten(model, key);
        if columns.is_empty() {
            return None;
        }
        let mut set = comma(&columns, |column| {
            format!("{0} = \"excluded\".{0}", quote(&column.name))
        });
        let mut guards = Vec::new();
        if let Some(version) = model.version() {
            let old = existing(model, version);
            set.push_str(&format!(", {} = {old} + 1", quote(&version.name)));
            guards.push(format!("{old} < ${}", model.given().len() + 1));
        }
        if let Some(fence) = model.fence() {
            guards.push(format!(
                "{} <= \"excluded\".{}",
                existing(model, fence),
                quote(&fence.name)
            ));
        }
        let mut guard = guards.join(" AND ");
        if !guard.is_empty() {
            guard.insert_str(0, " WHERE ");
        }
        Some(format!(
            "{} ON CONFLICT ({}) DO UPDATE SET {set}{guard} {}",
            insert_into(model),
            names(&model.unique_columns(key)),
            returning(model)
        ))
    }
}

/// `Idempotent`: a ledger of requests. The key is bound first, as `$1…`, except in `finish`.
pub(crate) mod idempotent {
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

    /// The clock of the database: that of the moment, not of the transaction's start.
    fn now(dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Postgres => "clock_timestamp()",
            Dialect::Sqlite => "strftime('%Y-%m-%d %H:%M:%f', 'now')",
        }
    }

    /// So many seconds from now, or ago.
    fn now_and(sign: char, parameter: usize, dialect: Dialect) -> String {
        match dialect {
            Dialect::Postgres => {
                format!("clock_timestamp() {sign} make_interval(secs => ${parameter})")
            }
            Dialect::Sqlite => format!(
                "strftime('%Y-%m-%d %H:%M:%f', 'now', '{sign}' || ${parameter} || ' seconds')"
            ),
        }
    }

    /// What no claim of this key had before, and none will have: not after a purge either, when the row is new. So it is a
    /// time, in microseconds. SQLite knows milliseconds; there the rest is random.
    fn first_fence(dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Postgres => "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            Dialect::Sqlite => {
                "CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000 + abs(random() % 1000)"
            }
        }
    }

    /// Higher than the last one, also when the clock was put back.
    fn next_fence(last: &str, dialect: Dialect) -> String {
        let greatest = match dialect {
            Dialect::Postgres => "greatest",
            Dialect::Sqlite => "max",
        };
        format!("{greatest}({last} + 1, {})", first_fence(dialect))
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
            let until = now_and('+', lease, dialect);
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

        /// 1: another request, 2: finished, 3: leased, 4: free; and the outcome.
        pub(crate) fn read(&self, dialect: Dialect) -> String {
            format!(
                "SELECT CASE WHEN {} <> ${} THEN 1 WHEN {} IS NOT NULL THEN 2 WHEN {} > {} THEN 3 ELSE 4 END, {} FROM {} WHERE {}",
                quote(&self.fingerprint.name),
                self.keys.len() + 1,
                quote(&self.finished.name),
                quote(&self.lease.name),
                now(dialect),
                quote(&self.outcome.name),
                table(self.model),
                equal(&self.keys, 1),
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
            self.set_lease(&now_and('+', self.keys.len() + 2, dialect))
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
                now_and('-', 1, dialect),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quote::quote;

    use super::*;
    use crate::diag::Diag;
    use crate::lower::lower;

    const BOTH: [Dialect; 2] = [Dialect::Postgres, Dialect::Sqlite];

    fn model(input: proc_macro2::TokenStream) -> Model {
        let diag = Diag::new();
        let (model, _) = lower(&syn::parse2(input).unwrap(), &diag).unwrap();
        assert!(diag.finish().is_ok());
        model
    }

    fn page() -> Model {
        model(quote! {
            #[rowlock(table = "cms.pages", unique(site, path))]
            struct Page {
                #[rowlock(key, generated)] id: i64,
                site: i64,
                path: String,
                #[sqlx(rename = "a \"text\"")] text: String,
                #[rowlock(generated)] updated_at: i64,
                #[rowlock(default)] created_at: i64,
                #[rowlock(counter(min = 1))] views: i64,
                #[rowlock(version)] version: i64,
            }
        })
    }

    #[test]
    fn select_names_every_column() {
        let model = page();
        assert_eq!(
            select(&model, &model.keys()),
            r#"SELECT "id", "site", "path", "a ""text""", "updated_at", "created_at", "views", "version" FROM "cms"."pages" WHERE "id" = $1"#
        );
    }

    #[test]
    fn versioned_writes_what_is_the_callers_and_returns_the_rest() {
        let model = page();
        let version = model.version().unwrap();
        assert_eq!(
            versioned::update(&model, version),
            r#"UPDATE "cms"."pages" SET "site" = $1, "path" = $2, "a ""text""" = $3, "created_at" = $4, "version" = "version" + 1 WHERE "id" = $5 AND "version" = $6 RETURNING "version", "updated_at", "views""#
        );
        assert_eq!(
            versioned::touch(&model, version),
            r#"UPDATE "cms"."pages" SET "version" = "version" + 1 WHERE "id" = $1 AND "version" = $2 RETURNING "version", "updated_at", "views""#
        );
        let (head, tail) = versioned::save(&model, version);
        assert_eq!(head, r#"UPDATE "cms"."pages" SET "#);
        assert_eq!(format!("{head}{tail}"), versioned::touch(&model, version));
        assert_eq!(
            versioned::delete(&model, version),
            r#"DELETE FROM "cms"."pages" WHERE "id" = $1 AND "version" = $2"#
        );
    }

    #[test]
    fn a_version_alone_is_an_update_without_columns() {
        let model = model(quote! {
            #[rowlock(table = "locks")]
            struct Lock { #[rowlock(key)] a: i64, #[rowlock(key)] b: i64, #[rowlock(version)] v: i64 }
        });
        let version = model.version().unwrap();
        assert_eq!(
            versioned::update(&model, version),
            r#"UPDATE "locks" SET "v" = "v" + 1 WHERE "a" = $1 AND "b" = $2 AND "v" = $3 RETURNING "v""#
        );
    }

    fn seats() -> Model {
        model(quote! {
            #[rowlock(table = "shop.seats")]
            struct Seats {
                #[rowlock(key)] hall: String,
                #[rowlock(key)] day: i64,
                #[rowlock(counter)] taken: i64,
                #[rowlock(counter(min = 5))] free: i32,
                #[rowlock(version)] version: i64,
            }
        })
    }

    #[test]
    fn counter_creates_its_row_with_what_the_others_start_at() {
        let model = seats();
        let [taken, free] = model.counters()[..] else {
            panic!("two counters");
        };
        assert_eq!(
            counter::add(&model, taken),
            r#"INSERT INTO "shop"."seats" ("hall", "day", "taken", "free", "version") VALUES ($1, $2, $3, 5, 0) ON CONFLICT ("hall", "day") DO UPDATE SET "taken" = "seats"."taken" + $3 WHERE "seats"."taken" BETWEEN $4 AND $5 RETURNING "taken""#
        );
        assert_eq!(
            counter::add(&model, free),
            r#"INSERT INTO "shop"."seats" ("hall", "day", "free", "taken", "version") VALUES ($1, $2, 5 + $3, 0, 0) ON CONFLICT ("hall", "day") DO UPDATE SET "free" = "seats"."free" + $3 WHERE "seats"."free" BETWEEN $4 AND $5 RETURNING "free""#
        );
        assert_eq!(
            counter::add_existing(&model, taken),
            r#"UPDATE "shop"."seats" SET "taken" = "taken" + $3 WHERE "hall" = $1 AND "day" = $2 AND "taken" BETWEEN $4 AND $5 RETURNING "taken""#
        );
        assert_eq!(
            counter::read(&model, taken),
            r#"SELECT "taken" FROM "shop"."seats" WHERE "hall" = $1 AND "day" = $2"#
        );
    }

    fn joined(batch: &counter::Batch, row: &str, bounds: &str) -> String {
        assert_eq!(batch.behind_bounds.is_some(), !bounds.is_empty());
        let end = batch.behind_bounds.as_deref().unwrap_or_default();
        format!(
            "{}({row}{}{}{bounds}{end}",
            batch.head, batch.row_tail, batch.tail
        )
    }

    #[test]
    fn a_batch_guards_the_totals_where_the_database_would_not() {
        let model = seats();
        let [taken, free] = model.counters()[..] else {
            panic!("two counters");
        };
        let [postgres, sqlite] = BOTH.map(|dialect| counter::add_batch(&model, taken, dialect));
        assert!(postgres.creates && sqlite.creates);
        assert_eq!(
            joined(&postgres, "$1, $2, $3", ""),
            r#"INSERT INTO "shop"."seats" ("hall", "day", "taken", "free", "version") VALUES ($1, $2, $3, 5, 0) ON CONFLICT ("hall", "day") DO UPDATE SET "taken" = CASE WHEN "seats"."taken" IS NULL THEN "excluded"."taken" / 0 ELSE "seats"."taken" + "excluded"."taken" END RETURNING "hall", "day", "taken""#
        );
        assert_eq!(
            joined(&sqlite, "?, ?, ?", "? AND ?"),
            r#"INSERT INTO "shop"."seats" ("hall", "day", "taken", "free", "version") VALUES (?, ?, ?, 5, 0) ON CONFLICT ("hall", "day") DO UPDATE SET "taken" = "seats"."taken" + "excluded"."taken" WHERE typeof("seats"."taken" + "excluded"."taken") = 'integer' AND "seats"."taken" + "excluded"."taken" BETWEEN ? AND ? RETURNING "hall", "day", "taken""#
        );
        let bounded = counter::add_batch(&model, free, Dialect::Postgres);
        assert!(joined(&bounded, "$1, $2, $3", "$4 AND $5").contains(
            r#" WHERE "seats"."free"::numeric + ("excluded"."free" - 5) BETWEEN $4 AND $5 RETURNING "#
        ));
    }

    #[test]
    fn a_batch_on_existing_rows_locks_them_in_key_order_on_postgres() {
        let model = seats();
        let taken = model.counters()[0];
        let [postgres, sqlite] =
            BOTH.map(|dialect| counter::add_existing_batch(&model, taken, dialect));
        assert!(!postgres.creates && !sqlite.creates);
        assert_eq!(
            joined(&postgres, "$1, $2, $3", ""),
            r#"WITH "rowlock_delta" ("rowlock_k1", "rowlock_k2", "rowlock_by") AS (VALUES ($1, $2, $3)), "rowlock_held" ("rowlock_h1", "rowlock_h2") AS MATERIALIZED (SELECT "rowlock_row"."hall", "rowlock_row"."day" FROM "shop"."seats" AS "rowlock_row" JOIN (SELECT *, row_number() OVER () AS "rowlock_n" FROM "rowlock_delta") AS "rowlock_delta" ON "rowlock_row"."hall" = "rowlock_delta"."rowlock_k1" AND "rowlock_row"."day" = "rowlock_delta"."rowlock_k2" ORDER BY "rowlock_n" FOR NO KEY UPDATE OF "rowlock_row") UPDATE "shop"."seats" AS "rowlock_row" SET "taken" = "rowlock_row"."taken" + "rowlock_delta"."rowlock_by" FROM "rowlock_delta" JOIN "rowlock_held" ON "rowlock_held"."rowlock_h1" = "rowlock_delta"."rowlock_k1" AND "rowlock_held"."rowlock_h2" = "rowlock_delta"."rowlock_k2" WHERE "rowlock_row"."hall" = "rowlock_delta"."rowlock_k1" AND "rowlock_row"."day" = "rowlock_delta"."rowlock_k2" RETURNING "hall", "day", "taken""#
        );
        assert_eq!(
            joined(&sqlite, "?, ?, ?", "? AND ?"),
            r#"WITH "rowlock_delta" ("rowlock_k1", "rowlock_k2", "rowlock_by") AS (VALUES (?, ?, ?)) UPDATE "shop"."seats" AS "rowlock_row" SET "taken" = "rowlock_row"."taken" + "rowlock_delta"."rowlock_by" FROM "rowlock_delta" WHERE "rowlock_row"."hall" = "rowlock_delta"."rowlock_k1" AND "rowlock_row"."day" = "rowlock_delta"."rowlock_k2" AND typeof("rowlock_row"."taken" + "rowlock_delta"."rowlock_by") = 'integer' AND "rowlock_row"."taken" + "rowlock_delta"."rowlock_by" BETWEEN ? AND ? RETURNING "hall", "day", "taken""#
        );
    }

    #[test]
    fn find_or_create_gives_what_is_the_callers_and_lets_the_database_fill_the_rest() {
        let model = page();
        let key = &model.unique[0];
        assert_eq!(
            find_or_create::insert(&model, key),
            r#"INSERT INTO "cms"."pages" ("site", "path", "a ""text""", "views", "version") VALUES ($1, $2, $3, 1, 0) ON CONFLICT ("site", "path") DO NOTHING RETURNING "id", "site", "path", "a ""text""", "updated_at", "created_at", "views", "version""#
        );
        assert_eq!(
            find_or_create::upsert(&model, key).unwrap(),
            r#"INSERT INTO "cms"."pages" ("site", "path", "a ""text""", "views", "version") VALUES ($1, $2, $3, 1, 0) ON CONFLICT ("site", "path") DO UPDATE SET "a ""text""" = "excluded"."a ""text""", "version" = "pages"."version" + 1 WHERE "pages"."version" < $4 RETURNING "id", "site", "path", "a ""text""", "updated_at", "created_at", "views", "version""#
        );
    }

    #[test]
    fn nothing_to_overwrite_is_no_upsert() {
        let model = model(quote! {
            #[rowlock(table = "words")]
            struct Word { #[rowlock(key, generated)] id: i64, #[rowlock(unique)] word: String }
        });
        assert_eq!(find_or_create::upsert(&model, &model.unique[0]), None);
    }

    #[test]
    fn a_lock_reads_every_column_and_many_in_key_order() {
        let page = page();
        let (head, tail) = lockable::select_many(&page);
        assert_eq!(
            format!("{head}($1), ($2){tail}"),
            r#"SELECT "id", "site", "path", "a ""text""", "updated_at", "created_at", "views", "version" FROM "cms"."pages" WHERE ("id") IN (VALUES ($1), ($2)) ORDER BY "id""#
        );
        let (head, tail) = lockable::select_many(&seats());
        assert_eq!(
            format!("{head}($1, $2){tail}"),
            r#"SELECT "hall", "day", "taken", "free", "version" FROM "shop"."seats" WHERE ("hall", "day") IN (VALUES ($1, $2)) ORDER BY "hall", "day""#
        );
        assert_eq!(
            BOTH.map(|dialect| lockable::write_lock(&page, dialect)),
            [
                None,
                Some(r#"UPDATE "cms"."pages" SET "id" = "id" WHERE false"#.to_owned())
            ]
        );
    }

    #[test]
    fn a_locked_row_is_written_without_a_guard() {
        assert_eq!(
            lockable::update(&page()),
            r#"UPDATE "cms"."pages" SET "site" = $1, "path" = $2, "a ""text""" = $3, "created_at" = $4, "version" = "version" + 1 WHERE "id" = $5 RETURNING "version", "updated_at", "views""#
        );
        assert_eq!(
            lockable::update(&seats()),
            r#"UPDATE "shop"."seats" SET "version" = "version" + 1 WHERE "hall" = $1 AND "day" = $2 RETURNING "version", "taken", "free""#
        );
    }

    /// Neither SET nor RETURNING can be empty.
    #[test]
    fn a_locked_row_without_a_version_is_written_all_the_same() {
        let word = model(quote! {
            #[rowlock(table = "words")]
            struct Word { #[rowlock(key)] id: i64, #[rowlock(key)] lang: i64, word: String }
        });
        assert_eq!(
            lockable::update(&word),
            r#"UPDATE "words" SET "word" = $1 WHERE "id" = $2 AND "lang" = $3 RETURNING "id", "lang""#
        );
        let turn = model(quote! {
            #[rowlock(table = "turns")]
            struct Turn { #[rowlock(key)] id: i64, #[rowlock(key)] lang: i64 }
        });
        assert_eq!(
            lockable::update(&turn),
            r#"UPDATE "turns" SET "id" = "id" WHERE "id" = $1 AND "lang" = $2 RETURNING "id", "lang""#
        );
    }

    /// The text that a database reads out of a quoted name, or `None` if it does not end where it should.
    fn read_quoted(quoted: &str) -> Option<String> {
        let mut rest = quoted.strip_prefix('"')?.chars().peekable();
        let mut name = String::new();
        while let Some(next) = rest.next() {
            match next {
                '"' if rest.next_if_eq(&'"').is_some() => name.push('"'),
                '"' => return rest.next().is_none().then_some(name),
                other => name.push(other),
            }
        }
        None
    }

    proptest! {
        /// Reading the quoted name as a database does gives the name back, whatever is in it.
        #[test]
        fn any_name_survives_quoting(name in "[\"'\\\\a-z;\\PC-]{0,70}") {
            prop_assert_eq!(read_quoted(&quote(&name)), Some(name));
        }
    }

    fn ledger(model: &Model) -> idempotent::Ledger<'_> {
        use crate::model::LedgerRole;
        let column = |role| model.ledger(role).unwrap();
        idempotent::Ledger {
            model,
            keys: model.keys(),
            fingerprint: column(LedgerRole::Fingerprint),
            outcome: column(LedgerRole::Outcome),
            fence: model.fence().unwrap(),
            lease: column(LedgerRole::Lease),
            finished: column(LedgerRole::Finished),
        }
    }

    #[test]
    fn a_ledger_is_claimed_by_one_statement() {
        let model = model(quote! {
            #[rowlock(table = "shop.it's")]
            struct Payment {
                #[rowlock(key)] key: String,
                #[rowlock(fingerprint)] request: Vec<u8>,
                #[rowlock(outcome)] receipt: Option<String>,
                #[rowlock(fence)] fence: Fence,
                #[rowlock(lease)] lease: Timestamp,
                #[rowlock(finished)] done: Option<Timestamp>,
            }
        });
        let ledger = ledger(&model);
        assert_eq!(
            ledger.claim(Dialect::Postgres),
            r#"WITH "rowlock_lock" AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtextextended(jsonb_build_array($1)::text, '"shop"."it''s"'::regclass::oid::bigint)) AS "rowlock_taken"), "rowlock_free" AS MATERIALIZED (SELECT 1 FROM "shop"."it's" WHERE "key" = $1 AND "done" IS NULL AND ("lease" > clock_timestamp()) IS NOT TRUE AND "request" = $2 FOR NO KEY UPDATE SKIP LOCKED), "rowlock_claimed" ("rowlock_fence", "rowlock_same") AS (INSERT INTO "shop"."it's" ("key", "request", "fence", "lease") SELECT $1, $2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, clock_timestamp() + make_interval(secs => $3) FROM "rowlock_lock" WHERE "rowlock_taken" AND (NOT EXISTS (SELECT FROM "shop"."it's" WHERE "key" = $1) OR EXISTS (SELECT FROM "rowlock_free")) ON CONFLICT ("key") DO UPDATE SET "fence" = greatest("it's"."fence" + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), "lease" = clock_timestamp() + make_interval(secs => $3) WHERE "it's"."done" IS NULL AND ("it's"."lease" > clock_timestamp()) IS NOT TRUE AND "it's"."request" = $2 RETURNING "fence", "key" = $1) SELECT "rowlock_fence", CASE WHEN NOT "rowlock_taken" THEN 0 WHEN "rowlock_same" THEN 1 ELSE 2 END FROM "rowlock_lock" LEFT JOIN "rowlock_claimed" ON true"#
        );
        assert_eq!(
            ledger.claim(Dialect::Sqlite),
            r#"INSERT INTO "shop"."it's" ("key", "request", "fence", "lease") VALUES ($1, $2, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000 + abs(random() % 1000), strftime('%Y-%m-%d %H:%M:%f', 'now', '+' || $3 || ' seconds')) ON CONFLICT ("key") DO UPDATE SET "fence" = max("it's"."fence" + 1, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000 + abs(random() % 1000)), "lease" = strftime('%Y-%m-%d %H:%M:%f', 'now', '+' || $3 || ' seconds') WHERE "it's"."done" IS NULL AND ("it's"."lease" > strftime('%Y-%m-%d %H:%M:%f', 'now')) IS NOT TRUE AND "it's"."request" = $2 RETURNING "fence", CASE WHEN "key" = $1 THEN 1 ELSE 2 END"#
        );
        assert_eq!(
            ledger.finish(Dialect::Postgres),
            r#"UPDATE "shop"."it's" SET "receipt" = $1, "done" = clock_timestamp() WHERE "key" = $2 AND "fence" = $3 AND "done" IS NULL"#
        );
    }

    #[test]
    fn every_write_shows_the_fence() {
        let model = model(quote! {
            #[rowlock(table = "reports", unique(name))]
            struct Report {
                #[rowlock(key, generated)] id: i64,
                name: String,
                #[rowlock(fence)] fence: Fence,
                #[rowlock(version)] version: i64,
            }
        });
        let version = model.version().unwrap();
        assert_eq!(
            versioned::update(&model, version),
            r#"UPDATE "reports" SET "name" = $1, "version" = "version" + 1, "fence" = $4 WHERE "id" = $2 AND "version" = $3 AND "fence" <= $4 RETURNING "version""#
        );
        assert_eq!(
            versioned::touch(&model, version),
            r#"UPDATE "reports" SET "version" = "version" + 1, "fence" = $3 WHERE "id" = $1 AND "version" = $2 AND "fence" <= $3 RETURNING "version""#
        );
        assert_eq!(
            versioned::delete(&model, version),
            r#"DELETE FROM "reports" WHERE "id" = $1 AND "version" = $2 AND "fence" <= $3"#
        );
        assert_eq!(
            lockable::update(&model),
            r#"UPDATE "reports" SET "name" = $1, "version" = "version" + 1, "fence" = $3 WHERE "id" = $2 AND "fence" <= $3 RETURNING "version""#
        );
        assert_eq!(
            find_or_create::upsert(&model, &model.unique[0]).unwrap(),
            r#"INSERT INTO "reports" ("name", "fence", "version") VALUES ($1, $2, 0) ON CONFLICT ("name") DO UPDATE SET "fence" = "excluded"."fence", "version" = "reports"."version" + 1 WHERE "reports"."version" < $3 AND "reports"."fence" <= "excluded"."fence" RETURNING "id", "name", "fence", "version""#
        );
    }
}
