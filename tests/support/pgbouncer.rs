//! PgBouncer in transaction mode, before the PostgreSQL that the tests use.

use std::env;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::postgres;
use crate::server::{free_port, unprivileged_user};

/// The pooler, which ends when this value is dropped, and when the process
/// that holds it dies: a shell owns it, and ends it when our pipe is closed.
#[derive(Debug)]
pub struct PgBouncer {
    watchdog: Child,
    port: u16,
}

/// Owns the pooler until its standard input ends.
const WATCHDOG: &str = r#"
    trap '' HUP INT TERM PIPE
    exec 2>>"$2/log"
    # Signals that are ignored here would be ignored there.
    (trap - HUP INT TERM PIPE; exec "$1" "$2/pgbouncer.ini" </dev/null >&2) &
    cat >/dev/null
    kill $!
    wait $!
    rm -rf "$2"
"#;

impl PgBouncer {
    /// Starts a pooler with this many connections to the server.
    ///
    /// # Panics
    ///
    /// When PgBouncer is not installed, or does not start.
    pub fn start(connections: usize) -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        // Debian's directory is not in everybody's PATH.
        let program = env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin")])
            .map(|directory| directory.join("pgbouncer"))
            .find(|program| program.is_file())
            .expect("no pgbouncer found: install it (Debian: apt-get install pgbouncer)");
        let directory = tempfile::Builder::new()
            .prefix("rowlock-pgbouncer-")
            .tempdir()
            .expect("a temporary directory");
        let port = free_port();
        let configuration = directory.path().join("pgbouncer.ini");
        fs::write(&configuration, configured(port, connections)).expect("the directory is ours");

        let mut command = Command::new("sh");
        command
            .args(["-c", WATCHDOG, "rowlock-pgbouncer"])
            .arg(program)
            .arg(directory.path())
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0);
        // It refuses to run as root, as PostgreSQL does.
        let metadata = fs::metadata(directory.path()).expect("the directory just made");
        if metadata.uid() == 0 {
            let (uid, gid) = unprivileged_user();
            for path in [directory.path(), &configuration] {
                chown(path, Some(uid), Some(gid)).expect("root may give files away");
            }
            command.uid(uid).gid(gid);
        }
        let watchdog = command.spawn().expect("sh starts as that user");
        let directory = directory.keep(); // the watchdog removes it
        let pooler = Self { watchdog, port };

        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "pgbouncer did not start; its log:\n{}",
                fs::read_to_string(directory.join("log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(10));
        }
        pooler
    }

    /// How to connect through it. It does not pass on `search_path`.
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username("anybody")
            .database("tests")
            .ssl_mode(PgSslMode::Disable)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // `wait` first closes our end of the pipe, which is the sign to stop.
        let _ = self.watchdog.wait();
    }
}

fn configured(port: u16, connections: usize) -> String {
    let server: PgConnectOptions = postgres::url().parse().expect("the URL of PostgreSQL");
    // sqlx does not tell the password.
    let user = postgres::url()
        .split_once("://")
        .map_or("", |(_, rest)| rest);
    let user = user.split_once('@').map_or("", |(user, _)| user);
    let password = user.split_once(':').map_or(String::new(), |(_, password)| {
        format!(" password='{password}'")
    });
    format!(
        "[databases]\n\
         tests = host={} port={} dbname={} user={}{password}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = transaction\n\
         default_pool_size = {connections}\n\
         max_client_conn = 300\n\
         ignore_startup_parameters = extra_float_digits, options\n",
        server.get_host(),
        server.get_port(),
        server.get_database().unwrap_or("postgres"),
        server.get_username(),
    )
}
