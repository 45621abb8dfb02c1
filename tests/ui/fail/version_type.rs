//! A version whose type hides behind an alias, which only the compiler can see through.

use rowlock::{FindOrCreate, Versioned};

type Maybe = Option<i64>;
type Small = i8;

#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "nullable")]
struct Nullable {
    #[rowlock(key)]
    id: i64,
    #[rowlock(version)]
    version: Maybe,
}

#[derive(Clone, sqlx::FromRow, Versioned, FindOrCreate)]
#[rowlock(table = "narrow")]
struct Narrow {
    #[rowlock(key, unique)]
    id: i64,
    #[rowlock(version)]
    version: Small,
}

fn main() {}
