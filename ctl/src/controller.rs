//! The way to a controller: connects, calls, and puts its answers in words.

use std::time::Duration;

use moorhouse_proto::admin_client::AdminClient;
use moorhouse_proto::documents_client::DocumentsClient;
use moorhouse_proto::security_client::SecurityClient;
use moorhouse_proto::{
    DrainNodeRequest, FsckEvent, FsckRequest, ListMovesRequest, ListNodesRequest, ListPartsRequest, ListShardsRequest,
    MoveInfo, MoveProgress, NodeInfo, PartInfo, RebalanceRequest, RemoveNodeRequest, SetTableRequest, ShardInfo,
    ShowTableReply, ShowTableRequest, StatusReply, StatusRequest, TableSetting,
};
use moorhouse_security::{Credentials, Dialer, Expected, TlsFlags};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::error::CtlError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A part listing of a large warehouse is one message.
const MAX_ANSWER_BYTES: usize = 256 << 20;

#[derive(Clone)]
pub struct Controller {
    client: AdminClient<Channel>,
    /// Tokens and audit.
    pub security: SecurityClient<Channel>,
    /// Engine configuration and access control.
    pub documents: DocumentsClient<Channel>,
    /// To agents, in the same name.
    pub dialer: Dialer,
}

impl Controller {
    /// To the leader; `urls` may be several, and standbys. `BadInput` if none is an address or nobody answers.
    pub async fn connect(urls: &str, tls: &TlsFlags) -> Result<Self, CtlError> {
        crate::leader::connect(urls, tls).await
    }

    pub fn admin(&mut self) -> &mut AdminClient<Channel> {
        &mut self.client
    }

    /// To this one, be it a standby. `BadInput` if `url` is not an address or nobody answers there.
    pub async fn connect_to(url: &str, tls: &TlsFlags) -> Result<Self, CtlError> {
        if let Some(mistake) = tls.mistakes(None, Some(url)).into_iter().next() {
            return Err(CtlError::bad_input(
                mistake.replace("--tls DIR", "--certificate DIR"),
                "the certificate is made by `moorctl cert issue`",
            ));
        }
        let read = |dir: &std::path::PathBuf| {
            Credentials::once(dir).map_err(|error| CtlError::bad_input(error.to_string(), "correct --certificate"))
        };
        let dialer = Dialer::from(tls.tls.as_ref().map(read).transpose()?);
        let remedy = "start one with `moorctl dev up`, or name another with --controller http://HOST:PORT";
        let endpoint = dialer.endpoint(url).map_err(|_| {
            CtlError::bad_input(
                format!("'{url}' is not a controller's address"),
                "it looks like http://127.0.0.1:18100",
            )
        })?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        let channel = dialer.connect(&endpoint, Expected::Controller).await.map_err(|error| {
            CtlError::bad_input(format!("no controller answers at {url} ({})", root_cause(&error)), remedy)
        })?;
        Ok(Self {
            client: AdminClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
            security: SecurityClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES),
            documents: DocumentsClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
            dialer,
        })
    }

    pub async fn status(&mut self) -> Result<StatusReply, CtlError> {
        Ok(self.client.status(StatusRequest {}).await.map_err(in_words)?.into_inner())
    }

    /// An empty `group` means all.
    pub async fn nodes(&mut self, group: &str) -> Result<Vec<NodeInfo>, CtlError> {
        let request = ListNodesRequest { group: group.to_owned() };
        Ok(self.client.list_nodes(request).await.map_err(in_words)?.into_inner().nodes)
    }

    /// An empty `group` means all.
    pub async fn shards(&mut self, group: &str) -> Result<Vec<ShardInfo>, CtlError> {
        let request = ListShardsRequest { group: group.to_owned() };
        Ok(self.client.list_shards(request).await.map_err(in_words)?.into_inner().shards)
    }

    pub async fn parts(&mut self, request: ListPartsRequest) -> Result<Vec<PartInfo>, CtlError> {
        Ok(self.client.list_parts(request).await.map_err(in_words)?.into_inner().parts)
    }

    pub async fn moves(&mut self) -> Result<Vec<MoveInfo>, CtlError> {
        Ok(self.client.list_moves(ListMovesRequest {}).await.map_err(in_words)?.into_inner().moves)
    }

    pub async fn drain(&mut self, node: &str) -> Result<Streaming<MoveProgress>, CtlError> {
        let request = DrainNodeRequest { node: node.to_owned() };
        Ok(self.client.drain_node(request).await.map_err(in_words)?.into_inner())
    }

    pub async fn rebalance(&mut self, group: &str) -> Result<Streaming<MoveProgress>, CtlError> {
        let request = RebalanceRequest { group: group.to_owned() };
        Ok(self.client.rebalance(request).await.map_err(in_words)?.into_inner())
    }

    pub async fn show_table(&mut self, database: &str, table: &str) -> Result<ShowTableReply, CtlError> {
        let request = ShowTableRequest { database: database.to_owned(), table: table.to_owned() };
        Ok(self.client.show_table(request).await.map_err(in_words)?.into_inner())
    }

    /// All settings that the table then has of its own.
    pub async fn set_table(
        &mut self,
        database: &str,
        table: &str,
        settings: Vec<(String, String)>,
    ) -> Result<Vec<TableSetting>, CtlError> {
        let settings = settings.into_iter().map(|(name, value)| TableSetting { name, value }).collect();
        let request = SetTableRequest { database: database.to_owned(), table: table.to_owned(), settings };
        Ok(self.client.set_table(request).await.map_err(in_words)?.into_inner().settings)
    }

    pub async fn fsck(&mut self, request: FsckRequest) -> Result<Streaming<FsckEvent>, CtlError> {
        Ok(self.client.fsck(request).await.map_err(in_words)?.into_inner())
    }

    pub async fn remove_node(&mut self, node: &str) -> Result<(), CtlError> {
        let request = RemoveNodeRequest { node: node.to_owned() };
        self.client.remove_node(request).await.map_err(in_words)?;
        Ok(())
    }
}

/// Reads a stream of move progress to its end; says each finished move on stderr.
pub async fn follow_moves(mut progress: Streaming<MoveProgress>) -> Result<u32, CtlError> {
    let mut said = 0;
    let mut total = 0;
    while let Some(step) = progress.message().await.map_err(in_words)? {
        total = step.moves_total;
        if let Some(last) = step.last.filter(|_| step.moves_done > said) {
            said = step.moves_done;
            eprintln!(
                "shard {} moved from {} to {}: {} ({said} of {total}), held {} ms, {} bytes copied",
                last.shard, last.from, last.to, last.outcome, last.hold_ms, last.copied_bytes
            );
        }
        if step.finished {
            if !step.error.is_empty() {
                return Err(CtlError::failed(step.error));
            }
            return Ok(step.moves_done);
        }
    }
    Err(CtlError::failed(format!(
        "the controller went away after {said} of {total} moves; look at `moorctl move list`"
    )))
}

/// What a refused call means for the person at the terminal.
pub fn in_words(status: Status) -> CtlError {
    match status.code() {
        Code::Aborted => CtlError::bad_input(status.message(), "read it again, and repeat the change"),
        Code::DeadlineExceeded => CtlError::failed(status.message()),
        Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition | Code::AlreadyExists => {
            CtlError::bad_input(status.message(), "see `moorctl status`, `moorctl node list` and `moorctl shard list`")
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            CtlError::bad_input(status.message(), "use a certificate with the right role, by --certificate DIR")
        }
        Code::Unavailable => CtlError::failed(format!("the controller does not answer: {}", status.message())),
        code => CtlError::failed(format!("the controller refused: {} ({code:?})", status.message())),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
