//! Commands on the warehouse, its groups and its nodes.

use crate::entry::Entry;
use crate::ids::{Epoch, GroupName, Incarnation, NodeName, Revision, SqlName};
use crate::links::StoreForm;
use crate::records::{Assignment, Database, Group, Node, Warehouse};
use crate::state::command::{CatalogError, Reply};
use crate::state::plan::{Plan, Planned};

impl<'a> Plan<'a> {
    pub fn create_warehouse(mut self, warehouse: Warehouse) -> Planned<'a> {
        if let Some(existing) = &self.directory().warehouse {
            return Err(CatalogError::WarehouseExists(existing.id));
        }
        let default = SqlName::new("default").map_err(|e| CatalogError::Invalid(e.to_string()))?;
        self.push(Entry::Warehouse(Some(warehouse)));
        self.push(Entry::Database(default.clone(), Some(Database { name: default })));
        self.push(Entry::Revision(Some(Revision(1))));
        self.push(Entry::Form(Some(StoreForm::NEWEST)));
        self.done(Reply::Changed(true))
    }

    pub fn create_group(mut self, group: GroupName) -> Planned<'a> {
        if self.directory().groups.contains_key(&group) {
            return self.unchanged();
        }
        self.push(Entry::Group(group.clone(), Some(Group { name: group })));
        self.shown(Reply::Changed(true))
    }

    pub fn register_node(mut self, node: Node) -> Planned<'a> {
        if !self.directory().groups.contains_key(&node.group) {
            return Err(CatalogError::UnknownGroup(node.group));
        }
        let before = self.directory().nodes.get(&node.name);
        if let Some(before) = before
            && before.group != node.group
        {
            return Err(CatalogError::NotNow(format!(
                "node {} belongs to group {}, not {}: drain and remove it first, or use another name",
                node.name, before.group, node.group
            )));
        }
        let incarnation = before.map_or(Incarnation(1), |b| b.incarnation.next());
        let draining = before.is_some_and(|b| b.draining);
        self.raise_epochs(&node.name);
        let took_shards = if draining { 0 } else { self.take_unassigned(&node)? };
        self.push(Entry::Node(node.name.clone(), Some(Node { incarnation, draining, ..node })));
        self.shown(Reply::Registered { incarnation, took_shards })
    }

    /// Fences whatever an earlier process of the node was doing, and ends the moves that it took part in.
    fn raise_epochs(&mut self, node: &NodeName) {
        for assignment in self.directory().assignments.values() {
            let holds = assignment.node == *node;
            let receives = assignment.moving.as_ref().is_some_and(|intent| intent.to == *node);
            if holds || receives {
                let epoch = if holds { assignment.epoch.next() } else { assignment.epoch };
                let raised = Assignment { epoch, moving: None, ..assignment.clone() };
                self.push(Entry::Assignment(raised.group.clone(), raised.shard, Some(raised)));
            }
        }
    }

    fn take_unassigned(&mut self, node: &Node) -> Result<usize, CatalogError> {
        let before = self.entries.len();
        for shard in self.warehouse()?.shards.iter() {
            if self.directory().assignment(&node.group, shard).is_none() {
                let group = node.group.clone();
                let given = Assignment { group, shard, node: node.name.clone(), epoch: Epoch(1), moving: None };
                self.push(Entry::Assignment(node.group.clone(), shard, Some(given)));
            }
        }
        Ok(self.entries.len() - before)
    }

    pub fn set_draining(mut self, name: NodeName, draining: bool) -> Planned<'a> {
        let Some(node) = self.directory().nodes.get(&name) else { return Err(CatalogError::UnknownNode(name)) };
        if node.draining == draining {
            return self.unchanged();
        }
        self.push(Entry::Node(name, Some(Node { draining, ..node.clone() })));
        self.shown(Reply::Changed(true))
    }

    pub fn remove_node(mut self, name: NodeName) -> Planned<'a> {
        let Some(node) = self.directory().nodes.get(&name) else { return Err(CatalogError::UnknownNode(name)) };
        let held = self.directory().assignments_of(&name).count();
        let staged = self.catalog.staged_on(&name).len();
        let receives = |a: &&Assignment| a.moving.as_ref().is_some_and(|intent| intent.to == name);
        let refusal = if !node.draining {
            Some("it is not drained: drain it first".to_owned())
        } else if held > 0 {
            Some(format!("it holds {held} shards: drain it first"))
        } else if self.directory().assignments.values().find(receives).is_some() {
            Some("a shard is just moving to it: wait for the move".to_owned())
        } else if staged > 0 {
            Some(format!("{staged} files have their only bytes there: wait until they are stored, or drop them"))
        } else if self.catalog.copies_on(&name).next().is_some() {
            Some("it keeps copies of other nodes' staged files: wait until those are stored".to_owned())
        } else {
            None
        };
        if let Some(reason) = refusal {
            return Err(CatalogError::NotNow(format!("node {name} cannot be removed: {reason}")));
        }
        self.push(Entry::Node(name, None));
        self.shown(Reply::Changed(true))
    }
}
