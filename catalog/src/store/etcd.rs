//! The production store: etcd.
//!
//! **Leadership** is the key `PREFIX/leader` under a lease; its creation revision is the term, and every transaction
//! compares it. **Late commits**: every transaction also compares and raises the counter `PREFIX/commits`, so that a
//! request that was given up can be made void (by [`Store::settle`]) before the state is read again.
//! **Size**: etcd takes 128 operations and 1.5 MiB a transaction. A larger commit is first written, in pieces, to
//! `PREFIX/journal/…`; the transaction that puts `PREFIX/journal-commit` is its commit point; the pieces are then carried
//! out, which may be repeated. A leader that finds that mark finishes the work, one that finds pieces without it drops them.
//! **Records** are below `PREFIX/data/`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType, GetOptions, KvClient, PutOptions, Txn,
    TxnOp, TxnOpResponse, WatchOptions,
};
use moorhouse_base::tasks::TaskGroup;
use tokio_util::sync::CancellationToken;

use crate::entry::Write;
use crate::store::{KeyValue, Leadership, Store, StoreError};

/// etcd's default `--max-txn-ops` is 128; one is the counter's.
const MAX_OPERATIONS: usize = 127;
/// etcd's default `--max-request-bytes` is 1.5 MiB; the rest is for keys, framing and the compares.
const MAX_BYTES: usize = 1_400_000;
/// Records a page of a range scan: at most this many times the largest record must fit into an answer.
const PAGE: i64 = 128;
/// Pages grow while they stay small: a million parts would take very many round trips.
const LARGEST_PAGE: i64 = 2_048;
const SMALL_PAGE_BYTES: usize = 1 << 20;
const MAX_ANSWER_BYTES: usize = 512 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const JOURNAL_LOOK: Duration = Duration::from_millis(20);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

pub struct EtcdStore {
    client: Client,
    url: String,
    prefix: String,
    /// The value of `PREFIX/commits` that the next transaction expects.
    commits: AtomicU64,
    tasks: TaskGroup,
}

impl EtcdStore {
    /// `endpoints` are `host:port`. Fails if none of them answers.
    pub async fn connect(endpoints: &[String], prefix: &str) -> Result<Self, StoreError> {
        let url = format!("etcd://{}/{prefix}", endpoints.join(","));
        let remedy = |error: &dyn std::fmt::Display| {
            StoreError::Open(format!(
                "etcd at {} does not answer ({error}): start it, or correct --store",
                endpoints.join(",")
            ))
        };
        let options = ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
        let addresses: Vec<String> = endpoints.iter().map(|endpoint| format!("http://{endpoint}")).collect();
        let mut client = Client::connect(&addresses, Some(options)).await.map_err(|e| remedy(&brief(&e)))?;
        match tokio::time::timeout(CONNECT_TIMEOUT, client.status()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(remedy(&brief(&error))),
            Err(_) => return Err(remedy(&"no answer in 3 s")),
        }
        Ok(Self { client, url, prefix: prefix.to_owned(), commits: AtomicU64::new(0), tasks: TaskGroup::new() })
    }

    fn key(&self, name: &str) -> Vec<u8> {
        format!("{}/{name}", self.prefix).into_bytes()
    }

    fn data_key(&self, key: &[u8]) -> Vec<u8> {
        [format!("{}/data/", self.prefix).as_bytes(), key].concat()
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
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
        if self.range_raw(&self.key("journal-commit")).await?.is_empty() {
            return self.drop_journal(leadership).await;
        }
        let pieces = pieces.iter().map(|(_, piece)| decode_piece(piece)).collect::<Option<Vec<_>>>();
        let damaged = || StoreError::Refused("the journal of a large commit is damaged".to_owned());
        self.carry_out(leadership, pieces.ok_or_else(damaged)?).await
    }

    fn operations(&self, writes: Vec<Write>) -> Vec<TxnOp> {
        let operation = |write| match write {
            Write::Put { key, value } => TxnOp::put(self.data_key(&key), value, None),
            Write::Delete { key } => TxnOp::delete(self.data_key(&key), None),
        };
        writes.into_iter().map(operation).collect()
    }

    /// Page by page at one revision.
    async fn range_raw(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let mut end = prefix.to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1; // Prefixes are text, so the last byte is never 0xff.
        }
        let mut from = prefix.to_vec();
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

    /// Tries to become leader; 0 if another leads.
    async fn campaign(&self, candidate: &str, lease: i64) -> Result<i64, StoreError> {
        let leader = self.key("leader");
        let put = TxnOp::put(leader.clone(), candidate, Some(PutOptions::new().with_lease(lease)));
        let vacant = Compare::create_revision(leader.clone(), CompareOp::Equal, 0);
        let answer = self.kv().txn(Txn::new().when([vacant]).and_then([put])).await.map_err(unavailable)?;
        let revision = answer.header().map_or(0, |header| header.revision());
        Ok(if answer.succeeded() { revision } else { 0 })
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
        let mut events = self.client.watch_client().watch(leader, Some(options)).await.map_err(unavailable)?;
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
        self.wait_for_whole_commits().await?;
        let data = self.data_key(b"").len();
        let records = self.range_raw(&self.data_key(prefix)).await?;
        Ok(records.into_iter().map(|(key, value)| (key[data..].to_vec(), value)).collect())
    }

    async fn acquire_leadership(&self, candidate: &str, ttl: Duration) -> Result<Leadership, StoreError> {
        let seconds = ttl.as_secs_f64().ceil() as i64;
        let lease = self.client.lease_client().grant(seconds, None).await.map_err(unavailable)?.id();
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        let keeper = Keeper { client: self.client.clone(), lease, ttl, lost: lost.clone(), release: release.clone() };
        // It ends when `release` is cancelled, which dropping the leadership does.
        self.tasks.spawn_uncancelled("etcd-lease", keeper.run());
        let guard = release.clone().drop_guard();
        let term = loop {
            match self.campaign(candidate, lease).await? {
                0 => self.wait_for_vacancy().await?,
                term => break term,
            }
            if lost.is_cancelled() {
                return Err(StoreError::Unavailable("the lease ended while waiting for the leadership".to_owned()));
            }
        };
        guard.disarm();
        let leadership = Leadership::new(term as u64, lost, release);
        self.settle(&leadership).await?;
        Ok(leadership)
    }

    async fn commit(&self, leadership: &Leadership, writes: Vec<Write>) -> Result<(), StoreError> {
        let size = |write: &Write| match write {
            Write::Put { key, value } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
        };
        if let Some(large) = writes.iter().find(|write| size(write) > MAX_BYTES) {
            let (key, size) = (String::from_utf8_lossy(large.key()).into_owned(), size(large));
            return Err(StoreError::Refused(format!("record {key:?} has {size} bytes, etcd takes {MAX_BYTES}")));
        }
        let mut pieces: Vec<Vec<Write>> = vec![Vec::new()];
        let mut bytes = 0;
        for write in writes {
            let piece = pieces.last().map_or(0, Vec::len);
            // Base64 in the journal, and the prefix before each key, cost some more than the write itself.
            let cost = size(&write) + self.prefix.len() + 64;
            if piece > 0 && (piece == MAX_OPERATIONS || bytes + cost > MAX_BYTES) {
                pieces.push(Vec::new());
                bytes = 0;
            }
            bytes += cost;
            if let Some(piece) = pieces.last_mut() {
                piece.push(write);
            }
        }
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

/// Renews a lease until it is lost or let go.
struct Keeper {
    client: Client,
    lease: i64,
    ttl: Duration,
    lost: CancellationToken,
    release: CancellationToken,
}

impl Keeper {
    async fn run(self) {
        tokio::select! {
            () = self.release.cancelled() => {
                // Lets the next leader begin at once; if it fails, the lease ends by itself.
                if let Err(error) = self.client.lease_client().revoke(self.lease).await {
                    tracing::debug!(%error, "the leader's lease could not be revoked");
                }
            }
            () = self.renew() => self.lost.cancel(),
        }
    }

    /// Ends when the lease is gone, or may be: no answer came for as long as it lasts.
    async fn renew(&self) {
        let mut renewed = tokio::time::Instant::now();
        while renewed.elapsed() < self.ttl {
            match tokio::time::timeout(self.ttl / 2, self.renew_once()).await {
                Ok(Ok(true)) => renewed = tokio::time::Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the leader's lease could not be renewed, trying again"),
                Err(_) => tracing::warn!("the leader's lease was not renewed in time, trying again"),
            }
            tokio::time::sleep(self.ttl / 4).await;
        }
    }

    async fn renew_once(&self) -> Result<bool, Error> {
        let (mut keeper, mut answers) = self.client.lease_client().keep_alive(self.lease).await?;
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

/// Length-prefixed: kind, key, value.
fn encode_piece(writes: &[Write]) -> Vec<u8> {
    let mut piece = Vec::new();
    let mut field = |bytes: &[u8]| {
        piece.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        piece.extend_from_slice(bytes);
    };
    for write in writes {
        match write {
            Write::Put { key, value } => {
                field(b"put");
                field(key);
                field(value);
            }
            Write::Delete { key } => {
                field(b"delete");
                field(key);
            }
        }
    }
    piece
}

fn decode_piece(mut piece: &[u8]) -> Option<Vec<Write>> {
    let mut field = || -> Option<Option<Vec<u8>>> {
        if piece.is_empty() {
            return Some(None);
        }
        let (length, rest) = piece.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        piece = rest;
        Some(Some(bytes.to_vec()))
    };
    let mut writes = Vec::new();
    while let Some(kind) = field()? {
        writes.push(match kind.as_slice() {
            b"put" => Write::Put { key: field()??, value: field()?? },
            b"delete" => Write::Delete { key: field()?? },
            _ => return None,
        });
    }
    Some(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_survives_its_encoding() {
        let writes = vec![
            Write::Put { key: b"a".to_vec(), value: vec![0, 255, 7] },
            Write::Delete { key: b"b/c".to_vec() },
            Write::Put { key: b"d".to_vec(), value: Vec::new() },
        ];
        let piece = encode_piece(&writes);
        assert_eq!(decode_piece(&piece), Some(writes));
        assert_eq!(decode_piece(&piece[..piece.len() - 1]), None);
        assert_eq!(decode_piece(&[]), Some(Vec::new()));
    }
}
