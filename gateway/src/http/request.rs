//! What a ClickHouse HTTP request says about itself, apart from its statement.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, Uri};
use url::form_urlencoded;

/// The parameters of a request's URL, decoded, in order.
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub fn of(uri: &Uri) -> Self {
        Self(form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// A request's head, read.
pub struct Asked {
    pub head: Parts,
    pub parameters: Parameters,
}

impl Asked {
    pub fn new(head: Parts) -> Self {
        let parameters = Parameters::of(&head.uri);
        Self { head, parameters }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
    }

    pub fn session(&self) -> Option<&str> {
        self.parameters.get("session_id")
    }

    /// Who asks, as far as it can be told without checking it.
    pub fn user(&self) -> &str {
        self.header("x-clickhouse-user")
            .or_else(|| self.parameters.get("user"))
            .or_else(|| self.header(AUTHORIZATION.as_str()))
            .unwrap_or("default")
    }

    pub fn host(&self) -> Option<&str> {
        self.header(HOST.as_str()).or_else(|| self.head.uri.host())
    }

    /// The user's bare name, wherever the request says it.
    pub fn user_name(&self) -> Option<String> {
        let said = self.header("x-clickhouse-user").or_else(|| self.parameters.get("user"));
        said.map(str::to_owned).or_else(|| {
            let encoded = self.header(AUTHORIZATION.as_str())?.strip_prefix("Basic ")?;
            let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
            decoded.split_once(':').map(|(user, _)| user.to_owned())
        })
    }

    /// The database that the request itself names; the header wins, as in the engine.
    pub fn database(&self) -> Option<&str> {
        self.header("x-clickhouse-database").or_else(|| self.parameters.get("database"))
    }

    pub fn query_id(&self) -> Option<&str> {
        self.parameters.get("query_id").or_else(|| self.header("x-clickhouse-query-id"))
    }

    /// Parts of a form: the body is not a statement but holds external tables.
    pub fn is_multipart(&self) -> bool {
        self.header(CONTENT_TYPE.as_str()).is_some_and(|value| value.starts_with("multipart/form-data"))
    }

    pub fn body_coding(&self) -> Coding {
        if self.parameters.get("decompress").is_some_and(|value| value != "0") {
            return Coding::Other("decompress=1");
        }
        match self.header(CONTENT_ENCODING.as_str()) {
            None | Some("identity") => Coding::Plain,
            Some("gzip" | "x-gzip") => Coding::Gzip,
            Some("deflate") => Coding::Deflate,
            Some("lz4") => Coding::Lz4,
            Some("zstd") => Coding::Zstd,
            Some(_) => Coding::Other("this Content-Encoding"),
        }
    }

    /// The parameters and headers that say who asks, for a statement of the gateway's own.
    pub fn credentials(&self) -> (String, Vec<HeaderName>) {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for name in ["user", "password", "quota_key"] {
            if let Some(value) = self.parameters.get(name) {
                query.append_pair(name, value);
            }
        }
        let headers = ["x-clickhouse-user", "x-clickhouse-key", "x-clickhouse-quota"].map(HeaderName::from_static);
        (query.finish(), headers.into_iter().chain([AUTHORIZATION]).collect())
    }
}

/// Asks whether somebody is there, and nothing else.
pub fn is_ping(head: &Parts) -> bool {
    let only_looks = matches!(head.method, Method::GET | Method::HEAD);
    head.uri.path() == "/ping" || (head.uri.path() == "/" && only_looks && head.uri.query().is_none())
}

/// How a request's body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Plain,
    Gzip,
    /// With zlib's frame, as ClickHouse means it.
    Deflate,
    /// In lz4's frame.
    Lz4,
    Zstd,
    /// One that the gateway does not read; said in words.
    Other(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: hyper::http::request::Builder) -> Asked {
        Asked::new(request.body(()).expect("a request").into_parts().0)
    }

    #[test]
    fn the_user_is_read_without_the_password() {
        let basic = format!("Basic {}", BASE64_STANDARD.encode("ada:hunter2"));
        assert_eq!(asked(hyper::Request::builder().header("authorization", basic)).user_name().as_deref(), Some("ada"));
        assert_eq!(asked(hyper::Request::builder().uri("/?user=eve&password=x")).user_name().as_deref(), Some("eve"));
        assert_eq!(
            asked(hyper::Request::builder().header("x-clickhouse-user", "bob")).user_name().as_deref(),
            Some("bob")
        );
        assert_eq!(asked(hyper::Request::builder().header("authorization", "Basic !!!")).user_name(), None);
    }
}
