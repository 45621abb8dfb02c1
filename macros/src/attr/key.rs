//! A unique key as it is written: `tenant_id, lower(email), where = "deleted_at IS NULL"`, `customer_id, while(ready)`.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Ident, Lit, LitStr, Token};

/// What is in the parentheses of `unique(…)`.
#[derive(Default)]
pub(crate) struct KeyAttr {
    pub parts: Vec<PartAttr>,
    /// `where = "…"`
    pub predicate: Option<LitStr>,
    /// `while(ready, running)`
    pub states: Vec<Ident>,
    pub nulls_not_distinct: Option<Ident>,
    /// `on(field)`
    pub on: Option<Ident>,
}

/// `field`, `lower(field)` or `coalesce(field, 0)`
pub(crate) struct PartAttr {
    pub field: Ident,
    /// What stands before and after the column.
    pub around: Option<(String, String)>,
}

impl KeyAttr {
    pub(super) fn read(tokens: &TokenStream) -> Option<Self> {
        let parser = |input: ParseStream<'_>| {
            let mut key = Self::default();
            while !input.is_empty() {
                key.item(input)?;
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(key)
        };
        let key = parser.parse2(tokens.clone()).ok()?;
        (!key.parts.is_empty()).then_some(key)
    }

    fn item(&mut self, input: ParseStream<'_>) -> syn::Result<()> {
        let name = Ident::parse_any(input)?;
        if name == "where" && input.peek(Token![=]) && self.predicate.is_none() {
            input.parse::<Token![=]>()?;
            self.predicate = Some(input.parse()?);
        } else if input.peek(syn::token::Paren) {
            let list;
            syn::parenthesized!(list in input);
            if name == "while" && self.states.is_empty() {
                let states = Punctuated::<Ident, Token![,]>::parse_separated_nonempty_with(
                    &list,
                    Ident::parse_any,
                )?;
                self.states = states.into_iter().collect();
                return if list.is_empty() {
                    Ok(())
                } else {
                    Err(list.error(""))
                };
            }
            let field = Ident::parse_any(&list)?;
            if name == "on" && list.is_empty() && self.on.is_none() {
                self.on = Some(field);
                return Ok(());
            }
            let mut after = String::new();
            while !list.is_empty() {
                list.parse::<Token![,]>()?;
                after.push_str(", ");
                after.push_str(&literal(&list)?);
            }
            after.push(')');
            let around = Some((format!("{name}("), after));
            self.parts.push(PartAttr { field, around });
        } else if name == "nulls_not_distinct" {
            self.nulls_not_distinct = Some(name);
        } else {
            let around = None;
            self.parts.push(PartAttr {
                field: name,
                around,
            });
        }
        Ok(())
    }
}

/// A literal of Rust's as one of SQL's.
fn literal(input: ParseStream<'_>) -> syn::Result<String> {
    let minus: Option<Token![-]> = input.parse()?;
    let sign = if minus.is_some() { "-" } else { "" };
    match input.parse()? {
        Lit::Str(text) if minus.is_none() => Ok(format!("'{}'", text.value().replace('\'', "''"))),
        Lit::Int(number) => Ok(format!("{sign}{}", number.base10_digits())),
        Lit::Float(number) => Ok(format!("{sign}{}", number.base10_digits())),
        Lit::Bool(value) if minus.is_none() => Ok(value.value.to_string()),
        other => Err(syn::Error::new(other.span(), "")),
    }
}
