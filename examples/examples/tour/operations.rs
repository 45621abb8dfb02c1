//! Each operation twice: written by hand, and with the generated method. Compiled for both types of pool.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rowlock::redis::{Client, Mutex};
use rowlock::{
    AdvisoryLock, CounterError, FoundOrCreated, LockError, Once, UpdateError, fan_out, transaction,
};
use rowlock_examples::race::race;

use super::{Pool, impatient};
use crate::models::{
    Account, ChargeRequest, Document, NewTag, PageViews, SaleError, Show, Sku, Tag,
};
use crate::table::{Row, Table};

const TASKS: usize = 8;
/// How often each task makes its call.
const ROUNDS: usize = 25;
const CALLS: usize = TASKS * ROUNDS;

/// Each operation has two rows of its own, one per version.
const BY_HAND: i64 = 1;
const GENERATED: i64 = 2;

pub async fn run(pool: &Pool, table: &mut Table) -> Result<()> {
    table.add(edit_one_field(pool).await?);
    table.add(edit_different_fields(pool).await?);
    table.add(count(pool).await?);
    table.add(book_seats(pool).await?);
    table.add(tag(pool).await?);
    table.add(reserve(pool).await?);
    table.add(transfer(pool).await?);
    table.add(book_room(pool).await?);
    table.add(charge(pool).await?);
    table.add(run_nightly(pool).await?);
    table.add(call_all().await?);
    match std::env::var("REDIS_URL") {
        Ok(url) => table.add(run_nightly_by_redis(pool, &url).await?),
        Err(_) => table.note("Set REDIS_URL=redis://… for a row of `redis::Mutex`."),
    }
    Ok(())
}

// ---------------------------------------------------------------- Versioned

/// Every call appends one mark.
const MARK: char = '+';

async fn create_document(pool: &Pool, id: i64) -> Result<()> {
    sqlx::query("INSERT INTO documents VALUES ($1, '', '', '', '', 0)")
        .bind(id)
        .execute(pool)
        .await?;
    Ok(())
}

async fn read_by_hand(pool: &Pool) -> Result<Document> {
    let select =
        "SELECT id, title, summary, body, notes, lock_version FROM documents WHERE id = $1";
    Ok(sqlx::query_as(select).bind(BY_HAND).fetch_one(pool).await?)
}

async fn write_by_hand(pool: &Pool, document: &Document) -> Result<()> {
    sqlx::query(
        "UPDATE documents SET title = $1, summary = $2, body = $3, notes = $4 WHERE id = $5",
    )
    .bind(&document.title)
    .bind(&document.summary)
    .bind(&document.body)
    .bind(&document.notes)
    .bind(document.id)
    .execute(pool)
    .await?;
    Ok(())
}

/// The marks in all fields of a document.
async fn marks(pool: &Pool, id: i64) -> Result<usize> {
    let document = Document::load(pool, id).await?;
    let fields = [
        document.title,
        document.summary,
        document.body,
        document.notes,
    ];
    Ok(fields.concat().matches(MARK).count())
}

/// Everybody appends to the same text.
async fn edit_one_field(pool: &Pool) -> Result<Row> {
    create_document(pool, BY_HAND).await?;
    create_document(pool, GENERATED).await?;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let mut document = read_by_hand(&pool).await?;
        turn.everybody_has_read().await;
        document.body.push(MARK);
        write_by_hand(&pool, &document).await?;
        Ok(0)
    })
    .await?;

    let retries = race(TASKS, ROUNDS, pool, |pool, _| async move {
        let mut attempts = 0;
        Document::update_with(&pool, GENERATED, |document| {
            attempts += 1;
            document.body.push(MARK);
        })
        .await?;
        Ok(attempts - 1)
    })
    .await?;

    Ok(Row {
        derive: "Versioned",
        operation: "update_with",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: CALLS - marks(pool, BY_HAND).await?,
        unit: "edits",
        lost_by_rowlock: CALLS - marks(pool, GENERATED).await?,
        met: format!("{retries} retries"),
    })
}

/// One task per field. By hand, who writes the whole row undoes what the others did to the other fields.
async fn edit_different_fields(pool: &Pool) -> Result<Row> {
    const FIELDS: usize = 4;
    fn field(document: &mut Document, task: usize) -> &mut String {
        match task {
            0 => &mut document.title,
            1 => &mut document.summary,
            2 => &mut document.body,
            _ => &mut document.notes,
        }
    }
    let before = (marks(pool, BY_HAND).await?, marks(pool, GENERATED).await?);

    race(FIELDS, ROUNDS, pool, |pool, turn| async move {
        let mut document = read_by_hand(&pool).await?;
        turn.everybody_has_read().await;
        field(&mut document, turn.task).push(MARK);
        write_by_hand(&pool, &document).await?;
        Ok(0)
    })
    .await?;

    let conflicts = race(FIELDS, ROUNDS, pool, |pool, turn| async move {
        let mut edit = Document::load(&pool, GENERATED).await?.edit();
        turn.everybody_has_read().await;
        field(&mut edit, turn.task).push(MARK);
        let mut conflicts = 0;
        loop {
            match edit.save(&pool).await {
                Ok(_) => return Ok(conflicts),
                Err(UpdateError::Stale(conflict)) => {
                    conflicts += 1;
                    edit = conflict.merge()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    })
    .await?;

    let calls = FIELDS * ROUNDS;
    Ok(Row {
        derive: "Versioned",
        operation: "edit, save, merge",
        tasks: FIELDS,
        calls,
        lost_by_hand: before.0 + calls - marks(pool, BY_HAND).await?,
        unit: "edits",
        lost_by_rowlock: before.1 + calls - marks(pool, GENERATED).await?,
        met: format!("{conflicts} conflicts merged"),
    })
}

// ------------------------------------------------------------------ Counter

/// Everybody sees the same page.
async fn count(pool: &Pool) -> Result<Row> {
    sqlx::query("INSERT INTO page_views VALUES ($1, 0)")
        .bind(BY_HAND)
        .execute(pool)
        .await?;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let views: i64 = sqlx::query_scalar("SELECT views FROM page_views WHERE page_id = $1")
            .bind(BY_HAND)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        sqlx::query("UPDATE page_views SET views = $1 WHERE page_id = $2")
            .bind(views + 1)
            .bind(BY_HAND)
            .execute(&pool)
            .await?;
        Ok(0)
    })
    .await?;

    // The first call creates the row.
    race(TASKS, ROUNDS, pool, |pool, _| async move {
        PageViews::add_views(&pool, GENERATED, 1).await?;
        Ok(0)
    })
    .await?;

    let views = async |page| -> Result<usize> {
        let page = PageViews::get(pool, page).await?;
        Ok(page.map_or(0, |page| page.views).try_into()?)
    };
    Ok(Row {
        derive: "Counter",
        operation: "add_views",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: CALLS - views(BY_HAND).await?,
        unit: "views",
        lost_by_rowlock: CALLS - views(GENERATED).await?,
        met: "no retry needed".to_owned(),
    })
}

/// One show per round with fewer seats than people who want one.
async fn book_seats(pool: &Pool) -> Result<Row> {
    const SEATS: usize = 3;
    const ALL_SEATS: usize = SEATS * ROUNDS;
    // The shows of the second half are sold by the generated method.
    for show in 0..2 * ROUNDS {
        sqlx::query("INSERT INTO shows VALUES ($1, $2)")
            .bind(show as i64)
            .bind(SEATS as i32)
            .execute(pool)
            .await?;
    }

    let sold_by_hand = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let show = turn.round as i64;
        let free: i32 = sqlx::query_scalar("SELECT free_seats FROM shows WHERE id = $1")
            .bind(show)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if free == 0 {
            return Ok(0);
        }
        sqlx::query("UPDATE shows SET free_seats = free_seats - 1 WHERE id = $1")
            .bind(show)
            .execute(&pool)
            .await?;
        Ok(1)
    })
    .await?;

    let sold_by_rowlock = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let show = (ROUNDS + turn.round) as i64;
        match Show::add_free_seats(&pool, show, -1).await {
            Ok(_) => Ok(1),
            Err(CounterError::OutOfBounds(_)) => Ok(0),
            Err(error) => Err(error.into()),
        }
    })
    .await?;

    Ok(Row {
        derive: "Counter",
        operation: "add_free_seats >= 0",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: sold_by_hand.abs_diff(ALL_SEATS),
        unit: "oversold",
        lost_by_rowlock: sold_by_rowlock.abs_diff(ALL_SEATS),
        met: format!("{} out of bounds", CALLS - sold_by_rowlock),
    })
}

// ------------------------------------------------------------- FindOrCreate

/// One new tag per round, which everybody needs.
async fn tag(pool: &Pool) -> Result<Row> {
    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let slug = format!("tag-{}", turn.round);
        let found: Option<i64> =
            sqlx::query_scalar("SELECT id FROM tags_without_index WHERE slug = $1")
                .bind(&slug)
                .fetch_optional(&pool)
                .await?;
        turn.everybody_has_read().await;
        if found.is_none() {
            sqlx::query("INSERT INTO tags_without_index (slug) VALUES ($1)")
                .bind(&slug)
                .execute(&pool)
                .await?;
        }
        Ok(0)
    })
    .await?;

    let found = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let slug = format!("tag-{}", turn.round);
        match Tag::find_or_create(&pool, NewTag { slug }).await? {
            FoundOrCreated::Created(_) => Ok(0),
            FoundOrCreated::Found(_) => Ok(1),
        }
    })
    .await?;

    let duplicates = async |count_rows| -> Result<usize> {
        let rows: i64 = sqlx::query_scalar(count_rows).fetch_one(pool).await?;
        Ok(usize::try_from(rows)?.abs_diff(ROUNDS))
    };
    let created = CALLS - found;
    Ok(Row {
        derive: "FindOrCreate",
        operation: "find_or_create",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: duplicates("SELECT count(*) FROM tags_without_index").await?,
        unit: "duplicates",
        lost_by_rowlock: duplicates("SELECT count(*) FROM tags").await?,
        met: format!("{created} created, {found} found"),
    })
}

// ----------------------------------------------------------------- Lockable

/// One product per round with fewer units than buyers. A reservation and the units that are left change together.
async fn reserve(pool: &Pool) -> Result<Row> {
    const UNITS: usize = 3;
    const ALL_UNITS: usize = UNITS * ROUNDS;
    const RESERVE: &str = "INSERT INTO reservations (sku_id) VALUES ($1)";
    // The products of the second half are sold by the generated method.
    for sku in 0..2 * ROUNDS {
        sqlx::query("INSERT INTO skus VALUES ($1, $2)")
            .bind(sku as i64)
            .bind(UNITS as i64)
            .execute(pool)
            .await?;
    }

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let sku = turn.round as i64;
        let units: i64 = sqlx::query_scalar("SELECT units FROM skus WHERE id = $1")
            .bind(sku)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if units == 0 {
            return Ok(0);
        }
        sqlx::query(RESERVE).bind(sku).execute(&pool).await?;
        sqlx::query("UPDATE skus SET units = $1 WHERE id = $2")
            .bind(units - 1)
            .bind(sku)
            .execute(&pool)
            .await?;
        Ok(0)
    })
    .await?;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let id = (ROUNDS + turn.round) as i64;
        let reserve = transaction(&pool).run(async |tx| {
            let mut sku = Sku::lock(&mut *tx, id).await?;
            if sku.units > 0 {
                sqlx::query(RESERVE).bind(id).execute(&mut **tx).await?;
                sku.units -= 1;
                sku.save(&mut *tx).await?;
            }
            Ok::<_, SaleError>(0)
        });
        Ok(reserve.await?)
    })
    .await?;

    let sold = async |first: usize| -> Result<usize> {
        let sold: i64 =
            sqlx::query_scalar("SELECT count(*) FROM reservations WHERE sku_id BETWEEN $1 AND $2")
                .bind(first as i64)
                .bind((first + ROUNDS - 1) as i64)
                .fetch_one(pool)
                .await?;
        Ok(sold.try_into()?)
    };
    let sold_by_rowlock = sold(ROUNDS).await?;
    Ok(Row {
        derive: "Lockable",
        operation: "lock, save",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: sold(0).await?.abs_diff(ALL_UNITS),
        unit: "oversold",
        lost_by_rowlock: sold_by_rowlock.abs_diff(ALL_UNITS),
        met: format!("{} sold out", CALLS - sold_by_rowlock),
    })
}

/// Everybody moves money between the same two accounts, half of the tasks naming them the other way round.
async fn transfer(pool: &Pool) -> Result<Row> {
    // Two accounts per version.
    for (version, account) in [(BY_HAND, 0), (BY_HAND, 1), (GENERATED, 0), (GENERATED, 1)] {
        sqlx::query("INSERT INTO accounts VALUES ($1, 0)")
            .bind(10 * version + account)
            .execute(pool)
            .await?;
    }
    const FROM_HAND: i64 = 10 * BY_HAND;
    const FROM_GENERATED: i64 = 10 * GENERATED;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let select = "SELECT balance FROM accounts WHERE id IN ($1, $2) ORDER BY id";
        let balances: Vec<i64> = sqlx::query_scalar(select)
            .bind(FROM_HAND)
            .bind(FROM_HAND + 1)
            .fetch_all(&pool)
            .await?;
        turn.everybody_has_read().await;
        for (account, balance) in [(0, balances[0] - 1), (1, balances[1] + 1)] {
            sqlx::query("UPDATE accounts SET balance = $1 WHERE id = $2")
                .bind(balance)
                .bind(FROM_HAND + account)
                .execute(&pool)
                .await?;
        }
        Ok(0)
    })
    .await?;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let mut keys = [FROM_GENERATED, FROM_GENERATED + 1];
        if turn.task % 2 == 1 {
            keys.reverse();
        }
        // One attempt: a deadlock would be an error.
        let transfer = transaction(&pool).attempts(1).run(async |tx| {
            for mut account in Account::lock_many(&mut *tx, keys).await? {
                account.balance += if account.id == FROM_GENERATED { -1 } else { 1 };
                account.save(&mut *tx).await?;
            }
            Ok::<_, LockError>(0)
        });
        Ok(transfer.await?)
    })
    .await?;

    let moved = async |to: i64| -> Result<usize> {
        let moved: i64 = sqlx::query_scalar("SELECT balance FROM accounts WHERE id = $1")
            .bind(to)
            .fetch_one(pool)
            .await?;
        Ok(moved.try_into()?)
    };
    Ok(Row {
        derive: "Lockable",
        operation: "lock_many",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: CALLS.abs_diff(moved(FROM_HAND + 1).await?),
        unit: "transfers",
        lost_by_rowlock: CALLS.abs_diff(moved(FROM_GENERATED + 1).await?),
        met: "no deadlock".to_owned(),
    })
}

// -------------------------------------------------------------- transaction

/// One room per round, which everybody wants, and no row that could be locked or that carries a version.
async fn book_room(pool: &Pool) -> Result<Row> {
    const BOOKED: &str = "SELECT count(*) FROM bookings WHERE room_id = $1";
    const BOOK: &str = "INSERT INTO bookings (room_id) VALUES ($1)";

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let room = turn.round as i64;
        let booked: i64 = sqlx::query_scalar(BOOKED)
            .bind(room)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if booked == 0 {
            sqlx::query(BOOK).bind(room).execute(&pool).await?;
        }
        Ok(0)
    })
    .await?;

    let retries = race(
        TASKS,
        ROUNDS,
        &impatient(pool).await?,
        |pool, turn| async move {
            let room = (ROUNDS + turn.round) as i64;
            let retries = Arc::new(AtomicUsize::new(0));
            let counted = retries.clone();
            transaction(&pool)
                .serializable()
                .attempts(1000)
                .backoff(Duration::from_millis(1), Duration::from_millis(20))
                .on_retry(move |_| {
                    counted.fetch_add(1, Ordering::Relaxed);
                })
                .run(async |tx| {
                    let booked: i64 = sqlx::query_scalar(BOOKED)
                        .bind(room)
                        .fetch_one(&mut **tx)
                        .await?;
                    if booked == 0 {
                        sqlx::query(BOOK).bind(room).execute(&mut **tx).await?;
                    }
                    Ok::<_, sqlx::Error>(())
                })
                .await?;
            Ok(retries.load(Ordering::Relaxed))
        },
    )
    .await?;

    let doubled = async |first: usize| -> Result<usize> {
        let bookings: i64 =
            sqlx::query_scalar("SELECT count(*) FROM bookings WHERE room_id BETWEEN $1 AND $2")
                .bind(first as i64)
                .bind((first + ROUNDS - 1) as i64)
                .fetch_one(pool)
                .await?;
        Ok(usize::try_from(bookings)?.abs_diff(ROUNDS))
    };
    Ok(Row {
        derive: "transaction",
        operation: "serializable",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: doubled(0).await?,
        unit: "duplicates",
        lost_by_rowlock: doubled(ROUNDS).await?,
        met: format!("{retries} retries"),
    })
}

// --------------------------------------------------------------- Idempotent

/// One request per round, which an impatient client sends from all its tasks.
async fn charge(pool: &Pool) -> Result<Row> {
    const CENTS: i64 = 1250;
    const CHARGE: &str = "INSERT INTO charges (request) VALUES ($1)";

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let key = format!("by-hand-{}", turn.round);
        let done: i64 = sqlx::query_scalar("SELECT count(*) FROM charges WHERE request = $1")
            .bind(&key)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if done == 0 {
            sqlx::query(CHARGE).bind(&key).execute(&pool).await?;
        }
        Ok(0)
    })
    .await?;

    let replayed = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let key = format!("generated-{}", turn.round);
        let outcome = ChargeRequest::once(&pool, &key, &CENTS, async |tx| {
            sqlx::query(CHARGE).bind(&key).execute(&mut **tx).await?;
            Ok::<_, sqlx::Error>(CENTS)
        })
        .wait(Duration::from_secs(60));
        match outcome.await? {
            Once::Ran(CENTS) => Ok(0),
            Once::Replayed(CENTS) => Ok(1),
            other => anyhow::bail!("{other:?}"),
        }
    })
    .await?;

    let charged = async |whose: &str| -> Result<usize> {
        let charges: i64 = sqlx::query_scalar("SELECT count(*) FROM charges WHERE request LIKE $1")
            .bind(format!("{whose}-%"))
            .fetch_one(pool)
            .await?;
        Ok(usize::try_from(charges)?.abs_diff(ROUNDS))
    };
    Ok(Row {
        derive: "Idempotent",
        operation: "once",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: charged("by-hand").await?,
        unit: "charged",
        lost_by_rowlock: charged("generated").await?,
        met: format!("{replayed} replayed"),
    })
}

// ------------------------------------------------------------- AdvisoryLock

const DONE: &str = "SELECT count(*) FROM nightly_runs WHERE night = $1";
const RUN: &str = "INSERT INTO nightly_runs (night) VALUES ($1)";

/// How many jobs too many were done in the nights of all rounds.
async fn repeated(pool: &Pool, first: usize) -> Result<usize> {
    let runs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM nightly_runs WHERE night BETWEEN $1 AND $2")
            .bind(first as i64)
            .bind((first + ROUNDS - 1) as i64)
            .fetch_one(pool)
            .await?;
    Ok(usize::try_from(runs)?.abs_diff(ROUNDS))
}

/// One job per round, which everybody is told to do, and which should be done once. There is no row to lock before.
async fn run_nightly(pool: &Pool) -> Result<Row> {
    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let night = turn.round as i64;
        let done: i64 = sqlx::query_scalar(DONE)
            .bind(night)
            .fetch_one(&pool)
            .await?;
        turn.everybody_has_read().await;
        if done == 0 {
            sqlx::query(RUN).bind(night).execute(&pool).await?;
        }
        Ok(0)
    })
    .await?;

    let came_second = race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let night = (ROUNDS + turn.round) as i64;
        let lock = AdvisoryLock::of("tour: nightly", night);
        let run = lock.run(&pool, async |tx| {
            let done: i64 = sqlx::query_scalar(DONE)
                .bind(night)
                .fetch_one(&mut **tx)
                .await?;
            if done > 0 {
                return Ok(1);
            }
            sqlx::query(RUN).bind(night).execute(&mut **tx).await?;
            Ok::<_, sqlx::Error>(0)
        });
        Ok(run.await?)
    })
    .await?;

    Ok(Row {
        derive: "AdvisoryLock",
        operation: "run",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: repeated(pool, 0).await?,
        unit: "repeated",
        lost_by_rowlock: repeated(pool, ROUNDS).await?,
        met: format!("{came_second} came second"),
    })
}

// ------------------------------------------------------------- redis::Mutex

/// The same job, under a lock in Redis. By hand: look whether it is taken, take it.
async fn run_nightly_by_redis(pool: &Pool, url: &str) -> Result<Row> {
    const BY_HAND: usize = 1000;
    const GENERATED: usize = 2000;
    let client = Client::open(url)?;
    // Somebody else may use the same Redis.
    let tour = format!("tour-{}", std::process::id());
    let connection = client.get_multiplexed_async_connection().await;
    let connection = connection.context("cannot connect to the Redis of REDIS_URL")?;

    let mutex = Mutex::new(&client, tour.as_str()).timeout(Duration::from_secs(60));
    race(TASKS, ROUNDS, pool, move |pool, turn| {
        let mut redis = connection.clone();
        let key = format!("{tour}-{}", turn.round);
        async move {
            let night = (BY_HAND + turn.round) as i64;
            let holder: Option<String> =
                redis::cmd("GET").arg(&key).query_async(&mut redis).await?;
            let done: i64 = sqlx::query_scalar(DONE)
                .bind(night)
                .fetch_one(&pool)
                .await?;
            turn.everybody_has_read().await;
            if holder.is_none() && done == 0 {
                let set = redis::cmd("SET")
                    .arg(&key)
                    .arg(turn.task)
                    .arg("EX")
                    .arg(60)
                    .to_owned();
                set.exec_async(&mut redis).await?;
                sqlx::query(RUN).bind(night).execute(&pool).await?;
                redis::cmd("DEL").arg(&key).exec_async(&mut redis).await?;
            }
            Ok(0)
        }
    })
    .await?;

    let came_second = race(TASKS, ROUNDS, pool, move |pool, turn| {
        let mutex = mutex.clone();
        async move {
            let night = (GENERATED + turn.round) as i64;
            let guard = mutex.acquire().await?;
            let done: i64 = sqlx::query_scalar(DONE)
                .bind(night)
                .fetch_one(&pool)
                .await?;
            if done == 0 {
                sqlx::query(RUN).bind(night).execute(&pool).await?;
            }
            guard.release().await?;
            Ok(usize::from(done > 0))
        }
    })
    .await?;

    Ok(Row {
        derive: "redis::Mutex",
        operation: "acquire, release",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: repeated(pool, BY_HAND).await?,
        unit: "repeated",
        lost_by_rowlock: repeated(pool, GENERATED).await?,
        met: format!("{came_second} came second"),
    })
}

// ------------------------------------------------------------------ fan_out

/// A service that refuses whoever is one too many.
struct Service {
    busy: AtomicUsize,
}

impl Service {
    const PLACES: usize = 8;

    async fn call(&self) -> std::result::Result<(), &'static str> {
        let before = self.busy.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.busy.fetch_sub(1, Ordering::Relaxed);
        if before < Self::PLACES {
            Ok(())
        } else {
            Err("429 Too Many Requests")
        }
    }
}

/// No database: the calls are to somebody else's service.
async fn call_all() -> Result<Row> {
    let service = Service {
        busy: AtomicUsize::new(0),
    };
    // All of them at once.
    let naive = futures_util::future::join_all((0..CALLS).map(|_| service.call())).await;

    let limit = NonZero::new(Service::PLACES).unwrap_or(NonZero::<usize>::MIN);
    let calls = fan_out(limit)
        .call_timeout(Duration::from_secs(60))
        .collect((0..CALLS).map(|_| service.call()))
        .await;
    Ok(Row {
        derive: "fan_out",
        operation: "collect",
        tasks: 1,
        calls: CALLS,
        lost_by_hand: naive.iter().filter(|call| call.is_err()).count(),
        unit: "refused",
        lost_by_rowlock: calls.iter().filter(|call| call.outcome.is_err()).count(),
        met: format!("{limit} at a time"),
    })
}
