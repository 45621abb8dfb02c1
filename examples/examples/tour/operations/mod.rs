//! Each operation twice: written by hand, and with the generated method. Compiled for both types of pool.

mod advisory_lock;
mod counter;
mod fan_out;
mod find_or_create;
mod idempotent;
mod lockable;
mod queue;
mod redis_mutex;
mod transaction;
mod versioned;

use anyhow::Result;

use super::{Db, Pool, impatient};
use crate::models::{Account, ChargeRequest, Document, Mail, PageViews, Sku, Tag};
use crate::table::Table;

const TASKS: usize = 8;
/// How often each task makes its call.
const ROUNDS: usize = 25;
const CALLS: usize = TASKS * ROUNDS;

/// Each operation has two rows of its own, one per version.
const BY_HAND: i64 = 1;
const GENERATED: i64 = 2;

pub async fn run(pool: &Pool, table: &mut Table) -> Result<()> {
    create_tables(pool).await?;
    rowlock::verify(pool, crate::models::MODELS).await?;
    table.add(versioned::edit_one_field(pool).await?);
    table.add(versioned::edit_different_fields(pool).await?);
    table.add(counter::count(pool).await?);
    table.add(counter::book_seats(pool).await?);
    table.add(counter::count_on_lanes(pool).await?);
    table.add(find_or_create::tag(pool).await?);
    table.add(lockable::reserve(pool).await?);
    table.add(lockable::transfer(pool).await?);
    table.add(transaction::book_room(pool).await?);
    table.add(idempotent::charge(pool).await?);
    table.add(queue::send_mails(pool).await?);
    table.add(advisory_lock::run_nightly(pool).await?);
    table.add(fan_out::call_all().await?);
    match std::env::var("REDIS_URL") {
        Ok(url) => table.add(redis_mutex::run_nightly_by_redis(pool, &url).await?),
        Err(_) => table.note("Set REDIS_URL=redis://… for a row of `redis::Mutex`."),
    }
    Ok(())
}

/// The tables of the models: usually in a migration.
async fn create_tables(pool: &Pool) -> Result<()> {
    let tables = [
        Document::create_table::<Db>(),
        PageViews::create_table::<Db>(),
        Tag::create_table::<Db>(),
        Sku::create_table::<Db>(),
        Account::create_table::<Db>(),
        ChargeRequest::create_table::<Db>(),
        Mail::create_table::<Db>(),
    ];
    for table in tables {
        sqlx::raw_sql(table).execute(pool).await?;
    }
    Ok(())
}
