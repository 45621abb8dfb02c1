//! `#[derive(Guarded)]`: writes under a condition.

use std::collections::BTreeSet;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{DeriveInput, Index};

use super::versioned::{max_version, missing_key};
use super::{
    Derive, KeyValue, Kind, Method, Output, STUB_DOC, assert_not_null, connection_name, database,
    for_backend, key_argument, key_lifetime, knows, literal, name_at, parts, position, read_row,
    reads, sets_without_excluded, sql_doc, statement, stub_fields, stub_impl, stub_method,
    text_doc,
};
use crate::attr::FieldAttrs;
use crate::diag::Diag;
use crate::lower::{Attempted, columns_of};
use crate::model::{Column, Model, Role, inside_option};
use crate::options::FieldOption;
use crate::sql::{self, Dialect};

pub(crate) struct Guarded;

pub(crate) struct Plan<'m> {
    model: &'m Model,
    keys: Vec<&'m Column>,
}

impl Plan<'_> {
    fn key(&self) -> KeyValue<'_> {
        KeyValue::borrowed(self.model, &self.keys, "__Key")
    }
}

impl Derive for Guarded {
    type Plan<'m> = Plan<'m>;
    const KIND: Option<Kind> = Some(Kind::Guarded);

    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Plan<'m>> {
        sets_without_excluded(model, diag);
        let keys = model.keys();
        if keys.is_empty() {
            if !attempted.has("key") {
                missing_key(model, diag);
            }
            return None;
        }
        if let Some(fence) = model
            .fence()
            .filter(|_| !model.is_queue() && !is_ledger(model))
        {
            diag.error(
                &fence.ident,
                format_args!(
                    "`Guarded` cannot be derived for `{}`: its writes give no fence, so a holder who lost the lock could write\n\
                     help: derive `Versioned` and write with `edit` and `save`, which check `{}`",
                    model.ident, fence.field
                ),
            );
        }
        for (index, column) in model.columns.iter().enumerate() {
            let name = constant(&column.ident);
            let mut before = model.columns[..index].iter();
            // Two fields of one name are reported for themselves.
            let same =
                |other: &&Column| constant(&other.ident) == name && other.field != column.field;
            if let Some(other) = before.find(same) {
                diag.error(
                    &column.ident,
                    format_args!(
                        "the fields `{}` and `{}` both need a constant named `{name}`\n\
                         help: rename the field, and keep the column with `#[sqlx(rename = \"{}\")]`",
                        other.field, column.field, column.name
                    ),
                );
            }
        }
        Some(Plan { model, keys })
    }

    fn expand(plan: &Plan<'_>) -> Output {
        let Plan { model, keys } = plan;
        let ident = &model.ident;
        let fields = model.columns.iter().enumerate();
        let fields = fields.filter(|(_, column)| !(model.is_queue() && column.filter));
        let fields = fields.map(field);
        let methods = methods(plan);
        let key = plan.key();
        let key_struct = key.definition(&["Clone", "PartialEq"]);
        let knows = knows(
            model,
            &quote!(__rt::guarded::Derive),
            &key,
            &TokenStream::new(),
        );
        let backends = model
            .backends
            .iter()
            .map(|dialect| for_backend(*dialect, &statements(plan, *dialect)));
        let not_null = assert_not_null(
            keys,
            "the key",
            "in SQL NULL is not equal to NULL, so such a row would never be found",
        );
        let reads = reads(model);
        Output {
            items: TokenStream::new(),
            impls: quote! {
                impl #ident {
                    #(#fields)*
                    #methods
                }
                #key_struct
                #knows
                #(#backends)*
                #not_null
                #reads
            },
        }
    }

    fn stub(input: &DeriveInput) -> Output {
        let error = quote!(__rt::guarded::GuardError<Self>);
        let row = quote!(Self, #error);
        let maybe = quote!(__rt::Option<Self>, #error);
        let found = quote!(bool, __rt::DatabaseError);
        let methods = [
            ("delete_if", 3, &row),
            ("delete_by_key", 2, &maybe),
            ("exists", 2, &found),
        ];
        let methods = methods.map(|(name, arguments, output)| {
            stub_method(&format_ident!("{name}"), false, arguments, output)
        });
        let fields = stub_constants(input, false);
        // What the closure is given has to be known, or the caller is asked for its type.
        let methods = quote! {
            #fields
            #(#methods)*
            #[doc = #STUB_DOC]
            pub async fn update_if(
                __db: impl ::core::marker::Sized,
                __key: impl ::core::marker::Sized,
                __condition: impl ::core::marker::Sized,
                __change: impl __rt::guarded::FnOnce(&mut __rt::guarded::Anything),
            ) -> __rt::Result<#row> {
                __rt::unreachable!()
            }
            #[doc = #STUB_DOC]
            pub async fn patch(
                __db: impl ::core::marker::Sized,
                __key: impl ::core::marker::Sized,
                __change: impl __rt::guarded::FnOnce(&mut __rt::guarded::Anything),
            ) -> __rt::Result<#row> {
                __rt::unreachable!()
            }
        };
        let methods = stub_impl(input, &methods);
        let traits = stub_fields(input).map(|_| stub_traits(&input.ident));
        Output {
            items: TokenStream::new(),
            impls: quote!(#methods #traits),
        }
    }
}

/// What `only_if` of an edit asks for.
fn stub_traits(ident: &Ident) -> TokenStream {
    quote! {
        #[automatically_derived]
        impl __rt::Model<__rt::guarded::Derive> for #ident {
            type Key<'__k> = ();
            const TABLE: &'static str = "";
            fn describe(_: &(), _: &mut __rt::KeyText) {}
        }
        #[automatically_derived]
        impl<__DB: __rt::Backend> __rt::guarded::Names<__DB> for #ident {
            const NAMES: &'static [&'static str] = &[];
        }
        #[automatically_derived]
        impl<__DB: __rt::Backend> __rt::guarded::GuardedSql<__DB> for #ident {
            const ROW: __rt::Read<__DB, Self> = |_| __rt::unreachable!();
            const VERSION_LIMIT: __rt::Option<(usize, i64)> = __rt::None;
            const UPDATE: [&'static str; 3] = [""; 3];
            const DELETE: [&'static str; 2] = [""; 2];
            const LOOK: [&'static str; 2] = [""; 2];
            const EXISTS: &'static str = "";
            fn bind_key(_: &(), _: &mut impl __rt::Bind<__DB>) {}
        }
    }
}

fn is_ledger(model: &Model) -> bool {
    model
        .columns
        .iter()
        .any(|column| matches!(column.role, Role::Ledger(_)))
}

/// `CONSUMED_AT` for `consumed_at`.
fn constant(field: &Ident) -> Ident {
    let name = field.to_string();
    let name = name.strip_prefix("r#").unwrap_or(&name).to_uppercase();
    name_at(&name, field.span())
}

/// The constants of a struct that could not be read: those of `Queue`, which are of the filters of one, or all others.
pub(super) fn stub_constants(input: &DeriveInput, of_queue: bool) -> TokenStream {
    let quiet = Diag::new();
    let fields = stub_fields(input).unwrap_or_default();
    let fields = fields.into_iter();
    let fields: Vec<_> = fields
        .map(|field| (field, FieldAttrs::read(&field.attrs, &quiet)))
        .collect();
    let _ = quiet.finish();
    let is_queue = fields
        .iter()
        .any(|(_, options)| options.has(FieldOption::Attempts));
    let columns = fields.iter().flat_map(|(field, options)| {
        let filter = options.has(FieldOption::Filter) && (is_queue || of_queue);
        let columns = columns_of(field).into_iter();
        columns.map(move |column| (column, filter))
    });
    let mut seen = BTreeSet::new();
    let constants = columns.enumerate().filter_map(|(index, (field, filter))| {
        let (name, ty) = (constant(field.ident.as_ref()?), &field.ty);
        let index = Index::from(index);
        // Two of a name are the mistake that was reported.
        (filter == of_queue && seen.insert(name.clone())).then(|| {
            quote! {
                #[doc = #STUB_DOC]
                pub const #name: __rt::guarded::Field<Self, #ty> = __rt::guarded::Field::new(#index);
            }
        })
    });
    quote!(#(#constants)*)
}

/// The constant for a column. Those of a queue's filters are made by `Queue`, which can be derived without `Guarded`, and all others here:
/// a derive does not know which others there are.
pub(super) fn field((index, column): (usize, &Column)) -> TokenStream {
    let name = constant(&column.ident);
    let ty = value_type(column);
    let index = Index::from(index);
    let docs = format!("The column `{}`, for conditions.", column.name);
    let (access, value) = match column.role {
        Role::Counter { min, max } => {
            let (min, max) = (min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX));
            (
                quote!(Counted),
                quote!(__rt::guarded::Field::within(#index, #min, #max)),
            )
        }
        Role::Plain if !column.key && !column.generated && column.on_update.is_none() => {
            (quote!(Settable), quote!(__rt::guarded::Field::new(#index)))
        }
        _ => (quote!(ReadOnly), quote!(__rt::guarded::Field::new(#index))),
    };
    quote! {
        #[doc = #docs]
        pub const #name: __rt::guarded::Field<Self, #ty, __rt::guarded::#access> = #value;
    }
}

/// What is bound for a column: a JSON one is `Json<T>`.
fn value_type(column: &Column) -> TokenStream {
    let ty = &column.ty;
    if column.json_nullable
        && let Some(inner) = inside_option(ty)
    {
        return quote!(__rt::Option<__rt::sqlx::types::Json<#inner>>);
    }
    if column.json {
        return quote!(__rt::sqlx::types::Json<#ty>);
    }
    quote!(#ty)
}

fn methods(plan: &Plan<'_>) -> TokenStream {
    let Plan { model, keys } = plan;
    let table = model.table.display();
    let asked = keys[0].ident.span();
    let key = key_argument(keys, &key_lifetime(keys));
    let given = plan.key().given(&quote!(key));
    let row = quote!(Self, __rt::guarded::GuardError<Self>);
    let cancel = "Cancel safety: one statement; if you drop the future, it takes effect completely or not at all.";
    let errors = "`NotFound`, `Refused` (with the current row), `NullVersion`, `VersionOverflow`, `SetTwice`, `Ignored`, `NotUnique`, `Written`, \
    `Serialization`, `Unknown`, `Database`";
    let look = "If it meets no row, one more statement reads the row and whether it meets the condition; if it does by then, both run once more \
    under a lock";
    let version = model.version().map_or_else(String::new, |version| {
        format!(
            " `{}` goes up, so that editors of a copy notice.",
            version.field
        )
    });
    let condition =
        quote!(condition: __rt::guarded::Condition<Self, impl __rt::guarded::Expression<__DB>>);
    let change = quote!(change: impl __rt::guarded::FnOnce(&mut __rt::guarded::Set<__DB, Self>));
    let method = |name: &str, docs: String, arguments, output, body| {
        Method {
            name: name_at(name, asked),
            docs,
            receiver: TokenStream::new(),
            key: keys,
            db: connection_name(&[]),
            arguments,
            output,
            bound: quote!(__rt::guarded::GuardedSql<__DB>),
            body,
        }
        .tokens()
    };
    let update_docs = text_doc(model, |dialect| {
        sql::guarded::shown(
            &sql::guarded::update(model, dialect),
            &["\"column\" = $2", "condition"],
        )
    });
    let update_if = method(
        "update_if",
        format!(
            "Writes to the row of `{table}` with this key if it meets `condition`, in one statement, and returns the new row. `change` sets the \
             columns: `|row| row.set(Self::FIELD, value)`.{version} If it sets nothing, nothing is written, and the row is returned if it meets \
             the condition.\n\n{update_docs}\n\n{look}.\n\nErrors: {errors}.\n\n{cancel}"
        ),
        quote!(key: #key, #condition, #change),
        row.clone(),
        quote!(__rt::guarded::update_if(db, #given, condition, change)),
    );
    let patch = method(
        "patch",
        format!(
            "Writes some columns of the row of `{table}` with this key, whatever it holds, and returns the new row.{version} \
             If nothing is set, nothing is written.\n\n{update_docs}\n\nErrors: {errors}; `Refused` only by an `add`.\n\n{cancel}"
        ),
        quote!(key: #key, #change),
        row.clone(),
        quote!(__rt::guarded::patch(db, #given, change)),
    );
    let delete_docs = text_doc(model, |dialect| {
        sql::guarded::shown(&sql::guarded::delete(model, dialect), &["condition"])
    });
    let delete_if = method(
        "delete_if",
        format!(
            "Deletes the row of `{table}` with this key if it meets `condition`, and returns the deleted row.\n\n{delete_docs}\n\n{look}.\n\n\
             Errors: {errors}.\n\n{cancel}"
        ),
        quote!(key: #key, #condition),
        row,
        quote!(__rt::guarded::delete_if(db, #given, condition)),
    );
    let delete_by_key = method(
        "delete_by_key",
        format!(
            "Deletes the row of `{table}` with this key, whatever it holds, and returns the deleted row; `None` if there is no such \
             row.\n\n{delete_docs}\n\nErrors: `Ignored`, `NotUnique`, `Written`, `Serialization`, `Unknown`, `Database`.\n\n{cancel}"
        ),
        quote!(key: #key),
        quote!(__rt::Option<Self>, __rt::guarded::GuardError<Self>),
        quote!(__rt::guarded::delete_by_key(db, #given)),
    );
    let exists = method(
        "exists",
        format!(
            "Whether `{table}` has a row with this key.\n\n{}\n\nErrors: the database's.",
            sql_doc(model, |dialect| sql::guarded::exists(model, dialect))
        ),
        quote!(key: #key),
        quote!(bool, __rt::DatabaseError),
        quote!(__rt::guarded::exists::<__DB, Self>(db, #given)),
    );
    quote!(#update_if #patch #delete_if #delete_by_key #exists)
}

/// By the index of a field.
pub(super) fn column_names(model: &Model, dialect: Dialect) -> TokenStream {
    let columns = model.columns.iter();
    let names = columns.map(|column| literal(dialect, &sql::guarded::name(column)));
    quote!(&[#(#names),*])
}

/// The statements for one database.
fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
    let Plan { model, .. } = plan;
    let ident = &model.ident;
    let database = database(dialect);
    let read_row = read_row(model, dialect);
    let update = parts(&sql::guarded::update(model, dialect));
    let delete = parts(&sql::guarded::delete(model, dialect));
    let look = parts(&sql::guarded::look(model, dialect));
    let exists = statement(&sql::guarded::exists(model, dialect));
    let names = column_names(model, dialect);
    let version = match model.version() {
        Some(version) => {
            let (index, highest) = (position(model, version), max_version(version));
            quote!(__rt::Some((#index, #highest)))
        }
        None => quote!(__rt::None),
    };
    let bind_key = plan.key().bind();
    quote! {
        #[automatically_derived]
        impl __rt::guarded::Names<#database> for #ident {
            const NAMES: &'static [&'static str] = #names;
        }
        #[automatically_derived]
        impl __rt::guarded::GuardedSql<#database> for #ident {
            #read_row
            const VERSION_LIMIT: __rt::Option<(usize, i64)> = #version;
            const UPDATE: [&'static str; 3] = #update;
            const DELETE: [&'static str; 2] = #delete;
            const LOOK: [&'static str; 2] = #look;
            const EXISTS: &'static str = #exists;
            fn bind_key(__key: &Self::Key<'_>, __to: &mut impl __rt::Bind<#database>) { #bind_key }
        }
    }
}
