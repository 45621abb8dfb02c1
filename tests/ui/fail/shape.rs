//! Only a struct with named fields and without parameters is a model.

use rowlock::{Counter, FindOrCreate, Versioned};

#[derive(Clone, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "carts", unique(id))]
struct Cart<T> {
    #[rowlock(key)]
    id: i64,
    content: T,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "events", unique(id))]
struct Event<P> {
    #[rowlock(key)]
    id: i64,
    #[sqlx(json)]
    payload: P,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, Versioned)]
#[rowlock(table = "borrowed")]
struct Borrowed<'a> {
    #[rowlock(key)]
    id: &'a str,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, Versioned)]
#[rowlock(table = "sized")]
struct Sized<const N: usize> {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: i64,
}

#[derive(Clone, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "states")]
enum State {
    Open,
    Closed,
}

#[derive(Clone, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "pairs")]
struct Pair(#[rowlock(key)] i64, #[rowlock(version)] i64);

#[derive(Clone, Versioned, Counter, FindOrCreate)]
#[rowlock(table = "nothing")]
struct Nothing;

#[derive(Clone, Copy, Versioned)]
#[rowlock(table = "either")]
union Either {
    a: i64,
    b: i64,
}

async fn calls(pool: sqlx::SqlitePool, cart: Cart<i64>, state: State) {
    let _ = cart.update(&pool).await;
    let _ = state.update(&pool).await;
    let _ = Pair::update_with(&pool, 1, |pair| pair.0 += 1).await;
}

fn main() {}
