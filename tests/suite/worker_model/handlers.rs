//! What workers run: handlers and hooks, which note what they say of each claim.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock::Fence;
use rowlock::queue::{Job, JobOutcome, Next, Worker, WorkerSet};
use tokio::time::sleep;

use super::jobs::{Claim, Given, Model};
use super::program::{Handler, Hook, Member};
use super::{Db, SHORT};

/// What handlers and hooks see.
#[derive(Default)]
pub(super) struct Seen {
    /// The claims for which a hook or a handler began.
    claims: BTreeMap<Claim, Begun>,
    /// The job of a customer that is handled.
    handled: HashMap<i64, Given>,
    /// Rows of one customer that were handled at the same time, the earlier first.
    pub(super) together: Vec<[i64; 2]>,
    /// What may not happen, whatever else does.
    pub(super) wrong: Vec<String>,
    /// What some program should show.
    pub(super) shown: BTreeSet<&'static str>,
}

#[derive(Default)]
struct Begun {
    is_handled: bool,
    /// What becomes of the row: as the handler says, and then the hooks around it.
    said: Option<JobOutcome>,
}

/// What the programs together have to show.
pub(super) const SHOWN: [&str; 6] = ["batch", "complete", "fail", "retry", "snooze", "unhandled"];

pub(super) type Shared = Arc<Mutex<Seen>>;

impl Seen {
    fn begun(&mut self, claim: Claim) -> &mut Begun {
        self.claims.entry(claim).or_default()
    }

    fn of_row(&self, row: i64) -> impl Iterator<Item = &Begun> {
        let claims = self.claims.range((row, Fence::default())..);
        let claims = claims.take_while(move |((id, _), _)| *id == row);
        claims.map(|(_, begun)| begun)
    }

    /// How often the work on a row began.
    pub(super) fn starts(&self, row: i64) -> i32 {
        self.of_row(row).count() as i32
    }

    pub(super) fn snoozes(&self, row: i64) -> i32 {
        let is_snooze = |begun: &&Begun| matches!(begun.said, Some(JobOutcome::Snooze(_)));
        self.of_row(row).filter(is_snooze).count() as i32
    }

    pub(super) fn said(&self, claim: Claim) -> Option<&JobOutcome> {
        self.claims.get(&claim)?.said.as_ref()
    }

    /// What was said of the last claim of a row that began.
    pub(super) fn last_said(&self, row: i64) -> Option<&JobOutcome> {
        self.of_row(row).last()?.said.as_ref()
    }

    fn say(&mut self, claim: Claim, outcome: JobOutcome) {
        self.shown.insert(match outcome {
            JobOutcome::Retry { .. } => "retry",
            JobOutcome::Fail { .. } => "fail",
            JobOutcome::Snooze(_) => "snooze",
            _ => "complete",
        });
        let begun = self.begun(claim);
        begun.said = Some(outcome);
        if !begun.is_handled {
            self.shown.insert("unhandled");
        }
    }

    /// `next` told a hook what the handler came to.
    fn told(&mut self, job: &Given, outcome: &JobOutcome) {
        let said = self.said(job.claim);
        if said != Some(outcome) && !(job.is_stopped)() {
            let wrong = format!("{:?} said {said:?}, and {outcome:?} was told", job.claim);
            self.wrong.push(wrong);
        }
    }

    fn handle(&mut self, jobs: &[Given], Handler { part, size, .. }: Handler) {
        for Given {
            claim, customer, ..
        } in jobs
        {
            let begun = self.begun(*claim);
            let is_over = begun.said.is_some() || begun.is_handled;
            begun.is_handled = true;
            if is_over || !part.has(*customer) {
                self.wrong
                    .push(format!("{claim:?} is not for this handler"));
            }
        }
        if jobs.len() > 1 {
            self.shown.insert("batch");
        }
        if !(1..=size).contains(&jobs.len()) {
            let wrong = format!("a batch of {} for {size}", jobs.len());
            self.wrong.push(wrong);
        }
    }
}

/// A job of a customer that is handled, until that ends, however it does.
struct Inside {
    seen: Shared,
    customer: i64,
    claim: Claim,
}

impl Inside {
    fn enter(shared: &Shared, job: Given) -> Option<Self> {
        let (customer, claim) = (job.customer?, job.claim);
        let mut seen = shared.lock().unwrap();
        // A job of a batch that is stopped leaves, and the handler goes on with the others.
        if let Some(earlier) = seen.handled.insert(customer, job)
            && !(earlier.is_stopped)()
        {
            seen.together.push([earlier.claim.0, claim.0]);
        }
        Some(Self {
            seen: shared.clone(),
            customer,
            claim,
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut seen = self.seen.lock().unwrap();
        let handled = seen.handled.get(&self.customer);
        if handled.is_some_and(|job| job.claim == self.claim) {
            seen.handled.remove(&self.customer);
        }
    }
}

/// What a handler returns for a job.
type Answer = Result<JobOutcome, String>;

fn retry(error: String) -> JobOutcome {
    JobOutcome::Retry { error, after: None }
}

fn panicked(text: &str) -> JobOutcome {
    retry(format!("the handler panicked: {text}"))
}

/// The answer to a job of this kind.
fn answer(what: &str, starts: i32) -> Answer {
    match what {
        "flaky" if starts == 1 => Err("the first time".to_owned()),
        "failing" => Err("failing".to_owned()),
        _ => Ok(JobOutcome::Complete),
    }
}

/// The handler: an answer for each job, or a panic for all.
async fn work(shared: Shared, jobs: Vec<Given>, handler: Handler) -> Vec<Answer> {
    let is_there = |what| jobs.iter().any(|job| job.what == what);
    let (is_slow, panics) = (is_there("slow"), is_there("crashing"));
    let claims: Vec<_> = jobs.iter().map(|job| job.claim).collect();
    let mut answers: Vec<_> = {
        let mut seen = shared.lock().unwrap();
        seen.handle(&jobs, handler);
        let answer = |job: &Given| answer(&job.what, seen.starts(job.claim.0));
        jobs.iter().map(answer).collect()
    };
    if handler.alike {
        let error = answers.iter().find(|answer| answer.is_err()).cloned();
        answers.fill(error.unwrap_or(Ok(JobOutcome::Complete)));
    }
    let enter = |job| Inside::enter(&shared, job);
    let _inside: Vec<_> = jobs.into_iter().map(enter).collect();
    match is_slow {
        true => sleep(Duration::from_millis(700)).await,
        false => tokio::task::yield_now().await,
    }
    for (claim, answer) in claims.into_iter().zip(&answers) {
        let outcome = match panics {
            true => panicked("crashing"),
            false => answer.clone().unwrap_or_else(retry),
        };
        shared.lock().unwrap().say(claim, outcome);
    }
    assert!(!panics, "crashing");
    answers
}

async fn run_hook(hook: Hook, shared: Shared, job: Given, next: Next) -> JobOutcome {
    let row = job.claim.0;
    let starts = {
        let mut seen = shared.lock().unwrap();
        seen.begun(job.claim);
        seen.starts(row)
    };
    let chosen = hook.chooses(row).then_some(hook);
    let outcome = match chosen {
        Some(Hook::Skips) => JobOutcome::Complete,
        _ => {
            let outcome = next.run().await;
            shared.lock().unwrap().told(&job, &outcome);
            outcome
        }
    };
    let outcome = match (chosen, outcome) {
        (Some(Hook::Panics), _) => panicked("a hook"),
        (Some(Hook::Turns), JobOutcome::Retry { error, .. }) => JobOutcome::fail(error),
        (Some(Hook::Turns), JobOutcome::Complete) if starts == 1 => JobOutcome::Snooze(SHORT),
        (_, outcome) => outcome,
    };
    shared.lock().unwrap().say(job.claim, outcome.clone());
    assert!(!matches!(chosen, Some(Hook::Panics)), "a hook");
    outcome
}

fn given<T: Model>(jobs: &[Job<T>]) -> Vec<Given> {
    jobs.iter().map(T::given).collect()
}

/// Adds a worker to a set, with its hooks and its handler.
pub(super) fn join<T: Model>(
    set: WorkerSet,
    worker: Worker<Db, T>,
    member: &Member,
    seen: &Shared,
) -> WorkerSet {
    let worker = member.hooks.iter().fold(worker, |worker, hook| {
        let (hook, seen) = (*hook, seen.clone());
        worker.around(move |job, next| run_hook(hook, seen.clone(), T::given(&job), next))
    });
    let (seen, handler) = (seen.clone(), member.handler);
    let work = move |jobs: &[Job<T>]| work(seen.clone(), given(jobs), handler);
    match handler.size {
        1 => set.add(worker, move |job| {
            let work = work(&[job]);
            async move { work.await.remove(0) }
        }),
        size if handler.alike => set.add_batch(worker, size, move |jobs: Vec<Job<T>>| {
            let work = work(&jobs);
            async move { work.await.remove(0) }
        }),
        size => set.add_batch(worker, size, move |jobs: Vec<Job<T>>| work(&jobs)),
    }
}
