//! The texts, read.

mod slots;

use proptest::prelude::*;
use quote::quote;

use super::*;
use crate::diag::Diag;
use crate::lower::lower;

const BOTH: [Dialect; 2] = Dialect::ALL;

fn model(input: proc_macro2::TokenStream) -> Model {
    let diag = Diag::new();
    let (model, _) = lower(&syn::parse2(input).unwrap(), &diag).unwrap();
    assert!(diag.finish().is_ok());
    model
}

fn page() -> Model {
    model(quote! {
        #[rowlock(table = "cms.pages", unique(site, path))]
        struct Page {
            #[rowlock(key, generated)] id: i64,
            site: i64,
            path: String,
            #[sqlx(rename = "a \"text\"")] text: String,
            #[rowlock(generated)] updated_at: i64,
            #[rowlock(default)] created_at: i64,
            #[rowlock(counter(min = 1))] views: i64,
            #[rowlock(version)] version: i64,
        }
    })
}

#[test]
fn select_names_every_column() {
    let model = page();
    assert_eq!(
        select(&model, &model.keys(), Dialect::Postgres).shown(),
        r#"SELECT "id", "site", "path", "a ""text""", "updated_at", "created_at", "views", "version" FROM "cms"."pages" WHERE "id" = $1"#
    );
}

#[test]
fn versioned_writes_what_is_the_callers_and_returns_the_rest() {
    let model = page();
    let version = model.version().unwrap();
    assert_eq!(
        versioned::update(&model, Some(version), Dialect::Postgres).shown(),
        r#"UPDATE "cms"."pages" SET "site" = $1, "path" = $2, "a ""text""" = $3, "created_at" = $4, "version" = "version" + 1 WHERE "id" = $5 AND "version" = $6 AND NOT EXISTS (SELECT 1 FROM "cms"."pages" WHERE "id" = $5 LIMIT 1 OFFSET 1) RETURNING "version", "updated_at", "views""#
    );
    assert_eq!(
        versioned::touch(&model, Some(version), Dialect::Postgres).shown(),
        r#"UPDATE "cms"."pages" SET "version" = "version" + 1 WHERE "id" = $1 AND "version" = $2 AND NOT EXISTS (SELECT 1 FROM "cms"."pages" WHERE "id" = $1 LIMIT 1 OFFSET 1) RETURNING "version", "updated_at", "views""#
    );
    let save = versioned::save(&model, Some(version), Dialect::Postgres);
    assert_eq!(save.parts()[0], r#"UPDATE "cms"."pages" SET "#);
    assert_eq!(
        save.shown(),
        versioned::touch(&model, Some(version), Dialect::Postgres).shown()
    );
    assert_eq!(
        versioned::delete(&model, Some(version), Dialect::Postgres).shown(),
        r#"DELETE FROM "cms"."pages" WHERE "id" = $1 AND "version" = $2 AND NOT EXISTS (SELECT 1 FROM "cms"."pages" WHERE "id" = $1 LIMIT 1 OFFSET 1)"#
    );
}

#[test]
fn a_version_alone_is_an_update_without_columns() {
    let model = model(quote! {
        #[rowlock(table = "locks")]
        struct Lock { #[rowlock(key)] a: i64, #[rowlock(key)] b: i64, #[rowlock(version)] v: i64 }
    });
    let version = model.version().unwrap();
    assert_eq!(
        versioned::update(&model, Some(version), Dialect::Postgres).shown(),
        r#"UPDATE "locks" SET "v" = "v" + 1 WHERE "a" = $1 AND "b" = $2 AND "v" = $3 AND NOT EXISTS (SELECT 1 FROM "locks" WHERE "a" = $1 AND "b" = $2 LIMIT 1 OFFSET 1) RETURNING "v""#
    );
}

fn seats() -> Model {
    model(quote! {
        #[rowlock(table = "shop.seats")]
        struct Seats {
            #[rowlock(key)] hall: String,
            #[rowlock(key)] day: i64,
            #[rowlock(counter)] taken: i64,
            #[rowlock(counter(min = 5))] free: i32,
            #[rowlock(version)] version: i64,
        }
    })
}

#[test]
fn counter_creates_its_row_with_what_the_others_start_at() {
    let model = seats();
    let [taken, free] = model.counters()[..] else {
        panic!("two counters");
    };
    assert_eq!(
        counter::add(&model, taken, Dialect::Postgres).shown(),
        r#"INSERT INTO "shop"."seats" ("hall", "day", "taken", "free", "version") VALUES ($1, $2, $3, 5, 0) ON CONFLICT ("hall", "day") DO UPDATE SET "taken" = "seats"."taken" + $3 WHERE "seats"."taken" BETWEEN $4 AND $5 RETURNING "taken""#
    );
    assert_eq!(
        counter::add(&model, free, Dialect::Postgres).shown(),
        r#"INSERT INTO "shop"."seats" ("hall", "day", "free", "taken", "version") VALUES ($1, $2, 5 + $3, 0, 0) ON CONFLICT ("hall", "day") DO UPDATE SET "free" = "seats"."free" + $3 WHERE "seats"."free" BETWEEN $4 AND $5 RETURNING "free""#
    );
    assert_eq!(
        counter::add_existing(&model, taken, Dialect::Postgres).shown(),
        r#"UPDATE "shop"."seats" SET "taken" = "taken" + $3 WHERE "hall" = $1 AND "day" = $2 AND "taken" BETWEEN $4 AND $5 AND NOT EXISTS (SELECT 1 FROM "shop"."seats" WHERE "hall" = $1 AND "day" = $2 LIMIT 1 OFFSET 1) RETURNING "taken""#
    );
    assert_eq!(
        counter::read(&model, taken, Dialect::Postgres).shown(),
        r#"SELECT "hall", "day", "taken" FROM "shop"."seats" WHERE "hall" = $1 AND "day" = $2"#
    );
}

const GIVEN: &str = r#"WITH "rowlock_given" ("rowlock_k1", "rowlock_k2", "rowlock_by") AS MATERIALIZED (SELECT "hall", "day", NULL::bigint FROM "shop"."seats" WHERE false UNION ALL SELECT * FROM unnest((SELECT $1), (SELECT $2), (SELECT $3::bigint[])))"#;

#[test]
fn a_batch_guards_the_totals_where_the_database_would_not() {
    let model = seats();
    let [taken, free] = model.counters()[..] else {
        panic!("two counters");
    };
    let [postgres, sqlite] = BOTH.map(|dialect| counter::add_many(&model, taken, dialect));
    assert!(!postgres.slots.contains(&Slot::Lowest));
    let given = GIVEN.replace("MATERIALIZED ", "");
    assert_eq!(
        postgres.shown(),
        format!(
            r#"{given}, "rowlock_added" AS (INSERT INTO "shop"."seats" ("hall", "day", "taken", "free", "version") SELECT "rowlock_k1", "rowlock_k2", "rowlock_by", 5, 0 FROM "rowlock_given" ORDER BY "rowlock_k1", "rowlock_k2" ON CONFLICT ("hall", "day") DO UPDATE SET "taken" = CASE WHEN "seats"."taken" IS NULL THEN "excluded"."taken" / 0 ELSE "seats"."taken" + "excluded"."taken" END RETURNING "hall", "day", "taken") SELECT array_agg("hall"), array_agg("day"), array_agg("taken") FROM "rowlock_added" HAVING sqrt(count(*) - cardinality($3::bigint[])) = 0"#
        )
    );
    assert_eq!(
        sqlite.shown(),
        r#"WITH "rowlock_given" ("rowlock_k1", "rowlock_k2", "rowlock_by") AS (VALUES ) INSERT INTO "shop"."seats" ("hall", "day", "taken", "free", "version") SELECT "rowlock_k1", "rowlock_k2", "rowlock_by", 5, 0 FROM "rowlock_given" WHERE "rowlock_by" IS NOT NULL ON CONFLICT ("hall", "day") DO UPDATE SET "taken" = "seats"."taken" + "excluded"."taken" WHERE "seats"."taken" + "excluded"."taken" BETWEEN ? AND ? RETURNING "hall", "day", "taken""#
    );
    let bounded = counter::add_many(&model, free, Dialect::Postgres);
    assert!(bounded.shown().contains(
        r#" WHERE "seats"."free"::numeric + ("excluded"."free" - 5) BETWEEN $4 AND $5 RETURNING "#
    ));
}

#[test]
fn a_batch_on_existing_rows_locks_them_in_key_order_on_postgres() {
    const HELD: &str = r#"SELECT "rowlock_k1", "rowlock_k2" FROM "shop"."seats" AS "rowlock_row" JOIN "rowlock_given" ON "rowlock_row"."hall" = "rowlock_given"."rowlock_k1" AND "rowlock_row"."day" = "rowlock_given"."rowlock_k2" ORDER BY "rowlock_k1", "rowlock_k2" FOR NO KEY UPDATE OF "rowlock_row""#;
    let model = seats();
    let taken = model.counters()[0];
    let [postgres, sqlite] = BOTH.map(|dialect| counter::add_existing_many(&model, taken, dialect));
    assert_eq!(
        postgres.shown(),
        format!(
            r#"{GIVEN}, "rowlock_held" ("rowlock_k1", "rowlock_k2") AS MATERIALIZED ({HELD}), "rowlock_added" AS (UPDATE "shop"."seats" AS "rowlock_row" SET "taken" = "rowlock_row"."taken" + "rowlock_given"."rowlock_by" FROM "rowlock_given" JOIN "rowlock_held" USING ("rowlock_k1", "rowlock_k2") WHERE "rowlock_row"."hall" = "rowlock_given"."rowlock_k1" AND "rowlock_row"."day" = "rowlock_given"."rowlock_k2" RETURNING "hall", "day", "taken") SELECT array_agg("hall"), array_agg("day"), array_agg("taken") FROM "rowlock_added" HAVING count(*) > 0"#
        )
    );
    assert_eq!(
        sqlite.shown(),
        r#"WITH "rowlock_given" ("rowlock_k1", "rowlock_k2", "rowlock_by") AS (VALUES ) UPDATE "shop"."seats" AS "rowlock_row" SET "taken" = "rowlock_row"."taken" + "rowlock_given"."rowlock_by" FROM "rowlock_given" WHERE "rowlock_by" IS NOT NULL AND "rowlock_row"."hall" = "rowlock_given"."rowlock_k1" AND "rowlock_row"."day" = "rowlock_given"."rowlock_k2" AND "rowlock_row"."taken" + "rowlock_given"."rowlock_by" BETWEEN ? AND ? RETURNING "hall", "day", "taken""#
    );
    assert_eq!(
        BOTH.map(|dialect| Some(counter::lock_batch(&model, dialect)?.shown())),
        [Some(format!("{GIVEN} {HELD}")), None]
    );
}

#[test]
fn a_value_that_may_be_a_blob_stands_in_json_twice() {
    let model = model(quote! {
        #[rowlock(table = "files")]
        struct File {
            #[rowlock(key)] owner: Uuid,
            #[rowlock(key)] name: String,
            #[rowlock(key)] hash: Vec<u8>,
            reads: i64,
        }
    });
    let many = lockable::select_many(&model, Dialect::Sqlite).shown();
    assert!(many.contains(
        "SELECT coalesce(value ->> 0, unhex(value ->> 3)), value ->> 1, coalesce(value ->> 2, unhex(value ->> 5)), key + 1 FROM json_each($1)"
    ));
}

#[test]
fn find_or_create_gives_what_is_the_callers_and_lets_the_database_fill_the_rest() {
    let model = page();
    let key = &model.unique[0];
    assert_eq!(
        find_or_create::insert(&model, key, Dialect::Postgres).shown(),
        r#"INSERT INTO "cms"."pages" ("site", "path", "a ""text""", "views", "version") VALUES ($1, $2, $3, 1, 0) ON CONFLICT ("site", "path") DO NOTHING RETURNING "id", "site", "path", "a ""text""", "updated_at", "created_at", "views", "version""#
    );
    let [postgres, sqlite] = BOTH.map(|dialect| {
        find_or_create::upsert(&model, key, dialect)
            .unwrap()
            .shown()
    });
    assert_eq!(
        postgres,
        r#"INSERT INTO "cms"."pages" ("site", "path", "a ""text""", "views", "version") VALUES ($1, $2, $3, 1, 0) ON CONFLICT ("site", "path") DO UPDATE SET "a ""text""" = "excluded"."a ""text""", "version" = "pages"."version" + CASE WHEN ROW("pages"."a ""text""")::record *= ROW("excluded"."a ""text""")::record THEN 0 ELSE 1 END WHERE "pages"."version" < $4 RETURNING "id", "site", "path", "a ""text""", "updated_at", "created_at", "views", "version""#
    );
    assert!(sqlite.contains(
        r#""version" = "pages"."version" + CASE WHEN "pages"."a ""text""" IS "excluded"."a ""text""" COLLATE BINARY THEN 0 ELSE 1 END WHERE"#
    ));
}

#[test]
fn nothing_to_overwrite_is_no_upsert() {
    let model = model(quote! {
        #[rowlock(table = "words")]
        struct Word { #[rowlock(key, generated)] id: i64, #[rowlock(unique)] word: String }
    });
    assert!(find_or_create::upsert(&model, &model.unique[0], Dialect::Postgres).is_none());
}

#[test]
fn a_lock_reads_every_column_and_many_in_key_order() {
    let page = page();
    assert_eq!(
        lockable::select_many(&page, Dialect::Postgres).shown(),
        r#"WITH "rowlock_given" ("rowlock_k1", "rowlock_n") AS MATERIALIZED (SELECT "id", NULL::bigint FROM "cms"."pages" WHERE false UNION ALL SELECT * FROM unnest((SELECT $1)) WITH ORDINALITY) SELECT "rowlock_row"."id", "rowlock_row"."site", "rowlock_row"."path", "rowlock_row"."a ""text""", "rowlock_row"."updated_at", "rowlock_row"."created_at", "rowlock_row"."views", "rowlock_row"."version", (date_part('epoch', transaction_timestamp()) * 1000000)::bigint * CASE WHEN current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN -1 ELSE 1 END AS "rowlock_began", "rowlock_n" FROM "cms"."pages" AS "rowlock_row" JOIN "rowlock_given" ON "rowlock_row"."id" = "rowlock_given"."rowlock_k1" ORDER BY "rowlock_k1""#
    );
    assert_eq!(
        lockable::select_many(&seats(), Dialect::Sqlite).shown(),
        r#"WITH "rowlock_given" ("rowlock_k1", "rowlock_k2", "rowlock_n") AS MATERIALIZED (SELECT value ->> 0, value ->> 1, key + 1 FROM json_each($1)) SELECT "rowlock_row"."hall", "rowlock_row"."day", "rowlock_row"."taken", "rowlock_row"."free", "rowlock_row"."version", "rowlock_n" FROM "shop"."seats" AS "rowlock_row" JOIN "rowlock_given" ON "rowlock_row"."hall" = "rowlock_given"."rowlock_k1" AND "rowlock_row"."day" = "rowlock_given"."rowlock_k2" ORDER BY "rowlock_row"."hall", "rowlock_row"."day""#
    );
    assert_eq!(
        BOTH.map(|dialect| Some(lockable::write_lock(&page, dialect)?.shown())),
        [
            None,
            Some(r#"UPDATE "cms"."pages" SET "id" = "id" WHERE false"#.to_owned())
        ]
    );
}

#[test]
fn a_locked_row_is_written_if_its_version_is_the_one_that_was_locked() {
    assert_eq!(
        lockable::update(&page(), Dialect::Postgres).shown(),
        r#"UPDATE "cms"."pages" SET "site" = $1, "path" = $2, "a ""text""" = $3, "created_at" = $4, "version" = "version" + 1 WHERE "id" = $5 AND "version" = $6 AND (date_part('epoch', transaction_timestamp()) * 1000000)::bigint = $7 AND NOT EXISTS (SELECT 1 FROM "cms"."pages" WHERE "id" = $5 LIMIT 1 OFFSET 1) RETURNING "version", "updated_at", "views""#
    );
    assert_eq!(
        lockable::update(&seats(), Dialect::Sqlite).shown(),
        r#"UPDATE "shop"."seats" SET "version" = "version" + 1 WHERE "hall" = $1 AND "day" = $2 AND "version" = $3 AND NOT EXISTS (SELECT 1 FROM "shop"."seats" WHERE "hall" = $1 AND "day" = $2 LIMIT 1 OFFSET 1) RETURNING "version", "taken", "free""#
    );
}

/// Neither SET nor RETURNING can be empty.
#[test]
fn a_locked_row_without_a_version_is_written_all_the_same() {
    let word = model(quote! {
        #[rowlock(table = "words")]
        struct Word { #[rowlock(key)] id: i64, #[rowlock(key)] lang: i64, word: String }
    });
    assert_eq!(
        lockable::update(&word, Dialect::Postgres).shown(),
        r#"UPDATE "words" SET "word" = $1 WHERE "id" = $2 AND "lang" = $3 AND (date_part('epoch', transaction_timestamp()) * 1000000)::bigint = $4 AND NOT EXISTS (SELECT 1 FROM "words" WHERE "id" = $2 AND "lang" = $3 LIMIT 1 OFFSET 1) RETURNING "id", "lang", (SELECT ("rowlock_old".*)::record *= ("words".*)::record FROM "words" AS "rowlock_old" WHERE "id" = $2 AND "lang" = $3)::int"#
    );
    let turn = model(quote! {
        #[rowlock(table = "turns")]
        struct Turn { #[rowlock(key)] id: i64, #[rowlock(key)] lang: i64 }
    });
    assert_eq!(
        lockable::update(&turn, Dialect::Sqlite).shown(),
        r#"UPDATE "turns" SET "id" = "id" WHERE "id" = $1 AND "lang" = $2 AND NOT EXISTS (SELECT 1 FROM "turns" WHERE "id" = $1 AND "lang" = $2 LIMIT 1 OFFSET 1) RETURNING "id", "lang""#
    );
}

/// The text that a database reads out of a quoted name, or `None` if it does not end where it should.
fn read_quoted(quoted: &str, quote: char) -> Option<String> {
    let mut rest = quoted.strip_prefix(quote)?.chars().peekable();
    let mut name = String::new();
    while let Some(next) = rest.next() {
        match next {
            next if next == quote && rest.next_if_eq(&quote).is_some() => name.push(quote),
            next if next == quote => return rest.next().is_none().then_some(name),
            other => name.push(other),
        }
    }
    None
}

proptest! {
    /// Reading the quoted name as a database does gives the name back, whatever is in it.
    #[test]
    fn any_name_survives_quoting(name in "[\"'\\\\a-z;\\PC-]{0,70}") {
        prop_assert_eq!(read_quoted(&quote(&name), '"'), Some(name));
    }

    /// The same in the quotes of SQLite, and a text beside it stays as it is.
    #[test]
    fn any_name_survives_spelling(name in "[\"'`\\\\a-z;\\PC-]{0,70}", value in "[\"'`a-z]{0,9}") {
        let sql = format!("{} = {}", quote(&name), text(&value));
        prop_assert_eq!(&Dialect::Postgres.spell(&sql), &sql);
        let spelled = Dialect::Sqlite.spell(&sql);
        let (left, right) = spelled.split_at(spelled.len() - text(&value).len());
        prop_assert_eq!(right, text(&value));
        prop_assert_eq!(read_quoted(left.strip_suffix(" = ").unwrap(), '`'), Some(name));
    }
}

fn ledger(model: &Model) -> idempotent::Ledger<'_> {
    use crate::model::LedgerRole;
    let column = |role| model.ledger(role).unwrap();
    idempotent::Ledger {
        model,
        keys: model.keys(),
        fingerprint: column(LedgerRole::Fingerprint),
        outcome: column(LedgerRole::Outcome),
        fence: model.fence().unwrap(),
        lease: column(LedgerRole::Lease),
        finished: column(LedgerRole::Finished),
    }
}

#[test]
fn a_ledger_is_claimed_by_one_statement() {
    let model = model(quote! {
        #[rowlock(table = "shop.it's")]
        struct Payment {
            #[rowlock(key)] key: String,
            #[rowlock(fingerprint)] request: Vec<u8>,
            #[rowlock(outcome)] receipt: Option<String>,
            #[rowlock(fence)] fence: Fence,
            #[rowlock(lease)] lease: Timestamp,
            #[rowlock(finished)] done: Option<Timestamp>,
        }
    });
    let ledger = ledger(&model);
    assert_eq!(
        ledger.claim(Dialect::Postgres).shown(),
        r#"WITH "rowlock_lock" AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtextextended(jsonb_build_array($1)::text, '"shop"."it''s"'::regclass::oid::bigint)) AS "rowlock_taken"), "rowlock_free" AS MATERIALIZED (SELECT 1 FROM "shop"."it's" WHERE "key" = $1 AND "done" IS NULL AND ("lease" > clock_timestamp()) IS NOT TRUE AND "request" = $2 FOR NO KEY UPDATE SKIP LOCKED), "rowlock_claimed" ("rowlock_fence", "rowlock_same") AS (INSERT INTO "shop"."it's" ("key", "request", "fence", "lease") SELECT $1, $2, (date_part('epoch', clock_timestamp()) * 1000000)::bigint, clock_timestamp() + make_interval(secs => $3) FROM "rowlock_lock" WHERE "rowlock_taken" AND (NOT EXISTS (SELECT FROM "shop"."it's" WHERE "key" = $1) OR EXISTS (SELECT FROM "rowlock_free")) ON CONFLICT ("key") DO UPDATE SET "fence" = greatest("it's"."fence" + 1, (date_part('epoch', clock_timestamp()) * 1000000)::bigint), "lease" = clock_timestamp() + make_interval(secs => $3) WHERE "it's"."done" IS NULL AND ("it's"."lease" > clock_timestamp()) IS NOT TRUE AND "it's"."request" = $2 RETURNING "fence", "key" = $1) SELECT "rowlock_fence", CASE WHEN NOT "rowlock_taken" THEN 0 WHEN "rowlock_same" THEN 1 ELSE 2 END FROM "rowlock_lock" LEFT JOIN "rowlock_claimed" ON true"#
    );
    assert_eq!(
        ledger.claim(Dialect::Sqlite).shown(),
        r#"INSERT INTO "shop"."it's" ("key", "request", "fence", "lease") VALUES ($1, $2, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000 + abs(random() % 1000), strftime('%Y-%m-%d %H:%M:%f', 'now', '+' || $3 || ' seconds')) ON CONFLICT ("key") DO UPDATE SET "fence" = max("it's"."fence" + 1, CAST((julianday('now') - 2440587.5) * 86400000 AS integer) * 1000 + abs(random() % 1000)), "lease" = strftime('%Y-%m-%d %H:%M:%f', 'now', '+' || $3 || ' seconds') WHERE "it's"."done" IS NULL AND ("it's"."lease" > strftime('%Y-%m-%d %H:%M:%f', 'now')) IS NOT TRUE AND "it's"."request" = $2 RETURNING "fence", CASE WHEN "key" = $1 THEN 1 ELSE 2 END"#
    );
    assert_eq!(
        ledger.finish(Dialect::Postgres).shown(),
        r#"UPDATE "shop"."it's" SET "receipt" = $1, "done" = clock_timestamp() WHERE "key" = $2 AND "fence" = $3 AND "done" IS NULL"#
    );
}

#[test]
fn every_write_shows_the_fence() {
    let model = model(quote! {
        #[rowlock(table = "reports", unique(name))]
        struct Report {
            #[rowlock(key, generated)] id: i64,
            name: String,
            #[rowlock(fence)] fence: Fence,
            #[rowlock(version)] version: i64,
        }
    });
    let version = model.version().unwrap();
    assert_eq!(
        versioned::update(&model, Some(version), Dialect::Postgres).shown(),
        r#"UPDATE "reports" SET "name" = $1, "version" = "version" + 1, "fence" = $4 WHERE "id" = $2 AND "version" = $3 AND "fence" <= $4 AND NOT EXISTS (SELECT 1 FROM "reports" WHERE "id" = $2 LIMIT 1 OFFSET 1) RETURNING "version""#
    );
    assert_eq!(
        versioned::touch(&model, Some(version), Dialect::Postgres).shown(),
        r#"UPDATE "reports" SET "version" = "version" + 1, "fence" = $3 WHERE "id" = $1 AND "version" = $2 AND "fence" <= $3 AND NOT EXISTS (SELECT 1 FROM "reports" WHERE "id" = $1 LIMIT 1 OFFSET 1) RETURNING "version""#
    );
    assert_eq!(
        versioned::delete(&model, Some(version), Dialect::Postgres).shown(),
        r#"DELETE FROM "reports" WHERE "id" = $1 AND "version" = $2 AND "fence" <= $3 AND NOT EXISTS (SELECT 1 FROM "reports" WHERE "id" = $1 LIMIT 1 OFFSET 1)"#
    );
    assert_eq!(
        lockable::update(&model, Dialect::Postgres).shown(),
        r#"UPDATE "reports" SET "name" = $1, "version" = "version" + 1, "fence" = $4 WHERE "id" = $2 AND "version" = $3 AND "fence" <= $4 AND (date_part('epoch', transaction_timestamp()) * 1000000)::bigint = $5 AND NOT EXISTS (SELECT 1 FROM "reports" WHERE "id" = $2 LIMIT 1 OFFSET 1) RETURNING "version""#
    );
    assert_eq!(
        find_or_create::upsert(&model, &model.unique[0], Dialect::Postgres)
            .unwrap()
            .shown(),
        r#"INSERT INTO "reports" ("name", "fence", "version") VALUES ($1, $2, 0) ON CONFLICT ("name") DO UPDATE SET "fence" = "excluded"."fence", "version" = "reports"."version" + CASE WHEN ROW("reports"."fence")::record *= ROW("excluded"."fence")::record THEN 0 ELSE 1 END WHERE "reports"."version" < $3 AND "reports"."fence" <= "excluded"."fence" RETURNING "id", "name", "fence", "version""#
    );
}
