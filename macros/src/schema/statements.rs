//! Where the runtime has the statements of a derive, which the derive printed already, and the types of what some of them bind.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use rowlock_schema::Family;
use syn::Index;
use syn::spanned::Spanned;

use crate::derive::{Kind, database, for_backend, quiet_plan};
use crate::model::{Column, LedgerRole, Model, Role, inside_option};
use crate::schema::needs::family;
use crate::sql::{self, Dialect};

/// The lists of them for each database, for `Described`.
pub(super) fn lists(kind: Kind, model: &Model) -> TokenStream {
    let of_backend = |dialect: &Dialect| {
        let database = database(*dialect);
        let name = match dialect {
            Dialect::Postgres => format_ident!("POSTGRES"),
            Dialect::Sqlite => format_ident!("SQLITE"),
        };
        let lists = named(kind, model).into_iter();
        let lists = lists.map(|(list, number)| {
            let list = format_ident!("{list}");
            quote!(__rt::schema::Of::<#database, Self, #number>::#list)
        });
        let no_list = (kind == Kind::Queue).then(|| {
            quote! {
                #[allow(unused_imports)]
                use __rt::schema::NoList as _;
            }
        });
        let types = match dialect {
            Dialect::Postgres => types(model, &database),
            // A parameter of it has no type.
            Dialect::Sqlite => TokenStream::new(),
        };
        let code = quote! {
            const #name: __rt::schema::Texts<#database> = { #no_list &[#(#lists),*] };
            #types
        };
        for_backend(*dialect, &code)
    };
    model.backends.iter().map(of_backend).collect()
}

/// The types of the fields that can have names of the user's, each with its place among `Model::fields`.
fn types(model: &Model, database: &TokenStream) -> TokenStream {
    let columns = model.columns.iter().enumerate();
    let named = columns.filter(|(_, column)| {
        let ty = inside_option(&column.ty).unwrap_or(&column.ty);
        matches!(family(column, ty), Family::Unknown)
    });
    let types = named.map(|(place, column)| {
        let (place, element) = (Index::from(place), element(column, database));
        quote!((#place, #element))
    });
    let types: Vec<TokenStream> = types.collect();
    if types.is_empty() {
        return TokenStream::new();
    }
    quote! {
        const POSTGRES_TYPES: __rt::schema::Named<#database> = {
            #[allow(unused_imports)]
            use __rt::schema::NoElement as _;
            &[#(#types),*]
        };
    }
}

/// Each list, with the number of the counter or of the unique key that it is about.
fn named(kind: Kind, model: &Model) -> Vec<(&'static str, usize)> {
    let all = |list| vec![(list, 0)];
    let and_each = |list, each, count| {
        let numbers = (0..count).map(|number| (each, number));
        std::iter::once((list, 0)).chain(numbers).collect()
    };
    match kind {
        Kind::Counter => and_each("COUNTERS", "COUNTER", model.counters().len()),
        Kind::FindOrCreate => and_each("NEW", "UNIQUE", model.unique.len()),
        Kind::Guarded => all("GUARDED"),
        Kind::Idempotent => all("IDEMPOTENT"),
        Kind::Lockable => all("LOCKABLE"),
        // Two that not every queue has.
        Kind::Queue => vec![("QUEUE", 0), ("ENQUEUE_MANY", 0), ("PURGE", 0)],
        Kind::Versioned => all("VERSIONED"),
    }
}

/// What a derive binds.
#[derive(Default)]
struct Binds<'m> {
    found_by: Vec<&'m Column>,
    /// How many integers beside the key tell a row from what it was.
    numbers: usize,
    written: Vec<&'m Column>,
    new: Vec<&'m Column>,
}

/// The types of what the statements bind whose types the server cannot tell.
pub(super) fn binds(kind: Kind, model: &Model) -> TokenStream {
    let found_by = model.keys();
    let of_all = match kind {
        Kind::Idempotent => Binds {
            found_by: found_by
                .into_iter()
                .chain(model.ledger(LedgerRole::Fingerprint))
                .collect(),
            ..Binds::default()
        },
        Kind::Counter | Kind::Lockable => Binds {
            found_by,
            ..Binds::default()
        },
        Kind::Guarded => Binds {
            found_by,
            written: settable(model),
            ..Binds::default()
        },
        Kind::Versioned => Binds {
            found_by,
            numbers: model.row_version().into_iter().chain(model.fence()).count(),
            written: model.writable(),
            new: sql::versioned::inserted(model),
        },
        Kind::Queue => Binds {
            found_by,
            new: quiet_plan(model).map_or_else(Vec::new, |queue| given(&queue, model)),
            ..Binds::default()
        },
        Kind::FindOrCreate => {
            let keys = model.unique.iter().enumerate();
            let each = keys.map(|(number, key)| {
                let binds = Binds {
                    found_by: model.unique_columns(key),
                    new: model.given(),
                    ..Binds::default()
                };
                implemented(kind, model, number, &binds)
            });
            return each.collect();
        }
    };
    implemented(kind, model, 0, &of_all)
}

/// The columns that are given for a job.
fn given<'m>(queue: &sql::queue::Queue<'_>, model: &'m Model) -> Vec<&'m Column> {
    let names: Vec<&str> = queue
        .given()
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    let all = names.iter().filter_map(|name| {
        let mut columns = model.columns.iter();
        columns.find(|column| column.name == *name)
    });
    all.collect()
}

/// What a guarded update can set to a value.
pub(super) fn settable(model: &Model) -> Vec<&Column> {
    let columns = model.columns.iter();
    let settable = columns.filter(|column| {
        let is_plain = matches!(column.role, Role::Plain);
        is_plain && !column.key && !column.generated && column.on_update.is_none()
    });
    settable.collect()
}

fn implemented(kind: Kind, model: &Model, number: usize, binds: &Binds<'_>) -> TokenStream {
    let (ident, derive) = (&model.ident, format_ident!("{kind:?}"));
    let of_backend = |dialect: &Dialect| {
        let database = database(*dialect);
        let list = |name: &str, columns: &[&Column]| {
            let name = format_ident!("{name}");
            let elements = columns.iter().map(|column| element(column, &database));
            (!columns.is_empty()).then(|| {
                quote! {
                    const #name: __rt::schema::Elements<#database> = {
                        #[allow(unused_imports)]
                        use __rt::schema::NoElement as _;
                        &[#(#elements),*]
                    };
                }
            })
        };
        let of_arrays = |name, columns: &[&Column]| match dialect.has_arrays() {
            true => list(name, columns),
            false => None,
        };
        let found_by = list("FOUND_BY", &binds.found_by);
        let written = match kind {
            // In texts that a call puts together.
            Kind::Guarded => {
                let places = binds.written.iter().map(|column| place(model, column));
                Some(quote!(const PLACES: &'static [usize] = &[#(#places),*];))
            }
            _ => of_arrays("WRITTEN", &binds.written),
        };
        let new = of_arrays("NEW", &binds.new);
        let numbers =
            (0..binds.numbers).map(|_| quote!(__rt::schema::Element::<#database, i64>::INFO));
        let code = quote! {
            #[automatically_derived]
            impl __rt::schema::Binds<#database, __rt::schema::by::#derive, #number> for #ident {
                #found_by
                const NUMBERS: __rt::schema::Elements<#database> = &[#(#numbers),*];
                #written
                #new
            }
        };
        for_backend(*dialect, &code)
    };
    model.backends.iter().map(of_backend).collect()
}

fn element(column: &Column, database: &TokenStream) -> TokenStream {
    let ty = &column.ty;
    if column.json || column.json_nullable {
        return quote!(__rt::schema::Element::<#database, __rt::sqlx::types::Json<()>>::INFO);
    }
    quote_spanned!(ty.span()=> __rt::schema::Element::<#database, #ty>::INFO)
}

fn place(model: &Model, column: &Column) -> Index {
    let before = model.columns.iter();
    let before = before.take_while(|other| other.ident != column.ident);
    Index::from(before.count())
}
