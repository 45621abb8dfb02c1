//! The catalogue of PostgreSQL.

use rowlock_schema::{Catalogue, Dialect, Server, Table};
use sqlx::postgres::PgTypeInfo;
use sqlx::{Postgres, Row, TypeInfo};

use super::{Describes, Needed, Texts, rows};
use crate::db::atomic::{Atomic, in_transaction};
use crate::db::lanes::array_of;
use crate::db::source::Link;

/// One row per table, as its JSON in `rowlock.schema.json`. What an extension brought along is not the program's.
const TABLES: &str = r#"
SELECT json_strip_nulls(json_build_object(
  'schema', CASE n.oid WHEN pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END,
  'name', c.relname,
  'kind', CASE WHEN c.relispartition THEN 'partition' WHEN c.relkind = 'r' THEN 'table' WHEN c.relkind = 'p' THEN 'partitioned'
               WHEN c.relkind = 'f' THEN 'foreign' ELSE 'view' END,
  'row_security', c.relrowsecurity,
  'options', coalesce((SELECT json_agg(o ORDER BY o) FROM unnest(c.reloptions) AS o), '[]'),
  'columns', coalesce((
    SELECT json_agg(json_build_object(
      'name', a.attname,
      'type', format_type(a.atttypid, a.atttypmod),
      'domain_of', CASE WHEN t.typtype = 'd' THEN y.base END,
      'values', coalesce((SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), '[]'),
      'null', NOT (a.attnotnull OR y.filled),
      'default', CASE WHEN a.attgenerated = '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault) END,
      'generated', CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
      'identity', CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by_default' END,
      'collation', CASE WHEN a.attcollation <> t.typcollation THEN l.collname END))
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_collation l ON l.oid = a.attcollation
    CROSS JOIN LATERAL (
      WITH RECURSIVE y(depth, oid, typmod, typtype, typbasetype, typtypmod, typnotnull) AS (
        SELECT 0, t.oid, -1, t.typtype, t.typbasetype, t.typtypmod, t.typnotnull
        UNION ALL
        SELECT y.depth + 1, b.oid, y.typtypmod, b.typtype, b.typbasetype, b.typtypmod, b.typnotnull
        FROM y JOIN pg_type b ON b.oid = y.typbasetype WHERE y.typtype = 'd')
      SELECT (array_agg(format_type(y.oid, y.typmod) ORDER BY y.depth DESC))[1] AS base,
             bool_or(y.typnotnull OR EXISTS (
               SELECT FROM pg_constraint k WHERE k.contypid = y.oid AND k.contype = 'c' AND k.convalidated
                 AND pg_get_constraintdef(k.oid) ~ '^CHECK \(\(?\(VALUE IS NOT NULL\)( AND |\)\)?$)')) AS filled
      FROM y) AS y
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
  'unique', coalesce((
    SELECT json_agg(json_build_object(
      'name', x.relname,
      'on', (
        SELECT json_agg(CASE WHEN k.column > 0 THEN to_json((SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = k.column))
                             ELSE json_build_object('expression', pg_get_indexdef(i.indexrelid, k.number::int, true)) END ORDER BY k.number)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k("column", number) WHERE k.number <= i.indnkeyatts),
      'primary', i.indisprimary,
      'predicate', pg_get_expr(i.indpred, i.indrelid),
      'nulls_not_distinct', coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
      'invalid', NOT i.indisvalid,
      'deferrable', NOT i.indimmediate,
      'initially_deferred', EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = c.oid AND k.contype IN ('p', 'u') AND k.condeferred)))
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisunique AND pg_get_indexdef(i.indexrelid) IS NOT NULL), '[]'),
  'indexes', coalesce((
    SELECT json_agg(json_build_object(
      'name', x.relname,
      'on', (
        SELECT json_agg(pg_get_indexdef(i.indexrelid, k.number::int, true)
                        || CASE k.option & 3 WHEN 1 THEN ' DESC NULLS LAST' WHEN 3 THEN ' DESC' WHEN 2 THEN ' NULLS FIRST' ELSE '' END ORDER BY k.number)
        FROM unnest(i.indoption::int2[]) WITH ORDINALITY AS k(option, number) WHERE k.number <= i.indnkeyatts),
      'predicate', pg_get_expr(i.indpred, i.indrelid),
      'method', nullif(m.amname, 'btree'),
      'exclusion', (SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype = 'x'),
      'invalid', NOT i.indisvalid))
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam WHERE i.indrelid = c.oid AND NOT i.indisunique
      AND pg_get_indexdef(i.indexrelid) IS NOT NULL), '[]'),
  'checks', coalesce((
    SELECT json_agg(json_build_object(
      'name', k.conname, 'expression', pg_get_expr(k.conbin, k.conrelid), 'not_valid', NOT k.convalidated, 'no_inherit', k.connoinherit))
    FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND pg_get_expr(k.conbin, k.conrelid) IS NOT NULL), '[]'),
  'foreign_keys', coalesce((
    SELECT json_agg(json_build_object('name', k.conname, 'definition', pg_get_constraintdef(k.oid)))
    FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f' AND pg_get_constraintdef(k.oid) IS NOT NULL), '[]'),
  'triggers', coalesce((
    SELECT json_agg(json_build_object(
      'name', g.tgname,
      'before', g.tgtype & 66 <> 0,
      'statement', g.tgtype & 1 = 0,
      'on', (SELECT json_agg(e.name ORDER BY e.bit) FROM (VALUES (4, 'insert'), (16, 'update'), (8, 'delete'), (32, 'truncate')) AS e(bit, name) WHERE g.tgtype & e.bit <> 0)))
    FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')), '[]'),
  'denied', coalesce((
    SELECT json_agg(p.name) FROM (VALUES
      ('SELECT', has_any_column_privilege(c.oid, 'SELECT')), ('INSERT', has_any_column_privilege(c.oid, 'INSERT')),
      ('UPDATE', has_any_column_privilege(c.oid, 'UPDATE')), ('DELETE', has_table_privilege(c.oid, 'DELETE'))) AS p(name, granted)
    WHERE NOT p.granted), '[]'),
  'denied_columns', coalesce((
    SELECT json_agg(json_build_array(a.attname, p.name) ORDER BY a.attnum) FROM pg_attribute a CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS p(name)
    WHERE a.attrelid = c.oid AND NOT a.attisdropped AND (a.attnum > 0 OR p.name = 'SELECT' AND a.attname IN ('xmin', 'xmax'))
      AND NOT has_table_privilege(c.oid, p.name) AND NOT has_column_privilege(c.oid, a.attnum, p.name)), '[]'),
  'denied_sequences', coalesce((
    SELECT json_agg(json_build_array(a.attname, s.oid::regclass::text) ORDER BY a.attnum)
    FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
    JOIN pg_class s ON s.oid = p.refobjid
    WHERE d.adrelid = c.oid AND CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END), '[]')
))::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND (n.oid = pg_my_temp_schema() OR n.nspname NOT LIKE 'pg\_temp\_%') AND n.nspname NOT LIKE 'pg\_toast\_%'
  AND NOT EXISTS (SELECT FROM pg_depend p WHERE p.classid = 'pg_class'::regclass AND p.objid = c.oid AND p.deptype = 'e')
"#;

/// The schemas, where the connection looks besides, and its user. Its temporary tables come first, unless `search_path` names `pg_temp` elsewhere.
const SEARCH_PATH: &str = "SELECT to_json(array_remove(current_schemas(false), own.name))::text, \
     to_json(array_replace(array_remove(current_schemas(true), 'pg_catalog'), own.name, 'pg_temp'))::text, quote_ident(current_user) \
     FROM (SELECT pg_my_temp_schema()::regnamespace::text::name AS name) AS own";

/// How often the catalogue is read at most.
const TRIES: usize = 5;

/// Functions such as `pg_get_expr` see the newest catalogue, and the query the one of its snapshot: of a table that was dropped meanwhile they return
/// NULL, or "could not open relation with OID".
fn is_of_another_moment(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code();
            code.is_some_and(|code| ["XX000", "42P01", "42704"].contains(&&*code))
        }
        error => matches!(error, sqlx::Error::Decode(_)),
    }
}

/// Reads them; in a transaction, which an error would end, within a savepoint.
async fn tables(link: &mut Link<'_, Postgres>) -> Result<Vec<Table>, sqlx::Error> {
    let read = if in_transaction::<Postgres>(link) {
        let mut savepoint = Atomic::begin(link.reborrow()).await?;
        let read = rows(savepoint.link(), sqlx::query(TABLES)).await;
        savepoint.rollback().await?;
        read?
    } else {
        rows(link, sqlx::query(TABLES)).await?
    };
    let tables = read.iter().map(|row| parsed(&row.try_get::<String, _>(0)?));
    tables.collect()
}

impl Describes for Postgres {
    async fn describe_tables(link: &mut Link<'_, Self>) -> Result<Catalogue, sqlx::Error> {
        let path = rows(link, sqlx::query(SEARCH_PATH)).await?;
        let row = path.first().ok_or(sqlx::Error::RowNotFound)?;
        let path = parsed(&row.try_get::<String, _>(0)?)?;
        let connection_path = parsed(&row.try_get::<String, _>(1)?)?;
        let user = row.try_get(2)?;
        let mut tries = 0;
        let tables = loop {
            tries += 1;
            match tables(link).await {
                Err(error) if tries < TRIES && is_of_another_moment(&error) => {}
                read => break read?,
            }
        };
        let mut catalogue = Catalogue::new(Dialect::Postgres, path, tables);
        catalogue.connection_path = connection_path;
        catalogue.user = Some(user);
        Ok(catalogue)
    }

    async fn describe_server(link: &mut Link<'_, Self>) -> Result<Server, sqlx::Error> {
        server(link).await
    }

    fn texts(needed: &Needed) -> Texts<Self> {
        needed.postgres
    }

    fn named_types(needed: &Needed) -> Vec<(usize, PgTypeInfo)> {
        let types = needed.postgres_types.iter();
        let types = types.filter_map(|(place, ty)| Some((*place, (*ty)?())));
        types.filter(|(_, ty)| ty.oid().is_none()).collect()
    }

    fn arrays(elements: &[PgTypeInfo]) -> Option<Vec<PgTypeInfo>> {
        let arrays = elements.iter().map(|element| {
            let is_array = element.name().ends_with("[]");
            (!is_array).then(|| array_of(element))
        });
        arrays.collect()
    }
}

/// In one row, as nothing is asked twice.
const SERVER: &str = "SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on', \
     current_setting('default_transaction_isolation'), current_setting('synchronous_commit')";

async fn server(link: &mut Link<'_, Postgres>) -> Result<Server, sqlx::Error> {
    let rows = rows(link, sqlx::query(SERVER)).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let (is_standby, is_read_only): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
    let why = match (is_standby, is_read_only) {
        (true, _) => Some("the server is a standby"),
        (_, true) => Some("`default_transaction_read_only` is on"),
        (false, false) => None,
    };
    let mut server = Server {
        version: row.try_get(0)?,
        read_only: why.map(str::to_owned),
        settings: Vec::new(),
    };
    let (isolation, commit): (String, String) = (row.try_get(3)?, row.try_get(4)?);
    let mut set = |name: &str, value: String, note: &str| {
        server
            .settings
            .push((name.to_owned(), value, note.to_owned()));
    };
    if ["repeatable read", "serializable"].contains(&isolation.as_str()) {
        set(
            "default_transaction_isolation",
            isolation,
            "outside a transaction a write that loses against a concurrent one is run again, up to ten times; \
             row locks and advisory locks need READ COMMITTED, and refuse a transaction of another level",
        );
    }
    if commit == "off" {
        set(
            "synchronous_commit",
            commit,
            "a write that returned `Ok` can be lost when the server crashes",
        );
    }
    Ok(server)
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}
