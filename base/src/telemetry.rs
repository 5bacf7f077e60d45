//! Logs to stderr (`MOORHOUSE_LOG`, default `info`) and metrics over HTTP at `/metrics`.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus::{Encoder, TextEncoder};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::tasks::TaskGroup;

/// Call once, first thing in `main`.
pub fn init_logs() {
    let filter = EnvFilter::try_from_env("MOORHOUSE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// Serves the process's default Prometheus registry at `/metrics` and an empty 200 at `/healthz`, until the group ends.
pub async fn serve_metrics(address: SocketAddr, tasks: &TaskGroup) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    tasks.spawn("metrics", async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            if let Err(error) = served.await {
                tracing::debug!(%error, "a metrics connection broke");
            }
        }
    });
    Ok(local)
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
