//! The one table of `#[rowlock(...)]` options.
//!
//! What can be written where, what an option makes of a column, what contradicts it, the texts of mistakes and `docs/options.md` are
//! made from it: a new option is a row here, and its use in a derive.

use crate::attr::Value;
use crate::model::{LedgerRole, QueueRole, Role};

/// What every option has.
pub(crate) struct Spec {
    /// As it is written.
    pub name: &'static str,
    pub takes: Takes,
    /// As it is written with a value, for `help:` and the reference page.
    pub example: &'static str,
    /// For the reference page: the derives that look at it, none if all do, and what it does.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test writes the page"))]
    pub page: (&'static [&'static str], &'static str),
}

/// What follows an option's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    /// `= "text"`
    Text,
    /// `= "Name"` or `(derive(Trait, Trait))`
    NameOrDerives,
    /// `= ::a::path`
    Path,
    /// `(field, lower(field), where = "…", while(ready), on(field), nulls_not_distinct)`
    UniqueKey,
    /// `(Postgres, Sqlite)`
    Backends,
    /// Nothing, or `(name = 1, name = 2)` with some of these names.
    Numbers(&'static [&'static str]),
    /// Nothing, `(asc)` or `(desc)`.
    Order,
    /// Nothing, or `(ready = "queued", dead = "failed")` with some of the states.
    States,
    /// `= word`
    Word(&'static str),
    /// `= "text"` or `= word`
    TextOrWord(&'static str),
    /// `(street: String, city: Option<String>)`
    Columns,
}

/// What an option on a field makes of the column.
pub(crate) struct Rule {
    /// In a sentence, after "it cannot be".
    pub is: &'static str,
    /// The role, if the option gives one: a column has one role and one writer.
    pub role: Option<fn(&Value) -> Role>,
    /// Whether several fields of a struct can have it.
    pub several: bool,
    pub holds: Holds,
    /// Why the column cannot be NULL.
    pub not_null: Option<&'static str>,
    /// Whether the column can be `#[sqlx(json)]`.
    pub json: bool,
    /// Options that contradict it, and why. What follows from `role` need not be listed.
    pub not_with: &'static [(FieldOption, &'static str)],
    /// Options that can stand beside it although it gives a role.
    pub beside: &'static [FieldOption],
    /// Whether it can be said of a flattened field: of each of its columns.
    pub flattened: bool,
    /// How to say that no field has it.
    pub missing: Option<Missing>,
}

/// What the type of a column must be, as far as a type's name tells.
#[derive(Clone, Copy)]
pub(crate) enum Holds {
    Anything,
    /// An integer, because of this.
    Integer(&'static str),
    Fence,
    State,
    /// A point in time, because of this.
    Time(&'static str),
    /// A point in time that is NULL until then; some derives take a `bool` as well.
    TimeOrNull(&'static str),
}

/// A role that a derive asks for and no field has.
pub(crate) struct Missing {
    pub what: &'static str,
    /// What such a field is often called.
    pub names: &'static [&'static str],
    /// One to add.
    pub field: &'static str,
}

/// An enum of options, and its table.
macro_rules! options {
    ($(#[$doc:meta])* $options:ident -> $row:ty { $($option:ident => $spec:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $options { $($option,)* }

        impl $options {
            pub(crate) const ALL: &[Self] = &[$(Self::$option,)*];

            fn row(self) -> &'static $row {
                match self { $(Self::$option => { const ROW: &$row = &$spec; ROW })* }
            }

            pub(crate) fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|option| option.name() == name)
            }

            pub(crate) fn name(self) -> &'static str {
                self.spec().name
            }

            pub(crate) fn names() -> Vec<&'static str> {
                Self::ALL.iter().map(|option| option.name()).collect()
            }
        }
    };
}

impl StructOption {
    pub(crate) fn spec(self) -> &'static Spec {
        self.row()
    }
}

impl FieldOption {
    pub(crate) fn spec(self) -> &'static Spec {
        &self.row().0
    }

    pub(crate) fn rule(self) -> &'static Rule {
        &self.row().1
    }

    /// Why `self` and `other` cannot both be said of one column.
    pub(crate) fn contradicts(self, other: Self) -> Option<&'static str> {
        let said = |one: Self, other: Self| {
            let mut not_with = one.rule().not_with.iter();
            let found = not_with.find(|(option, _)| *option == other);
            found.map(|(_, why)| *why)
        };
        let beside = |one: Self, other: Self| one.rule().beside.contains(&other);
        let is_role = self.rule().role.is_some() || other.rule().role.is_some();
        let alone = is_role && !beside(self, other) && !beside(other, self);
        said(self, other)
            .or_else(|| said(other, self))
            .or_else(|| alone.then_some(ONE_ROLE))
    }
}

const ONE_ROLE: &str = "a column has one role and one writer";

options! {
    /// Above the struct.
    StructOption -> Spec {
        Table => Spec {
            name: "table",
            takes: Takes::Text,
            example: "table = \"documents\"",
            page: (&[], "The table, or `schema.table`. Required."),
        },
        Unique => Spec {
            name: "unique",
            takes: Takes::UniqueKey,
            example: "unique(tenant_id, slug)",
            page: (
                &["FindOrCreate", "Queue"],
                "A unique key of several columns; the database must have the unique index. Can stand several times. \
                 `where = \"deleted_at IS NULL\"`: the index is partial. `while(ready, running)`: a job of a `Queue` holds the key in these states, and `ddl()` has the index. `lower(email)`, `coalesce(parent_id, 0)`: the index is on an expression. \
                 `nulls_not_distinct`: so is the index (PostgreSQL). `on(full_name)`: the index is on this generated column, made of the others.",
            ),
        },
        New => Spec {
            name: "new",
            takes: Takes::NameOrDerives,
            example: "new = \"TagDraft\"",
            page: (
                &["FindOrCreate"],
                "The name of the struct for a new row; defaults to `NewTag` for `Tag`. Or what it derives: `new(derive(Debug, PartialEq))`.",
            ),
        },
        Backend => Spec {
            name: "backend",
            takes: Takes::Backends,
            example: "backend(Postgres)",
            page: (&[], "Generate for these databases only: `Postgres`, `Sqlite`."),
        },
        Crate => Spec {
            name: "crate",
            takes: Takes::Path,
            example: "crate = ::my_reexports::rowlock",
            page: (&[], "The path of the crate `rowlock`, if another one re-exports it."),
        },
        Done => Spec {
            name: "done",
            takes: Takes::Word("delete"),
            example: "done = delete",
            page: (&["Queue"], "A done job is deleted."),
        },
        Pauses => Spec {
            name: "pauses",
            takes: Takes::Text,
            example: "pauses = \"email_pauses\"",
            page: (&["Queue"], "The table for `pause` and `resume`, which `ddl()` creates: jobs that match one of its rows are not claimed."),
        },
        Fold => Spec {
            name: "fold",
            takes: Takes::Word("off"),
            example: "fold = off",
            page: (&["Counter", "FindOrCreate", "Versioned"], "On `Lanes`, waiting calls do not share a statement: use it if a trigger must see each call alone."),
        },
        Schema => Spec {
            name: "schema",
            takes: Takes::TextOrWord("off"),
            example: "schema = \"warehouse.schema.json\"",
            page: (
                &[],
                "With the cargo feature `schema`: the file with the catalogue of the table's database, in the directory of the crate or in one above it, \
                 instead of `rowlock.schema.json`; beside or instead of it `….postgres.json` and `….sqlite.json`. `schema = off`: the table is in none.",
            ),
        },
        ExistingRows => Spec {
            name: "existing_rows",
            takes: Takes::Nothing,
            example: "existing_rows",
            page: (&["Counter"], "Add to existing rows only; never create one. A missing row is `NotFound`."),
        },
    }
}

/// A rule that only names the option: what most rows differ little from.
const PLAIN: Rule = Rule {
    is: "",
    role: None,
    several: true,
    holds: Holds::Anything,
    not_null: None,
    json: true,
    not_with: &[],
    beside: &[],
    flattened: false,
    missing: None,
};

/// A role that one field of a struct has. Claims can be ordered and limited by any column.
const ROLE: Rule = Rule {
    several: false,
    json: false,
    beside: &[FieldOption::Priority, FieldOption::Filter],
    ..PLAIN
};

options! {
    /// On a field.
    FieldOption -> (Spec, Rule) {
        Key => (
            Spec {
                name: "key",
                takes: Takes::Nothing,
                example: "key",
                page: (&[], "The primary key, or part of it."),
            },
            Rule {
                is: "the key",
                json: false,
                not_null: Some("in SQL NULL is not equal to NULL, so such a row would never be found"),
                not_with: &[
                    (FieldOption::Version, "the version changes with every update, a key never changes"),
                    (FieldOption::Counter, "a counter changes with every call, a key never changes"),
                    (FieldOption::Default, "a key that the database makes up is `#[rowlock(key, generated)]`"),
                ],
                flattened: true,
                ..PLAIN
            },
        ),
        Unique => (
            Spec {
                name: "unique",
                takes: Takes::Nothing,
                example: "unique",
                page: (&["FindOrCreate"], "The column is a unique key; the database must have the unique index."),
            },
            Rule {
                is: "part of a unique key",
                json: false,
                not_null: Some("in SQL two NULLs are never equal, so the database would allow duplicates"),
                not_with: &[
                    (FieldOption::Version, "the version changes with every update, so it cannot identify a row"),
                    (FieldOption::Counter, "a counter changes with every call, so it cannot identify a row"),
                    (FieldOption::Generated, "nobody can look for a value that the database has yet to make up"),
                    (FieldOption::Default, "nobody can look for a value that the database has yet to make up"),
                ],
                ..PLAIN
            },
        ),
        Version => (
            Spec {
                name: "version",
                takes: Takes::Nothing,
                example: "version",
                page: (&["Versioned"], "An integer that every update compares with the loaded one and raises by one. The other derives respect it. Or a `rowlock::Xmin`, PostgreSQL's own."),
            },
            Rule {
                is: "the version",
                role: Some(|_| Role::Version),
                holds: Holds::Integer("the version is an integer that the database increments on every update"),
                not_null: Some("in SQL NULL is not equal to NULL, so no update of such a row would ever match"),
                not_with: &[
                    (FieldOption::Counter, "the version belongs to `Versioned`, a counter to `Counter`; a column has one writer"),
                    (FieldOption::Generated, "every update writes the version and reads it back; `generated` columns are never written"),
                    (FieldOption::Default, "a new row starts at version 0, written by the insert"),
                ],
                ..ROLE
            },
        ),
        Counter => (
            Spec {
                name: "counter",
                takes: Takes::Numbers(&["min", "max"]),
                example: "counter(min = 0, max = 100)",
                page: (&["Counter"], "An integer with its own `add_…` method; with bounds, an addition that would leave them is `OutOfBounds`."),
            },
            Rule {
                is: "a counter",
                role: Some(|value| Role::Counter { min: value.number("min"), max: value.number("max") }),
                several: true,
                holds: Holds::Integer("a counter is an integer column; sums of money belong in an integer number of cents"),
                not_null: Some("in SQL NULL + 1 is NULL, so such a row would never count"),
                not_with: &[
                    (FieldOption::Generated, "every call writes the counter; `generated` columns are never written"),
                    (FieldOption::Default, "a new row starts its counters at 0, written by the insert"),
                ],
                ..ROLE
            },
        ),
        Generated => (
            Spec {
                name: "generated",
                takes: Takes::Nothing,
                example: "generated",
                page: (&[], "The database fills the column. It is read back and never written."),
            },
            Rule {
                is: "generated",
                not_with: &[
                    (FieldOption::Default, "`generated` columns are never written, `default` columns only not by an insert"),
                ],
                flattened: true,
                ..PLAIN
            },
        ),
        Check => (
            Spec {
                name: "check",
                takes: Takes::Nothing,
                example: "check",
                page: (&["Versioned"], "Instead of a version: a `save` compares the column with what was read. On one field or several. No JSON, no float."),
            },
            Rule {
                is: "a column that is compared",
                not_with: &[(FieldOption::Key, "a write finds the row by its key, and a key never changes")],
                flattened: true,
                ..PLAIN
            },
        ),
        Default => (
            Spec {
                name: "default",
                takes: Takes::Nothing,
                example: "default",
                page: (&["FindOrCreate", "Idempotent"], "A new row gets the column's default. Updates write it."),
            },
            Rule { is: "a column with a default", flattened: true, ..PLAIN },
        ),
        Definition => (
            Spec {
                name: "definition",
                takes: Takes::Text,
                example: "definition = \"timestamptz NOT NULL DEFAULT now()\"",
                page: (&["CreateTable"], "What `create_table` writes after the column's name: for a type that it does not know, and for a value that the database makes up."),
            },
            Rule { is: "a column with a definition of its own", beside: FieldOption::ALL, flattened: true, ..PLAIN },
        ),
        InsertOnly => (
            Spec {
                name: "insert_only",
                takes: Takes::Nothing,
                example: "insert_only",
                page: (&["FindOrCreate"], "The caller supplies it for a new row; an upsert never overwrites it. Updates write it."),
            },
            Rule {
                is: "a column that only an insert writes",
                not_with: &[
                    (FieldOption::Generated, "`generated` columns are never written"),
                    (FieldOption::Default, "what has a `default` is not given for a new row, and an upsert does not overwrite it"),
                    (FieldOption::OnInsert, "what is `on_insert` is not given for a new row, and an upsert does not overwrite it"),
                    (FieldOption::OnUpdate, "an upsert that finds the row writes `on_update`, and never `insert_only`"),
                ],
                flattened: true,
                ..PLAIN
            },
        ),
        OnInsert => (
            Spec {
                name: "on_insert",
                takes: Takes::Text,
                example: "on_insert = \"gen_random_uuid()\"",
                page: (&["FindOrCreate", "Versioned"], "A new row gets this SQL expression; it is not part of `New…`, and an upsert does not overwrite it. Updates write it."),
            },
            Rule {
                is: "a column with an expression for new rows",
                not_with: &[
                    (FieldOption::Unique, "nobody can look for a value that the database has yet to make up"),
                    (FieldOption::Generated, "`generated` columns are never written"),
                    (FieldOption::Default, "a new row gets the default or the expression"),
                ],
                ..PLAIN
            },
        ),
        OnUpdate => (
            Spec {
                name: "on_update",
                takes: Takes::Text,
                example: "on_update = \"now()\"",
                page: (&["FindOrCreate", "Guarded", "Lockable", "Versioned"], "An update sets this SQL expression, whatever the field holds, and so does an upsert that finds the row; `Counter`, `Queue` and `Idempotent` do not. A new row gets the column's default, or `on_insert`. Not part of `New…`."),
            },
            Rule {
                is: "a column with an expression for updates",
                not_with: &[
                    (FieldOption::Key, "a key never changes"),
                    (FieldOption::Unique, "nobody can look for a value that the database has yet to make up"),
                    (FieldOption::Generated, "`generated` columns are never written"),
                ],
                ..PLAIN
            },
        ),
        Fence => (
            Spec {
                name: "fence",
                takes: Takes::Nothing,
                example: "fence",
                page: (&[], "A `rowlock::Fence`: every write presents the fence of its lock or attempt; one older than the row's is refused."),
            },
            Rule {
                is: "the fence",
                role: Some(|_| Role::Fence),
                holds: Holds::Fence,
                not_null: Some("in SQL nothing is smaller than NULL, so no write of such a row would ever match"),
                missing: Some(Missing {
                    what: "the fence, by which attempts are told apart",
                    names: &["fence", "attempt", "token", "lease_token"],
                    field: "fence: rowlock::Fence",
                }),
                ..ROLE
            },
        ),
        Fingerprint => (
            Spec {
                name: "fingerprint",
                takes: Takes::Nothing,
                example: "fingerprint",
                page: (&["Idempotent"], "The fingerprint of the request: another request under the same key is a `Mismatch`."),
            },
            Rule {
                is: "the fingerprint",
                role: Some(|_| Role::Ledger(LedgerRole::Fingerprint)),
                not_null: Some("in SQL NULL is not equal to NULL, so no request would ever match such a row"),
                missing: Some(Missing {
                    what: "the fingerprint of the request",
                    names: &["fingerprint", "request_hash", "request"],
                    field: "fingerprint: Vec<u8>",
                }),
                ..ROLE
            },
        ),
        Outcome => (
            Spec {
                name: "outcome",
                takes: Takes::Nothing,
                example: "outcome",
                page: (&["Idempotent"], "The result of the work, which every repetition returns. NULL until then."),
            },
            Rule {
                is: "the outcome",
                role: Some(|_| Role::Ledger(LedgerRole::Outcome)),
                json: true,
                missing: Some(Missing {
                    what: "the outcome",
                    names: &["outcome", "result", "response"],
                    field: "outcome: Option<String>",
                }),
                ..ROLE
            },
        ),
        Lease => (
            Spec {
                name: "lease",
                takes: Takes::Nothing,
                example: "lease",
                page: (&["Idempotent", "Queue"], "When the attempt's lease ends, by the database's clock."),
            },
            Rule {
                is: "the lease",
                role: Some(|_| Role::Ledger(LedgerRole::Lease)),
                holds: Holds::Time("it is a point in time, by the clock of the database"),
                missing: Some(Missing {
                    what: "the end of an attempt's lease",
                    names: &["lease", "leased_until", "lease_until", "locked_until"],
                    field: "leased_until: Option<DateTime<Utc>>",
                }),
                ..ROLE
            },
        ),
        Finished => (
            Spec {
                name: "finished",
                takes: Takes::Nothing,
                example: "finished",
                page: (&["Idempotent", "Queue"], "When the work was done. NULL until then. In a queue without a state column also a `bool`."),
            },
            Rule {
                is: "the time of the end",
                role: Some(|_| Role::Ledger(LedgerRole::Finished)),
                holds: Holds::TimeOrNull("it is a point in time, by the clock of the database"),
                missing: Some(Missing {
                    what: "the time when the work was done",
                    names: &["finished_at", "finished", "completed_at"],
                    field: "finished_at: Option<DateTime<Utc>>",
                }),
                ..ROLE
            },
        ),
        State => (
            Spec {
                name: "state",
                takes: Takes::States,
                example: "state(ready = \"queued\", dead = \"failed\")",
                page: (
                    &["Queue"],
                    "`ready`, `running`, `done` or `dead`: a `rowlock::queue::QueueState`. Or the texts that the table has for them, or values of its enum, in a type of \
                     your own. Without such a column `finished`, `dead` and `lease` have the state.",
                ),
            },
            Rule {
                is: "the state",
                role: Some(|_| Role::Queue(QueueRole::State)),
                holds: Holds::State,
                not_null: Some("in SQL NULL is not equal to anything, so such a row would never be claimed"),
                missing: Some(Missing {
                    what: "the state of a job",
                    names: &["state", "status"],
                    field: "state: rowlock::queue::QueueState",
                }),
                ..ROLE
            },
        ),
        Dead => (
            Spec {
                name: "dead",
                takes: Takes::Nothing,
                example: "dead",
                page: (&["Queue"], "When the job was given up, in a table without a state column. NULL until then. Also a `bool`."),
            },
            Rule {
                is: "the time when a job was given up",
                role: Some(|_| Role::Queue(QueueRole::Dead)),
                holds: Holds::TimeOrNull("it is a point in time, by the clock of the database"),
                missing: Some(Missing {
                    what: "the time when a job was given up",
                    names: &["dead_at", "failed_at"],
                    field: "failed_at: Option<DateTime<Utc>>",
                }),
                ..ROLE
            },
        ),
        RunAt => (
            Spec {
                name: "run_at",
                takes: Takes::Nothing,
                example: "run_at",
                page: (&["Queue"], "When the job is due. NULL, in an `Option`: at once."),
            },
            Rule {
                is: "the time when a job is due",
                role: Some(|_| Role::Queue(QueueRole::RunAt)),
                holds: Holds::Time("it is a point in time, compared with the clock of the database"),
                // The database can make up the time of a job that is due at once.
                beside: &[FieldOption::Default, FieldOption::Priority, FieldOption::Filter],
                missing: Some(Missing {
                    what: "the time when a job is due",
                    names: &["run_at", "due_at", "scheduled_at", "available_at"],
                    field: "run_at: DateTime<Utc>",
                }),
                ..ROLE
            },
        ),
        Attempts => (
            Spec {
                name: "attempts",
                takes: Takes::Numbers(&["max"]),
                example: "attempts(max = 5)",
                page: (&["Queue"], "How often a handler was started. After `max` attempts the job is dead. Defaults to 20."),
            },
            Rule {
                is: "the attempts",
                role: Some(|value| Role::Queue(QueueRole::Attempts { max: value.number("max") })),
                holds: Holds::Integer("every claim counts one attempt more"),
                not_null: Some("in SQL NULL + 1 is NULL, so no attempt would ever be the last"),
                missing: Some(Missing {
                    what: "the number of attempts",
                    names: &["attempts", "attempt", "tries"],
                    field: "attempts: i32",
                }),
                ..ROLE
            },
        ),
        Priority => (
            Spec {
                name: "priority",
                takes: Takes::Order,
                example: "priority(desc)",
                page: (&["Queue"], "Claims take rows in the order of this column, then of `run_at`."),
            },
            Rule {
                is: "a priority",
                json: false,
                not_null: Some("databases disagree about whether NULL comes first or last"),
                ..PLAIN
            },
        ),
        LastError => (
            Spec {
                name: "last_error",
                takes: Takes::Nothing,
                example: "last_error",
                page: (&["Queue"], "Why the last attempt failed."),
            },
            Rule {
                is: "the last error",
                role: Some(|_| Role::Queue(QueueRole::LastError)),
                ..ROLE
            },
        ),
        Filter => (
            Spec {
                name: "filter",
                takes: Takes::Nothing,
                example: "filter",
                page: (&["Queue"], "Claims can be limited to a value of this column, by `.only(…)`."),
            },
            Rule { is: "a filter", json: false, ..PLAIN },
        ),
        Per => (
            Spec {
                name: "per",
                takes: Takes::Numbers(&["max"]),
                example: "per(max = 3)",
                page: (&["Queue"], "One job per value of this column runs at a time, or up to `max`, and the values take turns. NULL, in an `Option`: no limit."),
            },
            Rule {
                is: "what the running jobs are limited by",
                several: false,
                json: false,
                ..PLAIN
            },
        ),
        Slot => (
            Spec {
                name: "slot",
                takes: Takes::Nothing,
                example: "slot",
                page: (&["Queue"], "The place among the running jobs of one value, for `per(max = …)`. A claim writes it."),
            },
            Rule {
                is: "the slot",
                role: Some(|_| Role::Queue(QueueRole::Slot)),
                holds: Holds::Integer("the running jobs of one value are numbered, so that a unique index can limit them"),
                missing: Some(Missing {
                    what: "the number of a running job among those of one value",
                    names: &["slot"],
                    field: "slot: Option<i16>",
                }),
                ..ROLE
            },
        ),
        Sequence => (
            Spec {
                name: "sequence",
                takes: Takes::Nothing,
                example: "sequence",
                page: (&["Queue"], "The jobs of one value of the `per` column run strictly in this order: one that is not due, or waits for its next attempt, holds up those after it."),
            },
            Rule {
                is: "the order of jobs",
                several: false,
                json: false,
                not_null: Some("databases disagree about whether NULL comes first or last"),
                not_with: &[(FieldOption::Per, "jobs with the same value are put in order, and need another column for that")],
                ..PLAIN
            },
        ),
        Columns => (
            Spec {
                name: "columns",
                takes: Takes::Columns,
                example: "columns(street: String, city: Option<String>)",
                page: (
                    &[],
                    "On a `#[sqlx(flatten)]` field: the fields of its struct, repeated as they stand there with their `#[sqlx(...)]`; a `rename_all` of that \
                     struct is not seen, so write `rename`. Beside it `key`, `generated`, `default`, `insert_only` and `check` are about each of them.",
                ),
            },
            Rule { is: "a list of columns", flattened: true, ..PLAIN },
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn page() -> String {
        let mut page = String::from(
            "# Options\n\n\
             All of `#[rowlock(...)]`. Made from the table in `macros/src/options.rs` by its test; \
             `ROWLOCK_BLESS=1 cargo test -p rowlock-macros --lib options` writes it anew.\n",
        );
        let mut table = |title: &str, rows: &mut dyn Iterator<Item = (&Spec, Option<&Rule>)>| {
            writeln!(page, "\n## {title}\n\n| option | for | |\n|---|---|---|").unwrap();
            for (spec, rule) in rows {
                let (derives, text) = spec.page;
                let derives = match derives {
                    [] => "all".to_owned(),
                    some => some.join(", "),
                };
                write!(page, "| `{}` | {derives} | {text}", spec.example).unwrap();
                if let Some(rule) = rule {
                    if rule.not_null.is_some() {
                        page.push_str(" NOT NULL.");
                    }
                    if !rule.json {
                        page.push_str(" Not as JSON.");
                    }
                }
                page.push_str(" |\n");
            }
        };
        let structs = StructOption::ALL.iter().map(|option| option.spec());
        table("Above the struct", &mut structs.map(|spec| (spec, None)));
        let fields = FieldOption::ALL.iter();
        let mut fields = fields.map(|option| (option.spec(), Some(option.rule())));
        table("On a field", &mut fields);
        page.push_str("\n## Not together on one field\n\n");
        for (index, one) in FieldOption::ALL.iter().enumerate() {
            for other in &FieldOption::ALL[index + 1..] {
                match one.contradicts(*other) {
                    Some(why) if why != ONE_ROLE => {
                        writeln!(page, "- `{}` and `{}`: {why}", one.name(), other.name()).unwrap();
                    }
                    _ => {}
                }
            }
        }
        let roles = FieldOption::ALL
            .iter()
            .filter(|option| option.rule().role.is_some());
        let roles: Vec<String> = roles.map(|option| format!("`{}`", option.name())).collect();
        writeln!(
            page,
            "- two of {}, or one of them and `key`, `unique`, `generated` or `default`: {ONE_ROLE} (except `run_at, default`)",
            roles.join(", ")
        )
        .unwrap();
        page
    }

    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/options.md");
        let page = page();
        if std::env::var_os("ROWLOCK_BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(written, page, "run it with ROWLOCK_BLESS=1");
    }

    #[test]
    fn contradictions_are_the_same_both_ways() {
        for one in FieldOption::ALL {
            for other in FieldOption::ALL {
                if one != other {
                    assert_eq!(one.contradicts(*other), other.contradicts(*one));
                }
            }
        }
    }

    #[test]
    fn every_example_is_read_without_a_mistake() {
        for option in StructOption::ALL {
            assert!(option.spec().example.starts_with(option.name()));
        }
        for option in FieldOption::ALL {
            let example: proc_macro2::TokenStream = option.spec().example.parse().unwrap();
            let field: syn::Field = syn::parse_quote!(#[rowlock(#example)] field: i64);
            let diag = crate::diag::Diag::new();
            let read = crate::attr::FieldAttrs::read(&field.attrs, &diag);
            assert!(diag.finish().is_ok() && read.has(*option), "{option:?}");
        }
    }
}
