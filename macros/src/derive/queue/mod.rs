//! `#[derive(Queue)]`: rows that one worker at a time works on.

mod enqueue;
mod methods;
mod rules;
mod statements;
mod stub;

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Index};

use self::methods::methods;
use self::rules::{per, states};
use self::statements::statements;
use super::versioned::missing_key;
use super::{
    Derive, KeyValue, Kind, Output, array_keys, assert_not_null, fence, for_backend, knows,
    position, reads, report_missing,
};
use crate::diag::Diag;
use crate::lower::Attempted;
use crate::model::{Column, LedgerRole, Model, QueueRole, Role, is_option};
use crate::options::FieldOption;
use crate::sql::queue::{self as sql, Queue as Plan};

/// The plan of a model if it is a queue. What that lacks its own derive reports.
#[cfg(feature = "schema")]
pub(crate) fn quiet_plan(model: &Model) -> Option<Plan<'_>> {
    let quiet = Diag::new();
    let plan = model
        .is_queue()
        .then(|| Queue::plan(model, &Attempted::default(), &quiet));
    quiet.finish().ok().and(plan?)
}

/// After so many attempts a job is dead, unless the attribute says otherwise.
const MAX_ATTEMPTS: i64 = 20;

pub(crate) struct Queue;

impl Derive for Queue {
    type Plan<'m> = Plan<'m>;
    const KIND: Option<Kind> = Some(Kind::Queue);

    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Plan<'m>> {
        let keys = model.keys();
        if keys.is_empty() && !attempted.has("key") {
            missing_key(model, diag);
        }
        array_keys(model, &keys, diag);
        let attempts = model.queue(|role| matches!(role, QueueRole::Attempts { .. }));
        let states = states(model, attempted, diag);
        let roles = [
            (
                model.queue(|role| role == QueueRole::RunAt),
                FieldOption::RunAt,
            ),
            (attempts, FieldOption::Attempts),
            (model.fence(), FieldOption::Fence),
            (model.ledger(LedgerRole::Lease), FieldOption::Lease),
        ];
        for (column, option) in roles {
            if column.is_none() && !attempted.has(option.name()) {
                report_missing(model, option, diag);
            }
        }
        let [run_at, attempts, fence, lease] = roles.map(|(column, _)| column);
        if let Some(lease) = lease
            && !is_option(&lease.ty)
        {
            diag.error(
                &lease.ty,
                format_args!(
                    "`{}` is the end of a lease, and a row that nobody has claimed has none\n\
                     help: make the column nullable and write `Option<...>`",
                    lease.field
                ),
            );
        }
        let attempts = attempts?;
        let max_attempts = match attempts.role {
            Role::Queue(QueueRole::Attempts { max }) => max.unwrap_or(MAX_ATTEMPTS),
            _ => MAX_ATTEMPTS,
        };
        Some(Plan {
            model,
            keys: (!keys.is_empty()).then_some(keys)?,
            states: states?,
            run_at: run_at?,
            attempts,
            fence: fence?,
            lease: lease?,
            last_error: model.queue(|role| role == QueueRole::LastError),
            finished: model.ledger(LedgerRole::Finished),
            per: per(model, attempted, diag),
            max_attempts,
        })
    }

    fn expand(plan: &Plan<'_>) -> Output {
        let ident = &plan.model.ident;
        let methods = methods(plan);
        let facts = facts(plan);
        let new = enqueue::impls(plan);
        let reads = reads(plan.model);
        let backends = plan
            .model
            .backends
            .iter()
            .map(|dialect| for_backend(*dialect, &statements(plan, *dialect)));
        let mut not_null = vec![plan.attempts];
        // As an `Option` it says that NULL is meant.
        not_null.extend(Some(plan.run_at).filter(|run_at| !is_option(&run_at.ty)));
        not_null.extend(&plan.keys);
        let not_null = assert_not_null(
            &not_null,
            "a key, a time or a count of a queue",
            "in SQL NULL is not equal to NULL, so such a row would never be found",
        );
        Output {
            items: enqueue::items(plan),
            impls: quote! {
                impl #ident { #methods }
                #new
                #facts
                #reads
                #(#backends)*
                #not_null
            },
        }
    }
    fn stub(input: &DeriveInput) -> Output {
        stub::stub(input)
    }
}

/// What does not depend on the database.
fn facts(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let ident = &model.ident;
    let max_attempts = plan.max_attempts;
    let channel = plan.channel();
    let key = own_key(plan);
    let key_struct = key.definition(&["PartialEq"]);
    let knows = knows(model, &quote!(__rt::queue::Derive), &key, &fence(model));
    let key_of = key.of(&quote!(self));
    let place = |column: &Column| {
        let mut columns = model.columns.iter();
        columns
            .position(|other| other.name == column.name)
            .unwrap_or_default()
    };
    let key = plan.keys.iter().map(|key| {
        let condition = sql::is_key(key);
        let name = &key.field;
        let place = Index::from(place(key));
        quote!((#name, #condition, #place))
    });
    let places = [plan.fence, plan.attempts].map(|column| Index::from(place(column)));
    let given = given_key(plan);
    let given_struct = given.definition(&[]);
    let knows_given = super::knows(model, &quote!(__rt::queue::Given), &given, &quote!());
    let has_last_error = plan.last_error.is_some();
    let (attempts, attempts_ty) = (&plan.attempts.ident, &plan.attempts.ty);
    let per = plan.per.as_ref().map(|per| {
        let after = sql::after(per.column);
        let place = position(model, per.column);
        let (index, _) = plan.one_running(per);
        quote! {
            const PER: __rt::Option<__rt::queue::Per> =
                __rt::Some(__rt::queue::Per { after: #after, place: #place, index: #index });
        }
    });
    let this = quote!(self);
    let count = quote!(self.#attempts = self.#attempts.saturating_add(1););
    let attempts = quote_spanned! {attempts_ty.span()=>
        <#attempts_ty as __rt::VersionNumber>::to_i64(#this.#attempts)
    };
    quote! {
        #key_struct
        #knows
        #given_struct
        #knows_given
        #[automatically_derived]
        impl __rt::queue::Queue for #ident {
            const MAX_ATTEMPTS: i64 = #max_attempts;
            const CHANNEL: &'static str = #channel;
            const KEY: &'static [(&'static str, &'static str, usize)] = &[#(#key),*];
            const PLACES: [usize; 2] = [#(#places),*];
            const HAS_LAST_ERROR: bool = #has_last_error;
            #per
            fn attempts(&self) -> i64 { #attempts }
            fn count(&mut self) { #count }
            fn key(&self) -> Self::Key<'_> { #key_of }
        }
    }
}

/// A key as it is read.
fn own_key<'p>(plan: &'p Plan<'_>) -> KeyValue<'p> {
    KeyValue::owned(plan.model, &plan.keys, "__Key")
}

/// A key as a caller gives it.
fn given_key<'p>(plan: &'p Plan<'_>) -> KeyValue<'p> {
    KeyValue::borrowed(plan.model, &plan.keys, "__GivenKey")
}
