//! Passing a request to a node and its answer back, unchanged.
//!
//! As long as nothing was sent, another node may be tried; once a statement may have begun, only if it just reads and the
//! client was told nothing yet, and then once.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri, Version};
use moorhouse_catalog::{GroupName, NodeName};
use tokio::time::{Instant, sleep};

use crate::body::{Account, AnswerBody, NodeAnswer, RequestBody};
use crate::cluster::{Cluster, Lease, Work};
use crate::exception::{Code, Exception};
use crate::http::request::Asked;
use crate::http::{Endpoint, NodeClient, answer};
use crate::limits;
use crate::metrics::{self, Outcome};

/// What speaks of one connection only, not of the request (RFC 9110, 7.6.1), and what hyper itself sees to.
const ONE_HOP: [HeaderName; 8] =
    [CONNECTION, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

impl Endpoint {
    /// Passes a statement that only reads to a ready node, and to another one if the first dies with it before its answer.
    pub(super) async fn pass_read(&self, asked: Asked, body: RequestBody, account: Account) -> Response<AnswerBody> {
        // A session is on its node alone.
        let again = if asked.session().is_some() { None } else { body.again(limits::RETRY_BYTES) };
        let answer = match (self.send(&asked.head, body, &self.group, asked.session()).await, again) {
            (Err(exception), Some(again)) if exception.code == Code::NetworkError => {
                tracing::info!(text = %exception.text, "a read is sent again");
                metrics::RETRIES.inc();
                self.send(&asked.head, again, &self.group, None).await
            }
            (answer, _) => answer,
        };
        match answer {
            Ok((answer, lease)) => back(answer, lease, account),
            Err(exception) => answer::refusal(&asked, &exception, account),
        }
    }

    /// Passes the request to a ready node of `group`.
    pub(super) async fn pass(
        &self,
        asked: Asked,
        body: RequestBody,
        group: &GroupName,
        account: Account,
    ) -> Response<AnswerBody> {
        match self.send(&asked.head, body, group, asked.session()).await {
            Ok((answer, lease)) => back(answer, lease, account),
            Err(exception) => answer::refusal(&asked, &exception, account),
        }
    }

    /// Sends the request to a ready node, holding it until there is one. Gives the answer's head as soon as it is there.
    pub(super) async fn send(
        &self,
        head: &Parts,
        body: RequestBody,
        group: &GroupName,
        session: Option<&str>,
    ) -> Result<(Response<Incoming>, Lease), Exception> {
        let deadline = Instant::now() + limits::HOLD;
        let mut refused: Vec<NodeName> = Vec::new();
        loop {
            let lease = ready_node(&self.cluster, group, Work::Statement, session, &mut refused, deadline).await?;
            tracing::Span::current().record("node", lease.node.node.as_str());
            match send_to(&self.nodes, &lease.node.engine_http, head, body.clone()).await {
                Ok(answer) => return Ok((answer, lease)),
                Err(SendError::NotConnected(error)) => {
                    tracing::warn!(node = %lease.node.node, error, "a node takes no connection; trying elsewhere");
                    metrics::RETRIES.inc();
                    refused.push(lease.node.node.clone());
                }
                Err(SendError::Broken(error)) => {
                    tracing::warn!(node = %lease.node.node, error, "a node went away with a statement");
                    return Err(Exception::new(
                        Code::NetworkError,
                        format!(
                            "Node {} went away while it had the statement: {error}. A read may be sent again.",
                            lease.node.node
                        ),
                    ));
                }
            }
        }
    }
}

/// A ready node that has not refused; after all have refused, any, after a pause.
pub async fn ready_node(
    cluster: &Cluster,
    group: &GroupName,
    work: Work,
    session: Option<&str>,
    refused: &mut Vec<NodeName>,
    deadline: Instant,
) -> Result<Lease, Exception> {
    loop {
        if let Some(lease) = cluster.pick(group, work, session, refused) {
            return Ok(lease);
        }
        if Instant::now() >= deadline {
            return Err(Exception::new(
                Code::NoNodeReady,
                format!(
                    "No node of compute group {group} is ready. See `moorctl node list`; try again when one is up."
                ),
            ));
        }
        if refused.is_empty() {
            cluster.changed(deadline).await;
        } else {
            refused.clear();
            sleep(limits::RECONNECT_PAUSE).await;
        }
    }
}

pub(super) enum SendError {
    /// Nothing of the request was sent.
    NotConnected(String),
    Broken(String),
}

impl From<SendError> for Exception {
    fn from(error: SendError) -> Self {
        let (SendError::NotConnected(text) | SendError::Broken(text)) = error;
        Self::new(Code::NetworkError, format!("A node did not answer: {text}."))
    }
}

/// Sends a request with this head to the engine at `address` (`host:port`).
pub(super) async fn send_to(
    nodes: &NodeClient,
    address: &str,
    head: &Parts,
    body: RequestBody,
) -> Result<Response<Incoming>, SendError> {
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme("http").authority(address).path_and_query(path).build();
    let mut request = Request::new(body);
    *request.uri_mut() =
        uri.map_err(|error| SendError::NotConnected(format!("its address {address:?} is wrong: {error}")))?;
    *request.method_mut() = head.method.clone();
    *request.headers_mut() = head.headers.clone();
    *request.extensions_mut() = head.extensions.clone();
    without_one_hop(request.headers_mut());
    if head.version == Version::HTTP_10 {
        request.headers_mut().remove(HOST);
    }
    nodes.request(request).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        if error.is_connect() { SendError::NotConnected(cause) } else { SendError::Broken(cause) }
    })
}

fn without_one_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&ONE_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

fn back(answer: Response<Incoming>, lease: Lease, mut account: Account) -> Response<AnswerBody> {
    let (mut head, body) = answer.into_parts();
    without_one_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    let outcome = if head.status.is_success() { Outcome::Ok } else { Outcome::Exception };
    if hyper::body::Body::is_end_stream(&body) {
        account.ended(outcome);
    }
    Response::from_parts(head, NodeAnswer { body, outcome, account, lease }.boxed_unsync())
}
