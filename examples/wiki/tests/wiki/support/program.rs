//! A program that ends with the test that started it.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

/// SIGTERM when standard input ends, which is when the test closes it or dies, however it dies. To the whole group: chromedriver
/// leaves its browsers behind. SIGKILL for what does not listen, and at once if the test says so.
const WATCHDOG: &str = r#"
"$@" </dev/null &
program=$!
trap '' TERM
read -r signal
kill "-${signal:-TERM}" 0
(sleep 20; kill -KILL $program) >/dev/null 2>&1 &
wait $program 2>/dev/null
ended=$?
kill -KILL $!
exit $ended
"#;

pub struct Program {
    watchdog: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    pub fn start(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", program])
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own; Ctrl-C at the terminal is for the test.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let stdout = watchdog.stdout.take().expect("stdout is piped");
        let output = BufReader::new(stdout).lines();
        Self { watchdog, output }
    }

    /// The next line that it prints.
    pub fn says(&mut self) -> Option<String> {
        self.output.next().map(|line| line.expect("text"))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let stdin = self.watchdog.stdin.as_mut().expect("stdin is piped");
        stdin.write_all(b"KILL\n").expect("the watchdog reads");
        self.terminate();
    }

    /// Whether it ends well when it is told to.
    pub fn terminate(&mut self) -> bool {
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().expect("it is our child").success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.terminate();
    }
}
