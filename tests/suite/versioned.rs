//! `#[derive(Versioned)]`: sections V and D of `docs/behaviours.md`.

use rowlock::row::{DeleteError, LoadError, MergeError, UpdateError};
use rowlock::{Counter, FindOrCreate, Versioned};
use sqlx::Executor;

use super::{Database, Pool, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "documents")]
struct Document {
    #[rowlock(key)]
    id: i64,
    title: String,
    body: String,
    note: Option<String>,
    #[rowlock(version)]
    lock_version: i64,
}

const DOCUMENTS: &str =
    "CREATE TABLE documents (id bigint PRIMARY KEY, title text NOT NULL, body text NOT NULL,
    note text, lock_version bigint);
    INSERT INTO documents VALUES (7, 'title', 'body', NULL, 0)";

async fn documents() -> (Database, Document) {
    let database = database(DOCUMENTS).await;
    let document = Document::load(&database.pool, 7).await.unwrap();
    (database, document)
}

fn titled(document: &Document, title: &str) -> Document {
    Document {
        title: title.to_owned(),
        ..document.clone()
    }
}

/// The row as the database has it.
async fn stored(pool: &Pool) -> Document {
    Document::load(pool, 7).await.unwrap()
}

/// Runs SQL that another user of the database might run.
async fn behind_our_back(pool: &Pool, sql: &'static str) {
    pool.execute(sqlx::raw_sql(sql)).await.unwrap();
}

#[tokio::test]
async fn v_01_the_second_of_two_copies_is_stale() {
    let (database, a) = documents().await;
    let b = a.clone();

    let saved = titled(&a, "by a").update(&database.pool).await.unwrap();
    assert_eq!((saved.title.as_str(), saved.lock_version), ("by a", 1));

    let refused = titled(&b, "by b").update(&database.pool).await.unwrap_err();
    let UpdateError::Stale(conflict) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(conflict.current, saved);
    assert_eq!(stored(&database.pool).await, saved);
}

/// What happens without the version check: the reason for all of this.
#[tokio::test]
async fn v_01_naive_twin_loses_the_first_writers_update() {
    let (database, document) = documents().await;
    for title in ["by a", "by b"] {
        sqlx::query("UPDATE documents SET title = $1, body = $2 WHERE id = $3")
            .bind(title)
            .bind(&document.body)
            .bind(document.id)
            .execute(&database.pool)
            .await
            .unwrap();
    }
    assert_eq!(stored(&database.pool).await.title, "by b");
}

/// The row is held by somebody's open transaction: the update waits, and then loses.
#[tokio::test]
async fn v_01_a_writer_that_waited_for_the_row_is_stale() {
    let (database, document) = documents().await;
    let mut holder = database.pool.begin().await.unwrap();
    let winner = titled(&document, "holder")
        .update(&mut *holder)
        .await
        .unwrap();

    let pool = database.pool.clone();
    let waiter = tokio::spawn(async move { titled(&document, "waiter").update(&pool).await });
    database.until_blocked().await;
    holder.commit().await.unwrap();

    let refused = waiter.await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, UpdateError::Stale(conflict) if conflict.current == winner),
        "{refused:?}"
    );
    assert_eq!(stored(&database.pool).await, winner);
}

/// The same with a rollback: nobody was first, and the one who waited succeeds.
#[tokio::test]
async fn v_01_a_writer_that_waited_for_a_rollback_succeeds() {
    let (database, document) = documents().await;
    let mut holder = database.pool.begin().await.unwrap();
    titled(&document, "holder")
        .update(&mut *holder)
        .await
        .unwrap();

    let pool = database.pool.clone();
    let waiter = tokio::spawn(async move { titled(&document, "waiter").update(&pool).await });
    database.until_blocked().await;
    holder.rollback().await.unwrap();

    let saved = waiter.await.unwrap().unwrap();
    assert_eq!((saved.title.as_str(), saved.lock_version), ("waiter", 1));
}

#[tokio::test]
async fn v_02_a_stale_copy_stays_stale_however_often_it_is_saved() {
    let (database, document) = documents().await;
    let winner = titled(&document, "winner")
        .update(&database.pool)
        .await
        .unwrap();
    for attempt in 0..3 {
        let again = titled(&document, &format!("attempt {attempt}"));
        let refused = again.update(&database.pool).await.unwrap_err();
        assert!(matches!(refused, UpdateError::Stale(_)), "{refused:?}");
    }
    assert_eq!(stored(&database.pool).await, winner);
}

#[tokio::test]
async fn v_03_stale_save_leaves_memory_alone() {
    let (database, document) = documents().await;
    titled(&document, "winner")
        .update(&database.pool)
        .await
        .unwrap();

    let mine = titled(&document, "mine");
    let before = mine.clone();
    mine.update(&database.pool).await.unwrap_err();
    mine.touch(&database.pool).await.unwrap_err();
    mine.delete(&database.pool).await.unwrap_err();
    assert_eq!(mine, before);

    let mut edit = document.edit();
    edit.title = "edit".to_owned();
    edit.save(&database.pool).await.unwrap_err();
    assert_eq!((edit.title.as_str(), edit.lock_version), ("edit", 0));
    // Had the version been bumped, this second save would overwrite the winner.
    edit.save(&database.pool).await.unwrap_err();
    assert_eq!(stored(&database.pool).await.title, "winner");
}

#[tokio::test]
async fn v_05_one_copy_saved_twice_in_a_row() {
    let (database, document) = documents().await;
    let first = document.update(&database.pool).await.unwrap();
    let second = first.update(&database.pool).await.unwrap();
    assert_eq!((first.lock_version, second.lock_version), (1, 2));
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "pages", unique(path))]
struct Page {
    #[rowlock(key)]
    path: String,
    title: Option<String>,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(version)]
    revision: i32,
}

/// The version column has no default, so every insert of ours must write it.
const PAGES: &str = "CREATE TABLE pages (path text PRIMARY KEY, title text, views bigint NOT NULL, revision int NOT NULL)";

fn new_page(path: &str, title: &str) -> NewPage {
    NewPage {
        path: path.to_owned(),
        title: Some(title.to_owned()),
    }
}

#[tokio::test]
async fn v_07_v_08_every_insert_starts_at_version_0_and_nobody_can_choose_another() {
    let database = database(PAGES).await;
    let pool = &database.pool;
    let found = Page::find_or_create(pool, new_page("/a", "a"))
        .await
        .unwrap();
    assert_eq!(found.revision, 0);
    let upserted = Page::upsert(pool, new_page("/b", "b")).await.unwrap();
    assert_eq!(upserted.revision, 0);
    Page::add_views(pool, "/c", 1).await.unwrap();
    assert_eq!(Page::load(pool, "/c").await.unwrap().revision, 0);
    Page::add_views_many(pool, [("/d", 1), ("/e", 1)])
        .await
        .unwrap();
    assert_eq!(Page::load(pool, "/e").await.unwrap().revision, 0);
}

#[tokio::test]
async fn v_09_a_stale_error_says_which_record_and_what_was_attempted() {
    let (database, document) = documents().await;
    document.update(&database.pool).await.unwrap();
    let UpdateError::Stale(conflict) = document.update(&database.pool).await.unwrap_err() else {
        panic!("not stale");
    };
    let operation = conflict.operation();
    assert_eq!(
        (operation.method(), operation.table(), operation.key()),
        ("update", "documents", "id = 7")
    );
    assert_eq!(
        (conflict.expected_version(), conflict.current_version()),
        (0, 1)
    );
    assert_eq!(
        UpdateError::Stale(conflict).to_string(),
        "update of documents (id = 7): the row was changed since it was read: its lock_version is 1, expected 0 (by a concurrent writer, or by your own earlier write: use the row that it returned)"
    );
}

/// A page's path can be private; the title is a row's content.
#[tokio::test]
async fn v_09_errors_do_not_print_what_the_row_contains() {
    let database = database(PAGES).await;
    let page = Page::find_or_create(&database.pool, new_page("/secret-path", "secret-title"))
        .await
        .unwrap()
        .into_inner();
    page.update(&database.pool).await.unwrap();
    let stale = page.update(&database.pool).await.unwrap_err();
    let gone = Page::load(&database.pool, "/secret-elsewhere")
        .await
        .unwrap_err();
    for text in [
        stale.to_string(),
        format!("{stale:?}"),
        gone.to_string(),
        format!("{gone:?}"),
    ] {
        assert!(text.contains("path = …"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn v_10_d_04_a_null_version_is_an_error_and_never_a_match() {
    let (database, document) = documents().await;
    let pool = &database.pool;
    behind_our_back(pool, "UPDATE documents SET lock_version = NULL").await;

    assert!(matches!(
        Document::load(pool, 7).await,
        Err(LoadError::NullVersion(_))
    ));
    assert!(matches!(
        document.reload(pool).await,
        Err(LoadError::NullVersion(_))
    ));
    assert!(matches!(
        document.update(pool).await,
        Err(UpdateError::NullVersion(_))
    ));
    assert!(matches!(
        document.touch(pool).await,
        Err(UpdateError::NullVersion(_))
    ));
    let mut edit = document.edit();
    edit.title = "edited".to_owned();
    assert!(matches!(
        edit.save(pool).await,
        Err(UpdateError::NullVersion(_))
    ));
    let with = Document::update_with(pool, 7, |document| document.title.clear()).await;
    assert!(matches!(with, Err(UpdateError::NullVersion(_))));
    let delete = document.delete(pool).await.unwrap_err();
    assert_eq!(
        delete.to_string(),
        "delete of documents (id = 7): the version is NULL in the database; set it to 0 and make the column NOT NULL"
    );

    let untouched: String =
        sqlx::query_scalar("SELECT title FROM documents WHERE lock_version IS NULL")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(untouched, "title");
}

#[tokio::test]
async fn v_12_v_13_the_version_in_the_struct_is_what_is_checked() {
    let (database, _) = documents().await;
    // Nothing was read: id and version come from a form.
    let from_form = |lock_version| Document {
        id: 7,
        title: "from a form".to_owned(),
        body: String::new(),
        note: None,
        lock_version,
    };
    let refused = from_form(5).update(&database.pool).await.unwrap_err();
    assert!(
        matches!(&refused, UpdateError::Stale(conflict) if conflict.expected_version() == 5),
        "{refused:?}"
    );
    let saved = from_form(0).update(&database.pool).await.unwrap();
    assert_eq!(saved.lock_version, 1);

    let mut edit = saved.edit();
    edit.title = "edited".to_owned();
    edit.lock_version = 0;
    assert!(matches!(
        edit.save(&database.pool).await,
        Err(UpdateError::Stale(_))
    ));
}

#[tokio::test]
async fn v_14_update_always_writes_and_an_unchanged_edit_never_does() {
    let (database, document) = documents().await;
    let updated = document.update(&database.pool).await.unwrap();
    assert_eq!(updated.lock_version, 1);

    assert_eq!(updated.edit().save(&database.pool).await.unwrap(), updated);
    // Not even a connection is needed.
    database.pool.close().await;
    assert_eq!(updated.edit().save(&database.pool).await.unwrap(), updated);
}

#[tokio::test]
async fn v_15_v_16_touch_bumps_and_is_checked() {
    let (database, document) = documents().await;
    let touched = document.touch(&database.pool).await.unwrap();
    assert_eq!(
        touched,
        Document {
            lock_version: 1,
            ..document.clone()
        }
    );
    assert_eq!(stored(&database.pool).await, touched);

    let refused = document.touch(&database.pool).await.unwrap_err();
    assert!(matches!(refused, UpdateError::Stale(_)), "{refused:?}");
    assert_eq!(document.lock_version, 0);
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "order")]
#[sqlx(rename_all = "camelCase")]
struct Order {
    #[rowlock(key)]
    tenant_id: i64,
    #[rowlock(key)]
    order_number: String,
    #[sqlx(rename = "select")]
    r#type: i32,
    delivery_note: Option<String>,
    #[rowlock(version)]
    row_version: i16,
    #[sqlx(skip)]
    cached: Option<String>,
}

const ORDERS: &str = r#"CREATE TABLE "order" ("tenantId" bigint, "orderNumber" text, "select" int NOT NULL,
    "deliveryNote" text, "rowVersion" smallint NOT NULL, PRIMARY KEY ("tenantId", "orderNumber"));
    INSERT INTO "order" VALUES (1, 'a', 1, NULL, 0), (2, 'a', 2, NULL, 0), (1, 'b', 3, NULL, 0)"#;

#[tokio::test]
async fn v_18_a_partial_update_is_checked_and_bumped_with_a_custom_version_column() {
    let database = database(ORDERS).await;
    let pool = &database.pool;
    let order = Order::load(pool, (1, "a")).await.unwrap();
    let mut edit = order.edit();
    edit.delivery_note = Some("left of the door".to_owned());
    assert_eq!(edit.changed_fields(), ["delivery_note"]);
    let saved = edit.save(pool).await.unwrap();
    assert_eq!((saved.row_version, saved.r#type), (1, 1));

    let mut other = order.edit();
    other.r#type = 5;
    assert!(matches!(other.save(pool).await, Err(UpdateError::Stale(_))));
}

#[tokio::test]
async fn v_21_every_key_column_is_in_every_where() {
    let database = database(ORDERS).await;
    let pool = &database.pool;
    let order = Order::load(pool, (1, "a")).await.unwrap();
    let order = Order {
        r#type: 10,
        ..order
    }
    .update(pool)
    .await
    .unwrap();
    let order = order.touch(pool).await.unwrap();
    let mut edit = order.edit();
    edit.r#type = 11;
    edit.save(pool).await.unwrap().delete(pool).await.unwrap();
    for (key, kind) in [((2, "a"), 2), ((1, "b"), 3)] {
        let other = Order::load(pool, key).await.unwrap();
        assert_eq!((other.r#type, other.row_version), (kind, 0));
    }
}

#[tokio::test]
async fn skipped_fields_are_kept_by_writes() {
    let database = database(ORDERS).await;
    let order = Order::load(&database.pool, (1, "a")).await.unwrap();
    let order = Order {
        cached: Some("kept".to_owned()),
        ..order
    };
    assert_eq!(
        order
            .update(&database.pool)
            .await
            .unwrap()
            .cached
            .as_deref(),
        Some("kept")
    );
}

/// A counter column is written by `Counter` alone: a full-row update of a stale copy would take increments back.
#[tokio::test]
async fn v_19_c_14_an_update_leaves_counters_alone_and_reads_them_back() {
    let database = database(PAGES).await;
    let pool = &database.pool;
    let page = Page::find_or_create(pool, new_page("/a", "a"))
        .await
        .unwrap()
        .into_inner();
    Page::add_views(pool, "/a", 5).await.unwrap();

    let saved = Page {
        title: None,
        views: -100,
        ..page
    }
    .update(pool)
    .await
    .unwrap();
    assert_eq!((saved.views, saved.revision), (5, 1));
    assert_eq!(Page::load(pool, "/a").await.unwrap(), saved);
}

#[tokio::test]
async fn v_22_d_11_an_update_of_a_deleted_row_is_gone_and_does_not_insert() {
    let (database, document) = documents().await;
    let pool = &database.pool;
    document.delete(pool).await.unwrap();

    assert!(matches!(
        document.update(pool).await,
        Err(UpdateError::Gone(_))
    ));
    assert!(matches!(
        document.touch(pool).await,
        Err(UpdateError::Gone(_))
    ));
    assert!(matches!(
        document.reload(pool).await,
        Err(LoadError::NotFound(_))
    ));
    let with = Document::update_with(pool, 7, |_| {}).await;
    assert!(matches!(with, Err(UpdateError::Gone(_))));
    let error = document.update(pool).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "update of documents (id = 7): the row does not exist (any more)"
    );
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM documents")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn v_26_a_copy_saved_in_a_rolled_back_transaction_can_be_saved_again() {
    let (database, document) = documents().await;
    let mut transaction = database.pool.begin().await.unwrap();
    document.update(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(
        document.update(&database.pool).await.unwrap().lock_version,
        1
    );
}

#[tokio::test]
async fn v_27_a_copy_saved_in_a_rolled_back_savepoint_can_be_saved_again() {
    use sqlx::Acquire;
    for commit_outer in [false, true] {
        let (database, document) = documents().await;
        let mut outer = database.pool.begin().await.unwrap();
        let mut savepoint = outer.begin().await.unwrap();
        document.update(&mut *savepoint).await.unwrap();
        savepoint.rollback().await.unwrap();
        let saved = if commit_outer {
            outer.commit().await.unwrap();
            document.update(&database.pool).await
        } else {
            let saved = document.update(&mut *outer).await;
            outer.commit().await.unwrap();
            saved
        };
        assert_eq!(saved.unwrap(), stored(&database.pool).await);
    }
}

macro_rules! versions {
    ($($model:ident $table:literal $ty:ident $sql:literal;)*) => {$(
        #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
        #[rowlock(table = $table)]
        struct $model {
            #[rowlock(key)]
            id: i64,
            text: String,
            #[rowlock(version)]
            version: $ty,
        }

        impl $model {
            async fn check_overflow() {
                let database = database(concat!(
                    "CREATE TABLE ", $table, " (id bigint PRIMARY KEY, text text NOT NULL, version ", $sql, " NOT NULL)"
                )).await;
                let pool = &database.pool;
                let highest = $model { id: 1, text: "old".to_owned(), version: $ty::MAX };
                sqlx::query(concat!("INSERT INTO ", $table, " VALUES ($1, $2, $3)"))
                    .bind(highest.id).bind(&highest.text).bind(highest.version)
                    .execute(pool).await.unwrap();

                let mut edit = highest.edit();
                edit.text = "new".to_owned();
                assert!(matches!(highest.update(pool).await, Err(UpdateError::VersionOverflow(_))));
                assert!(matches!(highest.touch(pool).await, Err(UpdateError::VersionOverflow(_))));
                assert!(matches!(edit.save(pool).await, Err(UpdateError::VersionOverflow(_))));
                let with = $model::update_with(pool, 1, |row| row.text.clear()).await;
                assert!(matches!(with, Err(UpdateError::VersionOverflow(_))));
                assert_eq!($model::load(pool, 1).await.unwrap(), highest);

                // Of a copy that nobody has read, as an ETag can be.
                let made_up = $model { id: 2, ..highest.clone() };
                assert!(matches!(made_up.update(pool).await, Err(UpdateError::Gone(_))));

                // One below is fine, and so is a delete.
                let lower = $model { version: $ty::MAX - 1, ..highest.clone() };
                sqlx::query(concat!("UPDATE ", $table, " SET version = $1"))
                    .bind(lower.version).execute(pool).await.unwrap();
                assert!(matches!(highest.update(pool).await, Err(UpdateError::Stale(_))));
                let last = lower.update(pool).await.unwrap();
                assert_eq!(last.version, $ty::MAX);
                last.delete(pool).await.unwrap();
            }
        }
    )*};
}
versions! {
    Small "small" i16 "smallint";
    Medium "medium" i32 "int";
    Large "large" i64 "bigint";
}

#[tokio::test]
async fn v_29_a_version_at_its_types_limit_is_a_typed_error_and_changes_nothing() {
    Small::check_overflow().await;
    Medium::check_overflow().await;
    Large::check_overflow().await;
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "stamped")]
struct Stamped {
    #[rowlock(key)]
    id: i64,
    price: i64,
    #[rowlock(generated)]
    doubled: i64,
    #[rowlock(version)]
    version: i64,
}

#[tokio::test]
async fn v_30_what_the_database_generates_comes_back_in_the_same_statement() {
    let database = database(
        "CREATE TABLE stamped (id bigint PRIMARY KEY, price bigint NOT NULL,
            doubled bigint GENERATED ALWAYS AS (price * 2) STORED, version bigint NOT NULL);
         INSERT INTO stamped (id, price, version) VALUES (1, 10, 0)",
    )
    .await;
    let row = Stamped::load(&database.pool, 1).await.unwrap();
    let saved = Stamped { price: 21, ..row }
        .update(&database.pool)
        .await
        .unwrap();
    assert_eq!((saved.doubled, saved.version), (42, 1));
    let mut edit = saved.edit();
    edit.price = 4;
    assert_eq!(edit.save(&database.pool).await.unwrap().doubled, 8);
}

/// The driver reports matched rows, and an update whose row fits already still counts.
#[tokio::test]
async fn v_32_an_update_that_writes_the_same_values_succeeds() {
    let (database, document) = documents().await;
    let again = document.update(&database.pool).await.unwrap();
    assert_eq!(again.title, document.title);
    again.delete(&database.pool).await.unwrap();
}

#[tokio::test]
async fn v_33_a_conflict_can_be_resolved_three_ways() {
    let (database, document) = documents().await;
    let pool = &database.pool;
    let conflict = async |mine: &Document| match mine.update(pool).await {
        Err(UpdateError::Stale(conflict)) => conflict,
        other => panic!("{other:?}"),
    };

    // Theirs.
    let theirs = titled(&document, "theirs").update(pool).await.unwrap();
    assert_eq!(conflict(&titled(&document, "mine")).await.current, theirs);

    // Mine.
    let lost = conflict(&titled(&document, "mine")).await;
    assert_eq!(lost.changed_fields(), ["title"]);
    let mine = lost.keep_mine().save(pool).await.unwrap();
    assert_eq!((mine.title.as_str(), mine.lock_version), ("mine", 2));

    // Both, from an edit, which knows what it started from.
    let base = stored(pool).await;
    let mut edit = base.edit();
    edit.body = "my body".to_owned();
    titled(&base, "their title").update(pool).await.unwrap();
    let Err(UpdateError::Stale(conflict)) = edit.save(pool).await else {
        panic!("not stale");
    };
    assert_eq!(conflict.changed_fields(), ["title"]);
    assert_eq!(conflict.base(), Some(&base));
    let merged = conflict.merge().unwrap();
    assert_eq!(merged.changed_fields(), ["body"]);
    let merged = merged.save(pool).await.unwrap();
    assert_eq!(
        (merged.title.as_str(), merged.body.as_str()),
        ("their title", "my body")
    );
}

#[tokio::test]
async fn v_33_merging_lists_the_fields_that_both_changed() {
    let (database, base) = documents().await;
    let pool = &database.pool;
    let mut edit = base.edit();
    edit.title = "mine".to_owned();
    edit.body = "agreed".to_owned();
    edit.note = Some("only mine".to_owned());
    Document {
        body: "agreed".to_owned(),
        ..titled(&base, "theirs")
    }
    .update(pool)
    .await
    .unwrap();

    let Err(UpdateError::Stale(conflict)) = edit.save(pool).await else {
        panic!("not stale");
    };
    let refused = conflict.merge().unwrap_err();
    // The same change of the body by both is agreement.
    assert_eq!(refused, MergeError::Overlap(vec!["title"]));
    assert_eq!(refused.to_string(), "both changed title");

    let Err(UpdateError::Stale(conflict)) = base.update(pool).await else {
        panic!("not stale");
    };
    assert_eq!(conflict.merge().unwrap_err(), MergeError::NoBase);
}

#[tokio::test]
async fn d_01_d_02_a_stale_copy_cannot_delete_and_a_fresh_one_can() {
    let (database, stale) = documents().await;
    let fresh = titled(&stale, "fresh")
        .update(&database.pool)
        .await
        .unwrap();
    let refused = stale.delete(&database.pool).await.unwrap_err();
    assert!(
        matches!(&refused, DeleteError::Stale(conflict) if conflict.current == fresh),
        "{refused:?}"
    );
    assert_eq!(stored(&database.pool).await, fresh);
    fresh.delete(&database.pool).await.unwrap();
}

#[tokio::test]
async fn d_03_d_08_deleting_twice_is_a_conflict() {
    let (database, document) = documents().await;
    document.delete(&database.pool).await.unwrap();
    let again = document.delete(&database.pool).await.unwrap_err();
    assert!(matches!(again, DeleteError::Gone(_)), "{again:?}");
}

#[tokio::test]
async fn d_05_an_edited_version_is_what_delete_checks() {
    let (database, document) = documents().await;
    let edited = Document {
        lock_version: 3,
        ..document.clone()
    };
    assert!(matches!(
        edited.delete(&database.pool).await,
        Err(DeleteError::Stale(_))
    ));
    document.delete(&database.pool).await.unwrap();
}

#[tokio::test]
async fn d_07_two_deletes_in_a_transaction_happen_together_or_not_at_all() {
    let (database, first) = documents().await;
    let pool = &database.pool;
    behind_our_back(
        pool,
        "INSERT INTO documents VALUES (8, 'second', '', NULL, 0)",
    )
    .await;
    let second = Document::load(pool, 8).await.unwrap();
    second.touch(pool).await.unwrap();

    let mut transaction = pool.begin().await.unwrap();
    first.delete(&mut *transaction).await.unwrap();
    let refused = second.delete(&mut *transaction).await.unwrap_err();
    assert!(matches!(refused, DeleteError::Stale(_)), "{refused:?}");
    transaction.rollback().await.unwrap();
    assert_eq!(stored(pool).await, first);
}

#[tokio::test]
async fn d_09_a_delete_that_cascades_into_its_own_counter_is_not_stale() {
    let database = database(DOCUMENTS).await;
    let pool = &database.pool;
    // Deleting a comment raises the version of its document, which is being deleted.
    let trigger = if super::NAME == "SQLite" {
        "CREATE TRIGGER bump AFTER DELETE ON comments BEGIN
            UPDATE documents SET lock_version = lock_version + 1 WHERE id = OLD.document_id; END"
    } else {
        "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE documents SET lock_version = lock_version + 1 WHERE id = OLD.document_id; RETURN OLD; END $$;
         CREATE TRIGGER bump AFTER DELETE ON comments FOR EACH ROW EXECUTE FUNCTION bump()"
    };
    behind_our_back(
        pool,
        "CREATE TABLE comments (id int PRIMARY KEY, document_id bigint NOT NULL REFERENCES documents ON DELETE CASCADE);
         INSERT INTO comments VALUES (1, 7), (2, 7)",
    )
    .await;
    behind_our_back(pool, trigger).await;
    let document = stored(pool).await;
    document.delete(pool).await.unwrap();
    let comments: i64 = sqlx::query_scalar("SELECT count(*) FROM comments")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(comments, 0);
}

/// A soft delete is an update like any other.
#[tokio::test]
async fn d_12_a_soft_delete_is_checked_and_bumps() {
    let (database, document) = documents().await;
    let deleted = |document: &Document| Document {
        note: Some("deleted".to_owned()),
        ..document.clone()
    };
    let first = deleted(&document).update(&database.pool).await.unwrap();
    assert_eq!(first.lock_version, 1);
    assert!(matches!(
        deleted(&document).update(&database.pool).await,
        Err(UpdateError::Stale(_))
    ));
}

/// Documented: a version that starts at 0 again cannot tell the new row from the old one.
#[tokio::test]
async fn a_key_that_is_used_again_matches_an_old_copy() {
    let (database, old) = documents().await;
    behind_our_back(
        &database.pool,
        "DELETE FROM documents; INSERT INTO documents VALUES (7, 'another', '', NULL, 0)",
    )
    .await;
    titled(&old, "old").update(&database.pool).await.unwrap();
}

#[tokio::test]
async fn a_write_that_a_trigger_drops_is_not_a_success() {
    let (database, document) = documents().await;
    let trigger = if super::NAME == "SQLite" {
        "CREATE TRIGGER no BEFORE UPDATE ON documents BEGIN SELECT RAISE(IGNORE); END;
         CREATE TRIGGER never BEFORE DELETE ON documents BEGIN SELECT RAISE(IGNORE); END"
    } else {
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER no BEFORE UPDATE OR DELETE ON documents FOR EACH ROW EXECUTE FUNCTION no()"
    };
    behind_our_back(&database.pool, trigger).await;
    assert!(matches!(
        document.update(&database.pool).await,
        Err(UpdateError::Ignored(_))
    ));
    assert!(matches!(
        document.delete(&database.pool).await,
        Err(DeleteError::Ignored(_))
    ));
}

#[tokio::test]
async fn a_key_that_is_not_unique_is_reported_and_nothing_is_written() {
    let database = database(
        "CREATE TABLE documents (id bigint, title text NOT NULL, body text NOT NULL, note text, lock_version bigint);
         INSERT INTO documents VALUES (7, 'one', '', NULL, 0), (7, 'two', '', NULL, 0)",
    )
    .await;
    let pool = &database.pool;
    assert!(matches!(
        Document::load(pool, 7).await,
        Err(LoadError::NotUnique(_))
    ));
    let document = Document {
        id: 7,
        title: String::new(),
        body: String::new(),
        note: None,
        lock_version: 0,
    };
    assert!(matches!(
        document.update(pool).await,
        Err(UpdateError::NotUnique(_))
    ));
    assert!(matches!(
        document.touch(pool).await,
        Err(UpdateError::NotUnique(_))
    ));
    let mut edit = document.edit();
    edit.body = "mine".to_owned();
    assert!(matches!(
        edit.save(pool).await,
        Err(UpdateError::NotUnique(_))
    ));
    assert!(matches!(
        document.delete(pool).await,
        Err(DeleteError::NotUnique(_))
    ));
    let stored = || async {
        let rows = "SELECT title, lock_version FROM documents ORDER BY title";
        sqlx::query_as::<_, (String, i64)>(rows)
            .fetch_all(pool)
            .await
            .unwrap()
    };
    let untouched = [("one".to_owned(), 0), ("two".to_owned(), 0)];
    assert_eq!(stored().await, untouched);

    // What the same guards do without the look at the others.
    sqlx::query(
        "UPDATE documents SET lock_version = lock_version + 1 WHERE id = 7 AND lock_version = 0",
    )
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(stored().await, untouched.map(|(title, _)| (title, 1)));

    // One of two has the version.
    sqlx::query("UPDATE documents SET lock_version = 0 WHERE title = 'one'")
        .execute(pool)
        .await
        .unwrap();
    assert!(matches!(
        document.update(pool).await,
        Err(UpdateError::NotUnique(_))
    ));
}

#[tokio::test]
async fn an_edit_cannot_change_the_key() {
    let (database, document) = documents().await;
    let mut edit = document.edit();
    edit.id = 8;
    assert!(matches!(
        edit.save(&database.pool).await,
        Err(UpdateError::KeyChanged(_))
    ));
    let with = Document::update_with(&database.pool, 7, |document| document.id = 8).await;
    assert!(matches!(with, Err(UpdateError::KeyChanged(_))));
}

#[tokio::test]
async fn update_with_applies_to_the_row_as_it_is_then() {
    let (database, document) = documents().await;
    let mut holder = database.pool.begin().await.unwrap();
    titled(&document, "held")
        .update(&mut *holder)
        .await
        .unwrap();

    let pool = database.pool.clone();
    let waiter = tokio::spawn(async move {
        let mut applied = 0;
        let saved = Document::update_with(&pool, 7, |document| {
            applied += 1;
            document.title.push('!');
        })
        .await;
        (saved, applied)
    });
    database.until_blocked().await;
    holder.commit().await.unwrap();

    let (saved, applied) = waiter.await.unwrap();
    let saved = saved.unwrap();
    assert_eq!((saved.title.as_str(), saved.lock_version), ("held!", 2));
    // On PostgreSQL it provably saw the old row first; SQLite cannot tell when it looked.
    assert!(applied == 2 || super::NAME == "SQLite", "{applied}");
}

/// A third writer comes between the merge and its save: the new conflict knows its base, and merges again.
#[tokio::test]
async fn v_33_a_merge_that_meets_a_third_writer_can_be_merged_again() {
    let (database, base) = documents().await;
    let pool = &database.pool;
    let mut edit = base.edit();
    edit.note = Some("mine".to_owned());
    let second = titled(&base, "second").update(pool).await.unwrap();
    let Err(UpdateError::Stale(conflict)) = edit.save(pool).await else {
        panic!("not stale");
    };
    Document {
        body: "third".to_owned(),
        ..second
    }
    .update(pool)
    .await
    .unwrap();
    let Err(UpdateError::Stale(conflict)) = conflict.merge().unwrap().save(pool).await else {
        panic!("not stale");
    };
    let saved = conflict.merge().unwrap().save(pool).await.unwrap();
    assert_eq!(
        (
            saved.title.as_str(),
            saved.body.as_str(),
            saved.note.as_deref()
        ),
        ("second", "third", Some("mine"))
    );
}

/// A writer that changes the row every time between our read and our write.
#[tokio::test]
async fn update_with_gives_up_after_a_bounded_number_of_attempts() {
    let (database, _) = documents().await;
    let trigger = if super::NAME == "SQLite" {
        // The only way to come between two statements of one connection, for certain.
        "CREATE VIEW seen AS SELECT * FROM documents;
         CREATE TRIGGER moved INSTEAD OF UPDATE ON seen BEGIN
            UPDATE documents SET lock_version = lock_version + 1 WHERE id = OLD.id; SELECT RAISE(IGNORE); END"
    } else {
        "CREATE VIEW seen AS SELECT * FROM documents;
         CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE documents SET lock_version = lock_version + 1 WHERE id = OLD.id; RETURN NULL; END $$;
         CREATE TRIGGER moved INSTEAD OF UPDATE ON seen FOR EACH ROW EXECUTE FUNCTION moved()"
    };
    behind_our_back(&database.pool, trigger).await;

    #[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned)]
    #[rowlock(table = "seen")]
    struct Seen {
        #[rowlock(key)]
        id: i64,
        title: String,
        #[rowlock(version)]
        lock_version: i64,
    }
    let mut applied = 0;
    let refused = Seen::update_with(&database.pool, 7, |seen| {
        applied += 1;
        seen.title.clear();
    })
    .await
    .unwrap_err();
    assert!(matches!(refused, UpdateError::Stale(_)), "{refused:?}");
    assert_eq!(applied, 32);
}

/// Whatever is called through an edit, the row is the one that it began with.
#[tokio::test]
async fn a_key_that_was_edited_is_refused_by_every_method() {
    let (database, document) = documents().await;
    let pool = &database.pool;
    behind_our_back(
        pool,
        "INSERT INTO documents VALUES (8, 'another', 'row', NULL, 0)",
    )
    .await;
    let mut edit = document.edit();
    edit.id = 8;
    edit.title = "edited".to_owned();

    // The naive twin: the same copy without its origin is the copy of another row, and writes it.
    let twin = Document {
        id: 8,
        title: "lost".to_owned(),
        ..document.clone()
    };
    twin.update(pool).await.unwrap();
    behind_our_back(
        pool,
        "UPDATE documents SET title = 'another', lock_version = 0 WHERE id = 8",
    )
    .await;

    let written = [
        edit.save(pool).await,
        edit.update(pool).await,
        edit.touch(pool).await,
        edit.edit().update(pool).await,
        edit.edit().save(pool).await,
    ];
    for refused in written {
        assert!(
            matches!(refused, Err(UpdateError::KeyChanged(_))),
            "{refused:?}"
        );
    }
    let read = edit.reload(pool).await;
    assert!(matches!(read, Err(LoadError::KeyChanged(_))), "{read:?}");
    let deleted = edit.delete(pool).await;
    assert!(
        matches!(deleted, Err(DeleteError::KeyChanged(_))),
        "{deleted:?}"
    );
    for (id, title) in [(7, "title"), (8, "another")] {
        let row = Document::load(pool, id).await.unwrap();
        assert_eq!((row.title.as_str(), row.lock_version), (title, 0));
    }

    // With the key as it was, they are the methods of the row.
    edit.id = 7;
    assert_eq!(edit.reload(pool).await.unwrap(), document);
    let touched = edit.touch(pool).await.unwrap();
    assert_eq!(
        (touched.title.as_str(), touched.lock_version),
        ("edited", 1)
    );
    edit.lock_version = 1;
    assert_eq!(edit.update(pool).await.unwrap().lock_version, 2);
    edit.lock_version = 2;
    edit.delete(pool).await.unwrap();
}
