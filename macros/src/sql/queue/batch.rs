//! Statements about many claims: an array per column on PostgreSQL, one JSON text on SQLite. A row is written if its claim
//! still holds.

use super::*;

/// What a batch says about each row beside its key and its fence: the name, and the type of the array if there is one.
type Said = &'static [(&'static str, &'static str)];

/// How a batch locks its rows.
#[derive(Clone, Copy)]
pub(crate) enum Locks {
    /// Each when it is written.
    AsWritten,
    /// All of them before, in the order of their keys.
    InOrder,
}

/// What becomes of the rows of a batch.
#[derive(Clone, Copy)]
enum Write<'s> {
    Set(&'s str),
    Delete,
}

impl Write<'_> {
    /// The statement up to what stands beside the table.
    fn of(self, rows: &str) -> String {
        match self {
            Self::Set(set) => format!("UPDATE {rows} AS \"rowlock_row\" SET {set}"),
            Self::Delete => format!("DELETE FROM {rows} AS \"rowlock_row\""),
        }
    }

    /// How strong a lock it needs: a row that another table refers to must not go before those who refer to it.
    fn locks(self) -> &'static str {
        match self {
            Self::Set(_) => "FOR NO KEY UPDATE",
            Self::Delete => "FOR UPDATE",
        }
    }

    /// What comes before a table that stands beside.
    fn beside(self) -> &'static str {
        match self {
            Self::Set(_) => "FROM",
            Self::Delete => "USING",
        }
    }
}

impl Queue<'_> {
    pub(crate) fn complete_many(&self, locks: Locks, dialect: Dialect) -> Statement {
        let claims = self.claims(&[], dialect);
        if self.model.deletes_done {
            return self.many(claims, Write::Delete, &[], locks);
        }
        let set = self.becomes(State::Done, dialect);
        self.many(claims, Write::Set(&set), &[], locks)
    }

    /// Puts rows back, or gives them up. A row says: its next state, in how many seconds it is due again or NULL for the time it
    /// has, how many attempts it has had, and the error or NULL.
    pub(crate) fn settle(&self, locks: Locks, dialect: Dialect) -> Statement {
        const SAID: Said = &[
            ("rowlock_state", "text"),
            ("rowlock_delay", "float8"),
            ("rowlock_attempts", "bigint"),
            ("rowlock_error", "text"),
        ];
        let set = self.settled(dialect);
        self.many(self.claims(SAID, dialect), Write::Set(&set), SAID, locks)
    }

    fn settled(&self, dialect: Dialect) -> String {
        let (run_at, attempts) = (quote(&self.run_at.name), quote(&self.attempts.name));
        let later = now_and('+', "\"rowlock_delay\"", dialect);
        let mut set = format!(
            "{}, \
             {run_at} = CASE WHEN \"rowlock_delay\" IS NULL THEN {run_at} ELSE {later} END, \
             {attempts} = \"rowlock_attempts\"",
            self.becomes_if(
                [
                    ("\"rowlock_state\" = 'dead'", State::Dead),
                    ("\"rowlock_state\" = 'ready'", State::Ready),
                ],
                dialect
            ),
        );
        if let Some(error) = self.last_error {
            let error = quote(&error.name);
            set.push_str(&format!(", {error} = coalesce(\"rowlock_error\", {error})"));
        }
        set
    }

    /// Counts attempts that begin now. A row says how many that makes: the same again if the answer was lost.
    pub(crate) fn start(&self, locks: Locks, dialect: Dialect) -> Statement {
        const SAID: Said = &[("rowlock_attempts", "bigint")];
        let set = format!("{} = \"rowlock_attempts\"", quote(&self.attempts.name));
        self.many(self.claims(SAID, dialect), Write::Set(&set), SAID, locks)
    }

    /// Begins new leases. For how many seconds is bound after the rows.
    ///
    /// A heartbeat waits for nobody: a row may be locked by the very job that is working on it, in a transaction, and the
    /// other rows of the worker must not lose their leases meanwhile. A row that is locked keeps its lease, and is not lost.
    pub(crate) fn extend(&self, locks: Locks, dialect: Dialect) -> Statement {
        let mut sql = self.claims(&[], dialect);
        let later = now_and('+', &sql.slot(Slot::Seconds), dialect);
        let set = format!("{} = {later}", quote(&self.lease.name));
        self.many(sql, Write::Set(&set), &[], locks)
    }

    /// Binds the claims before anything else: arrays of the keys and of the fences, or all that is said about the rows.
    fn claims(&self, said: Said, dialect: Dialect) -> Sql {
        let mut sql = Sql::new(dialect);
        match dialect {
            Dialect::Postgres => self.unnested(&mut sql),
            Dialect::Sqlite => self.json(&mut sql, said),
        };
        sql
    }

    /// The rows of a batch on SQLite.
    fn json(&self, sql: &mut Sql, said: Said) -> String {
        let claim = self.keys.iter().map(|key| Slot::key(key));
        let said = said.iter().map(|(name, _)| Slot::Said(name));
        let row = claim.chain([Slot::Fence]).chain(said).collect();
        format!("json_each({})", sql.slot(Slot::Rows(row)))
    }

    /// Writes those rows of a batch whose claims still hold, and returns their keys and fences; those of the others where it has locked
    /// all before.
    fn many(&self, mut sql: Sql, write: Write<'_>, said: Said, locks: Locks) -> Statement {
        let rows = table(self.model);
        let update = write.of(&rows);
        match (sql.dialect, locks) {
            (Dialect::Postgres, Locks::InOrder) => self.locked_or_lost(sql, write, said),
            (Dialect::Postgres, Locks::AsWritten) if said.is_empty() => {
                let (batch, condition) = self.held(&mut sql);
                let from = batch.map(|batch| format!(" {} {batch}", write.beside()));
                let from = from.unwrap_or_default();
                self.written(sql, &format!("{update}{from} WHERE {condition}"))
            }
            (Dialect::Postgres, Locks::AsWritten) => {
                let said = self.said(&mut sql, said);
                self.written(sql, &format!("{update} {said}"))
            }
            // SQLite takes no alias in RETURNING, and returns nothing but the row. It has no locks of rows.
            (Dialect::Sqlite, Locks::AsWritten | Locks::InOrder) => {
                // Materialized, or without an index the JSON would be parsed anew for each row of the table.
                let batch = format!(
                    "WITH \"rowlock_batch\" ({}) AS MATERIALIZED (SELECT {} FROM {})",
                    self.columns_said(said),
                    of_json(&self.keys, 1 + said.len()),
                    self.json(&mut sql, said),
                );
                let text = match write {
                    Write::Set(_) => format!(
                        "{batch} {update} FROM \"rowlock_batch\" WHERE {}",
                        self.joined_with_batch()
                    ),
                    // There is no USING. By the keys alone, too, which have an index.
                    Write::Delete => format!(
                        "{batch} DELETE FROM {rows} WHERE ({keys}) IN (SELECT {} FROM \"rowlock_batch\") \
                         AND ({keys}, {}) IN (SELECT * FROM \"rowlock_batch\") AND {}",
                        parts(&self.keys),
                        quote(&self.fence.name),
                        self.is(State::Running),
                        keys = names(&self.keys),
                    ),
                };
                let mut claim = self.keys.clone();
                claim.push(self.fence);
                sql.statement(text).returning(each_name(&claim))
            }
        }
    }

    /// An update of a batch on PostgreSQL.
    ///
    /// It returns what it wrote. Those that were lost, which are mostly none, would be fewer rows; but to find them takes the server longer than to
    /// send a few hundred.
    fn written(&self, sql: Sql, update: &str) -> Statement {
        let keys = self.keys.iter().map(|key| of_row(key));
        sql.statement(format!("{update}{}", Gap::ByKey))
            .returning(keys.chain([of_row(self.fence)]).collect())
    }

    /// The same, after the rows were locked in the one order that row locks and batches of counters have as well. With SKIP LOCKED
    /// it is about those that are free. It returns the others, and whether they only are locked (1), or lost (0).
    fn locked_or_lost(&self, mut sql: Sql, write: Write<'_>, said: Said) -> Statement {
        let (rows, parts) = (table(self.model), parts(&self.keys));
        let (claim, columns) = (self.claim_parts(), self.claim_columns());
        let own = comma(&self.keys, |key| of_row(key));
        let (batch, condition) = self.held(&mut sql);
        let beside = batch.map(|batch| format!(", {batch}")).unwrap_or_default();
        let mine = format!("{rows} AS \"rowlock_row\"{beside} WHERE {condition}");
        let found = match said {
            [] => self.found_in("rowlock_held", write.beside()),
            // Joined, each row of the batch can be compared with each that is held.
            _ => format!(
                "{} AND (({own}) IN (SELECT * FROM \"rowlock_held\")) IS TRUE",
                self.said(&mut sql, said)
            ),
        };
        let text = format!(
            "WITH \"rowlock_mine\" AS MATERIALIZED (SELECT {columns} FROM {mine}), \
             \"rowlock_held\" ({parts}) AS MATERIALIZED (SELECT {own} FROM {mine} ORDER BY {own} {} OF \"rowlock_row\"{}), \
             \"rowlock_written\" AS ({} {found}{} RETURNING {columns}) \
             SELECT {claim}, (({claim}) IN (SELECT * FROM \"rowlock_mine\"))::int {}",
            write.locks(),
            Gap::SkipLocked,
            write.of(&rows),
            Gap::ByKey,
            self.not_written(&mut sql),
        );
        sql.statement(text)
    }

    /// The rows of a batch whose claims hold, on PostgreSQL: what stands beside the table, if anything, and the condition.
    ///
    /// Looked up by the primary key, as in [`found_in`](Self::found_in); the pairs of key and fence are in a hash table. Joined, each row can be
    /// compared with each pair.
    fn held(&self, sql: &mut Sql) -> (Option<String>, String) {
        if let [key] = self.keys.as_slice() {
            let unnested = self.unnested(sql);
            let (key, fence) = (of_row(key), of_row(self.fence));
            let condition = format!(
                "{key} = ANY ({}) AND {} AND (({key}, {fence}) IN (SELECT * FROM {unnested})) IS TRUE",
                self.key_arrays(sql),
                self.is_named(State::Running, of_row),
            );
            return (None, condition);
        }
        let batch = format!(
            "{} AS \"rowlock_batch\" ({})",
            self.unnested(sql),
            self.claim_parts()
        );
        (Some(batch), self.joined_with_batch())
    }

    /// The key and the fence, which tell claims apart.
    fn claim_columns(&self) -> String {
        comma(self.keys.iter().chain(&[self.fence]), |column| {
            of_row(column)
        })
    }

    fn claim_parts(&self) -> String {
        format!("{}, \"rowlock_fence\"", parts(&self.keys))
    }

    fn not_written(&self, sql: &mut Sql) -> String {
        let (unnested, claim) = (self.unnested(sql), self.claim_parts());
        format!(
            "FROM {unnested} AS \"rowlock_lost\" ({claim}) WHERE ({claim}) NOT IN (SELECT * FROM \"rowlock_written\")"
        )
    }

    /// ` AND` the keys are those of the batch, for the [`Gap::ByKey`] of statements that say something about each row. A key of one column is asked for
    /// by itself too: the primary key finds the rows of a small batch, though the plan was made when the table had few.
    ///
    /// Not of a large one: the planner then compares each row that it finds with each of the batch, and six thousand rows took most of a second instead of 33
    /// milliseconds.
    pub(crate) fn by_key(&self, dialect: Dialect) -> String {
        match (dialect, self.keys.as_slice()) {
            (Dialect::Postgres, [key]) => {
                let keys = self.key_arrays(&mut Sql::new(dialect));
                format!(" AND {} = ANY ({keys})", of_row(key))
            }
            _ => String::new(),
        }
    }

    /// The rows of a batch on PostgreSQL with what it says about them, behind SET.
    fn said(&self, sql: &mut Sql, said: Said) -> String {
        let keys = self.key_arrays(sql);
        let fences = sql.slot(Slot::Fences);
        let arrays: String = said
            .iter()
            .map(|(name, ty)| format!(", {}::{ty}[]", sql.slot(Slot::Said(name))))
            .collect();
        format!(
            "FROM unnest({keys}, {fences}::bigint[]{arrays}) AS \"rowlock_batch\" ({}) WHERE {}",
            self.columns_said(said),
            self.joined_with_batch()
        )
    }

    fn columns_said(&self, said: Said) -> String {
        let said = said.iter().map(|(name, _)| format!(", \"{name}\""));
        self.claim_parts() + &said.collect::<String>()
    }

    /// The state is asked for in a form of which no planner knows how many rows have it. Statistics from a moment when nothing ran make it expect one
    /// running row, for which it would compare each row of the batch with each: a thousand took 110 milliseconds, and take 3 in a hash table.
    fn joined_with_batch(&self) -> String {
        format!(
            "{} AND {} = \"rowlock_fence\" AND CASE WHEN {} THEN true END",
            same_key(&self.keys, "rowlock_batch"),
            of_row(self.fence),
            self.is_named(State::Running, of_row),
        )
    }

    /// The keys and fences of a batch, as a table.
    fn unnested(&self, sql: &mut Sql) -> String {
        let (keys, fences) = (self.key_arrays(sql), sql.slot(Slot::Fences));
        format!("unnest({keys}, {fences}::bigint[])")
    }

    /// An array per column of the key. Texts become those of the column: blanks at their ends do not count in a `char(n)`, and the
    /// keys that a claim returned have them.
    fn key_arrays(&self, sql: &mut Sql) -> String {
        comma(&self.keys, |key| {
            let array = sql.slot(Slot::keys(key));
            if last_segment(&key.ty).is_some_and(|name| name == "String") {
                let (name, rows) = (quote(&key.name), table(self.model));
                format!("array_cat(ARRAY(SELECT {name} FROM {rows} WHERE false), {array})")
            } else {
                array
            }
        })
    }
}
