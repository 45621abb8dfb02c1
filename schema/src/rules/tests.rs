//! Where a table is looked for, and what a file does not say. The rules themselves are tested with real databases, in `tests/schema`.

use super::*;
use crate::catalogue::Column;
use crate::family::Family;
use crate::model::{Field, Role};

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
                    name: String::new(),
                    expression,
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
