//! Types of keys and of columns: each through every derive that finds, compares, writes and locks by it.

use rowlock::row::{GuardError, LoadError};
use rowlock::{Fault, FindOrCreate, Guarded, Lockable, Versioned};

use super::{Database, database};

pub(super) async fn things(key: &str, column: &str) -> Database {
    let columns = format!(
        "id {key} PRIMARY KEY, value {column} NOT NULL, maybe {column}, version bigint NOT NULL DEFAULT 0"
    );
    database(&format!("{} CREATE TABLE things ({columns})", super::TYPES)).await
}

/// A model with this type as its key and in its columns, or only in its columns, and what its methods do with two different values.
macro_rules! of_types {
    (on $db:ident; $($name:ident: $ty:ty as $sql:literal by $given:ident, $one:expr, $two:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Guarded, Lockable, FindOrCreate)]
            #[rowlock(table = "things", backend($db))]
            struct Thing {
                #[rowlock(key, unique)]
                id: $ty,
                value: $ty,
                maybe: Option<$ty>,
                #[rowlock(version)]
                version: i64,
            }
            #[derive(sqlx::FromRow, Counter)]
            #[rowlock(table = "things", backend($db), existing_rows)]
            struct Tally {
                #[rowlock(key)]
                id: $ty,
                #[rowlock(counter)]
                version: i64,
            }
            let (one, two): ($ty, $ty) = ($one, $two);
            let database = things($sql, $sql).await;
            let pool = &database.pool;
            let new = |id: &$ty| NewThing { id: id.clone(), value: one.clone(), maybe: None };
            for id in [&one, &two] {
                let created = Thing::find_or_create(pool, new(id)).await.unwrap();
                assert!(matches!(created, FoundOrCreated::Created(_)));
                let found = Thing::find_or_create(pool, new(id)).await.unwrap();
                assert!(matches!(found, FoundOrCreated::Found(_)), "{found:?}");
            }
            let loaded = Thing::load(pool, one.$given()).await.unwrap();
            assert_eq!((&loaded.id, &loaded.value, &loaded.maybe), (&one, &one, &None));
            let mut edit = loaded.edit();
            edit.value = two.clone();
            edit.maybe = Some(two.clone());
            assert_eq!(edit.changed_fields(), ["value", "maybe"]);
            let saved = edit.save(pool).await.unwrap();
            assert_eq!((&saved.value, saved.version), (&two, 1));
            // Nothing changes if nothing was changed.
            assert_eq!(saved.edit().save(pool).await.unwrap(), saved);

            let set = Thing::update_if(pool, one.$given(), Thing::VALUE.eq(two.clone()), |row| {
                row.set(Thing::MAYBE, None);
                row.set(Thing::VALUE, one.clone());
            });
            assert_eq!(set.await.unwrap().value, one);
            let refused = Thing::delete_if(pool, one.$given(), Thing::VALUE.ne(Thing::ID)).await;
            assert!(matches!(refused, Err(GuardError::Refused(_))), "{refused:?}");

            let upserted = Thing::upsert(pool, NewThing { maybe: Some(one.clone()), ..new(&two) });
            assert_eq!(upserted.await.unwrap().maybe, Some(one.clone()));
            let locked = transaction(pool)
                .run(async |tx| -> Result<_, rowlock::Error> {
                    let mut locked = Thing::lock(&mut *tx, two.$given()).await?;
                    locked.value = two.clone();
                    locked.save(&mut *tx).await?;
                    let both = Thing::lock_many(&mut *tx, [two.$given(), one.$given()]).await?;
                    Ok(both.len())
                })
                .await;
            assert_eq!(locked.unwrap(), 2);
            let deltas = [(one.$given(), 1), (two.$given(), 1)];
            let mut totals = Tally::add_version_many(pool, deltas).await.unwrap();
            totals.sort_by_key(|(id, _)| *id != one);
            assert_eq!(totals.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&one, &two]);
            for (id, total) in totals {
                assert_eq!(Tally::get(pool, id.$given()).await.unwrap().unwrap().version, total);
            }

            #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
            #[rowlock(table = "things", backend($db))]
            struct Compared {
                #[rowlock(key)]
                id: $ty,
                #[rowlock(check)]
                value: $ty,
                #[rowlock(check)]
                maybe: Option<$ty>,
            }
            // What is read is equal to what is stored, NULL too.
            let mut edit = Compared::load(pool, two.$given()).await.unwrap().edit();
            edit.maybe = None;
            let mut edit = edit.save(pool).await.unwrap().edit();
            edit.value = one.clone();
            let saved = edit.save(pool).await.unwrap();
            assert_eq!((&saved.value, &saved.maybe), (&one, &None));
            let lost = edit.save(pool).await;
            assert!(matches!(lost, Err(UpdateError::Stale(_))), "{lost:?}");
            saved.delete(pool).await.unwrap();
            saved.insert(pool).await.unwrap();

            assert!(Thing::exists(pool, two.$given()).await.unwrap());
            assert!(Thing::delete_by_key(pool, two.$given()).await.unwrap().is_some());
        }
    )*};
}

/// The same of a type that is no key: arrays, ranges, documents.
macro_rules! of_columns {
    (on $db:ident; $($name:ident: $ty:ty as $sql:literal, $one:expr, $two:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Guarded, FindOrCreate)]
            #[rowlock(table = "things", backend($db))]
            struct Thing {
                #[rowlock(key, unique)]
                id: i64,
                value: $ty,
                maybe: Option<$ty>,
                #[rowlock(version)]
                version: i64,
            }
            let (one, two): ($ty, $ty) = ($one, $two);
            let database = things("bigint", $sql).await;
            let pool = &database.pool;
            let new = NewThing { id: 1, value: one.clone(), maybe: None };
            let created = Thing::find_or_create(pool, new).await.unwrap();
            assert!(matches!(created, FoundOrCreated::Created(_)));
            let mut edit = Thing::load(pool, 1).await.unwrap().edit();
            edit.value = two.clone();
            edit.maybe = Some(one.clone());
            let saved = edit.save(pool).await.unwrap();
            assert_eq!((&saved.value, &saved.maybe, saved.version), (&two, &Some(one.clone()), 1));
            assert_eq!(saved.edit().save(pool).await.unwrap(), saved);
            let set = Thing::update_if(pool, 1, Thing::VALUE.eq(two.clone()), |row| {
                row.set(Thing::MAYBE, None);
                row.set(Thing::VALUE, one.clone());
            });
            assert_eq!(set.await.unwrap().value, one);
            let refused = Thing::delete_if(pool, 1, Thing::VALUE.ne(one.clone())).await;
            assert!(matches!(refused, Err(GuardError::Refused(_))), "{refused:?}");
            let upserted = Thing::upsert(pool, NewThing { id: 1, value: one.clone(), maybe: Some(two.clone()) });
            assert_eq!(upserted.await.unwrap().maybe, Some(two.clone()));
        }
    )*};
}
pub(super) use {of_columns, of_types};

/// A number that sqlx makes of another one, which can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
struct Percent(i64);

#[derive(Debug, thiserror::Error)]
#[error("{0} is no percentage")]
struct NoPercentage(i64);

impl TryFrom<i64> for Percent {
    type Error = NoPercentage;
    fn try_from(number: i64) -> Result<Self, NoPercentage> {
        match number {
            0..=100 => Ok(Self(number)),
            _ => Err(NoPercentage(number)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Guarded, Lockable, FindOrCreate)]
#[rowlock(table = "things")]
struct Share {
    #[rowlock(key, unique)]
    #[sqlx(try_from = "i64")]
    id: Percent,
    #[sqlx(try_from = "i64")]
    value: Percent,
    #[rowlock(version)]
    version: i64,
}

/// What is read goes through it, and what is written is the field itself.
#[tokio::test]
async fn a_field_that_is_made_by_try_from() {
    let database = things("bigint", "bigint").await;
    let pool = &database.pool;
    let new = |value| NewShare {
        id: Percent(1),
        value: Percent(value),
    };
    let created = Share::find_or_create(pool, new(5)).await.unwrap();
    assert!(created.is_created());
    let mut edit = Share::load(pool, Percent(1)).await.unwrap().edit();
    edit.value = Percent(6);
    let saved = edit.save(pool).await.unwrap();
    assert_eq!((saved.value, saved.version), (Percent(6), 1));
    let six = Share::VALUE.eq(Percent(6));
    let set = Share::update_if(pool, Percent(1), six, |row| {
        row.set(Share::VALUE, Percent(7));
    });
    assert_eq!(set.await.unwrap().value, Percent(7));
    let seven = Share::VALUE.lt(Percent(8));
    let upserted = Share::upsert_if(pool, new(8), seven).await.unwrap();
    assert_eq!(upserted.written().unwrap().value, Percent(8));
    let mut tx = pool.begin().await.unwrap();
    let mut locked = Share::lock(&mut tx, Percent(1)).await.unwrap();
    locked.value = Percent(9);
    locked.save(&mut tx).await.unwrap();
    tx.commit().await.unwrap();

    // What does not fit is told: of a read, and of a write that took effect.
    let wrong = Share::patch(pool, Percent(1), |row| row.set(Share::VALUE, Percent(101))).await;
    assert!(matches!(wrong, Err(GuardError::Written(_))), "{wrong:?}");
    let wrong = Share::load(pool, Percent(1)).await;
    assert!(
        matches!(&wrong, Err(LoadError::Database(error)) if error.fault() == Fault::Decode),
        "{wrong:?}"
    );
}
