//! Every write of a page: one transaction with its revision, its tags, the author's quota and the notices.

use chrono::Utc;
use rowlock::row::{Edit, FoundOrCreated};
use rowlock::{Tx, transaction};

use super::{Db, Pool};
use crate::draft::{New, Patch};
use crate::http::Problem;
use crate::model::*;

/// Creates a page. `None` if the slug is taken.
pub async fn create(tx: &mut Tx<Db>, new: &New) -> Result<Option<Page>, rowlock::Error> {
    let page = NewPage {
        slug: new.slug.clone(),
        title: new.draft.title.clone(),
        tags: new.draft.tags.clone(),
        body: new.draft.body.clone(),
    };
    let created = Page::create(&mut *tx, page).await?;
    if let Some(page) = &created {
        record(tx, page, &new.draft.author).await?;
    }
    Ok(created)
}

/// Saves an edit. If somebody else was faster nothing is written, and the error has the conflict.
pub async fn save(pool: &Pool, edit: &Edit<Page>, author: &str) -> Result<Page, rowlock::Error> {
    let saved = transaction(pool).run(async |tx| {
        let page = edit.save(&mut *tx).await?;
        if page.lock_version > edit.lock_version {
            record(tx, &page, author).await?;
        }
        Ok(page)
    });
    Ok(saved.await?)
}

/// Changes the given fields of the page, if it still has that version.
pub async fn patch(
    pool: &Pool,
    id: i64,
    version: i64,
    patch: &Patch,
) -> Result<Page, rowlock::Error> {
    let saved = transaction(pool).run(async |tx| {
        let page = Page::edit_at(id, version)
            .set_if_some(Page::TITLE, patch.title.as_deref())
            .set_if_some(Page::TAGS, patch.tags.as_deref())
            .set_if_some(Page::BODY, patch.body.as_deref())
            .save(&mut *tx)
            .await?;
        if page.lock_version > version {
            record(tx, &page, &patch.author).await?;
        }
        Ok(page)
    });
    Ok(saved.await?)
}

/// Deletes the page if it is still as the author saw it.
pub async fn delete(pool: &Pool, seen: &Page, author: &str) -> Result<(), rowlock::Error> {
    let deleted = transaction(pool).run(async |tx| {
        notify(tx, seen, format!("{author} deleted {}", seen.slug)).await?;
        seen.delete(&mut *tx).await?;
        Ok(())
    });
    Ok(deleted.await?)
}

/// The page as it was at a version, which is what an editor started from. Also of one that is deleted.
pub async fn as_it_was(pool: &Pool, id: i64, version: i64) -> Result<Page, Problem> {
    let revision = Revision::find_by_page_id_and_version(pool, id, version).await?;
    let revision = revision.ok_or_else(Problem::not_found)?;
    Ok(Page {
        id,
        slug: revision.slug,
        title: revision.title,
        tags: revision.tags,
        body: revision.body,
        lock_version: version,
    })
}

async fn record(tx: &mut Tx<Db>, page: &Page, author: &str) -> Result<(), rowlock::Error> {
    let now = Utc::now();
    let hour = now.format("%Y-%m-%dT%H").to_string();
    Quota::add_edits(&mut *tx, (author, &hour), 1).await?;
    let revision = NewRevision {
        page_id: page.id,
        version: page.lock_version,
        slug: page.slug.clone(),
        title: page.title.clone(),
        tags: page.tags.clone(),
        body: page.body.clone(),
        author: author.to_owned(),
        saved_at: now,
    };
    Revision::create(&mut *tx, revision).await?;
    tag(tx, page).await?;
    notify(tx, page, format!("{author} saved {}", page.slug)).await
}

/// Gives the page the tags that it names, and creates those that nobody has used before.
async fn tag(tx: &mut Tx<Db>, page: &Page) -> Result<(), rowlock::Error> {
    let names = page.tags.split(',').map(str::trim);
    let news = names.filter(|name| !name.is_empty()).map(|name| NewTag {
        name: name.to_lowercase(),
    });
    let tags = Tag::find_or_create_many(&mut *tx, news).await;
    let tags: Vec<Tag> = tags
        .into_iter()
        .map(|tag| tag.map(FoundOrCreated::into_inner))
        .collect::<Result<_, _>>()?;

    sqlx::query("DELETE FROM page_tags WHERE page_id = $1")
        .bind(page.id)
        .execute(&mut *tx)
        .await?;
    let links = tags.iter().map(|tag| NewPageTag {
        page_id: page.id,
        tag_id: tag.id,
    });
    for linked in PageTag::create_many(&mut *tx, links).await {
        linked?;
    }
    Ok(())
}

/// The notices are there if the transaction commits, and only then.
async fn notify(tx: &mut Tx<Db>, page: &Page, text: String) -> Result<(), rowlock::Error> {
    let watchers: Vec<String> = sqlx::query_scalar("SELECT name FROM watchers WHERE page_id = $1")
        .bind(page.id)
        .fetch_all(&mut *tx)
        .await?;
    let notices = watchers.into_iter().map(|watcher| NewNotice {
        watcher,
        slug: page.slug.clone(),
        version: page.lock_version,
        text: text.clone(),
    });
    Notice::enqueue_many(tx, notices).await?;
    Ok(())
}
