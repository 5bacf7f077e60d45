//! A metadata store of the simulation: transactions that compare the term, leases that end, answers that do not come.
//!
//! It keeps what [`Store`] promises and no more: a commit that was given up may still happen until [`Store::settle`] returns,
//! and a term ends as soon as its lease was not renewed in time, whatever its holder believes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use moorhouse_catalog::entry::Write;
use moorhouse_catalog::store::{KeyValue, Leadership, LeaseClock, Store, StoreError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::chance::Chance;
use crate::network::Network;
use crate::observer::Observer;

/// The store's name as a host of the network.
pub const HOST: &str = "store";

/// A request is given up after this.
const DEADLINE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(40);

/// The store itself; each controller has a [`Connection`].
#[derive(Clone)]
pub struct SimStore(Arc<Mutex<State>>);

struct State {
    chance: Chance,
    now_ms: u64,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of the newest leader.
    term: u64,
    /// Until when the newest leader leads, unless it renews.
    leads_until_ms: Option<u64>,
    /// Requests of before the last settling are void.
    generation: u64,
    arriving: Vec<Arriving>,
    /// Of a thousand commits, how many get no answer.
    unanswered: u64,
    observer: Observer,
}

/// A transaction on its way.
struct Arriving {
    at_ms: u64,
    term: u64,
    generation: u64,
    request: Request,
    answer: oneshot::Sender<Result<u64, StoreError>>,
}

enum Request {
    Commit(Vec<Write>),
    Settle,
}

impl SimStore {
    pub fn new(chance: Chance, observer: Observer) -> Self {
        Self(Arc::new(Mutex::new(State {
            chance,
            now_ms: 0,
            records: BTreeMap::new(),
            term: 0,
            leads_until_ms: None,
            generation: 0,
            arriving: Vec::new(),
            unanswered: 0,
            observer,
        })))
    }

    /// What one controller opens.
    pub fn connect(&self, host: &str, network: &Network) -> Connection {
        Connection {
            store: self.clone(),
            network: network.clone(),
            host: host.to_owned(),
            generation: Arc::new(Mutex::new(0)),
        }
    }

    pub fn set_unanswered(&self, of_a_thousand: u64) {
        self.lock().unanswered = of_a_thousand;
    }

    /// Lets time pass: what has arrived takes effect.
    pub fn step(&self, now_ms: u64) {
        let mut state = self.lock();
        state.now_ms = now_ms;
        if state.leads_until_ms.is_some_and(|until| until < now_ms) {
            state.leads_until_ms = None;
        }
        let (due, later) = std::mem::take(&mut state.arriving).into_iter().partition(|a| a.at_ms <= now_ms);
        state.arriving = later;
        let mut due: Vec<Arriving> = due;
        due.sort_by_key(|arriving| arriving.at_ms);
        for Arriving { term, generation, request, answer, .. } in due {
            let done = state.take_effect(term, generation, request);
            // Whoever asked may have given up.
            let _ = answer.send(done);
        }
    }

    pub fn records(&self) -> Vec<KeyValue> {
        self.lock().records.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_effect(&mut self, term: u64, generation: u64, request: Request) -> Result<u64, StoreError> {
        if term != self.term || self.leads_until_ms.is_none() {
            return Err(StoreError::Deposed);
        }
        match request {
            Request::Settle => {
                self.generation += 1;
                Ok(self.generation)
            }
            Request::Commit(_) if generation != self.generation => {
                Err(StoreError::Unavailable("the commit was settled meanwhile".to_owned()))
            }
            Request::Commit(writes) => {
                self.observer.wrote(self.now_ms, term, &writes);
                for write in writes {
                    match write {
                        Write::Put { key, value } => drop(self.records.insert(key, value)),
                        Write::Delete { key } => drop(self.records.remove(&key)),
                    }
                }
                Ok(self.generation)
            }
        }
    }
}

/// One controller's way to the store.
#[derive(Clone)]
pub struct Connection {
    store: SimStore,
    network: Network,
    host: String,
    /// As of the last settling.
    generation: Arc<Mutex<u64>>,
}

impl Connection {
    fn is_cut(&self) -> bool {
        self.network.is_cut(&self.host, HOST) || self.network.is_cut(HOST, &self.host)
    }

    async fn transact(&self, term: u64, request: Request) -> Result<u64, StoreError> {
        let unavailable = |what: &str| StoreError::Unavailable(what.to_owned());
        let generation = *self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, answered) = oneshot::channel();
        let silent = {
            let mut state = self.store.lock();
            let cut = self.is_cut();
            let unanswered = state.unanswered;
            let (lost, silent) =
                (state.chance.permille(unanswered / 2) || cut, state.chance.permille(unanswered) || cut);
            // What gets no answer may take longer than anybody waits for it.
            let late = if silent { state.chance.between(1, 4_000) } else { state.chance.between(1, 30) };
            let at_ms = state.now_ms + late;
            if !lost {
                state.arriving.push(Arriving { at_ms, term, generation, request, answer });
            }
            silent
        };
        if silent {
            tokio::time::sleep(DEADLINE).await;
            return Err(unavailable("no answer in time"));
        }
        let answered = tokio::time::timeout(DEADLINE, answered).await.map_err(|_| unavailable("no answer in time"))?;
        // A request that was lost.
        answered.map_err(|_| unavailable("the connection broke"))?
    }

    /// Renews the lease of `term` until it is lost or let go, by this process's own clock.
    async fn keep(
        self,
        (term, ttl): (u64, Duration),
        lasts: LeaseClock,
        lost: CancellationToken,
        release: CancellationToken,
    ) {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::select! {
                biased;
                () = release.cancelled() => {
                    let mut state = self.store.lock();
                    if state.term == term && !self.is_cut() {
                        state.leads_until_ms = None;
                    }
                    return;
                }
                () = tokio::time::sleep(ttl / 4) => {}
            }
            if !self.is_cut() {
                let mut state = self.store.lock();
                if state.term != term || state.leads_until_ms.is_none() {
                    break;
                }
                state.leads_until_ms = Some(state.now_ms + ttl.as_millis() as u64);
                renewed = tokio::time::Instant::now();
                lasts.renewed(renewed, ttl);
            }
            if renewed.elapsed() >= ttl {
                break;
            }
        }
        lost.cancel();
    }

    fn campaign(&self, ttl: Duration) -> Option<u64> {
        if self.is_cut() {
            return None;
        }
        let mut state = self.store.lock();
        if state.leads_until_ms.is_some() {
            return None;
        }
        state.term += 1;
        state.leads_until_ms = Some(state.now_ms + ttl.as_millis() as u64);
        let (now_ms, term) = (state.now_ms, state.term);
        state.observer.led(now_ms, term);
        Some(term)
    }
}

#[async_trait]
impl Store for Connection {
    async fn range(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let late = self.store.lock().chance.between(5, 40);
        tokio::time::sleep(Duration::from_millis(late)).await;
        if self.is_cut() {
            tokio::time::sleep(DEADLINE).await;
            return Err(StoreError::Unavailable("no answer in time".to_owned()));
        }
        let records = self.store.records();
        Ok(records.into_iter().filter(|(key, _)| key.starts_with(prefix)).collect())
    }

    async fn acquire_leadership(&self, _candidate: &str, ttl: Duration) -> Result<Leadership, StoreError> {
        let term = loop {
            match self.campaign(ttl) {
                Some(term) => break term,
                None => tokio::time::sleep(POLL).await,
            }
        };
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        let lasts = LeaseClock::default();
        lasts.renewed(tokio::time::Instant::now(), ttl);
        tokio::spawn(self.clone().keep((term, ttl), lasts.clone(), lost.clone(), release.clone()));
        let leadership = Leadership::new(term, lost, release).lasting(lasts);
        self.settle(&leadership).await?;
        Ok(leadership)
    }

    async fn commit(&self, leadership: &Leadership, writes: Vec<Write>) -> Result<(), StoreError> {
        self.transact(leadership.term(), Request::Commit(writes)).await.map(drop)
    }

    async fn settle(&self, leadership: &Leadership) -> Result<(), StoreError> {
        let settled = self.transact(leadership.term(), Request::Settle).await?;
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) = settled;
        Ok(())
    }

    fn describe(&self) -> String {
        "sim:".to_owned()
    }
}
