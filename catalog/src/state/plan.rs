//! A command while it is planned: entries against a state that does not change meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::directory::Directory;
use crate::entry::Entry;
use crate::ids::{ObjectKey, PartPath, TableId, TableShard, Version};
use crate::links::ObjectLink;
use crate::minted;
use crate::packed::{Layout, LayoutNumber, PackedPart};
use crate::records::{DoomedObject, Manifest, PartChange, Warehouse};
use crate::state::Catalog;
use crate::state::command::{CatalogError, Reply};

pub(super) type Planned<'a> = Result<Plan<'a>, CatalogError>;

pub(super) struct Plan<'a> {
    pub catalog: &'a Catalog,
    pub now_ms: u64,
    pub reply: Reply,
    pub entries: Vec<Entry>,
    pub changes: Vec<(TableShard, Version, Arc<PartChange>)>,
    /// How the plan changes the number of references to each object that it mentions.
    references: BTreeMap<ObjectKey, i64>,
    /// Links that the plan makes.
    links: BTreeSet<ObjectLink>,
    /// Layouts that the plan makes.
    layouts: Vec<(TableId, Arc<Layout>)>,
}

impl<'a> Plan<'a> {
    pub fn new(catalog: &'a Catalog, now_ms: u64) -> Self {
        let reply = Reply::Changed(false);
        Self {
            catalog,
            now_ms,
            reply,
            entries: Vec::new(),
            changes: Vec::new(),
            references: BTreeMap::new(),
            links: BTreeSet::new(),
            layouts: Vec::new(),
        }
    }

    pub fn directory(&self) -> &'a Directory {
        &self.catalog.directory
    }

    /// Every command but the first finds one; [`Catalog::plan`] sees to that.
    pub fn warehouse(&self) -> Result<&'a Warehouse, CatalogError> {
        self.directory().warehouse.as_ref().ok_or(CatalogError::NoWarehouse)
    }

    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub fn unchanged(mut self) -> Planned<'a> {
        self.reply = Reply::Changed(false);
        Ok(self)
    }

    /// Ends a plan that changes what the views show.
    pub fn shown(mut self, reply: Reply) -> Planned<'a> {
        self.push(Entry::Revision(Some(self.directory().revision.next())));
        self.done(reply)
    }

    /// Ends a plan that the views do not show.
    pub fn done(mut self, reply: Reply) -> Planned<'a> {
        self.doom_unreferenced();
        self.reply = reply;
        Ok(self)
    }

    pub fn push_part(&mut self, at: TableShard, path: &PartPath, new: Option<&Manifest>) {
        let old = self.catalog.shards.get(&at).and_then(|shard| shard.parts.get(path));
        for object in old.into_iter().flat_map(|part| part.objects(at)) {
            *self.references.entry(object).or_insert(0) -= 1;
        }
        let new = new.map(|manifest| self.pack(at, manifest));
        for object in new.iter().flat_map(|part| part.objects(at)) {
            self.link(at, &object);
            *self.references.entry(object).or_insert(0) += 1;
        }
        self.push(Entry::Part(at, path.clone(), new));
    }

    /// Says that `at` refers to objects of another home, if it does so for the first time.
    fn link(&mut self, at: TableShard, object: &ObjectKey) {
        let link = ObjectLink { home: minted::home(object), user: at };
        if link.home != Some(at) && !self.catalog.links.has(&link) && self.links.insert(link) {
            self.entries.push(Entry::Link(link, true));
        }
    }

    /// With the table's layout of these names; makes it if there is room.
    fn pack(&mut self, at: TableShard, manifest: &Manifest) -> PackedPart {
        let table = at.table;
        PackedPart::pack(at, manifest, |content| {
            let new = self.layouts.iter().filter(|(of, _)| *of == table).map(|(_, layout)| layout);
            let mut newest = LayoutNumber(0);
            for layout in self.catalog.layouts.of(table).chain(new) {
                if layout.has(&content) {
                    return Ok(Arc::clone(layout));
                }
                newest = newest.max(layout.number);
            }
            if newest.0 >= self.catalog.limits.layouts_a_table {
                return Err(content);
            }
            let layout = Arc::new(Layout::new(LayoutNumber(newest.0 + 1), content));
            self.layouts.push((table, Arc::clone(&layout)));
            self.entries.push(Entry::Layout(table, layout.number, Some(Arc::clone(&layout))));
            Ok(layout)
        })
    }

    /// The object is spoken of: if nothing refers to it in the end, it is doomed.
    pub fn mention(&mut self, object: &ObjectKey) {
        self.references.entry(object.clone()).or_insert(0);
    }

    fn doom_unreferenced(&mut self) {
        let catalog = self.catalog;
        let not_before_ms = self.now_ms.saturating_add(catalog.limits.delete_grace_ms);
        for (object, delta) in std::mem::take(&mut self.references) {
            let before = catalog.references_to(&object);
            if before.saturating_add_signed(delta) == 0 && !catalog.doomed.contains_key(&object) {
                let doomed = DoomedObject { object: object.clone(), not_before_ms };
                self.push(Entry::Doomed(object, Some(doomed)));
            }
        }
    }
}
