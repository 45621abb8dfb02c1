//! What the derives print, kept as files to read; and what they do with input that makes no sense.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use proptest::prelude::*;
use quote::quote;
use syn::{Expr, Item, Stmt};

use crate::derive::{Counter, Derive, FindOrCreate, Versioned, run};

/// The items of a derive's output, formatted.
struct Printed {
    /// What does not depend on the database.
    shared: String,
    /// What is kept if the runtime was built for the database.
    backends: Vec<(String, String)>,
}

impl Printed {
    fn new(output: TokenStream) -> Self {
        let mut file: syn::File = syn::parse2(output).unwrap();
        let mut backends = Vec::new();
        for item in &mut file.items {
            let Item::Const(block) = item else { continue };
            let Expr::Block(block) = &mut *block.expr else {
                continue;
            };
            block.block.stmts.retain(|statement| {
                let Stmt::Macro(wrapper) = statement else {
                    return true;
                };
                let name = wrapper.mac.path.segments.last().unwrap().ident.to_string();
                let code = syn::parse2(wrapper.mac.tokens.clone()).unwrap();
                backends.push((name, prettyplease::unparse(&code)));
                false
            });
        }
        Self {
            shared: prettyplease::unparse(&file),
            backends,
        }
    }

    fn text(&self) -> String {
        let mut text = self.shared.clone();
        for (name, code) in &self.backends {
            text.push_str(&format!(
                "\n// inside the block above, in `__rt::{name}!`\n{code}"
            ));
        }
        text
    }

    fn assert_within(&self, shared: usize, per_backend: usize) {
        let lines = |text: &str| text.lines().filter(|line| !line.is_empty()).count();
        let found = lines(&self.shared);
        assert!(found <= shared, "{found} shared lines");
        for (name, code) in &self.backends {
            let found = lines(code);
            assert!(found <= per_backend, "{found} lines for {name}");
        }
    }
}

/// Drops `#[doc = "..."]`.
fn without_docs(tokens: TokenStream) -> TokenStream {
    let mut kept: Vec<TokenTree> = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let is_doc = group.delimiter() == Delimiter::Bracket
                    && group.stream().to_string().starts_with("doc ");
                if is_doc {
                    kept.pop();
                } else {
                    let stream = without_docs(group.stream());
                    kept.push(Group::new(group.delimiter(), stream).into());
                }
            }
            token => kept.push(token),
        }
    }
    kept.into_iter().collect()
}

fn printed<D: Derive>(input: TokenStream) -> Printed {
    Printed::new(without_docs(run::<D>(input)))
}

fn document() -> TokenStream {
    quote! {
        #[rowlock(table = "documents")]
        struct Document {
            #[rowlock(key)]
            id: i64,
            title: String,
            body: Option<String>,
            #[rowlock(generated)]
            updated_at: DateTime<Utc>,
            #[rowlock(version)]
            lock_version: i64,
        }
    }
}

fn page_views() -> TokenStream {
    quote! {
        #[rowlock(table = "page_views")]
        struct PageViews {
            #[rowlock(key)]
            site: String,
            #[rowlock(key)]
            page: i64,
            #[rowlock(counter)]
            views: i64,
            #[rowlock(default)]
            created_at: DateTime<Utc>,
            note: Option<String>,
        }
    }
}

fn stock() -> TokenStream {
    quote! {
        #[rowlock(table = "shop.stock", existing_rows)]
        struct Stock {
            #[rowlock(key)]
            product: Uuid,
            name: String,
            price: i64,
            location: String,
            #[rowlock(counter(min = 0, max = 1000))]
            amount: i32,
        }
    }
}

fn tag() -> TokenStream {
    quote! {
        #[rowlock(table = "tags", unique(tenant_id, slug))]
        pub struct Tag {
            #[rowlock(key, generated)]
            id: i64,
            tenant_id: i64,
            slug: String,
            /// What people read.
            pub title: String,
            color: Option<i32>,
        }
    }
}

fn article() -> TokenStream {
    quote! {
        #[rowlock(table = "articles", existing_rows)]
        struct Article {
            #[rowlock(key, generated)]
            id: i64,
            #[rowlock(unique)]
            slug: String,
            title: String,
            #[rowlock(counter(min = 0))]
            likes: i32,
            #[rowlock(version)]
            lock_version: i32,
        }
    }
}

#[test]
fn versioned() {
    insta::assert_snapshot!(printed::<Versioned>(document()).text());
}

#[test]
fn versioned_with_docs() {
    insta::assert_snapshot!(Printed::new(run::<Versioned>(document())).text());
}

#[test]
fn counter() {
    insta::assert_snapshot!(printed::<Counter>(page_views()).text());
}

#[test]
fn counter_on_existing_rows() {
    insta::assert_snapshot!(printed::<Counter>(stock()).text());
}

#[test]
fn find_or_create() {
    insta::assert_snapshot!(printed::<FindOrCreate>(tag()).text());
}

#[test]
fn all_three() {
    let text = [
        printed::<Versioned>(article()).text(),
        printed::<Counter>(article()).text(),
        printed::<FindOrCreate>(article()).text(),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn a_stub_has_the_names_of_the_real_thing() {
    let input = quote! {
        struct Article {
            #[rowlock(key, generated)]
            id: i64,
            #[rowlock(unique)]
            slug: String,
            #[rowlock(counter)]
            likes: i32,
            #[rowlock(version)]
            lock_version: i64,
        }
    };
    let text = [
        printed::<Versioned>(input.clone()).text(),
        printed::<Counter>(input.clone()).text(),
        printed::<FindOrCreate>(input).text(),
    ];
    insta::assert_snapshot!(text.join("\n"));
}
