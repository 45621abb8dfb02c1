//! A private PostgreSQL server.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::process::signal;

/// A PostgreSQL server of our own, in a temporary directory and on a free port
/// of the loopback interface.
///
/// It is stopped and its directory is removed when this value is dropped, and
/// as well when the process that holds it dies, however it dies: a watchdog
/// process owns the server and ends it when the pipe we hold is closed.
#[derive(Debug)]
pub struct Server {
    watchdog: Child,
    answers: Lines<BufReader<ChildStdout>>,
    port: u16,
    directory: PathBuf,
}

impl Server {
    /// Creates and starts a server, which takes a second or two.
    ///
    /// # Panics
    ///
    /// When PostgreSQL is not installed, or does not start.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// One that waits for its disk, and so keeps in a crash all that it said was committed.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_durable() -> Self {
        Self::start_with(&["durable"])
    }

    fn start_with(settings: &[&str]) -> Self {
        let binaries = binaries().expect(
            "no PostgreSQL server found (initdb, postgres, pg_ctl): install it \
             (Debian: apt-get install postgresql) and put its directory in PATH, \
             or set ROWLOCK_POSTGRES_URL to the URL of a running server",
        );
        let directory = tempfile::Builder::new()
            .prefix("rowlock-postgres-")
            .tempdir()
            .expect("a temporary directory");
        let mut command = Command::new("sh");
        command
            .args(["-c", include_str!("watchdog.sh"), "rowlock-watchdog"])
            .arg(binaries)
            .arg(directory.path())
            .args(settings)
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C at the terminal is for us; the watchdog follows in its own time.
            .process_group(0);

        // PostgreSQL refuses to run as root. What we create belongs to our
        // effective user, which is the safe way to ask who that is.
        let metadata = fs::metadata(directory.path()).expect("the directory just made");
        if metadata.uid() == 0 {
            let (uid, gid) = unprivileged_user();
            chown(directory.path(), Some(uid), Some(gid)).expect("root may give files away");
            command.uid(uid).gid(gid);
        }

        let mut watchdog = command
            .spawn()
            .expect("sh starts as that user in the temporary directory (see TMPDIR)");
        let directory = directory.keep(); // the watchdog removes it
        let mut ports = watchdog.stdin.take().expect("stdin is piped");
        let mut answers = BufReader::new(watchdog.stdout.take().expect("stdout is piped")).lines();

        // Another process may take a free port before the server does.
        let port = (0..3).map(|_| free_port()).find(|port| {
            writeln!(ports, "{port}").is_ok()
                && answers
                    .next()
                    .is_some_and(|line| line.is_ok_and(|line| line == "up"))
        });
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();

        watchdog.stdin = Some(ports);
        let server = Self {
            watchdog,
            answers,
            port: port.unwrap_or_default(),
            directory,
        };
        assert!(
            port.is_some(),
            "the PostgreSQL server did not start; its log:\n{log}"
        );
        server
    }

    /// Whether a test can start a server of its own. Not where somebody has given us the URL of a server and has no programs to start
    /// another.
    pub fn can_start_another() -> bool {
        let given = env::var_os("ROWLOCK_POSTGRES_URL").is_some_and(|url| !url.is_empty());
        let can = !given || binaries().is_some();
        if !can {
            eprintln!(
                "not tested: it needs initdb, postgres and pg_ctl beside ROWLOCK_POSTGRES_URL"
            );
        }
        can
    }

    /// Creates and starts a server, for a test that does with it what only its owner may, if it [can](Self::can_start_another).
    pub fn start_another() -> Option<Self> {
        Self::can_start_another().then(Self::start)
    }

    /// Ends it at once, as a crash does, with all its connections.
    pub fn crash(&mut self) {
        assert_eq!(self.tell("crash"), "down");
    }

    /// Ends it as an operator does (`-m fast`): sessions are ended, and their transactions rolled back.
    pub fn shut_down(&mut self) {
        assert_eq!(self.tell("stop"), "down");
    }

    /// Starts it again, with all that was committed.
    pub fn restart(&mut self) {
        assert_eq!(self.tell(&self.port.to_string()), "up");
    }

    /// SIGSTOP to all of its processes, until the returned value is dropped.
    pub fn stop(&self) -> Stopped {
        let pid = fs::read_to_string(self.directory.join("data/postmaster.pid"));
        let pid = pid.expect("the server runs");
        let postmaster: u32 = pid
            .lines()
            .next()
            .unwrap_or_default()
            .parse()
            .expect("a number");
        let stopped = Stopped(
            std::iter::once(postmaster)
                .chain(children(postmaster))
                .collect(),
        );
        for process in &stopped.0 {
            signal(*process, "STOP");
        }
        stopped
    }

    fn tell(&mut self, line: &str) -> String {
        let stdin = self.watchdog.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{line}").expect("the watchdog reads");
        let answer = self.answers.next().expect("the watchdog answers");
        answer.expect("text")
    }

    /// Where to connect.
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable",
            self.port
        )
    }
}

/// The processes of a server that do nothing for as long as this value lives.
#[derive(Debug)]
pub struct Stopped(Vec<u32>);

impl Drop for Stopped {
    fn drop(&mut self) {
        for process in &self.0 {
            signal(*process, "CONT");
        }
    }
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // Behind the name, which may have anything in it: the state, and the parent.
        let behind = stat.rsplit(')').next().unwrap_or_default();
        behind.split_whitespace().nth(1) == Some(parent.to_string().as_str())
    };
    processes.filter(is_child).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        // `wait` first closes our end of the pipe, which is the sign to stop.
        let _ = self.watchdog.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
    listener
        .local_addr()
        .expect("the address just bound")
        .port()
}

/// The directory of the server's programs. Debian keeps them out of `PATH`.
fn binaries() -> Option<PathBuf> {
    let configured = Command::new("pg_config")
        .arg("--bindir")
        .output()
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));

    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    versions.sort_by_key(|path| path.file_name()?.to_str()?.parse::<u32>().ok());
    let versions = versions.into_iter().rev().map(|path| path.join("bin"));

    let path = env::var_os("PATH").unwrap_or_default();
    configured
        .into_iter()
        .chain(versions)
        .chain(env::split_paths(&path))
        .find(|directory| has_server(directory))
}

fn has_server(directory: &Path) -> bool {
    ["initdb", "postgres", "pg_ctl"]
        .iter()
        .all(|program| directory.join(program).is_file())
}

/// User and group of `postgres`, which its package creates, or of `nobody`.
pub(crate) fn unprivileged_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let find = |name: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then_some(())?;
            let uid = fields.nth(1)?.parse().ok()?;
            Some((uid, fields.next()?.parse().ok()?))
        })
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .expect("a user postgres or nobody in /etc/passwd")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As when the owner is killed in the middle of a test: nobody continues the processes but the watchdog.
    #[test]
    fn a_server_that_is_stopped_ends_with_its_owner() {
        let server = Server::start();
        let directory = server.directory.clone();
        let stopped = server.stop();
        let postmaster = stopped.0[0];
        std::mem::forget(stopped);
        drop(server);
        assert!(!directory.exists());
        // One that nobody has waited for has no arguments any more.
        let arguments = fs::read(format!("/proc/{postmaster}/cmdline"));
        assert!(arguments.unwrap_or_default().is_empty());
    }
}
