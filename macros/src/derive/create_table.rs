//! `#[derive(CreateTable)]`: the statements that make the table.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::DeriveInput;

use super::{
    Derive, Kind, Output, STUB_DOC, database, for_backend, literal, quiet_plan, stub_impl, text_doc,
};
use crate::diag::Diag;
use crate::lower::Attempted;
use crate::model::{Column, Model, shown};
use crate::sql::create_table::{Unknown, create_table, definition};
use crate::sql::queue::Queue;

pub(crate) struct CreateTable;

pub(crate) struct Plan<'m> {
    model: &'m Model,
    queue: Option<Queue<'m>>,
}

impl Derive for CreateTable {
    type Plan<'m> = Plan<'m>;
    const KIND: Option<Kind> = None;

    fn plan<'m>(model: &'m Model, _: &Attempted, diag: &Diag) -> Option<Plan<'m>> {
        for column in model.columns.iter().filter(|column| !column.is_xmin()) {
            let mut backends = model.backends.iter();
            let unknown = backends.find_map(|dialect| definition(model, column, *dialect).err());
            if let Some(unknown) = unknown {
                report(model, column, unknown, diag);
            }
        }
        Some(Plan {
            model,
            queue: quiet_plan(model),
        })
    }

    fn expand(plan: &Plan<'_>) -> Output {
        let Plan { model, queue } = plan;
        let ident = &model.ident;
        let text = |dialect| create_table(model, queue.as_ref(), dialect);
        let docs = format!(
            "Statements that make `{}` and its indexes; for a migration or a test. Running them again changes nothing, in a table that is there neither.\n\n{}",
            model.table.display(),
            text_doc(model, text)
        );
        let backends = model.backends.iter().map(|dialect| {
            let (database, sql) = (database(*dialect), literal(*dialect, &text(*dialect)));
            let code = quote! {
                #[automatically_derived]
                impl __rt::schema::CreateTableSql<#database> for #ident {
                    const CREATE_TABLE: &'static str = #sql;
                }
            };
            for_backend(*dialect, &code)
        });
        Output {
            items: TokenStream::new(),
            impls: quote! {
                impl #ident {
                    #[doc = #docs]
                    pub const fn create_table<__DB: __rt::Backend>() -> &'static str
                    where
                        Self: __rt::schema::CreateTableSql<__DB>,
                    {
                        <Self as __rt::schema::CreateTableSql<__DB>>::CREATE_TABLE
                    }
                }
                #(#backends)*
            },
        }
    }

    fn stub(input: &DeriveInput) -> Output {
        let name = format_ident!("create_table");
        let method = quote! {
            #[doc = #STUB_DOC]
            pub const fn #name<__DB>() -> &'static str { "" }
        };
        Output {
            items: TokenStream::new(),
            impls: stub_impl(input, &method),
        }
    }
}

fn report(model: &Model, column: &Column, unknown: Unknown, diag: &Diag) {
    const HELP: &str = "help: say what stands after the column's name";
    match unknown {
        Unknown::Type => diag.error(
            &column.ty,
            format_args!(
                "it is not known which type of a column `{}` is\n\
                 {HELP}: `#[rowlock(definition = \"text NOT NULL\")]`",
                shown(&column.ty)
            ),
        ),
        Unknown::Value(ty) => {
            let value = match ty.starts_with("timestamp") || ty == "datetime" {
                true => "CURRENT_TIMESTAMP",
                false => "…",
            };
            diag.error(
                &column.ident,
                format_args!(
                    "the database makes up `{}` of `{}`, and how is not known\n\
                     {HELP}: `#[rowlock(definition = \"{ty} NOT NULL DEFAULT {value}\")]`",
                    column.written(),
                    model.ident
                ),
            );
        }
    }
}
