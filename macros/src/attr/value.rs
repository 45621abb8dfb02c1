//! The value of an option: one reader for each shape in the table of options.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Field, Ident, LitInt, LitStr, Path, Token};

use super::key::KeyAttr;
use super::list::{Opt, OptValue, options};
use super::once;
use crate::diag::{Diag, suggest};
use crate::model::{Priority, State, States};
use crate::options::{Spec, Takes};
use crate::sql::Dialect;

/// What was written after an option's name.
pub(crate) enum Value {
    Nothing,
    Text(LitStr),
    Name(Ident),
    Derives(Vec<Path>),
    Path(Path),
    Key(KeyAttr),
    Backends(Vec<Dialect>),
    Numbers(Vec<Number>),
    Order(Priority),
    States(States),
    Columns(Vec<Field>),
}

/// `max = 100`
pub(crate) struct Number {
    pub name: Ident,
    pub value: i64,
}

impl Value {
    pub(crate) fn order(&self) -> Priority {
        match self {
            Self::Order(order) => *order,
            _ => Priority::LowestFirst,
        }
    }

    pub(crate) fn states(&self) -> States {
        match self {
            Self::States(states) => states.clone(),
            _ => States::default(),
        }
    }

    pub(crate) fn columns(&self) -> &[Field] {
        match self {
            Self::Columns(columns) => columns,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&LitStr> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn numbers(&self) -> &[Number] {
        match self {
            Self::Numbers(numbers) => numbers,
            _ => &[],
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        let mut numbers = self.numbers().iter();
        let found = numbers.find(|number| number.name == name);
        found.map(|number| number.value)
    }

    /// `None` if there is nothing to go on with. Whatever is wrong was reported.
    pub(super) fn read(spec: &Spec, option: &Opt, diag: &Diag) -> Option<Self> {
        let value = match (spec.takes, &option.value) {
            (Takes::Nothing, OptValue::None) => Some(Self::Nothing),
            (Takes::Nothing, _) => {
                diag.error(
                    option.tokens(),
                    format_args!(
                        "`{0}` takes no value\nhelp: write `#[rowlock({0})]`",
                        option.name
                    ),
                );
                // What was meant is clear.
                return Some(Self::Nothing);
            }
            (Takes::Text, _) => option.text().map(Self::Text),
            (Takes::NameOrDerives, OptValue::Equals(_)) => match option.text() {
                Some(text) => return name(&text, spec, diag).map(Self::Name),
                None => None,
            },
            (Takes::NameOrDerives, OptValue::List(tokens)) => match derives(tokens) {
                Some(derives) => Some(Self::Derives(derives)),
                None => {
                    diag.error(
                        option.tokens(),
                        format_args!(
                            "malformed option `{0}`\nhelp: write `#[rowlock({0}(derive(Debug, PartialEq)))]`, or `#[rowlock({1})]`",
                            option.name, spec.example
                        ),
                    );
                    return None;
                }
            },
            (Takes::Path, OptValue::Equals(tokens)) => {
                let path = syn::parse2::<Path>(tokens.clone()).ok();
                path.map(|path| Self::Path(absolute(path, diag)))
            }
            (Takes::UniqueKey, OptValue::List(tokens)) => KeyAttr::read(tokens).map(Self::Key),
            (Takes::Backends, OptValue::List(tokens)) => {
                let names = fields(tokens);
                names.map(|names| Self::Backends(backends(&names, diag)))
            }
            (Takes::Numbers(_) | Takes::Order | Takes::States, OptValue::None) => {
                Some(Self::Nothing)
            }
            (Takes::Numbers(names), OptValue::List(tokens)) => {
                Some(Self::Numbers(numbers(names, tokens, option, spec, diag)))
            }
            (Takes::States, OptValue::List(tokens)) => {
                Some(Self::States(states(tokens, option, spec, diag)))
            }
            (Takes::Columns, OptValue::List(tokens)) => columns(tokens).map(Self::Columns),
            (Takes::Word(word), OptValue::Equals(tokens)) if tokens.to_string() == word => {
                Some(Self::Nothing)
            }
            (Takes::TextOrWord(word), OptValue::Equals(tokens)) => {
                if tokens.to_string() == word {
                    Some(Self::Nothing)
                } else {
                    option.text().map(Self::Text)
                }
            }
            (Takes::Order, OptValue::List(tokens)) => match tokens.to_string().as_str() {
                "asc" => Some(Self::Order(Priority::LowestFirst)),
                "desc" => Some(Self::Order(Priority::HighestFirst)),
                _ => None,
            },
            _ => None,
        };
        if value.is_none() {
            option.malformed(spec.example, diag);
        }
        value
    }
}

fn name(text: &LitStr, spec: &Spec, diag: &Diag) -> Option<Ident> {
    let name = text.parse::<Ident>().ok();
    if name.is_none() {
        diag.error(
            text,
            format_args!(
                "`{}` is not a struct name\nhelp: write `#[rowlock({})]`",
                text.value(),
                spec.example
            ),
        );
    }
    name
}

/// `derive(Debug, serde::Deserialize)`
fn derives(tokens: &TokenStream) -> Option<Vec<Path>> {
    let parser = |input: ParseStream<'_>| {
        let name: Ident = input.parse()?;
        if name != "derive" {
            return Err(syn::Error::new(name.span(), ""));
        }
        let list;
        syn::parenthesized!(list in input);
        input.parse::<Option<Token![,]>>()?;
        let paths = Punctuated::<Path, Token![,]>::parse_terminated(&list)?;
        Ok(paths.into_iter().collect())
    };
    parser.parse2(tokens.clone()).ok()
}

/// `street: String, #[sqlx(rename = "postcode")] zip: String`
fn columns(tokens: &TokenStream) -> Option<Vec<Field>> {
    let parser = |input: ParseStream<'_>| {
        Punctuated::<Field, Token![,]>::parse_terminated_with(input, Field::parse_named)
    };
    let columns = parser.parse2(tokens.clone()).ok()?;
    (!columns.is_empty()).then(|| columns.into_iter().collect())
}

fn absolute(path: Path, diag: &Diag) -> Path {
    let first = path.segments.first();
    if path.leading_colon.is_some() || first.is_some_and(|first| first.ident == "crate") {
        return path;
    }
    diag.error(
        &path,
        format_args!(
            "the path must be absolute\nhelp: write `#[rowlock(crate = ::{0})]`, or `crate::{0}` for a re-export of this crate",
            path.to_token_stream().to_string().replace(' ', "")
        ),
    );
    // What was probably meant, so that nothing else fails because of it.
    syn::parse_quote!(::#path)
}

fn fields(tokens: &TokenStream) -> Option<Vec<Ident>> {
    use syn::ext::IdentExt;
    let parser = |input: ParseStream<'_>| {
        Punctuated::<Ident, Token![,]>::parse_terminated_with(input, Ident::parse_any)
    };
    let names = parser.parse2(tokens.clone()).ok()?;
    (!names.is_empty()).then(|| names.into_iter().collect())
}

fn backends(names: &[Ident], diag: &Diag) -> Vec<Dialect> {
    let all = Dialect::ALL.map(Dialect::name);
    for name in names {
        if !all.iter().any(|known| name == known) {
            diag.error(
                name,
                format_args!(
                    "unknown backend `{name}`\n{}",
                    suggest(&name.to_string(), &all)
                ),
            );
        }
    }
    let mut known = Dialect::ALL.to_vec();
    known.retain(|dialect| names.iter().any(|name| name == dialect.name()));
    known
}

/// `min = 0, max = 100`
fn numbers(
    names: &[&str],
    tokens: &TokenStream,
    option: &Opt,
    spec: &Spec,
    diag: &Diag,
) -> Vec<Number> {
    let mut found: Vec<Number> = Vec::new();
    for number in options(tokens.clone(), diag) {
        let name = &number.name;
        let text = name.to_string();
        if !names.contains(&text.as_str()) {
            diag.error(
                name,
                format_args!(
                    "unknown {} option `{text}`\n{}",
                    option.name,
                    suggest(&text, names)
                ),
            );
            continue;
        }
        let value = match &number.value {
            OptValue::Equals(tokens) => integer(tokens),
            _ => None,
        };
        match value {
            Some(Ok(value)) => {
                let slot = found.iter().position(|other| other.name == *name);
                if once(slot.is_some(), name, diag) {
                    let name = name.clone();
                    found.push(Number { name, value });
                }
            }
            Some(Err(error)) => diag.push(error),
            None => number.malformed(spec.example, diag),
        }
    }
    found
}

/// `ready = "queued", dead = "failed"`
fn states(tokens: &TokenStream, option: &Opt, spec: &Spec, diag: &Diag) -> States {
    let mut found = States::default();
    let mut said: Vec<State> = Vec::new();
    for given in options(tokens.clone(), diag) {
        let text = given.name.to_string();
        let Some(state) = State::ALL.into_iter().find(|state| state.name() == text) else {
            diag.error(
                &given.name,
                format_args!(
                    "unknown {} `{text}`\n{}",
                    option.name,
                    suggest(&text, State::NAMES)
                ),
            );
            continue;
        };
        if !once(said.contains(&state), &given.name, diag) {
            continue;
        }
        said.push(state);
        match (given.text(), &given.value) {
            (Some(text), _) => found.0.push((state, text.value())),
            (None, OptValue::Equals(word))
                if state == State::Done && word.to_string() == "delete" =>
            {
                diag.error(
                    word,
                    "a row that is deleted has no state\nhelp: write `#[rowlock(done = delete)]` above the struct",
                );
            }
            _ => given.malformed(spec.example, diag),
        }
    }
    overlap(&found, option, diag);
    found
}

/// Two states that are stored as the same could not be told apart.
fn overlap(states: &States, option: &Opt, diag: &Diag) {
    for (at, one) in State::ALL.iter().enumerate() {
        let same = |other: &&State| states.text(**other) == states.text(*one);
        if let Some(other) = State::ALL.iter().skip(at + 1).find(same) {
            diag.error(
                option.tokens(),
                format_args!(
                    "`{}` and `{}` are both stored as \"{}\"\nhelp: give each state a text of its own",
                    one.name(),
                    other.name(),
                    states.text(*one)
                ),
            );
        }
    }
}

/// A literal `5` or `-5`; an error if it is one and too large.
fn integer(tokens: &TokenStream) -> Option<syn::Result<i64>> {
    let parser = |input: ParseStream<'_>| {
        let minus: Option<Token![-]> = input.parse()?;
        let digits: LitInt = input.parse()?;
        let sign = if minus.is_some() { "-" } else { "" };
        let text = format!("{sign}{}", digits.base10_digits());
        Ok(text.parse::<i64>().map_err(|_| {
            syn::Error::new(
                digits.span(),
                format_args!("`{text}` is out of range\nnote: bounds are 64-bit integers, as the widest counter is"),
            )
        }))
    };
    parser.parse2(tokens.clone()).ok()
}
