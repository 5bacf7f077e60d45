//! The command line, as clap sees it.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use moorhouse_security::Lifetime;

use crate::cache::CacheCommand;
use crate::ddl::DdlCommand;
use crate::documents::{AccessCommand, ConfigCommand};
use crate::meta::MetaCommand;
use crate::security::{CertCommand, TokenCommand};

#[derive(Debug, Parser)]
#[command(name = "moorctl", version, about = "Starts, shows and changes a Moorhouse warehouse")]
pub struct Args {
    /// How listings are printed
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The controller, http://HOST:PORT, or https://HOST:PORT with --certificate; without it, the one that `dev up` started in --dir
    #[arg(long, global = true, env = "MOORHOUSE_CONTROLLER")]
    pub controller: Option<String>,
    /// Directory with your tls.crt, tls.key and ca.crt, for a controller at https://HOST:PORT
    #[arg(long, global = true, env = "MOORHOUSE_TLS", value_name = "DIR")]
    pub certificate: Option<PathBuf>,
    /// Speak plaintext to a controller that is not on this machine
    #[arg(long, global = true, env = "MOORHOUSE_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,
    /// Where `dev up` keeps its state, logs and data
    #[arg(long, global = true, env = "MOORHOUSE_DEV_DIR", default_value = ".moorhouse")]
    pub dir: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A whole warehouse as processes of this machine
    #[command(subcommand)]
    Dev(DevCommand),
    /// The nodes of the compute groups
    #[command(subcommand)]
    Node(NodeCommand),
    /// Which node holds which shard
    #[command(subcommand)]
    Shard(ShardCommand),
    /// The data parts of the tables
    #[command(subcommand)]
    Part(PartCommand),
    /// How the tables' bytes are kept
    #[command(subcommand)]
    Table(TableCommand),
    /// What is on the nodes' SSDs
    #[command(subcommand)]
    Cache(CacheCommand),
    /// ClickHouse's settings, as a document with versions
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Users, roles, row filters, quotas, profiles
    #[command(subcommand)]
    Access(AccessCommand),
    /// Statements of the distributed DDL queue
    #[command(subcommand)]
    Ddl(DdlCommand),
    /// Shard moves of this controller's lifetime
    #[command(subcommand)]
    Move(MoveCommand),
    /// The compute groups
    #[command(subcommand)]
    Group(GroupCommand),
    /// Backup, restore and check of the metadata
    #[command(subcommand)]
    Meta(MetaCommand),
    /// The warehouse in numbers
    Status,
    /// Proves that catalog, object store and the nodes' staging agree; exit code 1 if they do not
    Fsck(FsckArgs),
    /// Certificates, for those who have no authority of their own
    #[command(subcommand)]
    Cert(CertCommand),
    /// Join tokens, which let new nodes in
    #[command(subcommand)]
    Token(TokenCommand),
    /// What was changed, by whom and from where
    Audit {
        /// Only what is younger: 30m, 12h, 7d
        #[arg(long, value_name = "TIME")]
        since: Option<Lifetime>,
        /// At most so many, the newest
        #[arg(long, default_value_t = 1_000)]
        last: u32,
    },
}

#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Starts a controller, the nodes and a gateway, and prints the connection strings
    Up(UpArgs),
    /// Stops all of it; the data stays for the next `dev up`
    Down,
    /// Shows the processes and the connection strings
    Status,
    /// Kills a node's agent and its engine with SIGKILL, as a crash would; or `controller`, or `gateway`
    Kill { node: String },
    /// Starts a stopped or killed node, `controller` or `gateway` again
    Start { node: String },
}

/// What is not given is taken from an earlier `dev up` in the same directory, or else has the default named here.
#[derive(Debug, Default, clap::Args)]
pub struct UpArgs {
    /// Slices of every table, fixed when the warehouse is made [default: 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub shards: Option<u32>,
    /// A compute group and its number of nodes, NAME=N; repeatable [default: etl=2 bi=1]
    #[arg(long = "group")]
    pub groups: Vec<GroupSpec>,
    /// The metadata store: embedded:FILE or etcd://HOST:PORT/PREFIX [default: embedded:DIR/catalog.redb]
    #[arg(long)]
    pub store: Option<String>,
    /// The object store: file:///DIR or s3://BUCKET/PREFIX?endpoint=…&region=…&allow_http=true [default: file://DIR/objects]
    #[arg(long)]
    pub objects: Option<String>,
    /// The lowest port; the others follow it [default: 18100]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1024..))]
    pub port_base: Option<u16>,
    /// Age in milliseconds at which a part is uploaded even if it may still be merged [default: 3000]
    #[arg(long)]
    pub settle_ms: Option<u64>,
    /// Local cache of each node, in bytes [default: 2 GiB]
    #[arg(long)]
    pub cache_bytes: Option<u64>,
    /// The ClickHouse to run: auto, or the path of a clickhouse binary or of libchdb.so [default: auto]
    #[arg(long)]
    pub engine: Option<String>,
    /// With TLS between all processes, by certificates that it makes; stays so
    #[arg(long)]
    pub tls: bool,
}

/// `NAME=N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    pub name: String,
    pub nodes: u32,
}

impl FromStr for GroupSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, nodes) = text.split_once('=').ok_or("a group is given as NAME=N, for example etl=2")?;
        check_name(name)?;
        let nodes = nodes.parse::<u32>().map_err(|_| format!("'{nodes}' is not a number of nodes"))?;
        if !(1..=64).contains(&nodes) {
            return Err(format!("{nodes} nodes: a group has 1 to 64 of them here"));
        }
        Ok(Self { name: name.to_owned(), nodes })
    }
}

/// Names of groups and nodes become file names, ports' labels and keys: a small alphabet keeps them safe in all three.
pub fn check_name(name: &str) -> Result<(), String> {
    let first_ok = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest_ok = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if first_ok && rest_ok && name.len() <= 40 {
        return Ok(());
    }
    Err(format!("'{name}' is no name: a lower-case letter, then up to 39 lower-case letters, digits and dashes"))
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Lists nodes
    List {
        /// Only this group
        #[arg(long)]
        group: Option<String>,
    },
    /// Starts one more node on this machine (a warehouse of `dev up`)
    Add {
        #[arg(long)]
        group: String,
        /// [default: the group's name and the next free number]
        #[arg(long)]
        name: Option<String>,
        /// Returns when the shards are spread over the group again
        #[arg(long)]
        wait: bool,
    },
    /// Moves every shard away from a node
    Drain { node: String },
    /// Takes a drained node off the books
    Remove { node: String },
}

#[derive(Debug, Subcommand)]
pub enum ShardCommand {
    /// Lists the assignments
    List {
        /// Only this group
        #[arg(long)]
        group: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum PartCommand {
    /// Lists parts
    List {
        /// Only this table, DATABASE.TABLE
        #[arg(long)]
        table: Option<String>,
        /// Parts that a merge has replaced, too
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// One table, and what each of its shards has: node, version, parts, rows, bytes
    Show {
        /// DATABASE.TABLE
        table: String,
    },
    /// Changes settings of one table and shows all that it has; what it has not is the node's default
    Set {
        /// DATABASE.TABLE
        table: String,
        /// NAME=VALUE: durability=local|replicated|object, settle_ms, settle_bytes, settle_level; `default` as a value gives
        /// it back to the node
        #[arg(value_parser = read_setting)]
        settings: Vec<(String, String)>,
    },
}

fn read_setting(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("'{text}' is no setting: it looks like settle_ms=60000"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct FsckArgs {
    /// Reads every stored byte and compares checksums; without it, places and sizes alone are compared
    #[arg(long)]
    pub deep: bool,
    /// Says what would be repaired; with --yes, repairs it
    #[arg(long)]
    pub repair: bool,
    /// Does what --repair says
    #[arg(long, requires = "repair")]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum MoveCommand {
    /// Lists moves
    List,
}

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// Shows a group and how to connect to it
    Show { name: String },
}
