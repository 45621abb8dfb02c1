//! What `Lockable` asks of a struct; the calls of its methods do not fail as well.

use rowlock::{Lockable, Versioned};

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "letters")]
struct Letter {
    id: i64,
    text: String,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "parcels")]
struct Parcel {
    number: i64,
}

#[derive(Lockable)]
#[rowlock(table = "states")]
enum State {
    Open,
}

#[derive(Lockable)]
#[rowlock(table = "carts")]
struct Cart<T> {
    #[rowlock(key)]
    id: T,
}

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "guests")]
struct Guest {
    #[rowlock(key)]
    id: Option<i64>,
}

type Maybe = Option<i64>;

#[derive(Clone, sqlx::FromRow, Lockable)]
#[rowlock(table = "aliases")]
struct Alias {
    #[rowlock(key)]
    id: Maybe,
}

/// Both derives need the key; it is said once.
#[derive(Clone, sqlx::FromRow, Lockable, Versioned)]
#[rowlock(table = "notes")]
struct Note {
    id: i64,
    #[rowlock(version)]
    version: i64,
}

async fn calls(pool: sqlx::PgPool, mut tx: sqlx::PgTransaction<'_>, note: Note) -> Result<(), Box<dyn std::error::Error>> {
    let mut letter = Letter::lock(&mut tx, 1).await?;
    letter.text.push('!');
    letter.save(&mut tx).await?;
    let letter: Letter = letter.into_inner();
    drop(Letter::lock(&mut tx, 1).no_key().nowait().await?.text.len());
    let skipped: Option<_> = Letter::lock(&mut tx, letter.id).skip_locked().await?;
    drop(skipped.map(rowlock::row::Locked::into_inner));
    drop(Letter::lock(&mut tx, 1).share().lock_timeout(std::time::Duration::ZERO).await?.into_inner());
    for mut letter in Letter::lock_many(&mut tx, [1, 2]).await? {
        letter.text.clear();
    }
    drop(Letter::lock_many(&mut tx, [1, 2]).skip_locked().await?.len());
    match note.lock_checked(&mut tx).await {
        Err(rowlock::row::LockCheckedError::Stale(conflict)) => drop(conflict.current),
        other => drop(other?),
    }
    rowlock::transaction(&pool)
        .run(async |tx| {
            let mut letter = Letter::lock(&mut *tx, 1).nowait().await?;
            letter.save(&mut *tx).await?;
            Ok::<_, rowlock::row::LockError>(())
        })
        .await?;
    Ok(())
}

fn main() {}
