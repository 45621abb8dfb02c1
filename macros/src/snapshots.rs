//! What the derives print, kept as files to read; and what they do with input that makes no sense.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use proptest::prelude::*;
use quote::quote;
use syn::{Expr, Item, Stmt};

use crate::derive::{
    Counter, CreateTable, Derive, FindOrCreate, Guarded, Idempotent, Lockable, Queue, Versioned,
    run,
};

/// The items of a derive's output, formatted.
struct Printed {
    /// What does not depend on the database.
    shared: String,
    /// What is kept if the runtime was built for the database.
    backends: Vec<(String, String)>,
    /// What is there with the feature `schema`, as it is here.
    needs: Vec<String>,
}

fn is_needs(statement: &Stmt) -> bool {
    let path = match statement {
        Stmt::Item(Item::Impl(item)) => item.trait_.as_ref().map(|(path, _)| path),
        Stmt::Macro(item) => Some(&item.mac.path),
        _ => None,
    };
    path.and_then(|path| path.segments.last())
        .is_some_and(|last| last.ident == "Described" || last.ident == "registered")
}

impl Printed {
    fn new(output: TokenStream) -> Self {
        let mut file: syn::File = syn::parse2(output).unwrap();
        let mut backends = Vec::new();
        let mut needs = Vec::new();
        for item in &mut file.items {
            let Item::Const(block) = item else { continue };
            let Expr::Block(block) = &mut *block.expr else {
                continue;
            };
            block.block.stmts.retain(|statement| {
                if is_needs(statement) {
                    let code = quote!(#statement);
                    needs.push(prettyplease::unparse(&syn::parse2(code).unwrap()));
                    return false;
                }
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
            needs,
        }
    }

    fn text(&self) -> String {
        let mut text = self.shared.clone();
        for (name, code) in &self.backends {
            text.push_str(&format!(
                "\n// inside the block above, in `__rt::{name}!`\n{code}"
            ));
        }
        for needs in &self.needs {
            text.push_str(&format!("\n// with the feature `schema`\n{needs}"));
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

fn payment() -> TokenStream {
    quote! {
        #[rowlock(table = "payments")]
        struct Payment {
            #[rowlock(key)]
            tenant: i64,
            #[rowlock(key)]
            key: String,
            #[rowlock(fingerprint)]
            fingerprint: Vec<u8>,
            #[rowlock(outcome)]
            #[sqlx(json(nullable))]
            receipt: Option<Receipt>,
            #[rowlock(fence)]
            fence: Fence,
            #[rowlock(lease)]
            leased_until: DateTime<Utc>,
            #[rowlock(finished)]
            finished_at: Option<DateTime<Utc>>,
        }
    }
}

fn email() -> TokenStream {
    quote! {
        #[rowlock(table = "mail.emails")]
        struct Email {
            #[rowlock(key)]
            tenant: i64,
            #[rowlock(key)]
            name: String,
            body: String,
            #[rowlock(filter)]
            kind: String,
            #[rowlock(priority(desc))]
            urgency: i16,
            #[rowlock(run_at)]
            due_at: DateTime<Utc>,
            #[rowlock(state)]
            state: QueueState,
            #[rowlock(attempts(max = 5))]
            attempts: i32,
            #[rowlock(fence)]
            fence: Fence,
            #[rowlock(lease)]
            leased_until: Option<DateTime<Utc>>,
            #[rowlock(last_error)]
            last_error: Option<String>,
            #[rowlock(finished)]
            finished_at: Option<DateTime<Utc>>,
        }
    }
}

/// With nothing that it need not have.
fn job() -> TokenStream {
    quote! {
        #[rowlock(table = "jobs")]
        struct Job {
            #[rowlock(key, generated)]
            id: i64,
            #[rowlock(run_at)]
            run_at: DateTime<Utc>,
            #[rowlock(state)]
            state: QueueState,
            #[rowlock(attempts)]
            attempts: i32,
            #[rowlock(fence)]
            fence: Fence,
            #[rowlock(lease)]
            leased_until: Option<DateTime<Utc>>,
        }
    }
}

/// Of all derives that look at it.
fn report() -> TokenStream {
    quote! {
        #[rowlock(table = "reports")]
        struct Report {
            #[rowlock(key, generated)]
            id: i64,
            #[rowlock(unique)]
            name: String,
            body: String,
            #[rowlock(fence)]
            fence: Fence,
            #[rowlock(version)]
            version: i64,
        }
    }
}

#[test]
fn versioned() {
    insta::assert_snapshot!(printed::<Versioned>(document()).text());
}

/// The house budget is 40 shared lines and 25 for each database. The shared part is longer, because it has the public
/// methods: a signature that says `impl Future + Send` and where it runs takes eight lines or more as they are printed
/// here, and the body of each is one call already. A write of many rows has two statements on PostgreSQL.
#[test]
fn versioned_stays_within_its_budget() {
    printed::<Versioned>(document()).assert_within(179, 73);
}

/// Each counter has statements for one row, for many, and for many callers of many rows and of one, and without `existing_rows` the first two in two forms. PostgreSQL binds and returns an array per column of the key. Those
/// for many stand in two parts.
#[test]
fn counter_stays_within_its_budget() {
    printed::<Counter>(page_views()).assert_within(68, 75);
    printed::<Counter>(stock()).assert_within(81, 55);
}

/// The upsert under a condition has two statements, each in two parts. Three methods are about many rows, with four statements on PostgreSQL.
#[test]
fn find_or_create_stays_within_its_budget() {
    printed::<FindOrCreate>(tag()).assert_within(174, 46);
}

#[test]
fn versioned_by_xmin() {
    let invoice = quote! {
        #[rowlock(table = "invoices", backend(Postgres))]
        struct Invoice {
            #[rowlock(key, generated)]
            id: i64,
            payee: String,
            #[rowlock(version)]
            version: rowlock::Xmin,
        }
    };
    let text = [
        printed::<Versioned>(invoice.clone()).text(),
        printed::<Guarded>(invoice.clone()).text(),
        printed::<Lockable>(invoice).text(),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn versioned_by_check() {
    let booking = quote! {
        #[rowlock(table = "bookings")]
        struct Booking {
            #[rowlock(key)]
            id: i64,
            guest: Option<String>,
            #[rowlock(check)]
            state: String,
            #[rowlock(check, on_update = "CURRENT_TIMESTAMP")]
            updated_at: Option<DateTime<Utc>>,
        }
    };
    insta::assert_snapshot!(printed::<Versioned>(booking).text());
}

fn person() -> TokenStream {
    quote! {
        #[rowlock(table = "people", unique(street, zip))]
        struct Person {
            #[sqlx(flatten)]
            #[rowlock(key, columns(tenant: i64, number: i64))]
            id: PersonId,
            #[sqlx(flatten)]
            #[rowlock(columns(street: String, #[sqlx(rename = "postcode")] zip: String))]
            address: Address,
            #[sqlx(flatten)]
            #[rowlock(generated, columns(created_at: DateTime<Utc>))]
            times: Times,
            #[rowlock(version)]
            version: i64,
        }
    }
}

#[test]
fn flattened() {
    insta::assert_snapshot!(printed::<Versioned>(person()).text());
    insta::assert_snapshot!(printed::<FindOrCreate>(person()).text());
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
fn guarded_stays_within_its_budget() {
    printed::<Guarded>(document()).assert_within(110, 35);
}

#[test]
fn guarded() {
    insta::assert_snapshot!(printed::<Guarded>(document()).text());
}

#[test]
fn guarded_with_docs() {
    insta::assert_snapshot!(Printed::new(run::<Guarded>(document())).text());
}

/// The options are on a type of the runtime, so there is a signature for each way to lock and nothing for each option.
#[test]
fn lockable_stays_within_its_budget() {
    printed::<Lockable>(document()).assert_within(74, 33);
    printed::<Lockable>(tag()).assert_within(59, 33);
}

#[test]
fn lockable() {
    insta::assert_snapshot!(printed::<Lockable>(document()).text());
}

#[test]
fn lockable_without_a_version() {
    insta::assert_snapshot!(printed::<Lockable>(tag()).text());
}

#[test]
fn lockable_with_docs() {
    insta::assert_snapshot!(Printed::new(run::<Lockable>(document())).text());
}

#[test]
fn create_table() {
    let text = [
        printed::<CreateTable>(tag()).text(),
        printed::<CreateTable>(payment()).text(),
        Printed::new(run::<CreateTable>(email())).text(),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn idempotent_stays_within_its_budget() {
    printed::<Idempotent>(payment()).assert_within(87, 35);
}

#[test]
fn idempotent() {
    insta::assert_snapshot!(printed::<Idempotent>(payment()).text());
}

/// The statements are fourteen, of which nine stand in two parts and one in four, and four once more for rows that are not locked; and the four of a
/// purge, in two parts, where it can be. On PostgreSQL there are two texts of DDL more, those for rows that are not locked have a third part, and batches of few
/// rows a condition more. A row that cannot be read as a whole is found by what its columns are.
#[test]
fn queue_stays_within_its_budget() {
    printed::<Queue>(email()).assert_within(210, 221);
    printed::<Queue>(job()).assert_within(179, 153);
}

#[test]
fn queue() {
    insta::assert_snapshot!(printed::<Queue>(email()).text());
}

#[test]
fn queue_with_docs() {
    insta::assert_snapshot!(Printed::new(run::<Queue>(job())).text());
}

/// The other derives leave alone what belongs to the queue, but for the time when a new row is due.
#[test]
fn queue_beside_others() {
    let email = quote! {
        #[rowlock(table = "emails")]
        struct Email {
            #[rowlock(key, generated)]
            id: i64,
            #[rowlock(unique)]
            name: String,
            #[rowlock(priority)]
            urgency: i16,
            #[rowlock(run_at)]
            due_at: DateTime<Utc>,
            #[rowlock(state)]
            state: QueueState,
            #[rowlock(attempts)]
            attempts: i32,
            #[rowlock(fence)]
            fence: Fence,
            #[rowlock(lease)]
            leased_until: Option<DateTime<Utc>>,
            #[rowlock(last_error)]
            last_error: Option<String>,
            #[rowlock(version)]
            version: i64,
        }
    };
    let text = [
        printed::<Versioned>(email.clone()).text(),
        printed::<FindOrCreate>(email).text(),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn fence() {
    let text = [
        printed::<Versioned>(report()).text(),
        printed::<Lockable>(report()).text(),
        printed::<FindOrCreate>(report()).text(),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn all_of_them() {
    let text = [
        printed::<Versioned>(article()).text(),
        printed::<Counter>(article()).text(),
        printed::<FindOrCreate>(article()).text(),
        printed::<Lockable>(article()).text(),
        printed::<Guarded>(article()).text(),
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
        printed::<FindOrCreate>(input.clone()).text(),
        printed::<Lockable>(input.clone()).text(),
        printed::<Idempotent>(input.clone()).text(),
        printed::<Queue>(input.clone()).text(),
        printed::<Guarded>(input.clone()).text(),
        printed::<CreateTable>(input).text(),
    ];
    insta::assert_snapshot!(text.join("\n"));
}

/// Equal input gives equal output, or the compiler's incremental cache would miss.
#[test]
fn output_is_the_same_every_time() {
    let text = || printed::<FindOrCreate>(tag()).text();
    assert_eq!(text(), text());
}

fn errors(output: &TokenStream) -> usize {
    output.to_string().matches("compile_error !").count()
}

/// The pieces that attributes are made of, and some that do not belong there.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "table",
        "unique",
        "new",
        "backend",
        "crate",
        "existing_rows",
        "key",
        "version",
        "counter",
        "generated",
        "default",
        "fence",
        "check",
        "columns",
        ":",
        "fingerprint",
        "outcome",
        "lease",
        "finished",
        "min",
        "max",
        "rename",
        "skip",
        "json",
        "flatten",
        "try_from",
        "Postgres",
        "Sqlite",
        "id",
        "slug",
        "r#type",
        "self",
        "versoin",
        "=",
        ",",
        "::",
        "-",
        ";",
        "#",
        "$",
        "!",
        "'a",
        "0",
        "-1",
        "99999999999999999999",
        "1.5",
        "\"\"",
        "\"a.b\"",
        "\"a.b.c\"",
        "\"nul\\0\"",
        "\"with \\\" quote\"",
        "b\"bytes\"",
        "'c'",
        "r#\"raw\"#",
        "true",
    ];
    proptest::sample::select(words.to_vec()).prop_map(str::to_owned)
}

fn pieces() -> impl Strategy<Value = String> {
    let leaf = proptest::collection::vec(piece(), 0..6).prop_map(|words| words.join(" "));
    leaf.prop_recursive(3, 24, 4, |inner| {
        let brackets = proptest::sample::select(vec![("(", ")"), ("[", "]"), ("{", "}")]);
        (piece(), brackets, inner.clone(), inner).prop_map(
            |(name, (open, close), inside, behind)| {
                format!("{name} {open} {inside} {close} {behind}")
            },
        )
    })
}

fn check_all(input: &str) -> Result<(), TestCaseError> {
    let Ok(input) = input.parse::<TokenStream>() else {
        return Ok(());
    };
    let runs = [
        run::<Versioned>,
        run::<Counter>,
        run::<FindOrCreate>,
        run::<Lockable>,
        run::<Guarded>,
        run::<Idempotent>,
        run::<Queue>,
        run::<CreateTable>,
    ];
    for run in runs {
        let output = run(input.clone());
        // Without an error the output is whole; with one, the stub is.
        prop_assert!(syn::parse2::<syn::File>(output.clone()).is_ok(), "{output}");
    }
    Ok(())
}

proptest! {
    /// Whatever stands in the attributes is read to the end: it gives code or errors, never a panic.
    #[test]
    fn any_attribute_is_survived(above in pieces(), on_id in pieces(), on_slug in pieces(), sqlx in pieces()) {
        check_all(&format!(
            "#[rowlock({above})] #[rowlock(table = \"t\", unique(slug))] #[sqlx({sqlx})] struct Model {{
                #[rowlock({on_id})] id: i64,
                #[rowlock({on_slug})] #[sqlx({sqlx})] slug: String,
                #[rowlock(version)] version: i64,
            }}"
        ))?;
    }

    /// So is an attribute of another shape, and an item of another kind.
    #[test]
    fn any_item_is_survived(attribute in pieces(), body in pieces(), kind in "struct|enum|union|fn") {
        check_all(&format!("#[rowlock {attribute}] {kind} Model {{ {body} }}"))?;
        check_all(&format!("{attribute} {kind} Model<{body}>({body});"))?;
        check_all(&body)?;
    }

    /// Every table and column name that is not refused gives statements.
    #[test]
    fn any_name_is_quoted_or_refused(table in "\\PC{0,70}", column in "\\PC{0,70}") {
        let input = quote! {
            #[rowlock(table = #table)]
            struct Model {
                #[rowlock(key)] id: i64,
                #[sqlx(rename = #column)] other: String,
                #[rowlock(version)] version: i64,
            }
        };
        let dots = table.matches('.').count();
        let fits = |name: &str| !name.is_empty() && name.len() <= 63;
        let good = dots < 2
            && table.split('.').all(fits)
            && fits(&column)
            && column != "id"
            && column != "version";
        let output = run::<Versioned>(input);
        prop_assert_eq!(errors(&output) == 0, good);
        if good {
            let text = Printed::new(output).text();
            let quoted = format!("\"{}\" = $1", column.replace('"', "\"\""));
            prop_assert!(text.contains(&quoted), "{}", text);
        }
    }
}
