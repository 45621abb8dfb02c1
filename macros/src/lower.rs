//! From the struct as written to the checked [`Model`]: the rules that all derives share.

use heck::{ToKebabCase, ToLowerCamelCase, ToShoutySnakeCase, ToSnakeCase, ToUpperCamelCase};
use proc_macro2::Span;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{Attribute, Data, DeriveInput, Field, Fields, Ident, LitStr, Type};

use crate::attr::{FieldAttrs, Given, SqlxAttrs, StructAttrs, UniqueAttr, sqlx_rename_all};
use crate::check::{
    check_checked, check_field, check_flattened, check_name, check_nulls_not_distinct, check_sql,
    check_storable, check_together, check_xmin, is_xmin, nullable,
};
use crate::derive::default_new;
use crate::diag::{Diag, suggest};
use crate::model::{
    Column, Flattened, Model, Role, State, States, Table, UniqueKey, is_option, outside, shown,
};
use crate::options::FieldOption;
use crate::sql::Dialect;
use crate::sql::queue::in_states;

/// Options that were misspelt, misplaced or malformed: what was meant is not reported as missing as well.
#[derive(Default)]
pub(crate) struct Attempted(Vec<&'static str>);

impl Attempted {
    pub(crate) fn has(&self, option: &str) -> bool {
        self.0.contains(&option)
    }
}

/// Reads `input`. `None` if the shape is wrong, which was then reported.
///
/// No text names the derive that asked: all derives of a struct report the same mistakes in the same words, and the
/// compiler prints them once.
pub(crate) fn lower(input: &DeriveInput, diag: &Diag) -> Option<(Model, Attempted)> {
    let attrs = StructAttrs::read(&input.attrs, diag);
    let fields = named_fields(input, diag)?;
    let rename_all = sqlx_rename_all(&input.attrs);
    let mut attempted = attrs.attempted.clone();
    let backends = attrs.backends.clone();
    let backends = backends.unwrap_or_else(|| Dialect::ALL.to_vec());

    let mut columns = Vec::new();
    let mut field_keys = Vec::new();
    let mut checked = Vec::new();
    let mut taken: Vec<(FieldOption, &Ident)> = Vec::new();
    for field in fields {
        let Some(ident) = &field.ident else { continue };
        let options = FieldAttrs::read(&field.attrs, diag);
        let sqlx = SqlxAttrs::read(&field.attrs);
        attempted.extend(&options.attempted);
        if sqlx.skip {
            skipped(ident, &options, diag);
            continue;
        }
        for given in options.given() {
            let rule = given.option.rule();
            match taken.iter().find(|(option, _)| *option == given.option) {
                None => taken.push((given.option, ident)),
                Some((_, first)) if !rule.several => diag.error(
                    &given.name,
                    format_args!(
                        "`{0}` has more than one {1} field\n\
                         note: `{first}` is already {2}; keep only one `#[rowlock({1})]`",
                        input.ident, given.name, rule.is
                    ),
                ),
                Some(_) => {}
            }
        }
        check_together(ident, &options, diag);
        let fits = check_flattened(ident, &options, &sqlx, diag);
        for leaf in leaves(field, &options, sqlx, &input.ident, diag) {
            let Leaf {
                field,
                sqlx,
                inside,
                refused,
            } = leaf;
            attempted.extend(&refused.attempted);
            let said = |option| options.get(option).or_else(|| refused.get(option));
            let has = |option| said(option).is_some();
            let Some(ident) = &field.ident else { continue };
            if fits {
                check_field(ident, &field.ty, &options, &sqlx, diag);
            }
            checked.extend(said(FieldOption::Check).map(|given| given.name.clone()));
            if let Some(unique) = said(FieldOption::Unique) {
                field_keys.push((columns.len(), unique.name.span()));
            }
            let expression = |option| {
                let text = said(option)?.value.text()?;
                check_sql(text, &backends, diag);
                Some(text.value())
            };
            // The other struct has a `rename_all` of its own.
            let rename_all = rename_all.as_deref().filter(|_| inside.is_empty());
            let name = column_name(ident, &sqlx, rename_all);
            match &sqlx.rename {
                Some(text) => check_name("column", &name, text, diag),
                None => check_name("column", &name, ident, diag),
            }
            columns.push(Column {
                ident: ident.clone(),
                inside,
                field: ident.unraw().to_string(),
                name,
                ty: field.ty.clone(),
                docs: docs(&field),
                role: role(options.role().or(refused.role()), &field.ty),
                key: has(FieldOption::Key),
                generated: has(FieldOption::Generated),
                check: has(FieldOption::Check),
                default: has(FieldOption::Default),
                definition: expression(FieldOption::Definition),
                insert_only: has(FieldOption::InsertOnly),
                on_insert: expression(FieldOption::OnInsert),
                on_update: expression(FieldOption::OnUpdate),
                json: sqlx.json.is_some(),
                json_nullable: sqlx.json_nullable,
                priority: said(FieldOption::Priority).map(|given| given.value.order()),
                filter: has(FieldOption::Filter),
                per: said(FieldOption::Per).map(|given| given.value.number("max").unwrap_or(1)),
                sequence: has(FieldOption::Sequence),
                states: said(FieldOption::State)
                    .map_or_else(States::default, |given| given.value.states()),
                asked: options
                    .role()
                    .or(refused.role())
                    .map_or(ident, |given| &given.name)
                    .span(),
            });
        }
    }
    same_column_twice(&columns, &input.ident, diag);

    let mut unique: Vec<UniqueKey> = field_keys
        .iter()
        .map(|&(index, asked)| UniqueKey::of(index, asked))
        .collect();
    // The fields marked `unique` were told about their `Option` above; say it once.
    let mut told_nullable: Vec<usize> = field_keys.iter().map(|(index, _)| *index).collect();
    for attr in &attrs.unique {
        let Some(key) = unique_key(attr, input, &columns, &mut told_nullable, diag) else {
            continue;
        };
        if let Some(predicate) = &attr.key.predicate {
            check_sql(predicate, &backends, diag);
        }
        if let Some(asked) = &attr.key.nulls_not_distinct {
            check_nulls_not_distinct(asked, &backends, diag);
        }
        if unique.iter().any(|other| other.is_same(&key)) {
            diag.error(&attr.option, "this unique key is declared twice");
        } else {
            unique.push(key);
        }
    }

    check_checked(&input.ident, &columns, &checked, diag);
    let attempted = Attempted(attempted);
    for column in &columns {
        check_storable(column, &backends, diag);
        check_xmin(&input.ident, column, &columns, &backends, diag);
    }
    let table = table(input, &attrs, &attempted, diag);
    let pauses = attrs
        .pauses
        .as_ref()
        .and_then(|text| table_of_pauses(text, table.as_ref(), diag));
    let mut model = Model {
        ident: input.ident.clone(),
        vis: input.vis.clone(),
        table: table.unwrap_or_default(),
        columns,
        unique,
        new: attrs.new.unwrap_or_else(|| default_new(&input.ident)),
        new_derives: attrs.new_derives,
        backends,
        existing_rows: attrs.existing_rows,
        folds: !attrs.fold_off,
        deletes_done: attrs.deletes_done,
        pauses,
    };
    while_in_states(&mut model, &attempted, diag);
    Some((model, attempted))
}

/// The states in which a job holds a key are a condition of its index.
fn while_in_states(model: &mut Model, attempted: &Attempted, diag: &Diag) {
    let keys = model.unique.iter().map(|key| key.states.as_slice());
    let found: Vec<Option<String>> = keys.map(|states| in_states(model, states)).collect();
    for (key, found) in model.unique.iter_mut().zip(found) {
        if key.states.is_empty() {
            continue;
        }
        let Some(states) = found else {
            if !attempted.has(FieldOption::State.name()) {
                diag.push(syn::Error::new(
                    key.asked,
                    format_args!(
                        "`while(...)` names states of a job, and `{}` has none\n\
                         help: mark the field that has them with `#[rowlock(state)]`, or use `where = \"...\"`",
                        model.ident
                    ),
                ));
            }
            continue;
        };
        if model.deletes_done && key.states.contains(&State::Done) {
            diag.push(syn::Error::new(
                key.asked,
                "a job that is done is deleted, and holds no key\nhelp: leave out `done` here, or `done = delete`",
            ));
        }
        key.predicate = Some(match &key.predicate {
            Some(predicate) => format!("({predicate}) AND ({states})"),
            None => states,
        });
    }
}

fn named_fields<'a>(
    input: &'a DeriveInput,
    diag: &Diag,
) -> Option<&'a syn::punctuated::Punctuated<syn::Field, syn::Token![,]>> {
    let not_a_model = |tokens: &dyn ToTokens, what: &str, note: &str| {
        diag.error(
            tokens.to_token_stream(),
            format_args!(
                "`{}` is {what}, and a model is a struct with named fields\nnote: {note}",
                input.ident
            ),
        );
        None
    };
    let fields = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Some(&fields.named),
            Fields::Unnamed(fields) => not_a_model(
                fields,
                "a tuple struct",
                "each column needs the name of a field",
            ),
            Fields::Unit => not_a_model(&input.ident, "a unit struct", "it has no columns"),
        },
        Data::Enum(data) => not_a_model(&data.enum_token, "an enum", "it has no columns"),
        Data::Union(data) => not_a_model(&data.union_token, "a union", "it has no columns"),
    };
    let Some(first) = input.generics.params.first() else {
        return fields;
    };
    let (name, help) = match first {
        syn::GenericParam::Type(param) => {
            let json = fields.and_then(|fields| json_of(&param.ident, fields));
            let help = match json {
                Some(field) => format!(
                    "and give `{field}` one type: an enum of what it can be, or `serde_json::Value`"
                ),
                None => "or use one struct per concrete type".to_owned(),
            };
            (param.ident.to_string(), help)
        }
        syn::GenericParam::Lifetime(param) => (
            param.lifetime.to_string(),
            "and own the values (`String` instead of `&str`)".to_owned(),
        ),
        syn::GenericParam::Const(param) => (
            param.ident.to_string(),
            "or use one struct per value".to_owned(),
        ),
    };
    diag.error(
        &input.generics,
        format_args!(
            "`{}` is generic, so it cannot be a model\n\
             note: the SQL is fixed at compile time, so every column type must be known\n\
             help: remove `{name}`, {help}",
            input.ident
        ),
    );
    None
}

/// The column of JSON that has this type.
fn json_of<'f>(
    name: &Ident,
    fields: &'f syn::punctuated::Punctuated<Field, syn::Token![,]>,
) -> Option<&'f Ident> {
    let mut fields = fields.iter();
    let json = fields.find(|field| {
        let is_it = matches!(&field.ty, Type::Path(path) if path.path.is_ident(name));
        is_it && SqlxAttrs::read(&field.attrs).json.is_some()
    })?;
    json.ident.as_ref()
}

fn skipped(ident: &Ident, options: &FieldAttrs, diag: &Diag) {
    for given in options.given() {
        diag.error(
            &given.name,
            format_args!(
                "`{ident}` is not a column: sqlx skips it\nhelp: remove `#[sqlx(skip)]` or `{}`",
                given.name
            ),
        );
    }
}

/// A field that is one column.
struct Leaf {
    field: Field,
    sqlx: SqlxAttrs,
    inside: Vec<Flattened>,
    /// What was said where it cannot be, which was reported: it is not also reported as missing.
    refused: FieldAttrs,
}

fn leaves(
    field: &Field,
    options: &FieldAttrs,
    sqlx: SqlxAttrs,
    model: &Ident,
    diag: &Diag,
) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    match sqlx.flatten {
        Some(_) => flattened(field, options, &sqlx, &[], model, &mut leaves, diag),
        None => leaves.push(Leaf {
            field: field.clone(),
            sqlx,
            inside: Vec::new(),
            refused: FieldAttrs::default(),
        }),
    }
    leaves
}

/// The field, or what is in it if it is flattened, as far as that can be read.
pub(crate) fn columns_of(field: &Field) -> Vec<Field> {
    let quiet = Diag::new();
    let options = FieldAttrs::read(&field.attrs, &quiet);
    let sqlx = SqlxAttrs::read(&field.attrs);
    let model = Ident::new("_", Span::call_site());
    let leaves = leaves(field, &options, sqlx, &model, &quiet);
    let _ = quiet.finish();
    leaves.into_iter().map(|leaf| leaf.field).collect()
}

/// What is in a flattened field, of which a macro sees the name of the type alone: as it is repeated there.
fn flattened(
    field: &Field,
    options: &FieldAttrs,
    sqlx: &SqlxAttrs,
    inside: &[Flattened],
    model: &Ident,
    leaves: &mut Vec<Leaf>,
    diag: &Diag,
) {
    let (Some(ident), Some(flatten)) = (&field.ident, &sqlx.flatten) else {
        return;
    };
    let spec = FieldOption::Columns.spec();
    let Some(columns) = options.get(FieldOption::Columns) else {
        if !options.attempted.contains(&spec.name) {
            let ty = shown(&field.ty);
            diag.error(
                flatten,
                format_args!(
                    "the columns of the flattened field `{ident}` are not visible to rowlock\n\
                     help: repeat the fields of `{ty}` above it: `#[rowlock({})]`",
                    spec.example
                ),
            );
        }
        return;
    };
    let this = Flattened {
        ident: ident.clone(),
        ty: field.ty.clone(),
        docs: docs(field),
    };
    let outermost = inside.first().map_or(ident, |outer| &outer.ident);
    let inside = [inside, &[this]].concat();
    for field in columns.value.columns() {
        let options = FieldAttrs::read(&field.attrs, diag);
        let sqlx = SqlxAttrs::read(&field.attrs);
        let about_one = |given: &&Given| given.option != FieldOption::Columns;
        let Some(column) = &field.ident else { continue };
        for given in options.given().iter().filter(about_one) {
            let help = outside(&column.unraw().to_string(), outermost, given.option, model);
            diag.error(
                &given.name,
                format_args!(
                    "a column of a flattened field has no options of its own\nhelp: {help}"
                ),
            );
        }
        renames_all(column, &sqlx, diag);
        match (sqlx.skip, &sqlx.flatten) {
            (true, _) => {}
            (false, Some(_)) => {
                flattened(field, &options, &sqlx, &inside, model, leaves, diag);
            }
            (false, None) => leaves.push(Leaf {
                field: field.clone(),
                sqlx,
                inside: inside.clone(),
                refused: options,
            }),
        }
    }
}

/// sqlx knows it above a struct alone, and never sees what is repeated.
fn renames_all(column: &Ident, sqlx: &SqlxAttrs, diag: &Diag) {
    let Some((option, style)) = &sqlx.rename_all else {
        return;
    };
    let help = if sqlx.flatten.is_some() {
        "write `#[sqlx(rename = \"...\")]` on each of the columns in it".to_owned()
    } else {
        let style = style.as_ref().map(LitStr::value);
        let name = column_name(column, sqlx, style.as_deref());
        format!("write `#[sqlx(rename = \"{name}\")]`")
    };
    diag.error(
        option,
        format_args!(
            "`rename_all` is for a whole struct, and `{column}` is one field\nhelp: {help}"
        ),
    );
}

fn docs(field: &Field) -> Vec<Attribute> {
    let attrs = field.attrs.iter();
    attrs
        .filter(|attr| attr.path().is_ident("doc"))
        .cloned()
        .collect()
}

fn role(given: Option<&Given>, ty: &Type) -> Role {
    let role = |given: &Given| Some(given.option.rule().role?(&given.value));
    match given.and_then(role).unwrap_or(Role::Plain) {
        Role::Version if is_xmin(ty) => Role::Xmin,
        role => role,
    }
}

/// The column that sqlx reads for this field: `rename` wins over `rename_all`, as in sqlx.
fn column_name(ident: &Ident, sqlx: &SqlxAttrs, rename_all: Option<&str>) -> String {
    if let Some(name) = &sqlx.rename {
        return name.value();
    }
    let name = ident.unraw().to_string();
    match rename_all {
        Some("lowercase") => name.to_lowercase(),
        Some("snake_case") => name.to_snake_case(),
        Some("UPPERCASE") => name.to_uppercase(),
        Some("SCREAMING_SNAKE_CASE") => name.to_shouty_snake_case(),
        Some("kebab-case") => name.to_kebab_case(),
        Some("camelCase") => name.to_lower_camel_case(),
        Some("PascalCase") => name.to_upper_camel_case(),
        _ => name,
    }
}

/// A column has one place in the struct, and a name that no other has: constants, methods and arguments are called so.
fn same_column_twice(columns: &[Column], model: &Ident, diag: &Diag) {
    for (index, column) in columns.iter().enumerate() {
        let mut before = columns[..index].iter();
        let same = |other: &&Column| other.name == column.name || other.field == column.field;
        let Some(first) = before.find(same) else {
            continue;
        };
        let (one, two) = (first.written(), column.written());
        let of = |column: &Column| column.inside.last().map(|flattened| shown(&flattened.ty));
        let twice = of(first).filter(|ty| of(column).as_ref() == Some(ty));
        if columns[..index].iter().any(|other| other.written() == two) {
            diag.error(
                &column.ident,
                format_args!("`{two}` is listed twice\nhelp: keep one of them"),
            );
        } else if let Some(ty) = twice {
            diag.error(
                &column.ident,
                format_args!(
                    "the columns `{one}` and `{two}` are one field of `{ty}`, which is read from one column\n\
                     help: make one of them a field of another struct, that has a name and a column of its own"
                ),
            );
        } else if first.name == column.name {
            diag.error(
                &column.ident,
                format_args!(
                    "the fields `{one}` and `{two}` are both stored in the column `{}`\n\
                     help: rename one with `#[sqlx(rename = \"...\")]`",
                    column.name
                ),
            );
        } else {
            // A field of this struct is easier to rename.
            let renamed = if first.inside.is_empty() {
                first
            } else {
                column
            };
            diag.error(
                &column.ident,
                format_args!(
                    "the columns `{one}` and `{two}` would share the names of what is generated for them\n\
                     help: rename the field {}",
                    another_name(renamed, model)
                ),
            );
        }
    }
}

/// `street` of `Bill`, to `bill_street` for example.
fn another_name(column: &Column, model: &Ident) -> String {
    let Column { field, name, .. } = column;
    let (owner, prefix) = match column.inside.last() {
        Some(flattened) => (shown(&flattened.ty), flattened.ident.unraw().to_string()),
        None => (model.to_string(), model.unraw().to_string().to_snake_case()),
    };
    if name != field && *name == name.to_snake_case() && syn::parse_str::<Ident>(name).is_ok() {
        return format!("`{field}` of `{owner}`, to `{name}` for example");
    }
    format!(
        "`{field}` of `{owner}`, to `{prefix}_{field}` for example, and keep its column with `#[sqlx(rename = \"{name}\")]`"
    )
}

fn unique_key(
    attr: &UniqueAttr,
    input: &DeriveInput,
    columns: &[Column],
    told_nullable: &mut Vec<usize>,
    diag: &Diag,
) -> Option<UniqueKey> {
    let names: Vec<&str> = columns.iter().map(|column| column.field.as_str()).collect();
    let find = |field: &Ident| {
        let name = field.unraw().to_string();
        let index = names.iter().position(|known| *known == name);
        if index.is_none() {
            diag.error(
                field,
                format_args!(
                    "`{}` has no field `{name}`\n{}",
                    input.ident,
                    suggest(&name, &names)
                ),
            );
        }
        index
    };
    let mut key = UniqueKey {
        columns: Vec::new(),
        around: Vec::new(),
        predicate: attr.key.predicate.as_ref().map(LitStr::value),
        states: states_of_key(&attr.key.states, diag),
        nulls_not_distinct: attr.key.nulls_not_distinct.is_some(),
        on: None,
        asked: attr.option.span(),
    };
    let mut complete = true;
    if let Some(field) = &attr.key.on {
        key.on = find(field);
        complete = key.on.is_some();
        if let Some(index) = key.on.filter(|index| !columns[*index].generated) {
            diag.error(
                field,
                format_args!(
                    "`{field}` is given by the caller, so it can be a part of the key itself\n\
                     note: `on(…)` is for a column that the database makes of the others\n\
                     help: {}, or write `unique({field})`",
                    columns[index].marked(FieldOption::Generated, &input.ident)
                ),
            );
        }
    }
    for part in &attr.key.parts {
        let field = &part.field;
        let name = field.unraw().to_string();
        let Some(index) = find(field) else {
            complete = false;
            continue;
        };
        if key.columns.contains(&index) {
            diag.error(field, format_args!("`{name}` is listed twice in one key"));
            complete = false;
            continue;
        }
        key.columns.push(index);
        key.around.push(part.around.clone());
        let column = &columns[index];
        let why_not = match column.role {
            Role::Version | Role::Xmin => {
                Some("the version changes with every update, so it cannot identify a row")
            }
            Role::Counter { .. } => {
                Some("a counter changes with every call, so it cannot identify a row")
            }
            Role::Fence => Some("the fence changes with every lock, so it cannot identify a row"),
            Role::Ledger(_) => Some("calls under the key write it, so it cannot identify a row"),
            Role::Queue(_) => Some("claims write it, so it cannot identify a row"),
            Role::Plain if column.generated || column.default || column.has_expression() => {
                Some("nobody can look for a value that the database has yet to make up")
            }
            Role::Plain if column.json => {
                Some("it is stored as JSON, and equal values can be different texts")
            }
            Role::Plain => None,
        };
        if let Some(note) = why_not {
            diag.error(
                field,
                format_args!("`{name}` cannot be part of a unique key\nnote: {note}"),
            );
        }
        if is_option(&column.ty)
            && key.must_be_given(column, part.around.as_ref())
            && !told_nullable.contains(&index)
        {
            told_nullable.push(index);
            nullable(&column.ident, &column.ty, FieldOption::Unique.rule(), diag);
        }
    }
    complete.then_some(key)
}

/// In one order, whatever the order in which they are written.
fn states_of_key(names: &[Ident], diag: &Diag) -> Vec<State> {
    let mut found = Vec::new();
    for name in names {
        let text = name.to_string();
        match State::ALL.into_iter().find(|state| state.name() == text) {
            Some(state) if found.contains(&state) => {
                diag.error(name, format_args!("`{text}` is listed twice in one key"));
            }
            Some(state) => found.push(state),
            None => diag.error(
                name,
                format_args!("unknown state `{text}`\n{}", suggest(&text, State::NAMES)),
            ),
        }
    }
    found.sort();
    found
}

fn table(
    input: &DeriveInput,
    attrs: &StructAttrs,
    attempted: &Attempted,
    diag: &Diag,
) -> Option<Table> {
    let Some(text) = &attrs.table else {
        if !attempted.has("table") {
            diag.error(
                &input.ident,
                format_args!(
                    "missing table name for `{}`\n\
                     help: add `#[rowlock(table = \"{}\")]` above the struct",
                    input.ident,
                    plural(&input.ident.unraw().to_string().to_snake_case())
                ),
            );
        }
        return None;
    };
    table_named(text, diag)
}

fn table_of_pauses(text: &LitStr, queue: Option<&Table>, diag: &Diag) -> Option<Table> {
    let pauses = table_named(text, diag)?;
    if queue.is_some_and(|queue| *queue == pauses) {
        diag.error(
            text,
            format_args!(
                "`{0}` has the jobs\nhelp: name a table of its own for the pauses, `{0}_pauses` say; `ddl()` creates it",
                pauses.display()
            ),
        );
    }
    Some(pauses)
}

fn table_named(text: &LitStr, diag: &Diag) -> Option<Table> {
    let value = text.value();
    let parts: Vec<&str> = value.split('.').collect();
    let (schema, name) = match parts.as_slice() {
        [name] => (None, *name),
        [schema, name] => (Some(*schema), *name),
        _ => {
            diag.error(
                text,
                "a table name has at most one dot\nhelp: write `table = \"schema.table\"`",
            );
            return None;
        }
    };
    if let Some(schema) = schema {
        check_name("schema", schema, text, diag);
    }
    check_name("table", name, text, diag);
    Some(Table {
        schema: schema.map(str::to_owned),
        name: name.to_owned(),
    })
}

/// A guess for a help text, nothing more.
fn plural(name: &str) -> String {
    match name.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ if name.ends_with('s') => name.to_owned(),
        _ => format!("{name}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What sqlx's derive makes of the same names, by its own documentation; `tests/ui/pass/names.rs` asks sqlx itself.
    #[test]
    fn rename_all_is_that_of_sqlx() {
        let cases = [
            (Some("lowercase"), "mail_address2"),
            (Some("snake_case"), "mail_address2"),
            (Some("UPPERCASE"), "MAIL_ADDRESS2"),
            (Some("SCREAMING_SNAKE_CASE"), "MAIL_ADDRESS2"),
            (Some("kebab-case"), "mail-address2"),
            (Some("camelCase"), "mailAddress2"),
            (Some("PascalCase"), "MailAddress2"),
            (None, "mail_address2"),
        ];
        for (rename_all, expected) in cases {
            let field: Ident = syn::parse_str("mail_address2").unwrap();
            let name = column_name(&field, &SqlxAttrs::default(), rename_all);
            assert_eq!(name, expected, "{rename_all:?}");
        }
    }

    #[test]
    fn raw_names_lose_their_mark_and_rename_wins() {
        let field: Ident = syn::parse_str("r#type").unwrap();
        let mut sqlx = SqlxAttrs::default();
        assert_eq!(column_name(&field, &sqlx, None), "type");
        assert_eq!(column_name(&field, &sqlx, Some("PascalCase")), "Type");
        sqlx.rename = Some(syn::parse_quote!("kind"));
        assert_eq!(column_name(&field, &sqlx, Some("PascalCase")), "kind");
    }

    #[test]
    fn plurals_are_good_guesses() {
        for (one, many) in [
            ("invoice", "invoices"),
            ("category", "categories"),
            ("day", "days"),
        ] {
            assert_eq!(plural(one), many);
        }
    }
}
