//! The models: plain structs that sqlx reads, and what makes them safe to write from several places.

// The tour does not look at every column.
#![allow(dead_code)]

use chrono::{DateTime, Utc};
use rowlock::queue::QueueState;
use rowlock::{Counter, CreateTable, FindOrCreate, Idempotent, Lockable, Queue, Versioned};

/// What has to fit the tables.
pub const MODELS: rowlock::schema::Models = rowlock::models![
    Document,
    PageViews,
    Show,
    Tag,
    Sku,
    Account,
    ChargeRequest,
    Mail
];

/// A text that several people edit.
#[derive(Debug, Clone, sqlx::FromRow, CreateTable, Versioned)]
#[rowlock(table = "documents")]
pub struct Document {
    #[rowlock(key)]
    pub id: i64,
    pub title: String,
    pub summary: String,
    pub body: String,
    pub notes: String,
    #[rowlock(version)]
    pub lock_version: i64,
}

/// How often a page was seen.
#[derive(Debug, sqlx::FromRow, CreateTable, Counter)]
#[rowlock(table = "page_views")]
pub struct PageViews {
    #[rowlock(key)]
    pub page_id: i64,
    #[rowlock(counter)]
    pub views: i64,
}

/// The seats of a show that are still free: never fewer than none.
#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "shows", existing_rows)]
pub struct Show {
    #[rowlock(key)]
    pub id: i64,
    #[rowlock(counter(min = 0))]
    pub free_seats: i32,
}

/// A tag, made up by whoever uses it first.
#[derive(Debug, sqlx::FromRow, CreateTable, FindOrCreate)]
#[rowlock(table = "tags")]
pub struct Tag {
    #[rowlock(key, generated)]
    pub id: i64,
    #[rowlock(unique)]
    pub slug: String,
}

/// Units of a product that can be reserved.
#[derive(Debug, sqlx::FromRow, CreateTable, Lockable)]
#[rowlock(table = "skus")]
pub struct Sku {
    #[rowlock(key)]
    pub id: i64,
    pub units: i64,
}

/// What can go wrong in a transaction that reserves: its sources tell `transaction` whether to run it again.
#[derive(Debug, thiserror::Error)]
pub enum SaleError {
    #[error("cannot lock the product")]
    Lock(#[from] rowlock::row::LockError),
    #[error("cannot write the reservation")]
    Reservation(#[from] sqlx::Error),
}

/// An account that money is moved from and to.
#[derive(Debug, sqlx::FromRow, CreateTable, Lockable)]
#[rowlock(table = "accounts")]
pub struct Account {
    #[rowlock(key)]
    pub id: i64,
    pub balance: i64,
}

/// What became of a request to charge somebody, under the key that the client sent with it.
#[derive(Debug, sqlx::FromRow, CreateTable, Idempotent)]
#[rowlock(table = "charge_requests")]
pub struct ChargeRequest {
    #[rowlock(key)]
    pub key: String,
    #[rowlock(fingerprint)]
    pub fingerprint: String,
    /// How many cents were charged.
    #[rowlock(outcome)]
    pub charged: Option<i64>,
    #[rowlock(fence)]
    pub fence: rowlock::Fence,
    #[rowlock(lease)]
    pub leased_until: DateTime<Utc>,
    #[rowlock(finished)]
    pub finished_at: Option<DateTime<Utc>>,
}

/// A mail that is to be sent by one task, whichever comes first.
#[derive(Debug, sqlx::FromRow, CreateTable, Queue)]
#[rowlock(table = "mails")]
pub struct Mail {
    #[rowlock(key)]
    pub id: i64,
    #[rowlock(run_at)]
    pub run_at: DateTime<Utc>,
    #[rowlock(state)]
    pub state: QueueState,
    #[rowlock(attempts)]
    pub attempts: i32,
    #[rowlock(fence)]
    pub fence: rowlock::Fence,
    #[rowlock(lease)]
    pub leased_until: Option<DateTime<Utc>>,
}

/// The tables of no model, and one whose seats can be sold twice by hand: with the CHECK of `create_table` they could not. `{id}` stands for a
/// key that the database makes up.
pub const TABLES: &str = "
    CREATE TABLE shows (id bigint PRIMARY KEY, free_seats int NOT NULL);
    CREATE TABLE reservations (id {id}, sku_id bigint NOT NULL);
    CREATE TABLE bookings (id {id}, room_id bigint NOT NULL);
    CREATE TABLE charges (id {id}, request text NOT NULL);
    CREATE TABLE nightly_runs (id {id}, night bigint NOT NULL);
    CREATE TABLE sent_mails (id {id}, mail_id bigint NOT NULL);
    CREATE TABLE tags_without_index (id {id}, slug text NOT NULL);
";
