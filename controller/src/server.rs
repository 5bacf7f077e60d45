//! Starts the controller in order, and stops it: store → object store → the front as a standby → leadership → catalog → owner
//! loop → services.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use moorhouse_base::clock::{Clock, SystemClock};
use moorhouse_base::secret::Secret;
use moorhouse_base::tasks::TaskGroup;
use moorhouse_base::telemetry;
use moorhouse_catalog::links::StoreForm;
use moorhouse_catalog::state::{Catalog, Command, Limits};
use moorhouse_catalog::store::{self, Leadership, Store};
use moorhouse_catalog::{ShardCount, Warehouse, WarehouseId};
use moorhouse_objects::Objects;
use moorhouse_proto::admin_server::AdminServer;
use moorhouse_proto::controller_server::ControllerServer;
use moorhouse_proto::documents_server::DocumentsServer;
use moorhouse_proto::enrolment_server::EnrolmentServer;
use moorhouse_proto::reads_server::ReadsServer;
use moorhouse_proto::security_server::SecurityServer;
use moorhouse_security::{Callers, Credentials, GuardLayer, RoleKind, incoming};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tonic::service::Routes;
use tracing::{error, info};
use uuid::Uuid;

use crate::admin_service::AdminService;
use crate::agents::Agents;
use crate::config::Config;
use crate::controller_service::ControllerService;
use crate::ddl::Ddl;
use crate::documents::DocumentService;
use crate::front::{Front, Role, follow_leader};
use crate::fsck::Fsck;
use crate::limits;
use crate::moves::Mover;
use crate::owner::{self, Owner, OwnerEnd, OwnerLoop, OwnerSetup};
use crate::reads::StoreReads;
use crate::security::{Audit, EnrolmentService, Issuer, SecurityService};
use crate::tally::Tallies;
use crate::{restore, sweeper};

/// Why the controller did not start; one line, with the remedy. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// A controller that serves.
pub struct Running {
    pub address: SocketAddr,
    tasks: TaskGroup,
    /// What answers, and says who leads.
    serving: TaskGroup,
    /// Follows the certificate files.
    certificates: TaskGroup,
    ended: oneshot::Receiver<Result<Leadership, OwnerEnd>>,
    store: Arc<dyn Store>,
}

/// Opens the store that the configuration names, and serves on the system's clock.
pub async fn start(config: &Config) -> Result<Running, StartError> {
    // Early, before others are asked; each is bound again in its turn.
    drop(bind("--listen", config.listen).await?);
    drop(bind("--metrics", config.metrics).await?);
    let store =
        store::open_with(&config.store, &config.store_access).await.map_err(|error| StartError(error.to_string()))?;
    start_on(config, store, Arc::new(SystemClock)).await
}

/// Puts a backup into the empty store that the configuration names. Answers with the number of records.
pub async fn restore(config: &Config, file: &Path) -> Result<usize, StartError> {
    let store =
        store::open_with(&config.store, &config.store_access).await.map_err(|error| StartError(error.to_string()))?;
    restore::restore(file, &*store, config.leader_ttl).await.map_err(StartError)
}

/// What a controller stands on besides its configuration.
pub struct Ground {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub objects: Objects,
    pub agents: Agents,
    /// `None`: no node joins by token.
    pub issuer: Option<Issuer>,
}

/// A controller that leads, and what it answers to.
pub struct Leading {
    pub routes: Routes,
    tasks: TaskGroup,
    ended: oneshot::Receiver<Result<Leadership, OwnerEnd>>,
}

impl Leading {
    /// Why it must not go on.
    pub async fn ended(&mut self) -> OwnerEnd {
        match (&mut self.ended).await {
            Ok(Err(end)) => end,
            Ok(Ok(_)) | Err(_) => std::future::pending().await,
        }
    }
}

/// As [`start`], on a given store and clock.
pub async fn start_on(config: &Config, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Running, StartError> {
    let objects = Objects::open(&config.objects).await.map_err(|error| StartError(error.to_string()))?;
    let certificates = TaskGroup::new();
    let credentials = config.tls.open(RoleKind::Controller, None, &certificates).map_err(StartError)?;
    let agents = Agents::over(credentials.clone().into());
    let issuer = Issuer::open(config, credentials.as_ref()).map_err(StartError)?;
    let ground = Ground { store: Arc::clone(&store), clock, objects, agents, issuer };
    let serving = TaskGroup::new();
    let (role, roles) = watch::channel(Role::Standby { leader: None });
    let reads = ReadsServer::new(StoreReads::new(Arc::clone(&store), config.lists_bytes / limits::READS_SHARE));
    let address = serve(config, Front::routes(roles, Routes::new(reads)), credentials, &serving).await?;
    serving.spawn("leader", follow_leader(Arc::clone(&store), role.clone()));
    let config = Config { listen: address, ..config.clone() };
    let Leading { routes, tasks, ended } = lead(&config, ground).await?;
    role.send_replace(Role::Leader(routes));
    telemetry::serve_metrics(config.metrics, &tasks)
        .await
        .map_err(|error| in_use("--metrics", config.metrics, &error))?;
    info!(%address, metrics = %config.metrics, "serving");
    Ok(Running { address, tasks, serving, certificates, ended, store })
}

/// Waits for the leadership, and begins to lead; serving the routes is the caller's.
pub async fn lead(config: &Config, ground: Ground) -> Result<Leading, StartError> {
    let Ground { store, clock, objects, agents, issuer } = ground;
    info!(store = %store.describe(), "waiting for the leadership");
    let candidate = config.advertise.clone().unwrap_or_else(|| config.listen.to_string());
    let leadership = store.acquire_leadership(&candidate, config.leader_ttl).await;
    let leadership = leadership.map_err(|error| StartError(format!("no leadership: {error}")))?;
    info!(term = leadership.term(), "this controller leads");
    let (catalog, leadership) = open_catalog(config, &store, leadership, &*clock).await?;
    claim(&objects, &catalog).await?;

    let setup = OwnerSetup {
        catalog,
        store: Arc::clone(&store),
        leadership,
        clock: Arc::clone(&clock),
        lease: config.lease,
        lists_bytes: config.lists_bytes,
    };
    let (owner_loop, owner) = OwnerLoop::new(setup);
    let tasks = TaskGroup::new();
    let (end, ended) = oneshot::channel();
    let stop = tasks.token();
    tasks.spawn_uncancelled("owner", async move { drop(end.send(owner_loop.run(stop).await)) });

    let agents = Arc::new(agents);
    let ddl = Arc::new(Ddl::new(owner.clone(), Arc::clone(&agents), config.lease));
    let mover = Arc::new(Mover::new(owner.clone(), Arc::clone(&agents)));
    let fsck = Fsck { owner: owner.clone(), objects: objects.clone(), agents, clock: Arc::clone(&clock) };
    let recovered = async {
        ddl.resume(&tasks).await?;
        Arc::clone(&mover).cancel_abandoned(&tasks).await
    };
    recovered.await.map_err(|error| StartError(format!("the catalog could not be put in order: {error}")))?;
    tasks.spawn("joins", Arc::clone(&mover).follow_joins(tasks.clone()));
    tasks.spawn("leaving", sweeper::clear_leaving(owner.clone()));
    tasks.spawn("sweeper", sweeper::run(owner.clone(), objects, Arc::clone(&clock)));

    let services = Services { owner, ddl, mover, fsck: Arc::new(fsck), store, issuer, clock };
    Ok(Leading { routes: routes(config, services, &tasks), tasks, ended })
}

impl Running {
    /// Resolves when the controller ends by itself: it must not go on.
    pub async fn ended(&mut self) -> OwnerEnd {
        match (&mut self.ended).await {
            Ok(Err(end)) => end,
            Ok(Ok(_)) | Err(_) => std::future::pending().await,
        }
    }

    /// Stops serving, then lets the leadership go. False if something did not end in time.
    pub async fn stop(self) -> bool {
        let clean = self.tasks.shutdown(limits::STOP_DEADLINE).await;
        let clean = self.serving.shutdown(limits::STOP_DEADLINE).await && clean;
        let clean = self.certificates.shutdown(limits::STOP_DEADLINE).await && clean;
        if let Ok(Ok(leadership)) = self.ended.await {
            self.store.resign(leadership).await;
        }
        clean
    }
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| in_use(flag, address, &error))
}

fn in_use(flag: &str, address: SocketAddr, error: &std::io::Error) -> StartError {
    StartError(format!("cannot listen on {address} ({error}): end the process that uses it, or choose another {flag}"))
}

/// Makes the warehouse and its groups where they are missing, and compares what was asked for with what is there.
async fn open_catalog(
    config: &Config,
    store: &Arc<dyn Store>,
    leadership: Leadership,
    clock: &dyn Clock,
) -> Result<(Catalog, Leadership), StartError> {
    let limits = Limits {
        delete_grace_ms: config.delete_grace_ms,
        orphan_grace_ms: config.orphan_grace_ms,
        ..Limits::default()
    };
    let failed = |error: &dyn std::fmt::Display| StartError(format!("{}: {error}", store.describe()));
    let mut catalog = owner::load(&**store, limits).await.map_err(|error| failed(&error))?;
    if catalog.form() != Some(StoreForm::NEWEST) && catalog.directory().warehouse.is_some() {
        catalog = upgrade(catalog, &**store, &leadership).await.map_err(|error| failed(&error))?;
    }
    if catalog.directory().warehouse.is_none() && !store.range(b"").await.map_err(|error| failed(&error))?.is_empty() {
        let what = "it holds a restore that was broken off: empty it, and restore again";
        return Err(failed(&what));
    }
    let mut commands = Vec::new();
    match catalog.directory().warehouse.clone() {
        Some(warehouse) => check_warehouse(config, &warehouse)?,
        None => commands.push(Command::CreateWarehouse(new_warehouse(config)?)),
    }
    commands.extend(config.groups.iter().cloned().map(Command::CreateGroup));
    for command in commands {
        let applied = catalog.apply(command, clock.now_ms()).map_err(|error| failed(&error))?;
        store.commit(&leadership, applied.writes).await.map_err(|error| failed(&error))?;
    }
    Ok((catalog, leadership))
}

/// What an older build wrote is given the form in which part lists can be left in the store.
async fn upgrade(catalog: Catalog, store: &dyn Store, leadership: &Leadership) -> Result<Catalog, String> {
    if let Some(StoreForm(newer)) = catalog.form().filter(|form| *form > StoreForm::NEWEST) {
        return Err(format!(
            "its form is {newer}, newer than this build's {}: upgrade this process",
            StoreForm::NEWEST.0
        ));
    }
    let bounds = *catalog.limits();
    let writes = owner::load_whole(store, bounds).await.map_err(|error| error.to_string())?.upgrade();
    info!(writes = writes.len(), "the store of an older build is brought up to date");
    // The one that says that it is done comes last.
    for step in writes.chunks(limits::RESTORE_WRITES) {
        store.commit(leadership, step.to_vec()).await.map_err(|error| error.to_string())?;
    }
    owner::load(store, bounds).await.map_err(|error| error.to_string())
}

fn new_warehouse(config: &Config) -> Result<Warehouse, StartError> {
    let default = ShardCount::new(Config::DEFAULT_SHARDS).map_err(|error| StartError(error.to_string()))?;
    let secret = || Secret::new(Uuid::new_v4().simple().to_string());
    Ok(Warehouse {
        id: WarehouseId::random(),
        shards: config.shards.unwrap_or(default),
        objects_url: config.objects_text.clone(),
        cluster_secret: secret(),
        engine_admin_password: secret(),
        users: config.users.clone(),
    })
}

fn check_warehouse(config: &Config, warehouse: &Warehouse) -> Result<(), StartError> {
    if let Some(shards) = config.shards.filter(|shards| *shards != warehouse.shards) {
        let (asked, fixed) = (shards.get(), warehouse.shards.get());
        return Err(StartError(format!(
            "--shards: the warehouse was made with {fixed} shards, not {asked}, which is for ever: leave --shards out"
        )));
    }
    if config.objects_text != warehouse.objects_url {
        return Err(StartError(format!(
            "--objects: the warehouse keeps its objects at {}, not {}: use that",
            warehouse.objects_url, config.objects_text
        )));
    }
    Ok(())
}

async fn claim(objects: &Objects, catalog: &Catalog) -> Result<(), StartError> {
    let Some(warehouse) = &catalog.directory().warehouse else {
        return Err(StartError("the store has no warehouse".to_owned()));
    };
    objects.claim(warehouse.id.0).await.map_err(|error| StartError(error.to_string()))
}

struct Services {
    owner: Owner,
    ddl: Arc<Ddl>,
    mover: Arc<Mover>,
    fsck: Arc<Fsck>,
    store: Arc<dyn Store>,
    issuer: Option<Issuer>,
    clock: Arc<dyn Clock>,
}

fn routes(config: &Config, services: Services, tasks: &TaskGroup) -> Routes {
    let Services { owner, ddl, mover, fsck, store, issuer, clock } = services;
    let (callers, audit) = (Callers::of_process(&config.tls), Audit::new(owner.clone()));
    let controller = ControllerService {
        owner: owner.clone(),
        ddl,
        tasks: tasks.clone(),
        lease: config.lease,
        sessions: AtomicU64::new(1),
        callers,
    };
    let objects = config.objects.to_string();
    let security =
        SecurityService { owner: owner.clone(), audit: audit.clone(), callers, issuer: issuer.clone(), clock };
    let documents = DocumentService { owner: owner.clone(), audit: audit.clone(), callers };
    let enrolment = EnrolmentService { owner: owner.clone(), audit: audit.clone(), callers, issuer };
    let admin = AdminService {
        owner,
        mover,
        fsck,
        callers,
        audit,
        tasks: tasks.clone(),
        store: store.describe(),
        durable: store,
        objects,
        tallies: Tallies::default(),
    };
    Routes::new(ControllerServer::new(controller).max_decoding_message_size(limits::MESSAGE_BYTES))
        .add_service(AdminServer::new(admin))
        .add_service(SecurityServer::new(security))
        .add_service(DocumentsServer::new(documents))
        .add_service(EnrolmentServer::new(enrolment))
}

async fn serve(
    config: &Config,
    routes: Routes,
    credentials: Option<Credentials>,
    tasks: &TaskGroup,
) -> Result<SocketAddr, StartError> {
    let listener = bind("--listen", config.listen).await?;
    let address = listener.local_addr().map_err(|error| in_use("--listen", config.listen, &error))?;
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .layer(GuardLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener, credentials), tasks.token().cancelled_owned());
    tasks.spawn_uncancelled("grpc", async move {
        if let Err(error) = serving.await {
            error!(%error, "the gRPC server has ended");
        }
    });
    Ok(address)
}
