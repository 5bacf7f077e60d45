//! Each command, from its arguments to its output.

use std::path::Path;

use moorhouse_proto::{ListPartsRequest, ShowTableReply, StatusReply, TableSetting};
use moorhouse_security::TlsFlags;
use serde_json::{Value, json};

use crate::args::{
    Args, Command, GroupCommand, MoveCommand, NodeCommand, Output, PartCommand, ShardCommand, TableCommand,
};
use crate::cache;
use crate::controller::{Controller, follow_moves};
use crate::ddl;
use crate::dev;
use crate::dev::state::{DevDir, DevState};
use crate::documents;
use crate::error::CtlError;
use crate::fsck;
use crate::meta::{self, MetaCommand};
use crate::security;
use crate::show::{Listing, print_json, print_text};

pub async fn run(args: Args) -> Result<(), CtlError> {
    let Args { output, controller, certificate, insecure_plaintext, dir, command } = args;
    match command {
        Command::Dev(command) => dev::run(command, &dir, output).await,
        Command::Node(NodeCommand::Add { group, name, wait }) => dev::nodes::add(&dir, &group, name, wait).await,
        Command::Node(NodeCommand::Remove { node }) if controller.is_none() => dev::nodes::remove(&dir, &node).await,
        Command::Cert(command) => security::cert(command),
        Command::Meta(MetaCommand::Restore { file, store, objects }) => meta::restore(&file, &store, &objects).await,
        command => {
            let dev = DevDir::new(&dir)?;
            let state = dev.load()?;
            let url = controller_url(controller, &dir, state.as_ref())?;
            let of_dev = state.as_ref().filter(|state| state.settings.controller_url() == url);
            let certificate = certificate.or_else(|| of_dev.and_then(|state| dev.admin_certificate(&state.settings)));
            let tls = TlsFlags { tls: certificate, insecure_plaintext };
            let mut controller = Controller::connect(&url, &tls).await?;
            ask(&mut controller, command, state.as_ref(), output).await
        }
    }
}

/// `--controller`, or else the one of the dev state.
fn controller_url(given: Option<String>, dir: &Path, state: Option<&DevState>) -> Result<String, CtlError> {
    if let Some(url) = given {
        return Ok(url);
    }
    state.map(|state| state.settings.controller_url()).ok_or_else(|| {
        CtlError::bad_input(
            format!("no --controller given, and {} holds no dev warehouse", dir.display()),
            "start one with `moorctl dev up`, or name a controller with --controller http://HOST:PORT",
        )
    })
}

async fn ask(
    controller: &mut Controller,
    command: Command,
    state: Option<&DevState>,
    output: Output,
) -> Result<(), CtlError> {
    match command {
        Command::Status => show_status(&controller.status().await?, output),
        Command::Node(NodeCommand::List { group }) => list_nodes(controller, group.as_deref()).await?.print(output),
        Command::Node(NodeCommand::Drain { node }) => {
            let moved = follow_moves(controller.drain(&node).await?).await?;
            print_text(&format!(
                "{node} is drained, {moved} shards moved away; `moorctl node remove {node}` takes it off the books"
            ))
        }
        Command::Node(NodeCommand::Remove { node }) => {
            controller.remove_node(&node).await?;
            print_text(&format!("{node} is off the books; stop its agent now"))
        }
        Command::Shard(ShardCommand::List { group }) => list_shards(controller, group.as_deref()).await?.print(output),
        Command::Part(PartCommand::List { table, all }) => {
            list_parts(controller, table.as_deref(), all).await?.print(output)
        }
        Command::Move(MoveCommand::List) => list_moves(controller).await?.print(output),
        Command::Group(GroupCommand::Show { name }) => show_group(controller, &name, state, output).await,
        Command::Table(TableCommand::Show { table }) => {
            let (database, table) = read_table(&table)?;
            print_shown(&controller.show_table(database, table).await?, output)
        }
        Command::Table(TableCommand::Set { table, settings }) => {
            set_table(controller, &table, settings).await?.print(output)
        }
        Command::Cache(command) => cache::run(controller, command, output).await,
        Command::Config(command) => documents::config(controller, command, output).await,
        Command::Access(command) => documents::access(controller, command, output).await,
        Command::Ddl(command) => ddl::run(controller, command, output).await,
        Command::Fsck(args) => fsck::run(controller, args, output).await,
        Command::Meta(MetaCommand::Backup { file }) => meta::backup(controller, &file).await,
        Command::Meta(MetaCommand::Check) => meta::check(controller, output).await,
        Command::Token(command) => security::token(controller, command, output).await,
        Command::Audit { since, last } => security::audit(controller, since, last).await?.print(output),
        Command::Meta(MetaCommand::Restore { .. })
        | Command::Dev(_)
        | Command::Cert(_)
        | Command::Node(NodeCommand::Add { .. }) => unreachable!("`run` has taken these"),
    }
}

fn show_status(status: &StatusReply, output: Output) -> Result<(), CtlError> {
    let numbers = [
        ("warehouse", json!(status.warehouse)),
        ("store", json!(status.store)),
        ("objects", json!(status.objects)),
        ("revision", json!(status.revision)),
        ("shards", json!(status.shards)),
        ("tables", json!(status.tables)),
        ("parts_active", json!(status.parts_active)),
        ("parts_staged", json!(status.parts_staged)),
        ("parts_stored", json!(status.parts_stored)),
        ("bytes_staged", json!(status.bytes_staged)),
        ("bytes_stored", json!(status.bytes_stored)),
        ("object_puts", json!(status.object_puts)),
        ("object_gets", json!(status.object_gets)),
    ];
    let mut groups = Listing::new(&["group", "nodes", "nodes_up", "shards_assigned"]);
    for group in &status.groups {
        groups.push([json!(group.name), json!(group.nodes), json!(group.nodes_up), json!(group.shards_assigned)]);
    }
    match output {
        Output::Json => {
            let mut document: serde_json::Map<String, Value> =
                numbers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            document.insert("groups".to_owned(), groups.to_json());
            print_json(&Value::Object(document))
        }
        Output::Table => {
            let mut listing = Listing::new(&["what", "value"]);
            for (name, value) in numbers {
                listing.push([json!(name.replace('_', " ")), value]);
            }
            print_text(&format!("{}\n{}", listing.to_table(), groups.to_table()))
        }
    }
}

async fn list_nodes(controller: &mut Controller, group: Option<&str>) -> Result<Listing, CtlError> {
    let mut listing = Listing::new(&[
        "node",
        "group",
        "up",
        "draining",
        "shards",
        "staged_parts",
        "staged_bytes",
        "cached_bytes",
        "object_puts",
        "peer_read_bytes",
        "commits",
        "view_revision",
        "incarnation",
        "agent",
        "engine_http",
        "engine_native",
    ]);
    for node in controller.nodes(group.unwrap_or_default()).await? {
        let load = node.load.unwrap_or_default();
        listing.push([
            json!(node.node),
            json!(node.group),
            json!(node.up),
            json!(node.draining),
            json!(node.shards),
            json!(load.staged_parts),
            json!(load.staged_bytes),
            json!(load.cached_bytes),
            json!(load.object_puts),
            json!(load.peer_read_bytes),
            json!(load.commits),
            json!(node.view_revision),
            json!(node.incarnation),
            json!(node.agent_address),
            json!(node.engine_http),
            json!(node.engine_native),
        ]);
    }
    Ok(listing)
}

async fn list_shards(controller: &mut Controller, group: Option<&str>) -> Result<Listing, CtlError> {
    let mut listing = Listing::new(&["group", "shard", "node", "epoch", "move_phase"]);
    for shard in controller.shards(group.unwrap_or_default()).await? {
        listing.push([
            json!(shard.group),
            json!(shard.shard),
            json!(shard.node),
            json!(shard.epoch),
            json!(shard.move_phase),
        ]);
    }
    Ok(listing)
}

async fn list_parts(controller: &mut Controller, table: Option<&str>, all: bool) -> Result<Listing, CtlError> {
    let (database, table) = match table {
        None => ("", ""),
        Some(name) => read_table(name)?,
    };
    let request = ListPartsRequest { database: database.to_owned(), table: table.to_owned(), all };
    let mut listing = Listing::new(&[
        "database", "table", "shard", "part", "rows", "bytes", "files", "stored", "covered", "node", "object",
    ]);
    for part in controller.parts(request).await? {
        listing.push([
            json!(part.database),
            json!(part.table),
            json!(part.shard),
            json!(part.part),
            json!(part.rows),
            json!(part.bytes),
            json!(part.files),
            json!(part.stored),
            json!(part.covered),
            json!(part.node),
            json!(part.object),
        ]);
    }
    Ok(listing)
}

fn print_shown(table: &ShowTableReply, output: Output) -> Result<(), CtlError> {
    let mut about = vec![
        ("table".to_owned(), format!("{}.{}", table.database, table.table)),
        ("id".to_owned(), table.id.clone()),
        ("owner".to_owned(), table.owner.clone()),
        ("engine".to_owned(), table.engine.clone()),
    ];
    about.extend(table.settings.iter().map(|setting| (setting.name.clone(), setting.value.clone())));
    let mut shards = Listing::new(&[
        "shard",
        "node",
        "epoch",
        "version",
        "parts",
        "covered",
        "rows",
        "bytes_staged",
        "bytes_stored",
        "loaded",
    ]);
    for shard in &table.shards {
        shards.push([
            json!(shard.shard),
            json!(shard.node),
            json!(shard.epoch),
            json!(shard.version),
            json!(shard.parts),
            json!(shard.covered),
            json!(shard.rows),
            json!(shard.bytes_staged),
            json!(shard.bytes_stored),
            json!(shard.loaded),
        ]);
    }
    match output {
        Output::Json => {
            let mut document: serde_json::Map<String, Value> =
                about.into_iter().map(|(name, value)| (name, json!(value))).collect();
            document.insert("shards".to_owned(), shards.to_json());
            print_json(&Value::Object(document))
        }
        Output::Table => {
            let mut listing = Listing::new(&["what", "value"]);
            for (name, value) in about {
                listing.push([json!(name), json!(value)]);
            }
            print_text(&format!("{}\n{}", listing.to_table(), shards.to_table()))
        }
    }
}

async fn set_table(
    controller: &mut Controller,
    name: &str,
    settings: Vec<(String, String)>,
) -> Result<Listing, CtlError> {
    let (database, table) = read_table(name)?;
    let mut listing = Listing::new(&["setting", "value"]);
    for TableSetting { name, value } in controller.set_table(database, table, settings).await? {
        listing.push([json!(name), json!(value)]);
    }
    Ok(listing)
}

fn read_table(name: &str) -> Result<(&str, &str), CtlError> {
    name.split_once('.').ok_or_else(|| {
        CtlError::bad_input(format!("'{name}' is no table"), "give it as DATABASE.TABLE, for example tpch.lineitem")
    })
}

async fn list_moves(controller: &mut Controller) -> Result<Listing, CtlError> {
    let mut listing =
        Listing::new(&["group", "shard", "from", "to", "outcome", "hold_ms", "total_ms", "copied_bytes", "reason"]);
    for entry in controller.moves().await? {
        listing.push([
            json!(entry.group),
            json!(entry.shard),
            json!(entry.from),
            json!(entry.to),
            json!(entry.outcome),
            json!(entry.hold_ms),
            json!(entry.total_ms),
            json!(entry.copied_bytes),
            json!(entry.reason),
        ]);
    }
    Ok(listing)
}

async fn show_group(
    controller: &mut Controller,
    name: &str,
    state: Option<&DevState>,
    output: Output,
) -> Result<(), CtlError> {
    let status = controller.status().await?;
    let known = status.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>();
    let Some(group) = status.groups.iter().find(|group| group.name == name) else {
        return Err(CtlError::bad_input(
            format!("there is no group '{name}'"),
            format!("the groups are: {}", known.join(", ")),
        ));
    };
    let endpoint = state.and_then(|state| state.endpoint(name));
    let document = json!({
        "group": group.name,
        "nodes": group.nodes,
        "nodes_up": group.nodes_up,
        "shards_assigned": group.shards_assigned,
        "http": endpoint.as_ref().map(|endpoint| endpoint.http.clone()),
        "native": endpoint.as_ref().map(|endpoint| endpoint.native.clone()),
    });
    if output == Output::Json {
        return print_json(&document);
    }
    let mut listing = Listing::new(&["what", "value"]);
    for field in ["group", "nodes", "nodes_up", "shards_assigned", "http", "native"] {
        listing.push([json!(field.replace('_', " ")), document[field].clone()]);
    }
    listing.print(output)
}
