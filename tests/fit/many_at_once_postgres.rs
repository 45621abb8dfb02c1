//! Eight tasks give many rows at once, the same ones to different methods, each in an order of its own. Nobody deadlocks, and what each row was told is
//! what is in the table. `ROWLOCK_ROWS=1000000 cargo test -p rowlock-tests --test fit many_rows_of` is the long form.

use rowlock::row::{DeleteError, UpdateError};
use rowlock::tx::Tx;
use rowlock::{Counter, FindOrCreate, Lockable, Versioned};
use rowlock_tests::random::Random;
use sqlx::Postgres;
use tokio::task::JoinSet;

use super::{Pool, PoolOptions, fresh_url};

/// Its key is unique by itself, so that all methods find the rows by it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow, Versioned, Counter, FindOrCreate, Lockable)]
#[rowlock(table = "parts", backend(Postgres), existing_rows)]
struct Part {
    #[rowlock(key, unique)]
    number: i64,
    place: i64,
    #[rowlock(counter)]
    stock: i64,
    #[rowlock(version)]
    version: i64,
}

const PARTS: &str = "CREATE TABLE parts (number bigint PRIMARY KEY, place bigint NOT NULL, stock bigint NOT NULL, version bigint NOT NULL);
    INSERT INTO parts SELECT n, 0, 0, 0 FROM generate_series(999, 0, -1) AS n;
    CREATE TABLE noted (made bigint NOT NULL, gone bigint NOT NULL, stock bigint NOT NULL, versions bigint NOT NULL);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN INSERT INTO noted VALUES (1, 0, 0, 0);
        ELSE INSERT INTO noted VALUES (0, 1, OLD.stock, OLD.version);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION note();
    ANALYZE parts";

/// Those of these numbers are there, and stay.
const LASTING: usize = 1_000;

/// Those up to this come and go.
const ALL: usize = 1_200;

const TASKS: usize = 8;

/// What the tasks were told, or what the table has.
#[derive(Debug, Default, PartialEq)]
struct Told {
    made: i64,
    gone: i64,
    stock: i64,
    /// How often versions were raised.
    versions: i64,
}

impl Told {
    fn and(self, other: Self) -> Self {
        Self {
            made: self.made + other.made,
            gone: self.gone + other.gone,
            stock: self.stock + other.stock,
            versions: self.versions + other.versions,
        }
    }

    async fn by(pool: &Pool) -> Self {
        let sql = "SELECT sum(made)::bigint, sum(gone)::bigint, (sum(stock) + (SELECT sum(stock) FROM parts))::bigint,
            (sum(versions) + (SELECT sum(version) FROM parts))::bigint FROM noted";
        let row: (i64, i64, i64, i64) = sqlx::query_as(sql).fetch_one(pool).await.unwrap();
        let (made, gone, stock, versions) = row;
        Self {
            made,
            gone,
            stock,
            versions,
        }
    }
}

/// Different numbers below `end`, in any order.
fn numbers(random: &mut Random, end: usize) -> Vec<i64> {
    let mut all: Vec<i64> = (0..).take(end).collect();
    for index in 0..end {
        all.swap(index, index + random.below(end - index));
    }
    all.truncate(1 + random.below(400));
    all
}

async fn load(pool: &Pool, numbers: Vec<i64>) -> Vec<Part> {
    let loaded = Part::load_many(pool, numbers).await.into_iter();
    loaded.filter_map(Result::ok).collect()
}

fn updated<T>(row: &Result<T, UpdateError<Part>>) -> i64 {
    match row {
        Ok(_) => 1,
        Err(UpdateError::Stale(_) | UpdateError::Gone(_)) => 0,
        Err(error) => panic!("{error:?}"),
    }
}

async fn task(pool: Pool, mut random: Random, rows: usize) -> Told {
    let (mut told, mut given) = (Told::default(), 0);
    while given < rows {
        let (numbers, lasting) = (numbers(&mut random, ALL), numbers(&mut random, LASTING));
        given += numbers.len();
        // One that no row has: an upsert of what is there already raises no version.
        let place = 1 + random.below(1 << 60) as i64;
        let new = numbers.iter().map(|number| NewPart {
            number: *number,
            place,
        });
        match random.below(8) {
            0 => {
                for row in Part::find_or_create_many(&pool, new).await {
                    told.made += i64::from(row.unwrap().is_created());
                }
            }
            1 => {
                for row in Part::create_many(&pool, new).await {
                    told.made += i64::from(row.unwrap().is_some());
                }
            }
            2 => {
                for row in Part::upsert_many(&pool, new).await {
                    match row.unwrap().version {
                        0 => told.made += 1,
                        _ => told.versions += 1,
                    }
                }
            }
            3 => {
                let mut parts = load(&pool, numbers).await;
                parts.iter_mut().for_each(|part| part.place += 1);
                let written = Part::update_many(&pool, &parts).await;
                told.versions += written.iter().map(updated).sum::<i64>();
            }
            4 => {
                let parts = load(&pool, numbers).await;
                let mut edits: Vec<_> = parts.iter().map(Part::edit).collect();
                edits.iter_mut().for_each(|edit| edit.place += 1);
                let written = Part::save_many(&pool, &edits).await;
                told.versions += written.iter().map(updated).sum::<i64>();
            }
            5 => {
                let mut parts = load(&pool, numbers).await;
                parts.retain(|part| part.number >= LASTING as i64);
                for row in Part::delete_many(&pool, &parts).await {
                    match row {
                        Ok(_) => told.gone += 1,
                        Err(DeleteError::Stale(_) | DeleteError::Gone(_)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            6 => {
                let added = lasting.into_iter().map(|number| (number, 3));
                let totals = Part::add_stock_many(&pool, added).await.unwrap();
                told.stock += 3 * i64::try_from(totals.len()).unwrap();
            }
            _ => {
                let locked = async |tx: &mut Tx<Postgres>| {
                    let parts = Part::lock_many(&mut *tx, lasting.iter().copied()).await?;
                    let parts: Vec<Part> = parts.iter().map(|part| Part::clone(part)).collect();
                    let written = Part::update_many(&mut *tx, &parts).await;
                    let count = written.iter().map(updated).sum::<i64>();
                    assert_eq!(count, i64::try_from(parts.len()).unwrap());
                    anyhow::Ok(count)
                };
                told.versions += rowlock::transaction(&pool).run(locked).await.unwrap();
            }
        }
    }
    told
}

async fn deadlocks(pool: &Pool) -> i64 {
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// A pool of a database of its own, whose deadlocks are those of the test, and another to look at it.
async fn pools() -> (Pool, Pool) {
    let url = fresh_url().await;
    let watch = Pool::connect(&url).await.unwrap();
    sqlx::raw_sql(PARTS).execute(&watch).await.unwrap();
    let pool = PoolOptions::new().max_connections(TASKS as u32);
    (pool.connect(&url).await.unwrap(), watch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_of_eight_tasks() {
    let rows = std::env::var("ROWLOCK_ROWS").ok();
    let rows = rows.map_or(50_000, |rows| rows.parse().unwrap());
    let (pool, watch) = pools().await;
    let mut random = Random::new(8);
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        tasks.spawn(task(pool.clone(), random.fork(), rows / TASKS));
    }
    let told = tasks.join_all().await;
    let told = told.into_iter().fold(Told::default(), Told::and);
    println!("{told:?}");
    assert_eq!(told, Told::by(&watch).await);
    // Its sessions have told what they counted when they are gone.
    pool.close().await;
    assert_eq!(deadlocks(&watch).await, 0);
}

/// Each batch as it is given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_naive_twin_of_many_rows_deadlocks() {
    let (pool, watch) = pools().await;
    let mut random = Random::new(8);
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (pool, mut random) = (pool.clone(), random.fork());
        tasks.spawn(async move {
            let sql = "UPDATE parts SET place = 1 FROM unnest($1) AS given (number) WHERE parts.number = given.number";
            loop {
                let written = sqlx::query(sql).bind(numbers(&mut random, LASTING));
                if written.execute(&pool).await.is_err() {
                    return;
                }
            }
        });
    }
    tasks.join_next().await;
    tasks.shutdown().await;
    pool.close().await;
    assert!(deadlocks(&watch).await > 0);
}
