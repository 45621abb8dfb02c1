//! What `Queue` generates for new jobs.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Index};

use crate::attr::{FieldAttrs, SqlxAttrs, StructAttrs};
use crate::derive::find_or_create::{default_new, given_fields, new_debug, new_struct};
use crate::derive::{
    STUB_DOC, array, bind, database, halves, name_at, sql_doc, statement, stub_fields,
};
use crate::diag::Diag;
use crate::model::{Column, inside_option, is_json};
use crate::options::FieldOption;
use crate::sql::Dialect;
use crate::sql::queue::Queue as Plan;

const SAME: &str = "It is due at once, or `.delay(...)` from now by the database's clock, or `.at(time)`. The statement sets the queue's columns, \
    so the table needs no defaults for them.";

/// The struct of a new row, unless `FindOrCreate` makes it.
pub(super) fn items(plan: &Plan<'_>) -> TokenStream {
    match plan.conflict() {
        Some(_) => TokenStream::new(),
        None => new_struct(plan.model, &plan.given(), false),
    }
}

/// What goes beside its other impls: its `Debug`, and its `Clone`, which asks nothing of the types of fields that have none.
pub(super) fn impls(plan: &Plan<'_>) -> Option<TokenStream> {
    let model = plan.model;
    if plan.conflict().is_some() {
        return None;
    }
    let new = &model.new;
    let debug = new_debug(new, model.new_derives.as_deref());
    let clone = model.new_derives.is_none().then(|| {
        let given = given_fields(&plan.given());
        let fields = given.iter().map(|(ident, ..)| ident);
        let types = given.iter().map(|(_, ty, _)| ty);
        quote! {
            #[automatically_derived]
            impl ::core::clone::Clone for #new where #(for<'__a> #types: ::core::clone::Clone),* {
                fn clone(&self) -> Self {
                    Self { #(#fields: ::core::clone::Clone::clone(&self.#fields)),* }
                }
            }
        }
    });
    Some(quote!(#debug #clone))
}

pub(super) fn methods(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let asked = plan.attempts.asked;
    let enqueue = name_at("enqueue", asked);
    let sql = sql_doc(model, |dialect| plan.enqueue(dialect));
    let cancel = "Cancel safety: one statement; if you drop the future, it takes effect completely or not at all.";
    if let Some((index, _)) = plan.conflict() {
        let index = Index::from(index);
        let docs = format!(
            "Inserts a job into `{table}`, unless a row holds its unique key: then it writes nothing and returns that row. {SAME}\n\n{sql}\n\n\
             If the key is held, the row is read; if it is done by then, both are repeated, at most fifty rounds. In a PostgreSQL transaction a \
             savepoint surrounds the insert, so the transaction stays usable whatever happens.\n\n\
             Errors: `KeyTaken`, `NotUnique`, `MissingUniqueIndex`, `Written`, `Serialization`, `Unknown`, `Database` (also a violation of another \
             constraint).\n\n{cancel}"
        );
        return quote! {
            #[doc = #docs]
            pub fn #enqueue<'__c, __DB: __rt::Backend, __A>(
                db: __A,
                new: <Self as __rt::queue::Keyed<__DB, #index>>::New,
            ) -> __rt::EnqueueUnique<'__c, __DB, Self, __A, #index>
            where
                __A: __rt::Source<'__c, __DB> + '__c,
                Self: __rt::queue::Keyed<__DB, #index> + __rt::queue::Enqueued<__DB>,
            {
                __rt::queue::enqueue_unique(db, new)
            }
        };
    }
    let new = &model.new;
    let enqueue_many = name_at("enqueue_many", asked);
    let errors = "Errors: `AlreadyExists` (of a unique index; its name is in the error on PostgreSQL), `Ignored`, `Written`, `Serialization`, \
         `Unknown`, `Database`.";
    let docs = format!(
        "Inserts a job into `{table}` and returns its row. {SAME}\n\n{sql}\n\n{errors}\n\n{cancel}"
    );
    let many = sql_doc(model, |dialect| plan.enqueue_many(dialect));
    let many_docs = format!(
        "Inserts many jobs into `{table}` with one INSERT and returns their rows in the order given: all of them, or none if the database refuses \
         one. {SAME}\n\n{many}\n\n{errors} A row that a trigger drops is not among those returned.\n\n{cancel}"
    );
    quote! {
        #[doc = #docs]
        pub fn #enqueue<'__c, __DB: __rt::Backend, __A>(
            db: __A,
            new: #new,
        ) -> __rt::Enqueue<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::EnqueueSql<__DB, New = #new>,
        {
            __rt::queue::enqueue(db, new)
        }
        #[doc = #many_docs]
        pub fn #enqueue_many<'__c, __DB: __rt::Backend, __A>(
            db: __A,
            new: impl __rt::IntoIterator<Item = #new>,
        ) -> __rt::EnqueueMany<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::EnqueueSql<__DB, New = #new>,
        {
            __rt::queue::enqueue_many(db, new)
        }
    }
}

/// The statements for one database.
pub(super) fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
    let model = plan.model;
    let (ident, new) = (&model.ident, &model.new);
    let database = database(dialect);
    let time = inside_option(&plan.run_at.ty).unwrap_or(&plan.run_at.ty);
    let enqueue = statement(&plan.enqueue(dialect));
    let run_at_is_given = plan.run_at_is_given();
    let enqueued = quote! {
        #[automatically_derived]
        impl __rt::queue::Enqueued<#database> for #ident {
            type Time = #time;
            const ENQUEUE: &'static str = #enqueue;
            const RUN_AT_IS_GIVEN: bool = #run_at_is_given;
            fn bind_at(__at: &__rt::Option<Self::Time>, __to: &mut impl __rt::Bind<#database>) { __to.bind(0, __at); }
        }
    };
    if plan.conflict().is_some() {
        return enqueued;
    }
    let [head, tail] = halves(&plan.enqueue_many(dialect));
    let given = plan.given();
    let count = given.len();
    let binds = given.iter().enumerate().map(|(index, column)| {
        let field = column.place();
        bind(index, column, &quote!(&__new.#field))
    });
    let bounds = given.iter().map(|column| storable(column, &database));
    let bind_many = match dialect {
        Dialect::Postgres => {
            let arrays = given.iter().enumerate().map(array);
            quote! {
                fn bind_many(__rows: &[&Self::New], __to: &mut impl __rt::Bind<#database>) {
                    #[allow(unused_imports)]
                    use __rt::NoArrayType as _;
                    #(#arrays)*
                }
            }
        }
        Dialect::Sqlite => TokenStream::new(),
    };
    quote! {
        #enqueued
        #[automatically_derived]
        impl __rt::queue::EnqueueSql<#database> for #ident where #(#bounds),* {
            type New = #new;
            const GIVEN: usize = #count;
            const ENQUEUE_MANY: [&'static str; 2] = [#head, #tail];
            fn bind_new(__new: &Self::New, __to: &mut impl __rt::Bind<#database>) { #(#binds)* }
            #bind_many
        }
    }
}

/// That the column can be bound. `for<'__a>`, so that a queue which enqueues in another way needs no types that can be written: the
/// compiler refuses a bound that can never hold, but one with a lifetime only where it is used.
fn storable(column: &Column, database: &TokenStream) -> TokenStream {
    let ty = &column.ty;
    let inside = column.json_nullable.then(|| inside_option(ty)).flatten();
    if column.json || column.json_nullable {
        let ty = inside.unwrap_or(ty);
        return quote!(for<'__a> #ty: __rt::queue::Serialize);
    }
    if is_json(ty) {
        return quote!(for<'__a> #ty: __rt::Column<#database> + __rt::queue::Serialize);
    }
    quote!(for<'__a> #ty: __rt::Column<#database>)
}

/// The constants and methods of a struct that could not be read.
pub(super) fn stub(input: &DeriveInput) -> (TokenStream, TokenStream, TokenStream) {
    let quiet = Diag::new();
    let attrs = StructAttrs::read(&input.attrs, &quiet);
    let fields = stub_fields(input);
    let options = |field: &syn::Field| FieldAttrs::read(&field.attrs, &quiet);
    let unique = !attrs.unique.is_empty()
        || fields
            .iter()
            .flatten()
            .any(|field| options(field).has(FieldOption::Unique));
    let methods = quote! {
        #[doc = #STUB_DOC]
        pub async fn enqueue(__0: impl ::core::marker::Sized, __1: impl ::core::marker::Sized) -> __rt::Result<Self, __rt::InsertError> {
            __rt::unreachable!()
        }
        #[doc = #STUB_DOC]
        pub async fn enqueue_many(
            __0: impl ::core::marker::Sized,
            __1: impl ::core::marker::Sized,
        ) -> __rt::Result<__rt::Vec<Self>, __rt::InsertError> {
            __rt::unreachable!()
        }
    };
    let Some(fields) = fields.filter(|_| !unique) else {
        let _ = quiet.finish();
        return (TokenStream::new(), TokenStream::new(), methods);
    };
    let given = fields.into_iter().filter_map(|field| {
        let options = options(field);
        let filled = [
            FieldOption::Generated,
            FieldOption::Default,
            FieldOption::OnInsert,
            FieldOption::OnUpdate,
        ];
        let filled = filled.into_iter().any(|option| options.has(option));
        if filled || options.role().is_some() || SqlxAttrs::read(&field.attrs).skip {
            return None;
        }
        let (vis, ident, ty) = (&input.vis, &field.ident, &field.ty);
        Some(quote!(#vis #ident: #ty))
    });
    let given: Vec<TokenStream> = given.collect();
    let vis = &input.vis;
    let new = attrs.new.unwrap_or_else(|| default_new(&input.ident));
    let derives = attrs
        .new_derives
        .as_ref()
        .map(|derives| quote!(#[derive(#(#derives),*)]));
    let items = quote! {
        #[doc = #STUB_DOC]
        #derives
        #[allow(dead_code, missing_docs, non_snake_case, private_interfaces)]
        #vis struct #new { #(#given),* }
    };
    let debug = new_debug(&new, attrs.new_derives.as_deref());
    let _ = quiet.finish();
    (items, quote!(#debug), methods)
}
