//! The staged files: each node says which of its own it does not have.

use std::collections::{BTreeMap, HashSet};

use futures::StreamExt;
use moorhouse_catalog::{Location, NodeName};
use moorhouse_proto::CheckStagedRequest;

use super::{Fsck, Reference, Report, finding};
use crate::agents::within;
use crate::limits;
use crate::sweeper::orphans::WalkError;

/// What a node said, or why it said nothing.
type Answer = Result<HashSet<Vec<u8>>, String>;

impl Fsck {
    /// Every staged file is whole on its node. A node that does not answer leaves its files unproven.
    pub(super) async fn check_staged(&self, staged: Vec<Reference>, report: &mut Report) -> Result<(), WalkError> {
        let mut by_node: BTreeMap<NodeName, Vec<Reference>> = BTreeMap::new();
        for reference in staged {
            if let Location::Staged { node } = &reference.file().location {
                by_node.entry(node.clone()).or_default().push(reference);
            }
        }
        let asked = futures::stream::iter(by_node).map(|(node, references)| async move {
            let answer = self.ask(&node, &references).await;
            (node, references, answer)
        });
        let answered: Vec<_> = asked.buffer_unordered(limits::FSCK_PARALLEL).collect().await;
        for (node, references, answer) in answered {
            match answer {
                Ok(missing) => self.tell_missing(&node, references, &missing, report).await?,
                Err(why) => {
                    let detail =
                        format!("{} staged files are only there, and it does not answer: {why}", references.len());
                    report.find(finding("unproven", &format!("node {node}"), detail, "", false)).await;
                }
            }
        }
        Ok(())
    }

    async fn ask(&self, node: &NodeName, references: &[Reference]) -> Answer {
        let shown = self.owner.shown();
        let record = shown.directory.nodes.get(node).ok_or("it is not on the books")?;
        let mut agent = self.agents.of(record).map_err(|status| status.message().to_owned())?;
        let mut missing = HashSet::new();
        for batch in references.chunks(limits::FSCK_BLOBS) {
            let request = CheckStagedRequest {
                blobs: batch.iter().map(|reference| reference.file().blob.to_wire().into()).collect(),
                bytes: batch.iter().map(|reference| reference.file().bytes).collect(),
            };
            let reply = agent.check_staged(within(request, limits::FSCK_AGENT_TIMEOUT)).await;
            let reply = reply.map_err(|status| status.message().to_owned())?.into_inner();
            missing.extend(reply.missing.into_iter().map(Vec::from));
        }
        Ok(missing)
    }

    async fn tell_missing(
        &self,
        node: &NodeName,
        references: Vec<Reference>,
        missing: &HashSet<Vec<u8>>,
        report: &mut Report,
    ) -> Result<(), WalkError> {
        for reference in references {
            // Stored, moved or merged away since.
            if !missing.contains(&reference.file().blob.to_wire()) || !self.still_refers(&reference).await? {
                continue;
            }
            let detail = format!("node {node}, which alone had its bytes, does not have them whole");
            report.find(finding("lost", &reference.subject(), detail, "", false)).await;
        }
        Ok(())
    }
}
