//! KILL QUERY: the statement may run on any node of the group, so all are told; and where this group's clients have
//! statements running in other groups, their nodes too, for these statements alone.

use futures::future::join_all;
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode, Uri};
use url::form_urlencoded;

use crate::body::{Account, AnswerBody, RequestBody, held};
use crate::cluster::{Lease, Work};
use crate::exception::{Code, Exception};
use crate::http::forward::send_to;
use crate::http::request::Asked;
use crate::http::{Endpoint, answer};
use crate::limits;
use crate::metrics::Outcome;

/// A node that is told to kill.
pub(super) struct Target {
    pub lease: Lease,
    /// The value of `additional_table_filters` that keeps it to this group's statements.
    filter: Option<String>,
}

impl Target {
    /// The root with these parameters, and with the filter.
    pub fn uri(&self, parameters: &str) -> Result<Uri, Exception> {
        let mut query = form_urlencoded::Serializer::new(parameters.to_owned());
        if let Some(filter) = &self.filter {
            query.append_pair("additional_table_filters", filter);
        }
        let uri = format!("/?{}", query.finish()).parse::<Uri>();
        uri.map_err(|error| Exception::new(Code::BadArguments, format!("The request has no URL: {error}.")))
    }
}

impl Endpoint {
    /// Sends the statement to every ready node; answers with the first that killed something, or else with any.
    pub(super) async fn kill(&self, asked: &Asked, body: RequestBody, mut account: Account) -> Response<AnswerBody> {
        let body = match Limited::new(body, limits::OWN_ANSWER_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let exception =
                    Exception::new(Code::QueryIsTooLarge, format!("The statement cannot be read: {error}."));
                return answer::refusal(asked, &exception, account);
            }
        };
        let targets = self.kill_targets();
        let answers = join_all(targets.iter().map(|target| self.kill_on(asked, body.clone(), target))).await;
        let rank = |answer: &Result<Response<Bytes>, Exception>| match answer {
            Ok(answer) if answer.status() == StatusCode::OK && !answer.body().is_empty() => 0,
            Ok(answer) if answer.status() != StatusCode::OK => 1,
            Ok(_) => 2,
            Err(_) => 3,
        };
        match answers.into_iter().min_by_key(rank) {
            Some(Ok(found)) => {
                account.ended(if found.status().is_success() { Outcome::Ok } else { Outcome::Exception });
                found.map(held)
            }
            Some(Err(exception)) => answer::refusal(asked, &exception, account),
            None => {
                let text = format!("No node of compute group {} is ready, so nothing runs there.", self.group);
                answer::refusal(asked, &Exception::new(Code::NoNodeReady, text), account)
            }
        }
    }

    /// Where a statement of this group's clients may run.
    pub(super) fn kill_targets(&self) -> Vec<Target> {
        let own = self.cluster.all(&self.group, Work::Statement);
        let own = own.into_iter().map(|lease| Target { lease, filter: None });
        let others = self.forwarded.filters().into_iter().flat_map(|(group, filter)| {
            let nodes = self.cluster.all(&group, Work::Statement).into_iter();
            nodes.map(move |lease| Target { lease, filter: Some(filter.clone()) })
        });
        own.chain(others).collect()
    }

    async fn kill_on(&self, asked: &Asked, body: Bytes, target: &Target) -> Result<Response<Bytes>, Exception> {
        let (head, ()) = {
            let mut request = Request::new(());
            *request.method_mut() = asked.head.method.clone();
            *request.uri_mut() = target.uri(asked.head.uri.query().unwrap_or_default())?;
            *request.headers_mut() = asked.head.headers.clone();
            request.into_parts()
        };
        let answer = send_to(&self.nodes, &target.lease.node.engine_http, &head, RequestBody::of_bytes(body)).await?;
        let (mut head, body) = answer.into_parts();
        let body = Limited::new(body, limits::OWN_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| Exception::new(Code::NetworkError, error.to_string()))?.to_bytes();
        head.headers.remove(hyper::header::TRANSFER_ENCODING);
        head.headers.remove(hyper::header::CONNECTION);
        Ok(Response::from_parts(head, body))
    }
}
