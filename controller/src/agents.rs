//! The controller's side of the agents' gRPC service: one lazily connected channel for each address.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use moorhouse_catalog::Node;
use moorhouse_proto::agent_client::AgentClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::limits;

#[derive(Default)]
pub struct Agents {
    /// Few: one for each address that a node ever had while this leader ran.
    channels: Mutex<HashMap<String, Channel>>,
}

impl Agents {
    /// Fails only for an address that is none.
    pub fn of(&self, node: &Node) -> Result<AgentClient<Channel>, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&node.agent_address) {
            return Ok(client(channel.clone()));
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", node.agent_address)).map_err(|error| {
            Status::internal(format!("node {} has the bad address {:?}: {error}", node.name, node.agent_address))
        })?;
        let channel = endpoint.connect_timeout(limits::CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy();
        channels.insert(node.agent_address.clone(), channel.clone());
        Ok(client(channel))
    }
}

fn client(channel: Channel) -> AgentClient<Channel> {
    AgentClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES)
}

/// A request with a deadline that the agent hears of too.
pub fn within<T>(message: T, deadline: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    request
}
