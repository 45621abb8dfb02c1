//! `Lanes`: two of them and a plain caller on one row. Of the calls that wait for each other the first has the lane, and the others are one statement.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;

use rowlock::row::{CounterError, FindOrCreateError, UpdateError};
use rowlock::{Counter, FindOrCreate, Lanes, Versioned};
use rowlock_explore::{Actor, Ended, Explorer, Fault, Outcome};
use rowlock_tests::postgres;
use sqlx::{PgPool, Postgres, Row};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::{FAULTS, Known, LEFT_BEHIND, digits, letters, passed, pool, wrong};

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "page_views")]
struct PageViews {
    #[rowlock(key)]
    page: i32,
    #[rowlock(counter)]
    views: i64,
}

#[derive(Debug, sqlx::FromRow, Counter)]
#[rowlock(table = "shows", existing_rows)]
struct Show {
    #[rowlock(key)]
    id: i32,
    #[rowlock(counter(min = 0))]
    seats: i64,
}

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, Versioned)]
#[rowlock(table = "pages")]
struct Page {
    #[rowlock(key)]
    id: i32,
    title: String,
    #[rowlock(version)]
    version: i32,
}

#[derive(Clone, Debug, PartialEq, sqlx::FromRow, FindOrCreate)]
#[rowlock(table = "tags", unique(slug))]
struct Tag {
    #[rowlock(key, generated)]
    id: i32,
    slug: String,
}

const TABLES: &str = "CREATE TABLE page_views (page int PRIMARY KEY, views bigint NOT NULL);
    CREATE TABLE shows (id int PRIMARY KEY, seats bigint NOT NULL);
    CREATE TABLE pages (id int PRIMARY KEY, title text NOT NULL, version int NOT NULL);
    CREATE TABLE tags (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slug text NOT NULL UNIQUE)";

/// After each of these only the server knows.
const UNANSWERED: [Fault; 3] = [Fault::CutAfter, Fault::Terminated, Fault::DroppedAfter];

/// What each call of an actor knows.
type Calls<T> = Vec<Known<T>>;

async fn on_lanes<T: Debug + Send + Sync + 'static>(rows: &str) -> Explorer<Calls<T>> {
    Explorer::new(postgres::fresh_url().await)
        .schema(TABLES)
        .setup(rows)
        .never(LEFT_BEHIND)
        // On a busy machine too.
        .max_time(Duration::from_secs(600))
}

/// Adds actors of several calls.
trait Calling<T>: Sized {
    /// Three calls at once on one lane. The caller of the first two may go.
    fn three<E, F>(
        self,
        name: &str,
        call: impl Fn(Lanes<Postgres>, usize) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static;

    /// One call on a pool.
    fn one<E, F>(
        self,
        name: &str,
        call: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send;

    /// Three calls as a program by hand makes them, and nothing else.
    fn by_hand<F>(
        self,
        name: &str,
        calls: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Calls<T>> + Send;
}

impl<T: Debug + Send + Sync + 'static> Calling<T> for Explorer<Calls<T>> {
    fn three<E, F>(
        self,
        name: &str,
        call: impl Fn(Lanes<Postgres>, usize) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.actor(name, move |actor| {
            let call = call.clone();
            while_the_clock_stands(move || three_calls(actor, call))
        })
    }

    fn one<E, F>(
        self,
        name: &str,
        call: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<rowlock::Error> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send,
    {
        self.actor(name, move |actor| {
            let call = call.clone();
            async move { vec![super::in_a_pool(actor, call).await] }
        })
    }

    fn by_hand<F>(
        self,
        name: &str,
        calls: impl Fn(PgPool) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Calls<T>> + Send,
    {
        self.actor(name, move |actor| {
            let calls = calls.clone();
            async move {
                let pool = pool(&actor);
                let known = calls(pool.clone()).await;
                pool.close().await;
                known
            }
        })
    }
}

/// How long a request is held decides nothing: lanes have patience for 20 milliseconds, and here for ever.
async fn while_the_clock_stands<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> T {
    let (mut value, returned) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        let done = runtime.expect("a runtime").block_on(async {
            // While a thread is busy; else the clock goes on to the next timer when all wait.
            let (busy, over) = mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || over.recv());
            let done = tokio::select! {
                done = work() => Some(done),
                // The explorer has left the schedule.
                () = value.closed() => None,
            };
            drop(busy);
            done
        });
        if let Some(done) = done {
            let _ = value.send(done);
        }
    });
    returned.await.expect("the actor has not panicked")
}

async fn three_calls<T, E, F>(actor: Actor, call: impl Fn(Lanes<Postgres>, usize) -> F) -> Calls<T>
where
    E: Into<rowlock::Error>,
    F: Future<Output = Result<T, E>>,
{
    let pool = pool(&actor);
    let lanes = Lanes::new(&pool, 1).await.unwrap();
    let (first, second, third) = tokio::join!(
        biased;
        actor.may_drop(call(lanes.clone(), 0)),
        actor.may_drop(call(lanes.clone(), 1)),
        call(lanes.clone(), 2),
    );
    let goes_on = match is_outside(&lanes).await {
        Err(_) => is_outside(&lanes).await,
        goes_on => goes_on,
    };
    assert!(
        matches!(goes_on, Ok(true)),
        "the lane goes on outside a transaction: {goes_on:?}"
    );
    lanes.close().await;
    pool.close().await;
    vec![Known::of(first), Known::of(second), Known::of(Some(third))]
}

async fn is_outside(lanes: &Lanes<Postgres>) -> sqlx::Result<bool> {
    let sql = sqlx::raw_sql("SELECT transaction_timestamp() = statement_timestamp()");
    let mut lane = lanes.acquire().await?;
    sqlx::Executor::fetch_one(&mut *lane, sql).await?.try_get(0)
}

/// All calls, in the order of the actors. A statement serves two of them at most, and two callers go.
fn calls<T: Debug>(ended: &Ended<Calls<T>>) -> Result<Vec<&Known<T>>, String> {
    let mut calls = Vec::new();
    for outcome in ended.outcomes.iter() {
        match outcome {
            Outcome::Returned(known) => calls.extend(known),
            other => return Err(format!("{other:?}")),
        }
    }
    let unknown = calls.iter().filter(|known| matches!(known, Known::Unknown));
    match unknown.count() {
        unknown if unknown > 2 * ended.faults.len() => Err(format!("{unknown} do not know")),
        _ => Ok(calls),
    }
}

/// How often what each call does is in the database.
fn as_known<T: Debug>(calls: &[&Known<T>], found: &[u64]) -> Result<(), String> {
    for (number, (known, found)) in calls.iter().zip(found).enumerate() {
        let fits = match known {
            Known::Done(_) => *found == 1,
            Known::Not { .. } => *found == 0,
            Known::Unknown => *found <= 1,
        };
        if !fits {
            return Err(format!(
                "call {number}: {found} times in the database: {known:?}"
            ));
        }
    }
    Ok(())
}

/// Each call adds another power of ten, in the order of the actors.
async fn views() -> Explorer<Calls<i64>> {
    let explorer = on_lanes("DELETE FROM page_views; INSERT INTO page_views VALUES (1, 0)").await;
    explorer.invariant(|ended: Ended<Calls<i64>>| async move {
        let sum = ended.value("SELECT views FROM page_views").await?;
        let (calls, sum) = (calls(&ended)?, digits::<7>(sum.parse().unwrap()));
        as_known(&calls, &sum)?;
        // Each total has its own addition in it, and all that are in a lower one.
        let totals = calls.iter().enumerate();
        let totals = totals.filter_map(|(call, known)| Some((*known.done()?, call)));
        let mut totals: Vec<(i64, usize)> = totals.collect();
        totals.sort_unstable();
        let mut before = [0; 7];
        for (total, call) in totals {
            let added = digits::<7>(total.try_into().unwrap());
            let within =
                |less: &[u64; 7], more: &[u64; 7]| less.iter().zip(more).all(|(a, b)| a <= b);
            if !within(&before, &added) || !within(&added, &sum) || before[call] >= added[call] {
                return Err(format!("call {call} is told {total} after {before:?}"));
            }
            before = added;
        }
        Ok(())
    })
}

/// Nobody is turned away by a neighbour's trouble: without a fault all are done, and with one all but those whom it met.
fn not_without_reason<T: Debug>(ended: &Ended<Calls<T>>) -> Result<(), String> {
    let calls = calls(ended)?;
    let done = calls.iter().filter(|known| known.done().is_some()).count();
    match done + 2 * ended.faults.len() >= calls.len() {
        true => Ok(()),
        false => Err(format!("{done} are done: {calls:?}")),
    }
}

type Adding = Pin<Box<dyn Future<Output = Result<i64, CounterError>> + Send>>;

fn add(first: i64) -> impl Fn(Lanes<Postgres>, usize) -> Adding + Clone + Send + Sync {
    move |lanes, call| {
        let by = first * [1, 10, 100][call];
        Box::pin(async move { PageViews::add_views(&lanes, 1, by).await })
    }
}

fn add_alone(by: i64) -> impl Fn(PgPool) -> Adding + Clone + Send + Sync {
    move |pool| Box::pin(async move { PageViews::add_views(&pool, 1, by).await })
}

/// Counts the statements that write, and has the server cancel the one of this number.
fn counted(table: &str, cancelled: usize) -> String {
    format!(
        "CREATE SEQUENCE statements;
         CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('statements') = {cancelled} THEN RAISE EXCEPTION USING ERRCODE = 'query_canceled'; END IF;
             RETURN NULL; END $$;
         CREATE TRIGGER count_statement BEFORE UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION count_statement()"
    )
}

const COUNT: &str = "SELECT setval('statements', 1, false)";

/// Two statements for three calls, whatever the other does meanwhile.
#[tokio::test]
async fn of_three_calls_two_are_one_statement() {
    let verdict = views()
        .await
        .schema(counted("page_views", 0))
        .setup(COUNT)
        .three("ann", add(1))
        .one("cal", add_alone(1_000))
        .never("SELECT last_value FROM statements WHERE last_value <> 3")
        .explore();
    passed(
        "Lanes: add, three times, against add",
        verdict.await.unwrap(),
    );
}

/// Whoever shares a statement that is cancelled is served without the others, and who has it alone is told.
#[tokio::test]
async fn a_statement_that_adds_is_cancelled() {
    for cancelled in 1..=3 {
        let verdict = views()
            .await
            .schema(counted("page_views", cancelled))
            .setup(COUNT)
            .three("ann", add(1))
            .one("cal", add_alone(1_000))
            .invariant(|ended: Ended<Calls<i64>>| async move { all_but_cancelled(&ended) })
            .explore();
        passed(
            "Lanes: add, three times, against add, one cancelled",
            verdict.await.unwrap(),
        );
    }
}

/// One call at most, and it knows.
fn all_but_cancelled<T: Debug>(ended: &Ended<Calls<T>>) -> Result<(), String> {
    let calls = calls(ended)?;
    let others = calls.iter().filter(|known| known.done().is_none());
    let others: Vec<_> = others.collect();
    match &others[..] {
        [] => Ok(()),
        [Known::Not { why, .. }] if why.contains("57014") => Ok(()),
        _ => Err(format!("{others:?}")),
    }
}

#[tokio::test]
async fn two_lanes_add() {
    let both = || async {
        views()
            .await
            .three("ann", add(1))
            .three("bob", add(1_000))
            .one("cal", add_alone(1_000_000))
            .invariant(|ended: Ended<Calls<i64>>| async move { not_without_reason(&ended) })
    };
    let verdict = both().await.explore();
    passed(
        "Lanes: add, three times on each of two, against add",
        verdict.await.unwrap(),
    );
    let verdict = both().await.faults(FAULTS).preemptions(0).explore();
    passed(
        "Lanes: add, three times on each of two, against add",
        verdict.await.unwrap(),
    );
}

/// Two of three calls are one statement, which goes to another connection if the first one breaks.
async fn again(pool: PgPool) -> Calls<i64> {
    let add = async |by: i64| {
        let update = "UPDATE page_views SET views = views + $1 WHERE page = 1 RETURNING views";
        sqlx::query_scalar(update).bind(by).fetch_one(&pool).await
    };
    let mut totals = Vec::new();
    for by in [1, 110] {
        totals.push(match add(by).await {
            Err(sqlx::Error::Io(_)) => add(by).await,
            added => added,
        });
    }
    let known = |total: &sqlx::Result<i64>, after: i64| match total {
        Ok(total) => Known::Done(total - after),
        Err(_) => Known::Unknown,
    };
    vec![
        known(&totals[0], 0),
        known(&totals[1], 100),
        known(&totals[1], 0),
    ]
}

#[tokio::test]
async fn by_hand_additions_are_made_again() {
    let verdict = views()
        .await
        .by_hand("ann", again)
        .one("cal", add_alone(1_000))
        .faults(FAULTS)
        .count_failures()
        .explore();
    wrong(
        "Lanes: additions sent again after an error of the network",
        verdict.await.unwrap(),
    );
}

/// What a call is told that had no room.
const BOUNDS: &str = "out of its bounds";

/// Four seats for seven calls.
async fn seats() -> Explorer<Calls<i64>> {
    let explorer = on_lanes("DELETE FROM shows; INSERT INTO shows VALUES (1, 4)").await;
    explorer
        .never("SELECT seats FROM shows WHERE seats < 0")
        .invariant(|ended: Ended<Calls<i64>>| async move {
            let left: i64 = ended.value("SELECT seats FROM shows").await?.parse().unwrap();
            let calls = calls(&ended)?;
            let mut totals: Vec<i64> = calls.iter().filter_map(|known| known.done()).copied().collect();
            let unknown = calls.iter().filter(|known| matches!(known, Known::Unknown));
            let (done, unknown) = (totals.len() as i64, unknown.count() as i64);
            totals.sort_unstable();
            totals.dedup();
            if totals.len() as i64 != done || totals.iter().any(|total| !(left..4).contains(total)) {
                return Err(format!("{left} are left, and these are told: {calls:?}"));
            }
            if !(done..=done + unknown).contains(&(4 - left)) {
                return Err(format!("{left} are left, {done} have one, and {unknown} do not know"));
            }
            let refused = |known: &&&Known<i64>| matches!(known, Known::Not { why, .. } if why.contains(BOUNDS));
            let refused = calls.iter().filter(refused).count();
            match (left, refused, ended.faults.is_empty()) {
                (1.., 1.., _) => Err(format!("{left} are left, and {refused} are refused")),
                (1.., _, true) => Err(format!("{left} are left")),
                (_, refused, true) if refused as i64 + done != 7 => Err(format!("{calls:?}")),
                _ => Ok(()),
            }
        })
}

fn book(lanes: Lanes<Postgres>, _: usize) -> Adding {
    Box::pin(async move { Show::add_seats(&lanes, 1, -1).await })
}

async fn book_alone(pool: PgPool) -> Result<i64, CounterError> {
    Show::add_seats(&pool, 1, -1).await
}

#[tokio::test]
async fn two_lanes_add_within_bounds() {
    let both = || async {
        let explorer = seats().await.three("ann", book).three("bob", book);
        explorer.one("cal", book_alone)
    };
    let verdict = both().await.preemptions(1).explore();
    passed(
        "Lanes: add within bounds, three times on each of two, against add",
        verdict.await.unwrap(),
    );
    let verdict = both().await.faults(UNANSWERED).preemptions(0).explore();
    passed(
        "Lanes: add within bounds, three times on each of two, against add",
        verdict.await.unwrap(),
    );
}

/// Sees how many have room, and takes the seats of those.
async fn as_many_as_fit(pool: PgPool) -> Calls<i64> {
    let seats = "SELECT seats FROM shows WHERE id = 1";
    let seats: i64 = sqlx::query_scalar(seats).fetch_one(&pool).await.unwrap();
    let taken = seats.min(3);
    let update = sqlx::query("UPDATE shows SET seats = seats - $1 WHERE id = 1").bind(taken);
    update.execute(&pool).await.unwrap();
    let told = |call| match call <= taken {
        true => Known::Done(seats - call),
        false => Known::Not {
            conflict: false,
            why: BOUNDS.to_owned(),
        },
    };
    (1..=3).map(told).collect()
}

#[tokio::test]
async fn by_hand_the_bound_of_many_is_checked_before() {
    let verdict = seats()
        .await
        .by_hand("ann", as_many_as_fit)
        .by_hand("bob", as_many_as_fit)
        .one("cal", book_alone)
        .exhaustive()
        .count_failures()
        .explore();
    wrong(
        "Lanes: the bound of many checked by a SELECT",
        verdict.await.unwrap(),
    );
}

/// The first two calls of a lane write page 1 as it was at first, the third one page 2; the last actor page 1 as he finds it.
async fn pages() -> Explorer<Calls<i32>> {
    let rows = "DELETE FROM pages; INSERT INTO pages VALUES (1, '', 0), (2, '', 0)";
    let explorer = on_lanes(rows).await;
    explorer
        .never("SELECT version, title FROM pages WHERE version <> length(title)")
        .invariant(|ended: Ended<Calls<i32>>| async move {
            let titles = ended.rows("SELECT title FROM pages ORDER BY id").await?;
            let titles: Vec<_> = titles
                .iter()
                .map(|row| row[0].clone().unwrap_or_default())
                .collect();
            let calls = calls(&ended)?;
            as_known(&calls, &letters(&titles.concat(), LETTERS))?;
            for (known, letter) in calls.iter().zip(LETTERS) {
                let is_at = |version: i32| {
                    let at = usize::try_from(version - 1).unwrap();
                    titles
                        .iter()
                        .any(|title| title.chars().nth(at) == Some(letter))
                };
                match known {
                    Known::Done(version) if !is_at(*version) => {
                        return Err(format!("{letter} is told {version}: {titles:?}"));
                    }
                    Known::Not {
                        conflict: false, ..
                    } if ended.faults.is_empty() => {
                        return Err(format!("{letter}: {known:?}"));
                    }
                    _ => {}
                }
            }
            // Who is not done, or does not know, was too late.
            match titles.iter().any(String::is_empty) && ended.faults.is_empty() {
                true => Err(format!("{titles:?}")),
                false => Ok(()),
            }
        })
}

const LETTERS: [char; 7] = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];

type Updating = Pin<Box<dyn Future<Output = Result<i32, UpdateError<Page>>> + Send>>;

fn update(first: usize) -> impl Fn(Lanes<Postgres>, usize) -> Updating + Clone + Send + Sync {
    move |lanes, call| {
        let page = Page {
            id: [1, 1, 2][call],
            title: LETTERS[first + call].into(),
            version: 0,
        };
        Box::pin(async move { page.update(&lanes).await.map(|page| page.version) })
    }
}

async fn append(pool: PgPool) -> Result<i32, rowlock::Error> {
    let mut page = Page::load(&pool, 1).await?;
    page.title.push('g');
    Ok(page.update(&pool).await?.version)
}

#[tokio::test]
async fn two_lanes_update() {
    let both = || async {
        let explorer = pages()
            .await
            .three("ann", update(0))
            .three("bob", update(3));
        explorer.one("cal", append)
    };
    let verdict = both().await.preemptions(1).explore();
    passed(
        "Lanes: update, three times on each of two, against load and update",
        verdict.await.unwrap(),
    );
    let verdict = both().await.faults(UNANSWERED).preemptions(0).explore();
    passed(
        "Lanes: update, three times on each of two, against load and update",
        verdict.await.unwrap(),
    );
}

/// Nobody is told of a conflict who had none: the statement is done without the others.
#[tokio::test]
async fn a_statement_that_updates_is_cancelled() {
    for cancelled in 1..=3 {
        let verdict = on_lanes(
            "DELETE FROM pages; INSERT INTO pages VALUES (1, '', 0), (2, '', 0), (3, '', 0)",
        )
        .await
        .schema(counted("pages", cancelled))
        .setup(COUNT)
        .three("ann", |lanes, call| async move {
            let (id, title) = ([1, 2, 3][call], LETTERS[call].into());
            let page = Page {
                id,
                title,
                version: 0,
            };
            page.update(&lanes).await.map(|page| page.version)
        })
        .never("SELECT version, title FROM pages WHERE version <> length(title)")
        .invariant(|ended: Ended<Calls<i32>>| async move {
            let titles = ended
                .value("SELECT string_agg(title, '') FROM pages")
                .await?;
            as_known(&calls(&ended)?, &letters(&titles, ['a', 'b', 'c']))?;
            all_but_cancelled(&ended)
        })
        .explore();
        passed(
            "Lanes: update, three times, one cancelled",
            verdict.await.unwrap(),
        );
    }
}

/// The versions are looked at before, and then all are written.
async fn versions_before(pool: PgPool, letters: [char; 3]) -> Calls<i32> {
    let versions = "SELECT version FROM pages ORDER BY id";
    let versions: Vec<i32> = sqlx::query_scalar(versions).fetch_all(&pool).await.unwrap();
    let (ids, titles): (Vec<i32>, Vec<String>) = [(1, letters[0]), (2, letters[2])]
        .into_iter()
        .filter(|(id, _)| versions[*id as usize - 1] == 0)
        .map(|(id, letter)| (id, letter.to_string()))
        .unzip();
    let update = "UPDATE pages SET title = given.title, version = version + 1
        FROM unnest($1::int[], $2::text[]) AS given (id, title) WHERE pages.id = given.id";
    let update = sqlx::query(update).bind(&ids).bind(titles);
    update.execute(&pool).await.unwrap();
    let told = |id: i32| match ids.contains(&id) {
        true => Known::Done(1),
        false => stale(),
    };
    vec![told(1), stale(), told(2)]
}

fn stale() -> Known<i32> {
    Known::Not {
        conflict: true,
        why: "stale".to_owned(),
    }
}

#[tokio::test]
async fn by_hand_the_versions_of_many_are_checked_before() {
    let verdict = pages()
        .await
        .by_hand("ann", |pool| versions_before(pool, ['a', 'b', 'c']))
        .by_hand("bob", |pool| versions_before(pool, ['d', 'e', 'f']))
        .one("cal", append)
        .count_failures()
        .explore();
    wrong(
        "Lanes: the versions of many checked by a SELECT",
        verdict.await.unwrap(),
    );
}

/// What a call got: the slug, the row's id, and whether it made it.
type Got = (&'static str, i32, bool);

/// Who returns a row returns the one that is there, and one of all has made it.
async fn tags() -> Explorer<Calls<Got>> {
    let explorer = on_lanes("DELETE FROM tags").await;
    explorer.invariant(|ended: Ended<Calls<Got>>| async move {
        let calls = calls(&ended)?;
        let is_known = !calls.iter().any(|known| matches!(known, Known::Unknown));
        for slug in ["x", "y"] {
            let ids = format!("SELECT id FROM tags WHERE slug = '{slug}'");
            let ids = ended.rows(&ids).await?;
            let there: Vec<_> = ids.iter().filter_map(|row| row[0].as_deref()).collect();
            let got = calls.iter().filter_map(|known| known.done());
            let got: Vec<_> = got.filter(|got| got.0 == slug).collect();
            let made = got.iter().filter(|got| got.2).count();
            let is_right = match &there[..] {
                [] => got.is_empty() && !ended.faults.is_empty(),
                [id] => {
                    let same = got.iter().all(|got| got.1.to_string() == *id);
                    same && (made == 1 || made == 0 && !is_known)
                }
                _ => false,
            };
            if !is_right {
                return Err(format!("{slug}: {there:?} is there, {got:?}"));
            }
        }
        not_without_reason(&ended)
    })
}

const SLUGS: [&str; 3] = ["x", "x", "y"];

async fn find_or_create(lanes: Lanes<Postgres>, call: usize) -> Result<Got, FindOrCreateError> {
    let slug = SLUGS[call];
    let new = NewTag {
        slug: slug.to_owned(),
    };
    let tag = Tag::find_or_create(&lanes, new).await?;
    Ok((slug, tag.id, tag.is_created()))
}

async fn find_or_create_alone(pool: PgPool) -> Result<Got, FindOrCreateError> {
    let new = NewTag {
        slug: "x".to_owned(),
    };
    let tag = Tag::find_or_create(&pool, new).await?;
    Ok(("x", tag.id, tag.is_created()))
}

#[tokio::test]
async fn two_lanes_find_or_create() {
    let both = || async {
        let explorer = tags()
            .await
            .three("ann", find_or_create)
            .three("bob", find_or_create);
        explorer.one("cal", find_or_create_alone)
    };
    let verdict = both().await.preemptions(1).explore();
    passed(
        "Lanes: find_or_create, three times on each of two, against find_or_create",
        verdict.await.unwrap(),
    );
    let verdict = both().await.faults(UNANSWERED).preemptions(0).explore();
    passed(
        "Lanes: find_or_create, three times on each of two, against find_or_create",
        verdict.await.unwrap(),
    );
}

/// What is not found is inserted, and then it is there.
async fn look_and_insert(pool: PgPool) -> Calls<Got> {
    let found = "SELECT slug FROM tags WHERE slug = ANY($1)";
    let found = sqlx::query_scalar::<_, String>(found).bind(SLUGS.to_vec());
    let found = found.fetch_all(&pool).await.unwrap();
    let insert = "INSERT INTO tags (slug) SELECT DISTINCT slug FROM unnest($1::text[]) AS slug ON CONFLICT DO NOTHING";
    let insert = sqlx::query(insert).bind(SLUGS.to_vec());
    insert.execute(&pool).await.unwrap();
    let ids = "SELECT slug, id FROM tags WHERE slug = ANY($1)";
    let ids = sqlx::query_as::<_, (String, i32)>(ids).bind(SLUGS.to_vec());
    let ids = ids.fetch_all(&pool).await.unwrap();
    let got = |(call, slug): (usize, &'static str)| {
        let id = ids.iter().find(|(there, _)| there == slug).unwrap().1;
        let is_first = SLUGS.iter().position(|other| *other == slug) == Some(call);
        Known::Done((slug, id, is_first && !found.contains(&slug.to_owned())))
    };
    SLUGS.into_iter().enumerate().map(got).collect()
}

#[tokio::test]
async fn by_hand_many_are_looked_for_before() {
    let verdict = tags()
        .await
        .by_hand("ann", look_and_insert)
        .by_hand("bob", look_and_insert)
        .one("cal", find_or_create_alone)
        .preemptions(1)
        .count_failures()
        .explore();
    wrong(
        "Lanes: many looked for by a SELECT, then inserted",
        verdict.await.unwrap(),
    );
}
