//! A connection of an actor: where its session is, and what its requests touch there.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use crate::footprint::{Catalogue, Control, Footprint, changes_isolation, control, locks_tables};
use crate::relay::{Grant, Request};
use crate::run::Thread;
use crate::wire::{Statement, Status};

/// What a transaction sees of others that commit after it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// READ COMMITTED: each statement sees the newest.
    Newest,
    /// REPEATABLE READ: all see what the first has seen.
    Snapshot,
    /// SERIALIZABLE: and the server compares what was read, whoever wrote it and when.
    Serializable,
}

impl Level {
    /// The level that the server calls so.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "read committed" | "read uncommitted" => Self::Newest,
            "repeatable read" => Self::Snapshot,
            _ => Self::Serializable,
        }
    }

    /// The level that a text could set.
    pub(crate) fn of(sql: &str) -> Self {
        let named = |word| sql.to_ascii_lowercase().contains(word);
        match changes_isolation(sql) {
            false => Self::Newest,
            true if named("repeatable") && !named("serializable") => Self::Snapshot,
            true => Self::Serializable,
        }
    }
}

/// What was seen in any schedule, and makes the steps of all others touch more.
#[derive(Debug, Default)]
pub(crate) struct SeenElsewhere {
    /// Tables are locked against those who only read: the ends of their transactions are waited for.
    table_locks: AtomicBool,
    /// The schema is changed: nothing is known of what statements touch.
    schema_changes: AtomicBool,
}

impl SeenElsewhere {
    /// Whether this statement is the first of its kind.
    pub(crate) fn take(&self, statement: &Statement, footprint: &Footprint) -> bool {
        let locks = locks_tables(&statement.sql);
        let new = locks && !self.table_locks.swap(true, Relaxed);
        new | (locks && footprint.everything && !self.schema_changes.swap(true, Relaxed))
    }
}

/// A connection of an actor, as the explorer sees it.
pub(crate) struct Connection {
    pub(crate) thread: Thread,
    pub(crate) pid: i32,
    pub(crate) grants: UnboundedSender<Grant>,
    pub(crate) status: Status,
    /// The step that is under way.
    pub(crate) flight: Option<Flight>,
    /// The request that waits to be let go.
    pub(crate) held: Option<Held>,
    /// The transaction that it is in.
    pub(crate) transaction: Option<usize>,
    /// What the transaction has touched.
    pub(crate) touched: Footprint,
    /// What the transaction sees that it is in, at the most.
    level: Level,
    /// What its transactions see that say nothing of it.
    default_level: Level,
    /// The first statement of the transaction has chosen what the others see.
    pub(crate) has_snapshot: bool,
    /// It may have something of the session that others see when it goes, such as an advisory lock.
    pub(crate) sticky: bool,
    /// When it was opened, until its first request is there.
    pub(crate) fresh_since: Option<Instant>,
    /// It is closed.
    pub(crate) gone: bool,
}

impl Connection {
    pub(crate) fn new(
        thread: Thread,
        pid: i32,
        grants: UnboundedSender<Grant>,
        level: Level,
    ) -> Self {
        Self {
            thread,
            pid,
            grants,
            status: Status::Idle,
            flight: None,
            held: None,
            transaction: None,
            touched: Footprint::default(),
            level,
            default_level: level,
            has_snapshot: false,
            sticky: false,
            fresh_since: Some(Instant::now()),
            gone: false,
        }
    }

    /// What others wait for until its transaction has ended.
    pub(crate) fn holds(&self, seen: &SeenElsewhere) -> Footprint {
        match seen.table_locks.load(Relaxed) {
            true => self.touched.clone(),
            false => self.touched.writes(),
        }
    }

    /// What a request touches by itself.
    pub(crate) fn touches(
        &self,
        request: &Request,
        catalogue: &Catalogue,
        seen: &SeenElsewhere,
    ) -> Footprint {
        let ends = || self.holds(seen);
        let statements = match request {
            Request::Disconnect if self.sticky => return Footprint::everything(),
            Request::Disconnect => return ends(),
            Request::Statements(statements) => statements,
        };
        let (mut all, mut level) = (Footprint::default(), self.level);
        for statement in statements.iter() {
            level = level.max(Level::of(&statement.sql));
            match control(&statement.sql) {
                Control::Quiet => {}
                _ if seen.schema_changes.load(Relaxed) => return Footprint::everything(),
                // What it has read can make another one fail, until it has ended.
                Control::End if level == Level::Serializable && !self.touched.is_nothing() => {
                    return Footprint::everything();
                }
                Control::End => all.join(&ends()),
                Control::None => {
                    let touched = catalogue.footprint(statement);
                    match level {
                        Level::Newest => all.join(&touched),
                        _ if touched.is_nothing()
                            && (self.has_snapshot || is_setting(&statement.sql)) => {}
                        // It sees nothing of what others have done since the first statement, whatever they do.
                        Level::Snapshot if self.has_snapshot => all.join(&touched.writes()),
                        Level::Snapshot | Level::Serializable => return Footprint::everything(),
                    }
                    if is_several(&statement.sql) {
                        all.join(&self.touched);
                    }
                }
            }
        }
        all
    }

    /// Takes what these statements may change for those after them.
    pub(crate) fn goes(&mut self, statements: &[Statement], touched: &Footprint) {
        for Statement { sql, .. } in statements {
            let level = Level::of(sql);
            self.level = self.level.max(level);
            if !is_of_one_transaction(sql) {
                self.default_level = self.default_level.max(level);
            }
            self.sticky |= touched.everything || sql.to_ascii_lowercase().contains("advisory");
        }
    }

    /// The step has ended, of which this is known: whether its transaction has ended with it.
    pub(crate) fn ends_step(
        &mut self,
        statements: &[Statement],
        touched: &Footprint,
        footprint: &Footprint,
    ) -> bool {
        let several = statements
            .iter()
            .any(|statement| is_several(&statement.sql));
        let chains = statements.iter().any(|statement| {
            control(&statement.sql) == Control::End
                && statement.sql.to_ascii_lowercase().contains("chain")
        });
        let ended = self.status == Status::Idle || chains;
        if ended {
            (self.transaction, self.touched) = (None, Footprint::default());
            // What is chained goes on at the same level.
            if !chains {
                self.level = self.default_level;
            }
        } else {
            self.touched.join(touched);
        }
        self.has_snapshot = !ended && !several && (self.has_snapshot || !footprint.is_nothing());
        ended
    }

    /// Whether it neither waits to be let go nor for the server.
    pub(crate) fn is_silent(&self) -> bool {
        self.held.is_none() && self.flight.is_none()
    }
}

pub(crate) struct Flight {
    pub(crate) step: usize,
    pub(crate) since: Instant,
    /// The server says that it waits.
    pub(crate) waits: bool,
}

pub(crate) struct Held {
    pub(crate) request: Request,
    pub(crate) since: usize,
}

/// What statements touch, at whatever level, without what their transaction has touched before.
pub(crate) fn named(request: &Request, catalogue: &Catalogue) -> Footprint {
    let mut all = Footprint::default();
    if let Request::Statements(statements) = request {
        for statement in statements.iter() {
            if control(&statement.sql) == Control::None {
                all.join(&catalogue.footprint(statement));
            }
        }
    }
    all
}

/// Whether a level that this text names is that of one transaction.
fn is_of_one_transaction(sql: &str) -> bool {
    let sql = sql.trim_start().to_ascii_lowercase();
    !is_several(&sql)
        && ["begin", "start transaction", "set transaction"]
            .iter()
            .any(|first| sql.starts_with(first))
}

/// Whether a text is about the session, for which the server looks at no table.
fn is_setting(sql: &str) -> bool {
    let first = sql
        .trim_start()
        .split(|letter: char| !letter.is_ascii_alphabetic())
        .next();
    let settings = ["set", "show", "reset"];
    !is_several(sql)
        && first.is_some_and(|first| settings.iter().any(|word| first.eq_ignore_ascii_case(word)))
}

/// Whether a text may have several statements, among them the end of a transaction and the beginning of the next one.
fn is_several(sql: &str) -> bool {
    sql.trim_end().trim_end_matches(';').contains(';')
}
