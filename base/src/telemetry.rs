//! Logs to stderr (`MOORHOUSE_LOG`, default `info`) and metrics over HTTP at `/metrics`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tracing_subscriber::EnvFilter;

use crate::tasks::TaskGroup;

/// After a failed accept: the process is out of file descriptors, or nearly.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// An idle scraper's connection is closed after this long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Call once, first thing in `main`.
pub fn init_logs() {
    let filter = EnvFilter::try_from_env("MOORHOUSE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// Serves the process's default Prometheus registry at `/metrics` and an empty 200 at `/healthz`, until the group ends.
pub async fn serve_metrics(address: SocketAddr, tasks: &TaskGroup) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    let connections = tasks.clone();
    tasks.spawn("metrics", async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => connections.spawn("metrics-connection", serve_connection(stream)),
                Err(error) => {
                    tracing::warn!(%error, "no connection for metrics");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    });
    Ok(local)
}

async fn serve_connection(stream: TcpStream) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a metrics connection broke");
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.uri().path() {
        "/metrics" => {
            let mut text = Vec::new();
            match TextEncoder::new().encode(&prometheus::gather(), &mut text) {
                Ok(()) => (StatusCode::OK, Bytes::from(text)),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Bytes::from(error.to_string())),
            }
        }
        "/healthz" => (StatusCode::OK, Bytes::new()),
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"try /metrics or /healthz\n")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}
