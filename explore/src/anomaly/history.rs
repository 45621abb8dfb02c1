//! What the committed transactions of a schedule read and wrote, and how they depend on each other.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::sql::{Scope, isolation, only_reads, overwrites, words};
use crate::trace::{Step, Trace, What};

/// When something happens: in the course of which step, and there after those who had not to wait for that step.
pub(super) type Moment = (usize, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Read,
    Update,
    Insert,
    Delete,
}

/// That a transaction reads or writes a row, or a table.
#[derive(Debug)]
pub(super) struct Access<'a> {
    pub(super) transaction: usize,
    pub(super) actor: usize,
    pub(super) step: usize,
    pub(super) relation: u32,
    /// All of the table if `None`.
    pub(super) key: Option<&'a [u8]>,
    pub(super) verb: Verb,
    /// When its statement begins: it sees the rows that were committed before.
    start: Moment,
    /// When it is done. A statement that waited for a row goes on with the newest version of it.
    pub(super) done: Moment,
    /// Whether the client is told what was read: it can go on from that.
    pub(super) told: bool,
    /// Whether a write takes the place of what was there.
    pub(super) overwrites: bool,
}

impl Access<'_> {
    pub(super) fn writes(&self) -> bool {
        self.verb != Verb::Read
    }

    /// Whether it is about rows of no known key that come or go.
    pub(super) fn changes_the_set(&self) -> bool {
        self.key.is_none() && matches!(self.verb, Verb::Insert | Verb::Delete)
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        self.relation == other.relation && self.key == other.key
    }

    /// Whether both can be about one row.
    pub(super) fn meets(&self, other: &Self) -> bool {
        // Nothing says that a row which came or went is the one of the key.
        let strangers = (self.changes_the_set() && other.key.is_some())
            || (other.changes_the_set() && self.key.is_some());
        self.relation == other.relation
            && (self.key.is_none() || other.key.is_none() || self.key == other.key)
            && !strangers
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depends {
    WriteWrite,
    WriteRead,
    ReadWrite,
}

/// That one transaction comes before another one in every serial order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) kind: Depends,
    /// Accesses, by number.
    pub(super) from: usize,
    pub(super) to: usize,
    /// Whether both are about one row that is known.
    pub(super) certain: bool,
}

#[derive(Default)]
pub(super) struct History<'a> {
    pub(super) accesses: Vec<Access<'a>>,
    pub(super) edges: Vec<Edge>,
    /// Committed steps of which nobody knows what they touch.
    pub(super) unknown: Vec<usize>,
    /// When each transaction committed, if it did.
    committed: BTreeMap<usize, Moment>,
}

impl<'a> History<'a> {
    pub(super) fn of(trace: &'a Trace) -> Self {
        let mut history = Self::default();
        for (at, step) in trace.steps.iter().enumerate() {
            if commits(step) {
                let committed = answered(step, at);
                history.committed.insert(step.transaction, committed);
            }
        }
        history.read_accesses(trace);
        history.find_edges();
        history
    }

    fn read_accesses(&mut self, trace: &'a Trace) {
        let mut sessions = HashSet::new();
        // Of transactions that read from one snapshot: since when, which is their first statement.
        let mut snapshots: HashMap<usize, (bool, Option<Moment>)> = HashMap::new();
        let mut savepoints = Vec::new();
        for (at, step) in trace.steps.iter().enumerate() {
            let What::Statements(statements) = &step.what else {
                continue;
            };
            if !self.committed.contains_key(&step.transaction) || failed(step) {
                continue;
            }
            let session = (step.actor, step.connection);
            let texts: Vec<_> = statements.iter().map(|one| words(&one.sql)).collect();
            for words in &texts {
                match isolation(words) {
                    Some((Scope::Transaction, snapshot)) => {
                        snapshots.insert(step.transaction, (snapshot, None));
                    }
                    Some((Scope::Session, true)) => {
                        sessions.insert(session);
                    }
                    Some((Scope::Session, false)) => {
                        sessions.remove(&session);
                    }
                    None => {}
                }
                let Some((first, name)) = words.first().zip(words.last()) else {
                    continue;
                };
                if first == "savepoint" {
                    savepoints.push((step.transaction, name.clone(), at));
                } else if first == "rollback" && words.iter().any(|word| word == "to") {
                    let mut made = savepoints.iter().rev();
                    let made =
                        made.find(|(of, called, _)| (of, called) == (&step.transaction, name));
                    // One that was not seen may have been the first thing of all.
                    let since = made.map_or(0, |(.., at)| *at);
                    // What was written since then is gone; what was read stays read.
                    self.accesses.retain(|access| {
                        access.transaction != step.transaction
                            || access.step < since
                            || !access.writes()
                    });
                }
            }
            if step.touched.everything {
                self.unknown.push(at);
            }
            if step.touched.touches.is_empty() {
                continue;
            }
            let (has, since) = snapshots
                .entry(step.transaction)
                .or_insert_with(|| (sessions.contains(&session), None));
            let snapshot = has.then(|| *since.get_or_insert((at, 0)));
            self.read_step(step, at, &texts, snapshot);
        }
    }

    fn read_step(
        &mut self,
        step: &'a Step,
        at: usize,
        texts: &[Vec<String>],
        snapshot: Option<Moment>,
    ) {
        let What::Statements(statements) = &step.what else {
            return;
        };
        let has = |word: &str| texts.iter().flatten().any(|is| is == word);
        let verb = if has("insert") || has("copy") || has("merge") {
            Verb::Insert
        } else if has("delete") || has("truncate") {
            Verb::Delete
        } else {
            Verb::Update
        };
        let writes_nothing = texts.iter().all(|words| only_reads(words)) || no_row(step, texts);
        let overwrites = statements.iter().any(|one| overwrites(&one.sql));
        let done = answered(step, at);
        let access = |relation, key, verb, told| Access {
            transaction: step.transaction,
            actor: step.actor,
            step: at,
            relation,
            key,
            verb,
            start: snapshot.unwrap_or((at, 0)),
            done: match (verb, snapshot) {
                (Verb::Read, Some(snapshot)) => snapshot,
                _ => done,
            },
            told,
            overwrites,
        };
        for touch in &step.touched.touches {
            let (relation, key) = (touch.relation, touch.key.as_deref());
            if !touch.writes || writes_nothing {
                self.accesses.push(access(relation, key, Verb::Read, true));
                continue;
            }
            // An UPDATE reads the newest version of the row that it writes. That matters where it computes from it or
            // returns it. Of a table it finds some rows, and what it found matters where it returns or counts them.
            let told = has("returning");
            let reads = match key {
                Some(_) => verb != Verb::Insert && (told || !overwrites),
                None => told && verb != Verb::Insert || has("select"),
            };
            if reads {
                self.accesses.push(access(relation, key, Verb::Read, told));
            }
            self.accesses.push(access(relation, key, verb, false));
        }
    }

    /// Whether a reader has seen what another transaction wrote.
    fn sees(&self, read: &Access<'_>, write: &Access<'_>) -> bool {
        // A row that comes while a statement waits is not seen by it; a new version of a row that was there is.
        let until = match write.verb {
            Verb::Insert => read.start,
            _ => read.done,
        };
        self.committed[&write.transaction] < until
    }

    fn find_edges(&mut self) {
        for (at, one) in self.accesses.iter().enumerate() {
            for (other_at, other) in self.accesses.iter().enumerate() {
                if one.transaction == other.transaction || !other.writes() || !one.meets(other) {
                    continue;
                }
                let (kind, from, to) = if one.writes() {
                    // Who inserts into a table overwrites nothing there.
                    if one.changes_the_set() || other.changes_the_set() || one.done >= other.done {
                        continue;
                    }
                    (Depends::WriteWrite, at, other_at)
                } else if self.sees(one, other) {
                    (Depends::WriteRead, other_at, at)
                } else {
                    (Depends::ReadWrite, at, other_at)
                };
                self.edges.push(Edge {
                    kind,
                    from,
                    to,
                    certain: one.key.is_some() && other.key.is_some(),
                });
            }
        }
    }

    /// The accesses of an edge.
    pub(super) fn ends(&self, edge: &Edge) -> (&Access<'a>, &Access<'a>) {
        (&self.accesses[edge.from], &self.accesses[edge.to])
    }

    /// Whether the client has read it again, between a read and a write of its own: it goes on from that one.
    pub(super) fn read_again(&self, read: &Access<'_>, before: &Access<'_>) -> bool {
        self.accesses.iter().any(|again| {
            // A write that finds its rows by itself, as the claim of a job does, goes on from no earlier read.
            let by_itself = again.step == before.step && again.key.is_none();
            again.told
                && again.actor == read.actor
                && again.meets(read)
                && (by_itself || (read.step + 1..before.step).contains(&again.step))
        })
    }
}

fn answered(step: &Step, at: usize) -> Moment {
    match step.answered_in {
        Some(later) if later > at => (later, at + 1),
        _ => (at, 0),
    }
}

fn failed(step: &Step) -> bool {
    step.answer
        .as_ref()
        .is_none_or(|answer| answer.error.is_some())
}

/// Whether its transaction commits with it. COMMIT after an error is answered with ROLLBACK.
fn commits(step: &Step) -> bool {
    let Some(answer) = &step.answer else {
        return false;
    };
    let mut tags = answer.tags.iter().rev().map(String::as_str);
    let end = tags.find(|tag| matches!(*tag, "COMMIT" | "ROLLBACK" | "PREPARE TRANSACTION"));
    step.ends_transaction && !failed(step) && end.is_none_or(|tag| tag == "COMMIT")
}

/// Whether the server says that nothing was written. The tag tells of the last part of a WITH only.
fn no_row(step: &Step, texts: &[Vec<String>]) -> bool {
    let Some(answer) = &step.answer else {
        return false;
    };
    let none = |(words, tag): (&Vec<String>, &String)| {
        let tag = tag.to_lowercase();
        let mut parts = tag.split(' ');
        let (verb, count) = (parts.next(), parts.next_back());
        matches!(verb, Some("insert" | "update" | "delete" | "merge"))
            && verb == words.first().map(String::as_str)
            && count == Some("0")
    };
    answer.tags.len() == texts.len() && texts.iter().zip(&answer.tags).all(none)
}
