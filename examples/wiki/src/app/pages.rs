//! The pages for people: plain HTML forms.

use axum::Router;
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use maud::Markup;
use rowlock::row::UpdateError;
use rowlock::transaction;
use serde::Deserialize;

use super::{App, edits, jobs};
use crate::draft::{Draft, New, check_name, text_of_form};
use crate::html;
use crate::http::Problem;
use crate::merge;
use crate::model::*;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(index))
        .route("/new", get(async || html::editor(None)).post(create))
        .route("/pages/{slug}", get(show))
        .route("/pages/{slug}/edit", get(edit).post(save))
        .route("/pages/{slug}/delete", post(delete))
        .route("/pages/{slug}/watch", post(watch))
        .route("/pages/{slug}/links", get(links))
        .route("/tags/{tag}", get(tagged))
        .route("/inbox/{name}", get(inbox))
        .route("/live", get(live))
}

/// A problem is a page here.
struct Told(Problem);

impl<E: Into<Problem>> From<E> for Told {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        (self.0.status, self.0.retry_header(), html::problem(&self.0)).into_response()
    }
}

async fn index(State(app): State<App>) -> Result<Markup, Told> {
    let pages: Vec<(String, String)> =
        sqlx::query_as("SELECT slug, title FROM pages ORDER BY title")
            .fetch_all(&app.pool)
            .await?;
    let report: Vec<(String, i64)> = sqlx::query_as(
        "SELECT slug, edits FROM reports WHERE day = (SELECT max(day) FROM reports) ORDER BY edits DESC, slug",
    )
    .fetch_all(&app.pool)
    .await?;
    Ok(html::index("Pages", &pages, &report))
}

async fn tagged(State(app): State<App>, Path(tag): Path<String>) -> Result<Markup, Told> {
    let pages: Vec<(String, String)> = sqlx::query_as(
        "SELECT slug, title FROM pages JOIN page_tags ON page_id = pages.id JOIN tags ON tag_id = tags.id
         WHERE name = $1 ORDER BY title",
    )
    .bind(&tag)
    .fetch_all(&app.pool)
    .await?;
    Ok(html::index(&format!("Pages about {tag}"), &pages, &[]))
}

/// The view is counted in the database, one statement for all who look at the moment.
async fn show(State(app): State<App>, Path(slug): Path<String>) -> Result<Markup, Told> {
    let page = app.page(&slug).await?;
    let views = PageViews::add_views(&app.lanes, page.id, 1).await;
    Ok(html::page(&page, views?))
}

async fn create(State(app): State<App>, Form(mut new): Form<New>) -> Result<Redirect, Told> {
    new.check()?;
    new.draft.body = text_of_form(&new.draft.body);
    let created = transaction(&app.pool).run(async |tx| edits::create(tx, &new).await);
    match created.await? {
        Some(page) => Ok(to(&page.slug)),
        None => Err(super::slug_taken().into()),
    }
}

async fn edit(State(app): State<App>, Path(slug): Path<String>) -> Result<Markup, Told> {
    Ok(html::editor(Some(&app.page(&slug).await?)))
}

/// What the form was filled with, by its version, and what became of it.
#[derive(Debug, Deserialize)]
struct EditForm {
    id: i64,
    version: i64,
    #[serde(flatten)]
    draft: Draft,
}

async fn save(
    State(app): State<App>,
    Form(EditForm { id, version, draft }): Form<EditForm>,
) -> Result<Response, Told> {
    draft.check()?;
    let base = edits::as_it_was(&app.pool, id, version).await?;
    let mut edit = base.edit();
    edit.title = draft.title;
    edit.tags = draft.tags;
    edit.body = text_of_form(&draft.body);

    match edits::save(&app.pool, &edit, &draft.author).await {
        Ok(page) => Ok(to(&page.slug).into_response()),
        Err(error) => match error.downcast_ref::<UpdateError<Page>>() {
            Some(UpdateError::Stale(conflict)) => {
                let fields = merge::of(&base, conflict);
                let page = html::conflict(&conflict.current, &fields, &draft.author);
                Ok((StatusCode::CONFLICT, page).into_response())
            }
            Some(UpdateError::Gone(_)) => {
                Ok((StatusCode::GONE, html::gone(&edit, &draft.author)).into_response())
            }
            _ => Err(error.into()),
        },
    }
}

#[derive(Debug, Deserialize)]
struct DeleteForm {
    id: i64,
    version: i64,
    author: String,
}

async fn delete(State(app): State<App>, Form(form): Form<DeleteForm>) -> Result<Redirect, Told> {
    check_name(&form.author)?;
    // One that was edited meanwhile is a conflict, and stays.
    let seen = edits::as_it_was(&app.pool, form.id, form.version).await?;
    edits::delete(&app.pool, &seen, &form.author).await?;
    Ok(Redirect::to("/"))
}

#[derive(Debug, Deserialize)]
struct WatchForm {
    name: String,
}

async fn watch(
    State(app): State<App>,
    Path(slug): Path<String>,
    Form(WatchForm { name }): Form<WatchForm>,
) -> Result<Redirect, Told> {
    check_name(&name)?;
    let page_id = app.page(&slug).await?.id;
    let watcher = Watcher::find_or_create(&app.pool, NewWatcher { page_id, name }).await;
    watcher?;
    Ok(to(&slug))
}

async fn links(State(app): State<App>, Path(slug): Path<String>) -> Result<Markup, Told> {
    let page = app.page(&slug).await?;
    let links = jobs::check_links(&app.http, &page.body).await;
    Ok(html::links(&page, &links))
}

async fn inbox(State(app): State<App>, Path(name): Path<String>) -> Result<Markup, Told> {
    let notices: Vec<(String, i64, String)> =
        sqlx::query_as("SELECT slug, version, text FROM inbox WHERE watcher = $1 ORDER BY id DESC")
            .bind(&name)
            .fetch_all(&app.pool)
            .await?;
    Ok(html::inbox(&name, &notices))
}

async fn live(State(app): State<App>) -> Result<Markup, Told> {
    let queue = Notice::stats(&app.pool).await?;
    Ok(html::live(&app.numbers.lines(), &queue))
}

fn to(slug: &str) -> Redirect {
    Redirect::to(&format!("/pages/{slug}"))
}
