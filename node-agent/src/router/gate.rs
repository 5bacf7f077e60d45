//! One shard's gate: where its connections go, whether they are held, and how many reach a backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use moorhouse_catalog::ShardId;
use tokio::sync::watch;

use super::HoldError;
use super::metrics::{self, HoldOutcome};

/// One hold of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldId(u64);

#[derive(Debug, Clone, Copy)]
struct Hold {
    id: HoldId,
    since: Instant,
}

/// What a connection has to follow.
#[derive(Debug, Clone, Default)]
pub struct Way {
    target: Option<Arc<str>>,
    hold: Option<Hold>,
    holds_begun: u64,
}

impl Way {
    /// Where to connect to; absent while there is no target, or a hold.
    pub fn open(&self) -> Option<&Arc<str>> {
        self.target.as_ref().filter(|_| self.hold.is_none())
    }

    /// A connection to `target` is to end as soon as that fails no statement.
    pub fn leaves(&self, target: &str) -> bool {
        self.open().is_none_or(|open| **open != *target)
    }

    fn is_held_by(&self, id: HoldId) -> bool {
        self.hold.is_some_and(|hold| hold.id == id)
    }
}

pub struct Gate {
    shard: ShardId,
    /// Taken before `reaching` where both are.
    way: watch::Sender<Way>,
    /// Connections that reach a backend or are just connecting to one.
    reaching: watch::Sender<u32>,
    /// Connections cut since the last hold began.
    cut: AtomicU32,
}

/// Counted in `reaching` until dropped.
pub struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        metrics::CONNECTIONS.dec();
        self.0.reaching.send_modify(|count| *count -= 1);
    }
}

impl Gate {
    pub fn new(shard: ShardId) -> Self {
        Self { shard, way: watch::Sender::new(Way::default()), reaching: watch::Sender::new(0), cut: AtomicU32::new(0) }
    }

    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Tells of every change of the way.
    pub fn watch(&self) -> watch::Receiver<Way> {
        self.way.subscribe()
    }

    /// The target, and the right to connect to it, if the gate is open.
    pub fn enter(&self) -> Option<(Arc<str>, Pass<'_>)> {
        // The way stays locked while counting: a hold that begins now sees this connection.
        let way = self.way.borrow();
        let target = Arc::clone(way.open()?);
        self.reaching.send_modify(|count| *count += 1);
        metrics::CONNECTIONS.inc();
        Some((target, Pass(self)))
    }

    /// A connection was closed because it was to leave.
    pub fn count_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
        metrics::CUT.inc();
    }

    pub fn route(&self, target: &str) {
        self.way.send_if_modified(|way| {
            let changed = way.target.as_deref() != Some(target);
            if changed {
                way.target = Some(target.into());
            }
            changed
        });
    }

    pub fn begin_hold(&self) -> Result<HoldId, HoldError> {
        let mut begun = Err(HoldError::AlreadyHeld { shard: self.shard });
        self.way.send_if_modified(|way| {
            if way.hold.is_some() {
                return false;
            }
            way.holds_begun += 1;
            let id = HoldId(way.holds_begun);
            way.hold = Some(Hold { id, since: Instant::now() });
            self.cut.store(0, Ordering::Relaxed);
            begun = Ok(id);
            true
        });
        begun
    }

    /// Waits until no connection reaches a backend; otherwise, or when dropped, the hold ends.
    pub async fn drain(&self, id: HoldId, limit: Duration) -> Result<u32, HoldError> {
        let unfinished = Unfinished { gate: self, id };
        let mut reaching = self.reaching.subscribe();
        let drained = tokio::time::timeout(limit, reaching.wait_for(|count| *count == 0)).await.is_ok();
        if !drained {
            let connections = *self.reaching.borrow();
            drop(unfinished);
            return Err(HoldError::StillBusy { shard: self.shard, connections, waited: limit });
        }
        std::mem::forget(unfinished);
        if !self.way.borrow().is_held_by(id) {
            return Err(HoldError::Released { shard: self.shard });
        }
        Ok(self.cut.load(Ordering::Relaxed))
    }

    pub fn release(&self, target: &str) {
        self.way.send_modify(|way| {
            way.target = Some(target.into());
            end(way, HoldOutcome::Released);
        });
    }

    /// Ends the hold if it is still the same.
    pub fn expire(&self, id: HoldId) {
        if self.end_hold(id, HoldOutcome::Expired) {
            tracing::warn!(shard = %self.shard, "a hold was not released in time and is off");
        }
    }

    fn end_hold(&self, id: HoldId, outcome: HoldOutcome) -> bool {
        self.way.send_if_modified(|way| {
            let same = way.is_held_by(id);
            if same {
                end(way, outcome);
            }
            same
        })
    }
}

fn end(way: &mut Way, outcome: HoldOutcome) {
    if let Some(hold) = way.hold.take() {
        metrics::HOLDS.with_label_values(&[outcome.label()]).inc();
        metrics::HOLD_SECONDS.observe(hold.since.elapsed().as_secs_f64());
    }
}

/// Ends a hold that was not drained.
struct Unfinished<'a> {
    gate: &'a Gate,
    id: HoldId,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.gate.end_hold(self.id, HoldOutcome::StillBusy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn gate() -> Gate {
        let gate = Gate::new(ShardId(3));
        gate.route("a:1");
        gate
    }

    #[tokio::test]
    async fn nobody_enters_without_a_target_or_during_a_hold() {
        let gate = Gate::new(ShardId(0));
        assert!(gate.enter().is_none());
        gate.route("a:1");
        assert_eq!(&*gate.enter().expect("open").0, "a:1");
        let id = gate.begin_hold().expect("not held");
        assert!(gate.enter().is_none());
        assert_eq!(gate.begin_hold(), Err(HoldError::AlreadyHeld { shard: ShardId(0) }));
        assert_eq!(gate.drain(id, SOON).await, Ok(0));
        gate.route("b:1");
        assert!(gate.enter().is_none(), "a route does not end a hold");
        gate.release("c:1");
        assert_eq!(&*gate.enter().expect("open").0, "c:1");
    }

    #[tokio::test]
    async fn a_busy_connection_ends_the_hold() {
        let gate = gate();
        let (_, pass) = gate.enter().expect("open");
        let id = gate.begin_hold().expect("not held");
        let busy = HoldError::StillBusy { shard: ShardId(3), connections: 1, waited: SOON };
        assert_eq!(gate.drain(id, SOON).await, Err(busy));
        assert!(gate.enter().is_some());
        drop(pass);
    }

    #[tokio::test]
    async fn a_hold_expires_to_the_newest_target_and_an_old_timer_harms_no_new_hold() {
        let gate = gate();
        let first = gate.begin_hold().expect("not held");
        gate.route("b:1");
        gate.expire(first);
        assert_eq!(&*gate.enter().expect("open").0, "b:1");
        let second = gate.begin_hold().expect("not held");
        gate.expire(first);
        assert!(gate.enter().is_none());
        gate.expire(second);
        assert!(gate.enter().is_some());
    }

    #[tokio::test]
    async fn a_dropped_hold_is_off() {
        let gate = gate();
        let (_, _pass) = gate.enter().expect("open");
        let id = gate.begin_hold().expect("not held");
        let given_up = tokio::time::timeout(SOON, gate.drain(id, Duration::from_secs(60))).await;
        assert!(given_up.is_err());
        assert!(gate.enter().is_some());
    }

    #[test]
    fn connections_leave_at_a_hold_and_at_another_target() {
        let gate = gate();
        assert!(!gate.watch().borrow().leaves("a:1"));
        gate.route("b:1");
        assert!(gate.watch().borrow().leaves("a:1"));
        gate.begin_hold().expect("not held");
        assert!(gate.watch().borrow().leaves("b:1"));
    }
}
