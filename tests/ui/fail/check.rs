use rowlock::Versioned;

// Both.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "a")]
struct Both {
    #[rowlock(key)]
    id: i64,
    #[rowlock(check)]
    name: String,
    #[rowlock(version)]
    version: i64,
}

// Not comparable with certainty.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "a")]
struct Uncertain {
    #[rowlock(key)]
    id: i64,
    #[rowlock(check)]
    #[sqlx(json)]
    tags: Vec<String>,
    #[rowlock(check)]
    data: Option<serde_json::Value>,
    #[rowlock(check)]
    weight: f32,
    #[rowlock(check)]
    height: Option<f64>,
}

// A key.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "a")]
struct Key {
    #[rowlock(key, check)]
    id: i64,
    name: String,
}

// Nothing to compare.
#[derive(Clone, sqlx::FromRow, Versioned)]
#[rowlock(table = "a")]
struct Nothing {
    #[rowlock(key)]
    id: i64,
    name: String,
}

fn main() {}
