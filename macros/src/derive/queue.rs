//! `#[derive(Queue)]`: rows that one worker at a time works on.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Index, parse_quote};

use super::enqueue;
use super::guarded::{column_names, field, stub_constants};
use super::versioned::missing_key;
use super::{
    Derive, KeyValue, Method, Output, STUB_DOC, array_keys, assert_not_null, bind_columns,
    connection_name, database, fence, for_backend, halves, key_argument, key_lifetime, knows,
    literal, must_be_a_time, name_at, parts, position, read_row, reads, report_missing, sql_doc,
    statement, stub_impl, stub_method, text_doc,
};
use crate::diag::Diag;
use crate::lower::Attempted;
use crate::model::{
    Column, LedgerRole, Model, Priority, QueueRole, Role, inside_option, is_bool, is_option,
    last_segment,
};
use crate::options::FieldOption;
use crate::sql::queue::{self as sql, Locks, Per, Queue as Plan, Stored};
use crate::sql::{Dialect, Statement};

/// After so many attempts a job is dead, unless the attribute says otherwise.
const MAX_ATTEMPTS: i64 = 20;

pub(crate) struct Queue;

impl Derive for Queue {
    type Plan<'m> = Plan<'m>;

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
}

/// What limits the running jobs.
fn per<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Per<'m>> {
    let per = model.columns.iter().find(|column| column.per.is_some());
    let sequence = model.columns.iter().find(|column| column.sequence);
    let slot = model.queue(|role| role == QueueRole::Slot);
    let max = per.and_then(|per| per.per).unwrap_or(1);
    if let (None, Some(alone)) = (per, sequence.or(slot)) {
        diag.error(
            &alone.ident,
            format_args!(
                "`{}` is about jobs that belong together, and no field says which do\n\
                 help: mark the field that says it with `#[rowlock(per)]`",
                alone.field
            ),
        );
    }
    let per = per?;
    if !model.backends.iter().all(|dialect| dialect.orders_times()) {
        for column in [Some(per), sequence].into_iter().flatten() {
            if is_time(&column.ty) {
                diag.error(
                    &column.ty,
                    format_args!(
                        "`{}` is a time, which SQLite stores as a text of one form or another: equal ones differ, and their order is that of the texts\n\
                         help: take a number or a text, or leave SQLite out: `#[rowlock(backend(Postgres))]`",
                        column.field
                    ),
                );
            }
        }
    }
    match (max, sequence, slot) {
        (_, Some(sequence), _) if is_option(&per.ty) => diag.error(
            &per.ty,
            format_args!(
                "`{}` can be NULL, and such a job has no place in the order of `{}`\n\
                 help: make the column NOT NULL, or leave out `sequence`",
                per.field, sequence.field
            ),
        ),
        (2.., Some(sequence), _) => diag.error(
            &sequence.ident,
            format_args!(
                "`{}` is a strict order, and {max} jobs of one `{}` may be running at a time\n\
                 help: leave out `max`, or `sequence`",
                sequence.field, per.field
            ),
        ),
        (2.., None, None) if !attempted.has(FieldOption::Slot.name()) => {
            report_missing(model, FieldOption::Slot, diag);
        }
        (..2, _, Some(slot)) => diag.error(
            &slot.ident,
            format_args!(
                "`{}` numbers the running jobs of one `{}`, and there is one at a time\n\
                 help: leave it out, or allow more: `#[rowlock(per(max = 3))]`",
                slot.field, per.field
            ),
        ),
        _ => {}
    }
    Some(Per {
        column: per,
        max,
        slot,
        sequence,
    })
}

/// As far as the name of a type tells.
fn is_time(ty: &syn::Type) -> bool {
    const TIMES: &[&str] = &[
        "DateTime",
        "NaiveDate",
        "NaiveDateTime",
        "NaiveTime",
        "OffsetDateTime",
        "PrimitiveDateTime",
    ];
    let inner = inside_option(ty).unwrap_or(ty);
    last_segment(inner).is_some_and(|name| TIMES.contains(&name.as_str()))
}

/// Where the states are: in a column of theirs, or in the times of the ends.
fn states<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Stored<'m>> {
    let state = model.queue(|role| role == QueueRole::State);
    let dead = model.queue(|role| role == QueueRole::Dead);
    match (state, dead) {
        (Some(state), Some(dead)) => diag.error(
            &dead.ident,
            format_args!(
                "`{}` says when a job was given up, and `{}` has its state\nhelp: keep one of them; the time of each end is `#[rowlock(finished)]`",
                dead.field, state.field
            ),
        ),
        (Some(state), None) => {
            if let Some(finished) = model.ledger(LedgerRole::Finished) {
                must_be_a_time(finished, diag);
            }
            return Some(Stored::Column(state));
        }
        (None, None) if !attempted.has(FieldOption::State.name()) => {
            report_missing(model, FieldOption::State, diag);
        }
        (None, Some(_)) if !ends(model) && !attempted.has(FieldOption::Finished.name()) => {
            report_missing(model, FieldOption::Finished, diag);
        }
        (None, Some(dead)) => {
            for end in model.ledger(LedgerRole::Finished).into_iter().chain([dead]) {
                if inside_option(&end.ty).is_some_and(is_bool) {
                    diag.error(
                        &end.ty,
                        format_args!(
                            "`{}` says that a job has ended, and NULL says neither yes nor no\n\
                             help: make the column NOT NULL DEFAULT false and write `bool`",
                            end.field
                        ),
                    );
                }
            }
            if !is_option(&dead.ty) && !is_bool(&dead.ty) {
                diag.error(
                    &dead.ty,
                    format_args!(
                        "`{}` is when a job was given up, and most never are\n\
                         help: make the column nullable and write `Option<...>`",
                        dead.field
                    ),
                );
            }
            return Some(Stored::Times { dead });
        }
        (None, None) => {}
    }
    None
}

/// Whether a job that is done can be told from others without a state.
fn ends(model: &Model) -> bool {
    model.deletes_done || model.ledger(LedgerRole::Finished).is_some()
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

fn methods(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let asked = plan.attempts.asked;

    let claim = name_at("claim", asked);
    let docs = format!(
        "Claims up to `limit` rows of `{table}` that are due, for a minute or the `.lease(...)` that is asked for, and returns them in \
         the order in which they are due. A claim counts as an attempt (`$3` is 1). A row that does not fit the model, or that the \
         database refuses to write, is put off and keeps no other.\n\n{}\n\n\
         If that yields fewer rows, it looks for rows that it could not write, `rescue` runs after it, and the claim again if that took \
         back any.\n\n\
         Errors: `Serialization`, `Unknown`, `Database`.\n\n\
         Cancel safety: if the future is dropped, rows may have been claimed; they come back when their leases have ended.",
        sql_doc(model, |dialect| plan.claim(dialect))
    );
    let claim = quote! {
        #[doc = #docs]
        pub fn #claim<'__c, __DB: __rt::Backend, __A>(
            db: __A,
            limit: usize,
        ) -> __rt::Claim<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::QueueSql<__DB>,
        {
            __rt::queue::claim(db, limit)
        }
    };

    let worker = name_at("worker", asked);
    let docs = format!(
        "A worker for the rows of `{table}`: claims, runs a handler for each row, finishes, keeps the leases up, takes back the rows of \
         workers that died. Nothing happens before its `run`."
    );
    let worker = quote! {
        #[doc = #docs]
        pub fn #worker<__DB: __rt::Backend>(
            pool: &__rt::queue::Pool<__DB>,
        ) -> __rt::Worker<__DB, Self>
        where
            Self: __rt::queue::QueueSql<__DB>,
        {
            __rt::queue::worker(pool)
        }
    };

    let db = connection_name(&[]);
    let rescue = Method {
        name: name_at("rescue", asked),
        docs: format!(
            "Takes back the rows of `{table}` whose leases have ended: a row that has attempts left is ready again, any other is dead. \
             A row that the database refuses to make ready is dead as well, and the others are taken back all the same. \
             `claim` and workers do that by themselves.\n\n{}\n\nErrors: the database's.\n\n\
             Cancel safety: one statement; if the future is dropped it was executed completely or not at all.",
            sql_doc(model, |dialect| plan.rescue(dialect))
        ),
        receiver: quote!(),
        key: &[],
        db: db.clone(),
        arguments: quote!(),
        output: quote!(__rt::Rescued, __rt::DatabaseError),
        bound: quote!(__rt::queue::QueueSql<__DB>),
        body: quote!(__rt::queue::rescue::<__DB, Self>(#db)),
    }
    .tokens();

    let cancel = cancel(plan);
    let pause = pause(plan);
    let purge = purge(plan);
    let redrive = redrive(plan);
    let stats = stats(plan);

    let ddl = name_at("ddl", asked);
    let docs = format!(
        "The indexes that the statements on `{table}` need, and on PostgreSQL the settings of the table; for a migration. Running it \
         again changes nothing.\n\n{}",
        text_doc(model, |dialect| plan.ddl(dialect))
    );
    let ddl = quote! {
        #[doc = #docs]
        pub fn #ddl<__DB: __rt::Backend>() -> &'static str
        where
            Self: __rt::queue::QueueSql<__DB>,
        {
            <Self as __rt::queue::QueueSql<__DB>>::DDL
        }
    };

    let filters = model.columns.iter().enumerate();
    let filters = filters.filter(|(_, column)| column.filter).map(field);
    let enqueue = enqueue::methods(plan);
    quote!(#(#filters)* #enqueue #claim #worker #rescue #cancel #pause #purge #redrive #stats #ddl)
}

fn cancel(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let keys = &plan.keys;
    let table = model.table.display();
    let key = key_argument(keys, &key_lifetime(keys));
    let given = given_key(plan).given(&quote!(key));
    Method {
        name: name_at("cancel", plan.attempts.asked),
        docs: format!(
            "Gives up the job of `{table}` with this key, if it is ready or running: it is dead, and a claim that holds it holds no more. Whoever works \
             on it cannot finish it (`LeaseLost`); a worker drops its handler at the next `.await` after the next heartbeat, within a third of the lease. \
             One that has ended stays as it is. On PostgreSQL it waits for a transaction that has the row locked, and that of a `complete_in` decides.\n\n{}\n\n\
             If that finds no such job, one more statement looks why.\n\n\
             Errors: the database's; `Fault::Raised` if a trigger drops the write. After any it can be called again.\n\n\
             Cancel safety: if the future is dropped, the statement was executed completely or not at all.",
            sql_doc(model, |dialect| plan.cancel(dialect))
        ),
        receiver: quote!(),
        key: keys,
        db: connection_name(&[]),
        arguments: quote!(key: #key),
        output: quote!(__rt::Cancelled, __rt::DatabaseError),
        bound: quote!(__rt::queue::CancelSql<__DB>),
        body: quote!(__rt::queue::cancel::<__DB, Self>(db, #given)),
    }
    .tokens()
}

/// Also without the statements: then their trait says what is missing.
fn purge(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let name = name_at("purge", plan.attempts.asked);
    let docs = match plan.ended_at() {
        Some(ended_at) => format!(
            "Deletes the rows of `{table}` that were done longer ago than `older_than`, by the clock of the database, and returns how many; \
             with `.dead()` those that are dead as well. Each statement deletes up to 1,000 rows, or `.batch(rows)`, so that on a pool no \
             lock is held for long. It leaves rows without a time and, on PostgreSQL, rows that are locked.\n\n{}\n\n\
             Errors: the database's. A row that it does not let be deleted keeps no other: they are deleted, and then the first such error \
             is returned.\n\n\
             Cancel safety: if the future is dropped, the batches up to then are deleted, the last one completely or not at all.",
            sql_doc(model, |dialect| plan.purge(ended_at, false, dialect))
        ),
        None => format!(
            "Nothing that can be called: `{table}` has no `finished` column, or the queue deletes what is done."
        ),
    };
    quote! {
        #[doc = #docs]
        pub fn #name<'__c, __DB: __rt::Backend, __A>(
            db: __A,
            older_than: ::core::time::Duration,
        ) -> __rt::Purge<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::PurgeSql<__DB>,
        {
            __rt::queue::purge(db, older_than)
        }
    }
}

/// Also without the statements, the first of them: then their trait says what is missing.
fn pause(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let name = |name| name_at(name, plan.attempts.asked);
    let docs = |text: &str, sql: &dyn Fn(Dialect) -> Option<Statement>| match &model.pauses {
        Some(pauses) => {
            let sql = text_doc(model, |dialect| {
                sql(dialect).map_or_else(String::new, |statement| statement.shown())
            });
            let text = text.replace("PAUSES", &pauses.display());
            format!(
                "{text}\n\n{sql}\n\nCancel safety: one statement; if the future is dropped it was executed completely or not at all."
            )
        }
        None => {
            format!("Nothing that can be called: the queue of `{table}` has no table of `pauses`.")
        }
    };
    let pause_docs = docs(
        "Gives out no more jobs, or none of those that `.only(...)` says, by a row of `PAUSES`: a claim that begins after it has returned, or after the commit of \
         the caller's transaction, yields none of them. What is claimed already goes on. Returns whether there was no such pause yet.\n\n\
         Errors: `Null`, `GivenTwice`, `NotAFilter`, `Database`.",
        &|dialect| plan.pause(dialect),
    );
    let resume_docs = docs(
        "Ends the pause of all jobs, or the one of exactly these `.only(...)`. Other pauses stay, also if they are about the same jobs. Returns whether there was \
         such a pause.\n\nErrors: `Null`, `GivenTwice`, `NotAFilter`, `Database`.",
        &|dialect| plan.resume(dialect),
    );
    let methods = [("pause", pause_docs), ("resume", resume_docs)].map(|(method, docs)| {
        let (method, call) = (name(method), format_ident!("{method}"));
        quote! {
            #[doc = #docs]
            pub fn #method<'__c, __DB: __rt::Backend, __A>(
                db: __A,
            ) -> __rt::Pause<'__c, __DB, Self, __A>
            where
                __A: __rt::Source<'__c, __DB> + '__c,
                Self: __rt::queue::PauseSql<__DB>,
            {
                __rt::queue::#call(db)
            }
        }
    });
    let list = Method {
        name: name("pauses"),
        docs: docs(
            "All pauses, the oldest first.\n\nErrors: the database's.",
            &|dialect| plan.list_pauses(dialect),
        ),
        receiver: quote!(),
        key: &[],
        db: connection_name(&[]),
        arguments: quote!(),
        output: quote!(__rt::Vec<__rt::Paused>, __rt::DatabaseError),
        bound: quote!(__rt::queue::PauseSql<__DB>),
        body: quote!(__rt::queue::pauses::<__DB, Self>(db)),
    }
    .tokens();
    let [pause, resume] = methods;
    let others = model.pauses.is_some().then(|| quote!(#resume #list));
    quote!(#pause #others)
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

fn redrive(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let name = name_at("redrive", plan.attempts.asked);
    let docs = format!(
        "Makes the dead rows of `{table}` ready again, due at once and with all their attempts; all of them, or those of `.only(...)` and up to \
         `.limit(rows)`. What their last error was stays. On PostgreSQL it leaves rows that are locked.\n\n{}\n\n\
         A row that the database does not let be ready stays dead and keeps no other: then each is written by a statement of its own. In a \
         transaction of yours it is the error of all.\n\n\
         Errors: the database's.\n\n\
         Cancel safety: one statement; if the future is dropped it was executed completely or not at all. If the database refuses a row, \
         it is one for each row.",
        sql_doc(model, |dialect| plan.redrive(dialect))
    );
    quote! {
        #[doc = #docs]
        pub fn #name<'__c, __DB: __rt::Backend, __A>(
            db: __A,
        ) -> __rt::Redrive<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::QueueSql<__DB>,
        {
            __rt::queue::redrive(db)
        }
    }
}

fn stats(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let name = name_at("stats", plan.attempts.asked);
    let docs = format!(
        "How many rows of `{table}` are ready, due, running, overdue and dead, and for how long the oldest has been due; of all, or of those of \
         `.only(...)`. It reads the indexes of `ddl`, and no row that is done.\n\n{}\n\n\
         Errors: the database's.\n\n\
         Cancel safety: a read.",
        sql_doc(model, |dialect| plan.stats(dialect))
    );
    quote! {
        #[doc = #docs]
        pub fn #name<'__c, __DB: __rt::Backend, __A>(
            db: __A,
        ) -> __rt::ReadStats<'__c, __DB, Self, __A>
        where
            __A: __rt::Source<'__c, __DB> + '__c,
            Self: __rt::queue::QueueSql<__DB>,
        {
            __rt::queue::stats(db)
        }
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

/// The statements for one database.
fn statements(plan: &Plan<'_>, dialect: Dialect) -> TokenStream {
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
            let complete = batch(plan.complete_many(Locks::InOrder, dialect));
            let settle = batch(plan.settle(Locks::InOrder, dialect));
            let start = batch(plan.start(Locks::InOrder, dialect));
            let extend = batch(plan.extend(Locks::InOrder, dialect));
            quote! {
                const IN_ORDER: __rt::Option<[[&'static str; 2]; 4]> = __rt::Some([#complete, #settle, #start, #extend]);
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
    let notify = plan.notify_ddl(dialect).map(|sql| {
        let name = name_at("notify_ddl", plan.attempts.asked);
        let docs = format!(
            "A trigger that wakes the workers which listen, once per statement that adds rows; for a migration. Without it \
             they find the rows when they next look.\n\n```sql\n{sql}```"
        );
        let sql = literal(dialect, &sql);
        quote! {
            impl #ident {
                #[doc = #docs]
                pub const fn #name() -> &'static str { #sql }
            }
        }
    });
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
        #notify
    }
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
