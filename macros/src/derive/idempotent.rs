//! `#[derive(Idempotent)]`: requests that take effect once.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, GenericArgument, PathArguments, Type};

use super::versioned::missing_key;
use super::{
    Derive, KeyValue, Kind, Method, Output, STUB_DOC, assert_not_null, connection_name, database,
    for_backend, key_argument, knows, must_be_a_time, name_at, reads, report_missing, sql_doc,
    statement, stub_fields, stub_impl, stub_method,
};
use crate::attr::FieldAttrs;
use crate::diag::Diag;
use crate::lower::Attempted;
use crate::model::{Column, Flattened, LedgerRole, Model, Role, is_option};
use crate::options::FieldOption;
use crate::sql::Dialect;
use crate::sql::idempotent::Ledger;

pub(crate) struct Idempotent;

pub(crate) struct Plan<'m> {
    ledger: Ledger<'m>,
    /// What is inside the `Option`.
    outcome: &'m Type,
}

impl Derive for Idempotent {
    type Plan<'m> = Plan<'m>;
    const KIND: Option<Kind> = Some(Kind::Idempotent);

    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Plan<'m>> {
        let keys = model.keys();
        let mut complete = !keys.is_empty();
        if !complete && !attempted.has("key") {
            missing_key(model, diag);
        }
        let roles = [
            (
                model.ledger(LedgerRole::Fingerprint),
                FieldOption::Fingerprint,
            ),
            (model.ledger(LedgerRole::Outcome), FieldOption::Outcome),
            (model.ledger(LedgerRole::Lease), FieldOption::Lease),
            (model.ledger(LedgerRole::Finished), FieldOption::Finished),
            (model.fence(), FieldOption::Fence),
        ];
        for (column, option) in roles {
            complete &= column.is_some();
            if column.is_none() && !attempted.has(option.name()) {
                report_missing(model, option, diag);
            }
        }
        let [fingerprint, outcome, lease, finished, fence] = roles.map(|(column, _)| column);
        if let Some(finished) = finished {
            must_be_a_time(finished, diag);
        }
        // Fields whose role is missing would be reported again.
        if complete {
            creatable(model, diag);
        }
        let ledger = Ledger {
            model,
            keys,
            fingerprint: fingerprint?,
            outcome: outcome?,
            fence: fence?,
            lease: lease?,
            finished: finished?,
        };
        let outcome = inner_outcome(ledger.outcome, diag)?;
        Some(Plan { ledger, outcome })
    }

    fn expand(plan: &Plan<'_>) -> Output {
        let ledger = &plan.ledger;
        let ident = &ledger.model.ident;
        let methods = methods(plan);
        let facts = facts(plan);
        let reads = reads(ledger.model);
        let backends = ledger
            .model
            .backends
            .iter()
            .map(|dialect| for_backend(*dialect, &statements(ledger, *dialect)));
        let not_null = assert_not_null(
            &ledger.keys,
            "the key",
            "in SQL NULL is not equal to NULL, so such a row would never be found",
        );
        Output {
            items: TokenStream::new(),
            impls: quote! {
                impl #ident { #methods }
                #facts
                #reads
                #(#backends)*
                #not_null
            },
        }
    }

    fn stub(input: &DeriveInput) -> Output {
        let quiet = Diag::new();
        // What `once` yields is the one type that its callers go on with.
        let outcome = stub_fields(input)
            .unwrap_or_default()
            .into_iter()
            .find(|field| {
                let options = FieldAttrs::read(&field.attrs, &quiet);
                options.has(FieldOption::Outcome)
            })
            .map_or(quote!(()), |field| {
                let ty = &field.ty;
                let inner = inside_option(ty).unwrap_or(ty);
                quote!(#inner)
            });
        let _ = quiet.finish();
        let once = quote! {
            #[doc = #STUB_DOC]
            pub fn once<'__r, __DB: __rt::Backend, __E: '__r, __F>(
                __db: impl __rt::idempotent::Begins<Database = __DB>,
                __key: impl ::core::marker::Sized,
                __request: impl ::core::marker::Sized,
                __body: __F,
            ) -> __rt::idempotent::OnceCall<'__r, #outcome, __E>
            where
                __F: for<'__t> ::core::ops::AsyncFn(
                    &'__t mut __rt::idempotent::Tx<__DB>,
                ) -> __rt::Result<#outcome, __E>,
            {
                __rt::unreachable!()
            }
        };
        let purge = stub_method(
            &format_ident!("purge"),
            false,
            2,
            &quote!(u64, __rt::DatabaseError),
        );
        Output {
            items: TokenStream::new(),
            impls: stub_impl(input, &quote!(#once #purge)),
        }
    }
}

/// A call creates the row from its key and its request.
fn creatable(model: &Model, diag: &Diag) {
    for column in &model.columns {
        if column.key && column.generated {
            diag.error(
                &column.ident,
                format_args!(
                    "the key `{}` is generated by the database, so nobody could send it twice\n\
                     help: remove `generated`; the caller makes up the key",
                    column.field
                ),
            );
        }
        let has_value = column.key
            || column.generated
            || column.default
            || matches!(column.role, Role::Ledger(_) | Role::Fence)
            || is_option(&column.ty);
        if matches!(
            column.role,
            Role::Version | Role::Counter { .. } | Role::Queue(_)
        ) {
            diag.error(
                &column.ident,
                format_args!(
                    "`{}` does not belong in a ledger, whose rows are written by `once` and `start` alone\n\
                     help: keep it in a table of its own",
                    column.field
                ),
            );
        } else if !has_value {
            let key = match column.inside.first() {
                None => "it part of the key with `#[rowlock(key)]`".to_owned(),
                Some(Flattened { ident, .. }) => {
                    format!("all of `{ident}` part of the key: `#[rowlock(columns(…), key)]`")
                }
            };
            diag.error(
                &column.ident,
                format_args!(
                    "`once` creates the row, and then `{}` would have no value\n\
                     help: if the column has a default in the database, {},\n      \
                     or make {key}",
                    column.field,
                    column.marked(FieldOption::Default, &model.ident)
                ),
            );
        }
    }
}

/// The type inside the `Option` of the outcome.
///
/// It has to be written out: behind a projection such as `<Alias as Trait>::Inner` the compiler does not find the types of
/// the closure of `once`.
fn inner_outcome<'m>(column: &'m Column, diag: &Diag) -> Option<&'m Type> {
    let why = format!(
        "`{}` is the outcome, and there is none while an attempt is under way",
        column.field
    );
    let Some(inner) = inside_option(&column.ty) else {
        diag.error(
            &column.ty,
            format_args!(
                "{why}\nhelp: make the column nullable and write `Option<{}>`",
                compact(&column.ty)
            ),
        );
        return None;
    };
    if column.json && !column.json_nullable {
        diag.error(
            &column.ident,
            format_args!(
                "{why}\nhelp: write `#[sqlx(json(nullable))]`, so that sqlx reads NULL as `None`"
            ),
        );
        return None;
    }
    Some(inner)
}

fn inside_option(ty: &Type) -> Option<&Type> {
    let segment = match ty {
        Type::Path(path) => path.path.segments.last()?,
        Type::Group(group) => return inside_option(&group.elem),
        Type::Paren(paren) => return inside_option(&paren.elem),
        _ => return None,
    };
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return None;
    };
    match arguments.args.first()? {
        GenericArgument::Type(inner) if segment.ident == "Option" => Some(inner),
        _ => None,
    }
}

/// A type as one would write it.
fn compact(ty: &Type) -> String {
    ty.to_token_stream().to_string().replace(' ', "")
}

fn methods(plan: &Plan<'_>) -> TokenStream {
    let ledger = &plan.ledger;
    let model = ledger.model;
    let table = model.table.display();
    let asked = ledger
        .keys
        .first()
        .map_or(model.ident.span(), |key| key.asked);
    let db = connection_name(&[]);

    let once = name_at("once", asked);
    let key = key_argument(&ledger.keys, &quote!('__r));
    let given = own_key(ledger).given(&quote!(key));
    let outcome = &plan.outcome;
    let docs = format!(
        "Runs `body` in a transaction, or inside the given one, unless `{table}` has an outcome for this key, and stores what it returns; \
         otherwise returns what is stored. `.wait(...)` waits while another call is at work.\n\n{}\n\nthen the closure's statements, and\n\n{}\n\n\
         If the first statement claims nothing, another one says why:\n\n{}\n\n\
         Errors: `Mismatch`, `OtherFingerprint`, `KeyTaken`, `Request`, `MissingUniqueIndex`, `Ledger`, `Transaction`.\n\n\
         Cancel safety: if you drop the future, the transaction commits completely or not at all; call again with the same key to find out.",
        sql_doc(model, |dialect| ledger.claim(dialect)),
        sql_doc(model, |dialect| ledger.finish(dialect)),
        sql_doc(model, |dialect| ledger.read(dialect)),
    );
    let once = quote! {
        #[doc = #docs]
        pub fn #once<'__r, __DB: __rt::Backend, __E, __By, __F>(
            db: impl __rt::idempotent::Begins<Database = __DB, Place: '__r>,
            key: #key,
            request: &(impl __rt::idempotent::Request + ?::core::marker::Sized),
            body: __F,
        ) -> __rt::idempotent::OnceCall<'__r, #outcome, __E>
        where
            Self: __rt::idempotent::IdempotentSql<__DB>,
            __E: __rt::idempotent::FailureOf<__By> + __rt::Send + '__r,
            __By: '__r,
            __F: for<'__t> __rt::idempotent::Body<
                    &'__t mut __rt::idempotent::Tx<__DB>,
                    __rt::Result<#outcome, __E>,
                > + __rt::Send + ::core::marker::Sync + '__r,
        {
            __rt::idempotent::once::<__DB, Self, __E, __By, __F>(
                db,
                #given,
                __rt::idempotent::Digest::of::<Self>(request),
                body,
            )
        }
    };

    let start = name_at("start", asked);
    let key = key_argument(&ledger.keys, &quote!('__k));
    let docs = format!(
        "Claims the key in `{table}` for an attempt that works outside a transaction, until `lease` has passed. After that another attempt can \
         take over, and this one can no longer be finished.\n\n{}\n\n\
         Errors: `Mismatch`, `OtherFingerprint`, `KeyTaken`, `Request`, `MissingUniqueIndex`, `Unknown`, `Database`.\n\n\
         Cancel safety: if you drop the future, the key is claimed or not; if it is, it is free again after the lease.",
        sql_doc(model, |dialect| ledger.claim(dialect)),
    );
    let start = quote! {
        #[doc = #docs]
        pub fn #start<'__k, __DB: __rt::Backend>(
            pool: &__rt::idempotent::Pool<__DB>,
            key: #key,
            request: &(impl __rt::idempotent::Request + ?::core::marker::Sized),
            lease: ::core::time::Duration,
        ) -> impl __rt::Future<
            Output = __rt::Result<__rt::idempotent::Started<'__k, Self>, __rt::idempotent::StartError>,
        > + __rt::Send
        where
            Self: __rt::idempotent::IdempotentSql<__DB>,
        {
            let digest = __rt::idempotent::Digest::of::<Self>(request);
            __rt::idempotent::start::<__DB, Self>(pool, #given, digest, lease)
        }
    };

    let purge = Method {
        name: name_at("purge", asked),
        docs: format!(
            "Deletes the rows of `{table}` that finished longer ago than `age`, and returns how many. A request that comes again afterwards runs \
             again.\n\n{}\n\nErrors: the database's.\n\n\
             Cancel safety: one statement; if you drop the future, it takes effect completely or not at all.",
            sql_doc(model, |dialect| ledger.purge(dialect))
        ),
        receiver: quote!(),
        key: &[],
        db: db.clone(),
        arguments: quote!(age: ::core::time::Duration),
        output: quote!(u64, __rt::DatabaseError),
        bound: quote!(__rt::idempotent::IdempotentSql<__DB>),
        body: quote!(__rt::idempotent::purge::<__DB, Self>(#db, age)),
    }
    .tokens();
    quote!(#once #start #purge)
}

fn own_key<'l>(ledger: &'l Ledger<'_>) -> KeyValue<'l> {
    KeyValue::borrowed(ledger.model, &ledger.keys, "__Key")
}

/// What does not depend on the database.
fn facts(plan: &Plan<'_>) -> TokenStream {
    let ledger = &plan.ledger;
    let model = ledger.model;
    let ident = &model.ident;
    let mut columns: Vec<&str> = ledger.keys.iter().map(|key| key.name.as_str()).collect();
    columns.sort_unstable();
    let columns = columns.join(",");
    let key = own_key(ledger);
    let key_struct = key.definition(&["Clone"]);
    let knows = knows(model, &quote!(__rt::idempotent::Derive), &key, &quote!());
    let outcome = &plan.outcome;
    quote! {
        #key_struct
        #knows
        #[automatically_derived]
        impl __rt::idempotent::Idempotent for #ident {
            type Outcome = #outcome;
            const KEY_COLUMNS: &'static str = #columns;
        }
    }
}

/// The statements for one database.
fn statements(ledger: &Ledger<'_>, dialect: Dialect) -> TokenStream {
    let ident = &ledger.model.ident;
    let database = database(dialect);
    let claim = statement(&ledger.claim(dialect));
    let read = statement(&ledger.read(dialect));
    let finish = statement(&ledger.finish(dialect));
    let release = statement(&ledger.release(dialect));
    let extend = statement(&ledger.extend(dialect));
    let purge = statement(&ledger.purge(dialect));
    let bind_key = own_key(ledger).bind();
    let fingerprint = &ledger.fingerprint.ty;
    let (digest, to) = (quote!(__digest), quote!(__to));
    let bind_fingerprint = quote_spanned! {fingerprint.span()=>
        #to.bind(0, &<#fingerprint as __rt::idempotent::Fingerprint>::from_digest(#digest));
    };
    let (bind_outcome, outcome) = if ledger.outcome.json {
        (
            quote!(__to.bind(0, &__rt::sqlx::types::Json(__value));),
            quote!(__rt::Ok(
                __rt::get::<_, __rt::sqlx::types::Json<_>>(__row, 1)?.0
            )),
        )
    } else {
        (
            quote!(__to.bind(0, __value);),
            quote!(__rt::get_some(__row, 1)),
        )
    };
    quote! {
        #[automatically_derived]
        impl __rt::idempotent::IdempotentSql<#database> for #ident {
            const CLAIM: &'static str = #claim;
            const READ: &'static str = #read;
            const FINISH: &'static str = #finish;
            const RELEASE: &'static str = #release;
            const EXTEND: &'static str = #extend;
            const PURGE: &'static str = #purge;
            fn bind_key(__key: &Self::Key<'_>, __to: &mut impl __rt::Bind<#database>) { #bind_key }
            fn bind_fingerprint(
                __digest: &__rt::idempotent::Digest,
                __to: &mut impl __rt::Bind<#database>,
            ) {
                #bind_fingerprint
            }
            fn bind_outcome(__value: &Self::Outcome, __to: &mut impl __rt::Bind<#database>) {
                #bind_outcome
            }
            fn outcome(__row: &__rt::Row<#database>) -> __rt::Decoded<Self::Outcome> { #outcome }
        }
    }
}
