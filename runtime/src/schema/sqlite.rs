//! The catalogue of SQLite: its pragmas, and its own text where they are silent.

use rowlock_schema::{
    Catalogue, Check, Column, Dialect, ForeignKey, Identity, Index, Kind, Part, Server, Table,
    Trigger, Unique, sqlite_checks, sqlite_index, sqlite_trigger,
};
use sqlx::sqlite::SqliteTypeInfo;
use sqlx::{AssertSqlSafe, Row, Sqlite};

use super::{Describes, Needed, Texts, rows};
use crate::db::source::Link;

const TABLES: &str = "SELECT schema, name, type, wr, strict FROM pragma_table_list \
     WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND type <> 'shadow'";
/// As a name without a schema is looked up.
const PATH: &str = "SELECT name FROM pragma_database_list ORDER BY name <> 'temp', seq";
const SERVER: &str = "SELECT sqlite_version(), query_only FROM pragma_query_only";
const COLUMNS: &str = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo($1, $2) WHERE hidden <> 1";
const INDEXES: &str = "SELECT name, origin, partial, \"unique\" FROM pragma_index_list($1, $2)";
const PARTS: &str = "SELECT name, coll FROM pragma_index_xinfo($1, $2) WHERE key ORDER BY seqno";
const FOREIGN_KEYS: &str = "SELECT group_concat('\"' || replace(\"from\", '\"', '\"\"') || '\"', ', '), \"table\", group_concat('\"' || replace(\"to\", '\"', '\"\"') || '\"', ', '), on_update, on_delete \
     FROM (SELECT * FROM pragma_foreign_key_list($1, $2) ORDER BY id, seq) GROUP BY id, \"table\", on_update, on_delete";

impl Describes for Sqlite {
    async fn describe_tables(link: &mut Link<'_, Self>) -> Result<Catalogue, sqlx::Error> {
        let mut tables = Vec::new();
        for row in rows(link, sqlx::query(TABLES)).await? {
            let (schema, name, ty): (String, String, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let (without_rowid, strict): (bool, bool) = (row.try_get(3)?, row.try_get(4)?);
            let mut options = Vec::new();
            options.extend(strict.then(|| "strict".to_owned()));
            options.extend(without_rowid.then(|| "without_rowid".to_owned()));
            let kind = match ty.as_str() {
                "view" => Kind::View,
                "virtual" => Kind::Foreign,
                _ => Kind::Table,
            };
            let mut table = Table {
                schema,
                name,
                kind,
                options,
                ..Table::default()
            };
            fill(link, &mut table, without_rowid).await?;
            tables.push(table);
        }
        let path = vec!["main".to_owned()];
        let mut catalogue = Catalogue::new(Dialect::Sqlite, path, tables);
        for row in rows(link, sqlx::query(PATH)).await? {
            catalogue.connection_path.push(row.try_get(0)?);
        }
        Ok(catalogue)
    }

    async fn describe_server(link: &mut Link<'_, Self>) -> Result<Server, sqlx::Error> {
        let rows = rows(link, sqlx::query(SERVER)).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let is_read_only: bool = row.try_get(1)?;
        Ok(Server {
            version: row.try_get(0)?,
            read_only: is_read_only.then(|| "`query_only` is on".to_owned()),
            settings: Vec::new(),
        })
    }

    fn texts(needed: &Needed) -> Texts<Self> {
        needed.sqlite
    }

    /// A parameter of it has no type.
    fn named_types(_: &Needed) -> Vec<(usize, SqliteTypeInfo)> {
        Vec::new()
    }

    /// What many rows bind is one text of JSON.
    fn arrays(_: &[SqliteTypeInfo]) -> Option<Vec<SqliteTypeInfo>> {
        Some(Vec::new())
    }
}

/// What SQLite keeps the text of.
struct Text {
    ty: String,
    name: String,
    sql: String,
}

async fn fill(
    link: &mut Link<'_, Sqlite>,
    table: &mut Table,
    without_rowid: bool,
) -> Result<(), sqlx::Error> {
    let texts = texts(link, table).await?;
    let of = |ty: &'static str| texts.iter().filter(move |text| text.ty == ty);
    let keys = match columns(link, table).await {
        // Of a table that is gone: nothing is known of it.
        Err(sqlx::Error::Database(_)) if table.kind == Kind::View => Vec::new(),
        read => read?,
    };
    let by_index = indexes(link, table, &texts).await?;
    if let ([key], false, false) = (keys.as_slice(), by_index, without_rowid)
        && table.kind == Kind::Table
    {
        // It is the number of the row, and has no index of its own.
        for column in &mut table.columns {
            if column.name == *key {
                column.identity = Some(Identity::Rowid);
                column.null = false;
            }
        }
        table.unique.push(Unique {
            name: "rowid".to_owned(),
            on: vec![Part::Column(key.clone())],
            primary: true,
            ..Unique::default()
        });
    }
    let checks = of("table").flat_map(|text| sqlite_checks(&text.sql));
    table.checks = checks
        .map(|expression| Check {
            expression,
            ..Check::default()
        })
        .collect();
    table.triggers = of("trigger")
        .map(|text| {
            let (before, on) = sqlite_trigger(&text.sql);
            let name = text.name.clone();
            Trigger {
                name,
                before,
                on,
                ..Trigger::default()
            }
        })
        .collect();
    for row in rows(
        link,
        sqlx::query(FOREIGN_KEYS)
            .bind(table.name.clone())
            .bind(table.schema.clone()),
    )
    .await?
    {
        let from: String = row.try_get(0)?;
        let target: String = row.try_get(1)?;
        let to: Option<String> = row.try_get(2)?;
        let to = to.map_or_else(String::new, |to| format!(" ({to})"));
        let (update, delete): (String, String) = (row.try_get(3)?, row.try_get(4)?);
        table.foreign_keys.push(ForeignKey {
            name: String::new(),
            definition: format!(
                "FOREIGN KEY ({from}) REFERENCES {}{to} ON UPDATE {update} ON DELETE {delete}",
                quoted(&target)
            ),
        });
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn texts(link: &mut Link<'_, Sqlite>, table: &Table) -> Result<Vec<Text>, sqlx::Error> {
    let sql = format!(
        "SELECT type, name, sql FROM {}.sqlite_schema WHERE tbl_name = $1 AND sql IS NOT NULL",
        quoted(&table.schema)
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(table.name.clone());
    let rows = rows(link, query).await?;
    let texts = rows.iter().map(|row| {
        Ok(Text {
            ty: row.try_get(0)?,
            name: row.try_get(1)?,
            sql: row.try_get(2)?,
        })
    });
    texts.collect()
}

/// Reads the columns, and yields those of a primary key that can be the number of the row.
async fn columns(
    link: &mut Link<'_, Sqlite>,
    table: &mut Table,
) -> Result<Vec<String>, sqlx::Error> {
    let query = sqlx::query(COLUMNS)
        .bind(table.name.clone())
        .bind(table.schema.clone());
    let mut keys = Vec::new();
    for row in rows(link, query).await? {
        let (name, ty): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (not_null, key): (bool, i64) = (row.try_get(2)?, row.try_get(4)?);
        let generated = match row.try_get::<i64, _>(5)? {
            2 => Some("virtual".to_owned()),
            3 => Some("stored".to_owned()),
            _ => None,
        };
        if key > 0 {
            // Any other type makes it a column like others; `INT` too.
            let is_number = ty.eq_ignore_ascii_case("integer");
            keys.push(if is_number {
                name.clone()
            } else {
                String::new()
            });
        }
        table.columns.push(Column {
            name,
            ty,
            null: !not_null,
            default: row.try_get(3)?,
            generated,
            ..Column::default()
        });
    }
    Ok(keys.into_iter().filter(|name| !name.is_empty()).collect())
}

/// Reads the indexes, and yields whether the primary key has one.
async fn indexes(
    link: &mut Link<'_, Sqlite>,
    table: &mut Table,
    texts: &[Text],
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(INDEXES)
        .bind(table.name.clone())
        .bind(table.schema.clone());
    let mut by_index = false;
    for row in rows(link, query).await? {
        let (name, origin): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (partial, is_unique): (bool, bool) = (row.try_get(2)?, row.try_get(3)?);
        by_index |= origin == "pk";
        let text = texts.iter().find(|text| text.name == name);
        let text = text.and_then(|text| sqlite_index(&text.sql));
        if !is_unique {
            table.indexes.extend(text.map(|text| Index {
                name,
                on: text.parts,
                predicate: text.predicate,
                method: None,
                exclusion: None,
                invalid: false,
            }));
            continue;
        }
        let mut on = Vec::new();
        let query = sqlx::query(PARTS)
            .bind(name.clone())
            .bind(table.schema.clone());
        for (number, row) in rows(link, query).await?.iter().enumerate() {
            let (column, collation): (Option<String>, String) = (row.try_get(0)?, row.try_get(1)?);
            on.push(match column {
                Some(column) => part(link, table, column, collation).await?,
                None => {
                    let mut parts = text.iter().flat_map(|text| &text.parts);
                    Part::Expression {
                        expression: parts.nth(number).cloned().unwrap_or_default(),
                    }
                }
            });
        }
        let predicate = text.and_then(|text| text.predicate);
        table.unique.push(Unique {
            name,
            on,
            primary: origin == "pk",
            // It is one, whatever could be read of it.
            predicate: predicate.or_else(|| partial.then(|| "…".to_owned())),
            ..Unique::default()
        });
    }
    Ok(by_index)
}

/// A column of an index, with how the index compares it if `=` compares it in another way. No pragma tells that.
async fn part(
    link: &mut Link<'_, Sqlite>,
    table: &mut Table,
    column: String,
    collation: String,
) -> Result<Part, sqlx::Error> {
    let sql = format!(
        "SELECT v = 'A', v = 'a ' FROM (SELECT {} AS v FROM {}.{} WHERE false UNION ALL SELECT 'a')",
        quoted(&column),
        quoted(&table.schema),
        quoted(&table.name)
    );
    let answer = rows(link, sqlx::query(AssertSqlSafe(sql))).await?;
    let (no_case, trimmed) = match answer.first() {
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
        None => (false, false),
    };
    let by = match (no_case, trimmed) {
        (true, _) => "NOCASE",
        (_, true) => "RTRIM",
        _ => "BINARY",
    };
    let mut columns = table.columns.iter_mut();
    if by != "BINARY"
        && let Some(found) = columns.find(|found| found.name == column)
    {
        found.collation = Some(by.to_owned());
    }
    // What a collation of the program's does, only the program knows.
    let known = ["BINARY", "NOCASE", "RTRIM"].contains(&collation.to_uppercase().as_str());
    Ok(match known && !collation.eq_ignore_ascii_case(by) {
        true => Part::Collated { column, collation },
        false => Part::Column(column),
    })
}
