//! How ClickHouse tells over HTTP that a statement failed.
//!
//! Before the first byte of the answer: status, `X-ClickHouse-Exception-Code` and the text as the body. After it the
//! status can't change any more; then the body ends with the text:
//! - since 25.11 framed: `\r\n__exception__\r\n<tag>\r\n<text><length> <tag>\r\n__exception__\r\n`, the tag told in the
//!   header `X-ClickHouse-Exception-Tag` of every answer;
//! - before that: `__exception__\r\n` and the text;
//! - either way the chunked encoding is broken off, so that no client takes the answer for complete.

use hyper::{HeaderMap, StatusCode};

use super::SqlError;

const MARKER: &[u8] = b"__exception__";
/// ClickHouse cuts its texts at 16 KiB.
const MAX_EXCEPTION_BYTES: usize = 20 * 1024;

pub fn exception_tag(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("X-ClickHouse-Exception-Tag").map(|tag| tag.as_bytes()).filter(|tag| !tag.is_empty())
}

/// The body is nothing but the error.
pub fn whole_exception(code: Option<i32>, status: StatusCode, body: &[u8]) -> SqlError {
    let text = String::from_utf8_lossy(body).trim().to_string();
    match parse(&text) {
        Some((told, message)) => SqlError::Engine { code: code.unwrap_or(told), message },
        None if code.is_some() => SqlError::Engine { code: code.unwrap_or(0), message: text },
        None => SqlError::Transport(format!("HTTP status {status}: {text}")),
    }
}

/// The error at the end of a body that began as an answer. `broken`: the body did not end as it should; only then is a
/// bare text believed, since rows may quote one.
pub fn body_exception(body: &[u8], tag: Option<&[u8]>, broken: bool) -> Option<SqlError> {
    let tail = &body[body.len().saturating_sub(MAX_EXCEPTION_BYTES)..];
    let text = match tag {
        Some(tag) => find(tail, &[b"\r\n", MARKER, b"\r\n", tag, b"\r\n"].concat())?,
        None => find(tail, &[MARKER, b"\r\n"].concat()).or_else(|| bare(tail).filter(|_| broken))?,
    };
    let text = String::from_utf8_lossy(text);
    // Of the closing frame only what stands before the length matters.
    let text = text.split("\r\n__exception__").next().unwrap_or_default().trim();
    let text = tag.map_or(text, |tag| without_length(text, &String::from_utf8_lossy(tag)));
    let (code, message) = parse(text)?;
    Some(SqlError::Engine { code, message })
}

fn without_length<'a>(text: &'a str, tag: &str) -> &'a str {
    let Some(text) = text.strip_suffix(tag) else { return text };
    text.trim_end().trim_end_matches(|c: char| c.is_ascii_digit()).trim_end()
}

/// What follows the last occurrence of `mark`.
fn find<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(mark.len()).rposition(|window| window == mark)?;
    Some(&bytes[at + mark.len()..])
}

fn bare(tail: &[u8]) -> Option<&[u8]> {
    let at = tail.windows(6).rposition(|window| window == b"Code: ")?;
    Some(&tail[at..])
}

/// `Code: 62. DB::Exception: Syntax error …` → (62, `DB::Exception: Syntax error …`)
fn parse(text: &str) -> Option<(i32, String)> {
    let rest = text.strip_prefix("Code: ")?;
    let (number, message) = rest.split_once('.')?;
    Some((number.parse().ok()?, message.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(code: i32, message: &str) -> Option<SqlError> {
        Some(SqlError::Engine { code, message: message.into() })
    }

    #[test]
    fn a_framed_exception_is_found_behind_rows() {
        let body = b"1\n2\n\r\n__exception__\r\nabcdefgh\r\nCode: 395. DB::Exception: boom 7\n32 abcdefgh\r\n__exception__\r\n";
        assert_eq!(body_exception(body, Some(b"abcdefgh"), true), engine(395, "DB::Exception: boom 7"));
    }

    #[test]
    fn a_row_that_looks_like_an_exception_is_a_row() {
        let body = b"Code: 395. DB::Exception: boom\n__exception__\n";
        assert_eq!(body_exception(body, Some(b"abcdefgh"), false), None);
        assert_eq!(body_exception(body, None, false), None);
    }

    #[test]
    fn older_servers_mark_it_or_just_break_off() {
        let marked = b"1\n__exception__\r\nCode: 241. DB::Exception: memory\n";
        assert_eq!(body_exception(marked, None, true), engine(241, "DB::Exception: memory"));
        let bare = b"1\nCode: 241. DB::Exception: memory\n";
        assert_eq!(body_exception(bare, None, true), engine(241, "DB::Exception: memory"));
        assert_eq!(body_exception(bare, None, false), None);
    }

    #[test]
    fn a_refused_statement_keeps_its_code() {
        let error = whole_exception(Some(62), StatusCode::BAD_REQUEST, b"Code: 62. DB::Exception: Syntax error\n");
        assert_eq!(Some(error), engine(62, "DB::Exception: Syntax error"));
        let proxy = whole_exception(None, StatusCode::BAD_GATEWAY, b"no");
        assert!(matches!(proxy, SqlError::Transport(_)));
    }
}
