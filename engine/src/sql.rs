//! SQL over ClickHouse's HTTP interface: pooled connections, and errors with ClickHouse's code, also those that come in
//! the middle of an answer that began with 200.

mod exception;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;

use exception::{body_exception, exception_tag, whole_exception};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the server's keep-alive, so that the pool never hands out a connection that the server is just closing.
const POOL_IDLE: Duration = Duration::from_secs(20);
const POOL_MAX_IDLE: usize = 32;

/// Why a statement failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// ClickHouse said so; `code` is its error number (497 = not enough privileges), 0 if it gave none.
    #[error("Code: {code}. {message}")]
    Engine { code: i32, message: String },
    /// The statement may or may not have run: the connection failed, or the answer made no sense.
    #[error("{0}")]
    Transport(String),
}

impl SqlError {
    /// ClickHouse's error number, if it was ClickHouse that refused.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Engine { code, .. } => Some(*code),
            Self::Transport(_) => None,
        }
    }
}

type BodyError = Box<dyn std::error::Error + Send + Sync>;
type Http = Client<HttpConnector, RequestBody>;
type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// Cheap to clone; clones share the connections. A call that is dropped half-way closes its connection.
#[derive(Clone)]
pub struct SqlClient {
    http: Arc<Mutex<Http>>,
    login: Arc<Login>,
    settings: Vec<(String, String)>,
}

impl fmt::Debug for SqlClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Login { host_port, user, password: _ } = &*self.login;
        f.debug_struct("SqlClient").field("host_port", host_port).field("user", user).finish_non_exhaustive()
    }
}

struct Login {
    host_port: String,
    user: String,
    password: String,
}

impl SqlClient {
    /// Connects at the first statement.
    pub fn new(host_port: &str, user: &str, password: &str) -> Self {
        let login = Login { host_port: host_port.into(), user: user.into(), password: password.into() };
        Self { http: Arc::new(Mutex::new(pool())), login: Arc::new(login), settings: Vec::new() }
    }

    /// Closes the pooled connections that no statement is using, those of the clones too. The next statement connects anew.
    pub fn close_idle(&self) {
        *self.http.lock().unwrap_or_else(PoisonError::into_inner) = pool();
    }

    /// A client that sends this setting with every statement; `database` names the current database.
    #[must_use]
    pub fn with_setting(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.settings.retain(|(known, _)| known != name);
        client.settings.push((name.into(), value.into()));
        client
    }

    /// Runs a statement to its end; an answer is thrown away.
    pub async fn execute(&self, sql: &str) -> Result<(), SqlError> {
        // The answer waits for the end, so an error is never hidden behind a 200.
        let answer = self.send(&[("wait_end_of_query", "1")], full(sql)).await?;
        read_answer(answer).await.map(drop)
    }

    /// The answer's body as it is (TabSeparated unless the statement names a FORMAT). Held in memory whole.
    pub async fn query(&self, sql: &str) -> Result<String, SqlError> {
        let answer = self.send(&[], full(sql)).await?;
        let body = read_answer(answer).await?;
        String::from_utf8(body.into()).map_err(|_| SqlError::Transport("the answer is not UTF-8".into()))
    }

    /// The rows of a SELECT that names no FORMAT; columns are matched by name, 64-bit numbers come as numbers.
    pub async fn rows<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>, SqlError> {
        let sql = format!("{}\nFORMAT JSONEachRow", sql.trim_end().trim_end_matches(';'));
        let answer = self.send(&[("output_format_json_quote_64bit_integers", "0")], full(&sql)).await?;
        let body = read_answer(answer).await?;
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|error| unexpected_row(&error, line))).collect()
    }

    /// `sql` is the INSERT with its FORMAT, `body` the data. OK means that all of it is in.
    pub async fn insert(&self, sql: &str, body: impl Stream<Item = Bytes> + Send + 'static) -> Result<(), SqlError> {
        let frames = body.map(|chunk| Ok::<_, BodyError>(Frame::data(chunk)));
        let body = StreamBody::new(frames).boxed_unsync();
        let answer = self.send(&[("query", sql), ("wait_end_of_query", "1")], body).await?;
        read_answer(answer).await.map(drop)
    }

    async fn send(&self, extra: &[(&str, &str)], body: RequestBody) -> Result<Response<Incoming>, SqlError> {
        let mut uri = format!("http://{}/?", self.login.host_port);
        let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in settings.chain(extra.iter().copied()) {
            uri.push_str(&percent_encode(name));
            uri.push('=');
            uri.push_str(&percent_encode(value));
            uri.push('&');
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("X-ClickHouse-User", &self.login.user)
            .header("X-ClickHouse-Key", &self.login.password)
            .body(body)
            .map_err(|error| SqlError::Transport(format!("cannot form the request: {error}")))?;
        let http = self.http.lock().unwrap_or_else(PoisonError::into_inner).clone();
        http.request(request)
            .await
            .map_err(|error| SqlError::Transport(format!("no answer from {}: {}", self.login.host_port, chain(&error))))
    }
}

fn pool() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_MAX_IDLE)
        .build(connector)
}

fn full(sql: &str) -> RequestBody {
    Full::new(Bytes::copy_from_slice(sql.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

fn unexpected_row(error: &serde_json::Error, line: &[u8]) -> SqlError {
    SqlError::Transport(format!("unexpected row {}: {error}", String::from_utf8_lossy(line)))
}

/// The body, or the error that the status, the headers or the body's end tell.
async fn read_answer(answer: Response<Incoming>) -> Result<Bytes, SqlError> {
    let (head, body) = answer.into_parts();
    let code = head.headers.get("X-ClickHouse-Exception-Code").and_then(|value| value.to_str().ok()?.parse().ok());
    let (bytes, broken) = collect(body).await;
    if head.status != StatusCode::OK || code.is_some() {
        return Err(whole_exception(code, head.status, &bytes));
    }
    let tag = exception_tag(&head.headers);
    if let Some(error) = body_exception(&bytes, tag, broken.is_some()) {
        return Err(error);
    }
    match broken {
        Some(reason) => Err(SqlError::Transport(format!("the answer broke off: {reason}"))),
        None => Ok(bytes),
    }
}

/// What came, and why no more came if it was not the end.
async fn collect<B: Body<Data = Bytes> + Unpin>(mut body: B) -> (Bytes, Option<String>)
where
    B::Error: std::error::Error,
{
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(_trailers)) => {}
            Err(error) => return (bytes.freeze(), Some(chain(&error))),
        }
    }
    (bytes.freeze(), None)
}

/// hyper puts the reason into the sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `name` as an SQL identifier, whatever it contains.
pub fn quote_identifier(name: &str) -> String {
    quote(name, '`')
}

/// `text` as an SQL string literal.
pub fn quote_string(text: &str) -> String {
    quote(text, '\'')
}

fn quote(text: &str, mark: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(mark);
    for character in text.chars() {
        match character {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\0' => quoted.push_str("\\0"),
            c if c == mark => quoted.extend(['\\', c]),
            c => quoted.push(c),
        }
    }
    quoted.push(mark);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_every_character_inside() {
        assert_eq!(quote_identifier("plain"), "`plain`");
        assert_eq!(quote_identifier("a`b\\c"), "`a\\`b\\\\c`");
        assert_eq!(quote_string("it's\na\\"), "'it\\'s\\na\\\\'");
        assert_eq!(percent_encode("SELECT 'ä' & 1"), "SELECT%20%27%C3%A4%27%20%26%201");
    }
}
