//! The model against the catalogue of its database, which the user keeps in a file.
//!
//! Nothing here knows a rule: they are in `rowlock-schema`, where `rowlock::schema` has them from too.

pub(crate) mod needs;
mod statements;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use rowlock_schema::{Catalogue, Finding, Place, Rule, Source};
use syn::spanned::Spanned;
use syn::{DeriveInput, LitStr};

use self::needs::needs;
use crate::attr::{SchemaAttr, StructAttrs};
use crate::derive::{Kind, raw};
use crate::diag::Diag;
use crate::model::{Column, Model, last_segment};

/// Reports what the catalogue has not, and says in the expansion what the model needs.
pub(crate) fn described(
    kind: Kind,
    model: &Model,
    input: &DeriveInput,
    diag: &Diag,
) -> TokenStream {
    // What follows from a mistake in the struct is not a mistake in the table, and such a model need not make sense.
    if !diag.is_empty() {
        return TokenStream::new();
    }
    let needs = needs(kind, model);
    let text = serde_json::to_string(&needs).unwrap_or_default();
    let lists = statements::lists(kind, model);
    let described = implementation(kind, &model.ident, &text, &lists);
    let binds = statements::binds(kind, model);
    let (ident, derive) = (&model.ident, format_ident!("{kind:?}"));
    let registered = quote!(__rt::registered!(#ident, __rt::schema::by::#derive););
    let quiet = Diag::new();
    let attrs = StructAttrs::read(&input.attrs, &quiet);
    let _ = quiet.finish();
    let files = match is_being_written() {
        true => Vec::new(),
        false => files(&attrs, diag),
    };
    of_another_database(&attrs, &needs, &files, diag);
    let mut found: Vec<Finding> = Vec::new();
    let mut unknown = Vec::new();
    for (path, catalogue) in &files {
        match catalogue.as_ref() {
            Ok(catalogue) => {
                for finding in rowlock_schema::check(catalogue, &needs, Source::File) {
                    if !found.contains(&finding) {
                        report(kind, model, &attrs, &finding, path, diag);
                        found.push(finding);
                    }
                }
                unknown.extend(aliases(model, catalogue, &needs));
            }
            Err(error) => unreadable(model, &attrs, path, error, diag),
        }
    }
    let tracked = tracked(files.iter().map(|(path, _)| path.as_path()));
    quote! {
        #described
        #binds
        #registered
        #tracked
        #(#unknown)*
    }
}

/// What the test is run with that writes the file. A program that needs the file as it is going to be must compile until then.
const VARIABLE: &str = "ROWLOCK_SCHEMA";

const WRITE: &str = "help: run the test that has `rowlock::schema::check_file` with ROWLOCK_SCHEMA=write: it writes the file";

fn is_being_written() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == "write")
}

/// For cargo: a file that changes changes the expansion, and so does the variable.
fn tracked<'p>(files: impl Iterator<Item = &'p Path>) -> TokenStream {
    let files: Vec<&str> = files.filter_map(Path::to_str).collect();
    let any = !files.is_empty() || is_being_written();
    let variable = any.then(|| {
        quote!(
            const _: __rt::Option<&str> = ::core::option_env!(#VARIABLE);
        )
    });
    quote!(#variable #(const _: &[u8] = ::core::include_bytes!(#files);)*)
}

/// What `rowlock::models!` finds.
pub(crate) fn implementation(
    kind: Kind,
    ident: &Ident,
    needs: &str,
    statements: &TokenStream,
) -> TokenStream {
    let derive = format_ident!("{kind:?}");
    let needs = raw(needs);
    quote! {
        #[automatically_derived]
        impl __rt::schema::Described<__rt::schema::by::#derive> for #ident {
            const NEEDS: &'static str = #needs;
            #statements
        }
    }
}

/// A file's catalogue, or why there is none.
type Read = Arc<Result<Catalogue, String>>;

/// The files that are for this model.
fn files(attrs: &StructAttrs, diag: &Diag) -> Vec<(PathBuf, Read)> {
    let Some(from) = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from) else {
        return Vec::new();
    };
    let paths = match &attrs.schema {
        SchemaAttr::Off => Vec::new(),
        SchemaAttr::Usual => rowlock_schema::find(&from, rowlock_schema::NAME),
        SchemaAttr::Named(name) => {
            let found = rowlock_schema::find(&from, &name.value());
            if found.is_empty() {
                diag.error(
                    name,
                    format_args!(
                        "there is no file `{}` in the directory of the crate or in one above it\n\
                         {WRITE}",
                        name.value()
                    ),
                );
            }
            found
        }
    };
    let read = paths.into_iter().map(|path| {
        let read = read(&path);
        (path, read)
    });
    read.collect()
}

/// When a file was changed, and how long it was: an editor's server runs for days.
type Stamp = (Option<SystemTime>, u64);

/// Reads a file once.
fn read(path: &Path) -> Read {
    static FILES: Mutex<BTreeMap<PathBuf, (Stamp, Read)>> = Mutex::new(BTreeMap::new());
    let meta = std::fs::metadata(path);
    let stamp = meta.map_or((None, 0), |meta| (meta.modified().ok(), meta.len()));
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, read)) = files.get(path)
        && *of == stamp
    {
        return Arc::clone(read);
    }
    let read = Arc::new(Catalogue::read(path).map_err(|error| error.to_string()));
    files.insert(path.to_owned(), (stamp, Arc::clone(&read)));
    read
}

/// A file that was named is meant to be compared with.
fn of_another_database(
    attrs: &StructAttrs,
    needs: &rowlock_schema::Model,
    files: &[(PathBuf, Read)],
    diag: &Diag,
) {
    let SchemaAttr::Named(file) = &attrs.schema else {
        return;
    };
    let dialects = files.iter().map(|(_, read)| match read.as_ref() {
        Ok(catalogue) => Some(catalogue.dialect),
        Err(_) => None,
    });
    let others: Option<Vec<_>> = dialects.collect();
    // One that cannot be read is reported, and could be of any.
    let Some(others) = others.filter(|others| !others.is_empty()) else {
        return;
    };
    if !others
        .iter()
        .any(|dialect| needs.dialects.contains(dialect))
    {
        let of: Vec<&str> = others.iter().map(|dialect| dialect.name()).collect();
        diag.error(
            file,
            format_args!(
                "`{}` is of {}, and the model is for another database\n\
                 help: name the file of that, or say `backend({})`",
                file.value(),
                of.join(" and "),
                of.join(", ")
            ),
        );
    }
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn unreadable(model: &Model, attrs: &StructAttrs, path: &Path, error: &str, diag: &Diag) {
    let message = format!(
        "the catalogue in `{}` cannot be used\nnote: {error}\n\
         {WRITE}",
        name(path)
    );
    match &attrs.schema {
        SchemaAttr::Named(file) => diag.error(file, message),
        SchemaAttr::Usual | SchemaAttr::Off => diag.error(&model.ident, message),
    }
}

fn report(
    kind: Kind,
    model: &Model,
    attrs: &StructAttrs,
    finding: &Finding,
    path: &Path,
    diag: &Diag,
) {
    let column = |name: &str| model.columns.iter().find(|column| column.written() == name);
    let mut message = finding.to_string();
    if finding.rule == Rule::Table {
        message.push_str(&format!(
            "\nnote: that is so in `{}`; a table of another database says `schema = off`",
            name(path)
        ));
    }
    let span = match &finding.place {
        Place::Table => attrs.table.as_ref().map(LitStr::span),
        Place::Struct | Place::Server => None,
        Place::Field(name) => column(name).map(|column| of_column(column, finding.rule)),
        Place::Key(number) => needs::key_span(kind, model, *number),
    };
    let span = span.unwrap_or_else(|| model.ident.span());
    diag.push(syn::Error::new(span, message));
}

/// The smallest thing to edit.
fn of_column(column: &Column, rule: Rule) -> proc_macro2::Span {
    match rule {
        Rule::Type | Rule::Width | Rule::Null => column.ty.span(),
        Rule::NotNull | Rule::Check | Rule::States => column.asked,
        _ => column.ident.span(),
    }
}

/// Fields whose type can be an `Option` under another name, of columns that can be NULL: the compiler knows.
fn aliases(
    model: &Model,
    catalogue: &Catalogue,
    needs: &rowlock_schema::Model,
) -> Vec<TokenStream> {
    // As if it was known that they are none.
    let mut strict = needs.clone();
    for field in &mut strict.fields {
        field.option.get_or_insert(false);
    }
    let findings = rowlock_schema::check(catalogue, &strict, Source::File);
    let of_null = findings.iter().filter(|finding| finding.rule == Rule::Null);
    let asserts = of_null.filter_map(|finding| {
        let Place::Field(name) = &finding.place else {
            return None;
        };
        let mut fields = needs.fields.iter();
        fields.find(|field| field.field == *name && field.option.is_none())?;
        let column = model
            .columns
            .iter()
            .find(|column| column.written() == *name)?;
        last_segment(&column.ty)?;
        let (ty, message) = (&column.ty, finding.to_string());
        Some(quote_spanned! {ty.span()=>
            const _: () = {
                #[allow(unused_imports)]
                use __rt::NotNullable as _;
                __rt::assert!(__rt::Nullable::<#ty>::IS_OPTION, #message);
            };
        })
    });
    asserts.collect()
}
