//! Chance for those who ask the machine for it: hash maps, runtimes and UUIDs draw from the seed too.
//!
//! Linked into a program, [`fill`] stands behind the C library's `getrandom`, which is where all of them ask. That makes a run a
//! function of its seed without a switch in the product.

use std::sync::{Mutex, PoisonError};

use crate::chance::Chance;

static SOURCE: Mutex<Option<Chance>> = Mutex::new(None);

/// From now on every byte of chance in this process follows from `seed`. Call it first thing.
pub fn seed(seed: u64) {
    *SOURCE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Chance::new(seed));
}

/// Fills `bytes`; without a seed, with those of seed 0.
pub fn fill(bytes: &mut [u8]) {
    let mut source = SOURCE.lock().unwrap_or_else(PoisonError::into_inner);
    let chance = source.get_or_insert_with(|| Chance::new(0));
    bytes.chunks_mut(8).for_each(|chunk| {
        let drawn = chance.draw().to_le_bytes();
        chunk.copy_from_slice(&drawn[..chunk.len()]);
    });
}
