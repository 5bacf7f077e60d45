//! ClickHouse's own lexical rules (its `src/Parsers/Lexer.cpp`), as far as routing needs them: where comments, strings and
//! brackets begin and end, and what is a word.
//!
//! Works on bytes: a statement may carry binary data behind its text. White space and comments are skipped. Never fails and
//! never reads twice what it has passed, but for a heredoc's tag.

/// What a token is; words keep their case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `SELECT`, `my_table`, `1st_table`: a keyword or a bare identifier.
    Word,
    /// `"a"` or `` `a` ``.
    QuotedIdentifier,
    /// `'a'`, `x'61'`.
    String,
    /// `$tag$ … $tag$`.
    Heredoc,
    Number,
    /// `(`, `[` or `{`.
    Open(u8),
    /// `)`, `]` or `}`.
    Close(u8),
    Comma,
    Semicolon,
    Dot,
    Equals,
    /// Any other operator or byte.
    Other,
    /// A string, identifier or comment that does not end within the text.
    Unclosed,
}

/// A token's kind and its place in the text: `text[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

/// Yields the significant tokens of a text, in order.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    after_dot: bool,
    after_operand: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        let at = if text.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        Self { text, at, after_dot: false, after_operand: false }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.byte(0).is_some_and(&wanted) {
            self.at += 1;
        }
    }

    /// Passes white space and comments; false if a comment is not closed.
    fn skip_insignificant(&mut self) -> bool {
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(byte), _) if is_space(byte) => self.skip_while(is_space),
                (Some(b'-'), Some(b'-')) | (Some(b'/'), Some(b'/')) | (Some(b'#'), Some(b' ' | b'!')) => {
                    self.skip_while(|b| b != b'\n');
                }
                (Some(b'/'), Some(b'*')) => {
                    if !self.skip_block_comment() {
                        return false;
                    }
                }
                _ => match wide_space(&self.text[self.at..]) {
                    Some(length) => self.at += length,
                    None => return true,
                },
            }
        }
    }

    /// Block comments nest, as the SQL standard says.
    fn skip_block_comment(&mut self) -> bool {
        let mut depth = 0_usize;
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                (Some(_), Some(_)) => self.at += 1,
                _ => {
                    self.at = self.text.len();
                    return false;
                }
            }
        }
    }

    fn quoted(&mut self, quote: u8, kind: Kind) -> Kind {
        self.at += 1;
        loop {
            match self.byte(0) {
                None => return Kind::Unclosed,
                Some(b'\\') => self.at = (self.at + 2).min(self.text.len()),
                Some(byte) if byte == quote => {
                    self.at += 1;
                    if self.byte(0) != Some(quote) {
                        return kind;
                    }
                    self.at += 1;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// A heredoc if its tag comes again, else a `$` or a word that begins with one.
    fn dollar(&mut self) -> Kind {
        let rest = &self.text[self.at..];
        if let Some(tag_length) = rest[1..].iter().position(|b| *b == b'$').map(|p| p + 2) {
            let (tag, body) = rest.split_at(tag_length);
            if let Some(found) = find(body, tag) {
                self.at += tag_length + found + tag_length;
                return Kind::Heredoc;
            }
        }
        self.at += 1;
        let before = self.at;
        self.skip_while(is_word_or_dollar);
        if self.at == before { Kind::Other } else { Kind::Word }
    }

    /// A number, or a word that begins with a digit; after a dot only digits (`tuple.1.2`).
    fn number(&mut self) -> Kind {
        let start = self.at;
        self.skip_while(is_word);
        let digits = &self.text[start..self.at];
        if self.after_dot || !is_number(digits) {
            return if is_number(digits) { Kind::Number } else { Kind::Word };
        }
        if self.byte(0) == Some(b'.') {
            self.at += 1;
            self.skip_while(is_word);
        }
        let hex = digits.starts_with(b"0x") || digits.starts_with(b"0X");
        let exponent: &[u8] = if hex { b"pP" } else { b"eE" };
        let ends_in_exponent = self.text[start..self.at].last().is_some_and(|b| exponent.contains(b));
        if ends_in_exponent && matches!(self.byte(0), Some(b'+' | b'-')) && self.byte(1).is_some() {
            self.at += 1;
            self.skip_while(is_word);
        }
        Kind::Number
    }

    fn kind_at(&mut self, first: u8) -> Kind {
        let number_after_dot = first == b'.' && !self.after_operand && self.byte(1).is_some_and(|b| b.is_ascii_digit());
        match first {
            b'0'..=b'9' => return self.number(),
            b'\'' => return self.quoted(b'\'', Kind::String),
            b'"' | b'`' => return self.quoted(first, Kind::QuotedIdentifier),
            b'x' | b'X' | b'b' | b'B' if self.byte(1) == Some(b'\'') => {
                self.at += 1;
                return self.quoted(b'\'', Kind::String);
            }
            b'$' => return self.dollar(),
            _ if is_word(first) => {
                self.skip_while(is_word_or_dollar);
                return Kind::Word;
            }
            0xE2 => {
                if let Some(kind) = self.curly_quoted() {
                    return kind;
                }
            }
            _ if number_after_dot => {
                self.at += 1;
                return self.number();
            }
            _ => {}
        }
        self.at += 1;
        match first {
            b'(' | b'[' | b'{' => Kind::Open(first),
            b')' | b']' | b'}' => Kind::Close(first),
            b',' => Kind::Comma,
            b';' => Kind::Semicolon,
            b'.' => Kind::Dot,
            b'=' => Kind::Equals,
            _ => Kind::Other,
        }
    }

    /// `‘a’` and `“a”`, which word processors make of quotes.
    fn curly_quoted(&mut self) -> Option<Kind> {
        let rest = &self.text[self.at..];
        let (closing, kind) = match rest.get(..3)? {
            b"\xE2\x80\x98" => (b"\xE2\x80\x99", Kind::String),
            b"\xE2\x80\x9C" => (b"\xE2\x80\x9D", Kind::QuotedIdentifier),
            _ => return None,
        };
        match find(&rest[3..], closing) {
            Some(found) => {
                self.at += found + 6;
                Some(kind)
            }
            None => {
                self.at = self.text.len();
                Some(Kind::Unclosed)
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let before = self.at;
        if !self.skip_insignificant() {
            return Some(Token { kind: Kind::Unclosed, start: before, end: self.text.len() });
        }
        let start = self.at;
        let first = self.byte(0)?;
        let kind = self.kind_at(first);
        self.after_dot = kind == Kind::Dot;
        self.after_operand =
            matches!(kind, Kind::Word | Kind::QuotedIdentifier | Kind::Number | Kind::Close(b')') | Kind::Close(b']'));
        Some(Token { kind, start, end: self.at })
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_word_or_dollar(byte: u8) -> bool {
    is_word(byte) || byte == b'$'
}

/// The length of a Unicode space at the front, as ClickHouse skips them.
fn wide_space(text: &[u8]) -> Option<usize> {
    match text {
        [0xC2, 0x85 | 0xA0, ..] => Some(2),
        [0xE1, 0x9A, 0x80, ..] | [0xE1, 0xA0, 0x8E, ..] => Some(3),
        [0xE2, 0x80, 0x80..=0x8D | 0xA8 | 0xA9 | 0xAF, ..] => Some(3),
        [0xE2, 0x81, 0x9F | 0xA0, ..] | [0xE3, 0x80, 0x80, ..] | [0xEF, 0xBB, 0xBF, ..] => Some(3),
        _ => None,
    }
}

/// Whether word characters that begin with a digit are a number (`12`, `1_000`, `0x1F`, `1e5`) and not a name (`1st`).
fn is_number(word: &[u8]) -> bool {
    let all = |part: &[u8], wanted: fn(&u8) -> bool| part.iter().all(|b| wanted(b) || *b == b'_');
    match word {
        [b'0', b'x' | b'X', rest @ ..] if !rest.is_empty() => {
            let mantissa = rest.split(|b| matches!(b, b'p' | b'P')).next().unwrap_or_default();
            all(mantissa, u8::is_ascii_hexdigit)
        }
        [b'0', b'b' | b'B', rest @ ..] if !rest.is_empty() => all(rest, |b| matches!(b, b'0' | b'1')),
        _ => {
            let mut parts = word.splitn(2, |b| matches!(b, b'e' | b'E'));
            let mantissa = parts.next().unwrap_or_default();
            let exponent = parts.next().unwrap_or_default();
            word.last() != Some(&b'_') && all(mantissa, u8::is_ascii_digit) && all(exponent, u8::is_ascii_digit)
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// The name that an identifier token stands for; `None` if it is not UTF-8 or not an identifier.
pub fn identifier(text: &[u8], token: Token) -> Option<String> {
    let raw = text.get(token.start..token.end)?;
    match token.kind {
        Kind::Word => String::from_utf8(raw.to_vec()).ok(),
        Kind::QuotedIdentifier if raw[0] == 0xE2 => String::from_utf8(raw[3..raw.len() - 3].to_vec()).ok(),
        Kind::QuotedIdentifier => unescape(&raw[1..raw.len() - 1], raw[0]),
        _ => None,
    }
}

/// Undoes backslash escapes and doubled quotes, as ClickHouse's ReadHelpers do.
fn unescape(body: &[u8], quote: u8) -> Option<String> {
    let mut out = Vec::with_capacity(body.len());
    let mut bytes = body.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == quote {
            bytes.next();
            out.push(quote);
        } else if byte == b'\\' {
            match bytes.next()? {
                b'a' => out.push(0x07),
                b'b' => out.push(0x08),
                b'e' => out.push(0x1B),
                b'f' => out.push(0x0C),
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'v' => out.push(0x0B),
                b'0' => out.push(0),
                b'N' => {}
                b'x' => {
                    let digit = |b: u8| (b as char).to_digit(16);
                    let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                    out.push((high * 16 + low) as u8);
                }
                plain @ (b'\\' | b'\'' | b'"' | b'`' | b'/' | b'=') => out.push(plain),
                other => out.extend([b'\\', other]),
            }
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(sql: &str) -> Vec<&str> {
        Lexer::new(sql.as_bytes()).map(|t| &sql[t.start..t.end]).collect()
    }

    fn name(sql: &str) -> Option<String> {
        let token = Lexer::new(sql.as_bytes()).next()?;
        identifier(sql.as_bytes(), token)
    }

    #[test]
    fn comments_of_every_kind_are_skipped() {
        let sql = "a --b\n c // d\n e # f\n g #! h\n i /* j /* k */ l */ m";
        assert_eq!(texts(sql), ["a", "c", "e", "g", "i", "m"]);
        assert_eq!(texts("a #b"), ["a", "#", "b"]);
        assert_eq!(texts("a - -b->c"), ["a", "-", "-", "b", "-", ">", "c"]);
        assert_eq!(Lexer::new(b"/* open").next().map(|t| t.kind), Some(Kind::Unclosed));
        assert_eq!(Lexer::new(b"/*/").next().map(|t| t.kind), Some(Kind::Unclosed));
    }

    #[test]
    fn strings_hide_what_is_in_them() {
        assert_eq!(texts(r"'a;''b\';--' x"), [r"'a;''b\';--'", "x"]);
        assert_eq!(texts("`a``b` \"c\\\"d\" x'41'"), ["`a``b`", "\"c\\\"d\"", "x'41'"]);
        assert_eq!(texts("$t$ a ' $$ b $t$ c"), ["$t$ a ' $$ b $t$", "c"]);
        assert_eq!(texts("$$a$$ $x y"), ["$$a$$", "$x", "y"]);
        assert_eq!(texts("‘a b’ “c d”"), ["‘a b’", "“c d”"]);
        assert_eq!(Lexer::new(b"'open\\'").next().map(|t| t.kind), Some(Kind::Unclosed));
    }

    #[test]
    fn numbers_and_words() {
        for number in ["1", "1_000", "0x1F", "1e5", "1.5e-3", ".5", "1.", "0x1p-3"] {
            let tokens: Vec<_> = Lexer::new(number.as_bytes()).collect();
            assert_eq!(tokens, [Token { kind: Kind::Number, start: 0, end: number.len() }], "{number}");
        }
        assert_eq!(Lexer::new(b"1st_table").next().map(|t| t.kind), Some(Kind::Word));
        assert_eq!(texts("t.1.2, db.t"), ["t", ".", "1", ".", "2", ",", "db", ".", "t"]);
        assert_eq!(texts("1--c"), ["1"]);
    }

    #[test]
    fn identifiers_are_read_as_the_engine_reads_them() {
        assert_eq!(name("plain").as_deref(), Some("plain"));
        assert_eq!(name("`a``b\\n\\x41`").as_deref(), Some("a`b\nA"));
        assert_eq!(name("\"a\"\"b\"").as_deref(), Some("a\"b"));
        assert_eq!(name("“a b”").as_deref(), Some("a b"));
        assert_eq!(name("'string'"), None);
        assert_eq!(name("`bad\\x4`"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_ordered_tokens_within_the_text(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut at = 0;
            for token in Lexer::new(&text) {
                prop_assert!(token.start >= at && token.end > token.start && token.end <= text.len());
                let _ = identifier(&text, token);
                at = token.end;
            }
        }

        #[test]
        fn sqlish_text_does_not_break_it(text in "[-a-z0-9'\"`$\\\\/*#.,;(){}=! \n‘’“”]{0,120}") {
            let mut at = 0;
            for token in Lexer::new(text.as_bytes()) {
                prop_assert!(token.start >= at && token.end > token.start && token.end <= text.len());
                let _ = identifier(text.as_bytes(), token);
                at = token.end;
            }
        }
    }
}
