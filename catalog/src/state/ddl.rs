//! Commands on databases, tables and the DDL queue.

use crate::entry::Entry;
use crate::ids::{DdlSeq, SqlName, TableId};
use crate::records::{Database, DdlOutcome, DdlStatement, DdlTask, LeavingTable, Table, TableState};
use crate::state::command::{CatalogError, Reply};
use crate::state::plan::{Plan, Planned};

/// The engine's own, and what agents make beside the user's.
fn is_reserved(database: &str) -> bool {
    matches!(database, "system" | "information_schema" | "INFORMATION_SCHEMA")
        || database.starts_with("shard_")
        || database.starts_with("moorhouse")
}

impl<'a> Plan<'a> {
    pub fn submit_ddl(mut self, statement: DdlStatement) -> Planned<'a> {
        let seq = self.directory().ddl_seq.next();
        let finished = self.catalog.ddl.iter().filter(|(_, task)| task.outcome != DdlOutcome::Running);
        let excess = (self.catalog.ddl.len() + 1).saturating_sub(self.catalog.limits.ddl_kept);
        let old: Vec<DdlSeq> = finished.map(|(seq, _)| *seq).take(excess).collect();
        self.entries.extend(old.into_iter().map(|seq| Entry::Ddl(seq, None)));
        self.push(Entry::Ddl(seq, Some(DdlTask { seq, statement, outcome: DdlOutcome::Running })));
        self.shown(Reply::Submitted(seq))
    }

    pub fn finish_ddl(mut self, seq: DdlSeq, outcome: DdlOutcome) -> Planned<'a> {
        let Some(task) = self.catalog.ddl.get(&seq) else { return Err(CatalogError::UnknownDdl(seq)) };
        if task.outcome == outcome {
            return self.unchanged();
        }
        if task.outcome != DdlOutcome::Running {
            return Err(CatalogError::NotNow(format!("DDL task {seq} has ended already")));
        }
        self.push(Entry::Ddl(seq, Some(DdlTask { outcome, ..task.clone() })));
        self.done(Reply::Changed(true))
    }

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

    /// A table that one step can clear is gone at once; a larger one leaves, and is cleared by [`Self::clear_leaving`].
    fn remove_table(&mut self, table: &Table) {
        let room = self.catalog.limits.drop_step.saturating_sub(self.entries.len());
        self.push(Entry::Table(table.id, None));
        if !self.clear(table.id, room) {
            self.push(Entry::Leaving(table.id, Some(LeavingTable { id: table.id })));
        }
    }

    /// One step: records of one dropped table, as many as fit into a transaction. Changes nothing once all are removed.
    pub fn clear_leaving(mut self) -> Planned<'a> {
        let Some(&table) = self.catalog.leaving.keys().next() else { return self.unchanged() };
        let room = self.catalog.limits.drop_step;
        if self.clear(table, room) {
            self.push(Entry::Leaving(table, None));
        }
        self.done(Reply::Changed(true))
    }

    /// Removes records of a table for about `room` writes; objects are doomed where nothing else refers to them. True if
    /// none is left.
    fn clear(&mut self, table: TableId, room: usize) -> bool {
        let mut room = room;
        let catalog = self.catalog;
        for (&at, shard) in catalog.table_shards(table) {
            for path in shard.parts.keys() {
                // A part, and the object that it may have had.
                if room < 2 {
                    return false;
                }
                room -= 2;
                self.push_part(at, path, None);
            }
            let inodes = shard.inodes.keys().map(|path| Entry::Inode(at, path.clone(), None));
            let mut rest: Vec<Entry> = inodes.collect();
            // The oldest first, so that the changelog has no gap at any time.
            rest.extend(shard.changes.keys().map(|version| Entry::Change(at, *version, None)));
            rest.push(Entry::Version(at, None));
            if rest.len() > room {
                rest.truncate(room);
                // The newest entry goes together with the version.
                if matches!(rest.last(), Some(Entry::Change(_, version, _)) if *version == shard.version) {
                    rest.pop();
                }
                self.entries.extend(rest);
                return false;
            }
            room -= rest.len();
            self.entries.extend(rest);
        }
        // Last: parts are read with them.
        let layouts = catalog.layouts.of(table);
        self.entries.extend(layouts.take(room).map(|layout| Entry::Layout(table, layout.number, None)));
        catalog.layouts.of(table).count() <= room
    }
}
