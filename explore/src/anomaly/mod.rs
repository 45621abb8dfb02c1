//! What went wrong in a schedule, by the names of the literature: a name is given only with the cycle that shows it.
//!
//! The nodes are the transactions that committed. One depends on another where it overwrote what that one wrote (ww), read
//! it (wr), or overwrote what that one had read (rw); a cycle means that no serial order has the same outcome (Adya 1999).
//! Most programs that go wrong read and write in separate transactions, each of which is in order. There the actors are
//! the nodes, as if each had done all in one transaction: what they went on from was read before the other's write.

mod history;
mod sql;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;

use self::history::{Access, Depends, Edge, History, Verb};
use crate::trace::Trace;

/// A name for what went wrong, and how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anomaly {
    /// Such as `lost update`.
    pub(crate) name: String,
    /// Who read and wrote what, with the numbers of the steps.
    pub(crate) sentence: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.sentence)
    }
}

/// What a cycle is called, the most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    DirtyWrite,
    CircularFlow,
    LostUpdate,
    WriteSkew,
    Phantom,
    CheckThenAct,
    NonRepeatableRead,
    ReadSkew,
    Serialization,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::DirtyWrite => "dirty write",
            Self::CircularFlow => "circular information flow",
            Self::LostUpdate => "lost update",
            Self::WriteSkew => "write skew",
            Self::Phantom => "phantom",
            Self::CheckThenAct => "check-then-act",
            Self::NonRepeatableRead => "non-repeatable read",
            Self::ReadSkew => "read skew",
            Self::Serialization => "serialization anomaly",
        }
    }
}

/// Which of them is told: the name, and of many cycles with that name the short one that goes on from the last reads.
type Rank = (Name, usize, Reverse<usize>, Vec<usize>);

struct Finder<'a> {
    trace: &'a Trace,
    history: History<'a>,
}

impl Anomaly {
    /// What a schedule shows.
    pub(crate) fn of(trace: &Trace) -> Self {
        let history = History::of(trace);
        let finder = Finder { trace, history };
        // Known rows prove more than tables, where two statements may be about different rows.
        let mut found = [true, false].into_iter().filter_map(|certain| {
            let within = finder.between_transactions(certain);
            within.or_else(|| finder.between_actors(certain))
        });
        found.next().unwrap_or_else(|| finder.nothing())
    }
}

impl Finder<'_> {
    fn edges(&self, certain: bool) -> Vec<&Edge> {
        let edges = self.history.edges.iter();
        edges.filter(|edge| edge.certain || !certain).collect()
    }

    fn ends(&self, edge: &Edge) -> (&Access<'_>, &Access<'_>) {
        self.history.ends(edge)
    }

    fn between_transactions(&self, certain: bool) -> Option<Anomaly> {
        let edges = self.edges(certain);
        let transactions = |edge: &Edge| {
            let (from, to) = self.ends(edge);
            (from.transaction, to.transaction)
        };
        let mut cycles = Vec::new();
        for first in &edges {
            let (from, to) = transactions(first);
            let back = edges.iter().filter(|edge| transactions(edge) == (to, from));
            cycles.extend(back.map(|back| vec![*first, *back]));
            // Fewer reads that were overtaken say more.
            for kinds in [
                [Depends::WriteWrite].as_slice(),
                &[Depends::WriteWrite, Depends::WriteRead],
                &[Depends::WriteWrite, Depends::WriteRead, Depends::ReadWrite],
            ] {
                let allowed: Vec<_> = edges
                    .iter()
                    .copied()
                    .filter(|edge| kinds.contains(&edge.kind))
                    .collect();
                cycles.extend(way_back(first, &allowed, transactions));
            }
        }
        let named = cycles.iter().filter_map(|cycle| {
            let name = self.name(cycle)?;
            Some((self.rank(name, cycle), cycle))
        });
        let ((name, ..), cycle) = named.min_by(|(one, _), (two, _)| one.cmp(two))?;
        Some(self.tell(name, cycle, ""))
    }

    fn rank(&self, name: Name, cycle: &[&Edge]) -> Rank {
        let steps = cycle.iter().flat_map(|edge| {
            let (from, to) = self.ends(edge);
            [from.step, to.step]
        });
        let steps: Vec<_> = steps.collect();
        // All cycles begin with what is read, the one of the earliest reader first.
        let first = match name {
            Name::LostUpdate | Name::NonRepeatableRead | Name::CheckThenAct => steps[0],
            _ => 0,
        };
        (name, cycle.len(), Reverse(first), steps)
    }

    /// What a cycle of transactions is called, if it begins with a read that was overtaken, or has none.
    fn name(&self, cycle: &[&Edge]) -> Option<Name> {
        let count = |kind| cycle.iter().filter(|edge| edge.kind == kind).count();
        let [first, .., last] = cycle else {
            return None;
        };
        let reads = count(Depends::ReadWrite);
        if reads == 0 {
            // PostgreSQL lets this not happen to a row; to different rows of a table it may.
            let certain = cycle.iter().all(|edge| edge.certain);
            let name = match count(Depends::WriteRead) {
                0 => Name::DirtyWrite,
                _ => Name::CircularFlow,
            };
            return certain.then_some(name);
        }
        if first.kind != Depends::ReadWrite {
            return None;
        }
        if cycle.iter().any(|edge| self.about_the_set(edge)) {
            return Some(Name::Phantom);
        }
        let (read, _) = self.ends(first);
        let (_, end) = self.ends(last);
        match reads {
            1 if cycle.len() == 2 && read.meets(end) => match last.kind {
                Depends::WriteRead => Some(Name::NonRepeatableRead),
                _ => (last.from == first.to
                    && read.told
                    && end.overwrites
                    && read.step < end.step
                    && !self.history.read_again(read, end))
                .then_some(Name::LostUpdate),
            },
            1 => Some(Name::ReadSkew),
            _ if reads == cycle.len() && self.about_one_row(cycle) => Some(Name::CheckThenAct),
            _ if reads == cycle.len() => Some(Name::WriteSkew),
            _ => Some(Name::Serialization),
        }
    }

    /// Whether all write the same, and may have read it.
    fn about_one_row(&self, cycle: &[&Edge]) -> bool {
        let Some((_, one)) = cycle.first().map(|edge| self.ends(edge)) else {
            return false;
        };
        cycle.iter().all(|edge| {
            let (read, write) = self.ends(edge);
            write.same(one) && read.meets(one)
        })
    }

    /// Whether rows came or went in a table that the other one had looked through.
    fn about_the_set(&self, edge: &Edge) -> bool {
        let (read, write) = self.ends(edge);
        edge.kind == Depends::ReadWrite
            && read.key.is_none()
            && matches!(write.verb, Verb::Insert | Verb::Delete)
    }

    /// An actor went on, in another transaction, from what it had read before another actor wrote.
    fn between_actors(&self, certain: bool) -> Option<Anomaly> {
        let edges = self.edges(certain);
        let overtaken = edges.iter().filter(|edge| {
            let (read, write) = self.ends(edge);
            edge.kind == Depends::ReadWrite && read.told && read.actor != write.actor
        });
        let overtaken: Vec<_> = overtaken.copied().collect();
        let mut found: Vec<(Rank, Vec<&Edge>)> = Vec::new();
        for first in &overtaken {
            let (read, other) = self.ends(first);
            for back in &edges {
                let (from, write) = self.ends(back);
                if (from.actor, write.actor) != (other.actor, read.actor)
                    || read.step >= write.step
                    || other.done >= write.done
                    || self.history.read_again(read, write)
                {
                    continue;
                }
                let name = match back.kind {
                    // The other's write is the one that is overwritten.
                    Depends::WriteWrite if back.from == first.to && read.meets(write) => {
                        write.overwrites.then_some(Name::LostUpdate)
                    }
                    // Each had read before the other one wrote.
                    Depends::ReadWrite
                        if from.told
                            && from.step < other.step
                            && !self.history.read_again(from, other) =>
                    {
                        Some(if self.about_the_set(first) || self.about_the_set(back) {
                            Name::Phantom
                        } else if self.about_one_row(&[first, back]) {
                            Name::CheckThenAct
                        } else {
                            Name::WriteSkew
                        })
                    }
                    _ => None,
                };
                let cycle = vec![*first, *back];
                found.extend(name.map(|name| (self.rank(name, &cycle), cycle)));
            }
        }
        let ((name, ..), cycle) = found.iter().min_by(|(one, _), (two, _)| one.cmp(two))?;
        Some(self.tell(*name, cycle, " (between statements of no one transaction)"))
    }

    fn tell(&self, name: Name, cycle: &[&Edge], apart: &str) -> Anomaly {
        let mut sentence = match (name, cycle) {
            (Name::LostUpdate, [first, last]) => {
                let what = "from what it had read";
                format!("{} {what}", self.overtaken(first, self.ends(last).1))
            }
            (Name::CheckThenAct, [first, last]) => {
                let what = "though what it had read was no longer so";
                format!("{} {what}", self.overtaken(first, self.ends(last).1))
            }
            (Name::NonRepeatableRead, [first, last]) => {
                let (read, write) = self.ends(first);
                let again = self.ends(last).1.step + 1;
                let (reads, writes) = (self.did(read), self.did_to_it(write));
                format!(
                    "{reads}, {writes}, and {} found it changed at {again}",
                    self.actor(read)
                )
            }
            _ => {
                // A cycle has no beginning, and a reader expects the first step.
                let begin = (0..cycle.len())
                    .filter(|&at| cycle[at].kind == Depends::ReadWrite)
                    .min_by_key(|&at| self.ends(cycle[at]).0.step);
                let (after, before) = cycle.split_at(begin.unwrap_or(0));
                let clauses = before.iter().chain(after).map(|edge| self.clause(edge));
                clauses.collect::<Vec<_>>().join("; ")
            }
        };
        let unsure = cycle.iter().filter(|edge| !edge.certain);
        let tables = unsure.map(|edge| self.table(self.ends(edge).0));
        let tables: BTreeSet<_> = tables.collect();
        if !tables.is_empty() {
            let tables = tables.into_iter().collect::<Vec<_>>().join(" and ");
            sentence.push_str(&format!(
                " (which rows of {tables} each of these touches is not known)"
            ));
        }
        Anomaly {
            name: format!("{}{apart}", name.text()),
            sentence,
        }
    }

    fn overtaken(&self, first: &Edge, write: &Access<'_>) -> String {
        let (read, other) = self.ends(first);
        let (reads, writes) = (self.did(read), self.did_to_it(other));
        format!("{reads}, {writes}, and {}", self.did_to_it(write))
    }

    fn clause(&self, edge: &Edge) -> String {
        let (from, to) = self.ends(edge);
        match edge.kind {
            Depends::ReadWrite if from.step < to.step => {
                format!("{}, before {}", self.did(from), self.did_to_it(to))
            }
            // From a snapshot of before.
            Depends::ReadWrite => {
                format!(
                    "{}, and did not see that {}",
                    self.did(from),
                    self.did_to_it(to)
                )
            }
            Depends::WriteRead => format!("{}, after {}", self.did(to), self.did_to_it(from)),
            Depends::WriteWrite => format!("{}, before {}", self.did(from), self.did_to_it(to)),
        }
    }

    fn actor(&self, access: &Access<'_>) -> &str {
        let actor = self.trace.actors.get(access.actor);
        actor.map_or("an actor", String::as_str)
    }

    fn table(&self, access: &Access<'_>) -> String {
        let name = self.trace.relations.get(&access.relation);
        name.map_or_else(|| format!("table {}", access.relation), String::clone)
    }

    fn did(&self, access: &Access<'_>) -> String {
        let (table, verb) = (self.table(access), verb(access));
        let what = match access.key {
            Some(_) => format!("a row of {table}"),
            None => table,
        };
        format!(
            "{} {verb} {what} at {}",
            self.actor(access),
            access.step + 1
        )
    }

    fn did_to_it(&self, access: &Access<'_>) -> String {
        let (actor, verb) = (self.actor(access), verb(access));
        format!("{actor} {verb} it at {}", access.step + 1)
    }

    fn nothing(&self) -> Anomaly {
        let unknown = self.history.unknown.iter().map(|at| (at + 1).to_string());
        let unknown = unknown.collect::<Vec<_>>().join(", ");
        let sentence = if unknown.is_empty() {
            "each transaction by itself is in order; look at the program between them".to_owned()
        } else {
            format!("what step {unknown} touches is not known, and the others make no cycle")
        };
        Anomaly {
            name: "none in the dependency graph".to_owned(),
            sentence,
        }
    }
}

fn verb(access: &Access<'_>) -> &'static str {
    match (access.verb, access.key) {
        (Verb::Read, _) => "read",
        (Verb::Update, _) => "wrote",
        (Verb::Insert, Some(_)) => "inserted",
        (Verb::Insert, None) => "inserted into",
        (Verb::Delete, Some(_)) => "deleted",
        (Verb::Delete, None) => "deleted from",
    }
}

/// The shortest cycle which begins with an edge and goes on with allowed ones.
fn way_back<'a>(
    first: &'a Edge,
    allowed: &[&'a Edge],
    ends: impl Fn(&Edge) -> (usize, usize),
) -> Option<Vec<&'a Edge>> {
    let (home, begin) = ends(first);
    let mut came: HashMap<usize, &Edge> = HashMap::new();
    let mut queue = VecDeque::from([begin]);
    while let Some(at) = queue.pop_front() {
        if at == home {
            let mut cycle = Vec::new();
            let mut node = home;
            while node != begin {
                let edge = *came.get(&node)?;
                cycle.push(edge);
                node = ends(edge).0;
            }
            cycle.push(first);
            cycle.reverse();
            return Some(cycle);
        }
        for edge in allowed {
            let (from, to) = ends(edge);
            if from == at && to != begin && !came.contains_key(&to) {
                came.insert(to, edge);
                queue.push_back(to);
            }
        }
    }
    None
}
