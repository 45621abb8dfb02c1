//! `#[derive(Versioned)]`: optimistic locking.

mod many;

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Index};

use super::{
    Derive, KeyValue, Kind, Method, Output, STUB_DOC, assert_not_null, bind_columns,
    connection_name, database, fence, for_backend, key_argument, key_lifetime, knows, literal,
    name_at, number, parts, position, read_back, read_row, sets_without_excluded, sql_doc,
    statement, stub_fields, stub_impl, stub_method, wrapper,
};
use crate::diag::Diag;
use crate::lower::Attempted;
use crate::model::{Column, Model};
use crate::options::FieldOption;
use crate::sql::{self, Dialect};

pub(crate) struct Versioned;

pub(crate) struct Plan<'m> {
    model: &'m Model,
    keys: Vec<&'m Column>,
    /// Either this, or columns that are checked.
    version: Option<&'m Column>,
    checked: Vec<&'m Column>,
    /// What the names of the methods come from.
    asked: Span,
}

impl Plan<'_> {
    fn key(&self) -> KeyValue<'_> {
        KeyValue::borrowed(self.model, &self.keys, "__Key")
    }
}

impl Derive for Versioned {
    type Plan<'m> = Plan<'m>;
    const KIND: Option<Kind> = Some(Kind::Versioned);

    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Plan<'m>> {
        sets_without_excluded(model, diag);
        let version = model.row_version();
        let checked = model.checked();
        let compared = version.or_else(|| checked.first().copied());
        if compared.is_none() && !attempted.has("version") && !attempted.has("check") {
            missing_version(model, diag);
        }
        let keys = model.keys();
        if keys.is_empty() && !attempted.has("key") {
            missing_key(model, diag);
        }
        Some(Plan {
            model,
            version,
            asked: compared?.asked,
            checked,
            keys,
        })
    }

    fn expand(plan: &Plan<'_>) -> Output {
        let Plan { model, keys, .. } = plan;
        let methods = methods(plan);
        let facts = facts(plan);
        let backends = model
            .backends
            .iter()
            .map(|dialect| for_backend(*dialect, &statements(plan, *dialect)));
        let ident = &model.ident;
        let not_null = assert_not_null(
            keys,
            "the key",
            "in SQL NULL is not equal to NULL, so such a row would never be found",
        );
        Output {
            items: TokenStream::new(),
            impls: quote! {
                impl #ident { #methods }
                #facts
                #(#backends)*
                #not_null
            },
        }
    }

    fn stub(input: &DeriveInput) -> Output {
        let load_error = quote!(Self, __rt::LoadError);
        let update_error = quote!(Self, __rt::UpdateError<Self>);
        let methods = [
            ("load", false, 2, &load_error),
            ("reload", true, 1, &load_error),
            ("update", true, 1, &update_error),
            ("touch", true, 1, &update_error),
            (
                "insert",
                true,
                1,
                &quote!(Self, __rt::versioned::InsertError),
            ),
            ("delete", true, 1, &quote!((), __rt::DeleteError<Self>)),
        ];
        let methods = methods.map(|(name, receiver, arguments, output)| {
            stub_method(&format_ident!("{name}"), receiver, arguments, output)
        });
        let many = many::stub();
        // The argument of the closure of `update_with` has to be known, or the caller is asked for its type.
        let methods = quote! {
            #(#methods)*
            #many
            #[doc = #STUB_DOC]
            pub async fn update_with(
                __db: impl ::core::marker::Sized,
                __key: impl ::core::marker::Sized,
                __change: impl __rt::FnMut(&mut Self),
            ) -> __rt::Result<#update_error> {
                __rt::unreachable!()
            }
            #[doc = #STUB_DOC]
            pub fn edit(&self) -> __rt::Edit<Self> {
                __rt::unreachable!()
            }
        };
        let traits = stub_traits(input);
        // Its type asks for them.
        let edit_at = traits.as_ref().map(|_| {
            quote! {
                #[doc = #STUB_DOC]
                pub fn edit_at(
                    __key: impl ::core::marker::Sized,
                    __version: impl ::core::marker::Sized,
                ) -> __rt::versioned::EditAt<'static, Self> {
                    __rt::unreachable!()
                }
            }
        });
        let methods = stub_impl(input, &quote!(#methods #edit_at));
        Output {
            items: TokenStream::new(),
            impls: quote!(#methods #traits),
        }
    }
}

/// What `Edit::save` and `Conflict::merge` ask for.
fn stub_traits(input: &DeriveInput) -> Option<TokenStream> {
    stub_fields(input)?;
    let ident = &input.ident;
    Some(quote! {
        #[automatically_derived]
        impl __rt::Model<__rt::versioned::Derive> for #ident {
            type Key<'__k> = ();
            const TABLE: &'static str = "";
            fn describe(_: &(), _: &mut __rt::KeyText) {}
        }
        #[automatically_derived]
        impl __rt::versioned::Versioned for #ident {
            const VERSION_INDEX: usize = 0;
            const MAX_VERSION: i64 = 0;
            const COLUMNS: &'static [&'static str] = &[];
            const COPY: fn(&Self) -> Self = |_| __rt::unreachable!();
            fn key(&self) {}
            fn changes(&self, _: &Self) -> __rt::Changes { __rt::unreachable!() }
            fn adopt(&mut self, _: &Self, _: &__rt::Changes) {}
        }
        #[automatically_derived]
        impl __rt::versioned::HasVersion for #ident {}
        #[automatically_derived]
        impl<__DB: __rt::Backend> __rt::versioned::VersionedSql<__DB> for #ident {
            const ROW: __rt::Read<__DB, Self> = |_| __rt::unreachable!();
            const LOAD: &'static str = "";
            const LOAD_MANY: &'static str = "";
            const INSERT: &'static str = "";
            const DELETE: &'static str = "";
            const SAVE: [&'static str; 3] = [""; 3];
            const SET: &'static [&'static str] = &[];
            fn bind_key(_: &(), _: &mut impl __rt::Bind<__DB>) {}
            fn bind_columns(&self, _: &mut impl __rt::Bind<__DB>) {}
            fn bind_new(&self, _: &mut impl __rt::Bind<__DB>) {}
        }
    })
}

fn missing_version(model: &Model, diag: &Diag) {
    let named = model
        .columns
        .iter()
        .find(|column| ["version", "lock_version"].contains(&column.field.as_str()));
    let message = format!("no field of `{}` is marked as the version", model.ident);
    match named {
        Some(column) => diag.error(
            &column.ident,
            format_args!(
                "{message}\nhelp: {}",
                column.marked(FieldOption::Version, &model.ident)
            ),
        ),
        None => diag.error(
            &model.ident,
            format_args!(
                "{message}\nhelp: add a field such as `#[rowlock(version)] lock_version: i64`, or mark those that a save compares with `#[rowlock(check)]`"
            ),
        ),
    }
}

/// Also asked by `Counter`.
pub(super) fn missing_key(model: &Model, diag: &Diag) {
    let message = format!("`{}` has no primary key", model.ident);
    match model.columns.iter().find(|column| column.field == "id") {
        Some(column) => diag.error(
            &column.ident,
            format_args!(
                "{message}\nhelp: {}",
                column.marked(FieldOption::Key, &model.ident)
            ),
        ),
        None => diag.error(
            &model.ident,
            format_args!("{message}\nhelp: mark a field with `#[rowlock(key)]`"),
        ),
    }
}

fn methods(plan: &Plan<'_>) -> TokenStream {
    let Plan {
        model,
        keys,
        version,
        asked,
        ..
    } = plan;
    let key = key_argument(keys, &key_lifetime(keys));
    let given = plan.key().given(&quote!(key));
    let ident = &model.ident;
    let table = model.table.display();
    let compared = compared(plan);
    let is_xmin = version.is_some_and(Column::is_xmin);
    let starts = match version {
        Some(version) if !is_xmin => {
            format!("It gets `{}` 0, whatever this copy's is; ", version.field)
        }
        _ => String::new(),
    };
    let raises = if is_xmin {
        "Writes a column as it is"
    } else {
        "Raises the version"
    };
    let (and_checked, update_or_save) = if version.is_some() {
        ("", "`update`")
    } else {
        let and = "\n\nand `AND \"column\" IS NOT DISTINCT FROM $n` for each of them; on SQLite it is `IS`.";
        (and, "`save` of an edit")
    };
    let conflict_note = "After a conflict, one more statement reads the current row.";
    let cancel = "Cancel safety: one statement; if you drop the future, it takes effect completely or not at all.";

    let method = |name: &str, docs: String, receiver: bool, arguments, output, body| {
        Method {
            name: name_at(name, *asked),
            docs,
            receiver: if receiver { quote!(&self,) } else { quote!() },
            key: if receiver { &[] } else { keys },
            db: connection_name(&[]),
            arguments,
            output,
            bound: quote!(__rt::versioned::VersionedSql<__DB>),
            body,
        }
        .tokens()
    };

    let load = method(
        "load",
        format!(
            "Reads the row of `{table}` with this key.\n\n{}\n\n\
             Errors: `NotFound`, `NullVersion`, `NotUnique`, `Database`.",
            sql_doc(model, |dialect| sql::select(model, keys, dialect))
        ),
        false,
        quote!(key: #key),
        quote!(Self, __rt::LoadError),
        quote!(__rt::versioned::load(db, #given)),
    );
    let reload = method(
        "reload",
        format!(
            "Reads this row of `{table}` again, by its key.\n\n{}\n\n\
             Errors: `NotFound`, `NullVersion`, `NotUnique`, `Database`.",
            sql_doc(model, |dialect| sql::select(model, keys, dialect))
        ),
        true,
        quote!(),
        quote!(Self, __rt::LoadError),
        quote!(__rt::versioned::reload(self, db)),
    );
    let insert = method(
        "insert",
        format!(
            "Inserts this struct as a new row of `{table}` and returns it. {starts}`generated` and `default` columns are filled by the database.\n\n{}\n\n\
             Errors: `AlreadyExists` (with the name of the constraint on PostgreSQL), `Ignored`, `Written`, `Serialization`, `Unknown`, \
             `Database`.\n\n{cancel}",
            sql_doc(model, |dialect| sql::versioned::insert(
                model, *version, dialect
            ))
        ),
        true,
        quote!(),
        quote!(Self, __rt::versioned::InsertError),
        quote!(__rt::versioned::insert(self, db)),
    );
    let update = method(
        "update",
        format!(
            "Writes all columns if the row still has this copy's {compared}, and returns the new row. \
             The copy itself stays as it is.\n\n{}\n\n{conflict_note}\n\n\
             Errors: `Stale` (with the current row), `Gone`, `NullVersion`, `VersionOverflow`, `Ignored`, `NotUnique`, \
             `Written`, `Serialization`, `Unknown`, `Database`.\n\n{cancel}",
            sql_doc(model, |dialect| sql::versioned::update(
                model, *version, dialect
            ))
        ),
        true,
        quote!(),
        quote!(Self, __rt::UpdateError<Self>),
        quote!(__rt::versioned::update(self, db)),
    );
    let touch = method(
        "touch",
        format!(
            "{raises} if the row still has this copy's {compared}, writes nothing else, and returns the row with what \
             the database renewed.\n\n{}\n\n{conflict_note}\n\nErrors: those of `update`.\n\n{cancel}",
            sql_doc(model, |dialect| sql::versioned::touch(
                model, *version, dialect
            ))
        ),
        true,
        quote!(),
        quote!(Self, __rt::UpdateError<Self>),
        quote!(__rt::versioned::touch(self, db)),
    );
    let delete = method(
        "delete",
        format!(
            "Deletes the row if it still has this copy's {compared}.\n\n{}{and_checked}\n\n{conflict_note}\n\n\
             Errors: `Stale` (with the current row), `Gone`, `NullVersion`, `Ignored`, `NotUnique`, `Serialization`, \
             `Unknown`, `Database`.\n\n{cancel}",
            sql_doc(model, |dialect| sql::versioned::delete(
                model, *version, dialect
            ))
        ),
        true,
        quote!(),
        quote!((), __rt::DeleteError<Self>),
        quote!(__rt::versioned::delete(self, db)),
    );
    let update_with = method(
        "update_with",
        format!(
            "Loads the row of `{table}` with this key, applies `change` and updates, and starts again after a conflict: at most 32 times, with a \
             random wait of up to 64 ms in between. \
             `change` must not have side effects: it runs once per attempt.\n\n\
             Runs the statements of `load` and {update_or_save}, on one connection.\n\n\
             Errors: those of {update_or_save}; `Stale` means that all attempts lost, `Gone` that there is no such row.\n\n\
             Cancel safety: as {update_or_save}; an attempt is applied completely or not at all."
        ),
        false,
        quote!(key: #key, change: impl __rt::FnMut(&mut Self) + __rt::Send),
        quote!(Self, __rt::UpdateError<Self>),
        quote!(__rt::versioned::update_with(db, #given, change)),
    );
    let edit_at = version.map(|version| edit_at(plan, version));
    let many = many::methods(plan);
    // A copy does not know what was read of what it wants to write; an edit does.
    let (update, touch) = match version {
        Some(_) => (update, touch),
        None => Default::default(),
    };
    let edit = name_at("edit", *asked);
    let edit_docs = format!(
        "Starts an edit of this `{ident}`: change its fields, then `save` writes only the changed columns."
    );
    quote! {
        #load
        #reload
        #insert
        #update
        #touch
        #delete
        #many
        #update_with
        #[doc = #edit_docs]
        #[inline]
        pub fn #edit(&self) -> __rt::Edit<Self> {
            __rt::versioned::edit(self)
        }
        #edit_at
    }
}

/// What has to be as it was read, for readers.
fn compared(plan: &Plan<'_>) -> String {
    let columns = match &plan.version {
        Some(version) => std::slice::from_ref(version),
        None => plan.checked.as_slice(),
    };
    let names: Vec<String> = columns
        .iter()
        .map(|column| format!("`{}`", column.field))
        .collect();
    names.join(", ")
}

fn edit_at(plan: &Plan<'_>, version: &Column) -> TokenStream {
    let Plan { keys, asked, .. } = plan;
    let name = name_at("edit_at", *asked);
    let docs = format!(
        "Starts an edit of the row with this key as it was at this `{}`, without reading it: \
         `edit_at(key, version).set(Self::FIELD, value).save(db)`. For an ETag that comes back in If-Match. The model also derives `Guarded`, \
         which generates the constants.",
        version.field
    );
    let key = key_argument(keys, &quote!('__k));
    let given = plan.key().given(&quote!(key));
    let ty = &version.ty;
    let number = number(version, &quote!(version));
    quote! {
        #[doc = #docs]
        pub fn #name<'__k>(key: #key, version: #ty) -> __rt::versioned::EditAt<'__k, Self> {
            __rt::versioned::edit_at(#given, #number)
        }
    }
}

/// What does not depend on the database. `#[inline]`: without it the compiler generates the code whether or not it is called.
fn facts(plan: &Plan<'_>) -> TokenStream {
    let Plan {
        model,
        keys,
        version,
        ..
    } = plan;
    let ident = &model.ident;
    let max_version = version.map_or_else(|| quote!(__rt::NO_MAX), max_version);
    // What is wrong with it is wrong with the struct.
    let copy = quote_spanned!(ident.span()=> <Self as __rt::Clone>::clone);
    let key = plan.key();
    let key_struct = key.definition(&["Clone", "PartialEq"]);
    let (this_version, fence) = (super::version(*version), fence(model));
    let row = quote!(#this_version #fence);
    let knows = knows(model, &quote!(__rt::versioned::Derive), &key, &row);
    let key = key.of(&quote!(self));
    let version_index = match version {
        Some(version) => position(model, version),
        None => Some(Index::from(model.columns.len())),
    };
    let rises = version.is_some_and(|version| !version.is_xmin());
    let constant = (!rises).then(|| {
        quote!(
            const RISES: bool = false;
        )
    });
    let checks = version.is_none().then(|| {
        quote!(
            const CHECKS: bool = true;
        )
    });
    let has_version = version.map(|_| {
        quote! {
            #[automatically_derived]
            impl __rt::versioned::HasVersion for #ident {}
        }
    });
    let made_up = |key: &&Column| key.generated || key.has_expression();
    let made_up_key = keys.iter().any(made_up).then(|| {
        quote!(
            const KEY_IS_GIVEN: bool = false;
        )
    });
    let writable = model.writable();
    let names = writable.iter().map(|column| &column.field);
    let databases = model.backends.iter().map(|dialect| {
        let (wrapper, database) = (wrapper(*dialect), format_ident!("{}", dialect.name()));
        quote!(#wrapper #database)
    });
    let copies = writable.iter().enumerate().map(|(index, column)| {
        let field = column.place();
        let index = Index::from(index);
        quote!(__columns.copy(#index, &__from.#field, &mut self.#field);)
    });
    let adopt_fence = model.fence().map(|column| {
        let field = &column.ident;
        quote!(self.#field = __from.#field;)
    });
    quote! {
        #key_struct
        #knows
        #[automatically_derived]
        impl __rt::versioned::Versioned for #ident {
            const VERSION_INDEX: usize = #version_index;
            #made_up_key
            #constant
            #checks
            const MAX_VERSION: i64 = #max_version;
            const COLUMNS: &'static [&'static str] = &[#(#names),*];
            const COPY: fn(&Self) -> Self = #copy;
            fn key(&self) -> Self::Key<'_> { #key }
            #[inline]
            fn changes(&self, __other: &Self) -> __rt::Changes {
                __rt::changes!(self, __other, #(#databases),*)
            }
            #[inline]
            fn adopt(&mut self, __from: &Self, __columns: &__rt::Changes) { #(#copies)* #adopt_fence }
        }
        #has_version
    }
}

/// The compiler's error about a wrong type is the same wherever this stands, and so it is printed once.
pub(super) fn max_version(version: &Column) -> TokenStream {
    let ty = &version.ty;
    if version.is_xmin() {
        return quote!(__rt::NO_MAX);
    }
    quote_spanned!(ty.span()=> <#ty as __rt::VersionNumber>::MAX)
}

/// The statements for one database, and how their values are bound.
fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
    let Plan {
        model,
        keys,
        version,
        checked,
        ..
    } = plan;
    let version = *version;
    let ident = &model.ident;
    let database = database(dialect);
    let read_row = read_row(model, dialect);
    let load = statement(&sql::select(model, keys, dialect));
    let many = many::statements(plan, dialect);
    let insert = statement(&sql::versioned::insert(model, version, dialect));
    let delete = statement(&sql::versioned::delete(model, version, dialect));
    let save = parts(&sql::versioned::save(model, version, dialect));
    let writable = model.writable();
    let sets = writable
        .iter()
        .map(|column| literal(dialect, &sql::versioned::set(column)));
    let bind_key = plan.key().bind();
    let binds = bind_columns(&writable);
    let new = bind_columns(&sql::versioned::inserted(model));
    let compared = if version.is_some() {
        let update = statement(&sql::versioned::update(model, version, dialect));
        let touch = statement(&sql::versioned::touch(model, version, dialect));
        let reads = read_back(&sql::versioned::returned(model));
        quote! {
            const UPDATE: &'static str = #update;
            const TOUCH: &'static str = #touch;
            fn read_back(&mut self, __row: &__rt::Row<#database>) -> __rt::Decoded<()> {
                #reads
                __rt::Ok(())
            }
        }
    } else {
        let columns = checked.iter().map(|column| {
            let (index, name) = (
                position(model, column),
                literal(dialect, &sql::guarded::name(column)),
            );
            quote!((#index, #name))
        });
        let look = parts(&sql::versioned::look(model, dialect));
        let binds = bind_columns(checked);
        quote! {
            const CHECKED: &'static [(usize, &'static str)] = &[#(#columns),*];
            const LOOK: [&'static str; 3] = #look;
            fn bind_checked(&self, __to: &mut impl __rt::Bind<#database>) { #binds }
        }
    };
    quote! {
        #[automatically_derived]
        impl __rt::versioned::VersionedSql<#database> for #ident {
            #read_row
            const LOAD: &'static str = #load;
            #many
            const INSERT: &'static str = #insert;
            const DELETE: &'static str = #delete;
            const SAVE: [&'static str; 3] = #save;
            const SET: &'static [&'static str] = &[#(#sets),*];
            fn bind_key(__key: &Self::Key<'_>, __to: &mut impl __rt::Bind<#database>) { #bind_key }
            fn bind_columns(&self, __to: &mut impl __rt::Bind<#database>) { #binds }
            fn bind_new(&self, __to: &mut impl __rt::Bind<#database>) { #new }
            #compared
        }
    }
}
