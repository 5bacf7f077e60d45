//! A cursor over the tokens of a statement that may not be all there: what touches the end of an incomplete text is not
//! trusted, since the next byte could change it.

use crate::classify::TableName;
use crate::exception::{Code, Exception};
use crate::lexer::{Kind, Lexer, Token, identifier};

/// Why reading ended early.
#[derive(Debug)]
pub enum Stop {
    /// The text ended before the statement could be told.
    NeedMore,
    Refused(Exception),
}

impl Stop {
    pub fn syntax(text: impl Into<String>) -> Self {
        Self::Refused(Exception::new(Code::SyntaxError, text))
    }
}

pub struct Parser<'a> {
    text: &'a [u8],
    whole: bool,
    lexer: Lexer<'a>,
    parameter: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Parser<'a> {
    /// `whole`: the text is the whole statement, so its end is the statement's end.
    pub fn new(text: &'a [u8], whole: bool, parameter: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { text, whole, lexer: Lexer::new(text), parameter }
    }

    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    fn scan(&self, lexer: &mut Lexer<'a>) -> Result<Option<Token>, Stop> {
        match lexer.next() {
            // An open `$tag$ …` looks like a word: with more text it may become a heredoc.
            Some(token) if !self.whole && (token.end == self.text.len() || self.text[token.start] == b'$') => {
                Err(Stop::NeedMore)
            }
            None if !self.whole => Err(Stop::NeedMore),
            token => Ok(token),
        }
    }

    /// The next token; `None` at the end of the statement's text.
    pub fn next(&mut self) -> Result<Option<Token>, Stop> {
        let mut lexer = self.lexer.clone();
        let token = self.scan(&mut lexer)?;
        self.lexer = lexer;
        Ok(token)
    }

    pub fn peek(&self) -> Result<Option<Token>, Stop> {
        self.scan(&mut self.lexer.clone())
    }

    /// The next token outside all brackets; `None` at the end or at `;`. Passes what is in brackets.
    pub fn next_at_top(&mut self) -> Result<Option<Token>, Stop> {
        let mut depth = 0_usize;
        while let Some(token) = self.next()? {
            match token.kind {
                Kind::Semicolon => return Ok(None),
                Kind::Open(_) => depth += 1,
                Kind::Close(_) => depth = depth.saturating_sub(1),
                _ if depth == 0 => return Ok(Some(token)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether an unquoted word is `keyword` (upper case), in any case.
    pub fn is_word(&self, token: Token, keyword: &str) -> bool {
        is_word(self.text, token, keyword)
    }

    /// Takes the next token if it is an unquoted word, and gives it in upper case.
    pub fn keyword(&mut self) -> Result<Option<String>, Stop> {
        let Some(token) = self.peek()?.filter(|t| t.kind == Kind::Word) else { return Ok(None) };
        self.next()?;
        Ok(identifier(self.text, token).map(|word| word.to_ascii_uppercase()))
    }

    /// Takes the next token if it is this keyword.
    pub fn accept(&mut self, keyword: &str) -> Result<bool, Stop> {
        let found = self.peek()?.is_some_and(|token| self.is_word(token, keyword));
        if found {
            self.next()?;
        }
        Ok(found)
    }

    /// Takes the next tokens if they are all these keywords; else takes none.
    pub fn accept_all(&mut self, keywords: &[&str]) -> Result<bool, Stop> {
        let mut lexer = self.lexer.clone();
        for keyword in keywords {
            if !self.scan(&mut lexer)?.is_some_and(|token| self.is_word(token, keyword)) {
                return Ok(false);
            }
        }
        self.lexer = lexer;
        Ok(true)
    }

    /// Takes an identifier, or `{name:Identifier}` with the parameter's value in its place.
    pub fn name(&mut self) -> Result<Option<String>, Stop> {
        let Some(token) = self.peek()? else { return Ok(None) };
        match token.kind {
            Kind::Word | Kind::QuotedIdentifier => {
                self.next()?;
                Ok(identifier(self.text, token).filter(|name| !name.is_empty()))
            }
            Kind::Open(b'{') => self.parameter(),
            _ => Ok(None),
        }
    }

    fn parameter(&mut self) -> Result<Option<String>, Stop> {
        self.next()?;
        let name = self.next()?.and_then(|token| identifier(self.text, token));
        while let Some(token) = self.next()? {
            if token.kind == Kind::Close(b'}') {
                break;
            }
        }
        Ok(name.and_then(|name| (self.parameter)(&name)))
    }

    /// Takes `[db.]table`.
    pub fn table_name(&mut self) -> Result<Option<TableName>, Stop> {
        let Some(first) = self.name()? else { return Ok(None) };
        if self.peek()?.is_none_or(|token| token.kind != Kind::Dot) {
            return Ok(Some(TableName { database: None, table: first }));
        }
        self.next()?;
        Ok(self.name()?.map(|table| TableName { database: Some(first), table }))
    }

    /// Takes `ON CLUSTER name`, which means nothing here: a definition always reaches every node of every group.
    pub fn skip_on_cluster(&mut self) -> Result<(), Stop> {
        if !self.accept_all(&["ON", "CLUSTER"])? {
            return Ok(());
        }
        match self.peek()?.map(|token| token.kind) {
            Some(Kind::Word | Kind::QuotedIdentifier | Kind::Open(b'{')) => {
                self.name()?;
                Ok(())
            }
            Some(Kind::String) => {
                self.next()?;
                Ok(())
            }
            _ => Err(Stop::syntax("ON CLUSTER needs a name. Leave it out: every definition reaches every node.")),
        }
    }

    /// All tokens up to the statement's end; a second statement after `;` is refused as ClickHouse does over HTTP.
    pub fn rest(&mut self) -> Result<Vec<Token>, Stop> {
        let mut tokens = Vec::new();
        while let Some(token) = self.next()? {
            match token.kind {
                Kind::Unclosed => return Err(Stop::syntax("A string, identifier or comment is not closed.")),
                Kind::Semicolon => {
                    self.nothing_but_semicolons()?;
                    break;
                }
                _ => tokens.push(token),
            }
        }
        Ok(tokens)
    }

    fn nothing_but_semicolons(&mut self) -> Result<(), Stop> {
        while let Some(token) = self.next()? {
            if token.kind != Kind::Semicolon {
                return Err(Stop::syntax("Multi-statements are not allowed. Send one statement a request."));
            }
        }
        Ok(())
    }
}

/// Whether an unquoted word is `keyword` (upper case), in any case.
pub fn is_word(text: &[u8], token: Token, keyword: &str) -> bool {
    token.kind == Kind::Word && text[token.start..token.end].eq_ignore_ascii_case(keyword.as_bytes())
}
