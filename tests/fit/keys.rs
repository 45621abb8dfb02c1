//! Keys of `FindOrCreate` whose unique index is partial, on an expression, or on a generated column.

use std::sync::Arc;

use rowlock::FindOrCreate;
use rowlock::row::{CreateError, FindOrCreateError, FoundOrCreated, UpsertError};
use sqlx::Executor;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{Pool, database};

const TASKS: usize = 8;

/// How many of eight calls that begin at once yield true.
async fn race<F>(call: impl Fn(i64) -> F) -> usize
where
    F: Future<Output = bool> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(TASKS));
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        let (future, barrier) = (call(number as i64), barrier.clone());
        tasks.spawn(async move {
            barrier.wait().await;
            future.await
        });
    }
    tasks
        .join_all()
        .await
        .into_iter()
        .filter(|yes| *yes)
        .count()
}

async fn count(pool: &Pool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// One that is not closed for each user.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(
    table = "carts",
    unique(user_id, where = "closed_at IS NULL AND user_id IS NOT NULL")
)]
struct Cart {
    #[rowlock(key, generated)]
    id: i64,
    user_id: Option<i64>,
    items: i64,
    closed_at: Option<i64>,
}

const CARTS: &str = "CREATE TABLE carts (id {id}, user_id bigint, items bigint NOT NULL, closed_at bigint);
    CREATE UNIQUE INDEX one_open ON carts (user_id) WHERE closed_at IS NULL AND user_id IS NOT NULL";

fn cart(user_id: i64, items: i64) -> NewCart {
    NewCart {
        user_id: Some(user_id),
        items,
        closed_at: None,
    }
}

#[tokio::test]
async fn a_partial_key_finds_and_writes_the_row_that_its_index_has() {
    let database = database(CARTS).await;
    let pool = &database.pool;
    let closed = "INSERT INTO carts (user_id, items, closed_at) VALUES (1, 9, 1), (1, 9, 2)";
    pool.execute(closed).await.unwrap();
    assert_eq!(Cart::find_by_user_id(pool, Some(1)).await.unwrap(), None);
    let FoundOrCreated::Created(created) = Cart::find_or_create(pool, cart(1, 1)).await.unwrap()
    else {
        panic!("it was not there");
    };
    assert_eq!(
        Cart::find_by_user_id(pool, Some(1)).await.unwrap(),
        Some(created.clone())
    );
    assert!(
        !Cart::find_or_create(pool, cart(1, 2))
            .await
            .unwrap()
            .is_created()
    );
    assert_eq!(Cart::create(pool, cart(1, 2)).await.unwrap(), None);
    let updated = Cart::upsert(pool, cart(1, 3)).await.unwrap();
    assert_eq!(
        updated,
        Cart {
            items: 3,
            ..created
        }
    );
    let told = Cart::update_or_create(pool, cart(1, 4)).await.unwrap();
    assert!(!told.is_created());
    pool.execute("UPDATE carts SET closed_at = 3")
        .await
        .unwrap();
    assert!(
        Cart::update_or_create(pool, cart(1, 5))
            .await
            .unwrap()
            .is_created()
    );
    // What the index does not have is no conflict.
    let not_in_it = NewCart {
        closed_at: Some(4),
        ..cart(1, 6)
    };
    assert!(Cart::create(pool, not_in_it).await.unwrap().is_some());
    assert_eq!(count(pool, "SELECT count(*) FROM carts").await, 5);
}

#[tokio::test]
async fn of_eight_at_once_one_creates_the_row_of_a_partial_key() {
    let database = database(CARTS).await;
    let pool = &database.pool;
    let found = race(|items| {
        let pool = pool.clone();
        async move {
            Cart::find_or_create(&pool, cart(1, items))
                .await
                .unwrap()
                .is_created()
        }
    });
    assert_eq!(found.await, 1);
    let told = race(|items| {
        let pool = pool.clone();
        async move {
            Cart::update_or_create(&pool, cart(2, items))
                .await
                .unwrap()
                .is_created()
        }
    });
    assert_eq!(told.await, 1);
    assert_eq!(count(pool, "SELECT count(*) FROM carts").await, 2);
}

#[tokio::test]
async fn a_partial_key_needs_the_index_with_its_predicate() {
    for other in [
        "CREATE UNIQUE INDEX another ON carts (user_id) WHERE closed_at = 7",
        "CREATE INDEX not_unique ON carts (user_id) WHERE closed_at IS NULL AND user_id IS NOT NULL",
    ] {
        let database =
            database(&CARTS.replace("CREATE UNIQUE INDEX one_open", "CREATE INDEX one_open")).await;
        let pool = &database.pool;
        pool.execute(other).await.unwrap();
        let on = "user_id) WHERE (closed_at IS NULL AND user_id IS NOT NULL";
        let found = Cart::find_or_create(pool, cart(1, 1)).await.unwrap_err();
        assert!(
            matches!(found, FindOrCreateError::MissingUniqueIndex(_, text) if text == on),
            "{found:?}"
        );
        let written = Cart::upsert(pool, cart(1, 1)).await.unwrap_err();
        assert!(
            matches!(written, UpsertError::MissingUniqueIndex(..)),
            "{written:?}"
        );
        let told = Cart::update_or_create(pool, cart(1, 1)).await.unwrap_err();
        assert!(
            matches!(told, UpsertError::MissingUniqueIndex(..)),
            "{told:?}"
        );
        let created = Cart::create(pool, cart(1, 1)).await.unwrap_err();
        assert!(
            matches!(created, CreateError::MissingUniqueIndex(..)),
            "{created:?}"
        );
    }
    // Another mistake is not taken for that one.
    let database = database(CARTS).await;
    let pool = &database.pool;
    let rename = "ALTER TABLE carts RENAME COLUMN items TO things";
    pool.execute(rename).await.unwrap();
    let created = Cart::create(pool, cart(1, 1)).await.unwrap_err();
    assert!(matches!(created, CreateError::Database(_)), "{created:?}");
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(
    table = "users",
    unique(tenant_id, lower(email)),
    unique(coalesce(parent_id, 0), name)
)]
struct User {
    #[rowlock(key, generated)]
    id: i64,
    tenant_id: i64,
    email: String,
    parent_id: Option<i64>,
    name: String,
}

const USERS: &str = "CREATE TABLE users (id {id}, tenant_id bigint NOT NULL, email text NOT NULL, parent_id bigint, name text NOT NULL);
    CREATE UNIQUE INDEX by_email ON users (tenant_id, lower(email));
    CREATE UNIQUE INDEX by_name ON users (coalesce(parent_id, 0), name)";

fn user(email: &str, parent_id: Option<i64>, name: &str) -> NewUser {
    NewUser {
        tenant_id: 1,
        email: email.to_owned(),
        parent_id,
        name: name.to_owned(),
    }
}

#[tokio::test]
async fn a_key_on_an_expression_finds_and_writes_what_is_equal_there() {
    let database = database(USERS).await;
    let pool = &database.pool;
    let ada = User::create_by_tenant_id_and_email(pool, user("Ada@x", None, "a")).await;
    let ada = ada.unwrap().expect("nobody has the key");
    let found = User::find_by_tenant_id_and_email(pool, 1, "aDA@x")
        .await
        .unwrap();
    assert_eq!(found, Some(ada.clone()));
    let found = User::find_by_parent_id_and_name(pool, None, "a")
        .await
        .unwrap();
    assert_eq!(found, Some(ada.clone()));
    let again = User::create_by_parent_id_and_name(pool, user("other@x", None, "a"))
        .await
        .unwrap();
    assert_eq!(again, None);
    let again =
        User::find_or_create_by_tenant_id_and_email(pool, user("ADA@x", Some(3), "b")).await;
    assert_eq!(again.unwrap(), FoundOrCreated::Found(ada.clone()));
    let renamed =
        User::update_or_create_by_tenant_id_and_email(pool, user("ADA@x", Some(3), "b")).await;
    let renamed = renamed.unwrap();
    assert!(!renamed.is_created());
    // What is looked up stays as it is.
    let expected = User {
        parent_id: Some(3),
        name: "b".to_owned(),
        ..ada
    };
    assert_eq!(renamed.into_inner(), expected);
    let created = race(|number| {
        let pool = pool.clone();
        let email = if number % 2 == 0 { "Ben@x" } else { "ben@X" };
        async move {
            let created =
                User::create_by_tenant_id_and_email(&pool, user(email, Some(number), "c")).await;
            created.unwrap().is_some()
        }
    });
    assert_eq!(created.await, 1);
}

#[tokio::test]
async fn a_key_on_an_expression_needs_the_index_on_it() {
    let database = database(&USERS.replace("lower(email)", "email")).await;
    let pool = &database.pool;
    let refused = User::create_by_tenant_id_and_email(pool, user("a", None, "a")).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(
            refused,
            CreateError::MissingUniqueIndex(_, "lower(email),tenant_id")
        ),
        "{refused:?}"
    );
    let created = User::create_by_parent_id_and_name(pool, user("a", None, "a")).await;
    assert!(created.unwrap().is_some());
}

/// The table makes the key of what the caller gives.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "event_types", unique(service, verb, on(full_name)))]
struct EventType {
    service: String,
    verb: String,
    #[rowlock(generated)]
    full_name: String,
    enabled: bool,
}

const EVENT_TYPES: &str = "CREATE TABLE event_types (service text NOT NULL, verb text NOT NULL,
    full_name text GENERATED ALWAYS AS (service || '.' || verb) STORED, enabled boolean NOT NULL);
    CREATE UNIQUE INDEX by_full_name ON event_types (full_name)";

fn event_type(verb: &str, enabled: bool) -> NewEventType {
    NewEventType {
        service: "iam".to_owned(),
        verb: verb.to_owned(),
        enabled,
    }
}

#[tokio::test]
async fn a_key_on_a_generated_column_is_looked_up_by_its_parts() {
    let database = database(EVENT_TYPES).await;
    let pool = &database.pool;
    let created = EventType::find_or_create(pool, event_type("created", true))
        .await
        .unwrap();
    assert!(created.is_created());
    assert_eq!(created.full_name, "iam.created");
    let found = EventType::find_by_service_and_verb(pool, "iam", "created")
        .await
        .unwrap();
    assert_eq!(found, Some(created.into_inner()));
    let told = EventType::update_or_create(pool, event_type("created", false))
        .await
        .unwrap();
    assert_eq!((told.is_created(), told.enabled), (false, false));
    // Other parts that make the same value.
    let other = NewEventType {
        service: "iam.created".to_owned(),
        ..event_type("now", true)
    };
    let created = EventType::create(pool, other.clone()).await.unwrap();
    assert!(created.is_some());
    let taken = EventType::find_or_create(pool, event_type("created.now", true)).await;
    let taken = taken.unwrap_err();
    assert!(matches!(taken, FindOrCreateError::KeyTaken(_)), "{taken:?}");
    let created = race(|_| {
        let pool = pool.clone();
        async move {
            EventType::create(&pool, event_type("deleted", true))
                .await
                .unwrap()
                .is_some()
        }
    });
    assert_eq!(created.await, 1);
    pool.execute("DROP INDEX by_full_name").await.unwrap();
    let refused = EventType::create(pool, event_type("x", true))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, CreateError::MissingUniqueIndex(_, "full_name")),
        "{refused:?}"
    );
}

/// The same as the naive twin of all of these: the key without its predicate is not the index's.
#[tokio::test]
async fn naive_twin_the_columns_alone_are_no_key_of_a_partial_index() {
    let database = database(CARTS).await;
    let insert =
        "INSERT INTO carts (user_id, items) VALUES (1, 1) ON CONFLICT (user_id) DO NOTHING";
    database.pool.execute(insert).await.unwrap_err();
}
