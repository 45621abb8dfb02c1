//! A list of options as it is written: `a, b = 1, c(d)`.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Ident, LitStr, Token};

use crate::diag::Diag;

/// One option of a list: `name`, `name = value` or `name(...)`.
pub(super) struct Opt {
    pub(super) name: Ident,
    pub(super) value: OptValue,
}

pub(super) enum OptValue {
    None,
    Equals(TokenStream),
    List(TokenStream),
}

impl Opt {
    /// The value, or the name of an option that has none: an empty stream has no span.
    pub(super) fn tokens(&self) -> TokenStream {
        match &self.value {
            OptValue::Equals(tokens) | OptValue::List(tokens) if !tokens.is_empty() => {
                tokens.clone()
            }
            _ => self.name.to_token_stream(),
        }
    }

    pub(super) fn text(&self) -> Option<LitStr> {
        match &self.value {
            OptValue::Equals(tokens) => syn::parse2(tokens.clone()).ok(),
            _ => None,
        }
    }

    /// `example`: how the option, or the one that it is part of, is written.
    pub(super) fn malformed(&self, example: &str, diag: &Diag) {
        diag.error(
            self.tokens(),
            format_args!(
                "malformed option `{}`\nhelp: write `#[rowlock({example})]`",
                self.name
            ),
        );
    }
}

/// Reads `a, b = 1, c(d)`; records what cannot be read and goes on after the next comma.
pub(super) fn options(tokens: TokenStream, diag: &Diag) -> Vec<Opt> {
    use syn::ext::IdentExt;
    let mut found = Vec::new();
    let parser = |input: ParseStream<'_>| {
        while !input.is_empty() {
            if let Some(option) = option(input, diag)? {
                found.push(option);
            }
            if input.is_empty() {
                break;
            }
            if input.peek(Token![,]) {
                input.parse::<Token![,]>()?;
            } else {
                diag.push(input.error("expected `,` between two options"));
                while !input.is_empty() && !input.peek(Token![,]) && !input.peek(Ident::peek_any) {
                    input.parse::<TokenTree>()?;
                }
            }
        }
        Ok(())
    };
    if let Err(error) = parser.parse2(tokens) {
        diag.push(error);
    }
    found
}

fn option(input: ParseStream<'_>, diag: &Diag) -> syn::Result<Option<Opt>> {
    use syn::ext::IdentExt;
    if !input.peek(Ident::peek_any) {
        diag.push(input.error("expected the name of an option"));
        up_to_comma(input)?;
        return Ok(None);
    }
    let name = Ident::parse_any(input)?;
    let value = if input.peek(Token![=]) {
        input.parse::<Token![=]>()?;
        OptValue::Equals(up_to_comma(input)?)
    } else if input.peek(syn::token::Paren) {
        let list;
        syn::parenthesized!(list in input);
        OptValue::List(list.parse()?)
    } else {
        OptValue::None
    };
    Ok(Some(Opt { name, value }))
}

fn up_to_comma(input: ParseStream<'_>) -> syn::Result<TokenStream> {
    let mut tokens = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        tokens.extend([input.parse::<TokenTree>()?]);
    }
    Ok(tokens)
}

/// All options of all `#[namespace(...)]` attributes, in source order.
pub(super) fn all_options(attrs: &[Attribute], namespace: &str, diag: &Diag) -> Vec<Opt> {
    let mut found = Vec::new();
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(namespace)) {
        match &attr.meta {
            syn::Meta::List(list) => {
                if list.tokens.is_empty() && namespace == "rowlock" {
                    diag.error(
                        attr,
                        "this empty attribute says nothing\nhelp: remove it, or pass options: `#[rowlock(...)]`",
                    );
                }
                found.extend(options(list.tokens.clone(), diag));
            }
            other if namespace == "rowlock" => diag.error(
                other,
                "options go in parentheses\nhelp: write `#[rowlock(...)]`",
            ),
            _ => {}
        }
    }
    found
}
