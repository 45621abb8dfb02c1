//! `Queue`: rows that are claimed, worked on and finished.

use super::clock::{next_fence, now, now_and};
use super::*;
use crate::model::{Priority, last_segment};

/// The columns by their roles, which the derive has checked to be there.
pub(crate) struct Queue<'m> {
    pub model: &'m Model,
    pub keys: Vec<&'m Column>,
    pub state: &'m Column,
    pub run_at: &'m Column,
    pub attempts: &'m Column,
    pub fence: &'m Column,
    pub lease: &'m Column,
    pub last_error: Option<&'m Column>,
    pub finished: Option<&'m Column>,
    pub max_attempts: i64,
}

/// A statement about many rows. On PostgreSQL it is one literal, which takes an array per column; on SQLite the rows stand
/// between the two parts, as `(?, ?, …), (?, ?, …)`.
pub(crate) struct Batch {
    pub head: String,
    pub tail: String,
}

impl Batch {
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.head, self.tail)
    }
}

/// What a batch says about each row beside its key and its fence: the name, and the type of the array.
type Said = &'static [(&'static str, &'static str)];

/// How a batch locks its rows.
#[derive(Clone, Copy)]
pub(crate) enum Locks {
    /// Each when it is written.
    AsWritten,
    /// All of them before, in the order of their keys.
    InOrder,
}

fn passing_over(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => " FOR NO KEY UPDATE SKIP LOCKED",
        Dialect::Sqlite => "",
    }
}

impl<'m> Queue<'m> {
    pub(crate) fn priorities(&self) -> Vec<(&'m Column, Priority)> {
        let columns = self.model.columns.iter();
        columns
            .filter_map(|column| Some((column, column.priority?)))
            .collect()
    }

    pub(crate) fn filters(&self) -> Vec<&'m Column> {
        let columns = self.model.columns.iter();
        columns.filter(|column| column.filter).collect()
    }

    /// The order of claims: the priorities, the time, the key. The claim index has the same.
    fn order(&self, dialect: Dialect) -> String {
        let priorities = self.priorities();
        let priorities = priorities.iter().map(|(column, first)| match first {
            Priority::LowestFirst => quote(&column.name),
            Priority::HighestFirst => format!("{} DESC", quote(&column.name)),
        });
        let run_at = std::iter::once(self.due(dialect));
        let keys = self.keys.iter().map(|key| quote(&key.name));
        comma(priorities.chain(run_at).chain(keys), |term| term)
    }

    /// The time when the row is due, as it can be compared. SQLite has no type for it: sqlx writes texts in another format than
    /// SQLite does, and only a number compares with both.
    fn due(&self, dialect: Dialect) -> String {
        let run_at = quote(&self.run_at.name);
        match dialect {
            Dialect::Postgres => run_at,
            Dialect::Sqlite => format!("julianday({run_at})"),
        }
    }

    /// For how many seconds the row has been due.
    ///
    /// Epochs, because PostgreSQL cannot subtract an infinite timestamp.
    fn waited(&self, dialect: Dialect) -> String {
        let run_at = quote(&self.run_at.name);
        let waited = match dialect {
            Dialect::Postgres => {
                format!("date_part('epoch', statement_timestamp()) - date_part('epoch', {run_at})")
            }
            Dialect::Sqlite => {
                format!("(julianday('now') - julianday({run_at})) * 86400.0")
            }
        };
        format!("{waited} AS \"rowlock_waited\"")
    }

    fn is(&self, state: &str) -> String {
        format!("{} = {}", quote(&self.state.name), text(state))
    }

    /// One of several states. The column itself is among them, so that the literals have its type: to a column of an enum
    /// PostgreSQL assigns no text.
    fn chosen(&self, cases: &str) -> String {
        format!("CASE {cases} ELSE {} END", quote(&self.state.name))
    }

    fn now_finished(&self, dialect: Dialect) -> String {
        match self.finished {
            Some(finished) => format!(", {} = {}", quote(&finished.name), now(dialect)),
            None => String::new(),
        }
    }

    /// Claims `$1` rows for `$2` seconds; more conditions about the columns go between the two parts. `$3` is 1 if their attempts
    /// begin now, and 0 if [`start`](Self::start) is going to count them.
    ///
    /// On PostgreSQL the rows are chosen in a CTE that runs once, whatever the planner thinks of it: as a subquery in WHERE it
    /// can be run for each row of the table, and every run skips what the one before has locked. `statement_timestamp()` and not
    /// `clock_timestamp()`, with which no index can be searched.
    pub(crate) fn claim(&self, dialect: Dialect) -> Batch {
        let rows = table(self.model);
        let all: Vec<&Column> = self.model.columns.iter().collect();
        let keys = names(&self.keys);
        let (attempts, fence) = (quote(&self.attempts.name), quote(&self.fence.name));
        let due = format!("SELECT {keys} FROM {rows} WHERE {}", self.is_due(dialect));
        let set = format!(
            "SET {}, {attempts} = {} + $3, {fence} = {}, {} = {}",
            self.is("running"),
            self.room_for_one(dialect),
            next_fence(&fence, dialect),
            quote(&self.lease.name),
            now_and('+', "$2", dialect),
        );
        let (order, waited) = (self.order(dialect), self.waited(dialect));
        match dialect {
            Dialect::Postgres => {
                let parts = self.parts();
                let found = self.found_in("rowlock_due");
                Batch {
                    head: format!("WITH \"rowlock_due\" ({parts}) AS MATERIALIZED ({due}"),
                    tail: format!(
                        " ORDER BY {order} LIMIT $1{}) \
                         UPDATE {rows} AS \"rowlock_row\" {set} {found} RETURNING {}, {waited}",
                        passing_over(dialect),
                        comma(&all, |column| format!(
                            "\"rowlock_row\".{}",
                            quote(&column.name)
                        )),
                    ),
                }
            }
            Dialect::Sqlite => Batch {
                head: format!("UPDATE {rows} {set} WHERE ({keys}) IN ({due}"),
                tail: format!(
                    " ORDER BY {order} LIMIT $1) AND {} RETURNING {}, {waited}",
                    self.is("ready"),
                    names(&all),
                ),
            },
        }
    }

    /// The attempts, as far as one more can be counted: a claim finds also rows with more than there may be, and all that the column
    /// holds.
    fn room_for_one(&self, dialect: Dialect) -> String {
        let most = match last_segment(&self.attempts.ty).as_deref() {
            Some("i16") => i64::from(i16::MAX),
            Some("i32") => i64::from(i32::MAX),
            _ => i64::MAX,
        };
        let least = match dialect {
            Dialect::Postgres => "least",
            Dialect::Sqlite => "min",
        };
        format!("{least}({}, {})", quote(&self.attempts.name), most - 1)
    }

    fn is_due(&self, dialect: Dialect) -> String {
        let at = match dialect {
            Dialect::Postgres => "statement_timestamp()",
            Dialect::Sqlite => "julianday('now')",
        };
        // Also a row without attempts left, which ends as dead: it would be ready for ever.
        format!("{} AND {} <= {at}", self.is("ready"), self.due(dialect))
    }

    /// What tells a row apart that cannot be read as a whole: the key, the fence, the attempts.
    fn identity(&self) -> String {
        comma(
            self.keys.iter().chain([&self.fence, &self.attempts]),
            |column| quote(&column.name),
        )
    }

    /// Looks which rows a claim of `$1` rows would take, for when one of them cannot be claimed.
    pub(crate) fn list_due(&self, dialect: Dialect) -> Batch {
        let order = self.order(dialect);
        Batch {
            head: format!(
                "SELECT {} FROM {} WHERE {}",
                self.identity(),
                table(self.model),
                self.is_due(dialect)
            ),
            tail: format!(" ORDER BY {order} LIMIT $1{}", passing_over(dialect)),
        }
    }

    /// Looks which rows a rescue would take back.
    pub(crate) fn list_ended(&self, dialect: Dialect) -> String {
        format!(
            "SELECT {} FROM {} WHERE {}{}",
            self.identity(),
            table(self.model),
            self.has_ended(dialect),
            passing_over(dialect),
        )
    }

    /// Takes one row out of the way: the fence it has, its attempts, the error if there is a column for it, and the seconds until
    /// it is due again; then the conditions about its key. For ever, without the seconds.
    pub(crate) fn set_aside(&self, for_ever: bool, dialect: Dialect) -> String {
        let state = self.is(if for_ever { "dead" } else { "ready" });
        let mut set = format!("{state}, {} = $2", quote(&self.attempts.name));
        let mut parameter = 2;
        if let Some(error) = self.last_error {
            parameter += 1;
            set.push_str(&format!(", {} = ${parameter}", quote(&error.name)));
        }
        if for_ever {
            set.push_str(&self.now_finished(dialect));
        } else {
            let later = now_and('+', &format!("${}", parameter + 1), dialect);
            set.push_str(&format!(", {} = {later}", quote(&self.run_at.name)));
        }
        format!(
            "UPDATE {} SET {set} WHERE {} = $1 AND ({} OR {})",
            table(self.model),
            quote(&self.fence.name),
            self.is("ready"),
            self.is("running"),
        )
    }

    /// `"rowlock_k1", "rowlock_k2"`: the key in a CTE.
    fn parts(&self) -> String {
        comma(1..=self.keys.len(), |index| format!("\"rowlock_k{index}\""))
    }

    /// The rows whose keys are in a CTE of PostgreSQL, behind SET.
    ///
    /// As an array they are looked up by the primary key, whatever the planner knows of the table: a join may read all of it.
    fn found_in(&self, cte: &str) -> String {
        match self.keys.as_slice() {
            [key] => format!(
                "WHERE \"rowlock_row\".{} = ANY (ARRAY(SELECT \"rowlock_k1\" FROM \"{cte}\"))",
                quote(&key.name)
            ),
            _ => format!("FROM \"{cte}\" WHERE {}", self.joined(cte)),
        }
    }

    /// The rows of a batch whose claims hold, on PostgreSQL: what stands beside the table, if anything, and the condition. The
    /// arrays of the key are bound first, then that of the fences.
    ///
    /// Looked up by the primary key for the same reason; the pairs of key and fence are in a hash table. Joined, each row can be
    /// compared with each pair.
    fn held(&self) -> (Option<String>, String) {
        let arrays = self.claims_given();
        let fence = format!("\"rowlock_row\".{}", quote(&self.fence.name));
        let running = format!("\"rowlock_row\".{}", self.is("running"));
        if let [key] = self.keys.as_slice() {
            let key = format!("\"rowlock_row\".{}", quote(&key.name));
            let condition = format!(
                "{key} = ANY ({}) AND {running} AND (({key}, {fence}) IN (SELECT * FROM {arrays})) IS TRUE",
                self.key_arrays()
            );
            return (None, condition);
        }
        let batch = format!(
            "{arrays} AS \"rowlock_batch\" ({}, \"rowlock_fence\")",
            self.parts()
        );
        let joined = self.joined("rowlock_batch");
        let condition = format!("{joined} AND {fence} = \"rowlock_fence\" AND {running}");
        (Some(batch), condition)
    }

    /// The key and the fence, which tell claims apart.
    fn claim_columns(&self) -> String {
        comma(self.keys.iter().chain([&self.fence]), |column| {
            format!("\"rowlock_row\".{}", quote(&column.name))
        })
    }

    fn joined(&self, with: &str) -> String {
        and(self.keys.iter().enumerate(), |(index, key)| {
            let part = index + 1;
            let name = quote(&key.name);
            format!("\"rowlock_row\".{name} = \"{with}\".\"rowlock_k{part}\"")
        })
    }

    /// Ends the work on a row: the key, then the fence.
    pub(crate) fn complete(&self, dialect: Dialect) -> String {
        format!(
            "UPDATE {} SET {}{} WHERE {} AND {} = ${} AND {}",
            table(self.model),
            self.is("done"),
            self.now_finished(dialect),
            equal(&self.keys, 1),
            quote(&self.fence.name),
            self.keys.len() + 1,
            self.is("running"),
        )
    }

    /// Looks what became of a row whose claim could not be finished: the key, then the fence. Returns its state, if no other claim has it.
    pub(crate) fn look(&self, dialect: Dialect) -> String {
        let state = quote(&self.state.name);
        let text = match dialect {
            Dialect::Postgres => "::text",
            Dialect::Sqlite => "",
        };
        format!(
            "SELECT {state}{text} FROM {} WHERE {} AND {} = ${}",
            table(self.model),
            equal(&self.keys, 1),
            quote(&self.fence.name),
            self.keys.len() + 1,
        )
    }

    pub(crate) fn complete_many(&self, locks: Locks, dialect: Dialect) -> Batch {
        let set = format!("{}{}", self.is("done"), self.now_finished(dialect));
        self.many(&set, &[], locks, dialect)
    }

    /// Puts rows back, or gives them up. A row says: its next state, in how many seconds it is due again or NULL for the time it
    /// has, how many attempts it has had, and the error or NULL.
    pub(crate) fn settle(&self, locks: Locks, dialect: Dialect) -> Batch {
        const SAID: Said = &[
            ("rowlock_state", "text"),
            ("rowlock_delay", "float8"),
            ("rowlock_attempts", "bigint"),
            ("rowlock_error", "text"),
        ];
        let set = self.settled(dialect);
        self.many(&set, SAID, locks, dialect)
    }

    fn settled(&self, dialect: Dialect) -> String {
        let (run_at, attempts) = (quote(&self.run_at.name), quote(&self.attempts.name));
        let later = now_and('+', "\"rowlock_delay\"", dialect);
        let mut set = format!(
            "{} = {}, \
             {run_at} = CASE WHEN \"rowlock_delay\" IS NULL THEN {run_at} ELSE {later} END, \
             {attempts} = \"rowlock_attempts\"",
            quote(&self.state.name),
            self.chosen(
                "WHEN \"rowlock_state\" = 'ready' THEN 'ready' WHEN \"rowlock_state\" = 'dead' THEN 'dead'"
            ),
        );
        if let Some(error) = self.last_error {
            let error = quote(&error.name);
            set.push_str(&format!(", {error} = coalesce(\"rowlock_error\", {error})"));
        }
        set.push_str(&self.finished_if("\"rowlock_state\" = 'dead'", dialect));
        set
    }

    /// Counts attempts that begin now. A row says how many that makes: the same again if the answer was lost.
    pub(crate) fn start(&self, locks: Locks, dialect: Dialect) -> Batch {
        const SAID: Said = &[("rowlock_attempts", "bigint")];
        let set = format!("{} = \"rowlock_attempts\"", quote(&self.attempts.name));
        self.many(&set, SAID, locks, dialect)
    }

    fn finished_if(&self, condition: &str, dialect: Dialect) -> String {
        let Some(finished) = self.finished else {
            return String::new();
        };
        let finished = quote(&finished.name);
        format!(
            ", {finished} = CASE WHEN {condition} THEN {} ELSE {finished} END",
            now(dialect)
        )
    }

    /// Begins new leases. On SQLite a row says for how many seconds; on PostgreSQL that is bound once, behind the arrays.
    ///
    /// A heartbeat waits for nobody: a row may be locked by the very job that is working on it, in a transaction, and the
    /// other rows of the worker must not lose their leases meanwhile. A row that is locked keeps its lease, and is not lost.
    pub(crate) fn extend(&self, locks: Locks, dialect: Dialect) -> Batch {
        let lease = quote(&self.lease.name);
        match dialect {
            Dialect::Postgres => {
                let later = now_and('+', &self.parameter_behind_arrays(), dialect);
                self.many(&format!("{lease} = {later}"), &[], locks, dialect)
            }
            Dialect::Sqlite => {
                let later = now_and('+', "\"rowlock_lease\"", dialect);
                let said = &[("rowlock_lease", "float8")];
                self.many(&format!("{lease} = {later}"), said, locks, dialect)
            }
        }
    }

    fn parameter_behind_arrays(&self) -> String {
        format!("${}", self.keys.len() + 2)
    }

    /// An update of a batch on PostgreSQL, which returns the keys and fences of the claims that were lost: mostly none, where all
    /// the others would be as many rows as the batch. A condition can be added between the two parts.
    fn or_lost(&self, update: &str) -> Batch {
        let claim = self.claim_parts();
        Batch {
            head: format!("WITH \"rowlock_written\" AS ({update}"),
            tail: format!(
                " RETURNING {}) SELECT {claim} {}",
                self.claim_columns(),
                self.not_written()
            ),
        }
    }

    /// The same, after the rows were locked in the one order that row locks and batches of counters have as well. With SKIP LOCKED
    /// between the two parts it is about those that are free. Beside the others it says whether they only are locked (1), or lost (0).
    fn locked_or_lost(&self, set: &str, said: Said) -> Batch {
        let (rows, claim) = (table(self.model), self.claim_parts());
        let own = comma(&self.keys, |key| {
            format!("\"rowlock_row\".{}", quote(&key.name))
        });
        let (batch, condition) = self.held();
        let beside = batch.map(|batch| format!(", {batch}")).unwrap_or_default();
        let mine = format!("{rows} AS \"rowlock_row\"{beside} WHERE {condition}");
        let found = match said {
            [] => self.found_in("rowlock_held"),
            _ => format!(
                "{} AND ({own}) IN (SELECT * FROM \"rowlock_held\")",
                self.said(said)
            ),
        };
        let head = format!(
            "WITH \"rowlock_mine\" AS MATERIALIZED (SELECT {} FROM {mine}), \
             \"rowlock_held\" ({}) AS MATERIALIZED (SELECT {own} FROM {mine} ORDER BY {own} FOR NO KEY UPDATE OF \"rowlock_row\"",
            self.claim_columns(),
            self.parts(),
        );
        let tail = format!(
            "), \"rowlock_written\" AS (UPDATE {rows} AS \"rowlock_row\" SET {set} {found} RETURNING {}) \
             SELECT {claim}, (({claim}) IN (SELECT * FROM \"rowlock_mine\"))::int {}",
            self.claim_columns(),
            self.not_written(),
        );
        Batch { head, tail }
    }

    fn claim_parts(&self) -> String {
        format!("{}, \"rowlock_fence\"", self.parts())
    }

    fn not_written(&self) -> String {
        let claim = self.claim_parts();
        format!(
            "FROM {} AS \"rowlock_lost\" ({claim}) WHERE ({claim}) NOT IN (SELECT * FROM \"rowlock_written\")",
            self.claims_given()
        )
    }

    /// The rows of a batch on PostgreSQL with what it says about them, behind SET.
    fn said(&self, said: Said) -> String {
        let keys = self.keys.len();
        let mut arrays = self.key_arrays();
        arrays.push_str(&format!(", ${}::bigint[]", keys + 1));
        for (index, (_, ty)) in said.iter().enumerate() {
            arrays.push_str(&format!(", ${}::{ty}[]", keys + 2 + index));
        }
        format!(
            "FROM unnest({arrays}) AS \"rowlock_batch\" ({}) WHERE {}",
            self.columns_said(said),
            self.joined_with_batch()
        )
    }

    fn columns_said(&self, said: Said) -> String {
        let said = said.iter().map(|(name, _)| format!(", \"{name}\""));
        self.claim_parts() + &said.collect::<String>()
    }

    fn joined_with_batch(&self) -> String {
        format!(
            "{} AND \"rowlock_row\".{} = \"rowlock_fence\" AND \"rowlock_row\".{}",
            self.joined("rowlock_batch"),
            quote(&self.fence.name),
            self.is("running"),
        )
    }

    /// The batch of keys and fences, as arrays.
    fn claims_given(&self) -> String {
        let fences = self.keys.len() + 1;
        format!("unnest({}, ${fences}::bigint[])", self.key_arrays())
    }

    /// An array per column of the key. Texts become those of the column: blanks at their ends do not count in a `char(n)`, and the
    /// keys that a claim returned have them.
    fn key_arrays(&self) -> String {
        comma(self.keys.iter().enumerate(), |(index, key)| {
            let parameter = format!("${}", index + 1);
            if last_segment(&key.ty).is_some_and(|name| name == "String") {
                let (name, rows) = (quote(&key.name), table(self.model));
                format!("array_cat(ARRAY(SELECT {name} FROM {rows} WHERE false), {parameter})")
            } else {
                parameter
            }
        })
    }

    /// Writes those rows of a batch whose claims still hold. Returns the keys and fences of those on SQLite, and of the others on
    /// PostgreSQL.
    fn many(&self, set: &str, said: Said, locks: Locks, dialect: Dialect) -> Batch {
        let update = format!("UPDATE {} AS \"rowlock_row\" SET {set}", table(self.model));
        match (dialect, locks) {
            (Dialect::Postgres, Locks::InOrder) => self.locked_or_lost(set, said),
            (Dialect::Postgres, Locks::AsWritten) if said.is_empty() => {
                let (batch, condition) = self.held();
                let from = batch
                    .map(|batch| format!(" FROM {batch}"))
                    .unwrap_or_default();
                self.or_lost(&format!("{update}{from} WHERE {condition}"))
            }
            (Dialect::Postgres, Locks::AsWritten) => {
                self.or_lost(&format!("{update} {}", self.said(said)))
            }
            // SQLite takes no alias in RETURNING, and returns nothing but the row. It has no locks of rows.
            (Dialect::Sqlite, _) => Batch {
                head: format!(
                    "WITH \"rowlock_batch\" ({}) AS (VALUES ",
                    self.columns_said(said)
                ),
                tail: format!(
                    ") {update} FROM \"rowlock_batch\" WHERE {} RETURNING {}, {}",
                    self.joined_with_batch(),
                    names(&self.keys),
                    quote(&self.fence.name),
                ),
            },
        }
    }

    fn has_ended(&self, dialect: Dialect) -> String {
        format!("{} AND {}", self.is("running"), self.lease_is_over(dialect))
    }

    pub(crate) fn lease_is_over(&self, dialect: Dialect) -> String {
        format!(
            "({} > {}) IS NOT TRUE",
            quote(&self.lease.name),
            now(dialect)
        )
    }

    /// Takes back the rows whose leases have ended, and returns what became of each.
    ///
    /// It waits for nobody: a row that is locked is being finished or extended. More conditions go between the two parts.
    pub(crate) fn rescue(&self, dialect: Dialect) -> Batch {
        let rows = table(self.model);
        let (attempts, fence) = (quote(&self.attempts.name), quote(&self.fence.name));
        let exhausted = format!("{attempts} >= {}", self.max_attempts);
        let mut set = format!(
            "SET {} = {}, {fence} = {}",
            quote(&self.state.name),
            self.chosen(&format!(
                "WHEN {exhausted} THEN 'dead' WHEN true THEN 'ready'"
            )),
            next_fence(&fence, dialect),
        );
        if let Some(error) = self.last_error {
            set.push_str(&format!(", {} = 'the lease ended'", quote(&error.name)));
        }
        set.push_str(&self.finished_if(&exhausted, dialect));
        let ended = self.has_ended(dialect);
        let state = quote(&self.state.name);
        match dialect {
            Dialect::Postgres => Batch {
                head: format!(
                    "WITH \"rowlock_ended\" ({}) AS MATERIALIZED (SELECT {} FROM {rows} WHERE {ended}",
                    self.parts(),
                    names(&self.keys),
                ),
                tail: format!(
                    "{}) UPDATE {rows} AS \"rowlock_row\" {set} {} RETURNING \"rowlock_row\".{state}::text",
                    passing_over(dialect),
                    self.found_in("rowlock_ended"),
                ),
            },
            Dialect::Sqlite => Batch {
                head: format!("UPDATE {rows} {set} WHERE {ended}"),
                tail: format!(" RETURNING {state}"),
            },
        }
    }

    /// The indexes, and on PostgreSQL the settings of the table.
    ///
    /// No index has the lease: a heartbeat that changes no index is a heap-only update, as long as the page has room.
    pub(crate) fn ddl(&self, dialect: Dialect) -> String {
        let rows = table(self.model);
        // SQLite wants the schema at the index.
        let (schema, on) = match (dialect, &self.model.table.schema) {
            (Dialect::Sqlite, Some(schema)) => {
                (format!("{}.", quote(schema)), quote(&self.model.table.name))
            }
            _ => (String::new(), rows.clone()),
        };
        // The name has the definition in it, so that another one is another index.
        let index = |purpose: &str, columns: &str, state: &str| {
            let definition = format!("({columns}) WHERE {}", self.is(state));
            let hash = hash(&definition) as u32;
            let name = self.derived_name(&format!("{purpose}_{hash:08x}"));
            let create = format!(
                "CREATE INDEX IF NOT EXISTS {schema}{} ON {on} {definition};\n",
                quote(&name)
            );
            (name, create)
        };
        let order = self.order(dialect);
        let mut indexes = vec![index("claim", &order, "ready")];
        for filter in self.filters() {
            let purpose = format!("claim_{}", filter.field);
            let columns = format!("{}, {order}", quote(&filter.name));
            indexes.push(index(&purpose, &columns, "ready"));
        }
        indexes.push(index("running", &names(&self.keys), "running"));
        let (names, create): (Vec<String>, Vec<String>) = indexes.into_iter().unzip();
        let create = create.concat();
        match dialect {
            Dialect::Postgres => format!(
                "ALTER TABLE {rows} SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);\n\
                 {create}{}",
                self.drop_other_indexes(&names)
            ),
            Dialect::Sqlite => create,
        }
    }

    /// Drops the indexes of definitions that the queue does not have any more, after those that it has were created.
    fn drop_other_indexes(&self, names: &[String]) -> String {
        let kept = comma(names, |name| text(name));
        let begin: String = self.model.table.name.chars().take(KEPT).collect();
        format!(
            "DO $rowlock$ DECLARE \"rowlock_index\" text; BEGIN \
             FOR \"rowlock_index\" IN SELECT indexrelid::regclass FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
             WHERE indrelid = {}::regclass AND starts_with(relname, {}) AND relname LIKE '%\\_rowlock\\_%' AND relname <> ALL (ARRAY[{kept}]) \
             LOOP EXECUTE 'DROP INDEX ' || \"rowlock_index\"; END LOOP; END $rowlock$;\n",
            text(&table(self.model)),
            text(&begin),
        )
    }

    /// What workers listen to.
    pub(crate) fn channel(&self) -> String {
        self.derived_name("queue")
    }

    /// A trigger of PostgreSQL that wakes the workers, once per statement that adds rows.
    pub(crate) fn notify_ddl(&self) -> String {
        let rows = table(self.model);
        let name = quote(&self.derived_name("notify"));
        let function = match &self.model.table.schema {
            Some(schema) => format!("{}.{name}", quote(schema)),
            None => name.clone(),
        };
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $rowlock$ BEGIN NOTIFY {}; RETURN NULL; END $rowlock$;\n\
             DROP TRIGGER IF EXISTS {name} ON {rows};\n\
             CREATE TRIGGER {name} AFTER INSERT ON {rows} FOR EACH STATEMENT EXECUTE FUNCTION {function}();\n",
            quote(&self.channel()),
        )
    }

    /// `emails_rowlock_claim`, shortened where PostgreSQL would cut it: two names that are cut to the same are one name, and the
    /// second index is not created.
    fn derived_name(&self, purpose: &str) -> String {
        let table = &self.model.table.name;
        let name = format!("{table}_rowlock_{purpose}");
        if name.len() <= 63 {
            return name;
        }
        let kept: String = table.chars().take(KEPT).collect();
        format!("{kept}_rowlock_{:016x}", hash(&name))
    }
}

/// So much of a long table's name is in the names that are made of it.
const KEPT: usize = 8;

/// FNV-1a: the same in every version of the compiler.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
