//! The functions and operators that a text names, and what they touch.

use super::catalogue::{ADVISORY, CHANNELS, Catalogue, Origin};
use super::key::Family;
use super::lexer::{Node, Token};
use super::reading::Touched;
use super::shape::constant;

/// Volatile, and yet nobody else sees them: they make something up, wait, or are about the session.
const OWN: &[&str] = &[
    "clock_timestamp",
    "currval",
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "lastval",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "set_config",
    "setseed",
    "timeofday",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
];

/// Not volatile, and yet they run a text, or read what others do.
const SHARED: &[&str] = &[
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "pg_current_snapshot",
    "pg_visible_in_snapshot",
    "pg_xact_status",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "ts_rewrite",
    "ts_stat",
    "txid_current_snapshot",
    "txid_status",
    "txid_visible_in_snapshot",
];

/// Reports what the calls in these nodes touch.
///
/// A function is also called by `value.function`. A name that is no function of the database at all is that of a table, a type or the
/// like.
pub(super) fn calls(catalogue: &Catalogue, nodes: &[Node], found: &mut dyn FnMut(Touched)) {
    for (at, node) in nodes.iter().enumerate() {
        let arguments = nodes.get(at + 1).and_then(Node::group);
        let dotted = at > 0 && nodes[at - 1].is_dot();
        match node {
            Node::Token(Token::Word { name, .. }) if arguments.is_some() || dotted => {
                call(catalogue, name, arguments.unwrap_or_default(), found);
            }
            Node::Token(Token::Symbol(name)) if catalogue.operators.contains(name) => {
                found(Touched::Everything);
            }
            _ => calls(catalogue, node.inner(), found),
        }
    }
}

fn call(catalogue: &Catalogue, name: &str, arguments: &[Node], found: &mut dyn FnMut(Touched)) {
    if SHARED.contains(&name) {
        return found(Touched::Everything);
    }
    let Some(&origin) = catalogue.functions.get(name) else {
        return;
    };
    let whole = |relation| Touched::Relation {
        relation,
        key: None,
        writes: true,
    };
    match name {
        _ if origin == Origin::User => found(Touched::Everything),
        _ if OWN.contains(&name) => {}
        _ if origin == Origin::Native => found(Touched::Everything),
        "nextval" | "setval" => match arguments.first() {
            Some(Node::Token(Token::Text(Some(text)))) if !catalogue.in_text(text).is_empty() => {
                let sequences = catalogue.in_text(text).iter();
                sequences.for_each(|&sequence| found(whole(sequence)));
            }
            _ => found(Touched::Everything),
        },
        "pg_notify" => found(whole(CHANNELS)),
        _ if name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_") => {
            // One number and two are different locks, and so they are as keys.
            let numbers = arguments.split(Node::is_comma);
            let key = numbers
                .map(|number| constant(number, Family::Int))
                .collect();
            let key = Some(key).filter(|_| !arguments.is_empty()).flatten();
            found(Touched::Relation {
                relation: ADVISORY,
                key,
                writes: true,
            });
        }
        _ => found(Touched::Everything),
    }
}
