//! A private Redis server.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::server::free_port;

/// A Redis server of our own, in a temporary directory and on a free port of the loopback interface. It keeps nothing on
/// disk, so a restart forgets everything.
///
/// It is gone when this value is dropped, and as well when the process that holds it dies, however it dies: its watchdog,
/// a shell, ends it when the pipe we hold is closed. A Redis that runs already is never used.
#[derive(Debug)]
pub struct Redis {
    running: Option<Running>,
    port: u16,
    directory: TempDir,
}

#[derive(Debug)]
struct Running {
    watchdog: Child,
    server: u32,
}

/// Starts the server, tells its process number, and kills it when standard input ends. Signals are for the server alone.
/// KILL, because it may be stopped; the directory is removed for an owner that can no longer do it.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM PIPE
exec 2>/dev/null
redis-server --port "$1" --bind 127.0.0.1 --dir "$2" --save '' --appendonly no --daemonize no \
    --maxmemory-policy noeviction --logfile "$2/log" </dev/null >/dev/null &
echo $!
read -r line
kill -KILL $!
wait $!
[ "$line" = keep ] || rm -rf "$2"
"#;

impl Redis {
    /// Starts a server, which takes some milliseconds.
    ///
    /// # Panics
    ///
    /// When Redis is not installed, or does not start.
    pub fn start() -> Self {
        let found = Command::new("redis-server").arg("--version").output();
        assert!(
            found.is_ok_and(|output| output.status.success()),
            "no redis-server found: install it (Debian: apt-get install redis-server) and put it in PATH"
        );
        let directory = tempfile::Builder::new()
            .prefix("rowlock-redis-")
            .tempdir()
            .expect("a temporary directory");
        let mut server = Self {
            running: None,
            port: 0,
            directory,
        };
        // Another process may take a free port before the server does.
        let up = (0..3).any(|_| {
            server.port = free_port();
            server.try_run()
        });
        assert!(
            up,
            "the Redis server did not start; its log:\n{}",
            server.log()
        );
        server
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn try_run(&mut self) -> bool {
        use std::io::{BufRead, BufReader};
        use std::os::unix::process::CommandExt;

        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "rowlock-watchdog", &self.port.to_string()])
            .arg(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C at the terminal is for us; the watchdog follows in its own time.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let mut line = String::new();
        let answers = watchdog.stdout.take().expect("stdout is piped");
        BufReader::new(answers)
            .read_line(&mut line)
            .expect("the watchdog answers");
        let server = line.trim().parse().expect("a process number");
        self.running = Some(Running { watchdog, server });

        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && self.state().is_some() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return true;
            }
            sleep(Duration::from_millis(2));
        }
        self.end();
        false
    }

    /// `S`, `T` and so on, as Linux has it; `None` for a process that has ended.
    fn state(&self) -> Option<char> {
        let server = self.running.as_ref()?.server;
        let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).ok()?;
        // The name before it is in parentheses, and can have some of its own.
        let (_, stat) = stat.rsplit_once(") ")?;
        stat.chars().next().filter(|state| *state != 'Z')
    }

    fn signal(&self, signal: &str) {
        let running = self.running.as_ref().expect("the server runs");
        crate::process::signal(running.server, signal);
    }

    /// Ends the server by SIGKILL. Returns when it is gone, with all that it knew.
    pub fn kill(&mut self) {
        self.end();
    }

    /// Ends the server by SIGTERM, as an administrator would. It closes its connections.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.state().is_some() && Instant::now() < deadline {
            sleep(Duration::from_millis(2));
        }
        self.end();
    }

    /// Starts a server that was ended, empty, on the same port.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart(&mut self) {
        self.end();
        assert!(
            self.try_run(),
            "the Redis server did not start again:\n{}",
            self.log()
        );
    }

    /// Stops the process by SIGSTOP: it accepts connections and bytes, and answers nothing.
    pub fn pause(&self) {
        self.signal("STOP");
        // `kill` returns before the process has stopped.
        while self.state() != Some('T') {
            sleep(Duration::from_millis(1));
        }
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Deletes all keys.
    pub fn flush(&self) {
        let mut connection = self.connection();
        redis::cmd("FLUSHALL")
            .exec(&mut connection)
            .expect("FLUSHALL");
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to connect.
    pub fn client(&self) -> redis::Client {
        client(self.port)
    }

    /// A connection to look around with. It blocks the thread.
    pub fn connection(&self) -> redis::Connection {
        self.client()
            .get_connection()
            .expect("the server accepts connections")
    }

    fn end(&mut self) {
        use std::io::Write;

        if let Some(mut running) = self.running.take() {
            if let Some(stdin) = &mut running.watchdog.stdin {
                let _ = writeln!(stdin, "keep");
            }
            // `wait` first closes our end of the pipe.
            let _ = running.watchdog.wait();
        }
    }
}

impl Redis {
    /// Where to connect.
    pub fn url(&self) -> String {
        url(self.port)
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/")
}

/// How to connect to a loopback port, of a server or of a [`Proxy`](crate::proxy::Proxy) before it.
pub fn client(port: u16) -> redis::Client {
    redis::Client::open(url(port)).expect("a URL")
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::Redis;

    #[test]
    fn a_server_comes_and_goes() {
        let mut redis = Redis::start();
        let set = |redis: &Redis| {
            redis::cmd("SET")
                .arg("a")
                .arg("b")
                .exec(&mut redis.connection())
                .unwrap();
        };
        let get = |redis: &Redis| -> Option<String> {
            redis::cmd("GET")
                .arg("a")
                .query(&mut redis.connection())
                .unwrap()
        };
        set(&redis);
        assert_eq!(get(&redis).as_deref(), Some("b"));
        redis.flush();
        assert_eq!(get(&redis), None);

        set(&redis);
        redis.pause();
        redis.resume();
        assert_eq!(get(&redis).as_deref(), Some("b"));

        redis.kill();
        assert!(redis.client().get_connection().is_err());
        redis.restart();
        assert_eq!(get(&redis), None);
        redis.stop();
        assert!(redis.client().get_connection().is_err());

        let directory = redis.directory.path().to_owned();
        redis.restart();
        drop(redis);
        assert!(!directory.exists());
    }
}
