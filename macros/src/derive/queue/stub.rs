//! The names of what is generated, for a struct with mistakes.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{DeriveInput, parse_quote};

use super::enqueue;
use crate::derive::guarded::stub_constants;
use crate::derive::{Output, STUB_DOC, stub_impl, stub_method};

pub(super) fn stub(input: &DeriveInput) -> Output {
    let methods = quote! {
        #[doc = #STUB_DOC]
        pub fn claim<'__c, __DB: __rt::Backend, __A>(
            __db: __A,
            __limit: usize,
        ) -> __rt::Claim<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::QueueSql<__DB>,
        {
            __rt::unreachable!()
        }
        #[doc = #STUB_DOC]
        pub fn purge<'__c, __DB: __rt::Backend, __A>(
            __db: __A,
            __older_than: ::core::time::Duration,
        ) -> __rt::Purge<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::PurgeSql<__DB>,
        {
            __rt::unreachable!()
        }
        #[doc = #STUB_DOC]
        pub fn redrive<'__c, __DB: __rt::Backend, __A>(
            __db: __A,
        ) -> __rt::Redrive<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::QueueSql<__DB>,
        {
            __rt::unreachable!()
        }
        #[doc = #STUB_DOC]
        pub fn stats<'__c, __DB: __rt::Backend, __A>(
            __db: __A,
        ) -> __rt::ReadStats<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::QueueSql<__DB>,
        {
            __rt::unreachable!()
        }
        #[doc = #STUB_DOC]
        pub fn worker<__DB: __rt::Backend>(
            __pool: &__rt::queue::Pool<__DB>,
        ) -> __rt::Worker<__DB, Self>
        where
            Self: __rt::queue::QueueSql<__DB>,
        {
            __rt::unreachable!()
        }
        #[doc = #STUB_DOC]
        pub fn ddl<__DB>() -> &'static str { __rt::unreachable!() }
        #[doc = #STUB_DOC]
        pub fn notify_ddl() -> &'static str { __rt::unreachable!() }
        #[doc = #STUB_DOC]
        pub fn storage_ddl() -> &'static str { __rt::unreachable!() }
    };
    let pauses = ["pause", "resume"].map(|name| {
        let name = format_ident!("{name}");
        quote! {
            #[doc = #STUB_DOC]
            pub fn #name<'__c, __DB: __rt::Backend, __A>(
                __db: __A,
            ) -> __rt::Pause<'__c, __DB, Self, __A>
            where
                __A: __rt::Source<'__c, __DB> + '__c,
                Self: __rt::queue::PauseSql<__DB>,
            {
                __rt::unreachable!()
            }
        }
    });
    let list = stub_method(
        &format_ident!("pauses"),
        false,
        1,
        &quote!(__rt::Vec<__rt::Paused>, __rt::DatabaseError),
    );
    let rescue = stub_method(
        &format_ident!("rescue"),
        false,
        1,
        &quote!(__rt::Rescued, __rt::DatabaseError),
    );
    let constants = stub_constants(input, true);
    let (items, new, enqueue) = enqueue::stub(input);
    let cancel = stub_method(
        &format_ident!("cancel"),
        false,
        2,
        &quote!(__rt::Cancelled, __rt::DatabaseError),
    );
    let methods = stub_impl(
        input,
        &quote!(#constants #enqueue #methods #(#pauses)* #list #rescue #cancel),
    );
    let statements = stub_statements(input);
    Output {
        items,
        impls: quote!(#new #methods #statements),
    }
}

/// Claims that are never made: with them the methods of `Claimed` and `Worker` are there for any database.
fn stub_statements(input: &DeriveInput) -> TokenStream {
    let ident = &input.ident;
    let mut generics = input.generics.clone();
    let bound = parse_quote!(Self: __rt::Send + ::core::marker::Sync + 'static);
    generics.make_where_clause().predicates.push(bound);
    let mut with_database = generics.clone();
    with_database.params.push(parse_quote!(__DB: __rt::Backend));
    let (with_database, _, _) = with_database.split_for_impl();
    let (generics, arguments, predicates) = generics.split_for_impl();
    quote! {
        impl #generics __rt::Model<__rt::queue::Derive> for #ident #arguments #predicates {
            type Key<'__k> = ();
            const TABLE: &'static str = "";
            fn describe(_: &Self::Key<'_>, _: &mut __rt::KeyText) {}
        }
        impl #generics __rt::queue::Queue for #ident #arguments #predicates {
            const MAX_ATTEMPTS: i64 = 0;
            const CHANNEL: &'static str = "";
            fn attempts(&self) -> i64 { 0 }
            const KEY: &'static [(&'static str, &'static str, usize)] = &[];
            const PLACES: [usize; 2] = [0, 0];
            const HAS_LAST_ERROR: bool = false;
            fn count(&mut self) {}
            fn key(&self) -> Self::Key<'_> {}
        }
        impl #with_database __rt::queue::QueueSql<__DB> for #ident #arguments #predicates {
            const ROW: __rt::Read<__DB, Self> = |_| __rt::unreachable!();
            const COLUMNS: &'static [&'static str] = &[];
            const CLAIM: &'static [&'static str] = &[];
            const LIST_DUE: &'static [&'static str] = &[];
            const COMPLETE: &'static str = "";
            const LOOK: &'static str = "";
            const COMPLETE_MANY: [&'static str; 2] = ["", ""];
            const SETTLE: [&'static str; 2] = ["", ""];
            const START: [&'static str; 2] = ["", ""];
            const EXTEND: [&'static str; 2] = ["", ""];
            const RESCUE: [&'static str; 2] = ["", ""];
            const LIST_ENDED: &'static str = "";
            const HAS_ENDED: &'static str = "";
            const SET_ASIDE: [&'static str; 2] = ["", ""];
            const REDRIVE: [&'static str; 2] = ["", ""];
            const LIST_DEAD: [&'static str; 2] = ["", ""];
            const STATS: [&'static str; 4] = ["", "", "", ""];
            const DDL: &'static str = "";
            fn bind_key(&self, _: &mut impl __rt::Bind<__DB>) {}
            fn read_claim(_: &__rt::Row<__DB>) -> __rt::Decoded<(Self::Key<'_>, __rt::Fence)> { __rt::unreachable!() }
            fn order(&self, _: &Self) -> __rt::queue::Ordering { __rt::queue::Ordering::Equal }
        }
        impl #with_database __rt::queue::PauseSql<__DB> for #ident #arguments #predicates {
            const PAUSE: [&'static str; 3] = ["", "", ""];
            const RESUME: [&'static str; 2] = ["", ""];
            const PAUSES: &'static str = "";
            const FILTERS: &'static [(&'static str, usize)] = &[];
        }
        impl #with_database __rt::queue::PurgeSql<__DB> for #ident #arguments #predicates {
            const PURGE: [[&'static str; 2]; 2] = [["", ""], ["", ""]];
            const LIST_OLD: [[&'static str; 2]; 2] = [["", ""], ["", ""]];
        }
    }
}
