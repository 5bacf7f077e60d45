//! Answers that the gateway makes itself, in the form of an engine's.

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use uuid::Uuid;

use crate::body::{Account, AnswerBody, held};
use crate::exception::Exception;
use crate::http::request::Asked;
use crate::metrics::Outcome;

const QUERY_ID: HeaderName = HeaderName::from_static("x-clickhouse-query-id");
const SUMMARY: HeaderName = HeaderName::from_static("x-clickhouse-summary");
const EXCEPTION_CODE: HeaderName = HeaderName::from_static("x-clickhouse-exception-code");
const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=UTF-8");

fn text(status: StatusCode, body: String) -> Response<AnswerBody> {
    let mut answer = Response::new(held(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, PLAIN_TEXT);
    answer
}

fn with_query_id(mut answer: Response<AnswerBody>, asked: &Asked) -> Response<AnswerBody> {
    let id = asked.query_id().map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    if let Ok(id) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert(QUERY_ID, id);
    }
    answer
}

/// `/ping`: the gateway is there.
pub fn pong(mut account: Account) -> Response<AnswerBody> {
    account.ended(Outcome::Ok);
    text(StatusCode::OK, "Ok.\n".to_owned())
}

/// An error, with ClickHouse's status, body and header.
pub fn refusal(asked: &Asked, exception: &Exception, mut account: Account) -> Response<AnswerBody> {
    account.ended(Outcome::Exception);
    tracing::debug!(code = exception.code.number(), text = %exception.text, "refused");
    let status = StatusCode::from_u16(exception.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = with_query_id(text(status, exception.to_string()), asked);
    answer.headers_mut().insert(EXCEPTION_CODE, HeaderValue::from(exception.code.number()));
    answer
}

/// A definition was carried out: empty, as an engine answers it.
pub fn done(asked: &Asked, mut account: Account) -> Response<AnswerBody> {
    account.ended(Outcome::Ok);
    let mut answer = with_query_id(text(StatusCode::OK, String::new()), asked);
    let summary = format!(
        r#"{{"read_rows":"0","read_bytes":"0","written_rows":"0","written_bytes":"0","total_rows_to_read":"0","result_rows":"0","result_bytes":"0","elapsed_ns":"{}"}}"#,
        account.elapsed_ns()
    );
    if let Ok(summary) = HeaderValue::from_str(&summary) {
        answer.headers_mut().insert(SUMMARY, summary);
    }
    answer
}
