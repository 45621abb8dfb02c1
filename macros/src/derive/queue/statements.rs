//! The statements for one database.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::Index;
use syn::spanned::Spanned;

use super::{enqueue, given_key, own_key};
use crate::derive::guarded::column_names;
use crate::derive::{bind_columns, database, halves, literal, name_at, parts, read_row, statement};
use crate::model::Priority;
use crate::sql::queue::{Locks, Queue as Plan};
use crate::sql::{Dialect, Statement};

/// The statements for one database.
pub(super) fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
    let ident = &plan.model.ident;
    let database = database(dialect);
    let read_row = read_row(plan.model, dialect);
    let columns = column_names(plan.model, dialect);
    let batch = |sql: Statement| {
        let [head, tail] = halves(&sql);
        quote!([#head, #tail])
    };
    let claim = parts(&plan.claim(dialect));
    let complete = statement(&plan.complete(dialect));
    let look = statement(&plan.look(dialect));
    let list_due = parts(&plan.list_due(dialect));
    let complete_many = batch(plan.complete_many(Locks::AsWritten, dialect));
    let settle = batch(plan.settle(Locks::AsWritten, dialect));
    let start = batch(plan.start(Locks::AsWritten, dialect));
    let extend = batch(plan.extend(Locks::AsWritten, dialect));
    let rescue = batch(plan.rescue(dialect));
    let list_ended = statement(&plan.list_ended(dialect));
    let has_ended = literal(dialect, &plan.and_lease_is_over(dialect));
    let set_aside = [false, true].map(|for_ever| statement(&plan.set_aside(for_ever, dialect)));
    let redrive = batch(plan.redrive(dialect));
    let list_dead = batch(plan.list_dead(dialect));
    let stats = parts(&plan.stats(dialect));
    let ddl = literal(dialect, &plan.ddl(dialect));
    let bind_key = bind_columns(&plan.keys);
    let reads = own_key(plan).value((0..plan.keys.len()).map(|index| {
        let index = Index::from(index);
        quote!(__rt::get(__row, #index)?)
    }));
    let fence = Index::from(plan.keys.len());
    let own = match dialect {
        Dialect::Postgres => {
            let binds = plan.keys.iter().enumerate().map(|(index, key)| {
                let (ty, field, index) = (&key.ty, key.place(), Index::from(index));
                let (to, rows) = (quote!(__to), quote!(__rows));
                quote_spanned! {ty.span()=>
                    #to.bind(#index, &__rt::queue::each::<_, #ty>(#rows, |__row| &__row.#field));
                }
            });
            let complete = parts(&plan.complete_many(Locks::InOrder, dialect));
            let settle = parts(&plan.settle(Locks::InOrder, dialect));
            let start = parts(&plan.start(Locks::InOrder, dialect));
            let extend = parts(&plan.extend(Locks::InOrder, dialect));
            let by_key = literal(dialect, &plan.by_key(dialect));
            quote! {
                const IN_ORDER: __rt::Option<[[&'static str; 3]; 4]> = __rt::Some([#complete, #settle, #start, #extend]);
                const BY_KEY: &'static str = #by_key;
                fn bind_keys(__rows: &[&Self], __to: &mut impl __rt::Bind<#database>) { #(#binds)* }
            }
        }
        Dialect::Sqlite => TokenStream::new(),
    };
    let has_index = plan.has_index(dialect).map(|sql| {
        let sql = literal(dialect, &sql);
        quote!(const HAS_INDEX: __rt::Option<&'static str> = __rt::Some(#sql);)
    });
    let order = order(plan);
    let further = [
        further_ddl(
            plan,
            dialect,
            "notify_ddl",
            plan.notify_ddl(dialect),
            "A trigger that wakes listening workers, once per statement that adds rows; for a migration. Without it they find the rows at their \
             next poll.",
        ),
        further_ddl(
            plan,
            dialect,
            "storage_ddl",
            plan.storage_ddl(dialect),
            "Table settings for a busy queue, for a migration; they replace the table's own. Half of each new page stays free, so that heartbeats \
             and counted attempts write no index; autovacuum runs after 1,000 dead rows and 2 % of the table instead of 20 %: each job leaves dead \
             rows.",
        ),
    ];
    let further: TokenStream = further.into_iter().flatten().collect();
    let further = (!further.is_empty()).then(|| quote!(impl #ident { #further }));
    let purge = purge_statements(plan, dialect);
    let pause = pause_statements(plan, dialect);
    let cancel = statement(&plan.cancel(dialect));
    let state_of = statement(&plan.state_of(dialect));
    let bind_given = given_key(plan).bind();
    let enqueue = enqueue::statements(plan, dialect);
    quote! {
        #[automatically_derived]
        impl __rt::queue::QueueSql<#database> for #ident {
            #read_row
            const COLUMNS: &'static [&'static str] = #columns;
            const CLAIM: &'static [&'static str] = &#claim;
            const LIST_DUE: &'static [&'static str] = &#list_due;
            #has_index
            const COMPLETE: &'static str = #complete;
            const LOOK: &'static str = #look;
            const COMPLETE_MANY: [&'static str; 2] = #complete_many;
            const SETTLE: [&'static str; 2] = #settle;
            const START: [&'static str; 2] = #start;
            const EXTEND: [&'static str; 2] = #extend;
            const RESCUE: [&'static str; 2] = #rescue;
            const LIST_ENDED: &'static str = #list_ended;
            const HAS_ENDED: &'static str = #has_ended;
            const SET_ASIDE: [&'static str; 2] = [#(#set_aside),*];
            const REDRIVE: [&'static str; 2] = #redrive;
            const LIST_DEAD: [&'static str; 2] = #list_dead;
            const STATS: [&'static str; 4] = #stats;
            const DDL: &'static str = #ddl;
            fn bind_key(&self, __to: &mut impl __rt::Bind<#database>) { #bind_key }
            fn read_claim(__row: &__rt::Row<#database>) -> __rt::Decoded<(Self::Key<'_>, __rt::Fence)> {
                __rt::Ok((#reads, __rt::get(__row, #fence)?))
            }
            fn order(&self, __other: &Self) -> __rt::queue::Ordering { #order }
            #own
        }
        #[automatically_derived]
        impl __rt::queue::CancelSql<#database> for #ident {
            const CANCEL: &'static str = #cancel;
            const STATE_OF: &'static str = #state_of;
            fn bind_given(__key: &Self::Key<'_>, __to: &mut impl __rt::Bind<#database>) { #bind_given }
        }
        #enqueue
        #purge
        #pause
        #further
    }
}

/// A function for what this database has besides the indexes.
fn further_ddl(
    plan: &Plan<'_>,
    dialect: Dialect,
    name: &str,
    sql: Option<String>,
    docs: &str,
) -> Option<TokenStream> {
    let sql = sql?;
    let name = name_at(name, plan.attempts.asked);
    let docs = format!("{docs}\n\n```sql\n{sql}```");
    let sql = literal(dialect, &sql);
    Some(quote! {
        #[doc = #docs]
        pub const fn #name() -> &'static str { #sql }
    })
}

fn purge_statements(plan: &Plan<'_>, dialect: Dialect) -> Option<TokenStream> {
    let ident = &plan.model.ident;
    let database = database(dialect);
    let ended_at = plan.ended_at()?;
    let both = |sql: [Statement; 2]| {
        let [done, ended] = sql.map(|sql| halves(&sql));
        quote!([[#(#done),*], [#(#ended),*]])
    };
    let purge = both([false, true].map(|dead| plan.purge(ended_at, dead, dialect)));
    let list_old = both([false, true].map(|dead| plan.list_old(ended_at, dead, dialect)));
    Some(quote! {
        #[automatically_derived]
        impl __rt::queue::PurgeSql<#database> for #ident {
            const PURGE: [[&'static str; 2]; 2] = #purge;
            const LIST_OLD: [[&'static str; 2]; 2] = #list_old;
        }
    })
}

fn pause_statements(plan: &Plan<'_>, dialect: Dialect) -> Option<TokenStream> {
    let ident = &plan.model.ident;
    let database = database(dialect);
    let pause = parts(&plan.pause(dialect)?);
    let resume = parts(&plan.resume(dialect)?);
    let pauses = statement(&plan.list_pauses(dialect)?);
    let columns = plan.model.columns.iter().enumerate();
    let columns = columns.filter(|(_, column)| column.filter);
    let filters = columns.map(|(index, column)| {
        let (name, index) = (&column.field, Index::from(index));
        quote!((#name, #index))
    });
    Some(quote! {
        #[automatically_derived]
        impl __rt::queue::PauseSql<#database> for #ident {
            const PAUSE: [&'static str; 3] = #pause;
            const RESUME: [&'static str; 2] = #resume;
            const PAUSES: &'static str = #pauses;
            const FILTERS: &'static [(&'static str, usize)] = &[#(#filters),*];
        }
    })
}

/// The order of claims in Rust: an UPDATE returns its rows in any order, and a claim can be two statements.
fn order(plan: &Plan<'_>) -> TokenStream {
    let priorities = plan.priorities();
    let priorities = priorities
        .iter()
        .map(|(column, first)| (*column, *first == Priority::HighestFirst));
    let others = std::iter::once(plan.run_at).chain(plan.keys.iter().copied());
    let terms =
        priorities
            .chain(others.map(|column| (column, false)))
            .map(|(column, descending)| {
                let (field, ty) = (column.place(), &column.ty);
                let (mine, other) = (quote!(&self.#field), quote!(&__other.#field));
                let (left, right) = if descending {
                    (other, mine)
                } else {
                    (mine, other)
                };
                quote_spanned!(ty.span()=> __rt::queue::Ord::cmp(#left, #right))
            });
    let mut terms: Vec<TokenStream> = terms.collect();
    let first = terms.remove(0);
    quote!(#first #(.then_with(|| #terms))*)
}
