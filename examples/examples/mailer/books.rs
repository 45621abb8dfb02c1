//! What became of every mail: counted from the two tables when all is over.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::Way;
use crate::crew::Report;
use crate::model::FULL;

/// A row of `emails`.
#[derive(Debug, sqlx::FromRow)]
pub struct Mail {
    id: i64,
    recipient: String,
    state: String,
    last_error: Option<String>,
}

/// A row of `outbox`: a worker handed a mail to the mail server.
#[derive(Debug, sqlx::FromRow)]
pub struct Run {
    email_id: i64,
    attempt: i32,
    process: i64,
    accepted: bool,
}

/// All that is known when all is over.
#[derive(Debug)]
pub struct Books {
    pub way: Way,
    pub took: Duration,
    /// The worker that was killed.
    pub killed: i64,
    /// What the others said.
    pub report: Report,
    pub mails: Vec<Mail>,
    pub runs: Vec<Run>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    done: usize,
    dead: usize,
    /// Not done, not dead, and nobody is there who would see to it.
    stuck: usize,
    /// Neither sent nor among the dead letters.
    lost: usize,
    /// Sent more than once, because the lease of a worker had ended.
    twice_by_lease: usize,
    /// Sent more than once for no such reason.
    twice: usize,
    /// Dead letters that were sent, or could have been.
    wrongly_dead: usize,
    /// Attempts that two workers had.
    shared: usize,
}

impl Books {
    fn count(&self) -> Counts {
        let mut counts = Counts::default();
        let mut sent: HashMap<i64, usize> = HashMap::new();
        let mut attempts = HashSet::new();
        for run in &self.runs {
            if run.accepted {
                *sent.entry(run.email_id).or_default() += 1;
            }
            if !attempts.insert((run.email_id, run.attempt)) {
                counts.shared += 1;
            }
        }
        for mail in &self.mails {
            let sent = sent.get(&mail.id).copied().unwrap_or_default();
            match mail.state.as_str() {
                "done" => counts.done += 1,
                "dead" => counts.dead += 1,
                _ => counts.stuck += 1,
            }
            let dead = mail.state == "dead";
            if dead && (sent > 0 || !mail.recipient.ends_with(FULL)) {
                counts.wrongly_dead += 1;
            }
            if !dead && sent == 0 {
                counts.lost += 1;
            }
            if sent > 1 {
                // The rescue writes that into the row, and success leaves it there.
                match mail.last_error.as_deref() {
                    Some("the lease ended") => counts.twice_by_lease += 1,
                    _ => counts.twice += 1,
                }
            }
        }
        counts
    }

    pub fn print_head() {
        println!(
            "{:<8} {:>6} {:>6} {:>5} {:>6} {:>5} {:>11} {:>15} {:>8} {:>13} {:>6}",
            "way",
            "mails",
            "done",
            "dead",
            "stuck",
            "lost",
            "sent twice",
            "by ended lease",
            "rescued",
            "handler runs",
            "time"
        );
    }

    pub fn print(&self) {
        let Counts {
            done,
            dead,
            stuck,
            lost,
            twice_by_lease,
            twice,
            ..
        } = self.count();
        println!(
            "{:<8} {:>6} {done:>6} {dead:>5} {stuck:>6} {lost:>5} {twice:>11} {twice_by_lease:>15} {:>8} {:>13} {:>4.1} s",
            self.way.name(),
            self.mails.len(),
            self.report.rescued,
            self.runs.len(),
            self.took.as_secs_f64(),
        );
    }

    /// How the handler runs of the queue come about.
    pub fn explain(&self) {
        let Counts {
            done,
            twice_by_lease,
            ..
        } = self.count();
        let refused = self.runs.iter().filter(|run| !run.accepted).count();
        let killed = self.runs.iter().filter(|run| run.process == self.killed);
        println!(
            "\n{} handler runs: {done} mails sent, {twice_by_lease} of them again, {refused} runs refused by the mail server.\n\
             Worker {} was killed after {} runs. The others took back {} rows whose leases had ended, and lost {} leases themselves.",
            self.runs.len(),
            self.killed,
            killed.count(),
            self.report.rescued,
            self.report.leases_lost,
        );
    }

    /// Every mail was sent or is a dead letter for a reason, and nothing was done twice but after an ended lease.
    pub fn are_right(&self) -> bool {
        let all = self.way.mails();
        let dead = all.div_ceil(100);
        let counts = self.count();
        let expected = Counts {
            done: all - dead,
            dead,
            twice_by_lease: counts.twice_by_lease,
            ..Counts::default()
        };
        counts == expected && self.killed > 0
    }
}
