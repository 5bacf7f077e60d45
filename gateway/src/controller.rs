//! The door to the controller: its views in, definition statements out.

use std::net::SocketAddr;
use std::time::Duration;

use futures::TryStreamExt;
use moorhouse_catalog::{ClusterView, DdlStatement, DdlToken, codec};
use moorhouse_proto::controller_client::ControllerClient;
use moorhouse_proto::{SubmitDdlRequest, WatchClusterRequest};
use moorhouse_security::{BEHALF_HEADER, CLIENT_HEADER, Dialer, LeaderChannel, controller_urls};
use tokio::time::Instant;
use tonic::transport::Endpoint;
use tonic::{Code as GrpcCode, Status};

use crate::cluster::Cluster;
use crate::exception::{Code, Exception};
use crate::limits;

/// Connects when first used, and again whenever needed.
#[derive(Clone)]
pub struct Controller {
    client: ControllerClient<LeaderChannel>,
}

impl Controller {
    /// `urls`: of one controller, or of several with commas between. Fails for a URL that is none.
    pub fn new(urls: &str, dialer: &Dialer) -> Result<Self, tonic::transport::Error> {
        let tune = |endpoint: Endpoint| {
            endpoint
                .connect_timeout(limits::CONNECT)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(5))
                .keep_alive_while_idle(true)
        };
        let channel = LeaderChannel::new(dialer.clone(), controller_urls(urls), tune)?;
        Ok(Self { client: ControllerClient::new(channel) })
    }

    /// Keeps `cluster` at the controller's newest view; never returns.
    pub async fn follow(mut self, cluster: Cluster) {
        let (first, longest) = limits::CONTROLLER_PAUSE;
        let mut pause = first;
        loop {
            match self.follow_once(&cluster, &mut pause).await {
                Ok(()) => tracing::info!("the controller ended the stream of views"),
                Err(status) => tracing::warn!(%status, "no views from the controller; routing by the last one"),
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..2.0))).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn follow_once(&mut self, cluster: &Cluster, pause: &mut Duration) -> Result<(), Status> {
        let mut updates = self.client.watch_cluster(WatchClusterRequest {}).await?.into_inner();
        while let Some(update) = updates.try_next().await? {
            match codec::decode::<ClusterView>(&update.view_record) {
                Ok(view) => {
                    *pause = limits::CONTROLLER_PAUSE.0;
                    cluster.publish(view);
                }
                Err(error) => tracing::error!(%error, "a view of the controller cannot be read"),
            }
        }
        Ok(())
    }

    /// Runs a definition statement; returns when every live node has applied it.
    pub async fn submit(&self, statement: &DdlStatement, asker: &Asker) -> Result<(), Exception> {
        let run = self.submit_and_wait(statement, asker);
        tokio::time::timeout(limits::DDL, run).await.unwrap_or_else(|_| {
            Err(Exception::new(
                Code::TimeoutExceeded,
                "The statement is queued, but not every node has applied it yet. It goes on by itself.",
            ))
        })
    }

    /// Whoever leads, the statement is one task: asked for under one token until its outcome is known.
    async fn submit_and_wait(&self, statement: &DdlStatement, asker: &Asker) -> Result<(), Exception> {
        let token = DdlToken::random();
        let reachable_by = Instant::now() + limits::DDL_REACH;
        let (mut pause, longest) = limits::CONTROLLER_PAUSE;
        let mut taken = false;
        loop {
            let status = match self.submit_once(statement, token, asker, &mut taken).await {
                Ok(outcome) => return outcome,
                Err(status) => status,
            };
            // Nobody has the statement as far as we know: its user need not wait as for one that runs.
            if is_final(&status) || (!taken && Instant::now() >= reachable_by) {
                return Err(refusal(&status));
            }
            tracing::info!(%status, taken, "asking again what became of a definition");
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// The outcome, or why it is not known. `taken` once a controller has taken the statement.
    async fn submit_once(
        &self,
        statement: &DdlStatement,
        token: DdlToken,
        asker: &Asker,
        taken: &mut bool,
    ) -> Result<Result<(), Exception>, Status> {
        let (statement_record, token) = (codec::encode(statement).into(), token.to_wire().into());
        let request = asker.sign(SubmitDdlRequest { statement_record, token });
        let mut progress = self.client.clone().submit_ddl(request).await?.into_inner();
        *taken = true;
        while let Some(step) = progress.try_next().await? {
            tracing::debug!(
                ddl_seq = step.ddl_seq,
                done = step.nodes_done,
                of = step.nodes_total,
                "definition in progress"
            );
            if step.finished && step.error.is_empty() {
                return Ok(Ok(()));
            }
            if step.finished {
                return Ok(Err(Exception::said(&step.error)));
            }
        }
        Err(Status::unavailable("the stream of progress ended early"))
    }
}

/// On whose behalf a statement is submitted: checked by an engine before.
#[derive(Debug, Clone)]
pub struct Asker {
    pub user: String,
    /// The client's address.
    pub client: Option<SocketAddr>,
}

impl Asker {
    /// A name that is no header text (the engine knows such users) is written with its bytes escaped.
    fn sign<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let user: String = self.user.escape_default().to_string();
        if let Ok(value) = user.parse() {
            request.metadata_mut().insert(BEHALF_HEADER, value);
        }
        if let Some(Ok(value)) = self.client.map(|client| client.to_string().parse()) {
            request.metadata_mut().insert(CLIENT_HEADER, value);
        }
        request
    }
}

/// Asked again, it would be refused again.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        GrpcCode::InvalidArgument
            | GrpcCode::NotFound
            | GrpcCode::AlreadyExists
            | GrpcCode::PermissionDenied
            | GrpcCode::ResourceExhausted
            | GrpcCode::FailedPrecondition
            | GrpcCode::Unimplemented
            | GrpcCode::Unauthenticated
    )
}

/// Another try, or another controller, may do better.
fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        GrpcCode::Unavailable
            | GrpcCode::DeadlineExceeded
            | GrpcCode::Cancelled
            | GrpcCode::Aborted
            | GrpcCode::Unknown
    )
}

/// The controller did not take the statement.
fn refusal(status: &Status) -> Exception {
    match status.code() {
        _ if status.message().starts_with("Code: ") => Exception::said(status.message()),
        GrpcCode::InvalidArgument => Exception::new(Code::BadArguments, status.message()),
        GrpcCode::Unimplemented => Exception::new(Code::NotImplemented, status.message()),
        _ if may_pass(status) => {
            let text = format!(
                "The controller cannot be reached, so definitions wait; reads and inserts go on. Try again. ({})",
                status.message()
            );
            Exception::new(Code::NetworkError, text)
        }
        _ => Exception::said(status.message()),
    }
}
