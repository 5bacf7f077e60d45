//! One statement under way: packets of the client to the node, the answer to the client, both at once.

use tokio_util::sync::CancellationToken;

use super::client::{Broken, FromClient, Kept, ToClient, ToNode};
use super::head::Head;
use super::node::{Answered, NodeConnection};
use super::packet::kind;
use crate::cluster::Lease;

/// How a statement ended on its node.
#[derive(Debug)]
pub enum Ended {
    Answered(Answered),
    /// The client's bytes make no sense.
    Malformed(&'static str),
    /// The client's packets cannot be told apart any more.
    Opaque,
}

enum Up {
    /// The answer is complete and the client is between two packets.
    Quiet,
    /// The client goes on with its next question, so it has the answer.
    Next,
    Broken(Broken),
}

/// Passes everything until the answer is complete. What is sent to the node is noted in `kept`.
pub async fn relay(
    from: &mut FromClient,
    to: &mut ToClient,
    node: &mut NodeConnection,
    kept: &mut Kept,
    lease: Lease,
    mut head: Head,
) -> Ended {
    match both_ways(from, to, node, kept, lease, &mut head).await {
        Ended::Answered(Answered::Whole { failed }) => {
            Ended::Answered(Answered::Whole { failed: failed || node.from.failed() })
        }
        other => other,
    }
}

async fn both_ways(
    from: &mut FromClient,
    to: &mut ToClient,
    node: &mut NodeConnection,
    kept: &mut Kept,
    lease: Lease,
    head: &mut Head,
) -> Ended {
    let over = CancellationToken::new();
    let mut lease = Some(lease);
    let sees_end = node.shows_ends();
    let mut up = std::pin::pin!(upward(from, &mut node.to, kept, &over));
    let mut down = std::pin::pin!(node.from.pass(to, &mut lease, head));
    let (sent_up, answered) = tokio::select! {
        answered = &mut down => (None, Some(answered)),
        sent_up = &mut up => (Some(sent_up), None),
    };
    match (sent_up, answered) {
        (_, Some(whole @ Answered::Whole { .. })) => {
            over.cancel();
            match up.await {
                Up::Quiet | Up::Next => Ended::Answered(whole),
                Up::Broken(Broken::Node(error)) => node_gone(&error, true),
                Up::Broken(broken) => ended(broken),
            }
        }
        (_, Some(answered)) => Ended::Answered(answered),
        // Nothing is on its way any more: the client would not ask otherwise.
        (Some(Up::Next | Up::Quiet), None) if !sees_end => Ended::Answered(Answered::Whole { failed: false }),
        (Some(Up::Broken(broken)), None) if !matches!(broken, Broken::Node(_)) => ended(broken),
        // The node's last words, or the rest of its answer.
        (_, None) => Ended::Answered(down.await),
    }
}

/// After the client may have had part of the answer.
fn node_gone(error: &std::io::Error, between: bool) -> Ended {
    Ended::Answered(Answered::NodeGone { sent: true, between, why: error.to_string() })
}

fn ended(broken: Broken) -> Ended {
    match broken {
        Broken::Client => Ended::Answered(Answered::ClientGone),
        Broken::Node(error) => node_gone(&error, false),
        Broken::Malformed(what) => Ended::Malformed(what),
        Broken::Opaque => Ended::Opaque,
    }
}

async fn upward(from: &mut FromClient, node: &mut ToNode, kept: &mut Kept, over: &CancellationToken) -> Up {
    loop {
        if !from.has_kind()
            && let Err(error) = node.flush().await
        {
            return Up::Broken(Broken::Node(error));
        }
        let next = tokio::select! {
            biased;
            next = from.next_kind() => next,
            () = over.cancelled() => return Up::Quiet,
        };
        match next {
            Err(_) | Ok(None) => return Up::Broken(Broken::Client),
            Ok(Some(kind::QUERY | kind::PING | kind::TABLES_STATUS)) => return Up::Next,
            Ok(Some(_)) => {
                if let Err(broken) = from.pass(Some(node), kept).await {
                    return Up::Broken(broken);
                }
            }
        }
    }
}
