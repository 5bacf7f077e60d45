//! The controller's side of the agents' gRPC service: one lazily connected channel for each address.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moorhouse_catalog::{Node, NodeName};
use moorhouse_proto::agent_client::AgentClient;
use moorhouse_security::{Dialer, Expected};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{StdError, http};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::limits;

/// A request that did not reach an agent, or whose answer did not come back.
#[derive(Debug, thiserror::Error)]
#[error("the agent was not reached")]
pub struct NotReached(#[source] pub StdError);

/// Carries requests to one agent.
pub type AgentChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, NotReached>;

/// Makes the channel to a node's agent, without connecting yet. Fails only for an address that is none.
pub type Dial = Box<dyn Fn(&Node) -> Result<AgentChannel, StdError> + Send + Sync>;

pub struct Agents {
    dial: Dial,
    /// By node and address. Few: one for each address that a node ever had while this leader ran.
    channels: Mutex<HashMap<(NodeName, String), AgentChannel>>,
}

impl Default for Agents {
    fn default() -> Self {
        Self::over(Dialer::plaintext())
    }
}

impl Agents {
    pub fn new(dial: Dial) -> Self {
        Self { dial, channels: Mutex::default() }
    }

    /// Over TCP; with TLS, only to the agent whose certificate names the node.
    pub fn over(dialer: Dialer) -> Self {
        Self::new(Box::new(move |node| dial_tcp(&dialer, node)))
    }

    /// Fails only for an address that is none.
    pub fn of(&self, node: &Node) -> Result<AgentClient<AgentChannel>, Status> {
        let key = (node.name.clone(), node.agent_address.clone());
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&key) {
            return Ok(client(channel.clone()));
        }
        let channel = (self.dial)(node).map_err(|error| {
            Status::internal(format!("node {} has the bad address {:?}: {error}", node.name, node.agent_address))
        })?;
        channels.insert(key, channel.clone());
        Ok(client(channel))
    }
}

fn dial_tcp(dialer: &Dialer, node: &Node) -> Result<AgentChannel, StdError> {
    let endpoint = dialer.endpoint(&node.agent_address)?.connect_timeout(limits::CONNECT_TIMEOUT);
    let channel = dialer.channel(&endpoint, Expected::Agent(node.name.as_str().to_owned()));
    Ok(BoxCloneSyncService::new(channel.map_err(|error| NotReached(error.into()))))
}

fn client(channel: AgentChannel) -> AgentClient<AgentChannel> {
    AgentClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES)
}

/// A request with a deadline that the agent hears of too.
pub fn within<T>(message: T, deadline: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    request
}
