//! The test attribute of `rowlock-explore`. Depend on that crate, which re-exports it.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, Result, Type};

const HELP: &str =
    "\nhelp: the shape is `async fn name(database: rowlock_explore::Database) -> Verdict`";

/// Makes a test of an async function that gets a database of its own, an empty one on the server of `DATABASE_URL`.
///
/// ```ignore
/// #[rowlock_explore::test]
/// async fn nothing_is_oversold(database: Database) -> Verdict {
///     let explorer = Explorer::new(database.url()).schema("CREATE TABLE …").actor("ann", buy).actor("bob", buy);
///     explorer.never("SELECT …").explore().await.unwrap()
/// }
/// ```
///
/// The function returns a `Verdict`, which has to be `Passed`; or `()`; or a `Result` of one of them, which has to be `Ok`.
/// Other attributes, such as `#[ignore]` and `#[should_panic]`, are the test's. It runs on a current-thread tokio runtime.
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
        |(function, database)| expand(&function, &database),
    );
    expanded.into()
}

/// The function, if it has the shape, and the type of its argument.
fn check(arguments: TokenStream, item: TokenStream) -> Result<(ItemFn, Type)> {
    if !arguments.is_empty() {
        return wrong(arguments.span(), "the attribute takes no arguments");
    }
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
    Ok((function, database))
}

fn wrong<T>(span: Span, what: &str) -> Result<T> {
    Err(Error::new(span, format!("{what}{HELP}")))
}

fn expand(function: &ItemFn, database: &Type) -> TokenStream {
    let ItemFn {
        attrs,
        vis,
        sig,
        block,
        ..
    } = function;
    let name = &sig.ident;
    // At the type, so that it is what the compiler points at when it is another one.
    let check =
        quote_spanned!(database.span()=> ::rowlock_explore::__private::is_database::<#database>(););
    quote! {
        #[::core::prelude::v1::test]
        #(#attrs)*
        #vis fn #name() {
            #sig #block
            #check
            ::rowlock_explore::__private::test(#name)
        }
    }
}
