//! [`Partials`]: blobs of which some blocks are here, each a sparse file with a bitmap. In memory only: a restart drops them.
//!
//! A block's life: `Absent → Filling → Present → Leaving → Absent`. Leaving lasts until its hole is punched, so that a block
//! which is fetched again is never wiped by the eviction before.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use nix::fcntl::{FallocateFlags, fallocate};
use tokio::sync::watch;

use crate::error::CacheError;
use crate::key::BlobKey;
use crate::limits::BLOCK_BYTES;

/// What became of the request for some blocks. A sender that is gone without a word was cancelled.
#[derive(Clone)]
pub(crate) enum Landing {
    Flying,
    /// The bytes, from this offset of the blob on.
    Landed(u64, Bytes),
    Failed(CacheError),
}

pub(crate) type Flight = watch::Receiver<Landing>;

enum Block {
    Absent,
    Filling(Flight),
    Present { crc32c: u32 },
    Leaving,
}

/// What a reader finds in a block's place.
pub(crate) enum Found {
    Present,
    Filling(Flight),
    Absent,
    /// Neither here nor to be had now: read past the cache.
    Leaving,
}

/// The file of a blob that is not whole, or was not when it was opened.
pub(crate) struct PartialFile {
    file: File,
    /// Complete and checked: it does not change any more, whatever its name is by now.
    is_whole: AtomicBool,
}

pub(crate) struct Partial {
    /// Tells one presence of a blob from the next.
    life: u64,
    bytes: u64,
    path: PathBuf,
    blocks: Vec<Block>,
    /// Blocks that are not absent.
    busy: u32,
    present: u32,
    /// Blocks that have left; what was read while this grew may be a hole.
    departures: u64,
    /// Held by readers, so that a blob which nobody reads costs no descriptor.
    file: Weak<PartialFile>,
}

#[derive(Default)]
pub(crate) struct Partials {
    blobs: HashMap<BlobKey, Partial>,
    lives: u64,
}

/// A block that is to be taken off the disk.
pub(crate) struct Hole {
    key: BlobKey,
    life: u64,
    block: u32,
    offset: u64,
    bytes: u64,
    path: PathBuf,
    file: Option<Arc<PartialFile>>,
}

/// How many blocks a blob of this length has.
pub(crate) fn block_count(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES)).expect("a blob is smaller than 4 PiB")
}

/// The bytes of some blocks of a blob of this length.
pub(crate) fn span(blocks: &Range<u32>, blob_bytes: u64) -> Range<u64> {
    u64::from(blocks.start) * BLOCK_BYTES..(u64::from(blocks.end) * BLOCK_BYTES).min(blob_bytes)
}

/// The blocks that have some bytes of a range.
pub(crate) fn blocks_of(range: &Range<u64>) -> Range<u32> {
    let block = |at: u64| u32::try_from(at).expect("a blob is smaller than 4 PiB");
    block(range.start / BLOCK_BYTES)..block(range.end.div_ceil(BLOCK_BYTES))
}

impl Partials {
    pub fn len(&self) -> u64 {
        self.blobs.len() as u64
    }

    pub fn contains(&self, key: BlobKey) -> bool {
        self.blobs.contains_key(&key)
    }

    pub fn keys(&self) -> Vec<BlobKey> {
        self.blobs.keys().copied().collect()
    }

    pub fn get_mut(&mut self, key: BlobKey) -> Option<&mut Partial> {
        self.blobs.get_mut(&key)
    }

    /// The blob in this presence; `None` if it has ended.
    pub fn living(&mut self, key: BlobKey, life: u64) -> Option<&mut Partial> {
        self.blobs.get_mut(&key).filter(|partial| partial.life == life)
    }

    /// Begins a presence, all blocks absent, with a new file at `path`.
    pub fn begin(&mut self, key: BlobKey, bytes: u64, path: PathBuf) -> io::Result<Arc<PartialFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.set_len(bytes)?;
        let file = Arc::new(PartialFile { file, is_whole: AtomicBool::new(false) });
        let blocks = (0..block_count(bytes)).map(|_| Block::Absent).collect();
        let (life, weak) = (self.lives, Arc::downgrade(&file));
        self.lives += 1;
        let partial = Partial { life, bytes, path, blocks, busy: 0, present: 0, departures: 0, file: weak };
        self.blobs.insert(key, partial);
        Ok(file)
    }

    pub fn remove(&mut self, key: BlobKey) -> Option<Partial> {
        self.blobs.remove(&key)
    }

    /// An evicted block leaves. `None` if its blob is gone.
    pub fn leave(&mut self, key: BlobKey, block: u32) -> Option<Hole> {
        let partial = self.blobs.get_mut(&key)?;
        partial.departures += 1;
        partial.present -= 1;
        partial.blocks[block as usize] = Block::Leaving;
        let offset = span(&(block..block + 1), partial.bytes).start;
        let (path, file) = (partial.path.clone(), partial.file.upgrade());
        // Also of a short last block: only whole pages are given back.
        Some(Hole { key, life: partial.life, block, offset, bytes: BLOCK_BYTES, path, file })
    }

    /// An evicted block is off the disk. True if nothing else of its blob is here or on its way.
    pub fn left(&mut self, hole: &Hole) -> bool {
        let Some(partial) = self.living(hole.key, hole.life) else { return false };
        partial.blocks[hole.block as usize] = Block::Absent;
        partial.busy -= 1;
        partial.busy == 0
    }
}

impl Partial {
    pub fn life(&self) -> u64 {
        self.life
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn departures(&self) -> u64 {
        self.departures
    }

    pub fn is_complete(&self) -> bool {
        self.present as usize == self.blocks.len()
    }

    pub fn open(&mut self) -> io::Result<Arc<PartialFile>> {
        if let Some(file) = self.file.upgrade() {
            return Ok(file);
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let file = Arc::new(PartialFile { file, is_whole: AtomicBool::new(false) });
        self.file = Arc::downgrade(&file);
        Ok(file)
    }

    pub fn find(&self, block: u32) -> Found {
        match &self.blocks[block as usize] {
            Block::Absent => Found::Absent,
            Block::Filling(flight) => Found::Filling(flight.clone()),
            Block::Present { .. } => Found::Present,
            Block::Leaving => Found::Leaving,
        }
    }

    /// The first run of absent blocks in `blocks`, no longer than `longest`.
    pub fn absent_run(&self, blocks: Range<u32>, longest: u32) -> Option<Range<u32>> {
        let is_absent = |block: &u32| matches!(self.blocks[*block as usize], Block::Absent);
        let start = blocks.clone().find(is_absent)?;
        let end = (start..blocks.end).take(longest as usize).take_while(is_absent).last()?;
        Some(start..end + 1)
    }

    /// Absent blocks are on their way.
    pub fn claim(&mut self, blocks: &Range<u32>, flight: &Flight) {
        for block in blocks.clone() {
            self.blocks[block as usize] = Block::Filling(flight.clone());
        }
        self.busy += blocks.end - blocks.start;
    }

    /// Claimed blocks did not come. True if nothing else of the blob is here or on its way.
    pub fn give_up(&mut self, blocks: &Range<u32>) -> bool {
        for block in blocks.clone() {
            self.blocks[block as usize] = Block::Absent;
        }
        self.busy -= blocks.end - blocks.start;
        self.busy == 0
    }

    /// A claimed block is on the disk.
    pub fn land(&mut self, block: u32, crc32c: u32) {
        self.blocks[block as usize] = Block::Present { crc32c };
        self.present += 1;
    }

    /// The blocks that are here, with their lengths.
    pub fn present(&self) -> Vec<(u32, u64)> {
        let here = (0..).zip(&self.blocks).filter(|(_, block)| matches!(block, Block::Present { .. }));
        here.map(|(block, _)| (block, self.block_bytes(block))).collect()
    }

    /// The checksum of a complete blob, from those of its blocks as they came: nothing is read for it.
    pub fn crc32c(&self) -> u32 {
        (0..).zip(&self.blocks).fold(0, |crc, (block, state)| match state {
            Block::Present { crc32c } => crc32c::crc32c_combine(crc, *crc32c, self.block_bytes(block) as usize),
            Block::Absent | Block::Filling(_) | Block::Leaving => crc,
        })
    }

    /// Readers may keep the file: it is whole now.
    pub fn set_whole(&self) {
        if let Some(file) = self.file.upgrade() {
            file.is_whole.store(true, Ordering::Release);
        }
    }

    pub fn truncate(&self) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)
    }

    fn block_bytes(&self, block: u32) -> u64 {
        let Range { start, end } = span(&(block..block + 1), self.bytes);
        end - start
    }
}

impl PartialFile {
    /// A file that is whole from the start.
    pub fn whole(file: File) -> Self {
        Self { file, is_whole: AtomicBool::new(true) }
    }

    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    pub fn read(&self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        self.file.read_exact_at(&mut buffer, range.start)?;
        Ok(buffer)
    }

    pub fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

impl Hole {
    pub fn key(&self) -> BlobKey {
        self.key
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the block's bytes back to the disk.
    pub fn punch(self) -> (Self, io::Result<()>) {
        let outcome = self.punch_file();
        (self, outcome)
    }

    fn punch_file(&self) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (offset, bytes) = (self.offset as nix::libc::off_t, self.bytes as nix::libc::off_t);
        let punched = match &self.file {
            Some(open) => fallocate(&open.file, flags, offset, bytes),
            None => match OpenOptions::new().write(true).open(&self.path) {
                Ok(file) => fallocate(&file, flags, offset, bytes),
                // Its blob was dropped as a whole meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => return Err(error),
            },
        };
        Ok(punched?)
    }
}
