//! The derives. Each file has one derive: its plan, its own rules and its tokens.

mod counter;
mod find_or_create;
mod versioned;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Type};

pub(crate) use self::counter::Counter;
pub(crate) use self::find_or_create::FindOrCreate;
pub(crate) use self::versioned::Versioned;
use crate::diag::Diag;
use crate::lower::{Attempted, lower};
use crate::model::{Column, Model, last_segment};
use crate::sql::Dialect;

/// A derive: from the model to a plan, in which nothing is left that could fail, and from the plan to tokens.
pub(crate) trait Derive {
    const NAME: &'static str;
    type Plan<'m>;

    /// Checks what only this derive asks for. `None` if something is missing, which was then reported.
    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Self::Plan<'m>>;

    fn expand(plan: &Self::Plan<'_>) -> TokenStream;

    /// The same names with bodies that cannot run: after a mistake in the struct, the calls of its methods do not
    /// fail as well.
    fn stub(input: &DeriveInput) -> TokenStream;
}

pub(crate) fn run<D: Derive>(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let diag = Diag::new();
    let lowered = lower(D::NAME, &input, &diag);
    let plan = lowered
        .as_ref()
        .and_then(|(model, attempted)| D::plan(model, attempted, &diag));
    match (diag.finish(), plan) {
        (Ok(()), Some(plan)) => D::expand(&plan),
        (Ok(()), None) => TokenStream::new(),
        (Err(errors), _) => {
            let stub = D::stub(&input);
            quote!(#errors #stub)
        }
    }
}

/// A generated method that takes something to run on, as its tokens are put together.
struct Method<'a> {
    model: &'a Model,
    /// Where go-to-definition leads: the option that asked for the method.
    name: Ident,
    docs: String,
    /// `&self,` or nothing.
    receiver: TokenStream,
    /// What follows the connection.
    arguments: TokenStream,
    output: TokenStream,
    /// The bound on `Self` that has the statements.
    bound: TokenStream,
    body: TokenStream,
}

impl Method<'_> {
    fn tokens(&self) -> TokenStream {
        let Self {
            model,
            name,
            docs,
            receiver,
            arguments,
            output,
            bound,
            body,
        } = self;
        let rt = &model.rt;
        quote! {
            #[doc = #docs]
            pub fn #name<'__c, __DB: #rt::Backend>(
                #receiver
                db: impl #rt::sqlx::Acquire<'__c, Database = __DB> + ::core::marker::Send,
                #arguments
            ) -> impl ::core::future::Future<Output = ::core::result::Result<#output>> + ::core::marker::Send
            where
                Self: #bound
            {
                #body
            }
        }
    }
}

/// Wraps an impl so that it exists only if the runtime was built for the database.
fn for_backend(model: &Model, dialect: Dialect, code: &TokenStream) -> TokenStream {
    let rt = &model.rt;
    let wrapper = match dialect {
        Dialect::Postgres => format_ident!("postgres"),
        Dialect::Sqlite => format_ident!("sqlite"),
    };
    quote!(#rt::#wrapper! { #code })
}

/// sqlx's type for the database.
fn database(model: &Model, dialect: Dialect) -> TokenStream {
    let rt = &model.rt;
    let name = format_ident!("{}", dialect.name());
    quote!(#rt::sqlx::#name)
}

/// The row type of the database.
fn row(model: &Model, dialect: Dialect) -> TokenStream {
    let database = database(model, dialect);
    let rt = &model.rt;
    quote!(<#database as #rt::sqlx::Database>::Row)
}

/// `to.bind::<Type>(index, value);`, with errors about the type at the field's type.
fn bind(index: usize, column: &Column, value: &TokenStream, model: &Model) -> TokenStream {
    let rt = &model.rt;
    let ty = &column.ty;
    if column.json {
        return quote_spanned! {ty.span()=>
            __to.bind(#index, &#rt::sqlx::types::Json(#value));
        };
    }
    quote_spanned!(ty.span()=> __to.bind::<#ty>(#index, #value);)
}

/// How a key's value is passed: text and bytes are borrowed, everything else is given.
struct Passed {
    /// `&'k str`
    ty: TokenStream,
    /// `&str`, for a signature.
    argument: TokenStream,
    /// From a field of a struct behind a reference.
    from_field: fn(&TokenStream) -> TokenStream,
}

fn passed(ty: &Type, lifetime: &TokenStream) -> Passed {
    match last_segment(ty).as_deref() {
        Some("String") => Passed {
            ty: quote!(&#lifetime str),
            argument: quote!(&str),
            from_field: |field| quote!(#field.as_str()),
        },
        _ => Passed {
            ty: quote!(#ty),
            argument: quote!(#ty),
            from_field: |field| quote!(::core::clone::Clone::clone(&#field)),
        },
    }
}

/// The type of a key as it is passed: the value itself, or a tuple.
fn key_type(columns: &[&Column], lifetime: &TokenStream) -> TokenStream {
    tuple(columns.iter().map(|column| passed(&column.ty, lifetime).ty))
}

/// The same in an argument's position, with the lifetime left to the compiler.
fn key_argument(columns: &[&Column]) -> TokenStream {
    tuple(
        columns
            .iter()
            .map(|column| passed(&column.ty, &quote!()).argument),
    )
}

/// The key's value, borrowed from `owner.field`.
fn key_of(columns: &[&Column], owner: &TokenStream) -> TokenStream {
    tuple(columns.iter().map(|column| {
        let ident = &column.ident;
        (passed(&column.ty, &quote!()).from_field)(&quote!(#owner.#ident))
    }))
}

/// One item stays itself, several become a tuple.
fn tuple(items: impl Iterator<Item = TokenStream>) -> TokenStream {
    let items: Vec<_> = items.collect();
    match items.as_slice() {
        [only] => only.clone(),
        several => quote!((#(#several),*)),
    }
}

/// `key` or `key.0`, for each column of a key.
fn key_parts(columns: &[&Column]) -> Vec<TokenStream> {
    if columns.len() == 1 {
        return vec![quote!(__key)];
    }
    (0..columns.len())
        .map(|index| {
            let index = syn::Index::from(index);
            quote!(__key.#index)
        })
        .collect()
}

/// Binds the columns of a key.
fn bind_key(columns: &[&Column]) -> TokenStream {
    let parts = key_parts(columns);
    let single = columns.len() == 1;
    let binds = columns
        .iter()
        .zip(&parts)
        .enumerate()
        .map(|(index, (column, part))| {
            let passed = passed(&column.ty, &quote!());
            let ty = passed.argument;
            // A single key is a reference already.
            let value = if single {
                quote!(#part)
            } else {
                quote!(&#part)
            };
            quote_spanned!(column.ty.span()=> __to.bind::<#ty>(#index, #value);)
        });
    quote!(#(#binds)*)
}

/// Writes a key into an error. Numbers and UUIDs are shown, everything else may be private.
fn describe_key(columns: &[&Column]) -> TokenStream {
    let parts = key_parts(columns);
    let parts = columns.iter().zip(&parts).map(|(column, part)| {
        let name = &column.field;
        let single = columns.len() == 1;
        let value = if single {
            quote!(#part)
        } else {
            quote!(&#part)
        };
        match last_segment(&column.ty).as_deref() {
            Some("i16" | "i32" | "i64" | "Uuid") => quote!(__to.shown(#name, #value);),
            _ => quote!(__to.hidden(#name);),
        }
    });
    quote!(#(#parts)*)
}

/// Refuses an `Option` that hides behind an alias, where the type's name did not tell.
fn assert_not_null(model: &Model, columns: &[&Column], what: &str, note: &str) -> TokenStream {
    let rt = &model.rt;
    let asserts = columns.iter().map(|column| {
        let ty = &column.ty;
        let message = format!(
            "`{}` is nullable, so it cannot be {what}: {note}",
            column.field
        );
        quote_spanned! {ty.span()=>
            const _: () = {
                #[allow(unused_imports)]
                use #rt::NotNullable as _;
                ::core::assert!(!#rt::Nullable::<#ty>::IS_OPTION, #message);
            };
        }
    });
    quote!(#(#asserts)*)
}

/// The SQL of a method for its documentation: one text if all databases share it.
fn sql_doc(model: &Model, sql: impl Fn(Dialect) -> String) -> String {
    let texts: Vec<(Dialect, String)> = model
        .backends
        .iter()
        .map(|dialect| (*dialect, sql(*dialect)))
        .collect();
    match texts.split_first() {
        Some(((_, first), rest)) if rest.iter().all(|(_, other)| other == first) => {
            format!("```sql\n{first}\n```")
        }
        _ => texts
            .iter()
            .map(|(dialect, text)| format!("{}:\n```sql\n{text}\n```", dialect.name()))
            .collect::<Vec<_>>()
            .join("\n\n"),
    }
}

/// A method of a stub: takes anything, and its future never runs.
fn stub_method(
    name: &Ident,
    arguments: usize,
    receiver: bool,
    output: &TokenStream,
) -> TokenStream {
    let arguments = (0..arguments).map(|index| {
        let name = format_ident!("__{index}");
        quote!(#name: impl ::core::marker::Sized)
    });
    let receiver = receiver.then(|| quote!(&self,));
    quote! {
        #[doc = "Not generated because of the errors in the struct."]
        pub async fn #name(#receiver #(#arguments),*) -> ::core::result::Result<#output> {
            ::core::unreachable!()
        }
    }
}

/// The inherent impl of a stub.
fn stub_impl(input: &DeriveInput, methods: &TokenStream) -> TokenStream {
    let ident = &input.ident;
    let (generics, arguments, predicates) = input.generics.split_for_impl();
    quote! {
        #[allow(dead_code, unused_variables, clippy::all)]
        impl #generics #ident #arguments #predicates { #methods }
    }
}

/// The public path of the runtime as far as the attributes can be read.
fn stub_runtime(input: &DeriveInput) -> TokenStream {
    let quiet = Diag::new();
    let attrs = crate::attr::StructAttrs::read(&input.attrs, &quiet);
    let _ = quiet.finish();
    match attrs.krate {
        Some(path) => quote!(#path),
        None => quote!(::rowlock),
    }
}
