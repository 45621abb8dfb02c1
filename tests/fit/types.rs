//! Types of keys and of columns: each through every derive that finds, compares, writes and locks by it.

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
