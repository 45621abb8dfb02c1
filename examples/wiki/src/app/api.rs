//! The same pages for programs, as JSON.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{ETAG, LOCATION};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use rowlock::idempotent::{Once, OnceError};
use rowlock::row::EditAtError;

use super::App;
use super::edits;
use crate::draft::{New, Patch};
use crate::http::{EntityTag, IdempotencyKey, IfMatch, Problem};
use crate::model::{CreateRequest, Created, Page};

pub fn routes() -> Router<App> {
    Router::new()
        .route("/api/pages", post(create))
        .route("/api/pages/{slug}", get(read).patch(change))
}

/// Creates a page once, however often the request arrives.
async fn create(
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Json(new): Json<New>,
) -> Result<Response, Problem> {
    new.check()?;
    let author = new.draft.author.as_str();
    let once = CreateRequest::once(&app.pool, (author, &key), &new, async |tx| {
        let page = edits::create(tx, &new).await?;
        let created = page.map(|page| Created::Page { id: page.id });
        Ok(created.unwrap_or(Created::SlugTaken))
    });
    let created = match once.await {
        Ok(Once::Ran(created) | Once::Replayed(created)) => created,
        Ok(Once::Busy) => {
            let busy = "The first request with this key is still at work.";
            return Err(Problem::new(StatusCode::CONFLICT, busy).retry_after(1));
        }
        Err(OnceError::Mismatch(_)) => {
            let other = "This Idempotency-Key was used for another request.";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, other));
        }
        Err(error) => return Err(error.into()),
    };
    match created {
        Created::Page { id } => {
            let at = format!("/api/pages/{}", new.slug);
            let tag = EntityTag { id, version: 0 }.to_string();
            Ok((StatusCode::CREATED, [(LOCATION, at), (ETAG, tag)]).into_response())
        }
        Created::SlugTaken => Err(super::slug_taken()),
    }
}

async fn read(State(app): State<App>, Path(slug): Path<String>) -> Result<Response, Problem> {
    Ok(represent(StatusCode::OK, &app.page(&slug).await?))
}

async fn change(
    State(app): State<App>,
    Path(slug): Path<String>,
    IfMatch(seen): IfMatch,
    Json(patch): Json<Patch>,
) -> Result<Response, Problem> {
    let page = app.page(&slug).await?;
    patch.check()?;
    if seen.id != page.id {
        return Ok(represent(StatusCode::PRECONDITION_FAILED, &page));
    }
    match edits::patch(&app.pool, page.id, seen.version, &patch).await {
        Ok(saved) => Ok(represent(StatusCode::OK, &saved)),
        Err(error) => match error.downcast_ref::<EditAtError<Page>>() {
            Some(EditAtError::Stale(outdated)) => Ok(represent(
                StatusCode::PRECONDITION_FAILED,
                &outdated.current,
            )),
            _ => Err(error.into()),
        },
    }
}

fn represent(status: StatusCode, page: &Page) -> Response {
    let tag = EntityTag::of(page).to_string();
    (status, [(ETAG, tag)], Json(page)).into_response()
}
