//! rusqlite: a thread with the connection that writes, and two with one that reads. A call is a message to its thread, and one back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use crate::by_hand::{ADD, Document, FIND, LOAD, Tag, UPDATE};
use crate::harness::Peer;

/// Two cores.
const READERS: usize = 2;

/// How many more statements a transaction takes, so that the first caller has its answer soon.
const AT_ONCE: usize = 1_000;

/// What the writer commits at once.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Commit {
    /// Each statement.
    Each,
    /// The statements that wait, after which their callers get their answers.
    Waiting,
}

/// Runs a statement, and tells its result to the caller when it is called again.
type Work = Box<dyn FnOnce(&Connection) -> Answer + Send>;
type Answer = Box<dyn FnOnce()>;

#[derive(Clone)]
pub(crate) struct Rusqlite {
    writer: Sender<Work>,
    readers: Arc<[Sender<Work>]>,
    next: Arc<AtomicUsize>,
}

impl Rusqlite {
    pub(crate) fn new(file: &Path, commit: Commit) -> Self {
        let reader = |_| serve(open(file), Commit::Each);
        Self {
            writer: serve(open(file), commit),
            readers: (0..READERS).map(reader).collect(),
            next: Arc::default(),
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        statement: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> T {
        on(&self.writer, statement).await
    }

    async fn read<T: Send + 'static>(
        &self,
        statement: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> T {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        on(&self.readers[next % READERS], statement).await
    }
}

async fn on<T: Send + 'static>(
    thread: &Sender<Work>,
    statement: impl FnOnce(&Connection) -> T + Send + 'static,
) -> T {
    let (answer, answered) = oneshot::channel();
    let work: Work = Box::new(|connection| {
        let result = statement(connection);
        Box::new(|| drop(answer.send(result)))
    });
    thread.send(work).unwrap();
    answered.await.unwrap()
}

/// As sqlx opens the file for the others.
fn open(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .unwrap();
    connection
        .pragma_update(None, "synchronous", "OFF")
        .unwrap();
    connection
        .pragma_update(None, "foreign_keys", true)
        .unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection
}

fn serve(connection: Connection, commit: Commit) -> Sender<Work> {
    let (sender, receiver) = channel();
    thread::spawn(move || match commit {
        Commit::Each => receiver
            .into_iter()
            .for_each(|work: Work| work(&connection)()),
        Commit::Waiting => commit_waiting(&connection, &receiver),
    });
    sender
}

fn commit_waiting(connection: &Connection, receiver: &Receiver<Work>) {
    let mut answers = Vec::new();
    while let Ok(first) = receiver.recv() {
        let Ok(second) = receiver.try_recv() else {
            first(connection)();
            continue;
        };
        execute(connection, "BEGIN IMMEDIATE");
        // Those that come meanwhile go along.
        let waiting = [first, second]
            .into_iter()
            .chain(receiver.try_iter().take(AT_ONCE));
        answers.extend(waiting.map(|work| work(connection)));
        execute(connection, "COMMIT");
        answers.drain(..).for_each(|answer| answer());
    }
}

fn execute(connection: &Connection, text: &str) {
    connection
        .prepare_cached(text)
        .unwrap()
        .execute([])
        .unwrap();
}

impl Peer for Rusqlite {
    type Document = Document;

    async fn add(&self, page: i64) -> i64 {
        self.write(move |connection| {
            let mut statement = connection.prepare_cached(ADD).unwrap();
            statement.query_row([page, 1], |row| row.get(0)).unwrap()
        })
        .await
    }

    async fn load(&self, id: i64) -> Document {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(LOAD).unwrap();
            let document = statement.query_row([id], |row| {
                Ok(Document {
                    id: row.get(0)?,
                    author_id: row.get(1)?,
                    reviewer_id: row.get(2)?,
                    title: row.get(3)?,
                    body: row.get(4)?,
                    language: row.get(5)?,
                    published: row.get(6)?,
                    words: row.get(7)?,
                    lock_version: row.get(8)?,
                })
            });
            document.unwrap()
        })
        .await
    }

    fn id(document: &Document) -> i64 {
        document.id
    }

    async fn update(&self, document: &mut Document) {
        document.words += 1;
        let Document {
            id,
            author_id,
            reviewer_id,
            published,
            words,
            lock_version,
            ..
        } = *document;
        let (title, body, language) = (
            document.title.clone(),
            document.body.clone(),
            document.language.clone(),
        );
        let version = self.write(move |connection| {
            let mut statement = connection.prepare_cached(UPDATE).unwrap();
            let values = params![
                author_id,
                reviewer_id,
                title,
                body,
                language,
                published,
                words,
                id,
                lock_version
            ];
            statement.query_row(values, |row| row.get(0)).unwrap()
        });
        document.lock_version = version.await;
    }

    async fn find(&self, name: String) -> i64 {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(FIND).unwrap();
            let tag = statement
                .query_row([&name], |row| {
                    Ok(Tag {
                        id: row.get(0)?,
                        name: row.get(1)?,
                    })
                })
                .unwrap();
            assert_eq!(tag.name, name);
            tag.id
        })
        .await
    }
}
