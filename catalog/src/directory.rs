//! Everything of the catalog but parts and the DDL queue: small, read by all, shown in the views.

use std::collections::BTreeMap;

use crate::access;
use crate::documents::{Document, DocumentKey};
use crate::ids::{DdlSeq, GroupName, NodeName, Revision, ShardId, SqlName, TableId};
use crate::records::{Assignment, Database, Group, Node, Table, TableState, Warehouse};
use crate::views::{AssignmentView, ClusterView, GroupView, NodeEndpoint, NodeView, TableView};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    pub warehouse: Option<Warehouse>,
    pub revision: Revision,
    pub groups: BTreeMap<GroupName, Group>,
    pub nodes: BTreeMap<NodeName, Node>,
    pub assignments: BTreeMap<(GroupName, ShardId), Assignment>,
    pub databases: BTreeMap<SqlName, Database>,
    pub tables: BTreeMap<TableId, Table>,
    /// The newest version of each, removed ones included.
    pub documents: BTreeMap<DocumentKey, Document>,
    /// The newest task of the DDL queue. Derived from the queue, not stored by itself.
    pub ddl_seq: DdlSeq,
}

impl Directory {
    pub(crate) fn empty() -> Self {
        Self {
            warehouse: None,
            revision: Revision(0),
            groups: BTreeMap::new(),
            nodes: BTreeMap::new(),
            assignments: BTreeMap::new(),
            databases: BTreeMap::new(),
            tables: BTreeMap::new(),
            documents: BTreeMap::new(),
            ddl_seq: DdlSeq(0),
        }
    }

    pub fn assignment(&self, group: &GroupName, shard: ShardId) -> Option<&Assignment> {
        self.assignments.get(&(group.clone(), shard))
    }

    pub fn group_assignments(&self, group: &GroupName) -> impl Iterator<Item = &Assignment> {
        self.assignments.range((group.clone(), ShardId(0))..=(group.clone(), ShardId(u16::MAX))).map(|(_, a)| a)
    }

    pub fn group_nodes(&self, group: &GroupName) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(move |n| n.group == *group)
    }

    pub fn assignments_of(&self, node: &NodeName) -> impl Iterator<Item = &Assignment> {
        self.assignments.values().filter(move |a| a.node == *node)
    }

    pub fn table_named(&self, database: &SqlName, name: &SqlName) -> Option<&Table> {
        self.tables.values().find(|t| t.database == *database && t.name == *name)
    }

    pub fn tables_in<'a>(&'a self, database: &'a SqlName) -> impl Iterator<Item = &'a Table> {
        self.tables.values().filter(move |t| t.database == *database)
    }

    /// `None` while the node or the warehouse is unknown.
    pub fn node_view(&self, node: &NodeName) -> Option<NodeView> {
        let warehouse = self.warehouse.as_ref()?;
        let group = self.nodes.get(node)?.group.clone();
        let show = |a: &Assignment| AssignmentView { shard: a.shard, node: a.node.clone(), epoch: a.epoch };
        Some(NodeView {
            revision: self.revision,
            warehouse: warehouse.id,
            shards: warehouse.shards,
            objects_url: warehouse.objects_url.clone(),
            cluster_secret: warehouse.cluster_secret.clone(),
            engine_admin_password: warehouse.engine_admin_password.clone(),
            users: warehouse.users.clone(),
            node: node.clone(),
            nodes: self.nodes.values().cloned().collect(),
            assignments: self.group_assignments(&group).map(show).collect(),
            databases: self.databases.values().cloned().collect(),
            tables: self.tables.values().cloned().collect(),
            ddl_seq: self.ddl_seq,
            access: access::resolve(&self.documents, &group),
            group,
        })
    }

    /// Tables are shown once they are active. `None` while there is no warehouse.
    pub fn cluster_view(&self, ready: impl Fn(&Node) -> bool) -> Option<ClusterView> {
        let endpoint = |node: &Node| NodeEndpoint {
            node: node.name.clone(),
            engine_http: node.engine_http.clone(),
            engine_native: node.engine_native.clone(),
            ready: ready(node),
        };
        let group =
            |name: &GroupName| GroupView { name: name.clone(), nodes: self.group_nodes(name).map(endpoint).collect() };
        let table =
            |t: &Table| TableView { database: t.database.clone(), name: t.name.clone(), owner: t.owner.clone() };
        Some(ClusterView {
            revision: self.revision,
            shards: self.warehouse.as_ref()?.shards,
            groups: self.groups.keys().map(group).collect(),
            databases: self.databases.keys().cloned().collect(),
            tables: self.tables.values().filter(|t| t.state == TableState::Active).map(table).collect(),
        })
    }
}
