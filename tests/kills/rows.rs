//! The models, and the rows of a round.

use rowlock::{Counter, FindOrCreate, Versioned};
use sqlx::PgConnection;

use crate::history;
use crate::law::{MOST, Rows};

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "views", backend(Postgres))]
pub(crate) struct Views {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    times: i64,
}

/// Of each show some seats, counted up and down.
#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "seats", backend(Postgres), existing_rows)]
pub(crate) struct Seats {
    #[rowlock(key)]
    show: i64,
    #[rowlock(counter(min = 0, max = 90))]
    taken: i32,
    #[rowlock(counter(min = 0, max = 90))]
    seats_left: i32,
}

#[derive(Debug, Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents", backend(Postgres))]
pub(crate) struct Document {
    #[rowlock(key)]
    id: i64,
    /// The numbers of the calls that have written it.
    #[sqlx(json)]
    pub(crate) calls: Vec<i64>,
    #[rowlock(version)]
    pub(crate) version: i32,
}

#[derive(Debug, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "labels", backend(Postgres))]
pub(crate) struct Label {
    #[rowlock(key, generated)]
    pub(crate) id: i64,
    #[rowlock(unique)]
    name: String,
}

/// `labels` has its index, which `find_or_create` needs; the law does not believe in it.
pub(crate) const TABLES: &str = "
    CREATE TABLE views (page bigint PRIMARY KEY, times bigint NOT NULL);
    CREATE TABLE seats (show bigint PRIMARY KEY, taken int NOT NULL, seats_left int NOT NULL);
    CREATE TABLE documents (id bigint PRIMARY KEY, calls jsonb NOT NULL, version int NOT NULL);
    CREATE TABLE labels (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE)";

/// So many keys of each kind has a round; labels are as many as are made.
pub(crate) const KEYS: i64 = 6;

/// Where they are in the tables.
pub(crate) fn key_of(round: i64, key: i64) -> i64 {
    round * KEYS + key
}

pub(crate) fn label_of(round: i64, label: i64) -> String {
    format!("{round} {label}")
}

/// Makes the rows of a round. Half of the pages are made by who comes first.
pub(crate) async fn prepare(connection: &mut PgConnection, round: i64) -> sqlx::Result<()> {
    let rows = [
        "INSERT INTO views SELECT n, 0 FROM generate_series($1, $2) AS n WHERE n % 2 = 0",
        "INSERT INTO seats SELECT n, 0, 90 FROM generate_series($1, $2) AS n",
        "INSERT INTO documents SELECT n, '[]', 0 FROM generate_series($1, $2) AS n",
    ];
    for rows in rows {
        let (first, last) = (key_of(round, 0), key_of(round, KEYS - 1));
        let rows = sqlx::query(rows).bind(first).bind(last);
        rows.execute(&mut *connection).await?;
    }
    Ok(())
}

/// What is there of a round.
pub(crate) async fn read(connection: &mut PgConnection, round: i64) -> sqlx::Result<Rows> {
    let mut found = Rows::default();
    let (first, last) = (key_of(round, 0), key_of(round, KEYS - 1));
    let views = "SELECT page, times FROM views WHERE page BETWEEN $1 AND $2";
    let views = sqlx::query_as::<_, (i64, i64)>(views)
        .bind(first)
        .bind(last);
    for (page, times) in views.fetch_all(&mut *connection).await? {
        let key = (history::Counter::Views, page - first);
        found.counters.insert(key, times);
    }
    let seats = "SELECT show, taken, seats_left FROM seats WHERE show BETWEEN $1 AND $2";
    let seats = sqlx::query_as::<_, (i64, i32, i32)>(seats)
        .bind(first)
        .bind(last);
    for (show, taken, left) in seats.fetch_all(&mut *connection).await? {
        let counters = &mut found.counters;
        counters.insert((history::Counter::Taken, show - first), taken.into());
        counters.insert((history::Counter::Left, show - first), left.into());
    }
    let documents = "SELECT id, calls, version FROM documents WHERE id BETWEEN $1 AND $2";
    let documents = sqlx::query_as::<_, Document>(documents)
        .bind(first)
        .bind(last);
    for document in documents.fetch_all(&mut *connection).await? {
        let Document { id, calls, version } = document;
        found.documents.insert(id - first, (version.into(), calls));
    }
    let labels =
        "SELECT split_part(name, ' ', 2)::bigint, id FROM labels WHERE name LIKE $1 || ' %'";
    let labels = sqlx::query_as::<_, (i64, i64)>(labels).bind(round.to_string());
    for (label, id) in labels.fetch_all(&mut *connection).await? {
        found.labels.entry(label).or_default().push(id);
    }
    Ok(found)
}

const _: () = assert!(MOST == 90, "as the models and `prepare` have it");
