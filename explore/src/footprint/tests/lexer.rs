use crate::footprint::lexer::{Token, tokens};

/// The tokens, with a blank between them: names that were quoted in quotes, strings in brackets.
fn shown(sql: &str) -> Option<String> {
    let shown = tokens(sql)?.into_iter().map(|token| match token {
        Token::Word { name, quoted: true } => format!("\"{name}\""),
        Token::Word { name, .. } => name,
        Token::Text(Some(text)) => format!("<{text}>"),
        Token::Text(None) => "<…>".to_owned(),
        Token::Param { number, .. } => format!("${number}"),
        Token::Number(text) | Token::Symbol(text) => text,
        Token::Comma => ",".to_owned(),
        Token::Dot => ".".to_owned(),
        Token::Semicolon => ";".to_owned(),
        Token::Open(bracket) | Token::Close(bracket) => bracket.to_string(),
    });
    Some(shown.collect::<Vec<_>>().join(" "))
}

#[test]
fn tokens_are_those_of_the_server() {
    for (sql, expected) in [
        ("SELECT Ab, \"Ab\"\"c\"", "select ab , \"Ab\"c\""),
        ("a.b$c $1,$23", "a . b$c $1 , $23"),
        (
            "'it''s' E'a\\'b''c' b'01' x'FF' N'n' u&'\\0041'",
            "<it's> <…> <…> <…> <…> <…>",
        ),
        ("E'\\\\' a", "<…> a"),
        ("$$a'b$$ $t$a $$ b$t$ a$b$c", "<a'b> <a $$ b> a$b$c"),
        ("a -- b 'c\nd", "a d"),
        ("a /* b /* c */ ' */ d--", "a d"),
        ("U&\"d\\0061t\\+000061\" u&\"a\\\\\"", "\"data\" \"a\\\""),
        (
            "1.5e-3 .5 1_000 0x1F 7::int",
            "1.5e-3 .5 1_000 0x1F 7 :: int",
        ),
        (
            "a=-1 b<>-c d@-e f->>'g' h--i",
            "a = - 1 b <> - c d @- e f ->> <g> h",
        ),
        ("a*/* x */b", "a * b"),
        ("x[1:2]", "x [ 1 : 2 ]"),
        ("été É", "été É"),
    ] {
        assert_eq!(shown(sql).as_deref(), Some(expected), "{sql}");
    }
}

#[test]
fn what_cannot_be_read_for_certain_is_not_read() {
    for sql in [
        "'a",
        "\"a",
        "/* a",
        "$a$ b",
        "E'a\\'",
        "u&\"a!0061\" UESCAPE '!'",
        // It ends in two places, as `standard_conforming_strings` says.
        "'a\\' OR b",
        "{a}",
        "u&\"\\00\"",
    ] {
        assert_eq!(shown(sql), None, "{sql}");
    }
}

#[test]
fn a_name_is_as_long_as_the_server_makes_it() {
    let (long, cut) = ("a".repeat(70), "a".repeat(63));
    assert_eq!(shown(&long), Some(cut));
    let (long, cut) = (format!("{}é", "a".repeat(62)), "a".repeat(62));
    assert_eq!(shown(&long), Some(cut));
}
