//! The way to a warehouse's controllers: what the operator asks of them, and follows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use moorhouse_base::tasks::TaskGroup;
use moorhouse_proto::admin_client::AdminClient;
use moorhouse_proto::{
    CreateGroupRequest, DrainNodeRequest, ListNodesRequest, NodeInfo, RemoveNodeRequest, StatusReply, StatusRequest,
};
use moorhouse_security::{Dialer, LeaderChannel, controller_urls};
use tonic::transport::Endpoint;
use tonic::{Code, Response, Status};

use crate::limits;

type Admin = AdminClient<LeaderChannel>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ControllerError {
    /// Nobody answers, or nobody leads: later.
    #[error("does not answer ({0})")]
    Silent(String),
    /// It does not want to, for a reason.
    #[error("{0}")]
    Refused(String),
}

/// All warehouses' controllers. Channels are kept.
pub struct Controllers {
    /// NAMESPACE/NAME of a warehouse, and where its controllers are, for an operator outside of the cluster.
    elsewhere: BTreeMap<String, String>,
    channels: Mutex<HashMap<String, LeaderChannel>>,
    drains: Arc<Mutex<HashMap<String, Drain>>>,
    tasks: TaskGroup,
}

/// A drain that was asked for, and did not come to its end yet.
#[derive(Debug, Clone)]
struct Drain {
    is_under_way: bool,
    /// Of the attempt before.
    last: Result<(), String>,
}

impl Controllers {
    pub fn new(elsewhere: BTreeMap<String, String>, tasks: TaskGroup) -> Self {
        Self { elsewhere, channels: Mutex::default(), drains: Arc::default(), tasks }
    }

    /// Of one warehouse; `urls` is where its pods are.
    ///
    /// # Errors
    /// When `urls` are no addresses.
    pub fn of(&self, namespace: &str, warehouse: &str, urls: &str) -> Result<Controller<'_>, ControllerError> {
        let key = format!("{namespace}/{warehouse}");
        let urls = self.elsewhere.get(&key).map_or(urls, String::as_str);
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(urls) {
            Some(channel) => channel.clone(),
            None => {
                let made = LeaderChannel::new(Dialer::plaintext(), controller_urls(urls), tune);
                let made = made.map_err(|error| ControllerError::Refused(format!("{urls}: {error}")))?;
                channels.insert(urls.to_owned(), made.clone());
                made
            }
        };
        Ok(Controller { client: AdminClient::new(channel), key, all: self })
    }
}

fn tune(endpoint: Endpoint) -> Endpoint {
    endpoint.connect_timeout(limits::CALL)
}

/// One warehouse's.
pub struct Controller<'a> {
    client: Admin,
    key: String,
    all: &'a Controllers,
}

impl Controller<'_> {
    pub async fn status(&self) -> Result<StatusReply, ControllerError> {
        self.ask(|mut client| async move { client.status(StatusRequest {}).await }).await
    }

    /// None for a group that it does not know.
    pub async fn nodes(&self, group: &str) -> Result<Option<Vec<NodeInfo>>, ControllerError> {
        let request = ListNodesRequest { group: group.to_owned() };
        let asked = |mut client: Admin| {
            let request = request.clone();
            async move {
                match client.list_nodes(request).await {
                    Err(status) if status.code() == Code::NotFound => Ok(Response::new(None)),
                    answer => answer.map(|reply| Response::new(Some(reply.into_inner().nodes))),
                }
            }
        };
        self.ask(asked).await
    }

    pub async fn create_group(&self, group: &str) -> Result<(), ControllerError> {
        let request = CreateGroupRequest { group: group.to_owned() };
        let asked = |mut client: Admin| {
            let request = request.clone();
            async move { client.create_group(request).await }
        };
        self.ask(asked).await.map(|_| ())
    }

    /// Off the books. Refused while anything needs the node. One that is not on them is no error.
    pub async fn remove_node(&self, node: &str) -> Result<(), ControllerError> {
        let request = RemoveNodeRequest { node: node.to_owned() };
        let asked = |mut client: Admin| {
            let request = request.clone();
            async move {
                match client.remove_node(request).await {
                    Err(status) if status.code() == Code::NotFound => Ok(Response::new(())),
                    answer => answer.map(|_| Response::new(())),
                }
            }
        };
        self.ask(asked).await
    }

    /// Has the node drained, and follows it; one that is under way is not asked for again. What the one before said, if it failed.
    pub fn drain(&self, node: &str) -> Result<(), String> {
        let key = format!("{}/{node}", self.key);
        let mut drains = self.all.drains.lock().unwrap_or_else(PoisonError::into_inner);
        let drain = drains.entry(key.clone()).or_insert(Drain { is_under_way: false, last: Ok(()) });
        let last = drain.last.clone();
        if std::mem::replace(&mut drain.is_under_way, true) {
            return last;
        }
        drop(drains);
        let (client, node, drains) = (self.client.clone(), node.to_owned(), Arc::clone(&self.all.drains));
        self.all.tasks.spawn("drain", async move {
            let outcome = follow_drain(client, &node).await;
            let mut drains = drains.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(()) => drop(drains.remove(&key)),
                Err(why) => {
                    tracing::warn!(node, why, "a drain did not come to its end; it is tried again");
                    drains.insert(key, Drain { is_under_way: false, last: Err(why) });
                }
            }
        });
        last
    }

    /// Repeats a call while nobody answers or a standby names somebody else.
    async fn ask<T, F>(&self, call: impl Fn(Admin) -> F) -> Result<T, ControllerError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut last = String::new();
        for _ in 0..limits::ATTEMPTS {
            match tokio::time::timeout(limits::CALL, call(self.client.clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if status.code() == Code::Unavailable => last = status.message().to_owned(),
                Ok(Err(status)) => return Err(ControllerError::Refused(status.message().to_owned())),
                Err(_) => {
                    return Err(ControllerError::Silent(format!("no answer within {} s", limits::CALL.as_secs())));
                }
            }
        }
        Err(ControllerError::Silent(last))
    }
}

async fn follow_drain(mut client: Admin, node: &str) -> Result<(), String> {
    let request = DrainNodeRequest { node: node.to_owned() };
    let mut progress = client.drain_node(request).await.map_err(|status| status.message().to_owned())?.into_inner();
    while let Some(step) = progress.message().await.map_err(|status| status.message().to_owned())? {
        if step.finished {
            return if step.error.is_empty() { Ok(()) } else { Err(step.error) };
        }
    }
    Err("the controller went away before the drain's end".to_owned())
}
