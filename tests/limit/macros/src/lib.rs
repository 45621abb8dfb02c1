//! The attribute of `limited-tokio`.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// `#[tokio::test]` with its options. All it does is call `limited!`, which an attribute has to be made for.
#[proc_macro_attribute]
pub fn test(options: TokenStream, function: TokenStream) -> TokenStream {
    let options = TokenTree::from(Group::new(Delimiter::Bracket, options));
    let test = TokenStream::from_iter([options.into(), function]);
    let mut call: TokenStream = "::tokio::limited!".parse().expect("Rust");
    call.extend([TokenTree::from(Group::new(Delimiter::Brace, test))]);
    call
}
