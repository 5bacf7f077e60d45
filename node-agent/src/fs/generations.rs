//! The directories in which a reader's engine finds a table shard.
//!
//! An engine knows a part by its name: once it has loaded one, other bytes below the same name are a broken part to it, or wrong
//! rows. So a directory never shows two parts under one name. When the writer has made a part anew, the reader's table gets a
//! directory of the next *generation*, `<uuid>.1`, that shows what is committed now by links; the one before stays as it was. The
//! engine's owner attaches the new one in the old one's stead, and the old one goes when no statement can be reading it.

use std::collections::HashSet;
use std::time::{Instant, SystemTime};

use moorhouse_catalog::TableShard;

use super::error::FsError;
use super::load::{RETIRED_KEPT, make_way};
use super::place;
use super::tree::{Ino, ROOT, Tree};
use super::{ShardFs, table_path};

/// A table shard's directories. The first is number 0, which has no suffix.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    current: u32,
    /// With the time since when no new statement reads it.
    superseded: Vec<(u32, Option<Instant>)>,
}

impl Generations {
    /// Numbers come back once their directory is gone: the engine remembers a disk for each for as long as it runs.
    fn next(&self) -> u32 {
        let taken = |number: &u32| *number == self.current || self.superseded.iter().any(|(old, _)| old == number);
        (0..).find(|number| !taken(number)).expect("few are taken")
    }

    fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.superseded.iter().map(|(number, _)| *number).chain([self.current])
    }
}

fn path_of(ts: TableShard, generation: u32) -> [String; 4] {
    let mut path = table_path(ts);
    if generation > 0 {
        path[3] = format!("{}.{generation}", path[3]);
    }
    path
}

impl ShardFs {
    /// Which directory shows what is committed, and its path below the mount.
    pub fn generation(&self, ts: TableShard) -> (u32, String) {
        let generation = self.generations.lock().expect("lock").get(&ts).map_or(0, |own| own.current);
        (generation, path_of(ts, generation).join("/"))
    }

    /// The engine has this generation for all statements to come.
    pub fn generation_attached(&self, ts: TableShard, generation: u32) {
        let mut generations = self.generations.lock().expect("lock");
        for (old, since) in generations.get_mut(&ts).iter_mut().flat_map(|own| &mut own.superseded) {
            if *old != generation {
                since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// The names of the directory that shows what is committed.
    pub(super) fn shown_path(&self, ts: TableShard) -> [String; 4] {
        let generation = self.generations.lock().expect("lock").get(&ts).map_or(0, |own| own.current);
        path_of(ts, generation)
    }

    /// The paths of all directories of a table shard.
    pub(super) fn all_paths(&self, ts: TableShard) -> Vec<[String; 4]> {
        let generations = self.generations.lock().expect("lock");
        let numbers: Vec<u32> = generations.get(&ts).map_or_else(|| vec![0], |own| own.numbers().collect());
        numbers.into_iter().map(|number| path_of(ts, number)).collect()
    }

    pub(super) fn forget_generations(&self, goes: impl Fn(TableShard) -> bool) {
        self.generations.lock().expect("lock").retain(|ts, _| !goes(*ts));
    }

    /// Makes the next directory, with all that the present one lists but the parts that are `left_out`. Answers with it and with
    /// the name that the kernel may remember as absent.
    pub(super) fn begin_generation(
        &self,
        tree: &mut Tree,
        ts: TableShard,
        left_out: &HashSet<&str>,
    ) -> Result<(Ino, (Ino, String)), FsError> {
        let (present, next) = {
            let mut generations = self.generations.lock().expect("lock");
            let own = generations.entry(ts).or_default();
            let (present, next) = (own.current, own.next());
            own.superseded.push((present, None));
            own.current = next;
            (path_of(ts, present), path_of(ts, next))
        };
        tracing::info!(%ts, directory = next[3], parts = left_out.len(), "parts were made anew under their names");
        let old = tree.resolve(ROOT, &present)?;
        let parent = tree.parent(old)?;
        let new = tree.make_dir(parent, &next[3], 0o755, SystemTime::UNIX_EPOCH)?;
        for entry in tree.entries(old)? {
            let part = place::committed_part(std::slice::from_ref(&entry.name));
            match part {
                None if entry.is_dir => {}
                None => tree.link(entry.ino, new, &entry.name, SystemTime::UNIX_EPOCH)?,
                Some(part) if left_out.contains(part.as_str()) => {}
                Some(part) if self.retired.lock().expect("lock").contains_key(&(ts, part.clone())) => {}
                Some(part) => link_part(tree, entry.ino, new, part.as_str())?,
            }
        }
        Ok((new, (parent, next[3].clone())))
    }

    /// Forgets directories that no statement can be reading any more.
    pub(super) fn prune_generations(&self) -> Result<(), FsError> {
        let mut due = Vec::new();
        for (ts, own) in self.generations.lock().expect("lock").iter_mut() {
            let over = |(_, since): &mut (u32, Option<Instant>)| since.is_some_and(|at| at.elapsed() > RETIRED_KEPT);
            due.extend(own.superseded.extract_if(.., over).map(|(number, _)| path_of(*ts, number)));
        }
        for path in due {
            let (parent, orphans) = {
                let mut tree = self.tree.write().expect("lock");
                let parent = tree.resolve(ROOT, &path[..3])?;
                (parent, tree.remove_subtree(parent, &path[3])?)
            };
            self.remove_local(orphans.into_iter().map(|blob| blob.id));
            self.forget_entries(vec![(parent, path[3].clone())]);
        }
        Ok(())
    }
}

/// Shows a part in another directory too. Its files are at home there from now on: the first one will go.
fn link_part(tree: &mut Tree, part: Ino, table: Ino, name: &str) -> Result<(), FsError> {
    let made = tree.get(part)?.mtime;
    let dir = tree.make_dir(table, name, 0o755, made)?;
    for (path, file) in tree.files_below(part)? {
        let (parent, name) = make_way(tree, dir, &path)?;
        tree.link(file, parent, &name, made)?;
        tree.get_mut(file)?.home = parent;
    }
    Ok(())
}
