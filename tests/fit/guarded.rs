//! `#[derive(Guarded)]`: writes under a condition.

use std::sync::Arc;

use proptest::prelude::*;
use rowlock::row::GuardError;
use rowlock::{Guarded, Versioned};
use sqlx::types::Json;
use tokio::sync::Barrier;

use super::{Database, Db, NAME, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Guarded)]
#[rowlock(table = "tokens")]
struct Token {
    #[rowlock(key)]
    id: i64,
    owner: String,
    note: Option<String>,
    #[rowlock(counter(min = 0, max = 5))]
    uses: i32,
    usage_limit: Option<i32>,
    consumed_at: Option<i64>,
    #[sqlx(json)]
    data: Vec<i32>,
}

const TOKENS: &str = "CREATE TABLE tokens (
        id bigint PRIMARY KEY,
        owner text NOT NULL,
        note text,
        uses integer NOT NULL DEFAULT 0,
        usage_limit integer,
        consumed_at bigint,
        data {json} NOT NULL DEFAULT '[]'
    );
    INSERT INTO tokens (id, owner, note, usage_limit) VALUES (1, 'ann', 'x', 3), (2, 'ben', NULL, NULL)";

async fn token(pool: &Pool, id: i64) -> Token {
    let select = sqlx::query_as("SELECT * FROM tokens WHERE id = $1");
    select.bind(id).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_row_that_meets_the_condition_is_written_and_returned() {
    let database = database(TOKENS).await;
    let pool = &database.pool;
    let condition = Token::CONSUMED_AT.is_null().and(Token::OWNER.eq("ann"));
    let written = Token::update_if(pool, 1, condition, |row| {
        row.set(Token::CONSUMED_AT, 17);
        row.set(Token::NOTE, "y");
        row.set(Token::DATA, Json(vec![1, 2]));
        row.add(Token::USES, 2);
    });
    let written = written.await.unwrap();
    assert_eq!(written, token(pool, 1).await);
    assert_eq!((written.consumed_at, written.uses), (Some(17), 2));
    assert_eq!(written.note.as_deref(), Some("y"));
    assert_eq!(written.data, [1, 2]);
    let nothing = Token::update_if(pool, 1, Token::USES.eq(2), |row| row.set(Token::NOTE, None));
    assert_eq!(nothing.await.unwrap().note, None);
}

#[tokio::test]
async fn a_refusal_has_the_row_as_it_is_and_writes_nothing() {
    let database = database(TOKENS).await;
    let pool = &database.pool;
    let before = token(pool, 1).await;
    let error = Token::update_if(pool, 1, Token::OWNER.eq("ben"), |row| {
        row.set(Token::OWNER, "eve");
    });
    let error = error.await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "update_if of tokens (id = 1): the row does not meet the condition"
    );
    // What is in the row does not belong into a log.
    assert!(!format!("{error:?}").contains("ann"), "{error:?}");
    let GuardError::Refused(refusal) = error else {
        panic!("{error:?}");
    };
    assert_eq!(refusal.current, before);
    assert_eq!(token(pool, 1).await, before);
    let missing = Token::update_if(pool, 9, Token::OWNER.eq("ben"), |row| {
        row.set(Token::OWNER, "eve");
    });
    let missing = missing.await.unwrap_err();
    assert!(matches!(missing, GuardError::NotFound(_)), "{missing:?}");
}

#[tokio::test]
async fn a_comparison_with_null_is_that_of_rust_for_equality_and_that_of_sql_for_order() {
    let database = database(TOKENS).await;
    let pool = &database.pool;
    let meets = async |id, condition| match Token::update_if(pool, id, condition, |_| {}).await {
        Ok(_) => true,
        Err(GuardError::Refused(_)) => false,
        Err(error) => panic!("{error:?}"),
    };
    assert!(meets(2, Token::NOTE.eq(None)).await);
    assert!(!meets(1, Token::NOTE.eq(None)).await);
    assert!(meets(2, Token::NOTE.ne("x")).await);
    assert!(!meets(1, Token::NOTE.ne("x")).await);
    assert!(!meets(2, Token::NOTE.lt("x")).await);
    assert!(!meets(2, Token::NOTE.ge("x")).await);
}

#[tokio::test]
async fn a_bound_can_be_a_column() {
    let database = database(TOKENS).await;
    let pool = &database.pool;
    let use_one = async |id| {
        let free = Token::USAGE_LIMIT
            .is_null()
            .or(Token::USES.lt(Token::USAGE_LIMIT));
        let used = Token::update_if(pool, id, free, |row| row.add(Token::USES, 1));
        used.await.map(|token| token.uses)
    };
    for expected in 1..=3 {
        assert_eq!(use_one(1).await.unwrap(), expected);
    }
    assert!(matches!(use_one(1).await, Err(GuardError::Refused(_))));
    // Without a limit of its own, that of the counter holds.
    for expected in 1..=5 {
        assert_eq!(use_one(2).await.unwrap(), expected);
    }
    let error = use_one(2).await.unwrap_err();
    assert!(matches!(error, GuardError::Refused(_)), "{error:?}");
    assert_eq!(token(pool, 2).await.uses, 5);
    let far = Token::patch(pool, 2, |row| row.add(Token::USES, i64::MAX)).await;
    assert!(matches!(far, Err(GuardError::Refused(_))), "{far:?}");
    let far = Token::patch(pool, 2, |row| row.add(Token::USES, i64::MIN)).await;
    assert!(matches!(far, Err(GuardError::Refused(_))), "{far:?}");
}

#[tokio::test]
async fn a_patch_writes_what_is_given() {
    let database = database(TOKENS).await;
    let pool = &database.pool;
    let patch = async |owner: Option<String>, note: Option<Option<String>>| {
        let patched = Token::patch(pool, 1, |row| {
            row.set_if_some(Token::OWNER, owner);
            row.set_if_some(Token::NOTE, note);
        });
        let patched = patched.await.unwrap();
        (patched.owner, patched.note)
    };
    let (ann, eve, x) = ("ann".to_owned(), "eve".to_owned(), Some("x".to_owned()));
    assert_eq!(patch(None, None).await, (ann, x.clone()));
    assert_eq!(patch(Some(eve.clone()), None).await, (eve.clone(), x));
    assert_eq!(patch(None, Some(None)).await, (eve, None));
    let missing = Token::patch(pool, 9, |_| {}).await;
    assert!(
        matches!(missing, Err(GuardError::NotFound(_))),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_column_that_is_set_twice_is_refused() {
    let database = database(TOKENS).await;
    let twice = Token::patch(&database.pool, 1, |row| {
        row.set(Token::OWNER, "a");
        row.set(Token::OWNER, "b");
    });
    let error = twice.await.unwrap_err();
    assert!(matches!(error, GuardError::SetTwice(..)), "{error:?}");
    assert_eq!(token(&database.pool, 1).await.owner, "ann");
}

#[tokio::test]
async fn a_row_is_deleted_under_a_condition_or_by_its_key() {
    let database = database(TOKENS).await;
    let pool = &database.pool;
    let refused = Token::delete_if(pool, 1, Token::CONSUMED_AT.is_not_null()).await;
    assert!(
        matches!(refused, Err(GuardError::Refused(_))),
        "{refused:?}"
    );
    assert!(Token::exists(pool, 1).await.unwrap());
    let gone = Token::delete_if(pool, 1, Token::OWNER.one_of(["eve", "ann"])).await;
    assert_eq!(gone.unwrap().id, 1);
    assert!(!Token::exists(pool, 1).await.unwrap());
    let none = Token::delete_if(pool, 2, Token::OWNER.one_of(Vec::<String>::new())).await;
    assert!(matches!(none, Err(GuardError::Refused(_))), "{none:?}");
    assert_eq!(
        Token::delete_by_key(pool, 2).await.unwrap().unwrap().owner,
        "ben"
    );
    assert_eq!(Token::delete_by_key(pool, 2).await.unwrap(), None);
}

/// All at once, and again with the statement that most services have.
async fn consume_at_once<F: Future<Output = bool> + Send + 'static>(
    consume: impl Fn(Pool) -> F,
    pool: &Pool,
) -> usize {
    let tasks = 8;
    let barrier = Arc::new(Barrier::new(tasks));
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (barrier, consume) = (barrier.clone(), consume(pool.clone()));
            tokio::spawn(async move {
                barrier.wait().await;
                consume.await
            })
        })
        .collect();
    let mut consumed = 0;
    for task in tasks {
        consumed += usize::from(task.await.unwrap());
    }
    consumed
}

#[tokio::test]
async fn of_many_concurrent_consumers_one_wins() {
    let database = database(TOKENS).await;
    let consume = |pool: Pool| async move {
        let unused = Token::CONSUMED_AT.is_null();
        let consumed = Token::update_if(&pool, 1, unused, |row| row.set(Token::CONSUMED_AT, 1));
        match consumed.await {
            Ok(_) => true,
            Err(GuardError::Refused(refusal)) => {
                assert_eq!(refusal.current.consumed_at, Some(1));
                false
            }
            Err(error) => panic!("{error:?}"),
        }
    };
    for _ in 0..20 {
        let reset = Token::patch(&database.pool, 1, |row| row.set(Token::CONSUMED_AT, None));
        reset.await.unwrap();
        assert_eq!(consume_at_once(consume, &database.pool).await, 1);
    }
}

/// Each looks, then writes: all that have looked before the first one writes consume it.
#[tokio::test]
async fn the_naive_twin_consumes_it_twice() {
    let database = database(TOKENS).await;
    let looked = Arc::new(Barrier::new(2));
    let consume = |pool: Pool| {
        let looked = looked.clone();
        async move {
            let unused = token(&pool, 1).await.consumed_at.is_none();
            looked.wait().await;
            let update = "UPDATE tokens SET consumed_at = 1 WHERE id = 1";
            unused
                && sqlx::query(update)
                    .execute(&pool)
                    .await
                    .unwrap()
                    .rows_affected()
                    == 1
        }
    };
    let (one, other) = (database.pool.clone(), database.pool.clone());
    let (one, other) = tokio::join!(consume(one), consume(other));
    assert!(one && other);
}

/// A model that is also edited by its version.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Guarded, Versioned)]
#[rowlock(table = "pages")]
struct Page {
    #[rowlock(key)]
    id: i64,
    title: String,
    #[rowlock(version)]
    version: i32,
}

const PAGES: &str =
    "CREATE TABLE pages (id bigint PRIMARY KEY, title text NOT NULL, version integer NOT NULL);
    INSERT INTO pages VALUES (1, 'a', 0)";

#[tokio::test]
async fn who_edits_a_copy_notices_a_guarded_write() {
    let database = database(PAGES).await;
    let pool = &database.pool;
    let mut edit = Page::load(pool, 1).await.unwrap().edit();
    edit.title = "mine".to_owned();
    let written = Page::update_if(pool, 1, Page::VERSION.eq(0), |row| {
        row.set(Page::TITLE, "b")
    });
    assert_eq!(written.await.unwrap().version, 1);
    let stale = edit.save(pool).await.unwrap_err();
    assert!(
        matches!(stale, rowlock::row::UpdateError::Stale(_)),
        "{stale:?}"
    );
}

#[tokio::test]
async fn a_key_of_two_rows_is_not_unique_and_neither_is_written() {
    let database = database(
        "CREATE TABLE pages (id bigint, title text NOT NULL, version integer NOT NULL);
         INSERT INTO pages VALUES (1, 'a', 0), (1, 'b', 0)",
    )
    .await;
    let pool = &database.pool;
    let error = Page::patch(pool, 1, |row| row.set(Page::TITLE, "c")).await;
    assert!(matches!(error, Err(GuardError::NotUnique(_))), "{error:?}");
    let error = Page::delete_by_key(pool, 1).await;
    assert!(matches!(error, Err(GuardError::NotUnique(_))), "{error:?}");
    let sum: i64 = sqlx::query_scalar("SELECT count(*) FROM pages WHERE title <> 'c'")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(sum, 2);
}

async fn drop_writes(database: &Database) {
    let sql = match NAME {
        "PostgreSQL" => {
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER skip BEFORE UPDATE OR DELETE ON pages FOR EACH ROW EXECUTE FUNCTION skip()"
        }
        _ => {
            "CREATE TRIGGER skip_update BEFORE UPDATE ON pages BEGIN SELECT RAISE(IGNORE); END;
             CREATE TRIGGER skip_delete BEFORE DELETE ON pages BEGIN SELECT RAISE(IGNORE); END"
        }
    };
    sqlx::raw_sql(sql).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn a_write_that_a_trigger_drops_is_ignored() {
    let database = database(PAGES).await;
    drop_writes(&database).await;
    let pool = &database.pool;
    let error = Page::patch(pool, 1, |row| row.set(Page::TITLE, "c")).await;
    assert!(matches!(error, Err(GuardError::Ignored(_))), "{error:?}");
    let error = Page::delete_if(pool, 1, Page::TITLE.eq("a")).await;
    assert!(matches!(error, Err(GuardError::Ignored(_))), "{error:?}");
    let error = Page::delete_if(pool, 1, Page::TITLE.eq("b")).await;
    assert!(matches!(error, Err(GuardError::Refused(_))), "{error:?}");
}

#[tokio::test]
async fn it_is_part_of_the_callers_transaction() {
    let database = database(PAGES).await;
    let pool = &database.pool;
    let mut tx = pool.begin().await.unwrap();
    let write = Page::patch(&mut *tx, 1, |row| row.set(Page::TITLE, "b"));
    write.await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(Page::load(pool, 1).await.unwrap().title, "a");
    let outcome = rowlock::transaction(pool)
        .run(async |tx| -> Result<_, rowlock::Error> {
            let refused = Page::update_if(&mut *tx, 1, Page::TITLE.eq("z"), |row| {
                row.set(Page::TITLE, "b");
            });
            assert!(matches!(refused.await, Err(GuardError::Refused(_))));
            Ok(Page::patch(tx, 1, |row| row.set(Page::TITLE, "c")).await?)
        })
        .await
        .unwrap();
    assert_eq!((outcome.title.as_str(), outcome.version), ("c", 1));
}

#[tokio::test]
async fn every_method_can_be_spawned() {
    let database = database(PAGES).await;
    let pool = database.pool.clone();
    let task = tokio::spawn(async move {
        Page::patch(&pool, 1, |row| row.set(Page::TITLE, "b"))
            .await
            .unwrap();
        Page::update_if(
            &pool,
            1,
            Page::TITLE.eq("b").or(Page::VERSION.gt(3)),
            |row| {
                row.set(Page::TITLE, "c");
            },
        )
        .await
        .unwrap();
        assert!(Page::exists(&pool, 1).await.unwrap());
        Page::delete_if(&pool, 1, Page::TITLE.eq("c"))
            .await
            .unwrap();
        Page::delete_by_key(&pool, 1).await.unwrap()
    });
    assert_eq!(task.await.unwrap(), None);
}

#[tokio::test]
async fn a_version_that_cannot_go_up_is_told_and_nothing_is_written() {
    let database = database(
        "CREATE TABLE pages (id bigint PRIMARY KEY, title text NOT NULL, version integer);
         INSERT INTO pages VALUES (1, 'a', NULL), (2, 'a', 2147483647)",
    )
    .await;
    let pool = &database.pool;
    let null = Page::patch(pool, 1, |row| row.set(Page::TITLE, "b")).await;
    assert!(matches!(null, Err(GuardError::NullVersion(_))), "{null:?}");
    let highest = Page::update_if(pool, 2, Page::TITLE.eq("a"), |row| {
        row.set(Page::TITLE, "b")
    });
    let highest = highest.await;
    assert!(
        matches!(highest, Err(GuardError::VersionOverflow(_))),
        "{highest:?}"
    );
    let refused = Page::update_if(pool, 2, Page::TITLE.eq("z"), |row| {
        row.set(Page::TITLE, "b")
    });
    assert!(matches!(refused.await, Err(GuardError::Refused(_))));
    let unchanged = "SELECT count(*) FROM pages WHERE title = 'a' AND (version IS NULL OR version = 2147483647)";
    let unchanged: i64 = sqlx::query_scalar(unchanged).fetch_one(pool).await.unwrap();
    assert_eq!(unchanged, 2);
}

/// Between the write that met no row and the look at it, the row comes to meet the condition: that is no trigger.
#[tokio::test]
async fn a_row_that_keeps_changing_is_written_or_refused() {
    let database = database(TOKENS).await;
    let pool = database.pool.clone();
    let flips = tokio::spawn(async move {
        for _ in 0..600 {
            let flip = "UPDATE tokens SET owner = CASE owner WHEN 'ann' THEN 'ben' ELSE 'ann' END WHERE id = 1";
            sqlx::query(flip).execute(&pool).await.unwrap();
        }
    });
    let mut answers = 0;
    while !flips.is_finished() {
        let ann = Token::update_if(&database.pool, 1, Token::OWNER.eq("ann"), |row| {
            row.set(Token::NOTE, "seen");
        });
        match ann.await {
            Ok(token) => assert_eq!(token.owner, "ann"),
            Err(GuardError::Refused(refusal)) => assert_eq!(refusal.current.owner, "ben"),
            Err(error) => panic!("{error:?}"),
        }
        answers += 1;
    }
    assert!(answers > 0);
}

#[tokio::test]
async fn thousands_of_values_are_one_condition() {
    let database = database(TOKENS).await;
    let names: Vec<String> = (0..5000).map(|name| name.to_string()).collect();
    let none = Token::delete_if(&database.pool, 1, Token::OWNER.one_of(names.clone())).await;
    assert!(matches!(none, Err(GuardError::Refused(_))), "{none:?}");
    let names = names.into_iter().chain(["ann".to_owned()]);
    let gone = Token::delete_if(&database.pool, 1, Token::OWNER.one_of(names)).await;
    assert_eq!(gone.unwrap().id, 1);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Guarded)]
#[rowlock(table = "events")]
struct Event {
    #[rowlock(key)]
    id: i64,
    at: chrono::DateTime<chrono::Utc>,
    done_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// By the database's clock and by sqlx: the same time, whatever its text.
#[tokio::test]
async fn times_are_compared_as_times() {
    let database = database(
        "CREATE TABLE events (id bigint PRIMARY KEY, at {timestamp} NOT NULL DEFAULT ({now}), done_at {timestamp});
         INSERT INTO events (id) VALUES (1)",
    )
    .await;
    let pool = &database.pool;
    let event = Event::patch(pool, 1, |_| {}).await.unwrap();
    let later = event.at + chrono::TimeDelta::minutes(2);
    let earlier = event.at - chrono::TimeDelta::minutes(2);
    let meets = async |condition| {
        let met = Event::update_if(pool, 1, condition, |row| row.set(Event::DONE_AT, event.at));
        match met.await {
            Ok(_) => true,
            Err(GuardError::Refused(_)) => false,
            Err(error) => panic!("{error:?}"),
        }
    };
    for _ in 0..2 {
        assert!(meets(Event::AT.eq(event.at)).await);
        assert!(meets(Event::AT.ge(event.at)).await);
        assert!(meets(Event::AT.gt(earlier)).await);
        assert!(meets(Event::AT.lt(later)).await);
        assert!(!meets(Event::AT.lt(earlier)).await);
        assert!(!meets(Event::AT.ne(event.at)).await);
        assert!(meets(Event::AT.eq(Event::DONE_AT)).await);
        // Now as sqlx writes it.
        let rewritten = Event::patch(pool, 1, |row| row.set(Event::AT, event.at));
        rewritten.await.unwrap();
    }
}

/// A condition as data, which is written in both ways.
#[derive(Debug, Clone)]
enum Asked {
    Note(&'static str, Option<String>),
    Limit(&'static str, Option<i32>),
    LimitAndUses(&'static str),
    NoteIsNull(bool),
}

const OPERATORS: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];

fn asked() -> impl Strategy<Value = Asked> {
    let operator = || prop::sample::select(&OPERATORS[..]);
    let note = prop::option::of("[a-c]{0,2}");
    let limit = prop::option::of(-1..4_i32);
    prop_oneof![
        (operator(), note).prop_map(|(operator, note)| Asked::Note(operator, note)),
        (operator(), limit).prop_map(|(operator, limit)| Asked::Limit(operator, limit)),
        operator().prop_map(Asked::LimitAndUses),
        any::<bool>().prop_map(Asked::NoteIsNull),
    ]
}

macro_rules! compared {
    ($field:expr, $operator:expr, $right:expr) => {
        match $operator {
            "=" => $field.eq($right),
            "<>" => $field.ne($right),
            "<" => $field.lt($right),
            "<=" => $field.le($right),
            ">" => $field.gt($right),
            _ => $field.ge($right),
        }
    };
}

/// What SQL says, where `=` and `<>` take NULL for a value.
fn by_hand(asked: &Asked) -> String {
    let distinct = |left: &str, operator: &str, right: &str| match (operator, NAME) {
        ("=", "PostgreSQL") => format!("{left} IS NOT DISTINCT FROM {right}"),
        ("<>", "PostgreSQL") => format!("{left} IS DISTINCT FROM {right}"),
        ("=", _) => format!("{left} IS {right}"),
        ("<>", _) => format!("{left} IS NOT {right}"),
        _ => format!("{left} {operator} {right}"),
    };
    match asked {
        Asked::Note(operator, note) => {
            let note = note
                .as_ref()
                .map_or("NULL".to_owned(), |note| format!("'{note}'"));
            distinct("note", operator, &note)
        }
        Asked::Limit(operator, limit) => {
            let limit = limit.map_or("NULL".to_owned(), |limit| limit.to_string());
            distinct("usage_limit", operator, &limit)
        }
        Asked::LimitAndUses(operator) => distinct("usage_limit", operator, "uses"),
        Asked::NoteIsNull(true) => "note IS NULL".to_owned(),
        Asked::NoteIsNull(false) => "note IS NOT NULL".to_owned(),
    }
}

async fn meets(pool: &Pool, id: i64, asked: Asked) -> bool {
    let answer = match asked {
        Asked::Note(operator, note) => {
            let condition = compared!(Token::NOTE, operator, note);
            Token::update_if(pool, id, condition, |row| row.set(Token::OWNER, "w")).await
        }
        Asked::Limit(operator, limit) => {
            let condition = compared!(Token::USAGE_LIMIT, operator, limit);
            Token::update_if(pool, id, condition, |row| row.set(Token::OWNER, "w")).await
        }
        Asked::LimitAndUses(operator) => {
            let condition = compared!(Token::USAGE_LIMIT, operator, Token::USES);
            Token::update_if(pool, id, condition, |row| row.set(Token::OWNER, "w")).await
        }
        Asked::NoteIsNull(is_null) => {
            let condition = if is_null {
                Token::NOTE.is_null()
            } else {
                Token::NOTE.is_not_null()
            };
            Token::update_if(pool, id, condition, |row| row.set(Token::OWNER, "w")).await
        }
    };
    match answer {
        Ok(_) => true,
        Err(GuardError::Refused(_)) => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// Random conditions on random rows, each asked of the database as well.
#[test]
fn a_condition_is_met_where_the_database_says_so() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(database(TOKENS));
    let row = (
        prop::option::of("[a-c]{0,2}"),
        prop::option::of(-1..4_i32),
        0..4_i32,
    );
    proptest!(ProptestConfig::with_cases(200), |(row in row, asked in asked())| {
        let (note, limit, uses) = row;
        let (met, said) = runtime.block_on(async {
            let set = "UPDATE tokens SET note = $1, usage_limit = $2, uses = $3 WHERE id = 1";
            let set = sqlx::query::<Db>(set).bind(note).bind(limit).bind(uses);
            set.execute(&database.pool).await.unwrap();
            let sql = format!("SELECT count(*) FROM tokens WHERE id = 1 AND {}", by_hand(&asked));
            let said: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .fetch_one(&database.pool)
                .await
                .unwrap();
            (meets(&database.pool, 1, asked.clone()).await, said == 1)
        });
        prop_assert_eq!(met, said, "{}", by_hand(&asked));
    });
}
