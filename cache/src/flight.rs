//! [`Flights`]: one fetch per key at a time, however many want it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::CacheError;
use crate::key::BlobKey;

#[derive(Default, Clone)]
pub(crate) struct Flights {
    running: Arc<Mutex<HashMap<BlobKey, watch::Receiver<Outcome>>>>,
}

#[derive(Clone)]
enum Outcome {
    Flying,
    Landed,
    Failed(CacheError),
}

enum Role {
    Leader(Leader),
    Waiter(watch::Receiver<Outcome>),
}

/// Ends the flight when it goes: the sender's end without an outcome means that the leader was dropped.
struct Leader {
    flights: Flights,
    key: BlobKey,
    outcome: watch::Sender<Outcome>,
}

impl Flights {
    /// Gives what `open` finds, after one `fetch` by this or another caller.
    pub async fn fly(
        &self,
        key: BlobKey,
        open: impl Fn() -> Result<Option<File>, CacheError>,
        fetch: impl AsyncFnOnce() -> Result<File, CacheError>,
    ) -> Result<File, CacheError> {
        let leader = loop {
            match self.join(key) {
                Role::Leader(leader) => break leader,
                Role::Waiter(mut outcome) => {
                    let landed = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Flying)).await;
                    if let Ok(Outcome::Failed(error)) = landed.map(|outcome| outcome.clone()) {
                        return Err(error);
                    }
                    // Landed, unless it was evicted already; or its leader was dropped, and the next turn is ours.
                    if let Some(file) = open()? {
                        return Ok(file);
                    }
                }
            }
        };
        // Another flight may have landed between the caller's look and this one's start.
        if let Some(file) = open()? {
            leader.end(Outcome::Landed);
            return Ok(file);
        }
        let fetched = fetch().await;
        leader.end(match &fetched {
            Ok(_) => Outcome::Landed,
            Err(error) => Outcome::Failed(error.clone()),
        });
        fetched
    }

    fn join(&self, key: BlobKey) -> Role {
        let mut running = self.lock();
        if let Some(outcome) = running.get(&key) {
            return Role::Waiter(outcome.clone());
        }
        let (outcome, waiters) = watch::channel(Outcome::Flying);
        running.insert(key, waiters);
        Role::Leader(Leader { flights: self.clone(), key, outcome })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BlobKey, watch::Receiver<Outcome>>> {
        // Each holder makes one change to the map, so a panicked one leaves it whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader {
    fn end(self, outcome: Outcome) {
        // Off the map first, so that nobody joins a flight that is over; nobody waiting is fine.
        self.flights.lock().remove(&self.key);
        let _ = self.outcome.send(outcome);
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // After `end` this could only meet the flight of a later leader, which is not ours to take off.
        if matches!(*self.outcome.borrow(), Outcome::Flying) {
            self.flights.lock().remove(&self.key);
        }
    }
}
