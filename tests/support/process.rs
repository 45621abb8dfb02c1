//! Another process of the running test binary, to be stopped or killed as a process.
//!
//! The test that a process runs begins with [`argument`], and returns at once when the harness runs it like any other:
//!
//! ```no_run
//! # use rowlock_tests::process;
//! fn holder() {
//!     let Some(argument) = process::argument() else {
//!         return;
//!     };
//!     process::say(&format!("got {argument}"));
//! }
//! ```

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

const ARGUMENT: &str = "ROWLOCK_TEST_PROCESS";
/// What marks the lines of [`say`] among those of the harness.
const MARK: &str = "process: ";

/// A process, which does not outlive this value, stopped as it may be.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Runs one test of this binary, by its full name.
    pub fn start(test: &str, argument: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test, "--nocapture"])
            .env(ARGUMENT, argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let stdout = child.stdout.take().expect("stdout is piped");
        let output = BufReader::new(stdout).lines();
        Self { child, output }
    }

    /// Waits for what it [says](say) next.
    pub fn says(&mut self) -> String {
        let said = self.output.by_ref().find_map(|line| {
            let line = line.expect("text");
            line.split_once(MARK).map(|(_, said)| said.to_owned())
        });
        said.expect("the process says something before it ends")
    }

    /// Sends a line, for [`listen`].
    pub fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{line}").expect("the process reads");
    }

    /// SIGSTOP: it does nothing more until [`resume`](Self::resume).
    pub fn stop(&self) {
        signal(self.child.id(), "STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal(self.child.id(), "CONT");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is our child");
    }

    /// Waits for its end; whether its test passed.
    pub fn ends_well(mut self) -> bool {
        self.child.wait().expect("it is our child").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, by its name without `SIG`.
pub fn signal(process: u32, signal: &str) {
    // Every shell has `kill`; a program of that name is not everywhere.
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {process}")])
        .status()
        .expect("sh starts");
    assert!(status.success(), "process {process} got no {signal}");
}

/// In the process: what it was started with. `None` where the harness runs all tests.
pub fn argument() -> Option<String> {
    std::env::var(ARGUMENT).ok()
}

/// In the process: says a line to who started it.
pub fn say(line: &str) {
    println!("{MARK}{line}");
}

/// In the process: waits for a line, without blocking the runtime.
pub async fn listen() -> String {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    });
    read.await.expect("reading does not panic")
}
