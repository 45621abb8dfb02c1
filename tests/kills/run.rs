//! Rounds of trouble, each with a client of its own, and what is wrong after it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rowlock_tests::postgres::Server;
use rowlock_tests::proxy::{Proxy, Side};
use rowlock_tests::random::Random;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use crate::client::NAME;
use crate::history::{self, Event, Told};
use crate::law::{self, Rows};
use crate::{Options, rows};

/// So long a client, a server or a session may take for what is asked of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Calls of each caller where a connection is cut.
const CALLS: usize = 5;
/// So much of what is wrong with a round is shown.
const SHOWN: usize = 5;

type Wrong = Vec<String>;

/// What is done to the callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Kill,
    Cut,
    Crash,
    Stop,
}

#[derive(Debug, Default)]
struct Figures {
    times: usize,
    calls: usize,
    confirmed: usize,
    refused: usize,
    unknown: usize,
    nothing: usize,
}

impl Figures {
    fn add(&mut self, events: &[Event]) {
        self.times += 1;
        self.calls += events.len();
        for event in events {
            *match event.told {
                Told::Total(_) | Told::Version(_) | Told::Loaded(..) => &mut self.confirmed,
                Told::Created(_) | Told::Found(_) | Told::Missing => &mut self.confirmed,
                Told::Refused(_) | Told::Stale(_) => &mut self.refused,
                Told::Nothing => &mut self.nothing,
                Told::Unknown => &mut self.unknown,
            } += 1;
        }
    }

    fn say(&self, trouble: Trouble, took: Duration) {
        let Self {
            times,
            calls,
            confirmed,
            refused,
            unknown,
            nothing,
        } = self;
        let what = match trouble {
            Trouble::Kill => "clients killed",
            Trouble::Cut => "connections cut",
            Trouble::Crash => "servers crashed",
            Trouble::Stop => "servers shut down",
        };
        println!(
            "{times} {what}: {calls} calls, {confirmed} confirmed, {refused} refused or stale, {unknown} unknown, {nothing} not done; {} s",
            took.as_secs()
        );
    }
}

/// A client, which does not outlive this value.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    async fn up(&mut self) -> bool {
        let line = timeout(PATIENCE, self.stdout.next_line()).await;
        matches!(line, Ok(Ok(Some(line))) if line == "up")
    }

    async fn go(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            // One that is gone is seen at its end.
            let _ = stdin.write_all(b"go\n").await;
        }
    }

    /// Whether it ended well.
    async fn ends(&mut self) -> bool {
        matches!(timeout(PATIENCE, self.child.wait()).await, Ok(Ok(status)) if status.success())
    }
}

struct World {
    options: Options,
    server: Server,
    logs: TempDir,
    random: Random,
    round: i64,
    /// What was there after each round. It stays.
    seen: Vec<(i64, Rows)>,
    figures: Figures,
}

/// # Errors
///
/// What is wrong.
pub(crate) async fn run(options: Options) -> Result<(), Wrong> {
    let mut wrong = Vec::new();
    // Whatever a client is told, the server lives on: it need not wait for its disk.
    let server = Server::start();
    let mut world = World::new(options, server).await?;
    wrong.extend(world.rounds(Trouble::Kill, options.kills).await);
    wrong.extend(world.rounds(Trouble::Cut, options.cuts).await);
    drop(world);
    if options.crashes + options.stops > 0 {
        let mut world = World::new(options, Server::start_durable()).await?;
        wrong.extend(world.rounds(Trouble::Crash, options.crashes).await);
        wrong.extend(world.rounds(Trouble::Stop, options.stops).await);
        wrong.extend(world.look_again().await);
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong),
    }
}

impl World {
    async fn new(options: Options, server: Server) -> Result<Self, Wrong> {
        let world = Self {
            options,
            server,
            logs: tempfile::tempdir().expect("a temporary directory"),
            random: Random::seeded(options.seed),
            round: 0,
            seen: Vec::new(),
            figures: Figures::default(),
        };
        let tables = sqlx::raw_sql(rows::TABLES);
        let made = tables.execute(&mut world.connection().await?).await;
        made.map_err(told)?;
        Ok(world)
    }

    async fn connection(&self) -> Result<PgConnection, Wrong> {
        let options: PgConnectOptions = self.server.url().parse().map_err(told)?;
        options.connect().await.map_err(told)
    }

    /// So many times, or until something is wrong.
    async fn rounds(&mut self, trouble: Trouble, times: usize) -> Wrong {
        let begun = Instant::now();
        let mut wrong = Vec::new();
        self.figures = Figures::default();
        let sweep = match trouble {
            Trouble::Cut if times > 0 => match self.sweep(times).await {
                Ok(sweep) => sweep,
                Err(error) => return error,
            },
            _ => Vec::new(),
        };
        let mut said = Instant::now();
        for time in 0..times {
            let of_round = match trouble {
                Trouble::Cut => self.cut(sweep[time % sweep.len()]).await,
                Trouble::Kill => self.killed().await,
                Trouble::Crash | Trouble::Stop => self.restarted(trouble).await,
            };
            if let Err(all) = of_round {
                let (seed, round, count) = (self.options.seed, self.round, all.len());
                let of = format!("{trouble:?}, seed {seed}, round {round}, {count} times");
                let shown = all.into_iter().take(SHOWN);
                wrong = shown.map(|error| format!("{of}: {error}")).collect();
                break;
            }
            if said.elapsed() > Duration::from_secs(30) {
                said = Instant::now();
                eprintln!("{trouble:?}: {} of {times}", time + 1);
            }
        }
        if times > 0 {
            self.figures.say(trouble, begun.elapsed());
        }
        wrong
    }

    /// The rows of a further round, and where its client writes.
    async fn next(&mut self) -> Result<PathBuf, Wrong> {
        self.round += 1;
        let mut connection = self.connection().await?;
        let prepared = rows::prepare(&mut connection, self.round).await;
        prepared.map_err(told)?;
        let _ = connection.close().await;
        Ok(self.logs.path().join(self.round.to_string()))
    }

    fn start(&mut self, url: &str, log: &Path, calls: Option<usize>) -> Result<Process, Wrong> {
        let mut command = Command::new(std::env::current_exe().map_err(told)?);
        command.arg("--client").arg(url).arg(log);
        command.args(["--round", &self.round.to_string()]);
        let seed = self.random.below(usize::MAX);
        command.args(["--seed", &seed.to_string()]);
        if let Some(calls) = calls {
            command.args(["--calls", &calls.to_string()]);
        }
        if let Some(breaks) = self.options.breaks {
            command.args(["--break", breaks.name()]);
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(told)?;
        let stdout = child.stdout.take().ok_or_else(|| told("no pipe"))?;
        Ok(Process {
            stdin: child.stdin.take(),
            stdout: BufReader::new(stdout).lines(),
            child,
        })
    }

    async fn pause(&mut self, longest: Duration) {
        let longest = usize::try_from(longest.as_micros()).unwrap_or(usize::MAX);
        let micros = self.random.below(longest) as u64;
        sleep(Duration::from_micros(micros)).await;
    }

    /// The client is killed.
    async fn killed(&mut self) -> Result<(), Wrong> {
        let log = self.next().await?;
        let mut client = self.start(&self.server.url(), &log, None)?;
        if !client.up().await {
            return Err(told("a client does not come up"));
        }
        client.go().await;
        self.pause(Duration::from_millis(80)).await;
        client.child.kill().await.map_err(told)?;
        self.judge(&log).await
    }

    /// At which messages to cut: over all of a round, each in all ways.
    async fn sweep(&mut self, times: usize) -> Result<Vec<(Side, usize, bool)>, Wrong> {
        let (log, proxy) = (self.next().await?, self.proxy().await);
        let mut client =
            self.start(&url_through(&self.server.url(), &proxy)?, &log, Some(CALLS))?;
        if !client.up().await {
            return Err(told("a client does not come up"));
        }
        proxy.reset();
        client.go().await;
        if !client.ends().await {
            return Err(told("a client does not end well"));
        }
        let mut sweep = Vec::new();
        for from in [Side::Client, Side::Server] {
            let messages = proxy.messages(from);
            let points = (times / 4).clamp(1, messages.max(1));
            println!("{messages} messages of the {from:?} in a round, {points} of them to cut at");
            for point in 0..points {
                let message = 1 + point * messages / points;
                sweep.extend([(from, message, false), (from, message, true)]);
            }
        }
        Ok(sweep)
    }

    async fn proxy(&self) -> Proxy {
        let url = self.server.url();
        let address = url.split('@').nth(1).and_then(|url| url.split('/').next());
        Proxy::start(address.unwrap_or_default()).await
    }

    /// A connection of the client is cut. It goes on with another one.
    async fn cut(&mut self, at: (Side, usize, bool)) -> Result<(), Wrong> {
        let (from, mut message, is_whole) = at;
        loop {
            let (log, proxy) = (self.next().await?, self.proxy().await);
            let url = url_through(&self.server.url(), &proxy)?;
            let mut client = self.start(&url, &log, Some(CALLS))?;
            if !client.up().await {
                return Err(told("a client does not come up"));
            }
            proxy.cut_at(from, message, is_whole);
            client.go().await;
            if !client.ends().await {
                return Err(told("a client does not end well"));
            }
            if proxy.has_cut() {
                return self.judge(&log).await;
            }
            // This one had less to say.
            message = 1 + message % proxy.messages(from).max(1);
        }
    }

    /// The server goes, and comes again; the client goes on.
    async fn restarted(&mut self, trouble: Trouble) -> Result<(), Wrong> {
        let log = self.next().await?;
        let mut client = self.start(&self.server.url(), &log, None)?;
        if !client.up().await {
            return Err(told("a client does not come up"));
        }
        client.go().await;
        self.pause(Duration::from_millis(80)).await;
        block_in_place(|| {
            match trouble {
                Trouble::Crash => self.server.crash(),
                _ => self.server.shut_down(),
            }
            self.server.restart();
        });
        let before = events(&log)?.iter().filter(|event| is_new(event)).count();
        let begun = Instant::now();
        while events(&log)?.iter().filter(|event| is_new(event)).count() <= before {
            if begun.elapsed() > PATIENCE {
                return Err(told("no addition is confirmed after a restart"));
            }
            sleep(Duration::from_millis(5)).await;
        }
        client.stdin = None;
        if !client.ends().await {
            return Err(told("a client does not end well"));
        }
        self.judge(&log).await
    }

    /// When no statement of the client is under way any more.
    async fn judge(&mut self, log: &Path) -> Result<(), Wrong> {
        let mut connection = self.connection().await?;
        let begun = Instant::now();
        loop {
            let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
            let sessions = sqlx::query_scalar::<_, i64>(sessions).bind(NAME);
            if sessions.fetch_one(&mut connection).await.map_err(told)? == 0 {
                break;
            }
            if begun.elapsed() > PATIENCE {
                return Err(told("a session of a client does not end"));
            }
            sleep(Duration::from_millis(2)).await;
        }
        let rows = rows::read(&mut connection, self.round).await;
        let (rows, events) = (rows.map_err(told)?, events(log)?);
        let _ = connection.close().await;
        self.figures.add(&events);
        let wrong = law::broken(&events, &rows);
        self.seen.push((self.round, rows));
        match wrong.is_empty() {
            true => {
                let _ = std::fs::remove_file(log);
                Ok(())
            }
            false => Err(wrong),
        }
    }

    /// All rounds are there after the last one as they were after each.
    async fn look_again(&mut self) -> Wrong {
        let mut connection = match self.connection().await {
            Ok(connection) => connection,
            Err(wrong) => return wrong,
        };
        let mut wrong = Vec::new();
        for (round, seen) in &self.seen {
            match rows::read(&mut connection, *round).await {
                Ok(rows) if rows == *seen => {}
                Ok(_) => wrong.push(format!("round {round} is not there any more as it was")),
                Err(error) => wrong.extend(told(error)),
            }
        }
        println!("{} rounds looked at again in the end", self.seen.len());
        wrong
    }
}

fn told(error: impl ToString) -> Wrong {
    vec![error.to_string()]
}

fn url_through(url: &str, proxy: &Proxy) -> Result<String, Wrong> {
    let options: PgConnectOptions = url.parse().map_err(told)?;
    let port = options.get_port().to_string();
    Ok(url.replacen(&format!(":{port}/"), &format!(":{}/", proxy.port()), 1))
}

fn events(log: &Path) -> Result<Vec<Event>, Wrong> {
    // It may have been killed before it made one.
    history::read(&std::fs::read_to_string(log).unwrap_or_default()).map_err(told)
}

/// A write that was confirmed.
fn is_new(event: &Event) -> bool {
    matches!(event.told, Told::Total(_) | Told::Version(_))
}
