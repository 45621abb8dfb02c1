//! What can be called.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use super::{enqueue, given_key};
use crate::derive::guarded::field;
use crate::derive::{
    Method, connection_name, key_argument, key_lifetime, name_at, sql_doc, text_doc,
};
use crate::sql::queue::Queue as Plan;
use crate::sql::{Dialect, Statement};

pub(super) fn methods(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let asked = plan.attempts.asked;

    let claim = name_at("claim", asked);
    let docs = format!(
        "Claims up to `limit` rows of `{table}` that are due, for one minute or the given `.lease(...)`, and returns them in due order. A claim \
         counts as an attempt (`$3` is 1). A row that does not fit the model, or that the \
         database refuses to write, is put off and holds up no other.\n\n{}\n\n\
         If that yields fewer rows, it looks for rows that it could not write, then runs `rescue`, and claims again if that took back any.\n\n\
         Errors: `Serialization`, `Unknown`, `Database`.\n\n\
         Cancel safety: if you drop the future, rows may have been claimed; they come back after their leases.",
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
        "A worker for the rows of `{table}`: it claims, runs a handler for each row, finishes, renews the leases, and takes back the rows of dead \
         workers. Nothing happens before its `run`."
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
            "Takes back the rows of `{table}` whose leases have ended: a row with attempts left is ready again, any other is dead. A row that the \
             database refuses to make ready is dead too, and does not affect the others. \
             `claim` and workers call it themselves.\n\n{}\n\nErrors: the database's.\n\n\
             Cancel safety: one statement; if you drop the future, it takes effect completely or not at all.",
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
        "The indexes that the statements on `{table}` need; for a migration. Running it again changes nothing.\n\n{}",
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
            "Gives up the job of `{table}` with this key, if it is ready or running: it becomes dead, and a claim that holds it is lost: its \
             holder cannot finish it (`LeaseLost`); a worker drops its handler at the next `.await` after the next heartbeat, within a third of \
             the lease. \
             A job that has ended stays as it is. On PostgreSQL it waits for a transaction that has the row locked; that of a `complete_in` \
             decides.\n\n{}\n\n\
             If that finds no such job, one more statement finds out why.\n\n\
             Errors: the database's; `Fault::Raised` if a trigger drops the write. After any error you can call it again.\n\n\
             Cancel safety: if you drop the future, the statement takes effect completely or not at all.",
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
            "Deletes the rows of `{table}` that were done longer ago than `older_than`, by the database's clock, and returns how many; \
             with `.dead()` dead ones too. Each statement deletes up to 1,000 rows, or `.batch(rows)`, so that on a pool no \
             lock is held for long. It skips rows without a time and, on PostgreSQL, locked rows.\n\n{}\n\n\
             Errors: the database's. A row that it does not let be deleted holds up no other: the others are deleted, and then the first such \
             error is returned.\n\n\
             Cancel safety: if you drop the future, the batches up to then are deleted, the last one completely or not at all.",
            sql_doc(model, |dialect| plan.purge(ended_at, false, dialect))
        ),
        None => format!(
            "Not callable: `{table}` has no `finished` column, or the queue deletes done jobs."
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
                "{text}\n\n{sql}\n\nCancel safety: one statement; if you drop the future, it takes effect completely or not at all."
            )
        }
        None => {
            format!("Not callable: the queue of `{table}` has no table of `pauses`.")
        }
    };
    let pause_docs = docs(
        "Gives out no more jobs, or none of those of `.only(...)`, by a row of `PAUSES`: a claim that begins after this returns, or after the \
         caller's transaction commits, returns none of them. Claimed jobs go on. Returns whether the pause is new.\n\n\
         Errors: `Null`, `GivenTwice`, `NotAFilter`, `Database`.",
        &|dialect| plan.pause(dialect),
    );
    let resume_docs = docs(
        "Ends the pause of all jobs, or the one of exactly these `.only(...)`. Other pauses stay, even of the same jobs. Returns whether there was \
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

fn redrive(plan: &Plan<'_>) -> TokenStream {
    let model = plan.model;
    let table = model.table.display();
    let name = name_at("redrive", plan.attempts.asked);
    let docs = format!(
        "Makes the dead rows of `{table}` ready again, due at once and with all their attempts; all of them, or those of `.only(...)` and up to \
         `.limit(rows)`. Their last error stays. On PostgreSQL it skips locked rows.\n\n{}\n\n\
         A row that the database does not let be ready stays dead and holds up no other: each is then written in a statement of its own. In a \
         transaction of yours it is an error of all.\n\n\
         Errors: the database's.\n\n\
         Cancel safety: one statement; if you drop the future, it takes effect completely or not at all. If the database refuses a row, \
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
        "How many rows of `{table}` are ready, due, running, overdue and dead, and how long the oldest has been due; of all, or of those of \
         `.only(...)`. It reads the indexes of `ddl`, and no done row.\n\n{}\n\n\
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
