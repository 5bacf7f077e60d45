//! [`S3Fifo`]: what to evict. Pure: no clock, no file.
//!
//! The algorithm is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), with sizes in bytes:
//! a newcomer waits in a *small* queue of a tenth of the room; who was not used again by its end is evicted and leaves a
//! *ghost* (its name alone); who was goes to the *main* queue, as does who comes back as a ghost. Main is a FIFO with
//! reinsertion. So bytes that are read once, a scan, pass through the small queue and leave the rest alone.
//!
//! One departure: a use that follows the last one closely does not count (LRU-K's *correlated reference period*, O'Neil et
//! al., SIGMOD 1993), because one scan opens a file several times and reads a block in several pieces.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The small queue's share of what is here, in parts of ten.
const SMALL_TENTHS: u64 = 1;
/// More uses than this are not told apart.
const USES_MAX: u8 = 3;
/// Uses of one entry within this time are one use.
pub(crate) const CORRELATED_MS: u64 = 2_000;
/// Bounds the memory for ghosts, which cost no disk.
const GHOSTS_MAX: usize = 1 << 17;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Small,
    Main,
}

struct Entry {
    cost: u64,
    place: Place,
    /// The entry's ticket in its queue; other tickets of the same key are stale.
    ticket: u64,
    uses: u8,
    counted_ms: u64,
}

/// Costs are in bytes of disk.
pub(crate) struct S3Fifo<K> {
    entries: HashMap<K, Entry>,
    small: Line<K>,
    main: Line<K>,
    small_cost: u64,
    main_cost: u64,
    ghosts: Ghosts<K>,
    next_ticket: u64,
}

/// A queue from which entries may vanish in the middle: their tickets stay until they are met or are too many.
struct Line<K> {
    tickets: VecDeque<(K, u64)>,
    live: usize,
}

impl<K: Copy + Eq + Hash> S3Fifo<K> {
    /// `room`: the bytes that all entries together may cost; ghosts are remembered for as many.
    pub fn new(room: u64) -> Self {
        Self {
            entries: HashMap::new(),
            small: Line::new(),
            main: Line::new(),
            small_cost: 0,
            main_cost: 0,
            ghosts: Ghosts::new(room),
            next_ticket: 0,
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn cost(&self) -> u64 {
        self.small_cost + self.main_cost
    }

    /// Adds an entry that is not there. True if its ghost was: it has been evicted too early.
    pub fn insert(&mut self, key: K, cost: u64, now_ms: u64) -> bool {
        let returns = self.ghosts.remove(&key);
        self.put(key, cost, if returns { Place::Main } else { Place::Small }, now_ms);
        returns
    }

    /// Adds an entry that has proved itself already.
    pub fn insert_kept(&mut self, key: K, cost: u64, now_ms: u64) {
        self.ghosts.remove(&key);
        self.put(key, cost, Place::Main, now_ms);
    }

    /// Notes a use. False if there is no such entry.
    pub fn touch(&mut self, key: &K, now_ms: u64) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if now_ms.saturating_sub(entry.counted_ms) >= CORRELATED_MS {
            entry.uses = (entry.uses + 1).min(USES_MAX);
            entry.counted_ms = now_ms;
        }
        true
    }

    /// Takes an entry out; gives its cost.
    pub fn remove(&mut self, key: &K) -> Option<u64> {
        let entry = self.entries.remove(key)?;
        *self.cost_of(entry.place) -= entry.cost;
        self.line_of(entry.place).live -= 1;
        self.compact(entry.place);
        Some(entry.cost)
    }

    /// Whether the entry has proved itself: it would survive a scan.
    pub fn is_kept(&self, key: &K) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.place == Place::Main || entry.uses > 0)
    }

    /// Takes out the entry that is worth least; `None` if there is none. `incoming`: bytes on their way into the small queue.
    pub fn evict(&mut self, incoming: u64) -> Option<(K, u64)> {
        loop {
            let small_is_over = self.small_cost + incoming > (self.cost() + incoming) / 10 * SMALL_TENTHS;
            let from_small = self.small.live > 0 && (small_is_over || self.main.live == 0);
            let place = if from_small { Place::Small } else { Place::Main };
            let key = self.pop(place)?;
            let entry = self.entries.get_mut(&key)?;
            let (cost, uses) = (entry.cost, entry.uses);
            if uses == 0 {
                self.entries.remove(&key);
                *self.cost_of(place) -= cost;
                if place == Place::Small {
                    self.ghosts.add(key, cost);
                }
                return Some((key, cost));
            }
            // Proved in the small queue: main, with nothing to spare. Used in main: one round more.
            entry.uses = if from_small { 0 } else { uses - 1 };
            entry.place = Place::Main;
            *self.cost_of(place) -= cost;
            self.main_cost += cost;
            self.queue(key, Place::Main);
        }
    }

    fn put(&mut self, key: K, cost: u64, place: Place, now_ms: u64) {
        debug_assert!(!self.entries.contains_key(&key), "an entry is added once");
        self.entries.insert(key, Entry { cost, place, ticket: 0, uses: 0, counted_ms: now_ms });
        *self.cost_of(place) += cost;
        self.queue(key, place);
    }

    fn queue(&mut self, key: K, place: Place) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.ticket = ticket;
        }
        let line = self.line_of(place);
        line.tickets.push_back((key, ticket));
        line.live += 1;
    }

    /// The oldest live key of a queue, taken off it.
    fn pop(&mut self, place: Place) -> Option<K> {
        loop {
            let (key, ticket) = self.line_of(place).tickets.pop_front()?;
            if self.entries.get(&key).is_some_and(|entry| entry.ticket == ticket) {
                self.line_of(place).live -= 1;
                return Some(key);
            }
        }
    }

    /// Stale tickets never outnumber live ones by much.
    fn compact(&mut self, place: Place) {
        let line = self.line_of(place);
        if line.tickets.len() <= 2 * line.live + 64 {
            return;
        }
        let mut tickets = std::mem::take(&mut line.tickets);
        tickets.retain(|(key, ticket)| self.entries.get(key).is_some_and(|entry| entry.ticket == *ticket));
        self.line_of(place).tickets = tickets;
    }

    fn line_of(&mut self, place: Place) -> &mut Line<K> {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
        }
    }

    fn cost_of(&mut self, place: Place) -> &mut u64 {
        match place {
            Place::Small => &mut self.small_cost,
            Place::Main => &mut self.main_cost,
        }
    }
}

impl<K> Line<K> {
    fn new() -> Self {
        Self { tickets: VecDeque::new(), live: 0 }
    }
}

/// The names of what was evicted unproved, the oldest first out.
struct Ghosts<K> {
    room: u64,
    cost: u64,
    /// Ticket and cost of each.
    names: HashMap<K, (u64, u64)>,
    order: VecDeque<(K, u64)>,
    next: u64,
}

impl<K: Copy + Eq + Hash> Ghosts<K> {
    fn new(room: u64) -> Self {
        Self { room, cost: 0, names: HashMap::new(), order: VecDeque::new(), next: 0 }
    }

    fn add(&mut self, key: K, cost: u64) {
        let ticket = self.next;
        self.next += 1;
        self.names.insert(key, (ticket, cost));
        self.order.push_back((key, ticket));
        self.cost += cost;
        while self.cost > self.room || self.order.len() > GHOSTS_MAX {
            let Some((oldest, ticket)) = self.order.pop_front() else { break };
            if self.names.get(&oldest).is_some_and(|(known, _)| *known == ticket) {
                self.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, key: &K) -> bool {
        let Some((_, cost)) = self.names.remove(key) else { return false };
        self.cost -= cost;
        true
    }
}

#[cfg(test)]
mod tests;
