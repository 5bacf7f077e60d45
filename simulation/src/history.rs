//! What happened, and whether it may have happened: a checker that knows the rules and none of the code that keeps them.
//!
//! Fed with events in their true order, it answers with the first rule that was broken. Nothing here is of the simulation:
//! the same events can be taken from real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moorhouse_catalog::{
    BlobId, DdlOutcome, DdlSeq, DdlTask, Epoch, GroupName, Location, Manifest, NodeName, ObjectKey, PartChange,
    PartPath, ShardId, TableId, TableShard, Version,
};

use crate::rows::Rows;

/// The parts of a table shard.
pub type Parts = BTreeMap<PartPath, Arc<Manifest>>;

/// Who had a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub node: NodeName,
    pub epoch: Epoch,
}

/// What a changelog entry says that it touched.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub removed: Vec<PartPath>,
    pub added: Vec<PartPath>,
    pub relocated: Vec<PartPath>,
}

/// One transaction of the store, as far as the rules look at it.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// The term of the leader that made it.
    pub term: u64,
    pub assigned: Vec<(GroupName, ShardId, Holder)>,
    /// Changelog entries, in order.
    pub changed: Vec<(TableShard, Version, Names)>,
    /// Manifests as they are now; `None`: gone.
    pub parts: Vec<(TableShard, PartPath, Option<Arc<Manifest>>)>,
    pub dropped: Vec<TableId>,
    pub ddl: Vec<DdlTask>,
}

/// A writer's attempt, which it may repeat until it knows what became of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Of this attempt alone.
    pub commit: u64,
    pub group: GroupName,
    pub holder: Holder,
    pub at: TableShard,
    pub change: PartChange,
    /// The rows of the removed parts are to go too; otherwise only parts that others cover may be removed.
    pub truncates: bool,
}

#[derive(Debug, Clone)]
pub enum Event {
    /// The store gave the leadership to somebody.
    Led {
        term: u64,
    },
    Wrote(Transaction),
    Asked(Asked),
    Acknowledged {
        commit: u64,
        version: Version,
    },
    /// For certain: it has not happened and never will.
    Refused {
        commit: u64,
    },
    /// A user was told how a statement ended.
    Told {
        seq: DdlSeq,
        result: Result<(), String>,
    },
    /// What a reader has, whole.
    Shown {
        reader: NodeName,
        at: TableShard,
        version: Version,
        parts: Parts,
    },
    /// A reader wanted an object that the table shard, as it knew it at `as_of_ms`, refers to.
    Read {
        reader: NodeName,
        object: ObjectKey,
        found: bool,
        as_of_ms: u64,
    },
}

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Violation {
    pub rule: &'static str,
    pub detail: String,
}

type Check = Result<(), Violation>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Acknowledged,
    Refused,
}

#[derive(Debug)]
struct Attempt {
    asked: Asked,
    fate: Fate,
}

/// A table shard.
#[derive(Debug)]
struct Truth {
    version: Version,
    /// By the changelog.
    names: BTreeSet<PartPath>,
    /// By the manifests.
    parts: Parts,
    /// Of every version: what a reader may have.
    past: BTreeMap<Version, Past>,
    /// Blobs that were taken away with their part.
    gone: BTreeSet<BlobId>,
}

#[derive(Debug, Default)]
struct Past {
    names: BTreeSet<PartPath>,
    /// `None` in the middle of a transaction: the manifests of then were never stored.
    parts: Option<Parts>,
}

impl Default for Truth {
    fn default() -> Self {
        let first = Past { names: BTreeSet::new(), parts: Some(Parts::new()) };
        Self {
            version: Version(0),
            names: BTreeSet::new(),
            parts: Parts::new(),
            past: BTreeMap::from([(Version(0), first)]),
            gone: BTreeSet::new(),
        }
    }
}

/// The rules, and what they must remember.
#[derive(Debug)]
pub struct Checker {
    /// An object outlives its last reference by this.
    grace_ms: u64,
    term: u64,
    holders: BTreeMap<(GroupName, ShardId), Holder>,
    /// Before the transaction that is looked at: its commands may be of before and of after.
    holders_before: BTreeMap<(GroupName, ShardId), Holder>,
    shards: BTreeMap<TableShard, Truth>,
    attempts: BTreeMap<u64, Attempt>,
    /// Which attempt brought a blob.
    brought: BTreeMap<BlobId, u64>,
    /// Parts that writers asked to remove with their rows.
    let_go: BTreeSet<(TableShard, PartPath)>,
    dropped: BTreeSet<TableId>,
    ddl: BTreeMap<DdlSeq, DdlTask>,
    /// What each reader has shown last.
    seen: BTreeMap<(NodeName, TableShard), Version>,
}

fn hold(rule: &'static str, holds: bool, detail: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Violation { rule, detail: detail() }) }
}

impl Checker {
    pub fn new(grace_ms: u64) -> Self {
        Self {
            grace_ms,
            term: 0,
            holders: BTreeMap::new(),
            holders_before: BTreeMap::new(),
            shards: BTreeMap::new(),
            attempts: BTreeMap::new(),
            brought: BTreeMap::new(),
            let_go: BTreeSet::new(),
            dropped: BTreeSet::new(),
            ddl: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// The next event. After a violation the checker is of no more use.
    pub fn observe(&mut self, now_ms: u64, event: &Event) -> Check {
        match event {
            Event::Led { term } => {
                hold("terms_grow", *term > self.term, || format!("{term} after {}", self.term))?;
                self.term = *term;
                Ok(())
            }
            Event::Wrote(transaction) => self.wrote(transaction),
            Event::Asked(asked) => {
                self.asked(asked);
                Ok(())
            }
            Event::Acknowledged { commit, version } => self.acknowledged(*commit, *version),
            Event::Refused { commit } => self.refused(*commit),
            Event::Told { seq, result } => self.told(*seq, result),
            Event::Shown { reader, at, version, parts } => self.shown(reader, *at, *version, parts),
            Event::Read { reader, object, found, as_of_ms } => {
                let age_ms = now_ms.saturating_sub(*as_of_ms);
                hold("objects_outlive_their_readers", *found || age_ms >= self.grace_ms, || {
                    format!("{reader} was up to date {age_ms} ms ago, and {object} is deleted")
                })
            }
        }
    }

    /// What must be true once everything has come to rest.
    pub fn finish(&self) -> Check {
        for task in self.ddl.values() {
            hold("a_ddl_task_ends", task.outcome != DdlOutcome::Running, || format!("{task:?}"))?;
        }
        for (at, truth) in self.shards.iter().filter(|(at, _)| self.dropped.contains(&at.table)) {
            let left = truth.parts.keys().next();
            hold("a_dropped_table_leaves_no_part", left.is_none(), || format!("{at}: {left:?}"))?;
        }
        for Attempt { asked, fate } in self.attempts.values() {
            if *fate == Fate::Acknowledged && !self.dropped.contains(&asked.at.table) {
                self.rows_are_there_once(asked)?;
            }
        }
        Ok(())
    }

    /// Or what is still going on: DDL that runs, or a reader that lags.
    pub fn at_rest(&self, readers: &[NodeName]) -> Result<(), String> {
        if let Some(task) = self.ddl.values().find(|task| task.outcome == DdlOutcome::Running) {
            return Err(format!("{task:?} has not ended"));
        }
        for (at, truth) in &self.shards {
            if self.dropped.contains(&at.table) {
                if !truth.parts.is_empty() {
                    return Err(format!("the dropped table shard {at} has parts"));
                }
                continue;
            }
            for reader in readers {
                let seen = self.seen.get(&(reader.clone(), *at)).copied();
                if seen != Some(truth.version) {
                    return Err(format!("{reader} has {seen:?} of {at}, whose version is {}", truth.version));
                }
            }
        }
        Ok(())
    }

    /// Every part that the store has.
    pub fn stored(&self) -> impl Iterator<Item = (&TableShard, &Arc<Manifest>)> {
        self.shards.iter().flat_map(|(at, truth)| truth.parts.values().map(move |part| (at, part)))
    }

    pub fn acknowledged_commits(&self) -> usize {
        self.attempts.values().filter(|attempt| attempt.fate == Fate::Acknowledged).count()
    }

    fn wrote(&mut self, transaction: &Transaction) -> Check {
        let Transaction { term, assigned, changed, parts, dropped, ddl } = transaction;
        hold("a_deposed_leader_writes_nothing", *term == self.term, || {
            format!("term {term} wrote in term {}: {transaction:?}", self.term)
        })?;
        self.holders_before = self.holders.clone();
        for (group, shard, holder) in assigned {
            self.assigned(group, *shard, holder)?;
        }
        for table in dropped {
            self.dropped.insert(*table);
        }
        let mut touched = BTreeSet::new();
        for (at, version, names) in changed {
            touched.insert(*at);
            self.changed(*at, *version, names)?;
        }
        let relocated: BTreeSet<(TableShard, &PartPath)> = changed
            .iter()
            .flat_map(|(at, _, names)| names.relocated.iter().chain(&names.added).map(|path| (*at, path)))
            .collect();
        for (at, path, part) in parts {
            touched.insert(*at);
            self.part_stored(*at, path, part.as_ref(), relocated.contains(&(*at, path)))?;
        }
        for at in touched {
            self.parts_are_what_the_changelog_says(at)?;
        }
        for task in ddl {
            self.ddl_moves_on(task)?;
        }
        Ok(())
    }

    fn assigned(&mut self, group: &GroupName, shard: ShardId, holder: &Holder) -> Check {
        let before = self.holders.insert((group.clone(), shard), holder.clone());
        let forward = before.as_ref().is_none_or(|before| holder.epoch > before.epoch || holder == before);
        hold("an_epoch_never_goes_back", forward, || format!("{group}/{shard}: {before:?} becomes {holder:?}"))
    }

    fn changed(&mut self, at: TableShard, version: Version, names: &Names) -> Check {
        let truth = self.shards.entry(at).or_default();
        hold("a_changelog_has_no_gap", version == truth.version.next(), || {
            format!("{at}: {version} after {}", truth.version)
        })?;
        truth.version = version;
        truth.names.retain(|path| !names.removed.contains(path));
        truth.names.extend(names.added.iter().cloned());
        for path in names.removed.iter().filter(|path| !truth.names.contains(*path)) {
            let covered = truth.names.iter().any(|other| Rows::of(other).cover(&Rows::of(path)));
            let asked = self.let_go.contains(&(at, path.clone()));
            hold("rows_go_only_when_asked", covered || asked, || format!("{at}: {path} in {version}"))?;
        }
        truth.past.insert(version, Past { names: truth.names.clone(), parts: None });
        Ok(())
    }

    fn part_stored(&mut self, at: TableShard, path: &PartPath, part: Option<&Arc<Manifest>>, said: bool) -> Check {
        let truth = self.shards.entry(at).or_default();
        let Some(part) = part else {
            let before = truth.parts.remove(path);
            truth.gone.extend(before.and_then(|part| own_blob(&part)));
            return Ok(());
        };
        let before = truth.parts.insert(path.clone(), Arc::clone(part));
        let same_blobs = before.as_ref().is_none_or(|before| blobs(before) == blobs(part));
        hold("a_part_never_changes", same_blobs, || format!("{at}: {part:?} replaces {before:?}"))?;
        let changed = before.as_ref() != Some(part);
        hold("a_part_changes_with_an_entry", said || !changed, || format!("{at}: {before:?} becomes {part:?}"))?;
        let back = own_blob(part).filter(|blob| truth.gone.contains(blob));
        hold("what_was_removed_never_returns", back.is_none(), || format!("{at}: {part:?}"))?;
        if before.is_none() { self.comes_from_the_holder(at, part) } else { Ok(()) }
    }

    fn comes_from_the_holder(&self, at: TableShard, part: &Manifest) -> Check {
        let attempt = own_blob(part).and_then(|blob| self.attempts.get(self.brought.get(&blob)?));
        let Some(Attempt { asked, fate }) = attempt else {
            return hold("every_part_was_asked_for", false, || format!("{at}: {part:?}"));
        };
        hold("what_was_refused_leaves_nothing", *fate != Fate::Refused, || format!("{asked:?}"))?;
        let place = (asked.group.clone(), at.shard);
        let holds = [&self.holders_before, &self.holders].iter().any(|h| h.get(&place) == Some(&asked.holder));
        hold("one_writer_at_a_time", holds && asked.at == at, || {
            format!("{:?} is the holder, {asked:?} came through", self.holders.get(&place))
        })
    }

    fn parts_are_what_the_changelog_says(&mut self, at: TableShard) -> Check {
        // A dropped table's parts are removed without entries: nobody reads them.
        if self.dropped.contains(&at.table) {
            return Ok(());
        }
        let Some(truth) = self.shards.get_mut(&at) else { return Ok(()) };
        hold("parts_are_what_the_changelog_says", truth.parts.keys().eq(&truth.names), || {
            format!("{at}: stored {:?}, by the changelog {:?}", truth.parts.keys(), truth.names)
        })?;
        if let Some(past) = truth.past.get_mut(&truth.version) {
            past.parts = Some(truth.parts.clone());
        }
        Ok(())
    }

    fn ddl_moves_on(&mut self, task: &DdlTask) -> Check {
        let running = |task: &DdlTask| task.outcome == DdlOutcome::Running;
        if let Some(before) = self.ddl.get(&task.seq) {
            hold("a_ddl_task_ends_once", running(before) || before == task, || format!("{before:?} becomes {task:?}"))?;
        } else {
            let newest = self.ddl.keys().next_back().map_or(0, |seq| seq.0);
            hold("ddl_tasks_are_numbered", task.seq.0 == newest + 1, || format!("{task:?} after {newest}"))?;
            let on = crate::rows::names(&task.statement);
            let open = self.ddl.values().find(|other| running(other) && crate::rows::names(&other.statement) == on);
            hold("ddl_tasks_on_one_table_run_in_order", open.is_none(), || format!("{task:?} while {open:?}"))?;
            let twin = self.ddl.values().find(|other| task.token.is_some() && other.token == task.token);
            hold("a_request_is_one_ddl_task", twin.is_none(), || format!("{task:?} beside {twin:?}"))?;
        }
        self.ddl.insert(task.seq, task.clone());
        Ok(())
    }

    /// Whichever leader answers, it is the outcome that is kept.
    fn told(&self, seq: DdlSeq, result: &Result<(), String>) -> Check {
        let kept = self.ddl.get(&seq).map(|task| &task.outcome);
        let same = match (kept, result) {
            (Some(DdlOutcome::Done), Ok(())) => true,
            (Some(DdlOutcome::Failed { error }), Err(told)) => error == told,
            _ => false,
        };
        hold("a_user_is_told_the_outcome_that_is_kept", same, || format!("told {result:?}, kept {kept:?}"))
    }

    fn asked(&mut self, asked: &Asked) {
        for part in &asked.change.added {
            if let Some(blob) = own_blob(part) {
                self.brought.insert(blob, asked.commit);
            }
        }
        if asked.truncates {
            self.let_go.extend(asked.change.removed.iter().map(|path| (asked.at, path.clone())));
        }
        self.attempts.insert(asked.commit, Attempt { asked: asked.clone(), fate: Fate::Open });
    }

    fn acknowledged(&mut self, commit: u64, version: Version) -> Check {
        let Some(attempt) = self.attempts.get_mut(&commit) else {
            return hold("every_answer_was_asked_for", false, || format!("commit {commit}"));
        };
        attempt.fate = Fate::Acknowledged;
        let asked = &attempt.asked;
        if self.dropped.contains(&asked.at.table) {
            return Ok(());
        }
        let truth = self.shards.get(&asked.at);
        let Some(then) = truth.and_then(|truth| truth.past.get(&version)) else {
            let nothing = asked.change.added.is_empty() && version == Version(0);
            return hold("what_is_acknowledged_is_stored", nothing, || {
                format!("{asked:?} was answered with version {version}, which is not stored")
            });
        };
        let lacks = |part: &&Manifest| match &then.parts {
            Some(parts) => parts.get(&part.part).map(|there| blobs(there)) != Some(blobs(part)),
            None => !then.names.contains(&part.part),
        };
        let missing = asked.change.added.iter().find(lacks);
        hold("what_is_acknowledged_is_stored", missing.is_none(), || {
            format!("{asked:?} was answered with version {version}, which lacks {missing:?}")
        })?;
        let left = asked.change.removed.iter().find(|path| then.names.contains(*path));
        hold("what_is_acknowledged_is_stored", left.is_none(), || {
            format!("{asked:?} was answered with version {version}, which still has {left:?}")
        })
    }

    fn refused(&mut self, commit: u64) -> Check {
        let Some(attempt) = self.attempts.get_mut(&commit) else {
            return hold("every_answer_was_asked_for", false, || format!("commit {commit}"));
        };
        attempt.fate = Fate::Refused;
        let asked = &attempt.asked;
        let truth = self.shards.get(&asked.at);
        let there = asked.change.added.iter().find(|part| {
            let at_its_name = truth.and_then(|truth| truth.parts.get(&part.part));
            at_its_name.is_some_and(|there| blobs(there) == blobs(part))
        });
        hold("what_was_refused_leaves_nothing", there.is_none(), || format!("{asked:?} left {there:?}"))
    }

    fn shown(&mut self, reader: &NodeName, at: TableShard, version: Version, parts: &Parts) -> Check {
        self.seen.insert((reader.clone(), at), version);
        if self.dropped.contains(&at.table) {
            return Ok(());
        }
        let then = self.shards.entry(at).or_default().past.get(&version);
        let fits = then.is_some_and(|then| match &then.parts {
            Some(stored) => same(stored, parts),
            None => parts.keys().eq(&then.names),
        });
        hold("a_reader_sees_what_is_committed", fits, || {
            format!("{reader} has version {version} of {at} as {parts:?}, which is {then:?}")
        })
    }

    /// Each acknowledged row is in exactly one part that no other covers, unless a writer has asked to let it go.
    fn rows_are_there_once(&self, asked: &Asked) -> Check {
        let empty = Parts::new();
        let parts = self.shards.get(&asked.at).map_or(&empty, |truth| &truth.parts);
        let active = Rows::active(parts.keys());
        for part in &asked.change.added {
            let rows = Rows::of(&part.part);
            let found = active.iter().filter(|other| other.span(&rows)).count();
            let asked_away = self.let_go.iter().any(|(at, path)| *at == asked.at && Rows::of(path).span(&rows));
            let once = if asked_away { found <= 1 } else { found == 1 };
            hold("acknowledged_rows_are_there_once", once, || {
                format!("{}: {} is in {found} active parts of {:?}", asked.at, part.part, parts.keys())
            })?;
        }
        Ok(())
    }
}

/// A change, as a reader applies it.
pub fn replay(parts: &mut Parts, change: &PartChange) {
    for path in &change.removed {
        parts.remove(path);
    }
    for part in &change.added {
        parts.insert(part.part.clone(), Arc::new(part.clone()));
    }
    let places: BTreeMap<BlobId, &Location> = change.relocated.iter().map(|r| (r.blob, &r.location)).collect();
    if places.is_empty() {
        return;
    }
    for part in parts.values_mut().filter(|part| part.files.iter().any(|file| places.contains_key(&file.blob))) {
        for file in &mut Arc::make_mut(part).files {
            if let Some(place) = places.get(&file.blob) {
                file.location = Location::clone(place);
            }
        }
    }
}

fn blobs(part: &Manifest) -> Vec<BlobId> {
    part.files.iter().map(|file| file.blob).collect()
}

/// The first file is never a link to another part's.
fn own_blob(part: &Manifest) -> Option<BlobId> {
    part.files.first().map(|file| file.blob)
}

fn same(a: &Parts, b: &Parts) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((a_path, a), (b_path, b))| a_path == b_path && a.files == b.files)
}

#[cfg(test)]
mod tests;
