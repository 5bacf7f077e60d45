//! Having a node do something in the session's name: finding it, connecting, relaying, trying elsewhere.

use bytes::Bytes;
use moorhouse_catalog::GroupName;
use moorhouse_engine::native::handshake::ClientHello;
use tokio::time::Instant;

use super::{Beginning, Leave, Place, Session};
use crate::cluster::{Lease, Work};
use crate::exception::{Code, Exception};
use crate::http::ready_node;
use crate::limits;
use crate::metrics::{self, Protocol};
use crate::native::client::{Broken, Kept};
use crate::native::head::Head;
use crate::native::node::{Answered, NodeConnection, Refusal};
use crate::native::packet;
use crate::native::relay::{Ended, relay};

impl Session<'_> {
    /// Has a node do something and passes its answer on. What was sent, if the answer is no exception.
    pub(super) async fn work(
        &mut self,
        place: Place,
        beginning: Beginning,
        may_repeat: bool,
    ) -> Result<Option<Kept>, Leave> {
        let mut kept = match &beginning {
            Beginning::Query(raw) => Kept::of(raw),
            Beginning::Question => Kept::of(&[]),
        };
        let mut tried = false;
        loop {
            let lease = match self.reach(&place).await {
                Ok(lease) => lease,
                Err(Unreached::Exception(exception)) => return self.unreached(&packet::exception(&exception)).await,
                Err(Unreached::Said(said)) => return self.unreached(&said).await,
            };
            tracing::Span::current().record("node", lease.node.node.as_str());
            let head = if may_repeat && !tried { Head::default() } else { Head::over() };
            let ended = self.attempt(&place, &beginning, &mut kept, lease, tried, head).await;
            match ended {
                Ended::Answered(Answered::Whole { failed }) => {
                    self.last = Some(place);
                    return Ok((!failed).then_some(kept));
                }
                Ended::Answered(Answered::ClientGone) => return Err(Leave),
                Ended::Malformed(what) => {
                    let text = format!("The gateway cannot read {what} of this client.");
                    self.say(&Exception::new(Code::UnexpectedPacket, text)).await?;
                    return Err(Leave);
                }
                Ended::Opaque => return Err(self.stay_with(&place).await),
                Ended::Answered(Answered::NodeGone { sent, between, why }) => {
                    let node = self.drop_node(&place);
                    tracing::warn!(node, why, "a node went away with a statement");
                    let again = may_repeat && !tried && !sent && !self.from.within_packet && !self.bound;
                    if again && kept.bytes().is_some() {
                        metrics::RETRIES.inc();
                        tried = true;
                        continue;
                    }
                    if between {
                        self.say(&went_away(&node, may_repeat)).await?;
                    }
                    // An INSERT's data may still be under way; a session's settings are lost with its node.
                    return if between && may_repeat && !self.bound && !self.from.within_packet {
                        self.last = None;
                        Ok(None)
                    } else {
                        Err(Leave)
                    };
                }
            }
        }
    }

    async fn unreached(&mut self, said: &[u8]) -> Result<Option<Kept>, Leave> {
        self.last = None;
        self.send(said).await.map(|()| None)
    }

    async fn attempt(
        &mut self,
        place: &Place,
        beginning: &Beginning,
        kept: &mut Kept,
        lease: Lease,
        again: bool,
        head: Head,
    ) -> Ended {
        let node = match place {
            Place::Home => self.home.as_mut(),
            Place::Away(_) => self.away.as_mut().map(|(_, node)| node),
        };
        let node = node.expect("it was just reached");
        let begun = match beginning {
            _ if again => node.to.write(kept.bytes().unwrap_or_default()).await.map_err(Broken::Node),
            Beginning::Query(raw) => {
                metrics::BYTES_IN.with_label_values(&[Protocol::Native.label()]).inc_by(raw.len() as u64);
                node.to.write(raw).await.map_err(Broken::Node)
            }
            Beginning::Question => self.from.pass(Some(&mut node.to), kept).await,
        };
        match begun {
            Ok(()) => relay(&mut self.from, &mut self.to, node, kept, lease, head).await,
            Err(Broken::Client) => Ended::Answered(Answered::ClientGone),
            Err(Broken::Node(error)) => {
                Ended::Answered(Answered::NodeGone { sent: false, between: true, why: error.to_string() })
            }
            Err(Broken::Malformed(what)) => Ended::Malformed(what),
            Err(Broken::Opaque) => Ended::Opaque,
        }
    }

    /// The client's packets cannot be followed: from here on both sides are passed on until either goes.
    async fn stay_with(&mut self, place: &Place) -> Leave {
        tracing::info!("a client's data cannot be followed; its connection stays with this node");
        let node = match place {
            Place::Home => self.home.as_mut(),
            Place::Away(_) => self.away.as_mut().map(|(_, node)| node),
        };
        let Some(node) = node else { return Leave };
        let up = async {
            loop {
                let bytes = self.from.inlet.take(self.from.inlet.buffer().len());
                node.to.write(&bytes).await?;
                node.to.flush().await?;
                if !self.from.inlet.fill().await? {
                    return Ok::<(), std::io::Error>(());
                }
            }
        };
        let ended = tokio::select! {
            ended = up => ended,
            ended = node.from.pass_blindly(&mut self.to) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a native connection broke");
        }
        Leave
    }

    fn drop_node(&mut self, place: &Place) -> String {
        let node = match place {
            Place::Home => self.home.take(),
            Place::Away(_) => self.away.take().map(|(_, node)| node),
        };
        node.map(|node| node.node.to_string()).unwrap_or_default()
    }

    /// Sees to a living connection to a ready node for this place, and counts a statement there.
    async fn reach(&mut self, place: &Place) -> Result<Lease, Unreached> {
        let endpoint = self.endpoint;
        let group = match place {
            Place::Home => &endpoint.group,
            Place::Away(group) => group,
        };
        let known = match place {
            Place::Home => self.home.as_ref(),
            Place::Away(_) => self.away.as_ref().filter(|(known, _)| known == group).map(|(_, node)| node),
        };
        if let Some(node) = known
            && node.is_idle()
            && let Some(lease) = endpoint.cluster.take(group, &node.node, Work::Statement)
        {
            let stays = self.bound && *place == Place::Home;
            if stays || !endpoint.cluster.is_overloaded(group, &node.node) {
                return Ok(lease);
            }
        } else if self.bound && *place == Place::Home {
            let text = "The node that had this session's settings and temporary tables has gone. Connect again.";
            return Err(Unreached::Exception(Exception::new(Code::NetworkError, text)));
        }
        let (node, lease) = self.connect(group).await?;
        match place {
            Place::Home => self.home = Some(node),
            Place::Away(group) => self.away = Some((group.clone(), node)),
        }
        Ok(lease)
    }

    /// A connection in the client's name, with its session's settings, to the least-loaded node that takes it.
    async fn connect(&self, group: &GroupName) -> Result<(NodeConnection, Lease), Unreached> {
        let endpoint = self.endpoint;
        let deadline = Instant::now() + limits::HOLD;
        let mut refused = Vec::new();
        loop {
            let lease = ready_node(&endpoint.cluster, group, Work::Statement, None, &mut refused, deadline).await?;
            let name = lease.node.node.clone();
            let away = match endpoint.cluster.take(group, &name, Work::Connection) {
                None => "it is not ready any more".to_owned(),
                Some(connection) => match self.open(connection).await {
                    Ok(node) => return Ok((node, lease)),
                    Err(Refusal::Said(said)) => return Err(Unreached::Said(said)),
                    Err(Refusal::Away(why)) => why,
                },
            };
            tracing::warn!(node = %name, why = away, "a node takes no native connection; trying elsewhere");
            metrics::RETRIES.inc();
            refused.push(name);
        }
    }

    async fn open(&self, lease: Lease) -> Result<NodeConnection, Refusal> {
        let hello = ClientHello { database: self.database.clone().into_bytes(), ..self.hello.clone() };
        let (mut node, server) = NodeConnection::open(lease, &hello).await?;
        node.finish(&server, &self.addendum).await?;
        let away = |error: std::io::Error| Refusal::Away(error.to_string());
        for change in &self.changes {
            node.to.write(change).await.map_err(away)?;
            node.to.flush().await.map_err(away)?;
            if !node.swallow().await? {
                return Err(Refusal::Away("it does not take a setting of this session".to_owned()));
            }
        }
        Ok(node)
    }
}

enum Unreached {
    Exception(Exception),
    Said(Bytes),
}

impl From<Exception> for Unreached {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

fn went_away(node: &str, may_repeat: bool) -> Exception {
    let remedy = if may_repeat {
        "It only reads: send it again."
    } else {
        "It may have been carried out or not: look before you send it again, or give inserts a deduplication token."
    };
    Exception::new(Code::NetworkError, format!("Node {node} went away while it had the statement. {remedy}"))
}
