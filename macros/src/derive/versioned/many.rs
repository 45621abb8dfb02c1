//! The methods about many rows.

use proc_macro2::TokenStream;
use quote::quote;

use super::Plan;
use crate::derive::{
    STUB_DOC, folds, key_argument, name_at, parts, statement, statement_constant, text_doc,
};
use crate::model::Column;
use crate::sql::{self, Dialect};

const EACH: &str = "Each row has its own outcome, in the order given: one that is refused, or that a concurrent writer has changed, does not \
    affect the others. \
    In a PostgreSQL transaction a refused row ends the transaction, as always. A statement covers at most 1,000 rows, in a transaction all of them.";

const CANCEL: &str =
    "Cancel safety: each statement takes effect completely or not at all; earlier ones stay.";

pub(super) fn methods(plan: &Plan<'_>) -> TokenStream {
    let Plan {
        model, keys, asked, ..
    } = plan;
    let table = model.table.display();
    let key = key_argument(keys, &quote!('__k));
    let given = plan.key().given(&quote!(key));
    let keys = match plan.key().is_wrapped() {
        true => quote!(__rt::Iterator::map(__rt::IntoIterator::into_iter(keys), |key| #given)),
        false => quote!(keys),
    };
    let name = name_at("load_many", *asked);
    let docs = format!(
        "Reads the rows of `{table}` with these keys in one statement: an outcome for each key, in the order given.\n\n{}\n\n\
         Errors: of each those of `load`.",
        text_doc(model, |dialect| {
            let load = sql::versioned::many::load(model, dialect).shown();
            match sql::versioned::many::load_any(model, dialect) {
                Some(any) => format!("{};\n-- or, if a key is given twice:\n{load}", any.shown()),
                None => load.to_string(),
            }
        })
    );
    let load = quote! {
        #[doc = #docs]
        pub fn #name<'__c, '__k, __DB: __rt::Backend>(
            db: impl __rt::Source<'__c, __DB>,
            keys: impl __rt::IntoIterator<Item = #key>,
        ) -> impl __rt::Future<Output = __rt::Vec<__rt::Result<Self, __rt::LoadError>>> + __rt::Send
        where
            Self: __rt::versioned::VersionedSql<__DB>
        {
            __rt::versioned::load_many(db, #keys)
        }
    };
    let method = |name: &str, docs: String, output: TokenStream, body: TokenStream| {
        let name = name_at(name, *asked);
        quote! {
            #[doc = #docs]
            pub fn #name<'__c, '__r, __DB: __rt::Backend>(
                db: impl __rt::Source<'__c, __DB>,
                rows: impl __rt::IntoIterator<Item = &'__r Self>,
            ) -> impl __rt::Future<Output = __rt::Vec<__rt::Result<#output>>> + __rt::Send
            where
                Self: __rt::versioned::VersionedSql<__DB>
            {
                #body
            }
        }
    };
    let of_each = |one: sql::Statement| format!("{};\n-- for each", one.shown());
    let update = plan.version.map(|version| {
        let text = |dialect| match update(plan, dialect) {
            Some(ways) => both(ways.map(|way| way.shown())),
            None => of_each(sql::versioned::update(model, Some(version), dialect)),
        };
        let docs = format!(
            "Writes all columns of each of these rows of `{table}` that still has its copy's `{}`, and returns the new rows. {EACH} \
             Copies of one row are written one after the other.\n\n{}\n\n\
             After conflicts, one more statement reads the current rows.\n\nErrors: of each those of `update`.\n\n{CANCEL}",
            version.field,
            text_doc(model, text)
        );
        let output = quote!(Self, __rt::UpdateError<Self>);
        method("update_many", docs, output, quote!(__rt::versioned::update_many(db, rows)))
    });
    let text = |dialect| match sql::versioned::many::insert(model, plan.version, dialect) {
        Some(insert) => insert.shown(),
        None => of_each(sql::versioned::insert(model, plan.version, dialect)),
    };
    let docs = format!(
        "Inserts each of these structs as a row of `{table}`, and returns the new rows. {EACH}\n\n{}\n\n\
         Errors: of each those of `insert`.\n\n{CANCEL}",
        text_doc(model, text)
    );
    let output = quote!(Self, __rt::versioned::InsertError);
    let insert = method(
        "insert_many",
        docs,
        output,
        quote!(__rt::versioned::insert_many(db, rows)),
    );
    let save = plan.version.map(|version| save(plan, version));
    let text = |dialect| match delete(plan, dialect) {
        Some(ways) => both(ways.map(|way| way.shown())),
        None => of_each(sql::versioned::delete(model, plan.version, dialect)),
    };
    let docs = format!(
        "Deletes each of these rows of `{table}` that is still as its copy was read. {EACH}\n\n{}\n\n\
         After conflicts, one more statement reads the current rows.\n\nErrors: of each those of `delete`.\n\n{CANCEL}",
        text_doc(model, text)
    );
    let output = quote!((), __rt::DeleteError<Self>);
    let delete = method(
        "delete_many",
        docs,
        output,
        quote!(__rt::versioned::delete_many(db, rows)),
    );
    quote! {
        #load
        #insert
        #save
        #update
        #delete
    }
}

/// The method that takes edits.
fn save(plan: &Plan<'_>, version: &Column) -> TokenStream {
    let name = name_at("save_many", plan.asked);
    let text = |dialect| match save_statements(plan, dialect) {
        Some([at_once, in_order]) => both([
            sql::guarded::shown(&at_once, &["changed", "$n", "changed = $n"]),
            sql::guarded::shown(&in_order, &["changed", "NULL", "$n", "changed = $n"]),
        ]),
        None => "-- `save` of each".to_owned(),
    };
    let docs = format!(
        "Writes the changed columns of each edit whose row of `{}` still has the `{}` it was read with, and returns the new rows. \
         Edits of the same columns share a statement. {EACH} An edit without a change sends nothing.\n\n{}\n\n\
         After conflicts, one more statement reads the current rows.\n\nErrors: of each those of `Edit::save`.\n\n{CANCEL}",
        plan.model.table.display(),
        version.field,
        text_doc(plan.model, text)
    );
    quote! {
        #[doc = #docs]
        pub fn #name<'__c, '__r, __DB: __rt::Backend>(
            db: impl __rt::Source<'__c, __DB>,
            edits: impl __rt::IntoIterator<Item = &'__r __rt::Edit<Self>>,
        ) -> impl __rt::Future<Output = __rt::Vec<__rt::Result<Self, __rt::UpdateError<Self>>>> + __rt::Send
        where
            Self: __rt::versioned::VersionedSql<__DB>
        {
            __rt::versioned::save_many(db, edits)
        }
    }
}

/// The two ways of a write, as the documentation has them.
fn both([at_once, in_order]: [String; 2]) -> String {
    format!(
        "-- On a pool or `Lanes`, if the keys are integers or UUIDs:\n{at_once};\n-- else, or if that waited 20 milliseconds for a lock, or wrote nothing:\n{in_order}"
    )
}

fn update(plan: &Plan<'_>, dialect: Dialect) -> Option<[sql::Statement; 2]> {
    let (model, version) = (plan.model, plan.version?);
    Some([
        sql::versioned::many::update_at_once(model, version, dialect)?,
        sql::versioned::many::update(model, version, dialect)?,
    ])
}

fn save_statements(plan: &Plan<'_>, dialect: Dialect) -> Option<[sql::Statement; 2]> {
    let (model, version) = (plan.model, plan.version?);
    Some([
        sql::versioned::many::save_at_once(model, version, dialect)?,
        sql::versioned::many::save(model, version, dialect)?,
    ])
}

fn delete(plan: &Plan<'_>, dialect: Dialect) -> Option<[sql::Statement; 2]> {
    let (model, version) = (plan.model, plan.version?);
    Some([
        sql::versioned::many::delete_at_once(model, version, dialect)?,
        sql::versioned::many::delete(model, version, dialect)?,
    ])
}

/// The statements for one database, and how their values are bound.
pub(super) fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
    let model = plan.model;
    let load = statement(&sql::versioned::many::load(model, dialect));
    let load_any = sql::versioned::many::load_any(model, dialect);
    let load_any = statement_constant("LOAD_ANY", load_any.as_ref());
    let bind_keys = plan.key().bind_keys(dialect);
    let folds = folds(model);
    let fold = plan
        .version
        .and_then(|version| sql::versioned::many::fold(model, version, dialect));
    let fold = statement_constant("UPDATE_FOLD", fold.as_ref());
    let held = sql::held(model, dialect).filter(|_| plan.version.is_some());
    let held = statement_constant("HELD", held.as_ref());
    let load = quote! {
        const LOAD_MANY: &'static str = #load;
        #load_any
        #folds
        #bind_keys
        #fold
        #held
    };
    let insert = sql::versioned::many::insert(model, plan.version, dialect);
    let insert = statement_constant("INSERT_MANY", insert.as_ref());
    let ways = |name: &str, ways: Option<[sql::Statement; 2]>| {
        let (name, ways) = (quote::format_ident!("{name}"), ways?);
        let [at_once, in_order] = ways.map(|way| statement(&way));
        Some(quote! {
            const #name: __rt::Option<[&'static str; 2]> = __rt::Some([#at_once, #in_order]);
        })
    };
    let update = ways("UPDATE_MANY", update(plan, dialect));
    let delete = ways("DELETE_MANY", delete(plan, dialect));
    let save = save_statements(plan, dialect).map(|ways| {
        let [at_once, in_order] = ways.map(|way| parts(&way));
        quote! {
            const SAVE_MANY: __rt::Option<([&'static str; 4], [&'static str; 5])> =
                __rt::Some((#at_once, #in_order));
        }
    });
    quote!(#load #insert #save #update #delete)
}

/// Those of a struct that could not be read.
pub(super) fn stub() -> TokenStream {
    let of_many = |name: &str, output: TokenStream| {
        let name = quote::format_ident!("{name}");
        quote! {
            #[doc = #STUB_DOC]
            pub async fn #name(
                __0: impl ::core::marker::Sized,
                __1: impl ::core::marker::Sized,
            ) -> __rt::Vec<__rt::Result<#output>> {
                __rt::unreachable!()
            }
        }
    };
    let load = of_many("load_many", quote!(Self, __rt::LoadError));
    let insert = of_many("insert_many", quote!(Self, __rt::versioned::InsertError));
    let save = of_many("save_many", quote!(Self, __rt::UpdateError<Self>));
    let update = of_many("update_many", quote!(Self, __rt::UpdateError<Self>));
    let delete = of_many("delete_many", quote!((), __rt::DeleteError<Self>));
    quote!(#load #insert #save #update #delete)
}
