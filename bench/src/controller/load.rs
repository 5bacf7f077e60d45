//! Closed-loop load: each worker does one thing after the other for a while.

use std::time::{Duration, Instant};

use futures::future::try_join_all;

use crate::error::BenchError;

pub trait Worker: Send + 'static {
    /// One unit of work, from asking to the answer.
    fn work(&mut self) -> impl Future<Output = Result<(), BenchError>> + Send;
}

pub struct Load<W>(Vec<W>);

/// What came of a while of load.
pub struct Outcome {
    pub per_second: f64,
    /// Of each unit, sorted.
    latencies_ms: Vec<f64>,
}

impl Outcome {
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        percentile(&self.latencies_ms, percent)
    }
}

/// Of sorted numbers: the smallest that `percent` of them do not exceed. 0 for none.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

impl<W: Worker> Load<W> {
    pub fn new(workers: Vec<W>) -> Self {
        Self(workers)
    }

    /// All workers side by side for `time`; what is under way then is finished and counted.
    pub async fn run(&mut self, time: Duration) -> Result<Outcome, BenchError> {
        let started = Instant::now();
        let work = std::mem::take(&mut self.0).into_iter().map(|mut worker| {
            tokio::spawn(async move {
                let mut latencies_ms = Vec::new();
                while started.elapsed() < time {
                    let began = Instant::now();
                    worker.work().await?;
                    latencies_ms.push(began.elapsed().as_secs_f64() * 1e3);
                }
                Ok::<_, BenchError>((worker, latencies_ms))
            })
        });
        let ended = try_join_all(work).await.map_err(|error| BenchError::Unexpected(error.to_string()))?;
        let took = started.elapsed().as_secs_f64();
        let mut latencies_ms = Vec::new();
        for outcome in ended {
            let (worker, of_worker) = outcome?;
            self.0.push(worker);
            latencies_ms.extend(of_worker);
        }
        latencies_ms.sort_by(f64::total_cmp);
        Ok(Outcome { per_second: latencies_ms.len() as f64 / took, latencies_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_one_of_the_numbers() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (percentile(&hundred, 50.0), percentile(&hundred, 99.0), percentile(&hundred, 100.0)),
            (50.0, 99.0, 100.0)
        );
        assert_eq!((percentile(&[7.0], 1.0), percentile(&[], 50.0)), (7.0, 0.0));
    }
}
