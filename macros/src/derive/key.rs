//! A key, as a method takes it and as the runtime gets it.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Index, Type, Visibility};

use super::{database, tuple};
use crate::model::{Column, Model, last_segment};
use crate::sql::Dialect;

/// A key as the runtime gets it: the value itself, a tuple of several, or a struct of our own.
///
/// The last because an associated type may not be less visible than the model (E0446), and a derive cannot see whether it
/// is. Nobody can write the name of a struct in the block of the output, so nobody can be shown what is in it.
pub(super) struct KeyValue<'m> {
    columns: &'m [&'m Column],
    wrapper: Option<Ident>,
    owned: bool,
}

impl<'m> KeyValue<'m> {
    /// A key that borrows its texts, in a struct with this name if it takes one.
    pub(super) fn borrowed(model: &Model, columns: &'m [&'m Column], name: &str) -> Self {
        Self {
            columns,
            wrapper: wrapper(model, columns, name),
            owned: false,
        }
    }

    /// A key as it is read.
    pub(super) fn owned(model: &Model, columns: &'m [&'m Column], name: &str) -> Self {
        Self {
            columns,
            wrapper: wrapper(model, columns, name),
            owned: true,
        }
    }

    /// The struct, if there is one.
    pub(super) fn definition(&self, traits: &[&str]) -> Option<TokenStream> {
        let name = self.wrapper.as_ref()?;
        let traits = traits.iter().map(|name| format_ident!("{name}"));
        let lifetime = (!self.owned).then(|| quote!(<'__k>));
        let types = self
            .columns
            .iter()
            .map(|column| self.part(column, &quote!('__k)));
        let marker = (!self.owned).then(|| quote!(__rt::PhantomData<&'__k ()>));
        Some(quote! {
            #[derive(#(__rt::#traits),*)]
            pub struct #name #lifetime (#(#types,)* #marker);
        })
    }

    /// The order of the struct, if there is one: that of its columns. What a type lacks for it is said once, at the type.
    pub(super) fn order(&self) -> Option<TokenStream> {
        let name = self.wrapper.as_ref()?;
        let lifetime = (!self.owned).then(|| quote!(<'__k>));
        let (this, other) = (quote!(self), quote!(__other));
        let columns = self.columns.iter().enumerate().map(|(index, column)| {
            let index = Index::from(index);
            quote_spanned! {column.ty.span()=>
                .then_with(|| __rt::Ord::cmp(&#this.#index, &#other.#index))
            }
        });
        Some(quote! {
            impl #lifetime __rt::Ord for #name #lifetime {
                fn cmp(&self, __other: &Self) -> __rt::counter::Ordering {
                    __rt::counter::Ordering::Equal #(#columns)*
                }
            }
            impl #lifetime __rt::PartialOrd for #name #lifetime {
                fn partial_cmp(&self, __other: &Self) -> __rt::Option<__rt::counter::Ordering> {
                    __rt::Some(__rt::Ord::cmp(self, __other))
                }
            }
            impl #lifetime __rt::PartialEq for #name #lifetime {
                fn eq(&self, __other: &Self) -> bool {
                    __rt::Ord::cmp(self, __other).is_eq()
                }
            }
            impl #lifetime __rt::Eq for #name #lifetime {}
        })
    }

    pub(super) fn ty(&self, lifetime: &TokenStream) -> TokenStream {
        match &self.wrapper {
            Some(name) if self.owned => quote!(#name),
            Some(name) => quote!(#name<#lifetime>),
            None => tuple(
                self.columns
                    .iter()
                    .map(|column| self.part(column, lifetime)),
            ),
        }
    }

    fn part(&self, column: &Column, lifetime: &TokenStream) -> TokenStream {
        if self.owned {
            let ty = &column.ty;
            quote!(#ty)
        } else {
            passed(&column.ty, lifetime)
        }
    }

    /// The key of these values.
    pub(super) fn value(&self, values: impl Iterator<Item = TokenStream>) -> TokenStream {
        let marker = (!self.owned).then(|| quote!(__rt::PhantomData));
        match &self.wrapper {
            Some(name) => quote!(#name(#(#values,)* #marker)),
            None => tuple(values),
        }
    }

    /// The key of what a method was given.
    pub(super) fn given(&self, argument: &TokenStream) -> TokenStream {
        match (&self.wrapper, self.columns.len()) {
            (None, _) => argument.clone(),
            (Some(_), 1) => self.value(std::iter::once(argument.clone())),
            (Some(_), several) => self.value((0..several).map(|index| {
                let index = Index::from(index);
                quote!(#argument.#index)
            })),
        }
    }

    /// The other way round.
    pub(super) fn given_back(&self, key: &TokenStream) -> TokenStream {
        match self.wrapper {
            None => key.clone(),
            Some(_) => tuple((0..self.columns.len()).map(|index| {
                let index = Index::from(index);
                quote!(#key.#index)
            })),
        }
    }

    /// Whether what a method was given is not the key itself.
    pub(super) fn is_wrapped(&self) -> bool {
        self.wrapper.is_some()
    }

    /// The key in `owner.field`.
    pub(super) fn of(&self, owner: &TokenStream) -> TokenStream {
        self.value(self.columns.iter().map(|column| {
            let place = column.place();
            if !self.owned && is_borrowed(&column.ty) {
                quote!(#owner.#place.as_str())
            } else {
                quote!(__rt::Clone::clone(&#owner.#place))
            }
        }))
    }

    /// Whether `__key`, which is a reference, is the key in `owner.field`.
    pub(super) fn is_of(&self, owner: &TokenStream) -> TokenStream {
        let parts = self.parts();
        let same = self.columns.iter().zip(&parts).map(|(column, part)| {
            let place = column.place();
            quote!(#owner.#place == #part)
        });
        quote!(#(#same)&&*)
    }

    /// Each value of `__key`, which is a reference: `*__key` or `__key.0`.
    fn parts(&self) -> Vec<TokenStream> {
        if self.wrapper.is_none() && self.columns.len() == 1 {
            return vec![quote!(*__key)];
        }
        (0..self.columns.len())
            .map(|index| {
                let index = Index::from(index);
                quote!(__key.#index)
            })
            .collect()
    }

    /// A reference to each.
    fn references(&self) -> Vec<TokenStream> {
        if self.wrapper.is_none() && self.columns.len() == 1 {
            return vec![quote!(__key)];
        }
        self.parts().iter().map(|part| quote!(&#part)).collect()
    }

    /// Binds the columns.
    pub(super) fn bind(&self) -> TokenStream {
        let values = self.references();
        let binds = self.columns.iter().zip(&values).enumerate();
        let binds = binds.map(|(index, (column, value))| {
            let ty = passed(&column.ty, &quote!());
            let index = Index::from(index);
            quote!(__to.bind::<#ty>(#index, #value);)
        });
        quote!(#(#binds)*)
    }

    /// Binds the columns of many keys as arrays, where statements take those.
    pub(super) fn bind_keys(&self, dialect: Dialect) -> TokenStream {
        if !dialect.has_arrays() {
            return TokenStream::new();
        }
        let binds = self.columns.iter().zip(self.references()).enumerate();
        let binds = binds.map(|(index, (column, part))| {
            let ty = &column.ty;
            let index = Index::from(index);
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

    /// Reads the keys of many rows, where statements return those as arrays. `#[inline]`: compiled where it is called.
    pub(super) fn read_keys(&self, dialect: Dialect) -> TokenStream {
        if !dialect.has_arrays() {
            return TokenStream::new();
        }
        let names = (1..=self.columns.len()).map(|part| format_ident!("__k{part}"));
        let names: Vec<Ident> = names.collect();
        let arrays = (0..names.len()).map(|index| {
            let (index, ty) = (Index::from(index), &self.columns[index].ty);
            quote!(__rt::elements::<#ty>(__row, #index)?)
        });
        let arrays = arrays.reduce(|all, next| quote!(#all.zip(#next)));
        let pattern = names.iter().map(|name| quote!(#name));
        let pattern = pattern.reduce(|all, next| quote!((#all, #next)));
        let key = match names.as_slice() {
            [only] if !self.is_wrapped() => quote!(#only),
            names => self.value(names.iter().map(|name| quote!(#name))),
        };
        let database = database(dialect);
        quote! {
            #[inline]
            fn read_keys(__row: &__rt::Row<#database>, __keys: &mut __rt::Vec<Self::OwnedKey>) -> __rt::Decoded<()> {
                #[allow(unused_imports)]
                use __rt::{Extend as _, Iterator as _};
                __keys.extend(#arrays.map(|#pattern| #key));
                __rt::Ok(())
            }
        }
    }

    /// Writes the key into an error. Numbers and UUIDs are shown, everything else may be private.
    pub(super) fn describe(&self) -> TokenStream {
        let values = self.references();
        let parts = self.columns.iter().zip(&values).map(|(column, value)| {
            let name = &column.field;
            match last_segment(&column.ty).as_deref() {
                Some("i16" | "i32" | "i64" | "Uuid") => quote!(__to.shown(#name, #value);),
                _ => quote!(__to.hidden(#name);),
            }
        });
        quote!(#(#parts)*)
    }
}

/// The struct's name if one of the types may be less visible than the model.
///
/// The types named here are not; and a private model is no more visible than what its module can name.
fn wrapper(model: &Model, columns: &[&Column], name: &str) -> Option<Ident> {
    const PUBLIC: &[&str] = &["bool", "i8", "i16", "i32", "i64", "String", "Uuid"];
    let known = |column: &&Column| {
        last_segment(&column.ty).is_some_and(|name| PUBLIC.contains(&name.as_str()))
    };
    let hidden = !matches!(model.vis, Visibility::Inherited) && !columns.iter().all(known);
    hidden.then(|| format_ident!("{name}"))
}

/// The type of a key as a method takes it.
pub(super) fn key_argument(columns: &[&Column], lifetime: &TokenStream) -> TokenStream {
    tuple(columns.iter().map(|column| passed(&column.ty, lifetime)))
}

/// The lifetime of a key in an argument's position: left to the compiler, unless several columns are borrowed.
///
/// Those need the same one. What a method returns cannot name the shorter of two lifetimes, and so cannot capture it (E0700).
pub(super) fn key_lifetime(columns: &[&Column]) -> TokenStream {
    let borrowed = columns.iter().filter(|column| is_borrowed(&column.ty));
    if borrowed.count() > 1 {
        quote!('__k)
    } else {
        TokenStream::new()
    }
}

/// The type of one column of a key as it is passed.
pub(super) fn passed(ty: &Type, lifetime: &TokenStream) -> TokenStream {
    if is_borrowed(ty) {
        quote!(&#lifetime str)
    } else {
        quote!(#ty)
    }
}

/// Text is borrowed where a key is passed, everything else is given.
fn is_borrowed(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|name| name == "String")
}
