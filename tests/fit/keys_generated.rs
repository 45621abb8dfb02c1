//! Keys of `FindOrCreate` on a generated column: other parts can make the value of a row that is there.

use rowlock::row::{FindOrCreateError, UpsertError};
use rowlock::{FindOrCreate, Guarded};
use sqlx::Executor;

use super::{NAME, Pool, database};

/// `coalesce` so that a part can be NULL.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, FindOrCreate, Guarded)]
#[rowlock(
    table = "event_types",
    unique(service, coalesce(verb, ""), on(full_name))
)]
struct EventType {
    #[rowlock(key, generated)]
    id: i64,
    service: String,
    verb: Option<String>,
    #[rowlock(generated)]
    full_name: String,
    enabled: bool,
}

const EVENT_TYPES: &str = "CREATE TABLE event_types (id {id}, service text NOT NULL, verb text,
    full_name text GENERATED ALWAYS AS (service || '.' || coalesce(verb, '')) STORED UNIQUE, enabled boolean NOT NULL)";

fn event_type(service: &str, verb: Option<&str>, enabled: bool) -> NewEventType {
    NewEventType {
        service: service.to_owned(),
        verb: verb.map(str::to_owned),
        enabled,
    }
}

async fn rows(pool: &Pool) -> Vec<EventType> {
    let rows = sqlx::query_as("SELECT * FROM event_types ORDER BY id");
    rows.fetch_all(pool).await.unwrap()
}

/// Without the parts in the guard, each upsert overwrites the row of another key.
#[tokio::test]
async fn other_parts_that_make_the_same_value_are_key_taken() {
    let database = database(EVENT_TYPES).await;
    let pool = &database.pool;
    for (there, other) in [
        (("a.b", Some("c")), ("a", Some("b.c"))),
        (("d.e", None), ("d", Some("e."))),
        (("f", Some("g.")), ("f.g", None)),
    ] {
        let there = event_type(there.0, there.1, true);
        EventType::create(pool, there.clone()).await.unwrap();
        let before = rows(pool).await;
        let other = event_type(other.0, other.1, false);
        let found = EventType::find_or_create(pool, other.clone()).await;
        assert!(
            matches!(found, Err(FindOrCreateError::KeyTaken(_))),
            "{found:?}"
        );
        let upserted = EventType::upsert(pool, other.clone()).await;
        assert!(
            matches!(upserted, Err(UpsertError::KeyTaken(_))),
            "{upserted:?}"
        );
        let told = EventType::update_or_create(pool, other.clone()).await;
        assert!(matches!(told, Err(UpsertError::KeyTaken(_))), "{told:?}");
        for enabled in [true, false] {
            let condition = EventType::ENABLED.eq(enabled);
            let told = EventType::upsert_if(pool, other.clone(), condition).await;
            assert!(matches!(told, Err(UpsertError::KeyTaken(_))), "{told:?}");
        }
        assert_eq!(rows(pool).await, before);
        // Its own parts are no other ones.
        let disabled = NewEventType {
            enabled: false,
            ..there
        };
        let upserted = EventType::upsert(pool, disabled.clone()).await.unwrap();
        assert!(!upserted.enabled);
        let told = EventType::update_or_create(pool, disabled.clone()).await;
        assert!(!told.unwrap().is_created());
        let mine = EventType::ENABLED.eq(false);
        let told = EventType::upsert_if(pool, disabled, mine).await.unwrap();
        assert!(!told.is_created() && !told.is_refused());
        assert_eq!(rows(pool).await.len(), before.len());
    }
}

#[tokio::test]
async fn a_write_that_a_trigger_drops_is_no_taken_key() {
    let database = database(EVENT_TYPES).await;
    let pool = &database.pool;
    let mine = event_type("a", Some("b"), true);
    EventType::create(pool, mine.clone()).await.unwrap();
    let skip = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER skip BEFORE UPDATE ON event_types FOR EACH ROW EXECUTE FUNCTION skip()"
        }
        _ => "CREATE TRIGGER skip BEFORE UPDATE ON event_types BEGIN SELECT RAISE(IGNORE); END",
    };
    sqlx::raw_sql(skip).execute(pool).await.unwrap();
    let upserted = EventType::upsert(pool, mine.clone()).await;
    assert!(
        matches!(upserted, Err(UpsertError::Ignored(_))),
        "{upserted:?}"
    );
    let told = EventType::update_or_create(pool, mine.clone()).await;
    assert!(matches!(told, Err(UpsertError::Ignored(_))), "{told:?}");
    let told = EventType::upsert_if(pool, mine, EventType::ENABLED.eq(true)).await;
    assert!(matches!(told, Err(UpsertError::Ignored(_))), "{told:?}");
}

/// The conflict on the generated column alone: the row of another key is overwritten.
#[tokio::test]
async fn naive_twin_the_generated_column_alone_overwrites_the_row_of_another_key() {
    let database = database(EVENT_TYPES).await;
    let pool = &database.pool;
    let upsert = "INSERT INTO event_types (service, verb, enabled) VALUES ('a.b', 'c', true), ('a', 'b.c', false)
        ON CONFLICT (full_name) DO UPDATE SET enabled = excluded.enabled";
    // PostgreSQL refuses to meet a row twice in one statement.
    for row in [
        upsert.replace(", ('a', 'b.c', false)", ""),
        upsert.replace("('a.b', 'c', true), ", ""),
    ] {
        pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(row)))
            .await
            .unwrap();
    }
    let [row] = &rows(pool).await[..] else {
        panic!("one row");
    };
    assert_eq!((row.service.as_str(), row.enabled), ("a.b", false));
}
