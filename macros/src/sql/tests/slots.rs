//! What the statements of all derives bind, in which order, and what they return.

use std::collections::BTreeSet;

use super::*;
use crate::model::{LedgerRole, QueueRole};

/// Everything that changes the statements of the derives other than `Idempotent` and `Queue`.
fn seating() -> Model {
    model(quote! {
        #[rowlock(table = "shop.seating", unique(code))]
        struct Seating {
            #[rowlock(key)] hall: String,
            #[rowlock(key)] day: i64,
            code: String,
            title: String,
            #[rowlock(counter(min = 0))] taken: i64,
            #[rowlock(counter)] asked: i64,
            #[rowlock(version)] version: i64,
            #[rowlock(fence)] fence: Fence,
        }
    })
}

fn payment() -> Model {
    model(quote! {
        #[rowlock(table = "payments")]
        struct Payment {
            #[rowlock(key)] client: i64,
            #[rowlock(key)] key: String,
            #[rowlock(fingerprint)] request: Vec<u8>,
            #[rowlock(outcome)] receipt: Option<String>,
            #[rowlock(fence)] fence: Fence,
            #[rowlock(lease)] lease: Timestamp,
            #[rowlock(finished)] done: Option<Timestamp>,
        }
    })
}

fn job() -> Model {
    model(quote! {
        #[rowlock(table = "jobs")]
        struct Job {
            #[rowlock(key)] id: i64,
            #[rowlock(priority)] urgency: i32,
            #[rowlock(state)] state: JobState,
            #[rowlock(run_at)] run_at: Timestamp,
            #[rowlock(attempts)] attempts: i32,
            #[rowlock(fence)] fence: Fence,
            #[rowlock(lease)] lease: Option<Timestamp>,
        }
    })
}

fn job_of_tenant() -> Model {
    model(quote! {
        #[rowlock(table = "mail.jobs", pauses = "mail.pauses")]
        struct Job {
            #[rowlock(key)] tenant: String,
            #[rowlock(key)] id: i64,
            #[rowlock(state)] state: JobState,
            #[rowlock(run_at)] run_at: Timestamp,
            #[rowlock(attempts)] attempts: i64,
            #[rowlock(fence)] fence: Fence,
            #[rowlock(lease)] lease: Option<Timestamp>,
            #[rowlock(last_error)] error: Option<String>,
            #[rowlock(finished)] done: Option<Timestamp>,
        }
    })
}

fn event() -> Model {
    model(quote! {
        #[rowlock(table = "events")]
        struct Event {
            #[rowlock(key)] tenant: String,
            #[rowlock(key, sequence)] id: i64,
            #[rowlock(per)] aggregate: String,
            #[rowlock(state)] state: JobState,
            #[rowlock(run_at)] run_at: Timestamp,
            #[rowlock(attempts)] attempts: i64,
            #[rowlock(fence)] fence: Fence,
            #[rowlock(lease)] lease: Option<Timestamp>,
        }
    })
}

fn three() -> Model {
    model(quote! {
        #[rowlock(table = "mail.invoices")]
        struct Invoice {
            #[rowlock(key)] id: i64,
            #[rowlock(per(max = 3))] customer: Option<i64>,
            #[rowlock(slot)] place: Option<i16>,
            #[rowlock(state)] state: JobState,
            #[rowlock(run_at)] run_at: Timestamp,
            #[rowlock(attempts)] attempts: i64,
            #[rowlock(fence)] fence: Fence,
            #[rowlock(lease)] lease: Option<Timestamp>,
        }
    })
}

fn invoice() -> Model {
    model(quote! {
        #[rowlock(table = "invoices")]
        struct Invoice {
            #[rowlock(key)] id: i64,
            #[rowlock(per)] customer: Option<i64>,
            #[rowlock(state)] state: JobState,
            #[rowlock(run_at)] run_at: Timestamp,
            #[rowlock(attempts)] attempts: i64,
            #[rowlock(fence)] fence: Fence,
            #[rowlock(lease)] lease: Option<Timestamp>,
        }
    })
}

fn queue(model: &Model) -> queue::Queue<'_> {
    let attempts = model.queue(|role| matches!(role, QueueRole::Attempts { .. }));
    queue::Queue {
        model,
        keys: model.keys(),
        states: queue::Stored::Column(model.queue(|role| role == QueueRole::State).unwrap()),
        run_at: model.queue(|role| role == QueueRole::RunAt).unwrap(),
        attempts: attempts.unwrap(),
        fence: model.fence().unwrap(),
        lease: model.ledger(LedgerRole::Lease).unwrap(),
        last_error: model.queue(|role| role == QueueRole::LastError),
        finished: model.ledger(LedgerRole::Finished),
        per: model
            .columns
            .iter()
            .find(|column| column.per.is_some())
            .map(|column| queue::Per {
                column,
                max: column.per.unwrap(),
                slot: model.queue(|role| role == QueueRole::Slot),
                sequence: model.columns.iter().find(|column| column.sequence),
            }),
        max_attempts: 20,
    }
}

/// Every operation with its statement, if the database has one for it.
fn operations(dialect: Dialect) -> Vec<(String, Option<Statement>)> {
    let mut all = Vec::new();
    let mut add = |name: &str, statement: Option<Statement>| all.push((name.to_owned(), statement));

    let seating = seating();
    let version = seating.version().unwrap();
    add("select", Some(select(&seating, &seating.keys(), dialect)));
    add(
        "versioned::insert",
        Some(versioned::insert(&seating, Some(version), dialect)),
    );
    add(
        "versioned::update",
        Some(versioned::update(&seating, Some(version), dialect)),
    );
    add(
        "versioned::touch",
        Some(versioned::touch(&seating, Some(version), dialect)),
    );
    add(
        "versioned::save",
        Some(versioned::save(&seating, Some(version), dialect)),
    );
    add(
        "versioned::delete",
        Some(versioned::delete(&seating, Some(version), dialect)),
    );
    add(
        "versioned::many::load",
        Some(versioned::many::load(&seating, dialect)),
    );
    add(
        "versioned::many::update",
        versioned::many::update(&seating, version, dialect),
    );
    add(
        "versioned::many::update_at_once",
        versioned::many::update_at_once(&seating, version, dialect),
    );
    add(
        "versioned::many::delete",
        versioned::many::delete(&seating, version, dialect),
    );
    add(
        "versioned::many::delete_at_once",
        versioned::many::delete_at_once(&seating, version, dialect),
    );
    add(
        "versioned::many::insert",
        versioned::many::insert(&seating, Some(version), dialect),
    );
    add(
        "versioned::many::save",
        versioned::many::save(&seating, version, dialect),
    );
    add(
        "versioned::many::save_at_once",
        versioned::many::save_at_once(&seating, version, dialect),
    );
    add(
        "versioned::many::fold",
        versioned::many::fold(&seating, version, dialect),
    );
    let (bounded, free) = (seating.counters()[0], seating.counters()[1]);
    add(
        "counter::add",
        Some(counter::add(&seating, bounded, dialect)),
    );
    add(
        "counter::add_existing",
        Some(counter::add_existing(&seating, bounded, dialect)),
    );
    add(
        "counter::read",
        Some(counter::read(&seating, bounded, dialect)),
    );
    add(
        "counter::lock_batch",
        counter::lock_batch(&seating, dialect),
    );
    for (bounds, counter) in [("within bounds", bounded), ("without bounds", free)] {
        let batch = counter::add_many(&seating, counter, dialect);
        add(&format!("counter::add_many {bounds}"), Some(batch));
        let batch = counter::add_existing_many(&seating, counter, dialect);
        add(&format!("counter::add_existing_many {bounds}"), Some(batch));
        add(
            &format!("counter::fold {bounds}"),
            counter::fold(&seating, counter, dialect),
        );
        add(
            &format!("counter::fold_one {bounds}"),
            counter::fold_one(&seating, counter, dialect),
        );
    }
    add("held", held(&seating, dialect));
    let unique = &seating.unique[0];
    add(
        "find_or_create::insert",
        Some(find_or_create::insert(&seating, unique, dialect)),
    );
    add(
        "find_or_create::create",
        Some(find_or_create::create(&seating, dialect)),
    );
    add(
        "find_or_create::many::find",
        find_or_create::many::find(&seating, unique, dialect),
    );
    add(
        "find_or_create::many::find_any",
        find_or_create::many::find_any(&seating, unique, dialect),
    );
    add(
        "find_or_create::many::insert",
        find_or_create::many::insert(&seating, unique, dialect),
    );
    add(
        "find_or_create::many::insert_at_once",
        find_or_create::many::insert_at_once(&seating, unique, dialect),
    );
    add(
        "find_or_create::many::upsert",
        find_or_create::many::upsert(&seating, unique, dialect),
    );
    add(
        "find_or_create::many::upsert_at_once",
        find_or_create::many::upsert_at_once(&seating, unique, dialect),
    );
    add(
        "find_or_create::upsert",
        find_or_create::upsert(&seating, unique, dialect),
    );
    add(
        "find_or_create::update_or_create",
        find_or_create::update_or_create(&seating, unique, dialect),
    );
    add(
        "find_or_create::upsert_if",
        find_or_create::upsert_if(&seating, unique, dialect),
    );
    add(
        "find_or_create::look",
        Some(find_or_create::look(&seating, unique, dialect)),
    );
    add(
        "lockable::select",
        Some(lockable::select(&seating, dialect)),
    );
    add(
        "lockable::select_many",
        Some(lockable::select_many(&seating, dialect)),
    );
    add(
        "lockable::write_lock",
        lockable::write_lock(&seating, dialect),
    );
    add(
        "lockable::update",
        Some(lockable::update(&seating, dialect)),
    );

    add("guarded::update", Some(guarded::update(&seating, dialect)));
    add("guarded::delete", Some(guarded::delete(&seating, dialect)));
    add("guarded::look", Some(guarded::look(&seating, dialect)));
    add("guarded::exists", Some(guarded::exists(&seating, dialect)));

    let payment = payment();
    let ledger = ledger(&payment);
    add("idempotent::claim", Some(ledger.claim(dialect)));
    add("idempotent::read", Some(ledger.read(dialect)));
    add("idempotent::finish", Some(ledger.finish(dialect)));
    add("idempotent::release", Some(ledger.release(dialect)));
    add("idempotent::extend", Some(ledger.extend(dialect)));
    add("idempotent::purge", Some(ledger.purge(dialect)));

    for (key, model) in [("one column", job()), ("two columns", job_of_tenant())] {
        let queue = queue(&model);
        let mut add = |name: &str, statement: Statement| {
            add(&format!("queue::{name}, a key of {key}"), Some(statement));
        };
        add("claim", queue.claim(dialect));
        add("list_due", queue.list_due(dialect));
        add("complete", queue.complete(dialect));
        add("look", queue.look(dialect));
        add("rescue", queue.rescue(dialect));
        add("list_ended", queue.list_ended(dialect));
        add("stats", queue.stats(dialect));
        add("redrive", queue.redrive(dialect));
        add("cancel", queue.cancel(dialect));
        add("state_of", queue.state_of(dialect));
        let pauses = [
            queue.pause(dialect),
            queue.resume(dialect),
            queue.list_pauses(dialect),
        ];
        for (name, statement) in ["pause", "resume", "list_pauses"].iter().zip(pauses) {
            if let Some(statement) = statement {
                add(name, statement);
            }
        }
        add("list_dead", queue.list_dead(dialect));
        if let Some(ended_at) = queue.ended_at() {
            add("purge", queue.purge(ended_at, false, dialect));
            add("purge, also dead", queue.purge(ended_at, true, dialect));
            add("list_old", queue.list_old(ended_at, false, dialect));
        }
        add("set_aside", queue.set_aside(false, dialect));
        add("set_aside for ever", queue.set_aside(true, dialect));
        let as_written = queue::Locks::AsWritten;
        add("complete_many", queue.complete_many(as_written, dialect));
        add("settle", queue.settle(as_written, dialect));
        add("start", queue.start(as_written, dialect));
        add("extend", queue.extend(as_written, dialect));
        let in_order = queue::Locks::InOrder;
        add(
            "complete_many in order",
            queue.complete_many(in_order, dialect),
        );
        add("settle in order", queue.settle(in_order, dialect));
        add("start in order", queue.start(in_order, dialect));
        add("extend in order", queue.extend(in_order, dialect));
    }
    for (what, model) in [
        ("one per value", invoice()),
        ("three per value", three()),
        ("a sequence", event()),
    ] {
        let queue = queue(&model);
        add(&format!("queue::claim, {what}"), Some(queue.claim(dialect)));
        add(
            &format!("queue::list_due, {what}"),
            Some(queue.list_due(dialect)),
        );
    }
    all
}

/// As it is kept in the snapshot: what fills a gap is between ‹ and ›.
fn listed(statement: &Statement) -> String {
    let mut parts = statement.text.split('\u{1}');
    let mut listed = parts.next().unwrap_or_default().to_owned();
    while let (Some(gap), Some(part)) = (parts.next(), parts.next()) {
        listed.push_str(&format!("‹{gap}›{part}"));
    }
    let slots = statement.slots.iter().zip(1..);
    let slots = comma(slots, |(slot, number)| format!("${number} {slot:?}"));
    let returning = statement.returning.join(", ");
    for (what, list) in [("binds", slots), ("returns", returning)] {
        if !list.is_empty() {
            listed.push_str(&format!("\n  {what} {list}"));
        }
    }
    listed
}

/// The runtime binds by position: another order here has to be another order there.
#[test]
fn what_every_statement_binds_and_returns() {
    let [postgres, sqlite] = BOTH.map(operations);
    let mut all = String::new();
    for ((name, postgres), (_, sqlite)) in postgres.iter().zip(&sqlite) {
        let [postgres, sqlite] = [postgres, sqlite].map(|s| s.as_ref().map(listed));
        let mut add = |databases: &str, text: &str| {
            all.push_str(&format!("{name}, on {databases}\n  {text}\n\n"));
        };
        match (&postgres, &sqlite) {
            (Some(one), Some(other)) if one == other => add("both", one),
            _ => {
                add("PostgreSQL", postgres.as_deref().unwrap_or("-"));
                add("SQLite", sqlite.as_deref().unwrap_or("-"));
            }
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn every_parameter_has_its_slot_and_every_slot_its_parameter() {
    for (name, statement) in BOTH.into_iter().flat_map(operations) {
        let Some(statement) = statement else { continue };
        let text = statement.shown();
        let numbers = text.split('$').skip(1).map(|rest| {
            let end = rest.find(|next: char| !next.is_ascii_digit());
            let digits = &rest[..end.unwrap_or(rest.len())];
            digits.parse::<usize>().unwrap()
        });
        let numbers: BTreeSet<usize> = numbers.collect();
        // Rows of which each value is bound by itself come first, and after them nothing has a number.
        let after_rows = text.matches('?').count();
        if after_rows > 0 {
            assert!(matches!(statement.slots[0], Slot::Rows(_)), "{name}");
            assert_eq!(statement.slots.len(), 1 + after_rows, "{name}: {text}");
            assert_eq!(numbers, BTreeSet::new(), "{name}: {text}");
            continue;
        }
        let slots: BTreeSet<usize> = (1..=statement.slots.len()).collect();
        assert_eq!(numbers, slots, "{name}: {text}");
    }
}
