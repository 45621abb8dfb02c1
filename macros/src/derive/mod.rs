//! The derives. Each file has one derive: its plan, its own rules and its tokens.
//!
//! Errors of the compiler about a field's type should appear at the type, so some tokens carry its span. A local
//! variable never does: in a struct that a `macro_rules!` made, it would not be found.

mod counter;
mod find_or_create;
mod idempotent;
mod lockable;
mod queue;
mod versioned;

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Index, Type};

pub(crate) use self::counter::Counter;
pub(crate) use self::find_or_create::{FindOrCreate, default_new};
pub(crate) use self::idempotent::Idempotent;
pub(crate) use self::lockable::Lockable;
pub(crate) use self::queue::Queue;
pub(crate) use self::versioned::Versioned;
use crate::attr::StructAttrs;
use crate::diag::Diag;
use crate::lower::{Attempted, lower};
use crate::model::{Column, Model, Role, last_segment};
use crate::sql::Dialect;

/// A derive: from the model to a plan, in which nothing is left that could fail, and from the plan to tokens.
pub(crate) trait Derive {
    type Plan<'m>;

    /// Checks what only this derive asks for. `None` if something is missing, which was then reported.
    fn plan<'m>(model: &'m Model, attempted: &Attempted, diag: &Diag) -> Option<Self::Plan<'m>>;

    fn expand(plan: &Self::Plan<'_>) -> Output;

    /// The same names with bodies that cannot run: after a mistake in the struct, the calls of its methods do not
    /// fail as well.
    fn stub(input: &DeriveInput) -> Output;
}

/// What a derive prints.
#[derive(Default)]
pub(crate) struct Output {
    /// Items that the user names. They stand beside the struct.
    items: TokenStream,
    /// Everything else. It stands in a block of its own, where `__rt` is the runtime: the output stays readable, no
    /// other name gets in, and no name of the user's is shadowed.
    impls: TokenStream,
}

impl Output {
    fn tokens(self, input: &DeriveInput) -> TokenStream {
        let Self { items, impls } = self;
        let quiet = Diag::new();
        let attrs = StructAttrs::read(&input.attrs, &quiet);
        let _ = quiet.finish();
        let runtime = match attrs.krate {
            Some(path) => quote!(#path),
            None => quote!(::rowlock),
        };
        quote! {
            #items
            #[allow(dead_code, deprecated, non_snake_case, unused_qualifications)]
            const _: () = {
                use #runtime::__private as __rt;
                #impls
            };
        }
    }
}

pub(crate) fn run<D: Derive>(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let diag = Diag::new();
    let lowered = lower(&input, &diag);
    let plan = lowered
        .as_ref()
        .and_then(|(model, attempted)| D::plan(model, attempted, &diag));
    match (diag.finish(), plan) {
        (Ok(()), Some(plan)) => D::expand(&plan).tokens(&input),
        (Ok(()), None) => TokenStream::new(),
        (Err(errors), _) => {
            let stub = D::stub(&input).tokens(&input);
            quote!(#errors #stub)
        }
    }
}

/// A name whose definition is, for the editor, the option or field that asked for it.
fn name_at(name: &str, asked: Span) -> Ident {
    Ident::new(name, Span::call_site().located_at(asked))
}

/// What a method runs on is called `db`, unless one of its other arguments is.
fn connection_name(arguments: &[&Column]) -> Ident {
    let mut name = "db".to_owned();
    while arguments.iter().any(|column| column.field == name) {
        name.push('_');
    }
    Ident::new(&name, Span::call_site())
}

/// A generated method that takes something to run on, as its tokens are put together.
struct Method {
    name: Ident,
    docs: String,
    /// `&self,` or nothing.
    receiver: TokenStream,
    db: Ident,
    /// What follows the connection.
    arguments: TokenStream,
    output: TokenStream,
    /// The bound on `Self` that has the statements.
    bound: TokenStream,
    body: TokenStream,
}

impl Method {
    fn tokens(&self) -> TokenStream {
        let Self {
            name,
            docs,
            receiver,
            db,
            arguments,
            output,
            bound,
            body,
        } = self;
        quote! {
            #[doc = #docs]
            pub fn #name<'__c, __DB: __rt::Backend>(
                #receiver
                #db: impl __rt::Source<'__c, __DB>,
                #arguments
            ) -> impl __rt::Future<Output = __rt::Result<#output>> + __rt::Send
            where
                Self: #bound
            {
                #body
            }
        }
    }
}

/// Wraps an impl so that it exists only if the runtime was built for the database.
fn for_backend(dialect: Dialect, code: &TokenStream) -> TokenStream {
    let wrapper = wrapper(dialect);
    quote!(__rt::#wrapper! { #code })
}

/// The macro that keeps its contents if the runtime was built for the database.
fn wrapper(dialect: Dialect) -> Ident {
    match dialect {
        Dialect::Postgres => format_ident!("postgres"),
        Dialect::Sqlite => format_ident!("sqlite"),
    }
}

/// sqlx's type for the database.
fn database(dialect: Dialect) -> TokenStream {
    let name = format_ident!("{}", dialect.name());
    quote!(__rt::#name)
}

/// Reads all columns; what is wrong with that is wrong with the struct.
fn from_row(model: &Model, dialect: Dialect) -> TokenStream {
    let database = database(dialect);
    let row = quote!(__row);
    let read = quote_spanned!(model.ident.span()=> __rt::from_row::<#database, Self>(#row));
    quote! {
        fn from_row(__row: &__rt::Row<#database>) -> __rt::Decoded<Self> { #read }
    }
}

/// A statement as a raw string, so that quoted names stay readable in the output.
fn literal(dialect: Dialect, sql: &str) -> Literal {
    let sql = dialect.spell(sql);
    let hashes = "#".repeat(1 + sql.matches('#').count());
    format!("r{hashes}\"{sql}\"{hashes}")
        .parse()
        .unwrap_or_else(|_| Literal::string(&sql))
}

/// `Some(r#"..."#)` or `None`.
fn optional_literal(dialect: Dialect, sql: Option<&str>) -> TokenStream {
    match sql.map(|sql| literal(dialect, sql)) {
        Some(sql) => quote!(__rt::Some(#sql)),
        None => quote!(__rt::None),
    }
}

/// `to.bind::<Type>(index, value);`, with errors about the type at the field's type.
fn bind(index: usize, column: &Column, value: &TokenStream) -> TokenStream {
    let ty = &column.ty;
    let index = Index::from(index);
    let to = quote!(__to);
    let json = quote!(__rt::sqlx::types::Json);
    if column.json_nullable {
        // `None` is NULL; as JSON it would be the value `null`.
        return quote_spanned! {ty.span()=>
            #to.bind_json(#index, &__rt::OrNull(__rt::Option::map(__rt::Option::as_ref(#value), #json)));
        };
    }
    if column.json {
        return quote_spanned! {ty.span()=>
            #to.bind_json(#index, &#json(#value));
        };
    }
    if is_json(ty) {
        return quote!(__to.bind_json::<#ty>(#index, #value););
    }
    quote!(__to.bind::<#ty>(#index, #value);)
}

/// Whether the type is one of JSON, as far as its name tells: equal values can have different texts.
fn is_json(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    if last.ident == "Option"
        && let syn::PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(syn::GenericArgument::Type(inner)) = arguments.args.first()
    {
        return is_json(inner);
    }
    last.ident == "Json"
        || last.ident == "JsonValue"
        || quote!(#path).to_string().ends_with("serde_json :: Value")
}

/// Binds columns of `self`.
fn bind_columns(columns: &[&Column]) -> TokenStream {
    let binds = columns.iter().enumerate().map(|(index, column)| {
        let field = &column.ident;
        bind(index, column, &quote!(&self.#field))
    });
    quote!(#(#binds)*)
}

/// The method that yields the fence of `self`, if the model has one.
fn fence(model: &Model) -> TokenStream {
    let Some(fence) = model.fence() else {
        return TokenStream::new();
    };
    let field = &fence.ident;
    let this = quote!(self);
    let value = quote_spanned!(fence.ty.span()=> #this.#field);
    quote!(fn fence(&self) -> __rt::Option<__rt::Fence> { __rt::Some(#value) })
}

/// Takes over what a RETURNING clause with these columns gave back.
fn read_back(columns: &[&Column]) -> TokenStream {
    let reads = columns.iter().enumerate().map(|(index, column)| {
        let field = &column.ident;
        let index = Index::from(index);
        if column.json {
            quote!(self.#field = __rt::get::<_, __rt::sqlx::types::Json<_>>(__row, #index)?.0;)
        } else {
            quote!(self.#field = __rt::get(__row, #index)?;)
        }
    });
    quote!(#(#reads)*)
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
            from_field: |field| quote!(__rt::Clone::clone(&#field)),
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

/// Where a column stands among all.
fn position(model: &Model, column: &Column) -> Option<Index> {
    let position = model
        .columns
        .iter()
        .position(|other| other.ident == column.ident);
    position.map(Index::from)
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
            let index = Index::from(index);
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
            let index = Index::from(index);
            // A single key is a reference already.
            let value = if single {
                quote!(#part)
            } else {
                quote!(&#part)
            };
            quote!(__to.bind::<#ty>(#index, #value);)
        });
    quote!(#(#binds)*)
}

/// Binds the columns of many keys as arrays, where statements take those.
fn bind_keys(columns: &[&Column], dialect: Dialect) -> TokenStream {
    if dialect == Dialect::Sqlite {
        return TokenStream::new();
    }
    let single = columns.len() == 1;
    let binds = columns.iter().enumerate().map(|(index, column)| {
        let ty = &column.ty;
        let index = Index::from(index);
        let part = if single {
            quote!(__key)
        } else {
            quote!(&__key.#index)
        };
        quote! {
            __to.bind(#index, &__rt::array(__keys, __rt::ArrayType::<#ty>::INFO, |__key| #part));
        }
    });
    let database = database(dialect);
    quote! {
        fn bind_keys(__keys: &[&Self::Key<'_>], __to: &mut impl __rt::Bind<#database>) {
            #[allow(unused_imports)]
            use __rt::NoArrayType as _;
            #(#binds)*
        }
    }
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
fn assert_not_null(columns: &[&Column], what: &str, note: &str) -> TokenStream {
    const PLAIN: &[&str] = &["i16", "i32", "i64", "bool", "String"];
    let asserts: Vec<TokenStream> = columns
        .iter()
        .filter(|column| {
            !last_segment(&column.ty).is_some_and(|name| PLAIN.contains(&name.as_str()))
        })
        .map(|column| {
            let ty = &column.ty;
            let message = format!(
                "`{}` is nullable, so it cannot be {what}: {note}",
                column.field
            );
            quote_spanned! {ty.span()=>
                __rt::assert!(!__rt::Nullable::<#ty>::IS_OPTION, #message);
            }
        })
        .collect();
    if asserts.is_empty() {
        return TokenStream::new();
    }
    quote! {
        const _: () = {
            #[allow(unused_imports)]
            use __rt::NotNullable as _;
            #(#asserts)*
        };
    }
}

/// Points at the field that probably has the role, if there is one.
fn report_missing(
    model: &Model,
    option: &str,
    what: &str,
    names: &[&str],
    field: &str,
    diag: &Diag,
) {
    let message = format!("`{}` has no field for {what}", model.ident);
    let named = model
        .columns
        .iter()
        .find(|column| column.role == Role::Plain && names.contains(&column.field.as_str()));
    match named {
        Some(column) => diag.error(
            &column.ident,
            format_args!("{message}\nhelp: mark this field with `#[rowlock({option})]`"),
        ),
        None => diag.error(
            &model.ident,
            format_args!("{message}\nhelp: add a field such as `#[rowlock({option})] {field}`"),
        ),
    }
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

const STUB_DOC: &str = "Not generated because of the errors in the struct.";

/// A method of a stub: takes anything, and its future never runs.
fn stub_method(
    name: &Ident,
    receiver: bool,
    arguments: usize,
    output: &TokenStream,
) -> TokenStream {
    let receiver = receiver.then(|| quote!(&self,));
    let arguments = (0..arguments).map(|index| {
        let name = format_ident!("__{index}");
        quote!(#name: impl ::core::marker::Sized)
    });
    quote! {
        #[doc = #STUB_DOC]
        pub async fn #name(#receiver #(#arguments),*) -> __rt::Result<#output> {
            __rt::unreachable!()
        }
    }
}

/// The inherent impl of a stub.
fn stub_impl(input: &DeriveInput, methods: &TokenStream) -> TokenStream {
    let ident = &input.ident;
    let (generics, arguments, predicates) = input.generics.split_for_impl();
    quote! {
        #[allow(unused_variables)]
        impl #generics #ident #arguments #predicates { #methods }
    }
}

/// The fields of a struct that is not generic; nothing of what cannot be a model anyway.
fn stub_fields(input: &DeriveInput) -> Option<Vec<&syn::Field>> {
    match &input.data {
        syn::Data::Struct(data) if input.generics.params.is_empty() => Some(
            data.fields
                .iter()
                .filter(|field| field.ident.is_some())
                .collect(),
        ),
        _ => None,
    }
}
