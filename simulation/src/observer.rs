//! Reads what leaders write into the store, and keeps the history of a run: its events, their hash, and the first rule that they
//! break.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorhouse_catalog::entry::Write;
use moorhouse_catalog::state::{Catalog, Limits};
use moorhouse_catalog::{PartPath, ShardId, TableId, TableShard};
use uuid::Uuid;

use crate::history::{Checker, Event, Holder, Names, Transaction, Violation};

/// Events that are kept to be shown with a violation.
const SHOWN: usize = 300;
/// Letters of an event that are shown.
const LETTERS: usize = 600;

/// Clones share the history.
#[derive(Clone)]
pub struct Observer(Arc<Mutex<Seen>>);

struct Seen {
    now_ms: u64,
    checker: Checker,
    violation: Option<Violation>,
    hash: DefaultHasher,
    events: u64,
    last: VecDeque<String>,
    next_commit: u64,
    /// Records that others are read with.
    layouts: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Observer {
    pub fn new(grace_ms: u64) -> Self {
        Self(Arc::new(Mutex::new(Seen {
            now_ms: 0,
            checker: Checker::new(grace_ms),
            violation: None,
            hash: DefaultHasher::new(),
            events: 0,
            last: VecDeque::new(),
            next_commit: 1,
            layouts: BTreeMap::new(),
        })))
    }

    pub fn set_time(&self, now_ms: u64) {
        self.lock().now_ms = now_ms;
    }

    pub fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }

    pub fn next_commit(&self) -> u64 {
        let mut seen = self.lock();
        seen.next_commit += 1;
        seen.next_commit
    }

    pub fn saw(&self, event: &Event) {
        let mut seen = self.lock();
        let text = format!("{event:?}");
        seen.note(&text);
        if seen.violation.is_none() {
            let now_ms = seen.now_ms;
            seen.violation = seen.checker.observe(now_ms, event).err();
        }
    }

    /// Something that no rule looks at.
    pub fn note(&self, text: &str) {
        self.lock().note(text);
    }

    pub fn break_rule(&self, rule: &'static str, detail: String) {
        let mut seen = self.lock();
        if seen.violation.is_none() {
            seen.violation = Some(Violation { rule, detail });
        }
    }

    pub fn led(&self, _now_ms: u64, term: u64) {
        self.saw(&Event::Led { term });
    }

    /// A transaction of the leader of `term` takes effect now.
    pub fn wrote(&self, _now_ms: u64, term: u64, writes: &[Write]) {
        let read = self.lock().read(term, writes);
        match read {
            Ok(transaction) => self.saw(&Event::Wrote(transaction)),
            Err(error) => self.break_rule("records_can_be_read", error),
        }
    }

    pub fn check<T>(&self, look: impl FnOnce(&Checker) -> T) -> T {
        look(&self.lock().checker)
    }

    pub fn finish(&self) {
        let mut seen = self.lock();
        if seen.violation.is_none() {
            seen.violation = seen.checker.finish().err();
        }
    }

    pub fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    /// Equal for equal histories: every event with its time.
    pub fn hash(&self) -> u64 {
        self.lock().hash.finish()
    }

    pub fn events(&self) -> u64 {
        self.lock().events
    }

    pub fn last_events(&self) -> Vec<String> {
        self.lock().last.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn note(&mut self, text: &str) {
        (self.now_ms, text).hash(&mut self.hash);
        self.events += 1;
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        let short: String = text.chars().take(LETTERS).collect();
        self.last.push_back(format!("{:>6} ms  {short}", self.now_ms));
    }
}

/// Of the records that are taken away, those that the rules look at.
fn read_deleted(key: &[u8], transaction: &mut Transaction) -> Option<()> {
    let mut fields = std::str::from_utf8(key).ok()?.splitn(4, '/');
    let kind = fields.next()?;
    let table = TableId(Uuid::try_parse(fields.next()?).ok()?);
    match kind {
        "table" => transaction.dropped.push(table),
        "part" | "staged" => {
            let at = TableShard { table, shard: ShardId(fields.next()?.parse().ok()?) };
            transaction.parts.push((at, PartPath::new(fields.next()?).ok()?, None));
        }
        _ => {}
    }
    Some(())
}

impl Seen {
    /// What the rules look at. The records are read as a leader reads them, with the layouts of before.
    fn read(&mut self, term: u64, writes: &[Write]) -> Result<Transaction, String> {
        let mut transaction = Transaction { term, ..Transaction::default() };
        let mut records = Vec::new();
        for write in writes {
            match write {
                Write::Put { key, value } if key.starts_with(b"layout/") => {
                    self.layouts.insert(key.clone(), value.clone());
                }
                Write::Put { key, value } => records.push((key.as_slice(), value.as_slice())),
                Write::Delete { key } => drop(read_deleted(key, &mut transaction)),
            }
        }
        let layouts = self.layouts.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        let written = Catalog::load(Limits::default(), layouts.chain(records)).map_err(|error| error.to_string())?;
        for a in written.directory().assignments.values() {
            let holder = Holder { node: a.node.clone(), epoch: a.epoch };
            transaction.assigned.push((a.group.clone(), a.shard, holder));
        }
        transaction.ddl.extend(written.ddl().values().cloned());
        for (&at, shard) in written.shards() {
            for (version, entry) in &shard.changes {
                let names = Names {
                    removed: entry.removed.clone(),
                    added: entry.added.clone(),
                    relocated: entry.relocated.clone(),
                };
                transaction.changed.push((at, *version, names));
            }
            let parts = shard.manifests(at).map(|part| (at, part.part.clone(), Some(Arc::new(part))));
            transaction.parts.extend(parts);
        }
        // A part that is stored from now on lies elsewhere: it is not removed.
        let there = |at: &TableShard, path: &PartPath| {
            written.shards().get(at).is_some_and(|shard| shard.parts.contains_key(path))
        };
        transaction.parts.retain(|(at, path, part)| part.is_some() || !there(at, path));
        Ok(transaction)
    }
}
