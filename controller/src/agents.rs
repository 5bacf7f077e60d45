//! The controller's side of the agents' gRPC service: one lazily connected channel for each address.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moorhouse_catalog::Node;
use moorhouse_proto::agent_client::AgentClient;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{StdError, http};
use tonic::transport::Endpoint;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::limits;

/// A request that did not reach an agent, or whose answer did not come back.
#[derive(Debug, thiserror::Error)]
#[error("the agent was not reached")]
pub struct NotReached(#[source] pub StdError);

/// Carries requests to one agent.
pub type AgentChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, NotReached>;

/// Makes the channel to a `host:port`, without connecting yet. Fails only for an address that is none.
pub type Dial = Box<dyn Fn(&str) -> Result<AgentChannel, StdError> + Send + Sync>;

pub struct Agents {
    dial: Dial,
    /// Few: one for each address that a node ever had while this leader ran.
    channels: Mutex<HashMap<String, AgentChannel>>,
}

impl Default for Agents {
    fn default() -> Self {
        Self::new(Box::new(dial_tcp))
    }
}

impl Agents {
    pub fn new(dial: Dial) -> Self {
        Self { dial, channels: Mutex::default() }
    }

    /// Fails only for an address that is none.
    pub fn of(&self, node: &Node) -> Result<AgentClient<AgentChannel>, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&node.agent_address) {
            return Ok(client(channel.clone()));
        }
        let channel = (self.dial)(&node.agent_address).map_err(|error| {
            Status::internal(format!("node {} has the bad address {:?}: {error}", node.name, node.agent_address))
        })?;
        channels.insert(node.agent_address.clone(), channel.clone());
        Ok(client(channel))
    }
}

fn dial_tcp(address: &str) -> Result<AgentChannel, StdError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let channel = endpoint.connect_timeout(limits::CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy();
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
