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
