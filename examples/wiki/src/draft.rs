//! What authors send, and what of it is refused.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::http::Problem;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Draft {
    pub title: String,
    #[serde(default)]
    pub tags: String,
    pub body: String,
    pub author: String,
}

/// A page to be made.
#[derive(Debug, Serialize, Deserialize)]
pub struct New {
    pub slug: String,
    #[serde(flatten)]
    pub draft: Draft,
}

/// Some fields to be changed.
#[derive(Debug, Clone, Deserialize)]
pub struct Patch {
    pub title: Option<String>,
    pub tags: Option<String>,
    pub body: Option<String>,
    pub author: String,
}

impl Draft {
    pub fn check(&self) -> Result<(), Problem> {
        check_title(&self.title)?;
        check_name(&self.author)
    }
}

impl New {
    pub fn check(&self) -> Result<(), Problem> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let right = (1..=64).contains(&self.slug.len()) && self.slug.chars().all(plain);
        refuse_unless(right, "An address has up to 64 of a–z, 0–9 and hyphens.")?;
        self.draft.check()
    }
}

impl Patch {
    pub fn check(&self) -> Result<(), Problem> {
        self.title.as_deref().map_or(Ok(()), check_title)?;
        check_name(&self.author)
    }
}

pub fn check_name(name: &str) -> Result<(), Problem> {
    let right = !name.trim().is_empty() && name.len() <= 64;
    refuse_unless(right, "A person has a name of up to 64 bytes.")
}

fn check_title(title: &str) -> Result<(), Problem> {
    refuse_unless(!title.trim().is_empty(), "A page has a title.")
}

fn refuse_unless(right: bool, detail: &str) -> Result<(), Problem> {
    let refused = || Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    right.then_some(()).ok_or_else(refused)
}

/// Browsers send a line's end as two characters.
pub fn text_of_form(text: &str) -> String {
    text.replace("\r\n", "\n")
}
