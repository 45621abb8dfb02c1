//! Tables that look like mistakes and are none.

use chrono::{DateTime, NaiveDate, Utc};
use rowlock::{Counter, Fence, FindOrCreate, Idempotent, Lockable, Queue, Versioned};

/// The order of an index's columns is no matter.
#[derive(Clone, sqlx::FromRow, FindOrCreate, Versioned)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(table = "swapped", unique(tenant_id, slug))]
pub struct Swapped {
    #[rowlock(key, generated)]
    id: i64,
    tenant_id: i64,
    slug: String,
    #[rowlock(version)]
    lock_version: i64,
}

/// Quoted names, and a key that has one column more than the index.
#[derive(Clone, sqlx::FromRow, Versioned, Lockable)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(table = "Order Items")]
pub struct Quoted {
    #[rowlock(key)]
    #[sqlx(rename = "tenantId")]
    tenant: i64,
    #[rowlock(key)]
    #[sqlx(rename = "order")]
    id: i64,
    #[sqlx(rename = "from")]
    since: Option<NaiveDate>,
    #[rowlock(version)]
    #[sqlx(rename = "Version")]
    version: i64,
}

/// Partial, and on expressions, which the databases write in their own way.
#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(
    table = "expressions",
    unique(
        tenant_id,
        lower(email),
        where = "deleted_at IS NULL and kind <> 'robot'"
    ),
    unique(coalesce(parent_id, 0), name)
)]
pub struct Expressions {
    tenant_id: i64,
    email: String,
    kind: String,
    parent_id: Option<i64>,
    name: String,
    deleted_at: Option<i64>,
}

/// A number that the database counts, defaults, a generated column, and columns that the model does not have.
#[derive(Clone, sqlx::FromRow, FindOrCreate)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(table = "defaults", unique(on(full_name), first, last))]
pub struct Defaults {
    #[rowlock(key, generated)]
    id: i64,
    first: String,
    last: String,
    #[rowlock(generated)]
    full_name: String,
    #[rowlock(default)]
    color: i64,
    #[rowlock(on_insert = "7")]
    size: i64,
}

/// A CHECK says that it is never NULL; bounds that a new row is within.
#[derive(Clone, sqlx::FromRow, Counter)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(table = "checked")]
pub struct Checked {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter(min = 1))]
    level: i64,
    #[rowlock(default)]
    note: String,
}

/// Of a wide table, of which it creates no rows.
#[derive(Clone, sqlx::FromRow, Versioned, Counter)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(table = "wide", existing_rows)]
pub struct Narrow {
    #[rowlock(key)]
    id: i64,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(version)]
    lock_version: i64,
}

/// Whose key is not there to find rows by, and one type that nobody here knows.
#[derive(Clone, sqlx::FromRow, Idempotent)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(table = "requests")]
pub struct Request {
    #[rowlock(key)]
    name: String,
    #[rowlock(fingerprint)]
    fingerprint: Vec<u8>,
    #[rowlock(outcome)]
    #[sqlx(json(nullable))]
    outcome: Option<Vec<i64>>,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
    #[rowlock(finished)]
    finished_at: Option<DateTime<Utc>>,
}

/// A queue as its own `ddl()` has it.
#[derive(Clone, sqlx::FromRow, Queue)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(
    table = "jobs",
    unique(kind, target, while(ready, running)),
    done = delete
)]
pub struct Job {
    #[rowlock(key, generated)]
    id: i64,
    kind: String,
    target: i64,
    #[rowlock(run_at, default)]
    run_at: DateTime<Utc>,
    #[rowlock(state)]
    state: rowlock::queue::QueueState,
    #[rowlock(attempts)]
    attempts: i32,
    #[rowlock(fence)]
    fence: Fence,
    #[rowlock(lease)]
    leased_until: Option<DateTime<Utc>>,
    #[rowlock(last_error)]
    last_error: Option<String>,
}

/// What `Option` is called by another name.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(schema = "tests/schema/lookalikes.json")]
#[rowlock(table = "aliases")]
pub struct Alias {
    #[rowlock(key)]
    id: i64,
    title: MaybeText,
    #[rowlock(version)]
    lock_version: i64,
}

pub type MaybeText = Option<String>;

pub const TABLES: &str = "
    CREATE TABLE swapped (id {id}, slug text NOT NULL, tenant_id bigint NOT NULL, lock_version bigint NOT NULL, CONSTRAINT x UNIQUE (slug, tenant_id));
    CREATE TABLE \"Order Items\" (\"tenantId\" bigint NOT NULL, \"order\" bigint NOT NULL UNIQUE, \"from\" date, \"Version\" bigint NOT NULL DEFAULT 0);
    CREATE TABLE expressions (tenant_id bigint NOT NULL, email varchar(200) NOT NULL, kind text NOT NULL, parent_id bigint, name text NOT NULL, deleted_at bigint);
    CREATE UNIQUE INDEX expressions_email ON expressions (tenant_id, lower(email)) WHERE deleted_at IS NULL AND kind != 'robot';
    CREATE UNIQUE INDEX expressions_name ON expressions (name, (COALESCE(parent_id, 0)));
    CREATE TABLE defaults (id {id}, first text NOT NULL, last text NOT NULL, full_name text GENERATED ALWAYS AS (first || ' ' || last) STORED,
        color bigint NOT NULL DEFAULT 3, size bigint NOT NULL, created_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP, note text);
    CREATE UNIQUE INDEX defaults_name ON defaults (full_name);
    CREATE TABLE checked (id bigint PRIMARY KEY, level bigint NOT NULL CHECK (level > 0), note text DEFAULT '', CHECK (note IS NOT NULL), CHECK (level < 1000 OR note = ''));
    CREATE TABLE wide (id bigint PRIMARY KEY, views bigint NOT NULL CHECK (views >= 0), lock_version bigint NOT NULL, owner bigint NOT NULL, title text NOT NULL);
    CREATE TABLE requests (name varchar(100) PRIMARY KEY, fingerprint {bytes} NOT NULL, outcome {json}, fence bigint NOT NULL, leased_until {timestamp}, finished_at {timestamp});
    CREATE TABLE jobs (id {id}, kind text NOT NULL, target bigint NOT NULL, run_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP, state text NOT NULL,
        attempts integer NOT NULL, fence bigint NOT NULL, leased_until {timestamp}, last_error text);
    CREATE UNIQUE INDEX jobs_target ON jobs (kind, target) WHERE state IN ('ready', 'running');
    CREATE TABLE aliases (id bigint PRIMARY KEY, title text, lock_version bigint NOT NULL);
";

pub mod postgres {
    use super::{Counter, DateTime, FindOrCreate, Lockable, Utc, Versioned};

    /// Types that are made of others.
    #[derive(Clone, sqlx::FromRow, FindOrCreate, Versioned)]
    #[rowlock(schema = "tests/schema/lookalikes.json")]
    #[rowlock(table = "app.domains", unique(email), backend(Postgres))]
    pub struct Domains {
        #[rowlock(key, generated)]
        id: i64,
        email: String,
        name: String,
        at: DateTime<Utc>,
        #[sqlx(json)]
        labels: Vec<String>,
        #[rowlock(version)]
        version: i64,
    }

    /// Its index has columns that it is not on; its primary key can be deferred, and finds rows all the same.
    #[derive(Clone, sqlx::FromRow, FindOrCreate, Lockable)]
    #[rowlock(schema = "tests/schema/lookalikes.json")]
    #[rowlock(
        table = "including",
        unique(parent_id, slug, nulls_not_distinct),
        backend(Postgres)
    )]
    pub struct Including {
        #[rowlock(key, generated)]
        id: i64,
        parent_id: Option<i64>,
        slug: String,
        title: String,
    }

    /// In partitions, where no index can be on the key alone.
    #[derive(Clone, sqlx::FromRow, Versioned)]
    #[rowlock(schema = "tests/schema/lookalikes.json")]
    #[rowlock(table = "partitioned", backend(Postgres))]
    pub struct Partitioned {
        #[rowlock(key)]
        id: i64,
        #[rowlock(generated)]
        at: DateTime<Utc>,
        #[rowlock(version)]
        version: rowlock::Xmin,
    }

    /// A view of a table: what it can do is known there.
    #[derive(Clone, sqlx::FromRow, Versioned)]
    #[rowlock(schema = "tests/schema/lookalikes.json")]
    #[rowlock(table = "seen", backend(Postgres))]
    pub struct Seen {
        #[rowlock(key)]
        id: i64,
        title: String,
        #[rowlock(version)]
        version: i64,
    }

    /// A trigger fills what the insert leaves out.
    #[derive(Clone, sqlx::FromRow, Counter)]
    #[rowlock(schema = "tests/schema/lookalikes.json")]
    #[rowlock(table = "triggered", backend(Postgres))]
    pub struct Triggered {
        #[rowlock(key)]
        id: i64,
        #[rowlock(counter)]
        views: i64,
    }

    pub const TABLES: &str = "
        CREATE SCHEMA app;
        CREATE EXTENSION citext WITH SCHEMA public;
        CREATE DOMAIN app.number AS bigint NOT NULL;
        CREATE DOMAIN app.name AS varchar(100) DEFAULT 'nobody';
        CREATE DOMAIN app.moment AS timestamptz(3);
        CREATE TABLE app.domains (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email public.citext NOT NULL UNIQUE, name app.name NOT NULL, at app.moment NOT NULL,
            labels jsonb NOT NULL, version app.number);
        CREATE TABLE including (id serial8 PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, parent_id bigint, slug text COLLATE \"C\" NOT NULL, title text NOT NULL);
        CREATE UNIQUE INDEX including_slug ON including (parent_id, slug) INCLUDE (title) NULLS NOT DISTINCT;
        CREATE TABLE partitioned (id bigint NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE partitioned_1 PARTITION OF partitioned FOR VALUES FROM ('2000-01-01') TO ('2100-01-01');
        CREATE TABLE seen_rows (id bigint PRIMARY KEY, title text NOT NULL, version bigint NOT NULL);
        CREATE VIEW seen AS SELECT * FROM seen_rows WHERE title <> '';
        CREATE TABLE triggered (id bigint PRIMARY KEY, views bigint NOT NULL, owner bigint NOT NULL);
        CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.owner := 1; RETURN NEW; END $$;
        CREATE TRIGGER own BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION own();
        ALTER TABLE triggered ENABLE ROW LEVEL SECURITY;
    ";
}

pub mod sqlite {
    use super::{FindOrCreate, Versioned};

    /// The column is compared as its index is; its key is the number of the row.
    #[derive(Clone, sqlx::FromRow, FindOrCreate, Versioned)]
    #[rowlock(schema = "tests/schema/lookalikes.json")]
    #[rowlock(table = "People", unique(email), backend(Sqlite))]
    pub struct Person {
        #[rowlock(key, generated)]
        rowid: i64,
        email: String,
        #[rowlock(version)]
        lock_version: i64,
    }

    /// A view of a table that is gone.
    #[derive(Clone, sqlx::FromRow, Versioned)]
    #[rowlock(schema = "tests/schema/lookalikes.json")]
    #[rowlock(table = "stale", backend(Sqlite))]
    pub struct Stale {
        #[rowlock(key)]
        id: i64,
        #[rowlock(version)]
        lock_version: i64,
    }

    /// No NOT NULL is said of its key, which has no type either.
    #[derive(Clone, sqlx::FromRow, FindOrCreate)]
    #[rowlock(schema = "tests/schema/lookalikes.json")]
    #[rowlock(table = "words", unique(word), backend(Sqlite))]
    pub struct Word {
        word: String,
        seen: i64,
        at: chrono::NaiveDateTime,
        id: sqlx::types::Uuid,
    }

    pub const TABLES: &str = "
        CREATE TABLE people (email text NOT NULL COLLATE NOCASE UNIQUE, lock_version int NOT NULL);
        CREATE TABLE old (id int, lock_version int);
        CREATE VIEW stale AS SELECT * FROM old;
        DROP TABLE old;
        CREATE TABLE words (word PRIMARY KEY, seen INT NOT NULL, at DATETIME NOT NULL, id BLOB NOT NULL) WITHOUT ROWID;
    ";
}
