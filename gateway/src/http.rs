//! The HTTP endpoint of one group: ClickHouse's HTTP interface, passed through but for what the controller must do.

mod answer;
mod definition;
mod forward;
mod kill;
mod on_behalf;
mod request;
mod statement;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioIo, TokioTimer};
use lru::LruCache;
use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::GroupName;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::body::{Account, AnswerBody, RequestBody};
use crate::classify::{Statement, TableName};
use crate::cluster::Cluster;
use crate::controller::Controller;
use crate::forwarded::Forwarded;
use crate::limits;
use crate::listen::{Doors, Entrance, Hints, Stream, Visitor};
use crate::metrics::Class;
use request::Asked;

pub use forward::ready_node;
pub use on_behalf::Credentials;

/// Speaks to engines; shared by all endpoints, for their connection pool.
pub type NodeClient = Client<HttpConnector, RequestBody>;

/// A client whose connections live as long as `tasks`.
pub fn node_client(tasks: &TaskGroup) -> NodeClient {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(limits::CONNECT));
    connector.set_nodelay(true);
    Client::builder(InGroup(tasks.clone()))
        .pool_idle_timeout(limits::POOL_IDLE)
        .pool_timer(TokioTimer::new())
        .http1_preserve_header_case(true)
        .build(connector)
}

/// Runs hyper's own tasks as tasks with an owner.
#[derive(Clone)]
struct InGroup(TaskGroup);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for InGroup {
    fn execute(&self, task: F) {
        self.0.spawn("node connection", async move {
            task.await;
        });
    }
}

/// The other end of the connection that a request came over.
#[derive(Debug, Clone, Copy)]
struct ClientAddress(SocketAddr);

/// One group's endpoint.
pub struct Endpoint {
    group: GroupName,
    cluster: Cluster,
    controller: Controller,
    nodes: NodeClient,
    forwarded: Forwarded,
    /// What `USE` said, by session and user. A hint for routing and for unqualified names in definitions.
    session_databases: Mutex<LruCache<(String, String), String>>,
}

impl Endpoint {
    pub fn new(group: GroupName, cluster: Cluster, controller: Controller, nodes: NodeClient) -> Self {
        let sessions = NonZeroUsize::new(limits::SESSIONS).expect("a bound above zero");
        let session_databases = Mutex::new(LruCache::new(sessions));
        Self { group, cluster, controller, nodes, forwarded: Forwarded::default(), session_databases }
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let asked = Asked::new(head);
        let span = tracing::info_span!(
            "request",
            group = %self.group,
            query_id = asked.query_id().unwrap_or_default(),
            node = tracing::field::Empty,
            class = tracing::field::Empty,
        );
        self.route(asked, RequestBody::new(body)).instrument(span).await
    }

    async fn route(&self, asked: Asked, body: RequestBody) -> Response<AnswerBody> {
        let mut account = Account::new();
        let path = asked.head.uri.path();
        if request::is_ping(&asked.head) {
            return answer::pong(account);
        }
        if path != "/" || asked.head.method == Method::OPTIONS {
            return self.pass(asked, body, &self.group, account).await;
        }
        let statement = match statement::told(&asked, &body).await {
            Ok(Statement::Refused(exception)) | Err(exception) => {
                note(&mut account, Class::Refused);
                return answer::refusal(&asked, &exception, account);
            }
            Ok(statement) => statement,
        };
        match statement {
            Statement::Read => {
                note(&mut account, Class::Read);
                self.pass_read(asked, body, account).await
            }
            Statement::Session(_) | Statement::Other => {
                note(&mut account, Class::Read);
                self.pass(asked, body, &self.group, account).await
            }
            Statement::Use(database) => {
                note(&mut account, Class::Read);
                self.pass_use(asked, body, database, account).await
            }
            Statement::Insert(table) => {
                note(&mut account, Class::Insert);
                self.pass_insert(asked, body, table, account).await
            }
            Statement::KillQuery => {
                note(&mut account, Class::Kill);
                self.kill(&asked, body, account).await
            }
            Statement::Ddl(definition) => {
                note(&mut account, Class::Ddl);
                self.define(&asked, definition, account).await
            }
            Statement::Refused(exception) => answer::refusal(&asked, &exception, account),
        }
    }

    /// The database that an unqualified name means.
    fn session_database(&self, asked: &Asked) -> String {
        let said = asked.database().map(str::to_owned).or_else(|| self.used_database(asked));
        said.unwrap_or_else(|| "default".to_owned())
    }

    /// What the request's session said with `USE`.
    fn used_database(&self, asked: &Asked) -> Option<String> {
        let key = (asked.session()?.to_owned(), asked.user().to_owned());
        self.session_databases.lock().expect("no holder panics").get(&key).cloned()
    }

    async fn pass_insert(
        &self,
        mut asked: Asked,
        body: RequestBody,
        table: TableName,
        mut account: Account,
    ) -> Response<AnswerBody> {
        let database = table.database.unwrap_or_else(|| self.session_database(&asked));
        let owner = self.cluster.owner(&database, &table.table).unwrap_or_else(|| self.group.clone());
        if owner != self.group && asked.database().is_none() && self.used_database(&asked).is_some() {
            // The session lives in this group; an engine of the other one has not heard its USE.
            if let Ok(database) = HeaderValue::from_str(&database) {
                asked.head.headers.insert("x-clickhouse-database", database);
            }
        }
        if let Some(id) = asked.query_id().filter(|_| owner != self.group) {
            account.forwarded(self.forwarded.enter(&owner, id));
        }
        self.pass(asked, body, &owner, account).await
    }

    async fn pass_use(
        &self,
        asked: Asked,
        body: RequestBody,
        database: String,
        account: Account,
    ) -> Response<AnswerBody> {
        let key = asked.session().map(|session| (session.to_owned(), asked.user().to_owned()));
        let answer = self.pass(asked, body, &self.group, account).await;
        if let (Some(key), true) = (key, answer.status().is_success()) {
            self.session_databases.lock().expect("no holder panics").put(key, database);
        }
        answer
    }
}

/// Serves one client's connection until it goes, or until `stopping` after the current answer.
pub async fn converse(
    stream: Box<dyn Stream>,
    doors: Arc<Doors>,
    entrance: Entrance,
    visitor: Visitor,
    stopping: CancellationToken,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ClientAddress(visitor.address));
        let (doors, entrance, server_name) = (doors.clone(), entrance.clone(), visitor.server_name.clone());
        async move { Ok::<_, Infallible>(enter(request, &doors, &entrance, server_name.as_deref()).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::CLIENT_IDLE)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection broke");
    }
}

/// Finds the group that the request means.
async fn enter(
    request: Request<Incoming>,
    doors: &Doors,
    entrance: &Entrance,
    server_name: Option<&str>,
) -> Response<AnswerBody> {
    let chosen = match entrance {
        Entrance::Group(_) => doors.choose(entrance, Hints::default()),
        Entrance::Shared => {
            let (head, body) = request.into_parts();
            let asked = Asked::new(head);
            let (host, user) = (asked.host().map(str::to_owned), asked.user_name());
            let hints = Hints { server_name, host: host.as_deref(), user: user.as_deref() };
            return match doors.choose(entrance, hints) {
                Ok(group) => doors.http(group).answer(Request::from_parts(asked.head, body)).await,
                Err(_) if request::is_ping(&asked.head) => answer::pong(Account::new()),
                Err(exception) => answer::refusal(&asked, &exception, Account::new()),
            };
        }
    };
    match chosen {
        Ok(group) => doors.http(group).answer(request).await,
        Err(exception) => answer::refusal(&Asked::new(request.into_parts().0), &exception, Account::new()),
    }
}

fn note(account: &mut Account, class: Class) {
    account.classed(class);
    tracing::Span::current().record("class", class.label());
}
