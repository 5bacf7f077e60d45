//! The way to the controller that leads, where there are several.
//!
//! A standby refuses every call and names the leader (`NotLeader`); a leader that has gone does not answer. Either way the
//! call that noticed fails with `UNAVAILABLE`, and the next one goes elsewhere: to the leader that was named, or to the next
//! address. Callers repeat such calls anyway, so nothing is sent twice behind their backs.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::connect::{Dialer, Expected};
use crate::limits;

/// In a standby's refusal: `host:port` of the leader; empty if it knows none.
pub const LEADER_HEADER: &str = "moorhouse-leader";

/// What a standby answers to every call.
pub fn not_leader(leader: Option<&str>) -> Status {
    let text = match leader {
        Some(leader) => format!("this controller is a standby: ask the leader at {leader}"),
        None => "this controller is a standby, and there is no leader at the moment: ask again".to_owned(),
    };
    let mut status = Status::unavailable(text);
    if let Ok(value) = leader.unwrap_or_default().parse() {
        status.metadata_mut().insert(LEADER_HEADER, value);
    }
    status
}

/// The addresses in a `--controller` flag, which takes several with commas between.
pub fn controller_urls(flag: &str) -> impl Iterator<Item = &str> {
    flag.split(',').map(str::trim)
}

/// Carries calls to whoever leads, as far as is known. Clones share what they have learned.
#[derive(Clone)]
pub struct LeaderChannel {
    shared: Arc<Shared>,
}

struct Shared {
    dialer: Dialer,
    tune: fn(Endpoint) -> Endpoint,
    known: Mutex<Known>,
}

struct Known {
    /// `host:port` with its channel; those of the flag first, then such as a standby has named.
    channels: Vec<(String, Channel)>,
    current: usize,
}

impl LeaderChannel {
    /// Makes no connection yet. `tune` sets what every connection needs; at least one URL must be given.
    ///
    /// # Errors
    /// For a URL that is none.
    pub fn new<'a>(
        dialer: Dialer,
        urls: impl IntoIterator<Item = &'a str>,
        tune: fn(Endpoint) -> Endpoint,
    ) -> Result<Self, tonic::transport::Error> {
        let channels = urls.into_iter().map(|url| dial(&dialer, url, tune)).collect::<Result<Vec<_>, _>>()?;
        let known = Mutex::new(Known { channels, current: 0 });
        Ok(Self { shared: Arc::new(Shared { dialer, tune, known }) })
    }

    /// Where the next call goes.
    pub fn address(&self) -> String {
        self.shared.current().1
    }
}

fn dial(
    dialer: &Dialer,
    url: &str,
    tune: fn(Endpoint) -> Endpoint,
) -> Result<(String, Channel), tonic::transport::Error> {
    let endpoint = dialer.endpoint(url)?;
    let address = endpoint.uri().authority().map_or_else(|| url.to_owned(), ToString::to_string);
    Ok((address, dialer.channel(&tune(endpoint), Expected::Controller)))
}

impl Shared {
    fn current(&self) -> (usize, String, Option<Channel>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, channel) = known.channels.get(known.current).cloned().unzip();
        (known.current, address.unwrap_or_default(), channel)
    }

    /// `tried` did not serve: another has its turn, unless somebody has moved on before.
    fn move_on(&self, tried: usize, leader: Option<&str>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.current != tried || known.channels.is_empty() {
            return;
        }
        let named = leader.filter(|leader| !leader.is_empty());
        let there = named.and_then(|leader| known.channels.iter().position(|(address, _)| address == leader));
        known.current = match (there, named) {
            (Some(index), _) => index,
            (None, Some(leader)) if known.channels.len() < limits::CONTROLLERS_KNOWN => {
                match dial(&self.dialer, leader, self.tune) {
                    Ok(dialed) => {
                        known.channels.push(dialed);
                        known.channels.len() - 1
                    }
                    Err(error) => {
                        tracing::warn!(leader, %error, "a standby names a leader by an address that is none");
                        (tried + 1) % known.channels.len()
                    }
                }
            }
            (None, _) => (tried + 1) % known.channels.len(),
        };
        let next = &known.channels[known.current].0;
        tracing::info!(next, leader = named.is_some(), "asking another controller from now on");
    }
}

impl Service<http::Request<Body>> for LeaderChannel {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<http::Response<Body>, tonic::transport::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let (index, _, channel) = shared.current();
            let Some(mut channel) = channel else {
                return Ok(Status::unavailable("no controller is known").into_http());
            };
            let answer = async {
                poll_fn(|cx| channel.poll_ready(cx)).await?;
                channel.call(request).await
            };
            let answer = answer.await;
            match &answer {
                Err(_) => shared.move_on(index, None),
                Ok(response) => {
                    // A refusal has its status where an answer has its headers.
                    let status = Status::from_header_map(response.headers());
                    if status.is_some_and(|status| status.code() == Code::Unavailable) {
                        let leader = response.headers().get(LEADER_HEADER).and_then(|value| value.to_str().ok());
                        shared.move_on(index, leader);
                    }
                }
            }
            answer
        })
    }
}
