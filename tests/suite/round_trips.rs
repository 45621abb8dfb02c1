//! How often each method goes to the server and back, counted on the wire.

use rowlock::queue::Claimed;
use rowlock::row::UpdateError;
use rowlock::{Counter, FindOrCreate, Lockable, Versioned, transaction};
use rowlock_tests::proxy::Proxy;

use super::queue::{Email, MINUTE, emails};
use super::{Database, Pool, PoolOptions, address, database};

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "notes", unique(slug))]
struct Note {
    #[rowlock(key, generated)]
    id: i64,
    slug: String,
    title: String,
    #[rowlock(version)]
    lock_version: i64,
}

#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Counter, Lockable)]
#[rowlock(table = "hits")]
struct Hits {
    #[rowlock(key)]
    page: i64,
    #[rowlock(counter)]
    views: i64,
    #[rowlock(counter(min = 0, max = 1000))]
    seats: i64,
}

const DDL: &str = "
    CREATE TABLE notes (id {id}, slug text NOT NULL UNIQUE, title text NOT NULL, lock_version bigint NOT NULL);
    CREATE TABLE hits (page bigint PRIMARY KEY, views bigint NOT NULL, seats bigint NOT NULL)";

const LOAD: &str = r#"SELECT "id", "slug", "title", "lock_version" FROM "notes" WHERE "id" = $1"#;

fn new(slug: &str) -> NewNote {
    NewNote {
        slug: slug.to_owned(),
        title: "a title".to_owned(),
    }
}

/// A database, and a pool of one connection on it that counts.
async fn counted() -> (Database, Proxy, Pool) {
    let database = database(DDL).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new().max_connections(1);
    let pool = database.pool_through(&proxy, options).await;
    (database, proxy, pool)
}

/// The round trips of the last of three calls: by then all statements are prepared.
async fn trips<T>(proxy: &Proxy, mut call: impl AsyncFnMut() -> T) -> usize {
    for _ in 0..2 {
        call().await;
    }
    proxy.reset();
    call().await;
    proxy.round_trips()
}

#[tokio::test]
async fn one_statement_is_one_round_trip() {
    let (_database, proxy, pool) = counted().await;
    let db = &mut *pool.acquire().await.unwrap();
    let mut note = Note::upsert(&mut *db, new("a")).await.unwrap();
    let id = note.id;
    let mut trips_of = Vec::new();
    macro_rules! count {
        ($name:literal, $call:expr) => {
            trips_of.push(($name, trips(&proxy, async || $call).await));
        };
    }

    count!("load", Note::load(&mut *db, id).await.unwrap());
    count!("reload", note.reload(&mut *db).await.unwrap());
    count!("update", note = note.update(&mut *db).await.unwrap());
    count!("touch", note = note.touch(&mut *db).await.unwrap());
    count!("save", {
        let mut edit = note.edit();
        edit.title.push('!');
        note = edit.save(&mut *db).await.unwrap();
    });
    count!("find_by", Note::find_by_slug(&mut *db, "a").await.unwrap());
    count!(
        "find_or_create, found",
        Note::find_or_create(&mut *db, new("a")).await.unwrap()
    );
    count!("upsert", Note::upsert(&mut *db, new("a")).await.unwrap());
    count!("add", Hits::add_views(&mut *db, 1, 1).await.unwrap());
    count!(
        "add within bounds",
        Hits::add_seats(&mut *db, 1, 1).await.unwrap()
    );
    count!(
        "add within bounds, to a row that must exist",
        Hits::add_seats(&mut *db, 1, -1).await.unwrap()
    );
    count!("get", Hits::get(&mut *db, 1).await.unwrap());
    // Each call needs a row of its own.
    for slug in ["b", "c", "d"] {
        let note = Note::upsert(&mut *db, new(slug)).await.unwrap();
        proxy.reset();
        note.delete(&mut *db).await.unwrap();
    }
    trips_of.push(("delete", proxy.round_trips()));

    for (name, trips) in trips_of {
        assert_eq!(trips, 1, "{name}");
    }
}

#[tokio::test]
async fn two_statements_are_two_round_trips() {
    let (_database, proxy, pool) = counted().await;
    let db = &mut *pool.acquire().await.unwrap();
    let note = Note::upsert(&mut *db, new("a")).await.unwrap();

    let created = {
        let mut slugs = ["b", "c", "d"].into_iter();
        trips(&proxy, async || {
            let slug = slugs.next().unwrap();
            Note::find_or_create(&mut *db, new(slug)).await.unwrap()
        })
        .await
    };
    assert_eq!(created, 2, "find_or_create, created");

    let update_with = trips(&proxy, async || {
        Note::update_with(&mut *db, note.id, |note| note.title.push('!'))
            .await
            .unwrap()
    })
    .await;
    assert_eq!(update_with, 2, "update_with");

    // The write, and the look at the row that it lost against.
    let conflict = trips(&proxy, async || {
        let lost = note.update(&mut *db).await.unwrap_err();
        assert!(matches!(lost, UpdateError::Stale(_)));
    })
    .await;
    assert_eq!(conflict, 2, "a conflict");
}

#[tokio::test]
async fn many_rows_are_one_statement_that_stays_prepared() {
    let (_database, proxy, pool) = counted().await;
    let mut db = pool.begin().await.unwrap();
    let mut rows = 0;
    let mut batch = || {
        rows += 100;
        (0..rows).map(|page| (page, 1))
    };
    let add = trips(&proxy, async || {
        Hits::add_views_many(&mut *db, batch()).await.unwrap()
    });
    assert_eq!(add.await, 1, "add_views_many");
    let lock = trips(&proxy, async || {
        let keys = batch().map(|(page, _)| page % 100);
        Hits::lock_many(&mut db, keys).await.unwrap()
    });
    assert_eq!(lock.await, 1, "lock_many");
}

#[tokio::test]
async fn nothing_to_do_sends_nothing() {
    let (_database, proxy, pool) = counted().await;
    let db = &mut *pool.acquire().await.unwrap();
    let note = Note::upsert(&mut *db, new("a")).await.unwrap();

    let save = trips(&proxy, async || note.edit().save(&mut *db).await.unwrap()).await;
    assert_eq!(save, 0, "save without a change");
    let empty = trips(&proxy, async || {
        Hits::add_seats_many(&mut *db, []).await.unwrap()
    })
    .await;
    assert_eq!(empty, 0, "an empty batch");
}

#[tokio::test]
async fn a_batch_of_claims_is_one_round_trip() {
    let database = emails(200).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new().max_connections(1);
    let pool = database.pool_through(&proxy, options).await;
    let db = &mut *pool.acquire().await.unwrap();

    let mut batches = Vec::new();
    let claim = trips(&proxy, async || {
        batches.push(Email::claim(&mut *db, 10).await.unwrap());
    });
    assert_eq!(claim.await, 1, "claim");
    let extend = trips(&proxy, async || {
        Claimed::extend_many(&mut *db, &mut batches[0], MINUTE)
            .await
            .unwrap()
    });
    assert_eq!(extend.await, 1, "extend_many");
    let complete = trips(&proxy, async || {
        let batch = batches.pop().unwrap();
        Claimed::complete_many(&mut *db, batch).await.unwrap()
    });
    assert_eq!(complete.await, 1, "complete_many");

    let mut batch = Email::claim(&mut *db, 10).await.unwrap();
    let complete = trips(&proxy, async || {
        batch.pop().unwrap().complete(&mut *db).await.unwrap()
    });
    assert_eq!(complete.await, 1, "complete");
    let retry = trips(&proxy, async || {
        batch.pop().unwrap().retry(&mut *db, "no").await.unwrap()
    });
    assert_eq!(retry.await, 1, "retry");
    // All that are left.
    Email::claim(&mut *db, 1_000).await.unwrap();
    let fewer = trips(&proxy, async || Email::claim(&mut *db, 1).await.unwrap()).await;
    // The claim, a look for rows that it could not write, and the rescue.
    assert_eq!(fewer, 3, "claim of fewer than asked");
    let empty = trips(&proxy, async || {
        Claimed::<Email>::complete_many(&mut *db, []).await.unwrap()
    })
    .await;
    assert_eq!(empty, 0, "an empty batch");
}

/// The pool pings a connection when it hands it out and when it takes it back, for everybody.
#[tokio::test]
async fn through_the_pool_it_is_what_sqlx_takes() {
    let (_database, proxy, pool) = counted().await;
    let id = Note::upsert(&pool, new("a")).await.unwrap().id;

    let rowlock = trips(&proxy, async || {
        Note::load(&pool, id).await.unwrap();
        back(&pool).await;
    })
    .await;
    let hand = trips(&proxy, async || {
        let note: Note = sqlx::query_as(LOAD)
            .bind(id)
            .fetch_one(&pool)
            .await
            .unwrap();
        back(&pool).await;
        note
    })
    .await;
    assert_eq!((rowlock, hand), (3, 3));
}

/// Waits until the pool has its connection back, which it pings in a task of its own.
async fn back(pool: &Pool) {
    while pool.num_idle() == 0 {
        tokio::task::yield_now().await;
    }
}

/// BEGIN, the statements, COMMIT, as by hand. Where something was not seen, what ends the transaction that COMMIT AND CHAIN leaves is sent
/// together with the pool's ping, so that there is one more answer, and no more round trip.
#[tokio::test]
async fn a_transaction_of_two_statements_is_four_round_trips() {
    let database = database(DDL).await;
    let proxy = Proxy::start(&address()).await;
    let options = PoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false);
    let pool = database.pool_through(&proxy, options).await;
    let sql = "UPDATE hits SET seats = seats + 1 WHERE page = $1";

    // The pool's own come in a task of its own, which does not run before something is waited for.
    let mut counts = Vec::new();
    for _ in 0..3 {
        proxy.reset();
        let run = transaction(&pool).run(async |tx| -> Result<(), rowlock::Error> {
            Hits::add_views(&mut *tx, 1, 1).await?;
            sqlx::query(sql).bind(1i64).execute(&mut *tx).await?;
            Ok(())
        });
        run.await.unwrap();
        let rowlock = proxy.round_trips();
        back(&pool).await;
        counts.push((rowlock, proxy.round_trips()));
    }
    assert_eq!(counts[2], (4, 5));

    proxy.reset();
    let mut tx = pool.begin().await.unwrap();
    Hits::add_views(&mut tx, 1, 1).await.unwrap();
    let update = sqlx::query(sql).bind(1i64);
    update.execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let hand = proxy.round_trips();
    back(&pool).await;
    assert_eq!((hand, proxy.round_trips()), (4, 5));

    // The mark leaves together with the statement. Whether that ended the transaction is asked before the next one that is seen, or
    // by COMMIT.
    for (seen_after, answers) in [(true, 4 + 2), (false, 4 + 1)] {
        proxy.reset();
        let run = transaction(&pool).run(async |tx| -> Result<(), rowlock::Error> {
            if !seen_after {
                Hits::add_views(&mut *tx, 1, 1).await?;
            }
            sqlx::query(sql).bind(1i64).execute(&mut **tx).await?;
            if seen_after {
                Hits::add_views(&mut *tx, 1, 1).await?;
            }
            Ok(())
        });
        run.await.unwrap();
        assert_eq!(proxy.round_trips(), answers);
        back(&pool).await;
    }
}
