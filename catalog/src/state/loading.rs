//! Part lists come from the store when they are needed, and are dropped when there is no room.
//!
//! Always here: everything but the lists, and of each list the parts with staged bytes, which are few and lie apart in the
//! store. A list that is not loaded is not changed either: whatever changes it needs it. So it may be read from the store at
//! any time, and is what it was when its version was read.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::codec;
use crate::entry::{Entry, LoadError, Write};
use crate::ids::{ObjectKey, TableShard, Version};
use crate::links::{ObjectLink, StoreForm};
use crate::minted;
use crate::packed::{Layout, Layouts};
use crate::state::shard::{ObjectDigest, Shard};
use crate::state::{Catalog, Command, CommitParts, Limits, commit};

/// What begins the keys of part lists, in order. All other records are small and few.
pub const LISTS: [&[u8]; 3] = [b"change/", b"inode/", b"part/"];

/// All of these part lists must be in memory at once, and some are not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} part lists must be in memory first", .0.len())]
pub struct NotLoaded(pub BTreeSet<TableShard>);

/// Why a table shard cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHere {
    #[error("there is no table shard {0}")]
    Unknown(TableShard),
    #[error(transparent)]
    NotLoaded(#[from] NotLoaded),
}

/// Why a part list was not read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Damaged(#[from] LoadError),
    #[error("{at} is at version {found} in the store, not {known}: another leader writes")]
    Changed { at: TableShard, known: Version, found: Version },
}

/// A part list that is to be read. Made of the catalog, so that reading needs it no more.
pub struct ListSeed {
    pub at: TableShard,
    shard: Shard,
    layouts: Vec<Arc<Layout>>,
}

/// A part list that was read.
pub struct PartList {
    pub at: TableShard,
    shard: Shard,
}

impl ListSeed {
    /// Where its records lie. The version is to be read last: only a leader that is deposed finds another than it knows.
    pub fn prefixes(&self) -> Vec<Vec<u8>> {
        let place = format!("{}/{:04}", self.at.table, self.at.shard.0);
        let list = |kind: &[u8]| [kind, place.as_bytes(), b"/"].concat();
        LISTS.into_iter().map(list).chain([format!("version/{place}").into_bytes()]).collect()
    }

    /// From everything that the store has below the prefixes, in their order.
    pub fn read<'a>(self, records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<PartList, ListError> {
        let Self { at, mut shard, layouts } = self;
        let mut version = Version(0);
        let mut of_table = Layouts::default();
        for layout in layouts {
            of_table.set(at.table, layout.number, Some(layout));
        }
        for (key, value) in records {
            match Entry::read(key, value, &of_table)? {
                Entry::Part(_, path, part) => drop(shard.set_part(at, &path, part)),
                Entry::Inode(_, path, inode) => drop(shard.set_inode(&path, inode)),
                Entry::Change(_, version, change) => drop(shard.set_change(version, change)),
                Entry::Version(_, now) => version = now.unwrap_or(version),
                other => return Err(LoadError::UnknownKey(String::from_utf8_lossy(&other.key()).into_owned()).into()),
            }
        }
        if version != shard.version {
            return Err(ListError::Changed { at, known: shard.version, found: version });
        }
        Ok(PartList { at, shard: shard.loaded() })
    }
}

impl Catalog {
    /// From everything that a store holds below its prefix.
    pub fn load<'a>(
        limits: Limits,
        records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, LoadError> {
        let mut catalog = Self::empty(limits);
        // Parts are read with their layouts.
        let is_layout = |(key, _): &(&[u8], &[u8])| key.starts_with(b"layout/");
        let (layouts, others): (Vec<_>, Vec<_>) = records.into_iter().partition(is_layout);
        for (key, value) in layouts.into_iter().chain(others) {
            let entry = Entry::read(key, value, &catalog.layouts)?;
            catalog.set(entry);
        }
        if catalog.form.is_none() {
            catalog.derive_links();
        }
        Ok(catalog)
    }

    /// From all records but those of [`LISTS`]; the lists are then not loaded.
    pub fn load_without_lists<'a>(
        limits: Limits,
        records: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, LoadError> {
        let mut catalog = Self::load(limits, records)?;
        let all: Vec<TableShard> = catalog.shards.keys().copied().collect();
        for at in all {
            catalog.drop_list(at);
        }
        Ok(catalog)
    }

    /// `None`: it is loaded, or there is nothing to load.
    pub fn seed(&self, at: TableShard) -> Option<ListSeed> {
        let shard = self.shards.get(&at).filter(|shard| !shard.is_loaded())?;
        Some(ListSeed { at, shard: shard.clone(), layouts: self.layouts.of(at.table).cloned().collect() })
    }

    /// Takes in a list that was read. One that is here already stays as it is.
    pub fn install(&mut self, list: PartList) {
        let PartList { at, shard: read } = list;
        if let Some(shard) = self.shards.get_mut(&at)
            && !shard.is_loaded()
            && shard.version == read.version
        {
            self.memory_bytes = self.memory_bytes + read.memory_bytes() - shard.memory_bytes();
            self.loaded_parts += read.parts.len();
            *shard = read;
        }
    }

    /// Forgets a list until it is needed again. Only what the store has confirmed may be forgotten. False: it was not loaded.
    pub fn drop_list(&mut self, at: TableShard) -> bool {
        let Some(shard) = self.shards.get_mut(&at).filter(|shard| shard.is_loaded()) else { return false };
        let kept = shard.without_list(at);
        self.memory_bytes = self.memory_bytes + kept.memory_bytes() - shard.memory_bytes();
        self.loaded_parts -= shard.parts.len();
        *shard = kept;
        true
    }

    /// The lists that must be here to change this one, if some are not.
    pub(super) fn need(&self, at: TableShard) -> Result<(), NotLoaded> {
        self.need_all(self.links.group(at))
    }

    /// The lists that tell whether an object is referred to, if some are not here.
    pub(super) fn need_of(&self, object: &ObjectKey) -> Result<(), NotLoaded> {
        self.need_all(self.links.referring(minted::home(object)))
    }

    pub(super) fn need_all(&self, lists: impl IntoIterator<Item = TableShard>) -> Result<(), NotLoaded> {
        let lists: BTreeSet<TableShard> = lists.into_iter().collect();
        let is_missing = |at: &TableShard| self.shards.get(at).is_some_and(|shard| !shard.is_loaded());
        if lists.iter().any(is_missing) { Err(NotLoaded(lists)) } else { Ok(()) }
    }

    /// What a commit of parts needs. Other commands are small: they say it when they are tried.
    pub fn is_ready_for(&self, command: &Command) -> Result<(), NotLoaded> {
        let Command::CommitParts(CommitParts { at, change, .. }) = command else { return Ok(()) };
        let shared = change.relocated.iter().flat_map(|relocation| self.shares_staged(relocation.blob, *at));
        let lists = self.links.group(*at).into_iter();
        let lists = lists.chain(shared.flat_map(|other| self.links.group(other)));
        let objects = commit::objects_in(change);
        self.need_all(lists.chain(objects.flat_map(|object| self.links.referring(minted::home(object)))))
    }

    /// How many parts refer to the object. The lists that tell must be here.
    pub(super) fn references_to(&self, object: &ObjectKey) -> u64 {
        let digest = ObjectDigest::of(object);
        let referring = self.links.referring(minted::home(object)).collect::<BTreeSet<_>>();
        referring.iter().filter_map(|at| self.shards.get(at)).map(|shard| shard.references_to(&digest)).sum()
    }

    /// Memory that part lists take, about.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Parts of lists that are loaded.
    pub fn loaded_parts(&self) -> usize {
        self.loaded_parts
    }

    /// Every table shard that has been written, with its version.
    pub fn versions(&self) -> impl Iterator<Item = (TableShard, Version)> {
        self.shards.iter().map(|(at, shard)| (*at, shard.version))
    }

    pub fn form(&self) -> Option<StoreForm> {
        self.form
    }

    fn derive_links(&mut self) {
        let links: Vec<ObjectLink> = self.shards.iter().flat_map(|(at, shard)| foreign_links(*at, shard)).collect();
        for link in links {
            self.links.set(link, true);
        }
    }

    /// What an older build's store must be given so that lists can be left in it, in steps that may be repeated; the last one
    /// says that it is done. Needs every list.
    pub fn upgrade(&self) -> Vec<Write> {
        if self.form == Some(StoreForm::NEWEST) {
            return Vec::new();
        }
        let mut writes = Vec::new();
        for (&at, shard) in &self.shards {
            let links: BTreeSet<ObjectLink> = foreign_links(at, shard).collect();
            writes.extend(links.into_iter().map(|link| put(&Entry::Link(link, true))));
            for (path, part) in shard.parts.iter().filter(|(_, part)| part.is_staged()) {
                // In this order: between the two it is there twice, and never lost.
                writes.push(put(&Entry::Part(at, path.clone(), Some(part.clone()))));
                writes.push(Write::Delete { key: Entry::Part(at, path.clone(), None).key() });
            }
        }
        writes.push(put(&Entry::Form(Some(StoreForm::NEWEST))));
        writes
    }
}

fn put(entry: &Entry) -> Write {
    Write::Put { key: entry.key(), value: entry.value().unwrap_or_else(|| vec![codec::JSON]) }
}

/// Links that this table shard's parts ask for; some more than once.
fn foreign_links(at: TableShard, shard: &Shard) -> impl Iterator<Item = ObjectLink> {
    let homes = shard.parts.values().flat_map(move |part| part.objects(at)).map(|object| minted::home(&object));
    homes.filter(move |home| *home != Some(at)).map(move |home| ObjectLink { home, user: at })
}
