//! Copies of staged files on other nodes, for tables whose durability is `replicated`.
//!
//! The writer asks another node to keep a part's staged files; that one copies, syncs and answers; only then the part is
//! committed, with the keeper's name in its manifest. A keeper lets go of what the catalog no longer names; what the
//! catalog never came to name (the commit failed, or the writer died) it lets go of after a while. A writer that comes
//! back without its volume takes its files from the keepers.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use moorhouse_catalog::{BlobId, FileEntry, Location, NodeName, TableShard};
use moorhouse_proto::{CheckStagedReply, KeepCopiesReply, KeepCopiesRequest};

use crate::adopt::Adopted;
use crate::blobs::{BlobSource, key};
use crate::controller::{ControllerClient, StagedHere};
use crate::fs::error::FsError;
use crate::fs::io::RemoteBlob;
use crate::limits;
use crate::metrics;

/// What this node keeps for others.
#[derive(Debug, Default)]
pub struct Copies {
    kept: Mutex<HashMap<BlobId, Kept>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Asked for at this time; the catalog has not named it yet.
    Asked(Instant),
    Named,
}

impl Copies {
    /// At the start: what the catalog says is kept here.
    pub fn resume(&self, staged: &StagedHere) {
        self.kept.lock().expect("lock").extend(staged.copies.iter().map(|blob| (*blob, Kept::Named)));
    }

    pub fn has(&self, blob: BlobId) -> bool {
        self.kept.lock().expect("lock").contains_key(&blob)
    }

    /// Copies and keeps, for the node that asks. What could not be had is not in the answer.
    pub async fn keep(&self, source: &BlobSource, wanted: Vec<RemoteBlob>) -> Result<HashSet<BlobId>, FsError> {
        let durable: HashSet<BlobId> = {
            let mut kept = self.kept.lock().expect("lock");
            let durable = wanted.iter().map(|b| b.blob).filter(|b| kept.contains_key(b)).collect();
            for blob in &wanted {
                kept.entry(blob.blob).or_insert(Kept::Asked(Instant::now()));
            }
            durable
        };
        let Adopted { kept, copied_bytes } = source.adopt(wanted, &durable).await?;
        metrics::COPIES_KEPT_BYTES.inc_by(copied_bytes);
        Ok(kept)
    }

    /// Lets go of what nobody needs, for ever.
    pub async fn tend(self: Arc<Self>, controller: ControllerClient, source: BlobSource) {
        let mut ticks = tokio::time::interval(limits::COPIES_LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.kept.lock().expect("lock").is_empty() {
                continue;
            }
            match controller.staged().await {
                Ok(staged) => self.let_go(&staged, &source),
                Err(status) => tracing::info!(error = status.message(), "copies for others stay for now"),
            }
        }
    }

    fn let_go(&self, staged: &StagedHere, source: &BlobSource) {
        let named: HashSet<BlobId> = staged.copies.iter().copied().collect();
        let own: HashSet<BlobId> = staged.own.iter().copied().collect();
        let mut kept = self.kept.lock().expect("lock");
        kept.retain(|blob, state| {
            match *state {
                _ if named.contains(blob) => *state = Kept::Named,
                Kept::Asked(since) if since.elapsed() < limits::COPY_UNNAMED => {}
                Kept::Asked(_) | Kept::Named => {
                    // A shard may have moved here since: then the bytes are this node's own.
                    if !own.contains(blob)
                        && let Err(error) = source.cache().remove(key(*blob))
                    {
                        tracing::warn!(%blob, %error, "a copy that is no longer needed stays until the next start");
                    }
                    return false;
                }
            }
            true
        });
        metrics::COPIES_KEPT.set(kept.len() as i64);
    }
}

/// Has another node keep these staged files; answers with the nodes that do. Tries several, one after another.
pub async fn replicate(
    source: &BlobSource,
    from: &NodeName,
    keepers: &[NodeName],
    ts: TableShard,
    files: &[FileEntry],
) -> Result<Vec<NodeName>, FsError> {
    let staged: Vec<&FileEntry> =
        files.iter().filter(|file| matches!(&file.location, Location::Staged { node } if node == from)).collect();
    if staged.is_empty() {
        return Ok(Vec::new());
    }
    let mut refusals = Vec::new();
    for keeper in keepers.iter().take(limits::KEEPERS_ASKED) {
        match ask(source, from, keeper, &staged).await {
            Ok(()) => return Ok(vec![keeper.clone()]),
            Err(error) => {
                tracing::warn!(%ts, %keeper, %error, "a node does not keep copies: asking the next");
                refusals.push(format!("{keeper}: {error}"));
            }
        }
    }
    let tried = if refusals.is_empty() { "there is no other node".to_owned() } else { refusals.join("; ") };
    Err(FsError::Unavailable(format!("this table is kept on two nodes, and no other node has taken a copy ({tried})")))
}

async fn ask(source: &BlobSource, from: &NodeName, keeper: &NodeName, staged: &[&FileEntry]) -> Result<(), FsError> {
    let request = KeepCopiesRequest {
        node: from.to_string(),
        blobs: staged.iter().map(|file| file.blob.to_wire().into()).collect(),
        bytes: staged.iter().map(|file| file.bytes).collect(),
    };
    let mut request = tonic::Request::new(request);
    request.set_timeout(limits::KEEP_LONGEST);
    let answered = source.peer(keeper)?.keep_copies(request).await;
    let KeepCopiesReply { kept } =
        answered.map_err(|status| FsError::Unavailable(status.message().to_owned()))?.into_inner();
    let kept: HashSet<Vec<u8>> = kept.into_iter().map(Vec::from).collect();
    match staged.iter().filter(|file| !kept.contains(&file.blob.to_wire())).count() {
        0 => Ok(()),
        missing => Err(FsError::Unavailable(format!("{missing} of {} files did not arrive", staged.len()))),
    }
}

/// Which of these blobs, each with its length, are not whole here; their checksums too, if asked for. Blocks for as long as the
/// disk needs.
pub fn check(
    source: &BlobSource,
    asked: Vec<(bytes::Bytes, u64)>,
    with_checksums: bool,
) -> Result<CheckStagedReply, FsError> {
    let mut reply = CheckStagedReply::default();
    for (blob, bytes) in asked {
        let id = BlobId::from_wire(&blob).map_err(|error| FsError::Refused(error.to_string()))?;
        let mut crc32c = 0;
        match source.open_local(id)? {
            Some(file) if file.metadata()?.len() == bytes => {
                if with_checksums {
                    crc32c = checksum(file)?;
                }
            }
            _ => reply.missing.push(blob),
        }
        reply.crc32c.extend(with_checksums.then_some(crc32c));
    }
    Ok(reply)
}

fn checksum(mut file: File) -> std::io::Result<u32> {
    let mut buffer = vec![0; limits::BLOB_CHUNK_BYTES];
    let mut crc32c = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crc32c),
            read => crc32c = crc32c::crc32c_append(crc32c, &buffer[..read]),
        }
    }
}

/// Takes back what this node has lost and others keep; answers with what is still lost.
pub async fn take_back(
    source: &BlobSource,
    lost: HashSet<BlobId>,
    staged: &StagedHere,
) -> Result<HashSet<BlobId>, FsError> {
    let mut lost = lost;
    let mut tried: HashSet<NodeName> = HashSet::new();
    // A blob may have several keepers, and one of them may be away: keeper by keeper.
    while let Some(keeper) = staged
        .copied
        .iter()
        .find_map(|(blob, node)| (lost.contains(&blob.blob) && !tried.contains(node)).then(|| node.clone()))
    {
        let wanted = staged.copied.iter().filter(|(blob, node)| *node == keeper && lost.contains(&blob.blob));
        let wanted: Vec<RemoteBlob> = wanted.map(|(blob, _)| blob.clone()).collect();
        let asked = wanted.len();
        let Adopted { kept, copied_bytes } = source.adopt(wanted, &HashSet::new()).await?;
        tracing::warn!(%keeper, asked, taken = kept.len(), copied_bytes, "staged files were missing here: taken back from a copy");
        lost.retain(|blob| !kept.contains(blob));
        tried.insert(keeper);
    }
    Ok(lost)
}
