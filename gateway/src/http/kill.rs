//! KILL QUERY: the statement may run on any node of the group, so all are told.

use futures::future::join_all;
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};

use crate::body::{Account, AnswerBody, RequestBody, held};
use crate::cluster::{Lease, Work};
use crate::exception::{Code, Exception};
use crate::http::forward::send_to;
use crate::http::request::Asked;
use crate::http::{Endpoint, answer};
use crate::limits;
use crate::metrics::Outcome;

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
        let nodes = self.cluster.all(&self.group, Work::Statement);
        let answers = join_all(nodes.iter().map(|lease| self.kill_on(asked, body.clone(), lease))).await;
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

    async fn kill_on(&self, asked: &Asked, body: Bytes, lease: &Lease) -> Result<Response<Bytes>, Exception> {
        let (head, ()) = {
            let mut request = Request::new(());
            *request.method_mut() = asked.head.method.clone();
            *request.uri_mut() = asked.head.uri.clone();
            *request.headers_mut() = asked.head.headers.clone();
            request.into_parts()
        };
        let answer = send_to(&self.nodes, &lease.node.engine_http, &head, RequestBody::of_bytes(body)).await?;
        let (mut head, body) = answer.into_parts();
        let body = Limited::new(body, limits::OWN_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| Exception::new(Code::NetworkError, error.to_string()))?.to_bytes();
        head.headers.remove(hyper::header::TRANSFER_ENCODING);
        head.headers.remove(hyper::header::CONNECTION);
        Ok(Response::from_parts(head, body))
    }
}
