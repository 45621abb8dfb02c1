//! What HTTP says about concurrency, as axum has it: `ETag` and `If-Match`, `Idempotency-Key`, and problems.

use std::fmt::Display;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::header::{CONTENT_TYPE, IF_MATCH, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use rowlock::row::{CounterError, DeleteError, EditAtError, UpdateError};
use serde_json::json;

use crate::model::Page;

/// Which version of which page: `"7.3"` in an `ETag`. With the id, as a page that is deleted and made again is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag {
    pub id: i64,
    pub version: i64,
}

impl EntityTag {
    pub fn of(page: &Page) -> Self {
        Self {
            id: page.id,
            version: page.lock_version,
        }
    }

    fn parse(tag: &str) -> Option<Self> {
        let (id, version) = tag.strip_prefix('"')?.strip_suffix('"')?.split_once('.')?;
        Some(Self {
            id: id.parse().ok()?,
            version: version.parse().ok()?,
        })
    }
}

impl Display for EntityTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}.{}\"", self.id, self.version)
    }
}

/// The `If-Match` of a request, without which it is refused.
#[derive(Debug)]
pub struct IfMatch(pub EntityTag);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(tag) = parts.headers.get(IF_MATCH) else {
            return Err(Problem::new(
                StatusCode::PRECONDITION_REQUIRED,
                "Say in If-Match which version you change: the ETag that you were given.",
            ));
        };
        let tag = tag.to_str().ok().and_then(EntityTag::parse);
        tag.map(Self).ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "If-Match must be one ETag of a page.",
            )
        })
    }
}

/// The `Idempotency-Key` of a request, without which it is refused.
#[derive(Debug)]
pub struct IdempotencyKey(pub String);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let key = parts.headers.get("idempotency-key");
        let key = key.and_then(|key| key.to_str().ok()).unwrap_or_default();
        // A quoted string in the draft of the IETF, without quotes in what most clients send.
        let key = key.trim().trim_matches('"');
        if key.is_empty() || key.len() > 255 {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "Idempotency-Key must be there, with at most 255 characters.",
            ));
        }
        Ok(Self(key.to_owned()))
    }
}

/// What went wrong, for a program (`application/problem+json`) or a page.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
    /// In seconds.
    pub retry_after: Option<u32>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after: None,
        }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is no such page.")
    }

    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Problem")
    }

    pub fn retry_header(&self) -> Option<[(HeaderName, String); 1]> {
        self.retry_after
            .map(|seconds| [(RETRY_AFTER, seconds.to_string())])
    }
}

/// For every error of rowlock, and of sqlx.
impl<E> From<E> for Problem
where
    rowlock::Error: From<E>,
{
    fn from(error: E) -> Self {
        let error = rowlock::Error::from(error);
        if is_gone(&error) {
            return Self::new(StatusCode::GONE, "The page was deleted meanwhile.");
        }
        if let Some(CounterError::OutOfBounds(_)) = error.downcast_ref() {
            let detail = "You have written a hundred edits in this hour.";
            return Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(3600);
        }
        if error.is_conflict() {
            let detail = "Somebody else was faster. Read the page again.";
            return Self::new(StatusCode::CONFLICT, detail);
        }
        // A character that is none for PostgreSQL, above all.
        if error.fault() == Some(rowlock::Fault::InvalidValue) {
            let detail = "There is something in this that cannot be stored.";
            return Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        }
        // The text has no value of a row.
        tracing::error!(%error, "a request failed");
        if error.is_unknown() {
            let detail = "It was saved, or it was not. Read the page before you try again.";
            return Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
        }
        if error.fault().is_some_and(|fault| fault.is_transient()) {
            let detail = "The database is busy. Nothing was saved.";
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1);
        }
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "This is our mistake.")
    }
}

/// Whether a write met a page that was deleted.
fn is_gone(error: &rowlock::Error) -> bool {
    let by_edit = matches!(error.downcast_ref(), Some(UpdateError::<Page>::Gone(_)));
    let by_patch = matches!(error.downcast_ref(), Some(EditAtError::<Page>::Gone(_)));
    let by_delete = matches!(error.downcast_ref(), Some(DeleteError::<Page>::Gone(_)));
    by_edit || by_patch || by_delete
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Json(json!({
            "title": self.title(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        }));
        let headers = [(CONTENT_TYPE, "application/problem+json")];
        (self.status, self.retry_header(), headers, body).into_response()
    }
}
