//! Reads names, literals and punctuation off the text. Every failure says what was expected and what is there.

use super::TextError;

/// A place in the text with what is wrong there; becomes a [`TextError`] once line and column are asked for.
#[derive(Debug)]
pub(super) struct Fail {
    pub(super) at: usize,
    pub(super) message: String,
}

impl Fail {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Fail {
        Fail { at, message: message.into() }
    }

    /// Line and column, both from 1, columns in characters.
    pub(super) fn locate(self, text: &str) -> TextError {
        let before = text.get(..self.at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before[start..].chars().count() + 1;
        TextError { line, column, message: self.message }
    }
}

pub(super) type Parsed<T> = Result<T, Fail>;

/// A literal as it stands in the text; numbers are converted once it is clear which type they are to have.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal<'t> {
    Int(&'t str),
    Float(&'t str),
    String(String),
}

/// How deep bodies and types may nest: far beyond any model, and shallow enough for every stack.
const MAX_DEPTH: usize = 64;

/// The rest of the text.
pub(super) struct Cursor<'t> {
    text: &'t str,
    pos: usize,
    depth: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(text: &'t str) -> Cursor<'t> {
        Cursor { text, pos: 0, depth: 0 }
    }

    /// Reads something that may hold others of its kind.
    pub(super) fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            let at = self.at();
            return Err(Fail::new(at, format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn rest(&self) -> &'t str {
        &self.text[self.pos..]
    }

    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
            self.pos += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.pos += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Where the next token begins.
    pub(super) fn at(&mut self) -> usize {
        self.skip_space();
        self.pos
    }

    pub(super) fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.rest().chars().next()
    }

    pub(super) fn is_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Takes `token` if it is next.
    pub(super) fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.pos += token.len();
        }
        found
    }

    pub(super) fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { self.unexpected(&format!("`{token}`")) }
    }

    /// Items up to `close`, which is taken too; commas between them.
    pub(super) fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Cursor<'t>) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        if self.take(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.take(close) {
                return Ok(items);
            }
            if !self.take(",") {
                return self.unexpected(&format!("`,` or `{close}`"));
            }
        }
    }

    /// Fails because something else than `expected` is next.
    pub(super) fn unexpected<T>(&mut self, expected: &str) -> Parsed<T> {
        let at = self.at();
        Err(Fail::new(at, format!("expected {expected}, found {}", self.describe())))
    }

    fn describe(&mut self) -> String {
        if let Some(id) = self.peek_identifier() {
            return format!("`{id}`");
        }
        match self.rest().chars().next() {
            None => "the end of the text".into(),
            Some('"') => "a string".into(),
            Some('0'..='9') => "a number".into(),
            Some(_) if self.rest().starts_with("=>") => "`=>`".into(),
            Some(c) => format!("`{}`", c.escape_debug()),
        }
    }

    /// The identifier that is next, not taken.
    pub(super) fn peek_identifier(&mut self) -> Option<&'t str> {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c: char| !is_id_char(c)).unwrap_or(rest.len());
        let id = &rest[..end];
        id.starts_with(|c: char| !c.is_ascii_digit()).then_some(id)
    }

    pub(super) fn take_identifier(&mut self) -> Option<&'t str> {
        let id = self.peek_identifier()?;
        self.pos += id.len();
        Some(id)
    }

    pub(super) fn identifier(&mut self, what: &str) -> Parsed<&'t str> {
        match self.take_identifier() {
            Some(id) => Ok(id),
            None => self.unexpected(what),
        }
    }

    /// An identifier or a string.
    pub(super) fn name(&mut self, what: &str) -> Parsed<String> {
        match self.peek() {
            Some('"') => self.string(),
            _ => self.identifier(what).map(str::to_owned),
        }
    }

    /// A string in double quotes. A backslash stands before a character that is meant as it is.
    pub(super) fn string(&mut self) -> Parsed<String> {
        let start = self.at();
        if !self.take("\"") {
            return self.unexpected("a string");
        }
        let mut value = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    self.pos += offset + 1;
                    return Ok(value);
                }
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                _ => value.push(c),
            }
        }
        Err(Fail::new(start, "string has no closing quote"))
    }

    /// A string or a number.
    pub(super) fn literal(&mut self, what: &str) -> Parsed<Literal<'t>> {
        if self.peek() == Some('"') {
            return self.string().map(Literal::String);
        }
        let rest = self.rest();
        let sign = usize::from(rest.starts_with('-'));
        let unsigned = &rest[sign..];
        if unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            let (length, is_float) = number_length(unsigned);
            let number = &rest[..sign + length];
            self.pos += number.len();
            return Ok(if is_float { Literal::Float(number) } else { Literal::Int(number) });
        }
        let word = unsigned.find(|c: char| !is_id_char(c)).map_or(unsigned, |end| &unsigned[..end]);
        if is_float_word(word) {
            self.pos += sign + word.len();
            return Ok(Literal::Float(&rest[..sign + word.len()]));
        }
        self.unexpected(what)
    }

    /// A signed integer.
    pub(super) fn int(&mut self, what: &str) -> Parsed<i64> {
        let at = self.at();
        match self.literal(what)? {
            Literal::Int(digits) => parse_int(at, digits),
            _ => Err(Fail::new(at, format!("expected {what}"))),
        }
    }
}

pub(super) fn parse_int(at: usize, digits: &str) -> Parsed<i64> {
    digits.parse().map_err(|_| Fail::new(at, format!("{digits} does not fit 64 bits")))
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether a name can stand in the text without quotes.
pub(super) fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| is_id_char(c) && !c.is_ascii_digit()) && name.chars().all(is_id_char)
}

/// Whether a word is one of the floats that have no digits.
pub(super) fn is_float_word(word: &str) -> bool {
    ["nan", "inf", "infinity"].iter().any(|float| word.eq_ignore_ascii_case(float))
}

/// Length of the number at the start of `text`, and whether it has a point or an exponent.
fn number_length(text: &str) -> (usize, bool) {
    let bytes = text.as_bytes();
    let digits =
        |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = digits(0);
    let mut is_float = false;
    if bytes.get(end) == Some(&b'.') {
        is_float = true;
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        is_float = true;
        end += 1;
        end += usize::from(matches!(bytes.get(end), Some(b'+' | b'-')));
        end = digits(end);
    }
    (end, is_float)
}
