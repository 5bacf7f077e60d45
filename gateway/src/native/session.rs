//! A native connection after its handshake: which statement goes where; [`work`] gets it there.

mod work;

use std::net::SocketAddr;

use bytes::Bytes;
use moorhouse_catalog::GroupName;
use moorhouse_engine::native::handshake::{Addendum, ClientHello};
use moorhouse_engine::native::query::Query;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Endpoint;
use super::client::{Broken, FromClient, Kept, ToClient};
use super::node::NodeConnection;
use super::packet::{self, answer, kind};
use crate::classify::{Ddl, Extent, Statement, classify};
use crate::exception::{Code, Exception};
use crate::http::Credentials;
use crate::limits;
use crate::metrics::{self, Class, Outcome};

/// The connection is over; what could be said was said.
struct Leave;

/// Which of the session's nodes runs a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// The node that has the session.
    Home,
    /// A node of another group, which owns the table.
    Away(GroupName),
}

/// What began a piece of work.
enum Beginning {
    Query(Bytes),
    /// A question that is no query, still unread.
    Question,
}

pub struct Session<'e> {
    endpoint: &'e Endpoint,
    hello: ClientHello,
    addendum: Addendum,
    from: FromClient,
    to: ToClient,
    home: Option<NodeConnection>,
    away: Option<(GroupName, NodeConnection)>,
    /// Who ran the last statement and may wait for the rest of its data; nobody if the gateway answered itself.
    last: Option<Place>,
    database: String,
    /// What changed the session's settings, as it was sent.
    changes: Vec<Vec<u8>>,
    /// Something lives on the home node alone.
    bound: bool,
    /// Names of temporary tables.
    temporary: Vec<String>,
    /// The client's address, for the audit.
    client: Option<SocketAddr>,
}

impl<'e> Session<'e> {
    pub fn new(
        endpoint: &'e Endpoint,
        hello: ClientHello,
        addendum: Addendum,
        from: FromClient,
        to: ToClient,
        home: NodeConnection,
    ) -> Self {
        let database = match String::from_utf8_lossy(&hello.database) {
            database if database.is_empty() => "default".to_owned(),
            database => database.into_owned(),
        };
        Self {
            endpoint,
            hello,
            addendum,
            from,
            to,
            home: Some(home),
            away: None,
            last: None,
            database,
            changes: Vec::new(),
            bound: false,
            temporary: Vec::new(),
            client: None,
        }
    }

    pub fn arrived_from(self, client: SocketAddr) -> Self {
        Self { client: Some(client), ..self }
    }

    /// Serves the client until it goes, or until `stopping` between two statements.
    pub async fn run(&mut self, stopping: CancellationToken) {
        loop {
            if !self.from.has_kind() {
                self.rest();
            }
            let next = tokio::select! {
                next = timeout(limits::NATIVE_IDLE, self.from.next_kind()) => next,
                () = stopping.cancelled() => break,
            };
            let Ok(Ok(Some(next))) = next else { break };
            if self.serve(next).await.is_err() {
                break;
            }
        }
        self.to.outlet.close().await;
    }

    /// Gives back the memory that an idle connection does not need.
    fn rest(&mut self) {
        self.from.inlet.rest();
        for node in self.home.iter_mut().chain(self.away.iter_mut().map(|(_, node)| node)) {
            node.from.rest();
        }
    }

    async fn serve(&mut self, next: u8) -> Result<(), Leave> {
        match next {
            kind::QUERY => {
                let (query, raw) = match self.from.query().await {
                    Ok(read) => read,
                    Err(exception) => {
                        self.say(&exception).await?;
                        return Err(Leave);
                    }
                };
                let span = tracing::info_span!(
                    "statement",
                    group = %self.endpoint.group,
                    query_id = %String::from_utf8_lossy(&query.id),
                    node = tracing::field::Empty,
                    class = tracing::field::Empty,
                );
                self.statement(query, raw).instrument(span).await
            }
            kind::PING => {
                self.pass_to(None).await?;
                self.send(&[answer::PONG]).await
            }
            kind::TABLES_STATUS => self.work(Place::Home, Beginning::Question, true).await.map(drop),
            // Data of a statement that has failed already: whoever ran it reads it to its end.
            kind::DATA | kind::SCALAR => self.pass_to(self.last.clone()).await,
            // Too late: the statement is over.
            kind::CANCEL => self.pass_to(None).await,
            kind::KEEP_ALIVE => self.pass_to(None).await,
            _ => {
                let text = format!("A client's packet of kind {next} between two statements is not known.");
                self.say(&Exception::new(Code::UnexpectedPacket, text)).await?;
                Err(Leave)
            }
        }
    }

    /// Reads one packet and passes it on, if only to nobody.
    async fn pass_to(&mut self, place: Option<Place>) -> Result<(), Leave> {
        let node = match place {
            None => None,
            Some(Place::Home) => self.home.as_mut(),
            Some(Place::Away(_)) => self.away.as_mut().map(|(_, node)| node),
        };
        match self.from.pass(node.map(|node| &mut node.to), &mut Kept::default()).await {
            Ok(()) | Err(Broken::Node(_)) if !self.from.within_packet => Ok(()),
            _ => Err(Leave),
        }
    }

    async fn statement(&mut self, query: Query, raw: Bytes) -> Result<(), Leave> {
        let started = std::time::Instant::now();
        let parameter = |name: &str| parameter(&query, name);
        let cut = query.text.len().min(limits::STATEMENT_PEEK_BYTES);
        let extent = if cut == query.text.len() { Extent::Whole } else { Extent::Cut };
        let statement = classify(&query.text[..cut], extent, &parameter).unwrap_or(Statement::Other);
        let class = match &statement {
            Statement::Read | Statement::Session(_) | Statement::Other | Statement::Use(_) => Class::Read,
            Statement::Insert(_) => Class::Insert,
            Statement::KillQuery => Class::Kill,
            Statement::Ddl(_) => Class::Ddl,
            Statement::Refused(_) => Class::Refused,
        };
        tracing::Span::current().record("class", class.label());
        let ran = self.route(statement, &query, raw).await;
        let outcome = match &ran {
            Ok(true) => Outcome::Ok,
            Ok(false) => Outcome::Exception,
            Err(Leave) => Outcome::Broken,
        };
        metrics::REQUESTS.with_label_values(&[class.label(), outcome.label()]).inc();
        metrics::SECONDS.with_label_values(&[class.label()]).observe(started.elapsed().as_secs_f64());
        ran.map(drop)
    }

    /// True if the client was answered without an exception.
    async fn route(&mut self, statement: Statement, query: &Query, raw: Bytes) -> Result<bool, Leave> {
        let raw = Beginning::Query(raw);
        match statement {
            Statement::Read => Ok(self.work(Place::Home, raw, true).await?.is_some()),
            Statement::Other => Ok(self.work(Place::Home, raw, false).await?.is_some()),
            Statement::Use(database) => {
                let done = self.work(Place::Home, raw, false).await?;
                if done.is_some() {
                    self.database = database;
                    self.away = None;
                }
                Ok(done.is_some())
            }
            Statement::Session(temporary) => {
                let done = self.work(Place::Home, raw, false).await?;
                Ok(done.map(|kept| self.changed(&kept, temporary)).is_some())
            }
            Statement::Insert(table) => {
                let is_temporary = table.database.is_none() && self.temporary.contains(&table.table);
                let database = table.database.as_deref().unwrap_or(&self.database);
                let owner = self.endpoint.cluster.owner(database, &table.table);
                let place = match owner {
                    Some(owner) if owner != self.endpoint.group && !is_temporary => Place::Away(owner),
                    _ => Place::Home,
                };
                let _known = match &place {
                    Place::Home => None,
                    Place::Away(group) => self.endpoint.http.forward(group, &query.id),
                };
                Ok(self.work(place, raw, false).await?.is_some())
            }
            Statement::KillQuery => {
                if let Some(home) = &self.home {
                    let told = self.endpoint.http.kill_elsewhere(self.credentials(), &query.text, &home.node).await;
                    if let Err(exception) = told {
                        return self.answer_self(Err(exception)).await;
                    }
                }
                Ok(self.work(Place::Home, raw, false).await?.is_some())
            }
            Statement::Ddl(definition) => {
                let done = self.define(definition).await;
                self.answer_self(done).await
            }
            Statement::Refused(exception) => self.answer_self(Err(exception)).await,
        }
    }

    fn credentials(&self) -> Credentials<'_> {
        Credentials { user: &self.hello.user, password: &self.hello.password }
    }

    async fn define(&self, definition: Ddl) -> Result<(), Exception> {
        self.endpoint.http.define_for(self.credentials(), self.client, definition, &self.database).await
    }

    /// Notes a change of the session: a setting is said again on other nodes, a temporary table is on the home node alone.
    fn changed(&mut self, kept: &Kept, temporary: Option<String>) {
        match (temporary, kept.bytes()) {
            (None, Some(bytes)) if self.changes.len() < limits::SESSION_STATEMENTS => self.changes.push(bytes.to_vec()),
            (temporary, _) => {
                self.bound = true;
                self.temporary.extend(temporary);
            }
        }
        // The other node has not heard of it.
        self.away = None;
    }

    async fn answer_self(&mut self, done: Result<(), Exception>) -> Result<bool, Leave> {
        self.last = None;
        match done {
            Ok(()) => self.send(&[answer::END_OF_STREAM]).await.map(|()| true),
            Err(exception) => self.say(&exception).await.map(|()| false),
        }
    }

    async fn say(&mut self, exception: &Exception) -> Result<(), Leave> {
        tracing::debug!(code = exception.code.number(), text = %exception.text, "refused");
        self.send(&packet::exception(exception)).await
    }

    /// Sends a message of the gateway's own.
    async fn send(&mut self, message: &[u8]) -> Result<(), Leave> {
        let framed = packet::framed(message, self.to.chunked);
        self.to.outlet.write(&framed).await.map_err(|_| Leave)?;
        self.to.outlet.flush().await.map_err(|_| Leave)
    }
}

/// A parameter's value: sent as `'text'`, with backslashes before what needs them.
fn parameter(query: &Query, name: &str) -> Option<String> {
    let (_, value) = query.parameters.iter().find(|(known, _)| known == name.as_bytes())?;
    let text = std::str::from_utf8(value).ok()?;
    let quoted = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    Some(quoted.unwrap_or(text).replace("\\'", "'").replace("\\\\", "\\"))
}
