//! What is true of every catalog, as named predicates.
//!
//! [`check_touched`] runs over what a command touched, in debug and release builds, before its writes leave the catalog;
//! [`check_all`] runs over a whole state.

use std::collections::{BTreeMap, BTreeSet};

use crate::ddl::DdlStep;
use crate::entry::Entry;
use crate::ids::{ObjectKey, PartPath, TableShard, Version};
use crate::links::ObjectLink;
use crate::minted;
use crate::parts::{self, PartInfo};
use crate::records::{Location, Manifest};
use crate::state::{Catalog, Shard};
use crate::trust::{AuditOutcome, TokenState};

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
        token_is_used_once(old, new)?;
        audit_outcome_is_final(old, new)?;
        ddl_task_goes_forward(old, new)?;
        match new {
            Entry::Part(at, path, part) => {
                let partitions = shards.entry(*at).or_default();
                partitions.extend(PartInfo::parse(path.as_str()).map(|part| part.partition));
                if let Some(part) = part {
                    let part = part.open(*at, path);
                    staged_on_known_node(catalog, *at, &part)?;
                    stored_is_not_doomed(catalog, *at, &part)?;
                    foreign_object_is_linked(catalog, *at, &part)?;
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
            Entry::Link(link, false) => unused_link_goes(catalog, *link)?,
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
        changed_list_is_loaded(catalog, at)?;
        if let Some(shard) = catalog.live_shard(at) {
            changelog_has_no_gap(at, shard)?;
            for partition in partitions {
                active_parts_are_disjoint(at, shard.parts_of(&partition))?;
            }
        }
    }
    Ok(())
}

/// Every predicate that needs no earlier state, over everything: the first that does not hold.
pub fn check_all(catalog: &Catalog) -> Check {
    violations(catalog).into_iter().next().map_or(Ok(()), Err)
}

/// Every place where the whole state breaks a predicate; at most [`VIOLATIONS`].
pub fn violations(catalog: &Catalog) -> Vec<Violation> {
    let directory = catalog.directory();
    let assignments = directory.assignments.values().map(|assignment| assigned_to_node_of_group(catalog, assignment));
    let nodes = directory
        .nodes
        .values()
        .map(|node| hold("node_is_of_a_group", directory.groups.contains_key(&node.group), || format!("{node:?}")));
    let tables = directory.tables.values().map(|table| table_has_its_place(directory, table));
    let shards = catalog.shards().iter().flat_map(|(at, shard)| shard_violations(catalog, *at, shard));
    let doomed = catalog.doomed().keys().map(|object| doomed_is_not_referenced(catalog, object));
    let checks = assignments.chain(nodes).chain(tables).chain(doomed).filter_map(Result::err);
    checks.chain(shards).take(VIOLATIONS).collect()
}

/// A broken store breaks one predicate in very many places.
const VIOLATIONS: usize = 1_000;

fn shard_violations(catalog: &Catalog, at: TableShard, shard: &Shard) -> Vec<Violation> {
    let mut checks = Vec::new();
    let shards = catalog.directory().warehouse.as_ref().map(|warehouse| warehouse.shards);
    checks.push(hold("shard_is_of_the_warehouse", shards.is_some_and(|s| s.contains(at.shard)), || at.to_string()));
    if catalog.live_shard(at).is_some() {
        checks.push(changelog_has_no_gap(at, shard));
        checks.push(active_parts_are_disjoint(at, shard.parts.keys()));
    } else {
        checks.push(hold("dropped_table_leaves_nothing", catalog.is_known(at.table), || at.to_string()));
    }
    for part in shard.manifests(at) {
        checks.push(dropped_table_leaves_no_part(catalog, at, &part.part));
        checks.push(staged_on_known_node(catalog, at, &part));
        checks.push(foreign_object_is_linked(catalog, at, &part));
        checks.push(stored_is_not_doomed(catalog, at, &part));
    }
    checks.into_iter().filter_map(Result::err).collect()
}

/// In a database, of a group, and the only one of its names.
fn table_has_its_place(directory: &crate::directory::Directory, table: &crate::records::Table) -> Check {
    let placed = directory.databases.contains_key(&table.database) && directory.groups.contains_key(&table.owner);
    let same = |other: &&crate::records::Table| {
        other.physical == table.physical || (other.database == table.database && other.name == table.name)
    };
    let alone = directory.tables.values().filter(same).count() == 1;
    hold("table_has_its_place", placed && alone, || format!("{} ({}.{})", table.id, table.database, table.name))
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

fn token_is_used_once(before: &Entry, after: &Entry) -> Check {
    let (Entry::Token(_, Some(old)), Entry::Token(_, Some(new))) = (before, after) else { return Ok(()) };
    let forward = match (&old.state, &new.state) {
        (TokenState::Open, _) | (_, TokenState::Revoked) => true,
        (TokenState::Used { .. }, state) => *state == old.state,
        (TokenState::Revoked, _) => false,
    };
    hold("token_is_used_once", forward, || format!("{old:?} becomes {new:?}"))
}

fn ddl_task_goes_forward(before: &Entry, after: &Entry) -> Check {
    let (Entry::Ddl(_, Some(old)), Entry::Ddl(_, Some(new))) = (before, after) else { return Ok(()) };
    let same = (&old.statement, old.token) == (&new.statement, new.token);
    let forward = old.is_running() && (old.step == new.step || old.step == DdlStep::Queued);
    hold("ddl_task_goes_forward", same && forward, || format!("{old:?} becomes {new:?}"))
}

fn audit_outcome_is_final(before: &Entry, after: &Entry) -> Check {
    let (Entry::Audit(_, Some(old)), Entry::Audit(_, Some(new))) = (before, after) else { return Ok(()) };
    let same = old.deed == new.deed && old.at_ms == new.at_ms && old.outcome == AuditOutcome::Running;
    hold("audit_outcome_is_final", same, || format!("{old:?} becomes {new:?}"))
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
    let active = parts::active_parts(parts.map(PartPath::as_str));
    // Sorted by partition and first block, so that only neighbours can be the first to overlap.
    let overlap = active.windows(2).position(|pair| pair[0].0.overlaps(&pair[1].0));
    hold("active_parts_are_disjoint", overlap.is_none(), || {
        let i = overlap.unwrap_or(0);
        format!("{at}: {} and {} have common blocks", active[i].1, active[i + 1].1)
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

/// A list that is left in the store is what it was when its version was read.
fn changed_list_is_loaded(catalog: &Catalog, at: TableShard) -> Check {
    let loaded = catalog.shards().get(&at).is_none_or(Shard::is_loaded);
    hold("changed_list_is_loaded", loaded, || at.to_string())
}

/// Else the object could be deleted while this list is not in memory.
fn foreign_object_is_linked(catalog: &Catalog, at: TableShard, part: &Manifest) -> Check {
    for file in &part.files {
        if let Location::Stored { object, .. } = &file.location {
            let home = minted::home(object);
            let linked = home == Some(at) || catalog.links().has(&ObjectLink { home, user: at });
            hold("foreign_object_is_linked", linked, || format!("{at}: part {} refers to {object}", part.part))?;
        }
    }
    Ok(())
}

fn unused_link_goes(catalog: &Catalog, link: ObjectLink) -> Check {
    let parts = catalog.shards().get(&link.user).map_or(0, |shard| shard.parts.len());
    hold("unused_link_goes", parts == 0, || format!("{link:?} goes before {parts} parts"))
}

fn doomed_is_not_referenced(catalog: &Catalog, object: &ObjectKey) -> Check {
    hold("doomed_is_not_referenced", !catalog.is_referenced(object), || object.to_string())
}

fn dropped_table_leaves_no_part(catalog: &Catalog, at: TableShard, path: &PartPath) -> Check {
    let there = catalog.shards().get(&at).is_some_and(|shard| shard.parts.contains_key(path));
    let known = catalog.is_known(at.table);
    hold("dropped_table_leaves_no_part", known || !there, || format!("{at}: {path}"))
}
