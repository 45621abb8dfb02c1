//! What the table of a queue needs besides its columns.

use super::*;
use crate::sql::index::{KEPT, create_index};

/// An index of the table.
pub(crate) struct Index {
    pub name: String,
    pub unique: bool,
    definition: String,
}

impl Queue<'_> {
    /// The indexes, and on PostgreSQL the settings of the table.
    pub(crate) fn ddl(&self, dialect: Dialect) -> String {
        let indexes = self.indexes(dialect);
        let create = indexes.iter().map(|index| self.create(index, dialect));
        let mut create: String = create.collect();
        create.extend(self.pauses_ddl(dialect));
        match dialect {
            Dialect::Postgres => format!("{create}{}", self.drop_other_indexes(&indexes)),
            Dialect::Sqlite => create,
        }
    }

    /// The statement that makes an index.
    pub(crate) fn create(&self, index: &Index, dialect: Dialect) -> String {
        let kind = if index.unique {
            "UNIQUE INDEX"
        } else {
            "INDEX"
        };
        let (name, definition) = (&index.name, &index.definition);
        create_index(&self.model.table, kind, name, definition, dialect)
    }

    /// No index has the lease: a heartbeat that changes no index is a heap-only update, as long as the page has room.
    pub(crate) fn indexes(&self, dialect: Dialect) -> Vec<Index> {
        let index = |purpose: &str, columns: &str, state: State| {
            let definition = format!("({columns}) WHERE {}", self.is(state));
            Index {
                name: self.index_name(purpose, &definition),
                unique: false,
                definition,
            }
        };
        let order = self.order(dialect);
        let mut indexes = vec![index("claim", &order, State::Ready)];
        for filter in self.filters() {
            let purpose = format!("claim_{}", filter.field);
            let columns = format!("{}, {order}", quote(&filter.name));
            indexes.push(index(&purpose, &columns, State::Ready));
        }
        match &self.per {
            Some(per) => {
                let value = quote(&per.column.name);
                let order = per.sequence.map_or(order, |column| quote(&column.name));
                indexes.push(index("per", &format!("{value}, {order}"), State::Ready));
                // A claim of one filter's jobs looks for the first of each value: without the value in the index PostgreSQL may read all jobs
                // of the filter for each.
                for filter in self.filters() {
                    let filtered = quote(&filter.name);
                    if filter.name != per.column.name {
                        let columns = format!("{filtered}, {value}, {order}");
                        let purpose = format!("per_{}", filter.field);
                        indexes.push(index(&purpose, &columns, State::Ready));
                    }
                }
                // The only index of what is running: with a choice PostgreSQL may take another, and read all of it for each value.
                let (name, definition) = self.one_running(per);
                indexes.push(Index {
                    name,
                    unique: true,
                    definition,
                });
            }
            None => indexes.push(index("running", &names(&self.keys), State::Running)),
        }
        indexes.push(index("dead", &names(&self.keys), State::Dead));
        let of_states = self.model.unique.iter();
        for key in of_states.filter(|key| !key.states.is_empty()) {
            let nulls = match key.nulls_not_distinct {
                true => " NULLS NOT DISTINCT",
                false => "",
            };
            let definition = find_or_create::index_on(self.model, key, nulls);
            indexes.push(Index {
                name: self.index_name("unique", &definition),
                unique: true,
                definition,
            });
        }
        indexes
    }

    /// The name and the definition of the unique index that lets no two jobs of one value run, or no two in one slot, whoever claims them.
    pub(crate) fn one_running(&self, per: &Per<'_>) -> (String, String) {
        let columns = std::iter::once(per.column).chain(per.slot);
        let columns = comma(columns, |column| quote(&column.name));
        let definition = format!("({columns}) WHERE {}", self.is(State::Running));
        (self.index_name("one", &definition), definition)
    }

    /// The name of an index has its definition in it, so that another one is another index.
    fn index_name(&self, purpose: &str, definition: &str) -> String {
        self.derived_name(&format!("{purpose}_{:08x}", hash(definition) as u32))
    }

    /// Drops the indexes of definitions that the queue does not have any more, after those that it has were created. Only what has a name as
    /// `index_name` makes it: `acme_rowlock_jobs_reference` is the user's own index of a table `acme_rowlock_jobs`.
    fn drop_other_indexes(&self, indexes: &[Index]) -> String {
        let kept = comma(indexes, |index| text(&index.name));
        let begin: String = self.model.table.name.chars().take(KEPT).collect();
        format!(
            "DO $rowlock$ DECLARE \"rowlock_index\" text; BEGIN \
             FOR \"rowlock_index\" IN SELECT indexrelid::regclass FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
             WHERE indrelid = {}::regclass AND starts_with(relname, {}) \
             AND relname ~ '_rowlock_([0-9a-f]{{16}}|(claim|per|running|dead|one|unique)(_.*)?_[0-9a-f]{{8}})$' \
             AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) AND relname <> ALL (ARRAY[{kept}]) \
             LOOP EXECUTE 'DROP INDEX ' || \"rowlock_index\"; END LOOP; END $rowlock$;\n",
            text(&table(self.model)),
            text(&begin),
        )
    }

    /// Settings of the table that a database has, and with which a queue does better. They are the user's, who may have others.
    pub(crate) fn storage_ddl(&self, dialect: Dialect) -> Option<String> {
        match dialect {
            Dialect::Postgres => Some(format!(
                "ALTER TABLE {} SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);\n",
                table(self.model)
            )),
            Dialect::Sqlite => None,
        }
    }

    /// What workers listen to.
    pub(crate) fn channel(&self) -> String {
        self.derived_name("queue")
    }

    /// A trigger that wakes the workers, once per statement that adds rows, where a database can.
    pub(crate) fn notify_ddl(&self, dialect: Dialect) -> Option<String> {
        match dialect {
            Dialect::Postgres => Some(self.notify()),
            Dialect::Sqlite => None,
        }
    }

    /// Only if a row is due within a second, which is how often workers look; clocks of callers that go a little fast count as right. No new row
    /// is an upsert, which may have made an old one due.
    fn notify(&self) -> String {
        let rows = table(self.model);
        let name = quote(&self.derived_name("notify"));
        let function = match &self.model.table.schema {
            Some(schema) => format!("{}.{name}", quote(schema)),
            None => name.clone(),
        };
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $rowlock$ BEGIN\n\
             IF NOT EXISTS (SELECT FROM \"rowlock_new\") OR EXISTS (SELECT FROM \"rowlock_new\" WHERE {} AND {} <= clock_timestamp() + interval '1 second') THEN NOTIFY {}; END IF;\n\
             RETURN NULL; END $rowlock$;\n\
             DROP TRIGGER IF EXISTS {name} ON {rows};\n\
             CREATE TRIGGER {name} AFTER INSERT ON {rows} REFERENCING NEW TABLE AS \"rowlock_new\" FOR EACH STATEMENT EXECUTE FUNCTION {function}();\n",
            self.is(State::Ready),
            self.due(Dialect::Postgres),
            quote(&self.channel()),
        )
    }

    /// `emails_rowlock_claim`
    fn derived_name(&self, purpose: &str) -> String {
        shortened(&self.model.table.name, purpose)
    }
}
