//! What a program has: rows, and what happens to them and to workers.

use std::time::Duration;

use rowlock_tests::random::Random;

#[derive(Debug)]
pub(super) struct Program {
    pub(super) rows: Vec<Kind>,
    pub(super) events: Vec<Event>,
    /// Who brings all rows to their end.
    pub(super) last: Crew,
}

const KINDS: [&str; 8] = [
    "good",
    "good",
    "slow",
    "flaky",
    "crashing",
    "failing",
    "undecodable",
    "no claim",
];

/// What a row is, and whose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) what: &'static str,
    pub(super) customer: Option<i64>,
}

#[derive(Debug, Clone)]
pub(super) enum Event {
    Wait(Duration),
    Start(Crew),
    /// As `kill -9` does: nothing is written any more.
    Kill(usize),
    Shutdown(usize),
    /// A transaction holds the row.
    Lock(i64, Duration),
    Add(Kind),
    /// A job of which one is to wait or run.
    Enqueue(i64),
    /// A schedule is due, which enqueues a job.
    Tick,
    Cancel(i64),
    /// Of one customer, or all.
    Pause(Option<i64>),
    Resume(Option<i64>),
    Redrive,
    Purge,
}

/// A `WorkerSet` of one worker for all rows, or of two that share them.
#[derive(Debug, Clone)]
pub(super) struct Crew {
    pub(super) lowered: bool,
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) concurrency: usize,
    pub(super) prefetch: usize,
    /// The outermost first.
    pub(super) hooks: Vec<Hook>,
    pub(super) handler: Handler,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Handler {
    pub(super) part: Part,
    /// How many rows it gets at most; 1 for a handler of single rows.
    pub(super) size: usize,
    /// It has one answer for all rows of a batch, and not one for each.
    pub(super) alike: bool,
}

/// Which rows a worker claims.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    All,
    /// Of the first customer.
    First,
    /// Of all others, and of none.
    Others,
}

/// What a hook does about the jobs that it [chooses](Hook::chooses); all others pass through.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    Passes,
    /// Turns their outcomes into others.
    Turns,
    /// Panics after their handlers.
    Panics,
    /// Completes them without a handler.
    Skips,
}

impl Hook {
    pub(super) fn chooses(self, id: i64) -> bool {
        match self {
            Self::Passes => false,
            Self::Turns => id % 2 == 0,
            Self::Panics => id % 3 == 0,
            Self::Skips => id % 3 == 1,
        }
    }
}

impl Part {
    pub(super) fn has(self, customer: Option<i64>) -> bool {
        match self {
            Self::All => true,
            Self::First => customer == Some(1),
            Self::Others => customer != Some(1),
        }
    }
}

impl Kind {
    fn random(random: &mut Random) -> Self {
        Self {
            what: KINDS[random.below(KINDS.len())],
            customer: customer(random),
        }
    }
}

/// One of two, or none, which is what most rows of a batch have.
fn customer(random: &mut Random) -> Option<i64> {
    match random.below(5) as i64 {
        customer @ 1..=2 => Some(customer),
        _ => None,
    }
}

fn milliseconds(random: &mut Random, below: usize) -> Duration {
    Duration::from_millis(random.below(below) as u64)
}

impl Member {
    fn random(random: &mut Random, part: Part) -> Self {
        const HOOKS: [Hook; 4] = [Hook::Passes, Hook::Turns, Hook::Panics, Hook::Skips];
        let hooks = (0..random.below(4)).map(|_| HOOKS[random.below(HOOKS.len())]);
        Self {
            hooks: hooks.collect(),
            concurrency: 1 + random.below(4),
            prefetch: random.below(8),
            handler: Handler {
                part,
                size: match random.below(3) {
                    0 => 1,
                    _ => 2 + random.below(4),
                },
                alike: random.below(3) == 0,
            },
        }
    }
}

impl Crew {
    fn random(random: &mut Random, lowered: bool) -> Self {
        let parts: &[Part] = match random.below(2) {
            0 => &[Part::All],
            _ => &[Part::First, Part::Others],
        };
        let members = parts.iter().map(|part| Member::random(random, *part));
        Self {
            lowered,
            members: members.collect(),
        }
    }
}

impl Event {
    fn random(random: &mut Random) -> Self {
        match random.below(17) {
            0..3 => {
                let lowered = random.below(3) == 0;
                Self::Start(Crew::random(random, lowered))
            }
            3 => Self::Kill(random.below(3)),
            4 => Self::Shutdown(random.below(3)),
            5 => Self::Lock(1 + random.below(12) as i64, milliseconds(random, 1500)),
            6 => Self::Add(Kind::random(random)),
            7 => Self::Enqueue(random.below(2) as i64),
            8 => Self::Cancel(1 + random.below(12) as i64),
            9 => Self::Pause(customer(random)),
            10 => Self::Resume(customer(random)),
            11 => Self::Redrive,
            12 => Self::Purge,
            13 => Self::Tick,
            _ => Self::Wait(milliseconds(random, 300)),
        }
    }
}

impl Program {
    pub(super) fn random(random: &mut Random) -> Self {
        let rows = 0..1 + random.below(12);
        let mut rows: Vec<_> = rows.map(|_| Kind::random(random)).collect();
        // No more than one: each of its attempts takes a lease.
        if random.below(3) == 0 {
            rows[0].what = "no done";
        }
        let events = 0..1 + random.below(14);
        Self {
            rows,
            events: events.map(|_| Event::random(random)).collect(),
            last: Crew::random(random, false),
        }
    }
}
