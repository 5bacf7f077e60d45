//! What readers wait for: a snapshot of a large table shard, and a commit to reach all who follow the changelog.

use std::time::{Duration, Instant};

use futures::StreamExt;
use moorhouse_proto::WatchChangelogRequest;
use tokio::sync::mpsc;

use super::load::{Worker, percentile};
use super::million::{Million, snapshot};
use super::process::{Agent, Controller};
use super::scale::Scale;
use crate::error::BenchError;
use crate::report::Recorder;
use crate::stats::Samples;

pub const FIGURES: &[&str] = &["snapshot_100k_first", "snapshot_100k", "fan_out_200_p50", "fan_out_200_p99"];

/// Between two commits that are followed, so that one does not wait for the other.
const PAUSE: Duration = Duration::from_millis(25);
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn run(
    controller: &Controller,
    scale: &Scale,
    million: &Million,
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    let mut first = Samples::new();
    let mut later = Samples::new();
    let large = million.large().at;
    for round in 0..=scale.rounds {
        let began = Instant::now();
        snapshot(controller.client()?, large).await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        if round == 0 { first.push(took) } else { later.push(took) }
    }
    recorder.value("snapshot_100k_first", &first);
    recorder.value("snapshot_100k", &later);
    fan_out(controller, scale, million, recorder).await
}

/// From sending a commit to each reader's having it.
async fn fan_out(
    controller: &Controller,
    scale: &Scale,
    million: &Million,
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    let seat = &million.seats[0];
    let (heard, mut all_heard) = mpsc::channel(scale.readers * 2);
    let mut readers = Vec::new();
    for number in 0..scale.readers {
        let mut client = controller.client()?;
        let request = WatchChangelogRequest { node: format!("reader-{number}") };
        let stream = client.watch_changelog(request).await;
        let mut stream = stream.map_err(|status| BenchError::Unexpected(status.message().to_owned()))?.into_inner();
        let heard = heard.clone();
        readers.push(tokio::spawn(async move {
            while let Some(Ok(update)) = stream.next().await {
                if heard.send((update.version, Instant::now())).await.is_err() {
                    return;
                }
            }
        }));
    }
    let mut agent = Agent::new(controller.client()?, seat.clone())?;
    // The connection is made.
    agent.work().await?;
    drain(&mut all_heard, scale.readers).await?;
    let [mut p50, mut p99] = std::array::from_fn(|_| Samples::new());
    for _ in 0..scale.rounds {
        let mut latencies = Vec::new();
        for _ in 0..scale.followed_commits {
            let sent = Instant::now();
            agent.work().await?;
            let arrived = drain(&mut all_heard, scale.readers).await?;
            latencies.extend(arrived.into_iter().map(|at| at.duration_since(sent).as_secs_f64() * 1e3));
            tokio::time::sleep(PAUSE).await;
        }
        latencies.sort_by(f64::total_cmp);
        p50.push(percentile(&latencies, 50.0));
        p99.push(percentile(&latencies, 99.0));
    }
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    recorder.value("fan_out_200_p50", &p50);
    recorder.value("fan_out_200_p99", &p99);
    Ok(())
}

/// The times at which all readers had the one commit that is under way.
async fn drain(heard: &mut mpsc::Receiver<(u64, Instant)>, readers: usize) -> Result<Vec<Instant>, BenchError> {
    let mut arrived = Vec::with_capacity(readers);
    while arrived.len() < readers {
        match tokio::time::timeout(PATIENCE, heard.recv()).await {
            Ok(Some((_, at))) => arrived.push(at),
            Ok(None) | Err(_) => {
                let text = format!("{} of {readers} readers have not heard of a commit", readers - arrived.len());
                return Err(BenchError::Unexpected(text));
            }
        }
    }
    Ok(arrived)
}
