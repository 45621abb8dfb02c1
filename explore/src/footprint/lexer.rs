//! The text of statements, cut into words as PostgreSQL's scanner does it, and put in order by its brackets.

/// A word of SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or keyword, folded as the server folds it.
    Word {
        name: String,
        quoted: bool,
    },
    /// A string; `None` where it has escapes or a prefix, and so a value that is not looked at.
    Text(Option<String>),
    /// `$n`
    Param {
        number: usize,
        /// Where it stands, which tells it from others of its number.
        at: usize,
    },
    Number(String),
    /// An operator, or punctuation that is not named here.
    Symbol(String),
    Comma,
    Dot,
    Semicolon,
    Open(char),
    Close(char),
}

/// A token, or all that is between two brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Token(Token),
    /// `(…)`
    Group(Vec<Node>),
    /// `[…]`
    Subscript(Vec<Node>),
}

impl Node {
    /// The name that this is.
    pub(super) fn word(&self) -> Option<&str> {
        match self {
            Self::Token(Token::Word { name, .. }) => Some(name),
            _ => None,
        }
    }

    /// The name that this is, if it can be a keyword.
    pub(super) fn keyword(&self) -> Option<&str> {
        match self {
            Self::Token(Token::Word {
                name,
                quoted: false,
            }) => Some(name),
            _ => None,
        }
    }

    pub(super) fn is(&self, keyword: &str) -> bool {
        self.keyword() == Some(keyword)
    }

    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self, Self::Token(Token::Symbol(text)) if text == symbol)
    }

    pub(super) fn is_dot(&self) -> bool {
        matches!(self, Self::Token(Token::Dot))
    }

    pub(super) fn is_comma(&self) -> bool {
        matches!(self, Self::Token(Token::Comma))
    }

    pub(super) fn group(&self) -> Option<&[Node]> {
        match self {
            Self::Group(inner) => Some(inner),
            _ => None,
        }
    }

    /// What is in its brackets, of whichever kind.
    pub(super) fn inner(&self) -> &[Node] {
        match self {
            Self::Group(inner) | Self::Subscript(inner) => inner,
            Self::Token(_) => &[],
        }
    }
}

/// The statements of a text. `None` if it cannot be read for certain.
pub(super) fn statements(sql: &str) -> Option<Vec<Vec<Node>>> {
    let mut statements = vec![];
    let mut open: Vec<(char, Vec<Node>)> = vec![];
    let mut level = vec![];
    for token in tokens(sql)? {
        match token {
            Token::Open(_) if open.len() == DEEPEST => return None,
            Token::Open(bracket) => open.push((bracket, std::mem::take(&mut level))),
            Token::Close(bracket) => {
                let (opened, outer) = open.pop()?;
                let inner = std::mem::replace(&mut level, outer);
                level.push(match (opened, bracket) {
                    ('(', ')') => Node::Group(inner),
                    ('[', ']') => Node::Subscript(inner),
                    _ => return None,
                });
            }
            Token::Semicolon if open.is_empty() => statements.push(std::mem::take(&mut level)),
            token => level.push(Node::Token(token)),
        }
    }
    statements.push(level);
    statements.retain(|statement| !statement.is_empty());
    open.is_empty().then_some(statements)
}

/// How many brackets can be open at once.
const DEEPEST: usize = 100;

/// How many bytes of a name the server looks at.
const NAME_BYTES: usize = 63;

/// The tokens of a text. `None` if it cannot be read for certain.
pub(super) fn tokens(sql: &str) -> Option<Vec<Token>> {
    let mut lexer = Lexer { rest: sql };
    let mut tokens = vec![];
    while let Some(token) = lexer.next()? {
        // What escapes the characters of the name before it.
        if matches!(&token, Token::Word { name, quoted: false } if name == "uescape") {
            return None;
        }
        tokens.push(token);
    }
    Some(tokens)
}

struct Lexer<'a> {
    rest: &'a str,
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_name(c: char) -> bool {
    is_name_start(c) || c.is_ascii_digit() || c == '$'
}

fn is_operator(c: char) -> bool {
    "+-*/<>=~!@#%^&|`?".contains(c)
}

/// As the server cuts a name that is too long.
fn cut(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(NAME_BYTES));
    name
}

impl<'a> Lexer<'a> {
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, more: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !more(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    /// `Some(None)` at the end, `None` where it cannot be read.
    fn next(&mut self) -> Option<Option<Token>> {
        self.skip_blanks()?;
        let mut chars = self.rest.chars();
        let Some(first) = chars.next() else {
            return Some(None);
        };
        let second = chars.next().unwrap_or(' ');
        let third = chars.next().unwrap_or(' ');
        let token = match (first.to_ascii_lowercase(), second, third) {
            ('\'', ..) => {
                self.take(1);
                Token::Text(Some(self.plain_text()?))
            }
            ('e', '\'', _) => {
                self.take(2);
                self.escaped_text()?;
                Token::Text(None)
            }
            ('b' | 'x' | 'n', '\'', _) => {
                self.take(2);
                self.plain_text()?;
                Token::Text(None)
            }
            ('u', '&', '\'') => {
                self.take(3);
                self.until('\'')?;
                Token::Text(None)
            }
            ('u', '&', '"') => {
                self.take(3);
                let name = cut(unescape(&self.until('"')?)?);
                Token::Word { name, quoted: true }
            }
            ('"', ..) => {
                self.take(1);
                let name = cut(self.until('"')?);
                Token::Word { name, quoted: true }
            }
            ('$', digit, _) if digit.is_ascii_digit() => {
                self.take(1);
                let at = self.rest.len();
                let number = self.take_while(|c| c.is_ascii_digit()).parse().ok()?;
                Token::Param { number, at }
            }
            ('$', ..) => {
                let (tag, rest) = self.rest[1..].split_once('$')?;
                let is_tag = tag.chars().all(|c| c != '$' && is_name(c))
                    && tag.chars().next().is_none_or(is_name_start);
                let delimiter = &self.rest[..tag.len() + 2];
                let (text, rest) = rest.split_once(delimiter).filter(|_| is_tag)?;
                self.rest = rest;
                Token::Text(Some(text.to_owned()))
            }
            (digit, ..) if digit.is_ascii_digit() => self.number(),
            ('.', digit, _) if digit.is_ascii_digit() => self.number(),
            (first, ..) if is_name_start(first) => {
                let name = cut(self.take_while(is_name).to_ascii_lowercase());
                Token::Word {
                    name,
                    quoted: false,
                }
            }
            (first, ..) if is_operator(first) => self.operator(),
            (':', ':' | '=', _) => Token::Symbol(self.take(2).to_owned()),
            (first, ..) => {
                self.take(first.len_utf8());
                match first {
                    '(' | '[' => Token::Open(first),
                    ')' | ']' => Token::Close(first),
                    ',' => Token::Comma,
                    '.' => Token::Dot,
                    ';' => Token::Semicolon,
                    ':' => Token::Symbol(":".to_owned()),
                    _ => return None,
                }
            }
        };
        Some(Some(token))
    }

    /// Blanks and comments, which nest.
    fn skip_blanks(&mut self) -> Option<()> {
        loop {
            self.take_while(|c| c.is_ascii_whitespace() || c == '\u{b}');
            if self.rest.starts_with("--") {
                self.take_while(|c| c != '\n' && c != '\r');
            } else if self.rest.starts_with("/*") {
                let mut depth = 0_usize;
                loop {
                    if self.rest.starts_with("/*") {
                        depth += 1;
                        self.take(2);
                    } else if self.rest.starts_with("*/") {
                        depth -= 1;
                        self.take(2);
                    } else {
                        self.take(self.rest.chars().next()?.len_utf8());
                    }
                    if depth == 0 {
                        break;
                    }
                }
            } else {
                return Some(());
            }
        }
    }

    /// Up to the quote that is not doubled.
    fn until(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        loop {
            let (part, rest) = self.rest.split_once(quote)?;
            text.push_str(part);
            self.rest = rest;
            match rest.strip_prefix(quote) {
                Some(rest) => self.rest = rest,
                None => return Some(text),
            }
            text.push(quote);
        }
    }

    /// With `standard_conforming_strings` off, a backslash hides the quote after it; where it does not matter which it is.
    fn plain_text(&mut self) -> Option<String> {
        let text = self.until('\'')?;
        (!text.ends_with('\\') && !text.contains("\\'")).then_some(text)
    }

    fn escaped_text(&mut self) -> Option<()> {
        loop {
            let end = self.rest.find(['\'', '\\'])?;
            let hit = self.rest.as_bytes()[end];
            self.take(end + 1);
            if hit == b'\\' {
                self.take(self.rest.chars().next()?.len_utf8());
            } else if let Some(rest) = self.rest.strip_prefix('\'') {
                self.rest = rest;
            } else {
                return Some(());
            }
        }
    }

    fn number(&mut self) -> Token {
        let rest = self.rest;
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        let mut end = rest.len() - self.rest.len();
        // `1e-5`, but not `0xe-5`
        let exponent = rest[..end].ends_with(['e', 'E']) && !rest.starts_with("0");
        if exponent && self.rest.starts_with(['+', '-']) {
            self.take(1);
            self.take_while(|c| c.is_ascii_digit() || c == '_');
            end = rest.len() - self.rest.len();
        }
        Token::Number(rest[..end].to_owned())
    }

    fn operator(&mut self) -> Token {
        let rest = self.rest;
        let mut end = rest.find(|c| !is_operator(c)).unwrap_or(rest.len());
        for comment in ["--", "/*"] {
            end = rest[..end].find(comment).unwrap_or(end);
        }
        // `=-1` is two, `@-` is one.
        if !rest[..end].contains(['~', '!', '@', '#', '%', '^', '&', '|', '`', '?']) {
            while end > 1 && rest[..end].ends_with(['+', '-']) {
                end -= 1;
            }
        }
        Token::Symbol(self.take(end).to_owned())
    }
}

/// `\0041` and `\+000041`
fn unescape(text: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        name.push_str(before);
        if let Some(after) = after.strip_prefix('\\') {
            name.push('\\');
            rest = after;
            continue;
        }
        let (digits, after) = match after.strip_prefix('+') {
            Some(after) => (after.get(..6)?, after.get(6..)?),
            None => (after.get(..4)?, after.get(4..)?),
        };
        name.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = after;
    }
    name.push_str(rest);
    Some(name)
}
