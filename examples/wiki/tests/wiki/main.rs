//! The wiki as its users have it: the program is started, on both databases, and all that a test knows it has from HTTP.

// In a test, `pub` and `pub(crate)` are the same.
#![allow(unreachable_pub)]

extern crate limited_tokio as tokio;

#[cfg(feature = "browser")]
mod browser;
mod http;
mod load;
mod support;
