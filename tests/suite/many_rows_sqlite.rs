//! Many rows in one statement: every value that a key can have, and few texts for any number of rows.

use chrono::{DateTime, TimeDelta, Utc};
use rowlock::queue::{Claimed, QueueState};
use rowlock::row::CounterError;
use rowlock::{Counter, Fence, Lockable, Queue};
use sqlx::{Connection, Executor, Row};

use super::database;

/// A type of the user: no macro knows that it is a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
struct Hash(Vec<u8>);

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter, Lockable)]
#[rowlock(table = "files")]
struct File {
    #[rowlock(key)]
    hash: Hash,
    #[rowlock(key)]
    name: String,
    #[rowlock(key)]
    part: i64,
    #[rowlock(key)]
    hidden: bool,
    #[rowlock(key)]
    at: DateTime<Utc>,
    #[rowlock(counter)]
    reads: i64,
    #[rowlock(counter(max = 2))]
    writes: i64,
}

// Without a type a column takes what it is given: a blob that came as its digits would be a text for ever.
const FILES: &str = "CREATE TABLE files (hash, name, part, hidden, at, reads bigint NOT NULL, writes bigint NOT NULL, \
     PRIMARY KEY (hash, name, part, hidden, at))";

type Key = (Hash, String, i64, bool, DateTime<Utc>);

fn keys() -> Vec<Key> {
    let hashes = [vec![], vec![0], (0..=255).collect(), b"00ff".to_vec()];
    let names = [
        "",
        "a\0b",
        "\0",
        "\"), Null, (\\\"",
        "it's \\u0041 \\n",
        "\u{1}\t\r\n\u{7f}\u{85}\u{2028}",
        "e\u{301}🦀\u{fffd}\u{10ffff}",
        "null",
        "[1, 2]",
    ];
    let parts = [i64::MIN, -1, 0, (1 << 53) + 1, i64::MAX];
    let at = DateTime::UNIX_EPOCH + TimeDelta::nanoseconds(123_456_789);
    let keys = (0..36).map(|n| {
        let hash = Hash(hashes[n % 4].clone());
        (hash, names[n % 9].to_owned(), parts[n % 5], n % 3 == 0, at)
    });
    keys.collect()
}

fn borrowed((hash, name, part, hidden, at): &Key) -> (Hash, &str, i64, bool, DateTime<Utc>) {
    (hash.clone(), name, *part, *hidden, *at)
}

/// A batch finds and writes what one addition does, which binds the values themselves.
#[tokio::test]
async fn every_key_is_the_same_among_many_as_alone() {
    let database = database(FILES).await;
    let (pool, keys) = (&database.pool, keys());
    for key in &keys[..20] {
        File::add_reads(pool, borrowed(key), 1).await.unwrap();
    }
    let reads = keys.iter().map(|key| (borrowed(key), 1));
    let totals = File::add_reads_many(pool, reads).await.unwrap();
    assert_eq!(totals.len(), keys.len());
    assert_eq!(totals.iter().filter(|(_, total)| *total == 2).count(), 20);
    for key in &keys[20..] {
        let total = File::add_reads(pool, borrowed(key), 1).await.unwrap();
        assert_eq!(total, 2, "{key:?}");
    }
    // The second takes too much from the rows, so that it is about rows that exist.
    let writes = || keys.iter().map(|key| (borrowed(key), 2));
    File::add_writes_many(pool, writes()).await.unwrap();
    let error = File::add_writes_many(pool, writes()).await.unwrap_err();
    assert!(matches!(error, CounterError::OutOfBounds(_)), "{error:?}");
    let taken = keys.iter().map(|key| (borrowed(key), -2));
    File::add_writes_many(pool, taken).await.unwrap();

    let mut tx = pool.begin().await.unwrap();
    let locked = File::lock_many(&mut tx, keys.iter().map(borrowed)).await;
    let mut locked: Vec<Key> = locked
        .unwrap()
        .iter()
        .map(|row| {
            assert_eq!((row.reads, row.writes), (2, 0));
            let (hash, name) = (row.hash.clone(), row.name.clone());
            (hash, name, row.part, row.hidden, row.at)
        })
        .collect();
    let mut expected = keys.clone();
    expected.sort();
    locked.sort();
    assert_eq!(locked, expected);
    tx.rollback().await.unwrap();

    let types = "SELECT DISTINCT typeof(hash), typeof(name), typeof(part), typeof(hidden), typeof(at), reads FROM files";
    let types = sqlx::query(types).fetch_all(pool).await.unwrap();
    assert_eq!(types.len(), 1);
    let types: Vec<String> = (0..5).map(|column| types[0].get(column)).collect();
    assert_eq!(types, ["blob", "text", "integer", "integer", "text"]);
}

/// No text of `lock_many` depends on the number of rows.
#[tokio::test]
async fn any_number_of_rows_is_one_statement_that_stays_prepared() {
    let database = database(FILES).await;
    let (mut connection, keys) = (database.connection().await, keys());
    let reads = keys.iter().map(|key| (borrowed(key), 1));
    File::add_reads_many(&mut connection, reads).await.unwrap();
    let mut prepared = Vec::new();
    for rows in [1, 2, 7, 36] {
        let mut tx = connection.begin().await.unwrap();
        let keys = keys[..rows].iter().map(borrowed);
        let locked = File::lock_many(&mut tx, keys).await.unwrap().len();
        assert_eq!(locked, rows);
        tx.commit().await.unwrap();
        prepared.push(connection.cached_statements_size());
    }
    assert!(
        prepared.iter().all(|size| *size == prepared[0]),
        "{prepared:?}"
    );
}

/// A type of the user that puts numbers in order.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, sqlx::Type)]
#[sqlx(transparent)]
struct Height(f64);

impl Eq for Height {}

#[expect(clippy::derive_ord_xor_partial_ord)]
impl Ord for Height {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter)]
#[rowlock(table = "birds")]
struct Bird {
    #[rowlock(key)]
    height: Height,
    #[rowlock(counter)]
    seen: i64,
}

const BIRDS: &str = "CREATE TABLE birds (height PRIMARY KEY, seen NOT NULL)";

/// Also those that SQLite would read from a text as their neighbours.
#[tokio::test]
async fn a_batch_counts_any_number_to_its_last_digit() {
    let database = database(BIRDS).await;
    let pool = &database.pool;
    let heights = [
        f64::NEG_INFINITY,
        -2.8e-90,
        f64::MIN_POSITIVE,
        0.1 + 0.2,
        4.386_362_656_530_058e120,
        f64::MAX,
    ]
    .map(Height);
    for height in heights {
        Bird::add_seen(pool, height, 1).await.unwrap();
    }
    let once = heights.map(|height| (height, 1));
    let totals = Bird::add_seen_many(pool, once).await.unwrap();
    assert_eq!(totals, heights.map(|height| (height, 2)));
}

/// The sizes of statements, and what is between them.
#[tokio::test]
async fn a_batch_of_any_size_is_one_of_few_statements() {
    let database = database(BIRDS).await;
    let mut connection = database.connection().await;
    let mut total = 0;
    for rows in (1..20).chain([63, 64, 65, 127, 128, 129, 255, 256, 257, 700]) {
        let deltas = (0..rows).map(|height| (Height(f64::from(height)), 1));
        let totals = Bird::add_seen_many(&mut connection, deltas).await.unwrap();
        assert_eq!(totals.len(), usize::try_from(rows).unwrap());
        assert!(totals.is_sorted_by(|(a, _), (b, _)| a < b), "{rows}");
        total += i64::from(rows);
    }
    let seen = "SELECT sum(seen) FROM birds";
    let seen: i64 = sqlx::query_scalar(seen)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(seen, total);
    // Eight powers of two, and what was asked here.
    assert!(connection.cached_statements_size() <= 9);
}

/// A batch of several statements, of which the last is refused.
#[tokio::test]
async fn c_09_a_large_batch_is_all_or_none() {
    let database = database(BIRDS).await;
    let mut connection = database.connection().await;
    let seen = async |connection: &mut _| {
        let seen = sqlx::query_scalar("SELECT coalesce(sum(seen), 0) FROM birds");
        let seen: i64 = seen.fetch_one(connection).await.unwrap();
        seen
    };
    let last = Height(300.0);
    Bird::add_seen(&mut connection, last, i64::MAX)
        .await
        .unwrap();
    let deltas = || (0..=300).map(|height| (Height(f64::from(height)), 1));
    let refused = |refused| assert!(matches!(refused, Err(CounterError::Overflow(_))));
    refused(Bird::add_seen_many(&mut connection, deltas()).await);
    assert_eq!(seen(&mut connection).await, i64::MAX);

    let mut tx = connection.begin().await.unwrap();
    Bird::add_seen(&mut *tx, last, -1).await.unwrap();
    refused(Bird::add_seen_many(&mut *tx, deltas().chain([(last, 1)])).await);
    tx.commit().await.unwrap();
    assert_eq!(seen(&mut connection).await, i64::MAX - 1);
}

/// The lowest integer is what a sum below it looks like.
#[tokio::test]
async fn c_11_a_batch_reaches_both_ends_and_counts_nothing_but_integers() {
    let database = database(BIRDS).await;
    let pool = &database.pool;
    let [low, high] = [1.0, 2.0].map(Height);
    for ends in [[i64::MIN + 1, i64::MAX - 1], [-1, 1]] {
        let deltas = [(low, ends[0]), (high, ends[1])];
        Bird::add_seen_many(pool, deltas).await.unwrap();
    }
    for beyond in [(low, -1), (high, 1)] {
        let added = Bird::add_seen_many(pool, [(Height(0.0), 1), beyond]).await;
        assert!(matches!(added, Err(CounterError::Overflow(_))), "{added:?}");
    }
    let totals = "SELECT seen FROM birds ORDER BY height";
    let totals: Vec<i64> = sqlx::query_scalar(totals).fetch_all(pool).await.unwrap();
    assert_eq!(totals, [i64::MIN, i64::MAX]);

    pool.execute("UPDATE birds SET seen = 1.5 WHERE height = 2")
        .await
        .unwrap();
    let added = Bird::add_seen_many(pool, [(Height(0.0), 1), (high, 1)]).await;
    assert!(matches!(added, Err(CounterError::Database(_))), "{added:?}");
    let seen = "SELECT group_concat(seen, ' ') FROM (SELECT seen FROM birds ORDER BY height)";
    let seen: String = sqlx::query_scalar(seen).fetch_one(pool).await.unwrap();
    assert_eq!(seen, "-9223372036854775808 1.5");
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Queue)]
#[rowlock(table = "jobs")]
struct Job {
    #[rowlock(key)]
    hash: Hash,
    #[rowlock(state)]
    state: QueueState,
    #[rowlock(run_at)]
    run_at: DateTime<Utc>,
    #[rowlock(attempts)]
    attempts: i64,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    lease: Option<DateTime<Utc>>,
    #[rowlock(last_error)]
    error: Option<String>,
}

#[tokio::test]
async fn a_job_can_have_a_blob_for_its_key_and_any_text_for_its_error() {
    let database = database(
        "CREATE TABLE jobs (hash blob PRIMARY KEY, state text NOT NULL DEFAULT 'ready', run_at timestamptz NOT NULL DEFAULT '2020-01-01 00:00:00',
             attempts bigint NOT NULL DEFAULT 0, fence bigint NOT NULL DEFAULT 0, lease timestamptz, error text);
         INSERT INTO jobs (hash) VALUES (x''), (x'00'), (x'00ff');
         INSERT INTO jobs (hash, state) VALUES ('00ff', 'running')",
    )
    .await;
    let pool = &database.pool;
    let minute = std::time::Duration::from_secs(60);
    let mut jobs = Job::claim(pool, 3).await.unwrap();
    let lost = Claimed::extend_many(pool, &mut jobs, minute).await.unwrap();
    assert_eq!(lost.len(), 0);
    let reason = "\0 \"no\\n\" \u{1} 🦀";
    jobs.remove(0).fail(pool, reason).await.unwrap();
    let lost = Claimed::complete_many(pool, jobs).await.unwrap();
    assert_eq!(lost.len(), 0);
    let error = "SELECT error FROM jobs WHERE state = 'dead'";
    let error: String = sqlx::query_scalar(error).fetch_one(pool).await.unwrap();
    assert_eq!(error, reason.replace('\0', "\u{fffd}"));
    // The digits of a blob are no blob.
    let running = "SELECT group_concat(hash) FROM jobs WHERE state = 'running'";
    let running: String = sqlx::query_scalar(running).fetch_one(pool).await.unwrap();
    assert_eq!(running, "00ff");
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Lockable)]
#[rowlock(table = "marks")]
struct Mark {
    #[rowlock(key)]
    at: f64,
    units: i64,
}

/// What SQLite would read as another number is refused, not locked or missed.
#[tokio::test]
async fn a_number_is_found_to_its_last_digit_or_refused() {
    let database =
        database("CREATE TABLE marks (at double precision PRIMARY KEY, units bigint NOT NULL)")
            .await;
    let near = [0.1, 0.1 + 0.2, 1e22, 1.0 / 3.0, f64::INFINITY];
    let far = [4.386_362_656_530_058e120, f64::MIN_POSITIVE];
    for at in near.into_iter().chain(far) {
        let insert = sqlx::query("INSERT INTO marks VALUES ($1, 1)").bind(at);
        database.pool.execute(insert).await.unwrap();
    }
    let mut tx = database.pool.begin().await.unwrap();
    assert_eq!(Mark::lock_many(&mut tx, near).await.unwrap().len(), 5);
    for at in far {
        assert_eq!(Mark::lock(&mut tx, at).await.unwrap().units, 1);
        let error = Mark::lock_many(&mut tx, [0.1, at]).await.unwrap_err();
        let error = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.contains("cannot be one of many"), "{error}");
    }
}
