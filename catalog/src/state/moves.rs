//! Commands that move a shard from one node of its group to another.

use std::collections::{BTreeSet, HashSet};

use crate::entry::Entry;
use crate::ids::{BlobId, GroupName, NodeName, PartPath, ShardId, TableShard};
use crate::packed::PackedPart;
use crate::parts::PartInfo;
use crate::records::{Assignment, Location, MoveIntent, PartChange, Relocation};
use crate::state::Shard;
use crate::state::command::{CatalogError, CompleteMove, Reply};
use crate::state::plan::{Plan, Planned};

impl<'a> Plan<'a> {
    pub fn begin_move(mut self, group: GroupName, shard: ShardId, to: NodeName) -> Planned<'a> {
        let not_now = |message| Err(CatalogError::NotNow(message));
        let assignment = self.assignment(&group, shard)?;
        let Some(target) = self.directory().nodes.get(&to) else { return Err(CatalogError::UnknownNode(to)) };
        if target.group != group {
            return not_now(format!("node {to} is of group {}, not {group}", target.group));
        }
        if target.draining {
            return not_now(format!("node {to} is draining and takes no shards"));
        }
        if assignment.node == to {
            return not_now(format!("shard {shard} of group {group} is on node {to} already"));
        }
        if let Some(intent) = &assignment.moving {
            return not_now(format!("shard {shard} of group {group} is just moving to node {}", intent.to));
        }
        let moving = Assignment { moving: Some(MoveIntent { to }), ..assignment.clone() };
        self.push(Entry::Assignment(group, shard, Some(moving)));
        self.done(Reply::MoveBegun { from: assignment.node.clone(), epoch: assignment.epoch })
    }

    pub fn cancel_move(mut self, group: GroupName, shard: ShardId) -> Planned<'a> {
        let assignment = self.assignment(&group, shard)?;
        if assignment.moving.is_none() {
            return self.unchanged();
        }
        self.push(Entry::Assignment(group, shard, Some(Assignment { moving: None, ..assignment.clone() })));
        self.done(Reply::Changed(true))
    }

    /// The one step in which a shard changes hands.
    pub fn complete_move(mut self, complete: CompleteMove) -> Planned<'a> {
        let CompleteMove { group, shard, epoch: began_at, blobs } = complete;
        let assignment = self.assignment(&group, shard)?;
        let moving = assignment.moving.as_ref().filter(|_| assignment.epoch == began_at);
        let Some(MoveIntent { to }) = moving else {
            return Err(CatalogError::NotNow(format!("the move of shard {shard} of group {group} was cancelled")));
        };
        let owned: BTreeSet<_> = self.directory().tables.values().filter(|t| t.owner == group).map(|t| t.id).collect();
        let catalog = self.catalog;
        // What is stored is not handed over, so lists without staged parts need not be here.
        let of_group = catalog.shards.iter().filter(|(at, _)| at.shard == shard && owned.contains(&at.table));
        let staged = of_group.filter(|(_, list)| list.parts.values().any(PackedPart::is_staged));
        let staged: Vec<(TableShard, &Shard)> = staged.map(|(at, list)| (*at, list)).collect();
        catalog.need_all(staged.iter().flat_map(|(at, _)| catalog.links.group(*at)))?;
        for (at, list) in staged {
            let change = hand_over(at, list, to, &blobs)?;
            self.change_shard(at, &change, None)?;
        }
        let epoch = assignment.epoch.next();
        let moved = Assignment { node: to.clone(), epoch, moving: None, group: group.clone(), shard };
        self.push(Entry::Assignment(group, shard, Some(moved)));
        self.shown(Reply::Moved { epoch })
    }

    fn assignment(&self, group: &GroupName, shard: ShardId) -> Result<&'a Assignment, CatalogError> {
        if !self.directory().groups.contains_key(group) {
            return Err(CatalogError::UnknownGroup(group.clone()));
        }
        let unassigned = || CatalogError::NotNow(format!("shard {shard} of group {group} is held by nobody"));
        self.directory().assignment(group, shard).ok_or_else(unassigned)
    }
}

/// Staged bytes are from now on those of the receiving node; covered parts with such bytes are not taken along. What is no part
/// (`detached/…`) may stay behind: peers still read it, and its node cannot be removed.
fn hand_over(
    at: TableShard,
    shard: &Shard,
    to: &NodeName,
    blobs: &HashSet<BlobId>,
) -> Result<PartChange, CatalogError> {
    let active: BTreeSet<&str> = shard.active().into_iter().collect();
    let is_part = |path: &PartPath| PartInfo::parse(path.as_str()).is_some();
    let mut change = PartChange::default();
    let mut moved = BTreeSet::new();
    for (path, part) in &shard.parts {
        let live = active.contains(path.as_str());
        if !part.is_staged() {
            continue;
        }
        if is_part(path) && !live {
            change.removed.push(path.clone());
            continue;
        }
        for file in &part.open(at, path).files {
            match &file.location {
                Location::Staged { node } if node != to => {
                    if blobs.contains(&file.blob) {
                        moved.insert(file.blob);
                    } else if live {
                        return Err(CatalogError::NotNow(format!(
                            "node {to} has no copy of {} of part {path}, whose only bytes are on node {node}",
                            file.path
                        )));
                    }
                }
                Location::Staged { .. } | Location::Stored { .. } => {}
            }
        }
    }
    let relocation = |blob| Relocation { blob, location: Location::Staged { node: to.clone() } };
    change.relocated = moved.into_iter().map(relocation).collect();
    Ok(change)
}
