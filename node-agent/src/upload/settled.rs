//! Which parts are worth an upload. Pure.
//!
//! Most small parts are merged away soon, and those must cost no PUT. So a part waits until it is large, has been merged
//! often, or has been left alone for the settling time. When one of a table shard's parts is due, those that are half
//! as old go along in the same object: fewer objects, at the price of a few bytes uploaded early.

use std::cmp::Reverse;
use std::time::Duration;

use moorhouse_catalog::TableStorage;
use moorhouse_catalog::parts::PartInfo;

use crate::fs::settle::StagedPart;
use crate::limits;

/// When a part counts as settled: any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleRule {
    /// Left alone for so long.
    pub age: Duration,
    /// As large as this.
    pub bytes: u64,
    /// Merged this many times over.
    pub level: u32,
}

impl From<Duration> for SettleRule {
    fn from(age: Duration) -> Self {
        Self { age, bytes: limits::SETTLED_BYTES, level: limits::SETTLED_LEVEL }
    }
}

impl SettleRule {
    /// With what a table sets for itself.
    pub fn of_table(&self, own: &TableStorage) -> Self {
        Self {
            age: own.settle_ms.map_or(self.age, Duration::from_millis),
            bytes: own.settle_bytes.unwrap_or(self.bytes),
            level: own.settle_level.unwrap_or(self.level),
        }
    }

    /// The parts of one table shard to upload now, in the order of their packing. `is_hurried`: staging is short of room, so
    /// everything is, what makes the most room and is least likely to be merged away soon first.
    pub fn choose(&self, mut parts: Vec<StagedPart>, is_hurried: bool) -> Vec<StagedPart> {
        if is_hurried {
            parts.sort_by_key(|part| (part.is_leaving, Reverse(part.bytes()), Reverse(part.age)));
            return parts;
        }
        if !parts.iter().any(|part| self.is_settled(part)) {
            return Vec::new();
        }
        parts.into_iter().filter(|part| self.is_settled(part) || self.goes_along(part)).collect()
    }

    fn is_settled(&self, part: &StagedPart) -> bool {
        // A merge under way makes an upload vain. A merge may also take hours, or never end: that is not waited for.
        if part.is_leaving {
            return part.age >= self.age.saturating_mul(limits::SETTLE_MERGING_FACTOR);
        }
        let level = PartInfo::parse(part.part.as_str()).map_or(0, |info| info.level);
        part.age >= self.age || part.bytes() >= self.bytes || level >= self.level
    }

    fn goes_along(&self, part: &StagedPart) -> bool {
        !part.is_leaving && part.age >= self.age / 2
    }
}

#[cfg(test)]
mod tests {
    use moorhouse_catalog::{BlobId, PartPath, ShardId, TableId, TableShard};
    use uuid::Uuid;

    use super::*;
    use crate::fs::settle::StagedFile;

    const RULE: SettleRule = SettleRule { age: Duration::from_secs(60), bytes: 1_000, level: 8 };

    fn part(name: &str, seconds: u64, bytes: u64) -> StagedPart {
        StagedPart {
            shard: TableShard { table: TableId(Uuid::from_u128(1)), shard: ShardId(0) },
            part: PartPath::new(name).expect("valid"),
            age: Duration::from_secs(seconds),
            is_leaving: false,
            files: vec![StagedFile { path: "data.bin".into(), blob: BlobId::random(), bytes }],
        }
    }

    fn chosen(parts: Vec<StagedPart>, pressed: bool) -> Vec<String> {
        RULE.choose(parts, pressed).into_iter().map(|part| part.part.to_string()).collect()
    }

    #[test]
    fn age_size_or_level_settle_a_part() {
        assert_eq!(chosen(vec![part("all_1_1_0", 60, 1)], false), ["all_1_1_0"]);
        assert_eq!(chosen(vec![part("all_1_1_0", 0, 1_000)], false), ["all_1_1_0"]);
        assert_eq!(chosen(vec![part("all_1_9_8", 0, 1)], false), ["all_1_9_8"]);
        assert!(chosen(vec![part("all_1_1_0", 59, 999)], false).is_empty());
    }

    #[test]
    fn half_as_old_goes_along_and_younger_waits() {
        let parts = || vec![part("all_1_1_0", 61, 1), part("all_2_2_0", 30, 1), part("all_3_3_0", 29, 1)];
        assert_eq!(chosen(parts(), false), ["all_1_1_0", "all_2_2_0"]);
        let merging = StagedPart { is_leaving: true, ..part("all_4_4_0", 90, 9_000) };
        let short_of_room = [parts(), vec![merging, part("all_5_9_1", 1, 50)]].concat();
        assert_eq!(chosen(short_of_room, true), ["all_5_9_1", "all_1_1_0", "all_2_2_0", "all_3_3_0", "all_4_4_0"]);
    }

    #[test]
    fn a_part_under_a_merge_waits_longer_but_not_for_ever() {
        let merging = |seconds| StagedPart { is_leaving: true, ..part("all_1_1_0", seconds, 5_000) };
        assert!(chosen(vec![merging(61)], false).is_empty());
        let long = 60 * u64::from(limits::SETTLE_MERGING_FACTOR);
        assert_eq!(chosen(vec![merging(long)], false), ["all_1_1_0"]);
    }
}
