//! A native connection after its handshake: which statement goes where.

use std::net::SocketAddr;

use bytes::Bytes;
use moorhouse_catalog::GroupName;
use moorhouse_engine::native::handshake::{Addendum, ClientHello};
use moorhouse_engine::native::query::Query;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Endpoint;
use super::client::{Broken, FromClient, Kept, ToClient};
use super::node::{NodeConnection, Refusal};
use super::packet::{self, answer, kind};
use super::relay::{Ended, relay};
use crate::classify::{Ddl, Extent, Statement, classify};
use crate::cluster::{Lease, Work};
use crate::exception::{Code, Exception};
use crate::http::{Credentials, ready_node};
use crate::limits;
use crate::metrics::{self, Class, Outcome, Protocol};

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

    /// Has a node do something and passes its answer on. What was sent, if the answer is no exception.
    async fn work(&mut self, place: Place, beginning: Beginning, may_repeat: bool) -> Result<Option<Kept>, Leave> {
        let mut kept = match &beginning {
            Beginning::Query(raw) => Kept::of(raw),
            Beginning::Question => Kept::of(&[]),
        };
        let mut tried = false;
        loop {
            let lease = match self.reach(&place).await {
                Ok(lease) => lease,
                Err(Unreached::Exception(exception)) => return self.unreached(&packet::exception(&exception)).await,
                Err(Unreached::Said(said)) => return self.unreached(&said).await,
            };
            tracing::Span::current().record("node", lease.node.node.as_str());
            let ended = self.attempt(&place, &beginning, &mut kept, lease, tried).await;
            match ended {
                Ended::Whole { failed } => {
                    self.last = Some(place);
                    return Ok((!failed).then_some(kept));
                }
                Ended::ClientGone => return Err(Leave),
                Ended::Malformed(what) => {
                    let text = format!("The gateway cannot read {what} of this client.");
                    self.say(&Exception::new(Code::UnexpectedPacket, text)).await?;
                    return Err(Leave);
                }
                Ended::Opaque => return Err(self.stay_with(&place).await),
                Ended::NodeGone { sent, between, why } => {
                    let node = self.drop_node(&place);
                    tracing::warn!(node, why, "a node went away with a statement");
                    let again = may_repeat && !tried && !sent && !self.from.within_packet && !self.bound;
                    if again && kept.bytes().is_some() {
                        metrics::RETRIES.inc();
                        tried = true;
                        continue;
                    }
                    if between {
                        self.say(&went_away(&node, may_repeat)).await?;
                    }
                    // An INSERT's data may still be under way; a session's settings are lost with its node.
                    return if between && may_repeat && !self.bound && !self.from.within_packet {
                        self.last = None;
                        Ok(None)
                    } else {
                        Err(Leave)
                    };
                }
            }
        }
    }

    async fn unreached(&mut self, said: &[u8]) -> Result<Option<Kept>, Leave> {
        self.last = None;
        self.send(said).await.map(|()| None)
    }

    async fn attempt(
        &mut self,
        place: &Place,
        beginning: &Beginning,
        kept: &mut Kept,
        lease: Lease,
        again: bool,
    ) -> Ended {
        let node = match place {
            Place::Home => self.home.as_mut(),
            Place::Away(_) => self.away.as_mut().map(|(_, node)| node),
        };
        let node = node.expect("it was just reached");
        let begun = match beginning {
            _ if again => node.to.write(kept.bytes().unwrap_or_default()).await.map_err(Broken::Node),
            Beginning::Query(raw) => {
                metrics::BYTES_IN.with_label_values(&[Protocol::Native.label()]).inc_by(raw.len() as u64);
                node.to.write(raw).await.map_err(Broken::Node)
            }
            Beginning::Question => self.from.pass(Some(&mut node.to), kept).await,
        };
        match begun {
            Ok(()) => relay(&mut self.from, &mut self.to, node, kept, lease).await,
            Err(Broken::Client) => Ended::ClientGone,
            Err(Broken::Node(error)) => Ended::NodeGone { sent: false, between: true, why: error.to_string() },
            Err(Broken::Malformed(what)) => Ended::Malformed(what),
            Err(Broken::Opaque) => Ended::Opaque,
        }
    }

    /// The client's packets cannot be followed: from here on both sides are passed on until either goes.
    async fn stay_with(&mut self, place: &Place) -> Leave {
        tracing::info!("a client's data cannot be followed; its connection stays with this node");
        let node = match place {
            Place::Home => self.home.as_mut(),
            Place::Away(_) => self.away.as_mut().map(|(_, node)| node),
        };
        let Some(node) = node else { return Leave };
        let up = async {
            loop {
                let bytes = self.from.inlet.take(self.from.inlet.buffer().len());
                node.to.write(&bytes).await?;
                node.to.flush().await?;
                if !self.from.inlet.fill().await? {
                    return Ok::<(), std::io::Error>(());
                }
            }
        };
        let ended = tokio::select! {
            ended = up => ended,
            ended = node.from.pass_blindly(&mut self.to) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a native connection broke");
        }
        Leave
    }

    fn drop_node(&mut self, place: &Place) -> String {
        let node = match place {
            Place::Home => self.home.take(),
            Place::Away(_) => self.away.take().map(|(_, node)| node),
        };
        node.map(|node| node.node.to_string()).unwrap_or_default()
    }

    /// Sees to a living connection to a ready node for this place, and counts a statement there.
    async fn reach(&mut self, place: &Place) -> Result<Lease, Unreached> {
        let endpoint = self.endpoint;
        let group = match place {
            Place::Home => &endpoint.group,
            Place::Away(group) => group,
        };
        let known = match place {
            Place::Home => self.home.as_ref(),
            Place::Away(_) => self.away.as_ref().filter(|(known, _)| known == group).map(|(_, node)| node),
        };
        if let Some(node) = known
            && node.is_idle()
            && let Some(lease) = endpoint.cluster.take(group, &node.node, Work::Statement)
        {
            let stays = self.bound && *place == Place::Home;
            if stays || !endpoint.cluster.is_overloaded(group, &node.node) {
                return Ok(lease);
            }
        } else if self.bound && *place == Place::Home {
            let text = "The node that had this session's settings and temporary tables has gone. Connect again.";
            return Err(Unreached::Exception(Exception::new(Code::NetworkError, text)));
        }
        let (node, lease) = self.connect(group).await?;
        match place {
            Place::Home => self.home = Some(node),
            Place::Away(group) => self.away = Some((group.clone(), node)),
        }
        Ok(lease)
    }

    /// A connection in the client's name, with its session's settings, to the least-loaded node that takes it.
    async fn connect(&self, group: &GroupName) -> Result<(NodeConnection, Lease), Unreached> {
        let endpoint = self.endpoint;
        let deadline = Instant::now() + limits::HOLD;
        let mut refused = Vec::new();
        loop {
            let lease = ready_node(&endpoint.cluster, group, Work::Statement, None, &mut refused, deadline).await?;
            let name = lease.node.node.clone();
            let away = match endpoint.cluster.take(group, &name, Work::Connection) {
                None => "it is not ready any more".to_owned(),
                Some(connection) => match self.open(connection).await {
                    Ok(node) => return Ok((node, lease)),
                    Err(Refusal::Said(said)) => return Err(Unreached::Said(said)),
                    Err(Refusal::Away(why)) => why,
                },
            };
            tracing::warn!(node = %name, why = away, "a node takes no native connection; trying elsewhere");
            metrics::RETRIES.inc();
            refused.push(name);
        }
    }

    async fn open(&self, lease: Lease) -> Result<NodeConnection, Refusal> {
        let hello = ClientHello { database: self.database.clone().into_bytes(), ..self.hello.clone() };
        let (mut node, server) = NodeConnection::open(lease, &hello).await?;
        node.finish(&server, &self.addendum).await?;
        let away = |error: std::io::Error| Refusal::Away(error.to_string());
        for change in &self.changes {
            node.to.write(change).await.map_err(away)?;
            node.to.flush().await.map_err(away)?;
            if !node.swallow().await? {
                return Err(Refusal::Away("it does not take a setting of this session".to_owned()));
            }
        }
        Ok(node)
    }
}

enum Unreached {
    Exception(Exception),
    Said(Bytes),
}

impl From<Exception> for Unreached {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

fn went_away(node: &str, may_repeat: bool) -> Exception {
    let remedy = if may_repeat {
        "It only reads: send it again."
    } else {
        "It may have been carried out or not: look before you send it again, or give inserts a deduplication token."
    };
    Exception::new(Code::NetworkError, format!("Node {node} went away while it had the statement. {remedy}"))
}

/// A parameter's value: sent as `'text'`, with backslashes before what needs them.
fn parameter(query: &Query, name: &str) -> Option<String> {
    let (_, value) = query.parameters.iter().find(|(known, _)| known == name.as_bytes())?;
    let text = std::str::from_utf8(value).ok()?;
    let quoted = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    Some(quoted.unwrap_or(text).replace("\\'", "'").replace("\\\\", "\\"))
}
