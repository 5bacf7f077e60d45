//! Bodies on their way through: never held whole, but for the beginning that the classifier looked at.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures::future::poll_fn;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::cluster::Lease;
use crate::forwarded::Passage;
use crate::metrics::{self, Class, Outcome, Protocol};

/// Any answer's body.
pub type AnswerBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// A body that is in memory.
pub fn held(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A request's body: frames may be peeked at and are passed on all the same.
///
/// Clones share one body, so that a request whose connection failed, and which therefore sent nothing, can be made again.
#[derive(Clone)]
pub struct RequestBody(Arc<Mutex<Peeked>>);

struct Peeked {
    seen: VecDeque<Frame<Bytes>>,
    rest: Option<Incoming>,
}

impl RequestBody {
    pub fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(Peeked { seen: VecDeque::new(), rest: Some(body) })))
    }

    pub fn of_bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Arc::new(Mutex::new(Peeked { seen: VecDeque::from([Frame::data(bytes.into())]), rest: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Peeked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is behind what was peeked at.
    pub fn is_peeked_whole(&self) -> bool {
        self.lock().rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// The same body once more, if all of it was peeked at and is no longer than `longest`: for a request that is repeated.
    pub fn again(&self, longest: usize) -> Option<Self> {
        let body = self.lock();
        if !body.rest.as_ref().is_none_or(Body::is_end_stream) {
            return None;
        }
        let mut all = Vec::new();
        for data in body.seen.iter().filter_map(Frame::data_ref) {
            all.extend_from_slice(data);
        }
        (all.len() <= longest).then(|| Self::of_bytes(all))
    }

    /// Reads one more frame and keeps it for the one who sends the body; `None` at the end.
    pub async fn peek(&self) -> Result<Option<Bytes>, hyper::Error> {
        let frame = poll_fn(|cx| match &mut self.lock().rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        })
        .await
        .transpose()?;
        let mut body = self.lock();
        match frame {
            None => {
                body.rest = None;
                Ok(None)
            }
            Some(frame) => {
                let data = frame.data_ref().cloned().unwrap_or_default();
                body.seen.push_back(frame);
                Ok(Some(data))
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut body = self.lock();
        let frame = match body.seen.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None => match &mut body.rest {
                Some(rest) => ready!(Pin::new(rest).poll_frame(cx)),
                None => None,
            },
        };
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            metrics::BYTES_IN.with_label_values(&[Protocol::Http.label()]).inc_by(bytes as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let body = self.lock();
        body.seen.is_empty() && body.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.lock();
        let seen: u64 = body.seen.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let rest = body.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(seen + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(seen + upper);
        }
        hint
    }
}

/// Counts a request from its head to the end of its answer, however it ends.
pub struct Account {
    class: Class,
    outcome: Outcome,
    started: Instant,
    passage: Option<Passage>,
    _open: metrics::Open,
}

impl Account {
    pub fn new() -> Self {
        let _open = metrics::Open::new(Protocol::Http);
        Self { class: Class::Page, outcome: Outcome::Broken, started: Instant::now(), passage: None, _open }
    }

    pub fn classed(&mut self, class: Class) {
        self.class = class;
    }

    /// Keeps a forwarded statement known until the end of its answer.
    pub fn forwarded(&mut self, passage: Passage) {
        self.passage = Some(passage);
    }

    pub fn elapsed_ns(&self) -> u128 {
        self.started.elapsed().as_nanos()
    }

    pub fn ended(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        metrics::REQUESTS.with_label_values(&[self.class.label(), self.outcome.label()]).inc();
        metrics::SECONDS.with_label_values(&[self.class.label()]).observe(self.started.elapsed().as_secs_f64());
    }
}

/// A node's answer on its way to the client; keeps the node counted as busy until the end.
pub struct NodeAnswer {
    pub body: Incoming,
    /// What the account is told when all of the body went through.
    pub outcome: Outcome,
    pub account: Account,
    pub lease: Lease,
}

impl Body for NodeAnswer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            metrics::BYTES_OUT.with_label_values(&[Protocol::Http.label()]).inc_by(bytes as u64);
        }
        if let Some(Err(error)) = &frame {
            tracing::warn!(node = %self.lease.node.node, %error, "a node's answer broke off");
        }
        if frame.is_none() || self.body.is_end_stream() {
            let outcome = self.outcome;
            self.account.ended(outcome);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
