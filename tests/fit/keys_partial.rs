//! Partial keys of `FindOrCreate`: new rows that the index does not have.

use rowlock::row::{CreateError, FoundOrCreated, UpdatedOrCreated, Upserted};
use rowlock::{Fault, FindOrCreate, Guarded};

use super::{NAME, Pool, database};

/// One that is open for each user, of `kind` like what it began as.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate, Guarded)]
#[rowlock(
    table = "carts",
    unique(user_id, where = "closed_at IS NULL AND kind >= began_as")
)]
struct Cart {
    #[rowlock(key, generated)]
    id: i64,
    user_id: i64,
    kind: i64,
    #[rowlock(insert_only)]
    began_as: i64,
    closed_at: Option<i64>,
}

const CARTS: &str = "CREATE TABLE carts (id {id}, user_id bigint NOT NULL, kind bigint NOT NULL, began_as bigint NOT NULL, closed_at bigint);
    CREATE UNIQUE INDEX one_open ON carts (user_id) WHERE closed_at IS NULL AND kind >= began_as";

fn open(kind: i64, began_as: i64) -> NewCart {
    NewCart {
        user_id: 1,
        kind,
        began_as,
        closed_at: None,
    }
}

fn closed(at: i64) -> NewCart {
    NewCart {
        closed_at: Some(at),
        ..open(1, 1)
    }
}

async fn rows(pool: &Pool) -> Vec<Cart> {
    let rows = sqlx::query_as("SELECT * FROM carts ORDER BY id");
    rows.fetch_all(pool).await.unwrap()
}

/// With and without a row that has the key.
#[tokio::test]
async fn a_row_outside_of_the_index_is_created_each_time_and_told_so() {
    let database = database(CARTS).await;
    let pool = &database.pool;
    for there in [false, true] {
        if there {
            Cart::create(pool, open(5, 5)).await.unwrap();
        }
        for at in [1, 1, 2] {
            let before = rows(pool).await;
            let told = Cart::update_or_create(pool, closed(at)).await.unwrap();
            assert!(told.is_created(), "{told:?}");
            let mut expected = before.clone();
            expected.push(told.into_inner());
            assert_eq!(rows(pool).await, expected);
            // The condition is about a row that is in the way, and none is.
            let no_row = Cart::KIND.eq(99);
            let told = Cart::upsert_if(pool, closed(at), no_row).await.unwrap();
            assert!(told.is_created(), "{told:?}");
            expected.push(told.into_inner());
            assert_eq!(rows(pool).await, expected);
            expected.push(Cart::upsert(pool, closed(at)).await.unwrap());
            expected.extend(Cart::create(pool, closed(at)).await.unwrap());
            assert_eq!(rows(pool).await, expected);
            assert_eq!(expected.len(), before.len() + 4);
        }
    }
}

/// It looks by the key first, and the key is all that it looks by.
#[tokio::test]
async fn find_or_create_of_a_row_outside_of_the_index_finds_the_one_inside() {
    let database = database(CARTS).await;
    let pool = &database.pool;
    for _ in 0..2 {
        let created = Cart::find_or_create(pool, closed(1)).await.unwrap();
        assert!(created.is_created());
    }
    let inside = Cart::create(pool, open(5, 5)).await.unwrap().unwrap();
    let found = Cart::find_or_create(pool, closed(1)).await.unwrap();
    assert_eq!(found, FoundOrCreated::Found(inside));
    assert_eq!(rows(pool).await.len(), 3);
}

/// `began_as` stays, so that the index loses the row.
#[tokio::test]
async fn a_row_that_the_upsert_takes_out_of_the_index_is_updated() {
    let database = database(CARTS).await;
    let pool = &database.pool;
    let created = Cart::update_or_create(pool, open(5, 5)).await.unwrap();
    assert!(created.is_created());
    let expected = Cart {
        kind: 3,
        ..created.into_inner()
    };
    let told = Cart::update_or_create(pool, open(3, 3)).await.unwrap();
    assert_eq!(told, UpdatedOrCreated::Updated(expected), "{NAME}");
    let created = Cart::update_or_create(pool, open(4, 4)).await.unwrap();
    assert!(created.is_created());
    let expected = Cart {
        kind: 2,
        ..created.into_inner()
    };
    let mine = Cart::KIND.eq(4);
    let told = Cart::upsert_if(pool, open(2, 2), mine).await.unwrap();
    assert_eq!(told, Upserted::Updated(expected), "{NAME}");
    assert_eq!(rows(pool).await.len(), 2);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "accounts", unique(user_id, where = "closed_at IS NULL"))]
struct Account {
    #[rowlock(key, generated)]
    id: i64,
    user_id: i64,
    code: String,
    closed_at: Option<i64>,
}

/// It is not the key that keeps it out, although another row has that.
#[tokio::test]
async fn a_row_outside_of_the_index_that_violates_another_one_is_an_error() {
    let schema = "CREATE TABLE accounts (id {id}, user_id bigint NOT NULL, code text NOT NULL UNIQUE, closed_at bigint);
        CREATE UNIQUE INDEX one_account ON accounts (user_id) WHERE closed_at IS NULL";
    let database = database(schema).await;
    let pool = &database.pool;
    let new = |closed_at| NewAccount {
        user_id: 1,
        code: "a".to_owned(),
        closed_at,
    };
    let created = Account::create(pool, new(None)).await.unwrap();
    assert!(created.is_some());
    let both = Account::create(pool, new(None)).await.unwrap();
    assert_eq!(both, None);
    let mut tx = pool.begin().await.unwrap();
    let other = Account::create(&mut *tx, new(Some(1))).await;
    let Err(CreateError::Database(error)) = other else {
        panic!("{other:?}");
    };
    assert_eq!(error.fault(), Fault::UniqueViolation);
    let both = Account::create(&mut *tx, new(None)).await.unwrap();
    assert_eq!(both, None);
}
