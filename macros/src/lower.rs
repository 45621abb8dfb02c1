//! From the struct as written to the checked [`Model`]: the rules that all derives share.

use heck::{ToKebabCase, ToLowerCamelCase, ToShoutySnakeCase, ToSnakeCase, ToUpperCamelCase};
use proc_macro2::Span;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Fields, Ident};

use crate::attr::{BACKENDS, FieldAttrs, SqlxAttrs, StructAttrs, UniqueAttr, sqlx_rename_all};
use crate::derive::default_new;
use crate::diag::{Diag, one_of, suggest};
use crate::model::{
    Column, LedgerRole, Model, QueueRole, Role, Table, UniqueKey, is_option, last_segment,
};
use crate::sql::Dialect;

/// The longest name PostgreSQL keeps; it cuts longer ones without an error.
const LONGEST_NAME: usize = 63;

/// Options that were misspelt, misplaced or malformed: what was meant is not reported as missing as well.
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

    let mut columns = Vec::new();
    let mut field_keys = Vec::new();
    let mut first_version: Option<&Ident> = None;
    let mut further_roles: Vec<(String, &Ident)> = Vec::new();
    for field in fields {
        let Some(ident) = &field.ident else { continue };
        let options = FieldAttrs::read(&field.attrs, diag);
        let sqlx = SqlxAttrs::read(&field.attrs);
        attempted.extend(&options.attempted);
        if sqlx.skip {
            skipped(ident, &options, diag);
            continue;
        }
        if let Some(flatten) = &sqlx.flatten {
            diag.error(
                flatten,
                format_args!(
                    "the columns of the flattened field `{ident}` are not visible to rowlock\n\
                     help: list the columns as fields of `{}`, or mark the field with `#[sqlx(skip)]`",
                    input.ident
                ),
            );
            continue;
        }
        if let Some(version) = &options.version {
            match first_version {
                None => first_version = Some(ident),
                Some(first) => diag.error(
                    version,
                    format_args!(
                        "`{}` has more than one version field\n\
                         note: `{first}` is already the version; keep only one `#[rowlock(version)]`",
                        input.ident
                    ),
                ),
            }
        }
        for option in options.further_roles() {
            match further_roles.iter().find(|(role, _)| option == role) {
                None => further_roles.push((option.to_string(), ident)),
                Some((_, first)) => diag.error(
                    option,
                    format_args!(
                        "`{}` has more than one {option} field\n\
                         note: `{first}` is already the one; keep only one `#[rowlock({option})]`",
                        input.ident
                    ),
                ),
            }
        }
        check_roles(ident, &options, &sqlx, diag);
        check_ledger_types(&field.ty, &options, diag);
        check_fence(&field.ty, &options, diag);
        check_nullable(ident, &field.ty, &options, diag);
        check_integer(&field.ty, &options, diag);
        if let Some(option) = &options.unique {
            field_keys.push((columns.len(), option.span()));
        }
        let name = column_name(ident, &sqlx, rename_all.as_deref());
        match &sqlx.rename {
            Some(text) => check_name("column", &name, text, diag),
            None => check_name("column", &name, ident, diag),
        }
        columns.push(Column {
            ident: ident.clone(),
            field: ident.unraw().to_string(),
            name,
            ty: field.ty.clone(),
            docs: field
                .attrs
                .iter()
                .filter(|attr| attr.path().is_ident("doc"))
                .cloned()
                .collect(),
            role: role(&options),
            key: options.key.is_some(),
            generated: options.generated.is_some(),
            default: options.default.is_some(),
            json: sqlx.json.is_some(),
            json_nullable: sqlx.json_nullable,
            priority: options.priority.as_ref().map(|priority| priority.first),
            filter: options.filter.is_some(),
            asked: asked(ident, &options),
        });
    }
    same_column_twice(&columns, diag);

    let mut unique: Vec<UniqueKey> = field_keys
        .iter()
        .map(|&(index, asked)| UniqueKey {
            columns: vec![index],
            asked,
        })
        .collect();
    // The fields marked `unique` were told about their `Option` above; say it once.
    let mut told_nullable: Vec<usize> = field_keys.iter().map(|(index, _)| *index).collect();
    for attr in &attrs.unique {
        let Some(key) = unique_key(attr, input, &columns, &mut told_nullable, diag) else {
            continue;
        };
        if unique.iter().any(|other| other.same_columns(&key)) {
            diag.error(&attr.option, "this unique key is declared twice");
        } else {
            unique.push(key);
        }
    }

    let attempted = Attempted(attempted);
    let backends = backends(attrs.backends.as_deref());
    for column in &columns {
        check_storable(column, &backends, diag);
    }
    let table = table(input, &attrs, &attempted, diag);
    let model = Model {
        ident: input.ident.clone(),
        vis: input.vis.clone(),
        table: table.unwrap_or_default(),
        columns,
        unique,
        new: attrs.new.unwrap_or_else(|| default_new(&input.ident)),
        backends,
        existing_rows: attrs.existing_rows,
    };
    Some((model, attempted))
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
        syn::GenericParam::Type(param) => (
            param.ident.to_string(),
            "or use one struct per concrete type",
        ),
        syn::GenericParam::Lifetime(param) => (
            param.lifetime.to_string(),
            "and own the values (`String` instead of `&str`)",
        ),
        syn::GenericParam::Const(param) => (param.ident.to_string(), "or use one struct per value"),
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

fn skipped(ident: &Ident, options: &FieldAttrs, diag: &Diag) {
    let given = [
        options.key.as_ref(),
        options.version.as_ref(),
        options.counter.as_ref().map(|counter| &counter.option),
        options.unique.as_ref(),
        options.generated.as_ref(),
        options.default.as_ref(),
        options.filter.as_ref(),
        options.priority.as_ref().map(|priority| &priority.option),
    ];
    for option in given.into_iter().flatten().chain(options.further_roles()) {
        diag.error(
            option,
            format_args!(
                "`{ident}` is not a column: sqlx skips it\nhelp: remove `#[sqlx(skip)]` or `{option}`"
            ),
        );
    }
}

/// Types that are no integer of a database, as far as the type's name tells. Left to the compiler, one of them would
/// be several errors: it cannot be read or bound either.
fn check_integer(ty: &syn::Type, options: &FieldAttrs, diag: &Diag) {
    const OTHERS: &[&str] = &[
        "i8", "i128", "isize", "u8", "u16", "u32", "u64", "u128", "usize", "f32", "f64", "bool",
        "char", "String",
    ];
    let Some(name) = last_segment(ty).filter(|name| OTHERS.contains(&name.as_str())) else {
        return;
    };
    let (what, note) = match (&options.version, &options.counter) {
        (Some(_), _) => (
            "a version field",
            "the version is an integer that the database increments on every update",
        ),
        (None, Some(_)) => (
            "a counter",
            "a counter is an integer column; sums of money belong in an integer number of cents",
        ),
        (None, None) if options.attempts.is_some() => {
            ("the attempts", "every claim counts one attempt more")
        }
        (None, None) => return,
    };
    diag.error(
        ty,
        format_args!(
            "`{name}` cannot be {what}\nnote: {note}\nhelp: use `i64`; `i16` and `i32` work too"
        ),
    );
}

fn check_fence(ty: &syn::Type, options: &FieldAttrs, diag: &Diag) {
    const OTHERS: &[&str] = &[
        "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f64", "bool", "String",
    ];
    if options.fence.is_none() {
        return;
    }
    if let Some(name) = last_segment(ty).filter(|name| OTHERS.contains(&name.as_str())) {
        diag.error(
            ty,
            format_args!(
                "`{name}` cannot be the fence\n\
                 note: a fence comes from a lock's guard or from an attempt, so that nobody writes with a number that was made up\n\
                 help: use `rowlock::Fence`; the column stays a `bigint`"
            ),
        );
    }
}

/// Types that cannot have the role, as far as the type's name tells: the database would say so only when it runs.
fn check_ledger_types(ty: &syn::Type, options: &FieldAttrs, diag: &Diag) {
    let Some(name) = last_segment(ty) else { return };
    let name = name.as_str();
    let refuse = |what: &str, note: &str, help: &str| {
        diag.error(
            ty,
            format_args!("`{name}` cannot be {what}\nnote: {note}\nhelp: {help}"),
        );
    };
    const TIMESTAMPS: &[&str] = &["DateTime", "OffsetDateTime"];
    const NO_TIMESTAMPS: &[&str] = &[
        "NaiveDateTime",
        "PrimitiveDateTime",
        "NaiveDate",
        "Date",
        "i16",
        "i32",
        "i64",
        "f64",
        "bool",
        "String",
        "Duration",
    ];
    if options.state.is_some()
        && ["i16", "i32", "i64", "bool", "DateTime", "OffsetDateTime"].contains(&name)
    {
        refuse(
            "the state",
            "it is one of `ready`, `running`, `done` and `dead`, as text",
            "use `rowlock::QueueState`",
        );
    }
    if let Some(option) = &options.run_at
        && NO_TIMESTAMPS.contains(&name)
    {
        refuse(
            &role_name(option),
            "it is a point in time, compared with the clock of the database",
            "use `DateTime<Utc>` of chrono or `OffsetDateTime` of time",
        );
    }
    for role in [LedgerRole::Lease, LedgerRole::Finished] {
        let Some(option) = options.ledger(role) else {
            continue;
        };
        if NO_TIMESTAMPS.contains(&name) {
            refuse(
                &role_name(option),
                "it is a point in time, by the clock of the database",
                "use `Option<DateTime<Utc>>` of chrono or `Option<OffsetDateTime>` of time",
            );
        } else if role == LedgerRole::Finished && TIMESTAMPS.contains(&name) {
            refuse(
                &role_name(option),
                "it is NULL until the work is done",
                "make the column nullable and write `Option<...>`",
            );
        }
    }
}

/// Types that none of the model's databases has, as far as the type's name tells. Left to the compiler, that would be
/// one error about the field and one about the struct for each database.
fn check_storable(column: &Column, backends: &[Dialect], diag: &Diag) {
    let Some(name) = last_segment(&column.ty).filter(|_| !column.json && column.is_plain()) else {
        return;
    };
    let instead = match name.as_str() {
        "char" => "String",
        "u8" => "i16",
        "u16" => "i32",
        "u32" | "u64" | "usize" | "isize" | "u128" | "i128" => "i64",
        _ => return,
    };
    let small = ["u8", "u16", "u32"].contains(&name.as_str());
    if small && backends.contains(&Dialect::Sqlite) {
        return;
    }
    let databases: Vec<&str> = backends.iter().map(|dialect| dialect.name()).collect();
    diag.error(
        &column.ty,
        format_args!(
            "`{name}` cannot be stored in a {} column\nhelp: use `{instead}`",
            one_of(&databases)
        ),
    );
}

/// Options of one field that contradict each other.
fn check_roles(field: &Ident, options: &FieldAttrs, sqlx: &SqlxAttrs, diag: &Diag) {
    let FieldAttrs {
        key,
        version,
        unique,
        generated,
        default,
        ..
    } = options;
    let counter = &options
        .counter
        .as_ref()
        .map(|counter| counter.option.clone());
    let clash = |a: &Option<Ident>, b: &Option<Ident>, note: &str| {
        if let (Some(a), Some(b)) = (a, b) {
            diag.error(
                b,
                format_args!(
                    "the field `{field}` cannot be both `{a}` and `{b}`\nnote: {note}\nhelp: keep one of them"
                ),
            );
        }
    };
    clash(
        key,
        version,
        "the version changes with every update, a key never changes",
    );
    clash(
        key,
        counter,
        "a counter changes with every call, a key never changes",
    );
    clash(
        version,
        counter,
        "the version belongs to `Versioned`, a counter to `Counter`; a column has one writer",
    );
    clash(
        version,
        generated,
        "every update writes the version and reads it back; `generated` columns are never written",
    );
    clash(
        version,
        default,
        "a new row starts at version 0, written by the insert",
    );
    clash(
        counter,
        generated,
        "every call writes the counter; `generated` columns are never written",
    );
    clash(
        counter,
        default,
        "a new row starts its counters at 0, written by the insert",
    );
    clash(
        generated,
        default,
        "`generated` columns are never written, `default` columns only not by an insert",
    );
    clash(
        key,
        default,
        "a key that the database makes up is `#[rowlock(key, generated)]`",
    );
    clash(
        unique,
        version,
        "the version changes with every update, so it cannot identify a row",
    );
    clash(
        unique,
        counter,
        "a counter changes with every call, so it cannot identify a row",
    );
    clash(
        unique,
        generated,
        "nobody can look for a value that the database has yet to make up",
    );
    clash(
        unique,
        default,
        "nobody can look for a value that the database has yet to make up",
    );

    // Each of these has a writer of its own.
    for (index, role) in options.further_roles().enumerate() {
        let roles = [key, version, counter, unique, generated, default];
        let earlier = options.further_roles().take(index);
        for other in roles.into_iter().flatten().chain(earlier) {
            // The database can make up the time of a job that is due at once.
            if role == "run_at" && other == "default" {
                continue;
            }
            let note = "a column has one role and one writer";
            clash(&Some(other.clone()), &Some(role.clone()), note);
        }
    }

    if let Some(json) = &sqlx.json {
        let further = options.further_roles().filter(|role| *role != "outcome");
        for role in [key, unique, version, counter]
            .into_iter()
            .flatten()
            .chain(further)
            .chain(options.priority.as_ref().map(|priority| &priority.option))
            .chain(&options.filter)
        {
            diag.error(
                role,
                format_args!("`{field}` is stored as JSON, so it cannot be {}\nhelp: remove `#[sqlx({json})]`", role_name(role)),
            );
        }
    }
    let read_back = [version, counter, generated];
    if let Some(option) = &sqlx.try_from
        && read_back.iter().any(|role| role.is_some())
    {
        diag.error(
            option,
            format_args!(
                "`{field}` is read back after a write, which does not go through `try_from`\n\
                 help: use a type that sqlx decodes itself"
            ),
        );
    }
    if sqlx.json_nullable && generated.is_some() {
        diag.error(
            field,
            format_args!("`{field}` is generated, and read back as JSON that is never NULL\nhelp: use `#[sqlx(json)]`"),
        );
    }
}

/// `key` as it stands in a sentence.
fn role_name(option: &Ident) -> String {
    match option.to_string().as_str() {
        "key" => "the key".to_owned(),
        "unique" => "part of a unique key".to_owned(),
        "counter" => "a counter".to_owned(),
        "priority" => "a priority".to_owned(),
        "filter" => "a filter".to_owned(),
        "run_at" => "the time when a job is due".to_owned(),
        "last_error" => "the last error".to_owned(),
        other => format!("the {other}"),
    }
}

/// Roles that a nullable column cannot have, as far as the type's name tells.
fn check_nullable(field: &Ident, ty: &syn::Type, options: &FieldAttrs, diag: &Diag) {
    if !is_option(ty) {
        return;
    }
    let roles = [
        (
            options.key.is_some(),
            "the key",
            "in SQL NULL is not equal to NULL, so such a row would never be found",
        ),
        (
            options.version.is_some(),
            "the version",
            "in SQL NULL is not equal to NULL, so no update of such a row would ever match",
        ),
        (
            options.counter.is_some(),
            "a counter",
            "in SQL NULL + 1 is NULL, so such a row would never count",
        ),
        (
            options.unique.is_some(),
            "part of a unique key",
            "in SQL two NULLs are never equal, so the database would allow duplicates",
        ),
        (
            options.fence.is_some(),
            "the fence",
            "in SQL nothing is smaller than NULL, so no write of such a row would ever match",
        ),
        (
            options.ledger(LedgerRole::Fingerprint).is_some(),
            "the fingerprint",
            "in SQL NULL is not equal to NULL, so no request would ever match such a row",
        ),
        (
            options.state.is_some(),
            "the state",
            "in SQL NULL is not equal to anything, so such a row would never be claimed",
        ),
        (
            options.run_at.is_some(),
            "the time when a job is due",
            "in SQL no time has passed since NULL, so such a row would never be claimed",
        ),
        (
            options.attempts.is_some(),
            "the attempts",
            "in SQL NULL + 1 is NULL, so no attempt would ever be the last",
        ),
        (
            options.priority.is_some(),
            "a priority",
            "databases disagree about whether NULL comes first or last",
        ),
    ];
    for (given, what, note) in roles {
        if given {
            nullable(field, ty, what, note, diag);
        }
    }
}

fn nullable(field: &Ident, ty: &syn::Type, what: &str, note: &str, diag: &Diag) {
    diag.error(
        ty,
        format_args!(
            "`{field}` is nullable, so it cannot be {what}\nnote: {note}\n\
             help: make the column NOT NULL and remove the `Option`"
        ),
    );
}

fn asked(field: &Ident, options: &FieldAttrs) -> Span {
    let counter = options.counter.as_ref().map(|counter| &counter.option);
    let option = options.version.as_ref().or(counter);
    let option = option.or_else(|| options.further_roles().next());
    option.unwrap_or(field).span()
}

fn role(options: &FieldAttrs) -> Role {
    if options.version.is_some() {
        return Role::Version;
    }
    if let Some(counter) = &options.counter {
        let (min, max) = (counter.min, counter.max);
        return Role::Counter { min, max };
    }
    if options.fence.is_some() {
        return Role::Fence;
    }
    if let Some(attempts) = &options.attempts {
        return Role::Queue(QueueRole::Attempts { max: attempts.max });
    }
    let queue = [
        (&options.state, QueueRole::State),
        (&options.run_at, QueueRole::RunAt),
        (&options.last_error, QueueRole::LastError),
    ];
    if let Some((_, role)) = queue.into_iter().find(|(option, _)| option.is_some()) {
        return Role::Queue(role);
    }
    let ledger = LedgerRole::ALL
        .into_iter()
        .find(|role| options.ledger(*role).is_some());
    ledger.map_or(Role::Plain, Role::Ledger)
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

fn check_name(what: &str, name: &str, tokens: impl ToTokens, diag: &Diag) {
    if name.is_empty() {
        diag.error(tokens, format_args!("a {what} name cannot be empty"));
    } else if name.chars().any(char::is_control) {
        diag.error(
            tokens,
            format_args!("a {what} name cannot contain control characters"),
        );
    } else if name.len() > LONGEST_NAME {
        diag.error(
            tokens,
            format_args!(
                "the {what} name is {} bytes long, {LONGEST_NAME} are possible\n\
                 note: PostgreSQL would cut it without an error and meet another {what}",
                name.len()
            ),
        );
    }
}

fn same_column_twice(columns: &[Column], diag: &Diag) {
    for (index, column) in columns.iter().enumerate() {
        if let Some(first) = columns[..index]
            .iter()
            .find(|other| other.name == column.name)
        {
            diag.error(
                &column.ident,
                format_args!(
                    "the fields `{}` and `{}` are both stored in the column `{}`\n\
                     help: rename one with `#[sqlx(rename = \"...\")]`",
                    first.field, column.field, column.name
                ),
            );
        }
    }
}

fn unique_key(
    attr: &UniqueAttr,
    input: &DeriveInput,
    columns: &[Column],
    told_nullable: &mut Vec<usize>,
    diag: &Diag,
) -> Option<UniqueKey> {
    let names: Vec<&str> = columns.iter().map(|column| column.field.as_str()).collect();
    let mut found: Vec<usize> = Vec::new();
    let mut complete = true;
    for field in &attr.fields {
        let name = field.unraw().to_string();
        let Some(index) = names.iter().position(|known| *known == name) else {
            diag.error(
                field,
                format_args!(
                    "`{}` has no field `{name}`\n{}",
                    input.ident,
                    suggest(&name, &names)
                ),
            );
            complete = false;
            continue;
        };
        if found.contains(&index) {
            diag.error(field, format_args!("`{name}` is listed twice in one key"));
            complete = false;
            continue;
        }
        found.push(index);
        let column = &columns[index];
        let why_not = match column.role {
            Role::Version => {
                Some("the version changes with every update, so it cannot identify a row")
            }
            Role::Counter { .. } => {
                Some("a counter changes with every call, so it cannot identify a row")
            }
            Role::Fence => Some("the fence changes with every lock, so it cannot identify a row"),
            Role::Ledger(_) => Some("calls under the key write it, so it cannot identify a row"),
            Role::Queue(_) => Some("claims write it, so it cannot identify a row"),
            Role::Plain if column.generated || column.default => {
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
        if is_option(&column.ty) && !told_nullable.contains(&index) {
            told_nullable.push(index);
            nullable(
                &column.ident,
                &column.ty,
                "part of a unique key",
                "in SQL two NULLs are never equal, so the database would allow duplicates",
                diag,
            );
        }
    }
    complete.then_some(UniqueKey {
        columns: found,
        asked: attr.option.span(),
    })
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

fn backends(limited: Option<&[Ident]>) -> Vec<Dialect> {
    let all = [Dialect::Postgres, Dialect::Sqlite];
    debug_assert_eq!(all.len(), BACKENDS.len());
    match limited {
        Some(names) => all
            .into_iter()
            .filter(|dialect| names.iter().any(|name| name == dialect.name()))
            .collect(),
        None => all.to_vec(),
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
