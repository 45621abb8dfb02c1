//! The methods about many rows.

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::Index;

use super::{Key, Plan};
use crate::derive::{STUB_DOC, name_at, statement, statement_constant, text_doc};
use crate::model::{Model, UniqueKey};
use crate::sql::find_or_create::many;
use crate::sql::{self, Dialect, Statement};

const EACH: &str = "Each row has its own outcome, in the order given: one that is refused does not affect the others. A key given twice \
    has the outcomes of two calls, one after the other. On PostgreSQL a statement covers at most 1,000 rows and writes them in key order; in a \
    transaction it covers all of them, inside a savepoint, so the transaction stays usable. If it fails because of a row, each half is tried \
    separately, down to that row.";

const CANCEL: &str =
    "Cancel safety: each statement takes effect completely or not at all; earlier ones stay.";

type Sql = fn(&Model, &UniqueKey, Dialect) -> Option<Statement>;
type Shown = fn(&Model, &UniqueKey, Dialect) -> Option<String>;

pub(super) fn methods(plan: &Plan<'_>, number: usize, key: &Key<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let (new, index, names) = (&model.new, Index::from(number), &key.names);
    let method = |name: &str, docs: String, output: TokenStream, function: &str| {
        let (name, function) = (name_at(name, key.key.asked), format_ident!("{function}"));
        quote! {
            #[doc = #docs]
            pub fn #name<'__c, __DB: __rt::Backend>(
                db: impl __rt::Source<'__c, __DB>,
                new: impl __rt::IntoIterator<Item = #new>,
            ) -> impl __rt::Future<Output = __rt::Vec<__rt::Result<#output>>> + __rt::Send
            where
                Self: __rt::find_or_create::UniqueKeySql<__DB, #index>
            {
                __rt::find_or_create::#function::<__DB, #index, Self>(db, new)
            }
        }
    };
    let shown = |many: Shown, one: Sql| {
        text_doc(model, |dialect| {
            match (many(model, key.key, dialect), one(model, key.key, dialect)) {
                (Some(many), _) => many,
                (None, Some(one)) => format!("{};\n-- for each", one.shown()),
                (None, None) => String::new(),
            }
        })
    };
    let insert: Sql = |model, key, dialect| Some(sql::find_or_create::insert(model, key, dialect));
    let find: Sql = |model, key, dialect| Some(sql::find_or_create::find(model, key, dialect));
    let found: Shown = |model, key, dialect| {
        let find = many::find(model, key, dialect)?.shown();
        Some(match many::find_any(model, key, dialect) {
            Some(any) => format!(
                "{};\n-- or, if a key is given twice, or is not stored as it is given:\n{find}",
                any.shown()
            ),
            None => find.to_string(),
        })
    };
    let inserted = shown(
        |model, key, dialect| Some(insert_ways(model, key, dialect)?.shown()),
        insert,
    );
    let upserted: Shown = |model, key, dialect| Some(upsert_ways(model, key, dialect)?.shown());
    let find_or_create = method(
        &names.find_or_create_many,
        format!(
            "Reads the rows of `{table}` with these keys, creates the missing ones, and says which. {EACH}\n\n{}\n\n\
             and for the missing ones\n\n{inserted}\n\nErrors: of each those of `{}`.\n\n{CANCEL}",
            shown(found, find),
            names.find_or_create
        ),
        quote!(__rt::FoundOrCreated<Self>, __rt::FindOrCreateError),
        "find_or_create_many",
    );
    let create = method(
        &names.create_many,
        format!(
            "Creates those rows of `{table}` whose keys are free; `None` for each other one. {EACH}\n\n{inserted}\n\n\
             Errors: of each those of `{}`.\n\n{CANCEL}",
            names.create
        ),
        quote!(__rt::Option<Self>, __rt::CreateError),
        "create_many",
    );
    let upsert = method(
        &names.upsert_many,
        format!(
            "Creates each row of `{table}`, or overwrites the one with the same key, and returns them as stored. {EACH}\n\n{}\n\n\
             Errors: of each those of `{}`.\n\n{CANCEL}",
            shown(upserted, sql::find_or_create::upsert),
            names.upsert
        ),
        quote!(Self, __rt::UpsertError),
        "upsert_many",
    );
    quote!(#find_or_create #create #upsert)
}

/// Their statements for one database.
pub(super) fn statements(model: &Model, key: &UniqueKey, dialect: Dialect) -> TokenStream {
    let constant =
        |name: &str, sql: Sql| statement_constant(name, sql(model, key, dialect).as_ref());
    let find = constant("FIND_MANY", many::find);
    let find_any = constant("FIND_ANY", many::find_any);
    let ways = |name: &str, ways: Option<Ways>| Some(ways?.constant(name));
    let insert = ways("INSERT_MANY", insert_ways(model, key, dialect));
    let upsert = ways("UPSERT_MANY", upsert_ways(model, key, dialect));
    quote!(#find #find_any #insert #upsert)
}

fn insert_ways(model: &Model, key: &UniqueKey, dialect: Dialect) -> Option<Ways> {
    Some(Ways {
        at_once: many::insert_at_once(model, key, dialect),
        in_order: many::insert(model, key, dialect)?,
    })
}

fn upsert_ways(model: &Model, key: &UniqueKey, dialect: Dialect) -> Option<Ways> {
    Some(Ways {
        at_once: many::upsert_at_once(model, key, dialect),
        in_order: many::upsert(model, key, dialect)?,
    })
}

/// Both ways to write many: at once, if that can be, and in the order of their keys.
struct Ways {
    at_once: Option<Statement>,
    in_order: Statement,
}

impl Ways {
    fn shown(&self) -> String {
        let in_order = self.in_order.shown();
        match &self.at_once {
            Some(at_once) => format!(
                "-- On a pool or `Lanes`, if no key is given twice:\n{};\n\
                 -- else, or if that waited 20 milliseconds for a lock, wrote nothing, or a row was refused:\n{in_order}",
                at_once.shown(),
            ),
            None => in_order.to_string(),
        }
    }

    fn constant(&self, name: &str) -> TokenStream {
        let name = format_ident!("{name}");
        let at_once = self.at_once.as_ref().map_or_else(
            || quote!(""),
            |at_once| statement(at_once).into_token_stream(),
        );
        let in_order = statement(&self.in_order);
        quote! {
            const #name: __rt::Option<[&'static str; 2]> = __rt::Some([#at_once, #in_order]);
        }
    }
}

/// Those of a struct that could not be read.
pub(super) fn stubs(names: [String; 3], methods: &mut BTreeMap<String, TokenStream>) {
    let outputs = [
        quote!(__rt::FoundOrCreated<Self>, __rt::FindOrCreateError),
        quote!(Self, __rt::UpsertError),
        quote!(__rt::Option<Self>, __rt::CreateError),
    ];
    for (name, output) in names.into_iter().zip(outputs) {
        let ident = format_ident!("{name}");
        let stub = quote! {
            #[doc = #STUB_DOC]
            pub async fn #ident(
                __0: impl ::core::marker::Sized,
                __1: impl ::core::marker::Sized,
            ) -> __rt::Vec<__rt::Result<#output>> {
                __rt::unreachable!()
            }
        };
        methods.insert(name, stub);
    }
}
