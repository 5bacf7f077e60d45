//! Commands on databases and tables.

use crate::entry::Entry;
use crate::ids::{SqlName, TableId, TableShard};
use crate::links::ObjectLink;
use crate::records::{Database, LeavingTable, Table, TableState};
use crate::state::Shard;
use crate::state::command::{CatalogError, Reply};
use crate::state::plan::{Plan, Planned};

/// The engine's own, and what agents make beside the user's.
fn is_reserved(database: &str) -> bool {
    matches!(database, "system" | "information_schema" | "INFORMATION_SCHEMA")
        || database.starts_with("shard_")
        || database.starts_with("moorhouse")
}

impl<'a> Plan<'a> {
    pub fn create_database(mut self, database: SqlName, if_not_exists: bool) -> Planned<'a> {
        if is_reserved(database.as_str()) {
            let message = format!("Database name {database} is reserved: choose another");
            return Err(CatalogError::bad_arguments(message));
        }
        if self.directory().databases.contains_key(&database) {
            return if if_not_exists { self.unchanged() } else { Err(CatalogError::database_exists(&database)) };
        }
        self.push(Entry::Database(database.clone(), Some(Database { name: database })));
        self.shown(Reply::Changed(true))
    }

    pub fn drop_database(mut self, database: SqlName, if_exists: bool) -> Planned<'a> {
        if !self.directory().databases.contains_key(&database) {
            return if if_exists { self.unchanged() } else { Err(CatalogError::unknown_database(&database)) };
        }
        if database.as_str() == "default" {
            return Err(CatalogError::bad_arguments("Database default cannot be dropped: every session starts in it"));
        }
        for table in self.directory().tables_in(&database) {
            self.remove_table(table);
        }
        self.push(Entry::Database(database, None));
        self.shown(Reply::Changed(true))
    }

    pub fn create_table(mut self, table: Table, if_not_exists: bool) -> Planned<'a> {
        if !self.directory().databases.contains_key(&table.database) {
            return Err(CatalogError::unknown_database(&table.database));
        }
        if !self.directory().groups.contains_key(&table.owner) {
            return Err(CatalogError::UnknownGroup(table.owner));
        }
        if self.directory().table_named(&table.database, &table.name).is_some() {
            let exists = CatalogError::table_exists(&table.database, &table.name);
            return if if_not_exists { self.unchanged() } else { Err(exists) };
        }
        let taken = |t: &Table| t.id == table.id || t.physical == table.physical;
        if self.directory().tables.values().any(taken) {
            return Err(CatalogError::Invalid(format!("table {} or its name {} is taken", table.id, table.physical)));
        }
        if table.state != TableState::Creating {
            return Err(CatalogError::Invalid(format!("table {} does not begin as creating", table.id)));
        }
        self.push(Entry::Table(table.id, Some(table)));
        self.shown(Reply::Changed(true))
    }

    pub fn activate_table(mut self, id: TableId) -> Planned<'a> {
        let Some(table) = self.directory().tables.get(&id) else { return Err(CatalogError::UnknownTable(id)) };
        match table.state {
            TableState::Active => self.unchanged(),
            TableState::Creating => {
                self.push(Entry::Table(id, Some(Table { state: TableState::Active, ..table.clone() })));
                self.shown(Reply::Changed(true))
            }
        }
    }

    pub fn set_table_storage(mut self, database: SqlName, name: SqlName, settings: &[(String, String)]) -> Planned<'a> {
        let Some(table) = self.directory().table_named(&database, &name) else {
            return Err(CatalogError::unknown_table(&database, &name));
        };
        let mut table = table.clone();
        let before = table.storage;
        for (setting, value) in settings {
            table.storage.set(setting, value).map_err(CatalogError::Invalid)?;
        }
        if table.storage == before {
            return self.unchanged();
        }
        self.push(Entry::Table(table.id, Some(table)));
        self.shown(Reply::Changed(true))
    }

    pub fn drop_table(mut self, database: SqlName, name: SqlName, if_exists: bool) -> Planned<'a> {
        let Some(table) = self.directory().table_named(&database, &name) else {
            let unknown = if self.directory().databases.contains_key(&database) {
                CatalogError::unknown_table(&database, &name)
            } else {
                CatalogError::unknown_database(&database)
            };
            return if if_exists { self.unchanged() } else { Err(unknown) };
        };
        self.remove_table(table);
        self.shown(Reply::Changed(true))
    }

    /// What was written of it leaves step by step: how much that is only its part lists tell.
    pub(super) fn remove_table(&mut self, table: &Table) {
        self.push(Entry::Table(table.id, None));
        let catalog = self.catalog;
        if catalog.table_shards(table.id).next().is_some() || catalog.layouts.of(table.id).next().is_some() {
            self.push(Entry::Leaving(table.id, Some(LeavingTable { id: table.id })));
        }
    }

    /// One step: records of one table shard of a dropped table, as many as fit into a transaction. Changes nothing once all are
    /// removed.
    pub fn clear_leaving(mut self) -> Planned<'a> {
        let catalog = self.catalog;
        let Some(&table) = catalog.leaving.keys().next() else { return self.unchanged() };
        let room = catalog.limits.drop_step;
        if let Some((&at, shard)) = catalog.table_shards(table).next() {
            catalog.need(at)?;
            self.clear(at, shard, room);
            return self.done(Reply::Changed(true));
        }
        // Last: parts are read with them.
        let layouts: Vec<_> = catalog.layouts.of(table).map(|layout| layout.number).collect();
        self.entries.extend(layouts.iter().take(room).map(|number| Entry::Layout(table, *number, None)));
        if layouts.len() <= room {
            self.push(Entry::Leaving(table, None));
        }
        self.done(Reply::Changed(true))
    }

    /// Removes records of a table shard for about `room` writes; objects are doomed where nothing else refers to them.
    fn clear(&mut self, at: TableShard, shard: &Shard, mut room: usize) {
        for path in shard.parts.keys() {
            // A part, and the object that it may have had.
            if room < 2 {
                return;
            }
            room -= 2;
            self.push_part(at, path, None);
        }
        let mut rest: Vec<Entry> = shard.inodes.keys().map(|path| Entry::Inode(at, path.clone(), None)).collect();
        // The oldest first, so that the changelog has no gap at any time.
        rest.extend(shard.changes.keys().map(|version| Entry::Change(at, *version, None)));
        let links = self.catalog.links.homes_of(at).map(|home| Entry::Link(ObjectLink { home, user: at }, false));
        rest.extend(links);
        rest.push(Entry::Version(at, None));
        if rest.len() > room {
            rest.truncate(room);
            // The newest entry goes together with the version.
            rest.retain(|entry| !matches!(entry, Entry::Change(_, version, _) if *version == shard.version));
        }
        self.entries.extend(rest);
    }
}
