//! Few numbers, told honestly: the median, and how far the others lie from it.

use serde::Serialize;

/// What one contender took or had, a number a round, in the order of the rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Samples(Vec<f64>);

/// What the rounds say together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Median of the distances from the median.
    pub mad: f64,
    pub rounds: usize,
}

impl Samples {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Something that was counted, once.
    pub fn of(sample: f64) -> Self {
        Self(vec![sample])
    }

    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Round by round: `self` as a multiple of `base`. Rounds alternate between the contenders, so a machine that becomes
    /// slower over the minutes slows both and leaves the quotient.
    pub fn over(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// None without a sample.
    pub fn summary(&self) -> Option<Summary> {
        let median_of = |numbers: &[f64]| {
            let mut sorted = numbers.to_vec();
            sorted.sort_by(f64::total_cmp);
            let middle = sorted.len() / 2;
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
        };
        if self.0.is_empty() {
            return None;
        }
        let median = median_of(&self.0);
        let distances: Vec<f64> = self.0.iter().map(|sample| (sample - median).abs()).collect();
        Some(Summary {
            median,
            min: self.0.iter().copied().fold(f64::INFINITY, f64::min),
            max: self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mad: median_of(&distances),
            rounds: self.0.len(),
        })
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_spread() {
        let samples: Samples = [5.0, 1.0, 2.0, 100.0].into_iter().collect();
        let expected = Summary { median: 3.5, min: 1.0, max: 100.0, mad: 2.0, rounds: 4 };
        assert_eq!(samples.summary(), Some(expected));
        assert_eq!(Samples::new().summary(), None);
    }

    #[test]
    fn a_machine_that_slows_down_leaves_the_quotient() {
        let slowing = [1.0, 2.0, 4.0];
        let base: Samples = slowing.into_iter().collect();
        let ours: Samples = slowing.into_iter().map(|time| time * 1.1).collect();
        let summary = ours.over(&base).summary().expect("samples");
        assert!((summary.median - 1.1).abs() < 1e-9 && summary.mad < 1e-9, "{summary:?}");
    }
}
