//! `check` of what other writers have stored: it is the value that was read, however it is written, and no other one.

macro_rules! of_stored {
    (on $db:ident; $($name:ident: $ty:ty as $sql:literal, [$($stored:literal),* $(,)?];)*) => {$(
        #[tokio::test]
        async fn $name() {
            #[derive(Debug, Clone, sqlx::FromRow, Versioned, Guarded)]
            #[rowlock(table = "stored", backend($db))]
            struct Stored {
                #[rowlock(key)]
                id: i64,
                note: i32,
                #[rowlock(check)]
                value: Option<$ty>,
            }
            let (_database, pool) = stored($sql).await;
            let pool = &pool;
            let write = async |value: &str| {
                let update = format!("UPDATE stored SET value = {value}");
                sqlx::raw_sql(sqlx::AssertSqlSafe(update)).execute(pool).await.unwrap();
            };
            let text = async || -> Option<String> {
                let text = sqlx::query_scalar("SELECT CAST(value AS text) FROM stored");
                text.fetch_one(pool).await.unwrap()
            };
            let mut others = 0;
            for read in ["NULL", $($stored),*] {
                for stored in ["NULL", $($stored),*] {
                    let case = format!("{read}, then {stored}");
                    write(read).await;
                    let row = Stored::load(pool, 1).await.unwrap();
                    let mut edit = row.edit();
                    edit.note += 1;
                    write(stored).await;
                    let there = text().await;
                    let same = Stored::load(pool, 1).await.unwrap().value == row.value;
                    others += usize::from(!same);

                    let looked = row.edit().only_if(Stored::ID.eq(1)).save(pool).await;
                    assert_eq!(looked.is_ok(), same, "{case}: {looked:?}");
                    let refused = edit.only_if(Stored::ID.ne(1)).save(pool).await;
                    assert_eq!(matches!(refused, Err(UpdateError::Refused(_))), same, "{case}: {refused:?}");
                    let mut tx = pool.begin().await.unwrap();
                    let deleted = row.delete(&mut *tx).await;
                    assert_eq!(deleted.is_ok(), same, "{case}: {deleted:?}");
                    tx.rollback().await.unwrap();
                    match edit.save(pool).await {
                        Ok(saved) => assert_eq!((same, saved.note), (true, edit.note), "{case}"),
                        Err(UpdateError::Stale(conflict)) => {
                            assert!(!same, "{case}");
                            assert_eq!(conflict.changed_fields(), ["value"], "{case}");
                        }
                        Err(error) => panic!("{case}: {error:?}"),
                    }
                    assert_eq!(text().await, there, "{case}");
                    let added = Stored::update_with(pool, 1, |row| row.note += 1).await;
                    assert!(added.is_ok(), "{case}: {added:?}");
                }
            }
            assert!(others > 0);
        }
    )*};
}
pub(super) use of_stored;
