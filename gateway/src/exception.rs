//! Errors in ClickHouse's words, so that its clients understand them: code, name, HTTP status, body.

use std::fmt;

/// ClickHouse's error codes that a gateway has cause to use (its `ErrorCodes.cpp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    BadArguments,
    NotImplemented,
    SyntaxError,
    UnknownCompressionMethod,
    UnexpectedPacket,
    TimeoutExceeded,
    ReadOnly,
    NetworkError,
    QueryIsTooLarge,
    NoNodeReady,
    AccessDenied,
    /// A code that an engine or the controller said.
    Said(i32),
}

impl Code {
    pub fn number(self) -> i32 {
        match self {
            Self::BadArguments => 36,
            Self::NotImplemented => 48,
            Self::SyntaxError => 62,
            Self::UnknownCompressionMethod => 89,
            Self::UnexpectedPacket => 101,
            Self::TimeoutExceeded => 159,
            Self::ReadOnly => 164,
            Self::NetworkError => 210,
            Self::QueryIsTooLarge => 229,
            Self::NoNodeReady => 279,
            Self::AccessDenied => 497,
            Self::Said(number) => number,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::BadArguments => "BAD_ARGUMENTS",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::UnknownCompressionMethod => "UNKNOWN_COMPRESSION_METHOD",
            Self::UnexpectedPacket => "UNEXPECTED_PACKET_FROM_CLIENT",
            Self::TimeoutExceeded => "TIMEOUT_EXCEEDED",
            Self::ReadOnly => "READONLY",
            Self::NetworkError => "NETWORK_ERROR",
            Self::QueryIsTooLarge => "QUERY_IS_TOO_LARGE",
            Self::NoNodeReady => "ALL_CONNECTION_TRIES_FAILED",
            Self::AccessDenied => "ACCESS_DENIED",
            Self::Said(_) => "UNKNOWN_EXCEPTION",
        }
    }
}

/// What a client is told instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    pub code: Code,
    /// One or two sentences with the remedy, or the whole of what an engine said.
    pub text: String,
}

impl Exception {
    /// ClickHouse's code for "none of the others".
    const UNKNOWN_EXCEPTION: Code = Code::Said(1002);

    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// From a text that another process wrote; keeps the code of ClickHouse's `Code: 57. DB::Exception: …`.
    pub fn said(text: &str) -> Self {
        let number = text.strip_prefix("Code: ").and_then(|rest| rest.split(['.', ',']).next()?.trim().parse().ok());
        Self { code: number.map_or(Self::UNKNOWN_EXCEPTION, Code::Said), text: text.to_owned() }
    }

    /// As ClickHouse's HTTP handler maps codes (its `HTTPHandler.cpp`).
    pub fn http_status(&self) -> u16 {
        match self.code.number() {
            194 => 401,
            192 | 193 | 516 => 403,
            6 | 26 | 27 | 36 | 38 | 41 | 53 | 62 | 69 | 70 | 72 | 89 | 117 | 131 | 427 => 400,
            46 | 47 | 50 | 56 | 60 | 73 | 81 | 115 | 218 | 308 => 404,
            229 => 413,
            48 => 501,
            210 => 502,
            279 => 503,
            159 | 209 => 408,
            _ => 500,
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.starts_with("Code: ") {
            writeln!(f, "{}", self.text.trim_end())
        } else {
            writeln!(f, "Code: {}. DB::Exception: {} ({})", self.code.number(), self.text, self.code.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_words_stay_as_they_are() {
        let said = Exception::said("Code: 57. DB::Exception: Table d.t already exists. (TABLE_ALREADY_EXISTS)\n");
        assert_eq!((said.code.number(), said.http_status()), (57, 500));
        assert_eq!(said.to_string(), "Code: 57. DB::Exception: Table d.t already exists. (TABLE_ALREADY_EXISTS)\n");
        assert_eq!(Exception::said("Code: 81. DB::Exception: no").http_status(), 404);
    }

    #[test]
    fn own_words_look_like_an_engines() {
        let own = Exception::new(Code::NotImplemented, "No views.");
        assert_eq!(own.to_string(), "Code: 48. DB::Exception: No views. (NOT_IMPLEMENTED)\n");
        assert_eq!(own.http_status(), 501);
        assert_eq!(Exception::said("odd").to_string(), "Code: 1002. DB::Exception: odd (UNKNOWN_EXCEPTION)\n");
    }
}
