//! What the controller shows of the catalog: to an agent, and to a gateway. Derived, never stored.

use moorhouse_base::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::access::NodeAccess;
use crate::ids::{DdlSeq, Epoch, GroupName, NodeName, Revision, ShardCount, ShardId, SqlName, WarehouseId};
use crate::records::{Database, Node, Table, User};

/// All that one agent must know to serve its node. Complete: an agent needs no other view to catch up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    pub revision: Revision,
    pub warehouse: WarehouseId,
    pub shards: ShardCount,
    pub objects_url: String,
    pub cluster_secret: Secret,
    pub engine_admin_password: Secret,
    pub users: Vec<User>,
    /// The reader of this view.
    pub node: NodeName,
    pub group: GroupName,
    /// Every node of the warehouse: peers for reads of staged parts, and routes for the own group's shards.
    pub nodes: Vec<Node>,
    /// The own group's assignments, by shard.
    pub assignments: Vec<AssignmentView>,
    pub databases: Vec<Database>,
    pub tables: Vec<Table>,
    /// Applying this view applies the DDL queue up to here.
    pub ddl_seq: DdlSeq,
    /// What the documents say of users and settings.
    #[serde(default, skip_serializing_if = "NodeAccess::is_empty")]
    pub access: NodeAccess,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentView {
    pub shard: ShardId,
    pub node: NodeName,
    pub epoch: Epoch,
}

/// What a gateway must know to route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    pub revision: Revision,
    pub shards: ShardCount,
    pub groups: Vec<GroupView>,
    pub databases: Vec<SqlName>,
    pub tables: Vec<TableView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    pub name: GroupName,
    pub nodes: Vec<NodeEndpoint>,
}

/// A node as the gateway sees it; it sends new statements only to nodes that are `ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEndpoint {
    pub node: NodeName,
    pub engine_http: String,
    pub engine_native: String,
    /// Up, not draining, and its engine has applied every finished DDL task.
    pub ready: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableView {
    pub database: SqlName,
    pub name: SqlName,
    pub owner: GroupName,
}
