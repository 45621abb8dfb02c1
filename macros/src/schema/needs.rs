//! What a derive needs of the database, for the rules.

use proc_macro2::Span;
use rowlock_schema::{self as schema, Access, Family, Insert, Key, KeyPart, KeyUse, NeededIndex};
use syn::Type;

use crate::derive::{Kind, quiet_plan};
use crate::model::{
    Column, LedgerRole, Model, QueueRole, Role, State, UniqueKey, inside_option, is_bool, is_json,
    is_option, last_segment, shown,
};
use crate::sql::{self, Dialect};

pub(super) fn needs(kind: Kind, model: &Model) -> schema::Model {
    let dialects = model.backends.iter().map(|dialect| of(*dialect));
    schema::Model {
        name: model.ident.to_string(),
        derive: format!("{kind:?}"),
        schema: model.table.schema.clone(),
        table: model.table.name.clone(),
        dialects: dialects.collect(),
        fields: model
            .columns
            .iter()
            .map(|column| field(model, column))
            .collect(),
        keys: keys(kind, model),
        writes_all: match kind {
            Kind::Versioned | Kind::Lockable | Kind::FindOrCreate => true,
            Kind::Counter | Kind::Guarded | Kind::Idempotent | Kind::Queue => false,
        },
        access: access(kind, model),
        insert: insert(kind, model),
        indexes: match kind {
            Kind::Queue => indexes(model),
            _ => Vec::new(),
        },
    }
}

/// Those of a queue that are no key.
fn indexes(model: &Model) -> Vec<NeededIndex> {
    let Some(queue) = quiet_plan(model) else {
        return Vec::new();
    };
    // A worker looks for this one by its name.
    let of_worker = queue.per.as_ref().map(|per| queue.one_running(per).0);
    let of_backend = |dialect: &Dialect| {
        let is_required = |name: &String| of_worker.as_ref() == Some(name);
        let indexes = queue.indexes(*dialect).into_iter();
        let of_statements = indexes.filter(|index| !index.unique || is_required(&index.name));
        let needed = of_statements.map(|index| NeededIndex {
            dialect: of(*dialect),
            create: queue.create(&index, *dialect),
            required: is_required(&index.name),
            name: index.name,
        });
        needed.collect::<Vec<_>>()
    };
    model.backends.iter().flat_map(of_backend).collect()
}

/// The database, as the rules know it.
pub(crate) fn of(dialect: Dialect) -> schema::Dialect {
    match dialect {
        Dialect::Postgres => schema::Dialect::Postgres,
        Dialect::Sqlite => schema::Dialect::Sqlite,
    }
}

fn field(model: &Model, column: &Column) -> schema::Field {
    let role = match column.role {
        Role::Plain => schema::Role::Plain,
        Role::Version => schema::Role::Version,
        Role::Xmin => schema::Role::System,
        Role::Counter { .. } => schema::Role::Counter,
        Role::Fence => schema::Role::Fence,
        Role::Ledger(LedgerRole::Fingerprint) | Role::Queue(QueueRole::Attempts { .. }) => {
            schema::Role::Always
        }
        Role::Queue(QueueRole::State) => schema::Role::State,
        // Whoever is at work on a request has a lease, and it stays.
        Role::Ledger(LedgerRole::Lease) if !model.is_queue() => schema::Role::Plain,
        Role::Queue(QueueRole::RunAt) => schema::Role::Plain,
        Role::Ledger(_) | Role::Queue(_) => schema::Role::Sometimes,
    };
    let (min, states) = match column.role {
        Role::Counter { min, .. } => (min, Vec::new()),
        Role::Queue(QueueRole::State) => {
            let texts = State::ALL.map(|state| column.states.text(state).to_owned());
            let stored = State::ALL.iter().zip(texts);
            let stored =
                stored.filter(|(state, _)| !(model.deletes_done && **state == State::Done));
            (None, stored.map(|(_, text)| text).collect())
        }
        _ => (None, Vec::new()),
    };
    let ty = inside_option(&column.ty).unwrap_or(&column.ty);
    let (option, family) = (option(column), family(column, ty));
    let field = column.written();
    schema::Field {
        column: (column.name != field).then(|| column.name.clone()),
        field,
        ty: shown(ty),
        family,
        option,
        role,
        generated: column.generated,
        key: column.key,
        default: column.default,
        initial: column.is_counter().then(|| column.initial()),
        min,
        states,
    }
}

/// What the column holds: `ty` is its type without `Option`.
pub(crate) fn family(column: &Column, ty: &Type) -> Family {
    if column.json || column.json_nullable || is_json(&column.ty) {
        return Family::Json;
    }
    let Some(name) = last_segment(ty) else {
        return Family::Unknown;
    };
    Family::of_rust(&name, argument(ty).as_deref())
}

/// The last word of a type's first argument: `Utc` of `DateTime<Utc>`.
fn argument(ty: &Type) -> Option<String> {
    let Type::Path(path) = ty else { return None };
    match &path.path.segments.last()?.arguments {
        syn::PathArguments::AngleBracketed(arguments) => match arguments.args.first()? {
            syn::GenericArgument::Type(inner) => last_segment(inner),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the column's type is an `Option`, as far as its name tells: it can be an alias.
fn option(column: &Column) -> Option<bool> {
    if is_option(&column.ty) || column.json_nullable {
        return Some(true);
    }
    let name = last_segment(&column.ty)?;
    let known = !matches!(family(column, &column.ty), Family::Unknown);
    let other = ["QueueState", "Vec", "Box", "HashMap", "BTreeMap"];
    (known || other.contains(&name.as_str())).then_some(false)
}

fn keys(kind: Kind, model: &Model) -> Vec<Key> {
    let row = |used| match model.keys().as_slice() {
        [] => Vec::new(),
        columns => vec![Key {
            on: columns.iter().map(|column| part(column, None)).collect(),
            predicate: None,
            nulls_not_distinct: false,
            computed: false,
            used,
        }],
    };
    let unique = || model.unique.iter().map(|key| unique(model, key));
    match kind {
        Kind::Versioned | Kind::Lockable | Kind::Guarded => row(KeyUse::Find),
        Kind::Counter if model.existing_rows => row(KeyUse::Find),
        Kind::Counter | Kind::Idempotent => row(KeyUse::Conflict),
        Kind::FindOrCreate => unique().collect(),
        Kind::Queue => row(KeyUse::Find).into_iter().chain(unique()).collect(),
    }
}

fn unique(model: &Model, key: &UniqueKey) -> Key {
    let on = match key.on {
        Some(index) => vec![part(&model.columns[index], None)],
        None => {
            let columns = model.unique_columns(key).into_iter().zip(&key.around);
            columns
                .map(|(column, around)| part(column, around.as_ref()))
                .collect()
        }
    };
    Key {
        on,
        predicate: key.predicate.clone(),
        nulls_not_distinct: key.nulls_not_distinct,
        computed: key.on.is_some(),
        used: KeyUse::Conflict,
    }
}

fn part(column: &Column, around: Option<&(String, String)>) -> KeyPart {
    let name = column.name.clone();
    KeyPart {
        expression: around.map(|(before, after)| format!("{before}{name}{after}")),
        column: name,
    }
}

/// The option that declared the key with this number, of [`keys`].
pub(super) fn key_span(kind: Kind, model: &Model, number: usize) -> Option<Span> {
    let row = model.keys().first().map(|column| column.ident.span());
    let unique = |number: usize| model.unique.get(number).map(|key| key.asked);
    match kind {
        Kind::FindOrCreate => unique(number),
        Kind::Queue if number > 0 => unique(number - 1),
        _ => row,
    }
}

/// What a new row is given, whoever makes it.
fn insert(kind: Kind, model: &Model) -> Option<Insert> {
    let of = |given: &dyn Fn(&Column) -> bool| -> Vec<String> {
        let columns = model.columns.iter().filter(|column| given(column));
        columns.map(|column| column.name.clone()).collect()
    };
    let given: Vec<&str> = model
        .given()
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    let is_given = |column: &Column| given.contains(&column.name.as_str());
    let starts = |column: &Column| column.role == Role::Version || column.is_counter();
    let (method, required, columns) = match kind {
        Kind::Lockable | Kind::Guarded => return None,
        Kind::Counter if model.existing_rows => return None,
        Kind::Counter => (
            model
                .counters()
                .first()
                .map(|counter| format!("add_{}", counter.field))?,
            true,
            of(&|column| column.key || starts(column)),
        ),
        Kind::Versioned => (
            "insert".to_owned(),
            false,
            of(&|column| {
                column.on_insert.is_some()
                    || !(column.generated || column.default || column.has_expression())
            }),
        ),
        Kind::FindOrCreate => (
            "find_or_create".to_owned(),
            true,
            of(&|column| is_given(column) || starts(column) || column.on_insert.is_some()),
        ),
        Kind::Idempotent => (
            "once".to_owned(),
            true,
            of(&|column| {
                column.key
                    || matches!(
                        column.role,
                        Role::Fence | Role::Ledger(LedgerRole::Fingerprint | LedgerRole::Lease)
                    )
            }),
        ),
        Kind::Queue => (
            "enqueue".to_owned(),
            false,
            of(&|column| {
                let writes = match column.role {
                    Role::Fence => true,
                    Role::Queue(
                        QueueRole::State | QueueRole::Attempts { .. } | QueueRole::RunAt,
                    ) => true,
                    Role::Queue(QueueRole::Dead) | Role::Ledger(LedgerRole::Finished) => {
                        is_bool(&column.ty)
                    }
                    _ => false,
                };
                writes || is_given(column) || starts(column) || column.on_insert.is_some()
            }),
        ),
    };
    Some(Insert {
        method,
        required,
        columns,
    })
}

/// What the methods do with which columns, for the privileges.
fn access(kind: Kind, model: &Model) -> Vec<Access> {
    let mut all: Vec<Access> = Vec::new();
    let mut needs = |method: &str, privilege: &str, columns: Vec<String>| {
        all.push(Access {
            method: method.to_owned(),
            privilege: privilege.to_owned(),
            columns,
            required: false,
        });
    };
    let named = |columns: Vec<&Column>| -> Vec<String> {
        let names = columns.into_iter().map(|column| column.name.clone());
        names.collect()
    };
    let columns: Vec<&Column> = model.columns.iter().collect();
    let renewed = || model.on_update().map(|(column, _)| column);
    let raised = || model.version().into_iter().chain(renewed());
    match kind {
        Kind::Versioned | Kind::Lockable => {
            let (read, write) = match kind {
                Kind::Lockable => ("lock", "save"),
                _ if model.row_version().is_some() => ("load", "update"),
                _ => ("load", "save"),
            };
            needs(read, "SELECT", named(columns));
            let written = model.writable().into_iter().chain(model.fence());
            let mut written: Vec<&Column> = written.chain(raised()).collect();
            if written.is_empty() {
                written.extend(model.keys().first().copied());
            }
            needs(write, "UPDATE", named(written));
            // It compares the whole row with what it was: see `sql::lockable::update`.
            if kind == Kind::Lockable && model.version().is_none() {
                needs(write, "SELECT", vec!["*".to_owned()]);
            }
            if kind == Kind::Versioned {
                needs("delete", "DELETE", named(Vec::new()));
            }
        }
        Kind::Guarded => {
            needs("update_if", "SELECT", named(columns));
            let written = super::statements::settable(model).into_iter();
            let written = written.chain(model.counters()).chain(raised());
            needs("update_if", "UPDATE", named(written.collect()));
            needs("delete_if", "DELETE", named(Vec::new()));
        }
        Kind::Counter => {
            for counter in model.counters() {
                let method = format!("add_{}", counter.field);
                let mut read = model.keys();
                read.push(counter);
                needs(&method, "SELECT", named(read));
                needs(&method, "UPDATE", named(vec![counter]));
            }
            needs("get", "SELECT", named(columns));
        }
        Kind::FindOrCreate => {
            needs("find", "SELECT", named(columns));
            for key in &model.unique {
                let written = sql::find_or_create::written(model, key);
                if !written.is_empty() {
                    needs("upsert", "UPDATE", named(written));
                    // How it knows what it did.
                    needs("update_or_create", "SELECT", vec!["xmax".to_owned()]);
                }
            }
        }
        Kind::Idempotent => {
            let of = |role| model.ledger(role);
            let told = [LedgerRole::Fingerprint, LedgerRole::Lease];
            let told = told.into_iter().filter_map(of).chain(model.fence());
            let ends = [LedgerRole::Outcome, LedgerRole::Finished];
            let ends: Vec<&Column> = ends.into_iter().filter_map(of).collect();
            let read = model.keys().into_iter().chain(told).chain(ends.clone());
            needs("once", "SELECT", named(read.collect()));
            let written = of(LedgerRole::Lease).into_iter().chain(model.fence());
            needs("once", "UPDATE", named(written.chain(ends).collect()));
            needs("purge", "DELETE", named(Vec::new()));
        }
        Kind::Queue => {
            needs("claim", "SELECT", named(columns));
            let columns = model.columns.iter();
            let written = columns.filter(|column| {
                matches!(column.role, Role::Fence | Role::Queue(_) | Role::Ledger(_))
            });
            needs("claim", "UPDATE", named(written.collect()));
            if quiet_plan(model).is_some_and(|queue| queue.ended_at().is_some()) {
                needs("purge", "DELETE", named(Vec::new()));
            }
            if model.deletes_done {
                needs("complete", "DELETE", named(Vec::new()));
            }
        }
    }
    // Of a counter only the first: a program may never read the whole row.
    if let Some(read) = all.first_mut() {
        read.required = true;
    }
    if let Some(insert) = insert(kind, model) {
        all.push(Access {
            method: insert.method,
            privilege: "INSERT".to_owned(),
            columns: insert.columns,
            required: false,
        });
    }
    all
}
