//! A network of messages on virtual time: requests and answers are late, lost, doubled and reordered, links are cut, and who
//! is killed answers no more.
//!
//! It carries whole gRPC calls between the real clients and the real services, without sockets: an answer travels as the frames
//! of its body, so that streams break in the middle. In one stream the order holds, as over TCP; between calls it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use moorhouse_controller::agents::{AgentChannel, NotReached};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;
use tower::util::BoxCloneSyncService;
use tower::{Service, service_fn};

use crate::chance::Chance;

/// A call without a deadline of its own is given up after this, as by a keep-alive.
const CALL_DEADLINE: Duration = Duration::from_secs(4);
/// Somebody who cannot be connected to is given up after this.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How long a stream over a cut link waits before it looks again.
const CUT_POLL: Duration = Duration::from_millis(50);
/// Frames that wait in one stream.
const STREAM_BACKLOG: usize = 256;
/// Calls whose request is a stream: it cannot be doubled.
const STREAMED_REQUESTS: [&str; 1] = ["/Session"];

/// How bad the network is, in cases of a thousand.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    pub slow: u64,
}

impl Weather {
    pub const FAIR: Self = Self { lost: 0, doubled: 0, slow: 0 };
}

/// All hosts share it. A host is the name of one process; it is its address too.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Shared>>);

struct Shared {
    chance: Chance,
    weather: Weather,
    hosts: BTreeMap<String, mpsc::UnboundedSender<Delivery>>,
    /// From, to.
    cuts: BTreeSet<(String, String)>,
}

/// A request that has arrived.
struct Delivery {
    request: Request<Body>,
    link: Link,
    answer: oneshot::Sender<Response<Body>>,
}

#[derive(Debug, Clone)]
struct Link {
    from: String,
    to: String,
}

impl Link {
    fn back(&self) -> Self {
        Self { from: self.to.clone(), to: self.from.clone() }
    }
}

/// What becomes of one call.
struct Fate {
    request_lost: bool,
    answer_lost: bool,
    there: Duration,
    back: Duration,
    doubled_after: Option<Duration>,
}

impl Network {
    pub fn new(chance: Chance) -> Self {
        let shared = Shared { chance, weather: Weather::FAIR, hosts: BTreeMap::new(), cuts: BTreeSet::new() };
        Self(Arc::new(Mutex::new(shared)))
    }

    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Nothing goes from `from` to `to` until it is mended.
    pub fn cut(&self, from: &str, to: &str) {
        self.lock().cuts.insert((from.to_owned(), to.to_owned()));
    }

    pub fn mend(&self, from: &str, to: &str) {
        self.lock().cuts.remove(&(from.to_owned(), to.to_owned()));
    }

    pub fn mend_all(&self) {
        self.lock().cuts.clear();
    }

    pub fn is_cut(&self, from: &str, to: &str) -> bool {
        self.lock().cuts.contains(&(from.to_owned(), to.to_owned()))
    }

    /// A way of calls from one host to another, which need not be there yet.
    pub fn channel(&self, from: &str, to: &str) -> AgentChannel {
        let (network, link) = (self.clone(), Link { from: from.to_owned(), to: to.to_owned() });
        BoxCloneSyncService::new(service_fn(move |request| {
            let (network, link) = (network.clone(), link.clone());
            async move { network.call(link, request).await.map_err(|status| NotReached(status.into())) }
        }))
    }

    /// Answers calls to `host` until its runtime ends. A later process of the same name takes its place.
    pub async fn serve(&self, host: &str, routes: Routes) {
        let (sender, mut deliveries) = mpsc::unbounded_channel();
        self.lock().hosts.insert(host.to_owned(), sender);
        while let Some(Delivery { request, link, answer }) = deliveries.recv().await {
            let (network, mut routes) = (self.clone(), routes.clone());
            tokio::spawn(async move {
                let Ok(response) = routes.call(request).await;
                let (head, body) = response.into_parts();
                let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
                // The caller may have given up.
                let _ = answer.send(Response::from_parts(head, arriving(receiver)));
                network.pump(link.back(), body, sender).await;
            });
        }
    }

    /// Calls to `host` are refused from now on.
    pub fn leave(&self, host: &str) {
        self.lock().hosts.remove(host);
    }

    async fn call(&self, link: Link, request: Request<Body>) -> Result<Response<Body>, Status> {
        let deadline = deadline_of(&request).unwrap_or(CALL_DEADLINE);
        match tokio::time::timeout(deadline, self.carry(link, request)).await {
            Ok(answered) => answered,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    async fn carry(&self, link: Link, request: Request<Body>) -> Result<Response<Body>, Status> {
        if self.is_cut(&link.from, &link.to) {
            tokio::time::sleep(CONNECT_DEADLINE).await;
            return Err(Status::unavailable("cannot be reached"));
        }
        let fate = self.fate();
        let (head, body) = request.into_parts();
        let streamed = STREAMED_REQUESTS.iter().any(|end| head.uri.path().ends_with(end));
        let mut copy = None;
        let body = if streamed {
            let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
            let (network, outward) = (self.clone(), link.clone());
            tokio::spawn(async move { network.pump(outward, body, sender).await });
            arriving(receiver)
        } else {
            let bytes = body.collect().await?.to_bytes();
            copy = fate.doubled_after.map(|after| (after, bytes.clone()));
            Body::new(Full::new(bytes))
        };
        tokio::time::sleep(fate.there).await;
        if fate.request_lost {
            tokio::time::sleep(CALL_DEADLINE).await;
            return Err(Status::unavailable("the request was lost"));
        }
        let answered = self.deliver(link.clone(), Request::from_parts(head.clone(), body))?;
        if let Some((after, bytes)) = copy {
            let (network, link) = (self.clone(), link.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                if let Ok(answered) = network.deliver(link, Request::from_parts(head, Body::new(Full::new(bytes)))) {
                    // Whoever sent it twice looks at one answer.
                    drop(answered.await);
                }
            });
        }
        let response = answered.await.map_err(|_| Status::unavailable("the connection broke"))?;
        tokio::time::sleep(fate.back).await;
        if fate.answer_lost || self.is_cut(&link.to, &link.from) {
            tokio::time::sleep(CALL_DEADLINE).await;
            return Err(Status::unavailable("the answer was lost"));
        }
        Ok(response)
    }

    fn deliver(&self, link: Link, request: Request<Body>) -> Result<oneshot::Receiver<Response<Body>>, Status> {
        let (answer, answered) = oneshot::channel();
        let refused = || Status::unavailable("connection refused");
        let host = self.lock().hosts.get(&link.to).cloned().ok_or_else(refused)?;
        host.send(Delivery { request, link, answer }).map_err(|_| refused())?;
        Ok(answered)
    }

    /// Carries a body, frame by frame. Without its last message the other side knows that it broke.
    async fn pump(&self, link: Link, mut body: Body, sender: mpsc::Sender<Option<Frame<Bytes>>>) {
        loop {
            let frame = tokio::select! {
                biased;
                () = sender.closed() => return,
                frame = body.frame() => frame,
            };
            match frame {
                Some(Ok(frame)) => {
                    if !self.pass(&link).await || sender.send(Some(frame)).await.is_err() {
                        return;
                    }
                }
                Some(Err(_)) => return,
                None => return drop(sender.send(None).await),
            }
        }
    }

    /// Waits until the link is whole; or the connection breaks: false.
    async fn pass(&self, link: &Link) -> bool {
        if self.is_cut(&link.from, &link.to) && self.lock().chance.permille(500) {
            return false;
        }
        while self.is_cut(&link.from, &link.to) {
            tokio::time::sleep(CUT_POLL).await;
        }
        true
    }

    fn fate(&self) -> Fate {
        let mut shared = self.lock();
        let Weather { lost, doubled, slow } = shared.weather;
        let chance = &mut shared.chance;
        let late = |chance: &mut Chance| {
            let ms = if chance.permille(slow) { chance.between(100, 2_500) } else { chance.between(1, 20) };
            Duration::from_millis(ms)
        };
        let (there, back) = (late(chance), late(chance));
        let doubled_after = chance.permille(doubled).then(|| Duration::from_millis(chance.between(1, 2_000)));
        Fate { request_lost: chance.permille(lost), answer_lost: chance.permille(lost), there, back, doubled_after }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body from what a pump sends.
fn arriving(frames: mpsc::Receiver<Option<Frame<Bytes>>>) -> Body {
    // Without the pump's last message the connection broke, and the reader is told.
    let broken = tokio_stream::once(Some(Err(Status::unavailable("the connection broke"))));
    let frames = ReceiverStream::new(frames).map(|frame| frame.map(Ok)).chain(broken);
    let mut ended = false;
    let until_end = frames.map_while(move |frame| {
        ended |= frame.is_none();
        if ended { None } else { frame }
    });
    Body::new(StreamBody::new(until_end))
}

/// The deadline that the caller has set: `grpc-timeout: 5000000u`.
fn deadline_of(request: &Request<Body>) -> Option<Duration> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at(text.len().checked_sub(1)?);
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}
