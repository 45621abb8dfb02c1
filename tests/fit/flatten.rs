//! `#[sqlx(flatten)]`: the columns of another struct, through every derive.

use rowlock::idempotent::Once;
use rowlock::row::{FoundOrCreated, GuardError, UpdateError};
use rowlock::{Counter, Fence, FindOrCreate, Guarded, Idempotent, Lockable, Queue};
use rowlock::{Versioned, transaction};

use super::{Db, database};

type Timestamp = chrono::DateTime<chrono::Utc>;

/// A key of two columns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
struct Id {
    tenant: i64,
    number: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
struct Address {
    street: String,
    #[sqlx(rename = "postcode")]
    zip: String,
    city: Option<String>,
    #[sqlx(json)]
    tags: Vec<String>,
    #[sqlx(flatten)]
    point: Point,
    #[sqlx(skip)]
    shown: bool,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
struct Point {
    north: i64,
    to_east: i64,
}

/// What the database makes up.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
struct Made {
    length: i32,
    #[sqlx(rename = "isNorth")]
    is_north: bool,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Guarded, Lockable, FindOrCreate)]
#[rowlock(table = "people", unique(street, zip), unique(tenant, number))]
#[sqlx(rename_all = "camelCase")]
struct Person {
    #[sqlx(flatten)]
    #[rowlock(key, columns(tenant: i64, number: i64))]
    id: Id,
    full_name: String,
    /// Where the letters go.
    #[sqlx(flatten)]
    #[rowlock(columns(
        street: String,
        #[sqlx(rename = "postcode")]
        zip: String,
        city: Option<String>,
        #[sqlx(json)]
        tags: Vec<String>,
        #[sqlx(flatten)]
        #[rowlock(columns(north: i64, to_east: i64))]
        point: Point,
        #[sqlx(skip)]
        shown: bool,
    ))]
    address: Address,
    #[sqlx(flatten)]
    #[rowlock(generated, columns(length: i32, #[sqlx(rename = "isNorth")] is_north: bool))]
    made: Made,
    #[rowlock(version)]
    version: i64,
}

const PEOPLE: &str = r#"CREATE TABLE people (
        tenant bigint NOT NULL,
        number bigint NOT NULL,
        "fullName" text NOT NULL,
        street text NOT NULL,
        postcode text NOT NULL DEFAULT '',
        city text,
        tags {json} NOT NULL DEFAULT '[]',
        north bigint NOT NULL DEFAULT 0,
        to_east bigint NOT NULL DEFAULT 0,
        length integer GENERATED ALWAYS AS (length(street)) STORED,
        "isNorth" boolean GENERATED ALWAYS AS (north > 0) STORED,
        version bigint NOT NULL DEFAULT 0,
        visits bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (tenant, number),
        UNIQUE (street, postcode)
    )"#;

fn address(street: &str) -> Address {
    Address {
        street: street.to_owned(),
        zip: "12345".to_owned(),
        city: None,
        tags: vec!["a".to_owned()],
        point: Point {
            north: -1,
            to_east: 2,
        },
        shown: false,
    }
}

fn new(number: i64, street: &str) -> NewPerson {
    NewPerson {
        id: Id { tenant: 1, number },
        full_name: "Ann".to_owned(),
        address: address(street),
    }
}

fn made(length: i32, is_north: bool) -> Made {
    Made { length, is_north }
}

#[tokio::test]
async fn versioned() {
    let database = database(PEOPLE).await;
    let pool = &database.pool;
    let person = Person {
        id: Id {
            tenant: 1,
            number: 7,
        },
        full_name: "Ann".to_owned(),
        address: address("Elm"),
        made: made(-1, true),
        version: 9,
    };
    let inserted = person.insert(pool).await.unwrap();
    assert_eq!(inserted.address, address("Elm"));
    assert_eq!((&inserted.made, inserted.version), (&made(3, false), 0));
    assert_eq!(Person::load(pool, (1, 7)).await.unwrap(), inserted);

    // Only the changed columns are written, and what the database made of them is read back.
    let mut edit = inserted.edit();
    edit.address.city = Some("Bonn".to_owned());
    edit.address.tags.clear();
    edit.address.point.north = 5;
    assert_eq!(edit.changed_fields(), ["city", "tags", "north"]);
    let saved = edit.save(pool).await.unwrap();
    assert_eq!(saved.made, made(3, true));
    assert_eq!(saved.address.city.as_deref(), Some("Bonn"));
    assert_eq!(saved.reload(pool).await.unwrap(), saved);

    let mut all = saved.clone();
    all.address = address("Oak Lane");
    let updated = all.update(pool).await.unwrap();
    assert_eq!((&updated.made, updated.version), (&made(8, false), 2));
    assert_eq!(Person::load(pool, (1, 7)).await.unwrap(), updated);

    // What nobody else changed is merged, in the flattened struct too.
    let mut mine = saved.edit();
    mine.address.zip = "54321".to_owned();
    let Err(UpdateError::Stale(conflict)) = mine.save(pool).await else {
        panic!("it was written");
    };
    let changed = ["street", "city", "tags", "north"];
    assert_eq!(conflict.changed_fields(), changed);
    let merged = conflict.merge().unwrap().save(pool).await.unwrap();
    let both = (merged.address.street.as_str(), merged.address.zip.as_str());
    assert_eq!(both, ("Oak Lane", "54321"));
    merged.delete(pool).await.unwrap();
}

#[tokio::test]
async fn guarded() {
    let database = database(PEOPLE).await;
    let pool = &database.pool;
    Person::create_by_street_and_zip(pool, new(7, "Elm"))
        .await
        .unwrap();
    let to_bonn = async |condition| {
        Person::update_if(pool, (1, 7), condition, |row| {
            row.set(Person::CITY, Some("Bonn".to_owned()));
            row.set(Person::NORTH, 3);
            row.set(Person::TAGS, sqlx::types::Json(vec![]));
        })
        .await
    };
    let condition = || Person::CITY.is_null().and(Person::ZIP.eq("12345"));
    let updated = to_bonn(condition()).await.unwrap();
    assert_eq!(updated.address.city.as_deref(), Some("Bonn"));
    assert_eq!(updated.made, made(3, true));
    let refused = to_bonn(condition()).await;
    let Err(GuardError::Refused(refused)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refused.current, updated);
    let deleted = Person::delete_if(pool, (1, 7), Person::IS_NORTH.eq(true));
    assert_eq!(deleted.await.unwrap(), updated);
}

#[tokio::test]
async fn find_or_create() {
    let database = database(PEOPLE).await;
    let pool = &database.pool;
    let created = Person::find_or_create_by_street_and_zip(pool, new(1, "Elm")).await;
    let Ok(FoundOrCreated::Created(created)) = created else {
        panic!("{created:?}");
    };
    assert_eq!(created.address, address("Elm"));
    let found = Person::find_or_create_by_tenant_and_number(pool, new(1, "Oak")).await;
    assert!(matches!(found, Ok(FoundOrCreated::Found(row)) if row == created));
    let found = Person::find_by_street_and_zip(pool, "Elm", "12345").await;
    assert_eq!(found.unwrap(), Some(created.clone()));

    let mut again = new(1, "Oak");
    again.address.city = Some("Bonn".to_owned());
    let upserted = Person::upsert_by_tenant_and_number(pool, again.clone())
        .await
        .unwrap();
    assert_eq!((&upserted.address, upserted.version), (&again.address, 1));
    let condition = Person::CITY.eq(Some("Rome".to_owned()));
    let refused = Person::upsert_if_by_tenant_and_number(pool, new(1, "Ash"), condition).await;
    assert!(matches!(refused, Ok(rowlock::row::Upserted::Refused(row)) if row == upserted));
}

#[tokio::test]
async fn lockable() {
    let database = database(PEOPLE).await;
    let pool = &database.pool;
    for number in [1, 2] {
        let new = new(number, &format!("Elm {number}"));
        Person::create_unless_conflict(pool, new).await.unwrap();
    }
    transaction(pool)
        .run(async |tx| -> Result<_, rowlock::Error> {
            let mut locked = Person::lock(&mut *tx, (1, 2)).await?;
            locked.address.point.north = 1;
            locked.save(&mut *tx).await?;
            assert_eq!(locked.made, made(5, true));
            let many = Person::lock_many(&mut *tx, [(1, 2), (1, 1)]).await?;
            let numbers: Vec<i64> = many.iter().map(|row| row.id.number).collect();
            assert_eq!(numbers, [1, 2]);
            let north = Person::lock_where(&mut *tx, Person::NORTH.gt(0)).await?;
            assert_eq!(north.len(), 1);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn checked_columns() {
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
    struct Place {
        street: String,
        city: Option<String>,
    }
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
    #[rowlock(table = "people")]
    struct Checked {
        #[sqlx(flatten)]
        #[rowlock(key, columns(tenant: i64, number: i64))]
        id: Id,
        #[sqlx(flatten)]
        #[rowlock(check, columns(street: String, city: Option<String>))]
        place: Place,
    }
    let database = database(PEOPLE).await;
    let pool = &database.pool;
    Person::create_unless_conflict(pool, new(7, "Elm"))
        .await
        .unwrap();
    let row = Checked::load(pool, (1, 7)).await.unwrap();
    let mut mine = row.edit();
    mine.place.street = "Oak".to_owned();
    let mut other = row.edit();
    other.place.city = Some("Bonn".to_owned());
    let other = other.save(pool).await.unwrap();
    assert_eq!(other.place.city.as_deref(), Some("Bonn"));
    let lost = mine.save(pool).await;
    assert!(matches!(lost, Err(UpdateError::Stale(_))), "{lost:?}");
}

#[tokio::test]
async fn what_a_new_row_gets() {
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
    struct Point {
        north: i64,
        to_east: i64,
    }
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
    struct Where {
        street: String,
        city: Option<String>,
    }
    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
    #[rowlock(table = "people", unique(tenant, number), new = "PersonDraft")]
    struct Defaults {
        #[sqlx(flatten)]
        #[rowlock(key, columns(tenant: i64, number: i64))]
        id: Id,
        #[sqlx(rename = "fullName")]
        name: String,
        #[sqlx(flatten)]
        #[rowlock(insert_only, columns(street: String, city: Option<String>))]
        place: Where,
        #[sqlx(flatten)]
        #[rowlock(default, columns(north: i64, to_east: i64))]
        point: Point,
    }
    let database = database(PEOPLE).await;
    let pool = &database.pool;
    let draft = |street: &str| PersonDraft {
        id: Id {
            tenant: 1,
            number: 1,
        },
        name: street.to_owned(),
        place: Where {
            street: street.to_owned(),
            city: None,
        },
    };
    let created = Defaults::upsert(pool, draft("Elm")).await.unwrap();
    assert_eq!(
        created.point,
        Point {
            north: 0,
            to_east: 0
        }
    );
    let kept = Defaults::upsert(pool, draft("Oak")).await.unwrap();
    assert_eq!(
        (kept.name.as_str(), kept.place.street.as_str()),
        ("Oak", "Elm")
    );
}

#[tokio::test]
async fn counter() {
    #[derive(Debug, sqlx::FromRow)]
    struct Place {
        north: i64,
        city: Option<String>,
    }
    #[derive(Debug, sqlx::FromRow, Counter)]
    #[rowlock(table = "visits")]
    struct Visits {
        #[sqlx(flatten)]
        #[rowlock(key, columns(tenant: i64, number: i64))]
        id: Id,
        #[rowlock(counter(max = 5))]
        visits: i64,
        #[sqlx(flatten)]
        #[rowlock(default, columns(north: i64, city: Option<String>))]
        place: Place,
    }
    let schema = "CREATE TABLE visits (tenant bigint, number bigint, visits bigint NOT NULL, north bigint NOT NULL DEFAULT 4,
         city text DEFAULT 'Bonn', PRIMARY KEY (tenant, number))";
    let database = database(schema).await;
    let pool = &database.pool;
    assert_eq!(Visits::add_visits(pool, (1, 7), 2).await.unwrap(), 2);
    let totals = Visits::add_visits_many(pool, [((1, 7), 1), ((1, 8), 1)]).await;
    assert_eq!(totals.unwrap(), [((1, 7), 3), ((1, 8), 1)]);
    let row = Visits::get(pool, (1, 7)).await.unwrap().unwrap();
    assert_eq!((row.id.number, row.visits, row.place.north), (7, 3, 4));
    assert_eq!(row.place.city.as_deref(), Some("Bonn"));
}

#[tokio::test]
async fn queue() {
    #[derive(Debug, sqlx::FromRow)]
    struct Letter {
        recipient: String,
        #[sqlx(json)]
        pages: Vec<String>,
    }
    #[derive(Debug, sqlx::FromRow, Queue)]
    #[rowlock(table = "letters")]
    struct Job {
        #[sqlx(flatten)]
        #[rowlock(key, columns(tenant: i64, number: i64))]
        id: Id,
        #[sqlx(flatten)]
        #[rowlock(columns(recipient: String, #[sqlx(json)] pages: Vec<String>))]
        letter: Letter,
        #[rowlock(run_at)]
        run_at: Timestamp,
        #[rowlock(state)]
        state: rowlock::queue::QueueState,
        #[rowlock(attempts(max = 3))]
        attempts: i32,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(lease)]
        leased_until: Option<Timestamp>,
    }
    let schema = "CREATE TABLE letters (tenant bigint NOT NULL, number bigint NOT NULL, recipient text NOT NULL, pages {json} NOT NULL,
             run_at {timestamp} NOT NULL DEFAULT CURRENT_TIMESTAMP, state text NOT NULL DEFAULT 'ready', attempts int NOT NULL DEFAULT 0,
             fence bigint NOT NULL DEFAULT 0, leased_until {timestamp}, PRIMARY KEY (tenant, number));
         INSERT INTO letters (tenant, number, recipient, pages) VALUES (1, 2, 'Ann', '[\"x\"]'), (1, 1, 'Bob', '[]'), (1, 3, 'Cy', '[]')";
    let database = database(schema).await;
    let pool = &database.pool;
    let claimed = Job::claim(pool, 3).await.unwrap();
    let numbers: Vec<i64> = claimed.iter().map(|job| job.id.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let mut claimed = claimed.into_iter();
    let first = claimed.next().unwrap();
    assert_eq!(first.letter.recipient, "Bob");
    first.complete(pool).await.unwrap();
    let second = claimed.next().unwrap();
    assert_eq!(second.letter.pages, ["x"]);
    second.retry(pool, "later").await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM letters WHERE state <> 'done'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(left, 2);
}

#[tokio::test]
async fn idempotent() {
    #[derive(Debug, sqlx::FromRow)]
    struct Request {
        tenant: i64,
        key: String,
    }
    #[derive(Debug, sqlx::FromRow)]
    struct Made {
        created_at: Timestamp,
        origin: Option<String>,
    }
    #[derive(Debug, sqlx::FromRow, Idempotent)]
    #[rowlock(table = "payments")]
    struct Payment {
        #[sqlx(flatten)]
        #[rowlock(key, columns(tenant: i64, key: String))]
        id: Request,
        #[rowlock(fingerprint)]
        request: Vec<u8>,
        #[rowlock(outcome)]
        receipt: Option<i64>,
        #[rowlock(fence)]
        fence: Fence,
        #[rowlock(lease)]
        leased_until: Timestamp,
        #[rowlock(finished)]
        finished_at: Option<Timestamp>,
        #[sqlx(flatten)]
        #[rowlock(default, columns(created_at: Timestamp, origin: Option<String>))]
        made: Made,
    }
    let schema = "CREATE TABLE payments (tenant bigint NOT NULL, key text NOT NULL, request {bytes} NOT NULL, receipt bigint,
             fence bigint NOT NULL, leased_until {timestamp} NOT NULL, finished_at {timestamp},
             created_at {timestamp} NOT NULL DEFAULT ({now}), origin text, PRIMARY KEY (tenant, key))";
    let database = database(schema).await;
    let pool = &database.pool;
    let pay = async |_: &mut rowlock::Tx<Db>| -> Result<i64, sqlx::Error> { Ok(5) };
    let ran = Payment::once(pool, (1, "k"), "five", pay).await.unwrap();
    assert_eq!(ran, Once::Ran(5));
    let again = Payment::once(pool, (1, "k"), "five", pay).await.unwrap();
    assert_eq!(again, Once::Replayed(5));
    let row: Payment = sqlx::query_as("SELECT * FROM payments")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!((row.id.tenant, row.id.key.as_str()), (1, "k"));
}
