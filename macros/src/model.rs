//! The model: what every derive knows about a struct once it was read and checked.

use std::collections::BTreeSet;

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Attribute, GenericArgument, Ident, PathArguments, Type, Visibility};

use crate::options::FieldOption;
use crate::sql::Dialect;

/// A struct that stands for a table.
pub(crate) struct Model {
    pub ident: Ident,
    pub vis: Visibility,
    pub table: Table,
    /// The fields that are columns, in source order.
    pub columns: Vec<Column>,
    pub unique: Vec<UniqueKey>,
    /// The name of the generated `New…` struct.
    pub new: Ident,
    /// What it derives, if that is said.
    pub new_derives: Option<Vec<syn::Path>>,
    pub backends: Vec<Dialect>,
    /// `Counter` adds to rows that exist and never creates one.
    pub existing_rows: bool,
    /// On `Lanes`, calls that wait become one statement.
    pub folds: bool,
    /// `Queue` deletes a job that is done.
    pub deletes_done: bool,
    /// `Queue` claims no job that matches a row of this table.
    pub pauses: Option<Table>,
}

/// A table name, split at the dot at compile time so that it can always be quoted.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Table {
    pub schema: Option<String>,
    pub name: String,
}

impl Table {
    /// As written by the user, for error messages.
    pub(crate) fn display(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// A field of another struct, whose fields are columns.
#[derive(Clone)]
pub(crate) struct Flattened {
    pub ident: Ident,
    pub ty: Type,
    pub docs: Vec<Attribute>,
}

/// A field that is a column.
pub(crate) struct Column {
    /// The field, as written (`r#type`).
    pub ident: Ident,
    /// The flattened fields that it is in, outermost first.
    pub inside: Vec<Flattened>,
    /// The field's name without `r#`, for generated method names and messages.
    pub field: String,
    /// The column's name in the database.
    pub name: String,
    pub ty: Type,
    pub docs: Vec<Attribute>,
    pub role: Role,
    pub key: bool,
    /// Written by the database, read back.
    pub generated: bool,
    /// Compared with what was read, instead of a version.
    pub check: bool,
    /// Filled by the database when an insert leaves it out.
    pub default: bool,
    /// What `create_table` writes after its name.
    #[cfg_attr(
        not(feature = "schema"),
        expect(dead_code, reason = "only that derive has tables made")
    )]
    pub definition: Option<String>,
    /// Given for a new row, and never overwritten by an upsert.
    pub insert_only: bool,
    /// The expression that a new row gets.
    pub on_insert: Option<String>,
    /// The expression that an update sets, and an upsert if the row is there.
    pub on_update: Option<String>,
    pub json: bool,
    /// As JSON that can be NULL.
    pub json_nullable: bool,
    /// Claims come in the order of this column.
    pub priority: Option<Priority>,
    /// Claims can be limited to one value of this column.
    pub filter: bool,
    /// Of the jobs with one value of this column so many are running at a time.
    pub per: Option<i64>,
    /// In the order of this column.
    pub sequence: bool,
    /// The texts of the states, if they are stored here.
    pub states: States,
    /// The option that gave the column its role, or else the field.
    pub asked: Span,
}

/// Which end of a column is claimed first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    LowestFirst,
    HighestFirst,
}

/// The state of a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Ready,
    Running,
    Done,
    Dead,
}

impl State {
    pub(crate) const ALL: [Self; 4] = [Self::Ready, Self::Running, Self::Done, Self::Dead];
    pub(crate) const NAMES: &[&str] = &["ready", "running", "done", "dead"];

    /// As rowlock calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
}

/// The states that a table has texts of its own for.
#[derive(Clone, Default)]
pub(crate) struct States(pub Vec<(State, String)>);

impl States {
    pub(crate) fn text(&self, state: State) -> &str {
        let own = self.0.iter().find(|(other, _)| *other == state);
        own.map_or(state.name(), |(_, text)| text)
    }
}

/// Who writes a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The user's code.
    Plain,
    /// `Versioned`.
    Version,
    /// PostgreSQL, of any write: the version of `Versioned` that needs no column.
    Xmin,
    /// `Counter`, within the bounds.
    Counter { min: Option<i64>, max: Option<i64> },
    /// The user's code, with the fence of a lock; every write checks it.
    Fence,
    /// `Idempotent`; the lease and the time of the end also `Queue`.
    Ledger(LedgerRole),
    /// `Queue`.
    Queue(QueueRole),
}

/// A column that `Queue` writes, beside the fence, the lease and the time of the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueRole {
    State,
    Dead,
    /// The caller gives it for a new row.
    RunAt,
    Attempts {
        max: Option<i64>,
    },
    LastError,
    /// Which of the running jobs of one value it is.
    Slot,
}

/// A column of the ledger of `Idempotent`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LedgerRole {
    Fingerprint,
    Outcome,
    Lease,
    Finished,
}

/// Columns whose values belong to at most one row, as indices into `Model::columns`.
pub(crate) struct UniqueKey {
    pub columns: Vec<usize>,
    /// What stands before and after each of them in an index on expressions.
    pub around: Vec<Option<(String, String)>>,
    /// Of a partial index.
    pub predicate: Option<String>,
    /// The states of a job in which it holds the key; in all, if none are said. They are part of the predicate.
    pub states: Vec<State>,
    pub nulls_not_distinct: bool,
    /// The generated column that has the index.
    pub on: Option<usize>,
    /// The option that declared it.
    pub asked: Span,
}

impl UniqueKey {
    /// A key of this column alone.
    pub(crate) fn of(column: usize, asked: Span) -> Self {
        Self {
            columns: vec![column],
            around: vec![None],
            predicate: None,
            states: Vec::new(),
            nulls_not_distinct: false,
            on: None,
            asked,
        }
    }

    /// The order of the columns does not matter to an index's uniqueness.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let parts = |key: &Self| -> BTreeSet<_> {
            key.columns
                .iter()
                .copied()
                .zip(key.around.clone())
                .collect()
        };
        parts(self) == parts(other)
            && self.predicate == other.predicate
            && self.states == other.states
    }

    /// Whether a NULL in the column would make the key one that no other equals.
    pub(crate) fn must_be_given(&self, column: &Column, around: Option<&(String, String)>) -> bool {
        let coalesced = around.is_some_and(|(before, _)| before == "coalesce(");
        let said = self.predicate.as_ref().is_some_and(|predicate| {
            let words = predicate.replace(['"', '`', '(', ')'], " ").to_lowercase();
            let words: Vec<&str> = words.split_whitespace().collect();
            let name = column.name.to_lowercase();
            words
                .windows(4)
                .any(|found| found == [name.as_str(), "is", "not", "null"])
        });
        !(self.nulls_not_distinct || coalesced || said)
    }

    /// The columns that must not be NULL, of those of [`Model::unique_columns`].
    pub(crate) fn not_null<'c>(&self, columns: &[&'c Column]) -> Vec<&'c Column> {
        let columns = columns.iter().zip(&self.around);
        columns
            .filter(|(column, around)| self.must_be_given(column, around.as_ref()))
            .map(|(column, _)| *column)
            .collect()
    }
}

impl Model {
    pub(crate) fn keys(&self) -> Vec<&Column> {
        self.columns.iter().filter(|column| column.key).collect()
    }

    pub(crate) fn version(&self) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.role == Role::Version)
    }

    /// What `Versioned` checks: a column that the writes of all derives raise, or what PostgreSQL itself has.
    pub(crate) fn row_version(&self) -> Option<&Column> {
        let xmin = || self.columns.iter().find(|column| column.is_xmin());
        self.version().or_else(xmin)
    }

    /// What `Versioned` compares instead of a version.
    pub(crate) fn checked(&self) -> Vec<&Column> {
        self.columns.iter().filter(|column| column.check).collect()
    }

    pub(crate) fn counters(&self) -> Vec<&Column> {
        self.columns
            .iter()
            .filter(|column| column.is_counter())
            .collect()
    }

    pub(crate) fn fence(&self) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.role == Role::Fence)
    }

    pub(crate) fn ledger(&self, role: LedgerRole) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| column.role == Role::Ledger(role))
    }

    pub(crate) fn queue(&self, role: impl Fn(QueueRole) -> bool) -> Option<&Column> {
        self.columns
            .iter()
            .find(|column| matches!(column.role, Role::Queue(found) if role(found)))
    }

    /// The columns that an update writes: not the key, and nothing that belongs to the database or to another derive.
    pub(crate) fn writable(&self) -> Vec<&Column> {
        self.columns
            .iter()
            .filter(|column| !column.key && column.is_plain() && !column.generated)
            .filter(|column| column.on_update.is_none())
            .collect()
    }

    /// The columns that an update sets by themselves, with their expressions.
    pub(crate) fn on_update(&self) -> impl Iterator<Item = (&Column, &str)> {
        let columns = self.columns.iter();
        columns.filter_map(|column| Some((column, column.on_update.as_deref()?)))
    }

    /// Whether the fence is that of the claims of a queue, which nobody gives.
    pub(crate) fn is_queue(&self) -> bool {
        self.queue(|role| matches!(role, QueueRole::Attempts { .. }))
            .is_some()
    }

    /// The columns that the caller gives for a new row.
    pub(crate) fn given(&self) -> Vec<&Column> {
        let queue = self.is_queue();
        self.columns
            .iter()
            .filter(|column| {
                let given = match column.role {
                    Role::Fence => !queue,
                    Role::Queue(QueueRole::RunAt) => true,
                    _ => column.is_plain() && !column.generated,
                };
                given && !column.default && !column.has_expression()
            })
            .collect()
    }

    pub(crate) fn unique_columns(&self, key: &UniqueKey) -> Vec<&Column> {
        key.columns
            .iter()
            .map(|&index| &self.columns[index])
            .collect()
    }
}

impl Column {
    /// Where it is in the struct: `id`, or `address.street` in a flattened field.
    pub(crate) fn place(&self) -> TokenStream {
        let (inside, ident) = (self.inside.iter().map(|field| &field.ident), &self.ident);
        quote!(#(#inside.)*#ident)
    }

    /// The same, for messages.
    pub(crate) fn written(&self) -> String {
        let inside = self.inside.iter().map(|field| format!("{}.", field.ident));
        inside.chain([self.field.clone()]).collect()
    }

    /// How to give it the option, for `help:`.
    pub(crate) fn marked(&self, option: FieldOption, model: &Ident) -> String {
        match self.inside.first() {
            None => format!("mark this field with `#[rowlock({})]`", option.name()),
            Some(flattened) => outside(&self.field, &flattened.ident, option, model),
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.role == Role::Plain
    }

    pub(crate) fn is_xmin(&self) -> bool {
        self.role == Role::Xmin
    }

    /// Whether the SQL of the user's fills it.
    pub(crate) fn has_expression(&self) -> bool {
        self.on_insert.is_some() || self.on_update.is_some()
    }

    pub(crate) fn is_counter(&self) -> bool {
        matches!(self.role, Role::Counter { .. })
    }

    /// The value of this column in a row that is being created by another derive's method.
    ///
    /// A version starts at 0; a counter at 0 or, when its bounds exclude 0, at the bound nearest to it.
    pub(crate) fn initial(&self) -> i64 {
        match self.role {
            Role::Counter { min, max } => 0.clamp(min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX)),
            Role::Plain
            | Role::Version
            | Role::Xmin
            | Role::Fence
            | Role::Ledger(_)
            | Role::Queue(_) => 0,
        }
    }
}

/// How to give the option to a column of a flattened field, where it cannot be said, for `help:`.
pub(crate) fn outside(
    column: &str,
    flattened: &Ident,
    option: FieldOption,
    model: &Ident,
) -> String {
    let alone = format!("make `{column}` a field of `{model}` by itself");
    if !option.rule().flattened {
        return alone;
    }
    let option = option.name();
    format!(
        "say `{option}` beside `columns`, for all of `{flattened}`: `#[rowlock(columns(…), {option})]`, or {alone}"
    )
}

/// A type as it was written, for messages: tokens are printed with spaces between them.
pub(crate) fn shown(ty: &Type) -> String {
    const CLOSER: [(&str, &str); 7] = [
        (" ::", "::"),
        (":: ", "::"),
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ,", ","),
        ("& ", "&"),
    ];
    let text = quote!(#ty).to_string();
    let closer = |text: String, (from, to): (&str, &str)| text.replace(from, to);
    CLOSER.into_iter().fold(text, closer)
}

/// Whether `ty` is written as `bool`.
pub(crate) fn is_bool(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|name| name == "bool")
}

/// Whether `ty` is written as `Option<...>`. An alias is caught by a check in the generated code.
pub(crate) fn is_option(ty: &Type) -> bool {
    last_segment(ty).is_some_and(|name| name == "Option")
}

/// The type inside of what is written as `Option<...>`.
pub(crate) fn inside_option(ty: &Type) -> Option<&Type> {
    if !is_option(ty) {
        return None;
    }
    let Type::Path(path) = ty else { return None };
    match &path.path.segments.last()?.arguments {
        PathArguments::AngleBracketed(arguments) => match arguments.args.first()? {
            GenericArgument::Type(inner) => Some(inner),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the type is one of JSON, as far as its name tells: equal values can have different texts.
pub(crate) fn is_json(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    if last.ident == "Option"
        && let PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(GenericArgument::Type(inner)) = arguments.args.first()
    {
        return is_json(inner);
    }
    last.ident == "Json"
        || last.ident == "JsonValue"
        || quote!(#path).to_string().ends_with("serde_json :: Value")
}

/// The last word of a type's path: `String` of `::std::string::String`.
pub(crate) fn last_segment(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) if path.qself.is_none() => path
            .path
            .segments
            .last()
            .map(|segment| segment.ident.to_string()),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}
