//! ClickHouse's part names: `partition_min_max_level[_mutation]`, and which part stands for which others.
//!
//! The rules are ClickHouse's own (`MergeTreePartInfo`). A path with `/`, such as `detached/all_1_1_0`, is no part name.
//! A patch part (`patch-<hash>-<partition>_…`) has a partition of its own by its name alone.

use std::cmp::Reverse;

/// The level that ClickHouse gives to a part that covers its block range whatever the level of the others.
const MAX_LEVEL: u32 = 999_999_999;

/// A part's name, read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartInfo {
    pub partition: String,
    pub min_block: i64,
    pub max_block: i64,
    /// Longest chain of merges below the part.
    pub level: u32,
    /// Data version: block number of the newest mutation that is in the part; 0 for none.
    pub mutation: i64,
}

/// The same, of a name that is at hand: commits read very many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRef<'a> {
    pub partition: &'a str,
    pub min_block: i64,
    pub max_block: i64,
    level: u32,
    mutation: i64,
}

impl PartInfo {
    /// `None` for anything that ClickHouse would not load as a part: `detached/…`, `tmp_…`, files beside the parts.
    pub fn parse(name: &str) -> Option<Self> {
        let PartRef { partition, min_block, max_block, level, mutation } = PartRef::parse(name)?;
        Some(Self { partition: partition.to_owned(), min_block, max_block, level, mutation })
    }

    pub fn borrowed(&self) -> PartRef<'_> {
        let Self { partition, min_block, max_block, level, mutation } = self;
        PartRef { partition, min_block: *min_block, max_block: *max_block, level: *level, mutation: *mutation }
    }

    /// See [`PartRef::covers`].
    pub fn covers(&self, other: &Self) -> bool {
        self.borrowed().covers(&other.borrowed())
    }

    /// See [`PartRef::overlaps`].
    pub fn overlaps(&self, other: &Self) -> bool {
        self.borrowed().overlaps(&other.borrowed())
    }
}

impl<'a> PartRef<'a> {
    /// As [`PartInfo::parse`].
    pub fn parse(name: &'a str) -> Option<Self> {
        let mut fields = name.split('_');
        let partition = fields.next().filter(|p| !p.is_empty() && !p.contains('/'))?;
        let min_block = number(fields.next()?)?;
        let max_block = number(fields.next()?)?;
        let level = u32::try_from(number(fields.next()?)?).ok()?;
        let mutation = fields.next().map_or(Some(0), number)?;
        if fields.next().is_some() || min_block > max_block {
            return None;
        }
        Some(Self { partition, min_block, max_block, level, mutation })
    }

    /// True if this part stands for `other`, so that ClickHouse ignores `other` beside it. A part covers itself.
    pub fn covers(&self, other: &Self) -> bool {
        let same_blocks = self.min_block == other.min_block && self.max_block == other.max_block;
        self.partition == other.partition
            && self.min_block <= other.min_block
            && self.max_block >= other.max_block
            && self.level >= other.level
            && self.mutation >= other.mutation
            && (same_blocks || self.level > other.level || matches!(self.level, MAX_LEVEL | u32::MAX))
    }

    /// True if the two have blocks in common. Two active parts never have.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.partition == other.partition && self.min_block <= other.max_block && other.min_block <= self.max_block
    }
}

/// Digits alone: no sign, no blank, as ClickHouse prints block numbers.
fn number(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The names that no other of them covers, sorted by partition and block; what is no part name is left out.
pub fn active<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    active_parts(names).into_iter().map(|(_, name)| name).collect()
}

/// The same, with what the names say.
pub fn active_parts<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<(PartRef<'a>, &'a str)> {
    let mut parts: Vec<(PartRef, &str)> = names.into_iter().filter_map(|n| Some((PartRef::parse(n)?, n))).collect();
    // A part comes after all that can cover it, so one pass is enough.
    parts.sort_by(|(a, _), (b, _)| {
        let order = |p: &PartRef| (p.min_block, Reverse(p.max_block), Reverse(p.level), Reverse(p.mutation));
        a.partition.cmp(b.partition).then_with(|| order(a).cmp(&order(b)))
    });
    let mut open: Vec<PartRef> = Vec::new();
    let mut active = Vec::new();
    for (part, name) in parts {
        open.retain(|o| o.partition == part.partition && o.max_block >= part.min_block);
        if !open.iter().any(|o| o.covers(&part)) {
            active.push((part, name));
            open.push(part);
        }
    }
    active
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(name: &str) -> PartInfo {
        PartInfo::parse(name).unwrap_or_else(|| panic!("{name} is a part name"))
    }

    #[test]
    fn reads_what_clickhouse_writes() {
        let merged = part("202411_3_17_2_21");
        assert_eq!(
            (merged.partition.as_str(), merged.min_block, merged.max_block, merged.level, merged.mutation),
            ("202411", 3, 17, 2, 21)
        );
        assert_eq!(part("all_1_1_0").mutation, 0);
        assert_eq!(part("2024-7-12_1_1_0").partition, "2024-7-12");
        assert_eq!(part("patch-9f1c-all_4_4_0_4").partition, "patch-9f1c-all");
    }

    #[test]
    fn refuses_what_is_no_part() {
        for name in [
            "",
            "all",
            "all_1_1",
            "all_1_1_x",
            "all_2_1_0",
            "all_1_1_0_",
            "all_1_1_0_2_3",
            "_1_1_0",
            "all_+1_1_0",
            "detached/all_1_1_0",
            "tmp_insert_all_1_1_0",
            "delete_tmp_all_1_1_0",
            "format_version.txt",
            "mutation_3.txt",
        ] {
            assert_eq!(PartInfo::parse(name), None, "{name}");
        }
    }

    #[test]
    fn covers_as_clickhouse_does() {
        let covers = |a, b| part(a).covers(&part(b));
        assert!(covers("all_1_4_1", "all_2_2_0"));
        assert!(covers("all_1_1_0_5", "all_1_1_0"), "a mutation of the same blocks");
        assert!(covers("all_1_1_0", "all_1_1_0"), "itself");
        assert!(covers("all_0_9_999999999", "all_3_3_999999999"), "a dropped range");
        assert!(!covers("all_0_5_2", "all_0_4_2"), "a wider range needs a higher level");
        assert!(!covers("all_1_4_1", "all_2_2_0_7"), "the other has a newer mutation");
        assert!(!covers("all_1_4_1", "b_2_2_0"));
        assert!(!covers("all_1_4_1_9", "patch-00-all_2_2_0_2"), "a patch is a partition of its own");
    }

    #[test]
    fn active_leaves_the_covered_out() {
        let names =
            ["all_3_3_0", "all_1_2_1", "all_2_2_0", "all_1_1_0", "detached/all_9_9_0", "b_1_1_0", "all_1_2_1_5"];
        assert_eq!(active(names), ["all_1_2_1_5", "all_3_3_0", "b_1_1_0"]);
        assert_eq!(active(["all_1_10_2", "all_2_3_5", "all_4_5_0"]), ["all_1_10_2", "all_2_3_5"]);
    }

    proptest! {
        #[test]
        fn active_equals_its_definition(
            parts in proptest::collection::btree_set(("[ab]", 0i64..6, 0i64..4, 0u32..4, 0i64..3), 0..12)
        ) {
            let names: Vec<String> =
                parts.iter().map(|(p, min, len, level, m)| format!("{p}_{min}_{}_{level}_{m}", min + len)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut found = active(names.iter().copied());
            let mut expected: Vec<&str> = names
                .iter()
                .copied()
                .filter(|n| !names.iter().any(|other| other != n && part(other).covers(&part(n))))
                .collect();
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
