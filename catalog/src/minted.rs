//! Names of objects, and the time that is in them.
//!
//! An uploader mints a key, puts the object, and only then commits a manifest that refers to it. Between the two nothing
//! in the catalog names the object, so "nobody refers to it" alone does not make an orphan. The key therefore carries the
//! time of its minting, and both sides judge by it with one clock, the controller's:
//! * a commit may refer to an object for the first time only within half of the orphan grace, and within the time that a
//!   doomed object is kept;
//! * an object that nobody refers to is an orphan only after the whole of the orphan grace.
//!
//! So no object is deleted, as an orphan or after its last reference, and referred to later, however late an answer comes.
//! The second half is the margin for clocks of successive leaders. Times of the object store play no part.

use uuid::Uuid;

use crate::ids::{InvalidId, ObjectKey, ShardId, TableId, TableShard};

/// All objects with parts' bytes lie below this.
pub const PARTS_PREFIX: &str = "parts";

/// Twelve hex digits hold milliseconds up to the year 10889.
const TIME_DIGITS: usize = 12;

/// What all keys of a table shard begin with; an [`Ending`] follows.
pub fn prefix(at: TableShard) -> String {
    format!("{PARTS_PREFIX}/{}/{}/", at.table, at.shard)
}

/// A new key for bytes of this table shard. Keys of one table shard sort by time.
pub fn mint(at: TableShard, now_ms: u64, unique: Uuid) -> Result<ObjectKey, InvalidId> {
    ObjectKey::new(format!("{}{}", prefix(at), Ending { minted_ms: now_ms, unique }))
}

/// What tells the keys of one table shard apart. In text: the time in 12 hex digits, a hyphen, 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Unix milliseconds; the lower 48 bits count.
    pub minted_ms: u64,
    pub unique: Uuid,
}

impl Ending {
    pub const BYTES: usize = 22;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..6].copy_from_slice(&self.minted_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(self.unique.as_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let time = bytes[..6].iter().fold(0, |time, byte| time << 8 | u64::from(*byte));
        let unique: [u8; 16] = std::array::from_fn(|i| bytes[6 + i]);
        Self { minted_ms: time, unique: Uuid::from_bytes(unique) }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:012x}-{}", self.minted_ms, self.unique.simple())
    }
}

/// The ending of a key that begins with `prefix`; `None` for a key of another making.
pub fn ending(key: &ObjectKey, prefix: &str) -> Option<Ending> {
    let text = key.as_str().strip_prefix(prefix)?;
    let (time, unique) = text.split_once('-')?;
    let minted_ms = u64::from_str_radix(time, 16).ok().filter(|_| time.len() == TIME_DIGITS)?;
    let ending = Ending { minted_ms, unique: Uuid::try_parse(unique).ok()? };
    (ending.to_string() == text).then_some(ending)
}

/// When the key was minted, in Unix milliseconds by the uploader's clock; `None` for a key of another making.
pub fn minted_ms(key: &ObjectKey) -> Option<u64> {
    let place = key.as_str().strip_prefix(PARTS_PREFIX)?.strip_prefix('/')?;
    let mut segments = place.split('/');
    let (_table, _shard, name) = (segments.next()?, segments.next()?, segments.next()?);
    let prefix = key.as_str().strip_suffix(name).filter(|_| segments.next().is_none())?;
    ending(key, prefix).map(|ending| ending.minted_ms)
}

/// The table shard that the key was made for; `None` for a key of another making.
pub fn home(key: &ObjectKey) -> Option<TableShard> {
    let place = key.as_str().strip_prefix(PARTS_PREFIX)?.strip_prefix('/')?;
    let mut segments = place.split('/');
    let table = TableId(Uuid::try_parse(segments.next()?).ok()?);
    let at = TableShard { table, shard: ShardId(segments.next()?.parse().ok()?) };
    key.as_str().starts_with(&prefix(at)).then_some(at)
}

/// How long after its minting a commit may be the first to refer to an object.
pub fn first_reference_ms(orphan_grace_ms: u64, delete_grace_ms: u64) -> u64 {
    (orphan_grace_ms / 2).min(delete_grace_ms)
}

/// Whether a commit may still be the first to refer to this object. Keys of another making carry no time: always.
pub fn may_be_referred_to_first(key: &ObjectKey, now_ms: u64, first_reference_ms: u64) -> bool {
    minted_ms(key).is_none_or(|minted| now_ms.saturating_sub(minted) <= first_reference_ms)
}

/// Whether this object, if nobody refers to it, never will be referred to. Keys of another making: unknown, so false.
pub fn is_past_grace(key: &ObjectKey, now_ms: u64, orphan_grace_ms: u64) -> bool {
    minted_ms(key).is_some_and(|minted| now_ms.saturating_sub(minted) > orphan_grace_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> TableShard {
        TableShard { table: TableId(Uuid::from_u128(7)), shard: ShardId(3) }
    }

    #[test]
    fn a_key_carries_its_time_and_foreign_keys_none() {
        let key = mint(place(), 1_700_000_000_123, Uuid::from_u128(9)).expect("valid");
        assert_eq!(minted_ms(&key), Some(1_700_000_000_123));
        assert_eq!(home(&key), Some(place()));
        for foreign in
            ["parts/x", "parts/t/3/all_1_1_0-00000000000000000000000000000009", "moorhouse.json", "parts/t/3/a"]
        {
            assert_eq!(minted_ms(&ObjectKey::new(foreign).expect("valid")), None, "{foreign}");
            assert_eq!(home(&ObjectKey::new(foreign).expect("valid")), None, "{foreign}");
        }
    }

    proptest! {
        /// Whatever the clocks say, there is no moment from which on both may be true: once past the grace, for ever refused.
        #[test]
        fn no_key_is_swept_and_committed_later(minted: u32, swept: u32, later: u32, grace in 0_u64..10_000_000, kept: u32) {
            let key = mint(place(), u64::from(minted), Uuid::from_u128(1)).expect("valid");
            let window = first_reference_ms(grace, u64::from(kept));
            let (swept, committed) = (u64::from(swept), u64::from(swept) + u64::from(later));
            if is_past_grace(&key, swept, grace) {
                prop_assert!(!may_be_referred_to_first(&key, committed, window));
                // A next leader whose clock is behind by up to half the grace.
                prop_assert!(!may_be_referred_to_first(&key, swept - grace / 2, window));
            }
        }
    }
}
