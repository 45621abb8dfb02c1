//! The test attribute of `rowlock-explore`. Depend on that crate, which re-exports it.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Expr, FnArg, ItemFn, MetaNameValue, Result, Type};

const HELP: &str =
    "\nhelp: the shape is `async fn name(database: rowlock_explore::Database) -> Verdict`";

/// Makes a test of an async function that gets a database of its own, an empty one on the server of `DATABASE_URL`.
///
/// `#[rowlock_explore::test(server = EXPRESSION)]` takes the URL of the server from there, a `&str` or `String`: one that the
/// tests start by themselves, say.
///
/// The function returns a `Verdict`, which has to be `Passed`; or `()`; or a `Result` of one of them, which has to be `Ok`.
/// Other attributes, such as `#[should_panic]`, are the test's. It runs on a current-thread tokio runtime.
/// The database is dropped at the end, also after a panic. A process that is killed leaves it; the name begins with
/// `rowlock_explore_`.
#[proc_macro_attribute]
pub fn test(
    arguments: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    let item = TokenStream::from(item);
    let expanded = check(arguments.into(), item.clone()).map_or_else(
        // The function as it is, for what else the compiler has to say of it.
        |error| {
            let error = error.into_compile_error();
            quote!(#error #[allow(dead_code)] #item)
        },
        |test| expand(&test),
    );
    expanded.into()
}

/// A function of the shape.
struct Test {
    function: ItemFn,
    /// The type of its argument.
    database: Type,
    /// Where the URL of the server comes from, if not from `DATABASE_URL`.
    server: Option<Expr>,
}

fn check(arguments: TokenStream, item: TokenStream) -> Result<Test> {
    let span = arguments.span();
    let server = match (arguments.is_empty(), syn::parse2(arguments)) {
        (true, _) => None,
        (_, Ok(MetaNameValue { path, value, .. })) if path.is_ident("server") => Some(value),
        _ => {
            let what = "the attribute takes `server = EXPRESSION` and nothing else";
            return wrong(span, what);
        }
    };
    let function: ItemFn = syn::parse2(item)?;
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        return wrong(signature.fn_token.span, "a test of this kind is `async`");
    }
    if !signature.generics.params.is_empty() {
        return wrong(signature.generics.span(), "a test has no generics");
    }
    let mut inputs = signature.inputs.iter();
    let database = match inputs.next() {
        Some(FnArg::Typed(database)) => (*database.ty).clone(),
        Some(FnArg::Receiver(receiver)) => return wrong(receiver.span(), "a test is no method"),
        None => return wrong(signature.ident.span(), "a test gets a database"),
    };
    if let Some(second) = inputs.next() {
        return wrong(second.span(), "a test gets the database and nothing else");
    }
    Ok(Test {
        function,
        database,
        server,
    })
}

fn wrong<T>(span: Span, what: &str) -> Result<T> {
    Err(Error::new(span, format!("{what}{HELP}")))
}

fn expand(test: &Test) -> TokenStream {
    let Test {
        function,
        database,
        server,
    } = test;
    let ItemFn {
        attrs,
        vis,
        sig,
        block,
        ..
    } = function;
    let name = &sig.ident;
    let run = match server {
        Some(server) => quote!(::rowlock_explore::__private::test_on(&#server, #name)),
        None => quote!(::rowlock_explore::__private::test(#name)),
    };
    // At the type, so that it is what the compiler points at when it is another one.
    let check =
        quote_spanned!(database.span()=> ::rowlock_explore::__private::is_database::<#database>(););
    quote! {
        #[::core::prelude::v1::test]
        #(#attrs)*
        #vis fn #name() {
            #sig #block
            #check
            #run
        }
    }
}
