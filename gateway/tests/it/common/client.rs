//! A plain HTTP client that shows status, headers and body as they come.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Method, Response, StatusCode};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use url::form_urlencoded;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

pub struct Request {
    method: Method,
    path: String,
    parameters: Vec<(String, String)>,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { method: Method::GET, path: path.into(), parameters: vec![], headers: vec![], body: body("") }
    }
    pub fn post(text: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: body(text), ..Self::get("/") }
    }
    /// Sent in chunks.
    pub fn post_stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        let body = StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync();
        Self { body, ..Self::post("") }
    }
    pub fn with(mut self, parameter: &str, value: &str) -> Self {
        self.parameters.push((parameter.into(), value.into()));
        self
    }
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.into()));
        self
    }
    /// As the user that every engine has.
    pub fn sales(self) -> Self {
        self.header("x-clickhouse-user", "sales").header("x-clickhouse-key", "secret")
    }
}

fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

#[derive(Clone)]
pub struct Client {
    pub address: String,
    pool: Pool<HttpConnector, Body>,
}

impl Client {
    pub fn new(address: &str) -> Self {
        Self { address: address.into(), pool: Pool::builder(TokioExecutor::new()).build_http() }
    }

    /// The answer's head; its body comes as it is read.
    pub async fn open(&self, request: Request) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&request.parameters).finish();
        let question = if query.is_empty() { "" } else { "?" };
        let mut built = hyper::Request::builder()
            .method(request.method)
            .uri(format!("http://{}{}{question}{query}", self.address, request.path));
        for (name, value) in request.headers {
            built = built.header(name, value);
        }
        self.pool.request(built.body(request.body).expect("a request")).await
    }

    pub async fn try_send(&self, request: Request) -> Result<Answer, Box<dyn std::error::Error>> {
        let (head, body) = self.open(request).await?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body: body.collect().await?.to_bytes() })
    }

    pub async fn send(&self, request: Request) -> Answer {
        self.try_send(request).await.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// Posts a statement as `sales`.
    pub async fn sales(&self, sql: &str) -> Answer {
        self.send(Request::post(sql.to_owned()).sales()).await
    }
}
