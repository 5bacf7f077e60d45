//! Writing: inserts, merges, cleaning, uploads, truncation, one change of a table shard at a time.

use std::sync::Arc;
use std::time::Duration;

use moorhouse_catalog::{
    BlobId, Epoch, FileEntry, FilePath, Incarnation, Location, Manifest, ObjectKey, PartChange, PartPath, Relocation,
    ShardId, TableShard,
};
use uuid::Uuid;

use crate::agent::Agent;
use crate::controllers::Failure;
use crate::history::{Asked, Event, Holder, Parts, replay};
use crate::rows::Rows;

/// How often a commit without an answer is repeated.
const ATTEMPTS: u32 = 6;

/// What this process believes of a table shard that it holds.
#[derive(Debug, Default)]
pub struct Local {
    /// `None`: it must read it again.
    epoch: Option<Epoch>,
    parts: Parts,
    /// Block numbers are never used twice in one epoch.
    next_block: u64,
}

impl Agent {
    /// As long as the process lives.
    pub(super) async fn write(self: Arc<Self>) {
        loop {
            self.pause(Duration::from_millis(100)).await;
            if self.around.is_quiet() {
                continue;
            }
            let tables = self.tables(|table| table.owner == self.group);
            let shard = ShardId(self.chance().below(u64::from(self.shard_count())) as u16);
            let Some(table) = self.chance().pick(&tables).copied() else { continue };
            let at = TableShard { table, shard };
            let local = Arc::clone(
                self.locals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(at).or_default(),
            );
            let mut local = local.lock().await;
            let (Some(epoch), Some(incarnation)) = (self.epoch(shard), self.state().incarnation) else { continue };
            if local.epoch != Some(epoch) && !self.read_again(at, epoch, &mut local).await {
                continue;
            }
            let Some((change, truncates)) = self.choose(at, &mut local).await else { continue };
            let holder = Holder { node: self.name.clone(), epoch };
            let commit = self.around.observer.next_commit();
            let asked = Asked { commit, group: self.group.clone(), holder, at, change, truncates };
            self.commit(asked, incarnation, &mut local).await;
        }
    }

    async fn read_again(&self, at: TableShard, epoch: Epoch, local: &mut Local) -> bool {
        let Ok(snapshot) = self.controllers.snapshot(at).await else { return false };
        // The shard may have gone meanwhile: then the snapshot is of no use.
        if self.epoch(at.shard) != Some(epoch) {
            return false;
        }
        local.parts = snapshot.parts.into_iter().map(|part| (part.part.clone(), Arc::new(part))).collect();
        let last = local.parts.keys().map(|path| Rows::of(path).last).max().unwrap_or(0);
        local.next_block = local.next_block.max(last + 1);
        local.epoch = Some(epoch);
        true
    }

    async fn choose(&self, at: TableShard, local: &mut Local) -> Option<(PartChange, bool)> {
        let dice = self.chance().below(100);
        let change = match dice {
            0..60 => Some(self.insert(local)),
            60..75 => self.merge(local),
            75..83 => clean(local),
            83..98 => self.upload(at, local).await,
            _ => Some(PartChange { removed: local.parts.keys().cloned().collect(), ..PartChange::default() }),
        };
        change.map(|change| (change, dice >= 98))
    }

    fn insert(&self, local: &mut Local) -> PartChange {
        let block = local.next_block;
        local.next_block += 1;
        let part = self.part(&format!("all_{block}_{block}_0"), 1, Vec::new());
        PartChange { added: vec![part], ..PartChange::default() }
    }

    /// Two or three neighbours into one; sometimes a file of the first is linked, as by a mutation.
    fn merge(&self, local: &Local) -> Option<PartChange> {
        let mut active = Rows::active(local.parts.keys());
        active.sort_by_key(|rows| rows.first);
        let count = self.chance().between(2, 3) as usize;
        let from = self.chance().below((active.len() as u64 + 1).saturating_sub(count as u64)) as usize;
        let chosen = active.get(from..from + count)?;
        let (first, last) = (chosen.first()?, chosen.last()?);
        let level = chosen.iter().map(|rows| rows.level).max()? + 1;
        let source = local.parts.values().find(|part| Rows::of(&part.part) == *first)?;
        let linked = self.chance().permille(300).then(|| source.files.first().cloned()).flatten();
        let linked = linked.map(|file| FileEntry { path: file_path("linked.bin"), ..file });
        let name = format!("all_{}_{}_{level}", first.first, last.last);
        let part = self.part(&name, last.last - first.first + 1, linked.into_iter().collect());
        Some(PartChange { added: vec![part], ..PartChange::default() })
    }

    /// Puts the object, and then says where it is.
    async fn upload(&self, at: TableShard, local: &Local) -> Option<PartChange> {
        let staged = |part: &&Arc<Manifest>| part.files.iter().any(|file| self.is_staged_here(file));
        let part = local.parts.values().find(staged)?.clone();
        let object = ObjectKey::new(format!("objects/{at}/{}", self.fresh().0)).ok()?;
        let body = vec![bytes::Bytes::from_static(b"rows")];
        self.around.objects.put(object.as_str(), body).await.ok()?;
        let relocated = part.files.iter().filter(|file| self.is_staged_here(file)).map(|file| Relocation {
            blob: file.blob,
            location: Location::Stored { object: object.clone(), offset: 0, crc32c: 0 },
        });
        Some(PartChange { relocated: relocated.collect(), ..PartChange::default() })
    }

    fn is_staged_here(&self, file: &FileEntry) -> bool {
        matches!(&file.location, Location::Staged { node } if *node == self.name)
    }

    fn part(&self, name: &str, rows: u64, linked: Vec<FileEntry>) -> Manifest {
        let blob = self.fresh();
        self.around.disks.write(&self.name, blob);
        let own = FileEntry {
            path: file_path("data.bin"),
            blob,
            bytes: 4,
            location: Location::Staged { node: self.name.clone() },
        };
        let files = std::iter::once(own).chain(linked).collect();
        let part = PartPath::new(name).expect("digits and underscores");
        Manifest { part, rows, committed_ms: self.around.observer.now_ms(), files, copies: Vec::new() }
    }

    fn fresh(&self) -> BlobId {
        let mut chance = self.chance();
        BlobId(Uuid::from_u64_pair(chance.draw(), chance.draw()))
    }

    /// Repeats it until it knows the outcome, or gives up.
    async fn commit(&self, asked: Asked, incarnation: Incarnation, local: &mut Local) {
        let Asked { commit, at, change, holder, .. } = asked.clone();
        self.around.observer.saw(&Event::Asked(asked));
        for attempt in 0..ATTEMPTS {
            match self.controllers.commit(&self.name, incarnation, holder.epoch, at, &change, commit).await {
                Ok(version) => {
                    self.around.observer.saw(&Event::Acknowledged { commit, version });
                    replay(&mut local.parts, &change);
                    let uploaded = change.relocated.iter().map(|relocation| relocation.blob);
                    uploaded.for_each(|blob| self.around.disks.evict(&self.name, blob));
                    return;
                }
                Err(Failure::Refused(_)) if attempt == 0 => {
                    self.around.observer.saw(&Event::Refused { commit });
                    break;
                }
                // An attempt of before may have happened.
                Err(Failure::Refused(_)) => break,
                Err(Failure::Unknown(_)) => self.pause(Duration::from_millis(200)).await,
            }
        }
        local.epoch = None;
    }
}

fn clean(local: &Local) -> Option<PartChange> {
    let active = Rows::active(local.parts.keys());
    let covered = |path: &&PartPath| !active.contains(&Rows::of(path));
    let removed: Vec<PartPath> = local.parts.keys().filter(covered).cloned().collect();
    (!removed.is_empty()).then(|| PartChange { removed, ..PartChange::default() })
}

fn file_path(name: &str) -> FilePath {
    FilePath::new(name).expect("a file's name")
}
