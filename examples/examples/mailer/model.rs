//! The queue: a table of the program's own, and the struct that sqlx reads from it.

// The program looks at few of the columns.
#![allow(dead_code)]

use chrono::{DateTime, Utc};
use rowlock::queue::QueueState;
use rowlock::{CreateTable, Fence, Queue};

/// A mail that is to be sent.
#[derive(Debug, sqlx::FromRow, CreateTable, Queue)]
#[rowlock(table = "emails")]
pub struct Email {
    #[rowlock(key, generated)]
    pub id: i64,
    /// The payload: as many columns as a job needs.
    pub recipient: String,
    #[rowlock(run_at)]
    pub run_at: DateTime<Utc>,
    #[rowlock(state)]
    pub state: QueueState,
    #[rowlock(attempts(max = 4))]
    pub attempts: i32,
    #[rowlock(fence)]
    pub fence: Fence,
    #[rowlock(lease)]
    pub leased_until: Option<DateTime<Utc>>,
    #[rowlock(last_error)]
    pub last_error: Option<String>,
    #[rowlock(finished)]
    pub finished_at: Option<DateTime<Utc>>,
}

/// What the mail server has seen: a row for each time that it was handed a mail.
///
/// Nothing in this table could stop a mail from being sent twice.
pub const TABLES: &str = "
    CREATE TABLE outbox (
        email_id bigint NOT NULL, attempt int NOT NULL, process bigint NOT NULL, accepted boolean NOT NULL
    );
";

/// A mail server that refuses whoever comes for the first time, as some do to keep out spam.
pub const COME_AGAIN: &str = "greylisting.example";
/// A mail server whose mailboxes are all full.
pub const FULL: &str = "full.example";

/// Whom the mails go to: one in a hundred can never be delivered, and five not at first.
pub fn recipient(number: usize) -> String {
    let server = match number % 100 {
        0 => FULL,
        1..=5 => COME_AGAIN,
        _ => "example.org",
    };
    format!("customer-{number}@{server}")
}
