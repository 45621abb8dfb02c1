//! Which clock a text reads: the one that can be stepped is found by the search path.

use super::lexer::{Node, Token, statements};

/// Why what a session reads may not be the clock that was stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherClock {
    /// Its search path is its own.
    Path,
    /// It calls the server's clock by its full name.
    Name,
}

impl OtherClock {
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Path => {
                "a session set search_path, so the clock that was stepped is not the one it reads"
            }
            Self::Name => {
                "a request calls a clock by its full name, which is not the one that was stepped"
            }
        }
    }
}

/// Whether this text leads its session, or itself, to another clock than the stepped one.
pub(crate) fn other_clock(sql: &str) -> Option<OtherClock> {
    let Some(statements) = statements(sql) else {
        return in_text(sql);
    };
    statements.iter().find_map(|nodes| {
        let shows = matches!(
            nodes.first().and_then(Node::keyword),
            Some("show" | "reset")
        );
        if !shows && (sets_schema(nodes) || sets_path(nodes)) {
            return Some(OtherClock::Path);
        }
        names_clock(nodes).then_some(OtherClock::Name)
    })
}

/// `SET SCHEMA 'shop'` is another word for it.
fn sets_schema(nodes: &[Node]) -> bool {
    let [set, rest @ ..] = nodes else {
        return false;
    };
    let rest = match rest {
        [scope, rest @ ..] if scope.is("session") || scope.is("local") => rest,
        _ => rest,
    };
    set.is("set") && rest.first().is_some_and(|node| node.is("schema"))
}

fn sets_path(nodes: &[Node]) -> bool {
    nodes.iter().enumerate().any(|(at, node)| {
        let named = match node {
            Node::Token(Token::Word { name, .. }) => name == "search_path",
            Node::Token(Token::Text(Some(text))) => in_text(text) == Some(OtherClock::Path),
            _ => false,
        };
        let sets = node.word() == Some("set_config")
            && match nodes.get(at + 1).and_then(Node::group) {
                Some([Node::Token(Token::Text(Some(_))), comma, ..]) => !comma.is_comma(),
                _ => true,
            };
        named || sets || sets_path(node.inner())
    })
}

fn names_clock(nodes: &[Node]) -> bool {
    let called = nodes.windows(3).any(|nodes| {
        let clock = nodes[2].word();
        nodes[0].word() == Some("pg_catalog")
            && nodes[1].is_dot()
            && clock.is_some_and(|clock| CLOCKS.contains(&clock))
    });
    let written = |node: &Node| match node {
        Node::Token(Token::Text(Some(text))) => in_text(text) == Some(OtherClock::Name),
        _ => names_clock(node.inner()),
    };
    called || nodes.iter().any(written)
}

const CLOCKS: [&str; 3] = ["now", "clock_timestamp", "statement_timestamp"];

/// What is not read as SQL, such as the text of DO.
fn in_text(text: &str) -> Option<OtherClock> {
    let text = text.to_ascii_lowercase();
    if text.contains("search_path") {
        return Some(OtherClock::Path);
    }
    let named = |clock| text.contains(&format!("pg_catalog.{clock}"));
    CLOCKS.iter().any(named).then_some(OtherClock::Name)
}
