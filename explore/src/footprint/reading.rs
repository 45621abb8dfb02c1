//! What a text touches, whatever its parameters are.

use std::collections::{BTreeSet, HashMap};

use super::calls::calls;
use super::catalogue::{ADVISORY, CHANNELS, Catalogue, Effect};
use super::key::Source;
use super::lexer::{Node, Token, statements};
use super::places::{Place, Places};
use super::shape::Whose;
use super::{Control, Footprint, Touch, control_of};
use crate::wire::Param;

/// Something that is touched, by a key that is not known before the parameters are.
#[derive(Clone, Debug)]
pub(super) enum Touched {
    Everything,
    Relation {
        relation: u32,
        /// The one row; all of it if `None`.
        key: Option<Vec<Source>>,
        writes: bool,
    },
}

impl Touched {
    /// With all rows of the relation.
    pub(super) fn certain(&self) -> Footprint {
        self.with(&[])
    }

    fn with(&self, params: &[Param]) -> Footprint {
        match self {
            Self::Everything => Footprint::everything(),
            Self::Relation {
                relation,
                key,
                writes,
            } => {
                let values = key.as_ref().and_then(|key| {
                    let values = key.iter().map(|part| part.value(params));
                    values.collect::<Option<Vec<_>>>()
                });
                let touch = Touch {
                    relation: *relation,
                    key: values.map(|values| values.concat()),
                    writes: *writes,
                };
                Footprint {
                    everything: false,
                    touches: BTreeSet::from([touch]),
                }
            }
        }
    }
}

/// What a text touches, whatever its parameters are.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// What does not depend on them.
    fixed: Footprint,
    /// What does.
    open: Vec<Touched>,
}

impl Reading {
    pub(super) fn footprint(&self, params: &[Param]) -> Footprint {
        let mut footprint = self.fixed.clone();
        for touched in &self.open {
            footprint.join(&touched.with(params));
        }
        footprint
    }

    pub(super) fn of(catalogue: &Catalogue, sql: &str) -> Self {
        let mut reading = Self::default();
        match statements(sql) {
            Some(statements) => {
                for nodes in &statements {
                    let ends = control_of(nodes) == Control::End;
                    // Then the text does more than its own writes, and the caller does not see where.
                    reading.fixed.everything |= ends && statements.len() > 1;
                    reading.read(catalogue, nodes);
                }
                reading.find_lone_params(&statements);
                let all = reading.fixed.touches.clone();
                let written = |touch: &Touch| {
                    let (writes, touch) = (true, touch.clone());
                    all.contains(&Touch { writes, ..touch })
                };
                let needed = |touch: &Touch| touch.writes || !written(touch);
                reading.fixed.touches.retain(needed);
            }
            None => reading.fixed.everything = true,
        }
        reading
    }

    fn add(&mut self, touched: Touched) {
        match touched {
            Touched::Relation { key: Some(_), .. } => self.open.push(touched),
            _ => self.fixed.join(&touched.certain()),
        }
    }

    fn whole(&mut self, relation: u32) {
        self.add(Touched::Relation {
            relation,
            key: None,
            writes: true,
        });
    }

    fn read(&mut self, catalogue: &Catalogue, nodes: &[Node]) {
        let mut first = nodes;
        while let Some(inner) = first.first().and_then(Node::group) {
            first = inner;
        }
        let has = |keyword| nodes.iter().any(|node| node.is(keyword));
        match first.first().and_then(Node::keyword).unwrap_or_default() {
            "select" | "insert" | "update" | "delete" | "merge" | "with" | "values" | "table"
            | "lock" => self.query(catalogue, nodes),
            "begin" | "start" | "savepoint" | "release" | "commit" | "end" | "rollback"
            | "abort"
                if !has("prepared") => {}
            // It checks what was deferred.
            "set" if has("constraints") => self.fixed.everything = true,
            "set" | "reset" | "show" | "deallocate" | "close" => {}
            "listen" | "unlisten" | "notify" => self.whole(CHANNELS),
            "discard" => {
                self.whole(ADVISORY);
                self.whole(CHANNELS);
            }
            _ => self.fixed.everything = true,
        }
    }

    fn query(&mut self, catalogue: &Catalogue, nodes: &[Node]) {
        if catalogue.anything_anywhere {
            self.fixed.everything = true;
            return;
        }
        let words = Words::of(nodes);
        let places = Places::of(nodes);
        let of_user =
            |name: &str| !catalogue.called(name).is_empty() || places.queries.contains(name);
        let of_system = |name: &str| !of_user(name) && catalogue.system.contains(name);
        let known = |name: &str| of_user(name) || of_system(name);
        self.fixed.everything |= places.unclear
            || places.tables.iter().any(|place| !known(place.name))
            || words.effect(false) > Effect::Reads
                && places.tables.iter().any(|place| of_system(place.name));
        for (&name, &count) in words.count.iter().filter(|(name, _)| shows_others(name)) {
            let at: Vec<_> = places
                .tables
                .iter()
                .filter(|place| place.name == name)
                .collect();
            let looks: Option<Vec<_>> = at
                .iter()
                .map(|place| place.block?.looks_at_locks())
                .collect();
            match looks {
                Some(looks) if name == "pg_locks" && looks.len() >= count => {
                    if looks.contains(&Whose::All) {
                        self.fixed.touches.insert(Touch {
                            relation: ADVISORY,
                            key: None,
                            writes: false,
                        });
                    }
                }
                _ => self.fixed.everything = true,
            }
        }
        calls(catalogue, nodes, &mut |touched| self.add(touched));

        for (&name, &count) in &words.count {
            let at = places.tables.iter().filter(|place| place.name == name);
            let at: Vec<&Place<'_>> = at.collect();
            // Else it stands where it is not known what it is.
            let all_seen = at.iter().filter(|place| !place.dotted).count() == count;
            for &oid in catalogue.called(name) {
                let Some(relation) = catalogue.relations.get(&oid) else {
                    continue;
                };
                let keys = at.iter().map(|place| place.block?.key(relation));
                let keys: Option<Vec<_>> = keys.collect();
                let keys = keys.filter(|keys| all_seen && !keys.is_empty() && relation.has_keys());
                let effect = words.effect(keys.is_some());
                // With a key, it makes a row whose values are given.
                let given = keys.is_some() && !words.changes && !words.defaults;
                let draws = words.draws && !given;
                let mut spread = Footprint::default();
                let comes_back = catalogue.spread(oid, effect, draws, &mut spread);
                let writes = effect > Effect::Reads;
                if let Some(keys) = keys.filter(|_| !comes_back) {
                    let whole = Touch {
                        relation: oid,
                        key: None,
                        writes,
                    };
                    spread.touches.remove(&whole);
                    for key in keys {
                        let (relation, key) = (oid, Some(key));
                        self.add(Touched::Relation {
                            relation,
                            key,
                            writes,
                        });
                    }
                }
                self.fixed.join(&spread);
            }
        }
    }

    /// Finds the parameters that stand for nothing but keys of one family.
    fn find_lone_params(&mut self, statements: &[Vec<Node>]) {
        let mut places = HashMap::new();
        statements
            .iter()
            .for_each(|nodes| params(nodes, &mut places));
        let sources = |touched: &mut Touched| match touched {
            Touched::Relation { key: Some(key), .. } => std::mem::take(key),
            _ => vec![],
        };
        let used: Vec<Source> = self.open.clone().iter_mut().flat_map(sources).collect();
        for touched in &mut self.open {
            let Touched::Relation { key: Some(key), .. } = touched else {
                continue;
            };
            for source in key {
                if let Source::Param {
                    number,
                    family,
                    alone,
                    ..
                } = source
                {
                    let here = used.iter().filter_map(|used| match used {
                        Source::Param {
                            at, family: other, ..
                        } if other == family => Some(*at),
                        _ => None,
                    });
                    let here: BTreeSet<usize> = here.collect();
                    *alone = places[number].is_subset(&here);
                }
            }
        }
    }
}

fn params(nodes: &[Node], places: &mut HashMap<usize, BTreeSet<usize>>) {
    for node in nodes {
        if let Node::Token(Token::Param { number, at }) = node {
            places.entry(*number).or_default().insert(*at);
        }
        params(node.inner(), places);
    }
}

/// Whether something of the system by this name shows what other sessions do.
fn shows_others(name: &str) -> bool {
    name.starts_with("pg_stat")
        || matches!(
            name,
            "pg_locks" | "pg_prepared_xacts" | "pg_sequences" | "pg_largeobject"
        )
}

/// The words of a statement, wherever they stand.
#[derive(Default)]
struct Words<'a> {
    /// How often each stands alone: not before a dot, nor after one.
    count: HashMap<&'a str, usize>,
    locks: bool,
    inserts: bool,
    /// ON CONFLICT DO UPDATE included.
    updates: bool,
    /// It deletes, or does whatever else can be done to rows.
    changes: bool,
    /// It makes values for columns, and so can draw from sequences.
    draws: bool,
    /// It says so.
    defaults: bool,
}

impl<'a> Words<'a> {
    fn of(nodes: &'a [Node]) -> Self {
        let mut words = Self::default();
        words.add(nodes);
        words.draws = words.inserts || words.changes || words.defaults;
        words
    }

    fn add(&mut self, nodes: &'a [Node]) {
        for (at, node) in nodes.iter().enumerate() {
            let (before, after) = (at.checked_sub(1).map(|at| &nodes[at]), nodes.get(at + 1));
            if let Some(name) = node.word() {
                let dotted = [before, after].into_iter().flatten().any(Node::is_dot);
                *self.count.entry(name).or_default() += usize::from(!dotted);
            }
            let after_for = before.is_some_and(|node| node.is("for") || node.is("key"));
            match node.keyword().unwrap_or_default() {
                "lock" | "share" => self.locks = true,
                "update" if after_for => self.locks = true,
                "update" => self.updates = true,
                "insert" => self.inserts = true,
                "delete" | "merge" | "truncate" | "copy" => self.changes = true,
                "default" => self.defaults = true,
                _ => {}
            }
            self.add(node.inner());
        }
    }

    /// What the statement does to a relation at most. With a key it updates nothing that foreign keys are about.
    fn effect(&self, keyed: bool) -> Effect {
        if self.changes || self.updates && !keyed {
            Effect::Changes
        } else if self.inserts || self.updates && self.locks {
            Effect::Inserts
        } else if self.updates {
            Effect::Updates
        } else if self.locks {
            Effect::Locks
        } else {
            Effect::Reads
        }
    }
}
