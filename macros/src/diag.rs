//! Collects every mistake of a struct, so that one compile shows them all.

use std::cell::RefCell;

use proc_macro2::TokenStream;
use quote::ToTokens;

/// The errors found so far. Every stage pushes to the same collector and goes on.
///
/// Dropping it without asking for the errors is a bug in this crate; debug builds say so.
#[derive(Default)]
pub(crate) struct Diag {
    errors: RefCell<Option<Vec<syn::Error>>>,
}

impl Diag {
    pub(crate) fn new() -> Self {
        Self {
            errors: RefCell::new(Some(Vec::new())),
        }
    }

    /// Reports `message` at `tokens`, the smallest thing the user has to edit.
    pub(crate) fn error(&self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    pub(crate) fn push(&self, error: syn::Error) {
        if let Some(errors) = self.errors.borrow_mut().as_mut() {
            errors.push(error);
        }
    }

    #[cfg(feature = "schema")]
    pub(crate) fn is_empty(&self) -> bool {
        self.errors.borrow().as_ref().is_none_or(Vec::is_empty)
    }

    /// `Err` with one `compile_error!` per mistake if there was any.
    pub(crate) fn finish(self) -> Result<(), TokenStream> {
        let errors = self.errors.borrow_mut().take().unwrap_or_default();
        if errors.is_empty() {
            return Ok(());
        }
        Err(errors.iter().map(syn::Error::to_compile_error).collect())
    }
}

impl Drop for Diag {
    fn drop(&mut self) {
        debug_assert!(
            std::thread::panicking() || self.errors.borrow().is_none(),
            "errors were collected and never reported"
        );
    }
}

/// The known name that `found` was probably meant to be.
pub(crate) fn did_you_mean<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(found, name), *name))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// ``help: did you mean `x`?`` or the list of what is possible.
pub(crate) fn suggest(found: &str, known: &[&str]) -> String {
    match did_you_mean(found, known) {
        Some(name) => format!("help: did you mean `{name}`?"),
        None => format!("help: expected {}", one_of(known)),
    }
}

/// `` `a`, `b` or `c` ``
pub(crate) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_listed() {
        assert_eq!(
            suggest("versoin", &["key", "version"]),
            "help: did you mean `version`?"
        );
        assert_eq!(
            suggest("zzz", &["key", "version", "counter"]),
            "help: expected `key`, `version` or `counter`"
        );
    }
}
