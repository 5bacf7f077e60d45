//! Columns of cold parts that are likely to be read next.
//!
//! On a local disk the engine reads the columns of a part one after another and asks for nothing ahead: of a cold part, each
//! would wait for a request of its own. But a table's statements read much the same columns. So the first read in one file of a
//! cold part has those beside it fetched too whose namesakes were opened lately, at the same place in proportion; and when one
//! is read on and on, a statement goes through the part, and all of them are fetched on. What was guessed wrong costs its bytes
//! and is evicted first, like everything that was used once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::StreamExt;
use moorhouse_catalog::{Location, TableShard};
use tokio::sync::Semaphore;

use super::ShardFs;
use super::io::{RemoteBlob, Wanted, is_data};
use super::place::Place;
use super::tree::{Blob, Body, Ino, Sealed};
use crate::blobs::key;
use crate::blobs::remote::RemoteFile;
use crate::fs::error::FsError;
use crate::limits;

/// What statements did lately; in memory alone.
pub(crate) struct Habits {
    tables: Mutex<HashMap<TableShard, Table>>,
    /// One permit a file that is fetched for a guess.
    guesses: Semaphore,
}

#[derive(Default)]
struct Table {
    /// Column files by name, with the time when one was opened last.
    opened: HashMap<String, Instant>,
    /// When some statement was seen to go through a part.
    scanned: Option<Instant>,
}

/// How one open file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    First,
    /// It has been read for a while without an end.
    Onward,
}

/// A file beside the one that is read, and what of it is wanted.
struct Guess {
    blob: RemoteBlob,
    offset: u64,
    bytes: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self { tables: Mutex::default(), guesses: Semaphore::new(limits::GUESSES_AT_ONCE) }
    }
}

impl Habits {
    fn note_open(&self, ts: TableShard, name: &str) {
        let mut tables = self.tables.lock().expect("lock");
        let opened = &mut tables.entry(ts).or_default().opened;
        if let Some(at) = opened.get_mut(name) {
            *at = Instant::now();
            return;
        }
        if opened.len() >= limits::COLUMNS_REMEMBERED {
            opened.retain(|_, at| at.elapsed() < limits::COLUMN_REMEMBERED);
        }
        if opened.len() < limits::COLUMNS_REMEMBERED {
            opened.insert(name.to_string(), Instant::now());
        }
    }

    /// Whether the table is being scanned.
    fn note_read(&self, ts: TableShard, stage: Stage) -> bool {
        let mut tables = self.tables.lock().expect("lock");
        let scanned = &mut tables.entry(ts).or_default().scanned;
        if stage == Stage::Onward {
            *scanned = Some(Instant::now());
        }
        scanned.is_some_and(|at| at.elapsed() < limits::SCAN_REMEMBERED)
    }

    fn is_wanted(&self, ts: TableShard, name: &str) -> bool {
        let tables = self.tables.lock().expect("lock");
        let opened = tables.get(&ts).and_then(|table| table.opened.get(name));
        opened.is_some_and(|at| at.elapsed() < limits::COLUMN_REMEMBERED)
    }

    /// Table shards that go take along what was known of them.
    pub fn forget(&self, goes: impl Fn(TableShard) -> bool) {
        self.tables.lock().expect("lock").retain(|ts, _| !goes(*ts));
    }
}

impl ShardFs {
    /// A cold column file is opened. True for column data, which is read by range.
    pub(super) fn note_cold_open(&self, ino: Ino) -> Result<bool, FsError> {
        let tree = self.tree.read().expect("lock");
        let home = tree.get(ino)?.home;
        // The directory that a linked file was made in may be gone: then nothing tells what it is.
        let Ok(dir) = tree.dir(home) else { return Ok(false) };
        let Some(name) = dir.name_of(ino).filter(|name| is_data(name)) else { return Ok(false) };
        if let Place::Table { shard, .. } = tree.place(home)? {
            self.habits.note_open(shard, name);
        }
        Ok(true)
    }

    /// A cold file is read at `offset`: begins to fetch what is likely to be read beside it. Call from the runtime; waits for
    /// nothing.
    pub fn read_beside(self: &Arc<Self>, ino: Ino, offset: u64, stage: Stage) {
        let guesses = match self.guesses(ino, offset, stage) {
            Ok(guesses) if !guesses.is_empty() => guesses,
            // The part has just gone: then nobody reads on.
            Ok(_) | Err(_) => return,
        };
        let fs = self.clone();
        tokio::spawn(async move {
            let fetches = guesses.into_iter().map(|guess| fs.fetch_guess(guess));
            futures::stream::iter(fetches).for_each_concurrent(limits::GUESSES_AT_ONCE, |fetch| fetch).await;
        });
    }

    fn guesses(&self, ino: Ino, offset: u64, stage: Stage) -> Result<Vec<Guess>, FsError> {
        let tree = self.tree.read().expect("lock");
        let home = tree.get(ino)?.home;
        let Place::Table { shard, .. } = tree.place(home)? else { return Ok(Vec::new()) };
        let is_scan = self.habits.note_read(shard, stage);
        let own_bytes = match &tree.get(ino)?.body {
            Body::Blob(Blob { sealed: Some(sealed), .. }) => sealed.bytes.max(1),
            Body::Blob(_) | Body::Dir(_) | Body::Small(_) => return Ok(Vec::new()),
        };
        let mut guesses = Vec::new();
        for entry in tree.entries(home)? {
            let is_asked = is_data(&entry.name) && (entry.ino != ino || is_scan);
            let Body::Blob(Blob { id, sealed: Some(Sealed { bytes, location }) }) = &tree.get(entry.ino)?.body else {
                continue;
            };
            let is_far = matches!(location, Location::Stored { .. }) && self.cache.tenant(key(*id)).is_none();
            if is_asked && is_far && self.habits.is_wanted(shard, &entry.name) {
                let offset = (u128::from(offset) * u128::from(*bytes) / u128::from(own_bytes)) as u64;
                let wanted = if is_scan { limits::SCANNED_AHEAD_BYTES } else { 1 };
                let blob = RemoteBlob { blob: *id, bytes: *bytes, location: location.clone() };
                guesses.push(Guess { blob, offset, bytes: wanted.min(bytes.saturating_sub(offset)) });
            }
        }
        Ok(guesses)
    }

    /// Somebody who needs the bytes hears of an error when he asks for them.
    async fn fetch_guess(&self, guess: Guess) {
        let Ok(_permit) = self.habits.guesses.acquire().await else { return };
        let Guess { blob, offset, bytes } = guess;
        let id = blob.blob;
        let fetched = if blob.bytes <= limits::WHOLE_DATA_BYTES {
            let wanted = Wanted { blob, companions: Vec::new(), whole_up_to: limits::WHOLE_DATA_BYTES };
            self.source.fetch(wanted).await.map(drop)
        } else {
            self.fetch_span(blob, offset, bytes).await
        };
        if let Err(error) = fetched {
            tracing::debug!(blob = %id, %error, "a guess was not fetched");
        }
    }

    async fn fetch_span(&self, blob: RemoteBlob, offset: u64, bytes: u64) -> Result<(), FsError> {
        let file = RemoteFile::new(&self.source, blob);
        let pieces = (offset..offset + bytes).step_by(limits::GUESS_PIECE_BYTES as usize);
        let reads = pieces.map(|at| file.read(at, limits::GUESS_PIECE_BYTES.min(offset + bytes - at)));
        let mut reads = futures::stream::iter(reads).buffer_unordered(limits::PARALLEL_PIECES);
        while let Some(read) = reads.next().await {
            read?;
        }
        Ok(())
    }
}
