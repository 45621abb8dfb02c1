//! What an exploration says: passed, failed, or not known.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::anomaly::Anomaly;
use crate::trace::{Fault, Trace};

/// What an exploration says of the program.
///
/// ```no_run
/// # use rowlock_explore::{Error, Explorer, Verdict};
/// # async fn example(explorer: Explorer<()>) -> Result<(), Error> {
/// match explorer.explore().await? {
///     Verdict::Passed(coverage) => println!("after all of {} schedules", coverage.schedules),
///     Verdict::Failed(failure) => println!("{failure}"),
///     Verdict::Inconclusive { why, coverage } => println!("after {} schedules: {why}", coverage.schedules),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a verdict that nobody looks at proves nothing"]
pub enum Verdict {
    /// All schedules that the coverage names were run, and all is well after each.
    Passed(Coverage),
    /// After one schedule at least it is not.
    Failed(Box<Failure>),
    /// Nothing is wrong with what was run, and it says too little, as when not all was, or no actor sent a request.
    Inconclusive {
        /// Why not.
        why: String,
        /// What was run.
        coverage: Coverage,
    },
}

/// What was run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Coverage {
    /// Schedules that were run to their end.
    pub schedules: u64,
    /// Schedules that were begun, and left because another one is the same.
    pub pruned: u64,
    /// Schedules after which something is wrong. 1 at most, but with [`count_failures`](crate::Explorer::count_failures).
    pub failing: u64,
    /// Requests over all schedules.
    pub steps: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether schedules were left out that differ only in the order of steps which touch nothing in common.
    pub reduced: bool,
    /// The bound on preemptions.
    pub preemptions: Option<usize>,
    /// The faults that were tried at each point.
    pub faults: Vec<Fault>,
    pub(crate) replayed: bool,
}

/// A schedule after which something is wrong. As text it is a table: time downwards, a column for each actor.
///
/// ```no_run
/// # use rowlock_explore::{Explorer, Verdict};
/// # async fn example(explorer: impl Fn() -> Explorer<()>) -> Result<(), Box<dyn std::error::Error>> {
/// let failure = explorer().explore().await?.assert_failed();
/// println!("{failure}");
/// std::fs::write("oversell.svg", failure.svg())?;
/// // The same schedule alone, for a regression test.
/// explorer().replay(failure.schedule).explore().await?.assert_failed();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// What is wrong.
    pub why: String,
    /// The schedule, for [`replay`](crate::Explorer::replay).
    pub schedule: String,
    /// What was run.
    pub coverage: Coverage,
    pub(crate) trace: Trace,
}

impl Failure {
    /// The name of the anomaly, as the literature has it: `lost update`, `write skew`, `phantom` and so on; `none in the
    /// dependency graph` if the statements show none.
    pub fn anomaly(&self) -> String {
        Anomaly::of(&self.trace).name
    }

    /// The schedule as a picture, an SVG of its own: time downwards, a column per actor.
    pub fn svg(&self) -> String {
        self.trace.svg()
    }
}

impl Verdict {
    /// What was run.
    pub fn coverage(&self) -> &Coverage {
        match self {
            Self::Passed(coverage) | Self::Inconclusive { coverage, .. } => coverage,
            Self::Failed(failure) => &failure.coverage,
        }
    }

    /// The schedule that fails.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// For a test: all schedules were run, and all is well.
    ///
    /// # Panics
    ///
    /// With the failing schedule, step by step, or with why it is not known.
    #[track_caller]
    pub fn assert_passed(self) -> Coverage {
        match self {
            Self::Passed(coverage) => coverage,
            other => panic!("{other}"),
        }
    }

    /// For a test of the test: the program by hand has the race that it is known for.
    ///
    /// # Panics
    ///
    /// If no schedule fails.
    #[track_caller]
    pub fn assert_failed(self) -> Failure {
        match self {
            Self::Failed(failure) => *failure,
            other => panic!("no schedule fails: {other}"),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(coverage) => write!(f, "passed: {coverage}"),
            Self::Failed(failure) => write!(f, "{failure}"),
            Self::Inconclusive { why, coverage } => {
                write!(f, "inconclusive: {why}; until then {coverage}")
            }
        }
    }
}

impl Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            schedules,
            pruned,
            failing,
            steps,
            elapsed,
            ..
        } = self;
        if self.replayed {
            return write!(
                f,
                "one schedule, replayed, in {:.2} s",
                elapsed.as_secs_f64()
            );
        }
        write!(
            f,
            "{schedules} schedules with {steps} requests in {:.2} s",
            elapsed.as_secs_f64()
        )?;
        if *failing > 0 {
            write!(f, ", {failing} of them wrong")?;
        }
        match (self.reduced, self.preemptions) {
            (_, Some(most)) => write!(f, "; all with at most {most} preemptions")?,
            (true, None) => write!(
                f,
                "; each stands for those that differ only in the order of requests which touch nothing in common \
                 ({pruned} were begun and left as the same)"
            )?,
            (false, None) => write!(f, "; every order of requests")?,
        }
        if !self.faults.is_empty() {
            write!(f, "; at each request {:?}", self.faults)?;
        }
        Ok(())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "failed: {}", self.why)?;
        writeln!(f, "{}", Anomaly::of(&self.trace))?;
        writeln!(f, "\n{}", self.trace)?;
        writeln!(f, "{}", self.coverage)?;
        write!(f, "the same schedule again: .replay({:?})", self.schedule)
    }
}
