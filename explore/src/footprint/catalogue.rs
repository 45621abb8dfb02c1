//! What the database has, as far as it is needed to read statements.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::{Client, Error};

use super::key::Family;
use super::lexer::{Node, statements};
use super::reading::Reading;
use super::{Footprint, Touch};
use crate::wire::Statement;

/// Stands for all advisory locks. No relation has this oid.
pub(super) const ADVISORY: u32 = 0;
/// Stands for all channels of NOTIFY. No relation of a user has this oid.
pub(super) const CHANNELS: u32 = 1;

/// What the database has, as far as it is needed to read statements.
///
/// It is that of the moment when it was read: after DDL it has to be read again.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    /// A name can be in several schemas, and any of them can be meant.
    pub(super) named: HashMap<String, Vec<u32>>,
    pub(super) relations: HashMap<u32, Relation>,
    /// The names of the system's relations.
    pub(super) system: HashSet<String>,
    /// The names of functions that could do anything, and of those of the system that are volatile.
    pub(super) functions: HashMap<String, Origin>,
    /// The operators that could do anything.
    pub(super) operators: HashSet<String>,
    /// Something that could do anything is called without being named: by a cast, a domain, an operator class, or `=`.
    pub(super) anything_anywhere: bool,
    readings: Mutex<HashMap<Arc<str>, Arc<Reading>>>,
}

/// Whom all functions of a name are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// PostgreSQL.
    System,
    /// PostgreSQL or an extension in C.
    Native,
    /// One at least was written by the user.
    User,
}

/// A table, or what is used as one.
#[derive(Debug, Default)]
pub(super) struct Relation {
    pub(super) name: String,
    /// What it touches is in its definition: a view, a foreign table, rules, row security.
    pub(super) opaque: bool,
    /// What a write of it does is in a definition: triggers, expressions that call anything.
    pub(super) opaque_to_write: bool,
    pub(super) children: Vec<u32>,
    pub(super) parents: Vec<u32>,
    /// The columns whose values are drawn from a sequence if none is given.
    pub(super) sequences: Vec<(String, u32)>,
    /// What it refers to, and what refers to it.
    references: Vec<ForeignKey>,
    referenced: Vec<ForeignKey>,
    /// The columns of the primary key, if each is of a type of which it is certain which values are equal.
    pub(super) key: Option<Vec<(String, Family)>>,
    /// Whether anything but the primary key must be unique.
    pub(super) other_unique: bool,
    /// The columns of whatever must be unique, and of foreign keys.
    pub(super) delicate: BTreeSet<String>,
}

/// What a statement does to a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Effect {
    Reads,
    /// It reads as late as at COMMIT, of which only the writes are known: so it counts as a write.
    ReadsLate,
    /// It locks rows or all of it.
    Locks,
    /// It updates rows, and nothing that foreign keys are about.
    Updates,
    /// It inserts rows, or updates them as above and locks others.
    Inserts,
    /// It does whatever can be done to rows.
    Changes,
}

#[derive(Clone, Copy, Debug)]
struct ForeignKey {
    other: u32,
    /// It can be checked as late as at COMMIT.
    late: bool,
    /// A change of the referenced row changes those that refer to it.
    cascades: bool,
}

impl Relation {
    /// Whether statements about different keys of it can be independent.
    pub(super) fn has_keys(&self) -> bool {
        self.children.is_empty() && self.parents.is_empty()
    }
}

/// The functions that can touch nothing but their arguments: those of PostgreSQL that are not volatile, and those of extensions in C
/// that are immutable, with their aggregates.
const HARMLESS: &str = "
    WITH plain AS (
        SELECT p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.oid < 16384 AND p.provolatile <> 'v'
           OR p.oid >= 16384 AND l.lanname IN ('c', 'internal') AND p.provolatile = 'i' AND p.prokind IN ('f', 'w')
    ), harmless AS (
        SELECT oid FROM plain
        UNION
        SELECT a.aggfnoid FROM pg_aggregate a WHERE NOT EXISTS (
            SELECT FROM unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn,
                aggmfinalfn]::oid[]) AS part WHERE part <> 0 AND part NOT IN (SELECT oid FROM plain))
    )";

impl Catalogue {
    /// Reads all of it, in about ten queries.
    pub(crate) async fn read(client: &Client) -> Result<Self, Error> {
        let mut catalogue = Self::default();
        catalogue.read_relations(client).await?;
        catalogue.read_functions(client).await?;
        catalogue.read_inheritance(client).await?;
        catalogue.read_foreign_keys(client).await?;
        catalogue.read_indexes(client).await?;
        catalogue.read_sequences(client).await?;
        catalogue.read_expressions(client).await?;
        Ok(catalogue)
    }

    /// What a statement touches.
    pub(crate) fn footprint(&self, statement: &Statement) -> Footprint {
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let known = readings.get(&statement.sql).map(Arc::clone);
        let reading = known.unwrap_or_else(|| {
            let reading = Arc::new(Reading::of(self, &statement.sql));
            readings.insert(Arc::clone(&statement.sql), Arc::clone(&reading));
            reading
        });
        drop(readings);
        reading.footprint(&statement.params)
    }

    /// What the touched things are called, for those who read traces.
    pub(crate) fn names(&self) -> HashMap<u32, String> {
        let named = self.relations.iter();
        let mut names: HashMap<u32, String> = named
            .map(|(&oid, relation)| (oid, relation.name.clone()))
            .collect();
        names.insert(ADVISORY, "advisory locks".to_owned());
        names.insert(CHANNELS, "channels".to_owned());
        names
    }

    fn relation(&mut self, oid: u32) -> Option<&mut Relation> {
        self.relations.get_mut(&oid)
    }

    async fn read_relations(&mut self, client: &Client) -> Result<(), Error> {
        let rows = client
            .query(
                "SELECT c.oid, c.relname::text, n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast') AS system,
                    c.relkind IN ('v', 'f') OR c.relrowsecurity OR c.relhasrules AS opaque, c.relhastriggers AND EXISTS
                        (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS triggers
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')",
                &[],
            )
            .await?;
        for row in rows {
            let (oid, name): (u32, String) = (row.get(0), row.get(1));
            if row.get("system") {
                self.system.insert(name);
                continue;
            }
            self.named.entry(name.clone()).or_default().push(oid);
            let relation = Relation {
                name,
                opaque: row.get("opaque"),
                opaque_to_write: row.get("triggers"),
                ..Relation::default()
            };
            self.relations.insert(oid, relation);
        }
        Ok(())
    }

    async fn read_functions(&mut self, client: &Client) -> Result<(), Error> {
        let functions = format!(
            "{HARMLESS} SELECT p.proname::text, bool_and(p.oid < 16384), bool_and(p.oid < 16384 OR l.lanname IN ('c', 'internal'))
             FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
             WHERE p.oid NOT IN (SELECT oid FROM harmless) GROUP BY 1"
        );
        for row in client.query(&functions, &[]).await? {
            let origin = match (row.get(1), row.get(2)) {
                (true, _) => Origin::System,
                (_, true) => Origin::Native,
                _ => Origin::User,
            };
            self.functions.insert(row.get(0), origin);
        }
        let operators = format!(
            "{HARMLESS} SELECT DISTINCT oprname::text FROM pg_operator
             WHERE oprcode <> 0 AND oprcode NOT IN (SELECT oid FROM harmless)"
        );
        for row in client.query(&operators, &[]).await? {
            self.operators.insert(row.get(0));
        }
        // What stands for IN, LIKE, ORDER BY and the like.
        const UNNAMED: &[&str] = &["=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*"];
        let unnamed = format!(
            "{HARMLESS} SELECT EXISTS (
                SELECT FROM (
                    SELECT castfunc FROM pg_cast
                    UNION ALL SELECT amproc FROM pg_amproc
                    UNION ALL SELECT rngsubdiff FROM pg_range UNION ALL SELECT rngcanonical FROM pg_range
                ) AS called (oid) WHERE oid::oid >= 16384 AND oid::oid NOT IN (SELECT oid FROM harmless))"
        );
        self.anything_anywhere = client.query_one(&unnamed, &[]).await?.get(0);
        self.anything_anywhere |= UNNAMED.iter().any(|&name| self.operators.contains(name));
        Ok(())
    }

    async fn read_inheritance(&mut self, client: &Client) -> Result<(), Error> {
        let inherits = "SELECT inhrelid, inhparent FROM pg_inherits";
        for row in client.query(inherits, &[]).await? {
            let (child, parent) = (row.get(0), row.get(1));
            // It also has those of indexes.
            if let Some(relation) = self.relation(child) {
                relation.parents.push(parent);
            }
            if let Some(relation) = self.relation(parent) {
                relation.children.push(child);
            }
        }
        Ok(())
    }

    async fn read_foreign_keys(&mut self, client: &Client) -> Result<(), Error> {
        let keys = "SELECT conrelid, confrelid, condeferrable, confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'),
                ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey))
             FROM pg_constraint WHERE contype = 'f'";
        for row in client.query(keys, &[]).await? {
            let (child, parent) = (row.get(0), row.get(1));
            let (late, cascades) = (row.get(2), row.get(3));
            let columns: Vec<String> = row.get(4);
            let to = |other| ForeignKey {
                other,
                late,
                cascades,
            };
            if let Some(relation) = self.relation(child) {
                relation.references.push(to(parent));
                relation.delicate.extend(columns);
            }
            if let Some(relation) = self.relation(parent) {
                relation.referenced.push(to(child));
            }
        }
        Ok(())
    }

    async fn read_indexes(&mut self, client: &Client) -> Result<(), Error> {
        // The columns of expressions and predicates are in pg_depend only. A `varchar(n)` drops blanks of what it is given.
        let indexes = "SELECT i.indrelid, i.indisprimary AND i.indimmediate AND i.indisvalid,
                ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
                    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                    WHERE k.place <= i.indnkeyatts ORDER BY k.place),
                ARRAY(SELECT CASE WHEN a.atttypid = 1043 AND a.atttypmod <> -1 THEN 0 WHEN c.collisdeterministic THEN a.atttypid WHEN a.attcollation = 0 THEN a.atttypid ELSE 0 END
                    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
                    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                    LEFT JOIN pg_collation c ON c.oid = a.attcollation
                    WHERE k.place <= i.indnkeyatts ORDER BY k.place),
                ARRAY(SELECT a.attname::text FROM pg_depend d
                    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0)
             FROM pg_index i WHERE i.indisunique OR i.indisexclusion";
        for row in client.query(indexes, &[]).await? {
            let (is_key, columns, types): (bool, Vec<String>, Vec<u32>) =
                (row.get(1), row.get(2), row.get(3));
            let more: Vec<String> = row.get(4);
            let Some(relation) = self.relation(row.get(0)) else {
                continue;
            };
            relation.delicate.extend(columns.iter().cloned());
            relation.delicate.extend(more);
            if is_key {
                let families = types
                    .into_iter()
                    .map(Family::of)
                    .collect::<Option<Vec<_>>>();
                relation.key = families.map(|families| columns.into_iter().zip(families).collect());
            } else {
                relation.other_unique = true;
            }
        }
        Ok(())
    }

    /// Those of identity columns; those of other defaults stand in the defaults.
    async fn read_sequences(&mut self, client: &Client) -> Result<(), Error> {
        let sequences = "SELECT d.refobjid, a.attname::text, d.objid
             FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i'
                AND a.attidentity <> ''";
        for row in client.query(sequences, &[]).await? {
            let drawn = (row.get(1), row.get(2));
            if let Some(relation) = self.relation(row.get(0)) {
                relation.sequences.push(drawn);
            }
        }
        Ok(())
    }

    /// What the definitions of tables and domains call.
    async fn read_expressions(&mut self, client: &Client) -> Result<(), Error> {
        let expressions = "SELECT adrelid, a.attname::text, pg_get_expr(adbin, adrelid)
                FROM pg_attrdef JOIN pg_attribute a ON a.attrelid = adrelid AND a.attnum = adnum
             UNION ALL SELECT conrelid, NULL, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'
             UNION ALL SELECT indrelid, NULL, pg_get_indexdef(indexrelid) FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
             UNION ALL SELECT partrelid, NULL, pg_get_partkeydef(partrelid) FROM pg_partitioned_table WHERE partexprs IS NOT NULL
             UNION ALL SELECT 0, NULL, typdefault FROM pg_type WHERE typtype = 'd' AND typdefault IS NOT NULL";
        for row in client.query(expressions, &[]).await? {
            let (oid, column): (u32, Option<String>) = (row.get(0), row.get(1));
            let text: Option<String> = row.get(2);
            let called = self.calls_of(text.as_deref().unwrap_or_default());
            match self.relations.get_mut(&oid) {
                // Of a domain, and nobody knows where it is used; or of a table of the system.
                None => self.anything_anywhere |= oid == 0 && called != Some(vec![]),
                Some(relation) => match (called, column) {
                    (Some(sequences), Some(column)) => {
                        let drawn = sequences.into_iter().map(|drawn| (column.clone(), drawn));
                        relation.sequences.extend(drawn);
                    }
                    (Some(sequences), None) if sequences.is_empty() => {}
                    _ => relation.opaque_to_write = true,
                },
            }
        }
        Ok(())
    }

    /// The sequences that an expression draws from. `None` if it could do anything else.
    fn calls_of(&self, text: &str) -> Option<Vec<u32>> {
        let statements = statements(text)?;
        let mut touched = Footprint::default();
        for nodes in &statements {
            super::calls::calls(self, nodes, &mut |touch| touched.join(&touch.certain()));
        }
        let relations = touched.touches.iter().map(|touch| touch.relation);
        let mut sequences = relations.clone();
        let only = !touched.everything && sequences.all(|relation| relation > CHANNELS);
        only.then(|| relations.collect())
    }

    /// All that is touched with a relation. Whether it comes back to the relation itself, so that no key of it is certain.
    pub(super) fn spread(
        &self,
        start: u32,
        effect: Effect,
        draws: bool,
        into: &mut Footprint,
    ) -> bool {
        let mut todo = vec![(start, effect)];
        let (mut done, mut comes_back) = (HashSet::new(), false);
        while let Some((oid, effect)) = todo.pop() {
            let Some(relation) = self.relations.get(&oid) else {
                continue;
            };
            if !done.insert((oid, effect)) {
                continue;
            }
            let changes = effect >= Effect::Updates;
            into.touches.insert(Touch {
                relation: oid,
                key: None,
                writes: effect > Effect::Reads,
            });
            into.everything |= relation.opaque || changes && relation.opaque_to_write;
            todo.extend(relation.children.iter().map(|&child| (child, effect)));
            self.look_up(&relation.parents, changes, into);
            if draws && changes {
                let drawn = relation.sequences.iter();
                todo.extend(drawn.map(|&(_, sequence)| (sequence, Effect::Updates)));
            }
            // Both who writes a row and who refers to it touch both tables, so their order is kept.
            let read = |key: &ForeignKey| {
                if key.late {
                    Effect::ReadsLate
                } else {
                    Effect::Reads
                }
            };
            if effect >= Effect::Inserts {
                let parents = relation.references.iter();
                todo.extend(parents.map(|key| (key.other, read(key))));
            }
            if effect == Effect::Locks || effect >= Effect::Inserts {
                let children = relation.referenced.iter();
                todo.extend(children.map(|key| {
                    let cascades = key.cascades && effect == Effect::Changes;
                    (key.other, if cascades { effect } else { read(key) })
                }));
            }
            if todo.iter().any(|&(oid, _)| oid == start) {
                comes_back = true;
            }
        }
        comes_back
    }

    /// The parents, which are locked and read for their definition only: the siblings stay out of it.
    fn look_up(&self, parents: &[u32], changes: bool, into: &mut Footprint) {
        for &parent in parents {
            let Some(relation) = self.relations.get(&parent) else {
                continue;
            };
            into.touches.insert(Touch {
                relation: parent,
                key: None,
                writes: false,
            });
            into.everything |= changes && relation.opaque_to_write;
            self.look_up(&relation.parents, changes, into);
        }
    }

    /// The relations that a name could mean.
    pub(super) fn called(&self, name: &str) -> &[u32] {
        self.named.get(name).map_or(&[], Vec::as_slice)
    }

    /// The one relation that a text names, such as `'public.orders_id_seq'`.
    pub(super) fn in_text(&self, text: &str) -> &[u32] {
        let statements = statements(text).unwrap_or_default();
        let last = statements.last().and_then(|nodes| nodes.last());
        last.and_then(Node::word)
            .map_or(&[], |name| self.called(name))
    }
}
