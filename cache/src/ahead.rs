//! [`ReadAhead`]: how far to lead a reader. Pure.
//!
//! ClickHouse reads a column by ranges of marks: a point query reads one or two granules somewhere and is done, a scan goes
//! on from mark to mark, and leaves out granules that an index has excluded. So nothing is fetched ahead before a reader has
//! gone on for a while; then the lead begins long, because the scan has proved itself, and doubles.

use std::ops::Range;

use crate::limits::{AHEAD_FIRST_BYTES, AHEAD_LONGEST_BYTES, GAP_BYTES, SEQUENTIAL_AFTER_BYTES};

/// One open file's reads.
#[derive(Default)]
pub(crate) struct ReadAhead {
    /// Where the reader would go on.
    next: u64,
    /// Bytes read since it last jumped.
    run: u64,
    /// What has been asked for already ends here.
    led_to: u64,
    lead: u64,
}

impl ReadAhead {
    /// Notes a read, and gives the range to fetch beyond it: empty for most reads.
    pub fn note(&mut self, read: &Range<u64>, blob_bytes: u64) -> Range<u64> {
        // Parts of one large read may come in any order.
        let goes_on = read.start + GAP_BYTES >= self.next && read.start <= self.next + GAP_BYTES;
        if goes_on && self.run > 0 {
            self.run += read.end - read.start;
            self.next = self.next.max(read.end);
        } else {
            *self = Self { next: read.end, run: read.end - read.start, led_to: read.end, lead: 0 };
        }
        if self.run < SEQUENTIAL_AFTER_BYTES {
            return read.end..read.end;
        }
        let from = self.led_to.max(self.next);
        if from > self.next + self.lead / 2 {
            return read.end..read.end;
        }
        self.lead = (self.lead * 2).clamp(AHEAD_FIRST_BYTES, AHEAD_LONGEST_BYTES);
        self.led_to = (self.next + self.lead).min(blob_bytes).max(from);
        from..self.led_to
    }

    /// Only so much of the last range was asked for.
    pub fn cut(&mut self, led_to: u64) {
        self.led_to = self.led_to.min(led_to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const PIECE: u64 = 128 << 10;

    /// Reads a range in pieces; gives what was fetched ahead, in order.
    fn run(ahead: &mut ReadAhead, range: Range<u64>, blob: u64) -> Vec<Range<u64>> {
        let pieces = (range.start..range.end).step_by(PIECE as usize);
        let fetched = pieces.map(|at| ahead.note(&(at..at + PIECE), blob));
        fetched.filter(|range| !range.is_empty()).collect()
    }

    #[test]
    fn a_point_query_is_not_led() {
        let mut ahead = ReadAhead::default();
        for at in [700 * MIB, 3 * MIB, 500 * MIB] {
            assert!(run(&mut ahead, at..at + 2 * PIECE, 1000 * MIB).is_empty());
        }
    }

    #[test]
    fn a_scan_is_led_without_gaps_by_growing_steps() {
        let mut ahead = ReadAhead::default();
        let fetched = run(&mut ahead, 0..300 * MIB, 1000 * MIB);
        assert!(fetched.windows(2).all(|pair| pair[0].end == pair[1].start), "{fetched:?}");
        assert!(fetched[0].start < MIB && fetched[0].end >= AHEAD_FIRST_BYTES, "{fetched:?}");
        let longest = fetched.iter().map(|range| range.end - range.start).max().expect("some");
        assert!((AHEAD_LONGEST_BYTES / 2..=AHEAD_LONGEST_BYTES).contains(&longest), "{longest}");
        assert!(fetched.last().expect("some").end >= 300 * MIB);
    }

    #[test]
    fn a_lead_ends_with_the_blob() {
        let mut ahead = ReadAhead::default();
        let fetched = run(&mut ahead, 0..6 * MIB, 6 * MIB);
        assert_eq!(fetched.last().map(|range| range.end), Some(6 * MIB));
        assert_eq!(fetched.len(), 1);
    }

    #[test]
    fn left_out_granules_do_not_end_a_scan_and_a_jump_does() {
        let mut ahead = ReadAhead::default();
        run(&mut ahead, 0..2 * MIB, 1000 * MIB);
        assert!(ahead.run >= 2 * MIB);
        ahead.note(&(2 * MIB + PIECE..2 * MIB + 2 * PIECE), 1000 * MIB);
        assert!(ahead.run > 2 * MIB);
        ahead.note(&(500 * MIB..500 * MIB + PIECE), 1000 * MIB);
        assert_eq!(ahead.run, PIECE);
    }
}
