//! Edits of one document.

use anyhow::Result;
use rowlock::row::UpdateError;
use rowlock_examples::race::race;

use super::{BY_HAND, CALLS, GENERATED, Pool, ROUNDS, TASKS};
use crate::models::Document;
use crate::table::Row;

/// Every call appends one mark.
const MARK: char = '+';

async fn create_document(pool: &Pool, id: i64) -> Result<()> {
    sqlx::query("INSERT INTO documents VALUES ($1, '', '', '', '', 0)")
        .bind(id)
        .execute(pool)
        .await?;
    Ok(())
}

async fn read_by_hand(pool: &Pool) -> Result<Document> {
    let select =
        "SELECT id, title, summary, body, notes, lock_version FROM documents WHERE id = $1";
    Ok(sqlx::query_as(select).bind(BY_HAND).fetch_one(pool).await?)
}

async fn write_by_hand(pool: &Pool, document: &Document) -> Result<()> {
    sqlx::query(
        "UPDATE documents SET title = $1, summary = $2, body = $3, notes = $4 WHERE id = $5",
    )
    .bind(&document.title)
    .bind(&document.summary)
    .bind(&document.body)
    .bind(&document.notes)
    .bind(document.id)
    .execute(pool)
    .await?;
    Ok(())
}

/// The marks in all fields of a document.
async fn marks(pool: &Pool, id: i64) -> Result<usize> {
    let document = Document::load(pool, id).await?;
    let fields = [
        document.title,
        document.summary,
        document.body,
        document.notes,
    ];
    Ok(fields.concat().matches(MARK).count())
}

/// Everybody appends to the same text.
pub async fn edit_one_field(pool: &Pool) -> Result<Row> {
    create_document(pool, BY_HAND).await?;
    create_document(pool, GENERATED).await?;

    race(TASKS, ROUNDS, pool, |pool, turn| async move {
        let mut document = read_by_hand(&pool).await?;
        turn.everybody_has_read().await;
        document.body.push(MARK);
        write_by_hand(&pool, &document).await?;
        Ok(0)
    })
    .await?;

    let retries = race(TASKS, ROUNDS, pool, |pool, _| async move {
        let mut attempts = 0;
        Document::update_with(&pool, GENERATED, |document| {
            attempts += 1;
            document.body.push(MARK);
        })
        .await?;
        Ok(attempts - 1)
    })
    .await?;

    Ok(Row {
        derive: "Versioned",
        operation: "update_with",
        tasks: TASKS,
        calls: CALLS,
        lost_by_hand: CALLS - marks(pool, BY_HAND).await?,
        unit: "edits",
        lost_by_rowlock: CALLS - marks(pool, GENERATED).await?,
        met: format!("{retries} retries"),
    })
}

/// One task per field. By hand, who writes the whole row undoes what the others did to the other fields.
pub async fn edit_different_fields(pool: &Pool) -> Result<Row> {
    const FIELDS: usize = 4;
    fn field(document: &mut Document, task: usize) -> &mut String {
        match task {
            0 => &mut document.title,
            1 => &mut document.summary,
            2 => &mut document.body,
            _ => &mut document.notes,
        }
    }
    let before = (marks(pool, BY_HAND).await?, marks(pool, GENERATED).await?);

    race(FIELDS, ROUNDS, pool, |pool, turn| async move {
        let mut document = read_by_hand(&pool).await?;
        turn.everybody_has_read().await;
        field(&mut document, turn.task).push(MARK);
        write_by_hand(&pool, &document).await?;
        Ok(0)
    })
    .await?;

    let conflicts = race(FIELDS, ROUNDS, pool, |pool, turn| async move {
        let mut edit = Document::load(&pool, GENERATED).await?.edit();
        turn.everybody_has_read().await;
        field(&mut edit, turn.task).push(MARK);
        let mut conflicts = 0;
        loop {
            match edit.save(&pool).await {
                Ok(_) => return Ok(conflicts),
                Err(UpdateError::Stale(conflict)) => {
                    conflicts += 1;
                    edit = conflict.merge()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    })
    .await?;

    let calls = FIELDS * ROUNDS;
    Ok(Row {
        derive: "Versioned",
        operation: "edit, save, merge",
        tasks: FIELDS,
        calls,
        lost_by_hand: before.0 + calls - marks(pool, BY_HAND).await?,
        unit: "edits",
        lost_by_rowlock: before.1 + calls - marks(pool, GENERATED).await?,
        met: format!("{conflicts} conflicts merged"),
    })
}
