//! The derives. Each file has one derive: its plan, its own rules and its tokens.
//!
//! Errors of the compiler about a field's type should appear at the type, so some tokens carry its span. A local
//! variable never does: in a struct that a `macro_rules!` made, it would not be found.

mod counter;
#[cfg(feature = "schema")]
mod create_table;
mod find_or_create;
mod guarded;
mod idempotent;
mod key;
mod lockable;
mod queue;
mod versioned;

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Index, Type};

pub(crate) use self::counter::Counter;
#[cfg(feature = "schema")]
pub(crate) use self::create_table::CreateTable;
pub(crate) use self::find_or_create::{FindOrCreate, default_new};
pub(crate) use self::guarded::Guarded;
pub(crate) use self::idempotent::Idempotent;
use self::key::{KeyValue, key_argument, key_lifetime, passed};
pub(crate) use self::lockable::Lockable;
pub(crate) use self::queue::Queue;
#[cfg(feature = "schema")]
pub(crate) use self::queue::quiet_plan;
pub(crate) use self::versioned::Versioned;
use crate::attr::StructAttrs;
use crate::diag::Diag;
use crate::lower::{Attempted, lower};
use crate::model::{Column, Model, is_bool, is_json, last_segment};
use crate::options::FieldOption;
use crate::sql::{Dialect, Statement};

/// Which derive it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    FindOrCreate,
    Guarded,
    Idempotent,
    Lockable,
    Queue,
    Versioned,
}

/// A derive: from the model to a plan, in which nothing is left that could fail, and from the plan to tokens.
pub(crate) trait Derive {
    type Plan<'m>;
    /// `None` for one that asks nothing of the database.
    const KIND: Option<Kind>;

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
            #[allow(private_interfaces, unreachable_pub)]
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
    let described = lowered
        .as_ref()
        .filter(|_| plan.is_some())
        .zip(D::KIND)
        .map(|((model, _), kind)| described(kind, model, &input, &diag));
    match (diag.finish(), plan) {
        (Ok(()), Some(plan)) => {
            let mut output = D::expand(&plan);
            if let Some((model, _)) = &lowered {
                output.impls.extend(repeated(model));
            }
            output.impls.extend(described);
            output.tokens(&input)
        }
        (Ok(()), None) => TokenStream::new(),
        (Err(errors), _) => {
            let mut stub = D::stub(&input);
            stub.impls
                .extend(D::KIND.map(|kind| undescribed(kind, &input)));
            let stub = stub.tokens(&input);
            quote!(#errors #stub)
        }
    }
}

/// What the model needs of the database; compared with the catalogue, if there is one.
#[cfg(feature = "schema")]
fn described(kind: Kind, model: &Model, input: &DeriveInput, diag: &Diag) -> TokenStream {
    crate::schema::described(kind, model, input, diag)
}

/// The same of a model with mistakes: that it is one.
#[cfg(feature = "schema")]
fn undescribed(kind: Kind, input: &DeriveInput) -> TokenStream {
    let is_struct = stub_fields(input).is_some();
    let needs = is_struct
        .then(|| crate::schema::implementation(kind, &input.ident, "", &TokenStream::new()));
    needs.unwrap_or_default()
}

#[cfg(not(feature = "schema"))]
fn undescribed(_: Kind, _: &DeriveInput) -> TokenStream {
    TokenStream::new()
}

#[cfg(not(feature = "schema"))]
fn described(kind: Kind, model: &Model, input: &DeriveInput, diag: &Diag) -> TokenStream {
    let quiet = Diag::new();
    let attrs = StructAttrs::read(&input.attrs, &quiet);
    let _ = (quiet.finish(), kind, model);
    if let crate::attr::SchemaAttr::Named(file) = attrs.schema {
        diag.error(
            file,
            "the catalogue of a database is not read without the cargo feature `schema` of rowlock\n\
             help: enable it, or remove the option",
        );
    }
    TokenStream::new()
}

/// A model lists the columns of its table. Few programs read all of them, and should not be warned of the others.
fn reads(model: &Model) -> TokenStream {
    let ident = &model.ident;
    let fields = model.columns.iter().map(Column::place);
    quote! {
        fn __read(__row: &#ident) {
            let _ = (#(&__row.#fields,)*);
        }
    }
}

/// The fields of a flattened struct are there, with these types.
fn repeated(model: &Model) -> Option<TokenStream> {
    let ident = &model.ident;
    let columns = model
        .columns
        .iter()
        .filter(|column| !column.inside.is_empty());
    let columns = columns.map(|column| {
        let (ty, place) = (&column.ty, column.place());
        let row = name_at("__row", column.ident.span());
        quote_spanned!(column.ident.span()=> let _: &#ty = &#row.#place;)
    });
    let columns: Vec<TokenStream> = columns.collect();
    let any = !columns.is_empty();
    any.then(|| quote!(fn __repeated(__row: &#ident) { #(#columns)* }))
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
struct Method<'m> {
    name: Ident,
    docs: String,
    /// `&self,` or nothing.
    receiver: TokenStream,
    /// The key that is an argument, or none.
    key: &'m [&'m Column],
    db: Ident,
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
            name,
            docs,
            receiver,
            key,
            db,
            arguments,
            output,
            bound,
            body,
        } = self;
        let lifetime = key_lifetime(key);
        let lifetime = (!lifetime.is_empty()).then(|| quote!(#lifetime,));
        quote! {
            #[doc = #docs]
            pub fn #name<'__c, #lifetime __DB: __rt::Backend>(
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
pub(crate) fn for_backend(dialect: Dialect, code: &TokenStream) -> TokenStream {
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
pub(crate) fn database(dialect: Dialect) -> TokenStream {
    let name = format_ident!("{}", dialect.name());
    quote!(__rt::#name)
}

/// What reads all columns; what is wrong with that is wrong with the struct.
fn read_row(model: &Model, dialect: Dialect) -> TokenStream {
    let database = database(dialect);
    let read = quote_spanned!(model.ident.span()=> __rt::from_row::<#database, _>);
    quote!(const ROW: __rt::Read<#database, Self> = #read;)
}

/// What every derive knows, `marker` for the one that asks. `row`: what it looks at in a row.
fn knows(
    model: &Model,
    marker: &TokenStream,
    key: &KeyValue<'_>,
    row: &TokenStream,
) -> TokenStream {
    let ident = &model.ident;
    let table = model.table.display();
    let key_type = key.ty(&quote!('__k));
    let describe = key.describe();
    quote! {
        #[automatically_derived]
        impl __rt::Model<#marker> for #ident {
            type Key<'__k> = #key_type;
            const TABLE: &'static str = #table;
            fn describe(__key: &Self::Key<'_>, __to: &mut __rt::KeyText) { #describe }
            #row
        }
    }
}

/// The version of `self`, if there is one.
fn version(version: Option<&Column>) -> TokenStream {
    let Some(version) = version else {
        return TokenStream::new();
    };
    let (name, field) = (&version.field, &version.ident);
    let number = number(version, &quote!(self.#field));
    quote! {
        const VERSION: &'static str = #name;
        fn version(&self) -> __rt::Option<i64> { __rt::Some(#number) }
    }
}

/// A version as a number.
fn number(version: &Column, value: &TokenStream) -> TokenStream {
    let ty = &version.ty;
    if version.is_xmin() {
        quote_spanned!(ty.span()=> __rt::xmin(#value))
    } else {
        quote_spanned!(ty.span()=> <#ty as __rt::VersionNumber>::to_i64(#value))
    }
}

/// A statement, for a constant.
fn statement(statement: &Statement) -> Literal {
    literal(statement.dialect, &statement.shown())
}

/// `Some(r#"..."#)` or `None`.
fn optional_statement(sql: Option<&Statement>) -> TokenStream {
    match sql.map(statement) {
        Some(sql) => quote!(__rt::Some(#sql)),
        None => quote!(__rt::None),
    }
}

/// The constant for it; none where there is none, which is what the trait has.
fn statement_constant(name: &str, sql: Option<&Statement>) -> TokenStream {
    let Some(sql) = sql.map(statement) else {
        return TokenStream::new();
    };
    let name = format_ident!("{name}");
    quote!(const #name: __rt::Option<&'static str> = __rt::Some(#sql);)
}

/// That calls of the model do not become one, if it says so.
fn folds(model: &Model) -> Option<TokenStream> {
    (!model.folds).then(|| {
        quote!(
            const FOLDS: bool = false;
        )
    })
}

/// What is before and after the gap of a statement; nothing after it if there is none.
fn halves(statement: &Statement) -> [Literal; 2] {
    let mut parts = statement.parts().into_iter();
    let head = parts.next().unwrap_or_default();
    [head, parts.collect()].map(|part| literal(statement.dialect, &part))
}

/// What is between the gaps of a statement.
fn parts(statement: &Statement) -> TokenStream {
    let parts = statement.parts();
    let parts = parts.iter().map(|part| literal(statement.dialect, part));
    quote!([#(#parts),*])
}

/// SQL as a raw string, so that quoted names stay readable in the output.
fn literal(dialect: Dialect, sql: &str) -> Literal {
    raw(&dialect.spell(sql))
}

/// A raw string.
pub(crate) fn raw(text: &str) -> Literal {
    let hashes = "#".repeat(1 + text.matches('#').count());
    format!("r{hashes}\"{text}\"{hashes}")
        .parse()
        .unwrap_or_else(|_| Literal::string(text))
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
    // Of another struct's field the type is known to the compiler alone; what was repeated is compared with it once.
    let ty = column.inside.is_empty().then(|| quote!(::<#ty>));
    quote!(__to.bind #ty (#index, #value);)
}

/// Binds columns of `self`.
fn bind_columns(columns: &[&Column]) -> TokenStream {
    let binds = columns.iter().enumerate().map(|(index, column)| {
        let field = column.place();
        bind(index, column, &quote!(&self.#field))
    });
    quote!(#(#binds)*)
}

/// Binds a column of many rows as an array.
fn array((index, column): (usize, &&Column)) -> TokenStream {
    let (field, ty) = (column.place(), &column.ty);
    let index = Index::from(index);
    let value = if column.json_nullable {
        quote!(__rt::Option::as_ref(&__row.#field))
    } else if column.json {
        quote!(__rt::Some(&__row.#field))
    } else {
        return quote! {
            __rt::bind_array::<#ty, _>(__to, #index, __rows, __rt::ArrayType::<#ty>::INFO, |__row| &__row.#field);
        };
    };
    quote! {
        __to.bind(#index, &__rt::json_array(__rt::Iterator::map(__rows.iter(), |__row| #value)));
    }
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
        let field = column.place();
        let index = Index::from(index);
        if column.json {
            quote!(self.#field = __rt::get::<_, __rt::sqlx::types::Json<_>>(__row, #index)?.0;)
        } else {
            quote!(self.#field = __rt::get(__row, #index)?;)
        }
    });
    quote!(#(#reads)*)
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

/// An update has the row alone.
fn sets_without_excluded(model: &Model, diag: &Diag) {
    for (column, expression) in model.on_update() {
        let expression = expression.replace('"', "").to_lowercase();
        if expression.contains("excluded.") {
            diag.error(
                &column.ident,
                format_args!(
                    "an update cannot set `{}`: its expression is about `excluded`, the new values of an upsert, and an update has none\n\
                     help: write it with columns of the row alone, or make the field a plain one",
                    column.field
                ),
            );
        }
    }
}

/// Refuses a boolean where the time is needed, and not only that it has come.
fn must_be_a_time(column: &Column, diag: &Diag) {
    if is_bool(&column.ty) {
        diag.error(
            &column.ty,
            "`bool` cannot be the time of the end\n\
             note: it is a point in time, by the clock of the database\n\
             help: use `Option<DateTime<Utc>>` of chrono or `Option<OffsetDateTime>` of time",
        );
    }
}

/// Statements about many rows bind an array per column of the key.
fn array_keys(model: &Model, keys: &[&Column], diag: &Diag) {
    if !model.backends.iter().any(|dialect| dialect.has_arrays()) {
        return;
    }
    for key in keys.iter().filter(|key| is_array(&key.ty)) {
        diag.error(
            &key.ty,
            format_args!(
                "the key `{}` is an array, and rows with such a key cannot be locked or written together\n\
                 note: many keys are one array, and PostgreSQL has no arrays of arrays\n\
                 help: make it a column of type `bytea` or `text`, or keep the array in a plain column",
                key.field
            ),
        );
    }
}

/// A `Vec`, an array or a boxed slice, unless it is of bytes.
fn is_array(ty: &Type) -> bool {
    let of_bytes = |ty: &Type| last_segment(ty).is_some_and(|name| name == "u8");
    match ty {
        Type::Array(array) => !of_bytes(&array.elem),
        Type::Slice(slice) => !of_bytes(&slice.elem),
        Type::Group(group) => is_array(&group.elem),
        Type::Paren(paren) => is_array(&paren.elem),
        Type::Path(path) => {
            let Some(last) = path.path.segments.last() else {
                return false;
            };
            let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else {
                return false;
            };
            match arguments.args.first() {
                Some(syn::GenericArgument::Type(inner)) if last.ident == "Vec" => !of_bytes(inner),
                Some(syn::GenericArgument::Type(inner)) if last.ident == "Box" => is_array(inner),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Points at the field that probably has the role, if there is one.
fn report_missing(model: &Model, option: FieldOption, diag: &Diag) {
    let Some(missing) = &option.rule().missing else {
        return;
    };
    let message = format!("`{}` has no field for {}", model.ident, missing.what);
    let called = |column: &&Column| missing.names.contains(&column.field.as_str());
    let mut plain = model.columns.iter().filter(|column| column.is_plain());
    match plain.find(called) {
        Some(column) => diag.error(
            &column.ident,
            format_args!("{message}\nhelp: {}", column.marked(option, &model.ident)),
        ),
        None => diag.error(
            &model.ident,
            format_args!(
                "{message}\nhelp: add a field such as `#[rowlock({})] {}`",
                option.name(),
                missing.field
            ),
        ),
    }
}

/// The statement of a method for its documentation.
fn sql_doc(model: &Model, sql: impl Fn(Dialect) -> Statement) -> String {
    text_doc(model, |dialect| sql(dialect).shown())
}

/// The SQL of a method for its documentation: one text if all databases share it.
fn text_doc(model: &Model, sql: impl Fn(Dialect) -> String) -> String {
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
