//! The staged files, and the copies that are kept of them: each node says which of them it has whole.

use std::collections::{BTreeMap, HashMap};

use futures::StreamExt;
use moorhouse_catalog::{Location, NodeName};
use moorhouse_proto::CheckStagedRequest;

use super::{Fsck, Reference, Report, finding};
use crate::agents::within;
use crate::limits;
use crate::sweeper::orphans::WalkError;

/// Blobs that a node was asked for and has whole, with their checksums where those were asked for.
type Whole = HashMap<Vec<u8>, Option<u32>>;

/// What each node said, or why it said nothing.
type Answers = BTreeMap<NodeName, Result<Whole, String>>;

impl Reference {
    /// Where its bytes are staged; `None` for a stored file.
    fn home(&self) -> Option<&NodeName> {
        match &self.file().location {
            Location::Staged { node } => Some(node),
            Location::Stored { .. } => None,
        }
    }

    /// The nodes that keep a copy of it.
    fn keepers(&self) -> impl Iterator<Item = &NodeName> {
        self.part.copies.iter().filter(|node| Some(*node) != self.home())
    }

    fn id(&self) -> Vec<u8> {
        self.file().blob.to_wire()
    }
}

impl Fsck {
    /// Every staged file is whole on its node and on those that keep a copy; with `deep`, they have the same content. A node
    /// that does not answer leaves unproven what no other node has.
    pub(super) async fn check_staged(
        &self,
        staged: Vec<Reference>,
        deep: bool,
        report: &mut Report,
    ) -> Result<(), WalkError> {
        let mut wanted: BTreeMap<NodeName, Vec<Reference>> = BTreeMap::new();
        for reference in &staged {
            for node in reference.home().into_iter().chain(reference.keepers()) {
                wanted.entry(node.clone()).or_default().push(reference.clone());
            }
        }
        let asked = futures::stream::iter(wanted).map(|(node, references)| async move {
            let answer = self.ask(&node, &references, deep).await;
            (node, answer)
        });
        let answers: Answers = asked.buffer_unordered(limits::FSCK_PARALLEL).collect().await;
        tell_silent(&staged, &answers, report).await;
        for reference in &staged {
            // Stored, moved or merged away since: then there is nothing to tell.
            let found = judge(reference, &answers);
            if !found.is_empty() && self.still_refers(reference).await? {
                for (kind, detail) in found {
                    report.find(finding(kind, &reference.subject(), detail, "", false)).await;
                }
            }
        }
        Ok(())
    }

    async fn ask(&self, node: &NodeName, references: &[Reference], deep: bool) -> Result<Whole, String> {
        let shown = self.owner.shown();
        let record = shown.directory.nodes.get(node).ok_or("it is not on the books")?;
        let mut agent = self.agents.of(record).map_err(|status| status.message().to_owned())?;
        let mut whole = Whole::new();
        for batch in references.chunks(if deep { limits::FSCK_DEEP_BLOBS } else { limits::FSCK_BLOBS }) {
            let request = CheckStagedRequest {
                blobs: batch.iter().map(|reference| reference.id().into()).collect(),
                bytes: batch.iter().map(|reference| reference.file().bytes).collect(),
                with_checksums: deep,
            };
            let reply = agent.check_staged(within(request, limits::FSCK_AGENT_TIMEOUT)).await;
            let reply = reply.map_err(|status| status.message().to_owned())?.into_inner();
            let mut sums = reply.crc32c.into_iter();
            whole.extend(batch.iter().map(|reference| (reference.id(), sums.next().filter(|_| deep))));
            for missing in reply.missing {
                whole.remove(missing.as_ref());
            }
        }
        Ok(whole)
    }
}

/// Nodes without an answer, and how much of what they should have no other node has.
async fn tell_silent(staged: &[Reference], answers: &Answers, report: &mut Report) {
    for (node, why) in answers.iter().filter_map(|(node, answer)| Some((node, answer.as_ref().err()?))) {
        let own: Vec<&Reference> = staged.iter().filter(|reference| reference.home() == Some(node)).collect();
        let alone = own.iter().filter(|reference| !reference.keepers().any(|keeper| has(answers, keeper, reference)));
        let (files, alone) = (own.len(), alone.count());
        let detail =
            format!("{files} files are staged there, {alone} of them only there, and it does not answer: {why}");
        report.find(finding("unproven", &format!("node {node}"), detail, "", false)).await;
    }
}

fn has(answers: &Answers, node: &NodeName, reference: &Reference) -> bool {
    matches!(answers.get(node), Some(Ok(whole)) if whole.contains_key(&reference.id()))
}

/// What is wrong with one file, by what its home and its keepers have answered.
fn judge(reference: &Reference, answers: &Answers) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let Some(home) = reference.home() else { return found };
    let of = |node: &NodeName| match answers.get(node) {
        Some(Ok(whole)) => Some(whole.get(&reference.id()).copied()),
        Some(Err(_)) | None => None,
    };
    let at_home = of(home);
    if at_home == Some(None) {
        let keeper = reference.keepers().find(|keeper| has(answers, keeper, reference));
        found.push(match keeper {
            Some(keeper) => {
                let remedy = format!("node {keeper} has a copy, which {home} takes back when it is started again");
                ("lost", format!("node {home} does not have its bytes whole; {remedy}"))
            }
            None => ("lost", format!("node {home}, which alone had its bytes, does not have them whole")),
        });
    }
    for keeper in reference.keepers() {
        match (of(keeper), at_home) {
            (Some(None), _) => {
                found.push(("copy", format!("node {keeper}, which keeps a copy for {home}, does not have it whole")));
            }
            (Some(Some(Some(copy))), Some(Some(Some(own)))) if copy != own => {
                let sums = format!("its bytes have the CRC-32C {own:08x} on node {home}");
                found.push(("damaged", format!("{sums} and {copy:08x} in the copy on {keeper}")));
            }
            _ => {}
        }
    }
    found
}
