//! The gRPC service for `moorctl`: reads of the state, and the operator's commands.

use std::collections::BTreeSet;
use std::sync::Arc;

use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::backup;
use moorhouse_catalog::state::Command;
use moorhouse_catalog::store::{KeyValue, Store};
use moorhouse_catalog::{DdlSeq, GroupName, Location, NodeName, SqlName, Table, TableShard, TableStorage, Version};
use moorhouse_proto::admin_server::Admin;
use moorhouse_proto::{
    BackupChunk, BackupMetaRequest, CheckMetaReply, CheckMetaRequest, CreateGroupReply, CreateGroupRequest,
    DrainNodeRequest, FsckEvent, FsckRequest, GroupStatus, ListDdlReply, ListDdlRequest, ListMovesReply,
    ListMovesRequest, ListNodesReply, ListNodesRequest, ListPartsReply, ListPartsRequest, ListShardsReply,
    ListShardsRequest, MoveProgress, NodeInfo, PartInfo, RebalanceRequest, RemoveNodeReply, RemoveNodeRequest,
    SetTableReply, SetTableRequest, ShardInfo, ShowTableReply, ShowTableRequest, StatusReply, StatusRequest,
    TableSetting, TableShardInfo,
};
use moorhouse_security::Callers;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::check;
use crate::ddl;
use crate::error::{ControllerError, OrBadRequest};
use crate::fsck::Fsck;
use crate::limits;
use crate::moves::Mover;
use crate::owner::Owner;
use crate::published::Published;
use crate::security::{Audit, Noted};
use crate::tally::{PartRow, Tallies, Tally, is_stored, part_rows};

pub struct AdminService {
    pub owner: Owner,
    pub mover: Arc<Mover>,
    pub callers: Callers,
    pub audit: Audit,
    pub fsck: Arc<Fsck>,
    pub tasks: TaskGroup,
    pub store: String,
    pub durable: Arc<dyn Store>,
    pub objects: String,
    pub tallies: Tallies,
}

type MoveStream = ReceiverStream<Result<MoveProgress, Status>>;

impl AdminService {
    /// Everything in the store, as of one moment.
    async fn records(&self) -> Result<Vec<KeyValue>, Status> {
        let records = self.durable.range(b"").await;
        records.map_err(|error| Status::unavailable(format!("the store cannot be read ({error}): ask again")))
    }

    async fn balance(&self, group: GroupName, noted: Noted) -> Result<Response<MoveStream>, Status> {
        let place = match self.mover.admit() {
            Ok(place) => place,
            Err(error) => {
                noted.end(Err(error.to_string())).await;
                return Err(error.into());
            }
        };
        let (sender, receiver) = mpsc::channel(limits::STREAM_BACKLOG);
        let mover = Arc::clone(&self.mover);
        // Goes on when the client leaves: half a rebalance helps, a move that stops in its middle does not.
        self.tasks.spawn("balance", async move {
            noted.end(mover.balance(place, group, Some(sender)).await).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let shown = self.owner.shown();
        let tallies = self.tallies.of(&self.owner, |_| true).await?;
        let warehouse = shown.directory.warehouse.as_ref().ok_or_else(|| Status::unavailable("no warehouse yet"))?;
        let mut reply = StatusReply {
            warehouse: warehouse.id.to_string(),
            shards: u32::from(warehouse.shards.get()),
            store: self.store.clone(),
            objects: self.objects.clone(),
            revision: shown.directory.revision.0,
            tables: shown.directory.tables.len() as u64,
            groups: shown.directory.groups.keys().map(|group| group_status(&shown, group)).collect(),
            ..StatusReply::default()
        };
        for (_, _, tally) in tallies {
            reply.parts_active += tally.parts_staged + tally.parts_stored;
            reply.parts_staged += tally.parts_staged;
            reply.parts_stored += tally.parts_stored;
            reply.bytes_staged += tally.bytes_staged;
            reply.bytes_stored += tally.bytes_stored;
        }
        for (_, live) in shown.liveness.up() {
            reply.object_puts += live.load.object_puts;
            reply.object_gets += live.load.object_gets;
        }
        Ok(Response::new(reply))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesReply>, Status> {
        let shown = self.owner.shown();
        let wanted = wanted_group(&shown, &request.into_inner().group)?;
        let nodes = shown.directory.nodes.values().filter(|node| wanted.as_ref().is_none_or(|g| node.group == *g));
        let nodes = nodes.map(|node| node_info(&shown, node)).collect();
        Ok(Response::new(ListNodesReply { nodes }))
    }

    async fn list_shards(&self, request: Request<ListShardsRequest>) -> Result<Response<ListShardsReply>, Status> {
        let shown = self.owner.shown();
        let wanted = wanted_group(&shown, &request.into_inner().group)?;
        let info = |a: &moorhouse_catalog::Assignment| ShardInfo {
            group: a.group.as_str().to_owned(),
            shard: u32::from(a.shard.0),
            node: a.node.as_str().to_owned(),
            epoch: a.epoch.0,
            move_phase: a.moving.as_ref().map_or_else(String::new, |intent| format!("moving to {}", intent.to)),
        };
        let shards = shown.directory.assignments.values().filter(|a| wanted.as_ref().is_none_or(|g| a.group == *g));
        Ok(Response::new(ListShardsReply { shards: shards.map(info).collect() }))
    }

    async fn list_parts(&self, request: Request<ListPartsRequest>) -> Result<Response<ListPartsReply>, Status> {
        let ListPartsRequest { database, table, all } = request.into_inner();
        let directory = self.owner.shown().directory;
        let fits = |wanted: &str, name: &SqlName| wanted.is_empty() || wanted == name.as_str();
        let fitting = |t: &&Table| fits(&database, &t.database) && fits(&table, &t.name);
        let ids: BTreeSet<_> = directory.tables.values().filter(fitting).map(|t| t.id).collect();
        if ids.is_empty() && !table.is_empty() {
            return Err(Status::not_found(format!("there is no table {table} in {}", or_any(&database))));
        }
        let mut parts = Vec::new();
        for at in self.owner.table_shards().await?.into_iter().filter(|at| ids.contains(&at.table)) {
            let (_, rows) = part_rows(&self.owner, at).await?;
            let rows = rows.iter().filter(|row| all || !row.covered);
            parts.extend(rows.filter_map(|row| Some(part_info(directory.tables.get(&row.at.table)?, row))));
        }
        Ok(Response::new(ListPartsReply { parts }))
    }

    async fn list_moves(&self, _request: Request<ListMovesRequest>) -> Result<Response<ListMovesReply>, Status> {
        Ok(Response::new(ListMovesReply { moves: self.mover.list() }))
    }

    async fn list_ddl(&self, request: Request<ListDdlRequest>) -> Result<Response<ListDdlReply>, Status> {
        let seq = request.into_inner().seq;
        let only = (seq > 0).then_some(DdlSeq(seq));
        let tasks = self.owner.read(move |catalog| ddl::listing::list(catalog, only)).await?;
        if tasks.is_empty()
            && let Some(seq) = only
        {
            return Err(Status::not_found(format!(
                "there is no DDL task {seq}, or it is forgotten: the newest are kept"
            )));
        }
        Ok(Response::new(ListDdlReply { tasks }))
    }

    async fn create_group(&self, request: Request<CreateGroupRequest>) -> Result<Response<CreateGroupReply>, Status> {
        let caller = self.callers.of(&request)?;
        let group = GroupName::new(request.into_inner().group).or_bad_request()?;
        let target = group.to_string();
        let work = async { self.owner.apply(Command::CreateGroup(group)).await.map_err(Status::from) };
        self.audit.around(&caller, ("create_group", &target), work).await?;
        Ok(Response::new(CreateGroupReply {}))
    }

    type DrainNodeStream = MoveStream;

    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Result<Response<MoveStream>, Status> {
        let caller = self.callers.of(&request)?;
        let node = NodeName::new(request.into_inner().node).or_bad_request()?;
        let noted = self.audit.begin(&caller, "drain_node", node.as_str()).await?;
        let drained = self.owner.apply(Command::SetDraining { node: node.clone(), draining: true }).await;
        let shown = self.owner.shown();
        let group = shown.directory.nodes.get(&node).map(|node| node.group.clone());
        let removed = || Status::not_found(format!("node {node} was removed"));
        match drained.map_err(Status::from).and_then(|_| group.ok_or_else(removed)) {
            Ok(group) => self.balance(group, noted).await,
            Err(status) => {
                noted.end(Err(status.message().to_owned())).await;
                Err(status)
            }
        }
    }

    type RebalanceStream = MoveStream;

    async fn rebalance(&self, request: Request<RebalanceRequest>) -> Result<Response<MoveStream>, Status> {
        let caller = self.callers.of(&request)?;
        let group = GroupName::new(request.into_inner().group).or_bad_request()?;
        if !self.owner.shown().directory.groups.contains_key(&group) {
            return Err(unknown_group(group));
        }
        let noted = self.audit.begin(&caller, "rebalance", group.as_str()).await?;
        self.balance(group, noted).await
    }

    type BackupMetaStream = ReceiverStream<Result<BackupChunk, Status>>;

    async fn backup_meta(
        &self,
        _request: Request<BackupMetaRequest>,
    ) -> Result<Response<Self::BackupMetaStream>, Status> {
        let records = self.records().await?;
        let (sender, receiver) = mpsc::channel(limits::STREAM_BACKLOG);
        self.tasks.spawn("backup", async move {
            let mut writer = backup::Writer::default();
            for (key, value) in records {
                writer.push(&key, &value);
                if writer.waiting() >= limits::PAGE_BYTES
                    && sender.send(Ok(BackupChunk { data: writer.take().into() })).await.is_err()
                {
                    return;
                }
            }
            // Who has left needs no end.
            let _ = sender.send(Ok(BackupChunk { data: writer.end().into() })).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn check_meta(&self, _request: Request<CheckMetaRequest>) -> Result<Response<CheckMetaReply>, Status> {
        let records = self.records().await?;
        let checked = tokio::task::spawn_blocking(move || check::check(&records)).await;
        checked.map(Response::new).map_err(|error| Status::internal(format!("the check broke: {error}")))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Result<Response<RemoveNodeReply>, Status> {
        let caller = self.callers.of(&request)?;
        let node = NodeName::new(request.into_inner().node).or_bad_request()?;
        let target = node.to_string();
        let work = async { self.owner.apply(Command::RemoveNode(node)).await.map_err(Status::from) };
        self.audit.around(&caller, ("remove_node", &target), work).await?;
        Ok(Response::new(RemoveNodeReply {}))
    }

    async fn show_table(&self, request: Request<ShowTableRequest>) -> Result<Response<ShowTableReply>, Status> {
        let ShowTableRequest { database, table } = request.into_inner();
        let database = SqlName::new(database).or_bad_request()?;
        let name = SqlName::new(table).or_bad_request()?;
        let directory = self.owner.shown().directory;
        let table = directory.table_named(&database, &name);
        let table = table.ok_or_else(|| Status::not_found(format!("there is no table {database}.{name}")))?;
        let id = table.id;
        let loaded = move |catalog: &moorhouse_catalog::state::Catalog| {
            let loaded = catalog.live_shards().filter(|(at, shard)| at.table == id && shard.is_loaded());
            loaded.map(|(at, _)| at).collect::<BTreeSet<_>>()
        };
        // Before they are counted.
        let loaded = self.owner.read(loaded).await?;
        let tallies = self.tallies.of(&self.owner, |at| at.table == id).await?;
        let shards = directory.warehouse.iter().flat_map(|warehouse| warehouse.shards.iter());
        let shards = shards.map(|shard| {
            let at = TableShard { table: id, shard };
            let tally = tallies.iter().find(|(of, ..)| *of == at);
            table_shard_info(at, directory.assignment(&table.owner, shard), tally, loaded.contains(&at))
        });
        Ok(Response::new(ShowTableReply {
            database: database.to_string(),
            table: name.to_string(),
            id: id.to_string(),
            owner: table.owner.to_string(),
            engine: table.engine_full.clone(),
            settings: table_settings(&table.storage),
            shards: shards.collect(),
        }))
    }

    async fn set_table(&self, request: Request<SetTableRequest>) -> Result<Response<SetTableReply>, Status> {
        let caller = self.callers.of(&request)?;
        let SetTableRequest { database, table, settings } = request.into_inner();
        let database = SqlName::new(database).or_bad_request()?;
        let name = SqlName::new(table).or_bad_request()?;
        let settings = settings.into_iter().map(|setting| (setting.name, setting.value)).collect();
        let command = Command::SetTableStorage { database: database.clone(), name: name.clone(), settings };
        let target = format!("{database}.{name}");
        let work = async { self.owner.apply(command).await.map_err(Status::from) };
        self.audit.around(&caller, ("set_table", &target), work).await?;
        let directory = self.owner.shown().directory;
        let table = directory.table_named(&database, &name);
        let table = table.ok_or_else(|| Status::not_found(format!("table {database}.{name} was dropped")))?;
        Ok(Response::new(SetTableReply { settings: table_settings(&table.storage) }))
    }

    type FsckStream = ReceiverStream<Result<FsckEvent, Status>>;

    async fn fsck(&self, request: Request<FsckRequest>) -> Result<Response<Self::FsckStream>, Status> {
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(limits::STREAM_BACKLOG);
        let (fsck, left) = (Arc::clone(&self.fsck), sender.clone());
        // Nobody needs the rest of a check whose asker has left.
        self.tasks.spawn("fsck", async move {
            tokio::select! {
                () = fsck.run(request, sender) => {}
                () = left.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn table_shard_info(
    at: TableShard,
    held: Option<&moorhouse_catalog::Assignment>,
    tally: Option<&(TableShard, Version, Tally)>,
    loaded: bool,
) -> TableShardInfo {
    let (version, tally) = tally.map_or((Version(0), Tally::default()), |(_, version, tally)| (*version, *tally));
    let Tally { parts_staged, parts_stored, covered, rows, bytes_staged, bytes_stored } = tally;
    TableShardInfo {
        shard: u32::from(at.shard.0),
        node: held.map_or_else(String::new, |held| held.node.to_string()),
        epoch: held.map_or(0, |held| held.epoch.0),
        version: version.0,
        parts: parts_staged + parts_stored,
        covered,
        rows,
        bytes_staged,
        bytes_stored,
        loaded,
    }
}

fn table_settings(storage: &TableStorage) -> Vec<TableSetting> {
    let TableStorage { durability, settle_ms, settle_bytes, settle_level } = storage;
    let settings = [
        ("durability", durability.map(|mode| mode.to_string())),
        ("settle_ms", settle_ms.map(|ms| ms.to_string())),
        ("settle_bytes", settle_bytes.map(|bytes| bytes.to_string())),
        ("settle_level", settle_level.map(|level| level.to_string())),
    ];
    let own = settings.into_iter().filter_map(|(name, value)| Some((name, value?)));
    own.map(|(name, value)| TableSetting { name: name.to_owned(), value }).collect()
}

fn or_any(database: &str) -> &str {
    if database.is_empty() { "any database" } else { database }
}

fn unknown_group(group: GroupName) -> Status {
    ControllerError::Catalog(moorhouse_catalog::state::CatalogError::UnknownGroup(group)).into()
}

/// `None`: all groups.
fn wanted_group(shown: &Published, name: &str) -> Result<Option<GroupName>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let group = GroupName::new(name).or_bad_request()?;
    if shown.directory.groups.contains_key(&group) { Ok(Some(group)) } else { Err(unknown_group(group)) }
}

fn group_status(shown: &Published, group: &GroupName) -> GroupStatus {
    GroupStatus {
        name: group.as_str().to_owned(),
        nodes: shown.directory.group_nodes(group).count() as u32,
        nodes_up: shown.nodes_up(group).len() as u32,
        shards_assigned: shown.directory.group_assignments(group).count() as u32,
    }
}

fn node_info(shown: &Published, node: &moorhouse_catalog::Node) -> NodeInfo {
    let live = shown.liveness.get(&node.name);
    NodeInfo {
        node: node.name.as_str().to_owned(),
        group: node.group.as_str().to_owned(),
        agent_address: node.agent_address.clone(),
        engine_http: node.engine_http.clone(),
        engine_native: node.engine_native.clone(),
        up: live.is_some_and(|live| live.up),
        draining: node.draining,
        incarnation: node.incarnation.0,
        shards: shown.directory.assignments_of(&node.name).count() as u32,
        view_revision: live.map_or(0, |live| live.view_revision.0),
        load: live.map(|live| live.load),
    }
}

fn part_info(table: &Table, row: &PartRow) -> PartInfo {
    let part = row.open();
    let staged = part.files.iter().find_map(|file| match &file.location {
        Location::Staged { node } => Some(node.as_str().to_owned()),
        Location::Stored { .. } => None,
    });
    let object = part.files.iter().find_map(|file| match &file.location {
        Location::Stored { object, .. } => Some(object.as_str().to_owned()),
        Location::Staged { .. } => None,
    });
    PartInfo {
        database: table.database.as_str().to_owned(),
        table: table.name.as_str().to_owned(),
        shard: u32::from(row.at.shard.0),
        part: row.path.as_str().to_owned(),
        rows: part.rows,
        bytes: part.files.iter().map(|file| file.bytes).sum(),
        files: part.files.len() as u32,
        stored: is_stored(&part),
        covered: row.covered,
        node: staged.unwrap_or_default(),
        object: object.unwrap_or_default(),
    }
}
