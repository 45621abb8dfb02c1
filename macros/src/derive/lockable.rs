//! `#[derive(Lockable)]`: row locks.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{DeriveInput, parse_quote};

use super::versioned::missing_key;
use super::{
    Derive, KeyValue, Kind, Output, STUB_DOC, array_keys, assert_not_null, bind_columns, database,
    fence, for_backend, key_argument, knows, name_at, optional_statement, parts, read_back,
    read_row, sets_without_excluded, statement, stub_impl, text_doc, version,
};
use crate::diag::Diag;
use crate::lower::Attempted;
use crate::model::{Column, Model};
use crate::sql::{self, Dialect, Statement};

pub(crate) struct Lockable;

pub(crate) struct Plan<'m> {
    model: &'m Model,
    keys: Vec<&'m Column>,
}

impl Plan<'_> {
    fn key(&self) -> KeyValue<'_> {
        KeyValue::borrowed(self.model, &self.keys, "__Key")
    }

    fn owned_key(&self) -> KeyValue<'_> {
        KeyValue::owned(self.model, &self.keys, "__OwnedKey")
    }
}

impl Derive for Lockable {
    type Plan<'m> = Plan<'m>;
    const KIND: Option<Kind> = Some(Kind::Lockable);

    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Plan<'m>> {
        let keys = model.keys();
        if keys.is_empty() {
            if !attempted.has("key") {
                missing_key(model, diag);
            }
            return None;
        }
        array_keys(model, &keys, diag);
        sets_without_excluded(model, diag);
        Some(Plan { model, keys })
    }

    fn expand(plan: &Plan<'_>) -> Output {
        let Plan { model, keys } = plan;
        let ident = &model.ident;
        let methods = methods(plan);
        let facts = facts(plan);
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
                impl #ident { #methods }
                #facts
                #(#backends)*
                #not_null
            },
        }
    }

    fn stub(input: &DeriveInput) -> Output {
        let methods = [
            ("lock", quote!(__rt::One<'static, Self>)),
            ("lock_many", quote!(__rt::Many<'static, Self>)),
            ("lock_where", quote!(__rt::Matching<__DB>)),
        ];
        let methods = methods.map(|(name, which)| {
            let name = format_ident!("{name}");
            quote! {
                #[doc = #STUB_DOC]
                pub fn #name<'__t, __DB: __rt::Backend>(
                    __tx: impl __rt::InTransaction<'__t, Database = __DB>,
                    __key: impl ::core::marker::Sized,
                ) -> __rt::Lock<'__t, __DB, Self, #which>
                where
                    Self: __rt::lockable::LockableSql<__DB>,
                {
                    __rt::unreachable!()
                }
            }
        });
        let checked = quote! {
            #[doc = #STUB_DOC]
            pub async fn lock_checked(
                &self,
                __tx: impl ::core::marker::Sized,
            ) -> __rt::Result<__rt::Locked<Self>, __rt::LockCheckedError<Self>> {
                __rt::unreachable!()
            }
        };
        let methods = stub_impl(input, &quote!(#(#methods)* #checked));
        let statements = stub_statements(input);
        Output {
            items: TokenStream::new(),
            impls: quote!(#methods #statements),
        }
    }
}

/// A lock that is never taken: with it the options of `lock` and `Locked::save` are there for any database.
fn stub_statements(input: &DeriveInput) -> TokenStream {
    let ident = &input.ident;
    let mut generics = input.generics.clone();
    let bound = parse_quote!(Self: __rt::Send + ::core::marker::Sync + 'static);
    generics.make_where_clause().predicates.push(bound);
    let mut with_database = generics.clone();
    let database = parse_quote!(__DB: __rt::Backend);
    with_database.params.push(database);
    let (with_database, _, _) = with_database.split_for_impl();
    let (generics, arguments, predicates) = generics.split_for_impl();
    quote! {
        impl #generics __rt::Model<__rt::lockable::Derive> for #ident #arguments #predicates {
            type Key<'__k> = ();
            const TABLE: &'static str = "";
            fn describe(_: &Self::Key<'_>, _: &mut __rt::KeyText) {}
        }
        impl #generics __rt::lockable::Lockable for #ident #arguments #predicates {
            type OwnedKey = ();
            fn key(&self) -> Self::Key<'_> {}
            fn owned_key(&self) -> Self::OwnedKey {}
            fn has_key(&self, _: &Self::OwnedKey) -> bool { true }
        }
        impl #with_database __rt::lockable::LockableSql<__DB> for #ident #arguments #predicates {
            const ROW: __rt::Read<__DB, Self> = |_| __rt::unreachable!();
            const SELECT: &'static str = "";
            const SELECT_MANY: &'static str = "";
            const SELECT_WHERE: [&'static str; 2] = [""; 2];
            const WRITE_LOCK: __rt::Option<&'static str> = __rt::None;
            const UPDATE: &'static str = "";
            fn bind_key(_: &Self::Key<'_>, _: &mut impl __rt::Bind<__DB>) {}
            fn bind_columns(&self, _: &mut impl __rt::Bind<__DB>) {}
            fn read_back(&mut self, _: &__rt::Row<__DB>) -> __rt::Decoded<()> { __rt::Ok(()) }
        }
    }
}

fn methods(plan: &Plan<'_>) -> TokenStream {
    let Plan { model, keys } = plan;
    let table = model.table.display();
    let asked = keys[0].ident.span();
    let [lock, lock_many, lock_where] =
        ["lock", "lock_many", "lock_where"].map(|name| name_at(name, asked));
    let key = key_argument(keys, &quote!('__k));
    let own = plan.key();
    let given = own.given(&quote!(key));
    let given_many = if own.is_wrapped() {
        quote!(__rt::Iterator::map(__rt::IntoIterator::into_iter(keys), |key| #given))
    } else {
        quote!(keys)
    };
    let shown = |select: Statement| sql::lockable::shown(model, &select);
    let one = |dialect| shown(sql::lockable::select(model, dialect));
    let many = |dialect| shown(sql::lockable::select_many(model, dialect));
    let lock_docs = format!(
        "Locks the row of `{table}` with this key until the transaction ends, waits for its holder if need be, and reads the current row. Options: \
         `no_key`, `share`, `nowait`, `skip_locked`, `lock_timeout`, `only_itself`.\n\n{}\n\n\
         Errors: `NotFound`, `NotUnique`, `NotAvailable`, `FixedSnapshot`, `NotInTransaction`, `Serialization`, `Database` (also a deadlock).\n\n\
         Cancel safety: if you drop the future, the row may be locked; the lock ends with the transaction.",
        text_doc(model, one)
    );
    let many_docs = format!(
        "Locks many rows of `{table}` in the database's order of their keys, so that two callers never deadlock, and returns them in that order. A \
         key given twice counts once; no key, no SQL.\n\n{}\n\n\
         Errors: those of `lock`; `NotFound` names the first key without a row, unless `skip_locked` is set.",
        text_doc(model, many)
    );
    let matching = |dialect| {
        let select = sql::lockable::select_where(model, dialect);
        let shown = sql::guarded::shown(&select, &["condition"]);
        match sql::lockable::write_lock(model, dialect) {
            Some(write_lock) => format!("{};\n{shown}", write_lock.shown()),
            None => format!("{shown} FOR UPDATE"),
        }
    };
    let where_docs = format!(
        "Locks the rows of `{table}` that meet a condition, in the database's order of their keys, and returns them in that order. \
         The condition uses the constants of `Guarded`. A row that no longer meets it after a concurrent writer has released it is left out; one \
         that has come to meet it meanwhile is not included.\n\n{}\n\n\
         Errors: those of `lock` except `NotFound` and `NotUnique`.",
        text_doc(model, matching)
    );
    let checked = model.version().map(|version| {
        let name = name_at("lock_checked", version.asked);
        // What is wrong with it is wrong with the struct.
        let copy = quote_spanned!(model.ident.span()=> <Self as __rt::Clone>::clone);
        let docs = format!(
            "Locks this row if it still has this copy's `{}`: what you decided from the copy stays right. If the row has changed, the error has \
             the current row.\n\nRuns the statement of `lock`.\n\n\
             Errors: `Stale`, and those of `lock`.",
            version.field
        );
        quote! {
            #[doc = #docs]
            pub fn #name<'__t, __DB: __rt::Backend>(
                &self,
                tx: impl __rt::InTransaction<'__t, Database = __DB>,
            ) -> impl __rt::Future<Output = __rt::Result<__rt::Locked<Self>, __rt::LockCheckedError<Self>>> + __rt::Send
            where
                Self: __rt::lockable::LockableSql<__DB>,
            {
                __rt::lockable::lock_checked(self, #copy, tx)
            }
        }
    });
    quote! {
        #[doc = #lock_docs]
        pub fn #lock<'__t, '__k, __DB: __rt::Backend>(
            tx: impl __rt::InTransaction<'__t, Database = __DB>,
            key: #key,
        ) -> __rt::Lock<'__t, __DB, Self, __rt::One<'__k, Self>>
        where
            Self: __rt::lockable::LockableSql<__DB>,
        {
            __rt::lockable::lock(tx, #given)
        }
        #[doc = #many_docs]
        pub fn #lock_many<'__t, '__k, __DB: __rt::Backend>(
            tx: impl __rt::InTransaction<'__t, Database = __DB>,
            keys: impl __rt::IntoIterator<Item = #key>,
        ) -> __rt::Lock<'__t, __DB, Self, __rt::Many<'__k, Self>>
        where
            Self: __rt::lockable::LockableSql<__DB>,
        {
            __rt::lockable::lock_many(tx, #given_many)
        }
        #[doc = #where_docs]
        pub fn #lock_where<'__t, __DB: __rt::Backend>(
            tx: impl __rt::InTransaction<'__t, Database = __DB>,
            condition: __rt::guarded::Condition<Self, impl __rt::guarded::Expression<__DB>>,
        ) -> __rt::Lock<'__t, __DB, Self, __rt::Matching<__DB>>
        where
            Self: __rt::lockable::LockableSql<__DB> + __rt::guarded::Names<__DB>,
        {
            __rt::lockable::lock_where(tx, condition)
        }
        #checked
    }
}

/// What does not depend on the database.
fn facts(plan: &Plan<'_>) -> TokenStream {
    let Plan { model, .. } = plan;
    let ident = &model.ident;
    let key = plan.key();
    let key_struct = key.definition(&["Clone", "PartialEq"]);
    let (this_version, fence) = (version(model.version()), fence(model));
    let row = quote!(#this_version #fence);
    let knows = knows(model, &quote!(__rt::lockable::Derive), &key, &row);
    let key = key.of(&quote!(self));
    let owned = plan.owned_key();
    let owned_struct = owned.definition(&[]);
    let (owned_type, owned_value, same) = (
        owned.ty(&quote!()),
        owned.of(&quote!(self)),
        owned.is_of(&quote!(self)),
    );
    quote! {
        #key_struct
        #owned_struct
        #knows
        #[automatically_derived]
        impl __rt::lockable::Lockable for #ident {
            type OwnedKey = #owned_type;
            fn key(&self) -> Self::Key<'_> { #key }
            fn owned_key(&self) -> Self::OwnedKey { #owned_value }
            fn has_key(&self, __key: &Self::OwnedKey) -> bool { #same }
        }
    }
}

/// The statements for one database, and how their values are bound.
fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
    let Plan { model, .. } = plan;
    let ident = &model.ident;
    let database = database(dialect);
    let read_row = read_row(model, dialect);
    let select = statement(&sql::lockable::select(model, dialect));
    let select_many = statement(&sql::lockable::select_many(model, dialect));
    let select_where = parts(&sql::lockable::select_where(model, dialect));
    let write_lock = optional_statement(sql::lockable::write_lock(model, dialect).as_ref());
    let update = statement(&sql::lockable::update(model, dialect));
    let bind_key = plan.key().bind();
    let bind_keys = plan.key().bind_keys(dialect);
    let binds = bind_columns(&model.writable());
    let reads = read_back(&sql::lockable::returned(model));
    quote! {
        #[automatically_derived]
        impl __rt::lockable::LockableSql<#database> for #ident {
            #read_row
            const SELECT: &'static str = #select;
            const SELECT_MANY: &'static str = #select_many;
            const SELECT_WHERE: [&'static str; 2] = #select_where;
            const WRITE_LOCK: __rt::Option<&'static str> = #write_lock;
            const UPDATE: &'static str = #update;
            fn bind_key(__key: &Self::Key<'_>, __to: &mut impl __rt::Bind<#database>) { #bind_key }
            #bind_keys
            fn bind_columns(&self, __to: &mut impl __rt::Bind<#database>) { #binds }
            fn read_back(&mut self, __row: &__rt::Row<#database>) -> __rt::Decoded<()> {
                #reads
                __rt::Ok(())
            }
        }
    }
}
