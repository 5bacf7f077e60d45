//! Which part lists are in memory: loads those that requests wait for, and drops those that were used longest ago when there
//! is no room.
//!
//! A request that needs a list is parked, and taken up again in its order once the list is here; others go on meanwhile.
//! Lists are read and unpacked beside the owner loop, so a large one holds up nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moorhouse_base::tasks::TaskGroup;
use moorhouse_catalog::TableShard;
use moorhouse_catalog::state::{Catalog, ListSeed, NotLoaded, PartList};
use moorhouse_catalog::store::Store;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tracing::{debug, error};

use crate::{limits, metrics};

/// A list that was asked for.
pub struct Loaded {
    /// Lists of before the catalog was loaded again are of no use.
    generation: u64,
    at: TableShard,
    list: Result<PartList, String>,
}

/// Waits for lists.
struct Parked<R> {
    request: R,
    /// All that it needs at once: what is here stays here until the request is done.
    needs: BTreeSet<TableShard>,
}

/// `R` is what waits.
pub struct Lists<R> {
    store: Arc<dyn Store>,
    /// Of memory; a list that is needed is loaded all the same.
    budget_bytes: usize,
    generation: u64,
    loading: BTreeSet<TableShard>,
    parked: Vec<Parked<R>>,
    /// When each list was last used, counted in uses.
    used: BTreeMap<TableShard, u64>,
    uses: u64,
    /// Some of `parked` may wait for nothing.
    is_anew: bool,
    places: Arc<Semaphore>,
    tasks: TaskGroup,
    sender: mpsc::Sender<Loaded>,
    receiver: mpsc::Receiver<Loaded>,
}

impl<R> Drop for Lists<R> {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

impl<R> Lists<R> {
    pub fn new(store: Arc<dyn Store>, budget_bytes: usize) -> Self {
        let (sender, receiver) = mpsc::channel(limits::LISTS_AT_ONCE);
        Self {
            store,
            budget_bytes,
            generation: 0,
            loading: BTreeSet::new(),
            parked: Vec::new(),
            used: BTreeMap::new(),
            uses: 0,
            is_anew: false,
            places: Arc::new(Semaphore::new(limits::LISTS_AT_ONCE)),
            tasks: TaskGroup::new(),
            sender,
            receiver,
        }
    }

    pub fn is_full(&self) -> bool {
        self.parked.len() >= limits::PARKED
    }

    /// The request waits until these lists are here.
    pub fn park(&mut self, catalog: &Catalog, request: R, NotLoaded(needs): NotLoaded) {
        needs.iter().for_each(|at| self.load(catalog, *at));
        self.parked.push(Parked { request, needs });
    }

    /// The next list that was asked for; waits for ever if there is none.
    pub async fn loaded(&mut self) -> Loaded {
        match self.receiver.recv().await {
            Some(loaded) => loaded,
            None => std::future::pending().await,
        }
    }

    /// Takes a list in. Answers with the requests that need nothing more, in their order, or that cannot have it, with why.
    pub fn take_in(&mut self, catalog: &mut Catalog, loaded: Loaded) -> (Vec<R>, Vec<(R, String)>) {
        let Loaded { generation, at, list } = loaded;
        if generation != self.generation {
            return (Vec::new(), Vec::new());
        }
        self.loading.remove(&at);
        self.touch(at);
        let failed = match list {
            Ok(list) => {
                catalog.install(list);
                None
            }
            Err(error) => Some(error),
        };
        let (mut ready, mut refused) = (Vec::new(), Vec::new());
        for parked in std::mem::take(&mut self.parked) {
            match &failed {
                Some(error) if parked.needs.contains(&at) => refused.push((parked.request, error.clone())),
                None if parked.needs.iter().all(|at| !self.loading.contains(at)) => ready.push(parked.request),
                _ => self.parked.push(parked),
            }
        }
        (ready, refused)
    }

    /// The catalog was loaded again: what was on its way is of no use, and is asked for anew.
    pub fn begin_anew(&mut self, catalog: &Catalog) {
        self.generation += 1;
        self.is_anew = true;
        self.loading.clear();
        self.used.clear();
        let needed: BTreeSet<TableShard> = self.parked.iter().flat_map(|parked| parked.needs.clone()).collect();
        needed.into_iter().for_each(|at| self.load(catalog, at));
    }

    /// After the catalog was loaded again: requests that wait for nothing any more, as their lists are gone.
    pub fn freed(&mut self) -> Vec<R> {
        if !std::mem::take(&mut self.is_anew) {
            return Vec::new();
        }
        let (waiting, freed) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|parked| parked.needs.iter().any(|at| self.loading.contains(at)));
        self.parked = waiting;
        freed.into_iter().map(|parked: Parked<R>| parked.request).collect()
    }

    pub fn touch(&mut self, at: TableShard) {
        self.uses += 1;
        self.used.insert(at, self.uses);
    }

    /// Drops what was used longest ago, if there is no room. Everything in the catalog must be confirmed by the store.
    pub fn shrink(&mut self, catalog: &mut Catalog) {
        if catalog.memory_bytes() <= self.budget_bytes {
            return;
        }
        let needed: BTreeSet<TableShard> = self.parked.iter().flat_map(|parked| parked.needs.iter().copied()).collect();
        let loaded = catalog.shards().iter().filter(|(at, shard)| shard.is_loaded() && !needed.contains(at));
        let mut oldest: Vec<(u64, TableShard)> =
            loaded.map(|(at, _)| (self.used.get(at).copied().unwrap_or(0), *at)).collect();
        oldest.sort_unstable();
        // Somewhat further down, so that this is not done for each commit.
        let target = self.budget_bytes - self.budget_bytes / limits::LISTS_SLACK;
        for (used, at) in oldest {
            if catalog.memory_bytes() <= target || used == self.uses {
                return;
            }
            if catalog.drop_list(at) {
                self.used.remove(&at);
                metrics::PART_LISTS_DROPPED.inc();
            }
        }
    }

    fn load(&mut self, catalog: &Catalog, at: TableShard) {
        let Some(seed) = catalog.seed(at) else { return };
        if !self.loading.insert(at) {
            return;
        }
        let (store, places, sender) = (Arc::clone(&self.store), Arc::clone(&self.places), self.sender.clone());
        let generation = self.generation;
        self.tasks.spawn("part-list", async move {
            // Never closed.
            let Ok(_place) = places.acquire().await else { return };
            let began = Instant::now();
            let list = read(&*store, seed).await;
            match &list {
                Ok(_) => metrics::PART_LIST_SECONDS.observe(began.elapsed().as_secs_f64()),
                Err(error) => error!(%at, error, "a part list cannot be read"),
            }
            debug!(%at, took_ms = began.elapsed().as_millis() as u64, "a part list was read");
            // The loop may have ended.
            let _ = sender.send(Loaded { generation, at, list }).await;
        });
    }
}

async fn read(store: &dyn Store, seed: ListSeed) -> Result<PartList, String> {
    let mut records = Vec::new();
    for prefix in seed.prefixes() {
        records.extend(store.range(&prefix).await.map_err(|error| error.to_string())?);
    }
    let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    seed.read(records).map_err(|error| error.to_string())
}
