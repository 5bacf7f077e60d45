//! Commands on the DDL queue: a task enters it, changes the catalog, and ends, each in one transaction with what it does.

use crate::ddl::{self, DdlNode, DdlOutcome, DdlStep, DdlTask};
use crate::entry::Entry;
use crate::ids::{DdlSeq, DdlToken};
use crate::records::{DdlStatement, Table, TableState};
use crate::state::command::{CatalogError, Command, Reply};
use crate::state::plan::{Plan, Planned};
use crate::trust::AuditSeq;

impl<'a> Plan<'a> {
    /// A token that is in the queue already gets its task's number.
    pub fn submit_ddl(mut self, statement: DdlStatement, token: DdlToken, audit: Option<AuditSeq>) -> Planned<'a> {
        if let Some(task) = self.catalog.ddl_of(token) {
            if task.statement != statement {
                let text = format!("DDL token {token} names another statement: choose a new one for each statement");
                return Err(CatalogError::Invalid(text));
            }
            return self.done(Reply::Submitted(task.seq));
        }
        let seq = self.directory().ddl_seq.next();
        let finished = self.catalog.ddl.iter().filter(|(_, task)| !task.is_running());
        let excess = (self.catalog.ddl.len() + 1).saturating_sub(self.catalog.limits.ddl_kept);
        let old: Vec<DdlSeq> = finished.map(|(seq, _)| *seq).take(excess).collect();
        self.entries.extend(old.into_iter().map(|seq| Entry::Ddl(seq, None)));
        self.push(Entry::Ddl(seq, Some(DdlTask { token: Some(token), audit, ..DdlTask::new(seq, statement) })));
        self.shown(Reply::Submitted(seq))
    }

    /// The task's change of the catalog: once, however often it is asked for. Answers whether it changed something.
    pub fn change_by_ddl(self, seq: DdlSeq, change: Command) -> Planned<'a> {
        let task = self.running_ddl(seq)?;
        if let DdlStep::Applying { changed } = task.step {
            return self.done(Reply::Changed(changed));
        }
        // An older build made the table in a transaction of its own.
        let is_made = self.creating_by(seq).is_some();
        let mut plan = match change {
            Command::CreateTable { .. } if is_made => self.done(Reply::Changed(true))?,
            Command::CreateTable { table, if_not_exists } => self.create_table(*table, if_not_exists)?,
            Command::DropTable { database, name, if_exists } => self.drop_table(database, name, if_exists)?,
            Command::CreateDatabase { database, if_not_exists } => self.create_database(database, if_not_exists)?,
            Command::DropDatabase { database, if_exists } => self.drop_database(database, if_exists)?,
            other => return Err(CatalogError::Invalid(format!("no DDL task does {other:?}"))),
        };
        let changed = plan.reply == Reply::Changed(true);
        plan.entries.push(Entry::Ddl(seq, Some(DdlTask { step: DdlStep::Applying { changed }, ..task.clone() })));
        Ok(plan)
    }

    /// Notes how far the nodes are.
    pub fn note_ddl(mut self, seq: DdlSeq, nodes: Vec<DdlNode>) -> Planned<'a> {
        let task = self.running_ddl(seq)?;
        let nodes = ddl::bounded(nodes);
        if task.nodes == nodes {
            return self.unchanged();
        }
        self.push(Entry::Ddl(seq, Some(DdlTask { nodes, ..task.clone() })));
        self.done(Reply::Changed(true))
    }

    /// With the outcome the table that the task made becomes active, or goes; a database that it made goes if it failed.
    pub fn finish_ddl(mut self, seq: DdlSeq, outcome: DdlOutcome, nodes: Vec<DdlNode>) -> Planned<'a> {
        let Some(task) = self.catalog.ddl.get(&seq) else { return Err(CatalogError::UnknownDdl(seq)) };
        if task.outcome == outcome {
            return self.unchanged();
        }
        if !task.is_running() {
            return Err(CatalogError::NotNow(format!("DDL task {seq} has ended already")));
        }
        let is_shown = self.settle(task, &outcome);
        let nodes = if nodes.is_empty() { task.nodes.clone() } else { ddl::bounded(nodes) };
        self.push(Entry::Ddl(seq, Some(DdlTask { outcome, nodes, ..task.clone() })));
        if is_shown { self.shown(Reply::Changed(true)) } else { self.done(Reply::Changed(true)) }
    }

    /// True if the views show it.
    fn settle(&mut self, task: &DdlTask, outcome: &DdlOutcome) -> bool {
        if let Some(table) = self.creating_by(task.seq) {
            if *outcome == DdlOutcome::Done {
                self.push(Entry::Table(table.id, Some(Table { state: TableState::Active, ..table.clone() })));
            } else {
                self.remove_table(table);
            }
            return true;
        }
        let DdlStatement::CreateDatabase { database, .. } = &task.statement else { return false };
        let is_made = task.step == DdlStep::Applying { changed: true };
        let is_empty = self.directory().tables_in(database).next().is_none();
        if is_made && is_empty && *outcome != DdlOutcome::Done && self.directory().databases.contains_key(database) {
            self.push(Entry::Database(database.clone(), None));
            return true;
        }
        false
    }

    fn running_ddl(&self, seq: DdlSeq) -> Result<&'a DdlTask, CatalogError> {
        match self.catalog.ddl.get(&seq) {
            None => Err(CatalogError::UnknownDdl(seq)),
            Some(task) if task.is_running() => Ok(task),
            Some(_) => Err(CatalogError::NotNow(format!("DDL task {seq} has ended already"))),
        }
    }

    /// The table that a task is making.
    fn creating_by(&self, seq: DdlSeq) -> Option<&'a Table> {
        self.directory().tables.values().find(|table| table.ddl_seq == seq && table.state == TableState::Creating)
    }
}
