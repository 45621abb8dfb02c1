//! All schedules, one after the other: depth first, and by running the program anew for each.
//!
//! With reduction, a schedule is left out if another one differs from it only in the order of steps whose footprints do not
//! meet: source sets ("Source-DPOR", Abdulla, Aronis, Jonsson and Sagonas, POPL 2014) and sleep sets (Godefroid). A step
//! begins when its request is let go. One that waits for a lock ends within the step of somebody else; that step is then
//! taken to touch what both touch, and what the waiter does next is after it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::actor::Outcome;
use crate::error::Error;
use crate::footprint::Footprint;
use crate::run::{Choice, Ready, Rest, Run, Stage, Thread};
use crate::schedule::Given;
use crate::trace::{Fault, Trace};

/// Which schedules are run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Leaves out what differs only in the order of steps that do not meet.
    pub(crate) reduce: bool,
    /// At most so many times a request waits although it could go, and that of another actor goes first.
    pub(crate) preemptions: Option<usize>,
    pub(crate) faults: Vec<Fault>,
    /// At most so many faults in one schedule.
    pub(crate) faults_per_run: usize,
    pub(crate) max_schedules: u64,
    pub(crate) max_time: Duration,
    /// Goes on after a schedule that fails, to count them.
    pub(crate) count_failures: bool,
}

/// What a search has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) schedules: u64,
    /// Schedules that were begun and left, because another one is the same.
    pub(crate) pruned: u64,
    pub(crate) failing: u64,
    pub(crate) steps: u64,
    pub(crate) elapsed: Duration,
    /// The first that fails.
    pub(crate) failure: Option<Failed>,
    /// Why the search is not complete.
    pub(crate) stopped: Option<String>,
}

/// A schedule that fails.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) why: String,
    pub(crate) choices: Vec<Choice>,
    /// How many times an actor that could go on did not.
    pub(crate) preemptions: usize,
    pub(crate) trace: Trace,
}

/// What a complete schedule is judged by.
pub(crate) trait Judge<T> {
    /// `Err` says what is wrong.
    async fn judge(
        &self,
        outcomes: Vec<Outcome<T>>,
        faults: Vec<Fault>,
    ) -> Result<Result<(), String>, Error>;

    /// What each actor has returned, to be shown.
    fn results(&self, outcomes: &[Outcome<T>]) -> Vec<Option<String>>;
}

/// How often a schedule is run again whose program does not do the same.
const TRIES: usize = 4;
/// A schedule of so many requests is not waited for to end when the time is over.
const LONG: usize = 500;

/// A point at which something was chosen.
struct Node {
    ready: Vec<Ready>,
    chosen: Choice,
    /// What is still to be tried here.
    todo: BTreeSet<Thread>,
    /// The faults that are still to be tried with the chosen thread.
    faults: Vec<Fault>,
    /// What was tried here.
    done: Vec<Thread>,
    /// What need not be tried here, as long as nothing happens that it meets.
    sleep: Vec<(Thread, Footprint)>,
    /// How many preemptions led here, and which actor moved last.
    preemptions: usize,
    last: Option<usize>,
    faults_left: usize,
}

impl Node {
    fn footprint(&self, thread: Thread, broken: bool) -> Footprint {
        let ready = self.ready.iter().find(|ready| ready.thread == thread);
        ready.map_or_else(Footprint::everything, |ready| {
            if broken {
                &ready.broken
            } else {
                &ready.footprint
            }
            .clone()
        })
    }

    fn sleeps(&self, thread: Thread) -> bool {
        self.sleep.iter().any(|(sleeping, _)| *sleeping == thread)
    }

    /// How many preemptions there are after this thread.
    fn preemptions_with(&self, thread: Thread) -> usize {
        let could_go_on = self
            .last
            .is_some_and(|last| self.ready.iter().any(|ready| ready.thread.actor == last));
        self.preemptions + usize::from(could_go_on && self.last != Some(thread.actor))
    }

    /// Goes on to the next choice here, if there is one.
    fn advance(&mut self, plan: &Plan) -> bool {
        if let Some(fault) = self.faults.pop() {
            self.chosen.fault = Some(fault);
            return true;
        }
        let tried = self.chosen.thread;
        self.done.push(tried);
        self.todo.remove(&tried);
        if plan.reduce {
            let footprint = self.footprint(tried, !plan.faults.is_empty());
            self.sleep.push((tried, footprint));
        }
        let next = self
            .todo
            .iter()
            .copied()
            .find(|thread| !self.done.contains(thread) && !self.sleeps(*thread));
        match next {
            Some(thread) => {
                self.choose(thread, plan);
                true
            }
            None => false,
        }
    }

    fn choose(&mut self, thread: Thread, plan: &Plan) {
        self.chosen = Choice {
            thread,
            fault: None,
        };
        let statements = self
            .ready
            .iter()
            .any(|ready| ready.thread == thread && ready.statements);
        let with_faults = statements && self.faults_left > 0;
        self.faults = if with_faults {
            plan.faults.iter().rev().copied().collect()
        } else {
            Vec::new()
        };
    }
}

/// How a run went.
enum End {
    Complete,
    /// All that could come is in another schedule.
    Pruned,
    Stuck,
    /// The budget of time is used up in the middle of it.
    Endless,
    /// After so many choices the program did not do what it had done before after the same.
    Different(usize, String),
}

/// Runs all schedules of the plan.
pub(crate) async fn search<T: Send + 'static>(
    stage: &Stage<T>,
    plan: &Plan,
    judge: &impl Judge<T>,
) -> Result<Seen, Error> {
    let began = Instant::now();
    let (mut seen, mut stack) = (Seen::default(), Vec::<Node>::new());
    let mut differences = 0_usize;
    loop {
        if seen.schedules + seen.pruned >= plan.max_schedules {
            seen.stopped = Some(format!(
                "the budget of {} schedules is used up",
                plan.max_schedules
            ));
            break;
        }
        if began.elapsed() >= plan.max_time {
            seen.stopped = Some(format!("the budget of {:?} is used up", plan.max_time));
            break;
        }
        let mut run = Run::start(stage).await?;
        let end = descend(&mut run, &mut stack, plan, began).await?;
        let (since, impatient, learned) = (run.since.clone(), run.impatient, run.learned);
        let other_clock = run.other_clock;
        let (mut trace, outcomes) = run.end(matches!(end, End::Complete)).await;
        trace.results = judge.results(&outcomes);
        seen.steps += trace.steps.len() as u64;
        if plan.reduce && learned {
            // What was left out until now was left out without knowing of it.
            stack.clear();
            continue;
        }
        if matches!(end, End::Endless) {
            seen.stopped = Some(format!(
                "a schedule has {} requests and no end: does an actor ask until another one answers?",
                trace.steps.len()
            ));
            break;
        }
        if let End::Different(depth, what) = end {
            differences += 1;
            if differences.is_multiple_of(TRIES) {
                // Was what was seen first the rare one, as when the server looked for a deadlock late? Then from there anew.
                stack.truncate(depth);
            }
            if differences as u64 >= 3 * TRIES as u64 + seen.schedules / 20 {
                seen.stopped = Some(what);
                break;
            }
            continue;
        }
        if impatient {
            seen.stopped = Some("an actor did nothing for a long time that the explorer could see, and others went on".to_owned());
        }
        if let Some(clock) = other_clock {
            seen.stopped = Some(clock.why().to_owned());
        }
        if plan.reduce {
            add_reversals(&mut stack, &trace, &since);
        }
        let choices: Vec<Choice> = stack.iter().map(|node| node.chosen).collect();
        let faults: Vec<Fault> = choices.iter().filter_map(|choice| choice.fault).collect();
        let judged = match end {
            End::Pruned => {
                seen.pruned += 1;
                Ok(())
            }
            End::Stuck => {
                seen.schedules += 1;
                Err(stuck(&trace))
            }
            _ => {
                seen.schedules += 1;
                judged(judge, &trace, outcomes, faults).await?
            }
        };
        if let Err(why) = judged {
            seen.failing += 1;
            if seen.failure.is_none() {
                let preemptions = stack
                    .last()
                    .map_or(0, |node| node.preemptions_with(node.chosen.thread));
                seen.failure = Some(Failed {
                    why,
                    choices,
                    preemptions,
                    trace,
                });
            }
            if !plan.count_failures {
                break;
            }
        }
        while let Some(node) = stack.last_mut() {
            if node.advance(plan) {
                break;
            }
            stack.pop();
        }
        if stack.is_empty() {
            break;
        }
    }
    seen.elapsed = began.elapsed();
    Ok(seen)
}

/// Runs one schedule, given by its choices; then the first that is there.
pub(crate) async fn replay<T: Send + 'static>(
    stage: &Stage<T>,
    given: &[Given],
    judge: &impl Judge<T>,
) -> Result<Seen, Error> {
    let began = Instant::now();
    let mut run = Run::start(stage).await?;
    let (mut taken, mut given) = (Vec::new(), given.iter());
    let complete = loop {
        match run.rest().await? {
            Rest::Over => break true,
            Rest::Stuck => break false,
            Rest::Choose(ready) => {
                let choice = match given.next() {
                    Some(Given { choice, .. })
                        if ready.iter().any(|ready| ready.thread == choice.thread) =>
                    {
                        *choice
                    }
                    Some(Given { step, .. }) => {
                        let (step, why) = (step.clone(), "this actor has no request there");
                        return Err(Error::Replay { step, why });
                    }
                    None => Choice {
                        thread: ready[0].thread,
                        fault: None,
                    },
                };
                taken.push(choice);
                run.take(choice).await?;
            }
        }
    };
    let stopped = run.other_clock.map(|clock| clock.why().to_owned());
    let (mut trace, outcomes) = run.end(complete).await;
    if let Some(Given { step, .. }) = given.next() {
        let (step, why) = (step.clone(), "all actors have returned before it");
        return Err(Error::Replay { step, why });
    }
    trace.results = judge.results(&outcomes);
    let faults = taken.iter().filter_map(|choice| choice.fault).collect();
    let judged = if complete {
        judged(judge, &trace, outcomes, faults).await?
    } else {
        Err(stuck(&trace))
    };
    let mut seen = Seen {
        schedules: 1,
        steps: trace.steps.len() as u64,
        elapsed: began.elapsed(),
        stopped,
        ..Seen::default()
    };
    if let Err(why) = judged {
        seen.failing = 1;
        seen.failure = Some(Failed {
            why,
            choices: taken,
            preemptions: 0,
            trace,
        });
    }
    Ok(seen)
}

async fn judged<T>(
    judge: &impl Judge<T>,
    trace: &Trace,
    outcomes: Vec<Outcome<T>>,
    faults: Vec<Fault>,
) -> Result<Result<(), String>, Error> {
    for (name, outcome) in trace.actors.iter().zip(&outcomes) {
        if let Outcome::Panicked(text) = outcome {
            return Ok(Err(format!("{name} panicked: {text}")));
        }
    }
    judge.judge(outcomes, faults).await
}

fn stuck(trace: &Trace) -> String {
    format!(
        "not all of {} return: they wait for something which is not the database",
        trace.actors.join(", ")
    )
}

/// Follows the choices of the stack, and makes new ones after them.
async fn descend<T: Send + 'static>(
    run: &mut Run<'_, T>,
    stack: &mut Vec<Node>,
    plan: &Plan,
    began: Instant,
) -> Result<End, Error> {
    let mut depth = 0;
    loop {
        // Who asks again and again until another one has done something can go on for ever.
        if depth > 0 && began.elapsed() >= plan.max_time && depth > LONG {
            return Ok(End::Endless);
        }
        let ready = match run.rest().await? {
            Rest::Over => break,
            Rest::Stuck => {
                stack.truncate(depth);
                return Ok(End::Stuck);
            }
            Rest::Choose(ready) => ready,
        };
        if let Some(node) = stack.get(depth) {
            let same =
                |one: &Ready, two: &Ready| one.thread == two.thread && one.label == two.label;
            if ready.len() != node.ready.len()
                || !ready
                    .iter()
                    .zip(&node.ready)
                    .all(|(one, two)| same(one, two))
            {
                let what = difference(depth, &node.ready, &ready);
                return Ok(End::Different(depth, what));
            }
        } else {
            let mut node = Node {
                chosen: Choice {
                    thread: ready[0].thread,
                    fault: None,
                },
                todo: BTreeSet::new(),
                faults: Vec::new(),
                done: Vec::new(),
                sleep: Vec::new(),
                preemptions: 0,
                last: None,
                faults_left: plan.faults_per_run,
                ready,
            };
            if let Some(before) = depth.checked_sub(1).and_then(|before| stack.get(before)) {
                let taken = before.chosen;
                let footprint = before.footprint(taken.thread, taken.fault.is_some());
                node.preemptions = before.preemptions_with(taken.thread);
                node.last = Some(taken.thread.actor);
                node.faults_left = before.faults_left - usize::from(taken.fault.is_some());
                if plan.reduce {
                    let stays = |(thread, sleeping): &&(Thread, Footprint)| {
                        *thread != taken.thread && !sleeping.meets(&footprint)
                    };
                    node.sleep = before.sleep.iter().filter(stays).cloned().collect();
                }
            }
            let threads = node.ready.iter().map(|ready| ready.thread);
            let allowed = |thread: &Thread| {
                !node.sleeps(*thread)
                    && plan
                        .preemptions
                        .is_none_or(|most| node.preemptions_with(*thread) <= most)
            };
            let allowed: Vec<Thread> = threads.filter(allowed).collect();
            // The same actor first: the first schedules are those that a person follows with ease.
            let first = allowed
                .iter()
                .find(|thread| Some(thread.actor) == node.last)
                .or(allowed.first())
                .copied();
            let Some(first) = first else {
                return Ok(End::Pruned);
            };
            node.todo = if plan.reduce {
                BTreeSet::from([first])
            } else {
                allowed.into_iter().collect()
            };
            node.choose(first, plan);
            stack.push(node);
        }
        run.take(stack[depth].chosen).await?;
        depth += 1;
    }
    stack.truncate(depth);
    Ok(End::Complete)
}

fn difference(depth: usize, before: &[Ready], now: &[Ready]) -> String {
    let list = |ready: &[Ready]| {
        let items: Vec<String> = ready
            .iter()
            .map(|ready| format!("{}: {}", ready.thread.actor, ready.label))
            .collect();
        items.join(" | ")
    };
    format!(
        "the program is not the same each time: after the same {depth} steps there were once ({}) and once ({})",
        list(before),
        list(now)
    )
}

/// Looks for pairs of steps that meet and could come in the other order, and has that tried.
fn add_reversals(stack: &mut [Node], trace: &Trace, since: &[usize]) {
    let steps = &trace.steps;
    let count = steps.len().min(stack.len());
    let thread = |at: usize| Thread {
        actor: steps[at].actor,
        connection: steps[at].connection,
    };
    // Two requests of one actor at the same time can come in any order, and the actor sees which.
    let meets = |one: usize, two: usize| {
        steps[one].actor == steps[two].actor || steps[one].footprint.meets(&steps[two].footprint)
    };
    // Of the same actor: whether `one` had ended when the request of `two` was there.
    let causes = |one: usize, two: usize| {
        let ended = steps[one].answered_in.unwrap_or(one);
        thread(one) == thread(two) || (steps[one].actor == steps[two].actor && ended < since[two])
    };
    // before[j] has i if i has to come before j.
    let mut before: Vec<BTreeSet<usize>> = Vec::new();
    for j in 0..count {
        let mut all = BTreeSet::new();
        for i in (0..j).rev() {
            // What let an earlier request of the actor end comes before the next one of it too.
            let ends = (0..j).any(|k| causes(k, j) && steps[k].answered_in == Some(i));
            if causes(i, j) || ends || meets(i, j) {
                all.insert(i);
                all.extend(before[i].iter().copied());
            }
        }
        before.push(all);
    }
    for j in 0..count {
        for i in 0..j {
            let forced = causes(i, j)
                || (0..j).any(|k| k != i && causes(k, j) && steps[k].answered_in == Some(i));
            let between = before[j].iter().any(|&k| k > i && before[k].contains(&i));
            if forced || between || !meets(i, j) {
                continue;
            }
            // What can be done before i, of all that leads to j.
            let mut rest: Vec<usize> = (i + 1..j).filter(|&k| !before[k].contains(&i)).collect();
            rest.push(j);
            let mut initials = BTreeSet::new();
            for (at, &k) in rest.iter().enumerate() {
                let first = !rest[..at].iter().any(|&earlier| {
                    thread(earlier) == thread(k) || (earlier != k && before[k].contains(&earlier))
                });
                if first {
                    initials.insert(thread(k));
                }
            }
            let Some(node) = stack.get_mut(i) else {
                continue;
            };
            if initials
                .iter()
                .any(|thread| node.todo.contains(thread) || node.done.contains(thread))
            {
                continue;
            }
            let there = |thread: &Thread| node.ready.iter().any(|ready| ready.thread == *thread);
            let next = initials
                .iter()
                .copied()
                .find(|first| there(first) && *first == thread(j));
            match next.or_else(|| initials.iter().copied().find(|first| there(first))) {
                Some(next) => {
                    node.todo.insert(next);
                }
                None => node
                    .todo
                    .extend(node.ready.iter().map(|ready| ready.thread)),
            }
        }
    }
}
