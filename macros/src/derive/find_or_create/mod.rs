//! `#[derive(FindOrCreate)]`: find by a unique key, or create; and upsert.

mod many;

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, DeriveInput, Index, Type};

use crate::attr::{FieldAttrs, SqlxAttrs, StructAttrs};
use crate::derive::versioned::max_version;
use crate::derive::{
    Derive, KeyValue, Kind, Method, Output, STUB_DOC, assert_not_null, bind, connection_name,
    database, folds, for_backend, key_lifetime, knows, literal, name_at, optional_statement, parts,
    passed, position, read_row, reads, sql_doc, statement, stub_fields, stub_impl, stub_method,
    text_doc,
};
use crate::diag::Diag;
use crate::lower::Attempted;
use crate::model::{Column, Model, UniqueKey};
use crate::options::FieldOption;
use crate::sql::{self, Dialect};

pub(crate) struct FindOrCreate;

pub(crate) struct Plan<'m> {
    model: &'m Model,
    keys: Vec<Key<'m>>,
}

/// A unique key with the names of its methods.
struct Key<'m> {
    key: &'m UniqueKey,
    columns: Vec<&'m Column>,
    names: Names,
}

impl Key<'_> {
    /// The key as the runtime gets it.
    fn value(&self, model: &Model, index: usize) -> KeyValue<'_> {
        KeyValue::borrowed(model, &self.columns, &format!("__Key{index}"))
    }
}

struct Names {
    find: String,
    find_or_create: String,
    upsert: String,
    create: String,
    update_or_create: String,
    upsert_if: String,
    find_or_create_many: String,
    upsert_many: String,
    create_many: String,
}

impl Names {
    /// A model with several keys says everywhere which one is meant.
    fn new<'a>(fields: impl Iterator<Item = &'a str>, several: bool) -> Self {
        let by = format!("by_{}", fields.collect::<Vec<_>>().join("_and_"));
        let suffix = if several {
            format!("_{by}")
        } else {
            String::new()
        };
        Self {
            find: format!("find_{by}"),
            find_or_create: format!("find_or_create{suffix}"),
            upsert: format!("upsert{suffix}"),
            create: format!("create{suffix}"),
            update_or_create: format!("update_or_create{suffix}"),
            upsert_if: format!("upsert_if{suffix}"),
            find_or_create_many: format!("find_or_create_many{suffix}"),
            upsert_many: format!("upsert_many{suffix}"),
            create_many: format!("create_many{suffix}"),
        }
    }
}

impl Derive for FindOrCreate {
    type Plan<'m> = Plan<'m>;
    const KIND: Option<Kind> = Some(Kind::FindOrCreate);

    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Plan<'m>> {
        if model.unique.is_empty() && !attempted.has("unique") {
            missing_unique(model, diag);
        }
        let several = model.unique.len() > 1;
        let keys: Vec<Key<'_>> = model
            .unique
            .iter()
            .map(|key| {
                let columns = model.unique_columns(key);
                let names = Names::new(columns.iter().map(|column| column.field.as_str()), several);
                Key {
                    key,
                    columns,
                    names,
                }
            })
            .collect();
        method_names(&keys, diag);
        Some(Plan { model, keys })
    }

    fn expand(plan: &Plan<'_>) -> Output {
        let Plan { model, keys } = plan;
        let ident = &model.ident;
        let methods = keys
            .iter()
            .enumerate()
            .map(|(index, key)| methods(plan, index, key));
        let create_unless_conflict = create_unless_conflict(plan);
        let new_debug = new_debug(&model.new, model.new_derives.as_deref());
        let facts = facts(plan);
        let reads = reads(model);
        let backends = model
            .backends
            .iter()
            .map(|dialect| for_backend(*dialect, &statements(plan, *dialect)));
        let not_null = keys.iter().map(|key| {
            assert_not_null(
                &key.key.not_null(&key.columns),
                "part of a unique key",
                "in SQL two NULLs are never equal, so the database would allow duplicates",
            )
        });
        Output {
            items: new_struct(model, &model.given(), true),
            impls: quote! {
                impl #ident { #(#methods)* #create_unless_conflict }
                #new_debug
                #facts
                #reads
                #(#backends)*
                #(#not_null)*
            },
        }
    }

    fn stub(input: &DeriveInput) -> Output {
        stub(input)
    }
}

/// `unique(a_and_b)` and `unique(a, b)` would both ask for `find_by_a_and_b`.
fn method_names(keys: &[Key<'_>], diag: &Diag) {
    for (index, key) in keys.iter().enumerate() {
        if keys[..index]
            .iter()
            .any(|other| other.names.find == key.names.find)
        {
            diag.push(syn::Error::new(
                key.key.asked,
                format_args!(
                    "two unique keys both need a method named `{}`\n\
                     help: rename a field, and keep the column with `#[sqlx(rename = \"...\")]`",
                    key.names.find
                ),
            ));
        }
    }
}

/// `NewTag` for `Tag`.
pub(crate) fn default_new(ident: &Ident) -> Ident {
    name_at(&format!("New{}", ident.unraw()), ident.span())
}

fn missing_unique(model: &Model, diag: &Diag) {
    const USUAL: &[&str] = &[
        "email", "slug", "code", "name", "username", "token", "key", "url",
    ];
    let given = model.given();
    let guess = given
        .iter()
        .find(|column| USUAL.contains(&column.field.as_str()))
        .or_else(|| given.iter().find(|column| !column.key))
        .map_or("...", |column| column.field.as_str());
    diag.error(
        &model.ident,
        format_args!(
            "`FindOrCreate` does not know which columns identify a `{}`\n\
             help: name them above the struct: `#[rowlock(unique({guess}))]`",
            model.ident
        ),
    );
}

/// The fields of that struct. What is flattened is given as a whole: all of its columns are, or none.
pub(super) fn given_fields<'c>(
    given: &[&'c Column],
) -> Vec<(&'c Ident, &'c Type, &'c [Attribute])> {
    let mut seen = BTreeSet::new();
    let given = given.iter().map(|column| match column.inside.first() {
        Some(whole) => (&whole.ident, &whole.ty, whole.docs.as_slice()),
        None => (&column.ident, &column.ty, column.docs.as_slice()),
    });
    given.filter(|(ident, ..)| seen.insert(*ident)).collect()
}

/// The struct with what the caller gives for a new row.
///
/// It derives what is said, or, if `is_clone`, `Clone`.
pub(super) fn new_struct(model: &Model, given: &[&Column], is_clone: bool) -> TokenStream {
    let Model {
        ident, vis, new, ..
    } = model;
    let fields = given_fields(given).into_iter().map(|(ident, ty, docs)| {
        let field = ident.unraw().to_string();
        let docs = if docs.is_empty() {
            let text = format!("The column `{field}` of the new row.");
            quote!(#[doc = #text])
        } else {
            quote!(#(#docs)*)
        };
        quote!(#docs #vis #ident: #ty)
    });
    let docs = format!("A new `{ident}`: every column that the database does not fill by itself.");
    let derives = match &model.new_derives {
        Some(derives) => quote!(#[derive(#(#derives),*)]),
        None if is_clone => quote!(#[derive(::core::clone::Clone)]),
        None => TokenStream::new(),
    };
    quote! {
        #[doc = #docs]
        #derives
        #[allow(dead_code, non_snake_case, private_interfaces)]
        #vis struct #new { #(#fields),* }
    }
}

/// `Debug` of the struct for a new row, unless the user derives it: that asks it of all fields, and shows them.
pub(super) fn new_debug(new: &Ident, derives: Option<&[syn::Path]>) -> Option<TokenStream> {
    let is_debug = |path: &syn::Path| {
        let last = path.segments.last();
        last.is_some_and(|segment| segment.ident == "Debug")
    };
    if derives.is_some_and(|derives| derives.iter().any(is_debug)) {
        return None;
    }
    let name = new.unraw().to_string();
    Some(quote! {
        #[automatically_derived]
        impl __rt::fmt::Debug for #new {
            fn fmt(&self, __f: &mut __rt::fmt::Formatter<'_>) -> __rt::fmt::Result {
                __f.debug_struct(#name).finish_non_exhaustive()
            }
        }
    })
}

fn methods(plan: &Plan<'_>, number: usize, key: &Key<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let new = &model.new;
    let index = Index::from(number);
    let bound = quote!(__rt::find_or_create::UniqueKeySql<__DB, #index>);
    let names = key
        .columns
        .iter()
        .map(|column| format!("`{}`", column.field))
        .collect::<Vec<_>>()
        .join(", ");
    let method = |name: &str, key_given, db: &Ident, docs: String, arguments, output, body| {
        Method {
            name: name_at(name, key.key.asked),
            docs,
            receiver: quote!(),
            key: key_given,
            db: db.clone(),
            arguments,
            output,
            bound: bound.clone(),
            body,
        }
        .tokens()
    };

    let lifetime = key_lifetime(&key.columns);
    let arguments = key.columns.iter().map(|column| {
        let ident = &column.ident;
        let ty = passed(&column.ty, &lifetime);
        quote!(#ident: #ty)
    });
    let idents: Vec<_> = key.columns.iter().map(|column| &column.ident).collect();
    let values = key
        .value(model, number)
        .value(idents.iter().map(|ident| quote!(#ident)));
    let connection = connection_name(&key.columns);
    let find = method(
        &key.names.find,
        key.columns.as_slice(),
        &connection,
        format!(
            "Reads the row of `{table}` with this {names}; `None` if there is none.\n\n{}\n\n\
             Errors: `NotUnique`, `Database`.",
            sql_doc(model, |dialect| sql::find_or_create::find(
                model, key.key, dialect
            ))
        ),
        quote!(#(#arguments),*),
        quote!(__rt::Option<Self>, __rt::FindError),
        quote!(__rt::find_or_create::find::<__DB, #index, Self>(#connection, #values)),
    );
    let db = connection_name(&[]);
    let find_or_create = method(
        &key.names.find_or_create,
        &[],
        &db,
        format!(
            "Reads the row of `{table}` with the {names} of `new`, or creates it, and says which. If the row exists, the other values of `new` are \
             ignored.\n\n{}\n\nand only if there is no such row\n\n{}\n\n\
             If a concurrent caller is faster, the row is read again, at most five rounds of both. In a PostgreSQL transaction a savepoint \
             surrounds the insert, so the transaction stays usable whatever happens.\n\n\
             Errors: `KeyTaken`, `NotUnique`, `MissingUniqueIndex`, `Written`, `Serialization`, `Unknown`, `Database` (also a \
             violation of another constraint).\n\n\
             Cancel safety: if you drop the future, the row is created completely or not at all; call again to find out.",
            sql_doc(model, |dialect| sql::find_or_create::find(
                model, key.key, dialect
            )),
            sql_doc(model, |dialect| sql::find_or_create::insert(
                model, key.key, dialect
            ))
        ),
        quote!(new: #new),
        quote!(__rt::FoundOrCreated<Self>, __rt::FindOrCreateError),
        quote!(__rt::find_or_create::find_or_create::<__DB, #index, Self>(db, new)),
    );
    let again = if model.is_queue() {
        " The job is enqueued again, whatever became of it: what else the queue knows about it is as in a new row, and a claim \
         that holds it is lost."
    } else {
        ""
    };
    let taken = match key.key.on {
        Some(_) => "`KeyTaken` (by a row of another key that makes the same value), ",
        None => "",
    };
    let upsert_sql = |dialect| sql::find_or_create::upsert(model, key.key, dialect);
    let overwrites = |dialect: &Dialect| upsert_sql(*dialect).is_some();
    let upsert_docs = if !model.backends.iter().any(overwrites) {
        "Creates the row unless it exists, and returns it: there is no column to overwrite. Works like the method that finds or creates, with its errors."
            .to_owned()
    } else {
        format!(
            "Creates the row, or overwrites the one with the same {names}, and returns it as stored. The primary key, counters \
             and columns that the database generates are never overwritten.{again}\n\n{}\n\n\
             Errors: {taken}`NotUnique`, `MissingUniqueIndex`, `VersionOverflow`, `Ignored`, `Written`, `Serialization`, `Unknown`, \
             `Database` (also a violation of another constraint).\n\n\
             Cancel safety: one statement; if you drop the future, it takes effect completely or not at all.",
            text_doc(model, |dialect| {
                upsert_sql(dialect)
                    .map(|upsert| upsert.shown())
                    .unwrap_or_default()
            })
        )
    };
    let upsert = method(
        &key.names.upsert,
        &[],
        &db,
        upsert_docs,
        quote!(new: #new),
        quote!(Self, __rt::UpsertError),
        quote!(__rt::find_or_create::upsert::<__DB, #index, Self>(db, new)),
    );
    let create = method(
        &key.names.create,
        &[],
        &db,
        format!(
            "Creates the row of `{table}`, or returns `None` if its {names} are taken. One statement, and no lookup.\n\n{}\n\n\
             `None` can be about a row that a SELECT of the same moment does not show: a concurrent transaction has just committed \
             it. If that one is not committed yet, the call waits for its end. `None` uses up a value of the sequence \
             (PostgreSQL) or of AUTOINCREMENT (SQLite). In a PostgreSQL transaction the insert is wrapped in a savepoint, so that the transaction \
             stays usable.\n\n\
             Errors: `MissingUniqueIndex`, `Written`, `Serialization`, `Unknown`, `Database` (also a violation of another \
             constraint).\n\n\
             Cancel safety: one statement; if you drop the future, it takes effect completely or not at all.",
            sql_doc(model, |dialect| sql::find_or_create::insert(
                model, key.key, dialect
            ))
        ),
        quote!(new: #new),
        quote!(__rt::Option<Self>, __rt::CreateError),
        quote!(__rt::find_or_create::create::<__DB, #index, Self>(db, new)),
    );
    let told_sql = |dialect| sql::find_or_create::update_or_create(model, key.key, dialect);
    let update_or_create = method(
        &key.names.update_or_create,
        &[],
        &db,
        if !model.backends.iter().any(overwrites) {
            "Creates the row, or finds it: there is no column to overwrite. Works like the method that finds or creates, with its errors."
                .to_owned()
        } else {
            format!(
                "Upserts, and tells whether the row existed.\n\n{}\n\n\
                 On SQLite this overwrites only; if there was no row, an INSERT follows, and if that finds one, both are repeated, at most five \
                 rounds. On PostgreSQL the table must be neither partitioned nor a view: their rows have no `xmax`.\n\n\
                 Errors: those of the plain upsert.\n\n\
                 Cancel safety: if you drop the future, the row is written completely or not at all.",
                text_doc(model, |dialect| {
                    told_sql(dialect)
                        .map(|told| told.shown())
                        .unwrap_or_default()
                })
            )
        },
        quote!(new: #new),
        quote!(__rt::UpdatedOrCreated<Self>, __rt::UpsertError),
        quote!(__rt::find_or_create::update_or_create::<__DB, #index, Self>(db, new)),
    );
    // With nothing to overwrite there is nothing that a condition could keep from it.
    let upsert_if = model
        .backends
        .iter()
        .any(overwrites)
        .then(|| upsert_if(plan, number, key));
    let many = many::methods(plan, number, key);
    quote!(#find #find_or_create #upsert #create #update_or_create #upsert_if #many)
}

/// The upsert under a condition.
fn upsert_if(plan: &Plan<'_>, number: usize, key: &Key<'_>) -> TokenStream {
    let model = plan.model;
    let new = &model.new;
    let index = Index::from(number);
    let sql = text_doc(model, |dialect| {
        sql::find_or_create::upsert_if(model, key.key, dialect)
            .map(|upsert| sql::guarded::shown(&upsert, &["condition"]))
            .unwrap_or_default()
    });
    Method {
        name: name_at(&key.names.upsert_if, key.key.asked),
        docs: format!(
            "Creates the row, or overwrites the one with this key if it meets `condition`; returns `Created`, `Updated` or `Refused`, \
             each with the row. Conditions use the constants of `Guarded`, which the model also derives.\n\n{sql}\n\n\
             If it writes nothing, one more statement reads the row and whether it meets the condition. If it does by then, or is gone, \
             both run again, at most five rounds. On SQLite the first one only overwrites, and if there is no row, an INSERT follows. On \
             PostgreSQL the table must be neither partitioned nor a view: their rows have no `xmax`.\n\n\
             Errors: those of the plain upsert; `Ignored` also if concurrent writers changed the row in each round.\n\n\
             Cancel safety: if you drop the future, the row is written completely or not at all."
        ),
        receiver: quote!(),
        key: &[],
        db: connection_name(&[]),
        arguments: quote! {
            new: #new,
            condition: __rt::guarded::Condition<Self, impl __rt::guarded::Expression<__DB>>,
        },
        output: quote!(__rt::Upserted<Self>, __rt::UpsertError),
        bound: quote! {
            __rt::find_or_create::UniqueKeySql<__DB, #index> + __rt::guarded::Names<__DB>
        },
        body: quote!(__rt::find_or_create::upsert_if::<__DB, #index, Self, _>(db, new, condition)),
    }
    .tokens()
}

/// The method that does not care which key is taken.
fn create_unless_conflict(plan: &Plan<'_>) -> Option<TokenStream> {
    let model = plan.model;
    let new = &model.new;
    let key = plan.keys.first()?;
    let method = Method {
        name: name_at("create_unless_conflict", key.key.asked),
        docs: format!(
            "Creates the row of `{}`, or returns `None` if any of its unique keys is taken, whether the model declares it or not. \
             Otherwise like the method that creates by a declared key.\n\n{}\n\n\
             Errors: `Written`, `Serialization`, `Unknown`, `Database` (also a violation of another constraint).",
            model.table.display(),
            sql_doc(model, |dialect| sql::find_or_create::create(model, dialect))
        ),
        receiver: quote!(),
        key: &[],
        db: connection_name(&[]),
        arguments: quote!(new: #new),
        output: quote!(__rt::Option<Self>, __rt::CreateError),
        bound: quote!(__rt::find_or_create::UniqueKeySql<__DB, 0>),
        body: quote!(__rt::find_or_create::create_unless_conflict::<__DB, Self>(
            db, new
        )),
    };
    Some(method.tokens())
}

/// What does not depend on the database.
fn facts(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let ident = &model.ident;
    let new = &model.new;
    let version = match model.version() {
        Some(version) => {
            let index = position(model, version);
            let max = max_version(version);
            quote!(__rt::Some((#index, #max)))
        }
        None => quote!(__rt::None),
    };
    let fence = model.fence().filter(|_| !model.is_queue());
    let fences = fence.map(|fence| {
        let field = &fence.ident;
        let (new, stored) = (quote!(__new), quote!(__stored));
        let fences = quote_spanned!(fence.ty.span()=> (#new.#field, #stored.#field));
        quote! {
            const FENCED: bool = true;
            fn fences(
                __new: &Self::New,
                __stored: &Self,
            ) -> __rt::Option<(__rt::Fence, __rt::Fence)> {
                __rt::Some(#fences)
            }
        }
    });
    let folds = folds(model);
    let keys = plan.keys.iter().enumerate().map(|(index, key)| {
        let columns = sql::find_or_create::indexed(model, key.key);
        let methods = [
            &key.names.find,
            &key.names.find_or_create,
            &key.names.upsert,
            &key.names.create,
            &key.names.update_or_create,
            &key.names.upsert_if,
            &key.names.find_or_create_many,
            &key.names.upsert_many,
            &key.names.create_many,
        ];
        let value = key.value(model, index);
        let key_struct = value.definition(&[]);
        let key_of = value.of(&quote!(__new));
        let position = Index::from(index);
        let marker = quote!(__rt::find_or_create::Derive<#position>);
        let generated = key.key.on.map(|_| {
            quote!(
                const GENERATED: bool = true;
            )
        });
        let knows = knows(model, &marker, &value, &quote!());
        quote! {
            #key_struct
            #knows
            #[automatically_derived]
            impl __rt::find_or_create::UniqueKey<#position> for #ident {
                const COLUMNS: &'static str = #columns;
                #generated
                const METHODS: [&'static str; 9] = [#(#methods),*];
                fn key_of(__new: &Self::New) -> Self::Key<'_> { #key_of }
            }
        }
    });
    quote! {
        #[automatically_derived]
        impl __rt::find_or_create::FindOrCreate for #ident {
            type New = #new;
            const VERSION_LIMIT: __rt::Option<(usize, i64)> = #version;
            #folds
            #fences
        }
        #(#keys)*
    }
}

/// The statements for one database.
fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
    let model = plan.model;
    let ident = &model.ident;
    let database = database(dialect);
    let read_row = read_row(model, dialect);
    let create = statement(&sql::find_or_create::create(model, dialect));
    let there = literal(dialect, &sql::find_or_create::there(model));
    let binds = model
        .given()
        .into_iter()
        .enumerate()
        .map(|(index, column)| {
            let field = column.place();
            bind(index, column, &quote!(&__new.#field))
        });
    let keys = plan.keys.iter().enumerate().map(|(index, key)| {
        let bind_key = key.value(model, index).bind();
        let index = Index::from(index);
        let find = statement(&sql::find_or_create::find(model, key.key, dialect));
        let many = many::statements(model, key.key, dialect);
        let insert = statement(&sql::find_or_create::insert(model, key.key, dialect));
        let upsert = sql::find_or_create::upsert(model, key.key, dialect);
        let upsert = optional_statement(upsert.as_ref());
        let told = sql::find_or_create::update_or_create(model, key.key, dialect);
        let told = optional_statement(told.as_ref());
        let upsert_if = sql::find_or_create::upsert_if(model, key.key, dialect);
        let upsert_if = upsert_if.map_or_else(|| quote!([""; 2]), |sql| parts(&sql));
        let look = parts(&sql::find_or_create::look(model, key.key, dialect));
        quote! {
            #[automatically_derived]
            impl __rt::find_or_create::UniqueKeySql<#database, #index> for #ident {
                const FIND: &'static str = #find;
                #many
                const INSERT: &'static str = #insert;
                const UPSERT: __rt::Option<&'static str> = #upsert;
                const UPDATE_OR_CREATE: __rt::Option<&'static str> = #told;
                const UPSERT_IF: [&'static str; 2] = #upsert_if;
                const LOOK: [&'static str; 2] = #look;
                fn bind_key(__key: &Self::Key<'_>, __to: &mut impl __rt::Bind<#database>) { #bind_key }
            }
        }
    });
    quote! {
        #[automatically_derived]
        impl __rt::find_or_create::FindOrCreateSql<#database> for #ident {
            #read_row
            const CREATE: &'static str = #create;
            const THERE: &'static str = #there;
            fn bind_new(__new: &Self::New, __to: &mut impl __rt::Bind<#database>) { #(#binds)* }
        }
        #(#keys)*
    }
}

/// Guesses the names that the struct would have had, as far as its attributes can be read.
fn stub(input: &DeriveInput) -> Output {
    let quiet = Diag::new();
    let attrs = StructAttrs::read(&input.attrs, &quiet);
    let fields = stub_fields(input).unwrap_or_default();
    let mut keys: Vec<Vec<String>> = Vec::new();
    let mut given = Vec::new();
    let mut is_queue = false;
    for field in fields {
        let Some(ident) = &field.ident else { continue };
        let options = FieldAttrs::read(&field.attrs, &quiet);
        is_queue |= options.has(FieldOption::Attempts);
        if options.has(FieldOption::Unique) {
            keys.push(vec![ident.unraw().to_string()]);
        }
        let filled = [
            FieldOption::Generated,
            FieldOption::Default,
            FieldOption::OnInsert,
            FieldOption::OnUpdate,
            FieldOption::Version,
            FieldOption::Counter,
        ]
        .into_iter()
        .any(|option| options.has(option))
            || SqlxAttrs::read(&field.attrs).skip;
        if !filled {
            let (vis, ty) = (&input.vis, &field.ty);
            given.push(quote!(#vis #ident: #ty));
        }
    }
    let _ = quiet.finish();
    for unique in &attrs.unique {
        keys.push(
            unique
                .key
                .parts
                .iter()
                .map(|part| part.field.unraw().to_string())
                .collect(),
        );
    }
    // A queue without a key makes the struct itself.
    let made_by_queue = keys.is_empty() && is_queue;
    if keys.is_empty() {
        keys.push(Vec::new());
    }
    let several = keys.len() > 1;
    let mut methods: BTreeMap<String, TokenStream> = BTreeMap::new();
    for key in &keys {
        let Names {
            find,
            find_or_create,
            upsert,
            create,
            update_or_create,
            upsert_if,
            find_or_create_many,
            upsert_many,
            create_many,
        } = Names::new(key.iter().map(String::as_str), several);
        let mut stub = |name: String, arguments, output| {
            let tokens = stub_method(&format_ident!("{name}"), false, arguments, &output);
            methods.insert(name, tokens);
        };
        stub(
            find,
            key.len() + 1,
            quote!(__rt::Option<Self>, __rt::FindError),
        );
        stub(
            find_or_create,
            2,
            quote!(__rt::FoundOrCreated<Self>, __rt::FindOrCreateError),
        );
        stub(upsert, 2, quote!(Self, __rt::UpsertError));
        let created = quote!(__rt::Option<Self>, __rt::CreateError);
        stub(create, 2, created.clone());
        stub(
            update_or_create,
            2,
            quote!(__rt::UpdatedOrCreated<Self>, __rt::UpsertError),
        );
        stub(
            upsert_if,
            3,
            quote!(__rt::Upserted<Self>, __rt::UpsertError),
        );
        stub("create_unless_conflict".to_owned(), 2, created);
        many::stubs(
            [find_or_create_many, upsert_many, create_many],
            &mut methods,
        );
    }
    let methods = methods.into_values();
    let vis = &input.vis;
    let new = attrs.new.unwrap_or_else(|| default_new(&input.ident));
    let derives = match &attrs.new_derives {
        Some(derives) => quote!(#(#derives),*),
        None => quote!(::core::clone::Clone),
    };
    let is_model = stub_fields(input).is_some() && !made_by_queue;
    let items = is_model.then(|| {
        quote! {
            #[doc = #STUB_DOC]
            #[derive(#derives)]
            #[allow(dead_code, missing_docs, non_snake_case, private_interfaces)]
            #vis struct #new { #(#given),* }
        }
    });
    let debug = is_model.then(|| new_debug(&new, attrs.new_derives.as_deref()));
    let methods = stub_impl(input, &quote!(#(#methods)*));
    Output {
        items: items.unwrap_or_default(),
        impls: quote!(#debug #methods),
    }
}
