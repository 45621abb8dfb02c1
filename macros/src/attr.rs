//! `#[rowlock(...)]` and the `#[sqlx(...)]` options that change a column's name, as written, with spans.
//!
//! Nothing here returns a `Result`: a mistake is recorded and reading goes on behind the next comma, so that one
//! compile shows all of them and a half-typed option does not break the editor.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Ident, LitInt, LitStr, Path, Token};

use crate::diag::{Diag, did_you_mean, suggest};
use crate::model::{LedgerRole, Priority};

/// Options that stand above the struct.
pub(crate) const STRUCT_OPTIONS: &[&str] = &[
    "table",
    "unique",
    "new",
    "backend",
    "crate",
    "existing_rows",
];
/// Options that stand on a field.
pub(crate) const FIELD_OPTIONS: &[&str] = &[
    "key",
    "version",
    "counter",
    "unique",
    "generated",
    "default",
    "fence",
    "fingerprint",
    "outcome",
    "lease",
    "finished",
    "state",
    "run_at",
    "attempts",
    "priority",
    "last_error",
    "filter",
];
/// The databases a model can be limited to.
pub(crate) const BACKENDS: &[&str] = &["Postgres", "Sqlite"];

/// `#[rowlock(...)]` above the struct.
#[derive(Default)]
pub(crate) struct StructAttrs {
    pub table: Option<LitStr>,
    pub unique: Vec<UniqueAttr>,
    pub new: Option<Ident>,
    pub new_derives: Option<Vec<Path>>,
    pub backends: Option<Vec<Ident>>,
    pub krate: Option<Path>,
    pub existing_rows: bool,
    pub attempted: Vec<&'static str>,
}

/// `unique(a, b)` above the struct.
pub(crate) struct UniqueAttr {
    pub option: Ident,
    pub fields: Vec<Ident>,
}

/// `#[rowlock(...)]` on a field.
#[derive(Default)]
pub(crate) struct FieldAttrs {
    pub key: Option<Ident>,
    pub version: Option<Ident>,
    pub counter: Option<CounterAttr>,
    pub unique: Option<Ident>,
    pub generated: Option<Ident>,
    pub default: Option<Ident>,
    pub fence: Option<Ident>,
    /// In the order of [`LedgerRole::ALL`].
    pub ledger: [Option<Ident>; LedgerRole::ALL.len()],
    pub state: Option<Ident>,
    pub run_at: Option<Ident>,
    pub attempts: Option<AttemptsAttr>,
    pub last_error: Option<Ident>,
    pub priority: Option<PriorityAttr>,
    pub filter: Option<Ident>,
    /// What was misspelt, misplaced or malformed: it is not also reported as missing.
    pub attempted: Vec<&'static str>,
}

/// `counter` or `counter(min = 0, max = 100)`.
pub(crate) struct CounterAttr {
    pub option: Ident,
    pub min: Option<i64>,
    pub max: Option<i64>,
}

/// `attempts` or `attempts(max = 5)`.
pub(crate) struct AttemptsAttr {
    pub option: Ident,
    pub max: Option<i64>,
}

/// `priority` or `priority(desc)`.
pub(crate) struct PriorityAttr {
    pub option: Ident,
    pub first: Priority,
}

/// What sqlx's own derive is told about a field.
#[derive(Default)]
pub(crate) struct SqlxAttrs {
    pub rename: Option<LitStr>,
    pub skip: bool,
    pub json: Option<Ident>,
    pub json_nullable: bool,
    pub try_from: Option<Ident>,
    pub flatten: Option<Ident>,
}

/// One option of a list: `name`, `name = value` or `name(...)`.
struct Opt {
    name: Ident,
    value: OptValue,
}

enum OptValue {
    None,
    Equals(TokenStream),
    List(TokenStream),
}

impl Opt {
    fn flag(&self, diag: &Diag) {
        match &self.value {
            OptValue::None => {}
            OptValue::Equals(tokens) | OptValue::List(tokens) => diag.error(
                or_name(tokens, &self.name),
                format_args!(
                    "`{0}` takes no value\nhelp: write `#[rowlock({0})]`",
                    self.name
                ),
            ),
        }
    }

    fn string(&self, diag: &Diag) -> Option<LitStr> {
        let text = self.text();
        if text.is_none() {
            self.malformed(diag);
        }
        text
    }

    fn malformed(&self, diag: &Diag) {
        let tokens = match &self.value {
            OptValue::None => TokenStream::new(),
            OptValue::Equals(tokens) | OptValue::List(tokens) => tokens.clone(),
        };
        diag.error(
            or_name(&tokens, &self.name),
            format_args!(
                "malformed option `{}`\nhelp: write `#[rowlock({})]`",
                self.name,
                example(&self.name.to_string())
            ),
        );
    }
}

/// An empty stream has no span: fall back to the option's name.
fn or_name(tokens: &TokenStream, name: &Ident) -> TokenStream {
    if tokens.is_empty() {
        name.to_token_stream()
    } else {
        tokens.clone()
    }
}

/// Reads `a, b = 1, c(d)`; records what cannot be read and goes on behind the next comma.
fn options(tokens: TokenStream, diag: &Diag) -> Vec<Opt> {
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
fn all_options(attrs: &[Attribute], namespace: &str, diag: &Diag) -> Vec<Opt> {
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

/// Puts `value` in `slot`, or reports that the option was given before.
fn once<T>(slot: &mut Option<T>, value: Option<T>, name: &Ident, diag: &Diag) {
    if slot.is_some() {
        diag.error(
            name,
            format_args!("option `{name}` is given twice\nhelp: keep one of them"),
        );
    } else if value.is_some() {
        *slot = value;
    }
}

impl StructAttrs {
    pub(crate) fn read(attrs: &[Attribute], diag: &Diag) -> Self {
        let mut found = Self::default();
        for option in all_options(attrs, "rowlock", diag) {
            let name = &option.name;
            match name.to_string().as_str() {
                "table" => {
                    found.attempted.push("table");
                    let value = option.string(diag);
                    once(&mut found.table, value, name, diag);
                }
                "unique" => {
                    found.attempted.push("unique");
                    if let Some(fields) = field_list(&option, diag) {
                        found.unique.push(UniqueAttr {
                            option: name.clone(),
                            fields,
                        });
                    }
                }
                "new" if matches!(option.value, OptValue::List(_)) => {
                    let value = new_derives(&option, diag);
                    once(&mut found.new_derives, value, name, diag);
                }
                "new" => {
                    let value = option.string(diag).and_then(|text| {
                        let ident = text.parse::<Ident>().ok();
                        if ident.is_none() {
                            diag.error(
                                &text,
                                format_args!(
                                    "`{}` is not a struct name\nhelp: write `#[rowlock(new = \"TagDraft\")]`",
                                    text.value()
                                ),
                            );
                        }
                        ident
                    });
                    once(&mut found.new, value, name, diag);
                }
                "backend" => {
                    let value = backends(&option, diag);
                    once(&mut found.backends, value, name, diag);
                }
                "crate" => {
                    let value = crate_path(&option, diag);
                    once(&mut found.krate, value, name, diag);
                }
                "existing_rows" => {
                    option.flag(diag);
                    let mut slot = found.existing_rows.then_some(());
                    once(&mut slot, Some(()), name, diag);
                    found.existing_rows = true;
                }
                _ => found.attempted.extend(unknown(
                    name,
                    ("struct", STRUCT_OPTIONS),
                    ("on a field", FIELD_OPTIONS),
                    diag,
                )),
            }
        }
        found
    }
}

impl FieldAttrs {
    pub(crate) fn ledger(&self, role: LedgerRole) -> Option<&Ident> {
        let mut roles = LedgerRole::ALL.into_iter().zip(&self.ledger);
        roles.find(|(found, _)| *found == role)?.1.as_ref()
    }

    /// The options for roles that are each held by one field of the struct at most, other than the version.
    pub(crate) fn further_roles(&self) -> impl Iterator<Item = &Ident> {
        let attempts = self.attempts.as_ref().map(|attempts| &attempts.option);
        self.fence
            .iter()
            .chain(self.ledger.iter().flatten())
            .chain(&self.state)
            .chain(&self.run_at)
            .chain(attempts)
            .chain(&self.last_error)
    }

    pub(crate) fn read(attrs: &[Attribute], diag: &Diag) -> Self {
        let mut found = Self::default();
        for option in all_options(attrs, "rowlock", diag) {
            let name = &option.name;
            let flag = |slot: &mut Option<Ident>| {
                option.flag(diag);
                once(slot, Some(name.clone()), name, diag);
            };
            match name.to_string().as_str() {
                "key" => flag(&mut found.key),
                "version" => flag(&mut found.version),
                "generated" => flag(&mut found.generated),
                "default" => flag(&mut found.default),
                "fence" => {
                    found.attempted.push("fence");
                    flag(&mut found.fence);
                }
                "state" => {
                    found.attempted.push("state");
                    flag(&mut found.state);
                }
                "run_at" => {
                    found.attempted.push("run_at");
                    flag(&mut found.run_at);
                }
                "last_error" => flag(&mut found.last_error),
                "filter" => flag(&mut found.filter),
                "attempts" => {
                    found.attempted.push("attempts");
                    let value = AttemptsAttr::read(&option, diag);
                    once(&mut found.attempts, Some(value), name, diag);
                }
                "priority" => {
                    let value = PriorityAttr::read(&option, diag);
                    once(&mut found.priority, Some(value), name, diag);
                }
                "unique" => {
                    if let OptValue::List(tokens) = &option.value {
                        diag.error(
                            or_name(tokens, name),
                            "a list of columns belongs above the struct, not on a field\n\
                             help: write `#[rowlock(unique)]` here, or `#[rowlock(unique(...))]` above the struct",
                        );
                    } else {
                        option.flag(diag);
                    }
                    once(&mut found.unique, Some(name.clone()), name, diag);
                }
                "counter" => {
                    let value = CounterAttr::read(&option, diag);
                    once(&mut found.counter, Some(value), name, diag);
                }
                text if LedgerRole::named(text).is_some() => {
                    for (role, slot) in LedgerRole::ALL.iter().zip(&mut found.ledger) {
                        if role.option() == text {
                            found.attempted.push(role.option());
                            flag(slot);
                        }
                    }
                }
                _ => found.attempted.extend(unknown(
                    name,
                    ("field", FIELD_OPTIONS),
                    ("above the struct", STRUCT_OPTIONS),
                    diag,
                )),
            }
        }
        found
    }
}

impl CounterAttr {
    fn read(option: &Opt, diag: &Diag) -> Self {
        let mut found = Self {
            option: option.name.clone(),
            min: None,
            max: None,
        };
        let tokens = match &option.value {
            OptValue::None => return found,
            OptValue::List(tokens) => tokens.clone(),
            OptValue::Equals(_) => {
                option.malformed(diag);
                return found;
            }
        };
        for bound in options(tokens, diag) {
            let slot = match bound.name.to_string().as_str() {
                "min" => &mut found.min,
                "max" => &mut found.max,
                other => {
                    diag.error(
                        &bound.name,
                        format_args!(
                            "unknown counter option `{other}`\n{}",
                            suggest(other, &["min", "max"])
                        ),
                    );
                    continue;
                }
            };
            let value = match &bound.value {
                OptValue::Equals(tokens) => integer(tokens),
                _ => None,
            };
            let value = match value {
                Some(Ok(value)) => Some(value),
                Some(Err(error)) => {
                    diag.push(error);
                    None
                }
                None => {
                    bound.malformed(diag);
                    None
                }
            };
            once(slot, value, &bound.name, diag);
        }
        if let (Some(min), Some(max)) = (found.min, found.max)
            && min > max
        {
            diag.error(
                &found.option,
                format_args!(
                    "no value is at least {min} and at most {max}\nhelp: swap `min` and `max`"
                ),
            );
        }
        found
    }
}

impl AttemptsAttr {
    fn read(option: &Opt, diag: &Diag) -> Self {
        let mut found = Self {
            option: option.name.clone(),
            max: None,
        };
        let tokens = match &option.value {
            OptValue::None => return found,
            OptValue::List(tokens) => tokens.clone(),
            OptValue::Equals(_) => {
                option.malformed(diag);
                return found;
            }
        };
        for limit in options(tokens, diag) {
            let text = limit.name.to_string();
            if text != "max" {
                diag.error(
                    &limit.name,
                    format_args!(
                        "unknown attempts option `{text}`\n{}",
                        suggest(&text, &["max"])
                    ),
                );
                continue;
            }
            let value = match &limit.value {
                OptValue::Equals(tokens) => integer(tokens),
                _ => None,
            };
            match value {
                Some(Ok(value)) if value < 1 => diag.error(
                    &limit.name,
                    "a job that may not be attempted is never done\nhelp: allow one attempt at least: `attempts(max = 1)`",
                ),
                Some(Ok(value)) => once(&mut found.max, Some(value), &limit.name, diag),
                Some(Err(error)) => diag.push(error),
                None => option.malformed(diag),
            }
        }
        found
    }
}

impl PriorityAttr {
    fn read(option: &Opt, diag: &Diag) -> Self {
        let mut found = Self {
            option: option.name.clone(),
            first: Priority::LowestFirst,
        };
        match &option.value {
            OptValue::None => {}
            OptValue::List(tokens) => match tokens.to_string().as_str() {
                "asc" => {}
                "desc" => found.first = Priority::HighestFirst,
                _ => option.malformed(diag),
            },
            OptValue::Equals(_) => option.malformed(diag),
        }
        found
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

fn field_list(option: &Opt, diag: &Diag) -> Option<Vec<Ident>> {
    use syn::ext::IdentExt;
    let OptValue::List(tokens) = &option.value else {
        option.malformed(diag);
        return None;
    };
    let parser = |input: ParseStream<'_>| {
        let mut fields = Vec::new();
        while !input.is_empty() {
            fields.push(Ident::parse_any(input)?);
            if input.is_empty() {
                break;
            }
            input.parse::<Token![,]>()?;
        }
        Ok(fields)
    };
    match parser.parse2(tokens.clone()) {
        Ok(fields) if !fields.is_empty() => Some(fields),
        _ => {
            option.malformed(diag);
            None
        }
    }
}

fn backends(option: &Opt, diag: &Diag) -> Option<Vec<Ident>> {
    let OptValue::List(tokens) = &option.value else {
        option.malformed(diag);
        return None;
    };
    let parser = syn::punctuated::Punctuated::<Ident, Token![,]>::parse_terminated;
    let Ok(names) = parser.parse2(tokens.clone()) else {
        option.malformed(diag);
        return None;
    };
    if names.is_empty() {
        option.malformed(diag);
        return None;
    }
    let mut known = Vec::new();
    for name in names {
        let text = name.to_string();
        if BACKENDS.contains(&text.as_str()) {
            known.push(name);
        } else {
            diag.error(
                &name,
                format_args!("unknown backend `{text}`\n{}", suggest(&text, BACKENDS)),
            );
        }
    }
    Some(known)
}

fn crate_path(option: &Opt, diag: &Diag) -> Option<Path> {
    let path = match &option.value {
        OptValue::Equals(tokens) => syn::parse2::<Path>(tokens.clone()).ok(),
        _ => None,
    };
    let Some(path) = path else {
        option.malformed(diag);
        return None;
    };
    let absolute = path.leading_colon.is_some()
        || path
            .segments
            .first()
            .is_some_and(|first| first.ident == "crate");
    if !absolute {
        diag.error(
            &path,
            format_args!(
                "the path must be absolute\nhelp: write `#[rowlock(crate = ::{0})]`, or `crate::{0}` for a re-export of this crate",
                path.to_token_stream().to_string().replace(' ', "")
            ),
        );
        // What was probably meant, so that nothing else fails because of it.
        return Some(syn::parse_quote!(::#path));
    }
    Some(path)
}

/// `new(derive(Debug, serde::Deserialize))`
fn new_derives(option: &Opt, diag: &Diag) -> Option<Vec<Path>> {
    let OptValue::List(tokens) = &option.value else {
        return None;
    };
    let parser = |input: ParseStream<'_>| {
        let name: Ident = input.parse()?;
        if name != "derive" {
            return Err(syn::Error::new(name.span(), ""));
        }
        let list;
        syn::parenthesized!(list in input);
        input.parse::<Option<Token![,]>>()?;
        let paths = syn::punctuated::Punctuated::<Path, Token![,]>::parse_terminated(&list)?;
        Ok(paths.into_iter().collect())
    };
    let derives = parser.parse2(tokens.clone()).ok();
    if derives.is_none() {
        diag.error(
            or_name(tokens, &option.name),
            "malformed option `new`\nhelp: write `#[rowlock(new(derive(Debug, PartialEq)))]`, or `#[rowlock(new = \"TagDraft\")]`",
        );
    }
    derives
}

/// Reports an option that does not exist `here`, and returns the one that was probably meant.
fn unknown(
    name: &Ident,
    (place, here): (&str, &'static [&'static str]),
    (other_place, elsewhere): (&str, &'static [&'static str]),
    diag: &Diag,
) -> Option<&'static str> {
    let text = name.to_string();
    if let Some(known) = elsewhere.iter().copied().find(|known| *known == text) {
        diag.error(
            name,
            format_args!(
                "`{text}` is not a {place} option\nhelp: it belongs {other_place}: `#[rowlock({})]`",
                example(known)
            ),
        );
        return Some(known);
    }
    diag.error(
        name,
        format_args!("unknown {place} option `{text}`\n{}", suggest(&text, here)),
    );
    did_you_mean(&text, here)
}

/// How an option is written.
fn example(option: &str) -> &str {
    match option {
        "table" => "table = \"documents\"",
        "unique" => "unique(tenant_id, slug)",
        "new" => "new = \"TagDraft\"",
        "backend" => "backend(Postgres)",
        "crate" => "crate = ::my_reexports::rowlock",
        "counter" | "min" | "max" => "counter(min = 0, max = 100)",
        "attempts" => "attempts(max = 5)",
        "priority" => "priority(desc)",
        flag => flag,
    }
}

impl SqlxAttrs {
    /// sqlx's derive reports mistakes in its own options; here unknown ones are passed over.
    pub(crate) fn read(attrs: &[Attribute]) -> Self {
        let mut found = Self::default();
        let quiet = Diag::new();
        for option in all_options(attrs, "sqlx", &quiet) {
            match option.name.to_string().as_str() {
                "rename" => found.rename = option.text(),
                "skip" => found.skip = true,
                "json" => {
                    found.json_nullable = matches!(&option.value, OptValue::List(_));
                    found.json = Some(option.name);
                }
                "try_from" => found.try_from = Some(option.name),
                "flatten" => found.flatten = Some(option.name),
                _ => {}
            }
        }
        let _ = quiet.finish();
        found
    }
}

impl Opt {
    fn text(&self) -> Option<LitStr> {
        match &self.value {
            OptValue::Equals(tokens) => syn::parse2(tokens.clone()).ok(),
            _ => None,
        }
    }
}

/// `#[sqlx(rename_all = "...")]` above the struct: how a field's name becomes a column's.
pub(crate) fn sqlx_rename_all(attrs: &[Attribute]) -> Option<String> {
    let quiet = Diag::new();
    let found = all_options(attrs, "sqlx", &quiet)
        .iter()
        .find(|option| option.name == "rename_all")
        .and_then(Opt::text)
        .map(|text| text.value());
    let _ = quiet.finish();
    found
}
