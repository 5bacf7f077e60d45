//! What is true of every catalog, as named predicates.
//!
//! [`check_touched`] runs over what a command touched, in debug and release builds, before its writes leave the catalog;
//! [`check_all`] runs over a whole state.

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::Entry;
use crate::ids::{ObjectKey, PartPath, TableShard, Version};
use crate::parts::{self, PartInfo};
use crate::records::{Location, Manifest};
use crate::state::{Catalog, Shard};

/// A bug: the command would have broken this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {invariant} would be broken: {detail}")]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

type Check = Result<(), Violation>;

/// `before[i]` is what `after[i]` replaced, in the order of the changes.
pub fn check_touched(catalog: &Catalog, before: &[Entry], after: &[Entry]) -> Check {
    let mut shards: BTreeMap<TableShard, BTreeSet<String>> = BTreeMap::new();
    for (old, new) in before.iter().zip(after) {
        epoch_never_goes_back(old, new)?;
        revision_never_goes_back(old, new)?;
        match new {
            Entry::Part(at, path, part) => {
                let partitions = shards.entry(*at).or_default();
                partitions.extend(PartInfo::parse(path.as_str()).map(|part| part.partition));
                if let Some(part) = part {
                    let part = part.open(*at, path);
                    staged_on_known_node(catalog, *at, &part)?;
                    stored_is_not_doomed(catalog, *at, &part)?;
                }
                dropped_table_leaves_no_part(catalog, *at, path)?;
            }
            Entry::Version(at, _) => {
                version_never_goes_back(catalog, old, new)?;
                shards.entry(*at).or_default();
            }
            Entry::Layout(table, _, None) => {
                let known = catalog.directory().tables.contains_key(table);
                hold("layout_lives_as_long_as_its_table", !known, || format!("table {table}"))?;
            }
            Entry::Inode(at, ..) | Entry::Change(at, ..) => drop(shards.entry(*at).or_default()),
            Entry::Doomed(object, Some(_)) => doomed_is_not_referenced(catalog, object)?,
            Entry::Node(name, None) => removed_node_is_not_used(catalog, name)?,
            Entry::Assignment(group, shard, Some(a)) => {
                hold("assignment_names_its_own_place", a.group == *group && a.shard == *shard, || format!("{a:?}"))?;
                assigned_to_node_of_group(catalog, a)?;
            }
            _ => {}
        }
    }
    for (at, partitions) in shards {
        if let Some(shard) = catalog.live_shard(at) {
            changelog_has_no_gap(at, shard)?;
            for partition in partitions {
                active_parts_are_disjoint(at, shard.parts_of(&partition))?;
            }
        }
    }
    Ok(())
}

/// Every predicate that needs no earlier state, over everything.
pub fn check_all(catalog: &Catalog) -> Check {
    for assignment in catalog.directory().assignments.values() {
        assigned_to_node_of_group(catalog, assignment)?;
    }
    for (at, shard) in catalog.shards() {
        if catalog.live_shard(*at).is_some() {
            changelog_has_no_gap(*at, shard)?;
            active_parts_are_disjoint(*at, shard.parts.keys())?;
        }
        for part in shard.manifests(*at) {
            dropped_table_leaves_no_part(catalog, *at, &part.part)?;
            staged_on_known_node(catalog, *at, &part)?;
            stored_is_not_doomed(catalog, *at, &part)?;
        }
    }
    Ok(())
}

fn hold(invariant: &'static str, holds: bool, detail: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}

fn epoch_never_goes_back(before: &Entry, after: &Entry) -> Check {
    let (Entry::Assignment(_, _, Some(old)), Entry::Assignment(_, _, new)) = (before, after) else { return Ok(()) };
    let forward =
        new.as_ref().is_some_and(|new| new.epoch > old.epoch || (new.epoch == old.epoch && new.node == old.node));
    hold("epoch_never_goes_back", forward, || format!("{old:?} becomes {new:?}"))
}

fn revision_never_goes_back(before: &Entry, after: &Entry) -> Check {
    let (Entry::Revision(old), Entry::Revision(new)) = (before, after) else { return Ok(()) };
    hold("revision_never_goes_back", new > old, || format!("{old:?} becomes {new:?}"))
}

fn version_never_goes_back(catalog: &Catalog, before: &Entry, after: &Entry) -> Check {
    let (Entry::Version(at, old), Entry::Version(_, new)) = (before, after) else { return Ok(()) };
    let forward = new > old || !catalog.directory().tables.contains_key(&at.table);
    hold("version_never_goes_back", forward, || format!("{at}: {old:?} becomes {new:?}"))
}

/// The map's key makes the assignment of a (group, shard) the only one; this makes it a sensible one.
fn assigned_to_node_of_group(catalog: &Catalog, assignment: &crate::records::Assignment) -> Check {
    let nodes = &catalog.directory().nodes;
    let holder = nodes.get(&assignment.node);
    hold("assigned_to_node_of_group", holder.is_some_and(|node| node.group == assignment.group), || {
        format!("{assignment:?} is held by {holder:?}")
    })
}

fn removed_node_is_not_used(catalog: &Catalog, node: &crate::ids::NodeName) -> Check {
    let unused = catalog.directory().assignments_of(node).next().is_none() && catalog.staged_on(node).is_empty();
    hold("removed_node_is_not_used", unused, || format!("node {node} holds shards or staged bytes"))
}

fn changelog_has_no_gap(at: TableShard, shard: &Shard) -> Check {
    let newest = shard.changes.keys().next_back().copied().unwrap_or(Version(0));
    let oldest = shard.changes.keys().next().copied().unwrap_or(Version(1));
    let whole = newest == shard.version && newest.0 + 1 - oldest.0 == shard.changes.len() as u64;
    hold("changelog_has_no_gap", whole, || {
        format!(
            "{at} is at version {}, its changelog has {} entries from {oldest} to {newest}",
            shard.version,
            shard.changes.len()
        )
    })
}

/// Two active parts with common blocks would give rows twice. A part that covers a newer one wrongly shows here too.
fn active_parts_are_disjoint<'a>(at: TableShard, parts: impl Iterator<Item = &'a PartPath>) -> Check {
    let active = parts::active(parts.map(PartPath::as_str));
    let read: Vec<PartInfo> = active.iter().filter_map(|name| PartInfo::parse(name)).collect();
    // Sorted by partition and first block, so that only neighbours can be the first to overlap.
    let overlap = read.windows(2).position(|pair| pair[0].overlaps(&pair[1]));
    hold("active_parts_are_disjoint", overlap.is_none(), || {
        let i = overlap.unwrap_or(0);
        format!("{at}: {} and {} have common blocks", active[i], active[i + 1])
    })
}

/// Nobody asks any more where the bytes of a dropped table are.
fn staged_on_known_node(catalog: &Catalog, at: TableShard, part: &Manifest) -> Check {
    if !catalog.directory().tables.contains_key(&at.table) {
        return Ok(());
    }
    for file in &part.files {
        if let Location::Staged { node } = &file.location {
            hold("staged_on_known_node", catalog.directory().nodes.contains_key(node), || {
                format!("{at}: {} of part {} is staged on {node}", file.path, part.part)
            })?;
        }
    }
    Ok(())
}

fn stored_is_not_doomed(catalog: &Catalog, at: TableShard, part: &Manifest) -> Check {
    for file in &part.files {
        if let Location::Stored { object, .. } = &file.location {
            hold("stored_is_not_doomed", !catalog.doomed().contains_key(object), || {
                format!("{at}: part {} refers to {object}", part.part)
            })?;
        }
    }
    Ok(())
}

fn doomed_is_not_referenced(catalog: &Catalog, object: &ObjectKey) -> Check {
    hold("doomed_is_not_referenced", !catalog.is_referenced(object), || object.to_string())
}

fn dropped_table_leaves_no_part(catalog: &Catalog, at: TableShard, path: &PartPath) -> Check {
    let there = catalog.shards().get(&at).is_some_and(|shard| shard.parts.contains_key(path));
    let known = catalog.is_known(at.table);
    hold("dropped_table_leaves_no_part", known || !there, || format!("{at}: {path}"))
}
