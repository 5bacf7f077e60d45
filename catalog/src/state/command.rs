//! What can be asked of the catalog, what it answers, and why it refuses.

use std::collections::HashSet;

use crate::ddl::{DdlNode, DdlOutcome};
use crate::documents::DocumentChange;
use crate::ids::{
    BlobId, DdlSeq, DdlToken, Epoch, GroupName, Incarnation, NodeName, ObjectKey, ShardId, SqlName, TableId,
    TableShard, Version,
};
use crate::invariants::Violation;
use crate::packed::CommitToken;
use crate::records::{DdlStatement, Node, PartChange, Table, Warehouse};
use crate::state::NotLoaded;
use crate::trust::{AuditOutcome, AuditSeq, Deed, TokenHash};

/// One change. It happens whole or not at all.
#[derive(Debug, Clone)]
pub enum Command {
    /// Also makes the database `default`. Only once.
    CreateWarehouse(Warehouse),
    /// Repeating it changes nothing.
    CreateGroup(GroupName),
    /// A process of this node has started: its incarnation and the epochs of its shards grow, and the shards that nobody
    /// in its group has become its own. The record's own `incarnation` and `draining` are not looked at.
    RegisterNode(Node),
    SetDraining {
        node: NodeName,
        draining: bool,
    },
    /// Only a draining node without shards and without staged bytes.
    RemoveNode(NodeName),

    /// Appends to the DDL queue; a token that is there already gets the number of its task.
    SubmitDdl {
        statement: DdlStatement,
        token: DdlToken,
        audit: Option<AuditSeq>,
    },
    /// What a task does to the catalog: one of the four commands on databases and tables, once.
    ChangeByDdl {
        seq: DdlSeq,
        change: Box<Command>,
    },
    /// How far the nodes are with a task.
    NoteDdl {
        seq: DdlSeq,
        nodes: Vec<DdlNode>,
    },
    /// Ends a task; with it the table that it was making becomes active, or goes. Empty `nodes`: as last noted.
    FinishDdl {
        seq: DdlSeq,
        outcome: DdlOutcome,
        nodes: Vec<DdlNode>,
    },
    CreateDatabase {
        database: SqlName,
        if_not_exists: bool,
    },
    /// With its tables.
    DropDatabase {
        database: SqlName,
        if_exists: bool,
    },
    /// The table's state must be `Creating`.
    CreateTable {
        table: Box<Table>,
        if_not_exists: bool,
    },
    ActivateTable(TableId),
    /// One bounded step of removing what dropped tables have left. Nothing left is no error.
    ClearLeaving,
    DropTable {
        database: SqlName,
        name: SqlName,
        if_exists: bool,
    },

    /// Changes some of a table's own settings, by their names.
    SetTableStorage {
        database: SqlName,
        name: SqlName,
        settings: Vec<(String, String)>,
    },

    CommitParts(CommitParts),

    BeginMove {
        group: GroupName,
        shard: ShardId,
        to: NodeName,
    },
    /// Nothing to cancel is no error.
    CancelMove {
        group: GroupName,
        shard: ShardId,
    },
    CompleteMove(CompleteMove),

    /// The objects are deleted: forget them.
    ForgetDoomed(Vec<ObjectKey>),

    CreateJoinToken {
        hash: TokenHash,
        group: GroupName,
        expires_ms: u64,
    },
    /// Lets `node` in: only one that is new, and for one token only one.
    UseJoinToken {
        hash: TokenHash,
        node: NodeName,
        group: GroupName,
        request_sha256: String,
    },
    RevokeJoinToken(TokenHash),
    /// All of the changes, or none: each names the version that it was made from.
    PutDocuments {
        changes: Vec<DocumentChange>,
        by: String,
    },
    /// Something is about to be changed.
    BeginAudit(Deed),
    FinishAudit {
        seq: AuditSeq,
        outcome: AuditOutcome,
    },
}

#[derive(Debug, Clone)]
pub struct CommitParts {
    pub node: NodeName,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub at: TableShard,
    pub change: PartChange,
    /// A repetition under the same token gets the answer of before, whoever leads by then.
    pub token: Option<CommitToken>,
}

#[derive(Debug, Clone)]
pub struct CompleteMove {
    pub group: GroupName,
    pub shard: ShardId,
    /// The epoch at which the move began.
    pub epoch: Epoch,
    /// What the receiving node has on its own disk.
    pub blobs: HashSet<BlobId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// False: it was so already.
    Changed(bool),
    Registered {
        incarnation: Incarnation,
        took_shards: usize,
    },
    Submitted(DdlSeq),
    Audited(AuditSeq),
    Committed(Version),
    MoveBegun {
        from: NodeName,
        epoch: Epoch,
    },
    Moved {
        epoch: Epoch,
    },
}

/// Why a command was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    #[error("there is no warehouse in this store yet")]
    NoWarehouse,
    #[error("the store has a warehouse already: {0}")]
    WarehouseExists(crate::ids::WarehouseId),
    #[error("there is no group {0}")]
    UnknownGroup(GroupName),
    #[error("there is no node {0}")]
    UnknownNode(NodeName),
    #[error("there is no table {0}")]
    UnknownTable(TableId),
    #[error("there is no join token {0}")]
    UnknownToken(String),
    #[error("there is no DDL task {0}")]
    UnknownDdl(DdlSeq),
    /// Somebody else has changed it since: read it again, and repeat.
    #[error("stale: {what} is at version {newest} now, and the change was made from {claimed}: read it again")]
    Stale { what: String, newest: u64, claimed: u64 },
    /// The writer must stop: it holds the shard no more.
    #[error("fenced: {0}")]
    Fenced(Fence),
    /// For the SQL user, in ClickHouse's own form.
    #[error("Code: {code}. DB::Exception: {message}. ({name})")]
    Sql { code: u16, name: &'static str, message: String },
    /// The command does not fit the state; the text says what to do first.
    #[error("{0}")]
    NotNow(String),
    /// The command can never be carried out as it is.
    #[error("{0}")]
    Invalid(String),
    /// Not refused: it needs these part lists, and can be asked again when they are here.
    #[error(transparent)]
    NotLoaded(#[from] NotLoaded),
    /// A bug. The state is as before.
    #[error(transparent)]
    Violated(#[from] Violation),
}

/// Which of a writer's claims does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fence {
    #[error("node {node} runs as incarnation {newest}, not {claimed}")]
    Incarnation { node: NodeName, newest: Incarnation, claimed: Incarnation },
    #[error("shard {shard} of group {group} is held by node {holder}, not {claimed}")]
    Holder { group: GroupName, shard: ShardId, holder: NodeName, claimed: NodeName },
    #[error("shard {shard} of group {group} is at epoch {newest}, not {claimed}")]
    Epoch { group: GroupName, shard: ShardId, newest: Epoch, claimed: Epoch },
    #[error("shard {shard} of group {group} is held by nobody")]
    Unassigned { group: GroupName, shard: ShardId },
    #[error("node {node} is of group {group}, but only group {owner} writes this table")]
    Group { node: NodeName, group: GroupName, owner: GroupName },
}

impl CatalogError {
    pub fn database_exists(database: &SqlName) -> Self {
        let message = format!("Database {database} already exists");
        Self::Sql { code: 82, name: "DATABASE_ALREADY_EXISTS", message }
    }
    pub fn unknown_database(database: &SqlName) -> Self {
        Self::Sql { code: 81, name: "UNKNOWN_DATABASE", message: format!("Database {database} does not exist") }
    }
    pub fn table_exists(database: &SqlName, table: &SqlName) -> Self {
        let message = format!("Table {database}.{table} already exists");
        Self::Sql { code: 57, name: "TABLE_ALREADY_EXISTS", message }
    }
    pub fn unknown_table(database: &SqlName, table: &SqlName) -> Self {
        Self::Sql { code: 60, name: "UNKNOWN_TABLE", message: format!("Table {database}.{table} does not exist") }
    }
    pub fn bad_arguments(message: impl Into<String>) -> Self {
        Self::Sql { code: 36, name: "BAD_ARGUMENTS", message: message.into() }
    }
}
