//! The production store: etcd.
//!
//! **Leadership** is the key `PREFIX/leader` under a lease; its creation revision is the term, and every transaction
//! compares it. **Late commits**: every transaction also compares and raises the counter `PREFIX/commits`, so that a
//! request that was given up can be made void (by [`Store::settle`]) before the state is read again.
//! **Size**: etcd takes 128 operations and 1.5 MiB a transaction. A larger commit is first written, in pieces, to
//! `PREFIX/journal/…`; the transaction that puts `PREFIX/journal-commit` is its commit point; the pieces are then carried
//! out, which may be repeated. A leader that finds that mark finishes the work, one that finds pieces without it drops them.
//! **Records** are below `PREFIX/data/`.

mod journal;
mod pieces;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType, GetOptions, Identity,
    KvClient, PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use moorhouse_base::tasks::TaskGroup;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::entry::Write;
use crate::store::access::{Papers, StoreAccess};
use crate::store::{KeyValue, Leadership, LeaseClock, Store, StoreError, end_of};
use journal::{decode_piece, encode_piece};
use pieces::split;

/// Records a page of a range scan: at most this many times the largest record must fit into an answer.
const PAGE: i64 = 128;
/// Pages grow while they stay small: a million parts would take very many round trips.
const LARGEST_PAGE: i64 = 2_048;
const SMALL_PAGE_BYTES: usize = 1 << 20;
const MAX_ANSWER_BYTES: usize = 512 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const JOURNAL_LOOK: Duration = Duration::from_millis(20);
/// Times that a read is tried, and the pause between.
const READ_ATTEMPTS: u32 = 5;
const READ_PAUSE: Duration = Duration::from_millis(50);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A member that has gone silently is noticed after these.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// How often the files of certificates and the password are looked at for a change.
const PAPERS_LOOK: Duration = Duration::from_secs(2);
/// First and longest pause of a candidate that etcd does not answer.
const CANDIDATE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

pub struct EtcdStore {
    link: Arc<Link>,
    url: String,
    prefix: String,
    /// The value of `PREFIX/commits` that the next transaction expects.
    commits: AtomicU64,
    tasks: TaskGroup,
}

/// The way to etcd, which is made anew when the papers change.
struct Link {
    endpoints: Vec<String>,
    access: StoreAccess,
    client: RwLock<Client>,
}

impl Link {
    async fn open(endpoints: &[String], access: &StoreAccess) -> Result<(Self, Papers), StoreError> {
        let papers = access.read().map_err(StoreError::Open)?;
        let client = dial(endpoints, &papers).await?;
        let link = Self { endpoints: endpoints.to_vec(), access: access.clone(), client: RwLock::new(client) };
        Ok((link, papers))
    }

    fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes new certificates, or a new password, into use; what cannot be used leaves those of before in use.
    async fn follow(self: Arc<Self>, mut known: Papers) {
        loop {
            tokio::time::sleep(PAPERS_LOOK).await;
            let papers = match self.access.read() {
                Ok(papers) if papers == known => continue,
                Ok(papers) => papers,
                Err(error) => {
                    tracing::warn!(error, "the way to etcd cannot be made anew yet");
                    continue;
                }
            };
            match dial(&self.endpoints, &papers).await {
                Ok(client) => {
                    *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
                    known = papers;
                    tracing::info!("the way to etcd is made with new certificates or a new password");
                }
                Err(error) => tracing::warn!(%error, "new certificates or a new password are not taken into use"),
            }
        }
    }
}

/// Connects, and makes sure that somebody answers.
async fn dial(endpoints: &[String], papers: &Papers) -> Result<Client, StoreError> {
    let remedy = |error: &dyn std::fmt::Display| {
        StoreError::Open(format!(
            "etcd at {} does not answer ({error}): start it, or correct --store",
            endpoints.join(",")
        ))
    };
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1);
    if let Some(user) = &papers.user {
        options = options.with_user(&user.name, user.password.expose()).with_auto_token_refresh(true);
    }
    let scheme = if papers.tls.is_some() { "https" } else { "http" };
    if let Some(tls) = &papers.tls {
        let mut with = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some(own) = &tls.own {
            with = with.identity(Identity::from_pem(&own.certificate, own.key.expose()));
        }
        options = options.with_tls(with);
    }
    let addresses: Vec<String> = endpoints.iter().map(|endpoint| format!("{scheme}://{endpoint}")).collect();
    let connect = async {
        let mut client = Client::connect(&addresses, Some(options)).await?;
        client.status().await.map(|_| client)
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(refused_in_words(&error).unwrap_or_else(|| remedy(&brief(&error)))),
        Err(_) => Err(remedy(&"no answer in 3 s")),
    }
}

impl EtcdStore {
    /// `endpoints` are `host:port`. Fails if none of them answers.
    pub async fn connect(endpoints: &[String], prefix: &str) -> Result<Self, StoreError> {
        Self::connect_with(endpoints, prefix, &StoreAccess::default()).await
    }

    /// With what etcd asks for: TLS, a certificate of one's own, a user with a password.
    pub async fn connect_with(endpoints: &[String], prefix: &str, access: &StoreAccess) -> Result<Self, StoreError> {
        let url = format!("etcd://{}/{prefix}", endpoints.join(","));
        let (link, papers) = Link::open(endpoints, access).await?;
        let (link, tasks) = (Arc::new(link), TaskGroup::new());
        if access.has_files() {
            tasks.spawn("etcd-papers", Arc::clone(&link).follow(papers));
        }
        Ok(Self { link, url, prefix: prefix.to_owned(), commits: AtomicU64::new(0), tasks })
    }

    fn key(&self, name: &str) -> Vec<u8> {
        format!("{}/{name}", self.prefix).into_bytes()
    }

    fn data_key(&self, key: &[u8]) -> Vec<u8> {
        [format!("{}/data/", self.prefix).as_bytes(), key].concat()
    }

    fn kv(&self) -> KvClient {
        self.link.client().kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// One etcd transaction under the leadership, raising the counter.
    async fn transact(&self, leadership: &Leadership, mut operations: Vec<TxnOp>) -> Result<(), StoreError> {
        let expected = self.commits.load(Ordering::SeqCst);
        operations.push(TxnOp::put(self.key("commits"), (expected + 1).to_string(), None));
        let transaction = Txn::new()
            .when([
                Compare::create_revision(self.key("leader"), CompareOp::Equal, leadership.term() as i64),
                Compare::value(self.key("commits"), CompareOp::Equal, expected.to_string()),
            ])
            .and_then(operations)
            .or_else([TxnOp::get(self.key("leader"), None)]);
        let answer = self.kv().txn(transaction).await.map_err(unconfirmed)?;
        if answer.succeeded() {
            self.commits.store(expected + 1, Ordering::SeqCst);
            return Ok(());
        }
        let leads = answer.op_responses().iter().any(|response| {
            matches!(response, TxnOpResponse::Get(get)
                if get.kvs().iter().any(|kv| kv.create_revision() == leadership.term() as i64))
        });
        if leads {
            Err(StoreError::Unavailable("an earlier commit was late: settle first".to_owned()))
        } else {
            Err(StoreError::Deposed)
        }
    }

    /// A commit that is too large for one transaction, atomic by way of the journal.
    async fn commit_in_pieces(&self, leadership: &Leadership, pieces: Vec<Vec<Write>>) -> Result<(), StoreError> {
        for (number, piece) in pieces.iter().enumerate() {
            let key = self.key(&format!("journal/{number:08}"));
            self.transact(leadership, vec![TxnOp::put(key, encode_piece(piece), None)]).await?;
        }
        let mark = TxnOp::put(self.key("journal-commit"), pieces.len().to_string(), None);
        self.transact(leadership, vec![mark]).await?;
        // It has happened; what is left may not say that it has not.
        self.carry_out(leadership, pieces).await.map_err(|error| match error {
            StoreError::Full(text) | StoreError::Refused(text) => StoreError::Unavailable(text),
            other => other,
        })
    }

    async fn carry_out(&self, leadership: &Leadership, pieces: Vec<Vec<Write>>) -> Result<(), StoreError> {
        for piece in pieces {
            self.transact(leadership, self.operations(piece)).await?;
        }
        self.drop_journal(leadership).await
    }

    async fn drop_journal(&self, leadership: &Leadership) -> Result<(), StoreError> {
        let all = DeleteOptions::new().with_prefix();
        let pieces = TxnOp::delete(self.key("journal/"), Some(all));
        self.transact(leadership, vec![TxnOp::delete(self.key("journal-commit"), None), pieces]).await
    }

    /// Finishes, or drops, a large commit that was broken off.
    async fn recover_journal(&self, leadership: &Leadership) -> Result<(), StoreError> {
        let pieces = self.range_raw(&self.key("journal/")).await?;
        if pieces.is_empty() {
            return Ok(());
        }
        let mark = self.range_raw(&self.key("journal-commit")).await?;
        let Some((_, count)) = mark.first() else { return self.drop_journal(leadership).await };
        let damaged = || StoreError::Refused("the journal of a large commit is damaged".to_owned());
        let count = std::str::from_utf8(count).ok().and_then(|count| count.parse::<usize>().ok());
        // What lies behind is of an earlier, longer commit that etcd had no room for.
        let marked = pieces.get(..count.ok_or_else(damaged)?).ok_or_else(damaged)?;
        let pieces = marked.iter().map(|(_, piece)| decode_piece(piece)).collect::<Option<Vec<_>>>();
        self.carry_out(leadership, pieces.ok_or_else(damaged)?).await
    }

    fn operations(&self, writes: Vec<Write>) -> Vec<TxnOp> {
        let operation = |write| match write {
            Write::Put { key, value } => TxnOp::put(self.data_key(&key), value, None),
            Write::Delete { key } => TxnOp::delete(self.data_key(&key), None),
        };
        writes.into_iter().map(operation).collect()
    }

    async fn range_raw(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        // Prefixes are text, so the last byte is never 0xff.
        self.range_to(prefix.to_vec(), end_of(prefix)).await
    }

    /// Page by page at one revision.
    async fn range_to(&self, mut from: Vec<u8>, end: Vec<u8>) -> Result<Vec<KeyValue>, StoreError> {
        let mut revision = 0;
        let mut limit = PAGE;
        let mut found = Vec::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(limit).with_revision(revision);
            let mut page = match self.kv().get(from.clone(), Some(options)).await {
                // Larger records may have followed small ones.
                Err(_) if limit > PAGE => {
                    limit = PAGE;
                    continue;
                }
                answer => answer.map_err(unavailable)?,
            };
            let bytes: usize = page.kvs().iter().map(|kv| kv.value().len()).sum();
            limit = if bytes < SMALL_PAGE_BYTES { (limit * 2).min(LARGEST_PAGE) } else { limit };
            if revision == 0 {
                revision = page.header().map_or(0, |header| header.revision());
            }
            found.extend(page.take_kvs().into_iter().map(|kv| kv.into_key_value()));
            if !page.more() {
                return Ok(found);
            }
            from = found.last().map(|(key, _)| [key.as_slice(), &[0]].concat()).unwrap_or_default();
        }
    }

    async fn read_whole(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.wait_for_whole_commits().await?;
        self.range_raw(&self.data_key(prefix)).await
    }

    /// A reader that is not the leader must not see half of a large commit: waits while one is being carried out.
    async fn wait_for_whole_commits(&self) -> Result<(), StoreError> {
        let deadline = tokio::time::Instant::now() + REQUEST_TIMEOUT;
        while !self.range_raw(&self.key("journal-commit")).await?.is_empty() {
            if tokio::time::Instant::now() > deadline {
                return Err(StoreError::Unavailable("a large commit is not carried out yet".to_owned()));
            }
            tokio::time::sleep(JOURNAL_LOOK).await;
        }
        Ok(())
    }

    /// Tries to become leader; `None` if another leads. One whose answer was lost finds that it leads.
    async fn campaign(&self, candidate: &str, lease: i64) -> Result<Option<i64>, StoreError> {
        let leader = self.key("leader");
        let put = TxnOp::put(leader.clone(), candidate, Some(PutOptions::new().with_lease(lease)));
        let vacant = Compare::create_revision(leader.clone(), CompareOp::Equal, 0);
        let transaction = Txn::new().when([vacant]).and_then([put]).or_else([TxnOp::get(leader, None)]);
        let answer = self.kv().txn(transaction).await.map_err(unconfirmed)?;
        if answer.succeeded() {
            return Ok(answer.header().map(|header| header.revision()));
        }
        let own = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().iter().find(|kv| kv.lease() == lease).map(|kv| kv.create_revision()),
            _ => None,
        });
        Ok(own)
    }

    /// A lease that a task keeps alive until `release` is cancelled.
    async fn hold_lease(&self, ttl: Duration) -> Result<Held, StoreError> {
        let seconds = ttl.as_secs_f64().ceil() as i64;
        let (asked, lasts) = (Instant::now(), LeaseClock::default());
        let lease = self.link.client().lease_client().grant(seconds, None).await.map_err(unconfirmed)?.id();
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        let link = Arc::clone(&self.link);
        lasts.renewed(asked, ttl);
        let keeper = Keeper { link, lease, ttl, lasts: lasts.clone(), lost: lost.clone(), release: release.clone() };
        // It ends when `release` is cancelled, which dropping the leadership does.
        self.tasks.spawn_uncancelled("etcd-lease", keeper.run());
        Ok(Held { lease, lasts, lost, release })
    }

    /// With one lease, until it leads or the lease is lost; what etcd does not answer is asked again.
    async fn lead_under(&self, candidate: &str, held: &Held) -> Result<Option<Leadership>, StoreError> {
        let term = match self.campaign(candidate, held.lease).await? {
            Some(term) => term,
            None => {
                self.wait_for_vacancy().await?;
                return Ok(None);
            }
        };
        let leadership = Leadership::new(term as u64, held.lost.clone(), held.release.clone());
        let leadership = leadership.lasting(held.lasts.clone());
        match self.settle(&leadership).await {
            Ok(()) => Ok(Some(leadership)),
            Err(error) => {
                // The lease stays: the next attempt finds that it leads.
                leadership.keep();
                Err(error)
            }
        }
    }

    /// Waits until the leader's key is gone. A hint: the caller campaigns again.
    async fn wait_for_vacancy(&self) -> Result<(), StoreError> {
        let leader = self.key("leader");
        let current = self.kv().get(leader.clone(), None).await.map_err(unavailable)?;
        if current.kvs().is_empty() {
            return Ok(());
        }
        let next = current.header().map_or(0, |header| header.revision()) + 1;
        let options = WatchOptions::new().with_start_revision(next);
        let mut events = self.link.client().watch_client().watch(leader, Some(options)).await.map_err(unavailable)?;
        while let Some(message) = events.message().await.map_err(unavailable)? {
            if message.events().iter().any(|event| event.event_type() == EventType::Delete) {
                break;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let data = self.data_key(b"").len();
        let mut attempts = 1;
        let records = loop {
            match self.read_whole(prefix).await {
                // A member may have just gone: another answers.
                Err(StoreError::Unavailable(error)) if attempts < READ_ATTEMPTS => {
                    tracing::debug!(error, "a read of etcd is repeated");
                    attempts += 1;
                    tokio::time::sleep(READ_PAUSE).await;
                }
                read => break read?,
            }
        };
        Ok(records.into_iter().map(|(key, value)| (key[data..].to_vec(), value)).collect())
    }

    async fn range_between(&self, from: &[u8], to: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.wait_for_whole_commits().await?;
        let data = self.data_key(b"");
        let end = if to.is_empty() { end_of(&data) } else { self.data_key(to) };
        let records = self.range_to(self.data_key(from), end).await?;
        Ok(records.into_iter().map(|(key, value)| (key[data.len()..].to_vec(), value)).collect())
    }

    async fn acquire_leadership(&self, candidate: &str, ttl: Duration) -> Result<Leadership, StoreError> {
        let mut held: Option<(Held, DropGuard)> = None;
        let mut pause = CANDIDATE_PAUSE.0;
        loop {
            let led = match &held {
                Some((held, _)) if !held.lost.is_cancelled() => self.lead_under(candidate, held).await,
                _ => self.hold_lease(ttl).await.map(|new| {
                    let guard = new.release.clone().drop_guard();
                    held = Some((new, guard));
                    None
                }),
            };
            match led {
                Ok(Some(leadership)) => {
                    if let Some((_, guard)) = held {
                        guard.disarm();
                    }
                    return Ok(leadership);
                }
                Ok(None) => pause = CANDIDATE_PAUSE.0,
                Err(StoreError::Open(text)) => return Err(StoreError::Open(text)),
                Err(StoreError::Refused(text)) => return Err(StoreError::Refused(text)),
                // Another was faster, or the lease is lost: the next attempt shows it.
                Err(StoreError::Deposed) => {}
                Err(error @ (StoreError::Unavailable(_) | StoreError::Full(_))) => {
                    tracing::warn!(%error, "a candidate waits for etcd");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(CANDIDATE_PAUSE.1);
                }
            }
        }
    }

    async fn commit(&self, leadership: &Leadership, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut pieces = split(writes, self.prefix.len())?;
        match pieces.len() {
            1 => self.transact(leadership, self.operations(pieces.remove(0))).await,
            _ => self.commit_in_pieces(leadership, pieces).await,
        }
    }

    async fn settle(&self, leadership: &Leadership) -> Result<(), StoreError> {
        let read = self.kv().get(self.key("commits"), None).await.map_err(unavailable)?;
        let commits = read.kvs().first().and_then(|kv| kv.value_str().ok()?.parse().ok());
        self.commits.store(commits.unwrap_or(0), Ordering::SeqCst);
        match commits {
            // Raising the counter makes void whatever still waits in etcd.
            Some(_) => self.transact(leadership, Vec::new()).await?,
            None => self.first_count(leadership).await?,
        }
        self.recover_journal(leadership).await
    }

    async fn resign(&self, leadership: Leadership) {
        // The keeper revokes the lease; a process that ends at once would not let it.
        drop(leadership);
        if !self.tasks.shutdown(REQUEST_TIMEOUT).await {
            tracing::warn!("the leader's lease was not given back: it ends by itself");
        }
    }

    async fn leader(&self) -> Result<Option<String>, StoreError> {
        let read = self.kv().get(self.key("leader"), None).await.map_err(unavailable)?;
        Ok(read.kvs().first().and_then(|kv| kv.value_str().ok()).map(str::to_owned))
    }

    fn describe(&self) -> String {
        self.url.clone()
    }
}

impl EtcdStore {
    async fn first_count(&self, leadership: &Leadership) -> Result<(), StoreError> {
        let compares = [
            Compare::create_revision(self.key("leader"), CompareOp::Equal, leadership.term() as i64),
            Compare::create_revision(self.key("commits"), CompareOp::Equal, 0),
        ];
        let put = TxnOp::put(self.key("commits"), "0", None);
        let answer = self.kv().txn(Txn::new().when(compares).and_then([put])).await.map_err(unavailable)?;
        if answer.succeeded() { Ok(()) } else { Err(StoreError::Deposed) }
    }
}

/// A lease, kept alive by its [`Keeper`].
struct Held {
    lease: i64,
    lasts: LeaseClock,
    lost: CancellationToken,
    release: CancellationToken,
}

/// Renews a lease until it is lost or let go.
struct Keeper {
    link: Arc<Link>,
    lease: i64,
    ttl: Duration,
    lasts: LeaseClock,
    lost: CancellationToken,
    release: CancellationToken,
}

impl Keeper {
    async fn run(self) {
        tokio::select! {
            () = self.release.cancelled() => {
                // Lets the next leader begin at once; if it fails, the lease ends by itself.
                if let Err(error) = self.link.client().lease_client().revoke(self.lease).await {
                    tracing::debug!(%error, "the leader's lease could not be revoked");
                }
            }
            () = self.renew() => self.lost.cancel(),
        }
    }

    /// Ends when the lease is gone, or may be: no answer came for as long as it lasts.
    async fn renew(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.ttl {
            let asked = Instant::now();
            match tokio::time::timeout(self.ttl / 2, self.renew_once()).await {
                Ok(Ok(true)) => {
                    renewed = Instant::now();
                    self.lasts.renewed(asked, self.ttl);
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the leader's lease could not be renewed, trying again"),
                Err(_) => tracing::warn!("the leader's lease was not renewed in time, trying again"),
            }
            tokio::time::sleep(self.ttl / 4).await;
        }
    }

    async fn renew_once(&self) -> Result<bool, Error> {
        let (mut keeper, mut answers) = self.link.client().lease_client().keep_alive(self.lease).await?;
        keeper.keep_alive().await?;
        Ok(answers.message().await?.is_some_and(|answer| answer.ttl() > 0))
    }
}

/// etcd refuses writes once its quota is used up, and raises an alarm that ends only by hand. It tells that in words alone.
fn unconfirmed(error: Error) -> StoreError {
    match &error {
        Error::GRpcStatus(status) if status.message().contains("database space exceeded") => {
            let remedy = "compact and defragment etcd or raise --quota-backend-bytes, then run `etcdctl alarm disarm`";
            StoreError::Full(format!("{}: {remedy}", brief(&error)))
        }
        _ => unavailable(error),
    }
}

/// etcd answers, and lets this process not in: asking again does not help.
fn refused_in_words(error: &Error) -> Option<StoreError> {
    let Error::GRpcStatus(status) = error else { return None };
    let remedy = match status.message() {
        text if text.contains("authentication failed") => "correct --store-user and --store-password-file",
        text if text.contains("user name is empty") || text.contains("user name not found") => {
            "etcd asks for a user: give --store-user and --store-password-file, or a certificate whose CN is one in \
             --store-tls"
        }
        text if text.contains("permission denied") => "give this user a role that may read and write the prefix",
        _ => return None,
    };
    Some(StoreError::Open(format!("etcd lets nobody in so: {}: {remedy}", status.message())))
}

fn unavailable(error: Error) -> StoreError {
    StoreError::Unavailable(brief(&error))
}

/// etcd's words without the client's layers around them.
fn brief(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    }
}
