//! A node's life: check, register, mount, start the engine, serve; and the same backwards.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorhouse_base::clock::SystemClock;
use moorhouse_base::tasks::{TaskGroup, stop_signal};
use moorhouse_base::telemetry;
use moorhouse_cache::BlobCache;
use moorhouse_catalog::{Incarnation, Node, NodeView};
use moorhouse_engine::{Admin, ClusterConfig, ClusterShard, EngineBinary, EngineConfig, SqlUser};
use moorhouse_objects::{Objects, ObjectsUrl};
use moorhouse_proto::agent_server::AgentServer;
use moorhouse_proto::node_cache_server::NodeCacheServer;
use moorhouse_security::{Credentials, Dialer, GuardLayer, RoleKind, incoming};
use tokio::sync::{mpsc, watch};
use tonic::transport::Server;

use crate::args::Args;
use crate::blobs::{BlobSource, key};
use crate::cache_service::{CacheService, watch_disk};
use crate::controller::ControllerClient;
use crate::copies::{Copies, take_back};
use crate::fs::ShardFs;
use crate::fs::fuse::{Mount, raise_read_ahead};
use crate::limits;
use crate::owner::{Applied, CLUSTER, Documents, EngineOwner};
use crate::router::ShardRouter;
use crate::routes::Routes;
use crate::service::AgentService;
use crate::tables::BrokenParts;
use crate::{enrol, session, tables, upload};

/// The agents' own user on every engine.
const ENGINE_ADMIN: &str = "moorhouse_agent";

/// Why the agent ends, sorted by whose turn it is.
#[derive(Debug)]
pub enum NodeError {
    /// The one who started it: wrong flags or surroundings. Exit code 2.
    Setup(Vec<String>),
    /// Something broke while it ran. Exit code 1.
    Failed(String),
}

impl NodeError {
    pub fn lines(&self) -> Vec<String> {
        match self {
            NodeError::Setup(lines) => lines.clone(),
            NodeError::Failed(line) => vec![line.clone()],
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            NodeError::Setup(_) => 2,
            NodeError::Failed(_) => 1,
        }
    }
}

fn setup(error: impl ToString) -> NodeError {
    NodeError::Setup(vec![error.to_string()])
}

fn failed(error: impl ToString) -> NodeError {
    NodeError::Failed(error.to_string())
}

/// Runs a node until SIGTERM, or until it can no longer be one.
pub async fn run(args: Args) -> Result<(), NodeError> {
    let binary = check(&args)?;
    let certificates = TaskGroup::new();
    if let (Some(token), Some(dir)) = (&args.join_token, &args.tls.tls) {
        let (controllers, node, group) = (args.controller.as_str(), &args.name, &args.group);
        enrol::join(enrol::Joining { controllers, token, node, group, dir }).await.map_err(setup)?;
    }
    let credentials = args.tls.open(RoleKind::Agent, Some(args.name.as_str()), &certificates).map_err(setup)?;
    if let Some(credentials) = credentials.clone() {
        certificates.spawn("renewal", enrol::keep_renewed(args.controller.clone(), credentials));
    }
    let dialer = Dialer::from(credentials.clone());
    let controller = ControllerClient::new(&args.controller, args.name.clone(), &dialer).map_err(setup)?;
    let view = controller.register(&node_record(&args)).await.map_err(setup)?;
    let mistakes = args.mistakes(Some(view.shards.get()));
    if !mistakes.is_empty() {
        return Err(NodeError::Setup(mistakes));
    }
    let view = Arc::new(view);
    let copies = Arc::new(Copies::default());
    let source = open_bytes(&args, &view, &controller, &copies, dialer).await?;
    let clock = Arc::new(SystemClock);
    let fs = Arc::new(ShardFs::new(args.name.clone(), source, controller.clone(), clock));
    fs.policy.set_default(args.durability);
    fs.policy.set_staging_patience(Duration::from_millis(args.staging_patience_ms));
    fs.uploads.configure(&args.data.join("uploads"), args.upload_bytes_per_second).map_err(setup)?;
    fs.apply_view(&view).map_err(failed)?;
    let mount = mount(&args, &fs)?;
    let parts = Parts { binary, view, controller, fs: fs.clone(), copies, credentials };
    let served = serve(&args, parts).await;
    certificates.shutdown(limits::UNMOUNT).await;
    if let Err(error) = fs.flush_letting().await {
        tracing::warn!(%error, "what the engine let go of last was not reported; it comes back covered");
    }
    let unmounted = tokio::time::timeout(limits::UNMOUNT, tokio::task::spawn_blocking(move || mount.unmount())).await;
    match unmounted {
        Ok(Ok(Ok(()))) => tracing::info!("unmounted"),
        Ok(Ok(Err(error))) => tracing::error!(%error, "the mount did not go cleanly"),
        Ok(Err(error)) => tracing::error!(%error, "the mount's thread broke"),
        Err(_) => tracing::error!("the mount is still in use: the kernel ends it with this process"),
    }
    served
}

/// Everything that can be found wrong before another process is involved.
fn check(args: &Args) -> Result<EngineBinary, NodeError> {
    let mut mistakes = args.mistakes(None);
    if !Path::new("/dev/fuse").exists() {
        mistakes.push(
            "/dev/fuse is missing: load the fuse module (modprobe fuse), and give a container the device".to_string(),
        );
    }
    clean_stale_mount(&args.mount, &mut mistakes);
    for dir in [&args.data, &args.mount] {
        if let Err(error) = std::fs::create_dir_all(dir) {
            mistakes.push(format!("cannot make {}: {error}", dir.display()));
        }
    }
    let ports = [
        ("--listen", args.listen.port()),
        ("--metrics", args.metrics.port()),
        ("--engine-http-port", args.engine_http_port),
        ("--engine-native-port", args.engine_native_port),
    ];
    for (flag, port) in ports {
        if let Err(error) = TcpListener::bind((args.listen.ip(), port)) {
            mistakes.push(format!("port {port} ({flag}) cannot be used: {error}; choose another one with {flag}"));
        }
    }
    match EngineBinary::find(&args.engine) {
        Ok(binary) if mistakes.is_empty() => Ok(binary),
        Ok(_) => Err(NodeError::Setup(mistakes)),
        Err(error) => {
            mistakes.push(error.to_string());
            Err(NodeError::Setup(mistakes))
        }
    }
}

/// A mount that an agent left behind when it died answers everything with ENOTCONN: it is taken away. One that answers
/// belongs to somebody who lives.
fn clean_stale_mount(at: &Path, mistakes: &mut Vec<String>) {
    let dead = std::fs::metadata(at).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN));
    if !dead {
        if is_mount_point(at) {
            let at = at.display();
            mistakes.push(format!("{at} is mounted by a running process: stop it, or choose another --mount"));
        }
        return;
    }
    tracing::warn!(mount = %at.display(), "cleaning up the mount of an agent that died");
    if let Err(error) = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH) {
        mistakes
            .push(format!("{} is a stale mount and cannot be cleaned up: {error}; run umount -l on it", at.display()));
    }
}

fn is_mount_point(at: &Path) -> bool {
    use std::os::linux::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.st_dev()).ok();
    let Some(parent) = at.parent() else { return true };
    device(at).is_some_and(|own| Some(own) != device(parent))
}

fn node_record(args: &Args) -> Node {
    let host = args.host();
    Node {
        name: args.name.clone(),
        group: args.group.clone(),
        agent_address: format!("{host}:{}", args.listen.port()),
        engine_http: format!("{host}:{}", args.engine_http_port),
        engine_native: format!("{host}:{}", args.engine_native_port),
        incarnation: Incarnation(0),
        draining: false,
    }
}

/// Opens the bucket and the SSD, and compares the SSD with what the catalog believes to be on it.
async fn open_bytes(
    args: &Args,
    view: &NodeView,
    controller: &ControllerClient,
    copies: &Copies,
    dialer: Dialer,
) -> Result<BlobSource, NodeError> {
    let url: ObjectsUrl = view.objects_url.parse().map_err(setup)?;
    let objects = Objects::open(&url).await.map_err(setup)?;
    objects.claim(view.warehouse.0).await.map_err(setup)?;
    let dir = args.data.join("blobs");
    let cache = BlobCache::open(&dir, args.cache_bytes).map_err(setup)?;
    let staged = controller.staged().await.map_err(|status| failed(status.message()))?;
    let wanted: HashSet<_> = staged.own.iter().chain(&staged.copies).map(|blob| key(*blob)).collect();
    let mut leftovers = 0;
    for found in cache.staged_keys() {
        if !wanted.contains(&found) {
            cache.remove(found).map_err(failed)?;
            leftovers += 1;
        }
    }
    let source = BlobSource::new(cache, objects, dialer);
    source.apply_view(view);
    copies.resume(&staged);
    let missing = staged.own.iter().filter(|blob| source.cache().tenant(key(**blob)).is_none()).copied().collect();
    let lost = take_back(&source, missing, &staged).await.map_err(failed)?.len();
    if lost > 0 {
        let data = args.data.display();
        let message = format!(
            "{lost} staged files that only this node had are missing in {data}: start with the volume that has them; \
             or accept the loss of their parts with --accept-lost-parts"
        );
        if !args.accept_lost_parts {
            return Err(setup(message));
        }
        tracing::error!(lost, "starting without them, as asked: the parts that they belong to cannot be read");
    }
    let (own, kept) = (staged.own.len(), staged.copies.len());
    tracing::info!(staged = own, kept_for_others = kept, leftovers, "the SSD agrees with the catalog");
    Ok(source)
}

fn mount(args: &Args, fs: &Arc<ShardFs>) -> Result<Mount, NodeError> {
    let name = format!("moorhouse:{}", args.name);
    let mount = Mount::new(fs.clone(), &args.mount, &name, tokio::runtime::Handle::current())
        .map_err(|error| setup(format!("cannot mount {}: {error}; is /dev/fuse usable here?", args.mount.display())))?;
    if let Err(error) = raise_read_ahead(&args.mount) {
        tracing::warn!(%error, "the mount's read-ahead stays at the kernel's default");
    }
    if !mount.has_passthrough() {
        tracing::warn!(
            "no kernel passthrough (it takes CAP_SYS_ADMIN and a 6.9 kernel): the agent serves all reads itself"
        );
    }
    Ok(mount)
}

/// What a node that is registered and mounted serves with.
struct Parts {
    binary: EngineBinary,
    view: Arc<NodeView>,
    controller: ControllerClient,
    fs: Arc<ShardFs>,
    copies: Arc<Copies>,
    credentials: Option<Credentials>,
}

async fn serve(args: &Args, parts: Parts) -> Result<(), NodeError> {
    let Parts { binary, view, controller, fs, copies, credentials } = parts;
    let tasks = TaskGroup::new();
    let (views, view_changes) = watch::channel(view.clone());
    let (applied, applied_changes) = watch::channel(Applied::default());
    let (commands, command_queue) = mpsc::channel(limits::ENGINE_QUEUE);
    let router = ShardRouter::start(args.router_port_base, view.shards, &tasks).await.map_err(|error| {
        setup(format!(
            "shard router: {error}; choose a free range of {} ports with --router-port-base",
            view.shards.get()
        ))
    })?;
    let routes = Routes::new(router);
    routes.apply_view(&view);
    let service = AgentService {
        source: fs.source.clone(),
        controller: controller.clone(),
        commands,
        views: view_changes.clone(),
        routes: routes.clone(),
        arriving: std::sync::Mutex::default(),
        copying: tokio::sync::Mutex::default(),
        copies: Arc::clone(&copies),
    };
    tasks.spawn("copies", copies.tend(controller.clone(), fs.source.clone()));
    let cache_service = CacheService { fs: fs.clone(), views: view_changes.clone() };
    start_service(args, service, cache_service, credentials, &tasks).await?;
    tasks.spawn("disk", watch_disk(fs.source.cache().clone()));
    let owner = EngineOwner {
        binary,
        documents: Documents::new(engine_config(args, &view)),
        mount: args.mount.clone(),
        fs: fs.clone(),
        commands: command_queue,
        views: view_changes.clone(),
        // Who accepts the loss of parts wants the rest of their tables.
        broken_parts: if args.accept_lost_parts { BrokenParts::PutAway } else { BrokenParts::Refuse },
        applied,
        tasks: tasks.clone(),
    };
    let mut engine = tokio::spawn(owner.run());
    tasks.spawn("staging", upload::pressure::watch(fs.clone()));
    let upload_stop = tasks.token();
    tasks.spawn_uncancelled("upload", upload::run(fs.clone(), args.settle_rule(), upload_stop));
    tasks.spawn_uncancelled("repack", upload::repacking::run(fs.clone(), args.repack_rule(), tasks.token()));
    tasks.spawn("letting-go", let_go(fs.clone()));
    tasks.spawn("routes", routes.follow(view_changes.clone()));
    tasks.spawn("changelog", session::follow(controller.clone(), fs.clone()));
    let ready = applied_changes.clone();
    let (metrics_address, metrics_tasks) = (args.metrics, tasks.clone());
    tasks.spawn("ready", async move { announce_when_ready(ready, metrics_address, &metrics_tasks).await });
    let keeping = session::keep(controller, args.name.clone(), fs, views, applied_changes);

    let outcome = tokio::select! {
        () = stop_signal() => Ok(()),
        superseded = keeping => Err(failed(superseded)),
        ended = &mut engine => return Err(engine_ended(ended)),
    };
    tracing::info!("stopping");
    let clean = tasks.shutdown(limits::ENGINE_STOP).await;
    match engine.await {
        Ok(Ok(())) if clean => outcome,
        Ok(Ok(())) => outcome.and(Err(failed("some tasks did not end in time"))),
        Ok(Err(error)) => outcome.and(Err(failed(error))),
        Err(error) => outcome.and(Err(failed(error))),
    }
}

fn engine_ended(ended: Result<Result<(), moorhouse_engine::EngineError>, tokio::task::JoinError>) -> NodeError {
    match ended {
        Ok(Ok(())) => failed("the engine's owner ended by itself"),
        Ok(Err(error)) => failed(error),
        Err(error) => failed(error),
    }
}

async fn start_service(
    args: &Args,
    service: AgentService,
    cache: CacheService,
    credentials: Option<Credentials>,
    tasks: &TaskGroup,
) -> Result<(), NodeError> {
    let server = AgentServer::new(service)
        .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES)
        .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES);
    let listener = tokio::net::TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|error| setup(format!("--listen {}: {error}", args.listen)))?;
    let stop = tasks.token();
    let serving = Server::builder()
        .layer(GuardLayer)
        .add_service(server)
        .add_service(NodeCacheServer::new(cache))
        .serve_with_incoming_shutdown(incoming(listener, credentials), stop.cancelled_owned());
    tasks.spawn("service", async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the agent's service ended");
        }
    });
    Ok(())
}

async fn let_go(fs: Arc<ShardFs>) {
    let mut ticks = tokio::time::interval(limits::LETTING_GO);
    loop {
        ticks.tick().await;
        if let Err(error) = fs.flush_letting().await {
            tracing::warn!(%error, "removed names are not reported yet");
        }
        fs.prune_retired();
    }
}

async fn announce_when_ready(mut applied: watch::Receiver<Applied>, address: std::net::SocketAddr, tasks: &TaskGroup) {
    if applied.wait_for(|applied| applied.revision > 0).await.is_err() {
        return;
    }
    match telemetry::serve_metrics(address, tasks).await {
        Ok(address) => tracing::info!(%address, "ready"),
        Err(error) => tracing::error!(%address, %error, "metrics cannot be served"),
    }
}

fn engine_config(args: &Args, view: &NodeView) -> EngineConfig {
    let shards = view.shards.iter().map(|shard| ClusterShard {
        host: "127.0.0.1".to_string(),
        port: args.router_port_base + shard.0,
        default_database: tables::shard_database(shard),
    });
    let users = view.users.iter().map(|user| SqlUser {
        name: user.name.clone(),
        password_sha256_hex: user.password_sha256_hex.expose().to_owned(),
    });
    EngineConfig {
        dir: args.data.join("engine"),
        listen_host: args.listen.ip().to_string(),
        http_port: args.engine_http_port,
        native_port: args.engine_native_port,
        admin: Admin { name: ENGINE_ADMIN.to_string(), password: view.engine_admin_password.expose().to_owned() },
        users: users.collect(),
        cluster: Some(ClusterConfig {
            name: CLUSTER.to_string(),
            secret: view.cluster_secret.expose().to_owned(),
            shards: shards.collect(),
        }),
        disks_base: Some(args.mount.clone()),
        max_memory_bytes: args.engine_memory_bytes,
        // The documents' part comes with the first pass.
        access: moorhouse_engine::EngineAccess::default(),
    }
}
