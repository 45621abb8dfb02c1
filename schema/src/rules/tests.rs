//! Where a table is looked for, what a file does not say, and rules about details. With real databases they are tested in `tests/schema`.

use super::*;
use crate::catalogue::{Column, Part, Trigger, Unique};
use crate::family::Family;
use crate::model::{Access, Field, Key, KeyPart, KeyUse, Role};

fn table(schema: &str, name: &str) -> Table {
    Table {
        schema: schema.into(),
        name: name.into(),
        row_security: true,
        columns: vec![Column {
            name: "id".into(),
            ty: "bigint".into(),
            ..Column::default()
        }],
        ..Table::default()
    }
}

fn catalogue(tables: &[(&str, &str)]) -> Catalogue {
    let tables = tables.iter().map(|(schema, name)| table(schema, name));
    Catalogue::new(Dialect::Postgres, vec!["public".into()], tables.collect())
}

fn model(schema: Option<&str>, table: &str) -> Model {
    Model {
        name: "Tag".into(),
        derive: "Lockable".into(),
        schema: schema.map(str::to_owned),
        table: table.into(),
        dialects: vec![Dialect::Postgres],
        fields: vec![Field {
            field: "id".into(),
            ty: "i64".into(),
            family: Family::Integer(64),
            option: Some(false),
            role: Role::Plain,
            ..Field::default()
        }],
        keys: vec![],
        writes_all: true,
        insert: None,
        indexes: vec![],
        access: vec![],
    }
}

fn found(tables: &[(&str, &str)], model: &Model, source: Source) -> Vec<(Rule, Level)> {
    let findings = check(&catalogue(tables), model, source);
    let found = findings.iter().map(|finding| (finding.rule, finding.level));
    found.collect()
}

const NOT_THERE: [(Rule, Level); 1] = [(Rule::Table, Level::Error)];
const POLICIES: [(Rule, Level); 1] = [(Rule::RowSecurity, Level::Note)];

#[test]
fn a_table_without_a_schema_is_on_the_search_path() {
    let tags = model(None, "tags");
    for tables in [
        &[("public", "tags")] as &[_],
        &[("app", "tags"), ("public", "tags")],
    ] {
        assert_eq!(found(tables, &tags, Source::Server), POLICIES);
        assert_eq!(found(tables, &tags, Source::File), []);
    }
    for source in [Source::File, Source::Server] {
        assert_eq!(found(&[("public", "tag")], &tags, source), NOT_THERE);
        assert_eq!(found(&[], &tags, source), NOT_THERE);
    }
}

#[test]
fn only_the_server_knows_the_search_path_of_the_program() {
    let tags = model(None, "tags");
    for tables in [
        &[("app", "tags")] as &[_],
        &[("app", "tags"), ("b", "tags")],
    ] {
        assert_eq!(found(tables, &tags, Source::Server), NOT_THERE);
        assert_eq!(found(tables, &tags, Source::File), []);
    }
    // Of one table it is known what it has, wherever it is; of two it is not known which is meant.
    let mut typo = tags.clone();
    typo.fields[0].field = "idd".into();
    let file = |tables| found(tables, &typo, Source::File);
    assert_eq!(file(&[("app", "tags")]), [(Rule::Column, Level::Error)]);
    assert_eq!(file(&[("app", "tags"), ("b", "tags")]), []);
}

#[test]
fn a_schema_that_is_named_is_that_one() {
    let tags = model(Some("app"), "tags");
    for source in [Source::File, Source::Server] {
        assert_eq!(found(&[("public", "tags")], &tags, source), NOT_THERE);
    }
    let tables = [("public", "tags"), ("app", "tags")];
    assert_eq!(found(&tables, &tags, Source::File), []);
}

#[test]
fn a_model_of_another_database_is_not_looked_at() {
    let mut tags = model(None, "nowhere");
    tags.dialects = vec![Dialect::Sqlite];
    assert_eq!(found(&[], &tags, Source::Server), []);
}

#[test]
fn numbers_are_of_the_same_size() {
    let mut one = catalogue(&[("public", "tags")]);
    for (family, ty, found) in [
        (Family::Float(64), "real", true),
        (Family::Float(32), "double precision", true),
        (Family::Float(64), "double precision", false),
        (Family::Integer(32), "bigint", true),
        (Family::Integer(64), "bigint", false),
    ] {
        one.tables[0].columns[0].ty = ty.into();
        let mut tags = model(None, "tags");
        tags.fields[0].family = family;
        let findings = check(&one, &tags, Source::Server);
        let widths = findings
            .iter()
            .filter(|finding| finding.rule == Rule::Width);
        let levels: Vec<Level> = widths.map(|finding| finding.level).collect();
        assert_eq!(
            levels,
            vec![Level::Note; usize::from(found)],
            "{family:?} {ty}"
        );
    }
}

fn one(dialect: Dialect, change: impl FnOnce(&mut Table)) -> Catalogue {
    let schema = match dialect {
        Dialect::Postgres => "public",
        Dialect::Sqlite => "main",
    };
    let mut tags = table(schema, "tags");
    tags.row_security = false;
    change(&mut tags);
    Catalogue::new(dialect, vec![schema.into()], vec![tags])
}

/// With one key, on `id`, of which there is a unique index in `ON CONFLICT`.
fn keyed(dialect: Dialect) -> Model {
    let mut tags = model(None, "tags");
    tags.dialects = vec![dialect];
    tags.derive = "FindOrCreate".into();
    tags.keys.push(key());
    tags
}

fn key() -> Key {
    Key {
        on: vec![KeyPart {
            column: "id".into(),
            expression: None,
        }],
        predicate: None,
        nulls_not_distinct: false,
        computed: false,
        used: KeyUse::Conflict,
    }
}

fn index(name: &str) -> Unique {
    Unique {
        name: name.into(),
        on: vec![Part::Column("id".into())],
        ..Unique::default()
    }
}

/// Each error, with its help.
fn errors(catalogue: &Catalogue, model: &Model) -> Vec<(Rule, String)> {
    let findings = check(catalogue, model, Source::File).into_iter();
    findings
        .map(|finding| (finding.rule, finding.help.unwrap_or_default()))
        .collect()
}

#[test]
fn a_deferrable_constraint_is_in_the_way_of_a_good_index() {
    let tags = keyed(Dialect::Postgres);
    let later = || Unique {
        deferrable: true,
        ..index("later")
    };
    let beside = one(Dialect::Postgres, |table| {
        table.unique = vec![index("a_key"), later()]
    });
    let dropped = r#"ALTER TABLE "tags" DROP CONSTRAINT "later";"#;
    assert_eq!(errors(&beside, &tags), [(Rule::Unique, dropped.into())]);
    let alone = one(Dialect::Postgres, |table| table.unique = vec![later()]);
    let again = r#"make it NOT DEFERRABLE: ALTER TABLE "tags" DROP CONSTRAINT "later", ADD CONSTRAINT "later" UNIQUE ("id");"#;
    assert_eq!(errors(&alone, &tags), [(Rule::Unique, again.into())]);
    let other = one(Dialect::Postgres, |table| {
        let mut wider = later();
        wider.on.push(Part::Column("slug".into()));
        table.unique = vec![index("a_key"), wider];
    });
    assert_eq!(errors(&other, &tags), []);
}

#[test]
fn an_index_that_compares_in_another_way_is_beside_the_right_one() {
    let no_case = || Unique {
        on: vec![Part::Collated {
            column: "id".into(),
            collation: "NOCASE".into(),
        }],
        ..index("a_key")
    };
    let tags = keyed(Dialect::Sqlite);
    let both = one(Dialect::Sqlite, |table| {
        table.unique = vec![no_case(), index("b_key")]
    });
    assert_eq!(errors(&both, &tags), []);
    let wrong = one(Dialect::Sqlite, |table| table.unique = vec![no_case()]);
    assert_eq!(errors(&wrong, &tags)[0].0, Rule::Collation);
}

#[test]
fn an_index_of_other_values_of_the_same_column_is_none() {
    let mut tags = keyed(Dialect::Postgres);
    tags.keys[0].predicate = Some("kind = 'done'".into());
    for (predicate, rules) in [
        ("(kind = 'ready'::text)", vec![Rule::Unique]),
        ("(kind = 'done'::text)", vec![]),
        ("(kind = ANY ('{done,ready}'))", vec![]),
    ] {
        let partial = one(Dialect::Postgres, |table| {
            table.unique = vec![Unique {
                predicate: Some(predicate.into()),
                ..index("a_key")
            }];
        });
        let found: Vec<Rule> = errors(&partial, &tags)
            .iter()
            .map(|found| found.0)
            .collect();
        assert_eq!(found, rules, "{predicate}");
    }
}

#[test]
fn the_statement_for_an_index_has_a_name_that_is_free_and_its_schema() {
    let mut tags = keyed(Dialect::Sqlite);
    tags.keys.push(Key {
        predicate: Some("id > 0".into()),
        ..key()
    });
    let taken = one(Dialect::Sqlite, |table| {
        let mut wider = index("TAGS_id_key");
        wider.on.push(Part::Column("slug".into()));
        table.unique = vec![wider];
    });
    let helps: Vec<String> = errors(&taken, &tags)
        .into_iter()
        .map(|found| found.1)
        .collect();
    let first = r#"CREATE UNIQUE INDEX "tags_id_key_1" ON "tags" ("id");"#;
    assert_eq!(helps[0], first);
    assert!(
        helps[1]
            .contains(r#"CREATE UNIQUE INDEX "tags_id_key_2" ON "tags" ("id") WHERE (id > 0);"#),
        "{helps:?}"
    );

    let mut attached = one(Dialect::Sqlite, |table| table.schema = "aux".into());
    let mut tags = keyed(Dialect::Sqlite);
    tags.schema = Some("aux".into());
    let of_schema = r#"CREATE UNIQUE INDEX "aux"."tags_id_key" ON "tags" ("id");"#;
    assert_eq!(errors(&attached, &tags), [(Rule::Unique, of_schema.into())]);
    let before = attached.clone();
    attached.tables[0].unique = vec![index("a_key")];
    assert_eq!(
        crate::diff(&before, &attached),
        "CREATE UNIQUE INDEX \"aux\".\"a_key\" ON \"tags\" (\"id\");\n"
    );
}

#[test]
fn only_a_rowid_numbers_the_rows_of_sqlite() {
    let mut tags = keyed(Dialect::Sqlite);
    tags.keys.clear();
    tags.fields[0].key = true;
    tags.fields[0].generated = true;
    tags.insert = Some(crate::model::Insert {
        method: "insert".into(),
        required: false,
        columns: vec![],
    });
    let with = |change: &dyn Fn(&mut Column)| {
        one(Dialect::Sqlite, |table| {
            table.unique = vec![Unique {
                primary: true,
                ..index("a_key")
            }];
            table.columns[0].null = true;
            change(&mut table.columns[0]);
        })
    };
    let found = errors(&with(&|_| {}), &tags);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, Rule::Generated);
    assert!(found[0].1.contains("INTEGER PRIMARY KEY"));
    let filled = with(&|column| column.default = Some("(random())".into()));
    assert_eq!(errors(&filled, &tags), []);
    let nothing = with(&|column| column.default = Some("NULL".into()));
    assert_eq!(errors(&nothing, &tags)[0].0, Rule::Generated);
    let rowid = with(&|column| {
        column.null = false;
        column.identity = Some(crate::catalogue::Identity::Rowid);
    });
    assert_eq!(errors(&rowid, &tags), []);
    tags.insert = None;
    assert_eq!(errors(&with(&|_| {}), &tags), []);
}

#[test]
fn what_fills_a_column_is_a_default_or_a_trigger_before_each_new_row() {
    let mut tags = keyed(Dialect::Sqlite);
    tags.keys.clear();
    tags.insert = Some(crate::model::Insert {
        method: "find_or_create".into(),
        required: true,
        columns: vec![],
    });
    let trigger = |on: &str, before, statement| Trigger {
        name: "t".into(),
        before,
        statement,
        on: vec![on.into()],
    };
    for (default, trigger, fills) in [
        (None, None, false),
        (Some("NULL"), None, false),
        (Some("0"), None, true),
        (None, Some(trigger("insert", true, false)), true),
        (None, Some(trigger("insert", false, false)), false),
        (None, Some(trigger("insert", true, true)), false),
        (None, Some(trigger("update", true, false)), false),
    ] {
        let filled = one(Dialect::Sqlite, |table| {
            table.columns[0].default = default.map(str::to_owned);
            table.triggers.extend(trigger.clone());
        });
        let found = errors(&filled, &tags);
        assert_eq!(found.is_empty(), fills, "{default:?} {trigger:?} {found:?}");
    }
}

#[test]
fn a_key_on_a_column_that_nothing_computes_is_an_error() {
    let mut tags = keyed(Dialect::Postgres);
    tags.keys[0].computed = true;
    let mut plain = one(Dialect::Postgres, |table| {
        table.unique = vec![index("a_key")]
    });
    assert_eq!(errors(&plain, &tags)[0].0, Rule::Generated);
    plain.tables[0].columns[0].generated = Some("a || b".into());
    tags.fields[0].generated = true;
    assert_eq!(errors(&plain, &tags), []);
}

#[test]
fn a_column_of_sqlite_is_read_by_its_exact_name() {
    let tags = keyed(Dialect::Sqlite);
    let upper = one(Dialect::Sqlite, |table| {
        table.unique = vec![index("a_key")];
        table.columns[0].name = "ID".into();
    });
    let rename = r#"`#[sqlx(rename = "ID")]`"#;
    assert_eq!(errors(&upper, &tags), [(Rule::Column, rename.into())]);
}

#[test]
fn types_that_sqlx_does_not_read() {
    use Dialect::{Postgres, Sqlite};
    for (dialect, ty, values, role, rust, family, found) in [
        (
            Sqlite,
            "NUMERIC",
            &[] as &[&str],
            Role::Plain,
            "f64",
            Family::Float(64),
            "REAL",
        ),
        (
            Sqlite,
            "INTEGER",
            &[],
            Role::Plain,
            "f64",
            Family::Float(64),
            "REAL",
        ),
        (
            Sqlite,
            "REAL",
            &[],
            Role::Plain,
            "f64",
            Family::Float(64),
            "",
        ),
        (
            Postgres,
            "job_state",
            &["ready"],
            Role::State,
            "QueueState",
            Family::Unknown,
            "TYPE text;",
        ),
        (
            Postgres,
            "character(9)",
            &[],
            Role::State,
            "QueueState",
            Family::Unknown,
            "TYPE text;",
        ),
        (
            Postgres,
            "character varying(9)",
            &[],
            Role::State,
            "QueueState",
            Family::Unknown,
            "",
        ),
        (
            Postgres,
            "job_state",
            &["ready"],
            Role::State,
            "JobState",
            Family::Unknown,
            "",
        ),
        (
            Postgres,
            "text",
            &[],
            Role::Plain,
            "Uuid",
            Family::Uuid,
            r#"TYPE uuid USING "id"::uuid;"#,
        ),
        (
            Postgres,
            "bigint",
            &[],
            Role::Plain,
            "String",
            Family::Text,
            "TYPE text;",
        ),
        (
            Postgres,
            "boolean",
            &[],
            Role::Plain,
            "i64",
            Family::Integer(64),
            r#"TYPE bigint USING "id"::integer::bigint;"#,
        ),
    ] {
        let mut tags = keyed(dialect);
        tags.keys.clear();
        tags.fields[0].ty = rust.into();
        tags.fields[0].family = family;
        tags.fields[0].role = role;
        let typed = one(dialect, |table| {
            table.columns[0].ty = ty.into();
            table.columns[0].values = values.iter().map(|&value| value.into()).collect();
        });
        let errors = errors(&typed, &tags);
        match found {
            "" => assert_eq!(errors, [], "{ty} {rust}"),
            help => {
                assert_eq!(errors[0].0, Rule::Type);
                assert!(errors[0].1.ends_with(help), "{errors:?}");
            }
        }
    }
}

#[test]
fn a_check_says_where_a_counter_starts_and_what_is_not_null() {
    let mut tags = keyed(Dialect::Postgres);
    tags.keys.clear();
    tags.fields[0].role = Role::Counter;
    tags.insert = Some(crate::model::Insert {
        method: "add_id".into(),
        required: true,
        columns: vec!["id".into()],
    });
    for (check, initial, help) in [
        ("(id > 5)", 0, Some("counter(min = 6)")),
        ("(id > 0)", 0, Some("counter(min = 1)")),
        ("(id <> 0)", 0, Some("counter(min = 1)")),
        ("(id >= 5)", 0, Some("counter(min = 5)")),
        ("(id < 0)", 0, Some("change the CHECK")),
        ("(id > 0)", 1, None),
        ("(id >= 1)", 1, None),
    ] {
        tags.fields[0].initial = Some(initial);
        tags.fields[0].min = (initial != 0).then_some(initial);
        let checked = one(Dialect::Postgres, |table| {
            table.checks = vec![crate::catalogue::Check {
                expression: check.into(),
                ..Default::default()
            }];
        });
        let errors = errors(&checked, &tags);
        assert_eq!(errors.len(), usize::from(help.is_some()), "{check}");
        for (_, text) in errors {
            assert!(text.contains(help.unwrap_or_default()), "{check}: {text}");
        }
    }
    for (check, null) in [
        ("((id IS NOT NULL) AND (id > 0))", false),
        ("((id IS NOT NULL) OR (id > 0))", true),
    ] {
        let checked = one(Dialect::Postgres, |table| {
            table.columns[0].null = true;
            table.checks = vec![crate::catalogue::Check {
                expression: check.into(),
                ..Default::default()
            }];
        });
        assert_eq!(errors(&checked, &tags).len(), usize::from(null), "{check}");
    }
    // Not of all rows: the column can be NULL.
    for (not_valid, no_inherit) in [(true, false), (false, true)] {
        let checked = one(Dialect::Postgres, |table| {
            table.columns[0].null = true;
            table.checks = vec![crate::catalogue::Check {
                expression: "(id IS NOT NULL)".into(),
                not_valid,
                no_inherit,
                ..Default::default()
            }];
        });
        assert_eq!(errors(&checked, &tags).len(), 1);
    }
}

/// What a server writes is cut anywhere: nothing is found, or something, and nothing panics.
#[test]
fn no_text_of_a_database_is_too_odd() {
    const TEXTS: [&str; 4] = [
        "((kind)::text <> 'Ätna''s \u{1f600}'::character varying(20)[]) AND (\"weird \"\"name\" >= (0)::numeric)",
        "CREATE UNIQUE INDEX i ON t (a COLLATE NOCASE, coalesce(b, ','), [c d] DESC) WHERE x IN ('(', \")\") -- é",
        "CREATE TABLE t (a int CHECK (a > 0 /* ü ) */), b text CHECK(length(b)<9), CONSTRAINT \"check\" CHECK (a <> 1))",
        "CREATE TRIGGER \"before\" AFTER UPDATE OF é ON t BEGIN SELECT 1; END",
    ];
    for text in TEXTS {
        for (at, _) in text.char_indices() {
            for part in [&text[..at], &text[at..]] {
                let mut one = catalogue(&[("public", "tags")]);
                let table = &mut one.tables[0];
                let expression = part.to_owned();
                table.checks.push(crate::catalogue::Check {
                    expression,
                    ..Default::default()
                });
                table.unique.push(crate::catalogue::Unique {
                    predicate: Some(part.to_owned()),
                    on: vec![crate::catalogue::Part::Expression {
                        expression: part.to_owned(),
                    }],
                    ..Default::default()
                });
                table.columns[0].ty = part.to_owned();
                table.columns[0].default = Some(part.to_owned());
                let mut tags = model(None, "tags");
                tags.keys.push(crate::model::Key {
                    on: vec![crate::model::KeyPart {
                        column: "id".into(),
                        expression: Some(part.to_owned()),
                    }],
                    predicate: Some(text.to_owned()),
                    nulls_not_distinct: false,
                    computed: false,
                    used: crate::model::KeyUse::Conflict,
                });
                tags.indexes.push(crate::model::NeededIndex {
                    dialect: Dialect::Postgres,
                    name: "i".into(),
                    create: part.to_owned(),
                    required: false,
                });
                check(&one, &tags, Source::Server);
                crate::diff(&catalogue(&[("public", "tags")]), &one);
                crate::sqlite_index(part);
                crate::sqlite_checks(part);
                crate::sqlite_trigger(part);
            }
        }
    }
}

#[test]
fn only_what_a_method_needs_is_asked_of_the_user() {
    let access = |method: &str, privilege: &str, columns: &[&str]| Access {
        method: method.into(),
        privilege: privilege.into(),
        columns: columns.iter().map(|&column| column.into()).collect(),
        required: privilege == "SELECT",
    };
    let mut model = model(None, "tags");
    model.access = vec![
        access("load", "SELECT", &["id", "slug"]),
        access("insert", "INSERT", &["slug"]),
        access("create", "INSERT", &["id", "slug"]),
    ];
    let told = |change: &dyn Fn(&mut Table)| {
        let mut catalogue = catalogue(&[("public", "tags")]);
        catalogue.user = Some("clerk".into());
        change(&mut catalogue.tables[0]);
        let findings = check(&catalogue, &model, Source::Server).into_iter();
        let of_user = findings.filter(|finding| finding.rule == Rule::Privilege);
        of_user
            .map(|finding| (finding.level, finding.to_string()))
            .collect::<Vec<_>>()
    };
    let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());

    // Nothing is updated or deleted; nor is the other column read.
    assert_eq!(
        told(&|table| table.denied = vec!["UPDATE".into(), "DELETE".into()]),
        []
    );
    assert_eq!(
        told(&|table| table.denied_columns = vec![pair("secret", "SELECT"), pair("id", "UPDATE")]),
        []
    );
    assert_eq!(
        told(&|table| table.denied_columns = vec![pair("slug", "SELECT"), pair("id", "INSERT")]),
        [
            (
                Level::Error,
                "the user of this connection may not SELECT `slug` of `tags`\n\
                 note: it is needed by `load`\n\
                 help: GRANT SELECT (\"slug\") ON \"tags\" TO clerk;"
                    .to_owned()
            ),
            (
                Level::Note,
                "the user of this connection may not INSERT `id` of `tags`\n\
                 note: it is needed by `create`\n\
                 help: GRANT INSERT (\"id\") ON \"tags\" TO clerk;"
                    .to_owned()
            ),
        ]
    );
    // `create` gives the key itself.
    assert_eq!(
        told(&|table| table.denied_sequences = vec![pair("id", "tags_id_seq")]),
        [(
            Level::Note,
            "the user of this connection may not use the sequence `tags_id_seq`, of which an INSERT takes `id` of `tags`\n\
             note: it is needed by `insert`\n\
             help: GRANT USAGE ON SEQUENCE tags_id_seq TO clerk;"
                .to_owned()
        )]
    );
    assert_eq!(
        told(&|table| table.denied_sequences = vec![pair("slug", "tags_slug_seq")]),
        []
    );
}
