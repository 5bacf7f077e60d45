//! What a native connection needs of its group's HTTP endpoint: the definition of a user it knows, KILL on other nodes.

use std::net::SocketAddr;

use futures::future::join_all;
use http_body_util::{BodyExt, Limited};
use hyper::{HeaderMap, Method, Request};
use moorhouse_catalog::{GroupName, NodeName};
use url::form_urlencoded;

use crate::body::RequestBody;
use crate::classify::Ddl;
use crate::controller::Asker;
use crate::exception::{Code, Exception};
use crate::forwarded::Passage;
use crate::http::Endpoint;
use crate::http::forward::send_to;
use crate::limits;

/// A native client's user and password.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    pub user: &'a [u8],
    pub password: &'a [u8],
}

impl Credentials<'_> {
    fn parameters(self) -> Result<String, Exception> {
        let text = |bytes| {
            let wrong = |_| Exception::new(Code::BadArguments, "User and password must be UTF-8 for this statement.");
            std::str::from_utf8(bytes).map_err(wrong)
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("user", text(self.user)?);
        query.append_pair("password", text(self.password)?);
        Ok(query.finish())
    }
}

impl Endpoint {
    /// Carries out a definition for this user, as if it had come over HTTP.
    pub async fn define_for(
        &self,
        user: Credentials<'_>,
        client: Option<SocketAddr>,
        definition: Ddl,
        database: &str,
    ) -> Result<(), Exception> {
        if let Some(refusal) = self.ask_who(&user.parameters()?, HeaderMap::new()).await? {
            let body = Limited::new(refusal.into_body(), limits::OWN_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| Exception::new(Code::NetworkError, error.to_string()))?.to_bytes();
            return Err(Exception::said(&String::from_utf8_lossy(&body)));
        }
        let asker = Asker { user: String::from_utf8_lossy(user.user).into_owned(), client };
        self.submit(definition, database, &asker).await
    }

    /// A statement of a native client that runs in another group, known until what is returned is dropped.
    pub fn forward(&self, group: &GroupName, query_id: &[u8]) -> Option<Passage> {
        let id = std::str::from_utf8(query_id).ok().filter(|id| !id.is_empty())?;
        Some(self.forwarded.enter(group, id))
    }

    /// Sends KILL QUERY wherever it may find something, but to one node. A node that refuses or is away has its own words in the log only: the
    /// answer is that of the one left out.
    pub async fn kill_elsewhere(
        &self,
        user: Credentials<'_>,
        statement: &[u8],
        but: &NodeName,
    ) -> Result<(), Exception> {
        let parameters = user.parameters()?;
        let targets = self.kill_targets();
        let mut others = Vec::new();
        for target in targets.iter().filter(|target| target.lease.node.node != *but) {
            others.push((&target.lease.node, target.uri(&parameters)?));
        }
        join_all(others.into_iter().map(|(node, uri)| async move {
            let mut request = Request::new(());
            *request.method_mut() = Method::POST;
            *request.uri_mut() = uri;
            let (head, ()) = request.into_parts();
            let body = RequestBody::of_bytes(statement.to_vec());
            match send_to(&self.nodes, &node.engine_http, &head, body).await {
                Ok(answer) if answer.status().is_success() => {}
                Ok(answer) => tracing::info!(node = %node.node, status = %answer.status(), "KILL QUERY refused"),
                Err(error) => {
                    let error = Exception::from(error);
                    tracing::warn!(node = %node.node, %error, "a node was not reached by KILL QUERY");
                }
            }
        }))
        .await;
        Ok(())
    }
}
