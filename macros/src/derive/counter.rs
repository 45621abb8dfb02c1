//! `#[derive(Counter)]`: additions in the database.

use std::collections::BTreeMap;

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{DeriveInput, Index};

use super::versioned::missing_key;
use super::{
    Derive, KeyValue, Kind, Method, Output, array_keys, assert_not_null, connection_name, database,
    for_backend, halves, key_argument, key_lifetime, knows, name_at, optional_statement, read_row,
    reads, sql_doc, statement, statement_constant, stub_fields, stub_impl, stub_method, tuple,
};
use crate::attr::FieldAttrs;
use crate::diag::Diag;
use crate::lower::{Attempted, columns_of};
use crate::model::{Column, Model, Role, is_option, last_segment};
use crate::options::FieldOption;
use crate::sql::{self, Dialect, Slot, Statement};

pub(crate) struct Counter;

pub(crate) struct Plan<'m> {
    model: &'m Model,
    keys: Vec<&'m Column>,
    counters: Vec<&'m Column>,
}

impl Plan<'_> {
    fn key(&self) -> KeyValue<'_> {
        KeyValue::borrowed(self.model, &self.keys, "__Key")
    }

    fn owned_key(&self) -> KeyValue<'_> {
        KeyValue::owned(self.model, &self.keys, "__OwnedKey")
    }
}

impl Derive for Counter {
    type Plan<'m> = Plan<'m>;
    const KIND: Option<Kind> = Some(Kind::Counter);

    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Plan<'m>> {
        let counters = model.counters();
        if counters.is_empty() && !attempted.has("counter") {
            diag.error(
                &model.ident,
                format_args!(
                    "no field of `{}` is marked as a counter\n\
                     help: mark an integer field with `#[rowlock(counter)]`",
                    model.ident
                ),
            );
        }
        let keys = model.keys();
        if keys.is_empty() && !attempted.has("key") {
            missing_key(model, diag);
        }
        if !model.existing_rows
            && !keys.is_empty()
            && let Some(first) = counters.first()
        {
            creatable(model, first, diag);
        }
        fenced(model, &counters, diag);
        method_names(&counters, diag);
        ordered_keys(&keys, diag);
        array_keys(model, &keys, diag);
        Some(Plan {
            model,
            keys,
            counters,
        })
    }

    fn expand(plan: &Plan<'_>) -> Output {
        let Plan {
            model,
            keys,
            counters,
        } = plan;
        let ident = &model.ident;
        let get = get(plan);
        let adds = counters
            .iter()
            .enumerate()
            .map(|(index, counter)| adds(plan, index, counter));
        let facts = facts(plan);
        let reads = reads(model);
        let backends = model
            .backends
            .iter()
            .map(|dialect| for_backend(*dialect, &statements(plan, *dialect)));
        let not_null = assert_not_null(
            keys,
            "the key",
            "in SQL NULL is not equal to NULL, so such a row would never be found",
        );
        Output {
            items: TokenStream::new(),
            impls: quote! {
                impl #ident {
                    #get
                    #(#adds)*
                }
                #facts
                #reads
                #(#backends)*
                #not_null
            },
        }
    }

    fn stub(input: &DeriveInput) -> Output {
        let row = quote!(__rt::Option<Self>, __rt::DatabaseError);
        let get = format_ident!("get");
        // By name, because two counters that need the same one are one of the mistakes.
        let mut methods = BTreeMap::from([(get.clone(), stub_method(&get, false, 2, &row))]);
        let quiet = Diag::new();
        let fields: Vec<_> = stub_fields(input)
            .unwrap_or_default()
            .into_iter()
            .map(|field| (field, FieldAttrs::read(&field.attrs, &quiet)))
            .collect();
        let key = tuple(
            fields
                .iter()
                .filter(|(_, options)| options.has(FieldOption::Key))
                .flat_map(|(field, _)| columns_of(field))
                .map(|field| field.ty.to_token_stream()),
        );
        for (field, options) in &fields {
            let Some(ident) = field
                .ident
                .as_ref()
                .filter(|_| options.has(FieldOption::Counter))
            else {
                continue;
            };
            let ty = &field.ty;
            let (add, batch) = (
                format_ident!("add_{}", ident),
                format_ident!("add_{}_many", ident),
            );
            let total = quote!(#ty, __rt::CounterError);
            methods.insert(add.clone(), stub_method(&add, false, 3, &total));
            let totals = quote!(__rt::Vec<(#key, #ty)>, __rt::CounterError);
            methods.insert(batch.clone(), stub_method(&batch, false, 2, &totals));
        }
        let _ = quiet.finish();
        let methods = methods.into_values();
        Output {
            items: TokenStream::new(),
            impls: stub_impl(input, &quote!(#(#methods)*)),
        }
    }
}

/// A counter creates its row when it is missing; every other column must allow that.
fn creatable(model: &Model, counter: &Column, diag: &Diag) {
    for column in &model.columns {
        if column.key && column.generated {
            diag.error(
                &column.ident,
                format_args!(
                    "`add_{0}` cannot create a row whose key `{1}` is generated by the database\n\
                     help: count on rows that exist with `#[rowlock(existing_rows)]` above the struct, or use a key that the caller knows",
                    counter.field, column.field
                ),
            );
        }
        let has_value = column.key
            || column.generated
            || column.default
            || column.role != Role::Plain
            || is_option(&column.ty);
        if !has_value {
            diag.error(
                &column.ident,
                format_args!(
                    "`add_{0}` creates the row when it is missing, and then `{1}` would have no value\n\
                     help: if the column has a default in the database, {2},\n      \
                     or count on rows that exist with `#[rowlock(existing_rows)]` above the struct",
                    counter.field,
                    column.field,
                    column.marked(FieldOption::Default, &model.ident)
                ),
            );
        }
    }
}

/// Additions of several writers go together, whoever holds a lock; `add` has no fence to show. That of a queue guards what the claims
/// write, and none of them writes a counter.
fn fenced(model: &Model, counters: &[&Column], diag: &Diag) {
    let fence = model.fence().filter(|_| !model.is_queue());
    if let (Some(fence), Some(counter)) = (fence, counters.first()) {
        diag.push(syn::Error::new(
            fence.asked,
            format_args!(
                "`add_{0}` writes the row without showing its fence\n\
                 help: keep the counter in a table of its own, or make `{0}` a plain column and write it under the lock",
                counter.field
            ),
        ));
    }
}

/// A batch sums what belongs to the same key, and goes through the keys in their order.
fn ordered_keys(keys: &[&Column], diag: &Diag) {
    for key in keys {
        let Some(name) =
            last_segment(&key.ty).filter(|name| ["f32", "f64"].contains(&name.as_str()))
        else {
            continue;
        };
        diag.error(
            &key.ty,
            format_args!(
                "`{name}` cannot be the key of a counter\n\
                 note: batches sort by the key, and floating-point numbers have no total order"
            ),
        );
    }
}

/// `views` and `views_many` would both ask for `add_views_many`.
fn method_names(counters: &[&Column], diag: &Diag) {
    for counter in counters {
        let Some(other) = counter.field.strip_suffix("_many") else {
            continue;
        };
        if counters.iter().any(|counter| counter.field == other) {
            diag.error(
                &counter.ident,
                format_args!(
                    "the counters `{other}` and `{0}` both need a method named `add_{0}`\n\
                     help: rename the field, and keep the column with `#[sqlx(rename = \"{0}\")]`",
                    counter.field
                ),
            );
        }
    }
}

fn method_name(counter: &Column, suffix: &str) -> Ident {
    name_at(&format!("add_{}{suffix}", counter.field), counter.asked)
}

fn get(plan: &Plan<'_>) -> TokenStream {
    let Plan {
        model,
        keys,
        counters,
    } = plan;
    let key = key_argument(keys, &key_lifetime(keys));
    let given = plan.key().given(&quote!(key));
    let asked = counters
        .first()
        .map_or_else(Span::call_site, |first| first.asked);
    Method {
        name: name_at("get", asked),
        docs: format!(
            "Reads the row of `{}` with this key; `None` if nothing was counted yet.\n\n{}\n\nError: the database failed.",
            model.table.display(),
            sql_doc(model, |dialect| sql::select(model, keys, dialect))
        ),
        receiver: quote!(),
        key: keys,
        db: connection_name(&[]),
        arguments: quote!(key: #key),
        output: quote!(__rt::Option<Self>, __rt::DatabaseError),
        bound: quote!(__rt::counter::CounterRowSql<__DB>),
        body: quote!(__rt::counter::get(db, #given)),
    }
    .tokens()
}

fn adds(plan: &Plan<'_>, index: usize, counter: &Column) -> TokenStream {
    let Plan { model, keys, .. } = plan;
    let key = key_argument(keys, &key_lifetime(keys));
    let own = plan.key();
    let given = own.given(&quote!(key));
    let owned_key = tuple(keys.iter().map(|column| {
        let ty = &column.ty;
        quote!(#ty)
    }));
    let ty = &counter.ty;
    let field = &counter.field;
    let table = model.table.display();
    let missing = if model.existing_rows {
        "A row that does not exist is `NotFound`.".to_owned()
    } else {
        format!(
            "A row that does not exist is created, starting at {}.",
            counter.initial()
        )
    };
    let index = Index::from(index);
    let bound = quote!(__rt::counter::CounterSql<__DB, #index>);
    let add = Method {
        name: method_name(counter, ""),
        docs: format!(
            "Adds `delta` (any sign) to `{field}` and returns the database's new total. {missing}\n\n{}\n\n\
             The last two parameters are the lowest and the highest old value that allow the addition; \
             `delta` is what the parameter before them is.\n\n\
             Errors: `OutOfBounds`, `Overflow`, `NotFound`, `NullValue`, `Contended`, `NotUnique`, `MissingUniqueIndex`, `Written`, \
             `Serialization`, `Unknown`, `Database`. After `Written` the addition has happened, after `Unknown` it may have.\n\n\
             A negative delta is first tried on an existing row.\n\n\
             Cancel safety: one statement adds; if you drop the future, it takes effect completely or not at all.",
            sql_doc(model, |dialect| if model.existing_rows {
                sql::counter::add_existing(model, counter, dialect)
            } else {
                sql::counter::add(model, counter, dialect)
            })
        ),
        receiver: quote!(),
        key: keys,
        db: connection_name(&[]),
        arguments: quote!(key: #key, delta: i64),
        output: quote!(#ty, __rt::CounterError),
        bound: bound.clone(),
        body: quote!(__rt::counter::add::<__DB, #index, Self>(db, #given, delta)),
    }
    .tokens();

    let item_key = key_argument(keys, &quote!('__k));
    let batch = if own.is_wrapped() {
        let own_again = plan.owned_key().given_back(&quote!(key));
        quote! {
            let deltas = __rt::IntoIterator::into_iter(deltas);
            let deltas = __rt::Iterator::map(deltas, |(key, delta)| (#given, delta));
            let totals = __rt::counter::add_many::<__DB, #index, Self>(db, deltas);
            __rt::counter::with_keys(totals, |key| #own_again)
        }
    } else {
        quote!(__rt::counter::add_many::<__DB, #index, Self>(db, deltas))
    };
    let batch_name = method_name(counter, "_many");
    let batch_docs = format!(
        "Adds many deltas to `{field}` of `{table}`, all or none, and returns the keys and their new totals in key order. \
         Deltas for the same key are summed first; rows are locked in the database's key order, like `lock_many`, so that neither deadlocks with \
         the other. An empty batch runs no SQL.\n\n{missing}\n\n\
         One statement, on SQLite one per 32,766 parameters. If some deltas cannot start a row (a negative one with `min = 0`), two, on PostgreSQL \
         after one that locks the rows. In a transaction if there are several, if the counter has bounds, or on SQLite.\n\n\
         Errors: those of `add_{field}`, about the first key that was refused.\n\n\
         Cancel safety: if you drop the future, all of it takes effect or none."
    );
    // Not a `Method`: it has a lifetime and an argument of its own.
    quote! {
        #add
        #[doc = #batch_docs]
        pub fn #batch_name<'__c, '__k, __DB: __rt::Backend>(
            db: impl __rt::Source<'__c, __DB>,
            deltas: impl __rt::IntoIterator<Item = (#item_key, i64)>,
        ) -> impl __rt::Future<
            Output = __rt::Result<
                __rt::Vec<(#owned_key, #ty)>,
                __rt::CounterError,
            >,
        > + __rt::Send
        where
            Self: #bound,
        {
            #batch
        }
    }
}

/// What does not depend on the database.
fn facts(plan: &Plan<'_>) -> TokenStream {
    let Plan {
        model,
        keys,
        counters,
    } = plan;
    let ident = &model.ident;
    let (key, owned) = (plan.key(), plan.owned_key());
    let (key_struct, owned_struct) = (key.definition(&["Clone"]), owned.definition(&["Clone"]));
    let (key_order, owned_order) = (key.order(), owned.order());
    let owned = owned.ty(&quote!());
    let count = Index::from(keys.len());
    let mut columns: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    columns.sort_unstable();
    let columns = columns.join(",");
    let knows = knows(model, &quote!(__rt::counter::Derive), &key, &quote!());
    let counters = counters.iter().enumerate().map(|(index, counter)| {
        let Role::Counter { min, max } = counter.role else {
            return TokenStream::new();
        };
        let option = |bound: Option<i64>| match bound {
            Some(value) => {
                let value = Literal::i64_unsuffixed(value);
                quote!(__rt::Some(#value))
            }
            None => quote!(__rt::None),
        };
        let (min, max) = (option(min), option(max));
        let start = Literal::i64_unsuffixed(counter.initial());
        let index = Index::from(index);
        let field = &counter.field;
        let add = method_name(counter, "").to_string();
        let batch = method_name(counter, "_many").to_string();
        let number = &counter.ty;
        quote! {
            #[automatically_derived]
            impl __rt::counter::Counter<#index> for #ident {
                type Number = #number;
                const FIELD: &'static str = #field;
                const METHODS: (&'static str, &'static str) = (#add, #batch);
                const MIN: __rt::Option<i64> = #min;
                const MAX: __rt::Option<i64> = #max;
                const START: i64 = #start;
            }
        }
    });
    quote! {
        #key_struct #key_order
        #owned_struct #owned_order
        #knows
        #[automatically_derived]
        impl __rt::counter::CounterRow for #ident {
            type OwnedKey = #owned;
            const KEYS: usize = #count;
            const KEY_COLUMNS: &'static str = #columns;
        }
        #(#counters)*
    }
}

/// The statements for one database.
fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
    let Plan {
        model,
        keys,
        counters,
    } = plan;
    let ident = &model.ident;
    let database = database(dialect);
    let read_row = read_row(model, dialect);
    let get = statement(&sql::select(model, keys, dialect));
    let (key, owned) = (plan.key(), plan.owned_key());
    let bind_key = key.bind();
    let bind_keys = key.bind_keys(dialect);
    let read_keys = owned.read_keys(dialect);
    let held = statement_constant("HELD", sql::held(model, dialect).as_ref());
    let lock_batch = optional_statement(sql::counter::lock_batch(model, dialect).as_ref());
    let read_key = if keys.len() == 1 && !owned.is_wrapped() {
        quote!(__rt::get(__row, 0))
    } else {
        let parts = (0..keys.len())
            .map(Index::from)
            .map(|index| quote!(__rt::get(__row, #index)?));
        let key = owned.value(parts);
        quote!(__rt::Ok(#key))
    };
    let counters = counters.iter().enumerate().map(|(index, counter)| {
        let index = Index::from(index);
        let existing = statement(&sql::counter::add_existing(model, counter, dialect));
        let read = statement(&sql::counter::read(model, counter, dialect));
        let existing_batch = sql::counter::add_existing_many(model, counter, dialect);
        let existing_batch = batch(&existing_batch, false);
        let fold = statement_constant("FOLD", sql::counter::fold(model, counter, dialect).as_ref());
        let fold_one = sql::counter::fold_one(model, counter, dialect);
        let fold_one = statement_constant("FOLD_ONE", fold_one.as_ref());
        let (add, add_many) = if model.existing_rows {
            (quote!(__rt::None), quote!(__rt::None))
        } else {
            let add = statement(&sql::counter::add(model, counter, dialect));
            let batch = batch(&sql::counter::add_many(model, counter, dialect), true);
            (quote!(__rt::Some(#add)), quote!(__rt::Some(#batch)))
        };
        quote! {
            #[automatically_derived]
            impl __rt::counter::CounterSql<#database, #index> for #ident {
                const ADD: __rt::Option<&'static str> = #add;
                const ADD_EXISTING: &'static str = #existing;
                const READ: &'static str = #read;
                const BATCH: __rt::Option<__rt::counter::BatchSql> = #add_many;
                const EXISTING_BATCH: __rt::counter::BatchSql = #existing_batch;
                #fold
                #fold_one
            }
        }
    });
    quote! {
        #[automatically_derived]
        impl __rt::counter::CounterRowSql<#database> for #ident {
            #read_row
            const GET: &'static str = #get;
            const LOCK_BATCH: __rt::Option<&'static str> = #lock_batch;
            #held
            fn bind_key(__key: &Self::Key<'_>, __to: &mut impl __rt::Bind<#database>) { #bind_key }
            #bind_keys
            fn read_key(__row: &__rt::Row<#database>) -> __rt::Decoded<Self::OwnedKey> {
                #read_key
            }
            #read_keys
        }
        #(#counters)*
    }
}

fn batch(sql: &Statement, creates: bool) -> TokenStream {
    let ([head, tail], guarded) = (halves(sql), sql.slots.contains(&Slot::Lowest));
    quote! {
        __rt::counter::BatchSql {
            sql: [#head, #tail],
            creates: #creates,
            guarded: #guarded,
        }
    }
}
